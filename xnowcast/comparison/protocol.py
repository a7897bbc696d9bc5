"""What a comparison holds the same for all systems, and the systems: checked one by one before anything is opened."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from xnowcast import check
from xnowcast.configuration import refuse_unknown
from xnowcast.fields.units import Relation
from xnowcast.training.settings import TrainingSettings
from xnowcast.verbs.request import OnMismatch

OF_A_SYSTEM = ("system", "weights", "members", "training")
"""Keys of a system that are no options of it."""

SET_BY_THE_BUDGET = ("steps", "seed", "device")
"""Settings of a training that belong to the comparison as a whole."""


@dataclass(frozen=True)
class Budget:
    """How long each system is trained: optimiser steps, or CPU seconds, which are turned into steps by timing some.

    ValueError if it is neither or both, or not above 0.

    >>> Budget(steps=100).in_words
    '100 steps'
    >>> Budget()
    Traceback (most recent call last):
    ValueError: the budget is neither steps nor cpu_seconds: give one of them, and each system is trained for so long
    """

    steps: int | None = None
    cpu_seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.cpu_seconds is None):
            which = "neither steps nor cpu_seconds" if self.steps is None else "both steps and cpu_seconds"
            raise ValueError(f"the budget is {which}: give one of them, and each system is trained for so long")
        if self.steps is not None:
            check.whole("steps", self.steps, 1)
        if self.cpu_seconds is not None:
            check.number("cpu_seconds", self.cpu_seconds, "above 0", lambda seconds: seconds > 0)

    @property
    def in_words(self) -> str:
        """Such as "100 steps"."""
        return f"{self.steps} steps" if self.steps is not None else f"{self.cpu_seconds:g} CPU seconds"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is the same for all systems; the arguments are those of `xnowcast.compare`."""

    variable: Hashable | None = None
    zr: Relation | None = None
    lead_time: str | timedelta | np.timedelta64 | None = None
    members: int | None = None
    seeds: Sequence[int] = (0,)
    starts: int = 4
    crop: int | None = None
    thresholds: Sequence[float] = (0.5, 2.0, 5.0, 10.0)
    scales: Sequence[int] = (1, 4, 16)
    bands: Sequence[tuple[float, float]] = ((4.0, 8.0), (8.0, 16.0), (16.0, 32.0))
    device: str = "auto"
    on_mismatch: OnMismatch = "raise"

    def __post_init__(self) -> None:
        for name in ("seeds", "thresholds", "scales", "bands"):
            value = check.plain(getattr(self, name))
            if isinstance(value, str) or not isinstance(value, list | tuple) or (not value and name != "bands"):
                raise ValueError(f"{name} is {value!r}; it must be a list of numbers")
            object.__setattr__(self, name, tuple(tuple(v) if isinstance(v, list) else v for v in value))
        for seed in self.seeds:
            check.whole("a seed", seed, 0, 2**63 - 1)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds has the same one twice: {list(self.seeds)}")
        check.whole("starts", self.starts, 1)
        if self.crop is not None:
            check.whole("crop", self.crop, 16)
        if self.members is not None:
            check.whole("members", self.members, 1, check.LARGEST_COUNT)
        for scale in self.scales:
            check.whole("a scale", scale, 1)
        for threshold in self.thresholds:
            check.number("a threshold", threshold, "above 0", lambda value: value > 0)
        for band in self.bands:
            if not isinstance(band, tuple) or len(band) != 2 or not 0 < band[0] < band[1]:
                raise ValueError(f"a band is {band!r}; it must be two wavelengths in km, such as [4, 8]")

    def noted(self) -> dict[str, Any]:
        """What a comparison that goes on has to agree in, as JSON knows it."""
        free = ("device", "on_mismatch", "seeds")
        return {name: _as_json(value) for name, value in asdict(self).items() if name not in free}


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(one) for one in value]
    return value if isinstance(value, str | int | float | None) else str(value)


@dataclass(frozen=True)
class System:
    """One of those compared. ``name``: as the table has it. ``system``: in the registry; None is that of the weights.

    ``weights``: instead of a training. ``members``: its own number. ``training``: settings of its own. ``options``: of
    the system.
    """

    name: str
    system: str | None = None
    weights: str | None = None
    members: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether it is trained here: it can be, and no weights are given."""
        from xnowcast import models

        return self.weights is None and hasattr(models.find(str(self.system)), "loss")

    def settings(self, shared: TrainingSettings, **changes: Any) -> TrainingSettings:
        """The training's settings, with its own."""
        given = {one.name: getattr(shared, one.name) for one in fields(shared)}
        return TrainingSettings(**(given | dict(self.training) | changes))


def systems_of(given: Any, shared: Mapping[str, Any]) -> list[System]:
    """The systems, each with those of the shared options that it has.

    ``given``: names, or a mapping from names of one's choice to names of systems, paths of weights or mappings.
    ValueError if a name, a key or an option is not known, there is no system, one does not forecast, or an option is
    shared by none.

    >>> [(one.name, dict(one.options)) for one in systems_of(["persistence", "extrapolation"], {"window": 8.0})]
    [('persistence', {}), ('extrapolation', {'window': 8.0})]
    """
    if isinstance(given, str | PathLike):
        given = [given]
    if not isinstance(given, Mapping):
        names = [Path(one).stem if _is_weights(one) else str(one) for one in given]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two systems are called {twice[0]!r}: give a mapping from names of your choice")
        given = dict(zip(names, given, strict=True))
    if not given:
        raise ValueError("there is no system to compare: name some")
    found = [_system(str(name), one, shared) for name, one in given.items()]
    unused = [option for option in shared if not any(option in _known(one) for one in found if one.weights is None)]
    if unused:
        raise ValueError(f"no system has the shared option {unused[0]!r}: leave it out")
    folders = [folder_of(one.name) for one in found]
    if twice := [one.name for one, folder in zip(found, folders, strict=True) if folders.count(folder) > 1]:
        raise ValueError(f"the systems {' and '.join(map(repr, twice))} would share a folder: give one another name")
    return found


def folder_of(name: str) -> str:
    """A name as one of a folder.

    >>> folder_of("db-predrnn++, seed 1")
    'db-predrnnpp_seed_1'
    """
    return re.sub(r"[^\w.-]+", "_", name.replace("+", "p"))


def _is_weights(given: Any) -> bool:
    return isinstance(given, PathLike) or str(given).endswith(".safetensors")


def _system(name: str, given: Any, shared: Mapping[str, Any]) -> System:
    if given is None:
        given = {}
    if isinstance(given, str | PathLike):
        given = {"weights": given} if _is_weights(given) else {"system": given}
    if not isinstance(given, Mapping):
        raise ValueError(f"the system {name!r} is {given!r}; it must be a name, the path of weights or options")
    try:
        return _checked(name, dict(given), shared)
    except ValueError as error:
        raise ValueError(f"system {name!r}: {error}") from None


def _checked(name: str, given: dict[str, Any], shared: Mapping[str, Any]) -> System:
    from xnowcast import models
    from xnowcast.models import weights

    own = {key: given.pop(key) for key in OF_A_SYSTEM if key in given}
    path = own.get("weights")
    if path is None:
        system = own.setdefault("system", name)
        known = models.registry.parameters(system, given)
        given = {option: value for option, value in shared.items() if option in known} | given
        task = models.declare(system, **given)
    else:
        check.path("weights", path)
        own["weights"] = path = str(weights.weights_path(path))
        card = weights.with_options(weights.read_card(path), given)
        if own.get("system") not in (None, card.system):
            raise ValueError(f"{path} holds weights of {card.system!r}, not of {own['system']!r}")
        task = card.task
    if task.verb != "forecast":
        raise ValueError(f"it is for ds.nowcast.{task.verb}, and forecasters are compared")
    if own.get("members") is not None:
        check.whole("members", own["members"], 1, check.LARGEST_COUNT)
    made = System(name, **own, options=given)
    _check_training(made)
    return made


def _check_training(system: System) -> None:
    if not isinstance(system.training, Mapping):
        raise ValueError(f"training is {system.training!r}; it must be settings of the training by their names")
    if system.training and not system.trained:
        raise ValueError("it has settings of a training, and is not trained here")
    check_training(system.training)


def check_training(given: Iterable[str]) -> None:
    """Refuse settings that are none, and those that the comparison sets for all."""
    for name in given:
        if name in SET_BY_THE_BUDGET:
            raise ValueError(f"{name} of the training is the same for all systems: give it to the comparison")
    refuse_unknown("setting of the training", given, [one.name for one in fields(TrainingSettings)])


def _known(system: System) -> Iterable[str]:
    from xnowcast import models

    return models.registry.parameters(str(system.system), system.options)
