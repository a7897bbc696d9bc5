"""Fields of several quantities on one scale: z-scores by channel, of the logarithm where it is rain."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

RAIN_WORDS = ("rainfall", "precipitation")
"""What the names of channels of rain have in them."""


def is_rain(channel: str) -> bool:
    """Whether a channel is rain, mm/h.

    ``channel``: its standard name, with a level or without.

    >>> [is_rain(name) for name in ("rainfall_rate", "air_temperature at 850 hPa")]
    [True, False]
    """
    return any(word in channel for word in RAIN_WORDS)


class ChannelScaling(nn.Module):
    """``(..., c, y, x)`` in canonical units to z-scores; NaN becomes 0, the mean.

    Rain is ``log(1 + R)`` first, as its extremes are tens of standard deviations from its mean.

    Parameters
    ----------
    channels : sequence of str
        Their names.

    Examples
    --------
    >>> scaling = ChannelScaling(["air_temperature at 2 m"])
    >>> scaling.set(torch.tensor([280.0]), torch.tensor([10.0]))
    >>> scaling(torch.tensor([[[[290.0, torch.nan]]]]))
    tensor([[[[1., 0.]]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: Sequence[str]) -> None:
        super().__init__()
        self.rain = [number for number, name in enumerate(channels) if is_rain(name)]
        for name in ("mean", "std"):
            self.register_buffer(name, torch.full((len(channels),), torch.nan))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Say which mean and standard deviation the channels have in the training data.

        Parameters
        ----------
        mean, std : Tensor
            ``(c,)`` in canonical units. Those of rain are turned into those of its logarithm: what they would be if the
            rain, dry cells included, had a gamma distribution.

        Raises
        ------
        ValueError
            If there are more or fewer numbers than channels, or one is not finite.
        """
        mean, std = mean.detach().to(self.mean).clone(), std.detach().to(self.std).clone()
        if mean.shape != self.mean.shape or std.shape != self.std.shape:
            raise ValueError(
                f"there are statistics of {tuple(mean.shape)} and {tuple(std.shape)} channels; the model reads "
                f"{len(self.mean)}"
            )
        if not bool((mean.isfinite() & std.isfinite() & (std >= 0)).all()):
            raise ValueError(f"means {mean.tolist()} and deviations {std.tolist()} must be finite, deviations >= 0")
        for number in self.rain:
            mean[number], std[number] = _of_logarithm(float(mean[number]), float(std[number]))
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, 1.0))  # a channel that never changes tells nothing

    def forward(self, fields: Tensor) -> Tensor:
        if bool(self.mean.isnan().any()):
            raise ValueError(
                "mean and standard deviation of the channels were never set: call set_channel_statistics, or train"
            )
        if fields.shape[-3] != len(self.mean):
            raise ValueError(f"there are {fields.shape[-3]} channels; the model reads {len(self.mean)}")
        scaled = fields
        if self.rain:
            scaled = fields.clone()
            scaled[..., self.rain, :, :] = fields[..., self.rain, :, :].clamp_min(0).log1p()
        scaled = (scaled - self.mean[:, None, None]) / self.std[:, None, None]
        return torch.where(scaled.isfinite(), scaled, 0.0)


def _of_logarithm(mean: float, std: float) -> tuple[float, float]:
    """Mean and standard deviation of log(1 + R) of a gamma distribution with this mean and deviation."""
    if mean <= 0 or std <= 0:
        return math.log1p(max(mean, 0.0)), 0.0
    shape, scale = (mean / std) ** 2, std**2 / mean
    # u is the logarithm of R over the scale, from nothing at all to far out in the tail
    u = torch.linspace(-20.7, math.log(shape + 40 + 40 * shape**0.5), 20_000, dtype=torch.float64, device="cpu")
    density = (shape * u - u.exp() - math.lgamma(shape)).exp()
    first, second = (torch.trapezoid((scale * u.exp()).log1p() ** power * density, u).item() for power in (1, 2))
    return first, math.sqrt(max(second - first**2, 0.0))
