"""Spread of ensembles beside the error of their mean."""

from collections.abc import Sequence

import numpy as np

from xnowcast.verify.kernels.members import float_dtype, member_slabs, sum_to, tiles
from xnowcast.verify.kernels.slabs import broadcast_shape, summed_shape

TILE_POINTS = 1 << 12


def spread_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    member_axis: int,
    axis: Sequence[int],
    edges: Sequence[float] = (),
    skipna: bool = True,
) -> np.ndarray:
    """Number of points, and sums of ensemble variance and squared error of the ensemble mean.

    ``edges``: rising standard deviations between classes of spread, one class more than edges. ``skipna``: True: NaN
    members are left out, and points with less than two. False: one NaN makes the sums NaN. Returned: float64, shape
    ``(*shape with 1 at axis and member_axis, class, 4)``: number of points, and sums of the variance (of a sample: by n
    - 1), of ``(n + 1) / n`` times it, and of the squared error.

    >>> spread_sums(np.array([[1.0]]), np.array([[1.0], [3.0]]), member_axis=0, axis=[1]).tolist()
    [[[[1.0, 2.0, 3.0, 1.0]]]]
    """
    dtype = float_dtype(observations, forecasts)
    shape = summed_shape(broadcast_shape(observations, forecasts), [member_axis])
    sums = np.zeros((*summed_shape(shape, axis), len(edges) + 1, 4))
    for slab in member_slabs(observations, forecasts, member_axis=member_axis, axis=axis):
        terms = np.empty((4, slab.observations.size), dtype)
        for tile in tiles(slab.observations.size, TILE_POINTS):
            difference = np.subtract(slab.forecasts[:, tile], slab.observations[tile], dtype=dtype)
            terms[:, tile] = _terms(difference, skipna)
        spread_class = np.searchsorted(edges, np.sqrt(terms[1]), side="right") if len(edges) else None
        missing = np.isnan(terms[1])
        if skipna:
            terms[:, missing] = 0
        for c in range(len(edges) + 1):
            # A missing point has no class: without skipna it makes all of them NaN.
            here = None if spread_class is None else (spread_class == c) | missing
            for i, values in enumerate(terms):
                sum_to(sums[..., c, i], values if here is None else np.where(here, values, 0), slab, axis)
    return sums


def _terms(difference: np.ndarray, skipna: bool) -> np.ndarray:
    """1, variance, variance (n + 1) / n and squared error, of members less observation, ``(member, point)``."""
    n = len(difference)
    error = difference.mean(axis=0)
    # Differences of infinite values have no variance; neither have those of one member.
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = _four(n, error, np.square(difference - error).sum(axis=0))
        missing = np.isnan(error)
        if skipna and missing.any():
            # Off a radar's disc all members are missing together; what some have left is done apart.
            partly = np.flatnonzero(missing & ~np.isnan(difference).all(axis=0))
            left = difference[:, partly]
            present = ~np.isnan(left)
            n_left = np.count_nonzero(present, axis=0).astype(error.dtype)
            error = np.where(present, left, 0).sum(axis=0) / n_left
            terms[:, partly] = _four(n_left, error, np.square(np.where(present, left - error, 0)).sum(axis=0))
    return terms


def _four(n: int | np.ndarray, error: np.ndarray, squares: np.ndarray) -> np.ndarray:
    variance = squares / np.asarray(n - 1, squares.dtype)
    terms = np.stack([np.ones_like(variance), variance, variance * ((n + 1) / n), np.square(error)])
    terms[:, np.isnan(variance)] = np.nan
    return terms
