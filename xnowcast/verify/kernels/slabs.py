"""Cache-sized parts of arrays that share axes: what every kernel walks over."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

# A slab of this many values stays in the cache of one core while all thresholds look at it.
SLAB_VALUES = 1 << 17

Index = tuple[slice, ...]


def broadcast_shape(observations: np.ndarray, forecasts: np.ndarray) -> tuple[int, ...]:
    if observations.ndim != forecasts.ndim:
        raise ValueError(
            f"observations have {observations.ndim} axes and forecasts {forecasts.ndim}; give both the same number, "
            "with length 1 where one is shared"
        )
    return np.broadcast_shapes(observations.shape, forecasts.shape)


def slabs(shape: tuple[int, ...], axis: Sequence[int] = (), *, whole: int = 0, alone: bool = False) -> Iterator[Index]:
    """Indices of cache-sized parts.

    ``axis``: axes that are summed over. They are cut last, so that what is summed up lies in one part. ``whole``: how
    many trailing axes are never cut. ``alone``: whether large parts have one step of leading axes that are kept, and so
    one sum.

    >>> [index[0] for index in slabs((4, 256, 256), [1, 2])]
    [slice(0, 2, None), slice(2, 4, None)]
    >>> [index[1] for index in slabs((16, 256, 64), [0])]
    [slice(0, 128, None), slice(128, 256, None)]
    """
    steps = list(shape)
    last = len(shape) - 1
    # Rows are cut at the very end: they are what lies side by side.
    for a in sorted(range(len(shape) - whole), key=lambda a: (a == last, a in axis, a)):
        size = math.prod(steps)
        if size <= SLAB_VALUES:
            break
        one_sum = alone and a < last - 1 and a not in axis
        steps[a] = 1 if one_sum else max(1, steps[a] * SLAB_VALUES // size)
    starts = [range(0, n, max(step, 1)) for n, step in zip(shape, steps, strict=True)]
    for start in itertools.product(*starts):
        yield tuple(slice(i, min(i + step, n)) for i, step, n in zip(start, steps, shape, strict=True))


def within(index: Index, shape: tuple[int, ...]) -> Index:
    """The same index for an array in which some axes have length 1."""
    return tuple(slice(None) if n == 1 else part for part, n in zip(index, shape, strict=True))


def summed_shape(shape: tuple[int, ...], axis: Sequence[int]) -> tuple[int, ...]:
    return tuple(1 if i in axis else n for i, n in enumerate(shape))


def as_floats(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def drop_pairs(obs: np.ndarray, fcst: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both fields with NaN where either has one; None where that changes nothing."""
    o_nan, f_nan = np.isnan(obs), np.isnan(fcst)
    either = o_nan | f_nan
    n_nan = np.count_nonzero(either)
    alike = o_nan.shape == f_nan.shape and np.count_nonzero(o_nan) == n_nan == np.count_nonzero(f_nan)
    if n_nan == 0 or alike:
        return None
    return np.where(either, obs.dtype.type(np.nan), obs), np.where(either, fcst.dtype.type(np.nan), fcst)
