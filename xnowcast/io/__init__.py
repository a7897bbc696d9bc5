"""Readers of radar and model products: ``open_x(path or paths)`` gives a CF-1.10 dataset. One file per product."""

from collections.abc import Callable
from typing import Any

import xarray as xr

from xnowcast.io.files import Paths, path_list
from xnowcast.io.fmi_pgm import open_fmi_pgm
from xnowcast.io.hko7 import open_hko7
from xnowcast.io.knmi_hdf5 import open_knmi_hdf5
from xnowcast.io.mch_gif import open_mch_gif
from xnowcast.io.meteonet import open_meteonet, open_meteonet_model
from xnowcast.io.mlcast import open_mlcast
from xnowcast.io.mrms import open_mrms
from xnowcast.io.odim import open_odim
from xnowcast.io.radolan import open_radolan
from xnowcast.io.recognise import product
from xnowcast.io.sevir import open_sevir

__all__ = [
    "open_fmi_pgm",
    "open_hko7",
    "open_knmi_hdf5",
    "open_mch_gif",
    "open_meteonet",
    "open_meteonet_model",
    "open_mlcast",
    "open_mrms",
    "open_odim",
    "open_radar",
    "open_radolan",
    "open_sevir",
    "product",
]

READERS: dict[str, Callable[..., xr.Dataset]] = {
    "FMI PGM": open_fmi_pgm,
    "MeteoSwiss GIF": open_mch_gif,
    "KNMI HDF5": open_knmi_hdf5,
    "ODIM HDF5 composite": open_odim,
    "DWD RADOLAN": open_radolan,
    "MRMS GRIB2": open_mrms,
    "MeteoNet radar": open_meteonet,
    "MeteoNet GRIB": open_meteonet_model,
    "SEVIR VIL": open_sevir,
    "HKO-7 PNG": open_hko7,
}


def open_radar(paths: Paths, **options: Any) -> xr.Dataset:
    """Data of any supported product, recognised by content, not by file name.

    Parameters
    ----------
    paths : path, pattern or iterable of them
        Files of one product and one grid, in any order.
    **options
        Of the reader of the product, such as ``quantity=`` or ``event=``.

    Returns
    -------
    xarray.Dataset
        Dims (time, y, x), float32, CF-1.10; see the reader of the product.

    Raises
    ------
    ValueError
        If a file is of no supported product, is damaged, or the files are of different products.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If a library of the extra ``io`` is needed and not installed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> _ = path.write_text("no radar")
    >>> open_radar(path)
    Traceback (most recent call last):
    ValueError: ...note.txt is no supported radar product; supported are FMI PGM, MeteoSwiss GIF, ...
    """
    files = path_list(paths)
    products = {path: product(path) for path in files}
    first = products[files[0]]
    for path, found in products.items():
        if found not in READERS:
            hint = "; open it with xarray.open_dataset" if found == "NetCDF" else ""
            raise ValueError(f"{path} is no supported radar product{hint}; supported are {', '.join(READERS)}")
        if found != first:
            raise ValueError(f"the files are of different products: {files[0]} is {first}, and {path} is {found}")
    return READERS[first](files, **options)
