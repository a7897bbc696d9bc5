"""DiffCast, the system: what it declares, how it forecasts and what it minimises."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast.diffusion import (
    PARAMETERIZATIONS,
    SAMPLERS,
    Denoise,
    Window,
    as_denoiser,
    evenly_spaced_steps,
    loss_weight,
    sigmoid_schedule,
    tiled,
)
from xnowcast.models.base import Loss, Task, TrainingBatch, check_given, require_finite
from xnowcast.models.declaration import Declared, option
from xnowcast.models.diffcast.context import ContextNetwork
from xnowcast.models.diffcast.denoiser import Context, Denoiser
from xnowcast.models.first_stage import FirstStage, FirstStageOptions
from xnowcast.nn.losses import measured_mean
from xnowcast.nn.noise import Noise, for_each_member, source

VELOCITY = PARAMETERIZATIONS["v"]

LOCAL = 6
"""Frames that have been read where the published code takes the context of the first segment."""

DEFAULT_TILE = 512
"""Cells; for weights that do not tell what they were trained on."""

CELLS_AT_ONCE = {"cpu": 2**16}
MOST_CELLS_AT_ONCE = 2**21
"""Cells of the samples that are denoised together."""


@dataclass(frozen=True)
class Size:
    """Widths of the two networks, frames of a segment, and those that are read and forecast."""

    base: int
    multipliers: tuple[int, ...]
    segment: int
    input_frames: int
    target_frames: int
    sampling_steps: int


SIZES = {
    "full": Size(64, (1, 2, 4, 8), 5, 5, 20, 250),
    "small": Size(16, (1, 2, 4), 5, 5, 10, 20),
    "tiny": Size(8, (1, 2), 2, 4, 4, 3),
}


@dataclass(frozen=True, kw_only=True)
class DiffCastOptions(FirstStageOptions):
    size: str = option(
        "full", '"full" is that of the paper: 46.3 million parameters beside those of the first stage.', choices=SIZES
    )
    input_frames: int | None = option(None, "By default 5, as in the paper (full and small), or 4 (tiny).", least=1)
    target_frames: int | None = option(
        None, "By default 20, as in the paper (full), 10 (small) or 4 (tiny). A multiple of ``segment``.", least=1
    )
    segment: int | None = option(
        None, "Frames of a segment, which are denoised together. By default 5, as in the paper, or 2 (tiny).", least=1
    )
    diffusion_share: float = option(
        0.5, "Alpha of the paper: weight of the diffusion's loss; the first stage's own has the rest.", least=0
    )
    trained_segments: int | None = option(
        None,
        "How many segments of a sample a step of the training learns from, drawn by chance; by default all. One costs "
        "least.",
        least=1,
    )
    diffusion_steps: int = option(1000, "T of the training.", least=1)
    sampling_steps: int | None = option(
        None,
        "Steps of the sampler for each segment, 1 to ``diffusion_steps``. By default 250, as in the paper (full), 20 "
        "(small) or 3 (tiny).",
        least=1,
        runtime=True,
    )
    sampler: str = option("ddim", "Of each segment; the paper's is DDIM.", choices=SAMPLERS, runtime=True)
    tile: int | None = option(
        None,
        "Grids wider or higher than this many cells are denoised in overlapping tiles. By default those of the "
        "training, where the weights tell their size, else 512.",
        runtime=True,
    )
    published: bool = option(
        False,
        "Do as the authors' code does, as its weights need it: the first segment is given the context after the sixth "
        "frame, instead of that of all frames, and residuals are clipped, instead of their sum with the first stage.",
    )

    def check(self) -> None:
        """Refuse options that do not go together."""
        super().check()
        own, inside = self.form, self.first_stage_task
        if own.target_frames % own.segment:
            raise ValueError(f"target_frames is {own.target_frames}: choose a multiple of {own.segment}, a segment")
        if own.sampling_steps > self.diffusion_steps:
            raise ValueError(
                f"sampling_steps is {own.sampling_steps}: the training had {self.diffusion_steps}, choose 1 to that"
            )
        if self.diffusion_share > 1:
            raise ValueError(f"diffusion_share is {self.diffusion_share}: it is a share, up to 1")
        segments = own.target_frames // own.segment
        if self.trained_segments is not None and self.trained_segments > segments:
            raise ValueError(f"trained_segments is {self.trained_segments}: a sample has {segments}")
        if own.input_frames < inside.input_frames:
            raise ValueError(f"input_frames is {own.input_frames}: the first stage reads {inside.input_frames}")
        if (inside.max_steps or own.target_frames) < own.target_frames:
            raise ValueError(f"target_frames is {own.target_frames}: the first stage forecasts {inside.max_steps}")
        if self.published and own.input_frames + own.target_frames < LOCAL:
            raise ValueError(f"published needs {LOCAL} frames: choose more of input_frames or target_frames")
        multiple = self.task().grid_multiple
        if self.tile is not None and (self.tile % multiple or self.tile < 2 * multiple):
            raise ValueError(f"tile is {self.tile} cells: choose a multiple of {multiple}, at least {2 * multiple}")

    @property
    def form(self) -> Size:
        """The size, with what was chosen otherwise."""
        names = ("segment", "input_frames", "target_frames", "sampling_steps")
        return replace(SIZES[self.size], **{name: getattr(self, name) for name in names if getattr(self, name)})

    @property
    def handed(self) -> dict[str, Any]:
        """What a named first stage has from here."""
        frames = {"input_frames": self.form.input_frames, "target_frames": self.form.target_frames}
        return super().handed | frames

    def task(self) -> Task:
        """What it reads and gives."""
        own, inside = self.form, self.first_stage_task
        return replace(
            inside,
            input_frames=own.input_frames,
            quantity=inside.quantity or self.transform.quantity,
            grid_multiple=lcm(inside.grid_multiple, 2 ** (len(own.multipliers) - 1)),
            max_steps=own.target_frames,
            stochastic=True,
            trained=True,
            reads_grid=False,
        )


class DiffCast(Declared[DiffCastOptions], nn.Module):
    """Residual diffusion: a forecaster with one answer, and members that a diffusion makes of what it leaves out.

    The residual of the forecast is made a segment of a few frames at a time, out of noise, given the segment before
    it and what a context network has kept of all frames, observed and forecast. All of it is trained together; with
    ``frozen`` the forecaster is one that was trained before. The system ``lagrangian`` has it in the frame that moves
    with the rain.

    Raises
    ------
    ValueError
        If an option has no such value, or the first stage is none.

    References
    ----------
    Yu et al. (2024), DiffCast: a unified framework via residual diffusion for precipitation nowcasting,
    arXiv:2312.06734

    Examples
    --------
    >>> from xnowcast.nn.noise import member_generator
    >>> model = DiffCast(size="tiny").eval()
    >>> frames = torch.rand(1, 4, 1, 16, 20)
    >>> three = Noise([member_generator(0, 0, member) for member in range(3)])
    >>> model.forecast(frames, frames >= 0, 4, three).shape
    torch.Size([3, 4, 1, 16, 20])
    """

    inflation = 1.0
    """Factor of what members add to the first stage; a layer around the model may set another."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own, form = self.options, self.options.form
        self.first_stage = FirstStage(own)
        self.transform = self.first_stage.transform
        self.target_frames, self.segment = form.target_frames, form.segment
        self.training_frames = form.input_frames + form.target_frames
        self.schedule = sigmoid_schedule(own.diffusion_steps)
        self.context = ContextNetwork(form.base, form.multipliers)
        self.denoiser = Denoiser(form.segment, base=form.base, multipliers=form.multipliers)

    @property
    def task(self) -> Task:
        """What it reads and gives; the first stage is told the step, the spacing and the crop of the training."""
        return self._task

    @task.setter
    def task(self, task: Task) -> None:
        self._task = task
        if hasattr(self, "first_stage"):
            self.first_stage.set_task(task)

    def become_residual(self) -> None:
        """The first stage says from now on by how much frames differ, if it can."""
        if hasattr(self.first_stage.network, "become_residual"):
            self.first_stage.network.become_residual()

    @property
    def begins_from(self) -> tuple[str, ...]:
        """Systems whose weights the first stage can take over."""
        return self.first_stage.begins_from

    def begin_from(self, other: Any) -> None:
        """Take over all weights of another of its kind, or those of a first stage that was trained alone.

        A RuntimeError if the weights are of other sizes.
        """
        if isinstance(other, DiffCast):
            self.load_state_dict(other.state_dict())
        else:
            self.first_stage.begin_from(other)

    # ------------------------------------------------------------ forecast

    @torch.inference_mode()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` in [0, 1], t at least ``input_frames``, to ``(b * m, steps, 1, y, x)``.

        First stage and context are computed once for all members. NaN where the first stage has it.
        """
        self._check(frames, steps)
        drawn = source(noise, len(frames))
        known = self.task.input_frames
        read, valid = frames[:, -known:], observed[:, -known:]
        ahead = self.first_stage.answer(read, valid, self.target_frames)
        unknown = ahead.isnan()
        ahead = 2.0 * ahead.nan_to_num(0.0).clamp(0.0, 1.0) - 1.0
        made = self._members(torch.cat([2.0 * read - 1.0, ahead], dim=1), ahead[:, :, 0], steps, drawn)
        forecast = require_finite((made + 1.0) / 2.0).clamp(0.0, 1.0)[:, :steps, None]
        return forecast.masked_fill(for_each_member(len(drawn), unknown[:, :steps])[0], torch.nan)

    def _members(self, sequence: Tensor, ahead: Tensor, steps: int, drawn: Noise) -> Tensor:
        """Members ``(b * m, n, y, x)``, n at least ``steps``, of first estimates ``(b, t, y, x)``, in [-1, 1]."""
        (estimate,) = for_each_member(len(drawn), ahead)
        visited = evenly_spaced_steps(self.schedule.length, self.options.form.sampling_steps)
        before, made = torch.zeros_like(estimate[:, : self.segment]), []
        contexts: dict[Window, list[Context]] = {}
        for number, part in enumerate(estimate.split(self.segment, dim=1)[: -(-steps // self.segment)]):
            denoise = self._denoise(sequence, contexts, part, before, number)
            start = drawn.normal(*part.shape[1:]).to(part)
            before = SAMPLERS[self.options.sampler](denoise, start, self.schedule, visited, drawn)
            made.append(part + self.inflation * before)
        return torch.cat(made, dim=1)

    def _denoise(
        self,
        sequence: Tensor,
        contexts: dict[Window, list[Context]],
        estimate: Tensor,
        before: Tensor,
        number: int,
    ) -> Denoise:
        """The expected residual of a segment, ``(b * m, frames, y, x)``, in tiles where the grid is large.

        ``contexts``: those of the tiles, which are made once for all segments and steps.
        """

        def denoise_tile(x: Tensor, step: float, window: Window) -> Tensor:
            if window not in contexts:
                contexts[window] = [self.denoiser.project(part) for part in self._contexts(window(sequence))]
            context = contexts[window][min(number, 1)]
            part, earlier = window(estimate), window(before)
            # the sum has rain rates for bounds; a residual can be as large as 2
            clip = (-1.0, 1.0) if self.options.published else (-1.0 - part, 1.0 - part)

            def velocity(x: Tensor, step: float) -> Tensor:
                return self._velocity(x, step, number, earlier, context)

            return as_denoiser(velocity, self.schedule, "v", clip=clip)(x, step)

        shape, multiple = (estimate.shape[-2], estimate.shape[-1]), self.task.grid_multiple
        overlap = max(multiple, self._tile // 4 // multiple * multiple)
        return tiled(denoise_tile, shape, tile=self._tile, overlap=overlap, margin=overlap // 4, multiple=multiple)

    def _velocity(self, x: Tensor, step: float, number: int, before: Tensor, context: Context) -> Tensor:
        """Of some members ``(b * m, frames, y, x)``, as many at a time as are good for the device."""
        cells = x.shape[-2] * x.shape[-1]
        at_once = max(1, CELLS_AT_ONCE.get(x.device.type, MOST_CELLS_AT_ONCE) // cells)
        when, which = (torch.tensor([value], device=x.device) for value in (step, number))
        of = torch.arange(len(x), device=x.device) // (len(x) // len(context[0][0]))  # the forecast of each member
        predictions = []
        for own in torch.arange(len(x), device=x.device).split(at_once):
            given = [(hidden[of[own]], beside[of[own]]) for hidden, beside in context]
            predictions.append(self.denoiser(x[own], when, which, before[own], given))
        return torch.cat(predictions)

    @property
    def _tile(self) -> int:
        """Width of tiles in cells: as asked for, or else of what the weights were trained on."""
        return self.options.tile or max(self.task.crop or DEFAULT_TILE, 2 * self.task.grid_multiple)

    def _contexts(self, sequence: Tensor) -> list[list[Tensor]]:
        """What is given to the first segment, and to those after it; frames ``(b, t, 1, y, x)`` in [-1, 1]."""
        if not self.options.published:
            return [self.context(sequence)] * 2
        local = self.context(sequence[:, :LOCAL])
        return [local, self.context(sequence[:, LOCAL:], local)]

    def _check(self, frames: Tensor, steps: int) -> None:
        check_given(frames, self.task.input_frames, steps)
        if steps > self.target_frames:
            raise ValueError(f"{steps} steps: this model forecasts 1 to {self.target_frames}")

    # ------------------------------------------------------------ training

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Alpha times the diffusion's loss and 1 - alpha times the first stage's own, over what was measured.

        ``parts`` are ``diffusion``, that of the noise, and ``first stage`` with its own parts. Nothing is detached:
        the diffusion trains the first stage too. A frozen one has no share.
        """
        frames, known = self.transform(batch.rain), self.task.input_frames
        read, valid = frames[:, :known], batch.observed[:, :known]
        ahead, first = self.first_stage.learn(batch, progress, read, valid, self.target_frames)
        measured = (batch.observed[:, known:] & ahead.isfinite())[:, :, 0]
        ahead = 2.0 * ahead.nan_to_num(0.0).clamp(0.0, 1.0) - 1.0
        residual = (2.0 * frames[:, known:] - 1.0 - ahead)[:, :, 0] * measured
        diffusion = self._diffusion_loss(torch.cat([2.0 * read - 1.0, ahead], dim=1), residual, measured)
        parts = {"diffusion": diffusion.detach()}
        if self.options.frozen:
            return Loss(diffusion, parts)
        share = self.options.diffusion_share
        parts |= {f"first stage: {name}": part.detach() for name, part in first.parts.items()}
        return Loss(share * diffusion + (1.0 - share) * first.total, parts)

    def _diffusion_loss(self, sequence: Tensor, residual: Tensor, measured: Tensor) -> Tensor:
        """Squared error of the noise of segments of residuals ``(b, t, y, x)``, as that of v with its weight.

        What is given of the segment before is as it was.
        """
        count = residual.shape[1] // self.segment
        residual, measured = (part.unflatten(1, (count, self.segment)) for part in (residual, measured))
        before = torch.cat([torch.zeros_like(residual[:, :1]), residual[:, :-1]], dim=1)
        numbers = self._drawn_segments(len(residual), count).to(residual.device)  # (b, s)
        sample = torch.arange(len(residual), device=residual.device)[:, None].expand_as(numbers)
        clean, known, earlier = (part[sample, numbers].flatten(0, 1) for part in (residual, measured, before))
        steps = self.schedule.draw_steps(len(clean), clean.device)
        eps = torch.randn_like(clean)
        noisy = self.schedule.add_noise(clean, eps, steps)
        context = self._context_of(self._contexts(sequence), sample.flatten(), numbers.flatten())
        velocity = self.denoiser(noisy, steps, numbers.flatten(), earlier, self.denoiser.project(context))
        target = VELOCITY.target(clean, eps, *self.schedule.levels_like(steps, clean))
        weight = loss_weight(self.schedule.snr, "v").to(steps.device)[steps][:, None, None, None]
        return measured_mean(weight.to(clean) * (velocity.float() - target).square(), known)

    def _drawn_segments(self, samples: int, count: int) -> Tensor:
        """``(samples, s)``: numbers of the segments that are learnt from, on the CPU as for every device."""
        taken = self.options.trained_segments or count
        if taken == count:
            return torch.arange(count).expand(samples, count)
        return torch.rand(samples, count).argsort(dim=1)[:, :taken]

    @staticmethod
    def _context_of(contexts: Sequence[Sequence[Tensor]], sample: Tensor, number: Tensor) -> list[Tensor]:
        """The context of each of some segments of a batch."""
        first, later = contexts
        is_first = (number == 0)[:, None, None, None]
        return [torch.where(is_first, a[sample], b[sample]) for a, b in zip(first, later, strict=True)]

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one."""
        return None
