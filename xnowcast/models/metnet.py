"""A baseline for post-processors after MetNet: a ConvLSTM over the fields, then axial attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from xnowcast.models.declaration import option
from xnowcast.models.rain_classes import RainClassifier, RainClassOptions
from xnowcast.nn.recurrent.convlstm import ConvLSTM

GROUP = 4
"""Fields that the ConvLSTM reads at a time, as many as a patch of NWP-MAE has."""


@dataclass(frozen=True)
class Shape:
    """Sizes: channels, blocks of axial attention and their heads. The paper tells none."""

    width: int = 128
    blocks: int = 8
    heads: int = 8


SIZES = {"full": Shape(), "small": Shape(48, 4, 4), "tiny": Shape(16, 1, 2)}


@dataclass(frozen=True, kw_only=True)
class NwpMetNetOptions(RainClassOptions):
    size: str = option("full", "Ours, since the paper tells none.", choices=SIZES)
    multiple = 4


class NwpMetNet(RainClassifier[NwpMetNetOptions]):
    """MetNet-style post-processor: fields downsampled, read by a ConvLSTM in groups, axial attention, rain classes.

    What An et al. (2023) compare with is a MetNet that Kim et al. (2022) changed for post-processing; its sizes are not
    given. Ours is in that spirit: fields of four at a time, in their order, are the steps of the ConvLSTM, as there is
    one lead time and no sequence.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    Sonderby et al. (2020), MetNet: a neural weather model for precipitation forecasting, arXiv:2003.12140
    Kim et al. (2022), Benchmark dataset for precipitation forecasting by post-processing the numerical weather
    prediction, arXiv:2206.15241

    Examples
    --------
    >>> import torch
    >>> model = NwpMetNet(size="tiny").eval()
    >>> model.set_channel_statistics(*torch.tensor([0.0, 1.0, -3.0, 3.0]).expand(16, 4).unbind(1))
    >>> fields = torch.randn(1, 16, 18, 16)
    >>> model.postprocess(fields, fields[:, :1] < 9).sum(dim=1).allclose(torch.ones(1, 18, 16))
    True
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        shape = SIZES[self.options.size]
        self.stem = nn.Sequential(
            nn.Conv2d(GROUP, shape.width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(shape.width, shape.width, 3, stride=2, padding=1),
        )
        self.cell = ConvLSTM(shape.width)
        self.blocks = nn.ModuleList(AxialBlock(shape.width, shape.heads) for _ in range(shape.blocks))
        self.read = nn.Conv2d(shape.width, len(self.thresholds) + 1, 1)

    def _encoded(self, x: Tensor) -> list[Tensor]:
        x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % GROUP))
        hidden, state = x.new_zeros(0), None
        for group in x.split(GROUP, dim=1):
            hidden, state, _ = self.cell(self.stem(group), state)
        for block in self.blocks:
            hidden = block(hidden)
        return [hidden]

    def _decoded(self, maps: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        return F.interpolate(self.read(maps[-1]), size=shape, mode="bilinear", align_corners=False)


class AxialBlock(nn.Module):
    """Attention along rows, along columns, and a perceptron, each after a norm and beside a shortcut.

    (b, c, y, x) -> same (Ho et al. 2019, arXiv:1912.12180)
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)  # (b, y, x, c)
        for axis in (0, 1):
            lines = x if axis == 0 else x.transpose(1, 2)
            lines = self._along(axis, self.norms[axis](lines))
            x = x + (lines if axis == 0 else lines.transpose(1, 2))
        return (x + self.mix(self.norms[2](x))).movedim(-1, 1)

    def _along(self, axis: int, lines: Tensor) -> Tensor:
        """Attention within each of the lines, (b, line, n, c) -> same."""
        q, k, v = rearrange(self.qkv[axis](lines), "b l n (three e d) -> three b l e n d", three=3, e=self.heads)
        return self.out[axis](rearrange(F.scaled_dot_product_attention(q, k, v), "b l e n d -> b l n (e d)"))
