"""Attention over the cells of a frame and over the frames of a cell, with a weight for every pair and without.

Every module is ``x + attention(norm(x))`` for frames ``(b * t, c, y, x)``, the frame varying fastest, and is cheapest
where the channels lie together in memory (``torch.channels_last``).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from xnowcast.nn.blocks import ChannelNorm, ChannelRMSNorm

TOKENS_AT_ONCE = 2560
"""On a CPU: so many tokens leave their queries, keys and values in its cache, which all of a batch's would not."""

Order = Literal["auto", "features", "tokens"]

Norm = ChannelNorm | ChannelRMSNorm


def linear_attention(q: Tensor, k: Tensor, v: Tensor, order: Order = "auto", *, scale: float | None = None) -> Tensor:
    """Attention whose weights are a product, ``softmax_d(q) softmax_n(k)^T / sqrt(d)`` (Katharopoulos et al. 2020).

    ``q, k, v``: ``(..., n, d)``: n tokens of d features. ``order``: which product comes first, ``k^T v`` of d x d
    numbers or ``q k^T`` of n x n; the result is the same. "auto" takes the smaller. ``scale``: what stands for ``1 /
    sqrt(d)``. Returned: ``(..., n, d)``.

    >>> q, k, v = torch.randn(3, 2, 5, 8)
    >>> torch.allclose(linear_attention(q, k, v, "features"), linear_attention(q, k, v, "tokens"), atol=1e-6)
    True
    """
    n, d = q.shape[-2:]
    q, k = q.softmax(dim=-1) * (d**-0.5 if scale is None else scale), k.softmax(dim=-2)
    if order == "tokens" or (order == "auto" and n < d):
        return (q @ k.mT) @ v
    return q @ (k.mT @ v)


class _Attention(nn.Module):
    """What all have in common: a norm, one linear map to queries, keys and values, and one back.

    ``kernel``: queries, keys and values are made of so many cells along y and along x, odd; with 1 of the cell alone
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        *,
        norm_out: bool,
        kernel: int = 1,
        norm: type[Norm] = ChannelNorm,
    ) -> None:
        super().__init__()
        self.heads, self.head_width, self.kernel = heads, head_width, kernel
        self.norm = norm(width)
        widths = width, 3 * heads * head_width
        self.qkv: nn.Linear | nn.Conv2d = (
            nn.Linear(*widths, bias=False)
            if kernel == 1
            else nn.Conv2d(*widths, kernel, padding=kernel // 2, bias=False)
        )
        self.out = nn.Linear(heads * head_width, width)
        self.out_norm = ChannelNorm(width) if norm_out else None

    def _queries_keys_values(self, maps: Tensor) -> Tensor:
        """Channels last, (b, y, x, c) -> (b, y, x, 3 * heads * head_width)."""
        return self.qkv(maps) if self.kernel == 1 else self.qkv(maps.movedim(-1, 1)).movedim(1, -1)

    def _project(self, tokens: Tensor) -> Tensor:
        """Channels last, (..., heads * head_width) -> (..., c)."""
        tokens = self.out(tokens)
        return tokens if self.out_norm is None else self.out_norm.last(tokens)


class LinearSpatialAttention(_Attention):
    """Linear attention over the cells of each patch of a frame, or of the whole frame (STLDM and STVD).

    (b, c, y, x) -> same; patches of ``patch`` cells along y and along x, or ``patches`` of them along each, which must
    divide the grid. ``averaged``: what is found is divided by the cells of a patch, as in STVD's published code.
    ``kernel``: of the convolution that makes queries, keys and values, of the frame before it is cut into patches
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int = 4,
        head_width: int = 32,
        patch: int | None = None,
        patches: int = 1,
        averaged: bool = False,
        kernel: int = 1,
    ) -> None:
        super().__init__(width, heads, head_width, norm_out=True, kernel=kernel)
        self.patch, self.patches, self.averaged = patch, patches, averaged

    def forward(self, x: Tensor) -> Tensor:
        ny, nx = x.shape[-2:]
        rows, columns = self._patches(ny, nx)
        return torch.cat([self._attend(part, rows, columns) for part in x.split(_at_once(x, ny * nx))])

    def _attend(self, x: Tensor, rows: int, columns: int) -> Tensor:
        qkv = self._queries_keys_values(self.norm.last(x.movedim(1, -1)))
        # each patch is a head of its own: (b, y, x, c) -> (3, patch, head, cell, feature)
        pattern = "b (rows p) (columns q) (three e d) -> three (b rows columns e) (p q) d"
        q, k, v = rearrange(qkv, pattern, rows=rows, columns=columns, three=3, e=self.heads)
        back = "(b rows columns e) (p q) d -> b (rows p) (columns q) (e d)"
        scale = self.head_width**-0.5 / (q.shape[-2] if self.averaged else 1)
        out = rearrange(
            linear_attention(q, k, v, scale=scale),
            back,
            rows=rows,
            columns=columns,
            e=self.heads,
            p=x.shape[-2] // rows,
        )
        return x + self._project(out).movedim(-1, 1)

    def _patches(self, ny: int, nx: int) -> tuple[int, int]:
        if self.patch is None:
            if ny % self.patches or nx % self.patches:
                raise ValueError(f"a grid of {ny} x {nx} cells has no {self.patches} x {self.patches} patches: pad it")
            return self.patches, self.patches
        if ny % self.patch or nx % self.patch:
            raise ValueError(f"patches of {self.patch} cells do not divide a grid of {ny} x {nx}: pad it")
        return ny // self.patch, nx // self.patch


class SpatialAttention(_Attention):
    """Softmax attention over all cells of a frame (Vaswani et al. 2017). (b, c, y, x) -> same."""

    def __init__(
        self,
        width: int,
        *,
        heads: int = 4,
        head_width: int = 32,
        kernel: int = 1,
        norm: type[Norm] = ChannelNorm,
    ) -> None:
        super().__init__(width, heads, head_width, norm_out=False, kernel=kernel, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        ny, nx = x.shape[-2:]
        qkv = self._queries_keys_values(self.norm.last(x.movedim(1, -1)))
        q, k, v = rearrange(qkv, "b y x (three e d) -> three b e (y x) d", three=3, e=self.heads)
        out = rearrange(F.scaled_dot_product_attention(q, k, v), "b e (y x) d -> b y x (e d)", y=ny, x=nx)
        return x + self._project(out).movedim(-1, 1)


class TemporalAttention(_Attention):
    """Attention over the frames of each cell, or of whole maps; it knows no order (STLDM and STVD).

    x (b * t, c, y, x), frames t -> same

    ``linear``: linear attention, with a norm on its output, instead of softmax attention. ``whole_map``: a token is the
    map of a frame, so that all cells share their weights, instead of one cell of it. ``norm_over``: "time" is what
    STLDM's published code does: the norm before the attention is taken over the frames. ``averaged``: what linear
    attention finds is divided by the cells of the map, as in STVD's published code.
    """

    norm: ChannelNorm

    def __init__(
        self,
        width: int,
        *,
        heads: int = 4,
        head_width: int = 32,
        linear: bool = False,
        whole_map: bool = False,
        norm_over: Literal["channels", "time"] = "channels",
        averaged: bool = False,
        kernel: int = 1,
    ) -> None:
        super().__init__(width, heads, head_width, norm_out=linear, kernel=kernel)
        self.linear, self.whole_map, self.norm_over = linear, whole_map, norm_over
        self.averaged = averaged

    def forward(self, x: Tensor, frames: int) -> Tensor:
        cells = rearrange(x, "(b t) c y x -> b t (y x) c", t=frames)
        if self.kernel > 1:  # of neighbours, so that parts of the cells do not do
            maps = rearrange(self._normed(cells), "b t (y x) c -> (b t) y x c", y=x.shape[-2])
            cells = rearrange(self._queries_keys_values(maps), "(b t) y x c -> b t (y x) c", t=frames)
        parts = (cells,) if self.whole_map else cells.split(_at_once(x, len(x)), dim=2)
        divisor = cells.shape[2] if self.averaged else 1
        out = torch.cat([self._attend(part, divisor) for part in parts], dim=2)
        return x + rearrange(out, "b t (y x) c -> (b t) c y x", y=x.shape[-2])

    def _attend(self, cells: Tensor, divisor: int) -> Tensor:
        """Frames of some cells, or queries, keys and values that were made of all, (b, t, s, c) -> same."""
        tokens = "three b e t (s d)" if self.whole_map else "three (b s) e t d"
        qkv = self.qkv(self._normed(cells)) if self.kernel == 1 else cells
        q, k, v = rearrange(qkv, f"b t s (three e d) -> {tokens}", three=3, e=self.heads)
        scale = self.head_width**-0.5  # also where the tokens are whole maps
        if self.linear:
            out = linear_attention(q, k, v, scale=scale / divisor)
        else:
            out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        back = "b e t (s d) -> b t s (e d)" if self.whole_map else "(b s) e t d -> b t s (e d)"
        return self._project(rearrange(out, back, s=cells.shape[2]))

    def _normed(self, tokens: Tensor) -> Tensor:
        if self.norm_over == "channels":
            return self.norm.last(tokens)
        variance, mean = torch.var_mean(tokens, dim=1, unbiased=False, keepdim=True)
        return (tokens - mean) * torch.rsqrt(variance + self.norm.eps) * self.norm.gain


def _at_once(x: Tensor, tokens: int) -> int:
    """How many groups of so many tokens are attended to together."""
    return max(1, TOKENS_AT_ONCE // tokens if x.device.type == "cpu" else x.numel())
