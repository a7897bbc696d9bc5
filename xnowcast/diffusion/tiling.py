"""Large grids in tiles, which a network sees one by one and which are blended into one field.

Inside a sampler that is done at every step, with noise that belongs to the whole grid, so that tiles agree where they
meet.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xnowcast.diffusion.samplers import Denoise


@dataclass(frozen=True)
class Window:
    """Where a tile lies on the grid; the last two dims of a tensor are y and x.

    Examples
    --------
    >>> Window(0, 2, 2, 3)(torch.arange(12).reshape(2, 6)).tolist()
    [[2, 3, 4], [8, 9, 10]]
    """

    top: int
    left: int
    height: int
    width: int

    def __call__(self, field: Tensor) -> Tensor:
        """The part of ``(..., y, x)`` that lies in the window; a view."""
        return field[..., self.top : self.top + self.height, self.left : self.left + self.width]


def tiled(
    denoise: Callable[[Tensor, float, Window], Tensor],
    shape: tuple[int, int],
    *,
    tile: int,
    overlap: int,
    margin: int = 0,
    multiple: int = 1,
) -> Denoise:
    """A denoiser for a grid that is larger than the network's field of view.

    Parameters
    ----------
    denoise : callable
        ``(x, step, window)`` to the expected signal of one tile; ``window`` cuts the tile's condition out of a
        condition for the whole grid.
    shape : (int, int)
        Cells of the grid along y and x.
    tile : int
        Cells of a tile along y and along x. A grid that is no larger is one tile.
    overlap : int
        Cells that neighbouring tiles share at the least.
    margin : int
        Cells along a tile's inner edges that count for nothing. A denoiser that sees no further than this many cells
        gives the same with and without tiles.
    multiple : int
        Tiles start at multiples of this, as networks that reduce the grid need it.

    Returns
    -------
    callable
        ``denoise(x, step) -> x0`` for ``x`` of ``(..., y, x)``.

    Raises
    ------
    ValueError
        If the tiles cannot overlap like that, or the sizes are no multiples.

    Examples
    --------
    >>> denoise = tiled(lambda x, step, window: 2 * x, (12, 20), tile=8, overlap=4)
    >>> x = torch.randn(3, 12, 20)
    >>> torch.allclose(denoise(x, 0), 2 * x)
    True
    """
    windows = tile_windows(shape, tile=tile, overlap=overlap, margin=margin, multiple=multiple)
    weights = blend_weights(shape, windows, overlap=overlap, margin=margin)

    def blended(x: Tensor, step: float) -> Tensor:
        if tuple(x.shape[-2:]) != tuple(shape):
            raise ValueError(f"the field has {tuple(x.shape[-2:])} cells; these tiles are for {tuple(shape)}")
        result = torch.zeros_like(x)
        for window, weight in zip(windows, weights, strict=True):
            window(result).add_(denoise(window(x), step, window) * weight.to(x))
        return result

    return blended if len(windows) > 1 else lambda x, step: denoise(x, step, windows[0])


def blended(
    network: Callable[[Tensor], Tensor],
    field: Tensor,
    *,
    tile: int,
    overlap: int,
    margin: int = 0,
    multiple: int = 1,
) -> Tensor:
    """What a network says of a large grid, tile by tile; each cell is the weighted mean of the tiles that it lies in.

    ``network``: ``(..., y, x)`` to any ``(..., y, x)`` of as many cells. ``field``: ``(..., y, x)``. Others: as in
    `tiled`. The network sees a grid that is no larger than a tile as it is.

    >>> field = torch.randn(3, 12, 20)
    >>> torch.allclose(blended(lambda part: 2 * part, field, tile=8, overlap=4), 2 * field)
    True
    """
    shape = (field.shape[-2], field.shape[-1])
    windows = tile_windows(shape, tile=tile, overlap=overlap, margin=margin, multiple=multiple)
    if len(windows) == 1:
        return network(field)
    result: Tensor | None = None
    for window, weight in zip(windows, blend_weights(shape, windows, overlap=overlap, margin=margin), strict=True):
        answer = network(window(field))
        result = answer.new_zeros(*answer.shape[:-2], *shape) if result is None else result
        window(result).add_(answer * weight.to(answer))
    assert result is not None
    return result


def tile_windows(
    shape: tuple[int, int], *, tile: int, overlap: int, margin: int = 0, multiple: int = 1
) -> list[Window]:
    """Windows of equal size that cover a grid, row by row; see `tiled`.

    >>> [window.left for window in tile_windows((8, 20), tile=8, overlap=2)]
    [0, 6, 12]
    """
    if not 0 <= 2 * margin <= overlap < tile:
        raise ValueError(
            f"tiles of {tile} cells that share {overlap}, margins of {margin}: 2 margin <= overlap < tile is needed"
        )
    sizes = {"tile": tile, "overlap": overlap, "grid height": shape[0], "grid width": shape[1]}
    for name, size in sizes.items():
        if size % multiple:
            raise ValueError(f"the {name} is {size} cells; it must be a multiple of {multiple}")
    rows, columns = (list(_starts(size, tile, overlap)) for size in shape)
    height, width = (min(tile, size) for size in shape)
    return [Window(top, left, height, width) for top in rows for left in columns]


def blend_weights(shape: tuple[int, int], windows: list[Window], *, overlap: int, margin: int = 0) -> list[Tensor]:
    """Weight of every cell of every window, ``(height, width)``; over all windows each cell's weights sum to 1."""
    raw = [
        _ramp(window.top, window.height, shape[0], overlap, margin)[:, None]
        * _ramp(window.left, window.width, shape[1], overlap, margin)
        for window in windows
    ]
    total = torch.zeros(shape, dtype=torch.float64)
    for window, weight in zip(windows, raw, strict=True):
        window(total).add_(weight)
    return [weight / window(total) for window, weight in zip(windows, raw, strict=True)]


def _starts(size: int, tile: int, overlap: int) -> Iterator[int]:
    """Starts of the tiles along one axis; the last tile ends where the grid ends."""
    last = max(size - tile, 0)
    yield from range(0, last, tile - overlap)
    yield last


def _ramp(start: int, length: int, size: int, overlap: int, margin: int) -> Tensor:
    """Weights along one axis: up and down across the overlap, but 1 up to an edge of the grid itself."""
    cells = torch.arange(length, dtype=torch.float64)
    rise = max(overlap - 2 * margin, 1)
    before = torch.full_like(cells, torch.inf) if start == 0 else cells - margin
    after = torch.full_like(cells, torch.inf) if start + length == size else cells.flip(0) - margin
    return ((torch.minimum(before, after) + 0.5) / rise).clamp(0, 1)
