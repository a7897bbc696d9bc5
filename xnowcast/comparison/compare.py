"""The comparison, on one page: check all, time, train, forecast, score, tell. Each step is kept, so that it goes on."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.archive.run.lock import StoreLock
from xnowcast.drafts import draft
from xnowcast.fields.units import Relation
from xnowcast.fields.windows import lead_steps
from xnowcast.verbs.request import OnMismatch

if TYPE_CHECKING:
    from xnowcast.comparison.entrants import Entrant, Teaching
    from xnowcast.comparison.events import TestEvent
    from xnowcast.comparison.protocol import Protocol


NO_PICTURES = {"pictures_every": 0}
"""Samples that a training draws cost CPU time and teach nothing."""


NOTED = "comparison.json"
"""What is the same for all systems, in a folder of a comparison that has begun."""


def compare(
    systems: Any,
    *,
    test: Any,
    out: str | Path,
    train: Any = None,
    steps: int | None = None,
    cpu_seconds: float | None = None,
    validation: Any = 0.2,
    mixed: bool = False,
    training: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0,),
    lead_time: str | timedelta | np.timedelta64 | None = None,
    members: int | None = None,
    starts: int = 4,
    crop: int | None = None,
    thresholds: Sequence[float] = (0.5, 2.0, 5.0, 10.0),
    scales: Sequence[int] = (1, 4, 16),
    bands: Sequence[tuple[float, float]] = ((4.0, 8.0), (8.0, 16.0), (16.0, 32.0)),
    variable: Hashable | None = None,
    zr: Relation | None = None,
    device: str = "auto",
    on_mismatch: OnMismatch = "raise",
    engine: Any = "threads",
    workers: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Train and score forecasters side by side: the same data, crops, windows, budget and seeds, and the same cells.

    Everything is checked before anything is trained. What is done is kept in ``out``: the same call goes on with a run
    that was stopped, nothing is trained or forecast twice, and further systems may be added to it.

    Parameters
    ----------
    systems : sequence of str, or mapping
        Names of systems, or a mapping from names of your choice to the name of a system, the path of a weights file
        or a mapping: ``system`` or ``weights``, ``members``, ``training`` (settings of its own) and the system's
        options. A system that can be trained is trained; with weights it is run as it is, and so are those that need
        none, such as ``"extrapolation"``.
    test : Dataset, DataArray, path, list of them, or mapping of str
        Events to score on, of one step and quantity.
    out : str or pathlib.Path
        The folder of the comparison.
    train : Dataset, DataArray, path, or list of them, optional
        Events to train on, as for `xnowcast.train`; none of them may be among those of ``test``.
    steps : int, optional
        Budget of each training in optimiser steps.
    cpu_seconds : float, optional
        Budget of each training in CPU seconds instead; a few steps of each system are timed to know how many they are.
    validation, mixed
        As for `xnowcast.train`. What is validated on chooses weights, and so may not be of ``test`` either.
    training : mapping, optional
        Settings of `xnowcast.train` that all share, such as ``{"crop": 64, "batch_size": 4}``.
    options : mapping, optional
        Options that each system takes which has one of the name, such as ``{"size": "tiny", "input_frames": 5}``;
        not those of weights. At least one system must have it.
    seeds : sequence of int
        Each system is trained once from each.
    lead_time : duration, optional
        How far all forecast; one hour by default.
    members : int, optional
        Of the systems that always have members; 10 by default.
    starts : int
        Init times of each test event, evenly spread over those with 2 % of rain that all can begin at.
    crop : int, optional
        Cells of the middle of each test event that are used, along y and x; all by default.
    thresholds, scales
        As for `xnowcast.verify.scorecard`; scales of more than one cell are pooled.
    bands : sequence of (float, float)
        Wavelengths in km of the power that is compared with the observed; those that a grid has not are left out.
    variable, zr, device, on_mismatch
        As for `xnowcast.forecast`.
    engine, workers, progress
        As for `xnowcast.hindcast`, which makes the forecasts.

    Returns
    -------
    xarray.Dataset
        ``csi``, ``hss``, ``mae``, ``crps``, ``ssim`` and ``power`` with dims ``(model, event, lead_time)`` and
        ``threshold``, ``scale`` or ``band``; the last event is ``"all"``, of sums over all. ``*_of_all`` are of sums
        over lead times too, and means over thresholds. ``forecast_cpu_seconds`` (of one forecast, all members),
        ``training_cpu_seconds``, ``steps``, ``parameters`` and ``members`` (model). Structural similarity is taken of
        reflectivity between 0 and 60 dBZ. NaN where there is nothing to take a score of. ``out`` has it as
        ``scores.nc`` and ``scores.csv``, a row for each system in ``summary.csv`` and ``summary.md``, and one case in
        ``case.png``.

    Raises
    ------
    ValueError
        If a system, option, setting, event or the budget will not do, a test event is among those of the training, or
        ``out`` holds a comparison under other rules; before any training.
    ImportError
        If a system is to be trained and Lightning is not installed.
    KeyboardInterrupt, xnowcast.archive.IncompleteRun
        As `xnowcast.train` and `xnowcast.hindcast`; the same call goes on.

    Examples
    --------
    >>> import tempfile, xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=16, shape=(32, 32), seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     card = compare(["persistence", "extrapolation"], test={"june": radar}, out=folder, lead_time="10min",
    ...                    scales=[1, 4], progress=False)
    >>> sorted(card.csi.dims)
    ['event', 'lead_time', 'model', 'scale', 'threshold']
    >>> best = card.csi_of_all.sel(event="all", scale=1).idxmax("model")
    """
    asked = dict(locals())
    check.call(compare, {name: value for name, value in asked.items() if name not in ("bands", "seeds", "test")})
    check.path("out", out)
    from xnowcast.archive.run import engines
    from xnowcast.comparison import events as test_events
    from xnowcast.comparison import protocol as rules
    from xnowcast.comparison.entrants import Teaching, entrants_of
    from xnowcast.training.settings import TrainingSettings

    engines.check(engine, workers)
    protocol = rules.Protocol(**{one.name: asked[one.name] for one in fields(rules.Protocol)})
    listed = rules.systems_of(systems, options or {})
    rules.check_training(training or {})
    budget = None if steps is None and cpu_seconds is None else rules.Budget(steps, cpu_seconds)
    if budget is None and any(one.trained for one in listed):
        rules.Budget()  # says what is missing
    shared = TrainingSettings(**(NO_PICTURES | dict(training or {}) | ({"steps": steps} if steps else {})))
    for one in listed:
        one.settings(shared)  # refuses values out of their range
    teaching = Teaching(train, validation, mixed, shared, budget)
    events = test_events.open_test(test, protocol)
    if train is not None:
        test_events.refuse_shared(train, validation, events, protocol)
    folder = Path(out).absolute()
    entrants = entrants_of(listed, protocol, folder)
    with _held(folder):
        noted = _noted_or_refused(folder, teaching, protocol, events)
        for entrant in entrants:
            entrant.check(teaching, protocol, events)
        chosen = _starts(entrants, events, protocol)
        with draft(folder / NOTED) as new:
            new.write_text(json.dumps(noted, indent=1))
        for entrant in entrants:
            entrant.take_budget(teaching, protocol)
        for entrant in entrants:
            entrant.train(teaching, protocol, progress)
        how = {"engine": engine, "workers": workers, "progress": progress}
        return _scored(entrants, events, chosen, protocol, folder, how)


class _held:
    """The folder, made where it is missing, for this comparison alone."""

    def __init__(self, folder: Path):
        if folder.is_file():
            raise ValueError(f"out is {folder}, a file: name a folder")
        self.folder, self.lock = folder, StoreLock(folder / ".compare.lock")

    def __enter__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock.__enter__()

    def __exit__(self, *error: object) -> None:
        self.lock.__exit__(*error)


def _noted_or_refused(
    folder: Path, teaching: "Teaching", protocol: "Protocol", events: "Sequence[TestEvent]"
) -> dict[str, Any]:
    """What is the same for all; a ValueError if the folder holds another comparison, or none and something else."""
    from xnowcast.archive.store import differences, in_words

    kept = folder / NOTED
    budget = teaching.budget
    now = protocol.noted() | {
        "budget": None if budget is None else budget.in_words,
        "test": {event.name: [str(event.axis.times[0]), str(event.axis.times[-1])] for event in events},
    }
    if kept.is_file():
        changed = differences(json.loads(kept.read_text()), json.loads(json.dumps(now)))
        if changed:
            name, before, here = changed[0]
            raise ValueError(
                f"{folder} holds a comparison with {name} = {in_words(before)}, and now it is {in_words(here)}: all "
                "systems are compared under the same rules, so choose another out"
            )
        return now
    others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".compare.lock"))
    if others:
        raise ValueError(f"out is {folder}, which holds {', '.join(others[:4])} and no comparison: choose another")
    return now


def _starts(
    entrants: "Sequence[Entrant]", events: "Sequence[TestEvent]", protocol: "Protocol"
) -> dict[str, np.ndarray]:
    """Init times of each event, that the system which reads most frames can begin at."""
    frames = max(entrant.input_frames for entrant in entrants)
    ahead = lead_steps(events[0].axis.step, lead_time=protocol.lead_time)
    return {event.name: event.starts(frames, ahead, protocol.starts) for event in events}


def _scored(
    entrants: "Sequence[Entrant]",
    events: "Sequence[TestEvent]",
    starts: Mapping[str, np.ndarray],
    protocol: "Protocol",
    folder: Path,
    how: Mapping[str, Any],
) -> xr.Dataset:
    """Forecast, score, and write what is to be read."""
    from xnowcast.comparison import report, scores

    first = events[0]
    case = starts[first.name][starts[first.name].size // 2]
    for entrant in entrants:
        for event in events:
            entrant.forecast(event, starts[event.name], protocol, how)
        entrant.time_forecast(first, case, protocol)
        entrant.count()
    (folder / "sums").mkdir(exist_ok=True)
    bands = scores.bands_of(events, protocol.bands)
    tables, maps = {}, {}
    for event in events:
        of_event = {entrant.name: entrant.store(event) for entrant in entrants}
        given = (event, of_event, starts[event.name], protocol)
        tables[event.name] = scores.archive_sums(*given, folder / "sums", how)
        maps[event.name] = scores.map_sums(*given, bands, folder / "sums")
    card = scores.scorecard(tables, maps, entrants)
    report.write(card, folder)
    report.draw({one.name: one.store(first) for one in entrants}, first.data, case, folder / "case.png")
    return card


# ---------------------------------------------------------------- from a file

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "data": ("train", "test", "validation", "mixed", "variable", "zr"),
    "budget": ("steps", "cpu_seconds"),
    "compare": (
        *("out", "seeds", "lead_time", "members", "starts", "crop", "thresholds", "scales", "bands", "device"),
        "on_mismatch",
    ),
    "engine": ("kind", "workers", "scheduler", "scheduler_file"),
}
"""Sections whose keys are arguments of `compare`; others are [systems.NAME], [training] and [options]."""


def compare_from_config(
    path: str | Path, changes: Iterable[str] = (), *, out: str | Path | None = None, progress: bool | None = None
) -> xr.Dataset:
    """Compare as a TOML file says; what ``xnowcast compare`` does.

    ``path``: with ``[data]``, ``[budget]``, ``[compare]`` and ``[engine]`` (keys are arguments of `compare`),
    ``[training]``, ``[options]`` and a section ``[systems.NAME]`` for each system. ``changes``: values that replace
    those of the file, such as ``"budget.cpu_seconds=30"``. ``out``: instead of the file's. ValueError if the file or
    something in it is not known; and as `compare`.
    """
    from xnowcast.archive.config import engine_of
    from xnowcast.configuration import check_sections, read_toml, refuse_unknown

    content = read_toml(path, changes, example="budget.cpu_seconds=30")
    try:
        check_sections(content, [*SECTIONS, "training", "options", "systems"])
        for section, known in SECTIONS.items():
            refuse_unknown(f"key in [{section}]", content.get(section, {}), known)
        for section, key in (("data", "test"), *([] if out else [("compare", "out")])):
            if not content.get(section, {}).get(key):
                raise ValueError(f"[{section}] has no {key}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    given = {k: v for section in ("data", "budget", "compare") for k, v in content.get(section, {}).items()}
    given |= {name: content[name] for name in ("training", "options") if name in content}
    given |= {"zr": tuple(given["zr"])} if isinstance(given.get("zr"), list) else {}
    given |= {"out": out} if out is not None else {}
    with engine_of(content.get("engine", {})) as engine:
        return compare(content.get("systems", {}), progress=progress, **given, **engine)
