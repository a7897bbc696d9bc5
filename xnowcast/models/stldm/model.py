"""STLDM, the system: what it declares, how it forecasts and what it minimises."""

import math
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast.diffusion import (
    PARAMETERIZATIONS,
    SAMPLERS,
    Denoise,
    Window,
    as_denoiser,
    evenly_spaced_steps,
    guided,
    loss_weight,
    sigmoid_schedule,
    tiled,
)
from xnowcast.diffusion.guidance import check_guidance
from xnowcast.diffusion.tiling import blend_weights, tile_windows
from xnowcast.models.base import Loss, Task, TrainingBatch, require_finite
from xnowcast.models.stldm.autoencoder import Autoencoder, coarse, gaussian_divergence
from xnowcast.models.stldm.denoiser import Condition, Denoiser, joined
from xnowcast.models.stldm.translator import Translator
from xnowcast.models.transforms import SCALINGS
from xnowcast.nn.cascade import check_share, continued
from xnowcast.nn.moving_frame import check_window, motion_of, onto_ground, onto_newest
from xnowcast.nn.noise import Noise
from xnowcast.nn.probability_matching import matched

KL_WEIGHT = 1e-6
"""Of the divergence of the latent frames; it appears in the published code alone."""

LATENT_WEIGHT, LIKELIHOOD_WEIGHT = 0.01, 0.01
"""In a residual model, of the error of the first estimate's latent frames and of how well its variance foretells it."""

LOG_VARIANCES = (-8.0, 4.0)
"""Bounds of the variance that a residual model gives its first estimate: dry cells are certain, but not endlessly."""

DEFAULT_TILE = 512
"""Cells; for weights that do not tell what they were trained on."""

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


class STLDM(nn.Module):
    """Latent diffusion, trained end to end: a first estimate of all frames at once, then members as sharp as radar.

    The autoencoder takes frames to a quarter of the grid, the translator estimates all frames to come from those of the
    past, and the denoiser makes latent frames out of noise, given the estimate.

    Parameters
    ----------
    size : {"full", "small", "tiny"}
        "full" is that of the paper, 81 million parameters.
    input_frames, target_frames : int, optional
        By default 5 and 20 (full), 5 and 12 (small), 4 and 4 (tiny); the paper has 13 and 12 for SEVIR.
    scaling : str
        Z-R relation and bounds between rain rate and [0, 1]: one of ``xnowcast.transforms.SCALINGS``.
    diffusion_steps : int
        T of the training; a schedule of its own goes with each.
    frame_wise : bool
        Without attention over time each frame is enhanced by itself (section 4.3.3).
    temporal_norm : {"channels", "time"}
        What the norm before attention over time is taken over. The paper means "channels"; its code does "time".
    strategy : {"C", "B", "A", "autoencoder", "translator"}
        What is trained (Table 3): everything; all but the autoencoder; the denoiser alone; or, to make ready for A and
        B, the autoencoder or the translator alone.
    constraint_loss : bool
        Whether the first estimate is held to the truth (L_C, Table 2).
    condition_kl : float
        Weight of term C, the divergence of the first estimate; the published code leaves it out.
    condition_dropout : float
        Share of batches that are trained without the condition, for guidance.
    diffusion_weight : {"abar", "one"}
        Weight of the error of v at each step. The paper's abar has next to none where there is much noise, which is
        where the place of the rain is decided; with "one" a short training learns that sooner.
    moving_frame : bool
        Carry the frames that are read along the motion that they show onto the newest, and what is forecast along it
        to where the rain will be: nothing has to learn that rain moves. The forecast is then NaN where the air comes
        from outside the grid or from where nothing was measured.
    window : float
        Standard deviation, in grid cells, of the window within which the motion is taken as one.
    residual : bool
        The first estimate is what the translator adds to the newest frame, nothing as long as it is untrained, with
        the variance that it expects; members are what the denoiser adds to the first estimate, in units of that.
    sampling_steps : int
        Steps of the sampler, 1 to ``diffusion_steps``.
    sampler : {"ddim", "ddpm", "dpm++2m", "heun"}
        "heun" calls the network twice per step.
    guidance : float
        w of equation 7; 0 is none, and half the work.
    return_first_estimate : bool
        Give the decoded first estimate instead of members of a forecast.
    sampled_condition : bool
        True draws the latent frames of the past for each member, as the published code does; False takes their mean.
    precision : {"float32", "bfloat16"}
        Of the denoiser.
    inflation : float
        Factor of what members of a residual model add to the first estimate; 1 is what was learnt.
    motion_noise : float
        Standard deviation of each member's own change of the motion, in grid cells per step along y and along x; with
        ``moving_frame`` alone.
    probability_matching : float
        How far each forecast goes towards the rain rates of the newest frame, carried along the motion, in the order
        that it has itself (`xnowcast.nn.probability_matching`): 0 keeps its own, 1 takes those; with ``moving_frame``
        alone.
    cascade : float
        Share, below 1, that S-PROG (`xnowcast.nn.cascade`) has in each member; with ``moving_frame`` alone. Members
        lie closer together by it: make up for that with ``inflation``.
    tile : int, optional
        Grids wider or higher than this many cells are translated and denoised in overlapping tiles. By default those
        of the training, where the weights tell their size, else 512.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    Foo, Wong, Gao, Yeung, Wong and Wong (2026), STLDM: spatio-temporal latent diffusion model for precipitation
    nowcasting, https://openreview.net/forum?id=f4oJwXn3qg

    Examples
    --------
    >>> import numpy as np
    >>> model = STLDM(size="tiny", sampling_steps=2).eval()
    >>> frames = torch.rand(1, 4, 1, 32, 32)
    >>> noise = Noise([np.random.default_rng(member) for member in range(3)])
    >>> model.forecast(frames, frames >= 0, 4, noise).shape
    torch.Size([3, 4, 1, 32, 32])
    """

    RUNTIME_OPTIONS = (
        "sampling_steps",
        "sampler",
        "guidance",
        "return_first_estimate",
        "sampled_condition",
        "precision",
        "inflation",
        "motion_noise",
        "probability_matching",
        "cascade",
        "tile",
    )

    def __init__(
        self,
        *,
        size: str = "full",
        input_frames: int | None = None,
        target_frames: int | None = None,
        scaling: str = "reflectivity",
        diffusion_steps: int = 50,
        frame_wise: bool = False,
        temporal_norm: Literal["channels", "time"] = "channels",
        strategy: str = "C",
        constraint_loss: bool = True,
        condition_kl: float = 0.0,
        condition_dropout: float = 0.15,
        diffusion_weight: str = "abar",
        moving_frame: bool = False,
        window: float = 16.0,
        residual: bool = False,
        sampling_steps: int = 20,
        sampler: str = "ddim",
        guidance: float = 1.0,
        return_first_estimate: bool = False,
        sampled_condition: bool = False,
        precision: str = "float32",
        inflation: float = 1.0,
        motion_noise: float = 0.0,
        probability_matching: float = 0.0,
        cascade: float = 0.0,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.task = self.declare(
            size=size,
            input_frames=input_frames,
            target_frames=target_frames,
            scaling=scaling,
            diffusion_steps=diffusion_steps,
            temporal_norm=temporal_norm,
            strategy=strategy,
            condition_kl=condition_kl,
            condition_dropout=condition_dropout,
            diffusion_weight=diffusion_weight,
            moving_frame=moving_frame,
            window=window,
            residual=residual,
            sampling_steps=sampling_steps,
            sampler=sampler,
            guidance=guidance,
            return_first_estimate=return_first_estimate,
            sampled_condition=sampled_condition,
            precision=precision,
            inflation=inflation,
            motion_noise=motion_noise,
            probability_matching=probability_matching,
            cascade=cascade,
            tile=tile,
        )
        form = SIZES[size]
        self.transform = SCALINGS[scaling]
        self.target_frames = target_frames or form.target_frames
        self.training_frames = self.task.input_frames + self.target_frames
        self.strategy, self.constraint_loss = strategy, constraint_loss
        self.condition_kl, self.condition_dropout = condition_kl, condition_dropout
        self.diffusion_weight = diffusion_weight
        self.moving_frame, self.window, self.residual = moving_frame, window, residual
        self.sampling_steps, self.sampler, self.guidance = sampling_steps, sampler, guidance
        self.return_first_estimate, self.sampled_condition = return_first_estimate, sampled_condition
        self.precision, self._tile = precision, tile
        self.inflation, self.motion_noise, self.probability_matching = inflation, motion_noise, probability_matching
        self.cascade = cascade
        self.schedule = sigmoid_schedule(diffusion_steps)

        self.autoencoder = Autoencoder(width=form.latent, layers=form.layers)
        self.translator = Translator(
            self.task.input_frames,
            self.target_frames,
            latent=form.latent,
            width=form.width,
            blocks=form.blocks,
            residual=residual,
        )
        self.denoiser = Denoiser(
            latent=form.latent,
            base=form.base,
            multipliers=form.multipliers,
            heads=form.heads,
            head_width=form.head_width,
            patch=form.patch,
            temporal=not frame_wise,
            norm_over=temporal_norm,
        )
        for name in ("autoencoder", "translator", "denoiser"):
            self.get_submodule(name).requires_grad_(name in STRATEGIES[strategy])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def declare(
        cls,
        *,
        size: str = "full",
        input_frames: int | None = None,
        target_frames: int | None = None,
        scaling: str = "reflectivity",
        diffusion_steps: int = 50,
        frame_wise: bool = False,
        temporal_norm: Literal["channels", "time"] = "channels",
        strategy: str = "C",
        constraint_loss: bool = True,
        condition_kl: float = 0.0,
        condition_dropout: float = 0.15,
        diffusion_weight: str = "abar",
        moving_frame: bool = False,
        window: float = 16.0,
        residual: bool = False,
        sampling_steps: int = 20,
        sampler: str = "ddim",
        guidance: float = 1.0,
        return_first_estimate: bool = False,
        sampled_condition: bool = False,
        precision: str = "float32",
        inflation: float = 1.0,
        motion_noise: float = 0.0,
        probability_matching: float = 0.0,
        cascade: float = 0.0,
        tile: int | None = None,
    ) -> Task:
        """What it reads and gives; the options are those of the class, and are checked here."""
        choices: dict[str, tuple[object, Collection[object]]] = {
            "size": (size, SIZES),
            "scaling": (scaling, SCALINGS),
            "temporal_norm": (temporal_norm, ("channels", "time")),
            "strategy": (strategy, STRATEGIES),
            "diffusion_weight": (diffusion_weight, ("abar", "one")),
            "sampler": (sampler, SAMPLERS),
            "precision": (precision, ("float32", "bfloat16")),
            "return_first_estimate": (return_first_estimate, (False, True)),
            "sampled_condition": (sampled_condition, (False, True)),
            "moving_frame": (moving_frame, (False, True)),
            "residual": (residual, (False, True)),
        }
        for name, (value, known) in choices.items():
            if value not in list(known):
                raise ValueError(f"{name} is {value!r}: choose one of {', '.join(map(repr, known))}")
        form = SIZES[size]
        multiple = form.patch * 2 ** (form.layers // 2)
        counts = {"input_frames": input_frames, "target_frames": target_frames, "tile": tile}
        counts |= {"diffusion_steps": diffusion_steps, "sampling_steps": sampling_steps}
        for name, count in counts.items():
            if count is not None and (not isinstance(count, Integral) or count < 1):
                raise ValueError(f"{name} is {count!r}: it must be a whole number of 1 or more")
        if sampling_steps > diffusion_steps:
            raise ValueError(
                f"sampling_steps is {sampling_steps}: the training had {diffusion_steps}, choose 1 to that"
            )
        check_guidance(guidance)
        if not isinstance(condition_dropout, Real) or not 0 <= condition_dropout <= 1:
            raise ValueError(f"condition_dropout is {condition_dropout!r}: it must be a share between 0 and 1")
        if not isinstance(condition_kl, Real) or not 0 <= condition_kl < math.inf:
            raise ValueError(f"condition_kl is {condition_kl!r}: it must be a weight of 0 or more")
        for name, value in (("inflation", inflation), ("motion_noise", motion_noise)):
            if not isinstance(value, Real) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}: it must be a number of 0 or more")
        if not isinstance(probability_matching, Real) or not 0 <= probability_matching <= 1:
            raise ValueError(f"probability_matching is {probability_matching!r}: it must be a share between 0 and 1")
        check_window(window)
        if inflation != 1 and not residual:
            raise ValueError(f"inflation is {inflation}: it is an option of residual=True")
        check_share(cascade, input_frames or form.input_frames)
        moving = {"motion_noise": motion_noise, "probability_matching": probability_matching, "cascade": cascade}
        for name, value in moving.items():
            if value and not moving_frame:
                raise ValueError(f"{name} was given: it is an option of moving_frame=True")
        if moving_frame and input_frames == 1:
            raise ValueError("input_frames is 1: motion needs at least 2 frames")
        if tile is not None and (tile % multiple or tile < 2 * multiple):
            raise ValueError(f"tile is {tile} cells: choose a multiple of {multiple}, at least {2 * multiple}")
        return Task(
            "forecast",
            input_frames=input_frames or form.input_frames,
            quantity=SCALINGS[scaling].quantity,
            grid_multiple=multiple,
            min_grid=32 if moving_frame else 8,
            max_steps=target_frames or form.target_frames,
            stochastic=sampled_condition or motion_noise > 0 or not return_first_estimate,
            trained=True,
            coverage="advected" if moving_frame else "observed",
        )

    def train(self, mode: bool = True) -> "STLDM":
        """As ever, but what the strategy does not train keeps its statistics."""
        super().train(mode)
        for name in ("autoencoder", "translator", "denoiser"):
            self.get_submodule(name).train(mode and name in STRATEGIES[self.strategy])
        return self

    # ------------------------------------------------------------ forecast

    @torch.inference_mode()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` in [0, 1] to ``(b * m, steps, 1, y, x)``, or ``(b, ...)`` for the first estimate.

        The condition of a forecast is computed once for all of its members, unless each draws its own.
        """
        self._check(frames, steps)
        if not self.moving_frame:
            return self._continued(frames, steps, noise)
        rain, seen = self.transform.inverse(frames[:, :, 0]), observed[:, :, 0]
        motion = motion_of(rain, seen, window=self.window)
        rain, seen = onto_newest(rain, seen, motion, rain.shape[1])
        aligned = self.transform(rain)[:, :, None]
        said = self._continued(aligned, steps, noise)[:, :, 0].float()
        if self.cascade:
            (smooth,) = _for_each_member(len(said), continued(aligned[:, :, 0], steps).clamp(0.0, 1.0))
            said = torch.lerp(said, smooth, self.cascade)
        return self._grounded(said, aligned[:, -1, 0], motion, seen[:, -1], noise)[:, :, None]

    def _grounded(self, said: Tensor, newest: Tensor, motion: Tensor, seen: Tensor, noise: Noise | None) -> Tensor:
        """What was said of some steps in the moving frame, ``(b * m, n, y, x)``, where the rain will be."""
        if self.motion_noise:
            source = _source(noise, len(motion))
            said, newest, motion, seen = _for_each_member(len(source), said, newest, motion, seen)
            motion = motion + self.motion_noise * source.normal(2, 1, 1).to(motion)
        newest, motion, seen = _for_each_member(len(said), newest, motion, seen)
        forecast = onto_ground(said, motion, seen)
        if self.probability_matching:
            carried = onto_ground(newest[:, None].expand_as(said).float(), motion, seen)
            forecast = torch.lerp(forecast, matched(forecast, carried), float(self.probability_matching))
        return forecast

    def _continued(self, frames: Tensor, steps: int, noise: Noise | None) -> Tensor:
        """What comes after the frames, where they lie."""
        mean, log_variance = self._encode(frames)
        if self.sampled_condition:
            source = _source(noise, len(frames))
            frames, mean, log_variance = _for_each_member(len(source), frames, mean, log_variance)
            mean = mean + torch.exp(0.5 * log_variance) * source.normal(*mean.shape[1:]).to(mean)
        newest = frames[:, -1:], mean[:, -1:]
        condition, log_variance = self._translate(mean)
        if self.return_first_estimate:
            if self.sampled_condition:
                source = _source(noise, len(frames))
                condition = condition + torch.exp(0.5 * log_variance) * source.normal(*condition.shape[1:]).to(
                    condition
                )
            return self._shown(condition[:, :steps], *newest)
        source = _source(noise, len(condition))
        start = source.normal(*condition.shape[1:]).to(condition)
        visited = evenly_spaced_steps(self.schedule.length, self.sampling_steps)
        denoise = self._denoise(condition, len(source))
        latent = SAMPLERS[self.sampler](denoise, start, self.schedule, visited, source)
        if self.residual:
            frame, latent_frame, condition, log_variance = _for_each_member(
                len(source), *newest, condition, log_variance
            )
            newest = frame, latent_frame
            latent = condition + self.inflation * torch.exp(0.5 * log_variance) * latent
        return self._shown(latent[:, :steps], *newest)

    def _shown(self, latent: Tensor, newest: Tensor, latent_newest: Tensor) -> Tensor:
        """The decoded frames between 0 and 1."""
        return require_finite(self._decoded(latent, newest, latent_newest)).clamp(0.0, 1.0)

    def _decoded(self, latent: Tensor, newest: Tensor, latent_newest: Tensor) -> Tensor:
        """The decoded frames; a residual model adds what the autoencoder loses of the newest, fading as it learnt."""
        if not self.residual:
            return self._decode(latent)
        kept = self.translator.kept[: latent.shape[1], None, None, None]
        return self._decode(latent) + kept * (newest - self._decode(latent_newest))

    @property
    def tile(self) -> int:
        """Width of tiles in cells: as asked for, or else of what the weights were trained on."""
        return self._tile or max(self.task.crop or DEFAULT_TILE, 2 * self.task.grid_multiple)

    @property
    def _latent_tile(self) -> int:
        return self.tile // self.autoencoder.reduction

    @property
    def _seam(self) -> dict[str, int]:
        """Overlap and margin of tiles, in latent cells."""
        multiple = self.task.grid_multiple // self.autoencoder.reduction
        overlap = max(multiple, self._latent_tile // 4 // multiple * multiple)
        return {"overlap": overlap, "margin": overlap // 4}

    def _translate(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the first estimate, (b, n, c, y, x) each, of a large grid in tiles.

        The translator's kernels reach further than the grids of a training are wide, so it never learns what a cell
        far from every edge looks like, and makes rain there out of none.
        """
        shape = (latent.shape[-2], latent.shape[-1])
        multiple = self.task.grid_multiple // self.autoencoder.reduction
        windows = tile_windows(shape, tile=self._latent_tile, **self._seam, multiple=multiple)
        moments = latent.new_zeros(2, len(latent), self.target_frames, *latent.shape[2:])
        for window, weight in zip(windows, blend_weights(shape, windows, **self._seam), strict=True):
            window(moments).add_(torch.stack(self._estimated(window(latent))) * weight.to(latent))
        mean, log_variance = moments
        return mean, log_variance

    def _estimated(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the first estimate."""
        mean, log_variance = self.translator(latent)
        if not self.residual:
            return mean, log_variance
        return latent[:, -1:] + mean, log_variance.clamp(*LOG_VARIANCES)

    def _denoise(self, condition: Tensor, samples: int) -> Denoise:
        """The guided denoiser of all members of these forecasts, in tiles where the grid is large."""
        shape = (condition.shape[-2], condition.shape[-1])
        network = self._sampling_network()
        of_window: dict[Window, Denoise] = {}

        def denoise_tile(x: Tensor, step: float, window: Window) -> Tensor:
            if window not in of_window:
                of_window[window] = self._guided(network, window(condition), samples)
            return of_window[window](x, step)

        multiple = self.task.grid_multiple // self.autoencoder.reduction
        return tiled(denoise_tile, shape, tile=self._latent_tile, **self._seam, multiple=multiple)

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

        return guided(
            as_denoiser(lambda x, step: velocity(x, step, of_parts), self.schedule, "v"),
            as_denoiser(lambda x, step: velocity(x, step, [None] * len(of_parts)), self.schedule, "v"),
            self.guidance,
        )

    def _sampling_network(self) -> Denoiser:
        """The denoiser in the precision of the forecast; a copy where that is not its own."""
        if self.precision == "float32":
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

        ``parts`` are ``reconstruction`` (L_MSE), ``kl`` (term B), ``constraint`` (L_C), ``condition_kl`` (term C),
        ``prior`` (term D) and ``diffusion`` (term E).
        """
        frames, seen = self._training_frames(batch)
        latent_seen = coarse(seen, self.autoencoder.reduction)
        past = self.task.input_frames
        trained = STRATEGIES[self.strategy]

        mean, log_variance = self._encode(frames)
        latent = _drawn(mean, log_variance)
        parts: dict[str, Tensor] = {}
        if "autoencoder" in trained:
            parts["reconstruction"] = _mean((self._decode(latent) - frames).square(), seen)
            parts["kl"] = _mean(gaussian_divergence(mean, log_variance), latent_seen)
        if self.strategy != "autoencoder":
            if self.residual:
                latent = mean
            condition, spread = self._estimated(latent[:, :past])
            if "translator" in trained:
                parts |= self._estimate_losses(condition, spread, frames, latent, seen, latent_seen)
            if "denoiser" in trained:
                # the target is detached: the diffusion trains the encoder through the condition alone
                target = mean[:, past:].detach()
                if self.residual:
                    target = ((target - condition) * torch.exp(-0.5 * spread)).detach()
                parts["diffusion"] = self._diffusion_loss(target, condition, latent_seen[:, past:])
        if self.strategy == "C":
            parts["prior"] = _mean(self._prior_divergence(mean[:, past:]), latent_seen[:, past:])
        weights = {"kl": KL_WEIGHT, "constraint": float(self.constraint_loss), "condition_kl": self.condition_kl}
        weights |= {"latent": LATENT_WEIGHT, "likelihood": LIKELIHOOD_WEIGHT}
        total = torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
        return Loss(total, parts)

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one."""
        return None

    def _estimate_losses(
        self, condition: Tensor, spread: Tensor, frames: Tensor, latent: Tensor, seen: Tensor, latent_seen: Tensor
    ) -> dict[str, Tensor]:
        """How far the first estimate is off, and how far from the unit normal, or the likelihood of what came."""
        past = self.task.input_frames
        drawn = condition if self.residual else _drawn(condition, spread)
        estimate = self._decoded(drawn, frames[:, past - 1 : past], latent[:, past - 1 : past])
        parts = {"constraint": _mean((estimate - frames[:, past:]).square(), seen[:, past:])}
        if self.residual:
            error = (condition - latent[:, past:].detach()).square()
            # the variance follows the error, but does not weigh it: or dry cells would count most
            surprise = 0.5 * (spread + error.detach() * torch.exp(-spread))
            parts["latent"] = _mean(error, latent_seen[:, past:])
            parts["likelihood"] = _mean(surprise, latent_seen[:, past:])
        else:
            parts["condition_kl"] = _mean(gaussian_divergence(condition, spread), latent_seen[:, past:])
        return parts

    def _diffusion_loss(self, latent: Tensor, condition: Tensor, seen: Tensor) -> Tensor:
        """Equation 14, as an error of v with the weight that makes it one of eps, or with the same at all steps."""
        steps = torch.randint(0, self.schedule.length, (len(latent),), device=latent.device)
        eps = torch.randn_like(latent)
        noisy = self.schedule.add_noise(latent, eps, steps)
        dropped = float(torch.rand(())) < self.condition_dropout  # once per batch
        given = None if dropped else self.denoiser.project(condition)
        said = self.denoiser(noisy, steps, given)
        target = PARAMETERIZATIONS["v"].target(latent, eps, *self.schedule.levels_like(steps, latent))
        error = (said - target).square()
        if self.diffusion_weight == "one":
            return _mean(error, seen)
        weight = loss_weight(self.schedule.snr, "v").to(latent)[steps].reshape(-1, 1, 1, 1, 1)
        return _mean(weight * error, seen)

    def _prior_divergence(self, latent: Tensor) -> Tensor:
        """Equation 13: what the last step leaves of the latent frames, against pure noise."""
        abar = self.schedule.abar[-1].to(latent)
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
        rain, seen = (F.pad(part, (0, right, 0, below)) for part in (batch.rain, batch.observed))
        if self.moving_frame:
            known = self.task.input_frames
            motion = motion_of(rain[:, :known, 0], seen[:, :known, 0], window=self.window)
            rain, seen = (part[:, :, None] for part in onto_newest(rain[:, :, 0], seen[:, :, 0], motion, known))
        return self.transform(rain), seen


def _samples_at_once(condition: Tensor) -> int:
    cells = condition.shape[1] * condition.shape[-2] * condition.shape[-1]
    return max(1, CELLS_AT_ONCE.get(condition.device.type, MOST_CELLS_AT_ONCE) // cells)


def _for_each_member(count: int, *parts: Tensor) -> list[Tensor]:
    """Each forecast's part as often as it has members, the member varying fastest."""
    return [part.repeat_interleave(count // len(part), dim=0) for part in parts]


def _drawn(mean: Tensor, log_variance: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def _mean(values: Tensor, seen: Tensor) -> Tensor:
    """Mean over cells that were measured, (b, t, c, y, x) and (b, t, 1, y, x); 0 where there are none."""
    seen = seen.to(values)
    return (values * seen).sum() / (seen.sum() * values.shape[2]).clamp_min(1.0)


def _source(noise: Noise | None, forecasts: int) -> Noise:
    if noise is None or len(noise) == 0 or len(noise) % forecasts:
        count = "no" if noise is None else len(noise)
        raise ValueError(f"there are {count} noise sources for {forecasts} forecasts; give one per member of each")
    return noise
