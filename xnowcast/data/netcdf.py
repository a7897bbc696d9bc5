"""One NetCDF file, opened lazily, and watched: what is cut short, or changes after it was opened, is not read."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
from xarray.core import indexing

from xnowcast.data.whole import State, check_whole, state


class UnreadableInput(OSError):
    """A file that is read cannot be read, or not any more; to try again at once does not help."""


def open_netcdf(path: str | os.PathLike) -> xr.Dataset:
    """Open a NetCDF file lazily.

    Returned: variables are read when they are used, and refused if the file is not as it was when it was opened. They
    are in no chunks yet: see `in_own_chunks`. ValueError if it is no NetCDF file that can be read, or it is cut short.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "rain.nc")
    >>> _ = path.write_bytes(b"no such thing")
    >>> open_netcdf(path)
    Traceback (most recent call last):
    ValueError: ...rain.nc is no NetCDF file that can be read: ...
    """
    before = state(path)
    check_whole(path)
    try:
        opened = xr.open_dataset(path, cache=False)
    except (OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is no NetCDF file that can be read: {first_line(error)}") from error
    watched = {
        name: xr.Variable(
            variable.dims,
            indexing.LazilyIndexedArray(_Watched(variable, Path(path).absolute(), before)),
            variable.attrs,
            variable.encoding,
        )
        for name, variable in opened.variables.items()
        if _is_lazy(variable)
    }
    result = opened.assign(watched)
    result.set_close(opened.close)
    return result


def in_own_chunks(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset with Dask chunks as they lie in its file.

    ``dataset``: as `open_netcdf` gives it; what is in chunks already, or in memory, stays so.
    """
    from dask.base import tokenize

    source = dataset.encoding.get("source")
    token = uuid4().hex if source is None else tokenize(str(source), str(state(source)))
    chunked = {
        name: variable.chunk(_chunks(variable), name=f"open-{name}-{token}")
        for name, variable in dataset.variables.items()
        if variable.ndim and _is_lazy(variable)
    }
    result = dataset.assign(chunked)
    result.set_close(dataset.close)
    return result


def _is_lazy(variable: xr.Variable) -> bool:
    return isinstance(variable._data, indexing.ExplicitlyIndexed) and not isinstance(variable, xr.IndexVariable)


def _chunks(variable: xr.Variable) -> dict[Any, int]:
    return {dim: variable.encoding.get("preferred_chunks", {}).get(dim, -1) for dim in variable.dims}


class _Watched(xr.backends.BackendArray):
    """A variable of a file, whose state is looked at whenever it was read."""

    def __init__(self, variable: xr.Variable, path: Path, before: State):
        self.shape, self.dtype = variable.shape, variable.dtype
        self._variable, self._path, self._before = variable, path, before

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        try:
            values = self._variable[key].values
        except MemoryError:
            raise
        except Exception as error:  # of a dozen kinds, from the depths of HDF5
            raise UnreadableInput(f"{self._path} cannot be read: {first_line(error)}") from error
        if self._before.is_over(self._path):
            raise UnreadableInput(f"{self._path} has changed since it was opened")
        return values


def first_line(error: BaseException) -> str:
    """What an error of a library says, without the details.

    >>> first_line(OSError())
    'OSError'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
