"""Scores of ensembles: CRPS, and spread beside skill.

Each is made of sums that can be added up over files, workers and months, and is taken of them last.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks
from xnowcast.verify.kernels import crps, spread
from xnowcast.verify.score import Column, score_of
from xnowcast.verify.sums import XarrayObject, additive, find_member_dim, per_cell, table_of, without_label
from xnowcast.verify.thresholds import Thresholds, threshold_coordinate

CRPS_SUMS = ("n", "distance", "spread")
SPREAD_SUMS = ("n", "variance", "expected_squared_error", "squared_error")


def sums_of_members(
    kernel: Callable[..., np.ndarray],
    observations: xr.DataArray,
    forecasts: xr.DataArray,
    *,
    dim: Dims,
    member_dim: Hashable,
    new_sizes: Mapping[str, int],
    dtype: type = np.float64,
    **options: Any,
) -> xr.DataArray:
    """Sums by a kernel that needs all members of a point; members in several chunks are brought into one.

    ``kernel``: ``kernel(observations, forecasts, *, member_axis, axis, **options)`` on numpy arrays. ``dim``: dims to
    sum over, or all. ``member_dim``: of the forecasts alone. ``new_sizes, dtype, **options``: as for `sum_over_chunks`.
    ValueError if coordinates differ, a dim is unknown, or ``member_dim`` is not a dim of the forecasts alone.

    >>> o, f = xr.DataArray([1.0], dims="x"), xr.DataArray([[0.0], [3.0]], dims=("member", "x"))
    >>> sums_of_members(spread.spread_sums, o, f, dim=None, member_dim="member", new_sizes={"bin": 1, "sum": 4}).values
    array([[1.  , 4.5 , 6.75, 0.25]])
    """
    member_dim = find_member_dim(forecasts, member_dim)
    if member_dim in observations.dims:
        raise ValueError(f"observations have the dim {member_dim!r} too: select one observation per ensemble")
    return sum_over_chunks(
        kernel,
        observations,
        forecasts,
        reduce=reduced_dims(dim, observations, forecasts, never=[member_dim]),
        whole=[member_dim],
        member_dim=member_dim,
        new_sizes=new_sizes,
        dtype=dtype,
        **options,
    )


# ---------------------------------------------------------------- CRPS


@additive(*CRPS_SUMS, own_dims=["threshold"], settings=["fair"])
def crps_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    member_dim: Hashable = "member",
    threshold: Thresholds | None = None,
    fair: bool = False,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Number of scored points and sums of the two terms of the CRPS: distance to the observation, and spread.

    Sums of different files or months are added up with `merge` or ``.sum(dim)``; `crps_ensemble` takes the score of
    them. Their means are also a check of the spread in the units of the field: in a reliable ensemble the members
    lie as far from the observation as from each other, that is the distance is twice the fair spread.

    Parameters
    ----------
    threshold : float, sequence of float, or str, optional
        As for `tw_crps_ensemble`.
    fair : bool
        Divide the second term by ``2 n (n - 1)``: the score of the distribution the members are drawn from, with
        which ensembles of different size compare. It is NaN where there is one member.
    skipna : bool
        True: a NaN member is left out at its point (n is the number of the others there), and points without a
        score are left out. False: any NaN gives NaN.

    Returns
    -------
    xarray.Dataset
        Variables ``n``, ``distance`` (``mean |x_i - y|``) and ``spread`` (``sum_ij |x_i - x_j| / (2 n^2)``, or
        ``/ (2 n (n - 1))`` when fair), float64.

    Raises
    ------
    ValueError
        If coordinates differ, a dim is unknown, ``member_dim`` is not a dim of the forecasts alone, or a threshold is
        not finite.

    References
    ----------
    Gneiting and Raftery (2007), doi:10.1198/016214506000001437, eq. 21.

    Examples
    --------
    >>> o = xr.DataArray([1.0, 1.0], dims="x")
    >>> f = xr.DataArray([[0.0, 0.0], [3.0, np.nan]], dims=("member", "x"))
    >>> {name: float(value) for name, value in crps_sums(o, f).items()}
    {'n': 2.0, 'distance': 2.5, 'spread': 0.75}
    """
    floor = None if threshold is None else threshold_coordinate(threshold, observations, forecasts)
    floors = (-np.inf,) if floor is None else tuple(float(t) for t in np.atleast_1d(floor.values))
    sums = sums_of_members(
        crps.crps_sums,
        observations,
        forecasts,
        dim=dim,
        member_dim=member_dim,
        new_sizes={"threshold": len(floors), "sum": len(CRPS_SUMS)},
        cell_weights=weights,
        thresholds=floors,
        fair=fair,
        skipna=skipna,
    )
    if floor is None:
        sums = sums.isel(threshold=0)
    return table_of(sums, CRPS_SUMS, *([] if floor is None else [floor]))


def _column(name: str, fair: bool) -> Column:
    long_name = ("fair " if fair else "") + "continuous ranked probability score of the ensemble"
    return Column(
        long_name,
        units=None,
        range=(0, np.inf),  # of the fair score on average
        best=0,
        members="together",
        by_default=not fair,
        archive=name,
        options={"fair": fair},
    )


@score_of(
    crps_sums,
    without=["threshold"],
    columns={name: _column(name, fair) for name, fair in (("crps", False), ("crps_fair", True))},
)
def crps_ensemble(sums: xr.Dataset) -> xr.DataArray:
    """Continuous ranked probability score of an ensemble, ``mean |x_i - y| - sum_ij |x_i - x_j| / (2 n^2)``.

    Returns
    -------
        The fair score of a single case can be negative. With one member it is the absolute error. Float32 fields are
        compared in float32 and averaged in float64. Members in several chunks are brought into one.

    References
    ----------
    Gneiting and Raftery (2007), doi:10.1198/016214506000001437; Ferro (2014), doi:10.1002/qj.2270, on fair scores.

    Examples
    --------
    >>> o = xr.DataArray([1.0, 1.0], dims="x")
    >>> f = xr.DataArray([[0.5, 0.0], [1.5, 1.0], [4.0, 3.0]], dims=("member", "x"))
    >>> crps_ensemble(o, f, dim=[]).values.round(4)
    array([0.5556, 0.3333])
    >>> crps_ensemble(o, f, dim=[], fair=True).values.round(4)
    array([0.1667, 0.    ])
    """
    return _crps(sums, "crps")


@score_of(crps_sums, needed=["threshold"])
def tw_crps_ensemble(sums: xr.Dataset) -> xr.DataArray:
    """Threshold-weighted CRPS: the CRPS of ``max(x, threshold)``, which sees only what is above the threshold.

    It is the integral of the squared difference of the two distributions over values above the threshold alone,
    and unlike the CRPS of chosen cases with heavy rain it cannot be bettered by forecasting too much.

    Parameters
    ----------
    threshold : float, sequence of float, or str
        Needed with two fields. In their units, or the name of a set, as for `contingency_table`. A sequence makes a
        dim ``threshold``, a number a scalar coordinate; all are taken in one pass.

    Returns
    -------
        In the units of the fields, from 0, the best. Never above the CRPS; 0 where observation and members are all
        below.

    References
    ----------
    Gneiting and Ranjan (2011), doi:10.1198/jbes.2010.08110; Allen et al. (2023), doi:10.1137/22M1532184, on
    chaining functions.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0], dims="x"), xr.DataArray([[0.5], [1.5], [4.0]], dims=("member", "x"))
    >>> tw_crps_ensemble(o, f, threshold=[0.0, 1.0, 5.0]).values.round(4)
    array([0.5556, 0.5   , 0.    ])
    """
    if "threshold" not in sums.coords:
        raise ValueError(
            "these sums from crps_sums were made without a threshold: give it threshold=, or use crps_ensemble"
        )
    return _crps(sums, "tw_crps")


def _crps(sums: xr.Dataset, name: str) -> xr.DataArray:
    return per_cell(lambda n, distance, spread: (distance - spread) / n, sums, CRPS_SUMS, name)


# ---------------------------------------------------------------- spread and skill


@additive(*SPREAD_SUMS, own_dims=["spread_bin"], fixed_dims=["spread_from"])
def spread_skill_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    member_dim: Hashable = "member",
    bins: Sequence[float] = (),
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Number of points and sums of the variance of the members and of the squared error of their mean, in one pass.

    Sums of different files or months are added up with `merge` or ``.sum(dim)`` before `spread_skill` is taken of them.

    Parameters
    ----------
    bins : sequence of float
        Rising standard deviations that divide points into classes by their spread: below the first, between two,
        and from the last up. They make a dim ``spread_bin`` with coordinates ``spread_from`` and ``spread_to``.
    skipna : bool
        True: a NaN member is left out at its point, and points with less than two members or without observation
        are left out. False: any NaN gives NaN.

    Returns
    -------
    xarray.Dataset
        Variables ``n``, ``variance`` (of a sample, by n - 1), ``expected_squared_error`` (``(n + 1) / n`` times the
        variance, n the number of members at the point) and ``squared_error``, float64. With ``bins`` they have a
        dim ``spread_bin``.

    Raises
    ------
    ValueError
        If coordinates differ, a dim is unknown, ``member_dim`` is not a dim of the forecasts alone, or ``bins`` do not
        rise.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0], dims="x"), xr.DataArray([[1.0], [3.0]], dims=("member", "x"))
    >>> {name: float(value) for name, value in spread_skill_sums(o, f).items()}
    {'n': 1.0, 'variance': 2.0, 'expected_squared_error': 3.0, 'squared_error': 1.0}
    """
    edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or not np.all(np.isfinite(edges)) or np.any(np.diff(edges) <= 0):
        raise ValueError(f"bins={bins!r} must be a sequence of finite standard deviations that rise")
    sums = sums_of_members(
        spread.spread_sums,
        observations,
        forecasts,
        dim=dim,
        member_dim=member_dim,
        new_sizes={"spread_bin": edges.size + 1, "sum": len(SPREAD_SUMS)},
        cell_weights=weights,
        edges=tuple(edges.tolist()),
        skipna=skipna,
    )
    if not edges.size:
        return table_of(sums.isel(spread_bin=0), SPREAD_SUMS)
    bounds = {"spread_from": [0.0, *edges], "spread_to": [*edges, np.inf]}
    return table_of(sums, SPREAD_SUMS, coords={name: ("spread_bin", np.array(ends)) for name, ends in bounds.items()})


@score_of(spread_skill_sums, parts=True)
def spread_skill(sums: xr.Dataset) -> xr.Dataset:
    """Spread of the members beside the error of their mean, and the ratio of the two, which is 1 if reliable.

    The mean of n members that are drawn like the observation has ``(n + 1) / n`` times their variance as its mean
    squared error; the ratio takes that into account. Variances are averaged, not standard deviations.

    Returns
    -------
    xarray.Dataset
        Variables ``spread``, the root of the mean variance (by n - 1), ``rmse``, that of the ensemble mean, both in
        the units of the fields; ``spread_skill_ratio``, ``sqrt(mean[(n + 1) / n variance] / mean squared error)``,
        above 1 if the members differ too much, below if too little; and ``n``, the number of points. Infinite
        where a spread meets no error, NaN where there is neither or no point. Datasets as input give a dim
        ``variable``.

    References
    ----------
    Fortin et al. (2014), doi:10.1175/JHM-D-14-0008.1, eq. 15.

    Examples
    --------
    >>> o = xr.DataArray([1.0, 1.0], dims="x")
    >>> f = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("member", "x"))
    >>> {name: round(float(value), 4) for name, value in spread_skill(o, f).items()}
    {'spread': 1.4142, 'rmse': 1.5811, 'spread_skill_ratio': 1.0954, 'n': 2.0}
    """
    parts = {
        "spread": per_cell(_root_of_ratio, sums, ["variance", "n"], "spread"),
        "rmse": per_cell(_root_of_ratio, sums, ["squared_error", "n"], "rmse"),
        # Spread without error is infinite, nothing by nothing NaN.
        "spread_skill_ratio": per_cell(_root_of_ratio, sums, SPREAD_SUMS[2:], "spread_skill_ratio"),
    }
    return xr.Dataset({**parts, "n": without_label(sums["n"])})


def _root_of_ratio(total, n):
    return np.sqrt(total / n)
