"""Thresholds that papers report their scores at, by the name of the data set and the units of the field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from xnowcast.fields.pixels import PIXEL_UNITS, is_in, rain_rate_to_dbz, sevir_pixel_to_vil

Thresholds = str | float | Sequence[float] | np.ndarray | xr.DataArray


@dataclass(frozen=True)
class ThresholdSet:
    """Thresholds by the units of the field, and where they come from.

    Attributes
    ----------
    values : mapping of str to tuple of float
        Of the same events in "mm h-1", "dBZ", "kg m-2" or "count" (8-bit pixels).
    source : str
    """

    values: Mapping[str, tuple[float, ...]]
    source: str


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


_SEVIR_PIXELS = (16.0, 74.0, 133.0, 160.0, 181.0, 219.0)
_HKO7_RATES = (0.5, 2.0, 5.0, 10.0, 30.0)
_DWD12_RATES = (0.5, 2.0, 5.0)

THRESHOLD_SETS: dict[str, ThresholdSet] = {
    "sevir": ThresholdSet(
        # The very values of the pixels, where papers print 0.154, 0.775, 3.53, 7.07, 12.14 and 32.23: at these, pixel
        # 181 (12.136 kg m-2) would be no event.
        {"kg m-2": _floats(sevir_pixel_to_vil(np.array(_SEVIR_PIXELS))), PIXEL_UNITS: _SEVIR_PIXELS},
        "vertically integrated liquid of SEVIR, Veillette et al. (2020)",
    ),
    "hko7": ThresholdSet(
        {
            "mm h-1": _HKO7_RATES,
            "dBZ": _floats(rain_rate_to_dbz(np.array(_HKO7_RATES), zr="hko-7")),
            PIXEL_UNITS: (84.0, 117.0, 140.0, 158.0, 185.0),
        },
        "rain rate of HKO-7, Shi et al. (2017), arXiv:1706.03458; its pixels as in the code of STLDM",
    ),
    "dwd12": ThresholdSet(
        {"mm h-1": _DWD12_RATES, "dBZ": _floats(rain_rate_to_dbz(np.array(_DWD12_RATES), zr="dwd"))},
        "rain rate of DWD-12 as in DB-RNN",
    ),
    "meteonet": ThresholdSet(
        {"dBZ": (12.0, 18.0, 24.0, 32.0), PIXEL_UNITS: (44.0, 64.0, 87.0, 117.0)},
        "reflectivity of MeteoNet as in DiffCast, arXiv:2312.06734; its pixels as in the code of STLDM",
    ),
    "shanghai": ThresholdSet({"dBZ": (20.0, 30.0, 35.0, 40.0)}, "reflectivity as in DiffCast, arXiv:2312.06734"),
    "nwp": ThresholdSet({"mm h-1": (0.1, 10.0)}, "rain and heavy rain in one hour, as in KoMet"),
}
"""Named sets, for ``thresholds=`` of every score of events."""


def threshold_coordinate(thresholds: Thresholds, *fields: xr.DataArray) -> xr.DataArray:
    """The coordinate ``threshold`` of scores at thresholds that are given by number or by name.

    Parameters
    ----------
    thresholds : float, sequence of float, str, or xarray.DataArray
        Numbers in the units of the fields, or a name of `THRESHOLD_SETS`; a name stands for the numbers that belong
        to the ``units`` of the fields: mm h-1, dBZ, kg m-2 or count (8-bit pixels). A DataArray keeps its attributes.
    *fields : xarray.DataArray
        Observations and forecasts; for a name, one at least has to have ``units``.

    Returns
    -------
    xarray.DataArray
        float64, 1-D, or a scalar for one number. A name leaves ``units``, ``threshold_set`` and ``source`` in the
        attributes.

    Raises
    ------
    ValueError
        If a number is not finite, there is none, the name is unknown, or it has no numbers in the units found.

    Examples
    --------
    >>> field = xr.DataArray([1.0, 2.0], dims="x", attrs={"units": "mm h-1"})
    >>> threshold_coordinate("hko7", field).values
    array([ 0.5,  2. ,  5. , 10. , 30. ])
    """
    attrs = {"long_name": "an event is a value at or above this"}
    if isinstance(thresholds, str):
        named, units = _named(thresholds, fields)
        attrs |= {"units": units, "threshold_set": thresholds, "source": named.source}
        thresholds = named.values[units]
    elif isinstance(thresholds, xr.DataArray):
        attrs |= thresholds.attrs
    try:
        values = np.asarray(thresholds, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if np.asarray(thresholds).dtype == bool or values.ndim > 1 or values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(f"thresholds={thresholds!r} must be a finite number or a sequence of at least one")
    return xr.DataArray(values, dims=["threshold"][: values.ndim], name="threshold", attrs=attrs)


def _named(name: str, fields: Sequence[xr.DataArray]) -> tuple[ThresholdSet, str]:
    """The set, and the units in which it fits all fields that have any."""
    if name not in THRESHOLD_SETS:
        known = ", ".join(map(repr, THRESHOLD_SETS))
        raise ValueError(f"thresholds={name!r} is unknown; there are {known}, or give numbers")
    found = [field for field in fields if "units" in field.attrs]
    fitting = [units for units in THRESHOLD_SETS[name].values if found and all(is_in(f, units) for f in found)]
    if not fitting:
        told = " and ".join(dict.fromkeys(repr(field.attrs["units"]) for field in found)) or "none"
        offered = " or ".join(map(repr, THRESHOLD_SETS[name].values))
        raise ValueError(
            f"thresholds={name!r} are for fields with units {offered}; found {told}: convert both fields first, or "
            "set attrs['units'] if they are in these already"
        )
    return THRESHOLD_SETS[name], fitting[0]
