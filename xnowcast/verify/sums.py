"""Sums that scores are made of: they carry what they were made with, and sums of two makings do not add up.

A function decorated with `additive` says what it sums up for two DataArrays; Datasets, attributes and labels are dealt
with here, once. Two scalar coordinates go with all sums: the name of the function that made them, and a number that
stands for its settings. xarray drops a scalar coordinate that clashes, so that where the first is there without the
second, sums were joined that do not belong together; `checked` refuses them.
"""

import hashlib
import inspect
import json
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from types import EllipsisType
from typing import Any, ParamSpec

import numpy as np
import xarray as xr

from xnowcast.fields import cf
from xnowcast.verify import docstrings
from xnowcast.verify.thresholds import threshold_coordinate

KIND, SETTINGS = "sums", "sums_made_with"
"""Coordinates of all sums: the function that made them, and a number for its settings, which its attributes tell."""

# The number is less than any tolerance, so that sums that were made in different ways can be compared as numbers.
LARGEST_NUMBER = 1e-9

# Coordinates longer than this are known by a hash.
LONGEST_IN_WORDS = 64

XarrayObject = Any  # a DataArray or a Dataset; what comes out is what went in

P = ParamSpec("P")
Settings = Callable[[dict[str, Any], Any, Any], dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """One kind of sums.

    ``name``: of the function that makes them. ``variables``: of the Dataset, in the order of the kernel. ``own_dims``:
    dims that the sums have by themselves, which nothing can be added up over. ``fixed_dims``: those of them whose
    labels belong to the settings: some of them cannot be joined with others. ``settings``: what sums have to agree in
    if they are to be added up, from all options and the two fields. ``needed``: options without a default. ``options``:
    all keywords. ``fields``: from two DataArrays to sums without labels. ``called``: what messages call them.
    ``dtype``: of sums without weights.
    ``doc``: docstring of the function.
    """

    name: str
    variables: tuple[str, ...]
    own_dims: tuple[str, ...]
    fixed_dims: tuple[str, ...]
    settings: "Settings"
    needed: tuple[str, ...]
    options: tuple[inspect.Parameter, ...]
    fields: Callable[..., Any]
    called: str
    dtype: type
    doc: str


KINDS: dict[str, Kind] = {}
"""By the name of the function that makes them."""


def additive(
    *variables: str,
    own_dims: Sequence[str] = (),
    fixed_dims: Sequence[str] | None = None,
    settings: Sequence[str] | Settings = (),
    called: str | None = None,
    dtype: type = np.float64,
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Decorator of a function of two DataArrays that returns sums: it takes Datasets too, and labels what it returns.

    ``*variables``: of the Dataset that it returns; none for a DataArray. ``own_dims, fixed_dims, settings, called,
    dtype``: as in `Kind`; settings are names of options where they need no thought, and all own dims are fixed by
    default. Returned: with the signature of the function, and its docstring, to which the parameters that it does not
    describe are added. ``keep_attrs`` is seen to. Two Datasets give a dim
    ``variable``, or a Dataset if DataArrays give a DataArray; a named set of thresholds stands for the same numbers in
    all variables.
    """

    def decorate(function: Callable[P, Any]) -> Callable[P, Any]:
        options = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        needed = tuple(p.name for p in options if p.default is p.empty)
        name = function.__name__
        what = called or f"a Dataset from {name}"
        fixed = tuple(own_dims if fixed_dims is None else fixed_dims)
        agreed = settings if callable(settings) else _named_settings(tuple(settings))
        defaults = {p.name: p.default for p in options}
        doc = docstrings.of_sums(inspect.cleandoc(function.__doc__ or ""), defaults, variables)
        kind = Kind(name, variables, tuple(own_dims), fixed, agreed, needed, tuple(options), function, what, dtype, doc)
        KINDS[name] = kind

        @wraps(function)
        def of_any(observations: Any, forecasts: Any, **given: Any) -> Any:
            names = matching_variables(observations, forecasts)
            given = resolved_thresholds(given, observations, forecasts, names)
            made_with = defaults | given
            keep_attrs = bool(made_with.get("keep_attrs"))

            def settings() -> dict[str, Any]:
                return kind.settings(made_with, observations, forecasts)

            if names is None:
                sums = labelled(function(observations, forecasts, **given), kind, settings())
                return with_attrs(sums, observations if keep_attrs else None)
            each = [as_xarray(function(observations[v], forecasts[v], **given)) for v in names]
            each = [with_attrs(s, observations[v] if keep_attrs else None) for s, v in zip(each, names, strict=True)]
            if variables:
                together = xr.concat(each, dim=xr.DataArray(names, dims="variable", name="variable"))
            else:
                attrs = dict(observations.attrs) if keep_attrs else {}
                together = xr.Dataset(dict(zip(names, each, strict=True)), attrs=attrs)
            return labelled(together, kind, settings())

        of_any.__doc__ = doc
        return of_any  # type: ignore[return-value]

    return decorate


def as_xarray(sums: Any) -> Any:
    return sums.dataset() if isinstance(sums, Table) else sums


def _named_settings(names: tuple[str, ...]) -> Settings:
    """Of options by their names; whether there are weights, and an ensemble mean, always matters."""

    def settings(options: dict[str, Any], observations: Any, forecasts: Any) -> dict[str, Any]:
        agreed = {name: _in_words(options[name]) for name in names if name != "member_dim"}
        if "member_dim" in names:
            agreed["ensemble_mean"] = options["member_dim"] is not None
        if "weights" in options and "weights" not in names:
            agreed["weighted"] = options["weights"] is not None
        return agreed

    return settings


def resolved_thresholds(
    options: dict[str, Any], observations: XarrayObject, forecasts: XarrayObject, names: list[Hashable] | None
) -> dict[str, Any]:
    """The options of two Datasets with numbers in place of the name of thresholds, the same for all variables.

    ``names``: of the variables; None for DataArrays, which resolve names by themselves.
    """
    if names is None or not isinstance(options.get("thresholds"), str):
        return options
    fields = [obj[name] for obj in (observations, forecasts) for name in names]
    return options | {"thresholds": threshold_coordinate(options["thresholds"], *fields)}


@dataclass(frozen=True)
class Table:
    """Sums as a kernel gives them, along the last dim of an array; a Dataset of them costs more than small sums do.

    ``names``: of the sums. ``once``: sums that are the same along a dim, which they are without in a Dataset.
    """

    array: xr.DataArray
    names: tuple[str, ...]
    once: Mapping[str, str]

    @property
    def coords(self) -> Any:
        """Coordinates of all sums."""
        return self.array.coords

    @property
    def dims(self) -> tuple[Hashable, ...]:
        """Dims of all sums."""
        return self.array.dims[:-1]

    def __getitem__(self, name: str) -> xr.DataArray:
        if name not in self.names:
            return self.array.coords[name]
        one = xr.DataArray(self.array.data[..., self.names.index(name)], self.array.coords, self.dims)
        return one.isel({self.once[name]: 0}, drop=True) if name in self.once else one

    def dataset(self, coords: Mapping[str, xr.Variable] | None = None) -> xr.Dataset:
        """A variable for each sum."""
        data = {}
        for i, name in enumerate(self.names):
            variable = xr.Variable(self.dims, self.array.data[..., i])
            data[name] = variable.isel({self.once[name]: 0}) if name in self.once else variable
        return xr.Dataset(data, coords={**self.array.coords, **(coords or {})})


def table_of(
    sums: xr.DataArray,
    names: Sequence[str],
    *scalars: xr.DataArray,
    coords: Mapping[Any, Any] | None = None,
    once: Mapping[str, str] | None = None,
) -> Any:
    """Sums by name from an array that has them along its last dim.

    ``names``: of the sums. ``*scalars``: coordinates of dims of the sums; one without a dim makes a scalar of it.
    ``coords``: further coordinates. ``once``: as in `Table`.

    >>> sums = xr.DataArray([[1.0, 2.0]], dims=("scale", "sum"))
    >>> table = table_of(sums, ["n", "error"], xr.DataArray(4, name="scale"))
    >>> float(table["error"]), int(table["scale"])
    (2.0, 4)
    """
    if scalars or coords:
        flat = {coordinate.name for coordinate in scalars if coordinate.ndim == 0}
        place = [0 if dim in flat else slice(None) for dim in sums.dims]
        along = {c.name: c.variable for c in scalars} | dict(coords or {})
        dims = [dim for dim in sums.dims if dim not in flat]
        sums = xr.DataArray(sums.data[tuple(place)], coords={**sums.coords, **along}, dims=dims)
    once = {name: dim for name, dim in (once or {}).items() if dim in sums.dims}
    return Table(sums, tuple(names), once)


# ---------------------------------------------------------------- labels


def labelled(sums: Any, kind: Kind, settings: dict[str, Any]) -> Any:
    """The sums with the two coordinates that say what they are.

    ``settings``: that they were made with.
    """
    own = [dim for dim in dict.fromkeys([*kind.own_dims, *kind.fixed_dims]) if dim in sums.coords]
    settings = settings | {d: _in_words(sums[d].values) if d in kind.fixed_dims else "any" for d in own}
    text = json.dumps(settings)
    number = LARGEST_NUMBER * zlib.crc32(text.encode()) / 2**32
    attrs = {"long_name": "number that stands for the settings of the sums", "settings": text}
    labels = {KIND: _text(kind.name), SETTINGS: xr.Variable((), number, attrs)}
    return sums.dataset(labels) if isinstance(sums, Table) else sums.assign_coords(labels)


def _text(text: str) -> xr.Variable:
    """As an object: Zarr has no type for text of a fixed length that others can read."""
    value = np.empty((), object)
    value[()] = text
    return xr.Variable((), value)


def _in_words(value: Any) -> Any:
    """A setting as JSON knows it."""
    if isinstance(value, xr.DataArray):
        value = value.values
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    values = np.asarray(value)
    if values.dtype.kind not in "biuf":
        return [_in_words(part) for part in value] if np.ndim(value) else str(value)
    if values.size > LONGEST_IN_WORDS:
        return f"{values.size} values {hashlib.sha256(values.astype(np.float64).tobytes()).hexdigest()[:12]}"
    return values.astype(np.float64).tolist()


def without_label(sums: Any) -> Any:
    """The sums without the two coordinates, for a score that is taken of them."""
    labels = [name for name in (KIND, SETTINGS) if name in sums.coords]
    return sums.drop_vars(labels) if labels else sums


def checked(
    sums: Any, kind: Kind, score: str, needs: Sequence[str] | None = None, needed: Sequence[str] = ()
) -> dict[str, Any] | None:
    """What sums were made with; sums of another kind, or joined of such as do not belong together, are refused.

    ``sums``: what a score was given in place of two fields. ``score``: name of the score, for messages. ``needs``:
    variables that it is taken of; all of the kind by default. ``needed``: options that the score needs with two fields,
    for messages. Returned: settings by name; None for sums that were written down by hand. TypeError if it is no
    Dataset with these sums. ValueError if sums that were made with different settings were joined.
    """
    if not (isinstance(sums, xr.Dataset) and set(needs or kind.variables) <= set(sums.data_vars)):
        raise TypeError(takes(score, kind, needed))
    return _settings(sums, kind)


def takes(score: str, kind: Kind, needed: Sequence[str] = ()) -> str:
    """What a score takes, in words."""
    *first, last = ["observations", "forecasts", *(f"{option}=" for option in needed)]
    return f"{score} takes {', '.join(first)} and {last}, or {kind.called} alone"


def refuse_joined(sums: Any) -> None:
    """Refuse sums that were joined of some that do not belong together, where that can be seen."""
    labels = [sums.coords.get(name) for name in (KIND, SETTINGS)]
    if labels[0] is not None and not all(label is not None and label.ndim == 0 for label in labels):
        raise ValueError(
            "these sums were joined of some that were made with different settings, or of two kinds, which do not "
            "add up: make them alike; xnowcast.verify.merge says what differs"
        )


def _settings(sums: Any, kind: Kind) -> dict[str, Any] | None:
    refuse_joined(sums)
    settings = sums.coords.get(SETTINGS)
    if settings is None:
        return None
    stored = json.loads(settings.attrs.get("settings", "{}"))
    lost = [dim for dim in kind.own_dims if dim in stored and dim not in sums.coords]
    if lost:
        raise ValueError(
            f"these sums have lost their {lost[0]!r}: sums at different ones were joined or added up; select one "
            "without drop=True"
        )
    return stored


# ---------------------------------------------------------------- adding up


def added_up(sums: xr.Dataset, kind: Kind, dim: str | Sequence[Hashable] | EllipsisType | None) -> xr.Dataset:
    """Sums added up over dims that they have.

    ``dim``: ``...`` for all but those of the sums themselves, such as the threshold; None for none. ValueError if they
    have no such dim, or nothing can be added up over it.
    """
    if dim is None:
        return sums
    own = {*kind.own_dims, "variable"}
    dims = [d for d in sums.dims if d not in own] if dim is ... else [dim] if isinstance(dim, str) else list(dim)
    for name in dims:
        if name in own and name in sums.dims:
            raise ValueError(f"sums are not added up over {name!r}: select some with .sel or .isel")
        if name not in sums.dims:
            raise ValueError(
                f"dim {name!r} is none that these sums from {kind.name} have left, which are "
                f"{tuple(d for d in sums.dims if d not in own)}: they were added up over all others when they were made"
            )
    varying = [d for d in own if d in sums.coords and set(sums[d].dims) & set(dims)]
    if varying:
        raise ValueError(f"sums are not added up over {dims[0]!r}, along which their {varying[0]!r} varies")
    return sums.sum(dims, skipna=False, keep_attrs=True) if dims else sums


def refuse_option(option: str, value: Any, kind: Kind, settings: dict[str, Any] | None, score: str) -> None:
    """An option beside sums can only say again what they were made with.

    ``settings``: what is known of how the sums were made. ``score``: for messages.
    """
    if value is None or (settings is not None and option in settings and settings[option] == _in_words(value)):
        return
    if settings is not None and option in settings:
        raise ValueError(
            f"{score} was given {option}={value!r} beside sums that were made with {option}={settings[option]!r}: make "
            f"them anew with {kind.name}(..., {option}={value!r})"
        )
    raise ValueError(
        f"{score} was given {option}= beside sums, where it cannot count: give it to {kind.name}, which makes them"
    )


def merge(tables: Sequence[Any]) -> Any:
    """Sums of different files, months or machines added up, if they belong together.

    Parameters
    ----------
    tables : sequence of xarray.Dataset or xarray.DataArray
        From one function, such as `contingency_table`, `error_sums` or `rank_histogram`, with the same settings and
        the same coordinates on the dims that are left. Dims along which they differ, such as ``init_time``, have to be
        added up first, or the tables joined with `xarray.concat`.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        As each of them. Lazy where they are.

    Raises
    ------
    ValueError
        If there is none, or two differ; it says in what.

    See Also
    --------
    xnowcast.archive.merge_tables : the same for tables of `xnowcast.score_archive`.

    Examples
    --------
    >>> from xnowcast.verify import contingency_table, csi
    >>> o, f = xr.DataArray([2.0, 2.0, 1.0], dims="x"), xr.DataArray([2.0, 1.0, 2.0], dims="x")
    >>> january, february = contingency_table(o, f, thresholds=2.0), contingency_table(o, o, thresholds=2.0)
    >>> float(csi(merge([january, february])))
    0.6
    >>> merge([january, contingency_table(o, f, thresholds=1.0)])
    Traceback (most recent call last):
    ...
    ValueError: sums differ in threshold: 2.0 and 1.0. Only sums that were made alike add up
    """
    if isinstance(tables, xr.Dataset | xr.DataArray):
        raise ValueError("tables is one table: give a list of those to merge")
    parts = list(tables)
    if not parts:
        raise ValueError("there are no sums to merge")
    for other in parts[1:]:
        _check_alike(parts[0], other)
    total = parts[0]
    for other in parts[1:]:
        total = total + other.assign_coords({n: c for n, c in parts[0].coords.items() if n in (KIND, SETTINGS)})
    return _with_attrs_of(total, parts[0]) if len(parts) > 1 else total


def _with_attrs_of(result: Any, source: Any) -> Any:
    """The same attributes on both and on their variables."""
    result.attrs = dict(source.attrs)
    if isinstance(result, xr.Dataset):
        for name in result.data_vars:
            result[name].attrs = dict(source[name].attrs)
    return result


def _check_alike(one: Any, other: Any) -> None:
    if type(one) is not type(other) or _variables(one) != _variables(other) or _made_by(one) != _made_by(other):
        raise ValueError(
            f"sums of two kinds do not add up: {_made_by(one)} with {_variables(one)} and {_made_by(other)} with "
            f"{_variables(other)}"
        )
    kind = KINDS.get(_made_by(one))
    own = kind.own_dims if kind is not None else ()
    ours, theirs = ((_settings(sums, kind) if kind is not None else None) or {} for sums in (one, other))
    for name in {**ours, **theirs}:
        if name not in own and ours.get(name) != theirs.get(name):
            raise ValueError(
                f"sums differ in {name}: {ours.get(name)!r} and {theirs.get(name)!r}. Only sums that were made alike "
                "add up"
            )
    for name in own:
        values = [_in_words(sums[name].values) if name in sums.coords else None for sums in (one, other)]
        if values[0] != values[1]:
            raise ValueError(
                f"sums differ in {name}: {values[0]} and {values[1]}. Only sums that were made alike add up"
            )
    for dim in {**one.sizes, **other.sizes}:
        if one.sizes.get(dim) != other.sizes.get(dim) or not _same_labels(dim, one, other):
            raise ValueError(
                f"sums have different {dim!r}: add each up over it first, sums.sum({dim!r}), or join them with "
                f"xr.concat(tables, {dim!r})"
            )


def _variables(sums: Any) -> list[str]:
    return sorted(map(str, sums.data_vars)) if isinstance(sums, xr.Dataset) else []


def _made_by(sums: Any) -> str:
    return str(sums.coords[KIND].values[()]) if KIND in sums.coords and not sums.coords[KIND].ndim else "sums"


def _same_labels(dim: Hashable, one: Any, other: Any) -> bool:
    if dim not in one.indexes or dim not in other.indexes:
        return True
    return bool(one.indexes[dim].equals(other.indexes[dim]))


# ---------------------------------------------------------------- two fields


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


# ---------------------------------------------------------------- formulas


def per_cell(formula: Callable[..., np.ndarray], sums: Any, names: Sequence[str], score: str) -> xr.DataArray:
    """A formula of sums, in float64, where nothing by nothing is NaN.

    ``formula``: of arrays, in the order of ``names``. ``names``: of the sums that it takes. ``score``: name of the
    result. Returned: lazy where the sums are; without attributes, its coordinates with theirs.

    >>> sums = xr.Dataset({"total": ("x", [3.0, 0.0]), "n": ("x", [2, 0])})
    >>> per_cell(lambda total, n: total / n, sums, ["total", "n"], "mean").values
    array([1.5, nan])
    """

    def in_floats(*arrays: np.ndarray) -> np.ndarray:
        # float64 before the products: those of counts over 3e9 cells do not fit into int64.
        with np.errstate(divide="ignore", invalid="ignore"):
            return formula(*(np.asarray(array, dtype=np.float64) for array in arrays))

    # Most of the time of a small input would be that of apply_ufunc, or of a Dataset.
    if isinstance(sums, Table) and isinstance(sums.array.data, np.ndarray) and not set(names) & set(sums.once):
        data = in_floats(*(sums.array.data[..., sums.names.index(name)] for name in names))
        return xr.DataArray(data, sums.array.coords, sums.dims, name=score)
    parts = [sums[name] for name in names]
    first = parts[0]
    if all(isinstance(part.data, np.ndarray) and part.dims == first.dims for part in parts):
        result = first.copy(deep=False, data=in_floats(*(part.data for part in parts)))
        result.attrs = {}
    else:
        result = xr.apply_ufunc(in_floats, *parts, dask="parallelized", output_dtypes=[np.float64])
        for coordinate in set(result.coords) & set(first.coords):  # what a threshold is stays known
            result.coords[coordinate].attrs = dict(first.coords[coordinate].attrs)
    result.name = score
    return without_label(result)
