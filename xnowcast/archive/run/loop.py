"""The loop over batches: a few in flight, each tried again where it fails, until all are done or somebody says stop."""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any

from xnowcast.archive.run.engines import Engine
from xnowcast.archive.run.logs import log
from xnowcast.archive.store import is_full
from xnowcast.interruption import Interruption

NEVER_BEGAN = "the worker died; does the script lack `if __name__ == '__main__':` around its call?"
"""Why a batch is lost before any was finished; with engine="processes" the usual reason."""

ATTEMPTS = 3
"""How often a batch is tried."""
FAILURES_IN_A_ROW = 5
"""So many batches that fail one after another, all their attempts used up, are no accident: the run stops."""


class IncompleteRun(RuntimeError):
    """A run stopped, or came to its end, with batches missing. What is written is whole; the same call goes on."""

    exit_code = 1


@dataclass
class Report:
    """What happened on the way.

    ``done``: batches done in this run. ``repeated``: batches that were tried again. ``lost_workers``: how often workers
    died. ``failed``: batches that failed for good, and why. ``stopped``: why the run stopped early; empty where it did
    not. ``interrupted``: whether that was Ctrl-C or a signal to end.
    """

    done: int = 0
    repeated: int = 0
    lost_workers: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    stopped: str = ""
    interrupted: bool = False


def interruptible(finished_first: str = "the batches in flight are") -> Interruption:
    """Ctrl-C and SIGTERM, which a scheduler sends, as a request that is logged.

    ``finished_first``: what happens before the stop.
    """

    def announce() -> None:
        log.warning("asked to stop: %s finished first (once more stops at once)", finished_first)

    return Interruption((signal.SIGINT, signal.SIGTERM), announce)


def run_batches(
    engine: Engine,
    batches: Iterable[Any],
    *,
    finished: Callable[[Any, Any], None],
    interruption: Interruption,
    tick: Callable[[], None] = lambda: None,
) -> Report:
    """Run batches, a bounded number at a time, until all are done.

    ``batches``: made one by one as workers get free; each has a ``number``. ``finished``: called with a batch and what
    its work returned, once for each batch that is done. ``tick``: called about every second, for progress; what it
    raises ends the run.
    """
    loop = _Loop(engine, iter(batches), finished, interruption, tick)
    try:
        loop.run()
    except BaseException:
        engine.close(at_once=True)
        raise
    engine.close()
    return loop.report


class _Loop:
    def __init__(
        self,
        engine: Engine,
        batches: Iterator[Any],
        finished: Callable[[Any, Any], None],
        interruption: Interruption,
        tick: Callable[[], None],
    ):
        self.engine, self.finished, self.interruption, self.tick = engine, finished, interruption, tick
        self.report = Report()
        self._fresh = batches
        self._again: deque[Any] = deque()  # batches that failed and are tried again
        self._alone: deque[Any] = deque()  # batches that were there when workers died twice: one of them may be why
        self._attempts: dict[int, int] = {}
        self._flying: dict[Future[Any], Any] = {}
        self._failed_in_a_row = 0
        self._deaths_in_a_row = 0

    def run(self) -> None:
        while True:
            self._fill()
            if not self._flying:
                return
            landed, _ = wait(self._flying, timeout=1.0, return_when=FIRST_COMPLETED)
            lost = [self._land(future) for future in landed]
            if any(lost):
                self._recover()
            self.tick()

    def _fill(self) -> None:
        if self._stopping():
            for future in [f for f in self._flying if self.engine.cancel(f)]:
                del self._flying[future]
            return
        while len(self._flying) < self._room():
            batch = self._next()
            if batch is None:
                return
            self._flying[self.engine.submit(batch)] = batch

    def _stopping(self) -> bool:
        if self.interruption.asked and not self.report.stopped:
            self.report.stopped, self.report.interrupted = "interrupted", True
        return bool(self.report.stopped)

    def _room(self) -> int:
        """Twice as many batches as workers, so that none waits; a suspect runs alone, once the others are done."""
        return 1 if self._alone and not self._again else 2 * self.engine.workers

    def _next(self) -> Any:
        if self._again:
            return self._again.popleft()
        if self._alone:
            return self._alone.popleft() if not self._flying else None
        return next(self._fresh, None)

    def _land(self, future: "Future[Any]") -> bool:
        """Deal with a batch that ended; whether its worker was lost."""
        batch = self._flying.pop(future)
        try:
            result = future.result()
        except (Exception, CancelledError) as error:
            if self.engine.is_lost_worker(error):
                self._tried_in_vain(batch, "the worker died" if self.report.done else NEVER_BEGAN, died=True)
                return True
            if is_full(error):
                self.report.stopped = f"the disk is full ({error})"
                log.error("batch %d: the disk is full; no more batches are begun", batch.number)
            else:
                self._tried_in_vain(batch, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
            return False
        self.report.done += 1
        self._failed_in_a_row = self._deaths_in_a_row = 0
        self.finished(batch, result)
        return False

    def _tried_in_vain(self, batch: Any, why: str, *, died: bool = False) -> None:
        attempt = self._attempts[batch.number] = self._attempts.get(batch.number, 0) + 1
        log.warning("batch %d failed, attempt %d of %d: %s", batch.number, attempt, ATTEMPTS, why)
        if attempt < ATTEMPTS:
            self.report.repeated += 1
            (self._alone if died and attempt > 1 else self._again).append(batch)
            return
        self.report.failed[batch.number] = why
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= FAILURES_IN_A_ROW and not self.report.stopped:
            self.report.stopped = f"{self._failed_in_a_row} batches in a row failed; the last: {why}"

    def _recover(self) -> None:
        """Workers died: their batches are tried again, on new ones."""
        self.report.lost_workers += 1
        self._deaths_in_a_row += 1
        # Those that were there when a pool broke fail with it; their futures end now or within a moment.
        deadline = time.monotonic() + 5.0
        while self._flying and time.monotonic() < deadline:
            landed, _ = wait(self._flying, timeout=0.2, return_when=FIRST_COMPLETED)
            if not landed:
                break
            for future in landed:
                self._land(future)
        if self._deaths_in_a_row > FAILURES_IN_A_ROW:
            self.report.stopped = (
                "workers die again and again before they finish a batch. A script that uses engine='processes' needs "
                "`if __name__ == '__main__':` around its call; else look for memory that runs out"
            )
            return
        log.warning("workers died; new ones take over")
        self.engine.recover()
