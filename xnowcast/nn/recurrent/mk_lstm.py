"""MK-LSTM (Ma et al. 2023, arXiv:2304.07724), the cell of MS-LSTM: kernels of two widths, each with its memory."""

import torch
from torch import Tensor, nn

from xnowcast.nn.joint_convolution import JointConvolution
from xnowcast.nn.recurrent.cell import Cell, State, gated, updated


class MKLSTM(Cell):
    """C_k' as ConvLSTM with a kernel of k cells; O = sum over k of o_k + W_k*C_k'; H' = sg(O).tanh(W1x1[C_3', C_5']).

    State: H, C_3, C_5. ``width``: channels. ``kernel``: width of the narrower kernels, odd; the others are two cells
    wider.

    >>> cell = MKLSTM(8)
    >>> h, state, _ = cell(torch.rand(1, 8, 12, 16))
    >>> h, state, _ = cell(torch.rand(1, 8, 12, 16), state)
    >>> h.shape
    torch.Size([1, 8, 12, 16])
    """

    def __init__(self, width: int, *, kernel: int = 3) -> None:
        super().__init__()
        kernels = (kernel, kernel + 2)
        self.gates = nn.ModuleList(JointConvolution((width, width), 4 * width, k) for k in kernels)
        self.output = nn.ModuleList(JointConvolution((width,), width, k) for k in kernels)
        self.value = nn.Conv2d(len(kernels) * width, width, 1)

    def forward(
        self, x: Tensor, state: State | None = None, memory: Tensor | None = None, *, below: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        h, *memories = state or (None, None, None)
        width = x.shape[1]
        remembered, opened = [], []
        for gates, output, c in zip(self.gates, self.output, memories, strict=True):
            ifg, o = gates(x, h).split((3 * width, width), dim=1)
            remembered.append(updated(ifg, c))
            opened.append(o + output(remembered[-1]))
        h = gated(opened[0] + opened[1], self.value(torch.cat(remembered, dim=1)))
        return h, (h, *remembered), None
