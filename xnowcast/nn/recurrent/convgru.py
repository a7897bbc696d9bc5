"""ConvGRU: a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) whose products are convolutions."""

import torch
from torch import Tensor

from xnowcast.nn.joint_convolution import JointConvolution
from xnowcast.nn.recurrent.cell import Cell, State


class ConvGRU(Cell):
    """H' = (1 - z).H + z.tanh(W*[X, r.H]), with z, r = sg(W*[X, H]). State: H.

    It is no cell of MS-RNN, but what `xnowcast.nn.gru_pyramid.GRUPyramid` is made of.

    >>> cell = ConvGRU(4)
    >>> h, state, _ = cell(torch.rand(1, 4, 12, 16))
    >>> h, state, _ = cell(torch.rand(1, 4, 12, 16), state)
    >>> h.shape
    torch.Size([1, 4, 12, 16])
    """

    def __init__(self, width: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.gates = JointConvolution((width, width), 2 * width, kernel, separate=False)  # z, r
        self.candidate = JointConvolution((width, width), width, kernel, separate=False)

    def forward(
        self, x: Tensor, state: State | None = None, memory: Tensor | None = None, *, below: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        h = state[0] if state else None
        z, r = self.gates(x, h).sigmoid().chunk(2, dim=1)
        candidate = self.candidate(x, None if h is None else r * h).tanh()
        h = z * candidate if h is None else torch.lerp(h.to(candidate.dtype), candidate, z)
        return h, (h,), None
