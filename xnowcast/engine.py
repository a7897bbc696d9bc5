"""The only file where Dask meets torch: device, batches, seeds, one model per worker.

A forecast is one graph layer. Each task is a batch of init times and members: it takes the time blocks of the
field that hold its frames, converts them to mm h-1, runs the model and converts back. The model itself is one
more node of the graph, a recipe of a few bytes, and is built once per process and device.
"""

import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import torch
from dask.base import tokenize
from dask.diagnostics import ProgressBar
from dask.highlevelgraph import HighLevelGraph
from torch import Tensor

from xnowcast import models
from xnowcast.models.base import ForecastModel, Task
from xnowcast.noise import Noise, member_generator
from xnowcast.units import Conversion
from xnowcast.windows import Windows

_CELLS_PER_BATCH = 2**21
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
class ForecastPlan:
    """All that one batch needs to know besides its frames."""

    task: Task
    steps: int
    seed: int
    device: str
    conversion: Conversion


# ---------------------------------------------------------------- graph


def forecast_array(
    data: da.Array,
    model: ModelRecipe | ForecastModel,
    plan: ForecastPlan,
    *,
    windows: Windows,
    members: Sequence[int] | None,
    extra_labels: Sequence[Sequence[Any]] = (),
    batch_size: int | None = None,
) -> da.Array:
    """Forecasts as a lazy array; nothing is computed and no weight is read.

    Parameters
    ----------
    data : dask.array.Array
        The field ``(*extra, time, y, x)`` in the user's units, first row in the north.
    model : ModelRecipe or ForecastModel
        A model in memory travels once, as a node of the graph.
    plan : ForecastPlan
    windows : Windows
        The frames of each forecast, by their positions along time.
    members : sequence of int or None
        Numbers of the members; None for a deterministic model.
    extra_labels : sequence of sequences
        For each extra dim the labels of its cells, which tell the noise of its cells apart.
    batch_size : int, optional
        Samples (init times x members) per batch.

    Returns
    -------
    dask.array.Array
        ``(*extra, init_time, [member], lead_time, y, x)``, float32.
    """
    extra = data.ndim - 3
    ny, nx = data.shape[-2:]
    data = data.rechunk({**dict.fromkeys(range(extra), 1), extra + 1: -1, extra + 2: -1})
    per_task = batch_size or max(1, min(32, _CELLS_PER_BATCH // (ny * nx)))
    member_chunks = _split(len(members), min(per_task, len(members))) if members is not None else ()
    init_chunks = _split(len(windows.init_times), max(1, per_task // max(member_chunks, default=1)))
    chunks = (
        *data.chunks[:extra],
        init_chunks,
        *([member_chunks] if members is not None else []),
        (plan.steps,),
        (ny,),
        (nx,),
    )

    recipe_token = model if isinstance(model, ModelRecipe) else id(model)
    token = tokenize(data.name, recipe_token, plan, windows, members, chunks)
    name, model_key = f"nowcast-{token}", f"nowcast-model-{token}"
    graph: dict[Any, Any] = {model_key: _ModelNode(model)}
    block_starts = np.concatenate([[0], np.cumsum(data.chunks[extra])])
    frames = np.stack([windows.before, windows.after], axis=-1)
    block_of = np.searchsorted(block_starts, frames, side="right") - 1
    member_slices = list(_numbered_slices(member_chunks))
    for position in np.ndindex(*data.numblocks[:extra]):
        labels = tuple(names[i] for names, i in zip(extra_labels, position, strict=True))
        for i, inits in _numbered_slices(init_chunks):
            local, blocks = _local_frames(frames[inits], block_of[inits], block_starts)
            keys = [(data.name, *position, block, 0, 0) for block in blocks]
            starts = windows.init_times[inits].astype("i8")
            batch = _Batch(plan, local, windows.weight[inits], starts, None, labels)
            if members is None:
                graph[(name, *position, i, 0, 0, 0)] = (run_forecast, model_key, batch, keys)
            else:
                for j, numbers in member_slices:
                    some = replace(batch, members=tuple(members[numbers]))
                    graph[(name, *position, i, j, 0, 0, 0)] = (run_forecast, model_key, some, keys)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[data])  # type: ignore[list-item]
    return da.Array(layers, name, chunks=chunks, dtype=np.float32)


@dataclass(frozen=True)
class _ModelNode:
    """Wraps the model so that Dask takes it as data: a model is callable, and a bare callable would be run."""

    model: Any


@dataclass(frozen=True)
class _Batch:
    """One task: which frames of the blocks at hand, for which forecasts."""

    plan: ForecastPlan
    frames: np.ndarray  # (init_time, frame, 2), positions of the frames before and after in the blocks at hand
    weight: np.ndarray  # (init_time, frame), share of the frame after
    init_times: np.ndarray
    members: tuple[int, ...] | None
    labels: tuple[Any, ...]


def _split(total: int, size: int) -> tuple[int, ...]:
    whole, rest = divmod(total, size)
    return (size,) * whole + ((rest,) if rest else ())


def _numbered_slices(chunks: Sequence[int]) -> Iterator[tuple[int, slice]]:
    ends = np.cumsum(chunks)
    for i, (end, size) in enumerate(zip(ends.tolist(), chunks, strict=True)):
        yield i, slice(end - size, end)


def _local_frames(frames: np.ndarray, block_of: np.ndarray, block_starts: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Where the frames of some forecasts are once the time blocks that hold them are joined, and these blocks.

    Runs once per task: plain sets, because numpy's own would take half of the time in which a graph is built.
    """
    blocks = sorted(set(block_of.ravel().tolist()))
    if len(blocks) == 1:
        return frames - block_starts[blocks[0]], blocks
    sizes = block_starts[np.array(blocks) + 1] - block_starts[blocks]
    shift = np.cumsum(sizes) - sizes - block_starts[blocks]
    return frames + shift[np.searchsorted(blocks, block_of)], blocks


# ---------------------------------------------------------------- one batch


def run_forecast(node: _ModelNode, batch: _Batch, blocks: Sequence[np.ndarray]) -> np.ndarray:
    """One batch: blocks of the field in the user's units to forecasts in the user's units.

    Parameters
    ----------
    node : _ModelNode
    batch : _Batch
    blocks : sequence of numpy.ndarray
        Neighbouring time blocks ``(1, ..., time, y, x)``.

    Returns
    -------
    numpy.ndarray
        ``(1, ..., init_time, [member], lead_time, y, x)``, float32.
    """
    plan = batch.plan
    extra = (1,) * (blocks[0].ndim - 3)
    shape = blocks[0].shape[-2:]
    # Overlapping windows share frames: decode each frame once, then deal them out.
    used, place = np.unique(batch.frames, return_inverse=True)
    series = np.concatenate([np.asarray(b).reshape(-1, *shape) for b in blocks])[used]
    windows = _fill_gaps(plan.conversion(series), place.reshape(batch.frames.shape), batch.weight)
    result = predict_on_device(node.model, windows, batch)
    result = plan.conversion.inverse(result)
    members = () if batch.members is None else (len(batch.members),)
    return result.reshape(*extra, len(windows), *members, plan.steps, *shape)


def _fill_gaps(rain: np.ndarray, place: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Windows out of a series of frames; one that is missing lies between its neighbours in time."""
    windows = rain[place[..., 0]]
    for hole in zip(*np.nonzero(weight), strict=True):
        windows[hole] += weight[hole] * (rain[place[hole][1]] - windows[hole])
    return windows


def predict_on_device(model: Any, windows: np.ndarray, batch: _Batch) -> np.ndarray:
    """Run the model on its device, one batch at a time per device.

    Parameters
    ----------
    model : ModelRecipe or ForecastModel
    windows : numpy.ndarray
        ``(init_time, frame, y, x)`` in mm h-1, NaN where not measured.
    batch : _Batch

    Returns
    -------
    numpy.ndarray
        ``(init_time * member, lead_time, y, x)`` in mm h-1.
    """
    plan = batch.plan
    device = choose_device(plan.device)
    with _one_at_a_time(device):
        ready = worker_model(model, device)
        noise = _noise_source(batch, device) if batch.members is not None else None
        return predict(ready, windows, plan.steps, members=batch.members, noise=noise, device=device)


def _noise_source(batch: _Batch, device: torch.device) -> Callable[[np.ndarray], Noise]:
    """Noise for the forecasts that are not dry: every member of each, the member varying fastest."""

    def source(rows: np.ndarray) -> Noise:
        return Noise(
            [
                member_generator(batch.plan.seed, int(batch.init_times[row]), member, *batch.labels)
                for row in rows
                for member in batch.members or ()
            ],
            device,
        )

    return source


def predict(
    model: ForecastModel,
    windows: np.ndarray,
    steps: int,
    *,
    members: Sequence[int] | None = None,
    noise: Callable[[np.ndarray], Noise] | None = None,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Forecast from windows of rain rate: fill, scale, pad, run, and undo each in turn.

    Parameters
    ----------
    model : ForecastModel
    windows : numpy.ndarray
        ``(b, frame, y, x)`` in mm h-1, NaN where not measured.
    steps : int
        How many steps to forecast.
    members : sequence of int, optional
        Numbers of the members, for stochastic models.
    noise : callable, optional
        From the numbers of the rows that are run to their `Noise`.
    device : torch.device or str

    Returns
    -------
    numpy.ndarray
        ``(b * m, steps, y, x)`` in mm h-1, the member varying fastest. NaN where no frame measured anything,
        and where the model says so. A window without any rain gives none, and the model is not asked.
    """
    copies = 1 if members is None else len(members)
    observed = np.isfinite(windows)
    filled = np.where(observed, windows, np.float32(0))
    wet = np.flatnonzero(filled.reshape(len(filled), -1).max(axis=1) > 0)
    result = np.zeros((len(windows), copies, steps, *windows.shape[-2:]), dtype=np.float32)
    if wet.size:
        frames = torch.from_numpy(filled[wet])[:, :, None].to(device)
        seen = torch.from_numpy(observed[wet])[:, :, None].to(device)
        answer = _run_model(model, frames, seen, steps, noise(wet) if noise is not None else None)
        result[wet] = answer[:, :, 0].reshape(wet.size, copies, *answer.shape[1:2], *answer.shape[-2:]).cpu().numpy()
    np.copyto(result, np.nan, where=~observed.any(axis=1)[:, None, None])
    return result.reshape(-1, *result.shape[2:])


@torch.inference_mode()
def _run_model(model: ForecastModel, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None) -> Tensor:
    multiple = model.task.grid_multiple
    ny, nx = frames.shape[-2:]
    below, right = -ny % multiple, -nx % multiple
    padded = torch.nn.functional.pad(frames, (0, right, 0, below))
    padded_observed = torch.nn.functional.pad(observed, (0, right, 0, below))
    answer = model.forecast(model.transform(padded), padded_observed, steps, noise)
    return model.transform.inverse(answer.float())[..., :ny, :nx].clamp_min(0)


# ---------------------------------------------------------------- workers

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


def worker_model(model: ModelRecipe | ForecastModel, device: torch.device) -> Any:
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
def _one_at_a_time(device: torch.device) -> Iterator[None]:
    """Two batches on one device would fight for its cores or its memory; other threads read and decode meanwhile."""
    with _MODELS_LOCK:
        lock = _DEVICE_LOCKS.setdefault(device, threading.Lock())
    with lock:
        threads = _torch_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        yield


def _torch_threads() -> int | None:
    """Torch threads for a process that shares the machine with sibling workers; None leaves torch alone."""
    if multiprocessing.parent_process() is None:
        return None
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
