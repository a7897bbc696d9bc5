"""Maps read at displaced positions, as recurrent cells with learned motion do."""

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(field: Tensor, flow: Tensor, *, stretched: bool = False) -> Tensor:
    """A map read at every cell's position plus a displacement, by bilinear interpolation.

    A displacement of 0 gives the map itself, bit for bit. Positions are computed in float32 whatever the dtype:
    bfloat16 cannot tell neighbouring cells apart beyond 256.

    ``field``: ``(b, c, y, x)``; 0 is read beyond its edge. ``flow``: ``(b, n, 2, y, x)``, n displacement fields in grid
    cells, component 0 along +y index, 1 along +x index. ``stretched``: positions p of n cells are read at
    ``p n / (n - 1) - 1 / 2``, as by code that scales them from the middle of the first cell to that of the last and
    reads them from edge to edge. Returned: ``(b, c, n, y, x)``, dtype of ``field``. ValueError if the shapes do not
    fit.

    >>> field = torch.arange(12.0).reshape(1, 1, 3, 4)
    >>> flow = torch.zeros(1, 1, 2, 3, 4)
    >>> flow[:, :, 1] = 1.0  # one cell to the right
    >>> warp(field, flow)[0, 0, 0, 1].tolist()
    [5.0, 6.0, 7.0, 0.0]
    """
    b, _, ny, nx = field.shape
    if flow.ndim != 5 or flow.shape[0] != b or flow.shape[2:] != (2, ny, nx):
        raise ValueError(
            f"flow has shape {tuple(flow.shape)} and field {tuple(field.shape)}: "
            "they must be (b, n, 2, y, x) and (b, c, y, x) on one grid"
        )
    n = flow.shape[1]
    y = flow[:, :, 0].float() + torch.arange(ny, device=flow.device, dtype=torch.float32).view(-1, 1)
    x = flow[:, :, 1].float() + torch.arange(nx, device=flow.device, dtype=torch.float32)
    if stretched:
        y, x = (p * (size / max(size - 1, 1)) - 0.5 for p, size in ((y, ny), (x, nx)))
    # zeros fill the map up to 2^k + 1 cells: scaling positions to -1 ... 1 and back is then exact, so that no
    # displacement changes nothing, not even the last digit
    high, wide = (2 ** max(size - 2, 0).bit_length() for size in (ny, nx))
    filled = F.pad(field.float(), (0, wide + 1 - nx, 0, high + 1 - ny))
    grid = torch.stack([x * (2 / wide) - 1, y * (2 / high) - 1], dim=-1)
    # the n fields are stacked along y, so that one call reads them all without a copy of the map
    read = F.grid_sample(filled, grid.view(b, n * ny, nx, 2), padding_mode="zeros", align_corners=True)
    return read.view(b, -1, n, ny, nx).to(field.dtype)
