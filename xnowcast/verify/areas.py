"""How large the cells of a latitude-longitude grid are: weights for scores."""

from typing import Any

import numpy as np
import xarray as xr

from xnowcast.fields import horizontal


def area_weights(obj: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Areas of the cells of a latitude-longitude grid, for ``weights=`` of scores: cells near a pole count less.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        With 1-D latitudes, told by CF attributes or common names, or the 2-D latitudes and longitudes of a curvilinear
        grid.

    Returns
    -------
    xarray.DataArray
        float64, relative to the largest cell: along the latitudes, or along both dims of a curvilinear grid, where
        cells without a place have the weight 0.

    Raises
    ------
    ValueError
        If there are no latitudes, as on a projected grid, whose cells may count the same.

    Examples
    --------
    >>> rain = xr.DataArray([[1.0], [1.0], [1.0]], dims=("lat", "lon"), coords={"lat": [0.0, 60.0, 80.0], "lon": [7.0]})
    >>> area_weights(rain).round(2).values
    array([1.  , 0.5 , 0.17])
    """
    latitude, longitude = (_places(obj, axis) for axis in ("y", "x"))
    if latitude is None:
        raise ValueError(
            f"there are no latitudes among the coordinates {sorted(map(str, obj.coords))}: cells of a projected grid "
            "count the same, without weights; else give the latitudes the units 'degrees_north'"
        )
    if latitude.ndim == 1:
        area = np.cos(np.deg2rad(latitude.values.astype("f8"))).clip(0)
    elif longitude is None or set(longitude.dims) != set(latitude.dims):
        raise ValueError(f"there are 2-D latitudes, {latitude.name!r}, and no longitudes along the same dims")
    else:
        area = _curvilinear_areas(latitude.values, longitude.transpose(*latitude.dims).values)
    area = np.nan_to_num(area)
    coords = {dim: obj[dim].variable for dim in latitude.dims if dim in obj.indexes}
    attrs = {"long_name": "area of a cell, relative to the largest", "units": "1"}
    return xr.DataArray(area / area.max(), dims=latitude.dims, coords=coords, name="area_weights", attrs=attrs)


def _places(obj: Any, axis: str) -> xr.DataArray | None:
    found = [obj[name] for name in horizontal.latlon_names(obj, axis) if 1 <= obj[name].ndim <= 2]
    return next(iter(sorted(found, key=lambda places: -places.ndim)), None)


def _curvilinear_areas(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Of the parallelogram that a step along each dim spans on the unit sphere."""
    lat, lon = np.deg2rad(latitude.astype("f8")), np.deg2rad(longitude.astype("f8"))
    places = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    return np.linalg.norm(np.cross(_steps(places, 0), _steps(places, 1)), axis=-1)


def _steps(places: np.ndarray, axis: int) -> np.ndarray:
    """From each cell to the next, on average of both sides; of one side at an edge, or beside cells without a place."""
    step = np.diff(places, axis=axis)
    nothing = np.full_like(np.take(places, [0], axis), np.nan)
    sides = np.stack([np.concatenate([nothing, step], axis), np.concatenate([step, nothing], axis)])
    finite = np.isfinite(sides).all(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.where(finite, sides, 0).sum(axis=0) / finite.sum(axis=0)
