"""Cards of models: what they say, and how they are read from files that anybody may have written, field by field."""

import html
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnowcast import check
from xnowcast.models import earlier, registry
from xnowcast.terminal import printable

if TYPE_CHECKING:
    from xnowcast.models.base import Task

KEY = "xnowcast"

LONGEST_HEADER = 2**24
"""Bytes of a weights file that name its tensors; a network of a hundred thousand has fewer."""


LONGEST_TEXT = 2**20
"""Characters of a card; those that ship have some thousand."""

LONGEST_STEP = 366 * 86400.0
WIDEST_SPACING = 1e7
LARGEST_CROP = 100_000
"""Bounds of a contract: seconds, metres and cells that no training has."""


@dataclass(frozen=True)
class ModelCard:
    """What a model is, what it reads, and where its weights come from.

    Attributes
    ----------
    system : str
        Name in the registry.
    options : dict
        Options that the network was built with.
    reads : str
        Quantity, units, frames, step and grid, in words.
    description : str
        What it does.
    training_data, licence : str
        Sources of the weights; empty for a system that needs none.
    scores : dict
        Name of a score to its value, measured on data that were not trained on.
    parameters : int
        Number of trained numbers.
    sha256 : str
        Hash of the tensors; empty for a system that needs none.
    contract : dict
        What the weights add to the system's own task: ``step`` in seconds and ``spacing`` in metres of the data
        that they were trained on, or the least and the greatest of them, and the height and width in cells of their
        crops, ``crop``.
    edition : int
        Of the networks; a file of an earlier one is read as what it is now.

    Examples
    --------
    >>> print(ModelCard("persistence", reads="1 frame", description="The newest frame, unchanged."))
    persistence: The newest frame, unchanged.
      reads       1 frame
    """

    system: str
    options: dict[str, Any] = field(default_factory=dict)
    reads: str = ""
    description: str = ""
    training_data: str = ""
    licence: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    sha256: str = ""
    contract: dict[str, Any] = field(default_factory=dict)
    edition: int = earlier.EDITION

    @property
    def task(self) -> "Task":
        """What the model reads and gives: its system's task, with the step, grid and crops that its weights know."""
        declared = registry.declare(self.system, **self.options)
        seconds, spacing = self.contract.get("step"), self.contract.get("spacing")
        return replace(
            declared,
            step=declared.step if seconds is None else each(lambda s: timedelta(seconds=s), seconds),
            spacing=declared.spacing if spacing is None else each(float, spacing),
            crop=self.contract.get("crop", declared.crop),
        )

    def _rows(self) -> list[tuple[str, str]]:
        pairs = {
            "reads": self.reads,
            "options": ", ".join(f"{k}={v!r}" for k, v in self.options.items()),
            "parameters": f"{self.parameters:,}" if self.parameters else "",
            "trained on" if self.sha256 else "weights": self.training_data,
            "licence": self.licence,
            "scores": ", ".join(f"{k} {v:.3g}" for k, v in self.scores.items()),
            "sha256": self.sha256,
        }
        return [(name, printable(value)) for name, value in pairs.items() if value]

    def __str__(self) -> str:
        lines = [printable(f"{self.system}: {self.description}" if self.description else self.system)]
        return "\n".join(lines + [f"  {name:<11} {value}" for name, value in self._rows()])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left;padding-right:1em'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._rows()
        )
        return (
            f"<div><strong>{html.escape(printable(self.system))}</strong><p>{html.escape(printable(self.description))}</p>"
            f"<table>{rows}</table></div>"
        )


def in_words(task: Any) -> str:
    frames = "1 frame" if task.input_frames == 1 else f"{task.input_frames} frames"
    quantity = {"rain_rate": "rain rate", "vil": "VIL", None: "any precipitation field"}[task.quantity]
    steps, spacings = task.bounds("step"), task.bounds("spacing")
    minutes = [] if steps is None else [f"{s / timedelta(minutes=1):g}" for s in dict.fromkeys(steps)]
    step = f"a step of {' to '.join(minutes)} minute{'s' * (minutes != ['1'])}" if minutes else "any step"
    grid = f"grids of {task.min_grid} x {task.min_grid} cells or more"
    km = [] if spacings is None else dict.fromkeys(f"{metres / 1000:.3g}" for metres in spacings)
    spacing = f" at {' to '.join(km)} km" if km else ""
    crop = "" if task.crop is None else f", learnt from {task.crop} x {task.crop}"
    read = f"{frames} of {quantity}"
    if task.channels:
        count = f"{len(task.channels)} field{'s' if len(task.channels) > 1 else ''}"
        named = "task.channels names them" if len(task.channels) > 3 else ", ".join(task.channels)
        read = (
            f"{count} of a weather forecast ({named}){_lead_times(task)}"
            if task.verb == "postprocess"
            else f"{read} and {count} beside"
        )
    return f"{read}, {step}, {grid}{spacing}{crop}"


def _lead_times(task: Any) -> str:
    if not task.reads_lead_times:
        return ""
    steps = ", ".join(f"{offset:+d}" if offset else "0" for offset in task.lead_offsets)
    return f" at {len(task.lead_offsets)} lead times ({steps} steps)"


def read_card(path: str | Path) -> ModelCard:
    """The card of a weights file; reads its header only.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    ModelCard

    Raises
    ------
    ValueError
        If there is no such file, it is no safetensors file, is cut short, or holds no card of xnowcast.
    """
    with opened(path) as file:
        metadata = file.metadata() or {}
    name = printable(str(path))
    if KEY not in metadata and Path(path).name.startswith("checkpoint"):
        raise ValueError(
            f"{name} is the checkpoint of a run, which only a resumed training reads: the weights are "
            "model.safetensors or best.safetensors beside it"
        )
    if KEY not in metadata:
        raise ValueError(
            f"{name} is a safetensors file without an xnowcast card: write weights with xnowcast.weights.save"
        )
    try:
        return in_words_of_this_version(ModelCard(**earlier.card_fields(fields_of(metadata[KEY]))))
    except ValueError as error:
        raise ValueError(f"{name} has a card that cannot be read: {printable(str(error))}") from None


def in_words_of_this_version(card: ModelCard) -> ModelCard:
    """What the model reads follows from its task, and a file may have it in words of an earlier version."""
    if card.system not in registry.REGISTRY:
        return card
    with options_explained(card.system):
        return replace(card, reads=in_words(card.task))


@contextmanager
def options_explained(system: str) -> Iterator[None]:
    """Options come from a file that anybody may have written: whatever they break says so in one way."""
    try:
        yield
    except (TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError) as error:
        failure = f"{type(error).__name__}: {error}"
        raise ValueError(f"its options are none that {system!r} can be built with ({failure})") from None


def opened(path: str | Path) -> Any:
    """A safetensors file, its header read; a ValueError if it is none that could hold a model."""
    from safetensors import SafetensorError, safe_open

    if not is_file(path):
        raise ValueError(f"there is no weights file {printable(str(path))}")
    try:
        with Path(path).open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > LONGEST_HEADER:
            raise SafetensorError(f"its header has {header} bytes, and no model needs more than {LONGEST_HEADER}")
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{printable(str(path))} is no whole safetensors file: {printable(str(error))}") from None


def is_file(path: str | Path) -> bool:
    """Whether a path is a file; a name that the system cannot even look for is none.

    >>> is_file("x" * 5000)
    False
    """
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """A value changed, or each of a pair: JSON has lists for tuples."""
    return tuple(map(change, value)) if isinstance(value, list | tuple) else change(value)


def fields_of(text: str) -> dict[str, Any]:
    """The fields of a card, each of its kind; those that are not known, of a later version, are left out.

    ``text`` is the JSON of a weights file. A ValueError tells the field, what it is and what it must be.

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
    "parameters": (lambda v: check.is_whole(v, 0, 10**15), "a whole number of 0 or more"),
    "sha256": (lambda v: _is_text(v) and bool(re.fullmatch("[0-9a-f]{64}", v)), "a hash of 64 hexadecimal digits"),
    "contract": (lambda v: isinstance(v, dict), "an object with the step, the spacing and the crop of the training"),
    "edition": (lambda v: check.is_whole(v, 1, 10**6), "a whole number of 1 or more"),
}

_CONTRACT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "step": (lambda v: _is_range(v, LONGEST_STEP), "seconds above 0, or the least and the greatest"),
    "spacing": (lambda v: _is_range(v, WIDEST_SPACING), "metres above 0, or the least and the greatest"),
    "crop": (lambda v: check.is_whole(v, 1, LARGEST_CROP), "a number of cells"),
}
