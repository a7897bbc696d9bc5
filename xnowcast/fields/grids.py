"""Coarser and finer grids over the same ground: their coordinates, their bounds, and the areas of cells."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.fields.attributes import coordinates_of


def cell_edges(coordinate: xr.DataArray, bounds: xr.DataArray | None = None) -> np.ndarray:
    """The ``n + 1`` edges of cells along an axis: by their bounds ``(n, 2)``, else halfway between neighbours.

    ValueError if there is one cell alone without bounds, or the bounds leave gaps.

    >>> cell_edges(xr.DataArray([500.0, 1500.0, 2500.0], dims="x")).tolist()
    [0.0, 1000.0, 2000.0, 3000.0]
    """
    centres = unwrapped(coordinate.values.astype("f8"))
    if bounds is not None:
        ends = bounds.transpose(*coordinate.dims, ...).values.astype("f8")
        ends = _turned_to(ends, centres[:, None]) if _passes_round(coordinate.values) else ends
        falls = centres.size > 1 and centres[1] < centres[0]
        ends = np.sort(ends, axis=1)[:, :: -1 if falls else 1]
        if not np.allclose(ends[1:, 0], ends[:-1, 1], rtol=0, atol=1e-6 * np.ptp(ends)):
            raise ValueError(f"the bounds of {coordinate.name!r} leave gaps between cells: drop or correct them")
        return np.append(ends[:, 0], ends[-1, 1])
    if centres.size < 2:
        raise ValueError(f"{coordinate.name!r} has one cell and no bounds, so its width is unknown")
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def known_corner(lat: np.ndarray, lon: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns of two by two cells near the middle of a grid ``(y, x)`` whose places are known; else None.

    >>> places = np.array([[np.nan, 1.0, 1.0], [np.nan, 2.0, 2.0]])
    >>> known_corner(places, places)
    (slice(0, 2, None), slice(1, 3, None))
    """
    known = np.isfinite(lat) & np.isfinite(lon)
    rows, columns = np.nonzero(known[:-1, :-1] & known[1:, :-1] & known[:-1, 1:] & known[1:, 1:])
    if not rows.size:
        return None
    middle = lat.shape[0] // 2 - 1, lat.shape[1] // 2 - 1
    nearest = np.hypot(rows - middle[0], columns - middle[1]).argmin()
    row, column = int(rows[nearest]), int(columns[nearest])
    return slice(row, row + 2), slice(column, column + 2)


def unwrapped(places: np.ndarray) -> np.ndarray:
    """Longitudes, 1-D or 2-D, that pass from 360 to 0 or 180 to -180 degrees made to go on; other places as they are.

    >>> unwrapped(np.array([358.0, 359.0, 0.0])).tolist(), unwrapped(np.array([0.0, 200.0])).tolist()
    ([358.0, 359.0, 360.0], [0.0, 200.0])
    """
    if not _passes_round(places):
        return places
    known = places[np.isfinite(places)]
    return _turned_to(places, known[known.size // 2])


def _passes_round(places: np.ndarray) -> bool:
    """Whether places jump against their direction by more than half a turn, as longitudes alone do."""
    if places.dtype.kind not in "fiu" or not places.size or np.nanmin(places) < -180 or np.nanmax(places) > 360:
        return False
    steps = [np.diff(places, axis=axis) for axis in range(places.ndim)]
    return any((np.abs(s) > 180).any() and (s > 0).any() and (s < 0).any() for s in steps)


def _turned_to(longitude: np.ndarray, near: Any) -> np.ndarray:
    """Whole turns added, so that no longitude is further than half a turn from another."""
    return longitude - 360.0 * np.round((longitude - near) / 360.0)


def _written_like(longitude: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Longitudes in the range in which those that pass round were written."""
    if not _passes_round(old):
        return longitude
    west = 0.0 if np.nanmin(old) >= 0 else -180.0
    return (longitude - west) % 360.0 + west


def cell_areas(array: xr.DataArray, y: Hashable, x: Hashable, measured: xr.DataArray | None = None) -> xr.DataArray:
    """Areas of the cells relative to each other.

    ``array``: the field whose grid it is. ``y, x``: names of the horizontal dims. ``measured``: areas that the file
    tells (CF ``cell_measures``), which come first. Returned: with dims among ``(y, x)``: for latitudes and longitudes
    the true share of the sphere, which is the difference of the sines of a cell's edges; 1 on projected grids, whose
    cells are taken as equal.

    >>> field = xr.DataArray(np.zeros((2, 2)), dims=("lat", "lon"), coords={
    ...     "lat": ("lat", [45.0, 75.0], {"units": "degrees_north"}), "lon": ("lon", [0.0, 30.0])})
    >>> cell_areas(field, "lat", "lon").round(3).values.tolist()
    [0.366, 0.134]
    """
    if measured is not None:
        return measured
    if y in coordinates_of(array, "latitude"):
        edges = np.clip(cell_edges(array[y]), -90.0, 90.0)
        return xr.DataArray(np.abs(np.diff(np.sin(np.deg2rad(edges)))), dims=[y])
    if latitude := _two_dimensional_latitude(array, y, x):
        area = np.cos(np.deg2rad(array[latitude].values))
        return xr.DataArray(np.where(np.isnan(area), np.nanmean(area), area), dims=array[latitude].dims)
    return xr.DataArray(1.0)


def _two_dimensional_latitude(array: xr.DataArray, y: Hashable, x: Hashable) -> Hashable | None:
    """Name of the latitudes of a grid that is told by nothing else."""
    if y in array.coords:
        return None
    return next((n for n in coordinates_of(array, "latitude") if set(array[n].dims) == {y, x}), None)


def coarse_coordinate(variable: xr.Variable, factors: dict[Hashable, int]) -> xr.Variable:
    """A coordinate of the coarse grid: the middle of the cells that were joined, ``factors`` along each dim.

    >>> coarse_coordinate(xr.Variable("x", [0.0, 1.0, 2.0, 3.0]), {"x": 2}).values.tolist()
    [0.5, 2.5]
    """
    joined = {d: n for d, n in factors.items() if d in variable.dims}
    if not joined or variable.dtype.kind not in "fiu":
        return variable if not joined else variable.isel({d: slice(None, None, n) for d, n in joined.items()})
    exact = {d: slice(0, variable.sizes[d] // n * n) for d, n in joined.items()}
    whole = variable.isel(exact)
    if variable.ndim > 2 or not _passes_round(whole.values):
        middle = whole.coarsen(joined, func=np.mean)
    else:
        middle = whole.copy(data=unwrapped(whole.values)).coarsen(joined, func=np.mean)
        middle = middle.copy(data=_written_like(middle.values, whole.values))
    middle.attrs = {k: v for k, v in variable.attrs.items() if k not in ("actual_range", "valid_range")}
    return middle


def coarse_bounds(bounds: xr.Variable, dim: Hashable, factor: int) -> xr.Variable:
    """The outer ends, ``(dim, 2)``, of the cells that were joined.

    >>> coarse_bounds(xr.Variable(("x", "ends"), [[0.0, 1.0], [1.0, 2.0]]), "x", 2).values.tolist()
    [[0.0, 2.0]]
    """
    ends = bounds.transpose(dim, ...)
    n = ends.sizes[dim] // factor * factor
    first, last = ends[:n:factor, :1], ends[factor - 1 : n : factor, 1:]
    return xr.Variable(ends.dims, np.concatenate([first.values, last.values], axis=1), bounds.attrs)


def fine_coordinate(coordinate: xr.DataArray, factor: int, bounds: xr.DataArray | None = None) -> Any:
    """Centres ``(n * factor,)`` and bounds ``(n * factor, 2)`` of cells that are cut into ``factor`` equal ones each.

    >>> centres, bounds = fine_coordinate(xr.DataArray([1.0, 3.0], dims="x"), 2)
    >>> centres.tolist(), bounds[0].tolist()
    ([0.5, 1.5, 2.5, 3.5], [0.0, 1.0])
    """
    edges = cell_edges(coordinate, bounds)
    share = np.arange(factor) / factor
    starts = edges[:-1, None] + share * np.diff(edges)[:, None]
    fine = np.append(starts.ravel(), edges[-1])
    middle = (fine[1:] + fine[:-1]) / 2
    centres = _written_like(middle, coordinate.values)
    return centres, np.stack([fine[:-1], fine[1:]], axis=1) + (centres - middle)[:, None]


def fine_plane(values: np.ndarray, factor: int) -> np.ndarray:
    """2-D coordinates ``(y, x)`` on cells cut into ``factor x factor``: linear between centres, and on to the rim.

    >>> fine_plane(np.array([[0.0, 2.0], [0.0, 2.0]]), 2)[0].tolist()
    [-0.5, 0.5, 1.5, 2.5]
    """
    fine = unwrapped(values)
    for axis in (0, 1):
        fine = np.moveaxis(_refined(np.moveaxis(fine, axis, 0), factor), 0, axis)
    return _written_like(fine, values)


def _fine_places(places: xr.Variable, factor: int) -> Any:
    """`fine_plane` of a coordinate, lazy where the coordinate is."""
    whole = xr.DataArray(places).astype("f8")
    whole = whole if whole.chunks is None else whole.chunk(-1)
    return xr.apply_ufunc(
        fine_plane,
        whole,
        factor,
        input_core_dims=[places.dims, []],
        output_core_dims=[places.dims],
        exclude_dims=set(places.dims),
        dask="parallelized",
        output_dtypes=["f8"],
        dask_gufunc_kwargs={"output_sizes": {d: n * factor for d, n in places.sizes.items()}},
    )


def _refined(values: np.ndarray, factor: int) -> np.ndarray:
    """Linear in the first axis, beyond the outermost centres too."""
    place = (np.arange(len(values) * factor) + 0.5) / factor - 0.5
    left = np.clip(np.floor(place).astype(int), 0, len(values) - 2)
    share = (place - left).reshape(-1, *(1,) * (values.ndim - 1))
    return values[left] * (1 - share) + values[left + 1] * share


def fine_grid(
    array: xr.DataArray, y: Hashable, x: Hashable, factor: int, dataset: xr.Dataset | None = None
) -> xr.Dataset:
    """The coordinates along y and x of a grid whose cells are cut into ``factor x factor``, with attributes and bounds.

    >>> coarse = xr.DataArray(np.zeros((2, 2)), dims=("y", "x"), coords={"x": [0.0, 4.0]})
    >>> fine_grid(coarse, "y", "x", 4).x.values.tolist()
    [-1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    """
    fine: dict[Hashable, Any] = {}
    for name, coordinate in array.coords.items():
        along = [d for d in coordinate.dims if d in (y, x)]
        if not along or coordinate.dtype.kind not in "fiu":
            continue
        attrs = {k: v for k, v in coordinate.attrs.items() if k not in ("actual_range", "valid_range")}
        if set(coordinate.dims) == {y, x}:
            fine[name] = _fine_places(coordinate.variable, factor).variable
            fine[name].attrs = attrs
        elif coordinate.ndim == 1:
            bounds_name = coordinate.attrs.get("bounds")
            bounds = dataset[bounds_name] if dataset is not None and bounds_name in dataset.variables else None
            centres, ends = fine_coordinate(coordinate, factor, bounds)
            fine[name] = xr.Variable(along, centres, attrs)
            if bounds is not None:
                fine[bounds_name] = xr.Variable(
                    [along[0], *(d for d in bounds.dims if d not in along)], ends, bounds.attrs
                )
            else:
                fine[name].attrs.pop("bounds", None)
    return xr.Dataset(coords=fine)
