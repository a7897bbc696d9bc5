"""PredRNN's spatio-temporal LSTM (Wang et al. 2017), with the memory M that zigzags through layers and steps."""

import torch
from torch import Tensor, nn

from xnowcast.nn.joint_convolution import JointConvolution
from xnowcast.nn.recurrent.cell import Cell, State, updated


class PredRNN(Cell):
    """ST-LSTM: C' as ConvLSTM; M' likewise from X and M; H' = sg(o + Wco*C' + Wmo*M').tanh(W1x1[C', M']). State: H, C.

    >>> import torch
    >>> lower, upper = PredRNN.stack(8, depth=2)
    >>> x = torch.rand(1, 8, 12, 16)
    >>> h, state, memory = lower(x)
    >>> h, _, memory = upper(h, None, memory)
    >>> h, state, memory = lower(x, state, memory)  # the next step takes the memory from the top
    >>> memory.shape
    torch.Size([1, 8, 12, 16])
    """

    def __init__(self, width: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.gates = JointConvolution((width, width), 4 * width, kernel)
        self.memory_gates = JointConvolution((width, width), 3 * width, kernel)
        self.output = MemoryOutput(width, 2, kernel)

    def forward(
        self, x: Tensor, state: State | None = None, memory: Tensor | None = None, *, below: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        h, c = state or (None, None)
        width = x.shape[1]
        ifg, o = self.gates(x, h).split((3 * width, width), dim=1)
        c = updated(ifg, c)
        memory = updated(self.memory_gates(x, memory), memory)
        h, _ = self.output(o, c, memory)
        return h, (h, c), memory


class MemoryOutput(nn.Module):
    """O = sg(o + sum of W*memory), H = O.tanh(W1x1[memories]): what memories show. Maps (b, width, y, x) -> H, O."""

    def __init__(self, width: int, memories: int, kernel: int) -> None:
        super().__init__()
        self.gate = JointConvolution((width,) * memories, width, kernel)
        self.value = nn.Conv2d(memories * width, width, 1)

    def forward(self, o: Tensor, *memories: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat(memories, dim=1)
        gate = (self.gate.of_joined(joined) + o).sigmoid()
        return gate * self.value(joined).tanh(), gate
