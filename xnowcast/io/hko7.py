"""HKO-7 of the Hong Kong Observatory: reflectivity as PNG pictures, with masks of what is no rain."""

import functools
import io
import re
import zlib
from datetime import datetime
from pathlib import Path

import numpy as np
import xarray as xr

from xnowcast.fields.units import EARTH_RADIUS_M, ZR_RELATIONS
from xnowcast.io.files import Paths, blame, decode, extra, path_list
from xnowcast.io.grid import Frame, Grid, LocalGrid, reflectivity, to_dataset
from xnowcast.io.recognise import reader

PRODUCT = "HKO-7 picture"
SIZE = 480
EXTENT = 512_000.0
NAME = re.compile(r"RAD_?(\d{12}|\d{14})\b")
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _is_picture(start: bytes) -> bool:
    """PNG, in which width and height stand after the signature."""
    return start.startswith(SIGNATURE) and start[16:24] == SIZE.to_bytes(4) * 2


@reader("HKO-7 PNG", _is_picture)
def open_hko7(
    paths: Paths, *, masks: str | Path | bool = True, centre: tuple[float, float] | None = None
) -> xr.Dataset:
    """Reflectivity from HKO-7 pictures (``radarPNG/2015/07/22/RAD150722120000.png``).

    Parameters
    ----------
    paths : path, pattern or iterable of them
        PNG pictures, in any order; for example the pattern ``radarPNG/2015/07/*/*.png``.
    masks : path or bool
        Folder ``radarPNG_mask``, whose subfolders are those of the pictures. By default (True) it is used where it lies
        beside the folder ``radarPNG`` of the pictures; False uses no masks.
    centre : (float, float), optional
        Latitude and longitude of the middle of the pictures, which the data set does not give. With them the pictures
        get a projection (azimuthal equidistant) and 2-D ``lat`` and ``lon``.

    Returns
    -------
    xarray.Dataset
        ``equivalent_reflectivity_factor`` in dBZ with dims (time, y, x) of 480 x 480 pixels of 1067 m, float32, read
        when it is used. -10 dBZ is "no echo" (attribute ``zerovalue``); NaN is what a mask takes out. Times are those
        of the file names.

    Raises
    ------
    ValueError
        If a file is truncated, no such picture, has no time in its name or lacks its mask, or two have the same time.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If Pillow (or, with a centre, pyproj) is not installed.

    Notes
    -----
    A pixel p is 70 p / 255 - 10 dBZ at 2 km height, over 512 x 512 km around Hong Kong; the Z-R relation of the data
    set is Z = 58.53 R^1.56. A mask is zlib-compressed booleans (or a PNG), true where the picture is valid.

    References
    ----------
    Shi et al. (2017): Deep learning for precipitation nowcasting, a benchmark and a new model, NeurIPS 30

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "RAD150722120000.png"
    >>> Image.fromarray(np.full((480, 480), 51, np.uint8)).save(path)
    >>> radar = open_hko7(path)
    >>> radar.time.values, radar.equivalent_reflectivity_factor.values.max()
    (array(['2015-07-22T12:00:00.000000000'], dtype='datetime64[ns]'), np.float32(4.0))
    """
    files = path_list(paths)
    grid = _grid(centre)
    frames = [blame(path, PRODUCT, functools.partial(_frame, path, _mask_of(path, masks), grid)) for path in files]
    return to_dataset(frames, files)


def _grid(centre: tuple[float, float] | None) -> Grid | LocalGrid:
    spacing = EXTENT / SIZE
    if centre is None:
        return LocalGrid(spacing, spacing, SIZE, SIZE)
    plane = f"+proj=aeqd +lat_0={centre[0]} +lon_0={centre[1]} +R={EARTH_RADIUS_M:g} +units=m +no_defs"
    return Grid(plane, -EXTENT / 2, EXTENT / 2, spacing, spacing, nx=SIZE, ny=SIZE)


def _mask_of(path: Path, masks: str | Path | bool) -> Path | None:
    """Where the mask of a picture is, whether it exists or not; None without masks."""
    if masks is False:
        return None
    parts = path.absolute().parts
    root = len(parts) - 1 - parts[::-1].index("radarPNG") if "radarPNG" in parts[:-1] else None
    folder = Path(*parts[:root], "radarPNG_mask") if masks is True and root is not None else masks
    if folder is True or not Path(folder).is_dir():
        if folder is masks and masks is not True:
            raise ValueError(f"masks={str(masks)!r} is no folder; give the folder radarPNG_mask, or masks=False")
        return None
    below = Path(*parts[root + 1 :]) if root is not None else Path(path.name)
    found = [Path(folder, below).with_suffix(ending) for ending in (".mask", ".png")]
    return found[0] if found[0].is_file() or not found[1].is_file() else found[1]


def _frame(path: Path, mask: Path | None, grid: Grid | LocalGrid) -> Frame:
    stamp = NAME.match(path.stem)
    if stamp is None:
        raise ValueError("its name has no time; RADyymmddHHMMSS.png is expected")
    if mask is not None and not mask.is_file():
        raise ValueError(f"its mask {mask} does not exist; masks=False opens pictures without masks")
    time = datetime.strptime(stamp[1], "%y%m%d%H%M%S" if len(stamp[1]) == 12 else "%Y%m%d%H%M%S")
    return Frame(
        values=functools.partial(_values, path, mask),
        time=np.datetime64(time, "ns"),
        grid=grid,
        name="equivalent_reflectivity_factor",
        attrs=reflectivity(
            "-10 dBZ = no echo, a valid measurement; missing = masked as no rain",
            ZR_RELATIONS["hko-7"],
            zerovalue=-10.0,
            long_name="radar reflectivity factor at 2 km height",
        ),
        about={
            "title": "HKO-7 radar reflectivity (CAPPI at 2 km)",
            "institution": "Hong Kong Observatory",
            "source": "radar at Hong Kong",
            "references": "Shi et al. (2017), NeurIPS 30",
            "license": "for academic research, by agreement with the Hong Kong Observatory; all rights stay with it",
        },
    )


def _values(path: Path, mask: Path | None) -> np.ndarray:
    of_pixel = (np.arange(256) * 70 / 255 - 10).astype(np.float32)
    dbz = of_pixel[decode(path, PRODUCT, _pixels)]
    if mask is not None:
        dbz[~decode(mask, "HKO-7 mask", _valid)] = np.nan
    return dbz


def _pixels(content: bytes) -> np.ndarray:
    picture = extra("PIL.Image").open(io.BytesIO(content), formats=["PNG"])
    if picture.size != (SIZE, SIZE):  # before anything is unpacked
        kind = "uint8" if picture.mode == "L" else picture.mode
        raise ValueError(f"it is a picture of {picture.size[::-1]} {kind}; {SIZE} x {SIZE} grey pixels are expected")
    # numbers of a palette are no grey
    pixels = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    if pixels.ndim == 3 and (pixels[..., :3] == pixels[..., :1]).all():  # grey, stored as colours
        pixels = pixels[..., 0]
    if pixels.shape != (SIZE, SIZE) or pixels.dtype != np.uint8:
        raise ValueError(f"it is a picture of {pixels.shape} {pixels.dtype}; {SIZE} x {SIZE} grey pixels are expected")
    return pixels


def _valid(content: bytes) -> np.ndarray:
    if content.startswith(SIGNATURE):
        return _pixels(content) > 0
    unpacking = zlib.decompressobj()
    flags = np.frombuffer(unpacking.decompress(content, SIZE * SIZE + 1), np.uint8)
    if flags.size != SIZE * SIZE or not unpacking.eof:
        raise ValueError(f"it has {flags.size} flags; {SIZE} x {SIZE} are expected")
    return flags.reshape(SIZE, SIZE) > 0
