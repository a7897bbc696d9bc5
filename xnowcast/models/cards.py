"""What a card may hold: it is read from a file that anybody may have written, and believed field by field."""

import json
import re
from collections.abc import Callable
from typing import Any

LONGEST_TEXT = 2**20
"""Characters of a card; those that ship have some thousand."""

LONGEST_STEP = 366 * 86400.0
WIDEST_SPACING = 1e7
LARGEST_CROP = 100_000
"""Bounds of a contract: seconds, metres and cells that no training has."""


def fields_of(text: str) -> dict[str, Any]:
    """The fields of a card, each of its kind; those that are not known, of a later version, are left out.

    Parameters
    ----------
    text : str
        JSON, as it stands in a weights file.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        With the field, what it is and what it must be.

    Examples
    --------
    >>> fields_of('{"system": "stldm", "colour": 3}')
    {'system': 'stldm'}
    >>> fields_of('{"system": "stldm", "parameters": "many"}')
    Traceback (most recent call last):
    ValueError: parameters is 'many'; it must be a whole number of 0 or more
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"it has {len(text)} characters, and a card has up to {LONGEST_TEXT}")
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"it is a {type(content).__name__}; it must be an object with a field 'system'")
    if "system" not in content:
        raise ValueError("it has no field 'system'")
    known = {name: content[name] for name in _FIELDS if name in content}
    for name, value in known.items():
        _require(name, value, *_FIELDS[name])
    for name, value in known.get("contract", {}).items():
        if name in _CONTRACT:
            _require(f"contract {name}", value, *_CONTRACT[name])
    return known


def _require(name: str, value: Any, holds: Callable[[Any], bool], kind: str) -> None:
    if not holds(value):
        shown = ascii(value)
        raise ValueError(f"{name} is {shown[:60] + '...' * (len(shown) > 60)}; it must be {kind}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    """A number that can be shown, NaN and infinity among them."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e300)


def _is_count(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_range(value: Any, most: float) -> bool:
    """A number above 0, or the least and the greatest of several."""
    ends = value if isinstance(value, list) else [value, value]
    return len(ends) == 2 and all(map(_is_number, ends)) and 0 < ends[0] <= ends[1] <= most


_TEXT = (_is_text, "a text")

_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "system": (lambda v: _is_text(v) and 0 < len(v) <= 200, "the name of a system"),
    "options": (lambda v: isinstance(v, dict), "an object of options and their values"),
    **dict.fromkeys(("reads", "description", "training_data", "licence"), _TEXT),
    "scores": (lambda v: isinstance(v, dict) and all(map(_is_number, v.values())), "an object of numbers"),
    "parameters": (lambda v: _is_count(v, 0, 10**15), "a whole number of 0 or more"),
    "sha256": (lambda v: _is_text(v) and bool(re.fullmatch("[0-9a-f]{64}", v)), "a hash of 64 hexadecimal digits"),
    "contract": (lambda v: isinstance(v, dict), "an object with the step, the spacing and the crop of the training"),
}

_CONTRACT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "step": (lambda v: _is_range(v, LONGEST_STEP), "seconds above 0, or the least and the greatest"),
    "spacing": (lambda v: _is_range(v, WIDEST_SPACING), "metres above 0, or the least and the greatest"),
    "crop": (lambda v: _is_count(v, 1, LARGEST_CROP), "a number of cells"),
}
