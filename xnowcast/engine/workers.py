"""Torch on a worker: which device, one model per process and device, one batch at a time, how many threads."""

import copy
import multiprocessing
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from dask.base import tokenize
from dask.diagnostics import ProgressBar

from xnowcast import models
from xnowcast.models import contents
from xnowcast.models.base import NotFinite
from xnowcast.terminal import in_notebook


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
        from xnowcast.models.weights import load

        return load(self.weights, sha256=self.sha256, **dict(self.options))


@dataclass(frozen=True)
class ModelNode:
    """A model as a node of the graph, wrapped so that Dask takes it as data: a bare callable would be run.

    ``token``: by which graphs and workers know it: of its content, for a model in memory may change and stay the same
    object. ``parameters``: digest of the parameters that a ``torch.nn.Module`` had when the forecast was planned; ""
    for anything else.
    """

    model: Any
    token: str
    parameters: str = ""


def node_of(model: Any) -> ModelNode:
    """The node of a model in a graph.

    ValueError if a parameter of a model in memory is NaN or infinite.
    """
    if not isinstance(model, torch.nn.Module):
        return ModelNode(model, tokenize(model))
    contents.refuse_broken(model, models.called(model))
    parts = [
        (name, type(part), {k: v for k, v in vars(part).items() if k not in _TORCH_KEEPS})
        for name, part in model.named_modules()
    ]
    parameters = contents.digest(dict(model.named_parameters()))
    return ModelNode(model, tokenize(parts, parameters, contents.digest(dict(model.named_buffers()))), parameters)


_TORCH_KEEPS = ("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
"""What a part of a network has besides its own attributes: whether it is being trained, which changes no forecast, and
tensors and parts, which are looked at one by one."""

torch_threads: int | None = None
"""Torch threads of this process, set by whoever shares out the cores; None leaves it to the kind of process."""

MODELS_KEPT = 8
"""Models that a process keeps ready, the last used: an archive compares a handful, which must not load one another out
of memory, and who tries one option after another needs none of the earlier ones."""

_MODELS: OrderedDict[tuple[str, torch.device], Any] = OrderedDict()
_MODELS_LOCK = threading.Lock()
_DEVICE_LOCKS: dict[torch.device, threading.Lock] = {}


def choose_device(device: str) -> torch.device:
    """The torch device of a name; "auto" is the GPU where there is one, else the CPU.

    ``device``: "auto", "cpu", "cuda", "cuda:1" . ValueError if torch knows no such device, or there is none here.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if not isinstance(device, str | torch.device):  # torch takes a bare number for a GPU
            raise RuntimeError
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; it can be 'auto', 'cpu', 'cuda' or 'cuda:1'") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, and torch sees no GPU here: use device='auto' or 'cpu'")
    if not _is_here(chosen):
        raise ValueError(f"device is {device!r}, and there is no such device here: use device='auto' or 'cpu'")
    return chosen


def _is_here(device: torch.device) -> bool:
    """Whether numbers can be put on a device and read back."""
    if device.type == "cpu":
        return device.index in (None, 0)
    if device.type == "cuda":
        return device.index is None or device.index < torch.cuda.device_count()
    try:
        return device.type != "meta" and torch.ones(1, device=device).item() == 1
    except (RuntimeError, NotImplementedError, AssertionError, ImportError):
        return False


@contextmanager
def running(node: ModelNode, device: torch.device) -> Iterator[Any]:
    """The model on a device of this process, in evaluation mode and with no other batch on the device.

    Returned: made the first time it is asked for. A model in memory is itself, and is left as it was.
    """
    with one_at_a_time(device):
        model = worker_model(node, device)
        parts = model.modules() if isinstance(model, torch.nn.Module) else ()
        in_training = [part for part in parts if part.training]
        for part in in_training:
            part.training = False
        try:
            yield model
        finally:
            for part in in_training:
                part.training = True


def worker_model(node: ModelNode, device: torch.device) -> Any:
    """The model on a device of this process, made the first time it is asked for."""
    model = node.model
    if node.parameters and contents.digest(dict(model.named_parameters())) != node.parameters:
        raise ValueError(
            f"the model {models.called(model)!r} was changed after its forecast was planned, by training it or "
            "otherwise: plan the forecast again"
        )
    if not isinstance(model, ModelRecipe) and _lives_on(model, device):
        return model  # it lives in the graph; a cache would only keep it alive
    key = (node.token, device)
    with _MODELS_LOCK:
        if key not in _MODELS:
            made = model.make() if isinstance(model, ModelRecipe) else copy.deepcopy(model)
            _MODELS[key] = made.to(device).eval() if isinstance(made, torch.nn.Module) else made
        _MODELS.move_to_end(key)
        while len(_MODELS) > MODELS_KEPT:
            _MODELS.popitem(last=False)
        return _MODELS[key]


def _lives_on(model: Any, device: torch.device) -> bool:
    """Whether a model is where it is wanted; so is what has no tensors."""
    if not isinstance(model, torch.nn.Module):
        return True
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return tensor is None or tensor.device == torch.empty(0, device=device).device  # "cuda" is one of its GPUs


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

    ``samples``: samples of the batch, members counted. ``shape``: of a frame.
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


@contextmanager
def failure_explained(model: Any, names: Sequence[Any] | np.ndarray) -> Iterator[None]:
    """Say which model failed on what, where its answer is no number: NaN in a file would read as not measured.

    ``names``: of the samples of the batch, or of so many members each: times in nanoseconds, or anything else.
    """
    try:
        yield
    except NotFinite as error:
        failed = [names[row * len(names) // len(error.failed)] for row, one in enumerate(error.failed) if one]
        first, *others = dict.fromkeys(map(time_in_words, failed))
        more = f" and {len(others)} more" if others else ""
        raise ValueError(
            f"{models.called(model)!r} gave NaN or infinite values for {first}{more}, which would read as not "
            "measured: its weights are broken, as after a training that diverged, or it overflows in its precision"
        ) from error


def time_in_words(name: Any) -> str:
    """A time in nanoseconds as a time; anything else as it is."""
    is_time = isinstance(name, int | np.integer) and abs(int(name)) > 10**15
    return str(np.datetime64(int(name), "ns").astype("M8[s]")) if is_time else str(name)


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

    ``wanted``: None shows it on a terminal and in a notebook, and nowhere else.
    """
    if wanted is None:
        wanted = sys.stderr.isatty() or in_notebook()
    return ProgressBar(minimum=1.0) if wanted else nullcontext()
