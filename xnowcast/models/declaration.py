"""Options of models, each declared once: constructor, ``declare``, registry, cards, messages and docs read it here."""

import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from inspect import Parameter, Signature, cleandoc
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, Union, cast, get_args, get_origin

from xnowcast.check import LARGEST_COUNT, in_kind

if TYPE_CHECKING:
    from xnowcast.models.base import Task

DOC_WIDTH = 116


def option(
    default: Any,
    meaning: str,
    *,
    choices: Collection[Any] = (),
    least: float | None = None,
    runtime: bool = False,
    only: Mapping[str, Collection[Any]] | None = None,
) -> Any:
    """A field of a class of `Options`.

    ``meaning``: for the documentation, in a sentence or a few. ``choices``: what it can be; where the annotation is a
    ``Literal``, that says it. ``least``: what a number has to be at least. ``runtime``: whether weights can be run with
    any value of it, such as the steps of a sampler; they fix others. ``only``: names of other options, and the values
    of them with which this one has a meaning.
    """
    narrowed = {name: tuple(values) for name, values in (only or {}).items()}
    rules = {"choices": tuple(choices), "least": least, "runtime": runtime, "only": narrowed}
    return field(default=default, metadata={"meaning": meaning} | rules)


def redeclared(options: type["Options"], name: str, default: Any) -> Any:
    """An option of another class with another default, for a class that inherits it."""
    return field(default=default, metadata=next(one.metadata for one in fields(options) if one.name == name))


@dataclass(frozen=True)
class Declaration:
    """All that is known of one option; its attributes are those of `option`, and its name and annotation."""

    name: str
    annotation: Any
    default: Any
    meaning: str
    choices: tuple[Any, ...]
    least: float | None
    runtime: bool
    only: Mapping[str, tuple[Any, ...]]

    def checked(self, value: Any) -> Any:
        """A value in Python's own types; a ValueError if it is of another kind or not allowed."""
        value = in_kind(self.name, value, self.annotation, most=LARGEST_COUNT)
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}: choose one of {', '.join(map(repr, self.choices))}")
        if self.least is not None and value is not None and not value >= self.least:
            raise ValueError(f"{self.name} is {value}: it must be at least {self.least}")
        return value

    def belongs_to(self, options: Mapping[str, Any]) -> bool:
        """Whether it has a meaning beside other options; those that are not there may be anything."""
        return all(options.get(name, values[0]) in values for name, values in self.only.items())

    @property
    def values(self) -> str:
        """What it can be, as docstrings have it."""
        if self.choices:
            known = ", ".join(
                f'"{one}"' if isinstance(one, str) else str(one) for one in self.choices if one is not None
            )
            words = f"{{{known}}}"
        else:
            words = " or ".join(_in_words(kind) for kind in _kinds(self.annotation) if kind is not NoneType)
        return f"{words}, optional" if self.default is None else words


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ", ".join(f'"{word}"' for word in get_args(kind)) + "}"
    of = get_args(kind)
    name = getattr(get_origin(kind) or kind, "__name__", str(kind)).lower()
    return f"{name} of {_in_words(of[0])}" if of else name


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a model can be built with: a frozen dataclass whose fields are made by `option`.

    A class that inherits adds its fields, `task`, and in `check` what several options have to fulfil together.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class FadingOptions(Options):
    ...     rate: float = option(0.1, "Share of the rain that is lost in a step.", least=0, runtime=True)
    >>> FadingOptions(rate=0.2)
    FadingOptions(rate=0.2)
    >>> FadingOptions(rate=-1)
    Traceback (most recent call last):
    ValueError: rate is -1: it must be at least 0
    """

    def __post_init__(self) -> None:
        declared = self.declared()
        for name, declaration in declared.items():
            object.__setattr__(self, name, declaration.checked(getattr(self, name)))
        for name, declaration in declared.items():
            if getattr(self, name) != declaration.default and not declaration.belongs_to(vars(self)):
                needed = " and ".join(f"{other} {_either(values)}" for other, values in declaration.only.items())
                raise ValueError(f"{name} is an option for {needed} alone: leave it out")
        self.check()

    @classmethod
    def declared(cls) -> dict[str, Declaration]:
        """All options by their names."""
        known = {}
        for one in fields(cls):
            if one.metadata:
                literals = [
                    value for kind in _kinds(one.type) if get_origin(kind) is Literal for value in get_args(kind)
                ]
                rules = dict(one.metadata) | {"choices": one.metadata["choices"] or _with_none(literals, one.type)}
                known[one.name] = Declaration(one.name, one.type, one.default, **rules)
        return known

    def check(self) -> None:
        """Refuse options that do not go together, each by its name."""

    def task(self) -> "Task":
        """What a model with these options reads and gives."""
        raise NotImplementedError


def _with_none(literals: list[Any], annotation: Any) -> tuple[Any, ...]:
    return (*literals, None) if literals and NoneType in _kinds(annotation) else tuple(literals)


def _either(values: Collection[Any]) -> str:
    return " or ".join(map(repr, values))


Own = TypeVar("Own", bound=Options)


class Declared(Generic[Own]):
    """A model with options of a class of `Options`: ``class Fading(Declared[FadingOptions], nn.Module)``.

    Its constructor takes them as keywords, hands them on with ``super().__init__(**options)``, and finds them in
    ``self.options``. `declare`, signatures, ``RUNTIME_OPTIONS`` (what any weights can be run with) and the section
    "Parameters" of the docstring are made from the declarations.
    """

    Options: ClassVar[type[Options]]
    RUNTIME_OPTIONS: ClassVar[tuple[str, ...]] = ()
    options: Own

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = cast(Own, self.Options(**options))
        self.task = self.options.task()

    def __getattr__(self, name: str) -> Any:
        """Options of running are attributes of the model as well: ``model.sampling_steps``."""
        if name in self.RUNTIME_OPTIONS and "options" in vars(self):
            return getattr(self.options, name)
        parents = super()
        if hasattr(parents, "__getattr__"):
            return parents.__getattr__(name)  # torch finds parameters and submodules so
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        """``model.sampling_steps = 5`` changes the option, checked as when it is built, and not something beside it."""
        if name in self.RUNTIME_OPTIONS and "options" in vars(self):
            name, value = "options", replace(self.options, **{name: value})
        super().__setattr__(name, value)

    @classmethod
    def declare(cls, **options: Any) -> "Task":
        """What it reads and gives; the options are those of the class, and are checked here."""
        return cls.Options(**options).task()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        bases = [base for base in vars(cls).get("__orig_bases__", ()) if isinstance(get_origin(base), type)]
        named = [get_args(base)[0] for base in bases if issubclass(get_origin(base), Declared)]
        if not named or isinstance(named[0], TypeVar):
            return
        cls.Options = named[0]
        declared = cls.Options.declared().values()
        cls.RUNTIME_OPTIONS = tuple(one.name for one in declared if one.runtime)
        cls.__doc__ = cls.__doc__ and documented(cls.__doc__, declared)

        def declare(cls: type[Declared], **options: Any) -> "Task":
            return cls.Options(**options).task()

        keywords_of_it = [
            Parameter(one.name, Parameter.KEYWORD_ONLY, default=one.default, annotation=one.annotation)
            for one in declared
        ]
        declare.__doc__ = Declared.declare.__doc__
        for function, bound in ((declare, "cls"), (vars(cls).get("__init__"), "self")):
            if function is not None:
                first = Parameter(bound, Parameter.POSITIONAL_OR_KEYWORD)
                function.__signature__ = Signature([first, *keywords_of_it])  # type: ignore[attr-defined, union-attr]
        cls.declare = classmethod(declare)  # type: ignore[assignment, method-assign]


def documented(text: str, declared: Iterable[Declaration]) -> str:
    """A docstring with the options as its section "Parameters", before the other sections."""
    lines = cleandoc(text).split("\n")
    under = (number for number, line in enumerate(lines) if number and line and not line.strip("-"))
    first = next(under, len(lines) + 1) - 1
    section = ["Parameters", "----------"]
    for one in declared:
        meaning = textwrap.wrap(one.meaning, DOC_WIDTH - 4, break_long_words=False, break_on_hyphens=False)
        section += [f"{one.name} : {one.values}", *(f"    {line}" for line in meaning)]
    if len(section) == 2:
        return "\n".join(lines)
    return "\n".join([*lines[:first], *([""] if first == len(lines) else []), *section, "", *lines[first:]]).rstrip()


def table(declared: Iterable[Declaration]) -> str:
    """The options as a table in Markdown, as pages of the documentation have it."""
    rows = ["| option | default | | weights |", "|---|---|---|---|"]
    for one in declared:
        default = textwrap.shorten(
            str(one.default) if one.default is None else repr(one.default), 50, placeholder=" ..."
        )
        choices = [f"`{value!r}`" for value in one.choices if value not in (one.default, None)]
        others = f" Or {', '.join(choices)}." if choices else ""
        rows.append(f"| `{one.name}` | `{default}` | {one.meaning}{others} | {'free' if one.runtime else 'fixed'} |")
    return "\n".join(rows)
