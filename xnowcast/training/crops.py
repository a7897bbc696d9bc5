"""Training samples out of radar sequences: windows in time, crops in space, each drawn by its number and read lazily.

Sample ``i`` of a run depends on (seed, i) alone, so it is the same in any order, on any number of threads and after
a restart.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xnowcast import cf, storage, windows

RAIN_SCALE = 1.0
"""Rain rate in mm h-1 at which a cell counts 1 - 1/e in the wetness of a crop."""

ENOUGH_WETNESS = 0.1
"""Wetness from which on a crop is always accepted."""

CANDIDATES = 40
"""Crops that are looked at before the wettest of them is taken."""

_MOST_CANDIDATES = 2000
"""Crops that are looked at before it is said that nothing was measured."""

SPACING_TOLERANCE = 0.15
"""Share by which grid spacings may differ, as for forecasts."""


# ---------------------------------------------------------------- events


@dataclass(frozen=True, eq=False)
class Event:
    """One sequence on one grid.

    Attributes
    ----------
    name : str
        For messages.
    array : xarray.DataArray
        Dims time, y and x in any order, in the user's units; lazy where the data are.
    field : xnowcast.cf.Field
        The field that it is, or is a part of.
    axis : xnowcast.windows.TimeAxis
    """

    name: str
    array: xr.DataArray
    field: cf.Field
    axis: windows.TimeAxis

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.array.sizes[self.field.y], self.array.sizes[self.field.x]

    @cached_property
    def turned(self) -> tuple[bool, bool]:
        """Whether the first row lies in the south, and the first column in the east."""
        return cf.orientation(self.array, self.field.y, self.field.x)

    @cached_property
    def spacing(self) -> float | None:
        """Grid spacing in metres, the mean of y and x; None where the coordinates do not tell."""
        km = cf.grid_spacing(self.array, self.field.y, self.field.x)
        return None if km is None else round(500.0 * (km[0] + km[1]), 3)

    def read(self, frames: int | slice, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """Rain rate in mm h-1 as stored, rows and columns in the data's own order; NaN where not measured."""
        part = self.array.variable.isel({self.field.time: frames, self.field.y: rows, self.field.x: columns})
        part = part.compute(scheduler="synchronous").transpose(..., self.field.y, self.field.x)
        try:
            return self.field.conversion(part.values)
        except ValueError as error:
            times = np.atleast_1d(self.axis.times[frames])
            raise ValueError(f"{self.name}, {_clock(times[0])} to {_clock(times[-1])}: {error}") from None


Data = xr.Dataset | xr.DataArray | str | Path


def open_events(
    data: Data | Sequence[Data],
    variable: Hashable | None = None,
    zr: tuple[float, float] | None = None,
    *,
    any_step: bool = False,
) -> list[Event]:
    """The sequences in some datasets; each place along other dims than time, y and x is a sequence of its own.

    Parameters
    ----------
    data : Dataset, DataArray, path, or list of them
        One entry a dataset, as `xnowcast.storage.open_input` and `xnowcast.cf.find_field` read it.
    variable, zr
        As in `xnowcast.cf.find_field`.
    any_step : bool
        Whether they may differ in step, as they may for a model of single frames.

    Returns
    -------
    list of Event

    Raises
    ------
    ValueError
        If there is none, one cannot be read, or they differ in quantity, step or grid spacing.

    Examples
    --------
    >>> import xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=4, shape=(16, 24))
    >>> [(event.name, event.shape) for event in open_events([radar, radar])]
    [('dataset 1', (16, 24)), ('dataset 2', (16, 24))]
    """
    entries = as_entries(data)
    if not entries:
        raise ValueError("there are no data to train on: give a dataset, a path or a list of them")
    events = [event for i, entry in enumerate(entries) for event in _open(entry, i, variable, zr)]
    refuse_mixture(events, any_step=any_step)
    return events


def as_entries(data: Any) -> list[Any]:
    """What the user gave as data, as a list.

    Parameters
    ----------
    data : Dataset, DataArray, path, or list of them

    Returns
    -------
    list

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if isinstance(data, xr.Dataset | xr.DataArray | str | Path):
        return [data]
    if not isinstance(data, Sequence):
        raise ValueError(f"data are a {type(data).__name__}; give a Dataset, a DataArray, a path or a list of them")
    return list(data)


def _open(entry: Data, number: int, variable: Hashable | None, zr: tuple[float, float] | None) -> Iterator[Event]:
    if isinstance(entry, str | Path):
        name, entry = str(entry), storage.open_input(str(entry))
    elif isinstance(entry, xr.Dataset | xr.DataArray):
        name = f"dataset {number + 1}"
    else:
        raise ValueError(f"data holds a {type(entry).__name__}; give a Dataset, a DataArray, a path or a list of them")
    try:
        field = cf.find_field(entry, variable, zr=zr)
        axis = windows.time_axis(field.array, field.time)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    for place in np.ndindex(*(field.array.sizes[dim] for dim in field.extra)):
        at = dict(zip(field.extra, place, strict=True))
        label = "".join(f", {dim} {index}" for dim, index in at.items())
        yield Event(name + label, field.array.isel(at), field, axis)


def refuse_mixture(events: Sequence[Event], *, any_step: bool = False) -> None:
    """Refuse events from which no one model can learn.

    Parameters
    ----------
    events : sequence of Event
    any_step : bool
        Whether they may differ in step.

    Raises
    ------
    ValueError
        If they differ in quantity, step or grid spacing.
    """
    first = events[0]
    for event in events[1:]:
        if event.field.quantity != first.field.quantity:
            raise ValueError(
                f"{first.name} is {first.field.quantity} and {event.name} is {event.field.quantity}: a model reads one"
            )
        if not any_step and event.axis.step != first.axis.step:
            raise ValueError(
                f"{first.name} has a step of {_minutes(first.axis.step)} and {event.name} one of "
                f"{_minutes(event.axis.step)}: a model learns one step; thin out the finer data first"
            )
        if first.spacing and event.spacing and abs(event.spacing / first.spacing - 1) > SPACING_TOLERANCE:
            raise ValueError(
                f"{first.name} has a grid spacing of {first.spacing:g} m and {event.name} one of {event.spacing:g} m: "
                "a model learns one; bring them to one grid spacing first"
            )


def _clock(time: np.datetime64) -> str:
    return pd.Timestamp(time).isoformat(sep=" ", timespec="seconds").removesuffix(":00")


def _minutes(step: np.timedelta64) -> str:
    return f"{step / np.timedelta64(1, 'm'):g} min"


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


class Frames:
    """Frames of some events in mm h-1, the last used kept in memory up to a number of bytes; for any thread.

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
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._block_starts = [self._blocks(event) for event in events]

    def _blocks(self, event: Event) -> np.ndarray:
        """Where the stretches of frames begin that are read at once, and the number of frames."""
        count = len(event.axis.times)
        chunks = _time_chunks(event)
        if max(chunks) * 4 * event.shape[0] * event.shape[1] > self.cache_bytes / 8:
            return np.arange(count + 1)
        return np.concatenate([[0], np.cumsum(chunks)])

    def crop(self, number: int, positions: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Rain rate ``(frame, row, column)`` of one event, north up; NaN where not measured."""
        event = self.events[number]
        (ny, nx), (south_first, east_first) = event.shape, event.turned
        if south_first:
            rows = slice(ny - rows.stop, ny - rows.start)
        if east_first:
            columns = slice(nx - columns.stop, nx - columns.start)
        if 8 * 4 * ny * nx > self.cache_bytes:
            series = np.stack([event.read(int(position), rows, columns) for position in positions])
        else:
            series = np.stack([self._frame(number, int(position))[rows, columns] for position in positions])
        return series[:, :: -1 if south_first else 1, :: -1 if east_first else 1]

    def _frame(self, number: int, position: int) -> np.ndarray:
        starts = self._block_starts[number]
        block = int(np.searchsorted(starts, position, side="right")) - 1
        with self._lock:
            frames = self._kept.get((number, block))
            if frames is not None:
                self._kept.move_to_end((number, block))
        if frames is None:
            first, after = int(starts[block]), int(starts[block + 1])
            # One frame is asked for by its number: a slice would make Dask read the whole of a large chunk.
            read = self.events[number].read
            frames = read(slice(first, after)) if after - first > 1 else read(first)[None]
            self._keep((number, block), frames)
        return frames[position - int(starts[block])]

    def _keep(self, key: tuple[int, int], frames: np.ndarray) -> None:
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
            frame = self._frame(int(number), int(position))
            if (frame > 0).any():
                return
            measured |= bool(np.isfinite(frame).any())
        what = f"all {len(frames)} frames of {', '.join(event.name for event in self.events[:3])}"
        what += ", ..." if len(self.events) > 3 else ""
        raise ValueError(
            f"there is no rain anywhere: {what} are dry" if measured else f"nothing was measured: {what} are NaN"
        )


def _time_chunks(event: Event) -> Sequence[int]:
    """Lengths of the stretches of frames that the storage holds together."""
    variable, count = event.array.variable, len(event.axis.times)
    axis = variable.get_axis_num(event.field.time)
    if variable.chunks is not None:
        return variable.chunks[axis]
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
    """

    rain: np.ndarray
    observed: np.ndarray
    window: int
    row: int
    column: int
    origin: str


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
                series = self._read(place)
                if np.isfinite(series).mean() >= self.min_coverage:
                    return self._sample(place, series, random)
            merit = (min(coverage, self.min_coverage), wetness)
            if coverage > 0 and merit > best_merit:
                best, best_merit = place, merit
            if attempt >= CANDIDATES - 1 and best is not None:
                return self._sample(best, self._read(best), random)
        raise ValueError(f"nothing was measured in {_MOST_CANDIDATES} crops drawn from {len(self.windows)} windows")

    def _draw(self, random: np.random.Generator) -> tuple[int, int, int]:
        window = int(random.integers(len(self.windows)))
        ny, nx = self.frames.events[self.windows.event[window]].shape
        row, column = (int(random.integers(max(0, size - self.crop) + 1)) for size in (ny, nx))
        return window, row, column

    def _judge(self, place: tuple[int, int, int]) -> tuple[float, float]:
        """Wetness and coverage of the middle frame."""
        rain = self._read(place, slice(self.windows.frames // 2, self.windows.frames // 2 + 1))
        observed = np.isfinite(rain)
        coverage = float(observed.mean())
        return (float((1 - np.exp(-rain[observed] / RAIN_SCALE)).mean()) if coverage else 0.0), coverage

    def _read(self, place: tuple[int, int, int], which: slice = slice(None)) -> np.ndarray:
        window, row, column = place
        number = int(self.windows.event[window])
        event = self.frames.events[number]
        positions = self.windows.positions(window, event.axis.slots)[which]
        ny, nx = event.shape
        return self.frames.crop(
            number, positions, slice(row, min(row + self.crop, ny)), slice(column, min(column + self.crop, nx))
        )

    def _sample(self, place: tuple[int, int, int], series: np.ndarray, random: np.random.Generator) -> Sample:
        window, row, column = place
        below, right = (self.crop - size for size in series.shape[1:])
        series = np.pad(series, ((0, 0), (0, below), (0, right)), constant_values=np.nan)
        if self.augment:
            symmetry = int(random.integers(8))
            series = np.rot90(series, symmetry % 4, axes=(1, 2))
            series = series[:, :, ::-1] if symmetry >= 4 else series
        observed = np.isfinite(series)
        rain = np.where(observed, series, np.float32(0))
        return Sample(rain, np.ascontiguousarray(observed), window, row, column, self._origin(place))

    def _origin(self, place: tuple[int, int, int]) -> str:
        window, row, column = place
        event = self.frames.events[self.windows.event[window]]
        times = event.axis.times[self.windows.positions(window, event.axis.slots)]
        return (
            f"{event.name}, {_clock(times[0])} to {_clock(times[-1])}, rows {row} to {row + self.crop - 1}, "
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


def crop_size(events: Sequence[Event], wanted: int | None, multiple: int, smallest: int) -> int:
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
    >>> crop_size(open_events(xnowcast.datasets.synthetic_radar(frames=2, shape=(70, 90))), None, 4, 8)
    68
    """
    least = -(-smallest // multiple) * multiple
    if wanted is None:
        return max(least, min(128, *(min(event.shape) for event in events)) // multiple * multiple)
    if wanted % multiple or wanted < smallest:
        raise ValueError(
            f"crop is {wanted}; the model takes multiples of {multiple} from {least} on: "
            f"{max(least, wanted // multiple * multiple)} would do"
        )
    if all(wanted > max(event.shape) for event in events):
        largest = max(events, key=lambda event: event.shape)
        raise ValueError(
            f"crop is {wanted} cells, and the largest grid has {largest.shape[0]} x {largest.shape[1]} "
            f"({largest.name}): choose a smaller crop"
        )
    return wanted
