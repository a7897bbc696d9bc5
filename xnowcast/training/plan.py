"""From what the user asks for to a run: everything that can be refused is refused here, before any long work."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from xnowcast import models
from xnowcast.engine import choose_device
from xnowcast.fields.channels import is_vector_component
from xnowcast.fields.lead_times import lead_dim
from xnowcast.fields.units import Relation
from xnowcast.models import earlier, weights
from xnowcast.models.base import SPACING_TOLERANCE, Task
from xnowcast.terminal import in_notebook
from xnowcast.training import checkpoint, crops
from xnowcast.training.cache import Frames
from xnowcast.training.crops import Crops, Sample
from xnowcast.training.folder import RunFolder
from xnowcast.training.sequences import Event, as_entries, open_events, refuse_mixture
from xnowcast.training.settings import Config, DataSettings, TrainingSettings, write_config
from xnowcast.training.statistics import has_statistics, tell_statistics
from xnowcast.training.windows import TrainingWindows, find_windows, split_by_time

_ADVERSARY = 2**32 - 1
"""Tells the seed of the adversary's first weights from that of the model's."""


@dataclass
class Run:
    """All that the loop needs.

    ``model``: trained in place. ``about``: writes weights with their card. ``fingerprint``: what a checkpoint has to
    agree with. ``folder``: None writes nothing. ``resumed``: the state of a checkpoint to go on from. ``progress``:
    True is a bar, False nothing; None is a bar on a terminal or in a notebook, and lines elsewhere. ``notes``: first
    lines of the log.
    """

    model: Any
    adversary: nn.Module | None
    settings: TrainingSettings
    device: torch.device
    training: Crops
    validation: Crops | None
    about: "About"
    fingerprint: dict[str, Any]
    folder: RunFolder | None
    config: Config
    resumed: dict[str, Any] | None
    progress: bool | None
    notes: list[str] = field(default_factory=list)

    def write_config(self) -> None:
        """Write the resolved configuration into the run folder."""
        from importlib.metadata import version

        from xnowcast._version import __version__

        assert self.folder is not None
        versions = {name: version(name) for name in ("torch", "lightning", "numpy", "xarray")}
        write_config(self.config, self.folder.config, {"xnowcast": __version__} | versions)

    @property
    def draws(self) -> bool:
        """Whether pictures can be drawn: the model forecasts, and matplotlib is there."""
        able = hasattr(self.model, "forecast") and self.model.training_frames > self.model.task.input_frames
        return able and find_spec("matplotlib") is not None

    @cached_property
    def _pictured(self) -> Sample:
        """The wettest of the samples that are validated on (or else trained on), the same whenever it is asked for."""
        samples = map((self.validation or self.training).__getitem__, range(self.settings.validation_crops))
        return max(samples, key=lambda sample: np.minimum(sample.rain, 10.0).mean())  # showers, not one pixel of hail

    def draw(self, path: Path, model: Any) -> None:
        """Write a picture of one sample, observed and forecast."""
        draw_sample(path, model, self.validation or self.training, self._pictured)


@dataclass(frozen=True)
class About:
    """What a card says of the weights besides their numbers.

    ``system``: name in the registry; that of the class for a model that is not there.
    """

    system: str
    options: dict[str, Any]
    training_data: str

    def save(self, path: Path, model: Any, kept: Mapping[str, Any]) -> None:
        """Write weights with their card.

        ``kept``: ``score`` of the weights; NaN where they were not validated.
        """
        weights.save(path, model, **self._fields(kept))

    def card(self, model: Any, kept: Mapping[str, Any]) -> weights.ModelCard:
        """The card of a model in memory."""
        return weights.describe(model, **self._fields(kept))

    def _fields(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "system": self.system,
            "options": self.options,
            "training_data": self.training_data,
            "scores": {} if math.isnan(kept["score"]) else {"validation loss": kept["score"]},
        }


@dataclass(frozen=True, eq=False)
class Sources:
    """What the user gave as data.

    ``variable, zr, stride, mixed``: as in `xnowcast.train`.
    """

    data: Any
    validation: Any
    variable: Hashable | None
    zr: Relation | None
    stride: int
    mixed: bool = False

    @property
    def share(self) -> float | None:
        """Share that is held out; None where data are given to validate on."""
        given = self.validation
        return float(given) if isinstance(given, int | float) and not isinstance(given, bool) else None

    def settings(self) -> DataSettings:
        """The same as a file can have it, but for data in memory."""
        paths = _paths(self.data)
        more = [] if self.share is not None else _paths(self.validation)
        return DataSettings(
            paths=paths or [],
            variable=None if self.variable is None else str(self.variable),
            zr=self.zr,
            stride=self.stride,
            mixed=self.mixed,
            validation=self.share or 0.0,
            validation_paths=more or [],
            in_memory=["data"] if paths is None or more is None else [],
        )

    def steps(self, events: Sequence[Event], frames: int) -> tuple[timedelta, timedelta] | None:
        """The shortest and the longest time between the frames of a window; None where a window is one frame."""
        if frames == 1:
            return None
        seconds = [float(self.stride * event.axis.step / np.timedelta64(1, "s")) for event in events]
        return timedelta(seconds=min(seconds)), timedelta(seconds=max(seconds))

    def open(self, frames: int, task: Task) -> tuple[list[Event], TrainingWindows, TrainingWindows | None]:
        """Events with what the task reads and windows of this many frames, to train on and to validate on."""
        single = frames == 1
        wanted: dict[str, Any] = {"channels": task.channels, "static": task.static, "any_step": single or self.mixed}
        wanted["any_spacing"] = self.mixed
        events = open_events(self.data, self.variable, self.zr, **wanted)
        _refuse_runs(events, task)
        found = find_windows(events, frames, self.stride)
        if self.share == 0:
            return events, found, None
        if self.share is not None:
            span = frames * self.stride * max(event.axis.step for event in events)
            training, validation = split_by_time(found.time, span, self.share)
            return events, found.some(training), found.some(validation)
        more = open_events(self.validation, self.variable, self.zr, **wanted)
        _refuse_runs(more, task)
        refuse_mixture([*events, *more], any_step=single or self.mixed, any_spacing=self.mixed)
        held = find_windows(more, frames, self.stride)
        return [*events, *more], found, replace(held, event=held.event + len(events))


def _refuse_runs(events: Sequence[Event], task: Task) -> None:
    """Refuse sequences of runs, one lead time of each, for a model that reads several lead times of one run."""
    for event in events if task.reads_lead_times else ():
        field = event.field
        dim = lead_dim(field.array, [d for d in field.array.dims if d not in (field.y, field.x)])
        if dim != field.time:
            raise ValueError(
                f"{event.name} has one {dim}, and the model reads several: give it the lead times beside that one, "
                "which xnowcast.pair keeps with lead_offsets="
            )


def _paths(given: Any) -> list[str] | None:
    """Paths as text, those of files made absolute; None where something is in memory."""
    entries = as_entries(given)
    if not all(isinstance(entry, str | Path) for entry in entries):
        return None
    return [str(Path(entry).absolute()) if Path(entry).exists() else str(entry) for entry in entries]


# ---------------------------------------------------------------- planning


def plan_run(
    model: Any,
    options: dict[str, Any],
    sources: Sources,
    settings: TrainingSettings,
    *,
    out: str | Path | None,
    resume: bool,
    progress: bool | None,
) -> Run:
    """Check everything, open the data and build the networks.

    ``model, out, resume, progress``: as in `xnowcast.train`. ``options``: the model's own. ValueError if anything will
    not do.
    """
    device = _device(settings)
    data_settings = sources.settings()
    folder = None if out is None else RunFolder(out, resume=resume)
    if resume and folder is None:
        raise ValueError("resume=True goes on from the checkpoint of a run folder: name it with out=")
    system, built = _build(model, options, settings.seed, named=folder is not None)
    if settings.start is not None:
        weights.begin_from(settings.start, system, built)
    events, training, validation = sources.open(built.training_frames, built.task)
    built.task = _contract(built.task, system, events, sources.steps(events, built.training_frames))
    size = crops.crop_size(events, settings.crop, built.task.grid_multiple, built.task.min_grid, built.task.factor or 1)
    vectors = _vectors(built.task, events) if settings.augment else []
    settings = replace(settings, crop=size, augment=settings.augment and not vectors)
    built.task = replace(built.task, crop=size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed ^ _ADVERSARY)
        adversary = built.adversary((size, size))
    config = Config(
        system,
        options,
        replace(data_settings, in_memory=[_in_words(e) for e in events] if data_settings.in_memory else []),
        settings,
        None if folder is None else str(folder.path.absolute()),
    )
    fingerprint = _fingerprint(config, events, training, validation)
    resumed = _resumed(folder, fingerprint, settings.steps) if resume else None
    if folder is not None:
        folder.require_space(*_sizes(built, adversary, settings))
    frames = Frames(events, round(settings.cache_gib * 2**30))
    frames.require_rain()
    common: dict[str, Any] = {
        name: getattr(settings, name) for name in ("crop", "seed", "rain_preference", "min_coverage")
    }
    if built.task.reads_lead_times:
        common["learnt"] = built.task.lead_window.index(0)
    if resumed is None and (settings.start is None or not has_statistics(built)):  # else the weights carry them
        training_crops = Crops(frames, training, stream=2, augment=False, **common)
        tell_statistics(built, training_crops, built.task.channels, built.task.static)
    notes = _notes(built, events, training, validation, size, resumed, folder if resume else None, settings.steps)
    if vectors:
        notes.append(f"augment is off: flips and turns would have to turn {', '.join(vectors)} too")
    return Run(
        model=built,
        adversary=adversary,
        settings=settings,
        device=device,
        training=Crops(frames, training, augment=settings.augment, **common),
        validation=None if validation is None else Crops(frames, validation, stream=1, augment=False, **common),
        about=About(system, options, _all_in_words(events)),
        fingerprint=fingerprint,
        folder=folder,
        config=config,
        resumed=resumed,
        progress=progress,
        notes=notes,
    )


def _vectors(task: Task, events: Sequence[Event]) -> list[str]:
    """Further fields that are components of vectors."""
    components = [channel.name for event in events for channel in event.channels if channel.is_vector_component]
    return [*dict.fromkeys([*components, *filter(is_vector_component, task.static)])]


def _device(settings: TrainingSettings) -> torch.device:
    device = choose_device(settings.device)
    if settings.precision == "16" and device.type != "cuda":
        raise ValueError(f"precision='16' needs a GPU, and the device is {device.type!r}: use 'bf16' or '32'")
    if settings.devices > 1:
        if device.index is not None:
            raise ValueError(
                f"device={settings.device!r} names one device, and devices={settings.devices} asks for more"
            )
        if device.type == "cuda" and settings.devices > torch.cuda.device_count():
            raise ValueError(f"devices is {settings.devices}, and torch sees {torch.cuda.device_count()} GPUs here")
        if in_notebook():
            raise ValueError(
                "several devices need a process each, which a notebook cannot start: run a script, or xnowcast train"
            )
    return device


def _build(model: Any, options: dict[str, Any], seed: int, *, named: bool) -> tuple[str, Any]:
    """The name of the system and the model; one that comes by name has its first weights from the seed."""
    if isinstance(model, str):
        if not hasattr(models.find(model), "loss"):
            able = [name for name in models.names() if hasattr(models.find(name), "loss")]
            raise ValueError(f"{model!r} is not trained; systems that are: {', '.join(able) or 'none'}")
        models.declare(model, **options)  # refuses options before a large network is built
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return model, models.build(model, **options)
    missing = [
        name for name in ("task", "transform", "training_frames", "loss", "adversary") if not hasattr(model, name)
    ]
    if not isinstance(model, nn.Module) or missing:
        problem = f"has no {', '.join(missing)}" if isinstance(model, nn.Module) else "is no torch.nn.Module"
        raise ValueError(f"model is a {type(model).__name__}, which {problem}: see xnowcast.models.base.TrainableModel")
    if options:
        raise ValueError(f"a built model has its options: leave out {', '.join(options)}, or give the system's name")
    if named:
        raise ValueError(
            "the files of a run folder name the system that reads them: give its name and options instead of a built "
            "model (xnowcast.models.register names one of your own), or train without out="
        )
    return type(model).__name__, model


def _contract(task: Task, system: str, events: Sequence[Event], steps: tuple[timedelta, timedelta] | None) -> Task:
    """The model's task on the step and grid of the data, which must be those that it was made for, if it says."""
    quantity = events[0].field.quantity
    if task.quantity is not None and task.quantity != quantity:
        raise ValueError(f"{system!r} reads {task.quantity}, and {events[0].name} is {quantity}")
    made_for = task.bounds("step")
    if made_for and steps and not made_for[0] <= steps[0] <= steps[1] <= made_for[1]:
        wanted, found = (" to ".join(map(str, sorted(set(pair)))) for pair in (made_for, steps))
        raise ValueError(f"{system!r} was made for a step of {wanted}, and the data have {found} (stride included)")
    known = [event.grid.spacing for event in events if event.grid.spacing]
    spacings = (min(known), max(known)) if known else None
    made_for = task.bounds("spacing")
    if made_for and spacings:
        least, greatest = made_for[0] * (1 - SPACING_TOLERANCE), made_for[1] * (1 + SPACING_TOLERANCE)
        if not least <= spacings[0] <= spacings[1] <= greatest:
            wanted, found = (" to ".join(f"{m:g}" for m in sorted(set(pair))) for pair in (made_for, spacings))
            raise ValueError(f"{system!r} was made for a grid of {wanted} m, and the data have {found} m")
    return replace(
        task, quantity=quantity, step=_one(steps) or task.step, spacing=task.spacing or _spacing(spacings, known)
    )


def _one(bounds: tuple[Any, Any] | None) -> Any:
    """Bounds, or the one value where they are equal."""
    return bounds[0] if bounds and bounds[0] == bounds[1] else bounds


def _spacing(bounds: tuple[float, float] | None, known: Sequence[float]) -> float | tuple[float, float] | None:
    """Grid spacings as the weights remember them: those that are alike are one, that of the first event."""
    return known[0] if bounds and bounds[1] <= bounds[0] * (1 + SPACING_TOLERANCE) else bounds


def _sizes(model: nn.Module, adversary: nn.Module | None, settings: TrainingSettings) -> tuple[int, int]:
    """Bytes of a checkpoint and of the weights. Adam keeps two numbers for each that it trains."""
    own, other = (sum(t.nbytes for t in m.state_dict().values()) if m is not None else 0 for m in (model, adversary))
    return own * (4 if settings.ema else 3) + 3 * other, own


def _fingerprint(
    config: Config, events: Sequence[Event], training: TrainingWindows, validation: TrainingWindows | None
) -> dict[str, Any]:
    """What decides the numbers of a run."""
    data = {
        "stride": training.stride,
        "windows": [len(training), 0 if validation is None else len(validation)],
        "events": [
            [
                *map(str, event.axis.times[[0, -1]]),
                len(event.axis.times),
                *event.grid.shape,
                *(repr(event.layer(number)[1]) for number in range(1 + len(event.channels))),
            ]
            for event in events
        ],
    }
    model = {"model": config.model, "edition": earlier.EDITION}
    return (
        model
        | {f"option {k}": _plain(v) for k, v in config.options.items()}
        | {name: _plain(value) for name, value in (config.training.decisive() | data).items()}
    )


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _resumed(folder: RunFolder | None, fingerprint: dict[str, Any], steps: int) -> dict[str, Any] | None:
    if folder is None or not folder.checkpoint.exists():
        return None
    state = checkpoint.read(folder.checkpoint)
    # a setting that was not there when it was written had its default
    before = {name: _plain(value) for name, value in TrainingSettings().decisive().items()} | state["fingerprint"]
    if before.get("edition", 1) < earlier.EDITION:
        given = {name.removeprefix("option "): value for name, value in before.items() if name.startswith("option ")}
        now = earlier.second_edition(before["model"], given)
        before |= {"edition": earlier.EDITION} | {f"option {name}": value for name, value in now.items()}
    changed = [name for name in {**before, **fingerprint} if before.get(name) != fingerprint.get(name)]
    if changed:
        differences = "; ".join(
            f"{name}: {_short(before.get(name))} then, {_short(fingerprint.get(name))} now" for name in changed
        )
        raise ValueError(f"{folder.checkpoint} is of another run, which this one cannot go on from. {differences}")
    if state["step"] > steps:
        raise ValueError(f"{folder.checkpoint} is of step {state['step']}, and steps is {steps}: it can only grow")
    return state


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _in_words(event: Event) -> str:
    first, last = (np.datetime_as_string(event.axis.times[i], unit="m") for i in (0, -1))
    return (
        f"{event.name}: {event.field.name}, {len(event.axis.times)} frames from {first} to {last}, "
        f"{event.grid.shape[0]} x {event.grid.shape[1]} cells"
    )


def _all_in_words(events: Sequence[Event], most: int = 6) -> str:
    more = [f"{len(events) - most} more"] if len(events) > most else []
    return "; ".join([*(_in_words(event) for event in events[:most]), *more])


def _notes(
    model: Any,
    events: Sequence[Event],
    training: TrainingWindows,
    validation: TrainingWindows | None,
    size: int,
    resumed: dict[str, Any] | None,
    searched: RunFolder | None,
    steps: int,
) -> list[str]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    held = 0 if validation is None else len(validation)
    lines = [
        f"{parameters:,} parameters; {len(events)} events; {len(training)} windows to train on and {held} to validate "
        f"on, of {training.frames} frames; crops of {size} x {size} cells"
    ]
    if resumed is not None:
        planned = (
            "" if resumed["steps"] == steps else f"; the run was planned for {resumed['steps']} steps, now {steps}"
        )
        return [*lines, f"going on from step {resumed['step']}{planned}"]
    return lines if searched is None else [*lines, f"there is no checkpoint in {searched.path}: starting anew"]


# ---------------------------------------------------------------- pictures


def draw_sample(path: Path, model: Any, source: Crops, sample: Sample) -> None:
    """Write a picture of a sample: observed above forecast, at up to four lead times.

    ``source``: what the sample was drawn from, without augmentation.
    """
    from xnowcast import plot
    from xnowcast.verbs.forecast import forecast

    event = source.frames.events[source.windows.event[sample.window]]
    times = event.axis.times[source.windows.positions(sample.window, event.axis.slots)]
    named = {
        "rain_rate": ("rainfall_rate", {"standard_name": "rainfall_rate", "units": "mm h-1"}),
        "vil": ("vil", {"long_name": "vertically integrated liquid", "units": "kg m-2"}),
    }
    name, attrs = named[event.field.quantity]
    rain = np.where(sample.observed, sample.rain, np.float32(np.nan))
    spacing = (event.grid.spacing or 1000.0) * np.arange(source.crop)
    metres = {axis: {"standard_name": f"projection_{axis}_coordinate", "units": "m"} for axis in ("y", "x")}
    coords = {"time": times, "y": ("y", spacing[::-1], metres["y"]), "x": ("x", spacing, metres["x"])}
    observed = xr.DataArray(rain, dims=("time", "y", "x"), coords=coords, name=name, attrs=attrs)
    known = model.task.input_frames
    made = forecast(
        observed,
        model,
        init_times=[times[known - 1]],
        steps=min(len(times) - known, model.task.max_steps or len(times)),
        members=1 if model.task.stochastic else None,
        device=str(next(model.parameters()).device),
        progress=False,
    )
    plot.plot(made, observed, coastlines=False, path=path)
