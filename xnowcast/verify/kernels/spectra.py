"""Radially averaged power spectra: how the variance of fields is spread over wavelengths."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from xnowcast.verify.kernels.slabs import as_floats, broadcast_shape, summed_shape

Window = Literal["hann"] | None
Detrend = Literal["mean"] | None
Binning = Literal["physical", "corners", "pysteps"]

WINDOWS = ("hann", None)
DETRENDS = ("mean", None)
BINNINGS = ("physical", "corners", "pysteps")


@dataclass(frozen=True, eq=False)
class Rings:
    """Which ring each Fourier mode of a grid belongs to.

    ``wavenumber``: ``(ring,)``, cycles per km (per unit of the spacing). ``modes``: ``(ring,)``, number of modes of the
    full transform in each ring. ``index``: flat, ``(y * (x // 2 + 1),)``: ring of each mode of the half transform; the
    number of rings where none. ``twice``: columns of the half transform that stand for two modes.
    """

    wavenumber: np.ndarray
    modes: np.ndarray
    index: np.ndarray
    twice: slice


@lru_cache(maxsize=8)
def rings(shape: tuple[int, int], spacing: tuple[float, float], binning: Binning = "physical") -> Rings:
    """Rings of equal width in wavenumber.

    ``shape``: rows and columns of the grid, at least 4 each. ``spacing``: distance of neighbouring rows and of columns,
    km. ``binning``: "physical": rings around multiples of ``1 / L``, where L is the longer side in km, up to the
    largest wavenumber that both directions resolve. "corners": the same and on to the corners of the transform, so that
    all modes but the mean are in a ring. "pysteps": rings around whole index numbers, whatever the sides of the grid,
    and the mean; on a square grid the same but for the ends. ValueError if the grid is too small, a spacing not over 0
    or the binning unknown.

    >>> rings((8, 8), (1.0, 1.0)).wavenumber.tolist()
    [0.125, 0.25, 0.375, 0.5]
    >>> int(rings((8, 6), (1.0, 2.0), "corners").modes.sum())
    47
    """
    rows, columns = shape
    if min(rows, columns) < 4:
        raise ValueError(f"the grid is {rows} x {columns}; a spectrum needs at least 4 x 4 cells")
    if not (min(spacing) > 0 and np.isfinite(spacing).all()):
        raise ValueError(f"the grid spacing is {spacing[0]} by {spacing[1]} km; it must be over 0")
    if binning == "pysteps":
        y, x = np.fft.fftfreq(rows, 1 / rows), np.fft.rfftfreq(columns, 1 / columns)
        longest = max(shape)
        numbers = np.arange((longest + 1) // 2)
        # Theirs has one spacing; a ring of index numbers has no wavenumber where there are two.
        step = 1.0 / (longest * spacing[0 if rows >= columns else 1])
        ring = np.rint(np.hypot(y[:, np.newaxis], x))
    elif binning in BINNINGS:
        y, x = np.fft.fftfreq(rows, spacing[0]), np.fft.rfftfreq(columns, spacing[1])
        step = 1.0 / max(rows * spacing[0], columns * spacing[1])
        ring = np.rint(np.hypot(y[:, np.newaxis], x) / step)
        resolved = 0.5 / max(spacing) / step
        last = ring.max() if binning == "corners" else np.floor(resolved + 1e-6)
        numbers = np.arange(1, int(last) + 1)
    else:
        raise ValueError(f"binning is {binning!r}; it can be {', '.join(map(repr, BINNINGS))}")
    first = int(numbers[0])
    index = np.where((ring >= first) & (ring <= numbers[-1]), ring - first, len(numbers)).astype(np.intp)
    twice = slice(1, (columns + 1) // 2)  # not the mean and, in even rows, not the shortest wave
    counts = np.ones(index.shape)
    counts[:, twice] = 2
    modes = np.bincount(index.ravel(), counts.ravel(), minlength=len(numbers) + 1)[:-1]
    return Rings(numbers * step, modes, index.ravel(), twice)


def ring_power(
    field: np.ndarray, grid: Rings, *, window: Window = None, detrend: Detrend = "mean", density: float = 1.0
) -> np.ndarray:
    """Mean power of the modes in each ring, of one field without NaN.

    ``field``: ``(y, x)``; float32 stays float32 in the transform. ``grid``: of its shape. ``window``: taper to 0 at the
    edges, against what a step from one edge to the other adds to short waves. Power is divided by the mean square of
    the window, which keeps that of a homogeneous field. ``detrend``: whether to subtract the mean first. ``density``:
    factor to ``|F|^2 / N``: the area of a cell makes it a density. Returned: float64, ``(ring,)``; NaN in a ring
    without modes.

    >>> wave = np.cos(2 * np.pi * np.arange(16) / 4) * np.ones((16, 1))
    >>> power = ring_power(wave, rings((16, 16), (1.0, 1.0)))
    >>> int(power.argmax()) + 1, bool((power * rings((16, 16), (1.0, 1.0)).modes).sum() / 256 == (wave**2).mean())
    (4, True)
    """
    from scipy.fft import rfft2  # here, as it would cost every import; numpy's takes twice as long

    scale = density / field.size
    if detrend == "mean":
        field = field - field.dtype.type(field.mean(dtype=np.float64))
    if window == "hann":
        taper, mean_square = _hann(field.shape)
        field = field * taper.astype(field.dtype)
        scale /= mean_square
    elif window is not None:
        raise ValueError(f"window is {window!r}; it can be 'hann' or None")
    transform = rfft2(field, overwrite_x=detrend == "mean" or window is not None)
    power = np.square(transform.real)
    power += np.square(transform.imag)
    power[:, grid.twice] *= 2
    n_rings = len(grid.modes)
    total = np.bincount(grid.index, power.ravel(), minlength=n_rings + 1)[:n_rings]
    return np.divide(total * scale, grid.modes, where=grid.modes > 0, out=np.full(n_rings, np.nan))


@lru_cache(maxsize=4)
def _hann(shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    taper = np.hanning(shape[0])[:, np.newaxis] * np.hanning(shape[1])
    return taper, float(np.square(taper).mean())


def spectrum_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    axis: Sequence[int],
    spacing: tuple[float, float],
    window: Window = None,
    detrend: Detrend = "mean",
    binning: Binning = "physical",
    fill: float = 0.0,
    max_missing: float = 1.0,
    alone: bool = False,
    skipna: bool = True,
) -> np.ndarray:
    """Number of fields and sums of their radially averaged power.

    ``spacing, window, detrend, binning``: as for `rings` and `ring_power`. ``fill``: what cells are set to in both
    fields where either is NaN, before anything else. ``max_missing``: fields are left out where a larger part of the
    cells is NaN, and always where all are. ``alone``: whether there are only forecasts; observations are not looked at,
    and their sums stay 0. Returned: float64, shape ``(*shape with 1 at axis, 3, ring)``: number of fields, power of the
    observations, of the forecasts, in the units of the fields squared times km^2, without the latter with "pysteps".

    >>> wave = np.cos(2 * np.pi * np.arange(16) / 4) * np.ones((1, 16, 1))
    >>> sums = spectrum_sums(wave, 2 * wave, axis=[0, 1, 2], spacing=(1.0, 1.0))
    >>> (sums[0, 0, 0, 2] / sums[0, 0, 0, 1])[3].round(6).tolist()
    4.0
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    shape = broadcast_shape(observations, forecasts)
    y_x = (shape[-2], shape[-1])
    grid = rings(y_x, spacing, binning)
    density = 1.0 if binning == "pysteps" else spacing[0] * spacing[1]
    kept = summed_shape(shape, axis)
    sums = np.zeros((*kept, 3, len(grid.modes)))
    shared: tuple[tuple, np.ndarray | None, np.ndarray] | None = None  # spectrum of the last observations
    for index, o_index, f_index in _planes(shape, observations.shape, forecasts.shape):
        obs, fcst = observations[o_index], forecasts[f_index]
        target = sums[tuple(0 if n == 1 else i for i, n in zip(index, kept, strict=False))]
        target = target.reshape(3, -1)
        missing = np.isnan(fcst) if alone else np.isnan(fcst) | np.isnan(obs)
        n_missing = int(np.count_nonzero(missing))
        if n_missing and not skipna:
            target[...] = np.nan
        if n_missing == missing.size or n_missing > max_missing * missing.size:
            continue
        options: dict[str, Any] = {"window": window, "detrend": detrend, "density": density}
        target[0] += 1
        target[2] += ring_power(_filled(fcst, missing, n_missing, fill), grid, **options)
        if alone:
            continue
        mask = missing if n_missing else None
        if shared is None or shared[0] != o_index or not _same(shared[1], mask):
            shared = (o_index, mask, ring_power(_filled(obs, missing, n_missing, fill), grid, **options))
        target[1] += shared[2]
    return sums


def _planes(
    shape: tuple[int, ...], o_shape: tuple[int, ...], f_shape: tuple[int, ...]
) -> Iterator[tuple[tuple, tuple, tuple]]:
    """Index of each field in all leading axes, in the observations and in the forecasts."""
    for index in np.ndindex(shape[:-2]):
        sides = [tuple(0 if n == 1 else i for i, n in zip(index, s[:-2], strict=True)) for s in (o_shape, f_shape)]
        yield index, sides[0], sides[1]


def _filled(field: np.ndarray, missing: np.ndarray, n_missing: int, fill: float) -> np.ndarray:
    return np.where(missing, field.dtype.type(fill), field) if n_missing else field


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other if one is None or other is None else bool(np.array_equal(one, other))
