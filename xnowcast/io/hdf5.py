"""HDF5 as weather services write it: attributes as plain Python, and arrays that are as large as they say."""

import io
import itertools
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from xnowcast.io.files import MOST_UNPACKED, extra, is_packed, raw_bytes
from xnowcast.io.grid import refuse_huge
from xnowcast.terminal import printable

DEFLATE = 1
MOST_DEFLATED = 1032  # bytes that deflate can make of one at the most


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file, read where it lies, or from memory where it is packed."""
    source = io.BytesIO(raw_bytes(path)) if is_packed(path) else path
    with extra("h5py").File(source, "r") as file:
        yield file


def text(value) -> str:
    """Text of an attribute, without padding.

    >>> text(np.array([b"KM,KM "]))
    'KM,KM'
    """
    value = np.asarray(value).reshape(-1)[0]
    return printable((value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip("\0 "))


def number(value) -> float:
    """Number of an attribute.

    >>> number(np.array([3650.0]))
    3650.0
    """
    return float(np.asarray(value).reshape(-1)[0])


def moment(day, clock) -> datetime:
    """Time of two attributes, a date (YYYYMMDD) and a time of day (HHMMSS, or HHMM), also with hyphens, colons and a Z.

    Numbers have lost their zeros in front: such a time is taken if it can be read in one way only.

    >>> print(moment(b"20240601", b"1235"), moment("2024-06-01", "12:35:40.5Z"))
    2024-06-01 12:35:00 2024-06-01 12:35:40
    """
    date = re.fullmatch(r"(\d{4})-?(\d{2})-?(\d{2})", _digits(day))
    digits = re.sub(r"(\.\d*)?Z?$", "", _digits(clock)).replace(":", "")
    of_number = np.asarray(clock).dtype.kind in "iuf"
    seconds = digits.zfill(4) + "00" if of_number or len(digits) == 4 else digits
    filled = {seconds, digits.zfill(6)} if of_number else {seconds}
    found = [digits for digits in filled if re.fullmatch(r"([01]\d|2[0-3])[0-5]\d[0-5]\d", digits)]
    if date is None or len(found) != 1:
        could = "could be two" if len(found) > 1 else "is none"
        raise ValueError(f"its time {text(day)!r}, {text(clock)!r} {could}; write it as YYYYMMDD, HHMMSS")
    return datetime.strptime("".join(date.groups()) + found[0], "%Y%m%d%H%M%S")


def _digits(value) -> str:
    """Digits of an attribute, also where it is a number."""
    value = np.asarray(value).reshape(-1)[0]
    return f"{value:.0f}" if isinstance(value, np.integer | np.floating) and value % 1 == 0 else text(value)


def check_array(array, file, dims: int = 2) -> None:
    """Refuse an array that is no plain one of numbers in ``file``, or of more of them than a picture has.

    A picture lies in all but the first of more than two dims.
    """
    if array.ndim != dims or array.dtype.kind not in "iuf":
        raise ValueError(f"{array.name} is {array.dtype} of shape {array.shape}; numbers in {dims} dims are expected")
    if array.file != file or array.is_virtual or array.external:
        raise ValueError(f"{array.name} lies in another file; it must be in the file itself")
    refuse_huge(array.shape if dims == 2 else array.shape[1:])
    _piece(array)


def _piece(array) -> int:
    """Bytes of a piece that the array is stored in; 0 where it is stored whole."""
    size = math.prod(array.chunks or (0,)) * array.dtype.itemsize
    if size > MOST_UNPACKED:
        raise ValueError(f"{array.name} is stored in pieces of {array.chunks}, which no file of this kind is")
    return size


def picture(array, key: tuple = ()) -> np.ndarray:
    """Numbers of an array that was checked, or of one place along its first dim, read in no more memory than they need.

    HDF5 unpacks a piece whole before it looks at it: one that unpacks to more than its size is a ValueError.
    """
    if size := _piece(array):
        _check_pieces(array, size, key[0] if key else None)
    return array[key]


def _check_pieces(array, size: int, first: int | None) -> None:
    settings = array.id.get_create_plist()
    filters = [settings.get_filter(number)[0] for number in range(settings.get_nfilters())]
    if len(set(filters)) < len(filters):
        raise ValueError(f"{array.name} is packed more than once")
    if DEFLATE not in filters or array.id.get_storage_size() * MOST_DEFLATED <= MOST_UNPACKED:
        return
    starts = [range(0, length, step) for length, step in zip(array.shape, array.chunks, strict=True)]
    if first is not None:
        starts[0] = starts[0][first // array.chunks[0] :][:1]
    for start in itertools.product(*starts):
        piece = array.id.get_chunk_info_by_coord(start)
        as_it_is = piece.filter_mask >> filters.index(DEFLATE) & 1  # what does not shrink is not deflated
        if piece.size * MOST_DEFLATED > MOST_UNPACKED and not as_it_is:
            _, content = array.id.read_direct_chunk(start)
            if len(zlib.decompressobj().decompress(content, size + 1)) > size:
                raise ValueError(f"a piece of {array.name} unpacks to more than the {size} bytes that it should have")
