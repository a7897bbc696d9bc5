"""Further fields that a model reads: found by standard name and level, and brought to canonical units."""

import re
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from xnowcast.fields import cf, intervals, units
from xnowcast.fields.attributes import declared, decoded, with_plain_text

STANDARD_GRAVITY = 9.80665
"""m s-2, between geopotential and geopotential height."""

_RAIN_WORDS = ("precipitation", "rainfall", "snowfall", "equivalent_reflectivity")

# The first whose word the standard name has.
_CANONICAL = (
    ("tendency_of_air_pressure", "Pa s-1"),
    ("temperature", "K"),
    ("wind_from_direction", "degree"),
    ("wind_to_direction", "degree"),
    ("wind", "m s-1"),
    ("air_velocity", "m s-1"),
    ("geopotential_height", "m"),
    ("geopotential", "m2 s-2"),
    ("altitude", "m"),
    ("air_pressure", "Pa"),
    ("relative_humidity", "1"),
    ("specific_humidity", "1"),
    ("mixing_ratio", "1"),
    ("area_fraction", "1"),
)

# What files of forecast centres write for what no unit is written for.
_UNIT_SPELLINGS = {"(0 - 1)": "1", "(0-1)": "1", "0-1": "1", "~": "1", "-": "1"}

# Fields of other names are read in the first that fits, else as they are stored.
_OTHERWISE = ("K", "m s-1", "Pa", "m", "1")

_STORED_AS: dict[str, tuple[str, ...]] = {
    "geopotential_height": ("geopotential",),
    "rainfall_rate": tuple(name for name in cf.STANDARD_NAMES if name != "rainfall_rate"),
}
"""Names under which a field may be stored besides its own; it is converted."""

_VECTORS = re.compile(r"(^|_)(east|north)ward(_|$)|^[xy]_|_[xy]_|^[uv]_component")


@dataclass(frozen=True)
class Level:
    """A level that a channel's name ends in, in Pa or m."""

    value: float
    kind: Literal["pressure", "height"]

    def __str__(self) -> str:
        return f"{self.value / 100:g} hPa" if self.kind == "pressure" else f"{self.value:g} m"


@dataclass(frozen=True)
class Affine:
    """Canonical values: ``scale`` times the stored ones plus ``offset``, in float32; NaN for what is declared missing.

    >>> Affine(1.0, 273.15)(np.array([0.0, np.nan])).round(2)
    array([273.15,    nan], dtype=float32)
    """

    scale: float = 1.0
    offset: float = 0.0
    declared: units.Declared = field(default=units.Declared(), repr=False, compare=False)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        values = self.declared.masked(np.asarray(values))
        if self.scale == 1.0 and self.offset == 0.0:
            return np.asarray(values, dtype=np.float32)
        return (np.asarray(values, dtype=np.float64) * self.scale + self.offset).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Channel:
    """A further field as the data have it, and what makes its values canonical.

    ``name``: what was asked for. ``array``: at the level, in the stored units; lazy where the data are. ``conversion``:
    from stored to canonical values, numpy float32. ``units``: canonical ones.
    """

    name: str
    array: xr.DataArray
    conversion: Any
    units: str

    @property
    def is_vector_component(self) -> bool:
        """Whether turning the grid would have to turn the values too, as those of an eastward wind."""
        return is_vector_component(self.name) or is_vector_component(str(self.array.attrs.get("standard_name", "")))

    def converted(self) -> xr.DataArray:
        """The canonical values, float32, lazily where the data are lazy or in a file."""
        array = self.array
        if array.chunks is None and not isinstance(array.variable._data, np.ndarray):
            array = array.chunk(dict.fromkeys(array.dims[:-2], 1))  # arithmetic would read the whole file
        result = xr.apply_ufunc(
            self.conversion.__call__, array, dask="parallelized", output_dtypes=[np.float32], keep_attrs=True
        )
        result.attrs = {k: v for k, v in array.attrs.items() if not k.startswith("valid_")} | {"units": self.units}
        return result


# ---------------------------------------------------------------- names


def parse_channel(name: str) -> tuple[str, Level | None]:
    """The standard name and the level of a channel's name, which may end in ``" at "`` and a level with its unit.

    >>> parse_channel("air_temperature at 850 hPa")
    ('air_temperature', Level(value=85000.0, kind='pressure'))
    >>> parse_channel("rainfall_rate")
    ('rainfall_rate', None)
    """
    standard, at, text = str(name).partition(" at ")
    if not at:
        return str(name), None
    found = re.fullmatch(r"\s*([-+.\deE]+)\s*(\S+)\s*", text)
    level = _level(found[1], found[2]) if found else None
    if level is None:
        raise ValueError(
            f"channel {name!r} ends in the level {text!r}; write it like 'air_temperature at 850 hPa' or "
            "'eastward_wind at 10 m'"
        )
    return standard, level


def is_vector_component(name: str) -> bool:
    """Whether a channel is one component of a vector along an axis of the grid or of the Earth.

    >>> [is_vector_component(name) for name in ("eastward_wind at 10 m", "x_wind", "wind_speed", "rainfall_rate")]
    [True, True, False, False]
    """
    return bool(_VECTORS.search(name.partition(" at ")[0]))


def _level(number: str, unit: str) -> Level | None:
    try:
        value = float(number)
    except ValueError:
        return None
    for kind, canonical in (("pressure", "Pa"), ("height", "m")):
        affine = units.affine(unit, canonical)
        if affine is not None:
            return Level(round(value * affine[0], 6), kind)  # type: ignore[arg-type]
    return None


# ---------------------------------------------------------------- finding


def find_channel(
    data: xr.Dataset, name: str, *, variable: Hashable | None = None, exclude: Container[Hashable] = ()
) -> xr.DataArray:
    """One further field in canonical units, lazily.

    Parameters
    ----------
    data : xarray.Dataset
    name : str
        A CF standard name, with a level where there are several: ``"air_temperature at 850 hPa"``.
    variable : hashable, optional
        The variable that it is, where its attributes do not tell.
    exclude : container of hashable
        Variables that it is not, such as the rain that a model is trained to give.

    Returns
    -------
    xarray.DataArray
        float32 in K, m s-1, Pa, m, mm h-1 (rain, whatever it is stored as), humidities and fractions as shares of 1,
        other quantities as they are stored. The level is selected and its dim or coordinate dropped, other dims are as
        they were. NaN stays NaN.

    Raises
    ------
    ValueError
        If there is no such field, more than one, or its units are missing or those of something else.

    Examples
    --------
    >>> t = xr.DataArray(np.full((2, 8, 8), 10.0), dims=("level", "y", "x"), name="t",
    ...     coords={"level": ("level", [500, 850], {"units": "hPa"})},
    ...     attrs={"standard_name": "air_temperature", "units": "degC"})
    >>> at_850 = find_channel(t.to_dataset(), "air_temperature at 850 hPa")
    >>> at_850.dims, round(float(at_850[0, 0]), 2), at_850.units
    (('y', 'x'), 283.15, 'K')
    """
    return find_channels(data, (name,), {} if variable is None else {name: variable}, exclude)[0]


def find_channels(
    data: xr.Dataset,
    names: Sequence[str],
    mapping: Mapping[str, Hashable] | None = None,
    exclude: Container[Hashable] = (),
) -> tuple[xr.DataArray, ...]:
    """Several further fields in canonical units, lazily.

    Parameters
    ----------
    data : xarray.Dataset
    names : sequence of str
        As in `find_channel`.
    mapping : mapping, optional
        Variables of those that their attributes do not tell: ``{"air_temperature at 850 hPa": "T850"}``.
    exclude : container of hashable
        As in `find_channel`.

    Returns
    -------
    tuple of xarray.DataArray

    Raises
    ------
    ValueError
        As `find_channel`; all that is wrong is named at once, and what the dataset has.

    Examples
    --------
    >>> find_channels(xr.Dataset({"t": ("y", [1.0])}), ["air_temperature at 850 hPa", "x_wind"])
    Traceback (most recent call last):
    ValueError: there is no channel 'air_temperature at 850 hPa': no variable has this standard_name; 'x_wind': no \
variable has this standard_name. The data have 't'
    """
    return tuple(channel.converted() for channel in locate_channels(data, names, mapping, exclude))


def locate_channels(
    data: xr.Dataset,
    names: Sequence[str],
    mapping: Mapping[str, Hashable] | None = None,
    exclude: Container[Hashable] = (),
) -> tuple[Channel, ...]:
    """As `find_channels`, before the conversion: for who reads parts of a file and converts those.

    ``data, names, mapping, exclude``: as in `find_channels`. ValueError as `find_channels`.
    """
    mapping = mapping or {}
    if unknown := [name for name in mapping if name not in names]:
        raise ValueError(
            f"the mapping names {_listed(unknown)}, which is no channel of the model; its channels are {_listed(names)}"
        )
    found, wrong = [], []
    for name in names:
        try:
            found.append(_locate(data, name, mapping.get(name), exclude))
        except ValueError as error:
            wrong.append(f"{name!r}: {error}")
    if wrong:
        raise ValueError(f"there is no channel {'; '.join(wrong)}. The data have {_offered(data, exclude)}")
    return tuple(found)


def _locate(data: xr.Dataset, name: str, variable: Hashable | None, exclude: Container[Hashable]) -> Channel:
    standard, level = parse_channel(name)
    if variable is not None:
        if variable not in data:
            raise ValueError(f"there is no variable {variable!r}")
        return _channel(name, standard, _at_level(data[variable], level, named=True), data)
    if level is not None and name in data.data_vars and name not in exclude:  # renamed to what it is
        return _channel(name, standard, _at_level(data[name], None), data)
    for spelling in (standard, *_STORED_AS.get(standard, ())):
        candidates = [v for v in data.data_vars if v not in exclude and _is(data[v], spelling)]
        if candidates:
            return _channel(name, standard, _chosen(data, candidates, level), data)
    if standard in data.data_vars and standard not in exclude:  # a variable's own name; its attribute tells what it is
        standard_name = data[standard].attrs.get("standard_name", standard)
        return _channel(name, standard_name, _at_level(data[standard], level), data)
    raise ValueError("no variable has this standard_name")


def _is(array: xr.DataArray, standard: str) -> bool:
    return array.attrs.get("standard_name") == standard


def _chosen(data: xr.Dataset, candidates: Sequence[Hashable], level: Level | None) -> xr.DataArray:
    """The one of some variables of one standard name that has the level."""
    fitting, wrong = [], []
    for candidate in candidates:
        try:
            fitting.append(_at_level(data[candidate], level))
        except ValueError as error:
            wrong.append(str(error))
    if not fitting:
        raise ValueError(", ".join(wrong))
    if len(fitting) > 1:
        several = ", ".join(f"{array.name!r}{_levels_in_words(data[array.name])}" for array in fitting)
        raise ValueError(f"{several} are all of this name: say which by its level, or map the name to one of them")
    return fitting[0]


def _at_level(array: xr.DataArray, level: Level | None, *, named: bool = False) -> xr.DataArray:
    """A variable at a level, without the coordinate of levels. One that is told by its name may have none."""
    verticals = dict(_verticals(array))
    if level is None:
        long = [name for name, (_, values) in verticals.items() if array[name].ndim and len(values) > 1]
        if long:
            raise ValueError(f"variable {array.name!r} has levels: name one, such as {_example(array)!r}")
        return array.isel({n: 0 for n in verticals if array[n].ndim}).drop_vars(list(verticals))
    for name, (kind, values) in verticals.items():
        at = np.flatnonzero(np.isclose(values, level.value, rtol=1e-4, atol=1e-6))
        if kind == level.kind and len(at):
            chosen = array.isel({array[name].dims[0]: int(at[0])}) if array[name].ndim else array
            return chosen.drop_vars([name])
    if named and not verticals:
        return array
    raise ValueError(f"variable {array.name!r} {f'lies{_levels_in_words(array)}' if verticals else 'has no levels'}")


def _example(array: xr.DataArray) -> str:
    kind, values = next(v for n, v in _verticals(array) if array[n].ndim)
    return f"{array.attrs.get('standard_name', array.name)} at {Level(float(values[0]), kind)}"


def _verticals(array: xr.DataArray) -> Iterator[tuple[Hashable, tuple[Literal["pressure", "height"], np.ndarray]]]:
    """Coordinates of levels, dims of their own or scalar, with their values in Pa or m."""
    for name, coordinate in array.coords.items():
        if coordinate.ndim > 1 or coordinate.dtype.kind not in "fiu" or (coordinate.ndim and name not in array.dims):
            continue
        lower, standard_name = str(name).lower(), str(coordinate.attrs.get("standard_name", ""))
        upright = (
            standard_name in ("height", "altitude") or lower.startswith("height") or coordinate.attrs.get("axis") == "Z"
        )
        unit = coordinate.attrs.get("units", "hPa" if lower.endswith("inhpa") else None)
        for kind, canonical in (("pressure", "Pa"), ("height", "m")):
            affine = units.affine(_UNIT_SPELLINGS.get(str(unit), unit), canonical)
            if affine is not None and (kind == "pressure" or upright):
                values = np.atleast_1d(coordinate.values).astype("f8") * affine[0]
                yield name, (kind, values)  # type: ignore[misc]


def _levels_in_words(array: xr.DataArray) -> str:
    levels = [", ".join(str(Level(float(v), kind)) for v in values) for _, (kind, values) in _verticals(array)]
    return f" at {'; '.join(levels)}" if levels else ""


def _offered(data: xr.Dataset, exclude: Container[Hashable]) -> str:
    fields = [data[v] for v in data.data_vars if v not in exclude and data[v].ndim]
    named = [(f"{a.attrs['standard_name']} as " if "standard_name" in a.attrs else "", a) for a in fields]
    return ", ".join(f"{standard}{a.name!r}{_levels_in_words(a)}" for standard, a in named) or "no further fields"


# ---------------------------------------------------------------- units


def _channel(name: str, standard: str, array: xr.DataArray, data: xr.Dataset) -> Channel:
    array = decoded(with_plain_text(array))
    stored = array.attrs.get("standard_name", standard)
    if any(word in text for word in _RAIN_WORDS for text in (standard, stored)):
        field = cf.find_field(intervals.with_bounds(array, data), array.name)
        return Channel(name, array, field.conversion, "mm h-1")
    conversion, unit = canonical_units(array, standard)
    return Channel(name, array, replace(conversion, declared=declared(array)), unit)


def canonical_units(array: xr.DataArray, standard: str) -> tuple[Affine, str]:
    """What makes a field's values canonical, and their units.

    ``standard``: standard name. Returned: without units, or with units that are unknown, a field of a name of no known
    units is left as it is. ValueError if the name has known units, and the field none or those of something else.

    >>> canonical_units(xr.DataArray(50.0, attrs={"units": "%"}), "relative_humidity")
    (Affine(scale=0.01, offset=0.0), '1')
    >>> canonical_units(xr.DataArray(5.0, attrs={"units": "km"}), "atmosphere_boundary_layer_thickness")
    (Affine(scale=1000.0, offset=0.0), 'm')
    """
    stored = array.attrs.get("units")
    spelled = _UNIT_SPELLINGS.get(str(stored).strip(), stored)
    wanted = next((unit for word, unit in _CANONICAL if word in standard), None)
    if standard == "geopotential_height" and (potential := units.affine(spelled, "m2 s-2")):
        return Affine(potential[0] / STANDARD_GRAVITY), "m"
    for unit in (wanted,) if wanted else _OTHERWISE:
        if affine := units.affine(spelled, unit):
            return Affine(*affine), unit
    if wanted is None:
        return Affine(), "1" if stored is None else str(stored)
    has = f"has units {str(stored)!r}" if stored is not None else "has no units"
    raise ValueError(f"variable {array.name!r} {has}, and {standard} is read in {wanted}: set its attribute units")


def _listed(names: Sequence[Hashable]) -> str:
    return ", ".join(map(repr, names)) or "none"
