"""Cuboid attention: within blocks of space and time, and to a few vectors that all blocks share.

Gao et al. (2022), Earthformer, arXiv:2207.05833, section 3.1. Maps are ``(b, t, y, x, c)``, vectors ``(b, g, c)``.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from xnowcast.nn.cuboids import Cuboid, Shape, relative_places, same_side

Padding = Literal["zeros", "ignore"]
"""Whether what fills a map up to whole cuboids is attended to, as zeros, or left out."""

Vectors = Literal["own", "shared"]
"""Whether what vectors and cells do for one another has projections of its own, or those of the cells and one more."""


def relative_bias(size: Shape, heads: int) -> nn.Parameter:
    """A table of what the distance of two cells adds to how they attend."""
    rows = (2 * size[0] - 1) * (2 * size[1] - 1) * (2 * size[2] - 1)
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(rows, heads), std=0.02))


class Roles(NamedTuple):
    """Queries, keys and values ``(b, ..., head, n, feature)`` between cells and vectors."""

    cell_query: Tensor
    vector_key: Tensor
    vector_value: Tensor
    vector_query: Tensor
    cell_key: Tensor
    cell_value: Tensor
    among: Tensor
    """Of the vectors to one another, the three of them stacked."""


class SharedProjections(nn.Module):
    """One projection of vectors for all that they do; cells keep theirs."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.vector = nn.Linear(width, 3 * width, bias=False)

    def forward(self, cells: Tensor, of_cells: Tensor, vectors: Tensor) -> Roles:
        q, k, v = among = apart(self.vector(vectors), self.heads, 3)
        cell_query, cell_key, cell_value = of_cells
        return Roles(cell_query, k, v, q, cell_key, cell_value, among)


class OwnProjections(nn.Module):
    """A projection for each of what cells and vectors do for one another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.cell_query, self.vector_query, self.cell_key, self.cell_value = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.vector_key_value = nn.Linear(width, 2 * width, bias=False)
        self.among = nn.Linear(width, 3 * width, bias=False)

    def forward(self, cells: Tensor, of_cells: Tensor, vectors: Tensor) -> Roles:
        (cell_query,), (cell_key,), (cell_value,) = (
            apart(part(cells), self.heads, 1) for part in (self.cell_query, self.cell_key, self.cell_value)
        )
        key, value = apart(self.vector_key_value(vectors), self.heads, 2)
        (query,) = apart(self.vector_query(vectors), self.heads, 1)
        return Roles(cell_query, key, value, query, cell_key, cell_value, apart(self.among(vectors), self.heads, 3))


def apart(projected: Tensor, heads: int, kinds: int) -> Tensor:
    """``(..., n, kinds * head * feature)`` to ``(kinds, ..., head, n, feature)``."""
    parts = projected.unflatten(-1, (kinds, heads, -1))
    return parts.movedim(-3, 0).transpose(-3, -2)


def gathered(scores: Sequence[Tensor], values: Sequence[Tensor], dropped: Callable[[Tensor], Tensor]) -> Tensor:
    """What is attended to in several places together: ``(..., query, feature)``.

    ``scores, values``: ``(..., query, key)`` and ``(..., key, feature)`` of each place; one softmax is for all.
    """
    weights = dropped(torch.cat(list(scores), dim=-1).softmax(dim=-1))
    parts = weights.split([one.shape[-1] for one in scores], dim=-1)
    found = parts[0] @ values[0]
    for part, value in zip(parts[1:], values[1:], strict=True):
        found = found + part @ value
    return found


def together(attended: Tensor) -> Tensor:
    """``(..., head, n, feature)`` to ``(..., n, c)``."""
    return attended.transpose(-3, -2).flatten(-2)


class CuboidAttention(nn.Module):
    """Attention of each cell to those of its cuboid and to the vectors, and of each vector to all cells and vectors.

    Maps and vectors (or None) to what is added to each of them. A table holds what each distance within a cuboid adds.

    ``cuboid``: as for the largest map. ``vectors``: "own" or "shared" projections for them, or None without vectors.
    ``published``: with ``padding="ignore"``, hide other cells from the vectors, as the authors' code does: it takes
    cells in the order of the map where they come in that of the cuboids.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        cuboid: Cuboid,
        *,
        vectors: Vectors | None = None,
        padding: Padding = "zeros",
        dropout: float = 0.0,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.cuboid, self.padding, self.dropout = heads, cuboid, padding, dropout
        self.scale, self.published = (width // heads) ** -0.5, published
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.bias = relative_bias(cuboid.size, heads)
        self.out = nn.Linear(width, width)
        self.exchange: nn.Module | None = None
        if vectors is not None:
            self.vector_norm = nn.LayerNorm(width)
            self.exchange = (OwnProjections if vectors == "own" else SharedProjections)(width, heads)
            self.vector_out = nn.Linear(width, width)

    def forward(self, x: Tensor, vectors: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        t, ny, nx = shape = x.shape[1:4]
        cuboid = self.cuboid.on(shape)
        more_t, more_y, more_x = (-n % size for n, size in zip(shape, cuboid.size, strict=True))
        filled = F.pad(self.norm(x), (0, 0, 0, more_x, 0, more_y, 0, more_t))
        known = None
        if self.padding == "ignore" and filled.shape != x.shape:
            known = F.pad(x.new_ones(1, t, ny, nx, 1, dtype=torch.bool), (0, 0, 0, more_x, 0, more_y, 0, more_t))

        cells = cuboid.split(filled)  # (b, cuboid, cell, c)
        q, k, v = qkv = apart(self.qkv(cells), self.heads, 3)  # (b, cuboid, head, cell, feature) each
        scores, values = [self._scores(q, k, cuboid, filled.shape[1:4], known)], [v]
        if self.exchange is not None and vectors is not None:
            roles: Roles = self.exchange(cells, qkv, self.vector_norm(vectors))
            scores.append(self.scale * roles.cell_query @ roles.vector_key[:, None].mT)
            values.append(roles.vector_value[:, None])
            vectors = self._of_vectors(roles, cuboid, known)
        attended = self._dropped(self.out(together(gathered(scores, values, self._dropped))))
        return cuboid.join(attended, filled.shape[1:4])[:, :t, :ny, :nx], vectors

    def _scores(self, q: Tensor, k: Tensor, cuboid: Cuboid, shape: Sequence[int], known: Tensor | None) -> Tensor:
        """Within cuboids, ``(b, cuboid, head, query, key)``; keys that are out of sight have next to no weight."""
        places = relative_places(self.cuboid.size, cuboid.size).to(q.device)
        scores = self.scale * q @ k.mT + self.bias[places].movedim(-1, 0)
        seen = same_side(cuboid, shape)
        if known is not None:
            keys = cuboid.split(known)[0, :, None, :, 0]
            seen = keys if seen is None else keys & seen.to(keys.device)
        if seen is None:
            return scores
        # not -inf: a query in a cuboid without any key, which is cut off in the end, must stay finite
        return scores.masked_fill(~seen[:, None].to(q.device), torch.finfo(scores.dtype).min)

    def _of_vectors(self, roles: Roles, cuboid: Cuboid, known: Tensor | None) -> Tensor:
        """What cells and vectors say to the vectors, ``(b, g, c)``."""
        key, value = (rearrange(one, "b n e i d -> b e (n i) d") for one in (roles.cell_key, roles.cell_value))
        to_cells = self.scale * roles.vector_query @ key.mT
        if known is not None:
            seen = cuboid.moved(known) if self.published else cuboid.split(known)
            to_cells = to_cells.masked_fill(~seen.flatten(), torch.finfo(to_cells.dtype).min)
        q, k, v = roles.among
        gathered_values = gathered([to_cells, self.scale * q @ k.mT], [value, v], self._dropped)
        return self._dropped(self.vector_out(together(gathered_values)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class FrameCrossAttention(nn.Module):
    """Attention of each cell to that cell in all frames of a memory, and to its vectors: "cross 1 x 1" of the paper.

    Maps ``(b, n, y, x, c)`` and a memory ``(b, t, y, x, c)`` to what is added to the maps. A table holds what the time
    between two frames adds, counted from the first of each.

    ``frames``: t and n at the most.
    """

    def __init__(
        self, width: int, heads: int, frames: tuple[int, int], *, vectors: Vectors | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.scale, self.span = heads, dropout, (width // heads) ** -0.5, sum(frames)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.bias = relative_bias((self.span, 1, 1), heads)
        self.out = nn.Linear(width, width)
        own = vectors == "own"
        self.vector_query = nn.Linear(width, width, bias=False) if own else None
        self.vector_key_value = nn.Linear(width, 2 * width, bias=False) if own else None

    def forward(self, x: Tensor, memory: Tensor, vectors: Tensor | None = None) -> Tensor:
        cells, known = (rearrange(one, "b t y x c -> b (y x) t c") for one in (self.norm(x), memory))
        (q,), (k, v) = apart(self.query(cells), self.heads, 1), apart(self.key_value(known), self.heads, 2)
        n, t = q.shape[-2], k.shape[-2]
        between = torch.arange(n)[:, None] - torch.arange(t) + self.span - 1
        scores, values = [self.scale * q @ k.mT + self.bias[between.to(q.device)].movedim(-1, 0)], [v]
        if vectors is not None:
            if self.vector_query is not None:
                (q,) = apart(self.vector_query(cells), self.heads, 1)
            key, value = apart((self.vector_key_value or self.key_value)(vectors), self.heads, 2)
            scores.append(self.scale * q @ key[:, None].mT)
            values.append(value[:, None])
        attended = self._dropped(self.out(together(gathered(scores, values, self._dropped))))
        return rearrange(attended, "b (y x) t c -> b t y x c", y=x.shape[2])

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class FeedForward(nn.Module):
    """Norm and two linear layers, four times as wide between, beside a shortcut. (..., c) -> same.

    ``gated``: what goes through the activation opens what does not.
    """

    def __init__(self, width: int, *, gated: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 4 * width) if gated else None
        self.inward, self.outward = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        given = self.norm(x)
        inside = self.inward(given)
        inside = F.gelu(inside) if self.gate is None else F.gelu(self.gate(given)) * inside
        return x + self.dropout(self.outward(self.dropout(inside)))


class CuboidBlock(nn.Module):
    """Attention within each of some cuboids in turn, a feed-forward layer after each. Maps and vectors -> same.

    ``gated``: see `FeedForward`. ``vector_feed_forward``: whether vectors have such layers too. Others: see
    `CuboidAttention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        cuboids: Sequence[Cuboid],
        *,
        vectors: Vectors | None = None,
        vector_feed_forward: bool = False,
        gated: bool = False,
        padding: Padding = "zeros",
        dropout: float = 0.0,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            CuboidAttention(width, heads, one, vectors=vectors, padding=padding, dropout=dropout, published=published)
            for one in cuboids
        )
        self.feed_forwards = nn.ModuleList(FeedForward(width, gated=gated, dropout=dropout) for _ in cuboids)
        self.vector_feed_forwards = nn.ModuleList(
            FeedForward(width, gated=gated, dropout=dropout) for _ in cuboids if vector_feed_forward
        )

    def forward(self, x: Tensor, vectors: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        for number, (attention, feed_forward) in enumerate(zip(self.attentions, self.feed_forwards, strict=True)):
            added, change = attention(x, vectors)
            x = feed_forward(x + added)
            if vectors is not None:
                vectors = vectors + change
                if len(self.vector_feed_forwards):
                    vectors = self.vector_feed_forwards[number](vectors)
        return x, vectors
