"""Scores of fields as images: structural similarity, peak signal-to-noise ratio, differences of gradients."""

from collections.abc import Iterator, Sequence

import numpy as np

from xnowcast.verify.kernels.compiled import compiled, use_compiled
from xnowcast.verify.kernels.slabs import Index, as_floats, broadcast_shape, summed_shape, within

# Rows and columns of windows that one matrix product filters: few enough that its zeros cost little.
TILE = 32
# Seconds that it takes to compile the structural similarity, and that it saves with each value.
COMPILING, SAVED = 3.0, 20e-9


def image_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    axis: Sequence[int],
    data_range: float,
    scores: Sequence[str] = ("psnr", "ssim"),
    weights: Sequence[float] = (),
    k1: float = 0.01,
    k2: float = 0.03,
    min_valid: float = 1.0,
    skipna: bool = True,
) -> np.ndarray:
    """Sums over fields of their scores, and the number of fields that have them.

    ``data_range``: largest minus smallest value that the fields can have. ``weights``: of the window of ssim along one
    axis, odd in number, symmetric, with sum 1. ``k1, k2, min_valid``: as in `mean_ssim`. Returned: float64, shape
    ``(*shape with 1 at axis, score, 2)``: sum, number of fields.

    >>> o = np.zeros((2, 2, 2))
    >>> image_sums(o, o + np.array([0.1, 0.01])[:, None, None], axis=[0, 1, 2], data_range=1.0, scores=["psnr"])
    array([[[[[60.,  2.]]]]])
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    kept = summed_shape(broadcast_shape(observations, forecasts), axis)
    sums = np.zeros((*kept, len(scores), 2))
    n, kind = max(observations.size, forecasts.size), forecasts.dtype.name
    fast = (
        use_compiled(n, _ssim_compiled, saves=n * SAVED, compiling=COMPILING, words=[kind])
        if "ssim" in scores
        else False
    )
    constants = ((k1 * data_range) ** 2, (k2 * data_range) ** 2)
    for index, obs, fcst in _pairs(observations, forecasts):
        target = sums[within(index, kept)].reshape(len(scores), 2)  # a view: one cell is kept
        # The least value is NaN if any is.
        valid = ~(np.isnan(obs) | np.isnan(fcst)) if np.isnan(obs.min()) or np.isnan(fcst.min()) else None
        if valid is not None and not skipna:
            target += np.nan
            continue
        for s, score in enumerate(scores):
            if score == "psnr":
                value = _psnr(obs, fcst, valid, data_range)
            else:
                value = mean_ssim(obs, fcst, valid, np.asarray(weights, float), constants, min_valid, fast=fast)
            if not np.isnan(value):
                target[s] += (value, 1)
    return sums


def _pairs(observations: np.ndarray, forecasts: np.ndarray) -> Iterator[tuple[Index, np.ndarray, np.ndarray]]:
    shape = broadcast_shape(observations, forecasts)
    for leading in np.ndindex(shape[:-2]):
        index = (*(slice(i, i + 1) for i in leading), slice(None), slice(None))
        obs, fcst = observations[within(index, observations.shape)], forecasts[within(index, forecasts.shape)]
        yield index, obs.reshape(shape[-2:]), fcst.reshape(shape[-2:])


def _psnr(obs: np.ndarray, fcst: np.ndarray, valid: np.ndarray | None, data_range: float) -> float:
    error = np.subtract(fcst, obs, dtype=np.float64)
    if valid is not None:
        error = error[valid]
    with np.errstate(divide="ignore", invalid="ignore"):  # equal fields: infinite; no cell: NaN
        return float(10 * np.log10(data_range**2 / (np.square(error, out=error).sum() / np.float64(error.size))))


# ---------------------------------------------------------------- structural similarity


def mean_ssim(
    obs: np.ndarray,
    fcst: np.ndarray,
    valid: np.ndarray | None,
    weights: np.ndarray,
    constants: tuple[float, float],
    min_valid: float = 1.0,
    *,
    fast: bool = False,
) -> float:
    """Mean over windows of the structural similarity of two fields; only windows that lie on the grid.

    ``obs, fcst``: ``(y, x)``, float. ``valid``: ``(y, x)``, bool; None: all cells are measured. ``weights``: ``(n,)``,
    n odd; a window's weights are the outer product with themselves. ``constants``: c1 and C2 of the formula.
    ``min_valid``: weight of the measured cells, from 0 to 1, from which a window with a measured centre counts; means
    and variances are those of its measured cells. ``fast``: whether to use the compiled kernel. Returned: NaN where no
    window counts.

    Wang et al. (2004), doi:10.1109/TIP.2003.819861, eq. 13 to 16, with weighted moments and no sample correction.

    >>> field = np.arange(25.0).reshape(5, 5)
    >>> mean_ssim(field, field, None, np.full(3, 1 / 3), (0.01, 0.09))
    1.0
    """
    if valid is not None:
        obs, fcst = np.where(valid, obs, 0), np.where(valid, fcst, 0)
    # The weights of a complete window add up to 1 but for rounding.
    least = min_valid - 1e-9
    if fast:
        mask = np.zeros((0, 0), bool) if valid is None else valid
        total, n = _ssim_compiled(obs, fcst, mask, weights, *constants, least)
    else:
        total, n = _ssim_numpy(obs, fcst, valid, weights, *constants, least)
    return total / n if n else np.nan


def _ssim_numpy(obs, fcst, valid, weights, c1, c2, least) -> tuple[float, int]:
    total, n = 0.0, 0
    half = weights.size // 2
    for start in range(0, obs.shape[0] - 2 * half, TILE):
        rows = slice(start, start + TILE + 2 * half)
        o, f = obs[rows].astype(np.float64), fcst[rows].astype(np.float64)
        # Four filters do: the variances are only needed as their sum.
        planes = np.stack([o, f, o * o + f * f, o * f, *([] if valid is None else [valid[rows]])])
        planes = _filtered(planes, weights)
        if valid is not None:
            n_y, n_x = planes.shape[1:]
            counted = (planes[4] >= least) & valid[rows][half : half + n_y, half : half + n_x]
            planes = planes[:4, counted] / planes[4, counted]
        o, f, squares, product = planes
        of_means, of_squares = o * f, o * o + f * f
        ssim = (2 * of_means + c1) * (2 * (product - of_means) + c2)
        ssim /= (of_squares + c1) * (squares - of_squares + c2)
        total += float(ssim.sum())
        n += ssim.size
    return total, n


def _filtered(planes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Planes (p, y, x) filtered along y and x where the window fits, as products with a band matrix."""
    beyond = weights.size - 1
    band = np.zeros((TILE + beyond, TILE))
    for i, weight in enumerate(weights):
        band[np.arange(TILE) + i, np.arange(TILE)] = weight
    n_y, n_x = planes.shape[1] - beyond, planes.shape[2] - beyond
    along_y = band[: n_y + beyond, :n_y].T @ planes
    result = np.empty((len(planes), n_y, n_x))
    for start in range(0, n_x, TILE):
        n = min(TILE, n_x - start)
        columns = along_y[:, :, start : start + n + beyond]
        np.matmul(columns, band[: n + beyond, :n], out=result[:, :, start : start + n])
    return result


@compiled
def _ssim_compiled(obs, fcst, valid, weights, c1, c2, least):
    size, masked = weights.size, valid.size > 0
    half, n_planes = size // 2, 5 if masked else 4
    n = obs.shape[1] - size + 1
    row = np.zeros((n_planes, obs.shape[1]))
    ring = np.zeros((size, n_planes, n))  # the last rows, filtered along x
    planes = np.zeros((n_planes, n))
    total, count = np.zeros(n), np.zeros(n)
    for i in range(obs.shape[0]):
        o_row, f_row, squares_row, product_row, o, f = row[0], row[1], row[2], row[3], obs[i], fcst[i]
        for j in range(o.size):
            o_row[j] = o[j]
            f_row[j] = f[j]
            squares_row[j] = o_row[j] * o_row[j] + f_row[j] * f_row[j]
            product_row[j] = o_row[j] * f_row[j]
        if masked:
            for j in range(o.size):
                row[4, j] = valid[i, j]
        for p in range(n_planes):
            out = ring[i % size, p]
            _filter(row[p, half:], out, weights[half])
            for t in range(half % 2, half, 2):  # two by two, since a result is loaded and stored each time
                left, right = row[p, t:], row[p, size - 2 - t :]
                _add_two(left, left[1:], right, right[1:], out, weights[t], weights[t + 1])
            if half % 2:
                _add_one(row[p], row[p, size - 1 :], out, weights[0])
        if i < size - 1:
            continue
        for p in range(n_planes):
            out = planes[p]
            _filter(ring[(i - half) % size, p], out, weights[half])
            for t in range(half % 2, half, 2):
                a, b = ring[(i + 1 + t) % size, p], ring[(i + 2 + t) % size, p]
                c, d = ring[(i - t - 1) % size, p], ring[(i - t) % size, p]
                _add_two(a, b, c, d, out, weights[t], weights[t + 1])
            if half % 2:
                _add_one(ring[(i + 1) % size, p], ring[i % size, p], out, weights[0])
        if masked:
            _add_ssim_of_measured(planes, valid[i - half, half:], c1, c2, least, total, count)
        else:
            _add_ssim(planes, c1, c2, total)
    if not masked:
        count[:] = max(obs.shape[0] - size + 1, 0)
    return total.sum(), int(count.sum())


@compiled
def _filter(values, result, weight):
    for j in range(result.size):
        result[j] = weight * values[j]


@compiled
def _add_one(first, last, result, weight):
    for j in range(result.size):
        result[j] += weight * (first[j] + last[j])


@compiled
def _add_two(first, second, last_but_one, last, result, outer, inner):
    for j in range(result.size):
        result[j] += outer * (first[j] + last[j]) + inner * (second[j] + last_but_one[j])


@compiled
def _add_ssim(planes, c1, c2, total):
    of_o, of_f, of_squares, of_product = planes[0], planes[1], planes[2], planes[3]
    for j in range(total.size):
        means, squares = of_o[j] * of_f[j], of_o[j] * of_o[j] + of_f[j] * of_f[j]
        top = (2 * means + c1) * (2 * (of_product[j] - means) + c2)
        total[j] += top / ((squares + c1) * (of_squares[j] - squares + c2))


@compiled
def _add_ssim_of_measured(planes, centre, c1, c2, least, total, count):
    of_o, of_f, of_squares, of_product, of_valid = planes[0], planes[1], planes[2], planes[3], planes[4]
    for j in range(total.size):
        counted = centre[j] and of_valid[j] >= least
        share = of_valid[j] if counted else 1.0
        o, f = of_o[j] / share, of_f[j] / share
        means, squares = o * f, o * o + f * f
        top = (2 * means + c1) * (2 * (of_product[j] / share - means) + c2)
        ssim = top / ((squares + c1) * (of_squares[j] / share - squares + c2))
        total[j] += ssim if counted else 0.0
        count[j] += 1.0 if counted else 0.0


# ---------------------------------------------------------------- gradients


def gradient_sums(
    observations: np.ndarray, forecasts: np.ndarray, *, axis: Sequence[int], skipna: bool = True
) -> np.ndarray:
    """Sum of the differences between absolute gradients, ``||dO| - |dF||`` along y and along x.

    Gradients with a NaN are dropped. Returned: float64, shape ``(*shape with 1 at axis, 3)``: sum, number of gradients,
    number of fields with any.

    >>> gradient_sums(np.array([[0.0, 2.0]]), np.array([[0.0, 5.0]]), axis=[0, 1]).tolist()
    [[[3.0, 1.0, 1.0]]]
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    kept = summed_shape(broadcast_shape(observations, forecasts), axis)
    sums = np.zeros((*kept, 3))
    for index, obs, fcst in _pairs(observations, forecasts):
        total, n = 0.0, 0
        for along in (0, 1):
            o, f = (np.abs(np.diff(field.astype(np.float64), axis=along)) for field in (obs, fcst))
            difference = np.abs(o - f)
            missing = np.isnan(difference)
            if skipna:
                difference[missing] = 0
            total += float(difference.sum())
            n += difference.size - np.count_nonzero(missing)
        sums[within(index, kept)].reshape(3)[:] += (total, n, n > 0)
    return sums
