"""Trained weights that come with the package, by name, and the models that a verb takes where nobody names one.

A file ``NAME.safetensors`` beside this one is all that it takes: its name then works wherever a model's name does.
"""

import logging
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from xnowcast.models import registry
from xnowcast.models.cards import ModelCard, read_card
from xnowcast.terminal import warn

log = logging.getLogger("xnowcast")

FOLDER = Path(__file__).parent / "pretrained"
"""Where the files lie."""

PREFERRED: dict[str, tuple[str, ...]] = {
    "forecast": ("lagrangian", "sprog", "extrapolation"),
    "deblur": ("postcast",),
    "downscale": ("stvd",),
    "postprocess": ("nwp-raw",),  # those that ship learnt from synthetic forecasts: who takes one has to name it
    "explain": ("nwp-mae",),
}
"""Systems that a verb takes where nobody names one, the best first. The last of ``forecast`` runs on any data."""

PREFERRED_ENSEMBLES = ("steps",)
"""The same of a forecast with several members; it runs on any data of three frames."""

TABLE_WIDTH = 110
"""Characters of a line of `table`, so that a terminal shows it unbroken."""

T = TypeVar("T")


def names() -> list[str]:
    """Names of the weights that ship.

    A name is that of its system, or begins with it where a system has several: ``"stvd-4"`` refines by a factor of 4.

    Returns
    -------
    list of str

    Examples
    --------
    >>> names() == sorted(names())
    True
    """
    return sorted(file.stem for file in FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """The file of some weights.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If no weights of that name ship.

    Examples
    --------
    >>> path("rain")
    Traceback (most recent call last):
    ValueError: no weights ship as 'rain'; ...
    """
    if name not in names():
        raise ValueError(f"no weights ship as {name!r}; there are {', '.join(names()) or 'none'}")
    return FOLDER / f"{name}.safetensors"


def of_system(system: str) -> dict[str, ModelCard]:
    """Weights of a system that ship.

    Parameters
    ----------
    system : str
        One of `xnowcast.models.names`.

    Returns
    -------
    dict of str to ModelCard
        By their names.

    Examples
    --------
    >>> of_system("persistence")
    {}
    """
    cards = {name: read_card(path(name)) for name in names() if name.startswith(system)}
    return {name: card for name, card in cards.items() if card.system == system}


def default(verb: str) -> str:
    """The system that a verb takes where nobody names one: the first that needs no weights or has some that ship.

    Parameters
    ----------
    verb : {"forecast", "deblur", "downscale", "postprocess", "explain"}

    Returns
    -------
    str
        The first of all where none of them has weights.

    Examples
    --------
    >>> default("deblur")
    'postcast'
    """
    ready = (name for name in PREFERRED[verb] if of_system(name) or not registry.declare(name).trained)
    return next(ready, PREFERRED[verb][0])


def first_that_fits(attempt: Callable[[str], T], members: int | None = None) -> T:
    """What comes of the best model that a forecast can be made with; the log says at level INFO which, and why.

    Where it is not the best of all, a warning says so: a forecast with less skill must not pass for the usual one.

    Parameters
    ----------
    attempt : callable
        Plans the forecast with the model of a name, and raises a ValueError where data or options do not suit it.
    members : int, optional
        How many are wanted; more than one ask for a model that makes them.

    Returns
    -------
    object
        What the first attempt gave that did not fail.

    Raises
    ------
    ValueError
        That of the last attempt, if all of them fail.
    """
    *better, last = PREFERRED_ENSEMBLES if members is not None and members > 1 else PREFERRED["forecast"]
    reasons: list[str] = []
    for name in better:
        if name not in names() and registry.declare(name).trained:
            continue
        try:
            planned = attempt(name)
        except ValueError as error:
            log.info("forecasts are not made with %r: %s", name, error)
            reasons.append(str(error))
        else:
            log.info("forecasts are made with %r, the best model that suits the data", name)
            return _noted(planned, name, reasons)
    return _noted(attempt(last), last, reasons)


def _noted(planned: T, name: str, reasons: list[str]) -> T:
    if reasons:
        warn(f"the forecast is made with {name!r}, which suits these data: {reasons[0]}")
    return planned


def table() -> str:
    """What ships, as Markdown for a terminal: a table of what each reads, and below it where each comes from.

    Returns
    -------
    str
        A line of the table per name, then a paragraph per name with the data of its training and its scores, which the
        cards have as well (`xnowcast.card`).

    Examples
    --------
    >>> head = table().splitlines()[0]
    >>> [word.strip() for word in head.strip("|").split("|")]
    ['name', 'verb', 'step', 'grid', 'factor', 'parameters', 'MB', 'licence']
    """
    cards = {name: read_card(path(name)) for name in names()}
    rows: list[tuple[str, ...]] = [("name", "verb", "step", "grid", "factor", "parameters", "MB", "licence")]
    rows += [_row(name, card) for name, card in cards.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    return "\n".join([*lines, *([""] if cards else []), *(_origin(name, card) for name, card in cards.items())])


def _row(name: str, card: ModelCard) -> tuple[str, ...]:
    task = card.task
    steps = [f"{step / timedelta(minutes=1):g}" for step in dict.fromkeys(task.bounds("step") or ())]
    spacings = [f"{metres / 1000:.3g}" for metres in dict.fromkeys(task.bounds("spacing") or ())]
    return (
        f"`{name}`",
        task.verb,
        f"{' to '.join(steps)} min" if steps else "any",
        f"{' to '.join(spacings)} km" if spacings else "any",
        "" if task.factor is None else str(task.factor),
        f"{card.parameters:,}",
        f"{path(name).stat().st_size / 1e6:.2g}",
        card.licence,
    )


def _origin(name: str, card: ModelCard) -> str:
    scores = "; ".join(f"{score} {value:.3g}" for score, value in card.scores.items())
    text = f"- `{name}`: trained on {card.training_data}. Scores: {scores or 'none'}."
    return textwrap.fill(text, TABLE_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
