"""Where the cells of a field lie: its horizontal dims, places along them, their order and their distance."""

from collections.abc import Hashable
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from xnowcast.fields import grids, units
from xnowcast.fields.attributes import FORECAST_NAMES, TIME_NAMES, coordinates_of, name_of, reference

T_Xarray = TypeVar("T_Xarray", xr.Dataset, xr.DataArray)

_AXIS_NAMES = {
    "y": ("y", "yc", "lat", "latitude", "south_north", "northing", "rlat", "j", "nj", "nlat", "row"),
    "x": ("x", "xc", "lon", "longitude", "west_east", "easting", "rlon", "i", "ni", "nlon", "col"),
}
_LATLON_NAMES = {"y": ("latitude", ("lat", "latitude", "xlat")), "x": ("longitude", ("lon", "longitude", "xlong"))}
_OF_MAPPINGS = {"grid_mapping_name", "crs_wkt", "spatial_ref"}

EARTH_RADIUS_KM = units.EARTH_RADIUS_M / 1000


def check_kinds(obj: Any, variable: Any = None) -> None:
    if not isinstance(obj, xr.Dataset | xr.DataArray):
        raise TypeError(f"expected an xarray Dataset or DataArray, found {type(obj).__name__}")
    if not isinstance(variable, Hashable):
        raise ValueError(f"variable is {variable!r}, a {type(variable).__name__}; it must be the name of one variable")


def without_time(obj: T_Xarray) -> T_Xarray:
    """The same data with coordinates and mapping of the grid constant in time, where all times repeat them, as WRF's.

    Of the fields nothing is read. ValueError if one differs from time to time: the grid moves.

    >>> wrf = xr.DataArray(np.ones((3, 8, 8)), dims=("Time", "j", "i"), coords={
    ...     "XLAT": (("Time", "j", "i"), np.full((3, 8, 8), 48.0), {"units": "degree_north"})})
    >>> without_time(wrf).XLAT.dims
    ('j', 'i')
    """
    check_kinds(obj)
    data: Any = _with_plain_mappings(obj)
    times = {dim for dim in data.dims if _is_of_times(data, dim)}
    repeated = [name for name in _named_as_grid(data, times) if not times.isdisjoint(data[name].dims)]
    many = [c.name for c in data.coords.values() if not times.isdisjoint(c.dims) and not times.issuperset(c.dims)]
    if many:
        places = {*_axis_coordinates(data, "y"), *_axis_coordinates(data, "x"), *data.dims}
        repeated += [name for name in many if name in places and name not in repeated]
    return _with_variables(data, {name: _constant(data[name], times) for name in repeated})


def _with_variables(data: Any, variables: dict[Hashable, xr.Variable]) -> Any:
    """The data with other values of some of its coordinates and fields; the very same where there are none."""
    fields = {name: v for name, v in variables.items() if name not in data.coords}
    coords = {name: v for name, v in variables.items() if name in data.coords}
    result = data.assign_coords(coords) if coords else data
    return result.assign(fields) if fields else result


def _with_plain_mappings(data: Any) -> Any:
    """Grid mappings without the dims and NaN of ``ds.where``: by CF only their attributes mean anything."""
    named = _named_in(data, "grid_mapping")
    mapped = [n for n in named if data[n].ndim and not _OF_MAPPINGS.isdisjoint(data[n].attrs)]
    plain = {name: xr.Variable((), np.int32(0), data[name].attrs) for name in mapped}
    return _with_variables(data, plain)


def _named_in(obj: xr.Dataset | xr.DataArray, *attributes: str) -> list[Hashable]:
    """Variables, other than dims, that these attributes of the fields name."""
    arrays = [*obj.data_vars.values()] if isinstance(obj, xr.Dataset) else [obj]
    names = " ".join(reference(a, k) for a in arrays for k in attributes)
    known = obj.variables if isinstance(obj, xr.Dataset) else obj.coords
    words = dict.fromkeys(word.rstrip(":") for word in names.split())
    return [word for word in words if word in known and word not in obj.dims]


def _is_of_times(obj: xr.Dataset | xr.DataArray, dim: Hashable) -> bool:
    names = {*TIME_NAMES, *(name for names in FORECAST_NAMES.values() for name in names)}
    if str(dim).lower() in names:
        return True
    dated = obj[dim] if dim in obj.coords else None
    return dated is not None and (
        dated.dtype.kind == "M" or (dated.dtype == object and "calendar" in dir(dated[:1].item()))
    )


def _named_as_grid(obj: xr.Dataset | xr.DataArray, times: set[Hashable]) -> list[Hashable]:
    """Variables that attributes name as a grid mapping, areas of cells, or bounds of coordinates other than times."""
    bounds = {n: reference(c, "bounds") for n, c in obj.coords.items()}
    of_times = {name for n, name in bounds.items() if {*obj[n].dims} <= times and obj[n].ndim}
    known = obj.variables if isinstance(obj, xr.Dataset) else obj.coords
    places = [word for word in bounds.values() if word in known and word not in obj.dims]
    named = dict.fromkeys([*_named_in(obj, "grid_mapping", "cell_measures"), *places])
    return [name for name in named if name not in of_times]


def _constant(variable: xr.DataArray, times: set[Hashable]) -> xr.Variable:
    """A variable without its dims of times, along which what is known of it has to repeat itself, to a millionth."""
    for dim in [d for d in variable.dims if d in times and variable.sizes[d]]:
        first = variable.isel({dim: 0}, drop=True)
        numeric = variable.dtype.kind in "fiu"
        known = np.array(first.values)
        many = variable.chunksizes[dim][0] if variable.chunks else max(1, 2**24 // max(first.size, 1))
        for start in range(0, variable.sizes[dim], many):
            some = variable.isel({dim: slice(start, start + many)}).transpose(dim, ...).values
            if variable.dtype.kind == "f":  # ds.where has masked it with the fields
                known = _filled([known, *some])
            if not np.all(_repeats(some, known) if numeric else some == known):
                raise ValueError(
                    f"{variable.name!r} tells where the grid lies, and it is not the same at all times along {dim!r}: "
                    "a grid that moves is not taken for one that stands. Select the times of one grid, or bring each "
                    f"time to a common grid first, with xnowcast.regrid.regrid(ds.isel({dim}=[i]), grid)"
                )
        variable = first.copy(data=known)
    return variable.variable


def _filled(many: list[np.ndarray]) -> np.ndarray:
    """The first, with what is NaN there from those that follow."""
    known, *rest = many
    for some in rest:
        lacking = np.isnan(known)
        if not lacking.any():
            break
        known = np.where(lacking, some, known)
    return known


def _repeats(some: np.ndarray, known: np.ndarray) -> np.ndarray:
    largest = np.abs(known[np.isfinite(known)]).max(initial=0.0)
    return np.isnan(some) | np.isclose(some, known, rtol=0, atol=1e-6 * largest)


def horizontal_dims(array: xr.DataArray) -> tuple[Hashable, Hashable]:
    """Names of the dims of y and x, by CF attributes, else by name, else by 2-D latitudes.

    ValueError if they cannot be told, or their coordinates have gaps or are not in order.

    >>> horizontal_dims(xr.DataArray(np.zeros((2, 3, 4)), dims=("lon", "time", "lat")))
    ('lat', 'lon')
    """
    array = without_time(array)
    y, x = (_horizontal_dim(array, axis) for axis in ("y", "x"))
    if y is None or x is None:
        y, x = _curvilinear_dims(array) or (y, x)
    if y is None or x is None or y == x:
        raise ValueError(
            f"cannot tell the {'y' if y is None else 'x'} axis of variable {name_of(array)!r} with dims {array.dims}: "
            "give its coordinates the attribute axis='Y' or axis='X', or name the dims y and x"
        )
    for axis, dim in (("y", y), ("x", x)):
        _refuse_unordered(dim, along(array, axis, dim))
    return y, x


def _horizontal_dim(array: xr.DataArray, axis: str) -> Hashable | None:
    """The dim that CF attributes, else its own name, tell to be y or x."""
    dims = [d for n in _axis_coordinates(array, axis) if array[n].ndim == 1 for d in array[n].dims if d in array.dims]
    named = [d for n in _AXIS_NAMES[axis] for d in array.dims if str(d).lower() == n]
    return next(iter([*dims, *named]), None)


def _axis_coordinates(array: xr.Dataset | xr.DataArray, axis: str) -> list[Hashable]:
    """Coordinates that tell places along y or x: those of the CF axis first, then latitudes or longitudes."""
    return [*coordinates_of(array, axis.upper()), *latlon_names(array, axis)]


def latlon_names(array: xr.Dataset | xr.DataArray, axis: str) -> list[Hashable]:
    """Coordinates of latitude ("y") or longitude ("x"), by CF attributes, else by name."""
    kind, names = _LATLON_NAMES[axis]
    return coordinates_of(array, kind) or [n for n in array.coords if str(n).lower() in names]


def along(array: xr.DataArray, axis: str, dim: Hashable) -> np.ndarray | None:
    """Places along a horizontal dim: its coordinate, or another 1-D one; longitudes go on through 360 or 180 degrees.

    >>> east = xr.DataArray(np.zeros(3), dims="lon", coords={"lon": [359.0, 0.0, 1.0]})
    >>> along(east, "x", "lon").tolist()
    [359.0, 360.0, 361.0]
    """
    for name in (dim, *_axis_coordinates(array, axis)):
        if name in array.coords and array[name].dims == (dim,):
            places = array[name].values
            if places.dtype.kind not in "fiu":
                raise ValueError(f"coordinate {name!r} holds {places.dtype}, not numbers")
            return np.unwrap(places, period=360.0) if name in latlon_names(array, "x") else places
    return None


def _curvilinear_dims(array: xr.DataArray) -> tuple[Hashable, Hashable] | None:
    """The two dims of 2-D latitudes, which may be named in any way: y is the one along which they change more."""
    for name in latlon_names(array, "y"):
        dims = array[name].dims
        if len(dims) == 2 and set(dims) <= set(array.dims):
            steps = [np.abs(np.diff(array[name].values, axis=i)) for i in (0, 1)]
            change = [float(step[np.isfinite(step)].mean()) if np.isfinite(step).any() else 0.0 for step in steps]
            return dims if change[0] >= change[1] else dims[::-1]
    return None


def _refuse_unordered(dim: Hashable, places: np.ndarray | None) -> None:
    if places is None:
        return
    if places.dtype.kind == "f" and not np.isfinite(places).all():
        raise ValueError(
            f"coordinate {dim!r} is NaN or infinite in {(~np.isfinite(places)).sum()} of {places.size} places: give it "
            f"all of them, ds.assign_coords({dim}=...), or leave those out with ds.isel"
        )
    difference = np.diff(places)
    if not (np.all(difference > 0) or np.all(difference < 0)):
        raise ValueError(f"coordinate {dim!r} neither rises nor falls throughout: sort it with ds.sortby({dim!r})")


def refuse_uneven(array: xr.DataArray, y: Hashable, x: Hashable) -> None:
    """Refuse a field whose cells are not evenly spaced, for a model takes neighbours to be one distance apart.

    ValueError if the distance of neighbours varies by more than 10 %, which is more than rounding and Gaussian
    latitudes make. Latitudes may be even on a Mercator map instead.

    >>> refuse_uneven(xr.DataArray(np.ones((8, 8)), {"x": [0, 1, 2, 3, 4, 5, 6, 9]}, ("y", "x")), "y", "x")
    Traceback (most recent call last):
    ...
    ValueError: along 'x' the distance between cells varies from 1 to 3 (from 6 to 9), and models take it for the ...
    """
    for axis, dim in (("y", y), ("x", x)):
        places = along(array, axis, dim)
        if places is None or places.size < 3:
            continue
        rounding = 4 * float(np.spacing(np.abs(places).max())) if places.dtype.kind == "f" else 0.0
        widths = np.abs(np.diff(places.astype("f8")))
        if _is_even(widths, rounding) or (dim in latlon_names(array, "y") and _is_even(_on_mercator(places))):
            continue
        widest = int(widths.argmax())
        hole = widths[widest] > 1.5 * np.median(widths)
        how = f"put cells of NaN there, with ds.reindex({dim}=...)" if hole else "bring the field to an even grid first"
        raise ValueError(
            f"along {dim!r} the distance between cells varies from {widths.min():g} to {widths.max():g} (from "
            f"{places[widest]:g} to {places[widest + 1]:g}), and models take it for the same: {how}"
        )


def _is_even(widths: np.ndarray, rounding: float = 0.0) -> bool:
    return bool(widths.max() <= 1.1 * widths.min() + rounding)


def _on_mercator(latitude: np.ndarray) -> np.ndarray:
    """Distances of neighbouring latitudes on a Mercator map; uneven where there are poles."""
    sine = np.sin(np.deg2rad(latitude.astype("f8")))
    return np.abs(np.diff(np.arctanh(np.clip(sine, -0.9999, 0.9999))))


def north_up(array: xr.DataArray, y: Hashable, x: Hashable) -> xr.DataArray:
    """The array with its first row in the north and its first column in the west, so that models see one world; a view.

    >>> grid = xr.DataArray(np.arange(4).reshape(2, 2), dims=("y", "x"), coords={"y": [0, 1], "x": [0, 1]})
    >>> north_up(grid, "y", "x").values.tolist()
    [[2, 3], [0, 1]]
    """
    south_first, east_first = orientation(array, y, x)
    flips = {y: slice(None, None, -1 if south_first else 1), x: slice(None, None, -1 if east_first else 1)}
    return array.isel(flips) if south_first or east_first else array


def orientation(array: xr.DataArray, y: Hashable, x: Hashable) -> tuple[bool, bool]:
    """Whether the first row lies in the south, and the first column in the east; False where no coordinates tell.

    >>> orientation(xr.DataArray(np.zeros((2, 2)), dims=("y", "x"), coords={"y": [0, 1], "x": [0, 1]}), "y", "x")
    (True, False)
    """
    array = without_time(array)
    south_first = _rises(array, "y", y, x, unknown=False)
    east_first = not _rises(array, "x", y, x, unknown=True)
    return south_first, east_first


def _rises(array: xr.DataArray, axis: str, y: Hashable, x: Hashable, unknown: bool) -> bool:
    dim, other = (y, x) if axis == "y" else (x, y)
    if array.sizes[dim] < 2:
        return unknown
    places = along(array, axis, dim)
    if places is not None:
        return bool(places[-1] > places[0])
    for name in latlon_names(array, axis):
        if set(array[name].dims) == {y, x}:
            lines = array[name].transpose(other, dim).values
            line = lines[_most_known(np.isfinite(lines))]
            line = line[np.isfinite(line)]
            line = np.unwrap(line, period=360.0) if axis == "x" else line
            return bool(line[-1] > line[0]) if line.size > 1 else unknown
    return unknown


def _most_known(known: np.ndarray) -> int:
    """The row that is known at most places; of several the one in the middle."""
    counts = known.sum(axis=1)
    most = np.flatnonzero(counts == counts.max())
    return int(most[np.abs(most - len(counts) // 2).argmin()])


def grid_spacing(
    array: xr.DataArray, y: Hashable | None = None, x: Hashable | None = None
) -> tuple[float, float] | None:
    """Distance between neighbouring cells along y and x in km, in the middle of the grid.

    Parameters
    ----------
    array : xarray.DataArray
        With projected y and x (any unit of length), 1-D latitudes and longitudes, or 2-D ones.
    y, x : hashable, optional
        Names of the horizontal dims; found by CF when left out.

    Returns
    -------
    (float, float) or None
        None where the coordinates do not tell.

    Examples
    --------
    >>> grid = xr.DataArray(np.zeros((3, 3)), dims=("lat", "lon"), coords={
    ...     "lat": ("lat", [59.0, 60.0, 61.0], {"units": "degrees_north"}),
    ...     "lon": ("lon", [0.0, 1.0, 2.0], {"units": "degrees_east"})})
    >>> [round(km, 1) for km in grid_spacing(grid)]
    [111.2, 55.6]
    """
    array = without_time(array)
    if y is None or x is None:
        y, x = horizontal_dims(array)
    if y in array.coords and x in array.coords and array.sizes[y] > 1 and array.sizes[x] > 1:
        places = along(array, "y", y), along(array, "x", x)
        dy, dx = (float(np.median(np.abs(np.diff(v)))) for v in places if v is not None)
        km = [units.length_in_km(array[d].attrs.get("units")) for d in (y, x)]
        if km[0] is not None and km[1] is not None:
            return float(dy * km[0]), float(dx * km[1])
        if y in coordinates_of(array, "latitude"):
            degree = float(np.deg2rad(1.0)) * EARTH_RADIUS_KM
            return dy * degree, dx * degree * float(np.cos(np.deg2rad(array[y].values.mean())))
    return _curvilinear_spacing(array, y, x)


def _curvilinear_spacing(array: xr.DataArray, y: Hashable, x: Hashable) -> tuple[float, float] | None:
    pair = [next((n for n in latlon_names(array, axis) if set(array[n].dims) == {y, x}), None) for axis in ("y", "x")]
    if pair[0] is None or pair[1] is None or min(array.sizes[y], array.sizes[x]) < 2:
        return None
    lat, lon = (array[n].transpose(y, x).values for n in pair)
    corner = grids.known_corner(lat, lon)
    if corner is None:
        return None
    lat, lon = (np.deg2rad(v[corner].astype("f8")) for v in (lat, lon))

    def km(a: tuple[int, int], b: tuple[int, int]) -> float:
        half = np.sin((lat[a] - lat[b]) / 2) ** 2 + np.cos(lat[a]) * np.cos(lat[b]) * np.sin((lon[a] - lon[b]) / 2) ** 2
        return float(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(half)))

    return km((0, 0), (1, 0)), km((0, 0), (0, 1))
