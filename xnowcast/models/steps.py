"""STEPS: an ensemble of extrapolations in which noise replaces what cannot be foreseen, scale by scale."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xnowcast.models.base import Grid, Task
from xnowcast.models.declaration import Declared, option
from xnowcast.models.sprog import SPROGOptions
from xnowcast.models.transforms import SCALINGS, Identity
from xnowcast.nn.advection import bilinear_response, sampling_grid
from xnowcast.nn.field_noise import Process
from xnowcast.nn.moving_frame import CARRIED, carried_back, motion_of, onto_ground, onto_newest
from xnowcast.nn.noise import Noise, source

PARALLEL, PERPENDICULAR = (10.88, 0.23, -7.68), (5.76, 0.31, -2.72)
"""Standard deviation of the error of the motion, in km/h, along and across it: ``a t ** b + c`` after t minutes."""

SLOW = 5.0  # km/h: what moves more slowly has a motion that is known better than that
LEAST = 0.01  # mm/h: less is what reading between cells leaves beside rain
BINS = 2**14  # that ranks are told by
COARSE = 2  # cells, along y and x, that the mask is one in
CELLS_AT_ONCE = 2**24  # of the levels of the members that a GPU computes at once


@dataclass(frozen=True, kw_only=True)
class STEPSOptions(SPROGOptions):
    noise: str = option(
        "local",
        "Whether noise is as strong everywhere as the newest frame is in the mean, or by place as that is there, in "
        "Gaussian windows.",
        choices=("global", "local"),
    )
    noise_window: float = option(
        8.0, "Standard deviation, in grid cells, of the windows of local noise.", only={"noise": ("local",)}
    )
    motion_error: float = option(
        0.6, "Factor of the error of the motion of Bowler et al. (2006), which grows with lead time.", least=0
    )
    mask_speed: float | None = option(
        60.0, "How fast, in km/h, rain can appear away from where rain is; anywhere at once with None.", least=0
    )

    def check(self) -> None:
        super().check()
        if self.noise_window <= 0:
            raise ValueError(f"noise_window is {self.noise_window}: it is a length in grid cells, above 0")

    def task(self) -> Task:
        return replace(super().task(), stochastic=True, reads_grid=True)


class STEPS(Declared[STEPSOptions]):
    """Members that need no weights: `sprog`, with noise for what it forgets and a motion of its own for each member.

    The noise has the spectrum of the newest frame and, scale by scale, the memory that the last frames show; it moves
    with the rain. The members' motion errs by as much as that of Bowler et al. does, in km/h along and across it. Rain
    spreads from where it is no faster than ``mask_speed``, and has the rates of the newest frame. What is not known is
    NaN in all members alike.

    ValueError if an option has no such value.

    Bowler et al. (2006), doi:10.1256/qj.04.100; Seed et al. (2013), doi:10.1002/wrcr.20536; Pulkkinen et al. (2019),
    doi:10.5194/gmd-12-4185-2019

    >>> from xnowcast.nn.noise import member_generator
    >>> noise = Noise([member_generator(0, 0, member) for member in range(3)])
    >>> frames = torch.rand(1, 5, 1, 32, 32)
    >>> STEPS().forecast(frames, frames >= 0, 6, noise, grid=Grid(minutes=10.0, spacing_km=(2.0, 2.0))).shape
    torch.Size([3, 6, 1, 32, 32])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.transform, self.scaling = Identity(), SCALINGS[self.options.scaling]

    @torch.inference_mode()
    def forecast(
        self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None, *, grid: Grid | None = None
    ) -> Tensor:
        """``(b, t, 1, y, x)`` in mm h-1, t at least 3, to ``(b * m, steps, 1, y, x)``.

        NaN where the air comes from outside the grid or from where nothing was measured, if it moves as it is seen to;
        the changed motion of a member makes no more. Without ``grid`` frames are 5 min and cells 1 km apart.
        """
        drawn, grid = source(noise, len(frames)), grid or Grid()
        members = len(drawn) // len(frames)
        cells = frames.shape[-2] * frames.shape[-1]
        # one member at a time keeps the work in the CPU's cache; a GPU is faster with many
        size = 1 if frames.device.type == "cpu" else max(1, CELLS_AT_ONCE // (cells * self.options.levels))
        answer = frames.new_empty(len(drawn), steps, *frames.shape[-3:], dtype=torch.float32)
        for i in range(len(frames)):
            one = Situation(self, frames[i, :, 0].float(), observed[i, :, 0], steps, grid)
            for j in range(i * members, (i + 1) * members, size):
                part = slice(j, min(j + size, (i + 1) * members))
                answer[part, :, 0] = one.members(Noise(drawn.generators[part], drawn.device))
        return answer


class Situation:
    """What all members of one forecast share."""

    def __init__(self, model: STEPS, rain: Tensor, valid: Tensor, steps: int, grid: Grid) -> None:
        own = self.options = model.options
        self.steps, self.grid = steps, grid
        motion = motion_of(rain[None], valid[None], window=own.window)
        aligned, seen = onto_newest(rain[None], valid[None], motion, len(rain))
        aligned = carried_back(aligned, seen)
        scaled = model.scaling(aligned[0])
        process = Process.of(scaled, own.levels)
        self.mean = torch.stack(list(process.continued(steps)))
        left = bilinear_response((rain.shape[-2], rain.shape[-1])).to(rain.device)
        noise = process.noise(valid[-1], own.noise_window if own.noise == "local" else None)
        self.noise = replace(noise, filters=noise.filters / left)  # what reading between cells takes is given before
        self.mask = None if own.mask_speed is None else growing(scaled[-1] > 0.1, own.mask_speed, grid, steps)
        newest = onto_ground(aligned[:, -1:].expand(-1, steps, -1, -1), motion, valid[None, -1])[0]
        self.known = newest.isfinite()
        self.wanted = [falling(F.threshold(field, LEAST, 0.0)) for field in newest.nan_to_num(0.0)]
        self.scaling = model.scaling
        start = sampling_grid(motion, steps, CARRIED, 8)
        self.start = start.view(steps, *rain.shape[-2:], 2)
        self.along, self.across = directions(motion[0], grid)

    def members(self, noise: Noise) -> Tensor:
        """``(m, steps, y, x)`` in mm h-1."""
        drawn = noise.uniform(2, 1, 1, 1) - 0.5
        factor = -drawn.sign() * (1 - 2 * drawn.abs()).clamp_min(1e-7).log() / 2**0.5  # Laplace, variance 1
        fields = []
        for step, field in enumerate(self.noise.members(noise, self.steps)):
            field = field + self.mean[step]
            if self.mask is not None:
                field = field * self.mask[step]
            minutes = (step + 1) * self.grid.minutes
            place = self.start[step] + self.options.motion_error * (
                way(PARALLEL, minutes) * factor[:, 0] * self.along
                + way(PERPENDICULAR, minutes) * factor[:, 1] * self.across
            )
            place = 2 * place.clamp(-1, 1) - place  # beyond the edge as within it, as in a mirror
            field = F.grid_sample(field[:, None], place, mode="bilinear", padding_mode="border", align_corners=True)
            fields.append(self.rates(field[:, 0].clamp(0.0, 1.0), step))
        return torch.stack(fields, 1)

    def rates(self, field: Tensor, step: int) -> Tensor:
        """Rain rates ``(m, y, x)`` of a field on the ground."""
        known = self.known[step]
        if not self.options.probability_matching:
            return self.scaling.inverse(field).masked_fill(~known, torch.nan)
        ranked = field.masked_fill(~known, 0.0).flatten(1)
        return by_rank(ranked, self.wanted[step]).view_as(field).masked_fill_(~known, torch.nan)


def falling(rain: Tensor) -> Tensor:
    """Rain rates above 0, the highest first, and a 0 at the end.

    Sorted by counting: floats that are not negative are in the order of their bits, of which 19 are kept. Rates that
    differ by less than a two-thousandth become their mean, and it takes a tenth of the time of sorting.
    """
    rates = rain.flatten()
    bins = rates.view(torch.int32) >> 12
    counts, sums = (torch.bincount(bins, weights, minlength=2**19) for weights in (None, rates))
    counts[0] = 1
    return (sums / counts.clamp_min(1)).to(rain.dtype).repeat_interleave(counts).flip(0)


def by_rank(fields: Tensor, wanted: Tensor) -> Tensor:
    """Fields ``(m, n)`` from 0 to 1 with the values ``wanted``, which fall to 0 at the end, in the order of their own.

    As `xnowcast.nn.probability_matching.matched`, but that cells which differ by less than 1 / `BINS` share one value.
    """
    bins = (fields * (BINS - 1)).to(torch.int64)
    matched = torch.empty_like(fields)
    for i, own in enumerate(bins):
        counts = torch.bincount(own, minlength=BINS)
        middle = counts.flip(0).cumsum(0).flip(0) - (counts + 1) // 2
        matched[i] = wanted[middle.clamp(0, len(wanted) - 1)][own]
    return matched.masked_fill_(fields <= 0, 0.0)


def way(error: tuple[float, float, float], minutes: float) -> float:
    """How far, in km, a motion leads astray in some minutes whose error is ``a t ** b + c`` km/h after t minutes."""
    a, b, c = error
    return max(0.0, a * minutes ** (b + 1) / (b + 1) + c * minutes) / 60


def directions(motion: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """A km along and across motion ``(2, y, x)``, in units of `sampling_grid`; less where it is slow: ``(y, x, 2)``."""
    spacing = torch.tensor(grid.spacing_km, device=motion.device, dtype=motion.dtype).view(2, 1, 1)
    speed = motion * spacing * (60 / grid.minutes)
    along = speed / (speed.square().sum(0, keepdim=True) + SLOW**2).sqrt()
    across = torch.stack([-along[1], along[0]])
    size = torch.tensor(motion.shape[-2:], device=motion.device, dtype=motion.dtype).view(2, 1, 1)
    along, across = ((2 * km / spacing / (size - 1)).flip(0).permute(1, 2, 0) for km in (along, across))
    return along, across


def growing(wet: Tensor, speed: float, grid: Grid, steps: int) -> Tensor:
    """Where rain may be after 1, 2, ... steps if it spreads from ``wet`` ``(y, x)`` at some km/h: ``(steps, y, x)``.

    From 1 it falls to 0 within the last kilometres.
    """
    shape = (wet.shape[-2], wet.shape[-1])
    coarse = F.max_pool2d(wet.float()[None, None], COARSE, ceil_mode=True)
    masks = []
    for step in range(1, steps + 1):
        mask = coarse
        for axis, km in enumerate(grid.spacing_km):
            reach = round(speed * step * grid.minutes / 60 / km / COARSE / 2)
            half = min(reach, coarse.shape[2 + axis] // 2)
            window, padding = ((2 * half + 1, 1), (half, 0)) if axis == 0 else ((1, 2 * half + 1), (0, half))
            mask = F.max_pool2d(mask, window, stride=1, padding=padding)
            mask = F.avg_pool2d(mask, window, stride=1, padding=padding, count_include_pad=False)
        masks.append(F.interpolate(mask, scale_factor=COARSE, mode="bilinear")[0, 0, : shape[0], : shape[1]])
    return torch.stack(masks)
