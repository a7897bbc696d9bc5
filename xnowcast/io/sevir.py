"""SEVIR of MIT: vertically integrated liquid of storms over the USA, many events a file, and their catalogue."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from xnowcast.fields import windows
from xnowcast.fields.units import sevir_vil
from xnowcast.io.files import Paths, beside, blame, extra, path_list
from xnowcast.io.grid import Grid, LocalGrid, along_time, labelled
from xnowcast.io.hdf5 import check_array, picture, text
from xnowcast.io.lazy import Stack, lazy
from xnowcast.io.recognise import reader

PRODUCT = "SEVIR VIL file"
MISSING = 255
MOST_EVENTS = 1_000_000  # the whole of SEVIR has 20 000
COLUMNS = (
    *("id", "file_name", "file_index", "img_type", "time_utc", "minute_offsets"),
    *("llcrnrlat", "llcrnrlon", "proj", "size_x", "size_y", "height_m", "width_m"),
)
NOMINAL_START = np.datetime64("1970-01-01T00:00", "ns")
ABOUT = {
    "title": "SEVIR vertically integrated liquid",
    "institution": "Massachusetts Institute of Technology, Lincoln Laboratory",
    "source": "mosaic of NEXRAD weather radars",
    "references": "Veillette, Samsi and Mattioli (2020): SEVIR, a storm event imagery dataset, NeurIPS 33",
    "license": "approved for public release, distribution unlimited; cite the reference",
}


@reader("SEVIR VIL", lambda file: "vil" in file and "id" in file, "hdf5")
def open_sevir(
    paths: Paths,
    *,
    catalog: str | Path | None = None,
    event: str | None = None,
    period: tuple[str, str] | None = None,
) -> xr.Dataset:
    """Vertically integrated liquid from SEVIR (``SEVIR_VIL_STORMEVENTS_2018_0101_0630.h5`` and their kin).

    Parameters
    ----------
    paths : path, pattern or iterable of them
        HDF5 files, in any order.
    catalog : path, optional
        ``CATALOG.csv``. By default it is looked for beside the first file and in the four folders above.
    event : str, optional
        Only this event, such as ``"S851130"``, with its own times and place.
    period : (str, str), optional
        Only events whose ``time_utc`` lies from the first time on and before the second.

    Returns
    -------
    xarray.Dataset
        ``vil`` in kg m-2, float32, read when it is used; NaN is missing. One event has the dims (time, y, x), its
        projection, and 2-D ``lat`` and ``lon``. Several have the dims (event, time, y, x), sorted by their times:
        there ``time`` is nominal, the same for all events and counted from 1970-01-01 00:00, the true times are in
        ``valid_time`` (event, time), and y and x are distances from the centre of each event, whose south-west corner
        is at ``south_west_lat`` and ``south_west_lon`` (event). ``event_time`` is the ``time_utc`` of the catalogue.

    Raises
    ------
    ValueError
        If a file is truncated or no SEVIR VIL file, the catalogue is missing or does not fit to it, or no event is
        left.
    FileNotFoundError
        If a file does not exist.
    ImportError
        If h5py (or, for one event, pyproj) is not installed.

    Notes
    -----
    A pixel p is 0 for p <= 5, (p - 2) / 90.66 up to 18 and exp((p - 83.9) / 38.9) up to 254, in kg m-2; 255 is missing.
    Rows are stored from the south on; here the first row is in the north, as in the other readers. SEVIR has some ids
    twice, by mistake: among several events these are left out, and so are events with other pixels or steps than most
    have; the attribute ``left_out_events`` lists them.

    References
    ----------
    Veillette, Samsi and Mattioli (2020): SEVIR, a storm event imagery dataset for deep learning applications in radar
    and satellite meteorology, NeurIPS 33

    Examples
    --------
    >>> open_sevir("SEVIR_VIL_STORMEVENTS_2018_0101_0630.h5")
    Traceback (most recent call last):
    FileNotFoundError: SEVIR_VIL_STORMEVENTS_2018_0101_0630.h5 does not exist
    """
    files = path_list(paths)
    known = _catalog(files[0], catalog)
    if len(set(files)) < len(files):
        raise ValueError(f"a file is given twice ({', '.join(map(str, files[:3]))} ...): give each once")
    rows = pd.concat([blame(path, PRODUCT, functools.partial(_rows, path, known)) for path in files])
    rows = _chosen(rows.sort_values(["time", "id"], kind="stable"), event, period)
    if event is not None:
        return blame(rows.iloc[0].path, PRODUCT, functools.partial(_one, rows.iloc[0]))
    return _several(rows)


def vil_of_pixel() -> np.ndarray:
    """Vertically integrated liquid in kg m-2 of each of the 256 pixel values; 255, missing, is NaN.

    Returned: float32 of shape (256,).

    >>> vil_of_pixel()[[5, 18, 219, 255]]
    array([ 0.        ,  0.17648357, 32.233547  ,         nan], dtype=float32)
    """
    pixel = np.arange(256)
    vil = sevir_vil(pixel)
    vil[:6], vil[MISSING] = 0, np.nan
    return vil.astype(np.float32)


def _catalog(path: Path, given: str | Path | None) -> pd.DataFrame:
    found = [Path(given)] if given is not None else beside(path, "CATALOG.csv")
    if not found:
        raise ValueError(
            f"CATALOG.csv, which tells when and where the events are, is not beside {path}, nor in the folders above: "
            "put it there, or give its path as catalog="
        )
    return blame(found[0], "SEVIR catalogue", functools.partial(_read_catalog, found[0]))


def _read_catalog(path: Path) -> pd.DataFrame:
    known = pd.read_csv(path, low_memory=False)
    if missing := [name for name in COLUMNS if name not in known]:
        raise ValueError(f"it has no column {', '.join(missing)}")
    known = known.loc[known["img_type"] == "vil", list(COLUMNS)]
    known["time"] = pd.to_datetime(known["time_utc"]).astype("M8[ns]")
    known["file"] = [Path(name).name for name in known["file_name"]]
    return known


def _rows(path: Path, known: pd.DataFrame) -> pd.DataFrame:
    """Rows of the catalogue for the events of one file."""
    with extra("h5py").File(path, "r") as file:
        if "vil" not in file or "id" not in file or file["vil"].ndim != 4:
            raise ValueError(f"it holds {', '.join(file) or 'nothing'}; id and vil (event, y, x, time) are expected")
        check_array(file["vil"], file, dims=4)
        events, *size, frames = file["vil"].shape
        if file["vil"].dtype != np.uint8 or file["id"].shape != (events,) or events > MOST_EVENTS:
            raise ValueError(
                f"vil is {file['vil'].dtype} of {events} events, id {file['id'].shape}; uint8 and an id for each are "
                "expected"
            )
        ids = [text(name) for name in picture(file["id"])]
    rows = known[known["file"] == path.name].assign(path=path)
    if rows.empty:
        raise ValueError("the catalogue does not know it: its name must be that of the column file_name")
    for row in rows.itertuples():
        if not row.file_index < len(ids) or ids[row.file_index] != row.id:
            found = ids[row.file_index] if row.file_index < len(ids) else "nothing"
            raise ValueError(f"the catalogue has event {row.id} at {row.file_index}, the file has {found} there")
        if (row.size_y, row.size_x, _offsets(row).size) != (*size, frames):
            raise ValueError(
                f"event {row.id} does not have the {frames} frames of {size[0]} x {size[1]} pixels of the file"
            )
    return rows


def _offsets(row) -> np.ndarray:
    """Times of the frames against that of the event."""
    return np.array([round(60 * float(m)) for m in str(row.minute_offsets).split(":")]).astype("m8[s]").astype("m8[ns]")


def _chosen(rows: pd.DataFrame, event: str | None, period: tuple[str, str] | None) -> pd.DataFrame:
    if period is not None:
        first, last = (windows.utc_time(edge) for edge in period)
        rows = rows[(rows["time"] >= first) & (rows["time"] < last)]
    if event is not None:
        rows = rows[rows["id"] == event]
    if rows.empty:
        within = "" if period is None else f" from {period[0]} to {period[1]}"
        raise ValueError(f"there is no event {event or ''}{within} in these files".replace("  ", " "))
    return rows


def _one(row) -> xr.Dataset:
    dx, dy = row.width_m / row.size_x, row.height_m / row.size_y
    left, bottom = extra("pyproj").Proj(row.proj)(row.llcrnrlon, row.llcrnrlat)
    grid = Grid(row.proj, left, bottom + row.height_m, dx, dy, nx=int(row.size_x), ny=int(row.size_y))
    times = np.datetime64(row.time, "ns") + _offsets(row)
    read = functools.partial(_frames_of_one, row.path, row.file_index)
    values = lazy(("time", "y", "x"), Stack((len(times),), grid.shape, [(len(times), read)]), (len(times), *grid.shape))
    return _labelled(along_time("vil", values, times), grid, [row.path]).assign_attrs(event=row.id)


def _fits(rows: pd.DataFrame) -> np.ndarray:
    """Whether an event is there once, and has the pixels and steps that most events have."""
    steps = [tuple(np.diff(_offsets(row)).tolist()) for row in rows.itertuples()]
    kind = pd.Series(list(zip(rows.size_y, rows.size_x, rows.height_m, rows.width_m, steps, strict=True)))
    return (~rows["id"].duplicated(keep=False)).to_numpy() & (kind == kind.mode()[0]).to_numpy()


def _several(rows: pd.DataFrame) -> xr.Dataset:
    fits = _fits(rows)
    left_out, rows = sorted(set(rows["id"][~fits])), rows[fits]
    if rows.empty:
        raise ValueError(f"every event is there more than once: {', '.join(left_out[:5])}")
    first = rows.iloc[0]
    grid = LocalGrid(first.width_m / first.size_x, first.height_m / first.size_y, int(first.size_x), int(first.size_y))
    offsets = _offsets(first)
    reads: Sequence = [(1, functools.partial(_event, row.path, row.file_index)) for row in rows.itertuples()]
    picture = (len(offsets), *grid.shape)
    values = lazy(("event", "time", "y", "x"), Stack((len(rows),), picture, reads), (1, *picture))
    dataset = along_time("vil", values, NOMINAL_START + (offsets - offsets[0]))
    dataset.time.attrs["comment"] = "nominal, the same for all events; valid_time has the true times"
    dataset = _labelled(_with_events(dataset, rows), grid, list(rows["path"]))
    return dataset.assign_attrs(left_out_events=" ".join(left_out)) if left_out else dataset


def _with_events(dataset: xr.Dataset, rows: pd.DataFrame) -> xr.Dataset:
    """The dataset with the names, times and places of its events."""
    times = rows["time"].to_numpy()
    valid = times[:, None] + np.stack([_offsets(row) for row in rows.itertuples()])
    dataset = dataset.assign_coords(
        event=("event", rows["id"].to_numpy(dtype=object), {"long_name": "SEVIR id"}),
        event_time=("event", times, {"long_name": "time of the event in the catalogue"}),
        valid_time=(("event", "time"), valid, {"standard_name": "time", "long_name": "true time"}),
    )
    # no coordinates, for they are not where the pixels are
    for name, long_name in (("lat", "latitude"), ("lon", "longitude")):
        attrs = {"long_name": f"{long_name} of the south-west corner", "units": "degree"}
        dataset[f"south_west_{name}"] = ("event", rows[f"llcrnr{name}"].to_numpy(), attrs)
    return dataset


def _labelled(dataset: xr.Dataset, grid: Grid | LocalGrid, files: list[Path]) -> xr.Dataset:
    dataset["vil"].attrs = {
        "long_name": "vertically integrated liquid",
        "units": "kg m-2",
        "comment": "missing = outside radar coverage",
        "cell_methods": "time: point",
    }
    return labelled(dataset, "vil", grid, ABOUT, files)


def _event(path: Path, index: int, places: np.ndarray) -> np.ndarray:
    """(1, time, y, x) of one event."""
    return blame(path, PRODUCT, lambda: _decoded(path, index, slice(None)))[None]


def _frames_of_one(path: Path, index: int, places: np.ndarray) -> np.ndarray:
    """(places, y, x) of one event."""
    first, last = int(places.min()), int(places.max())
    return blame(path, PRODUCT, lambda: _decoded(path, index, slice(first, last + 1)))[places - first]


def _decoded(path: Path, index: int, frames: slice) -> np.ndarray:
    with extra("h5py").File(path, "r") as file:
        check_array(file["vil"], file, dims=4)
        pixels = picture(file["vil"], (index, slice(None), slice(None), frames))
    return vil_of_pixel()[np.moveaxis(pixels, -1, 0)[:, ::-1]]
