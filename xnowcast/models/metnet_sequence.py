"""KoMet's MetNet: a post-processor that reads several lead times, one after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast.models.declaration import option
from xnowcast.models.rain_classes import RainClassifier, RainClassOptions
from xnowcast.nn.positional_attention import PositionalBlock
from xnowcast.nn.sequence_norm import SequenceNorm


@dataclass(frozen=True)
class Shape:
    """Sizes: channels of the first convolution, layers of the ConvLSTM, blocks of axial attention and their groups."""

    width: int = 16
    layers: int = 3
    blocks: int = 2
    groups: int = 16


SIZES = {"full": Shape(), "tiny": Shape(4, 1, 1, 4)}


@dataclass(frozen=True, kw_only=True)
class NwpMetNetSequenceOptions(RainClassOptions):
    size: str = option("full", 'Of the network; "full" is the published one.', choices=SIZES)
    lead_offsets: Sequence[int] = option(
        (-2, -1, 0),
        "Lead times that are read to correct one, in steps from that one, which is 0. Those for which one of them is "
        "missing are not corrected.",
    )
    grid: Sequence[int] = option(
        (50, 65),
        "Cells along y and x whose places are learnt, by default the published ones; on other grids the weights of "
        "places are interpolated, and distances beyond are taken for the farthest.",
    )
    batch_statistics: bool = option(
        False,
        "Whether norms take the statistics of the batch when it post-processes, too, as the published code does. What "
        "it says of a field then depends on those beside it, but with batch_size=1.",
    )
    multiple = 1

    def check(self) -> None:
        super().check()
        if len(self.lead_offsets) < 2:
            raise ValueError(f"lead_offsets is {list(self.lead_offsets)}: give two or more; 'nwp-metnet' reads one")
        if len(self.grid) != 2 or min(self.grid) < 2:
            raise ValueError(f"grid is {list(self.grid)}: give two numbers of cells, along y and along x")

    @property
    def lead_times(self) -> tuple[int, ...]:
        return tuple(self.lead_offsets)


class NwpMetNetSequence(RainClassifier[NwpMetNetSequenceOptions]):
    """KoMet's MetNet: lead times downsampled, read one after another by ConvLSTMs, axial attention, rain classes.

    The network that An et al. (2023) compare with, as its code has it: with the published weights and
    ``batch_statistics=True`` it says the same. By default norms keep statistics of the training, for each lead time
    apart. What it learns, continuous labels and weights of the classes, is that of the other post-processors.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    Kim et al. (2022), Benchmark dataset for precipitation forecasting by post-processing the numerical weather
    prediction, arXiv:2206.15241

    Examples
    --------
    >>> model = NwpMetNetSequence(size="tiny").eval()
    >>> model.set_channel_statistics(*torch.tensor([0.0, 1.0, -3.0, 3.0]).expand(16, 4).unbind(1))
    >>> fields = torch.randn(1, 3, 16, 18, 16)
    >>> model.postprocess(fields, fields[:, -1, :1] < 9).sum(dim=1).allclose(torch.ones(1, 18, 16))
    True
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        self.network = SequenceNetwork(
            len(own.channels),
            len(self.thresholds) + 1,
            SIZES[own.size],
            steps=len(own.lead_offsets),
            grid=(own.grid[0], own.grid[1]),
            batch_statistics=own.batch_statistics,
        )

    def _encoded(self, x: Tensor) -> list[Tensor]:
        return [self.network.encoded(x)]

    def _decoded(self, maps: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        return self.network.decoded(maps[-1], shape)


class SequenceNetwork(nn.Module):
    """The network, from fields ``(b, t, c, y, x)`` to logits ``(b, classes, y, x)``."""

    def __init__(
        self,
        channels: int,
        classes: int,
        shape: Shape,
        *,
        steps: int,
        grid: tuple[int, int],
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        width, half = shape.width, (grid[0] // 2, grid[1] // 2)
        self.enter = NormedConvolution(channels, width, steps, batch_statistics=batch_statistics)
        self.widen = NormedConvolution(width, 2 * width, steps, batch_statistics=batch_statistics)
        self.cells = nn.ModuleList(
            PlacedConvLSTM(2 * width, steps, half, batch_statistics=batch_statistics) for _ in range(shape.layers)
        )
        self.blocks = nn.ModuleList(
            PositionalBlock(2 * width, 4 * width, shape.groups, half, batch_statistics=batch_statistics)
            for _ in range(shape.blocks)
        )
        self.refine = nn.ConvTranspose2d(2 * width, 2 * width, 2, stride=2)
        self.leave = NormedConvolution(2 * width, width, padding=0, batch_statistics=batch_statistics)
        self.read = nn.Conv2d(width, classes, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, fields: Tensor) -> Tensor:
        return self.decoded(self.encoded(fields), (fields.shape[-2], fields.shape[-1]))

    def encoded(self, fields: Tensor) -> Tensor:
        """``(b, t, c, y, x)`` -> ``(b, c, y / 2, x / 2)``."""
        return self.aggregated(self.remembered(self.downsampled(fields)))

    def downsampled(self, fields: Tensor) -> list[Tensor]:
        """Maps ``(b, c, y / 2, x / 2)`` of each lead time by itself."""
        steps = enumerate(fields.unbind(dim=1))
        return [self.widen(F.max_pool2d(self.enter(one, step), 2), step) for step, one in steps]

    def remembered(self, maps: Sequence[Tensor]) -> Tensor:
        """What the last of the ConvLSTMs knows after the last of the lead times."""
        for cell in self.cells:
            maps = cell(maps)
        return maps[-1]

    def aggregated(self, hidden: Tensor) -> Tensor:
        """A map in which every place has seen the others of its row and its column, and so all."""
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def decoded(self, hidden: Tensor, shape: tuple[int, int]) -> Tensor:
        """The map of half the grid to logits on the grid."""
        with_rim = (shape[0] + 2, shape[1] + 2)  # which the convolution takes off again
        finer = F.interpolate(self.refine(hidden), size=with_rim, mode="bilinear", align_corners=True)
        return self.read(self.leave(finer))


class NormedConvolution(nn.Module):
    """3 x 3 convolution, norm and ReLU, met once for each of the steps."""

    def __init__(self, channels: int, width: int, steps: int = 1, *, padding: int = 1, batch_statistics: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 3, padding=padding)
        self.norm = SequenceNorm(width, steps, batch_statistics=batch_statistics)

    def forward(self, x: Tensor, step: int = 0) -> Tensor:
        return self.norm(self.convolution(x), step).relu()


class PlacedConvLSTM(nn.Module):
    """ConvLSTM whose gates see C through weights of each place, with norms of gates and of C.

    i, f, o, g = norm(W * [X, H]) + (P.C, P.C, P.C, 0), all with the C of before; C' = sg(f).C + sg(i).tanh(g);
    H' = sg(o).tanh(norm(C')). Maps ``(b, width, y, x)``, one a step -> H of each step.
    """

    def __init__(self, width: int, steps: int, grid: tuple[int, int], *, batch_statistics: bool) -> None:
        super().__init__()
        self.width = width
        self.convolution = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.places = nn.Parameter(torch.zeros(1, width, *grid))
        self.norm_gates = SequenceNorm(4 * width, steps, batch_statistics=batch_statistics)
        self.norm_memory = SequenceNorm(width, steps, batch_statistics=batch_statistics)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        hidden = memory = torch.zeros_like(maps[0])
        places = self._places(maps[0].shape[-2:])
        outputs = []
        for step, x in enumerate(maps):
            gates = self.norm_gates(self.convolution(torch.cat([x, hidden], dim=1)), step)
            seen, news = (places * memory).repeat(1, 3, 1, 1), 3 * self.width
            i, f, o = (gates[:, :news] + seen).sigmoid().chunk(3, dim=1)
            memory = f * memory + i * gates[:, news:].tanh()
            hidden = o * self.norm_memory(memory, step).tanh()
            outputs.append(hidden)
        return outputs

    def _places(self, grid: torch.Size) -> Tensor:
        """The weights of each place, on a grid."""
        if self.places.shape[-2:] == grid:
            return self.places
        return F.interpolate(self.places, size=grid, mode="bilinear", align_corners=False)
