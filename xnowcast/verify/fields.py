"""What all scores do with their two arguments: variables of Datasets one by one, ensemble means, attributes."""

from collections.abc import Callable, Hashable
from typing import Any

import xarray as xr

from xnowcast.fields import cf

XarrayObject = Any  # a DataArray or a Dataset; what comes out is what went in


def matching_variables(observations: XarrayObject, forecasts: XarrayObject) -> list[Hashable] | None:
    """Names of the variables to score, or None for two DataArrays.

    ``observations, forecasts``: variables without dims, such as grid mappings, are not scored. TypeError if the two are
    not of one kind, or neither DataArray nor Dataset. ValueError if they do not have the same variables.

    >>> rain = xr.Dataset({"rain": ("x", [1.0, 2.0]), "crs": 0})
    >>> matching_variables(rain, rain)
    ['rain']
    """
    kinds = [type(obj) for obj in (observations, forecasts)]
    if all(issubclass(kind, xr.DataArray) for kind in kinds):
        return None
    if not all(issubclass(kind, xr.Dataset) for kind in kinds):
        raise TypeError(
            "observations and forecasts must be two DataArrays or two Datasets; found "
            f"{kinds[0].__name__} and {kinds[1].__name__}"
        )
    scored = [_scored(obj) for obj in (observations, forecasts)]
    alone = set(scored[0]) ^ set(scored[1])
    if alone or not scored[0]:
        raise ValueError(
            f"observations have the variables {sorted(map(str, scored[0]))}, forecasts "
            f"{sorted(map(str, scored[1]))}; they must be the same: select with ds[[...]] or rename"
        )
    return scored[0]


def _scored(obj: xr.Dataset) -> list[Hashable]:
    """Variables with dims; where none has any they are single values, and of these a grid mapping is no float."""
    with_dims = [name for name in obj.data_vars if obj[name].ndim]
    return with_dims or [name for name in obj.data_vars if obj[name].dtype.kind == "f"]


def each_variable(
    score: Callable[[xr.DataArray, xr.DataArray], xr.DataArray],
    observations: XarrayObject,
    forecasts: XarrayObject,
    keep_attrs: bool,
) -> XarrayObject:
    """The score of two DataArrays, or a Dataset with the score of each variable.

    ``score``: takes and returns DataArrays. ``keep_attrs``: whether to copy the attributes of the observed Dataset.
    TypeError as `matching_variables`.

    >>> rain = xr.Dataset({"rain": ("x", [1.0, 2.0])})
    >>> float(each_variable(lambda o, f: (f - o).mean(), rain, rain + 1, False)["rain"])
    1.0
    """
    variables = matching_variables(observations, forecasts)
    if variables is None:
        return score(observations, forecasts)
    attrs = dict(observations.attrs) if keep_attrs else {}
    return xr.Dataset({name: score(observations[name], forecasts[name]) for name in variables}, attrs=attrs)


def ensemble_mean(forecasts: xr.DataArray, member_dim: Hashable | None, skipna: bool) -> xr.DataArray:
    """Mean over the members, or the forecasts themselves if ``member_dim`` is None.

    ``skipna``: True: the mean of the members that are not NaN. ValueError if there is no such dim.

    >>> ensemble_mean(xr.DataArray([[1.0, 2.0], [3.0, float("nan")]], dims=("member", "x")), "member", True).values
    array([2., 2.])
    """
    if member_dim is None:
        return forecasts
    return forecasts.mean([find_member_dim(forecasts, member_dim)], skipna=skipna)


def find_member_dim(forecasts: xr.DataArray, member_dim: Hashable) -> Hashable:
    """The dim of the members of an ensemble.

    ``member_dim``: a dim; "member" stands for the one that CF attributes or a common name tell, such as ``number``,
    where no dim is called so. ValueError if there is none.

    >>> find_member_dim(xr.DataArray([[1.0]], dims=("number", "x")), "member")
    'number'
    >>> find_member_dim(xr.DataArray([1.0], dims="x"), "member")
    Traceback (most recent call last):
    ...
    ValueError: forecasts have dims ('x',), no 'member': name the dim of the members with member_dim=
    """
    if member_dim in forecasts.dims:
        return member_dim
    found = cf.forecast_coordinate(forecasts, "member") if member_dim == "member" else None
    if found not in forecasts.dims:
        raise ValueError(
            f"forecasts have dims {forecasts.dims}, no {member_dim!r}: name the dim of the members with member_dim="
        )
    return found


def with_attrs(result: XarrayObject, source: xr.DataArray | None) -> XarrayObject:
    """The result with the attributes of ``source`` on it and its variables, or without any if that is None.

    Returned: the same object.

    >>> with_attrs(xr.DataArray(1.0, attrs={"units": "m"}), None).attrs
    {}
    """
    attrs = {} if source is None else dict(source.attrs)
    result.attrs = dict(attrs)
    if isinstance(result, xr.Dataset):
        for name in result.data_vars:
            result[name].attrs = dict(attrs)
    return result
