"""From decoded pixels to a CF dataset: the part that is the same for every product."""

import functools
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from xnowcast.fields.attributes import LATITUDE, LONGITUDE, TIME, forecast_times, metres_along
from xnowcast.fields.units import is_amount, zr_attributes
from xnowcast.io.files import extra
from xnowcast.io.lazy import pictures

# CF wants all of these or none.
DATUM_NAMES = ("reference_ellipsoid_name", "prime_meridian_name", "horizontal_datum_name")

_EQUAL_AREA = 'METHOD["Lambert Azimuthal Equal Area",ID["EPSG",9820]]'

# Twice as many as the largest pictures of weather services have (MRMS: 24.5 million).
MOST_CELLS = 50_000_000


def refuse_huge(shape: Sequence[int]) -> None:
    """Refuse a picture of none or of more cells than any radar picture has, before memory is asked for."""
    if min(shape) <= 0 or math.prod(int(size) for size in shape) > MOST_CELLS:
        cells = " x ".join(str(size) for size in shape)
        raise ValueError(f"its grid has {cells} cells; from 1 to {MOST_CELLS:,} are expected")


@dataclass(frozen=True)
class Grid:
    """A regular grid on a map plane, first row in the north, as radar pictures are stored.

    ``projection``: anything that ``pyproj.CRS`` understands; its unit must be the metre. ``left, top``: outer corner of
    the upper left pixel, in metres. ``dx, dy``: pixel width and height, in metres, both positive. ``nx, ny``: number of
    columns and rows.

    >>> grid = Grid("+proj=stere +lat_0=90 +lat_ts=60", left=0.0, top=0.0, dx=1000.0, dy=1000.0, nx=3, ny=2)
    >>> grid.x, grid.y
    (array([ 500., 1500., 2500.]), array([ -500., -1500.]))
    """

    projection: str
    left: float
    top: float
    dx: float
    dy: float
    nx: int
    ny: int

    def __post_init__(self):
        if not (self.dx > 0 and self.dy > 0 and self.nx > 0 and self.ny > 0):
            raise ValueError(f"pixels of {self.dx} x {self.dy} m on {self.ny} x {self.nx} points: all must be positive")
        if not np.isfinite([self.dx, self.dy, self.left, self.top]).all():
            raise ValueError(
                f"its upper left corner is {self.left}, {self.top} m with pixels of {self.dx} x {self.dy} m"
            )
        refuse_huge(self.shape)

    @property
    def x(self) -> np.ndarray:
        """Pixel centres in metres, ascending, shape (nx,)."""
        return self.left + (np.arange(self.nx) + 0.5) * self.dx

    @property
    def y(self) -> np.ndarray:
        """Pixel centres in metres, descending, shape (ny,)."""
        return self.top - (np.arange(self.ny) + 0.5) * self.dy

    @property
    def dims(self) -> tuple[str, str]:
        """Names of the dims of a picture."""
        return "y", "x"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.ny, self.nx

    def check(self) -> None:
        """Refuse a projection that cannot be used.

        ValueError if it is none, no map plane in metres, or the grid's middle is not on the earth.
        """
        _grid_mapping(self.projection)
        _refuse_off_the_earth(self)

    def coordinates(self) -> xr.Dataset:
        """``y``, ``x`` and 2-D ``lat``, ``lon`` as coordinates, and the variable ``crs``."""
        lat, lon = _lat_lon(self)
        return xr.Dataset(
            {"crs": ((), np.int32(0), _grid_mapping(self.projection))},
            coords={
                "y": ("y", self.y, metres_along("y")),
                "x": ("x", self.x, metres_along("x")),
                # copies: the cached arrays must not change when a user writes into theirs
                "lat": (("y", "x"), lat.copy(), LATITUDE),
                "lon": (("y", "x"), lon.copy(), LONGITUDE),
            },
        )


@dataclass(frozen=True)
class LatLonGrid:
    """A regular grid of latitudes and longitudes on WGS 84.

    ``lat, lon``: of the pixel centres, in degrees, in the order in which rows and columns are stored.

    >>> LatLonGrid((50.5, 49.5), (5.0, 6.0, 7.0)).shape
    (2, 3)
    """

    lat: tuple[float, ...]
    lon: tuple[float, ...]

    def __post_init__(self):
        refuse_huge(self.shape)
        for name, most in (("lat", 90), ("lon", 540)):
            values = np.array(getattr(self, name))
            steps = np.diff(values)
            if len(steps) < 1 or not (np.all(steps > 0) or np.all(steps < 0)):
                raise ValueError(f"its {name} are {len(steps) + 1} values that do not rise or fall throughout")
            if not (np.abs(values[[0, -1]]) <= most).all():
                raise ValueError(f"its {name} go from {values[0]:g} to {values[-1]:g} degrees")

    @property
    def dims(self) -> tuple[str, str]:
        """Names of the dims of a picture."""
        return "lat", "lon"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.lat), len(self.lon)

    def check(self) -> None:
        """Nothing can be wrong that was not refused when the grid was made."""

    def coordinates(self) -> xr.Dataset:
        """1-D ``lat`` and ``lon`` as coordinates, and the variable ``crs``."""
        wgs84 = {
            "grid_mapping_name": "latitude_longitude",
            "semi_major_axis": 6378137.0,
            "inverse_flattening": 298.257223563,
            "longitude_of_prime_meridian": 0.0,
        }
        return xr.Dataset(
            {"crs": ((), np.int32(0), wgs84)},
            coords={
                "lat": ("lat", np.array(self.lat), {**LATITUDE, "axis": "Y"}),
                "lon": ("lon", np.array(self.lon), {**LONGITUDE, "axis": "X"}),
            },
        )


@dataclass(frozen=True)
class LocalGrid:
    """A regular grid of which only the spacing is told, and not where it lies; first row in the north.

    ``dx, dy``: pixel width and height, in metres, both positive. ``nx, ny``: number of columns and rows.

    >>> LocalGrid(dx=1000.0, dy=1000.0, nx=3, ny=2).coordinates().y.values
    array([ 500., -500.])
    """

    dx: float
    dy: float
    nx: int
    ny: int

    @property
    def dims(self) -> tuple[str, str]:
        """Names of the dims of a picture."""
        return "y", "x"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.ny, self.nx

    def check(self) -> None:
        """Refuse a grid without extent.

        ValueError if a size is not positive.
        """
        if not min(self.dx, self.dy, self.nx, self.ny) > 0:
            raise ValueError(f"pixels of {self.dx} x {self.dy} m on {self.ny} x {self.nx} points: all must be positive")
        refuse_huge(self.shape)

    def coordinates(self) -> xr.Dataset:
        """``y`` and ``x``, distances from the centre."""
        y = ((self.ny - 1) / 2 - np.arange(self.ny)) * self.dy
        x = (np.arange(self.nx) - (self.nx - 1) / 2) * self.dx
        attrs = {
            name: {"long_name": f"distance {way} of the centre", "units": "m"}
            for name, way in (("y", "north"), ("x", "east"))
        }
        return xr.Dataset(coords={"y": ("y", y, attrs["y"]), "x": ("x", x, attrs["x"])})


AnyGrid = Grid | LatLonGrid | LocalGrid

# Attributes that say how the numbers are to be read: one for all pictures of a variable.
ALIKE = {"units": "the", "zr_a": "the Z-R relation", "zr_b": "the Z-R relation", "zerovalue": "the"}


@dataclass(frozen=True)
class Frame:
    """One radar picture, decoded or to be decoded when it is looked at.

    ``values``: first row in the north. NaN is "not measured". A callable without arguments gives that array. ``time``:
    valid time, or the end of the accumulation interval where ``start`` is given. ``name``: variable name. ``attrs``: CF
    attributes of the variable. ``about``: global attributes of the dataset. ``start``: start of the accumulation
    interval. ``init``: of a forecast: when it was made. ``packing``: ``dtype``, ``scale_factor``, ``_FillValue`` ...
    with which the values are stored without loss. ``product``: which of the products that hold the same variable it is;
    pictures of two do not mix.
    """

    values: np.ndarray | Callable[[], np.ndarray]
    time: np.datetime64
    grid: AnyGrid
    name: str
    attrs: Mapping[str, object]
    about: Mapping[str, str]
    start: np.datetime64 | None = None
    init: np.datetime64 | None = None
    packing: Mapping[str, object] = field(default_factory=dict)
    product: str = ""

    def __post_init__(self):
        self.grid.check()  # a projection that cannot be used is a fault of this very file


def rain_rate(comment: str, cell: str = "mean") -> dict[str, object]:
    """CF attributes of a rain rate in mm h-1: ``cell`` is "mean" over its interval, or "point" in time."""
    return {
        "standard_name": "rainfall_rate",
        "long_name": "rainfall rate",
        "units": "mm h-1",
        "comment": comment,
        "cell_methods": f"time: {cell}",
    }


def reflectivity(
    comment: str,
    relation: tuple[float, float] | None = None,
    zerovalue: float | None = None,
    long_name: str = "radar reflectivity factor",
) -> dict[str, object]:
    """CF attributes of a reflectivity in dBZ, its Z-R relation and what it has for no echo where these are known."""
    return {
        "standard_name": "equivalent_reflectivity_factor",
        "long_name": long_name,
        "units": "dBZ",
        "comment": comment,
        **({} if zerovalue is None else {"zerovalue": zerovalue}),
        **({} if relation is None else zr_attributes(relation)),
        "cell_methods": "time: point",
    }


def packed(scale: float, offset: float = 0.0, fill: int = -32768) -> dict[str, object]:
    """Encoding as signed integers of two bytes, because older readers of CF know no unsigned ones."""
    return {
        "dtype": "int16",
        "scale_factor": np.float32(scale),
        "add_offset": np.float32(offset),
        "_FillValue": np.int16(fill),
    }


def frames_of(paths: Sequence[Path], frames: Callable[[Path], Iterable[Frame]]) -> xr.Dataset:
    """`to_dataset` of the frames of files that may hold several."""
    found = [(frame, path) for path in paths for frame in frames(path)]
    return to_dataset([frame for frame, _ in found], [path for _, path in found])


def to_dataset(frames: Sequence[Frame], paths: Sequence[Path]) -> xr.Dataset:
    """CF-1.10 dataset of decoded frames, sorted along time.

    ``frames``: one or more of the same variable on the same grid, in any order. ``paths``: where each frame came from,
    for messages and ``history``. Returned: the variable with dims (time, y, x), float32; ``y`` descending and ``x``
    ascending in metres; 2-D ``lat`` and ``lon`` (WGS 84); ``crs``; ``time_bnds`` for accumulations. On a `LatLonGrid`
    the dims are (time, lat, lon). Forecasts have the dims (init_time, lead_time, ...) and a coordinate ``valid_time``.
    Frames that are not decoded yet are read when they are used. ValueError if the grids, variables, products, units,
    Z-R relations or lengths of accumulation differ, two frames have the same time, or a forecast lacks a lead time.

    >>> grid = Grid("+proj=stere +lat_0=90 +lat_ts=60", left=0.0, top=0.0, dx=1000.0, dy=1000.0, nx=3, ny=2)
    >>> rain = {"standard_name": "rainfall_rate", "units": "mm h-1"}
    >>> noon = np.datetime64("2020-06-01T12:00", "ns")
    >>> frame = Frame(np.zeros((2, 3), "f4"), noon, grid, "rainfall_rate", rain, {"title": "example"})
    >>> to_dataset([frame], [Path("radar.bin")]).rainfall_rate.dims
    ('time', 'y', 'x')
    """
    _refuse_a_mixture(frames, paths)
    order = sorted(range(len(frames)), key=lambda index: (_init(frames[index]), frames[index].time))
    frames, paths = [frames[index] for index in order], [paths[index] for index in order]
    first = frames[0]
    if first.init is None:
        starts = None if first.start is None else np.array([frame.start for frame in frames])
        dataset = along_time(first.name, _stacked(frames, ("time",), (len(frames),)), _times(frames), starts)
    else:
        dataset = _along_lead_time(frames, paths)
    dataset[first.name].attrs = dict(first.attrs) | accutime_of(first)
    if all(frame.packing == first.packing for frame in frames):
        dataset[first.name].encoding |= dict(first.packing)
    return labelled(dataset, first.name, first.grid, first.about, paths)


def accutime_of(frame: Frame) -> dict[str, float]:
    """Minutes of an amount's interval, which tell it where the variable goes without its bounds."""
    if frame.start is None or not is_amount(frame.attrs.get("units")):
        return {}
    return {"accutime": float((frame.time - frame.start) / np.timedelta64(60, "s"))}


def along_time(name: str, values: xr.Variable, times: np.ndarray, starts: np.ndarray | None = None) -> xr.Dataset:
    """A variable with its time axis.

    ``values``: dims (time, ...). ``starts``: starts of the accumulation intervals that end at ``times``.
    """
    dataset = xr.Dataset(coords={"time": ("time", times, TIME)})
    dataset[name] = values
    if starts is not None:
        dataset["time_bnds"] = (("time", "bnds"), np.stack([starts, times], axis=1))
        dataset.time.attrs.update(long_name="end of accumulation interval", bounds="time_bnds")
    return dataset


def labelled(
    dataset: xr.Dataset, name: str, grid: AnyGrid, about: Mapping[str, str], paths: Sequence[Path]
) -> xr.Dataset:
    """A dataset with the coordinates of its grid and what CF wants to know of it.

    ``name``: variable on the grid. ``about``: global attributes. ``paths``: files that it came from, for ``history``.
    """
    dataset = dataset.merge(grid.coordinates())
    for coordinate in ("time", "init_time", "valid_time", "event_time"):
        if coordinate in dataset.variables:  # with units of its own each, CF's bounds would not fit to their times
            dataset[coordinate].encoding["units"] = "seconds since 1970-01-01 00:00:00"
    for dim in grid.dims:
        dataset[dim].encoding["_FillValue"] = None
    if "crs" in dataset:
        dataset[name].attrs["grid_mapping"] = "crs"
    files = list(dict.fromkeys(paths))
    names = files[0].name if len(files) == 1 else f"{files[0].name} ... {files[-1].name} ({len(files)} files)"
    return dataset.assign_attrs(
        {"Conventions": "CF-1.10", **about, "history": f"decoded by xnowcast.io from {names}"},
    )


def _times(frames: Sequence[Frame]) -> np.ndarray:
    return np.array([frame.time for frame in frames])


def _along_lead_time(frames: Sequence[Frame], paths: Sequence[Path]) -> xr.Dataset:
    inits = np.unique([_init(frame) for frame in frames])
    leads = np.unique([frame.time - _init(frame) for frame in frames])
    path_of = {(_init(frame), frame.time - _init(frame)): path for frame, path in zip(frames, paths, strict=True)}
    for init in inits:
        for lead in leads:
            if (init, lead) not in path_of:
                path = next(path for (known, _), path in path_of.items() if known == init)
                minutes = lead / np.timedelta64(1, "m")
                raise ValueError(f"the forecast of {str(init)[:16]} ({path}) lacks the lead time of {minutes:g} min")
    first = frames[0]
    dataset = xr.Dataset(coords=forecast_times(inits, leads))
    dataset[first.name] = _stacked(frames, ("init_time", "lead_time"), (len(inits), len(leads)))
    return dataset


def _stacked(frames: Sequence[Frame], leading: tuple[str, ...], sizes: tuple[int, ...]) -> xr.Variable:
    """Pictures in order, decoded ones as they are, the others to be read when they are used."""
    values = [frame.values for frame in frames]
    grid = frames[0].grid
    dims: tuple[Hashable, ...] = (*leading, *grid.dims)
    shape = (*sizes, *grid.shape)
    decoded = [value for value in values if isinstance(value, np.ndarray)]
    if len(decoded) == len(values):
        return xr.Variable(dims, np.stack(decoded).reshape(shape))
    return pictures(
        dims, shape, [value if callable(value) else functools.partial(np.asarray, value) for value in values]
    )


def _init(frame: Frame) -> np.datetime64:
    return np.datetime64(0, "ns") if frame.init is None else frame.init


def _refuse_a_mixture(frames: Sequence[Frame], paths: Sequence[Path]) -> None:
    for frame, path in zip(frames, paths, strict=True):
        if frame.grid != frames[0].grid:
            raise ValueError(
                f"{path} has another grid than {paths[0]} ({_brief(frame.grid)} against {_brief(frames[0].grid)}): "
                "open files of each grid on their own"
            )
        if frame.name != frames[0].name:
            raise ValueError(f"{path} holds {frame.name} and {paths[0]} holds {frames[0].name}: open them on their own")
        if frame.product != frames[0].product:
            products = " and ".join(f"{p} is {f.product}" for f, p in ((frame, path), (frames[0], paths[0])))
            raise ValueError(f"{products}: open them on their own")
        for attribute, meaning in ALIKE.items():
            found, first = frame.attrs.get(attribute, "none"), frames[0].attrs.get(attribute, "none")
            if found != first:
                raise ValueError(
                    f"{path} has {meaning} {attribute} = {found} and {paths[0]} has {first}: open them on their own"
                )
        if _length(frame) != _length(frames[0]):
            raise ValueError(
                f"{path} is an accumulation of {_length(frame):g} min and {paths[0]} one of {_length(frames[0]):g} "
                "min: open them on their own"
            )
        if (frame.init is None) != (frames[0].init is None):
            kinds = ["an observation" if f.init is None else "a forecast" for f in (frame, frames[0])]
            raise ValueError(f"{path} holds {kinds[0]} and {paths[0]} {kinds[1]}: open them on their own")
    (init, time), count = Counter((frame.init, frame.time) for frame in frames).most_common(1)[0]
    if count > 1:
        at = zip(frames, paths, strict=True)
        same = sorted({str(path) for frame, path in at if (frame.init, frame.time) == (init, time)})
        raise ValueError(f"{count} fields have the same time {time} ({', '.join(same)}): give each once")


def _length(frame: Frame) -> float:
    """Of the accumulation, in minutes; 0 where there is none."""
    return 0.0 if frame.start is None else (frame.time - frame.start) / np.timedelta64(1, "m")


def _brief(grid: AnyGrid) -> str:
    if not isinstance(grid, LatLonGrid):
        return str(grid)
    lat, lon = grid.lat, grid.lon
    return f"{len(lat)} lat from {lat[0]:g} to {lat[-1]:g}, {len(lon)} lon from {lon[0]:g} to {lon[-1]:g}"


def _crs(projection: str):
    """The pyproj.CRS. Lambert's equal area on a sphere is named as on an ellipsoid, since CF has one name for both."""
    crs = extra("pyproj").CRS.from_user_input(projection)
    text = crs.to_wkt()
    plain = re.sub(r'METHOD\["Lambert Azimuthal Equal Area \(Spherical\)",\s*ID\["EPSG",1027\]\]', _EQUAL_AREA, text)
    return crs if plain == text else extra("pyproj").CRS.from_wkt(plain)


@functools.lru_cache(maxsize=8)
def _grid_mapping(projection: str) -> dict[str, object]:
    crs = _crs(projection)
    if not crs.is_projected or {axis.unit_conversion_factor for axis in crs.axis_info} != {1.0}:
        raise ValueError(f"its projection {projection!r} is not measured in metres; a map plane in metres is needed")
    with warnings.catch_warnings():
        # CF has no word for one angle of the Swiss projection; crs_wkt, written beside the CF words, has it.
        warnings.filterwarnings("ignore", message=".*lost in conversion to CF", category=UserWarning)
        words = crs.to_cf()
    if words.get("grid_mapping_name") == "polar_stereographic":
        # CF wants the pole named; pyproj leaves it out where the standard parallel tells it.
        words.setdefault("latitude_of_projection_origin", math.copysign(90.0, words.get("standard_parallel", 90)))
    if "unknown" in (words.get(name) for name in DATUM_NAMES):
        words = {word: value for word, value in words.items() if word not in DATUM_NAMES}
    return {word: value for word, value in words.items() if value != "unknown"}


@functools.lru_cache(maxsize=8)
def _refuse_off_the_earth(grid: Grid) -> None:
    to_wgs84 = extra("pyproj").Transformer.from_crs(grid.projection, "EPSG:4326", always_xy=True)
    middle = to_wgs84.transform(grid.left + grid.nx * grid.dx / 2, grid.top - grid.ny * grid.dy / 2)
    if not np.isfinite(middle).all():
        raise ValueError(f"the middle of its grid is not on the earth in its projection {grid.projection!r}")


@functools.lru_cache(maxsize=2)
def _lat_lon(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """WGS 84 latitude and longitude of the pixel centres, float32, each of shape (y, x)."""
    to_wgs84 = extra("pyproj").Transformer.from_crs(grid.projection, "EPSG:4326", always_xy=True)
    lon, lat = to_wgs84.transform(*np.meshgrid(grid.x, grid.y))
    return lat.astype(np.float32), lon.astype(np.float32)
