"""What post-processors that give rain classes have in common: options, scaling, loss, probabilities, Grad-CAM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast.models.base import Loss, Task, TrainingBatch
from xnowcast.models.declaration import Declared, Options, option
from xnowcast.models.transforms import Identity
from xnowcast.nn.channel_scaling import ChannelScaling
from xnowcast.nn.labels import check_thresholds, continuous_labels, one_hot_labels, weighted_cross_entropy

CHANNELS = (
    "eastward_wind at 10 m",
    "northward_wind at 10 m",
    "air_temperature at 2 m",
    "air_pressure_at_mean_sea_level",
    "rainfall_rate",
    "eastward_wind at 850 hPa",
    "northward_wind at 850 hPa",
    "air_temperature at 850 hPa",
    "geopotential_height at 850 hPa",
    "relative_humidity at 850 hPa",
    "eastward_wind at 500 hPa",
    "northward_wind at 500 hPa",
    "air_temperature at 500 hPa",
    "geopotential_height at 500 hPa",
    "relative_humidity at 500 hPa",
    "geopotential_height at 100 hPa",
)
"""The 16 fields of An et al. (2023), table 2, in the order of figure 3."""


@dataclass(frozen=True, kw_only=True)
class RainClassOptions(Options):
    channels: Sequence[str] = option(CHANNELS, "Standard names of the fields, with levels.")
    thresholds: Sequence[float] = option((0.1, 10.0), "mm/h: lower bounds of all classes but the first.")
    labels: Literal["continuous", "one-hot"] = option(
        "continuous", "What the classes are learnt from; see `xnowcast.nn.labels`."
    )
    interpolate_dry: bool = option(True, "Whether continuous labels also rise below the first threshold.")
    class_weights: Sequence[float] = option((1.0, 5.0, 10.0), "Weight of each class in the cross-entropy.")
    precision: str = option(
        "float32", "Of the network when it post-processes.", choices=("float32", "bfloat16"), runtime=True
    )

    def check(self) -> None:
        if isinstance(self.channels, Mapping):
            renamed = {variable: name for name, variable in self.channels.items()}
            raise ValueError(
                "channels is a mapping, and a model is told the names of its channels alone: rename the variables, "
                f"ds.rename({renamed!r}), and they are found by those names"
            )
        if isinstance(self.channels, str) or not self.channels or len(set(self.channels)) < len(self.channels):
            raise ValueError(f"channels is {self.channels!r}: give a list of different names of fields")
        classes = len(check_thresholds(self.thresholds)) + 1
        if len(self.class_weights) != classes or not all(0 < weight < float("inf") for weight in self.class_weights):
            raise ValueError(
                f"class_weights is {list(self.class_weights)}: {len(self.thresholds)} thresholds make {classes} "
                "classes, give a number above 0 for each"
            )

    @property
    def multiple(self) -> int:
        """Cells whose multiples grids are padded to."""
        raise NotImplementedError

    @property
    def lead_times(self) -> tuple[int, ...]:
        """The lead times that are read, as `xnowcast.models.base.Task` has them."""
        return (0,)

    def task(self) -> Task:
        return Task(
            "postprocess",
            input_frames=len(self.lead_times),
            quantity="rain_rate",
            grid_multiple=self.multiple,
            min_grid=8,
            trained=True,
            channels=tuple(self.channels),
            lead_offsets=self.lead_times,
        )


Own = TypeVar("Own", bound=RainClassOptions)


class RainClassifier(Declared[Own], nn.Module):
    """A network from fields of a forecast to classes of rain; its parts are those of the class that inherits.

    ``_encoded`` turns z-scores ``(b, c, y, x)``, or ``(b, t, c, y, x)`` where it reads several lead times, into maps,
    the deepest last, and ``_decoded`` maps into logits ``(b, classes, y, x)``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.transform, self.training_frames = Identity(), len(self.task.lead_window)
        self.thresholds = check_thresholds(self.options.thresholds)
        self.scaling = ChannelScaling(self.task.channels)

    def _encoded(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def _decoded(self, maps: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        raise NotImplementedError

    # ------------------------------------------------------------ training

    def set_channel_statistics(self, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> None:
        """Say how the channels are distributed in the training data; the weights carry it.

        ``mean, std, low, high``: ``(c,)`` in canonical units. The extremes are not used. ValueError if there are more
        or fewer numbers than channels, or one is not finite.
        """
        self.scaling.set(mean, std)

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Weighted cross-entropy (An et al. 2023, equation 2), a mean over the cells where rain was measured."""
        x = padded(self.scaling(fields_of(batch, self.task)), self.task.grid_multiple)
        return self._class_loss(self._encoded(x), batch, (x.shape[-2], x.shape[-1]))

    def _class_loss(self, maps: Sequence[Tensor], batch: TrainingBatch, shape: tuple[int, int]) -> Loss:
        rain = torch.where(batch.observed, batch.rain, torch.nan)[:, self.task.lead_window.index(0), 0]
        if self.options.labels == "continuous":
            target = continuous_labels(rain, self.thresholds, self.options.interpolate_dry)
        else:
            target = one_hot_labels(rain, self.thresholds)
        logits = self._decoded(maps, shape)[..., : rain.shape[-2], : rain.shape[-1]]
        total = weighted_cross_entropy(logits, target, self.options.class_weights)
        return Loss(total, {"cross_entropy": total.detach()})

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one."""
        return None

    # ------------------------------------------------------------ post-processing

    def postprocess(self, fields: Tensor, observed: Tensor) -> Tensor:
        """Probabilities of the classes.

        ``fields``: ``(b, c, y, x)``, or ``(b, t, c, y, x)`` where it reads several lead times: the task's channels in
        canonical units, row 0 in the north, NaN where missing.
        ``observed``: ``(b, 1, y, x)`` bool, not used: what is missing is NaN. Returned: ``(b, classes, y, x)`` float32,
        summing to 1.
        """
        ny, nx = fields.shape[-2:]
        with torch.no_grad(), self._precise(fields):
            x = padded(self.scaling(fields), self.task.grid_multiple)
            logits = self._decoded(self._encoded(x), (x.shape[-2], x.shape[-1]))
        return logits[..., :ny, :nx].float().softmax(dim=1)

    def explain(self, fields: Tensor, observed: Tensor, category: int) -> Tensor:
        """Where the deepest map speaks for a class: Grad-CAM (Selvaraju et al. 2017; An et al. 2023, equation 4).

        The class's score is the sum of its logits over the observed cells.

        ``fields, observed``: as in `postprocess`. ``category``: number of the class. Returned: ``(b, y, x)``, 0 to 1 in
        each field, interpolated from the deepest map; 0 where nothing speaks for it. ValueError if there is no such
        class.
        """
        classes = len(self.thresholds) + 1
        if not 0 <= category < classes:
            raise ValueError(f"category is {category}; the classes are 0 to {classes - 1}")
        ny, nx = fields.shape[-2:]
        with torch.inference_mode(False), torch.enable_grad():
            x = padded(self.scaling(fields.clone()), self.task.grid_multiple)
            maps = [found.detach() for found in self._encoded(x)]
            maps[-1].requires_grad_()
            logits = self._decoded(maps, (x.shape[-2], x.shape[-1]))[:, category, :ny, :nx]
            measured = observed[:, 0].clone()  # what was made in inference mode cannot be kept for a gradient
            (slope,) = torch.autograd.grad((logits * measured).sum(), maps[-1])
        activation = (slope.sum(dim=(-2, -1), keepdim=True) * maps[-1]).sum(dim=1, keepdim=True).relu().detach()
        activation = F.interpolate(activation, size=x.shape[-2:], mode="bilinear", align_corners=False)
        activation = activation[:, 0, :ny, :nx]
        return activation / activation.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(activation.dtype).tiny)

    def _precise(self, fields: Tensor) -> torch.autocast:
        return torch.autocast(fields.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def fields_of(batch: TrainingBatch, task: Task) -> Tensor:
    """The channels of a batch, (b, c, y, x), or (b, t, c, y, x) of the lead times that the task reads."""
    if batch.channels is None:
        raise ValueError("the batch has no channels: a post-processor learns from fields of a forecast beside the rain")
    if not task.reads_lead_times:
        return batch.channels[:, 0]
    return batch.channels[:, [task.lead_window.index(offset) for offset in task.lead_offsets]]


def padded(x: Tensor, multiple: int) -> Tensor:
    """z-scores with cells at the mean below and to the right, so that the grid is a multiple."""
    return F.pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple))
