"""Attention made of convolutions with large kernels, over frames that are stacked as channels: SimVP's and TAU's.

Tan et al. (2022), SimVPv2, arXiv:2211.12509; Tan et al. (2023), Temporal attention unit, arXiv:2206.12126.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GatedAttention(nn.Module):
    """A large kernel in three parts and a gate on what it finds: SimVP's gSTA. (b, c, y, x) -> same.

    5 x 5 cells and 7 x 7 of every third reach as far as 21 x 21 do (Guo et al. 2022, arXiv:2202.09741).
    """

    outputs = 2
    """Of the gate, for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, width, 1)
        self.local = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.wide = nn.Conv2d(width, width, 7, padding=9, dilation=3, groups=width)
        self.gate = nn.Conv2d(width, self.outputs * width, 1)
        self.leave = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(self.gated(F.gelu(self.enter(x))))

    def gated(self, x: Tensor) -> Tensor:
        """What the large kernel finds, as far as it lets through itself."""
        found, gate = self.gate(self.wide(self.local(x))).chunk(2, dim=1)
        return found * torch.sigmoid(gate)


class TemporalAttention(GatedAttention):
    """TAU: a gate from the large kernel, and one for each channel from its mean over the map. (b, c, y, x) -> same.

    Frames are stacked as channels, so the second tells the frames apart. ``width`` is at least 4.
    """

    outputs = 1

    def __init__(self, width: int) -> None:
        super().__init__(width)
        squeezed = width // max(width // 16, 4)
        self.whole = nn.Sequential(
            nn.Linear(width, squeezed, bias=False), nn.ReLU(), nn.Linear(squeezed, width, bias=False), nn.Sigmoid()
        )

    def gated(self, x: Tensor) -> Tensor:
        """What comes in, as far as both gates let it through."""
        return self.whole(x.mean(dim=(-2, -1)))[..., None, None] * self.gate(self.wide(self.local(x))) * x


class GatedBlock(nn.Module):
    """Attention and a mixer of channels, each with a norm and a learned scale. (b, c, y, x) -> (b, out, y, x).

    ``expansion``: channels within the mixer for each outside.
    """

    def __init__(
        self, width: int, width_out: int, attention: type[GatedAttention] = GatedAttention, expansion: int = 8
    ) -> None:
        super().__init__()
        inside = expansion * width
        self.attention_norm = nn.BatchNorm2d(width)
        self.attention = attention(width)
        self.attention_scale = nn.Parameter(torch.full((width,), 1e-2))
        self.mixer_norm = nn.BatchNorm2d(width)
        self.mixer = nn.Sequential(
            nn.Conv2d(width, inside, 1),
            nn.Conv2d(inside, inside, 3, padding=1, groups=inside),
            nn.GELU(),
            nn.Conv2d(inside, width, 1),
        )
        self.mixer_scale = nn.Parameter(torch.full((width,), 1e-2))
        self.leave = nn.Conv2d(width, width_out, 1) if width != width_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcmul(x, self.attention_scale[:, None, None], self.attention(self.attention_norm(x)))
        x = torch.addcmul(x, self.mixer_scale[:, None, None], self.mixer(self.mixer_norm(x)))
        return self.leave(x)


def gated_blocks(
    widths: Sequence[int], attention: type[GatedAttention] = GatedAttention, expansion: int = 8
) -> nn.Sequential:
    """Blocks one after the other, whose convolutions begin as the authors' do. (b, widths[0], ...) -> (b, last, ...).

    >>> gated_blocks([8, 16, 16, 24], TemporalAttention)(torch.rand(1, 8, 9, 7)).shape
    torch.Size([1, 24, 9, 7])
    """
    blocks = nn.Sequential(*(GatedBlock(a, b, attention, expansion) for a, b in pairwise(widths)))
    for module in blocks.modules():
        if isinstance(module, nn.Conv2d):
            _initialise(module)
    return blocks


def _initialise(convolution: nn.Conv2d) -> None:
    fan_out = math.prod(convolution.kernel_size) * convolution.out_channels // convolution.groups
    nn.init.normal_(convolution.weight, 0.0, math.sqrt(2.0 / fan_out))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
