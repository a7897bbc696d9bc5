"""The score table of a forecast: aligned by valid time, each input read once, one tidy Dataset."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from textwrap import fill
from typing import Any

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.fields import cf, units
from xnowcast.fields.units import Relation
from xnowcast.verify import amounts, distribution, ensemble, events, neighbourhood, spectra  # noqa: F401
from xnowcast.verify.align import align_observations, match_intervals
from xnowcast.verify.events import Scales
from xnowcast.verify.score import RECORDS, Record
from xnowcast.verify.sums import without_label
from xnowcast.verify.thresholds import Thresholds, threshold_coordinate


@dataclass(frozen=True)
class _Pair:
    """An aligned pair of fields, and what several of its scores need: computed once for all of them."""

    observed: xr.DataArray
    forecast: xr.DataArray
    reduced: list[Hashable]
    places: tuple[Hashable, Hashable]
    thresholds: xr.DataArray
    scales: Scales
    weights: xr.DataArray | None

    @property
    def member_dim(self) -> str | None:
        return "member" if "member" in self.forecast.dims else None

    @property
    def of_points(self) -> list[Hashable]:
        """The dims summed over by scores that take the members together."""
        return [d for d in self.reduced if d != "member"]

    @cached_property
    def _made(self) -> dict[str, xr.Dataset]:
        return {}

    @property
    def n_scored(self) -> xr.DataArray:
        unweighted = self if self.weights is None else replace(self, weights=None)
        return unweighted.taken(RECORDS["rmse"], sums_alone=True)["n"]

    def taken(self, record: Record, *, sums_alone: bool = False) -> Any:
        """A score of the pair, by way of sums that other scores have been taken of where it has some."""
        options = {name: value for name, value in self._options(record).items() if record.takes(name)}
        if not record.of_sums:
            return record.score(self.observed, self.forecast, **options)
        key = f"{record.sums.name} {record.members} {sorted(record.options.items())}"
        if key not in self._made:
            self._made[key] = record.sums.fields(self.observed, self.forecast, **options)
        return self._made[key] if sums_alone else record.formula(self._made[key])

    def _options(self, record: Record) -> dict[str, Any]:
        """What the table says of all scores; each takes the options that it has."""
        own = dict(record.options)
        if record.of_thresholds is not None:
            own[record.of_thresholds] = [0.0, *sorted(np.atleast_1d(self.thresholds.values)), np.inf]
        members = {"member_dim": self.member_dim} if record.members == "mean" else {}
        return (
            own
            | members
            | {
                "thresholds": self.thresholds,
                "scales": self.scales,
                "dim": self.reduced if record.members == "each" else self.of_points,
                "spatial_dims": self.places,
                "weights": self.weights,
            }
        )


SCORES: Mapping[str, Record] = RECORDS
"""The scores of the table; those by default come unasked."""


def scorecard(
    observations: xr.DataArray | xr.Dataset,
    forecasts: xr.DataArray | xr.Dataset,
    *,
    thresholds: Thresholds = (0.5, 2.0, 5.0, 10.0),
    scales: Scales = (1, 4, 16),
    scores: Iterable[str] | None = None,
    by: str | Sequence[Hashable] = ("lead_time",),
    variable: Hashable | None = None,
    zr: Relation | None = None,
    weights: xr.DataArray | None = None,
) -> xr.Dataset:
    """Scores of a forecast by lead time, threshold and scale.

    Parameters
    ----------
    observations : xarray.DataArray or xarray.Dataset
        A precipitation field with a time axis, in any units that xnowcast reads. NaN means not measured.
    forecasts : xarray.DataArray or xarray.Dataset
        Dims ``(..., init_time, [member], lead_time, y, x)`` in any order, on the grid of the observations. Init times,
        members and lead times of other packages are told by CF standard names or common names (`number`, `step`, ...).
    thresholds : float, sequence of float, or str
        In mm h-1 (kg m-2 for VIL), or the name of a set such as "hko7"; an event is ``value >= threshold``.
    scales : int or sequence of int
        Widths of max-pooling windows in cells, as for `contingency_table`.
    scores : iterable of str, optional
        <scores>
    by : str or sequence of hashable
        Dims that are kept: "lead_time", and "init_time" or dims such as "tile" if asked for. Counts and sums are
        added up over all others before the scores are taken of them. Init and lead times go by these names in the
        table, whatever the forecasts call them.
    variable : hashable, optional
        Name of the variable in the Datasets that have it. Found by CF attributes where left out.
    zr : (float, float) or str, optional
        a and b of Z = a R**b for the inputs in dBZ, instead of their attributes.
    weights : xarray.DataArray, optional
        Along some dims of the forecasts, such as `area_weights` of a latitude-longitude grid, which need ``scales=1``,
        as windows have none.

    Returns
    -------
    xarray.Dataset
        float64, lazy where an input is. The scores of events have dims ``(*by, threshold, scale)``, the others
        ``(*by)``, and ``n_scored`` is the number of cells that were measured and forecast. Of an ensemble, each
        member is scored as a forecast in the scores of events; RMSE, MAE and mean error are those of the mean.
        A time without observation is not scored; NaN is where there is nothing to take a score of (0/0). Where one
        side is of longer intervals than the other, the other is averaged over them (`match_intervals`), and the lead
        times are those whose interval is covered.

    Raises
    ------
    ValueError
        If a field or its units cannot be told, the grids differ, no valid time was observed, intervals do not make up
        each other, a score or dim is unknown, or crps is asked for without members.

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
    check.call(scorecard, locals())
    observed, theirs, late = _rain_rates(observations, forecasts, variable, zr)
    forecast = cf.in_forecast_layout(theirs)
    ours = dict(zip(theirs.dims, forecast.dims, strict=True))
    by = [ours.get(dim, dim) for dim in ([by] if isinstance(by, str) else by)]
    observed, forecast = match_intervals(observed, forecast, late=late)
    has_members = "member" in forecast.dims
    wanted = _wanted_scores(scores, has_members)
    _refuse_weights(weights, wanted)
    places = (forecast.dims[-2], forecast.dims[-1])
    unit = forecast.attrs["units"]
    chosen = _checked_thresholds(thresholds, forecast)
    observed = align_observations(observed, forecast, spatial_dims=places)
    kept = _kept_dims(by, forecast, places)
    reduced = [d for d in dict.fromkeys([*forecast.dims, *observed.dims]) if d not in kept]
    weights = weights.rename({d: ours[d] for d in weights.dims if ours.get(d, d) != d}) if weights is not None else None
    pair = _Pair(observed, forecast, reduced, places, chosen, scales, weights)

    variables: dict[Hashable, xr.DataArray] = {}
    for name in wanted:
        score = SCORES[name]
        values = pair.taken(score)
        values = values.drop_vars([c for c in values.coords if c not in (*values.dims, "threshold", "scale")])
        variables[name] = values.assign_attrs(long_name=score.long_name, units=score.units or unit)
        if has_members and score.of_ensemble:
            variables[name].attrs["comment"] = score.of_ensemble
    n_scored = without_label(pair.n_scored).astype(np.int64)
    variables["n_scored"] = n_scored.assign_attrs(long_name="number of cells measured and forecast", units="1")
    card = xr.Dataset(variables, attrs=_attrs(forecasts, kept, reduced, forecast, has_members))
    if "threshold" in card.coords:
        card["threshold"].attrs |= chosen.attrs | {"units": unit}
    return card.transpose(*kept, ...)


def _in_words(scores: Mapping[str, Record]) -> str:
    """Which scores there are, for the docstring."""
    alone = ", ".join(f'"{name}"' for name, one in scores.items() if one.by_default and one.members != "together")
    of_members = ", ".join(f'"{name}"' for name, one in scores.items() if one.by_default and one.members == "together")
    others = ", ".join(f'"{name}"' for name, one in scores.items() if not one.by_default)
    text = f"Some of `SCORES`. By default {alone} and, of an ensemble, {of_members}; there are also {others}."
    return fill(text, 112, subsequent_indent=" " * 8)


if scorecard.__doc__:
    scorecard.__doc__ = scorecard.__doc__.replace("<scores>", _in_words(SCORES))


def _own(obj: xr.DataArray | xr.Dataset, variable: Hashable | None) -> Hashable | None:
    """The variable, where this is a Dataset that has it."""
    return variable if isinstance(obj, xr.Dataset) and variable in obj.data_vars else None


def _checked_thresholds(thresholds: Thresholds, forecast: xr.DataArray) -> xr.DataArray:
    chosen = threshold_coordinate(thresholds, forecast)
    values = np.atleast_1d(chosen.values)
    if len(set(values.tolist())) < values.size:
        raise ValueError(f"thresholds has the same value twice: {values.tolist()}")
    if (values <= 0).any():
        raise ValueError(f"thresholds has {values.min():g}, which every cell reaches: give values above 0")
    return chosen


def _wanted_scores(scores: Iterable[str] | None, has_members: bool) -> list[str]:
    if scores is None:
        return [
            name for name, score in SCORES.items() if score.by_default and (has_members or score.members != "together")
        ]
    wanted = [scores] if isinstance(scores, str) else list(scores)
    for name in wanted:
        if name not in SCORES:
            hint = check.did_you_mean(name, SCORES, "there are " + ", ".join(map(repr, SCORES)))
            raise ValueError(f"there is no score {name!r}; {hint}")
        if SCORES[name].members == "together" and not has_members:
            raise ValueError(f"{name!r} is a score of ensembles, and these forecasts have no dim 'member': use 'mae'")
    return wanted


def _refuse_weights(weights: xr.DataArray | None, wanted: Sequence[str]) -> None:
    without = [name for name in wanted if not SCORES[name].takes("weights")]
    if weights is not None and without:
        raise ValueError(f"{without[0]!r} has no weights: leave it out, or take it without them")


def _rain_rates(
    observations: xr.DataArray | xr.Dataset,
    forecasts: xr.DataArray | xr.Dataset,
    variable: Hashable | None,
    zr: Relation | None,
) -> tuple[xr.DataArray, xr.DataArray, np.timedelta64 | None]:
    """Both fields in mm h-1, though they may have other names, units and kinds; and how late the first are."""
    both = (observations, forecasts)
    named = [_own(obj, variable) is not None for obj in both]
    rates, of = [], []
    for obj, has_it in zip(both, named, strict=True):
        # A name that neither has is handed on, for the error that lists what there is.
        name = variable if has_it or (isinstance(obj, xr.Dataset) and not any(named)) else None
        field = cf.find_field(obj, name)
        if zr is not None and units.is_reflectivity(field.array.attrs.get("units")):
            field = cf.find_field(obj, name, zr=zr)
        rates.append(cf.converted(field).transpose(..., field.y, field.x))
        of.append(field)
    found = [rate.attrs["units"] for rate in rates]
    if found[0] != found[1]:
        raise ValueError(f"observations are in {found[0]} and forecasts in {found[1]}: only the same quantity compares")
    return rates[0], rates[1], _lateness(*of)


def _lateness(observed: cf.Field, forecast: cf.Field) -> np.timedelta64 | None:
    """From the times of the observations to the ends of their intervals, as late as those of the forecasts are.

    None where nothing tells: forecasts of the same length without time bounds are made from such observations, and
    their times are like them.
    """
    ours, theirs = observed.interval, forecast.interval
    if ours is None or ours.end is None:
        return None
    if theirs is None or theirs.end is None:
        return None if theirs is not None and theirs.length == ours.length else ours.end
    return ours.end - theirs.end


def _kept_dims(by: str | Sequence[Hashable], forecast: xr.DataArray, places: Sequence[Hashable]) -> list[Hashable]:
    kept: list[Hashable] = [by] if isinstance(by, str) else list(by)
    allowed = [d for d in forecast.dims if d not in ("member", *places)]
    for dim in kept:
        if dim not in allowed:
            raise ValueError(f"by={dim!r} is not a dim that scores can be kept by; there are {allowed}")
    return kept


def _attrs(source, kept, reduced, forecast: xr.DataArray, has_members: bool) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "title": "scores of a precipitation forecast",
        "averaging": f"counts and sums added up over {', '.join(map(str, reduced))} before scores were taken of them",
        "missing": "cells not measured or not forecast are left out; 0/0 is NaN",
    }
    if has_members:
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
