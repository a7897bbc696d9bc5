"""Coarser and finer maps of networks whose channels come last, ``(..., y, x, c)``, on grids of any size."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class PatchMerge(nn.Module):
    """Squares of cells to one: a norm over all their channels, and a linear map (Liu et al. 2021, arXiv:2103.14030).

    ``(..., y, x, c)`` to ``(..., y / factor, x / factor, out)``, rounded up: below and at the right zeros are added.
    """

    def __init__(self, width_in: int, width_out: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.norm = nn.LayerNorm(factor**2 * width_in)
        self.reduction = nn.Linear(factor**2 * width_in, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ny, nx = x.shape[-3:-1]
        x = F.pad(x, (0, 0, 0, -nx % self.factor, 0, -ny % self.factor))
        square = "... (y i) (x j) c -> ... y x (i j c)"
        return self.reduction(self.norm(rearrange(x, square, i=self.factor, j=self.factor)))


class NearestTo(nn.Module):
    """A map on another grid, each cell with the value of the nearest, and a 3 x 3 convolution.

    ``(b, t, y, x, c)`` to ``(b, t, *shape, out)``.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width_in, width_out, 3, padding=1)

    def forward(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        larger = F.interpolate(frames_first(x), size=shape, mode="nearest")
        return channels_last(self.convolution(larger), len(x))


def frames_first(x: Tensor) -> Tensor:
    """``(b, t, y, x, c)`` to ``(b * t, c, y, x)``, as convolutions take it."""
    return rearrange(x, "b t y x c -> (b t) c y x")


def channels_last(x: Tensor, batch: int) -> Tensor:
    """The way back from `frames_first`."""
    return rearrange(x, "(b t) c y x -> b t y x c", b=batch)
