"""What a file is, by its content and not by its name: each reader says what its files begin with or hold."""

import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import xarray as xr

from xnowcast.io.files import archived, blame, is_archive, raw_bytes, unpack
from xnowcast.io.hdf5 import opened

START = 4096
Container = Literal["bytes", "hdf5", "zip"]
CONTAINERS: dict[bytes, tuple[Container, Callable[[Path], AbstractContextManager[Any]]]] = {
    b"\x89HDF\r\n\x1a\n": ("hdf5", opened),
    b"PK\x03\x04": ("zip", zipfile.ZipFile),
}
Open = TypeVar("Open", bound=Callable[..., xr.Dataset])


@dataclass(frozen=True)
class Reader:
    """A product: its name, whether an opened file is of it, and the function that opens its files."""

    name: str
    recognises: Callable[[Any], bool]
    read: Callable[..., xr.Dataset]
    container: Container


READERS: dict[str, Reader] = {}
"""Name of the product to its reader, in the order in which they are asked."""


def reader(name: str, recognises: Callable[[Any], bool], container: Container = "bytes") -> Callable[[Open], Open]:
    """Make a function the reader of a product, which `open_radar` and all that opens files then know.

    Parameters
    ----------
    name : str
        Of the product, for messages.
    recognises : callable
        Whether a file is of the product. It is given what ``container`` says; where it fails, the file is damaged.
    container : {"bytes", "hdf5", "zip"}
        What the product's files are: any, seen by their first 4096 bytes (unpacked; of an archive those of its first
        member), or HDF5 or zip, opened with h5py or zipfile.

    Returns
    -------
    callable
        Decorator of a function ``(paths, **options)`` that gives a CF dataset, which it leaves as it is.

    Raises
    ------
    ValueError
        If there is another reader of that name already.

    Examples
    --------
    >>> @reader("Example", lambda start: start.startswith(b"EXAMPLE"))
    ... def open_example(paths):
    ...     return xr.Dataset()
    >>> "Example" in READERS
    True
    >>> del READERS["Example"]
    """

    def add(read: Open) -> Open:
        taken = READERS.get(name)
        if taken is not None and _home(taken.read) != _home(read):
            raise ValueError(f"there is a reader of {name!r} already ({_home(taken.read)}); choose another name")
        READERS[name] = Reader(name, recognises, read, container)
        return read

    return add


def _home(read: Callable[..., Any]) -> str:
    return f"{read.__module__}.{read.__qualname__}"


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
    for signature, (container, open_container) in CONTAINERS.items():
        if start.startswith(signature):
            with open_container(path) as file:
                return _among(container, file) or ("NetCDF" if container == "hdf5" and _is_netcdf4(file) else "unknown")
    if is_archive(start):
        start = next((unpack(content, START) for _, content in archived(path)), b"")
    return _among("bytes", start) or ("NetCDF" if start.startswith(b"CDF") else "unknown")


def _among(container: Container, content: Any) -> str | None:
    known = (reader for reader in READERS.values() if reader.container == container)
    return next((reader.name for reader in known if reader.recognises(content)), None)


def _is_netcdf4(file) -> bool:
    """netCDF-4 marks its files, or at least its dimensions."""
    scales = any(b"DIMENSION_SCALE" in bytes(file[name].attrs.get("CLASS", b"")) for name in file)
    return "_NCProperties" in file.attrs or scales
