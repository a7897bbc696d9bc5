"""Scores of events: a table of counts that can be added up, and the ratios that are taken of it last.

An event is ``value >= threshold``. In the formulas a is the number of hits, b of false alarms, c of misses, d of
correct negatives, and n of all: Wilks (2011), Statistical Methods in the Atmospheric Sciences, section 8.2.
"""

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.verify.align import find_spatial_dims
from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks
from xnowcast.verify.fields import XarrayObject, each_variable, ensemble_mean, matching_variables, with_attrs
from xnowcast.verify.kernels import contingency_counts
from xnowcast.verify.kernels.events import Boundary, Pooling, n_windows
from xnowcast.verify.thresholds import Thresholds, threshold_coordinate

COUNTS = ("hits", "misses", "false_alarms", "correct_negatives")

Scales = int | Sequence[int]
SpatialDims = tuple[Hashable, Hashable] | None


def contingency_table(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    thresholds: Thresholds,
    scales: Scales = 1,
    stride: int | Sequence[int] | None = None,
    pooling: Pooling = "max",
    boundary: Boundary = "drop",
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Hits, misses, false alarms and correct negatives at thresholds and pooling scales, in one pass.

    Tables of different files or months are added up with ``+`` or ``.sum(dim)`` before a score is taken of them.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        In the same units, with exactly the same coordinates on the dims they share. Pairs in which either is
        NaN (not measured) are dropped.
    thresholds : float, sequence of float, or str
        An event is ``value >= threshold``, with the threshold in the precision of the data. A sequence makes a
        dim ``threshold``, a number a scalar coordinate. A name is one of `xnowcast.verify.THRESHOLD_SETS`, such as
        "sevir" or "hko7", and stands for the numbers in the ``units`` of the fields.
    scales : int or sequence of int
        Width of pooling windows in cells: both fields are replaced by their largest value in each window of
        scale x scale cells, and a window without a measured pair is missing. 1 is no pooling. A sequence makes a
        dim ``scale``.
    stride : int or sequence of int, optional
        Cells from one window to the next, for all scales or each; from 1 to the scale. By default the scale: one
        window beside the other. STLDM has a quarter of it: ``scales=[4, 16], stride=[1, 4]``.
    pooling : {"max", "mean"}
        What a window has of its measured pairs: the largest value or the mean.
    boundary : {"drop", "partial"}
        Whether windows that reach over the edge of the grid are left out, or made of the cells that are there.
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
        If coordinates differ, a dim is unknown, a threshold is not finite, a named one does not fit the units, a
        scale is not a whole number from 1 to the width of the grid, a stride not one from 1 to the scale, or
        ``pooling`` or ``boundary`` is unknown.

    Examples
    --------
    >>> o = xr.DataArray([2.0, 2.0, 1.0, 3.0, 0.0], dims="x")
    >>> f = xr.DataArray([2.0, 1.0, 2.0, 3.0, np.nan], dims="x")
    >>> table = contingency_table(o, f, thresholds=2.0)
    >>> {name: int(count) for name, count in table.items()}
    {'hits': 2, 'misses': 1, 'false_alarms': 1, 'correct_negatives': 0}
    """
    variables = matching_variables(observations, forecasts)
    threshold = _threshold_coordinate(thresholds, observations, forecasts)
    if variables is not None:
        options: dict[str, Any] = {"thresholds": threshold, "scales": scales, "stride": stride, "dim": dim}
        options |= {"pooling": pooling, "boundary": boundary, "member_dim": member_dim, "spatial_dims": spatial_dims}
        options |= {"skipna": skipna, "keep_attrs": keep_attrs}
        tables = [contingency_table(observations[v], forecasts[v], **options) for v in variables]
        return xr.concat(tables, dim=xr.DataArray(variables, dims="variable", name="variable"))
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    scale = _scale_coordinate(scales, pooling)
    strides = _strides(stride, scale, pooling, boundary)
    reduce = reduced_dims(dim, observations, forecasts)
    pooled = [] if int(scale.values.max()) == 1 else _pooled_dims(observations, forecasts, spatial_dims, scale, reduce)
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
        strides=strides,
        pooling=pooling,
        boundary=boundary,
        skipna=skipna,
    )
    if not skipna:
        windows = zip(np.atleast_1d(scale.values), strides, strict=True)
        n_pairs = [_n_pairs(observations, forecasts, reduce, pooled, (*window, boundary)) for window in windows]
        counts = counts.where(counts.sum("count") == xr.DataArray(n_pairs, dims="scale"))
    return with_attrs(_as_table(counts, threshold, scale), observations if keep_attrs else None)


def _as_table(counts: xr.DataArray, threshold: xr.DataArray, scale: xr.DataArray) -> xr.Dataset:
    """A variable for each count; a scalar threshold or scale is no dim. Made at once, as small inputs are felt here."""
    place = [slice(None) if coordinate.ndim else 0 for coordinate in (threshold, scale)]
    dims = [*counts.dims[:-3], *(c.name for c in (threshold, scale) if c.ndim)]
    data = {name: (dims, counts.data[(..., *place, i)]) for i, name in enumerate(COUNTS)}
    return xr.Dataset(data, coords={**counts.coords, "threshold": threshold, "scale": scale})


def _threshold_coordinate(thresholds: Thresholds, observations: XarrayObject, forecasts: XarrayObject) -> xr.DataArray:
    """One for all variables, so that a name stands for the same numbers in each."""
    variables = matching_variables(observations, forecasts)
    both = (observations, forecasts)
    fields = both if variables is None else [obj[name] for obj in both for name in variables]
    return threshold_coordinate(thresholds, *fields)


def _scale_coordinate(scales: Scales, pooling: Pooling) -> xr.DataArray:
    values = np.asarray(scales)
    if values.ndim > 1 or values.size == 0 or values.dtype.kind not in "iu" or np.any(values < 1):
        raise ValueError(f"scales={scales!r} must be a whole number of cells from 1 up, or a sequence of at least one")
    attrs = {"long_name": f"width of {pooling}-pooling windows", "units": "grid cells"}
    return xr.DataArray(values.astype(np.int64), dims=["scale"][: values.ndim], name="scale", attrs=attrs)


def _strides(stride: int | Sequence[int] | None, scale: xr.DataArray, pooling: str, boundary: str) -> tuple[int, ...]:
    """The stride of each scale, and a word on what else makes the windows."""
    for option, value, known in (("pooling", pooling, ("max", "mean")), ("boundary", boundary, ("drop", "partial"))):
        if value not in known:
            raise ValueError(f"{option}={value!r} is unknown; there are {known[0]!r} and {known[1]!r}")
    widths = np.atleast_1d(scale.values)
    strides = widths if stride is None else np.asarray(stride)
    if strides.dtype.kind not in "iu" or strides.ndim > 1 or strides.size not in (1, widths.size):
        raise ValueError(f"stride={stride!r} must be a whole number of cells, or one for each of {widths.size} scales")
    strides = np.broadcast_to(strides, widths.shape)
    if np.any(strides < 1) or np.any(strides > widths):
        raise ValueError(
            f"stride={stride!r} must be from 1 to the scale, here {widths.tolist()}: windows further apart would miss "
            "cells between them"
        )
    return tuple(int(s) for s in strides)


def _pooled_dims(observations, forecasts, spatial_dims, scale, reduce) -> list[Hashable]:
    places = find_spatial_dims(forecasts, spatial_dims)
    find_spatial_dims(observations, places)
    kept = [d for d in places if d not in reduce]
    if kept:
        raise ValueError(f"pooling changes the grid, so {kept[0]!r} cannot be kept: add it to dim, or use scales=1")
    for place in places:
        if forecasts.sizes[place] < int(scale.values.max()):
            raise ValueError(
                f"a window of {int(scale.values.max())} cells is wider than {place!r} with {forecasts.sizes[place]}; "
                f"choose scales up to {forecasts.sizes[place]}"
            )
    return list(places)


def _n_pairs(observations, forecasts, reduce, pooled, window) -> int:
    """Number of pairs of windows if nothing is missing."""
    sizes = {**observations.sizes, **forecasts.sizes}
    return int(np.prod([n_windows(sizes[d], *window) if d in pooled else sizes[d] for d in reduce], dtype=np.int64))


# ---------------------------------------------------------------- ratios

Formula = Callable[..., np.ndarray]

_FORMULAS: dict[str, Formula] = {}

# What the docstrings of all scores have in common.
_PARAMETERS = """Parameters
----------
observations, forecasts : xarray.DataArray or xarray.Dataset
    Two fields as for `contingency_table`, or a table from it alone.
thresholds : float, sequence of float, or str
    An event is ``value >= threshold``; by number, or by the name of a set such as "hko7".
scales, stride, pooling, boundary
    Pooling windows, as for `contingency_table`.
dim, member_dim, spatial_dims, skipna, keep_attrs
    As for `contingency_table`. Counts are added up over ``dim`` before the ratio is taken. All options but
    ``keep_attrs`` are left out when a table is given.

"""
_RETURNS = """Returns
-------
xarray.DataArray or xarray.Dataset
    float64, dimensionless, lazy where an input is.
"""
_RAISES = """Raises
------
ValueError, TypeError
    As `contingency_table`; and if ``forecasts`` and ``thresholds`` are not given together.

"""


def _of_table(formula: Formula):  # without a return type, so that editors show the signature that they find
    """Decorator: the score of two fields or of a table, from its formula of the counts a, b, c and d in float64.

    The docstring of the formula is that of the score; what all scores have in common is added to it.
    """
    name = formula.__name__

    def score(
        observations: XarrayObject,
        forecasts: XarrayObject | None = None,
        *,
        thresholds: Thresholds | None = None,
        scales: Scales = 1,
        stride: int | Sequence[int] | None = None,
        pooling: Pooling = "max",
        boundary: Boundary = "drop",
        dim: Dims = None,
        member_dim: Hashable | None = None,
        spatial_dims: SpatialDims = None,
        skipna: bool = True,
        keep_attrs: bool = False,
    ) -> XarrayObject:
        if forecasts is None or thresholds is None:
            if forecasts is not None or thresholds is not None or not _is_table(observations):
                raise TypeError(f"{name} takes observations, forecasts and thresholds=, or a contingency table alone")
            return ratio(name, observations, keep_attrs=keep_attrs)
        threshold = _threshold_coordinate(thresholds, observations, forecasts)
        options: dict[str, Any] = {"thresholds": threshold, "scales": scales, "stride": stride, "dim": dim}
        options |= {"pooling": pooling, "boundary": boundary, "member_dim": member_dim, "spatial_dims": spatial_dims}
        options |= {"skipna": skipna, "keep_attrs": keep_attrs}

        def of_one(obs: xr.DataArray, fcst: xr.DataArray) -> xr.DataArray:
            return ratio(name, contingency_table(obs, fcst, **options), keep_attrs=keep_attrs)

        return each_variable(of_one, observations, forecasts, keep_attrs)

    score.__name__ = score.__qualname__ = name
    score.__module__ = formula.__module__
    doc = inspect.cleandoc(formula.__doc__ or "")
    doc = doc.replace("Returns\n-------\n", _PARAMETERS + _RETURNS).replace("References\n", _RAISES + "References\n")
    score.__doc__ = doc
    _FORMULAS[name] = formula
    return score


@_of_table
def csi(a, b, c, d):
    """Critical success index (threat score): hits among all that was forecast or observed, ``a / (a + b + c)``.

    Returns
    -------
        From 0 to 1, the best. NaN (0/0) where there is no event.

    References
    ----------
    Schaefer (1990), doi:10.1175/1520-0434(1990)005<0570:TCSIAA>2.0.CO;2

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0, 3.0], dims="x")
    >>> csi(o, f, thresholds=[1.0, 2.0]).values
    array([1. , 0.5])
    """
    return a / (a + b + c)


@_of_table
def ets(a, b, c, d):
    """Equitable threat score (Gilbert skill score): the CSI beyond chance, ``(a - r) / (a + b + c - r)``.

    The hits that chance would bring are ``r = (a + b) (a + c) / n``.

    Returns
    -------
        From -1/3 to 1, the best; 0 is no better than chance. NaN (0/0) where there is no event, or nothing but hits.

    References
    ----------
    Wilks (2011), section 8.2.4.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 0.0], dims="x"), xr.DataArray([2.0, 1.0, 0.0, 0.0], dims="x")
    >>> round(float(ets(o, f, thresholds=2.0)), 4)
    0.3333
    """
    by_chance = (a + b) * (a + c) / (a + b + c + d)
    return (a - by_chance) / (a + b + c - by_chance)


@_of_table
def hss(a, b, c, d):
    """Heidke skill score: correct forecasts beyond chance, ``2 (ad - bc) / [(a + c)(c + d) + (a + b)(b + d)]``.

    Returns
    -------
        From -1 to 1, the best; 0 is no better than chance. NaN (0/0) where there is no event, or nothing but hits.

    References
    ----------
    Wilks (2011), section 8.2.4. The papers of HKO-7 and DB-RNN print it without the factor 2, their code has it.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 0.0], dims="x"), xr.DataArray([2.0, 1.0, 0.0, 0.0], dims="x")
    >>> float(hss(o, f, thresholds=2.0))
    0.5
    """
    return 2 * (a * d - b * c) / ((a + c) * (c + d) + (a + b) * (b + d))


@_of_table
def f1(a, b, c, d):
    """F1 score: the harmonic mean of precision and recall, ``2a / (2a + b + c)``.

    Returns
    -------
        From 0 to 1, the best. NaN (0/0) where there is no event.

    References
    ----------
    van Rijsbergen (1979), Information Retrieval, chapter 7; it is ``2 csi / (1 + csi)``.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0, 3.0], dims="x")
    >>> round(float(f1(o, f, thresholds=2.0)), 4)
    0.6667
    """
    return 2 * a / (2 * a + b + c)


@_of_table
def pod(a, b, c, d):
    """Probability of detection (hit rate, recall): the part of the observed events that was forecast, ``a / (a + c)``.

    Returns
    -------
        From 0 to 1, the best. NaN (0/0) where no event was observed.

    References
    ----------
    Wilks (2011), section 8.2.2.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0, 0.0], dims="x")
    >>> round(float(pod(o, f, thresholds=2.0)), 4)
    0.3333
    """
    return a / (a + c)


@_of_table
def recall(a, b, c, d):
    """Recall, another name of the probability of detection (`pod`): ``a / (a + c)``.

    Returns
    -------
        From 0 to 1, the best. NaN (0/0) where no event was observed.

    References
    ----------
    As `pod`.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0, 0.0], dims="x")
    >>> round(float(recall(o, f, thresholds=2.0)), 4)
    0.3333
    """
    return a / (a + c)


@_of_table
def precision(a, b, c, d):
    """Precision (success ratio): the part of the forecast events that came, ``a / (a + b)``.

    Returns
    -------
        From 0 to 1, the best; it is ``1 - false_alarm_ratio``. NaN (0/0) where no event was forecast.

    References
    ----------
    Roebber (2009), doi:10.1175/2008WAF2222159.1

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0, 0.0], dims="x")
    >>> float(precision(o, f, thresholds=2.0))
    0.5
    """
    return a / (a + b)


@_of_table
def false_alarm_ratio(a, b, c, d):
    """False alarm ratio (FAR): the part of the forecast events that did not come, ``b / (a + b)``.

    Not the probability of false detection, ``b / (b + d)``, which is also called false alarm rate.

    Returns
    -------
        From 0, the best, to 1. NaN (0/0) where no event was forecast.

    References
    ----------
    Barnes et al. (2009), doi:10.1175/2009WAF2222300.1, on the two names.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0, 0.0], dims="x")
    >>> float(false_alarm_ratio(o, f, thresholds=2.0))
    0.5
    """
    return b / (a + b)


@_of_table
def probability_of_false_detection(a, b, c, d):
    """Probability of false detection (POFD, false alarm rate): where no event came, how often one was forecast.

    ``b / (b + d)``, not the false alarm ratio ``b / (a + b)``.

    Returns
    -------
        From 0, the best, to 1. NaN (0/0) where there were events everywhere.

    References
    ----------
    Barnes et al. (2009), doi:10.1175/2009WAF2222300.1, on the two names.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 0.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0, 0.0], dims="x")
    >>> float(probability_of_false_detection(o, f, thresholds=2.0))
    0.5
    """
    return b / (b + d)


@_of_table
def frequency_bias(a, b, c, d):
    """Frequency bias: how many events were forecast for each that was observed, ``(a + b) / (a + c)``.

    Returns
    -------
        From 0 up, best at 1. Infinite where events were forecast and none observed, NaN (0/0) where there was neither.

    References
    ----------
    Wilks (2011), section 8.2.2.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 2.0, 2.0, 3.0], dims="x")
    >>> round(float(frequency_bias(o, f, thresholds=2.0)), 4)
    1.3333
    """
    return (a + b) / (a + c)


@_of_table
def accuracy(a, b, c, d):
    """Accuracy (proportion correct): how often it was right that an event came or did not, ``(a + d) / n``.

    Returns
    -------
        From 0 to 1, the best. NaN (0/0) where there is no pair. Of rare events it says little: never to forecast
        them is nearly always right.

    References
    ----------
    Wilks (2011), section 8.2.2.

    Examples
    --------
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0, 3.0], dims="x"), xr.DataArray([2.0, 1.0, 0.0, 3.0], dims="x")
    >>> float(accuracy(o, f, thresholds=2.0))
    0.75
    """
    return (a + d) / (a + b + c + d)


@_of_table
def sedi(a, b, c, d):
    """Symmetric extremal dependence index, which keeps its meaning when events become rare.

    With the rates H, `pod`, and F, `probability_of_false_detection`:
    ``[ln F - ln H - ln(1 - F) + ln(1 - H)] / [ln F + ln H + ln(1 - F) + ln(1 - H)]``.

    Returns
    -------
        From -1 to 1, the best; 0 is no better than chance. NaN where H or F is 0, 1 or NaN: the limits there, 1 for
        H to 1 or F to 0 and -1 for H to 0 or F to 1, would say nothing of how good a forecast is.

    References
    ----------
    Ferro and Stephenson (2011), doi:10.1175/WAF-D-10-05030.1

    Examples
    --------
    >>> table = xr.Dataset({"hits": 8, "misses": 4, "false_alarms": 2, "correct_negatives": 86})
    >>> round(float(sedi(table)), 4)
    0.8387
    """
    hit, false = a / (a + c), b / (b + d)
    # 1 - H and 1 - F as they are counted: nothing is lost where they are close to 0.
    ln_hit, ln_false, ln_miss, ln_rejected = np.log(hit), np.log(false), np.log(c / (a + c)), np.log(d / (b + d))
    return (ln_false - ln_hit - ln_rejected + ln_miss) / (ln_false + ln_hit + ln_rejected + ln_miss)


def _is_table(obj: Any) -> bool:
    return isinstance(obj, xr.Dataset) and set(COUNTS) <= set(obj.data_vars)


def ratio(name: str, table: xr.Dataset, *, keep_attrs: bool = False) -> xr.DataArray:
    """A score by its name, of a contingency table.

    Parameters
    ----------
    name : str
        "csi", "ets", "hss", "f1", "pod", "recall", "precision", "false_alarm_ratio",
        "probability_of_false_detection", "frequency_bias", "accuracy" or "sedi".
    table : xarray.Dataset
        From `contingency_table`.
    keep_attrs : bool
        Whether to copy the attributes of the counts.

    Returns
    -------
    xarray.DataArray
        float64, lazy where the table is.

    Raises
    ------
    ValueError
        If there is no such score.

    Examples
    --------
    >>> table = xr.Dataset({"hits": 8, "misses": 4, "false_alarms": 2, "correct_negatives": 86})
    >>> round(float(ratio("csi", table)), 6)
    0.571429
    """
    if name not in _FORMULAS:
        raise ValueError(f"there is no score {name!r} of a contingency table; there are {', '.join(_FORMULAS)}")
    formula = _FORMULAS[name]

    def divide(*counts: np.ndarray) -> np.ndarray:
        # float64 before the products: those of counts over 3e9 cells do not fit into int64.
        with np.errstate(divide="ignore", invalid="ignore"):
            return formula(*(np.asarray(count, dtype=np.float64) for count in counts))

    counts = [table[count] for count in ("hits", "false_alarms", "misses", "correct_negatives")]  # a, b, c, d
    if all(count.chunks is None and count.dims == counts[0].dims for count in counts):
        # Most of the time of a small input would be that of apply_ufunc.
        result = counts[0].copy(deep=False, data=divide(*(count.values for count in counts)))
        result.attrs = dict(counts[0].attrs) if keep_attrs else {}
        return result.rename(name)
    result = xr.apply_ufunc(divide, *counts, dask="parallelized", output_dtypes=[np.float64], keep_attrs=keep_attrs)
    for coordinate in result.coords:  # what a threshold is stays known, also without the attributes of the counts
        result.coords[coordinate].attrs = dict(table.coords[coordinate].attrs)
    return result.rename(name)
