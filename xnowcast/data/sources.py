"""Which files and stores stand behind a dataset, wherever xarray, Dask and Zarr keep their names."""

import io
import os
import types
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

_LEAVES = (bool, int, float, complex, bytes, slice, type(None), type(Ellipsis), np.generic, np.dtype, type)
_NO_FILES = ("numpy", "torch", "pandas", "distributed", "threading", "logging", "weakref", "asyncio", "cupy")
"""Packages whose objects hold no names of files, or far too much else."""

_Parts = Callable[[Any], Iterable[Any]]


def paths_behind(*things: Any) -> set[Path]:
    """The files and folders of this machine that datasets, and whatever else is given, are read from.

    Nothing is computed. Looked through are encodings, Dask graphs and what waits in them, arrays that are indexed
    lazily, and names in plain containers.

    ``*things``: datasets, variables, arrays, paths, patterns, or containers of these. Returned: absolute and without
    links; only what exists.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()).resolve() / "rain.nc"
    >>> _ = xr.Dataset({"rain": ("x", [1.0, 2.0])}).to_netcdf(path)
    >>> with xr.open_dataset(path, chunks={}) as opened:
    ...     paths_behind((2 * opened["rain"]).rename("double")) == {path}
    True
    """
    found = (place for name in names_behind(*things) for place in _places(name))
    return {Path(os.path.realpath(place)) for place in found}


def names_behind(*things: Any) -> set[str]:
    """Every text that may name a file, and much that does not; as `paths_behind`, and whether it exists or not."""
    names: set[str] = set()
    seen: set[int] = set()
    ways: dict[type, _Parts | None] = {}
    waiting: list[Any] = list(things)
    while waiting:  # through millions of objects, so each kind is looked at once
        thing = waiting.pop()
        kind = type(thing)
        if kind is str:
            names.add(thing)
            continue
        if kind not in ways:
            ways[kind] = _way(kind)
        parts = ways[kind]
        if parts is not None and id(thing) not in seen:
            seen.add(id(thing))
            waiting.extend(parts(thing))
    return names


def _way(kind: type) -> _Parts | None:
    """How objects of a kind lead on to names; None where they do not."""
    if issubclass(kind, _LEAVES) or kind is types.ModuleType:
        return None
    for known, parts in _WAYS:
        if issubclass(kind, known):
            return parts
    package = kind.__module__.partition(".")[0]
    by_name = {f"{known}.{name}": parts for known, name, parts in _WAYS_BY_NAME}
    for base in kind.__mro__:
        by_its_name = by_name.get(f"{base.__module__.partition('.')[0]}.{base.__name__}")
        if by_its_name is not None:
            return by_its_name
    if package in _NO_FILES:
        return None
    slots = tuple(name for base in kind.__mro__ for name in _as_names(base.__dict__.get("__slots__", ())))
    return lambda thing: [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name, None) for name in slots)]


def _cells(function: types.FunctionType) -> list[Any]:
    held = []
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return held


def _as_names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _asked(question: Any) -> Any:
    """The answer of a library; None where the file is closed."""
    try:
        return question()
    except Exception:
        return None


_WAYS: tuple[tuple[Any, _Parts], ...] = (
    (str, lambda thing: [str(thing)]),
    (os.PathLike, lambda thing: [os.fspath(thing)]),
    (xr.Dataset, lambda thing: [thing.encoding.get("source"), *thing.variables.values()]),
    (xr.DataArray, lambda thing: [thing.encoding.get("source"), thing.variable, *thing.coords.variables.values()]),
    (xr.Variable, lambda thing: [thing.encoding.get("source"), thing._data]),
    (np.memmap, lambda thing: [thing.filename]),
    (io.IOBase, lambda thing: [getattr(thing, "name", None), getattr(thing, "raw", None)]),
    (Mapping, lambda thing: thing.values()),
    (list | tuple | set | frozenset, lambda thing: thing),
    (partial, lambda thing: [thing.func, thing.args, thing.keywords]),
    (types.MethodType, lambda thing: [thing.__self__, thing.__func__]),
    (types.FunctionType, lambda thing: [*_cells(thing), thing.__defaults__]),
)  # fmt: skip

_WAYS_BY_NAME: tuple[tuple[str, str, _Parts], ...] = (
    ("xarray", "CachingFileManager", lambda thing: [thing._args]),  # its cache holds all files that are open
    ("dask", "Task", lambda thing: [thing.func, *thing.args, *thing.kwargs.values()]),
    ("dask", "TaskRef", lambda thing: []),
    ("dask", "Alias", lambda thing: []),
    ("zarr", "Array", lambda thing: [thing.store]),
    ("zarr", "AsyncArray", lambda thing: [thing.store]),
    ("zarr", "Group", lambda thing: [thing.store]),
    ("netCDF4", "Variable", lambda thing: [_asked(lambda: thing.group().filepath())]),
    ("netCDF4", "Dataset", lambda thing: [_asked(thing.filepath)]),
    ("h5py", "HLObject", lambda thing: [_asked(lambda: thing.file.filename)]),
)  # fmt: skip


def _places(name: str) -> list[str]:
    """What exists under a name, which may be a pattern, have a period after it, or be a URL of this machine."""
    if not name or len(name) > 4096 or "\0" in name:
        return []
    name = name.removeprefix("file://")
    bare = name.rpartition("#")[0] or name
    places = [place for place in {name, bare} if os.path.lexists(place)]
    patterns = [place for place in {name, bare} if any(letter in place for letter in "*?[")]
    return places + [place for pattern in patterns for place in glob(pattern, recursive=True)]
