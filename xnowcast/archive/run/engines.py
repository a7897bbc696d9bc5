"""Where batches run: threads of this process, processes of this machine, or the workers of a Dask cluster.

All three take batches one by one and give futures of `concurrent.futures`; what all batches have in common, the model
above all, goes to a worker once.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import cloudpickle

from xnowcast.check import whole

Work = Callable[[Any, Any], Any]
"""A function of the job, which all batches share, and a batch."""

WAIT_FOR_WORKERS = 300.0
"""Seconds in which a cluster whose workers are all gone must have one again."""


class Engine(Protocol):
    """Runs batches."""

    @property
    def workers(self) -> int:
        """How many batches run at the same time."""
        ...

    @property
    def name(self) -> str:
        """For the log."""
        ...

    def submit(self, batch: Any) -> "Future[Any]":
        """Run a batch some time."""
        ...

    def cancel(self, future: "Future[Any]") -> bool:
        """Take back a batch that no worker has begun; whether that could be done."""
        ...

    def is_lost_worker(self, error: BaseException) -> bool:
        """Whether a batch failed because its worker died, rather than by itself."""
        ...

    def recover(self) -> None:
        """Make workers ready again after some died."""
        ...

    def close(self, *, at_once: bool = False) -> None:
        """Let the workers go."""
        ...


def start(engine: Any, work: Work, job: Any, *, workers: int | None, device: str) -> Engine:
    """The engine of a name or a Dask client.

    ``work``: ``work(job, batch)``, run by a worker. ``job``: what all batches share. ``workers``: how many batches run
    at the same time. By default two threads (one reads and writes while the other's model runs), or a process per GPU,
    or else per core. A cluster has its own number. ``device``: as for `xnowcast.forecast`. ValueError if there is no
    such engine, or ``workers`` is none.
    """
    check(engine, workers)
    if engine == "threads":
        return ThreadEngine(work, job, workers or 2)
    if engine == "processes":
        gpus = _visible_gpus(device)
        return ProcessEngine(work, job, workers or len(gpus) or cores(), gpus)
    return DaskEngine(work, job, engine)


def check(engine: Any, workers: int | None) -> None:
    """Refuse what is no engine, before any work.

    >>> check("dask", None)
    Traceback (most recent call last):
    ValueError: engine is 'dask'; it can be 'threads', 'processes' or a dask.distributed Client
    """
    if not (isinstance(engine, str) and engine in ("threads", "processes")) and not is_client(engine):
        raise ValueError(f"engine is {engine!r}; it can be 'threads', 'processes' or a dask.distributed Client")
    if workers is None:
        return
    if is_client(engine):
        raise ValueError("workers is for engine='threads' or 'processes'; a cluster has as many as it has")
    whole("workers", workers, 1)


def is_client(engine: Any) -> bool:
    """Whether it is a client of a Dask cluster; nobody has one who did not import distributed."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(engine, distributed.Client)


def cores() -> int:
    """Cores that this process may use, which on a cluster's node may be a few of many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def performance_report(engine: Any, path: str | Path | None) -> AbstractContextManager[Any]:
    """Dask's own report of a run on a cluster, as an HTML page.

    ``path``: None makes none. ValueError if there is no cluster to report on.
    """
    if path is None:
        return nullcontext()
    if not is_client(engine):
        raise ValueError("performance_report is of a Dask cluster: give a dask.distributed Client as engine")
    import distributed

    return distributed.performance_report(filename=str(path))


# ---------------------------------------------------------------- threads


class ThreadEngine:
    """Threads of this process: a model runs one batch at a time per device, while others are read and written."""

    def __init__(self, work: Work, job: Any, workers: int):
        self.workers, self.name = workers, f"{workers} thread{'s' if workers > 1 else ''}"
        self._work, self._job = work, job
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="archive")

    def submit(self, batch: Any) -> "Future[Any]":
        return self._pool.submit(self._work, self._job, batch)

    def cancel(self, future: "Future[Any]") -> bool:
        return future.cancel()

    def is_lost_worker(self, error: BaseException) -> bool:
        return False

    def recover(self) -> None:
        pass

    def close(self, *, at_once: bool = False) -> None:
        self._pool.shutdown(wait=not at_once, cancel_futures=True)


# ---------------------------------------------------------------- processes


class ProcessEngine:
    """Processes of this machine, one per GPU where there are GPUs; the cores are shared out among them."""

    def __init__(self, work: Work, job: Any, workers: int, gpus: list[str]):
        where = f", one on each of {len(gpus)} GPUs" if gpus else ""
        self.workers, self.name = workers, f"{workers} process{'es' if workers > 1 else ''}{where}"
        # By file: a process that dies as it starts leaves a parent that writes more than a pipe holds waiting for ever.
        self._folder = TemporaryDirectory(prefix="xnowcast-")
        self._shared = Path(self._folder.name) / "job"
        self._shared.write_bytes(cloudpickle.dumps((work, job)))
        self._gpus = gpus
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's and Zarr's threads in mid-stride
        threads = max(1, cores() // self.workers)
        arguments = (self._shared, threads, context.Value("i", 0), self._gpus)
        return ProcessPoolExecutor(self.workers, context, initializer=_begin_process, initargs=arguments)

    def submit(self, batch: Any) -> "Future[Any]":
        try:
            return self._pool.submit(_run_in_process, cloudpickle.dumps(batch))
        except BrokenProcessPool as error:  # a worker died while nobody waited for it
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def cancel(self, future: "Future[Any]") -> bool:
        return future.cancel()

    def is_lost_worker(self, error: BaseException) -> bool:
        return isinstance(error, BrokenProcessPool | CancelledError)

    def recover(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._new_pool()

    def close(self, *, at_once: bool = False) -> None:
        if at_once:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._folder.cleanup()


_shared: tuple[Work, Any] | None = None


def _begin_process(shared: Path, threads: int, counter: Any, gpus: list[str]) -> None:
    """Ctrl-C is for the parent alone; the GPU is chosen before torch looks for one."""
    import signal

    global _shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    from xnowcast.engine import workers

    workers.torch_threads = threads
    _shared = cloudpickle.loads(shared.read_bytes())


def _run_in_process(batch: bytes) -> Any:
    assert _shared is not None
    work, job = _shared
    return work(job, cloudpickle.loads(batch))


def _visible_gpus(device: str) -> list[str]:
    """Names of the GPUs that processes can be spread over, as CUDA_VISIBLE_DEVICES has them."""
    if device not in ("auto", "cuda"):
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


# ---------------------------------------------------------------- Dask


class DaskEngine:
    """Workers of a Dask cluster, wherever they are; the model is scattered to them once."""

    def __init__(self, work: Work, job: Any, client: Any):
        self._client = client
        self._shared = (work, job)
        self._scattered: Any = None
        self.recover()

    @property
    def workers(self) -> int:
        """Threads of all workers; the number may change while a cluster grows."""
        return max(1, sum(self._client.nthreads().values()))

    @property
    def name(self) -> str:
        threads = self._client.nthreads()
        return f"a Dask cluster of {len(threads)} workers with {sum(threads.values())} threads"

    def submit(self, batch: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            task = self._client.submit(_run_scattered, self._scattered, _Pickled(batch), pure=False)
        except CancelledError as error:
            future.set_exception(error)
        else:
            task.add_done_callback(partial(_settle, future))
        return future

    def cancel(self, future: "Future[Any]") -> bool:
        """Never: a thread that runs it would go on all the same, and write when nobody expects it any more."""
        return False

    def is_lost_worker(self, error: BaseException) -> bool:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        return isinstance(error, CancelledError | KilledWorker | FutureCancelledError)

    def recover(self) -> None:
        """Scatter the model once more, for it was in the memory of the workers that died; more may die meanwhile."""
        deadline = time.monotonic() + WAIT_FOR_WORKERS
        while True:
            self._client.wait_for_workers(1, timeout=WAIT_FOR_WORKERS)
            try:
                self._scattered = self._client.scatter(_Pickled(self._shared), broadcast=True, hash=False)
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def close(self, *, at_once: bool = False) -> None:
        self._scattered = None


def _settle(future: "Future[Any]", task: Any) -> None:
    """Pass on what came of a task. Dask's own executor never does where a restart falls between end and result."""
    try:
        future.set_result(task.result())
    except BaseException as error:
        future.set_exception(error)


class _Pickled:
    """By value, so that Dask finds no graph in it that it would run or join to others."""

    def __init__(self, content: Any):
        self.content = content

    def __reduce__(self) -> Any:
        return _unpickled, (cloudpickle.dumps(self.content),)

    def __sizeof__(self) -> int:
        return 1000


def _unpickled(content: bytes) -> _Pickled:
    return _Pickled(cloudpickle.loads(content))


def _run_scattered(shared: _Pickled, batch: _Pickled) -> Any:
    work, job = shared.content
    return work(job, batch.content)
