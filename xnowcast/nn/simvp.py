"""SimVP's network: frames are encoded one by one, translated together into those that follow, and decoded one by one.

Gao et al. (2022), arXiv:2206.05099, and Tan et al. (2022), arXiv:2211.12509.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast.nn.gated_attention import GatedAttention, TemporalAttention, gated_blocks
from xnowcast.nn.inception import InceptionTranslator

ATTENTIONS = {"gsta": GatedAttention, "tau": TemporalAttention}

TRANSLATORS = (*ATTENTIONS, "incepu")


class SimVPNetwork(nn.Module):
    """Frames ``(b, t, c, y, x)`` to the ``t`` that follow; y and x are multiples of ``reduction``.

    ``frames``: t. ``translator``: one of `TRANSLATORS`. ``width``: channels of a frame that is encoded. ``hidden``:
    channels of all frames together within the translator. ``layers``: of encoder and of decoder; every second one
    halves or doubles the grid. ``blocks``: of the translator, "incepu" has twice as many. ``kernels``: of encoder and
    of decoder, odd. ``expansion``: of the mixers in gated blocks.

    >>> import torch
    >>> network = SimVPNetwork(3, width=8, hidden=16, blocks=2)
    >>> network(torch.rand(2, 3, 1, 8, 12)).shape, network.reduction
    (torch.Size([2, 3, 1, 8, 12]), 4)
    """

    def __init__(
        self,
        frames: int,
        *,
        channels: int = 1,
        translator: str = "gsta",
        width: int = 64,
        hidden: int = 512,
        layers: int = 4,
        blocks: int = 8,
        kernels: tuple[int, int] = (3, 3),
        expansion: int = 8,
    ) -> None:
        super().__init__()
        resized = [i % 2 == 1 for i in range(layers)]
        self.reduction = 2 ** sum(resized)
        self.encoder = nn.Sequential(
            *(SpatialLayer(width if i else channels, width, kernels[0], down=resized[i]) for i in range(layers))
        )
        stacked = frames * width
        if translator == "incepu":
            self.translator: nn.Module = InceptionTranslator(stacked, hidden, blocks)
        else:
            widths = [stacked, *[hidden] * (blocks - 1), stacked]
            self.translator = gated_blocks(widths, ATTENTIONS[translator], expansion)
        self.decoder = nn.Sequential(*(SpatialLayer(width, width, kernels[1], up=up) for up in reversed(resized)))
        self.readout = nn.Conv2d(width, channels, 1)

    def forward(self, frames: Tensor) -> Tensor:
        b, t = frames.shape[:2]
        detail = self.encoder[0](frames.flatten(0, 1))  # on the full grid, what the last layer of the decoder adds
        encoded = self.encoder[1:](detail).unflatten(0, (b, t))
        ahead = self.translator(encoded.flatten(1, 2)).unflatten(1, (t, -1)).flatten(0, 1)
        return self.readout(self.decoder[-1](self.decoder[:-1](ahead) + detail)).unflatten(0, (b, t))


class SpatialLayer(nn.Module):
    """Convolution, norm over two groups, SiLU. (b, c, y, x) -> (b, out, y, x), on half or twice the grid if told so."""

    def __init__(self, width_in: int, width: int, kernel: int, *, down: bool = False, up: bool = False) -> None:
        super().__init__()
        self.up = up
        outputs, stride = 4 * width if up else width, 2 if down else 1
        self.convolution = nn.Conv2d(width_in, outputs, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.GroupNorm(2, width)
        nn.init.trunc_normal_(self.convolution.weight, std=0.02)
        if self.convolution.bias is not None:
            nn.init.zeros_(self.convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        return F.silu(self.norm(F.pixel_shuffle(x, 2) if self.up else x))
