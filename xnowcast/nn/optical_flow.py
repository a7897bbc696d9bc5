"""Dense optical flow between radar frames: pyramidal Lucas-Kanade on all frames at once."""

import torch
from torch.nn import functional as F


def dense_flow(
    frames,
    observed=None,
    *,
    finest=2,
    coarsest=16,
    pool=4,
    window=24.0,
    blur=1.0,
    iterations=3,
    damping=0.05,
    robust=0.0,
    pairs="last",
    power=1.0,
    final_smooth=0.0,
    winscale="abs",
    sched=None,
):
    b, t, ny, nx = frames.shape
    if observed is None:
        observed = torch.ones_like(frames, dtype=torch.bool)
    mult = coarsest * pool
    py, px = -ny % mult, -nx % mult
    f = F.pad(torch.where(observed, frames, 0.0), (0, px, 0, py))
    w = F.pad(observed.to(frames.dtype), (0, px, 0, py))
    pyr = []
    s = 1
    while s <= coarsest:
        if s >= finest:
            pyr.append((s, f / w.clamp(min=1e-6) * (w > 0.5), (w > 0.9).to(f.dtype)))
        f, w = F.avg_pool2d(f, 2), F.avg_pool2d(w, 2)
        s *= 2
    V = None
    for li, (s, im, ms) in enumerate(reversed(pyr)):
        n = s * pool  # node spacing in cells
        shape = (im.shape[-2] // pool, im.shape[-1] // pool)
        V = (
            torch.zeros(b, 2, *shape, device=im.device)
            if V is None
            else F.interpolate(V, shape, mode="bilinear", align_corners=False)
        )
        if winscale == "abs":
            sig = max(window, 2.0 * n) / n
        elif winscale == "rel":
            sig = window / finest * s / n
        else:
            sig = max(window, winscale * s) / n
        S = smoother(shape, sig, V)
        if blur:
            B = smoother(im.shape[-2:], blur, V)
            im = B(im * ms) / B(ms).clamp(min=1e-3)
            ms = ms * (B(ms) > 0.75)
        for it in range(iterations):
            A, r = normal_equations(im, ms, V, s, pairs, power, robust, pool)
            A, r = S(A), S(r)
            a, c, d = A.unbind(1)
            lam = damping * 0.5 * (a + d).mean((-2, -1), keepdim=True) + 1e-6
            a, d = a + lam, d + lam
            det = a * d - c * c
            dV = torch.stack([d * r[:, 0] - c * r[:, 1], a * r[:, 1] - c * r[:, 0]], 1) / det[:, None]
            dV = dV.clamp(-2 * s, 2 * s)
            V = V + dV
        if final_smooth:
            V = smoother(shape, final_smooth / n, V)(V)
    V = F.interpolate(V, scale_factor=n, mode="bilinear", align_corners=False)
    return V[..., :ny, :nx]


def normal_equations(im, ms, V, s, pairs, power, robust, pool):
    b, t, h, w = im.shape
    v = F.interpolate(V, (h, w), mode="bilinear", align_corners=False) / s  # level cells per step
    A, r = 0, 0
    ys = torch.arange(h, device=im.device, dtype=im.dtype).view(h, 1)
    xs = torch.arange(w, device=im.device, dtype=im.dtype).view(1, w)
    todo = (
        [(t - 1 - k, t - 1) for k in range(1, t)] if pairs == "last" else [(k, k + 1) for k in range(t - 1)]
    )
    if pairs == "all":
        todo = [(i, j) for i in range(t) for j in range(i + 1, t)]
    for i, j in todo:
        k = j - i
        gy = 2 * (ys - k * v[:, 0]) / (h - 1) - 1
        gx = 2 * (xs - k * v[:, 1]) / (w - 1) - 1
        warped, wm = F.grid_sample(
            torch.stack([im[:, i], ms[:, i]], 1),
            torch.stack([gx, gy], -1),
            padding_mode="zeros",
            align_corners=True,
        ).unbind(1)
        m = ms[:, j] * (wm > 0.99)
        mean = 0.5 * (im[:, j] + warped)
        diff = im[:, j] - warped
        dy, dx = grad(mean)
        m = m * inner(m)
        if robust:
            m = m / (1 + (diff / robust) ** 2)
        q = k**power
        A = A + q * torch.stack([dy * dy, dy * dx, dx * dx], 1) * m[:, None]
        r = r - (q / k * s) * torch.stack([dy * diff, dx * diff], 1) * m[:, None]
    return F.avg_pool2d(A, pool), F.avg_pool2d(r, pool)


def inner(m):
    return -F.max_pool2d(-m[:, None], 3, 1, 1)[:, 0]


def grad(a):
    p = F.pad(a[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return 0.5 * (p[:, 2:, 1:-1] - p[:, :-2, 1:-1]), 0.5 * (p[:, 1:-1, 2:] - p[:, 1:-1, :-2])


def smoother(shape, sigma, like):
    def mat(n):
        d = torch.arange(n, device=like.device, dtype=like.dtype)
        return torch.exp(-0.5 * ((d[:, None] - d) / sigma) ** 2) / (sigma * 2.5066)

    gy, gx = mat(shape[0]), mat(shape[1])
    return lambda f: gy @ f @ gx
