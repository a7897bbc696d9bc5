"""SwinIR, the network: groups of shifted-window attention between convolutions, and four ways to the fine grid.

Liang et al. (2021), arXiv:2108.10257, figure 2 and section 3; sizes as in the published code.
"""

from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from xnowcast.nn.window_attention import WindowLayers

Upsampling = Literal["classical", "direct", "nearest"]

FINE_WIDTH = 64
"""Channels on the fine grid, where there is more than one convolution."""


@dataclass(frozen=True)
class Shape:
    """What a `SwinIRNetwork` is made of; ``depths`` and ``heads`` have one number for each group of layers.

    ``window``: cells along a side. ``convolutions``: at the end of a group, 1, or 3 through a quarter of the width.
    ``upsampling``: see `head`.
    """

    width: int = 180
    depths: tuple[int, ...] = (6,) * 6
    heads: tuple[int, ...] = (6,) * 6
    window: int = 8
    convolutions: Literal[1, 3] = 1
    upsampling: Upsampling = "classical"


CLASSICAL = Shape()
LIGHT = Shape(60, (6,) * 4, (6,) * 4, upsampling="direct")
LARGE = Shape(240, (6,) * 9, (8,) * 9, convolutions=3, upsampling="nearest")
TINY = Shape(16, (2,), (2,), 4, upsampling="direct")

SIZES = {"full": CLASSICAL, "large": LARGE, "light": LIGHT, "tiny": TINY}
"""The paper's: classical, real-world in its large form, light-weight; and one for tests."""


def shape_of(size: str, upsampling: Upsampling | None) -> Shape:
    """One of `SIZES`, with its own way to the fine grid or another."""
    return SIZES[size] if upsampling is None else replace(SIZES[size], upsampling=upsampling)


class SwinGroup(nn.Module):
    """Layers of window attention and a convolution, beside their input (the paper's RSTB). (b, y, x, c) -> same."""

    def __init__(self, shape: Shape, depth: int, heads: int, drop_path: list[float]) -> None:
        super().__init__()
        size, width = (shape.window,) * 2, shape.width
        self.layers = WindowLayers(width, size, heads, hidden=2 * width, drop_path=drop_path[:depth])
        self.leave = convolutions(width, shape.convolutions)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + _last(self.leave(_maps(self.layers(tokens))))


def convolutions(width: int, count: Literal[1, 3]) -> nn.Module:
    """A 3 x 3 convolution, or three through a quarter of the width. (b, c, y, x) -> same."""
    if count == 1:
        return _convolution(width, width)
    narrow = width // 4
    return nn.Sequential(
        _convolution(width, narrow),
        nn.LeakyReLU(0.2),
        nn.Conv2d(narrow, narrow, 1),
        nn.LeakyReLU(0.2),
        _convolution(narrow, width),
    )


def head(width: int, out: int, factor: int, upsampling: Upsampling) -> nn.Sequential:
    """Maps on the coarse grid to fields on the fine one. (b, c, y, x) -> (b, out, factor * y, factor * x).

    "classical": each step doubles the grid, or makes it three times as fine, by a convolution whose channels become
    cells. "direct": one such convolution. "nearest": each step repeats cells, which leaves no grid of squares behind.

    >>> head(8, 1, 4, "direct")(torch.rand(1, 8, 5, 6)).shape
    torch.Size([1, 1, 20, 24])
    """
    if upsampling == "direct":
        return nn.Sequential(_convolution(width, out * factor**2), nn.PixelShuffle(factor))
    enter = (_convolution(width, FINE_WIDTH), nn.LeakyReLU(0.01))
    wide = FINE_WIDTH
    if upsampling == "classical":
        shuffled = ((_convolution(wide, wide * by**2), nn.PixelShuffle(by)) for by in steps_of(factor))
        return nn.Sequential(*enter, *chain.from_iterable(shuffled), _convolution(wide, out))
    repeated = (
        (nn.Upsample(scale_factor=by, mode="nearest"), _convolution(wide, wide), nn.LeakyReLU(0.2))
        for by in steps_of(factor)
    )
    leave = (_convolution(wide, wide), nn.LeakyReLU(0.2), _convolution(wide, out))
    return nn.Sequential(*enter, *chain.from_iterable(repeated), *leave)


def steps_of(factor: int) -> list[int]:
    """Factors of 2, or one of 3, that make a factor; a ValueError if none do.

    >>> steps_of(8), steps_of(3)
    ([2, 2, 2], [3])
    """
    if factor == 3:
        return [3]
    if factor < 2 or factor & (factor - 1):
        raise ValueError(f"factor is {factor}: it must be 3 or a power of two, 2 or more")
    return [2] * (factor.bit_length() - 1)


class SwinIRNetwork(nn.Module):
    """Coarse fields to fine ones, each frame by itself. x (b, c, y, x) -> (b, out, factor * y, factor * x).

    Any grid will do: it is reflected at its bottom and right to whole windows, and what comes of that is cut off.
    ``factor``: of 1 it restores: what it says is added to its input. ``drop_path``: how often branches of the last
    layer are left out in training; those of the first never are.

    >>> network = SwinIRNetwork(2, TINY, factor=2)
    >>> network(torch.rand(1, 2, 9, 5)).shape
    torch.Size([1, 1, 18, 10])
    """

    middle: Tensor

    def __init__(self, channels: int, shape: Shape, *, factor: int, out: int = 1, drop_path: float = 0.1) -> None:
        super().__init__()
        self.factor, self.window = factor, shape.window
        width = shape.width
        self.enter, self.enter_norm = _convolution(channels, width), nn.LayerNorm(width)
        shares = torch.linspace(0, drop_path, sum(shape.depths), device="cpu").tolist()
        firsts = [sum(shape.depths[:number]) for number in range(len(shape.depths))]
        self.groups = nn.ModuleList(
            SwinGroup(shape, depth, heads, shares[first:])
            for first, depth, heads in zip(firsts, shape.depths, shape.heads, strict=True)
        )
        self.leave_norm, self.leave = nn.LayerNorm(width), convolutions(width, shape.convolutions)
        self.head = _convolution(width, out) if factor == 1 else head(width, out, factor, shape.upsampling)
        # what becomes 0 on the way in; weights of images have their mean brightness
        self.register_buffer("middle", torch.tensor(0.0))
        self.apply(_drawn)

    def forward(self, x: Tensor) -> Tensor:
        ny, nx = (size * self.factor for size in x.shape[-2:])
        x = reflected(x - self.middle, self.window)
        shallow = self.enter(x)
        tokens = self.enter_norm(_last(shallow))
        for group in self.groups:
            tokens = group(tokens)
        fine = self.head(self.leave(_maps(self.leave_norm(tokens))) + shallow)
        if self.factor == 1:
            fine = x + fine
        return fine[..., :ny, :nx] + self.middle


def reflected(x: Tensor, multiple: int) -> Tensor:
    """A grid (..., y, x) made larger below and at the right to multiples, as if mirrors stood at its rim.

    >>> reflected(torch.tensor([[1, 2, 3]]), 4).shape, reflected(torch.tensor([[1, 2, 3]]), 4)[0].tolist()
    (torch.Size([4, 4]), [1, 2, 3, 2])
    """
    for dim in (-2, -1):
        size = x.shape[dim]
        place = torch.arange(-(-size // multiple) * multiple, device=x.device)
        if len(place) > size:  # there and back again, as often as it takes: torch's own reflects once
            place = place % max(1, 2 * (size - 1))
            x = x.index_select(dim, torch.where(place < size, place, 2 * (size - 1) - place))
    return x


def _convolution(width_in: int, width_out: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, padding=1)


def _last(maps: Tensor) -> Tensor:
    return maps.movedim(1, -1)


def _maps(tokens: Tensor) -> Tensor:
    return tokens.movedim(-1, 1)


def _drawn(module: nn.Module) -> None:
    """Begin as the published network does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
