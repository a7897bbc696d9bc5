"""Fractions of events in square neighbourhoods, from summed-area tables: the sums of the fractions skill score.

A table holds the number of events above and left of every corner of the grid, so that the events of any window
are four look-ups; it serves every scale. Crow (1984), doi:10.1145/964965.808600.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from xnowcast.verify.kernels.compiled import compiled, use_compiled
from xnowcast.verify.kernels.slabs import as_floats, broadcast_shape, summed_shape, within

BOUNDARIES = ("renormalise", "interior", "zero", "pysteps", "scores")

# Rows of windows that numpy treats together, so that what lies between two steps stays in the cache.
TILE_ROWS = 64
# Tables of more events than int32 holds are of shares of the members instead, in float64.
LARGEST_COUNT = 2**31 - 1
# Seconds that it takes to compile, and that it saves with each value, threshold and scale.
COMPILING, SAVED = 2.0, 5.5e-9


class _Windows(NamedTuple):
    """The windows of one scale along one axis; ``low`` to ``high`` (exclusive) are the cells of each on the grid."""

    first: int  # where the first window starts, before the grid if negative; each next one a cell further
    width: int  # as far as it can touch the grid
    low: np.ndarray
    high: np.ndarray
    cells: np.ndarray  # float64: cells of each that a fraction is a share of, if all are measured
    alike: tuple[int, int]  # first and last (exclusive) of those with most cells, as all but some at the edges


class _Pair(NamedTuple):
    """One observed field and its forecasts; cells that are not measured in both are NaN in both."""

    observed: np.ndarray  # (y, x)
    forecasts: np.ndarray  # (member, y, x)
    valid: np.ndarray | None  # (y, x); None: everywhere
    members: np.ndarray | None  # (y, x), number of members that are not NaN; None: all where valid


class _Mask(NamedTuple):
    """Where a pair is measured."""

    valid: np.ndarray  # (y, x)
    table: np.ndarray  # its summed-area table, (y + 1, x + 1)
    centres: tuple[np.ndarray, np.ndarray]  # whether a window in the middle here is counted; even and odd scales


def fractions_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    thresholds: Sequence[float],
    scales: Sequence[int],
    *,
    axis: Sequence[int],
    member_axis: int | None = None,
    boundary: str = "renormalise",
    min_valid: float = 0.0,
    skipna: bool = True,
) -> np.ndarray:
    """Sums over windows of squared fractions and their squared difference, at all thresholds and scales at once.

    The fraction of a window is the share of its measured cells with an event; of an ensemble, the mean over these
    cells of the share of members with one. A window counts if its centre is measured: the middle cell where the
    scale is odd, any of the four cells around the middle corner where it is even. So NaN around a grid changes
    nothing, and neither does turning both fields over.

    An event is ``value >= threshold``, the threshold cast to the dtype of the field. ``scales``: width of the windows
    in cells; may be wider than the grid. ``member_axis``: non-negative axis of the members of an ensemble; length 1 in
    the result. Without it every member is a forecast of its own. ``boundary``: "renormalise": windows centred on the
    grid, its edge included; cells off the grid are not measured. "interior": windows that lie on the grid. "zero": as
    the first, but off the grid it is dry. "pysteps" and "scores": as "zero", with the windows that pysteps or scores
    (zero padding) takes, which differ on opposite sides of the grid where the scale is even, or odd, respectively.
    ``min_valid``: share of a window's ``scale ** 2`` cells that must be measured. ``skipna``: False: a NaN makes the
    sums of its field NaN. Returned: float64, shape ``(*shape with 1 at axis and member_axis, threshold, scale, 5)``:
    squared difference, squared forecast and squared observed fraction; number of observed events and of measured cells,
    the same at every scale.

    >>> o, f = np.zeros((8, 8)), np.zeros((8, 8))
    >>> o[0, 0], f[1, 1] = 1, 1
    >>> fractions_sums(o, f, [0.5], [1], axis=[0, 1])[0, 0, 0, 0].tolist()
    [2.0, 1.0, 1.0, 1.0, 64.0]
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    shape = broadcast_shape(observations, forecasts)
    alone = [] if member_axis is None else [member_axis]
    kept = summed_shape(shape, [*axis, *alone])
    sums = np.zeros((*kept, len(thresholds), len(scales), 5))
    n = max(observations.size, forecasts.size)
    saves = n * len(thresholds) * len(scales) * SAVED
    windows = [[_windows(n, scale, boundary) for n in shape[-2:]] for scale in scales]
    least = [min_valid * scale**2 for scale in scales]
    # Off the grid nothing is measured, so that with a least number small windows at its edge drop out.
    masked = boundary == "renormalise" and min_valid > 0
    large = (1 if member_axis is None else shape[member_axis]) * shape[-2] * shape[-1] > LARGEST_COUNT
    shared: dict = {"of": None}  # tables of the last observations and of the last mask, for the next forecast
    for leading in np.ndindex(summed_shape(shape[:-2], alone)):
        index = tuple(slice(None) if a in alone else slice(i, i + 1) for a, i in enumerate(leading))
        index += (slice(None), slice(None))
        o_index = within(index, observations.shape)
        pair = _paired(
            observations[o_index].reshape(shape[-2:]),
            forecasts[within(index, forecasts.shape)].reshape(-1, *shape[-2:]),
        )
        if pair.valid is None and (masked or large):
            pair = pair._replace(valid=np.ones(shape[-2:], bool))
        if pair.members is None and large:
            pair = pair._replace(members=np.full(shape[-2:], len(pair.forecasts)))
        if pair.valid is not None or shared["of"] != o_index:
            mask = {"mask": shared["mask"]} if "mask" in shared else {}
            shared = {"of": None if pair.valid is not None else o_index, **mask}
        target = sums[within(index, kept)].reshape(len(thresholds), len(scales), 5)  # a view: one cell is kept
        if pair.valid is not None and not skipna and not pair.valid.all():
            target += np.nan
        elif pair.valid is None or pair.valid.any():
            loop = _add_whole_compiled if pair.valid is None else _add_masked_compiled
            fast = use_compiled(n, loop, saves=saves, compiling=COMPILING)
            _add_pair(target, pair, thresholds, windows, least, shared, fast)
    return sums


def _paired(observed: np.ndarray, forecasts: np.ndarray) -> _Pair:
    if not (np.isnan(observed.min()) or np.isnan(forecasts.min())):  # the least is NaN if any is
        return _Pair(observed, forecasts, None, None)
    o_nan, f_nan = np.isnan(observed), np.isnan(forecasts)
    all_nan = f_nan[0] if len(f_nan) == 1 else f_nan.all(axis=0)
    missing = o_nan | all_nan
    n_missing, n_all = np.count_nonzero(missing), np.count_nonzero(all_nan)
    if n_missing > np.count_nonzero(o_nan):
        observed = np.where(missing, observed.dtype.type(np.nan), observed)
    if n_missing > n_all:
        forecasts = np.where(missing, forecasts.dtype.type(np.nan), forecasts)
    if np.count_nonzero(f_nan) == len(f_nan) * n_all:
        return _Pair(observed, forecasts, ~missing, None)
    # Where members are missing one by one, a cell has the share of those that are left.
    left = len(f_nan) - f_nan.sum(axis=0)
    return _Pair(observed, forecasts, ~missing, np.where(missing, 1, left))


@lru_cache(maxsize=256)
def _windows(n: int, scale: int, boundary: str) -> _Windows:
    """Windows of one scale along an axis of n cells."""
    if boundary == "interior":
        first, count = 0, max(n - scale + 1, 0)
    else:
        first, count = -(min(scale // 2, n)), n + (scale + 1) % 2
        count = {"pysteps": n, "scores": n + 1}.get(boundary, count)
    width = min(scale, 2 * n + scale % 2)  # wide enough to hold the whole grid from wherever it is centred
    start = first + np.arange(count)
    low, high = np.clip(start, 0, n), np.clip(start + width, 0, n)
    on_grid = boundary in ("renormalise", "interior")
    cells = (high - low).astype(np.float64) if on_grid else np.full(count, float(scale))
    alike = np.flatnonzero(cells == cells.max(initial=0))
    return _Windows(first, width, low, high, cells, (int(alike[0]), int(alike[-1]) + 1) if alike.size else (0, 0))


def _add_pair(target, pair: _Pair, thresholds, windows, least, shared: dict, fast: bool) -> None:
    """Add the sums of one pair of fields to ``target``, ``(threshold, scale, 5)``."""
    n_members = len(pair.forecasts) if pair.members is None else 1
    valid = None if pair.valid is None else _mask_of(pair.valid, shared, fast)
    add_whole, add_masked = (_whole_compiled, _masked_compiled) if fast else (_whole_numpy, _masked_numpy)
    for t, threshold in enumerate(thresholds):
        if t not in shared:
            shared[t] = _table_of(pair.observed[np.newaxis], threshold, None, fast)
        of_obs, of_fcst = shared[t], _table_of(pair.forecasts, threshold, pair.members, fast)
        for s, (y, x) in enumerate(windows):
            if not (y.low.size and x.low.size):
                continue
            if valid is None:
                target[t, s, :3] += add_whole(of_fcst, of_obs, n_members, y, x)
            else:
                centre = valid.centres[y.width % 2]
                target[t, s, :3] += add_masked(of_fcst, of_obs, n_members, y, x, valid.table, centre, least[s])
        target[t, :, 3] += of_obs[-1, -1]
        target[t, :, 4] += pair.observed.size if valid is None else valid.table[-1, -1]


def _mask_of(valid: np.ndarray, shared: dict, fast: bool) -> _Mask:
    """What the windows need of a mask; the same as before where the mask is, as a radar's disc."""
    if "mask" not in shared or not np.array_equal(shared["mask"].valid, valid):
        table = _table_of(valid.view(np.int8)[np.newaxis], 1, None, fast)
        middle_cell = np.zeros(table.shape, bool)
        middle_cell[:-1, :-1] = valid
        middle_corner = middle_cell.copy()
        middle_cell[-1], middle_cell[:, -1] = True, True  # off the grid, where only "scores" has windows: it is dry
        middle_corner[1:, :-1] |= valid
        middle_corner[:-1, 1:] |= valid
        middle_corner[1:, 1:] |= valid
        shared["mask"] = _Mask(valid, table, (middle_corner, middle_cell))
    return shared["mask"]


# ---------------------------------------------------------------- summed-area tables


def _table_of(fields: np.ndarray, threshold: float, members: np.ndarray | None, fast: bool) -> np.ndarray:
    """Summed-area table of the number of ``fields`` (member, y, x) with an event, or of their share of ``members``."""
    reached = fields.dtype.type(threshold)
    if len(fields) == 1 and members is None:
        if not fast:
            return _summed_area(fields[0] >= reached)
        table = np.zeros((fields.shape[1] + 1, fields.shape[2] + 1), np.int32)
        _summed_area_compiled(np.ascontiguousarray(fields[0]), reached, table)
        return table
    events = np.zeros(fields.shape[1:], np.int32)
    for field in fields:
        events += field >= reached
    return _summed_area(events if members is None else events / members)


def _summed_area(values: np.ndarray) -> np.ndarray:
    """Sum of the values above and left of each corner of the grid, ``(y, x) -> (y + 1, x + 1)``."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.float64 if values.dtype.kind == "f" else np.int32)
    np.cumsum(values, axis=1, dtype=table.dtype, out=table[1:, 1:])
    return np.cumsum(table, axis=0, out=table)


@compiled
def _summed_area_compiled(field, threshold, table):
    n = field.shape[1]
    one, two = np.zeros((2, n + 8), np.int32)  # eight zeros, then the row
    odd, even = one[8:], two[8:]
    for i in range(field.shape[0]):
        row, above, below = field[i], table[i, 1:], table[i + 1, 1:]
        # Sums of 2, 4 and 8 neighbours, then of every eighth: in vector registers, which a plain running sum is not.
        for j in range(n):
            odd[j] = row[j] >= threshold
        for j in range(n):
            even[j] = odd[j] + one[j + 7]
        for j in range(n):
            odd[j] = even[j] + two[j + 6]
        for j in range(n):
            even[j] = odd[j] + one[j + 4]
        for j in range(8, n):
            even[j] = even[j] + even[j - 8]
        for j in range(n):
            below[j] = above[j] + even[j]


# ---------------------------------------------------------------- sums over windows


def _whole_numpy(of_fcst, of_obs, n_members: int, y: _Windows, x: _Windows) -> np.ndarray:
    """Squared difference, squared forecast and squared observed fraction, summed over windows of measured cells."""
    sums = np.zeros(3)
    for tile in _tiles(y):
        fcst, obs = _window_sums(of_fcst, y, x, tile), _window_sums(of_obs, y, x, tile)
        if n_members > 1:
            obs *= n_members
        sums += _sums_of_squares(fcst, obs, 1 / y.cells[tile], 1 / x.cells)
    return sums / n_members**2


def _masked_numpy(of_fcst, of_obs, n_members: int, y, x, of_valid, centres, least) -> np.ndarray:
    """The same with fractions of the cells that are measured, where the centre and ``least`` cells are."""
    sums, ones = np.zeros(3), [np.ones(w.low.size) for w in (y, x)]
    centres = _centres_of_windows(centres, y, x)
    for tile in _tiles(y):
        cells = _window_sums(of_valid, y, x, tile) + _cells_off_grid(y, x, tile)
        share = np.zeros(cells.shape)
        np.divide(1.0, cells, out=share, where=centres[tile] & (cells >= least))
        obs = _window_sums(of_obs, y, x, tile) * share
        fcst = _window_sums(of_fcst, y, x, tile) * np.divide(share, n_members, out=share)
        sums += _sums_of_squares(fcst, obs, ones[0][tile], ones[1])
    return sums


def _tiles(y: _Windows) -> list[slice]:
    return [slice(i, i + TILE_ROWS) for i in range(0, y.low.size, TILE_ROWS)]


def _centres_of_windows(centres: np.ndarray, y: _Windows, x: _Windows) -> np.ndarray:
    first = [w.first + w.width // 2 for w in (y, x)]
    return centres[first[0] : first[0] + y.low.size, first[1] : first[1] + x.low.size]


def _cells_off_grid(y: _Windows, x: _Windows, tile: slice) -> np.ndarray:
    """How many cells off the grid count as measured, in each window of some rows."""
    on_grid = np.multiply.outer((y.high - y.low)[tile], x.high - x.low)
    return np.multiply.outer(y.cells[tile], x.cells) - on_grid


def _window_sums(table: np.ndarray, y: _Windows, x: _Windows, tile: slice) -> np.ndarray:
    """Sum in each window of some rows of windows."""
    n_x, n = table.shape[1], x.low.size
    # What lies above the lower edge of a row of windows less what lies above the upper one, both ends continued.
    band = np.empty((y.low[tile].size, max(n_x - x.first, n + x.width)), table.dtype)
    inner = band[:, -x.first : n_x - x.first]
    np.subtract(_rows(table, y.high[tile]), _rows(table, y.low[tile]), out=inner)
    band[:, : -x.first] = 0
    band[:, n_x - x.first :] = inner[:, -1:]
    return band[:, x.width : x.width + n] - band[:, :n]


def _rows(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The same as ``table[rows]``, without a copy where it can be had."""
    successive = rows[-1] - rows[0] == rows.size - 1
    return table[rows[0] : rows[-1] + 1] if successive else table[rows]


def _sums_of_squares(fcst: np.ndarray, obs: np.ndarray, of_row: np.ndarray, of_column: np.ndarray) -> list[float]:
    """Sums of the squared difference and squares of both, times weights of rows and columns, in float64."""
    sums = []
    for part in (fcst - obs, fcst, obs):
        squares = part.astype(np.float64)
        np.multiply(squares, squares, out=squares)
        sums.append(of_row**2 @ (squares @ of_column**2))
    return sums


def _whole_compiled(of_fcst, of_obs, n_members: int, y: _Windows, x: _Windows) -> np.ndarray:
    sums = np.zeros((3, x.low.size))
    # Windows of one width are added up in integers, and in short ones if the squares of a row fit into these.
    largest = (n_members * y.width * x.width) ** 2 * x.low.size
    first, last = x.alike if largest < 2**62 else (0, 0)
    edges = (-x.first, x.width, first, last)
    _add_whole_compiled(of_fcst, of_obs, n_members, y.low, y.high, y.cells, *edges, largest < 2**31, sums)
    return (sums / (x.cells * n_members) ** 2).sum(axis=1)


@compiled
def _add_whole_compiled(of_fcst, of_obs, n_members, low, high, cells, before, width, first, last, short, sums):
    n_x, n = of_obs.shape[1], sums.shape[1]
    members = np.int32(n_members)
    bands = np.zeros((2, max(before + n_x, n + width)), np.int32)
    f_left, o_left, f_right, o_right = bands[0], bands[1], bands[0, width:], bands[1, width:]
    f_inner, o_inner = bands[0, before:], bands[1, before:]
    f_start, f_end, o_start, o_end = f_left[first:last], f_right[first:last], o_left[first:last], o_right[first:last]
    for i in range(low.size):
        f_high, f_low, o_high, o_low = of_fcst[high[i]], of_fcst[low[i]], of_obs[high[i]], of_obs[low[i]]
        for j in range(n_x):
            f_inner[j] = f_high[j] - f_low[j]
            o_inner[j] = o_high[j] - o_low[j]
        f_inner[n_x:] = f_inner[n_x - 1]
        o_inner[n_x:] = o_inner[n_x - 1]
        weight = 1 / (cells[i] * cells[i])
        if short:
            difference, of_f, of_o = _short_squares(f_start, f_end, o_start, o_end, members)
        else:
            difference, of_f, of_o = _long_squares(f_start, f_end, o_start, o_end, members)
        sums[0, first] += difference * weight
        sums[1, first] += of_f * weight
        sums[2, first] += of_o * weight
        for start, stop in ((0, first), (last, n)):
            for j in range(start, stop):
                share_f = float(f_right[j] - f_left[j])
                share_o = float(o_right[j] - o_left[j]) * n_members
                sums[0, j] += (share_f - share_o) * (share_f - share_o) * weight
                sums[1, j] += share_f * share_f * weight
                sums[2, j] += share_o * share_o * weight


@compiled
def _short_squares(f_start, f_end, o_start, o_end, members):
    """Sums of the squared difference and of both squares, in int32: a register holds twice as many as of int64."""
    difference, of_f, of_o = np.int32(0), np.int32(0), np.int32(0)
    for j in range(len(f_start)):
        f = np.int32(f_end[j] - f_start[j])
        o = np.int32(np.int32(o_end[j] - o_start[j]) * members)
        d = np.int32(f - o)
        difference = np.int32(difference + np.int32(d * d))
        of_f = np.int32(of_f + np.int32(f * f))
        of_o = np.int32(of_o + np.int32(o * o))
    return np.int64(difference), np.int64(of_f), np.int64(of_o)


@compiled
def _long_squares(f_start, f_end, o_start, o_end, members):
    """The same in int64."""
    difference, of_f, of_o = np.int64(0), np.int64(0), np.int64(0)
    for j in range(len(f_start)):
        f = np.int32(f_end[j] - f_start[j])
        o = np.int32(np.int32(o_end[j] - o_start[j]) * members)
        d = np.int32(f - o)  # int32 all the way to the products
        difference += np.int64(d) * np.int64(d)
        of_f += np.int64(f) * np.int64(f)
        of_o += np.int64(o) * np.int64(o)
    return difference, of_f, of_o


def _masked_compiled(of_fcst, of_obs, n_members: int, y, x, of_valid, centres, least) -> np.ndarray:
    sums = np.zeros((3, x.low.size))
    centres = _centres_of_windows(centres, y, x)
    on_grid = (x.high - x.low).astype(np.float64)
    _add_masked_compiled(
        *(of_fcst, of_obs, of_valid, centres, float(least), n_members),
        *(y.low, y.high, y.cells, x.cells, on_grid, -x.first, x.width, sums),
    )
    return sums.sum(axis=1) / n_members**2


@compiled
def _add_masked_compiled(
    of_fcst, of_obs, of_valid, centres, least, n_members, low, high, y_cells, x_cells, x_on_grid, before, width, sums
):
    n_x, n = of_obs.shape[1], sums.shape[1]
    bands = np.zeros((2, max(before + n_x, n + width)), np.int32)
    o_left, v_left, o_right, v_right = bands[0], bands[1], bands[0, width:], bands[1, width:]
    o_inner, v_inner = bands[0, before:], bands[1, before:]
    f_left = np.zeros(bands.shape[1], of_fcst.dtype)
    f_inner, f_right = f_left[before:], f_left[width:]
    f_window = np.zeros(n, of_fcst.dtype)
    of_difference, of_f, of_o = sums[0], sums[1], sums[2]
    for i in range(low.size):
        f_high, f_low, o_high, o_low = of_fcst[high[i]], of_fcst[low[i]], of_obs[high[i]], of_obs[low[i]]
        v_high, v_low, counted = of_valid[high[i]], of_valid[low[i]], centres[i]
        for j in range(n_x):
            f_inner[j] = f_high[j] - f_low[j]
            o_inner[j] = o_high[j] - o_low[j]
            v_inner[j] = v_high[j] - v_low[j]
        f_inner[n_x:] = f_inner[n_x - 1]
        o_inner[n_x:] = o_inner[n_x - 1]
        v_inner[n_x:] = v_inner[n_x - 1]
        of_cells, y_on_grid = y_cells[i], float(high[i] - low[i])
        for j in range(n):
            f_window[j] = f_right[j] - f_left[j]
        for j in range(n):
            f = float(f_window[j])
            o = float(np.int32(o_right[j] - o_left[j])) * n_members
            cells = float(np.int32(v_right[j] - v_left[j])) + of_cells * x_cells[j] - y_on_grid * x_on_grid[j]
            weight = 1 / (cells * cells) if counted[j] and cells >= least else 0.0
            of_difference[j] += (f - o) * (f - o) * weight
            of_f[j] += f * f * weight
            of_o[j] += o * o * weight
