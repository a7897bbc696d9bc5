"""PrecipLSTM (Ma et al. 2022, doi:10.1109/TGRS.2022.3198222): memories of space and of change, local attention."""

from torch import Tensor

from xnowcast.nn.joint_convolution import JointConvolution
from xnowcast.nn.local_attention import LocalAttention
from xnowcast.nn.recurrent.cell import Cell, State, updated
from xnowcast.nn.recurrent.predrnn import MemoryOutput


class PrecipLSTM(Cell):
    """Xa = X + W*LocalAttention(X) feeds C, M and MS; MT is fed by the change of X. State: H, C, MS, MT, X_prev.

    H' = sg(o + sum W*{C', MS', MT', M'}).tanh(W1x1[C', MS', MT', M']); X_prev is the cell's own last input.

    ``width``: channels. ``kernel``: width of the kernels, odd. ``window``: width of the attention's window in cells,
    odd. ``published``: as the authors' code does, where cells beyond the edge of the map have a share of the attention.
    """

    options = ("window", "published")

    def __init__(self, width: int, *, kernel: int = 3, window: int = 31, published: bool = False) -> None:
        super().__init__()
        two = (width, width)
        self.attention = LocalAttention(width, window, beyond=published)
        self.attended = JointConvolution((width,), width, kernel)
        self.gates = JointConvolution(two, 4 * width, kernel)
        self.memory_gates = JointConvolution(two, 3 * width, kernel)
        self.space_gates = JointConvolution(two, 3 * width, kernel)
        self.time_gates = JointConvolution(two, 3 * width, kernel)
        self.output = MemoryOutput(width, 4, kernel)

    def forward(
        self, x: Tensor, state: State | None = None, memory: Tensor | None = None, *, below: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        h, c, space, time, previous = state or (None,) * 5
        width = x.shape[1]
        xa = x + self.attended(self.attention(x))
        ifg, o = self.gates(xa, h).split((3 * width, width), dim=1)
        c = updated(ifg, c)
        memory = updated(self.memory_gates(xa, memory), memory)
        space = updated(self.space_gates(xa, space), space)
        time = updated(self.time_gates(x if previous is None else x - previous, time), time)
        h, _ = self.output(o, c, space, time, memory)
        return h, (h, c, space, time, x), memory
