"""STLDM's translator: the latent frames of the past to a first estimate of those to come.

Foo et al. (2026), appendix A.2: gated spatio-temporal attention of SimVP (Tan et al. 2023), which is convolutions with
large kernels over frames that are stacked as channels.
"""

import math
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GatedAttention(nn.Module):
    """A large kernel in three parts and a gate on what it finds (figure 5). (b, c, y, x) -> same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, width, 1)
        self.local = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.wide = nn.Conv2d(width, width, 7, padding=9, dilation=3, groups=width)
        self.gate = nn.Conv2d(width, 2 * width, 1)
        self.leave = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        found, gate = self.gate(self.wide(self.local(F.gelu(self.enter(x))))).chunk(2, dim=1)
        return x + self.leave(found * torch.sigmoid(gate))


class GatedBlock(nn.Module):
    """Attention and a mixer of channels, each with a norm and a learned scale. (b, c, y, x) -> (b, out, y, x)."""

    def __init__(self, width: int, width_out: int) -> None:
        super().__init__()
        self.attention_norm = nn.BatchNorm2d(width)
        self.attention = GatedAttention(width)
        self.attention_scale = nn.Parameter(torch.full((width,), 1e-2))
        self.mixer_norm = nn.BatchNorm2d(width)
        self.mixer = nn.Sequential(
            nn.Conv2d(width, 8 * width, 1),
            nn.Conv2d(8 * width, 8 * width, 3, padding=1, groups=8 * width),
            nn.GELU(),
            nn.Conv2d(8 * width, width, 1),
        )
        self.mixer_scale = nn.Parameter(torch.full((width,), 1e-2))
        self.leave = nn.Conv2d(width, width_out, 1) if width != width_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcmul(x, self.attention_scale[:, None, None], self.attention(self.attention_norm(x)))
        x = torch.addcmul(x, self.mixer_scale[:, None, None], self.mixer(self.mixer_norm(x)))
        return self.leave(x)


class Translator(nn.Module):
    """Latent frames (b, m, c, y, x) to mean and log-variance of those to come, (b, n, c, y, x) each.

    A residual one begins with weights that say 0 of everything, and learns which share of the newest frame's detail
    stays.
    """

    def __init__(
        self,
        input_frames: int,
        target_frames: int,
        *,
        latent: int = 32,
        width: int = 512,
        blocks: int = 8,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.target_frames = target_frames
        widths = [input_frames * latent, *[width] * (blocks - 1), 2 * target_frames * latent]
        self.blocks = nn.Sequential(*(GatedBlock(a, b) for a, b in pairwise(widths)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)
        if residual:
            silent = nn.Conv2d(widths[-2], widths[-1], 1)
            nn.init.zeros_(silent.weight)
            nn.init.zeros_(cast(Tensor, silent.bias))
            cast(GatedBlock, self.blocks[-1]).leave = silent
            self.kept = nn.Parameter(torch.ones(target_frames))

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.blocks(latent.flatten(1, 2).contiguous(memory_format=torch.channels_last))
        mean, log_variance = moments.unflatten(1, (2, self.target_frames, -1)).unbind(1)
        return mean, log_variance


def _initialise(convolution: nn.Conv2d) -> None:
    fan_out = math.prod(convolution.kernel_size) * convolution.out_channels // convolution.groups
    nn.init.normal_(convolution.weight, 0.0, math.sqrt(2.0 / fan_out))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
