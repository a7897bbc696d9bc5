"""What a run is trained on: sequences of rain, with the further fields that the model reads beside it."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xnowcast.data import storage
from xnowcast.fields import cf, channels, horizontal, windows
from xnowcast.fields.channels import Channel
from xnowcast.fields.units import Relation
from xnowcast.models.base import SPACING_TOLERANCE


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the cells of some events lie.

    ``array``: a field on it.
    """

    array: xr.DataArray
    y: Hashable
    x: Hashable

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.array.sizes[self.y], self.array.sizes[self.x]

    @cached_property
    def turned(self) -> tuple[bool, bool]:
        """Whether the first row lies in the south, and the first column in the east."""
        return horizontal.orientation(self.array, self.y, self.x)

    @cached_property
    def spacing(self) -> float | None:
        """Grid spacing in metres, the mean of y and x; None where the coordinates do not tell."""
        km = horizontal.grid_spacing(self.array, self.y, self.x)
        return None if km is None else round(500.0 * (km[0] + km[1]), 3)


@dataclass(frozen=True, eq=False)
class Event:
    """One sequence on one grid.

    ``name``: for messages. ``field``: the rain that it is, or is a part of, lazy where the data are; ``field.time`` is
    the dim of its sequence. ``at``: where it lies along the other dims. ``channels``: further fields with a time, as a
    whole. ``static``: ``(k, row, column)`` further fields without a time, float32, canonical, as they lie in the data.
    """

    name: str
    field: cf.Field
    at: Mapping[Hashable, int]
    axis: windows.TimeAxis
    grid: Grid
    channels: tuple[Channel, ...] = ()
    static: np.ndarray | None = None

    def layer(self, number: int) -> tuple[xr.DataArray, Any]:
        """The stored values of the rain (0) or of a channel (from 1 on), and what makes them canonical."""
        source = self.field if number == 0 else self.channels[number - 1]
        return source.array, source.conversion

    def read(
        self,
        frames: int | slice,
        rows: slice = slice(None),
        columns: slice = slice(None),
        layers: Sequence[int] = (0,),
    ) -> list[np.ndarray]:
        """Rain rate in mm h-1 and channels, rows and columns in the data's own order; NaN where missing.

        Layers are computed together, so that what several are made of is computed once.
        """
        import dask

        place = {**self.at, self.field.time: frames, self.field.y: rows, self.field.x: columns}
        sources = [self.layer(number) for number in layers]
        parts = [array.variable.isel(place, missing_dims="ignore") for array, _ in sources]
        parts = [
            part.transpose(..., self.field.y, self.field.x) for part in dask.compute(*parts, scheduler="synchronous")
        ]
        try:
            return [conversion(part.values) for part, (_, conversion) in zip(parts, sources, strict=True)]
        except ValueError as error:
            times = np.atleast_1d(self.axis.times[frames])
            raise ValueError(f"{self.name}, {clock(times[0])} to {clock(times[-1])}: {error}") from None


Place = Mapping[Hashable, int]
Data = xr.Dataset | xr.DataArray | str | Path


@dataclass(frozen=True)
class Wanted:
    """What is read of each dataset.

    ``variable``: name of the rain. ``zr``: of rain in dBZ. ``channels, static``: further fields with and without a
    time: see `xnowcast.channels`.
    """

    variable: Hashable | None = None
    zr: Relation | None = None
    channels: tuple[str, ...] = ()
    static: tuple[str, ...] = ()


def open_events(
    data: Data | Sequence[Data],
    variable: Hashable | None = None,
    zr: Relation | None = None,
    *,
    channels: Sequence[str] = (),
    static: Sequence[str] = (),
    any_step: bool = False,
    any_spacing: bool = False,
) -> list[Event]:
    """The sequences in some datasets.

    Parameters
    ----------
    data : Dataset, DataArray, path, or list of them
        One entry a dataset, as `xnowcast.storage.open_input` and `xnowcast.cf.find_field` read it.
    variable, zr
        As in `xnowcast.cf.find_field`.
    channels, static : sequence of str
        Further fields on the rain's grid, with and without its times, as `xnowcast.channels.find_channel` names them.
    any_step, any_spacing : bool
        Whether they may differ in step, as they may for a model of single frames, and in grid spacing.

    Returns
    -------
    list of Event
        Each place along other dims than time, y and x is a sequence of its own. Forecasts along an init time and a lead
        time are one sequence an init time, along their valid times.

    Raises
    ------
    ValueError
        If there is none, one cannot be read, further fields are missing, or they differ in quantity, step or grid
        spacing.

    Examples
    --------
    >>> import xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=4, shape=(16, 24))
    >>> [(event.name, event.grid.shape) for event in open_events([radar, radar])]
    [('dataset 1', (16, 24)), ('dataset 2', (16, 24))]
    """
    entries = as_entries(data)
    if not entries:
        raise ValueError("there are no data to train on: give a dataset, a path or a list of them")
    wanted = Wanted(variable, zr, tuple(channels), tuple(static))
    events = [event for i, entry in enumerate(entries) for event in _open(entry, i, wanted)]
    refuse_mixture(events, any_step=any_step, any_spacing=any_spacing)
    return events


def as_entries(data: Any) -> list[Any]:
    """What the user gave as data, as a list.

    ValueError if it is anything else.
    """
    if isinstance(data, xr.Dataset | xr.DataArray | str | Path):
        return [data]
    if not isinstance(data, Sequence):
        raise ValueError(f"data are a {type(data).__name__}; give a Dataset, a DataArray, a path or a list of them")
    return list(data)


def _open(entry: Data, number: int, wanted: Wanted) -> Iterator[Event]:
    if isinstance(entry, str | Path):
        name, entry = str(entry), storage.open_input(str(entry))
    elif isinstance(entry, xr.Dataset | xr.DataArray):
        name = f"dataset {number + 1}"
    else:
        raise ValueError(f"data holds a {type(entry).__name__}; give a Dataset, a DataArray, a path or a list of them")
    try:
        yield from _events(name, entry, wanted)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _events(name: str, data: xr.Dataset | xr.DataArray, wanted: Wanted) -> Iterator[Event]:
    field, axis_at = _sequences(cf.find_field(data, wanted.variable, zr=wanted.zr))
    horizontal.refuse_uneven(field.array, field.y, field.x)
    further, static_at = _further_fields(data, field, wanted)
    others, grid_dims = {*field.extra}, {field.y, field.x}
    one_grid = not any(others & {*c.dims} and grid_dims & {*c.dims} for c in field.array.coords.values())
    grid: Grid | None = None
    for place in np.ndindex(*(field.array.sizes[dim] for dim in field.extra)):
        at = dict(zip(field.extra, place, strict=True))
        if grid is None or not one_grid:
            grid = Grid(field.array.isel(at), field.y, field.x)
        label = "".join(f", {dim} {index}" for dim, index in at.items())
        yield Event(name + label, field, at, axis_at(at), grid, further, static_at(at))


# ---------------------------------------------------------------- times


def _sequences(field: cf.Field) -> tuple[cf.Field, Callable[[Place], windows.TimeAxis]]:
    """The field with the dim of its sequences as its time, and the axis of the sequence at a place."""
    lead = cf.forecast_dims(field).get("lead_time")
    if field.time is not None or lead not in field.array.dims:
        axis = windows.time_axis(field.array, field.time)
        return field, lambda at: axis
    valid = _valid_times(field, lead)
    other = next((dim for dim in valid.dims if dim != lead), None)
    along = other if other is not None and valid.sizes[lead] == 1 else lead  # of one lead time, the run of forecasts
    times = valid.transpose(..., along).values

    def axis_at(at: Place) -> windows.TimeAxis:
        own = times[tuple(at[dim] for dim in valid.dims if dim != along)]
        return windows.time_axis(xr.DataArray(own, {along: own}), along)

    return replace(field, time=along), axis_at


def _valid_times(field: cf.Field, lead: Hashable) -> xr.DataArray:
    """The times that forecasts are for, along the lead time and, where it is a dim, the init time."""
    array, init = field.array, cf.forecast_dims(field).get("init_time")
    dims = {init, lead} & {*array.dims}
    dated = [c for c in array.coords.values() if {*c.dims} == dims and c.dtype.kind == "M"]
    by_attributes = [c for c in dated if c.attrs.get("standard_name") == "time" or c.name == "valid_time"]
    if by_attributes:
        return by_attributes[0]
    if init in array.coords and lead in array.coords and array[lead].dtype.kind == "m":
        return array[init] + array[lead]
    raise ValueError(
        f"variable {field.name!r} does not tell the times that its forecasts along {lead!r} are for: give it a "
        "coordinate valid_time, or init times and lead times as timedelta64"
    )


# ---------------------------------------------------------------- further fields


def _further_fields(
    data: xr.Dataset | xr.DataArray, field: cf.Field, wanted: Wanted
) -> tuple[tuple[Channel, ...], Callable[[Place], np.ndarray | None]]:
    """The channels, and the static fields at a place."""
    if not (wanted.channels or wanted.static):
        return (), lambda at: None
    dataset = data if isinstance(data, xr.Dataset) else field.array.to_dataset(name=field.name)
    target = field.array.name, field.name
    found = channels.locate_channels(dataset, (*wanted.channels, *wanted.static), exclude=target)
    further, fixed = found[: len(wanted.channels)], found[len(wanted.channels) :]
    grid, extra = {field.y, field.x}, {*field.extra}
    for channel in further:
        _check_dims(channel, grid | {field.time}, extra, field)
    for channel in fixed:
        _check_dims(channel, grid, extra, field)
    values = [_static_values(channel, field) for channel in fixed]
    if not any(extra & {*v.dims} for v in values):  # one copy for all events
        everywhere = np.stack([v.values for v in values]) if values else None
        return further, lambda at: everywhere
    return further, lambda at: np.stack([v.isel(at, missing_dims="ignore").values for v in values])


def _check_dims(channel: Channel, needed: set[Hashable], allowed: set[Hashable], field: cf.Field) -> None:
    dims = {*channel.array.dims}
    if not needed <= dims <= needed | allowed:
        kind = "static field" if field.time not in needed else "channel"
        raise ValueError(
            f"{kind} {channel.name!r} has dims {channel.array.dims}, and {field.name!r} has {field.array.dims}: a "
            f"{kind} has {', '.join(str(dim) for dim in field.array.dims if dim in needed)}"
        )


def _static_values(channel: Channel, field: cf.Field) -> xr.Variable:
    values = channel.converted().variable.transpose(..., field.y, field.x).compute()
    missing = int(np.isnan(values.values).sum())
    if missing:
        raise ValueError(f"static field {channel.name!r} is NaN in {missing} cells: fill them, such as with 0")
    return values


# ---------------------------------------------------------------- together


def refuse_mixture(events: Sequence[Event], *, any_step: bool = False, any_spacing: bool = False) -> None:
    """Refuse events from which no one model can learn.

    ``any_step, any_spacing``: whether they may differ in step and in grid spacing. ValueError if they differ in
    quantity, step or grid spacing.
    """
    first = events[0]
    for event in events[1:]:
        if event.field.quantity != first.field.quantity:
            raise ValueError(
                f"{first.name} is {first.field.quantity} and {event.name} is {event.field.quantity}: a model reads one"
            )
        if not any_step and event.axis.step != first.axis.step:
            raise ValueError(
                f"{first.name} has a step of {_minutes(first.axis.step)} and {event.name} one of "
                f"{_minutes(event.axis.step)}: a model learns one step; thin out the finer data first, or "
                "train on all of them with mixed=True"
            )
        ours, theirs = first.field.interval, event.field.interval
        if not any_step and ours is not None and theirs is not None and ours.length != theirs.length:
            raise ValueError(
                f"the values of {first.name} are of {ours.minutes:g} min each and those of {event.name} of "
                f"{theirs.minutes:g} min: a model learns one kind; bring them to one interval first"
            )
        own, other = first.grid.spacing, event.grid.spacing
        if not any_spacing and own and other and abs(other / own - 1) > SPACING_TOLERANCE:
            raise ValueError(
                f"{first.name} has a grid spacing of {own:g} m and {event.name} one of {other:g} m: a model learns "
                "one; bring them to one grid spacing first, or train on all of them with mixed=True"
            )


def clock(time: np.datetime64) -> str:
    """A time in words, to the minute where it is a whole one.

    >>> clock(np.datetime64("2024-06-01T12:05", "ns"))
    '2024-06-01 12:05'
    """
    return pd.Timestamp(time).isoformat(sep=" ", timespec="seconds").removesuffix(":00")


def _minutes(step: np.timedelta64) -> str:
    return f"{step / np.timedelta64(1, 'm'):g} min"
