"""Small fields of rain that many tests read, and the few lines around them."""

import numpy as np
import xarray as xr

START = np.datetime64("2024-06-01T12:00", "ns")
RATE = {"units": "mm h-1", "standard_name": "rainfall_rate"}
Y = {"units": "m", "standard_name": "projection_y_coordinate", "axis": "Y"}
X = {"units": "m", "standard_name": "projection_x_coordinate", "axis": "X"}


def clock(count, minutes=5):
    """So many times, some minutes apart."""
    return START + np.arange(count) * np.timedelta64(minutes, "m")


def frames(values, minutes=5, *, grid=False, **attrs):
    """Radar frames (time, y, x) called ``rr``, in mm h-1; ``grid``: on cells of 1 km, the first row in the north."""
    coords = {"time": clock(len(values), minutes)}
    if grid:
        rows, columns = values.shape[1:]
        coords |= {"y": ("y", 1000.0 * np.arange(rows)[::-1], Y), "x": ("x", 1000.0 * np.arange(columns), X)}
    return xr.DataArray(values, coords, ("time", "y", "x"), "rr", RATE | attrs)


def observed_and_members(
    *, members=4, times=3, rows=20, columns=22, seed=3, decimals=1, missing=0.05, corner=(5, 3), dtype="f4"
):
    """Observations (time, y, x) and forecasts (member, time, y, x): many zeros, ties and NaN, not the same for all.

    ``decimals``: None makes no ties. ``missing``: the share of cells, besides a corner of so many rows and columns;
    0 leaves no NaN at all.
    """
    rng = np.random.default_rng(seed)
    coords = {"time": np.arange(times), "y": np.arange(float(rows)), "x": np.arange(float(columns))}
    coords |= {"member": np.arange(members)}
    fields = []
    for dims in (("time", "y", "x"), ("member", "time", "y", "x")):
        shape = [len(coords[d]) for d in dims]
        values = rng.gamma(0.5, 4.0, shape)
        values = (values if decimals is None else np.round(values, decimals)) * (rng.random(shape) > 0.4)
        if missing:
            values[rng.random(shape) < missing] = np.nan
            values[..., : corner[0], : corner[1]] = np.nan
        fields.append(xr.DataArray(values.astype(dtype), dims=dims, coords={d: coords[d] for d in dims}))
    return tuple(fields)


def on_x(*values, dtype="float64"):
    return xr.DataArray(np.array(values, dtype), dims="x")


def plane(values):
    return xr.DataArray(np.asarray(values, float), dims=("y", "x"))
