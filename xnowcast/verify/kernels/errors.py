"""Sums of errors, absolute errors and squared errors."""

from collections.abc import Sequence

import numpy as np

from xnowcast.verify.kernels.slabs import broadcast_shape, slabs, summed_shape, within


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
    shape = broadcast_shape(observations, forecasts)
    kept = summed_shape(shape, axis)
    sums = np.zeros((*kept, 4))
    for index in slabs(shape):
        obs = observations[within(index, observations.shape)]
        error = np.subtract(forecasts[within(index, forecasts.shape)], obs, dtype=np.float64)
        missing = np.isnan(error)
        target = sums[within(index, kept)]
        if skipna:
            error[missing] = 0.0
        target[..., 0] += np.sum(~missing, axis=tuple(axis), keepdims=True)
        target[..., 1] += error.sum(axis=tuple(axis), keepdims=True)
        target[..., 2] += np.abs(error).sum(axis=tuple(axis), keepdims=True)
        target[..., 3] += np.square(error, out=error).sum(axis=tuple(axis), keepdims=True)
    return sums
