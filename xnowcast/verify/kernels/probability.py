"""Counts of observed events by the number of members that have it: what scores of probabilities are made of."""

from collections.abc import Sequence

import numpy as np

from xnowcast.verify.kernels.members import cells_of, member_slabs, tiles
from xnowcast.verify.kernels.slabs import as_floats, broadcast_shape, summed_shape

# Points per tile: the members of a tile stay in the cache for all thresholds.
TILE_POINTS = 1 << 13


def probability_counts(
    observations: np.ndarray,
    forecasts: np.ndarray,
    thresholds: Sequence[float],
    *,
    member_axis: int,
    axis: Sequence[int],
) -> np.ndarray:
    """Number of points without and with the observed event, by the number of members with it.

    Points where the observation or a member is NaN are left out. ``thresholds``: an event is ``value >= threshold``;
    each threshold is cast to the dtype of the field it is compared with. Returned: int64, shape ``(*shape with 1 at
    axis and member_axis, threshold, members + 1, 2)``.

    >>> o, f = np.array([[0.0, 2.0, 2.0]]), np.array([[0.0, 3.0, 1.0], [2.0, 2.0, 3.0]])
    >>> probability_counts(o, f, [2.0], member_axis=0, axis=[1])[0, 0, 0].tolist()
    [[0, 0], [1, 1], [0, 1]]
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    n_counts = forecasts.shape[member_axis] + 1
    shape = summed_shape(broadcast_shape(observations, forecasts), [member_axis])
    counts = np.zeros((*summed_shape(shape, axis), len(thresholds), n_counts, 2), dtype=np.int64)
    for slab in member_slabs(observations, forecasts, member_axis=member_axis, axis=axis):
        target = counts[slab.target]
        n_codes = target[..., 0, :, :].size
        cells = cells_of(slab, target.shape[:-3])
        for t, code in enumerate(_codes(slab.observations, slab.forecasts, thresholds)):
            if cells is not None:
                code = np.where(code < 2 * n_counts, code + cells * (2 * n_counts), n_codes)
            # Missing points have a code of their own, the last.
            table = np.bincount(code, minlength=n_codes + 1)[:n_codes]
            target[..., t, :, :] += table.reshape(*target.shape[:-3], n_counts, 2)
    return counts


def _codes(observations: np.ndarray, forecasts: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Twice the number of members with the event, plus 1 where it was observed, ``(threshold, point)``."""
    n_members, n_points = forecasts.shape
    count = np.uint8 if n_members < 127 else np.uint32  # 2 * n_members + 2 has to fit
    codes = np.empty((len(thresholds), n_points), count)
    for tile in tiles(n_points, TILE_POINTS):
        obs, fcst = observations[tile], forecasts[:, tile]
        missing = np.isnan(np.maximum.reduce(fcst, axis=0)) | np.isnan(obs)
        for t, threshold in enumerate(thresholds):
            code = codes[t, tile]
            reached = fcst >= fcst.dtype.type(threshold)
            np.add.reduce(reached.view(np.uint8), axis=0, dtype=count, out=code)  # bytes add up side by side
            code += code
            code += obs >= obs.dtype.type(threshold)
            code[missing] = 2 * n_members + 2
    return codes
