"""The methods that are judged beside one another."""

import ast
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import xnowcast

from . import pysteps
from .events import Start, spacing_km, step_of

MEMBERS = 10
THEIRS = "pysteps "
"""What names of pysteps' methods begin with; all others are of this package."""

SINGLE = ("persistence", "extrapolation", "sprog", "lagrangian", "pysteps lk", "pysteps sprog")
ENSEMBLES = ("steps", "lagrangian members", "pysteps steps", "stldm")
SLOW = ("stldm",)
"""Of which there is time for smaller grids and fewer starts alone."""


@dataclass(frozen=True)
class Method:
    """``model``: its name or the path of weights; ``members``: how many, or None; ``options``: of the forecast."""

    name: str
    model: str
    members: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_pysteps(self) -> bool:
        return self.name.startswith(THEIRS)

    @property
    def settings(self) -> dict[str, Any]:
        """What its forecasts depend on, to know whether finished scores are of the same."""
        weights = None if self.of_pysteps else xnowcast.card(self.model).sha256 if self._trained else None
        return {"members": self.members, "options": dict(self.options), "weights": weights}

    @property
    def _trained(self) -> bool:
        return self.model not in xnowcast.models.names() or self.model in xnowcast.pretrained.names()

    def forecast(self, start: Start) -> tuple[np.ndarray, float]:
        """``([member], step, y, x)`` in mm/h, NaN where it knows nothing, and CPU seconds, those for the motion too."""
        began = time.process_time()
        if self.of_pysteps:
            frames, grid = start.frames.values, (step_of(start.rain), spacing_km(start.rain))
            made = pysteps.forecast(self.model, frames, start.steps, *grid, MEMBERS, 1000 + start.number)
        else:
            request = {"members": self.members, "seed": start.number, **self.options}
            made = start.frames.nowcast.forecast(
                self.model, steps=start.steps, on_mismatch="warn", progress=False, **request
            )
            made = made.isel(init_time=0).values
        return made.astype("f4"), time.process_time() - began


def method_of(name: str, weights: Mapping[str, str], options: Mapping[str, Mapping[str, Any]]) -> Method:
    """By name; ``weights`` and ``options`` by the name of their method.

    A method that is not known here is of weights that were given, or a model of the package.
    """
    model = weights.get(name, name.removeprefix(THEIRS).removesuffix(" members"))
    several = name in ENSEMBLES or (name in weights and xnowcast.card(model).task.stochastic)
    return Method(name, model, MEMBERS if several else None, options.get(name, {}))


def methods_of(
    names: Sequence[str], weights: Sequence[str] = (), options: Sequence[str] = ()
) -> tuple[list[Method], list[str]]:
    """Methods, and the names of those that are left out, as pysteps is not installed.

    ``weights``: words NAME=PATH; those of a name that is not among ``names`` make one method more. ``options``: words
    NAME:OPTION=VALUE.
    """
    paths = dict(word.split("=", 1) for word in weights)
    chosen: dict[str, dict[str, Any]] = {}
    for word in options:
        setting, value = word.split("=", 1)
        name, _, option = setting.rpartition(":")
        chosen.setdefault(name, {})[option] = value_of(value)
    every = list(dict.fromkeys([*names, *paths]))
    absent = [] if pysteps.HERE else [name for name in every if name.startswith(THEIRS)]
    return [method_of(name, paths, chosen) for name in every if name not in absent], absent


def value_of(text: str) -> Any:
    """An option's value as Python writes it, or a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
