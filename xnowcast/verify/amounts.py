"""Scores of amounts: sums that can be added up, and mean errors, correlation and balanced errors taken of them last."""

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import xarray as xr

from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks, sums_of_fields
from xnowcast.verify.events import SpatialDims
from xnowcast.verify.kernels import errors
from xnowcast.verify.score import Column, score_of
from xnowcast.verify.sums import XarrayObject, additive, ensemble_mean, per_cell, table_of

SUMS = ("n", "error", "absolute_error", "squared_error")
CORRELATION_SUMS = ("n", "observed", "forecast", "squared_observed", "squared_forecast", "product")
BALANCED_SUMS = ("fields", "n", "weight", "balanced_absolute_error", "balanced_squared_error")

HKO7_BOUNDS = (2.0, 5.0, 10.0, 30.0)
"""Observed rain rates, mm h-1, at which the weights of balanced errors rise: Shi et al. (2017), arXiv:1706.03458."""
HKO7_WEIGHTS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Weights below the first bound and from each bound up."""

Reduction = Literal["sum", "mean", "weighted"]


@additive(*SUMS, settings=["member_dim"])
def error_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Number of pairs and sums of the error, its absolute value and its square, in one pass.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        In the same units, with exactly the same coordinates on the dims they share. The error is forecast minus
        observation.

    Returns
    -------
    xarray.Dataset
        Variables ``n``, ``error``, ``absolute_error``, ``squared_error``, float64.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([2.0, 0.0, 5.0], dims="x")
    >>> {name: float(value) for name, value in error_sums(o, f).items()}
    {'n': 2.0, 'error': -1.0, 'absolute_error': 3.0, 'squared_error': 5.0}
    """
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    sums = sum_over_chunks(
        errors.error_sums,
        observations,
        forecasts,
        reduce=reduced_dims(dim, observations, forecasts),
        new_sizes={"sum": len(SUMS)},
        dtype=np.float64,
        cell_weights=weights,
        skipna=skipna,
    )
    return table_of(sums, SUMS)


def _column(long_name: str, least: float = 0.0) -> Column:
    limits = (least, np.inf)
    return Column(long_name, units=None, range=limits, best=0, members="mean", by_default=True, archive="errors")


@score_of(error_sums, columns=_column("root mean squared error"))
def rmse(sums: xr.Dataset) -> xr.DataArray:
    """Root of the mean squared error.

    Returns
    -------
        NaN where there is no pair. Squares are added up over ``dim`` before the root is taken.

    References
    ----------
    Wilks (2011), Statistical Methods in the Atmospheric Sciences, eq. 8.30.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([4.0, 6.0, 5.0], dims="x")
    >>> round(float(rmse(o, f)), 4)
    3.5355
    """
    return per_cell(lambda n, squares: np.sqrt(squares / n), sums, ["n", "squared_error"], "rmse")


@score_of(error_sums)
def mse(sums: xr.Dataset) -> xr.DataArray:
    """Mean squared error.

    Returns
    -------
        In the squared units of the fields, from 0, the best. NaN where there is no pair.

    References
    ----------
    Wilks (2011), eq. 8.30.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([4.0, 6.0, 5.0], dims="x")
    >>> float(mse(o, f))
    12.5
    """
    return per_cell(lambda n, squares: squares / n, sums, ["n", "squared_error"], "mse")


@score_of(error_sums, columns=_column("mean absolute error"))
def mae(sums: xr.Dataset) -> xr.DataArray:
    """Mean absolute error.

    Returns
    -------
        NaN where there is no pair.

    References
    ----------
    Wilks (2011), eq. 8.29.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([4.0, 1.0, 5.0], dims="x")
    >>> float(mae(o, f))
    2.0
    """
    return per_cell(lambda n, total: total / n, sums, ["n", "absolute_error"], "mae")


@score_of(error_sums, columns=_column("mean error, forecast minus observation", -np.inf))
def mean_error(sums: xr.Dataset) -> xr.DataArray:
    """Mean error (bias): forecast minus observation, on average.

    Returns
    -------
        Positive where too much is forecast. NaN where there is no pair.

    References
    ----------
    Wilks (2011), eq. 8.32.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([4.0, 1.0, 5.0], dims="x")
    >>> float(mean_error(o, f))
    1.0
    """
    return per_cell(lambda n, total: total / n, sums, ["n", "error"], "mean_error")


# ---------------------------------------------------------------- correlation


@additive(*CORRELATION_SUMS, settings=["member_dim"])
def correlation_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Number of pairs and the sums of values, squares and products that a correlation is made of.

    Sums of different files or months are added up with `merge` or ``.sum(dim)`` before a correlation is taken of them.

    Returns
    -------
    xarray.Dataset
        Variables ``n``, ``observed``, ``forecast``, ``squared_observed``, ``squared_forecast``, ``product``, float64.


    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([3.0, 0.0, 5.0], dims="x")
    >>> [float(value) for value in correlation_sums(o, f).values()]
    [2.0, 3.0, 3.0, 5.0, 9.0, 3.0]
    """
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    sums = sum_over_chunks(
        errors.correlation_sums,
        observations,
        forecasts,
        reduce=reduced_dims(dim, observations, forecasts),
        new_sizes={"sum": len(CORRELATION_SUMS)},
        dtype=np.float64,
        cell_weights=weights,
        skipna=skipna,
    )
    return table_of(sums, CORRELATION_SUMS)


@score_of(correlation_sums, columns=Column("correlation", range=(-1, 1), best=1, members="mean", archive="correlation"))
def correlation(sums: xr.Dataset) -> xr.DataArray:
    """Pearson correlation, ``(n sum of - sum o sum f) / sqrt((n sum oo - (sum o)^2) (n sum ff - (sum f)^2))``.

    Returns
    -------
        NaN (0/0) where there is no pair or either is constant; a
        standard deviation below 1e-7 of the root mean square is rounding and counts as none.

    References
    ----------
    Wilks (2011), eq. 3.26.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, 3.0, np.nan], dims="x"), xr.DataArray([1.0, 3.0, 2.0, 5.0], dims="x")
    >>> round(float(correlation(o, f)), 4)
    0.5
    """
    return per_cell(_correlation, sums, CORRELATION_SUMS, "correlation")


def _correlation(n, o, f, oo, ff, of):
    spread = np.sqrt(_variance(n, o, oo)) * np.sqrt(_variance(n, f, ff))
    return np.where(spread > 0, np.clip((n * of - o * f) / spread, -1, 1), np.nan)


def _variance(n, total, squares):
    of_n = n * squares - total**2
    return np.where(of_n > 1e-14 * n * squares, of_n, np.where(np.isnan(of_n), np.nan, 0.0))


# ---------------------------------------------------------------- balanced errors


@additive(*BALANCED_SUMS, settings=["bounds", "weights", "member_dim"])
def balanced_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    bounds: Sequence[float] = HKO7_BOUNDS,
    weights: Sequence[float] = HKO7_WEIGHTS,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Sums of absolute and squared errors, each times a weight that rises with what was observed.

    Parameters
    ----------
    bounds : sequence of float
        In the units of the observations, rising; by default for rain rate in mm h-1. The weight rises where
        ``observation >= bound``. The papers give rain rates for the bounds, and score fields scaled to 0 to 1: give
        the bounds in that scale, 0.462426, 0.551110, 0.618197 and 0.724527 for HKO-7's
        ``(10 log10(58.53 R^1.56) + 10) / 70``.
    weights : sequence of float
        One more than ``bounds``.

    Returns
    -------
    xarray.Dataset
        Variables ``fields`` (number of those with a pair), ``n``, ``weight``, ``balanced_absolute_error``,
        ``balanced_squared_error``, float64.

    Raises
    ------
    ValueError
        If coordinates differ, a dim is unknown, bounds do not rise, or weights are not one more than these.

    References
    ----------
    Shi et al. (2017), arXiv:1706.03458, section 3.3 (HKO-7).

    Examples
    --------
    >>> o = xr.DataArray([[0.4, 1.0, 3.0], [7.0, 20.0, 40.0]], dims=("y", "x"))
    >>> [float(value) for value in balanced_sums(o, o + 1).values()]
    [1.0, 6.0, 49.0, 49.0, 49.0]
    """
    if isinstance(weights, xr.DataArray):
        raise ValueError(
            "weights= of a balanced error are those of classes of rain, one more than bounds=, not of cells"
        )
    bounds, weights = tuple(float(b) for b in bounds), tuple(float(w) for w in weights)
    if len(weights) != len(bounds) + 1 or not all(np.diff(bounds) > 0):
        raise ValueError(f"bounds={bounds} must rise, and weights={weights} must be one more than these")
    sums = sums_of_fields(
        errors.balanced_sums,
        observations,
        forecasts,
        dim=dim,
        member_dim=member_dim,
        spatial_dims=spatial_dims,
        skipna=skipna,
        new_sizes={"sum": len(BALANCED_SUMS)},
        bounds=bounds,
        weights=weights,
    )
    return table_of(sums, BALANCED_SUMS)


@score_of(balanced_sums)
def balanced_mse(sums: xr.Dataset, *, reduce: Reduction = "mean") -> xr.DataArray:
    """Balanced mean squared error (B-MSE): squared errors times weights that rise with the observed rain rate.

    Parameters
    ----------
    reduce : {"mean", "sum", "weighted"}
        "sum": the sum over the cells of a field, on average over fields, as HKO-7 and DB-RNN report it; it grows
        with the grid. "mean": divided by the number of pairs. "weighted": divided by the sum of weights.

    Returns
    -------
        In the squared units of the fields, from 0, the best. NaN where there is no pair.

    Raises
    ------
    ValueError, TypeError
        As `balanced_sums`; and if ``reduce`` is unknown.

    References
    ----------
    Shi et al. (2017), arXiv:1706.03458, section 3.3.

    Examples
    --------
    >>> o = xr.DataArray([[0.4, 1.0, 3.0], [7.0, 20.0, 40.0]], dims=("y", "x"))
    >>> float(balanced_mse(o, o + 2, reduce="sum"))
    196.0
    """
    return _balanced("balanced_mse", "balanced_squared_error", sums, reduce)


@score_of(balanced_sums)
def balanced_mae(sums: xr.Dataset, *, reduce: Reduction = "mean") -> xr.DataArray:
    """Balanced mean absolute error (B-MAE): absolute errors times weights that rise with the observed rain rate.

    Parameters
    ----------
    reduce : {"mean", "sum", "weighted"}
        As for `balanced_mse`.

    Returns
    -------
        In the units of the fields, from 0, the best. NaN where there is no pair.

    References
    ----------
    Shi et al. (2017), arXiv:1706.03458, section 3.3.

    Examples
    --------
    >>> o = xr.DataArray([[0.4, 1.0, 3.0], [7.0, 20.0, 40.0]], dims=("y", "x"))
    >>> float(balanced_mae(o, o + 2, reduce="sum")), float(balanced_mae(o, o + 2, reduce="weighted"))
    (98.0, 2.0)
    """
    return _balanced("balanced_mae", "balanced_absolute_error", sums, reduce)


_DIVISORS = {"sum": "fields", "mean": "n", "weighted": "weight"}


def _balanced(name: str, error: str, sums: xr.Dataset, reduce: str) -> xr.DataArray:
    if reduce not in _DIVISORS:
        raise ValueError(f"reduce={reduce!r} is unknown; there are 'sum', 'mean' and 'weighted'")
    return per_cell(np.divide, sums, [error, _DIVISORS[reduce]], name)
