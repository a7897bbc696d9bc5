"""Pictures that are read from their files only when somebody looks at them."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import numpy as np
import xarray as xr
from xarray.core import indexing

Read = Callable[[np.ndarray], np.ndarray]


class Stack(xr.backends.BackendArray):
    """Blocks of pictures one after another along the leading dims, which are counted together in C order.

    ``blocks``: the length of each, and the function that makes float32 ``(places, *picture)`` of the numbers of some of
    its places.
    """

    def __init__(self, leading: tuple[int, ...], picture: tuple[int, ...], blocks: Sequence[tuple[int, Read]]):
        self.shape = (*leading, *picture)
        self.dtype = np.dtype(np.float32)
        self._leading = leading
        self._starts = np.concatenate([[0], np.cumsum([length for length, _ in blocks])])
        self._read = [read for _, read in blocks]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._get)

    def _get(self, key: tuple[Any, ...]) -> np.ndarray:
        """Values at a key that has a number, a slice or an array for each dim."""
        n = len(self._leading)
        wanted = [np.atleast_1d(np.arange(size)[k]) for k, size in zip(key[:n], self._leading, strict=True)]
        places = np.ravel_multi_index(np.ix_(*wanted), self._leading).ravel()
        inner = _outer(np.empty((1, *self.shape[n:]), bool), key[n:]).shape[1:]
        found = np.empty((len(places), *inner), np.float32)
        block = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(block):
            at = np.flatnonzero(block == number)
            found[at] = _outer(self._read[number](places[at] - self._starts[number]), key[n:])
        found = found.reshape(*(len(w) for w in wanted), *inner)
        return found[tuple(0 if np.ndim(k) == 0 and not isinstance(k, slice) else slice(None) for k in key[:n])]


def _outer(values: np.ndarray, key: Sequence[Any]) -> np.ndarray:
    """Index every dim but the first on its own, from the last on, so that a number does not shift the others."""
    for axis in range(len(key), 0, -1):
        values = values[(slice(None),) * axis + (key[axis - 1],)]
    return values


def lazy(dims: tuple[Hashable, ...], stack: Stack, chunks: Sequence[int]) -> xr.Variable:
    """A float32 variable of which nothing is read yet; ``chunks`` are the sizes by dim of what is best read at once.

    `in_chunks` and ``xr.open_dataset(..., chunks={})`` make Dask chunks of it.

    >>> rain = lazy(("time", "y"), Stack((4,), (2,), [(4, lambda places: np.stack([places, -places], 1))]), (1, 2))
    >>> rain[2].values
    array([ 2., -2.], dtype=float32)
    """
    # As xr.open_dataset wraps what it opens: read once, kept from then on, and free to be written into.
    data: Any = indexing.CopyOnWriteArray(cast(Any, indexing.LazilyIndexedArray(stack)))
    encoding = {"preferred_chunks": dict(zip(dims, chunks, strict=True))}
    return xr.Variable(dims, indexing.MemoryCachedArray(data), encoding=encoding)


def in_chunks(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset of a reader with Dask chunks of what is best read at once; decoded pictures get chunks of one time."""
    chunks: dict[Hashable, int] = {}
    for variable in dataset.data_vars.values():
        leading = variable.dims[:-2]
        chunks |= variable.encoding.get("preferred_chunks", dict.fromkeys(leading, 1))
    return dataset.chunk({dim: size for dim, size in chunks.items() if dim in dataset.dims})


def pictures(
    dims: tuple[Hashable, ...], shape: tuple[int, ...], read: Sequence[Callable[[], np.ndarray]]
) -> xr.Variable:
    """A float32 variable of pictures, each with a function that reads it, in C order of the leading dims.

    >>> rain = pictures(("time", "y", "x"), (2, 1, 3), [lambda: np.zeros((1, 3)), lambda: np.ones((1, 3))])
    >>> rain[1].values
    array([[1., 1., 1.]], dtype=float32)
    """
    stack = Stack(shape[:-2], shape[-2:], [(1, _Single(one)) for one in read])
    return lazy(dims, stack, (*(1 for _ in shape[:-2]), *shape[-2:]))


class _Single:
    """A block of one picture; a class and no lambda, so that it can be sent to other processes."""

    def __init__(self, read: Callable[[], np.ndarray]):
        self.read = read

    def __call__(self, places: np.ndarray) -> np.ndarray:
        return np.broadcast_to(picture := self.read(), (len(places), *picture.shape))
