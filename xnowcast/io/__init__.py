"""Readers of raw radar products: ``open_x(path or paths)`` gives a CF-1.10 dataset. One file per product."""

import io
from collections.abc import Callable

import xarray as xr

from xnowcast.io.files import Paths, decode, extra, path_list
from xnowcast.io.fmi_pgm import open_fmi_pgm
from xnowcast.io.knmi_hdf5 import open_knmi_hdf5
from xnowcast.io.mch_gif import open_mch_gif
from xnowcast.io.odim import open_odim

__all__ = ["open_fmi_pgm", "open_knmi_hdf5", "open_mch_gif", "open_odim", "open_radar"]

READERS: dict[str, Callable[[Paths], xr.Dataset]] = {
    "FMI PGM": open_fmi_pgm,
    "MeteoSwiss GIF": open_mch_gif,
    "KNMI HDF5": open_knmi_hdf5,
    "ODIM HDF5 composite": open_odim,
}


def open_radar(paths: Paths) -> xr.Dataset:
    """Radar data of any supported product, recognised by content, not by file name.

    Parameters
    ----------
    paths : path or iterable of paths
        Files of one product and one grid, in any order.

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
    products = {path: decode(path, "radar product", _product) for path in files}
    unknown = [path for path, product in products.items() if product not in READERS]
    if unknown:
        hint = "; open it with xarray.open_dataset" if products[unknown[0]] == "NetCDF" else ""
        supported = ", ".join(READERS)
        raise ValueError(f"{unknown[0]} is no supported radar product{hint}; supported are {supported}")
    if len(set(products.values())) > 1:
        raise ValueError(f"the files are of different products ({', '.join(sorted(set(products.values())))})")
    return READERS[products[files[0]]](files)


def _product(content: bytes) -> str:
    """Name of the product, a key of READERS; otherwise what else it may be."""
    if content.startswith(b"P5"):
        return "FMI PGM"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "MeteoSwiss GIF"
    if content.startswith(b"CDF"):
        return "NetCDF"
    if not content.startswith(b"\x89HDF\r\n\x1a\n"):
        return "unknown"
    with extra("h5py").File(io.BytesIO(content), "r") as file:
        if "what" in file and "object" in file["what"].attrs:
            return "ODIM HDF5 composite"
        if "geographic" in file and "image1" in file:
            return "KNMI HDF5"
        return "NetCDF" if "_NCProperties" in file.attrs else "unknown"
