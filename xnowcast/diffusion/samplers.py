"""Samplers: functions from noise to a sample, by way of a function that says what it expects the signal to be.

All take ``(denoise, x, schedule, steps, noise)``. ``denoise(x, step)`` gives the expected ``x_0``; ``steps`` falls, and
ends with `CLEAN` unless the sample is wanted with noise left. Random numbers are drawn once per step and in order, so a
member is the same in any company.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

from xnowcast.diffusion.schedules import NoisePath, Schedule
from xnowcast.nn.noise import Noise

Denoise = Callable[[Tensor, float], Tensor]
"""``(x, step)`` to the expected signal, of the shape of ``x``."""

Correct = Callable[[Tensor, Tensor, float], Tensor]
"""``(mean, x0, step)`` to the mean that is used instead, such as one that is guided by a measurement."""


def ancestral(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    steps: Sequence[float],
    noise: Noise | None = None,
    *,
    variance: Literal["small", "large"] = "small",
    correct: Correct | None = None,
) -> Tensor:
    """Sample with the reverse Markov chain of DDPM, also over a part of its steps.

    Parameters
    ----------
    denoise : callable
        ``(x, step)`` to the expected signal.
    x : Tensor
        ``(samples, ...)``: standard normal at the first of ``steps``.
    schedule : Schedule
    steps : sequence of float
        Falling; see `xnowcast.diffusion.evenly_spaced_steps`.
    noise : Noise
        One source per sample.
    variance : {"small", "large"}
        That of the posterior, or beta itself: the two ends of section 3.2.
    correct : callable, optional
        ``(mean, x0, step)`` to the mean that is used instead.

    Returns
    -------
    Tensor
        Shape of ``x``.

    Raises
    ------
    ValueError
        If the steps do not fall, there is no noise, or not one source per sample.

    References
    ----------
    Ho, Jain and Abbeel (2020), arXiv:2006.11239, algorithm 2
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance is {variance!r}: choose 'small' or 'large'")
    source = _source(noise, x, "the ancestral sampler")
    for step, following in falling(steps):
        x0 = denoise(x, step)
        mean, spread = posterior(x, x0, schedule, step, following, variance=variance)
        if correct is not None:
            mean = correct(mean, x0, step)
        x = mean + spread * source.normal(*x.shape[1:]).to(x) if spread > 0 else mean
    return x


def posterior(
    x: Tensor,
    x0: Tensor,
    schedule: Schedule,
    step: float,
    following: float,
    *,
    variance: Literal["small", "large"] = "small",
) -> tuple[Tensor, float]:
    """Mean and standard deviation of ``q(x_following | x_step, x_0)``.

    Parameters
    ----------
    x, x0 : Tensor
        What is there at ``step``, and the signal.
    schedule : Schedule
    step, following : float
        ``following`` lies before ``step``, by one or more.
    variance : {"small", "large"}
        See `ancestral`.

    Returns
    -------
    mean : Tensor
    spread : float
        0 where ``following`` is `CLEAN`.

    References
    ----------
    Ho, Jain and Abbeel (2020), arXiv:2006.11239, equations 6 and 7

    Examples
    --------
    Feeding what is expected of ``x`` gives what is expected at the following step:

    >>> import torch
    >>> schedule = Schedule(torch.tensor([0.64, 0.36]))
    >>> x0 = torch.tensor([1.0])
    >>> mean, spread = posterior(0.6 * x0, x0, schedule, 1, 0)
    >>> round(float(mean), 6), round(spread**2, 6)
    (0.8, 0.246094)
    """
    (signal, noise), (next_signal, next_noise) = schedule.levels(step), schedule.levels(following)
    alpha = (signal / next_signal) ** 2
    beta = 1 - alpha
    mean = (next_signal * beta / noise**2) * x0 + (math.sqrt(alpha) * (next_noise / noise) ** 2) * x
    if next_noise == 0:
        return mean, 0.0
    return mean, math.sqrt(beta) * (next_noise / noise if variance == "small" else 1.0)


def ddim(
    denoise: Denoise,
    x: Tensor,
    schedule: NoisePath,
    steps: Sequence[float],
    noise: Noise | None = None,
    *,
    eta: float = 0.0,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """Sample with DDIM; deterministic, and of first order, where ``eta`` is 0.

    Parameters
    ----------
    denoise, x, schedule, steps
        See `ancestral`.
    noise : Noise, optional
        One source per sample; drawn from only where ``eta`` is above 0.
    eta : float
        Share of the spread of the ancestral sampler, which it is at 1.
    clip : (float, float), optional
        Bounds of the signal. The noise stays what goes with the signal as it was expected, which it does not where
        ``denoise`` itself clips.

    Returns
    -------
    Tensor
        Shape of ``x``.

    Raises
    ------
    ValueError
        If ``eta`` lies outside 0 to 1, the steps do not fall, or there is no noise where some is needed.

    References
    ----------
    Song, Meng and Ermon (2021), arXiv:2010.02502, equations 12 and 16
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}: it must be between 0 and 1")
    source = _source(noise, x, "DDIM with eta above 0") if eta > 0 else None
    for step, following in falling(steps):
        (signal, noise_level), (next_signal, next_noise) = schedule.levels(step), schedule.levels(following)
        x0 = denoise(x, step)
        eps = (x - signal * x0) / noise_level
        x0 = x0 if clip is None else x0.clamp(*clip)
        spread = eta * next_noise / noise_level * math.sqrt(1 - (signal / next_signal) ** 2)
        x = next_signal * x0 + math.sqrt(next_noise**2 - spread**2) * eps
        if source is not None and spread > 0:
            x = x + spread * source.normal(*x.shape[1:]).to(x)
    return x


def dpm_solver(
    denoise: Denoise, x: Tensor, schedule: Schedule, steps: Sequence[float], noise: Noise | None = None
) -> Tensor:
    """Sample with DPM-Solver++(2M): second order at one call of ``denoise`` per step; deterministic.

    Parameters
    ----------
    denoise, x, schedule, steps
        See `ancestral`.
    noise : Noise, optional
        Not drawn from.

    Returns
    -------
    Tensor
        Shape of ``x``.

    Raises
    ------
    ValueError
        If the steps do not fall.

    References
    ----------
    Lu et al. (2022), arXiv:2211.01095, algorithm 2
    """
    before: Tensor | None = None
    last_h = math.nan
    for step, following in falling(steps):
        (signal, noise_level), (next_signal, next_noise) = schedule.levels(step), schedule.levels(following)
        x0 = denoise(x, step)
        if next_noise == 0:  # half the log signal-to-noise ratio has no end there, and the signal is the answer
            return x0
        h = math.log(next_signal / next_noise) - math.log(signal / noise_level)
        slope = x0 if before is None else x0 + (x0 - before) * (h / (2 * last_h))
        x = (next_noise / noise_level) * x - next_signal * math.expm1(-h) * slope
        before, last_h = x0, h
    return x


def heun(denoise: Denoise, x: Tensor, schedule: Schedule, steps: Sequence[float], noise: Noise | None = None) -> Tensor:
    """Sample with Heun's method: second order at two calls of ``denoise`` per step but the last; deterministic.

    Parameters
    ----------
    denoise, x, schedule, steps
        See `ancestral`.
    noise : Noise, optional
        Not drawn from.

    Returns
    -------
    Tensor
        Shape of ``x``.

    Raises
    ------
    ValueError
        If the steps do not fall.

    References
    ----------
    Karras et al. (2022), arXiv:2206.00364, algorithm 1, for the scaled variable ``x / sqrt(abar)``
    """
    for step, following in falling(steps):
        (signal, noise_level), (next_signal, next_noise) = schedule.levels(step), schedule.levels(following)
        x0 = denoise(x, step)
        eps = (x - signal * x0) / noise_level
        x = next_signal * x0 + next_noise * eps
        if next_noise == 0:
            return x
        next_eps = (x - next_signal * denoise(x, following)) / next_noise
        x = x + 0.5 * (next_noise - next_signal * noise_level / signal) * (next_eps - eps)
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddpm": ancestral, "ddim": ddim, "dpm++2m": dpm_solver, "heun": heun}
"""By the names that models take as ``sampler=``; all are called ``(denoise, x, schedule, steps, noise)``."""


def falling(steps: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Each step with the one that follows; ValueError if they do not fall."""
    if len(steps) < 2 or any(after >= before for before, after in pairwise(steps)):
        raise ValueError(f"the steps {list(steps)} do not fall: give at least two, from the most noise to the least")
    return pairwise(steps)


def _source(noise: Noise | None, x: Tensor, sampler: str) -> Noise:
    if noise is None:
        raise ValueError(f"{sampler} needs noise: give one source per sample")
    if len(noise) != len(x):
        raise ValueError(f"there are {len(noise)} noise sources for {len(x)} samples; give one per sample")
    return noise
