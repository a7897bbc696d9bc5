"""A synthetic weather radar: seeded, lazy, any size, with a motion that is known exactly.

A frame is a pure function of (seed, time): a Gaussian field is built in Fourier space, each wavenumber with its
own random phases and its own lifetime, advected, and mapped to rain rates with a dry part and a heavy tail.
The idea of a power-law field whose small scales live shorter is that of STEPS (Bowler et al. 2006,
doi:10.1256/qj.04.100); unlike an autoregressive recursion it needs no earlier frame, so any chunk can be
computed alone and a longer sequence begins with the shorter one.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal

import dask.array
import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr
from scipy.ndimage import map_coordinates
from scipy.special import ndtr, ndtri

from xnowcast import check
from xnowcast.fields import units, windows
from xnowcast.fields.attributes import LATITUDE, LONGITUDE, TIME, equal_area, metres_along
from xnowcast.fields.units import EARTH_RADIUS_M

CENTRE_LAT, CENTRE_LON = 45.0, -30.0  # open ocean: nobody can take it for a real radar
SMALLEST_RAIN = 0.1  # mm h-1: the detection threshold of many products; less is dry
HEAVIEST_RAIN = 150.0  # mm h-1: about where products stop believing the reflectivity (hail)


def synthetic_radar(
    *,
    frames: int = 36,
    shape: tuple[int, int] = (256, 256),
    step: str | np.timedelta64 | pd.Timedelta = "5min",
    spacing_km: float = 1.0,
    start: str | np.datetime64 | pd.Timestamp = "2024-06-01T12:00",
    seed: int = 0,
    motion: tuple[float, float] | None = None,
    rotation: float = 0.0,
    lifetime: str | np.timedelta64 | pd.Timedelta | None = "20min",
    growth: float = 0.0,
    wet_fraction: float = 0.3,
    median_rain: float = 1.0,
    convection: float = 0.3,
    shear: tuple[float, float] = (0.0, 0.0),
    coverage: bool | Sequence[tuple[float, float, float]] = True,
    as_reflectivity: bool = False,
    zr: units.Relation = units.MARSHALL_PALMER,
    chunks: Literal["auto"] | int | Mapping[Hashable, Any] = "auto",
) -> xr.Dataset:
    """Radar sequence with a known motion, growth and decay, realistic in spectrum and intensity.

    Building it computes nothing. Frames depend on ``seed`` and on their time since ``start`` alone: chunking
    changes no value, and 40 frames begin with the 20 of a shorter call.

    Parameters
    ----------
    frames : int
        Number of frames, at least 1.
    shape : tuple of int
        Rows and columns, each at least 8.
    step : str or timedelta
        Time between frames.
    spacing_km : float
        Grid spacing in both directions, km.
    start : str or datetime
        Time of the first frame, UTC.
    seed : int
        Another seed is other weather; not negative.
    motion : tuple of float, optional
        Eastward and northward motion of the rain at the centre of the grid, m s-1. Drawn from the seed between
        5 and 15 m s-1 by default; the value used is in the attributes.
    rotation : float
        Turning of the whole pattern about the centre, degrees per hour, positive counter-clockwise.
    lifetime : str or timedelta, optional
        Time after which features of 16 km wavelength have lost their memory (correlation about 1/e, following
        the motion). It grows with the wavelength to the power 1.1. None is a pattern that never changes: then
        extrapolation along the motion is the perfect forecast.
    growth : float
        Known trend of the rain rate, e-folds per hour: 0.7 doubles it in an hour.
    wet_fraction : float
        Mean fraction of the area with at least 0.1 mm h-1, over 0 and under 1. A single sequence departs from
        it by roughly a third, as weather does.
    median_rain : float
        Median of the rain rate where it rains, mm h-1.
    convection : float
        How much of the variation of the rain is showers of some 10 km: 0 is smooth, widespread rain, 1 is nothing
        but cells.
    shear : tuple of float
        Eastward and northward motion of the showers relative to the rain as a whole, m s-1: cells drift through the
        systems that they belong to, and grow on one side of them and decay on the other.
    coverage : bool or sequence of (x_km, y_km, radius_km)
        What the radars see, as circles around places given in km east and north of the centre. True is a network
        of three; False sees everything. Outside, values are NaN.
    as_reflectivity : bool
        Give ``equivalent_reflectivity_factor`` in dBZ, dry cells at -32 dBZ, instead of ``rainfall_rate``.
    zr : (float, float) or str
        a and b of Z = a R**b for ``as_reflectivity``.
    chunks : "auto", int or mapping
        Frames per chunk, or sizes for the dims ``time``, ``y`` and ``x`` as in :meth:`xarray.Dataset.chunk`.

    Returns
    -------
    xarray.Dataset
        One lazy float32 variable, dims (time, y, x): ``rainfall_rate`` in mm h-1 or
        ``equivalent_reflectivity_factor`` in dBZ; NaN is not covered. CF-1.10 labels, y descending, a Lambert
        azimuthal equal area grid mapping, 2-D lat and lon. The truth stands in the attributes that begin with
        ``synthetic_``; :func:`synthetic_motion` turns it into a field.

    Raises
    ------
    ValueError
        If an argument is outside the ranges above.

    Notes
    -----
    The rain is made of two Gaussian fields with power-law spectra, one of weather systems and one of showers within
    them, whose Fourier modes keep exactly with the motion and draw new phases at a rate that rises with wavenumber.
    Nothing is drawn in sequence: noise is keyed by (seed, mode, renewal). Where the first field exceeds a quantile
    it rains, with lognormal rates between 0.1 and 150 mm h-1; the edge of the rain is light, its core heavy.

    Three seeds of 30 frames of 512 by 512 km beside six radar events (Finland, the Netherlands, Belgium, two of
    Switzerland and MRMS tiles of the USA):

    ===============================================  =============  =============
    figure                                           synthetic      radar
    ===============================================  =============  =============
    area of at least 0.1, 1, 5 mm h-1, %             25-34, 11-19,  14-53, 5-16,
                                                     1.1-2.8        0.2-2.1
    wet rain: median, 90 %, 99 %, mm h-1             0.8-1.2, 3-4,  0.4-1.6, 2-7,
                                                     9-13           4-25
    wet rain: 99.9 % and largest, mm h-1             19-25, 58-126  7-54, 24-116
    spectral slope of dBR, 64-16, 32-8, 16-3 km      -2.7, -2.7,    -2.2 to -2.9, -2.5
                                                     -3.5           to -3.3, -2.5 to -4.6
    correlation following the motion, 30 and 60 min  0.8, 0.7       0.6-0.9, 0.5-0.8
    the same of features under 8 km, 10 and 30 min   0.5, 0.2       0.1-0.7, 0-0.2
    the same of features of 8-32 km, 30 and 60 min   0.7, 0.5       0-0.7, 0-0.4
    ===============================================  =============  =============

    What differs from real radar: statistics are the same everywhere and at every hour (no orography, no life cycle
    of a single storm, no squall line that holds its shape); the spectrum is flat beyond about 250 km, or three
    quarters of a smaller grid; rain does not set in or die out as a whole; the motion is one wind for all places
    and scales, but for ``rotation`` and ``shear``, and never changes; heavy rain hardly comes out of dry air; and
    there is no clutter, attenuation, beam blocking, bright band or rounding. The page on datasets compares more
    figures, with and without these options. Skill on it says that a method works, not how good it is. The field
    repeats itself when rain has travelled one and a half times the width of the grid, by when its own changes have
    made it another, unless ``lifetime`` is None.

    Examples
    --------
    >>> radar = synthetic_radar(frames=4, shape=(32, 48), motion=(10.0, -5.0), seed=1)
    >>> radar.rainfall_rate.dims, radar.rainfall_rate.shape
    (('time', 'y', 'x'), (4, 32, 48))
    >>> radar.attrs["synthetic_motion_columns_per_step"], radar.attrs["synthetic_motion_rows_per_step"]
    (3.0, 1.5)
    """
    weather = _Weather(
        shape=_checked_shape(shape),
        spacing_km=_number("spacing_km", spacing_km, 0 < spacing_km < np.inf, "a number over 0"),
        step_s=_seconds(step, "step"),
        seed=check.whole("seed", seed, 0, 2**63 - 1),
        motion=_checked_motion(motion, seed),
        rotation=_number("rotation", rotation, np.isfinite(rotation), "a finite number"),
        lifetime_s=np.inf if lifetime is None else _seconds(lifetime, "lifetime"),
        growth=_number("growth", growth, np.isfinite(growth), "a finite number"),
        wet_fraction=_number("wet_fraction", wet_fraction, 0 < wet_fraction < 1, "a number over 0 and under 1"),
        median_rain=_number(
            "median_rain",
            median_rain,
            SMALLEST_RAIN < median_rain <= HEAVIEST_RAIN / 10,
            "mm h-1 over 0.1 and at most 15",
        ),
        convection=_number("convection", convection, 0 <= convection <= 1, "a number from 0 to 1"),
        shear=_checked_vector(shear, "shear"),
        circles=_checked_circles(coverage, shape, spacing_km),
        zr=units.zr_relation(zr) if as_reflectivity else None,
    )
    frames = check.whole("frames", frames, 1)
    time = _checked_start(start) + pd.to_timedelta(np.arange(frames) * weather.step_s, unit="s")
    name, attrs = _field_labels(weather)
    values = _lazy_frames(weather, frames, _frames_per_chunk(chunks, frames, weather.shape))
    ds = xr.Dataset(
        {name: (("time", "y", "x"), values, attrs), "crs": equal_area(CENTRE_LAT, CENTRE_LON)},
        coords={"time": ("time", time.astype("datetime64[ns]").values, TIME), **_grid(weather)},
        attrs=_truth(weather),
    )
    return ds.chunk(chunks) if isinstance(chunks, Mapping) else ds


def synthetic_motion(radar: xr.Dataset) -> xr.Dataset:
    """True motion of a synthetic radar as a field.

    Parameters
    ----------
    radar : xarray.Dataset
        What :func:`synthetic_radar` gave; its attributes and its ``y`` and ``x`` are read.

    Returns
    -------
    xarray.Dataset
        ``eastward_motion`` and ``northward_motion`` in m s-1, float64, dims (y, x), constant in time. Showers have the
        ``shear`` on top.

    Raises
    ------
    ValueError
        If the attributes of a synthetic radar are missing.

    Examples
    --------
    >>> motion = synthetic_motion(synthetic_radar(frames=1, shape=(8, 8), motion=(10.0, -5.0)))
    >>> float(motion.eastward_motion[0, 0]), float(motion.northward_motion[0, 0])
    (10.0, -5.0)
    """
    needed = ("synthetic_motion_m_s", "synthetic_rotation_degrees_h")
    missing = [name for name in needed if name not in radar.attrs]
    if missing:
        raise ValueError(f"the dataset lacks the attribute {missing[0]!r}; give one made by synthetic_radar.")
    u, v = (float(speed) for speed in radar.attrs["synthetic_motion_m_s"])
    omega = np.deg2rad(float(radar.attrs["synthetic_rotation_degrees_h"])) / 3600.0
    y, x = radar["y"].astype(float), radar["x"].astype(float)
    eastward = (u - omega * y + 0.0 * x).transpose("y", "x")
    northward = (v + omega * x + 0.0 * y).transpose("y", "x")
    motion = xr.Dataset({"eastward_motion": eastward, "northward_motion": northward})
    for name in motion:
        motion[name].attrs = {"units": "m s-1", "long_name": f"{str(name).replace('_', ' ')} of the rain"}
    return motion.assign_coords({name: radar[name] for name in ("lat", "lon") if name in radar.coords})


@dataclass(frozen=True)
class _Weather:
    """All that a frame depends on besides its index."""

    shape: tuple[int, int]
    spacing_km: float
    step_s: float
    seed: int
    motion: tuple[float, float]
    rotation: float
    lifetime_s: float
    growth: float
    wet_fraction: float
    median_rain: float
    convection: float
    shear: tuple[float, float]
    circles: tuple[tuple[float, float, float], ...] | None
    zr: tuple[float, float] | None


# The field, from noise to rain rate


@dataclass(frozen=True)
class _Modes:
    """The Fourier modes of the field, on a grid half as large again so that rain leaving one edge is not seen
    entering at the other. Arrays are (padded rows, padded columns // 2 + 1) unless said."""

    padded: tuple[int, int]
    frequency_y: np.ndarray  # (padded rows, 1), cycles per km, rows counted southward
    frequency_x: np.ndarray  # (1, padded columns // 2 + 1), cycles per km
    amplitude: np.ndarray  # float32, such that the field has variance 1
    key: np.ndarray  # uint64, the random identity of the mode
    renewals_per_s: np.ndarray  # how often the mode draws new noise
    first_renewal: np.ndarray  # in [0, 1): modes are not renewed all at once


@dataclass(frozen=True)
class _Layer:
    """One of the Gaussian fields that make the rain."""

    number: int  # keeps their noise apart
    slope: float  # of the 2-D power spectrum; cutting off the dry part makes that of the rain flatter
    outer_scale_km: float  # beyond it the spectrum is flat: weather systems have a size


SYSTEMS = _Layer(0, slope=3.7, outer_scale_km=250.0)  # where it rains, and mostly how much
SHOWERS = _Layer(1, slope=3.7, outer_scale_km=18.0)  # the cells within
LIFETIME_EXPONENT = 1.1  # lifetime ~ wavelength ** 1.1
REFERENCE_WAVELENGTH_KM = 16.0
BEAM_KM = 1.4  # smoothing by the radar beam and the composite
STRETCH = 1.3  # rain bands are longer than wide


def _modes(weather: _Weather, layer: _Layer) -> _Modes:
    rows, columns = (scipy.fft.next_fast_len(int(np.ceil(1.5 * n)), real=True) for n in weather.shape)
    ny, nx = np.arange(rows)[:, None], np.arange(columns // 2 + 1)[None, :]
    ny = np.where(ny > rows // 2, ny - rows, ny)
    fy, fx = ny / (rows * weather.spacing_km), nx / (columns * weather.spacing_km)
    seed = _mix(np.full((1, 1), weather.seed, np.uint64)) + np.uint64(layer.number)
    key = _mix(_mix(seed) + ny.astype(np.int64).astype(np.uint64))
    key = _mix(key + _mix(nx.astype(np.uint64) + np.uint64(1)))
    amplitude = _amplitude(weather, layer, fy, fx)
    amplitude[0, 0] = 0.0  # the area mean stays: wet_fraction is kept
    if rows % 2 == 0:
        amplitude[rows // 2] = 0.0  # the phase of a shifted Nyquist mode is ambiguous
    if columns % 2 == 0:
        amplitude[:, -1] = 0.0
    power = 2.0 * (amplitude[:, 1:] ** 2).sum() + (amplitude[:, 0] ** 2).sum()  # a real field has both signs of x
    amplitude *= rows * columns / np.sqrt(power)
    amplitude[:, 0] *= np.sqrt(2.0)  # here the inverse transform keeps the real part, half the power
    wavelength = 1.0 / np.maximum(np.hypot(fy, fx), 1e-9)
    memory = weather.lifetime_s * (wavelength / REFERENCE_WAVELENGTH_KM) ** LIFETIME_EXPONENT
    # Modes of one wavelength live differently long, so that their mean correlation falls much as an exponential
    # does; with these two numbers it is 1/e after the lifetime.
    spread = 0.5 - 0.75 * np.log1p(-_uniform(_mix(key + np.uint64(11))))
    return _Modes(
        padded=(rows, columns),
        frequency_y=fy,
        frequency_x=fx,
        amplitude=amplitude.astype(np.float32),
        key=key,
        renewals_per_s=1.0 / (memory * spread),
        first_renewal=_uniform(_mix(key + np.uint64(13))),
    )


def _amplitude(weather: _Weather, layer: _Layer, fy: np.ndarray, fx: np.ndarray) -> np.ndarray:
    """Root of the power spectrum: flat, then a power law, then the beam; stretched along a seeded direction."""
    extent = min(weather.shape) * weather.spacing_km
    outer = min(layer.outer_scale_km, 0.75 * extent)  # a tiny grid gets a small weather of its own, not a dry corner
    angle = np.pi * _draw(weather.seed, 2)
    along = fx * np.cos(angle) - fy * np.sin(angle)
    across = fx * np.sin(angle) + fy * np.cos(angle)
    squared = (along * STRETCH) ** 2 + (across / STRETCH) ** 2
    beam = np.exp(-(fx**2 + fy**2) * (np.pi * BEAM_KM * max(1.0, weather.spacing_km)) ** 2 / 4.0)
    return (1.0 + squared * outer**2) ** (-layer.slope / 4.0) * beam


def _gaussian_field(weather: _Weather, modes: _Modes, seconds: float) -> np.ndarray:
    """Gaussian field, mean 0 and variance 1, at one time. -> (rows, columns) float32."""
    phase = seconds * modes.renewals_per_s + modes.first_renewal
    renewal = np.floor(phase)
    turn = (0.5 * np.pi * (phase - renewal)).astype(np.float32)
    renewal = renewal.astype(np.uint64)
    # From one draw to the next along a quarter circle: the variance stays 1 on the way.
    noise = np.cos(turn) * _phases(modes.key, renewal) + np.sin(turn) * _phases(modes.key, renewal + np.uint64(1))
    noise *= modes.amplitude
    if weather.rotation:
        field = scipy.fft.irfft2(noise, s=modes.padded)
        return map_coordinates(field, _departure_points(weather, modes, seconds), order=3, mode="grid-wrap")
    east_km, north_km = (speed * seconds / 1000.0 for speed in weather.motion)
    noise *= np.exp(2j * np.pi * modes.frequency_y * north_km).astype(np.complex64)  # north is towards row 0
    noise *= np.exp(-2j * np.pi * modes.frequency_x * east_km).astype(np.complex64)
    return _middle(scipy.fft.irfft2(noise, s=modes.padded), weather.shape)


def _departure_points(weather: _Weather, modes: _Modes, seconds: float) -> np.ndarray:
    """Where the rain of each cell was at time 0, exactly, in cells of the padded grid. -> (2, rows, columns)."""
    rows, columns = weather.shape
    y = ((rows - 1) / 2 - np.arange(rows)[:, None]) * weather.spacing_km  # km north of the centre
    x = (np.arange(columns)[None, :] - (columns - 1) / 2) * weather.spacing_km
    u, v = (speed / 1000.0 for speed in weather.motion)
    omega = np.deg2rad(weather.rotation) / 3600.0
    # The flow (u - omega y, v + omega x) is a turn about the point where it stands still.
    still_x, still_y = -v / omega, u / omega
    c, s = np.cos(omega * seconds), np.sin(omega * seconds)
    x0 = still_x + c * (x - still_x) + s * (y - still_y)
    y0 = still_y - s * (x - still_x) + c * (y - still_y)
    top, left = ((n - m) // 2 for n, m in zip(modes.padded, weather.shape, strict=True))
    row = top + (rows - 1) / 2 - y0 / weather.spacing_km
    column = left + (columns - 1) / 2 + x0 / weather.spacing_km
    return np.stack([row, column])


def _middle(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    top, left = ((n - m) // 2 for n, m in zip(field.shape, shape, strict=True))
    return field[top : top + shape[0], left : left + shape[1]]


LOG_SPREAD = 1.15  # of the lognormal rain rates where it rains


def _rain_rate(weather: _Weather, systems: np.ndarray, showers: np.ndarray, seconds: float) -> np.ndarray:
    """Map two standard Gaussian fields to rain rates, mm h-1: dry below a quantile, lognormal above it."""
    log_cut = np.log(SMALLEST_RAIN / weather.median_rain) / LOG_SPREAD
    raining = weather.wet_fraction / ndtr(-log_cut)  # so that wet_fraction is left once drizzle is cut off
    rain = np.zeros(systems.shape, np.float32)
    wet = systems > ndtri(1.0 - min(raining, 1.0))
    exceedance = ndtr(-systems[wet].astype(float)) / raining  # 1 at the edge of the rain, 0 in its core
    score = np.sqrt(1.0 - weather.convection) * -ndtri(exceedance) + np.sqrt(weather.convection) * showers[wet]
    rate = weather.median_rain * np.exp(LOG_SPREAD * score)
    rate[rate < SMALLEST_RAIN] = 0.0
    rain[wet] = np.minimum(rate * np.exp(weather.growth * seconds / 3600.0), HEAVIEST_RAIN)
    return rain


def _frames(indices: np.ndarray, weather: _Weather) -> np.ndarray:
    """The frames with these indices. (time,) -> (time, rows, columns) float32."""
    drifting = replace(weather, motion=(weather.motion[0] + weather.shear[0], weather.motion[1] + weather.shear[1]))
    layers = (weather, _modes(weather, SYSTEMS)), (drifting, _modes(weather, SHOWERS))
    out = np.empty((len(indices), *weather.shape), np.float32)
    for frame, index in zip(out, indices, strict=True):
        seconds = float(index) * weather.step_s
        where, showers = (_gaussian_field(moving, modes, seconds) for moving, modes in layers)
        frame[:] = _rain_rate(weather, where, showers, seconds)
    if weather.zr is not None:
        out = units.rain_rate_to_dbz(out, *weather.zr)
    if weather.circles is not None:
        out[:, ~_seen(weather)] = np.nan
    return out


def _seen(weather: _Weather) -> np.ndarray:
    rows, columns = weather.shape
    y = ((rows - 1) / 2 - np.arange(rows)[:, None]) * weather.spacing_km
    x = (np.arange(columns)[None, :] - (columns - 1) / 2) * weather.spacing_km
    covered = np.zeros(weather.shape, bool)
    for east, north, radius in weather.circles or ():
        covered |= (x - east) ** 2 + (y - north) ** 2 <= radius**2
    return covered


# Noise by key: the same (seed, mode, renewal) gives the same draw on any worker, in any order


def _mix(bits: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers (the finalizer of SplitMix64, Steele et al. 2014, doi:10.1145/2714064.2660195)."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _uniform(bits: np.ndarray) -> np.ndarray:
    return (bits >> np.uint64(11)).astype(float) * 2.0**-53


_CIRCLE = np.exp(2j * np.pi * np.arange(4096) / 4096).astype(np.complex64)


def _phases(key: np.ndarray, renewal: np.ndarray) -> np.ndarray:
    """Unit complex numbers with a random phase; many of them together make a Gaussian field."""
    return _CIRCLE[_mix(key ^ (renewal * np.uint64(0xD1342543DE82EF95))) >> np.uint64(52)]


def _draw(seed: int, number: int) -> float:
    return float(_uniform(_mix(_mix(np.array([seed], np.uint64)) + np.uint64(1000 + number)))[0])


# Dask and CF labels


def _lazy_frames(weather: _Weather, frames: int, per_chunk: int) -> dask.array.Array:
    indices = dask.array.arange(frames, chunks=per_chunk)
    return dask.array.map_blocks(
        _frames,
        indices,
        weather=weather,
        dtype=np.float32,
        new_axis=[1, 2],
        chunks=(indices.chunks[0], (weather.shape[0],), (weather.shape[1],)),
        meta=np.empty((0, 0, 0), np.float32),
        name="synthetic-radar-" + dask.base.tokenize(astuple(weather), frames, per_chunk),
    )


def _frames_per_chunk(chunks: Any, frames: int, shape: tuple[int, int]) -> int:
    wanted = chunks.get("time", "auto") if isinstance(chunks, Mapping) else chunks
    if isinstance(wanted, str) and wanted == "auto":
        return int(np.clip(8e6 // (4 * shape[0] * shape[1]), 1, frames))  # about 8 MB
    if isinstance(wanted, tuple) and wanted:
        wanted = wanted[0]
    if not check.is_whole(wanted, -1) or wanted == 0:
        raise ValueError(f"chunks is {chunks!r}; give 'auto', frames per chunk, or sizes by dim.")
    return frames if wanted == -1 else min(int(wanted), frames)


def _grid(weather: _Weather) -> dict[str, tuple]:
    """Coordinates y (descending) and x in metres, lat and lon in degrees."""
    rows, columns = weather.shape
    metres = weather.spacing_km * 1000.0
    y = ((rows - 1) / 2 - np.arange(rows)) * metres
    x = (np.arange(columns) - (columns - 1) / 2) * metres
    lat, lon = _inverse_projection(y[:, None], x[None, :])
    named = {
        "y": (("y",), y, metres_along("y")),
        "x": (("x",), x, metres_along("x")),
        "lat": (("y", "x"), lat, LATITUDE),
        "lon": (("y", "x"), lon, LONGITUDE),
    }
    # CF 2.5.1 allows coordinates no fill value, which xarray would write for floats.
    return {name: (*parts, {"_FillValue": None}) for name, parts in named.items()}


def _inverse_projection(y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude of the Lambert azimuthal equal area projection of the sphere.

    Snyder (1987), Map projections: a working manual, doi:10.3133/pp1395, equations 20-14, 20-15 and 24-16.
    """
    phi1 = np.deg2rad(CENTRE_LAT)
    rho = np.maximum(np.hypot(x, y), 1e-9)
    c = 2.0 * np.arcsin(np.clip(rho / (2.0 * EARTH_RADIUS_M), 0.0, 1.0))
    lat = np.arcsin(np.cos(c) * np.sin(phi1) + y * np.sin(c) * np.cos(phi1) / rho)
    lon = np.arctan2(x * np.sin(c), rho * np.cos(phi1) * np.cos(c) - y * np.sin(phi1) * np.sin(c))
    return np.rad2deg(lat), CENTRE_LON + np.rad2deg(lon)


def _field_labels(weather: _Weather) -> tuple[str, dict[str, Any]]:
    shared = {"grid_mapping": "crs", "cell_methods": "time: point"}
    if weather.zr is None:
        return "rainfall_rate", {
            "standard_name": "rainfall_rate",
            "long_name": "synthetic rain rate",
            "units": "mm h-1",
            **shared,
        }
    return "equivalent_reflectivity_factor", {
        "standard_name": "equivalent_reflectivity_factor",
        "long_name": "synthetic radar reflectivity",
        "units": "dBZ",
        **units.zr_attributes(weather.zr),
        "zerovalue": units.NO_ECHO_DBZ,
        **shared,
    }


def _truth(weather: _Weather) -> dict[str, Any]:
    """Global attributes: what the dataset is, and the truth it was made with."""
    cells = weather.step_s / 1000.0 / weather.spacing_km
    lifetime = "unchanging" if np.isinf(weather.lifetime_s) else weather.lifetime_s / 60.0
    return {
        "Conventions": "CF-1.10",
        "title": "Synthetic weather radar sequence",
        "institution": "xnowcast",
        "source": "synthetic: seeded random field, no measurement",
        "history": f"synthetic_radar(seed={weather.seed})",
        "references": "Bowler et al. (2006), doi:10.1256/qj.04.100",
        "synthetic_seed": weather.seed,
        "synthetic_motion_m_s": list(weather.motion),
        "synthetic_motion_columns_per_step": weather.motion[0] * cells,
        "synthetic_motion_rows_per_step": -weather.motion[1] * cells,
        "synthetic_rotation_degrees_h": weather.rotation,
        "synthetic_lifetime_minutes": lifetime,
        "synthetic_growth_per_h": weather.growth,
        "synthetic_wet_fraction": weather.wet_fraction,
        "synthetic_convection": weather.convection,
        **({"synthetic_shear_m_s": list(weather.shear)} if any(weather.shear) else {}),
    }


# Checks of the arguments


def _seconds(value: Any, name: str) -> float:
    try:
        seconds = pd.Timedelta(value).total_seconds()
    except (ValueError, TypeError):
        seconds = np.nan
    if not seconds > 0:
        raise ValueError(f"{name} is {value!r}; give a positive time such as '5min'.")
    return seconds


def _number(name: str, value: float, allowed: bool | np.bool_, words: str) -> float:
    if not allowed:
        raise ValueError(f"{name} is {value!r}; give {words}.")
    return float(value)


def _checked_start(start: Any) -> pd.Timestamp:
    try:
        return windows.utc_time(start)
    except ValueError:
        raise ValueError(f"start is {start!r}; give a time, such as '2024-06-01T12:00' (UTC).") from None


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if len(shape) != 2 or any(n != int(n) or n < 8 for n in shape):
        raise ValueError(f"shape is {shape!r}; give (rows, columns), each at least 8.")
    return int(shape[0]), int(shape[1])


def _checked_motion(motion: tuple[float, float] | None, seed: int) -> tuple[float, float]:
    if motion is None:
        speed, direction = 5.0 + 10.0 * _draw(seed, 0), 2.0 * np.pi * _draw(seed, 1)
        return round(speed * float(np.cos(direction)), 2), round(speed * float(np.sin(direction)), 2)
    return _checked_vector(motion, "motion")


def _checked_vector(vector: tuple[float, float], name: str) -> tuple[float, float]:
    if len(vector) != 2 or not np.isfinite(vector).all():
        raise ValueError(f"{name} is {vector!r}; give (eastward, northward) in m s-1.")
    return float(vector[0]), float(vector[1])


def _checked_circles(coverage: Any, shape: Sequence[int], spacing_km: float) -> Any:
    if coverage is False:
        return None
    if coverage is True:
        height, width = (n * spacing_km for n in shape)
        # Three radars in a triangle: the corners and two notches between the circles are not seen.
        places = ((-0.22, -0.16), (0.24, -0.10), (-0.02, 0.24))
        radius = 0.36 * float(np.sqrt(height * width))
        return tuple((x * width, y * height, radius) for x, y in places)
    try:
        circles = tuple((float(x), float(y), float(radius)) for x, y, radius in coverage)
    except (TypeError, ValueError):
        circles = ()
    if not circles or not all(np.isfinite(c).all() and c[2] > 0 for c in circles):
        raise ValueError(f"coverage is {coverage!r}; give True, False or circles (x_km, y_km, radius_km).")
    return circles
