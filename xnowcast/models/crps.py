"""An MS-RNN whose members are made by one pass each, and that is trained for the CRPS of its ensemble."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast.models.base import Loss, Task, TrainingBatch, check_given, require_finite
from xnowcast.models.declaration import Declared, option
from xnowcast.models.recurrent import RecurrentForecaster, RecurrentOptions
from xnowcast.nn.losses import almost_fair_crps, area_means, measured_mean
from xnowcast.nn.multiscale import DEPTH
from xnowcast.nn.noise import Noise, source
from xnowcast.nn.perturbation import Perturbation, noise_maps
from xnowcast.nn.warp import warp

AREAS = (1, 4, 16)
"""Cells along the squares whose mean rain rates are scored, besides the pixels on the network's own scale."""

RATE = 5.0
"""mm h-1 by which errors of rain rates are divided: then they weigh about as much as those on the network's scale."""

HIGHEST = 0.9
"""Of the network's scale: what lies above it counts as so much in the rain rates of the loss, which rise steeply."""


@dataclass(frozen=True, kw_only=True)
class CRPSOptions(RecurrentOptions):
    latent: int = option(16, "Numbers of the latent vector of a member.", least=1)
    trained_members: int = option(2, "Members of each ensemble in training.", least=2)
    fairness: float = option(
        0.95, "Share of the fair CRPS in the loss, beside the usual one (Lang et al. 2024, equation 4).", least=0
    )

    def check(self) -> None:
        super().check()
        if self.loss != "pixels":
            raise ValueError(f"loss is {self.loss!r}: this network is trained for the CRPS, leave it out")
        if self.fairness > 1:
            raise ValueError(f"fairness is {self.fairness}: it is a share, up to 1")

    def task(self) -> Task:
        return replace(super().task(), stochastic=True)


class CRPSForecaster(RecurrentForecaster, Declared[CRPSOptions]):
    """An MS-RNN with members, trained for the CRPS of its ensemble; each member is one pass and stays itself.

    A member has a latent vector, which scales and shifts the input of each cell, and noise maps on each scale, which
    change slowly. Both begin at zero, so that a training can begin from an MS-RNN's or a DB-RNN's weights. The loss is
    the almost fair CRPS of two members or more: of the pixels on the network's scale, and of the rain rates of pixels
    and of squares of 4 and 16 cells. In the layer "lagrangian" with ``motion_noise`` members also drift apart in
    training, so that the network need not learn to blur what is only displaced.

    ValueError if an option has no such value.

    Lang et al. (2024), AIFS-CRPS, arXiv:2412.15832, for the loss; Ma et al. (2022), MS-RNN, arXiv:2206.03010, for the
    network. The noise is this package's own.

    >>> model = CRPSForecaster(size="tiny")
    >>> model.task.stochastic
    True
    """

    options: CRPSOptions

    drift = 0.0
    """In training, standard deviation of each member's own motion, cells per step along y and along x."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.perturbation = Perturbation(self.options.channels, DEPTH, self.options.latent, self.options.patch)

    @property
    def begins_from(self) -> tuple[str, ...]:
        """Systems whose weights the network can take over."""
        return tuple(f"{kind}-{self.options.cell}" for kind in ("ms", "db"))

    def begin_from(self, other: RecurrentForecaster) -> None:
        """Take over all weights of another of its kind, or the forecasting network of an MS-RNN or a DB-RNN."""
        if isinstance(other, CRPSForecaster):
            self.load_state_dict(other.state_dict())
        else:
            inside = other.forecasting if other.deblurs else other.network
            self.network.load_state_dict(inside.state_dict())

    @torch.no_grad()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)``, t at least ``input_frames``, to ``(b * m, steps, 1, y, x)``, both scaled to [0, 1]."""
        known = self.task.input_frames
        check_given(frames, known, steps)
        drawn = source(noise, len(frames))
        members = self.members(frames[:, -known:], steps, lambda *shape: drawn.normal(*shape).to(frames), len(drawn))
        return require_finite(members).clamp(0.0, 1.0)

    def members(self, frames: Tensor, steps: int, draw: Callable[..., Tensor], count: int) -> Tensor:
        """Members ``(count, steps, 1, y, x)`` of the frames that follow ``(b, known, 1, y, x)``, the member fastest.

        ``draw``: standard normal numbers ``(count, *shape)``. What is read before the newest frame is read once.
        """
        carried: Any = None
        for step in range(frames.shape[1] - 1):
            _, carried = self.advance(frames[:, step], carried)
        copies = count // len(frames)
        carried, frame = _repeated(carried, copies), frames[:, -1].repeat_interleave(copies, dim=0)
        latent, maps, made = draw(self.options.latent), None, []
        for _ in range(steps):
            maps = noise_maps(draw, (frames.shape[-2], frames.shape[-1]), maps, self.options.patch)
            frame, carried = self._perturbed(frame, carried, self.perturbation(latent, maps))
            made.append(frame)
        return torch.stack(made, dim=1)

    def _perturbed(self, frame: Tensor, carried: Any, perturb: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, Any]:
        states, memory = carried or ((None,) * DEPTH, None)
        following, _, states, memory = self.network(frame, states, memory, perturb=perturb)
        return (frame + following if self.residual else following), (states, memory)

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Almost fair CRPS of the frames ahead: of pixels, and of the rain rates of pixels and areas."""
        known, count = self.task.input_frames, self.options.trained_members
        frames, observed = self.transform(batch.rain), batch.observed[:, known:, 0]
        b, steps = len(frames), frames.shape[1] - known

        def draw(*shape: int) -> Tensor:
            return torch.randn(b * count, *shape).to(frames)  # on the CPU: the same numbers for every device

        members = self.members(frames[:, :known], steps, draw, b * count).float()[:, :, 0]
        if self.drift:
            members, inside = _drifted(members, self.drift * draw(2))
            observed = observed & inside.unflatten(0, (b, count)).all(1)
        members = members.unflatten(0, (b, count))
        truth = frames[:, known:, 0].float()
        parts = {"pixels": measured_mean(almost_fair_crps(members, truth, self.options.fairness), observed)}
        rates, true_rates = (self.transform.inverse(values.clamp_max(HIGHEST)) / RATE for values in (members, truth))
        for cells in AREAS:
            means, _ = area_means(rates, observed[:, None], cells)
            true_means, whole = area_means(true_rates, observed, cells)
            crps = almost_fair_crps(means, true_means, self.options.fairness)
            parts[f"areas of {cells}"] = measured_mean(crps, whole)
        return Loss(sum(parts.values(), torch.zeros(())), {name: part.detach() for name, part in parts.items()})


def _drifted(fields: Tensor, drift: Tensor) -> tuple[Tensor, Tensor]:
    """Fields ``(n, t, y, x)`` moved by ``(n, 2)`` cells a step along y and x; and where that reads them alone."""
    n, steps, ny, nx = fields.shape
    lead = torch.arange(1, steps + 1, device=fields.device)[:, None]
    flow = (drift[:, None] * lead).reshape(n * steps, 1, 2, 1, 1).expand(-1, -1, -1, ny, nx)
    both = torch.stack([fields, torch.ones_like(fields)], dim=2).flatten(0, 1)
    moved, share = warp(both, flow)[:, :, 0].unflatten(0, (n, steps)).unbind(2)
    return moved, share > 0.999


def _repeated(carried: Any, copies: int) -> Any:
    """What a network carries from step to step, once for each member."""
    if isinstance(carried, Tensor):
        return carried.repeat_interleave(copies, dim=0)
    return type(carried)(_repeated(part, copies) for part in carried) if isinstance(carried, tuple | list) else carried
