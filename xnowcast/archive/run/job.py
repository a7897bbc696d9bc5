"""What all runs over an archive share: the job that workers get, batches with their frames, the way to their end."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from xnowcast import check
from xnowcast.archive import store
from xnowcast.archive.run.lock import StoreLock
from xnowcast.archive.run.logs import LogFile, log
from xnowcast.fields import windows
from xnowcast.verbs.forecast import Prepared
from xnowcast.verbs.request import model_name

if TYPE_CHECKING:
    from xnowcast.archive.run.frames import ReadFrames
    from xnowcast.archive.run.loop import Report
    from xnowcast.archive.run.progress import Progress
    from xnowcast.interruption import Interruption

SAVE_EVERY = 60.0
"""Seconds between two writings of a result that grows as a whole."""

# ---------------------------------------------------------------- what workers get and give


@dataclass(frozen=True)
class Step:
    """Some init times that a worker deals with at once, and the frames that they read, still unread.

    ``chosen`` has, for each model, the windows of the init times that it has all frames for. ``valid`` is
    ``(init_time, lead_time)``: where what was observed lies, -1 where there is no frame. Both count in ``frames``.
    """

    init_times: np.ndarray
    chosen: dict[str, windows.Windows]
    valid: np.ndarray
    frames: Any = None

    def span(self, otherwise: int) -> tuple[int, int]:
        """Positions of the first frame that is needed, and after the last; of one frame where none is."""
        read = [positions.ravel() for some in self.chosen.values() for positions in (some.before, some.after)]
        used = np.concatenate([*read, self.valid[self.valid >= 0]])
        return (int(used.min()), int(used.max()) + 1) if used.size else (otherwise, otherwise + 1)

    def counted_in(self, frames: Any, first: int) -> "Step":
        """The step with its frames, of which the first was at this position."""
        chosen = {n: replace(w, before=w.before - first, after=w.after - first) for n, w in self.chosen.items()}
        return replace(self, chosen=chosen, valid=np.where(self.valid < 0, -1, self.valid - first), frames=frames)


@dataclass(frozen=True)
class Batch:
    """Init times that are done together or not at all, in steps."""

    number: int
    steps: list[Step]


@dataclass(frozen=True)
class Outcome:
    """What became of the init times of a batch ``(init_time, [model])``, what the log should say, and sums."""

    status: np.ndarray
    notes: list[str]
    sums: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What all batches share, without the archive's data, for it goes to every worker; and what is done with one."""

    reference: Prepared  # whose field is read
    min_coverage: float

    def compute(self, batch: Batch) -> Outcome:
        """Do a batch, on a worker."""
        raise NotImplementedError

    def read(self, step: Step) -> "ReadFrames":
        return step.frames.read(self.reference.plan.conversion)

    def forecast(
        self, ready: Prepared, name: str, step: Step, read: "ReadFrames"
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """``(*extra, init_time, [member], lead_time, y, x)`` in the user's units, NaN where there is no forecast; what
        became of each init time; and what is to be said.
        """
        chosen = step.chosen[name]
        rows = np.searchsorted(step.init_times, chosen.init_times)
        status = np.full(step.init_times.size, store.GAP, np.int8)
        status[rows], notes = judge(chosen, read, self.min_coverage)
        good = np.flatnonzero(status[rows] == store.FORECAST)
        made = run_windows(ready, read.values, pick(chosen, good)) if good.size else None
        if made is not None and good.size == status.size:
            return made, status, notes
        *extra, _, y, x = read.values.shape
        members = [len(ready.members)] if ready.members is not None else []
        values = np.full((*extra, status.size, *members, ready.plan.steps, y, x), np.nan, np.float32)
        if made is not None:
            values[(slice(None),) * len(extra) + (rows[good],)] = made
        return values, status, notes


def compute(job: Job, batch: Batch) -> Outcome:
    """What engines send to their workers."""
    return job.compute(batch)


def judge(chosen: windows.Windows, read: "ReadFrames", min_coverage: float) -> tuple[np.ndarray, list[str]]:
    """Which windows can be forecast from, as int8 statuses, and what is to be said of the others."""
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


def run_windows(ready: Prepared, frames: np.ndarray, chosen: windows.Windows) -> np.ndarray:
    """Forecasts from frames ``(*extra, time, y, x)`` in memory, first row in the north, in this thread.

    Frames and forecasts are in the user's units; the latter ``(*extra, init_time, [member], lead_time, y, x)``.
    """
    import dask.array as da

    whole = da.from_array(frames, chunks=-1, name=f"frames-{id(frames)}")  # a hash of them would take longer
    return ready.run(whole, chosen).compute(scheduler="synchronous")


# ---------------------------------------------------------------- planning


def check_run(asked: Mapping[str, Any]) -> None:
    """Refuse what says how a run over an archive goes, before any data are looked at."""
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


def choose(ready: Prepared, init_times: Any, on_gap: Any) -> tuple[windows.Windows, np.ndarray]:
    """The windows of a run, and every init time, those with a gap included; both in rising order."""
    try:
        found = windows.input_windows(ready.axis, ready.task.input_frames, init_times, on_gap=on_gap)
    except ValueError as error:
        raise ValueError(f"{model_name(ready.recipe)!r}: {error}") from None
    chosen = pick(found, np.argsort(found.init_times))
    return chosen, np.sort(np.concatenate([found.init_times, found.skipped]))


def pick(chosen: windows.Windows, which: np.ndarray) -> windows.Windows:
    """Some of the windows."""
    return windows.Windows(
        chosen.init_times[which], chosen.before[which], chosen.after[which], chosen.weight[which], chosen.skipped[:0]
    )


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


def init_times_at_once(ready: Prepared) -> int:
    """Init times that the model gets at once, as the engine cuts its batches."""
    from xnowcast.engine.graph import samples_per_task

    grid = ready.field.array.sizes[ready.field.y] * ready.field.array.sizes[ready.field.x]
    samples = samples_per_task(ready.batch_size, grid)
    return max(1, samples // min(samples, len(ready.members or (0,))))


class Ledger:
    """What became of each init time; those of a batch, whose numbers rise with the init times, lie together."""

    def __init__(self, init_times: np.ndarray, numbers: np.ndarray, *models: int):
        self.init_times, self._numbers = init_times, numbers
        self.status = np.zeros((init_times.size, *models), np.int8)

    @property
    def batches(self) -> int:
        return int(self._numbers[-1]) + 1

    def name(self, number: int) -> str:
        """Of a batch, for the log."""
        return f"batch {number}"

    def inits(self, number: int) -> slice:
        """Init times of a batch."""
        return slice(*np.searchsorted(self._numbers, [number, number + 1]).tolist())

    def with_status(self, *statuses: int) -> list[int]:
        """Batches in which an init time has one of these statuses."""
        found = np.isin(self.status, statuses).reshape(self.init_times.size, -1)
        return np.unique(self._numbers[found.any(axis=1)]).tolist()

    def put(self, number: int, outcome: Outcome) -> None:
        """Enter a batch that is done."""
        self.status[self.inits(number)] = outcome.status


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Plan(Generic[J]):
    """A whole run: every init time that was asked for, and the windows of those without a gap, by model."""

    job: J
    reference: Prepared  # with the archive's data, which the job is without
    ledger: Ledger
    chosen: dict[str, windows.Windows]
    per_step: int
    fingerprint: dict[str, Any]
    observed_steps: int = 0  # lead times whose observations are read, too

    def cut(self, numbers: list[int]) -> Iterator[Batch]:
        """The batches of these numbers, in turn."""
        from xnowcast.archive.run.frames import FrameReader

        times = self.reference.axis.times
        steps = [(number, self._step(some)) for number in numbers for some in self._in_steps(number)]
        near = np.minimum(np.searchsorted(times, [step.init_times[0] for _, step in steps]), times.size - 1)
        spans = [step.span(int(place)) for (_, step), place in zip(steps, near, strict=True)]
        cut = zip(steps, spans, FrameReader(self.reference.field, times).cut(spans), strict=True)
        for number, of_batch in groupby(cut, key=lambda found: found[0][0]):
            yield Batch(number, [step.counted_in(frames, span[0]) for (_, step), span, frames in of_batch])

    def _in_steps(self, number: int) -> list[np.ndarray]:
        times = self.ledger.init_times[self.ledger.inits(number)]
        return [times[i : i + self.per_step] for i in range(0, times.size, self.per_step)]

    def _step(self, times: np.ndarray) -> Step:
        axis, chosen = self.reference.axis, {}
        for name, found in self.chosen.items():
            some = np.arange(*np.searchsorted(found.init_times, [times[0], times[-1] + np.timedelta64(1, "ns")]))
            chosen[name] = pick(found, some[np.isin(found.init_times[some], times)])
        if not self.observed_steps:
            return Step(times, chosen, np.full((times.size, 0), -1))
        slots = axis.slots[np.searchsorted(axis.times, times)][:, None] + np.arange(1, self.observed_steps + 1)
        valid = np.minimum(np.searchsorted(axis.slots, slots), axis.slots.size - 1)
        return Step(times, chosen, np.where(axis.slots[valid] == slots, valid, -1))


# ---------------------------------------------------------------- the run


@dataclass(frozen=True)
class Run:
    """How a run goes, with the lock of what it writes; without one nothing is written."""

    engine: Any
    workers: int | None
    device: str
    progress: bool | None
    lock: StoreLock | None
    interruption: "Interruption"

    def complete(
        self, plan: Plan[Any], to_do: list[int], *, begins: str, name: str, save: Callable[[], object] | None = None
    ) -> None:
        """Do batches to their end, on the engine; raises where some are missing then.

        ``begins`` and ``name`` are words for the log. ``save`` writes a result that grows as a whole, now and then.
        """
        from xnowcast.archive.run import engines
        from xnowcast.archive.run.loop import run_batches
        from xnowcast.archive.run.progress import Progress

        ledger = plan.ledger
        runner = engines.start(self.engine, compute, plan.job, workers=self.workers, device=self.device)
        log.info("%s, on %s", begins, runner.name)
        total, count = ledger.init_times.size, sum(ledger.init_times[ledger.inits(number)].size for number in to_do)
        bar = Progress(total, total - count, "init times", shown=self.progress)
        saved = monotonic()

        def finished(batch: Batch, outcome: Outcome) -> None:
            ledger.put(batch.number, outcome)
            for note in outcome.notes:
                log.warning("%s: %s", ledger.name(batch.number), note)
            bar.add(len(outcome.status))

        def tick() -> None:
            nonlocal saved
            if self.lock is not None:
                self.lock.check()
            bar.show()
            if save is not None and monotonic() - saved > SAVE_EVERY:
                save()
                saved = monotonic()

        try:
            report = run_batches(runner, plan.cut(to_do), finished=finished, interruption=self.interruption, tick=tick)
        finally:
            bar.close()
            if save is not None and (self.lock is None or not self.lock.lost):
                save()
        end_of_run(report, summary(name, ledger.status.reshape(total, -1).min(axis=1), bar), len(to_do))


@contextmanager
def begin(asked: Mapping[str, Any], path: Path | None) -> Iterator[Run]:
    """A run as it was asked for, with lock and log beside ``path``, which ends well when it is asked to stop."""
    from xnowcast.archive.run import engines
    from xnowcast.archive.run.loop import interruptible

    with ExitStack() as held:
        held.enter_context(engines.performance_report(asked["engine"], asked["performance_report"]))
        lock = None
        if path is not None:
            lock = held.enter_context(StoreLock(path.with_name(f"{path.name}.lock")))
            held.enter_context(LogFile(path.with_name(f"{path.name}.log")))
        how = {name: asked[name] for name in ("engine", "workers", "device", "progress")}
        yield Run(**how, lock=lock, interruption=held.enter_context(interruptible()))


def summary(name: str, status: np.ndarray, bar: "Progress") -> str:
    """What a run did, in a line or two."""
    from xnowcast.archive.run.progress import duration, rate

    counts = np.bincount(status, minlength=len(store.MEANINGS))
    skipped = [f"{n} {meaning.replace('_', ' ')}" for n, meaning in zip(counts, store.MEANINGS, strict=True) if n]
    took = f"{bar.new} in this run, {duration(bar.seconds)}, {rate(bar.rate)}"
    return f"{name}: {status.size} init times ({', '.join(skipped)}); {took}"


def end_of_run(report: "Report", result: str, wanted: int) -> None:
    """Log the summary, and raise KeyboardInterrupt or IncompleteRun where batches are missing."""
    from xnowcast.archive.run.loop import IncompleteRun

    extra = [f"{report.repeated} attempts were repeated"] if report.repeated else []
    extra += [f"workers died {report.lost_workers} times"] if report.lost_workers else []
    log.info("; ".join([result, *extra]))
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
