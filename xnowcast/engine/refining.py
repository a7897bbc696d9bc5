"""Downscaling: one graph layer whose tasks refine a stretch of a sequence, for some members.

A sequence that is longer than a stretch is cut into overlapping ones. In the overlap both give the same members,
because the noise belongs to the frames, and one is faded into the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import torch
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from torch import Tensor

from xnowcast.engine.workers import (
    ModelNode,
    ModelRecipe,
    choose_device,
    failure_explained,
    memory_explained,
    node_of,
    numbered_slices,
    running,
    split,
)
from xnowcast.fields.units import Conversion
from xnowcast.models.base import DownscaleModel, NotFinite, Task
from xnowcast.nn.noise import Noise, member_generator

FINE_CELLS_PER_TASK = 2**24
"""Cells of the fine frames of one task, members counted, where no batch size is asked for."""

LONGEST_STRETCH = 24
"""Frames of a stretch; more than any network's window, so that most frames are computed once."""


@dataclass(frozen=True)
class RefinePlan:
    """All that one task needs to know besides its frames."""

    task: Task
    factor: int
    seed: int
    device: str
    conversion: Conversion
    conserve: bool


@dataclass(frozen=True)
class _Stretch:
    plan: RefinePlan
    frames: slice  # in the blocks at hand
    times: np.ndarray  # what tells the noise of each frame
    members: tuple[int, ...] | None
    labels: tuple[Any, ...]


@dataclass(frozen=True)
class FineGrid:
    """What is given on the fine grid, sent once.

    ``static``: ``(k, y, x)``. ``areas``: relative areas of the fine cells, to be broadcast to ``(y, x)``.
    """

    static: np.ndarray | None
    areas: np.ndarray


def refine_array(
    data: da.Array,
    model: ModelRecipe | DownscaleModel,
    plan: RefinePlan,
    *,
    fine_grid: FineGrid,
    times: np.ndarray,
    members: Sequence[int] | None,
    extra_labels: Sequence[Sequence[Any]] = (),
    batch_size: int | None = None,
) -> da.Array:
    """Fine frames as a lazy array; nothing is computed and no weight is read.

    ``data``: ``(*extra, time, channel, y, x)``, the precipitation first, in the user's units, first row in the north.
    ``times``: int64 ``(time,)``: what tells the noise of each frame. ``members``: numbers of the members; None for a
    deterministic model. ``extra_labels``: for each extra dim the labels of its cells, which tell the noise apart.
    ``batch_size``: members per task. Returned: ``(*extra, [member], time, y * factor, x * factor)`` in the user's
    units, float32.
    """
    extra = data.ndim - 4
    ny, nx = (n * plan.factor for n in data.shape[-2:])
    data = data.rechunk({**dict.fromkeys(range(extra), 1), extra + 1: -1, extra + 2: -1, extra + 3: -1})
    stretches = cut_sequence(data.shape[extra], plan.task.input_frames)
    longest = max(stop - start for start, stop in stretches)
    per_task = batch_size or max(1, FINE_CELLS_PER_TASK // (longest * ny * nx))
    member_chunks = split(len(members), min(per_task, len(members))) if members is not None else (1,)
    node = node_of(model)
    token = tokenize(data.name, node.token, plan, fine_grid, members, times, member_chunks, extra_labels)
    name, whole = f"downscale-{token}", f"downscale-stretch-{token}"
    model_key, grid_key = f"downscale-model-{token}", f"downscale-grid-{token}"
    graph: dict[Any, Any] = {model_key: node, grid_key: fine_grid}
    block_starts = np.concatenate([[0], np.cumsum(data.chunks[extra])])
    ends = [*(start for start, _ in stretches[1:]), data.shape[extra]]
    for position in np.ndindex(*data.numblocks[:extra]):
        labels = tuple(names[i] for names, i in zip(extra_labels, position, strict=True))
        for j, numbers in numbered_slices(member_chunks):
            some = None if members is None else tuple(members[numbers])
            for k, (start, stop) in enumerate(stretches):
                blocks = range(*_blocks_of(start, stop, block_starts))
                local = slice(start - block_starts[blocks[0]], stop - block_starts[blocks[0]])
                stretch = _Stretch(plan, local, times[start:stop], some, labels)
                keys = [(data.name, *position, block, 0, 0, 0) for block in blocks]
                graph[(whole, *position, j, k)] = (run_stretch, model_key, grid_key, stretch, keys)
                before = (whole, *position, j, k - 1) if k else None
                place = (j, k) if members is not None else (k,)
                overlap = stretches[k - 1][1] - start if k else 0
                graph[(name, *position, *place, 0, 0)] = (
                    _faded,
                    before,
                    (whole, *position, j, k),
                    overlap,
                    ends[k] - start,
                )
    chunks = (
        *data.chunks[:extra],
        *([member_chunks] if members is not None else []),
        tuple(end - start for end, (start, _) in zip(ends, stretches, strict=True)),
        (ny,),
        (nx,),
    )
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[data])  # type: ignore[list-item]
    return da.Array(layers, name, chunks=chunks, dtype=np.float32)


def cut_sequence(frames: int, window: int) -> list[tuple[int, int]]:
    """Overlapping stretches that cover a sequence.

    ``frames``: its length. ``window``: how many frames a network looks at; stretches overlap by one less. Returned:
    first frame and the one after the last. All have one length where there are several.

    >>> cut_sequence(30, 1), cut_sequence(30, 5)
    ([(0, 24), (24, 30)], [(0, 24), (6, 30)])
    >>> cut_sequence(60, 5)
    [(0, 24), (20, 44), (36, 60)]
    """
    length, overlap = LONGEST_STRETCH, window - 1
    if frames <= length:
        return [(0, frames)]
    starts = list(range(0, frames - overlap, length - overlap))
    if overlap == 0:
        return [(start, min(start + length, frames)) for start in starts]
    return [(min(start, frames - length), min(start, frames - length) + length) for start in starts]


def _blocks_of(start: int, stop: int, block_starts: np.ndarray) -> tuple[int, int]:
    first = int(np.searchsorted(block_starts, start, side="right")) - 1
    return first, int(np.searchsorted(block_starts, stop, side="left"))


def _faded(before: np.ndarray | None, here: np.ndarray, overlap: int, frames: int) -> np.ndarray:
    """The first frames of a stretch, those that the stretch before also has faded into it."""
    result = here[..., :frames, :, :]
    if before is None or overlap == 0:
        return result
    share = (np.arange(1, overlap + 1, dtype=np.float32) / (overlap + 1))[:, None, None]
    both = before[..., -overlap:, :, :] * (1 - share) + here[..., :overlap, :, :] * share
    return np.concatenate([both, here[..., overlap:, :, :]], axis=-3)[..., :frames, :, :]


# ---------------------------------------------------------------- one stretch


def run_stretch(node: ModelNode, grid: FineGrid, stretch: _Stretch, blocks: Sequence[np.ndarray]) -> np.ndarray:
    """One task: blocks of a sequence in the user's units to fine frames in the user's units.

    ``blocks``: neighbouring time blocks ``(1, ..., time, channel, y, x)``. Returned: ``(1, ..., [member], time, y,
    x)``, float32.
    """
    plan = stretch.plan
    shape = blocks[0].shape[-3:]
    values = np.concatenate([np.asarray(b).reshape(-1, *shape) for b in blocks])[stretch.frames]
    rain, others = plan.conversion(values[:, 0]), values[:, 1:].astype(np.float32)
    device = choose_device(plan.device)
    with running(node, device) as model, failure_explained(model, [stretch.times[0]]):
        fine = _refine(model, rain, others, grid.static, stretch, device)
    if plan.conserve:
        fine = conserved(fine, rain, grid.areas, plan.factor)
    np.copyto(fine, np.nan, where=~_repeated(np.isfinite(rain), plan.factor))
    members = () if stretch.members is None else (len(stretch.members),)
    extra = (1,) * (blocks[0].ndim - 4)
    return plan.conversion.inverse(fine).reshape(*extra, *members, *fine.shape[-3:])


def _refine(
    model: DownscaleModel,
    rain: np.ndarray,
    others: np.ndarray,
    static: np.ndarray | None,
    stretch: _Stretch,
    device: torch.device,
) -> np.ndarray:
    """``(time, y, x)`` in mm h-1 to ``(member, time, y, x)`` in mm h-1; a stretch without rain stays so."""
    plan, (t, ny, nx) = stretch.plan, rain.shape
    copies = 1 if stretch.members is None else len(stretch.members)
    observed = np.isfinite(rain)
    filled = np.where(observed, rain, np.float32(0))
    if not filled.any():
        return np.zeros((copies, t, ny * plan.factor, nx * plan.factor), np.float32)
    margin = -ny % plan.task.grid_multiple, -nx % plan.task.grid_multiple

    def padded(array: np.ndarray, factor: int = 1) -> Tensor:
        # replicated: dry cells beyond the rim would thin out the rain at the rim of a model that looks at neighbours
        beyond = [(0, 0)] * (array.ndim - 2) + [(0, cells * factor) for cells in margin]
        return torch.from_numpy(np.pad(array, beyond, mode="edge")).to(device)

    with torch.inference_mode():
        scaled = model.transform(padded(filled[None, :, None]))
        frames = torch.cat([scaled, padded(others[None])], dim=2)
        fixed = None if static is None else padded(static.astype(np.float32), plan.factor)
        noise = _noise(stretch, device) if stretch.members is not None else None
        with memory_explained(model, copies, (ny * plan.factor, nx * plan.factor)):
            answer = model.downscale(frames, padded(observed[None, :, None]), plan.factor, fixed, noise)
        fine = model.transform.inverse(answer.float())[:, :, 0, : ny * plan.factor, : nx * plan.factor].cpu().numpy()
    if (broken := ~np.isfinite(fine) & (_repeated(observed, plan.factor) | np.isinf(fine))).any():
        raise NotFinite(broken.any((1, 2, 3)).tolist())
    return np.maximum(fine, 0, out=fine)


def _noise(stretch: _Stretch, device: torch.device) -> Noise:
    """A source for every frame of every member, the frame varying fastest."""
    return Noise(
        [
            member_generator(stretch.plan.seed, int(time), member, *stretch.labels)
            for member in stretch.members or ()
            for time in stretch.times
        ],
        device,
    )


def conserved(fine: np.ndarray, coarse: np.ndarray, areas: np.ndarray, factor: int) -> np.ndarray:
    """Fine rain whose area means over the coarse cells are the coarse rain.

    ``fine``: ``(..., y * factor, x * factor)``, 0 or more. ``coarse``: ``(time, y, x)``; where NaN, the fine rain is
    left as it is. ``areas``: relative areas of the fine cells, to be broadcast to them. Returned: within a coarse cell
    the fine rain is multiplied by one number, which keeps dry what is dry; where the fine rain is zero throughout and
    the coarse is not, it is spread evenly.

    >>> fine = np.array([[1.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], "f4")
    >>> conserved(fine, np.array([[2.0, 5.0]], "f4"), np.ones((1, 1), "f4"), 2).tolist()
    [[2.0, 6.0, 5.0, 5.0], [0.0, 0.0, 5.0, 5.0]]
    """
    ny, nx = fine.shape[-2:]
    cells = (ny // factor, factor, nx // factor, factor)
    weights = np.broadcast_to(areas, (ny, nx)).reshape(cells)
    mean = (fine.reshape(*fine.shape[:-2], *cells) * weights).sum((-3, -1)) / weights.sum((-3, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(mean > 0, coarse / mean, 0).astype(np.float32)
    even = np.where(mean > 0, 0, coarse).astype(np.float32)
    result = fine * _repeated(ratio, factor) + _repeated(even, factor)
    return np.where(_repeated(np.isnan(coarse), factor), fine, result)


def _repeated(array: np.ndarray, factor: int) -> np.ndarray:
    return array.repeat(factor, axis=-2).repeat(factor, axis=-1)
