"""The U-Net of guided diffusion: what noise is there in an image, and at which step (Dhariwal and Nichol 2021)."""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from xnowcast.nn.embedding import SinusoidalEmbedding, Sinusoids

Resize = Callable[[Tensor], Tensor]
Layer = TypeVar("Layer", bound=nn.Module)


def halved(x: Tensor) -> Tensor:
    """Mean of each 2 x 2 cells. (b, c, y, x) -> (b, c, y / 2, x / 2)."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Each cell to 2 x 2 of the same value. (b, c, y, x) -> (b, c, 2 y, 2 x)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class CellMap(nn.Linear):
    """1 x 1 convolution that leaves the channels together in memory. (b, c, y, x) -> (b, out, y, x)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class PreActivationBlock(nn.Module):
    """Norm, SiLU and convolution, twice, beside a shortcut; the step scales and shifts the second norm where there is
    one.

    x (b, c, y, x), step (b or 1, step_width) -> (b, out, y, x), or twice or half of that grid with ``resize``, which
    acts on the shortcut and after the first SiLU. ``silent``: the last convolution begins at 0, and the block as its
    shortcut.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        step_width: int | None = None,
        *,
        groups: int,
        eps: float = 1e-5,
        resize: Resize | None = None,
        silent: bool = True,
    ) -> None:
        super().__init__()
        self.resize = resize
        self.norm_in = nn.GroupNorm(groups, width_in, eps)
        self.convolution = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.modulation = nn.Linear(step_width, 2 * width_out) if step_width else None
        self.norm_out = nn.GroupNorm(groups, width_out, eps)
        self.out = nn.Conv2d(width_out, width_out, 3, padding=1)
        if silent:
            zeroed(self.out)
        self.shortcut = CellMap(width_in, width_out) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, step: Tensor | None = None) -> Tensor:
        hidden = F.silu(self.norm_in(x))
        if self.resize is not None:
            x, hidden = self.resize(x), self.resize(hidden)
        hidden = self.norm_out(self.convolution(hidden))
        if self.modulation is not None:
            scale, shift = self.modulation(step)[..., None, None].chunk(2, dim=1)
            hidden = torch.addcmul(shift, hidden, scale + 1)
        return self.shortcut(x) + self.out(F.silu(hidden))


class CellAttention(nn.Module):
    """Softmax attention over all cells beside a shortcut. (b, c, y, x) -> same.

    ``silent``: the last map begins at 0.
    """

    def __init__(self, width: int, *, head_width: int, groups: int, eps: float = 1e-5, silent: bool = True) -> None:
        super().__init__()
        self.heads = max(1, width // head_width)
        self.norm = nn.GroupNorm(groups, width, eps)
        self.qkv = CellMap(width, 3 * width)
        self.out = CellMap(width, width)
        if silent:
            zeroed(self.out)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (three e d) y x -> three b e (y x) d", three=3, e=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(attended, "b e (y x) d -> b (e d) y x", y=x.shape[-2]))


class Stage(nn.Module):
    """A residual block, and attention where there is some. x (b, c, y, x), step (b or 1, w) -> (b, out, y, x)."""

    def __init__(self, block: PreActivationBlock, attention: CellAttention | None = None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        x = self.block(x, step)
        return x if self.attention is None else self.attention(x)


class UpLevel(nn.Module):
    """Stages that are each given what the way down left, then twice the grid. x (b, c, y, x) -> (b, out, ...)."""

    def __init__(self, stages: Sequence[Stage], doubling: Stage | None) -> None:
        super().__init__()
        self.stages, self.doubling = nn.ModuleList(stages), doubling

    def forward(self, x: Tensor, skips: list[Tensor], step: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(torch.cat([x, skips.pop()], dim=1), step)
        return x if self.doubling is None else self.doubling(x, step)


class GuidedUNet(nn.Module):
    """The noise in x. x (b, channels, y, x), steps (b,) or (1,) -> like x; grids are multiples of ``multiple``.

    The variance is not learnt, so there are as many channels out as in. With the defaults it is the network that was
    trained on ImageNet at 256 x 256, for one channel.

    ``base``: width that the multipliers multiply. ``multipliers``: one per level; each further level has half the grid.
    ``blocks``: residual blocks per level on the way down; on the way up there is one more. ``attention``: how far the
    grid is reduced where there is attention after every block; there is always some in the middle. ``head_width``:
    channels of a head. ``groups``: of every group norm. ``step_embedding``: see `SinusoidalEmbedding`.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        base: int = 256,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4, 4),
        blocks: int = 2,
        attention: Collection[int] = (8, 16, 32),
        head_width: int = 64,
        groups: int = 32,
        step_embedding: Sinusoids = "guided-diffusion",
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (len(multipliers) - 1)
        step_width = 4 * base
        self.embedding = nn.Sequential(
            SinusoidalEmbedding(base, step_embedding),
            nn.Linear(base, step_width),
            nn.SiLU(),
            nn.Linear(step_width, step_width),
            nn.SiLU(),
        )

        def block(width_in: int, width_out: int, resize: Resize | None = None) -> PreActivationBlock:
            return PreActivationBlock(width_in, width_out, step_width, groups=groups, resize=resize)

        def stage(width_in: int, width_out: int, level: int | None) -> Stage:
            attends = level is None or 2**level in attention
            look = CellAttention(width_out, head_width=head_width, groups=groups) if attends else None
            return Stage(block(width_in, width_out), look)

        width = base * multipliers[0]
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down, skips = nn.ModuleList(), [width]
        for level, multiplier in enumerate(multipliers):
            if level > 0:
                self.down.append(Stage(block(width, width, halved)))
                skips.append(width)
            for _ in range(blocks):
                self.down.append(stage(width, base * multiplier, level))
                width = base * multiplier
                skips.append(width)
        self.middle = nn.ModuleList([stage(width, width, None), Stage(block(width, width))])
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            stages = []
            for _ in range(blocks + 1):
                stages.append(stage(width + skips.pop(), base * multiplier, level))
                width = base * multiplier
            self.up.append(UpLevel(stages, Stage(block(width, width, doubled)) if level > 0 else None))
        self.leave = nn.Sequential(
            nn.GroupNorm(groups, width), nn.SiLU(), zeroed(nn.Conv2d(width, channels, 3, padding=1))
        )

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        if x.shape[-2] % self.multiple or x.shape[-1] % self.multiple:
            raise ValueError(
                f"the grid has {x.shape[-2]} x {x.shape[-1]} cells: pad it to multiples of {self.multiple}"
            )
        step = self.embedding(steps)
        x = self.enter(x.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for stage in self.down:
            x = stage(x, step)
            skips.append(x)
        for stage in self.middle:
            x = stage(x, step)
        for up in self.up:
            x = up(x, skips, step)
        return self.leave(x).contiguous()


def zeroed(layer: Layer) -> Layer:
    """The layer with all its numbers set to 0: a residual block that ends with it begins as its shortcut."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
