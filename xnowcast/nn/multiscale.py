"""Six recurrent cells on three scales, the network of MS-RNN (Ma et al. 2022, arXiv:2206.03010)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xnowcast.nn.recurrent import Cell
from xnowcast.nn.recurrent.cell import State

DEPTH = 6


class Multiscale(nn.Module):
    """Cells on the scales 1, 1/2, 1/4, 1/4, 1/2, 1: max-pool down, bilinear up, skip sums between equal scales.

    ``cells``: six, of equal width. ``width``: their channels. ``patch``: cells of the grid along the side of a square
    that is read and said as one, with a channel for each.
    """

    def __init__(self, cells: Sequence[Cell], width: int, patch: int = 1) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Conv2d(patch**2, width, 1)
        self.cells = nn.ModuleList(cells)
        self.read = nn.Conv2d(width, patch**2, 1)

    def forward(
        self,
        frame: Tensor,
        states: Sequence[State | None],
        memory: Tensor | None,
        added: Sequence[Tensor | None] = (None,) * DEPTH,
        perturb: Callable[[int, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor], list[State | None], Tensor | None]:
        """One step: equations 3 and 4, and with ``added`` 5 and 6.

        ``frame``: ``(b, 1, y, x)``, y and x multiples of 4 patches. ``states``: what each cell returned one step
        before. ``memory``: the zigzag memory, ``(b, width, y / patch, x / patch)``. ``added``: what is added to the
        input of each cell, from another network. ``perturb``: changes the input of the cell at a position, such as by a
        member's noise. Returned: the next frame ``(b, 1, y, x)``, the output of each cell from the first to the last,
        what each carries on, and the memory.
        """
        outputs: list[Tensor] = []
        following: list[State | None] = []
        below = self.embed(F.pixel_unshuffle(frame, self.patch))
        for position, cell in enumerate(self.cells):
            if position > 0:
                below, memory = rescale(outputs[-1], position), rescale(memory, position)
            x = below if position < 4 else below + outputs[5 - position]
            if added[position] is not None:
                x = x + added[position]
            if perturb is not None:
                x = perturb(position, x)
            h, state, memory = cell(x, states[position], memory, below=below)
            outputs.append(h)
            following.append(state)
        return F.pixel_shuffle(self.read(outputs[-1]), self.patch), outputs, following, memory


def rescale(h: Tensor | None, position: int) -> Tensor | None:
    """A map of the cell before ``position`` on the scale of that cell; None stays None."""
    if h is None or position == 3:
        return h
    if position < 3:
        return halved(h)
    return F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)


def halved(h: Tensor) -> Tensor:
    """The largest of every 2 x 2 cells: ``(b, c, y, x)`` to ``(b, c, y / 2, x / 2)``."""
    if torch.is_grad_enabled() or h.device.type != "cpu":
        return F.max_pool2d(h, 2)
    rows = torch.maximum(h[..., ::2, :], h[..., 1::2, :])  # a CPU pools several times faster so, without positions
    return torch.maximum(rows[..., ::2], rows[..., 1::2])
