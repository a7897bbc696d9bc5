"""ConvLSTM (Shi et al. 2015, arXiv:1506.04214), without peepholes."""

from torch import Tensor

from xnowcast.nn.joint_convolution import JointConvolution
from xnowcast.nn.recurrent.cell import Cell, State, gated, updated


class ConvLSTM(Cell):
    """C' = sg(f).C + sg(i).tanh(g); H' = sg(o).tanh(C'), with i, f, g, o = Wx*X + Wh*H. State: H, C.

    ``inputs``: channels of X, where it has others than H. ``separate``: see `JointConvolution`.

    >>> import torch
    >>> cell = ConvLSTM(8)
    >>> h, state, _ = cell(torch.rand(1, 8, 12, 16))
    >>> h, state, _ = cell(torch.rand(1, 8, 12, 16), state)
    >>> h.shape
    torch.Size([1, 8, 12, 16])
    """

    def __init__(self, width: int, *, inputs: int | None = None, kernel: int = 3, separate: bool = True) -> None:
        super().__init__()
        self.width = width
        self.gates = JointConvolution((inputs or width, width), 4 * width, kernel, separate=separate)

    def forward(
        self, x: Tensor, state: State | None = None, memory: Tensor | None = None, *, below: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        h, c = state or (None, None)
        ifg, o = self.gates(x, h).split((3 * self.width, self.width), dim=1)
        c = updated(ifg, c)
        h = gated(o, c)
        return h, (h, c), None
