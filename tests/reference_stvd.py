"""STVD read module by module: the plain networks that the package's own are compared with, in numbers and in time.

Tensors stay ``(b, t, c, h, w)`` and are rearranged wherever a layer wants them otherwise; the downscaler's maps, the
estimate and the input are concatenated anew at every step, filters are standardised at every call, norms are written
out. Linear attention contracts in the order of the paper, keys with values first; where a token is a whole map that
would need matrices of (channels x cells)^2, and queries meet keys first. Parameters have the names that they have in
`xnowcast.models.stvd`, so `copy_weights` needs no table.
"""

import math
from itertools import pairwise

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F


def copy_weights(target, source):
    """Give a reference module the weights of the package's module; a 1 x 1 convolution is a linear map."""
    state = source.state_dict()
    target.load_state_dict({name: state[name].reshape(own.shape) for name, own in target.state_dict().items()})
    return target.eval()


def per_frame(layer, x, *rest):
    b = x.shape[0]
    return rearrange(layer(rearrange(x, "b t c h w -> (b t) c h w"), *rest), "(b t) c h w -> b t c h w", b=b)


# ---------------------------------------------------------------- layers


class Fourier(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(count))

    def forward(self, n):
        angles = 2 * math.pi * n[:, None] * self.frequencies[None]
        return torch.cat([n[:, None], angles.sin(), angles.cos()], dim=-1)


class ChannelNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x):
        mean = x.mean(dim=-3, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=-3, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * self.gain[:, None, None]


class StandardizedConvolution(nn.Conv2d):
    def forward(self, x):
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = ((self.weight - mean) ** 2).mean(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / torch.sqrt(variance + 1e-5), self.bias, padding=1)


class ConvolutionBlock(nn.Module):
    def __init__(self, width_in, width_out):
        super().__init__()
        self.convolution = StandardizedConvolution(width_in, width_out, 3, padding=1)
        self.norm = nn.GroupNorm(8, width_out)

    def forward(self, x, scale_shift=None):
        x = self.norm(self.convolution(x))
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return F.silu(x)


class ResidualBlock(nn.Module):
    def __init__(self, width_in, width_out, step_width=None):
        super().__init__()
        self.modulation = nn.Linear(step_width, 2 * width_out) if step_width else None
        self.first = ConvolutionBlock(width_in, width_out)
        self.second = ConvolutionBlock(width_out, width_out)
        self.shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x, step=None):
        b, t = x.shape[:2]
        scale_shift = None
        if self.modulation is not None:
            embedding = self.modulation(F.silu(step))
            embedding = embedding[:, None].expand(b, t, -1).reshape(b * t, -1, 1, 1)
            scale_shift = embedding.chunk(2, dim=1)
        flat = rearrange(x, "b t c h w -> (b t) c h w")
        hidden = self.second(self.first(flat, scale_shift))
        return rearrange(hidden + self.shortcut(flat), "(b t) c h w -> b t c h w", b=b)


class Attention(nn.Module):
    def __init__(self, width, heads, head_width, linear, kernel):
        super().__init__()
        self.heads, self.scale, self.linear = heads, head_width**-0.5, linear
        self.norm = ChannelNorm(width)
        self.qkv = nn.Conv2d(width, 3 * heads * head_width, kernel, padding=kernel // 2, bias=False)
        self.out = nn.Conv2d(heads * head_width, width, 1)
        self.out_norm = ChannelNorm(width) if linear else None

    def forward(self, x):
        maps = per_frame(self.qkv, self.norm(x)).chunk(3, dim=2)
        q, k, v = (self.split(part) for part in maps)  # (..., d, n)
        out = per_frame(self.out, self.join(self.attend(q, k, v), x))
        return x + (out if self.out_norm is None else self.out_norm(out))

    def attend(self, q, k, v):
        if not self.linear:
            similarity = torch.einsum("... d i, ... d j -> ... i j", q * self.scale, k)
            return torch.einsum("... i j, ... d j -> ... d i", similarity.softmax(dim=-1), v)
        q, k = q.softmax(dim=-2) * self.scale, k.softmax(dim=-1)
        context = torch.einsum("... d n, ... e n -> ... d e", k, v)
        return torch.einsum("... d e, ... d n -> ... e n", context, q)


class PatchedSpatial(Attention):
    def __init__(self, width, heads, head_width, patches, kernel):
        super().__init__(width, heads, head_width, True, kernel)
        self.patches = patches

    def split(self, x):
        pattern = "b t (e d) (i p) (j q) -> (b t) (e i j) d (p q)"
        return rearrange(x, pattern, e=self.heads, i=self.patches, j=self.patches)

    def join(self, out, x):
        pattern, n = "(b t) (e i j) d (p q) -> b t (e d) (i p) (j q)", self.patches
        return rearrange(out, pattern, b=x.shape[0], e=self.heads, i=n, j=n, p=x.shape[-2] // n)


class Spatial(Attention):
    def __init__(self, width, heads, head_width, kernel):
        super().__init__(width, heads, head_width, False, kernel)

    def split(self, x):
        return rearrange(x, "b t (e d) h w -> (b t) e d (h w)", e=self.heads)

    def join(self, out, x):
        return rearrange(out, "(b t) e d (h w) -> b t (e d) h w", b=x.shape[0], h=x.shape[-2])


class CellTemporal(Attention):
    def __init__(self, width, heads, head_width, kernel):
        super().__init__(width, heads, head_width, True, kernel)

    def split(self, x):
        return rearrange(x, "b t (e d) h w -> b (e h w) d t", e=self.heads)

    def join(self, out, x):
        return rearrange(out, "b (e h w) d t -> b t (e d) h w", e=self.heads, h=x.shape[-2], w=x.shape[-1])


class MapTemporal(Attention):
    def split(self, x):
        return rearrange(x, "b t (e d) h w -> b e (d h w) t", e=self.heads)

    def join(self, out, x):
        return rearrange(out, "b e (d h w) t -> b t (e d) h w", h=x.shape[-2], w=x.shape[-1])

    def attend(self, q, k, v):
        if not self.linear:
            return super().attend(q, k, v)
        q, k = q.softmax(dim=-2) * self.scale, k.softmax(dim=-1)
        return torch.einsum("... i j, ... d j -> ... d i", torch.einsum("... d i, ... d j -> ... i j", q, k), v)


class SpaceToDepth(nn.Module):
    def __init__(self, width_in, width_out):
        super().__init__()
        self.convolution = nn.Conv2d(4 * width_in, width_out, 1)

    def forward(self, x):
        return self.convolution(rearrange(x, "b c (h i) (w j) -> b (c i j) h w", i=2, j=2))


class NearestUp(nn.Module):
    def __init__(self, width_in, width_out):
        super().__init__()
        self.convolution = nn.Conv2d(width_in, width_out, 3, padding=1)

    def forward(self, x):
        return self.convolution(x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2))


# ---------------------------------------------------------------- networks


class Level(nn.Module):
    """A level of either way, or the middle; what it lacks is None."""

    def __init__(self, first, second, spatial, temporal, resize=None, third=None):
        super().__init__()
        self.first, self.second, self.spatial, self.temporal = first, second, spatial, temporal
        self.resize, self.third = resize, third

    def forward(self, x, beside_first=None, beside_second=None, step=None):
        x = x if beside_first is None else torch.cat([x, beside_first], dim=2)
        after_space = self.spatial(self.first(x, step))
        x = after_space if beside_second is None else torch.cat([after_space, beside_second], dim=2)
        x = self.second(x, step)
        after_time = x if self.temporal is None else self.temporal(x)
        x = after_time if self.third is None else self.third(after_time, step)
        return (x if self.resize is None else per_frame(self.resize, x)), after_space, after_time


class UNet(nn.Module):
    def __init__(self, channels, base, multipliers, heads, head_width, denoises, patches=2, kernel=1):
        super().__init__()
        widths = [base] + [base * m for m in multipliers]
        last, step_width = len(multipliers) - 1, 4 * base if denoises else None
        twice = 2 if denoises else 1

        def over_time(width, n, wanted):
            if not wanted:
                return None
            if n == last:
                return MapTemporal(width, heads, head_width, True, kernel)
            return CellTemporal(width, heads, head_width, kernel)

        def over_space(width):
            return PatchedSpatial(width, heads, head_width, patches, kernel)

        self.init = nn.Conv2d(channels + 2 if denoises else channels, base, 7, padding=3)
        self.down = nn.ModuleList()
        for n, (a, b) in enumerate(pairwise(widths)):
            resize = nn.Conv2d(a, b, 3, padding=1) if n == last else SpaceToDepth(a, b)
            blocks = (ResidualBlock(twice * a, a, step_width) for _ in range(2))
            temporal = over_time(a, n, n == last if denoises else n > 0)
            self.down.append(Level(*blocks, over_space(a), temporal, resize))
        w = widths[-1]
        blocks = (ResidualBlock(twice * w, w, step_width) for _ in range(2))
        over_cells, over_map = Spatial(w, heads, head_width, kernel), MapTemporal(w, heads, head_width, False, kernel)
        self.middle = Level(*blocks, over_cells, over_map, third=ResidualBlock(w, w, step_width))
        self.up = nn.ModuleList()
        for n in range(last, -1, -1):
            a, b = widths[n], widths[n + 1]
            resize = nn.Conv2d(b, a, 3, padding=1) if n == 0 else NearestUp(b, a)
            blocks = (ResidualBlock(a + b, b, step_width) for _ in range(2))
            temporal = over_time(b, n, n > 0 if denoises else n == last)
            self.up.append(Level(*blocks, over_space(b), temporal, resize))
        self.final = ResidualBlock(2 * base, base, step_width)
        self.read = nn.Conv2d(base, 1, 1)
        if denoises:
            self.time = nn.Sequential(
                Fourier(16), nn.Linear(33, step_width), nn.GELU(), nn.Linear(step_width, step_width)
            )

    def run(self, x, context=None, step=None):
        context = iter(context if context is not None else [None] * (2 * len(self.down) + 2))
        start = x = per_frame(self.init, x)
        maps = []
        for level in self.down:
            x, space, time = level(x, next(context), next(context), step)
            maps += [space, time]
        skips = list(maps)
        x, space, time = self.middle(x, next(context), next(context), step)
        maps += [space, time]
        for level in self.up:
            time, space = skips.pop(), skips.pop()
            x, _, _ = level(x, time, space, step)
        return per_frame(self.read, self.final(torch.cat([x, start], dim=2), step)), maps


class Downscaler(UNet):
    def __init__(self, channels, base=64, multipliers=(1, 1, 2, 2, 3, 4), heads=4, head_width=32, **kind):
        super().__init__(channels, base, multipliers, heads, head_width, denoises=False, **kind)

    def forward(self, x):
        return self.run(x)


class Denoiser(UNet):
    def __init__(self, channels, base=64, multipliers=(1, 1, 2, 2, 3, 4), heads=4, head_width=32, **kind):
        super().__init__(channels, base, multipliers, heads, head_width, denoises=True, **kind)

    def forward(self, r, n, x, estimate, context):
        """``n`` is the share of the schedule, (b,)."""
        return self.run(torch.cat([r, estimate, x], dim=2), context, self.time(n))[0]


# ---------------------------------------------------------------- algorithm 2, corrected


def levels(length, start=-3.0, end=3.0):
    """alpha and sigma of the steps 0 to N - 1, by the sigmoid schedule with betas of at most 0.999."""
    time = torch.linspace(0, 1, length + 1, dtype=torch.float64)
    curve = torch.sigmoid(start + (end - start) * time)
    share = (curve[-1] - curve) / (curve[-1] - curve[0])
    betas = (1 - share[1:] / share[:-1]).clamp(max=0.999)
    abar = torch.cumprod(1 - betas, dim=0)
    return abar.sqrt().tolist(), (1 - abar).sqrt().tolist()


def sample(downscaler, denoiser, x, start, *, length=1400, steps=30):
    """``x`` (1, t, c, h, w) on the fine grid and ``start`` (1, t, 1, h, w) to fine frames between -1 and 1."""
    alpha, sigma = levels(length)
    estimate, context = downscaler(x)
    tau = [math.floor(v + 1e-9) for v in torch.linspace(-1, length - 1, steps + 1, dtype=torch.float64).tolist()]
    r = start
    for n, following in zip(tau[:0:-1], tau[-2::-1], strict=True):
        v = denoiser(r, torch.tensor([(n + 1) / length]), x, estimate, context)
        r0 = (estimate + alpha[n] * r - sigma[n] * v).clamp(-1, 1) - estimate
        eps = (r - alpha[n] * r0) / sigma[n]
        r = r0 if following < 0 else alpha[following] * r0 + sigma[following] * eps
    return (estimate + r).clamp(-1, 1)
