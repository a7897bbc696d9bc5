"""MeteoNet of Météo-France: radar maps in NumPy archives, and forecasts of AROME and ARPEGE in GRIB."""

import functools
import itertools
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import xarray as xr

from xnowcast.fields.units import MARSHALL_PALMER
from xnowcast.io import grib, pickled_dates
from xnowcast.io.files import Paths, beside, blame, decode, path_list
from xnowcast.io.grid import (
    Frame,
    LatLonGrid,
    along_time,
    labelled,
    packed,
    rain_rate,
    reflectivity,
    refuse_huge,
    to_dataset,
)
from xnowcast.io.lazy import Stack, lazy
from xnowcast.io.recognise import reader

PRODUCT = "MeteoNet radar archive"
MODEL = "MeteoNet model forecast (GRIB)"
RAIN_UNITS = "kg m**-2"  # as ecCodes writes it; other centres' tp is in m
STEP = np.timedelta64(5, "m")
MAPS_AT_ONCE = 144
MOST_DATES = 2**24  # bytes; a date takes 31, and an archive has 3000
MOST_COORDINATES = 2**28
ABOUT = {
    "institution": "Météo-France",
    "license": "Etalab Open Licence 2.0, source: Meteonet, Météo-France (https://meteonet.umr-cnrm.fr)",
}


@dataclass(frozen=True)
class Quantity:
    """What the numbers of a kind of archive mean: ``value = stored * scale``, NaN where ``stored == missing``."""

    title: str
    scale: float
    missing: int
    attrs: dict[str, object]

    @property
    def name(self) -> str:
        """Of the variable."""
        return str(self.attrs["standard_name"])


QUANTITIES = {
    "rainfall": Quantity(
        title="radar rainfall",
        scale=0.12,
        missing=-1,
        attrs=rain_rate("source is a 5-min accumulation (0.01 mm) x 12; missing = not measured"),
    ),
    "reflectivity_old": Quantity(
        title="radar reflectivity, old product",
        scale=1.0,
        missing=255,
        attrs=reflectivity(
            "lower bounds of classes; 0 dBZ = less than 8 dBZ, taken as no echo; missing = not measured",
            MARSHALL_PALMER,
            zerovalue=0.0,
        ),
    ),
    "reflectivity_new": Quantity(
        title="radar reflectivity, new product",
        scale=0.1,
        missing=-200,
        attrs=reflectivity("-10 dBZ = nothing detected; missing = not measured", MARSHALL_PALMER, zerovalue=-10.0),
    ),
}


@reader("MeteoNet radar", lambda archive: {"data.npy", "miss_dates.npy"} <= set(archive.namelist()), "zip")
def open_meteonet(paths: Paths, *, coordinates: str | Path | None = None, quantity: str | None = None) -> xr.Dataset:
    """Rain rate or reflectivity from MeteoNet radar archives (``rainfall_NW_2016_01.1.npz`` and their kin).

    Parameters
    ----------
    paths : path, pattern or iterable of them
        Archives of one zone and one quantity, in any order.
    coordinates : path, optional
        ``radar_coords_NW.npz`` or ``radar_coords_SE.npz``. By default it is looked for beside the first archive and in
        the four folders above.
    quantity : {"rainfall", "reflectivity_old", "reflectivity_new"}, optional
        What the archives hold. By default their names tell.

    Returns
    -------
    xarray.Dataset
        ``rainfall_rate`` in mm h-1 or ``equivalent_reflectivity_factor`` in dBZ with dims (time, lat, lon), float32,
        read when it is used. NaN is "not measured". ``missing_times`` lists the times that the archives say they lack.

    Raises
    ------
    ValueError
        If an archive is truncated or no MeteoNet radar archive, its zone's coordinates are missing or do not fit, or
        two maps have the same time.
    FileNotFoundError
        If a file does not exist.

    Notes
    -----
    Rainfall is stored in hundredths of a millimetre in five minutes, -1 missing; the data set does not tell whether a
    time is the start or the end of the five minutes. The old reflectivity is in dBZ, 255 missing, the new one in
    tenths of a dBZ, -200 missing. Archives are compressed as a whole: to read the last map of one, all before it are
    unpacked. For training write them to Zarr first.

    References
    ----------
    Larvor et al. (2020): MeteoNet, an open reference weather dataset by Météo-France

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from datetime import datetime
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> lon, lat = np.meshgrid([2.0, 2.01, 2.02], [46.0, 45.99])
    >>> np.savez(folder / "radar_coords_SE.npz", lats=lat, lons=lon)
    >>> maps = np.array([[[0, 25, -1], [0, 0, 0]]], np.int16)
    >>> noon = np.array([datetime(2016, 8, 21, 12)], object)
    >>> np.savez_compressed(folder / "rainfall_SE_2016_08.3.npz", data=maps, dates=noon, miss_dates=noon[:0])
    >>> open_meteonet(folder / "rainfall_SE_2016_08.3.npz").rainfall_rate.values[0, 0]
    array([ 0.,  3., nan], dtype=float32)
    """
    files = path_list(paths)
    if quantity is not None and quantity not in QUANTITIES:
        raise ValueError(f"quantity {quantity!r} is not known; it is one of {', '.join(QUANTITIES)}")
    kinds = {path: quantity or _quantity(path) for path in files}
    if len(set(kinds.values())) > 1:
        path = next(path for path in files if kinds[path] != kinds[files[0]])
        raise ValueError(f"{path} holds {kinds[path]} and {files[0]} holds {kinds[files[0]]}: open them on their own")
    archives = [blame(path, PRODUCT, functools.partial(_Archive, path)) for path in files]
    archives.sort(key=lambda archive: archive.times[0])
    _refuse_overlap(archives)
    meaning = QUANTITIES[kinds[files[0]]]
    grid = _coordinates(files[0], coordinates)
    for archive in archives:
        if archive.shape != grid.shape:
            raise ValueError(
                f"the maps of {archive.path} are {archive.shape}, the coordinates {grid.shape} (rows, columns)"
            )
        blame(archive.path, PRODUCT, functools.partial(archive.check, meaning))
    return _dataset(archives, meaning, grid, files)


def _dataset(archives: list["_Archive"], meaning: Quantity, grid: LatLonGrid, files: list[Path]) -> xr.Dataset:
    blocks = [(len(archive.times), functools.partial(archive.read, meaning)) for archive in archives]
    times = np.concatenate([archive.times for archive in archives])
    longest = max(len(archive.times) for archive in archives)
    stack = Stack((len(times),), grid.shape, blocks)
    values = lazy(("time", "lat", "lon"), stack, (min(longest, MAPS_AT_ONCE), *grid.shape))
    values.attrs = dict(meaning.attrs)
    values.encoding |= packed(meaning.scale)
    dataset = along_time(meaning.name, values, times)
    missing = np.unique(np.concatenate([archive.missing for archive in archives]))
    dataset["missing_times"] = ("missing_times", missing, {"long_name": "times without a map"})
    attrs = {"title": f"MeteoNet {meaning.title}", "source": "radar composite of Météo-France", **ABOUT}
    return labelled(dataset, meaning.name, grid, attrs, files)


class _Archive:
    """An archive of maps: when they are, and how to read some of them."""

    def __init__(self, path: Path):
        self.path = path
        with zipfile.ZipFile(path) as archive:
            members = {"data.npy", "dates.npy", "miss_dates.npy"}
            if not members <= set(archive.namelist()):
                raise ValueError(f"it holds {', '.join(archive.namelist())}; data, dates and miss_dates are expected")
            self.times, self.missing = (_dates(archive, f"{name}.npy") for name in ("dates", "miss_dates"))
            with _opened(archive, "data.npy") as data:
                shape, self._type = _array_header(data)
                size = archive.getinfo("data.npy").file_size - data.tell()
        if len(shape) != 3 or self._type.kind not in "iu" or shape[0] != len(self.times) or shape[0] == 0:
            raise ValueError(f"its maps are {self._type} of shape {shape}, its dates {len(self.times)}")
        refuse_huge(shape[1:])
        if math.prod(shape) * self._type.itemsize != size:
            raise ValueError(f"its maps have {size} bytes, where {self._type} of shape {shape} is announced")
        if not (np.diff(self.times) > np.timedelta64(0)).all():
            raise ValueError("its dates do not rise throughout")
        self.shape = shape[1:]

    def check(self, meaning: Quantity) -> None:
        """Refuse numbers that cannot hold what stands for a missing value: it would be taken for rain."""
        if not np.iinfo(self._type).min <= meaning.missing <= np.iinfo(self._type).max:
            raise ValueError(f"its maps are {self._type}, which cannot hold {meaning.missing}, the code for missing")

    def read(self, meaning: Quantity, places: np.ndarray) -> np.ndarray:
        stored = blame(self.path, PRODUCT, lambda: self._stored(places))
        values = stored.astype(np.float32) * np.float32(meaning.scale)
        values[stored == meaning.missing] = np.nan
        return values

    def _stored(self, places: np.ndarray) -> np.ndarray:
        size = self._type.itemsize * self.shape[0] * self.shape[1]
        maps = np.empty((len(places), *self.shape), self._type)
        with zipfile.ZipFile(self.path) as archive, _opened(archive, "data.npy") as data:
            _array_header(data)
            start = data.tell()
            for place in np.argsort(places):  # rising, since going back means to unpack from the start
                data.seek(start + int(places[place]) * size)
                maps[place] = np.frombuffer(data.read(size), self._type).reshape(self.shape)
        return maps


def _array_header(file) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, kind = read(file)
    if columns_first:
        raise ValueError("an array is stored column by column; row by row is expected")
    return shape, kind


def _member(archive: zipfile.ZipFile, name: str, most: int) -> tuple[tuple[int, ...], np.dtype, bytes]:
    """Shape, type and content of a small array in an archive."""
    if (size := archive.getinfo(name).file_size) > most:
        raise ValueError(f"its {name} has {size} bytes, more than the {most} that it can need")
    with _opened(archive, name) as file:
        return *_array_header(file), file.read(size)  # a number, for without one all would be unpacked at first


def _opened(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its {name} is packed in a way that NumPy does not write")
    return archive.open(name)


def _dates(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    shape, kind, content = _member(archive, name, MOST_DATES)
    if kind.hasobject:
        return pickled_dates.dates(content, shape)
    if kind.kind != "M":
        raise ValueError(f"its dates are {kind}; datetime objects are expected")
    return np.frombuffer(content, kind).reshape(shape).astype("M8[ns]")


def _quantity(path: Path) -> str:
    match = re.match(r"rainfall(?=_(?:NW|SE))|reflectivity[_-](?:old|new)", path.name)
    if match is None:
        raise ValueError(
            f"{path} does not tell by its name what it holds: name it as MeteoNet does (rainfall_NW_..., "
            f"reflectivity_old_NW_...), or give quantity={' or '.join(map(repr, QUANTITIES))}"
        )
    return match[0].replace("-", "_")


def _refuse_overlap(archives: list[_Archive]) -> None:
    for before, after in itertools.pairwise(archives):
        if after.times[0] <= before.times[-1]:
            raise ValueError(f"{before.path} and {after.path} have times in common or mixed: give each time once")


def _coordinates(path: Path, given: str | Path | None) -> LatLonGrid:
    zone = re.search(r"_(NW|SE)[_.]", path.name)
    pattern = f"radar_coords_{zone[1] if zone else '*'}.npz"
    found = [Path(given)] if given is not None else beside(path, pattern)
    if not found or not (zone or len(found) == 1):
        raise ValueError(
            f"{pattern} with the latitudes and longitudes is not beside {path}, nor in the folders above: put it "
            "there, or give its path as coordinates="
        )
    given = found[0]
    return blame(Path(given), "MeteoNet coordinates", functools.partial(_read_coordinates, Path(given)))


def _read_coordinates(path: Path) -> LatLonGrid:
    with zipfile.ZipFile(path) as archive:
        lat, lon = (_coordinate(archive, name) for name in ("lats", "lons"))
    if lat.ndim != 2 or lat.shape != lon.shape or np.ptp(lat, axis=1).any() or np.ptp(lon, axis=0).any():
        raise ValueError(f"lats {lat.shape} and lons {lon.shape} are no regular grid")
    return LatLonGrid(tuple(lat[:, 0].tolist()), tuple(lon[0].tolist()))


def _coordinate(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    shape, kind, content = _member(archive, f"{name}.npy", MOST_COORDINATES)
    if kind.kind != "f":
        raise ValueError(f"its {name} are {kind}; numbers are expected")
    return np.frombuffer(content, kind).reshape(shape)


def _is_forecast(start: bytes) -> bool:
    """GRIB of edition 1 from one of the two centres of Météo-France."""
    return start.startswith(b"GRIB") and start[7:8] == b"\x01" and start[12:13] in (b"\x54", b"\x55")


@reader("MeteoNet GRIB", _is_forecast)
def open_meteonet_model(paths: Paths, variable: str | None = None) -> xr.Dataset:
    """AROME or ARPEGE forecasts of MeteoNet (``arome_PRECIP_SE_20180501000000.grib`` and their kin).

    Parameters
    ----------
    paths : path, pattern or iterable of them
        GRIB files of one grid, in any order, one run or more.
    variable : str, optional
        Which one to read, where a file holds several. All by default.

    Returns
    -------
    xarray.Dataset
        Dims (init_time, lead_time, lat, lon) and the coordinate ``valid_time``; float32, read when it is used. Total
        precipitation, which is stored as the sum since the start, becomes ``precipitation_rate`` in mm h-1, the mean
        since the lead time before, and 0 where the sum falls. Other variables keep the name and units of ecCodes
        (``u10`` in m s-1).

    Raises
    ------
    ValueError
        If a file is truncated or no such forecast, the variable is not there, or the files do not fit together.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If ecCodes is not installed.

    Examples
    --------
    >>> open_meteonet_model("arome_PRECIP_SE_20180501000000.grib")
    Traceback (most recent call last):
    FileNotFoundError: arome_PRECIP_SE_20180501000000.grib does not exist
    """
    files = path_list(paths)
    found = [(frame, path) for path in files for frame in decode(path, MODEL, functools.partial(_frames, path))]
    names = list(dict.fromkeys(frame.name for frame, _ in found))
    if variable is not None and variable not in names:
        raise ValueError(f"there is no variable {variable!r} in {files[0]}; there are {', '.join(names)}")
    wanted = names if variable is None else [variable]
    groups = [[(frame, path) for frame, path in found if frame.name == name] for name in wanted]
    parts = [to_dataset([frame for frame, _ in group], [path for _, path in group]) for group in groups]
    for name, part in zip(wanted, parts, strict=True):
        if not all(part.indexes[dim].equals(parts[0].indexes[dim]) for dim in ("init_time", "lead_time", "lat", "lon")):
            raise ValueError(f"{name} and {wanted[0]} have other times or grids: choose with variable={name!r}")
    return xr.merge(parts, compat="override", join="override", combine_attrs="override")


@dataclass(frozen=True)
class _Field:
    """What is known of a message without its values; ``lead``, and ``start`` of what is summed up, in minutes."""

    number: int
    name: str
    units: str
    long_name: str
    standard_name: str
    init: np.datetime64
    start: int
    lead: int
    summed: bool
    grid: LatLonGrid


def _frames(path: Path, content: bytes) -> list[Frame]:
    fields = [_field(number, message) for number, message in enumerate(grib.split(content))]
    fields.sort(key=lambda field: (field.name, field.init, field.start, field.lead))
    frames = []
    for before, field in zip([None, *fields], fields, strict=False):
        if not field.summed:
            frames.append(_frame(path, field, functools.partial(_values, path, field.number), _labels(field)))
        elif field.lead > field.start:
            frames.append(_sum(path, field, before))
    return frames


def _field(number: int, content: bytes) -> _Field:
    with grib.message(content) as message:
        unit = {0: 1, 1: 60}.get(message["stepUnits"])
        if unit is None:
            raise ValueError(f"its steps have the unit {message['stepUnits']}; minutes (0) and hours (1) are known")
        if message["shortName"] == "unknown":
            raise ValueError(f"its message {number + 1} is of the parameter {message['paramId']}, which is not known")
        return _Field(
            number=number,
            name=message["cfVarName"] if message["cfVarName"] != "unknown" else message["shortName"],
            units=message["units"],
            long_name=message["name"],
            standard_name=message["cfName"],
            init=message.time(),
            start=unit * message.number("startStep"),
            lead=unit * message.number("endStep"),
            summed=message["stepType"] == "accum",
            grid=message.grid(),
        )


def _sum(path: Path, field: _Field, before: _Field | None) -> Frame:
    """Rate of a sum of precipitation: since the lead time before, where both are sums from the same start on."""
    if field.name != "tp" or field.units != RAIN_UNITS:
        raise ValueError(
            f"{field.name} in {field.units!r} is a sum over time; of sums, tp in {RAIN_UNITS!r} is what this reader "
            "knows"
        )
    same = before is not None and (before.name, before.init, before.start) == (field.name, field.init, field.start)
    earlier = before if before is not None and same and before.start < before.lead < field.lead else None
    hours = (field.lead - (earlier.lead if earlier else field.start)) / 60
    read = functools.partial(_rain, path, field.number, earlier.number if earlier else None, 1 / hours)
    return _frame(path, replace(field, name="precipitation_rate"), read, _rain_labels())


def _frame(path: Path, field: _Field, read: Callable[[], np.ndarray], labels: dict[str, str]) -> Frame:
    return Frame(
        values=read,
        time=field.init + np.timedelta64(field.lead, "m"),
        init=field.init,
        grid=field.grid,
        name=field.name,
        attrs=labels,
        about={"title": "MeteoNet model forecast", "source": "AROME or ARPEGE of Météo-France", **ABOUT},
    )


def _rain_labels() -> dict[str, str]:
    return {
        "standard_name": "lwe_precipitation_rate",
        "long_name": "precipitation rate",
        "units": "mm h-1",
        "comment": "difference of the sums since the start of the run",
        "cell_methods": "lead_time: mean",
    }


def _labels(field: _Field) -> dict[str, str]:
    units = {"Degree true": "degree"}.get(field.units, field.units.replace("**", ""))
    named = {} if field.standard_name == "unknown" else {"standard_name": field.standard_name}
    return {**named, "long_name": field.long_name, "units": units}


def _values(path: Path, number: int) -> np.ndarray:
    with grib.message(decode(path, MODEL, grib.split)[number]) as message:
        return message.values()


def _rain(path: Path, number: int, earlier: int | None, per_hour: float) -> np.ndarray:
    amount = _values(path, number) - (0 if earlier is None else _values(path, earlier))
    # The sums of the data set fall here and there, by up to half a millimetre in an hour; rain does not.
    return np.maximum(amount, 0) * np.float32(per_hour)
