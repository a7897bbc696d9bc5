"""The verb `forecast`, on one page: field -> windows -> engine -> CF dataset."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xnowcast.fields import cf, horizontal, labels, windows
from xnowcast.fields.cf import Field
from xnowcast.fields.horizontal import T_Xarray
from xnowcast.fields.units import Relation
from xnowcast.terminal import warn
from xnowcast.verbs.request import ALL_THE_SAME, OnMismatch, Request, documented, model_name, provenance

if TYPE_CHECKING:
    from xnowcast.engine import ForecastPlan
    from xnowcast.models.base import ForecastModel, Grid, Task


@documented
def forecast(
    obj: T_Xarray,
    model: "str | ForecastModel | None" = None,
    *,
    lead_time: str | timedelta | np.timedelta64 | None = None,
    steps: int | None = None,
    init_times: windows.InitTimes = "latest",
    members: int | None = None,
    seed: int = 0,
    variable: Hashable | None = None,
    zr: Relation | None = None,
    on_gap: windows.OnGap = "raise",
    on_mismatch: OnMismatch = "raise",
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: bool | None = None,
    **options: Any,
) -> T_Xarray:
    """Continue a precipitation sequence into the future.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        A precipitation field with time, y and x axes in any order, and any other dims: rain rate, amount per
        step, or reflectivity in dBZ. NaN means not measured.
    model : str or ForecastModel, optional
        Name of a system (`xnowcast.models.names`), path of a weights file, or a model in memory. By default the best
        whose weights ship for the step and grid of the data (`xnowcast.pretrained`), else ``"sprog"`` with a warning,
        or ``"extrapolation"`` where there are fewer than five frames. With several ``members`` it is ``"steps"``. The
        attribute ``nowcast_model`` of the result says which.
    lead_time : duration, optional
        How far to forecast, such as ``"60min"``; a multiple of the data's step. One hour by default.
    steps : int, optional
        How far to forecast in steps, instead of ``lead_time``.
    init_times : "latest", "all", time, list of times or slice of times
        When the forecasts start. ``slice("2024-06-01T12", "2024-06-01T18", "30min")`` starts one every half hour, the
        last at 18.
    members : int, optional
        Members of an ensemble; 10 by default for models that always have some. ``"lagrangian"`` has some where they are
        asked for; another deterministic model has none.
    seed : int
        A whole number that the members' noise is drawn by. Member 3 is the same for one seed and init time however many
        members are asked for, and however the data are chunked.
    on_gap : {"raise", "skip", "fill"}
        What to do with a forecast that would read across a missing frame: stop, leave it out, or put the frame between
        its neighbours.
    <running>
    **options
        The model's own options.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Whichever was given, with dims ``(..., init_time, [member], lead_time, y, x)``, in the user's units; NaN
        where nothing was ever measured, and, for ``extrapolation``, where the air comes from outside. Lazy
        where the data are lazy: nothing is computed and no weights are read until the result is asked for.

    Raises
    ------
    ValueError
        If the field, its units, its times, the model or an argument will not do; the message says what would.

    Examples
    --------
    >>> import xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(32, 32), seed=1)
    >>> fc = forecast(radar, "extrapolation", lead_time="20min")
    >>> dict(fc.sizes)
    {'init_time': 1, 'lead_time': 4, 'y': 32, 'x': 32}
    """
    return run(ForecastRequest.of(forecast, locals()))


@dataclass(frozen=True, kw_only=True)
class ForecastRequest(Request):
    """A call of `forecast`, or of what runs it over an archive; the arguments are those of `forecast`."""

    lead_time: str | timedelta | np.timedelta64 | None = None
    steps: int | None = None
    init_times: windows.InitTimes = "latest"
    on_gap: windows.OnGap = "raise"


@dataclass(frozen=True)
class Prepared:
    """A forecast that has been checked and has not begun: what `forecast` runs at once and archives in batches.

    ``members``: numbers of the members; None for a deterministic model. ``options``: the model's own options.
    """

    field: Field
    recipe: Any
    task: "Task"
    axis: windows.TimeAxis
    plan: "ForecastPlan"
    members: range | None
    batch_size: int | None
    options: dict[str, Any]

    def run(self, data: Any, chosen: windows.Windows) -> Any:
        """Lazy forecasts ``(*extra, init_time, [member], lead_time, y, x)`` in the user's units, rows and columns.

        ``data`` is a dask array ``(*extra, time, y, x)`` with the first row in the north, in which ``chosen`` counts.
        """
        from xnowcast import engine

        values = engine.forecast_array(
            data,
            self.recipe,
            self.plan,
            windows=chosen,
            members=self.members,
            extra_labels=[labels.labels_of(self.field.array, d) for d in self.field.extra],
            batch_size=self.batch_size,
        )
        return labels.user_orientation(values, self.field)

    def label(self, values: Any, obj: T_Xarray, init_times: np.ndarray, attrs: dict[str, Any]) -> T_Xarray:
        """Such forecasts as the CF object that the user gets; ``obj`` is what the user gave."""
        seed = self.plan.seed if self.task.stochastic else None
        attrs = attrs | _overlap(self.field, self.axis)
        return labels.label_forecast(
            values,
            self.field,
            obj,
            init_times=init_times,
            lead_times=np.arange(1, self.plan.steps + 1) * self.axis.step,
            members=self.members,
            attrs=provenance(self.recipe, self.options, seed) | attrs,
            history=f"xnowcast forecast with {model_name(self.recipe)}",
        )


def prepare(request: ForecastRequest) -> Prepared:
    """Everything of `forecast` that can be checked without reading a frame or a weight.

    Init times and what to do with gaps matter only where no model is named, for one that has enough frames is chosen.
    ValueError as `forecast`.
    """
    from xnowcast import engine
    from xnowcast.models import shipped

    if request.model is None and request.weights is None:
        strict = replace(request, on_mismatch="raise")
        return shipped.first_that_fits(lambda name: _attempt(replace(strict, model=name)), request.members)
    field, task = request.field, request.task
    axis = windows.time_axis(field.array, field.time)
    steps = windows.lead_steps(axis.step, lead_time=request.lead_time, steps=request.steps)
    horizontal.refuse_uneven(field.array, field.y, field.x)
    request.check_field(field, step=axis.step)
    _check_forecast(field, task, request.name, steps)
    numbers = request.member_numbers()
    grid = _grid(field, axis) if task.reads_grid else None
    plan = engine.ForecastPlan(task, steps, request.seed, request.device, field.conversion, grid)
    return Prepared(field, request.recipe, task, axis, plan, numbers, request.batch_size, request.all_options)


def _grid(field: Field, axis: windows.TimeAxis) -> "Grid":
    """Step and spacing of the data, as a model reads them; what do not tell their spacing are taken to have 1 km."""
    from xnowcast.models.base import Grid

    spacing = cf.grid_spacing(field.array, field.y, field.x) or (1.0, 1.0)
    return Grid(float(axis.step / np.timedelta64(1, "m")), spacing)


def _attempt(request: ForecastRequest) -> Prepared:
    """A forecast with a model that nobody asked for, which has to suit the data: a warning would not do."""
    try:
        ready = prepare(request)
    except ValueError as error:
        raise ValueError(str(error).removesuffix(ALL_THE_SAME)) from None
    field = ready.field
    if ready.task.spacing is not None and horizontal.grid_spacing(field.array, field.y, field.x) is None:
        raise ValueError(f"variable {field.name!r} does not tell its grid spacing")
    windows.input_windows(ready.axis, ready.task.input_frames, request.init_times, on_gap=request.on_gap)
    return ready


def run(request: ForecastRequest) -> Any:
    """The forecast that was asked for, as the user gets it."""
    ready = prepare(request)
    chosen = windows.input_windows(ready.axis, ready.task.input_frames, request.init_times, on_gap=request.on_gap)
    _check_values(ready.field, chosen)
    data, used = _frames(ready.field, chosen)
    result = ready.label(ready.run(data, used), request.obj, used.init_times, _skipped(chosen))
    return request.given_back(result, lazy=ready.field.array.chunks is not None)


MOST_STEPS = 10_000
"""Of a forecast; at five minutes, a month. Its labels are in memory while it is planned."""


def _check_forecast(field: Field, task: "Task", name: str, steps: int) -> None:
    if steps > MOST_STEPS:
        raise ValueError(f"steps is {steps}, or lead_time is as long; a nowcast has up to {MOST_STEPS}")
    taken = {"init_time", "lead_time", *(["member"] if task.stochastic else [])} & set(field.extra)
    if taken:
        raise ValueError(
            f"variable {field.name!r} already has a dim {', '.join(map(repr, sorted(taken)))}, which the forecast "
            "adds: choose one of its labels with .isel, or rename it"
        )
    if task.max_steps is not None and steps > task.max_steps:
        raise ValueError(
            f"{name!r} forecasts up to {task.max_steps} steps; {steps} were asked for: "
            f"pass steps={task.max_steps} or fewer"
        )


_CELLS_AT_ONCE = 2**24


def _check_values(field: Field, chosen: windows.Windows) -> None:
    """Refuse impossible values before a model runs for hours on the frames before them; lazy data fail when read.

    Some frames at a time, so that a file that was opened without Dask is never in memory whole.
    """
    if field.array.chunks is not None:
        return
    used = np.unique([chosen.before, chosen.after])
    some = max(1, _CELLS_AT_ONCE * field.array.sizes[field.time] // field.array.size)
    parts = (used[i : i + some] for i in range(0, used.size, some))
    read = (cf.converted(replace(field, array=field.array.isel({field.time: part}))) for part in parts)
    measured = [bool(np.isfinite(values.values).any()) for values in read]
    if not any(measured):
        raise ValueError(
            f"variable {field.name!r} is NaN in every frame that the forecasts read: nothing was measured there, so "
            "there is nothing to continue"
        )


def _frames(field: Field, chosen: windows.Windows) -> tuple[Any, windows.Windows]:
    """The frames that are needed, as a dask array with the first row in the north, and the windows counted in them."""
    first, last = chosen.before.min(), chosen.after.max()
    used = replace(field, array=field.array.isel({field.time: slice(first, last + 1)}))
    data = labels.frames_north_up(used, **{str(field.time): 24})
    return data, replace(chosen, before=chosen.before - first, after=chosen.after - first)


def _overlap(field: Field, axis: windows.TimeAxis) -> dict[str, str]:
    """What a forecast is whose frames overlap in time, such as sums of an hour that come every quarter of one."""
    if field.interval is None or field.interval.length <= axis.step:
        return {}
    minutes, step = field.interval.minutes, axis.step / np.timedelta64(60, "s")
    overlap = (
        f"each value is of the {minutes:g} min up to its time, and the next one {step:g} min later overlaps with it"
    )
    warn(
        f"variable {field.name!r} is forecast from values of {minutes:g} min every {step:g} min, and so is what comes "
        f"out: {overlap}. Models are made for frames that do not overlap"
    )
    return {"nowcast_overlap": overlap}


def _skipped(chosen: windows.Windows) -> dict[str, str]:
    if not chosen.skipped.size:
        return {}
    return {"nowcast_skipped_init_times": ", ".join(np.datetime_as_string(chosen.skipped, unit="s"))}
