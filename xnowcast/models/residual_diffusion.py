"""Downscalers of two stages: a first estimate, and a diffusion of what is missing from it, which makes members."""

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from xnowcast.diffusion import PARAMETERIZATIONS, SAMPLERS, Denoise, evenly_spaced_steps, sigmoid_schedule
from xnowcast.diffusion.pieces import Piece, blended, cut
from xnowcast.models.base import require_finite
from xnowcast.models.declaration import option
from xnowcast.models.downscaler import DownscalerOptions, TrainedDownscaler, measured_mean
from xnowcast.nn.blocks import with_fixed_filters
from xnowcast.nn.noise import Noise
from xnowcast.nn.video_unet import Condition, Context, Denoiser

CELLS_AT_ONCE = {"cpu": 2**16}
MOST_CELLS_AT_ONCE = 2**22
"""Fine cells, over all frames and members, that are denoised together: on a CPU as many as its cache likes."""

VELOCITY = PARAMETERIZATIONS["v"]


class Inputs(NamedTuple):
    """What both stages may read, (b, t, c, y, x) each: all fields on the fine grid, and on the coarse one."""

    fine: Tensor
    coarse: Tensor


@dataclass(frozen=True, kw_only=True)
class ResidualDiffusionOptions(DownscalerOptions):
    """Options of a `ResidualDiffusion`; a system adds its own."""

    diffusion_steps: int = option(1400, "N of the training; a schedule of its own goes with each.", least=1)
    sampling_steps: int = option(30, "Steps of the sampler, 1 to ``diffusion_steps``.", runtime=True)
    sampler: str = option("ddim", '"heun" calls the denoiser twice per step.', choices=SAMPLERS, runtime=True)
    stochastic: bool = option(True, "False gives the estimate alone.", runtime=True)
    precision: str = option(
        "float32", "Of both networks when they refine.", choices=("float32", "bfloat16"), runtime=True
    )

    def check(self) -> None:
        if not 1 <= self.sampling_steps <= self.diffusion_steps:
            raise ValueError(
                f"sampling_steps is {self.sampling_steps}: the training had {self.diffusion_steps}, choose 1 to that"
            )
        super().check()


OwnOptions = TypeVar("OwnOptions", bound=ResidualDiffusionOptions)


class ResidualDiffusion(TrainedDownscaler[OwnOptions], Generic[OwnOptions]):
    """The residual between estimate and truth is made out of noise, given the input and the estimate.

    A system sets in its constructor ``self.first_stage`` and ``self.denoiser``, and has `_estimated` and
    `_scaled_loss`.
    """

    denoiser: Denoiser
    options: OwnOptions

    first_stage_name = "downscaler"
    """Of the network that makes the estimate."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.schedule = sigmoid_schedule(self.options.diffusion_steps)

    def _estimated(self, first_stage: Any, inputs: Inputs) -> tuple[Tensor, Context]:
        """The estimate (b, t, 1, y, x), and maps that the denoiser reads beside it."""
        raise NotImplementedError

    # ------------------------------------------------------------ refining

    @torch.inference_mode()
    def downscale(
        self, frames: Tensor, observed: Tensor, factor: int, static: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """``(b, t, c, y, x)`` to members ``(b * m, t, 1, y * factor, x * factor)`` in [-1, 1].

        Without noise it is the estimate, ``(b, t, 1, ...)``, which is computed once for all members and steps.
        """
        self._check(frames, factor, static)
        copies = _copies(len(frames), frames.shape[1], noise)
        fine, coarse = self._inputs(frames, static)
        networks = self._refining_networks()
        pieces = cut(
            frames.shape[1],
            (fine.shape[-2], fine.shape[-1]),
            length=self.task.input_frames,
            tile=self.options.tile,
            multiple=self.options.multiple,
            device=fine.device,
        )
        per_sequence = copies * frames.shape[1]
        refined = []
        for number, one in enumerate(zip(fine.split(1), coarse.split(1), strict=True)):
            sources = None
            if noise is not None:
                own = noise.generators[number * per_sequence : (number + 1) * per_sequence]
                sources = Noise(own, noise.device)
            refined.append(self._refined(networks, Inputs(*one), pieces, sources))
        return require_finite(torch.cat(refined)).clamp(-1, 1)

    def _inputs(self, frames: Tensor, static: Tensor | None) -> Inputs:
        return Inputs(self._fine_inputs(frames, static), self._coarse_inputs(frames, static))

    def _refined(
        self, networks: tuple[Any, Denoiser], inputs: Inputs, pieces: list[Piece], noise: Noise | None
    ) -> Tensor:
        """One sequence ``(1, t, c, y, x)`` to ``(m, t, 1, y, x)``."""
        first_stage, denoiser = networks
        x = inputs.fine
        estimates, conditions = [], []
        for piece in pieces:
            part = Inputs(piece(x).to(denoiser.dtype), piece.coarse(inputs.coarse, self.factor).to(denoiser.dtype))
            estimate, context = self._estimated(first_stage, part)
            estimates.append(estimate.float())
            if noise is not None:
                conditions.append(denoiser.project(part.fine, estimate, context))
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
                fine.append(self._bounded(own, residual))
            return (blended(fine, pieces, members) - estimate).flatten(0, 1)

        return denoise

    def _bounded(self, estimate: Tensor, residual: Tensor) -> Tensor:
        """Their sum, which has rain rates for bounds; a residual can be as large as 2."""
        return (estimate + residual).clamp(-1, 1)

    def _velocity(self, denoiser: Denoiser, noisy: Tensor, step: float, condition: Condition) -> Tensor:
        """Of some members (m, t, 1, y, x), as many at a time as are good for the device."""
        cells = noisy.shape[1] * noisy.shape[-2] * noisy.shape[-1]
        at_once = max(1, CELLS_AT_ONCE.get(noisy.device.type, MOST_CELLS_AT_ONCE) // cells)
        done = torch.tensor([self._progress(step)], device=noisy.device)
        parts = noisy.to(denoiser.dtype).split(at_once)
        return torch.cat([denoiser(part, done, condition) for part in parts]).to(noisy)

    def _progress(self, step: "Tensor | float") -> "Tensor | float":
        """Share of the schedule that a step has done, above 0 to 1: n / N of the paper's n from 1 to N."""
        return (step + 1) / self.schedule.length

    def _refining_networks(self) -> tuple[Any, Denoiser]:
        """Both networks in the precision that is asked for."""
        dtype = torch.bfloat16 if self.options.precision == "bfloat16" else None
        first_stage, denoiser = (with_fixed_filters(network, dtype) for network in (self._first_stage, self.denoiser))
        return first_stage, denoiser  # type: ignore[return-value]

    @property
    def _first_stage(self) -> nn.Module:
        return self.get_submodule(self.first_stage_name)

    # ------------------------------------------------------------ training

    def _diffusion_loss(
        self, x: Tensor, residual: Tensor, estimate: Tensor, context: Context, measured: Tensor
    ) -> Tensor:
        """Mean squared error of the velocity of the residual, of noise that is drawn here."""
        steps = self._training_steps(residual)
        eps = torch.randn_like(residual)
        noisy = self.schedule.add_noise(residual, eps, steps)
        condition = self.denoiser.project(x, estimate, context)
        predicted = self.denoiser(noisy, self._progress(steps), condition)
        target = VELOCITY.target(residual, eps, *self.schedule.levels_like(steps, residual))
        return measured_mean((predicted - target).square(), measured)

    def _training_steps(self, residual: Tensor) -> Tensor:
        """One step per sequence (b,)."""
        return torch.randint(0, self.schedule.length, (len(residual),), device=residual.device)


def _copies(sequences: int, frames: int, noise: Noise | None) -> int:
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
