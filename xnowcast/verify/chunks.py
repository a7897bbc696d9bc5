"""A kernel on every chunk, and the sum of what comes out: the only file of the scores that knows Dask."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import EllipsisType
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.fields import windows
from xnowcast.verify.align import check_same_coordinates, check_weights, find_spatial_dims
from xnowcast.verify.kernels.compiled import one_of
from xnowcast.verify.sums import ensemble_mean

# Sums of so many chunks along a dim are added up by one task.
CHUNKS_TOGETHER = 4

# Sums that are kept at once, of parts with different weights.
SUMS_AT_ONCE = 1 << 22

# Values of an array that lies otherwise in memory than a kernel reads it, which are brought together at once.
BLOCK_VALUES = 1 << 18

Dims = str | Iterable[Hashable] | EllipsisType | None


def reduced_dims(
    dim: Dims, observations: xr.DataArray, forecasts: xr.DataArray, *, never: Iterable[Hashable] = ()
) -> list:
    """The dims that ``dim`` means: those named, or all of both arrays, less ``never``.

    ``never``: dims that are dealt with elsewhere, such as the members of an ensemble. ValueError if a dim is in neither
    array.

    >>> a = xr.DataArray(np.zeros((2, 3)), dims=("time", "x"))
    >>> reduced_dims(None, a, a), reduced_dims("x", a, a), reduced_dims([], a, a)
    (['time', 'x'], ['x'], [])
    """
    present = list(dict.fromkeys([*forecasts.dims, *observations.dims]))
    named = present if dim is None or dim is ... else [dim] if isinstance(dim, str) else list(dim)
    unknown = [d for d in named if d not in present]
    if unknown:
        raise ValueError(
            f"dim {unknown[0]!r} is in neither array; observations have {observations.dims}, forecasts {forecasts.dims}"
        )
    return [d for d in dict.fromkeys(named) if d not in set(never)]


def sum_over_chunks(
    kernel: Callable[..., np.ndarray],
    observations: xr.DataArray,
    forecasts: xr.DataArray,
    *,
    reduce: Iterable[Hashable],
    new_sizes: Mapping[str, int],
    dtype: np.dtype | type,
    whole: Iterable[Hashable] = (),
    last: Iterable[Hashable] = (),
    member_dim: Hashable | None = None,
    cell_weights: xr.DataArray | None = None,
    **options: Any,
) -> xr.DataArray:
    """Sums over dims that a kernel of `xnowcast.verify.kernels` takes within each chunk, added up over the chunks.

    ``kernel``: ``kernel(observations, forecasts, *, axis, **options)`` on numpy arrays. ``observations, forecasts``:
    with equal coordinates on the dims that they share; each may have dims that the other has not. ``reduce``: dims to
    sum over. ``new_sizes``: dims that the kernel appends, and their sizes. ``dtype``: of the sums. ``whole``: dims that
    the kernel needs in one piece; they are rechunked so. ``last``: dims that the kernel needs as its last axes.
    ``member_dim``: dim of the forecasts that the kernel removes (it gets ``member_axis``); needs to be in ``whole``.
    ``cell_weights``: of the sums, along some of the dims of the fields: the kernel is asked for the sums of all parts
    that have one weight, which are multiplied by it and added up. So every kernel drops what is NaN with its weight.
    ``**options``: handed to the kernel. Returned: the kept dims, in the order of the forecasts, then the new ones; lazy
    where an input is. One task per chunk; observations are never copied for the members that share them. ValueError if
    coordinates differ, or weights do not fit.

    >>> from xnowcast.verify.kernels import error_sums
    >>> o = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("time", "x"))
    >>> sums = sum_over_chunks(error_sums, o, o + 1, reduce=["x"], new_sizes={"statistic": 4}, dtype=float)
    >>> sums.dims, sums.values.tolist()
    (('time', 'statistic'), [[2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]])
    """
    observations, forecasts = windows.with_real_times(observations), windows.with_real_times(forecasts)
    check_same_coordinates(observations, forecasts)
    taken = [d for d in (*observations.dims, *forecasts.dims) if d in new_sizes]
    if taken:
        raise ValueError(f"dim {taken[0]!r} is one that the score makes itself; rename it first")
    if not observations.dims and not forecasts.dims:  # kernels have an axis to sum over
        observations, forecasts, reduce = observations.expand_dims("point"), forecasts.expand_dims("point"), ["point"]
    dims = _kernel_order(observations, forecasts, list(last))
    reduce = [d for d in dims if d in set(reduce)]
    on_block: Any = _OnBlock(
        kernel,
        tuple(observations.dims),
        tuple(forecasts.dims),
        tuple(dims),
        {
            **options,
            "axis": tuple(dims.index(d) for d in reduce),
            **({} if member_dim is None else {"member_axis": dims.index(member_dim)}),
        },
        tuple(dims.index(d) for d in dims if d in {*whole, *last}),
        max(BLOCK_VALUES, math.prod(new_sizes.values())),
    )
    arrays = [observations, forecasts]
    if cell_weights is not None:
        never = [*last, *([] if member_dim is None else [member_dim])]
        check_weights(cell_weights, observations, forecasts, never=never)
        on_block, dtype = _Weighted(on_block, tuple(cell_weights.dims), math.prod(new_sizes.values())), np.float64
        arrays.append(cell_weights)
    gone = [*reduce, *([] if member_dim is None else [member_dim])]
    gone_axes = tuple(dims.index(d) for d in gone)
    if all(isinstance(array.data, np.ndarray) for array in arrays):
        data = on_block(*(array.values for array in arrays)).squeeze(gone_axes)
    else:
        # Variables, not DataArrays: chunks of coordinates, such as 2-D latitudes, do not matter here.
        chunked = _like_chunks([array.variable for array in arrays], list(whole))
        of_dims = {d: len(n) for v in chunked for d, n in v.chunksizes.items()}
        on_block.n_blocks = math.prod(of_dims.values())
        data = _added_up(_sums_per_chunk(on_block, chunked, dims, gone, new_sizes, dtype), gone_axes)
    kept = [d for d in dims if d not in gone]
    result = xr.DataArray(data, dims=[*kept, *new_sizes], coords=_kept_coords(observations, forecasts, kept))
    in_order = [d for d in (*forecasts.dims, *observations.dims) if d in kept]
    return result.transpose(*dict.fromkeys(in_order), *new_sizes)


def sums_of_fields(
    kernel: Callable[..., np.ndarray],
    observations: xr.DataArray,
    forecasts: xr.DataArray,
    *,
    dim: Dims,
    member_dim: Hashable | None,
    spatial_dims: tuple[Hashable, Hashable] | None,
    skipna: bool,
    **options: Any,
) -> xr.DataArray:
    """`sum_over_chunks` of a kernel that needs whole fields, of which ``dim`` and the horizontal dims are summed over.

    ``member_dim``: when given, the mean over it is taken first.
    """
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    places = find_spatial_dims(forecasts, spatial_dims)
    find_spatial_dims(observations, places)
    reduce = [*reduced_dims(dim, observations, forecasts), *places]
    options |= {"reduce": reduce, "whole": places, "last": places, "dtype": np.float64, "skipna": skipna}
    return sum_over_chunks(kernel, observations, forecasts, **options)


def total_weight(
    weights: xr.DataArray | None, sizes: Mapping[Hashable, int], reduce: Iterable[Hashable]
) -> xr.DataArray:
    """What the weights of all points add up to over some dims, if nothing is missing.

    ``sizes``: of the fields.

    >>> int(total_weight(None, {"time": 2, "x": 3}, ["x"]))
    3
    """
    along = set() if weights is None else set(weights.dims)
    n = math.prod(sizes[d] for d in reduce if d not in along)
    return (
        xr.DataArray(n)
        if weights is None
        else weights.reset_coords(drop=True).sum([d for d in reduce if d in along]) * n
    )


def is_total(found: xr.DataArray, total: xr.DataArray) -> xr.DataArray:
    """Where sums of weights are all that there is, but for rounding.

    >>> bool(is_total(xr.DataArray(0.1 + 0.2), xr.DataArray(0.3)))
    True
    """
    return abs(found - total) <= 1e-12 * total


class _OnBlock:
    """The kernel with both blocks brought to the same axes; a class so that it can be pickled and has a name."""

    n_blocks = 1

    def __init__(
        self,
        kernel: Callable,
        obs_dims: tuple,
        fcst_dims: tuple,
        dims: tuple,
        options: dict[str, Any],
        whole_axes: tuple[int, ...],
        block_values: int,
    ):
        self.kernel, self.obs_dims, self.fcst_dims, self.dims, self.options = kernel, obs_dims, fcst_dims, dims, options
        self.whole_axes, self.block_values = whole_axes, block_values
        self.__name__ = kernel.__name__

    def __dask_tokenize__(self) -> tuple:
        return (self.kernel, self.obs_dims, self.fcst_dims, self.dims, sorted(self.options.items()))

    def __call__(self, observations: np.ndarray, forecasts: np.ndarray) -> np.ndarray:
        with one_of(self.n_blocks):
            return self.sums(
                _with_dims(observations, self.obs_dims, self.dims),
                _with_dims(forecasts, self.fcst_dims, self.dims),
                self.options["axis"],
            )

    def sums(self, observations: np.ndarray, forecasts: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
        """Sums over some axes; what does not lie in memory as it is read is brought together block by block."""
        scattered = [a for a in (observations, forecasts) if a.size > self.block_values // 2 and _is_scattered(a)]
        if not scattered:
            return self.kernel(observations, forecasts, **(self.options | {"axis": axis}))
        largest = max(scattered, key=lambda array: array.size)
        along = [a for a in range(largest.ndim) if largest.shape[a] > 1 and a not in self.whole_axes]
        if largest.size <= self.block_values or not along:
            return self.sums(np.ascontiguousarray(observations), np.ascontiguousarray(forecasts), axis)
        cut = max(along, key=lambda a: abs(largest.strides[a]))
        half = largest.shape[cut] // 2
        parts = [
            self.sums(_cut(observations, cut, where), _cut(forecasts, cut, where), axis)
            for where in (slice(None, half), slice(half, None))
        ]
        return parts[0] + parts[1] if cut in axis else np.concatenate(parts, cut)


def _is_scattered(array: np.ndarray) -> bool:
    """Whether neighbours along the last axis do not lie side by side in memory."""
    last = next((a for a in reversed(range(array.ndim)) if array.shape[a] > 1), None)
    return last is not None and array.strides[last] != array.itemsize


class _Weighted:
    """The sums of a kernel, each part of them times its weight."""

    n_blocks = 1

    def __init__(self, on_block: _OnBlock, weight_dims: tuple, n_sums: int):
        self.on_block, self.weight_dims, self.n_sums = on_block, weight_dims, n_sums
        self.__name__ = f"weighted-{on_block.__name__}"

    def __dask_tokenize__(self) -> tuple:
        return (self.on_block.__dask_tokenize__(), self.weight_dims, self.n_sums)

    def __call__(self, observations: np.ndarray, forecasts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        block = self.on_block
        weights = np.asarray(_with_dims(weights, self.weight_dims, block.dims), np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(
                "weights must be finite and not below 0, as a sum with any other says nothing: give a cell that is not "
                "to count the weight 0"
            )
        with one_of(self.n_blocks):
            return self._in_parts(
                _with_dims(observations, block.obs_dims, block.dims),
                _with_dims(forecasts, block.fcst_dims, block.dims),
                weights,
            )

    def _in_parts(self, observations: np.ndarray, forecasts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The sums of parts with so few weights that all of them fit into memory."""
        if weights.size * self.n_sums <= SUMS_AT_ONCE or weights.size == 1:
            return self._of_part(observations, forecasts, weights)
        axis = int(np.argmax(weights.shape))
        half = weights.shape[axis] // 2
        parts = [
            self._in_parts(*(_cut(a, axis, where) for a in (observations, forecasts, weights)))
            for where in (slice(None, half), slice(half, None))
        ]
        return parts[0] + parts[1] if axis in self.on_block.options["axis"] else np.concatenate(parts, axis)

    def _of_part(self, observations: np.ndarray, forecasts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        options = self.on_block.options
        apart = tuple(a for a in options["axis"] if weights.shape[a] > 1)
        alike = tuple(a for a in options["axis"] if a not in apart)
        sums = self.on_block.sums(observations, forecasts, alike)
        weights = weights.reshape(weights.shape + (1,) * (sums.ndim - weights.ndim))
        with np.errstate(invalid="ignore"):  # what has no weight does not count, be it infinite
            return np.where(weights == 0, 0.0, sums * weights).sum(axis=apart, keepdims=True)


def _cut(array: np.ndarray, axis: int, where: slice) -> np.ndarray:
    return array if array.shape[axis] == 1 else array[(slice(None),) * axis + (where,)]


def _with_dims(array: np.ndarray, have: tuple, want: tuple) -> np.ndarray:
    """A view with the axes ``want``, of length 1 where the array has no such axis."""
    present = [d for d in want if d in have]
    array = array.transpose([have.index(d) for d in present])
    return array[tuple(slice(None) if d in have else np.newaxis for d in want)]


def _kernel_order(observations: xr.DataArray, forecasts: xr.DataArray, last: list[Hashable]) -> list[Hashable]:
    """Shared dims, then those of one array alone (members), then planes: members of one observation lie together."""
    shared = [d for d in forecasts.dims if d in observations.dims and d not in last]
    n_plane = max(2 - len(last), 0)
    plane = shared[len(shared) - min(n_plane, len(shared)) :]
    leading = shared[: len(shared) - len(plane)]
    alone = [d for d in observations.dims if d not in forecasts.dims and d not in last]
    alone += [d for d in forecasts.dims if d not in observations.dims and d not in last]
    return [*leading, *alone, *plane, *last]


def _sums_per_chunk(on_block, variables, dims, gone, new_sizes, dtype):
    import dask.array as da

    labels = {d: i for i, d in enumerate([*dims, *new_sizes])}
    return da.blockwise(
        on_block,
        tuple(labels.values()),
        *(part for v in variables for part in (v.data, tuple(labels[d] for d in v.dims))),
        new_axes={labels[d]: n for d, n in new_sizes.items()},
        adjust_chunks={labels[d]: (lambda n: 1) for d in gone},
        name=None,
        token=f"verify-{on_block.__name__}",
        dtype=dtype,
        meta=np.empty((0,) * len(labels), dtype),
    )


def _added_up(sums, axes):
    """The sums of the chunks added up, without ever laying them side by side: a histogram has megabytes."""
    import dask.array as da

    if not axes:
        return sums
    options = {"axis": axes, "dtype": sums.dtype, "concatenate": False, "split_every": CHUNKS_TOGETHER ** len(axes)}
    return da.reduction(sums, _as_it_is, _total, combine=_total, name="verify-sum", **options)


def _as_it_is(sums: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    return sums


def _total(parts: Any, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """Sum of what is in nested lists of arrays of one shape, with length 1 along ``axis``."""
    from dask.core import flatten

    parts = list(flatten([parts], container=list))
    total = np.zeros(parts[0].shape, parts[0].dtype)
    for part in parts:
        # Most of a histogram are zeros in memory that was never touched, and is not used until it is.
        filled = np.flatnonzero(part)
        total.reshape(-1)[filled] += part.reshape(-1)[filled]
    return total if keepdims else total.squeeze(axis)


def _like_chunks(variables: list[xr.Variable], whole: list[Hashable]) -> list[xr.Variable]:
    """All as Dask arrays in the chunks of the forecasts, which are the largest, with ``whole`` dims in one piece."""
    observations, forecasts, *weights = variables
    if forecasts.chunks is None:
        like = {d: n for v in (*weights, observations) for d, n in v.chunksizes.items()}
        forecasts = forecasts.chunk({d: n for d, n in like.items() if d in forecasts.dims})
    forecasts = forecasts.chunk({d: -1 for d in whole if d in forecasts.dims})
    chunked = [_in_chunks(observations, forecasts.chunksizes, whole)]
    known = {**chunked[0].chunksizes, **forecasts.chunksizes}
    return [chunked[0], forecasts, *(_in_chunks(w, known, whole) for w in weights)]


def _in_chunks(variable: xr.Variable, known: Mapping[Any, Any], whole: list[Hashable]) -> xr.Variable:
    like: dict[Hashable, Any] = {d: n for d, n in known.items() if d in variable.dims}
    return variable.chunk(like | {d: -1 for d in whole if d in variable.dims})


def _kept_coords(observations: xr.DataArray, forecasts: xr.DataArray, kept: list[Hashable]) -> dict[Hashable, Any]:
    """Coordinates that the reduction leaves intact; where both arrays have one, the forecasts'."""
    both = {**observations.coords, **forecasts.coords}
    return {name: coord for name, coord in both.items() if set(coord.dims) <= set(kept)}
