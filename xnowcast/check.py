"""Arguments that are none, refused at the door by their own names."""

import sys
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np


def whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Refuse what is no whole number within bounds.

    Parameters
    ----------
    name : str
        Of the argument.
    value : object
    least, most : int
        None is no bound.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> whole("keep", 0, 1)
    Traceback (most recent call last):
    ValueError: keep is 0; it must be a whole number of 1 or more
    """
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        bounds = f"{least} or more" if most is None else f"{least} or more, up to {most}"
        raise ValueError(f"{name} is {value!r}; it must be a whole number of {bounds}")


def number(name: str, value: Any, words: str, accepts: Callable[[Any], bool]) -> None:
    """Refuse what is no finite number, or not accepted.

    Parameters
    ----------
    name : str
    value : object
    words : str
        Which numbers are accepted, such as ``"above 0"``.
    accepts : callable

    Raises
    ------
    ValueError

    Examples
    --------
    >>> number("min_coverage", float("nan"), "from 0 to 1", lambda share: 0 <= share <= 1)
    Traceback (most recent call last):
    ValueError: min_coverage is nan; it must be a number from 0 to 1
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not abs(value) <= sys.float_info.max or not accepts(value):
        raise ValueError(f"{name} is {value!r}; it must be a number {words}")


def one_of(name: str, value: Any, known: Sequence[Any]) -> None:
    """Refuse what is none of the words that are known.

    Parameters
    ----------
    name : str
    value : object
    known : sequence

    Raises
    ------
    ValueError

    Examples
    --------
    >>> one_of("file_format", "grib", ("nc", "zarr"))
    Traceback (most recent call last):
    ValueError: file_format is 'grib'; it can be 'nc' or 'zarr'
    """
    if not any(type(value) is type(word) and value == word for word in known):
        *others, last = map(repr, known)
        words = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name} is {value!r}; it can be {words}")


def flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    Parameters
    ----------
    name : str
    value : object

    Raises
    ------
    ValueError

    Examples
    --------
    >>> flag("overwrite", "yes")
    Traceback (most recent call last):
    ValueError: overwrite is 'yes'; it must be True or False
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value!r}; it must be True or False")


def path(name: str, value: Any) -> None:
    """Refuse what is no path.

    Parameters
    ----------
    name : str
    value : object

    Raises
    ------
    ValueError

    Examples
    --------
    >>> path("out", None)
    Traceback (most recent call last):
    ValueError: out is None; it must be the path of a file or folder
    """
    if not isinstance(value, str | PathLike) or not str(value).strip():
        raise ValueError(f"{name} is {value!r}; it must be the path of a file or folder")
