"""Times: read once, without the rounding of their storage, and cut into the windows that forecasts read, gap-aware."""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from xnowcast import check
from xnowcast.fields import units

OnGap = Literal["raise", "skip", "fill"]
InitTimes = Any  # "latest", "all", a time, a list of times or a slice of times
T_Xarray = TypeVar("T_Xarray", xr.Dataset, xr.DataArray)

TIME_TOLERANCE = 0.01
"""Part of a step by which a time may miss the regular axis of the others and still be on it, as places may."""

# Doubles of days since the year 1 are true to 10 us, and milliseconds are cut off by some writers; no radar is as fast.
_SECOND, _ROUNDING = 10**9, 50 * 10**6  # ns

COMMON_MINUTES = (1, 2, 2.5, 3, 4, 5, 6, 7.5, 10, 12, 15, 20, 30, 60, 120, 180, 360, 720, 1440)
"""Steps of data that people make."""

_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")

# A clock or a date, and the zone after it.
_ZONED = re.compile(r"(?P<clock>\d{4}-\d\d-\d\d(?:[T ].*?)?)\s?(?P<zone>Z|UTC|[+-]\d\d:?\d\d|(?<=[T: ]\d\d)[+-]\d\d)")


@dataclass(frozen=True)
class TimeAxis:
    """A checked time axis: rising, and regular but for gaps of whole steps.

    ``times``: datetime64[ns], as they are in the data. ``step``: time between neighbouring frames. ``slots``: position
    of each time on the regular axis that starts at the first; a gap makes it jump.
    """

    times: np.ndarray
    step: np.timedelta64
    slots: np.ndarray


@dataclass(frozen=True)
class Windows:
    """The frames that each forecast reads.

    A frame that is in the data stands at one position. One that is missing is filled from the nearest on either
    side, linearly in time.

    ``init_times``: datetime64[ns], one per forecast: the time of the newest frame. ``before, after``: ``(init_time,
    frame)`` positions along the time axis of the data; equal where the frame is there. ``weight``: ``(init_time,
    frame)`` share of the frame ``after``; 0 where the frame is there. ``skipped``: init times left out because of a
    gap.
    """

    init_times: np.ndarray
    before: np.ndarray
    after: np.ndarray
    weight: np.ndarray
    skipped: np.ndarray


def time_axis(array: xr.DataArray, time: Hashable | None) -> TimeAxis:
    """Check the time axis of a field and find its step.

    ``time``: name of the time dim, as `xnowcast.cf.find_field` found it. ValueError if there is no time axis or no
    times on it, the times are no datetime64, they repeat or fall, or their distances are no multiples of one step.

    >>> times = np.datetime64("2024-06-01T00:00", "ns") + np.array([0, 5, 10, 25, 30]) * np.timedelta64(1, "m")
    >>> axis = time_axis(xr.DataArray(np.zeros(5), dims="time", coords={"time": times}), "time")
    >>> axis.step.astype("m8[m]"), axis.slots.tolist()
    (np.timedelta64(5,'m'), [0, 1, 2, 5, 6])
    """
    if time is None:
        raise ValueError(
            f"variable {array.name!r} with dims {array.dims} has no time axis: a forecast continues a sequence"
        )
    if time not in array.coords:
        raise ValueError(f"dim {time!r} has no coordinate: give it the times, ds.assign_coords({time}=...)")
    times = real_times(array[time])
    if times.size < 2:
        raise ValueError(f"there is {times.size} time on {time!r}; two or more are needed to know the step")
    differences = np.diff(times.astype("i8"))
    if (differences == 0).any():
        first = times[1:][differences == 0][0]
        raise ValueError(f"time {_clock(first)} stands twice: drop one with ds.drop_duplicates({time!r})")
    if (differences < 0).any():
        raise ValueError(
            f"the times fall after {_clock(times[:-1][differences < 0][0])}: sort them with ds.sortby({time!r})"
        )
    step = common_step(differences)
    _refuse_coarse(array[time], differences, step)
    if (differences % step).any():
        odd = np.flatnonzero(differences % step)[0]
        raise ValueError(
            f"the times are irregular: the step is {_minutes(step)}, but {_clock(times[odd + 1])} follows "
            f"{_clock(times[odd])} after {_minutes(differences[odd])}; put them on a regular axis first, for "
            f"example ds.resample({time}='{_minutes(step).replace(' ', '')}').nearest(tolerance='1min')"
        )
    slots = np.concatenate([[0], np.cumsum(differences // step)])
    return TimeAxis(times, np.timedelta64(int(step), "ns"), slots)


def real_times(coordinate: xr.DataArray) -> np.ndarray:
    """The times of a coordinate as datetime64[ns] in UTC, `rounded`; cftime dates of the real calendar are converted.

    ValueError if it holds no times, some are missing, or their calendar is a climate model's.

    >>> real_times(xr.DataArray(np.array(["2024-06-01T12:04:59.999999"], "M8[us]"), dims="time"))
    array(['2024-06-01T12:05:00.000000000'], dtype='datetime64[ns]')
    """
    if coordinate.dtype.kind == "M":
        times = coordinate.values.astype("M8[ns]")
    elif _holds_dates(coordinate):
        times = np.array([utc_time(date).to_datetime64() for date in coordinate.values.flat], dtype="M8[ns]")
        times = times.reshape(coordinate.shape)
    else:
        raise ValueError(
            f"coordinate {coordinate.name!r} holds {coordinate.dtype}, not times: decode it with xr.decode_cf(ds), or "
            "assign datetime64 values"
        )
    if np.isnat(times).any():
        raise ValueError(f"coordinate {coordinate.name!r} holds {np.isnat(times).sum()} missing times (NaT): drop them")
    return rounded(times, stored_blur(coordinate))


def with_real_times(obj: T_Xarray) -> T_Xarray:
    """Data whose times are datetime64 in UTC and, like their lead times, `rounded`: what every verb reads.

    Returned: the very same where there is nothing to do. Coordinates that are lazy, miss times or are in the calendar
    of a climate model stay as they are.

    >>> minutes = np.array([0, 5, 10]) / 1440  # as doubles of days
    >>> days = (minutes * 86400e9).astype("m8[ns]") + np.datetime64("2024-06-01") - np.timedelta64(3, "ns")
    >>> with_real_times(xr.DataArray(np.zeros(3), {"time": days}, "time")).time.values[1]
    np.datetime64('2024-06-01T00:05:00.000000000')
    """
    found = {}
    for name, coordinate in obj.coords.items():
        values = _real_values(coordinate)
        if values is not None:
            found[name] = xr.Variable(coordinate.dims, values, coordinate.attrs, coordinate.encoding)
    return obj.assign_coords(found) if found else obj


def _real_values(coordinate: xr.DataArray) -> np.ndarray | None:
    """Times or durations as they should be; None where they are so, or are none."""
    if coordinate.chunks is not None or not coordinate.size:
        return None
    if coordinate.dtype.kind in "mM":
        stored = coordinate.values
        if np.isnat(stored).any():
            return None
        values = rounded(stored.astype(f"{stored.dtype.kind}8[ns]"), stored_blur(coordinate))
        return None if (values == stored).all() else values
    zones = {str(v) for k, v in coordinate.attrs.items() if str(k).lower() in ("timezone", "time_zone", "tz")}
    known = _holds_dates(coordinate) and not zones  # a zone that an attribute names is for `pairing.utc_times`
    calendar = getattr(coordinate.values.flat[0], "calendar", _CALENDARS[0]) if known else None
    return real_times(coordinate) if calendar in _CALENDARS else None


def _holds_dates(coordinate: xr.DataArray) -> bool:
    """Whether it holds objects that are dates: of cftime, datetime or pandas."""
    return coordinate.dtype == object and coordinate.size > 0 and hasattr(coordinate.values.flat[0], "isoformat")


def rounded(times: np.ndarray, blur: int = 0) -> np.ndarray:
    """Times or durations without the rounding of the numbers that they were stored as.

    ``times``: datetime64[ns] or timedelta64[ns]. ``blur``: nanoseconds by which they may be off, where the numbers are
    known to have been coarse. Returned: what lies within 50 ms of a whole second is that second. Times along one dim
    that all lie close to a regular axis of whole seconds are on it: within 1 % of its step, or within what the coarse
    numbers explain, if that is less than a third of the step and no other common step would do as well.

    >>> jitter = np.array([1, 300, 598, 902], "m8[s]").astype("m8[ns]")
    >>> rounded(np.datetime64("2024-06-01", "ns") + jitter).astype("M8[s]").astype(str)[1:3].tolist()
    ['2024-06-01T00:05:00', '2024-06-01T00:10:00']
    """
    stored = times.astype("i8")
    whole = (stored + _SECOND // 2) // _SECOND * _SECOND
    near = (np.abs(stored - whole) <= _ROUNDING) & ~np.isnat(times)
    result = np.where(near, whole, stored)
    if times.ndim == 1 and times.size > 1 and times.dtype.kind == "M" and not np.isnat(times).any():
        result = _on_a_regular_axis(result, blur)
    return result.astype(times.dtype)


def _on_a_regular_axis(times: np.ndarray, blur: int) -> np.ndarray:
    differences = np.diff(times)
    if (differences <= 0).any():
        return times
    step = common_step(differences)
    if not (differences % step).any() and step % _SECOND == 0 and blur <= TIME_TOLERANCE * step:
        return times
    unit = int(np.gcd.reduce((differences + 500) // 1000)) * 1000  # decoding is off by some nanoseconds
    # Differences of a few units that are binary fractions of a day or an hour: last digits of single-precision numbers.
    if unit % _SECOND and unit < 0.7 * np.median(differences):
        blur = max(blur, unit // 2)
    near = differences[differences <= 1.5 * np.median(differences)]
    mean, reach = near.mean() / _SECOND, 2 * blur / _SECOND / near.size
    known = [60 * m for m in COMMON_MINUTES if abs(60 * m - mean) <= reach + TIME_TOLERANCE * mean]
    # of coarse numbers the step has to be one that people use, and no other such may do as well
    wanted = known if blur > TIME_TOLERANCE * mean * _SECOND else [*known[:1], 60 * round(mean / 60), round(mean)]
    if any(blur > s * _SECOND / 3 for s in wanted) or (len(wanted) > 1 and wanted is known):
        return times
    fits = (_fitted(times, round(s) * _SECOND, blur) for s in wanted if s)
    return next((fit for fit in fits if fit is not None), times)


def _fitted(times: np.ndarray, step: int, blur: int) -> np.ndarray | None:
    """The times on an axis of this step, which begins at a whole step, else minute, else second; None if some miss it.

    Every beginning is tried that the coarseness of the times allows, and the one that they miss least is taken.
    """
    allowed = max(round(TIME_TOLERANCE * step), blur + _ROUNDING)
    for unit in (step, 60 * _SECOND, _SECOND):
        reach = min(allowed // unit + 1, 60) if unit < step else 0
        starts = unit * (times[0] % step // unit + np.arange(-reach, reach + 2)) if reach else np.zeros(1, "i8")
        fits = [start + (times - start + step // 2) // step * step for start in starts]
        off = [np.abs(times - fit).max() for fit in fits]
        best = int(np.argmin(off))
        if off[best] <= allowed and (np.diff(fits[best]) > 0).all():
            return fits[best]
    return None


def stored_blur(coordinate: xr.DataArray) -> int:
    """Nanoseconds by which times may be off that were stored as numbers since an epoch: half the distance of these.

    It is 0 of whole numbers, and where the encoding does not tell.
    """
    dtype, stated = coordinate.encoding.get("dtype"), str(coordinate.encoding.get("units", ""))
    unit, _, epoch = stated.strip().partition(" since ")
    if dtype is None or np.dtype(dtype).kind != "f" or not epoch or (scale := units.affine(unit, "s")) is None:
        return 0
    seconds = scale[0]
    try:
        span = np.abs(coordinate.values.astype("M8[ns]") - utc_time(epoch).to_datetime64())
    except (TypeError, ValueError):  # a year before those of datetime64[ns]
        return 0
    largest = span.astype("i8").max() / _SECOND / seconds
    return int(float(np.spacing(np.dtype(dtype).type(largest))) / 2 * seconds * _SECOND)


def durations(coordinate: xr.DataArray) -> np.ndarray | None:
    """Lead times as timedelta64[ns], `rounded`, of durations or numbers with units of time; None of bare numbers.

    >>> durations(xr.DataArray([0.25, 0.5], attrs={"units": "hours"})).astype("m8[m]").astype(int).tolist()
    [15, 30]
    """
    values = coordinate.values
    if values.dtype.kind == "m":
        return rounded(values.astype("m8[ns]"))
    scale = units.affine(coordinate.attrs.get("units"), "s") if values.dtype.kind in "iuf" else None
    return None if scale is None else rounded(np.round(values * scale[0] * 1e9).astype("i8").astype("m8[ns]"))


def _refuse_coarse(coordinate: xr.DataArray, differences: np.ndarray, step: int) -> None:
    """Times that were stored so coarsely that they do not tell their step."""
    blur = stored_blur(coordinate)
    several = differences.size > 1 and not (differences % step).any() and step / 60 / _SECOND in COMMON_MINUTES
    fits = blur <= TIME_TOLERANCE * step + _ROUNDING or (several and blur <= step / 3)
    if not fits or step % _SECOND:
        known = f"true to {blur / _SECOND:.3g} s" if blur else "of broken seconds"
        dtype = np.dtype(coordinate.encoding.get("dtype", "f8")).name
        raise ValueError(
            f"the times are {_minutes(step)} apart, and as they were stored (as {dtype}) they are {known}, which "
            f"leaves the step open: assign the right times, ds.assign_coords({coordinate.name}=...), or store them as "
            "integers"
        )


def utc_time(value: Any) -> pd.Timestamp:
    """A time in UTC, which it is without a zone, to the second where it is within 50 ms of one; else ValueError.

    >>> utc_time("2024-06-01T02:40+02:00"), utc_time("2024-06-01Z")
    (Timestamp('2024-06-01 00:40:00'), Timestamp('2024-06-01 00:00:00'))
    """
    calendar = getattr(value, "calendar", None)
    if calendar is not None:
        if calendar not in _CALENDARS:
            raise ValueError(
                f"the times are cftime dates of the calendar {calendar!r}, which is no calendar that radars keep; if "
                "the dates are right, convert them with ds.convert_calendar('standard', use_cftime=False)"
            )
        value = value.isoformat()
    value = value.values if isinstance(value, xr.DataArray) else value
    value = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if not isinstance(value, str | date | np.datetime64):  # a bare number is no time; datetimes are dates
        raise ValueError(f"{value!r} is no time; write it as '2024-06-01T12:00'")
    clock, zone = _without_zone(value)
    try:
        time = pd.Timestamp(clock).tz_localize(zone) if zone is not None else pd.Timestamp(clock)
    except (TypeError, ValueError):
        time = pd.NaT
    if time is pd.NaT:
        raise ValueError(f"{value!r} is no time; write it as '2024-06-01T12:00'")
    naive = time.as_unit("ns").tz_convert(None) if time.tz is not None else time.as_unit("ns")
    return pd.Timestamp(rounded(np.atleast_1d(naive.to_datetime64()))[0])


def _without_zone(value: Any) -> tuple[Any, str | None]:
    """A time as text without its zone, and the zone; pandas knows a zone after a clock, not after a date."""
    found = _ZONED.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return value, None
    zone = found["zone"]
    return found["clock"], "UTC" if zone in ("Z", "UTC") else f"{zone[:3]}:{zone[-2:] if len(zone) > 3 else '00'}"


def utc_slice(asked: slice) -> slice:
    """A slice of times whose ends are in UTC; texts without a zone stay labels, whose last hour or day is all included.

    >>> utc_slice(slice("2024-06-01T02+02:00", "2024-06-01T03+02:00"))
    slice(Timestamp('2024-06-01 00:00:00'), Timestamp('2024-06-01 01:59:59.999999'), None)
    """
    start, stop = (_utc_label(end) for end in (asked.start, asked.stop))
    if isinstance(asked.stop, str) and isinstance(stop, pd.Timestamp):
        clock, _ = _without_zone(asked.stop)
        stop += pd.Period(clock).end_time - pd.Timestamp(clock)
    return slice(start, stop, asked.step)


def _utc_label(end: Any) -> Any:
    plain = end is None or isinstance(end, int | float | np.number)
    if plain or (isinstance(end, str) and _without_zone(end)[1] is None):
        return end
    return utc_time(end)


def period(text: str) -> tuple[np.datetime64, np.datetime64]:
    """First time of a period START/END, and the one before which it ends; either may be left out.

    >>> period("2017/2018-06-01T02:00+02:00")[1]
    np.datetime64('2018-06-01T00:00:00.000000000')
    """
    first, slash, last = text.partition("/")
    if not slash or not (first or last):
        raise ValueError(f"{text!r} is no period; write it as start/end, such as 2017-01-01/2019-01-01")
    start, end = (utc_time(end or default) for end, default in ((first, "1678-01-01"), (last, "2262-01-01")))
    return start.to_datetime64(), end.to_datetime64()


def common_step(differences: np.ndarray) -> int:
    """The most common of integers above 0; of several the smallest that all are multiples of, else the middle one.

    >>> common_step(np.array([5, 5, 15, 15]))
    5
    """
    values, counts = np.unique(differences, return_counts=True)
    candidates = values[counts == counts.max()]
    whole = [step for step in candidates if not (differences % step).any()]
    return int(whole[0] if whole else candidates[len(candidates) // 2])


def input_windows(
    axis: TimeAxis, input_frames: int, init_times: InitTimes = "latest", *, on_gap: OnGap = "raise"
) -> Windows:
    """Choose the frames that each forecast reads.

    ``input_frames``: how many frames a forecast reads, the newest at the init time. ``init_times``: a slice is by
    label, both ends included; its step is a number of frames or a duration such as "30min". ``on_gap``: what to do with
    a forecast whose window crosses a missing frame: refuse, leave that forecast out, or let the engine fill the frame
    from its neighbours in time. ValueError if there are fewer frames than needed, an init time is not in the data, or a
    window crosses a gap.

    >>> times = np.datetime64("2024-06-01T00:00", "ns") + np.arange(5) * np.timedelta64(5, "m")
    >>> axis = time_axis(xr.DataArray(np.zeros(5), dims="time", coords={"time": times}), "time")
    >>> input_windows(axis, 3, "all").before.tolist()
    [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    """
    check.one_of("on_gap", on_gap, ("raise", "skip", "fill"))
    if axis.times.size < input_frames:
        raise ValueError(
            f"the model reads {input_frames} frames, and there are {axis.times.size}; 'persistence' reads one"
        )
    chosen = _choose(axis, init_times, input_frames)
    needed = axis.slots[chosen][:, None] + np.arange(1 - input_frames, 1)
    too_early = needed[:, 0] < 0
    if too_early.any():
        first = axis.times[chosen[too_early][0]]
        raise ValueError(
            f"the model reads {input_frames} frames, and fewer lie at or before the init time {_clock(first)}: "
            f"the data begin at {_clock(axis.times[0])}"
        )
    after = np.searchsorted(axis.slots, needed)
    present = axis.slots[after] == needed
    broken = ~present.all(axis=1)
    if broken.any() and on_gap == "raise":
        raise ValueError(_gap_message(axis, chosen, needed, present))
    if broken.all() and on_gap == "skip":
        raise ValueError(f"every one of the {broken.size} forecasts would read across a gap, so none is left")
    kept = ~broken if on_gap == "skip" else slice(None)
    before = np.where(present, after, after - 1)
    between = np.where(present, 1, axis.slots[after] - axis.slots[before])
    weight = ((needed - axis.slots[before]) / between).astype(np.float32)
    skipped = axis.times[chosen[broken]] if on_gap == "skip" else axis.times[:0]
    return Windows(axis.times[chosen[kept]], before[kept], after[kept], weight[kept], skipped)


def _gap_message(axis: TimeAxis, chosen: np.ndarray, needed: np.ndarray, present: np.ndarray) -> str:
    broken = ~present.all(axis=1)
    row = np.flatnonzero(broken)[0]
    slot = needed[row][~present[row]][0]
    return (
        f"{broken.sum()} of {broken.size} forecasts would read across a gap: the first, of "
        f"{_clock(axis.times[chosen[row]])}, misses the frame of {_clock(axis.times[0] + slot * axis.step)}. Leave "
        "such forecasts out with on_gap='skip', or fill the frames from their neighbours with on_gap='fill'"
    )


def _choose(axis: TimeAxis, init_times: InitTimes, input_frames: int) -> np.ndarray:
    """Positions of the init times."""
    index = pd.DatetimeIndex(axis.times)
    if isinstance(init_times, str) and init_times == "latest":
        return np.array([axis.times.size - 1])
    if isinstance(init_times, str) and init_times == "all":
        return np.flatnonzero(axis.slots >= input_frames - 1)
    if isinstance(init_times, slice):
        return _choose_slice(axis, index, init_times, input_frames)
    wanted = _as_times(init_times)
    if wanted.size == 0:
        raise ValueError("init_times is empty: give at least one time, 'latest' or 'all'")
    if not wanted.is_unique:
        raise ValueError(f"init time {_clock(wanted[wanted.duplicated()][0])} is asked for twice")
    found = index.get_indexer(wanted, method="nearest", tolerance=TIME_TOLERANCE * pd.Timedelta(axis.step))
    if (found < 0).any():
        absent = wanted[found < 0][0]
        nearest = axis.times[np.abs(axis.times - absent.to_datetime64()).argmin()]
        raise ValueError(
            f"init time {_clock(absent.to_datetime64())} is not in the data, which run from "
            f"{_clock(axis.times[0])} to {_clock(axis.times[-1])}; the nearest is {_clock(nearest)}"
        )
    return found


def _choose_slice(axis: TimeAxis, index: pd.DatetimeIndex, chosen: slice, input_frames: int) -> np.ndarray:
    try:
        chosen = utc_slice(chosen)
        span = index.slice_indexer(chosen.start, chosen.stop)
    except (TypeError, ValueError) as error:
        raise ValueError(f"init_times={chosen} is no slice of times: {error}") from None
    stride = _stride(chosen.step, axis.step)
    positions = np.arange(axis.times.size)[span]
    if chosen.start is None:
        positions = positions[axis.slots[positions] >= input_frames - 1]
    if positions.size == 0:
        raise ValueError(
            f"no time lies in init_times={chosen}; the data run from {_clock(axis.times[0])} to "
            f"{_clock(axis.times[-1])}"
        )
    return positions[(axis.slots[positions] - _first_slot(axis, chosen, positions)) % stride == 0]


def _first_slot(axis: TimeAxis, chosen: slice, positions: np.ndarray) -> int:
    """Where the strides of a slice begin: at its start, even where that frame is missing, else at its first frame."""
    if chosen.start is not None:
        slot, rest = divmod(
            int((pd.Timestamp(chosen.start) - pd.Timestamp(axis.times[0])).value), int(axis.step.astype("i8"))
        )
        if rest == 0:
            return slot
    return int(axis.slots[positions[0]])


def _stride(step: Any, time_step: np.timedelta64) -> int:
    if step is None:
        return 1
    if isinstance(step, int | np.integer):
        stride, rest = int(step), 0
    else:
        stride, rest = divmod(to_timedelta(step, "the step of init_times").astype("i8"), time_step.astype("i8"))
    if stride < 1 or rest:
        raise ValueError(f"the step of init_times is {step}; it must be a multiple of the data's {_minutes(time_step)}")
    return int(stride)


def _as_times(init_times: Any) -> pd.DatetimeIndex:
    if isinstance(init_times, xr.DataArray):
        init_times = init_times.values
    several = np.ndim(init_times) > 0
    try:
        times = [utc_time(time) for time in (init_times if several else [init_times])]
    except (TypeError, ValueError) as error:
        if "cftime" in str(error):
            raise
        raise ValueError(
            f"init_times is {init_times!r}; it can be 'latest', 'all', a time such as '2024-06-01T12:00', a list of "
            "times or a slice of times"
        ) from None
    return pd.DatetimeIndex(times, dtype="M8[ns]")


def to_timedelta(value: Any, what: str) -> np.timedelta64:
    """A duration such as ``"60min"`` as timedelta64[ns]; a bare number, which has no unit, and others are a ValueError.

    >>> to_timedelta("1h", "the lead time").astype("m8[m]")
    np.timedelta64(60,'m')
    """
    bare = isinstance(value, int | float | np.number) and not isinstance(value, np.timedelta64)
    if bare or (isinstance(value, str) and value.strip().isdigit()):
        raise ValueError(f"{what} is the bare number {value}; write it with its unit, such as '60min'")
    try:
        duration = pd.Timedelta(value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {value!r}, which is no duration; write it as '60min' or '1h'") from None
    if duration is pd.NaT or duration <= pd.Timedelta(0):
        raise ValueError(f"{what} is {value!r}; it must be longer than zero")
    return duration.as_unit("ns").to_timedelta64()


def lead_steps(step: np.timedelta64, *, lead_time: Any = None, steps: int | None = None) -> int:
    """How many steps reach a lead time, 60 minutes by default; ValueError if it is no multiple, or both are given.

    >>> lead_steps(np.timedelta64(5, "m"), lead_time="1h")
    12
    """
    if steps is not None:
        if lead_time is not None:
            raise ValueError("lead_time and steps both say how far to forecast: give one of them")
        return check.whole("steps", steps, 1)
    duration = to_timedelta("60min" if lead_time is None else lead_time, "the lead time")
    step = step.astype("m8[ns]")
    count, rest = divmod(duration.astype("i8"), step.astype("i8"))
    if rest or count < 1:
        what = "60 min (the default)" if lead_time is None else str(lead_time)
        raise ValueError(f"the lead time of {what} is no multiple of the data's step of {_minutes(step)}")
    return int(count)


def _clock(time: np.datetime64) -> str:
    return pd.Timestamp(time).isoformat(sep=" ", timespec="seconds").removesuffix(":00")


def _minutes(step: np.timedelta64 | int) -> str:
    return f"{np.timedelta64(int(np.int64(step)), 'ns') / np.timedelta64(1, 'm'):g} min"
