"""Frames of large archives read in pieces, ahead of need, and kept while there is room."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from xnowcast.training.sequences import Event

Key = tuple[int, int, tuple[int, int]]
"""Event, layer, and first and last frame of what was read at once."""


class Frames:
    """Frames of some events in canonical units, the last used kept in memory up to a number of bytes; for any thread.

    Layer 0 is the rain in mm h-1, the others are the channels.

    Chunks along time are read whole where eight of them fit into the cache, since decoding a part of a chunk costs as
    much; larger ones are read frame by frame. Where not even eight frames fit, only the crop is read and nothing is
    kept.
    """

    def __init__(self, events: Sequence[Event], cache_bytes: int):
        self.events = events
        self.cache_bytes = cache_bytes
        self._kept: OrderedDict[Key, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._starts: dict[tuple[int, int], np.ndarray] = {}

    def _blocks(self, number: int, layer: int) -> np.ndarray:
        """Where the stretches of frames begin that are read at once, and the number of frames."""
        if (number, layer) not in self._starts:
            event = self.events[number]
            chunks = _time_chunks(event, layer)
            whole = max(chunks) * _bytes_of_a_time(event) <= self.cache_bytes / 8
            starts = np.cumsum([0, *chunks]) if whole else np.arange(len(event.axis.times) + 1)
            self._starts[number, layer] = starts
        return self._starts[number, layer]

    def crop(
        self, number: int, positions: np.ndarray, rows: slice, columns: slice, layers: Sequence[int] = (0,)
    ) -> list[np.ndarray]:
        """Layers ``(frame, row, column)`` of one event, north up; NaN where not measured."""
        event = self.events[number]
        rows, columns, turn = _as_stored(event, rows, columns)
        if 8 * _bytes_of_a_time(event) > self.cache_bytes:
            frames = [event.read(int(position), rows, columns, layers) for position in positions]
        else:
            kept = [self._frame(number, int(position), layers) for position in positions]
            frames = [[layer[rows, columns] for layer in frame] for frame in kept]
        return [turn(np.stack(series)) for series in zip(*frames, strict=True)]

    def static(self, number: int, rows: slice, columns: slice) -> np.ndarray | None:
        """The static fields ``(k, row, column)`` of one event, north up; None where there are none."""
        event = self.events[number]
        rows, columns, turn = _as_stored(event, rows, columns)
        return None if event.static is None else turn(event.static[:, rows, columns])

    def _frame(self, number: int, position: int, layers: Sequence[int] = (0,)) -> list[np.ndarray]:
        """Layers of one frame."""
        keys = [(number, layer, self._block(number, position, layer)) for layer in layers]
        found = {}
        with self._lock:
            for key in keys:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    found[key] = self._kept[key]
        if len(found) < len(keys):
            found |= self._fetched([key for key in keys if key not in found])
        return [found[key][position - key[2][0]] for key in keys]

    def _fetched(self, keys: Sequence[Key]) -> dict[Key, np.ndarray]:
        """Blocks that are not kept; layers of the same frames are read together."""
        found = {}
        for block in dict.fromkeys(key[2] for key in keys):
            own = [key for key in keys if key[2] == block]
            first, after = block
            # One frame is asked for by its number: a slice would make Dask read the whole of a large chunk.
            frames = slice(first, after) if after - first > 1 else first
            read = self.events[own[0][0]].read(frames, layers=[layer for _, layer, _ in own])
            for key, values in zip(own, read, strict=True):
                found[key] = values if after - first > 1 else values[None]
                self._keep(key, found[key])
        return found

    def _block(self, number: int, position: int, layer: int) -> tuple[int, int]:
        """The stretch of frames that a frame is read with: its first, and the one after its last."""
        starts = self._blocks(number, layer)
        block = int(np.searchsorted(starts, position, side="right")) - 1
        return int(starts[block]), int(starts[block + 1])

    def _keep(self, key: Key, frames: np.ndarray) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = frames
                self._bytes += frames.nbytes
            while self._bytes > self.cache_bytes and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def require_rain(self) -> None:
        """Refuse data without rain. Looks at frames evenly spread over the data until one is wet.

        ValueError if it rains nowhere, or nothing was measured.
        """
        counts = [len(event.axis.times) for event in self.events]
        frames = np.column_stack([np.repeat(np.arange(len(counts)), counts), np.concatenate([*map(np.arange, counts)])])
        golden = np.argsort((np.arange(len(frames)) * (np.sqrt(5) - 1) / 2) % 1)  # spreads evenly from the first on
        measured = False
        for number, position in frames[golden]:
            (frame,) = self._frame(int(number), int(position))
            if (frame > 0).any():
                return
            measured |= bool(np.isfinite(frame).any())
        frames_named = f"all {len(frames)} frames of {', '.join(event.name for event in self.events[:3])}"
        frames_named += ", ..." if len(self.events) > 3 else ""
        raise ValueError(
            f"there is no rain anywhere: {frames_named} are dry"
            if measured
            else f"nothing was measured: {frames_named} are NaN"
        )


def _bytes_of_a_time(event: Event) -> int:
    """Bytes of all layers of one frame."""
    return 4 * event.grid.shape[0] * event.grid.shape[1] * (1 + len(event.channels))


def _as_stored(event: Event, rows: slice, columns: slice) -> tuple[slice, slice, Callable[[np.ndarray], np.ndarray]]:
    """Rows and columns counted on the north-up grid as they lie in the data, and what turns these north up."""
    (ny, nx), (south_first, east_first) = event.grid.shape, event.grid.turned
    if south_first:
        rows = slice(ny - rows.stop, ny - rows.start)
    if east_first:
        columns = slice(nx - columns.stop, nx - columns.start)
    return rows, columns, lambda fields: fields[:, :: -1 if south_first else 1, :: -1 if east_first else 1]


def _time_chunks(event: Event, layer: int) -> Sequence[int]:
    """Lengths of the stretches of frames that the storage holds together."""
    variable, count = event.layer(layer)[0].variable, len(event.axis.times)
    if variable.chunks is not None:
        return variable.chunks[variable.get_axis_num(event.field.time)]
    size = 1
    if not isinstance(variable._data, np.ndarray):
        size = int((variable.encoding.get("preferred_chunks") or {}).get(event.field.time, 1))
    return [min(size, count - first) for first in range(0, count, size)]


def read_ahead(read: Callable[[int], Any], numbers: Iterable[int], workers: int) -> Iterator[Any]:
    """``read(number)`` for each number, in order, some of them before they are needed.

    ``workers``: threads; 0 reads each when it is asked for.

    >>> list(read_ahead(lambda number: number**2, range(4), workers=2))
    [0, 1, 4, 9]
    """
    if workers == 0:
        yield from map(read, numbers)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="xnowcast-samples")
    under_way: deque[Future[Any]] = deque()
    try:
        for number in numbers:
            under_way.append(pool.submit(read, number))
            if len(under_way) > 4 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
