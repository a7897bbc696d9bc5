"""STLDM's translator: the latent frames of the past to a first estimate of those to come.

Foo et al. (2026), appendix A.2: gated spatio-temporal attention of SimVP (Tan et al. 2022), which is convolutions with
large kernels over frames that are stacked as channels.
"""

from typing import cast

import torch
from torch import Tensor, nn

from xnowcast.nn.gated_attention import GatedBlock, gated_blocks


class Translator(nn.Module):
    """Latent frames (b, m, c, y, x) to mean and log-variance of those to come, (b, n, c, y, x) each.

    A residual one begins with weights that say 0 of everything, and learns which share of the newest frame's detail
    stays.
    """

    def __init__(
        self,
        input_frames: int,
        target_frames: int,
        *,
        latent: int = 32,
        width: int = 512,
        blocks: int = 8,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.target_frames = target_frames
        widths = [input_frames * latent, *[width] * (blocks - 1), 2 * target_frames * latent]
        self.blocks = gated_blocks(widths)
        if residual:
            silent = nn.Conv2d(widths[-2], widths[-1], 1)
            nn.init.zeros_(silent.weight)
            nn.init.zeros_(cast(Tensor, silent.bias))
            cast(GatedBlock, self.blocks[-1]).leave = silent
            self.kept = nn.Parameter(torch.ones(target_frames))

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.blocks(latent.flatten(1, 2).contiguous(memory_format=torch.channels_last))
        mean, log_variance = moments.unflatten(1, (2, self.target_frames, -1)).unbind(1)
        return mean, log_variance
