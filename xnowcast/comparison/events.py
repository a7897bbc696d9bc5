"""The events that systems are tested on: opened, cut to their middle, kept apart from those of the training."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.comparison.protocol import Protocol, folder_of
from xnowcast.data import storage
from xnowcast.fields import cf, horizontal, windows
from xnowcast.training.sequences import Event, as_entries, clock, open_events

WET, SHARE = 0.1, 0.02
"""An event begins where so much of the rain (mm/h) covers this share of what was measured, as `recipes/evaluate.py`."""


@dataclass(frozen=True, eq=False)
class TestEvent:
    """One event. ``data``: its middle, lazily. ``axis``: its times."""

    __test__ = False  # of no test suite

    name: str
    data: xr.Dataset | xr.DataArray
    field: cf.Field
    axis: windows.TimeAxis

    @property
    def rain(self) -> xr.DataArray:
        """What was observed, ``(time, y, x)`` in mm h-1, lazily."""
        return cf.converted(self.field).transpose(self.field.time, self.field.y, self.field.x)

    def starts(self, frames: int, steps: int, most: int) -> np.ndarray:
        """Up to ``most`` init times, evenly spread over those that every system can begin at.

        There are ``frames`` up to it and ``steps`` after it, and it rains. ValueError if there is none.
        """
        slots = self.axis.slots
        whole = np.array([np.isin(slot + np.arange(1 - frames, steps + 1), slots).all() for slot in slots])
        if not whole.any():
            raise ValueError(
                f"{self.name} has no time with {frames} frames up to it and {steps} after it: give a shorter "
                "lead_time or longer events"
            )
        rain = self.rain.isel({self.field.time: np.flatnonzero(whole)})
        seen = rain.notnull().sum([self.field.y, self.field.x])
        wet = ((rain >= WET).sum([self.field.y, self.field.x]) >= SHARE * seen).values & (seen.values > 0)
        if not wet.any():
            raise ValueError(f"{self.name} has no time to begin at with {WET:g} mm/h on {SHARE:.0%} of its cells")
        found = self.axis.times[np.flatnonzero(whole)[wet]]
        return found[np.unique(np.linspace(0, found.size - 1, min(most, found.size)).round().astype(int))]


def open_test(given: Any, protocol: Protocol) -> list[TestEvent]:
    """The events by their names, the middle ``crop`` cells of each. ValueError if one will not do."""
    if isinstance(given, Mapping) and not isinstance(given, xr.Dataset):
        named = {str(name): data for name, data in given.items()}
    else:
        entries = as_entries(given)
        names = [Path(one).stem if isinstance(one, str | Path) else f"event {i + 1}" for i, one in enumerate(entries)]
        named = dict(zip(names, entries, strict=True))
        if len(named) < len(entries):
            raise ValueError("two test events have the same name: give a mapping from names of your choice")
    if not named:
        raise ValueError("there is no event to test on: give some as test")
    if "all" in named or len({folder_of(name) for name in named}) < len(named):
        raise ValueError("names of test events must differ as names of files, and none may be 'all'")
    events = [_opened(name, data, protocol) for name, data in named.items()]
    first = events[0]
    for event in events[1:]:
        if event.axis.step != first.axis.step or event.field.quantity != first.field.quantity:
            raise ValueError(f"{first.name} and {event.name} differ in step or quantity: compare them one by one")
    return events


def _opened(name: str, data: Any, protocol: Protocol) -> TestEvent:
    data = storage.open_input(str(data)) if isinstance(data, str | Path) else data
    field = cf.find_field(data, protocol.variable, zr=protocol.zr)
    if field.extra:
        raise ValueError(f"test event {name}: {field.name!r} has the dims {field.extra}: choose one label of each")
    if protocol.crop is not None:
        cut = {}
        for dim in (field.y, field.x):
            size = field.array.sizes[dim]
            cut[dim] = slice(max(0, (size - protocol.crop) // 2), (size + protocol.crop) // 2)
        data = data.isel(cut)
        field = cf.find_field(data, protocol.variable, zr=protocol.zr)
    return TestEvent(name, data, field, windows.time_axis(field.array, field.time))


# ---------------------------------------------------------------- nothing is told of what taught it


def refuse_shared(train: Any, validation: Any, test: Sequence[TestEvent], protocol: Protocol) -> None:
    """Refuse to test on what a system is trained or chosen on.

    Two events are the same where they share times and their grids overlap. ValueError with both names.
    """
    given = as_entries(train) + ([] if isinstance(validation, int | float) else as_entries(validation))
    alike: dict[str, Any] = {"any_step": True, "any_spacing": True}
    learnt: Iterable[Event] = open_events(given, protocol.variable, protocol.zr, **alike)
    for event in learnt:
        for other in test:
            shared = np.intersect1d(event.axis.times, other.axis.times)
            if shared.size and _overlap(event.grid.array, other.field.array, event, other):
                raise ValueError(
                    f"test event {other.name} is among the training's data ({event.name}): they share "
                    f"{shared.size} times from {clock(shared[0])} on the same grid. Scores of what a system has learnt "
                    "from tell nothing: test on other events"
                )


def _overlap(one: xr.DataArray, other: xr.DataArray, event: Event, test: TestEvent) -> bool:
    """Whether two grids have a part in common: by latitude and longitude, else by their coordinates, else by size."""
    for axis, ours, theirs in (("y", event.grid.y, test.field.y), ("x", event.grid.x, test.field.x)):
        here, there = _along(one, axis, ours), _along(other, axis, theirs)
        if here is None or there is None:
            if one.sizes[ours] != other.sizes[theirs]:
                return False
        elif np.nanmax(here) < np.nanmin(there) or np.nanmax(there) < np.nanmin(here):
            return False
    return True


def _along(array: xr.DataArray, axis: str, dim: Hashable) -> np.ndarray | None:
    """Latitudes or longitudes of the cells, or whatever else the coordinate of the dim is."""
    names = [name for name in horizontal.latlon_names(array, axis) if array[name].ndim]
    names += [dim] if dim in array.coords else []
    return array[names[0]].values if names else None
