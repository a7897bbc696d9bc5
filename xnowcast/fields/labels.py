"""What a result is called: dims, coordinates and CF attributes of forecasts and of frames."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import cf_xarray  # noqa: F401  (registers the .cf accessor)
import numpy as np
import xarray as xr

from xnowcast.fields import units
from xnowcast.fields.attributes import forecast_times, reference
from xnowcast.fields.cf import OF_STORED, Field, accutime_of
from xnowcast.fields.horizontal import T_Xarray, north_up, orientation, without_time

CONVENTIONS = "CF-1.10"


# How a variable's numbers are written; chunks and compressors belong to the file it came from, and zarr 3 refuses
# those of zarr 2.
_MEANING_OF_ENCODING = (
    *("dtype", "_FillValue", "missing_value", "scale_factor", "add_offset", "units", "calendar"),
    *("bounds", "grid_mapping"),
)


# Attributes that are true of the observations alone.
_OF_OBSERVATIONS = ("ancillary_variables", "coordinates", *OF_STORED)


def label_forecast(
    values: Any,
    field: Field,
    source: T_Xarray,
    *,
    init_times: np.ndarray,
    lead_times: np.ndarray,
    members: Sequence[int] | None,
    attrs: dict[str, Any],
    history: str,
) -> T_Xarray:
    """Dress computed values as a CF forecast in the user's own terms.

    ``values``: ``(*extra, init_time, [member], lead_time, y, x)``, in the user's units and order of rows and columns.
    ``field``: the field that was forecast. ``source``: what the user gave; the same kind comes back. ``init_times``:
    datetime64[ns]. ``lead_times``: timedelta64[ns]. ``members``: numbers of the members; None for a deterministic
    forecast. ``attrs``: what made the forecast: model, options, seed. ``history``: what was done, without the time.
    Returned: the variable's name, attributes, grid mapping and horizontal coordinates are the user's.

    >>> from xnowcast.fields.cf import find_field
    >>> rain = xr.DataArray(np.ones((8, 8)), dims=("y", "x"), name="rr", attrs={"units": "mm h-1"})
    >>> fc = label_forecast(
    ...     np.ones((1, 2, 8, 8)), find_field(rain), rain, init_times=np.array(["2024-06-01"], "M8[ns]"),
    ...     lead_times=np.array([5, 10], "m8[m]"), members=None, attrs={"nowcast_model": "none"}, history="made up")
    >>> fc.dims, fc.valid_time.dims
    (('init_time', 'lead_time', 'y', 'x'), ('init_time', 'lead_time'))
    """
    array = field.array
    dims: list[Hashable] = [
        *field.extra,
        "init_time",
        *(["member"] if members is not None else []),
        "lead_time",
        field.y,
        field.x,
    ]
    coords: dict[Hashable, xr.Variable] = _time_coordinates(init_times, lead_times)
    if members is not None:
        coords["member"] = _member_coordinate(members)
    chunks = _chunks_of(values, dims)
    coords |= {
        name: _stored_anew(coordinate.variable, chunks)
        for name, coordinate in array.coords.items()
        if set(coordinate.dims) <= {*field.extra, field.y, field.x} and name not in (field.time, *coords)
    }
    result: xr.DataArray = xr.DataArray(values, dims=dims, coords=coords).rename(array.name)  # Dask's name is no name
    # Packing fits the observations' range; a forecast is stored as the float32 that it is.
    result.attrs = _attributes(field)
    result.encoding = _forecast_encoding(array, result.shape)
    made = f"forecast by {attrs.get('nowcast_package', 'xnowcast')}, {attrs.get('nowcast_model')}"
    return _signed(result, field, source, attrs, history, made)


def label_frames(
    values: Any,
    field: Field,
    source: T_Xarray,
    *,
    members: Sequence[int] | None,
    before: Hashable | None,
    attrs: dict[str, Any],
    history: str,
    done: str = "sharpened",
    grid: xr.Dataset | None = None,
    leading: Sequence[Hashable] | None = None,
) -> T_Xarray:
    """Dress computed frames as the field that they were made from.

    ``values``: ``(*leading, y, x)``, in the user's units and order of rows and columns. ``field``: the field that was
    sharpened or refined. ``source``: what the user gave; the same kind comes back. ``members``: numbers of members that
    were made of each frame; None where there are none. ``before``: the dim before which the new members go; None puts
    them last of the leading dims. ``attrs``: what made it: model, options, seed. ``history``: what was done, without
    the time. ``done``: the same in a word, for title and source. ``grid``: coordinates of another grid, which replace
    those along y and x. ``leading``: the leading dims of ``values``; by default the field's, and then the new member's.
    Returned: with the user's dims in the user's order, coordinates and attributes.

    >>> from xnowcast.fields.cf import find_field
    >>> rain = xr.DataArray(np.ones((2, 8, 8)), dims=("lead_time", "y", "x"), name="rr", attrs={"units": "mm h-1"})
    >>> label_frames(np.ones((2, 5, 8, 8)), find_field(rain), rain, members=range(5), before="lead_time",
    ...     attrs={"nowcast_model": "none"}, history="made up").dims
    ('member', 'lead_time', 'y', 'x')
    """
    array = field.array
    new: list[Hashable] = ["member"] if members is not None else []
    dims = [*(leading if leading is not None else (*field.leading, *new)), field.y, field.x]
    order = list(array.dims)
    place = order.index(before) if before in order else min(order.index(field.y), order.index(field.x))
    order[place:place] = new
    chunks = _chunks_of(values, dims)
    replaced = set() if grid is None else {field.y, field.x}
    coords: dict[Hashable, xr.Variable] = {
        n: _stored_anew(c.variable, chunks) for n, c in array.coords.items() if not replaced & set(c.dims)
    }
    if grid is not None:
        coords |= {str(n): v for n, v in grid.variables.items()}
        source = _without(source, (field.y, field.x))
    if members is not None:
        coords["member"] = _member_coordinate(members)
    result = xr.DataArray(values, dims=dims).rename(array.name).transpose(*order)
    result = result.assign_coords({n: v for n, v in coords.items() if set(v.dims) <= set(dims)})
    result.attrs = _attributes(field)
    if grid is not None:
        result.attrs.pop("cell_measures", None)
    result.encoding = _forecast_encoding(array, result.shape if order == dims else ())
    made = f"{done} by {attrs.get('nowcast_package', 'xnowcast')}, {attrs.get('nowcast_model')}"
    signed = _signed(result, replace(field, time=None), source, attrs, history, made)  # frames keep their times
    bounds = {n: v for n, v in coords.items() if n not in result.coords}
    return signed.assign(bounds) if isinstance(signed, xr.Dataset) else signed


def _attributes(field: Field) -> dict[Hashable, Any]:
    """Attributes of the field that are true of what was made from it, with its interval and its Z-R relation."""
    kept = {k: v for k, v in field.array.attrs.items() if k not in _OF_OBSERVATIONS} | accutime_of(field)
    if isinstance(field.conversion, units.ZR):
        kept |= units.zr_attributes((field.conversion.a, field.conversion.b))
    return kept


def _without(source: T_Xarray, dims: Sequence[Hashable]) -> T_Xarray:
    """A Dataset without the variables along some dims; a DataArray as it is."""
    if isinstance(source, xr.DataArray):
        return source
    return source.drop_vars([n for n, v in source.variables.items() if set(dims) & set(v.dims)])


def _member_coordinate(members: Sequence[int]) -> xr.Variable:
    numbers = np.asarray(members, dtype="int32")
    return xr.Variable("member", numbers, {"standard_name": "realization", "units": "1"})


def _forecast_encoding(array: xr.DataArray, shape: Sequence[int]) -> dict[Hashable, Any]:
    """For NetCDF: compressed, and a map per chunk, which suits writing batch by batch."""
    kept: dict[Hashable, Any] = {k: v for k, v in array.encoding.items() if k == "grid_mapping"}
    maps = {"chunksizes": (*(1 for _ in shape[:-2]), *shape[-2:])} if shape else {}
    return kept | {"zlib": True, "complevel": 1} | maps


def _signed(
    result: xr.DataArray, field: Field, source: T_Xarray, attrs: dict[str, Any], history: str, made: str
) -> T_Xarray:
    """The same kind of object as the source, which says what was done to it and by what."""
    if isinstance(source, xr.DataArray):
        result.attrs |= attrs | {"history": dated(history, field.array.attrs.get("history"))}
        return result
    source = without_time(source)
    dataset = result.to_dataset(name=field.name)
    companions = _companions(field, source)
    chunks = dict(zip(result.dims, result.chunks, strict=True)) if result.chunks is not None else {}
    dataset = dataset.assign({n: _stored_anew(source[n].variable, chunks) for n in companions if n not in dataset})
    dataset = dataset.set_coords([n for n in companions if n in source.coords])
    dataset.attrs = dict(source.attrs) | attrs | {"Conventions": CONVENTIONS}
    dataset.attrs["title"] = f"{made}: {source.attrs['title']}" if "title" in source.attrs else made
    dataset.attrs["source"] = f"{made}; from {source.attrs['source']}" if "source" in source.attrs else made
    dataset.attrs["history"] = dated(history, source.attrs.get("history"))
    return dataset


def _chunks_of(values: Any, dims: Sequence[Hashable]) -> dict[Hashable, tuple[int, ...]]:
    """Chunks of a lazy array by dim; none of an array in memory."""
    return dict(zip(dims, values.chunks, strict=True)) if hasattr(values, "chunks") else {}


def _stored_anew(variable: xr.Variable, chunks: dict[Hashable, tuple[int, ...]]) -> xr.Variable:
    """A copy chunked like the forecast that does not remember how the file it came from was compressed."""
    copy = variable.copy(deep=False)
    if copy.chunks is not None:
        copy = copy.chunk({dim: chunks[dim] for dim in copy.dims if dim in chunks})
    copy.encoding = {k: v for k, v in variable.encoding.items() if k in _MEANING_OF_ENCODING}
    fill = copy.encoding.get("_FillValue")
    if copy.dtype.kind == "f" and (fill is None or np.isnan(fill)):
        copy.encoding["_FillValue"] = None  # xarray would write NaN, which CF forbids on coordinates and nobody needs
    return copy


def _time_coordinates(init_times: np.ndarray, lead_times: np.ndarray) -> dict[Hashable, xr.Variable]:
    times = forecast_times(init_times, lead_times, "newest input")
    whole_minutes = not np.any(times["lead_time"].values % np.timedelta64(60, "s"))
    for name, variable in times.items():
        unit = "seconds since 1970-01-01"
        if name == "lead_time":
            unit = "minutes" if whole_minutes else "seconds"
        variable.encoding = {"units": unit, "dtype": "int64"}
    return times


def _companions(field: Field, source: xr.Dataset) -> list[str]:
    """Variables that the field's attributes name (grid mapping, cell areas) and bounds of its own coordinates."""
    array = field.array
    named = [reference(array, a) for a in ("grid_mapping", "cell_measures")]
    named += [reference(c, "bounds") for n, c in array.coords.items() if n != field.time]
    # "crs: x y crs2: lat lon" is CF's long form of grid_mapping; "area: cell_area" is that of cell_measures.
    names = [word.rstrip(":") for word in " ".join(map(str, named)).split()]
    kept = {*array.dims} - {field.time}
    return [
        n
        for n in dict.fromkeys(names)
        if n in source.variables
        and n not in source.dims
        and field.time not in source[n].dims
        and len(set(source[n].dims) - kept) <= 1  # the two ends of a cell
    ]


def dated(line: str, old: Any = None) -> str:
    """A line of history with the time before it, and the older lines after it.

    >>> dated("coarsened", "made").splitlines()[1]
    'made'
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{now}: {line}\n{old}" if old else f"{now}: {line}"


def labels_of(array: xr.DataArray, dim: Hashable) -> list[Any]:
    """The labels of a dim, which tell the noise of its cells apart; positions where it has none."""
    return array[dim].values.tolist() if dim in array.coords else list(range(array.sizes[dim]))


def label_numbers(coordinate: xr.DataArray) -> np.ndarray:
    """Labels as whole numbers, by which noise is drawn: times and durations in nanoseconds, whole numbers as they are.

    Other numbers, such as 0.25 h, have those of their binary digits.

    Returned: int64.

    >>> label_numbers(xr.DataArray(np.array([5], "m8[s]"))).tolist()
    [5000000000]
    >>> quarters = label_numbers(xr.DataArray([0.25, 0.5, 2.0]))
    >>> len(set(quarters.tolist())), int(quarters[2])
    (3, 2)
    """
    values = coordinate.values
    if values.dtype.kind in "mM":
        return values.astype(f"{values.dtype.kind}8[ns]").astype("i8")
    if values.dtype.kind != "f":
        return values.astype("i8")
    exact = values.astype("f8")
    return np.where(exact == np.rint(exact), np.nan_to_num(exact), exact.view("i8")).astype("i8")


def frames_north_up(field: Field, **chunks: int) -> Any:
    """The field as a dask array ``(*leading, y, x)``, first row in the north; ``chunks`` cut what is not lazy yet."""
    array = north_up(field.array, field.y, field.x).transpose(*field.leading, field.y, field.x)
    return (array if array.chunks is not None else array.chunk(chunks)).data


def user_orientation(values: Any, field: Field) -> Any:
    """Rows and columns of ``(..., y, x)`` as the user has them, from north to south and west to east."""
    south_first, east_first = orientation(field.array, field.y, field.x)
    return values[..., :: -1 if south_first else 1, :: -1 if east_first else 1]
