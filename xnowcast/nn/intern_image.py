"""InternImage: a backbone of four stages whose blocks gather with deformable convolutions (Wang et al. 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xnowcast.nn.deformable import DeformableConvolution


class InternImage(nn.Module):
    """InternImage (arXiv:2211.05778, table 1). x (b, c, y, x) -> four maps at 1/4, 1/8, 1/16 and 1/32 of the grid.

    The defaults are its "T". Map i has ``width * 2**i`` channels; channels lie together in memory.

    Parameters
    ----------
    channels : int
        Of the input.
    width : int
        C, channels after the stem.
    depths, groups : sequence of int
        Blocks, and groups of the deformable convolutions, of each stage.
    drop_path : float
        Chance with which the last block is left out for a sample in training; it rises linearly over the blocks.

    Examples
    --------
    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in InternImage(3).parameters())
    28769520
    >>> [tuple(m.shape[1:]) for m in InternImage(2, width=8, depths=(1, 1), groups=(1, 2))(torch.rand(1, 2, 32, 24))]
    [(8, 8, 6), (16, 4, 3)]
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.widths = tuple(width * 2**level for level in range(len(depths)))
        self.stem = Stem(channels, width)
        chances = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        last = len(depths) - 1
        self.stages = nn.ModuleList(
            Stage(w, group, [next(chances) for _ in range(depth)], down=level < last)
            for level, (w, depth, group) in enumerate(zip(self.widths, depths, groups, strict=True))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            found, x = stage(x)
            maps.append(found.permute(0, 3, 1, 2))
        return maps


class Stem(nn.Module):
    """Two 3 x 3 convolutions with stride 2. (b, channels, y, x) -> (b, y / 4, x / 4, width)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = Down(channels, width // 2, bias=True)
        self.second = Down(width // 2, width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        return self.second(nn.functional.gelu(self.first(x)))


class Down(nn.Module):
    """3 x 3 convolution with stride 2, and layer norm. (b, y, x, c) -> (b, y / 2, x / 2, out)."""

    def __init__(self, width_in: int, width_out: int, *, bias: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=bias)
        self.norm = nn.LayerNorm(width_out, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks of one width, and a norm. (b, y, x, c) -> the same, and (b, y / 2, x / 2, 2 c) for the next stage."""

    def __init__(self, width: int, groups: int, drop_path: Sequence[float], *, down: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, groups, chance) for chance in drop_path)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.down = Down(width, 2 * width) if down else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x, self.down(x)


class Block(nn.Module):
    """Deformable convolution and a perceptron, each after a norm and beside a shortcut. (b, y, x, c) -> same."""

    def __init__(self, width: int, groups: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.gather_norm = nn.LayerNorm(width, eps=1e-6)
        self.gather = DeformableConvolution(width, groups)
        self.gather_scale = nn.Parameter(torch.ones(width))
        self.mix_norm = nn.LayerNorm(width, eps=1e-6)
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mix_scale = nn.Parameter(torch.ones(width))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.gather_scale * self.gather(self.gather_norm(x)))
        return x + self._drop(self.mix_scale * self.mix(self.mix_norm(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        """Leave the branch out for some samples in training, and enlarge it for the others (Huang et al. 2016)."""
        if not self.training or self.drop_path == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= self.drop_path
        return branch * (kept / (1 - self.drop_path)).to(branch.dtype)
