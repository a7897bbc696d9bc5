"""ODIM HDF5, the European exchange format: composites and images (OPERA, RMI and many weather services)."""

import functools
import io
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import xarray as xr

from xnowcast.io.files import Paths, decode, extra, path_list
from xnowcast.io.grid import Frame, Grid, LatLonGrid, to_dataset
from xnowcast.io.hdf5 import number, text

PRODUCT = "ODIM HDF5 composite"
UNMEASURED = "missing = outside radar coverage"
# What each quantity becomes: variable name (and standard_name), CF attributes, and the value of "undetect".
QUANTITIES: dict[str, tuple[str, dict[str, str], float]] = {
    "RATE": (
        "rainfall_rate",
        {
            "long_name": "rainfall rate",
            "units": "mm h-1",
            "comment": UNMEASURED,
            "cell_methods": "time: point",
        },
        0.0,
    ),
    "ACRR": (
        "precipitation_amount",
        {
            "long_name": "accumulated precipitation",
            "units": "kg m-2",
            "comment": f"1 kg m-2 is 1 mm; {UNMEASURED}",
            "cell_methods": "time: sum",
        },
        0.0,
    ),
} | {
    quantity: (
        "equivalent_reflectivity_factor",
        {
            "long_name": meaning,
            "units": "dBZ",
            "comment": f"-32 dBZ = no echo (undetect), a valid measurement; {UNMEASURED}",
            "cell_methods": "time: point",
        },
        -32.0,
    )
    for quantity, meaning in {
        "DBZH": "radar reflectivity factor",
        "TH": "radar reflectivity factor, without clutter correction",
    }.items()
}


def open_odim(paths: Paths, quantity: str | None = None) -> xr.Dataset:
    """Rain rate, accumulation or reflectivity from ODIM HDF5 composites (object COMP or IMAGE).

    Parameters
    ----------
    paths : path, pattern or iterable of them
        Files of one grid, in any order. A file may hold several times.
    quantity : {"RATE", "ACRR", "DBZH", "TH"}, optional
        Which field to read; needed where a file holds more than one of these.

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
    ``what`` and ``where`` are read at root, dataset and data level, the deepest entry counts. ``time`` is the
    nominal time of the file, except where it holds several times of the quantity: then it is the end of each
    dataset.

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
    read = functools.partial(_read, quantity=quantity)
    frames = [(frame, path) for path in files for frame in decode(path, PRODUCT, functools.partial(read, path=path))]
    return to_dataset([frame for frame, _ in frames], [path for _, path in frames])


def _read(content: bytes, quantity: str | None, path: Path) -> list[Frame]:
    with extra("h5py").File(io.BytesIO(content), "r") as file:
        kind = text(_level(file, "what")["object"])
        if kind not in ("COMP", "IMAGE"):
            raise ValueError(f"its object is {kind!r}; composites (COMP, IMAGE) are what this reader knows")
        fields = list(_fields(file))
        wanted = quantity or _only_quantity([text(what["quantity"]) for _, what, _ in fields])
        chosen = [field for field in fields if text(field[1]["quantity"]) == wanted]
        if not chosen:
            found = ", ".join(sorted({text(what["quantity"]) for _, what, _ in fields})) or "nothing"
            raise ValueError(f"it holds {found}, not the quantity {wanted} that was asked for")
        nominal = _moment(file["what"].attrs, "date", "time")
        how = _level(file, "how")
        only = nominal if len(chosen) == 1 else None
        return [_frame(*field, how=how, nominal=only, path=path) for field in chosen]


def _only_quantity(found: list[str]) -> str:
    known = sorted(set(found) & set(QUANTITIES))
    if not known:
        raise ValueError(f"it holds {', '.join(sorted(set(found))) or 'no field'}; {' or '.join(QUANTITIES)} is needed")
    if len(known) > 1:
        raise ValueError(f"it holds {' and '.join(known)}: choose with quantity={known[0]!r}")
    return known[0]


def _level(group, name: str) -> dict[str, object]:
    """Attributes of the subgroup ``name``, empty where there is none."""
    return dict(group[name].attrs) if name in group else {}


def _fields(file) -> Iterator[tuple[object, dict, dict]]:
    """Each HDF5 array with its ``what`` and ``where``, the deeper levels over the upper ones."""
    for dataset in _numbered(file, "dataset"):
        for data in _numbered(dataset, "data"):
            what, where = (
                _level(file, name) | _level(dataset, name) | _level(data, name) for name in ("what", "where")
            )
            yield data["data"], what, where


def _numbered(group, prefix: str) -> list:
    """Subgroups ``prefix1``, ``prefix2``, ... in the order of their numbers."""
    names = [name for name in group if re.fullmatch(prefix + r"\d+", name)]
    return [group[name] for name in sorted(names, key=lambda name: int(name.removeprefix(prefix)))]


def _frame(array, what: dict, where: dict, *, how: dict, nominal: datetime | None, path: Path) -> Frame:
    quantity = text(what["quantity"])
    name, attrs, dry = QUANTITIES[quantity]
    labels: dict[str, object] = {"standard_name": name, **attrs}
    if quantity in ("DBZH", "TH") and "zr_a" in how and "zr_b" in how:
        labels |= {"zr_a": number(how["zr_a"]), "zr_b": number(how["zr_b"])}
    end = _moment(what, "enddate", "endtime") if nominal is None or quantity == "ACRR" else nominal
    start = _moment(what, "startdate", "starttime") if quantity == "ACRR" else None
    if start is not None and start >= end:
        raise ValueError(f"it is an accumulation from {start} to {end}; the end must be later than the start")
    owner = text(what.get("source", "unknown"))
    return Frame(
        values=functools.partial(decode, path, PRODUCT, functools.partial(_later, name=array.name, what=what, dry=dry)),
        time=np.datetime64(end, "ns"),
        start=None if start is None else np.datetime64(start, "ns"),
        grid=_grid(where, array.shape),
        name=name,
        attrs=labels,
        about={
            "title": f"ODIM composite {text(what.get('product', ''))} {quantity}".replace("  ", " "),
            "institution": owner,
            "source": f"weather radar composite of {owner}",
            "license": "not stated in the file; the terms of the data owner apply",
        },
    )


def _later(content: bytes, *, name: str, what: dict, dry: float) -> np.ndarray:
    with extra("h5py").File(io.BytesIO(content), "r") as file:
        return _values(file[name][()], what, dry)


def _values(stored: np.ndarray, what: dict, dry: float) -> np.ndarray:
    """Physical values, float32: gain and offset applied, "undetect" dry, "nodata" NaN."""
    # Without gain and offset (the RMI leaves them out) the numbers are physical already.
    gain, offset = number(what.get("gain", 1.0)), number(what.get("offset", 0.0))
    values = (stored.astype(np.float64) * gain + offset).astype(np.float32)
    if "undetect" in what:
        values[stored == number(what["undetect"])] = dry
    if "nodata" in what:
        values[stored == number(what["nodata"])] = np.nan
    return values


def _moment(what, day: str, clock: str) -> datetime:
    return datetime.strptime(text(what[day]) + text(what[clock])[:6], "%Y%m%d%H%M%S")


def _grid(where: dict, shape: tuple[int, ...]) -> Grid | LatLonGrid:
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


def _lat_lon_grid(where: dict, dx: float, dy: float, nx: int, ny: int) -> LatLonGrid:
    """Of a composite whose pixels are measured in degrees."""
    left = number(where["LL_lon"] if "LL_lon" in where else where["UL_lon"])
    top = number(where["UL_lat"]) if "UL_lat" in where else number(where["LL_lat"]) + ny * dy
    lat, lon = top - (np.arange(ny) + 0.5) * dy, left + (np.arange(nx) + 0.5) * dx
    return LatLonGrid(tuple(lat.round(9).tolist()), tuple(lon.round(9).tolist()))
