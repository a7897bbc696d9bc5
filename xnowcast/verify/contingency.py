"""Scores of events: a table of counts that can be added up, and the ratios that are taken of it last.

An event is ``value >= threshold``. With hits a, false alarms b, misses c, correct negatives d and n of all:
Wilks (2011), Statistical Methods in the Atmospheric Sciences, section 8.2.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.verify.align import find_spatial_dims
from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks
from xnowcast.verify.fields import XarrayObject, each_variable, ensemble_mean, matching_variables, with_attrs
from xnowcast.verify.kernels import contingency_counts

COUNTS = ("hits", "misses", "false_alarms", "correct_negatives")

Thresholds = float | Sequence[float] | np.ndarray
Scales = int | Sequence[int]
SpatialDims = tuple[Hashable, Hashable] | None


def contingency_table(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    thresholds: Thresholds,
    scales: Scales = 1,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Hits, misses, false alarms and correct negatives at thresholds and max-pooling scales, in one pass.

    Tables of different files or months are added up with ``+`` or ``.sum(dim)`` before a score is taken of them.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        In the same units, with exactly the same coordinates on the dims they share. Pairs in which either is
        NaN (not measured) are dropped.
    thresholds : float or sequence of float
        An event is ``value >= threshold``, with the threshold in the precision of the data. A sequence makes a
        dim ``threshold``, a number a scalar coordinate.
    scales : int or sequence of int
        Width of max-pooling windows in cells: both fields are replaced by their largest value in each window of
        scale x scale cells, one window beside the other; cells that do not fill a window are left out, and a
        window without a measured pair is missing. 1 is no pooling. A sequence makes a dim ``scale``.
    dim : str or iterable of hashable, optional
        Dims that are counted over; all by default. Members of an ensemble are scored each as a forecast, and
        counted together unless ``dim`` leaves their dim out. Above scale 1 the horizontal dims must be in it.
    member_dim : hashable, optional
        When given, the mean over this dim is scored instead.
    spatial_dims : (hashable, hashable), optional
        Names of the horizontal dims, for pooling. By default y and x, or latitude and longitude.
    skipna : bool
        False: a single missing pair makes the counts NaN (and float64).
    keep_attrs : bool
        Whether to copy the attributes of ``observations``.

    Returns
    -------
    xarray.Dataset
        Variables ``hits``, ``misses``, ``false_alarms``, ``correct_negatives``, int64. Datasets as input give
        a dim ``variable``. Lazy where an input is.

    Raises
    ------
    ValueError
        If coordinates differ, a dim is unknown, a threshold is not finite, or a scale is not a whole number
        from 1 to the width of the grid.

    Examples
    --------
    >>> o = xr.DataArray([2.0, 2.0, 1.0, 3.0, 0.0], dims="x")
    >>> f = xr.DataArray([2.0, 1.0, 2.0, 3.0, np.nan], dims="x")
    >>> table = contingency_table(o, f, thresholds=2.0)
    >>> {name: int(count) for name, count in table.items()}
    {'hits': 2, 'misses': 1, 'false_alarms': 1, 'correct_negatives': 0}
    """
    variables = matching_variables(observations, forecasts)
    if variables is not None:
        options: dict[str, Any] = {"thresholds": thresholds, "scales": scales, "dim": dim, "member_dim": member_dim}
        options |= {"spatial_dims": spatial_dims, "skipna": skipna, "keep_attrs": keep_attrs}
        tables = [contingency_table(observations[v], forecasts[v], **options) for v in variables]
        return xr.concat(tables, dim=xr.DataArray(variables, dims="variable", name="variable"))
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    threshold = _threshold_coordinate(thresholds)
    scale = _scale_coordinate(scales)
    reduce = reduced_dims(dim, observations, forecasts)
    pooled = [] if int(scale.max()) == 1 else _pooled_dims(observations, forecasts, spatial_dims, scale, reduce)
    counts = sum_over_chunks(
        contingency_counts,
        observations,
        forecasts,
        reduce=reduce,
        whole=pooled,
        last=pooled,
        new_sizes={"threshold": threshold.size, "scale": scale.size, "count": len(COUNTS)},
        dtype=np.int64,
        thresholds=tuple(float(t) for t in np.atleast_1d(threshold.values)),
        scales=tuple(int(s) for s in np.atleast_1d(scale.values)),
        skipna=skipna,
    )
    if not skipna:
        expected = _n_pairs(observations, forecasts, reduce, pooled, np.atleast_1d(scale.values))
        counts = counts.where(counts.sum("count") == expected)
    table = xr.Dataset({name: counts.isel(count=i) for i, name in enumerate(COUNTS)})
    for coordinate in (threshold, scale):
        if coordinate.ndim == 0:
            table = table.isel({coordinate.name: 0})
        table = table.assign_coords({coordinate.name: coordinate})
    return with_attrs(table, observations if keep_attrs else None)


def _threshold_coordinate(thresholds: Thresholds) -> xr.DataArray:
    values = np.asarray(thresholds, dtype=np.float64)
    if values.ndim > 1 or values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(f"thresholds={thresholds!r} must be a finite number or a sequence of at least one")
    attrs = {"long_name": "an event is a value at or above this"}
    return xr.DataArray(values, dims=["threshold"][: values.ndim], name="threshold", attrs=attrs)


def _scale_coordinate(scales: Scales) -> xr.DataArray:
    values = np.asarray(scales)
    if values.ndim > 1 or values.size == 0 or values.dtype.kind not in "iu" or np.any(values < 1):
        raise ValueError(f"scales={scales!r} must be a whole number of cells from 1 up, or a sequence of at least one")
    attrs = {"long_name": "width of max-pooling windows", "units": "grid cells"}
    return xr.DataArray(values.astype(np.int64), dims=["scale"][: values.ndim], name="scale", attrs=attrs)


def _pooled_dims(observations, forecasts, spatial_dims, scale, reduce) -> list[Hashable]:
    places = find_spatial_dims(forecasts, spatial_dims)
    find_spatial_dims(observations, places)
    kept = [d for d in places if d not in reduce]
    if kept:
        raise ValueError(f"max-pooling changes the grid, so {kept[0]!r} cannot be kept: add it to dim, or use scales=1")
    for place in places:
        if forecasts.sizes[place] < int(scale.max()):
            raise ValueError(
                f"a window of {int(scale.max())} cells is wider than {place!r} with {forecasts.sizes[place]}; "
                f"choose scales up to {forecasts.sizes[place]}"
            )
    return list(places)


def _n_pairs(observations, forecasts, reduce, pooled, scales) -> xr.DataArray:
    """Number of pairs if nothing is missing, by scale."""
    sizes = {**observations.sizes, **forecasts.sizes}
    n_pairs = [np.prod([sizes[d] // (s if d in pooled else 1) for d in reduce], dtype=np.int64) for s in scales]
    return xr.DataArray(n_pairs, dims="scale")


# ---------------------------------------------------------------- ratios


def csi(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    thresholds: Thresholds | None = None,
    scales: Scales = 1,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Critical success index (threat score): hits among all that was forecast or observed, ``a / (a + b + c)``.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        Two fields as for `contingency_table`, or a table from it alone.
    thresholds, scales, dim, member_dim, spatial_dims, skipna, keep_attrs
        As for `contingency_table`; left out when a table is given.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        From 0 to 1, the best; float64, dimensionless. NaN (0/0) where there is no event. Counts are added up
        over ``dim`` before the ratio is taken.

    Raises
    ------
    ValueError, TypeError
        As `contingency_table`; and if ``forecasts`` and ``thresholds`` are not given together.

    References
    ----------
    Schaefer (1990), doi:10.1175/1520-0434(1990)005<0570:TCSIAA>2.0.CO;2

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0, 3.0], dims="x")
    >>> csi(o, f, thresholds=[1.0, 2.0]).values
    array([1. , 0.5])
    """
    options = (scales, dim, member_dim, spatial_dims, skipna)
    return _score("csi", observations, forecasts, thresholds, options, keep_attrs)


def pod(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    thresholds: Thresholds | None = None,
    scales: Scales = 1,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Probability of detection (hit rate, recall): the part of the observed events that was forecast, ``a / (a + c)``.

    Parameters
    ----------
    observations, forecasts, thresholds, scales, dim, member_dim, spatial_dims, skipna, keep_attrs
        As for `csi`.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        From 0 to 1, the best; float64, dimensionless. NaN (0/0) where no event was observed.

    Raises
    ------
    ValueError, TypeError
        As `csi`.

    References
    ----------
    Wilks (2011), eq. 8.11.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0, 0.0], dims="x")
    >>> round(float(pod(o, f, thresholds=2.0)), 4)
    0.3333
    """
    options = (scales, dim, member_dim, spatial_dims, skipna)
    return _score("pod", observations, forecasts, thresholds, options, keep_attrs)


def false_alarm_ratio(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    thresholds: Thresholds | None = None,
    scales: Scales = 1,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """False alarm ratio (FAR): the part of the forecast events that did not come, ``b / (a + b)``.

    Not the probability of false detection, ``b / (b + d)``, which is also called false alarm rate.

    Parameters
    ----------
    observations, forecasts, thresholds, scales, dim, member_dim, spatial_dims, skipna, keep_attrs
        As for `csi`.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        From 0, the best, to 1; float64, dimensionless. NaN (0/0) where no event was forecast.

    Raises
    ------
    ValueError, TypeError
        As `csi`.

    References
    ----------
    Barnes et al. (2009), doi:10.1175/2009WAF2222300.1, on the two names.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0, 0.0], dims="x")
    >>> float(false_alarm_ratio(o, f, thresholds=2.0))
    0.5
    """
    options = (scales, dim, member_dim, spatial_dims, skipna)
    return _score("false_alarm_ratio", observations, forecasts, thresholds, options, keep_attrs)


def frequency_bias(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    thresholds: Thresholds | None = None,
    scales: Scales = 1,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Frequency bias: how many events were forecast for each that was observed, ``(a + b) / (a + c)``.

    Parameters
    ----------
    observations, forecasts, thresholds, scales, dim, member_dim, spatial_dims, skipna, keep_attrs
        As for `csi`.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        From 0 up, best at 1; float64, dimensionless. Infinite where events were forecast and none observed,
        NaN (0/0) where there was neither.

    Raises
    ------
    ValueError, TypeError
        As `csi`.

    References
    ----------
    Wilks (2011), eq. 8.10.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 2.0, 2.0, 3.0], dims="x")
    >>> round(float(frequency_bias(o, f, thresholds=2.0)), 4)
    1.3333
    """
    options = (scales, dim, member_dim, spatial_dims, skipna)
    return _score("frequency_bias", observations, forecasts, thresholds, options, keep_attrs)


def hss(
    observations: XarrayObject,
    forecasts: XarrayObject | None = None,
    *,
    thresholds: Thresholds | None = None,
    scales: Scales = 1,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Heidke skill score: correct forecasts beyond chance, ``2 (ad - bc) / [(a + c)(c + d) + (a + b)(b + d)]``.

    Parameters
    ----------
    observations, forecasts, thresholds, scales, dim, member_dim, spatial_dims, skipna, keep_attrs
        As for `csi`.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        From -1 to 1, the best; 0 is no better than chance; float64, dimensionless. NaN (0/0) where there is no
        event, or nothing but hits.

    Raises
    ------
    ValueError, TypeError
        As `csi`.

    References
    ----------
    Wilks (2011), eq. 8.15.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 0.0], dims="x"), xr.DataArray([2.0, 1.0, 0.0, 0.0], dims="x")
    >>> float(hss(o, f, thresholds=2.0))
    0.5
    """
    options = (scales, dim, member_dim, spatial_dims, skipna)
    return _score("hss", observations, forecasts, thresholds, options, keep_attrs)


# The formulas: float64 arrays of hits a, misses c, false alarms b and correct negatives d, in the table's order.


def _csi(a, c, b, d):
    return a / (a + b + c)


def _pod(a, c, b, d):
    return a / (a + c)


def _false_alarm_ratio(a, c, b, d):
    return b / (a + b)


def _frequency_bias(a, c, b, d):
    return (a + b) / (a + c)


def _hss(a, c, b, d):
    return 2 * (a * d - b * c) / ((a + c) * (c + d) + (a + b) * (b + d))


_FORMULAS = {
    "csi": _csi,
    "pod": _pod,
    "false_alarm_ratio": _false_alarm_ratio,
    "frequency_bias": _frequency_bias,
    "hss": _hss,
}


def _score(
    name: str,
    observations: XarrayObject,
    forecasts: XarrayObject | None,
    thresholds: Thresholds | None,
    options: tuple[Scales, Dims, Hashable | None, SpatialDims, bool],
    keep_attrs: bool,
) -> XarrayObject:
    if forecasts is None or thresholds is None:
        if forecasts is not None or thresholds is not None or not _is_table(observations):
            raise TypeError(f"{name} takes observations, forecasts and thresholds=, or a contingency table alone")
        return ratio(name, observations, keep_attrs=keep_attrs)
    scales, dim, member_dim, spatial_dims, skipna = options

    def of_one(obs: xr.DataArray, fcst: xr.DataArray) -> xr.DataArray:
        table = contingency_table(
            obs,
            fcst,
            thresholds=thresholds,
            scales=scales,
            dim=dim,
            member_dim=member_dim,
            spatial_dims=spatial_dims,
            skipna=skipna,
            keep_attrs=keep_attrs,
        )
        return ratio(name, table, keep_attrs=keep_attrs)

    return each_variable(of_one, observations, forecasts, keep_attrs)


def _is_table(obj: Any) -> bool:
    return isinstance(obj, xr.Dataset) and set(COUNTS) <= set(obj.data_vars)


def ratio(name: str, table: xr.Dataset, *, keep_attrs: bool = False) -> xr.DataArray:
    """A score by its name, of a contingency table.

    Parameters
    ----------
    name : {"csi", "pod", "false_alarm_ratio", "frequency_bias", "hss"}
    table : xarray.Dataset
        From `contingency_table`.
    keep_attrs : bool
        Whether to copy the attributes of the counts.

    Returns
    -------
    xarray.DataArray
        float64, lazy where the table is.

    Examples
    --------
    >>> table = xr.Dataset({"hits": 8, "misses": 4, "false_alarms": 2, "correct_negatives": 86})
    >>> round(float(ratio("csi", table)), 6)
    0.571429
    """
    formula = _FORMULAS[name]

    def divide(*counts: np.ndarray) -> np.ndarray:
        # float64 before the products: those of counts over 3e9 cells do not fit into int64.
        with np.errstate(divide="ignore", invalid="ignore"):
            return formula(*(np.asarray(count, dtype=np.float64) for count in counts))

    counts = [table[count] for count in COUNTS]
    result = xr.apply_ufunc(divide, *counts, dask="parallelized", output_dtypes=[np.float64], keep_attrs=keep_attrs)
    return result.rename(name)
