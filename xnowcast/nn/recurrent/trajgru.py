"""TrajGRU (Shi et al. 2017, arXiv:1706.03458): a GRU whose recurrent links follow a learned motion."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xnowcast.nn.joint_convolution import JointConvolution
from xnowcast.nn.recurrent.cell import Cell, State
from xnowcast.nn.warp import warp

SLOPE = 0.2  # of the leaky ReLU


class TrajGRU(Cell):
    """H' = (1 - z).h~ + z.H, the hidden parts of z, r and h~ read along L learned links. State: H.

    ``width``: channels. ``kernel``: width of the kernels, odd. ``links``: l, how many places each cell reads.
    ``published``: as the authors' code does, which rescales positions for one convention and reads them by the other,
    so that links of length zero change the map.
    """

    options = ("links", "published")

    def __init__(self, width: int, *, kernel: int = 3, links: int = 10, published: bool = False) -> None:
        super().__init__()
        self.links, self.published = links, published
        self.input = nn.Conv2d(width, 3 * width, kernel, padding=kernel // 2)  # z, r, h~ from X
        self.motion = JointConvolution((width, width), width, kernel)
        self.flow = nn.Conv2d(width, 2 * links, kernel, padding=kernel // 2)
        self.hidden = nn.Conv2d(links * width, 3 * width, 1)  # z, r, h~ from the warped H

    def forward(
        self, x: Tensor, state: State | None = None, memory: Tensor | None = None, *, below: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        h = state[0] if state else None
        flow = self.flow(F.leaky_relu(self.motion(x, h), SLOPE)).unflatten(1, (self.links, 2))
        if h is None:
            h = torch.zeros_like(x)
        # channels of the warped maps: link by link within each channel of H
        from_hidden = self.hidden(warp(h, -flow, stretched=self.published).flatten(1, 2))
        zx, rx, hx = self.input(x).chunk(3, dim=1)
        zh, rh, hh = from_hidden.chunk(3, dim=1)
        z = (zx + zh).sigmoid()
        candidate = F.leaky_relu(torch.addcmul(hx, (rx + rh).sigmoid(), hh), SLOPE)
        h = torch.lerp(candidate, h.to(candidate.dtype), z)
        return h, (h,), None
