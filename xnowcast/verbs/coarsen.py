"""The verb `coarsen`: area means over blocks of cells, which keep the mass of rain."""

from collections.abc import Hashable
from typing import Literal

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.fields import cf, grids, horizontal, labels
from xnowcast.fields.cf import Field
from xnowcast.fields.horizontal import T_Xarray
from xnowcast.fields.units import Relation


def coarsen(
    obj: T_Xarray,
    factor: int,
    *,
    variable: Hashable | None = None,
    zr: Relation | None = None,
    min_coverage: float = 0.5,
    boundary: Literal["exact", "trim"] = "exact",
) -> T_Xarray:
    """Area means over ``factor x factor`` cells.

    The mean is weighted by the areas of the cells: ``cell_measures`` where the file has them, the sphere's on
    latitudes and longitudes, equal on projected grids. Reflectivity is averaged as rain rate.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        A precipitation field with y and x axes and any other dims. In a Dataset all other numeric variables on
        the same y and x are averaged too, as they are.
    factor : int
        How many cells along y and along x become one; 2 or more.
    variable : hashable, optional
        Name of the precipitation field where a dataset has more than one.
    zr : (float, float) or str, optional
        a and b of Z = a R**b for fields in dBZ, or a name such as ``"hko-7"``; by default the field's attributes, else
        200 and 1.6.
    min_coverage : float
        Smallest measured share of a coarse cell's area, above 0 and up to 1; with less it is NaN. The mean is
        over the measured cells.
    boundary : {"exact", "trim"}
        What to do with a grid that the factor does not divide: refuse, or leave out the last rows and columns.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Whichever was given, on the coarse grid: coordinates are the middle of the joined cells, bounds their
        outer ends. Lazy where the data are lazy; float32.

    Raises
    ------
    ValueError
        If the factor does not divide the grid, or an argument will not do.

    Examples
    --------
    >>> rain = xr.DataArray(
    ...     np.array([[1.0, 3.0, 0.0, np.nan], [2.0, 2.0, 4.0, np.nan]], "f4"), dims=("y", "x"), name="rr",
    ...     coords={"x": [0.0, 1.0, 2.0, 3.0]}, attrs={"units": "mm h-1"})
    >>> coarsen(rain, 2).values.tolist(), coarsen(rain, 2).x.values.tolist()
    ([[2.0, 2.0]], [0.5, 2.5])
    """
    check.call(coarsen, locals())
    field = cf.find_field(obj, variable, zr=zr)
    _check(field, factor, min_coverage, boundary)
    name = field.name
    dataset = horizontal.without_time(obj if isinstance(obj, xr.Dataset) else obj.to_dataset(name=name))
    blocks: dict[Hashable, int] = {field.y: int(factor), field.x: int(factor)}
    areas_given = _given_areas(field, dataset)
    areas = grids.cell_areas(field.array, field.y, field.x, None if areas_given is None else dataset[areas_given])

    coarse = {
        n: _coarse(dataset, n, areas, blocks, min_coverage) for n in dataset.variables if n not in (name, areas_given)
    }
    if areas_given is not None:
        coarse[areas_given] = _block_sum(dataset[areas_given].drop_vars(dataset[areas_given].coords), blocks).variable
        coarse[areas_given].attrs = dataset[areas_given].attrs
    mean = _area_mean(cf.converted(field).drop_vars(field.array.coords), areas, blocks, min_coverage)
    rain = xr.apply_ufunc(field.conversion.inverse, mean, dask="parallelized", output_dtypes=[np.float32])
    coarse[name] = rain.transpose(*field.array.dims).variable
    coarse[name].attrs = {k: v for k, v in field.array.attrs.items() if k not in cf.OF_STORED}
    coarse[name].encoding = {}

    in_order = {n: coarse[n] for n in dataset.variables}
    result = xr.Dataset(in_order, attrs=dataset.attrs).set_coords(list(dataset.coords))
    noted = result if isinstance(obj, xr.Dataset) else result[name]
    noted.attrs["history"] = labels.dated(f"xnowcast coarsen, factor {factor}", noted.attrs.get("history"))
    return result if isinstance(obj, xr.Dataset) else result[name].rename(obj.name)


def _check(field: Field, factor: int, min_coverage: float, boundary: str) -> None:
    check.whole("factor", factor, 2)
    if not 0 < min_coverage <= 1:
        raise ValueError(f"min_coverage is {min_coverage}; it must be above 0 and at most 1")
    check.one_of("boundary", boundary, ("exact", "trim"))
    size = field.array.sizes[field.y], field.array.sizes[field.x]
    if min(size) < factor:
        raise ValueError(f"the grid has {size[0]} x {size[1]} cells; one of {factor} x {factor} is larger than that")
    if boundary == "exact" and (size[0] % factor or size[1] % factor):
        raise ValueError(
            f"the grid of {size[0]} x {size[1]} cells is no multiple of {factor}: leave out the last rows and columns "
            "with boundary='trim', or cut the grid first"
        )


def _given_areas(field: Field, dataset: xr.Dataset) -> Hashable | None:
    """The variable that ``cell_measures = "area: name"`` names, if it is there."""
    words = str(field.array.attrs.get("cell_measures", field.array.encoding.get("cell_measures", ""))).split()
    named = dict(zip(words[::2], words[1::2], strict=False)).get("area:")
    has_areas = named in dataset.variables and {field.y, field.x} == set(dataset[named].dims)
    return named if has_areas else None


def _coarse(
    dataset: xr.Dataset, name: Hashable, areas: xr.DataArray, blocks: dict[Hashable, int], min_coverage: float
) -> xr.Variable:
    """Any other variable: fields are averaged, bounds are joined, coordinates are the middle of the joined cells."""
    variable = dataset.variables[name]
    along = [d for d in blocks if d in variable.dims]
    if not along:
        return variable
    if len(along) == 1 and any(dataset[d].attrs.get("bounds") == name for d in along if d in dataset.coords):
        return grids.coarse_bounds(variable, along[0], blocks[along[0]])
    if name in dataset.coords or len(along) == 1 or variable.dtype.kind not in "fiu":
        return grids.coarse_coordinate(variable, blocks)
    array = dataset[name]
    mean = _area_mean(array.drop_vars(array.coords), areas, blocks, min_coverage).transpose(*array.dims).variable
    mean.attrs = dict(array.attrs)
    return mean


def _area_mean(
    array: xr.DataArray, areas: xr.DataArray, blocks: dict[Hashable, int], min_coverage: float
) -> xr.DataArray:
    weights = (areas / areas.mean()).astype("f4")
    valid = array.notnull()
    whole = _block_sum(weights.broadcast_like(array.isel({d: 0 for d in array.dims if d not in blocks})), blocks)
    measured = _block_sum(weights * valid, blocks)
    total = _block_sum(weights * array.where(valid, 0), blocks)
    # A hair of slack: the share of a block that is measured whole is 1 up to rounding.
    enough = measured >= (min_coverage - 1e-6) * whole
    return (total / measured.where(enough)).astype("f4")


def _block_sum(array: xr.DataArray, blocks: dict[Hashable, int]) -> xr.DataArray:
    return array.coarsen({d: n for d, n in blocks.items() if d in array.dims}, boundary="trim").sum()
