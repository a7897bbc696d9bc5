"""What a network predicts, the noise, a velocity or the signal, and how to turn one into another.

With ``x = signal x_0 + noise eps``, ``signal = sqrt(abar)`` and ``noise = sqrt(1 - abar)``; all but v take any levels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from xnowcast.diffusion.samplers import Denoise
from xnowcast.diffusion.schedules import NoisePath

Level = Tensor | float
Name = Literal["eps", "v", "x0", "flow"]


@dataclass(frozen=True)
class Parameterization:
    """One of the things that a network may predict.

    Attributes
    ----------
    name : {"eps", "v", "x0", "flow"}
    target : callable
        ``(x0, eps, signal, noise)`` to what the network should say.
    to_x0, to_eps : callable
        ``(output, x, signal, noise)`` to the signal and to the noise that the output stands for.
    squared_error : callable
        From the signal-to-noise ratio to how large the squared error of this is for a squared error of 1 in x0.
    """

    name: Name
    target: Callable[[Tensor, Tensor, Level, Level], Tensor]
    to_x0: Callable[[Tensor, Tensor, Level, Level], Tensor]
    to_eps: Callable[[Tensor, Tensor, Level, Level], Tensor]
    squared_error: Callable[[Tensor], Tensor]

    def convert(self, output: Tensor, x: Tensor, signal: Level, noise: Level, *, to: Name) -> Tensor:
        """What a network that predicts ``to`` would have said.

        Parameters
        ----------
        output : Tensor
            What the network said.
        x : Tensor
            What it saw.
        signal, noise : Tensor or float
            Levels, above 0.
        to : {"eps", "v", "x0", "flow"}

        Returns
        -------
        Tensor

        Examples
        --------
        >>> import torch
        >>> x0, eps = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
        >>> v = PARAMETERIZATIONS["v"].target(x0, eps, 0.6, 0.8)
        >>> PARAMETERIZATIONS["v"].convert(v, 0.6 * x0 + 0.8 * eps, 0.6, 0.8, to="eps").tolist()
        [0.5..., -1.0...]
        """
        x0, eps = (restore(output, x, signal, noise) for restore in (self.to_x0, self.to_eps))
        return PARAMETERIZATIONS[to].target(x0, eps, signal, noise)


PARAMETERIZATIONS: dict[str, Parameterization] = {
    # Ho et al. (2020), equation 14
    "eps": Parameterization(
        "eps",
        target=lambda x0, eps, signal, noise: eps,
        to_x0=lambda output, x, signal, noise: (x - noise * output) / signal,
        to_eps=lambda output, x, signal, noise: output,
        squared_error=lambda snr: snr,
    ),
    # Salimans and Ho (2022), appendix D
    "v": Parameterization(
        "v",
        target=lambda x0, eps, signal, noise: signal * eps - noise * x0,
        to_x0=lambda output, x, signal, noise: signal * x - noise * output,
        to_eps=lambda output, x, signal, noise: noise * x + signal * output,
        squared_error=lambda snr: snr + 1,
    ),
    "x0": Parameterization(
        "x0",
        target=lambda x0, eps, signal, noise: x0,
        to_x0=lambda output, x, signal, noise: output,
        to_eps=lambda output, x, signal, noise: (x - signal * output) / noise,
        squared_error=lambda snr: snr * 0 + 1,
    ),
    # Lipman et al. (2023), equation 23
    "flow": Parameterization(
        "flow",
        target=lambda x0, eps, signal, noise: x0 - eps,
        to_x0=lambda output, x, signal, noise: (x + noise * output) / (signal + noise),
        to_eps=lambda output, x, signal, noise: (x - signal * output) / (signal + noise),
        squared_error=lambda snr: (snr.sqrt() + 1).square(),
    ),
}


def loss_weight(snr: Tensor, parameterization: Name, *, equals: Name = "eps", min_snr: float | None = None) -> Tensor:
    """Weight of a step's squared error that makes the loss that of another parameterization.

    Parameters
    ----------
    snr : Tensor
        Signal-to-noise ratios of the steps.
    parameterization : {"eps", "v", "x0", "flow"}
        What the network predicts.
    equals : {"eps", "v", "x0", "flow"}
        The weighted loss is the plain mean squared error of this. ``"eps"`` is the simple loss of Ho et al.
    min_snr : float, optional
        gamma of Hang et al. (2023), arXiv:2303.09556: a squared error of x0 never counts more than this often.

    Returns
    -------
    Tensor
        Shape of ``snr``. For ``parameterization="v"`` and ``equals="eps"`` it is ``abar``.

    Raises
    ------
    ValueError
        If a parameterization is unknown, or ``min_snr`` is not above 0.

    Examples
    --------
    >>> import torch
    >>> abar = torch.tensor([0.8, 0.5, 0.2])
    >>> loss_weight(abar / (1 - abar), "v").tolist()
    [0.8..., 0.5..., 0.2...]
    """
    for name in (parameterization, equals):
        if name not in PARAMETERIZATIONS:
            raise ValueError(f"there is no parameterization {name!r}; choose {', '.join(PARAMETERIZATIONS)}")
    if min_snr is not None and min_snr <= 0:
        raise ValueError(f"min_snr is {min_snr}; it must be above 0")
    wanted = PARAMETERIZATIONS[equals].squared_error(snr)
    return (wanted if min_snr is None else wanted.clamp(max=min_snr)) / PARAMETERIZATIONS[
        parameterization
    ].squared_error(snr)


def as_denoiser(
    network: Callable[[Tensor, float], Tensor],
    schedule: NoisePath,
    parameterization: Name,
    *,
    clip: tuple[float, float] | tuple[Tensor, Tensor] | None = None,
) -> Denoise:
    """A network as samplers want it: ``(x, step)`` to the expected signal.

    Parameters
    ----------
    network : callable
        ``(x, step)`` to what it predicts, shape of ``x``.
    schedule : Schedule or StraightPath
    parameterization : {"eps", "v", "x0", "flow"}
    clip : (float, float) or (Tensor, Tensor), optional
        Bounds that the signal is clipped to, the same everywhere or cell by cell.

    Returns
    -------
    callable
        ``denoise(x, step) -> x0``, in the dtype of ``x``.
    """
    to_x0 = PARAMETERIZATIONS[parameterization].to_x0

    def denoise(x: Tensor, step: float) -> Tensor:
        x0 = to_x0(network(x, step).to(x.dtype), x, *schedule.levels(step))
        return x0 if clip is None else x0.clamp(*clip)  # type: ignore[arg-type]

    return denoise
