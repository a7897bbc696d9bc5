"""Invertible scalings between rain rate in mm h-1 and what a network sees.

Each is a frozen dataclass: calling it goes towards the network, ``inverse`` comes back. They use nothing but
arithmetic and the array's own methods, so they work on torch tensors.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from xnowcast.fields.pixels import PIXEL_SCALES
from xnowcast.fields.units import (
    MARSHALL_PALMER,
    SEVIR_VIL_OF_18,
    ZR_RELATIONS,
    sevir_pixel_branches,
    sevir_vil,
)
from xnowcast.models.declaration import Options, option


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
        return torch.where(rain < self.threshold, self.dry, decibel)

    def inverse(self, values: Tensor) -> Tensor:
        # A hair of slack lets rain at exactly the threshold survive the round trip in float32.
        return torch.where(values < self._lowest_rain - 1e-4, 0.0, 10.0 ** (values / 10.0))


@dataclass(frozen=True)
class Reflectivity:
    """Radar reflectivity scaled to [0, 1], as radar pictures are stored.

    Parameters
    ----------
    a, b : float
        Of Z = a R^b, Z in mm6 m-3 and R in mm h-1.
    low, high : float
        Reflectivity in dBZ that becomes 0 and 1; beyond them it is clipped.
    threshold : float
        Smallest rain rate in mm h-1 that the inverse returns; anything less is dry.

    Notes
    -----
    The default of Marshall and Palmer maps 0.1 to 205 mm h-1 onto 0.12 to 1.

    Examples
    --------
    >>> import torch
    >>> scale = Reflectivity()
    >>> scale(torch.tensor([0.0, 1.0, 1000.0])).tolist()
    [0.0, 0.38..., 1.0]
    >>> scale.inverse(scale(torch.tensor([0.0, 0.1, 1.0, 10.0]))).tolist()
    [0.0, 0.1..., 1.0..., 10.0...]
    """

    quantity: ClassVar[Literal["rain_rate", "vil"]] = "rain_rate"

    a: float = MARSHALL_PALMER[0]
    b: float = MARSHALL_PALMER[1]
    low: float = 0.0
    high: float = 60.0
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if self.a <= 0 or self.b <= 0:
            raise ValueError(f"Z = {self.a} R^{self.b} is no Z-R relation: a and b must be above 0")
        if self.low >= self.high:
            raise ValueError(f"the scale runs from {self.low} to {self.high} dBZ: low must be less than high")
        if self.threshold <= 0:
            raise ValueError(f"the threshold is {self.threshold} mm h-1; it must be above 0")

    def __call__(self, rain: Tensor) -> Tensor:
        # Not by the functions of units, whose order of operations rounds otherwise: samplers carry that on.
        dbz = 10.0 * (math.log10(self.a) + self.b * torch.log10(rain.clamp_min(1e-6)))
        return ((dbz - self.low) / (self.high - self.low)).clamp(0.0, 1.0)

    def inverse(self, values: Tensor) -> Tensor:
        dbz = self.low + (self.high - self.low) * values.clamp(0.0, 1.0)
        rain = 10.0 ** ((dbz / 10.0 - math.log10(self.a)) / self.b)
        # A hair of slack lets rain at exactly the threshold survive the round trip in float32.
        return torch.where(rain < self.threshold * (1 - 1e-4), 0.0, rain)


@dataclass(frozen=True)
class SevirPixel:
    """Vertically integrated liquid in kg m-2 as SEVIR stores it, its pixels 0 to 255 scaled to [0, 1].

    Notes
    -----
    A pixel p is 0 up to 5, (p - 2) / 90.66 up to 18 and exp((p - 83.9) / 38.9) above (Veillette et al. 2020). Liquid
    between the two branches, from 0.1765 to 0.1838 kg m-2, becomes pixel 18.

    Examples
    --------
    >>> import torch
    >>> scale = SevirPixel()
    >>> (255 * scale(torch.tensor([0.0, 0.1, 0.18, 32.2335]))).tolist()
    [0.0, 11.06..., 18.0, 218.99...]
    >>> scale.inverse(scale(torch.tensor([0.0, 0.1, 12.0]))).tolist()
    [0.0, 0.1..., 11.99...]
    """

    quantity: ClassVar[Literal["rain_rate", "vil"]] = "vil"

    def __call__(self, liquid: Tensor) -> Tensor:
        low, high = sevir_pixel_branches(liquid, lambda some: torch.log(some.clamp_min(1e-6)))
        pixel = torch.where(liquid <= SEVIR_VIL_OF_18, low.clamp(5.0, 18.0), high.clamp(18.0, 255.0))
        return torch.where(liquid <= 0, 0.0, pixel) / 255.0

    def inverse(self, values: Tensor) -> Tensor:
        pixel = 255.0 * values.clamp(0.0, 1.0)
        liquid = sevir_vil(pixel, torch)
        # A hair of slack lets liquid at exactly pixel 18 stay below the gap in float32.
        liquid = torch.where((pixel > 18.0) & (pixel < 18.0 + 1e-4), SEVIR_VIL_OF_18, liquid)
        return torch.where(pixel <= 5.0, 0.0, liquid)


def _of_pixels(data_set: str, relation: str) -> Reflectivity:
    """The scaling of a data set's 8-bit pixels."""
    factor, offset = PIXEL_SCALES[data_set]
    return Reflectivity(*ZR_RELATIONS[relation], low=offset, high=offset + factor)


SCALINGS: dict[str, Reflectivity | SevirPixel] = {
    "reflectivity": Reflectivity(),
    "hko-7": _of_pixels("hko7", "hko-7"),
    "dwd-12": _of_pixels("dwd12", "dwd"),
    "meteonet": _of_pixels("meteonet", "marshall-palmer"),
    "sevir": SevirPixel(),
}
"""Scalings to [0, 1] by the names that models know them by, each with the ``quantity`` that it takes.

Those of data sets are their pixels over 255 (`xnowcast.fields.pixels.PIXEL_SCALES`), as in the code of MS-RNN and of
STLDM: -10 to 60 dBZ, with the Z-R relations of Ma et al. (2024), equation 10, and 0 to 70 dBZ for MeteoNet. Equation 9
of Ma et al. prints 0 to 60 dBZ. That of SEVIR takes vertically integrated liquid.
"""


@dataclass(frozen=True, kw_only=True)
class ScaledOptions(Options):
    """Of a network that reads and says numbers of 0 to 1."""

    scaling: str = option(
        "reflectivity",
        "What becomes 0 to 1: 0 to 60 dBZ with the Z-R relation of Marshall and Palmer, or the pixels of a data set: "
        "-10 to 60 dBZ with its own relation, 0 to 70 dBZ for MeteoNet, vertically integrated liquid for SEVIR.",
        choices=SCALINGS,
    )
    bounds: tuple[float, float] | None = option(
        None, "Reflectivity in dBZ that becomes 0 and 1, instead of those; equation 9 of DB-RNN has 0 and 60."
    )

    def check(self) -> None:
        """Refuse bounds of what has none, and those that are no range."""
        if self.bounds is not None and not isinstance(SCALINGS[self.scaling], Reflectivity):
            raise ValueError(f"bounds are of reflectivity, and scaling is {self.scaling!r}: leave them out")
        if self.bounds is not None and len(self.bounds) != 2:
            raise ValueError(f"bounds has {len(self.bounds)} numbers: give the dBZ of 0 and of 1")
        _ = self.transform  # which refuses bounds that are no range

    @property
    def transform(self) -> Reflectivity | SevirPixel:
        """The scaling itself."""
        known = SCALINGS[self.scaling]
        if self.bounds is None or isinstance(known, SevirPixel):
            return known
        return replace(known, low=self.bounds[0], high=self.bounds[1])


@dataclass(frozen=True)
class Logarithm:
    """Logarithm of the rain rate, scaled to [-1, 1]; dry is -1.

    ``eps``: rain rate in mm h-1 that is added before the logarithm is taken. ``highest``: rain rate in mm h-1 that
    becomes 1. More than that becomes more than 1.

    ``2 log(1 + R / eps) / log(1 + highest / eps) - 1``, which is the logarithm of ``R + eps`` scaled by its values at 0
    and at ``highest``, as in Srivastava et al. (2024). They add 1e-14 kg m-2 s-1 (3.6e-11 mm h-1), and with that most
    of the range is spent on drizzle that nobody measures: 0.1 mm h-1 lies at 0.47. The default adds 1e-7 kg m-2 s-1,
    and 0.1 mm h-1 lies at -0.16. Because the inverse is an exponential, errors of the network grow with ``highest /
    eps`` too: one of 0.01 is 7 % of the rain rate here, and 16 % with the paper's eps.

    >>> import torch
    >>> scale = Logarithm(eps=1.0, highest=255.0)
    >>> scale(torch.tensor([0.0, 15.0, 255.0])).tolist()
    [-1.0, 0.0, 1.0]
    >>> scale.inverse(scale(torch.tensor([0.0, 3.0]))).tolist()
    [0.0, 3.0...]
    """

    eps: float = 3.6e-4
    highest: float = 256.0

    def __post_init__(self) -> None:
        if not 0 < self.eps < self.highest < math.inf:
            raise ValueError(f"eps is {self.eps} and highest {self.highest} mm h-1: 0 < eps < highest is needed")

    @property
    def _range(self) -> float:
        return math.log1p(self.highest / self.eps)

    def stretch_to(self, highest: float) -> float:
        """What ``value + 1`` is multiplied by on the way to the scaling with another ``highest``.

        >>> round(Logarithm(eps=1.0, highest=255.0).stretch_to(15.0), 6)
        2.0
        """
        return self._range / replace(self, highest=highest)._range

    def __call__(self, rain: Tensor) -> Tensor:
        return torch.log1p(rain / self.eps) * (2.0 / self._range) - 1.0

    def inverse(self, values: Tensor) -> Tensor:
        return self.eps * torch.expm1((values + 1.0) * (0.5 * self._range)).clamp_min(0.0)
