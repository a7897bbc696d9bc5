"""Scores of fields as images: structural similarity, peak signal-to-noise ratio, difference of gradients.

Learned distances (LPIPS, FVD) are in `xnowcast.verify.learned`.
"""

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.verify.align import find_spatial_dims
from xnowcast.verify.amounts import error_sums
from xnowcast.verify.chunks import Dims, sums_of_fields
from xnowcast.verify.events import SpatialDims
from xnowcast.verify.kernels import images
from xnowcast.verify.score import score_of
from xnowcast.verify.sums import XarrayObject, additive, per_cell, table_of

SCORES = ("psnr", "ssim")
_NEEDS_RANGE = (
    "needs data_range=, the largest minus the smallest value that the data can have, such as 255 for 8-bit pixels; "
    "taken from each field it would make scores of different fields incomparable"
)
GRADIENT_SUMS = ("gradient_difference", "gradients", "fields")


@additive(
    *(f"{score}{end}" for score in SCORES for end in ("", "_fields")),
    settings=["data_range", "window", "sigma", "k1", "k2", "min_valid", "member_dim"],
    called="sums from image_sums",
)
def image_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    data_range: float,
    scores: Sequence[str] = SCORES,
    window: int = 11,
    sigma: float | None = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    min_valid: float = 1.0,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Sums over fields of their peak signal-to-noise ratio and structural similarity, in one pass.

    Sums of different files or months are added up with `merge` or ``.sum(dim)`` before a mean is taken of them.

    Parameters
    ----------
    data_range : float
        Largest minus smallest value that the data can have, such as 255 for 8-bit pixels or 70 for 0 to 70 dBZ. Both
        scores depend on it, so it is never taken from the fields.
    scores : sequence of {"psnr", "ssim"}
        Those wanted.
    window : int
        Width of the windows of ssim in cells, odd.
    sigma : float or None
        Standard deviation of their Gaussian weights, in cells; None for equal weights.
    k1, k2 : float
        Constants of ssim.
    min_valid : float
        Weight, from 0 to 1, that the measured cells of a window of ssim must have. 1: windows with a NaN are left
        out. Below: their means and variances are those of the measured cells, if the cell in the middle is one.

    Returns
    -------
    xarray.Dataset
        For each score its sum, such as ``ssim``, and the number of fields that have one, ``ssim_fields``; float64.
        Datasets as input give a dim ``variable``. Lazy where an input is; the horizontal dims are brought into one
        chunk.

    Raises
    ------
    ValueError
        If coordinates differ, a dim or score is unknown, ``data_range`` or ``sigma`` is not above 0, ``window`` is
        even or wider than the grid, or ``min_valid`` is not from 0 to 1.

    Examples
    --------
    >>> o = xr.DataArray(np.eye(16), dims=("y", "x"))
    >>> {name: round(float(value), 4) for name, value in image_sums(o, 0.9 * o, data_range=1.0).items()}
    {'psnr': 32.0412, 'psnr_fields': 1.0, 'ssim': 0.9892, 'ssim_fields': 1.0}
    """
    scores = tuple(scores)
    _check_options(data_range, scores, window, sigma, min_valid)
    places = find_spatial_dims(forecasts, spatial_dims)
    narrow = min(places, key=lambda place: forecasts.sizes[place])
    if "ssim" in scores and forecasts.sizes[narrow] < window:
        raise ValueError(
            f"window={window} is wider than {narrow!r} with {forecasts.sizes[narrow]} cells; choose a narrower one"
        )
    sums = sums_of_fields(
        images.image_sums,
        observations,
        forecasts,
        dim=dim,
        member_dim=member_dim,
        spatial_dims=places,
        skipna=skipna,
        new_sizes={"score": len(scores), "sum": 2},
        cell_weights=weights,
        data_range=float(data_range),
        scores=scores,
        weights=_window_weights(window, sigma),
        k1=float(k1),
        k2=float(k2),
        min_valid=float(min_valid),
    )
    names = [f"{score}{end}" for score in scores for end in ("", "_fields")]
    return table_of(sums.stack(sums=("score", "sum"), create_index=False), names)


def _check_options(
    data_range: float, scores: Sequence[str], window: int, sigma: float | None, min_valid: float
) -> None:
    unknown = [score for score in scores if score not in SCORES]
    if unknown or not scores:
        raise ValueError(f"scores={tuple(scores)} must be one or more of {', '.join(map(repr, SCORES))}")
    if not 0 < data_range < np.inf:
        raise ValueError(
            f"data_range={data_range!r} must be the largest minus the smallest value that the data can have, such as "
            "255 for 8-bit pixels"
        )
    if not check.is_whole(window, 1) or window % 2 == 0:
        raise ValueError(f"window={window!r} must be an odd number of cells")
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma={sigma!r} must be above 0, or None for windows of equal weights")
    if not 0 <= min_valid <= 1:
        raise ValueError(f"min_valid={min_valid!r} must be a share from 0 to 1")


def _window_weights(window: int, sigma: float | None) -> tuple[float, ...]:
    distance = np.arange(window) - window // 2
    weights = np.ones(window) if sigma is None else np.exp(-0.5 * (distance / sigma) ** 2)
    return tuple(float(weight) for weight in weights / weights.sum())


@score_of(
    image_sums, needs=["ssim", "ssim_fields"], fixed={"scores": ["ssim"]}, comparable=["data_range"], asks=_NEEDS_RANGE
)
def ssim(sums: xr.Dataset) -> xr.DataArray:
    """Structural similarity (SSIM): mean over windows of likeness in mean, variance and pattern, then over fields.

    In each window ``(2 mo mf + C1) (2 cov + C2) / ((mo^2 + mf^2 + C1) (vo + vf + C2))`` of weighted means m, variances
    v and the covariance, with ``C = (k data_range)^2``. Only windows that lie on the grid count.

    Returns
    -------
        From -1 to 1, the best; dimensionless. NaN where no window counts. With the defaults the number that
        Wang's code gives, and scikit-image with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``.

    References
    ----------
    Wang et al. (2004), doi:10.1109/TIP.2003.819861, eq. 13.

    Examples
    --------
    >>> o = xr.DataArray(np.eye(16), dims=("y", "x"))
    >>> round(float(ssim(o, 0.5 * o, data_range=1.0)), 4)
    0.6473
    """
    return per_cell(np.divide, sums, ["ssim", "ssim_fields"], "ssim")


@score_of(
    image_sums,
    needs=["psnr", "psnr_fields"],
    fixed={"scores": ["psnr"]},
    without=["window", "sigma", "k1", "k2", "min_valid"],
    comparable=["data_range"],
    asks=_NEEDS_RANGE,
)
def psnr(sums: xr.Dataset) -> xr.DataArray:
    """Peak signal-to-noise ratio of each field, ``10 log10(data_range^2 / MSE)``, on average over fields.

    Not `psnr_pooled`, which has the mean of the squared errors of all fields in it: it is at most as large.

    Returns
    -------
        In dB, the larger the better. Infinite as soon as one pair of fields is equal, dry ones too; NaN
        where no cell is measured.

    References
    ----------
    Hore and Ziou (2010), doi:10.1109/ICPR.2010.579.

    Examples
    --------
    >>> o = xr.DataArray(np.zeros((2, 4, 4)), dims=("time", "y", "x"))
    >>> error = xr.DataArray([0.1, 0.01], dims="time")
    >>> round(float(psnr(o, o + error, data_range=1.0)), 4), round(float(psnr_pooled(o, o + error, data_range=1.0)), 4)
    (30.0, 22.9671)
    """
    return per_cell(np.divide, sums, ["psnr", "psnr_fields"], "psnr")


@score_of(error_sums)
def psnr_pooled(sums: xr.Dataset, *, data_range: float | None = None) -> xr.DataArray:
    """Peak signal-to-noise ratio ``10 log10(data_range^2 / MSE)`` of the mean squared error over all of ``dim``.

    Not `psnr`, which takes the logarithm of each field before their mean.

    Parameters
    ----------
    data_range : float
        As for `psnr`; needed with sums too.

    Returns
    -------
        In dB, the larger the better. Infinite where all pairs are equal, NaN where there is none.

    Raises
    ------
    ValueError, TypeError
        As `error_sums`; and if ``data_range`` is missing or not above 0.

    Examples
    --------
    >>> o = xr.DataArray([0.0, 0.0], dims="x")
    >>> round(float(psnr_pooled(o, o + 0.1, data_range=1.0)), 4)
    20.0
    """
    if data_range is None:
        raise TypeError(f"psnr_pooled {_NEEDS_RANGE}")
    _check_options(data_range, SCORES, 1, None, 1)
    peak = data_range**2
    return per_cell(lambda n, s: 10 * np.log10(peak / (s / n)), sums, ["n", "squared_error"], "psnr_pooled")


@additive(*GRADIENT_SUMS, settings=["member_dim"], called="sums from gradient_sums")
def gradient_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Sum of the differences between absolute gradients of neighbouring cells, along both horizontal dims.

    Parameters
    ----------
    skipna : bool
        True: a gradient with a NaN at either end, in either field, is dropped. False: it makes the sum of its field
        NaN.

    Returns
    -------
    xarray.Dataset
        Variables ``gradient_difference``, ``gradients`` (their number) and ``fields`` (those with any), float64.


    Examples
    --------
    >>> o = xr.DataArray([[0.0, 2.0], [0.0, 2.0]], dims=("y", "x"))
    >>> [float(value) for value in gradient_sums(o, -3 * o).values()]
    [8.0, 4.0, 1.0]
    """
    sums = sums_of_fields(
        images.gradient_sums,
        observations,
        forecasts,
        dim=dim,
        member_dim=member_dim,
        spatial_dims=spatial_dims,
        skipna=skipna,
        new_sizes={"sum": len(GRADIENT_SUMS)},
        cell_weights=weights,
    )
    return table_of(sums, GRADIENT_SUMS)


@score_of(gradient_sums)
def gradient_difference(sums: xr.Dataset, *, reduce: Literal["sum", "mean"] = "mean") -> xr.DataArray:
    """Gradient difference (GDL): ``||dO| - |dF||`` over neighbouring cells along y and along x.

    Parameters
    ----------
    reduce : {"mean", "sum"}
        "sum": the sum over a field, on average over fields, as HKO-7 and DB-RNN report it; it grows with the grid.
        "mean": divided by the number of gradients.

    Returns
    -------
        In the units of the fields, from 0, the best. NaN where there is no gradient. Blurred forecasts score
        badly, and so do noisy ones.

    Raises
    ------
    ValueError, TypeError
        As `gradient_sums`; and if ``reduce`` is unknown.

    References
    ----------
    Mathieu et al. (2016), arXiv:1511.05440, eq. 6 with exponent 1.

    Examples
    --------
    >>> o = xr.DataArray([[0.0, 2.0], [0.0, 2.0]], dims=("y", "x"))
    >>> float(gradient_difference(o, 2 * o)), float(gradient_difference(o, 2 * o, reduce="sum"))
    (1.0, 4.0)
    """
    if reduce not in ("mean", "sum"):
        raise ValueError(f"reduce={reduce!r} is unknown; there are 'mean' and 'sum'")
    n = "gradients" if reduce == "mean" else "fields"
    return per_cell(np.divide, sums, ["gradient_difference", n], "gradient_difference")
