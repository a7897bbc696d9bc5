"""Attention within windows of a grid, which every second layer shifts so that cells of different windows meet.

Grids have any number of dims, ``(b, y, x, c)`` for frames and ``(b, t, y, x, c)`` for clips, channels last. Liu et al.
(2021), arXiv:2103.14030; Liu et al. (2022), Video Swin Transformer, arXiv:2106.13230.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from xnowcast.nn.blocks import dropped

Sizes = tuple[int, ...]

APART = -100.0
"""Added to the weight, before the softmax, of two cells that a shift has brought together from different places."""


@dataclass(frozen=True)
class Windows:
    """How a grid is cut: into windows of ``size``, after it was rolled back by ``shift`` along each dim.

    >>> windows = Windows((2, 2), (1, 1))
    >>> grid = torch.arange(16).reshape(1, 4, 4, 1)
    >>> windows.cut(grid)[0, 0, :, 0].tolist()
    [5, 6, 9, 10]
    >>> bool((windows.joined(windows.cut(grid), (4, 4)) == grid).all())
    True
    """

    size: Sizes
    shift: Sizes

    @classmethod
    def plain(cls, size: Sequence[int]) -> "Windows":
        """Not shifted."""
        return cls(tuple(size), (0,) * len(size))

    @classmethod
    def shifted(cls, size: Sequence[int]) -> "Windows":
        """Shifted by half a window along each dim."""
        return cls(tuple(size), tuple(one // 2 for one in size))

    def cut(self, grid: Tensor) -> Tensor:
        """``(b, *grid, c)`` to ``(b, windows, cells, c)``; the windows have to divide the grid."""
        sizes = grid.shape[1:-1]
        if any(all_ % one for all_, one in zip(sizes, self.size, strict=True)):
            raise ValueError(f"windows of {self.size} cells do not divide a grid of {tuple(sizes)}: pad it")
        if any(self.shift):
            grid = grid.roll([-by for by in self.shift], self._dims)
        split = [part for all_, one in zip(sizes, self.size, strict=True) for part in (all_ // one, one)]
        # (b, rows, high, columns, wide, c) -> (b, rows, columns, high, wide, c), and so in any number of dims
        apart = grid.reshape(len(grid), *split, -1)
        order = [0, *range(1, 2 * len(sizes), 2), *range(2, 2 * len(sizes) + 1, 2), 2 * len(sizes) + 1]
        return apart.permute(order).reshape(len(grid), -1, prod(self.size), grid.shape[-1])

    def joined(self, windows: Tensor, sizes: Sequence[int]) -> Tensor:
        """``(b, windows, cells, c)`` to the grid ``(b, *sizes, c)`` that they were cut from."""
        counts = [all_ // one for all_, one in zip(sizes, self.size, strict=True)]
        apart = windows.reshape(len(windows), *counts, *self.size, -1)
        order = [0, *(place for n in range(len(counts)) for place in (1 + n, 1 + len(counts) + n)), 2 * len(counts) + 1]
        grid = apart.permute(order).reshape(len(windows), *sizes, -1)
        return grid.roll(self.shift, self._dims) if any(self.shift) else grid

    def mask(self, sizes: Sequence[int], device: "torch.device | str" = "cpu") -> Tensor | None:
        """``(windows, cells, cells)``: 0, or `APART` for cells that are no neighbours; None where nothing is shifted.

        What is rolled over the end of the grid meets what was there, and is told apart from it.
        """
        if not any(self.shift):
            return None
        # along each dim: 0 before the last window, 1 in it, 2 what was rolled over
        places = [torch.arange(all_, device=device) for all_ in sizes]
        regions = [
            (place >= all_ - one).long() + (place >= all_ - by).long()
            for place, all_, one, by in zip(places, sizes, self.size, self.shift, strict=True)
        ]
        region = torch.zeros(1, device=device, dtype=torch.long)
        for axis in regions:
            region = region[..., None] * 3 + axis
        labels = Windows.plain(self.size).cut(region.reshape(1, *sizes, 1))[0, ..., 0]
        same = labels[:, :, None] == labels[:, None, :]
        return torch.zeros(same.shape, device=device).masked_fill_(~same, APART)

    @property
    def _dims(self) -> list[int]:
        return list(range(1, 1 + len(self.size)))


def relative_positions(size: Sequence[int]) -> Tensor:
    """``(cells, cells)``: number of the distance from each key to each query of a window, from 0.

    >>> relative_positions((1, 3)).tolist()
    [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    """
    places = torch.stack(torch.meshgrid(*(torch.arange(one) for one in size), indexing="ij")).flatten(1)
    number = torch.zeros(1, dtype=torch.long)
    for axis, one in zip(places[:, :, None] - places[:, None, :], size, strict=True):
        number = number * (2 * one - 1) + axis + one - 1
    return number


class WindowAttention(nn.Module):
    """Softmax attention among the cells of a window, with a learnt bias for each distance.

    windows (b, n, cells, c), mask (n, cells, cells) as `Windows.mask` makes it -> same
    """

    pairs: Tensor

    def __init__(self, width: int, size: Sequence[int], heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty(prod(2 * one - 1 for one in size), heads), std=0.02))
        self.register_buffer("pairs", relative_positions(size), persistent=False)

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        # (b, n, cells, (three e d)) -> three of (b, n, e, cells, d)
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        weights = (q * q.shape[-1] ** -0.5) @ k.mT + self.distance_bias()
        if mask is not None:
            weights = weights + mask[:, None].to(weights)
        return self.out((weights.softmax(dim=-1) @ v).transpose(2, 3).flatten(3))

    def distance_bias(self) -> Tensor:
        """``(heads, cells, cells)``: what is added to the weight of each query and key."""
        return self.bias[self.pairs].movedim(-1, 0)


class WindowLayer(nn.Module):
    """Attention within windows and a mix of the channels, each after a layer norm and beside its input.

    grid (b, *sizes, c), mask as `Windows.mask` makes it -> same

    ``hidden``: width in the middle of the mix. ``drop_path``: how often each of both is left out in training.
    """

    def __init__(self, width: int, windows: Windows, heads: int, *, hidden: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.windows, self.drop_path = windows, drop_path
        self.attention_norm, self.attention = nn.LayerNorm(width), WindowAttention(width, windows.size, heads)
        self.mix_norm = nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, grid: Tensor, mask: Tensor | None = None) -> Tensor:
        attended = self.attention(self.windows.cut(self.attention_norm(grid)), mask)
        grid = grid + self._dropped(self.windows.joined(attended, grid.shape[1:-1]))
        return grid + self._dropped(self.mix(self.mix_norm(grid)))

    def _dropped(self, branch: Tensor) -> Tensor:
        return dropped(branch, self.drop_path) if self.training else branch


class WindowLayers(nn.Module):
    """Layers of which every second has shifted windows. grid (b, *sizes, c) -> same.

    ``drop_path``: one share for each layer, which is as many as there are.
    """

    def __init__(self, width: int, size: Sequence[int], heads: int, *, hidden: int, drop_path: Sequence[float]) -> None:
        super().__init__()
        kinds = Windows.plain(size), Windows.shifted(size)
        self.layers = nn.ModuleList(
            WindowLayer(width, kinds[number % 2], heads, hidden=hidden, drop_path=share)
            for number, share in enumerate(drop_path)
        )
        self.shifted = kinds[1]

    def forward(self, grid: Tensor) -> Tensor:
        mask = self.shifted.mask(grid.shape[1:-1], grid.device) if len(self.layers) > 1 else None
        for number, layer in enumerate(self.layers):
            grid = layer(grid, mask if number % 2 else None)
        return grid
