"""Torch on a worker: which device, one model per process and device, one batch at a time, how many threads."""

import multiprocessing
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from dask.diagnostics import ProgressBar

from xnowcast import models

CELLS_PER_BATCH = 2**21
"""Cells of the samples of one batch where no batch size is asked for: 8 of 512 x 512, 32 of 256 x 256 or less."""


@dataclass(frozen=True)
class ModelRecipe:
    """How to make a model on a worker: small, so that it can travel with the graph."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    weights: str | None = None
    sha256: str | None = None

    def make(self) -> Any:
        if self.weights is None:
            return models.build(self.name, **dict(self.options))
        from xnowcast.weights import load

        return load(self.weights, sha256=self.sha256, **dict(self.options))


@dataclass(frozen=True)
class ModelNode:
    """Wraps the model so that Dask takes it as data: a model is callable, and a bare callable would be run."""

    model: Any


torch_threads: int | None = None
"""Torch threads of this process, set by whoever shares out the cores; None leaves it to the kind of process."""

_MODELS: dict[tuple[Any, torch.device], Any] = {}
_MODELS_LOCK = threading.Lock()
_DEVICE_LOCKS: dict[torch.device, threading.Lock] = {}


def choose_device(device: str) -> torch.device:
    """The torch device of a name; "auto" is the GPU where there is one, else the CPU.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda", "cuda:1" ...

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If torch knows no such device, or there is none here.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; it can be 'auto', 'cpu', 'cuda' or 'cuda:1'") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, and torch sees no GPU here: use device='auto' or 'cpu'")
    return chosen


def worker_model(model: Any, device: torch.device) -> Any:
    """The model on a device of this process, made the first time it is asked for.

    Parameters
    ----------
    model : ModelRecipe or ForecastModel
    device : torch.device

    Returns
    -------
    ForecastModel
    """
    key = (model if isinstance(model, ModelRecipe) else id(model), device)
    with _MODELS_LOCK:
        if key not in _MODELS:
            made = model.make() if isinstance(model, ModelRecipe) else model
            if isinstance(made, torch.nn.Module):
                made = made.to(device).eval()
            if not isinstance(model, ModelRecipe):
                return made  # it lives in the graph; a cache would only keep it alive
            _MODELS[key] = made
        return _MODELS[key]


@contextmanager
def one_at_a_time(device: torch.device) -> Iterator[None]:
    """Two batches on one device would fight for its cores or its memory; other threads read and decode meanwhile."""
    with _MODELS_LOCK:
        lock = _DEVICE_LOCKS.setdefault(device, threading.Lock())
    with lock:
        threads = _torch_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        yield


@contextmanager
def memory_explained(model: Any, samples: int, shape: tuple[int, ...]) -> Iterator[None]:
    """Say what to try where a batch does not fit into the memory, instead of how an allocator failed.

    Parameters
    ----------
    model : object
    samples : int
        Samples of the batch, members counted.
    shape : tuple of int
        Of a frame.

    Raises
    ------
    MemoryError
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        fewer = f"batch_size={samples // 2}" if samples > 1 else ""
        advice = " or ".join(filter(None, (fewer, _smaller_tile(model, shape)))) or "a smaller part of the grid"
        size = " x ".join(map(str, shape[-2:]))
        raise MemoryError(
            f"a batch of {samples} samples of {size} cells does not fit into memory: try {advice}"
        ) from error


def _smaller_tile(model: Any, shape: tuple[int, ...]) -> str:
    """Half of the model's tiles, or of the grid where that is smaller, as it may be asked for; "" where it may not."""
    if not hasattr(model, "tile"):
        return ""
    multiple = model.task.grid_multiple
    half = min(model.tile or max(shape[-2:]), max(shape[-2:])) // 2 // multiple * multiple
    return f"tile={half}" if half >= 2 * multiple and half > getattr(model, "overlap", 0) else ""


def _torch_threads() -> int | None:
    """Torch threads for a process that shares the machine with sibling workers; None leaves torch alone."""
    if torch_threads is not None or multiprocessing.parent_process() is None:
        return torch_threads
    if "distributed" in sys.modules:
        try:
            return int(sys.modules["distributed"].get_worker().state.nthreads)
        except ValueError:  # not on a worker
            pass
    return 1  # a pool of dask's own has one process per core


# ---------------------------------------------------------------- progress


def progress_bar(wanted: bool | None) -> AbstractContextManager[Any]:
    """A progress bar while something is computed.

    Parameters
    ----------
    wanted : bool or None
        None shows it on a terminal and in a notebook, and nowhere else.

    Returns
    -------
    context manager
    """
    if wanted is None:
        wanted = sys.stderr.isatty() or "ipykernel" in sys.modules
    return ProgressBar(minimum=1.0) if wanted else nullcontext()


# ---------------------------------------------------------------- chunks


def split(total: int, size: int) -> tuple[int, ...]:
    whole, rest = divmod(total, size)
    return (size,) * whole + ((rest,) if rest else ())


def numbered_slices(chunks: Sequence[int]) -> Iterator[tuple[int, slice]]:
    ends = np.cumsum(chunks)
    for i, (end, size) in enumerate(zip(ends.tolist(), chunks, strict=True)):
        yield i, slice(end - size, end)
