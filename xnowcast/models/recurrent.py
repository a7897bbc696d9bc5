"""What the recurrent forecasters share: options, the loop over steps, forecasts and the loss of equation 7."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast.models.base import Loss, Task, TrainingBatch, require_finite
from xnowcast.models.transforms import SCALINGS
from xnowcast.nn.losses import pixel_loss
from xnowcast.nn.noise import Noise
from xnowcast.nn.recurrent import CELLS, Cell

WIDTHS = {"full": 24, "tiny": 8}
WINDOWS = {"full": 31, "tiny": 7}


def stack_cells(cell: str, size: str, width: int | None, depth: int, options: dict[str, Any]) -> list[Cell]:
    """The cells of a network of ``depth`` layers; options that are None are left to the cell.

    Raises
    ------
    ValueError
        If there is no such cell or size, or the cell has no such option or takes no such value.
    """
    for name, value, known in (("cell", cell, CELLS), ("size", size, WIDTHS)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}: choose one of {', '.join(map(repr, known))}")
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in CELLS[cell].options:
            raise ValueError(f"the cell {cell!r} has no option {name!r}: leave it out")
    for name, count in {**given, "width": width}.items():
        if isinstance(count, int) and not isinstance(count, bool) and count < 1:
            raise ValueError(f"{name} is {count}: it must be at least 1")
    if "window" in CELLS[cell].options:
        given.setdefault("window", WINDOWS[size])
    return CELLS[cell].stack(width or WIDTHS[size], depth, **given)


def recurrent_task(
    cell: str,
    size: str,
    width: int | None,
    options: dict[str, Any],
    *,
    input_frames: int,
    target_frames: int,
    scaling: str,
    grid_multiple: int,
) -> Task:
    """The task of a recurrent forecaster, its options checked on cells that hold no numbers."""
    with torch.device("meta"):
        stack_cells(cell, size, width, 2, options)
    if scaling not in SCALINGS:
        raise ValueError(f"scaling is {scaling!r}: choose one of {', '.join(map(repr, SCALINGS))}")
    for name, count in (("input_frames", input_frames), ("target_frames", target_frames)):
        if count < 1:
            raise ValueError(f"{name} is {count}: it must be at least 1")
    quantity = SCALINGS[scaling].quantity
    return Task("forecast", input_frames=input_frames, quantity=quantity, grid_multiple=grid_multiple, trained=True)


class RecurrentForecaster(nn.Module):
    """A network that reads a frame a step and says the next, and is fed what it said once the frames are used up."""

    fed_back = -1
    """Which of the predictions of a step is the next step's input."""

    residual = False
    """Whether the network says by how much the next frame differs from the one that it reads."""

    emphasis = 0.0
    """How much more the heaviest rain counts in the pixel losses: see `xnowcast.nn.losses.pixel_loss`."""

    absolute_error = 1.0
    """Weight of the absolute error beside the squared one."""

    def __init__(self, task: Task, *, target_frames: int, scaling: str, scheduled_sampling: bool) -> None:
        super().__init__()
        self.task = task
        self.transform = SCALINGS[scaling]
        self.training_frames = task.input_frames + target_frames
        self.scheduled_sampling = scheduled_sampling

    def advance(self, frame: Tensor, carried: Any) -> tuple[tuple[Tensor, ...], Any]:
        """One step: a frame ``(b, 1, y, x)`` and what the step before carried on, to predictions of the next frame."""
        raise NotImplementedError

    def advance_blurred(self, frame: Tensor, carried: Any) -> tuple[tuple[Tensor, ...], Any]:
        """One step without what only sharpens what is said."""
        return self.advance(frame, carried)

    def rollout(
        self,
        frames: Tensor,
        length: int,
        *,
        known: int,
        truth: Tensor | None = None,
        advance: Callable[[Tensor, Any], tuple[tuple[Tensor, ...], Any]] | None = None,
    ) -> tuple[Tensor, ...]:
        """Predictions of the frames 1 to ``length``.

        Parameters
        ----------
        frames : Tensor
            ``(b, t, 1, y, x)`` in the transform's units.
        length : int
            How many steps.
        known : int
            How many of the first frames are read as they are; after them the network reads what it said.
        truth : Tensor, optional
            ``(length, b)`` bool: where True, the frame is read beyond ``known`` too.
        advance : callable, optional
            One step, instead of `advance`.

        Returns
        -------
        tuple of Tensor
            ``(b, length, 1, y, x)`` for each prediction that `advance` makes.
        """
        said: list[tuple[Tensor, ...]] = []
        carried, advance = None, advance or self.advance
        for step in range(length):
            if step < known:
                frame = frames[:, step]
            else:
                frame = said[-1][self.fed_back]
                if truth is not None:
                    frame = torch.where(truth[step].view(-1, 1, 1, 1), frames[:, step], frame)
            predictions, carried = advance(frame, carried)
            said.append(predictions)
        return tuple(torch.stack(prediction, dim=1) for prediction in zip(*said, strict=True))

    @torch.no_grad()
    def forecast(
        self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None, *, deblurred: bool = True
    ) -> Tensor:
        """``(b, t, 1, y, x)`` scaled to [0, 1], t at least ``input_frames``, to ``(b, steps, 1, y, x)`` in [0, 1].

        Any number of steps, by recursion, on any grid that is a multiple of the task's. Unless ``deblurred``, a staged
        DB-RNN leaves out the network that deblurs.
        """
        known = self.task.input_frames
        if frames.shape[1] < known:
            raise ValueError(f"{frames.shape[1]} frames were given: the model reads {known}")
        if steps < 1:
            raise ValueError(f"steps is {steps}: ask for at least one")
        advance = self.advance if deblurred else self.advance_blurred
        predictions = self.rollout(frames[:, -known:], known + steps - 1, known=known, advance=advance)
        return require_finite(predictions[-1][:, -steps:]).clamp(0.0, 1.0)

    def begin_from(self, other: "RecurrentForecaster") -> None:
        """Take over the weights of another model of the same kind and size."""
        self.load_state_dict(other.state_dict())

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Absolute plus squared error of all predictions, those of the input frames among them."""
        frames, observed, (prediction,) = self.predict_batch(batch, progress)
        error = pixel_loss(prediction, frames, observed, self.emphasis, self.absolute_error)
        return Loss(error, {"forecast": error.detach()})

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: the model trains without one."""
        return None

    def predict_batch(self, batch: TrainingBatch, progress: float) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The second to last frames of a batch, where they were measured, and the predictions of them."""
        frames = self.transform(batch.rain)
        b, length = frames.shape[0], frames.shape[1] - 1
        truth = self.sample_truth((length, b), progress)
        truth = truth if truth is None else truth.to(frames.device)
        predictions = self.rollout(frames, length, known=self.task.input_frames, truth=truth)
        return frames[:, 1:], batch.observed[:, 1:], predictions

    def sample_truth(self, shape: Sequence[int], progress: float) -> Tensor | None:
        """Scheduled sampling: which frames are fed as they are, with a probability that falls from 1 to 0."""
        if not self.scheduled_sampling or progress >= 1:
            return None
        return torch.rand(tuple(shape)) < 1.0 - progress  # on the CPU: the same numbers for every device
