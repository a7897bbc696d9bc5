"""InternImage: a backbone of four stages whose blocks gather with deformable convolutions (Wang et al. 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xnowcast.nn.blocks import dropped
from xnowcast.nn.deformable import DeformableConvolution


@dataclass(frozen=True)
class Variant:
    """What sizes of InternImage differ in beside widths and depths; the defaults are those of "T".

    ``norms``: of both halves of a block before what they compute, after it, or both. ``layer_scale``: at which the
    weights of the halves begin. ``offset_scale``, ``depthwise``, ``centre`` and ``centre_share``: see
    `DeformableConvolution`. ``normed_blocks``: numbers of the blocks of the third stage with a further norm behind.
    """

    norms: Literal["before", "after", "both"] = "before"
    layer_scale: float = 1.0
    offset_scale: float = 1.0
    depthwise: int = 3
    centre: bool = True
    centre_share: bool = False
    normed_blocks: tuple[int, ...] = ()

    @property
    def gathering(self) -> dict[str, Any]:
        """Of the deformable convolutions."""
        return {name: getattr(self, name) for name in ("depthwise", "offset_scale", "centre", "centre_share")}


@dataclass(frozen=True)
class Size:
    """A published size: see `InternImage`."""

    width: int
    depths: tuple[int, ...]
    groups: tuple[int, ...]
    drop_path: float
    variant: Variant


_AFTER = Variant(norms="after", layer_scale=1e-5)
_TWICE_AS_FAR = Variant(norms="after", layer_scale=1e-5, offset_scale=2.0)
_HUGE = Variant(norms="both", depthwise=5, centre_share=True, normed_blocks=(5, 11, 17, 23, 29))

INTERN_IMAGE_SIZES = {
    "t": Size(64, (4, 4, 18, 4), (4, 8, 16, 32), 0.1, Variant()),
    "s": Size(80, (4, 4, 21, 4), (5, 10, 20, 40), 0.4, _AFTER),
    "b": Size(112, (4, 4, 21, 4), (7, 14, 28, 56), 0.5, _AFTER),
    "l": Size(160, (5, 5, 22, 5), (10, 20, 40, 80), 0.1, _TWICE_AS_FAR),
    "xl": Size(192, (5, 5, 24, 5), (12, 24, 48, 96), 0.2, _TWICE_AS_FAR),
    "h": Size(320, (6, 6, 32, 6), (10, 20, 40, 80), 0.2, _HUGE),
}
"""As the configurations of the authors' code for ImageNet have them."""


class InternImage(nn.Module):
    """InternImage (arXiv:2211.05778, table 1). x (b, c, y, x) -> four maps at 1/4, 1/8, 1/16 and 1/32 of the grid.

    The defaults are its "T"; `INTERN_IMAGE_SIZES` has the others. Map i has ``width * 2**i`` channels; channels lie
    together in memory.

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
    variant : Variant
        Where norms stand and what the deformable convolutions see.

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
        variant: Variant = Variant(),
    ) -> None:
        super().__init__()
        self.widths = tuple(width * 2**level for level in range(len(depths)))
        self.stem = Stem(channels, width)
        chances = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        last = len(depths) - 1
        self.stages = nn.ModuleList(
            Stage(w, group, [next(chances) for _ in range(depth)], variant, down=level < last, third=level == 2)
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

    def __init__(
        self,
        width: int,
        groups: int,
        drop_path: Sequence[float],
        variant: Variant = Variant(),
        *,
        down: bool,
        third: bool = False,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, groups, chance, variant) for chance in drop_path)
        self.normed_blocks = variant.normed_blocks if third else ()
        self.block_norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in self.normed_blocks)
        self.norm = nn.Identity() if variant.norms == "after" else nn.LayerNorm(width, eps=1e-6)
        self.down = Down(width, 2 * width) if down else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        norms = dict(zip(self.normed_blocks, self.block_norms, strict=True))
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in norms:
                x = norms[number](x)
        x = self.norm(x)
        return x, self.down(x)


class Block(nn.Module):
    """Deformable convolution and a perceptron, each with a norm and beside a shortcut. (b, y, x, c) -> same."""

    def __init__(self, width: int, groups: int, drop_path: float = 0.0, variant: Variant = Variant()) -> None:
        super().__init__()
        self.norms, both = variant.norms, variant.norms == "both"
        self.gather_norm = nn.LayerNorm(width, eps=1e-6)
        self.gather = DeformableConvolution(width, groups, **variant.gathering)
        self.gather_norm_behind = nn.LayerNorm(width, eps=1e-6) if both else nn.Identity()
        self.gather_scale = nn.Parameter(torch.full((width,), variant.layer_scale))
        self.mix_norm = nn.LayerNorm(width, eps=1e-6)
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mix_norm_behind = nn.LayerNorm(width, eps=1e-6) if both else nn.Identity()
        self.mix_scale = nn.Parameter(torch.full((width,), variant.layer_scale))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        if self.norms == "after":
            x = x + self._drop(self.gather_scale * self.gather_norm(self.gather(x)))
            return x + self._drop(self.mix_scale * self.mix_norm(self.mix(x)))
        x = x + self._drop(self.gather_scale * self.gather_norm_behind(self.gather(self.gather_norm(x))))
        return x + self._drop(self.mix_scale * self.mix_norm_behind(self.mix(self.mix_norm(x))))

    def _drop(self, branch: Tensor) -> Tensor:
        return dropped(branch, self.drop_path) if self.training else branch
