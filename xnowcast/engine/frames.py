"""Models that take frames one by one: every frame of a field is sharpened by itself, in batches.

One graph layer has a task per block of frames, which gives all that the model tells; further layers pick the frames
and, where they are asked for, the kernels, the reblurred frames and the distances out of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import dask.array as da
import numpy as np
import torch
from dask.highlevelgraph import HighLevelGraph

from xnowcast.engine.graph import (
    Filled,
    ModelLayer,
    Padding,
    at_work,
    counted_in,
    numbered_slices,
    refuse_broken,
    samples_per_task,
    split,
)
from xnowcast.engine.workers import ModelNode, ModelRecipe, memory_explained, time_in_words
from xnowcast.fields.units import Conversion
from xnowcast.models.base import DeblurModel
from xnowcast.nn.noise import Noise, member_generator


@dataclass(frozen=True)
class FrameLabels:
    """What tells the frames of a field apart: the labels of its leading dims, and what those dims are.

    ``roles``: for each leading dim "init_time", "member", "lead_time" or "other". ``values``: its labels; int64 for the
    three known roles. ``init_time, member, lead_time``: what holds where no dim has the role.
    """

    roles: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    init_time: int = 0
    member: int = 0
    lead_time: int = 0

    def block(self, where: Sequence[slice]) -> "FrameLabels":
        """The labels of a block of frames."""
        return replace(self, values=tuple(v[part] for v, part in zip(self.values, where, strict=True)))

    def each(self) -> Iterator[dict[str, Any]]:
        """The labels of every frame of the block, the last dim fastest."""
        for place in np.ndindex(*(len(v) for v in self.values)):
            found: dict[str, Any] = {"init_time": self.init_time, "member": self.member, "lead_time": self.lead_time}
            others = []
            for role, values, i in zip(self.roles, self.values, place, strict=True):
                if role == "other":
                    others.append(values[i])
                else:
                    found[role] = int(values[i])
            yield found | {"others": tuple(others)}


@dataclass(frozen=True)
class FramePlan:
    """All that one batch needs to know besides its frames."""

    seed: int
    device: str
    conversion: Conversion
    kernel_size: int


@dataclass(frozen=True)
class _Block:
    plan: FramePlan
    labels: FrameLabels
    members: tuple[int, ...] | None


def deblur_arrays(
    data: da.Array,
    model: ModelRecipe | DeblurModel,
    plan: FramePlan,
    *,
    labels: FrameLabels,
    members: Sequence[int] | None = None,
    batch_size: int | None = None,
    diagnostics: bool = False,
) -> dict[str, da.Array]:
    """Sharp frames as a lazy array; nothing is computed and no weight is read.

    ``data``: ``(*leading, y, x)`` in the user's units, first row in the north. ``labels``: of the leading dims.
    ``members``: numbers of new members to make of each frame; None makes one sharp frame of each. ``batch_size``:
    frames, members counted, per batch. ``diagnostics``: whether to give more than the frames. Returned: ``frames``
    ``(*leading, [member], y, x)`` in the user's units; with ``diagnostics`` also ``kernel`` ``(..., k, k)``,
    ``reblurred`` ``(..., y, x)`` and ``distance`` ``(...)``. All float32.
    """
    ny, nx = data.shape[-2:]
    per_task = samples_per_task(batch_size, ny * nx)
    member_chunks = split(len(members), min(per_task, len(members))) if members is not None else ()
    leading = chunks_of_frames(data.shape[:-2], max(1, per_task // max(member_chunks, default=1)))
    data = data.rechunk((*leading, (ny,), (nx,)))
    layer = ModelLayer("deblur", data, model, plan, labels, members, leading, member_chunks)
    slices = [list(numbered_slices(chunks)) for chunks in leading]
    for place in np.ndindex(*(len(chunks) for chunks in leading)):
        block = _Block(plan, labels.block([slices[d][i][1] for d, i in enumerate(place)]), None)
        frames = layer.block(*place, 0, 0)
        if members is None:
            layer.add(place, run_deblur, layer.model, block, frames)
        for j, numbers in numbered_slices(member_chunks) if members is not None else ():
            some = replace(block, members=tuple(members[numbers]))  # type: ignore[index]
            layer.add((*place, j), run_deblur, layer.model, some, frames)
    tasks = layer.graph()
    chunks = (*leading, *([member_chunks] if members is not None else []))
    k = plan.kernel_size
    tails = {"frames": (ny, nx), "kernel": (k, k), "reblurred": (ny, nx), "distance": ()}
    wanted = tails if diagnostics else {"frames": (ny, nx)}
    return {part: _picked(part, tails[part], layer.name, tasks, chunks) for part in wanted}


def _picked(part: str, tail: tuple[int, ...], name: str, tasks: HighLevelGraph, chunks: tuple[Any, ...]) -> da.Array:
    own = f"{part}-{name}"
    ends = (0,) * len(tail)
    layer: dict[Any, Any] = {
        (own, *place, *ends): (itemgetter(part), (name, *place)) for place in np.ndindex(*(len(c) for c in chunks))
    }
    graph = HighLevelGraph({**tasks.layers, own: layer}, {**tasks.dependencies, own: {name}})
    return da.Array(graph, own, chunks=(*chunks, *((n,) for n in tail)), dtype=np.float32)


def chunks_of_frames(shape: Sequence[int], frames: int) -> tuple[tuple[int, ...], ...]:
    """Blocks of about so many frames, the last dims whole first, because they are stored side by side."""
    chunks: list[tuple[int, ...]] = []
    for size in reversed(shape):
        some = min(size, max(1, frames))
        chunks.insert(0, split(size, some))
        frames //= some
    return tuple(chunks)


# ---------------------------------------------------------------- one batch


def run_deblur(node: ModelNode, block: _Block, values: np.ndarray) -> dict[str, np.ndarray]:
    """One batch: a block of frames in the user's units to sharp frames in the user's units.

    ``values``: ``(*leading, y, x)``. Returned: ``frames``, ``kernel``, ``reblurred``, ``distance``; each ``(*leading,
    [member], ...)``, float32.
    """
    plan, shape = block.plan, values.shape
    given = Filled.of(plan.conversion(np.asarray(values).reshape(-1, *shape[-2:])))
    names = [_frame_name(labels) for labels in block.labels.each()]
    with at_work(node, plan.device, names) as (model, device), counted_in(given.wet, len(names)):
        result = _deblur(model, given, block, device)
    for part in ("frames", "reblurred"):
        result[part] = plan.conversion.inverse(result[part])
    members = () if block.members is None else (len(block.members),)
    return {part: array.reshape((*shape[:-2], *members, *array.shape[2:])) for part, array in result.items()}


def _deblur(model: DeblurModel, given: Filled, block: _Block, device: torch.device) -> dict[str, np.ndarray]:
    """Sharp frames ``(frame, member, y, x)`` in mm h-1: a dry frame stays dry; what was NaN stays NaN."""
    shape, k = (len(given.rain), len(block.members or (None,))), block.plan.kernel_size
    grid, wet = given.rain.shape[-2:], given.wet
    result = {
        "frames": np.zeros((*shape, *grid), np.float32),
        "kernel": np.full((*shape, k, k), np.nan, np.float32),
        "reblurred": np.zeros((*shape, *grid), np.float32),
        "distance": np.zeros(shape, np.float32),
    }
    if wet.size:
        noise = _noise(block, wet, device, common=getattr(model, "common_noise", False))
        answers = _run_model(model, given.rain[wet], given.observed[wet], noise, device)
        for part, answer in answers.items():
            result[part][wet] = answer.reshape(wet.size, shape[1], *answer.shape[1:])
    given_back = np.isnan(result["distance"])[..., None, None]  # the model's scale cuts off drizzle: rather the input
    for part in ("frames", "reblurred"):
        np.copyto(result[part], given.rain[:, None], where=given_back)
        np.copyto(result[part], np.nan, where=~given.observed[:, None])
    return result


def _frame_name(labels: dict[str, Any]) -> str:
    """What a frame is called where its model fails."""
    known = {role: value for role, value in labels.items() if role != "others" and value}
    return ", ".join(f"{role} {time_in_words(value)}" for role, value in known.items()) or "a frame"


def _noise(block: _Block, wet: np.ndarray, device: torch.device, *, common: bool) -> Noise:
    """A source for each frame that is not dry and each of its members, the member fastest; ``common`` to lead times."""
    of_frames = list(block.labels.each())
    generators = []
    for row in wet:
        of_frame = of_frames[row]
        for number in block.members or (of_frame["member"],):
            lead_time, others = 0 if common else of_frame["lead_time"], of_frame["others"]
            generators.append(member_generator(block.plan.seed, of_frame["init_time"], number, lead_time, *others))
    return Noise(generators, device)


@torch.no_grad()
def _run_model(
    model: DeblurModel, rain: np.ndarray, observed: np.ndarray, noise: Noise, device: torch.device
) -> dict[str, np.ndarray]:
    copies = len(noise) // len(rain)
    pad = Padding(rain.shape[-2:], model.task.grid_multiple, device)

    def prepared(array: np.ndarray) -> torch.Tensor:
        return pad(array[:, None]).repeat_interleave(copies, dim=0)

    def as_rain(frames: torch.Tensor) -> np.ndarray:
        return pad.undo(model.transform.inverse(frames.float())[:, 0]).clamp_min(0).cpu().numpy()

    with memory_explained(model, len(noise), rain.shape):
        answer = model.deblur(model.transform(prepared(rain)), prepared(observed), noise)
    frames = as_rain(answer.frames)
    settled = np.isfinite(answer.distance.cpu().numpy())[:, None, None]
    refuse_broken(frames, observed.repeat(copies, axis=0) & settled)
    return {
        "frames": frames,
        "kernel": answer.kernel.float().cpu().numpy(),
        "reblurred": as_rain(answer.reblurred),
        "distance": answer.distance.float().cpu().numpy(),
    }
