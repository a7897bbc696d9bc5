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

    ``width``: channels of the cells. ``depth``: how many there are. ``latent``: length of the vector.
    """

    def __init__(self, width: int, depth: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.embed = nn.Linear(latent, 2 * latent)
        self.modulations = nn.ModuleList(nn.Linear(2 * latent, 2 * width) for _ in range(depth))
        self.maps = nn.ModuleList(nn.Conv2d(len(WIDTHS[level]), width, 1, bias=False) for level in MAPS.values())
        for last in (*self.modulations, *self.maps):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, latent: Tensor, maps: Sequence[Tensor]) -> Callable[[int, Tensor], Tensor]:
        """What `Multiscale` does to the input ``(b, width, y, x)`` of the cell at a position.

        ``latent``: ``(b, latent)``. ``maps``: from `noise_maps`.
        """
        embedded = F.silu(self.embed(latent))
        factors = [modulation(embedded)[:, :, None, None].chunk(2, dim=1) for modulation in self.modulations]
        added = {at: part(maps[level]) for (at, level), part in zip(MAPS.items(), self.maps, strict=True)}

        def perturb(position: int, x: Tensor) -> Tensor:
            scale, shift = factors[position]
            x = x * (1.0 + scale) + shift
            return x + added[position] if position in added else x

        return perturb


def noise_maps(
    draw: Callable[..., Tensor], grid: tuple[int, int], before: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Noise of several widths by level, ``(b, maps, y / 2**level, x / 2**level)``, each like that of the step before.

    ``draw``: standard normal numbers of a shape for each sample. ``grid``: y and x, multiples of 4.

    >>> [tuple(part.shape) for part in noise_maps(lambda *shape: torch.randn(2, *shape), (32, 40))]
    [(2, 1, 32, 40), (2, 1, 16, 20), (2, 4, 8, 10)]
    """
    new = [_level(draw, grid[0] // 2**level, grid[1] // 2**level, widths) for level, widths in enumerate(WIDTHS)]
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
