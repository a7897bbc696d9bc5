"""Interpolation in space: the baselines that every downscaling has to beat."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity
from xnowcast.nn.noise import Noise

Method = Literal["bicubic", "bilinear", "nearest"]


class Interpolation:
    """Finer grids by interpolation, each frame by itself; nothing is added.

    Parameters
    ----------
    method : {"bicubic", "bilinear", "nearest"}
        In space. Bicubic interpolation overshoots; what falls below zero is no rain.

    Examples
    --------
    >>> import torch
    >>> coarse = torch.tensor([[0.0, 4.0]]).expand(2, 2).reshape(1, 1, 1, 2, 2)
    >>> Interpolation(method="bilinear").downscale(coarse, coarse >= 0, 2)[0, 0, 0, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """

    def __init__(self, *, method: Method = "bicubic") -> None:
        self.task = self.declare(method=method)
        self.transform = Identity()
        self.method = method

    @classmethod
    def declare(cls, *, method: Method = "bicubic") -> Task:
        """What it reads and gives."""
        if method not in ("bicubic", "bilinear", "nearest"):
            raise ValueError(f"method is {method!r}; it can be 'bicubic', 'bilinear' or 'nearest'")
        return Task("downscale", input_frames=1, min_grid=2)

    def downscale(
        self, frames: Tensor, observed: Tensor, factor: int, static: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """``(b, t, c, y, x)`` to ``(b, t, 1, y * factor, x * factor)``."""
        b, t, _, ny, nx = frames.shape
        rain = frames[:, :, :1].flatten(0, 1)
        how = {} if self.method == "nearest" else {"align_corners": False}
        fine = F.interpolate(rain, scale_factor=factor, mode=self.method, **how)
        return fine.clamp_min(0).reshape(b, t, 1, ny * factor, nx * factor)
