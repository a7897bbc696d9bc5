"""What makes the members of a recurrent network differ: a latent vector in each cell, and noise that lives in space."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAPS = {2: 2, 3: 2, 4: 1, 5: 0}
"""Level of the noise by position of the cells of `xnowcast.nn.multiscale.Multiscale` that get some: 0 is the full grid,
1 a half and 2 a quarter of it. Fine noise enters on the way up alone, where no pooling takes its largest values."""

WIDTHS = ((1,), (1,), (1, 2, 4, 8))
"""By level, the widths of the maps of noise there, in cells of the level."""

MEMORY = 0.9
"""Correlation of a map of noise with that of the step before."""


class Perturbation(nn.Module):
    """Scale and shift of the input of each cell, from a member's latent vector; and noise maps on each scale.

    Its last weights begin at zero: untrained it changes nothing.

    ``width``: channels of the cells. ``depth``: how many there are. ``latent``: length of the vector. ``patch``: as of
    `xnowcast.nn.multiscale.Multiscale`; the finest noise has a number for each cell of the grid.
    """

    def __init__(self, width: int, depth: int, latent: int, patch: int = 1) -> None:
        super().__init__()
        self.latent, self.patch = latent, patch
        self.embed = nn.Linear(latent, 2 * latent)
        self.modulations = nn.ModuleList(nn.Linear(2 * latent, 2 * width) for _ in range(depth))
        channels = [len(WIDTHS[level]) * (1 if level else patch**2) for level in MAPS.values()]
        self.maps = nn.ModuleList(nn.Conv2d(maps, width, 1, bias=False) for maps in channels)
        for last in (*self.modulations, *self.maps):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, latent: Tensor, maps: Sequence[Tensor]) -> Callable[[int, Tensor], Tensor]:
        """What `Multiscale` does to the input ``(b, width, y, x)`` of the cell at a position.

        ``latent``: ``(b, latent)``. ``maps``: from `noise_maps`.
        """
        finest, *coarser = maps
        maps = [F.pixel_unshuffle(finest, self.patch), *coarser]
        embedded = F.silu(self.embed(latent))
        factors = [modulation(embedded)[:, :, None, None].chunk(2, dim=1) for modulation in self.modulations]
        added = {at: part(maps[level]) for (at, level), part in zip(MAPS.items(), self.maps, strict=True)}

        def perturb(position: int, x: Tensor) -> Tensor:
            scale, shift = factors[position]
            x = x * (1.0 + scale) + shift
            return x + added[position] if position in added else x

        return perturb


def noise_maps(
    draw: Callable[..., Tensor], grid: tuple[int, int], before: Sequence[Tensor] | None = None, patch: int = 1
) -> list[Tensor]:
    """Noise of several widths by level, each like that of the step before.

    Of the finest level it is ``(b, 1, y, x)``, of the others ``(b, maps, y / patch / 2**level, x / patch / 2**level)``.
    ``draw``: standard normal numbers of a shape for each sample. ``grid``: y and x, multiples of 4 patches.

    >>> [tuple(part.shape) for part in noise_maps(lambda *shape: torch.randn(2, *shape), (32, 40))]
    [(2, 1, 32, 40), (2, 1, 16, 20), (2, 4, 8, 10)]
    """
    sides = [1, *(patch * 2**level for level in range(1, len(WIDTHS)))]
    new = [_level(draw, grid[0] // side, grid[1] // side, widths) for side, widths in zip(sides, WIDTHS, strict=True)]
    if before is None:
        return new
    return [MEMORY * old + (1.0 - MEMORY**2) ** 0.5 * part for old, part in zip(before, new, strict=True)]


def _level(draw: Callable[..., Tensor], ny: int, nx: int, widths: Sequence[int]) -> Tensor:
    """Maps ``(b, len(widths), ny, nx)``."""
    parts = []
    for width in widths:
        white = draw(1, -(-ny // width), -(-nx // width))
        wide = F.interpolate(white, scale_factor=width, mode="bilinear", align_corners=False) if width > 1 else white
        parts.append(wide[:, :, :ny, :nx])
    return torch.cat(parts, dim=1)
