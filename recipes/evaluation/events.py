"""The events that forecasts are judged on, what each has been used for, and the moments to begin at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from pretrain import CHOOSING, MEMBERS_TRAINING, TESTING, TILES, TRAINING

import xnowcast

FRAMES = 5  # that all methods read
LEADS = (15, 30, 60)  # minutes; the first step at or after each
WET = 0.1  # mm/h

GROUPS = {
    "held out": TESTING,
    "other region of a training day": ("it_dpc_ne_20250416",),
    "choosing": (
        "fr_meteonet_se_2016082810",
        "fr_meteonet_se_2016082813",
        "de_ry_20210823_crop512",
        *CHOOSING,
    ),
    "training": (*dict.fromkeys((*TRAINING, *MEMBERS_TRAINING)), TILES),
}
"""What events are for. Held out: no weights learnt from them, nor from another event of their country or day. Choosing:
options were and are chosen on them. North-east Italy has taught nothing, but other regions of that day have."""

REPORTED = ("held out", "other region of a training day")


def group_of(name: str) -> str:
    """What an event is for."""
    file = name.partition(":")[0]
    return next((group for group, names in GROUPS.items() if file in names), "other")


def named(words: Sequence[str]) -> list[str]:
    """Events by their names, or all of a group."""
    return [name for word in words for name in GROUPS.get(word, (word,))]


def rain_of(name: str, folder: Path, size: int, every: int = 1, coarsen: int = 1) -> xr.DataArray:
    """Rain rates ``(time, y, x)`` in mm/h of the middle of an event; FILE:NUMBER is a tile of a file with tiles."""
    file, _, tile = name.partition(":")
    rain = xnowcast.rain_rate(xr.open_dataset(folder / f"{file}.nc"))
    rain = rain.isel(tile=int(tile), drop=True) if tile else rain
    rain = rain.isel(time=slice(None, None, every)).load()
    rain = rain.nowcast.coarsen(coarsen, boundary="trim") if coarsen > 1 else rain
    rows, columns = (slice(max(0, (n - size) // 2), (n + size) // 2) for n in rain.shape[1:])
    return rain[:, rows, columns]


def step_of(rain: xr.DataArray) -> float:
    """Minutes between frames."""
    return float((rain.time[1] - rain.time[0]) / np.timedelta64(60, "s"))


def spacing_km(rain: xr.DataArray) -> float:
    """Distance of neighbouring cells, the mean of both directions."""
    return float(np.mean([abs(np.diff(rain.indexes[d][:2])[0]) for d in rain.dims[-2:]])) / 1000


def steps_to(minutes: float, rain: xr.DataArray) -> int:
    """How many steps ahead a lead time is, or the first step after it."""
    return int(np.ceil(minutes / step_of(rain) - 1e-9))


def choose_starts(rain: np.ndarray, steps: int, n: int) -> list[int]:
    """Up to ``n`` evenly spaced frames with 2 % of rain; short files may lack the last half hour."""
    wet = (np.nan_to_num(rain) >= WET).mean((1, 2))

    def candidates(ahead: int) -> list[int]:
        return [s for s in range(FRAMES - 1, len(rain) - ahead) if wet[s] >= 0.02]

    found = candidates(steps)
    found = found if len(found) >= 4 else candidates(max(2, -(-steps // 2)))
    return sorted({found[round(i)] for i in np.linspace(0, len(found) - 1, min(n, len(found)))})


@dataclass(frozen=True)
class Start:
    """A moment at which forecasts begin. ``rain``: of the whole event; ``number``: of the newest frame that is read."""

    rain: xr.DataArray
    number: int
    leads: tuple[int, ...] = LEADS

    @property
    def frames(self) -> xr.DataArray:
        """Those that all methods read."""
        return self.rain.isel(time=slice(self.number - FRAMES + 1, self.number + 1))

    @property
    def steps(self) -> int:
        """How many are forecast."""
        return steps_to(max(self.leads), self.rain)

    def observed(self, minutes: float) -> xr.DataArray | None:
        """What the radar saw after so many minutes ``(y, x)``, if it is there."""
        number = self.number + steps_to(minutes, self.rain)
        if number >= self.rain.sizes["time"]:
            return None
        return self.rain.isel(time=number, drop=True).reset_coords(drop=True).assign_attrs(self.rain.attrs)


def starts_of(rain: xr.DataArray, n: int, leads: tuple[int, ...] = LEADS) -> list[Start]:
    """Up to ``n`` of an event."""
    numbers = choose_starts(rain.values, steps_to(max(leads), rain), n)
    return [Start(rain, number, tuple(leads)) for number in numbers]
