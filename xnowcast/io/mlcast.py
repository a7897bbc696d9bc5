"""Zarr stores of radar archives as the MLCast community writes them: CF attributes, and gaps left out."""

import warnings
from os import PathLike, fspath

import numpy as np
import xarray as xr

from xnowcast.fields import cf, windows


def open_mlcast(path: str | PathLike, variable: str | None = None) -> xr.Dataset:
    """Rain rate or reflectivity from a Zarr store that follows the source data conventions of MLCast.

    Parameters
    ----------
    path : path or address
        The store, local or remote (with fsspec and its protocol installed).
    variable : str, optional
        Name of the field. By default the only one whose ``standard_name`` is a precipitation's or reflectivity's.

    Returns
    -------
    xarray.Dataset
        That field as float32 (the stores may hold float16) with its own name, units, dims and attributes, its
        coordinates and grid mapping, and ``missing_times`` where the store lists them; with Dask arrays.

    Raises
    ------
    ValueError
        If there is no store, no such field or more than one, its units are unknown, or its times do not rise.

    Notes
    -----
    The conventions want the dims (time, y, x), NaN for what was not measured, and no frame for a missing time: the gap
    stays on the time axis, where forecasts see it.

    Examples
    --------
    >>> import tempfile, xnowcast
    >>> store = tempfile.mkdtemp() + "/radar.zarr"
    >>> _ = xnowcast.datasets.synthetic_radar(frames=3, shape=(8, 8)).to_zarr(store, consolidated=False)
    >>> open_mlcast(store).rainfall_rate.dtype
    dtype('float32')
    """
    store = _store(fspath(path))
    try:
        field = cf.find_field(store, variable)
        windows.time_axis(field.array, field.time)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    array = field.array.transpose(..., field.time, field.y, field.x).astype(np.float32)
    dataset = array.to_dataset(name=field.name)
    dataset[field.name].attrs = dict(field.array.attrs)
    beside = {str(field.array.encoding.get("grid_mapping", field.array.attrs.get("grid_mapping", ""))), "missing_times"}
    dataset = dataset.assign({name: store[name] for name in beside & {str(n) for n in store.variables}})
    for part in dataset.variables.values():  # chunks and compressors are those of the store alone
        part.encoding = {key: part.encoding[key] for key in ("units", "calendar") if key in part.encoding}
    return dataset.assign_attrs(store.attrs)


def _store(path: str) -> xr.Dataset:
    try:
        with warnings.catch_warnings():  # a store without consolidated metadata is a store all the same
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated", RuntimeWarning)
            return xr.open_zarr(path, decode_coords=True)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no Zarr store that can be read: {reason}") from None
