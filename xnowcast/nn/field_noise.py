"""A field continued wavenumber by wavenumber, and noise that looks like it: for what of it is forgotten."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xnowcast.nn.cascade import FLAT, level_weights, yule_walker
from xnowcast.nn.noise import Noise

BAND = 2  # levels that have their strength from place to place in common


@dataclass(frozen=True)
class Process:
    """An autoregression of the second order at each wavenumber of fields ``(y, x)``, and the frames that it is of.

    ``first, second``: weights ``(y, x // 2 + 1)`` of the newest and of the one before. ``newest, older``: their
    spectra, the older one as strong at each scale as the newest. ``weights, spread``: shares ``(level, y, x // 2 + 1)``
    and standard deviations ``(level, 1, 1)`` of the levels of the newest.
    """

    shape: tuple[int, int]
    first: Tensor
    second: Tensor
    newest: Tensor
    older: Tensor
    weights: Tensor
    spread: Tensor

    @classmethod
    def of(cls, frames: Tensor, levels: int) -> "Process":
        """The process of three or more frames ``(t, y, x)`` that moved with the air, in a logarithmic unit.

        As `xnowcast.nn.cascade.continued` fits it, level by level, and between the levels' wavelengths between theirs:
        the weights of two stationary processes are, mixed, those of a stationary one.
        """
        shape = (frames.shape[-2], frames.shape[-1])
        weights = level_weights(shape, levels).to(frames.device)
        spectra = torch.fft.rfft2(frames)
        count = weights.new_full((shape[1] // 2 + 1,), 2.0)  # of a wavenumber and its mirror
        count[0] = 1.0
        if shape[1] % 2 == 0:
            count[-1] = 1.0
        counted = weights.square() * (count / (shape[0] * shape[1]) ** 2)
        counted[:, 0, 0] = 0.0  # of the mean

        def covariance(lag: int) -> Tensor:
            """``(t - lag, level)``."""
            product = (spectra[lag:] * spectra[: len(spectra) - lag].conj()).real
            return product.flatten(1) @ counted.flatten(1).T

        spread = covariance(0).clamp_min(0).sqrt()
        wet = spread > FLAT
        known = []
        for lag in (1, 2):
            pairs = wet[lag:] & wet[:-lag]
            each = covariance(lag) / (spread[lag:] * spread[:-lag]).clamp_min(FLAT**2)
            known += [(each * pairs).sum(0) / pairs.sum(0).clamp_min(1), pairs.any(0)]
        first, second = (torch.einsum("lyx,l->yx", weights, level) for level in yule_walker(*known))
        ratio = torch.where(wet[-2] & wet[-1], spread[-1] / spread[-2].clamp_min(FLAT), 0.0)
        older = spectra[-2] * torch.einsum("lyx,l->yx", weights, ratio)
        return cls(shape, first, second, spectra[-1], older, weights, spread[-1][:, None, None])

    def continued(self, steps: int) -> Iterator[Tensor]:
        """Fields ``(y, x)`` at 1, 2, ... steps without noise: what does not persist falls back to the mean."""
        mean = self.newest[0, 0].clone()
        older, newer = self.older, self.newest
        for _ in range(steps):
            older, newer = newer, self.first * newer + self.second * older
            newer[0, 0] = mean
            yield torch.fft.irfft2(newer, s=self.shape)

    def lost(self, ahead: Tensor) -> Tensor:
        """What share of its spread each band of a forecast ``(n, y, x)`` has lost beside the newest frame.

        Returned: ``(n, band, 1, 1)``, in the root of the mean square. Noise of that share gives back the power of the
        newest frame, and errs as a forecast does that is the mean of what can happen.
        """
        bands = in_bands(self.weights)

        def spread(spectra: Tensor) -> Tensor:
            return torch.fft.irfft2(spectra * bands, s=self.shape).std((-2, -1), keepdim=True)

        kept = torch.stack([spread(torch.fft.rfft2(field)) for field in ahead])
        return (1 - (kept / spread(self.newest).clamp_min(FLAT)).square()).clamp(0, 1).sqrt()

    def noise(self, observed: Tensor, window: float | None) -> "FieldNoise":
        """Noise with the amplitudes of the newest frame and the memory of the process.

        With a ``window``, the standard deviation of Gaussian windows in grid cells, each band of levels is as strong in
        each place as the newest frame is there, of what was ``observed`` ``(y, x)``; without one it is so everywhere.
        """
        amplitude = self.newest.abs()
        amplitude[0, 0] = 0.0
        filters = self.weights * amplitude
        power = torch.fft.irfft2(filters, s=self.shape).square().sum((-2, -1), keepdim=True).sqrt()
        filters = torch.where(self.spread > FLAT, self.spread * filters / power.clamp_min(1e-12), 0.0)
        strength = None
        if window is None:
            filters = filters.sum(0, keepdim=True)
        else:
            filters, bands = in_bands(filters), in_bands(self.weights)
            power = torch.fft.irfft2(filters, s=self.shape).square().sum((-2, -1), keepdim=True).sqrt()
            filters = filters / power.clamp_min(1e-12)
            newest = self.newest.clone()
            newest[0, 0] = 0.0
            parts = torch.fft.irfft2(newest * bands, s=self.shape)
            counted = observed.to(parts.dtype)
            local = blurred(parts.square() * counted, window) / blurred(counted, window).clamp_min(1e-3)
            strength = local.clamp_min(0).sqrt()
        left = (1 + self.second) / (1 - self.second) * ((1 - self.second).square() - self.first.square())
        return FieldNoise(self.shape, filters, strength, self.first, self.second, left.clamp_min(0).sqrt())


@dataclass(frozen=True)
class FieldNoise:
    """Noise that a `Process` makes of white noise.

    ``filters``: ``(n, y, x // 2 + 1)``, what makes white noise into each of n parts. ``strength``: ``(n, y, x)``, what
    the parts are multiplied with before they are added, or None. ``first, second``: as of the process. ``innovation``:
    of new white noise, such that the variance tends to 1.
    """

    shape: tuple[int, int]
    filters: Tensor
    strength: Tensor | None
    first: Tensor
    second: Tensor
    innovation: Tensor

    def members(self, noise: Noise, steps: int) -> Iterator[Tensor]:
        """Fields ``(m, y, x)`` of each member at 1, 2, ... steps; they begin from nothing and approach their spread."""
        for parts in self.parts(noise, steps):
            yield parts.sum(1)

    def parts(self, noise: Noise, steps: int, *, begun: bool = False) -> Iterator[Tensor]:
        """The same in their parts ``(m, n, y, x)``; with ``begun`` they have their spread from the first step on."""
        older = newer = torch.zeros((), device=noise.device)
        if begun:
            near = self.first / (1 - self.second)  # correlation of neighbours in time
            older, fresh = (torch.fft.rfft2(noise.normal(*self.shape)) for _ in range(2))
            newer = near * older + (1 - near.square()).clamp_min(0).sqrt() * fresh
        for _ in range(steps):
            white = torch.fft.rfft2(noise.normal(*self.shape))
            older, newer = newer, self.first * newer + self.second * older + self.innovation * white
            parts = torch.fft.irfft2(newer[:, None] * self.filters, s=self.shape)
            yield parts if self.strength is None else parts * self.strength


def blurred(fields: Tensor, sigma: float) -> Tensor:
    """Fields ``(..., y, x)`` in Gaussian windows, whose weights add up to 1 at the edge of the grid as elsewhere."""

    def matrix(n: int) -> Tensor:
        place = torch.arange(n, device=fields.device, dtype=fields.dtype) / sigma
        weights = torch.exp(-0.5 * (place[:, None] - place).square())
        return weights / weights.sum(1, keepdim=True)

    return matrix(fields.shape[-2]) @ fields @ matrix(fields.shape[-1]).T


def in_bands(of_levels: Tensor) -> Tensor:
    """Levels ``(level, ...)`` added up to bands that have their strength from place to place in common."""
    return torch.stack([band.sum(0) for band in of_levels.split(BAND)])
