"""The verb `score_archive`: models side by side over an archive, as sums by block of init times."""

import hashlib
import json
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from xnowcast import check, drafts
from xnowcast.archive import store
from xnowcast.archive.hindcast import (
    check_run,
    end_of_run,
    in_order,
    init_times_at_once,
    judge,
    pick,
    run_windows,
    summary,
    without_data,
)
from xnowcast.archive.run import fingerprint
from xnowcast.archive.run.lock import StoreLock
from xnowcast.archive.run.logs import LogFile, log
from xnowcast.archive.run.progress import Progress
from xnowcast.check import plain
from xnowcast.data import storage
from xnowcast.fields import cf, windows
from xnowcast.fields.units import Relation
from xnowcast.verbs import planning
from xnowcast.verbs.forecast import Prepared, prepare

if TYPE_CHECKING:
    from xnowcast.fields.cf import Field

SAVE_EVERY = 60.0
"""Seconds between two writings of a table that grows."""
STEP_BYTES = 128 * 2**20
"""Forecasts of all models that a worker holds at once, unless those of one init time are more."""
BASELINES = ("persistence", "extrapolation")


def score_archive(
    ds: xr.Dataset | xr.DataArray,
    models: Any = (),
    *,
    out: str | Path | None = None,
    init_times: windows.InitTimes = "all",
    lead_time: str | timedelta | np.timedelta64 | None = None,
    steps: int | None = None,
    members: int | None = None,
    seed: int = 0,
    baselines: Sequence[str] = BASELINES,
    scores: Iterable[str] | None = None,
    thresholds: Any = (0.5, 2.0, 5.0, 10.0),
    scales: Any = (1, 4, 16),
    regions: xr.DataArray | None = None,
    block: str = "1D",
    hours: int | None = None,
    same_cells: bool = True,
    variable: Hashable | None = None,
    zr: Relation | None = None,
    on_gap: windows.OnGap = "skip",
    min_coverage: float = 0.0,
    on_mismatch: planning.OnMismatch = "raise",
    device: str = "auto",
    batch_size: int | None = None,
    engine: Any = "threads",
    workers: int | None = None,
    overwrite: bool = False,
    performance_report: str | Path | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Score models side by side over an archive, without keeping their forecasts.

    Every model forecasts from the same init times, and counts and sums of its scores are added up by block of init
    times. `xnowcast.archive.table_scores` takes the scores of them, by month or hour too, `bootstrap_scores` adds
    confidence intervals, and `merge_tables` joins the tables of several machines.

    Parameters
    ----------
    ds, lead_time, steps, seed, variable, zr, on_mismatch, device, batch_size
        As for `xnowcast.forecast`. ``ds`` is also what is observed.
    models : str, model, sequence of these, or mapping
        Names of systems, paths of weights files, models in memory, or stores of `xnowcast.hindcast` (``.zarr``). A
        mapping gives them names, and may hold ``{"model": ..., "weights": ..., "members": ..., option: ...}``.
    out : str or pathlib.Path, optional
        Where to keep the table (``.nc`` or ``.zarr``), about once a minute; the same call goes on with it.
    init_times, on_gap, min_coverage, engine, workers, overwrite, performance_report, progress
        As for `xnowcast.hindcast`.
    members : int, optional
        Of the models that have members.
    baselines : sequence of str
        Models that are scored beside the others.
    scores : iterable of str, optional
        As for `xnowcast.verify.scorecard`, of those that sums can be kept for. Single forecasts have a CRPS too, which
        is their mean absolute error.
    thresholds, scales
        As for `xnowcast.verify.scorecard`.
    regions : xarray.DataArray of bool, optional
        ``(region, y, x)`` with labels along ``region``: each is scored by itself.
    block : str
        Length of the blocks that the bootstrap draws: some days ("1D"; cut at the ends of months), or a length that
        divides a day ("6h").
    hours : int, optional
        Keep hours of the day apart, so many together: 1, 2, 3, 4, 6, 8 or 12.
    same_cells : bool
        Score all models on the cells that all of them have a forecast for; False scores each on its own.

    Returns
    -------
    xarray.Dataset
        Counts and sums with dims ``(model, block, [hour], [region], lead_time, [threshold, scale])``,
        ``n_init_times`` (model, block, [hour]), and ``init_status`` (init_time, model).

    Raises
    ------
    ValueError
        As `xnowcast.forecast` and `xnowcast.verify.scorecard`; if a model has no name of its own, the table was begun
        otherwise, or another run is writing it.
    xnowcast.archive.IncompleteRun, KeyboardInterrupt
        As `xnowcast.hindcast`.

    Examples
    --------
    >>> import xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=18, shape=(32, 32), seed=1)
    >>> tables = score_archive(radar, lead_time="15min", thresholds=[0.5], scales=[1, 4], progress=False)
    >>> csi = xnowcast.archive.table_scores(tables)["csi"]
    >>> csi.dims, csi.model.values.tolist()
    (('model', 'lead_time', 'threshold', 'scale'), ['persistence', 'extrapolation'])
    """
    asked = dict(locals())
    from xnowcast.archive.run import engines
    from xnowcast.archive.run.loop import interruptible

    check_run(asked)
    check.flag("same_cells", same_cells)
    shared = {"seed": seed, "variable": variable, "zr": zr, "on_mismatch": on_mismatch, "device": device}
    shared |= {"lead_time": lead_time, "steps": steps, "batch_size": batch_size}
    contenders, reference = _contenders(ds, models, baselines, members, shared)
    plan = _plan(contenders, reference, asked)
    if out is None:
        with engines.performance_report(engine, performance_report), interruptible() as interruption:
            return _run(plan, None, None, engine, workers, device, interruption, progress)
    path = storage.output_path(out).absolute()
    if path.exists() and overwrite:
        storage.refuse_inputs(path, [ds, models, regions])
        storage.refuse_strangers(path)
    with (
        engines.performance_report(engine, performance_report),
        StoreLock(path.with_name(f"{path.name}.lock")) as lock,
        LogFile(path.with_name(f"{path.name}.log")),
        interruptible() as interruption,
    ):
        drafts.remove_leftovers(path)
        if overwrite and path.exists():
            log.info("%s is replaced", path)
        else:
            plan.table.go_on_with(path, plan.fingerprint)
        return _run(plan, path, lock, engine, workers, device, interruption, progress)


# ---------------------------------------------------------------- contenders


@dataclass(frozen=True)
class Stored:
    """Forecasts that are in a store already.

    ``name``: the variable. ``steps``: how many lead times are scored.
    """

    path: str
    name: str
    init_times: np.ndarray
    conversion: Any
    steps: int

    def read(self, init_times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(init_time, [member], lead_time, y, x)`` in mm h-1, NaN for init times that the store has not; and what
        became of each.
        """
        with xr.open_zarr(self.path, chunks=None) as opened:
            there = np.isin(init_times, self.init_times)
            some = opened.isel(init_time=_as_slice(np.searchsorted(self.init_times, init_times[there])))
            found = some[self.name].isel(lead_time=slice(self.steps)).values
            status = np.full(len(init_times), store.GAP, np.int8)
            status[there] = some[store.STATUS].values
        values = np.full((len(init_times), *found.shape[1:]), np.nan, np.float32)
        values[there] = self.conversion(found)
        return values, status


def _as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Neighbours are read at once, which Zarr does several times faster than one by one."""
    if positions.size and positions[-1] - positions[0] == positions.size - 1:
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


Contender = Prepared | Stored


def _contenders(
    ds: Any, models: Any, baselines: Sequence[str], members: int | None, shared: dict[str, Any]
) -> tuple[dict[str, Contender], Prepared]:
    """Every model by its name, and one that tells the field and the steps that all have in common."""
    named = _named(models)
    more = [baselines] if isinstance(baselines, str) else list(baselines) if isinstance(baselines, Iterable) else [None]
    if not all(isinstance(name, str) for name in more):
        raise ValueError(f"baselines is {baselines!r}; it must be names of models, such as {BASELINES}")
    named |= {name: name for name in more if name not in named}
    if not named:
        raise ValueError("there is no model to score: name some, or baselines")
    in_stores = {name: given for name, given in named.items() if str(given).endswith(".zarr")}
    ready = {name: _prepared(ds, given, members, shared) for name, given in named.items() if name not in in_stores}
    reference = next(iter(ready.values())) if ready else _prepared(ds, "persistence", None, shared)
    if reference.field.extra:
        raise ValueError(
            f"variable {reference.field.name!r} has the dims {reference.field.extra} besides time, y and x: choose one "
            "of their labels with .isel"
        )
    return {name: ready[name] if name in ready else _stored(named[name], reference) for name in named}, reference


def _named(models: Any) -> dict[str, Any]:
    if isinstance(models, Mapping) and "model" not in models:
        return {str(name): given for name, given in models.items()}
    one = isinstance(models, str | Path | Mapping) or hasattr(models, "task")
    if not one and not isinstance(models, Iterable):
        raise ValueError(
            f"models is {models!r}; it can be the name of a model, weights, a model, a store of a hindcast, several of "
            "these, or a mapping from names of your choice"
        )
    given = [models] if one else list(models)
    names = [_name(model) for model in given]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two models are called {twice[0]!r}: give a mapping from names of your choice")
    return dict(zip(names, given, strict=True))


def _name(model: Any) -> str:
    if isinstance(model, Mapping):
        return _name(model.get("weights") or model["model"])
    return Path(model).stem if isinstance(model, str | Path) else planning.model_name(model)


def _prepared(ds: Any, given: Any, members: int | None, shared: dict[str, Any]) -> Prepared:
    about = dict(given) if isinstance(given, Mapping) else {"model": given}
    own = {key: about.pop(key) for key in ("seed", "batch_size", "device") if key in about}
    asked = about.pop("members", None)
    model, weights = about.pop("model", None), about.pop("weights", None)
    ready = prepare(ds, model, members=asked, weights=weights, options=about, **(shared | own))
    if ready.members is None or asked is not None or members is None:
        return ready
    return replace(ready, members=range(members))


def _stored(path: Any, reference: Prepared) -> Stored:
    from xnowcast.archive.hindcast import open_archive

    opened = open_archive(path)
    field = cf.find_field(opened)
    array = opened[field.name]
    _refuse_other_interval(path, field, reference)
    leads = np.arange(1, reference.plan.steps + 1) * reference.axis.step
    there = array["lead_time"].values
    if not np.array_equal(there[: leads.size], leads):
        minutes = [f"{leads_of[-1] / np.timedelta64(60, 's'):g} min" for leads_of in (there, leads)]
        raise ValueError(
            f"{path} has {there.size} lead times up to {minutes[0]}; {leads.size} up to {minutes[1]} are to be scored"
        )
    for dim in (reference.field.y, reference.field.x):
        ours = reference.field.array
        if dim not in array.dims or not np.array_equal(array.indexes.get(dim, []), ours.indexes.get(dim, [])):
            raise ValueError(f"the forecasts of {path} have another {dim!r} than the observations")
    return Stored(str(Path(path).absolute()), field.name, array["init_time"].values, field.conversion, leads.size)


def _refuse_other_interval(path: Any, forecast: "Field", reference: Prepared) -> None:
    """Forecasts of sums over another time than the observations; rates of moments are those of their step."""
    step = reference.axis.step.astype("m8[ns]")
    lengths = [step if f.interval is None else f.interval.length for f in (forecast, reference.field)]
    if lengths[0] != lengths[1]:
        theirs, ours = (f"{length / np.timedelta64(60, 's'):g} min" for length in lengths)
        raise ValueError(
            f"the forecasts of {path} are of {theirs} each, and the observations of {ours}: score them with "
            "xnowcast.verify.scorecard, which averages the shorter ones where they make up the longer"
        )


# ---------------------------------------------------------------- planning


@dataclass(frozen=True)
class Job:
    """What all blocks share.

    ``reference``: whose field is observed. ``kinds``: of sums. ``options``: thresholds and scales, by kind of sums.
    ``regions``: bool ``(region, y, x)``. ``sizes``: of the dims of the tables.
    """

    models: dict[str, Contender]
    reference: Prepared
    kinds: tuple[str, ...]
    options: dict[str, dict[str, Any]]
    regions: np.ndarray | None
    sizes: dict[str, int]
    hours: int | None
    same_cells: bool
    min_coverage: float


@dataclass(frozen=True)
class Step:
    """Some init times that a worker scores at once.

    ``chosen``: for each model that forecasts here the init times that it has all frames for, counted in ``frames``.
    ``valid``: ``(init_time, lead_time)`` positions in ``frames`` of what was observed, -1 where there is no frame.
    """

    init_times: np.ndarray
    chosen: dict[str, windows.Windows]
    valid: np.ndarray
    frames: Any


@dataclass(frozen=True)
class Batch:
    """A block of init times, in steps."""

    number: int
    steps: list[Step]


@dataclass(frozen=True)
class Outcome:
    """What a worker found of a block.

    ``sums``: by variable of the table, without the dim ``block``. ``status``: ``(init_time, model)``.
    """

    sums: dict[str, np.ndarray]
    status: np.ndarray
    notes: list[str]


@dataclass(frozen=True)
class _Plan:
    job: Job
    reference: Prepared  # with the archive's data, which the job is without
    chosen: dict[str, windows.Windows]
    table: "Table"
    fingerprint: dict[str, Any]

    def cut(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """The blocks of these numbers, in turn, each in steps."""
        from xnowcast.archive.run.frames import FrameReader

        axis = self.reference.axis
        steps = [(number, self._step(times)) for number in numbers for times in self._in_steps(number)]
        frames = FrameReader(self.reference.field, axis.times).cut([_span(step) for _, step in steps])
        cut = zip(steps, frames, strict=True)
        for number, of_block in groupby(cut, key=lambda pair: pair[0][0]):
            yield Batch(number, [_counted(step, found) for (_, step), found in of_block])

    def _in_steps(self, number: int) -> list[np.ndarray]:
        times = self.table.init_times[self.table.inits(number)]
        return [times[i : i + self.per_step] for i in range(0, times.size, self.per_step)]

    @property
    def per_step(self) -> int:
        """Init times whose forecasts of all models, beside what was observed, fit into the memory of a step."""
        field = self.reference.field
        copies = 3 + sum(len(m.members or (0,)) if isinstance(m, Prepared) else 1 for m in self.job.models.values())
        cells = field.array.sizes[field.y] * field.array.sizes[field.x] * self.reference.plan.steps
        most = int(np.clip(STEP_BYTES // (4 * cells * copies), 1, 128))
        multiple = max([init_times_at_once(m) for m in self.job.models.values() if isinstance(m, Prepared)], default=1)
        return most // multiple * multiple or most

    def _step(self, times: np.ndarray) -> Step:
        axis = self.reference.axis
        chosen = {}
        for name, found in self.chosen.items():
            ends = np.searchsorted(found.init_times, [times[0], times[-1] + np.timedelta64(1, "ns")])
            some = np.arange(*ends)
            chosen[name] = pick(found, some[np.isin(found.init_times[some], times)])
        slots = axis.slots[np.searchsorted(axis.times, times)][:, None] + np.arange(1, self.reference.plan.steps + 1)
        valid = np.minimum(np.searchsorted(axis.slots, slots), axis.slots.size - 1)
        return Step(times, chosen, np.where(axis.slots[valid] == slots, valid, -1), None)


def _span(step: Step) -> tuple[int, int]:
    """Positions of the first frame that a step needs, and after the last."""
    read = [positions.ravel() for some in step.chosen.values() for positions in (some.before, some.after)]
    used = np.concatenate([*read, step.valid[step.valid >= 0]])
    return (int(used.min()), int(used.max()) + 1) if used.size else (0, 1)


def _counted(step: Step, frames: Any) -> Step:
    """The step with its frames, and positions counted in these."""
    first, _ = _span(step)
    chosen = {n: replace(w, before=w.before - first, after=w.after - first) for n, w in step.chosen.items()}
    return replace(step, chosen=chosen, valid=np.where(step.valid < 0, -1, step.valid - first), frames=frames)


def _plan(models: dict[str, Contender], reference: Prepared, asked: Mapping[str, Any]) -> _Plan:
    from xnowcast.archive import tables
    from xnowcast.verify.contingency import scale_coordinate
    from xnowcast.verify.scorecard import _checked_thresholds

    init_times, on_gap, hours, regions = (asked[name] for name in ("init_times", "on_gap", "hours", "regions"))
    units = "kg m-2" if reference.field.quantity == "vil" else "mm h-1"
    threshold = _checked_thresholds(asked["thresholds"], xr.DataArray(0.0, attrs={"units": units}))
    scales = np.atleast_1d(scale_coordinate(asked["scales"], "pooling").values).tolist()
    options = {"thresholds": np.atleast_1d(threshold.values).tolist(), "scales": scales}
    smallest = min(reference.field.array.sizes[dim] for dim in (reference.field.y, reference.field.x))
    if max(scales) > smallest:
        raise ValueError(f"scales has {max(scales)}, and the grid has {smallest} cells: choose scales up to that")
    kinds = _kinds(asked["scores"], models)
    masks = _masks(regions, reference)
    forecasting = {name: model for name, model in models.items() if isinstance(model, Prepared)} or {"": reference}
    # The model that reads most frames has the first init time; the others begin with it.
    most = max(forecasting, key=lambda name: forecasting[name].task.input_frames)
    chosen = {most: _choose(forecasting[most], init_times, on_gap)}
    every = np.sort(np.concatenate([chosen[most].init_times, chosen[most].skipped]))
    chosen |= {name: _choose(m, every, on_gap) for name, m in forecasting.items() if name != most}
    coords = {
        "model": list(models),
        **({"hour": np.arange(0, 24, _checked_hours(hours))} if hours is not None else {}),
        **({"region": [str(label) for label in _region_labels(regions)]} if regions is not None else {}),
        "lead_time": np.arange(1, reference.plan.steps + 1) * reference.axis.step,
        "threshold": options["thresholds"],
        "scale": options["scales"],
    }
    bare = {n: without_data(m) if isinstance(m, Prepared) else m for n, m in models.items()}
    sizes = {name: len(values) for name, values in coords.items()}
    kept = {name: asked[name] for name in ("hours", "same_cells", "min_coverage")}
    job = Job(bare, without_data(reference), kinds, options, masks, sizes, **kept)
    of_reference = fingerprint.of_forecast(reference, every)
    about = {
        "models": {name: _about(model, every) for name, model in models.items()},
        "field": of_reference["grid"],
        "observed": fingerprint.of_field(reference.field, cf.find_array(asked["ds"], asked["variable"])),
        "sums": list(kinds),
        **options,
        "regions": None if masks is None else hashlib.sha256(masks.tobytes()).hexdigest()[:12],
        "region_labels": coords.get("region"),
        "lead_time": of_reference["lead_time"],
        "init_times": of_reference["init_times"],
    } | fingerprint.of_call(asked, fingerprint.TOLD_BY_TABLES)
    shapes = {tables.variable(k, part): tables.KINDS[k].dims for k in kinds for part in tables.KINDS[k].sums}
    table = Table(every, block_starts(every, asked["block"]), coords, shapes, units)
    return _Plan(job, reference, chosen if "" not in chosen else {}, table, about)


def _choose(ready: Prepared, init_times: Any, on_gap: Any) -> windows.Windows:
    return in_order(windows.input_windows(ready.axis, ready.task.input_frames, init_times, on_gap=on_gap))


def _about(model: Contender, init_times: np.ndarray) -> dict[str, Any]:
    """What a model is, wherever its forecasts lie, and whatever else than the init times its store has."""
    if isinstance(model, Prepared):
        made = fingerprint.of_forecast(model, init_times)
    else:
        made = store.read_fingerprint(Path(model.path)) or {}
    return {key: value for key, value in made.items() if key not in ("init_times", "batch_size")}


def _kinds(scores: Iterable[str] | None, models: dict[str, Contender]) -> tuple[str, ...]:
    from xnowcast.archive import tables

    if scores is None:
        ensembles = any(isinstance(model, Prepared) and model.members is not None for model in models.values())
        return ("events", "errors", "crps") if ensembles else ("events", "errors")
    if not isinstance(scores, Iterable):
        raise ValueError(f"scores is {scores!r}; it must be names of scores")
    named = [scores] if isinstance(scores, str) else list(scores)
    if not named:
        raise ValueError("scores is empty: name at least one")
    return tuple(dict.fromkeys(tables.kind_of(name) for name in named))


def _masks(regions: xr.DataArray | None, reference: Prepared) -> np.ndarray | None:
    if regions is None:
        return None
    field = reference.field
    if not isinstance(regions, xr.DataArray):
        raise ValueError(f"regions is a {type(regions).__name__}; it must be a DataArray of bool")
    if set(regions.dims) != {"region", field.y, field.x} or regions.dtype != bool:
        raise ValueError(
            f"regions has dims {regions.dims} and holds {regions.dtype}; it must be bool with dims "
            f"('region', {field.y!r}, {field.x!r})"
        )
    for dim in (field.y, field.x):
        if regions.sizes[dim] != field.array.sizes[dim]:
            raise ValueError(
                f"regions has {regions.sizes[dim]} cells along {dim!r}, the field {field.array.sizes[dim]}"
            )
    return regions.transpose("region", field.y, field.x).values


def _region_labels(regions: xr.DataArray) -> list[Any]:
    return planning.labels(regions, "region")


def _checked_hours(hours: int) -> int:
    if isinstance(hours, bool) or hours not in (1, 2, 3, 4, 6, 8, 12):
        raise ValueError(f"hours is {hours!r}; it can be 1, 2, 3, 4, 6, 8 or 12")
    return hours


def block_starts(init_times: np.ndarray, block: str) -> np.ndarray:
    """When the block of each init time began.

    ``block``: whole days, cut at the ends of months, or a length that divides a day. Returned: datetime64[ns].
    ValueError if it is another length.

    >>> times = np.array(["2024-06-09T07", "2024-06-30T23", "2024-07-01T00"], "M8[ns]")
    >>> block_starts(times, "7D").astype("M8[D]").astype(str).tolist()
    ['2024-06-08', '2024-06-29', '2024-07-01']
    >>> block_starts(times, "6h").astype("M8[h]").astype(str).tolist()
    ['2024-06-09T06', '2024-06-30T18', '2024-07-01T00']
    """
    length, day = windows.to_timedelta(block, "block"), np.timedelta64(1, "D").astype("m8[ns]")
    if length <= day and not (day % length).astype("i8"):
        return init_times - (init_times - init_times.astype("M8[D]")) % length
    if (length % day).astype("i8"):
        raise ValueError(f"block is {block!r}; it must be some days, such as '1D', or divide a day, such as '6h'")
    month = init_times.astype("M8[M]").astype("M8[ns]")
    return month + (init_times - month) // length * length


# ---------------------------------------------------------------- the table as it grows


class Table:
    """Sums of all blocks, and what became of each init time.

    ``init_times, starts``: in rising order, and when the block of each began. ``coords``: of the dims but block, in
    their order. ``shapes``: variables, and their dims after the lead time.
    """

    def __init__(
        self,
        init_times: np.ndarray,
        starts: np.ndarray,
        coords: dict[str, Any],
        shapes: dict[str, tuple[str, ...]],
        units: str,
    ):
        self.init_times = init_times
        self.blocks, self._number = np.unique(starts, return_inverse=True)
        self.coords, self.units = coords, units
        outer = [name for name in ("model", "hour", "region") if name in coords]
        self.dims = {name: [outer[0], "block", *outer[1:], "lead_time", *last] for name, last in shapes.items()}
        self.dims["n_init_times"] = ["model", "block", *(["hour"] if "hour" in coords else [])]
        sizes = {name: len(values) for name, values in coords.items()} | {"block": self.blocks.size}
        self.sums: dict[str, np.ndarray] = {
            n: np.zeros([sizes[d] for d in dims], dtype_of(n)) for n, dims in self.dims.items()
        }
        self.status = np.zeros((init_times.size, sizes["model"]), np.int8)

    def inits(self, number: int) -> slice:
        """Init times of a block."""
        return slice(*np.searchsorted(self._number, [number, number + 1]).tolist())

    def pending(self) -> list[int]:
        """Blocks that are not scored."""
        return np.unique(self._number[(self.status == store.PENDING).any(axis=1)]).tolist()

    def put(self, number: int, outcome: Outcome) -> None:
        """Set, rather than add, the sums of a block, so that none can count twice."""
        for name, sums in outcome.sums.items():
            self.sums[name][:, number] = sums
        self.status[self.inits(number)] = outcome.status

    def to_dataset(self, attrs: dict[str, Any]) -> xr.Dataset:
        """The table as users get it."""
        used = {d for dims in self.dims.values() for d in dims}
        coords = {name: _as_text(values) for name, values in self.coords.items() if name in used}
        dataset = xr.Dataset(
            {name: (self.dims[name], sums.copy()) for name, sums in self.sums.items()}
            | {store.STATUS: (("init_time", "model"), self.status.copy())},
            coords=coords | {"block": self.blocks, "init_time": self.init_times},
            attrs=attrs | {"title": "sums for the scores of precipitation forecasts", "units": self.units},
        )
        dataset["n_init_times"].attrs["long_name"] = "init times that were scored"
        dataset[store.STATUS].attrs = store.status_attributes()
        dataset["lead_time"].encoding = {"units": "minutes", "dtype": "int64"}
        for name in ("block", "init_time"):
            dataset[name].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
        if "threshold" in dataset:
            dataset["threshold"].attrs = {"units": self.units, "long_name": "an event is a value at or above this"}
        return dataset

    def go_on_with(self, path: Path, wanted: dict[str, Any]) -> None:
        """Take over what a table on disk has; a table that was begun otherwise is refused."""
        if not path.exists():
            return
        with storage.open_input(str(path)) as opened:
            found = json.loads(opened.attrs.get(store.FINGERPRINT, "null"))
            if found is None:
                raise ValueError(f"{path} exists and is no table of score_archive: choose another name")
            store.refuse_other_run(path, wanted, fingerprint.completed(path, found, wanted))
            opened = opened.sel(model=list(self.coords["model"]))  # they may be named in another order now
            for name, sums in self.sums.items():
                sums[:] = opened[name].transpose(*self.dims[name]).values
            self.status[:] = opened[store.STATUS].transpose("init_time", "model").values
        log.info("going on with %s: %d of %d blocks are to be done", path, len(self.pending()), self.blocks.size)


def _as_text(values: Any) -> Any:
    """Names as objects: Zarr has no type for text of a fixed length that others can read."""
    return np.array(values, object) if len(values) and isinstance(values[0], str) else values


def dtype_of(variable: str) -> type:
    """Counts are whole numbers, sums are not."""
    return np.int64 if variable.startswith(("events_", "n_init")) else np.float64


# ---------------------------------------------------------------- one block, on a worker


def score_block(job: Job, batch: Batch) -> Outcome:
    """Forecast from the init times of a block with every model, and add up their scores' sums."""
    from xnowcast.archive import tables

    outer = [job.sizes["model"], *(job.sizes[d] for d in ("hour", "region") if d in job.sizes)]
    sums: dict[str, np.ndarray] = {}
    for kind in job.kinds:
        shape = [*outer, job.sizes["lead_time"], *(job.sizes[d] for d in tables.KINDS[kind].dims)]
        sums |= {(n := tables.variable(kind, p)): np.zeros(shape, dtype_of(n)) for p in tables.KINDS[kind].sums}
    sums["n_init_times"] = np.zeros([job.sizes[d] for d in ("model", "hour") if d in job.sizes], np.int64)
    statuses, notes = [], []
    for step in batch.steps:
        status, said = _score_step(job, step, sums)
        statuses.append(status)
        notes += said
    return Outcome(sums, np.concatenate(statuses), list(dict.fromkeys(notes)))


def _score_step(job: Job, step: Step, sums: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    read = step.frames.read(job.reference.plan.conversion)
    forecasts, status, notes = _forecasts(job, step, read)
    rain = planning.user_orientation(job.reference.plan.conversion(read.values), job.reference.field)
    observed = np.where(step.valid[..., None, None] >= 0, rain[step.valid], np.float32(np.nan))
    observed[(status == store.FORECAST).sum(axis=1) == 0] = np.nan  # nothing to compare with
    if job.same_cells:
        for forecast in forecasts:
            known = np.isfinite(forecast)
            observed[~(known.all(axis=1) if known.ndim == 5 else known)] = np.nan
    hour = _hours(step.init_times, job.hours)
    for number, forecast in enumerate(forecasts):
        counted = status[:, number] == store.FORECAST
        if job.same_cells:
            counted = (status == store.FORECAST).all(axis=1)
        _add(sums["n_init_times"], number, counted.astype(np.int64), hour)
        _add_scores(job, number, observed, forecast, hour, sums)
    return status, notes


def _forecasts(job: Job, step: Step, read: Any) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Of each model ``(init_time, [member], lead_time, y, x)`` in mm h-1, NaN where there is none; and why."""
    forecasts, notes = [], []
    status = np.full((step.init_times.size, len(job.models)), store.GAP, np.int8)
    for number, (name, model) in enumerate(job.models.items()):
        if isinstance(model, Stored):
            values, status[:, number] = model.read(step.init_times)
            forecasts.append(values)
            continue
        chosen = step.chosen[name]
        rows = np.searchsorted(step.init_times, chosen.init_times)
        of_rows, said = judge(chosen, read, job.min_coverage)
        status[rows, number] = of_rows
        good = of_rows == store.FORECAST
        members = [len(model.members)] if model.members is not None else []
        values = np.full(
            (step.init_times.size, *members, model.plan.steps, *read.values.shape[-2:]), np.nan, np.float32
        )
        if good.any():
            made = run_windows(model, read.values, pick(chosen, np.flatnonzero(good)))
            values[rows[good]] = model.plan.conversion(made)
        forecasts.append(values)
        notes += said
    return forecasts, status, notes


def _add_scores(
    job: Job,
    number: int,
    observed: np.ndarray,
    forecast: np.ndarray,
    hour: np.ndarray | None,
    sums: dict[str, np.ndarray],
) -> None:
    """The sums of one model, in each region."""
    from xnowcast.archive import tables

    members = ["member"] if forecast.ndim == 5 else []
    fc = xr.DataArray(forecast, dims=("init_time", *members, "lead_time", "y", "x"))
    places = [None] if job.regions is None else list(job.regions)
    for i, mask in enumerate(places):
        seen = observed if mask is None else np.where(mask, observed, np.float32(np.nan))
        obs = xr.DataArray(seen, dims=("init_time", "lead_time", "y", "x"))
        for kind in job.kinds:
            found = tables.KINDS[kind].take(obs, fc, job.options)
            for part in tables.KINDS[kind].sums:
                values = found[part].transpose("init_time", "lead_time", *tables.KINDS[kind].dims).values
                _add(sums[tables.variable(kind, part)], number, values, hour, () if mask is None else (i,))


def _add(
    table: np.ndarray, number: int, values: np.ndarray, hour: np.ndarray | None, region: tuple[int, ...] = ()
) -> None:
    """Add ``(init_time, ...)`` up in a table ``(model, [hour], [region], ...)``."""
    if hour is None:
        table[(number, *region)] += values.sum(axis=0)
        return
    for which in np.unique(hour):
        table[(number, which, *region)] += values[hour == which].sum(axis=0)


def _hours(init_times: np.ndarray, hours: int | None) -> np.ndarray | None:
    if hours is None:
        return None
    return pd.DatetimeIndex(init_times).hour.to_numpy() // hours


# ---------------------------------------------------------------- the run


def _run(
    plan: _Plan,
    path: Path | None,
    lock: StoreLock | None,
    engine: Any,
    workers: int | None,
    device: str,
    interruption: Any,
    shown: bool | None,
) -> xr.Dataset:
    from xnowcast.archive.run import engines
    from xnowcast.archive.run.loop import run_batches

    table, to_do = plan.table, plan.table.pending()
    attrs = {store.FINGERPRINT: json.dumps(plan.fingerprint, default=plain)}
    if not to_do:
        return table.to_dataset(attrs)
    runner = engines.start(engine, score_block, plan.job, workers=workers, device=device)
    log.info(
        "scoring %s: %d of %d blocks, on %s", ", ".join(plan.job.models), len(to_do), table.blocks.size, runner.name
    )
    count = sum(table.init_times[table.inits(number)].size for number in to_do)
    bar = Progress(table.init_times.size, table.init_times.size - count, "init times", shown=shown)
    saved = time.monotonic()

    def finished(batch: Batch, outcome: Outcome) -> None:
        table.put(batch.number, outcome)
        for note in outcome.notes:
            log.warning("block %.10s: %s", np.datetime_as_string(table.blocks[batch.number]), note)
        bar.add(len(outcome.status))

    def tick() -> None:
        nonlocal saved
        bar.show()
        if path is not None and lock is not None:
            lock.check()
            if time.monotonic() - saved > SAVE_EVERY:
                storage.write(table.to_dataset(attrs), path, overwrite=True)
                saved = time.monotonic()

    try:
        report = run_batches(runner, plan.cut(to_do), finished=finished, interruption=interruption, tick=tick)
    finally:
        bar.close()
        if path is not None and (lock is None or not lock.lost):
            storage.write(table.to_dataset(attrs), path, overwrite=True)
    end_of_run(report, summary(path.name if path else "scores", table.status.min(axis=1), bar), len(to_do))
    _tell_of_unfinished(table, plan.job.models)
    return table.to_dataset(attrs)


def _tell_of_unfinished(table: Table, models: dict[str, Contender]) -> None:
    """Stores that have no forecast from some init times: the scores of all models are without these."""
    for number, (name, model) in enumerate(models.items()):
        lacking = table.status[:, number] == store.PENDING
        if isinstance(model, Stored):
            lacking |= ~np.isin(table.init_times, model.init_times)
        if lacking.any():
            log.warning(
                "%s has no forecast from %d of %d init times: the scores are without them",
                *(name, lacking.sum(), lacking.size),
            )
