"""Input windows out of a time axis, gap-aware: which frames each forecast reads."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

OnGap = Literal["raise", "skip", "fill"]
InitTimes = Any  # "latest", "all", a time, a list of times or a slice of times


@dataclass(frozen=True)
class TimeAxis:
    """A checked time axis: rising, and regular but for gaps of whole steps.

    Attributes
    ----------
    times : numpy.ndarray
        datetime64[ns], as they are in the data.
    step : numpy.timedelta64
        Time between neighbouring frames.
    slots : numpy.ndarray
        Position of each time on the regular axis that starts at the first; a gap makes it jump.
    """

    times: np.ndarray
    step: np.timedelta64
    slots: np.ndarray


@dataclass(frozen=True)
class Windows:
    """The frames that each forecast reads.

    A frame that is in the data stands at one position. One that is missing is filled from the nearest on either
    side, linearly in time.

    Attributes
    ----------
    init_times : numpy.ndarray
        datetime64[ns], one per forecast: the time of the newest frame.
    before, after : numpy.ndarray
        ``(init_time, frame)`` positions along the time axis of the data; equal where the frame is there.
    weight : numpy.ndarray
        ``(init_time, frame)`` share of the frame ``after``; 0 where the frame is there.
    skipped : numpy.ndarray
        Init times left out because of a gap.
    """

    init_times: np.ndarray
    before: np.ndarray
    after: np.ndarray
    weight: np.ndarray
    skipped: np.ndarray


def time_axis(array: xr.DataArray, time: Hashable | None) -> TimeAxis:
    """Check the time axis of a field and find its step.

    Parameters
    ----------
    array : xarray.DataArray
    time : hashable or None
        Name of the time dim, as `xnowcast.cf.find_field` found it.

    Returns
    -------
    TimeAxis

    Raises
    ------
    ValueError
        If there is no time axis or no times on it, the times are no datetime64, they repeat or fall, or their
        distances are no multiples of one step.

    Examples
    --------
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
    """The times of a coordinate as datetime64[ns]; cftime dates of the real calendar are converted.

    Parameters
    ----------
    coordinate : xarray.DataArray

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    ValueError
        If it holds no times, times are missing, or their calendar is a climate model's.

    Examples
    --------
    >>> real_times(xr.DataArray(np.array(["2024-06-01"], "M8[s]"), dims="time"))
    array(['2024-06-01T00:00:00.000000000'], dtype='datetime64[ns]')
    """
    if coordinate.dtype == object and coordinate.size and hasattr(coordinate.values.flat[0], "calendar"):
        return _from_cftime(coordinate.values)
    if coordinate.dtype.kind == "M":
        times = coordinate.values.astype("M8[ns]")
        if np.isnat(times).any():
            raise ValueError(
                f"coordinate {coordinate.name!r} holds {np.isnat(times).sum()} missing times (NaT): drop them"
            )
        return times
    raise ValueError(
        f"coordinate {coordinate.name!r} holds {coordinate.dtype}, not times: decode it with xr.decode_cf(ds), or "
        "assign datetime64 values"
    )


def _from_cftime(dates: np.ndarray) -> np.ndarray:
    calendar = dates.flat[0].calendar
    if calendar not in ("standard", "gregorian", "proleptic_gregorian"):
        raise ValueError(
            f"the times are cftime dates of the calendar {calendar!r}, which is no calendar that radars keep; if the "
            "dates are right, convert them with ds.convert_calendar('standard', use_cftime=False)"
        )
    return np.array([date.isoformat() for date in dates.flat], dtype="M8[ns]")


def common_step(differences: np.ndarray) -> int:
    """The most common distance between times.

    Parameters
    ----------
    differences : numpy.ndarray
        Integers above 0.

    Returns
    -------
    int
        Where several are equally common the smallest that all are multiples of, else the middle one.

    Examples
    --------
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

    Parameters
    ----------
    axis : TimeAxis
    input_frames : int
        How many frames a forecast reads, the newest at the init time.
    init_times : "latest", "all", time, list of times or slice of times
        A slice is by label, both ends included; its step is a number of frames or a duration such as "30min".
    on_gap : {"raise", "skip", "fill"}
        What to do with a forecast whose window crosses a missing frame: refuse, leave that forecast out, or
        let the engine fill the frame from its neighbours in time.

    Returns
    -------
    Windows

    Raises
    ------
    ValueError
        If there are fewer frames than needed, an init time is not in the data, or a window crosses a gap.

    Examples
    --------
    >>> times = np.datetime64("2024-06-01T00:00", "ns") + np.arange(5) * np.timedelta64(5, "m")
    >>> axis = time_axis(xr.DataArray(np.zeros(5), dims="time", coords={"time": times}), "time")
    >>> input_windows(axis, 3, "all").before.tolist()
    [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    """
    if on_gap not in ("raise", "skip", "fill"):
        raise ValueError(f"on_gap is {on_gap!r}; it can be 'raise', 'skip' or 'fill'")
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
    there = axis.slots[after] == needed
    broken = ~there.all(axis=1)
    if broken.any() and on_gap == "raise":
        raise ValueError(_gap_message(axis, chosen, needed, there))
    if broken.all() and on_gap == "skip":
        raise ValueError(f"every one of the {broken.size} forecasts would read across a gap, so none is left")
    kept = ~broken if on_gap == "skip" else slice(None)
    before = np.where(there, after, after - 1)
    between = np.where(there, 1, axis.slots[after] - axis.slots[before])
    weight = ((needed - axis.slots[before]) / between).astype(np.float32)
    skipped = axis.times[chosen[broken]] if on_gap == "skip" else axis.times[:0]
    return Windows(axis.times[chosen[kept]], before[kept], after[kept], weight[kept], skipped)


def _gap_message(axis: TimeAxis, chosen: np.ndarray, needed: np.ndarray, there: np.ndarray) -> str:
    broken = ~there.all(axis=1)
    row = np.flatnonzero(broken)[0]
    slot = needed[row][~there[row]][0]
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
    found = index.get_indexer(wanted)
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
        times = pd.DatetimeIndex([pd.Timestamp(time) for time in (init_times if several else [init_times])]).as_unit(
            "ns"
        )
    except (TypeError, ValueError):
        times = pd.DatetimeIndex([pd.NaT])
    if times.hasnans or (times.size and np.asarray(init_times).dtype.kind in "iuf"):  # bare numbers are no times
        raise ValueError(
            f"init_times is {init_times!r}; it can be 'latest', 'all', a time such as '2024-06-01T12:00', a list of "
            "times or a slice of times"
        )
    return times.tz_convert(None) if times.tz is not None else times  # the data's times are UTC by CF


def to_timedelta(value: Any, what: str) -> np.timedelta64:
    """A duration as timedelta64[ns].

    Parameters
    ----------
    value : str, datetime.timedelta, numpy.timedelta64 or pandas.Timedelta
        ``"60min"``, ``"1h"`` ...; a bare number is refused, because it has no unit.
    what : str
        What it is, for the message.

    Returns
    -------
    numpy.timedelta64

    Raises
    ------
    ValueError
        If it is no duration.

    Examples
    --------
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
    """How many steps reach a lead time.

    Parameters
    ----------
    step : numpy.timedelta64
        Time between frames.
    lead_time : duration, optional
        The longest lead time, a multiple of the step; 60 minutes when neither is given.
    steps : int, optional
        The number of steps instead.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If both are given, or the lead time is no multiple of the step.

    Examples
    --------
    >>> lead_steps(np.timedelta64(5, "m"), lead_time="1h")
    12
    """
    if steps is not None:
        if lead_time is not None:
            raise ValueError("lead_time and steps both say how far to forecast: give one of them")
        if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
            raise ValueError(f"steps is {steps!r}; it must be a whole number of 1 or more")
        return int(steps)
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
