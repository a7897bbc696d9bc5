"""Scores of amounts: sums of errors that can be added up, and RMSE, MAE and mean error that are taken of them last."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.verify import kernels
from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks
from xnowcast.verify.fields import XarrayObject, each_variable, ensemble_mean, matching_variables, with_attrs

SUMS = ("n", "error", "absolute_error", "squared_error")


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
        kernels.error_sums,
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


def _mae(n, error, absolute_error, squared_error):
    return absolute_error / n


def _mean_error(n, error, absolute_error, squared_error):
    return error / n


_FORMULAS = {"rmse": _rmse, "mae": _mae, "mean_error": _mean_error}


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
    name : {"rmse", "mae", "mean_error"}
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
