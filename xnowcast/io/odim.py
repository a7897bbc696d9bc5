"""ODIM HDF5, the European exchange format: composites and images (OPERA, RMI and many weather services)."""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.io.files import Paths, blame, extra, path_list
from xnowcast.io.grid import Frame, Grid, LatLonGrid, frames_of, rain_rate, reflectivity
from xnowcast.io.hdf5 import check_array, moment, number, opened, picture, text
from xnowcast.io.recognise import reader

PRODUCT = "ODIM HDF5 composite"
# Words for what a picture shows (table 15). Other words in their place, such as a method's name, do not tell it.
PRODUCTS = ("SCAN", "PPI", "CAPPI", "PCAPPI", "MAX", "SURF", "COMP", "RR")
# So far may the nominal time of a file lie from its data. Farther off it is that of a forecast.
NOMINAL_OFF = timedelta(minutes=15)
UNMEASURED = "missing = outside radar coverage"
# What each quantity becomes: variable name (and standard_name), CF attributes, and the value of "undetect".
QUANTITIES: dict[str, tuple[str, dict[str, object], float]] = {
    "RATE": ("rainfall_rate", rain_rate(UNMEASURED, "point"), 0.0),
    "ACRR": (
        "precipitation_amount",
        {
            "standard_name": "precipitation_amount",
            "long_name": "accumulated precipitation",
            "units": "kg m-2",
            "comment": f"1 kg m-2 is 1 mm; {UNMEASURED}",
            "cell_methods": "time: sum",
        },
        0.0,
    ),
    **{
        quantity: (
            "equivalent_reflectivity_factor",
            reflectivity(f"-32 dBZ = no echo (undetect), a valid measurement; {UNMEASURED}", long_name=meaning),
            -32.0,
        )
        for quantity, meaning in {
            "DBZH": "radar reflectivity factor",
            "TH": "radar reflectivity factor, without clutter correction",
        }.items()
    },
}


@reader(PRODUCT, lambda file: "what" in file and "object" in file["what"].attrs, "hdf5")
def open_odim(paths: Paths, quantity: str | None = None, dataset: str | None = None) -> xr.Dataset:
    """Rain rate, accumulation or reflectivity from ODIM HDF5 composites (object COMP or IMAGE).

    Parameters
    ----------
    paths : path, pattern or iterable of them
        Files of one grid, in any order. A file may hold several times.
    quantity : {"RATE", "ACRR", "DBZH", "TH"}, optional
        Which field to read; needed where a file holds more than one of these.
    dataset : str, optional
        Where in the file it is, such as ``"dataset2"`` or ``"dataset1/data2"``; needed where a file holds the quantity
        more than once for one time.

    Returns
    -------
    xarray.Dataset
        Dims (time, y, x), float32. RATE becomes ``rainfall_rate`` in mm h-1; ACRR becomes
        ``precipitation_amount`` in kg m-2 with ``time_bnds``, and ``time`` is the end of the interval; DBZH
        and TH become ``equivalent_reflectivity_factor`` in dBZ. "undetect" is dry (0, or -32 dBZ), "nodata" is
        NaN. Values are read when they are used. Composites in degrees have the dims (time, lat, lon).

    Raises
    ------
    ValueError
        If a file is truncated or no composite, lacks the quantity or leaves the choice open, or the files do
        not fit together.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If h5py or pyproj is not installed.

    Notes
    -----
    ``what``, ``where`` and ``how`` are read at root, dataset and data level, the deepest entry counts. ``time`` is the
    nominal time of the file, except where it holds several times of the quantity: then it is the end of each
    dataset. Where "nodata" and "undetect" are one number, it is NaN: what may be dry is not known to be. The Z-R
    relation (``zr_a``, ``zr_b``) comes from ``how`` and must be the same in all files.

    References
    ----------
    EUMETNET OPERA weather radar information model for implementation with the HDF5 file format, version 2.2

    Examples
    --------
    >>> import pathlib, tempfile, h5py
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "composite.h5"
    >>> with h5py.File(path, "w") as file:
    ...     file.create_group("what").attrs.update(object="COMP", date="20210704", time="155000")
    ...     file.create_group("where").attrs.update(
    ...         projdef="+proj=laea +lat_0=55 +lon_0=10 +ellps=WGS84",
    ...         xscale=2000, yscale=2000, xsize=3, ysize=1, LL_lon=10.0, LL_lat=55.0,
    ...     )
    ...     file.create_group("dataset1/data1/what").attrs.update(
    ...         quantity="RATE", gain=0.5, offset=0.0, nodata=255.0, undetect=254.0
    ...     )
    ...     file["dataset1/data1/data"] = np.array([[254, 3, 255]], np.uint8)
    >>> open_odim(path).rainfall_rate.values
    array([[[0. , 1.5, nan]]], dtype=float32)
    """
    if quantity is not None and quantity not in QUANTITIES:
        raise ValueError(f"quantity {quantity!r} is not known; it is one of {', '.join(QUANTITIES)}")
    files = path_list(paths)
    return frames_of(files, lambda path: blame(path, PRODUCT, lambda: _read(path, quantity, dataset)))


@dataclass(frozen=True)
class Field:
    """An array of a file, with the attributes that hold for it: the deeper levels over the upper ones."""

    name: str
    array: Any
    what: Mapping[str, Any]
    where: Mapping[str, Any]
    how: Mapping[str, Any]

    @property
    def quantity(self) -> str:
        return text(self.what.get("quantity", ""))

    @property
    def product(self) -> str:
        """What the picture shows, such as the height of a CAPPI; nothing where no standard word tells."""
        product = text(self.what.get("product", ""))
        if product not in PRODUCTS:
            return ""
        return f"{product} {text(self.what['prodpar'])}" if "prodpar" in self.what else product

    def times(self) -> tuple[datetime, datetime] | None:
        """Start and end of its data, where both are told."""
        if not {"startdate", "starttime", "enddate", "endtime"} <= set(self.what):
            return None
        start, end = (moment(self.what[f"{edge}date"], self.what[f"{edge}time"]) for edge in ("start", "end"))
        return start, end


def _read(path: Path, quantity: str | None, dataset: str | None) -> list[Frame]:
    with opened(path) as file:
        kind = text(_level(file, "what")["object"])
        if kind not in ("COMP", "IMAGE"):
            raise ValueError(f"its object is {kind!r}; composites (COMP, IMAGE) are what this reader knows")
        chosen = _chosen(list(_fields(file)), quantity, dataset)
        nominal = moment(file["what"].attrs["date"], file["what"].attrs["time"]) if len(chosen) == 1 else None
        for field in chosen:
            check_array(field.array, file)
        return [_frame(field, nominal, path) for field in chosen]


def _chosen(fields: list[Field], quantity: str | None, dataset: str | None) -> list[Field]:
    """The field that is wanted; several where a file holds several times of it."""
    if dataset is not None:
        names = ", ".join(field.name for field in fields)
        fields = [field for field in fields if f"{field.name}/".startswith(f"{dataset}/")]
        if not fields:
            raise ValueError(f"it holds {names or 'nothing'}, not the {dataset!r} that was asked for")
    wanted = quantity or _only_quantity([field.quantity for field in fields])
    chosen = [field for field in fields if field.quantity == wanted]
    if not chosen:
        found = ", ".join(sorted({field.quantity for field in fields})) or "nothing"
        raise ValueError(f"it holds {found}, not the quantity {wanted} that was asked for")
    products = {field.product for field in chosen}
    ends = {text(field.what.get("enddate", "")) + text(field.what.get("endtime", "")) for field in chosen}
    if len(products) > 1 or len(ends) < len(chosen):
        names = ", ".join(f"{field.name} {field.product}".strip() for field in chosen)
        raise ValueError(f"it holds {wanted} more than once ({names}): choose with dataset={chosen[0].name!r}")
    return chosen


def _only_quantity(found: list[str]) -> str:
    known = sorted(set(found) & set(QUANTITIES))
    if not known:
        raise ValueError(f"it holds {', '.join(sorted(set(found))) or 'no field'}; {' or '.join(QUANTITIES)} is needed")
    if len(known) > 1:
        raise ValueError(f"it holds {' and '.join(known)}: choose with quantity={known[0]!r}")
    return known[0]


def _level(group, name: str) -> dict[str, Any]:
    """Attributes of the subgroup ``name``, empty where there is none."""
    return dict(group[name].attrs) if name in group else {}


def _fields(file) -> Iterator[Field]:
    for dataset in _numbered(file, "dataset"):
        for data in _numbered(dataset, "data"):
            levels = (
                _level(file, name) | _level(dataset, name) | _level(data, name) for name in ("what", "where", "how")
            )
            yield Field(data.name.strip("/"), data["data"], *levels)


def _numbered(group, prefix: str) -> list:
    """Subgroups ``prefix1``, ``prefix2``, ... in the order of their numbers."""
    names = [name for name in group if re.fullmatch(prefix + r"\d+", name)]
    return [group[name] for name in sorted(names, key=lambda name: int(name.removeprefix(prefix)))]


def _frame(field: Field, nominal: datetime | None, path: Path) -> Frame:
    name, attrs, dry = QUANTITIES[field.quantity]
    start, end = _interval(field, nominal)
    _scale(field.what)
    owner = text(field.what.get("source", "unknown"))
    return Frame(
        values=functools.partial(_later, path, field.array.name, field.what, dry),
        time=np.datetime64(end, "ns"),
        start=None if start is None else np.datetime64(start, "ns"),
        grid=_grid(field.where, field.array.shape),
        name=name,
        attrs={**attrs, **(_zr(field.how) if field.quantity in ("DBZH", "TH") else {})},
        about={
            "title": f"ODIM composite {text(field.what.get('product', ''))} {field.quantity}".replace("  ", " "),
            "institution": owner,
            "source": f"weather radar composite of {owner}",
            "license": "not stated in the file; the terms of the data owner apply",
        },
        product=f"{field.quantity} {field.product}".strip(),
    )


def _interval(field: Field, nominal: datetime | None) -> tuple[datetime | None, datetime]:
    """Start, of accumulations alone, and time or end of a field."""
    times = field.times()
    if nominal is not None and times is not None:
        start, end = times
        if not start - NOMINAL_OFF <= nominal <= end + NOMINAL_OFF:
            raise ValueError(f"its nominal time is {nominal} and its data are from {start} to {end}: no observation")
    if field.quantity != "ACRR":
        return None, nominal or moment(field.what["enddate"], field.what["endtime"])
    if times is None:
        raise ValueError("it is an accumulation without startdate, starttime, enddate and endtime")
    start, end = times
    if start >= end:
        raise ValueError(f"it is an accumulation from {start} to {end}; the end must be later than the start")
    return start, end


def _zr(how: Mapping[str, Any]) -> dict[str, float]:
    """The Z-R relation, where the file has one."""
    found = {name: number(how[name]) for name in ("zr_a", "zr_b") if name in how}
    if len(found) == 1 or not all(0 < value < math.inf for value in found.values()):
        raise ValueError(f"its Z-R relation is {found}; zr_a and zr_b above 0 are expected")
    return found


def _later(path: Path, name: str, what: Mapping[str, Any], dry: float) -> np.ndarray:
    return blame(path, PRODUCT, lambda: _values(path, name, what, dry))


def _values(path: Path, name: str, what: Mapping[str, Any], dry: float) -> np.ndarray:
    """Physical values, float32: gain and offset applied, "undetect" dry, "nodata" NaN."""
    with opened(path) as file:
        check_array(file[name], file)
        stored = picture(file[name])
    gain, offset = _scale(what)
    with np.errstate(over="ignore"):  # of what stands for no number
        values = (stored.astype(np.float64) * gain + offset).astype(np.float32)
    for code, value in (("undetect", dry), ("nodata", np.nan)):
        if code in what:
            values[_is(stored, number(what[code]))] = value
    return values


def _scale(what: Mapping[str, Any]) -> tuple[float, float]:
    """Gain and offset, 1 and 0 where they are left out (as by the RMI): then the numbers are physical already."""
    gain, offset = number(what.get("gain", 1.0)), number(what.get("offset", 0.0))
    if gain == 0 or not math.isfinite(gain) or not math.isfinite(offset):
        raise ValueError(f"its gain is {gain:g} and its offset {offset:g}; no values can be made with them")
    return gain, offset


def _is(stored: np.ndarray, code: float) -> np.ndarray:
    """Where an array holds a code, which is told with more digits than its numbers may have."""
    if stored.dtype.kind != "f":
        return stored == code
    with np.errstate(over="ignore"):
        return stored == stored.dtype.type(code)


def _grid(where: Mapping[str, Any], shape: tuple[int, ...]) -> Grid | LatLonGrid:
    ny, nx = int(number(where["ysize"])), int(number(where["xsize"]))
    if shape != (ny, nx):
        raise ValueError(f"its array has the shape {shape}, its header says {(ny, nx)}")
    plane = text(where["projdef"])
    dx, dy = number(where["xscale"]), number(where["yscale"])
    if extra("pyproj").CRS.from_user_input(plane).is_geographic:
        return _lat_lon_grid(where, dx, dy, nx, ny)
    if "UL_x" in where and "UL_y" in where:
        return Grid(plane, number(where["UL_x"]), number(where["UL_y"]), dx, dy, nx=nx, ny=ny)
    # Corners are the outer corners of the corner pixels, stored in degrees: what is left below a centimetre
    # is rounding.
    corner = "LL" if "LL_lon" in where else "UL"
    left, edge = extra("pyproj").Proj(plane)(number(where[f"{corner}_lon"]), number(where[f"{corner}_lat"]))
    top = round(edge, 2) + (ny * dy if corner == "LL" else 0)
    return Grid(plane, round(left, 2), top, dx, dy, nx=nx, ny=ny)


def _lat_lon_grid(where: Mapping[str, Any], dx: float, dy: float, nx: int, ny: int) -> LatLonGrid:
    """Of a composite whose pixels are measured in degrees."""
    left = number(where["LL_lon"] if "LL_lon" in where else where["UL_lon"])
    top = number(where["UL_lat"]) if "UL_lat" in where else number(where["LL_lat"]) + ny * dy
    lat, lon = top - (np.arange(ny) + 0.5) * dy, left + (np.arange(nx) + 0.5) * dx
    return LatLonGrid(tuple(lat.round(9).tolist()), tuple(lon.round(9).tolist()))
