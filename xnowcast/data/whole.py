"""Whether a file is all there: what its header tells against its size, and whether it is still as it was when opened.

Libraries read a NetCDF file that is cut short as zeros where it ends, and zero is a rain rate.
"""

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

HDF5 = b"\x89HDF\r\n\x1a\n"
NETCDF3 = (b"CDF\x01", b"CDF\x02", b"CDF\x05")

_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
"""Of the types of NetCDF-3, by their numbers in the file."""


def check_whole(path: str | os.PathLike) -> None:
    """Refuse a NetCDF or HDF5 file that ends before the place that its header tells.

    ``path``: of a local file. Formats that do not tell their length are taken as they are. ValueError if the file is
    cut short, for example because it is still being copied. OSError if there is no such file, or it cannot be read.

    >>> import pathlib, tempfile, xarray as xr
    >>> path = pathlib.Path(tempfile.mkdtemp(), "half.nc")
    >>> _ = xr.Dataset({"rain": ("x", [0.0] * 100)}).to_netcdf(path, format="NETCDF3_CLASSIC", engine="scipy")
    >>> check_whole(path)
    >>> _ = path.write_bytes(path.read_bytes()[:-300])
    >>> check_whole(path)
    Traceback (most recent call last):
    ValueError: ...half.nc is cut short: it has ... bytes, and its header tells of ...; is it still being written?
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            declared = _declared_size(file, size)
        except (_CutShort, struct.error):
            raise ValueError(
                f"{path} is cut short: its {size} bytes end within the header; is it still being written?"
            ) from None
    if declared > size:
        raise ValueError(
            f"{path} is cut short: it has {size} bytes, and its header tells of {declared}; is it still being written?"
        )


def is_netcdf(path: str | os.PathLike) -> bool:
    """Whether a file begins as NetCDF or HDF5 does."""
    with open(path, "rb") as file:
        return file.read(8).startswith((HDF5, *NETCDF3))


@dataclass(frozen=True)
class State:
    """What changes when somebody writes to a file or puts another in its place.

    ``size, modified, inode``: all -1 where there is no such file. In another process the inode is None: some file
    systems number their files anew for each that looks.
    """

    size: int
    modified: int
    inode: int | None

    def is_over(self, path: str | os.PathLike) -> bool:
        """Whether the file is in another state now."""
        now = state(path)
        same = (now.size, now.modified) == (self.size, self.modified)
        return not same or self.inode not in (None, now.inode)

    def __reduce__(self) -> tuple[type, tuple[int, int, None]]:
        return State, (self.size, self.modified, None)


def state(path: str | os.PathLike) -> State:
    """What a file is like now.

    >>> state("/nowhere")
    State(size=-1, modified=-1, inode=-1)
    """
    try:
        found = os.stat(path)
    except OSError:
        return State(-1, -1, -1)
    return State(found.st_size, found.st_mtime_ns, found.st_ino)


# ---------------------------------------------------------------- what headers tell


class _CutShort(Exception):
    """The header itself is not all there."""


def _declared_size(file: BinaryIO, size: int) -> int:
    """How long a file must be; 0 where its format does not tell."""
    start = file.read(8)
    if start[:4] in NETCDF3:
        file.seek(4)
        return _Netcdf3Header(file, size, version=start[3]).declared_size()
    place = 0
    while place < size:  # the superblock of HDF5 may follow a block of the user's
        file.seek(place)
        if file.read(8) == HDF5:
            return _end_of_hdf5(file)
        place = 2 * place or 512
    return 0


def _end_of_hdf5(file: BinaryIO) -> int:
    """The address of the end of the file, from the superblock whose signature was just read."""
    version = _exactly(file, 1)[0]
    # how many bytes an address has stands in another place of the older versions
    width = _exactly(file, 15 + 4 * version)[4] if version < 2 else _exactly(file, 3)[0]
    addresses = _exactly(file, 3 * width)  # of the base, of free space or an extension, and of the end
    return int.from_bytes(addresses[2 * width :], "little")


def _exactly(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise _CutShort
    return content


class _Netcdf3Header:
    """Reads the header of the NetCDF classic formats (CDF-1, CDF-2, CDF-5), which follows the magic number."""

    def __init__(self, file: BinaryIO, size: int, version: int):
        self._file, self._size = file, size
        self._count_bytes = 8 if version == 5 else 4
        self._offset_bytes = 4 if version == 1 else 8

    def declared_size(self) -> int:
        records = self._number(self._count_bytes)
        if records == 256**self._count_bytes - 1:  # a stream, whose records nobody counted
            records = 0
        lengths = [self._dimension() for _ in range(self._list())]
        for _ in range(self._list()):
            self._skip_attribute()
        variables = [self._variable(lengths) for _ in range(self._list())]
        ends = [begin + length for begin, length, per_record in variables if not per_record]
        of_records = [(begin, length) for begin, length, per_record in variables if per_record]
        # in a record each variable is padded to four bytes, unless it is the only one
        record = sum(_padded(length) for _, length in of_records) if len(of_records) > 1 else 0
        record = record or sum(length for _, length in of_records)
        ends += [begin + (records - 1) * record + length for begin, length in of_records if records]
        return max(ends, default=0)

    def _list(self) -> int:
        """Number of entries of the list that begins here."""
        self._number(4)  # the tag, 0 where there is none
        return self._number(self._count_bytes)

    def _dimension(self) -> int:
        self._skip_name()
        return self._number(self._count_bytes)

    def _skip_attribute(self) -> None:
        self._skip_name()
        item = _ITEM_BYTES.get(self._number(4), 1)
        self._skip(_padded(item * self._number(self._count_bytes)))

    def _variable(self, lengths: list[int]) -> tuple[int, int, bool]:
        """Where a variable begins, its bytes (in one record), and whether it has records: those have a length of 0."""
        self._skip_name()
        shape = [lengths[self._number(self._count_bytes)] for _ in range(self._number(self._count_bytes))]
        for _ in range(self._list()):
            self._skip_attribute()
        length = _ITEM_BYTES.get(self._number(4), 1)
        self._number(self._count_bytes)  # the size that is written there overflows in large files
        begin = self._number(self._offset_bytes)
        per_record = bool(shape) and shape[0] == 0
        for n in shape[1:] if per_record else shape:
            length *= n
        return begin, length, per_record

    def _skip_name(self) -> None:
        self._skip(_padded(self._number(self._count_bytes)))

    def _number(self, width: int) -> int:
        return int.from_bytes(_exactly(self._file, width), "big")

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise _CutShort
        self._file.seek(count, os.SEEK_CUR)


def _padded(length: int) -> int:
    return -(-length // 4) * 4
