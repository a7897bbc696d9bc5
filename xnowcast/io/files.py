"""Bytes in, one clear error out: what every reader needs before it can look at its own format."""

import gzip
import importlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

Decoded = TypeVar("Decoded")
Paths = str | os.PathLike | Iterable[str | os.PathLike]


def extra(name: str) -> ModuleType:
    """Import an optional library, or say how to get it.

    Parameters
    ----------
    name : str
        Module name, for example ``"h5py"`` or ``"PIL.Image"``.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If the library is not installed; the message names the extra that brings it.

    Examples
    --------
    >>> extra("math").floor(2.5)
    2
    >>> extra("no_such_library")
    Traceback (most recent call last):
    ImportError: reading this file needs no_such_library, which is not installed: pip install 'xnowcast[io]'
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        library = name.partition(".")[0]
        raise ImportError(
            f"reading this file needs {library}, which is not installed: pip install 'xnowcast[io]'"
        ) from None


def path_list(paths: Paths) -> list[Path]:
    """List of existing files out of one path or several.

    Parameters
    ----------
    paths : path or iterable of paths

    Returns
    -------
    list of pathlib.Path
        At least one; in the order given.

    Raises
    ------
    ValueError
        If the list is empty or a path is a folder.
    FileNotFoundError
        If a path does not exist.

    Examples
    --------
    >>> path_list([])
    Traceback (most recent call last):
    ValueError: no files given: one path or a list of at least one is needed
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise ValueError("no files given: one path or a list of at least one is needed")
    found = [Path(path) for path in given]
    for path in found:
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the files in it, for example sorted(folder.glob('*'))")
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
    return found


def raw_bytes(path: Path) -> bytes:
    """Content of a file, gunzipped if it is gzip (seen by its first bytes, not by its name).

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    bytes

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "echo"
    >>> _ = path.write_bytes(gzip.compress(b"rain"))
    >>> raw_bytes(path)
    b'rain'
    """
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def decode(path: Path, product: str, reader: Callable[[bytes], Decoded]) -> Decoded:
    """What ``reader`` makes of the content of ``path``; any failure becomes one ValueError.

    Parameters
    ----------
    path : pathlib.Path
    product : str
        What the file should be, for the message.
    reader : callable
        Takes the (gunzipped) bytes.

    Returns
    -------
    object
        Whatever ``reader`` returns.

    Raises
    ------
    ValueError
        If the file is truncated, corrupt or of another kind; the message has the path and the cause.
    ImportError
        If an optional library is absent.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "echo.txt"
    >>> _ = path.write_bytes(b"two")
    >>> decode(path, "number", int)
    Traceback (most recent call last):
    ValueError: ...echo.txt cannot be read as number: invalid literal for int() with base 10: b'two'
    """
    try:
        return reader(raw_bytes(path))
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        # A damaged file fails anywhere inside zlib, Pillow or HDF5, with a dozen kinds of exception. To the
        # user all of them mean the same, and the traceback from the depths helps nobody.
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"{reason} is missing in the file"
        raise ValueError(f"{path} cannot be read as {product}: {reason}") from None
