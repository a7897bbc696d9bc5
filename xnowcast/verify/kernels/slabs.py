"""Cache-sized parts of arrays that share axes: what every kernel walks over."""

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


def slabs(shape: tuple[int, ...]) -> Iterator[Index]:
    """Indices of cache-sized parts: whole trailing axes (two at least), one step of each leading axis at a time."""
    n_leading = max(len(shape) - 2, 0)
    while n_leading and np.prod(shape[n_leading - 1 :]) <= SLAB_VALUES:
        n_leading -= 1
    for leading in np.ndindex(shape[:n_leading]):
        yield tuple(slice(i, i + 1) for i in leading) + (slice(None),) * (len(shape) - n_leading)


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
