"""The score table of a forecast: aligned by valid time, each input read once, one tidy Dataset."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import xarray as xr

from xnowcast import cf, units
from xnowcast.verify.align import align_observations
from xnowcast.verify.contingency import Scales, Thresholds, contingency_table, ratio
from xnowcast.verify.deterministic import error_sums, mean
from xnowcast.verify.ensemble import crps_ensemble

# Long names of the scores; "units" None means those of the field.
OF_EVENTS = {
    "csi": {"long_name": "critical success index", "units": "1"},
    "pod": {"long_name": "probability of detection", "units": "1"},
    "false_alarm_ratio": {"long_name": "false alarm ratio", "units": "1"},
    "frequency_bias": {"long_name": "frequency bias", "units": "1"},
    "hss": {"long_name": "Heidke skill score", "units": "1"},
}
OF_AMOUNTS = {
    "rmse": {"long_name": "root mean squared error", "units": None},
    "mae": {"long_name": "mean absolute error", "units": None},
    "mean_error": {"long_name": "mean error, forecast minus observation", "units": None},
}
OF_ENSEMBLES = {"crps": {"long_name": "continuous ranked probability score of the ensemble", "units": None}}
SCORES = (*OF_EVENTS, *OF_AMOUNTS, *OF_ENSEMBLES)


def scorecard(
    observations: xr.DataArray | xr.Dataset,
    forecasts: xr.DataArray | xr.Dataset,
    *,
    thresholds: Thresholds = (0.5, 2.0, 5.0, 10.0),
    scales: Scales = (1, 4, 16),
    scores: Iterable[str] | None = None,
    by: str | Sequence[Hashable] = ("lead_time",),
    variable: Hashable | None = None,
    zr: tuple[float, float] | None = None,
) -> xr.Dataset:
    """Scores of a forecast by lead time, threshold and scale.

    Parameters
    ----------
    observations : xarray.DataArray or xarray.Dataset
        A precipitation field with a time axis, in any units that xnowcast reads. NaN means not measured.
    forecasts : xarray.DataArray or xarray.Dataset
        Dims ``(..., init_time, [member], lead_time, y, x)``, on the grid of the observations.
    thresholds : float or sequence of float
        In mm h-1 (kg m-2 for VIL); an event is ``value >= threshold``.
    scales : int or sequence of int
        Widths of max-pooling windows in cells, as for `contingency_table`.
    scores : iterable of str, optional
        Some of "csi", "pod", "false_alarm_ratio", "frequency_bias", "hss", "rmse", "mae", "mean_error" and
        "crps". All by default; "crps" only of an ensemble.
    by : str or sequence of hashable
        Dims that are kept: "lead_time", and "init_time" or dims such as "tile" if asked for. Counts and sums are
        added up over all others before the scores are taken of them.
    variable : hashable, optional
        Name of the variable in the Datasets that have it. Found by CF attributes where left out.
    zr : (float, float), optional
        a and b of Z = a R**b for the inputs in dBZ, instead of their attributes.

    Returns
    -------
    xarray.Dataset
        float64, lazy where an input is. The scores of events have dims ``(*by, threshold, scale)``, the others
        ``(*by)``, and ``n_scored`` is the number of cells that were measured and forecast. Of an ensemble, each
        member is scored as a forecast in the scores of events; RMSE, MAE and mean error are those of the mean.
        A time without observation is not scored; NaN is where there is nothing to take a score of (0/0).

    Raises
    ------
    ValueError
        If a field or its units cannot be told, the grids differ, no valid time was observed, a score or dim is
        unknown, or crps is asked for without members.

    Examples
    --------
    >>> minutes = np.datetime64("2024-06-01", "ns") + np.arange(3) * np.timedelta64(5, "m")
    >>> rain = xr.DataArray(np.full((3, 4, 4), 3.0), dims=("time", "y", "x"), coords={"time": minutes}, name="rain",
    ...                     attrs={"units": "mm h-1"})
    >>> fc = xr.DataArray(np.ones((1, 2, 4, 4)), dims=("init_time", "lead_time", "y", "x"), name="rain", coords={
    ...     "init_time": minutes[:1], "lead_time": np.array([5, 10], "m8[m]").astype("m8[ns]")},
    ...     attrs={"units": "mm h-1"})
    >>> card = scorecard(rain, fc, thresholds=[0.5, 2.0], scales=[1, 4])
    >>> card["csi"].sel(scale=1).values
    array([[1., 0.],
           [1., 0.]])
    >>> card["mean_error"].values
    array([-2., -2.])
    """
    observed, forecast = _rain_rates(observations, forecasts, variable, zr)
    ensemble = "member" in forecast.dims
    wanted = _wanted_scores(scores, ensemble)
    places = (forecast.dims[-2], forecast.dims[-1])
    observed = align_observations(observed, forecast, spatial_dims=places)
    kept = _kept_dims(by, forecast, places)
    reduced = [d for d in dict.fromkeys([*forecast.dims, *observed.dims]) if d not in kept]
    unit = forecast.attrs["units"]

    variables: dict[Hashable, xr.DataArray] = {}
    if set(wanted) & set(OF_EVENTS):
        table = contingency_table(
            observed, forecast, thresholds=thresholds, scales=scales, dim=reduced, spatial_dims=places
        )
        variables |= {
            name: _described(ratio(name, table), OF_EVENTS[name], unit) for name in wanted if name in OF_EVENTS
        }
    # The members' own errors are in the CRPS; these are those of one best estimate.
    member_dim = "member" if ensemble else None
    sums = error_sums(observed, forecast, dim=[d for d in reduced if d != "member"], member_dim=member_dim)
    variables |= {name: _described(mean(name, sums), OF_AMOUNTS[name], unit) for name in wanted if name in OF_AMOUNTS}
    if "crps" in wanted:
        crps = crps_ensemble(observed, forecast, dim=[d for d in reduced if d != "member"])
        variables["crps"] = _described(crps, OF_ENSEMBLES["crps"], unit)
    n_scored = sums["n"].astype(np.int64)
    variables["n_scored"] = n_scored.assign_attrs(long_name="number of cells measured and forecast", units="1")
    if ensemble:
        for name in set(wanted) & set(OF_AMOUNTS):
            variables[name].attrs["comment"] = "of the ensemble mean"
        for name in set(wanted) & set(OF_EVENTS):
            variables[name].attrs["comment"] = "each member scored as a forecast, counts added up over members"
    card = xr.Dataset(variables, attrs=_attrs(forecasts, kept, reduced, forecast, ensemble)).transpose(*kept, ...)
    if "threshold" in card.coords:
        card["threshold"].attrs["units"] = unit
    return card


def _wanted_scores(scores: Iterable[str] | None, ensemble: bool) -> list[str]:
    if scores is None:
        return [name for name in SCORES if ensemble or name not in OF_ENSEMBLES]
    wanted = [scores] if isinstance(scores, str) else list(scores)
    for name in wanted:
        if name not in SCORES:
            near = get_close_matches(str(name), SCORES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "there are " + ", ".join(map(repr, SCORES))
            raise ValueError(f"there is no score {name!r}; {hint}")
        if name in OF_ENSEMBLES and not ensemble:
            raise ValueError(f"{name!r} is a score of ensembles, and these forecasts have no dim 'member': use 'mae'")
    return wanted


def _rain_rates(
    observations: xr.DataArray | xr.Dataset,
    forecasts: xr.DataArray | xr.Dataset,
    variable: Hashable | None,
    zr: tuple[float, float] | None,
) -> tuple[xr.DataArray, xr.DataArray]:
    """Both fields in mm h-1, though they may have other names, units and kinds."""
    both = (observations, forecasts)
    named = [isinstance(obj, xr.Dataset) and variable in obj.data_vars for obj in both]
    rates = []
    for obj, has_it in zip(both, named, strict=True):
        # A name that neither has is handed on, for the error that lists what there is.
        name = variable if has_it or (isinstance(obj, xr.Dataset) and not any(named)) else None
        is_dbz = units.is_reflectivity(cf.find_field(obj, name).array.attrs.get("units"))
        rates.append(cf.rain_rate(obj, name, zr=zr if is_dbz else None))
    found = [rate.attrs["units"] for rate in rates]
    if found[0] != found[1]:
        raise ValueError(f"observations are in {found[0]} and forecasts in {found[1]}: only the same quantity compares")
    return rates[0], rates[1]


def _kept_dims(by: str | Sequence[Hashable], forecast: xr.DataArray, places: Sequence[Hashable]) -> list[Hashable]:
    kept: list[Hashable] = [by] if isinstance(by, str) else list(by)
    allowed = [d for d in forecast.dims if d not in ("member", *places)]
    for dim in kept:
        if dim not in allowed:
            raise ValueError(f"by={dim!r} is not a dim that scores can be kept by; there are {allowed}")
    return kept


def _described(score: xr.DataArray, about: Mapping[str, str | None], unit: str) -> xr.DataArray:
    return score.assign_attrs(long_name=about["long_name"], units=about["units"] or unit)


def _attrs(source, kept, reduced, forecast: xr.DataArray, ensemble: bool) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "title": "scores of a precipitation forecast",
        "averaging": f"counts and sums added up over {', '.join(map(str, reduced))} before scores were taken of them",
        "missing": "cells not measured or not forecast are left out; 0/0 is NaN",
    }
    if ensemble:
        attrs["members"] = forecast.sizes["member"]
    return attrs | {k: v for k, v in source.attrs.items() if str(k).startswith("nowcast_")}


# ---------------------------------------------------------------- as text


def format_scorecard(
    scorecards: Mapping[str, xr.Dataset] | xr.Dataset,
    *,
    scores: str | Sequence[str] = ("csi",),
    lead_times: Sequence[Any] | None = None,
    scales: Sequence[int] | None = None,
    digits: int = 3,
) -> str:
    """Score tables of one or more models side by side, as plain text.

    Parameters
    ----------
    scorecards : mapping of str to xarray.Dataset, or xarray.Dataset
        From `scorecard`, kept by ``lead_time`` alone, by the name of the model.
    scores : str or sequence of str
        Each makes a table; those of events have a row for each lead time and threshold and a group of columns
        for each scale, the others a row for each lead time.
    lead_times : sequence, optional
        Lead times to show (timedelta64, or strings such as "30min"); all by default.
    scales : sequence of int, optional
        Pooling scales to show; all by default.
    digits : int
        After the point.

    Returns
    -------
    str
        Lines without trailing blanks. ``-`` stands for NaN, and for a score, lead time or scale that a model has not.

    Raises
    ------
    ValueError
        If there is no scorecard, one has other dims than lead_time, threshold and scale, or none has a score or
        lead time that is asked for.

    Examples
    --------
    >>> lead = np.array([5, 10], "m8[m]").astype("m8[ns]")
    >>> card = xr.Dataset({"csi": (("lead_time", "threshold", "scale"), [[[0.5, 0.75]], [[0.25, np.nan]]])},
    ...                   coords={"lead_time": lead, "threshold": [2.0], "scale": [1, 4]})
    >>> print(format_scorecard({"persistence": card}))
    csi
                       1 x 1        4 x 4
     lead  mm h-1  persistence  persistence
    5 min       2        0.500        0.750
    10 min      2        0.250            -
    """
    cards = {"score": scorecards} if isinstance(scorecards, xr.Dataset) else dict(scorecards)
    if not cards:
        raise ValueError("there is no scorecard to format")
    names = [scores] if isinstance(scores, str) else list(scores)
    return "\n\n".join(_table(name, cards, lead_times, scales, digits) for name in names)


def _table(
    name: str,
    cards: Mapping[str, xr.Dataset],
    lead_times: Sequence[Any] | None,
    scales: Sequence[int] | None,
    digits: int,
) -> str:
    scored = {model: _in_full(card[name]) for model, card in cards.items() if name in card}
    if not scored:
        raise ValueError(
            f"no scorecard has the score {name!r}; there are {sorted(map(str, next(iter(cards.values()))))}"
        )
    first = next(iter(scored.values()))
    leads = first["lead_time"].values if lead_times is None else _as_lead_times(lead_times, scored)
    pooled = "scale" in first.attrs["dims"]
    shown = first["scale"].values if scales is None or not pooled else list(scales)
    columns = [(scale, model) for scale in shown for model in cards]
    of_events = "threshold" in first.attrs["dims"]

    unit = str(first["threshold"].attrs.get("units", "mm h-1"))
    groups = [f"{s} x {s}" if pooled else "" for s, _ in columns]
    rows = [["", *([""] if of_events else []), *groups]] if any(groups) else []
    rows.append(["lead", *([unit] if of_events else []), *(model for _, model in columns)])
    for lead in leads:
        for threshold in first["threshold"].values:
            values = [_value(scored.get(model), lead, threshold, scale) for scale, model in columns]
            cells = ["-" if np.isnan(value) else f"{value:.{digits}f}" for value in values]
            rows.append([_minutes(lead), *([f"{threshold:g}"] if of_events else []), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    units = first.attrs.get("units", "1")
    title = f"{first.attrs.get('long_name', name)}{'' if units == '1' else f' ({units})'}"
    return "\n".join([title, *lines])


def _in_full(score: xr.DataArray) -> xr.DataArray:
    """The score with dims (lead_time, threshold, scale), in memory; the attribute ``dims`` has those it came with."""
    other = [d for d in score.dims if d not in ("lead_time", "threshold", "scale")]
    if other or "lead_time" not in score.dims:
        raise ValueError(
            f"score {score.name!r} has dims {score.dims}; a table needs lead_time, threshold and scale alone"
        )
    came_with = score.dims
    for dim in ("threshold", "scale"):
        if dim not in score.dims:
            score = score.expand_dims(dim) if dim in score.coords else score.expand_dims({dim: [1]})
    return score.transpose("lead_time", "threshold", "scale").compute().assign_attrs(dims=came_with)


def _as_lead_times(lead_times: Sequence[Any], scored: Mapping[str, xr.DataArray]) -> list[np.timedelta64]:
    import pandas as pd

    asked = [pd.Timedelta(lead).to_timedelta64().astype("m8[ns]") for lead in lead_times]
    known = np.unique(np.concatenate([score["lead_time"].values for score in scored.values()]))
    for lead in asked:
        if lead not in known:
            raise ValueError(
                f"no scorecard has the lead time {_minutes(lead)}; there are {', '.join(map(_minutes, known))}"
            )
    return asked


def _value(score: xr.DataArray | None, lead: np.timedelta64, threshold: float, scale: int) -> float:
    try:
        return np.nan if score is None else float(score.sel(lead_time=lead, threshold=threshold, scale=scale))
    except KeyError:
        return np.nan


def _minutes(lead: np.timedelta64) -> str:
    return f"{lead / np.timedelta64(1, 'm'):g} min"
