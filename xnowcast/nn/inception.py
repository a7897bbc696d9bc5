"""SimVP's first translator: convolutions with several kernels side by side, over frames that are stacked as channels.

Gao et al. (2022), SimVP, arXiv:2206.05099, where it is called IncepU.
"""

import torch
from torch import Tensor, nn

KERNELS = (3, 5, 7, 11)

GROUPS = 8
"""Of convolutions and norms, where they divide the channels."""


class InceptionUnit(nn.Module):
    """Kernels of four sizes on what a 1 x 1 convolution makes of the map; their sum. (b, c, y, x) -> (b, out, y, x)."""

    def __init__(self, width_in: int, inside: int, width_out: int) -> None:
        super().__init__()
        groups = 1 if inside % GROUPS or width_out % GROUPS else GROUPS
        self.enter = nn.Conv2d(width_in, inside, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inside, width_out, kernel, padding=kernel // 2, groups=groups),
                nn.GroupNorm(groups, width_out),
                nn.LeakyReLU(0.2),
            )
            for kernel in KERNELS
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


class InceptionTranslator(nn.Module):
    """Units in the order of a U-Net, on one scale: each of the second half also reads its counterpart's map.

    ``stacked``: channels that come in and go out. ``hidden``: those between. ``units``: in each half.

    >>> InceptionTranslator(stacked=20, hidden=16, units=3)(torch.rand(1, 20, 9, 7)).shape
    torch.Size([1, 20, 9, 7])
    """

    def __init__(self, stacked: int, hidden: int, units: int) -> None:
        super().__init__()
        outputs = [*[hidden] * (units - 1), stacked]
        inside = hidden // 2
        self.first = nn.ModuleList(InceptionUnit(hidden if i else stacked, inside, hidden) for i in range(units))
        self.second = nn.ModuleList(
            InceptionUnit(2 * hidden if i else hidden, inside, out) for i, out in enumerate(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        for unit in self.first:
            x = unit(x)
            found.append(x)
        for number, unit in enumerate(self.second):
            x = unit(torch.cat([x, found[-1 - number]], dim=1) if number else x)
        return x
