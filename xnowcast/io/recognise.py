"""What a file is, by its content and not by its name."""

import zipfile
from pathlib import Path

from xnowcast.io import radolan
from xnowcast.io.files import archived, blame, is_archive, raw_bytes, unpack
from xnowcast.io.hdf5 import opened

START = 4096
HDF5 = b"\x89HDF\r\n\x1a\n"
PNG = b"\x89PNG\r\n\x1a\n"
METEO_FRANCE = (b"\x54", b"\x55")
MRMS_DISCIPLINE = 209


def product(path: Path) -> str:
    """Name of the product that a file is of, a key of ``xnowcast.io.READERS``; else "NetCDF" or "unknown".

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the file is damaged.
    ImportError
        If it is HDF5 and h5py is not installed.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note.txt"
    >>> _ = path.write_text("no radar")
    >>> product(path)
    'unknown'
    """
    return blame(path, "radar product", lambda: _product(path))


def _product(path: Path) -> str:
    start = raw_bytes(path, START)
    if start.startswith(HDF5):
        return _of_hdf5(path)
    if start.startswith(b"GRIB"):
        return _of_grib(start)
    if start.startswith(b"PK\x03\x04"):
        return _of_zip(path)
    if is_archive(start):
        start = _first_member(path)
    if radolan.HEADER.match(start):
        return "DWD RADOLAN"
    if start.startswith(b"P5"):
        return "FMI PGM"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "MeteoSwiss GIF"
    # width and height stand after the signature
    if start.startswith(PNG) and start[16:24] == (480).to_bytes(4) * 2:
        return "HKO-7 PNG"
    return "NetCDF" if start.startswith(b"CDF") else "unknown"


def _of_hdf5(path: Path) -> str:
    with opened(path) as file:
        if "what" in file and "object" in file["what"].attrs:
            return "ODIM HDF5 composite"
        if "geographic" in file and "image1" in file:
            return "KNMI HDF5"
        if "vil" in file and "id" in file:
            return "SEVIR VIL"
        # netCDF-4 marks its files, or at least its dimensions
        scales = any(b"DIMENSION_SCALE" in bytes(file[name].attrs.get("CLASS", b"")) for name in file)
        return "NetCDF" if "_NCProperties" in file.attrs or scales else "unknown"


def _of_grib(start: bytes) -> str:
    if start[7:8] == b"\x02":
        return "MRMS GRIB2" if start[6] == MRMS_DISCIPLINE else "unknown"
    return "MeteoNet GRIB" if start[7:8] == b"\x01" and start[12:13] in METEO_FRANCE else "unknown"


def _of_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return "MeteoNet radar" if {"data.npy", "miss_dates.npy"} <= set(archive.namelist()) else "unknown"


def _first_member(path: Path) -> bytes:
    """Start of the first file in an archive, unpacked too."""
    return next((unpack(content, START) for _, content in archived(path)), b"")
