"""The verb `hindcast`: forecasts of an archive into a Zarr store, in batches, going on where it was stopped."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.archive import store
from xnowcast.archive.run import fingerprint
from xnowcast.archive.run.lock import StoreLock
from xnowcast.archive.run.logs import LogFile, log
from xnowcast.archive.run.progress import Progress, duration, rate
from xnowcast.data import storage
from xnowcast.fields import cf, windows
from xnowcast.fields.units import Relation
from xnowcast.verbs import planning
from xnowcast.verbs.forecast import Prepared, prepare

if TYPE_CHECKING:
    from xnowcast.archive.run.frames import Frames, ReadFrames
    from xnowcast.archive.run.loop import Report
    from xnowcast.models.base import ForecastModel


def hindcast(
    ds: xr.Dataset | xr.DataArray,
    model: "str | ForecastModel | None" = None,
    *,
    out: str | Path,
    init_times: windows.InitTimes = "all",
    lead_time: str | timedelta | np.timedelta64 | None = None,
    steps: int | None = None,
    members: int | None = None,
    seed: int = 0,
    variable: Hashable | None = None,
    zr: Relation | None = None,
    on_gap: windows.OnGap = "skip",
    min_coverage: float = 0.0,
    on_mismatch: planning.OnMismatch = "raise",
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    engine: Any = "threads",
    workers: int | None = None,
    init_times_per_batch: int | None = None,
    retry_unreadable: bool = False,
    overwrite: bool = False,
    performance_report: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> xr.Dataset:
    """Forecast from every init time of an archive, into a Zarr store.

    The store is written in batches of init times, a file each. The same call goes on with a store that is not
    finished: batches that are whole are kept, the others are done again, and the result is, bit for bit, that of a run
    that was never stopped. Memory does not grow with the archive. What happens is logged to ``OUT.log``.

    Parameters
    ----------
    ds, model, lead_time, steps, members, seed, variable, zr, on_mismatch, weights, device, batch_size, **options
        As for `xnowcast.forecast`. ``ds`` should be lazy: workers read the frames that their batches need.
    out : str or pathlib.Path
        The store, a folder that ends in ``.zarr``, which all workers see.
    init_times : "all", time, list of times or slice of times
        As for `xnowcast.forecast`, in rising order.
    on_gap : {"raise", "skip", "fill"}
        What to do with an init time whose input crosses a missing frame. What is skipped has NaN, and
        ``gap_in_input`` as its status.
    min_coverage : float
        Share of the grid, 0 to 1, that each input frame must have measured, else the init time is skipped with the
        status ``too_little_coverage``. A frame in which nothing was measured is always too little.
    engine : "threads", "processes" or distributed.Client
        Where batches run: here, in processes of this machine (one per GPU where there are GPUs), or on a Dask cluster.
    workers : int, optional
        Batches that run at the same time, in threads (2 by default) or processes (one per GPU, else per core).
    init_times_per_batch : int, optional
        By default as many as make 64 MB.
    retry_unreadable : bool
        Do batches again in which a frame could not be read.
    overwrite : bool
        Replace a store that is there, instead of going on with it.
    performance_report : str or pathlib.Path, optional
        Where to write Dask's report of the run (HTML), on a cluster.
    progress : bool, optional
        A moving line with rate and time left; by default where somebody looks.

    Returns
    -------
    xarray.Dataset
        The finished store, lazily: as of `xnowcast.forecast`, with the coordinate ``init_status`` (init_time), which
        says what became of each init time; its attribute ``flag_meanings`` names the numbers. NaN where there is no
        forecast.

    Raises
    ------
    ValueError
        As `xnowcast.forecast`; if the store was begun with other data or options, or another run is writing it.
    xnowcast.archive.IncompleteRun
        If the run ended before all batches were done: the disk is full, a batch failed three times, workers die again
        and again. The message says what is missing; the same call goes on.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the batches in flight are written.

    Examples
    --------
    >>> import tempfile, xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=12, shape=(32, 32), seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     archive = hindcast(radar, "extrapolation", out=folder + "/rain.zarr", lead_time="20min")
    ...     dict(archive.sizes), int((archive.init_status == 1).sum())
    ({'init_time': 9, 'lead_time': 4, 'y': 32, 'x': 32}, 9)
    """
    asked = dict(locals())
    from xnowcast.archive.run import engines
    from xnowcast.archive.run.loop import interruptible

    out = _checked_out(out, overwrite, [ds, model, weights])
    check_run(asked)
    check.flag("retry_unreadable", retry_unreadable)
    if init_times_per_batch is not None:
        check.whole("init_times_per_batch", init_times_per_batch, 1)
    ready = prepare(
        ds,
        model,
        lead_time=lead_time,
        steps=steps,
        init_times=init_times,
        members=members,
        seed=seed,
        variable=variable,
        zr=zr,
        on_gap=on_gap,
        on_mismatch=on_mismatch,
        weights=weights,
        device=device,
        batch_size=batch_size,
        options=options,
    )
    plan = _plan(ready, init_times, on_gap, min_coverage, out, init_times_per_batch)
    about = {"field": fingerprint.of_field(ready.field, cf.find_array(ds, variable))}
    about |= fingerprint.of_call(asked, fingerprint.TOLD_AS)
    plan = replace(plan, fingerprint=plan.fingerprint | about)
    with (
        engines.performance_report(engine, performance_report),
        StoreLock(out.with_name(f"{out.name}.lock")) as lock,
        LogFile(out.with_name(f"{out.name}.log")),
        interruptible() as interruption,
    ):
        status = _open_or_create(plan, ds, overwrite)
        to_do = _to_do(plan, status, retry_unreadable)
        if to_do:
            runner = engines.start(engine, compute_batch, plan.job, workers=workers, device=device)
            log.info("%s: %d of %d batches are to be done, on %s", out, len(to_do), plan.batches, runner.name)
            _run(plan, runner, to_do, status, lock, interruption, progress)
    return open_archive(out)


def open_archive(path: str | Path) -> xr.Dataset:
    """Open a store of forecasts lazily, with chunks as they lie in it.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    ValueError
        If there is no such store.
    """
    if store.read_fingerprint(Path(path)) is None:
        raise ValueError(f"{path} is no store of a hindcast")
    return xr.open_zarr(path, consolidated=True)


# ---------------------------------------------------------------- planning


@dataclass(frozen=True)
class Job:
    """What all batches share: small, for it goes to every worker.

    ``ready``: the forecast, without the archive's data.
    """

    ready: Prepared
    out: Path
    layout: store.Layout
    min_coverage: float


@dataclass(frozen=True)
class Batch:
    """Some init times, and the frames that they read, still unread.

    ``rows``: which init times of the batch have all their frames. ``chosen``: of these, counted in ``frames``.
    ``status``: int8, one per init time of the batch, as far as it is known. ``frames``: None where no init time of the
    batch has all its frames.
    """

    number: int
    rows: np.ndarray
    chosen: windows.Windows
    status: np.ndarray
    frames: "Frames | None"


@dataclass(frozen=True)
class Outcome:
    """What a worker tells of a batch.

    ``status``: what became of its init times. ``notes``: what the log should say.
    """

    status: np.ndarray
    notes: list[str]


@dataclass(frozen=True)
class _Plan:
    """A whole run: every init time that was asked for, in rising order, and which of them cross a gap."""

    ready: Prepared
    job: Job
    init_times: np.ndarray
    chosen: windows.Windows  # of the init times without a gap, in rising order
    fingerprint: dict[str, Any]

    @property
    def batches(self) -> int:
        return self.job.layout.batches

    def cut(self, numbers: list[int]) -> Iterator[Batch]:
        """The batches of these numbers, in turn."""
        from xnowcast.archive.run.frames import FrameReader

        parts = [self._part(number) for number in numbers]
        spans = [(int(p.chosen.before.min()), int(p.chosen.after.max()) + 1) for p in parts if p.rows.size]
        frames = FrameReader(self.ready.field, self.ready.axis.times).cut(spans)
        for part in parts:
            if not part.rows.size:
                yield part
                continue
            first = part.chosen.before.min()
            chosen = replace(part.chosen, before=part.chosen.before - first, after=part.chosen.after - first)
            yield replace(part, chosen=chosen, frames=next(frames))

    def _part(self, number: int) -> Batch:
        times = self.init_times[self.job.layout.inits(number)]
        of_all = slice(*np.searchsorted(self.chosen.init_times, [times[0], times[-1] + np.timedelta64(1, "ns")]))
        rows = np.flatnonzero(np.isin(times, self.chosen.init_times[of_all]))
        status = np.full(times.size, store.GAP, np.int8)
        status[rows] = store.FORECAST
        return Batch(number, rows, pick(self.chosen, of_all), status, None)


def pick(chosen: windows.Windows, which: Any) -> windows.Windows:
    """Some of the windows."""
    return windows.Windows(
        chosen.init_times[which], chosen.before[which], chosen.after[which], chosen.weight[which], chosen.skipped[:0]
    )


def in_order(chosen: windows.Windows) -> windows.Windows:
    """The windows in rising order of their init times."""
    return replace(pick(chosen, np.argsort(chosen.init_times)), skipped=np.sort(chosen.skipped))


def without_data(ready: Prepared) -> Prepared:
    """A prepared forecast that can be sent to workers: the labels of the grid without the archive."""
    field, axis = ready.field, ready.axis
    none = field.array.isel({field.time: slice(0, 0)})
    # not computed: Dask would read a frame to have none of it
    empty = none.copy(data=np.empty(none.shape, none.dtype)).compute()
    return replace(
        ready,
        field=replace(field, array=empty),
        axis=replace(axis, times=axis.times[:0], slots=axis.slots[:0]),
    )


def _plan(
    ready: Prepared, init_times: Any, on_gap: Any, min_coverage: float, out: Path, per_batch: int | None
) -> _Plan:
    chosen = in_order(windows.input_windows(ready.axis, ready.task.input_frames, init_times, on_gap=on_gap))
    every = np.sort(np.concatenate([chosen.init_times, chosen.skipped]))
    field = ready.field
    sizes = {str(d): field.array.sizes[d] for d in field.extra} | {"init_time": every.size}
    sizes |= {"member": len(ready.members)} if ready.members is not None else {}
    sizes |= {"lead_time": ready.plan.steps}
    sizes |= {str(d): field.array.sizes[d] for d in (field.y, field.x)}
    at_once = init_times_at_once(ready)
    layout = store.plan_layout(list(sizes), list(sizes.values()), per_batch=per_batch, multiple=at_once)
    job = Job(without_data(ready), out, layout, min_coverage)
    about = fingerprint.of_forecast(ready, every) | {"init_times_per_batch": layout.per_batch}
    return _Plan(ready, job, every, chosen, about)


def init_times_at_once(ready: Prepared) -> int:
    """Init times that the model gets at once, as the engine cuts its batches."""
    from xnowcast.engine.workers import CELLS_PER_BATCH

    grid = ready.field.array.sizes[ready.field.y] * ready.field.array.sizes[ready.field.x]
    samples = ready.batch_size or max(1, min(32, CELLS_PER_BATCH // grid))
    return max(1, samples // min(samples, len(ready.members or (0,))))


# ---------------------------------------------------------------- one batch, on a worker


def compute_batch(job: Job, batch: Batch) -> Outcome:
    """Read the frames of a batch, forecast, write, and mark it as done."""
    status, values = batch.status.copy(), None
    notes: list[str] = []
    if batch.frames is not None:
        read = batch.frames.read(job.ready.plan.conversion)
        status[batch.rows], notes = judge(batch.chosen, read, job.min_coverage)
        good = status[batch.rows] == store.FORECAST
        if good.any():
            values = _forecast(job, batch, read, good)
    notes += store.write_batch(job.out, job.ready.field.name, job.layout, batch.number, values, status)
    return Outcome(status, notes)


def judge(chosen: windows.Windows, read: "ReadFrames", min_coverage: float) -> tuple[np.ndarray, list[str]]:
    """Which forecasts can be made of the frames that were read, and what is to be said of the others.

    ``chosen``: counted in the frames. Returned: int8 statuses, one per window.
    """
    frames = np.stack([chosen.before, chosen.after], axis=-1).reshape(len(chosen.init_times), -1)
    sparse = (read.coverage < min_coverage) | (read.coverage == 0)
    broken = np.isin(np.arange(read.times.size), list(read.broken))
    status = np.full(len(frames), store.FORECAST, np.int8)
    status[sparse[frames].any(axis=1)] = store.COVERAGE
    status[broken[frames].any(axis=1)] = store.UNREADABLE
    notes = [f"the frame of {read.times[i]:.19} cannot be read: {why}" for i, why in sorted(read.broken.items())]
    few = chosen.init_times[status == store.COVERAGE]
    if few.size:
        notes.append(f"too little was measured for {few.size} init times from {few[0]:.16} to {few[-1]:.16}")
    return status, notes


def _forecast(job: Job, batch: Batch, read: "ReadFrames", good: np.ndarray) -> np.ndarray:
    """The batch as it lies in the store, NaN where there is no forecast."""
    layout = job.layout
    axis = layout.dims.index("init_time")
    made = run_windows(job.ready, read.values, pick(batch.chosen, np.flatnonzero(good)))
    if good.all() and good.size == batch.status.size:
        return made
    shape = list(layout.shape)
    shape[axis] = batch.status.size
    values = np.full(shape, np.nan, np.float32)
    values[(slice(None),) * axis + (batch.rows[good],)] = made
    return values


def run_windows(ready: Prepared, frames: np.ndarray, chosen: windows.Windows) -> np.ndarray:
    """Forecasts from frames in memory, in this thread, in the user's units, rows and columns.

    ``frames``: ``(*extra, time, y, x)``, first row in the north, in the user's units. ``chosen``: counted in these
    frames. Returned: ``(*extra, init_time, [member], lead_time, y, x)``, float32.
    """
    import dask.array as da

    whole = da.from_array(frames, chunks=-1, name=f"frames-{id(frames)}")  # a hash of them would take longer
    return ready.run(whole, chosen).compute(scheduler="synchronous")


# ---------------------------------------------------------------- the run


def _checked_out(out: str | Path, overwrite: bool, inputs: list[Any]) -> Path:
    if "://" in str(out):
        raise ValueError(f"out is {out}: give a folder that all workers see; a lock needs a file system")
    if not str(out).endswith(".zarr"):
        raise ValueError(f"out is {out}; it must end in .zarr: forecasts of an archive are written to a Zarr store")
    path = storage.output_path(out).absolute()
    if path.exists() and overwrite:
        storage.refuse_inputs(path, inputs, "the input")
    if path.is_file() or overwrite:
        storage.refuse_strangers(path)
    return path


def check_run(asked: Mapping[str, Any]) -> None:
    """Refuse what says how a run over an archive goes, before any data are looked at.

    ``asked``: arguments of `hindcast` or `score_archive`.
    """
    from xnowcast.archive.run import engines

    engines.check(asked["engine"], asked["workers"])
    check.number(
        "min_coverage", asked["min_coverage"], "from 0 to 1, a share of the grid", lambda share: 0 <= share <= 1
    )
    check.flag("overwrite", asked["overwrite"])
    if asked["progress"] is not None:
        check.flag("progress", asked["progress"])
    if asked["performance_report"] is not None:
        check.path("performance_report", asked["performance_report"])
    if not isinstance(asked["variable"], Hashable):
        raise ValueError(f"variable is {asked['variable']!r}; it must be the name of one")
    planning.check_counts(seed=asked["seed"], batch_size=asked["batch_size"], members=asked["members"])


def _open_or_create(plan: _Plan, ds: xr.Dataset | xr.DataArray, overwrite: bool) -> np.ndarray:
    """The store, new or as it was left; what became of each init time so far."""
    out, layout = plan.job.out, plan.job.layout
    if out.exists() and not overwrite:
        store.check_same_run(out, plan.fingerprint)
    store.remove_leftovers(out)
    if out.exists() and overwrite:
        log.info("%s is replaced", out)
    elif out.exists():
        status = store.read_status(out, layout)
        log.info("going on with %s: %d of %d init times are done", out, np.count_nonzero(status), status.size)
        return status
    store.create(out, _template(plan, ds), plan.ready.field.name, layout, plan.fingerprint, overwrite=overwrite)
    log.info("began %s: %d init times in %d batches", out, plan.init_times.size, plan.batches)
    return np.zeros(plan.init_times.size, np.int8)


def _template(plan: _Plan, ds: xr.Dataset | xr.DataArray) -> xr.Dataset:
    import dask.array as da

    values = da.empty(plan.job.layout.shape, chunks=plan.job.layout.shard, dtype=np.float32)
    source: Any = ds
    template = plan.ready.label(values, source, plan.init_times, {})
    if isinstance(template, xr.DataArray):
        template = template.to_dataset(name=plan.ready.field.name)
    return template.assign({n: v.compute() for n, v in template.variables.items() if n != plan.ready.field.name})


def _to_do(plan: _Plan, status: np.ndarray, retry_unreadable: bool) -> list[int]:
    open_ones = (status == store.PENDING) | (retry_unreadable & (status == store.UNREADABLE))
    return [number for number in range(plan.batches) if open_ones[plan.job.layout.inits(number)].any()]


def _run(
    plan: _Plan,
    runner: Any,
    to_do: list[int],
    status: np.ndarray,
    lock: StoreLock,
    interruption: Any,
    shown: bool | None,
) -> None:
    from xnowcast.archive.run.loop import run_batches

    layout = plan.job.layout
    count = sum(status[layout.inits(number)].size for number in to_do)
    bar = Progress(status.size, status.size - count, "init times", shown=shown)

    def finished(batch: Batch, outcome: Outcome) -> None:
        status[layout.inits(batch.number)] = outcome.status
        for note in outcome.notes:
            log.warning("batch %d: %s", batch.number, note)
        bar.add(outcome.status.size)

    def tick() -> None:
        lock.check()
        bar.show()

    try:
        report = run_batches(runner, plan.cut(to_do), finished=finished, interruption=interruption, tick=tick)
    finally:
        bar.close()
    end_of_run(report, summary(plan.job.out.name, status, bar), len(to_do))


def summary(name: str, status: np.ndarray, bar: Progress) -> str:
    """What a run did, in a line or two.

    ``name``: of what was written. ``status``: what became of each init time.
    """
    counts = np.bincount(status, minlength=len(store.MEANINGS))
    skipped = [f"{n} {what.replace('_', ' ')}" for n, what in zip(counts, store.MEANINGS, strict=True) if n]
    took = f"{bar.new} in this run, {duration(bar.seconds)}, {rate(bar.rate)}"
    return f"{name}: {status.size} init times ({', '.join(skipped)}); {took}"


def end_of_run(report: "Report", told: str, wanted: int) -> None:
    """Log the summary, and raise where batches are missing.

    ``told``: the summary. ``wanted``: batches that were to be done.
    """
    from xnowcast.archive.run.loop import IncompleteRun

    extra = [f"{report.repeated} attempts were repeated"] if report.repeated else []
    extra += [f"workers died {report.lost_workers} times"] if report.lost_workers else []
    log.info("; ".join([told, *extra]))
    missing = wanted - report.done
    if not missing:
        return
    here = f"{report.done} of {wanted} batches of this run are written, {missing} are missing; the same call goes on"
    if report.interrupted:
        log.warning("interrupted: %s", here)
        raise KeyboardInterrupt(f"interrupted: {here}")
    failed = "; ".join(f"batch {number}: {why}" for number, why in list(report.failed.items())[:3])
    why = report.stopped or f"{len(report.failed)} batches failed three times ({failed})"
    log.error("%s: %s", why, here)
    raise IncompleteRun(f"{why}: {here}")
