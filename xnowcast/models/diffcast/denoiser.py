"""DiffCast's denoiser: a U-Net over the frames of a segment, which are its channels.

Yu et al. (2024), the GTUNet of section 3.3; sizes and orders are those of the published code.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from xnowcast.nn.attention import SpatialAttention
from xnowcast.nn.blocks import ChannelRMSNorm, ConditionedBlock, NearestUp, ResidualBlock, SpaceToDepth
from xnowcast.nn.embedding import SinusoidalEmbedding, StepEmbedding
from xnowcast.nn.gated_attention import TemporalAttention

Context = list[tuple[Tensor, Tensor]]
"""What the context adds on every scale: see `Denoiser.project`."""


class NormedGate(nn.Module):
    """TAU's gates on what is normed, beside a shortcut: what stands for attention here. (b, c, y, x) -> same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelRMSNorm(width)
        self.attention = TemporalAttention(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm(x))


class DownLevel(nn.Module):
    """The context of a scale in, then half the grid. x (b, c, y, x) -> (b, out, y / 2, x / 2), and two skips."""

    def __init__(self, width: int, width_out: int, step_width: int, *, last: bool) -> None:
        super().__init__()
        self.conditioned = ConditionedBlock(width, step_width)
        self.residual = ResidualBlock(width, width, step_width)
        self.gate = NormedGate(width)
        self.resize = nn.Conv2d(width, width_out, 3, padding=1) if last else SpaceToDepth(width, width_out)

    def forward(self, x: Tensor, given: tuple[Tensor, Tensor], step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        conditioned = self.conditioned(x, step, given)
        gated = self.gate(self.residual(conditioned, step))
        return self.resize(gated), conditioned, gated


class UpLevel(nn.Module):
    """Both skips of a scale in, then twice the grid. x (b, c, y, x) -> (b, out, 2 y, 2 x)."""

    def __init__(self, width: int, width_out: int, step_width: int, *, first: bool) -> None:
        super().__init__()
        self.first = ResidualBlock(width + width_out, width, step_width)
        self.second = ResidualBlock(width + width_out, width, step_width)
        self.gate = NormedGate(width)
        self.resize = nn.Conv2d(width, width_out, 3, padding=1) if first else NearestUp(width, width_out)

    def forward(self, x: Tensor, conditioned: Tensor, gated: Tensor, step: Tensor) -> Tensor:
        x = self.first(torch.cat([x, gated], dim=1), step)
        return self.resize(self.gate(self.second(torch.cat([x, conditioned], dim=1), step)))


class Denoiser(nn.Module):
    """The velocity of a segment of ``frames`` frames of residuals.

    x and before (b, frames, y, x), the noisy segment and the one before it; step and segment (b,) or (1,), whole
    numbers; the `project`ed context -> (b, frames, y, x). y and x are multiples of 2 ** (scales - 1).
    """

    def __init__(
        self,
        frames: int = 5,
        *,
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        heads: int = 4,
        head_width: int = 32,
    ) -> None:
        super().__init__()
        widths = list(pairwise([base, *(base * multiplier for multiplier in multipliers)]))
        step_width, last = 8 * base, len(widths) - 1
        self.entry = nn.Conv2d(2 * frames, base, 7, padding=3)
        self.time, self.segment = (StepEmbedding(SinusoidalEmbedding(base), base, 4 * base) for _ in range(2))
        self.down = nn.ModuleList(
            DownLevel(width, below, step_width, last=n == last) for n, (width, below) in enumerate(widths)
        )
        self.before_attention = ResidualBlock(widths[-1][1], widths[-1][1], step_width)
        self.attention = SpatialAttention(widths[-1][1], heads=heads, head_width=head_width, norm=ChannelRMSNorm)
        self.after_attention = ResidualBlock(widths[-1][1], widths[-1][1], step_width)
        self.up = nn.ModuleList(
            UpLevel(below, width, step_width, first=n == 0) for n, (width, below) in reversed([*enumerate(widths)])
        )
        self.last = ResidualBlock(2 * base, base, step_width)
        self.read = nn.Conv2d(base, frames, 1)

    def project(self, context: Sequence[Tensor]) -> Context:
        """What the context adds on every scale, one tensor of it each: the same at all steps of a sampler."""
        blocks = [cast(DownLevel, down).conditioned for down in self.down]
        return [block.project(part) for block, part in zip(blocks, context, strict=True)]

    def forward(self, x: Tensor, step: Tensor, segment: Tensor, before: Tensor, context: Context) -> Tensor:
        steps = torch.cat(torch.broadcast_tensors(self.time(step), self.segment(segment)), dim=1)
        x = entered = self.entry(torch.cat([before, x], dim=1))
        skips = []
        for down, given in zip(self.down, context, strict=True):
            x, *skip = down(x, given, steps)
            skips.append(skip)
        x = self.before_attention(x, steps)
        x = self.after_attention(self.attention(x), steps)
        for up in self.up:
            x = up(x, *skips.pop(), steps)
        return self.read(self.last(torch.cat([x, entered], dim=1), steps))
