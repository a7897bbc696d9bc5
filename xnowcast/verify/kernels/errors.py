"""Sums of errors, of their absolute values and squares, plain and weighted, and of products for correlations."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from xnowcast.verify.kernels.slabs import as_floats, broadcast_shape, slabs, summed_shape, within


def error_sums(
    observations: np.ndarray, forecasts: np.ndarray, *, axis: Sequence[int], skipna: bool = True
) -> np.ndarray:
    """Number of pairs and sums of the error, its absolute value and its square.

    The error is forecast minus observation, in float64. Returned: float64, shape ``(*shape with 1 at axis, 4)``.

    >>> error_sums(np.array([1.0, 2, np.nan]), np.array([2.0, 0, 5]), axis=[0])[0].tolist()
    [2.0, -1.0, 3.0, 5.0]
    """
    shape = broadcast_shape(observations, forecasts)
    kept = summed_shape(shape, axis)
    sums = np.zeros((4, *kept))
    for index in slabs(shape, axis):
        obs = observations[within(index, observations.shape)]
        error = np.subtract(forecasts[within(index, forecasts.shape)], obs, dtype=np.float64)
        target = sums[(slice(None), *within(index, kept))]
        total = _sum(error, axis)
        n: Any = math.prod(error.shape[a] for a in axis)
        if np.isnan(total).any():
            missing = np.isnan(error)
            n = n - _sum(missing, axis)
            if skipna:
                np.copyto(error, 0.0, where=missing)
                total = _sum(error, axis)
        target[0] += n
        target[1] += total
        target[2] += _sum(np.abs(error, out=error), axis)
        target[3] += _sum(np.square(error, out=error), axis)
    return np.moveaxis(sums, 0, -1)


def _sum(values: np.ndarray, axis: Sequence[int]) -> np.ndarray:
    if len(axis) == values.ndim:  # of a single row, which is cheaper than of several axes
        whole = np.count_nonzero(values) if values.dtype == bool else values.ravel(order="K").sum()
        return np.asarray(whole).reshape((1,) * values.ndim)
    return values.sum(axis=tuple(axis), keepdims=True)


def correlation_sums(
    observations: np.ndarray, forecasts: np.ndarray, *, axis: Sequence[int], skipna: bool = True
) -> np.ndarray:
    """Number of pairs, sums of both values, of their squares and of their product.

    Multiplied in float64. Returned: float64, shape ``(*shape with 1 at axis, 6)``: n, o, f, o o, f f, o f.

    >>> correlation_sums(np.array([1.0, 2, np.nan]), np.array([3.0, 0, 5]), axis=[0])[0].tolist()
    [2.0, 3.0, 3.0, 5.0, 9.0, 3.0]
    """
    shape = broadcast_shape(observations, forecasts)
    kept = summed_shape(shape, axis)
    sums = np.zeros((6, *kept))
    for index in slabs(shape, axis):
        obs = observations[within(index, observations.shape)].astype(np.float64)
        fcst = forecasts[within(index, forecasts.shape)].astype(np.float64)
        obs, fcst = np.broadcast_arrays(obs, fcst)
        missing = np.isnan(obs) | np.isnan(fcst)
        if skipna and missing.any():
            obs, fcst = np.where(missing, 0.0, obs), np.where(missing, 0.0, fcst)
        target = sums[(slice(None), *within(index, kept))]
        target[0] += math.prod(missing.shape[a] for a in axis) - _sum(missing, axis)
        for i, part in enumerate((obs, fcst, obs * obs, fcst * fcst, obs * fcst), start=1):
            target[i] += _sum(part, axis)
    return np.moveaxis(sums, 0, -1)


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

    ``bounds``: rising; an observation has reached one if ``value >= bound``, the bound cast to its dtype. ``weights``:
    of an observation below all bounds, and from each bound up. Returned: float64, shape ``(*shape with 1 at axis, 5)``:
    number of fields with a pair, number of pairs, sum of weights, weighted absolute and weighted squared errors.

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
        field = np.zeros(4)
        for rows in slabs(shape[-2:], (0, 1)):
            index = (*(slice(i, i + 1) for i in leading), *rows)
            obs = observations[within(index, observations.shape)]
            field += _balanced(obs, forecasts[within(index, forecasts.shape)], bounds, of_class, skipna)
        index = (*(slice(i, i + 1) for i in leading), slice(None), slice(None))
        sums[within(index, kept)].reshape(5)[:] += (field[0] > 0, *field)
    return sums


def _balanced(
    obs: np.ndarray, fcst: np.ndarray, bounds: Sequence[float], of_class: np.ndarray, skipna: bool
) -> tuple[float, ...]:
    """Number of pairs, and sums of weights and of both errors times these."""
    error = np.subtract(fcst, obs, dtype=np.float64)
    reached = np.zeros(obs.shape, np.uint8)
    for bound in bounds:
        reached += obs >= obs.dtype.type(bound)
    weight = np.broadcast_to(of_class[reached], error.shape)
    missing = np.isnan(error)
    n = error.size - np.count_nonzero(missing)
    if skipna and n < error.size:
        error, weight = error[~missing], weight[~missing]
    return n, weight.sum(), np.sum(weight * np.abs(error)), np.sum(weight * error * error)
