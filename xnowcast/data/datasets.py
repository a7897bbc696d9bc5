"""Radar events to learn with, fetched once and opened as CF datasets; and a synthetic radar that needs no network.

The events are the public example data of pysteps. Their owners keep all rights: xnowcast ships none of them. Raw
files are fetched with pooch, checked against ``registry.csv``, decoded by :mod:`xnowcast.io` and kept as one NetCDF
per event.
"""

import csv
import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import xarray as xr

from xnowcast import check, io
from xnowcast.data.synthetic import synthetic_radar
from xnowcast.data.synthetic_nwp import synthetic_nwp
from xnowcast.drafts import draft

__all__ = ["describe", "names", "open", "synthetic_nwp", "synthetic_radar"]

COMMIT = "eaa59fb8f39205a3b1a0b44724ad8cd4a86d107e"
BASE_URL = f"https://github.com/pySTEPS/pysteps-data/raw/{COMMIT}/"
# Raise when a reader changes any decoded value or label: events decoded by older readers are then decoded again.
DECODER_VERSION = 1
RETRIES = 2
STEP = np.timedelta64(5, "m")

_NO_LICENCE = (
    "The pysteps-data README states no licence for this source; research/test use only, all rights stay with the "
    "data owner; cite the institution and https://pysteps.github.io."
)
_KNMI_LICENCE = f"{_NO_LICENCE} KNMI open data are generally CC BY 4.0 (dataplatform.knmi.nl), not stated in the repo."
_RMI_LICENCE = (
    "This example data originating from RMI (Royal Meteorological Institute of Belgium) may not be used for "
    "commercial purposes, all property and intellectual rights are an exclusivity of the RMI and may not be "
    "transferred, the source of the data must be cited in each publication in which the data of the RMI have been "
    "used. (text from the pysteps-data README)"
)


@dataclass(frozen=True)
class Event:
    """One event: where its raw files are and what is known of it beyond them. Steps are 5 minutes throughout."""

    folder: str
    start: str
    shape: tuple[int, int]
    title: str
    institution: str
    source: str
    license: str


def _fmi(date: str, start: str) -> Event:
    return Event(
        folder=f"radar/fmi/pgm/{date}",
        start=start,
        shape=(1226, 760),
        title=f"FMI lowest-PPI/CAPPI radar composite, Finland, {date}",
        institution="Finnish Meteorological Institute (FMI)",
        source="radar reflectivity composite (10 C-band radars, product LOWEST, corrected reflectivity)",
        license=_NO_LICENCE,
    )


def _mch(date: str, start: str) -> Event:
    return Event(
        folder=f"radar/mch/{date}",
        start=start,
        shape=(640, 710),
        title=f"MeteoSwiss ACQUIRE (AQC) 5-min radar rainfall, {date}",
        institution="MeteoSwiss",
        source="radar QPE composite AQC (C-band network), 5-min accumulation",
        license=_NO_LICENCE,
    )


EVENTS: dict[str, Event] = {
    "fmi_20160928": _fmi("20160928", "2016-09-28T14:45"),
    "fmi_20170509": _fmi("20170509", "2017-05-09T10:45"),
    "mch_20150515": _mch("20150515", "2015-05-15T15:45"),
    "mch_20160711": _mch("20160711", "2016-07-11T20:45"),
    "mch_20170131": _mch("20170131", "2017-01-31T09:45"),
    "knmi_20100826": Event(
        folder="radar/KNMI/2010/08",
        start="2010-08-26T00:00",
        shape=(765, 700),
        title="KNMI 5-min radar rainfall (RAD_NL25_RAP_5min), 2010-08-26",
        institution="Royal Netherlands Meteorological Institute (KNMI)",
        source="radar composite of De Bilt and Den Helder, pseudo-CAPPI 1.5 km, 5-min accumulation",
        license=_KNMI_LICENCE,
    ),
    "rmi_20210704": Event(
        folder="radar/rmi/radqpe/20210704",
        start="2021-07-04T15:50",
        shape=(700, 700),
        title="RMI RADQPE rain rate composite, Belgium, 2021-07-04 (gauge-adjusted: mean-field bias)",
        institution="Royal Meteorological Institute of Belgium (RMI)",
        source="radar QPE composite of behel, bejab, bewid, denhb, frave (rate, mean-field-bias adjusted)",
        license=_RMI_LICENCE,
    ),
}


@dataclass(frozen=True)
class RawFile:
    """One line of the registry: path below the base address, sha256 and size in bytes."""

    path: str
    sha256: str
    size: int


def names() -> list[str]:
    """Names that :func:`open` understands.

    Returns
    -------
    list of str

    Examples
    --------
    >>> names()
    ['fmi_20160928', 'fmi_20170509', 'knmi_20100826', 'mch_20150515', ..., 'rmi_20210704', 'synthetic']
    """
    return [*sorted(EVENTS), "synthetic"]


def describe(name: str) -> dict[str, Any]:
    """What is known of a dataset without fetching it.

    Parameters
    ----------
    name : str
        One of :func:`names`.

    Returns
    -------
    dict
        ``name``, ``title``, ``institution``, ``license``; for events also ``references``, ``files`` (their number),
        ``size`` (bytes to fetch), ``start``, ``end`` (numpy.datetime64), ``step`` (numpy.timedelta64) and ``shape``
        (y, x).

    Raises
    ------
    ValueError
        If the name is unknown; the nearest one is suggested.

    Examples
    --------
    >>> event = describe("rmi_20210704")
    >>> event["files"], event["size"], str(event["end"])
    (39, 6423775, '2021-07-04T19:00')
    """
    if name == "synthetic":
        return {
            "name": name,
            "title": "synthetic radar: rain of a known motion, made on the spot",
            "institution": "xnowcast",
            "license": "Apache-2.0",
        }
    event, files = _event(name), _raw_files(name)
    start = np.datetime64(event.start, "m")
    return {
        "name": name,
        "title": event.title,
        "institution": event.institution,
        "license": event.license,
        "references": f"https://github.com/pySTEPS/pysteps-data (commit {COMMIT[:7]}) {event.folder}",
        "files": len(files),
        "size": sum(file.size for file in files),
        "start": start,
        "end": start + (len(files) - 1) * STEP,
        "step": STEP,
        "shape": event.shape,
    }


def open(
    name: str,
    *,
    frames: int | slice | None = None,
    cache: str | os.PathLike | None = None,
    mirror: str | os.PathLike | None = None,
    offline: bool | None = None,
    progressbar: bool = False,
    chunks: Any = None,
    **options: Any,
) -> xr.Dataset:
    """A radar event as a CF dataset; what is missing is fetched, checked, decoded and kept.

    Parameters
    ----------
    name : str
        One of :func:`names`. ``"synthetic"`` is :func:`synthetic_radar` and needs no network.
    frames : int or slice, optional
        Only the first ``frames`` time steps, or this part of them; only their files are fetched. All by default.
    cache : path, optional
        Folder for raw and decoded files. Default: environment variable ``XNOWCAST_DATA``, else the user's cache
        folder.
    mirror : str or path, optional
        Where the raw files are instead of the public address: another address (``http://``, ``https://``,
        ``file://``) or a folder. Default: environment variable ``XNOWCAST_MIRROR``.
    offline : bool, optional
        Never touch the network. Default: whether environment variable ``XNOWCAST_OFFLINE`` is 1.
    progressbar : bool, optional
        Show the download on standard error.
    chunks : int, dict, "auto" or None, optional
        As in :func:`xarray.open_dataset`: ``{}`` gives a Dask array with one chunk per time step, None (the default)
        one that is read when used.
    **options
        Of :func:`synthetic_radar`, for ``"synthetic"`` only.

    Returns
    -------
    xarray.Dataset
        ``rainfall_rate`` in mm h-1 or ``equivalent_reflectivity_factor`` in dBZ, dims (time, y, x), float32, NaN
        outside coverage. The owner's terms are in ``attrs["license"]``.

    Raises
    ------
    ValueError
        If the name is unknown, ``frames`` selects nothing or more than there is, or fetched content differs from
        the registry.
    FileNotFoundError
        If files are missing offline or in a folder given as ``mirror``.
    ConnectionError
        If the files cannot be fetched.

    Examples
    --------
    >>> open("fmi_2016092")
    Traceback (most recent call last):
    ValueError: no dataset 'fmi_2016092'; did you mean 'fmi_20160928'? There are fmi_20160928, ...
    """
    if name == "synthetic":
        return _synthetic(options, frames=frames, chunks=chunks)
    if options:
        raise TypeError(f"{name!r} takes no option {next(iter(options))!r}; only 'synthetic' takes more options")
    files = _raw_files(name)
    wanted = files[_selection(name, frames, len(files))]
    folder = _cache_folder(cache)
    whole = _decoded_path(folder, name, files)
    if whole.is_file():
        return xr.open_dataset(whole, chunks=chunks).isel(time=_selection(name, frames, len(files)))
    decoded = _decoded_path(folder, name, wanted)
    if not decoded.is_file():
        _fetch(name, wanted, folder, mirror, offline=offline, progressbar=progressbar)
        _decode(name, [folder / file.path for file in wanted], decoded)
    return xr.open_dataset(decoded, chunks=chunks)


def _synthetic(options: dict[str, Any], *, frames: int | slice | None, chunks: Any) -> xr.Dataset:
    if isinstance(frames, slice):
        raise ValueError(f"frames={frames!r} is for events; 'synthetic' takes the number of frames to make")
    if frames is not None:
        options["frames"] = frames
    if chunks is not None:
        options["chunks"] = chunks
    return synthetic_radar(**options)


def _event(name: str) -> Event:
    if name not in EVENTS:
        near = check.nearest(name, names())
        hint = f"did you mean {near!r}? " if near else ""
        raise ValueError(f"no dataset {name!r}; {hint}There are {', '.join(names())}")
    return EVENTS[name]


@functools.cache
def _registry() -> tuple[RawFile, ...]:
    table = resources.files("xnowcast.data").joinpath("registry.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(table.splitlines())
    return tuple(RawFile(row["path"], row["sha256"], int(row["size"])) for row in rows)


def _raw_files(name: str) -> list[RawFile]:
    """Raw files of an event in the order of time, which is the order of their names."""
    folder = _event(name).folder + "/"
    return sorted((file for file in _registry() if file.path.startswith(folder)), key=lambda file: file.path)


def _selection(name: str, frames: int | slice | None, available: int) -> slice:
    if frames is None:
        return slice(0, available, 1)
    if isinstance(frames, slice):
        chosen = slice(*frames.indices(available)) if frames.step != 0 else slice(0, 0, 1)
        if chosen.step > 0 and range(available)[chosen]:
            return chosen
    elif check.is_whole(frames, 1, available):
        return slice(0, int(frames), 1)
    raise ValueError(
        f"frames={frames!r} selects no part of {name!r}: give 1 to {available}, or a slice of 0 to {available} "
        "that runs forward"
    )


def _cache_folder(cache: str | os.PathLike | None) -> Path:
    import pooch  # here, because it is only needed once data are opened

    return Path(cache or os.environ.get("XNOWCAST_DATA") or pooch.os_cache("xnowcast")).expanduser().absolute()


def _decoded_path(folder: Path, name: str, files: list[RawFile]) -> Path:
    """One name for these raw contents read by this decoder, so that nothing stale is ever opened."""
    content = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()
    return folder / "decoded" / f"{name}-{len(files)}frames-{content[:10]}-v{DECODER_VERSION}.nc"


def _fetch(
    name: str,
    files: list[RawFile],
    folder: Path,
    mirror: str | os.PathLike | None,
    *,
    offline: bool | None,
    progressbar: bool,
) -> None:
    """Every file in ``folder``, whole and with the registered hash; or an error that says which is not."""
    import pooch

    base = _base_url(mirror)
    if offline is None:
        offline = os.environ.get("XNOWCAST_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")
    if offline and not base.startswith("file:"):
        return _require_local(name, files, folder)
    store = pooch.create(
        path=folder,
        base_url=base,
        registry={file.path: f"sha256:{file.sha256}" for file in files},
        retry_if_failed=RETRIES,
    )
    downloader = _copy if base.startswith("file:") else pooch.HTTPDownloader()
    folder.joinpath(_event(name).folder).mkdir(parents=True, exist_ok=True)
    with _quiet(pooch.get_logger()), _progress(progressbar, files) as advance:
        pool = ThreadPoolExecutor(max_workers=4)
        try:
            jobs = [pool.submit(_fetch_one, store, file, downloader) for file in files]
            for file, job in zip(files, jobs, strict=True):
                job.result()
                advance(file.size)
        finally:
            pool.shutdown(cancel_futures=True)


def _fetch_one(store: Any, file: RawFile, downloader: Any) -> None:
    import requests

    url, attempts = store.get_url(file.path), 1 + RETRIES
    try:
        store.fetch(file.path, downloader=downloader)
    except FileNotFoundError:
        raise FileNotFoundError(f"{url} does not exist; a mirror has the files below their registered paths") from None
    except requests.RequestException as error:
        what = type(error).__name__ if error.response is None else f"HTTP {error.response.status_code}"
        raise ConnectionError(
            f"{url} could not be fetched in {attempts} attempts ({what}); nothing "
            "partial was kept. Another address or a folder can be given as mirror= or XNOWCAST_MIRROR"
        ) from None
    except ValueError:
        raise ValueError(
            f"{url} does not have the registered content (sha256 {file.sha256[:12]}..., {file.size} bytes) in "
            f"{attempts} attempts; nothing was kept"
        ) from None


def _base_url(mirror: str | os.PathLike | None) -> str:
    """Base address with a slash at its end; a folder becomes a ``file:`` address."""
    given = os.fspath(mirror or os.environ.get("XNOWCAST_MIRROR") or BASE_URL)
    if given.startswith(("http://", "https://", "file://")):
        return given.rstrip("/") + "/"
    folder = Path(given).expanduser().absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"mirror {given!r} is neither an address (http, https, file) nor an existing folder")
    return folder.as_uri() + "/"


def _copy(url: str, output_file: str, pooch: Any) -> None:
    """Downloader of pooch for ``file:`` addresses."""
    shutil.copyfile(url2pathname(urlsplit(url).path), output_file)


def _require_local(name: str, files: list[RawFile], folder: Path) -> None:
    missing = [file.path for file in files if not _is_whole(folder / file.path, file)]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"offline, and {len(missing)} of {len(files)} files of {name!r} are missing: {shown}. Put them below "
            f"{folder} under these paths, or give a folder that has them as mirror="
        )


def _is_whole(path: Path, file: RawFile) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """No line per file on the user's screen while pooch works; warnings still come through."""
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _progress(wanted: bool, files: list[RawFile]) -> Iterator[Any]:
    """A function that takes the bytes just finished; it draws one bar for all files, or nothing."""
    if not wanted:
        yield lambda size: None
        return
    from tqdm import tqdm

    with tqdm(total=sum(file.size for file in files), unit="B", unit_scale=True) as bar:
        yield bar.update


def _decode(name: str, paths: list[Path], target: Path) -> None:
    """Decode raw files into the NetCDF file ``target``, which appears whole or not at all."""
    event = _event(name)
    dataset = io.open_radar(paths)
    dataset.attrs |= {
        "title": event.title,
        "institution": event.institution,
        "source": event.source,
        "references": describe(name)["references"],
        "license": event.license,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with draft(target) as new:
        dataset.to_netcdf(new, engine="netcdf4", encoding=_encoding(dataset))


def _encoding(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Compressed, one chunk per time step, no fill value on what has none."""
    seconds = {"units": "seconds since 1970-01-01 00:00:00", "dtype": "int32"}
    encoding: dict[str, dict[str, Any]] = {}
    for name, variable in dataset.variables.items():
        if variable.dims == ("time", "y", "x"):
            packed = {"zlib": True, "complevel": 4, "shuffle": True, "chunksizes": (1, *variable.shape[1:])}
            packing = {key: value for key, value in variable.encoding.items() if key != "preferred_chunks"}
            encoding[str(name)] = {**packing, **packed}
        elif variable.dims == ("y", "x"):
            encoding[str(name)] = {"_FillValue": None, "zlib": True, "complevel": 4, "shuffle": True}
        else:
            encoding[str(name)] = {"_FillValue": None, **(seconds if variable.dtype.kind == "M" else {})}
    return encoding
