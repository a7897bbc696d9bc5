"""Open whatever a path holds, and write NetCDF or Zarr whole or not at all."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.whole import check_whole as check_whole

NETCDF_ENDINGS = (".nc", ".nc4", ".netcdf", ".cdf")


def open_input(path: str) -> xr.Dataset:
    """Open a dataset by its path or name, lazily.

    Parameters
    ----------
    path : str
        A NetCDF file, a Zarr store, files of a product that `xnowcast.io` reads (a glob pattern for several, ``**`` for
        any folders), or the name of a tutorial dataset. A period may follow: ``radar.zarr#2017-01-01/2019-01-01`` is
        from the first time on and before the second; either may be left out. Of SEVIR, whole events are chosen.

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
    name, mark, period = path.rpartition("#") if not Path(path).exists() else ("", "", "")
    if not mark:
        return _open(path)
    start, end = _edges(path, period)
    return _within(_open(name), start, end, path)


def _open(path: str) -> xr.Dataset:
    if "://" in path:
        return xr.open_zarr(path) if path.rstrip("/").endswith(".zarr") else xr.open_dataset(path, chunks={})
    if Path(path).is_dir():
        return _open_zarr(Path(path))
    found = [path] if Path(path).is_file() else sorted(glob(path, recursive=True))
    files = [name for name in found if Path(name).is_file()] or found  # "**" finds folders too
    return _open_files(files) if files else _open_by_name(path)


def _edges(path: str, period: str) -> tuple[np.datetime64, np.datetime64]:
    """First time of a period, and the one after its last."""
    first, slash, last = period.partition("/")
    try:
        if not slash or not (first or last):
            raise ValueError
        start, end = np.datetime64(first or "1678-01-01", "ns"), np.datetime64(last or "2262-01-01", "ns")
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
        dim, times = "event", dataset["event_time"].values
    else:
        dim = next((name for name in ("time", "init_time") if name in dataset.indexes), "")
        if not dim:
            raise ValueError(f"{path} asks for a period, but the data have no time axis named time or init_time")
        times = dataset[dim].values
    chosen = np.flatnonzero((times >= start) & (times < end))
    if not len(chosen):
        raise ValueError(f"{path} holds nothing: the data go from {str(times.min())[:16]} to {str(times.max())[:16]}")
    # a slice where it can be one, so that Dask chunks stay whole
    regular = chosen[-1] - chosen[0] == len(chosen) - 1
    return dataset.isel({dim: slice(int(chosen[0]), int(chosen[-1]) + 1) if regular else chosen})


def _open_zarr(path: Path) -> xr.Dataset:
    if not any((path / marker).exists() for marker in ("zarr.json", ".zgroup", ".zmetadata")):
        raise ValueError(
            f"{path} is a folder and no Zarr store; give a store, a file or a pattern such as '{path}/*.h5'"
        )
    with warnings.catch_warnings():  # a store without consolidated metadata is a store all the same
        warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated", RuntimeWarning)
        return xr.open_zarr(path)


def _open_files(paths: list[str]) -> xr.Dataset:
    """Files of one product, recognised by their content; NetCDF where it is none."""
    from xnowcast import io
    from xnowcast.io.lazy import in_chunks

    if all(_is_netcdf(path) for path in paths):
        return _open_netcdf(paths)
    try:
        return in_chunks(io.open_radar(paths))
    except ValueError as error:
        raise ValueError(f"{error}; NetCDF ends in .nc and Zarr is a folder") from error


def _is_netcdf(path: str) -> bool:
    from xnowcast import io

    try:
        found = io.product(Path(path))
    except (ValueError, ImportError):
        found = "unknown"
    return found == "NetCDF" or (found == "unknown" and path.lower().endswith(NETCDF_ENDINGS))


def _open_netcdf(paths: list[str]) -> xr.Dataset:
    for path in paths:
        check_whole(path)
    if len(paths) > 1:
        return xr.open_mfdataset(paths, combine="by_coords", data_vars="minimal", coords="minimal", compat="override")
    try:
        return xr.open_dataset(paths[0], chunks={})
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{paths[0]} is no NetCDF file that can be read: {_first_line(error)}") from error


def _open_by_name(name: str) -> xr.Dataset:
    from xnowcast import datasets

    known = ["synthetic", *datasets.names()]
    if name not in known:
        raise ValueError(
            f"there is no file {name}, and no tutorial dataset of that name ({', '.join(dict.fromkeys(known))})"
        )
    return datasets.open(name, chunks={})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_output(path: str | Path, *, overwrite: bool = False, inputs: Iterable[str] = ()) -> Path:
    """Whether a result can be written there; asked before any work.

    Parameters
    ----------
    path : str or pathlib.Path
        Ends in ``.zarr``, or in ``.nc`` for NetCDF.
    overwrite : bool
        Whether what is there may be replaced.
    inputs : iterable of str
        Paths and patterns that are read; none of them is ever replaced.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If the ending is another, the folder is missing, or something is there and may not be replaced.

    Examples
    --------
    >>> check_output("forecast.txt")
    Traceback (most recent call last):
    ValueError: the output forecast.txt must end in .zarr or .nc, which tells the format
    """
    path = Path(path)
    if path.suffix.lower() not in (".zarr", *NETCDF_ENDINGS):
        raise ValueError(f"the output {path} must end in .zarr or .nc, which tells the format")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"the folder {path.absolute().parent} does not exist: create it first")
    for name in inputs:
        bare = name.rpartition("#")[0] or name  # without a period
        if path.resolve() in (Path(found).resolve() for found in (name, bare, *glob(name), *glob(bare))):
            raise ValueError(f"the output {path} is also an input, which would be lost: choose another name")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already: choose another name, or say --overwrite (overwrite=True)")
    return path


def write(dataset: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> Path:
    """Compute a dataset and write it as NetCDF or Zarr, whole or not at all.

    Parameters
    ----------
    dataset : xarray.Dataset
    path : str or pathlib.Path
        Ends in ``.zarr``, or in ``.nc`` for NetCDF.
    overwrite : bool
        Whether what is there may be replaced. It stays until the new result is complete.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        As `check_output`.
    """
    path = check_output(path, overwrite=overwrite)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    save: Callable[[Any], Any] = _save_zarr(dataset) if path.suffix.lower() == ".zarr" else _save_netcdf(dataset)
    try:
        save(part)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
    return path


def _save_zarr(dataset: xr.Dataset) -> Callable[[Path], Any]:
    # Dask chunks that differ in size along one dim are no Zarr chunks: the first size is taken for all.
    uneven = {
        dim: sizes[0] for dim, sizes in dataset.chunksizes.items() if len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]
    }
    even = dataset.chunk(uneven) if uneven else dataset
    for variable in even.variables.values():
        variable.encoding.pop("chunks", None)

    def save(target: Path) -> None:
        with warnings.catch_warnings():  # xarray opens consolidated stores without complaint, so we write one
            warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
            even.to_zarr(target, mode="w", consolidated=True)

    return save


def _save_netcdf(dataset: xr.Dataset) -> Callable[[Path], Any]:
    return lambda target: dataset.to_netcdf(target, engine="netcdf4")
