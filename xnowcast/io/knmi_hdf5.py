"""Royal Netherlands Meteorological Institute: radar accumulations in KNMI's own HDF5 layout."""

import io
import re
from datetime import datetime

import numpy as np
import xarray as xr

from xnowcast.io.files import Paths, decode, extra, path_list
from xnowcast.io.grid import Frame, Grid, to_dataset
from xnowcast.io.hdf5 import number, text

PRODUCT = "KNMI HDF5 accumulation"
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def open_knmi_hdf5(paths: Paths) -> xr.Dataset:
    """Rain rate from KNMI radar accumulations (``RAD_NL25_RAP_5min_*.h5``).

    Parameters
    ----------
    paths : path or iterable of paths
        Files of one grid, in any order.

    Returns
    -------
    xarray.Dataset
        ``rainfall_rate`` in mm h-1 with dims (time, y, x), float32, with ``time_bnds``; ``time`` is the end
        of the accumulation. NaN is outside coverage.

    Raises
    ------
    ValueError
        If a file is truncated or no KNMI accumulation, or the files do not fit together.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If h5py or pyproj is not installed.

    Notes
    -----
    The calibration formula of the file (``GEO=0.01*PV+0.0`` mm) is honoured, and its start and end times give
    the rate. Grid offsets count pixels from the projection's origin, and lengths are in km in the file.

    Examples
    --------
    >>> import pathlib, tempfile, h5py
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "RAD_NL25_RAP_5min.h5"
    >>> with h5py.File(path, "w") as file:
    ...     file.create_group("overview").attrs.update(
    ...         product_datetime_start="25-AUG-2010;23:55:00.000",
    ...         product_datetime_end="26-AUG-2010;00:00:00.000",
    ...     )
    ...     file.create_group("geographic/map_projection").attrs.update(
    ...         projection_proj4_params="+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.137 +b=6356.752"
    ...     )
    ...     file["geographic"].attrs.update(
    ...         geo_column_offset=0, geo_row_offset=3650, geo_dim_pixel="KM,KM",
    ...         geo_pixel_size_x=1, geo_pixel_size_y=-1,
    ...     )
    ...     file.create_group("image1/calibration").attrs.update(
    ...         calibration_formulas="GEO=0.01*PV+0.0", calibration_missing_data=65535
    ...     )
    ...     file["image1"].attrs.update(image_geo_parameter="ACCUMULATED_PRECIPITATION_[MM]")
    ...     file["image1/image_data"] = np.array([[0, 25, 65535]], np.uint16)
    >>> open_knmi_hdf5(path).rainfall_rate.values
    array([[[ 0.,  3., nan]]], dtype=float32)
    """
    files = path_list(paths)
    return to_dataset([decode(path, PRODUCT, _read) for path in files], files)


def _read(content: bytes) -> Frame:
    with extra("h5py").File(io.BytesIO(content), "r") as file:
        image = file["image1"]
        parameter = text(image.attrs["image_geo_parameter"])
        if not parameter.startswith("ACCUMULATED_PRECIPITATION"):
            raise ValueError(f"it holds {parameter!r}; ACCUMULATED_PRECIPITATION_[MM] is what this reader knows")
        start, end = (_moment(text(file["overview"].attrs[f"product_datetime_{edge}"])) for edge in ("start", "end"))
        seconds = (end - start).total_seconds()
        if seconds <= 0:
            raise ValueError(f"it is an accumulation from {start} to {end}; the end must be later than the start")
        counts = image["image_data"][()]
        values, packing = _calibrate(counts, image["calibration"].attrs, 3600 / seconds)
        grid = _grid(file["geographic"], counts.shape)
        name = text(file["overview"].attrs.get("product_group_name", "composite"))
    return Frame(
        values=values,
        time=np.datetime64(end, "ns"),
        start=np.datetime64(start, "ns"),
        grid=grid,
        name="rainfall_rate",
        attrs={
            "standard_name": "rainfall_rate",
            "long_name": "rainfall rate",
            "units": "mm h-1",
            "comment": f"source is a {seconds / 60:g}-min accumulation (mm) x {3600 / seconds:g}; "
            "missing = outside radar range",
            "cell_methods": "time: mean",
        },
        about={
            "title": f"KNMI {seconds / 60:g}-min radar rainfall ({name})",
            "institution": "Royal Netherlands Meteorological Institute (KNMI)",
            "source": f"radar composite {name}",
            "license": "all rights stay with the data owner (KNMI), whose terms apply",
        },
        packing=packing,
    )


def _calibrate(counts: np.ndarray, calibration, per_hour: float) -> tuple[np.ndarray, dict[str, object]]:
    """Rates of stored counts, and how to store these rates again as the same counts."""
    formula = text(calibration["calibration_formulas"])
    line = re.fullmatch(r"\s*GEO\s*=\s*([-+.\deE]+)\s*\*\s*PV\s*([-+]\s*[.\deE]+)?\s*", formula)
    if line is None:
        raise ValueError(f"its calibration is {formula!r}; GEO=<gain>*PV+<offset> is what this reader knows")
    gain = np.float32(float(line[1]) * per_hour)
    offset = np.float32(float((line[2] or "0").replace(" ", "")) * per_hour)
    codes = ("calibration_missing_data", "calibration_out_of_image")
    unmeasured = {int(number(calibration[code])) for code in codes if code in calibration}
    rates = counts.astype(np.float32) * gain + offset
    measured = ~np.isin(counts, list(unmeasured))
    rates[~measured] = np.nan
    # Signed, because older readers of CF know no unsigned integers; heavier rain than 32767 counts is not packed.
    if offset != 0 or counts.max(where=measured, initial=0) > 32767:
        return rates, {}
    return rates, {"dtype": "int16", "scale_factor": gain, "_FillValue": np.int16(-32768)}


def _moment(stamp: str) -> datetime:
    """Time of ``26-AUG-2010;00:05:00.000``, whatever language the machine speaks."""
    day, month, rest = stamp.split("-", 2)
    return datetime.strptime(f"{day}-{MONTHS.index(month.upper()) + 1}-{rest}", "%d-%m-%Y;%H:%M:%S.%f")


def _grid(geographic, shape: tuple[int, int]) -> Grid:
    about = geographic.attrs
    unit = text(about["geo_dim_pixel"])
    if unit != "KM,KM":
        raise ValueError(f"its pixels are measured in {unit!r}; KM,KM is what this reader knows")
    dx, dy = (1000 * number(about[f"geo_pixel_size_{axis}"]) for axis in "xy")
    if dy > 0:
        raise ValueError(f"its rows run northward (geo_pixel_size_y is {dy / 1000:g}); southward is expected")
    plane = text(geographic["map_projection"].attrs["projection_proj4_params"])
    in_metres = re.sub(r"\+(a|b|x_0|y_0)=([-+.\deE]+)", lambda term: f"+{term[1]}={1000 * float(term[2]):.3f}", plane)
    left, top = number(about["geo_column_offset"]) * dx, number(about["geo_row_offset"]) * dy
    return Grid(f"{in_metres} +units=m +no_defs", left, top, dx, -dy, nx=shape[1], ny=shape[0])
