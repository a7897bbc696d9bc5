"""Noise that looks like a field: its spectrum, its memory by scale and, if wanted, its strength from place to place."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xnowcast.nn.cascade import FLAT, autoregression, level_weights
from xnowcast.nn.noise import Noise


@dataclass(frozen=True)
class FieldNoise:
    """An autoregression of the second order at each wavenumber, by which a field's own detail is replaced as it fades.

    ``filters``: ``(n, y, x // 2 + 1)``, what makes white noise into each of n parts. ``strength``: ``(n, y, x)``, what
    the parts are multiplied with before they are added, or None. ``first, second``: weights ``(y, x // 2 + 1)`` of the
    newest state and of the one before. ``innovation``: of new white noise, such that the variance tends to 1.
    """

    filters: Tensor
    strength: Tensor | None
    first: Tensor
    second: Tensor
    innovation: Tensor
    shape: tuple[int, int]

    def members(self, noise: Noise, steps: int) -> Iterator[Tensor]:
        """Fields ``(m, y, x)`` of each member at 1, 2, ... steps; they begin from nothing and approach their spread."""
        older = newer = torch.zeros((), device=noise.device)
        for _ in range(steps):
            white = torch.fft.rfft2(noise.normal(*self.shape))
            older, newer = newer, self.first * newer + self.second * older + self.innovation * white
            if self.strength is None:
                yield torch.fft.irfft2(newer * self.filters[0], s=self.shape)
            else:
                parts = torch.fft.irfft2(newer[:, None] * self.filters, s=self.shape)
                yield (parts * self.strength).sum(1)


def field_noise(field: Tensor, observed: Tensor, parts: Tensor, spread: Tensor, window: float | None) -> FieldNoise:
    """The noise that belongs to a field ``(y, x)``, the newest of frames in a logarithmic unit that moved with the air.

    ``parts, spread``: ``(t, level, y, x)`` and ``(t, level, 1, 1)``, the frames as `decomposed` gives them.

    Amplitudes are those of the newest frame's spectrum, and what is remembered is that of `autoregression`, by scale.
    With a ``window``, the standard deviation of Gaussian windows in grid cells, each scale is as strong in each place
    as the newest frame is there, of what was ``observed`` ``(y, x)``; without one it is so everywhere.
    """
    shape = (field.shape[-2], field.shape[-1])
    newest, spread = parts[-1], spread[-1]
    weights = level_weights(shape, len(newest)).to(field.device)
    first, second = (torch.einsum("lyx,l->yx", weights, c[0, :, 0, 0]) for c in autoregression(parts[None]))
    left = (1 + second) / (1 - second) * ((1 - second).square() - first.square())
    filters = weights * torch.fft.rfft2(field - field.mean()).abs()
    kernels = torch.fft.irfft2(filters, s=shape)
    power = kernels.square().sum((-2, -1), keepdim=True).sqrt()
    filters = torch.where(spread > FLAT, filters / power.clamp_min(1e-12), 0.0)
    strength = None
    if window is None:
        filters = (filters * spread).sum(0, keepdim=True)
    else:
        counted = observed.to(field.dtype)
        local = blurred(newest.square() * counted, window) / blurred(counted, window).clamp_min(1e-3)
        strength = spread * local.clamp_min(0).sqrt()
    return FieldNoise(filters, strength, first, second, left.clamp_min(0).sqrt(), shape)


def blurred(fields: Tensor, sigma: float) -> Tensor:
    """Fields ``(..., y, x)`` in Gaussian windows, whose weights add up to 1 at the edge of the grid as elsewhere."""

    def matrix(n: int) -> Tensor:
        place = torch.arange(n, device=fields.device, dtype=fields.dtype) / sigma
        weights = torch.exp(-0.5 * (place[:, None] - place).square())
        return weights / weights.sum(1, keepdim=True)

    return matrix(fields.shape[-2]) @ fields @ matrix(fields.shape[-1]).T
