"""Recurrent forecasters: stacks of cells on one scale, MS-RNN on three, and DB-RNN, which deblurs what it forecasts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast.models.base import Loss, Task, TrainingBatch
from xnowcast.models.declaration import Declared, option
from xnowcast.models.forecast_loss import ForecastLossOptions, forecast_losses
from xnowcast.models.frame_by_frame import FrameByFrame
from xnowcast.models.transforms import ScaledOptions
from xnowcast.nn.discriminator import Discriminator, judged
from xnowcast.nn.losses import gradient_difference_loss
from xnowcast.nn.multiscale import DEPTH, Multiscale
from xnowcast.nn.recurrent import CELLS, Cell
from xnowcast.nn.stacked import Stacked

KINDS = {
    "plain": "Recurrent cells on one scale, which forecast frame by frame from their own forecasts.",
    "ms": "Six recurrent cells on three scales, which forecast frame by frame from their own forecasts.",
    "db": "Two cascaded MS-RNNs: one forecasts the next frame, one deblurs it before it is read in turn.",
}

WIDTHS = {"full": 24, "tiny": 8}
WINDOWS = {"full": 31, "tiny": 7}

RAMP = 0.4  # share of the training in which the weights change: 20 of 50 epochs
GRADIENT_WEIGHT = 0.001  # lambda 3

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
    "mk-lstm": LARGE,
}
"""Tables I and II: the larger the network, the larger its adversary. MK-LSTM, as large as MIM, is not among them."""

PLAIN, DB = {"kind": ["plain"]}, {"kind": ["db"]}


@dataclass(frozen=True, kw_only=True)
class RecurrentOptions(ForecastLossOptions, ScaledOptions):
    kind: str = option(
        "ms", "One scale, MS-RNN or DB-RNN; the system's name fixes it, and that of the cell.", choices=KINDS
    )
    cell: str = option("convlstm", "One of `xnowcast.nn.recurrent.CELLS`.", choices=CELLS)
    layers: int = option(
        DEPTH,
        "How many cells lie upon each other; the six of MS-RNN, so that both have the same parameters.",
        least=1,
        only=PLAIN,
    )
    size: str = option("full", "The paper's 24 channels, or 8 for tests.", choices=WIDTHS)
    width: int | None = option(None, "Channels, instead of that.", least=1)
    patch: int = option(
        1,
        "Cells along the side of the squares that the network takes as one, with a channel for each cell: 2 costs a "
        "quarter. The paper has 1.",
        least=1,
    )
    input_frames: int = option(5, "Frames that the model reads.", least=1)
    target_frames: int = option(5, "Frames ahead that it is trained for; it forecasts any number.", least=1)
    scheduled_sampling: bool = option(
        True,
        "In training, frames beyond the input are fed as they are with a probability that falls from 1 to 0.",
    )
    memory: str = option(
        "zigzag",
        "Which memory the forecasting network begins a step with: that of the deblurring network, so that one memory "
        "zigzags through all twelve cells; or its own. Equation 3 leaves it open.",
        choices=("zigzag", "forecast"),
        only=DB,
    )
    skips: bool = option(
        True,
        "Whether the outputs of the forecasting network's cells are added to the inputs of the other's.",
        only=DB,
    )
    staged: bool | str = option(
        False,
        "MS-RNN-S of Table VI: two networks that nothing joins. The first is trained in the first half of the training "
        "and forecasts from its own forecasts; the second is trained in the other half, on what the first says. With "
        '``"deblurring"`` the second alone is trained, and the first stays as it began: ``xnowcast.train(start=...)`` '
        "takes it over from weights of an MS-RNN of the same cell.",
        choices=(False, True, "deblurring"),
        only=DB,
    )
    deblur_loss: bool = option(
        True,
        "The loss of the deblurring network's pixels (Table VIII, as the next two); without it they have none.",
        only=DB,
    )
    gradient_loss: bool = option(True, "The loss of the gradient differences.", only=DB)
    adversarial_loss: bool = option(True, "The adversarial loss.", only=DB)
    adversarial_weight: float = option(
        1.0,
        "Lambda 4, for sums over the pixels of a frame; the paper has 1. More of it for draws that look like rain "
        "rather than like the mean.",
        only=DB,
    )
    loss_schedule: str = option(
        "ramp",
        "Weights of the two pixel losses: 1 and 0.01, changing to 0.01 and 1 over the first 40 % of the training; or "
        "1 and 1.",
        choices=("ramp", "fixed"),
        only=DB,
    )
    deblurred: bool = option(
        True,
        "Where it is staged, whether forecasts are those of the network that deblurs, or of the one before it.",
        only=DB,
        runtime=True,
    )
    lean: bool | None = option(None, "Of PredRNN++, MIM and MotionRNN: leave out weights that nothing reads.")
    difference: str | None = option(None, 'Of MIM and MotionRNN: what an input is compared with, "below" or "own".')
    window: int | None = option(None, "Of PrecipLSTM: cells of the attention's window; 31, or 7 where tiny.", least=1)
    links: int | None = option(None, "Of TrajGRU: places that a cell reads; 10.", least=1)
    published: bool | None = option(
        None,
        "Of TrajGRU, MotionRNN and PrecipLSTM: do as the authors' code does where it slips, as their weights need it.",
    )

    def check(self) -> None:
        super().check()
        if self.adversarial_weight <= 0:
            raise ValueError(f"adversarial_weight is {self.adversarial_weight}: above 0, or adversarial_loss=False")
        if self.staged and not self.deblur_loss:
            raise ValueError("staged training without deblur_loss has nothing to train in its second half: keep it")
        if not self.deblurred and not self.staged:
            raise ValueError(
                "deblurred=False leaves out the network that deblurs, which only a DB-RNN with staged=True can do "
                'without: in a layer, network_options={"staged": True}'
            )
        with torch.device("meta"):  # cells that hold no numbers
            self.cells(2)

    @property
    def channels(self) -> int:
        """Of each cell."""
        return self.width or WIDTHS[self.size]

    def cells(self, depth: int) -> list[Cell]:
        """The cells of a network of ``depth`` layers; options that are None are left to the cell."""
        cell = CELLS[self.cell]
        options = {name: getattr(self, name) for name in ("lean", "difference", "window", "links", "published")}
        given = {name: value for name, value in options.items() if value is not None}
        for name in given:
            if name not in cell.options:
                raise ValueError(f"the cell {self.cell!r} has no option {name!r}: leave it out")
        if "window" in cell.options:
            given.setdefault("window", WINDOWS[self.size])
        return cell.stack(self.channels, depth, **given)

    def network(self) -> Stacked | Multiscale:
        """Cells that read a frame and say the next."""
        if self.kind == "plain":
            return Stacked(self.cells(self.layers), self.channels, self.patch)
        return Multiscale(self.cells(DEPTH), self.channels, self.patch)

    def task(self) -> Task:
        quantity, multiple = self.transform.quantity, (1 if self.kind == "plain" else 4) * self.patch
        return Task("forecast", input_frames=self.input_frames, quantity=quantity, grid_multiple=multiple, trained=True)


class RecurrentForecaster(Declared[RecurrentOptions], FrameByFrame):
    """A network that reads a frame a step and says the next, and is fed what it said once the frames are used up.

    A DB-RNN has two of them, which are trained together (equations 2 to 6): one forecasts the next frame, one deblurs
    it before it is read in turn. They are joined by sums between cells of equal scale, which have no weights, and by
    the zigzag memory. The loss is absolute plus squared error of both, gradient differences, and an adversary.

    ValueError if an option has no such value, or the kind or the cell has no such option.

    Ma et al. (2022), MS-RNN, arXiv:2206.03010; Ma et al. (2024), DB-RNN: an RNN for precipitation nowcasting
    deblurring, doi:10.1109/JSTARS.2024.3365612; for one scale Shi et al. (2015), arXiv:1506.04214, and Wang et al.
    (2017), PredRNN; for MS-LSTM, of kind "ms" and cell "mk-lstm", Ma et al. (2023), arXiv:2304.07724; the other
    cells name theirs.

    >>> model = RecurrentForecaster(kind="db", cell="predrnn", size="tiny")
    >>> frames = torch.rand(1, 5, 1, 16, 20)
    >>> model.forecast(frames, frames >= 0, steps=7).shape
    torch.Size([1, 7, 1, 16, 20])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        self.transform, self.training_frames = own.transform, own.input_frames + own.target_frames
        self.fed_back = 0 if own.staged else -1
        self.deblurs = own.kind == "db"
        if self.deblurs:
            self.forecasting, self.deblurring = own.network(), own.network()
            if own.staged == "deblurring":
                self.forecasting.requires_grad_(False)
        else:
            self.network = own.network()

    @classmethod
    def summary(cls, options: Mapping[str, Any] | RecurrentOptions) -> str:
        """What a model of the kind does."""
        return KINDS[options.kind if isinstance(options, RecurrentOptions) else options.get("kind", "ms")]

    @property
    def begins_from(self) -> tuple[str, ...]:
        """Systems whose weights the forecasting network can take over."""
        return (f"ms-{self.options.cell}",) if self.deblurs else ()

    def begin_from(self, other: "RecurrentForecaster") -> None:
        """Take over all weights of another of its kind, or those of an MS-RNN for the forecasting network.

        A RuntimeError if the weights are of other sizes.
        """
        if self.deblurs and not other.deblurs:
            self.forecasting.load_state_dict(other.network.state_dict())
        else:
            self.load_state_dict(other.state_dict())

    def become_residual(self) -> None:
        """From now on say by how much each frame differs from the one before, and begin with no difference."""
        self.residual = True
        for name, part in self.named_modules():
            if isinstance(part, nn.Conv2d) and name.split(".")[-1] == "read":
                for parameter in part.parameters():
                    nn.init.zeros_(parameter)

    def advance(self, frame: Tensor, carried: Any) -> tuple[tuple[Tensor, ...], Any]:
        """One step: a frame ``(b, 1, y, x)`` and what the step before carried on, to predictions of the next frame.

        Of a DB-RNN there are two, as forecast and as deblurred.
        """
        if not self.deblurs:
            return self.advance_blurred(frame, carried)
        none = (None,) * DEPTH
        states, deblurring_states, memory, own = carried or (none, none, None, None)
        forecast, outputs, states, memory = self.forecasting(frame, states, memory)
        forecast = frame + forecast if self.residual else forecast
        if self.options.staged:
            deblurred, _, deblurring_states, own = self.deblurring(forecast.detach(), deblurring_states, own)
        else:
            # DE0, DE1, DE2 get what FD0, FD1, FD2 gave, and DD2, DD1, DD0 what FE2, FE1, FE0 gave
            added = outputs[::-1] if self.options.skips else none
            deblurred, _, deblurring_states, top = self.deblurring(forecast, deblurring_states, memory, added)
            memory = top if self.options.memory == "zigzag" else memory
        deblurred = forecast + deblurred if self.residual else deblurred
        return (forecast, deblurred), (states, deblurring_states, memory, own)

    def advance_blurred(self, frame: Tensor, carried: Any) -> tuple[tuple[Tensor, ...], Any]:
        """One step without what only sharpens what is said; a DB-RNN that is not staged needs both of its networks."""
        if self.deblurs and not self.options.staged:
            return self.advance(frame, carried)
        network = self.forecasting if self.deblurs else self.network
        states, memory = carried or ((None,) * len(network.cells), None)
        forecast, _, states, memory = network(frame, states, memory)
        return (frame + forecast if self.residual else forecast,), (states, memory)

    def continued(self, frames: Tensor, steps: int) -> Tensor:
        """Frames ``(b, input_frames, 1, y, x)`` to the ``(b, steps, 1, y, x)`` that follow, not clipped."""
        known = frames.shape[1]
        advance = self.advance if self.options.deblurred else self.advance_blurred
        return self.rollout(frames, known + steps - 1, known=known, advance=advance)[-1][:, -steps:]

    def pixel_weights(self, progress: float) -> tuple[float, float]:
        """Lambda 1 and lambda 2: weights of the forecasting and of the deblurring loss at a share of the training."""
        if self.options.staged:
            second = self.options.staged == "deblurring" or progress >= 0.5
            forecasting, deblurring = (0.0, 1.0) if second else (1.0, 0.0)
        elif self.options.loss_schedule == "fixed":
            forecasting, deblurring = 1.0, 1.0
        else:
            done = min(progress / RAMP, 1.0)
            forecasting, deblurring = 1.0 - 0.99 * done, 0.01 + 0.99 * done
        return forecasting, deblurring if self.options.deblur_loss else 0.0

    def stage_progress(self, progress: float) -> float:
        """Share of its stage that is done, where each network is trained in one half of the training."""
        return 2 * progress % 1.0 if self.options.staged is True and progress < 1 else progress

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Absolute plus squared error of all predictions, those of the input frames among them; of a DB-RNN equation 7.

        With ``loss="facl"`` the Fourier losses have the place of the pixel losses.

        The paper's pixel losses are sums over a frame. Here they are means over the cells that were measured, and
        the adversarial loss, which is one number per frame, is divided by the number of cells, so the balance of
        the terms is the paper's on a grid of any size.
        """
        frames, observed, predictions = self.predict_batch(batch, progress)
        errors = forecast_losses(predictions, frames, observed, self.options, self.stage_progress(progress))
        parts = dict(zip(("forecast", "deblur"), errors, strict=False))
        if not self.deblurs:
            return Loss(errors[0], _detached(parts))
        forecasting_weight, deblurring_weight = self.pixel_weights(progress)
        total = forecasting_weight * parts["forecast"] + deblurring_weight * parts["deblur"]
        if self.options.staged and not deblurring_weight:  # the first stage trains the forecasting network alone
            return Loss(total, _detached(parts))
        deblurred = predictions[-1]
        if self.options.gradient_loss:
            parts["gradient"] = gradient_difference_loss(deblurred, frames, observed)
            total = total + GRADIENT_WEIGHT * parts["gradient"]
        if adversary is None or not self.options.adversarial_loss:
            return Loss(total, _detached(parts))
        # where nothing was measured both are the same, so that the coverage tells nothing
        truth, generated = frames.flatten(0, 1), torch.where(observed, deblurred.to(frames), frames).flatten(0, 1)
        parts["adversarial"] = judged(_frozen(adversary, generated), real=True)
        total = total + self.options.adversarial_weight / frames[0, 0].numel() * parts["adversarial"]
        return Loss(total, _detached(parts), truth=truth, generated=generated.detach())

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """The discriminator that goes with the cell, for frames of ``(y, x)`` cells; None without adversarial loss."""
        if not self.deblurs or not self.options.adversarial_loss:
            return None
        return Discriminator(shape, **DISCRIMINATORS[self.options.cell])


def _detached(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in parts.items()}


def _frozen(network: nn.Module, frames: Tensor) -> Tensor:
    """What a network says of frames; the gradient reaches the frames and not its weights."""
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    return torch.func.functional_call(network, weights, (frames,))
