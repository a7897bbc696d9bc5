"""Dense optical flow between radar frames: pyramidal Lucas-Kanade that fits all frames at once.

The motion is the one that carries every earlier frame onto the newest: the sum of squared differences is made
least within Gaussian windows, coarse to fine, each scale starting from and held to the one before (Lucas and
Kanade 1981; Bouguet 2001, iterative and pyramidal). What is our own: all spans of the window are fitted together,
so that a motion which is right over four steps beats one that is right over one; differences too large to be
motion (growth, decay, clutter) lose their weight; and where nothing is seen to move, the coarser scale fills in.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

COARSEST = 16  # cells per cell of the coarsest image: follows motion up to about twice this per step
NODE = 4  # image cells, along y and along x, that share one motion vector


def dense_flow(
    frames: Tensor,
    observed: Tensor | None = None,
    *,
    window: float = 16.0,
    finest: int = 2,
    iterations: int = 3,
    damping: float = 0.1,
    tolerance: float = 10.0,
) -> Tensor:
    """Motion that carries the earlier frames onto the newest one.

    ``frames``: (b, t, y, x), float, at least two frames, the newest last, on a logarithmic scale in dB. What is finite
    or not where ``observed`` is False does not matter. ``observed``: same shape, bool; by default where ``frames`` is
    finite. The edge of the coverage makes no motion. ``window``: standard deviation, in grid cells, of the Gaussian
    window within which the motion is taken as one. ``finest``: cells per cell of the finest image that is matched.
    ``iterations``: gauss-Newton steps at each scale. ``damping``: how firmly a scale is held to the coarser one, as a
    share of the mean image texture. ``tolerance``: difference in dB at which a cell has lost half of its weight.
    Returned: (b, 2, y, x), grid cells per step; component 0 along +y index, 1 along +x index. Finite everywhere, zero
    for a sample in which nothing is seen to move. ValueError if shapes or options are not as above.

    Lucas and Kanade (1981), IJCAI 81, 674-679. Bouguet (2001), Intel Corporation, pyramidal implementation.

    A shower that moves one cell along x per step:

    >>> y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    >>> frames = torch.stack([30 * torch.exp(-((y - 32) ** 2 + (x - c) ** 2) / 60) for c in (29, 30, 31)])
    >>> motion = dense_flow(frames[None])
    >>> [round(v, 1) + 0.0 for v in motion[0, :, 32, 31].tolist()]
    [0.0, 1.0]
    """
    _check(frames, observed, window, finest, iterations)
    ny, nx = frames.shape[-2:]
    motion = None
    for scale, images, valid in _pyramid(frames, observed, finest):
        nodes = (images.shape[-2] // NODE, images.shape[-1] // NODE)
        if motion is None:
            motion = frames.new_zeros(frames.shape[0], 2, *nodes)
        else:
            motion = F.interpolate(motion, nodes, mode="bilinear", align_corners=False)
        # two nodes at least, so that neighbouring windows always overlap
        smooth = _gaussian(nodes, max(window / (scale * NODE), 2.0), motion)
        motion = _refine(motion, images, valid, scale, smooth, iterations, damping, tolerance)
    assert motion is not None
    dense = F.interpolate(motion, scale_factor=finest * NODE, mode="bilinear", align_corners=False)
    return dense[..., :ny, :nx]


def _pyramid(frames: Tensor, observed: Tensor | None, finest: int) -> list[tuple[int, Tensor, Tensor]]:
    """(cells per image cell, images, which of their cells count) from coarse to fine."""
    known = torch.isfinite(frames) if observed is None else observed
    known = known & _has_texture(frames, known)
    margin = (0, -frames.shape[-1] % (COARSEST * NODE), 0, -frames.shape[-2] % (COARSEST * NODE))
    total = F.pad(torch.where(known, frames, 0.0), margin)
    weight = F.pad(known.to(frames.dtype), margin)
    levels = []
    scale = 1
    while True:
        if scale >= finest:
            images = _blur(total / weight.clamp(min=1e-6))
            # blur and gradient reach three cells far: a cell counts if all of those are (nearly) wholly observed,
            # and the outermost ring never does, as the gradient of a moved frame ends there
            valid = _erode((weight > 0.9).to(frames.dtype), 3)[..., 1:-1, 1:-1]
            levels.append((scale, images, F.pad(valid, (1, 1, 1, 1))))
        if scale == COARSEST:
            return levels[::-1]
        total, weight = F.avg_pool2d(total, 2), F.avg_pool2d(weight, 2)
        scale *= 2


def _has_texture(frames: Tensor, known: Tensor) -> Tensor:
    """(b, t, 1, 1): False for a frame that is flat, such as a dry one: rain that appears in the next has not moved."""
    highest = torch.where(known, frames, -torch.inf).amax((-2, -1), keepdim=True)
    lowest = torch.where(known, frames, torch.inf).amin((-2, -1), keepdim=True)
    return highest - lowest > 1.0  # dB


def _refine(
    motion: Tensor,
    images: Tensor,
    valid: Tensor,
    scale: int,
    smooth: Callable[[Tensor], Tensor],
    iterations: int,
    damping: float,
    tolerance: float,
) -> Tensor:
    """Gauss-Newton steps at one scale; motion (b, 2, nodes) in grid cells per step."""
    start = motion
    for _ in range(iterations):
        texture, misfit = _normal_equations(images, valid, motion / scale, tolerance)
        (a, c, d), (p, q) = smooth(texture).unbind(1), (scale * smooth(misfit)).unbind(1)
        hold = damping * 0.5 * (a + d).mean((-2, -1), keepdim=True) + 1e-6
        pull = hold[:, None] * (start - motion)
        a, d, p, q = a + hold, d + hold, p + pull[:, 0], q + pull[:, 1]
        step = torch.stack([d * p - c * q, a * q - c * p], 1) / (a * d - c * c)[:, None]
        motion = motion + step.clamp(-2.0 * scale, 2.0 * scale)  # the linearisation reaches no further
    return motion


def _normal_equations(images: Tensor, valid: Tensor, motion: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Least-squares matrix (b, 3: yy yx xx, nodes) and right side (b, 2, nodes) of a correction to the motion.

    For the frame k steps back, shifted by k times the motion V, the difference D from the newest frame and the
    gradient g of their mean obey D + k g . dV = 0. Divided by sqrt(k), as the variance of growth and decay
    grows with k, that sums to (sum k g g') dV = - sum g D.
    """
    b, t, h, w = images.shape
    back = torch.arange(t - 1, 0, -1, device=images.device, dtype=images.dtype).view(1, -1, 1, 1)
    size = torch.tensor([w - 1, h - 1], device=images.device, dtype=images.dtype).view(2, 1, 1)
    y, x = (torch.linspace(-1, 1, n, device=images.device, dtype=images.dtype) for n in (h, w))
    arrival = torch.stack(torch.meshgrid(x, y, indexing="xy"))  # x first, as grid_sample wants it
    v = F.interpolate(motion.flip(1) * (2.0 / size), (h, w), mode="bilinear", align_corners=False)
    start = arrival - back[..., None] * v[:, None]  # (b, t-1, 2, h, w)
    layers = torch.stack([images[:, :-1], valid[:, :-1]], 2).flatten(0, 1)
    moved = F.grid_sample(layers, start.flatten(0, 1).permute(0, 2, 3, 1), align_corners=True)
    moved, moved_seen = moved.view(b, t - 1, 2, h, w).unbind(2)
    newest = images[:, -1:]
    difference = newest - moved
    gy, gx = _gradient(0.5 * (newest + moved))
    counts = valid[:, -1:] * (moved_seen > 0.99)
    weight = counts / (1.0 + (difference / tolerance) ** 2)
    wy, wx = weight * gy, weight * gx
    texture = torch.stack([(back * m).sum(1) for m in (wy * gy, wy * gx, wx * gx)], 1)
    misfit = -torch.stack([(wy * difference).sum(1), (wx * difference).sum(1)], 1)
    return F.avg_pool2d(texture, NODE), F.avg_pool2d(misfit, NODE)


def _blur(images: Tensor) -> Tensor:
    """Binomial filter 1 4 6 4 1 along y and x, edge cells repeated."""
    p = F.pad(images, (0, 0, 2, 2), mode="replicate")
    p = (p[..., :-4, :] + p[..., 4:, :] + 4 * (p[..., 1:-3, :] + p[..., 3:-1, :]) + 6 * p[..., 2:-2, :]) / 16
    p = F.pad(p, (2, 2, 0, 0), mode="replicate")
    return (p[..., :-4] + p[..., 4:] + 4 * (p[..., 1:-3] + p[..., 3:-1]) + 6 * p[..., 2:-2]) / 16


def _gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along y and x, edge cells repeated."""
    p = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return 0.5 * (p[..., 2:, 1:-1] - p[..., :-2, 1:-1]), 0.5 * (p[..., 1:-1, 2:] - p[..., 1:-1, :-2])


def _erode(mask: Tensor, cells: int) -> Tensor:
    """1 where all cells within so many are 1, beyond the edge of the image included as 1."""
    for _ in range(cells):
        p = F.pad(mask, (1, 1, 1, 1), mode="replicate")
        p = p[..., :-2, :] * p[..., 1:-1, :] * p[..., 2:, :]
        mask = p[..., :-2] * p[..., 1:-1] * p[..., 2:]
    return mask


def _gaussian(shape: tuple[int, int], sigma: float, like: Tensor) -> Callable[[Tensor], Tensor]:
    """A Gaussian window sum over (..., y, x) as two small matrix products; sums lose weight at the edges."""

    def matrix(n: int) -> Tensor:
        place = torch.arange(n, device=like.device, dtype=like.dtype) / sigma
        return torch.exp(-0.5 * (place[:, None] - place) ** 2) / (sigma * 2.5066283)

    along_y, along_x = matrix(shape[0]), matrix(shape[1])
    return lambda values: along_y @ values @ along_x


def _check(frames: Tensor, observed: Tensor | None, window: float, finest: int, iterations: int) -> None:
    if frames.ndim != 4 or frames.shape[1] < 2:
        raise ValueError(f"frames has shape {tuple(frames.shape)}: it must be (b, t, y, x) with t at least 2")
    if observed is not None and observed.shape != frames.shape:
        raise ValueError(f"observed has shape {tuple(observed.shape)}, frames {tuple(frames.shape)}: make them equal")
    if finest not in (1, 2, 4, 8, 16):
        raise ValueError(f"finest is {finest}: choose 1, 2, 4, 8 or 16 grid cells")
    if window <= 0 or iterations < 1:
        raise ValueError(f"window is {window} and iterations {iterations}: both must be positive")
