"""How long the values of a field were collected: by time bounds, else by attributes, else by the step of the times."""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.fields import units, windows
from xnowcast.fields.attributes import FORECAST_NAMES, TIME_NAMES, name_of, reference

# name: [name: ...] method [over ...] [(what else is known)]
_CELL_METHOD = re.compile(r"((?:[\w.-]+\s*:\s*)+)(\w+)((?:\s+(?:within|over|where|in)\s+\w+)*)\s*(?:\(([^)]*)\))?")
_SPACING = re.compile(r"interval:\s*([\d.]+)\s*([A-Za-z]+)")

# Of the times and lead times that values stand for, as CF and as we call them.
_TIMES = (*TIME_NAMES, "lead_time", FORECAST_NAMES["lead_time"][0])
_SINCE_START = ("since the start", "since start", "since initial", "since init", "accumulated total", "run total")
_NOTHING = np.timedelta64(0, "ns")
_LONG_BREAK = 10
"""Steps between two events; such a distance says nothing about the step."""


@dataclass(frozen=True)
class Interval:
    """The time that each value of a field stands for.

    ``end``: from the time of a value to the end of its interval; None where nothing tells. It is then taken for its
    end.
    """

    length: np.timedelta64
    end: np.timedelta64 | None = None

    @property
    def minutes(self) -> float:
        """Its length, as the attribute ``accutime`` has it."""
        return float(self.length / np.timedelta64(60, "s"))


def of_amount(
    array: xr.DataArray, dataset: xr.Dataset | None, *, time: Hashable | None, lead_time: Hashable | None
) -> Interval | None:
    """How long an amount was collected.

    ``dataset``: where it comes from, which may hold time bounds. ``time, lead_time``: coordinates of the times and of
    the lead times. Where there are lead times, the times are those of the runs. Returned: by CF time bounds; else by
    the attribute ``accutime`` (minutes) or ``cell_methods`` ("time: sum (interval: 1 hour)", which beside a whole
    multiple of it is the spacing of what was added up); else the distance of the lead times or times. None where
    nothing tells. ValueError if these contradict each other, time bounds differ in length or are named and absent, or
    the amount is counted from the start of a run.

    >>> quarters = np.datetime64("2024-06-01", "ns") + np.arange(3) * np.timedelta64(15, "m")
    >>> rain = xr.DataArray(np.ones(3), {"time": quarters}, "time", attrs={"accutime": 60})
    >>> of_amount(rain, None, time="time", lead_time=None).minutes
    60.0
    """
    name = name_of(array)
    stated = _stated(array, dataset, (time, lead_time))
    if len({round(found.minutes, 3) for found in stated.values()}) > 1:
        what = ", and of ".join(f"{_words(found.length)} by its {where}" for where, found in stated.items())
        raise ValueError(f"variable {name!r} is an amount of {what}: correct or delete what is wrong")
    step = _step(array, time, lead_time)
    if stated:
        where, found = next(iter(stated.items()))
        if where != _BOUNDS and lead_time is None and step is not None and found.length < step:
            raise ValueError(
                f"variable {name!r} is an amount of {_words(found.length)} by its {where}, but its times are "
                f"{_words(step)} apart: correct or delete the attribute, or say it with time bounds"
            )
        return found
    _refuse_lost_bounds(array, (time, lead_time))
    if is_accumulated(array):
        return _since_start(array, lead_time) or (None if step is None else Interval(step))
    if lead_time is None:
        _refuse_irregular(array, time, step)
    return None if step is None else Interval(step)


def of_bounds(array: xr.DataArray, dataset: xr.Dataset) -> Interval | None:
    """The interval by time bounds alone; None where there are none, or a rate's differ; those of an amount must not."""
    try:
        return _by_bounds(array, dataset, ())
    except ValueError:
        if units.is_amount(array.attrs.get("units")):
            raise
        return None


def of_rate(
    array: xr.DataArray, dataset: xr.Dataset | None = None, *, dims: Iterable[Hashable | None] = ()
) -> Interval | None:
    """How long the time is of which a rate is the mean, where bounds or attributes tell.

    ``dataset``: where it comes from, which may hold time bounds. ``dims``: coordinates of times and lead times.
    Returned: None where nothing tells, where it is that of a moment, and where it differs from frame to frame: a rate
    is read rightly all the same.

    >>> of_rate(xr.DataArray(1.0, attrs={"cell_methods": "time: mean (interval: 5 minutes)"})).minutes
    5.0
    """
    try:
        stated = _stated(array, dataset, dims)
    except ValueError:
        return None
    return next(iter(stated.values()), None)


def is_accumulated(array: xr.DataArray) -> bool | None:
    """Whether an amount's attributes say that it is counted from the start of the run; None where they do not tell.

    >>> is_accumulated(xr.DataArray(0.0, attrs={"description": "ACCUMULATED TOTAL GRID SCALE PRECIPITATION"}))
    True
    """
    if array.attrs.get("accutime") is not None:
        return False
    words = " ".join(
        str(array.attrs.get(k, "")) for k in ("long_name", "description", "comment", "cell_methods")
    ).lower()
    if any(word in words for word in _SINCE_START) or array.attrs.get("GRIB_stepType") == "accum":
        return True
    return False if "per step" in words or "interval:" in words else None


def parts(whole: np.timedelta64, spacing: np.timedelta64, own: np.timedelta64 | None) -> tuple[int, int]:
    """How many values make up a longer interval, and how many frames they lie apart.

    ``whole``: length of the longer interval. ``spacing``: time between frames. ``own``: length of the interval of each
    value; None for values of a moment. ValueError if they do not cover it completely and once.

    >>> parts(np.timedelta64(60, "m"), np.timedelta64(15, "m"), np.timedelta64(30, "m"))
    (2, 2)
    """
    length = spacing if own is None else own
    count, rest = divmod(_ns(whole), _ns(length))
    stride, odd = divmod(_ns(length), _ns(spacing))
    if rest or odd or not count or not stride:
        of = "" if own is None else f" of {_words(own)} each"
        raise ValueError(f"values{of} {_words(spacing)} apart do not make up {_words(whole)}")
    return count, stride


def mean_rate_attributes(attrs: dict[Any, Any]) -> dict[Any, Any]:
    """Attributes of an amount, made those of the mean rate over its interval.

    >>> mean_rate_attributes({"cell_methods": "time: sum"})["cell_methods"]
    'time: mean'
    """
    methods = re.sub(r"\bsum\b", "mean", str(attrs.get("cell_methods", "time: mean")))
    return attrs | {"standard_name": "rainfall_rate", "cell_methods": methods}


def with_bounds(array: xr.DataArray, dataset: xr.Dataset) -> xr.Dataset:
    """A variable of a dataset, or part of it, with the time bounds that the dataset has, which tell its interval."""
    bounds = {found: dataset.variables[found] for _, found in _bounds_of(array, dataset, ())}
    return array.to_dataset(name=name_of(array)).assign(bounds)


# ---------------------------------------------------------------- what is stated

_BOUNDS, _ACCUTIME, _METHODS = "time bounds", "attribute accutime", "cell_methods"


def _stated(array: xr.DataArray, dataset: xr.Dataset | None, dims: Iterable[Hashable | None]) -> dict[str, Interval]:
    """The interval by each of those that tell one, the most trustworthy first."""
    found = {
        _BOUNDS: _by_bounds(array, dataset, dims),
        _ACCUTIME: _by_accutime(array),
        _METHODS: _by_cell_methods(array, dims),
    }
    stated = {where: interval for where, interval in found.items() if interval is not None}
    if _METHODS in stated and any(
        _is_spacing(stated[_METHODS], stated[k]) for k in (_BOUNDS, _ACCUTIME) if k in stated
    ):
        del stated[_METHODS]
    return stated


def _is_spacing(interval: Interval, whole: Interval) -> bool:
    """Whether what cell_methods call interval is the spacing of what was added up, as CF has it, not the length."""
    count, rest = divmod(round(whole.minutes, 3), round(interval.minutes, 3))
    return count > 1 and rest < 1e-3


def _time_names(array: xr.DataArray, dims: Iterable[Hashable | None]) -> list[Hashable]:
    """Coordinates that may have time bounds."""
    named = [*dims, *_TIMES, *(n for n, c in array.coords.items() if c.attrs.get("standard_name") in _TIMES)]
    return [n for n in dict.fromkeys(named) if n is not None and n in array.coords]


def _bounds_of(
    array: xr.DataArray, dataset: xr.Dataset, dims: Iterable[Hashable | None]
) -> Iterator[tuple[Hashable, Hashable]]:
    """Coordinates of times, and the variables of their bounds that are there: named, or with a name that tells it."""
    for name in _time_names(array, dims):
        named = (reference(array[name], "bounds"), f"{name}_bnds", f"{name}_bounds")
        found = next((b for b in named if b in dataset.variables and b not in array.coords), None)
        if found is not None:
            yield name, found


def _by_bounds(array: xr.DataArray, dataset: xr.Dataset | None, dims: Iterable[Hashable | None]) -> Interval | None:
    if dataset is None:
        return None
    found = (_length_of_bounds(array, name, dataset[bounds]) for name, bounds in _bounds_of(array, dataset, dims))
    return next((interval for interval in found if interval is not None), None)


def _length_of_bounds(array: xr.DataArray, name: Hashable, bounds: xr.DataArray) -> Interval | None:
    """Their one length; None where they are those of moments."""
    coordinate, variable = array[name], name_of(array)
    ends = [d for d in bounds.dims if d not in (*coordinate.dims, *array.dims) and bounds.sizes[d] == 2]
    bounds = _once(bounds, [d for d in bounds.dims if d in array.dims and d not in coordinate.dims])
    if len(ends) != 1 or {*bounds.dims} != {*coordinate.dims, *ends}:
        raise ValueError(
            f"time bounds {bounds.name!r} have dims {bounds.dims}; those of {name!r} need {(*coordinate.dims, 'bnds')}"
        )
    values = _values(bounds.transpose(*coordinate.dims, ends[0]), coordinate)
    start, end = values.min(axis=-1), values.max(axis=-1)
    lengths = (end - start).ravel().astype("i8")
    if (lengths == 0).all() or not lengths.size:
        return None
    common = Counter(lengths.tolist()).most_common(1)[0][0]
    blur = 2 * max(windows.stored_blur(bounds), windows.stored_blur(coordinate))
    off = np.abs(lengths - common) > max(windows.TIME_TOLERANCE * common, blur)
    if off.any() and np.ptp(start.astype("i8")) <= blur + 10**9:
        raise ValueError(_counted_from_start(array))
    if off.any() or common == 0:
        at = int(np.argmax(off))
        when = np.broadcast_to(coordinate.values, coordinate.shape).ravel()[at]
        raise ValueError(
            f"the time bounds of variable {variable!r} differ in length: {_words(lengths[at])} at {when:.19}, "
            f"{_words(common)} at most others ({off.sum()} of {off.size} differ): choose those of one length"
        )
    length = windows.rounded(np.array([common], "m8[ns]"))[0]
    if blur > windows.TIME_TOLERANCE * common:
        length = _length_of_coarse(lengths.mean(), blur, bounds, variable)
    late = (end - _values(coordinate, coordinate)).ravel().astype("i8")
    shift = windows.rounded(np.array([late[0]], "m8[ns]"))[0] if (np.abs(late - late[0]) <= 10**9).all() else None
    return Interval(length, shift)


def _once(bounds: xr.DataArray, repeated: list[Hashable]) -> xr.DataArray:
    """Bounds without dims along which they are repeated, and where ``ds.where`` has left some of them out."""
    for place in (dict.fromkeys(repeated, 0), {d: bounds.sizes[d] // 2 for d in repeated}):
        one = bounds.isel(place)
        if not repeated or not one.isnull().any():
            return one
    if bounds.chunks is not None:  # they depend on the field itself, which is not read here
        raise ValueError(
            f"the time bounds {bounds.name!r} are masked along {', '.join(map(str, repeated))}: mask the variable "
            "alone, ds.assign(rain=ds.rain.where(...)), or assign the bounds of the unmasked dataset"
        )
    return bounds.reduce(np.fmax.reduce, repeated, keep_attrs=True)  # of what is known


def _length_of_coarse(mean: float, blur: int, bounds: xr.DataArray, variable: str) -> np.timedelta64:
    """The one common length that time bounds which were stored as coarse numbers may have."""
    known = [m for m in windows.COMMON_MINUTES if abs(60e9 * m - mean) <= blur]
    if len(known) != 1:
        raise ValueError(
            f"the time bounds {bounds.name!r} of variable {variable!r} are stored too coarsely to tell their length, "
            f"{mean / 6e10:.3g} min to {blur / 1e9:.3g} s: assign the right ones, or set the attribute accutime"
        )
    return np.timedelta64(round(60e9 * known[0]), "ns")


def _values(times: xr.DataArray, coordinate: xr.DataArray) -> np.ndarray:
    """Times or durations in nanoseconds; bounds that nobody decoded have the units of their coordinate."""
    import dask

    name = times.name
    with dask.config.set(scheduler="synchronous"):  # a few numbers, and no matter for the engine
        times = times.load() if times.chunks is None else times.compute()
    if times.dtype.kind in "iuf":
        encoding = {k: v for k, v in coordinate.encoding.items() if k in ("units", "calendar")} | times.attrs
        times = xr.decode_cf(xr.Dataset({"bounds": (times.dims, times.values, encoding)})).bounds
    if times.dtype.kind == "m":
        return windows.rounded(times.values.astype("m8[ns]"))
    return windows.real_times(times.rename(name))


def _by_accutime(array: xr.DataArray) -> Interval | None:
    accutime = array.attrs.get("accutime")
    if accutime is None:
        return None
    try:
        minutes = float(np.asarray(accutime).item() if not isinstance(accutime, str) else accutime)
    except (TypeError, ValueError):
        minutes = np.nan
    if not 0 < minutes < np.inf:
        raise ValueError(
            f"variable {name_of(array)!r} has the attribute accutime={accutime!r}; it is the length of an amount's "
            "interval in minutes, a number above 0"
        )
    return Interval(np.timedelta64(round(minutes * 60e9), "ns"))


def _by_cell_methods(array: xr.DataArray, dims: Iterable[Hashable | None]) -> Interval | None:
    names = {*_TIMES, *map(str, dims)}
    for of, method, _, further in _CELL_METHOD.findall(str(array.attrs.get("cell_methods", ""))):
        spacing = _SPACING.search(further)
        if not names & {word.strip() for word in of.split(":")} or method == "point" or spacing is None:
            continue
        seconds = units.affine(spacing[2], "s")
        if seconds is not None and float(spacing[1]) > 0:
            return Interval(np.timedelta64(round(float(spacing[1]) * seconds[0] * 1e9), "ns"))
    return None


def _refuse_lost_bounds(array: xr.DataArray, dims: Iterable[Hashable | None]) -> None:
    """Bounds that are named and not there: the step of the times may be something else than what they told."""
    for name in _time_names(array, dims):
        if bounds := reference(array[name], "bounds"):
            raise ValueError(
                f"variable {name_of(array)!r} is an amount ({array.attrs.get('units')}) whose interval the time bounds "
                f"{bounds!r} tell, and these are not here (a DataArray cannot hold them): give the whole dataset, or "
                "the attribute accutime, in minutes"
            )


# ---------------------------------------------------------------- the distance of times


def _step(array: xr.DataArray, time: Hashable | None, lead_time: Hashable | None) -> np.timedelta64 | None:
    """Distance of the lead times, else of the times."""
    if lead_time is not None and lead_time in array.coords:
        leads = windows.durations(array[lead_time])
        if leads is None:
            return None
        if leads.ndim and leads.size > 1:
            return _step_of_leads(array, np.sort(leads.ravel()))
        if leads.ravel()[0] > _NOTHING:
            return None
    if time is None or time not in array.coords or array.sizes.get(time, 0) < 2:
        return None
    differences = _distances(array, time)
    return np.timedelta64(windows.common_step(differences), "ns") if differences.size else None


def _distances(array: xr.DataArray, time: Hashable) -> np.ndarray:
    """Of the times, in whatever order they are."""
    differences = np.diff(np.sort(windows.real_times(array[time]).astype("i8")))
    return differences[differences > 0]


def _refuse_irregular(array: xr.DataArray, time: Hashable | None, step: np.timedelta64 | None) -> None:
    """Times that are no multiples of a step apart, but for long breaks between events."""
    if step is None or time is None:
        return
    length, differences = int(step.astype("i8")), _distances(array, time)
    allowed = 2 * max(windows.TIME_TOLERANCE * length, windows.stored_blur(array[time]))
    misses = np.abs(differences - np.maximum(np.rint(differences / length), 1) * length)
    odd = differences[(misses > allowed) & (differences < _LONG_BREAK * length)]
    if odd.size:
        raise ValueError(
            f"variable {name_of(array)!r} is an amount, and its times are {_words(step)} and {_words(odd[0])} apart, "
            "which leaves open what it is an amount of: give the attribute accutime, in minutes, or time bounds"
        )


def _step_of_leads(array: xr.DataArray, leads: np.ndarray) -> np.timedelta64:
    differences = np.diff(leads)
    if (differences != differences[0]).any():
        apart = ", ".join(_words(d) for d in np.unique(differences)[:4])
        raise ValueError(
            f"variable {name_of(array)!r} is an amount, and its lead times are {apart} apart, which leaves open "
            "what it is an amount of: give the attribute accutime, in minutes, or lead times of one step"
        )
    return differences[0]


def _since_start(array: xr.DataArray, lead_time: Hashable | None) -> Interval | None:
    """The lead time, where there is one; None at the start itself."""
    leads = windows.durations(array[lead_time]) if lead_time is not None and lead_time in array.coords else None
    if leads is None or leads.size != 1:
        raise ValueError(_counted_from_start(array))
    lead = leads.ravel()[0]
    return Interval(lead, _NOTHING) if lead > _NOTHING else None


def _counted_from_start(array: xr.DataArray) -> str:
    name = name_of(array)
    return (
        f"variable {name!r} is accumulated since the start of the run, so that its step is no interval of it: "
        f"make it a rate first with xnowcast.pairing.rain_per_step(ds, {name!r}, accumulated=True)"
    )


def _ns(duration: np.timedelta64) -> int:
    return int(duration.astype("m8[ns]").astype("i8"))


def _words(length: Any) -> str:
    return f"{int(np.int64(length.astype('m8[ns]') if isinstance(length, np.timedelta64) else length)) / 6e10:g} min"
