"""The forecast's own rain, sorted into classes: what every post-processor must beat."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity
from xnowcast.nn.channel_scaling import is_rain
from xnowcast.nn.labels import check_thresholds, continuous_labels, one_hot_labels


class NwpRaw:
    """The rain of the weather forecast as it is, in its class.

    Parameters
    ----------
    channels : sequence of str
        Standard name of the rain.
    thresholds : sequence of float
        mm/h: lower bounds of all classes but the first.
    soft : bool
        Give the shares of continuous labels instead of 0 and 1, so that the rain rate can be had back up to the last
        threshold.

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

    RUNTIME_OPTIONS = ("channels", "thresholds", "soft")

    def __init__(
        self,
        *,
        channels: Sequence[str] = ("rainfall_rate",),
        thresholds: Sequence[float] = (0.1, 10.0),
        soft: bool = False,
    ) -> None:
        self.task = self.declare(channels=channels, thresholds=thresholds, soft=soft)
        self.transform = Identity()
        self.thresholds, self.soft = check_thresholds(thresholds), soft

    @classmethod
    def declare(
        cls,
        *,
        channels: Sequence[str] = ("rainfall_rate",),
        thresholds: Sequence[float] = (0.1, 10.0),
        soft: bool = False,
    ) -> Task:
        """Reads one field of rain, on any grid."""
        if not isinstance(channels, list | tuple) or len(channels) != 1 or not is_rain(channels[0]):
            raise ValueError(f"channels is {channels!r}: give the name of the forecast's rain, and no other")
        check_thresholds(thresholds)
        return Task("postprocess", input_frames=1, quantity="rain_rate", min_grid=1, channels=tuple(channels))

    def postprocess(self, fields: Tensor, observed: Tensor) -> Tensor:
        """``(b, 1, y, x)`` in mm/h to ``(b, classes, y, x)``; NaN in all classes where the rain is NaN."""
        rain = fields[:, 0].to(torch.float32)
        return continuous_labels(rain, self.thresholds) if self.soft else one_hot_labels(rain, self.thresholds)
