"""An encoder and a decoder of ConvGRU cells, whose scales are pixels folded into channels: all of ConvGRU-Ensemble."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xnowcast.nn.recurrent.cell import State
from xnowcast.nn.recurrent.convgru import ConvGRU


class GRUPyramid(nn.Module):
    """Frames that follow some frames, unrolled from noise on the coarsest scale.

    Encoder: at each frame, from the finest scale to the coarsest, a cell is followed by pixel unshuffling, so that a
    map of half the size has four times the channels. Decoder: at each lead time, from the coarsest scale to the finest,
    a cell is followed by pixel shuffling. A cell of the decoder begins with what the encoder last said on its scale;
    the first one reads numbers from outside, zero or noise, and the others read the one before. Nothing forecast is
    read again.

    ``blocks``: scales. ``kernel``: width of the kernels, odd.

    >>> network = GRUPyramid(2)
    >>> frames, noise = torch.rand(1, 6, 1, 16, 20), torch.randn(3, 7, *network.noise_shape(16, 20))
    >>> network(frames, noise).shape
    torch.Size([3, 7, 1, 16, 20])
    """

    def __init__(self, blocks: int, kernel: int = 3) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(ConvGRU(4**level, kernel=kernel) for level in range(blocks))
        self.decoder = nn.ModuleList(ConvGRU(4**level, kernel=kernel) for level in range(blocks, 0, -1))

    def noise_shape(self, ny: int, nx: int) -> tuple[int, int, int]:
        """Channels and cells of what the decoder reads at each lead time, for frames of ``(ny, nx)`` cells."""
        side = 2 ** len(self.encoder)
        return side**2, ny // side, nx // side

    def forward(self, frames: Tensor, noise: Tensor) -> Tensor:
        """``(b, t, 1, y, x)`` and noise ``(b * m, steps, *noise_shape)`` to ``(b * m, steps, 1, y, x)``.

        The member varies fastest. ``y`` and ``x`` are multiples of 2 ** blocks.
        """
        members = len(noise) // len(frames)
        return self.decode([folded.repeat_interleave(members, dim=0) for folded in self.encode(frames)], noise)

    def encode(self, frames: Tensor) -> list[Tensor]:
        """What the frames leave behind on each scale, the finest first: ``(b, 4 ** k, y / 2 ** k, x / 2 ** k)``."""
        states: list[State | None] = [None] * len(self.encoder)
        folded: list[Tensor] = []
        for frame in frames.unbind(1):
            folded = []
            for level, cell in enumerate(self.encoder):
                h, states[level], _ = cell(folded[-1] if folded else frame, states[level])
                folded.append(F.pixel_unshuffle(h, 2))
        return folded

    def decode(self, folded: list[Tensor], noise: Tensor) -> Tensor:
        """One frame for each lead time of the noise, from what `encode` gave for each member."""
        states: list[State] = [(h,) for h in reversed(folded)]
        frames = []
        for x in noise.unbind(1):
            for level, cell in enumerate(self.decoder):
                h, states[level], _ = cell(x, states[level])
                x = F.pixel_shuffle(h, 2)
            frames.append(x)
        return torch.stack(frames, dim=1)
