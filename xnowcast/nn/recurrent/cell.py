"""What every recurrent cell is, and the memory update that most of them share."""

from typing import Any, Self

import torch
from torch import Tensor, nn

State = tuple[Tensor | None, ...]
"""What a cell carries from one step to its own next; the hidden map H is first."""


class Cell(nn.Module):
    """One layer of a convolutional recurrent network.

    ``cell(x, state, memory, below=...)`` takes the layer's input ``(b, width, y, x)``, what the same cell returned as
    state one step before (None at the first), the zigzag memory M that the cell before it in the chain returned (None
    at the first, and always for cells without one), and gives ``(h, state, memory)``. Maps have the size of the input,
    its dtype and its device; nothing is fixed when the cell is built. States begin at zero.

    ``below`` is the output of the cell below at the size of ``x``, without skip sums: what cells that look at
    differences in time compare with at the next step. The others do not look at it.
    """

    options: tuple[str, ...] = ()
    """Options of this kind that `stack` takes, besides ``kernel``."""

    def forward(
        self, x: Tensor, state: State | None = None, memory: Tensor | None = None, *, below: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor | None]:
        raise NotImplementedError

    @classmethod
    def stack(cls, width: int, depth: int, **options: Any) -> list[Self]:
        """The cells of a network of ``depth`` layers, from the first to the last; some kinds differ by position."""
        return [cls(width, **options) for _ in range(depth)]


def updated(gates: Tensor, memory: Tensor | None) -> Tensor:
    """sg(f).memory + sg(i).tanh(g), the update of every gated memory in this family.

    ``gates``: ``(b, 3 c, y, x)``: i, f and g before their activations. Overwritten where no gradient is recorded.
    ``memory``: ``(b, c, y, x)``; None is zero. Returned: ``(b, c, y, x)``.
    """
    i, f, g = gates.chunk(3, dim=1)
    if memory is None:
        return i.sigmoid() * g.tanh()
    if torch.is_grad_enabled():
        return torch.addcmul(f.sigmoid() * memory, i.sigmoid(), g.tanh())
    return f.sigmoid_().mul_(memory).addcmul_(i.sigmoid_(), g.tanh_())


def gated(gate: Tensor, value: Tensor) -> Tensor:
    """sg(gate).tanh(value); ``gate`` is overwritten where no gradient is recorded."""
    if torch.is_grad_enabled():
        return gate.sigmoid() * value.tanh()
    return gate.sigmoid_().mul_(value.tanh())
