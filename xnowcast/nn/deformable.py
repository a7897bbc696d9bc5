"""Deformable convolution, version 3: every cell gathers nine points that it chooses itself, group by group.

A cell's sum over points and corners is a weighted bag of rows of a table, which torch adds up without keeping them;
the gradient of the table is the same with the bags turned round. On a GPU, and for few points, it is done with
`torch.nn.functional.grid_sample`.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POINTS = 9
"""Points of the 3 x 3 neighbourhood that offsets are added to, row by row."""

CORNERS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Of a cell of the bilinear interpolation, (y, x), in the order in which a row of the table holds them."""

FEW_POINTS = 2**14
"""On a CPU: fewer points than these are gathered as on a GPU, as bags would cost more than they save."""

POINTS_AT_ONCE = 2**16
"""Points of whole samples that are gathered together."""

CELLS_AT_ONCE = 256
"""Cells whose points are gathered together in the backward pass, so that they stay in the cache."""


class DeformableConvolution(nn.Module):
    """DCNv3 (Wang et al. 2023, arXiv:2211.05778, equation 2). x (b, y, x, c) -> same.

    ``W_out sum_k m_gk(p) V_g(p + p_k + o_gk(p))`` in each of G groups of channels, with V = W_in x, and offsets o and
    weights m (softmax over the nine points) from a depthwise convolution of x. Outside of the map V is 0. Offsets and
    weights begin at zero and one ninth: a mean over 3 x 3 cells.

    Parameters
    ----------
    width : int
        Channels c.
    groups : int
        G, a divisor of it.
    depthwise : int
        Width of the depthwise convolution, odd.
    offset_scale : float
        Points and offsets are so many times as far away.
    centre : bool
        False leaves out the point in the middle, so that there are eight.
    centre_share : bool
        Let each group keep a share of V of the cell itself, a sigmoid of a linear map of what offsets are made of.

    Raises
    ------
    ValueError
        If ``groups`` does not divide ``width``.

    Examples
    --------
    >>> sum(p.numel() for p in DeformableConvolution(64, 4).parameters())
    16108
    >>> DeformableConvolution(8, 2)(torch.rand(1, 5, 6, 8)).shape
    torch.Size([1, 5, 6, 8])
    """

    def __init__(
        self,
        width: int,
        groups: int,
        *,
        depthwise: int = 3,
        offset_scale: float = 1.0,
        centre: bool = True,
        centre_share: bool = False,
    ) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(f"{width} channels have no {groups} groups of equal width")
        self.groups, self.points, self.offset_scale = groups, POINTS if centre else POINTS - 1, offset_scale
        self.depthwise = nn.Conv2d(width, width, depthwise, padding=depthwise // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.offset = nn.Linear(width, 2 * groups * self.points)
        self.weight = nn.Linear(width, groups * self.points)
        self.values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.centre = nn.Linear(width, groups) if centre_share else None
        from_zero = [self.offset, self.weight, *([] if self.centre is None else [self.centre])]
        for linear in from_zero:
            nn.init.zeros_(linear.weight)
        for linear in (self.values, self.out):
            nn.init.xavier_uniform_(linear.weight)
        for linear in (*from_zero, self.values, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        local = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        local = F.gelu(self.norm(local))
        offsets = self.offset(local).unflatten(-1, (2, self.groups, self.points))
        weights = self.weight(local).unflatten(-1, (self.groups, self.points))
        values = self.values(x).unflatten(-1, (self.groups, -1))
        with torch.autocast(x.device.type, enabled=False):  # positions need more digits than bfloat16 has
            offsets, weights, values = (_at_least_float32(part) for part in (offsets, weights, values))
            gathered = deformable_sum(values, offsets, _softmax(weights), self.offset_scale)
        if self.centre is not None:
            gathered = torch.lerp(gathered, values, self.centre(local).sigmoid()[..., None].to(values))
        return self.out(gathered.flatten(-2).to(x.dtype))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x


def _softmax(x: Tensor) -> Tensor:
    """Over the last dim; torch's own is several times slower where that has nine entries."""
    powers = (x - x.detach().amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def deformable_sum(values: Tensor, offsets: Tensor, weights: Tensor, offset_scale: float = 1.0) -> Tensor:
    """Weighted sums of the values at nine points around each cell, interpolated bilinearly.

    Parameters
    ----------
    values : Tensor
        ``(b, y, x, g, c)``; 0 outside of the map.
    offsets : Tensor
        ``(b, y, x, 2, g, 9)`` in cells: along y, then along x, added to the points of the 3 x 3 neighbourhood. With 8
        the point in the middle is left out.
    weights : Tensor
        ``(b, y, x, g, 9)``, or 8.
    offset_scale : float
        What points and offsets are multiplied by.

    Returns
    -------
    Tensor
        ``(b, y, x, g, c)``, differentiable in all three.

    Examples
    --------
    Without offsets and with even weights it is a mean over 3 x 3 cells:

    >>> values = torch.ones(1, 3, 3, 1, 1)
    >>> deformable_sum(values, torch.zeros(1, 3, 3, 2, 1, 9), torch.full((1, 3, 3, 1, 9), 1 / 9))[0, 1, :, 0, 0] * 9
    tensor([6., 9., 6.])
    """
    ny, nx = values.shape[1:3]
    steps = torch.arange(-1, 2, device=offsets.device, dtype=offsets.dtype)
    around = torch.stack([steps.repeat_interleave(3), steps.repeat(3)])
    if offsets.shape[-1] < POINTS:
        around = torch.cat([around[:, : POINTS // 2], around[:, POINTS // 2 + 1 :]], dim=1)
    if offset_scale != 1:
        around, offsets = offset_scale * around, offset_scale * offsets
    down, right = offsets.unbind(dim=-3)
    y = (torch.arange(ny, device=offsets.device)[:, None, None, None] + around[0]) + down
    x = (torch.arange(nx, device=offsets.device)[:, None, None] + around[1]) + right
    if values.device.type == "cpu" and weights.numel() >= FEW_POINTS:
        return _BagSum.apply(values, y, x, weights)
    return by_grid_sample(values, y, x, weights)


def by_grid_sample(values: Tensor, y: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """`deformable_sum` at given positions, in the way of GPUs.

    ``values``: ``(b, y, x, g, c)``. ``y, x, weights``: ``(b, y, x, g, 9)``. Returned: ``(b, y, x, g, c)``.
    """
    batch, ny, nx, groups = values.shape[:4]
    maps = values.permute(0, 3, 4, 1, 2).flatten(0, 1)
    grid = torch.stack([(2 * x + 1) / nx - 1, (2 * y + 1) / ny - 1], dim=-1)  # (b, y, x, g, 9, 2)
    grid = grid.permute(0, 3, 1, 2, 4, 5).flatten(0, 1).flatten(1, 2)
    points = F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)  # (b g, c, y x, 9)
    per_group = weights.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2)
    summed = (points * per_group[:, None]).sum(-1)
    return summed.unflatten(0, (batch, groups)).unflatten(-1, (ny, nx)).permute(0, 3, 4, 1, 2)


class _BagSum(torch.autograd.Function):
    """The same with bags of rows, a few samples at once so that all of it stays in the cache."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, y: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(values, y, x, weights)
        found = torch.empty_like(values, memory_format=torch.contiguous_format)
        for part in _parts(found, values, y, x, weights):
            _forward(*part)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        found = tuple(torch.empty_like(part, memory_format=torch.contiguous_format) for part in ctx.saved_tensors)
        with torch.autocast("cpu", enabled=False):
            for part in _parts(*found, *ctx.saved_tensors, gradients[0]):
                _backward(part[:4], *part[4:])
        return found


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some samples at a time; the last tensor but one has a number for each point."""
    per_sample = tensors[-2][0].numel()
    return zip(*(tensor.split(max(1, POINTS_AT_ONCE // per_sample)) for tensor in tensors), strict=True)


def _forward(out: Tensor, values: Tensor, y: Tensor, x: Tensor, weights: Tensor) -> None:
    """Some samples, written to ``out``: values (b, y, x, g, c); y, x and weights (b, y, x, g, 9)."""
    rows, fy, fx = _rows(values, y, x)
    corners = weights.new_empty(len(rows), len(CORNERS))
    for number, part in enumerate(_corner_weights(weights.flatten(), fy, fx)):
        corners[:, number] = part
    numbers = (4 * rows)[:, None] + torch.arange(4, dtype=rows.dtype)
    table = _table(values).view(-1, values.shape[-1])
    bags = 4 * weights.shape[-1]
    summed = F.embedding_bag(numbers.view(-1, bags), table, mode="sum", per_sample_weights=corners.view(-1, bags))
    out.copy_(summed.view(values.shape))


def _backward(out: tuple[Tensor, ...], values: Tensor, y: Tensor, x: Tensor, weights: Tensor, gradient: Tensor) -> None:
    """Gradients of some samples' values, y, x and weights, written to ``out``."""
    ny, nx = values.shape[1:3]
    rows, fy, fx = _rows(values, y, x)
    m, gradient = weights.flatten(), gradient.reshape(-1, values.shape[-1])
    p00, p10, p01, p11 = _products(_table(values), rows, gradient).t().contiguous()
    left, right = torch.lerp(p00, p10, fy), torch.lerp(p01, p11, fy)
    # beyond the border of zeros the value is 0 whatever the position
    steep_y = torch.lerp(p10 - p00, p11 - p01, fx).mul_(m).view(y.shape)
    steep_x = (right - left).mul_(m).view(x.shape)
    torch.mul(steep_y, (y >= -1) & (y < ny), out=out[1])
    torch.mul(steep_x, (x >= -1) & (x < nx), out=out[2])
    torch.lerp(left, right, fx, out=out[3].view(-1))
    out[0].copy_(_scattered(rows, fy, fx, m, gradient, values.shape))


def _rows(values: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each point the row of the table, that of its upper left corner, and where it lies between the corners."""
    batch, ny, nx, groups = values.shape[:4]
    y, x = y.clamp(-1, ny), x.clamp(-1, nx)
    y0, x0 = y.floor().clamp_(max=ny - 1), x.floor().clamp_(max=nx - 1)
    fy, fx = y - y0, x - x0
    sample = torch.arange(batch, dtype=torch.int32).mul_(ny + 1).view(batch, 1, 1, 1, 1)
    cell = (y0.int() + 1).add_(sample).mul_(nx + 1).add_(x0.int() + 1)
    rows = cell.mul_(groups).add_(torch.arange(groups, dtype=torch.int32)[:, None])
    return rows.flatten(), fy.flatten(), fx.flatten()


def _corner_weights(m: Tensor, fy: Tensor, fx: Tensor) -> tuple[Tensor, ...]:
    """What the corners of each point count for, in their order."""
    lower = fy * m
    upper = m - lower
    lower_right, upper_right = lower * fx, upper * fx
    return upper - upper_right, lower - lower_right, upper_right, lower_right


def _table(values: Tensor) -> Tensor:
    """All corners of a cell together, with a border of zeros: (b, y, x, g, c) -> (b, y + 1, x + 1, g, 4, c)."""
    ny, nx = values.shape[1:3]
    framed = F.pad(values, (0, 0, 0, 0, 1, 1, 1, 1))
    return torch.stack([framed[:, j : j + ny + 1, i : i + nx + 1] for j, i in CORNERS], dim=-2)


def _products(table: Tensor, rows: Tensor, gradient: Tensor) -> Tensor:
    """Product of each corner that was gathered with the gradient (n, c) of its cell, (points, 4)."""
    width, per_cell = gradient.shape[-1], len(rows) // len(gradient)
    table = table.view(-1, 4 * width)
    products = gradient.new_empty(len(gradient), 4 * per_cell)
    held = gradient.new_empty(CELLS_AT_ONCE * per_cell, 4 * width)
    for first in range(0, len(gradient), CELLS_AT_ONCE):
        part = gradient[first : first + CELLS_AT_ONCE]
        points = slice(first * per_cell, (first + len(part)) * per_cell)
        gathered = torch.index_select(table, 0, rows[points], out=held[: len(part) * per_cell])
        corners = gathered.view(len(part), 4 * per_cell, width)
        torch.bmm(part[:, None], corners.mT, out=products[first : first + len(part), None])
    return products.view(-1, 4)


def _scattered(rows: Tensor, fy: Tensor, fx: Tensor, m: Tensor, gradient: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of the values: for each row of the table a bag of the cells that looked at it."""
    batch, ny, nx, groups, width = shape
    count = batch * (ny + 1) * (nx + 1) * groups
    order = rows.argsort()
    starts = torch.bincount(rows, minlength=count).cumsum(0).roll(1)
    starts[0] = 0
    starts, cells = starts.int(), (order.int() // (len(rows) // len(gradient)))
    framed = gradient.new_zeros(batch, ny + 2, nx + 2, groups, width)
    parts = _corner_weights(*(part.index_select(0, order) for part in (m, fy, fx)))
    for (j, i), weights in zip(CORNERS, parts, strict=True):
        bag = F.embedding_bag(cells, gradient, starts, mode="sum", per_sample_weights=weights)
        framed[:, j : j + ny + 1, i : i + nx + 1] += bag.view(batch, ny + 1, nx + 1, groups, width)
    return framed[:, 1:-1, 1:-1]
