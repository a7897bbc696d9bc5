"""Deutscher Wetterdienst: RADOLAN and RADVOR composites, binary files with a line of text in front."""

import functools
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import xarray as xr

from xnowcast.io.files import Paths, archived, blame, decode, is_archive, is_packed, path_list, raw_bytes
from xnowcast.io.grid import Frame, Grid, to_dataset

PRODUCT = "DWD RADOLAN composite"
HEADER = re.compile(
    rb"([A-Z][A-Z\d])(\d{6})\d{5}(\d{4})BY([ \d]+)VS([ \d]+)SW.{9}PR([ E+\-\d]+)INT([ \d]+)(?:U(\d))?"
    rb"GP([ \d]+)x([ \d]+)(?:VV([ \d]+))?[^\x03]*\x03",
    re.DOTALL,
)
LONGEST_HEADER = 4096
# One byte a cell, reflectivity in steps of 0.5 dBZ; all others hold two bytes a cell, an amount of water.
REFLECTIVITY = ("RX", "WX", "EX", "FX")
NOWCASTS = ("RV", "RQ", "RE", "RS")
CLUTTER, NEGATIVE, NOT_MEASURED = 0x8000, 0x4000, 0x2000

# Versions up to 4 of the format use a sphere, later ones WGS 84. False easting and northing put the origin into the
# centre of the upper left cell.
SPHERE = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040 +units=m +no_defs"
WGS84 = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +ellps=WGS84 +units=m +no_defs"
ORIGINS = {
    (SPHERE, 900, 900): (522962.16692185635, 3759144.724265574),
    (SPHERE, 1100, 900): (442962.16692185635, 3659144.724265574),
    (SPHERE, 1200, 1100): (542962.16692185658, 3609144.7242655745),
    (SPHERE, 1500, 1400): (672962.16692185635, 3509144.724265574),
    (WGS84, 900, 900): (523196.83521777776, 3772588.861931134),
    (WGS84, 1200, 1100): (543196.83521776402, 3622588.8619310018),
}


def open_radolan(paths: Paths, *, keep_clutter: bool = False) -> xr.Dataset:
    """Rain rate or reflectivity from composites of Deutscher Wetterdienst (RW, RY, YW, RV, RX, WX and their kin).

    Parameters
    ----------
    paths : path, pattern or iterable of them
        Binary files, packed (gzip, bzip2) or not, and tar archives of them; of one grid, in any order. An archive is
        unpacked in memory, single files are read when they are used.
    keep_clutter : bool
        Whether amounts that are flagged as clutter are kept; they become NaN by default.

    Returns
    -------
    xarray.Dataset
        Dims (time, y, x), float32, on the 900 x 900, 1100 x 900, 1200 x 1100 (DE1200) or 1500 x 1400 km grid. Amounts
        become ``rainfall_rate`` in mm h-1 with ``time_bnds``, and ``time`` is the end of the interval; RX and its kin
        become ``equivalent_reflectivity_factor`` in dBZ, -32.5 dBZ where there is no echo. The nowcasts RV, RQ, RE and
        RS have the dims (init_time, lead_time, y, x). NaN is "not measured".

    Raises
    ------
    ValueError
        If a file is truncated or no such composite, its grid is unknown, or the files do not fit together.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If pyproj is not installed.

    Notes
    -----
    The twelve lower bits of a cell count units of 10^(precision) mm in the interval of the header; bit 13 marks what
    was not measured, bit 14 negative numbers and bit 15 clutter. A byte v of RX is v / 2 - 32.5 dBZ, 250 is not
    measured and 249 is clutter. The Z-R relation Z = 256 R^1.42 is the one that DWD uses.

    References
    ----------
    Deutscher Wetterdienst: RADOLAN/RADVOR, Beschreibung des Kompositformats, version 2.5;
    Radarkomposits, Projektionen und Gitter, version 1.01 (2022)

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "raa01-rx_10000-1408102050-dwd---bin"
    >>> cells = np.full((900, 900), 65, np.uint8)
    >>> header = b"RX102050100000814BY 810087VS 3SW   2.13.1PR E+00INT   5GP 900x 900MS  8<boo,ros>"
    >>> header = header.replace(b"810087", b"%6d" % (len(header) + 1 + cells.size))
    >>> _ = path.write_bytes(header + b"\\x03" + cells.tobytes())
    >>> open_radolan(path).equivalent_reflectivity_factor.values.max()
    np.float32(0.0)
    """
    files = path_list(paths)
    found = [(frame, path) for path in files for frame in _frames(path, keep_clutter)]
    return to_dataset([frame for frame, _ in found], [path for _, path in found])


@dataclass(frozen=True)
class Header:
    """What stands in front of the cells; lengths in bytes, ``minutes`` is the interval, ``lead`` is in minutes."""

    product: str
    time: datetime
    length: int
    total: int
    version: int
    precision: float
    minutes: int
    rows: int
    columns: int
    lead: int | None

    @property
    def cell_type(self) -> np.dtype:
        return np.dtype(np.uint8 if self.product in REFLECTIVITY else "<u2")

    def check(self, available: int | None) -> None:
        """Refuse a header that does not fit to its own grid, or to the number of bytes that are there."""
        wanted = self.length + self.rows * self.columns * self.cell_type.itemsize
        if self.total != wanted or (available is not None and available != wanted):
            raise ValueError(
                f"it has {available if available is not None else self.total} bytes, and {self.rows} x {self.columns} "
                f"cells of {self.product} with their header need {wanted}"
            )
        if self.minutes <= 0 and self.product not in REFLECTIVITY:
            raise ValueError(f"it is an amount of {self.minutes} minutes; more than 0 is expected")


def read_header(content: bytes) -> Header:
    """Header of a composite.

    Parameters
    ----------
    content : bytes
        At least up to the end of the header.

    Returns
    -------
    Header

    Raises
    ------
    ValueError
        If there is none.
    """
    found = HEADER.match(content)
    if found is None:
        raise ValueError(f"it does not start with the header of a composite, but with {content[:24]!r}")
    product, clock, month, total, version, precision, minutes, unit, rows, columns, lead = found.groups()
    if unit not in (None, b"0"):
        raise ValueError(f"its interval is in the unit U{unit.decode()}; minutes (U0) are what this reader knows")
    return Header(
        product=product.decode(),
        time=datetime.strptime((clock + month).decode(), "%d%H%M%m%y"),
        length=found.end(),
        total=int(total),
        version=int(version),
        precision=float(f"1{precision.decode().replace(' ', '')}"),
        minutes=int(minutes),
        rows=int(rows),
        columns=int(columns),
        lead=None if lead is None else int(lead),
    )


def _frames(path: Path, keep_clutter: bool) -> list[Frame]:
    """One frame of a file, several of an archive."""
    start = blame(path, PRODUCT, lambda: raw_bytes(path, LONGEST_HEADER))
    cells = functools.partial(_cells, keep_clutter=keep_clutter)
    if is_archive(start):
        members = blame(path, PRODUCT, lambda: archived(path))
        return [_member(path, name, content, cells) for name, content in members]
    size = None if is_packed(path) else path.stat().st_size
    return [blame(path, PRODUCT, lambda: _frame(start, size, functools.partial(decode, path, PRODUCT, cells)))]


def _member(path: Path, name: str, content: bytes, cells) -> Frame:
    return blame(path / name, PRODUCT, lambda: _frame(content, len(content), functools.partial(cells, content)))


def _frame(start: bytes, size: int | None, values) -> Frame:
    header = read_header(start)
    header.check(size)
    grid = _grid(header)
    reflectivity = header.product in REFLECTIVITY
    nowcast = header.lead is not None and (header.product in NOWCASTS or header.lead > 0)
    init = np.datetime64(header.time, "ns")
    return Frame(
        values=values,
        time=init + np.timedelta64(header.lead if nowcast else 0, "m"),
        init=init if nowcast else None,
        start=None if nowcast or reflectivity else np.datetime64(header.time - timedelta(minutes=header.minutes), "ns"),
        grid=grid,
        name="equivalent_reflectivity_factor" if reflectivity else "rainfall_rate",
        attrs=_reflectivity_labels() if reflectivity else _rain_labels(header),
        about={
            "title": f"DWD composite {header.product}" + (" (nowcast)" if nowcast else ""),
            "institution": "Deutscher Wetterdienst (DWD)",
            "source": f"RADOLAN/RADVOR radar composite {header.product}",
            "license": "open data of Deutscher Wetterdienst, to be named as the source: https://www.dwd.de/copyright",
        },
        packing={
            "dtype": "int16",
            "scale_factor": np.float32(0.5 if reflectivity else _per_count(header)),
            "add_offset": np.float32(-32.5 if reflectivity else 0),
            "_FillValue": np.int16(-32768),
        },
    )


def _reflectivity_labels() -> dict[str, object]:
    return {
        "standard_name": "equivalent_reflectivity_factor",
        "long_name": "radar reflectivity factor",
        "units": "dBZ",
        "comment": "-32.5 dBZ = no echo, a valid measurement; missing = not measured, or clutter",
        "zr_a": 256.0,
        "zr_b": 1.42,
        "cell_methods": "time: point",
    }


def _rain_labels(header: Header) -> dict[str, object]:
    return {
        "standard_name": "rainfall_rate",
        "long_name": "rainfall rate",
        "units": "mm h-1",
        "comment": f"source is a {header.minutes}-min accumulation x {60 / header.minutes:g}; "
        "missing = not measured, or clutter",
        "cell_methods": "time: mean",
    }


def _grid(header: Header) -> Grid:
    plane = WGS84 if header.version >= 5 else SPHERE
    if (plane, header.rows, header.columns) not in ORIGINS:
        known = ", ".join(f"{ny} x {nx}" for projection, ny, nx in ORIGINS if projection == plane)
        raise ValueError(
            f"it has {header.rows} x {header.columns} cells in version {header.version} of the format; "
            f"the grids {known} are what this reader knows there"
        )
    x0, y0 = ORIGINS[plane, header.rows, header.columns]
    plane = f"{plane} +x_0={x0} +y_0={y0}"
    return Grid(plane, left=-500.0, top=500.0, dx=1000.0, dy=1000.0, nx=header.columns, ny=header.rows)


def _per_count(header: Header) -> float:
    """Rain rate in mm h-1 of one count."""
    return header.precision * 60 / header.minutes


def _cells(content: bytes, *, keep_clutter: bool) -> np.ndarray:
    """Physical values of a whole file, first row in the north."""
    header = read_header(content)
    header.check(len(content))
    stored = np.frombuffer(content, header.cell_type, offset=header.length).reshape(header.rows, header.columns)[::-1]
    if header.product in REFLECTIVITY:
        return np.where(stored < 249, stored.astype(np.float32) / 2 - np.float32(32.5), np.float32(np.nan))
    rain = (stored & 0x0FFF).astype(np.float32) * np.float32(_per_count(header))
    rain[(stored & NEGATIVE) > 0] *= -1
    rain[(stored & (NOT_MEASURED if keep_clutter else NOT_MEASURED | CLUTTER)) > 0] = np.nan
    return rain
