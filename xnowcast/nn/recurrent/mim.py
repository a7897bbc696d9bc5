"""MIM, memory in memory (Wang et al. 2019, arXiv:1811.07490): differences in time drive the forget gate."""

from typing import Any, Self

from torch import Tensor, nn

from xnowcast.nn.joint_convolution import JointConvolution
from xnowcast.nn.recurrent.cell import Cell, State, gated, updated
from xnowcast.nn.recurrent.predrnn import MemoryOutput

DIFFERENCES = ("below", "own")


class MIM(Cell):
    """ST-LSTM in which C' = T + sg(i).tanh(g), T learned from the change of the input. State: H, C, N, S, X_prev.

    With dX = X - X_prev: N' = sg(f).N + sg(i).tanh(g) from dX and N; D = sg(Wd*dX + Wn*N').tanh(N');
    S' likewise from D and C, o_s among its gates; T = sg(o_s + Ws*S').tanh(S').

    ``width``: channels. ``kernel``: width of the kernels, odd. ``first``: the first cell of a stack is an ST-LSTM and
    looks at no differences. ``difference``: what X_prev is: what the cell below gave one step before, without skip
    sums, as in the published code; or the cell's own last input. They differ where skips are added. ``lean``: False:
    the cell holds weights that the published code has and nothing reads (the forget gate of C; in a first cell all that
    makes T); they are not trained. ValueError if ``difference`` is neither.
    """

    options = ("difference", "lean")

    def __init__(
        self, width: int, *, kernel: int = 3, first: bool = False, difference: str = "below", lean: bool = False
    ) -> None:
        super().__init__()
        if difference not in DIFFERENCES:
            raise ValueError(f"difference is {difference!r}: choose one of {', '.join(DIFFERENCES)}")
        self.first, self.difference = first, difference
        two = (width, width)
        self.gates = JointConvolution(two, (4 if first else 3) * width, kernel)  # i, (f,) g, o
        self.memory_gates = JointConvolution(two, 3 * width, kernel)
        self.output = MemoryOutput(width, 2, kernel)
        if not first:
            self.trend = Trend(width, kernel)
        if not lean:
            idle = Trend(width, kernel) if first else JointConvolution(two, width, kernel)
            self.idle = idle.requires_grad_(False)

    @classmethod
    def stack(cls, width: int, depth: int, **options: Any) -> list[Self]:
        return [cls(width, first=position == 0, **options) for position in range(depth)]

    def forward(
        self, x: Tensor, state: State | None = None, memory: Tensor | None = None, *, below: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        h, _, state, memory = self.remember(x, state, memory, below)
        return h, state, memory

    def remember(
        self, x: Tensor, state: State | None, memory: Tensor | None, below: Tensor | None
    ) -> tuple[Tensor, Tensor, State, Tensor]:
        """H', the opened output gate O, the state and M'."""
        h, c, n, s, previous = state or (None,) * 5
        width = x.shape[1]
        gates = self.gates(x, h)
        if self.first:
            c = updated(gates[:, : 3 * width], c)
        else:
            t, n, s = self.trend(x if previous is None else x - previous, c, n, s)
            i, g = gates[:, : 2 * width].chunk(2, dim=1)
            c = t + gated(i, g)
            previous = below if self.difference == "below" and below is not None else x
        memory = updated(self.memory_gates(x, memory), memory)
        h, opened = self.output(gates[:, -width:], c, memory)
        return h, opened, (h, c, n, s, previous), memory


class Trend(nn.Module):
    """MIM's two modules in one: dX, C, N, S (b, width, y, x each, None for zero but dX) -> T, N', S'."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        two = (width, width)
        self.nonstationary = JointConvolution(two, 3 * width, kernel)  # i, f, g from dX, N
        self.difference = JointConvolution(two, width, kernel)  # Wd, Wn
        self.stationary = JointConvolution(two, 4 * width, kernel)  # i, f, g, o from D, C
        self.output = JointConvolution((width,), width, kernel)  # Ws

    def forward(
        self, dx: Tensor, c: Tensor | None, n: Tensor | None, s: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = dx.shape[1]
        n = updated(self.nonstationary(dx, n), n)
        d = gated(self.difference(dx, n), n)
        ifg, o = self.stationary(d, c).split((3 * width, width), dim=1)
        s = updated(ifg, s)
        return gated(self.output(s) + o, s), n, s
