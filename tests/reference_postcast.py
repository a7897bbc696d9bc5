"""PostCast read plainly from its formulas: one frame at a time, every gradient by autograd, attention written out."""

import math

import torch
import torch.nn.functional as F


def spectrum(shape, correlation=10.0, slope=1.5, deviation=0.3):
    """Variance of the Fourier modes of a field whose cells have this standard deviation."""
    ky, kx = (torch.fft.fftfreq(n) * max(shape) for n in shape)
    variance = ((max(shape) / correlation / (2 * math.pi)) ** 2 + ky[:, None] ** 2 + kx**2) ** -slope
    return variance / variance.mean() * deviation**2


def gaussian_fields(white, mean=-0.3):
    """Samples of a Gaussian random field, ``(..., y, x)``, made of white noise."""
    amplitude = spectrum(white.shape[-2:]).sqrt()
    return mean + torch.fft.ifft2(torch.fft.fft2(white) * amplitude).real


def expected_field(x, signal, level, mean=-0.3):
    """E[x_0 | x_t] of such a field: the exact denoiser."""
    variance = spectrum(x.shape[-2:])
    gain = signal * variance / (signal**2 * variance + level**2)
    return mean + torch.fft.ifft2(gain * torch.fft.fft2(x - signal * mean)).real


def algorithm_1(noise_in, blurry, betas, z, *, update, rate, updates, rho, rho_max=0.5):
    """A sharp frame (y, x) and its kernel, by algorithm 1 with the corrected formulas.

    noise_in(x, t) says the noise at t from 1 to T; z is white noise: (T + 1, y, x) for the sample and (k, k) for the
    kernel. blurry is -1 to 1. The kernel is a softmax, learnt by "sgd" at every step or by "adam" in the second half.
    """
    white, kernel_white = z
    alpha, (cells, length, size) = 1 - betas, (blurry.numel(), len(betas), len(kernel_white))
    abar = torch.cat([torch.ones(1, dtype=betas.dtype), torch.cumprod(alpha, 0)])
    first = 0.6 * (1 + 0.1 * kernel_white)
    phi = (first / first.sum()).log().requires_grad_()
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[update]([phi], lr=rate)

    def distance(x0):
        kernel = phi.flatten().softmax(0).reshape(1, 1, size, size)
        padded = F.pad((x0[None, None] + 1) / 2, (size // 2,) * 4, mode="reflect")
        return ((F.conv2d(padded, kernel)[0, 0] - (blurry + 1) / 2) ** 2).mean()

    x, first_distance = white[0], None
    for t in range(length, 0, -1):
        beta, a, before = (float(v) for v in (betas[t - 1], abar[t], abar[t - 1]))
        x0 = ((x - math.sqrt(1 - a) * noise_in(x, t)) / math.sqrt(a)).clamp(-1, 1).detach().requires_grad_()
        loss = distance(x0)
        first_distance = loss.item() if first_distance is None else first_distance
        s = min(2 * cells * rho * first_distance / loss.item(), 2 * cells * rho_max)
        (gradient,) = torch.autograd.grad(loss, x0)
        c1, c2 = math.sqrt(before) * beta / (1 - a), math.sqrt(1 - beta) * (1 - before) / (1 - a)
        mean = c1 * (x0 - s / c1 * gradient) + c2 * x
        variance = beta * (1 - before) / (1 - a)
        x = (mean + math.sqrt(variance) * white[length + 1 - t] if t > 1 else mean).detach()
        if update == "sgd" or t - 1 <= length / 2:
            for _ in range(updates):
                optimizer.zero_grad()
                distance(x0.detach()).backward()
                optimizer.step()
    return x, phi.detach().flatten().softmax(0).reshape(size, size)


def plain_noise(network, x, step):
    """What a `GuidedUNet` says, module by module as figure and text of guided diffusion have it."""
    half = network.embedding[1].in_features // 2
    angles = torch.tensor([[step * 10000 ** (-i / half) for i in range(half)]])
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
    embedding = network.embedding[3](F.silu(network.embedding[1](embedding)))
    skips = [network.enter(x.contiguous())]
    for stage in network.down:
        skips.append(_plain_stage(stage, skips[-1], embedding))
    x = skips[-1]
    for stage in network.middle:
        x = _plain_stage(stage, x, embedding)
    for level in network.up:
        for stage in level.stages:
            x = _plain_stage(stage, torch.cat([x, skips.pop()], dim=1), embedding)
        if level.doubling is not None:
            x = _plain_stage(level.doubling, x, embedding)
    return network.leave[2](F.silu(network.leave[0](x)))


def _plain_stage(stage, x, embedding):
    block = stage.block
    hidden = F.silu(block.norm_in(x))
    if block.resize is not None and block.resize.__name__ == "halved":
        x, hidden = (sum(v[..., i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4 for v in (x, hidden))
    elif block.resize is not None:
        x, hidden = (v.repeat_interleave(2, -1).repeat_interleave(2, -2) for v in (x, hidden))
    scale, shift = block.modulation(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
    hidden = block.norm_out(block.convolution(hidden)) * (1 + scale) + shift
    x = _mapped(block.shortcut, x) + block.out(F.silu(hidden))
    return x if stage.attention is None else _plain_attention(stage.attention, x)


def _plain_attention(attention, x):
    b, c, ny, nx = x.shape
    q, k, v = _mapped(attention.qkv, attention.norm(x)).reshape(b, 3, attention.heads, -1, ny * nx).unbind(1)
    weights = (torch.einsum("bedn,bedm->benm", q, k) / math.sqrt(q.shape[2])).softmax(dim=-1)
    return x + _mapped(attention.out, torch.einsum("benm,bedm->bedn", weights, v).reshape(b, c, ny, nx))


def _mapped(layer, x):
    """A 1 x 1 convolution as such."""
    return x if not hasattr(layer, "weight") else F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
