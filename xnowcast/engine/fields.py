"""Models that turn fields of several variables into classes of rain: one graph layer, a task per batch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import numpy as np
import torch
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from torch import Tensor

from xnowcast.engine.frames import chunks_of_frames
from xnowcast.engine.workers import (
    CELLS_PER_BATCH,
    ModelNode,
    ModelRecipe,
    choose_device,
    failure_explained,
    memory_explained,
    node_of,
    running,
)
from xnowcast.models.base import NotFinite
from xnowcast.nn.labels import expected_class_to_rain

if TYPE_CHECKING:
    from xnowcast.models.base import PostprocessModel


@dataclass(frozen=True)
class FieldPlan:
    """All that one batch needs to know besides its fields.

    ``thresholds``: lower bounds of all rain classes but the first, mm h-1. ``grid_multiple``: grids are padded to
    multiples of this many cells. ``decision``: which class is forecast: the most probable, or the one in which the rain
    rate falls. ``category``: the class whose activation map is wanted; None for probabilities.
    """

    thresholds: tuple[float, ...]
    grid_multiple: int
    device: str
    decision: Literal["argmax", "inverse"] = "argmax"
    category: int | None = None

    @property
    def parts(self) -> int:
        """Maps per field: m probabilities of classes, m - 1 of reaching thresholds, rain rate, class; or one."""
        return 2 * len(self.thresholds) + 3 if self.category is None else 1


def postprocess_array(
    data: da.Array, model: "ModelRecipe | PostprocessModel", plan: FieldPlan, *, batch_size: int | None = None
) -> da.Array:
    """Probabilities and rain rates as a lazy array; nothing is computed and no weight is read.

    ``data``: ``(*leading, channel, y, x)`` in canonical units, first row in the north; NaN where missing.
    ``batch_size``: fields per batch. Returned: ``(*leading, part, y, x)``, float32: the probabilities of the classes,
    those of reaching the thresholds, the rain rate in mm h-1 that they mean, and the number of the class that is
    forecast; or the activation map of one class. NaN where no channel has a value.
    """
    channels, ny, nx = data.shape[-3:]
    per_task = batch_size or max(1, min(32, CELLS_PER_BATCH // (channels * ny * nx)))
    leading = chunks_of_frames(data.shape[:-3], per_task)
    data = data.rechunk((*leading, (channels,), (ny,), (nx,)))
    node = node_of(model)
    token = tokenize(data.name, node.token, plan, leading)
    name, model_key = f"postprocess-{token}", f"postprocess-model-{token}"
    graph: dict[Any, Any] = {model_key: node}
    for position in np.ndindex(*(len(chunks) for chunks in leading)):
        graph[(name, *position, 0, 0, 0)] = (run_fields, model_key, plan, (data.name, *position, 0, 0, 0))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[data])  # type: ignore[list-item]
    return da.Array(layers, name, chunks=(*leading, (plan.parts,), (ny,), (nx,)), dtype=np.float32)


def run_fields(node: ModelNode, plan: FieldPlan, values: np.ndarray) -> np.ndarray:
    """One batch: a block of fields to what the plan asks for.

    ``values``: ``(*leading, channel, y, x)``. Returned: ``(*leading, part, y, x)``, float32. A field without any value
    is not given to the model.
    """
    fields = np.asarray(values, dtype=np.float32).reshape(-1, *values.shape[-3:])
    present = np.isfinite(fields)
    fields, observed = np.where(present, fields, np.float32(np.nan)), np.any(present, axis=1)
    result: np.ndarray = np.full((len(fields), plan.parts, *fields.shape[-2:]), np.nan, np.float32)
    with_data = np.flatnonzero(observed.reshape(len(fields), -1).any(axis=1))
    if with_data.size:
        device = choose_device(plan.device)
        with running(node, device) as model, failure_explained(model, [f"field {i + 1} of a batch" for i in with_data]):
            result[with_data] = _answers(model, fields[with_data], observed[with_data], plan, device)
    np.copyto(result, np.nan, where=~observed[:, None])
    return result.reshape(*values.shape[:-3], *result.shape[1:])


def _answers(
    model: "PostprocessModel", fields: np.ndarray, observed: np.ndarray, plan: FieldPlan, device: torch.device
) -> np.ndarray:
    ny, nx = fields.shape[-2:]
    margin = (0, -nx % plan.grid_multiple, 0, -ny % plan.grid_multiple)
    padded = torch.nn.functional.pad(torch.from_numpy(fields).to(device), margin, value=float("nan"))
    mask = torch.nn.functional.pad(torch.from_numpy(observed)[:, None].to(device), margin, value=False)
    with memory_explained(model, len(fields), fields.shape):
        ask = _probabilities if plan.category is None else _activation
        answer = ask(model, padded, mask, plan)
    result = answer[..., :ny, :nx].float().cpu().numpy()
    whole = np.isfinite(fields).all(axis=1, keepdims=True)  # what a model makes of missing channels is its own affair
    if (broken := ~np.isfinite(result) & (whole | np.isinf(result))).any():
        raise NotFinite(broken.any((1, 2, 3)).tolist())
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
