"""What every verb needs between Dask and a model: one graph layer of tasks, and one batch filled, padded and run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import torch
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from torch import Tensor

from xnowcast.engine.workers import ModelNode, choose_device, failure_explained, node_of, running
from xnowcast.models.base import NotFinite

CELLS_PER_BATCH = 2**21
"""Cells of the samples of one batch where no batch size is asked for: 8 of 512 x 512, 32 of 256 x 256 or less."""

MOST_SAMPLES = 32
"""Of one batch where no batch size is asked for."""


class ModelLayer:
    """A graph layer in the making: a task for each block of the result, with the model as a node that all share.

    ``verb``: begins the names of the keys. ``data``: the array that the tasks read. ``model``: a recipe, or a model in
    memory, which travels once. ``identity``: all else that the result depends on.
    """

    def __init__(self, verb: str, data: da.Array, model: Any, *identity: Any):
        node = node_of(model)
        self._token = tokenize(data.name, node.token, *identity)
        self._verb, self._data = verb, data
        self.name = f"{verb}-{self._token}"
        self._graph: dict[Any, Any] = {}
        self.model = self.shared("model", node)

    def shared(self, kind: str, value: Any) -> str:
        """The key of what many tasks need and is sent once."""
        key = f"{self._verb}-{kind}-{self._token}"
        self._graph[key] = value
        return key

    def add(self, place: tuple[int, ...], run: Any, *arguments: Any, kind: str | None = None) -> tuple[Any, ...]:
        """A task that gives the block at ``place``, or something on the way to one of another ``kind``; its key."""
        key = (self.name if kind is None else f"{self._verb}-{kind}-{self._token}", *place)
        self._graph[key] = (run, *arguments)
        return key

    def block(self, *place: int) -> tuple[Any, ...]:
        """The key of a block of the data."""
        return (self._data.name, *place)

    def graph(self) -> HighLevelGraph:
        return HighLevelGraph.from_collections(self.name, self._graph, dependencies=[self._data])  # type: ignore[list-item]

    def array(self, chunks: tuple[Any, ...]) -> da.Array:
        """The blocks as a lazy float32 array."""
        return da.Array(self.graph(), self.name, chunks=chunks, dtype=np.float32)


def samples_per_task(batch_size: int | None, cells: int) -> int:
    """Samples of a batch: as many as were asked for, or as fit where a sample has so many cells."""
    return batch_size or max(1, min(MOST_SAMPLES, CELLS_PER_BATCH // cells))


def split(total: int, size: int) -> tuple[int, ...]:
    """Chunks of a size, and one of what is left.

    >>> split(7, 3)
    (3, 3, 1)
    """
    whole, rest = divmod(total, size)
    return (size,) * whole + ((rest,) if rest else ())


def numbered_slices(chunks: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """The number of each chunk, and where it lies."""
    ends = np.cumsum(chunks)
    for i, (end, size) in enumerate(zip(ends.tolist(), chunks, strict=True)):
        yield i, slice(end - size, end)


# ---------------------------------------------------------------- one batch


@contextmanager
def at_work(node: ModelNode, device: str, samples: Sequence[Any] | np.ndarray) -> Iterator[tuple[Any, torch.device]]:
    """The model, alone on its device; where it fails the error names the samples that it failed on.

    ``samples``: what each sample of the batch is called, as `failure_explained` takes it.
    """
    chosen = choose_device(device)
    with running(node, chosen) as model, failure_explained(model, samples):
        yield model, chosen


@dataclass(frozen=True)
class Filled:
    """Rain ``(sample, ..., y, x)`` as models take it: without NaN, which is told apart, and with its dry samples known.

    A model is asked about the samples ``wet`` alone: without rain there is nothing to continue or to refine.
    """

    rain: np.ndarray
    observed: np.ndarray
    wet: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Filled":
        observed = np.isfinite(values)
        rain = np.where(observed, values, np.float32(0))
        return cls(rain, observed, np.flatnonzero(rain.reshape(len(rain), -1).max(axis=1) > 0))


@contextmanager
def counted_in(rows: np.ndarray, samples: int) -> Iterator[None]:
    """Where a model that was asked about some rows fails, count its failures among all samples."""
    try:
        yield
    except NotFinite as error:
        failed = np.zeros(samples, dtype=bool)
        failed[rows[np.flatnonzero(error.failed) * rows.size // len(error.failed)]] = True
        raise NotFinite(failed.tolist()) from error


@dataclass(frozen=True)
class Padding:
    """Cells below and on the right that make a grid ``(y, x)`` a multiple of the model's, and their way back.

    ``fill``: what these cells hold, False in a mask; None repeats the rim.
    """

    grid: tuple[int, int]
    multiple: int
    device: torch.device
    fill: float | None = 0.0

    def __call__(self, values: np.ndarray, factor: int = 1) -> Tensor:
        """``(..., y, x)`` on the device, padded; of a grid that is ``factor`` times finer where that is asked for."""
        beyond = [(0, 0)] * (values.ndim - 2) + [(0, -n % self.multiple * factor) for n in self.grid]
        if any(after for _, after in beyond):
            if self.fill is None:
                values = np.pad(values, beyond, mode="edge")
            else:
                values = np.pad(values, beyond, constant_values=self.fill if values.dtype.kind == "f" else 0)
        return torch.from_numpy(values).to(self.device)

    def undo(self, answer: Tensor, factor: int = 1) -> Tensor:
        """An answer ``(..., y, x)`` without the cells that were added."""
        ny, nx = (n * factor for n in self.grid)
        return answer[..., :ny, :nx]


def refuse_broken(answer: np.ndarray, known: np.ndarray) -> None:
    """NotFinite where an answer ``(sample, ...)`` is infinite, or NaN where something is ``known``."""
    broken = ~np.isfinite(answer) & (known | np.isinf(answer))
    if broken.any():
        raise NotFinite(broken.reshape(len(broken), -1).any(axis=1).tolist())
