"""MotionRNN (Wu et al. 2021, arXiv:2103.02243) on MIM cells: a learned motion warps what each cell shows."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xnowcast.nn.recurrent.cell import Cell, State
from xnowcast.nn.recurrent.mim import MIM
from xnowcast.nn.warp import warp

INERTIA = 0.5  # of the trend: how far D moves towards F at each step
FIELDS = 9  # 3 x 3 displacement fields


class MotionRNN(Cell):
    """A MIM cell whose H' passes a MotionGRU, and a highway H = X + (1 - O).X_in. State: that of MIM, then F, D.

    H, after the highway, is what both the next layer and the next step see, as in the published code.

    ``width``: channels, a multiple of 4. ``last``: MotionGRU and highway stand between layers, so the last cell of a
    stack has neither and shows H'; unless ``lean`` it holds the weights of a MotionGRU all the same, as the published
    code does, which computes one and does not look at it. ``published``: see `MotionGRU`. ``kernel, first, difference,
    lean``: as for `MIM`. ValueError if ``width`` is no multiple of 4.
    """

    options = ("difference", "lean", "published")

    def __init__(
        self,
        width: int,
        *,
        kernel: int = 3,
        first: bool = False,
        last: bool = False,
        difference: str = "below",
        lean: bool = False,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.cell = MIM(width, kernel=kernel, first=first, difference=difference, lean=lean)
        self.last = last
        if not last:
            self.motion = MotionGRU(width, published=published)
        elif not lean:
            self.idle = MotionGRU(width).requires_grad_(False)

    @classmethod
    def stack(cls, width: int, depth: int, **options: Any) -> list[Self]:
        return [cls(width, first=i == 0, last=i == depth - 1, **options) for i in range(depth)]

    def forward(
        self, x: Tensor, state: State | None = None, memory: Tensor | None = None, *, below: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        state = state or (None,) * 7
        motion, trend = state[5:]
        h, opened, remembered, memory = self.cell.remember(x, state[:5], memory, below)
        if not self.last:
            h, motion, trend = self.motion(h, motion, trend)
            h = torch.addcmul(h, 1 - opened, x)
        return h, (h, *remembered[1:], motion, trend), memory


class MotionGRU(nn.Module):
    """Warps a map along motion that it remembers on half the grid: H (b, c, y, x), F, D -> X, F', D'.

    E = conv(H); u, r = sg(W[E, F]); z = tanh(W[E, r.F]); F~ = u.z + (1 - u).F; D' = D + 0.5 (F - D); F' = F~ + D'.
    E is read along the 9 fields of F', masked by sg(W*E), brought back to the grid as Hd, and
    X = g.H + (1 - g).Hd with g = sg(W[Hd, H]). A row or column too many for halving is filled up with its neighbour.

    ``published``: as the authors' code does: positions are stretched as by `warp`, the samples of a batch are read
    along one another's fields, and what was read at a place goes to others.
    """

    def __init__(self, width: int, *, published: bool = False) -> None:
        super().__init__()
        self.published = published
        if width % 4:
            raise ValueError(f"the width is {width}: MotionRNN quarters it, so choose a multiple of 4")
        quarter, flow = width // 4, 2 * FIELDS
        self.encode = nn.Conv2d(width, quarter, 2, stride=2)
        self.gates = nn.Conv2d(quarter + flow, 2 * flow, 1)  # u, r
        self.candidate = nn.Conv2d(quarter + flow, flow, 1)  # z
        self.mask = nn.Conv2d(quarter, FIELDS, 1)
        self.mix = nn.Conv2d(FIELDS * quarter, quarter, 1)
        self.decode = nn.ConvTranspose2d(quarter, width, 4, stride=2, padding=1)
        self.blend = nn.Conv2d(2 * width, width, 1)

    def forward(self, h: Tensor, motion: Tensor | None, trend: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        ny, nx = h.shape[-2:]
        e = self.encode(F.pad(h, (0, nx % 2, 0, ny % 2), mode="replicate"))
        if motion is None or trend is None:
            motion = trend = torch.zeros_like(e[:, :1]).expand(-1, 2 * FIELDS, -1, -1)
        u, r = self.gates(torch.cat([e, motion], dim=1)).sigmoid().chunk(2, dim=1)
        z = self.candidate(torch.cat([e, r * motion], dim=1)).tanh()
        trend = torch.lerp(trend, motion, INERTIA)
        motion = torch.lerp(motion, z, u) + trend
        shown = self.decode(self.mix(self._read(e, motion)))[..., :ny, :nx]
        g = self.blend(torch.cat([shown, h], dim=1)).sigmoid()
        return torch.lerp(shown, h, g), motion, trend

    def _read(self, e: Tensor, motion: Tensor) -> Tensor:
        """E (b, c, y, x) along the fields F (b, 18, y, x), masked: (b, 9 c, y, x)."""
        mask = self.mask(e).sigmoid().unsqueeze(1)
        if not self.published:
            return (warp(e, motion.unflatten(1, (FIELDS, 2))) * mask).flatten(1, 2)
        mixed = motion.reshape(FIELDS, len(e), 2, *e.shape[-2:]).transpose(0, 1)  # not the transpose of an unflatten
        read = warp(e, mixed, stretched=True) * mask
        return read.movedim(2, -1).reshape(len(e), -1, *e.shape[-2:])  # fields were last there, and lie among places
