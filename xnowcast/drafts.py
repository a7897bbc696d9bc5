"""Drafts: what is written where nobody else can reach it, and put in its place once it is whole."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ENDING = ".part"
"""Of the folders that drafts lie in; a killed process may leave one behind."""


@contextmanager
def draft(path: str | os.PathLike, *, overwrite: bool = True) -> Iterator[Path]:
    """A file or folder to be written, which takes its place when the block ends, and never appears when it fails.

    The draft lies in a new folder beside ``path``, whose name nobody knows beforehand and which is open to its owner
    alone, so that no link can wait there for what is written.

    ``path``: where the result shall be. What is there stays until the draft is complete. ``overwrite``: whether what is
    there may be replaced. Returned: with the name of ``path``; nothing is there yet. FileExistsError if something is
    there that may not be replaced.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "notes.txt")
    >>> with draft(path) as new:
    ...     _ = new.write_text("rain")
    ...     path.exists()
    False
    >>> path.read_text(), [entry.name for entry in path.parent.iterdir()]
    ('rain', ['notes.txt'])
    """
    path = Path(path)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=ENDING, dir=path.parent))
    try:
        new = folder / path.name
        yield new
        if new.is_dir():
            _place_folder(new, path, overwrite)
        else:
            _place_file(new, path, overwrite)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place_file(new: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(new, path)
        return
    try:
        os.link(new, path)  # unlike a renaming it never replaces what came meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(new, path)


def _place_folder(new: Path, path: Path, overwrite: bool) -> None:
    """Rename the old folder aside and the new one in, as often as another writer is faster."""
    aside = 0
    while True:
        try:
            os.rename(new, path)  # onto nothing, or onto an empty folder
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            if not overwrite:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        aside += 1
        with suppress(FileNotFoundError):
            os.rename(path, new.with_name(f"replaced-{aside}"))


def remove_leftovers(path: Path) -> None:
    """Remove the drafts of ``path`` that killed processes have left."""
    name = re.compile(rf"\.{re.escape(path.name[:100])}\.\w+{re.escape(ENDING)}")
    for left in path.parent.iterdir():
        if name.fullmatch(left.name):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
