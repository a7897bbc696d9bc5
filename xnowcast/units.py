"""Between the units that people store precipitation in and the rain rate in mm h-1 that everything is computed in.

Units are read, never guessed: no units or unknown units is an error that says what to set. Water has
1000 kg m-3, so 1 kg m-2 is 1 mm.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

MARSHALL_PALMER = (200.0, 1.6)
NO_ECHO_DBZ = -32.0
"""Reflectivity that stands for "measured, and no echo", as ODIM and most composites store it."""

# Differences of accumulations leave rain a hair below zero; anything further below is a value nobody declared missing.
_TOLERATED_NEGATIVE = 0.01

# No radar hears less; what lies below is a fill value nobody declared, such as -999. Minus infinity is log10(0).
_LOWEST_DBZ = -100.0


class Conversion(Protocol):
    """Elementwise, on numpy arrays; NaN stays NaN."""

    def __call__(self, values: np.ndarray, /) -> np.ndarray:
        """The user's units to the units of computing, float32."""
        ...

    def inverse(self, values: np.ndarray, /) -> np.ndarray:
        """The units of computing back to the user's, float32."""
        ...


@dataclass(frozen=True)
class Linear:
    """A rain rate, or an amount per step: ``factor`` times the stored value is mm h-1.

    Examples
    --------
    >>> Linear(2.0)(np.array([0.5, np.nan]))
    array([ 1., nan], dtype=float32)
    """

    factor: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        rain = np.asarray(values, dtype=np.float32) * np.float32(self.factor)
        _refuse_impossible(rain, self.factor)
        return np.maximum(rain, 0)  # NaN passes through

    def inverse(self, values: np.ndarray) -> np.ndarray:
        return (values / np.float32(self.factor)).astype(np.float32)


@dataclass(frozen=True)
class ZR:
    """Reflectivity in dBZ, through Z = a R**b.

    Values down at ``no_echo`` (to a quarter of a dB) are dry, and dry is written back as ``no_echo``.

    Examples
    --------
    >>> ZR()(np.array([-32.0, 23.0, 39.0, np.nan])).round(2)
    array([0.  , 1.  , 9.99,  nan], dtype=float32)
    >>> ZR().inverse(np.array([0.0, 1.0], dtype="float32")).round(2)
    array([-32.  ,  23.01], dtype=float32)
    """

    a: float = MARSHALL_PALMER[0]
    b: float = MARSHALL_PALMER[1]
    no_echo: float = NO_ECHO_DBZ

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0):
            raise ValueError(f"Z = {self.a:g} R^{self.b:g} is no Z-R relation: both numbers must be above 0")

    def __call__(self, values: np.ndarray) -> np.ndarray:
        dbz = np.asarray(values, dtype=np.float32)
        if np.any(dbz == np.inf):
            raise ValueError("the reflectivity is infinite somewhere; cells that were not measured must be NaN")
        if np.any((dbz < _LOWEST_DBZ) & np.isfinite(dbz)):
            lowest = dbz[np.isfinite(dbz)].min()
            raise ValueError(
                f"the reflectivity goes down to {lowest:g} dBZ, which no radar measures; cells that were not measured "
                f"must be NaN: write ds.where(ds > {lowest:g}), or set _FillValue to {lowest:g} and open the file again"
            )
        rain = np.exp(dbz * np.float32(np.log(10) / (10 * self.b)) - np.float32(np.log(self.a) / self.b))
        return np.where(dbz <= self.no_echo + 0.25, np.float32(0), rain)

    def inverse(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            dbz = 10 * np.log10(np.float32(self.a)) + np.float32(10 * self.b) * np.log10(values)
        return np.where(dbz <= self.no_echo + 0.25, np.float32(self.no_echo), dbz).astype(np.float32)


def _refuse_impossible(rain: np.ndarray, factor: float) -> None:
    if rain.size and np.any(rain < -_TOLERATED_NEGATIVE):
        lowest = np.nanmin(rain) / factor
        raise ValueError(
            f"the field has negative rain, down to {lowest:g} in its own units; cells that were not measured must "
            f"be NaN: write ds.where(ds >= 0), or set _FillValue to {lowest:g} and open the file again"
        )
    if np.any(rain == np.inf):
        raise ValueError("the field is infinite somewhere; cells that were not measured must be NaN")


def is_reflectivity(units: object) -> bool:
    """Whether a ``units`` attribute means logarithmic reflectivity.

    Parameters
    ----------
    units : object
        The attribute as found.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_reflectivity("dBZ"), is_reflectivity("mm h-1")
    (True, False)
    """
    return str(units).strip().lower() == "dbz"


def is_amount(units: object) -> bool:
    """Whether a ``units`` attribute means an amount of water (per step), not a rate.

    Parameters
    ----------
    units : object
        The attribute as found.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_amount("mm"), is_amount("kg m-2"), is_amount("mm h-1"), is_amount("dBZ")
    (True, True, False, False)
    """
    quantity = _parse(str(units)) if units else None
    return quantity is not None and (quantity.check("[length]") or quantity.check("[mass]/[length]**2"))


def rain_rate_conversion(units: object, *, name: str, step: np.timedelta64 | None) -> Linear:
    """How stored values become mm h-1, for every unit but dBZ.

    Parameters
    ----------
    units : object
        The ``units`` attribute: a rate (``mm h-1``, ``kg m-2 s-1``, ``m s-1`` ...) or an amount per step
        (``mm``, ``kg m-2``, ``m``).
    name : str
        Name of the variable, for messages.
    step : numpy.timedelta64 or None
        Length of one step, which an amount needs.

    Returns
    -------
    Linear

    Raises
    ------
    ValueError
        If there are no units, they are unknown or they are not a precipitation's; or an amount has no step.

    Examples
    --------
    >>> rain_rate_conversion("kg m-2 s-1", name="rr", step=None).factor
    3600.0
    >>> rain_rate_conversion("mm", name="rr", step=np.timedelta64(5, "m")).factor
    12.0
    """
    fix = f"set for example ds[{name!r}].attrs['units'] = 'mm h-1'"
    known = "known are rates (mm h-1, kg m-2 h-1, kg m-2 s-1, m s-1), amounts per step (mm, kg m-2) and dBZ"
    if units is None or not str(units).strip():
        raise ValueError(f"variable {name!r} has no units; {known}: {fix}")
    quantity = _parse(str(units))
    if quantity is None:
        raise ValueError(f"variable {name!r} has units {str(units)!r}, which are unknown; {known}: {fix}")
    if "[mass]" in quantity.dimensionality:
        quantity = quantity / _registry().Quantity(1000.0, "kg m-3")
    if quantity.check("[length]/[time]"):
        return Linear(round(float(quantity.to("mm/h").magnitude), 12))
    if quantity.check("[length]"):
        if step is None:
            raise ValueError(
                f"variable {name!r} is an amount ({units}), and an amount becomes a rate only with a time step: "
                "give a time axis of two or more times"
            )
        hours = float(step / np.timedelta64(1, "h"))
        return Linear(round(float(quantity.to("mm").magnitude), 12) / hours)
    raise ValueError(f"variable {name!r} has units {str(units)!r}, which are no precipitation's; {known}: {fix}")


def length_in_km(units: object) -> float | None:
    """Kilometres in one unit of length, or None where the units are no length.

    Parameters
    ----------
    units : object
        The ``units`` attribute of a coordinate.

    Returns
    -------
    float or None

    Examples
    --------
    >>> length_in_km("m"), length_in_km("degrees_north")
    (0.001, None)
    """
    quantity = _parse(str(units)) if units else None
    if quantity is None or not quantity.check("[length]"):
        return None
    return float(quantity.to("km").magnitude)


def affine(units: object, wanted: str) -> tuple[float, float] | None:
    """Scale and offset that take values in one unit to another.

    Parameters
    ----------
    units : object
        The ``units`` attribute as found.
    wanted : str

    Returns
    -------
    (float, float) or None
        None where the units are missing or unknown, or of another kind; an angle is not of the kind of a bare number.

    Examples
    --------
    >>> affine("degC", "K"), affine("hPa", "Pa"), affine("degree", "1"), affine("K", "Pa")
    ((1.0, 273.15), (100.0, 0.0), None, None)
    """
    stored, target = _parse(str(units)) if units else None, _registry().Quantity(1.0, wanted)
    if stored is None or stored.to_base_units().units != target.to_base_units().units:
        return None
    zero, one = (float(_registry().Quantity(v, stored.units).to(target.units).magnitude) for v in (0.0, 1.0))
    return round(one - zero, 12), round(zero, 12)


def _registry():
    from cf_xarray.units import units as registry  # pint: a third of a second that only this needs

    return registry


def _parse(units: str):
    """A pint quantity of one such unit, or None."""
    try:
        return _registry().Quantity(1.0, _registry().parse_units(units))
    except Exception:  # pint raises errors of half a dozen kinds over unknown or malformed units
        return None
