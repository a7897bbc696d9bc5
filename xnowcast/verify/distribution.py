"""Scores of intensity distributions, whatever the place: earth mover's distance, percentiles, quantiles, overlap.

All are taken of an additive histogram (`intensity_histogram`), so of data larger than memory; what is in memory is
sorted instead, which is exact.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.terminal import warn
from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks
from xnowcast.verify.kernels import histograms as kernels
from xnowcast.verify.score import Column, score_of
from xnowcast.verify.sums import (
    KINDS,
    XarrayObject,
    additive,
    checked,
    each_variable,
    ensemble_mean,
    table_of,
    with_attrs,
    without_label,
)

TABLE = ("observed", "observed_sum", "forecast", "forecast_sum")

QQ_PERCENTAGES = (*range(1, 100), 99.5, 99.9, 99.95, 99.99)

# What a kernel of two fields is given in place of observations for a score of one.
_ALONE = xr.DataArray(np.float32(0.0))


@additive(*TABLE, own_dims=["intensity"], settings=["member_dim"])
def intensity_histogram(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    edges: Sequence[float] | np.ndarray | None = None,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """How many observed and forecast values are in each bin, and their sum.

    Histograms of different files or months are added up with `merge` or ``.sum(dim)`` before a score is taken of them:
    `emd`, `percentile_error`, `quantile_quantile` and `histogram_overlap` take one.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        In the same units, with exactly the same coordinates on the dims they share. An observation that members
        share is counted once for each.
    edges : sequence of float, optional
        Rising edges of bins ``edges[i] <= value < edges[i + 1]``, in the precision of the data; -inf and inf can be
        ends. By default the bins of float32: 2^-11 of a value wide or less (2048 in each octave), of either sign.
        Values below 1.5e-8 in size then count as 0. 196 609 bins take 6 MB for each cell of the dims that are kept.

    Returns
    -------
    xarray.Dataset
        Variables ``observed``, ``forecast`` (counts), ``observed_sum``, ``forecast_sum`` (sums of the values), all
        float64 and exact, with the dim ``intensity``: the lower edge of the bin; the coordinate ``upper`` is the
        other.

    Raises
    ------
    ValueError
        If coordinates differ, a dim is unknown or edges do not rise; when it is computed, if a value is outside of
        the edges, or 4 194 304 or more in size with the bins of float32.

    Examples
    --------
    >>> o, f = xr.DataArray([0.5, 1.5, np.nan], dims="x"), xr.DataArray([1.0, 1.5, 5.0], dims="x")
    >>> histogram = intensity_histogram(o, f, edges=[0.0, 1.0, 2.0])
    >>> histogram["observed"].values, histogram["forecast"].values, histogram["forecast_sum"].values
    (array([1., 1.]), array([0., 2.]), array([0. , 2.5]))
    """
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    bounds = kernels.bin_edges() if edges is None else np.asarray(edges, np.float64)
    if edges is not None and (bounds.ndim != 1 or len(bounds) < 2 or not (np.diff(bounds) > 0).all()):
        raise ValueError(f"edges must be two or more rising numbers; found {edges}")
    sums = sum_over_chunks(
        kernels.histogram_sums,
        observations,
        forecasts,
        reduce=reduced_dims(dim, observations, forecasts),
        new_sizes={"part": len(TABLE), "intensity": len(bounds) - 1},
        dtype=np.float64,
        edges=None if edges is None else tuple(bounds.tolist()),
        skipna=skipna,
    )
    coords = {"intensity": ("intensity", bounds[:-1]), "upper": ("intensity", bounds[1:])}
    return table_of(sums.transpose(..., "part"), TABLE, coords=coords)


_histogram_of = KINDS["intensity_histogram"].fields


def _emd_of_fields(
    observations: xr.DataArray,
    forecasts: xr.DataArray,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    exact: bool | None = None,
    skipna: bool = True,
) -> xr.DataArray:
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    reduce = reduced_dims(dim, observations, forecasts)
    if not _sorts(exact, observations, forecasts, reduce):
        table = _histogram_of(observations, forecasts, dim=dim, skipna=skipna)
        return _apply(kernels.histogram_distance, table, TABLE).rename("emd")
    distance = sum_over_chunks(
        kernels.sorted_distance,
        observations,
        forecasts,
        reduce=reduce,
        whole=reduce,
        new_sizes={"distance": 1},
        dtype=np.float64,
        skipna=skipna,
    )
    return distance.isel(distance=0).rename("emd")


@score_of(
    intensity_histogram,
    of_fields=_emd_of_fields,
    also={"exact": False},
    columns=Column("earth mover's distance of the intensities", units=None, range=(0, np.inf), best=0),
)
def emd(histogram: xr.Dataset) -> xr.DataArray:
    """Earth mover's distance of the intensity distributions: the area between the two cumulative distributions.

    Also Wasserstein-1 distance: ``integral |F(x) - O(x)| dx``, for equally many values ``mean |sort(f) - sort(o)|``.

    Parameters
    ----------
    exact : bool, optional
        True: sort the values, which brings all that is pooled into memory. False: take it of a histogram in the
        bins of float32, each with its values at their mean, in constant memory. `emd_bound` says how far off that
        can be; it is exact where no bin has different values and where distributions do not cross within a bin.
        By default what is in memory is sorted, and what is lazy and larger than its histogram is not.

    Returns
    -------
        NaN where there is no pair.

    References
    ----------
    Rubner et al. (2000), doi:10.1023/A:1026543900054; in one dimension Vallender (1974), doi:10.1137/1118101.

    Examples
    --------
    >>> o, f = xr.DataArray([0.0, 1.0, 5.0], dims="x"), xr.DataArray([5.0, 3.0, 0.0], dims="x")
    >>> round(float(emd(o, f)), 4)
    0.6667
    """
    return _apply(kernels.histogram_distance, histogram, TABLE).rename("emd")


def emd_bound(histogram: xr.Dataset) -> xr.DataArray:
    """How far the `emd` of a histogram can be from that of the values in it (as float32 in the bins of float32).

    Parameters
    ----------
    histogram : xarray.Dataset
        From `intensity_histogram`.

    Returns
    -------
    xarray.DataArray
        In the units of the fields; infinite if the distributions may cross in a bin without an end. It is the widths
        of the bins in which they may cross, times the share of the values there: about 1e-7 of the largest values
        for distributions that differ.

    Raises
    ------
    TypeError
        If it is not a histogram.

    Examples
    --------
    >>> o, f = xr.DataArray([0.3, 1.4, 2.2], dims="x"), xr.DataArray([1.1, 2.0, 3.0], dims="x")
    >>> histogram = intensity_histogram(o, f)
    >>> bool(abs(emd(histogram) - emd(o, f)) <= emd_bound(histogram) + 1e-7)
    True
    """
    checked(histogram, KINDS["intensity_histogram"], "emd_bound")
    table = without_label(histogram)
    edges = np.append(table["intensity"].values, table["upper"].values[-1])
    return _apply(kernels.distance_bound, table, ("observed", "forecast"), edges=edges).rename("emd_bound")


def percentiles(
    field: XarrayObject,
    *,
    percentages: float | Sequence[float] = (50, 90, 95, 99, 99.9),
    dim: Dims = None,
    exact: bool | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Percentiles of a field over chunked dims.

    Parameters
    ----------
    field : xarray.DataArray or xarray.Dataset
    percentages : float or sequence of float
        0 to 100, interpolated linearly between the two nearest values, as numpy does by default. A sequence makes a
        dim ``percentage``, a number a scalar coordinate.
    dim : str or iterable of hashable, optional
        Dims that values are pooled over; all by default.
    exact : bool, optional
        True: the percentiles themselves; of what is lazy in two passes, which read the data twice and keep a
        histogram (values taken as float32). False: of a histogram with its values at the mean of their bin, in one
        pass, off by less than 2^-11 of the value. By default what is in memory is exact, and what is lazy and larger
        than its histogram is not.
    skipna : bool
        True: NaN is dropped. False: it makes the percentiles NaN.
    keep_attrs : bool
        Whether to copy the attributes of ``field``.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        In the units of the field, float64; NaN without values. Lazy where the input is.

    Raises
    ------
    ValueError
        If a dim is unknown or a percentage is not within 0 and 100.

    Examples
    --------
    >>> rain = xr.DataArray([[3.0, 1.0], [np.nan, 2.0]], dims=("time", "x"))
    >>> percentiles(rain, percentages=[25, 100]).values
    array([1.5, 3. ])
    """
    wanted = _percentages(percentages)

    def of_one(_: xr.DataArray, array: xr.DataArray) -> xr.DataArray:
        reduce = reduced_dims(dim, _ALONE, array)
        if _sorts(exact, _ALONE, array, reduce, rechunk=False):
            sums = _sorted_percentiles(kernels.percentiles, _ALONE, array, reduce, wanted, skipna)
            result = sums.isel(field=0)
        else:
            table = _histogram_of(_ALONE, array, dim=reduce, skipna=skipna)
            result = _two_passes(table, array, reduce, wanted) if exact else _of_histogram(table, "forecast", wanted)
        return with_attrs(_labelled(result.rename("percentile"), percentages), array if keep_attrs else None)

    return each_variable(of_one, field, field, keep_attrs)


def _percentile_error_of_fields(
    observations: xr.DataArray,
    forecasts: xr.DataArray,
    *,
    percentage: float | Sequence[float] = 99.999,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    exact: bool | None = None,
    skipna: bool = True,
) -> xr.DataArray:
    wanted = _percentages(percentage)
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    reduce = reduced_dims(dim, observations, forecasts)
    _warn_of_few(int(np.prod([{**observations.sizes, **forecasts.sizes}[d] for d in reduce])), wanted)
    return _labelled(_difference(_of_both(observations, forecasts, reduce, wanted, exact, skipna)), percentage)


def _difference(both: xr.DataArray) -> xr.DataArray:
    return abs(both.isel(field=1) - both.isel(field=0)).rename("percentile_error")


@score_of(
    intensity_histogram,
    of_fields=_percentile_error_of_fields,
    also={"exact": False},
    columns=Column("error of the 99.999th percentile", units=None, range=(0, np.inf), best=0),
)
def percentile_error(histogram: xr.Dataset, *, percentage: float | Sequence[float] = 99.999) -> xr.DataArray:
    """Absolute difference of a high percentile of the forecasts and of the observations, ``|Q(f) - Q(o)|``.

    Parameters
    ----------
    percentage : float or sequence of float
        0 to 100; a sequence makes a dim ``percentage``.
    exact : bool, optional
        As for `percentiles`.

    Returns
    -------
        NaN where there is no pair.

    Raises
    ------
    ValueError, TypeError
        As `intensity_histogram` and `percentiles`.

    Warns
    -----
    UserWarning
        If the values pooled are so few that the percentile is next to the maximum: fewer than 100 000 for 99.999.

    Examples
    --------
    >>> o, f = xr.DataArray([0.0, 1.0, 2.0], dims="x"), xr.DataArray([0.0, 1.0, 4.0], dims="x")
    >>> float(percentile_error(o, f, percentage=50)), percentile_error(o, f, percentage=[60, 65]).values.round(2)
    (0.0, array([0.4, 0.6]))
    """
    wanted = _percentages(percentage)
    if histogram["observed"].chunks is None:
        _warn_of_few(float(histogram["observed"].sum("intensity").min()), wanted)
    return _labelled(_difference(_both_of_histogram(histogram, wanted)), percentage)


def _quantiles_of_fields(
    observations: xr.DataArray,
    forecasts: xr.DataArray,
    *,
    percentages: Sequence[float] = QQ_PERCENTAGES,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    exact: bool | None = None,
    skipna: bool = True,
) -> xr.Dataset:
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    reduce = reduced_dims(dim, observations, forecasts)
    return _curve(_of_both(observations, forecasts, reduce, _percentages(percentages), exact, skipna), percentages)


def _curve(both: xr.DataArray, percentages: Sequence[float]) -> xr.Dataset:
    both = _labelled(both, percentages)
    return xr.Dataset({name: both.isel(field=i) for i, name in enumerate(("observed", "forecast"))})


@score_of(intensity_histogram, of_fields=_quantiles_of_fields, parts=True, also={"exact": False})
def quantile_quantile(histogram: xr.Dataset, *, percentages: Sequence[float] = QQ_PERCENTAGES) -> xr.Dataset:
    """Quantiles of the forecasts against those of the observations.

    Parameters
    ----------
    percentages : sequence of float
        0 to 100; by default 1 to 99, and up to 99.99.
    exact : bool, optional
        As for `percentiles`.

    Returns
    -------
    xarray.Dataset
        Variables ``observed`` and ``forecast`` with the dim ``percentage``, in the units of the fields; equal at
        best. Datasets as input give a dim ``variable``. `xnowcast.plot.plot_qq` draws it.

    Raises
    ------
    ValueError, TypeError
        As `intensity_histogram` and `percentiles`.

    Examples
    --------
    >>> o, f = xr.DataArray([0.0, 1.0, 2.0], dims="x"), xr.DataArray([0.0, 1.0, 4.0], dims="x")
    >>> curve = quantile_quantile(o, f, percentages=[0, 50, 75])
    >>> curve["observed"].values, curve["forecast"].values
    (array([0. , 1. , 1.5]), array([0. , 1. , 2.5]))
    """
    return _curve(_both_of_histogram(histogram, _percentages(percentages)), percentages)


def _overlap_of_fields(
    observations: xr.DataArray,
    forecasts: xr.DataArray,
    *,
    edges: Sequence[float] | np.ndarray | None = None,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    skipna: bool = True,
) -> xr.DataArray:
    if edges is None:
        raise ValueError("the overlap depends on the bins: give edges=, such as [0, 0.1, 1, 10, inf]")
    table = _histogram_of(observations, forecasts, edges=edges, dim=dim, member_dim=member_dim, skipna=skipna)
    return _apply(kernels.histogram_overlap, table, ("observed", "forecast")).rename("histogram_overlap")


@score_of(
    intensity_histogram,
    of_fields=_overlap_of_fields,
    columns=Column(
        "overlap of the intensity histograms between the thresholds", range=(0, 1), best=1, of_thresholds="edges"
    ),
)
def histogram_overlap(histogram: xr.Dataset) -> xr.DataArray:
    """Part of the two intensity distributions that they have in common, ``sum over bins of min(p_o, p_f)``.

    Also called histogram intersection. It depends on the bins: narrow ones make it small.

    Parameters
    ----------
    edges : sequence of float
        Of the bins, as for `intensity_histogram`; needed with two fields.

    Returns
    -------
        NaN where there is no pair.

    Raises
    ------
    ValueError, TypeError
        As `intensity_histogram`; or if edges are missing.

    References
    ----------
    Swain and Ballard (1991), doi:10.1007/BF00130487.

    Examples
    --------
    >>> o, f = xr.DataArray([0.0, 0.5, 3.0, 0.0], dims="x"), xr.DataArray([0.0, 2.0, 3.0, 9.0], dims="x")
    >>> float(histogram_overlap(o, f, edges=[0, 1, 5, np.inf]))
    0.5
    """
    return _apply(kernels.histogram_overlap, histogram, ("observed", "forecast")).rename("histogram_overlap")


# ---------------------------------------------------------------- what they share


def _apply(function: Any, table: xr.Dataset, names: Sequence[str], **options: Any) -> xr.DataArray:
    """A function of the last axis of the named variables."""
    return xr.apply_ufunc(
        function,
        *(without_label(table[name]) for name in names),
        input_core_dims=[["intensity"]] * len(names),
        kwargs=options,
        dask="parallelized",
        output_dtypes=[np.float64],
    )


def _sorts(exact: bool | None, obs: xr.DataArray, fcst: xr.DataArray, reduce: list, *, rechunk: bool = True) -> bool:
    """Whether to sort the values, or to count them in a histogram."""
    in_memory = obs.chunks is None and fcst.chunks is None
    if exact is not None and (in_memory or rechunk or not exact):
        return exact
    sizes = {**obs.sizes, **fcst.sizes}
    n_kept = int(np.prod([n for d, n in sizes.items() if d not in reduce]))
    histogram_bytes = n_kept * kernels.N_BINS * len(TABLE) * 8
    return in_memory or obs.nbytes + fcst.nbytes <= histogram_bytes


def _percentages(percentages: float | Sequence[float]) -> tuple[float, ...]:
    wanted = tuple(np.atleast_1d(np.asarray(percentages, np.float64)).tolist())
    if not all(0 <= p <= 100 for p in wanted):
        raise ValueError(f"percentages must be within 0 and 100; found {percentages}")
    return wanted


def _labelled(result: xr.DataArray, percentages: float | Sequence[float]) -> xr.DataArray:
    result = result.assign_coords(percentage=list(_percentages(percentages)))
    return result if np.ndim(percentages) else result.isel(percentage=0)


def _both_of_histogram(histogram: xr.Dataset, wanted: tuple[float, ...]) -> xr.DataArray:
    table = without_label(histogram)
    return xr.concat([_of_histogram(table, field, wanted) for field in ("observed", "forecast")], dim="field")


def _warn_of_few(n: float, percentages: tuple[float, ...]) -> None:
    highest = max(percentages)
    if n * (100.0 - highest) < 100.0 * (1 - 1e-9) and highest < 100.0:
        needed = int(np.ceil(100.0 / (100.0 - highest) - 1e-6))
        warn(
            f"the percentile {highest:g} of {n:.0f} values is next to their maximum; it means something from {needed} "
            "values on: pool more of them, or take a lower percentile",
        )


def _of_both(
    obs: xr.DataArray, fcst: xr.DataArray, reduce: list, wanted: tuple[float, ...], exact: bool | None, skipna: bool
) -> xr.DataArray:
    """Percentiles of both fields, of the pairs, with the dims ``field`` and ``percentage``."""
    if _sorts(exact, obs, fcst, reduce, rechunk=False):
        return _sorted_percentiles(kernels.pair_percentiles, obs, fcst, reduce, wanted, skipna)
    table = _histogram_of(obs, fcst, dim=reduce, skipna=skipna)
    if not exact:
        return _both_of_histogram(table, wanted)
    pairs = obs.notnull() & fcst.notnull()
    fields = {"observed": obs.where(pairs), "forecast": fcst.where(pairs)}
    return xr.concat(
        [_two_passes(table, array, reduce, wanted, name) for name, array in fields.items()],
        dim="field",
        coords="minimal",
        compat="override",
    )


def _sorted_percentiles(
    kernel: Any, obs: xr.DataArray, fcst: xr.DataArray, reduce: list, wanted: tuple[float, ...], skipna: bool
) -> xr.DataArray:
    return sum_over_chunks(
        kernel,
        obs,
        fcst,
        reduce=reduce,
        whole=reduce,
        new_sizes={"field": 1 if kernel is kernels.percentiles else 2, "percentage": len(wanted)},
        dtype=np.float64,
        percentages=wanted,
        skipna=skipna,
    )


def _of_histogram(table: xr.Dataset, field: str, wanted: tuple[float, ...]) -> xr.DataArray:
    return xr.apply_ufunc(
        kernels.histogram_percentiles,
        table[field],
        table[f"{field}_sum"],
        input_core_dims=[["intensity"]] * 2,
        output_core_dims=[["percentage"]],
        kwargs={"percentages": wanted},
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"percentage": len(wanted)}},
    )


def _two_passes(
    table: xr.Dataset, array: xr.DataArray, reduce: list, wanted: tuple[float, ...], field: str = "forecast"
) -> xr.DataArray:
    """Exact percentiles: the histogram says the bins that they are in, a second pass what is in these bins."""
    n = len(wanted)

    def split(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place, within, weight = kernels.ranks(counts, percentages=wanted)
        flat = (*counts.shape[:-1], 2 * n)
        return place.reshape(flat), within.reshape(flat), np.where(np.isnan(counts[..., :1]), np.nan, weight)

    def join(place: np.ndarray, within: np.ndarray, weight: np.ndarray, rests: np.ndarray) -> np.ndarray:
        shape = (*place.shape[:-1], n, 2)
        return kernels.percentiles_of_rests(place.reshape(shape), within.reshape(shape), weight, rests)

    place, within, weight = xr.apply_ufunc(
        split,
        table[field],
        input_core_dims=[["intensity"]],
        output_core_dims=[["order"], ["order"], ["percentage"]],
        dask="parallelized",
        output_dtypes=[np.int64, np.int64, np.float64],
        dask_gufunc_kwargs={"output_sizes": {"order": 2 * n, "percentage": n}},
    )
    rests = sum_over_chunks(
        kernels.rest_counts,
        place,
        array,
        reduce=reduce,
        whole=["order"],
        last=["order"],
        new_sizes={"rest": kernels.N_RESTS},
        dtype=np.int64,
    )
    return xr.apply_ufunc(
        join,
        place,
        within,
        weight,
        rests,
        input_core_dims=[["order"], ["order"], ["percentage"], ["order", "rest"]],
        output_core_dims=[["percentage"]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
