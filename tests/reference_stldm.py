"""STLDM read module by module: the plain network that the package's own is compared with, in numbers and in time.

Every step of the description is a line here: tensors stay ``(b, t, c, y, x)`` and are rearranged wherever a layer wants
them otherwise, norms are written out, both passes of guidance repeat all they need. Parameters have the names that they
have in `xnowcast.models.stldm`, so `copy_weights` needs no table.
"""

import math
from itertools import pairwise

import torch
from einops import rearrange
from torch import nn


def copy_weights(target, source):
    """Give a reference module the weights of the package's module; a 1 x 1 convolution is a linear map."""
    state = source.state_dict()
    target.load_state_dict({name: state[name].reshape(own.shape) for name, own in target.state_dict().items()})
    return target.eval()


# ---------------------------------------------------------------- denoiser


class Sinusoid(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, steps):
        half = self.width // 2
        rates = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
        angles = steps[:, None] * rates[None]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ChannelNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x, dim=-3):
        mean = x.mean(dim=dim, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=dim, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * self.gain[:, None, None]


class ConvolutionBlock(nn.Module):
    def __init__(self, width_in, width_out):
        super().__init__()
        self.convolution = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm = nn.GroupNorm(8, width_out)
        self.activation = nn.SiLU()

    def forward(self, x, scale_shift=None):
        x = self.norm(self.convolution(x))
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return self.activation(x)


class ResidualBlock(nn.Module):
    def __init__(self, width_in, width_out, time_width=None):
        super().__init__()
        self.modulation = nn.Linear(time_width, 2 * width_out) if time_width else None
        self.first = ConvolutionBlock(width_in, width_out)
        self.second = ConvolutionBlock(width_out, width_out)
        self.shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x, time=None):
        b, t = x.shape[:2]
        scale_shift = None
        if self.modulation is not None:
            embedding = self.modulation(nn.functional.silu(time))
            embedding = embedding[:, None].expand(b, t, -1).reshape(b * t, -1, 1, 1)
            scale_shift = embedding.chunk(2, dim=1)
        flat = rearrange(x, "b t c h w -> (b t) c h w")
        hidden = self.second(self.first(flat, scale_shift))
        return rearrange(hidden + self.shortcut(flat), "(b t) c h w -> b t c h w", b=b)


class LinearSpatial(nn.Module):
    def __init__(self, width, heads, head_width, patch):
        super().__init__()
        self.heads, self.patch, self.scale = heads, patch, head_width**-0.5
        self.norm = ChannelNorm(width)
        self.qkv = nn.Conv2d(width, 3 * heads * head_width, 1, bias=False)
        self.out = nn.Conv2d(heads * head_width, width, 1)
        self.out_norm = ChannelNorm(width)

    def forward(self, x):
        b = x.shape[0]
        flat = rearrange(self.norm(x), "b t c h w -> (b t) c h w")
        nh, nw = flat.shape[-2] // self.patch, flat.shape[-1] // self.patch
        pattern = "n (e c) (nh p1) (nw p2) -> n (e nh nw) c (p1 p2)"
        q, k, v = (rearrange(part, pattern, e=self.heads, nh=nh, nw=nw) for part in self.qkv(flat).chunk(3, dim=1))
        q = q.softmax(dim=-2) * self.scale
        k = k.softmax(dim=-1)
        context = torch.einsum("b h d n, b h e n -> b h d e", k, v)
        out = torch.einsum("b h d e, b h d n -> b h e n", context, q)
        back = "n (e nh nw) c (p1 p2) -> n (e c) (nh p1) (nw p2)"
        out = rearrange(out, back, e=self.heads, nh=nh, nw=nw, p1=self.patch)
        return x + rearrange(self.out_norm(self.out(out)), "(b t) c h w -> b t c h w", b=b)


class Spatial(nn.Module):
    def __init__(self, width, heads, head_width):
        super().__init__()
        self.heads, self.scale = heads, head_width**-0.5
        self.norm = ChannelNorm(width)
        self.qkv = nn.Conv2d(width, 3 * heads * head_width, 1, bias=False)
        self.out = nn.Conv2d(heads * head_width, width, 1)

    def forward(self, x):
        b, _, _, h, w = x.shape
        flat = rearrange(self.norm(x), "b t c h w -> (b t) c h w")
        q, k, v = (
            rearrange(part, "n (e c) h w -> n e c (h w)", e=self.heads) for part in self.qkv(flat).chunk(3, dim=1)
        )
        similarity = torch.einsum("b h d i, b h d j -> b h i j", q * self.scale, k)
        out = torch.einsum("b h i j, b h d j -> b h i d", similarity.softmax(dim=-1), v)
        out = self.out(rearrange(out, "n e (h w) c -> n (e c) h w", h=h, w=w))
        return x + rearrange(out, "(b t) c h w -> b t c h w", b=b)


class Temporal(nn.Module):
    def __init__(self, width, heads, head_width):
        super().__init__()
        self.heads, self.scale = heads, head_width**-0.5
        self.norm = ChannelNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, x):
        b, _, _, h, w = x.shape
        tokens = rearrange(self.norm(x), "b t c h w -> (b h w) t c")
        q, k, v = (rearrange(part, "b n (e d) -> b e n d", e=self.heads) for part in self.qkv(tokens).chunk(3, -1))
        similarity = torch.einsum("b h i d, b h j d -> b h i j", q * self.scale, k)
        out = torch.einsum("b h i j, b h j d -> b h i d", similarity.softmax(dim=-1), v)
        out = self.out(rearrange(out, "b e n d -> b n (e d)"))
        return x + rearrange(out, "(b h w) t c -> b t c h w", b=b, h=h, w=w)


def per_frame(layer, x):
    b = x.shape[0]
    return rearrange(layer(rearrange(x, "b t c h w -> (b t) c h w")), "(b t) c h w -> b t c h w", b=b)


class Down(nn.Module):
    def __init__(self, width, following, time_width, heads, head_width, patch, last):
        super().__init__()
        self.conditioned = ResidualBlock(2 * width, width, time_width)
        self.spatial = LinearSpatial(width, heads, head_width, patch)
        self.residual = ResidualBlock(width, width)
        self.temporal = Temporal(width, heads, head_width)
        self.resize = nn.Conv2d(width, following, 3, padding=1) if last else nn.Conv2d(width, following, 4, 2, 1)

    def forward(self, x, condition, time):
        x = self.conditioned(torch.cat([x, condition], dim=2), time)
        s = self.spatial(x)
        t = self.temporal(self.residual(s))
        return per_frame(self.resize, t), s, t


class Up(nn.Module):
    def __init__(self, width, following, time_width, heads, head_width, patch, first):
        super().__init__()
        self.resize = nn.Conv2d(width, width, 3, padding=1) if first else nn.ConvTranspose2d(width, width, 4, 2, 1)
        self.temporal = Temporal(width, heads, head_width)
        self.first = ResidualBlock(width + following, width, time_width)
        self.spatial = LinearSpatial(width, heads, head_width, patch)
        self.second = ResidualBlock(width + following, following, time_width)

    def forward(self, x, s, t, time):
        x = self.temporal(per_frame(self.resize, x))
        x = self.spatial(self.first(torch.cat([x, t], dim=2), time))
        return self.second(torch.cat([x, s], dim=2), time)


class Middle(nn.Module):
    def __init__(self, width, time_width, heads, head_width):
        super().__init__()
        self.first = ResidualBlock(width, width, time_width)
        self.spatial = Spatial(width, heads, head_width)
        self.second = ResidualBlock(width, width, time_width)
        self.temporal = Temporal(width, heads, head_width)
        self.third = ResidualBlock(width, width, time_width)

    def forward(self, x, time):
        x = self.second(self.spatial(self.first(x, time)), time)
        return self.third(self.temporal(x), time)


class Denoiser(nn.Module):
    """z (b, t, c, y, x), steps (b,), condition like z or None -> v like z."""

    def __init__(self, latent=32, base=64, multipliers=(1, 2, 4, 8), heads=4, head_width=32, patch=16):
        super().__init__()
        widths = [latent, *(base * m for m in multipliers)]
        levels = len(multipliers)
        time_width = 4 * base
        self.time = nn.Sequential(
            Sinusoid(base), nn.Linear(base, time_width), nn.GELU(), nn.Linear(time_width, time_width)
        )
        self.pyramid = nn.ModuleList(nn.Conv2d(widths[n], widths[n + 1], 4, 2, 1) for n in range(levels - 1))
        self.down = nn.ModuleList(
            Down(widths[n], widths[n + 1], time_width, heads, head_width, patch >> n, n == levels - 1)
            for n in range(levels)
        )
        self.middle = Middle(widths[-1], time_width, heads, head_width)
        self.up = nn.ModuleList(
            Up(widths[n + 1], widths[n], time_width, heads, head_width, patch >> n, n == levels - 1)
            for n in reversed(range(levels))
        )

    def forward(self, z, steps, condition):
        time = self.time(steps)
        skips, x = [], z
        for n, down in enumerate(self.down):
            if condition is None:
                x, s, t = down(x, torch.zeros_like(x), time)
            else:
                current = condition if n == 0 else per_frame(self.pyramid[n - 1], current)  # noqa: F821
                x, s, t = down(x, current, time)
            skips.append((s, t))
        x = self.middle(x, time)
        for up in self.up:
            x = up(x, *skips.pop(), time)
        return x


# ---------------------------------------------------------------- autoencoder and translator


def vae_layer(width_in, width_out, stride=1, transposed=False):
    if transposed:
        convolution = nn.ConvTranspose2d(width_in, width_out, 3, 2, padding=1, output_padding=1)
    else:
        convolution = nn.Conv2d(width_in, width_out, 3, stride, padding=1)
    return nn.Sequential(convolution, nn.GroupNorm(2, width_out), nn.LeakyReLU(0.2))


class Autoencoder(nn.Module):
    """Strides 1, 2, 1, 2: frames (n, 1, y, x) to mean and log-variance (n, 32, y / 4, x / 4), and back."""

    def __init__(self, width=32, layers=4):
        super().__init__()
        strides = [1, 2] * (layers // 2)
        self.encoder = nn.Sequential(
            *(vae_layer(1 if i == 0 else width, width, stride) for i, stride in enumerate(strides))
        )
        self.moments = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.entry = nn.Conv2d(width, width, 3, padding=1)
        self.decoder = nn.Sequential(*(vae_layer(width, width, transposed=s == 2) for s in reversed(strides)))
        self.readout = nn.Conv2d(width, 1, 1)

    def encode(self, frames):
        return self.moments(self.encoder(frames)).chunk(2, dim=1)

    def decode(self, z):
        return torch.sigmoid(self.readout(self.decoder(self.entry(z))))


class GatedAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.enter = nn.Conv2d(width, width, 1)
        self.local = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.wide = nn.Conv2d(width, width, 7, padding=9, dilation=3, groups=width)
        self.gate = nn.Conv2d(width, 2 * width, 1)
        self.leave = nn.Conv2d(width, width, 1)

    def forward(self, x):
        f, g = self.gate(self.wide(self.local(nn.functional.gelu(self.enter(x))))).chunk(2, dim=1)
        return x + self.leave(f * torch.sigmoid(g))


class GatedBlock(nn.Module):
    def __init__(self, width, width_out):
        super().__init__()
        self.attention_norm = nn.BatchNorm2d(width)
        self.attention = GatedAttention(width)
        self.attention_scale = nn.Parameter(torch.full((width,), 1e-2))
        self.mixer_norm = nn.BatchNorm2d(width)
        self.mixer = nn.Sequential(
            nn.Conv2d(width, 8 * width, 1),
            nn.Conv2d(8 * width, 8 * width, 3, padding=1, groups=8 * width),
            nn.GELU(),
            nn.Conv2d(8 * width, width, 1),
        )
        self.mixer_scale = nn.Parameter(torch.full((width,), 1e-2))
        self.leave = nn.Conv2d(width, width_out, 1) if width != width_out else nn.Identity()

    def forward(self, x):
        x = x + self.attention_scale[:, None, None] * self.attention(self.attention_norm(x))
        x = x + self.mixer_scale[:, None, None] * self.mixer(self.mixer_norm(x))
        return self.leave(x)


class Translator(nn.Module):
    """Latents (b, m, c, y, x) to mean and log-variance (b, n, c, y, x)."""

    def __init__(self, inputs, outputs, latent=32, hidden=512, blocks=8):
        super().__init__()
        self.outputs = outputs
        widths = [inputs * latent, *[hidden] * (blocks - 1), 2 * outputs * latent]
        self.blocks = nn.Sequential(*(GatedBlock(a, b) for a, b in pairwise(widths)))

    def forward(self, z):
        out = self.blocks(rearrange(z, "b m c h w -> b (m c) h w"))
        out = rearrange(out, "b (k n c) h w -> k b n c h w", k=2, n=self.outputs)
        return out[0], out[1]


# ---------------------------------------------------------------- the forecast


STEPS = [49, 46, 44, 41, 39, 36, 34, 31, 29, 26, 24, 21, 19, 16, 14, 11, 9, 6, 4, 1, -1]


def abar_of_stldm():
    """Share of the signal at the 50 steps, by the definition: betas first, then their products."""
    time = torch.linspace(-3, 3, 51, dtype=torch.float64)
    curve = (torch.sigmoid(time[-1]) - torch.sigmoid(time)) / (torch.sigmoid(time[-1]) - torch.sigmoid(time[0]))
    betas = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, dim=0)


@torch.no_grad()
def sample(denoiser, z, condition, guidance=1.0, steps=STEPS):
    """DDIM with guidance on v, as the sheet of formulas has it."""
    abar = abar_of_stldm()
    for step, following in pairwise(steps):
        now = torch.full((len(z),), step)
        v = (1 + guidance) * denoiser(z, now, condition) - guidance * denoiser(z, now, None)
        z0 = abar[step].sqrt().float() * z - (1 - abar[step]).sqrt().float() * v
        if following == -1:
            return z0
        eps = (z - abar[step].sqrt().float() * z0) / (1 - abar[step]).sqrt().float()
        z = abar[following].sqrt().float() * z0 + (1 - abar[following]).sqrt().float() * eps
    return z
