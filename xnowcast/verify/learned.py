"""Learned distances: LPIPS of fields and FVD of sequences of fields, as trained networks see them.

They are what a certain network says with certain weights, which are not part of this package: LPIPS goes through
torchmetrics, which fetches its weights, and FVD takes the features of a network that you bring, as there is no package
of FVD that is kept up: cd-fvd has had no release since 2024, and unpickles what it downloads.
"""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.fields import pixels as conversions
from xnowcast.verify.align import find_spatial_dims
from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks, sums_of_fields
from xnowcast.verify.events import SpatialDims
from xnowcast.verify.kernels import learned
from xnowcast.verify.score import score_of
from xnowcast.verify.sums import XarrayObject, additive, ensemble_mean, per_cell, table_of

NETWORKS = ("vgg", "alex", "squeeze")
"""Backbones of LPIPS that torchmetrics knows."""

RELATIONS = {"hko7": "hko-7", "dwd12": "dwd", "meteonet": "marshall-palmer"}
"""Z-R relation of each data set whose pixels are of reflectivity."""

SCALES = (*RELATIONS, "sevir")

Pixels = str | tuple[float, float]

_NEEDS_PIXELS = (
    "needs pixels=, what becomes 0 and 1 in the images that the network is shown: two values of the field, such as "
    "(-10, 60) of reflectivity, or a data set whose pixels they are, such as 'hko7'"
)


def _settings(*names: str) -> Callable[[dict[str, Any], Any, Any], dict[str, Any]]:
    """What sums have to agree in; a network in memory is known by its name."""

    def agreed(options: dict[str, Any], observations: Any, forecasts: Any) -> dict[str, Any]:
        found = {name: options[name] for name in names}
        found = {name: _named(value) if callable(value) else value for name, value in found.items()}
        found["pixels"] = found["pixels"] if isinstance(found["pixels"], str) else [*map(float, found["pixels"])]
        return found | {"ensemble_mean": options["member_dim"] is not None}

    return agreed


def _named(network: Any) -> str:
    return getattr(network, "__qualname__", type(network).__qualname__)


@additive("lpips", "lpips_fields", settings=_settings("pixels", "network", "size"), called="sums from lpips_sums")
def lpips_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    pixels: Pixels,
    network: str | Callable[..., Any] = "vgg",
    size: int | None = None,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Sum over fields of the distance that a network sees, and the number of fields.

    Parameters
    ----------
    pixels : (float, float) or {"hko7", "dwd12", "meteonet", "sevir"}
        How a field becomes an image of 0 to 1, which is repeated for the three colours. Two numbers: the values of
        the field that become 0 and 1; what lies beyond is clipped. A data set: its pixels over 255, of rain rate in mm
        h-1 by the data set's Z-R relation, or of vertically integrated liquid in kg m-2 ("sevir").
    network : {"vgg", "alex", "squeeze"} or callable
        A backbone by name, which needs the extra ``perceptual``. Or a function of two batches of images, torch
        tensors ``(n, 3, y, x)`` from 0 to 1, of the observations and of the forecasts, to ``n`` distances.
    size : int, optional
        Cells along y and along x that images are brought to by bicubic interpolation; 64 in STLDM's code. By default
        they are shown as they are.
    skipna : bool
        True: cells in which either is NaN (not measured) are 0 in both images, and fields of nothing else are left
        out. False: they make the sums of their field NaN.

    Returns
    -------
    xarray.Dataset
        Variables ``lpips`` and ``lpips_fields``, float64.

    Raises
    ------
    ValueError
        If coordinates differ, a dim, a network or a data set is unknown, ``pixels`` are no range, or units are not
        those of the data set.
    ImportError
        If a network is named and torchmetrics or torchvision is not there.
    OSError
        When it is computed, if the weights of the network cannot be had.

    Examples
    --------
    >>> o = xr.DataArray(np.zeros((2, 8, 8)), dims=("time", "y", "x"))
    >>> apart = lambda observed, forecast: (forecast - observed).abs().mean((1, 2, 3))
    >>> {name: float(value) for name, value in lpips_sums(o, o + 5, pixels=(0, 10), network=apart).items()}
    {'lpips': 1.0, 'lpips_fields': 2.0}
    """
    _check_network(network, size)
    forecasts = _as_images(ensemble_mean(forecasts, member_dim, skipna), pixels)
    sums = sums_of_fields(
        learned.lpips_sums,
        _as_images(observations, pixels),
        forecasts,
        dim=dim,
        member_dim=None,
        spatial_dims=spatial_dims,
        skipna=skipna,
        new_sizes={"sum": 2},
        cell_weights=weights,
        network=network,
        size=size,
    )
    return table_of(sums, ("lpips", "lpips_fields"))


@score_of(lpips_sums, comparable=["pixels"], asks=_NEEDS_PIXELS)
def lpips(sums: xr.Dataset) -> xr.DataArray:
    """Learned perceptual image patch similarity (LPIPS): how far apart a network sees two fields, on average.

    Features of a network that was trained on photographs are compared cell by cell and layer by layer, with weights
    that were fitted to what people say of pairs of photographs.

    Returns
    -------
        From 0, the best; dimensionless. NaN where no field is measured. STLDM's numbers have
        ``network="vgg", size=64``, DiffCast's ``network="alex"``: they do not compare.

    References
    ----------
    Zhang et al. (2018), arXiv:1801.03924.

    Examples
    --------
    >>> o = xr.DataArray(np.zeros((2, 8, 8)), dims=("time", "y", "x"))
    >>> apart = lambda observed, forecast: (forecast - observed).abs().mean((1, 2, 3))
    >>> float(lpips(o, o + 5, pixels=(0, 10), network=apart))
    0.5
    """
    return per_cell(np.divide, sums, ["lpips", "lpips_fields"], "lpips")


FVD_SUMS = ("clips", "observed", "observed_products", "forecast", "forecast_products")


@additive(
    *FVD_SUMS,
    own_dims=["feature", "with_feature"],
    settings=_settings("pixels", "features", "size"),
    called="sums from fvd_sums",
)
def fvd_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    features: Callable[..., Any],
    pixels: Pixels,
    size: int | None = None,
    time_dim: Hashable | None = None,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Sums of the features that a network finds in sequences of fields, and of the products of these.

    Parameters
    ----------
    features : callable
        From clips, torch tensors ``(n, 3, t, y, x)`` from 0 to 1, to features ``(n, k)``; for the distance of
        Unterthiner et al. those of I3D. It is asked once, of an empty clip, how many there are.
    pixels : (float, float) or {"hko7", "dwd12", "meteonet", "sevir"}
        As for `lpips_sums`.
    size : int, optional
        Likewise.
    time_dim : hashable, optional
        Along which fields follow each other in a clip. By default ``lead_time``, or else ``time``.
    dim : str or iterable of hashable, optional
        Dims whose clips are taken together; all by default. The horizontal dims and ``time_dim`` always go. Members of
        an ensemble are clips of their own.
    skipna : bool
        True: cells in which either is NaN (not measured) are 0 in both clips, and clips of nothing else are left out.
        False: they make the sums NaN.

    Returns
    -------
    xarray.Dataset
        Variables ``clips`` (their number), ``observed`` and ``forecast`` with the dim ``feature``, and
        ``observed_products`` and ``forecast_products`` with ``with_feature`` too; float64.

    Raises
    ------
    ValueError
        If coordinates differ, a dim or a data set is unknown, ``pixels`` are no range, units are not those of the data
        set, or the features are not one row a clip.

    Examples
    --------
    >>> o = xr.DataArray([0.0, 5.0, 10.0], dims="init_time").expand_dims(lead_time=2, y=4, x=4)
    >>> wettest = lambda clips: clips.amax((1, 2, 3, 4))[:, None]
    >>> sums = fvd_sums(o, o / 2, features=wettest, pixels=(0, 10))
    >>> int(sums["clips"]), sums["observed"].values.tolist(), sums["forecast_products"].values.tolist()
    (3, [1.5], [[0.3125]])
    """
    _check_size(size)
    forecasts = ensemble_mean(forecasts, member_dim, skipna)
    y, x = find_spatial_dims(forecasts, spatial_dims)
    clip = [_time_dim(observations, forecasts, time_dim), y, x]
    shape = tuple({**observations.sizes, **forecasts.sizes}[d] for d in clip)
    count = learned.features_of(features, np.zeros((1, *shape)), size).shape[1]
    sums = sum_over_chunks(
        learned.feature_sums,
        _as_images(observations, pixels),
        _as_images(forecasts, pixels),
        reduce=[*reduced_dims(dim, observations, forecasts), *clip],
        whole=clip,
        last=clip,
        new_sizes={"sum": 1 + 2 * (count + count**2)},
        dtype=np.float64,
        skipna=skipna,
        features=features,
        count=count,
        size=size,
    )
    return _by_name(sums, count)


def _by_name(sums: xr.DataArray, count: int) -> xr.Dataset:
    """The sums of a kernel, which lie one behind another."""
    found, first = {"clips": sums.isel(sum=0)}, 1
    for name in FVD_SUMS[1:]:
        sizes = (count, count) if name.endswith("products") else (count,)
        part = sums.isel(sum=slice(first, first + int(np.prod(sizes))))
        dims = ("feature", "with_feature")[: len(sizes)]
        kept = [d for d in sums.dims if d != "sum"]
        data = part.data.reshape(*part.shape[:-1], *sizes)
        found[name] = xr.DataArray(data, dims=[*kept, *dims], coords={d: sums.coords[d] for d in sums.coords})
        first += part.sizes["sum"]
    numbers = np.arange(count)
    return xr.Dataset(found).assign_coords(feature=numbers, with_feature=numbers)


@score_of(
    fvd_sums, comparable=["pixels"], asks=f"needs features=, a network's features of clips; and it {_NEEDS_PIXELS}"
)
def fvd(sums: xr.Dataset) -> xr.DataArray:
    """Frechet video distance (FVD): how far apart the features of forecast and observed sequences are distributed.

    ``|m_o - m_f|^2 + tr(S_o + S_f - 2 (S_o S_f)^(1/2))`` of the means m and covariances S (of a sample) of the features
    of all clips, as if they were normal. Which forecast belongs to which observation does not count. With fewer clips
    than some thousand it is far too large, and depends on their number: compare at equal numbers.

    Returns
    -------
        From 0, the best; in squared units of the features. NaN with fewer than two clips.

    References
    ----------
    Unterthiner et al. (2019), FVD: a new metric for video generation, arXiv:1812.01717.

    Examples
    --------
    >>> o = xr.DataArray([0.0, 5.0, 10.0], dims="init_time").expand_dims(lead_time=2, y=4, x=4)
    >>> wettest = lambda clips: clips.amax((1, 2, 3, 4))[:, None]
    >>> float(fvd(o, o / 2, features=wettest, pixels=(0, 10)))  # means 1/2 and 1/4, spread 1/2 and 1/4
    0.125
    """
    own, both = ["feature"], ["feature", "with_feature"]
    return xr.apply_ufunc(
        _distance_of_sums,
        *(sums[name] for name in FVD_SUMS),
        input_core_dims=[[], own, both, own, both],
        vectorize=True,
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[np.float64],
    ).rename("fvd")


def _distance_of_sums(clips: float, *sums: np.ndarray) -> float:
    """Of the number of clips, then sums and products of observations, then those of forecasts."""
    if not clips > 1:
        return np.nan
    moments = []
    for total, products in (sums[:2], sums[2:]):
        mean = total / clips
        moments += [mean, (products - clips * np.outer(mean, mean)) / (clips - 1)]
    return learned.frechet_distance(*moments)


# ---------------------------------------------------------------- fields as images


def _as_images(field: xr.DataArray, pixels: Pixels) -> xr.DataArray:
    """From 0 to 1."""
    if isinstance(pixels, str):
        if pixels not in SCALES:
            raise ValueError(f"pixels={pixels!r} is unknown; there are {', '.join(map(repr, SCALES))}, or two values")
        if pixels == "sevir":
            return conversions.vil_to_sevir_pixel(field) / 255
        reflectivity = conversions.rain_rate_to_dbz(field, zr=RELATIONS[pixels])
        return conversions.dbz_to_pixel(reflectivity, scale=pixels) / 255
    bounds = tuple(float(value) for value in pixels)
    if len(bounds) != 2 or not -np.inf < bounds[0] < bounds[1] < np.inf:
        raise ValueError(f"pixels={pixels!r} must be two values of the field, those that become 0 and 1")
    return ((field - bounds[0]) / (bounds[1] - bounds[0])).clip(0, 1)


def _check_network(network: Any, size: int | None) -> None:
    _check_size(size)
    if callable(network):
        return
    if network not in NETWORKS:
        raise ValueError(
            f"network={network!r} is unknown; there are {', '.join(map(repr, NETWORKS))}, or give a function"
        )
    learned.require_perceptual()


def _check_size(size: int | None) -> None:
    if size is not None and not check.is_whole(size, 1):
        raise ValueError(f"size={size!r} must be a number of cells, or None for images as they are")


def _time_dim(observations: xr.DataArray, forecasts: xr.DataArray, time_dim: Hashable | None) -> Hashable:
    """The dim that clips have beside the horizontal ones."""
    for name in ("lead_time", "time") if time_dim is None else (time_dim,):
        if name in observations.dims and name in forecasts.dims:
            return name
    asked = "'lead_time' or 'time'" if time_dim is None else repr(time_dim)
    raise ValueError(
        f"observations have {observations.dims} and forecasts {forecasts.dims}, without {asked} in both: give "
        "time_dim=, along which fields follow each other"
    )
