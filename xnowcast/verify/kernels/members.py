"""Ensembles as the kernels walk over them: cache-sized parts, members first, points in one row."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xnowcast.verify.kernels.slabs import Index, broadcast_shape, slabs, summed_shape, within


class MemberSlab(NamedTuple):
    """A part of the fields, and where its sums go."""

    observations: np.ndarray
    """``(point,)``"""
    forecasts: np.ndarray
    """``(member, point)``"""
    shape: tuple[int, ...]
    """Axes that the points were, that of the members at length 1."""
    target: Index
    """Index of the sums of these points."""


def member_slabs(
    observations: np.ndarray, forecasts: np.ndarray, *, member_axis: int, axis: Sequence[int]
) -> Iterator[MemberSlab]:
    """Parts of an ensemble with all members of each point, as views where the layout allows.

    >>> f = np.arange(12.0).reshape(2, 3, 2)
    >>> slab = next(member_slabs(f[:1], f, member_axis=0, axis=[1, 2]))
    >>> slab.observations.shape, slab.forecasts.shape, slab.shape
    ((6,), (2, 6), (1, 3, 2))
    """
    shape = summed_shape(broadcast_shape(observations, forecasts), [member_axis])
    kept = summed_shape(shape, axis)
    for index in slabs(shape, axis, alone=True):
        obs = observations[within(index, observations.shape)]
        of_members = (*index[:member_axis], slice(None), *index[member_axis + 1 :])
        fcst = np.moveaxis(forecasts[within(of_members, forecasts.shape)], member_axis, 0)
        obs = np.squeeze(obs, member_axis)
        points = np.broadcast_shapes(obs.shape, fcst.shape[1:])
        yield MemberSlab(
            np.broadcast_to(obs, points).reshape(-1),
            np.broadcast_to(fcst, (len(fcst), *points)).reshape(len(fcst), -1),
            (*points[:member_axis], 1, *points[member_axis:]),
            within(index, kept),
        )


def tiles(n_points: int, tile_points: int) -> Iterator[slice]:
    """Slices of at most ``tile_points`` points, all of them in turn."""
    for start in range(0, n_points, tile_points):
        yield slice(start, min(start + tile_points, n_points))


def float_dtype(*arrays: np.ndarray) -> np.dtype:
    """float32 or float64, in which the arrays can be compared."""
    dtype = np.result_type(*(array.dtype for array in arrays))
    if dtype in (np.float32, np.float64):
        return np.dtype(dtype)
    return np.dtype(np.float32 if dtype == np.float16 else np.float64)


def sum_to(target: np.ndarray, values: np.ndarray, slab: MemberSlab, axis: Sequence[int]) -> None:
    """Add values at the points of a slab to its sums, in the dtype of the sums."""
    part = target[slab.target]
    if values.dtype == bool and part.size == 1:
        part += np.count_nonzero(values)  # many times faster than a sum of booleans
    else:
        part += values.reshape(slab.shape).sum(axis=tuple(axis), keepdims=True, dtype=target.dtype)


def cells_of(slab: MemberSlab, target_shape: tuple[int, ...]) -> np.ndarray | None:
    """Number of the sum that each point of a slab belongs to; None where there is but one."""
    n_cells = int(np.prod(target_shape))
    if n_cells == 1:
        return None
    return np.broadcast_to(np.arange(n_cells).reshape(target_shape), slab.shape).reshape(-1)
