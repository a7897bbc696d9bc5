"""Continuous ranked probability score of ensembles: sums and values at points.

The score of a point is the mean distance of the members to the observation, less half of that between members.
The double sum of the latter is taken as ``sum (2 i - n + 1) x_(i)`` over the sorted members (i from 0), of their
differences to the observation, so that nothing is lost far from zero.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from xnowcast.verify.kernels.compiled import compiled, use_compiled
from xnowcast.verify.kernels.members import float_dtype, member_slabs, sum_to, tiles
from xnowcast.verify.kernels.slabs import broadcast_shape, summed_shape

# Points per tile of the CRPS: the members of a tile stay in the cache while they are sorted.
TILE_POINTS = 1 << 12
# Above this many members numpy's own sort needs fewer steps than the network's many calls.
NETWORK_MEMBERS = 128
# Points that the compiled kernel sorts side by side. Unsigned, so that no index is checked for being negative.
LANES = np.uint64(128)
# Members that the compiled kernel sorts in registers; the network then merges blocks of as many.
BLOCK = 4


def crps_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    member_axis: int,
    axis: Sequence[int],
    thresholds: Sequence[float] = (-np.inf,),
    fair: bool = False,
    skipna: bool = True,
) -> np.ndarray:
    """Number of scored points, and sums of the two terms of their ensemble CRPS.

    Parameters
    ----------
    observations, forecasts : numpy.ndarray
        Same number of axes, length 1 where shared; observations have length 1 along ``member_axis``.
    member_axis : int
        Non-negative axis of the members; length 1 in the result.
    axis : sequence of int
        Non-negative axes that are summed over.
    thresholds : sequence of float
        Values below are raised to the threshold, in observations and members. ``-inf`` changes nothing.
    fair, skipna : bool
        As in `crps_points`; with ``skipna`` points without a CRPS are dropped, else they make the sums NaN.

    Returns
    -------
    numpy.ndarray
        float64, shape ``(*shape with 1 at axis and member_axis, threshold, 3)``: number of points, sums of the
        distance and of the spread, as `crps_terms` returns them.

    Examples
    --------
    >>> sums = crps_sums(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0], [1.0, 3.0]]), member_axis=0, axis=[1])
    >>> sums.tolist()
    [[[[2.0, 1.0, 0.5]]]]
    """
    dtype = float_dtype(observations, forecasts)
    shape = summed_shape(broadcast_shape(observations, forecasts), [member_axis])
    sums = np.zeros((*summed_shape(shape, axis), len(thresholds), 3))
    fast = use_compiled(forecasts.size)
    for slab in member_slabs(observations, forecasts, member_axis=member_axis, axis=axis):
        target = sums[slab.target]
        summed_whole = target[..., 0, 0].size == 1
        for t, threshold in enumerate(thresholds):
            options: dict[str, Any] = {"floor": threshold, "fair": fair, "skipna": skipna, "dtype": dtype}
            if fast and summed_whole:
                target[..., t, :] += _totals_compiled(slab.observations, slab.forecasts, **options)
                continue
            terms = _terms_compiled if fast else crps_terms
            distance, spread = terms(slab.observations, slab.forecasts, **options)
            missing = np.isnan(distance)
            if skipna and missing.any():
                distance[missing] = spread[missing] = 0.0
            for i, values in enumerate((~missing, distance, spread)):
                sum_to(sums[..., t, i], values, slab, axis)
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

    Parameters
    ----------
    observations, forecasts, fair, skipna, dtype
        As in `crps_terms`.

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
    distance, spread = crps_terms(observations, forecasts, fair=fair, skipna=skipna, dtype=dtype)
    return distance - spread


def crps_terms(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    floor: float = -np.inf,
    fair: bool = False,
    skipna: bool = True,
    dtype: np.dtype | type = np.float64,
) -> tuple[np.ndarray, np.ndarray]:
    """The two terms of which the CRPS is the difference: distance to the observation, and spread of the members.

    Parameters
    ----------
    observations : numpy.ndarray
        ``(point,)``.
    forecasts : numpy.ndarray
        ``(member, point)``.
    floor : float
        Values below are raised to this first.
    fair : bool
        Whether the score is that of the distribution which the members are drawn from. NaN with one member.
    skipna : bool
        True: a NaN member is left out at its point. False: it makes the point NaN.
    dtype : numpy.dtype
        float32 or float64, of the arithmetic and of the result.

    Returns
    -------
    distance, spread : numpy.ndarray
        ``(point,)``: ``mean |x_i - y|`` and ``sum_ij |x_i - x_j| / (2 n^2)``, or ``/ (2 n (n - 1))`` when fair,
        with the n members that are not NaN at that point. Both are NaN where there is no score. Where a member is
        infinitely far away the distance is infinite and the spread 0; there is no fair score.

    Examples
    --------
    >>> crps_terms(np.array([1.0]), np.array([[0.0], [3.0], [np.nan]]))
    (array([1.5]), array([0.75]))
    """
    distance, spread = np.empty(observations.size, dtype), np.empty(observations.size, dtype)
    for tile in tiles(observations.size, TILE_POINTS):
        if floor == -np.inf:
            difference = np.subtract(forecasts[:, tile], observations[tile], dtype=dtype)
        else:
            lowest = np.asarray(floor, dtype)
            difference = np.maximum(forecasts[:, tile], lowest, dtype=dtype)
            difference -= np.maximum(observations[tile], lowest, dtype=dtype)
        distance[tile], spread[tile] = _terms_of_tile(difference, fair=fair, skipna=skipna)
    return distance, spread


def _terms_of_tile(difference: np.ndarray, *, fair: bool, skipna: bool) -> tuple[np.ndarray, np.ndarray]:
    """The terms from members minus observation, ``(member, point) -> (point,)``; overwrites its input."""
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
    with np.errstate(invalid="ignore"):  # inf - inf, mended in _divided; NaN stays in its point
        rows = _sort_members(difference)
        for i in range(n_members // 2):
            # The weights of the i-th smallest and the i-th largest differ in sign alone.
            apart = np.subtract(rows[n_members - 1 - i], rows[i], out=rows[i])
            apart *= n_members - 1 - 2 * i
            spread += apart
    distance, spread = _divided(distance, spread, n_members, fair)
    if partly.size:
        distance[partly], spread[partly] = _terms_of_some(left, fair=fair)
    return distance, spread


def _terms_of_some(difference: np.ndarray, *, fair: bool) -> tuple[np.ndarray, np.ndarray]:
    """The same of the members that are not NaN, at least one at each point."""
    n = len(difference) - np.count_nonzero(np.isnan(difference), axis=0).astype(difference.dtype)
    distance = np.nansum(np.abs(difference), axis=0)
    spread = np.zeros_like(distance)
    with np.errstate(invalid="ignore"):
        # NaN sorts to the end, beyond the n that are left.
        for i, row in enumerate(np.sort(difference, axis=0)):
            spread += np.where(i < n, (2 * i + 1 - n) * row, 0)
    return _divided(distance, spread, n, fair)


def _divided(
    distance: np.ndarray, spread: np.ndarray, n: int | np.ndarray, fair: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over members divided by their number and that of their pairs; both terms NaN where there is no score."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0 / 0 with one member: the fair spread of one member is unknown.
        distance, spread = distance / n, spread / np.asarray(n * (n - 1 if fair else n), distance.dtype)
    far = np.isinf(distance)
    if far.any():
        # One infinite member is infinitely far away, whatever the spread.
        spread[far] = np.nan if fair else 0.0
    missing = np.isnan(distance) | np.isnan(spread)
    distance[missing] = spread[missing] = np.nan
    return distance, spread


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


# ---------------------------------------------------------------- compiled
#
# Strips of points stay in the first-level cache. Each block of four members is sorted in registers as it is read,
# and the sorting network then works on blocks: its comparators merge two sorted blocks into a lower and an upper
# one (Knuth 5.3.4, exercise 38), which moves half as many values as comparing single members does.


def _totals_compiled(observations, forecasts, *, floor, fair, skipna, dtype) -> np.ndarray:
    """Number of scored points and sums of their terms, shape (3,)."""
    nowhere = np.empty(0, dtype)
    return _run_compiled(observations, forecasts, floor, fair, skipna, nowhere, nowhere)


def _terms_compiled(observations, forecasts, *, floor, fair, skipna, dtype) -> tuple[np.ndarray, np.ndarray]:
    """As `crps_terms`."""
    distance, spread = np.empty(observations.size, dtype), np.empty(observations.size, dtype)
    _run_compiled(observations, forecasts, floor, fair, skipna, distance, spread)
    return distance, spread


def _run_compiled(observations, forecasts, floor, fair, skipna, distance, spread) -> np.ndarray:
    dtype, (n_members, n_points) = distance.dtype, forecasts.shape
    forecasts = forecasts.astype(dtype, copy=False)
    if forecasts.strides[1] != dtype.itemsize or forecasts.strides[0] % dtype.itemsize or forecasts.strides[0] < 0:
        forecasts = np.ascontiguousarray(forecasts)
    # All the memory that the members lie in, as one row: loops over rows of unknown strides are not vectorised.
    step = forecasts.strides[0] // dtype.itemsize if n_members > 1 else 0
    values = np.lib.stride_tricks.as_strided(forecasts, ((n_members - 1) * step + n_points,), (dtype.itemsize,))
    starts = np.arange(n_members) * step
    odd = np.arange(1, 2 * n_members, 2, dtype=dtype)
    network = np.array(_sorting_network(-(-n_members // BLOCK)), dtype=np.uint64).reshape(-1, 2) * np.uint64(BLOCK)
    sums = np.zeros(3)
    observations = np.ascontiguousarray(observations, dtype)
    _sum_strips(observations, values, starts, dtype.type(floor), network, odd, fair, skipna, distance, spread, sums)
    return sums


@compiled
def _sum_strips(observations, values, starts, floor, network, odd, fair, skipna, distance_of, spread_of, sums):
    """Strip by strip; one with NaN or inf is read again with care."""
    n_members = len(starts)
    # Rows beyond the members hold inf, which sorts to the end of its block and of all.
    rows = np.full(((n_members + BLOCK - 1) // BLOCK * BLOCK, LANES), np.inf, values.dtype)
    truth, distance = np.zeros(LANES, values.dtype), np.zeros(LANES, values.dtype)
    spread, left = np.zeros(LANES, values.dtype), np.zeros(LANES, values.dtype)
    totals = np.zeros((3, LANES))
    for begin in range(0, observations.size, np.int64(LANES)):
        width = min(LANES, np.uint64(observations.size - begin))
        n_observed = _read_truth(observations, begin, width, floor, truth)
        plain = True
        if n_observed:
            _read_members(values, starts, begin, width, floor, truth, rows, distance)
            plain = _all_there(distance, truth, width) and not (fair and n_members == 1)
            if not plain:
                _read_with_care(values, starts, begin, width, floor, truth, rows, distance, left)
            for c in range(len(network)):
                _merge_blocks(rows, network[c, 0], network[c, 1])
        else:
            distance[:] = np.nan
        if plain:
            _finish(rows, odd, fair, distance, spread)
        else:
            _finish_with_care(rows, odd, fair, skipna, left, distance, spread)
        if plain and n_observed == width:
            _add(distance, spread, width, totals)
        else:
            _add_with_care(distance, spread, width, skipna, totals)
            rows[n_members:] = np.inf  # NaN may have been sorted into them
        if distance_of.size:
            distance_of[begin : begin + width] = distance[:width]
            spread_of[begin : begin + width] = spread[:width]
    for k in range(3):
        sums[k] = totals[k].sum()


# One loop to a function: together in one, their arrays might overlap for all the compiler knows, and it is slower.


@compiled
def _ordered(a, b):
    return (a if a < b else b), (b if a < b else a)


@compiled
def _read_truth(observations, begin, width, floor, truth):
    """The observations, raised to the floor; how many are not NaN."""
    first, n_observed = np.uint64(begin), 0
    for lane in range(width):
        y = observations[first + lane]
        truth[lane] = floor if y < floor else y
        n_observed += 1 if y == y else 0
    return n_observed


@compiled
def _read_members(values, starts, begin, width, floor, truth, rows, distance):
    """Members less observation, each block of them sorted, and the sum of their absolute values."""
    distance[:] = 0
    whole = len(starts) // BLOCK * BLOCK
    for m in range(0, whole, BLOCK):
        _read_block(values, starts, m, begin, width, floor, truth, rows, distance)
    for m in range(whole, len(starts)):
        _read_row(values, starts, m, begin, width, floor, truth, rows, distance)
        _insert(rows, whole, m)


@compiled
def _read_block(values, starts, m, begin, width, floor, truth, rows, distance):
    start_a, start_b = np.uint64(starts[m] + begin), np.uint64(starts[m + 1] + begin)
    start_c, start_d = np.uint64(starts[m + 2] + begin), np.uint64(starts[m + 3] + begin)
    for lane in range(width):
        y = truth[lane]
        a, b, c, d = values[start_a + lane], values[start_b + lane], values[start_c + lane], values[start_d + lane]
        a, b = (floor if a < floor else a) - y, (floor if b < floor else b) - y
        c, d = (floor if c < floor else c) - y, (floor if d < floor else d) - y
        distance[lane] += (abs(a) + abs(b)) + (abs(c) + abs(d))
        a, b = _ordered(a, b)
        c, d = _ordered(c, d)
        a, c = _ordered(a, c)
        b, d = _ordered(b, d)
        b, c = _ordered(b, c)
        rows[m, lane], rows[m + 1, lane], rows[m + 2, lane], rows[m + 3, lane] = a, b, c, d


@compiled
def _read_row(values, starts, m, begin, width, floor, truth, rows, distance):
    start = np.uint64(starts[m] + begin)
    for lane in range(width):
        x = values[start + lane]
        x = (floor if x < floor else x) - truth[lane]
        distance[lane] += abs(x)
        rows[m, lane] = x


@compiled
def _insert(rows, first, last):
    """Row ``last`` brought to its place among those from ``first``, which are sorted."""
    for j in range(last, first, -1):
        for lane in range(LANES):
            rows[j - 1, lane], rows[j, lane] = _ordered(rows[j - 1, lane], rows[j, lane])


@compiled
def _all_there(distance, truth, width):
    """Whether all members are finite wherever there is an observation, so that all or nothing is left at a point."""
    n = 0
    for lane in range(width):
        n += 1 if distance[lane] < np.inf or truth[lane] != truth[lane] else 0
    return n == width


@compiled
def _read_with_care(values, starts, begin, width, floor, truth, rows, distance, left):
    """The same with inf in place of NaN, and the number of members that are not."""
    distance[:] = 0
    left[:] = 0
    for m in range(len(starts)):
        start = np.uint64(starts[m] + begin)
        for lane in range(width):
            x = values[start + lane]
            x = (floor if x < floor else x) - truth[lane]
            there = x == x
            rows[m, lane] = x if there else np.inf
            distance[lane] += abs(x) if there else 0
            left[lane] += 1 if there else 0
        _insert(rows, m // BLOCK * BLOCK, m)


@compiled
def _merge_blocks(rows, i, j):
    """The eight values of two sorted blocks, the lower four in the first and the upper four in the second."""
    for lane in range(LANES):
        a, b, c, d = rows[i, lane], rows[i + 1, lane], rows[i + 2, lane], rows[i + 3, lane]
        e, f, g, h = rows[j, lane], rows[j + 1, lane], rows[j + 2, lane], rows[j + 3, lane]
        a, e = _ordered(a, e)
        b, f = _ordered(b, f)
        c, g = _ordered(c, g)
        d, h = _ordered(d, h)
        c, e = _ordered(c, e)
        d, f = _ordered(d, f)
        b, c = _ordered(b, c)
        d, e = _ordered(d, e)
        f, g = _ordered(f, g)
        rows[i, lane], rows[i + 1, lane], rows[i + 2, lane], rows[i + 3, lane] = a, b, c, d
        rows[j, lane], rows[j + 1, lane], rows[j + 2, lane], rows[j + 3, lane] = e, f, g, h


@compiled
def _finish(rows, odd, fair, distance, spread):
    """Both terms of points with all members."""
    n = len(odd)
    spread[:] = 0
    for i in range(n // 2):
        weight = odd[n - 1 - i] - odd[i]  # twice that of the larger; minus it for the smaller
        for lane in range(LANES):
            spread[lane] += weight * (rows[n - 1 - i, lane] - rows[i, lane])
    size, other = distance.dtype.type(n), distance.dtype.type(n - 1 if fair else n)
    half = distance.dtype.type(0.5)
    for lane in range(LANES):
        distance[lane] /= size
        spread[lane] *= half / (size * other)


@compiled
def _finish_with_care(rows, odd, fair, skipna, left, distance, spread):
    """Both terms of the members that are left at each point, NaN where there is no score."""
    spread[:] = 0
    for i in range(len(odd)):
        for lane in range(LANES):
            n = left[lane]
            spread[lane] += (odd[i] - n) * rows[i, lane] if odd[i] < n + n else 0
    for lane in range(LANES):
        n = left[lane]
        far = distance[lane] == np.inf
        none = n == 0 or (fair and (n == 1 or far)) or (n < len(odd) and not skipna)
        distance[lane] = np.nan if none else distance[lane] / n
        spread[lane] = np.nan if none else 0 if far else spread[lane] / (n * (n - 1 if fair else n))


@compiled
def _add(distance, spread, width, totals):
    totals[0, 0] += width
    for lane in range(width):
        totals[1, lane] += distance[lane]
        totals[2, lane] += spread[lane]


@compiled
def _add_with_care(distance, spread, width, skipna, totals):
    for lane in range(width):
        scored = distance[lane] == distance[lane]
        spread[lane] = spread[lane] if scored else np.nan
        totals[0, lane] += 1.0 if scored else 0.0
        totals[1, lane] += np.float64(distance[lane]) if scored or not skipna else 0.0
        totals[2, lane] += np.float64(spread[lane]) if scored or not skipna else 0.0
