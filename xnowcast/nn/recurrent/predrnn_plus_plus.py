"""PredRNN++ (Wang et al. 2018, arXiv:1804.06300): causal LSTM cells and one gradient highway unit."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from xnowcast.nn.joint_convolution import JointConvolution
from xnowcast.nn.recurrent.cell import Cell, State, updated


class PredRNNPlusPlus(Cell):
    """Causal LSTM: the memory M is updated after, and from, C. State: H, C, and Z where the cell has the highway.

    ``width``: channels. ``kernel``: width of the kernels, odd. ``highway``: whether X first passes the gradient highway
    unit. In a stack the second cell alone has one. ``lean``: False: a cell without highway holds the highway's weights
    all the same, as in the published code, where nothing reads them; they are not trained.
    """

    options = ("lean",)

    def __init__(self, width: int, *, kernel: int = 3, highway: bool = True, lean: bool = False) -> None:
        super().__init__()
        three = (width, width, width)
        self.gates = JointConvolution(three, 3 * width, kernel, separate=False)  # W1
        self.memory_gates = JointConvolution(three, 3 * width, kernel, separate=False)  # W2
        self.forget = nn.Conv2d(width, width, 1)  # W3
        self.output = JointConvolution(three, width, kernel, separate=False)  # W5
        self.value = nn.Conv2d(2 * width, width, 1)  # W6
        if highway:
            self.highway = GradientHighway(width, kernel)
        elif not lean:
            self.idle = GradientHighway(width, kernel).requires_grad_(False)

    @classmethod
    def stack(cls, width: int, depth: int, **options: Any) -> list[Self]:
        return [cls(width, highway=position == 1, **options) for position in range(depth)]

    def forward(
        self, x: Tensor, state: State | None = None, memory: Tensor | None = None, *, below: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        h, c, z = state or (None, None, None)
        if hasattr(self, "highway"):
            x = z = self.highway(x, z)
        c = updated(self.gates(x, h, c), c)
        kept = self.forget(torch.zeros_like(x) if memory is None else memory).tanh()
        memory = updated(self.memory_gates(x, c, memory), kept)
        o = self.output(x, c, memory).tanh()
        h = o * self.value(torch.cat([c, memory], dim=1)).tanh()
        return h, (h, c, z), memory


class GradientHighway(nn.Module):
    """Gradient highway unit: S.P + (1 - S).Z, P and S from X and Z. Maps (b, width, y, x), Z None for zero -> Z'."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.gates = JointConvolution((width, width), 2 * width, kernel)

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        p, s = self.gates(x, z).chunk(2, dim=1)
        p, s = p.tanh(), s.sigmoid()
        return s * p if z is None else torch.lerp(z.to(p.dtype), p, s)
