"""Training samples out of radar sequences: windows in time, crops in space, each drawn by its number and read lazily.

Sample ``i`` of a run depends on (seed, i) alone, so it is the same in any order, on any number of threads and after
a restart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xnowcast.training.cache import Frames
from xnowcast.training.sequences import Event, clock
from xnowcast.training.windows import TrainingWindows

RAIN_SCALE = 1.0
"""Rain rate in mm h-1 at which a cell counts 1 - 1/e in the wetness of a crop."""

ENOUGH_WETNESS = 0.1
"""Wetness from which on a crop is always accepted."""

CANDIDATES = 40
"""Crops that are looked at before the wettest of them is taken."""

_MOST_CANDIDATES = 2000
"""Crops that are looked at before it is said that nothing was measured."""

# ---------------------------------------------------------------- windows


# ---------------------------------------------------------------- reading


# ---------------------------------------------------------------- samples


@dataclass(frozen=True, eq=False)
class Sample:
    """One crop of one window.

    ``rain``: ``(frame, crop, crop)`` float32 in mm h-1, the oldest frame first; 0 where not measured. ``observed``:
    same shape, bool. ``window``: number of the window. ``row, column``: of the crop's north-western corner, counted on
    the north-up grid. ``origin``: dataset, times and corner in words. ``channels``: ``(frame, c, crop, crop)`` float32
    further fields in canonical units, NaN where missing. ``static``: ``(k, crop, crop)`` float32; beyond a grid that is
    smaller than the crop those of its rim.
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
    learnt : int, optional
        The one frame of a window whose rain is learnt, as a post-processor's is: wetness and coverage are its own.

    Notes
    -----
    Window and corner are drawn uniformly. The wetness of a crop is the mean of ``1 - exp(-R / 1 mm h-1)`` over the
    measured cells of its middle frame, or of the one that is learnt. A crop that is not accepted is replaced by another
    draw; after 40 the wettest of those with enough coverage is taken, or the best covered. Cells beyond a grid that is
    smaller than the crop count as not measured.
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
        learnt: int | None = None,
    ):
        self.frames = frames
        self.windows = windows
        self.crop = crop
        self.seed = seed
        self.stream = stream
        self.rain_preference = rain_preference
        self.min_coverage = min_coverage
        self.augment = augment
        self.learnt = learnt

    def __getitem__(self, number: int) -> Sample:
        random = np.random.Generator(np.random.Philox(key=[self.seed, number], counter=[0, 0, 0, self.stream]))
        best, best_merit = None, (-1.0, -1.0)
        for attempt in range(_MOST_CANDIDATES):
            place = self._draw(random)
            wetness, coverage = self._judge(place)
            accepted = random.random() < acceptance(wetness, self.rain_preference)
            if accepted and coverage >= self.min_coverage:
                (series,) = self._read(place)
                if np.isfinite(series if self.learnt is None else series[self.learnt]).mean() >= self.min_coverage:
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
        """Wetness and coverage of the middle frame, or of the one that is learnt."""
        judged = self.windows.frames // 2 if self.learnt is None else self.learnt
        (rain,) = self._read(place, slice(judged, judged + 1))
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

    ``wanted``: None is 128, or the largest that the smallest grid allows. ``multiple``: what a model's grids are
    multiples of. ``smallest``: fewest cells that the model takes. ``factor``: of a model that is trained on fine grids
    and reads them coarsened: fine cells along y and x in a coarse one. ``multiple`` and ``smallest`` are then of the
    coarse grid. ValueError if it is no multiple, smaller than the model takes, or larger than every grid.

    >>> import xnowcast
    >>> from xnowcast.training.sequences import open_events
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
