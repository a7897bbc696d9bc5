"""Flow matching: noise and data joined by straight lines, and samplers that follow the velocity along them.

Everywhere ``x_t = t x_0 + (1 - t) eps``, and a network says the velocity ``x_0 - eps`` (the parameterization "flow").
Lipman et al. (2023), arXiv:2210.02747, equations 22 and 23 with sigma_min = 0, which is the rectified flow of Liu et
al. (2023), arXiv:2209.03003; for precipitation FlowCast, Ribeiro and Faganeli Pucer (2025), arXiv:2511.09731.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xnowcast.diffusion.samplers import Denoise, ddim, falling
from xnowcast.diffusion.schedules import CLEAN, NoisePath
from xnowcast.nn.noise import Noise


@dataclass(frozen=True)
class StraightPath(NoisePath):
    """The straight line from noise to data, with time counted as the steps of a `Schedule` are.

    Step ``length - 1`` is pure noise, t = 0, and `CLEAN` is the data, t = 1; all between them will do, whole or not. So
    a network embeds times on the scale that it knows, and samplers, guidance and tiles need not know of any.

    Parameters
    ----------
    length : int
        How many steps the line counts as; it does not limit how many a sampler takes.

    Examples
    --------
    >>> path = StraightPath(50)
    >>> path.levels(49), path.levels(24), path.levels(CLEAN)
    ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0))
    """

    length: int

    def levels(self, step: float) -> tuple[float, float]:
        """Shares of data and noise, ``t`` and ``1 - t``; ValueError if there is no such step."""
        if not CLEAN <= step <= self.length - 1:
            raise ValueError(f"there is no step {step}: this line has {CLEAN} to {self.length - 1}")
        noise = (step - CLEAN) / self.length
        return 1.0 - noise, noise

    def levels_like(self, steps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`levels` of many samples at once, shaped to multiply ``x``."""
        noise = ((steps - CLEAN) / self.length).reshape(steps.shape + (1,) * (x.ndim - steps.ndim)).to(x)
        return 1.0 - noise, noise

    def draw_steps(self, count: int, device: torch.device) -> Tensor:
        """``(count,)``: times evenly distributed along the line."""
        return CLEAN + self.length * torch.rand(count, device=device)


def evenly_spaced_times(length: int, count: int) -> list[float]:
    """Steps that a sampler visits: ``count`` of a line's, evenly spaced in time, from pure noise to `CLEAN`.

    >>> evenly_spaced_times(50, 4)
    [49.0, 36.5, 24.0, 11.5, -1.0]
    """
    if count < 1:
        raise ValueError(f"{count} steps: a sampler takes at least 1")
    return [length * (i / count) + CLEAN for i in range(count, -1, -1)]


def heun_in_time(
    denoise: Denoise, x: Tensor, path: NoisePath, steps: Sequence[float], noise: Noise | None = None
) -> Tensor:
    """Follow a flow with Heun's method: second order at two calls of ``denoise`` per step but the last; deterministic.

    Unlike `xnowcast.diffusion.heun` it begins at pure noise, where there is no signal to divide by.

    Parameters
    ----------
    denoise, x, steps
        See `xnowcast.diffusion.ancestral`.
    path : StraightPath
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
    """
    for step, following in falling(steps):
        (signal, noise_level), (next_signal, next_noise) = path.levels(step), path.levels(following)
        x0 = denoise(x, step)
        velocity = (x0 - x) / noise_level
        ahead = x + (next_signal - signal) * velocity
        if next_noise == 0:
            return ahead
        next_velocity = (denoise(ahead, following) - ahead) / next_noise
        x = x + (next_signal - signal) * 0.5 * (velocity + next_velocity)
    return x


FLOW_SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddim": ddim, "heun": heun_in_time}
"""By the names that models take as ``sampler=``; on a straight line DDIM is Euler's ``x + (t' - t) velocity``."""
