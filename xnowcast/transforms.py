"""Invertible scalings between rain rate in mm h-1 and what a network sees.

Each is a frozen dataclass: calling it goes towards the network, ``inverse`` comes back. They use nothing but
arithmetic and the array's own methods, so they work on torch tensors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Identity:
    """Rain rate as it is, in mm h-1.

    Examples
    --------
    >>> import torch
    >>> Identity()(torch.tensor([0.0, 2.5])).tolist()
    [0.0, 2.5]
    """

    def __call__(self, rain: Tensor) -> Tensor:
        return rain

    def inverse(self, values: Tensor) -> Tensor:
        return values


@dataclass(frozen=True)
class Decibel:
    """Ten times the decimal logarithm of the rain rate, with everything below ``threshold`` set to one dry value.

    Parameters
    ----------
    threshold : float
        Smallest rain rate in mm h-1 that counts as rain.
    dry : float
        Value in dB that stands for no rain; below ``10 log10(threshold)``, so that rain and dry stay apart.

    Notes
    -----
    The inverse of a value between ``dry`` and the threshold is 0: rain below the threshold is not kept.

    Examples
    --------
    >>> import torch
    >>> scale = Decibel(threshold=0.1, dry=-15.0)
    >>> scale(torch.tensor([0.0, 0.1, 1.0, 10.0])).tolist()
    [-15.0, -10.0, 0.0, 10.0]
    >>> scale.inverse(scale(torch.tensor([0.0, 0.1, 1.0]))).tolist()
    [0.0, 0.1..., 1.0]
    """

    threshold: float = 0.1
    dry: float = -15.0

    def __post_init__(self) -> None:
        if self.threshold <= 0:
            raise ValueError(f"the threshold is {self.threshold} mm h-1; a logarithm needs one above 0")
        if self.dry >= self._lowest_rain:
            raise ValueError(
                f"the dry value is {self.dry} dB, but rain at the threshold of {self.threshold} mm h-1 has "
                f"{self._lowest_rain:.2f} dB: choose a dry value below that"
            )

    @property
    def _lowest_rain(self) -> float:
        return 10.0 * float(torch.log10(torch.tensor(self.threshold, dtype=torch.float64)))

    def __call__(self, rain: Tensor) -> Tensor:
        decibel = 10.0 * torch.log10(rain.clamp_min(self.threshold))
        return torch.where(rain >= self.threshold, decibel, self.dry)

    def inverse(self, values: Tensor) -> Tensor:
        # A hair of slack lets rain at exactly the threshold survive the round trip in float32.
        return torch.where(values >= self._lowest_rain - 1e-4, 10.0 ** (values / 10.0), 0.0)
