"""A system inside another: what it says is where the other begins. It learns together with it, or is frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xnowcast import models
from xnowcast.models.base import Loss, Task, TrainingBatch
from xnowcast.models.declaration import option
from xnowcast.models.transforms import Reflectivity, ScaledOptions, SevirPixel

LEARNS_BY = {"forecast": "continued", "downscale": "refined"}
"""By the verb: the method that gives a first stage's answer, not clipped and with its gradient."""


@dataclass(frozen=True, kw_only=True)
class FirstStageOptions(ScaledOptions):
    """Options of a system that begins with what another says; it may redeclare their defaults."""

    first_stage: Any = option(
        "phydnet",
        "Name of the system inside, one of `xnowcast.models.names` with one answer, or a model that was built.",
    )
    first_stage_options: Mapping[str, Any] | None = option(
        None,
        "Options of a first stage that is named. Its size, frames and scaling are those of this system, as far as it "
        "has such options.",
    )
    frozen: bool = option(
        False,
        "Whether the first stage stays as it began; weights of one that was trained alone are taken over by "
        "``xnowcast.train(start=...)``. Else it learns together with what comes after it.",
    )

    verb: ClassVar[str] = "forecast"
    """What the first stage is for."""

    def check(self) -> None:
        """Refuse a first stage that is none, and one that cannot learn with another."""
        super().check()
        inside, name = self.first_stage_task, self.first_stage_name
        if inside.verb != self.verb:
            raise ValueError(f"first_stage is {name!r}, which is for {inside.verb}: give one for {self.verb}")
        if inside.stochastic:
            raise ValueError(f"first_stage is {name!r}, which makes members: give one with a single answer")
        if not self.frozen and not all(hasattr(self._class, method) for method in ("loss", LEARNS_BY[self.verb])):
            raise ValueError(f"first_stage is {name!r}, which does not learn with another: give frozen=True")

    @property
    def _class(self) -> type:
        return models.find(self.first_stage) if isinstance(self.first_stage, str) else type(self.first_stage)

    @property
    def first_stage_name(self) -> str:
        """What the first stage is called."""
        return self.first_stage if isinstance(self.first_stage, str) else models.called(self.first_stage)

    @property
    def all_first_stage_options(self) -> dict[str, Any]:
        """What a named first stage is built with."""
        known = models.options(self.first_stage)
        declared = self._class.Options.declared() if hasattr(self._class, "Options") else {}
        choices = {name: declared[name].choices for name in declared}
        own = {name: value for name, value in self.handed.items() if name in known and value is not None}
        taken = {name: value for name, value in own.items() if not choices.get(name) or value in choices[name]}
        return taken | dict(self.first_stage_options or {})

    @property
    def handed(self) -> dict[str, Any]:
        """What a named first stage has from this system, as far as it has such options and knows such values."""
        return {name: getattr(self, name) for name in ("size", "scaling", "bounds") if hasattr(self, name)}

    @property
    def first_stage_task(self) -> Task:
        """What the first stage reads and gives."""
        if isinstance(self.first_stage, str):
            return models.declare(self.first_stage, **self.all_first_stage_options)
        if self.first_stage_options:
            raise ValueError("first_stage_options are those of a system that is named: the one that was given is built")
        if not (hasattr(self.first_stage, "task") and hasattr(self.first_stage, self.verb)):
            raise ValueError(f"first_stage is {self.first_stage!r}: give the name of a system, or one that was built")
        return self.first_stage.task


class FirstStage(nn.Module):
    """The system inside, in the scaling of the one around it.

    What of it is NaN, such as rain that moved in from outside, comes back as NaN.

    >>> from xnowcast.models.recurrent import RecurrentForecaster
    >>> first = FirstStage(FirstStageOptions(first_stage="extrapolation", frozen=True))
    >>> frames = torch.rand(1, 4, 1, 32, 32)
    >>> first.answer(frames, frames >= 0, 3).shape
    torch.Size([1, 3, 1, 32, 32])
    """

    def __init__(self, options: FirstStageOptions) -> None:
        super().__init__()
        named = isinstance(options.first_stage, str)
        self.network = (
            models.build(options.first_stage, **options.all_first_stage_options) if named else options.first_stage
        )
        self.name, self.verb, self.frozen = options.first_stage_name, options.verb, options.frozen
        inside = self.network.transform
        self.transform = inside if isinstance(inside, Reflectivity | SevirPixel) else options.transform
        if self.frozen and isinstance(self.network, nn.Module):
            self.network.requires_grad_(False)

    def train(self, mode: bool = True) -> "FirstStage":
        """As ever, but what is frozen keeps its statistics."""
        super().train(mode)
        if self.frozen and isinstance(self.network, nn.Module):
            self.network.train(False)
        return self

    def set_task(self, task: Task) -> None:
        """Tell it the step, the spacing and the crop that the system around it is trained with."""
        self.network.task = replace(self.network.task, step=task.step, spacing=task.spacing, crop=task.crop)

    @torch.no_grad()
    def answer(self, frames: Tensor, observed: Tensor, *asked: Any) -> Tensor:
        """What it says of frames ``(b, t, c, y, x)``; ``asked`` is what its verb takes besides, such as the steps."""
        same = self.network.transform == self.transform
        frames = frames if same else self.network.transform(self.transform.inverse(frames))
        answer = getattr(self.network, self.verb)(frames, observed, *asked).float()
        if same:
            return answer
        return torch.where(answer.isnan(), answer, self.transform(self.network.transform.inverse(answer)))

    def learn(
        self, batch: TrainingBatch, progress: float, frames: Tensor, observed: Tensor, *asked: Any
    ) -> tuple[Tensor, Loss]:
        """Its answer in training and its own loss of a batch: with gradients, or of a frozen one without and 0."""
        if self.frozen:
            return self.answer(frames, observed, *asked), Loss(frames.new_zeros(()))
        loss = self.network.loss(batch, progress=progress)
        return getattr(self.network, LEARNS_BY[self.verb])(frames, *asked), loss

    @property
    def begins_from(self) -> tuple[str, ...]:
        """Systems whose weights it can take over: its own, and those that it can begin from."""
        return (self.name, *getattr(self.network, "begins_from", ()))

    def begin_from(self, other: Any) -> None:
        """Take over the weights of a model that was trained alone, or the part that it can begin from."""
        if hasattr(self.network, "begin_from"):
            self.network.begin_from(other)
        else:
            self.network.load_state_dict(other.state_dict())
