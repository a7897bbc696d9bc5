"""Continuous ranked probability score of ensembles: sums and values at points."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from xnowcast.verify.kernels.slabs import broadcast_shape, slabs, summed_shape, within

# Points per tile of the CRPS: the members of a tile stay in the cache while they are sorted.
TILE_POINTS = 1 << 12
# Above this many members numpy's own sort needs fewer steps than the network's many calls.
NETWORK_MEMBERS = 128


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
    shape = summed_shape(broadcast_shape(observations, forecasts), [member_axis])
    kept = summed_shape(shape, axis)
    sums = np.zeros((*kept, 2))
    for index in slabs(shape):
        obs = observations[within(index, observations.shape)]
        of_members = (*index[:member_axis], slice(None), *index[member_axis + 1 :])
        fcst = forecasts[within(of_members, forecasts.shape)]
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
        target = sums[within(index, kept)]
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
