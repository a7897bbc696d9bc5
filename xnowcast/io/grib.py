"""GRIB messages, decoded by ecCodes: their keys, grid and values."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from xnowcast.io.files import extra
from xnowcast.io.grid import LatLonGrid, refuse_huge

# ecCodes may be built without threads, and Dask reads in several.
_ONE_AT_A_TIME = threading.Lock()


def split(content: bytes) -> list[bytes]:
    """Messages of a GRIB file (edition 1 or 2), one after another; ValueError if it has none, or the last is cut off.

    >>> split(b"no messages here")
    Traceback (most recent call last):
    ValueError: it does not start with a GRIB message, but with b'no messages here'
    """
    if not content.startswith(b"GRIB"):
        raise ValueError(f"it does not start with a GRIB message, but with {content[:16]!r}")
    messages: list[bytes] = []
    at = 0
    while (at := content.find(b"GRIB", at)) >= 0:
        two = content[at + 7 : at + 8] == b"\x02"
        length = int.from_bytes(content[at + 8 : at + 16] if two else content[at + 4 : at + 7])
        message = content[at : at + length]
        if len(message) != length or not message.endswith(b"7777"):
            raise ValueError(
                f"its message {len(messages) + 1} should have {length} bytes, of which {len(message)} are there"
            )
        messages.append(message)
        at += length
    return messages


class Message:
    """A GRIB message whose keys and values can be asked for.

    ``content``: of one message.
    """

    def __init__(self, content: bytes):
        self._eccodes = extra("eccodes")
        self._handle = self._eccodes.codes_new_from_message(content)

    def __getitem__(self, key: str) -> Any:
        return self._eccodes.codes_get(self._handle, key)

    def number(self, key: str) -> int:
        """A key as a whole number, also where it reads as text, such as a step of "60m"."""
        return self._eccodes.codes_get(self._handle, key, ktype=int)

    def grid(self) -> LatLonGrid:
        """Rows and columns as they are stored; longitudes from -180 on.

        ValueError if it is another grid than one of regular latitudes and longitudes, stored row by row, or a huge one.
        """
        if self["gridType"] != "regular_ll" or self["jPointsAreConsecutive"] or self["alternativeRowScanning"]:
            raise ValueError(f"its grid is {self['gridType']!r}; regular_ll, row by row, is what this reader knows")
        refuse_huge((self["Nj"], self["Ni"]))
        lat = self._axis("latitude", "j", "Nj", 1 if self["jScansPositively"] else -1)
        lon = self._axis("longitude", "i", "Ni", -1 if self["iScansNegatively"] else 1)
        if lon.min() >= 180:
            lon = (lon - 360).round(6)
        return LatLonGrid(tuple(lat.tolist()), tuple(lon.tolist()))

    def _axis(self, name: str, letter: str, count: str, sign: int) -> np.ndarray:
        first, step = self[f"{name}OfFirstGridPointInDegrees"], self[f"{letter}DirectionIncrementInDegrees"]
        return (first + sign * step * np.arange(self[count])).round(6)

    def values(self) -> np.ndarray:
        """Values, float32 of shape (rows, columns); NaN where the message has none."""
        refuse_huge((self["Nj"], self["Ni"]))  # a message of 100 bytes can announce any number of equal values
        self._eccodes.codes_set(self._handle, "missingValue", -1e30)
        values = self._eccodes.codes_get_values(self._handle).reshape(self["Nj"], self["Ni"])
        return np.where(values == -1e30, np.nan, values).astype(np.float32)

    def time(self) -> np.datetime64:
        """Reference time: of an observation its time, of a forecast when it was made."""
        day, hour, minute, second = (self.number(key) for key in ("dataDate", "hour", "minute", "second"))
        date = f"{day // 10000:04d}-{day // 100 % 100:02d}-{day % 100:02d}"
        return np.datetime64(f"{date}T{hour:02d}:{minute:02d}:{second:02d}", "ns")

    def close(self) -> None:
        """Free the memory of ecCodes."""
        self._eccodes.codes_release(self._handle)


@contextmanager
def message(content: bytes) -> Iterator[Message]:
    """A message to be looked into, for one thread at a time."""
    with _ONE_AT_A_TIME:
        opened = Message(content)
        try:
            yield opened
        finally:
            opened.close()
