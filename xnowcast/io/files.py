"""Bytes in, one clear error out: what every reader needs before it can look at its own format."""

import bz2
import gzip
import importlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from glob import glob
from pathlib import Path
from types import ModuleType
from typing import IO, TypeVar

from xnowcast.terminal import printable

Decoded = TypeVar("Decoded")
Paths = str | os.PathLike | Iterable[str | os.PathLike]

GZIP, BZIP2 = b"\x1f\x8b", b"BZh"
MIB = 2**20
# A packed file of a few bytes can unpack to any size. The largest pictures of weather services have 50 MB, the largest
# members of their archives 4 MB, and a year of five-minute composites 200 GB.
MOST_UNPACKED = 256 * MIB
MOST_MEMBER = 16 * MIB
MOST_ARCHIVE = 2**20 * MIB
LONGEST_MESSAGE = 1000


def extra(name: str) -> ModuleType:
    """Import an optional library, such as ``"PIL.Image"``, or say in an ImportError which extra brings it.

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
    """The existing files of a path, a glob pattern (``**`` for any folders), or several of them, in the order given.

    ValueError if there are none or one is a folder, FileNotFoundError if a path or pattern leads nowhere.

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


def raw_bytes(path: Path, most: int | None = None) -> bytes:
    """Content of a file, unpacked if it is gzip or bzip2 (by its first bytes, not its name); ``most`` bytes at most.

    ValueError if all is wanted of a packed file that unpacks to more than ``MOST_UNPACKED``.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "echo"
    >>> _ = path.write_bytes(gzip.compress(b"rain"))
    >>> raw_bytes(path), raw_bytes(path, 2)
    (b'rain', b'ra')
    """
    with path.open("rb") as packed, unpacked(packed) as file:
        if file is packed or most is not None:
            return file.read(-1 if most is None else most)
        return _no_more_than(file, MOST_UNPACKED)


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """A file that reads unpacked what another one, at its start, holds as gzip or bzip2; else that one itself."""
    start = file.read(3)
    file.seek(0)
    if start.startswith(GZIP):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    return bz2.BZ2File(file) if start == BZIP2 else file  # type: ignore[return-value]


def _no_more_than(file: IO[bytes], most: int) -> bytes:
    content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it unpacks to more than {most // MIB} MiB, which no file of this kind does")
    return content


def is_packed(path: Path) -> bool:
    """Whether a file is gzip or bzip2, by its first bytes."""
    with path.open("rb") as file:
        return file.read(3).startswith((GZIP, BZIP2))


def beside(path: Path, pattern: str) -> list[Path]:
    """Files whose name fits a pattern, in the folder of ``path`` and the four above it; the nearest first."""
    return [file for folder in path.absolute().parents[:5] for file in sorted(folder.glob(pattern)) if file.is_file()]


def is_archive(content: bytes) -> bool:
    """Whether unpacked content, of which 512 bytes suffice, is a tar archive."""
    return content[257:262] == b"ustar"


def archived(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a tar archive, packed or not; the contents as they lie there, packed too.

    ValueError if the archive is damaged, holds no files, or one of more than ``MOST_MEMBER``.
    """
    empty = True
    try:
        with (
            path.open("rb") as packed,
            unpacked(packed) as file,
            tarfile.open(fileobj=_Bounded(file), mode="r:") as archive,  # type: ignore[call-overload]
        ):
            for member in archive:
                if member.isfile() and (content := archive.extractfile(member)) is not None:
                    _refuse_huge(member.size)
                    empty = False
                    yield printable(member.name), content.read()
    except tarfile.TarError as error:
        raise ValueError(f"the archive is damaged ({error})") from None
    if empty:
        raise ValueError("the archive holds no files")


class _Bounded:
    """A file of which nobody reads more than a member of an archive at once, nor without end."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.tell = file.tell

    def seek(self, to: int, whence: int = 0) -> int:
        if whence == 0 and to > MOST_ARCHIVE:
            raise ValueError(f"the archive goes on behind {MOST_ARCHIVE // MIB} MiB, which none of this kind does")
        return self._file.seek(to, whence)

    def read(self, size: int) -> bytes:
        _refuse_huge(size)
        return self._file.read(size)


def _refuse_huge(size: int) -> None:
    if size > MOST_MEMBER:
        raise ValueError(f"the archive holds a file of {size} bytes; no composite has more than {MOST_MEMBER}")


def unpack(content: bytes, most: int) -> bytes:
    """The first bytes of a packed content, or of one that is not packed.

    >>> unpack(bz2.compress(b"rain"), 2), unpack(b"rain", 2)
    (b'ra', b'ra')
    """
    return unpacked(io.BytesIO(content)).read(most)


def decode(path: Path, product: str, reader: Callable[[bytes], Decoded], most: int | None = None) -> Decoded:
    """What ``reader`` makes of the unpacked content of ``path``, or of its first ``most`` bytes; fails as `blame`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "echo.txt"
    >>> _ = path.write_bytes(b"two")
    >>> decode(path, "number", int)
    Traceback (most recent call last):
    ValueError: ...echo.txt cannot be read as number: invalid literal for int() with base 10: b'two'
    """
    return blame(path, product, lambda: reader(raw_bytes(path, most)))


def blame(path: Path, product: str, work: Callable[[], Decoded]) -> Decoded:
    """What ``work`` returns; any failure becomes one ValueError that names the file, what it should be, and the cause.

    Only a library that is absent is an ImportError.
    """
    try:
        return work()
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        # A damaged file fails anywhere inside zlib, Pillow or HDF5, with a dozen kinds of exception. To the
        # user all of them mean the same, and the traceback from the depths helps nobody.
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        if len(reason) > LONGEST_MESSAGE:
            reason = reason[:LONGEST_MESSAGE] + " ..."
        if isinstance(error, KeyError):
            reason = f"{reason} is missing in the file"
        raise ValueError(f"{printable(str(path))} cannot be read as {product}: {reason}") from None
