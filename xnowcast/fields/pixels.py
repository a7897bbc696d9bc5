"""Between the 8-bit pixels of the benchmark data sets, reflectivity, rain rate and vertically integrated liquid.

Every function takes an array (numpy or Dask) or a DataArray and gives the same kind back, lazy where it was. NaN stays
NaN. Floats keep their dtype, though all is computed in float64, so that a pixel reaches a threshold exactly where its
value does; whole numbers of up to 16 bits become float32. A DataArray gets the new units and loses what was true of the
old ones alone; it is refused where its units say that it holds something else.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import xarray as xr

from xnowcast.fields import attributes, units

PIXEL_SCALES = {"hko7": (70.0, -10.0), "dwd12": (70.0, -10.0), "meteonet": (70.0, 0.0)}
"""Factor and offset of dBZ = factor * pixel / 255 + offset, by data set. Networks read pixels over 255."""

PIXEL_UNITS = "count"
"""What pixels have as ``units``: dimensionless numbers that only their data set explains."""

Formula = Callable[[np.ndarray], np.ndarray]
Scale = str | tuple[float, float]
Rounding = Literal["nearest", "floor"] | None

# Attributes that speak of the old values.
_OF_OLD_VALUES = (
    *("standard_name", "long_name", "units", "valid_min", "valid_max", "valid_range", "actual_range"),
    *("_FillValue", "missing_value", "scale_factor", "add_offset", "zerovalue", "threshold", "transform"),
)

_SPELLINGS = {
    PIXEL_UNITS: ("count", "counts", "pixel", "pixels"),
    "kg m-2": ("kg m-2", "kg/m2", "kg/m^2", "kg m^-2", "kg m**-2"),
    "dBZ": ("dbz",),
    "mm h-1": ("mm h-1", "mm/h", "mm/hr", "mm/hour", "mm hr-1", "mm h^-1", "mm h**-1", "kg m-2 h-1"),
    "mm": ("mm", "kg m-2"),
}


# ---------------------------------------------------------------- vertically integrated liquid


def sevir_pixel_to_vil(pixel: Any) -> Any:
    """Vertically integrated liquid of SEVIR's pixels, in kg m-2.

    ``0`` up to pixel 5, ``(p - 2) / 90.66`` up to 18, ``exp((p - 83.9) / 38.9)`` up to 254. The two branches do not
    meet: 18 is 0.1765 kg m-2, and the upper branch would begin at 0.1838.

    Parameters
    ----------
    pixel : array or xarray.DataArray
        From 0 to 254, whole or not (a model's output); 255 is missing.

    Returns
    -------
    array or xarray.DataArray
        kg m-2; NaN where the pixel is above 254 or NaN.

    Raises
    ------
    ValueError
        If a DataArray has units that are not a pixel's.

    References
    ----------
    Veillette et al. (2020), SEVIR, NeurIPS 33; the conversion is that of its documentation.

    Examples
    --------
    >>> sevir_pixel_to_vil(np.array([0, 5, 18, 219, 255], dtype="uint8")).round(4).tolist()
    [0.0, 0.0, 0.17649999260902405, 32.23350143432617, nan]
    """
    attrs = {"units": "kg m-2", "long_name": "vertically integrated liquid"}
    return _converted(_sevir_vil, pixel, PIXEL_UNITS, attrs)


def vil_to_sevir_pixel(vil: Any, *, rounding: Rounding = None) -> Any:
    """SEVIR's pixels of vertically integrated liquid, the inverse of `sevir_pixel_to_vil` from pixel 6 to 254.

    Parameters
    ----------
    vil : array or xarray.DataArray
        kg m-2.
    rounding : {None, "nearest", "floor"}
        To whole pixels: ``floor(p + 0.5)`` or ``floor(p)``; None leaves fractions.

    Returns
    -------
    array or xarray.DataArray
        From 0 to 254. No liquid is pixel 0, less than that of any pixel above 5 (0.0331 kg m-2) is 5 at least, and
        what lies between the two branches, from 0.1765 to 0.1838 kg m-2, is 18. NaN where missing (the files have
        255 there).

    Raises
    ------
    ValueError
        If a DataArray has other units than kg m-2, or the rounding is unknown.

    References
    ----------
    As `sevir_pixel_to_vil`.

    Examples
    --------
    >>> vil_to_sevir_pixel(np.array([0.0, 0.18, 32.2335, np.nan]), rounding="nearest").tolist()
    [0.0, 18.0, 219.0, nan]
    """
    attrs = {"units": PIXEL_UNITS, "long_name": "pixel of vertically integrated liquid as in SEVIR"}
    return _converted(_with_rounding(_sevir_pixel, rounding), vil, "kg m-2", attrs)


def _sevir_vil(pixel: np.ndarray) -> np.ndarray:
    vil = np.where(pixel <= 5, 0.0, units.sevir_vil(pixel))
    return np.where(pixel <= 254, vil, np.nan)  # NaN is not below 254 either


def _sevir_pixel(vil: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = units.sevir_pixel_branches(vil)
    pixel = np.where(vil <= units.SEVIR_VIL_OF_18, np.maximum(low, 5), np.maximum(high, 18))
    return np.where(np.isnan(vil), np.nan, np.where(vil <= 0, 0, np.minimum(pixel, 254)))


# ---------------------------------------------------------------- reflectivity


def pixel_to_dbz(pixel: Any, *, scale: Scale = "hko7") -> Any:
    """Reflectivity of 8-bit pixels, ``factor * pixel / 255 + offset``.

    Parameters
    ----------
    pixel : array or xarray.DataArray
        From 0 to 255, whole or not; what lies outside is clipped.
    scale : str or (float, float)
        Factor and offset, or a data set: "hko7" and "dwd12" have (70, -10), "meteonet" (70, 0). Equation 9 of the
        DB-RNN paper has (60, 0), unlike the code of the HKO-7 benchmark that it builds on.

    Returns
    -------
    array or xarray.DataArray
        dBZ.

    Raises
    ------
    ValueError
        If the scale is unknown, or a DataArray has units that are not a pixel's.

    References
    ----------
    Shi et al. (2017), arXiv:1706.03458, and its published code.

    Examples
    --------
    >>> pixel_to_dbz(np.array([0.0, 127.5, 255.0])).tolist()
    [-10.0, 25.0, 60.0]
    """
    factor, offset = _pixel_scale(scale)
    attrs = {"units": "dBZ", "long_name": "reflectivity", "standard_name": "equivalent_reflectivity_factor"}
    return _converted(lambda p: factor * np.clip(p, 0, 255) / 255 + offset, pixel, PIXEL_UNITS, attrs)


def dbz_to_pixel(dbz: Any, *, scale: Scale = "hko7", rounding: Rounding = None) -> Any:
    """8-bit pixels of reflectivity, ``255 * (dBZ - offset) / factor`` clipped to 0 to 255.

    Parameters
    ----------
    dbz : array or xarray.DataArray
        dBZ.
    scale : str or (float, float)
        As for `pixel_to_dbz`.
    rounding : {None, "nearest", "floor"}
        To whole pixels: ``floor(p + 0.5)``, as HKO-7 is stored, or ``floor(p)``, as in equation 9 of the DB-RNN paper;
        None leaves fractions.

    Returns
    -------
    array or xarray.DataArray
        From 0 to 255; NaN where missing.

    Raises
    ------
    ValueError
        If the scale or rounding is unknown, or a DataArray has other units than dBZ.

    References
    ----------
    As `pixel_to_dbz`.

    Examples
    --------
    >>> dbz_to_pixel(np.array([-32.0, 25.0, 70.0])).tolist()
    [0.0, 127.5, 255.0]
    """
    factor, offset = _pixel_scale(scale)
    attrs = {"units": PIXEL_UNITS, "long_name": "pixel of reflectivity"}
    to_pixel = _with_rounding(lambda z: np.clip(255 * (z - offset) / factor, 0, 255), rounding)
    return _converted(to_pixel, dbz, "dBZ", attrs)


def dbz_to_rain_rate(dbz: Any, *, zr: units.Relation | None = None) -> Any:
    """Rain rate of reflectivity, from Z = a R**b.

    Parameters
    ----------
    dbz : array or xarray.DataArray
        dBZ.
    zr : str or (float, float), optional
        A name of `xnowcast.units.ZR_RELATIONS`, such as "hko-7", or a and b. By default, as in `xnowcast.rain_rate`,
        the attributes ``zr_a`` and ``zr_b`` of a DataArray, else Marshall-Palmer's 200 and 1.6.

    Returns
    -------
    array or xarray.DataArray
        mm h-1; 0 where there is no echo, which is at -32 dBZ (or a DataArray's attribute ``zerovalue``), a quarter of
        a dB above it, and below.

    Raises
    ------
    ValueError
        If the relation is unknown, or a DataArray has other units than dBZ.

    References
    ----------
    Marshall and Palmer (1948), doi:10.1175/1520-0469(1948)005<0165:TDORWS>2.0.CO;2

    Examples
    --------
    >>> dbz_to_rain_rate(np.array([-32.0, 40.717, np.nan]), zr="hko-7").round(2).tolist()
    [0.0, 30.0, nan]
    """
    a, b = attributes.zr_of(dbz, zr)
    no_echo = attributes.no_echo_of(dbz)
    attrs = {"units": "mm h-1", "long_name": "rain rate from reflectivity", "standard_name": "rainfall_rate"}

    def rate(z: np.ndarray) -> np.ndarray:
        return units.dbz_to_rain_rate(z, a, b, no_echo)

    return _converted(rate, dbz, "dBZ", attrs | units.zr_attributes((a, b)))


def rain_rate_to_dbz(rain_rate: Any, *, zr: units.Relation | None = None) -> Any:
    """Reflectivity of rain rate, ``10 log10 a + 10 b log10 R``.

    Parameters
    ----------
    rain_rate : array or xarray.DataArray
        mm h-1.
    zr : str or (float, float), optional
        As for `dbz_to_rain_rate`.

    Returns
    -------
    array or xarray.DataArray
        dBZ; -32, which stands for no echo, where it would be less than a quarter of a dB above that.

    Raises
    ------
    ValueError
        If the relation is unknown, or a DataArray has other units than mm h-1.

    References
    ----------
    As `dbz_to_rain_rate`.

    Examples
    --------
    >>> rain_rate_to_dbz(np.array([0.0, 30.0]), zr="hko-7").round(3).tolist()
    [-32.0, 40.717]
    """
    a, b = attributes.zr_of(rain_rate, zr)
    attrs = {"units": "dBZ", "long_name": "reflectivity", "standard_name": "equivalent_reflectivity_factor"}

    def dbz(rate: np.ndarray) -> np.ndarray:
        return units.rain_rate_to_dbz(rate, a, b)

    return _converted(dbz, rain_rate, "mm h-1", attrs | units.zr_attributes((a, b)))


# ---------------------------------------------------------------- amounts


def amount_to_rain_rate(amount: Any, *, minutes: float = 5.0) -> Any:
    """Rain rate of amounts per step, such as the mm in 5 minutes of RYDL and DWD-12.

    Parameters
    ----------
    amount : array or xarray.DataArray
        mm per step.
    minutes : float
        Length of the step.

    Returns
    -------
    array or xarray.DataArray
        mm h-1.

    Raises
    ------
    ValueError
        If a step is not longer than nothing, or a DataArray has other units than mm.

    References
    ----------
    Ayzel et al. (2020), doi:10.5194/gmd-13-2631-2020, on the RY product of Germany's weather service.

    Examples
    --------
    >>> amount_to_rain_rate(np.array([0.0, 0.5, np.nan])).tolist()
    [0.0, 6.0, nan]
    """
    steps = _steps_per_hour(minutes)
    attrs = {"units": "mm h-1", "long_name": "rain rate", "standard_name": "rainfall_rate"}
    return _converted(lambda mm: mm * steps, amount, "mm", attrs)


def rain_rate_to_amount(rain_rate: Any, *, minutes: float = 5.0) -> Any:
    """Amounts per step of rain rate, the inverse of `amount_to_rain_rate`.

    Parameters
    ----------
    rain_rate : array or xarray.DataArray
        mm h-1.
    minutes : float
        Length of the step.

    Returns
    -------
    array or xarray.DataArray
        mm per step.

    Raises
    ------
    ValueError
        If a step is not longer than nothing, or a DataArray has other units than mm h-1.

    References
    ----------
    As `amount_to_rain_rate`.

    Examples
    --------
    >>> rain_rate_to_amount(np.array([6.0, 12.0]), minutes=10).tolist()
    [1.0, 2.0]
    """
    steps = _steps_per_hour(minutes)
    attrs = {"units": "mm", "long_name": f"rain in {minutes:g} minutes"}
    return _converted(lambda rate: rate / steps, rain_rate, "mm h-1", attrs)


def _steps_per_hour(minutes: float) -> float:
    if not minutes > 0:
        raise ValueError(f"minutes={minutes!r} is the length of a step and must be above 0")
    return 60 / minutes


# ---------------------------------------------------------------- units


def is_in(array: xr.DataArray, units: str) -> bool:
    """Whether the ``units`` of a DataArray are a spelling of those named.

    >>> is_in(xr.DataArray(1.0, attrs={"units": "mm/h"}), "mm h-1")
    True
    """
    return str(array.attrs.get("units", "")).strip().lower() in _SPELLINGS[units]


def _converted(formula: Formula, values: Any, units: str, attrs: dict[str, Any]) -> Any:
    """``formula`` of every value, in float64; ``units`` are those that the values need to have, where they have any."""
    if not isinstance(values, xr.DataArray):
        convert = _OnBlock(formula)
        if hasattr(values, "map_blocks"):
            return values.map_blocks(convert, dtype=_float_for(values.dtype))
        return convert(np.asarray(values))
    if "units" in values.attrs and not is_in(values, units):
        found = f"{values.name or 'the field'} has units {values.attrs['units']!r}"
        raise ValueError(f"{found}, and this converts from {units!r}")
    kept = {name: value for name, value in values.attrs.items() if name not in _OF_OLD_VALUES}
    result = xr.apply_ufunc(
        _OnBlock(formula), values, dask="parallelized", output_dtypes=[_float_for(values.dtype)], keep_attrs=False
    )
    return result.assign_attrs(kept | attrs)


class _OnBlock:
    """The formula in float64, on a block of any real dtype; bytes are looked up in a table."""

    __name__ = "convert"

    def __init__(self, formula: Formula):
        self.formula = formula

    def __call__(self, values: np.ndarray) -> np.ndarray:
        dtype = _float_for(values.dtype)
        if values.dtype == np.uint8:
            return self.formula(np.arange(256, dtype=np.float64)).astype(dtype)[values]
        return np.asarray(self.formula(values.astype(np.float64)), dtype)


def _float_for(dtype: np.dtype) -> np.dtype:
    if dtype.kind == "f":
        return dtype
    return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)


def _with_rounding(formula: Formula, rounding: Rounding) -> Formula:
    if rounding is None:
        return formula
    if rounding not in ("nearest", "floor"):
        raise ValueError(f"rounding={rounding!r} is unknown; there are None, 'nearest' and 'floor'")
    up = 0.5 if rounding == "nearest" else 0.0
    return lambda values: np.floor(formula(values) + up)


def _pixel_scale(scale: Scale) -> tuple[float, float]:
    if isinstance(scale, str):
        if scale not in PIXEL_SCALES:
            raise ValueError(f"scale={scale!r} is unknown; there are {_listed(PIXEL_SCALES)}, or give two numbers")
        return PIXEL_SCALES[scale]
    numbers = tuple(float(number) for number in scale)
    if len(numbers) != 2 or not numbers[0] > 0:
        raise ValueError(f"scale={scale!r} must be two numbers, the first above 0, or one of {_listed(PIXEL_SCALES)}")
    return numbers


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
