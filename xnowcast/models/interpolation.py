"""Interpolation in space: the baselines that every downscaling has to beat."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from xnowcast.models.base import Task
from xnowcast.models.declaration import Declared, Options, option
from xnowcast.models.transforms import Identity
from xnowcast.nn.noise import Noise


@dataclass(frozen=True, kw_only=True)
class InterpolationOptions(Options):
    method: Literal["bicubic", "bilinear", "nearest"] = option(
        "bicubic", "In space. Bicubic interpolation overshoots; what falls below zero is no rain."
    )

    def task(self) -> Task:
        return Task("downscale", input_frames=1, min_grid=2)


class Interpolation(Declared[InterpolationOptions]):
    """Finer grids by interpolation, each frame by itself; nothing is added.

    >>> import torch
    >>> coarse = torch.tensor([[0.0, 4.0]]).expand(2, 2).reshape(1, 1, 1, 2, 2)
    >>> Interpolation(method="bilinear").downscale(coarse, coarse >= 0, 2)[0, 0, 0, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.transform = Identity()

    def downscale(
        self, frames: Tensor, observed: Tensor, factor: int, static: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """``(b, t, c, y, x)`` to ``(b, t, 1, y * factor, x * factor)``."""
        b, t, _, ny, nx = frames.shape
        rain = frames[:, :, :1].flatten(0, 1)
        method = self.options.method
        how = {} if method == "nearest" else {"align_corners": False}
        fine = F.interpolate(rain, scale_factor=factor, mode=method, **how)
        return fine.clamp_min(0).reshape(b, t, 1, ny * factor, nx * factor)
