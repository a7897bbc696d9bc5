"""What a file is, by its content and not by its name."""

import bz2
import gzip
import io
import tarfile
import zipfile
from pathlib import Path

from xnowcast.io import radolan
from xnowcast.io.files import BZIP2, GZIP, blame, extra, is_archive, is_packed, raw_bytes

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
    source = io.BytesIO(raw_bytes(path)) if is_packed(path) else path
    with extra("h5py").File(source, "r") as file:
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
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                start = file.read(3)
                file.seek(0)
                packed = gzip.open if start.startswith(GZIP) else bz2.open if start == BZIP2 else None
                return packed(file, "rb").read(START) if packed else file.read(START)
    return b""
