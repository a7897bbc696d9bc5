"""A budget of CPU seconds becomes optimiser steps: a few are timed for each system, before any is trained.

Everything in a training is counted in steps: its learning rate, the weights of its losses, what is random in it. With
steps that are fixed beforehand a run can be repeated and goes on bit for bit after a kill, which one that looks at the
clock does not. What it took in the end is measured and stands in the table beside the budget.
"""

import math
from dataclasses import replace
from time import process_time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xnowcast.training.plan import Run

VALIDATIONS = 5
"""Of a training whose settings do not say how often; the last step is among them."""

TIMED = 3
"""Steps that are timed, after one that is not: the first allocates memory and reads frames that others find there."""


def plan_steps(step: float, validation: float, budget: float, validate_every: int | None) -> tuple[int, int]:
    """Steps of a training, and after how many it validates, that take a budget of seconds.

    ``step, validation``: seconds that one of each takes. ``validate_every``: None is `VALIDATIONS` times in all.
    ValueError if there is no time for one step and its validation.

    >>> plan_steps(step=0.5, validation=2.0, budget=60.0, validate_every=None)
    (100, 20)
    >>> plan_steps(step=0.5, validation=2.0, budget=60.0, validate_every=10)
    (85, 10)
    """
    if validate_every is not None:
        steps, every = math.floor(budget / (step + validation / validate_every)), validate_every
    else:
        steps = math.floor((budget - VALIDATIONS * validation) / step)
        every = math.ceil(steps / VALIDATIONS)
    if steps < 1:
        raise ValueError(
            f"{budget:g} CPU seconds are too few: a step takes {step:.2g} s and a validation {validation:.2g} s. Give "
            "more, or smaller crops, batches or validation_crops"
        )
    return steps, max(1, every)


def seconds_of(planned: "Run") -> tuple[float, float]:
    """CPU seconds of a step, and of a validation; the model learns meanwhile and is of no further use."""

    def taken(steps: int) -> float:
        from xnowcast.training import loop

        settings = replace(
            planned.settings, steps=steps, warmup=0, validate_every=steps, pictures_every=0, log_every=steps
        )
        began = process_time()
        loop.run(replace(planned, settings=settings))
        return process_time() - began

    taken(1)
    one, several = taken(1), taken(1 + TIMED)
    step = max((several - one) / TIMED, several / (1 + TIMED) / 10)
    return step, max(0.0, one - step) if planned.validation is not None else 0.0


def settings_within(planned: "Run", budget: float) -> dict[str, Any]:
    """The settings of a training that takes a budget of CPU seconds."""
    if planned.device.type != "cpu":
        raise ValueError(
            f"a budget of CPU seconds tells nothing of a training on {planned.device.type!r}: give steps, or device="
            "'cpu'"
        )
    step, validation = seconds_of(planned)
    steps, every = plan_steps(step, validation, budget, planned.settings.validate_every)
    return {"steps": steps, "validate_every": every}
