"""Counts of events: hits, misses, false alarms and correct negatives, at thresholds and pooling scales."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from xnowcast.verify.kernels.compiled import compiled, use_compiled
from xnowcast.verify.kernels.slabs import Index, broadcast_shape, drop_pairs, slabs, summed_shape, within

Pooling = Literal["max", "mean"]
Boundary = Literal["drop", "partial"]


class Window(NamedTuple):
    """Windows of ``width`` x ``width`` cells, a new one every ``stride`` cells."""

    width: int
    stride: int


def contingency_counts(
    observations: np.ndarray,
    forecasts: np.ndarray,
    thresholds: Sequence[float],
    scales: Sequence[int] = (1,),
    strides: Sequence[int] | None = None,
    *,
    axis: Sequence[int],
    pooling: Pooling = "max",
    boundary: Boundary = "drop",
    skipna: bool = True,
) -> np.ndarray:
    """Hits, misses, false alarms and correct negatives, at all thresholds and scales in one pass.

    A pair with a NaN is dropped before anything is pooled. ``thresholds``: an event is ``value >= threshold``; each
    threshold is cast to the dtype of the field it is compared with, so that a float32 field equal to 0.7 is an event at
    0.7. Integers are compared as floats. ``scales``: width k of the pooling windows in cells. 1 is no pooling. Above 1
    the last two axes must be in ``axis``. ``strides``: for each scale, the cells from one window to the next, from 1 to
    k. By default k, one beside the other. ``pooling, boundary``: as for `pooled`. ``skipna``: whether a window with
    some NaN is pooled from the others (True) or NaN (False). Returned: int64, shape ``(*shape with 1 at axis,
    threshold, scale, 4)``.

    >>> o, f = np.array([2.0, 2, 1, 3]), np.array([2.0, 1, 2, np.nan])
    >>> contingency_counts(o, f, [2.0], axis=[0])[0, 0, 0].tolist()
    [1, 1, 1, 0]
    """
    shape = broadcast_shape(observations, forecasts)
    windows = [Window(*window) for window in zip(scales, strides or scales, strict=True)]
    kept = summed_shape(shape, axis)
    counts = np.zeros((*kept, len(thresholds), len(windows), 4), dtype=np.int64)
    count: Callable[..., None] = _Counter(thresholds, windows, axis, pooling, boundary, skipna)
    parts = slabs(shape, axis, whole=2 if any(window.width > 1 for window in windows) else 0)
    if skipna and _fits_compiled(observations, forecasts, axis, len(thresholds) * len(windows)):
        count = _CompiledCounter(thresholds, windows, pooling, boundary)
        if all(_planes(field).flags.c_contiguous and field.dtype.kind == "f" for field in (observations, forecasts)):
            parts = iter([(slice(None),) * len(shape)])  # nothing is copied, so there is no need for slabs
    for index in parts:
        o_index = within(index, observations.shape)
        obs, fcst = _as_floats(observations[o_index]), _as_floats(forecasts[within(index, forecasts.shape)])
        count(obs, fcst, o_index, counts[within(index, kept)])
    return counts


def _as_floats(array: np.ndarray) -> np.ndarray:
    return array.astype(_float_for(array.dtype), copy=False)


def _float_for(dtype: np.dtype) -> np.dtype:
    if dtype.kind == "f":
        return dtype
    return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)  # 16 bits are exact in float32


# ---------------------------------------------------------------- pooling


def pooled(
    field: np.ndarray,
    width: int,
    *,
    stride: int | None = None,
    pooling: Pooling = "max",
    boundary: Boundary = "drop",
    skipna: bool = True,
) -> np.ndarray:
    """Largest or mean value in each window of width x width cells.

    ``field``: ``(..., y, x)``, floats. ``width``: of the windows, in cells. ``stride``: cells from one window to the
    next; ``width`` by default. ``pooling``: means are taken in float64 and given in the dtype of the field.
    ``boundary``: whether windows that reach over the last row or column are left out, or made of the cells that are
    there. ``skipna``: True: NaN is skipped, and a window of NaN alone is NaN. False: one NaN makes the window NaN.
    Returned: ``(..., window y, window x)``, with `n_windows` along each.

    >>> field = np.array([[1.0, 2, 9], [np.nan, 3, 9]])
    >>> pooled(field, 2).tolist(), pooled(field, 2, pooling="mean").tolist()
    ([[3.0]], [[2.0]])
    >>> pooled(field, 2, stride=1).tolist(), pooled(field, 2, boundary="partial").tolist()
    ([[3.0, 9.0]], [[3.0, 9.0]])
    """
    window = Window(width, width if stride is None else stride)
    if pooling == "max":
        return _fold(np.fmax if skipna else np.maximum, field, window, boundary)
    measured = ~np.isnan(field)
    total = np.where(measured, field, 0) if skipna else field
    total = _fold(np.add, total.astype(np.float64), window, boundary)
    n = _fold(np.add, (measured if skipna else np.ones_like(measured)).astype(np.int32), window, boundary)
    with np.errstate(invalid="ignore"):
        return (total / n).astype(field.dtype)


def n_windows(n: int, width: int, stride: int, boundary: Boundary) -> int:
    """Number of windows along an axis of n cells.

    >>> n_windows(35, 4, 4, "drop"), n_windows(35, 4, 4, "partial"), n_windows(35, 4, 1, "drop")
    (8, 9, 32)
    """
    if n < width:
        return 0 if boundary == "drop" else 1
    return (n - width) // stride + 1 if boundary == "drop" else -(-(n - width) // stride) + 1


def _fold(together: np.ufunc, field: np.ndarray, window: Window, boundary: Boundary) -> np.ndarray:
    # Rows first: they are contiguous, and they leave only 1/stride of the values for the strided second half.
    for axis in (-2, -1):
        n = n_windows(field.shape[axis], *window, boundary)
        reach = (n - 1) * window.stride + 1
        offsets = range(min(window.width, field.shape[axis]))
        places = [slice(offset, offset + reach, window.stride) for offset in offsets]
        parts = [field[..., place, :] if axis == -2 else field[..., place] for place in places]
        folded = parts[0].copy()
        for part in parts[1:]:
            so_far = folded[..., : part.shape[-2], : part.shape[-1]]  # shorter where the last window is partial
            together(so_far, part, out=so_far)
        field = folded
    return field


# ---------------------------------------------------------------- with numpy


class _Events(NamedTuple):
    """Where a field is measured (None: everywhere) and, for each threshold, where it reaches it."""

    measured: np.ndarray | None
    reached: list[np.ndarray]


class _Counter:
    """Counts one slab after the other; keeps the observed events for the next member."""

    def __init__(self, thresholds, windows, axis, pooling, boundary, skipna):
        self.thresholds, self.windows, self.axis, self.skipna = thresholds, windows, axis, skipna
        self.pooling, self.boundary = pooling, boundary
        self.shared: tuple[Index, list[_Events]] | None = None

    def __call__(self, obs: np.ndarray, fcst: np.ndarray, o_index: Index, counts: np.ndarray) -> None:
        is_pooled = any(window.width > 1 for window in self.windows)
        masked = drop_pairs(obs, fcst) if is_pooled and self.skipna else None
        if masked is not None:
            obs, fcst = masked
            o_events = self._events(obs)
        elif self.shared is not None and self.shared[0] == o_index:
            o_events = self.shared[1]
        else:
            o_events = self._events(obs)
            self.shared = (o_index, o_events)
        for s, f_events in enumerate(self._events(fcst)):
            counts[..., s, :] += _count_pairs(o_events[s], f_events, self.axis)

    def _events(self, field: np.ndarray) -> list[_Events]:
        thresholds = [field.dtype.type(t) for t in self.thresholds]
        return [_events(at_scale, thresholds) for at_scale in self._at_scales(field)]

    def _at_scales(self, field: np.ndarray) -> list[np.ndarray]:
        """The field at each scale; coarse maxima side by side are made of finer ones where these divide them."""
        done = {Window(1, 1): field}
        for window in sorted(set(self.windows) - {Window(1, 1)}):
            finer = 1
            if self.pooling == "max" and window.width == window.stride:
                finer = max(w for w, stride in done if w == stride and window.width % w == 0)
            done[window] = pooled(
                done[Window(finer, finer)],
                window.width // finer,
                stride=window.stride // finer,
                pooling=self.pooling,
                boundary=self.boundary,
                skipna=self.skipna,
            )
        return [done[window] for window in self.windows]


def _events(field: np.ndarray, thresholds: Sequence[float]) -> _Events:
    measured = field == field  # not NaN
    everywhere = np.count_nonzero(measured) == measured.size
    return _Events(None if everywhere else measured, [field >= t for t in thresholds])


def _count_pairs(obs: _Events, fcst: _Events, axis: Sequence[int]) -> np.ndarray:
    """Counts of the pairs in which both are measured, shape ``(*shape with 1 at axis, threshold, 4)``."""
    shape = np.broadcast_shapes(obs.reached[0].shape, fcst.reached[0].shape)
    if obs.measured is None or fcst.measured is None:
        measured = fcst.measured if obs.measured is None else obs.measured
    else:
        measured = obs.measured & fcst.measured
    n = math.prod(shape[a] for a in axis) if measured is None else _count(measured, axis, shape)
    counts = np.empty((len(obs.reached), 4, *summed_shape(shape, axis)), dtype=np.int64)
    for t, (o, f) in enumerate(zip(obs.reached, fcst.reached, strict=True)):
        hits = _count(o & f, axis, shape)  # NaN reaches no threshold, so only pairs are hits
        observed = _count(o if fcst.measured is None else o & fcst.measured, axis, shape)
        forecast = _count(f if obs.measured is None else f & obs.measured, axis, shape)
        counts[t, 0], counts[t, 1], counts[t, 2] = hits, observed - hits, forecast - hits
        counts[t, 3] = n - observed - forecast + hits
    return np.moveaxis(counts, (0, 1), (-2, -1))


def _count(mask: np.ndarray, axis: Sequence[int], shape: tuple[int, ...]) -> int | np.ndarray:
    """Number of True along ``axis``, as if the mask had been broadcast to ``shape``; one number if all is counted."""
    n = math.prod(shape)
    if n == math.prod(shape[a] for a in axis):
        return int(np.count_nonzero(mask)) * (n // max(mask.size, 1))
    repeats = math.prod(shape[a] for a in axis if mask.shape[a] == 1)
    if math.prod(mask.shape[a] for a in axis) <= 255:  # bytes add up side by side in vector registers
        counts = np.add.reduce(mask.view(np.uint8), axis=tuple(axis), dtype=np.uint8, keepdims=True)
        return counts.astype(np.int64) * repeats
    return np.count_nonzero(mask, axis=tuple(axis), keepdims=True) * repeats


# ---------------------------------------------------------------- compiled

# A strip of both fields stays in the first cache while all thresholds look at it.
STRIP = 1024
# Thresholds that share a load.
TOGETHER = 3


# Seconds that it takes to compile, and that it saves with each value, threshold and scale.
COMPILING, SAVED = 8.0, 0.2e-9


def _fits_compiled(observations: np.ndarray, forecasts: np.ndarray, axis: Sequence[int], n_looks: int) -> bool:
    """Whether whole planes are counted, of one kind of float: the work of nearly everybody who has much of it."""
    n_axes = forecasts.ndim
    whole_planes = n_axes >= 2 and {n_axes - 2, n_axes - 1} <= set(axis)
    same_planes = observations.shape[-2:] == forecasts.shape[-2:]
    kind = _float_for(forecasts.dtype)
    if not (whole_planes and same_planes and kind == _float_for(observations.dtype) in (np.float32, np.float64)):
        return False
    n = max(observations.size, forecasts.size)
    return use_compiled(n, _count_planes, saves=n * n_looks * SAVED, compiling=COMPILING, words=[kind.name])


def _planes(array: np.ndarray) -> np.ndarray:
    """The array with its leading axes as they lie in memory, so that a transposed one is contiguous again."""
    leading = sorted(range(array.ndim - 2), key=lambda a: -array.strides[a])
    return array.transpose(*leading, array.ndim - 2, array.ndim - 1)


def _places(array: np.ndarray) -> np.ndarray:
    """For each step along the leading axes, which plane of `_planes` it is."""
    leading = sorted(range(array.ndim - 2), key=lambda a: -array.strides[a])
    sizes = [array.shape[a] for a in leading]
    return np.arange(np.prod(sizes, dtype=np.int64)).reshape(sizes).transpose(np.argsort(leading))


class _CompiledCounter:
    """Counts planes of ``(..., y, x)``, all reduced, with a compiled kernel."""

    def __init__(self, thresholds, windows, pooling, boundary):
        self.thresholds, self.windows, self.boundary, self.mean = thresholds, windows, boundary, pooling == "mean"

    def __call__(self, obs: np.ndarray, fcst: np.ndarray, o_index: Index, counts: np.ndarray) -> None:
        leading = np.broadcast_shapes(obs.shape[:-2], fcst.shape[:-2])
        target = np.arange(counts[..., 0, 0, 0].size).reshape(counts.shape[: len(leading)])
        pairs = [np.broadcast_to(places, leading).ravel() for places in (_places(obs), _places(fcst), target)]
        windows, where = self._plan(fcst.shape[-2:])
        plain = Window(1, 1) in self.windows
        # NaN is reached by nothing, so it fills up the last group of thresholds.
        thresholds = np.full(-(-len(self.thresholds) // TOGETHER) * TOGETHER, np.nan, fcst.dtype)
        thresholds[: len(self.thresholds)] = self.thresholds
        found = np.zeros((target.size, len(windows), 4, thresholds.size), dtype=np.int64)
        pools = np.empty((2, len(windows), windows[1:, 2:4].prod(axis=1).max(initial=0)), fcst.dtype)
        obs, fcst = (np.ascontiguousarray(_planes(field)).reshape(-1, *field.shape[-2:]) for field in (obs, fcst))
        _count_planes(obs, fcst, np.stack(pairs, axis=-1), thresholds, windows, plain, self.mean, pools, found)
        n, hits, observed, forecast = np.moveaxis(found[:, where, :, : len(self.thresholds)], 2, 0)
        parts = (hits, observed - hits, forecast - hits, n - observed - forecast + hits)
        counts += np.stack(parts, axis=-1).swapaxes(1, 2).reshape(counts.shape)

    def _plan(self, plane: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
        """The rows of ``windows`` for `_count_planes`, and where among them the windows asked for are."""
        order = [Window(1, 1), *sorted(set(self.windows) - {Window(1, 1)})]
        rows = []
        for s, window in enumerate(order):
            divide = [i for i, w in enumerate(order[:s]) if w.width == w.stride and window.width % w.width == 0]
            # Coarse maxima side by side are made of finer ones where these divide them.
            source = divide[-1] if divide and window.width == window.stride and not self.mean else 0
            finer = order[source].width
            sizes = [n_windows(n, window.width, window.stride, self.boundary) for n in plane]
            rows.append((window.width // finer, window.stride // finer, *sizes, source))
        return np.array(rows), [order.index(window) for window in self.windows]


@compiled
def _count_planes(observations, forecasts, pairs, thresholds, windows, plain, mean, pools, found):
    """Adds pairs, hits, observed and forecast events to ``found`` (target, scale, 4, threshold).

    Each row of ``pairs`` has the indices of an observed plane, a forecast plane and a target. Each row of ``windows``
    has the width and the stride, the numbers of windows along y and x, and the row whose windows they are made of; the
    first row is the cells themselves, which are counted if ``plain``. ``pools`` (2, scale, window) is memory for the
    pooled observations and forecasts.
    """
    o_counts = np.zeros((len(windows), len(thresholds)), np.int64)
    # The observations of the last pair; and those whose counts and pools are still right, as no forecast masked them.
    o_missing, before, known = 0, -1, -1
    for p in range(len(pairs)):
        obs, fcst = observations[pairs[p, 0]], forecasts[pairs[p, 1]]
        if pairs[p, 0] != before:
            before = pairs[p, 0]
            o_missing = _count_missing(obs.reshape(-1), obs.reshape(-1))
        if plain:
            cells = found[pairs[p, 2], 0]
            missing = _count_hits(obs.reshape(-1), fcst.reshape(-1), thresholds, cells[1], cells[3])
        else:
            missing = _count_missing(obs.reshape(-1), fcst.reshape(-1))
        # Unless the forecast lacks cells that were observed, the members share what is made of the observations.
        shared = missing == o_missing
        o_is_new = not (shared and known == before)
        known = before if shared else -1
        for s in range(0 if plain else 1, len(windows)):
            width, stride, n_y, n_x, source = windows[s]
            target, n_missing = found[pairs[p, 2], s], missing
            o_cells, f_cells = obs, fcst
            if s > 0:
                o_from, f_from = obs, fcst
                if source > 0:
                    finer = windows[source, 2], windows[source, 3]
                    n = finer[0] * finer[1]
                    o_from, f_from = pools[0, source, :n].reshape(finer), pools[1, source, :n].reshape(finer)
                n = n_y * n_x
                o_cells, f_cells = pools[0, s, :n].reshape(n_y, n_x), pools[1, s, :n].reshape(n_y, n_x)
                if o_is_new:
                    _pool_plane(o_from, f_from, width, stride, mean, missing == 0, o_cells)
                _pool_plane(f_from, o_from, width, stride, mean, missing == 0, f_cells)
                n_missing = _count_hits(o_cells.reshape(-1), f_cells.reshape(-1), thresholds, target[1], target[3])
            if o_is_new:
                o_counts[s, :] = 0
                _count_reached(o_cells.reshape(-1), f_cells.reshape(-1), thresholds, o_counts[s])
            for t in range(len(thresholds)):
                target[2, t] += o_counts[s, t]
            target[0] += f_cells.size - n_missing


@compiled
def _count_missing(obs, fcst):
    """Number of pairs with a NaN."""
    total = np.int64(0)
    for start in range(0, len(fcst), STRIP):
        o, f = obs[start : start + STRIP], fcst[start : start + STRIP]
        missing = np.int32(0)
        for i in range(len(f)):
            # numba makes int64 of a sum of int32, which would halve the lanes.
            missing = np.int32(missing + np.int32((o[i] != o[i]) | (f[i] != f[i])))
        total += missing
    return total


@compiled
def _count_hits(obs, fcst, thresholds, hits, forecast):
    """Adds how often both reach each threshold, and how often the forecast does where there is an observation.

    Returns the number of pairs with a NaN.
    """
    total = np.int64(0)
    lower, paired = np.empty(STRIP, fcst.dtype), np.empty(STRIP, fcst.dtype)
    for start in range(0, len(fcst), STRIP):
        o, f = obs[start : start + STRIP], fcst[start : start + STRIP]
        missing = np.int32(0)
        for i in range(len(f)):
            value = f[i] if o[i] == o[i] else o[i]
            paired[i] = value
            lower[i] = o[i] if value >= o[i] else value  # NaN if either is
            missing = np.int32(missing + np.int32(value != value))
        total += missing
        _add_reached(lower[: len(f)], thresholds, hits)
        _add_reached(paired[: len(f)], thresholds, forecast)
    return total


@compiled
def _count_reached(field, other, thresholds, counts):
    """Adds how often a field reaches each threshold where the other is measured."""
    paired = np.empty(STRIP, field.dtype)
    for start in range(0, len(field), STRIP):
        values, others = field[start : start + STRIP], other[start : start + STRIP]
        for i in range(len(values)):
            paired[i] = values[i] if others[i] == others[i] else others[i]
        _add_reached(paired[: len(values)], thresholds, counts)


@compiled
def _add_reached(values, thresholds, counts):
    for t in range(0, len(thresholds), TOGETHER):
        t0, t1, t2 = thresholds[t], thresholds[t + 1], thresholds[t + 2]
        n0, n1, n2 = np.int32(0), np.int32(0), np.int32(0)
        for i in range(len(values)):  # over indices: numba does not vectorise "for value in values"
            value = values[i]
            n0 = np.int32(n0 + np.int32(value >= t0))
            n1 = np.int32(n1 + np.int32(value >= t1))
            n2 = np.int32(n2 + np.int32(value >= t2))
        counts[t] += n0
        counts[t + 1] += n1
        counts[t + 2] += n2


@compiled
def _pool_plane(field, other, width, stride, mean, complete, pooled):
    """Fills ``pooled`` (window y, window x) from the cells of a field (y, x) in which the other is measured.

    ``complete`` tells that nothing is missing in either.
    """
    n_y, n_x = field.shape
    n_cells = np.empty(n_x, np.float64)
    largest, total = np.empty(n_x, field.dtype), np.empty(n_x, np.float64)
    for i in range(len(pooled)):
        rows = slice(i * stride, min(i * stride + width, n_y))
        if mean:
            _sum_rows(field[rows], other[rows], total, n_cells)
            _mean_of_columns(total, n_cells, width, stride, pooled[i])
        else:
            _max_rows(field[rows], other[rows], complete, largest)
            _max_of_columns(largest, width, stride, pooled[i])


@compiled
def _max_rows(rows, others, complete, largest):
    largest[:] = -np.inf if complete else np.nan
    for y in range(len(rows)):
        row, other = rows[y], others[y]
        if complete:
            for x in range(len(row)):
                largest[x] = row[x] if row[x] > largest[x] else largest[x]
        else:
            for x in range(len(row)):
                value = row[x] if other[x] == other[x] else other[x]
                largest[x] = largest[x] if (largest[x] >= value) | (value != value) else value


@compiled
def _max_of_columns(values, width, stride, largest):
    largest[:] = np.nan
    for offset in range(min(width, len(values))):
        part = values[offset:]
        for j in range(min(len(largest), (len(part) - 1) // stride + 1)):
            value = part[np.uint64(j * stride)]  # unsigned: no check for indices from the end
            largest[j] = largest[j] if (largest[j] >= value) | (value != value) else value


@compiled
def _sum_rows(rows, others, total, n_cells):
    total[:] = 0.0
    n_cells[:] = 0.0
    for y in range(len(rows)):
        row, other = rows[y], others[y]
        for x in range(len(row)):
            measured = (row[x] == row[x]) & (other[x] == other[x])
            total[x] += row[x] if measured else 0.0
            n_cells[x] += 1.0 if measured else 0.0


@compiled
def _mean_of_columns(total, n_cells, width, stride, mean):
    for j in range(len(mean)):
        all_of_it, n = 0.0, 0.0
        for x in range(j * stride, min(j * stride + width, len(total))):
            all_of_it += total[x]
            n += n_cells[x]
        mean[j] = all_of_it / n
