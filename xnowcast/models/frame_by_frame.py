"""Forecasters that make one frame a step and read it again: forecasts of any length, and what they read in training."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast.models.base import Task, TrainingBatch, check_given, require_finite
from xnowcast.models.transforms import Reflectivity, SevirPixel
from xnowcast.nn.noise import Noise

Advance = Callable[[Tensor, Any], tuple[tuple[Tensor, ...], Any]]


class FrameByFrame(nn.Module):
    """What such systems have in common; one of them says how it takes a step in `advance`.

    Its options have ``scheduled_sampling``.
    """

    options: Any
    task: Task
    transform: Reflectivity | SevirPixel

    residual = False
    """Whether the network says by how much the next frame differs from the one that it reads."""

    fed_back = -1
    """Which of the predictions of a step is the next step's input."""

    def advance(self, frame: Tensor, carried: Any) -> tuple[tuple[Tensor, ...], Any]:
        """One step: a frame ``(b, 1, y, x)`` and what the step before carried on, to predictions of the next frame."""
        raise NotImplementedError

    def rollout(
        self, frames: Tensor, length: int, *, known: int, truth: Tensor | None = None, advance: Advance | None = None
    ) -> tuple[Tensor, ...]:
        """Predictions of the frames 1 to ``length``.

        ``frames`` ``(b, t, 1, y, x)`` are read as they are up to ``known``, and beyond it where ``truth``, bool
        ``(length, b)``, is True; else the network reads its own. Each of the predictions of ``advance``, a step
        other than that of the class, becomes ``(b, length, 1, y, x)``.
        """
        predicted: list[tuple[Tensor, ...]] = []
        carried, advance = None, advance or self.advance
        for step in range(length):
            if step < known:
                frame = frames[:, step]
            else:
                frame = predicted[-1][self.fed_back]
                if truth is not None:
                    frame = torch.where(truth[step].view(-1, 1, 1, 1), frames[:, step], frame)
            predictions, carried = advance(frame, carried)
            predicted.append(predictions)
        return tuple(torch.stack(prediction, dim=1) for prediction in zip(*predicted, strict=True))

    def continued(self, frames: Tensor, steps: int) -> Tensor:
        """Frames ``(b, input_frames, 1, y, x)`` to the ``(b, steps, 1, y, x)`` that follow, not clipped."""
        known = frames.shape[1]
        return self.rollout(frames, known + steps - 1, known=known)[-1][:, -steps:]

    @torch.no_grad()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` scaled to [0, 1], t at least ``input_frames``, to ``(b, steps, 1, y, x)`` in [0, 1].

        Any number of steps, by recursion, on any grid that is a multiple of the task's.
        """
        known = self.task.input_frames
        check_given(frames, known, steps)
        return require_finite(self.continued(frames[:, -known:], steps)).clamp(0.0, 1.0)

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
        if not self.options.scheduled_sampling or progress >= 1:
            return None
        return torch.rand(tuple(shape)) < 1.0 - progress  # on the CPU: the same numbers for every device

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one."""
        return None
