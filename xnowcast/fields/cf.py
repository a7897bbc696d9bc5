"""What is known of CF: how the precipitation field, its times and units are found and read, and forecasts of others."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cf_xarray  # noqa: F401  (registers the .cf accessor)
import numpy as np
import xarray as xr

from xnowcast.check import did_you_mean
from xnowcast.fields import intervals, units, windows
from xnowcast.fields.attributes import (
    FORECAST_NAMES,
    TIME_NAMES,
    coordinates_of,
    declared,
    decoded,
    name_of,
    no_echo_of,
    number,
    standard_name,
    with_plain_text,
    zr_of,
)
from xnowcast.fields.horizontal import check_kinds, horizontal_dims, without_time
from xnowcast.fields.horizontal import grid_spacing as grid_spacing
from xnowcast.fields.horizontal import latlon_names as latlon_names
from xnowcast.fields.horizontal import north_up as north_up
from xnowcast.fields.horizontal import orientation as orientation
from xnowcast.fields.horizontal import refuse_uneven as refuse_uneven

STANDARD_NAMES = (
    "rainfall_rate",
    "rainfall_flux",
    "precipitation_flux",
    "lwe_precipitation_rate",
    "lwe_rainfall_rate",
    "equivalent_reflectivity_factor",
    "precipitation_amount",
    "rainfall_amount",
    "lwe_thickness_of_precipitation_amount",
    "instantaneous_precipitation_rate",  # not CF, but what pysteps writes
)

OF_STORED = ("valid_min", "valid_max", "valid_range", "actual_range")
"""Attributes that are true of the values as they are stored alone; they may be in packed units."""


@dataclass(frozen=True)
class Field:
    """A precipitation field as the user has it, and what is needed to compute with it.

    Attributes
    ----------
    array : xarray.DataArray
        The user's variable with its own dims and units, packing decoded, untouched otherwise.
    y, x : hashable
        Names of the horizontal dims.
    time : hashable or None
        Name of the time dim; None for a single field or a forecast.
    quantity : {"rain_rate", "vil"}
        What is computed: rain rate in mm h-1, or vertically integrated liquid in kg m-2.
    conversion : xnowcast.units.Conversion
        From the stored values to that and back.
    interval : xnowcast.fields.intervals.Interval or None
        The time that each value is the amount or the mean of; None where nothing tells.
    """

    array: xr.DataArray
    y: Hashable
    x: Hashable
    time: Hashable | None
    quantity: Literal["rain_rate", "vil"]
    conversion: units.Conversion
    interval: intervals.Interval | None = None

    @property
    def name(self) -> str:
        """Name of the variable, for messages and output."""
        return name_of(self.array)

    @property
    def extra(self) -> tuple[Hashable, ...]:
        """Dims that are neither time nor horizontal, such as ``tile`` or ``member``."""
        return tuple(d for d in self.array.dims if d not in (self.time, self.y, self.x))

    @property
    def leading(self) -> tuple[Hashable, ...]:
        """All dims but the horizontal ones, the time last."""
        return (*self.extra, *([self.time] if self.time is not None else []))


# ---------------------------------------------------------------- finding


def find_field(
    obj: xr.Dataset | xr.DataArray, variable: Hashable | None = None, *, zr: units.Relation | None = None
) -> Field:
    """Find the precipitation field of a dataset, its axes and its units.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        With y and x axes that CF attributes or common names tell.
    variable : hashable, optional
        Name of the variable. By default the only one whose ``standard_name`` is a precipitation's or a
        reflectivity's, or the VIL of SEVIR.
    zr : (float, float) or str, optional
        a and b of Z = a R**b for fields in dBZ, or a name of `xnowcast.units.ZR_RELATIONS`. By default the variable's
        attributes ``zr_a`` and ``zr_b``, else Marshall-Palmer's 200 and 1.6.

    Returns
    -------
    Field

    Raises
    ------
    ValueError
        If there is no field or more than one, an axis cannot be told, or the units are missing or unknown.

    Examples
    --------
    >>> rain = xr.DataArray(
    ...     np.ones((3, 8, 8)), dims=("time", "lat", "lon"), name="rr",
    ...     coords={"time": np.datetime64("2024-06-01", "ns") + np.arange(3) * np.timedelta64(5, "m")},
    ...     attrs={"units": "mm h-1", "standard_name": "rainfall_rate"},
    ... )
    >>> field = find_field(rain.to_dataset())
    >>> field.name, field.time, field.y, field.x, field.quantity
    ('rr', 'time', 'lat', 'lon', 'rain_rate')
    """
    array = windows.with_real_times(decoded(with_plain_text(find_array(without_time(obj), variable))))  # type: ignore[type-var]
    name = name_of(array)
    _refuse_contradiction(array)
    y, x = horizontal_dims(array)
    time = _time_dim(array, (y, x))
    if zr is not None and not units.is_reflectivity(array.attrs.get("units")):
        raise ValueError(f"zr={zr!r} is for fields in dBZ; variable {name!r} has units {array.attrs.get('units')!r}")
    if _is_vil(array):
        if str(array.attrs.get("units", "")).replace("^", "").replace("/m2", " m-2") != "kg m-2":
            raise ValueError(
                f"variable {name!r} is vertically integrated liquid with units {array.attrs.get('units')!r}; it is "
                "read in kg m-2: convert SEVIR's 0-255 pixels first and set the units"
            )
        liquid = units.Linear(1.0, units.HIGHEST_LIQUID, declared=declared(array))
        return Field(array, y, x, time, "vil", liquid)
    if units.is_reflectivity(array.attrs.get("units")):
        moment = intervals.of_rate(array, obj if isinstance(obj, xr.Dataset) else None, dims=(time,))
        return Field(array, y, x, time, "rain_rate", _reflectivity_conversion(array, zr), moment)
    interval = _interval(array, obj if isinstance(obj, xr.Dataset) else None, (y, x), time)
    step = None if interval is None else interval.length
    conversion = units.rain_rate_conversion(array.attrs.get("units"), name=name, step=step, declared=declared(array))
    if number(array, "zr_a") is not None:  # rain from reflectivity, which is bounded as that
        highest = units.dbz_to_rain_rate(np.array(units.HIGHEST_DBZ), *zr_of(array))
        conversion = replace(conversion, highest=max(conversion.highest, float(highest)))
    return Field(array, y, x, time, "rain_rate", conversion, interval)


def find_array(obj: xr.Dataset | xr.DataArray, variable: Hashable | None = None) -> xr.DataArray:
    """The variable of the precipitation field, as in `find_field`, without a look at its axes and units.

    >>> find_array(xr.Dataset({"rr": ("x", [1.0], {"standard_name": "rainfall_rate"}), "t2m": ("x", [280.0])})).name
    'rr'
    """
    check_kinds(obj, variable)
    if isinstance(obj, xr.DataArray):
        if variable is not None and variable != obj.name:
            raise ValueError(f"variable={variable!r} was asked for, but this DataArray is {obj.name!r}")
        return obj
    if variable is not None:
        if variable not in obj.data_vars:
            hint = did_you_mean(variable, obj.data_vars, f"there are: {_listed(obj.data_vars)}")
            raise ValueError(f"there is no variable {variable!r}; {hint}")
        return obj[variable]
    found = [v for v in obj.data_vars if standard_name(obj[v]) in STANDARD_NAMES]
    found = found or [v for v in obj.data_vars if _is_vil(obj[v])]
    if len(found) > 1:
        raise ValueError(f"there are {len(found)} precipitation fields, {_listed(found)}: choose one with variable=")
    if not found:
        raise ValueError(
            "there is no precipitation field: no variable has a standard_name such as 'rainfall_rate' or "
            f"'equivalent_reflectivity_factor'. Choose one with variable=; there are: {_listed(obj.data_vars)}"
            f"{'' if obj.data_vars else '; raw radar files are opened with engine=' + repr('xnowcast')}"
        )
    return obj[found[0]]


def _refuse_contradiction(array: xr.DataArray) -> None:
    """A rain rate in dBZ, or a reflectivity in mm h-1: one of the two attributes is wrong, and we cannot know which."""
    standard_name, unit = array.attrs.get("standard_name"), array.attrs.get("units")
    reflectivity = standard_name == "equivalent_reflectivity_factor"
    if unit is not None and standard_name in STANDARD_NAMES and reflectivity != units.is_reflectivity(unit):
        raise ValueError(
            f"variable {name_of(array)!r} has the standard_name {standard_name!r} and units {str(unit)!r}, which "
            "contradict each other: correct one of the two attributes"
        )


def _listed(names: Any) -> str:
    return ", ".join(repr(str(n)) for n in names) or "none"


def _is_vil(array: xr.DataArray) -> bool:
    names = f"{array.name} {array.attrs.get('long_name', '')}".lower()
    return str(array.name).lower() == "vil" or "vertically integrated liquid" in names.replace("_", " ")


def _reflectivity_conversion(array: xr.DataArray, zr: units.Relation | None) -> units.ZR:
    no_echo, limits = no_echo_of(array), declared(array)
    if "zerovalue" in array.attrs:  # a valid range may begin above it
        limits = replace(limits, low=min(limits.low, no_echo))
    return units.ZR(*zr_of(array, zr), no_echo, declared=limits)


def _time_dim(array: xr.DataArray, horizontal: tuple[Hashable, Hashable]) -> Hashable | None:
    rest = [d for d in array.dims if d not in horizontal]
    by_attributes = [n for n in coordinates_of(array, "T") if n in rest and not _is_reference_time(array, n)]
    named = [n for n in TIME_NAMES if n in rest]
    dated = [d for d in rest if d in array.coords and array[d].dtype.kind == "M" and not _is_reference_time(array, d)]
    return next(iter([*by_attributes, *named, *dated]), None)


def _is_reference_time(array: xr.DataArray, name: Hashable) -> bool:
    return (
        str(name).lower() in FORECAST_NAMES["init_time"]
        or array[name].attrs.get("standard_name") == FORECAST_NAMES["init_time"][0]
    )


def forecast_dims(field: Field) -> dict[str, Hashable]:
    """Which coordinates of a field, dims or scalars, are the init time, the member and the lead time.

    Returned: of ``init_time``, ``member`` and ``lead_time`` those that are there: told by their CF standard names, else
    by the names that other forecast packages use (`FORECAST_NAMES`). ValueError if there are init times as a dim, but
    neither lead times nor times.

    >>> fc = xr.DataArray(np.ones((2, 3, 8, 8)), dims=("reference_time", "lead", "y", "x"), name="rr",
    ...     coords={"lead": [5, 10, 15]}, attrs={"units": "mm h-1"})
    >>> forecast_dims(find_field(fc))
    {'init_time': 'reference_time', 'lead_time': 'lead'}
    """
    array = field.array
    found = _roles(array, field.extra)
    if found.get("init_time") in array.dims and "lead_time" not in found and field.time is None:
        raise ValueError(
            f"variable {field.name!r} has init times along {found['init_time']!r}, but no lead times: name their dim "
            "'lead_time', or give its coordinate the standard_name 'forecast_period'"
        )
    return found


def _roles(array: xr.DataArray, dims: Sequence[Hashable]) -> dict[str, Hashable]:
    names = {role: forecast_coordinate(array, role, dims) for role in FORECAST_NAMES}
    return {role: name for role, name in names.items() if name is not None}


def forecast_coordinate(array: xr.DataArray, role: str, dims: Sequence[Hashable] | None = None) -> Hashable | None:
    """The dim (of ``dims``), else scalar coordinate, that is the init time, the member or the lead time of a forecast.

    >>> members = xr.DataArray(np.zeros((4, 3)), dims=("number", "x"))
    >>> forecast_coordinate(members, "member")
    'number'
    """
    dims = list(array.dims if dims is None else dims)
    along = [n for n, c in array.coords.items() if c.ndim == 1 and c.dims[0] in dims and n not in dims]
    found = _of_role(array, role, [*dims, *(n for n, c in array.coords.items() if c.ndim == 0), *along])
    return array[found].dims[0] if found in along else found


def named_as(obj: xr.Dataset | xr.DataArray, role: str, candidates: Iterable[Hashable]) -> list[Hashable]:
    """Which of the candidates, dims or coordinates, have the standard name of a role; then those of a common name."""
    names, candidates = FORECAST_NAMES[role], list(candidates)
    by_attributes = [n for n in candidates if n in obj.coords and obj[n].attrs.get("standard_name") == names[0]]
    named = [n for name in names for n in candidates if str(n).lower() == name]
    return list(dict.fromkeys([*by_attributes, *named]))


def _of_role(array: xr.DataArray, role: str, candidates: Sequence[Hashable]) -> Hashable | None:
    return next(iter(named_as(array, role, candidates)), None)


def in_forecast_layout(obj: Any, variable: Hashable | None = None) -> Any:
    """A forecast of any package with our names of its dims: init_time, member and lead_time.

    ``obj``: what is no forecast comes back as it is. ``variable``: the field of a Dataset whose dims are looked at;
    found by CF attributes where left out. Returned: renamed; lead times as timedelta64 where they came as numbers with
    units of time. Where init times are called ``time``, as GRIB readers do, they are told by the lead times beside
    them. A dim of valid times after a single init time becomes lead times. ValueError if another variable has the name
    already.

    >>> fc = xr.DataArray(np.ones((2, 3, 8, 8)), dims=("number", "step", "y", "x"), name="rr", coords={
    ...     "step": ("step", [5, 10, 15], {"units": "minutes"})}, attrs={"units": "mm h-1"})
    >>> in_forecast_layout(fc).dims, in_forecast_layout(fc).lead_time.values[0]
    (('member', 'lead_time', 'y', 'x'), np.timedelta64(300000000000,'ns'))
    """
    obj = _with_interval(windows.with_real_times(obj), variable)
    array = find_array(obj, variable)
    rest = [d for d in array.dims if d not in horizontal_dims(array)]
    found = _roles(array, rest)
    for role, dim in found.items():
        coordinate = _of_role(
            array, role, [dim, *(n for n, c in array.coords.items() if c.dims == (dim,) and n != dim)]
        )
        if dim in rest and coordinate not in (dim, None):  # another coordinate along the dim tells it
            obj, found[role] = obj.swap_dims({dim: coordinate}), coordinate
    array = find_array(obj, variable)
    rest = [d for d in array.dims if d not in horizontal_dims(array)]
    obj, found = _with_times(obj, array, rest, found)
    lead = found.get("lead_time")
    if lead is not None and lead not in rest and not _may_be_lead(array[lead]):
        del found["lead_time"]  # a number that nothing tells to be a lead time
    obj = _renamed(obj, {name: role for role, name in found.items()})
    if "lead_time" in obj.coords and obj["lead_time"].dtype.kind != "m" and _may_be_lead(obj["lead_time"]):
        attrs = {k: v for k, v in obj["lead_time"].attrs.items() if k not in ("units", "calendar")}
        obj = obj.assign_coords(lead_time=(obj["lead_time"].dims, durations(obj["lead_time"]), attrs))
    return obj


def _with_interval(obj: Any, variable: Hashable | None) -> Any:
    """Time bounds do not outlive that times become lead times; what they tell does."""
    array = find_array(obj, variable)
    if not isinstance(obj, xr.Dataset) or "accutime" in array.attrs:
        return obj
    interval = intervals.of_bounds(array, obj)
    return obj if interval is None else obj.assign({array.name: array.assign_attrs(accutime=interval.minutes)})


def _with_times(
    obj: Any, array: xr.DataArray, rest: Sequence[Hashable], found: dict[str, Hashable]
) -> tuple[Any, dict[str, Hashable]]:
    """Init and lead times that follow from each other and from times beside them."""
    init, lead = found.get("init_time"), found.get("lead_time")
    dated = [d for d in rest if d not in (init, lead) and d in array.coords and array[d].dtype.kind == "M"]
    if init is None and lead in rest:
        time = array.coords.get("time")
        valid = [n for n, c in array.coords.items() if c.dims == (lead,) and n != lead and c.dtype.kind == "M"]
        if time is not None and time.dims in ((), ("time",)) and time.dtype.kind == "M":
            return obj, found | {"init_time": "time"}  # what GRIB readers call it
        if valid and lead in array.coords and _may_be_lead(array[lead]):
            starts = array[valid[0]].values - durations(array[lead])
            if (starts == starts[0]).all():
                return obj.assign_coords(init_time=starts[0]), found
    elif lead is None and init in array.coords and array[init].ndim == 0 and dated:
        after = array[dated[0]] - array[init].values
        obj = obj.assign_coords({dated[0]: after.variable, "valid_time": (dated[0], array[dated[0]].values)})
        return obj, found | {"lead_time": dated[0]}
    return obj, found


def _may_be_lead(coordinate: xr.DataArray) -> bool:
    return coordinate.dtype.kind == "m" or units.affine(coordinate.attrs.get("units"), "s") is not None


def _renamed(obj: Any, names: dict[Hashable, str]) -> Any:
    names = {old: new for old, new in names.items() if old != new}
    known: set[Hashable] = {*obj.coords, *obj.dims, *(obj.data_vars if isinstance(obj, xr.Dataset) else ())}
    for old, new in names.items():
        if new in known and new not in names:
            raise ValueError(
                f"{old!r} is the {new} of the forecast, and there is another {new!r}: drop or rename one of the two"
            )
    return obj.rename(names) if names else obj


def durations(coordinate: xr.DataArray) -> np.ndarray:
    """Lead times as timedelta64[ns]; bare numbers without units of time are a ValueError.

    >>> durations(xr.DataArray([1.0, 1.5], dims="step", attrs={"units": "hours"})).astype("m8[m]").astype(int).tolist()
    [60, 90]
    """
    found = windows.durations(coordinate)
    if found is not None:
        return found
    raise ValueError(
        f"coordinate {coordinate.name!r} holds {coordinate.dtype} without units of time: give it timedelta64 values, "
        "or the attribute units, such as 'hours'"
    )


def _interval(
    array: xr.DataArray, dataset: xr.Dataset | None, horizontal: tuple[Hashable, Hashable], time: Hashable | None
) -> intervals.Interval | None:
    """The time that each value stands for."""
    lead = forecast_coordinate(array, "lead_time", [d for d in array.dims if d not in (time, *horizontal)])
    if units.is_amount(array.attrs.get("units")):
        return intervals.of_amount(array, dataset, time=time, lead_time=lead)
    return intervals.of_rate(array, dataset, dims=(time, lead))


# ---------------------------------------------------------------- reading


def rain_rate(
    obj: xr.Dataset | xr.DataArray, variable: Hashable | None = None, *, zr: units.Relation | None = None
) -> xr.DataArray:
    """The field in the units of computing: rain rate in mm h-1 (VIL stays in kg m-2).

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        Anything that `find_field` understands, forecasts included.
    variable, zr
        As in `find_field`.

    Returns
    -------
    xarray.DataArray
        float32, with the user's coordinates, y and x last; lazy where the input is. NaN means not measured.

    Raises
    ------
    ValueError
        As `find_field`; and, when computed, if rain is negative or infinite.

    Examples
    --------
    >>> rain = xr.DataArray(
    ...     np.full((8, 8), 0.001), dims=("y", "x"), name="rr",
    ...     attrs={"units": "kg m-2 s-1", "standard_name": "rainfall_flux"},
    ... )
    >>> round(float(rain_rate(rain)[0, 0]), 4)
    3.6
    """
    field = find_field(obj, variable, zr=zr)
    return converted(field).transpose(..., field.y, field.x)


def converted(field: Field) -> xr.DataArray:
    """The field's values in the units of computing, float32, lazy where the field is; dims as they were.

    >>> rain = xr.DataArray(np.ones((8, 8)), dims=("y", "x"), name="rr", attrs={"units": "mm h-1"})
    >>> converted(find_field(rain)).attrs["units"]
    'mm h-1'
    """
    # The bound method, because Dask names the task after the function and cannot cope with a dataclass's "-32.0".
    result = xr.apply_ufunc(
        field.conversion.__call__,
        field.array,
        kwargs={"frame": tuple(field.array.get_axis_num(dim) for dim in (field.y, field.x))},
        dask="parallelized",
        output_dtypes=[np.float32],
        keep_attrs=True,
    )
    result.attrs = {k: v for k, v in result.attrs.items() if k not in OF_STORED}
    if field.quantity == "rain_rate":
        kept = {k: v for k, v in result.attrs.items() if k not in ("zerovalue", "threshold", "transform")}
        if field.interval is not None:
            is_amount = units.is_amount(field.array.attrs.get("units"))
            kept = intervals.mean_rate_attributes(kept) if is_amount else kept
            kept |= accutime_of(field)
        result.attrs = kept | {"units": "mm h-1"}
        if isinstance(field.conversion, units.ZR):
            result = result.rename("rainfall_rate")
            result.attrs |= {"standard_name": "rainfall_rate", "long_name": "rain rate from reflectivity"}
            result.attrs.pop("comment", None)  # of the reflectivity, such as what its no-echo value is
            result.attrs |= units.zr_attributes((field.conversion.a, field.conversion.b))
    return result


def accutime_of(field: Field) -> dict[str, float]:
    """The interval of the values in minutes, as pysteps has it: it holds for a single frame, too."""
    return {} if field.interval is None else {"accutime": field.interval.minutes}
