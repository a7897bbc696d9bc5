"""Pairs of a numerical forecast and what was observed, matched in time and space: what a post-processor learns from."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import xarray as xr

from xnowcast import check
from xnowcast.fields import cf, horizontal, intervals, labels, units, windows
from xnowcast.fields import regrid as remapping
from xnowcast.fields.attributes import FORECAST_NAMES, declared, decoded, forecast_times
from xnowcast.fields.intervals import is_accumulated
from xnowcast.fields.units import Relation

OBSERVED_RAIN = "observed_rain"
"""Name of the observed rain in a pair."""

Target = Literal["observations", "nwp"]

MOST_STEPS = 10_000
"""Between a lead time and another that is read beside it."""

# Packed accumulations are rounded: a fall by less than this is none.
_ROUNDING_MM = 0.05


def pair(
    nwp: xr.Dataset,
    observations: xr.Dataset | xr.DataArray,
    *,
    on: Target = "observations",
    regrid: remapping.Method | None = None,
    variable: Hashable | None = None,
    rain: Hashable | None = None,
    accumulated: bool | None = None,
    step: Any = None,
    zr: Relation | None = None,
    min_coverage: float = 0.5,
    lead_offsets: Sequence[int] = (0,),
) -> xr.Dataset:
    """Put a forecast and the observed rain of the same times on one grid.

    Parameters
    ----------
    nwp : xarray.Dataset
        With init times and lead times, as dims or as single values, told by CF standard names or common names; or
        with a dim of valid times and a single init time. Any other dims.
    observations : xarray.Dataset or xarray.DataArray
        A precipitation field with a time axis. Its times are the ends of what amounts and means are over.
    on : {"observations", "nwp"}
        Whose grid both are brought to.
    regrid : {"bilinear", "conservative"}, optional
        How. By default means over areas where the new grid is coarser, else bilinear.
    variable : hashable, optional
        The observed field, where there are several.
    rain : hashable, optional
        The forecast's rain, where there are several.
    accumulated : bool, optional
        Whether the forecast's rain is the amount since the start of the run. Has to be said where an amount's
        attributes do not tell.
    step : duration, optional
        The time that a lead time stands for, up to it. By default the distance of the lead times.
    zr : (float, float) or str, optional
        a and b of Z = a R**b for observations in dBZ.
    min_coverage : float
        Smallest share of a step, and of a new cell's area, that has to be observed.
    lead_offsets : sequence of int
        Lead times that a model reads beside each, in steps from it, such as ``(-2, -1, 0)``: they are kept without any
        observation as well.

    Returns
    -------
    xarray.Dataset
        Dims (init_time, lead_time, y, x): the forecast's variables, its accumulated rain as a rate, and
        ``observed_rain`` in mm h-1, the mean over the step that ends at the valid time. The coordinate ``time``
        (init_time, lead_time) is the valid time. Init times and lead times without any observation are left out, but
        for those that ``lead_offsets`` keeps; where single frames are missing it is NaN. Lazy where the data are lazy.

    Raises
    ------
    ValueError
        If there is no common time or area, times are in no real calendar or not in UTC, an amount is ambiguous, the
        observations are coarser in time, or fields lie on staggered dims; and, when computed, if rain that is said to
        accumulate falls.

    Examples
    --------
    >>> from xnowcast import datasets
    >>> nwp, radar = datasets.synthetic_nwp(runs=2, leads=3, shape=(16, 16))
    >>> pairs = pair(nwp, radar)
    >>> pairs.observed_rain.dims, pairs.time.dims
    (('init_time', 'lead_time', 'y', 'x'), ('init_time', 'lead_time'))
    """
    check.call(pair, locals())
    if on not in get_args(Target):
        raise ValueError(f"on is {on!r}; it can be 'observations' or 'nwp'")
    for offset in lead_offsets:
        check.whole("lead_offsets", offset, -MOST_STEPS, MOST_STEPS)
    if not isinstance(nwp, xr.Dataset):
        raise TypeError(f"the forecast is a {type(nwp).__name__}; give a Dataset")
    forecast = horizontal.without_time(_standard_times(nwp))
    length = _step(forecast, step, _stated(nwp, rain, accumulated, step))
    forecast = rain_per_step(forecast, rain, accumulated=accumulated, step=length)
    rates = [n for n, v in forecast.data_vars.items() if v.attrs.get("standard_name") in cf.STANDARD_NAMES]
    forecast = forecast.assign({n: remapping.known(forecast[n]) for n in rates})
    observed = _observed_means(observations, forecast, length, variable, zr, min_coverage)
    observed = observed.reindex(lead_time=_with_those_beside(forecast, observed, length, lead_offsets))
    forecast = forecast.sel(init_time=observed.init_time, lead_time=observed.lead_time)
    together = _on_one_grid(forecast, observed, observations, on, regrid, min_coverage)
    return _labelled(together, nwp, length)


def rain_per_step(
    nwp: xr.Dataset, rain: Hashable | None = None, *, accumulated: bool | None = None, step: Any = None
) -> xr.Dataset:
    """A forecast whose rain is a rate, made of differences where it was accumulated since the start of the run.

    Parameters
    ----------
    nwp : xarray.Dataset
        With lead times, as in `pair`.
    rain : hashable, optional
        The rain, where there are several or attributes do not tell; without any rain the forecast comes back as it is.
    accumulated : bool, optional
        Whether it is the amount since the start of the run. Has to be said where an amount's attributes do not tell.
    step : duration, optional
        The time that a lead time stands for, up to it. By default the distance of the lead times.

    Returns
    -------
    xarray.Dataset
        Rates stay as they are. An amount becomes the mean rate over the step, in mm h-1; of accumulated ones the first
        lead time is left out, unless it is one step after the start. Lazy where the data are lazy.

    Raises
    ------
    ValueError
        If it is not known which variable is the rain, or whether an amount is accumulated; and, when computed, if it
        falls by more than 0.05 mm.

    Examples
    --------
    >>> total = xr.DataArray(
    ...     np.arange(4.0)[:, None, None] * np.ones((4, 8, 8)), dims=("lead_time", "y", "x"), name="tp",
    ...     coords={"lead_time": np.arange(24, 28).astype("m8[h]").astype("m8[ns]")},
    ...     attrs={"standard_name": "precipitation_amount", "units": "kg m-2"})
    >>> rates = rain_per_step(total.to_dataset(), accumulated=True)
    >>> rates.lead_time.size, float(rates.tp[0, 0, 0]), rates.tp.units
    (3, 1.0, 'mm h-1')
    """
    found = _rain_name(nwp, rain)
    if found is None and (unnamed := [name for name, array in nwp.data_vars.items() if _may_be_rain(name, array)]):
        raise ValueError(
            f"no variable has a standard name of rain, and {', '.join(map(repr, unnamed))} may be it: name it, "
            f"rain={unnamed[0]!r}"
        )
    if found is None or not units.is_amount(nwp[found].attrs.get("units")):
        return nwp
    stated = intervals.of_rate(nwp[found], nwp)
    if "lead_time" not in nwp.dims:
        nwp = _standard_times(nwp)
    array = decoded(nwp[found])
    nwp = nwp.assign({found: array})
    from_start = accumulated if accumulated is not None else False if stated is not None else is_accumulated(array)
    if from_start is None:
        raise ValueError(
            f"variable {found!r} is an amount ({array.attrs['units']}), and nothing tells of what: give accumulated="
            "True where it is the amount since the start of the run, accumulated=False where it is that of each step"
        )
    length = _step(nwp, step, None if from_start else stated)
    per_step = _differences(nwp, found, length) if from_start else nwp
    limits = None if from_start else declared(array)
    conversion = units.rain_rate_conversion(array.attrs["units"], name=str(found), step=length, declared=limits)
    rate = _by_block(conversion.__call__, per_step[found])
    rate.attrs = {
        k: v
        for k, v in array.attrs.items()
        if k not in ("units", "cell_methods", "GRIB_stepType", "accutime", *cf.OF_STORED)
    }
    rate.attrs |= {"standard_name": "rainfall_rate", "units": "mm h-1", "cell_methods": "time: mean"}
    return per_step.assign({found: rate.astype("f4", keep_attrs=True)})


def _may_be_rain(name: Hashable, array: xr.DataArray) -> bool:
    words = f"{name} {array.attrs.get('long_name', '')} {array.attrs.get('description', '')}".lower()
    return units.is_amount(array.attrs.get("units")) and ("precipitation" in words or "rain" in words)


def refuse_accumulated(nwp: xr.Dataset, names: Sequence[str], mapping: Mapping[str, Hashable] | None) -> None:
    """Refuse rain that is, or may be, counted from the start of the run where a rate is read.

    ``names``: channels that are read. ``mapping``: variables of some of them. ValueError with the function that makes
    it a rate.
    """
    wanted = set((mapping or {}).values())
    if any(name in cf.STANDARD_NAMES for name in names):
        wanted |= {n for n, v in nwp.data_vars.items() if v.attrs.get("standard_name") in cf.STANDARD_NAMES}
    for name in wanted & set(nwp.data_vars):
        if not units.is_amount(nwp[name].attrs.get("units")) or (from_start := is_accumulated(nwp[name])) is False:
            continue
        if intervals.of_rate(nwp[name], nwp) is not None:
            continue
        what = "accumulated since the start of the run" if from_start else "an amount, and nothing tells of what"
        how = f"{name!r}" if from_start else f"{name!r}, accumulated=True or False"
        raise ValueError(
            f"variable {name!r} is {what}; make it a rate first with xnowcast.pairing.rain_per_step(nwp, {how})"
        )


# ---------------------------------------------------------------- times of the forecast


def _standard_times(nwp: xr.Dataset) -> xr.Dataset:
    """The forecast with dims init_time and lead_time that hold datetime64 and timedelta64, UTC."""
    init, lead, starts, leads = _time_coordinates(nwp)
    renamed = nwp.drop_vars([n for n in (init, lead) if n in nwp.coords and nwp[n].ndim == 0])
    further = [n for n in renamed.coords if n not in (init, lead) and _tells_time(renamed[n], init, lead)]
    renamed = renamed.drop_vars(further)
    for old, new, values in ((init, "init_time", starts), (lead, "lead_time", leads)):
        if old in renamed.dims:
            renamed = renamed.rename({old: new}) if old != new else renamed
        else:
            fields = [n for n, v in renamed.data_vars.items() if v.ndim >= 2]
            renamed = renamed.assign({n: renamed[n].expand_dims(new) for n in fields})
        renamed = renamed.assign_coords({new: (new, np.atleast_1d(values))})
    if renamed.indexes["init_time"].has_duplicates:
        raise ValueError("init times repeat: drop some with nwp.drop_duplicates('init_time')")
    return renamed.sortby(["init_time", "lead_time"])


def _time_coordinates(nwp: xr.Dataset) -> tuple[Hashable, Hashable, np.ndarray, np.ndarray]:
    """Names of the coordinates of init times and lead times, and what they hold."""
    init, lead = _named(nwp, "init_time", "M"), _named(nwp, "lead_time", "m")
    valid = next((n for n in nwp.dims if n not in (init, lead) and _holds_times(nwp, n)), None)
    if init is None and lead is not None and valid is not None:  # GRIB readers call the init time "time"
        init, valid = valid, None
    if init is None:
        raise ValueError(
            "nothing tells when the forecast was started: give it a coordinate init_time (standard_name "
            "'forecast_reference_time'), nwp.assign_coords(init_time=np.datetime64('2024-06-01T00:00'))"
            + _to_rename(nwp, "M", "init_time")
        )
    starts = utc_times(nwp[init])
    if lead is not None and (lead in nwp.dims or valid is None):
        leads = cf.durations(nwp[lead])
    elif valid is not None and starts.ndim == 0:
        lead, leads = valid, utc_times(nwp[valid]) - starts
    else:
        raise ValueError(
            "nothing tells the lead times of the forecast: give it a coordinate lead_time (standard_name "
            "'forecast_period') of durations" + _to_rename(nwp, "m", "lead_time", besides=(init, valid))
        )
    if (np.diff(np.sort(leads.ravel())) == np.timedelta64(0)).any() or (leads < np.timedelta64(0)).any():
        raise ValueError("lead times repeat, or lie before the start of the run: leave out what is not forecast")
    return init, lead, starts, leads


def _to_rename(nwp: xr.Dataset, kind: str, wanted: str, besides: Sequence[Hashable | None] = ()) -> str:
    """Which coordinates may be the one that is wanted, and how they become it."""
    found = [n for n in nwp.coords if n not in besides and nwp[n].ndim <= 1 and _may_be(nwp, n, kind)]
    if not found:
        return ""
    what = "hold times" if kind == "M" else "may be durations"
    rename = f"nwp.rename({{{found[0]!r}: {wanted!r}}})"
    return f". Of the coordinates {', '.join(map(repr, found))} {what}: if that is what it is, {rename}"


def _may_be(nwp: xr.Dataset, name: Hashable, kind: str) -> bool:
    """Whether a coordinate holds times ("M"), or durations or numbers that may be some along a dim of its own ("m")."""
    if kind == "M":
        return _holds_times(nwp, name)
    words = f"{name} {nwp[name].attrs.get('long_name', '')}".lower()
    return nwp[name].dtype.kind == "m" or any(word in words for word in ("hour", "lead", "step", "fcst", "forecast"))


def utc_times(coordinate: xr.DataArray) -> np.ndarray:
    """The times of a coordinate as datetime64[ns] in UTC.

    ``coordinate``: datetime64, cftime of the real calendar, or pandas timestamps with a time zone, which are converted.
    ValueError if an attribute names a time zone other than UTC, or the times are in a climate model's calendar.

    >>> local = xr.DataArray(np.array([pd.Timestamp("2024-06-01T09:00", tz="Asia/Seoul")], dtype=object), dims="time")
    >>> utc_times(local)
    array(['2024-06-01T00:00:00.000000000'], dtype='datetime64[ns]')
    """
    zone = next(
        (str(v) for k, v in coordinate.attrs.items() if str(k).lower() in ("timezone", "time_zone", "tz")), "UTC"
    )
    if zone.upper().replace("+00:00", "").replace("+0", "") not in ("UTC", "Z", "GMT", "UTC0", ""):
        raise ValueError(
            f"coordinate {coordinate.name!r} is in the time zone {zone!r}; times are read in UTC: subtract its offset, "
            f"ds.assign_coords({coordinate.name}=ds.{coordinate.name} - np.timedelta64(9, 'h')), and drop the attribute"
        )
    return windows.real_times(coordinate)


def _named(nwp: xr.Dataset, role: str, kind: str) -> Hashable | None:
    """A coordinate by its standard name, else by a common name."""
    # a dim is what the data vary along; a standard name that stands on two coordinates is settled by that
    candidates = sorted(cf.named_as(nwp, role, nwp.coords), key=lambda n: n not in nwp.dims)
    return next((n for n in candidates if nwp[n].ndim <= 1 and (kind == "m" or _holds_times(nwp, n))), None)


def _holds_times(nwp: xr.Dataset, name: Hashable) -> bool:
    if name not in nwp.coords:
        return False
    values = nwp[name]
    is_object = values.dtype == object and values.size > 0
    return values.dtype.kind == "M" or (is_object and hasattr(values.values.flat[0], "year"))


def _tells_time(coordinate: xr.DataArray, init: Hashable, lead: Hashable) -> bool:
    """Whether it is a further coordinate of times along those of the forecast, such as the valid time."""
    timelike = coordinate.dtype.kind in "mM" or coordinate.attrs.get("standard_name") in (
        "time",
        *FORECAST_NAMES["init_time"],
        *FORECAST_NAMES["lead_time"],
    )
    return timelike and bool({init, lead} & {*coordinate.dims})


def _step(forecast: xr.Dataset, step: Any, stated: intervals.Interval | None = None) -> np.timedelta64:
    """The time that a lead time stands for: as the user says, as the rain's bounds or attributes do, or their step."""
    if step is not None:
        asked = windows.to_timedelta(step, "step")
        if stated is not None and stated.length != asked:
            raise ValueError(
                f"step is {step}, and by its time bounds or attributes the rain of the forecast is that of "
                f"{stated.minutes:g} min: leave step out, or correct them"
            )
        return asked
    if stated is not None:
        return stated.length
    leads = forecast["lead_time"].values.astype("m8[ns]").astype("i8")
    if leads.size < 2:
        raise ValueError("there is one lead time, and it does not tell how long a step is: give step=, such as '1h'")
    differences = np.diff(leads)
    if (differences != differences[0]).any():
        hours = ", ".join(f"{h:g}" for h in sorted(set((differences / 3.6e12).tolist())))
        raise ValueError(f"the lead times are {hours} h apart: select those of one step, or give step=")
    return np.timedelta64(int(differences[0]), "ns")


def _with_those_beside(
    forecast: xr.Dataset, observed: xr.DataArray, step: np.timedelta64, offsets: Sequence[int]
) -> np.ndarray:
    """Lead times that were observed, and those of the forecast that lie so many steps from one of them."""
    leads = forecast["lead_time"].values.astype("m8[ns]")
    beside = observed["lead_time"].values.astype("m8[ns]")[:, None] + step * np.asarray([0, *offsets])
    return leads[np.isin(leads, beside)]


# ---------------------------------------------------------------- rain of the forecast


def _rain_name(nwp: xr.Dataset, rain: Hashable | None) -> Hashable | None:
    if rain is not None:
        if rain not in nwp.data_vars:
            raise ValueError(f"there is no variable {rain!r}; there are: {', '.join(map(repr, nwp.data_vars))}")
        return rain
    found = [n for n, v in nwp.data_vars.items() if v.attrs.get("standard_name") in cf.STANDARD_NAMES]
    amounts = [n for n in found if units.is_amount(nwp[n].attrs.get("units"))]
    if len(amounts) > 1:
        raise ValueError(
            f"there are {len(amounts)} amounts of rain, {', '.join(map(repr, amounts))}: choose with rain="
        )
    return amounts[0] if amounts else next(iter(found), None)


def _differences(nwp: xr.Dataset, rain: Hashable, step: np.timedelta64) -> xr.Dataset:
    """Amounts of each step out of those since the start. The first lead has none before it, unless it is one step "
    "in."""
    leads = nwp["lead_time"].values.astype("m8[ns]")
    total = _checked_total(nwp[rain], leads)
    from_start = leads[0] == step
    if leads.size < 2 and not from_start:
        raise ValueError(
            f"variable {rain!r} is accumulated since the start of the run, and there is one lead time: the amount "
            "of a step is the difference of two"
        )
    if (np.diff(leads) != step).any():
        raise ValueError(
            f"variable {rain!r} is accumulated since the start of the run, and the lead times are not all one step "
            f"({step / np.timedelta64(1, 'm'):g} min) apart: select those that are"
        )
    mm = units.rain_rate_conversion(nwp[rain].attrs["units"], name=str(rain), step=np.timedelta64(1, "h")).factor
    before = total.shift(lead_time=1, fill_value=0.0 if from_start else np.nan)
    rose = xr.apply_ufunc(
        _checked_rise,
        total - before,
        kwargs={"mm": mm, "name": str(rain)},
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    rose.attrs = nwp[rain].attrs
    return nwp.assign({rain: rose}).isel(lead_time=slice(0 if from_start else 1, None))


def _checked_total(array: xr.DataArray, leads: np.ndarray) -> xr.DataArray:
    """Amounts since the start in their own units, float64; what has never fallen in the time of a run is refused."""
    hours = max(1.0, float(leads.max() / np.timedelta64(1, "h")))
    a_step = units.rain_rate_conversion(
        array.attrs["units"], name=str(array.name), step=np.timedelta64(1, "h"), declared=declared(array)
    )
    check = replace(a_step, highest=hours * units.highest_mean_rate(hours)).checked
    return _by_block(check, array).astype("f8")


def _by_block(function: Any, array: xr.DataArray) -> xr.DataArray:
    floats = np.result_type(array.dtype, np.float32)
    return xr.apply_ufunc(function, array, dask="parallelized", output_dtypes=[floats], keep_attrs=True)


def _checked_rise(rise: np.ndarray, mm: float, name: str) -> np.ndarray:
    if rise.size and np.any(rise * mm < -_ROUNDING_MM):
        raise ValueError(
            f"variable {name!r} falls by {-np.nanmin(rise) * mm:.3g} mm from one lead time to the next, which an "
            "amount since the start of the run cannot: give accumulated=False if it is that of each step"
        )
    return np.maximum(rise, 0)


def _stated(nwp: xr.Dataset, rain: Hashable | None, accumulated: bool | None, step: Any) -> intervals.Interval | None:
    """The interval of the forecast's rain by its bounds or attributes, unless it is counted from the start of the run.

    A rate may be paired with means over any other step that the user asks for.
    """
    name = _rain_name(nwp, rain)
    bare = name is None or accumulated or (step is not None and not units.is_amount(nwp[name].attrs.get("units")))
    return None if bare else intervals.of_rate(nwp[name], nwp)


# ---------------------------------------------------------------- what was observed


def _observed_means(
    observations: xr.Dataset | xr.DataArray,
    forecast: xr.Dataset,
    step: np.timedelta64,
    variable: Hashable | None,
    zr: Relation | None,
    min_coverage: float,
) -> xr.DataArray:
    """Observed rain over the step before each valid time, ``(init_time, lead_time, ...)``."""
    field = cf.find_field(_with_utc(observations), variable, zr=zr)
    if field.quantity != "rain_rate":
        raise ValueError(f"variable {field.name!r} is no rain: a post-processor learns rain rates")
    if field.time is None:
        raise ValueError(f"variable {field.name!r} has no time axis: nothing tells which forecast it belongs to")
    times = windows.real_times(field.array[field.time])
    frames, apart = _frames_per_step(times, step, field.interval)
    valid = forecast.init_time.values[:, None] + forecast.lead_time.values[None, :]
    ends = times if field.interval is None or field.interval.end is None else times + field.interval.end
    rows = [[_frames_of(ends, v, step, frames, apart) for v in of_run] for of_run in valid]
    complete = np.array([[len(found) >= max(1, min_coverage * frames) for found in of_run] for of_run in rows])
    if not complete.any():
        raise ValueError(
            f"no observation belongs to a time that is forecast: the forecast is for {_span(valid)}, the "
            f"observations of {_span(times)}" + _hint_of_hours(valid, times, step)
        )
    runs, leads = np.flatnonzero(complete.any(1)), np.flatnonzero(complete.any(0))
    chosen = [[rows[i][j] if complete[i, j] else [] for j in leads] for i in runs]
    result = _means(cf.converted(field).transpose(field.time, ...), chosen).rename(OBSERVED_RAIN)
    result.attrs = {k: v for k, v in field.array.attrs.items() if k == "grid_mapping"}
    return result.assign_coords(init_time=forecast.init_time[runs], lead_time=forecast.lead_time[leads])


def _with_utc(observations: xr.Dataset | xr.DataArray) -> Any:
    """Observations whose times are datetime64 in UTC."""
    for name, coordinate in observations.coords.items():
        if name in observations.dims and (coordinate.dtype == object or coordinate.dtype.kind == "M"):
            observations = observations.assign_coords({name: (name, utc_times(coordinate), _without_zone(coordinate))})
    return observations


def _without_zone(coordinate: xr.DataArray) -> dict[str, Any]:
    return {k: v for k, v in coordinate.attrs.items() if str(k).lower() not in ("timezone", "time_zone", "tz")}


def _frames_per_step(
    times: np.ndarray, step: np.timedelta64, interval: intervals.Interval | None
) -> tuple[int, np.timedelta64 | None]:
    """How many observations make a step of the forecast, and, of those that overlap, how far these lie apart."""
    if interval is not None and interval.length > step:
        raise ValueError(
            f"the observations are of {interval.minutes:g} min each, and a step of the forecast is "
            f"{step / np.timedelta64(1, 'm'):g} min: select lead times of a longer step, or give step="
        )
    if times.size < 2:
        return 1, None
    differences = np.diff(np.sort(times)).astype("i8")
    if (differences == 0).any():
        raise ValueError("times of the observations repeat: drop some with obs.drop_duplicates('time')")
    own = np.timedelta64(windows.common_step(differences), "ns")
    # those that overlap are taken one after another; where there are gaps between them, each stands for its step
    apart = own if interval is None else max(own, interval.length)
    frames, rest = divmod(step.astype("m8[ns]").astype("i8"), apart.astype("m8[ns]").astype("i8"))
    if frames < 1 or rest:
        raise ValueError(
            f"the observations are {apart / np.timedelta64(1, 'm'):g} min apart, and a step of the forecast is "
            f"{step / np.timedelta64(1, 'm'):g} min, which is no multiple of it: select lead times of a longer step, "
            "or give step="
        )
    return int(frames), apart if apart > own else None


def _frames_of(
    times: np.ndarray, valid: np.datetime64, step: np.timedelta64, frames: int, apart: np.timedelta64 | None
) -> list[int]:
    """Positions of the observations after ``valid - step`` and up to ``valid``, one after another."""
    if frames == 1:
        return np.flatnonzero(times == valid).tolist()
    within = np.flatnonzero((times > valid - step) & (times <= valid))
    if apart is not None:
        before = (valid - times[within]).astype("i8")
        within = within[before % apart.astype("m8[ns]").astype("i8") == 0]
    return within.tolist()


def _means(rain: xr.DataArray, rows: Sequence[Sequence[Sequence[int]]]) -> xr.DataArray:
    """``(init_time, lead_time, ...)``: means over the frames there are, NaN where one is or there are none."""
    frames = max(len(found) for of_run in rows for found in of_run)
    present = np.array([[[k < len(found) for k in range(frames)] for found in of_run] for of_run in rows])
    positions = np.zeros(present.shape, dtype=int)
    positions[present] = [row for of_run in rows for found in of_run for row in found]
    flat = rain.drop_vars(list(rain.coords)).isel({rain.dims[0]: positions.ravel()})
    if flat.chunks is not None:
        flat = flat.chunk({rain.dims[0]: frames})
    values = flat.data.reshape(*present.shape, *flat.shape[1:])
    dims = ("init_time", "lead_time", "frame")
    gathered = xr.DataArray(values, dims=(*dims, *rain.dims[1:]))
    known = xr.DataArray(present, dims=dims)
    total = gathered.where(known, 0).sum("frame", skipna=False)
    mean = (total / known.sum("frame").where(known.any("frame"))).astype("f4")
    kept = {n: c for n, c in rain.coords.items() if rain.dims[0] not in c.dims and c.ndim}
    return mean.assign_coords(kept)


def _hint_of_hours(valid: np.ndarray, times: np.ndarray, step: np.timedelta64) -> str:
    """Times that miss each other by a few hours are likely in two time zones."""
    gap = min(abs(valid.min() - times.max()), abs(times.min() - valid.max()))
    overlap = valid.min() <= times.max() and times.min() - step <= valid.max()
    return "" if not overlap and gap > np.timedelta64(14, "h") else "; are both in UTC?"


def _span(times: np.ndarray) -> str:
    first, last = (pd.Timestamp(t).isoformat(sep=" ", timespec="minutes") for t in (times.min(), times.max()))
    return f"{first} to {last}"


# ---------------------------------------------------------------- on one grid


def _on_one_grid(
    forecast: xr.Dataset,
    observed: xr.DataArray,
    observations: xr.Dataset | xr.DataArray,
    on: Target,
    regrid: remapping.Method | None,
    min_coverage: float,
) -> xr.Dataset:
    mapping = observed.attrs.get("grid_mapping")
    rain = observed.to_dataset()
    if mapping is not None and isinstance(observations, xr.Dataset) and mapping in observations.variables:
        rain[mapping] = observations[mapping].variable
    ours, theirs = remapping.find_grid(forecast), remapping.find_grid(rain)
    if remapping.same_grid(ours, theirs):
        moved = observed.drop_vars([n for n in observed.coords if n not in ("init_time", "lead_time")])
        moved = moved.rename({theirs.y: ours.y, theirs.x: ours.x})
        return _joined(forecast, moved, ours.grid_mapping)
    source, target = (ours, theirs) if on == "observations" else (theirs, ours)
    method = regrid if regrid is not None else _fitting_method(source, target)
    if on == "observations":
        moved_forecast = remapping.regrid(forecast, rain, method, min_coverage=min_coverage)
        joined = _joined(moved_forecast, observed, theirs.grid_mapping)
    else:
        moved_rain = remapping.regrid(rain, forecast, method, min_coverage=min_coverage)
        joined = _joined(forecast, moved_rain[OBSERVED_RAIN], ours.grid_mapping)
    return joined.assign_attrs(nowcast_regrid=f"{method}, on the grid of the {on}")


def _joined(forecast: xr.Dataset, observed: xr.DataArray, grid_mapping: str | None) -> xr.Dataset:
    if OBSERVED_RAIN in forecast.data_vars:
        raise ValueError(f"the forecast has a variable {OBSERVED_RAIN!r} already: rename it")
    bare = observed.drop_vars([n for n in observed.coords if n not in ("init_time", "lead_time")])
    attrs = {"standard_name": "rainfall_rate", "long_name": "observed rain rate", "units": "mm h-1"}
    if bare.chunks is not None:
        bare = bare.chunk({d: c for d, c in forecast.unify_chunks().chunksizes.items() if d in bare.dims})
    bare.attrs = attrs | ({"grid_mapping": grid_mapping} if grid_mapping is not None else {})
    return forecast.assign({OBSERVED_RAIN: bare})


def _fitting_method(source: remapping.Grid, target: remapping.Grid) -> remapping.Method:
    """Area means where the new cells are larger, so that no old cell goes unseen; else between centres."""
    old, new = (remapping.cell_size(grid) for grid in (source, target))
    return "conservative" if old is not None and new is not None and new > 1.2 * old else "bilinear"


def _labelled(pairs: xr.Dataset, nwp: xr.Dataset, step: np.timedelta64) -> xr.Dataset:
    minutes = step / np.timedelta64(1, "m")
    pairs[OBSERVED_RAIN].attrs["cell_methods"] = f"time: mean (interval: {minutes:g} minutes)"
    times = forecast_times(pairs.init_time, pairs.lead_time)
    pairs = pairs.assign_coords(time=times["valid_time"])
    for name in ("init_time", "lead_time"):
        pairs[name].attrs = times[name].attrs
    first = ("init_time", "lead_time")
    ordered = {n: v.transpose(*first, ...) if set(first) <= set(v.dims) else v for n, v in pairs.data_vars.items()}
    pairs = pairs.assign(ordered)
    pairs.attrs["history"] = labels.dated(
        f"xnowcast pair with observations, means over {minutes:g} min", nwp.attrs.get("history")
    )
    pairs.attrs["Conventions"] = labels.CONVENTIONS
    return pairs
