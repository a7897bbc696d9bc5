"""Configurations as TOML files have them: read, changed by the command line, and refused where a name is not known."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xnowcast.check import did_you_mean


def read_toml(path: str | Path, changes: Iterable[str] = (), *, example: str) -> dict[str, Any]:
    """The content of a TOML file, some of its values replaced.

    ``changes``: ``"section.key=value"``; a value that is no TOML is a word. ``example``: such a change, for messages.
    ValueError if the file is missing or no TOML, or a change is not written so.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "run.toml")
    ...     _ = path.write_text("training.steps = 500")
    ...     read_toml(path, ["training.steps=100", "model.name=stldm"], example="a.b=1")
    {'training': {'steps': 100}, 'model': {'name': 'stldm'}}
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no configuration {path}")
    try:
        content = tomllib.loads(Path(path).read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML that can be read: {error}") from None
    for change in changes:
        _change(content, change, example)
    return content


def _change(content: dict[str, Any], change: str, example: str) -> None:
    key, equals, text = change.partition("=")
    *sections, name = key.strip().split(".")
    if not (equals and sections and all(sections) and name):
        raise ValueError(f"--set is {change!r}; write it as section.key=value, such as {example}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:  # a bare word
        value = text.strip()
    for section in sections:
        content = content.setdefault(section, {})
    content[name] = value


def check_sections(content: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse sections that are not known, and what should be a section and is a value.

    ``content``: of a configuration.
    """
    refuse_unknown("section", content, known)
    for section, keys in content.items():
        if not isinstance(keys, Mapping):
            raise ValueError(f"{section} is {keys!r}; it must be a section, [{section}]")


def refuse_unknown(what: str, found: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that are not known.

    ``what``: what they name. ValueError with the nearest known name, or all of them.

    >>> refuse_unknown("key in [data]", ["pahts"], ["paths", "stride"])
    Traceback (most recent call last):
    ValueError: there is no key in [data] 'pahts'; did you mean 'paths'?
    """
    known = list(known)
    for name in found:
        if name not in known:
            hint = did_you_mean(name, known, f"known are {', '.join(known)}")
            raise ValueError(f"there is no {what} {name!r}; {hint}")


def init_times(text: str, called: str = "init_times") -> Any:
    """Init times as `xnowcast.forecast` takes them, out of one word.

    ``text``: "all", "latest", a time, several with commas, or START/STOP or START/STOP/STEP. ``called``: what the user
    calls it, for messages. ValueError if a range has more than three parts.

    >>> init_times("2023-01-01/2023-12-31/1h")
    slice('2023-01-01', '2023-12-31', '1h')
    """
    if "/" in text:
        parts = [part or None for part in text.split("/")]
        if len(parts) > 3:
            raise ValueError(f"{called} is {text!r}; a range is START/STOP or START/STOP/STEP")
        return slice(*parts)
    return text.split(",") if "," in text else text
