"""Between the units that people store precipitation in and the rain rate in mm h-1 that everything is computed in.

Units are read, never guessed: no units or unknown units is an error that says what to set. Water has
1000 kg m-3, so 1 kg m-2 is 1 mm. Values that cannot be are refused or masked as they are converted.
"""

import math
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

Relation = str | tuple[float, float]

ZR_RELATIONS = {
    "marshall-palmer": (200.0, 1.6),  # Marshall and Palmer (1948) as in Marshall et al. (1955), Adv. Geophys. 2
    "wsr-88d": (300.0, 1.4),  # Fulton et al. (1998), doi:10.1175/1520-0434(1998)013<0377:TWRA>2.0.CO;2
    "dwd": (256.0, 1.42),  # Bartels et al. (2004), RADOLAN final report, the mean relation of Germany's service
    "fmi": (223.0, 1.53),  # Leinonen et al. (2012), doi:10.1175/JAMC-D-11-056.1, Finland
    "meteoswiss": (316.0, 1.5),  # Germann et al. (2006), doi:10.1256/qj.05.190
    "hko-7": (58.53, 1.56),  # Shi et al. (2017), arXiv:1706.03458, Hong Kong
}
"""a and b of Z = a R**b, Z in mm6 m-3 and R in mm h-1, by name."""

_OTHER_NAMES = {"dwd12": "dwd"}  # the data set of Ma et al. (2024)

MARSHALL_PALMER = ZR_RELATIONS["marshall-palmer"]
"""The relation where neither the caller nor the field names one."""

NO_ECHO_DBZ = -32.0
"""Reflectivity that stands for "measured, and no echo", as ODIM and most composites store it."""

# Packed in half or quarter decibels, the value of no echo comes back a little above itself.
_NO_ECHO_SLACK = 0.25

HIGHEST_RAIN_RATE = 2000.0
"""mm h-1; the most rain ever measured in a minute is 31.2 mm (Unionville, Maryland, 1956; WMO), 1872 mm h-1."""

HIGHEST_DBZ = 90.0
"""Giant hail reflects some 80 dBZ; the last codes of 8-bit files in half decibels lie above 90."""

HIGHEST_LIQUID = 200.0
"""Vertically integrated liquid in kg m-2; the scale of SEVIR ends at 79."""

# No radar hears less; what lies below is a fill value nobody declared, such as -999. Minus infinity is log10(0).
_LOWEST_DBZ = -100.0

# Differences of accumulations leave rain a hair below zero, in mm h-1.
_TOLERATED_NEGATIVE = 0.01

# Adjusting to gauges and interpolation leave more, but little of it and in few cells; the rest is an undeclared fill
# value, which must not become dry.
LOWEST_NEGATIVE = -5.0
NEGATIVE_SHARE = 0.01

_warned: set[str] = set()


class Conversion(Protocol):
    """Elementwise, on numpy arrays; NaN stays NaN."""

    def __call__(self, values: np.ndarray, /, frame: tuple[int, int] = (-2, -1)) -> np.ndarray:
        """The user's units to the units of computing, float32; ``frame`` are the horizontal axes."""
        ...

    def checked(self, values: np.ndarray, /, frame: tuple[int, int] = (-2, -1)) -> np.ndarray:
        """The user's units, floats, without what is declared missing and without negative rain.

        Raises ValueError where a value is impossible.
        """
        ...

    def inverse(self, values: np.ndarray, /) -> np.ndarray:
        """The units of computing back to the user's, float32."""
        ...


@dataclass(frozen=True)
class Declared:
    """What a variable's attributes say of its values, unpacked: its name, the valid range, and values that are missing.

    >>> Declared("rr", high=200.0).masked(np.array([0.0, 250.0], "f4"))
    array([ 0., nan], dtype=float32)
    """

    name: str = "precipitation"
    low: float = -np.inf
    high: float = np.inf
    missing: tuple[float, ...] = ()

    @property
    def masks(self) -> bool:
        """Whether any value is declared missing, besides NaN."""
        return bool(self.missing) or self.low > -np.inf or self.high < np.inf

    def masked(self, values: np.ndarray) -> np.ndarray:
        """The values with NaN for those that are declared missing; the same array where there are none."""
        if not self.masks:
            return values
        lowest, highest = _extremes(values)
        outside = lowest < self.low or highest > self.high  # False of NaN: nothing is there
        if not (outside or self.missing):
            return values
        valid = (values >= self.low) & (values <= self.high)
        for value in self.missing:
            valid &= values != value
        return np.where(valid, values, np.float32(np.nan))


@dataclass(frozen=True, kw_only=True)
class _Checked:
    declared: Declared = Declared()
    # One warning for all blocks of a field, in each process that reads some.
    warning: str = field(default_factory=lambda: uuid4().hex, compare=False, repr=False)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__qualname__, *(getattr(self, f.name) for f in fields(self) if f.compare))


@dataclass(frozen=True)
class Linear(_Checked):
    """A rain rate, or an amount per step: ``factor`` times the stored value is mm h-1.

    >>> Linear(2.0)(np.array([0.5, np.nan]))
    array([ 1., nan], dtype=float32)
    """

    factor: float
    highest: float = HIGHEST_RAIN_RATE

    def __call__(self, values: np.ndarray, /, frame: tuple[int, int] = (-2, -1)) -> np.ndarray:
        return self.checked(values, frame).astype(np.float32, copy=False) * np.float32(self.factor)

    def checked(self, values: np.ndarray, /, frame: tuple[int, int] = (-2, -1)) -> np.ndarray:
        stored = self.declared.masked(np.asarray(values))
        lowest, highest = _extremes(stored)
        if lowest * self.factor < -_TOLERATED_NEGATIVE:
            self._judge_negative(stored, lowest, frame)
        if highest * self.factor > self.highest:
            self._refuse_too_much(highest)
        stored = stored.astype(np.result_type(stored.dtype, np.float32), copy=False)
        return np.maximum(stored, 0) if lowest < 0 else stored  # NaN passes through

    def inverse(self, values: np.ndarray, /) -> np.ndarray:
        return (values / np.float32(self.factor)).astype(np.float32)

    def _refuse_too_much(self, highest: float) -> None:
        name, bound = self.declared.name, self.highest / self.factor
        if highest == np.inf:
            raise ValueError(
                f"the field {name!r} is infinite somewhere; cells that were not measured must be NaN: write "
                f"ds.where(ds < {bound:.4g})"
            )
        raise ValueError(
            f"the field {name!r} goes up to {highest:g} in its own units, and more than {bound:.4g} has never fallen; "
            f"cells that were not measured must be NaN: write ds.where(ds <= {bound:.4g}), or set _FillValue to "
            f"{highest:g} and open the file again"
        )

    def _judge_negative(self, stored: np.ndarray, lowest: float, frame: tuple[int, int]) -> None:
        """A little rain below zero is dry, with a warning that counts it; more is what nobody declared missing."""
        negative = stored < -_TOLERATED_NEGATIVE / self.factor
        measured = np.isfinite(stored)
        axes = frame if stored.ndim > 1 else None
        share = np.max(negative.sum(axis=axes) / np.maximum(measured.sum(axis=axes), 1))
        found = f"negative rain, down to {lowest:g} in its own units"
        if share > NEGATIVE_SHARE or lowest * self.factor < LOWEST_NEGATIVE:
            raise ValueError(
                f"the field has {found}, in {negative.sum()} of {measured.sum()} cells of {self.declared.name!r}; "
                "cells that were not measured must be NaN: write ds.where(ds >= 0), or set _FillValue to "
                f"{lowest:g} and open the file again (up to {NEGATIVE_SHARE:.0%} of a frame is set dry with a warning, "
                f"down to {LOWEST_NEGATIVE:g} mm h-1)"
            )
        if self.warning not in _warned:
            _warned.add(self.warning)
            _warn(
                f"variable {self.declared.name!r} has {found}, in {negative.sum()} of {measured.sum()} cells that were "
                "read together: such cells are set dry here and wherever they follow; if they were not measured, write "
                "ds.where(ds >= 0)"
            )


@dataclass(frozen=True)
class ZR(_Checked):
    """Reflectivity in dBZ, through Z = a R**b.

    Values down at ``no_echo`` (to a quarter of a dB) are dry, and dry is written back as ``no_echo``.

    >>> ZR()(np.array([-32.0, 23.0, 39.0, np.nan])).round(2)
    array([0.  , 1.  , 9.99,  nan], dtype=float32)
    >>> ZR().inverse(np.array([0.0, 1.0], dtype="float32")).round(2)
    array([-32.  ,  23.01], dtype=float32)
    """

    a: float = MARSHALL_PALMER[0]
    b: float = MARSHALL_PALMER[1]
    no_echo: float = NO_ECHO_DBZ

    def __post_init__(self) -> None:
        zr_relation((self.a, self.b))

    def __call__(self, values: np.ndarray, /, frame: tuple[int, int] = (-2, -1)) -> np.ndarray:
        dbz = self.checked(values, frame).astype(np.float32, copy=False)
        return dbz_to_rain_rate(dbz, self.a, self.b, self.no_echo)

    def checked(self, values: np.ndarray, /, frame: tuple[int, int] = (-2, -1)) -> np.ndarray:
        dbz = self.declared.masked(np.asarray(values))
        lowest, highest = _extremes(dbz)
        name = self.declared.name
        if highest == np.inf:
            raise ValueError(
                f"the reflectivity is infinite somewhere in {name!r}; cells that were not measured must be NaN: write "
                f"ds.where(ds <= {HIGHEST_DBZ:g})"
            )
        if highest > HIGHEST_DBZ:
            raise ValueError(
                f"the reflectivity {name!r} goes up to {highest:g} dBZ, and no weather reflects more than "
                f"{HIGHEST_DBZ:g} dBZ; cells that were not measured must be NaN: write ds.where(ds <= "
                f"{HIGHEST_DBZ:g}), or set _FillValue to {highest:g} and open the file again"
            )
        if lowest < _LOWEST_DBZ and np.any((dbz < _LOWEST_DBZ) & np.isfinite(dbz)):
            lowest = dbz[np.isfinite(dbz)].min()
            raise ValueError(
                f"the reflectivity {name!r} goes down to {lowest:g} dBZ, which no radar measures; cells that were not "
                f"measured must be NaN: write ds.where(ds > {lowest:g}), or set _FillValue to {lowest:g} and open the "
                "file again"
            )
        return dbz.astype(np.result_type(dbz.dtype, np.float32), copy=False)

    def inverse(self, values: np.ndarray, /) -> np.ndarray:
        return rain_rate_to_dbz(values, self.a, self.b, self.no_echo).astype(np.float32)


def rain_of_reflectivity(dbz: np.ndarray, a: float, b: float) -> np.ndarray:
    """R in mm h-1 of 10 log10 Z by Z = a R**b, where there is an echo; in the dtype of the input."""
    return np.exp(dbz * (math.log(10) / (10 * b)) - math.log(a) / b)


def dbz_to_rain_rate(dbz: np.ndarray, a: float, b: float, no_echo: float = NO_ECHO_DBZ) -> np.ndarray:
    """Rain rate of reflectivity in dBZ by Z = a R**b, in its dtype; dry up to a quarter of a dB above ``no_echo``.

    >>> dbz_to_rain_rate(np.array([-32.0, 40.0]), *MARSHALL_PALMER).round(2)
    array([ 0.  , 11.53])
    """
    return np.where(dbz <= no_echo + _NO_ECHO_SLACK, dbz.dtype.type(0), rain_of_reflectivity(dbz, a, b))


def rain_rate_to_dbz(rain: np.ndarray, a: float, b: float, no_echo: float = NO_ECHO_DBZ) -> np.ndarray:
    """Reflectivity of rain rate in mm h-1, the inverse of `dbz_to_rain_rate`; dry is written as no echo.

    >>> rain_rate_to_dbz(np.array([0.0, 11.53]), *MARSHALL_PALMER).round(1)
    array([-32.,  40.])
    """
    kind = rain.dtype.type
    with np.errstate(divide="ignore"):
        dbz = 10 * math.log10(a) + 10 * b * np.log10(np.maximum(rain, 0))
    return np.where(dbz <= no_echo + _NO_ECHO_SLACK, kind(no_echo), dbz)


EARTH_RADIUS_M = 6_371_000.0
"""Of the sphere that distances are measured on where a grid names none."""


def sevir_vil(pixel: Any, arrays: Any = np) -> Any:
    """Vertically integrated liquid of a SEVIR pixel from 5 to 254, kg m-2 (Veillette et al. 2020); numpy or torch."""
    return arrays.where(pixel <= 18, (pixel - 2.0) / 90.66, arrays.exp((pixel - 83.9) / 38.9))


def sevir_pixel_branches(vil: Any, log: Callable[[Any], Any] = np.log) -> tuple[Any, Any]:
    """The two inverses of `sevir_vil`: up to pixel 18, and above. they do not meet."""
    return 90.66 * vil + 2.0, 83.9 + 38.9 * log(vil)


SEVIR_VIL_OF_18 = 16.0 / 90.66


def zr_relation(zr: Any) -> tuple[float, float]:
    """a and b of Z = a R**b, by a name of `ZR_RELATIONS` in any spelling, or as they are; others are a ValueError.

    >>> zr_relation("HKO-7"), zr_relation((316, 1.5))
    ((58.53, 1.56), (316.0, 1.5))
    """
    names = {_bare(name): name for name in ZR_RELATIONS} | _OTHER_NAMES
    if isinstance(zr, str) and _bare(zr) in names:
        return ZR_RELATIONS[names[_bare(zr)]]
    numbers = list(zr) if isinstance(zr, tuple | list | np.ndarray) else []
    if len(numbers) != 2 or not all(
        isinstance(n, int | float | np.integer | np.floating) and not isinstance(n, bool) for n in numbers
    ):
        raise ValueError(
            f"{f'zr={zr!r} is unknown' if isinstance(zr, str) else f'zr is {zr!r}'}; it must be the two numbers of "
            f"Z = a R**b, such as (200, 1.6), or one of {', '.join(map(repr, ZR_RELATIONS))}"
        )
    a, b = map(float, numbers)
    if not (0 < a < np.inf and 0 < b < np.inf):
        raise ValueError(f"zr is {zr!r}, which is no Z-R relation: both numbers must be above 0, and finite")
    return a, b


def zr_attributes(relation: tuple[float, float]) -> dict[str, float]:
    """The attributes that tell a Z-R relation.

    >>> zr_attributes(ZR_RELATIONS["hko-7"])
    {'zr_a': 58.53, 'zr_b': 1.56}
    """
    return {"zr_a": relation[0], "zr_b": relation[1]}


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _extremes(values: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest value; NaN where there is none."""
    if not values.size:
        return np.nan, np.nan
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    return float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))


def _warn(message: str) -> None:
    """On a worker of Dask the warning goes to the client too."""
    distributed = sys.modules.get("distributed.worker")
    (warnings if distributed is None else distributed).warn(message, stacklevel=4)


def is_reflectivity(units: object) -> bool:
    """Whether a ``units`` attribute means logarithmic reflectivity.

    >>> is_reflectivity("dBZ"), is_reflectivity("mm h-1")
    (True, False)
    """
    return isinstance(units, str) and _plain(units).lower() == "dbz"


def is_amount(units: object) -> bool:
    """Whether a ``units`` attribute means an amount of water (per step), not a rate.

    >>> is_amount("mm"), is_amount("kg m-2"), is_amount("mm h-1"), is_amount("dBZ")
    (True, True, False, False)
    """
    quantity = _parse(str(units)) if units else None
    return quantity is not None and (quantity.check("[length]") or quantity.check("[mass]/[length]**2"))


def highest_mean_rate(hours: float) -> float:
    """The mean rain rate in mm h-1 over a time that nothing measured has reached, at most `HIGHEST_RAIN_RATE`.

    It is the envelope of the world's greatest rainfalls, 422 mm times the hours to the power of 0.475 (WMO 2009, Manual
    on estimation of probable maximum precipitation, WMO-No. 1045, after Paulhus 1965).

    >>> [round(highest_mean_rate(hours)) for hours in (1 / 60, 1 / 12, 1, 24)]
    [2000, 1556, 422, 80]
    """
    return min(HIGHEST_RAIN_RATE, 422.0 * hours ** (0.475 - 1))


def is_rate(units: object) -> bool:
    """Whether a ``units`` attribute means a rate of water.

    >>> is_rate("mm h-1"), is_rate("kg m-2 s-1"), is_rate("mm"), is_rate("dBZ")
    (True, True, False, False)
    """
    quantity = _parse(str(units)) if units else None
    return quantity is not None and (quantity.check("[length]/[time]") or quantity.check("[mass]/[length]**2/[time]"))


def rain_rate_conversion(
    units: object, *, name: str, step: np.timedelta64 | None, declared: Declared | None = None
) -> Linear:
    """How values in ``units``, a rate or an amount per ``step``, become mm h-1, for every unit but dBZ.

    ValueError if the units are missing, unknown or no precipitation's, or an amount has no step.

    >>> rain_rate_conversion("kg m-2 s-1", name="rr", step=None).factor
    3600.0
    >>> rain_rate_conversion("mm", name="rr", step=np.timedelta64(5, "m")).factor
    12.0
    """
    fix = f"set for example ds[{name!r}].attrs['units'] = 'mm h-1'"
    known = "known are rates (mm h-1, kg m-2 h-1, kg m-2 s-1, m s-1), amounts per step (mm, kg m-2) and dBZ"
    if units is None or not str(units).strip():
        raise ValueError(f"variable {name!r} has no units; {known}: {fix}")
    shortened = _shortened(str(units))
    quantity = _parse(str(units))
    if quantity is None:
        raise ValueError(f"variable {name!r} has units {shortened!r}, which are unknown; {known}: {fix}")
    limits = declared or Declared(name)
    if "[mass]" in quantity.dimensionality:
        quantity = quantity / _registry().Quantity(1000.0, "kg m-3")
    if quantity.check("[length]/[time]"):
        return Linear(round(float(quantity.to("mm/h").magnitude), 12), declared=limits)
    if quantity.check("[length]"):
        if step is None:
            raise ValueError(
                f"variable {name!r} is an amount ({units}), and an amount becomes a rate only with a time step: "
                "give a time axis of two or more times"
            )
        hours = float(step / np.timedelta64(1, "h"))
        mm = round(float(quantity.to("mm").magnitude), 12)
        return Linear(mm / hours, highest_mean_rate(hours), declared=limits)
    raise ValueError(f"variable {name!r} has units {shortened!r}, which are no precipitation's; {known}: {fix}")


def length_in_km(units: object) -> float | None:
    """Kilometres in one unit of length, or None where the units of a coordinate are no length.

    >>> length_in_km("m"), length_in_km("degrees_north")
    (0.001, None)
    """
    quantity = _parse(str(units)) if units else None
    if quantity is None or not quantity.check("[length]"):
        return None
    return float(quantity.to("km").magnitude)


def affine(units: object, wanted: str) -> tuple[float, float] | None:
    """Scale and offset that take values from a unit to another; None where one is missing, unknown or of another kind.

    An angle is not of the kind of a bare number.

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


_LONGEST = 80
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_POWER = re.compile(r"\*\*|\^")
# Of a unit, not of a number or of brackets; one or two digits, with or without brackets; and no power of a power.
_SMALL_POWER = re.compile(
    r"(?<=[^\W\d_])\s*(?:\*\*|\^)\s*(?:[-+]?\d\d?|\(\s*[-+]?\d\d?\s*\)|{\s*[-+]?\d\d?\s*})(?![\d.^]|\s*\*\*|\s*\^)"
)


def _shortened(units: str) -> str:
    return units if len(units) <= _LONGEST else units[:_LONGEST] + "..."


def _plain(units: str) -> str:
    """Units in plain letters: superscripts, dots between factors and minus signs as they are typed."""
    units = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda run: "**" + run[0].translate(_SUPERSCRIPTS), units)
    units = re.sub("[·⋅∙•×]", " ", unicodedata.normalize("NFKC", units))
    return re.sub("[−–]", "-", units).replace("$", "").strip()


def _parse(units: str):
    """A pint quantity of one such unit, or None. Powers are arithmetic to pint, and a tower of them never ends."""
    if len(units) > _LONGEST:
        return None
    plain = _plain(units)
    if len(_POWER.findall(plain)) != len(_SMALL_POWER.findall(plain)) or re.search(r"\d{4}", plain):
        return None
    try:
        return _registry().Quantity(1.0, _registry().parse_units(plain))
    except Exception:  # pint raises errors of half a dozen kinds over unknown or malformed units
        return None
