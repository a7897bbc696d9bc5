"""PhyDNet: what a differential equation can tell of the next frame, and what it leaves to recurrent cells.

Guen and Thome (2020), Disentangling physical dynamics from unknown factors for unsupervised video prediction,
arXiv:2003.01460.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast.nn.recurrent.convlstm import ConvLSTM

GROUPS = 16
"""Of the norms outside the physical cell; widths are multiples of it."""


class PhyCell(nn.Module):
    """A step along an equation of partial derivatives, corrected by what is seen. x, h (b, c, y, x) -> h.

    The first of its layers learns the derivatives, each a filter of ``kernel`` x ``kernel`` cells, of as many orders
    along y and along x; the second says how they add up.
    """

    def __init__(self, width: int, *, kernel: int = 7) -> None:
        super().__init__()
        self.derivatives = nn.Conv2d(width, kernel**2, kernel, padding=kernel // 2)
        self.norm = nn.GroupNorm(kernel, kernel**2)
        self.sum = nn.Conv2d(kernel**2, width, 1)
        self.gate = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        h = torch.zeros_like(x) if h is None else h
        predicted = h + self.sum(self.norm(self.derivatives(h)))
        trust = self.gate(torch.cat([x, h], dim=1)).sigmoid()
        return predicted + trust * (x - predicted)

    def moment_loss(self) -> Tensor:
        """How far the filters are from derivatives: each should have one moment that is 1, and no other. A scalar."""
        weight = self.derivatives.weight.float()
        size = weight.shape[-1]
        wanted = torch.eye(size**2, device=weight.device).view(-1, 1, size, size)
        return (kernel_moments(weight) - wanted).square().mean(dim=(0, 2, 3)).sum()


def kernel_moments(kernels: Tensor) -> Tensor:
    """Moments of filters (..., k, k), by order along y and along x: what they make of powers, over factorials.

    A filter whose moment (i, j) alone is 1 says the derivative of order i along y and j along x, for fields that are
    polynomials.

    >>> slope = torch.tensor([[0.0, 0.0, 0.0], [-0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])
    >>> kernel_moments(slope).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    size = kernels.shape[-1]
    place = [offset - size // 2 for offset in range(size)]
    powers = kernels.new_tensor([[offset**order / math.factorial(order) for offset in place] for order in range(size)])
    return powers @ kernels @ powers.mT


class PhyDNetwork(nn.Module):
    """A frame and the state (None at the first) to the next frame between 0 and 1, and the next state.

    x (b, 1, y, x), y and x multiples of 4. ``image``: channels of half the grid; a quarter of it has twice as many.
    ``width``: of both branches. ``hidden``: of the ConvLSTMs, the last of them ``width``.

    >>> network = PhyDNetwork(image=16, width=16, hidden=(16, 16))
    >>> frame, state = network(torch.rand(2, 1, 12, 16))
    >>> network(frame, state)[0].shape
    torch.Size([2, 1, 12, 16])
    """

    def __init__(
        self, *, image: int = 32, width: int = 64, hidden: Sequence[int] = (128, 128, 64), kernel: int = 7
    ) -> None:
        super().__init__()
        coarse = 2 * image
        self.encoder = nn.Sequential(_down(1, image, 2), _down(image, image), _down(image, coarse, 2))
        self.physical_encoder, self.recurrent_encoder = (
            nn.Sequential(_down(coarse, width), _down(width, width)) for _ in range(2)
        )
        self.physical = PhyCell(width, kernel=kernel)
        self.recurrent = nn.ModuleList(
            ConvLSTM(own, inputs=below, separate=False) for below, own in pairwise([width, *hidden])
        )
        self.physical_decoder, self.recurrent_decoder = (
            nn.Sequential(_up(width, width), _up(width, coarse)) for _ in range(2)
        )
        self.decoder = nn.Sequential(_up(coarse, image, 2), _up(image, image))
        self.read = nn.ConvTranspose2d(image, 1, 3, stride=2, padding=1, output_padding=1)

    def forward(self, frame: Tensor, carried: Any = None) -> tuple[Tensor, Any]:
        change, carried = self.logits(frame, carried)
        return change.sigmoid(), carried

    def logits(self, frame: Tensor, carried: Any = None) -> tuple[Tensor, Any]:
        """The next frame as it is before it is brought between 0 and 1."""
        physical, states = carried or (None, (None,) * len(self.recurrent))
        seen = self.encoder(frame)
        physical = self.physical(self.physical_encoder(seen), physical)
        hidden, following = self.recurrent_encoder(seen), []
        for cell, state in zip(self.recurrent, states, strict=True):
            hidden, state, _ = cell(hidden, state)
            following.append(state)
        both = self.physical_decoder(physical) + self.recurrent_decoder(hidden)
        return self.read(self.decoder(both)), (physical, tuple(following))


def _down(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution, norm, leaky ReLU."""
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride=stride, padding=1), *_after(width))


def _up(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 transposed convolution, norm, leaky ReLU."""
    turned = nn.ConvTranspose2d(width_in, width, 3, stride=stride, padding=1, output_padding=stride - 1)
    return nn.Sequential(turned, *_after(width))


def _after(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(GROUPS, width), nn.LeakyReLU(0.2)
