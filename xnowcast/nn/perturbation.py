"""What makes the members of a recurrent network differ: a latent vector in each cell, and noise that lives in space."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COARSEST = (2, 3)
"""Positions of the cells of `xnowcast.nn.multiscale.Multiscale` on the coarsest of its scales, a quarter."""

SCALES = 4
"""Maps of noise, on grids of 4, 8, 16 and 32 cells."""

MEMORY = 0.9
"""Correlation of a map of noise with that of the step before."""


class Perturbation(nn.Module):
    """Scale and shift of the input of each cell, from a member's latent vector; and noise maps on the coarsest scale.

    Its last weights begin at zero: untrained it changes nothing.

    ``width``: channels of the cells. ``depth``: how many there are. ``latent``: length of the vector.
    """

    def __init__(self, width: int, depth: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.embed = nn.Linear(latent, 2 * latent)
        self.modulations = nn.ModuleList(nn.Linear(2 * latent, 2 * width) for _ in range(depth))
        self.maps = nn.ModuleList(nn.Conv2d(SCALES, width, 1, bias=False) for _ in COARSEST)
        for last in (*self.modulations, *self.maps):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, latent: Tensor, maps: Tensor) -> Callable[[int, Tensor], Tensor]:
        """What `Multiscale` does to the input ``(b, width, y, x)`` of the cell at a position.

        ``latent``: ``(b, latent)``. ``maps``: ``(b, SCALES, y / 4, x / 4)``, from `noise_maps`.
        """
        embedded = F.silu(self.embed(latent))
        factors = [modulation(embedded)[:, :, None, None].chunk(2, dim=1) for modulation in self.modulations]
        added = {position: part(maps) for position, part in zip(COARSEST, self.maps, strict=True)}

        def perturb(position: int, x: Tensor) -> Tensor:
            scale, shift = factors[position]
            x = x * (1.0 + scale) + shift
            return x + added[position] if position in added else x

        return perturb


def noise_maps(draw: Callable[..., Tensor], grid: tuple[int, int], before: Tensor | None = None) -> Tensor:
    """Noise ``(b, SCALES, y / 4, x / 4)`` of several widths, correlated with that of the step before.

    ``draw``: standard normal numbers of a shape for each sample. ``grid``: y and x, multiples of 4.

    >>> noise_maps(lambda *shape: torch.randn(2, *shape), (32, 40)).shape
    torch.Size([2, 4, 8, 10])
    """
    ny, nx = (n // 4 for n in grid)
    parts = []
    for scale in range(SCALES):
        white = draw(1, -(-ny // 2**scale) + 1, -(-nx // 2**scale) + 1)
        wide = F.interpolate(white, scale_factor=2**scale, mode="bilinear", align_corners=False) if scale else white
        parts.append(wide[:, :, :ny, :nx])
    maps = torch.cat(parts, dim=1)
    return maps if before is None else MEMORY * before + (1.0 - MEMORY**2) ** 0.5 * maps
