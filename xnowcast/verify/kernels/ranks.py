"""Ranks of observations among the members of ensembles: their histograms, and ranks at points."""

from collections.abc import Sequence

import numpy as np

from xnowcast.verify.kernels.members import cells_of, float_dtype, member_slabs, sum_to, tiles
from xnowcast.verify.kernels.slabs import broadcast_shape, summed_shape

# Points per tile: the members of a tile stay in the cache while they are compared.
TILE_POINTS = 1 << 13


def rank_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    member_axis: int,
    axis: Sequence[int],
    min_value: float = -np.inf,
    ties_apart: bool = False,
    skipna: bool = True,
) -> np.ndarray:
    """Histogram of the rank of the observation among the members, or its table by ties.

    ``min_value``: points where the observation and all members are below are left out. ``ties_apart``: False: a point
    with t members equal to the observation adds 1 / (t + 1) to each of t + 1 ranks, which is what is expected when ties
    are broken at random. True: points are counted by the lowest and the highest rank that they can have. ``skipna``:
    True: points where the observation or a member is NaN are left out. False: they make the sums NaN. Returned:
    float64, shape ``(*shape with 1 at axis and member_axis, rank)``, with ranks from 0 to the number of members;
    ``(..., rank * rank)`` with ``ties_apart``, lowest times number of ranks plus highest.

    >>> f = np.array([[0.0, 1.0], [0.0, 3.0]])
    >>> rank_sums(np.array([[0.0, 2.0]]), f, member_axis=0, axis=[1]).round(3).tolist()
    [[[0.333, 1.333, 0.333]]]
    """
    n_ranks = forecasts.shape[member_axis] + 1
    shape = summed_shape(broadcast_shape(observations, forecasts), [member_axis])
    kept = summed_shape(shape, axis)
    sums = np.zeros((*kept, n_ranks**2 if ties_apart else n_ranks))
    spread_out = None if ties_apart else _expected_ranks(n_ranks)
    for slab in member_slabs(observations, forecasts, member_axis=member_axis, axis=axis):
        target = sums[slab.target]
        lowest, highest, missing, dry = _ranks(slab.observations, slab.forecasts, min_value)
        left_out = missing | dry
        cells = cells_of(slab, target.shape[:-1])
        if spread_out is not None and cells is not None:
            _add_by_rank(sums, lowest, highest, left_out, slab, axis)
        else:
            code = lowest.astype(np.intp) * n_ranks + highest
            if cells is not None:
                code += cells * n_ranks**2
            # What is left out gets a code of its own, the last, which is cheaper than taking it out.
            n_codes = target[..., 0].size * n_ranks**2
            code[left_out] = n_codes
            table = np.bincount(code, minlength=n_codes + 1)[:-1].reshape(*target.shape[:-1], n_ranks**2)
            target += table if spread_out is None else table @ spread_out
        if not skipna and missing.any():
            without = np.where(missing, np.nan, 0.0)
            for rank in range(sums.shape[-1]):
                sum_to(sums[..., rank], without, slab, axis)
    return sums


def _add_by_rank(sums, lowest, highest, left_out, slab, axis) -> None:
    """Rank by rank: with many sums a table of each would be larger than the data."""
    weight = np.where(left_out, 0.0, 1.0 / (highest.astype(np.float64) - lowest + 1.0))
    for rank in range(sums.shape[-1]):
        sum_to(sums[..., rank], np.where((lowest <= rank) & (rank <= highest), weight, 0.0), slab, axis)


def _expected_ranks(n_ranks: int) -> np.ndarray:
    """What one point with each lowest and highest rank adds to each rank, ``(rank * rank, rank)``."""
    lowest, highest, rank = np.ogrid[:n_ranks, :n_ranks, :n_ranks]
    possible = (lowest <= rank) & (rank <= highest)
    return (possible / np.maximum(highest - lowest + 1, 1)).reshape(n_ranks**2, n_ranks)


def _ranks(
    observations: np.ndarray, forecasts: np.ndarray, min_value: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Number of members below and not above the observation at each point, and where it is missing or dry."""
    dtype = float_dtype(observations, forecasts)
    least = dtype.type(min_value)
    n_points = observations.size
    count = np.uint8 if len(forecasts) < 256 else np.uint32
    below, not_above = np.empty(n_points, count), np.empty(n_points, count)
    missing, dry = np.empty(n_points, bool), np.zeros(n_points, bool)
    for tile in tiles(n_points, TILE_POINTS):
        obs, fcst = observations[tile].astype(dtype, copy=False), forecasts[:, tile].astype(dtype, copy=False)
        # Bytes add up side by side in vector registers; the largest member is NaN where any is.
        np.add.reduce((fcst < obs).view(np.uint8), axis=0, dtype=count, out=below[tile])
        np.add.reduce((fcst <= obs).view(np.uint8), axis=0, dtype=count, out=not_above[tile])
        largest = np.maximum(np.maximum.reduce(fcst, axis=0), obs)
        missing[tile] = np.isnan(largest)
        if least > -np.inf:
            dry[tile] = largest < least
    return below, not_above, missing, dry


def rank_points(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    member_axis: int,
    axis: Sequence[int] = (),
    min_value: float = -np.inf,
) -> np.ndarray:
    """Lowest and highest rank that the observation can have among the members at each point, from 0.

    ``observations, forecasts, member_axis, min_value``: as in `rank_sums`. ``axis``: empty: nothing is summed.
    Returned: float64, shape ``(*shape with 1 at member_axis, 2)``, NaN where a point is missing or left out.

    >>> rank_points(np.array([[0.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 3.0]]), member_axis=0)[0].tolist()
    [[0.0, 2.0], [1.0, 1.0]]
    """
    shape = summed_shape(broadcast_shape(observations, forecasts), [member_axis])
    ranks = np.empty((*shape, 2))
    for slab in member_slabs(observations, forecasts, member_axis=member_axis, axis=axis):
        lowest, highest, missing, dry = _ranks(slab.observations, slab.forecasts, min_value)
        for i, values in enumerate((lowest, highest)):
            ranks[slab.target][..., i] = np.where(missing | dry, np.nan, values).reshape(slab.shape)
    return ranks
