"""PhyDNet: forecasts frame by frame, by learnt derivatives and by recurrent cells for what they leave out."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast.models.base import Loss, Task, TrainingBatch
from xnowcast.models.declaration import Declared, option
from xnowcast.models.frame_by_frame import FrameByFrame
from xnowcast.models.transforms import ScaledOptions
from xnowcast.nn.losses import measured_mean
from xnowcast.nn.phydnet import PhyDNetwork

SIZES: dict[str, dict[str, Any]] = {
    "full": {},
    "small": {"image": 16, "width": 32, "hidden": (48, 32)},
    "tiny": {"image": 16, "width": 16, "hidden": (16, 16)},
}


@dataclass(frozen=True, kw_only=True)
class PhyDNetOptions(ScaledOptions):
    size: str = option("full", "The paper's 3.1 million parameters, or fewer.", choices=SIZES)
    input_frames: int = option(5, "Frames that the model reads.", least=1)
    target_frames: int = option(20, "Frames ahead that it is trained for; it forecasts any number.", least=1)
    scheduled_sampling: bool = option(
        False, "In training, frames beyond the input are fed as they are with a probability that falls from 1 to 0."
    )
    moment_weight: float = option(
        1.0,
        "Weight of how far the filters of the physical cell are from derivatives, beside the squared errors.",
        least=0,
    )

    def task(self) -> Task:
        """What it reads and gives."""
        return Task(
            "forecast",
            input_frames=self.input_frames,
            quantity=self.transform.quantity,
            grid_multiple=4,
            trained=True,
        )


class PhyDNet(Declared[PhyDNetOptions], FrameByFrame):
    """A step of a learnt differential equation and recurrent cells for the rest, both on a quarter of the grid.

    The physical cell corrects what the equation says by what it sees, as data assimilation does; its filters are held
    to be derivatives. What the two branches say is added up before it becomes a frame.

    ValueError if an option has no such value.

    Guen and Thome (2020), Disentangling physical dynamics from unknown factors for unsupervised video prediction,
    arXiv:2003.01460.

    >>> model = PhyDNet(size="tiny")
    >>> frames = torch.rand(1, 5, 1, 16, 20)
    >>> model.forecast(frames, frames >= 0, steps=7).shape
    torch.Size([1, 7, 1, 16, 20])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        self.transform, self.training_frames = own.transform, own.input_frames + own.target_frames
        self.network = PhyDNetwork(**SIZES[own.size])

    def advance(self, frame: Tensor, carried: Any) -> tuple[tuple[Tensor, ...], Any]:
        """One step: a frame ``(b, 1, y, x)`` and what the step before carried on, to the next frame."""
        if not self.residual:
            following, carried = self.network(frame, carried)
            return (following,), carried
        change, carried = self.network.logits(frame, carried)
        return (frame + change,), carried

    def become_residual(self) -> None:
        """From now on say by how much each frame differs from the one before, and begin with no difference."""
        self.residual = True
        for parameter in self.network.read.parameters():
            nn.init.zeros_(parameter)

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """The sum over frames of the mean squared errors of all predictions, and the moments of the filters."""
        truth, observed, (predicted,) = self.predict_batch(batch, progress)
        errors = (predicted.float() - truth).square()
        frames = [
            measured_mean(error, known) for error, known in zip(errors.unbind(1), observed.unbind(1), strict=True)
        ]
        parts = {"forecast": torch.stack(frames).sum(), "moments": self.network.physical.moment_loss()}
        total = parts["forecast"] + self.options.moment_weight * parts["moments"]
        return Loss(total, {name: part.detach() for name, part in parts.items()})
