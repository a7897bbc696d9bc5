"""Counts of events: hits, misses, false alarms and correct negatives, at thresholds and pooling scales."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xnowcast.verify.kernels.slabs import Index, as_floats, broadcast_shape, drop_pairs, slabs, summed_shape, within


class _Events(NamedTuple):
    """Where a field is measured (None: everywhere) and, for each threshold, where it reaches it."""

    measured: np.ndarray | None
    reached: list[np.ndarray]


def contingency_counts(
    observations: np.ndarray,
    forecasts: np.ndarray,
    thresholds: Sequence[float],
    scales: Sequence[int] = (1,),
    *,
    axis: Sequence[int],
    skipna: bool = True,
) -> np.ndarray:
    """Hits, misses, false alarms and correct negatives, at all thresholds and scales in one pass.

    Parameters
    ----------
    observations, forecasts : numpy.ndarray
        Same number of axes, length 1 where shared; y and x last when a scale is above 1. A pair with a NaN is
        dropped before anything is pooled.
    thresholds : sequence of float
        An event is ``value >= threshold``; each threshold is cast to the dtype of the field it is compared with,
        so that a float32 field equal to 0.7 is an event at 0.7.
    scales : sequence of int
        Width k of the max-pooling windows in cells: windows of k x k with stride k; cells that do not fill a
        window are left out. 1 is no pooling. Above 1 the last two axes must be in ``axis``.
    axis : sequence of int
        Non-negative axes that are counted over.
    skipna : bool
        Whether a window with some NaN is the maximum of the others (True) or NaN (False).

    Returns
    -------
    numpy.ndarray
        int64, shape ``(*shape with 1 at axis, threshold, scale, 4)``.

    Examples
    --------
    >>> o, f = np.array([2.0, 2, 1, 3]), np.array([2.0, 1, 2, np.nan])
    >>> contingency_counts(o, f, [2.0], axis=[0])[0, 0, 0].tolist()
    [1, 1, 1, 0]
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    shape = broadcast_shape(observations, forecasts)
    o_thresholds = [observations.dtype.type(t) for t in thresholds]
    f_thresholds = [forecasts.dtype.type(t) for t in thresholds]
    counts = np.zeros((*summed_shape(shape, axis), len(thresholds), len(scales), 4), dtype=np.int64)
    pooled = any(scale > 1 for scale in scales)
    shared: tuple[Index, list[_Events]] | None = None  # events of the last observations, for the next member
    for index in slabs(shape):
        o_index = within(index, observations.shape)
        obs, fcst = observations[o_index], forecasts[within(index, forecasts.shape)]
        target = counts[within(index, summed_shape(shape, axis))]
        masked = drop_pairs(obs, fcst) if pooled and skipna else None
        if masked is not None:
            obs, fcst = masked
            o_events = [_events(o, o_thresholds) for o in _pool(obs, scales, skipna)]
        elif shared is not None and shared[0] == o_index:
            o_events = shared[1]
        else:
            o_events = [_events(o, o_thresholds) for o in _pool(obs, scales, skipna)]
            shared = (o_index, o_events)
        for s, f in enumerate(_pool(fcst, scales, skipna)):
            target[..., s, :] += _count_pairs(o_events[s], _events(f, f_thresholds), axis)
    return counts


def _pool(field: np.ndarray, scales: Sequence[int], skipna: bool) -> list[np.ndarray]:
    """The field at each scale, coarse windows made of finer ones where these divide them."""
    done = {1: field}
    for scale in sorted(set(scales) - {1}):
        finer = max(s for s in done if scale % s == 0)
        done[scale] = max_pool(done[finer], scale // finer, skipna=skipna)
    return [done[scale] for scale in scales]


def max_pool(field: np.ndarray, scale: int, *, skipna: bool = True) -> np.ndarray:
    """Largest value in each window of scale x scale cells; cells that do not fill a window are left out.

    Parameters
    ----------
    field : numpy.ndarray
        ``(..., y, x)``.
    scale : int
        Width and stride of the windows.
    skipna : bool
        True: NaN is skipped, and a window of NaN alone is NaN. False: one NaN makes the window NaN.

    Returns
    -------
    numpy.ndarray
        ``(..., y // scale, x // scale)``.

    Examples
    --------
    >>> max_pool(np.array([[1.0, 2, 9], [np.nan, 3, 9]]), 2).tolist()
    [[3.0]]
    """
    larger = np.fmax if skipna else np.maximum
    n_y, n_x = field.shape[-2] // scale, field.shape[-1] // scale
    field = field[..., : n_y * scale, : n_x * scale]
    # Rows first: they are contiguous, and they leave only 1/scale of the values for the strided second half.
    for axis in (-2, -1):
        parts = [field[..., i::scale, :] if axis == -2 else field[..., i::scale] for i in range(scale)]
        largest = parts[0].copy()
        for part in parts[1:]:
            larger(largest, part, out=largest)
        field = largest
    return field


def _events(field: np.ndarray, thresholds: Sequence[float]) -> _Events:
    measured = ~np.isnan(field)
    everywhere = np.count_nonzero(measured) == measured.size
    return _Events(None if everywhere else measured, [field >= t for t in thresholds])


def _count_pairs(obs: _Events, fcst: _Events, axis: Sequence[int]) -> np.ndarray:
    """Counts of the pairs in which both are measured, shape ``(*shape with 1 at axis, threshold, 4)``."""
    shape = np.broadcast_shapes(obs.reached[0].shape, fcst.reached[0].shape)
    if obs.measured is None or fcst.measured is None:
        one = fcst.measured if obs.measured is None else obs.measured
        n = np.prod([shape[a] for a in axis], dtype=np.int64) if one is None else _count(one, axis, shape)
    else:
        n = _count(obs.measured & fcst.measured, axis, shape)
    counts = np.empty((*summed_shape(shape, axis), len(obs.reached), 4), dtype=np.int64)
    for t, (o, f) in enumerate(zip(obs.reached, fcst.reached, strict=True)):
        hits = _count(o & f, axis, shape)  # NaN reaches no threshold, so only pairs are hits
        observed = _count(o if fcst.measured is None else o & fcst.measured, axis, shape)
        forecast = _count(f if obs.measured is None else f & obs.measured, axis, shape)
        counts[..., t, 0] = hits
        counts[..., t, 1] = observed - hits
        counts[..., t, 2] = forecast - hits
        counts[..., t, 3] = n - observed - forecast + hits
    return counts


def _count(mask: np.ndarray, axis: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """Number of True along ``axis``, as if the mask had been broadcast to ``shape``."""
    repeats = np.prod([shape[a] for a in axis if mask.shape[a] == 1], dtype=np.int64)
    if all(n == 1 for a, n in enumerate(mask.shape) if a not in axis):
        return np.reshape(np.count_nonzero(mask) * repeats, (1,) * mask.ndim)
    return np.count_nonzero(mask, axis=tuple(axis), keepdims=True) * repeats
