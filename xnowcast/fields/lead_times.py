"""Lead times that a post-processor reads together: which dim they lie along, and which of them are complete."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import xarray as xr

from xnowcast.fields import cf, windows

_FAR = np.iinfo("i8").max


@dataclass(frozen=True)
class LeadWindows:
    """The lead times of a forecast for which all that a model reads is there.

    ``dim``: what they lie along. ``step``: time between neighbours. ``positions``: ``(n, t)`` where along the dim what
    is read for each of them lies. ``corrected``: ``(n,)`` where they lie themselves, in the order of the data.
    ``left_out``: the other lead times, or times, in words; empty where there are none.
    """

    dim: Hashable
    step: np.timedelta64
    positions: np.ndarray
    corrected: np.ndarray
    left_out: str


def lead_windows(
    array: xr.DataArray, dims: Sequence[Hashable], offsets: Sequence[int], made_for: timedelta | None = None
) -> LeadWindows:
    """Find what a model reads for each lead time, by what the lead times are and not by where they stand.

    Parameters
    ----------
    array : xarray.DataArray
        With lead times along a dim, told by CF standard name or common names, in any order; without any, with the valid
        times of one run, or of a series, along a dim.
    dims : sequence of hashable
        Dims that may be it: those besides y and x.
    offsets : sequence of int
        In steps from the lead time that is corrected, which is 0.
    made_for : datetime.timedelta, optional
        The model's step. It is taken where neighbours lie so far apart, else the most common of their distances.

    Raises
    ------
    ValueError
        If there is no such dim, its times repeat or tell no duration, or there is no lead time for which all is there.

    Notes
    -----
    Forecasts may be hourly at first and then in steps of three hours. What has a neighbour nearer than a step, and may
    be an amount of that shorter time, is not read.

    Examples
    --------
    >>> hours = np.array([25, 26, 27, 28, 31]).astype("m8[h]").astype("m8[ns]")
    >>> rain = xr.DataArray(np.zeros(5), {"lead_time": hours}, "lead_time")
    >>> found = lead_windows(rain, ["lead_time"], (-2, -1, 0))
    >>> found.positions.tolist(), found.corrected.tolist(), found.left_out
    ([[0, 1, 2], [1, 2, 3]], [2, 3], 'lead_time 25 h, 26 h and 31 h')
    """
    dim = lead_dim(array, dims)
    times = _times(array, dim)
    order = np.argsort(times)
    differences = np.diff(times[order].astype("i8"))
    if (differences == 0).any():
        raise ValueError(f"{_words(times[order][1:][differences == 0][:1], dim)} stands twice: drop one")
    if not differences.size:
        raise ValueError(_too_few(times, dim, offsets))
    step = _step(differences, made_for)
    wanted = times[:, None] + step * np.asarray(offsets)
    near = np.minimum(np.searchsorted(times, wanted, sorter=order), len(times) - 1)
    positions = order[near]
    nearest = np.minimum(np.append(differences, _FAR), np.append(_FAR, differences))[np.argsort(order)]
    complete = ((times[positions] == wanted) & (nearest[positions] >= step.astype("i8"))).all(axis=1)
    if not complete.any():
        raise ValueError(_too_few(times, dim, offsets))
    left_out = "" if complete.all() else _words(times[~complete], dim)
    return LeadWindows(dim, step, positions[complete], np.flatnonzero(complete), left_out)


def _step(differences: np.ndarray, made_for: timedelta | None) -> np.timedelta64:
    wanted = None if made_for is None else np.timedelta64(made_for, "ns")
    if wanted is not None and (differences == wanted.astype("i8")).any():
        return wanted
    return np.timedelta64(windows.common_step(differences), "ns")


def lead_dim(array: xr.DataArray, dims: Sequence[Hashable]) -> Hashable:
    """The dim along which the lead times of a run lie, of ``dims``; without lead times the dim of times.

    ValueError if there is none: fields of one lead time do not follow one another, even where runs do.

    >>> lead_dim(xr.DataArray(np.zeros((2, 3)), dims=("init_time", "step")), ["init_time", "step"])
    'step'
    """
    lead = cf.forecast_coordinate(array, "lead_time", dims)
    if lead in dims:
        return lead
    init = cf.forecast_coordinate(array, "init_time", dims)
    dated = [d for d in dims if d in array.coords and d != init and array[d].dtype.kind in "MO"]
    if lead is None and len(dated) == 1:
        return dated[0]
    what = f"one {lead}" if lead is not None else "no dim of lead times or of times"
    raise ValueError(f"the model reads several lead times together, and the data have {what}, beside {_listed(dims)}")


def _listed(dims: Sequence[Hashable]) -> str:
    return ", ".join(map(repr, dims)) or "no other dim"


def _times(array: xr.DataArray, dim: Hashable) -> np.ndarray:
    """Lead times, timedelta64[ns], or times, datetime64[ns]."""
    along = [name for name, c in array.coords.items() if c.dims == (dim,)]
    name = dim if dim in array.coords else next(iter(cf.named_as(array, "lead_time", along)), None)
    if name is None:
        raise ValueError(f"dim {dim!r} has no coordinate: give it the lead times, ds.assign_coords({dim}=...)")
    coordinate = array[name]
    return windows.real_times(coordinate) if coordinate.dtype.kind in "MO" else cf.durations(coordinate)


def _too_few(times: np.ndarray, dim: Hashable, offsets: Sequence[int]) -> str:
    read = ", ".join(f"{offset:+d}" if offset else "0" for offset in offsets)
    return (
        f"the model reads lead times at {read} steps from the one that it corrects, and there is none of which all are "
        f"in the data: {_words(times, dim)}. Give it the lead times beside those that you want"
    )


def _words(times: np.ndarray, dim: Hashable) -> str:
    """Lead times or times, at most six of them."""
    if times.dtype.kind == "m":
        words = [f"{hours:g} h" for hours in (np.sort(times) / np.timedelta64(1, "h")).tolist()]
    else:
        words = [str(time).replace("T", " ") for time in np.sort(times).astype("M8[m]")]
    words = [*words[:5], f"{len(words) - 5} more"] if len(words) > 6 else words
    return f"{dim} " + (" and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0])
