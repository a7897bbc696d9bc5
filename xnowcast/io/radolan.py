"""Deutscher Wetterdienst: RADOLAN and RADVOR composites, binary files with a line of text in front."""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import xarray as xr

from xnowcast.fields.units import ZR_RELATIONS
from xnowcast.io.files import Paths, archived, blame, decode, is_archive, is_packed, path_list, raw_bytes, unpack
from xnowcast.io.grid import Frame, Grid, packed, rain_rate, reflectivity, to_dataset
from xnowcast.io.recognise import reader

PRODUCT = "DWD RADOLAN composite"
HEADER = re.compile(
    rb"([A-Z][A-Z\d])(\d{6})\d{5}(\d{4})BY([ \d]+)VS([ \d]+)SW.{9}PR([ E+\-\d]+)INT([ \d]+)(?:U(\d))?"
    rb"GP([ \d]+)x([ \d]+)(?:VV([ \d]+))?[^\x03]*\x03",
    re.DOTALL,
)
LONGEST_HEADER = 4096
DAY = 1440
PRECISIONS = (1.0, 0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Product:
    """What the cells of a composite mean.

    ``minutes``: length of the interval, which the header must confirm. ``reflectivity``: in units of half a dBZ above
    -32.5 dBZ; else amounts of water in mm. ``cell``: type of a cell. In one byte are codes from 0 to 250; in two are
    twelve bits of number and four of flags. ``header_unit``: minutes that the header's ``INT`` counts where its ``U``
    says no days.
    """

    meaning: str
    minutes: int
    reflectivity: bool = False
    cell: str = "<u2"
    header_unit: int = 1


PRODUCTS: dict[str, Product] = {
    "RX": Product("reflectivity", 5, reflectivity=True, cell="u1"),
    "WX": Product("reflectivity, extended grid", 5, reflectivity=True, cell="u1"),
    "EX": Product("reflectivity, central Europe", 5, reflectivity=True, cell="u1"),
    "WN": Product("reflectivity, analysis and nowcast", 5, reflectivity=True),
    "FX": Product("reflectivity, nowcast", 5, reflectivity=True),
    "RZ": Product("rain after correction of shading", 5),
    "RY": Product("rain after quality control", 5),
    "YW": Product("rain of the radar climatology, adjusted to gauges", 5),
    "RV": Product("rain, analysis and nowcast", 5),
    "EZ": Product("rain, central Europe", 5),
    "EY": Product("rain after quality control, central Europe", 5),
    "RH": Product("hourly sum", 60),
    "RB": Product("hourly sum, adjusted beforehand", 60),
    "RW": Product("hourly sum, adjusted to gauges", 60),
    "RL": Product("hourly sum, merged with gauges", 60),
    "RU": Product("hourly sum, adjusted to or merged with gauges", 60),
    "RQ": Product("hourly sum, analysis and nowcast", 60),
    "RS": Product("hourly sum, analysis and nowcast every 5 min", 60),
    "EH": Product("hourly sum, central Europe", 60),
    "EB": Product("hourly sum, adjusted beforehand, central Europe", 60),
    "EW": Product("hourly sum, adjusted to gauges, central Europe", 60),
    "SQ": Product("sum of 6 h", 360),
    "SH": Product("sum of 12 h", 720),
    "SF": Product("sum of 24 h", DAY),
    "W1": Product("sum of 7 days", 7 * DAY, header_unit=10),
    "W2": Product("sum of 14 days", 14 * DAY, header_unit=10),
    "W3": Product("sum of 21 days", 21 * DAY, header_unit=10),
    "W4": Product("sum of 30 days", 30 * DAY, header_unit=10),
}
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


@reader("DWD RADOLAN", lambda start: HEADER.match(start) is not None)
def open_radolan(paths: Paths, *, keep_clutter: bool = False) -> xr.Dataset:
    """Rain rate or reflectivity from composites of Deutscher Wetterdienst (RW, RY, YW, RV, RX, WN and their kin).

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
        become ``rainfall_rate`` in mm h-1 with ``time_bnds``, and ``time`` is the end of the interval; RX, WN and their
        kin become ``equivalent_reflectivity_factor`` in dBZ, -32.5 dBZ where there is no echo. Nowcasts have the dims
        (init_time, lead_time, y, x); where no lead time but 0 is there, it is taken as an observation. NaN is "not
        measured".

    Raises
    ------
    ValueError
        If a file is truncated or no such composite, its product, interval, precision or grid is none of those known, or
        the files do not fit together.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If pyproj is not installed.

    Notes
    -----
    ``PRODUCTS`` lists what is known; its letters and the header together say what a cell means, and what either does
    not tell is refused. The twelve lower bits of a cell of two bytes count units of 10^(precision), in mm in the
    interval, or in half a dBZ above -32.5 dBZ; bit 13 marks what was not measured, bit 14 negative numbers and bit 15
    clutter. A byte v of RX is v / 2 - 32.5 dBZ, 250 is not measured and 249 is clutter. The Z-R relation
    Z = 256 R^1.42 is the one that DWD uses.

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
    frames = [frame for frame, _ in found]
    if all(frame.init == frame.time for frame in frames):
        frames = [replace(frame, init=None) for frame in frames]  # an analysis is a nowcast of lead time 0
    return to_dataset(frames, [path for _, path in found])


@dataclass(frozen=True)
class Header:
    """What stands in front of the cells; lengths in bytes, ``lead`` in minutes, and the interval in minutes and in
    the header's words."""

    product: str
    time: datetime
    length: int
    total: int
    version: int
    precision: float
    minutes: int
    interval: str
    rows: int
    columns: int
    lead: int | None

    @property
    def meaning(self) -> Product:
        return PRODUCTS[self.product]

    @property
    def cell_type(self) -> np.dtype:
        return np.dtype(self.meaning.cell)

    @property
    def scale(self) -> float:
        """Of one count of a cell: dBZ of reflectivity, else mm h-1."""
        if not self.meaning.reflectivity:
            return self.precision * 60 / self.minutes
        return 0.5 if self.meaning.cell == "u1" else 0.5 * self.precision

    def check(self, available: int | None) -> None:
        """Refuse a header that does not fit to its own product and grid, or to the number of bytes that are there."""
        wanted = self.length + self.rows * self.columns * self.cell_type.itemsize
        if self.total != wanted or (available is not None and available != wanted):
            raise ValueError(
                f"it has {available if available is not None else self.total} bytes, and {self.rows} x {self.columns} "
                f"cells of {self.product} with their header need {wanted}"
            )
        if self.minutes != self.meaning.minutes and not self.meaning.reflectivity:
            raise ValueError(
                f"it is an amount of {self.minutes} minutes ({self.interval}); {self.product} is one of "
                f"{self.meaning.minutes}"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"its precision is {self.precision:g}; from 1 to 0.001 are what this reader knows")


def read_header(content: bytes) -> Header:
    """Header of a composite, whose content is given at least up to the header's end."""
    found = HEADER.match(content)
    if found is None:
        raise ValueError(f"it does not start with the header of a composite, but with {content[:24]!r}")
    letters, clock, month, total, version, precision, interval, unit, rows, columns, lead = found.groups()
    product = letters.decode()
    if product not in PRODUCTS:
        raise ValueError(f"it is the product {product}; {', '.join(PRODUCTS)} are what this reader knows")
    return Header(
        product=product,
        time=datetime.strptime((clock + month).decode(), "%d%H%M%m%y"),
        length=found.end(),
        total=int(total),
        version=int(version),
        precision=float(f"1{precision.decode().replace(' ', '')}"),
        minutes=_minutes(PRODUCTS[product], int(interval), unit),
        interval=f"INT {int(interval)}" + (f", unit U{unit.decode()}" if unit else ""),
        rows=int(rows),
        columns=int(columns),
        lead=None if lead is None else int(lead),
    )


def _minutes(product: Product, interval: int, unit: bytes | None) -> int:
    """Length of the interval: ``U`` tells what ``INT`` counts, minutes (0) or days (1)."""
    if unit not in (None, b"0", b"1"):
        raise ValueError(f"its interval is in the unit U{unit.decode()}; minutes (U0) and days (U1) are known")
    if unit == b"1":
        return interval * DAY
    # some writers of the long sums give their minutes all the same
    return interval if interval == product.minutes else interval * product.header_unit


def _frames(path: Path, keep_clutter: bool) -> Iterator[Frame]:
    """One frame of a file, several of an archive."""
    start = blame(path, PRODUCT, lambda: raw_bytes(path, LONGEST_HEADER))
    cells = functools.partial(_cells, keep_clutter=keep_clutter)
    if not is_archive(start):
        size = None if is_packed(path) else path.stat().st_size
        yield blame(path, PRODUCT, lambda: _frame(start, size, functools.partial(_of_file, path, cells)))
        return
    members = archived(path)
    while (member := blame(path, PRODUCT, lambda: next(members, None))) is not None:
        name, content = member
        start = blame(path / name, PRODUCT, functools.partial(unpack, content, LONGEST_HEADER))
        # what is packed stays so until it is looked at
        size = None if start != content[: len(start)] else len(content)
        later = functools.partial(_of_member, path / name, content, cells)
        yield blame(path / name, PRODUCT, functools.partial(_frame, start, size, later))


Cells = Callable[[bytes], np.ndarray]


def _of_file(path: Path, cells: Cells, most: int) -> np.ndarray:
    return decode(path, PRODUCT, cells, most)


def _of_member(path: Path, content: bytes, cells: Cells, most: int) -> np.ndarray:
    return blame(path, PRODUCT, lambda: cells(unpack(content, most)))


def _frame(start: bytes, size: int | None, values: Callable[[int], np.ndarray]) -> Frame:
    """A frame whose cells are read later, by a function of the number of bytes that they can have with their header."""
    header = read_header(start)
    header.check(size)
    grid = _grid(header)
    is_reflectivity = header.meaning.reflectivity
    init = np.datetime64(header.time, "ns")
    time = init + np.timedelta64(header.lead or 0, "m")
    return Frame(
        values=functools.partial(values, header.total + 1),
        time=time,
        init=None if header.lead is None else init,
        start=None if is_reflectivity else time - np.timedelta64(header.minutes, "m"),
        grid=grid,
        name="equivalent_reflectivity_factor" if is_reflectivity else "rainfall_rate",
        attrs=_labels(header),
        about={
            "title": f"DWD composite {header.product}" + (" (nowcast)" if header.lead else ""),
            "institution": "Deutscher Wetterdienst (DWD)",
            "source": f"RADOLAN/RADVOR radar composite {header.product}",
            "license": "open data of Deutscher Wetterdienst, to be named as the source: https://www.dwd.de/copyright",
        },
        packing=packed(header.scale, -32.5 if is_reflectivity else 0),
        product=header.product,
    )


def _labels(header: Header) -> dict[str, object]:
    if header.meaning.reflectivity:
        comment = "-32.5 dBZ = no echo, a valid measurement; missing = not measured, or clutter"
        return reflectivity(comment, ZR_RELATIONS["dwd"])
    return rain_rate(
        f"source is a {header.minutes}-min accumulation x {60 / header.minutes:g}; missing = not measured, or clutter"
    )


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


def _cells(content: bytes, *, keep_clutter: bool) -> np.ndarray:
    """Physical values of a whole file, first row in the north."""
    header = read_header(content)
    header.check(len(content))
    stored = np.frombuffer(content, header.cell_type, offset=header.length).reshape(header.rows, header.columns)[::-1]
    offset = np.float32(-32.5 if header.meaning.reflectivity else 0)
    if header.meaning.cell == "u1":
        return np.where(stored < 249, stored.astype(np.float32) * np.float32(header.scale) + offset, np.float32(np.nan))
    values = (stored & 0x0FFF).astype(np.float32) * np.float32(header.scale)
    values[(stored & NEGATIVE) > 0] *= -1
    values += offset
    values[(stored & (NOT_MEASURED if keep_clutter else NOT_MEASURED | CLUTTER)) > 0] = np.nan
    return values
