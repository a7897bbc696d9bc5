"""The frames of a batch, cut out of a long time axis unread, and read one by one where a file is broken."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from xnowcast.data.netcdf import UnreadableInput
from xnowcast.data.sources import names_behind
from xnowcast.data.whole import State, check_whole, state
from xnowcast.fields import horizontal
from xnowcast.fields.cf import Field

BATCHES_PER_STRETCH = 32
"""A graph of years is cut once for so many batches: cutting it for each would take longer than the forecasts."""
PAUSE = 1.0
"""Seconds before a frame that could not be read is tried once more."""


@dataclass(frozen=True)
class Frames:
    """Neighbouring frames that a batch reads, still unread.

    ``variable``: ``(*extra, time, y, x)``, first row in the north, in the user's units: in memory, or to be read by the
    worker. ``times``: datetime64[ns], one per frame. ``files``: what is read, as it was when the run first came to it.
    """

    variable: xr.Variable
    times: np.ndarray
    files: dict[Path, State] = field(default_factory=dict)

    def read(self, conversion: Any) -> "ReadFrames":
        """Read all frames at once; where that fails, one by one, so that one broken file costs one frame.

        ``conversion``: from the stored values to what is computed with; impossible values are refused by it.
        """
        try:
            values = _read(self.variable, self.files)
            return ReadFrames(values, _coverage(conversion(values)), self.times, {})
        except MemoryError:
            raise
        except Exception:
            return self._read_one_by_one(conversion)

    def _read_one_by_one(self, conversion: Any) -> "ReadFrames":
        values = np.full(self.variable.shape, np.nan, np.float32)
        coverage = np.zeros(len(self.times))
        broken: dict[int, str] = {}
        for i in range(len(self.times)):
            for attempt in range(2):
                try:
                    frame = self._one(i)
                    coverage[i] = _coverage(conversion(frame))[0]
                    values[..., i : i + 1, :, :] = frame
                    broken.pop(i, None)
                    break
                except Exception as error:
                    broken[i] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    if isinstance(error, UnreadableInput):
                        break
                    if not attempt:
                        time.sleep(PAUSE)
        return ReadFrames(values, coverage, self.times, broken)

    def _one(self, i: int) -> np.ndarray:
        frame = _culled(self.variable[..., i : i + 1, :, :])
        named = _named(frame)
        return _read(frame, {path: before for path, before in self.files.items() if path in named})


@dataclass(frozen=True)
class ReadFrames:
    """Frames in memory.

    ``values``: ``(*extra, time, y, x)`` in the user's units; NaN in the frames that could not be read. ``coverage``:
    share of the cells that is measured, one per frame. ``broken``: why a frame could not be read, by its position.
    """

    values: np.ndarray
    coverage: np.ndarray
    times: np.ndarray
    broken: dict[int, str]


def _read(variable: xr.Variable, files: dict[Path, State]) -> np.ndarray:
    """Values of files that are whole, and still are what they were; of others, libraries make zeros.

    In this very thread: the engine that runs the batches has shared out the cores already. The scheduler goes to the
    call: Dask's own setting is one for all threads, and would outlive this one.
    """
    for path in files:
        check_whole(path)
    data = variable.data
    values = np.asarray(data.compute(scheduler="synchronous") if dask.is_dask_collection(data) else data)
    for path, before in files.items():
        if before.is_over(path):
            raise UnreadableInput(f"{path} has changed since the run began to read it")
    return values


def _coverage(rain: np.ndarray) -> np.ndarray:
    measured = np.isfinite(rain).mean(axis=(-2, -1))
    return measured.reshape(-1, rain.shape[-3]).min(axis=0)


class FrameReader:
    """Cuts the frames of batches out of a field without reading them.

    ``times``: datetime64[ns], the field's time axis.
    """

    def __init__(self, field: Field, times: np.ndarray):
        array = horizontal.north_up(field.array, field.y, field.x).transpose(*field.leading, field.y, field.x)
        self._variable = array.variable
        self._times = times
        self._states: dict[Path, State] = {}

    def cut(self, spans: Sequence[tuple[int, int]]) -> Iterator[Frames]:
        """The frames of each span of positions (first, last + 1), in turn."""
        for start in range(0, len(spans), BATCHES_PER_STRETCH):
            stretch = spans[start : start + BATCHES_PER_STRETCH]
            first, last = min(a for a, _ in stretch), max(b for _, b in stretch)
            part = _culled(self._variable[..., first:last, :, :])
            for a, b in stretch:
                frames = _culled(part[..., a - first : b - first, :, :])
                yield Frames(frames, self._times[a:b], self._files(frames))

    def _files(self, variable: xr.Variable) -> dict[Path, State]:
        known = self._states
        files = [path for path in _named(variable) if path in known or os.path.isfile(path)]
        return {path: known.setdefault(path, state(path)) for path in files}


def _named(variable: xr.Variable) -> set[Path]:
    """Where the files behind a variable lie, or lay; and other names that are none."""
    return {Path(os.path.realpath(name)) for name in names_behind(variable) if "\0" not in name}


def _culled(variable: xr.Variable) -> xr.Variable:
    """Without the tasks that other frames need; what is not lazy by Dask stays as it is."""
    if variable.chunks is None:
        return variable
    (data,) = dask.optimize(variable.data)
    return xr.Variable(variable.dims, data)
