"""Arguments that are none, refused at the door by their own names: of another kind than annotated, or out of range."""

import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, signature
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

LARGEST_COUNT = 100_000
"""Of a model's option that is a whole number: frames, channels, steps of a diffusion, cells of a tile. A slip of the
finger beyond it would ask for all memory there is."""

LARGEST_NUMBER = 1e30
"""Of a model's option that is any other number: torch computes with float32."""

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "a word",
    Path: "a path",
    NoneType: "None",
}

_ORDERED = (Sequence, Iterable, tuple, list)

_SEVERAL = {int: "whole numbers", float: "finite numbers", str: "words"}


def call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of another kind than a function's annotations say.

    ``function``: arguments without a default, and those whose annotations tell no kind that is known here, are left to
    it. What is annotated as a sequence may be anything that can be looped over, whose items are its own affair.
    ``arguments``: by their names, as ``locals()`` at its first line; others are left out. ValueError with the name of
    the argument and what would be right.

    >>> def verb(seed: int = 0, *, how: Literal["raise", "warn"] = "raise"):
    ...     call(verb, locals())
    >>> verb(np.int64(3), how="warn")
    >>> verb(how="x")
    Traceback (most recent call last):
    ValueError: how is 'x'; it can be 'raise' or 'warn'
    """
    for name, parameter in signature(function).parameters.items():
        kinds = _kinds(parameter.annotation)
        several = any(get_origin(kind) in _ORDERED for kind in kinds)
        if name not in arguments or parameter.default is Parameter.empty or (several and _is_several(arguments[name])):
            continue
        value = in_kind(name, arguments[name], parameter.annotation, example=parameter.default)
        choices = [get_args(kind) for kind in kinds if kind is not NoneType and get_origin(kind) is Literal]
        words = [word for some in choices for word in some]
        if isinstance(value, str) and value not in words and len(choices) == len(set(kinds) - {NoneType}) > 0:
            raise ValueError(f"{name} is {reprlib.repr(value)}; it can be {_or(map(repr, words))}")


def in_kind(name: str, value: Any, annotation: Any, *, most: int | None = None, example: Any = None) -> Any:
    """A value in Python's own types where it is of the right kind.

    ``name``: what it is called, for the message. ``value``: numbers of NumPy are numbers; True and False are none, and
    neither are NaN and infinity. ``annotation``: what says the kind. Where it tells nothing the value is taken as it
    is. ``most``: the largest whole number; then other numbers have a bound too, `LARGEST_NUMBER`. ``example``: where it
    is a word, the message says it. ValueError with the name and what would be right.

    >>> in_kind("input_frames", np.int64(4), int)
    4
    >>> in_kind("input_frames", 2.5, int | None)
    Traceback (most recent call last):
    ValueError: input_frames is 2.5; it must be a whole number or None
    """
    found, kinds = plain(value), _kinds(annotation)
    if not kinds or any(_is(found, kind) for kind in kinds):
        largest = most if type(found) is int and int in kinds else LARGEST_NUMBER
        if most is not None and type(found) in (int, float) and kinds and abs(found) > largest:
            raise ValueError(f"{name} is {found}; it can be {largest:g} at most")
        return found
    such = f", such as {example!r}" if isinstance(example, str) else ""
    raise ValueError(f"{name} is {reprlib.repr(value)}; it must be {_or(map(_in_words, kinds))}{such}")


def plain(value: Any) -> Any:
    """A number of NumPy, or a list of some, in Python's own types; anything else as it is.

    >>> plain([np.float64(0.5), np.int64(2)])
    [0.5, 2]
    """
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufUS":
        return value.tolist()
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def _kinds(annotation: Any) -> list[Any]:
    """What an annotation allows; nothing where that cannot be told."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return list(kinds) if all(map(_is_known, kinds)) else []


def _is_known(kind: Any) -> bool:
    if get_origin(kind) is not None:
        return get_origin(kind) in (Literal, Mapping, *_ORDERED)
    return isinstance(kind, type) and (kind in _WORDS or _is_of_xarray(kind))


def _is_several(value: Any) -> bool:
    """Whether a value can be looped over; a word is one item, which is as good."""
    one = isinstance(value, Mapping | bytes) or (isinstance(value, np.ndarray) and value.ndim == 0)
    return hasattr(value, "__iter__") and not one


def _is_of_xarray(kind: type) -> bool:
    return kind.__module__.startswith("xarray.")


def _is(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, tuple({type(word) for word in get_args(kind)}))
    if origin is Mapping:
        return isinstance(value, Mapping)
    if origin is not None:
        if isinstance(value, Mapping):  # may name its items, as channels of a data set: what takes it says how it would
            return True
        one = _kinds(get_args(kind)[0]) if get_args(kind) else []
        return isinstance(value, list | tuple) and (not one or all(any(_is(v, k) for k in one) for v in value))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if kind is Path:
        return isinstance(value, os.PathLike)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _in_words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if origin is Mapping:
        return "a mapping"
    if origin is not None:
        return f"a list of {_SEVERAL.get(get_args(kind)[0], 'values')}" if get_args(kind) else "a list"
    return _WORDS.get(kind, f"a {kind.__name__}")


def _or(words: Any) -> str:
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def is_whole(value: Any, least: int | None = None, most: int | None = None) -> bool:
    """Whether it is a whole number within bounds, which True and False are not; None is no bound."""
    number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return number and (least is None or value >= least) and (most is None or value <= most)


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number within bounds in Python's own type; anything else is refused by the name of its argument.

    >>> whole("keep", 0, 1)
    Traceback (most recent call last):
    ValueError: keep is 0; it must be a whole number of 1 or more
    """
    if not is_whole(value, least, most):
        bounds = f"{least} or more" if most is None else f"{least} or more, up to {most}"
        raise ValueError(f"{name} is {value!r}; it must be a whole number of {bounds}")
    return int(value)


def nearest(name: Any, known: Iterable[Any]) -> str | None:
    """The known name that somebody meant who misspelt it, if one is near."""
    near = get_close_matches(str(name), [str(one) for one in known], n=1, cutoff=0.6)
    return near[0] if near else None


def did_you_mean(name: Any, known: Iterable[Any], otherwise: str) -> str:
    """The end of a message about a name that is not known: the nearest one, or other words where none is near.

    >>> did_you_mean("rmsse", ["mae", "rmse"], "there are 'mae' and 'rmse'")
    "did you mean 'rmse'?"
    """
    near = nearest(name, known)
    return f"did you mean {near!r}?" if near else otherwise


def number(name: str, value: Any, words: str, accepts: Callable[[Any], bool]) -> None:
    """Refuse what is no finite number, or not accepted.

    ``words``: which numbers are accepted, such as ``"above 0"``.

    >>> number("min_coverage", float("nan"), "from 0 to 1", lambda share: 0 <= share <= 1)
    Traceback (most recent call last):
    ValueError: min_coverage is nan; it must be a number from 0 to 1
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not abs(value) <= sys.float_info.max or not accepts(value):
        raise ValueError(f"{name} is {value!r}; it must be a number {words}")


def one_of(name: str, value: Any, known: Sequence[Any]) -> None:
    """Refuse what is none of the words that are known.

    >>> one_of("file_format", "grib", ("nc", "zarr"))
    Traceback (most recent call last):
    ValueError: file_format is 'grib'; it can be 'nc' or 'zarr'
    """
    if not any(type(value) is type(word) and value == word for word in known):
        raise ValueError(f"{name} is {value!r}; it can be {_or(map(repr, known))}")


def flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    >>> flag("overwrite", "yes")
    Traceback (most recent call last):
    ValueError: overwrite is 'yes'; it must be True or False
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value!r}; it must be True or False")


def path(name: str, value: Any) -> None:
    """Refuse what is no path.

    >>> path("out", None)
    Traceback (most recent call last):
    ValueError: out is None; it must be the path of a file or folder
    """
    if not isinstance(value, str | PathLike) or not str(value).strip():
        raise ValueError(f"{name} is {value!r}; it must be the path of a file or folder")
