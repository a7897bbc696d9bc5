"""MeteoSwiss: 5-minute radar accumulations (AQC, "ACQUIRE") as 8-bit GIF pictures."""

import functools
import io
import re
from datetime import datetime, timedelta

import numpy as np
import xarray as xr

from xnowcast.fields.units import ZR_RELATIONS, rain_of_reflectivity
from xnowcast.io.files import Paths, decode, extra, path_list
from xnowcast.io.grid import Frame, Grid, rain_rate, to_dataset
from xnowcast.io.recognise import reader

PRODUCT = "MeteoSwiss GIF accumulation"
SCALES = ("mmh2LASSEN8bit", "mmh2LASSEN8bitmm_mn")
# The picture does not carry its grid: it is the Swiss national grid LV03, 710 km x 640 km.
GRID = Grid("EPSG:21781", left=255_000.0, top=480_000.0, dx=1000.0, dy=1000.0, nx=710, ny=640)


@reader("MeteoSwiss GIF", lambda start: start.startswith((b"GIF87a", b"GIF89a")))
def open_mch_gif(paths: Paths) -> xr.Dataset:
    """Rain rate from MeteoSwiss 5-minute accumulations in GIF format (``AQC*.gif``).

    Parameters
    ----------
    paths : path or iterable of paths
        Files in any order.

    Returns
    -------
    xarray.Dataset
        ``rainfall_rate`` in mm h-1 with dims (time, y, x) of 640 x 710 points, float32, with ``time_bnds``;
        ``time`` is the end of the accumulation. NaN is outside coverage.

    Raises
    ------
    ValueError
        If a file is truncated or no such picture, or two files have the same time.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If Pillow or pyproj is not installed.

    Notes
    -----
    Pixel values are the classes of MeteoSwiss' ``mmh2LASSEN8bit`` scale. Classes 0 and 1 are dry, a class c
    of 2 to 250 stands for (10^((c - 71.5) / 20) / 316)^(1 / 1.5) mm per interval, half-dB steps through
    Z = 316 R^1.5; 251 to 254 have no meaning and 255 is outside coverage: both become NaN.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> classes = np.full((640, 710), 121, np.uint8)
    >>> note = "PRDT=AQC151351545 SCALE=mmh2LASSEN8bitmm_mn ACCUm=000005"
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "AQC151351545F_00005.801.gif"
    >>> Image.fromarray(classes).save(path, comment=note, optimize=False)
    >>> radar = open_mch_gif(path)
    >>> round(radar.rainfall_rate.values.max().item(), 3)
    11.554
    """
    files = path_list(paths)
    frames = [decode(path, PRODUCT, functools.partial(_read, file_name=path.name)) for path in files]
    return to_dataset(frames, files)


def _read(content: bytes, file_name: str) -> Frame:
    picture = extra("PIL.Image").open(io.BytesIO(content), formats=["GIF"])
    shape = picture.size[::-1]  # before anything is unpacked
    if picture.mode not in ("P", "L") or shape != GRID.shape:
        raise ValueError(
            f"it is a picture of {shape} pixels (rows, columns) in mode {picture.mode!r}; "
            f"{GRID.shape} 8-bit classes are expected"
        )
    classes = np.asarray(picture)
    comment = picture.info.get("comment", b"")
    note = comment.decode("latin-1") if isinstance(comment, bytes) else str(comment)
    end, minutes = _interval(note, file_name)
    return Frame(
        values=(_millimetres() * np.float64(60 / minutes)).astype(np.float32)[classes],
        time=np.datetime64(end, "ns"),
        start=np.datetime64(end - timedelta(minutes=minutes), "ns"),
        grid=GRID,
        name="rainfall_rate",
        attrs=rain_rate(
            f"source is a {minutes}-min accumulation (8-bit classes, mm/{minutes} min) "
            f"x {60 / minutes:g}; missing = outside radar coverage"
        ),
        about={
            "title": f"MeteoSwiss {minutes}-min radar rainfall",
            "institution": "MeteoSwiss",
            "source": f"radar QPE composite (C-band network), {minutes}-min accumulation",
            "license": "all rights stay with the data owner (MeteoSwiss), whose terms apply",
        },
    )


def _millimetres() -> np.ndarray:
    """Accumulation in mm of each of the 256 classes."""
    millimetres = rain_of_reflectivity((np.arange(256) - 71.5) / 2, *ZR_RELATIONS["meteoswiss"])
    millimetres[:2] = 0
    millimetres[251:] = np.nan
    return millimetres


def _interval(note: str, file_name: str) -> tuple[datetime, int]:
    """End and length in minutes of the accumulation, from the picture's comment or else its file name."""
    scale = re.search(r"SCALE=(\S+)", note)
    if scale and scale[1] not in SCALES:
        raise ValueError(f"its scale is {scale[1]!r}; {' or '.join(SCALES)} is what this reader knows")
    stamp = re.search(r"PRDT=([A-Z]{3})(\d{9})", note) or re.match(r"([A-Z]{3})(\d{9})", file_name)
    if not stamp:
        raise ValueError("neither its comment (PRDT=AQCyydddhhmm) nor its name (AQCyydddhhmm...) has a time")
    if stamp[1] != "AQC":
        raise ValueError(f"it is the product {stamp[1]}; the accumulations AQC are what this reader knows")
    length = re.search(r"ACCUm=(\d+)", note) or re.search(r"_(\d{5})\.", file_name)
    if length is None or int(length[1]) == 0:
        raise ValueError(
            "neither its comment (ACCUm=000005) nor its name (AQC..._00005.801.gif) has a length in minutes"
        )
    return datetime.strptime(stamp[2], "%y%j%H%M"), int(length[1])
