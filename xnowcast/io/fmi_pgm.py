"""Finnish Meteorological Institute: reflectivity composites as PGM pictures with a commented header."""

import re
from datetime import datetime

import numpy as np
import xarray as xr

from xnowcast.fields.units import ZR_RELATIONS
from xnowcast.io.files import Paths, decode, extra, path_list
from xnowcast.io.grid import Frame, Grid, packed, reflectivity, refuse_huge, to_dataset
from xnowcast.io.recognise import reader

PRODUCT = "FMI PGM composite"
MISSING = 255
# The header names no earth radius; with this one the header's two corners lie exactly 760 x 1226 of the
# header's pixels apart (to 1e-8), with WGS 84 they do not.
EARTH_RADIUS = 6371288
# False easting and northing of FMI's own map planes, in metres.
FALSE_ORIGINS = {"SUOMI1": (380886.31, 3395677.92)}


@reader("FMI PGM", lambda start: start.startswith(b"P5"))
def open_fmi_pgm(paths: Paths) -> xr.Dataset:
    """Reflectivity from FMI radar composites in PGM format (``*.pgm`` or ``*.pgm.gz``).

    Parameters
    ----------
    paths : path or iterable of paths
        Files of one grid, in any order.

    Returns
    -------
    xarray.Dataset
        ``equivalent_reflectivity_factor`` in dBZ with dims (time, y, x), float32, steps of 0.5 dBZ. -32 dBZ
        is "no echo"; NaN is outside coverage. Attributes ``zr_a`` and ``zr_b`` hold the Z-R relation.

    Raises
    ------
    ValueError
        If a file is truncated or no FMI composite, or the files do not fit together.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If pyproj is not installed.

    Notes
    -----
    A pixel of value v is (v - 64) / 2 dBZ; 255 is "missing". The Z-R relation Z = 223 R^1.53 is the one
    that FMI uses for rain.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "tiny.pgm"
    >>> header = '''P5
    ... # obstime 201609281445
    ... # param CorrectedReflectivity
    ... # metersperpixel_x 1000
    ... # metersperpixel_y 1000
    ... # type stereographic
    ... # centrallongitude 25
    ... # centrallatitude 90
    ... # truelatitude 60
    ... # bottomleft 18.6 57.93
    ... # topright 18.65 57.94
    ... 3 1
    ... 255
    ... '''
    >>> _ = path.write_bytes(header.encode() + bytes([0, 104, 255]))
    >>> open_fmi_pgm(path).equivalent_reflectivity_factor.values
    array([[[-32.,  20.,  nan]]], dtype=float32)
    """
    files = path_list(paths)
    return to_dataset([decode(path, PRODUCT, _read) for path in files], files)


def _read(content: bytes) -> Frame:
    header, shape, pixels = _split(content)
    if header["param"] != "CorrectedReflectivity":
        raise ValueError(f"param is {header['param']!r}; CorrectedReflectivity is what this reader knows")
    if not re.fullmatch(r"\d{12}", header["obstime"]):
        raise ValueError(f"obstime is {header['obstime']!r}; YYYYMMDDHHMM is expected")
    counts = np.frombuffer(pixels, np.uint8).reshape(shape)
    dbz = np.where(counts == MISSING, np.float32(np.nan), (counts.astype(np.float32) - 64) / 2)
    return Frame(
        values=dbz,
        time=np.datetime64(datetime.strptime(header["obstime"], "%Y%m%d%H%M"), "ns"),
        grid=_grid(header, shape),
        name="equivalent_reflectivity_factor",
        attrs=reflectivity(
            "-32 dBZ = no echo (undetect), a valid measurement; missing = outside radar coverage",
            ZR_RELATIONS["fmi"],
        ),
        about={
            "title": f"FMI radar composite {header.get('productname', '')}".strip(),
            "institution": "Finnish Meteorological Institute (FMI)",
            "source": f"radar reflectivity composite ({header.get('producttype', 'PGM')})",
            "license": "all rights stay with the data owner (FMI), whose terms apply",
        },
        packing=packed(0.5, -32, MISSING),
        product=f"{header.get('producttype', '')} {header.get('productname', '')}".strip(),
    )


def _split(content: bytes) -> tuple[dict[str, str], tuple[int, int], bytes]:
    """Header entries, (rows, columns) and the pixels of a binary PGM picture."""
    head = re.match(rb"P5\s+((?:#[^\n]*\n)*)\s*(\d+)\s+(\d+)\s+(\d+)\s", content)
    if head is None:
        raise ValueError("it does not start with the header of a binary PGM picture (P5)")
    comments, columns, rows, brightest = head.groups()
    shape, pixels = (int(rows), int(columns)), content[head.end() :]
    if int(brightest) != 255:
        raise ValueError(f"pixels go up to {int(brightest)}; 8-bit pixels (255) are what this reader knows")
    refuse_huge(shape)
    if len(pixels) != shape[0] * shape[1]:
        raise ValueError(f"it has {len(pixels)} pixels where its header announces {shape[0]} x {shape[1]}")
    words = (line.strip("# ").partition(" ") for line in comments.decode("latin-1").splitlines())
    return {key: value.strip() for key, _, value in words}, shape, pixels


def _grid(header: dict[str, str], shape: tuple[int, int]) -> Grid:
    if header["type"] != "stereographic":
        raise ValueError(f"projection type is {header['type']!r}; stereographic is what this reader knows")
    dx, dy = float(header["metersperpixel_x"]), float(header["metersperpixel_y"])
    pole, true, middle = (float(header[word]) for word in ("centrallatitude", "truelatitude", "centrallongitude"))
    plane = f"+proj=stere +lat_0={pole:g} +lat_ts={true:g} +lon_0={middle:g} +R={EARTH_RADIUS} +units=m +no_defs"
    x0, y0 = FALSE_ORIGINS.get(header.get("projection_name", ""), (0.0, 0.0))
    plane += f" +x_0={x0} +y_0={y0}"
    project = extra("pyproj").Proj(plane)
    left, bottom = project(*map(float, header["bottomleft"].split()))
    _, top = project(*map(float, header["topright"].split()))
    if abs(top - bottom - shape[0] * dy) > dy:
        raise ValueError(f"its corners are {top - bottom:.0f} m apart, its {shape[0]} rows {shape[0] * dy:.0f} m")
    return Grid(plane, left, top, dx, dy, nx=shape[1], ny=shape[0])
