"""Of which kind an option is, told by the annotation of the model's ``declare``: models then check the range alone."""

import reprlib
import sys
from collections.abc import Mapping, Sequence
from inspect import Parameter
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

LARGEST_COUNT = 100_000
"""Of an option that is a whole number: frames, channels, steps of a diffusion, cells of a tile. A slip of the finger
beyond it would ask for all memory there is."""

_WORDS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a word", NoneType: "None"}

_SEVERAL = {int: "whole numbers", float: "finite numbers", str: "words"}


def in_kind(option: str, value: Any, parameter: Parameter) -> Any:
    """The value of an option, in Python's own types where it is of the right kind.

    Parameters
    ----------
    option : str
        Its name.
    value : object
        Numbers of NumPy are numbers; True and False are none, and neither are NaN and infinity.
    parameter : inspect.Parameter
        Of ``declare``. Where its annotation tells nothing the value is taken as it is.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        With the name of the option and what would be right.

    Examples
    --------
    >>> frames = Parameter("input_frames", Parameter.KEYWORD_ONLY, annotation=int)
    >>> in_kind("input_frames", np.int64(4), frames)
    4
    >>> in_kind("input_frames", 2.5, frames)
    Traceback (most recent call last):
    ValueError: input_frames is 2.5; it must be a whole number
    """
    found = plain(value)
    kinds = _kinds(parameter.annotation)
    if not kinds or any(_is(found, kind) for kind in kinds):
        if type(found) is int and int in kinds and found > LARGEST_COUNT:
            raise ValueError(f"{option} is {found}; it can be {LARGEST_COUNT} at most")
        return found
    raise ValueError(f"{option} is {reprlib.repr(value)}; it must be {' or '.join(map(_in_words, kinds))}")


def _kinds(annotation: Any) -> list[Any]:
    """What an annotation allows; nothing where that cannot be told."""
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    known = all(kind in _WORDS or get_origin(kind) in (Literal, Sequence, Mapping, tuple, list) for kind in options)
    return list(options) if known else []


def _is(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, tuple({type(word) for word in get_args(kind)}))  # models list their words themselves
    if origin is Mapping:
        return isinstance(value, Mapping)
    if origin is not None:
        one = _kinds(get_args(kind)[0]) if get_args(kind) else []
        return isinstance(value, list | tuple) and (not one or all(any(_is(v, k) for k in one) for v in value))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def plain(value: Any) -> Any:
    """A value of NumPy in Python's own types, also in a list."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def _in_words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if origin is Mapping:
        return "a mapping"
    if origin is not None:
        return f"a list of {_SEVERAL.get(get_args(kind)[0], 'values')}" if get_args(kind) else "a list"
    return _WORDS[kind]
