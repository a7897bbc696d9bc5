"""Earthformer, the network: frames ahead from frames, by cuboid attention on two scales (Gao et al. 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from xnowcast.nn.cuboid_attention import CuboidBlock, FeedForward, FrameCrossAttention, Padding, Vectors
from xnowcast.nn.cuboids import PATTERNS
from xnowcast.nn.patch_merge import NearestTo, PatchMerge, channels_last, frames_first
from xnowcast.nn.position_tables import PositionTables

Level = tuple[str, int]
"""The pattern of a level's blocks, one of `PATTERNS`, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """All that makes the network; the defaults are those of the paper for SEVIR.

    Attributes
    ----------
    input_frames, target_frames : int
        Frames that it reads and makes.
    grid : (int, int)
        Rows and columns of the frames that its tables are for.
    channels : int
        Of frames.
    widths, factors, convolutions : tuple of int
        Stages before the attention: channels, how many times coarser each makes the grid, and 3 x 3 convolutions.
    encoder, decoder : tuple of (str, int)
        The levels from the finest, each twice as wide and half as fine as the one before.
    heads : int
        Of all attention.
    vectors : int
        Vectors that all cells attend to; 0 is none.
    vector_projections : {"own", "shared"}
        See `xnowcast.nn.cuboid_attention.Vectors`.
    vector_feed_forward, vectors_in_decoder : bool
        Whether vectors have feed-forward layers, and whether the decoder knows them.
    by_cell : bool
        Positions as a table for time and one for cells, instead of three for time, y and x.
    positions_by_level : bool
        Whether they are added on each finer level of the decoder as well.
    start : {"zeros", "newest"}
        What the decoder begins with: positions alone, or the newest frame of the memory, without positions.
    first_self_attention : bool
        Whether the decoder begins with attention within what it has, before it looks at the memory.
    gated : bool
        Of feed-forward layers.
    padding : {"zeros", "ignore"}
        See `xnowcast.nn.cuboid_attention.Padding`.
    dropout : float
        In training, after attention weights, projections and feed-forward layers.
    published : bool
        See `xnowcast.nn.cuboid_attention.CuboidAttention`.
    """

    input_frames: int = 13
    target_frames: int = 12
    grid: tuple[int, int] = (384, 384)
    channels: int = 1
    widths: tuple[int, ...] = (16, 64, 128)
    factors: tuple[int, ...] = (3, 2, 2)
    convolutions: tuple[int, ...] = (2, 2, 2)
    encoder: tuple[Level, ...] = (("axial", 1), ("axial", 1))
    decoder: tuple[Level, ...] = (("axial", 1), ("axial", 1))
    heads: int = 4
    vectors: int = 8
    vector_projections: Vectors = "own"
    vector_feed_forward: bool = False
    vectors_in_decoder: bool = False
    by_cell: bool = False
    positions_by_level: bool = False
    start: Literal["zeros", "newest"] = "zeros"
    first_self_attention: bool = False
    gated: bool = False
    padding: Padding = "zeros"
    dropout: float = 0.1
    published: bool = False

    @property
    def level_grids(self) -> list[tuple[int, int]]:
        """Rows and columns of each level of the attention, the finest first.

        >>> Form().level_grids
        [(32, 32), (16, 16)]
        """
        grid = self.grid
        for factor in self.factors:
            grid = coarser(grid, factor)
        grids = [grid]
        for _ in self.encoder[1:]:
            grids.append(coarser(grids[-1], 2))
        return grids

    @property
    def level_widths(self) -> list[int]:
        """Channels of each of them."""
        return [self.widths[-1] * 2**level for level in range(len(self.encoder))]

    def block(self, pattern: str, level: int, vectors: Vectors | None) -> CuboidBlock:
        """A block of attention; also of the decoder, whose frames are fewer, the cuboids are as for those read."""
        cuboids = PATTERNS[pattern]((self.input_frames, *self.level_grids[level]))
        return CuboidBlock(
            self.level_widths[level],
            self.heads,
            cuboids,
            vectors=vectors,
            vector_feed_forward=self.vector_feed_forward and vectors is not None,
            gated=self.gated,
            padding=self.padding,
            dropout=self.dropout,
            published=self.published,
        )

    def positions(self, frames: int, level: int) -> PositionTables:
        """Of the maps of a level."""
        return PositionTables((frames, *self.level_grids[level]), self.level_widths[level], by_cell=self.by_cell)


def coarser(grid: tuple[int, int], factor: int) -> tuple[int, int]:
    """Rows and columns after squares of cells became one each."""
    return -(-grid[0] // factor), -(-grid[1] // factor)


class EarthformerNetwork(nn.Module):
    """Frames ``(b, input_frames, c, y, x)`` to those that follow, ``(b, target_frames, c, y, x)``.

    Convolutions make the frames coarser. The encoder attends within cuboids of all times on two scales; the decoder
    begins with the coarser one from nothing but positions, looks up in each cell what the encoder saw there, and goes
    on so on the finer one, from where convolutions lead back to the grid.

    Frames may have fewer rows and columns than the grid that it was made for; more is an error.

    >>> form = Form(input_frames=3, target_frames=2, grid=(24, 32), widths=(4, 8), factors=(2, 2), convolutions=(1, 1))
    >>> EarthformerNetwork(form)(torch.rand(1, 3, 1, 24, 32)).shape
    torch.Size([1, 2, 1, 24, 32])
    """

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.stem = Stem(form)
        self.positions = form.positions(form.input_frames, 0)
        vectors = torch.empty(form.vectors, form.widths[-1])
        self.vectors = nn.Parameter(nn.init.trunc_normal_(vectors, std=0.02)) if form.vectors else None
        self.encoder = Encoder(form)
        self.start_positions = form.positions(form.target_frames, -1) if form.start == "zeros" else None
        self.start = nn.Linear(form.level_widths[-1], form.level_widths[-1])
        self.decoder = Decoder(form)
        self.tail = Tail(form)
        self.out = nn.Linear(form.widths[0], form.channels)

    def forward(self, frames: Tensor) -> Tensor:
        ny, nx = frames.shape[-2:]
        if ny > self.form.grid[0] or nx > self.form.grid[1]:
            raise ValueError(f"frames have {ny} x {nx} cells: the network is made for up to {self.form.grid}")
        x, grids = self.stem(frames.movedim(2, -1))
        vectors = None if self.vectors is None else self.vectors.expand(len(x), -1, -1)
        memory = self.encoder(self.positions(x), vectors)
        x = self.decoder(self._started(memory[-1][0]), memory)
        return self.out(self.tail(x, grids)).movedim(-1, 2)

    def _started(self, memory: Tensor) -> Tensor:
        """What the decoder begins with, on the coarsest level: ``(b, target_frames, y, x, c)``."""
        frames = self.form.target_frames
        if self.start_positions is None:
            return self.start(memory[:, -1:].expand(-1, frames, -1, -1, -1))
        nothing = memory.new_zeros(1, frames, *memory.shape[2:])
        return self.start(self.start_positions(nothing)).expand(len(memory), -1, -1, -1, -1)


class Convolutions(nn.Sequential):
    """So many 3 x 3 convolutions, each with a group norm and a leaky ReLU. (b, t, y, x, c) -> (b, t, y, x, out)."""

    def __init__(self, width_in: int, width_out: int, count: int) -> None:
        layers: list[nn.Module] = []
        for number in range(count):
            layers += [
                nn.Conv2d(width_out if number else width_in, width_out, 3, padding=1),
                nn.GroupNorm(max(1, width_out // 4), width_out),
                nn.LeakyReLU(0.1),
            ]
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(super().forward(frames_first(x)), len(x))


class Stem(nn.Module):
    """Stages that make frames ``(b, t, y, x, c)`` coarser; also the grids that they come from, the finest first."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        widths = (form.channels, *form.widths)
        self.convolutions = nn.ModuleList(
            Convolutions(width_in, width_out, count)
            for width_in, width_out, count in zip(widths, form.widths, form.convolutions, strict=False)
        )
        self.merges = nn.ModuleList(
            PatchMerge(width, width, factor) for width, factor in zip(form.widths, form.factors, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
        grids = []
        for convolutions, merge in zip(self.convolutions, self.merges, strict=True):
            grids.append((x.shape[2], x.shape[3]))
            x = merge(convolutions(x))
        return x, grids


class Tail(nn.Module):
    """The way back of `Stem`: each stage goes to the next finer grid and has its width and convolutions."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        widths = form.widths[::-1]
        before = (widths[0], *widths)
        self.ups = nn.ModuleList(NearestTo(width, width) for width in before[:-1])
        self.convolutions = nn.ModuleList(
            Convolutions(width_in, width_out, count)
            for width_in, width_out, count in zip(before, widths, form.convolutions[::-1], strict=False)
        )

    def forward(self, x: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
        for up, convolutions, grid in zip(self.ups, self.convolutions, reversed(grids), strict=True):
            x = convolutions(up(x, grid))
        return x


class Encoder(nn.Module):
    """Maps and vectors (or None) of each level, the finest first, as the decoder looks them up."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        vectors = form.vector_projections if form.vectors else None
        self.levels = nn.ModuleList(
            Blocks(form.block(pattern, level, vectors) for _ in range(depth))
            for level, (pattern, depth) in enumerate(form.encoder)
        )
        steps = list(zip(form.level_widths, form.level_widths[1:], strict=False))
        self.merges = nn.ModuleList(PatchMerge(width_in, width_out, 2) for width_in, width_out in steps)
        self.widen = nn.ModuleList(nn.Linear(*step) for step in steps if form.vectors)

    def forward(self, x: Tensor, vectors: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        memory = []
        for level, blocks in enumerate(self.levels):
            if level:
                x = self.merges[level - 1](x)
                vectors = None if vectors is None else self.widen[level - 1](vectors)
            x, vectors = blocks(x, vectors)
            memory.append((x, vectors))
        return memory


class Blocks(nn.ModuleList):
    """One after the other. Maps and vectors -> same."""

    def forward(self, x: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for block in self:
            x, vectors = block(x, vectors)
        return x, vectors


class Decoder(nn.Module):
    """What begins on the coarsest level to the finest, where it looks up in each cell what the encoder saw there."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        vectors = form.vector_projections if form.vectors and form.vectors_in_decoder else None
        self.with_vectors = vectors is not None
        self.levels = nn.ModuleList(DecoderLevel(form, level, vectors) for level in range(len(form.decoder)))
        finer = list(zip(form.level_widths[1:], form.level_widths, strict=False))
        self.ups = nn.ModuleList(NearestTo(width_in, width_out) for width_in, width_out in finer)
        self.positions = nn.ModuleList(
            form.positions(form.target_frames, level) for level in range(len(finer)) if form.positions_by_level
        )

    def forward(self, x: Tensor, memory: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        for level in reversed(range(len(self.levels))):
            known, vectors = memory[level]
            if level < len(self.levels) - 1:
                x = self.ups[level](x, (known.shape[2], known.shape[3]))
                x = self.positions[level](x) if len(self.positions) else x
            x = self.levels[level](x, known, vectors if self.with_vectors else None)
        return x


class DecoderLevel(nn.Module):
    """Rounds of attention within the frames to come and to the memory. x, memory (b, ., y, x, c), vectors -> x."""

    def __init__(self, form: Form, level: int, vectors: Vectors | None) -> None:
        super().__init__()
        pattern, depth = form.decoder[level]
        coarsest = level == len(form.decoder) - 1
        within = depth - 1 if coarsest and not form.first_self_attention else depth
        width = form.level_widths[level]
        self.within = nn.ModuleList(form.block(pattern, level, vectors) for _ in range(within))
        self.across = nn.ModuleList(CrossBlock(form, width, vectors) for _ in range(depth))

    def forward(self, x: Tensor, memory: Tensor, vectors: Tensor | None) -> Tensor:
        first = len(self.across) - len(self.within)  # rounds that only look at the memory
        for number, across in enumerate(self.across):
            if number >= first:
                x, vectors = self.within[number - first](x, vectors)
            x = across(x, memory, vectors)
        return x


class CrossBlock(nn.Module):
    """Attention to a memory and a feed-forward layer."""

    def __init__(self, form: Form, width: int, vectors: Vectors | None) -> None:
        super().__init__()
        frames = form.input_frames, form.target_frames
        self.attention = FrameCrossAttention(width, form.heads, frames, vectors=vectors, dropout=form.dropout)
        self.feed_forward = FeedForward(width, gated=form.gated, dropout=form.dropout)

    def forward(self, x: Tensor, memory: Tensor, vectors: Tensor | None) -> Tensor:
        return self.feed_forward(x + self.attention(x, memory, vectors))
