"""Open whatever a path holds, and write NetCDF or Zarr whole or not at all."""

import json
import os
import re
import threading
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from xnowcast.data import joining
from xnowcast.data.joining import Part
from xnowcast.data.netcdf import first_line, open_netcdf
from xnowcast.data.sources import paths_behind
from xnowcast.data.whole import check_whole as check_whole
from xnowcast.data.whole import is_netcdf
from xnowcast.drafts import draft
from xnowcast.fields import windows

NETCDF_ENDINGS = (".nc", ".nc4", ".netcdf", ".cdf")
_STORE_MARKERS = ("zarr.json", ".zgroup", ".zmetadata")
_STORE_FILES = (*_STORE_MARKERS, ".zattrs")
_OUR_LINE = re.compile(r"[-\d]+[-:\dTZ]*: xnowcast ")
"""Of a history, as `xnowcast.fields.labels.dated` writes it; others tell of paths that have our name in them."""
_NETCDF_LOCK = threading.Lock()
"""The libraries of NetCDF and HDF5 crash where two threads open or write files at once."""


def open_input(path: str) -> xr.Dataset:
    """Open a dataset by its path or name, lazily.

    Parameters
    ----------
    path : str
        A NetCDF file, a Zarr store, files of a product that `xnowcast.io` reads (a glob pattern for several, ``**`` for
        any folders), or the name of a tutorial dataset. A period may follow: ``radar.zarr#2017-01-01/2019-01-01`` is
        from the first time on and before the second; either may be left out. Times without a zone
        are UTC. Of SEVIR, whole events are chosen.

    Returns
    -------
    xarray.Dataset
        With Dask arrays.

    Raises
    ------
    ValueError
        If nothing is there, it is nothing that can be read, or the period is none or has no data.

    Examples
    --------
    >>> open_input("synthetic#2024/2023")
    Traceback (most recent call last):
    ValueError: the period 2024/2023 of synthetic#2024/2023 ends before it starts
    """
    return open_inputs([path])


def open_inputs(paths: Sequence[str], *, on_unreadable: Literal["raise", "mark"] = "raise") -> xr.Dataset:
    """Open several datasets as one along time, lazily.

    Parameters
    ----------
    paths : sequence of str
        Each as for `open_input`, in any order of time.
    on_unreadable : {"raise", "mark"}
        What to do about a NetCDF file that cannot be read, of several: refuse all, or let the reading of its frames
        fail. They are those that are missing between its neighbours in the sequence.

    Returns
    -------
    xarray.Dataset
        With Dask arrays; see `xnowcast.data.joining.join` for what the datasets must share.

    Raises
    ------
    ValueError
        As `open_input`; if datasets contradict each other. The message names the file.

    Examples
    --------
    >>> open_inputs(["nowhere.zarr", "nothing.nc"])
    Traceback (most recent call last):
    ValueError: there is no file nowhere.zarr, and no tutorial dataset of that name (...)
    """
    parts = [part for path in paths for part in _parts(path, on_unreadable)]
    broken = next((part for part in parts if part.dataset is None), None)
    if broken is not None and on_unreadable == "raise":
        beside = f" ({len(parts) - 1} files beside it)" if len(parts) > 1 else ""
        raise ValueError(f"{broken.unreadable}{beside}")
    return joining.join(parts)


def _parts(path: str, on_unreadable: Literal["raise", "mark"]) -> list[Part]:
    """What a path stands for: files and stores to be joined."""
    name, mark, period = path.rpartition("#") if not Path(path).exists() else ("", "", "")
    if mark:
        start, end = _edges(path, period)
        return [Part(path, _within(open_inputs([name], on_unreadable=on_unreadable), start, end, path))]
    if "://" in path:
        zarr = path.rstrip("/").endswith(".zarr")
        return [Part(path, xr.open_zarr(path) if zarr else xr.open_dataset(path, chunks={}))]
    if Path(path).exists():
        return _parts_of_files([path], path)
    found = sorted(glob(path, recursive=True))
    stores = [name for name in found if is_store(Path(name))]
    within = tuple(f"{name.rstrip('/')}/" for name in stores)
    files = [name for name in found if Path(name).is_file() and not name.startswith(within)]  # "**" finds folders too
    outermost = [name for name in stores if not name.startswith(within)]
    if not (files or outermost):
        return _parts_of_files(found, path) if found else [Part(path, _open_by_name(path))]
    return _parts_of_files(sorted([*files, *outermost]), path)


def _parts_of_files(paths: list[str], pattern: str) -> list[Part]:
    """NetCDF files and Zarr stores one by one, files of a radar product together."""
    from xnowcast import io
    from xnowcast.io.lazy import in_chunks

    kinds = ["Zarr" if Path(path).is_dir() else _kind(path) for path in paths]
    beside = {"unknown"} if "NetCDF" in kinds else set()  # among NetCDF files, what cannot be told is a broken one
    if set(kinds) <= {"Zarr", "NetCDF", *beside}:
        return [Part(path, _open_zarr(Path(path))) if Path(path).is_dir() else _netcdf_part(path) for path in paths]
    try:
        return [Part(pattern, in_chunks(io.open_radar(paths)))]
    except ValueError as error:
        raise ValueError(f"{error}; NetCDF ends in .nc and Zarr is a folder") from error


def _netcdf_part(path: str) -> Part:
    try:
        return Part(path, open_netcdf(path))
    except (ValueError, OSError) as error:
        return Part(path, None, unreadable=str(error))


def _edges(path: str, period: str) -> tuple[np.datetime64, np.datetime64]:
    """First time of a period, and the one after its last."""
    try:
        start, end = windows.period(period)
    except ValueError:
        raise ValueError(
            f"{period!r} in {path} is no period; write it after # as start/end, such as #2017-01-01/2019-01-01"
        ) from None
    if end <= start:
        raise ValueError(f"the period {period} of {path} ends before it starts")
    return start, end


def _within(dataset: xr.Dataset, start: np.datetime64, end: np.datetime64, path: str) -> xr.Dataset:
    """What lies from ``start`` on and before ``end``: whole events by their true times, else times or init times."""
    if "event_time" in dataset.variables:
        dim, times = "event", windows.real_times(dataset["event_time"])
    else:
        dim = next((name for name in ("time", "init_time") if name in dataset.indexes), "")
        if not dim:
            raise ValueError(f"{path} asks for a period, but the data have no time axis named time or init_time")
        times = windows.real_times(dataset[dim])
    chosen = np.flatnonzero((times >= start) & (times < end))
    if not len(chosen):
        raise ValueError(f"{path} holds nothing: the data go from {str(times.min())[:16]} to {str(times.max())[:16]}")
    # a slice where it can be one, so that Dask chunks stay whole
    regular = chosen[-1] - chosen[0] == len(chosen) - 1
    return dataset.isel({dim: slice(int(chosen[0]), int(chosen[-1]) + 1) if regular else chosen})


def _open_zarr(path: Path) -> xr.Dataset:
    if not is_store(path):
        raise ValueError(
            f"{path} is a folder and no Zarr store; give a store, a file or a pattern such as '{path}/*.h5'"
        )
    with warnings.catch_warnings():  # a store without consolidated metadata is a store all the same
        warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated", RuntimeWarning)
        try:
            return xr.open_zarr(path)
        except Exception as error:  # broken metadata fail anywhere in Zarr, with any kind of exception
            raise ValueError(f"{path} is no Zarr store that can be read: {first_line(error)}") from error


def _kind(path: str) -> str:
    """Product of a file, "NetCDF" or "unknown"; what is broken and cannot be told is what its name says."""
    from xnowcast import io

    try:
        found = io.product(Path(path))
    except (ValueError, ImportError):
        found = "unknown"
    return "NetCDF" if found == "unknown" and path.lower().endswith(NETCDF_ENDINGS) else found


def _open_by_name(name: str) -> xr.Dataset:
    from xnowcast.data import datasets

    known = ["synthetic", *datasets.names()]
    if name not in known:
        raise ValueError(
            f"there is no file {name}, and no tutorial dataset of that name ({', '.join(dict.fromkeys(known))})"
        )
    return datasets.open(name, chunks={})


# ---------------------------------------------------------------- outputs


def check_output(path: str | Path, *, overwrite: bool = False, inputs: Iterable[Any] = ()) -> Path:
    """Where a result can be written (``.zarr`` or ``.nc``, a link's end, none of the inputs); asked before any work.

    ValueError if the ending is another, the folder is missing, or something is there and may not be replaced.

    >>> check_output("forecast.txt")
    Traceback (most recent call last):
    ValueError: the output forecast.txt must end in .zarr or .nc, which tells the format
    """
    path = output_path(path)
    if path.exists():
        refuse_inputs(path, inputs)
        if not overwrite:
            raise ValueError(f"{path} exists already: choose another name, or say --overwrite (overwrite=True)")
        refuse_strangers(path)
    return path


def output_path(path: str | Path) -> Path:
    """The place of an output, a link followed, where its name will do; ``.zarr``, or ``.nc`` for NetCDF.

    ValueError if it is no such path, its folder is missing or part of a Zarr store, or a link leads nowhere.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"the output is {path!r}; give a path that ends in .zarr or .nc")
    path = Path(path)
    if path.suffix.lower() not in (".zarr", *NETCDF_ENDINGS):
        raise ValueError(f"the output {path} must end in .zarr or .nc, which tells the format")
    if path.is_symlink():
        if not path.exists():
            raise ValueError(f"the output {path} is a link to {os.readlink(path)}, where nothing is: remove the link")
        path = path.resolve()
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"the folder {folder} does not exist: create it first")
    around = next((above for above in (folder, *folder.parents) if is_store(above)), None)
    if around is not None:
        raise ValueError(f"the output {path} would lie in the Zarr store {around}: choose another folder")
    return path


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any((path / marker).is_file() for marker in _STORE_MARKERS)


def refuse_inputs(path: Path, inputs: Iterable[Any], called: str = "an input") -> None:
    """Refuse an output that exists and is, or holds, a file or store behind the inputs, ``called`` so in messages."""
    place = path.resolve()
    for read in paths_behind(*inputs):
        if place in read.parents:
            raise ValueError(f"{read} is an input in the output {path}, and would be lost: choose another name")
        if read == place or os.path.samefile(read, place):
            raise ValueError(f"the output {path} is also {called}, which would be lost: choose another name")


def refuse_strangers(path: Path) -> None:
    """Refuse to replace a folder, store or NetCDF file that this package did not write: somebody may want it."""
    fix = "choose another name, or remove it yourself"
    store = path.suffix.lower() == ".zarr"
    if path.is_dir():
        for _ in range(9):  # while another process puts its result there, there is nothing for a moment
            inside = _entries(path)
            strange = [entry.name for entry in inside if not _belongs_to_store(entry)]
            if not inside or (store and not strange and _is_ours(path)):
                return
            time.sleep(0.01)
        what = f"holds {strange[0]}" if strange else "was not written by xnowcast"
        raise ValueError(f"the folder {path} {what}, and is not replaced: {fix}")
    if path.exists() and store:
        raise ValueError(f"{path} is a file, and a Zarr store is a folder: {fix}")
    if path.exists() and is_netcdf(path) and not _is_ours(path):
        raise ValueError(f"{path} was not written by xnowcast, and is not replaced: {fix}")


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _belongs_to_store(entry: Path) -> bool:
    return entry.name in _STORE_FILES or entry.name.endswith(".partial") or _is_array(entry)


def _is_array(entry: Path) -> bool:
    """Whether it is an array of Zarr; our stores have no groups, so one in them is somebody's own store."""
    if (entry / ".zarray").is_file():
        return True
    try:
        return json.loads((entry / "zarr.json").read_text())["node_type"] == "array"
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _is_ours(path: Path) -> bool:
    """Whether attributes tell that this package wrote it."""
    attributes = read_attributes(path)
    lines = str(attributes.get("history", "")).splitlines()
    written = any(_OUR_LINE.match(line) for line in lines)
    return written or any(str(name).startswith("nowcast_") for name in attributes)


def read_attributes(path: Path) -> Mapping[Any, Any]:
    """Attributes of a store or a NetCDF file as a whole; none where they cannot be read."""
    try:
        if path.is_dir():
            third = path / "zarr.json"
            found = json.loads((third if third.exists() else path / ".zattrs").read_text())
            found = found.get("attributes") if third.exists() else found
            return found if isinstance(found, dict) else {}
        with _NETCDF_LOCK, xr.open_dataset(path, decode_cf=False) as opened:
            return opened.attrs
    except (OSError, ValueError, RuntimeError, AttributeError):
        return {}


def write(dataset: xr.Dataset, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Any] = ()) -> Path:
    """Compute a dataset and write it as NetCDF or Zarr, whole or not at all.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of which no file or store that it is read from is replaced.
    path : str or pathlib.Path
        Ends in ``.zarr``, or in ``.nc`` for NetCDF.
    overwrite : bool
        Whether what is there may be replaced. It stays until the new result is complete.
    inputs : iterable
        What else is read; as for `check_output`.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        As `check_output`.
    """
    path = check_output(path, overwrite=overwrite, inputs=[dataset, *inputs])
    save = _save_zarr if path.suffix.lower() == ".zarr" else _save_netcdf
    try:
        with draft(path, overwrite=overwrite) as new:
            save(_marked(dataset), new)
    except FileExistsError:
        raise ValueError(f"{path} exists already: it was written while this result was computed") from None
    return path


def _marked(dataset: xr.Dataset) -> xr.Dataset:
    """A copy with an attribute by which it is known as ours."""
    from xnowcast._version import __version__

    known = any(str(name).startswith("nowcast_") for name in dataset.attrs)
    return dataset.assign_attrs({} if known else {"nowcast_package": f"xnowcast {__version__}"})


def _save_zarr(dataset: xr.Dataset, target: Path) -> None:
    # Dask chunks that differ in size along one dim are no Zarr chunks: the first size is taken for all.
    uneven = {
        dim: sizes[0] for dim, sizes in dataset.chunksizes.items() if len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]
    }
    even = dataset.chunk(uneven) if uneven else dataset
    for variable in even.variables.values():
        variable.encoding.pop("chunks", None)
    with warnings.catch_warnings():  # xarray opens consolidated stores without complaint, so we write one
        warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
        even.to_zarr(target, mode="w", consolidated=True)


def _save_netcdf(dataset: xr.Dataset, target: Path) -> None:
    with _NETCDF_LOCK:
        dataset.to_netcdf(target, engine="netcdf4")
