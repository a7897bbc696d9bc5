"""Sums that scores are made of, on numpy arrays: event counts, error sums and CRPS sums.

Every kernel takes observations and forecasts with the same number of axes, where an axis of length 1 is shared
along the other's (one observation for all members, never copied), and returns sums over ``axis`` with these axes
kept at length 1, so that sums of parts can be added up and divided once, at the end. NaN means not measured.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# A slab of this many values stays in the cache of one core while all thresholds look at it.
SLAB_VALUES = 1 << 17
# Points per tile of the CRPS: the members of a tile stay in the cache while they are sorted.
TILE_POINTS = 1 << 12
# Above this many members numpy's own sort needs fewer steps than the network's many calls.
NETWORK_MEMBERS = 128

Index = tuple[slice, ...]


# ---------------------------------------------------------------- slabs


def _broadcast_shape(observations: np.ndarray, forecasts: np.ndarray) -> tuple[int, ...]:
    if observations.ndim != forecasts.ndim:
        raise ValueError(
            f"observations have {observations.ndim} axes and forecasts {forecasts.ndim}; give both the same number, "
            "with length 1 where one is shared"
        )
    return np.broadcast_shapes(observations.shape, forecasts.shape)


def _slabs(shape: tuple[int, ...]) -> Iterator[Index]:
    """Indices of cache-sized parts: whole trailing axes (two at least), one step of each leading axis at a time."""
    n_leading = max(len(shape) - 2, 0)
    while n_leading and np.prod(shape[n_leading - 1 :]) <= SLAB_VALUES:
        n_leading -= 1
    for leading in np.ndindex(shape[:n_leading]):
        yield tuple(slice(i, i + 1) for i in leading) + (slice(None),) * (len(shape) - n_leading)


def _within(index: Index, shape: tuple[int, ...]) -> Index:
    """The same index for an array in which some axes have length 1."""
    return tuple(slice(None) if n == 1 else part for part, n in zip(index, shape, strict=True))


def _summed_shape(shape: tuple[int, ...], axis: Sequence[int]) -> tuple[int, ...]:
    return tuple(1 if i in axis else n for i, n in enumerate(shape))


# ---------------------------------------------------------------- categorical


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
    observations, forecasts = _as_floats(observations), _as_floats(forecasts)
    shape = _broadcast_shape(observations, forecasts)
    o_thresholds = [observations.dtype.type(t) for t in thresholds]
    f_thresholds = [forecasts.dtype.type(t) for t in thresholds]
    counts = np.zeros((*_summed_shape(shape, axis), len(thresholds), len(scales), 4), dtype=np.int64)
    pooled = any(scale > 1 for scale in scales)
    shared: tuple[Index, list[_Events]] | None = None  # events of the last observations, for the next member
    for index in _slabs(shape):
        o_index = _within(index, observations.shape)
        obs, fcst = observations[o_index], forecasts[_within(index, forecasts.shape)]
        target = counts[_within(index, _summed_shape(shape, axis))]
        masked = _drop_pairs(obs, fcst) if pooled and skipna else None
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


def _as_floats(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _drop_pairs(obs: np.ndarray, fcst: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both fields with NaN where either has one; None where that changes nothing."""
    o_nan, f_nan = np.isnan(obs), np.isnan(fcst)
    either = o_nan | f_nan
    n_nan = np.count_nonzero(either)
    alike = o_nan.shape == f_nan.shape and np.count_nonzero(o_nan) == n_nan == np.count_nonzero(f_nan)
    if n_nan == 0 or alike:
        return None
    return np.where(either, obs.dtype.type(np.nan), obs), np.where(either, fcst.dtype.type(np.nan), fcst)


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
    counts = np.empty((*_summed_shape(shape, axis), len(obs.reached), 4), dtype=np.int64)
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


# ---------------------------------------------------------------- deterministic


def error_sums(
    observations: np.ndarray, forecasts: np.ndarray, *, axis: Sequence[int], skipna: bool = True
) -> np.ndarray:
    """Number of pairs and sums of the error, its absolute value and its square.

    Parameters
    ----------
    observations, forecasts : numpy.ndarray
        Same number of axes, length 1 where shared. The error is forecast minus observation, taken in float64.
    axis : sequence of int
        Non-negative axes that are summed over.
    skipna : bool
        True: pairs with a NaN are dropped. False: they make the sums NaN.

    Returns
    -------
    numpy.ndarray
        float64, shape ``(*shape with 1 at axis, 4)``.

    Examples
    --------
    >>> error_sums(np.array([1.0, 2, np.nan]), np.array([2.0, 0, 5]), axis=[0])[0].tolist()
    [2.0, -1.0, 3.0, 5.0]
    """
    shape = _broadcast_shape(observations, forecasts)
    kept = _summed_shape(shape, axis)
    sums = np.zeros((*kept, 4))
    for index in _slabs(shape):
        obs = observations[_within(index, observations.shape)]
        error = np.subtract(forecasts[_within(index, forecasts.shape)], obs, dtype=np.float64)
        missing = np.isnan(error)
        target = sums[_within(index, kept)]
        if skipna:
            error[missing] = 0.0
        target[..., 0] += np.sum(~missing, axis=tuple(axis), keepdims=True)
        target[..., 1] += error.sum(axis=tuple(axis), keepdims=True)
        target[..., 2] += np.abs(error).sum(axis=tuple(axis), keepdims=True)
        target[..., 3] += np.square(error, out=error).sum(axis=tuple(axis), keepdims=True)
    return sums


# ---------------------------------------------------------------- ensemble


def crps_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    member_axis: int,
    axis: Sequence[int],
    fair: bool = False,
    skipna: bool = True,
) -> np.ndarray:
    """Number of scored points and sum of their ensemble CRPS.

    Parameters
    ----------
    observations, forecasts : numpy.ndarray
        Same number of axes, length 1 where shared; observations have length 1 along ``member_axis``.
    member_axis : int
        Non-negative axis of the members; length 1 in the result.
    axis : sequence of int
        Non-negative axes that are summed over.
    fair, skipna : bool
        As in `crps_points`; with ``skipna`` points without a CRPS are dropped, else they make the sum NaN.

    Returns
    -------
    numpy.ndarray
        float64, shape ``(*shape with 1 at axis and member_axis, 2)``.

    Examples
    --------
    >>> crps_sums(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0], [1.0, 3.0]]), member_axis=0, axis=[1]).tolist()
    [[[2.0, 0.5]]]
    """
    dtype = np.result_type(observations.dtype, forecasts.dtype)
    if dtype not in (np.float32, np.float64):
        dtype = np.dtype(np.float32 if dtype == np.float16 else np.float64)
    shape = _summed_shape(_broadcast_shape(observations, forecasts), [member_axis])
    kept = _summed_shape(shape, axis)
    sums = np.zeros((*kept, 2))
    for index in _slabs(shape):
        obs = observations[_within(index, observations.shape)]
        of_members = (*index[:member_axis], slice(None), *index[member_axis + 1 :])
        fcst = forecasts[_within(of_members, forecasts.shape)]
        fcst = np.moveaxis(fcst, member_axis, 0)
        obs = np.squeeze(obs, member_axis)
        slab_shape = np.broadcast_shapes(obs.shape, fcst.shape[1:])
        crps = crps_points(
            np.broadcast_to(obs, slab_shape).reshape(-1),
            np.broadcast_to(fcst, (len(fcst), *slab_shape)).reshape(len(fcst), -1),
            fair=fair,
            skipna=skipna,
            dtype=dtype,
        )
        crps = np.expand_dims(crps.reshape(slab_shape), member_axis)
        missing = np.isnan(crps)
        if skipna and missing.any():
            crps[missing] = 0.0
        target = sums[_within(index, kept)]
        target[..., 0] += np.sum(~missing, axis=tuple(axis), keepdims=True)
        target[..., 1] += crps.sum(axis=tuple(axis), keepdims=True, dtype=np.float64)
    return sums


def crps_points(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    fair: bool = False,
    skipna: bool = True,
    dtype: np.dtype | type = np.float64,
) -> np.ndarray:
    """CRPS of an ensemble at each point, ``mean |x_i - y| - spread``.

    The spread is ``sum_ij |x_i - x_j| / (2 n^2)``, or ``/ (2 n (n - 1))`` when fair, with the n members that are
    not NaN at that point. The double sum is taken as ``sum (2 i - n + 1) x_(i)`` over the sorted members
    (i from 0), of their differences to the observation, so that nothing is lost far from zero.

    Parameters
    ----------
    observations : numpy.ndarray
        ``(point,)``.
    forecasts : numpy.ndarray
        ``(member, point)``.
    fair : bool
        Whether the score is that of the distribution which the members are drawn from. NaN with one member.
    skipna : bool
        True: a NaN member is left out at its point. False: it makes the point NaN.
    dtype : numpy.dtype
        float32 or float64, of the arithmetic and of the result.

    Returns
    -------
    numpy.ndarray
        ``(point,)``, NaN where the observation or all members are NaN.

    References
    ----------
    Gneiting and Raftery (2007), doi:10.1198/016214506000001437, eq. 21; Ferro (2014), doi:10.1002/qj.2270.

    Examples
    --------
    >>> crps_points(np.array([1.0, 2.0]), np.array([[0.0, 1.0], [1.0, 3.0], [3.0, np.nan]])).round(4).tolist()
    [0.3333, 0.5]
    """
    crps = np.empty(observations.size, dtype)
    for start in range(0, observations.size, TILE_POINTS):
        tile = slice(start, start + TILE_POINTS)
        difference = np.subtract(forecasts[:, tile], observations[tile], dtype=dtype)
        crps[tile] = _crps_tile(difference, fair=fair, skipna=skipna)
    return crps


def _crps_tile(difference: np.ndarray, *, fair: bool, skipna: bool) -> np.ndarray:
    """CRPS from members minus observation, ``(member, point) -> (point,)``; overwrites its input."""
    n_members = len(difference)
    distance = np.abs(difference).sum(axis=0)
    missing = np.isnan(distance)
    if skipna and missing.any():
        # Off a radar's disc all members are missing together; what some have left is scored apart.
        missing &= ~np.isnan(difference).all(axis=0)
        partly = np.flatnonzero(missing)
        left = difference[:, partly]
    else:
        partly, left = np.empty(0, int), difference[:, :0]
    spread = np.zeros_like(distance)
    with np.errstate(invalid="ignore"):  # inf - inf, mended in _mean_less_spread; NaN stays in its point
        for i, row in enumerate(_sort_members(difference)):
            if 2 * i + 1 != n_members:
                spread += (2 * i + 1 - n_members) * row
    crps = _mean_less_spread(distance, spread, n_members, fair)
    if partly.size:
        crps[partly] = _crps_of_some(left, fair=fair)
    return crps


def _crps_of_some(difference: np.ndarray, *, fair: bool) -> np.ndarray:
    """The same of the members that are not NaN, at least one at each point."""
    n = len(difference) - np.count_nonzero(np.isnan(difference), axis=0).astype(difference.dtype)
    distance = np.nansum(np.abs(difference), axis=0)
    spread = np.zeros_like(distance)
    with np.errstate(invalid="ignore"):
        # NaN sorts to the end, beyond the n that are left.
        for i, row in enumerate(np.sort(difference, axis=0)):
            spread += np.where(i < n, (2 * i + 1 - n) * row, 0)
    return _mean_less_spread(distance, spread, n, fair)


def _mean_less_spread(distance: np.ndarray, spread: np.ndarray, n: int | np.ndarray, fair: bool) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0 / 0 with one member: the fair spread of one member is unknown.
        crps = distance / n - spread / np.asarray(n * (n - 1 if fair else n), distance.dtype)
    if not fair:
        crps[np.isinf(distance)] = np.inf  # one infinite member is infinitely far away, whatever the spread
    return crps


def _sort_members(difference: np.ndarray) -> list[np.ndarray]:
    """Rows such that they rise at each point; overwrites its input."""
    if len(difference) > NETWORK_MEMBERS:
        return list(np.sort(difference, axis=0))
    # A network of min and max on whole rows runs in vector registers, which sorting along axis 0 does not.
    rows = list(difference)
    spare = np.empty_like(rows[0])
    for i, j in _sorting_network(len(rows)):
        np.minimum(rows[i], rows[j], out=spare)
        np.maximum(rows[i], rows[j], out=rows[j])
        rows[i], spare = spare, rows[i]
    return rows


@lru_cache(maxsize=64)
def _sorting_network(n: int) -> tuple[tuple[int, int], ...]:
    """Comparators (i < j) of Batcher's merge exchange: Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M."""
    comparators = []
    top = 1 << max((n - 1).bit_length() - 1, 0)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            comparators += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(comparators)
