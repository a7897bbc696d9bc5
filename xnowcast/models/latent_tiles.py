"""Tiles of systems that sample latent frames: how large they are, and a denoiser of a large grid out of them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from xnowcast.diffusion import Denoise, Window, tiled
from xnowcast.models.base import Task

DEFAULT_TILE = 512
"""Cells; for weights that do not tell what they were trained on."""


class LatentTiles:
    """Of a model with a ``task``, an ``autoencoder`` that has a ``reduction``, and the option ``tile``."""

    task: Task
    options: Any
    autoencoder: Any

    @property
    def tile(self) -> int:
        """Width of tiles in cells: as asked for, or else of what the weights were trained on."""
        crop, multiple = self.task.crop or DEFAULT_TILE, self.task.grid_multiple
        return self.options.tile or max(-(-crop // multiple), 2) * multiple  # the training pads to multiples as well

    @property
    def _latent_tiling(self) -> dict[str, int]:
        """Width, overlap, margin and multiple of tiles, in latent cells."""
        tile, multiple = (cells // self.autoencoder.reduction for cells in (self.tile, self.task.grid_multiple))
        overlap = max(multiple, tile // 4 // multiple * multiple)
        return {"tile": tile, "overlap": overlap, "margin": overlap // 4, "multiple": multiple}

    def _denoiser_of(self, latent: Tensor, of_window: Callable[[Window], Denoise]) -> Denoise:
        """The denoiser of latent frames ``(..., y, x)`` from those of tiles, each of which is made once."""
        made: dict[Window, Denoise] = {}

        def denoise_tile(x: Tensor, step: float, window: Window) -> Tensor:
            if window not in made:
                made[window] = of_window(window)
            return made[window](x, step)

        return tiled(denoise_tile, (latent.shape[-2], latent.shape[-1]), **self._latent_tiling)


def check_tile(tile: int | None, multiple: int) -> None:
    """Refuse a width of tiles that the network does not divide, or that is too small for two to overlap."""
    if tile is not None and (tile % multiple or tile < 2 * multiple):
        raise ValueError(f"tile is {tile} cells: choose a multiple of {multiple}, at least {2 * multiple}")
