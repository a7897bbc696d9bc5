"""A long sequence on a large grid as overlapping pieces of the length and the size that the networks know."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xnowcast.diffusion.tiling import Window, blend_weights, tile_windows


@dataclass(frozen=True, eq=False)
class Piece:
    """Where a piece lies in a sequence ``(..., t, c, y, x)``, and what it counts there.

    ``weight`` is ``(t, 1, y, x)``; over all pieces, the weights of each cell of each frame sum to 1.
    """

    frames: slice
    window: Window
    weight: Tensor

    def __call__(self, sequence: Tensor) -> Tensor:
        """The piece's part of a sequence; a view."""
        return self.window(sequence[..., self.frames, :, :, :])

    def coarse(self, sequence: Tensor, factor: int) -> Tensor:
        """Its part of a sequence whose cells are ``factor`` times as wide; a view."""
        fine = self.window
        window = Window(*(size // factor for size in (fine.top, fine.left, fine.height, fine.width)))
        return window(sequence[..., self.frames, :, :, :])


def cut(
    frames: int,
    shape: tuple[int, int],
    *,
    length: int,
    tile: int,
    multiple: int,
    device: torch.device | str = "cpu",
) -> list[Piece]:
    """Pieces that cover a sequence.

    >>> pieces = cut(7, (8, 8), length=3, tile=8, multiple=4)
    >>> [(piece.frames.start, piece.frames.stop) for piece in pieces]
    [(0, 3), (2, 5), (4, 7)]
    >>> [round(piece.weight[0].max().item(), 2) for piece in pieces]
    [1.0, 0.5, 0.5]
    """
    overlap = max(multiple, tile // 6 // multiple * multiple)
    # time is the first axis of a grid that is one cell wide
    stretches = tile_windows((frames, 1), tile=length, overlap=length // 2)
    windows = tile_windows(shape, tile=tile, overlap=overlap, margin=overlap // 4, multiple=multiple)
    in_time = blend_weights((frames, 1), stretches, overlap=length // 2)
    in_space = blend_weights(shape, windows, overlap=overlap, margin=overlap // 4)
    return [
        Piece(slice(stretch.top, stretch.top + length), window, (share[:, :, None, None] * weight).float().to(device))
        for stretch, share in zip(stretches, in_time, strict=True)
        for window, weight in zip(windows, in_space, strict=True)
    ]


def blended(parts: list[Tensor], pieces: list[Piece], whole: Tensor) -> Tensor:
    """One sequence of what the pieces say."""
    result = torch.zeros_like(whole)
    for part, piece in zip(parts, pieces, strict=True):
        piece(result).add_(part * piece.weight.to(result))
    return result
