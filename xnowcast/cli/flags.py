"""Flags of a command, made from the signature and the docstring of the function that it runs."""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from inspect import Parameter, getdoc, signature
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from xnowcast.configuration import init_times


def add_flags(
    command: argparse.ArgumentParser, function: Callable[..., Any], *, default_model: str, as_for: Any = None
) -> None:
    """Give a command a flag for each argument of a function but the first, and ``--option`` for a model's own.

    ``default_model``: what runs where none is named, in words. ``as_for``: the function that describes what the
    docstring of this one leaves to it.
    """
    meanings = (_meanings(as_for) if as_for is not None else {}) | _meanings(function)
    for parameter in _arguments(function):
        flags = [f"--{parameter.name.replace('_', '-')}", *(["--format"] if parameter.name == "file_format" else [])]
        how: dict[str, Any] = {
            "dest": parameter.name,
            "help": _help(parameter, meanings.get(parameter.name, ""), default_model),
        }
        how |= {"required": True} if parameter.default is Parameter.empty else {"default": parameter.default}
        command.add_argument(*flags, **how | _how(parameter))
    if any(p.kind is Parameter.VAR_KEYWORD for p in signature(function).parameters.values()):
        command.add_argument(
            "--option",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="an option of the model's own, such as sampling_steps=10; may be repeated (xnowcast models NAME lists "
            "them)",
        )


def arguments_of(options: argparse.Namespace, function: Callable[..., Any]) -> dict[str, Any]:
    """What was given on the command line as arguments of the function, its first left out."""
    given = {parameter.name: getattr(options, parameter.name) for parameter in _arguments(function)}
    for name, written in WRITTEN.items():
        if given.get(name) is not None:
            given[name] = written.read(given[name])
    return given | dict(_name_and_value(option) for option in getattr(options, "option", []))


def _arguments(function: Callable[..., Any]) -> list[Parameter]:
    """Arguments that have a flag: what is given by its place has none, and a bar is shown where somebody looks."""
    placed = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty)
    taken = (p for p in signature(function).parameters.values() if (p.kind, p.default) != placed)
    return [p for p in taken if p.kind is not Parameter.VAR_KEYWORD and p.name != "progress"]


def _help(parameter: Parameter, meaning: str, default_model: str) -> str:
    if parameter.name in WRITTEN and WRITTEN[parameter.name].meaning:
        meaning = WRITTEN[parameter.name].meaning.format(default=default_model)
    tells = parameter.default not in (Parameter.empty, None) and not isinstance(parameter.default, bool)
    words = [meaning, f"{parameter.default} by default" if tells else ""]
    return "; ".join(filter(None, words)).replace("%", "%%")


def _how(parameter: Parameter) -> dict[str, Any]:
    """How argparse takes an argument, by its annotation."""
    if parameter.name in WRITTEN:
        return WRITTEN[parameter.name].how
    annotation = parameter.annotation
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = tuple(kind for kind in kinds if kind is not NoneType)
    if kinds == (bool,):
        return {"action": "store_true" if parameter.default is False else argparse.BooleanOptionalAction}
    if kinds in ((int,), (float,)):
        return {"type": kinds[0]}
    if all(get_origin(kind) is Literal for kind in kinds):
        return {"choices": [word for kind in kinds for word in get_args(kind)]}
    return {}


def _meanings(function: Callable[..., Any]) -> dict[str, str]:
    """The first sentence that a NumPy docstring says of each argument, without its markup."""
    parameters = (getdoc(function) or "").partition("Parameters\n---")[2].partition("\n\n")[0]
    found = re.findall(r"^(\w+) :.*((?:\n    .*)*)", parameters, re.MULTILINE)
    names = {name: f"--{name.replace('_', '-')}" for name, _ in found if "_" in name}
    meanings = {}
    for name, text in found:
        sentence = re.split(r"\.(?=\s|$)", re.sub(r"[`\"]", "", " ".join(text.split())))[0]
        sentence = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), sentence)
        meanings[name] = sentence[:1].lower() + sentence[1:]
    return meanings


class _Written:
    """An argument that is written on the command line otherwise than in Python.

    ``read``: from what was written to the argument. ``meaning``: the help, where that of the docstring will not do.
    ``**how``: for argparse.
    """

    def __init__(self, read: Callable[[Any], Any], meaning: str = "", **how: Any):
        self.read, self.meaning, self.how = read, meaning, how


def _relation(text: str) -> tuple[float, float]:
    from xnowcast.fields.units import zr_relation

    if text[:1].isalpha():
        return zr_relation(text)
    try:
        a, b = (float(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"--zr is {text!r}; write a and b with a comma between, such as 200,1.6") from None
    return a, b


def _opened(path: str) -> Any:
    from xnowcast.data import storage

    return storage.open_input(path)


def _channels(pairs: list[str]) -> Mapping[str, str]:
    found = {}
    for pair in pairs:
        channel, equals, variable = pair.partition("=")
        if not equals:
            raise ValueError(f"--channels is {pair!r}; write it as CHANNEL=VARIABLE")
        found[channel] = variable
    return found


def _ranges(pairs: list[str]) -> Mapping[str, tuple[float, float]]:
    found = {}
    for pair in pairs:
        name, _, ends = pair.partition("=")
        try:
            low, high = (float(number) for number in ends.split(","))
        except ValueError:
            raise ValueError(f"--ranges is {pair!r}; write it as NAME=LOWEST,LARGEST") from None
        found[name] = low, high
    return found


def _name_and_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--option is {text!r}; write it as NAME=VALUE")
    if value.startswith("["):
        try:
            return name, json.loads(value)
        except ValueError:
            raise ValueError(f'--option is {text!r}; write several values as NAME=["a", "b"]') from None
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            pass
    return name, {"true": True, "false": False, "none": None}.get(value.lower(), value)


WRITTEN = {
    "model": _Written(
        str, "a name (xnowcast models lists them) or a weights file; by default that of --weights, else {default}"
    ),
    "init_times": _Written(
        lambda text: init_times(text, "--init-times"),
        "when forecasts start: latest, all, one time such as 2016-07-11T21:00, several with commas, or START/STOP or "
        "START/STOP/STEP, both ends included",
    ),
    "zr": _Written(
        _relation,
        "a,b of Z = a R^b for reflectivity, or a name such as hko-7; by default that of the file, else 200,1.6",
    ),
    "static": _Written(_opened, metavar="FILE"),
    "grid": _Written(_opened, metavar="FILE"),
    "channels": _Written(
        _channels,
        "a variable that the file's attributes do not name, such as 'air_temperature at 850 hPa=T850'; may be repeated",
        action="append",
        metavar="CHANNEL=VARIABLE",
    ),
    "ranges": _Written(_ranges, action="append", metavar="NAME=LOWEST,LARGEST"),
    "category": _Written(lambda text: int(text) if text.isdigit() else text),
}
"""Arguments that are no number, word or flag."""
