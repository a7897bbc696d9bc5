"""Remapping between CF grids: bilinear and area-conserving, lazily, told from coordinates and grid mappings."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import xarray as xr

from xnowcast.fields import cf, grids, horizontal, labels, units
from xnowcast.fields.attributes import declared, decoded
from xnowcast.fields.horizontal import T_Xarray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Method = Literal["bilinear", "conservative"]

_STAGGERED_WORDS = ("_stag", "stag_")
_STAGGERED_NAMES = ("x_u", "x_v", "y_u", "y_v", "xu", "yv", "xi_u", "xi_v", "eta_u", "eta_v", "x_rho_u", "y_rho_v")


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the cells of a grid are.

    ``y, x``: names of the dims. ``shape``: cells along y and x. ``axes``: 1-D centres along y and x: degrees on
    latitudes and longitudes, metres on projected grids, else in their own unit. None for a grid that only 2-D latitudes
    and longitudes tell. ``edges``: of the cells along y and x. ``plane``: what the axes are measured in: the unit where
    no grid mapping tells more. ``latlon``: 2-D latitudes and longitudes of the centres, where the data have them.
    ``coords``: coordinates and grid mapping that go with fields on the grid. ``grid_mapping``: the name of the variable
    of its projection.
    """

    y: Hashable
    x: Hashable
    shape: tuple[int, int]
    axes: tuple[np.ndarray, np.ndarray] | None
    edges: tuple[np.ndarray, np.ndarray] | None
    plane: Any
    latlon: tuple[np.ndarray, np.ndarray] | None
    coords: xr.Dataset
    grid_mapping: str | None


# ---------------------------------------------------------------- the public functions


def regrid(
    obj: T_Xarray,
    grid: xr.Dataset | xr.DataArray,
    method: Method = "bilinear",
    *,
    min_coverage: float = 0.5,
) -> T_Xarray:
    """The fields of a dataset on another grid.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        Fields on latitudes and longitudes, on a projection that a grid mapping tells, or on 2-D latitudes and
        longitudes. Rain is remapped as it is stored, which for dBZ would be wrong and is refused.
    grid : xarray.Dataset or xarray.DataArray
        Anything on the wanted grid.
    method : {"bilinear", "conservative"}
        Between the four nearest centres; or means over the area of a cell, which keep the amount of rain.
    min_coverage : float
        Smallest known share of what a cell is made of, above 0 and up to 1; with less it is NaN. Unknown parts are left
        out of the mean.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Whichever was given, float32, with the dims, coordinates and grid mapping of ``grid``; other dims are untouched.
        Variables without the grid's dims are kept, other coordinates along them and variables of flags left out. NaN
        outside the old grid. Lazy where the data are lazy.

    Raises
    ------
    ValueError
        If a grid cannot be told, the two have no common ground, a field lies on staggered dims or is in dBZ.

    Notes
    -----
    Winds are remapped component by component and not turned: eastward and northward stay so, components along the old
    grid do not become components along the new one.

    Between grids of one projection the shares of area are exact (on latitudes and longitudes those of the sphere);
    between others cells are polygons with straight sides in an equal-area projection of the sphere.

    Examples
    --------
    >>> coarse = xr.DataArray(np.array([[0.0, 4.0], [4.0, 8.0]]), dims=("y", "x"), name="rain",
    ...     coords={"y": ("y", [3.0, 1.0], {"units": "km"}), "x": ("x", [1.0, 3.0], {"units": "km"})})
    >>> fine = xr.DataArray(np.zeros((1, 3)), dims=("y", "x"),
    ...     coords={"y": ("y", [2.0], {"units": "km"}), "x": ("x", [1.0, 2.0, 3.0], {"units": "km"})})
    >>> regrid(coarse, fine).values.tolist()
    [[2.0, 4.0, 6.0]]
    """
    _check(method, min_coverage)
    dataset: xr.Dataset = horizontal.without_time(obj if isinstance(obj, xr.Dataset) else obj.to_dataset(name="field"))
    source, target = find_grid(dataset), find_grid(grid)
    fields = [n for n, v in dataset.data_vars.items() if {source.y, source.x} <= set(v.dims)]
    refuse_staggered(dataset[n] for n in dataset.data_vars)
    fields = [n for n in fields if dataset[n].dtype.kind in "fiu" and "flag_values" not in dataset[n].attrs]
    _refuse_reflectivity(dataset[n] for n in fields)
    weights = remapping_weights(source, target, method)
    remapped = {n: _remapped(known(dataset[n]), weights, source, target, min_coverage) for n in fields}
    kept = [n for n, v in dataset.variables.items() if not {source.y, source.x} & set(v.dims)]
    kept = [n for n in kept if n not in target.coords.variables and n != source.grid_mapping]
    result: xr.Dataset = dataset[kept].assign(remapped).assign_coords(target.coords.coords)
    if target.grid_mapping is not None:
        result[target.grid_mapping] = target.coords[target.grid_mapping]
    order = {n: result[n] for n in (*(v for v in dataset.data_vars if v in result), *result.data_vars)}
    result = xr.Dataset(order, result.coords, dataset.attrs)
    noted = result if isinstance(obj, xr.Dataset) else result["field"].rename(obj.name)
    noted.attrs["history"] = labels.dated(f"xnowcast regrid, {method}", noted.attrs.get("history"))
    return noted


def find_grid(obj: xr.Dataset | xr.DataArray) -> Grid:
    """The grid of a dataset.

    ValueError if the axes cannot be told, or the fields of a dataset lie on several grids.

    >>> find_grid(xr.DataArray(np.zeros((2, 3)), dims=("lat", "lon"), coords={"lat": [1.0, 0.0],
    ...     "lon": [0.0, 1.0, 2.0]})).plane
    'latlon'
    """
    obj = horizontal.without_time(obj)  # type: ignore[type-var]
    array = _representative(obj)
    y, x = horizontal.horizontal_dims(array)
    mapping = array.attrs.get("grid_mapping", array.encoding.get("grid_mapping"))
    mapping = str(mapping).split(":")[0] if mapping is not None else None
    known = obj.variables if isinstance(obj, xr.Dataset) else array.coords
    mapping = mapping if mapping in known else None
    shape = array.sizes[y], array.sizes[x]
    coords = {n: c.variable for n, c in array.coords.items() if c.dims and set(c.dims) <= {y, x}}
    companions = xr.Dataset(coords=coords)
    if mapping is not None:
        companions[mapping] = obj[mapping].variable if isinstance(obj, xr.Dataset) else array[mapping].variable
    axes = _axes(array, y, x)
    plane = (
        _plane(array, y, x, companions[mapping].attrs if mapping is not None else None) if axes is not None else None
    )
    edges = None
    if axes is not None and min(shape) > 1:
        edges = tuple(grids.cell_edges(xr.DataArray(a, dims="n")) for a in axes)
    return Grid(y, x, shape, axes, edges, plane, _latlon_coordinates(array, y, x), companions, mapping)  # type: ignore[arg-type]


def same_grid(one: Grid, other: Grid) -> bool:
    """Whether two grids have the same cells, to a hundredth of one."""
    if one.shape != other.shape or (one.axes is None) != (other.axes is None):
        return False
    if one.axes is None or other.axes is None:
        if one.latlon is None or other.latlon is None:
            return False
        steps = np.abs(np.diff(one.latlon[0], axis=0))
        close = 0.01 * np.nanmax(steps) if np.isfinite(steps).any() else 0.01
        both = zip(one.latlon, other.latlon, strict=True)
        return all(np.allclose(a, b, rtol=0, atol=close, equal_nan=True) for a, b in both)
    if not _same_plane(one.plane, other.plane):
        return False
    widths = [np.abs(np.diff(a)).min() if a.size > 1 else 1.0 for a in one.axes]
    pairs = zip(one.axes, other.axes, widths, strict=True)
    return all(np.allclose(a, b, rtol=0, atol=0.01 * w) for a, b, w in pairs)


def cell_size(grid: Grid) -> float | None:
    """Width of a cell in the middle of a grid, metres; None where nothing tells.

    Returned: the root of its area.
    """
    try:
        lat, lon = _latlon(grid)
    except ValueError:
        widths = [np.abs(np.diff(a)).mean() for a in grid.axes or () if a.size > 1]
        return float(np.sqrt(np.prod(widths))) if len(widths) == 2 else None
    place = grids.known_corner(lat, lon)
    if place is None:
        return None
    corner = lat[place], lon[place]
    x, y = _equal_area(*corner, _middle(*corner))
    area = abs((x[1, 0] - x[0, 0]) * (y[0, 1] - y[0, 0]) - (x[0, 1] - x[0, 0]) * (y[1, 0] - y[0, 0]))
    return float(np.sqrt(area)) * units.EARTH_RADIUS_M


def refuse_staggered(arrays: Iterable[xr.DataArray]) -> None:
    """Refuse fields on the faces of a model's cells, which are half a cell away from where they seem to be.

    ValueError with how to bring them to the middle of the cells.
    """
    for array in arrays:
        for dim in array.dims:
            name = str(dim).lower()
            shifted = dim in array.coords and "c_grid_axis_shift" in array[dim].attrs
            if shifted or name in _STAGGERED_NAMES or any(word in name for word in _STAGGERED_WORDS):
                raise ValueError(
                    f"variable {array.name!r} lies on the staggered dim {dim!r}, half a cell beside the others: "
                    f"average neighbours first, (u.isel({dim}=slice(None, -1)) + u.isel({dim}=slice(1, None))) / 2, "
                    "and rename the dim to that of the other fields"
                )


# ---------------------------------------------------------------- applying weights


def _check(method: str, min_coverage: float) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}; it can be 'bilinear' or 'conservative'")
    if not 0 < min_coverage <= 1:
        raise ValueError(f"min_coverage is {min_coverage}; it must be above 0 and at most 1")


def _refuse_reflectivity(arrays: Iterable[xr.DataArray]) -> None:
    for array in arrays:
        if units.is_reflectivity(array.attrs.get("units")):
            raise ValueError(
                f"variable {array.name!r} is in dBZ, whose means are no means of rain: convert it first with "
                "xnowcast.rain_rate(ds)"
            )


def known(array: xr.DataArray) -> xr.DataArray:
    """A field with NaN for what is declared missing; a rain rate that cannot be is refused when it is read.

    Returned: in its own units; as it was where nothing is declared and it is no rain rate.

    >>> known(xr.DataArray([250.0, 300.0], dims="x", attrs={"valid_max": 280.0})).values.tolist()
    [250.0, nan]
    """
    array = decoded(array)
    standard_name, unit = str(array.attrs.get("standard_name")), array.attrs.get("units")
    limits = declared(array)
    check: Any = limits.masked if limits.masks else None
    if standard_name in cf.STANDARD_NAMES and units.is_rate(unit):
        check = units.rain_rate_conversion(unit, name=limits.name, step=None, declared=limits).checked
    if check is None:
        return array
    if array.chunks is None and not isinstance(array.variable._data, np.ndarray):
        array = array.chunk(dict.fromkeys(array.dims[:-2], 1))  # arithmetic would read the whole file
    floats = np.result_type(array.dtype, np.float32)
    return xr.apply_ufunc(check, array, dask="parallelized", output_dtypes=[floats], keep_attrs=True)


def _remapped(
    array: xr.DataArray, weights: "csr_array", source: Grid, target: Grid, min_coverage: float
) -> xr.DataArray:
    sizes = dict(zip((target.y, target.x), target.shape, strict=True))
    bare = array.drop_vars([n for n, c in array.coords.items() if {source.y, source.x} & set(c.dims)])
    if bare.chunks is None and not isinstance(bare.variable._data, np.ndarray):
        bare = bare.chunk(dict.fromkeys((d for d in bare.dims if d not in (source.y, source.x)), 1))
    if bare.chunks is not None:
        bare = bare.chunk({source.y: -1, source.x: -1})
    # names of their own, because the two grids may name their dims alike and differ in size
    bare = bare.rename({source.y: "_old_y", source.x: "_old_x"})
    result = xr.apply_ufunc(
        _weighted,
        bare,
        kwargs={"weights": weights, "shape": target.shape, "min_coverage": min_coverage},
        input_core_dims=[["_old_y", "_old_x"]],
        output_core_dims=[list(sizes)],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": sizes},
    )
    order = [{source.y: target.y, source.x: target.x}.get(d, d) for d in array.dims]
    result = result.transpose(*order)
    dropped = ("grid_mapping", "cell_measures", "coordinates", *cf.OF_STORED)
    result.attrs = {k: v for k, v in array.attrs.items() if k not in dropped}
    if target.grid_mapping is not None:
        result.attrs["grid_mapping"] = target.grid_mapping
    return result


def _weighted(values: np.ndarray, weights: "csr_array", shape: tuple[int, int], min_coverage: float) -> np.ndarray:
    """Means over what is known, NaN where that is too little."""
    rows = np.asarray(values, dtype=np.float64).reshape(-1, weights.shape[1]).T
    known = np.isfinite(rows)
    share = weights @ known.astype(np.float64)
    total = weights @ np.where(known, rows, 0.0)
    enough = share >= min_coverage - 1e-6
    mean = np.divide(total, share, out=np.full_like(total, np.nan), where=enough & (share > 0))
    return mean.T.reshape(*values.shape[:-2], *shape).astype(np.float32)


# ---------------------------------------------------------------- weights


def remapping_weights(source: Grid, target: Grid, method: Method) -> "csr_array":
    """Shares of the old cells in the new ones.

    Returned: ``(target cells, source cells)``, rows first in y. A row sums to 1 where the new cell lies within the old
    grid, to the share of its area that does, and to 0 outside. ValueError if the grids have no common ground, or
    nothing tells how they lie to each other.
    """
    weights = _bilinear(source, target) if method == "bilinear" else _conservative(source, target)
    if weights.nnz == 0:
        raise ValueError(
            f"the two grids have no common area: one covers {_extent(source)}, the other {_extent(target)}"
        )
    return weights


def _bilinear(source: Grid, target: Grid) -> "csr_array":
    from scipy.sparse import csr_array

    rows, columns, wraps = _positions(source, target)
    inside = np.isfinite(rows) & np.isfinite(columns)
    (ny, nx), cells = source.shape, np.flatnonzero(inside)
    r, c = rows.ravel()[cells], columns.ravel()[cells]
    r0 = np.clip(np.floor(r).astype(int), 0, max(ny - 2, 0))
    c0 = np.floor(c).astype(int) if wraps else np.clip(np.floor(c).astype(int), 0, max(nx - 2, 0))
    place, entry, share = [], [], []
    for i, along_y in ((0, 1 - (r - r0)), (1, r - r0)):
        for j, along_x in ((0, 1 - (c - c0)), (1, c - c0)):
            column = (c0 + j) % nx if wraps else np.minimum(c0 + j, nx - 1)
            place.append(cells)
            entry.append(np.minimum(r0 + i, ny - 1) * nx + column)
            share.append(along_y * along_x)
    values, indices = np.concatenate(share), (np.concatenate(place), np.concatenate(entry))
    weights = csr_array((values, indices), shape=(rows.size, ny * nx))
    weights.eliminate_zeros()
    return weights


def _positions(source: Grid, target: Grid) -> tuple[np.ndarray, np.ndarray, bool]:
    """Fractional rows and columns of the source at the target's centres; whether columns go round the Earth."""
    if source.axes is not None:
        y, x = _centres_in(source, target)
        wraps = _goes_round(source)
        return _fraction(source.axes[0], y), _fraction(source.axes[1], x, wraps), wraps
    from scipy.interpolate import LinearNDInterpolator

    lat, lon = _latlon(source)
    middle = _middle(lat, lon)
    points = np.stack(_equal_area(lat, lon, middle), axis=-1).reshape(-1, 2)
    known = np.isfinite(points).all(1)
    index = np.stack(np.meshgrid(*(np.arange(n, dtype="f8") for n in source.shape), indexing="ij"), axis=-1)
    wanted = np.stack(_equal_area(*_latlon(target), middle), axis=-1)
    found = LinearNDInterpolator(points[known], index.reshape(-1, 2)[known])(wanted)
    return found[..., 0], found[..., 1], False


def _fraction(axis: np.ndarray, places: np.ndarray, wraps: bool = False) -> np.ndarray:
    """Fractional position along an axis; half a cell beyond its ends counts as the end, further out is NaN."""
    if axis.size < 2:
        raise ValueError("the grid has a single row or column, between which nothing can be interpolated")
    rising = axis if axis[1] > axis[0] else axis[::-1]
    index = np.arange(rising.size, dtype="f8")
    if wraps:
        places = (places - rising[0]) % 360.0 + rising[0]
        rising, index = np.append(rising, rising[0] + 360.0), np.append(index, index[-1] + 1)
    found = np.interp(places, rising, index)
    low, high = (rising[1] - rising[0]) / 2, (rising[-1] - rising[-2]) / 2
    found = np.where((places < rising[0] - low * 1.001) | (places > rising[-1] + high * 1.001), np.nan, found)
    if axis[1] > axis[0]:
        return found
    return (axis.size - 1 - found) % axis.size if wraps else axis.size - 1 - found


def _conservative(source: Grid, target: Grid) -> "csr_array":
    from scipy.sparse import csr_array, kron

    if source.axes is not None and target.axes is not None and _same_plane(source.plane, target.plane):
        for grid in (source, target):
            if grid.edges is None:
                raise ValueError("a grid of a single row or column has cells of unknown width: use method='bilinear'")
        geographic = isinstance(source.plane, str) and source.plane == "latlon"
        along_y = _overlaps(source.edges[0], target.edges[0], sine=geographic)  # type: ignore[index]
        along_x = _overlaps(source.edges[1], target.edges[1], turns=geographic)  # type: ignore[index]
        return csr_array(kron(along_y, along_x, format="csr"))
    return _polygon_overlaps(source, target)


def _overlaps(source: np.ndarray, target: np.ndarray, *, sine: bool = False, turns: bool = False) -> Any:
    """Share of each target interval in each source interval, ``(target, source)``."""
    from scipy.sparse import csr_array

    if sine:
        source, target = (np.sin(np.deg2rad(np.clip(edges, -90, 90))) for edges in (source, target))
    begin, end = np.sort([source[:-1], source[1:]], axis=0)
    first, last = np.sort([target[:-1], target[1:]], axis=0)
    total = np.zeros((first.size, begin.size))
    for turn in (-360.0, 0.0, 360.0) if turns else (0.0,):
        low = np.maximum(first[:, None], begin + turn)
        total += np.clip(np.minimum(last[:, None], end + turn) - low, 0, None)
    return csr_array(total / (last - first)[:, None])


def _polygon_overlaps(source: Grid, target: Grid) -> "csr_array":
    """Overlaps of cells as polygons in an equal-area plane about the middle of the target."""
    from scipy.sparse import csr_array

    try:
        import shapely
    except ImportError:
        raise ImportError(
            "remapping areas between two projections needs shapely: pip install 'xnowcast[io]', or use "
            "method='bilinear'"
        ) from None
    middle = _middle(*_latlon(target))
    old, new = (_cells(grid, middle) for grid in (source, target))
    near = np.flatnonzero(np.isfinite(old).all((1, 2)) & _may_meet(old, new))
    known_cells = np.flatnonzero(np.isfinite(new).all((1, 2)))
    old_cells, new_cells = shapely.polygons(old[near]), shapely.polygons(new[known_cells])
    at_new, at_old = shapely.STRtree(old_cells).query(new_cells, predicate="intersects")
    common = shapely.area(shapely.intersection(new_cells[at_new], old_cells[at_old]))
    share = common / shapely.area(new_cells)[at_new]
    found = share > 1e-9
    shape = (len(new), source.shape[0] * source.shape[1])
    return csr_array((share[found], (known_cells[at_new[found]], near[at_old[found]])), shape=shape)


def _may_meet(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    low, high = np.nanmin(new, (0, 1)), np.nanmax(new, (0, 1))
    with np.errstate(invalid="ignore"):
        return ((old.max(1) >= low) & (old.min(1) <= high)).all(-1)


def _cells(grid: Grid, middle: tuple[float, float]) -> np.ndarray:
    """Corners of all cells in the equal-area plane, ``(cells, 4, 2)``; NaN more than a quarter of the Earth away."""
    if grid.edges is not None:
        y, x = np.meshgrid(*grid.edges, indexing="ij")
        plane = np.stack(_equal_area(*_geographic(grid.plane, y, x), middle), axis=-1)
    elif grid.axes is None:
        centres = _equal_area(*_latlon(grid), middle)
        plane = np.stack([_corners(values) for values in centres], axis=-1)
    else:
        raise ValueError("a grid of a single row or column has cells of unknown width: use method='bilinear'")
    around = [plane[:-1, :-1], plane[:-1, 1:], plane[1:, 1:], plane[1:, :-1]]
    return np.stack(around, axis=2).reshape(-1, 4, 2)


def _corners(centres: np.ndarray) -> np.ndarray:
    """Corners of curvilinear cells: the middle of four centres, continued linearly to the rim."""
    if min(centres.shape) < 2:
        raise ValueError("a grid of a single row or column has cells of unknown width: use method='bilinear'")
    wide = np.pad(centres, 1, mode="reflect", reflect_type="odd")
    return (wide[:-1, :-1] + wide[:-1, 1:] + wide[1:, :-1] + wide[1:, 1:]) / 4


# ---------------------------------------------------------------- places on the Earth


def _representative(obj: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """A field whose grid is that of the dataset."""
    if isinstance(obj, xr.DataArray):
        return obj
    found: dict[tuple[Hashable, Hashable], xr.DataArray] = {}
    for name, array in obj.data_vars.items():
        if array.ndim < 2 or array.dtype.kind not in "fiub" or str(name).lower().endswith(("_bnds", "_bounds")):
            continue
        try:
            found.setdefault(horizontal.horizontal_dims(array), array)
        except ValueError:
            continue
    if not found:
        blank = xr.DataArray(np.broadcast_to(np.float32(0), tuple(obj.sizes.values())), dims=list(obj.sizes))
        return blank.assign_coords(obj.coords)
    fields = list(found.values())
    refuse_staggered(fields[1:])
    if len(found) > 1:
        several = "; ".join(f"{array.name!r} on {dims}" for dims, array in found.items())
        raise ValueError(f"the fields lie on several grids: {several}: leave one of them out with ds.drop_vars(...)")
    return fields[0]


def _axes(array: xr.DataArray, y: Hashable, x: Hashable) -> tuple[np.ndarray, np.ndarray] | None:
    """Centres along y and x, metres where their unit is a length."""
    if y not in array.coords or x not in array.coords or any(array[d].dtype.kind not in "fiu" for d in (y, x)):
        return None
    scale = [(units.length_in_km(array[d].attrs.get("units")) or 0.001) * 1000 for d in (y, x)]
    places = horizontal.along(array, "y", y), horizontal.along(array, "x", x)
    along_y, along_x = (np.asarray(v, dtype="f8") * s for v, s in zip(places, scale, strict=True))
    return along_y, along_x


def _projection(attrs: dict[str, Any]) -> Any:
    """The pyproj.CRS of a grid mapping."""
    try:
        from pyproj import CRS
    except ImportError:
        raise ImportError("grids with a grid mapping need pyproj: pip install 'xnowcast[io]'") from None
    try:
        return CRS.from_cf(attrs)
    except Exception:  # pyproj raises errors of many kinds over attributes that are missing or wrong
        return None


def _plane(array: xr.DataArray, y: Hashable, x: Hashable, mapping: dict[str, Any] | None) -> Any:
    if y in horizontal.latlon_names(array, "y") and x in horizontal.latlon_names(array, "x"):
        return "latlon"
    crs = _projection(mapping) if mapping is not None else None
    return crs if crs is not None else f"{array[x].attrs.get('units', 'no unit')}"


def _same_plane(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and one == other
    return one is not None and other is not None and (one == other or one.to_proj4() == other.to_proj4())


def _latlon_coordinates(array: xr.DataArray, y: Hashable, x: Hashable) -> tuple[np.ndarray, np.ndarray] | None:
    found = []
    for axis in ("y", "x"):
        names = [n for n in horizontal.latlon_names(array, axis) if set(array[n].dims) == {y, x}]
        if not names:
            return None
        found.append(array[names[0]].transpose(y, x).values.astype("f8"))
    return found[0], found[1]


def _latlon(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """2-D latitudes and longitudes of the centres."""
    if grid.axes is not None and (not isinstance(grid.plane, str) or grid.plane == "latlon"):
        return _geographic(grid.plane, *np.meshgrid(*grid.axes, indexing="ij"))
    if grid.latlon is not None:
        return grid.latlon
    raise ValueError(
        f"nothing tells where on the Earth the grid ({grid.y!r}, {grid.x!r}) lies: give its fields a grid_mapping, "
        "or 2-D latitudes and longitudes as coordinates"
    )


def _geographic(plane: Any, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(plane, str):
        if plane == "latlon":
            return y, x
        raise ValueError(
            "nothing tells the projection of the grid: give its fields a grid_mapping, or use method='bilinear'"
        )
    lon, lat = _transformer(plane).transform(x, y, direction="INVERSE")
    return lat, lon


def _transformer(crs: Any) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(crs.source_crs or crs.geodetic_crs, crs, always_xy=True)


def _centres_in(source: Grid, target: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the target, as the source's axes measure."""
    if target.axes is not None and _same_plane(source.plane, target.plane) and source.plane != "latlon":
        y, x = np.meshgrid(*target.axes, indexing="ij")
        return y, x
    if isinstance(source.plane, str) and source.plane != "latlon":
        return _through_indices(source, target)
    lat, lon = _latlon(target)
    if isinstance(source.plane, str):
        west = source.axes[1].min()  # type: ignore[index]
        half = (np.ptp(source.axes[1]) / max(source.shape[1] - 1, 1)) / 2  # type: ignore[index]
        return lat, (lon - west + half) % 360.0 + west - half
    x, y = _transformer(source.plane).transform(lon, lat)
    return np.where(np.isfinite(y), y, np.nan), np.where(np.isfinite(x), x, np.nan)


def _through_indices(source: Grid, target: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Places on axes of an unknown projection, through its 2-D latitudes and longitudes."""
    if source.latlon is None:
        _latlon(source)
    indices = Grid(source.y, source.x, source.shape, None, None, None, source.latlon, source.coords, None)
    rows, columns, _ = _positions(indices, target)
    axes: Sequence[np.ndarray] = source.axes or ()
    return np.interp(rows, np.arange(source.shape[0]), axes[0]), np.interp(columns, np.arange(source.shape[1]), axes[1])


def _goes_round(grid: Grid) -> bool:
    """Whether a grid of longitudes closes around the Earth."""
    if not (isinstance(grid.plane, str) and grid.plane == "latlon") or grid.axes is None or grid.shape[1] < 4:
        return False
    step = np.abs(np.diff(grid.axes[1])).mean()
    return bool(abs(step * grid.shape[1] - 360.0) < 0.1 * step)


def _middle(lat: np.ndarray, lon: np.ndarray) -> tuple[float, float]:
    """The middle of a grid on the sphere, degrees."""
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    x, y, z = (np.nanmean(v) for v in (np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)))
    return float(np.rad2deg(np.arctan2(z, np.hypot(x, y)))), float(np.rad2deg(np.arctan2(y, x)))


def _equal_area(lat: np.ndarray, lon: np.ndarray, middle: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Lambert's azimuthal equal-area projection of the unit sphere; NaN more than a quarter of the Earth away."""
    phi, lam = np.deg2rad(lat), np.deg2rad(lon - middle[1])
    phi0 = np.deg2rad(middle[0])
    nearness = np.sin(phi0) * np.sin(phi) + np.cos(phi0) * np.cos(phi) * np.cos(lam)
    near = nearness > -0.2
    k = np.sqrt(2 / np.where(near, 1 + nearness, np.nan))
    east, north = np.cos(phi) * np.sin(lam), np.cos(phi0) * np.sin(phi) - np.sin(phi0) * np.cos(phi) * np.cos(lam)
    return k * east, k * north


def _extent(grid: Grid) -> str:
    try:
        lat, lon = _latlon(grid)
        return (
            f"{np.nanmin(lat):.4g} to {np.nanmax(lat):.4g} degrees north and {np.nanmin(lon):.4g} to "
            f"{np.nanmax(lon):.4g} degrees east"
        )
    except ValueError:
        axes: Sequence[np.ndarray] = grid.axes or ()
        return " and ".join(
            f"{d} from {a.min():.6g} to {a.max():.6g}" for d, a in zip((grid.y, grid.x), axes, strict=True)
        )
