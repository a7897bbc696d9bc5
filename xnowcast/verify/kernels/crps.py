"""Continuous ranked probability score of ensembles: sums, and terms at points.

The score of a point is the mean distance of the members to the observation, less half of that between members.
The double sum of the latter is taken as ``sum (2 i - n + 1) x_(i)`` over the sorted members (i from 0), of their
differences to the observation, so that nothing is lost far from zero.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xnowcast.verify.kernels.compiled import compiled, use_compiled
from xnowcast.verify.kernels.members import float_dtype, member_slabs, sum_to, tiles
from xnowcast.verify.kernels.slabs import broadcast_shape, summed_shape
from xnowcast.verify.kernels.vectors import crps_terms_of_vector, emitted, sorting_network, vector_bytes

# Points per tile of the CRPS: the members of a tile stay in the cache while they are sorted.
TILE_POINTS = 1 << 12
# Above this many members numpy's own sort needs fewer steps than the network's many calls.
NETWORK_MEMBERS = 128
# Points that the compiled kernel treats together: several vectors of any processor.
STRIP = 128
# Members up to which the network is compiled, in ten seconds for so many and one for few.
COMPILED_MEMBERS = 256
# Seconds that it takes to compile for one member and again for each 32, and that it saves with each value.
COMPILING, SAVED = 2.0, 3e-9


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

    ``thresholds``: values below are raised to the threshold, in observations and members; ``-inf`` changes nothing.
    ``fair, skipna``: as in `crps_terms`; with ``skipna`` points without a CRPS are dropped. Returned: float64, shape
    ``(*shape with 1 at axis and member_axis, threshold, 3)``: number of points, sums of the distance and of the spread.

    >>> sums = crps_sums(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0], [1.0, 3.0]]), member_axis=0, axis=[1])
    >>> sums.tolist()
    [[[[2.0, 1.0, 0.5]]]]
    """
    dtype = float_dtype(observations, forecasts)
    shape = summed_shape(broadcast_shape(observations, forecasts), [member_axis])
    sums = np.zeros((*summed_shape(shape, axis), len(thresholds), 3))
    fast = _fits_compiled(forecasts.size * len(thresholds), forecasts.shape[member_axis], dtype)
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


def _fits_compiled(n_values: int, n_members: int, dtype: np.dtype) -> bool:
    """It is compiled for each number of members."""
    if n_members > COMPILED_MEMBERS:
        return False
    words = [dtype.name, f" {n_members})"]
    return use_compiled(
        n_values, _sum_strips, saves=n_values * SAVED, compiling=COMPILING * (1 + n_members / 32), words=words
    )


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

    Gneiting and Raftery (2007), doi:10.1198/016214506000001437, eq. 21; Ferro (2014), doi:10.1002/qj.2270.

    ``observations``: ``(point,)``. ``forecasts``: ``(member, point)``. ``floor``: values below are raised to this
    first. ``fair``: whether the score is that of the distribution which the members are drawn from. NaN with one
    member. ``skipna``: True: a NaN member is left out at its point. False: it makes the point NaN. ``dtype``: float32
    or float64, of the arithmetic and of the result. Returned: ``(point,)``: ``mean |x_i - y|`` and ``sum_ij |x_i - x_j|
    / (2 n^2)``, or ``/ (2 n (n - 1))`` when fair, with the n members that are not NaN at that point. Both are NaN where
    there is no score. Where a member is infinitely far away the distance is infinite and the spread 0; there is no fair
    score.

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
    for i, j in sorting_network(len(rows)):
        np.minimum(rows[i], rows[j], out=spare)
        np.maximum(rows[i], rows[j], out=rows[j])
        rows[i], spare = spare, rows[i]
    return rows


# The rest is compiled. The members of a vector of points are sorted in registers, by the network written out for their
# number (vectors.py): numba would read and write them for each comparator, or not make vectors of them.


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
    # All the memory that the members lie in, as one row: a point's next member is a step further.
    step = forecasts.strides[0] // dtype.itemsize if n_members > 1 else 0
    values = np.lib.stride_tricks.as_strided(forecasts, ((n_members - 1) * step + n_points,), (dtype.itemsize,))
    observations = np.ascontiguousarray(observations, dtype)
    members, n_lanes = (0,) * n_members, vector_bytes() // dtype.itemsize
    options = (members, n_lanes, dtype.type(floor), fair, skipna)
    sums = np.zeros(3)
    _sum_strips(observations, values, step, *options, distance, spread, sums)
    return sums


@compiled
def _sum_strips(observations, values, step, members, n_lanes, floor, fair, skipna, distance_of, spread_of, sums):
    """Strip by strip; one with NaN or inf is read again with care. There are as many members as in the tuple."""
    truth, terms = np.zeros(STRIP, values.dtype), np.zeros((3, STRIP), values.dtype)
    distance, spread, left = terms[0], terms[1], terms[2]
    rest = np.zeros(len(members) * STRIP, values.dtype)  # the members of the last strip, of which a part is there
    totals = np.zeros((3, STRIP))
    for begin in range(0, observations.size, STRIP):
        width = min(STRIP, observations.size - begin)
        n_observed = _read_truth(observations, begin, width, floor, truth)
        plain = not (fair and len(members) == 1)
        if n_observed:
            source, first, apart = values, begin, step
            if width < STRIP:
                _copy_members(values, step, begin, width, rest)
                source, first, apart = rest, 0, STRIP
            for lane in range(0, STRIP, n_lanes):
                plain &= _plain_terms(members, source, first + lane, apart, floor, truth, lane, terms)
            if not plain:
                for lane in range(0, STRIP, n_lanes):
                    _careful_terms(members, source, first + lane, apart, floor, truth, lane, terms)
        else:
            distance[:] = np.nan
        if plain:
            _finish(len(members), fair, distance, spread)
        else:
            _finish_with_care(len(members), fair, skipna, left, distance, spread)
        if plain and n_observed == STRIP:
            _add(distance, spread, totals)
        else:
            _add_with_care(distance, spread, width, skipna, totals)
        if distance_of.size:
            distance_of[begin : begin + width] = distance[:width]
            spread_of[begin : begin + width] = spread[:width]
    for k in range(3):
        sums[k] = totals[k].sum()


_plain_terms = emitted(crps_terms_of_vector(STRIP, careful=False))
_careful_terms = emitted(crps_terms_of_vector(STRIP, careful=True))

# One loop to a function: together in one, their arrays might overlap for all the compiler knows, and it is slower.


@compiled
def _read_truth(observations, begin, width, floor, truth):
    """The observations, raised to the floor, and NaN beyond the last; how many are not NaN."""
    part, n_observed = observations[begin : begin + width], 0
    truth[width:] = np.nan
    for lane in range(len(part)):  # over indices: numba makes no vectors of "for y in part"
        y = part[lane]
        truth[lane] = floor if y < floor else y
        n_observed += 1 if y == y else 0
    return n_observed


@compiled
def _copy_members(values, step, begin, width, rest):
    for m in range(len(rest) // STRIP):
        rest[m * STRIP : m * STRIP + width] = values[m * step + begin : m * step + begin + width]


@compiled
def _finish(n, fair, distance, spread):
    """Both terms of points with all members."""
    members, pairs = distance.dtype.type(n), distance.dtype.type(n * (n - 1 if fair else n))
    for lane in range(STRIP):
        distance[lane] /= members
        spread[lane] /= pairs


@compiled
def _finish_with_care(n_members, fair, skipna, left, distance, spread):
    """Both terms of the members that are left at each point, NaN where there is no score."""
    for lane in range(STRIP):
        n = left[lane]
        far = distance[lane] == np.inf
        none = n == 0 or (fair and (n == 1 or far)) or (n < n_members and not skipna)
        distance[lane] = np.nan if none else distance[lane] / n
        spread[lane] = np.nan if none else 0 if far else spread[lane] / (n * (n - 1 if fair else n))


@compiled
def _add(distance, spread, totals):
    totals[0, 0] += STRIP
    for lane in range(STRIP):
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
