"""A system with one seed on its way through a comparison: checked, trained, run on the events; its folder says so."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np

from xnowcast.archive import hindcast
from xnowcast.archive.contenders import prepared
from xnowcast.archive.run.logs import log
from xnowcast.comparison.budget import settings_within
from xnowcast.comparison.events import TestEvent
from xnowcast.comparison.protocol import Budget, Protocol, System, folder_of
from xnowcast.drafts import draft
from xnowcast.training.settings import TrainingSettings
from xnowcast.verbs.forecast import ForecastRequest, Prepared, forecast

if TYPE_CHECKING:
    from xnowcast.training.plan import Run


@dataclass(frozen=True)
class Teaching:
    """What all are trained on, and how; ``data, validation, mixed`` as in `xnowcast.train`."""

    data: Any
    validation: Any
    mixed: bool
    settings: TrainingSettings
    budget: Budget | None


@dataclass
class Entrant:
    """A row of the table: ``system`` from ``seed``, in ``folder``.

    ``costs``: what it took so far, which the folder keeps. ``input_frames, members``: known once it is checked.
    """

    name: str
    system: System
    seed: int
    folder: Path
    costs: dict[str, Any] = field(default_factory=dict)
    input_frames: int = 1
    members: int | None = None

    def __post_init__(self) -> None:
        file = self.folder / "costs.json"
        self.costs = json.loads(file.read_text()) if file.is_file() else {}

    def note(self, **costs: Any) -> None:
        """Keep what something took."""
        self.costs |= costs
        self.folder.mkdir(parents=True, exist_ok=True)
        with draft(self.folder / "costs.json") as new:
            new.write_text(json.dumps(self.costs, indent=1))

    # ------------------------------------------------------------ what runs it

    @property
    def run_folder(self) -> Path:
        """Of its training."""
        return self.folder / "training"

    @property
    def weights(self) -> str | None:
        """Its weights file, where it has one: given, or to be trained."""
        return str(self.run_folder / "model.safetensors") if self.system.trained else self.system.weights

    @property
    def call(self) -> dict[str, Any]:
        """Arguments of `xnowcast.forecast` and `xnowcast.hindcast` that run it; weights know their own options."""
        if self.system.trained:
            return {"model": None, "weights": self.weights}
        named = {"model": None if self.weights else self.system.system, "weights": self.weights}
        return named | dict(self.system.options)

    def store(self, event: TestEvent) -> Path:
        """Of its forecasts of an event."""
        return self.folder / f"{folder_of(event.name)}.zarr"

    # ------------------------------------------------------------ at the door

    def plan(self, teaching: Teaching, protocol: Protocol, *, out: Path | None) -> "Run":
        """Its training, checked; with ``out`` also that a training there is the same."""
        from xnowcast.training import plan

        sources = plan.Sources(teaching.data, teaching.validation, protocol.variable, protocol.zr, 1, teaching.mixed)
        options = dict(self.system.options)
        settings = self.settings(teaching, protocol)
        return plan.plan_run(
            self.system.system, options, sources, settings, out=out, resume=out is not None, progress=False
        )

    def settings(self, teaching: Teaching, protocol: Protocol) -> TrainingSettings:
        """Of its training, once its steps are known: they are the budget, or what the folder has."""
        budget = teaching.budget
        steps = {"steps": budget.steps} if budget is not None and budget.steps is not None else {}
        known = {name: self.costs[name] for name in ("steps", "validate_every") if name in self.costs}
        return self.system.settings(teaching.settings, seed=self.seed, device=protocol.device, **(steps | known))

    def check(self, teaching: Teaching, protocol: Protocol, events: list[TestEvent]) -> None:
        """Refuse what could not be trained, or could not forecast an event afterwards. ValueError with its name."""
        try:
            given: Any = self.call
            if self.system.trained:
                if teaching.budget is None:
                    raise ValueError(f"{self.system.system!r} is trained: give a budget (steps or cpu_seconds)")
                if teaching.data is None:
                    raise ValueError(f"{self.system.system!r} is trained: give data to train on")
                known = teaching.budget.steps is not None or "steps" in self.costs
                given = {"model": self.plan(teaching, protocol, out=self.run_folder if known else None).model}
            for event in events:
                own = {} if self.system.trained or self.system.members is None else {"members": self.system.members}
                self._take(prepared(request_of(event, protocol), given | own), event, protocol.members)
        except (ValueError, ImportError) as error:
            raise type(error)(f"{self.name}: {error}") from None

    def _take(self, ready: Prepared, event: TestEvent, members: int | None) -> None:
        if ready.field.quantity != event.field.quantity:
            raise ValueError(f"it reads {ready.field.quantity}, and {event.name} is {event.field.quantity}")
        self.input_frames = max(self.input_frames, ready.task.input_frames)
        own, always = self.system.members, ready.members is not None
        self.members = own if own is not None or not always else members

    # ------------------------------------------------------------ its work

    def train(self, teaching: Teaching, protocol: Protocol, progress: bool | None) -> None:
        """Train it to the end of its budget, or go on; nothing where that is done."""
        from xnowcast.training.train import train

        if not self.system.trained or "parameters" in self.costs:
            return
        log.info("training %s: %s", self.name, self.settings(teaching, protocol).steps)
        with self._timed("training_cpu_seconds"):
            model = train(
                self.system.system,
                teaching.data,
                out=self.run_folder,
                resume=True,
                progress=progress,
                variable=protocol.variable,
                zr=protocol.zr,
                mixed=teaching.mixed,
                validation=teaching.validation,
                settings=self.settings(teaching, protocol),
                model_options=dict(self.system.options),
            )
        self.note(parameters=count_parameters(model))

    def take_budget(self, teaching: Teaching, protocol: Protocol) -> None:
        """Time some steps and note how many its CPU seconds are good for, where that is not known yet."""
        budget = teaching.budget
        if not self.system.trained or budget is None or "steps" in self.costs:
            return
        if budget.cpu_seconds is None:
            self.note(steps=budget.steps)
            return
        try:
            self.note(**settings_within(self.plan(teaching, protocol, out=None), budget.cpu_seconds))
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        log.info("%s: %d steps take about %g CPU seconds", self.name, self.costs["steps"], budget.cpu_seconds)

    def forecast(self, event: TestEvent, starts: np.ndarray, protocol: Protocol, engine: Mapping[str, Any]) -> None:
        """Its forecasts of an event from some starts, into its store, or what is missing there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        hindcast(
            event.data,
            out=self.store(event),
            init_times=list(starts),
            members=self.members,
            **self.call,
            **shared_arguments(protocol),
            **engine,
        )

    def time_forecast(self, event: TestEvent, start: np.datetime64, protocol: Protocol) -> None:
        """CPU seconds of one forecast, its model in memory, all members together."""
        if "forecast_cpu_seconds" in self.costs:
            return
        newest = int(np.searchsorted(event.axis.times, start))
        read = event.data.isel({event.field.time: slice(max(0, newest - self.input_frames), newest + 1)}).compute()

        def once() -> float:
            began = process_time()
            arguments = {"init_times": [start], "members": self.members, "progress": False}
            forecast(read, **arguments, **self.call, **shared_arguments(protocol))
            return process_time() - began

        once()  # which reads the weights
        self.note(forecast_cpu_seconds=once())

    def count(self) -> None:
        """Note how many parameters it has, where its training has not."""
        from xnowcast import models
        from xnowcast.models.weights import load

        if "parameters" not in self.costs:
            made = load(self.weights) if self.weights else models.build(str(self.system.system), **self.system.options)
            self.note(parameters=count_parameters(made))

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Add CPU seconds to what was spent before; those of a run that was killed outright are lost."""
        began = process_time()
        try:
            yield
        finally:
            self.note(**{name: self.costs.get(name, 0.0) + process_time() - began})


def count_parameters(model: Any) -> int:
    """Numbers that a model learns; 0 of one without a network."""
    return sum(one.numel() for one in model.parameters()) if hasattr(model, "parameters") else 0


def entrants_of(systems: list[System], protocol: Protocol, out: Path) -> list[Entrant]:
    """A row for each system and seed of its training; what is not trained has the first seed alone."""
    found = []
    for system in systems:
        several = system.trained and len(protocol.seeds) > 1
        for seed in protocol.seeds if several else protocol.seeds[:1]:
            name = f"{system.name}, seed {seed}" if several else system.name
            found.append(Entrant(name, system, seed, out / "systems" / folder_of(name)))
    return found


def shared_arguments(protocol: Protocol) -> dict[str, Any]:
    """Arguments of a forecast that are the same for all; members' noise has one seed, whichever the training had."""
    names = ("lead_time", "variable", "zr", "device", "on_mismatch")
    return {name: getattr(protocol, name) for name in names} | {"seed": protocol.seeds[0]}


def request_of(event: TestEvent, protocol: Protocol) -> ForecastRequest:
    """A forecast of an event with no model yet."""
    return ForecastRequest(verb=forecast, obj=event.data, **shared_arguments(protocol))
