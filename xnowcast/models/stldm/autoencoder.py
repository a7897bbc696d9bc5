"""STLDM's autoencoder: radar frames to latent frames of a quarter of the grid, one by one, and back.

Foo et al. (2026), appendix A.1: convolutions alone and no skip connections, after SimVP.
"""

import torch
from torch import Tensor, nn

CELLS_AT_ONCE = 2**21
"""Cells of the frames that are encoded or decoded together: a quarter of a GiB per layer at full size."""


class Autoencoder(nn.Module):
    """Frames (n, 1, y, x) in [0, 1] to mean and log-variance (n, width, y / reduction, x / reduction), and back.

    ``width`` is even; every second of the layers of encoder and decoder halves or doubles the grid.
    """

    def __init__(self, *, width: int = 32, layers: int = 4) -> None:
        super().__init__()
        halves = [i % 2 == 1 for i in range(layers)]
        self.reduction = 2 ** sum(halves)
        self.encoder = nn.Sequential(*(_layer(width if i else 1, width, half) for i, half in enumerate(halves)))
        # The paper gives both of these a norm; the published code, whose parameters they are, does not.
        self.moments = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.entry = nn.Conv2d(width, width, 3, padding=1)
        self.decoder = nn.Sequential(*(_layer(width, width, half, up=True) for half in reversed(halves)))
        self.readout = nn.Conv2d(width, 1, 1)

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent frames."""
        mean, log_variance = self.moments(self.encoder(frames)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latent: Tensor) -> Tensor:
        """Frames between 0 and 1; without gradients a few at a time, so that memory stays bounded."""
        at_once = max(1, CELLS_AT_ONCE // (latent.shape[-2] * latent.shape[-1] * self.reduction**2))
        if torch.is_grad_enabled() or len(latent) <= at_once:
            return self._decode(latent)
        return torch.cat([self._decode(part) for part in latent.split(at_once)])

    def _decode(self, latent: Tensor) -> Tensor:
        return torch.sigmoid(self.readout(self.decoder(self.entry(latent))))


def _layer(width_in: int, width: int, half: bool, up: bool = False) -> nn.Sequential:
    """3 x 3 convolution, norm over two groups, leaky ReLU; the way up is a transposed convolution."""
    if up and half:
        convolution: nn.Module = nn.ConvTranspose2d(width_in, width, 3, stride=2, padding=1, output_padding=1)
    else:
        convolution = nn.Conv2d(width_in, width, 3, stride=2 if half else 1, padding=1)
    return nn.Sequential(convolution, nn.GroupNorm(2, width), nn.LeakyReLU(0.2))
