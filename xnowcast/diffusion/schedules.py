"""Noise schedules: how much of the signal is left after each step, and which of the steps a sampler visits.

Everywhere ``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps`` with ``t`` from 0, the least noise, to T - 1.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

CLEAN = -1
"""The step at which nothing but the signal is left; samplers end there."""

MAX_BETA = 0.999
"""No step removes all of the signal (Nichol and Dhariwal 2021, section 3.2)."""


class NoisePath(ABC):
    """How signal gives way to noise: ``x = signal x_0 + noise eps``, with levels that depend on the step alone."""

    @abstractmethod
    def levels(self, step: float) -> tuple[float, float]:
        """Levels of signal and noise at a step."""

    @abstractmethod
    def levels_like(self, steps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`levels` of many samples at once, shaped to multiply ``x``."""

    @abstractmethod
    def draw_steps(self, count: int, device: torch.device) -> Tensor:
        """``(count,)``: steps to train on, from torch's global generators."""

    def add_noise(self, x0: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """``signal x_0 + noise eps`` for samples ``x0``, standard normal ``noise`` and their steps."""
        signal_level, noise_level = self.levels_like(steps, x0)
        return signal_level * x0 + noise_level * noise


@dataclass(frozen=True, eq=False)
class Schedule(NoisePath):
    """Share of the signal's variance that is left after each step.

    Parameters
    ----------
    abar : Tensor
        ``(T,)``, between 0 and 1 and falling; kept in float64 on the CPU.

    Raises
    ------
    ValueError
        If ``abar`` has another shape, leaves (0, 1) or does not fall.

    Examples
    --------
    >>> schedule = Schedule(torch.tensor([0.9, 0.5, 0.1]))
    >>> schedule.length
    3
    >>> [round(level, 3) for level in schedule.levels(1)], schedule.levels(CLEAN)
    ([0.707, 0.707], (1.0, 0.0))
    """

    abar: Tensor

    def __post_init__(self) -> None:
        abar = torch.as_tensor(self.abar, dtype=torch.float64, device="cpu")
        if abar.ndim != 1 or abar.numel() == 0:
            raise ValueError(f"abar has the shape {tuple(abar.shape)}; a schedule is one row of at least one value")
        if not (abar.min() > 0 and abar.max() < 1 and (abar.diff() < 0).all()):
            raise ValueError("abar must fall from step to step and stay between 0 and 1, the ends left out")
        object.__setattr__(self, "abar", abar)

    @property
    def length(self) -> int:
        """T, the number of steps."""
        return self.abar.numel()

    @property
    def sigma(self) -> Tensor:
        """Noise over signal, ``(T,)``: the noise level of Karras et al. (2022)."""
        return torch.sqrt((1 - self.abar) / self.abar)

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio ``abar / (1 - abar)``, ``(T,)``."""
        return self.abar / (1 - self.abar)

    def levels(self, step: float) -> tuple[float, float]:
        """Standard deviations of signal and noise, ``sqrt(abar)`` and ``sqrt(1 - abar)``.

        Parameters
        ----------
        step : float
            `CLEAN`, or between 0 and T - 1. Between two steps the logarithm of ``sigma`` is interpolated.

        Returns
        -------
        signal, noise : float

        Raises
        ------
        ValueError
            If there is no such step.
        """
        if step == CLEAN:
            return 1.0, 0.0
        if not 0 <= step <= self.length - 1:
            raise ValueError(
                f"there is no step {step}: this schedule has 0 to {self.length - 1}, and {CLEAN} for clean"
            )
        before = math.floor(step)
        after = min(before + 1, self.length - 1)
        if step == before:
            abar = float(self.abar[before])
        else:
            log_snr = torch.lerp(self.snr[before].log(), self.snr[after].log(), step - before)
            abar = float(torch.sigmoid(log_snr))
        return math.sqrt(abar), math.sqrt(1 - abar)

    def levels_like(self, steps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`levels` of many samples at once, shaped to multiply ``x``.

        Parameters
        ----------
        steps : Tensor
            Whole numbers from 0 to T - 1; its dims are the first ones of ``x``, such as ``(b,)`` or ``(b, t)``.
        x : Tensor

        Returns
        -------
        signal, noise : Tensor
            With the dtype and device of ``x``, and a dim of 1 for each further dim of ``x``.
        """
        abar = self.abar.to(steps.device)[steps].reshape(steps.shape + (1,) * (x.ndim - steps.ndim))
        return abar.sqrt().to(x), (1 - abar).sqrt().to(x)

    def draw_steps(self, count: int, device: torch.device) -> Tensor:
        """``(count,)``: whole numbers from 0 to T - 1, each as likely."""
        return torch.randint(0, self.length, (count,), device=device)


def linear_schedule(length: int = 1000, *, first: float | None = None, last: float | None = None) -> Schedule:
    """Betas that rise linearly.

    Parameters
    ----------
    length : int
        Number of steps.
    first, last : float, optional
        First and last beta; by default 0.1 and 20 over ``length``, which at 1000 steps are the 1e-4 and 0.02 of
        the paper and at any other length end with about the same ``abar``.

    Returns
    -------
    Schedule

    References
    ----------
    Ho, Jain and Abbeel (2020), arXiv:2006.11239, section 4

    Examples
    --------
    >>> float(linear_schedule().abar[-1])
    4.0358...e-05
    """
    _check_length(length)
    first, last = (0.1 / length if first is None else first), (20.0 / length if last is None else last)
    if first <= 0 or last <= 0:
        raise ValueError(f"betas run from {first} to {last}: they must be above 0")
    return _from_betas(torch.linspace(first, last, length, dtype=torch.float64, device="cpu"))


def cosine_schedule(length: int = 1000, *, offset: float = 0.008) -> Schedule:
    """``abar`` along a squared cosine.

    Parameters
    ----------
    length : int
        Number of steps.
    offset : float
        s of the paper, which keeps the first steps from being too small.

    Returns
    -------
    Schedule

    References
    ----------
    Nichol and Dhariwal (2021), arXiv:2102.09672, equation 17

    Examples
    --------
    >>> round(float(cosine_schedule(1000).abar[499]), 3)
    0.494
    """
    _check_length(length)
    time = torch.linspace(0, 1, length + 1, dtype=torch.float64, device="cpu")
    return _from_signal(torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2)


def sigmoid_schedule(length: int = 1000, *, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """``abar`` along a logistic curve.

    Parameters
    ----------
    length : int
        Number of steps.
    start, end : float
        The piece of the logistic curve that is used.
    tau : float
        Its temperature.

    Returns
    -------
    Schedule

    References
    ----------
    Jabri, Fleet and Chen (2022), arXiv:2212.11972, appendix; with these defaults it is the schedule of STLDM (50
    steps) and STVD (1400 steps)

    Examples
    --------
    >>> [round(float(v), 5) for v in sigmoid_schedule(50).abar[[0, 10, 25, 48]]]
    [0.99367, 0.87884, 0.4669, 0.00633]
    """
    _check_length(length)
    if start >= end or tau <= 0:
        raise ValueError(f"the curve runs from {start} to {end} with tau {tau}: start < end and tau > 0 are needed")
    time = torch.linspace(0, 1, length + 1, dtype=torch.float64, device="cpu")
    curve = torch.sigmoid((start + (end - start) * time) / tau)
    return _from_signal((curve[-1] - curve) / (curve[-1] - curve[0]))


def karras_schedule(length: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """Noise levels ``sigma = sqrt((1 - abar) / abar)`` that are evenly spaced in ``sigma**(1 / rho)``.

    Parameters
    ----------
    length : int
        Number of steps, at least 2.
    sigma_min, sigma_max : float
        ``sigma`` of step 0 and of the last step.
    rho : float
        The larger, the more of the steps lie at little noise.

    Returns
    -------
    Schedule

    References
    ----------
    Karras et al. (2022), arXiv:2206.00364, equation 5

    Examples
    --------
    >>> karras_schedule(3, sigma_min=1.0, sigma_max=9.0, rho=2.0).sigma.round(decimals=6).tolist()
    [1.0, 4.0, 9.0]
    """
    _check_length(length, least=2)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma runs from {sigma_min} to {sigma_max}: 0 < sigma_min < sigma_max is needed")
    return Schedule(1 / (1 + _karras_sigmas(length, sigma_min, sigma_max, rho) ** 2))


def evenly_spaced_steps(length: int, count: int, *, to_first: bool = False) -> list[int]:
    """Steps that a sampler visits: ``count`` of a schedule's, evenly spaced, from the most noise to `CLEAN`.

    Parameters
    ----------
    length : int
        Number of steps of the schedule.
    count : int
        How many of them to visit.
    to_first : bool
        Visit step 0 before `CLEAN`, and begin that much earlier than the step with the most noise, as in the code of
        Song et al. (2021) and in many others'.

    Returns
    -------
    list of int
        ``count`` steps and `CLEAN`: the whole part of ``linspace(-1, length - 1, count + 1)``, backwards; or multiples
        of the whole part of ``length / count``.

    Raises
    ------
    ValueError
        If there are fewer steps than ``count``, or ``count`` is less than 1.

    Examples
    --------
    >>> evenly_spaced_steps(50, 5)
    [49, 39, 29, 19, 9, -1]
    >>> evenly_spaced_steps(50, 5, to_first=True)
    [40, 30, 20, 10, 0, -1]
    """
    _check_count(length, count)
    if to_first:
        return [*range((count - 1) * (length // count), -1, -(length // count)), CLEAN]
    return [i * length // count - 1 for i in range(count, -1, -1)]


def karras_spaced_steps(schedule: Schedule, count: int, *, rho: float = 7.0) -> list[float]:
    """Steps that a sampler visits: evenly spaced in ``sigma**(1 / rho)``, from the most noise to `CLEAN`.

    Parameters
    ----------
    schedule : Schedule
    count : int
        How many steps to visit, at least 2.
    rho : float
        See `karras_schedule`.

    Returns
    -------
    list of float
        Steps between those of the schedule, such as 12.7, and `CLEAN`; the network must know them.

    Examples
    --------
    >>> [round(step, 2) for step in karras_spaced_steps(linear_schedule(), 4)]
    [999.0, 775.13, 300.98, 0.0, -1]
    """
    _check_count(schedule.length, count, least=2)
    known = schedule.sigma
    wanted = _karras_sigmas(count, float(known[0]), float(known[-1]), rho).flip(0).clamp(known[0], known[-1])
    after = torch.searchsorted(known, wanted).clamp(1, schedule.length - 1)
    low, high = known[after - 1].log(), known[after].log()
    return [*(after - 1 + (wanted.log() - low) / (high - low)).tolist(), CLEAN]


def _karras_sigmas(length: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    ends = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.linspace(*ends, length, dtype=torch.float64, device="cpu") ** rho


def _from_signal(abar: Tensor) -> Schedule:
    """From ``abar`` at the T + 1 ends of the steps, the first of which becomes 1."""
    return _from_betas(1 - abar[1:] / abar[:-1])


def _from_betas(betas: Tensor) -> Schedule:
    return Schedule(torch.cumprod(1 - betas.clamp(max=MAX_BETA), dim=0))


def _check_length(length: int, least: int = 1) -> None:
    if length < least:
        raise ValueError(f"a schedule of {length} steps: it needs at least {least}")


def _check_count(length: int, count: int, least: int = 1) -> None:
    if not least <= count <= length:
        raise ValueError(f"{count} steps of a schedule of {length}: choose {least} to {length}")
