"""Royal Netherlands Meteorological Institute: radar accumulations and nowcasts in KNMI's own HDF5 layout."""

import itertools
import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.io.files import Paths, blame, path_list
from xnowcast.io.grid import Frame, Grid, frames_of, rain_rate
from xnowcast.io.hdf5 import check_array, number, opened, picture, text
from xnowcast.io.recognise import reader

PRODUCT = "KNMI HDF5 accumulation"
PARAMETERS = ("ACCUMULATED_PRECIPITATION_[MM]", "PRECIP_[MM]")
CODES = ("calibration_missing_data", "calibration_out_of_image")
# Part of the name of nowcasts, whose images are lead times.
NOWCAST = "RAC_FM"
# An earth axis or radius above this is in metres, below in kilometres.
LARGEST_KILOMETRES = 10_000
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


@reader("KNMI HDF5", lambda file: "geographic" in file and "image1" in file, "hdf5")
def open_knmi_hdf5(paths: Paths) -> xr.Dataset:
    """Rain rate from KNMI radar accumulations and nowcasts (``RAD_NL25_RAP_5min_*.h5``, ``RAD_NL25_RAC_*.h5``).

    Parameters
    ----------
    paths : path or iterable of paths
        Files of one grid, in any order.

    Returns
    -------
    xarray.Dataset
        ``rainfall_rate`` in mm h-1 with dims (time, y, x), float32, with ``time_bnds``; ``time`` is the end
        of the accumulation. Nowcasts have the dims (init_time, lead_time, y, x). NaN is outside coverage.

    Raises
    ------
    ValueError
        If a file is truncated or no KNMI accumulation, it holds several images and is no nowcast, or the files do not
        fit together.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If h5py or pyproj is not installed.

    Notes
    -----
    The calibration formula of the file (``GEO=0.01*PV+0.0`` mm) is honoured, and its start and end times give
    the rate; in a nowcast (RAC_FM) each image is the sum of the time since the image before. Images of other
    parameters, such as the quality beside the rain of RAC_RT, are left out. Grid offsets count pixels from the
    projection's origin, and lengths are in km in the file.

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
    return frames_of(files, lambda path: blame(path, PRODUCT, lambda: _read(path)))


def _read(path: Path) -> list[Frame]:
    with opened(path) as file:
        overview = file["overview"].attrs
        name = text(overview.get("product_group_name", "composite"))
        images = _images(file)
        start, end = (_moment(text(overview[f"product_datetime_{edge}"])) for edge in ("start", "end"))
        if NOWCAST in name or NOWCAST in path.name:
            valid = [_moment(text(image.attrs["image_datetime_valid"])) for image in images]
            step = _step(valid, start)
            pairs = zip(images, valid, strict=True)
            return [_frame(file, image, name, time - step, time, init=start) for image, time in pairs]
        if len(images) > 1:
            raise ValueError(f"it holds {len(images)} images of rain; one, or a nowcast (RAD_NL25_RAC_FM), is expected")
        return [_frame(file, images[0], name, start, end)]


def _images(file) -> list:
    """Images of rain, in the order of their numbers."""
    numbers = sorted(int(name.removeprefix("image")) for name in file if re.fullmatch(r"image\d+", name))
    images = [file[f"image{number}"] for number in numbers]
    parameters = [text(image.attrs["image_geo_parameter"]) for image in images]
    rain = [image for image, parameter in zip(images, parameters, strict=True) if parameter in PARAMETERS]
    if not rain:
        found = ", ".join(map(repr, parameters)) or "no image"
        raise ValueError(f"it holds {found}; {' or '.join(PARAMETERS)} is what this reader knows")
    for image in rain:
        check_array(image["image_data"], file)
    return rain


def _step(valid: list[datetime], start: datetime) -> timedelta:
    """Between the valid times of a nowcast, which is the length of its sums; the first one is the time it was made."""
    steps = {later - earlier for earlier, later in itertools.pairwise(valid)}
    if len(steps) != 1 or valid[0] != start:
        times = ", ".join(str(time) for time in valid[:3])
        raise ValueError(f"it is a nowcast of {start} for {times} ...; one step from its start on is expected")
    return steps.pop()


def _frame(file, image, name: str, start: datetime, end: datetime, init: datetime | None = None) -> Frame:
    seconds = (end - start).total_seconds()
    if seconds <= 0:
        raise ValueError(f"it is an accumulation from {start} to {end}; the end must be later than the start")
    counts = picture(image["image_data"])
    values, packing = _calibrate(counts, image["calibration"].attrs, 3600 / seconds)
    return Frame(
        values=values,
        time=np.datetime64(end, "ns"),
        start=np.datetime64(start, "ns"),
        init=None if init is None else np.datetime64(init, "ns"),
        grid=_grid(file["geographic"], counts.shape),
        name="rainfall_rate",
        attrs=rain_rate(
            f"source is a {seconds / 60:g}-min accumulation (mm) x {3600 / seconds:g}; missing = outside radar range"
        ),
        about={
            "title": f"KNMI {seconds / 60:g}-min radar rainfall ({name})",
            "institution": "Royal Netherlands Meteorological Institute (KNMI)",
            "source": f"radar composite {name}",
            "license": "all rights stay with the data owner (KNMI), whose terms apply",
        },
        packing=packing,
    )


def _calibrate(
    counts: np.ndarray, calibration: Mapping[str, Any], per_hour: float
) -> tuple[np.ndarray, dict[str, object]]:
    """Rates of stored counts, and how to store these rates again as the same counts."""
    slope, intercept = _line(text(calibration["calibration_formulas"]))
    gain, offset = np.float32(slope * per_hour), np.float32(intercept * per_hour)
    unmeasured = {int(number(calibration[code])) for code in CODES if code in calibration}
    if not unmeasured:
        raise ValueError(
            f"its calibration has no {' nor '.join(CODES)}, so what is not measured would be taken for rain"
        )
    rates = counts.astype(np.float32) * gain + offset
    measured = ~np.isin(counts, list(unmeasured))
    rates[~measured] = np.nan
    # Signed, because older readers of CF know no unsigned integers; heavier rain than 32767 counts is not packed.
    if offset != 0 or counts.max(where=measured, initial=0) > 32767:
        return rates, {}
    return rates, {"dtype": "int16", "scale_factor": gain, "_FillValue": np.int16(-32768)}


def _line(formula: str) -> tuple[float, float]:
    """Gain and offset of ``GEO = gain * PV + offset``, whose gain may stand behind as well."""
    number = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    line = re.fullmatch(
        rf"GEO=(?:([-+]?{number})\*)?PV(?:\*({number})|/({number}))?([-+]{number})?",
        formula.replace(" ", "").replace("+-", "-"),
    )
    if line is None:
        raise ValueError(f"its calibration is {formula!r}; GEO=<gain>*PV+<offset> is what this reader knows")
    before, after, divisor = (float(part or 1) for part in line.groups()[:3])
    gain, offset = before * after / divisor if divisor else 0.0, float(line[4] or 0)
    if not (0 < gain < math.inf and math.isfinite(offset)):
        raise ValueError(f"its calibration is {formula!r}; a gain above 0 is expected")
    return gain, offset


def _moment(stamp: str) -> datetime:
    """Time of ``26-AUG-2010;00:05:00.000``, whatever language the machine speaks; seconds may be left out."""
    found = re.fullmatch(r"(\d\d)-([A-Z]{3})-(\d{4})[; ](\d\d):(\d\d)(?::(\d\d)(?:\.\d*)?)?", stamp.upper())
    if found is None or found[2] not in MONTHS:
        raise ValueError(f"its time is {stamp!r}; DD-MON-YYYY;HH:MM:SS.000 is expected")
    day, _, year, hour, minute, second = (int(part) if part and part.isdigit() else 0 for part in found.groups())
    return datetime(year, MONTHS.index(found[2]) + 1, day, hour, minute, second)


def _grid(geographic, shape: tuple[int, int]) -> Grid:
    attrs = geographic.attrs
    for name, found, expected in (
        ("geo_dim_pixel", text(attrs["geo_dim_pixel"]), "KM,KM"),
        ("geo_pixel_def", text(attrs.get("geo_pixel_def", "LU")), "LU"),
    ):
        if found != expected:
            raise ValueError(f"its {name} is {found!r}; {expected} is what this reader knows")
    dx, dy = (1000 * number(attrs[f"geo_pixel_size_{axis}"]) for axis in "xy")
    if dy > 0:
        raise ValueError(f"its rows run northward (geo_pixel_size_y is {dy / 1000:g}); southward is expected")
    plane = _in_metres(text(geographic["map_projection"].attrs["projection_proj4_params"]))
    left, top = number(attrs["geo_column_offset"]) * dx, number(attrs["geo_row_offset"]) * dy
    return Grid(plane, left, top, dx, -dy, nx=shape[1], ny=shape[0])


def _in_metres(plane: str) -> str:
    """A projection in metres. Older files give all its lengths in km, without a word; newer ones its axes in metres."""
    terms = dict(re.findall(r"\+(\w+)(?:=(\S+))?", plane))
    if terms.get("units", "km") != "km" or "to_meter" in terms:
        raise ValueError(f"its projection is {plane!r}; km (+units=km, or none) are what this reader knows")
    earth = {name: float(terms[name]) for name in ("a", "b", "R") if name in terms}
    if earth and max(earth.values()) < LARGEST_KILOMETRES:
        lengths = earth | {name: float(terms[name]) for name in ("x_0", "y_0") if name in terms}
        terms |= {name: f"{1000 * length:.3f}" for name, length in lengths.items()}
    terms |= {"units": "m", "no_defs": ""}
    return " ".join(f"+{name}={value}" if value else f"+{name}" for name, value in terms.items())
