"""Forecasters that make all frames ahead in one pass, other than recurrent ones, which make one a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from xnowcast.models.base import Loss, TrainingBatch, check_given, require_finite
from xnowcast.models.declaration import Declared, option, redeclared
from xnowcast.models.forecast_loss import ForecastLossOptions, forecast_losses
from xnowcast.models.transforms import ScaledOptions
from xnowcast.nn.noise import Noise


@dataclass(frozen=True, kw_only=True)
class OnePassOptions(ForecastLossOptions, ScaledOptions):
    """Options of a `OnePassForecaster`; a system adds its own and its `task`."""

    input_frames: int = option(5, "Frames that the model reads.", least=1)
    target_frames: int = option(
        20,
        "Frames ahead that it is trained for; it forecasts any number, and reads its own forecasts where it runs out.",
        least=1,
    )
    absolute_error: float = redeclared(ForecastLossOptions, "absolute_error", 0.0)

    @property
    def frames(self) -> tuple[int, int]:
        """How many it reads, and how many ahead it is trained for."""
        return self.input_frames, self.target_frames


OwnOptions = TypeVar("OwnOptions", bound=OnePassOptions)


class OnePassForecaster(Declared[OwnOptions], nn.Module, Generic[OwnOptions]):
    """What such systems have in common: forecasts of any length, the loss, and their place in the moving frame.

    A system sets in its constructor ``self.network``, which turns frames ``(b, input_frames, 1, y, x)`` scaled to
    [0, 1] into those that follow, ``(b, n, 1, y, x)`` with any n.
    """

    network: nn.Module
    options: OwnOptions

    residual = False
    """Whether the network says by how much the frames ahead differ from the newest."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        own = self.options
        self.transform, self.training_frames = own.transform, sum(own.frames)

    def continued(self, frames: Tensor, steps: int) -> Tensor:
        """Frames ``(b, input_frames, 1, y, x)`` to the ``(b, steps, 1, y, x)`` that follow, not clipped.

        More than the network makes in a pass come from further passes, which read what the ones before have made.
        """
        known, made = frames.shape[1], frames
        while made.shape[1] < known + steps:
            read = made[:, -known:]
            ahead = self.ahead(read)
            made = torch.cat([made, read[:, -1:] + ahead if self.residual else ahead], dim=1)
        return made[:, known : known + steps]

    def ahead(self, frames: Tensor) -> Tensor:
        """What one pass makes of frames; a system that takes large grids in parts says here how."""
        return self.network(frames)

    @torch.no_grad()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` scaled to [0, 1], t at least ``input_frames``, to ``(b, steps, 1, y, x)`` in [0, 1]."""
        known, learning = self.task.input_frames, self.training
        check_given(frames, known, steps)
        self.eval()  # nothing is left out at random, also of a forecast that is made during a training
        made = self.continued(frames[:, -known:], steps)
        self.train(learning)
        return require_finite(made).clamp(0.0, 1.0)

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """The loss of the frames ahead, where they were measured."""
        frames, known = self.transform(batch.rain), self.task.input_frames
        prediction = self.continued(frames[:, :known], frames.shape[1] - known)
        truth, observed = frames[:, known:], batch.observed[:, known:]
        (error,) = forecast_losses([prediction], truth, observed, self.options, progress)
        terms = {"forecast": error, **self.further_terms(prediction, truth, observed)}
        return Loss(torch.stack([*terms.values()]).sum(), {name: term.detach() for name, term in terms.items()})

    def further_terms(self, prediction: Tensor, truth: Tensor, observed: Tensor) -> Mapping[str, Tensor]:
        """What a system adds to its loss, weighted, by name; all three are ``(b, t, 1, y, x)``, the frames ahead."""
        return {}

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one."""
        return None

    def become_residual(self) -> None:
        """From now on say by how much the frames ahead differ from the newest; a system whose last layer can be silent
        begins with no difference.
        """
        self.residual = True
