"""A synthetic numerical forecast and the rain that fell: seeded, lazy, cheap, with errors that are known exactly.

Weather is drawn as Gaussian fields in Fourier space, of which winds, heights and temperatures follow by the balances
that hold on the synoptic scale; rain falls where moist air converges. The forecast has the same weather, but its rain
lies elsewhere along the steering wind and is too weak where the air is unstable, both by amounts that its own
variables tell, and besides by amounts that nothing tells.
"""

from dataclasses import astuple, dataclass
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr
from scipy.ndimage import gaussian_filter, map_coordinates

from xnowcast import check
from xnowcast.fields import windows
from xnowcast.fields.attributes import TIME, equal_area, forecast_times, metres_along
from xnowcast.fields.labels import CONVENTIONS

CORIOLIS = 1.0e-4  # s-1, about 43 degrees north
GRAVITY = 9.80665  # m s-2
GAS_CONSTANT = 287.05  # J kg-1 K-1
AIR_DENSITY = 1.2  # kg m-3, at the ground
LEVELS = (850, 500, 100)  # hPa
CENTRE_LAT, CENTRE_LON = 45.0, -30.0  # open ocean, as the synthetic radar

FIELDS = ("u10", "v10", "t2m", "msl", "rain", "u", "v", "t", "z", "rh")


def synthetic_nwp(
    *,
    runs: int = 20,
    leads: int = 6,
    shape: tuple[int, int] = (64, 64),
    spacing_km: float = 5.0,
    start: str | np.datetime64 | pd.Timestamp = "2024-06-01T00:00",
    first_lead: int = 25,
    seed: int = 0,
    timing_error: float = 20.0,
    random_displacement: float = 10.0,
    damping: float = 0.4,
    drizzle: float = 0.4,
    local_rain: float = 0.3,
) -> tuple[xr.Dataset, xr.Dataset]:
    """A numerical forecast with the sixteen variables of An et al. (2023, table 2), and the rain that was observed.

    Building it computes nothing. A run depends on ``seed`` and its number alone: 20 runs begin with the 10 of a shorter
    call.

    Parameters
    ----------
    runs : int
        Number of runs, six hours apart; the weather of each is independent of the others.
    leads : int
        Lead times of each run, one hour apart, 6 at most, so that no valid time comes twice.
    shape : tuple of int
        Rows and columns, each at least 8.
    spacing_km : float
        Grid spacing in both directions, km.
    start : str or datetime
        Time of the first run, UTC.
    first_lead : int
        First lead time in hours, 1 or more.
    seed : int
        Another seed is other weather; not negative.
    timing_error : float
        Minutes by which the forecast's rain is ahead of the true rain along the wind at 500 hPa. This error is known
        from the forecast's own winds.
    random_displacement : float
        Standard deviation of a further displacement in km, east and north, of each run. Nothing tells it.
    damping : float
        Share of the rain that is missing where the air is most unstable, 0 to 1. It follows from the forecast's own
        temperatures at 850 and 500 hPa.
    drizzle : float
        Rain in mm h-1 that the forecast adds where the air at 850 hPa is nearly saturated, whether it rains or not. It
        follows from the forecast's own humidity.
    local_rain : float
        Standard deviation of the logarithm of the true rain about what the large fields tell; cells of some 20 km that
        nothing tells.

    Returns
    -------
    (xarray.Dataset, xarray.Dataset)
        The forecast, dims (init_time, lead_time, ..., y, x): ``t``, ``u``, ``v``, ``z``, ``rh`` at 850, 500 and 100
        hPa (dim ``pressure``), ``t2m`` (``height_2m``), ``u10`` and ``v10`` (``height_10m``), ``msl`` and ``rain``
        (``rainfall_rate`` in mm h-1). And the observed ``rainfall_rate`` in mm h-1, dims (time, y, x), at all valid
        times. float32, CF-1.10, y falling, one grid. What was done to the forecast stands in its attributes that
        begin with ``synthetic_``.

    Raises
    ------
    ValueError
        If an argument is outside the ranges above.

    Notes
    -----
    Heights follow from a stream function by geostrophy, the mean temperature between levels from the thickness, the
    pressure at sea level from the height near the ground. Air rises where the wind at 850 hPa converges; rain is
    vapour at 850 hPa times ascent, more of it where the lapse rate from 850 to 500 hPa is steep. The truth is this
    rain with local cells; the forecast's rain is the same without them, displaced, damped and smoothed (0.7 cells),
    plus drizzle. Hours of a run follow each other by drift along the mean wind at 700 hPa and slow change.

    What differs from a real forecast: errors do not grow with lead time; the forecast's other variables are without
    error; there is no orography, no coast, no day, no convection that moves by itself; runs do not follow each other;
    and fields are stationary and Gaussian but for rain and humidity. Skill on it says that a method works, not how
    good it is.

    Examples
    --------
    >>> nwp, radar = synthetic_nwp(runs=2, leads=3, shape=(16, 24))
    >>> nwp.t.dims, nwp.t.shape
    (('init_time', 'lead_time', 'pressure', 'y', 'x'), (2, 3, 3, 16, 24))
    >>> radar.rainfall_rate.shape
    (6, 16, 24)
    """
    climate = _Climate(
        shape=_checked_shape(shape),
        spacing_km=_in_range(spacing_km, "spacing_km", 0.5, 50.0),
        seed=check.whole("seed", seed, 0, 2**31),
        first_lead=check.whole("first_lead", first_lead, 1, 240),
        leads=check.whole("leads", leads, 1, 6),
        timing_error=_in_range(timing_error, "timing_error", -120.0, 120.0),
        random_displacement=_in_range(random_displacement, "random_displacement", 0.0, 100.0),
        damping=_in_range(damping, "damping", 0.0, 1.0),
        drizzle=_in_range(drizzle, "drizzle", 0.0, 5.0),
        local_rain=_in_range(local_rain, "local_rain", 0.0, 2.0),
    )
    times = windows.utc_time(start) + pd.to_timedelta(6 * np.arange(check.whole("runs", runs, 1, 10**6)), "h")
    init = times.as_unit("ns").to_numpy()
    lead = (climate.first_lead + np.arange(climate.leads)).astype("m8[h]").astype("m8[ns]")
    planes = _lazy_runs(climate, len(init))
    return _forecast(climate, planes, init, lead), _observations(climate, planes, init, lead)


@dataclass(frozen=True)
class _Climate:
    """All that a run depends on besides its number."""

    shape: tuple[int, int]
    spacing_km: float
    seed: int
    first_lead: int
    leads: int
    timing_error: float
    random_displacement: float
    damping: float
    drizzle: float
    local_rain: float


# ---------------------------------------------------------------- one run

PLANES = 5 + 5 * len(LEVELS) + 1  # the fields near the ground, those at the levels, and the true rain


def _lazy_runs(climate: _Climate, runs: int) -> dask.array.Array:
    """``(run, lead_time, plane, y, x)``, a chunk per run."""
    chunks = ((1,) * runs, (climate.leads,), (PLANES,), (climate.shape[0],), (climate.shape[1],))
    return dask.array.map_blocks(_run_block, climate, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * 5, "f4"))


def _run_block(climate: _Climate, block_info: Any = None) -> np.ndarray:
    return run_planes(climate, block_info[None]["chunk-location"][0])[None]


def run_planes(climate: _Climate, number: int) -> np.ndarray:
    """All fields of a run, ``(lead_time, plane, y, x)``, rows from north to south."""
    weather = _Weather(climate, number)
    return np.stack([_planes(climate, weather, hour) for hour in range(climate.leads)]).astype("f4")


class _Weather:
    """The Gaussian fields of a run, each a slow rotation from one draw into another, drifting with the mean wind.

    Draws are on a periodic grid half as large again, of which the first corner is seen, so that what leaves on one
    side is not seen entering on the other.
    """

    def __init__(self, climate: _Climate, number: int):
        self.rng = np.random.default_rng([climate.seed, number])
        self.spacing = climate.spacing_km
        self.size = tuple(scipy.fft.next_fast_len(int(1.5 * n)) for n in climate.shape)
        fy, fx = np.meshgrid(scipy.fft.fftfreq(self.size[0]), scipy.fft.rfftfreq(self.size[1]), indexing="ij")
        self.ky, self.kx = (2 * np.pi * f / (climate.spacing_km * 1000) for f in (-fy, fx))  # rad per m, y to the north
        direction = self.rng.uniform(-0.6, 0.6)  # westerlies, as a rule
        speed = self.rng.uniform(8, 20)
        self.mean_wind = np.array([speed * np.cos(direction), speed * np.sin(direction)])  # at 700 hPa, m s-1
        extent = min(climate.shape) * climate.spacing_km
        self.synoptic = self._pair(wavelength=min(600.0, 1.2 * extent), slope=6.0)
        self.upper = self._pair(wavelength=min(600.0, 1.2 * extent), slope=6.0)
        self.lift = self._pair(wavelength=min(150.0, 0.5 * extent), slope=4.0)
        self.moisture = self._pair(wavelength=min(300.0, extent), slope=4.0)
        self.stability = self._pair(wavelength=min(400.0, extent), slope=4.5)
        self.boundary = self._pair(wavelength=min(200.0, 0.7 * extent), slope=4.0)
        self.cells = self._pair(wavelength=20.0, slope=4.0)
        self.displacement = self.rng.normal(size=2) * climate.random_displacement  # km

    def _pair(self, wavelength: float, slope: float) -> np.ndarray:
        """Two independent spectra of variance 1: flat at wavelengths beyond the given one (km), then a power law."""
        k = np.hypot(self.ky, self.kx) * 1000 * wavelength / (2 * np.pi)
        amplitude = (1 + k**2) ** (-slope / 4)
        amplitude[0, 0] = 0
        noise = scipy.fft.rfft2(self.rng.normal(size=(2, *self.size)))
        fields = scipy.fft.irfft2(noise * amplitude, s=self.size)
        return scipy.fft.rfft2(fields / fields.std(axis=(1, 2), keepdims=True))

    def at(self, pair: np.ndarray, hour: float, memory_h: float) -> np.ndarray:
        """The spectrum of a pair at an hour of the run."""
        angle = hour / memory_h
        shift = self.mean_wind * 3600 * hour
        drift = np.exp(-1j * (self.kx * shift[0] + self.ky * shift[1]))
        return (np.cos(angle) * pair[0] + np.sin(angle) * pair[1]) * drift

    def stream_function(self, spectrum: np.ndarray, speed: float) -> np.ndarray:
        """A spectrum scaled so that its wind is this fast in the mean square, m s-1."""
        wind = np.hypot(self.field(1j * self.ky * spectrum).std(), self.field(1j * self.kx * spectrum).std())
        return spectrum * (speed * np.sqrt(2) / wind)

    def field(self, spectrum: np.ndarray) -> np.ndarray:
        return scipy.fft.irfft2(spectrum, s=self.size)


def _planes(climate: _Climate, weather: _Weather, hour: int) -> np.ndarray:
    """All fields of an hour, ``(plane, y, x)``: those near the ground, those at the levels, the true rain last."""
    low = weather.at(weather.synoptic, hour, 18.0)
    high = 0.7 * low + 0.7 * weather.at(weather.upper, hour, 18.0)
    psi850, psi500 = weather.stream_function(low, 5.0), weather.stream_function(high, 7.0)
    convergence_spectrum = 3.0e-5 * weather.at(weather.lift, hour, 6.0)  # s-1
    chi = convergence_spectrum / np.maximum(weather.ky**2 + weather.kx**2, 1e-13)
    convergence = weather.field(convergence_spectrum)
    u850, v850 = _wind(weather, psi850, chi, 0.7)
    u500, v500 = _wind(weather, psi500, -0.5 * chi, 1.4)
    z850 = 1480 + _geostrophic_height(weather, psi850, 0.7)
    z500 = 5680 + _geostrophic_height(weather, psi500, 1.4)
    z100 = 16450 + _geostrophic_height(weather, 0.8 * psi500, 1.1)
    thickness_t = GRAVITY * (z500 - z850) / (GAS_CONSTANT * np.log(850 / 500))  # hydrostatic mean temperature, K
    steepness = weather.field(weather.at(weather.stability, hour, 12.0))
    t850, t500 = thickness_t + 13.5 + 2.0 * steepness, thickness_t - 13.5 - 2.0 * steepness
    instability = np.clip((t850 - t500 - 27.0) / 8.0 + 0.5, 0, 1)
    moist = weather.field(weather.at(weather.moisture, hour, 9.0))
    wetness = moist + 0.6 * convergence / 3.0e-5
    rh850, rh500 = 1 / (1 + np.exp(-1.4 * (wetness + 0.9))), 1 / (1 + np.exp(-1.2 * (moist - 0.3)))
    near_ground = weather.field(weather.at(weather.boundary, hour, 6.0))
    t2m = t850 + 8.5 + 1.2 * near_ground - 2.0 * (rh850 - 0.6)
    msl = 101300 + AIR_DENSITY * GRAVITY * (z850 - 1480) + 25 * near_ground
    u10, v10 = 0.6 * u850 + 0.8 * near_ground, 0.6 * v850 - 0.8 * near_ground

    source = _large_scale_rain(convergence, rh850, t850, instability)
    noise = weather.field(weather.at(weather.cells, hour, 0.7))
    truth = _without_traces(source * np.exp(climate.local_rain * noise - climate.local_rain**2 / 2))
    forecast = _forecast_rain(climate, weather, source, (u500, v500), instability, rh850)
    t100, rh100 = 212 - 0.25 * (thickness_t - 270.4), np.full_like(moist, 0.05)
    levels = [*(u850, u500, 0.9 * u500), *(v850, v500, 0.9 * v500), *(t850, t500, t100), *(z850, z500, z100)]
    ny, nx = climate.shape
    every = [u10, v10, t2m, msl, forecast, *levels, rh850, rh500, rh100, truth]
    return np.stack([plane[:ny, :nx] for plane in every])


def _wind(weather: _Weather, psi: np.ndarray, chi: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Wind that turns by a stream function and converges by the Laplacian of ``-chi``, with a share of the mean."""
    u = -1j * weather.ky * psi - 1j * weather.kx * -chi
    v = 1j * weather.kx * psi - 1j * weather.ky * -chi
    mean_u, mean_v = share * weather.mean_wind
    return weather.field(u) + mean_u, weather.field(v) + mean_v


def _geostrophic_height(weather: _Weather, psi: np.ndarray, share: float) -> np.ndarray:
    """Height in m whose gradient balances the wind of a stream function and a share of the mean wind."""
    rows, columns = np.indices(weather.size)
    metres = weather.spacing * 1000
    north, east = (weather.size[0] / 3 - rows) * metres, (columns - weather.size[1] / 3) * metres
    mean_u, mean_v = share * weather.mean_wind
    return CORIOLIS / GRAVITY * (weather.field(psi) - mean_u * north + mean_v * east)


def _large_scale_rain(
    convergence: np.ndarray, humidity: np.ndarray, temperature: np.ndarray, instability: np.ndarray
) -> np.ndarray:
    """Rain rate in mm h-1: vapour at 850 hPa times ascent, more in unstable air."""
    saturation = 6.112 * np.exp(17.67 * (temperature - 273.15) / (temperature - 29.65))  # hPa (Bolton 1980)
    vapour = 0.622 * humidity * saturation / 850.0  # kg kg-1
    ascent = np.clip(convergence - 1.0e-5, 0, None) * 1500.0  # m s-1, at the top of a layer of 1500 m
    moist_enough = np.clip((humidity - 0.6) / 0.25, 0, 1)
    return 3600.0 * vapour * ascent * moist_enough * (1 + 3.5 * instability**2)  # kg m-3 of air is about 1


def _forecast_rain(
    climate: _Climate,
    weather: _Weather,
    source: np.ndarray,
    steering: tuple[np.ndarray, np.ndarray],
    instability: np.ndarray,
    humidity: np.ndarray,
) -> np.ndarray:
    """The rain where the forecast has it, as strong as it has it, and its drizzle."""
    damped = source * (1 - climate.damping * instability)
    cells = 60 * climate.timing_error / (1000 * climate.spacing_km)
    u, v = steering
    east = u * cells + weather.displacement[0] / climate.spacing_km
    north = v * cells + weather.displacement[1] / climate.spacing_km
    rows, columns = np.indices(source.shape)
    moved = map_coordinates(damped, [rows + north, columns - east], order=1, mode="grid-wrap")
    drizzle = climate.drizzle * np.clip((humidity - 0.93) / 0.05, 0, 1)
    return _without_traces(gaussian_filter(moved, 0.7, mode="wrap") + drizzle)


def _without_traces(rain: np.ndarray) -> np.ndarray:
    return np.where(rain < 0.05, 0, rain)


# ---------------------------------------------------------------- labels

_LEVEL_FIELDS = {
    "u": ("eastward_wind", "m s-1", "eastward wind"),
    "v": ("northward_wind", "m s-1", "northward wind"),
    "t": ("air_temperature", "K", "temperature"),
    "z": ("geopotential_height", "m", "geopotential height"),
    "rh": ("relative_humidity", "1", "relative humidity"),
}

_GROUND_FIELDS = {
    "u10": ("eastward_wind", "m s-1", "eastward wind at 10 m"),
    "v10": ("northward_wind", "m s-1", "northward wind at 10 m"),
    "t2m": ("air_temperature", "K", "temperature at 2 m"),
    "msl": ("air_pressure_at_mean_sea_level", "Pa", "pressure at sea level"),
    "rain": ("rainfall_rate", "mm h-1", "forecast rain rate"),
}

_HEIGHTS = {"u10": 10.0, "v10": 10.0, "t2m": 2.0}


def _forecast(climate: _Climate, planes: Any, init: np.ndarray, lead: np.ndarray) -> xr.Dataset:
    dims, variables = ("init_time", "lead_time", "y", "x"), {}
    for i, (name, (standard, units, long_name)) in enumerate(_GROUND_FIELDS.items()):
        attrs = {"standard_name": standard, "units": units, "long_name": long_name, "grid_mapping": "crs"}
        variables[name] = xr.Variable(dims, planes[:, :, i], attrs)
        if name in _HEIGHTS:
            variables[name] = variables[name].set_dims(
                {d: variables[name].sizes.get(d, 1) for d in (*dims[:2], f"height_{_HEIGHTS[name]:g}m", *dims[2:])}
            )
    for i, (name, (standard, units, long_name)) in enumerate(_LEVEL_FIELDS.items()):
        first = len(_GROUND_FIELDS) + i * len(LEVELS)
        attrs = {"standard_name": standard, "units": units, "long_name": long_name, "grid_mapping": "crs"}
        values = planes[:, :, first : first + len(LEVELS)]
        variables[name] = xr.Variable((*dims[:2], "pressure", *dims[2:]), values, attrs)
    pressure = {"standard_name": "air_pressure", "units": "hPa", "positive": "down", "axis": "Z"}
    height = {"standard_name": "height", "units": "m", "positive": "up"}
    times = forecast_times(init, lead)
    coords: dict[str, Any] = {
        "init_time": times["init_time"],
        "lead_time": times["lead_time"],
        "pressure": ("pressure", np.array(LEVELS, "f8"), pressure),
        "height_2m": ("height_2m", [2.0], height),
        "height_10m": ("height_10m", [10.0], height),
        **_grid(climate),
    }
    known = dict(zip(climate.__dataclass_fields__, astuple(climate), strict=True))
    described = ("seed", "timing_error", "random_displacement", "damping", "drizzle", "local_rain")
    attrs = {f"synthetic_{name}": known[name] for name in described}
    about = {"Conventions": CONVENTIONS, "title": "synthetic numerical forecast", "source": "xnowcast synthetic_nwp"}
    return xr.Dataset({**variables, "crs": equal_area(CENTRE_LAT, CENTRE_LON)}, coords, about | attrs)


def _observations(climate: _Climate, planes: Any, init: np.ndarray, lead: np.ndarray) -> xr.Dataset:
    times = (init[:, None] + lead[None, :]).ravel()
    attrs = {"standard_name": "rainfall_rate", "units": "mm h-1", "long_name": "observed rain rate"}
    attrs |= {"grid_mapping": "crs", "cell_methods": "time: mean (interval: 1 hour)"}
    rain = xr.Variable(("time", "y", "x"), planes[:, :, -1].reshape(-1, *climate.shape), attrs)
    coords = {"time": ("time", times, TIME), **_grid(climate)}
    about = {"Conventions": CONVENTIONS, "title": "synthetic observed rain", "source": "xnowcast synthetic_nwp"}
    return xr.Dataset(
        {"rainfall_rate": rain, "crs": equal_area(CENTRE_LAT, CENTRE_LON)},
        coords,
        about | {"synthetic_seed": climate.seed},
    )


def _grid(climate: _Climate) -> dict[str, Any]:
    ny, nx = climate.shape
    y = (np.arange(ny)[::-1] - (ny - 1) / 2) * climate.spacing_km * 1000
    x = (np.arange(nx) - (nx - 1) / 2) * climate.spacing_km * 1000
    return {"y": ("y", y, metres_along("y")), "x": ("x", x, metres_along("x"))}


# ---------------------------------------------------------------- arguments


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if len(shape) != 2 or any(n != int(n) or n < 8 for n in shape):
        raise ValueError(f"shape is {shape}; give rows and columns, each at least 8")
    return int(shape[0]), int(shape[1])


def _in_range(value: float, name: str, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be from {low:g} to {high:g}")
    return float(value)
