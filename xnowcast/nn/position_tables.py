"""Learnt vectors for the places of a map ``(b, t, y, x, c)``, added to it."""

import torch
from torch import Tensor, nn


class PositionTables(nn.Module):
    """A vector for each time, and one for each row and each column, or for each cell; a map gets the sum of its three.

    ``shape``: frames, rows and columns of the largest map; a smaller one gets the first of each. ``by_cell``: a table
    for the cells of a frame, instead of one for rows and one for columns.
    """

    def __init__(self, shape: tuple[int, int, int], width: int, *, by_cell: bool = False) -> None:
        super().__init__()
        frames, ny, nx = shape
        sizes = {"time": (frames,), "cell": (ny, nx)} if by_cell else {"time": (frames,), "y": (ny,), "x": (nx,)}
        drawn = {axis: nn.init.trunc_normal_(torch.empty(*size, width), std=0.02) for axis, size in sizes.items()}
        self.tables = nn.ParameterDict({axis: nn.Parameter(table) for axis, table in drawn.items()})

    def forward(self, x: Tensor) -> Tensor:
        t, ny, nx = x.shape[1:4]
        tables = self.tables
        x = x + tables["time"][:t, None, None]
        if "cell" in tables:
            return x + tables["cell"][:ny, :nx]
        return x + (tables["y"][:ny, None] + tables["x"][:nx])
