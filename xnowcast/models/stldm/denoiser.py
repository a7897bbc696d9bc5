"""STLDM's denoiser: a U-Net over the latent frames of a forecast, with attention over space and over time.

Foo et al. (2026), figure 2 and appendix A.3; sizes and orders are those of the published code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from xnowcast.nn.attention import LinearSpatialAttention, SpatialAttention, TemporalAttention
from xnowcast.nn.blocks import ConditionedBlock, ResidualBlock, strided_down, transposed_up
from xnowcast.nn.embedding import SinusoidalEmbedding, StepEmbedding

NormOver = Literal["channels", "time"]

Condition = list[tuple[Tensor, Tensor]]
"""What the condition adds at every level: see `Denoiser.project`."""


@dataclass(frozen=True)
class Attention:
    """What the attentions of all levels have in common, and how to make them."""

    heads: int
    head_width: int
    temporal: bool
    norm_over: NormOver

    def over_patches(self, width: int, patch: int) -> LinearSpatialAttention:
        return LinearSpatialAttention(width, heads=self.heads, head_width=self.head_width, patch=patch)

    def over_space(self, width: int) -> SpatialAttention:
        return SpatialAttention(width, heads=self.heads, head_width=self.head_width)

    def over_time(self, width: int) -> TemporalAttention | None:
        if not self.temporal:
            return None
        return TemporalAttention(width, heads=self.heads, head_width=self.head_width, norm_over=self.norm_over)


class DownLevel(nn.Module):
    """Condition in, attention over space and time, half the grid. x (b t, c, y, x) -> (b t, out, y / 2, x / 2)."""

    def __init__(
        self, width: int, width_out: int, step_width: int, attention: Attention, *, patch: int, last: bool
    ) -> None:
        super().__init__()
        self.conditioned = ConditionedBlock(width, step_width)
        self.spatial = attention.over_patches(width, patch)
        self.residual = ResidualBlock(width, width)
        self.temporal = attention.over_time(width)
        self.resize = nn.Conv2d(width, width_out, 3, padding=1) if last else strided_down(width, width_out)

    def forward(
        self, x: Tensor, given: tuple[Tensor, Tensor] | None, step: Tensor, frames: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Also what the way up is given: after the attention over space, and after that over time."""
        spatial = self.spatial(self.conditioned(x, step, given))
        temporal = _over_time(self.temporal, self.residual(spatial), frames)
        return self.resize(temporal), spatial, temporal


class UpLevel(nn.Module):
    """Twice the grid, attention over time and then over space. x (b t, c, y, x) -> (b t, out, 2 y, 2 x).

    Without attention over time it is the level of another network, as published: attention over space takes the place
    of that over time, and both blocks are given what the way down had last.
    """

    def __init__(
        self, width: int, width_out: int, step_width: int, attention: Attention, *, patch: int, first: bool
    ) -> None:
        super().__init__()
        self.resize = nn.Conv2d(width, width, 3, padding=1) if first else transposed_up(width, width)
        self.temporal = attention.over_time(width)
        self.first = ResidualBlock(width + width_out, width, step_width)
        self.spatial = attention.over_patches(width, patch)
        self.second = ResidualBlock(width + width_out, width_out, step_width)

    def forward(self, x: Tensor, spatial: Tensor, temporal: Tensor, step: Tensor, frames: int) -> Tensor:
        x = self.resize(x)
        if self.temporal is None:
            x = self.first(torch.cat([self.spatial(x), temporal], dim=1), step)
            return self.second(torch.cat([x, temporal], dim=1), step)
        x = self.spatial(self.first(torch.cat([self.temporal(x, frames), temporal], dim=1), step))
        return self.second(torch.cat([x, spatial], dim=1), step)


class MiddleLevel(nn.Module):
    """Attention over all cells, then over time, between residual blocks. x (b t, c, y, x) -> same."""

    def __init__(self, width: int, step_width: int, attention: Attention) -> None:
        super().__init__()
        self.first = ResidualBlock(width, width, step_width)
        self.spatial = attention.over_space(width)
        self.second = ResidualBlock(width, width, step_width)
        self.temporal = attention.over_time(width)
        self.third = ResidualBlock(width, width, step_width)

    def forward(self, x: Tensor, step: Tensor, frames: int) -> Tensor:
        x = self.second(self.spatial(self.first(x, step)), step)
        return self.third(_over_time(self.temporal, x, frames), step)


class Denoiser(nn.Module):
    """The velocity of latent frames. z (b, t, c, y, x), step (b,) or (1,), `project`ed condition or None -> z.

    Widths are ``base`` times the multipliers, one a level; ``patch`` is that of the first level's attention over space,
    in cells, and half of it at each further level. Without ``temporal`` every frame is enhanced by itself (section
    4.3.3), by a network whose way up is another. ``norm_over``: see `xnowcast.nn.attention.TemporalAttention`.
    """

    def __init__(
        self,
        *,
        latent: int = 32,
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        heads: int = 4,
        head_width: int = 32,
        patch: int = 16,
        temporal: bool = True,
        norm_over: NormOver = "channels",
    ) -> None:
        super().__init__()
        widths = [latent, *(base * multiplier for multiplier in multipliers)]
        levels = range(len(multipliers))
        step_width = 4 * base
        attention = Attention(heads, head_width, temporal, norm_over)
        self.time = StepEmbedding(SinusoidalEmbedding(base), base, step_width)
        # The published code has one convolution more, whose output nothing reads.
        self.pyramid = nn.ModuleList(strided_down(widths[n], widths[n + 1]) for n in levels[:-1])
        self.down = nn.ModuleList(
            DownLevel(widths[n], widths[n + 1], step_width, attention, patch=patch >> n, last=n == levels[-1])
            for n in levels
        )
        self.middle = MiddleLevel(widths[-1], step_width, attention)
        self.up = nn.ModuleList(
            UpLevel(widths[n + 1], widths[n], step_width, attention, patch=patch >> n, first=n == levels[-1])
            for n in reversed(levels)
        )

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters."""
        return self.middle.spatial.out.weight.dtype

    def project(self, condition: Tensor) -> Condition:
        """What the condition (b, t, c, y, x) adds at every level, (b t, width, y, x) each: the same at all steps."""
        level = rearrange(condition, "b t c y x -> (b t) c y x").contiguous(memory_format=torch.channels_last)
        levels = [level]
        for resize in self.pyramid:
            levels.append(resize(levels[-1]))
        blocks = [cast(DownLevel, down).conditioned for down in self.down]
        return [block.project(part) for block, part in zip(blocks, levels, strict=True)]

    def forward(self, z: Tensor, step: Tensor, condition: Condition | None) -> Tensor:
        frames = z.shape[1]
        embedding = self.time(step)
        if len(embedding) > 1:  # one step per sample, which all of its frames share
            embedding = embedding.repeat_interleave(frames, dim=0)
        x = rearrange(z, "b t c y x -> (b t) c y x").contiguous(memory_format=torch.channels_last)
        skips = []
        for n, down in enumerate(self.down):
            # Without a condition nothing is added at any level. A condition of zeros would add the pyramid's biases.
            x, spatial, temporal = down(x, None if condition is None else condition[n], embedding, frames)
            skips.append((spatial, temporal))
        x = self.middle(x, embedding, frames)
        for up in self.up:
            x = up(x, *skips.pop(), embedding, frames)
        return rearrange(x, "(b t) c y x -> b t c y x", t=frames)


def joined(conditions: Sequence[Condition]) -> Condition:
    """The conditions of some samples as that of a batch; of one sample, itself."""
    if len(conditions) == 1:
        return conditions[0]
    levels = [list(zip(*level, strict=True)) for level in zip(*conditions, strict=True)]
    return [(torch.cat(hidden), torch.cat(shortcut)) for hidden, shortcut in levels]


def _over_time(attention: nn.Module | None, x: Tensor, frames: int) -> Tensor:
    return x if attention is None else attention(x, frames)
