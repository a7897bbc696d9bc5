"""Training samples out of radar sequences: windows in time, crops in space, each drawn by its number and read lazily.

Sample ``i`` of a run depends on (seed, i) alone, so it is the same in any order, on any number of threads and after
a restart.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from xnowcast.training.events import Event, clock

RAIN_SCALE = 1.0
"""Rain rate in mm h-1 at which a cell counts 1 - 1/e in the wetness of a crop."""

ENOUGH_WETNESS = 0.1
"""Wetness from which on a crop is always accepted."""

CANDIDATES = 40
"""Crops that are looked at before the wettest of them is taken."""

_MOST_CANDIDATES = 2000
"""Crops that are looked at before it is said that nothing was measured."""

# ---------------------------------------------------------------- windows


@dataclass(frozen=True, eq=False)
class TrainingWindows:
    """Stretches of frames without a gap.

    Attributes
    ----------
    frames, stride : int
        Length of a window in frames, and every how manieth frame of the data is one.
    event : numpy.ndarray
        ``(n,)`` numbers of the events.
    first : numpy.ndarray
        ``(n,)`` positions of the first frames along time.
    time : numpy.ndarray
        ``(n,)`` datetime64[ns] of the first frames.
    """

    frames: int
    stride: int
    event: np.ndarray
    first: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def some(self, chosen: np.ndarray) -> "TrainingWindows":
        """Those that a mask chooses."""
        return TrainingWindows(self.frames, self.stride, self.event[chosen], self.first[chosen], self.time[chosen])

    def positions(self, number: int, slots: np.ndarray) -> np.ndarray:
        """Positions of a window's frames along time, oldest first."""
        return np.searchsorted(slots, slots[self.first[number]] + self.stride * np.arange(self.frames))


def find_windows(events: Sequence[Event], frames: int, stride: int = 1) -> TrainingWindows:
    """All windows of some events that cross no gap; they overlap.

    Parameters
    ----------
    events : sequence of Event
    frames : int
        Length of a window.
    stride : int
        2 makes windows of every second frame.

    Returns
    -------
    TrainingWindows

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> import xnowcast
    >>> from xnowcast.training.events import open_events
    >>> radar = xnowcast.datasets.synthetic_radar(frames=8, shape=(8, 8)).isel(time=[0, 1, 2, 3, 5, 6, 7])
    >>> find_windows(open_events(radar), 3).first.tolist()
    [0, 1, 4]
    """
    found = []
    for number, event in enumerate(events):
        slots = event.axis.slots
        whole = np.ones(len(slots), dtype=bool)
        for k in range(1, frames):
            wanted = slots + k * stride
            at = np.minimum(np.searchsorted(slots, wanted), len(slots) - 1)
            whole &= slots[at] == wanted
        first = np.flatnonzero(whole)
        found.append((np.full(len(first), number), first, event.axis.times[first]))
    all_windows = TrainingWindows(frames, stride, *(np.concatenate(parts) for parts in zip(*found, strict=True)))
    if not len(all_windows):
        longest = max(events, key=_longest_stretch)
        raise ValueError(
            f"no window of {frames} frames{f', every {stride}. of the data,' if stride > 1 else ''} fits: the longest "
            f"stretch without a gap has {_longest_stretch(longest)} frames ({longest.name}), and "
            f"{(frames - 1) * stride + 1} are needed"
        )
    return all_windows


def _longest_stretch(event: Event) -> int:
    breaks = np.flatnonzero(np.diff(event.axis.slots) > 1)
    return int(np.diff(np.concatenate([[-1], breaks, [len(event.axis.slots) - 1]])).max())


def split_by_time(time: np.ndarray, span: np.timedelta64, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Which windows to train on and which to validate on, so that nothing leaks.

    Weather of one time is on one side, whichever dataset shows it, and between a window of one side and a window of
    the other lies at least the span of a window. Windows that are too near are on neither side.

    Parameters
    ----------
    time : numpy.ndarray
        ``(n,)`` starts of the windows, datetime64.
    span : numpy.timedelta64
        Time that a window covers: frames x stride x step.
    share : float
        Share of the windows to hold out.

    Returns
    -------
    training, validation : numpy.ndarray of bool
        ``(n,)`` masks.

    Raises
    ------
    ValueError
        If a side would be empty.

    Notes
    -----
    Starts less than two spans apart belong to one episode. Of three or more episodes whole ones are held out, evenly
    along time: the share of each is added up, and an episode is held out, and its size subtracted, whenever the sum
    reaches half of its size. With fewer, the last part of the time is held out, or the last part of each of up to
    ten equal stretches, where these parts are ten or more windows long.

    Examples
    --------
    >>> time = np.datetime64("2024-06-01", "ns") + np.arange(40) * np.timedelta64(5, "m")
    >>> training, validation = split_by_time(time, np.timedelta64(20, "m"), 0.25)
    >>> np.flatnonzero(training)[[0, -1]].tolist(), np.flatnonzero(validation)[[0, -1]].tolist()
    ([0, 22], [30, 39])
    """
    starts, place, counts = np.unique(time, return_inverse=True, return_counts=True)
    breaks = np.flatnonzero(np.diff(starts) >= 2 * span) + 1
    episodes = np.split(np.arange(len(starts)), breaks)
    held = _hold_out_episodes(episodes, counts, share) if len(episodes) >= 3 else np.zeros(len(starts), dtype=bool)
    if not held.any() or held.all():
        held = _hold_out_blocks(starts, span, share)
    edge = np.concatenate([[starts[0] - 4 * span], starts[held], [starts[-1] + 4 * span]])
    after = np.searchsorted(edge, starts)
    near = np.minimum(edge[np.minimum(after, len(edge) - 1)] - starts, starts - edge[after - 1])
    training, validation = (near >= 2 * span)[place], held[place]
    if not (training.any() and validation.any()):
        raise ValueError(
            f"validation={share:g} leaves {training.sum()} of {len(time)} windows to train on and {validation.sum()} "
            "to validate on, because a window's length lies between the two: give more data, validation=0, or data "
            "of their own to validate on"
        )
    return training, validation


def _hold_out_episodes(episodes: Sequence[np.ndarray], counts: np.ndarray, share: float) -> np.ndarray:
    held = np.zeros(len(counts), dtype=bool)
    owed = 0.0
    for episode in episodes:
        size = counts[episode].sum()
        owed += share * size
        if owed >= size / 2:
            held[episode] = True
            owed -= size
    return held


def _hold_out_blocks(starts: np.ndarray, span: np.timedelta64, share: float) -> np.ndarray:
    held = np.zeros(len(starts), dtype=bool)
    covered = (starts[-1] - starts[0]) / span
    stretches = int(np.clip(share * covered / 10, 1, 10))
    for stretch in np.array_split(np.arange(len(starts)), stretches):
        held[stretch[len(stretch) - max(1, round(share * len(stretch))) :]] = True
    return held


# ---------------------------------------------------------------- reading


Key = tuple[int, int, tuple[int, int]]
"""Event, layer, and first and last frame of what was read at once."""


class Frames:
    """Frames of some events in canonical units, the last used kept in memory up to a number of bytes; for any thread.

    Layer 0 is the rain in mm h-1, the others are the channels.

    Parameters
    ----------
    events : sequence of Event
    cache_bytes : int

    Notes
    -----
    Chunks along time are read whole where eight of them fit into the cache, since decoding a part of a chunk costs
    as much; larger ones are read frame by frame. Where not even eight frames fit, only the crop is read and nothing is
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

        Raises
        ------
        ValueError
            If it rains nowhere, or nothing was measured.
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
        what = f"all {len(frames)} frames of {', '.join(event.name for event in self.events[:3])}"
        what += ", ..." if len(self.events) > 3 else ""
        raise ValueError(
            f"there is no rain anywhere: {what} are dry" if measured else f"nothing was measured: {what} are NaN"
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

    Parameters
    ----------
    read : callable
    numbers : iterable of int
    workers : int
        Threads; 0 reads each when it is asked for.

    Yields
    ------
    Any

    Examples
    --------
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


# ---------------------------------------------------------------- samples


@dataclass(frozen=True, eq=False)
class Sample:
    """One crop of one window.

    Attributes
    ----------
    rain : numpy.ndarray
        ``(frame, crop, crop)`` float32 in mm h-1, the oldest frame first; 0 where not measured.
    observed : numpy.ndarray
        Same shape, bool.
    window : int
        Number of the window.
    row, column : int
        Of the crop's north-western corner, counted on the north-up grid.
    origin : str
        Dataset, times and corner in words.
    channels : numpy.ndarray or None
        ``(frame, c, crop, crop)`` float32 further fields in canonical units, NaN where missing.
    static : numpy.ndarray or None
        ``(k, crop, crop)`` float32; beyond a grid that is smaller than the crop those of its rim.
    """

    rain: np.ndarray
    observed: np.ndarray
    window: int
    row: int
    column: int
    origin: str
    channels: np.ndarray | None = None
    static: np.ndarray | None = None


class Crops:
    """The samples of a run: ``crops[i]`` is sample ``i``.

    Parameters
    ----------
    frames : Frames
    windows : TrainingWindows
    crop : int
        Height and width in cells.
    seed : int
    stream : int
        Tells apart the samples of training (0) and of validation (1).
    rain_preference : float
        p of the chance ``1 - p (1 - min(1, w / 0.1))`` with which a crop of wetness w is accepted, 0 to below 1.
    min_coverage : float
        Smallest share of the cells that must have been measured.
    augment : bool
        Flip and turn.

    Notes
    -----
    Window and corner are drawn uniformly. The wetness of a crop is the mean of ``1 - exp(-R / 1 mm h-1)`` over the
    measured cells of its middle frame. A crop that is not accepted is replaced by another draw; after 40 the wettest
    of those with enough coverage is taken, or the best covered. Cells beyond a grid that is smaller than the crop
    count as not measured.
    """

    def __init__(
        self,
        frames: Frames,
        windows: TrainingWindows,
        *,
        crop: int,
        seed: int,
        stream: int = 0,
        rain_preference: float = 0.9,
        min_coverage: float = 0.5,
        augment: bool = True,
    ):
        self.frames = frames
        self.windows = windows
        self.crop = crop
        self.seed = seed
        self.stream = stream
        self.rain_preference = rain_preference
        self.min_coverage = min_coverage
        self.augment = augment

    def __getitem__(self, number: int) -> Sample:
        random = np.random.Generator(np.random.Philox(key=[self.seed, number], counter=[0, 0, 0, self.stream]))
        best, best_merit = None, (-1.0, -1.0)
        for attempt in range(_MOST_CANDIDATES):
            place = self._draw(random)
            wetness, coverage = self._judge(place)
            accepted = random.random() < acceptance(wetness, self.rain_preference)
            if accepted and coverage >= self.min_coverage:
                (series,) = self._read(place)
                if np.isfinite(series).mean() >= self.min_coverage:
                    return self._sample(place, series, random)
            merit = (min(coverage, self.min_coverage), wetness)
            if coverage > 0 and merit > best_merit:
                best, best_merit = place, merit
            if attempt >= CANDIDATES - 1 and best is not None:
                return self._sample(best, self._read(best)[0], random)
        raise ValueError(f"nothing was measured in {_MOST_CANDIDATES} crops drawn from {len(self.windows)} windows")

    def _draw(self, random: np.random.Generator) -> tuple[int, int, int]:
        window = int(random.integers(len(self.windows)))
        ny, nx = self.frames.events[self.windows.event[window]].grid.shape
        row, column = (int(random.integers(max(0, size - self.crop) + 1)) for size in (ny, nx))
        return window, row, column

    def _judge(self, place: tuple[int, int, int]) -> tuple[float, float]:
        """Wetness and coverage of the middle frame."""
        (rain,) = self._read(place, slice(self.windows.frames // 2, self.windows.frames // 2 + 1))
        observed = np.isfinite(rain)
        coverage = float(observed.mean())
        return (float((1 - np.exp(-rain[observed] / RAIN_SCALE)).mean()) if coverage else 0.0), coverage

    def _read(
        self, place: tuple[int, int, int], which: slice = slice(None), layers: Sequence[int] = (0,)
    ) -> list[np.ndarray]:
        number = int(self.windows.event[place[0]])
        positions = self.windows.positions(place[0], self.frames.events[number].axis.slots)[which]
        return self.frames.crop(number, positions, *self._cells(place), layers)

    def _cells(self, place: tuple[int, int, int]) -> tuple[slice, slice]:
        """Rows and columns of a crop, as far as the grid reaches."""
        window, row, column = place
        ny, nx = self.frames.events[self.windows.event[window]].grid.shape
        return slice(row, min(row + self.crop, ny)), slice(column, min(column + self.crop, nx))

    def _sample(self, place: tuple[int, int, int], series: np.ndarray, random: np.random.Generator) -> Sample:
        symmetry = int(random.integers(8)) if self.augment else 0
        series = self._filled_up(series, symmetry)
        observed = np.isfinite(series)
        rain = np.where(observed, series, np.float32(0))
        number = int(self.windows.event[place[0]])
        layers = range(1, 1 + len(self.frames.events[number].channels))
        channels = [self._filled_up(fields, symmetry) for fields in self._read(place, layers=layers)] if layers else []
        static = self.frames.static(number, *self._cells(place))
        return Sample(
            rain,
            np.ascontiguousarray(observed),
            *place,
            self._origin(place),
            np.stack(channels, axis=1) if channels else None,
            None if static is None else np.ascontiguousarray(self._filled_up(static, symmetry, edge=True)),
        )

    def _filled_up(self, fields: np.ndarray, symmetry: int, *, edge: bool = False) -> np.ndarray:
        """Fields ``(n, row, column)`` as large as a crop and turned; beyond the grid NaN, or what its rim holds."""
        beyond = ((0, 0), *((0, self.crop - size) for size in fields.shape[1:]))
        fields = np.pad(fields, beyond, mode="edge") if edge else np.pad(fields, beyond, constant_values=np.nan)
        fields = np.rot90(fields, symmetry % 4, axes=(1, 2))
        return fields[:, :, ::-1] if symmetry >= 4 else fields

    def _origin(self, place: tuple[int, int, int]) -> str:
        window, row, column = place
        event = self.frames.events[self.windows.event[window]]
        times = event.axis.times[self.windows.positions(window, event.axis.slots)]
        return (
            f"{event.name}, {clock(times[0])} to {clock(times[-1])}, rows {row} to {row + self.crop - 1}, "
            f"columns {column} to {column + self.crop - 1}"
        )


def acceptance(wetness: float, preference: float) -> float:
    """Chance with which a crop is accepted.

    Parameters
    ----------
    wetness : float
        Mean of ``1 - exp(-R / 1 mm h-1)``, 0 to 1.
    preference : float
        0 to below 1.

    Returns
    -------
    float
        ``1 - preference`` for a dry crop, 1 from a wetness of 0.1 on, linear between.

    References
    ----------
    Ravuri et al. (2021), doi:10.1038/s41586-021-03854-z, methods, accept crops likewise by a saturating function of
    their rain.

    Examples
    --------
    >>> [round(acceptance(wetness, 0.9), 2) for wetness in (0.0, 0.05, 0.1, 0.6)]
    [0.1, 0.55, 1.0, 1.0]
    """
    return 1.0 - preference * (1.0 - min(1.0, wetness / ENOUGH_WETNESS))


def crop_size(events: Sequence[Event], wanted: int | None, multiple: int, smallest: int, factor: int = 1) -> int:
    """The size of a run's crops.

    Parameters
    ----------
    events : sequence of Event
    wanted : int or None
        None is 128, or the largest that the smallest grid allows.
    multiple : int
        What a model's grids are multiples of.
    smallest : int
        Fewest cells that the model takes.
    factor : int
        Of a model that is trained on fine grids and reads them coarsened: fine cells along y and x in a coarse one.
        ``multiple`` and ``smallest`` are then of the coarse grid.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it is no multiple, smaller than the model takes, or larger than every grid.

    Examples
    --------
    >>> import xnowcast
    >>> from xnowcast.training.events import open_events
    >>> crop_size(open_events(xnowcast.datasets.synthetic_radar(frames=2, shape=(70, 90))), None, 4, 8)
    68
    """
    coarse = f" ({multiple} coarse cells of {factor} fine ones)" if factor > 1 else ""
    multiple, smallest = multiple * factor, smallest * factor
    least = -(-smallest // multiple) * multiple
    if wanted is None:
        return max(least, min(128, *(min(event.grid.shape) for event in events)) // multiple * multiple)
    if wanted % multiple or wanted < smallest:
        raise ValueError(
            f"crop is {wanted}; the model takes multiples of {multiple}{coarse} from {least} on: "
            f"{max(least, wanted // multiple * multiple)} would do"
        )
    if all(wanted > max(event.grid.shape) for event in events):
        largest = max(events, key=lambda event: event.grid.shape)
        raise ValueError(
            f"crop is {wanted} cells, and the largest grid has {largest.grid.shape[0]} x {largest.grid.shape[1]} "
            f"({largest.name}): choose a smaller crop"
        )
    return wanted
