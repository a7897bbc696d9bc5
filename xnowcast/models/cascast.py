"""CasCast: any forecast, and latent diffusion that makes members out of it, as sharp as radar."""

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast import models
from xnowcast.diffusion import (
    SAMPLERS,
    Denoise,
    as_denoiser,
    ddim,
    evenly_spaced_steps,
    guided,
    linear_schedule,
)
from xnowcast.diffusion.guidance import check_guidance
from xnowcast.models.base import Loss, Task, TrainingBatch, check_given, require_finite
from xnowcast.models.declaration import Declared, option, redeclared
from xnowcast.models.first_stage import FirstStage, FirstStageOptions
from xnowcast.models.latent_tiles import LatentTiles, check_tile
from xnowcast.nn.casformer import CasFormer
from xnowcast.nn.discriminator import PatchDiscriminator
from xnowcast.nn.kl_autoencoder import AutoencoderLoss, KLAutoencoder
from xnowcast.nn.latent import coarse, sampled
from xnowcast.nn.losses import measured_mean
from xnowcast.nn.noise import Noise, for_each_member, source

LARGEST_LATENT = 13.0
"""Bounds, in standard deviations, of what DDIM expects of a latent cell; they appear in the published code alone."""

TOKENS_AT_ONCE = {"cpu": 2**15}
MOST_TOKENS_AT_ONCE = 2**18
"""Tokens of frames that are denoised together, over all samples: at full size 300 MiB or 2 GiB between its layers."""


LATENT, PATCH = 4, 2
"""Channels of the latent frames, and latent cells along the side of a token."""


@dataclass(frozen=True)
class Size:
    """Widths and depths of the networks, and the frames that they are for where nothing else is asked."""

    widths: tuple[int, ...]
    groups: int
    blocks: int
    frame_width: int
    frame_heads: int
    width: int
    heads: int
    depths: tuple[int, int]
    judge: int
    input_frames: int
    target_frames: int

    @property
    def autoencoder(self) -> KLAutoencoder:
        return KLAutoencoder(latent=LATENT, widths=self.widths, groups=self.groups, blocks=self.blocks)

    def denoiser(self, frames: int) -> CasFormer:
        """Of some frames ahead."""
        sides = {"frame_width": self.frame_width, "frame_heads": self.frame_heads}
        whole = {"width": self.width, "heads": self.heads, "depths": self.depths}
        return CasFormer(frames=frames, latent=LATENT, patch=PATCH, **sides, **whole)  # type: ignore[arg-type]


SIZES = {
    "full": Size((128, 256, 512, 512), 32, 2, 256, 4, 1152, 16, (12, 12), 64, 13, 12),  # frames as for SEVIR
    "small": Size((32, 64, 64), 8, 1, 64, 4, 256, 8, (4, 4), 32, 5, 12),
    "tiny": Size((8, 16), 4, 1, 16, 2, 32, 2, (1, 1), 8, 4, 4),
}

STRATEGIES = {"autoencoder": ("autoencoder", "autoencoder_loss"), "diffusion": ("denoiser",)}
"""What is trained, one after the other: that of the diffusion begins from weights of an autoencoder."""


@dataclass(frozen=True, kw_only=True)
class CasCastOptions(FirstStageOptions):
    """See `CasCast`."""

    first_stage: Any = redeclared(FirstStageOptions, "first_stage", "earthformer")  # noqa: RUF009
    frozen: bool = redeclared(FirstStageOptions, "frozen", True)
    size: str = option(
        "full", '"full" has the sizes of the paper, 309 million parameters and those of the autoencoder.', choices=SIZES
    )
    input_frames: int | None = option(
        None, "Of the first stage, if it can be told: by default 13 (full), 5 (small) or 4 (tiny).", least=1
    )
    target_frames: int | None = option(None, "Frames ahead: by default 12 (full and small) or 4 (tiny).", least=1)
    strategy: str = option(
        "diffusion",
        "What is trained: the denoiser, with the autoencoder as it is, which ``xnowcast.train(start=...)`` takes over; "
        "or, before, the autoencoder alone, on single frames.",
        choices=STRATEGIES,
    )
    adversarial_from: float = option(
        0.125, "Share of the training of an autoencoder after which a discriminator judges what it decodes.", least=0
    )
    adversarial_weight: float = option(
        0.5, "Of that, beside the likelihood, after both gradients are made equal; 0 is none.", least=0
    )
    latent_scale: float | None = option(
        None, "What latent frames are multiplied by; by default what gives those of the first batch a variance of 1."
    )
    diffusion_steps: int = option(1000, "T of the training, with betas that rise linearly.", least=1)
    condition_dropout: float = option(
        0.1, "Share of batches that are trained without the first stage's forecast, for guidance.", least=0
    )
    sampling_steps: int = option(20, "Steps of the sampler, 1 to ``diffusion_steps``.", least=1, runtime=True)
    sampler: str = option(
        "ddim", '"ddim" is that of the paper; "heun" calls the network twice per step.', choices=SAMPLERS, runtime=True
    )
    guidance: float = option(
        1.0,
        "w of classifier-free guidance, one less than the authors' scale; 0 is none, and half the work.",
        runtime=True,
    )
    published: bool = option(
        False,
        "Do as the authors' code does: begin one stride before the step with the most noise and visit step 0, and draw "
        "the latent frames of the condition from their distribution instead of taking its mean.",
        runtime=True,
    )
    tile: int | None = option(
        None,
        "Grids wider or higher than this many cells are denoised in overlapping tiles. By default those of the "
        "training, where the weights tell their size, else 512.",
        runtime=True,
    )

    def check(self) -> None:
        """Refuse options that do not go together."""
        super().check()
        if self.sampling_steps > self.diffusion_steps:
            raise ValueError(
                f"sampling_steps is {self.sampling_steps}: the training had {self.diffusion_steps}, choose 1 to that"
            )
        for name in ("condition_dropout", "adversarial_from"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be a share between 0 and 1")
        if self.latent_scale is not None and not 0 < self.latent_scale < math.inf:
            raise ValueError(f"latent_scale is {self.latent_scale!r}: it must be above 0")
        check_guidance(self.guidance)
        most = self.first_stage_task.max_steps
        if most is not None and most < self.frames_ahead:
            raise ValueError(
                f"target_frames is {self.frames_ahead}: {self.first_stage_name!r} forecasts up to {most} frames"
            )
        check_tile(self.tile, self.task().grid_multiple)

    @property
    def frames_ahead(self) -> int:
        """How many frames the denoiser makes together."""
        return self.target_frames or SIZES[self.size].target_frames

    @property
    def all_first_stage_options(self) -> dict[str, Any]:
        """What a named first stage is built with, the frames of this system's size among them."""
        frames = {
            "input_frames": self.input_frames or SIZES[self.size].input_frames,
            "target_frames": self.frames_ahead,
        }
        known = models.options(self.first_stage)
        return {name: value for name, value in frames.items() if name in known} | super().all_first_stage_options

    def task(self) -> Task:
        """What it reads and gives: what the first stage reads, and members of what it says."""
        inside, halvings = self.first_stage_task, len(SIZES[self.size].widths) - 1
        return replace(
            inside,
            quantity=self.transform.quantity,
            grid_multiple=math.lcm(inside.grid_multiple, PATCH * 2**halvings),
            max_steps=self.frames_ahead,
            stochastic=True,
            trained=True,
            reads_grid=False,
        )


class CasCast(LatentTiles, Declared[CasCastOptions], nn.Module):
    """Any forecast, and members of it out of latent diffusion, which are as sharp as radar.

    The first stage says where rain will be, and blurs it. An autoencoder takes its frames to latent ones, and a
    denoiser that sees them makes members out of noise. The three are trained one after the other: the first stage as a
    system of its own, the autoencoder with ``strategy="autoencoder"``, and the denoiser, each from the weights of the
    one before. `refining` puts another forecast in place of the first stage's.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    Gong et al. (2024), CasCast: skillful high-resolution precipitation nowcasting via cascaded modelling,
    arXiv:2402.04290

    Examples
    --------
    >>> from xnowcast.nn.noise import member_generator
    >>> model = CasCast(size="tiny", sampling_steps=2).eval()
    >>> frames = torch.rand(1, 4, 1, 32, 32)
    >>> three = Noise([member_generator(0, 0, member) for member in range(3)])
    >>> model.forecast(frames, frames >= 0, 4, three).shape
    torch.Size([3, 4, 1, 32, 32])
    """

    inflation = 1.0
    """Factor of what members add to the first stage's forecast; a layer around the model may set another."""

    latent_scale: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own, form = self.options, SIZES[self.options.size]
        self.transform = own.transform
        self.target_frames = own.frames_ahead
        alone = own.strategy == "autoencoder"
        self.training_frames = 1 if alone else self.task.input_frames + self.target_frames
        self.schedule = linear_schedule(own.diffusion_steps)

        self.first_stage = FirstStage(own)
        self.autoencoder, self.denoiser = form.autoencoder, form.denoiser(self.target_frames)
        self.autoencoder_loss = AutoencoderLoss(adversarial=own.adversarial_weight)
        self.register_buffer("latent_scale", torch.tensor(own.latent_scale or 0.0))  # 0 until a batch tells it
        for name, part in self.named_children():
            if name != "first_stage":
                part.requires_grad_(name in STRATEGIES[own.strategy])

    @property
    def task(self) -> Task:
        """What it reads and gives; the first stage is told the step, the spacing and the crop of the training."""
        return self._task

    @task.setter
    def task(self, task: Task) -> None:
        self._task = task
        if "_modules" in vars(self) and "first_stage" in self._modules:
            self.first_stage.set_task(task)

    def refining(self, first_stage: Any, **options: Any) -> "CasCast":
        """The same networks behind another forecast: of a named system with some options, or a model that was built.

        They are shared and not copied. ValueError if it makes no forecast, has members of its own or ends too soon.
        """
        other = copy(self)
        other._modules = dict(self._modules)
        other.options = replace(self.options, first_stage=first_stage, first_stage_options=options or None, frozen=True)
        other.first_stage = FirstStage(other.options)
        contract = {"step": self.task.step, "spacing": self.task.spacing, "crop": self.task.crop}
        other.task = replace(other.options.task(), **contract)
        return other

    # ------------------------------------------------------------ forecast

    @torch.inference_mode()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` in [0, 1] to ``(b * m, steps, 1, y, x)``; NaN where the first stage says NaN."""
        known = self.task.input_frames
        check_given(frames, known, steps)
        if steps > self.target_frames:
            raise ValueError(f"{steps} steps: this model forecasts 1 to {self.target_frames}")
        first = self.first_stage.answer(frames[:, -known:], observed[:, -known:], self.target_frames)
        return self.members(first, source(noise, len(frames)))[:, :steps]

    @torch.inference_mode()
    def members(self, first: Tensor, noise: Noise) -> Tensor:
        """Members ``(b * m, t, 1, y, x)`` of a forecast ``(b, t, 1, y, x)`` in [0, 1], the member varying fastest.

        ``t`` are ``target_frames``, and the grid is a multiple of the task's. NaN stays NaN, and is read as no rain.
        """
        mean, log_variance = self._encoded(first.nan_to_num(0.0))
        if self.options.published:
            first, mean, log_variance = for_each_member(len(noise), first, mean, log_variance)
            mean = mean + torch.exp(0.5 * log_variance) * noise.normal(*mean.shape[1:]).to(mean)
        condition = self._scale * mean
        start = noise.normal(*condition.shape[1:]).to(condition)
        steps = evenly_spaced_steps(
            self.options.diffusion_steps, self.options.sampling_steps, to_first=self.options.published
        )
        denoise = self._denoiser_of(condition, lambda window: self._guided(window(condition), len(noise)))
        latent = self._sampler(denoise, start, self.schedule, steps, noise)
        first, condition = for_each_member(len(noise), first, condition)
        if self.inflation != 1:
            latent = torch.lerp(condition, latent, self.inflation)
        frames = require_finite(self._decoded(latent / self._scale)).clamp(0.0, 1.0)
        return torch.where(first.isnan(), torch.nan, frames)

    @property
    def _sampler(self) -> Callable[..., Tensor]:
        if self.options.sampler == "ddim":
            return partial(ddim, clip=(-LARGEST_LATENT, LARGEST_LATENT))
        return SAMPLERS[self.options.sampler]

    def _guided(self, condition: Tensor, samples: int) -> Denoise:
        """The denoiser with the conditions of some forecasts, as many samples of each."""
        conditions = for_each_member(samples, condition)[0]
        tokens = conditions[0, :, 0].numel() // PATCH**2
        at_once = max(1, TOKENS_AT_ONCE.get(condition.device.type, MOST_TOKENS_AT_ONCE) // tokens)

        def eps(x: Tensor, step: float, given: Tensor | None) -> Tensor:
            when, parts = torch.tensor([step], device=x.device), x.split(at_once)
            of_parts = [None] * len(parts) if given is None else given.split(at_once)
            return torch.cat([self.denoiser(part, when, own) for part, own in zip(parts, of_parts, strict=True)])

        return guided(
            as_denoiser(lambda x, step: eps(x, step, conditions), self.schedule, "eps"),
            as_denoiser(lambda x, step: eps(x, step, None), self.schedule, "eps"),
            self.options.guidance,
        )

    @property
    def _scale(self) -> Tensor:
        """What latent frames are multiplied by: 1 as long as nothing has told it."""
        return torch.where(self.latent_scale > 0, self.latent_scale, 1.0)

    def _encoded(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(b, t, 1, y, x) to mean and log-variance (b, t, c, y, x) of the latent frames."""
        mean, log_variance = self.autoencoder.encode(frames.flatten(0, 1))
        return mean.unflatten(0, frames.shape[:2]), log_variance.unflatten(0, frames.shape[:2])

    def _decoded(self, latent: Tensor) -> Tensor:
        """(b, t, c, y, x) to frames (b, t, 1, y, x)."""
        return self.autoencoder.decode(latent.flatten(0, 1)).unflatten(0, latent.shape[:2])

    # ------------------------------------------------------------ training

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Of the autoencoder see `AutoencoderLoss`; of the denoiser the squared error of the noise, where measured.

        A first stage that is not frozen learns by its own loss, and from nothing that comes behind it.
        """
        batch = self._padded(batch)
        frames = self.transform(batch.rain)
        if self.options.strategy == "autoencoder":
            return self._autoencoder_loss(frames, batch.observed, progress, adversary)
        known = self.task.input_frames
        first, own = self.first_stage.learn(
            batch, progress, frames[:, :known], batch.observed[:, :known], self.target_frames
        )
        diffusion = self._diffusion_loss(frames[:, known:], first.detach().nan_to_num(0.0), batch.observed[:, known:])
        return Loss(own.total + diffusion, {"diffusion": diffusion.detach(), **own.parts})

    def _autoencoder_loss(self, frames: Tensor, observed: Tensor, progress: float, adversary: nn.Module | None) -> Loss:
        frames, observed = frames.flatten(0, 1), observed.flatten(0, 1)
        judge = adversary if progress >= self.options.adversarial_from else None
        total, parts, shown = self.autoencoder_loss(self.autoencoder, frames, observed, judge)
        if judge is None:
            return Loss(total, parts)
        return Loss(total, parts, truth=frames, generated=shown.detach())

    def _diffusion_loss(self, truth: Tensor, first: Tensor, observed: Tensor) -> Tensor:
        with torch.no_grad():
            latent = sampled(*self._encoded(truth))
            if self.training and not self.latent_scale:
                self.latent_scale.fill_(1.0 / latent.std().clamp_min(1e-6))
            latent, condition = self._scale * latent, self._scale * self._encoded(first)[0]
        steps = self.schedule.draw_steps(len(latent), latent.device)
        eps = torch.randn_like(latent)
        dropped = float(torch.rand(())) < self.options.condition_dropout  # once per batch
        prediction = self.denoiser(self.schedule.add_noise(latent, eps, steps), steps, None if dropped else condition)
        measured = coarse(observed, self.autoencoder.reduction).expand_as(latent) > 0
        return measured_mean((prediction - eps).square(), measured)

    def _padded(self, batch: TrainingBatch) -> TrainingBatch:
        """The batch on a grid that the networks divide; what is added was not measured."""
        below, right = (-size % self.task.grid_multiple for size in batch.rain.shape[-2:])
        rain, observed = (F.pad(part, (0, right, 0, below)) for part in (batch.rain, batch.observed))
        return replace(batch, rain=rain, observed=observed)

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """The discriminator of patches that the autoencoder is trained with; None where there is none."""
        if self.options.strategy != "autoencoder" or not self.options.adversarial_weight:
            return None
        return PatchDiscriminator(SIZES[self.options.size].judge)

    @property
    def begins_from(self) -> tuple[str, ...]:
        """Systems whose weights the first stage can take over."""
        return self.first_stage.begins_from

    def begin_from(self, other: Any) -> None:
        """Take over all weights of another, but those of another first stage; or weights of the first stage.

        A RuntimeError if they are of other sizes.
        """
        if not isinstance(other, CasCast):
            self.first_stage.begin_from(other)
            return
        state = other.state_dict()
        if other.first_stage.name != self.first_stage.name:
            own = {name: tensor for name, tensor in self.state_dict().items() if name.startswith("first_stage.")}
            state = own | {name: tensor for name, tensor in state.items() if not name.startswith("first_stage.")}
        self.load_state_dict(state)
