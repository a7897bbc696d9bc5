"""Forecasts: one graph layer whose tasks are batches of init times and members.

Each task takes the time blocks of the field that hold its frames, converts them to mm h-1, runs the model and
converts back. The model itself is one more node of the graph, a recipe of a few bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import torch
from torch import Tensor

from xnowcast.engine.graph import (
    Filled,
    ModelLayer,
    Padding,
    at_work,
    counted_in,
    numbered_slices,
    samples_per_task,
    split,
)
from xnowcast.engine.workers import ModelNode, ModelRecipe, memory_explained
from xnowcast.fields.units import Conversion
from xnowcast.fields.windows import Windows
from xnowcast.models.base import ForecastModel, Grid, NotFinite, Task
from xnowcast.nn.noise import Noise, member_generator


@dataclass(frozen=True)
class ForecastPlan:
    """All that one batch needs to know besides its frames."""

    task: Task
    steps: int
    seed: int
    device: str
    conversion: Conversion
    grid: Grid | None = None


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

    ``data``: the field ``(*extra, time, y, x)`` in the user's units, first row in the north. ``model``: a model in
    memory travels once, as a node of the graph. ``windows``: the frames of each forecast, by their positions along
    time. ``members``: numbers of the members; None for a deterministic model. ``extra_labels``: for each extra dim the
    labels of its cells, which tell the noise of its cells apart. ``batch_size``: samples (init times x members) per
    batch. Returned: ``(*extra, init_time, [member], lead_time, y, x)``, float32.
    """
    extra = data.ndim - 3
    ny, nx = data.shape[-2:]
    data = data.rechunk({**dict.fromkeys(range(extra), 1), extra + 1: -1, extra + 2: -1})
    per_task = samples_per_task(batch_size, ny * nx)
    member_chunks = split(len(members), min(per_task, len(members))) if members is not None else ()
    init_chunks = split(len(windows.init_times), max(1, per_task // max(member_chunks, default=1)))
    chunks = (
        *data.chunks[:extra],
        init_chunks,
        *([member_chunks] if members is not None else []),
        (plan.steps,),
        (ny,),
        (nx,),
    )

    layer = ModelLayer("nowcast", data, model, plan, windows, members, chunks)
    block_starts = np.concatenate([[0], np.cumsum(data.chunks[extra])])
    frames = np.stack([windows.before, windows.after], axis=-1)
    block_of = np.searchsorted(block_starts, frames, side="right") - 1
    member_slices = list(numbered_slices(member_chunks))
    for position in np.ndindex(*data.numblocks[:extra]):
        labels = tuple(names[i] for names, i in zip(extra_labels, position, strict=True))
        for i, inits in numbered_slices(init_chunks):
            local, blocks = _local_frames(frames[inits], block_of[inits], block_starts)
            keys = [layer.block(*position, block, 0, 0) for block in blocks]
            starts = windows.init_times[inits].astype("i8")
            batch = _Batch(plan, local, windows.weight[inits], starts, None, labels)
            if members is None:
                layer.add((*position, i, 0, 0, 0), run_forecast, layer.model, batch, keys)
                continue
            for j, numbers in member_slices:
                some = replace(batch, members=tuple(members[numbers]))
                layer.add((*position, i, j, 0, 0, 0), run_forecast, layer.model, some, keys)
    return layer.array(chunks)


@dataclass(frozen=True)
class _Batch:
    """One task: which frames of the blocks at hand, for which forecasts."""

    plan: ForecastPlan
    frames: np.ndarray  # (init_time, frame, 2), positions of the frames before and after in the blocks at hand
    weight: np.ndarray  # (init_time, frame), share of the frame after
    init_times: np.ndarray
    members: tuple[int, ...] | None
    labels: tuple[Any, ...]


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


def run_forecast(node: ModelNode, batch: _Batch, blocks: Sequence[np.ndarray]) -> np.ndarray:
    """One batch: blocks of the field in the user's units to forecasts in the user's units.

    ``blocks``: neighbouring time blocks ``(1, ..., time, y, x)``. Returned: ``(1, ..., init_time, [member], lead_time,
    y, x)``, float32.
    """
    plan = batch.plan
    extra = (1,) * (blocks[0].ndim - 3)
    shape = blocks[0].shape[-2:]
    # Overlapping windows share frames: decode each frame once, then deal them out.
    used, place = np.unique(batch.frames, return_inverse=True)
    series = np.concatenate([np.asarray(b).reshape(-1, *shape) for b in blocks])[used]
    windows = _fill_gaps(plan.conversion(series), place.reshape(batch.frames.shape), batch.weight)
    result = predict_on_device(node, windows, batch)
    result = plan.conversion.inverse(result)
    members = () if batch.members is None else (len(batch.members),)
    return result.reshape(*extra, len(windows), *members, plan.steps, *shape)


def _fill_gaps(rain: np.ndarray, place: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Windows out of a series of frames; one that is missing lies between its neighbours in time."""
    windows = rain[place[..., 0]]
    for hole in zip(*np.nonzero(weight), strict=True):
        windows[hole] += weight[hole] * (rain[place[hole][1]] - windows[hole])
    return windows


def predict_on_device(node: ModelNode, windows: np.ndarray, batch: _Batch) -> np.ndarray:
    """Run the model on its device, one batch at a time per device.

    ``windows``: ``(init_time, frame, y, x)`` in mm h-1, NaN where not measured. Returned: ``(init_time * member,
    lead_time, y, x)`` in mm h-1.
    """
    plan = batch.plan
    with at_work(node, plan.device, batch.init_times) as (model, device):
        noise = _noise_source(batch, device) if batch.members is not None else None
        return predict(model, windows, plan.steps, members=batch.members, noise=noise, device=device, grid=plan.grid)


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
    grid: Grid | None = None,
) -> np.ndarray:
    """Forecast from windows of rain rate: fill, scale, pad, run, and undo each in turn.

    ``windows``: ``(b, frame, y, x)`` in mm h-1, NaN where not measured. ``steps``: how many steps to forecast.
    ``members``: numbers of the members, for stochastic models. ``noise``: from the numbers of the rows that are run to
    their `Noise`. ``grid``: step and spacing, for models that read them. Returned: ``(b * m, steps, y, x)`` in mm h-1,
    the member varying fastest. NaN where no frame measured anything, and where the model says so. A window without any
    rain gives none, and the model is not asked. NotFinite if the model gives infinite values, or NaN where it should
    know.
    """
    copies = 1 if members is None else len(members)
    given = Filled.of(windows)
    wet, shape = given.wet, windows.shape[-2:]
    result = np.zeros((len(windows), copies, steps, *shape), dtype=np.float32)
    if wet.size:
        pad = Padding(shape, model.task.grid_multiple, torch.device(device))
        frames, observed = pad(given.rain[wet][:, :, None]), pad(given.observed[wet][:, :, None])
        with memory_explained(model, wet.size * copies, windows.shape), counted_in(wet, len(windows)):
            drawn = noise(wet) if noise is not None else None
            answer = _run_model(model, frames, observed, pad, steps, drawn, grid)
        result[wet] = answer[:, :, 0].reshape(wet.size, copies, *answer.shape[1:2], *shape).cpu().numpy()
    np.copyto(result, np.nan, where=~np.any(given.observed, axis=1)[:, None, None])
    return result.reshape(-1, *result.shape[2:])


@torch.inference_mode()
def _run_model(
    model: ForecastModel,
    frames: Tensor,
    observed: Tensor,
    pad: Padding,
    steps: int,
    noise: Noise | None,
    grid: Grid | None,
) -> Tensor:
    scaled = model.transform(frames)
    known: dict[str, Any] = {"grid": grid} if model.task.reads_grid else {}
    answer = pad.undo(model.forecast(scaled, observed, steps, noise, **known))
    rain = model.transform.inverse(answer.float())
    failed = _broken(rain, pad.undo(observed), model.task)
    if scaled.isfinite().all():  # a scale that has no dry at all may give minus infinity, which is no rain
        failed |= answer.isinf().flatten(1).any(1)
    if failed.any():
        raise NotFinite(failed.tolist())
    return rain.clamp_min(0)


def _broken(rain: Tensor, observed: Tensor, task: Task) -> Tensor:
    """Which forecasts hold values that no working model gives: infinite ones, or NaN where the air was measured.

    Where a model moves the rain, NaN is the air that comes from outside: then a forecast is broken that has nothing
    else, though all of its newest frame was measured.
    """
    if rain.isfinite().all():
        return rain.new_zeros(len(rain), dtype=torch.bool)
    lost = rain.isnan()
    copies = len(rain) // len(observed)
    if task.coverage == "observed":
        known = observed.any(dim=1, keepdim=True).repeat_interleave(copies, dim=0)
        missing = (lost & known).flatten(1).any(1)
    else:
        missing = lost.flatten(1).all(1) & observed[:, -1].flatten(1).all(1).repeat_interleave(copies)
    return missing | rain.isinf().flatten(1).any(1)
