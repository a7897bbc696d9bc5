"""Forecasts as they are kept on disk: what took long is not made twice, and a run that was stopped goes on."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

import xnowcast

from .events import Start, steps_to
from .methods import Method

SHOWN = (5, 35, 60)  # minutes, of pictures
PICTURED = 2  # members


@dataclass(frozen=True)
class Kept:
    """A forecast of a method in a file. Rain rates are float16, which is 0.05 % off at most."""

    path: Path

    def holds(self, method: Method, start: Start) -> bool:
        """Whether it was made, with the same settings."""
        if not self.path.exists():
            return False
        with np.load(self.path) as file:
            return str(file["settings"]) == settings_of(method, start)

    def make(self, method: Method, start: Start) -> None:
        """Forecast, and write the file once all is there."""
        made, seconds = method.forecast(start)
        at, shown = (np.array([steps_to(minutes, start.rain) for minutes in m]) - 1 for m in (start.leads, SHOWN))
        shown = made[..., np.minimum(shown, made.shape[-3] - 1), :, :]
        parts = {
            "rain": made[..., at, :, :].astype("f2"),
            "known": np.isfinite(made[..., at, :, :]).reshape(-1, *made[..., at, :, :].shape[-3:]).all(0),
            "shown": (shown[:PICTURED] if shown.ndim == 4 else shown[None]).astype("f2"),
            "seconds": seconds,
            "settings": settings_of(method, start),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}")
        with open(unfinished, "wb") as file:
            np.savez_compressed(file, **parts)
        os.replace(unfinished, self.path)

    def part(self, name: str) -> np.ndarray:
        """``rain`` ``([member], lead, y, x)`` in mm/h, ``known`` by all members ``(lead, y, x)``, ``shown``, ..."""
        with np.load(self.path) as file:
            return file[name]

    def rain(self, lead: int, like: xr.DataArray) -> xr.DataArray:
        """Of one of the lead times, on the grid of ``like``."""
        values = self.part("rain")[..., lead, :, :].astype("f4")
        return xr.DataArray(values, like.coords, ("member", *like.dims)[-values.ndim :])


def settings_of(method: Method, start: Start) -> str:
    """What a forecast depends on."""
    known = {"xnowcast": xnowcast.__version__, "leads": start.leads, "frame": str(start.rain.time.values[start.number])}
    return json.dumps(known | {"grid": start.rain.shape[1:]} | method.settings, default=str)


def kept(folder: Path, method: Method, start: Start) -> Kept:
    """Where a forecast lies, made or not."""
    return Kept(folder / f"{method.name.replace(' ', '_')}_{start.number:03d}.npz")


def known_by_all(folder: Path, methods: Sequence[Method], start: Start) -> np.ndarray:
    """Cells ``(lead, y, x)`` of which every method, with every member, says something."""
    return np.logical_and.reduce([kept(folder, method, start).part("known") for method in methods])
