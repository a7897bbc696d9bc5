"""Distributions of amounts: histograms that are exact in their sums, sorted values, and distances of the two.

The bins are those of float32 itself: the sign, the exponent and the first `MANTISSA_BITS` bits of the mantissa say
the bin, so that bins are 2^-11 of a value wide at every size of it and no range needs to be known beforehand. What
is left of the mantissa is added up in integers, so the sum of the values in a bin is exact and does not depend on
the order of chunks.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from xnowcast.verify.kernels.compiled import compiled, use_compiled
from xnowcast.verify.kernels.slabs import as_floats, broadcast_shape, slabs, summed_shape, within

MANTISSA_BITS = 11
"""Bits of the mantissa that tell bins apart: an octave has 2048 bins."""
SMALLEST, LARGEST = 2.0**-26, 2.0**22
"""Amounts below the first are counted as 0; from the second on they are refused."""

_REST_BITS = 23 - MANTISSA_BITS
_PER_SIGN = int(np.log2(LARGEST / SMALLEST)) << MANTISSA_BITS
N_BINS = 2 * _PER_SIGN + 1
N_RESTS = 1 << _REST_BITS

# As unsigned 32-bit numbers: the compiled loop runs 3 times slower if anything becomes a signed 64-bit one.
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)
_REST = np.uint32(N_RESTS - 1)
_SHIFT, _SIGN = np.uint32(_REST_BITS), np.uint32(31)
_BELOW_FIRST = np.uint32((int(np.float32(SMALLEST).view(np.uint32)) >> _REST_BITS) - 1)
_TOO_LARGE = np.uint32(_PER_SIGN + 1)
_ZERO_SLOT = np.uint32(_PER_SIGN + 1)  # slots are bins with one more at each end, for what is too large
_NONE = np.uint32(0)

# A slot of the compiled loop counts in the high bits of one integer and adds up rests in the low ones.
_COUNT_SHIFT = np.uint64(38)
_ONE = np.uint64(1) << _COUNT_SHIFT
_FULL = 1 << (38 - _REST_BITS)  # values until the sum of rests may reach the count

# Seconds that it takes to compile a loop, and that it saves with each value.
COMPILING, SAVED = 1.0, 13e-9

_BLOCK = 1 << 20  # values of a block of rows that are sorted, and of a piece that numpy counts


@cache
def bin_edges() -> np.ndarray:
    """Edges of the bins of float32, in rising order.

    Bins of positive amounts have their lower edge, those of negative ones their upper edge; the one around 0 has
    neither.

    Returned: float64, ``(N_BINS + 1,)``, read-only.

    >>> edges = bin_edges()
    >>> len(edges) == N_BINS + 1, float(edges[-1]), float(1 - edges[edges < 1].max())
    (True, 4194304.0, 0.000244140625)
    """
    bits = (np.arange(_PER_SIGN + 1, dtype=np.uint32) + (_BELOW_FIRST + np.uint32(1))) << _SHIFT
    positive = bits.view(np.float32).astype(np.float64)
    edges = np.concatenate([-positive[::-1], positive])
    edges.flags.writeable = False  # it is kept
    return edges


def histogram_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    axis: Sequence[int],
    edges: Sequence[float] | None = None,
    skipna: bool = True,
) -> np.ndarray:
    """Number of values in each bin and their sum, of both fields.

    ``observations, forecasts``: same number of axes, length 1 where shared (then counted once for each partner).
    ``edges``: rising edges of bins ``edges[i] <= value < edges[i + 1]``. By default the bins of float32. Returned:
    float64, shape ``(*shape with 1 at axis, 4, bin)``: counts and sums of the observations, then of the forecasts.
    ValueError if an amount is beyond the bins.

    >>> o, f = np.array([0.5, 1.5, np.nan]), np.array([1.0, 1.0, 5.0])
    >>> histogram_sums(o, f, axis=[0], edges=[0.0, 1.0, 2.0])[0].tolist()
    [[1.0, 1.0], [0.5, 1.5], [0.0, 2.0], [0.0, 2.0]]
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    kept = summed_shape(broadcast_shape(observations, forecasts), axis)
    bounds = None if edges is None else np.asarray(edges, np.float64)
    n_bins = N_BINS if bounds is None else len(bounds) - 1
    result = np.zeros((*kept, 4, n_bins))
    for index, obs, fcst in _cells(observations, forecasts, axis):
        counter: _FloatBins | _GivenBins = _FloatBins(obs, fcst) if bounds is None else _GivenBins(bounds)
        n_missing = sum(counter.add(o, f) for o, f in _flat(obs, fcst))
        counter.write(result[index])
        if n_missing and not skipna:
            result[index] = np.nan
    return result


class _FloatBins:
    """Counts and rests of both fields in the bins of float32."""

    def __init__(self, obs: np.ndarray, fcst: np.ndarray):
        n = max(obs.size, fcst.size)
        self.compiled = use_compiled(n, _count_pairs, saves=n * SAVED, compiling=COMPILING)
        self.packed = np.zeros((2, N_BINS + 2), np.uint64)
        self.n_packed = 0
        self.totals: np.ndarray | None = None  # counts and rests, where they do not fit in the packed ones

    def add(self, obs: np.ndarray, fcst: np.ndarray) -> int:
        """Count pairs; the number of those with a NaN."""
        obs, fcst = _single(obs), _single(fcst)
        if self.n_packed + obs.size > _FULL:
            self._unpack()
        self.n_packed += obs.size
        if self.compiled:
            return int(_count_pairs(obs, fcst, *self.packed))
        missing = np.isnan(obs) | np.isnan(fcst)
        n_missing = int(np.count_nonzero(missing))
        for packed, values in zip(self.packed, (obs, fcst), strict=True):
            slot, rest = _slots(values[~missing] if n_missing else values)
            if slot.size:
                lowest = slot.min()
                slot -= lowest
                counts = np.bincount(slot).astype(np.uint64)
                packed[lowest : lowest + len(counts)] += counts << _COUNT_SHIFT
                packed[lowest : lowest + len(counts)] += np.bincount(slot, rest).astype(np.uint64)
        return n_missing

    def _unpack(self) -> None:
        if self.totals is None:
            self.totals = np.zeros((2, *self.packed.shape), np.int64)
        self.totals += _counts_and_rests(self.packed)
        self.packed[...] = 0
        self.n_packed = 0

    def write(self, target: np.ndarray) -> None:
        if self.totals is not None:
            self._unpack()
        for which, packed in enumerate(self.packed):
            # Only bins that hold something are looked at: the others stay pages that were never touched.
            slot = np.flatnonzero(packed if self.totals is None else self.totals[0, which])
            if slot.size and (slot[0] == 0 or slot[-1] == N_BINS + 1):
                raise ValueError(
                    f"an amount is {LARGEST:.0f} or more in size, or infinite: is it a fill value? Mask it, or "
                    "convert to larger units"
                )
            counts, rests = _counts_and_rests(packed[slot]) if self.totals is None else self.totals[:, which, slot]
            target[2 * which, slot - 1] = counts
            target[2 * which + 1, slot - 1] = _sum_of_bin(slot - 1, counts, rests)


def _counts_and_rests(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> _COUNT_SHIFT, packed & (_ONE - np.uint64(1))]).astype(np.int64)


class _GivenBins:
    """Counts and sums of both fields between edges."""

    def __init__(self, edges: np.ndarray):
        self.edges = edges
        self.table = np.zeros((4, len(edges) - 1))

    def add(self, obs: np.ndarray, fcst: np.ndarray) -> int:
        missing = np.isnan(obs) | np.isnan(fcst)
        n_missing = int(np.count_nonzero(missing))
        n_bins = self.table.shape[1]
        for which, values in enumerate((obs, fcst)):
            values = values[~missing] if n_missing else values
            # In the precision of the data: a float32 field equal to 0.7 is in the bin that begins at 0.7.
            place = np.searchsorted(self.edges.astype(values.dtype), values, side="right") - 1
            if place.size and not 0 <= place.min() <= place.max() < n_bins:
                raise ValueError(
                    f"an amount is outside of the edges, {self.edges[0]:g} to less than {self.edges[-1]:g}: let the "
                    "edges begin with -inf or end with inf"
                )
            self.table[2 * which] += np.bincount(place, minlength=n_bins)
            self.table[2 * which + 1] += np.bincount(place, values, minlength=n_bins)
        return n_missing

    def write(self, target: np.ndarray) -> None:
        target[...] = self.table


@compiled
def _count_pairs(obs, fcst, obs_slots, fcst_slots):
    obs_bits, fcst_bits, n_missing = obs.view(np.uint32), fcst.view(np.uint32), 0
    for i in range(obs_bits.size):
        o, f = obs_bits[i], fcst_bits[i]
        o_size, f_size = np.uint32(o & _MAGNITUDE), np.uint32(f & _MAGNITUDE)
        if o_size > _INFINITY or f_size > _INFINITY:  # NaN
            n_missing += 1
            continue
        # Minus k is (k ^ ones) - ones, without a branch.
        ones = np.uint32(_NONE - np.uint32(o >> _SIGN))
        k = np.uint32(max(np.uint32(o_size >> _SHIFT), _BELOW_FIRST) - _BELOW_FIRST)
        k = np.uint32(min(k, _TOO_LARGE))
        obs_slots[np.uint32(_ZERO_SLOT + np.uint32(np.uint32(k ^ ones) - ones))] += _ONE + np.uint64(o_size & _REST)
        ones = np.uint32(_NONE - np.uint32(f >> _SIGN))
        k = np.uint32(max(np.uint32(f_size >> _SHIFT), _BELOW_FIRST) - _BELOW_FIRST)
        k = np.uint32(min(k, _TOO_LARGE))
        fcst_slots[np.uint32(_ZERO_SLOT + np.uint32(np.uint32(k ^ ones) - ones))] += _ONE + np.uint64(f_size & _REST)
    return n_missing


def _slots(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slot and rest of the mantissa of float32 values that are not NaN."""
    bits = values.view(np.uint32)
    size = bits & _MAGNITUDE
    k = np.minimum(np.maximum(size >> _SHIFT, _BELOW_FIRST) - _BELOW_FIRST, _TOO_LARGE).astype(np.intp)
    np.negative(k, out=k, where=bits > _MAGNITUDE)
    k += int(_ZERO_SLOT)
    return k, size & _REST


def _sum_of_bin(bins: np.ndarray, counts: np.ndarray, rests: np.ndarray) -> np.ndarray:
    """Sum of the values in each bin, from how many they are and the sum of the rests of their mantissas."""
    k = np.abs(bins - _PER_SIGN)
    first = ((np.maximum(k, 1).astype(np.uint32) + _BELOW_FIRST) << _SHIFT).view(np.float32).astype(np.float64)
    octave = np.exp2((k - 1) >> MANTISSA_BITS) * SMALLEST
    sums = counts * first + rests * (octave * 2.0**-23)
    return np.where(k == 0, 0.0, np.where(bins < _PER_SIGN, -sums, sums))


def _single(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # becomes infinite, which is refused with a message
        return np.ascontiguousarray(values, np.float32)


def _cells(
    observations: np.ndarray, forecasts: np.ndarray, axis: Sequence[int]
) -> Iterator[tuple[tuple, np.ndarray, np.ndarray]]:
    """Index in the result, observations and forecasts of each cell of the axes that are kept."""
    shape = broadcast_shape(observations, forecasts)
    for index in np.ndindex(summed_shape(shape, axis)):
        cell = tuple(slice(None) if a in axis else slice(i, i + 1) for a, i in enumerate(index))
        yield index, observations[within(cell, observations.shape)], forecasts[within(cell, forecasts.shape)]


def _flat(obs: np.ndarray, fcst: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of cache-sized parts, flat, with equal length."""
    shape = broadcast_shape(obs, fcst)
    obs, fcst = np.broadcast_to(obs, shape), np.broadcast_to(fcst, shape)
    for index in slabs(shape):
        o, f = obs[index].reshape(-1), fcst[index].reshape(-1)
        for start in range(0, o.size, _BLOCK):
            yield o[start : start + _BLOCK], f[start : start + _BLOCK]


# ---------------------------------------------------------------- of histograms


def histogram_distance(
    observed: np.ndarray, observed_sum: np.ndarray, forecast: np.ndarray, forecast_sum: np.ndarray
) -> np.ndarray:
    """Earth mover's distance of two histograms, with the values of a bin at their mean.

    The distance is the area between the two cumulative distributions. Over a bin in which one of them stays above
    the other that area depends on counts and sums alone: only bins in which they may cross are not exact, see
    `distance_bound`.

    ``observed, observed_sum, forecast, forecast_sum``: ``(..., bin)``, counts and sums of the values; each distribution
    is divided by its own number. Returned: ``(...)``; NaN without values.

    >>> float(histogram_distance(np.array([2, 0]), np.array([1.0, 0]), np.array([1, 1]), np.array([0.5, 1.5])))
    0.5
    """
    tables = np.broadcast_arrays(observed, observed_sum, forecast, forecast_sum)
    result = np.empty(tables[0].shape[:-1])
    for index in np.ndindex(result.shape):
        result[index] = _histogram_distance(*(table[index] for table in tables))
    return result


def _histogram_distance(n_obs: np.ndarray, sum_obs: np.ndarray, n_fcst: np.ndarray, sum_fcst: np.ndarray) -> float:
    filled = np.flatnonzero(n_obs + n_fcst)
    n_obs, sum_obs, n_fcst, sum_fcst = n_obs[filled], sum_obs[filled], n_fcst[filled], sum_fcst[filled]
    if not (n_obs.sum() > 0 and n_fcst.sum() > 0):  # also where they are NaN
        return np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        at_obs, at_fcst = sum_obs / n_obs, sum_fcst / n_fcst
    at_obs, at_fcst = np.where(n_obs > 0, at_obs, at_fcst), np.where(n_fcst > 0, at_fcst, at_obs)
    ahead_obs, ahead_fcst = np.cumsum(n_obs) / n_obs.sum(), np.cumsum(n_fcst) / n_fcst.sum()
    after = ahead_obs - ahead_fcst
    before = np.concatenate([[0.0], after[:-1]])
    between = np.where(at_obs < at_fcst, before + n_obs / n_obs.sum(), before - n_fcst / n_fcst.sum())
    low, high = np.minimum(at_obs, at_fcst), np.maximum(at_obs, at_fcst)
    # Not a product of vectors: on so few numbers its threads cost more than all else.
    return float((np.abs(between) * (high - low)).sum() + (np.abs(after[:-1]) * (low[1:] - high[:-1])).sum())


def distance_bound(observed: np.ndarray, forecast: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How far `histogram_distance` can be from the distance of the values themselves.

    A bin counts where the two cumulative distributions may cross in it: with the difference d before it and the
    shares a and b within, where ``d - b < 0 < d + a``; it can be off by its width times ``max(d + a, b - d)``.

    ``observed, forecast``: ``(..., bin)``, counts. ``edges``: ``(bin + 1,)``; infinite ends give an infinite bound
    where it matters. Returned: ``(...)``; NaN without values.

    >>> float(distance_bound(np.array([2, 0, 0]), np.array([0, 2, 0]), np.array([0.0, 1.0, 2.0, 3.0])))
    0.0
    >>> float(distance_bound(np.array([2, 2, 0]), np.array([1, 2, 1]), np.array([0.0, 1.0, 2.0, 3.0])))
    1.25
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (n / n.sum(axis=-1, keepdims=True) for n in (observed, forecast))
    after = np.cumsum(a, axis=-1) - np.cumsum(b, axis=-1)
    before = after - a + b
    rounding = 1e-12  # of sums of shares: where the two agree but for it they do not cross
    crossing = (before - b < -rounding) & (before + a > rounding)
    off = np.where(crossing, np.maximum(before + a, b - before), 0.0)
    width = np.diff(edges)
    bound = np.sum(np.multiply(off, width, where=crossing, out=np.zeros_like(off)), axis=-1)
    return np.where(np.isnan(after[..., -1]), np.nan, bound)


def histogram_percentiles(counts: np.ndarray, sums: np.ndarray, *, percentages: Sequence[float]) -> np.ndarray:
    """Percentiles of a histogram, with the values of a bin at their mean.

    ``counts, sums``: ``(..., bin)``. ``percentages``: 0 to 100; interpolated linearly between the two nearest values.
    Returned: ``(..., percentage)``; NaN without values.

    >>> histogram_percentiles(np.array([2, 1]), np.array([1.0, 2.5]), percentages=[50, 75, 100]).tolist()
    [0.5, 1.5, 2.5]
    """
    place, _, weight = ranks(counts, percentages=percentages)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.divide(sums, counts, where=counts > 0, out=np.full(np.shape(sums), np.nan))
    values = np.take_along_axis(mean, np.maximum(place, 0).reshape(*place.shape[:-2], -1), axis=-1).reshape(place.shape)
    return interpolated(np.where(place < 0, np.nan, values), weight)


def histogram_overlap(observed: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Sum over bins of the smaller of the two shares.

    ``observed, forecast``: ``(..., bin)``, counts. Returned: ``(...)``, 0 to 1; NaN without values.

    >>> float(histogram_overlap(np.array([3, 1]), np.array([1, 1])))
    0.75
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = [n / n.sum(axis=-1, keepdims=True) for n in (observed, forecast)]
    return np.minimum(*shares).sum(axis=-1)


def ranks(counts: np.ndarray, *, percentages: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the two values are that a percentile lies between.

    ``counts``: ``(..., bin)``. Returned: ``(..., percentage, 2)``, the bins of the lower and of the upper value; -1
    without values. Returned: the same shape: how many values of the bin come before. Returned: ``(..., percentage)``,
    of the upper one, 0 to 1.

    >>> place, within, weight = ranks(np.array([2, 1]), percentages=[75])
    >>> place.tolist(), within.tolist(), weight.tolist()
    ([[0, 1]], [[1, 0]], [0.5])
    """
    counts = np.nan_to_num(counts)
    shape = counts.shape[:-1]
    place = np.full((*shape, len(percentages), 2), -1, np.int64)
    within = np.zeros_like(place)
    weight = np.zeros((*shape, len(percentages)))
    for index in np.ndindex(shape):
        up_to = np.cumsum(counts[index]).astype(np.int64)
        n = int(up_to[-1]) if up_to.size else 0
        if n:
            rank = np.asarray(percentages, np.float64) / 100.0 * (n - 1)
            lower = np.floor(rank).astype(np.int64)
            order = np.stack([lower, np.minimum(lower + 1, n - 1)], axis=-1)
            place[index] = np.searchsorted(up_to, order, side="right")
            within[index] = order - np.concatenate([[0], up_to])[place[index]]
            weight[index] = rank - lower
    return place, within, weight


def interpolated(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Between the lower and the upper value, ``(..., 2)``, the upper with ``weight``; as numpy does it."""
    low, high = values[..., 0].astype(np.float64), values[..., 1].astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite values
        step = high - low
        between = np.where(weight < 0.5, low + step * weight, high - step * (1.0 - weight))
    return np.where(low == high, low, between)


# ---------------------------------------------------------------- of the values themselves


def sorted_distance(
    observations: np.ndarray, forecasts: np.ndarray, *, axis: Sequence[int], skipna: bool = True
) -> np.ndarray:
    """Earth mover's distance of the values of both fields, by sorting: the mean of ``|sorted f - sorted o|``.

    Returned: float64, shape ``(*shape with 1 at axis, 1)``; NaN without pairs.

    >>> sorted_distance(np.array([3.0, 1.0, np.nan]), np.array([2.0, 3.0, 0.0]), axis=[0]).tolist()
    [[0.5]]
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    kept = summed_shape(broadcast_shape(observations, forecasts), axis)
    distances = [_sorted_distance(o, f, skipna) for o, f in _rows(observations, forecasts, axis)]
    return np.concatenate(distances).reshape(*kept, 1) if distances else np.full((*kept, 1), np.nan)


def _sorted_distance(obs: np.ndarray, fcst: np.ndarray, skipna: bool) -> np.ndarray:
    """Of rows of observations ``(row, value)`` and of all forecasts for each, ``(row, value, partner)``."""
    if not fcst.size:
        return np.full(len(fcst), np.nan)
    missing = np.isnan(fcst)
    if not (missing == np.isnan(obs)[..., np.newaxis]).all():
        missing |= np.isnan(obs)[..., np.newaxis]
        obs = np.where(missing, obs.dtype.type(np.nan), obs[..., np.newaxis])
        fcst = np.where(missing, fcst.dtype.type(np.nan), fcst)
    n_rows = len(fcst)
    n = missing[0].size - np.count_nonzero(missing.reshape(n_rows, -1), axis=1)
    obs, fcst = np.sort(obs.reshape(n_rows, -1), axis=1), np.sort(fcst.reshape(n_rows, -1), axis=1)
    # An observation that n members share is n values of its distribution, and need not be sorted n times.
    distance = fcst.reshape(n_rows, obs.shape[1], -1)
    paired = ~np.isnan(obs)[..., np.newaxis]  # NaN is sorted to the end, alike in both
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.abs(np.subtract(distance, obs[..., np.newaxis]))
        options = {} if paired.all() else {"where": paired}
        mean = distance.sum(axis=(1, 2), dtype=np.float64, **options) / n
    return mean if skipna else np.where(n == missing[0].size, mean, np.nan)


def _rows(
    observations: np.ndarray, forecasts: np.ndarray, axis: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks ``(row, value)`` of observations and ``(row, value, partner)`` of forecasts, a row for each kept cell."""
    shape = broadcast_shape(observations, forecasts)
    kept = [a for a in range(len(shape)) if a not in axis]
    partners = [a for a in axis if observations.shape[a] == 1]
    paired = [a for a in axis if a not in partners]
    sizes = [int(np.prod([shape[a] for a in axes])) for axes in (paired, partners)]
    order = [*kept, *paired, *partners]
    fcst = np.broadcast_to(forecasts, shape).transpose(order)
    o_shape = tuple(1 if a in partners else n for a, n in enumerate(shape))
    obs = np.broadcast_to(observations, o_shape).transpose(order)
    if not kept:
        obs, fcst = obs[np.newaxis], fcst[np.newaxis]
    n_leading = max(len(kept) - 1, 0)
    step = max(_BLOCK // max(sizes[0] * sizes[1], 1), 1)
    for leading in np.ndindex(fcst.shape[:n_leading]):
        for start in range(0, fcst.shape[n_leading], step):
            part = slice(start, start + step)
            o, f = obs[leading][part], fcst[leading][part]
            yield o.reshape(len(o), sizes[0]), f.reshape(len(f), *sizes)


def percentiles(
    alone: np.ndarray, field: np.ndarray, *, axis: Sequence[int], percentages: Sequence[float], skipna: bool = True
) -> np.ndarray:
    """Percentiles of a field, exact, interpolated linearly as numpy does.

    ``alone``: not looked at: kernels take two fields, this score has one. ``percentages``: 0 to 100. ``skipna``: False:
    NaN makes the percentiles NaN. Returned: float64, shape ``(*shape with 1 at axis, 1, percentage)``.

    >>> percentiles(np.zeros(1), np.array([3.0, 1.0, np.nan, 2.0]), axis=[0], percentages=[25, 100]).tolist()
    [[[1.5, 3.0]]]
    """
    field = as_floats(field)
    none = np.zeros((1,) * field.ndim, field.dtype)
    rows = (f.reshape(len(f), -1) for _, f in _rows(none, field, axis))
    found = [_row_percentiles(values, percentages, skipna) for values in rows]
    kept = summed_shape(field.shape, axis)
    if not found:
        return np.full((*kept, 1, len(percentages)), np.nan)
    return np.concatenate(found).reshape(*kept, 1, len(percentages))


def pair_percentiles(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    axis: Sequence[int],
    percentages: Sequence[float],
    skipna: bool = True,
) -> np.ndarray:
    """Percentiles of both fields, of the pairs in which neither is NaN.

    ``axis, percentages, skipna``: as for `percentiles`. Returned: float64, shape ``(*shape with 1 at axis, 2,
    percentage)``: of the observations, of the forecasts.

    >>> o, f = np.array([1.0, 3.0, 9.0]), np.array([2.0, 2.0, np.nan])
    >>> pair_percentiles(o, f, axis=[0], percentages=[50]).tolist()
    [[[2.0], [2.0]]]
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    kept = summed_shape(broadcast_shape(observations, forecasts), axis)
    found = []
    for obs, fcst in _rows(observations, forecasts, axis):
        missing = np.isnan(fcst) | np.isnan(obs)[..., np.newaxis]
        obs = np.broadcast_to(obs[..., np.newaxis], fcst.shape)
        if missing.any():
            obs = np.where(missing, obs.dtype.type(np.nan), obs)
            fcst = np.where(missing, fcst.dtype.type(np.nan), fcst)
        both = [_row_percentiles(values.reshape(len(fcst), -1), percentages, skipna) for values in (obs, fcst)]
        found.append(np.stack(both, axis=1))
    return (
        np.concatenate(found).reshape(*kept, 2, len(percentages))
        if found
        else np.full((*kept, 2, len(percentages)), np.nan)
    )


def _row_percentiles(rows: np.ndarray, percentages: Sequence[float], skipna: bool) -> np.ndarray:
    """``(row, value) -> (row, percentage)``."""
    values = np.sort(rows, axis=1)  # on float32 no slower than a partition, and NaN goes to the end
    n = values.shape[1] - np.count_nonzero(np.isnan(values), axis=1)[:, np.newaxis]
    if not values.shape[1]:
        return np.full((len(values), len(percentages)), np.nan)
    rank = np.asarray(percentages, np.float64) / 100.0 * np.maximum(n - 1, 0)
    lower = np.floor(rank).astype(np.intp)
    order = np.stack([lower, np.minimum(lower + 1, np.maximum(n - 1, 0))], axis=-1)
    nearest = np.take_along_axis(values, order.reshape(len(values), -1), axis=1).reshape(order.shape)
    found = interpolated(nearest, rank - lower)
    return found if skipna else np.where(n == values.shape[1], found, np.nan)


# ---------------------------------------------------------------- exact percentiles in two passes


def rest_counts(places: np.ndarray, field: np.ndarray, *, axis: Sequence[int]) -> np.ndarray:
    """How often each rest of the mantissa occurs in some of the bins: the second pass for exact percentiles.

    ``places``: bins as from `ranks` on the last axis; length 1 along ``axis``. ``field``: same number of axes, the last
    of length 1; counted as float32, NaN is left out. Returned: int64, shape ``(*shape with 1 at axis, place, rest)``,
    rests in the order of rising values.

    >>> place = np.searchsorted(bin_edges(), [1.0], side="right") - 1
    >>> rest_counts(place, np.array([[1.0], [1.0], [1 + 2**-23], [2.0]]), axis=[0])[0, 0, :3].tolist()
    [2, 1, 0]
    """
    places = places.reshape((1,) * (field.ndim - places.ndim) + places.shape)
    kept = summed_shape((*field.shape[:-1], places.shape[-1]), axis)
    result = np.zeros((*kept, N_RESTS), np.int64)
    for index, of_cell, values in _cells(places, field, [*axis, field.ndim - 1]):
        wanted, which = np.unique(of_cell.reshape(-1), return_inverse=True)
        table = np.full(N_BINS + 2, -1, np.int32)
        # Place -1 is "no value"; it takes a row of its own, which stays empty.
        table[wanted[wanted >= 0] + 1] = np.flatnonzero(wanted >= 0)
        counts = np.zeros((len(wanted), N_RESTS), np.int64)
        for _, part in _flat(values, values):
            saves = values.size * SAVED
            is_fast = use_compiled(values.size, _count_rests, saves=saves, compiling=COMPILING)
            count_rests = _count_rests if is_fast else _count_rests_numpy
            count_rests(_single(part), table, counts)
        result[index[:-1]] = counts[which.reshape(-1)]
    return result


@compiled
def _count_rests(values, table, counts):
    bits = values.view(np.uint32)
    for i in range(bits.size):
        size = np.uint32(bits[i] & _MAGNITUDE)
        if size > _INFINITY:
            continue
        ones = np.uint32(_NONE - np.uint32(bits[i] >> _SIGN))
        k = np.uint32(max(np.uint32(size >> _SHIFT), _BELOW_FIRST) - _BELOW_FIRST)
        k = np.uint32(min(k, _TOO_LARGE))
        row = table[np.uint32(_ZERO_SLOT + np.uint32(np.uint32(k ^ ones) - ones))]
        if row >= 0:
            counts[row, np.uint32(np.uint32(size & _REST) ^ np.uint32(ones & _REST))] += 1


def _count_rests_numpy(values: np.ndarray, table: np.ndarray, counts: np.ndarray) -> None:
    values = values[~np.isnan(values)]
    slot, rest = _slots(values)
    row = table[slot]
    here = np.flatnonzero(row >= 0)
    # Of negative values the larger the rest, the lower.
    rest = np.where(values[here] < 0, rest[here] ^ _REST, rest[here])
    flat = row[here].astype(np.intp) * counts.shape[1] + rest
    counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)


def percentiles_of_rests(place: np.ndarray, within: np.ndarray, weight: np.ndarray, rests: np.ndarray) -> np.ndarray:
    """Exact percentiles of float32 values from where `ranks` has found them and the rests in these bins.

    ``place, within, weight``: from `ranks`: ``(..., percentage, 2)`` twice and ``(..., percentage)``. ``rests``: from
    `rest_counts`: ``(..., percentage * 2, rest)``. Returned: ``(..., percentage)``; NaN without values.

    >>> values = np.array([1.0, 3.0, 7.0], np.float32)
    >>> counts = np.histogram(values, bin_edges())[0]
    >>> place, within, weight = ranks(counts, percentages=[25])
    >>> rests = rest_counts(place.reshape(-1), values[:, np.newaxis], axis=[0])[0]
    >>> percentiles_of_rests(place, within, weight, rests).tolist()
    [2.0]
    """
    up_to = np.cumsum(rests, axis=-1).reshape(*place.shape, rests.shape[-1])
    rest = np.count_nonzero(up_to <= within[..., np.newaxis], axis=-1).astype(np.uint32)
    k = place - _PER_SIGN
    rest = np.where(k < 0, rest ^ _REST, rest)
    bits = ((np.abs(k).astype(np.uint32) + _BELOW_FIRST) << _SHIFT) | rest
    size = np.where(k == 0, np.float32(0), bits.astype(np.uint32).view(np.float32))
    return interpolated(np.where(place < 0, np.nan, np.where(k < 0, -size, size).astype(np.float64)), weight)
