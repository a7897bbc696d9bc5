"""Scores of events: a table of counts that can be added up, and the ratios that are taken of it last.

An event is ``value >= threshold``. In the formulas a is the number of hits, b of false alarms, c of misses, d of
correct negatives, and n of all: Wilks (2011), Statistical Methods in the Atmospheric Sciences, section 8.2.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import update_wrapper
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.verify.align import find_spatial_dims
from xnowcast.verify.chunks import Dims, is_total, reduced_dims, sum_over_chunks, total_weight
from xnowcast.verify.kernels import contingency_counts
from xnowcast.verify.kernels.events import Boundary, Pooling, n_windows
from xnowcast.verify.score import Column, score_of
from xnowcast.verify.sums import XarrayObject, additive, ensemble_mean, per_cell, table_of
from xnowcast.verify.thresholds import Thresholds, threshold_coordinate

COUNTS = ("hits", "misses", "false_alarms", "correct_negatives")

Scales = int | Sequence[int]
SpatialDims = tuple[Hashable, Hashable] | None


def _settings(options: dict[str, Any], observations: Any, forecasts: Any) -> dict[str, Any]:
    """What tables have to agree in; how windows are made does not matter where there are none, or no partial ones."""
    settings: dict[str, Any] = {"ensemble_mean": options["member_dim"] is not None}
    settings |= {"weighted": options["weights"] is not None, "pooling": "max", "stride": None, "boundary": "drop"}
    widths = np.atleast_1d(options["scales"])
    if widths.max() > 1:
        stride = options["stride"]
        strides = np.broadcast_to(widths if stride is None else stride, widths.shape)
        windows = list(zip(widths.tolist(), strides.tolist(), strict=True))
        sizes = [forecasts.sizes[d] for d in find_spatial_dims(forecasts, options["spatial_dims"])]
        whole = all(n_windows(n, *w, "drop") == n_windows(n, *w, "partial") for n in sizes for w in windows)
        settings |= {"pooling": options["pooling"], "boundary": "drop" if whole else options["boundary"]}
        settings["stride"] = None if stride is None else np.ravel(stride).tolist()
    return settings


@additive(
    *COUNTS,
    own_dims=["threshold", "scale"],
    fixed_dims=["threshold"],
    settings=_settings,
    called="a contingency table",
    dtype=np.int64,
)
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
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Hits, misses, false alarms and correct negatives at thresholds and pooling scales, in one pass.

    Tables of different files or months are added up with `merge` or ``.sum(dim)`` before a score is taken of them.

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
    spatial_dims : (hashable, hashable), optional
        Names of the horizontal dims, for pooling. By default y and x, or latitude and longitude.
    weights : xarray.DataArray, optional
        Along some of the dims of the fields, such as those of `area_weights`; every pair counts with its weight, and
        the counts are float64. Windows above scale 1 are of several cells, and have no weights along horizontal dims.
    skipna : bool
        False: a single missing pair makes the counts NaN (and float64).

    Returns
    -------
    xarray.Dataset
        Variables ``hits``, ``misses``, ``false_alarms``, ``correct_negatives``, int64.

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
    threshold, scale = (
        threshold_coordinate(thresholds, observations, forecasts),
        scale_coordinate(scales, f"{pooling}-pooling"),
    )
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
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
        cell_weights=weights,
        thresholds=tuple(float(t) for t in np.atleast_1d(threshold.values)),
        scales=tuple(int(s) for s in np.atleast_1d(scale.values)),
        strides=strides,
        pooling=pooling,
        boundary=boundary,
        skipna=skipna,
    )
    if not skipna:
        windows = zip(np.atleast_1d(scale.values), strides, strict=True)
        n_pairs = [
            total_weight(weights, _n_windows(observations, forecasts, pooled, (*window, boundary)), reduce)
            for window in windows
        ]
        counts = counts.where(is_total(counts.sum("count"), xr.concat(n_pairs, "scale")))
    return table_of(counts, COUNTS, threshold, scale)


def scale_coordinate(scales: Scales, windows: str) -> xr.DataArray:
    """The coordinate ``scale`` of scores of windows of one or several widths.

    ``windows``: what they are for, such as "max-pooling". ValueError if one is no whole number from 1 up, or there is
    none.

    >>> scale_coordinate([1, 4], "max-pooling").attrs["long_name"]
    'width of max-pooling windows'
    """
    values = np.asarray(scales)
    if values.ndim > 1 or values.size == 0 or values.dtype.kind not in "iu" or np.any(values < 1):
        raise ValueError(f"scales={scales!r} must be a whole number of cells from 1 up, or a sequence of at least one")
    attrs = {"long_name": f"width of {windows} windows".replace("  ", " "), "units": "grid cells"}
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


def _n_windows(observations, forecasts, pooled, window) -> dict[Hashable, int]:
    """Sizes of the fields, in windows along the pooled dims."""
    sizes = {**observations.sizes, **forecasts.sizes}
    return {d: n_windows(n, *window) if d in pooled else n for d, n in sizes.items()}


# ---------------------------------------------------------------- ratios

Formula = Callable[..., np.ndarray]


def of_counts(long_name: str, **words: Any) -> Callable[[Formula], Callable[..., Any]]:
    """Decorator: the score of two fields or of a table, from its formula of the counts a, b, c and d in float64.

    The docstring of the formula is that of the score; what all scores have in common is added to it. ``words``: as of
    `Column`.
    """
    column = Column(long_name, archive="events", **words)

    def decorate(formula: Formula) -> Callable[..., Any]:
        def of_table(table: xr.Dataset) -> xr.DataArray:
            return per_cell(formula, table, ["hits", "false_alarms", "misses", "correct_negatives"], formula.__name__)

        return score_of(contingency_table, columns=column)(update_wrapper(of_table, formula, updated=()))

    return decorate


@of_counts("critical success index", range=(0, 1), best=1, by_default=True)
def csi(a, b, c, d):
    """Critical success index (threat score): hits among all that was forecast or observed, ``a / (a + b + c)``.

    Returns
    -------
        NaN (0/0) where there is no event.

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


@of_counts("equitable threat score", range=(-1 / 3, 1), best=1)
def ets(a, b, c, d):
    """Equitable threat score (Gilbert skill score): the CSI beyond chance, ``(a - r) / (a + b + c - r)``.

    The hits that chance would bring are ``r = (a + b) (a + c) / n``.

    Returns
    -------
        0 is no better than chance. NaN (0/0) where there is no event, or nothing but hits.

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


@of_counts("Heidke skill score", range=(-1, 1), best=1, by_default=True)
def hss(a, b, c, d):
    """Heidke skill score: correct forecasts beyond chance, ``2 (ad - bc) / [(a + c)(c + d) + (a + b)(b + d)]``.

    Returns
    -------
        0 is no better than chance. NaN (0/0) where there is no event, or nothing but hits.

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


@of_counts("F1 score", range=(0, 1), best=1)
def f1(a, b, c, d):
    """F1 score: the harmonic mean of precision and recall, ``2a / (2a + b + c)``.

    Returns
    -------
        NaN (0/0) where there is no event.

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


@of_counts("probability of detection", range=(0, 1), best=1, by_default=True)
def pod(a, b, c, d):
    """Probability of detection (hit rate, recall): the part of the observed events that was forecast, ``a / (a + c)``.

    Returns
    -------
        NaN (0/0) where no event was observed.

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


@of_counts("recall", range=(0, 1), best=1)
def recall(a, b, c, d):
    """Recall, another name of the probability of detection (`pod`): ``a / (a + c)``.

    Returns
    -------
        NaN (0/0) where no event was observed.

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


@of_counts("precision", range=(0, 1), best=1)
def precision(a, b, c, d):
    """Precision (success ratio): the part of the forecast events that came, ``a / (a + b)``.

    Returns
    -------
        It is ``1 - false_alarm_ratio``. NaN (0/0) where no event was forecast.

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


@of_counts("false alarm ratio", range=(0, 1), best=0, by_default=True)
def false_alarm_ratio(a, b, c, d):
    """False alarm ratio (FAR): the part of the forecast events that did not come, ``b / (a + b)``.

    Not the probability of false detection, ``b / (b + d)``, which is also called false alarm rate.

    Returns
    -------
        NaN (0/0) where no event was forecast.

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


@of_counts("probability of false detection", range=(0, 1), best=0)
def probability_of_false_detection(a, b, c, d):
    """Probability of false detection (POFD, false alarm rate): where no event came, how often one was forecast.

    ``b / (b + d)``, not the false alarm ratio ``b / (a + b)``.

    Returns
    -------
        NaN (0/0) where there were events everywhere.

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


@of_counts("frequency bias", range=(0, np.inf), best=1, by_default=True)
def frequency_bias(a, b, c, d):
    """Frequency bias: how many events were forecast for each that was observed, ``(a + b) / (a + c)``.

    Returns
    -------
        Infinite where events were forecast and none observed, NaN (0/0) where there was neither.

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


@of_counts("accuracy", range=(0, 1), best=1)
def accuracy(a, b, c, d):
    """Accuracy (proportion correct): how often it was right that an event came or did not, ``(a + d) / n``.

    Returns
    -------
        NaN (0/0) where there is no pair. Of rare events it says little: never to forecast
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


@of_counts("symmetric extremal dependence index", range=(-1, 1), best=1)
def sedi(a, b, c, d):
    """Symmetric extremal dependence index, which keeps its meaning when events become rare.

    With the rates H, `pod`, and F, `probability_of_false_detection`:
    ``[ln F - ln H - ln(1 - F) + ln(1 - H)] / [ln F + ln H + ln(1 - F) + ln(1 - H)]``.

    Returns
    -------
        0 is no better than chance. NaN where H or F is 0, 1 or NaN: the limits there, 1 for
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
