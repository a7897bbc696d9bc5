"""DB-RNN: a recurrent network that forecasts and one that deblurs, step by step in turn."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast.models.base import Loss, Task, TrainingBatch
from xnowcast.models.ms_rnn import MSRNN
from xnowcast.models.recurrent import WIDTHS, RecurrentForecaster, recurrent_task, stack_cells
from xnowcast.nn.discriminator import Discriminator, judged
from xnowcast.nn.losses import gradient_difference_loss, pixel_loss
from xnowcast.nn.multiscale import DEPTH, Multiscale

RAMP = 0.4  # share of the training in which the weights change: 20 of 50 epochs
GRADIENT_WEIGHT = 0.001  # lambda 3
MEMORIES = ("zigzag", "forecast")
SCHEDULES = ("ramp", "fixed")
STAGED = (False, True, "deblurring")

SMALL: dict[str, Any] = {"widths": (16, 20, 20), "hidden": 10}
MEDIUM: dict[str, Any] = {"widths": (16, 20, 32), "hidden": 10}
LARGE: dict[str, Any] = {"widths": (16, 32, 32), "hidden": 16}
DISCRIMINATORS = {
    "convlstm": SMALL,
    "trajgru": SMALL,
    "predrnn": MEDIUM,
    "predrnn++": MEDIUM,
    "mim": LARGE,
    "motionrnn": LARGE,
    "preciplstm": LARGE,
}
"""Tables I and II: the larger the network, the larger its adversary."""


class DBRNN(RecurrentForecaster):
    """Two cascaded MS-RNNs: one forecasts the next frame, one deblurs it before it is read in turn.

    Equations 2 to 6. The two are joined by sums between cells of equal scale, which have no weights, and by the
    zigzag memory. Trained together: absolute plus squared error of both, gradient differences, and an adversary.

    Parameters
    ----------
    cell, size, width, input_frames, target_frames, scaling, scheduled_sampling, lean, difference, window, links
        As for `xnowcast.models.ms_rnn.MSRNN`.
    memory : {"zigzag", "forecast"}
        Which memory the forecasting network begins a step with: that of the deblurring network, so that one memory
        zigzags through all twelve cells; or its own. Equation 3 leaves it open.
    skips : bool
        Whether the outputs of the forecasting network's cells are added to the inputs of the other's.
    staged : bool or "deblurring"
        MS-RNN-S of Table VI: two networks that nothing joins. The first is trained in the first half of the training
        and forecasts from its own forecasts; the second is trained in the other half, on what the first says. With
        ``"deblurring"`` the second alone is trained, and the first stays as it began: ``xnowcast.train(start=...)``
        takes it over from weights of an MS-RNN of the same cell.
    deblur_loss, gradient_loss, adversarial_loss : bool
        The losses of Table VIII. Without the first the deblurring network's pixels have no loss of their own.
    adversarial_weight : float
        Lambda 4, for sums over the pixels of a frame; the paper has 1.
    loss_schedule : {"ramp", "fixed"}
        Weights of the two pixel losses: 1 and 0.01, changing to 0.01 and 1 over the first 40 % of the training; or
        1 and 1.

    Raises
    ------
    ValueError
        If an option has no such value, or the cell has no such option.

    References
    ----------
    Ma et al. (2024), DB-RNN: an RNN for precipitation nowcasting deblurring, doi:10.1109/JSTARS.2024.3365612

    Examples
    --------
    >>> model = DBRNN(cell="predrnn", size="tiny")
    >>> frames = torch.rand(1, 5, 1, 16, 20)
    >>> model.forecast(frames, frames >= 0, steps=7).shape
    torch.Size([1, 7, 1, 16, 20])
    """

    def __init__(
        self,
        *,
        cell: str = "convlstm",
        size: str = "full",
        width: int | None = None,
        input_frames: int = 5,
        target_frames: int = 5,
        scaling: str = "reflectivity",
        scheduled_sampling: bool = True,
        memory: str = "zigzag",
        skips: bool = True,
        staged: bool | str = False,
        deblur_loss: bool = True,
        gradient_loss: bool = True,
        adversarial_loss: bool = True,
        adversarial_weight: float = 1.0,
        loss_schedule: str = "ramp",
        lean: bool | None = None,
        difference: str | None = None,
        window: int | None = None,
        links: int | None = None,
    ) -> None:
        options = {"lean": lean, "difference": difference, "window": window, "links": links}
        task = self.declare(
            cell=cell,
            size=size,
            width=width,
            input_frames=input_frames,
            target_frames=target_frames,
            scaling=scaling,
            memory=memory,
            staged=staged,
            deblur_loss=deblur_loss,
            adversarial_weight=adversarial_weight,
            loss_schedule=loss_schedule,
            **options,  # type: ignore[arg-type]
        )
        super().__init__(task, target_frames=target_frames, scaling=scaling, scheduled_sampling=scheduled_sampling)
        self.cell, self.memory, self.skips, self.staged = cell, memory, skips, staged
        self.deblur_loss, self.gradient_loss, self.adversarial_loss = deblur_loss, gradient_loss, adversarial_loss
        self.adversarial_weight, self.loss_schedule = adversarial_weight, loss_schedule
        self.fed_back = 0 if staged else -1
        channels = width or WIDTHS[size]
        self.forecasting = Multiscale(stack_cells(cell, size, width, DEPTH, options), channels)
        self.deblurring = Multiscale(stack_cells(cell, size, width, DEPTH, options), channels)
        if staged == "deblurring":
            self.forecasting.requires_grad_(False)

    @classmethod
    def declare(
        cls,
        *,
        cell: str = "convlstm",
        size: str = "full",
        width: int | None = None,
        input_frames: int = 5,
        target_frames: int = 5,
        scaling: str = "reflectivity",
        scheduled_sampling: bool = True,
        memory: str = "zigzag",
        skips: bool = True,
        staged: bool | str = False,
        deblur_loss: bool = True,
        gradient_loss: bool = True,
        adversarial_loss: bool = True,
        adversarial_weight: float = 1.0,
        loss_schedule: str = "ramp",
        lean: bool | None = None,
        difference: str | None = None,
        window: int | None = None,
        links: int | None = None,
    ) -> Task:
        """What it reads and gives; the options are those of the class, and are checked here."""
        choices: dict[str, tuple[Any, Sequence[Any]]] = {
            "memory": (memory, MEMORIES),
            "loss_schedule": (loss_schedule, SCHEDULES),
            "staged": (staged, STAGED),
        }
        for name, (value, known) in choices.items():
            if value not in known:
                raise ValueError(f"{name} is {value!r}: choose one of {', '.join(map(repr, known))}")
        if adversarial_weight <= 0:
            raise ValueError(f"adversarial_weight is {adversarial_weight}: above 0, or adversarial_loss=False")
        if staged and not deblur_loss:
            raise ValueError("staged training without deblur_loss has nothing to train in its second half: keep it")
        return recurrent_task(
            cell,
            size,
            width,
            {"lean": lean, "difference": difference, "window": window, "links": links},
            input_frames=input_frames,
            target_frames=target_frames,
            scaling=scaling,
            grid_multiple=4,
        )

    @property
    def begins_from(self) -> tuple[str, ...]:
        """Systems whose weights the forecasting network can take over."""
        return (f"ms-{self.cell}",)

    def begin_from(self, other: RecurrentForecaster) -> None:
        """Take over all weights of another DB-RNN, or those of an MS-RNN for the forecasting network.

        Raises
        ------
        RuntimeError
            If the weights are of other sizes.
        """
        if isinstance(other, MSRNN):
            self.forecasting.load_state_dict(other.network.state_dict())
        else:
            super().begin_from(other)

    def advance(self, frame: Tensor, carried: Any) -> tuple[tuple[Tensor, ...], Any]:
        """A frame to the next as forecast and as deblurred, ``(b, 1, y, x)`` each."""
        none = (None,) * DEPTH
        states, deblurring_states, memory, own = carried or (none, none, None, None)
        forecast, outputs, states, memory = self.forecasting(frame, states, memory)
        forecast = frame + forecast if self.residual else forecast
        if self.staged:
            deblurred, _, deblurring_states, own = self.deblurring(forecast.detach(), deblurring_states, own)
        else:
            # DE0, DE1, DE2 get what FD0, FD1, FD2 gave, and DD2, DD1, DD0 what FE2, FE1, FE0 gave
            added = outputs[::-1] if self.skips else none
            deblurred, _, deblurring_states, top = self.deblurring(forecast, deblurring_states, memory, added)
            memory = top if self.memory == "zigzag" else memory
        deblurred = forecast + deblurred if self.residual else deblurred
        return (forecast, deblurred), (states, deblurring_states, memory, own)

    def advance_blurred(self, frame: Tensor, carried: Any) -> tuple[tuple[Tensor, ...], Any]:
        """A frame to the next as forecast; where the other network is part of the forecast, with it."""
        if not self.staged:
            return self.advance(frame, carried)
        states, memory = carried or ((None,) * DEPTH, None)
        forecast, _, states, memory = self.forecasting(frame, states, memory)
        return (frame + forecast if self.residual else forecast,), (states, memory)

    def pixel_weights(self, progress: float) -> tuple[float, float]:
        """Lambda 1 and lambda 2: weights of the forecasting and of the deblurring loss at a share of the training."""
        if self.staged:
            second = self.staged == "deblurring" or progress >= 0.5
            forecasting, deblurring = (0.0, 1.0) if second else (1.0, 0.0)
        elif self.loss_schedule == "fixed":
            forecasting, deblurring = 1.0, 1.0
        else:
            done = min(progress / RAMP, 1.0)
            forecasting, deblurring = 1.0 - 0.99 * done, 0.01 + 0.99 * done
        return forecasting, deblurring if self.deblur_loss else 0.0

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Equation 7, per measured cell instead of per frame: all of it divided by the number of cells.

        The paper's pixel losses are sums over a frame. Here they are means over the cells that were measured, and
        the adversarial loss, which is one number per frame, is divided by the number of cells, so the balance of
        the terms is the paper's on a grid of any size.
        """
        frames, observed, (forecast, deblurred) = self.predict_batch(batch, progress)
        forecasting_weight, deblurring_weight = self.pixel_weights(progress)
        parts = {
            "forecast": pixel_loss(forecast, frames, observed, self.emphasis, self.absolute_error),
            "deblur": pixel_loss(deblurred, frames, observed, self.emphasis, self.absolute_error),
        }
        total = forecasting_weight * parts["forecast"] + deblurring_weight * parts["deblur"]
        if self.staged and not deblurring_weight:  # the first stage trains the forecasting network alone
            return Loss(total, _detached(parts))
        if self.gradient_loss:
            parts["gradient"] = gradient_difference_loss(deblurred, frames, observed)
            total = total + GRADIENT_WEIGHT * parts["gradient"]
        if adversary is None or not self.adversarial_loss:
            return Loss(total, _detached(parts))
        # where nothing was measured both are the same, so that the coverage tells nothing
        truth, generated = frames.flatten(0, 1), torch.where(observed, deblurred.to(frames), frames).flatten(0, 1)
        parts["adversarial"] = judged(_frozen(adversary, generated), real=True)
        total = total + self.adversarial_weight / frames[0, 0].numel() * parts["adversarial"]
        return Loss(total, _detached(parts), truth=truth, generated=generated.detach())

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """The discriminator that goes with the cell, for frames of ``(y, x)`` cells; None without adversarial loss."""
        return Discriminator(shape, **DISCRIMINATORS[self.cell]) if self.adversarial_loss else None


def _detached(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in parts.items()}


def _frozen(network: nn.Module, frames: Tensor) -> Tensor:
    """What a network says of frames; the gradient reaches the frames and not its weights."""
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    return torch.func.functional_call(network, weights, (frames,))
