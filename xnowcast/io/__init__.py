"""Readers of radar and model products: ``open_x(path or paths)`` gives a CF-1.10 dataset. One file per product."""

from typing import Any

import xarray as xr

from xnowcast.io.files import Paths, path_list
from xnowcast.io.mlcast import open_mlcast
from xnowcast.io.recognise import READERS, product, reader

# The readers: one line each, in the order in which they are asked whether a file is theirs.
# isort: off
from xnowcast.io.fmi_pgm import open_fmi_pgm as open_fmi_pgm
from xnowcast.io.mch_gif import open_mch_gif as open_mch_gif
from xnowcast.io.knmi_hdf5 import open_knmi_hdf5 as open_knmi_hdf5
from xnowcast.io.odim import open_odim as open_odim
from xnowcast.io.radolan import open_radolan as open_radolan
from xnowcast.io.mrms import open_mrms as open_mrms
from xnowcast.io.meteonet import open_meteonet as open_meteonet, open_meteonet_model as open_meteonet_model
from xnowcast.io.sevir import open_sevir as open_sevir
from xnowcast.io.hko7 import open_hko7 as open_hko7
# isort: on

__all__ = ["open_mlcast", "open_radar", "product", "reader"]
__all__ += [one.read.__name__ for one in READERS.values()]


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
    return READERS[first].read(files, **options)
