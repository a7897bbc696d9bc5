"""Axial attention that knows how far apart two places are (Wang et al. 2020, Axial-DeepLab, arXiv:2003.07853)."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from xnowcast.nn.sequence_norm import SequenceNorm

LARGEST_SIMILARITY = 2**26
"""Numbers of similarity that are held at once where a network no longer learns: a quarter of a GiB."""


class PositionalBlock(nn.Module):
    """Attention along y, then along x, between two 1 x 1 convolutions and beside a shortcut.

    ``(b, c, y, x)`` -> same, with ``width`` channels inside. ``grid``: cells along y and x whose distances are learnt.
    """

    def __init__(
        self, channels: int, width: int, groups: int, grid: tuple[int, int], *, batch_statistics: bool
    ) -> None:
        super().__init__()
        self.inward = nn.Conv2d(channels, width, 1, bias=False)
        self.norm_in = SequenceNorm(width, batch_statistics=batch_statistics)
        self.along_y, self.along_x = (
            PositionalAttention(width, groups, length, batch_statistics=batch_statistics) for length in grid
        )
        self.outward = nn.Conv2d(width, channels, 1, bias=False)
        self.norm_out = SequenceNorm(channels, batch_statistics=batch_statistics)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.norm_in(self.inward(x)).relu()
        inside = self.along_y(rearrange(inside, "b c y x -> (b x) c y"))
        inside = self.along_x(rearrange(inside, "(b x) c y -> (b y) c x", b=len(x)))
        inside = rearrange(inside, "(b y) c x -> b c y x", b=len(x))
        return (x + self.norm_out(self.outward(inside.relu()))).relu()


class PositionalAttention(nn.Module):
    """Attention within lines, in which queries, keys and values also see how far apart two places are.

    ``(line, c, n)`` -> same. Similarities are those of query and key, of query and distance, and of key and distance,
    each normalised by itself, and what is gathered are values and distances, normalised likewise (equation 4 of Wang et
    al. 2020, with batch norms in place of a scale). ``length``: the places of a line whose distances are learnt; places
    that lie farther apart count as the farthest of these.
    """

    def __init__(self, width: int, groups: int, length: int, *, batch_statistics: bool) -> None:
        super().__init__()
        self.groups, self.length = groups, length
        self.qkv = nn.Conv1d(width, 2 * width, 1, bias=False)
        self.norm_qkv = SequenceNorm(2 * width, batch_statistics=batch_statistics)
        self.norm_similarity = SequenceNorm(3 * groups, batch_statistics=batch_statistics)
        self.norm_gathered = SequenceNorm(2 * width, batch_statistics=batch_statistics)
        self.relative = nn.Parameter(torch.empty(2 * (width // groups), 2 * length - 1))
        nn.init.normal_(self.qkv.weight, 0.0, math.sqrt(1 / width))
        nn.init.normal_(self.relative, 0.0, math.sqrt(groups / width))

    def forward(self, lines: Tensor) -> Tensor:
        count, _, n = lines.shape
        if not self.norm_similarity.tells_samples_apart:
            return self._attended(lines)
        at_once = max(1, LARGEST_SIMILARITY // (3 * self.groups * n**2))
        return torch.cat([self._attended(some) for some in lines.split(min(count, at_once))])

    def _attended(self, lines: Tensor) -> Tensor:
        qkv = rearrange(self.norm_qkv(self.qkv(lines)), "l (e c) n -> l e c n", e=self.groups)
        half = qkv.shape[2] // 4
        q, k, v = qkv.split((half, half, 2 * half), dim=2)
        to_q, to_k, to_v = self._distances(lines.shape[-1]).split((half, half, 2 * half))  # (c, n, n) each
        similar = (
            torch.einsum("leci,lecj->leij", q, k),
            torch.einsum("leci,cij->leij", q, to_q),
            torch.einsum("lecj,cji->leij", k, to_k),
        )
        weights = rearrange(self.norm_similarity(torch.cat(similar, dim=1)), "l (kind e) i j -> kind l e i j", kind=3)
        weights = weights.sum(dim=0).softmax(dim=-1)
        values = torch.einsum("leij,lecj->leci", weights, v), torch.einsum("leij,cij->leci", weights, to_v)
        gathered = self.norm_gathered(rearrange([*values], "kind l e c n -> l (e c kind) n"))
        return rearrange(gathered, "l (c kind) n -> kind l c n", kind=2).sum(dim=0)

    def _distances(self, n: int) -> Tensor:
        """The codes (c, i, j) of the distances i - j in a line of n places."""
        places = torch.arange(n, device=self.relative.device)
        apart = (places[:, None] - places).clamp(1 - self.length, self.length - 1)
        return self.relative[:, apart + self.length - 1]
