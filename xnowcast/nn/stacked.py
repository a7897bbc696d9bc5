"""Recurrent cells upon each other on one scale."""

from collections.abc import Sequence

from torch import Tensor, nn

from xnowcast.nn.recurrent import Cell
from xnowcast.nn.recurrent.cell import State


class Stacked(nn.Module):
    """Cells of equal width, each reading what the one below gives; frames (b, 1, y, x) to the next frame."""

    def __init__(self, cells: Sequence[Cell], width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 1)
        self.cells = nn.ModuleList(cells)
        self.read = nn.Conv2d(width, 1, 1)

    def forward(
        self, frame: Tensor, states: Sequence[State | None], memory: Tensor | None
    ) -> tuple[Tensor, list[Tensor], list[State], Tensor | None]:
        """One step: the next frame, outputs of the cells, states and zigzag memory, as of `multiscale.Multiscale`."""
        h, outputs, following = self.embed(frame), [], []
        for cell, state in zip(self.cells, states, strict=True):
            h, state, memory = cell(h, state, memory, below=h)
            outputs.append(h)
            following.append(state)
        return self.read(h), outputs, following, memory
