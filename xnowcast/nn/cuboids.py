"""Cuboids, the blocks of space and time that attention looks within, and patterns of them.

Gao et al. (2022), Earthformer, arXiv:2207.05833, section 3.1. Maps are ``(b, t, y, x, c)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

Shape = tuple[int, int, int]
"""Along time, y and x."""


@dataclass(frozen=True)
class Cuboid:
    """A block of a map.

    ``size``: frames, rows and columns. ``shift``: by how many of them all cuboids are moved. ``dilated``: the cells of
    a cuboid lie apart, as far as the map has cuboids, and not side by side.
    """

    size: Shape
    shift: Shape = (0, 0, 0)
    dilated: bool = False

    def on(self, shape: Sequence[int]) -> "Cuboid":
        """Where a map is no larger it is one block, and nothing is moved.

        >>> Cuboid((2, 8, 8), shift=(1, 4, 4)).on((6, 8, 32))
        Cuboid(size=(2, 8, 8), shift=(1, 0, 4), dilated=False)
        """
        kept = [n > size for n, size in zip(shape, self.size, strict=True)]
        size = [min(n, size) for n, size in zip(shape, self.size, strict=True)]
        shift = [shift if moved else 0 for shift, moved in zip(self.shift, kept, strict=True)]
        return Cuboid((size[0], size[1], size[2]), (shift[0], shift[1], shift[2]), self.dilated)

    def split(self, x: Tensor) -> Tensor:
        """Maps ``(b, t, y, x, c)`` of whole cuboids to ``(b, cuboid, cell, c)``."""
        x, (i, j, k) = self.moved(x), self.size
        if self.dilated:
            return rearrange(x, "b (i t) (j y) (k x) c -> b (t y x) (i j k) c", i=i, j=j, k=k)
        return rearrange(x, "b (t i) (y j) (x k) c -> b (t y x) (i j k) c", i=i, j=j, k=k)

    def moved(self, x: Tensor) -> Tensor:
        """A map whose first cells along each axis come after the last, as many as cuboids are moved by."""
        return torch.roll(x, tuple(-n for n in self.shift), (1, 2, 3)) if any(self.shift) else x

    def join(self, parts: Tensor, shape: Sequence[int]) -> Tensor:
        """What `split` gave, back to maps of ``shape`` frames, rows and columns."""
        i, j, k = self.size
        t, y = shape[0] // i, shape[1] // j
        cells = "b (i t) (j y) (k x) c" if self.dilated else "b (t i) (y j) (x k) c"
        x = rearrange(parts, f"b (t y x) (i j k) c -> {cells}", t=t, y=y, i=i, j=j, k=k)
        return torch.roll(x, self.shift, (1, 2, 3)) if any(self.shift) else x


def axial(shape: Shape) -> list[Cuboid]:
    """Along time, then along y, then along x."""
    t, y, x = shape
    return [Cuboid((t, 1, 1)), Cuboid((1, y, 1)), Cuboid((1, 1, x))]


def divided(shape: Shape) -> list[Cuboid]:
    """Along time, then over each frame."""
    t, y, x = shape
    return [Cuboid((t, 1, 1)), Cuboid((1, y, x))]


def swin(frames: int, cells: int) -> Callable[[Shape], list[Cuboid]]:
    """Blocks of so many frames and cells along y and x, then such blocks moved by half of that."""
    size = frames, cells, cells
    return lambda shape: [Cuboid(size), Cuboid(size, shift=(frames // 2, cells // 2, cells // 2))]


def local_and_dilated(cells: int) -> Callable[[Shape], list[Cuboid]]:
    """Along time, then over squares of each frame, then over cells that lie apart."""
    return lambda shape: [
        Cuboid((shape[0], 1, 1)),
        Cuboid((1, cells, cells)),
        Cuboid((1, cells, cells), dilated=True),
    ]


PATTERNS: dict[str, Callable[[Shape], list[Cuboid]]] = {
    "axial": axial,
    "divided": divided,
    "swin-2x4": swin(2, 4),
    "swin-2x8": swin(2, 8),
    "swin-10x8": swin(10, 8),
    "local-dilated-4": local_and_dilated(4),
    "local-dilated-8": local_and_dilated(8),
}
"""The cuboids of a block by the name of their pattern, from the shape of the maps."""


def relative_places(size: Shape, of: Shape) -> Tensor:
    """Rows of a table of ``prod(2 n - 1 for n in size)`` distances, for each two cells of a block ``of`` that size or
    less: ``(query, key)``.

    >>> relative_places((1, 1, 3), (1, 1, 2)).tolist()
    [[2, 1], [3, 2]]
    """
    cells = torch.cartesian_prod(*(torch.arange(n) for n in of))
    apart = cells[:, None] - cells + torch.tensor(size) - 1
    return (apart[..., 0] * (2 * size[1] - 1) + apart[..., 1]) * (2 * size[2] - 1) + apart[..., 2]


def same_side(cuboid: Cuboid, shape: Sequence[int]) -> Tensor | None:
    """Whether two cells of a cuboid lie on the same side of the map, ``(cuboid, query, key)``; None where all do.

    Where cuboids are moved, those at the end of an axis hold cells of both ends.
    """
    if not any(cuboid.shift):
        return None
    side = torch.zeros(1, *shape, 1, dtype=torch.long)
    for axis, (n, shift) in enumerate(zip(shape, cuboid.shift, strict=True), start=1):
        moved = torch.arange(n) < shift  # the first cells of an axis come after the last
        side = 2 * side + moved.long().reshape([n if axis == at else 1 for at in range(5)])
    (parts,) = cuboid.split(side)[..., 0]
    return parts[:, :, None] == parts[:, None]
