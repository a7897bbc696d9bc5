"""NOAA MRMS: mosaics of the radars of the USA in GRIB2."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from xnowcast.io import grib
from xnowcast.io.files import Paths, decode, path_list
from xnowcast.io.grid import Frame, packed, rain_rate, to_dataset
from xnowcast.io.recognise import reader

PRODUCT = "MRMS GRIB2 rain rate"
# Discipline (of NOAA's own), category and number of PrecipRate in the tables of MRMS.
DISCIPLINE, CATEGORY, NUMBER = 209, 6, 1


@reader("MRMS GRIB2", lambda start: start.startswith(b"GRIB") and start[6:8] == bytes((DISCIPLINE, 2)))
def open_mrms(paths: Paths) -> xr.Dataset:
    """Rain rate from MRMS PrecipRate files (``*PrecipRate*.grib2``, gzipped or not).

    Parameters
    ----------
    paths : path, pattern or iterable of them
        Files of one grid, in any order.

    Returns
    -------
    xarray.Dataset
        ``rainfall_rate`` in mm h-1 with dims (time, lat, lon) of 3500 x 7000 cells of 0.01 degrees, float32, read when
        it is used: 98 MB a time. NaN is no coverage (stored as -3) or missing (-1).

    Raises
    ------
    ValueError
        If a file is truncated or holds something else, or the files do not fit together.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If ecCodes is not installed.

    References
    ----------
    Zhang et al. (2016), doi:10.1175/BAMS-D-14-00174.1

    Examples
    --------
    >>> open_mrms("PrecipRate_00.00_20190610-000000.grib2")
    Traceback (most recent call last):
    FileNotFoundError: PrecipRate_00.00_20190610-000000.grib2 does not exist
    """
    files = path_list(paths)
    frames = [decode(path, PRODUCT, functools.partial(_read, later=functools.partial(_later, path))) for path in files]
    return to_dataset(frames, files)


def _later(path: Path) -> np.ndarray:
    return decode(path, PRODUCT, _values)


def _read(content: bytes, later: Callable[[], np.ndarray]) -> Frame:
    with grib.message(_only(content)) as message:
        found = tuple(message[key] for key in ("discipline", "parameterCategory", "parameterNumber"))
        if found != (DISCIPLINE, CATEGORY, NUMBER):
            raise ValueError(
                f"it holds the parameter {found[0]}.{found[1]}.{found[2]} (discipline, category, number); "
                f"{DISCIPLINE}.{CATEGORY}.{NUMBER}, PrecipRate, is what this reader knows"
            )
        return Frame(
            values=later,
            time=message.time(),
            grid=message.grid(),
            name="rainfall_rate",
            attrs=rain_rate("missing = outside radar coverage", "point"),
            about={
                "title": "MRMS radar rain rate (PrecipRate)",
                "institution": "NOAA National Severe Storms Laboratory / NCEP",
                "source": "Multi-Radar/Multi-Sensor System mosaic of WSR-88D and Canadian radars",
                "license": "public domain (work of the government of the United States)",
            },
            packing=packed(0.1),
        )


def _only(content: bytes) -> bytes:
    messages = grib.split(content)
    if len(messages) > 1 or content[7] != 2:
        raise ValueError(f"it holds {len(messages)} messages of GRIB edition {content[7]}; 1 of edition 2 is expected")
    return messages[0]


def _values(content: bytes) -> np.ndarray:
    with grib.message(_only(content)) as message:
        rain = message.values()
    rain[rain < 0] = np.nan
    return rain
