"""DiffCast's context network: what a sequence of observed and forecast frames says of motion, on each scale.

Yu et al. (2024), the GlobalNet of section 3.3; sizes and orders are those of the published code.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from xnowcast.nn.blocks import ResidualBlock, SpaceToDepth
from xnowcast.nn.recurrent.cell import State
from xnowcast.nn.recurrent.convgru import ConvGRU


class ContextNetwork(nn.Module):
    """Frames (b, t, 1, y, x) in [-1, 1] to the states that they leave, (b, width, y / 2^k, x / 2^k) of each scale k.

    >>> import torch
    >>> [state.shape[1] for state in ContextNetwork(8, (1, 2, 4))(torch.rand(1, 3, 1, 8, 12))]
    [8, 8, 16]
    """

    def __init__(self, base: int = 64, multipliers: Sequence[int] = (1, 2, 4, 8)) -> None:
        super().__init__()
        widths = [base, *(base * multiplier for multiplier in multipliers[:-1])]
        self.entry = nn.Conv2d(1, base, 7, padding=3)
        self.blocks = nn.ModuleList(ResidualBlock(width, width) for width in widths)
        self.cells = nn.ModuleList(ConvGRU(width) for width in widths)
        self.down = nn.ModuleList(SpaceToDepth(above, below) for above, below in pairwise(widths))

    def forward(self, frames: Tensor, before: Sequence[Tensor] | None = None) -> list[Tensor]:
        """``before``: the states that earlier frames have left."""
        states: list[State | None] = [None] * len(self.cells) if before is None else [(state,) for state in before]
        outputs: list[Tensor] = []
        for frame in frames.unbind(1):
            x, outputs = self.entry(frame), []
            for scale, (block, cell) in enumerate(zip(self.blocks, self.cells, strict=True)):
                h, states[scale], _ = cell(block(x), states[scale])
                outputs.append(h)
                x = self.down[scale](h) if scale < len(self.down) else h
        return outputs
