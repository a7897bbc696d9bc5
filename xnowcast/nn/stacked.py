"""Recurrent cells upon each other on one scale."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from xnowcast.nn.recurrent import Cell
from xnowcast.nn.recurrent.cell import State


class Stacked(nn.Module):
    """Cells of equal width, each reading what the one below gives; frames (b, 1, y, x) to the next frame.

    ``patch``: as of `xnowcast.nn.multiscale.Multiscale`.
    """

    def __init__(self, cells: Sequence[Cell], width: int, patch: int = 1) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Conv2d(patch**2, width, 1)
        self.cells = nn.ModuleList(cells)
        self.read = nn.Conv2d(width, patch**2, 1)

    def forward(
        self, frame: Tensor, states: Sequence[State | None], memory: Tensor | None
    ) -> tuple[Tensor, list[Tensor], list[State], Tensor | None]:
        """One step: the next frame, outputs of the cells, states and zigzag memory, as of `multiscale.Multiscale`."""
        h, outputs, following = self.embed(F.pixel_unshuffle(frame, self.patch)), [], []
        for cell, state in zip(self.cells, states, strict=True):
            h, state, memory = cell(h, state, memory, below=h)
            outputs.append(h)
            following.append(state)
        return F.pixel_shuffle(self.read(h), self.patch), outputs, following, memory
