"""UPerNet: a decoder that pools the deepest map over pyramids and adds it, level by level, to the finer ones."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLS = (1, 2, 3, 6)
"""Cells along y and x that the deepest map is averaged to."""


class UPerNet(nn.Module):
    """UPerNet's head (Xiao et al. 2018, arXiv:1807.10221). Maps of a backbone, finest first -> (b, out, y, x).

    The result is on the grid of the finest map. Batch norm stands after every convolution but the last, so small
    batches make it noisy, and a batch of one sample cannot train it.

    Parameters
    ----------
    widths : sequence of int
        Channels of the maps.
    out : int
        Channels of the result.
    width : int
        Of everything in between.
    dropout : float
        Chance with which a channel is left out before the last convolution, in training.

    Examples
    --------
    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in UPerNet((64, 128, 256, 512), 3).parameters())
    29603331
    """

    def __init__(self, widths: Sequence[int], out: int, width: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        *finer, deepest = widths
        self.pools = nn.ModuleList(NormedConvolution(deepest, width, 1) for _ in POOLS)
        self.pooled = NormedConvolution(deepest + len(POOLS) * width, width, 3)
        self.laterals = nn.ModuleList(NormedConvolution(w, width, 1) for w in finer)
        self.levels = nn.ModuleList(NormedConvolution(width, width, 3) for _ in finer)
        self.fused = NormedConvolution(len(widths) * width, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.read = nn.Conv2d(width, out, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, deepest = maps
        pyramid = [lateral(level) for lateral, level in zip(self.laterals, finer, strict=True)]
        pyramid.append(self._pooled(deepest))
        for level in range(len(pyramid) - 2, -1, -1):  # from the deepest down
            pyramid[level] = pyramid[level] + _resized(pyramid[level + 1], pyramid[level])
        smooth = [convolution(level) for convolution, level in zip(self.levels, pyramid[:-1], strict=True)]
        smooth.append(pyramid[-1])
        fused = self.fused(torch.cat([_resized(level, smooth[0]) for level in smooth], dim=1))
        return self.read(self.dropout(fused))

    def _pooled(self, deepest: Tensor) -> Tensor:
        """Pyramid pooling (Zhao et al. 2017)."""
        pools = [
            _resized(convolution(F.adaptive_avg_pool2d(deepest, size)), deepest)
            for size, convolution in zip(POOLS, self.pools, strict=True)
        ]
        return self.pooled(torch.cat([deepest, *pools], dim=1))


class NormedConvolution(nn.Sequential):
    """Convolution without bias, batch norm, ReLU. (b, c, y, x) -> (b, out, y, x)."""

    def __init__(self, width_in: int, width_out: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
        )


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
