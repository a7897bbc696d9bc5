"""Several files or stores as one dataset along time: what differs between them is converted or refused.

Only metadata and coordinates are read. Every file of a pattern, and every entry of a list, goes through here.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr

from xnowcast.data.netcdf import UnreadableInput, in_own_chunks
from xnowcast.fields import cf, intervals, units, windows
from xnowcast.fields.attributes import FORECAST_NAMES, TIME_NAMES, declared, reference
from xnowcast.terminal import warn

OF_A_CELL = 0.01
"""Coordinates that differ by less than this share of a cell tell the same grid."""
_PROJECTION_TOLERANCE = 1e-6
_OF_NUMBERS = ("dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units", "calendar")
_OF_ONE_FILE = ("source", "original_shape", "preferred_chunks", "chunksizes", "chunks", "shards", "contiguous")
_TEXTS_OF_GRIDS = ("grid_mapping_name", "crs_wkt", "spatial_ref")
_OF_REFLECTIVITY = ("zr_a", "zr_b", "zerovalue")
_VALID = ("valid_min", "valid_max", "valid_range")
_DECLARED = (*_VALID, "_FillValue", "missing_value", "scale_factor", "add_offset")


@dataclass(frozen=True, eq=False)
class Part:
    """One of the files or stores.

    ``name``: for messages. ``dataset``: lazy; None if the file cannot be read. ``unreadable``: why it cannot.
    """

    name: str
    dataset: xr.Dataset | None
    unreadable: str = ""


def join(parts: Sequence[Part]) -> xr.Dataset:
    """One dataset along time out of several.

    ``parts``: in any order of time, at least one of them readable. A part that is not stands for the frames that are
    missing between its neighbours in this sequence, and reading these frames raises an `UnreadableInput`. Returned:
    with Dask arrays. What does not depend on time, and the attributes, are the first part's. ValueError if a part has
    no time, times are there twice, or something that all must share differs: grid and projection, kind and meaning of a
    precipitation field, the interval of its sums. The message names the file.

    >>> times = np.datetime64("2024-06-01", "ns") + np.arange(4) * np.timedelta64(5, "m")
    >>> rain = xr.Dataset({"rain": (("time", "y", "x"), np.ones((4, 2, 2)), {"units": "mm h-1"})}, {"time": times})
    >>> late = rain.isel(time=slice(2, 4)) / 3600
    >>> late.rain.attrs["units"] = "kg m-2 s-1"
    >>> both = join([Part("late.nc", late), Part("early.nc", rain.isel(time=slice(0, 2)))])
    >>> both.rain.units, round(float(both.rain.max() * 3600), 6), dict(both.sizes)
    ('kg m-2 s-1', 1.0, {'time': 4, 'y': 2, 'x': 2})
    """
    readable = [part for part in parts if part.dataset is not None]
    if not readable:
        raise ValueError(parts[0].unreadable)
    if len(parts) == 1:
        return in_own_chunks(readable[0].dataset)  # type: ignore[arg-type]
    series = [one for one in map(_series, readable) if one.times.size]
    if not series:
        raise ValueError(f"{readable[0].name} holds no time at all, nor does any file beside it")
    names = _shared_names(series)
    fitted = [_fitted(series[0], one, names) for one in series]
    shared = _without_unlike(names, fitted)
    lacking = _lacking(parts, fitted)
    return _Joined(fitted[0], sorted([*fitted, *lacking], key=lambda s: s.times[0]), shared).dataset()


# ---------------------------------------------------------------- the frames of one part


@dataclass(frozen=True, eq=False)
class _Series:
    """The frames of one part.

    ``dataset``: None of frames that cannot be read. ``dim``: the time, a dim or a scalar. ``times``: datetime64[ns].
    ``fits``: by variable, how it becomes like that of the first part; without those that cannot. ``unlike``: by
    variable, why it cannot. ``reason``: why they cannot be read.
    """

    name: str
    dataset: xr.Dataset | None
    dim: Hashable
    times: np.ndarray
    fits: "dict[Hashable, _Fit]" = field(default_factory=dict)
    unlike: dict[Hashable, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def variables(self) -> dict[Hashable, xr.Variable]:
        return {} if self.dataset is None else dict(self.dataset.variables)

    @property
    def is_moment(self) -> bool:
        """Whether it is a single frame whose time is a scalar."""
        return self.dataset is not None and self.dim not in self.dataset.dims


def _series(part: Part) -> _Series:
    dataset = part.dataset
    assert dataset is not None
    dim = _time_name(dataset)
    if dim is None:
        raise ValueError(
            f"{part.name} has no time, neither as a dim nor as a scalar: give it one with "
            "ds.expand_dims(time=[np.datetime64('2024-06-01T12:00', 'ns')])"
        )
    try:
        times = windows.real_times(dataset[dim]) if dataset[dim].size else np.zeros(0, "M8[ns]")
    except ValueError as error:
        raise ValueError(f"{part.name}: {error}") from None
    return _Series(part.name, dataset, dim, np.atleast_1d(times))


def _time_name(dataset: xr.Dataset) -> Hashable | None:
    """The dim of times, those of runs before others, else the scalar time."""
    dated = [n for n, v in dataset.variables.items() if _holds_times(v)]
    dims = [n for n in dated if n in dataset.dims]
    runs = [n for n in dims if _is_of_runs(dataset, n)]
    scalars = [n for n in dated if dataset[n].ndim == 0]
    of_time = [n for n in scalars if _standard_name(dataset, n) == "time" or str(n).lower() in TIME_NAMES]
    of_runs = [n for n in scalars if _is_of_runs(dataset, n)]
    return next(iter([*runs, *dims, *of_time, *of_runs]), None)


def _is_of_runs(dataset: xr.Dataset, name: Hashable) -> bool:
    names = FORECAST_NAMES["init_time"]
    return name in names or _standard_name(dataset, name) == names[0]


def _standard_name(dataset: xr.Dataset, name: Hashable) -> Any:
    return dataset.variables[name].attrs.get("standard_name")


def _holds_times(variable: xr.Variable) -> bool:
    if variable.dtype != object:
        return variable.dtype.kind == "M"
    return variable.ndim <= 1 and variable.size > 0 and hasattr(variable.values.flat[0], "isoformat")


def _shared_names(series: list[_Series]) -> list[Hashable]:
    """Variables with a frame for each time; one of them that is not in all parts is an error, or left out."""
    own = [_framed(one, series) for one in series]
    everywhere = [name for name in own[0] if all(name in names for names in own)]
    anywhere = list(dict.fromkeys(name for names in own for name in names))
    for name in [name for name in anywhere if name not in everywhere]:
        where = next(one for one, names in zip(series, own, strict=True) if name in names)
        lacking = next(one for one, names in zip(series, own, strict=True) if name not in names)
        if _is_rain(where.variables[name]):
            raise ValueError(
                f"{lacking.name} lacks the variable {name!r}, which {where.name} has: open them on their own, or give "
                "it the same name everywhere"
            )
        warn(f"the variable {name!r} is left out: {lacking.name} lacks it")
    if not everywhere:
        raise ValueError(f"{series[0].name} and {series[-1].name} have no variable with times in common")
    return everywhere


def _framed(one: _Series, series: list[_Series]) -> list[Hashable]:
    """Names of the variables of a part that have a frame for each time, but for the times themselves."""
    if not one.is_moment:
        return [n for n, v in one.variables.items() if one.dim in v.dims and n != one.dim]
    with_dim = {n for s in series if not s.is_moment for n, v in s.variables.items() if s.dim in v.dims}
    if with_dim:
        return [n for n in one.variables if n in with_dim and n != one.dim]
    dataset = one.dataset
    assert dataset is not None
    bounds = {n: reference(v, "bounds") for n, v in dataset.variables.items() if n != one.dim}
    others = {*bounds.values(), *(reference(v, "cell_measures") for v in dataset.variables.values())}
    own = [n for n, v in dataset.data_vars.items() if v.ndim > 1 and n not in others]
    return [*own, *(n for n in [reference(dataset.variables[one.dim], "bounds")] if n in dataset.variables)]


def _is_rain(variable: xr.Variable) -> bool:
    """Whether it is precipitation or reflectivity, by its standard name or its units."""
    return variable.attrs.get("standard_name") in cf.STANDARD_NAMES or _is_of_rain(str(variable.attrs.get("units", "")))


@lru_cache(maxsize=256)
def _is_of_rain(unit: str) -> bool:
    is_rate = any(units.affine(unit, known) is not None for known in ("mm h-1", "kg m-2 s-1"))
    return is_rate or units.is_reflectivity(unit) or units.is_amount(unit)


# ---------------------------------------------------------------- like the first


@dataclass(frozen=True)
class _Fit:
    """How a variable of a part becomes like that of the first: its dims, its rows and columns, its units."""

    dims: tuple[Hashable, ...]
    time: Hashable
    reversed: tuple[Hashable, ...] = ()
    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, variable: xr.Variable) -> Any:
        """The values, in memory or lazily as those of the variable."""
        if self.time not in variable.dims:
            variable = variable.set_dims([self.time, *variable.dims])
        flipped = {dim: slice(None, None, -1) for dim in self.reversed if dim in variable.dims}
        values = variable.isel(flipped).transpose(*self.dims).data
        return values if (self.scale, self.offset) == (1.0, 0.0) else values * self.scale + self.offset

    def dtype(self, stored: np.dtype) -> np.dtype:
        """That of the values, out of that of the variable."""
        return self(xr.Variable(self.dims, np.zeros([1] * len(self.dims), stored))).dtype


def _fitted(first: _Series, one: _Series, names: list[Hashable]) -> _Series:
    if one.dim != first.dim:
        raise ValueError(
            f"{one.name} has its times in {one.dim!r}, and {first.name} in {first.dim!r}: rename one of them"
        )
    reversed_dims = _same_grid(first, one, names)
    fits: dict[Hashable, _Fit] = {}
    unlike: dict[Hashable, str] = {}
    for name in names:
        dims = first.variables[name].dims
        dims = dims if first.dim in dims else (first.dim, *dims)
        if {*one.variables[name].dims, first.dim} != set(dims):
            raise ValueError(
                f"{name!r} of {one.name} has the dims {one.variables[name].dims}, and of {first.name} "
                f"{first.variables[name].dims}: open them on their own"
            )
        try:
            scale, offset = _same_meaning(first, one, name)
        except _Unlike as error:
            if _is_rain(first.variables[name]) or _is_rain(one.variables[name]):
                raise ValueError(str(error)) from None
            unlike[name] = str(error)
            continue
        fits[name] = _Fit(dims, first.dim, reversed_dims, scale, offset)
    return replace(one, fits=fits, unlike=unlike)


def _without_unlike(names: list[Hashable], fitted: list[_Series]) -> list[Hashable]:
    """The variables that all parts agree about; who wants another is told why it is not there."""
    reasons = {name: why for one in fitted for name, why in one.unlike.items()}
    for name, why in reasons.items():
        warn(f"the variable {name!r} is left out: {why}")
    return [name for name in names if name not in reasons]


# ---- the grid


def _same_grid(first: _Series, one: _Series, names: list[Hashable]) -> tuple[Hashable, ...]:
    """The dims along which a part counts the other way round; another grid is refused."""
    ours, theirs = first.dataset, one.dataset
    assert ours is not None and theirs is not None
    if ours is theirs:
        return ()
    dims = [d for n in names for d in first.variables[n].dims if d != first.dim]
    found: list[Hashable] = []
    for dim in dict.fromkeys(dims):
        if ours.sizes[dim] != theirs.sizes.get(dim, ours.sizes[dim]):
            raise ValueError(
                f"{one.name} has {theirs.sizes[dim]} cells along {dim!r} and {first.name} has {ours.sizes[dim]}: open "
                "files of each grid on their own"
            )
        if dim in ours.coords and dim in theirs.coords:
            found += [dim] * _is_reversed(first, one, dim)
    for name in _other_places(ours, theirs, first.dim):
        flipped = theirs[name].isel({d: slice(None, None, -1) for d in found if d in theirs[name].dims})
        if not _same_places(ours[name], flipped.transpose(*ours[name].dims)):
            raise _another_grid(first, one, name)
    _same_projection(first, one, names)
    return tuple(found)


def _is_reversed(first: _Series, one: _Series, name: Hashable) -> bool:
    assert first.dataset is not None and one.dataset is not None
    ours, theirs = first.dataset[name], one.dataset[name]
    if _same_places(ours, theirs):
        return False
    if ours.size > 1 and _same_places(ours, theirs[::-1]):
        return True
    raise _another_grid(first, one, name)


def _another_grid(first: _Series, one: _Series, name: Hashable) -> ValueError:
    found = [_range(s.dataset[name]) for s in (one, first) if s.dataset is not None]
    return ValueError(
        f"{one.name} has another {name!r} than {first.name} ({found[0]} against {found[1]}): open files of each grid "
        "on their own"
    )


def _range(coordinate: xr.DataArray) -> str:
    values = coordinate.values.ravel()
    unit = f" {coordinate.attrs['units']}" if "units" in coordinate.attrs else ""
    return f"{values[0]} to {values[-1]}{unit}" if values.size else "nothing"


def _other_places(ours: xr.Dataset, theirs: xr.Dataset, time: Hashable) -> list[Hashable]:
    """Scalars, and coordinates in two dims where a dim has none of its own."""
    both = [n for n, c in ours.coords.items() if n in theirs.coords and n != time and n not in ours.dims]
    scalars = [n for n in both if ours[n].ndim == 0 and theirs[n].ndim == 0 and not _holds_times(ours[n].variable)]
    curved = [n for n in both if ours[n].ndim > 1 and any(d not in ours.coords for d in ours[n].dims)]
    return [*scalars, *(n for n in curved if ours[n].dims and time not in ours[n].dims)]


def _same_places(ours: xr.DataArray, theirs: xr.DataArray) -> bool:
    """Whether coordinates are those of the same cells."""
    a, b = ours.values, theirs.values
    if a.shape != b.shape:
        return False
    if a.dtype.kind not in "fiu" or b.dtype.kind not in "fiu":
        return bool(np.all(a == b))
    unit, wanted = theirs.attrs.get("units"), ours.attrs.get("units")
    if unit != wanted and unit is not None and wanted is not None:
        change = units.affine(unit, wanted)
        if change is None:
            return False
        b = b * change[0] + change[1]
    spacings = [float(np.nanmedian(np.abs(np.diff(a.astype("f8"), axis=i)))) for i, n in enumerate(a.shape) if n > 1]
    allowed = max(
        [OF_A_CELL * s for s in spacings if s > 0], default=1e-6 * max(1.0, float(np.abs(a).max(initial=0.0)))
    )
    return bool(np.allclose(a.astype("f8"), b.astype("f8"), rtol=0, atol=allowed, equal_nan=True))


def _same_projection(first: _Series, one: _Series, names: list[Hashable]) -> None:
    for name in names:
        ours, theirs = (_projection(s, name) for s in (first, one))
        for key in [key for key in ours if key in theirs]:
            if not _equal(ours[key], theirs[key]):
                raise ValueError(
                    f"{one.name} has another projection than {first.name} ({key} {theirs[key]} against "
                    f"{ours[key]}): open files of each grid on their own"
                )


def _projection(one: _Series, name: Hashable) -> dict[str, Any]:
    """The parameters of a variable's grid mapping; descriptions, spelled in many ways, only where it has no name."""
    words = reference(one.variables[name], "grid_mapping").replace(":", " ").split()
    mapping = next((one.variables[word].attrs for word in words if word in one.variables), {})
    numbers = {k: v for k, v in mapping.items() if not isinstance(v, str) and np.asarray(v).dtype.kind in "fiu"}
    texts = [key for key in _TEXTS_OF_GRIDS if key in mapping][:1]
    return numbers | {key: mapping[key] for key in texts}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind not in "fiu" or b.dtype.kind not in "fiu":
        return a.shape == b.shape and bool(np.all(a == b))
    return a.shape == b.shape and np.allclose(a, b, rtol=_PROJECTION_TOLERANCE, atol=1e-12, equal_nan=True)


# ---- the meaning of the numbers


class _Unlike(Exception):
    """Two variables cannot be joined; says what differs."""


def _same_meaning(first: _Series, one: _Series, name: Hashable) -> tuple[float, float]:
    """Scale and offset that take the values of a part to the units of the first."""
    ours, theirs = first.variables[name], one.variables[name]
    if (ours.dtype.kind in "fiub") != (theirs.dtype.kind in "fiub"):
        raise _differs(first, one, name, "holds", theirs.dtype, ours.dtype)
    for key in ("standard_name", *_DECLARED):
        if key in ours.attrs and key in theirs.attrs and not _equal(ours.attrs[key], theirs.attrs[key]):
            raise _differs(first, one, name, f"has {key}", repr(theirs.attrs[key]), repr(ours.attrs[key]))
    if first is one or ours.dtype.kind not in "fiub":
        return 1.0, 0.0
    if _is_rain(ours) or _is_rain(theirs):
        _same_interval(first, one, name)
        _same_valid_range(first, one, name)
        return _rain_factor(first, one, name), 0.0
    units_of = [v.attrs.get("units") for v in (theirs, ours)]
    if units_of[0] == units_of[1]:
        return 1.0, 0.0
    change = None if None in units_of else units.affine(units_of[0], str(units_of[1]))
    if change is None:
        raise _differs(first, one, name, "has units", *map(repr, units_of))
    return change


def _same_valid_range(first: _Series, one: _Series, name: Hashable) -> None:
    """What only one part declares invalid, or in packed units of its own, would be taken for rain."""
    theirs, ours = (_valid_range(s, name) for s in (one, first))
    if theirs is not None and (ours is None or not _equal(theirs, ours)):
        raise _differs(first, one, name, "has a valid range", *(_range_in_words(r) for r in (theirs, ours)))


def _valid_range(one: _Series, name: Hashable) -> tuple[float, float] | None:
    """In the units of the unpacked values."""
    assert one.dataset is not None
    if not any(key in one.variables[name].attrs for key in _VALID):
        return None
    try:
        found = declared(one.dataset[name])
    except ValueError as error:
        raise ValueError(f"{one.name}: {error}") from None
    return found.low, found.high


def _range_in_words(valid: tuple[float, float] | None) -> str:
    return "none" if valid is None else f"from {valid[0]:g} to {valid[1]:g}"


def _rain_factor(first: _Series, one: _Series, name: Hashable) -> float:
    """What the values of a part are times the same rain in the first; another kind of rain is refused."""
    ours, theirs = (s.variables[name].attrs.get("units") for s in (first, one))
    reflectivity = [units.is_reflectivity(unit) for unit in (ours, theirs)]
    if all(reflectivity):
        if all(_equal(first.variables[name].attrs.get(k), one.variables[name].attrs.get(k)) for k in _OF_REFLECTIVITY):
            return 1.0
        relations = [_relation(s, name) for s in (first, one)]
        if relations[0] != relations[1]:
            raise _differs(first, one, name, "is read with", relations[1], relations[0])
        return 1.0
    if ours == theirs:
        return 1.0
    if any(reflectivity) or units.is_amount(ours) != units.is_amount(theirs) or None in (ours, theirs):
        raise _differs(first, one, name, "has units", repr(theirs), repr(ours))
    hour = np.timedelta64(1, "h")
    try:
        of = [units.rain_rate_conversion(unit, name=str(name), step=hour).factor for unit in (theirs, ours)]
    except ValueError:
        raise _differs(first, one, name, "has units", repr(theirs), repr(ours)) from None
    return of[0] / of[1]


def _relation(one: _Series, name: Hashable) -> str:
    """Z-R relation and value of no echo, in words."""
    # only attributes matter, so a field of one cell will do
    cell = xr.DataArray(np.zeros((1, 1), "f4"), dims=("y", "x"), name=name, attrs=one.variables[name].attrs)
    try:
        found: Any = cf.find_field(cell).conversion
    except ValueError as error:
        raise ValueError(f"{one.name}: {error}") from None
    return f"Z = {found.a:g} R^{found.b:g} and {found.no_echo:g} dBZ for no echo"


def _same_interval(first: _Series, one: _Series, name: Hashable) -> None:
    """Sums over different times are never joined: nothing would tell them apart."""
    if not all(units.is_amount(s.variables[name].attrs.get("units")) for s in (first, one)):
        return
    ours, theirs = (_stated_interval(s, name) for s in (first, one))
    if ours != theirs:
        raise _differs(first, one, name, "holds sums over", _minutes(theirs), _minutes(ours))
    steps = [_step(s) for s in (first, one)]
    if ours is None and None not in steps and steps[0] != steps[1]:
        raise _differs(first, one, name, "holds sums over", _minutes(steps[1]), _minutes(steps[0]))


@lru_cache(maxsize=4)  # the first part is compared with all others
def _stated_interval(one: _Series, name: Hashable) -> np.timedelta64 | None:
    """How long the sums of a part were collected, where bounds or attributes tell."""
    assert one.dataset is not None
    frame = one.dataset.isel({} if one.is_moment else {one.dim: [0]})
    try:
        lead = cf.forecast_coordinate(frame[name], "lead_time")
        found = intervals.of_amount(frame[name], one.dataset, time=one.dim, lead_time=lead)
    except ValueError as error:
        raise ValueError(f"{one.name}: {error}") from None
    return None if found is None else found.length


def _step(one: _Series) -> np.timedelta64 | None:
    """The time between frames, where three or more tell it without doubt."""
    steps = np.unique(np.diff(np.sort(one.times)))
    return steps[0] if one.times.size > 2 and steps.size == 1 else None


def _minutes(length: np.timedelta64 | None) -> str:
    return "a time that is not told" if length is None else f"{length / np.timedelta64(60, 's'):g} min"


def _differs(first: _Series, one: _Series, name: Hashable, verb: str, theirs: Any, ours: Any) -> _Unlike:
    return _Unlike(
        f"{name!r} of {one.name} {verb} {theirs}, and of {first.name} {ours}: open them on their "
        "own, or make them alike first"
    )


# ---------------------------------------------------------------- frames that cannot be read


def _lacking(parts: Sequence[Part], readable: list[_Series]) -> list[_Series]:
    """The frames of parts that cannot be read: those that are missing between their neighbours in the sequence.

    At an end, and where more are missing than the files may have held, there are as many as in other files.
    """
    known = {id(one.dataset): one for one in readable}
    differences = np.diff(np.unique(np.concatenate([one.times for one in readable]))).astype("i8")
    step = np.timedelta64(windows.common_step(differences) if differences.size else 0, "ns")
    each = max(one.times.size for one in readable)
    found: list[_Series] = []
    before: _Series | None = None
    for broken, run in groupby(parts, lambda part: part.dataset is None):
        members = list(run)
        if not broken:
            before = next((known[id(p.dataset)] for p in reversed(members) if id(p.dataset) in known), before)
            continue
        later = parts[parts.index(members[-1]) + 1 :]
        after = next((known[id(p.dataset)] for p in later if id(p.dataset) in known), None)
        missing = _missing_times(before, after, step, len(members) * each)
        reason = "; ".join(part.unreadable for part in members)
        consequence = (
            f"{missing.size} from {missing[0]:.16} on are taken to be its frames" if missing.size else "left out"
        )
        warn(f"{reason} ({consequence})")
        if missing.size:
            found.append(_Series(members[0].name, None, readable[0].dim, missing, reason=reason))
    return found


def _missing_times(before: _Series | None, after: _Series | None, step: np.timedelta64, most: int) -> np.ndarray:
    if not step.astype("i8"):
        return np.zeros(0, "M8[ns]")
    if before is None:
        assert after is not None
        return after.times.min() - step * np.arange(most, 0, -1)
    room = most if after is None else int((after.times.min() - before.times.max()) // step) - 1
    return before.times.max() + step * np.arange(1, min(room, most) + 1)


@dataclass(frozen=True)
class _Unread:
    """Stands for values that cannot be read."""

    reason: str

    def __call__(self, frames: slice) -> np.ndarray:
        raise UnreadableInput(self.reason)


# ---------------------------------------------------------------- together


@dataclass(frozen=True)
class _Read:
    """Frames of a part that is not in chunks, like those of the first."""

    variable: xr.Variable
    fit: _Fit
    dtype: np.dtype

    def __call__(self, frames: slice) -> np.ndarray:
        some = self.variable.isel({self.fit.time: frames}) if self.fit.time in self.variable.dims else self.variable
        return np.asarray(self.fit(xr.Variable(some.dims, some.values))).astype(self.dtype, copy=False)


@dataclass(frozen=True)
class _Joined:
    """Parts that fit together, in the order of their first times."""

    first: _Series
    series: list[_Series]
    names: list[Hashable]

    def dataset(self) -> xr.Dataset:
        first, dim = self.first.dataset, self.first.dim
        assert first is not None
        times, order = self._times()
        rest = first.drop_vars([n for n, v in first.variables.items() if dim in v.dims or n in (dim, *self.names)])
        variables = {dim: xr.Variable(dim, times, first[dim].attrs, self._common_encoding(dim))}
        variables |= {n: v for n in self.names if (v := self._variable(n)) is not None}
        variables |= {n: v for n in rest.coords if (v := self._scalars(n)) is not None}
        if reference(variables[dim], "bounds") not in variables:
            variables[dim].attrs.pop("bounds", None)
        coords = {n: v for n, v in variables.items() if n in first.coords or n == dim}
        data = {n: v for n, v in variables.items() if n not in coords}
        joined = in_own_chunks(rest).assign_coords(coords).assign(data)
        joined.encoding = {}
        return joined if (np.diff(order) > 0).all() else joined.isel({dim: order})

    def _times(self) -> tuple[np.ndarray, np.ndarray]:
        """The times as the parts follow each other, and the order that they should have."""
        times = np.concatenate([one.times for one in self.series])
        owner = np.repeat(np.arange(len(self.series)), [one.times.size for one in self.series])
        order = np.argsort(times, kind="stable")
        twice = np.flatnonzero(np.diff(times[order]) == np.timedelta64(0, "ns"))
        if twice.size:
            time = np.datetime_as_string(times[order[twice[0]]], unit="s")
            a, b = (self.series[owner[order[i]]].name for i in (twice[0], twice[0] + 1))
            what = f"{a} holds {time} twice, or is given twice" if a == b else f"{a} and {b} both hold {time}"
            raise ValueError(f"{what}: give each time once")
        return times, order

    def _variable(self, name: Hashable) -> xr.Variable | None:
        assert self.first.dataset is not None
        like = self.first.variables[name]
        in_memory = like.dtype.kind in "mM" or name in self.first.dataset.coords
        values = self._values(name) if in_memory else self._lazily(name)
        if values is None:
            return None
        encoding = self._common_encoding(name)
        return xr.Variable(self.first.fits[name].dims, values, self._common_attrs(name, encoding), encoding)

    def _common_attrs(self, name: Hashable, encoding: dict[Hashable, Any]) -> dict[Hashable, Any]:
        """Those of the first, a valid range of packed numbers unpacked where the packing is not kept."""
        like = self.first.variables[name]
        kept = "scale_factor" in encoding or "add_offset" in encoding
        valid = None if kept or like.dtype.kind not in "fiu" else _valid_range(self.first, name)
        if valid is None:
            return like.attrs
        unpacked = {k: float(v) for k, v in zip(("valid_min", "valid_max"), valid, strict=True) if np.isfinite(v)}
        return {k: v for k, v in like.attrs.items() if k not in _VALID} | unpacked

    def _values(self, name: Hashable) -> np.ndarray | None:
        """Of coordinates and bounds, in memory; None where nothing can stand for those that cannot be read."""
        axis = self.first.fits[name].dims.index(self.first.dim)
        frame = np.take(_in_memory(self.first, name), [0], axis)
        values = [
            self._stand_in(one, name, frame, axis) if one.dataset is None else _in_memory(one, name)
            for one in self.series
        ]
        known = [some for some in values if some is not None]
        return np.concatenate(known, axis) if len(known) == len(values) else None

    def _stand_in(self, one: _Series, name: Hashable, frame: np.ndarray, axis: int) -> np.ndarray | None:
        """For frames that cannot be read: bounds as those of the first frame, and else what says that it is missing."""
        shape = [one.times.size if i == axis else n for i, n in enumerate(frame.shape)]
        if name == reference(self.first.variables[self.first.dim], "bounds"):
            times = one.times.reshape([-1 if i == axis else 1 for i in range(frame.ndim)])
            return np.broadcast_to(times + (frame - self.first.times[0]), shape)
        if frame.dtype.kind not in "fmM":
            return None
        return np.full(shape, np.nan if frame.dtype.kind == "f" else "NaT", frame.dtype)

    def _lazily(self, name: Hashable) -> Any:
        import dask.array as da

        fit = self.first.fits[name]
        axis = fit.dims.index(self.first.dim)
        dtypes = [one.fits[name].dtype(one.variables[name].dtype) for one in self.series if one.dataset is not None]
        dtype = np.result_type(*dtypes)
        arrays: list[Any] = []
        for is_dask, group in groupby(self.series, lambda one: one.dataset is not None and _in_chunks(one, name)):
            if is_dask:
                arrays += [one.fits[name](one.variables[name]).astype(dtype) for one in group]
            else:
                arrays.append(self._read_later(list(group), name, dtype))
        return arrays[0] if len(arrays) == 1 else da.concatenate(arrays, axis)

    def _read_later(self, series: list[_Series], name: Hashable, dtype: np.dtype) -> Any:
        """One layer of tasks for all parts: thousands of files would be thousands of layers else."""
        import dask.array as da
        from dask.highlevelgraph import HighLevelGraph

        fit = self.first.fits[name]
        axis = fit.dims.index(self.first.dim)
        like = self.first.variables[name]
        sizes = dict(zip(like.dims, like.shape, strict=True))
        key = f"joined-{name}-{uuid4().hex}"
        graph: dict[Any, Any] = {}
        lengths: list[int] = []
        for one in series:
            variable = one.variables.get(name)
            read = _Unread(one.reason) if variable is None else _Read(variable, one.fits[name], dtype)
            length = (
                1 if variable is None else variable.encoding.get("preferred_chunks", {}).get(one.dim, one.times.size)
            )
            for start in range(0, one.times.size, length):
                place = [0] * len(fit.dims)
                place[axis] = len(lengths)
                end = min(start + length, one.times.size)
                graph[(key, *place)] = (read, slice(start, end))
                lengths.append(end - start)
        chunks = [tuple(lengths) if i == axis else (sizes[d],) for i, d in enumerate(fit.dims)]
        return da.Array(HighLevelGraph.from_collections(key, graph), key, chunks, dtype=dtype)

    def _scalars(self, name: Hashable) -> xr.Variable | None:
        """A time beside the times, such as that of the run, which is another in each part."""
        variables = [one.variables.get(name) for one in self.series]
        if not all(v is None or (v.ndim == 0 and _holds_times(v)) for v in variables):
            return None
        values = [np.datetime64("NaT", "ns") if v is None else v.values.astype("M8[ns]") for v in variables]
        if len({str(value) for value in values}) == 1:
            return None
        times = np.repeat(np.array(values), [one.times.size for one in self.series])
        return xr.Variable(self.first.dim, times, self.first.variables[name].attrs)

    def _common_encoding(self, name: Hashable) -> dict[Hashable, Any]:
        """How the numbers are stored, where all parts store them alike."""
        encodings = [one.variables[name].encoding for one in self.series if one.dataset is not None]
        first = {k: v for k, v in self.first.variables[name].encoding.items() if k not in _OF_ONE_FILE}
        alike = {k: v for k, v in first.items() if all(_equal(e.get(k), v) for e in encodings)}
        converted = any(
            (one.fits[name].scale, one.fits[name].offset) != (1.0, 0.0) for one in self.series if name in one.fits
        )
        packing = {k for e in encodings for k in e if k in _OF_NUMBERS}
        return (
            alike
            if packing <= alike.keys() and not converted
            else {k: v for k, v in alike.items() if k not in _OF_NUMBERS}
        )


def _in_memory(one: _Series, name: Hashable) -> np.ndarray:
    variable = one.variables[name]
    return np.asarray(one.fits[name](xr.Variable(variable.dims, variable.values)))


def _in_chunks(one: _Series, name: Hashable) -> bool:
    return one.variables[name].chunks is not None
