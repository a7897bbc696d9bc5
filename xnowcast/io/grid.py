"""From decoded pixels to a CF dataset: the part that is the same for every product."""

import functools
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from xnowcast.io.files import extra

# CF wants all of these or none.
DATUM_NAMES = ("reference_ellipsoid_name", "prime_meridian_name", "horizontal_datum_name")


@dataclass(frozen=True)
class Grid:
    """A regular grid on a map plane, first row in the north, as radar pictures are stored.

    Parameters
    ----------
    projection : str
        Anything that ``pyproj.CRS`` understands; its unit must be the metre.
    left, top : float
        Outer corner of the upper left pixel, in metres.
    dx, dy : float
        Pixel width and height, in metres, both positive.
    nx, ny : int
        Number of columns and rows.

    Examples
    --------
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

    @property
    def x(self) -> np.ndarray:
        """Pixel centres in metres, ascending, shape (nx,)."""
        return self.left + (np.arange(self.nx) + 0.5) * self.dx

    @property
    def y(self) -> np.ndarray:
        """Pixel centres in metres, descending, shape (ny,)."""
        return self.top - (np.arange(self.ny) + 0.5) * self.dy


@dataclass(frozen=True)
class Frame:
    """One decoded radar picture.

    Parameters
    ----------
    values : array of float32, shape (y, x)
        First row in the north. NaN is "not measured".
    time : numpy.datetime64
        Valid time, or the end of the accumulation interval where ``start`` is given.
    grid : Grid
    name : str
        Variable name.
    attrs : mapping
        CF attributes of the variable.
    about : mapping
        Global attributes of the dataset.
    start : numpy.datetime64, optional
        Start of the accumulation interval.
    packing : mapping, optional
        ``dtype``, ``scale_factor``, ``_FillValue`` ... with which the values are stored without loss.
    """

    values: np.ndarray
    time: np.datetime64
    grid: Grid
    name: str
    attrs: Mapping[str, object]
    about: Mapping[str, str]
    start: np.datetime64 | None = None
    packing: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self):
        _grid_mapping(self.grid.projection)  # a projection that cannot be used is a fault of this very file


def to_dataset(frames: Sequence[Frame], paths: Sequence[Path]) -> xr.Dataset:
    """CF-1.10 dataset of decoded frames, sorted along time.

    Parameters
    ----------
    frames : sequence of Frame
        One or more of the same variable on the same grid, in any order.
    paths : sequence of pathlib.Path
        Where each frame came from, for messages and ``history``.

    Returns
    -------
    xarray.Dataset
        The variable with dims (time, y, x), float32; ``y`` descending and ``x`` ascending in metres; 2-D
        ``lat`` and ``lon`` (WGS 84); ``crs``; ``time_bnds`` for accumulations.

    Raises
    ------
    ValueError
        If the grids or variables differ, or two frames have the same time.

    Examples
    --------
    >>> grid = Grid("+proj=stere +lat_0=90 +lat_ts=60", left=0.0, top=0.0, dx=1000.0, dy=1000.0, nx=3, ny=2)
    >>> rain = {"standard_name": "rainfall_rate", "units": "mm h-1"}
    >>> noon = np.datetime64("2020-06-01T12:00", "ns")
    >>> frame = Frame(np.zeros((2, 3), "f4"), noon, grid, "rainfall_rate", rain, {"title": "example"})
    >>> to_dataset([frame], [Path("radar.bin")]).rainfall_rate.dims
    ('time', 'y', 'x')
    """
    _refuse_a_mixture(frames, paths)
    order = sorted(range(len(frames)), key=lambda index: frames[index].time)
    frames, paths = [frames[index] for index in order], [paths[index] for index in order]
    first = frames[0]

    dataset = _coordinates(first.grid, np.array([frame.time for frame in frames]))
    dataset[first.name] = (
        ("time", "y", "x"),
        np.stack([frame.values for frame in frames]),
        {**first.attrs, "grid_mapping": "crs"},
    )
    if all(frame.packing == first.packing for frame in frames):
        dataset[first.name].encoding = dict(first.packing)
    if first.start is not None:
        dataset["time_bnds"] = (("time", "bnds"), np.array([[frame.start, frame.time] for frame in frames]))
        dataset.time.attrs.update(long_name="end of accumulation interval", bounds="time_bnds")
    names = paths[0].name if len(paths) == 1 else f"{paths[0].name} ... {paths[-1].name} ({len(paths)} files)"
    dataset.attrs = {
        "Conventions": "CF-1.10",
        **first.about,
        "history": f"decoded by xnowcast.io from {names}",
    }
    return dataset


def _refuse_a_mixture(frames: Sequence[Frame], paths: Sequence[Path]) -> None:
    for frame, path in zip(frames, paths, strict=True):
        if frame.grid != frames[0].grid:
            raise ValueError(
                f"{path} has another grid than {paths[0]} ({frame.grid} against {frames[0].grid}): "
                "open files of each grid on their own"
            )
        if frame.name != frames[0].name:
            raise ValueError(f"{path} holds {frame.name} and {paths[0]} holds {frames[0].name}: open them on their own")
    time, count = Counter(frame.time for frame in frames).most_common(1)[0]
    if count > 1:
        same = sorted({str(path) for frame, path in zip(frames, paths, strict=True) if frame.time == time})
        raise ValueError(f"{count} fields have the same time {time} ({', '.join(same)}): give each once")


def _coordinates(grid: Grid, times: np.ndarray) -> xr.Dataset:
    lat, lon = _lat_lon(grid)
    return xr.Dataset(
        {"crs": ((), np.int32(0), _grid_mapping(grid.projection))},
        coords={
            "time": ("time", times, {"standard_name": "time", "long_name": "time", "axis": "T"}),
            "y": ("y", grid.y, _axis("y")),
            "x": ("x", grid.x, _axis("x")),
            # copies: the cached arrays must not change when a user writes into theirs
            "lat": (("y", "x"), lat.copy(), {"standard_name": "latitude", "units": "degrees_north"}),
            "lon": (("y", "x"), lon.copy(), {"standard_name": "longitude", "units": "degrees_east"}),
        },
    )


def _axis(name: str) -> dict[str, str]:
    return {
        "standard_name": f"projection_{name}_coordinate",
        "long_name": f"{name} coordinate of projection",
        "units": "m",
        "axis": name.upper(),
    }


@functools.lru_cache(maxsize=8)
def _grid_mapping(projection: str) -> dict[str, object]:
    crs = extra("pyproj").CRS.from_user_input(projection)
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


@functools.lru_cache(maxsize=2)
def _lat_lon(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """WGS 84 latitude and longitude of the pixel centres, float32, each of shape (y, x)."""
    to_wgs84 = extra("pyproj").Transformer.from_crs(grid.projection, "EPSG:4326", always_xy=True)
    lon, lat = to_wgs84.transform(*np.meshgrid(grid.x, grid.y))
    return lat.astype(np.float32), lon.astype(np.float32)
