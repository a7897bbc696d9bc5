"""Models that turn fields of several variables into classes of rain: one graph layer, a task per batch."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

import dask.array as da
import numpy as np
import torch
from torch import Tensor

from xnowcast.engine.frames import chunks_of_frames
from xnowcast.engine.graph import ModelLayer, Padding, at_work, counted_in, refuse_broken, samples_per_task
from xnowcast.engine.workers import ModelNode, ModelRecipe, memory_explained
from xnowcast.nn.labels import expected_class_to_rain

if TYPE_CHECKING:
    from xnowcast.models.base import PostprocessModel


@dataclass(frozen=True)
class FieldPlan:
    """All that one batch needs to know besides its fields.

    ``thresholds``: lower bounds of all rain classes but the first, mm h-1. ``grid_multiple``: grids are padded to
    multiples of this many cells. ``decision``: which class is forecast: the most probable, or the one in which the rain
    rate falls. ``category``: the class whose activation map is wanted; None for probabilities. ``corrected``: of models
    that read several lead times, which of these it is that they correct; None for those that read one.
    """

    thresholds: tuple[float, ...]
    grid_multiple: int
    device: str
    decision: Literal["argmax", "inverse"] = "argmax"
    category: int | None = None
    corrected: int | None = None

    @property
    def read(self) -> int:
        """Dims of what is read for one answer: a channel and the grid, and lead times before them."""
        return 3 if self.corrected is None else 4

    @property
    def parts(self) -> int:
        """Maps per field: m probabilities of classes, m - 1 of reaching thresholds, rain rate, class; or one."""
        return 2 * len(self.thresholds) + 3 if self.category is None else 1


def read_together(data: da.Array, axis: int, positions: np.ndarray) -> da.Array:
    """What lies at positions ``(n, t)`` along an axis, together, lazily and whichever chunks it is in.

    ``data``: ``(*leading, channel, y, x)``. Returned: ``(*leading, t, channel, y, x)``, the axis n long.
    """
    return da.stack([da.take(data, column, axis=axis) for column in positions.T], axis=-4)


def postprocess_array(
    data: da.Array, model: "ModelRecipe | PostprocessModel", plan: FieldPlan, *, batch_size: int | None = None
) -> da.Array:
    """Probabilities and rain rates as a lazy array; nothing is computed and no weight is read.

    ``data``: ``(*leading, channel, y, x)`` in canonical units, first row in the north, NaN where missing; ``(*leading,
    t, channel, y, x)``, as `read_together` makes it, for models that read several lead times. ``batch_size``: fields,
    or lead times that are corrected, per batch. Returned: ``(*leading, part, y, x)``, float32: the probabilities of the
    classes, those of reaching the thresholds, the rain rate in mm h-1 that they mean, and the number of the class that
    is forecast; or the activation map of one class. NaN where no channel has a value, and throughout where one of
    several lead times has none anywhere.
    """
    read, (ny, nx) = data.shape[-plan.read :], data.shape[-2:]
    leading = chunks_of_frames(data.shape[: -plan.read], samples_per_task(batch_size, prod(read)))
    data = data.rechunk((*leading, *((size,) for size in read)))
    layer = ModelLayer("postprocess", data, model, plan, leading)
    for place in np.ndindex(*(len(chunks) for chunks in leading)):
        layer.add((*place, 0, 0, 0), run_fields, layer.model, plan, layer.block(*place, *[0] * plan.read))
    return layer.array((*leading, (plan.parts,), (ny,), (nx,)))


def run_fields(node: ModelNode, plan: FieldPlan, values: np.ndarray) -> np.ndarray:
    """One batch: a block of fields to what the plan asks for.

    ``values``: ``(*leading, [t], channel, y, x)``. Returned: ``(*leading, part, y, x)``, float32. A field without any
    value is not given to the model, nor are lead times one of which has none.
    """
    fields = np.asarray(values, dtype=np.float32).reshape(-1, *values.shape[-plan.read :])
    present = np.isfinite(fields)
    fields, observed = np.where(present, fields, np.float32(np.nan)), np.any(present, axis=-3)
    with_data = np.flatnonzero(observed.any(axis=(-2, -1)).reshape(len(fields), -1).all(axis=1))
    observed = observed if plan.corrected is None else observed[:, plan.corrected]
    result: np.ndarray = np.full((len(fields), plan.parts, *fields.shape[-2:]), np.nan, np.float32)
    if with_data.size:
        names = [f"field {i + 1} of a batch" for i in range(len(fields))]
        with at_work(node, plan.device, names) as (model, device), counted_in(with_data, len(fields)):
            result[with_data] = _answers(model, fields[with_data], observed[with_data], plan, device)
    np.copyto(result, np.nan, where=~observed[:, None])
    return result.reshape(*values.shape[: -plan.read], *result.shape[1:])


def _answers(
    model: "PostprocessModel", fields: np.ndarray, observed: np.ndarray, plan: FieldPlan, device: torch.device
) -> np.ndarray:
    pad = Padding(fields.shape[-2:], plan.grid_multiple, device, fill=np.nan)
    ask = _probabilities if plan.category is None else _activation
    with memory_explained(model, len(fields), fields.shape):
        answer = ask(model, pad(fields), pad(observed[:, None]), plan)
    result = pad.undo(answer).float().cpu().numpy()
    whole = np.isfinite(fields).all(axis=tuple(range(1, fields.ndim - 2)))  # of missing channels a model makes anything
    refuse_broken(result, whole[:, None])
    return result


@torch.no_grad()
def _probabilities(model: "PostprocessModel", fields: Tensor, observed: Tensor, plan: FieldPlan) -> Tensor:
    probabilities = model.postprocess(fields, observed).float()  # (b, class, y, x)
    # summed from the top, so that it never rises with the threshold
    reached = probabilities.flip(1).cumsum(1).flip(1)[:, 1:].clamp(max=1)
    rain = expected_class_to_rain(probabilities, plan.thresholds)
    if plan.decision == "argmax":
        category = probabilities.argmax(dim=1).to(rain.dtype)
    else:  # a hair of slack: a class that is certain up to rounding is certain
        category = torch.stack([(rain >= r * (1 - 1e-5)).to(rain.dtype) for r in plan.thresholds]).sum(dim=0)
    category = torch.where(rain.isnan(), torch.nan, category)
    return torch.cat([probabilities, reached, rain[:, None], category[:, None]], dim=1)


def _activation(model: "PostprocessModel", fields: Tensor, observed: Tensor, plan: FieldPlan) -> Tensor:
    assert plan.category is not None
    return model.explain(fields, observed, plan.category).detach()[:, None]
