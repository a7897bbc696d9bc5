"""The outline of the land below a map, where cartopy has it."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr


def crs_of(array: xr.DataArray, source: xr.Dataset | xr.DataArray) -> dict[str, Any] | None:
    """Attributes of the grid mapping, if there is one."""
    name = array.attrs.get("grid_mapping", array.encoding.get("grid_mapping"))
    for holder in (source, array):
        if name is not None and (name in holder.coords or (isinstance(holder, xr.Dataset) and name in holder)):
            return dict(holder[name].attrs)
    return None


def lines_of_coasts(crs: dict[str, Any] | str | None, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Coastlines within the map, in its units; none where cartopy, its data or the projection are missing."""
    shapefile = _coastline_file() if crs is not None else None
    if shapefile is None:
        return []
    import pyproj
    from cartopy.io.shapereader import Reader

    forward = None
    if isinstance(crs, dict):
        try:
            forward = pyproj.Transformer.from_crs("EPSG:4326", pyproj.CRS.from_cf(crs), always_xy=True)
        except (pyproj.exceptions.CRSError, KeyError):
            return []
    lines = []
    for shape in Reader(str(shapefile)).geometries():
        for part in getattr(shape, "geoms", [shape]):
            line = np.asarray(part.coords)[:, :2]
            if forward is not None:
                line = np.stack(forward.transform(line[:, 0], line[:, 1]), -1) / 1000.0
            inside = (line[:, 0] > x.min()) & (line[:, 0] < x.max()) & (line[:, 1] > y.min()) & (line[:, 1] < y.max())
            if inside.any():
                lines.append(np.where(np.isfinite(line), line, np.nan))
    return lines


def _coastline_file() -> Path | None:
    """Natural Earth's coastline if it is on disk. cartopy would download it while drawing; we never do."""
    try:
        import cartopy
    except ImportError:
        return None
    for resolution in ("10m", "50m", "110m"):
        for folder in ("pre_existing_data_dir", "data_dir", "repo_data_dir"):
            root = Path(str(cartopy.config[folder])) / "shapefiles" / "natural_earth" / "physical"
            if (root / f"ne_{resolution}_coastline.shp").is_file():
                return root / f"ne_{resolution}_coastline.shp"
    return None
