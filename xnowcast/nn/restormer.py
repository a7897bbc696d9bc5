"""A U-Net of transformer blocks that attend from channel to channel: Restormer (Zamir et al. 2022), as LPT-QPN has it.

Li et al. (2023), LPT-QPN, doi:10.1109/TGRS.2023.3328945, put sigmoids where Restormer has a softmax and none after a
norm, and let the gates of the feed-forward part be sigmoids. The work of a block is proportional to the cells.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from xnowcast.nn.blocks import ChannelNorm


class SigmoidNorm(ChannelNorm):
    """The sigmoid of a layer norm over the channels of each cell. (b, c, y, x) -> same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


class ChannelAttention(nn.Module):
    """Each channel of a head attends to all channels of it, by how alike their maps are. (b, c, y, x) -> same.

    Weights are sg(temperature q.k), q and k maps of length 1, and do not sum to 1. ``heads`` divide ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False)
        self.out = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ny, nx = x.shape[-2:]
        pattern = "b (three heads c) y x -> three b heads c (y x)"
        q, k, v = rearrange(self.depthwise(self.qkv(x)), pattern, three=3, heads=self.heads)
        alike = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT  # (b, heads, c, c)
        read = (self.temperature * alike).sigmoid() @ v
        return self.out(rearrange(read, "b heads c (y x) -> b (heads c) y x", y=ny, x=nx))


class GatedFeedForward(nn.Module):
    """GELU(u).sg(v), u and v from a 1 x 1 and a depthwise 3 x 3 convolution. (b, c, y, x) -> same.

    ``expansion``: channels of u over those of x.
    """

    def __init__(self, width: int, expansion: float) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.enter = nn.Conv2d(width, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.out = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.depthwise(self.enter(x)).chunk(2, dim=1)
        return self.out(F.gelu(u) * v.sigmoid())


class Block(nn.Module):
    """Attention from channel to channel, then the feed-forward part, each added to its input. (b, c, y, x) -> same."""

    def __init__(self, width: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = SigmoidNorm(width), ChannelAttention(width, heads)
        self.mix_norm, self.mix = SigmoidNorm(width), GatedFeedForward(width, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mix(self.mix_norm(x))


class ChannelTransformer(nn.Module):
    """Maps ``(b, inputs, y, x)`` to ``(b, outputs, y, x)``; the width doubles from scale to scale.

    Down by a convolution that halves the width and pixel unshuffling, up by one that doubles it and pixel shuffling; on
    the way up maps are joined with those of their scale on the way down, and go on half as wide but on the finest.

    ``width``: channels on the finest scale. ``blocks, heads``: a number for each of two or more scales, the finest
    first; y and x are multiples of ``2 ** (len(blocks) - 1)``. ``refinement``: blocks at the end. ``expansion``: of the
    feed-forward parts. All lists have the finest scale first.

    >>> network = ChannelTransformer(5, 3, width=8, blocks=(1, 1), heads=(1, 2), refinement=1)
    >>> network(torch.rand(2, 5, 6, 10)).shape
    torch.Size([2, 3, 6, 10])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        blocks: Sequence[int],
        heads: Sequence[int],
        refinement: int,
        expansion: float = 2.66,
    ) -> None:
        super().__init__()

        def stage(width: int, heads: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(Block(width, heads, expansion) for _ in range(count)))

        scales = range(len(blocks) - 1)  # but the coarsest
        widths = [width * 2**scale for scale in range(len(blocks))]
        ways_up = [2 * width, *widths[1:-1]]  # the finest maps are joined and not reduced
        self.embed = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(stage(widths[s], heads[s], blocks[s]) for s in scales)
        self.down = nn.ModuleList(nn.Conv2d(widths[s], widths[s] // 2, 3, padding=1, bias=False) for s in scales)
        self.central = stage(widths[-1], heads[-1], blocks[-1])
        self.up = nn.ModuleList(nn.Conv2d(widths[s + 1], 2 * widths[s + 1], 3, padding=1, bias=False) for s in scales)
        self.reduce = nn.ModuleList(nn.Conv2d(2 * widths[s], widths[s], 1, bias=False) for s in scales[1:])
        self.decoder = nn.ModuleList(stage(ways_up[s], heads[s], blocks[s]) for s in scales)
        self.refine = stage(ways_up[0], heads[0], refinement)
        self.read = nn.Conv2d(ways_up[0], outputs, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        maps, skips = self.embed(maps), []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            skips.append(blocks(maps))
            maps = F.pixel_unshuffle(down(skips[-1]), 2)
        maps = self.central(maps)
        ways = zip(skips, self.up, (nn.Identity(), *self.reduce), self.decoder, strict=True)
        for skip, up, reduce, blocks in reversed([*ways]):
            maps = blocks(reduce(torch.cat([F.pixel_shuffle(up(maps), 2), skip], dim=1)))
        return self.read(self.refine(maps))
