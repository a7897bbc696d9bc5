"""Convolutions of several maps whose results are added, computed as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class JointConvolution(nn.Module):
    """The sum of one convolution per map, as a single convolution over the maps' concatenation.

    The sum is the same and the cost is less: one pass instead of several and no intermediate sums. Each convolution
    keeps its own bias and its own initial scale, so it trains as the separate convolutions would.

    ``inputs``: channels of each map. ``outputs``: channels of the result. ``kernel``: width of the kernel, odd; the
    result has the size of the maps. ``separate``: True: one convolution per map, each with its bias. False: one
    convolution over the concatenation. ValueError if ``kernel`` is even.

    >>> gates = JointConvolution((4, 4), 12)
    >>> x, h = torch.rand(2, 1, 4, 8, 8)
    >>> gates(x, h).shape
    torch.Size([1, 12, 8, 8])
    >>> bool(torch.isclose(gates(x, None), gates(x, 0 * h), atol=1e-6).all())
    True
    """

    def __init__(self, inputs: Sequence[int], outputs: int, kernel: int = 3, *, separate: bool = True) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel is {kernel} cells wide: choose an odd width")
        self.inputs, self.kernel, self.separate = tuple(inputs), kernel, separate
        self.weight = nn.Parameter(torch.empty(outputs, sum(inputs), kernel, kernel))
        self.bias = nn.Parameter(torch.empty(len(inputs) if separate else 1, outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights as ``torch.nn.Conv2d`` does: uniform within 1 / sqrt(fan in) of each convolution."""
        fans = self.inputs if self.separate else (sum(self.inputs),)
        with torch.no_grad():
            for weight, bias, fan in zip(self.weight.split(fans, dim=1), self.bias, fans, strict=True):
                bound = (fan * self.kernel**2) ** -0.5
                weight.uniform_(-bound, bound)
                bias.uniform_(-bound, bound)

    def forward(self, *maps: Tensor | None) -> Tensor:
        """Maps ``(b, inputs[k], y, x)`` to ``(b, outputs, y, x)``; a map that is None is zero and costs nothing."""
        present = [m for m in maps if m is not None]
        weight: Tensor = self.weight
        if len(present) < len(maps):
            parts = zip(weight.split(self.inputs, dim=1), maps, strict=True)
            weight = torch.cat([part for part, m in parts if m is not None], dim=1)
        return self._convolve(present[0] if len(present) == 1 else torch.cat(present, dim=1), weight)

    def of_joined(self, joined: Tensor) -> Tensor:
        """The same for maps that are concatenated already: ``(b, sum of inputs, y, x)``."""
        return self._convolve(joined, self.weight)

    def _convolve(self, joined: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(joined, weight, self.bias.sum(0), padding=self.kernel // 2)
