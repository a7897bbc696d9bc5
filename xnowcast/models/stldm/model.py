"""STLDM, the system: what it declares, how it forecasts and what it minimises."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast.diffusion import (
    FLOW_SAMPLERS,
    PARAMETERIZATIONS,
    SAMPLERS,
    Denoise,
    NoisePath,
    StraightPath,
    as_denoiser,
    evenly_spaced_steps,
    evenly_spaced_times,
    guided,
    sigmoid_schedule,
)
from xnowcast.diffusion.guidance import check_guidance
from xnowcast.diffusion.parameterizations import Name
from xnowcast.diffusion.tiling import blended
from xnowcast.models.base import Loss, Task, TrainingBatch, require_finite
from xnowcast.models.declaration import Declared, option
from xnowcast.models.latent_tiles import LatentTiles, check_tile
from xnowcast.models.stldm.autoencoder import Autoencoder
from xnowcast.models.stldm.denoiser import Condition, Denoiser, joined
from xnowcast.models.stldm.translator import Translator
from xnowcast.models.transforms import ScaledOptions
from xnowcast.nn.latent import coarse, gaussian_divergence, sampled
from xnowcast.nn.noise import Noise, for_each_member, source
from xnowcast.nn.precision import is_half

KL_WEIGHT = 1e-6
"""Of the divergence of the latent frames; it appears in the published code alone."""

LATENT_WEIGHT, LIKELIHOOD_WEIGHT = 0.01, 0.01
"""In a residual model, of the error of the first estimate's latent frames and of how well its variance foretells it."""

LOG_VARIANCES = (-8.0, 4.0)
"""Bounds of the variance that a residual model gives its first estimate: dry cells are certain, but not endlessly."""

CELLS_AT_ONCE = {"cpu": 2**16}
MOST_CELLS_AT_ONCE = 2**20
"""Latent cells, over all frames and samples, that are denoised together: on a CPU as many as its cache likes."""


@dataclass(frozen=True)
class Size:
    """Widths and depths of the three networks."""

    latent: int
    layers: int
    width: int
    blocks: int
    base: int
    multipliers: tuple[int, ...]
    heads: int
    head_width: int
    patch: int
    input_frames: int
    target_frames: int


SIZES = {
    "full": Size(32, 4, 512, 8, 64, (1, 2, 4, 8), 4, 32, 16, 5, 20),  # 5 -> 20 as for HKO-7 and MeteoNet
    "small": Size(32, 4, 128, 4, 32, (1, 2, 4), 4, 16, 8, 5, 12),
    "tiny": Size(16, 4, 64, 3, 32, (1, 2), 4, 16, 4, 4, 4),
}

STRATEGIES = {
    "A": ("denoiser",),
    "B": ("translator", "denoiser"),
    "C": ("autoencoder", "translator", "denoiser"),
    "autoencoder": ("autoencoder",),
    "translator": ("translator",),
}
"""Table 3: what is trained. A and B begin with an autoencoder, A also with a translator, that were trained before."""


@dataclass(frozen=True)
class Objective:
    """What the denoiser learns to say, on which way from noise to latent frames, and how members are made with it.

    ``path``: from the number of steps. ``visited``: from that and the number of those that a sampler takes. ``weight``:
    the ``diffusion_weight`` where none is given.
    """

    parameterization: Name
    path: Callable[[int], NoisePath]
    visited: Callable[[int, int], Sequence[float]]
    samplers: Mapping[str, Callable[..., Tensor]]
    weight: str


OBJECTIVES = {
    "diffusion": Objective("v", sigmoid_schedule, evenly_spaced_steps, SAMPLERS, weight="abar"),
    "flow": Objective("flow", StraightPath, evenly_spaced_times, FLOW_SAMPLERS, weight="one"),
}


@dataclass(frozen=True, kw_only=True)
class STLDMOptions(ScaledOptions):
    size: str = option("full", '"full" is that of the paper, 81 million parameters.', choices=SIZES)
    input_frames: int | None = option(
        None, "By default 5 (full and small) or 4 (tiny); the paper has 13 for SEVIR.", least=1
    )
    target_frames: int | None = option(
        None, "By default 20 (full), 12 (small) or 4 (tiny); the paper has 12 for SEVIR.", least=1
    )
    objective: str = option(
        "diffusion",
        'What the denoiser learns: v on the schedule of the paper; or, with "flow" (flow matching), the velocity along '
        "the straight line from noise to latent frames.",
        choices=OBJECTIVES,
    )
    diffusion_steps: int = option(
        50,
        "T of the training; a schedule of its own goes with each. Of a flow: how many steps its time counts as.",
        least=1,
    )
    frame_wise: bool = option(
        False, "The published 2D network: without attention over time each frame is enhanced by itself (section 4.3.3)."
    )
    temporal_norm: Literal["channels", "time"] = option(
        "channels",
        'What the norm before attention over time is taken over. The paper means "channels"; its code does "time".',
    )
    patch: int | None = option(
        None,
        "Latent cells along the side of the patches within which attention over space looks, half as many at each "
        "coarser level; the paper has 16 for frames of 128 x 128. By default 16 (full), 8 (small) or 4 (tiny).",
        least=1,
    )
    strategy: str = option(
        "C",
        "What is trained (Table 3): everything; all but the autoencoder; the denoiser alone; or, to make ready for A "
        "and B, the autoencoder or the translator alone.",
        choices=STRATEGIES,
    )
    constraint_loss: bool = option(True, "Whether the first estimate is held to the truth (L_C, Table 2).")
    condition_kl: float = option(
        0.0, "Weight of term C, the divergence of the first estimate; the published code leaves it out."
    )
    condition_dropout: float = option(0.15, "Share of batches that are trained without the condition, for guidance.")
    diffusion_weight: str | None = option(
        None,
        "Weight of the error of v at each step. The paper's abar, the default, has next to none where there is much "
        'noise, which is where the place of the rain is decided; with "one", the default of a flow, a short training '
        "learns that sooner. Of a flow abar is the square of the share that the latent frames have.",
        choices=("abar", "one", None),
    )
    residual: bool = option(
        False,
        "The first estimate is what the translator adds to the newest frame, nothing as long as it is untrained, with "
        "the variance that it expects; members are what the denoiser adds to the first estimate, in units of that.",
    )
    sampling_steps: int = option(
        20, "Steps of the sampler, 1 to ``diffusion_steps``; of a flow any number.", least=1, runtime=True
    )
    sampler: str = option(
        "ddim",
        '"heun" calls the network twice per step. A flow has "ddim", which is Euler\'s method there, and "heun".',
        choices=SAMPLERS,
        runtime=True,
    )
    guidance: float = option(1.0, "w of equation 7; 0 is none, and half the work.", runtime=True)
    return_first_estimate: bool = option(
        False, "Give the decoded first estimate instead of members of a forecast.", runtime=True
    )
    sampled_condition: bool = option(
        False,
        "True draws the latent frames of the past for each member, as the published code does; False takes their mean.",
        runtime=True,
    )
    precision: str = option(
        "float32",
        'Of the denoiser; "auto" is bfloat16 where the processor has instructions for it, else float32.',
        choices=("float32", "bfloat16", "auto"),
        runtime=True,
    )
    tile: int | None = option(
        None,
        "Grids wider or higher than this many cells are translated and denoised in overlapping tiles. By default those "
        "of the training, where the weights tell their size, else 512.",
        runtime=True,
    )

    def check(self) -> None:
        """Refuse options that do not go together."""
        super().check()
        if self.objective == "diffusion" and self.sampling_steps > self.diffusion_steps:
            raise ValueError(
                f"sampling_steps is {self.sampling_steps}: the training had {self.diffusion_steps}, choose 1 to that"
            )
        samplers = OBJECTIVES[self.objective].samplers
        if self.sampler not in samplers:
            known = " or ".join(map(repr, samplers))
            raise ValueError(f"sampler is {self.sampler!r}: with the objective {self.objective!r} choose {known}")
        check_guidance(self.guidance)
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError(f"condition_dropout is {self.condition_dropout!r}: it must be a share between 0 and 1")
        if self.condition_kl < 0:
            raise ValueError(f"condition_kl is {self.condition_kl!r}: it must be a weight of 0 or more")
        coarsest = 2 ** (len(SIZES[self.size].multipliers) - 1)
        if self.patch is not None and self.patch % coarsest:
            raise ValueError(f"patch is {self.patch} cells: choose a multiple of {coarsest}, one of the coarsest level")
        check_tile(self.tile, self.task().grid_multiple)

    def task(self) -> Task:
        """What it reads and gives."""
        form = SIZES[self.size]
        return Task(
            "forecast",
            input_frames=self.input_frames or form.input_frames,
            quantity=self.transform.quantity,
            grid_multiple=(self.patch or form.patch) * 2 ** (form.layers // 2),
            max_steps=self.target_frames or form.target_frames,
            stochastic=self.sampled_condition or not self.return_first_estimate,
            trained=True,
        )


class STLDM(LatentTiles, Declared[STLDMOptions], nn.Module):
    """Latent diffusion, trained end to end: a first estimate of all frames at once, then members as sharp as radar.

    The autoencoder takes frames to a quarter of the grid, the translator estimates all frames to come from those of the
    past, and the denoiser makes latent frames out of noise, given the estimate. The system ``lagrangian`` has it in the
    frame that moves with the rain.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    Foo, Wong, Gao, Yeung, Wong and Wong (2026), STLDM: spatio-temporal latent diffusion model for precipitation
    nowcasting, https://openreview.net/forum?id=f4oJwXn3qg
    Lipman et al. (2023), Flow matching for generative modeling, arXiv:2210.02747, for ``objective="flow"``

    Examples
    --------
    >>> import numpy as np
    >>> model = STLDM(size="tiny", sampling_steps=2).eval()
    >>> frames = torch.rand(1, 4, 1, 32, 32)
    >>> noise = Noise([np.random.default_rng(member) for member in range(3)])
    >>> model.forecast(frames, frames >= 0, 4, noise).shape
    torch.Size([3, 4, 1, 32, 32])
    """

    inflation = 1.0
    """Factor of what members add to the first estimate; a layer around the model may set another."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        form = SIZES[own.size]
        self.transform = own.transform
        self.target_frames = own.target_frames or form.target_frames
        self.training_frames = self.task.input_frames + self.target_frames
        self.schedule = self.objective.path(own.diffusion_steps)

        self.autoencoder = Autoencoder(width=form.latent, layers=form.layers)
        self.translator = Translator(
            self.task.input_frames,
            self.target_frames,
            latent=form.latent,
            width=form.width,
            blocks=form.blocks,
            residual=own.residual,
        )
        self.denoiser = Denoiser(
            latent=form.latent,
            base=form.base,
            multipliers=form.multipliers,
            heads=form.heads,
            head_width=form.head_width,
            patch=own.patch or form.patch,
            temporal=not own.frame_wise,
            norm_over=own.temporal_norm,
        )
        for name in ("autoencoder", "translator", "denoiser"):
            self.get_submodule(name).requires_grad_(name in STRATEGIES[own.strategy])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def objective(self) -> Objective:
        """What the denoiser learns."""
        return OBJECTIVES[self.options.objective]

    def train(self, mode: bool = True) -> "STLDM":
        """As ever, but what the strategy does not train keeps its statistics."""
        super().train(mode)
        for name in ("autoencoder", "translator", "denoiser"):
            self.get_submodule(name).train(mode and name in STRATEGIES[self.options.strategy])
        return self

    # ------------------------------------------------------------ forecast

    @torch.inference_mode()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` in [0, 1] to ``(b * m, steps, 1, y, x)``, or ``(b, ...)`` for the first estimate.

        The condition of a forecast is computed once for all of its members, unless each draws its own.
        """
        self._check(frames, steps)
        mean, log_variance = self._encode(frames)
        if self.options.sampled_condition:
            drawn = source(noise, len(frames))
            frames, mean, log_variance = for_each_member(len(drawn), frames, mean, log_variance)
            mean = mean + torch.exp(0.5 * log_variance) * drawn.normal(*mean.shape[1:]).to(mean)
        newest = frames[:, -1:], mean[:, -1:]
        condition, log_variance = self._translate(mean)
        if self.options.return_first_estimate:
            if self.options.sampled_condition:
                eps = source(noise, len(frames)).normal(*condition.shape[1:]).to(condition)
                condition = condition + torch.exp(0.5 * log_variance) * eps
            return self._shown(condition[:, :steps], *newest)
        drawn = source(noise, len(condition))
        start = drawn.normal(*condition.shape[1:]).to(condition)
        visited = self.objective.visited(self.options.diffusion_steps, self.options.sampling_steps)
        denoise = self._denoise(condition, len(drawn))
        latent = self.objective.samplers[self.options.sampler](denoise, start, self.schedule, visited, drawn)
        if self.options.residual or self.inflation != 1:
            frame, latent_frame, condition, log_variance = for_each_member(len(drawn), *newest, condition, log_variance)
            newest = frame, latent_frame
            if self.options.residual:
                latent = condition + self.inflation * torch.exp(0.5 * log_variance) * latent
            else:
                latent = torch.lerp(condition, latent, self.inflation)
        return self._shown(latent[:, :steps], *newest)

    def _shown(self, latent: Tensor, newest: Tensor, latent_newest: Tensor) -> Tensor:
        """The decoded frames between 0 and 1."""
        return require_finite(self._decoded(latent, newest, latent_newest)).clamp(0.0, 1.0)

    def _decoded(self, latent: Tensor, newest: Tensor, latent_newest: Tensor) -> Tensor:
        """The decoded frames; a residual model adds what the autoencoder loses of the newest, fading as it learnt."""
        if not self.options.residual:
            return self._decode(latent)
        kept = self.translator.kept[: latent.shape[1], None, None, None]
        return self._decode(latent) + kept * (newest - self._decode(latent_newest))

    def _translate(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the first estimate, (b, n, c, y, x) each, of a large grid in tiles.

        The translator's kernels reach further than the grids of a training are wide, so it never learns what a cell
        far from every edge looks like, and makes rain there out of none.
        """
        mean, log_variance = blended(lambda part: torch.stack(self._estimated(part)), latent, **self._latent_tiling)
        return mean, log_variance

    def _estimated(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the first estimate."""
        mean, log_variance = self.translator(latent)
        if not self.options.residual:
            return mean, log_variance
        return latent[:, -1:] + mean, log_variance.clamp(*LOG_VARIANCES)

    def _denoise(self, condition: Tensor, samples: int) -> Denoise:
        """The guided denoiser of all members of these forecasts, in tiles where the grid is large."""
        network = self._sampling_network()
        return self._denoiser_of(condition, lambda window: self._guided(network, window(condition), samples))

    def _guided(self, network: Denoiser, condition: Tensor, samples: int) -> Denoise:
        """The denoiser with the conditions of some forecasts, as many samples of each; projected here, once."""
        members = samples // len(condition)
        given = [network.project(one) for one in condition.to(network.dtype).split(1)]
        at_once = _samples_at_once(condition)
        of_parts = [
            joined([given[i // members] for i in part.tolist()]) for part in torch.arange(samples).split(at_once)
        ]

        def velocity(x: Tensor, step: float, conditions: Sequence[Condition | None]) -> Tensor:
            when = torch.tensor([step], device=x.device)
            parts = x.to(network.dtype).split(at_once)
            return torch.cat([network(part, when, own) for part, own in zip(parts, conditions, strict=True)])

        prediction = self.objective.parameterization
        return guided(
            as_denoiser(lambda x, step: velocity(x, step, of_parts), self.schedule, prediction),
            as_denoiser(lambda x, step: velocity(x, step, [None] * len(of_parts)), self.schedule, prediction),
            self.options.guidance,
        )

    def _sampling_network(self) -> Denoiser:
        """The denoiser in the precision of the forecast; a copy where that is not its own."""
        if not is_half(self.options.precision, next(self.denoiser.parameters()).device):
            return self.denoiser
        return deepcopy(self.denoiser).to(torch.bfloat16)

    def _encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(b, t, 1, y, x) to mean and log-variance (b, t, c, y, x) of the latent frames."""
        mean, log_variance = self.autoencoder.encode(frames.flatten(0, 1))
        return mean.unflatten(0, frames.shape[:2]), log_variance.unflatten(0, frames.shape[:2])

    def _decode(self, latent: Tensor) -> Tensor:
        """(b, t, c, y, x) to frames (b, t, 1, y, x) between 0 and 1."""
        return self.autoencoder.decode(latent.flatten(0, 1)).unflatten(0, latent.shape[:2])

    def _check(self, frames: Tensor, steps: int) -> None:
        wanted, found = self.task.input_frames, frames.shape[1]
        if found != wanted:
            raise ValueError(f"there are {found} frames; this model reads {wanted}")
        if not 1 <= steps <= self.target_frames:
            raise ValueError(f"{steps} steps: this model forecasts 1 to {self.target_frames}")
        multiple = self.task.grid_multiple
        if frames.shape[-2] % multiple or frames.shape[-1] % multiple:
            raise ValueError(f"a grid of {tuple(frames.shape[-2:])} cells: pad it to multiples of {multiple}")

    # ------------------------------------------------------------ training

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Equations 10 to 14, each term a mean over what was measured; which of them count, the strategy says.

        In equations 11 and 12 the last term should be the logarithm of the variance, and here it is.

        ``parts`` are ``reconstruction`` (L_MSE), ``kl`` (term B), ``constraint`` (L_C), ``condition_kl`` (term C),
        ``prior`` (term D) and ``diffusion`` (term E).
        """
        frames, valid = self._training_frames(batch)
        latent_valid = coarse(valid, self.autoencoder.reduction)
        past = self.task.input_frames
        trained = STRATEGIES[self.options.strategy]

        mean, log_variance = self._encode(frames)
        latent = sampled(mean, log_variance)
        parts: dict[str, Tensor] = {}
        if "autoencoder" in trained:
            parts["reconstruction"] = _mean((self._decode(latent) - frames).square(), valid)
            parts["kl"] = _mean(gaussian_divergence(mean, log_variance), latent_valid)
        if self.options.strategy != "autoencoder":
            if self.options.residual:
                latent = mean
            condition, spread = self._estimated(latent[:, :past])
            if "translator" in trained:
                parts |= self._estimate_losses(condition, spread, frames, latent, valid, latent_valid)
            if "denoiser" in trained:
                # the target is detached: the diffusion trains the encoder through the condition alone
                target = mean[:, past:].detach()
                if self.options.residual:
                    target = ((target - condition) * torch.exp(-0.5 * spread)).detach()
                parts["diffusion"] = self._diffusion_loss(target, condition, latent_valid[:, past:])
        if self.options.strategy == "C":
            parts["prior"] = _mean(self._prior_divergence(mean[:, past:]), latent_valid[:, past:])
        weights = {
            "kl": KL_WEIGHT,
            "constraint": float(self.options.constraint_loss),
            "condition_kl": self.options.condition_kl,
        }
        weights |= {"latent": LATENT_WEIGHT, "likelihood": LIKELIHOOD_WEIGHT}
        total = torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
        return Loss(total, parts)

    def begin_from(self, other: "STLDM") -> None:
        """Take over the weights of another, without its denoiser where that learnt another objective.

        A RuntimeError if they are of other sizes.
        """
        state = other.state_dict()
        if other.options.objective != self.options.objective:
            own = {name: tensor for name, tensor in self.state_dict().items() if name.startswith("denoiser.")}
            state = state | own
        self.load_state_dict(state)

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one."""
        return None

    def _estimate_losses(
        self, condition: Tensor, spread: Tensor, frames: Tensor, latent: Tensor, valid: Tensor, latent_valid: Tensor
    ) -> dict[str, Tensor]:
        """How far the first estimate is off, and how far from the unit normal, or the likelihood of what came."""
        past = self.task.input_frames
        drawn = condition if self.options.residual else sampled(condition, spread)
        estimate = self._decoded(drawn, frames[:, past - 1 : past], latent[:, past - 1 : past])
        parts = {"constraint": _mean((estimate - frames[:, past:]).square(), valid[:, past:])}
        if self.options.residual:
            error = (condition - latent[:, past:].detach()).square()
            # the variance follows the error, but does not weigh it: or dry cells would count most
            surprise = 0.5 * (spread + error.detach() * torch.exp(-spread))
            parts["latent"] = _mean(error, latent_valid[:, past:])
            parts["likelihood"] = _mean(surprise, latent_valid[:, past:])
        else:
            parts["condition_kl"] = _mean(gaussian_divergence(condition, spread), latent_valid[:, past:])
        return parts

    def _diffusion_loss(self, latent: Tensor, condition: Tensor, valid: Tensor) -> Tensor:
        """Equation 14, as an error of v with the weight that makes it one of eps, or with the same at all steps.

        Of a flow: the error of the velocity (Lipman et al. 2023, equation 23), at times evenly distributed.
        """
        steps = self.schedule.draw_steps(len(latent), latent.device)
        eps = torch.randn_like(latent)
        noisy = self.schedule.add_noise(latent, eps, steps)
        dropped = float(torch.rand(())) < self.options.condition_dropout  # once per batch
        given = None if dropped else self.denoiser.project(condition)
        velocity = self.denoiser(noisy, steps, given)
        signal, noise = self.schedule.levels_like(steps, latent)
        target = PARAMETERIZATIONS[self.objective.parameterization].target(latent, eps, signal, noise)
        error = (velocity - target).square()
        if (self.options.diffusion_weight or self.objective.weight) == "abar":
            error = signal.square() * error
        return _mean(error, valid)

    def _prior_divergence(self, latent: Tensor) -> Tensor:
        """Equation 13: what the last step leaves of the latent frames, against pure noise; a flow leaves nothing."""
        abar = latent.new_tensor(self.schedule.levels(self.options.diffusion_steps - 1)[0] ** 2)
        return gaussian_divergence(abar.sqrt() * latent, torch.log1p(-abar).expand_as(latent))

    def _training_frames(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Transformed frames and where they were measured, padded to what the networks divide."""
        if batch.rain.shape[1] != self.training_frames:
            raise ValueError(
                f"there are {batch.rain.shape[1]} frames; training takes {self.training_frames}: "
                f"{self.task.input_frames} that are read and {self.target_frames} that are forecast"
            )
        multiple = self.task.grid_multiple
        below, right = (-size % multiple for size in batch.rain.shape[-2:])
        rain, valid = (F.pad(part, (0, right, 0, below)) for part in (batch.rain, batch.observed))
        return self.transform(rain), valid


def _samples_at_once(condition: Tensor) -> int:
    cells = condition.shape[1] * condition.shape[-2] * condition.shape[-1]
    return max(1, CELLS_AT_ONCE.get(condition.device.type, MOST_CELLS_AT_ONCE) // cells)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over cells that were measured, (b, t, c, y, x) and (b, t, 1, y, x); 0 where there are none."""
    valid = valid.to(values)
    return (values * valid).sum() / (valid.sum() * values.shape[2]).clamp_min(1.0)
