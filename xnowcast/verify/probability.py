"""Scores of probabilities from the members of ensembles, all of one additive table.

The table counts points with and without the observed event by the number k of the M members that have it, so that
a probability is exactly k / M, and none falls beside a bin. An event is ``value >= threshold``.
"""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.verify.chunks import Dims, is_total, total_weight
from xnowcast.verify.ensemble import sums_of_members
from xnowcast.verify.kernels.probability import probability_counts
from xnowcast.verify.score import score_of
from xnowcast.verify.sums import XarrayObject, additive, find_member_dim, without_label
from xnowcast.verify.thresholds import Thresholds, threshold_coordinate

COUNTS = ("events", "non_events")


@additive(*COUNTS, own_dims=["threshold", "members_with_event"], called="a probability table", dtype=np.int64)
def probability_table(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    thresholds: Thresholds,
    member_dim: Hashable = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """How often an event was observed and was not, by the number of members that have it, at thresholds in one pass.

    Tables of different files or months are added up with `merge` or ``.sum(dim)`` before a score is taken of them:
    `brier_score`, `brier_decomposition`, `reliability_diagram` and `roc` take a table in place of fields.

    Parameters
    ----------
    forecasts : xarray.DataArray or xarray.Dataset
        In the same units, with ``member_dim`` and exactly the same coordinates on the dims they share. Points where
        the observation or any member is NaN are left out, as probabilities of fewer members are others.
    thresholds : float, sequence of float, or str
        An event is ``value >= threshold``, with the threshold in the precision of the data; or the name of a set, as
        for `contingency_table`. A sequence makes a dim ``threshold``, a number a scalar coordinate.
    weights : xarray.DataArray, optional
        Of points, along some of their dims, such as those of `area_weights`; counts are then float64.
    skipna : bool
        False: one NaN makes the counts NaN (and float64).

    Returns
    -------
    xarray.Dataset
        Variables ``events`` and ``non_events``, int64, with a dim ``members_with_event`` from 0 to the number of
        members and its coordinate ``probability``.

    Raises
    ------
    ValueError
        If coordinates differ, a dim is unknown, ``member_dim`` is not a dim of the forecasts alone, or a threshold is
        not finite.

    Examples
    --------
    >>> o = xr.DataArray([0.0, 2.0, 2.0], dims="x")
    >>> f = xr.DataArray([[0.0, 3.0, 1.0], [2.0, 2.0, 3.0]], dims=("member", "x"))
    >>> table = probability_table(o, f, thresholds=2.0)
    >>> table["probability"].values, table["events"].values, table["non_events"].values
    (array([0. , 0.5, 1. ]), array([0, 1, 1]), array([0, 1, 0]))
    """
    threshold = threshold_coordinate(thresholds, observations, forecasts)
    members = find_member_dim(forecasts, member_dim)
    n_members = forecasts.sizes[members]
    counts = sums_of_members(
        probability_counts,
        observations,
        forecasts,
        dim=dim,
        member_dim=members,
        new_sizes={"threshold": threshold.size, "members_with_event": n_members + 1, "observed": 2},
        dtype=np.int64,
        cell_weights=weights,
        thresholds=tuple(float(t) for t in np.atleast_1d(threshold.values)),
    )
    if not skipna:
        sizes = {**observations.sizes, **forecasts.sizes}
        total = total_weight(weights, sizes, [d for d in sizes if d not in (*counts.dims, members)])
        counts = counts.where(is_total(counts.sum(["members_with_event", "observed"]), total))
    table = xr.Dataset({"events": counts.isel(observed=1), "non_events": counts.isel(observed=0)})
    if threshold.ndim == 0:
        table = table.isel(threshold=0)
    number = np.arange(n_members + 1)
    probability = ("members_with_event", number / n_members, {"long_name": "forecast probability of the event"})
    return table.assign_coords(threshold=threshold, members_with_event=number, probability=probability)


@score_of(probability_table)
def brier_score(table: xr.Dataset, *, fair: bool = False) -> xr.DataArray:
    """Brier score: mean squared difference of the forecast probability and what came, ``mean (k / M - o)^2``.

    Parameters
    ----------
    fair : bool
        Less ``p (1 - p) / (M - 1)`` at each point: the score of the distribution the members are drawn from, with
        which ensembles of different size compare. It is NaN where there is one member.

    Returns
    -------
        From 0, the best, to 1 (the fair score of a single case can be negative); dimensionless. NaN where there
        is no point.

    References
    ----------
    Brier (1950), doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2; Ferro (2014), doi:10.1002/qj.2270.

    Examples
    --------
    >>> o = xr.DataArray([0.0, 2.0, 2.0], dims="x")
    >>> f = xr.DataArray([[0.0, 3.0, 1.0], [2.0, 2.0, 3.0]], dims=("member", "x"))
    >>> round(float(brier_score(o, f, thresholds=2.0)), 4)
    0.1667
    """
    return _of_counts(_brier_fair if fair else _brier, table, [[]])[0].rename("brier_score")


@score_of(probability_table, parts=True)
def brier_decomposition(table: xr.Dataset) -> xr.Dataset:
    """Brier score in three parts: ``reliability - resolution + uncertainty``, exactly.

    With the ``n_k`` points at which k of M members have the event, of which a part ``o_k`` was observed, and the part
    ``o`` of all N: ``sum n_k (k / M - o_k)^2 / N``, ``sum n_k (o_k - o)^2 / N`` and ``o (1 - o)``. As every value of
    the probability is a class of its own, there is no remainder.

    Returns
    -------
    xarray.Dataset
        Variables ``reliability``, from 0, the best; ``resolution``, from 0, better the larger; ``uncertainty``, of
        the observations alone; and ``brier_score``. float64, dimensionless, NaN where there is no point. Datasets as
        input give a dim ``variable``.

    References
    ----------
    Murphy (1973), doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2

    Examples
    --------
    >>> o = xr.DataArray([0.0, 2.0, 2.0, 0.0], dims="x")
    >>> f = xr.DataArray([[0.0, 3.0, 1.0, 0.0], [2.0, 2.0, 3.0, 0.0]], dims=("member", "x"))
    >>> {name: float(value) for name, value in brier_decomposition(o, f, thresholds=2.0).items()}
    {'reliability': 0.0, 'resolution': 0.125, 'uncertainty': 0.25, 'brier_score': 0.125}
    """
    names = ("reliability", "resolution", "uncertainty", "brier_score")
    parts = _of_counts(_decompose, table, [[]] * len(names))
    return xr.Dataset(dict(zip(names, parts, strict=True)))


@score_of(probability_table, parts=True)
def reliability_diagram(table: xr.Dataset, *, bins: int | None = None) -> xr.Dataset:
    """How often an event came when it was forecast with some probability: on the diagonal if reliable.

    Parameters
    ----------
    bins : int, optional
        Put the M + 1 probabilities together in so many bins of as equal number as can be, for large ensembles.
        By default each has its own.

    Returns
    -------
    xarray.Dataset
        Along a dim ``bin``: ``forecast_probability``, the mean of the points in the bin, ``observed_frequency`` and
        ``n``, the number of points. float64, dimensionless; NaN where a bin has no point, but for the probability
        of a bin of its own. Datasets as input give a dim ``variable``.

    Raises
    ------
    ValueError, TypeError
        As `brier_score`; and if there are more bins than probabilities, or none.

    References
    ----------
    Wilks (2011), Statistical Methods in the Atmospheric Sciences, section 8.4.4; Bröcker and Smith (2007),
    doi:10.1175/WAF993.1, on the mean of a bin rather than its middle.

    Examples
    --------
    >>> o = xr.DataArray([0.0, 2.0, 2.0, 0.0], dims="x")
    >>> f = xr.DataArray([[0.0, 3.0, 1.0, 0.0], [2.0, 2.0, 3.0, 0.0]], dims=("member", "x"))
    >>> diagram = reliability_diagram(o, f, thresholds=2.0)
    >>> diagram["forecast_probability"].values, diagram["observed_frequency"].values, diagram["n"].values
    (array([0. , 0.5, 1. ]), array([0. , 0.5, 1. ]), array([1., 2., 1.]))
    """
    n_values = table.sizes["members_with_event"]
    n_bins = n_values if bins is None else check.whole("bins", bins, 1, n_values)  # one probability a bin at most
    names = ("forecast_probability", "observed_frequency", "n")
    parts = _of_counts(_diagram, table, [["bin"]] * len(names), sizes={"bin": n_bins}, n_bins=n_bins)
    return xr.Dataset(dict(zip(names, parts, strict=True)))


@score_of(probability_table, parts=True)
def roc(table: xr.Dataset) -> xr.Dataset:
    """Relative operating characteristic: detection against false detection as more members are asked for, and its area.

    Returns
    -------
    xarray.Dataset
        Along a dim ``members_required`` from 0, where the event is always forecast, to M + 1, where it never is:
        ``pod``, the part of the events that is forecast, and ``probability_of_false_detection``, that of the others.
        Without it: ``area`` under the line through the points, from 0 to 1, the best, 0.5 without skill; it is the
        chance that a point with the event has more members with it than one without, ties counting half. float64,
        dimensionless; NaN where there is no event, or nothing else. Datasets as input give a dim ``variable``.

    References
    ----------
    Mason (1982), Australian Meteorological Magazine 30, 291-303; Mason and Graham (2002),
    doi:10.1256/003590002320603584, on the area.

    Examples
    --------
    >>> o = xr.DataArray([0.0, 2.0, 2.0, 0.0], dims="x")
    >>> f = xr.DataArray([[0.0, 3.0, 1.0, 0.0], [2.0, 2.0, 3.0, 0.0]], dims=("member", "x"))
    >>> curve = roc(o, f, thresholds=2.0)
    >>> curve["pod"].values, curve["probability_of_false_detection"].values, float(curve["area"])
    (array([1. , 1. , 0.5, 0. ]), array([1. , 0.5, 0. , 0. ]), 0.875)
    """
    n_required = table.sizes["members_with_event"] + 1
    dims = [["members_required"], ["members_required"], []]
    parts = _of_counts(_roc, table, dims, sizes={"members_required": n_required})
    names = ("pod", "probability_of_false_detection", "area")
    return xr.Dataset(dict(zip(names, parts, strict=True)), {"members_required": np.arange(n_required)})


# ---------------------------------------------------------------- formulas
#
# Of float64 counts with and without the event, the number of members with it on the last axis.


def _of_counts(
    formula: Callable[..., Any],
    table: xr.Dataset,
    dims: list[list[str]],
    *,
    sizes: dict[str, int] | None = None,
    **options: Any,
) -> tuple[xr.DataArray, ...]:
    """Parts of a score, whose own dims are ``dims`` of ``sizes``; lazy where the table is."""

    def compute(*counts: np.ndarray) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):  # nothing by nothing is NaN
            parts = formula(*(np.asarray(count, dtype=np.float64) for count in counts), **options)
        return parts if len(parts) > 1 else parts[0]

    parts = xr.apply_ufunc(
        compute,
        *(without_label(table[name]) for name in COUNTS),
        input_core_dims=[["members_with_event"]] * len(COUNTS),
        output_core_dims=dims,
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": sizes or {}, "allow_rechunk": True},
        output_dtypes=[np.float64] * len(dims),
    )
    return parts if isinstance(parts, tuple) else (parts,)


def _probability(yes: np.ndarray) -> np.ndarray:
    return np.arange(yes.shape[-1]) / (yes.shape[-1] - 1)


def _brier(yes, no):
    p = _probability(yes)
    return ((yes * (1 - p) ** 2 + no * p**2).sum(axis=-1) / (yes + no).sum(axis=-1),)


def _brier_fair(yes, no):
    p, n = _probability(yes), yes + no
    n_members = np.float64(yes.shape[-1] - 1)
    excess = (n * p * (1 - p)).sum(axis=-1) / (n_members - 1) / n.sum(axis=-1)
    return (_brier(yes, no)[0] - excess,)


def _decompose(yes, no):
    n, p = yes + no, _probability(yes)
    total, events = n.sum(axis=-1), yes.sum(axis=-1)
    frequency, base_rate = np.where(n > 0, yes / n, 0), events / total
    reliability = (n * (p - frequency) ** 2).sum(axis=-1) / total
    resolution = (n * (frequency - base_rate[..., np.newaxis]) ** 2).sum(axis=-1) / total
    return reliability, resolution, base_rate * (1 - base_rate), _brier(yes, no)[0]


def _diagram(yes, no, *, n_bins):
    n, p = yes + no, _probability(yes)
    first = np.arange(n_bins) * yes.shape[-1] // n_bins
    n_in_bin = np.add.reduceat(n, first, axis=-1)
    mean = np.add.reduceat(n * p, first, axis=-1) / n_in_bin
    if n_bins == yes.shape[-1]:
        mean = np.broadcast_to(p, n.shape)
    return mean, np.add.reduceat(yes, first, axis=-1) / n_in_bin, n_in_bin


def _roc(yes, no):
    def part_with_at_least(counts):
        more = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
        never = np.zeros_like(more[..., :1])
        return np.concatenate([more, never], axis=-1) / more[..., :1]

    pod, pofd = part_with_at_least(yes), part_with_at_least(no)
    widths, heights = -np.diff(pofd, axis=-1), (pod[..., 1:] + pod[..., :-1]) / 2
    return pod, pofd, (widths * heights).sum(axis=-1)
