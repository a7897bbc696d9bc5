"""Scores of amounts: sums that can be added up, and mean errors, correlation and balanced errors taken of them last."""

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from xnowcast.verify.align import find_spatial_dims
from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks
from xnowcast.verify.contingency import SpatialDims
from xnowcast.verify.fields import XarrayObject, each_variable, ensemble_mean, matching_variables, with_attrs
from xnowcast.verify.kernels import errors

SUMS = ("n", "error", "absolute_error", "squared_error")
CORRELATION_SUMS = ("n", "observed", "forecast", "squared_observed", "squared_forecast", "product")
BALANCED_SUMS = ("fields", "n", "weight", "balanced_absolute_error", "balanced_squared_error")

HKO7_BOUNDS = (2.0, 5.0, 10.0, 30.0)
"""Observed rain rates, mm h-1, at which the weights of balanced errors rise: Shi et al. (2017), arXiv:1706.03458."""
HKO7_WEIGHTS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Weights below the first bound and from each bound up."""

Reduction = Literal["sum", "mean", "weighted"]


def error_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Number of pairs and sums of the error, its absolute value and its square, in one pass.

    Sums of different files or months are added up with ``+`` or ``.sum(dim)`` before a score is taken of them.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        In the same units, with exactly the same coordinates on the dims they share. The error is forecast minus
        observation.
    dim : str or iterable of hashable, optional
        Dims that are summed over; all by default, members of an ensemble included.
    member_dim : hashable, optional
        When given, the mean over this dim is scored instead of each member.
    skipna : bool
        True: pairs in which either is NaN (not measured) are dropped. False: they make the sums NaN.
    keep_attrs : bool
        Whether to copy the attributes of ``observations``.

    Returns
    -------
    xarray.Dataset
        Variables ``n``, ``error``, ``absolute_error``, ``squared_error``, float64. Datasets as input give a
        dim ``variable``. Lazy where an input is.

    Raises
    ------
    ValueError
        If coordinates differ or a dim is unknown.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([2.0, 0.0, 5.0], dims="x")
    >>> {name: float(value) for name, value in error_sums(o, f).items()}
    {'n': 2.0, 'error': -1.0, 'absolute_error': 3.0, 'squared_error': 5.0}
    """
    variables = matching_variables(observations, forecasts)
    if variables is not None:
        options: dict[str, Any] = {"dim": dim, "member_dim": member_dim, "skipna": skipna, "keep_attrs": keep_attrs}
        sums_of = [error_sums(observations[v], forecasts[v], **options) for v in variables]
        return xr.concat(sums_of, dim=xr.DataArray(variables, dims="variable", name="variable"))
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    sums = sum_over_chunks(
        errors.error_sums,
        observations,
        forecasts,
        reduce=reduced_dims(dim, observations, forecasts),
        new_sizes={"sum": len(SUMS)},
        dtype=np.float64,
        skipna=skipna,
    )
    table = xr.Dataset({name: sums.isel(sum=i) for i, name in enumerate(SUMS)})
    return with_attrs(table, observations if keep_attrs else None)


def rmse(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Root of the mean squared error.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        Two fields as for `error_sums`, or sums from it alone.
    dim, member_dim, skipna, keep_attrs
        As for `error_sums`; left out when sums are given.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        In the units of the fields, from 0, the best; float64. NaN where there is no pair. Squares are added up
        over ``dim`` before the root is taken.

    Raises
    ------
    ValueError, TypeError
        As `error_sums`.

    References
    ----------
    Wilks (2011), Statistical Methods in the Atmospheric Sciences, eq. 8.30.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([4.0, 6.0, 5.0], dims="x")
    >>> round(float(rmse(o, f)), 4)
    3.5355
    """
    return _score("rmse", observations, forecasts, dim, member_dim, skipna, keep_attrs)


def mse(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Mean squared error.

    Parameters
    ----------
    observations, forecasts, dim, member_dim, skipna, keep_attrs
        As for `rmse`.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        In the squared units of the fields, from 0, the best; float64. NaN where there is no pair.

    Raises
    ------
    ValueError, TypeError
        As `error_sums`.

    References
    ----------
    Wilks (2011), eq. 8.30.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([4.0, 6.0, 5.0], dims="x")
    >>> float(mse(o, f))
    12.5
    """
    return _score("mse", observations, forecasts, dim, member_dim, skipna, keep_attrs)


def mae(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Mean absolute error.

    Parameters
    ----------
    observations, forecasts, dim, member_dim, skipna, keep_attrs
        As for `rmse`.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        In the units of the fields, from 0, the best; float64. NaN where there is no pair.

    Raises
    ------
    ValueError, TypeError
        As `error_sums`.

    References
    ----------
    Wilks (2011), eq. 8.29.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([4.0, 1.0, 5.0], dims="x")
    >>> float(mae(o, f))
    2.0
    """
    return _score("mae", observations, forecasts, dim, member_dim, skipna, keep_attrs)


def mean_error(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Mean error (bias): forecast minus observation, on average.

    Parameters
    ----------
    observations, forecasts, dim, member_dim, skipna, keep_attrs
        As for `rmse`.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        In the units of the fields, best at 0, positive where too much is forecast; float64. NaN where there is
        no pair.

    Raises
    ------
    ValueError, TypeError
        As `error_sums`.

    References
    ----------
    Wilks (2011), eq. 8.32.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([4.0, 1.0, 5.0], dims="x")
    >>> float(mean_error(o, f))
    1.0
    """
    return _score("mean_error", observations, forecasts, dim, member_dim, skipna, keep_attrs)


# The formulas, on float64 arrays in the order of SUMS.


def _rmse(n, error, absolute_error, squared_error):
    return np.sqrt(squared_error / n)


def _mse(n, error, absolute_error, squared_error):
    return squared_error / n


def _mae(n, error, absolute_error, squared_error):
    return absolute_error / n


def _mean_error(n, error, absolute_error, squared_error):
    return error / n


_FORMULAS = {"rmse": _rmse, "mse": _mse, "mae": _mae, "mean_error": _mean_error}


def _score(
    name: str,
    observations: XarrayObject,
    forecasts: XarrayObject | None,
    dim: Dims,
    member_dim: Hashable | None,
    skipna: bool,
    keep_attrs: bool,
) -> XarrayObject:
    if forecasts is None:
        if not (isinstance(observations, xr.Dataset) and set(SUMS) <= set(observations.data_vars)):
            raise TypeError(f"{name} takes observations and forecasts, or a Dataset from error_sums alone")
        return mean(name, observations, keep_attrs=keep_attrs)

    def of_one(obs: xr.DataArray, fcst: xr.DataArray) -> xr.DataArray:
        sums = error_sums(obs, fcst, dim=dim, member_dim=member_dim, skipna=skipna, keep_attrs=keep_attrs)
        return mean(name, sums, keep_attrs=keep_attrs)

    return each_variable(of_one, observations, forecasts, keep_attrs)


def mean(name: str, sums: xr.Dataset, *, keep_attrs: bool = False) -> xr.DataArray:
    """A score by its name, of sums of errors.

    Parameters
    ----------
    name : {"rmse", "mse", "mae", "mean_error"}
    sums : xarray.Dataset
        From `error_sums`.
    keep_attrs : bool
        Whether to copy the attributes of the sums.

    Returns
    -------
    xarray.DataArray
        float64, lazy where the sums are.

    Examples
    --------
    >>> sums = xr.Dataset({"n": 2.0, "error": -1.0, "absolute_error": 3.0, "squared_error": 8.0})
    >>> float(mean("rmse", sums)), float(mean("mae", sums))
    (2.0, 1.5)
    """
    formula = _FORMULAS[name]

    def divide(*parts: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):  # no pair: 0 / 0 is NaN
            return formula(*parts)

    parts = [sums[part] for part in SUMS]
    result = xr.apply_ufunc(divide, *parts, dask="parallelized", output_dtypes=[np.float64], keep_attrs=keep_attrs)
    return result.rename(name)


# ---------------------------------------------------------------- correlation


def correlation_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Number of pairs and the sums of values, squares and products that a correlation is made of.

    Sums of different files or months are added up with ``+`` or ``.sum(dim)`` before a correlation is taken of them.

    Parameters
    ----------
    observations, forecasts, dim, member_dim, skipna, keep_attrs
        As for `error_sums`.

    Returns
    -------
    xarray.Dataset
        Variables ``n``, ``observed``, ``forecast``, ``squared_observed``, ``squared_forecast``, ``product``, float64.
        Datasets as input give a dim ``variable``. Lazy where an input is.

    Raises
    ------
    ValueError
        If coordinates differ or a dim is unknown.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, np.nan], dims="x"), xr.DataArray([3.0, 0.0, 5.0], dims="x")
    >>> [float(value) for value in correlation_sums(o, f).values()]
    [2.0, 3.0, 3.0, 5.0, 9.0, 3.0]
    """
    variables = matching_variables(observations, forecasts)
    if variables is not None:
        options: dict[str, Any] = {"dim": dim, "member_dim": member_dim, "skipna": skipna, "keep_attrs": keep_attrs}
        sums_of = [correlation_sums(observations[v], forecasts[v], **options) for v in variables]
        return xr.concat(sums_of, dim=xr.DataArray(variables, dims="variable", name="variable"))
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    sums = sum_over_chunks(
        errors.correlation_sums,
        observations,
        forecasts,
        reduce=reduced_dims(dim, observations, forecasts),
        new_sizes={"sum": len(CORRELATION_SUMS)},
        dtype=np.float64,
        skipna=skipna,
    )
    table = xr.Dataset({name: sums.isel(sum=i) for i, name in enumerate(CORRELATION_SUMS)})
    return with_attrs(table, observations if keep_attrs else None)


def correlation(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Pearson correlation, ``(n sum of - sum o sum f) / sqrt((n sum oo - (sum o)^2) (n sum ff - (sum f)^2))``.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        Two fields as for `correlation_sums`, or the sums from it alone.
    dim, member_dim, skipna, keep_attrs
        As for `correlation_sums`; left out when sums are given.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        From -1 to 1, the best; float64, dimensionless. NaN (0/0) where there is no pair or either is constant; a
        standard deviation below 1e-7 of the root mean square is rounding and counts as none.

    Raises
    ------
    ValueError, TypeError
        As `correlation_sums`.

    References
    ----------
    Wilks (2011), eq. 3.26.

    Examples
    --------
    >>> o, f = xr.DataArray([1.0, 2.0, 3.0, np.nan], dims="x"), xr.DataArray([1.0, 3.0, 2.0, 5.0], dims="x")
    >>> round(float(correlation(o, f)), 4)
    0.5
    """
    if forecasts is None:
        if not (isinstance(observations, xr.Dataset) and set(CORRELATION_SUMS) <= set(observations.data_vars)):
            raise TypeError("correlation takes observations and forecasts, or a Dataset from correlation_sums alone")
        return _correlation_of(observations, keep_attrs)

    def of_one(obs: xr.DataArray, fcst: xr.DataArray) -> xr.DataArray:
        sums = correlation_sums(obs, fcst, dim=dim, member_dim=member_dim, skipna=skipna, keep_attrs=keep_attrs)
        return _correlation_of(sums, keep_attrs)

    return each_variable(of_one, observations, forecasts, keep_attrs)


def _correlation_of(sums: xr.Dataset, keep_attrs: bool) -> xr.DataArray:
    def variance(n: np.ndarray, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
        of_n = n * squares - total**2
        return np.where(of_n > 1e-14 * n * squares, of_n, np.where(np.isnan(of_n), np.nan, 0.0))

    def divide(n, o, f, oo, ff, of):
        with np.errstate(divide="ignore", invalid="ignore"):  # no pair, or a constant: 0 / 0 is NaN
            spread = np.sqrt(variance(n, o, oo)) * np.sqrt(variance(n, f, ff))
            return np.where(spread > 0, np.clip((n * of - o * f) / spread, -1, 1), np.nan)

    parts = [sums[name] for name in CORRELATION_SUMS]
    result = xr.apply_ufunc(divide, *parts, dask="parallelized", output_dtypes=[np.float64], keep_attrs=keep_attrs)
    return result.rename("correlation")


# ---------------------------------------------------------------- balanced errors


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

    Sums of different files or months are added up with ``+`` or ``.sum(dim)`` before a score is taken of them.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        In the same units, with exactly the same coordinates on the dims they share.
    bounds : sequence of float
        In the units of the observations, rising; by default for rain rate in mm h-1. The weight rises where
        ``observation >= bound``. The papers give rain rates for the bounds, and score fields scaled to 0 to 1: give
        the bounds in that scale, 0.462426, 0.551110, 0.618197 and 0.724527 for HKO-7's
        ``(10 log10(58.53 R^1.56) + 10) / 70``.
    weights : sequence of float
        One more than ``bounds``.
    dim : str or iterable of hashable, optional
        Dims that are summed over; all by default. The horizontal dims always are. Members of an ensemble are
        scored each as a forecast.
    member_dim : hashable, optional
        When given, the mean over this dim is scored instead.
    spatial_dims : (hashable, hashable), optional
        Names of the horizontal dims. By default y and x, or latitude and longitude.
    skipna : bool
        True: pairs in which either is NaN (not measured) are dropped. False: they make the sums NaN.
    keep_attrs : bool
        Whether to copy the attributes of ``observations``.

    Returns
    -------
    xarray.Dataset
        Variables ``fields`` (number of those with a pair), ``n``, ``weight``, ``balanced_absolute_error``,
        ``balanced_squared_error``, float64. Datasets as input give a dim ``variable``. Lazy where an input is.

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
    variables = matching_variables(observations, forecasts)
    bounds, weights = tuple(float(b) for b in bounds), tuple(float(w) for w in weights)
    if len(weights) != len(bounds) + 1 or not all(np.diff(bounds) > 0):
        raise ValueError(f"bounds={bounds} must rise, and weights={weights} must be one more than these")
    how: dict[str, Any] = {"bounds": bounds, "weights": weights, "skipna": skipna}
    if variables is not None:
        options: dict[str, Any] = {"dim": dim, "member_dim": member_dim, "spatial_dims": spatial_dims}
        options |= {"keep_attrs": keep_attrs}
        of_variables = [balanced_sums(observations[v], forecasts[v], **how, **options) for v in variables]
        return xr.concat(of_variables, dim=xr.DataArray(variables, dims="variable", name="variable"))
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    places = find_spatial_dims(forecasts, spatial_dims)
    find_spatial_dims(observations, places)
    sums = sum_over_chunks(
        errors.balanced_sums,
        observations,
        forecasts,
        reduce=[*reduced_dims(dim, observations, forecasts), *places],
        whole=places,
        last=places,
        new_sizes={"sum": len(BALANCED_SUMS)},
        dtype=np.float64,
        **how,
    )
    table = xr.Dataset({name: sums.isel(sum=i) for i, name in enumerate(BALANCED_SUMS)})
    return with_attrs(table, observations if keep_attrs else None)


def balanced_mse(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    reduce: Reduction = "mean",
    bounds: Sequence[float] = HKO7_BOUNDS,
    weights: Sequence[float] = HKO7_WEIGHTS,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Balanced mean squared error (B-MSE): squared errors times weights that rise with the observed rain rate.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        Two fields as for `balanced_sums`, or the sums from it alone.
    reduce : {"mean", "sum", "weighted"}
        "sum": the sum over the cells of a field, on average over fields, as HKO-7 and DB-RNN report it; it grows
        with the grid. "mean": divided by the number of pairs. "weighted": divided by the sum of weights.
    bounds, weights, dim, member_dim, spatial_dims, skipna, keep_attrs
        As for `balanced_sums`; left out when sums are given.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        In the squared units of the fields, from 0, the best; float64. NaN where there is no pair.

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
    options: dict[str, Any] = {"bounds": bounds, "weights": weights, "dim": dim, "member_dim": member_dim}
    options |= {"spatial_dims": spatial_dims, "skipna": skipna}
    return _balanced("balanced_mse", observations, forecasts, reduce, options, keep_attrs)


def balanced_mae(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    reduce: Reduction = "mean",
    bounds: Sequence[float] = HKO7_BOUNDS,
    weights: Sequence[float] = HKO7_WEIGHTS,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Balanced mean absolute error (B-MAE): absolute errors times weights that rise with the observed rain rate.

    Parameters
    ----------
    observations, forecasts, reduce, bounds, weights, dim, member_dim, spatial_dims, skipna, keep_attrs
        As for `balanced_mse`.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        In the units of the fields, from 0, the best; float64. NaN where there is no pair.

    Raises
    ------
    ValueError, TypeError
        As `balanced_mse`.

    References
    ----------
    Shi et al. (2017), arXiv:1706.03458, section 3.3.

    Examples
    --------
    >>> o = xr.DataArray([[0.4, 1.0, 3.0], [7.0, 20.0, 40.0]], dims=("y", "x"))
    >>> float(balanced_mae(o, o + 2, reduce="sum")), float(balanced_mae(o, o + 2, reduce="weighted"))
    (98.0, 2.0)
    """
    options: dict[str, Any] = {"bounds": bounds, "weights": weights, "dim": dim, "member_dim": member_dim}
    options |= {"spatial_dims": spatial_dims, "skipna": skipna}
    return _balanced("balanced_mae", observations, forecasts, reduce, options, keep_attrs)


_BALANCED = {"balanced_mse": "balanced_squared_error", "balanced_mae": "balanced_absolute_error"}
_DIVISORS = {"sum": "fields", "mean": "n", "weighted": "weight"}


def _balanced(
    name: str,
    observations: XarrayObject,
    forecasts: XarrayObject | None,
    reduce: str,
    options: dict[str, Any],
    keep_attrs: bool,
) -> XarrayObject:
    if reduce not in _DIVISORS:
        raise ValueError(f"reduce={reduce!r} is unknown; there are 'sum', 'mean' and 'weighted'")

    def of_sums(sums: xr.Dataset) -> xr.DataArray:
        divisor = sums[_DIVISORS[reduce]]
        mean = (sums[_BALANCED[name]] / divisor.where(divisor != 0)).rename(name)
        return with_attrs(mean, sums["n"] if keep_attrs else None)

    if forecasts is None:
        if not (isinstance(observations, xr.Dataset) and set(BALANCED_SUMS) <= set(observations.data_vars)):
            raise TypeError(f"{name} takes observations and forecasts, or a Dataset from balanced_sums alone")
        return of_sums(observations)
    return each_variable(
        lambda obs, fcst: of_sums(balanced_sums(obs, fcst, **options, keep_attrs=keep_attrs)),
        observations,
        forecasts,
        keep_attrs,
    )
