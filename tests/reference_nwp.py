"""Slow and obvious readings of the post-processor's array code, to compare with."""

import math

import torch


def deformable_sum(values, offsets, weights):
    """`xnowcast.nn.deformable.deformable_sum`, one number at a time: loops over all there is but channels."""
    batch, ny, nx, groups, _ = values.shape
    result = torch.zeros_like(values)
    for b in range(batch):
        for row in range(ny):
            for column in range(nx):
                for g in range(groups):
                    for k in range(9):
                        y = row + k // 3 - 1 + offsets[b, row, column, 0, g, k]
                        x = column + k % 3 - 1 + offsets[b, row, column, 1, g, k]
                        found = weights[b, row, column, g, k] * interpolated(values[b, :, :, g], y, x)
                        result[b, row, column, g] = result[b, row, column, g] + found
    return result


def interpolated(field, y, x):
    """Bilinear interpolation of (y, x, c) at one place; 0 outside of the field."""
    ny, nx = field.shape[:2]
    total = 0 * (y + x) * field[0, 0]
    top, left = math.floor(y.item()), math.floor(x.item())
    for j in (top, top + 1):
        for i in (left, left + 1):
            if 0 <= j < ny and 0 <= i < nx:
                total = total + (1 - (y - j).abs()) * (1 - (x - i).abs()) * field[j, i]
    return total


def deformable_sum_by_pixels(values, offsets, weights):
    """The same for all cells at once, group by group, point by point and corner by corner: what is timed."""
    batch, ny, nx, groups, _ = values.shape
    rows, columns = torch.arange(ny).view(1, ny, 1), torch.arange(nx).view(1, 1, nx)
    samples = torch.arange(batch).view(batch, 1, 1)
    sums = []
    for g in range(groups):
        total = torch.zeros_like(values[..., g, :])
        for k in range(9):
            y = rows + (k // 3 - 1) + offsets[..., 0, g, k]
            x = columns + (k % 3 - 1) + offsets[..., 1, g, k]
            for j in (y.floor(), y.floor() + 1):
                for i in (x.floor(), x.floor() + 1):
                    inside = (j >= 0) & (j < ny) & (i >= 0) & (i < nx)
                    share = (1 - (y - j.detach()).abs()) * (1 - (x - i.detach()).abs()) * inside
                    corner = values[samples, j.long().clamp(0, ny - 1), i.long().clamp(0, nx - 1), g]
                    total = total + (weights[..., g, k] * share)[..., None] * corner
        sums.append(total)
    return torch.stack(sums, dim=-2)


def continuous_label(rain, thresholds):
    """Shares of the classes in one rain rate: each class is pure at its lower bound."""
    nodes = [0.0, *thresholds]
    shares = [0.0] * len(nodes)
    if rain >= nodes[-1]:
        shares[-1] = 1.0
        return shares
    rain = max(rain, 0.0)
    j = max(number for number, node in enumerate(nodes) if rain >= node)
    w = (rain - nodes[j]) / (nodes[j + 1] - nodes[j])
    shares[j], shares[j + 1] = 1 - w, w
    return shares
