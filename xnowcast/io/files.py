"""Bytes in, one clear error out: what every reader needs before it can look at its own format."""

import bz2
import gzip
import importlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable
from glob import glob
from pathlib import Path
from types import ModuleType
from typing import TypeVar

Decoded = TypeVar("Decoded")
Paths = str | os.PathLike | Iterable[str | os.PathLike]

GZIP, BZIP2 = b"\x1f\x8b", b"BZh"


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
    """List of existing files out of a path, a glob pattern, or several of them.

    Parameters
    ----------
    paths : path, pattern or iterable of them
        ``**`` in a pattern stands for any folders.

    Returns
    -------
    list of pathlib.Path
        At least one; in the order given, those of a pattern sorted.

    Raises
    ------
    ValueError
        If the list is empty or a path is a folder.
    FileNotFoundError
        If a path does not exist or a pattern fits no file.

    Examples
    --------
    >>> path_list([])
    Traceback (most recent call last):
    ValueError: no files given: one path or a list of at least one is needed
    >>> path_list("nowhere/*.h5")
    Traceback (most recent call last):
    FileNotFoundError: no file fits the pattern nowhere/*.h5
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise ValueError("no files given: one path or a list of at least one is needed")
    return [path for entry in given for path in _existing(entry)]


def _existing(entry: str | os.PathLike) -> list[Path]:
    path = Path(entry)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the files in it, for example the pattern '{path}/*'")
    if path.is_file():
        return [path]
    if not any(letter in str(entry) for letter in "*?["):
        raise FileNotFoundError(f"{path} does not exist")
    found = [Path(name) for name in sorted(glob(str(entry), recursive=True)) if Path(name).is_file()]
    if not found:
        raise FileNotFoundError(f"no file fits the pattern {entry}")
    return found


def raw_bytes(path: Path, most: int = -1) -> bytes:
    """Content of a file, unpacked if it is gzip or bzip2 (seen by its first bytes, not by its name).

    Parameters
    ----------
    path : pathlib.Path
    most : int
        Only so many bytes from the start; all by default.

    Returns
    -------
    bytes

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "echo"
    >>> _ = path.write_bytes(gzip.compress(b"rain"))
    >>> raw_bytes(path), raw_bytes(path, 2)
    (b'rain', b'ra')
    """
    with path.open("rb") as file:
        start = file.read(3)
    packed = gzip.open if start.startswith(GZIP) else bz2.open if start == BZIP2 else None
    with packed(path, "rb") if packed else path.open("rb") as file:
        return file.read(most)


def is_packed(path: Path) -> bool:
    """Whether a file is gzip or bzip2, by its first bytes.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    bool
    """
    with path.open("rb") as file:
        return file.read(3).startswith((GZIP, BZIP2))


def beside(path: Path, pattern: str) -> list[Path]:
    """Files that fit a pattern, in the folder of ``path`` and the four above it; the nearest first.

    Parameters
    ----------
    path : pathlib.Path
    pattern : str
        Of a name, without folders.

    Returns
    -------
    list of pathlib.Path
    """
    return [file for folder in path.absolute().parents[:5] for file in sorted(folder.glob(pattern)) if file.is_file()]


def is_archive(content: bytes) -> bool:
    """Whether unpacked content is a tar archive.

    Parameters
    ----------
    content : bytes
        The first 512 bytes suffice.

    Returns
    -------
    bool
    """
    return content[257:262] == b"ustar"


def archived(path: Path) -> list[tuple[str, bytes]]:
    """Names and unpacked contents of the files in a tar archive, packed or not; of any other file, of it alone.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    list of (str, bytes)

    Raises
    ------
    ValueError
        If the archive is damaged or holds no files.
    """
    content = raw_bytes(path)
    if not is_archive(content):
        return [(path.name, content)]
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = [(member.name, archive.extractfile(member)) for member in archive if member.isfile()]
            files = [(name, _unpacked(file.read())) for name, file in members if file is not None]
    except tarfile.TarError as error:
        raise ValueError(f"the archive is damaged ({error})") from None
    if not files:
        raise ValueError("the archive holds no files")
    return files


def _unpacked(content: bytes) -> bytes:
    if content.startswith(GZIP):
        return gzip.decompress(content)
    return bz2.decompress(content) if content.startswith(BZIP2) else content


def decode(path: Path, product: str, reader: Callable[[bytes], Decoded]) -> Decoded:
    """What ``reader`` makes of the content of ``path``; any failure becomes one ValueError.

    Parameters
    ----------
    path : pathlib.Path
    product : str
        What the file should be, for the message.
    reader : callable
        Takes the unpacked bytes.

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
    return blame(path, product, lambda: reader(raw_bytes(path)))


def blame(path: Path, product: str, work: Callable[[], Decoded]) -> Decoded:
    """What ``work`` returns; any failure becomes one ValueError that names the file.

    Parameters
    ----------
    path : pathlib.Path
    product : str
        What the file should be, for the message.
    work : callable
        Without arguments.

    Returns
    -------
    object
        Whatever ``work`` returns.

    Raises
    ------
    ValueError
        If ``work`` fails; the message has the path and the cause.
    ImportError
        If an optional library is absent.
    """
    try:
        return work()
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        # A damaged file fails anywhere inside zlib, Pillow or HDF5, with a dozen kinds of exception. To the
        # user all of them mean the same, and the traceback from the depths helps nobody.
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"{reason} is missing in the file"
        raise ValueError(f"{path} cannot be read as {product}: {reason}") from None
