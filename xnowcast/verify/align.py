"""Observations and forecasts on the same coordinates: checked exactly, or aligned by valid time."""

from collections.abc import Hashable, Iterable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xnowcast.fields import cf, horizontal, intervals, units, windows
from xnowcast.terminal import warn

# Grids that were computed twice differ in the last digits; beyond this part of a cell they are two grids.
GRID_TOLERANCE = 0.01

# Times that miss each other by less are likely meant to be the same.
NEARLY_MATCHING = np.timedelta64(60, "s")

# Rates of moments are compared with means over so long where nothing tells their step, as of a single lead time.
MOMENT = np.timedelta64(15, "m")

PLACES = (("y", "x"), ("latitude", "longitude"), ("lat", "lon"), ("yc", "xc"))


def find_spatial_dims(array: xr.DataArray, spatial_dims: tuple[Hashable, Hashable] | None) -> tuple[Hashable, Hashable]:
    """Names of the two horizontal dims of an array.

    ``spatial_dims``: the names, or None to look for y and x, latitude and longitude, lat and lon. ValueError if they
    are not there.

    >>> find_spatial_dims(xr.DataArray(np.zeros((2, 3, 4)), dims=("time", "lat", "lon")), None)
    ('lat', 'lon')
    """
    for y, x in (tuple(spatial_dims),) if spatial_dims is not None else PLACES:
        if y in array.dims and x in array.dims:
            return y, x
    if spatial_dims is not None:
        raise ValueError(f"spatial_dims={tuple(spatial_dims)} are not both among the dims {array.dims}")
    raise ValueError(f"cannot tell which of the dims {array.dims} are horizontal: name them with spatial_dims=")


def check_same_coordinates(observations: xr.DataArray, forecasts: xr.DataArray) -> None:
    """Refuse fields whose shared dims do not have exactly the same size and coordinate.

    ValueError saying which dim differs, and how.

    >>> a = xr.DataArray([1.0, 2.0], dims="x", coords={"x": [0, 1]})
    >>> check_same_coordinates(a, a.assign_coords(x=[1, 2]))
    Traceback (most recent call last):
    ...
    ValueError: dim 'x' differs: observations have 2 values from 0 to 1, forecasts 2 from 1 to 2. Scores ...
    """
    for dim in observations.dims:
        if dim not in forecasts.dims:
            continue
        if observations.sizes[dim] != forecasts.sizes[dim]:
            raise ValueError(_difference(dim, observations, forecasts))
        labelled = dim in observations.indexes and dim in forecasts.indexes
        if labelled and not observations.indexes[dim].equals(forecasts.indexes[dim]):
            raise ValueError(_difference(dim, observations, forecasts))
    _check_same_places(observations, forecasts)


def check_weights(
    weights: xr.DataArray, observations: xr.DataArray, forecasts: xr.DataArray, *, never: Iterable[Hashable] = ()
) -> None:
    """Refuse weights that do not lie on the fields, or along dims that have none.

    ``never``: dims whose cells have no weight of their own.

    >>> rain = xr.DataArray([1.0, 2.0], dims="lat")
    >>> check_weights(xr.DataArray([1.0, 0.5], dims="lon"), rain, rain)
    Traceback (most recent call last):
    ...
    ValueError: weights have the dim 'lon', which neither field has: observations have ('lat',), forecasts ('lat',)
    """
    if not isinstance(weights, xr.DataArray):
        raise TypeError(f"weights are a {type(weights).__name__}; give a DataArray with some of the dims of the fields")
    if weights.dtype.kind not in "biuf":
        raise ValueError(f"weights hold {weights.dtype}; they must be numbers")
    for dim in weights.dims:
        if dim in set(never):
            raise ValueError(
                f"weights vary along {dim!r}, whose cells have no weight of their own in this score, which looks at "
                "several of them together (windows, whole fields, members): give weights along other dims, and "
                "scales=1 for events of single cells"
            )
        fields = [array for array in (forecasts, observations) if dim in array.dims]
        if not fields:
            raise ValueError(
                f"weights have the dim {dim!r}, which neither field has: observations have {observations.dims}, "
                f"forecasts {forecasts.dims}"
            )
        theirs, ours = fields[0], weights
        alike = theirs.sizes[dim] == ours.sizes[dim]
        if alike and dim in theirs.indexes and dim in ours.indexes:
            places = [array.indexes[dim] for array in (ours, theirs)]
            alike = places[0].equals(places[1]) or (
                all(p.dtype.kind in "fiu" for p in places) and _close(places[0].values, places[1].values)
            )
        if not alike:
            raise ValueError(_difference(dim, ours, theirs).replace("observations have", "weights have"))


def _difference(dim: Hashable, observations: xr.DataArray, forecasts: xr.DataArray) -> str:
    sides = [_described(dim, array) for array in (observations, forecasts)]
    how = f"observations have {sides[0]}, forecasts {sides[1].replace(' values', '')}"
    if dim in observations.indexes and dim in forecasts.indexes:
        ours, theirs = observations.indexes[dim], forecasts.indexes[dim]
        if len(ours) == len(theirs) and ours.sort_values().equals(theirs.sort_values()):
            how = f"the same {len(ours)} values come in another order"
        elif sides[0] == sides[1]:
            first = int(np.flatnonzero(np.asarray(ours != theirs))[0])
            how = f"the values at position {first} are {ours[first]} in observations and {theirs[first]} in forecasts"
    advice = "select or align one on the other first, such as with .sel or xarray.align"
    return f"dim {dim!r} differs: {how}. Scores pair values of the same coordinates: {advice}"


def _described(dim: Hashable, array: xr.DataArray) -> str:
    if dim not in array.indexes or not array.sizes[dim]:
        return f"{array.sizes[dim]} values"
    index = array.indexes[dim]
    return f"{len(index)} values from {index[0]} to {index[-1]}"


def align_observations(
    observations: xr.DataArray, forecasts: xr.DataArray, *, spatial_dims: tuple[Hashable, Hashable] | None = None
) -> xr.DataArray:
    """Observations as seen from forecasts: the one at ``valid_time`` for every init and lead time.

    Parameters
    ----------
    observations : xarray.DataArray
        With a time dim (datetime64) and the grid of the forecasts.
    forecasts : xarray.DataArray
        With ``init_time`` (datetime64) and ``lead_time`` (timedelta64), or what other packages call them, as dims or
        as scalar coordinates; the valid time is their sum.
    spatial_dims : (hashable, hashable), optional
        Names of the horizontal dims of both. By default y and x, or latitude and longitude.

    Returns
    -------
    xarray.DataArray
        Dims ``(init_time, lead_time, ..., y, x)``, those of the two first that the forecasts have; NaN where the
        time was not observed. Lazy where an input is, in chunks like the forecasts'.

    Raises
    ------
    ValueError
        If a time axis is missing or has duplicates, the grids differ, no valid time was observed, or one of the two is
        known to be of longer intervals than the other (see `match_intervals`).

    Warns
    -----
    UserWarning
        If observations are left out that miss a valid time by less than a minute. Times may miss each other by 1 % of
        the observations' step.

    Examples
    --------
    >>> minutes = np.datetime64("2024-06-01", "ns") + np.arange(3) * np.timedelta64(5, "m")
    >>> rain = xr.DataArray([[[1.0]], [[2.0]], [[3.0]]], dims=("time", "y", "x"), coords={"time": minutes})
    >>> fc = xr.DataArray(np.zeros((2, 2, 1, 1)), dims=("init_time", "lead_time", "y", "x"), coords={
    ...     "init_time": minutes[:2], "lead_time": np.array([5, 10], "m8[m]").astype("m8[ns]")})
    >>> align_observations(rain, fc).squeeze().values
    array([[ 2.,  3.],
           [ 3., nan]])
    """
    theirs = {role: cf.forecast_coordinate(forecasts, role) or role for role in ("init_time", "lead_time")}
    if theirs != {role: role for role in theirs}:
        ours = forecasts.rename({name: role for role, name in theirs.items() if name != role})
        aligned = align_observations(observations, ours, spatial_dims=spatial_dims)
        return aligned.rename({role: name for role, name in theirs.items() if role in aligned.dims})
    observations, forecasts = windows.with_real_times(observations), windows.with_real_times(forecasts)
    time = _time_dim(observations)
    places = find_spatial_dims(forecasts, spatial_dims)
    observations = _on_grid_of(forecasts, observations, places)
    _refuse_other_intervals(observations, forecasts, time)
    valid = _matched(_valid_time(forecasts), observations.indexes[time])

    index_coords = [name for name in observations.coords if name in observations.dims]
    observations = observations.reset_coords(drop=True) if index_coords else observations
    if forecasts.chunks is not None and observations.chunks is None:
        # One frame serves many lead times; eager observations would be copied for each of them at once.
        observations = observations.chunk({time: 1})
    of_lead = [
        observations.reindex({time: valid.isel(lead_time=i).values}).rename({time: "init_time"})
        for i in range(valid.sizes["lead_time"])
    ]
    # Each lead time has its own valid times; from here on they are known by where they start.
    of_lead = [obs.assign_coords(init_time=valid["init_time"].values) for obs in of_lead]
    aligned = xr.concat(of_lead, dim=xr.DataArray(valid["lead_time"].values, dims="lead_time", name="lead_time"))
    aligned = aligned.transpose("init_time", "lead_time", ...)
    scalar = {name: 0 for name in ("init_time", "lead_time") if name not in forecasts.dims}
    aligned = aligned.isel(scalar, drop=True)
    return aligned.assign_attrs(observations.attrs)


def match_intervals(
    observations: xr.DataArray, forecasts: xr.DataArray, *, late: np.timedelta64 | None = None
) -> tuple[xr.DataArray, xr.DataArray]:
    """Rain rates of observations and forecasts over the same intervals: the shorter ones are averaged over the longer.

    Parameters
    ----------
    observations : xarray.DataArray
        Rates with a time dim. The attribute ``accutime`` (minutes), which `xnowcast.rain_rate` keeps, or
        ``cell_methods`` tell what each is the mean over, up to its time; without them they are those of moments.
    forecasts : xarray.DataArray
        Rates with ``init_time`` and ``lead_time``, likewise.
    late : numpy.timedelta64, optional
        From the times of the observations to the ends of their intervals, where they are no ends.

    Returns
    -------
    (xarray.DataArray, xarray.DataArray)
        As they were where the intervals are the same or nothing tells them, and where rates of moments lie as far apart
        as the others' intervals are long, or farther. Of what is averaged, those times or lead times stay whose
        interval is covered completely; NaN where a part is. Lazy where the input is.

    Raises
    ------
    ValueError
        If the shorter intervals do not make up the longer ones, or no time or lead time has all of its interval.

    Examples
    --------
    >>> hours = np.datetime64("2024-06-01", "ns") + np.arange(1, 3) * np.timedelta64(60, "m")
    >>> rain = xr.DataArray([[[2.0]], [[2.0]]], {"time": hours}, ("time", "y", "x"), attrs={"accutime": 60.0})
    >>> leads = (np.arange(1, 5) * np.timedelta64(30, "m")).astype("m8[ns]")
    >>> fc = xr.DataArray(np.arange(4.0).reshape(4, 1, 1), {"lead_time": leads, "init_time": hours[0]},
    ...     ("lead_time", "y", "x"))
    >>> match_intervals(rain, fc)[1].squeeze().values
    array([0.5, 1.5, 2.5])
    """
    observations, forecasts = windows.with_real_times(observations), windows.with_real_times(forecasts)
    time = _time_dim(observations)
    own = [_length(array) for array in (observations, forecasts)]
    whole = max((length for length in own if length is not None), default=None)
    if whole is None:
        return observations, forecasts
    shorter = _is_shorter(observations, time, own[0], whole), _is_shorter(forecasts, "lead_time", own[1], whole)
    of_their_own = not shorter[0] or late is None or not late % (_spacing(observations, time) or late)
    if late and of_their_own and (any(shorter) or own[0] == own[1]):
        observations = observations.assign_coords({time: observations[time] + late})
    if shorter[1]:
        forecasts = _averaged("forecasts", forecasts, "lead_time", own[1], whole)
    if shorter[0]:
        in_order = observations if observations.indexes[time].is_monotonic_increasing else observations.sortby(time)
        observations = _averaged("observations", in_order, time, own[0], whole, _valid_time(forecasts).values.ravel())
    return observations, forecasts


def _length(array: xr.DataArray) -> np.timedelta64 | None:
    interval = intervals.of_rate(array)
    return None if interval is None else interval.length.astype("m8[ns]")


def _spacing(array: xr.DataArray, dim: Hashable) -> np.timedelta64 | None:
    """The step of times or lead times; None of a single one."""
    values = np.unique(array[dim].values)
    return None if values.size < 2 else np.timedelta64(windows.common_step(np.diff(values).astype("i8")), "ns")


def _is_shorter(array: xr.DataArray, dim: Hashable, own: np.timedelta64 | None, whole: np.timedelta64) -> bool:
    """Whether values have to be averaged; those of moments that lie as far apart as the interval is long cover it."""
    if own is not None:
        return bool(own < whole)
    spacing = _spacing(array, dim)
    return bool(whole > (spacing or MOMENT))


def _averaged(
    what: str,
    array: xr.DataArray,
    dim: Hashable,
    own: np.timedelta64 | None,
    whole: np.timedelta64,
    wanted: np.ndarray | None = None,
) -> xr.DataArray:
    """Means over the interval up to each of the times or lead times that have all of it."""
    values, spacing = array[dim].values, _spacing(array, dim)
    minutes = f"{whole / np.timedelta64(60, 's'):g} min"
    about = f"the {'forecasts' if what == 'observations' else 'observations'} are of {minutes} each"
    advice = "average them before, and set the attribute accutime, in minutes"
    if values.ndim == 0 or spacing is None:
        of = "rates of moments" if own is None else f"of {own / np.timedelta64(60, 's'):g} min"
        raise ValueError(f"{about}, and the {what} have one {dim}, {of}, which does not make up {minutes}: {advice}")
    try:
        count, stride = intervals.parts(whole, spacing, own)
    except ValueError as error:
        raise ValueError(f"{about}, and of the {what} {error}: {advice}") from None
    needed = values[:, None] - (np.arange(count) * stride * spacing)[None, :]
    rows = pd.Index(values).get_indexer(needed.ravel()).reshape(needed.shape)
    complete = (rows >= 0).all(axis=1)
    kept = np.flatnonzero(complete if wanted is None else complete & np.isin(values, wanted))
    if not kept.size:
        raise ValueError(
            f"{about}, and of the {what} no {dim} that is wanted has all of the {minutes} before it: they run from "
            f"{_worded(values.min())} to {_worded(values.max())}, {_worded(spacing)} apart"
        )
    variable = array.variable
    total = variable.isel({dim: rows[kept, 0]})
    for k in range(1, count):
        total = total + variable.isel({dim: rows[kept, k]})
    averaged = array.isel({dim: kept}).copy(data=(total / count).data)
    return averaged.assign_attrs(accutime=float(whole / np.timedelta64(60, "s")), cell_methods="time: mean")


def _worded(time: Any) -> str:
    return f"{time / np.timedelta64(60, 's'):g} min" if time.dtype.kind == "m" else _minute(time)


def _refuse_other_intervals(observations: xr.DataArray, forecasts: xr.DataArray, time: Hashable) -> None:
    own = [_length(array) for array in (observations, forecasts)]
    whole = max((length for length in own if length is not None), default=None)
    if whole is None or own[0] == own[1] or "lead_time" not in forecasts.coords:
        return
    sides = zip((observations, forecasts), (time, "lead_time"), own, ("observations", "forecasts"), strict=True)
    for array, dim, length, what in sides:
        if _is_shorter(array, dim, length, whole):
            of = "those of moments" if length is None else f"of {length / np.timedelta64(60, 's'):g} min each"
            raise ValueError(
                f"the rates of the {what} are {of}, and the others of {whole / np.timedelta64(60, 's'):g} min each: "
                "average them first with xnowcast.verify.match_intervals(observations, forecasts)"
            )


def _time_dim(observations: xr.DataArray) -> Hashable:
    dated = [d for d, index in observations.indexes.items() if index.dtype.kind == "M" and d != "init_time"]
    if not dated:
        raise ValueError(
            f"observations have dims {observations.dims}, none with times (datetime64): forecasts can only be scored "
            "against observations with a time axis"
        )
    time = "time" if "time" in dated else dated[0]
    index = observations.indexes[time]
    if index.has_duplicates:
        twice = index[index.duplicated()][0]
        raise ValueError(f"observations have time {twice} more than once: keep one, such as with drop_duplicates")
    return time


def _valid_time(forecasts: xr.DataArray) -> xr.DataArray:
    """``valid_time`` with dims (init_time, lead_time), both possibly of length 1."""
    missing = [name for name in ("init_time", "lead_time") if name not in forecasts.coords]
    if missing:
        raise ValueError(
            f"forecasts have no coordinate {' and no '.join(map(repr, missing))}, which the observation of the same "
            f"time is found by; they have {sorted(map(str, forecasts.coords))}"
        )
    init, lead = (forecasts[name].reset_coords(drop=True) for name in ("init_time", "lead_time"))
    if lead.dtype.kind in "iuf" and units.affine(lead.attrs.get("units"), "s") is not None:
        lead = lead.copy(data=cf.durations(lead))
    if init.dtype.kind != "M" or lead.dtype.kind != "m":
        raise ValueError(
            f"init_time has dtype {init.dtype} and lead_time {lead.dtype}; they must be datetime64 and timedelta64, or "
            "numbers with the attribute units, such as 'minutes'"
        )
    init = init if init.ndim else init.expand_dims("init_time")
    lead = lead if lead.ndim else lead.expand_dims("lead_time")
    return (init + lead).transpose("init_time", "lead_time")


def _matched(valid: xr.DataArray, observed: Any) -> xr.DataArray:
    """Valid times, those that an observation nearly has as that has them."""
    wanted, order = valid.values.ravel(), np.sort(observed.values)
    if not order.size:
        raise ValueError(f"no valid time of the forecasts was observed: {_span(wanted)}, observations have no time")
    after = np.searchsorted(order, wanted).clip(1, max(order.size - 1, 1)) if order.size > 1 else np.ones(1, int)
    neighbours = np.stack([order[after - 1], order[after % order.size]])
    nearest = np.take_along_axis(neighbours, np.abs(neighbours - wanted).argmin(axis=0)[None], 0)[0]
    off = np.abs(nearest - wanted)
    step = np.diff(order).min() if order.size > 1 else np.timedelta64(0, "ns")
    found = off <= windows.TIME_TOLERANCE * step
    nearly = ~found & (off < NEARLY_MATCHING) & (off <= (step / 2 if step else NEARLY_MATCHING))
    miss = ""
    if nearly.any():
        by = " to ".join(
            dict.fromkeys(f"{o / np.timedelta64(1, 's'):g}" for o in (off[nearly].min(), off[nearly].max()))
        )
        miss = f"{nearly.sum()} of {nearly.size} valid times of the forecasts miss an observation by {by} s"
    if not found.any():
        raise ValueError(
            f"no valid time of the forecasts was observed: {_span(wanted)}, observations have {order.size} times from "
            f"{observed.min()} to {observed.max()}{'; ' * bool(miss)}{miss}"
        )
    if miss:
        warn(f"{miss}, and are not scored: bring both to the same times")
    return valid.copy(data=np.where(found, nearest, wanted).reshape(valid.shape))


def _span(valid: np.ndarray) -> str:
    return f"forecasts are valid from {_minute(valid.min())} to {_minute(valid.max())}"


def _minute(time: np.datetime64) -> str:
    return str(time.astype("M8[s]")).replace("T", " ")


def _on_grid_of(forecasts: xr.DataArray, observations: xr.DataArray, places: tuple[Hashable, Hashable]) -> xr.DataArray:
    """Observations with the very y and x of the forecasts, if these are the same but for rounding."""
    for dim in places:
        if dim not in observations.dims:
            raise ValueError(f"forecasts have the horizontal dim {dim!r}, observations have dims {observations.dims}")
        same_size = observations.sizes[dim] == forecasts.sizes[dim]
        if same_size and not (dim in observations.indexes and dim in forecasts.indexes):
            continue
        if not same_size or not _close(observations.indexes[dim].values, forecasts.indexes[dim].values):
            raise ValueError(f"the grids are not the same: {_difference(dim, observations, forecasts)}")
        observations = observations.assign_coords({dim: forecasts[dim].variable})
    _check_same_places(observations, forecasts)
    return observations


def _check_same_places(observations: xr.DataArray, forecasts: xr.DataArray) -> None:
    """Refuse grids whose latitudes or longitudes, which are not coordinates of dims, differ by more than rounding."""
    both = (observations, forecasts)
    beside = [_places_beside_dims(array) for array in both]
    if not all(beside):
        return
    for axis, what in (("y", "latitudes"), ("x", "longitudes")):
        names_of_both = [
            [n for n in horizontal.latlon_names(a, axis) if n in names] for a, names in zip(both, beside, strict=True)
        ]
        for ours, theirs in product(*names_of_both):
            one, other = observations.coords[ours].variable, forecasts.coords[theirs].variable
            if set(one.dims) != set(other.dims) or any(one.sizes[d] != other.sizes[d] for d in one.dims):
                continue
            apart = _cells_apart(one.transpose(*other.dims).values, other.values, turns=axis == "x")
            if apart > GRID_TOLERANCE:
                raise ValueError(
                    f"the grids are not the same: {what} of observations ({ours!r}) and forecasts ({theirs!r}) are up "
                    f"to {apart:.3g} cells apart. Scores pair values of the same places: bring both to one grid first"
                )


def _places_beside_dims(array: xr.DataArray) -> list[Hashable]:
    """Coordinates that may be places along dims that have others, or none, of their own."""
    return [
        name
        for name, v in array.coords.variables.items()
        if v.ndim in (1, 2) and v.dtype.kind == "f" and v.dims != (name,)
    ]


def _cells_apart(ours: np.ndarray, theirs: np.ndarray, *, turns: bool) -> float:
    """Largest distance of two grids in cells, where both have places; longitudes come round again."""
    if ours is theirs:
        return 0.0
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    widths = [np.abs(_turned(np.diff(theirs, axis=a), turns)) for a in range(theirs.ndim) if theirs.shape[a] > 1]
    widths = [width[np.isfinite(width)] for width in widths]
    cell = max((float(np.median(width)) for width in widths if width.size), default=1.0)
    apart = np.abs(_turned(ours - theirs, turns))
    apart = apart[np.isfinite(apart)]
    return float(apart.max(initial=0.0)) / (cell or 1.0)


def _turned(degrees: np.ndarray, turns: bool) -> np.ndarray:
    return (degrees + 180.0) % 360.0 - 180.0 if turns else degrees


def _close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    cell = np.median(np.abs(np.diff(theirs.astype(np.float64)))) if len(theirs) > 1 else 1.0
    return bool(np.all(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)) <= GRID_TOLERANCE * cell))
