"""The forecast's own rain, sorted into classes: what every post-processor must beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xnowcast.models.base import Task
from xnowcast.models.declaration import Declared, Options, option
from xnowcast.models.transforms import Identity
from xnowcast.nn.channel_scaling import is_rain
from xnowcast.nn.labels import check_thresholds, continuous_labels, one_hot_labels


@dataclass(frozen=True, kw_only=True)
class NwpRawOptions(Options):
    channels: Sequence[str] = option(("rainfall_rate",), "Standard name of the rain.", runtime=True)
    thresholds: Sequence[float] = option((0.1, 10.0), "mm/h: lower bounds of all classes but the first.", runtime=True)
    soft: bool = option(
        False,
        "Give the shares of continuous labels instead of 0 and 1, so that the rain rate can be had back up to the last "
        "threshold.",
        runtime=True,
    )

    def check(self) -> None:
        if not isinstance(self.channels, list | tuple) or len(self.channels) != 1 or not is_rain(self.channels[0]):
            raise ValueError(f"channels is {self.channels!r}: give the name of the forecast's rain, and no other")
        check_thresholds(self.thresholds)

    def task(self) -> Task:
        return Task("postprocess", input_frames=1, quantity="rain_rate", min_grid=1, channels=tuple(self.channels))


class NwpRaw(Declared[NwpRawOptions]):
    """The rain of the weather forecast as it is, in its class.

    Raises
    ------
    ValueError
        If there is not one channel, of rain, or the thresholds do not rise from above 0.

    Examples
    --------
    >>> rain = torch.tensor([[[[0.0, 4.0, 12.0, torch.nan]]]])
    >>> NwpRaw().postprocess(rain, rain >= 0)[0, :, 0]
    tensor([[1., 0., 0., nan],
            [0., 1., 0., nan],
            [0., 0., 1., nan]])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.transform, self.thresholds = Identity(), check_thresholds(self.options.thresholds)

    def postprocess(self, fields: Tensor, observed: Tensor) -> Tensor:
        """``(b, 1, y, x)`` in mm/h to ``(b, classes, y, x)``; NaN in all classes where the rain is NaN."""
        rain = fields[:, 0].to(torch.float32)
        return continuous_labels(rain, self.thresholds) if self.options.soft else one_hot_labels(rain, self.thresholds)
