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

from xnowcast.engine.graph import Filled, ModelLayer, Padding, at_work, numbered_slices, refuse_broken, split
from xnowcast.engine.workers import ModelNode, ModelRecipe, memory_explained
from xnowcast.fields.units import Conversion
from xnowcast.models.base import DownscaleModel, Task
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
    layer = ModelLayer("downscale", data, model, plan, fine_grid, members, times, member_chunks, extra_labels)
    grid = layer.shared("grid", fine_grid)
    block_starts = np.concatenate([[0], np.cumsum(data.chunks[extra])])
    ends = [*(start for start, _ in stretches[1:]), data.shape[extra]]
    for position in np.ndindex(*data.numblocks[:extra]):
        labels = tuple(names[i] for names, i in zip(extra_labels, position, strict=True))
        for j, numbers in numbered_slices(member_chunks):
            some = None if members is None else tuple(members[numbers])
            before: tuple[Any, ...] | None = None
            for k, (start, stop) in enumerate(stretches):
                blocks = range(*_blocks_of(start, stop, block_starts))
                local = slice(start - block_starts[blocks[0]], stop - block_starts[blocks[0]])
                stretch = _Stretch(plan, local, times[start:stop], some, labels)
                frames = [layer.block(*position, block, 0, 0, 0) for block in blocks]
                whole = layer.add((*position, j, k), run_stretch, layer.model, grid, stretch, frames, kind="stretch")
                place = (j, k) if members is not None else (k,)
                overlap = stretches[k - 1][1] - start if k else 0
                layer.add((*position, *place, 0, 0), _faded, before, whole, overlap, ends[k] - start)
                before = whole
    chunks = (
        *data.chunks[:extra],
        *([member_chunks] if members is not None else []),
        tuple(end - start for end, (start, _) in zip(ends, stretches, strict=True)),
        (ny,),
        (nx,),
    )
    return layer.array(chunks)


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
    with at_work(node, plan.device, [stretch.times[0]]) as (model, device):
        fine = _refine(model, rain, others, grid.static, stretch, device)
    if plan.conserve:
        fine = conserved(fine, rain, grid.areas, plan.factor)
    np.copyto(fine, np.nan, where=~_repeated(np.isfinite(rain), plan.factor))
    members = () if stretch.members is None else (len(stretch.members),)
    extra = (1,) * (blocks[0].ndim - 4)
    return plan.conversion.inverse(fine).reshape(*extra, *members, *fine.shape[-3:])


@torch.inference_mode()
def _refine(
    model: DownscaleModel,
    rain: np.ndarray,
    others: np.ndarray,
    static: np.ndarray | None,
    stretch: _Stretch,
    device: torch.device,
) -> np.ndarray:
    """``(time, y, x)`` in mm h-1 to ``(member, time, y, x)`` in mm h-1; a stretch without rain stays so."""
    plan, factor, (t, ny, nx) = stretch.plan, stretch.plan.factor, rain.shape
    copies = 1 if stretch.members is None else len(stretch.members)
    given = Filled.of(rain)
    if not given.wet.size:
        return np.zeros((copies, t, ny * factor, nx * factor), np.float32)
    # the rim repeated: dry cells beyond it would thin out the rain at the rim of a model that looks at neighbours
    pad = Padding((ny, nx), plan.task.grid_multiple, device, fill=None)
    frames = torch.cat([model.transform(pad(given.rain[None, :, None])), pad(others[None])], dim=2)
    fixed = None if static is None else pad(static.astype(np.float32), factor)
    noise = _noise(stretch, device) if stretch.members is not None else None
    with memory_explained(model, copies, (ny * factor, nx * factor)):
        answer = model.downscale(frames, pad(given.observed[None, :, None]), factor, fixed, noise)
    fine = pad.undo(model.transform.inverse(answer.float())[:, :, 0], factor).cpu().numpy()
    refuse_broken(fine, _repeated(given.observed, factor))
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
