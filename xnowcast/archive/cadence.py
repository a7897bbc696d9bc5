"""Which of the frames that came go together: their step, which of them are in doubt, and which mean the same.

Everything is decided by the majority of the frames and not by the machine's clock alone, for archives are replayed.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.fields import cf, windows

GRID_TOLERANCE = 0.01
"""Part of a cell by which the places of two frames may differ and still be the same grid."""
STEP_TOLERANCE = 2 * windows.TIME_TOLERANCE
"""Part of a step by which the distance of two frames may miss a number of steps: a hundredth for each of them."""

FAR = 12
"""Steps by which a frame that is ahead of all others is waited with until a second one lies beside it."""
LONGEST_STEP = np.timedelta64(1, "D")
"""Frames that follow each other more slowly are none of one sequence: one of them is dated wrongly."""

_ROUND_SECONDS = 30
"""Steps of radars are multiples of it."""

Time = np.datetime64


# ---------------------------------------------------------------- times


def usual_step(times: Iterable[Time]) -> np.timedelta64 | None:
    """The distance at which most frames follow each other; None of fewer than two, and where it is over a day.

    ``times``: in any order.

    >>> minutes = np.datetime64("2024-06-01", "ns") + np.array([0, 6, 10, 15, 20]) * np.timedelta64(1, "m")
    >>> usual_step(minutes).astype("m8[m]")
    np.timedelta64(5,'m')
    """
    differences = np.diff(np.unique(np.array(list(times), "M8[ns]")).astype("i8")) / 1e9
    if not differences.size:
        return None
    steps = np.rint(differences / _ROUND_SECONDS) * _ROUND_SECONDS
    seconds = np.where(np.abs(differences - steps) <= STEP_TOLERANCE * steps, steps, np.rint(differences))
    step = np.timedelta64(windows.common_step(np.maximum(seconds, 1).astype("i8")) * 10**9, "ns")
    return step if step <= LONGEST_STEP else None


def doubts(came: Mapping[Time, int], step: np.timedelta64 | None, enough: int) -> dict[Time, int]:
    """Frames that lie ahead of those that came after them: dated wrongly, or what lies between is late.

    ``came``: when each frame came, in whatever counts upwards. ``enough``: so many frames make a forecast. Returned:
    frames that a gap separates from those before it, if as many as they are, or ``enough``, have come since that go on
    before the gap; and how many have. Also a single frame that lies far ahead, until another confirms it.

    >>> day = np.datetime64("2024-06-01", "ns") + np.arange(100) * np.timedelta64(5, "m")
    >>> came = {day[0]: 0, day[1]: 1, day[90]: 2, day[2]: 3}
    >>> doubts(came, np.timedelta64(5, "m"), 4) == {day[90]: 1}
    True
    """
    found: dict[Time, int] = {}
    if step is None:
        return found
    for run in _runs(sorted(came), step):
        first, last = min(came[t] for t in run), max(came[t] for t in run)
        before = [t for t in came if t < run[0]]
        known = max((t for t in before if came[t] < first), default=None)
        since = [t for t in before if came[t] > last and (known is None or t > known)]
        alone = len(run) == 1 and bool(before) and run[0] - max(before) > FAR * step
        if alone or len(since) >= min(len(run), enough):
            found |= dict.fromkeys(run, len(since))
    return found


def _runs(times: Sequence[Time], step: np.timedelta64) -> list[list[Time]]:
    """Frames that follow each other at the step, whatever lies between them; in rising order."""
    runs: list[list[Time]] = []
    for time in times:
        own = next((run for run in runs if slots_between(run[-1], time, step) == 1), None)
        if own is None:
            runs.append(own := [])
        own.append(time)
    return runs


def slots_between(start: Time, time: Time, step: np.timedelta64) -> int | None:
    """How many steps a time lies after another; None where it is no whole number of them."""
    count = (time - start) / step
    return round(count) if abs(count - round(count)) <= STEP_TOLERANCE else None


def on_axis(times: Sequence[Time], step: np.timedelta64) -> np.ndarray:
    """Times some seconds off their axis, on it: at whole steps since midnight where the newest is close to one.

    ``times``: whole numbers of steps apart, as `together` chose them.

    >>> stored = np.array(["2024-06-01T12:00:02", "2024-06-01T12:04:59"], "M8[ns]")
    >>> on_axis(stored, np.timedelta64(5, "m")).astype("M8[s]").astype(str).tolist()
    ['2024-06-01T12:00:00', '2024-06-01T12:05:00']
    """
    newest, midnight = times[-1], times[-1].astype("M8[D]").astype("M8[ns]")
    slots = slots_between(midnight, newest, step)
    last = newest if slots is None else midnight + slots * step
    return np.array([last - round((newest - t) / step) * step for t in times], "M8[ns]")


# ---------------------------------------------------------------- what frames mean


@dataclass(frozen=True)
class Kind:
    """What two frames must share to be joined: a field of the same meaning on the same grid.

    ``meaning``: name, dims, quantity and conversion of the field; what prevents it from being read where it cannot.
    ``places``: labels along all dims but the time.
    """

    meaning: Any
    places: Mapping[Any, np.ndarray]

    def same(self, other: "Kind") -> bool:
        """Whether frames of the two may be joined: places may differ by a hundredth of a cell, by rounding."""
        if self.meaning != other.meaning or self.places.keys() != other.places.keys():
            return False
        return all(_same_places(here, other.places[dim]) for dim, here in self.places.items())


def _same_places(here: np.ndarray, other: np.ndarray) -> bool:
    if here.shape != other.shape or here.dtype.kind not in "fiu" or other.dtype.kind not in "fiu":
        return np.array_equal(here, other)
    cell = np.abs(np.diff(here)).min() if here.size > 1 else 0.0
    return bool(np.all(np.abs(here - other) <= GRID_TOLERANCE * cell))


def kind_of(frame: xr.Dataset, time: Any, step: np.timedelta64, variable: Any, zr: Any) -> Kind:
    """The kind of a frame.

    ``frame``: with one time. ``time``: name of its time dim. ``step``: amounts become rates by it. ``variable, zr``: as
    for `xnowcast.forecast`.
    """
    places = {name: index.to_numpy() for name, index in frame.indexes.items() if name != time}
    twice = frame.isel({time: [0, 0]})  # a single time has no step
    try:
        last = frame[time].values[0].astype("M8[ns]")
        field = cf.find_field(twice.assign_coords({time: [last - step, last]}), variable, zr=zr)
    except (ValueError, TypeError) as error:
        return Kind(str(error), places)
    return Kind((field.name, field.y, field.x, field.quantity, field.conversion), places)


def digest(frame: xr.Dataset) -> str:
    """A hash of all that a frame holds but its global attributes."""
    found = sha256()
    for name, variable in sorted(frame.variables.items(), key=lambda item: str(item[0])):
        values = variable.values
        content = repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()
        found.update(repr((name, variable.dims, values.dtype.str, variable.attrs)).encode())
        found.update(content)
    return found.hexdigest()[:16]


# ---------------------------------------------------------------- what is forecast from


def together(
    times: Collection[Time], kinds: Mapping[Time, Kind], step: np.timedelta64, enough: int
) -> tuple[list[Time], list[Time]]:
    """The frames to forecast from, and those that are left out.

    Frames go together where they are of one kind and whole steps apart. A frame that goes with no others does not stop
    those that do: the newest group is taken that has enough frames in a row, and the largest where none has.

    ``enough``: so many frames make a forecast. Returned: in rising order. Returned: what is newer than the frame before
    the newest of these, and goes with none of them.
    """
    groups: list[list[Time]] = []
    for time in sorted(times):
        own = next(
            (g for g in groups if slots_between(g[0], time, step) is not None and kinds[g[0]].same(kinds[time])), None
        )
        if own is None:
            groups.append(own := [])
        own.append(time)
    able = [group for group in groups if max(map(len, _runs(group, step))) >= enough]
    chosen = max(able, key=lambda g: g[-1]) if able else max(groups, key=lambda g: (len(g), g[-1]))
    since = chosen[-2] if len(chosen) > 1 else chosen[-1]
    return chosen, [time for time in sorted(times) if time > since and time not in chosen]
