"""STLDM's denoiser: a U-Net over the latent frames of a forecast, with attention over space and over time.

Foo et al. (2026), figure 2 and appendix A.3; sizes and orders are those of the published code.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from xnowcast.nn.attention import LinearSpatialAttention, SpatialAttention, TemporalAttention
from xnowcast.nn.blocks import ResidualBlock, strided_down, transposed_up
from xnowcast.nn.embedding import SinusoidalEmbedding, StepEmbedding

NormOver = Literal["channels", "time"]


class DownLevel(nn.Module):
    """Condition in, attention over space and time, half the grid. x, condition (b t, c, y, x) -> (b t, out, ...)."""

    def __init__(
        self, width: int, width_out: int, step_width: int, *, last: bool, patch: int, temporal: bool, **attention: int
    ) -> None:
        super().__init__()
        self.conditioned = ResidualBlock(2 * width, width, step_width)
        self.spatial = LinearSpatialAttention(width, patch=patch, **attention)
        self.residual = ResidualBlock(width, width)
        self.temporal = TemporalAttention(width, **attention) if temporal else None
        self.resize = nn.Conv2d(width, width_out, 3, padding=1) if last else strided_down(width, width_out)

    def forward(self, x: Tensor, condition: Tensor, step: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Also what the way up is given: after the attention over space, and after that over time."""
        spatial = self.spatial(self.conditioned(torch.cat([x, condition], dim=1), step))
        temporal = _over_time(self.temporal, self.residual(spatial), frames)
        return self.resize(temporal), spatial, temporal


class UpLevel(nn.Module):
    """Twice the grid, attention over time and then over space. x (b t, c, y, x) -> (b t, out, 2 y, 2 x)."""

    def __init__(
        self, width: int, width_out: int, step_width: int, *, first: bool, patch: int, temporal: bool, **attention: int
    ) -> None:
        super().__init__()
        self.resize = nn.Conv2d(width, width, 3, padding=1) if first else transposed_up(width, width)
        self.temporal = TemporalAttention(width, **attention) if temporal else None
        self.first = ResidualBlock(width + width_out, width, step_width)
        self.spatial = LinearSpatialAttention(width, patch=patch, **attention)
        self.second = ResidualBlock(width + width_out, width_out, step_width)

    def forward(self, x: Tensor, spatial: Tensor, temporal: Tensor, step: Tensor, frames: int) -> Tensor:
        x = _over_time(self.temporal, self.resize(x), frames)
        x = self.spatial(self.first(torch.cat([x, temporal], dim=1), step))
        return self.second(torch.cat([x, spatial], dim=1), step)


class MiddleLevel(nn.Module):
    """Attention over all cells, then over time, between residual blocks. x (b t, c, y, x) -> same."""

    def __init__(self, width: int, step_width: int, *, temporal: bool, **attention: int) -> None:
        super().__init__()
        self.first = ResidualBlock(width, width, step_width)
        self.spatial = SpatialAttention(width, **attention)
        self.second = ResidualBlock(width, width, step_width)
        self.temporal = TemporalAttention(width, **attention) if temporal else None
        self.third = ResidualBlock(width, width, step_width)

    def forward(self, x: Tensor, step: Tensor, frames: int) -> Tensor:
        x = self.second(self.spatial(self.first(x, step)), step)
        return self.third(_over_time(self.temporal, x, frames), step)


class Denoiser(nn.Module):
    """The velocity of latent frames. z (b, t, c, y, x), step (b,) or (1,), `condition_levels` or None -> like z.

    Parameters
    ----------
    latent : int
        Channels of the latent frames and of the condition.
    base : int
        Width that the multipliers multiply.
    multipliers : sequence of int
        One per level.
    heads, head_width : int
        Of every attention.
    patch : int
        Cells along y and x of a patch of the first level's attention over space; half of it at each further level.
    temporal : bool
        False leaves out all attention over time: every frame is enhanced by itself (section 4.3.3 of the paper).
    norm_over : {"channels", "time"}
        See `xnowcast.nn.attention.TemporalAttention`.
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
        attention = {"heads": heads, "head_width": head_width, "temporal": temporal}
        self.time = StepEmbedding(SinusoidalEmbedding(base), base, step_width)
        # The published code has one convolution more, whose output nothing reads.
        self.pyramid = nn.ModuleList(strided_down(widths[n], widths[n + 1]) for n in levels[:-1])
        self.down = nn.ModuleList(
            DownLevel(widths[n], widths[n + 1], step_width, last=n == levels[-1], patch=patch >> n, **attention)
            for n in levels
        )
        self.middle = MiddleLevel(widths[-1], step_width, **attention)
        self.up = nn.ModuleList(
            UpLevel(widths[n + 1], widths[n], step_width, first=n == levels[-1], patch=patch >> n, **attention)
            for n in reversed(levels)
        )
        for module in self.modules():
            if isinstance(module, TemporalAttention):
                module.norm_over = norm_over

    def condition_levels(self, condition: Tensor) -> list[Tensor]:
        """The condition (b, t, c, y, x) at every level of the U-Net, (b t, ...) each: the same at all steps."""
        levels = [rearrange(condition, "b t c y x -> (b t) c y x")]
        for resize in self.pyramid:
            levels.append(resize(levels[-1]))
        return levels

    def forward(self, z: Tensor, step: Tensor, condition: Sequence[Tensor] | None) -> Tensor:
        frames = z.shape[1]
        embedding = self.time(step.to(z.dtype))
        if len(embedding) > 1:  # one step per sample: all frames of a sample share it
            embedding = embedding.repeat_interleave(frames, dim=0)
        x = rearrange(z, "b t c y x -> (b t) c y x").contiguous(memory_format=torch.channels_last)
        skips = []
        for n, down in enumerate(self.down):
            # without a condition there are zeros at every level, which a convolution of zeros would not give
            given = torch.zeros_like(x) if condition is None else condition[n]
            x, spatial, temporal = down(x, given, embedding, frames)
            skips.append((spatial, temporal))
        x = self.middle(x, embedding, frames)
        for up in self.up:
            x = up(x, *skips.pop(), embedding, frames)
        return rearrange(x, "(b t) c y x -> b t c y x", t=frames)


def _over_time(attention: nn.Module | None, x: Tensor, frames: int) -> Tensor:
    return x if attention is None else attention(x, frames)
