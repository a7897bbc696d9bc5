"""A score is a record: the sums that it is taken of, the formula over them, and its words in tables of scores.

`score_of` makes the public function of a score. Given two fields, it has them summed up and applies the formula; given
sums, it adds them up over ``dim`` first and refuses what is said beside them and cannot count. With its `Column` the
score stands in `scorecard` and, where archives keep its sums, in `xnowcast.archive.table_scores`: both read `RECORDS`.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import wraps
from typing import Any, Literal

import xarray as xr

from xnowcast.verify import docstrings
from xnowcast.verify.sums import (
    KINDS,
    Kind,
    added_up,
    checked,
    each_variable,
    matching_variables,
    refuse_option,
    resolved_thresholds,
    takes,
    with_attrs,
    without_label,
)

_FIELDS = (
    inspect.Parameter("observations", inspect.Parameter.POSITIONAL_OR_KEYWORD),
    inspect.Parameter("forecasts", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None),
)
_KEEP_ATTRS = inspect.Parameter("keep_attrs", inspect.Parameter.KEYWORD_ONLY, default=False)


_COMMENTS = {
    "each": "each member scored as a forecast, sums added up over members",
    "mean": "of the ensemble mean",
    "together": "",
}


def number(value: float) -> str:
    """A limit in words, such as -1/3 or ∞."""
    return str(value).replace("inf", "∞") if math.isinf(value) else str(Fraction(value).limit_denominator(9))


@dataclass(frozen=True)
class Column:
    """How a score stands in tables of scores.

    ``units``: None is those of the field. ``range``: the least and the largest value. ``best``: the value of a perfect
    forecast. ``members``: each is a forecast of its own, their mean is scored, or the
    score takes them together and has none of a single forecast. ``comment``: in place of the usual one on what was made
    of members. ``archive``: the name of its sums in archives' tables; without one it needs the fields. ``options``: its
    own, where they are not the table's. ``of_thresholds``: the option that the table's thresholds become, as the edges
    of bins from 0 up, where they are not thresholds of the score.
    """

    long_name: str
    units: str | None = "1"
    range: tuple[float, float] = (-math.inf, math.inf)
    best: float | None = None
    members: Literal["each", "mean", "together"] = "each"
    comment: str | None = None
    by_default: bool = False
    archive: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    of_thresholds: str | None = None

    @property
    def of_ensemble(self) -> str:
        """What the score means for an ensemble."""
        return _COMMENTS[self.members] if self.comment is None else self.comment

    @property
    def in_words(self) -> str:
        """Units, range and best value, as docstrings say them."""
        quantity = {None: "In the units of the fields", "1": "Dimensionless"}.get(self.units, f"In {self.units}")
        ends = [number(end) for end in self.range]
        within = f", from {ends[0]} to {ends[1]}" if ends != ["-∞", "∞"] else ""
        return quantity + within + (f", best at {number(self.best)}" if self.best is not None else "")


@dataclass(frozen=True)
class Record(Column):
    """A column with the score itself.

    ``score``: the public function. ``formula``: of sums. ``sums``: what makes them. ``needs``: those that it is taken
    of. ``of_sums``: whether that is the best way; else it is taken of the fields.
    """

    score: Callable[..., Any] = field(kw_only=True)
    formula: Callable[..., Any] = field(kw_only=True)
    sums: Kind = field(kw_only=True)
    needs: tuple[str, ...] = field(kw_only=True)
    of_sums: bool = field(kw_only=True)

    def takes(self, option: str) -> bool:
        """Whether the score has an option."""
        return option in inspect.signature(self.score).parameters


RECORDS: dict[str, Record] = {}
"""The scores of tables, by name, in the order in which they were defined."""


def score_of(
    sums_function: Callable[..., Any],
    *,
    needs: Sequence[str] | None = None,
    needed: Sequence[str] | None = None,
    fixed: Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
    of_fields: Callable[..., Any] | None = None,
    parts: bool = False,
    also: Mapping[str, Any] | None = None,
    comparable: Sequence[str] = (),
    asks: str | None = None,
    columns: Column | Mapping[str, Column] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a formula of sums becomes the score of two fields, or of sums from ``sums_function``.

    ``sums_function``: an `additive` function. ``needs``: sums that the formula takes; by default all. ``needed``:
    options that have to be given with two fields; by default those of ``sums_function`` without a default. ``fixed``:
    options of ``sums_function`` that the score sets itself. ``without``: options of ``sums_function`` that do not
    concern the score. ``of_fields``: takes two DataArrays and the options of both, and returns the score, where sums
    are not the best way to it. ``parts``: whether the formula returns a Dataset. Two Datasets then give a dim
    ``variable``. ``also``: what options of ``of_fields`` are in effect with sums. ``comparable``: options among
    ``needed`` that sums know and that may be said again beside them. ``asks``: what to say, after the name of the
    score, where one that is needed is missing. ``columns``: how it stands in tables of scores, if it does; by name
    where that is not the function's own. Returned: the score, with the docstring of the formula. Its keywords are
    those of the formula, then those of ``sums_function`` or ``of_fields``.
    """
    kind, fixed, also = KINDS[sums_function.__name__], dict(fixed or {}), dict(also or {})

    def decorate(formula: Callable[..., Any]) -> Callable[..., Any]:
        name = formula.__name__
        own = [p for p in inspect.signature(formula).parameters.values() if p.kind is p.KEYWORD_ONLY]
        own_names = {p.name for p in own}
        theirs = kind.options if of_fields is None else _keywords(of_fields)
        left_out = {*fixed, *without, *own_names, "keep_attrs"}
        options = [_optional(p) for p in theirs if p.name not in left_out]
        signature = inspect.Signature([*_FIELDS, *own, *options, _KEEP_ATTRS])
        asked = [
            n for n in (kind.needed if needed is None else needed) if n in signature.parameters and n not in own_names
        ]
        asked = asked if of_fields is None else []

        def of_pair(obs: xr.DataArray, fcst: xr.DataArray, given: dict[str, Any], keep_attrs: bool) -> Any:
            chosen = {k: v for k, v in given.items() if k in own_names}
            rest = {k: v for k, v in given.items() if k not in own_names}
            if of_fields is not None:
                result = of_fields(obs, fcst, **rest, **chosen)
            else:
                result = formula(kind.fields(obs, fcst, **fixed, **rest), **chosen)
            return with_attrs(result, obs if keep_attrs else None)

        @wraps(formula)
        def score(observations: Any, forecasts: Any = None, **given: Any) -> Any:
            unknown = [option for option in given if option not in signature.parameters]
            if unknown:
                raise TypeError(f"{name}() got an unexpected keyword argument {unknown[0]!r}")
            keep_attrs = given.pop("keep_attrs", False)
            if forecasts is None:
                if any(given.get(option) is not None for option in asked if option not in comparable):
                    raise TypeError(takes(name, kind, asked))
                result = of_sums(observations, given)
                return with_attrs(result, observations[_first(kind, needs)] if keep_attrs else None)
            if any(given.get(option) is None for option in asked):
                raise TypeError(f"{name} {asks}" if asks else takes(name, kind, asked))
            names = matching_variables(observations, forecasts)
            given = resolved_thresholds(given, observations, forecasts, names)
            if names is None or not parts:
                return each_variable(
                    lambda obs, fcst: of_pair(obs, fcst, given, keep_attrs), observations, forecasts, keep_attrs
                )
            each = [of_pair(observations[v], forecasts[v], given, keep_attrs) for v in names]
            return xr.concat(each, dim=xr.DataArray(names, dims="variable", name="variable"))

        def of_sums(sums: Any, given: dict[str, Any]) -> Any:
            settings = checked(sums, kind, name, needs, asked)
            known = also if settings is None else settings | also
            for option, value in given.items():
                if option not in own_names and option != "dim":
                    refuse_option(option, value, kind, known, name)
            sums = added_up(sums, kind, given.get("dim"))
            return without_label(formula(sums, **{k: v for k, v in given.items() if k in own_names}))

        score.__signature__ = signature  # type: ignore[attr-defined]
        named = {name: columns} if isinstance(columns, Column) else columns or {}
        limits = f"{next(iter(named.values())).in_words}; float64" if named else "float64"
        score.__doc__ = docstrings.of_score(
            inspect.cleandoc(formula.__doc__ or ""),
            kind.name,
            kind.doc,
            list(signature.parameters),
            kind.needed if needed is None else needed,
            f"{limits}, lazy where an input is.",
        )
        del score.__wrapped__  # type: ignore[attr-defined]  # the formula has another signature
        for called, column in named.items():
            RECORDS[called] = Record(
                **vars(column),
                score=score,
                formula=formula,
                sums=kind,
                needs=tuple(needs or kind.variables),
                of_sums=of_fields is None,
            )
        return score

    return decorate


def _keywords(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY)


def _optional(option: inspect.Parameter) -> inspect.Parameter:
    return option.replace(default=None) if option.default is option.empty else option


def _first(kind: Kind, needs: Sequence[str] | None) -> str:
    return (needs or kind.variables)[0]
