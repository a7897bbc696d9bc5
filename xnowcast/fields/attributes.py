"""What attributes say: the axes of coordinates; the packing, missing values, valid range and Z-R relation of values."""

from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import cf_xarray
import numpy as np
import xarray as xr

from xnowcast.fields import units

# The one table of these names, for every verb and score: the CF standard name first, then what packages call them.
FORECAST_NAMES = {
    "init_time": (
        *("forecast_reference_time", "init_time", "reference_time", "init", "inittime", "initial_time"),
        *("initialization_time", "initialisation_time", "analysis_time", "base_time", "basetime", "run_time"),
    ),
    "member": (
        *("realization", "member", "members", "ensemble_member", "ens_number", "number", "ensemble", "ens"),
        *("ens_member", "member_id", "realisation", "sample"),
    ),
    "lead_time": ("forecast_period", "lead_time", "lead", "leadtime", "prediction_timedelta", "step", "forecast_time"),
}
TIME_NAMES = ("time", "valid_time", "t")

TIME = {"standard_name": "time", "long_name": "time", "axis": "T"}
LATITUDE = {"standard_name": "latitude", "units": "degrees_north"}
LONGITUDE = {"standard_name": "longitude", "units": "degrees_east"}

_TEXTS = ("units", "standard_name")
_PACKING = ("scale_factor", "add_offset")
_FILLS = ("_FillValue", "missing_value")


def metres_along(name: str) -> dict[str, str]:
    """Attributes of the coordinate y or x of a map plane."""
    words = {"standard_name": f"projection_{name}_coordinate", "long_name": f"{name} coordinate of projection"}
    return words | {"units": "m", "axis": name.upper()}


def equal_area(latitude: float, longitude: float) -> xr.Variable:
    """The grid mapping of Lambert's azimuthal equal area projection of the sphere about a place."""
    attrs = {
        "grid_mapping_name": "lambert_azimuthal_equal_area",
        "latitude_of_projection_origin": latitude,
        "longitude_of_projection_origin": longitude,
        "false_easting": 0.0,
        "false_northing": 0.0,
        "earth_radius": units.EARTH_RADIUS_M,
    }
    return xr.Variable((), np.int32(0), attrs)


def forecast_times(init_times: Any, lead_times: Any, origin: str = "start of the run") -> dict[Hashable, xr.Variable]:
    """Init, lead and valid times of forecasts as CF names them; ``origin`` says what an init time is the time of."""
    init, lead = np.asarray(init_times, "M8[ns]"), np.asarray(lead_times, "m8[ns]")
    names = {role: {"standard_name": FORECAST_NAMES[role][0]} for role in ("init_time", "lead_time")}
    valid = {"standard_name": "time", "long_name": "time that is forecast"}
    return {
        "init_time": xr.Variable("init_time", init, names["init_time"] | {"long_name": f"time of the {origin}"}),
        "lead_time": xr.Variable("lead_time", lead, names["lead_time"] | {"long_name": f"time since the {origin}"}),
        "valid_time": xr.Variable(("init_time", "lead_time"), init[:, None] + lead, valid),
    }


def name_of(array: xr.DataArray) -> str:
    """Name of a variable, for messages and output; "precipitation" where it has none.

    >>> name_of(xr.DataArray(0.0, name="rr")), name_of(xr.DataArray(0.0))
    ('rr', 'precipitation')
    """
    return str(array.name) if array.name is not None else "precipitation"


def reference(array: xr.DataArray | xr.Variable, key: str) -> str:
    """Names that an attribute gives of other variables (``bounds``, ``grid_mapping`` ...), decoded or not; "" if none.

    >>> reference(xr.DataArray(0.0, attrs={"grid_mapping": "crs"}), "grid_mapping")
    'crs'
    """
    return str(array.attrs.get(key, array.encoding.get(key, "")))


def coordinates_of(array: xr.Dataset | xr.DataArray, what: str) -> list[Hashable]:
    """Coordinates that CF attributes tell to be an axis or a kind of coordinate.

    >>> north = xr.DataArray(np.zeros(2), dims="row", coords={"row": ("row", [0.0, 1.0], {"axis": "Y"})})
    >>> coordinates_of(north, "Y"), coordinates_of(north, "X")
    (['row'], [])
    """
    texts = tuple(
        (name, tuple(sorted((str(k), v) for k, v in coordinate.attrs.items() if isinstance(v, str))))
        for name, coordinate in array.coords.variables.items()
    )
    return [*_cf_names(texts, repr(cf_xarray.options.OPTIONS["custom_criteria"])).get(what, [])]


@lru_cache(maxsize=256)  # of a few hundred bytes each; a forecast asks some twenty times about the same coordinates
def _cf_names(texts: tuple[tuple[Hashable, tuple[tuple[str, str], ...]], ...], criteria: str) -> dict[str, list[Any]]:
    """Axes and coordinates as cf_xarray knows them by their attributes.

    It is asked about coordinates without values: every time it would format the values that it is given into words.
    """
    names = xr.Dataset(coords={name: ((), 0, dict(attrs)) for name, attrs in texts}).cf
    return names.axes | names.coordinates


def with_plain_text(array: xr.DataArray) -> xr.DataArray:
    """The variable with units and standard names that are text, else ValueError; files may hold bytes, or in arrays.

    >>> with_plain_text(xr.DataArray(0.0, attrs={"units": np.array([b"mm h-1"])})).units
    'mm h-1'
    """
    for key in _TEXTS:
        if _is_no_text(array.attrs.get(key)):
            array = array.assign_attrs({key: _text(array.attrs[key], key, f"variable {name_of(array)!r}")})
        for name, coordinate in array.coords.items():
            if _is_no_text(coordinate.attrs.get(key)):
                text = _text(coordinate.attrs[key], key, f"coordinate {name!r}")
                array = array.assign_coords({name: array[name].assign_attrs({key: text})})
    return array


def _is_no_text(value: Any) -> bool:
    return value is not None and not isinstance(value, str)


def standard_name(array: xr.DataArray) -> str | None:
    """The standard name of a variable; None where it has none that is text.

    >>> standard_name(xr.DataArray(0.0, attrs={"standard_name": b"rainfall_rate"}))
    'rainfall_rate'
    """
    try:
        return _text(array.attrs.get("standard_name"), "standard_name", "")
    except ValueError:
        return None


def _text(value: Any, key: str, of: str) -> str:
    found = np.asarray(value)
    if value is None or found.size != 1 or found.dtype.kind not in "SUOfiu":
        raise ValueError(f"the attribute {key} of {of} is {value!r}; it must be text, such as 'mm h-1' for units")
    one = found.item()
    return one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)


def _numbers(array: xr.DataArray, key: str, count: int | None = 1) -> np.ndarray:
    """The numbers of an attribute, which may be written as text; so many of them, or any number."""
    found = np.atleast_1d(np.asarray(array.attrs[key])).ravel()
    try:
        found = found.astype("f8") if found.dtype.kind in "SU" else found
        good = found.dtype.kind in "fiu" and found.size > 0 and count in (None, found.size)
    except ValueError:
        good = False
    if not good:
        wanted = {None: "numbers", 1: "a number"}.get(count, f"{count} numbers")
        raise ValueError(
            f"the attribute {key} of variable {name_of(array)!r} is {array.attrs[key]!r}; it must be {wanted}: correct "
            "or delete it"
        )
    return found


def number(array: xr.DataArray, key: str) -> float | None:
    """The number of an attribute; None where there is none, or NaN.

    >>> number(xr.DataArray(0.0, attrs={"zr_a": "316"}), "zr_a"), number(xr.DataArray(0.0), "zr_a")
    (316.0, None)
    """
    found = float(_numbers(array, key)[0]) if array.attrs.get(key) is not None else np.nan
    return None if np.isnan(found) else found


def decoded(array: xr.DataArray) -> xr.DataArray:
    """A variable of real numbers (others are a ValueError); packed and masked ones that nobody decoded are, lazily.

    >>> packed = xr.DataArray(np.array([2, 255], "u1"), dims="x", attrs={"scale_factor": 0.5, "_FillValue": 255})
    >>> decoded(packed).values.tolist()
    [1.0, nan]
    """
    name = name_of(array)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"variable {name!r} holds {array.dtype}, not real numbers")
    packing = [key for key in (*_PACKING, *_FILLS) if key in array.attrs]
    if not packing:
        return array
    attrs = {key: value for key, value in array.attrs.items() if key not in packing}
    for key in packing:
        numbers = _numbers(array, key, None if key == "missing_value" else 1)
        if key in _PACKING and (not np.isfinite(numbers).all() or (key == "scale_factor" and numbers[0] == 0)):
            raise ValueError(
                f"the attribute {key} of variable {name!r} is {numbers[0]}, which packs nothing: correct it"
            )
        if key in _FILLS and "_Unsigned" not in attrs:
            # As stored, for equality is exact; what the dtype cannot hold stands nowhere.
            stored = numbers.astype(array.dtype)
            numbers = stored if array.dtype.kind == "f" else stored[stored == numbers]
        if numbers.size:
            attrs[key] = numbers[0] if numbers.size == 1 else numbers
    plain: xr.DataArray = array.copy(deep=False)
    plain.attrs = attrs
    return xr.decode_cf(plain.to_dataset(name=name), decode_times=False, decode_coords=False)[name].rename(array.name)


def declared(array: xr.DataArray) -> units.Declared:
    """What a variable's attributes say of its values: the valid range, and values that are missing.

    ``array``: decoded. By CF the valid range is in packed units where the values were packed and its type is theirs.
    ValueError if a valid range is no numbers, or empty.

    >>> stored = xr.DataArray(np.zeros(2, "i2"), dims="x", name="rr", attrs={
    ...     "scale_factor": 0.1, "valid_range": np.array([0, 3000], "i2")})
    >>> declared(decoded(stored)).high
    300.05
    """
    low, high = -np.inf, np.inf
    for key, side in (("valid_min", [0]), ("valid_max", [1]), ("valid_range", [0, 1])):
        if array.attrs.get(key) is None:
            continue
        numbers = _numbers(array, key, len(side))
        bounds = np.array([np.nan, np.nan])
        bounds[side] = numbers
        bounds = _unpacked(array, numbers.dtype, bounds)
        low, high = float(np.fmax(low, bounds[0])), float(np.fmin(high, bounds[1]))
    if low > high:
        raise ValueError(
            f"the valid range of variable {name_of(array)!r} is from {low:g} to {high:g}: correct or delete it"
        )
    return units.Declared(name_of(array), low, high, _missed_fills(array))


def _unpacked(array: xr.DataArray, written: np.dtype, bounds: np.ndarray) -> np.ndarray:
    """A valid range in the units of the decoded values; NaN where nothing can be known of it."""
    stored = np.dtype(array.encoding.get("dtype") or array.dtype)
    scale, offset = (array.encoding.get(key) for key in _PACKING)
    if scale is not None or offset is not None:
        if written != stored and not (written.kind in "iu" and stored.kind in "iu"):
            return bounds
        if array.encoding.get("_Unsigned") == "true" and stored.kind in "iu":
            bounds = np.where(bounds < 0, bounds + 256.0**stored.itemsize, bounds)
        scale = 1.0 if scale is None else float(scale)
        ends = bounds[:: 1 if scale > 0 else -1] * scale + (0.0 if offset is None else float(offset))
        return ends + np.array([-0.5, 0.5]) * abs(scale)  # half a step, for rounding
    if array.dtype.kind == "f" and written.kind in "iu" and written.itemsize < 8 and "dtype" not in array.encoding:
        return bounds * np.nan  # left over from packing that something has undone since
    return bounds.astype(array.dtype) if array.dtype.kind == "f" else bounds


def _missed_fills(array: xr.DataArray) -> tuple[float, ...]:
    """Missing values that were not found in the file because they are written in another precision."""
    if array.dtype.kind != "f" or any(array.encoding.get(key) is not None for key in _PACKING):
        return ()
    fills = [np.ravel(array.encoding[key]) for key in _FILLS if array.encoding.get(key) is not None]
    written = [float(v) for values in fills if values.dtype.kind in "fiu" for v in values]
    with np.errstate(over="ignore"):
        rounded = [(v, float(array.dtype.type(v))) for v in written]
    return tuple(sorted({here for there, here in rounded if np.isfinite(here) and here != there}))


def zr_of(values: Any, zr: units.Relation | None = None) -> tuple[float, float]:
    """The Z-R relation of some values: that asked for, else that of the attributes zr_a and zr_b, else the default.

    >>> zr_of(xr.DataArray(20.0, attrs={"zr_a": 300, "zr_b": 1.4})), zr_of(20.0)
    ((300.0, 1.4), (200.0, 1.6))
    """
    if zr is not None:
        return units.zr_relation(zr)
    relation = _stated_relation(values) if isinstance(values, xr.DataArray) else None
    return units.MARSHALL_PALMER if relation is None else relation


def no_echo_of(values: Any) -> float:
    """The reflectivity in dBZ that means no echo: the attribute zerovalue, else -32.

    >>> no_echo_of(xr.DataArray(20.0, attrs={"zerovalue": -10.0})), no_echo_of(20.0)
    (-10.0, -32.0)
    """
    no_echo = number(values, "zerovalue") if isinstance(values, xr.DataArray) else None
    return units.NO_ECHO_DBZ if no_echo is None or not np.isfinite(no_echo) else no_echo


def _stated_relation(array: xr.DataArray) -> tuple[float, float] | None:
    a, b = number(array, "zr_a"), number(array, "zr_b")
    return None if a is None or b is None else units.zr_relation((a, b))
