"""LPT-QPN: a light transformer from channel to channel, whose forecast is held to an equation of its own making."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast.models.base import Task
from xnowcast.models.declaration import option
from xnowcast.models.one_pass import OnePassForecaster, OnePassOptions
from xnowcast.nn.restormer import ChannelTransformer

SIZES: dict[str, dict[str, Any]] = {
    "full": {"width": 20, "blocks": (4, 6, 6, 8), "heads": (1, 2, 4, 8), "refinement": 2},
    "tiny": {"width": 8, "blocks": (1, 1, 1), "heads": (1, 2, 4), "refinement": 1},
}


@dataclass(frozen=True, kw_only=True)
class LPTQPNOptions(OnePassOptions):
    size: str = option("full", "The paper's 20 channels on four scales, or 8 on three for tests.", choices=SIZES)
    physics_weight: float = option(
        0.5,
        "Beta: in training, weight of what the forecast leaves of the convection-diffusion equation whose coefficients "
        "the network says, beside the squared error. With 0 there is the squared error alone.",
        least=0,
    )

    def task(self) -> Task:
        """What the model reads and gives."""
        multiple = 2 ** (len(SIZES[self.size]["blocks"]) - 1)
        quantity = self.transform.quantity
        return Task("forecast", input_frames=self.input_frames, quantity=quantity, grid_multiple=multiple, trained=True)


class LPTQPN(OnePassForecaster[LPTQPNOptions]):
    """A transformer from channel to channel on four scales, which says how the newest frame becomes 20 others.

    Its loss is the squared error and, half as much, how far the forecast is from a convection-diffusion equation. The
    equation's four coefficients are the network's own, one number each for a batch, so that they can also all be 0.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    Li et al. (2023), LPT-QPN: A Lightweight Physics-Informed Transformer for Quantitative Precipitation Nowcasting,
    doi:10.1109/TGRS.2023.3328945; the network is a Restormer (Zamir et al. 2022, arXiv:2111.09881).

    Examples
    --------
    >>> model = LPTQPN(size="tiny", target_frames=6)
    >>> frames = torch.rand(1, 5, 1, 16, 20)
    >>> model.forecast(frames, frames >= 0, steps=7).shape
    torch.Size([1, 7, 1, 16, 20])
    """

    network: "LPTQPNNetwork"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        self.network = LPTQPNNetwork(own.input_frames, own.target_frames, **SIZES[own.size])
        if not own.physics_weight:  # nothing reads them, and they are there so that weights fit with it and without
            self.network.equation.requires_grad_(False)
            self.network.strength.requires_grad_(False)

    def become_residual(self) -> None:
        """From now on say by how much the frames ahead differ from the newest, and begin with no difference."""
        super().become_residual()
        for parameter in self.network.last.parameters():
            nn.init.zeros_(parameter)

    def further_terms(self, prediction: Tensor, truth: Tensor, observed: Tensor) -> Mapping[str, Tensor]:
        """The loss of the physics; it reads the forecast alone, so it counts where nothing was measured too."""
        if not self.options.physics_weight:
            return {}
        ahead = prediction[:, : self.options.target_frames].float()
        left = convection_diffusion(ahead, self.network.coefficients(ahead)).abs()
        return {"physics": self.options.physics_weight * left.sum() / max(left.numel(), 1)}


class LPTQPNNetwork(nn.Module):
    """Frames ``(b, t, 1, y, x)`` to the ``(b, n, 1, y, x)`` that follow: the newest, changed by a `ChannelTransformer`.

    ``known, ahead``: t and n. ``sizes``: of the transformer.
    """

    def __init__(self, known: int, ahead: int, **sizes: Any) -> None:
        super().__init__()
        self.change = ChannelTransformer(known, ahead, **sizes)
        self.last = nn.Conv2d(ahead, ahead, 3, padding=1)
        self.swish = Swish()
        self.equation = nn.Conv2d(ahead, 4, 3, padding=1)
        self.strength = nn.Parameter(torch.ones(4))

    def forward(self, frames: Tensor) -> Tensor:
        maps = frames[:, :, 0]
        return self.swish(self.last(maps[:, -1:] + self.change(maps)))[:, :, None]

    def coefficients(self, forecast: Tensor) -> Tensor:
        """a, b1, b2 and c of `convection_diffusion`, ``(4,)``, from all of a batch of forecasts ``(b, n, 1, y, x)``."""
        return self.strength * self.equation(forecast[:, :, 0]).relu().mean(dim=(0, 2, 3))


class Swish(nn.Module):
    """x.sg(beta x) with a beta that is learnt. Any shape -> same."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.beta * x).sigmoid()


def convection_diffusion(frames: Tensor, coefficients: Tensor) -> Tensor:
    """a F_t + b1 |F_x| + b2 |F_y| + c (|F_xx| + |F_yy|) of frames F, which the equation wants to be 0.

    Differences are those of one step forward in time and central ones in space, per frame and per cell.

    ``frames``: ``(b, n, 1, y, x)``. ``coefficients``: ``(4,)``, a, b1, b2, c. Returned: the same for all frames but the
    last and all cells but those on the rim, ``(b, n - 1, 1, y - 2, x - 2)``.

    >>> slope = torch.arange(4.0).expand(1, 1, 1, 3, 4)  # along x
    >>> frames = torch.cat([slope, slope + 5], dim=1)
    >>> convection_diffusion(frames, torch.tensor([-1.0, 2.0, 7.0, 9.0])).flatten().tolist()
    [-3.0, -3.0]
    """
    a, b1, b2, c = coefficients
    before, after = frames[:, :-1], frames[:, 1:]
    here, along_x, along_y = before[..., 1:-1, 1:-1], before[..., 1:-1, :], before[..., 1:-1]
    west, east, north, south = along_x[..., :-2], along_x[..., 2:], along_y[..., :-2, :], along_y[..., 2:, :]
    convection = b1 * (east - west).abs() / 2 + b2 * (south - north).abs() / 2
    diffusion = c * ((east - 2 * here + west).abs() + (south - 2 * here + north).abs())
    return a * (after[..., 1:-1, 1:-1] - here) + convection + diffusion
