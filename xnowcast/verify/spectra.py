"""Spectral scores: at which wavelengths a forecast has the variance that was observed, and where it has lost it."""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.fields import horizontal
from xnowcast.verify.align import find_spatial_dims
from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks
from xnowcast.verify.kernels import spectra as kernels
from xnowcast.verify.kernels.spectra import Binning, Detrend, Window
from xnowcast.verify.score import Column, score_of
from xnowcast.verify.sums import (
    XarrayObject,
    additive,
    each_variable,
    ensemble_mean,
    per_cell,
    table_of,
    with_attrs,
    without_label,
)

SUMS = ("n", "observed", "forecast")

Spacing = float | tuple[float, float] | None
SpatialDims = tuple[Hashable, Hashable] | None

# What a kernel of two fields is given in place of observations for a score of one.
_ALONE = xr.DataArray(np.float32(0.0))


@additive(
    *SUMS, own_dims=["wavenumber"], settings=["window", "detrend", "binning", "fill", "max_missing", "member_dim"]
)
def spectrum_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    spacing_km: Spacing = None,
    window: Window = None,
    detrend: Detrend = "mean",
    binning: Binning = "physical",
    fill: float = 0.0,
    max_missing: float = 1.0,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    spatial_dims: SpatialDims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Number of fields and sums of their radially averaged power, in one pass.

    Parameters
    ----------
    spacing_km : float or (float, float), optional
        Distance of neighbouring cells in km, or of rows and of columns; by default read from the coordinates, of
        latitudes and longitudes in the middle of the grid.
    window : {"hann"}, optional
        Taper fields to 0 at the edges: rain that the edge cuts off otherwise adds to short waves.
    detrend : {"mean"}, optional
        Whether to subtract the mean of each field first; with a window that matters to the longest waves.
    binning : {"physical", "corners", "pysteps"}
        "physical": rings of width 1 / (longer side in km), around its multiples, up to the wavenumber that both
        directions resolve. "corners": the same and on to the corners of the transform, so that power times
        ``modes``, over the area of the grid, adds up to the variance (Parseval). "pysteps": rings and values of
        ``pysteps.utils.spectral.rapsd`` (with ``detrend=None`` also in the first ring, the mean), which counts in
        index numbers, so that on grids that are not square rings are not of one wavelength.
    fill : float
        What cells become, in both fields, where either is NaN; 0 is dry for rain rates, not for reflectivity.
    max_missing : float
        Fields are left out where a larger part of the cells is NaN, such as 0 for fields without any NaN alone.
        A field of NaN alone is left out always.
    dim : str or iterable of hashable, optional
        Dims that are summed over; all by default, members of an ensemble included. The horizontal dims become
        ``wavenumber`` whether they are named or not.
    member_dim : hashable, optional
        When given, the spectrum is that of the mean over this dim instead of the mean of the members' spectra.
    skipna : bool
        False: NaN in either field makes the sums NaN.

    Returns
    -------
    xarray.Dataset
        Variables ``n``, ``observed``, ``forecast``, float64, with the dim ``wavenumber`` (km-1) and the coordinates
        ``wavelength`` (km) and ``modes``, the number of Fourier modes in the ring. Power is a density, in the units
        of the fields squared times km2 (squared alone with "pysteps"), so it does not depend on the size of the
        grid.

    Raises
    ------
    ValueError
        If coordinates differ, a dim or an option is unknown, the grid is smaller than 4 x 4 cells or its spacing is
        unknown.

    References
    ----------
    Ruzanski and Chandrasekar (2011), doi:10.1109/TGRS.2010.2103362.

    Examples
    --------
    >>> wave = xr.DataArray(np.cos(2 * np.pi * np.arange(16) / 8) * np.ones((16, 1)), dims=("y", "x"))
    >>> sums = spectrum_sums(wave, 3 * wave, spacing_km=1.0)
    >>> peak = sums["observed"].argmax("wavenumber")
    >>> float(sums["wavelength"][peak]), round(float(sums["forecast"][peak] / sums["observed"][peak]), 6)
    (8.0, 9.0)
    """
    options: dict[str, Any] = {"window": window, "detrend": detrend, "binning": binning, "fill": fill}
    options |= {"max_missing": max_missing, "skipna": skipna, "cell_weights": weights}
    return _sums(observations, ensemble_mean(forecasts, member_dim, skipna), dim, spatial_dims, spacing_km, options)


def power_spectrum(
    field: XarrayObject,
    *,
    spacing_km: Spacing = None,
    window: Window = None,
    detrend: Detrend = "mean",
    binning: Binning = "physical",
    fill: float = 0.0,
    max_missing: float = 1.0,
    dim: Dims = None,
    spatial_dims: SpatialDims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Radially averaged power spectral density, the mean over fields.

    Parameters
    ----------
    field : xarray.DataArray or xarray.Dataset
        With two horizontal dims and any others.
    spacing_km, window, detrend, binning, fill, max_missing, spatial_dims, skipna
        As for `spectrum_sums`.
    dim : str or iterable of hashable, optional
        Dims to take the mean over; all by default.
    keep_attrs : bool
        Whether to copy the attributes of ``field``.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        With the dim ``wavenumber`` (km-1) and the coordinates ``wavelength`` (km) and ``modes``, in the units of
        the field squared times km2; float64. NaN without fields. Lazy where the input is.

    Raises
    ------
    ValueError
        As `spectrum_sums`.

    Examples
    --------
    With all modes in a ring, their power over the area of the grid is the variance:

    >>> noise = xr.DataArray(np.random.default_rng(0).normal(size=(32, 48)), dims=("y", "x"))
    >>> power = power_spectrum(noise, spacing_km=2.0, binning="corners")
    >>> variance = (power * power["modes"]).sum() / (32 * 48 * 2.0**2)
    >>> round(float(variance / noise.var()), 6)
    1.0
    """
    options: dict[str, Any] = {"window": window, "detrend": detrend, "binning": binning, "fill": fill}
    options |= {"max_missing": max_missing, "skipna": skipna, "alone": True}

    def of_one(_: xr.DataArray, array: xr.DataArray) -> xr.DataArray:
        sums = _sums(_ALONE, array, dim, spatial_dims, spacing_km, options)
        return with_attrs(per_cell(np.divide, sums, ["forecast", "n"], "power_spectrum"), array if keep_attrs else None)

    return each_variable(of_one, field, field, keep_attrs)


@score_of(spectrum_sums)
def spectral_ratio(sums: xr.Dataset, *, bands: Sequence[tuple[float, float]] | None = None) -> xr.DataArray:
    """Power of the forecasts over that of the observations, by wavelength.

    Power is added up over fields, and over the modes of a band, before it is divided.

    Parameters
    ----------
    bands : sequence of (float, float), optional
        Shortest and longest wavelength of bands in km, such as ``[(4, 8), (8, 16)]``; rings at the limits are in.
        By default one ratio for each ring.

    Returns
    -------
        With the dim ``band`` (and coordinates ``shortest`` and ``longest``, km), or ``wavenumber``. From 0, best at
        1, below 1 where the forecast is too smooth; float64, dimensionless. NaN (0/0) where neither has power,
        infinite where the observations alone have none.

    Raises
    ------
    ValueError, TypeError
        As `spectrum_sums`; or if a band has no ring.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noise = xr.DataArray(rng.normal(size=(32, 32)), dims=("y", "x"))
    >>> spectral_ratio(noise, 0.5 * noise, bands=[(4, 8), (8, 16)], spacing_km=1.0).values.round(6)
    array([0.25, 0.25])
    """
    if bands is None:
        return per_cell(np.divide, sums, ["forecast", "observed"], "spectral_ratio")
    return per_cell(np.divide, band_power(sums, bands), ["forecast", "observed"], "spectral_ratio")


def band_power(sums: xr.Dataset, bands: Sequence[tuple[float, float]]) -> xr.Dataset:
    """Power in some bands, added up over their modes, which adds up over fields of different grids as well.

    ``sums``: from `spectrum_sums`. ``bands``: as for `spectral_ratio`. Returned: ``forecast`` and ``observed``, with
    the dim ``band``. ValueError if a band has no ring.

    >>> wave = xr.DataArray(np.cos(2 * np.pi * np.arange(16) / 8) * np.ones((16, 1)), dims=("y", "x"))
    >>> power = band_power(spectrum_sums(wave, 3 * wave, spacing_km=1.0), [(4, 8)])
    >>> (power["forecast"] / power["observed"]).values.round(6)
    array([9.])
    """
    in_band = _bands(sums, bands)
    return xr.Dataset(
        {name: (sums[name] * sums["modes"] * in_band).sum("wavenumber") for name in ("forecast", "observed")}
    )


@score_of(spectrum_sums)
def effective_resolution(sums: xr.Dataset, *, ratio: float = 0.5) -> xr.DataArray:
    """Smallest wavelength at which the forecasts have more than half of the power that was observed.

    Parameters
    ----------
    ratio : float
        What `spectral_ratio` has to be over.

    Returns
    -------
        km, from two cells, the best. NaN where no wavelength has so much. Noise at the smallest scales can
        bring the ratio up again and is then taken for resolution: look at the spectra.

    Examples
    --------
    >>> x = np.arange(64)
    >>> waves = {km: np.cos(2 * np.pi * x / km) * np.ones((64, 1)) for km in (32, 16, 8, 4)}
    >>> observed = xr.DataArray(sum(waves.values()), dims=("y", "x"))
    >>> forecast = xr.DataArray(waves[32] + 0.9 * waves[16] + 0.5 * waves[8], dims=("y", "x"))
    >>> sums = spectrum_sums(observed, forecast, spacing_km=1.0)
    >>> float(effective_resolution(sums.sel(wavenumber=[1 / 32, 1 / 16, 1 / 8, 1 / 4])))
    16.0
    """
    resolved = per_cell(np.divide, sums, ["forecast", "observed"], "ratio") > ratio
    wavelength = sums["wavelength"].where(resolved, np.inf).min("wavenumber")
    return without_label(wavelength.where(np.isfinite(wavelength)).rename("effective_resolution"))


@score_of(spectrum_sums, columns=Column("log spectral distance", units="dB", range=(0, np.inf), best=0))
def log_spectral_distance(sums: xr.Dataset, *, wavelengths: tuple[float, float] | None = None) -> xr.DataArray:
    """Log spectral distance: root mean square over rings of ``10 log10 (power of forecasts / of observations)``.

    Parameters
    ----------
    wavelengths : (float, float), optional
        Shortest and longest that are looked at, km; all by default.

    Returns
    -------
        Rings in which neither has power are left out; infinite where one has none,
        such as a forecast without rain.

    Raises
    ------
    ValueError, TypeError
        As `spectrum_sums`; or if no ring is within ``wavelengths``.

    References
    ----------
    Rabiner and Juang (1993), Fundamentals of Speech Recognition, section 4.5.1, of spectra radially averaged.

    Examples
    --------
    >>> noise = xr.DataArray(np.random.default_rng(0).normal(size=(32, 32)), dims=("y", "x"))
    >>> round(float(log_spectral_distance(noise, 10 * noise, spacing_km=1.0)), 6)
    20.0
    """
    decibel = per_cell(lambda f, o: 10.0 * np.log10(f / o), sums, ["forecast", "observed"], "decibel")
    if wavelengths is not None:
        decibel = decibel.where(_bands(sums, [wavelengths]).isel(band=0, drop=True))
    mean_square: xr.DataArray = (decibel**2).mean("wavenumber")
    return (mean_square**0.5).rename("log_spectral_distance")


# ---------------------------------------------------------------- what they share


def _sums(
    observations: xr.DataArray,
    forecasts: xr.DataArray,
    dim: Dims,
    spatial_dims: SpatialDims,
    spacing_km: Spacing,
    options: dict[str, Any],
) -> Any:
    places = find_spatial_dims(forecasts, spatial_dims)
    if not options.get("alone"):
        find_spatial_dims(observations, places)
    spacing = _spacing(forecasts, places, spacing_km)
    _check_options(options)
    # Also checks the size of the grid and the spacing, before anything is computed.
    grid = kernels.rings((forecasts.sizes[places[0]], forecasts.sizes[places[1]]), spacing, options["binning"])
    sums = sum_over_chunks(
        kernels.spectrum_sums,
        observations,
        forecasts,
        reduce=[*reduced_dims(dim, observations, forecasts, never=places), *places],
        whole=places,
        last=places,
        new_sizes={"sum": len(SUMS), "wavenumber": len(grid.wavenumber)},
        dtype=np.float64,
        spacing=spacing,
        **options,
    )
    return table_of(sums.transpose(..., "sum"), SUMS, coords=_ring_coordinates(grid))


@lru_cache(maxsize=8)
def _ring_coordinates(grid: kernels.Rings) -> xr.Coordinates:
    """Made once for a grid, since an index takes longer to make than a small spectrum."""
    with np.errstate(divide="ignore"):  # the ring of the mean, with "pysteps"
        wavelength = 1.0 / grid.wavenumber
    coords = {
        "wavenumber": ("wavenumber", grid.wavenumber, {"units": "km-1"}),
        "wavelength": ("wavenumber", wavelength, {"units": "km"}),
        "modes": ("wavenumber", grid.modes),
    }
    return xr.Dataset(coords=coords).coords


def _spacing(array: xr.DataArray, places: tuple[Hashable, Hashable], spacing_km: Spacing) -> tuple[float, float]:
    if spacing_km is not None:
        dy, dx = np.broadcast_to(np.asarray(spacing_km, np.float64), (2,)).tolist()
        return dy, dx
    known = horizontal.grid_spacing(array, *places)
    if known is None:
        raise ValueError("the grid spacing is unknown, as the coordinates do not tell it; give spacing_km=")
    return known


def _check_options(options: dict[str, Any]) -> None:
    for name, known in (("window", kernels.WINDOWS), ("detrend", kernels.DETRENDS), ("binning", kernels.BINNINGS)):
        if options[name] not in known:
            raise ValueError(f"{name} is {options[name]!r}; it can be {' or '.join(map(repr, known))}")
    if not 0 <= options["max_missing"] <= 1:
        raise ValueError(f"max_missing is {options['max_missing']!r}; it is a part of the cells, 0 to 1")


def _bands(sums: xr.Dataset, bands: Sequence[tuple[float, float]]) -> xr.DataArray:
    """Which rings are in each band, with the dims (band, wavenumber)."""
    limits = np.asarray(bands, np.float64).reshape(-1, 2)
    wavelength = sums["wavelength"].values
    inside = (wavelength >= limits[:, :1] * (1 - 1e-9)) & (wavelength <= limits[:, 1:] * (1 + 1e-9))
    for (shortest, longest), rings in zip(limits, inside, strict=True):
        if not rings.any():
            raise ValueError(
                f"no ring of the spectrum has a wavelength within {shortest:g} and {longest:g} km; it has them from "
                f"{wavelength.min():g} to {wavelength.max():g} km"
            )
    coords = {"shortest": ("band", limits[:, 0], {"units": "km"}), "longest": ("band", limits[:, 1], {"units": "km"})}
    labels = [f"{shortest:g}-{longest:g} km" for shortest, longest in limits]
    return xr.DataArray(inside, dims=("band", "wavenumber"), coords={**coords, "band": labels})
