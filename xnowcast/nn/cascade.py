"""A field taken apart by scale, each scale carried on by its own autoregression: small rain is forgotten first."""

import math

import torch
from torch import Tensor

LEVELS = 6
MOST_LEVELS = 20  # octaves of a grid of a million cells along a side
FLAT = 1e-6  # standard deviation of a level that holds nothing
WIDTH = 0.5  # of a level's weight, standard deviation in units of the distance between levels


def check_cascade(input_frames: int, levels: int) -> None:
    """Refuse frames and levels with which no autoregression can be fitted, each by its name."""
    if input_frames < 3:
        raise ValueError(f"input_frames is {input_frames}: the autoregression is fitted to at least 3 frames")
    if not 2 <= levels <= MOST_LEVELS:
        raise ValueError(f"levels is {levels}: a field is taken apart into at least 2, at most {MOST_LEVELS}")


def level_weights(shape: tuple[int, int], levels: int = LEVELS) -> Tensor:
    """Shares ``(levels, y, x // 2 + 1)`` of each wavenumber of `torch.fft.rfft2` in each level; they add up to 1.

    Levels are centred on wavelengths that lie evenly, in the logarithm, between the longer side of the grid and two
    cells; the mean of the field belongs to the first. Pulkkinen et al. (2019), doi:10.5194/gmd-12-4185-2019

    >>> weights = level_weights((32, 48))
    >>> weights.shape, bool(torch.allclose(weights.sum(0), torch.ones(32, 25)))
    (torch.Size([6, 32, 25]), True)
    """
    longest = max(shape)
    along_y = torch.fft.fftfreq(shape[0])[:, None] * longest
    along_x = torch.fft.rfftfreq(shape[1])[None] * longest
    octave = torch.hypot(along_y, along_x).clamp_min(1.0).log() / math.log(longest / 2)
    centres = torch.linspace(0.0, 1.0, levels)[:, None, None]
    weights = torch.exp(-0.5 * ((octave - centres) * (levels - 1) / WIDTH).square())
    return weights / weights.sum(0)


def continued(frames: Tensor, steps: int, levels: int = LEVELS) -> Tensor:
    """Frames ``(b, t, y, x)`` continued by an autoregression of the second order for each scale, without noise: S-PROG.

    Frames are three or more, finite, in the frame that moves with the rain and in a logarithmic unit. What persists is
    kept and what does not falls back to the mean of its scale, so the forecast ``(b, steps, y, x)``, float32, grows
    smoother as the small scales are forgotten. Seed (2003), doi:10.1175/1520-0450(2003)042<0381:ADASSA>2.0.CO;2

    >>> frames = torch.rand(1, 1, 32, 32).expand(1, 3, 32, 32)
    >>> bool(torch.allclose(continued(frames, steps=4), frames[:, :1].expand(1, 4, 32, 32), atol=1e-2))
    True
    """
    if frames.shape[1] < 3:
        raise ValueError(f"{frames.shape[1]} frames were given: the autoregression is fitted to at least 3")
    size = (frames.shape[-2], frames.shape[-1])
    weights = level_weights(size, levels).to(frames.device)
    parts = torch.fft.irfft2(torch.fft.rfft2(frames.float())[:, :, None] * weights, s=size)  # (b, t, level, y, x)
    mean, spread = parts.mean((-2, -1), keepdim=True), parts.std((-2, -1), keepdim=True)
    parts = torch.where(spread > FLAT, (parts - mean) / spread, 0.0)
    first, second = autoregression(parts)
    older, newer, ahead = parts[:, -2], parts[:, -1], []
    for _ in range(steps):
        older, newer = newer, first * newer + second * older
        ahead.append((newer * spread[:, -1] + mean[:, -1]).sum(1))
    return torch.stack(ahead, 1)


def autoregression(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``(b, level, 1, 1)`` of the newest and of the frame before, by the equations of Yule and Walker.

    Of normalised ``(b, t, level, y, x)``, kept where the process is stationary. Frames that are 0 everywhere, as dry
    ones are, tell nothing. Where no two frames do, the newest persists.

    >>> first, second = autoregression(torch.randn(1, 200, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    >>> bool(first.abs() < 0.05), bool(second.abs() < 0.05)
    (True, True)
    """
    return yule_walker(*_correlation(parts, 1), *_correlation(parts, 2))


def yule_walker(near: Tensor, one: Tensor, far: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the newest frame and of the one before, of a stationary process.

    ``near, far``: how frames correlate with the next and with the one after that. ``one, two``: whether that is known;
    else the newest persists.
    """
    near = torch.where(one, near, 1.0).clamp(-0.999, 0.999)
    far = torch.where(two, torch.maximum(far.clamp(max=0.999), 2 * near.square() - 1), near.square())
    scale = 1 - near.square()
    return near * (1 - far) / scale, (far - near.square()) / scale


def _correlation(parts: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """Mean over pairs of frames of how they correlate, ``(b, level, 1, 1)``, and whether there is such a pair."""
    wet = parts.abs().amax((-2, -1), keepdim=True) > 0
    pairs = wet[:, lag:] & wet[:, :-lag]
    each = (parts[:, lag:] * parts[:, :-lag]).mean((-2, -1), keepdim=True)
    return (each * pairs).sum(1) / pairs.sum(1).clamp_min(1), pairs.any(1)
