"""Sums of errors, of their absolute values and squares, plain and weighted, and of products for correlations."""

from collections.abc import Sequence

import numpy as np

from xnowcast.verify.kernels.slabs import as_floats, broadcast_shape, slabs, summed_shape, within


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


def correlation_sums(
    observations: np.ndarray, forecasts: np.ndarray, *, axis: Sequence[int], skipna: bool = True
) -> np.ndarray:
    """Number of pairs, sums of both values, of their squares and of their product.

    Parameters
    ----------
    observations, forecasts : numpy.ndarray
        Same number of axes, length 1 where shared; multiplied in float64.
    axis : sequence of int
        Non-negative axes that are summed over.
    skipna : bool
        True: pairs with a NaN are dropped. False: they make the sums NaN.

    Returns
    -------
    numpy.ndarray
        float64, shape ``(*shape with 1 at axis, 6)``: n, o, f, o o, f f, o f.

    Examples
    --------
    >>> correlation_sums(np.array([1.0, 2, np.nan]), np.array([3.0, 0, 5]), axis=[0])[0].tolist()
    [2.0, 3.0, 3.0, 5.0, 9.0, 3.0]
    """
    shape = broadcast_shape(observations, forecasts)
    kept = summed_shape(shape, axis)
    sums = np.zeros((*kept, 6))
    for index in slabs(shape):
        obs = observations[within(index, observations.shape)].astype(np.float64)
        fcst = forecasts[within(index, forecasts.shape)].astype(np.float64)
        obs, fcst = np.broadcast_arrays(obs, fcst)
        missing = np.isnan(obs) | np.isnan(fcst)
        if skipna and missing.any():
            obs, fcst = np.where(missing, 0.0, obs), np.where(missing, 0.0, fcst)
        target = sums[within(index, kept)]
        target[..., 0] += np.sum(~missing, axis=tuple(axis), keepdims=True)
        for i, part in enumerate((obs, fcst, obs * obs, fcst * fcst, obs * fcst), start=1):
            target[..., i] += part.sum(axis=tuple(axis), keepdims=True)
    return sums


def balanced_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    axis: Sequence[int],
    bounds: Sequence[float],
    weights: Sequence[float],
    skipna: bool = True,
) -> np.ndarray:
    """Sums of absolute and squared errors that weigh more where more was observed.

    Parameters
    ----------
    observations, forecasts : numpy.ndarray
        Same number of axes, length 1 where shared; y and x last.
    axis : sequence of int
        Non-negative axes that are summed over, the last two among them.
    bounds : sequence of float
        Rising; an observation has reached one if ``value >= bound``, the bound cast to its dtype.
    weights : sequence of float
        Of an observation below all bounds, and from each bound up: one more than ``bounds``.
    skipna : bool
        True: pairs with a NaN are dropped. False: they make the sums NaN.

    Returns
    -------
    numpy.ndarray
        float64, shape ``(*shape with 1 at axis, 5)``: number of fields with a pair, number of pairs, sum of weights,
        weighted absolute and weighted squared errors.

    Examples
    --------
    >>> o, f = np.array([[1.0, 3.0]]), np.array([[2.0, 6.0]])
    >>> balanced_sums(o, f, axis=[0, 1], bounds=[2], weights=[1, 10]).tolist()
    [[[1.0, 2.0, 11.0, 31.0, 91.0]]]
    """
    observations = as_floats(observations)
    shape = broadcast_shape(observations, forecasts)
    kept = summed_shape(shape, axis)
    sums = np.zeros((*kept, 5))
    of_class = np.asarray(weights, dtype=np.float64)
    for leading in np.ndindex(shape[:-2]):
        index = (*(slice(i, i + 1) for i in leading), slice(None), slice(None))
        obs = observations[within(index, observations.shape)]
        error = np.subtract(forecasts[within(index, forecasts.shape)], obs, dtype=np.float64)
        reached = np.zeros(obs.shape, np.uint8)
        for bound in bounds:
            reached += obs >= obs.dtype.type(bound)
        weight = np.broadcast_to(of_class[reached], error.shape)
        missing = np.isnan(error)
        n = error.size - np.count_nonzero(missing)
        if skipna and n < error.size:
            error, weight = error[~missing], weight[~missing]
        balanced = (np.sum(weight * np.abs(error)), np.sum(weight * error * error))
        sums[within(index, kept)].reshape(5)[:] += (n > 0, n, weight.sum(), *balanced)
    return sums
