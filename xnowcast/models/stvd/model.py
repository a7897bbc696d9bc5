"""STVD, the system: what it declares, how it refines and what it minimises."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast.diffusion import PARAMETERIZATIONS, SAMPLERS, Denoise, evenly_spaced_steps, sigmoid_schedule
from xnowcast.models.base import Loss, Task, TrainingBatch, require_finite
from xnowcast.models.declaration import Declared, Options, option
from xnowcast.models.stvd.pieces import Piece, blended, cut
from xnowcast.models.stvd.unet import Condition, Denoiser, Downscaler, Shape
from xnowcast.models.transforms import Logarithm
from xnowcast.nn.blocks import with_fixed_filters
from xnowcast.nn.noise import Noise

SIZES = {
    "full": Shape(),
    "small": Shape(32, (1, 2, 2, 4), 4, 16),
    "light": Shape(16, (1, 2, 2, 4), 4, 16),
    "tiny": Shape(16, (1, 2), 2, 8),
}

LEAST_COVERAGE = 0.5
"""Share of a coarse cell that has to be measured for it to count in training, as where data are coarsened."""

CELLS_AT_ONCE = {"cpu": 2**16}
MOST_CELLS_AT_ONCE = 2**22
"""Fine cells, over all frames and members, that are denoised together: on a CPU as many as its cache likes."""

VELOCITY = PARAMETERIZATIONS["v"]


@dataclass(frozen=True, kw_only=True)
class STVDOptions(Options):
    size: str = option(
        "full",
        '"full" is that of the paper, 40 million parameters; the others have 7.1, 1.9 and 0.4 million.',
        choices=SIZES,
    )
    factor: int = option(
        8, "How many fine cells along y and x make a coarse one; a power of two, and weights are for one."
    )
    frames: int = option(
        5,
        "Frames that are refined together; longer sequences are refined in overlapping windows. The paper's ablations "
        "have 1 and 3.",
        least=1,
    )
    channels: Sequence[str] = option(
        (),
        'Further fields on the coarse grid such as ``"eastward_wind at 850 hPa"``, named as in `xnowcast.channels`. '
        "`xnowcast.train` measures the ranges that "
        "they are scaled by; in a loop of your own give them with `set_ranges`.",
    )
    static: Sequence[str] = option(
        (), "Further fields on the fine grid, such as ``surface_altitude``; scaled likewise."
    )
    eps: float = option(3.6e-4, "mm/h, of the scaling of the rain: see `xnowcast.transforms.Logarithm`.")
    highest: float = option(256.0, "mm/h, likewise.")
    coarse_highest: float | None = option(
        None,
        "mm/h, of the scaling of the coarse rain, as the authors' code has one of each. By default it is scaled as the "
        "fine rain is, so that the interpolated input is an estimate as it stands.",
    )
    diffusion_steps: int = option(1400, "N of the training; a schedule of its own goes with each.", least=1)
    aux_mse_weight: float = option(
        0.0,
        "Weight of the mean squared error of the estimate. 0 is the paper's single loss, with which the estimate is an "
        "offset that makes the diffusion easy; with 1 it is a conditional mean.",
        least=0,
    )
    per_frame_noise: bool = option(
        False,
        "In training give every frame a noise level of its own, as the published code does, not one per sequence.",
    )
    attention_kernel: int = option(
        1,
        "Width of the convolution that makes queries, keys and values of every attention: 3 is the paper's, 1 that of "
        "its code.",
        choices=(1, 3),
    )
    whole_map: bool = option(
        False,
        "Let linear attention over space see the whole map; the paper has 2 x 2 patches that do not see each other.",
    )
    published: bool = option(
        False,
        "Do as the authors' code does, as its weights need it: attention over the whole map, steps as whole numbers, "
        "bilinear interpolation, and the residual clipped instead of its sum with the estimate.",
    )
    sampling_steps: int = option(30, "Steps of the sampler, 1 to ``diffusion_steps``.", runtime=True)
    sampler: str = option("ddim", '"heun" calls the denoiser twice per step.', choices=SAMPLERS, runtime=True)
    stochastic: bool = option(True, "False gives the estimate alone.", runtime=True)
    precision: str = option(
        "float32", "Of both networks when they refine.", choices=("float32", "bfloat16"), runtime=True
    )
    tile: int = option(
        384, "Fine grids wider or higher than this many cells are refined in overlapping tiles.", runtime=True
    )

    def check(self) -> None:
        if self.factor < 2 or self.factor & (self.factor - 1):
            raise ValueError(f"factor is {self.factor}: it must be a power of two, 2 or more")
        if not 1 <= self.sampling_steps <= self.diffusion_steps:
            raise ValueError(
                f"sampling_steps is {self.sampling_steps}: the training had {self.diffusion_steps}, choose 1 to that"
            )
        Logarithm(self.eps, self.highest)
        if self.coarse_highest is not None:
            Logarithm(self.eps, self.coarse_highest)
        multiple = self.shape.multiple
        if self.tile % multiple or self.tile < 2 * multiple:
            raise ValueError(f"tile is {self.tile} cells: choose a multiple of {multiple}, at least {2 * multiple}")

    @property
    def shape(self) -> Shape:
        """Of both networks."""
        return replace(
            SIZES[self.size], kernel=self.attention_kernel, whole_map=self.whole_map, published=self.published
        )

    def task(self) -> Task:
        multiple = self.shape.multiple
        return Task(
            "downscale",
            input_frames=self.frames,
            quantity="rain_rate",
            grid_multiple=multiple // gcd(multiple, self.factor),
            min_grid=2,
            stochastic=self.stochastic,
            trained=True,
            factor=self.factor,
            channels=_names("channels", self.channels),
            static=_names("static", self.static),
        )


class STVD(Declared[STVDOptions], nn.Module):
    """Spatio-temporal video diffusion: a first estimate of fine rain from several coarse frames, and members of it.

    The downscaler estimates all frames of a window at once. The denoiser makes the residual between estimate and truth
    out of noise, all frames together, given the input, the estimate and the maps that the downscaler made on its way.

    ValueError if an option has no such value.

    Srivastava, Yang, Kerrigan, Dresdner, McGibbon, Bretherton and Mandt (2024), Precipitation downscaling with
    spatiotemporal video diffusion, arXiv:2312.06071

    >>> import numpy as np
    >>> model = STVD(size="tiny", factor=4, frames=3, sampling_steps=2).eval()
    >>> coarse = 2 * torch.rand(1, 3, 1, 8, 8) - 1
    >>> noise = Noise([np.random.default_rng(number) for number in range(2 * 3)])  # two members of three frames
    >>> model.downscale(coarse, coarse < 2, 4, noise=noise).shape
    torch.Size([2, 3, 1, 32, 32])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        self.factor, self.training_frames = own.factor, own.frames
        self.transform = Logarithm(own.eps, own.highest)
        # logarithms with one eps: what becomes 1 is all that they differ in
        self.coarse_stretch = 1.0 if own.coarse_highest is None else self.transform.stretch_to(own.coarse_highest)
        self.schedule = sigmoid_schedule(own.diffusion_steps)
        self.shape = own.shape
        names = (*self.task.channels, *self.task.static)
        self.downscaler = Downscaler(1 + len(names), self.shape)
        self.denoiser = Denoiser(1 + len(names), self.shape)
        self.register_buffer("lowest", torch.full((len(names),), torch.nan))
        self.register_buffer("largest", torch.full((len(names),), torch.nan))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    lowest: Tensor
    largest: Tensor

    def set_ranges(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        """Say between which values further fields lie in the training data; they are part of the weights.

        ``ranges``: name of each of the task's ``channels`` and ``static`` to its lowest and largest value, in canonical
        units (see `xnowcast.channels`). They become -1 and 1, and what lies beyond is clipped. ValueError if a field is
        missing or unknown, or a range is empty.

        >>> model = STVD(size="tiny", channels=["eastward_wind"], static=["surface_altitude"])
        >>> model.set_ranges({"eastward_wind": (-40, 40), "surface_altitude": (0, 4000)})
        >>> model.largest.tolist()
        [40.0, 4000.0]
        """
        names = (*self.task.channels, *self.task.static)
        if set(ranges) != set(names):
            raise ValueError(f"there are ranges of {_listed(ranges)}; the model reads {_listed(names)} beside the rain")
        for name, (low, high) in ranges.items():
            if not float("-inf") < low < high < float("inf"):
                raise ValueError(f"the range of {name!r} is {low} to {high}: the first must be less than the second")
        with torch.no_grad():
            for buffer, end in ((self.lowest, 0), (self.largest, 1)):
                buffer.copy_(torch.tensor([float(ranges[name][end]) for name in names]))

    def set_channel_statistics(self, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> None:
        """The ranges of the channels, ``(c,)`` each, from the training data. Those that were set before stay."""
        self._set_unknown(slice(0, len(self.task.channels)), low, high)

    def set_static_statistics(self, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> None:
        """The ranges of the static fields, ``(k,)`` each, from the training data. Those that were set before stay."""
        self._set_unknown(slice(len(self.task.channels), None), low, high)

    @torch.no_grad()
    def _set_unknown(self, which: slice, low: Tensor, high: Tensor) -> None:
        unknown = self.lowest[which].isnan()
        # a field that is the same everywhere has no range, and 1 is as good as any other
        high = torch.where(high > low, high, low + 1)
        for buffer, ends in ((self.lowest, low), (self.largest, high)):
            buffer[which] = torch.where(unknown, ends.to(buffer), buffer[which])

    # ------------------------------------------------------------ refining

    @torch.inference_mode()
    def downscale(
        self, frames: Tensor, observed: Tensor, factor: int, static: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """``(b, t, c, y, x)`` to members ``(b * m, t, 1, y * factor, x * factor)`` in [-1, 1].

        Without noise it is the downscaler's estimate, ``(b, t, 1, ...)``. Estimate and maps are computed once for all
        members and steps.
        """
        self._check(frames, factor, static)
        copies = self._copies(len(frames), frames.shape[1], noise)
        x = self._fine_inputs(frames, static)
        networks = self._refining_networks()
        pieces = cut(
            frames.shape[1],
            (x.shape[-2], x.shape[-1]),
            length=self.task.input_frames,
            tile=self.options.tile,
            multiple=self.shape.multiple,
            device=x.device,
        )
        per_sequence = copies * frames.shape[1]
        fine = []
        for number, one in enumerate(x.split(1)):
            sources = None
            if noise is not None:
                own = noise.generators[number * per_sequence : (number + 1) * per_sequence]
                sources = Noise(own, noise.device)
            fine.append(self._refined(networks, one, pieces, sources))
        return require_finite(torch.cat(fine)).clamp(-1, 1)

    def _refined(
        self, networks: tuple[Downscaler, Denoiser], x: Tensor, pieces: list[Piece], noise: Noise | None
    ) -> Tensor:
        """One sequence ``(1, t, c, y, x)`` to ``(m, t, 1, y, x)``."""
        downscaler, denoiser = networks
        estimates, conditions = [], []
        for piece in pieces:
            part = piece(x).to(denoiser.dtype)
            estimate, context = downscaler(part)
            estimates.append(estimate.float())
            if noise is not None:
                conditions.append(denoiser.project(part, estimate, context))
        estimate = blended(estimates, pieces, x[:, :, :1])
        if noise is None:
            return estimate
        start = noise.normal(1, *x.shape[-2:]).to(x)
        steps = evenly_spaced_steps(self.schedule.length, self.options.sampling_steps)
        denoise = self._denoise(denoiser, pieces, estimates, conditions, estimate)
        residual = SAMPLERS[self.options.sampler](denoise, start, self.schedule, steps, noise)
        return estimate + residual.unflatten(0, (-1, x.shape[1]))

    def _denoise(
        self,
        denoiser: Denoiser,
        pieces: list[Piece],
        estimates: list[Tensor],
        conditions: list[Condition],
        estimate: Tensor,
    ) -> Denoise:
        """The expected residual to the blended estimate, (m t, 1, y, x), of all members."""
        frames = estimate.shape[1]

        def denoise(r: Tensor, step: float) -> Tensor:
            signal, noise_level = self.schedule.levels(step)
            members = r.unflatten(0, (-1, frames))
            fine = []
            for piece, own, condition in zip(pieces, estimates, conditions, strict=True):
                # a piece knows the residual to its own estimate: a shift of the signal, and none of the noise
                noisy = piece(members) + signal * (piece(estimate) - own)
                velocity = self._velocity(denoiser, noisy, step, condition)
                residual = require_finite(VELOCITY.to_x0(velocity, noisy, signal, noise_level))
                # the sum has rain rates for bounds; a residual can be as large as 2
                clipped = own + residual.clamp(-1, 1) if self.options.published else (own + residual).clamp(-1, 1)
                fine.append(clipped)
            return (blended(fine, pieces, members) - estimate).flatten(0, 1)

        return denoise

    def _velocity(self, denoiser: Denoiser, noisy: Tensor, step: float, condition: Condition) -> Tensor:
        """Of some members (m, t, 1, y, x), as many at a time as are good for the device."""
        cells = noisy.shape[1] * noisy.shape[-2] * noisy.shape[-1]
        at_once = max(1, CELLS_AT_ONCE.get(noisy.device.type, MOST_CELLS_AT_ONCE) // cells)
        done = torch.tensor([self._progress(step)], device=noisy.device)
        parts = noisy.to(denoiser.dtype).split(at_once)
        return torch.cat([denoiser(part, done, condition) for part in parts]).to(noisy)

    def _progress(self, step: "Tensor | float") -> "Tensor | float":
        """Share of the schedule that a step has done, above 0 to 1: n / N of the paper's n from 1 to N."""
        return step if self.options.published else (step + 1) / self.schedule.length

    def _refining_networks(self) -> tuple[Downscaler, Denoiser]:
        """Both networks in the precision that is asked for."""
        dtype = torch.bfloat16 if self.options.precision == "bfloat16" else None
        copies = (with_fixed_filters(network, dtype) for network in (self.downscaler, self.denoiser))
        return cast(tuple[Downscaler, Denoiser], tuple(copies))

    def _fine_inputs(self, frames: Tensor, static: Tensor | None) -> Tensor:
        """Everything that is read, (b, t, c, y, x) on the fine grid and in [-1, 1]."""
        coarse, count = frames, len(self.task.channels)
        if count:
            # what is missing is at the middle of its range
            others = self._scaled(frames[:, :, 1:], slice(0, count)).nan_to_num(0.0)
            coarse = torch.cat([frames[:, :, :1], others], dim=2)
        if self.coarse_stretch != 1:
            coarse = torch.cat([(coarse[:, :, :1] + 1) * self.coarse_stretch - 1, coarse[:, :, 1:]], dim=2)
        # bicubic interpolation overshoots, and the networks have never seen what lies beyond
        mode = "bilinear" if self.options.published else "bicubic"
        fine = _interpolated(coarse, self.factor, mode).clamp(-1, 1)
        if static is None:
            return fine
        own = static if static.ndim == 4 else static[None]  # of each sequence, or of all
        fixed = self._scaled(own[:, None], slice(count, None))
        return torch.cat([fine, fixed.expand(*fine.shape[:2], -1, -1, -1)], dim=2)

    def _scaled(self, fields: Tensor, which: slice) -> Tensor:
        """Further fields (..., c, y, x) between -1 and 1."""
        low, high = (end[which, None, None] for end in (self.lowest, self.largest))
        if bool(low.isnan().any()):
            raise ValueError("the ranges of the further fields were never set: call set_ranges before training")
        return ((fields - low) * (2 / (high - low)) - 1).clamp(-1, 1)

    def _check(self, frames: Tensor, factor: int, static: Tensor | None) -> None:
        task = self.task
        if factor != self.factor:
            raise ValueError(f"factor is {factor}; this model was made for {self.factor}")
        if frames.shape[1] < task.input_frames:
            raise ValueError(f"there are {frames.shape[1]} frames; this model looks at {task.input_frames} at once")
        if frames.shape[2] != 1 + len(task.channels):
            wanted = _listed(("rain", *task.channels))
            raise ValueError(f"there are {frames.shape[2]} channels; this model reads {wanted}")
        given = 0 if static is None else static.shape[-3]
        if given != len(task.static):
            raise ValueError(f"there are {given} static fields; this model reads {_listed(task.static)}")
        multiple = task.grid_multiple
        if frames.shape[-2] % multiple or frames.shape[-1] % multiple:
            raise ValueError(f"a grid of {tuple(frames.shape[-2:])} cells: pad it to multiples of {multiple}")

    def _copies(self, sequences: int, frames: int, noise: Noise | None) -> int:
        """Members of each sequence."""
        if noise is None:
            return 1
        copies, rest = divmod(len(noise), sequences * frames)
        if rest or not copies:
            raise ValueError(
                f"there are {len(noise)} noise sources for {sequences} sequences of {frames} frames; give one for "
                "every frame of every member of each"
            )
        return copies

    # ------------------------------------------------------------ training

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Equation 4 for fine rain and further fields that are coarsened here; means over what was measured.

        ``parts`` are ``diffusion``, the error of v, and ``estimate``, the mean squared error of the first estimate.
        """
        multiple = self.task.grid_multiple * self.factor
        if any(size % multiple for size in batch.rain.shape[-2:]):
            raise ValueError(
                f"samples of {tuple(batch.rain.shape[-2:])} cells; at factor {self.factor} training takes multiples of "
                f"{multiple}"
            )
        coarse, measured = coarsened(batch.rain, batch.observed, self.factor)
        if batch.channels is not None:
            known = ~batch.channels.isnan()
            others, valid = coarsened(batch.channels.nan_to_num(0.0), known, self.factor)
            coarse = torch.cat([coarse, others.masked_fill(~valid, torch.nan)], dim=2)
        return self.pair_loss(coarse, measured, batch.rain, batch.observed, batch.static)

    def pair_loss(
        self, coarse: Tensor, coarse_observed: Tensor, fine: Tensor, observed: Tensor, static: Tensor | None = None
    ) -> Loss:
        """Equation 4 for coarse fields and the fine rain that belongs to them.

        ``coarse``: ``(b, t, c, y, x)``: rain in mm h-1, 0 where not measured, then the task's channels in canonical
        units, NaN where missing. ``coarse_observed``: ``(b, t, 1, y, x)`` bool: where rain was measured. ``fine``:
        ``(b, t, 1, y * factor, x * factor)``: rain in mm h-1, 0 where not measured. ``observed``: as ``fine``, bool.
        ``static``: ``(k, y * factor, x * factor)`` or, for sequences from different places, ``(b, k, ...)``: the task's
        static fields in canonical units. ValueError if the number of frames or of fields is not the model's, or the
        grid no multiple.
        """
        if fine.shape[1] != self.training_frames:
            raise ValueError(f"there are {fine.shape[1]} frames; training takes {self.training_frames}")
        self._check(coarse, self.factor, static)
        scaled = torch.cat([self.transform(coarse[:, :, :1]), coarse[:, :, 1:]], dim=2)
        x, y = self._fine_inputs(scaled, static), self.transform(fine)
        # what the input calls dry because it was not measured teaches nothing
        measured = observed & _repeated(coarse_observed, self.factor)
        estimate, context = self.downscaler(x)
        residual = y - estimate
        steps = self._training_steps(residual)
        eps = torch.randn_like(residual)
        noisy = self.schedule.add_noise(residual, eps, steps)
        # nothing is detached: one loss trains both networks (algorithm 1)
        condition = self.denoiser.project(x, estimate, context)
        predicted = self.denoiser(noisy, self._progress(steps), condition)
        target = VELOCITY.target(residual, eps, *self.schedule.levels_like(steps, residual))
        parts = {
            "diffusion": _mean((predicted - target).square(), measured),
            "estimate": _mean(residual.square(), measured),
        }
        return Loss(parts["diffusion"] + self.options.aux_mse_weight * parts["estimate"], parts)

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one."""
        return None

    def _training_steps(self, residual: Tensor) -> Tensor:
        """One step per sequence (b,), or per frame (b, t)."""
        shape = residual.shape[: 2 if self.options.per_frame_noise else 1]
        return torch.randint(0, self.schedule.length, shape, device=residual.device)


def coarsened(rain: Tensor, observed: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Means over ``factor`` x ``factor`` cells of what was measured.

    Both are ``(b, t, c, y, x)``, the second bool. A coarse cell is measured where half of it was, as for the verb
    `coarsen`; it is 0 elsewhere.

    >>> rain = torch.tensor([[4.0, 8.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).view(1, 1, 1, 2, 4)
    >>> measured = torch.tensor([[True, True, True, False], [True, False, False, False]]).view(1, 1, 1, 2, 4)
    >>> coarse, coarse_measured = coarsened(rain, measured, 2)
    >>> coarse.flatten().tolist(), coarse_measured.flatten().tolist()
    ([4.0, 0.0], [True, False])
    """
    share = F.avg_pool2d(observed.to(rain).flatten(0, 1), factor)
    mean = F.avg_pool2d((rain * observed).flatten(0, 1), factor) / share.clamp_min(1e-6)
    known = share >= LEAST_COVERAGE
    return tuple(part.unflatten(0, rain.shape[:2]) for part in (mean * known, known))  # type: ignore[return-value]


def _interpolated(coarse: Tensor, factor: int, mode: str) -> Tensor:
    fine = F.interpolate(coarse.flatten(0, 1), scale_factor=factor, mode=mode, align_corners=False)
    return fine.unflatten(0, coarse.shape[:2])


def _repeated(cells: Tensor, factor: int) -> Tensor:
    return cells.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def _mean(values: Tensor, measured: Tensor) -> Tensor:
    """Mean over cells that were measured; 0 where there are none."""
    measured = measured.to(values)
    return (values * measured).sum() / measured.sum().clamp_min(1.0)


def _names(option: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(f"{option} is {names!r}: give a list of different standard names")
    return tuple(names)


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
