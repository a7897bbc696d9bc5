"""Attention of every cell to the square window around it, in blocks, so that memory stays bounded."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

BLOCKS = {"cpu": (8, 16)}
"""Cells along y and x whose queries share their keys. On a GPU fewer and larger blocks cost less than many calls."""


class LocalAttention(nn.Module):
    """Attention of every cell to the window around it (PrecipLSTM, Ma et al. 2022).

    Queries, keys and values are 1 x 1 convolutions without bias; the weights are the softmax of the dot products,
    which are not scaled. Keys beyond the edge of the map have no weight.

    ``width``: channels. ``window``: width of the window in cells, odd. The paper's 30 has no middle; 31 has.
    ``beyond``: see `local_attention`. ValueError if ``window`` is even or less than 1.

    >>> LocalAttention(4, window=7)(torch.rand(1, 4, 20, 12)).shape
    torch.Size([1, 4, 20, 12])
    """

    def __init__(self, width: int, window: int = 31, *, beyond: bool = False) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"the window is {window} cells wide: it needs a middle, so choose an odd number above 0")
        self.window, self.beyond = window, beyond
        self.project = nn.Conv2d(width, 3 * width, 1, bias=False)  # queries, keys, values

    def forward(self, x: Tensor) -> Tensor:
        """``(b, width, y, x)`` to the same shape."""
        query, key, value = self.project(x).chunk(3, dim=1)
        if torch.is_grad_enabled():  # the gathered blocks are many times the map: gather them again for the gradient
            return checkpoint(local_attention, query, key, value, self.window, self.beyond, use_reentrant=False)
        return local_attention(query, key, value, self.window, self.beyond)


def local_attention(query: Tensor, key: Tensor, value: Tensor, window: int, beyond: bool = False) -> Tensor:
    """Softmax-weighted mean of the values in the window around every cell.

    A block of queries shares its keys: those of the block and of a margin of half a window, as far as the map goes.
    Memory for the weights grows with a block, not with the map.

    ``query, key, value``: ``(b, c, y, x)`` each. ``window``: width of the window in cells, odd. ``beyond``: whether
    cells beyond the edge, with keys and values of 0, count, as in the authors' code. Returned: ``(b, c, y, x)``.

    Equal keys give the mean over the cells of the window that lie on the map:

    >>> value = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> local_attention(torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 3, 3), value, window=3)[0, 0, 0, 0].item()
    2.0
    """
    (ny, nx), reach = query.shape[-2:], window // 2
    margin = reach if beyond else 0
    high, wide = BLOCKS.get(query.device.type, (32, 32))
    key, value = (F.pad(m, (margin,) * 4) for m in (key, value))
    query, key, value = (m.permute(0, 2, 3, 1).contiguous() for m in (query, key, value))
    masks: dict[tuple[tuple[int, int, int], ...], Tensor] = {}  # blocks away from the edges have the same
    rows = []
    for y, keys_y in _pieces(ny, high, reach, margin):
        row = []
        for x, keys_x in _pieces(nx, wide, reach, margin):
            place = _relative(y, keys_y, margin), _relative(x, keys_x, margin)
            if place not in masks:
                masks[place] = _mask(*place, reach=reach, like=query)
            block = F.scaled_dot_product_attention(
                query[:, None, y, x].flatten(2, 3),
                key[:, None, keys_y, keys_x].flatten(2, 3),
                value[:, None, keys_y, keys_x].flatten(2, 3),
                attn_mask=masks[place],
                scale=1.0,
            )
            row.append(block[:, 0].unflatten(1, (y.stop - y.start, -1)))
        rows.append(torch.cat(row, dim=2))
    return torch.cat(rows, dim=1).permute(0, 3, 1, 2)


def _pieces(n: int, size: int, reach: int, margin: int) -> list[tuple[slice, slice]]:
    """Pieces of a dimension, each with the part of the keys that its windows cover; they have a margin on each side."""
    pieces = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    return [
        (p, slice(max(p.start - reach, -margin) + margin, min(p.stop + reach, n + margin) + margin)) for p in pieces
    ]


def _relative(queries: slice, keys: slice, margin: int) -> tuple[int, int, int]:
    """Number of queries, number of keys, and where the first query lies among the keys."""
    return queries.stop - queries.start, keys.stop - keys.start, queries.start + margin - keys.start


def _mask(y: tuple[int, int, int], x: tuple[int, int, int], *, reach: int, like: Tensor) -> Tensor:
    """0 where a key lies in a query's window, else -inf: ``(queries, keys)``."""
    near_y, near_x = (
        (torch.arange(first, first + queries)[:, None] - torch.arange(keys)).abs() <= reach
        for queries, keys, first in (y, x)
    )
    near = (near_y[:, None, :, None] & near_x[None, :, None, :]).flatten(2, 3).flatten(0, 1)
    return torch.zeros(near.shape, dtype=like.dtype).masked_fill_(~near, float("-inf")).to(like.device)
