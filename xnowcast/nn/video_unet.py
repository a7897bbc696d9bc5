"""The two U-Nets of STVD: the downscaler makes a first estimate of all frames, the denoiser what is missing from it.

With ``frame_wise=True`` the denoiser is that of Swin-IR-Diff (appendix A.2).

Srivastava et al. (2024), figures 5 and 6 and appendix A.1; where attention over time stands follows the published code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from xnowcast.nn.attention import LinearSpatialAttention, SpatialAttention, TemporalAttention
from xnowcast.nn.blocks import NearestUp, ResidualBlock, SpaceToDepth, filters
from xnowcast.nn.embedding import FourierEmbedding, StepEmbedding

PATCHES = 2
"""Along y and along x, at every level: patches of 192 cells on the paper's grid of 384, halving with it."""

FREQUENCIES = 16
"""Of the step's random Fourier features; their sines and cosines are the paper's 32."""

Context = list[Tensor]
"""What the downscaler hands on: two maps per level of its way down, and two of its middle."""


class Share(NamedTuple):
    """What the second half of a block's input adds to its first convolution and to its shortcut."""

    hidden: Tensor
    shortcut: Tensor


class Condition(NamedTuple):
    """All that is the same at every step of a sampler: see `Denoiser.project`."""

    first: Tensor
    blocks: list[Share]


@dataclass(frozen=True)
class Shape:
    """What both networks have in common.

    ``base`` is what the multipliers, one a level, multiply; heads and their width are those of every attention.
    ``kernel``: cells along y and x that queries, keys and values are made of, in every attention. ``whole_map``: linear
    attention over space sees all cells, and not those of its patch. ``published``: so it does, and what linear
    attention finds is divided by the cells of the map, as in the authors' code.
    """

    base: int = 64
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 3, 4)
    heads: int = 4
    head_width: int = 32
    kernel: int = 1
    whole_map: bool = False
    published: bool = False

    @property
    def patches(self) -> int:
        """Along y and along x."""
        return 1 if self.whole_map or self.published else PATCHES

    @property
    def widths(self) -> list[int]:
        """Width before the first level and after each."""
        return [self.base, *(self.base * multiplier for multiplier in self.multipliers)]

    @property
    def multiple(self) -> int:
        """What the fine grid has to be a multiple of: halved at all levels but the last, and then cut into patches."""
        return self.patches * 2 ** (len(self.multipliers) - 1)

    def over_patches(self, width: int) -> LinearSpatialAttention:
        return LinearSpatialAttention(width, patches=self.patches, averaged=self.published, **self._of_all)

    def over_space(self, width: int) -> SpatialAttention:
        return SpatialAttention(width, **self._of_all)

    def over_time(self, width: int, *, linear: bool, whole_map: bool) -> TemporalAttention:
        return TemporalAttention(width, linear=linear, whole_map=whole_map, averaged=self.published, **self._of_all)

    @property
    def _of_all(self) -> dict[str, Any]:
        """What every attention is built with."""
        return {"heads": self.heads, "head_width": self.head_width, "kernel": self.kernel}


# ---------------------------------------------------------------- parts


class ConditionedBlock(ResidualBlock):
    """Residual block on its own features beside a map of the downscaler. x (m b, c, y, x), share of b -> x.

    A convolution is linear in its inputs, so the share of the map, the same at all steps, is computed once.
    """

    shortcut: nn.Conv2d

    def __init__(self, width: int, step_width: int) -> None:
        super().__init__(2 * width, width, step_width, standardized=True)
        self.width = width

    def project(self, context: Tensor) -> Share:
        """What a map (b, c, y, x) of the downscaler adds."""
        kernel, point = filters(self.first.convolution)[:, self.width :], self.shortcut.weight[:, self.width :]
        return Share(F.conv2d(context, kernel, padding=1), F.conv2d(context, point))

    def forward(self, x: Tensor, step: Tensor | None = None, share: Share | None = None) -> Tensor:
        if share is None:
            raise ValueError("this residual block was built for a downscaler's map, and got none")
        first = self.first.convolution
        hidden = F.conv2d(x, filters(first)[:, : self.width], first.bias, padding=1)
        shortcut = F.conv2d(x, self.shortcut.weight[:, : self.width], self.shortcut.bias)
        hidden, shortcut = _added(hidden, share.hidden), _added(shortcut, share.shortcut)
        return shortcut + self.second(self.first.activate(hidden, *self._scale_and_shift(step)))


def _added(x: Tensor, share: Tensor) -> Tensor:
    """(m b, c, y, x) and (b, c, y, x) -> (m b, c, y, x): members have one share."""
    return x + share if len(x) == len(share) else (x.unflatten(0, (-1, len(share))) + share).flatten(0, 1)


def _block(width_in: int, width_out: int, step_width: int | None) -> ResidualBlock:
    return ResidualBlock(width_in, width_out, step_width, standardized=True)


def _reader(width: int, step_width: int | None, reads_maps: bool) -> ResidualBlock:
    """A block of the way down or of the middle; of the denoiser it reads maps of the downscaler."""
    if reads_maps and step_width is not None:
        return ConditionedBlock(width, step_width)
    return _block(width, width, step_width)


def _refined(block: ResidualBlock, x: Tensor, step: Tensor | None, share: Share | None) -> Tensor:
    return block(x, step, share) if isinstance(block, ConditionedBlock) else block(x, step)


def _over_time(attention: nn.Module | None, x: Tensor, frames: int) -> Tensor:
    return x if attention is None else attention(x, frames)


class DownLevel(nn.Module):
    """Attention over space, then over time, half the grid. x (b t, c, y, x) -> (b t, out, y / 2, x / 2)."""

    def __init__(
        self,
        width: int,
        width_out: int,
        step_width: int | None,
        shape: Shape,
        *,
        reads_maps: bool,
        temporal: bool,
        last: bool,
    ) -> None:
        super().__init__()
        blocks = [_reader(width, step_width, reads_maps) for _ in range(2)]
        self.first, self.spatial = blocks[0], shape.over_patches(width)
        self.second = blocks[1]
        self.temporal = shape.over_time(width, linear=True, whole_map=last) if temporal else None
        self.resize = nn.Conv2d(width, width_out, 3, padding=1) if last else SpaceToDepth(width, width_out)

    def forward(
        self, x: Tensor, frames: int, step: Tensor | None = None, shares: Sequence[Share | None] = (None, None)
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Also the maps for the way up and the denoiser: after the attention over space, and after that over time."""
        spatial = self.spatial(_refined(self.first, x, step, shares[0]))
        temporal = _over_time(self.temporal, _refined(self.second, spatial, step, shares[1]), frames)
        return self.resize(temporal), spatial, temporal


class MiddleLevel(nn.Module):
    """Attention over all cells, then over time, between residual blocks. x (b t, c, y, x) -> same."""

    def __init__(self, width: int, step_width: int | None, shape: Shape, *, reads_maps: bool, temporal: bool) -> None:
        super().__init__()
        blocks = [_reader(width, step_width, reads_maps) for _ in range(2)]
        self.first, self.spatial = blocks[0], shape.over_space(width)
        self.second = blocks[1]
        self.temporal = shape.over_time(width, linear=False, whole_map=True) if temporal else None
        self.third = _block(width, width, step_width)

    def forward(
        self, x: Tensor, frames: int, step: Tensor | None = None, shares: Sequence[Share | None] = (None, None)
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Also the maps after the attention over space and after that over time."""
        spatial = self.spatial(_refined(self.first, x, step, shares[0]))
        temporal = _over_time(self.temporal, _refined(self.second, spatial, step, shares[1]), frames)
        return self.third(temporal, step), spatial, temporal


class UpLevel(nn.Module):
    """Attention over space, then over time, twice the grid. x (b t, c, y, x) -> (b t, out, 2 y, 2 x)."""

    def __init__(
        self,
        width: int,
        width_out: int,
        step_width: int | None,
        shape: Shape,
        *,
        temporal: bool,
        first: bool,
        last: bool,
    ) -> None:
        super().__init__()
        self.first, self.spatial = _block(width + width_out, width, step_width), shape.over_patches(width)
        self.second = _block(width + width_out, width, step_width)
        self.temporal = shape.over_time(width, linear=True, whole_map=first) if temporal else None
        self.resize = nn.Conv2d(width, width_out, 3, padding=1) if last else NearestUp(width, width_out)

    def forward(self, x: Tensor, spatial: Tensor, temporal: Tensor, frames: int, step: Tensor | None = None) -> Tensor:
        x = self.spatial(self.first(torch.cat([x, temporal], dim=1), step))
        x = self.second(torch.cat([x, spatial], dim=1), step)
        return self.resize(_over_time(self.temporal, x, frames))


# ---------------------------------------------------------------- networks


class _UNet(nn.Module):
    """What both networks are made of.

    ``down_time``, ``up_time`` and ``middle_time``: at which levels is there attention over time? ``reads_maps``: do
    blocks of the way down and the middle read maps of the downscaler?
    """

    def __init__(
        self,
        channels: int,
        shape: Shape,
        step_width: int | None,
        down_time: Sequence[bool],
        up_time: Sequence[bool],
        *,
        middle_time: bool = True,
        reads_maps: bool = False,
    ) -> None:
        super().__init__()
        widths = shape.widths
        last = len(widths) - 2
        self.init = nn.Conv2d(channels, widths[0], 7, padding=3)
        self.down = nn.ModuleList(
            DownLevel(
                widths[n],
                widths[n + 1],
                step_width,
                shape,
                reads_maps=reads_maps,
                temporal=down_time[n],
                last=n == last,
            )
            for n in range(last + 1)
        )
        self.middle = MiddleLevel(widths[-1], step_width, shape, reads_maps=reads_maps, temporal=middle_time)
        self.up = nn.ModuleList(
            UpLevel(widths[n + 1], widths[n], step_width, shape, temporal=up_time[n], first=n == last, last=n == 0)
            for n in range(last, -1, -1)
        )
        self.final = _block(2 * widths[0], widths[0], step_width)
        self.read = nn.Conv2d(widths[0], 1, 1)

    def _run(
        self, x: Tensor, frames: int, step: Tensor | None = None, shares: Sequence[Share] | None = None
    ) -> tuple[Tensor, Context]:
        """What `init` made of the input, (b t, c, y, x), to (b t, 1, y, x) and the maps of the way down and middle."""
        start, context = x, []
        pairs = _pairs(shares, len(self.down) + 1)
        for down in self.down:
            x, spatial, temporal = down(x, frames, step, next(pairs))
            context += [spatial, temporal]
        skips = list(context)
        x, spatial, temporal = self.middle(x, frames, step, next(pairs))
        context += [spatial, temporal]
        for up in self.up:
            temporal, spatial = skips.pop(), skips.pop()
            x = up(x, spatial, temporal, frames, step)
        return self.read(self.final(torch.cat([x, start], dim=1), step)), context


def _pairs(shares: Sequence[Share] | None, count: int) -> Iterator[Sequence[Share | None]]:
    """The two shares of each level."""
    return iter([shares[2 * n : 2 * n + 2] if shares else (None, None) for n in range(count)])


class Downscaler(_UNet):
    """First estimate of fine frames (equation 1). x (b, t, c, y, x) -> estimate (b, t, 1, y, x), context."""

    def __init__(self, channels: int, shape: Shape) -> None:
        last = len(shape.multipliers) - 1
        levels = range(last + 1)
        super().__init__(channels, shape, None, [n > 0 for n in levels], [n == last for n in levels])

    def forward(self, x: Tensor) -> tuple[Tensor, Context]:
        estimate, context = self._run(self.init(_maps(x)), x.shape[1])
        return estimate.unflatten(0, x.shape[:2]), context


class Denoiser(_UNet):
    """The velocity of the residual. r (m b, t, 1, y, x), step, what `project` made of b conditions -> v, as r.

    ``step`` is the share of the schedule that is done, or what else the network has learnt steps by: (m b,), one for
    each frame (m b, t), or (1,) for all. ``frame_wise``: no attention over time, and no maps of a downscaler.
    """

    def __init__(self, channels: int, shape: Shape, *, frame_wise: bool = False) -> None:
        last, over_time = len(shape.multipliers) - 1, not frame_wise
        levels, step_width = range(last + 1), 4 * shape.base
        super().__init__(
            channels + 2,
            shape,
            step_width,
            [over_time and n == last for n in levels],
            [over_time and n > 0 for n in levels],
            middle_time=over_time,
            reads_maps=over_time,
        )
        self.reads_maps = over_time
        self.time = StepEmbedding(FourierEmbedding(FREQUENCIES), 2 * FREQUENCIES + 1, step_width)

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters."""
        return self.read.weight.dtype

    def project(self, x: Tensor, estimate: Tensor, context: Context) -> Condition:
        """What the input, the estimate and the downscaler's maps add at every step.

        ``x`` is what the downscaler read, ``(b, t, c, y, x)``, with its estimate, ``(b, t, 1, y, x)``, and context.
        """
        given = _maps(torch.cat([estimate, x], dim=2))
        first = F.conv2d(given, self.init.weight[:, 1:], self.init.bias, padding=3)
        levels = [*self.down, self.middle] if self.reads_maps else []
        blocks = [block for level in levels for block in (level.first, level.second)]
        return Condition(first, [block.project(part) for block, part in zip(blocks, context, strict=True)])

    def forward(self, r: Tensor, step: Tensor, condition: Condition) -> Tensor:
        frames = r.shape[1]
        embedding = self.time(step.flatten())
        if len(embedding) > 1 and step.ndim == 1:  # one step per sample, which all of its frames share
            embedding = embedding.repeat_interleave(frames, dim=0)
        x = _added(F.conv2d(_maps(r), self.init.weight[:, :1], padding=3), condition.first)
        velocity, _ = self._run(x, frames, embedding, condition.blocks)
        return velocity.unflatten(0, r.shape[:2])


def _maps(frames: Tensor) -> Tensor:
    """Frames as a batch of maps, channels together in memory."""
    return rearrange(frames, "b t c y x -> (b t) c y x").contiguous(memory_format=torch.channels_last)
