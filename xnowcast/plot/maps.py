"""Maps by lead time, one field alone, and animations."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import dask
import numpy as np
import pandas as pd
import xarray as xr

from xnowcast import check
from xnowcast.fields import cf, horizontal, windows
from xnowcast.fields.intervals import Interval
from xnowcast.fields.units import Linear
from xnowcast.plot.coastlines import crs_of, lines_of_coasts
from xnowcast.plot.style import (
    finish,
    in_minutes,
    lead_unit,
    new_figure,
    picture_draft,
    picture_path,
    pyplot_module,
    some_of,
)
from xnowcast.verify.align import MOMENT

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure

RAIN_LEVELS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Steps of the rain-rate colour scale, mm h-1; less than the first is drawn as dry."""

_RAIN_COLORS = ("#bfe0f7", "#7ab8ea", "#2f7fd0", "#35a85a", "#f6e13c", "#f79a1e", "#e2301f", "#b3128c", "#5a0d6b")
NOT_MEASURED = "#c9c9c9"

Member = int | Literal["mean", "probability"]

_Kind = Literal["rain", "probability", "classes", "activation"]


def rain_colormap() -> tuple["ListedColormap", "BoundaryNorm"]:
    """The rain-rate colour scale: blue for light rain, then green, yellow, red and purple.

    Returns
    -------
    matplotlib.colors.ListedColormap
        Under the first of `RAIN_LEVELS` transparent, NaN ("not measured") grey.
    matplotlib.colors.BoundaryNorm
        From mm h-1 to the colours; a value on a level has the colour above it.

    Examples
    --------
    >>> cmap, norm = rain_colormap()
    >>> bool(cmap(norm(0.0))[3] == 0), cmap(norm(3.0)) == cmap(norm(4.9))
    (True, True)
    """
    pyplot_module()
    from matplotlib.colors import BoundaryNorm, ListedColormap

    plain = ListedColormap(_RAIN_COLORS, name="rain_rate")
    cmap = cast("ListedColormap", plain.with_extremes(under=(1, 1, 1, 0), bad=NOT_MEASURED))
    return cmap, BoundaryNorm(RAIN_LEVELS, ncolors=len(_RAIN_COLORS), extend="max")


def plot(
    forecasts: xr.Dataset | xr.DataArray,
    observations: xr.Dataset | xr.DataArray | None = None,
    *,
    variable: Hashable | None = None,
    lead_times: Sequence[Any] | None = None,
    init_time: Any = -1,
    member: Member = 0,
    threshold: float | None = None,
    title: str | None = None,
    coastlines: bool = True,
    path: str | Path | None = None,
) -> "Figure":
    """Maps of a forecast by lead time, what was observed above it.

    Parameters
    ----------
    forecasts : xarray.Dataset or xarray.DataArray
        Dims (init_time, [member], lead_time, y, x), by these or other packages' names (`number`, `step`, ...), in any
        units that `cf.rain_rate` reads.
        Only what is drawn is computed. A sequence of observations alone is drawn as by `plot_field`. Of what
        `xnowcast.postprocess` and `xnowcast.explain` give, ``variable`` may be ``"rain_category"``,
        ``"exceedance_probability"`` (of ``threshold``) or ``"class_activation"``.
    observations : xarray.Dataset or xarray.DataArray, optional
        Sequence with a time axis on the same grid. Matched by valid time; where there is no frame the panel says so.
        Above rain classes the observed rain is drawn in the same classes.
    variable : hashable, optional
        Name of the field where a dataset has several.
    lead_times : sequence of timedelta or str, optional
        What to show, such as ``["15min", "60min"]``. By default up to four, evenly spread, the last one included.
    init_time : int or datetime or str
        Position or label of the start.
    member : int, "mean" or "probability"
        Number of the ensemble member, the mean of all, or the share of them at or over ``threshold``. Ignored by
        deterministic forecasts, save for "probability", which they do not have.
    threshold : float, optional
        mm h-1, for probabilities; the observed area at or over it is outlined.
    title : str, optional
        By default the model, if the attributes tell, and the start.
    coastlines : bool
        Draw coastlines where they can be had without a download: cartopy is installed, has the Natural Earth
        coastline on disk, and the grid is in latitude and longitude or has a grid mapping. Otherwise left out.
    path : str or path, optional
        Also write the figure there.

    Returns
    -------
    matplotlib.figure.Figure
        Cells that were not measured, or that the forecast does not reach, are grey; dry ones are white.

    Raises
    ------
    ValueError
        If a lead time, start or member is not in the forecast, ``threshold`` is missing, or another dim is left.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import xarray as xr
    >>> rain = xr.DataArray(
    ...     np.ones((1, 3, 8, 8)), dims=("init_time", "lead_time", "y", "x"), name="rr", attrs={"units": "mm h-1"},
    ...     coords={"init_time": [np.datetime64("2024-06-01T12:00", "ns")],
    ...             "lead_time": np.arange(1, 4) * np.timedelta64(5, "m").astype("timedelta64[ns]")})
    >>> figure = plot(rain, lead_times=["5min", "15min"])
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['+5 min\\n12:05 UTC', '+15 min\\n12:15 UTC']
    """
    check.call(plot, locals())
    if path is not None:
        picture_path(path, forecasts, observations)
    forecasts = _in_forecast_layout(forecasts, variable)
    if "lead_time" not in forecasts.coords and observations is None and lead_times is None:
        return _plot_sequence(forecasts, variable, None, threshold, title, coastlines, path)
    shown = _forecast_maps(forecasts, variable, init_time, lead_times, member, threshold)
    rows = _beside_observed(shown, observations)
    title = _forecast_title(forecasts, shown) if title is None else title
    return finish(_map_grid(rows, title, coastlines), path)


def plot_side_by_side(
    forecasts: Mapping[str, xr.Dataset | xr.DataArray],
    observations: xr.Dataset | xr.DataArray | None = None,
    *,
    variable: Hashable | None = None,
    lead_times: Sequence[Any] | None = None,
    init_time: Any = -1,
    member: Member = 0,
    title: str | None = None,
    coastlines: bool = True,
    path: str | Path | None = None,
) -> "Figure":
    """Maps of several forecasts of one case, a row each, what was observed above them.

    Parameters
    ----------
    forecasts : mapping of str to xarray.Dataset or xarray.DataArray
        By the name that stands beside the row; each as for `plot`, all of the same grid and lead times.
    observations, variable, lead_times, init_time, coastlines, path
        As in `plot`.
    member : int or "mean"
        As in `plot`, of those that have members.
    title : str, optional
        By default the start.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no forecast, or as `plot`.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=9, shape=(32, 32), seed=1)
    >>> names = ["persistence", "extrapolation"]
    >>> made = {name: radar.nowcast.forecast(name, lead_time="10min", init_times=radar.time[4]) for name in names}
    >>> figure = plot_side_by_side(made, radar, coastlines=False)
    >>> [axes.get_ylabel().split("\\n")[0] for axes in figure.axes[:6:2]]
    ['observed', 'persistence', 'extrapolation']
    """
    check.call(plot_side_by_side, locals())
    if not forecasts:
        raise ValueError("there is no forecast to draw")
    if path is not None:
        picture_path(path, *forecasts.values(), observations)
    rows = [
        (name, _forecast_maps(_in_forecast_layout(one, variable), variable, init_time, lead_times, member, None))
        for name, one in forecasts.items()
    ]
    first = rows[0][1]
    if any(maps.values.shape != first.values.shape for _, maps in rows):
        raise ValueError("the forecasts differ in grid or lead times: they cannot stand side by side")
    if title is None:
        title = "" if first.start is None else f"from {first.start:%Y-%m-%d %H:%M} UTC"
    if observations is not None:
        rows = [("observed", _matching_maps(observations, first)), *rows]
    return finish(_map_grid(rows, title, coastlines), path)


def plot_field(
    observations: xr.Dataset | xr.DataArray,
    *,
    variable: Hashable | None = None,
    times: Sequence[Any] | None = None,
    title: str | None = None,
    coastlines: bool = True,
    path: str | Path | None = None,
) -> "Figure":
    """Maps of an observed sequence.

    Parameters
    ----------
    observations : xarray.Dataset or xarray.DataArray
        Field with a time axis, or a single field; only what is drawn is computed.
    variable, coastlines, path
        As in `plot`.
    times : sequence of datetime or str, optional
        What to show. By default up to four, evenly spread, the first and last included.
    title : str, optional
        By default the dataset's title.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If a time is not in the sequence, or a dim besides time, y and x is left.

    Examples
    --------
    >>> rain = xr.DataArray(
    ...     np.ones((2, 8, 8)), dims=("time", "y", "x"), name="rr", attrs={"units": "mm h-1"},
    ...     coords={"time": np.array(["2024-06-01T12:00", "2024-06-01T12:05"], "datetime64[ns]")})
    >>> [axes.get_title() for axes in plot_field(rain).axes[:2]]
    ['2024-06-01\\n12:00 UTC', '12:05 UTC']
    """
    if path is not None:
        picture_path(path, observations)
    return _plot_sequence(observations, variable, times, None, title, coastlines, path)


def _plot_sequence(
    sequence: xr.Dataset | xr.DataArray,
    variable: Hashable | None,
    times: Sequence[Any] | None,
    threshold: float | None,
    title: str | None,
    coastlines: bool,
    path: str | Path | None,
) -> "Figure":
    shown = _observed_maps(sequence, variable, times, threshold)
    if title is None:
        title = str(sequence.attrs.get("title", "")) or ("observed" if shown.kind == "rain" else "post-processed")
    return finish(_map_grid([("", shown)], title, coastlines), path)


def animate(
    forecasts: xr.Dataset | xr.DataArray,
    observations: xr.Dataset | xr.DataArray | None = None,
    *,
    variable: Hashable | None = None,
    init_time: Any = -1,
    member: Member = 0,
    threshold: float | None = None,
    title: str | None = None,
    coastlines: bool = True,
    fps: float = 4.0,
    path: str | Path | None = None,
) -> "FuncAnimation":
    """Forecast in motion, beside what was observed; or an observed sequence in motion.

    Parameters
    ----------
    forecasts : xarray.Dataset or xarray.DataArray
        A forecast as in `plot`, or a sequence with a time axis. Every frame is computed and held in memory.
    observations, variable, init_time, member, threshold, title, coastlines
        As in `plot`.
    fps : float
        Frames per second.
    path : str or path, optional
        Write the animation there: a GIF, or whatever the writers of matplotlib make of the suffix.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        In Jupyter, ``IPython.display.HTML(animation.to_jshtml())`` plays it.

    Raises
    ------
    ValueError
        As `plot`; or if ``fps`` is not over 0.

    Examples
    --------
    >>> from xnowcast.data.synthetic import synthetic_radar
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = pathlib.Path(folder, "radar.gif")
    ...     animation = animate(synthetic_radar(frames=2, shape=(16, 16)), path=written)
    ...     written.exists()
    True
    """
    check.call(animate, locals())
    if path is not None:
        picture_path(path, forecasts, observations)
    pyplot_module()
    from matplotlib.animation import FuncAnimation

    if not fps > 0:
        raise ValueError(f"fps is {fps!r}; give a number over 0.")
    forecasts = _in_forecast_layout(forecasts, variable)
    if "lead_time" in forecasts.dims:
        shown = _forecast_maps(forecasts, variable, init_time, "all", member, threshold)
        columns = _beside_observed(shown, observations)
        title = _forecast_title(forecasts, shown) if title is None else title
    else:
        shown = _observed_maps(forecasts, variable, "all")
        columns = [("observed", shown)]
        title = str(forecasts.attrs.get("title", "")) if title is None else title
    fig, draw = _moving_maps(columns, title, coastlines)
    animation = FuncAnimation(fig, draw, frames=len(shown.labels), interval=1000.0 / fps, blit=False)
    if path is not None:
        with picture_draft(path) as new:
            animation.save(new, writer="pillow" if new.suffix.lower() == ".gif" else None, fps=cast(int, fps))
    return animation


# What is to be drawn


@dataclass(frozen=True)
class _Maps:
    """Fields in the units of computing with all that a panel says of them."""

    values: np.ndarray  # (panel, y, x); NaN is not measured
    found: np.ndarray  # (panel,), False where there is no such frame
    labels: list[str]
    times: pd.DatetimeIndex | None  # valid times
    x: np.ndarray
    y: np.ndarray
    axis_labels: tuple[str, str]
    quantity: str  # label of the colour bar
    lines: list[np.ndarray]  # coastlines in the units of x and y
    name: Hashable  # of the variable
    start: pd.Timestamp | None = None  # of a forecast
    what: str = ""  # "" for rain, else what the forecast row is: mean, probability
    threshold: float | None = None  # of a probability
    classes: "_Classes | None" = None  # of values that are numbers of rain classes
    interval: Interval | None = None  # that each value is the mean over
    kind: _Kind = "rain"


@dataclass(frozen=True)
class _Classes:
    """Rain classes, driest first, as a CF flag names them."""

    names: tuple[str, ...]
    thresholds: tuple[float, ...] = ()  # mm/h, between the classes; empty where nothing tells them

    @property
    def labels(self) -> list[str]:
        """Names as people write them, with what they mean."""
        named = [name.replace("_", " ") for name in self.names]
        if not self.thresholds:
            return named
        least = [f"under {self.thresholds[0]:g}", *(f"from {r:g}" for r in self.thresholds)]
        return [f"{name}\n({low} mm/h)" for name, low in zip(named, least, strict=True)]

    def of_rain(self, rain: np.ndarray) -> np.ndarray:
        """Numbers of the classes of rain rates; NaN stays."""
        if not self.thresholds:
            raise ValueError(
                "rain_category alone does not tell the thresholds that sort the observations into its classes: give "
                "the dataset, with variable='rain_category'"
            )
        return np.where(np.isnan(rain), np.float32(np.nan), np.digitize(rain, self.thresholds).astype("f4"))


def _in_forecast_layout(forecasts: Any, variable: Hashable | None) -> Any:
    """Init times, members and lead times by our names; what a post-processor made has them already."""
    return forecasts if _post_processed(forecasts, variable) is not None else cf.in_forecast_layout(forecasts, variable)


def _forecast_maps(
    forecasts: xr.Dataset | xr.DataArray,
    variable: Hashable | None,
    init_time: Any,
    lead_times: Any,
    member: Member,
    threshold: float | None,
) -> _Maps:
    field, kind, classes = _drawable(forecasts, variable, threshold)
    array = field.array
    if "init_time" in array.dims:
        array = _select(array, "init_time", init_time)
    if "lead_time" not in array.dims:
        if "lead_time" not in array.coords:
            raise ValueError(
                "the forecast has no lead_time; a sequence with a time axis is drawn alone, by "
                "xnowcast.plot.plot_field(ds.isel(time=0))"
            )
        array = array.expand_dims("lead_time")
    array = array.isel(lead_time=_lead_positions(array["lead_time"], lead_times))
    lead = pd.TimedeltaIndex(array["lead_time"].values)
    start = pd.Timestamp(array["init_time"].values) if "init_time" in array.coords else None
    if start is None and "valid_time" in array.coords:
        start = pd.Timestamp(np.atleast_1d(array["valid_time"].values)[0]) - lead[0]
    times = None if start is None else start + lead
    if kind == "rain":
        values, what = _member(_rain(field, array), member, threshold)
        kind = "probability" if what == "probability" else kind
    else:
        values, what = _one_member(array, member), {"classes": "post-processed"}.get(kind, kind)
    labels = _lead_labels(array["lead_time"].values)
    if times is not None:
        labels = [f"{label}\n{clock}" for label, clock in zip(labels, _clocks(times, start), strict=True)]
    return _Maps(
        _values(values, ("lead_time", field.y, field.x)),
        np.ones(len(labels), bool),
        labels,
        times,
        **_axes_of(array, field, forecasts),
        start=start,
        what=what,
        threshold=threshold if kind == "probability" else None,
        classes=classes,
        kind=kind,
        interval=field.interval,
    )


def _drawable(
    data: xr.Dataset | xr.DataArray, variable: Hashable | None, threshold: float | None
) -> tuple[cf.Field, _Kind, _Classes | None]:
    """The field that is to be drawn, and what its values are."""
    array = _post_processed(data, variable)
    if array is None:
        return cf.find_field(data, variable), "rain", None
    thresholds = tuple(np.atleast_1d(data["threshold"].values).tolist()) if "threshold" in data.coords else ()
    if "threshold" in array.dims:
        if threshold not in thresholds:
            raise ValueError(f"threshold is {threshold!r}; the probabilities are of {some_of(thresholds)} mm/h")
        array = array.isel(threshold=thresholds.index(threshold))
    named = tuple(str(array.attrs.get("flag_meanings", "")).split())
    y, x = horizontal.horizontal_dims(array)
    time = next((d for d in array.dims if d not in (y, x) and array[d].dtype.kind == "M" and d != "init_time"), None)
    field = cf.Field(array, y, x, time, "rain_rate", Linear(1.0))
    return field, _POST_PROCESSED[array.name], _Classes(named, thresholds) if named else None


_POST_PROCESSED: dict[Hashable, _Kind] = {
    "rain_category": "classes",
    "exceedance_probability": "probability",
    "class_activation": "activation",
}
"""Variables of `xnowcast.postprocess` and `xnowcast.explain` that are no rain rates."""


def _post_processed(data: xr.Dataset | xr.DataArray, variable: Hashable | None) -> xr.DataArray | None:
    """That variable of a post-processor's which is asked for, or which alone is there; None for rain."""
    if isinstance(data, xr.DataArray):
        return data if data.name in _POST_PROCESSED else None
    only = "class_activation" if variable is None and "class_activation" in data else variable
    return data[only] if only in data.data_vars and only in _POST_PROCESSED else None


def _one_member(array: xr.DataArray, member: Member) -> xr.DataArray:
    """Classes and activations have no mean."""
    if "member" not in array.dims:
        return array
    if member in ("mean", "probability"):
        raise ValueError(f"member is {member!r}, and {array.name} has members: give the number of one")
    return _member(array, member, None)[0]


def _member(rain: xr.DataArray, member: Member, threshold: float | None) -> tuple[xr.DataArray, str]:
    """One field of an ensemble, and what to call it."""
    if member not in ("mean", "probability") and (isinstance(member, bool | str) or not float(member).is_integer()):
        raise ValueError(f"member is {member!r}; give a number, 'mean' or 'probability'.")
    if member == "probability" and "member" not in rain.dims:
        raise ValueError("member is 'probability', but the forecast has no ensemble; it is deterministic.")
    if "member" not in rain.dims:
        return rain, ""
    if member == "mean":
        return rain.mean("member", skipna=False), f"mean of {rain.sizes['member']}"
    if member == "probability":
        if threshold is None:
            raise ValueError("member is 'probability' without a threshold; give one in mm h-1.")
        share = (rain >= threshold).where(rain.notnull()).mean("member", skipna=False)
        return share, "probability"
    numbers = rain["member"].values.tolist() if "member" in rain.coords else list(range(rain.sizes["member"]))
    if member not in numbers:
        raise ValueError(f"member {member} is not in the forecast; it has {some_of(numbers)}.")
    return rain.isel(member=numbers.index(member)), f"member {member}"


def _beside_observed(shown: _Maps, observations: xr.Dataset | xr.DataArray | None) -> list[tuple[str, _Maps]]:
    observed = [] if observations is None else [_matching_maps(observations, shown)]
    return [(maps.what or "forecast", maps) for maps in (*observed, shown)]


def _matching_maps(observations: xr.Dataset | xr.DataArray, shown: _Maps) -> _Maps:
    """The observed frames at the valid times of the forecast."""
    named = isinstance(observations, xr.Dataset) and shown.name in observations
    field = cf.find_field(observations, shown.name if named else None)
    if field.time is None:
        raise ValueError("the observations have no time axis; give the radar sequence.")
    if shown.times is None:
        raise ValueError("the forecast has neither valid_time nor init_time, so observations cannot be matched.")
    if (field.array.sizes[field.y], field.array.sizes[field.x]) != shown.values.shape[-2:]:
        raise ValueError(
            f"the observations have {field.array.sizes[field.y]} x {field.array.sizes[field.x]} cells, the forecast "
            f"{shown.values.shape[-2]} x {shown.values.shape[-1]}; bring them to one grid first."
        )
    positions = pd.DatetimeIndex(field.array[field.time].values).get_indexer(shown.times)
    rain = _rain(field, field.array.isel({field.time: np.maximum(positions, 0)}))
    values = _values(rain, (field.time, field.y, field.x))
    values[positions < 0] = np.nan
    grid = _axes_of(field.array, field, observations)
    labels = [f"{time:%H:%M} UTC" for time in shown.times]
    options: dict[str, Any] = {"threshold": shown.threshold}
    if shown.classes is not None:
        values, options = shown.classes.of_rain(values), {"classes": shown.classes, "kind": "classes"}
    what = _observed_words(field.interval, shown.interval)
    return _Maps(values, positions >= 0, labels, shown.times, **grid, **options, what=what)


def _observed_words(observed: Interval | None, shown: Interval | None) -> str:
    """With what observations are the mean over, where the forecast beside them is not; some minutes are a moment."""
    if observed is None or observed.length <= (MOMENT if shown is None else shown.length):
        return "observed"
    return f"observed mean of {observed.minutes:g} min"


def _observed_maps(
    observations: xr.Dataset | xr.DataArray, variable: Hashable | None, times: Any, threshold: float | None = None
) -> _Maps:
    field, kind, classes = _drawable(observations, variable, threshold)
    array = field.array
    read = _rain if kind == "rain" else lambda _, part: part
    if field.time is None:
        rain, labels, index = read(field, array).expand_dims("frame"), _clock_of_one(array), None
        values = _values(rain, ("frame", field.y, field.x))
    else:
        index = pd.DatetimeIndex(array[field.time].values)
        positions = _spread(len(index), 4, first=True) if times is None else np.arange(len(index))
        if times is not None and not (isinstance(times, str) and times == "all"):
            positions = index.get_indexer(pd.DatetimeIndex([windows.utc_time(time) for time in times]))
            if (positions < 0).any():
                absent = list(times)[int(np.argmin(positions))]
                raise ValueError(f"time {absent} is not in the sequence; it goes from {index[0]} to {index[-1]}.")
        index = index[positions]
        values = _values(read(field, array.isel({field.time: positions})), (field.time, field.y, field.x))
        labels = _clocks(index, between="\n")
    grid = _axes_of(array, field, observations)
    options: dict[str, Any] = {"threshold": threshold if kind == "probability" else None, "classes": classes}
    return _Maps(values, np.ones(len(labels), bool), labels, index, **grid, **options, kind=kind)


def _clock_of_one(array: xr.DataArray) -> list[str]:
    """The label of a field that has no time axis, and may still tell its time."""
    scalars = {str(name): c.values for name, c in array.coords.items() if c.ndim == 0 and c.dtype.kind in "mM"}
    valid = [scalars[name] for name in ("valid_time", "time") if name in scalars]
    if "init_time" in scalars:
        valid.append(scalars["init_time"] + scalars.get("lead_time", np.timedelta64(0, "ns")))
    return _clocks(pd.DatetimeIndex(valid[:1]), between="\n") or [""]


def _clocks(times: pd.DatetimeIndex, before: pd.Timestamp | None = None, between: str = " ") -> list[str]:
    """Times of the day, with the date where it is not that of the time before."""
    days = times.normalize()
    earlier = [None if before is None else before.normalize(), *days[:-1]]
    return [
        f"{time:%H:%M} UTC" if day == last else f"{time:%Y-%m-%d}{between}{time:%H:%M} UTC"
        for time, day, last in zip(times, days, earlier, strict=False)
    ]


def _rain(field: cf.Field, part: xr.DataArray) -> xr.DataArray:
    """Part of a field in the units of computing. The whole field tells the step of amounts, the part could not."""
    return cf.converted(replace(field, array=part))


def _values(rain: xr.DataArray, dims: tuple[Hashable, ...]) -> np.ndarray:
    extra = [dim for dim in rain.dims if dim not in dims]
    if extra:
        size = rain.sizes[extra[0]]
        raise ValueError(f"the field has the dim {extra[0]!r} of length {size}; select one first: .isel({extra[0]}=0).")
    return np.array(dask.compute(rain.transpose(*dims).data)[0], np.float32)


def _select(array: xr.DataArray, dim: str, wanted: Any) -> xr.DataArray:
    """One start, by position or by label."""
    size = array.sizes[dim]
    if check.is_whole(wanted):
        if not -size <= wanted < size:
            raise ValueError(f"{dim} is {wanted}, but the forecast has {size}.")
        return array.isel({dim: wanted})
    position = pd.DatetimeIndex(array[dim].values).get_indexer(pd.DatetimeIndex([windows.utc_time(wanted)]))[0]
    if position < 0:
        known = [str(pd.Timestamp(t)) for t in array[dim].values]
        raise ValueError(f"{dim} {wanted} is not in the forecast; it has {some_of(known)}.")
    return array.isel({dim: position})


def _lead_positions(lead_time: xr.DataArray, wanted: Any) -> np.ndarray:
    if wanted is None:
        return _spread(lead_time.size, 4, first=False)
    if isinstance(wanted, str) and wanted == "all":
        return np.arange(lead_time.size)
    index = pd.TimedeltaIndex(lead_time.values)
    if isinstance(wanted, str | np.timedelta64 | pd.Timedelta):
        wanted = [wanted]
    try:
        positions = index.get_indexer(pd.TimedeltaIndex([pd.Timedelta(lead) for lead in wanted]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"lead_times is {wanted!r}; it must be 'all' or durations such as '30min' ({error})") from None
    if not positions.size:
        raise ValueError("lead_times is empty: give at least one, or 'all'")
    if (positions < 0).any():
        known = [f"{minutes:g}" for minutes in in_minutes(lead_time.values)]
        absent = list(wanted)[int(np.argmin(positions))]
        raise ValueError(f"lead time {absent} is not in the forecast; it has {some_of(known)} min.")
    return positions


def _spread(size: int, most: int, *, first: bool) -> np.ndarray:
    """Up to ``most`` positions, evenly spread, the last included."""
    if size <= most:
        return np.arange(size)
    if first:
        return np.rint(np.linspace(0, size - 1, most)).astype(int)
    return np.rint(np.arange(1, most + 1) * size / most).astype(int) - 1


def _axes_of(array: xr.DataArray, field: cf.Field, source: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """x and y in km where the grid is projected, in degrees where it is not, else in cells; with coastlines."""
    quantity = "rain rate (mm/h)" if field.quantity == "rain_rate" else "vertically integrated liquid (kg/m²)"
    if array.name == "class_activation":
        quantity = str(array.attrs.get("long_name", "class activation")).replace("_", " ")
    x, y, labels, projected = None, None, ("x (cells)", "y (cells)"), False
    if field.x in array.coords and field.y in array.coords:
        x, y = (np.asarray(horizontal.along(array, axis, d), float) for axis, d in (("x", field.x), ("y", field.y)))
        unit = str(array[field.x].attrs.get("units", ""))
        factor = {"m": 1e-3, "metre": 1e-3, "meter": 1e-3, "metres": 1e-3, "meters": 1e-3, "km": 1.0}.get(unit)
        if factor is not None:
            x, y, labels, projected = x * factor, y * factor, ("x (km)", "y (km)"), True
        elif unit.startswith("degree"):
            labels = ("longitude (°)", "latitude (°)")
        else:
            labels = (f"{field.x} ({unit})" if unit else str(field.x), f"{field.y} ({unit})" if unit else str(field.y))
    if x is None or y is None:
        x, y = np.arange(array.sizes[field.x], dtype=float), -np.arange(array.sizes[field.y], dtype=float)
    crs = crs_of(array, source) if projected else ("degrees" if labels[0].startswith("longitude") else None)
    return {
        "x": x,
        "y": y,
        "axis_labels": labels,
        "quantity": quantity,
        "lines": lines_of_coasts(crs, x, y),
        "name": array.name,
    }


# Drawing


def _map_grid(rows: list[tuple[str, _Maps]], title: str, coastlines: bool) -> "Figure":
    """A row of panels for each of ``rows``, with one colour bar for rain and, if need be, one for probability."""
    first = rows[0][1]
    width = max(len(first.labels), 1)
    panel = 2.6 if width > 2 else 3.6
    height = panel * float(np.clip(np.ptp(first.y) / max(np.ptp(first.x), 1e-9), 0.4, 2.0))
    if first.axis_labels[0].startswith("longitude"):
        height /= max(float(np.cos(np.deg2rad(first.y.mean()))), 0.2)
    fig = new_figure(panel * width + 1.5, height * len(rows) + 0.9)
    axes = fig.subplots(len(rows), width, squeeze=False, sharex=True, sharey=True)
    drawn = []
    for number, (name, maps) in enumerate(rows):
        meshes = [_draw_map(axis, maps, column, coastlines) for column, axis in enumerate(axes[number])]
        drawn.append((meshes[0], maps, list(axes[number])))
        axes[number, 0].set_ylabel(f"{name}\n{maps.axis_labels[1]}" if name else maps.axis_labels[1], fontsize=9)
    for column, label in enumerate(rows[-1][1].labels):
        axes[0, column].set_title(label, fontsize=10)
        axes[-1, column].set_xlabel(first.axis_labels[0], fontsize=9)
    _colorbars(fig, drawn)
    fig.suptitle(title, fontsize=11)
    return fig


def _moving_maps(columns: list[tuple[str, _Maps]], title: str, coastlines: bool) -> tuple["Figure", Any]:
    """A panel for each of ``columns`` and the function that sets them to a frame."""
    first = columns[0][1]
    fig = new_figure(
        4.2 * len(columns) + 1.2, 4.2 * float(np.clip(np.ptp(first.y) / max(np.ptp(first.x), 1e-9), 0.4, 2.0)) + 1
    )
    axes = fig.subplots(1, len(columns), squeeze=False, sharex=True, sharey=True)[0]
    drawn = []
    for axis, (name, maps) in zip(axes, columns, strict=True):
        drawn.append((_draw_map(axis, maps, 0, coastlines, outline=False), maps, [axis]))
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(maps.axis_labels[0], fontsize=9)
    axes[0].set_ylabel(first.axis_labels[1], fontsize=9)
    _colorbars(fig, drawn)
    heading = fig.suptitle("", fontsize=11)

    def draw(frame: int) -> list[Any]:
        for mesh, maps, _ in drawn:
            mesh.set_array(np.ma.masked_invalid(maps.values[frame]))
        label = columns[-1][1].labels[frame].replace("\n", ", ")
        heading.set_text(f"{title}\n{label}" if title else label)
        return [*(mesh for mesh, _, _ in drawn), heading]

    draw(0)
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # the layout stands: frames need not work it out again
    return fig, draw


def _draw_map(axis: "Axes", maps: _Maps, panel: int, coastlines: bool, outline: bool = True) -> Any:
    values = np.ma.masked_invalid(maps.values[panel])
    mesh = axis.pcolormesh(maps.x, maps.y, values, **_colours(maps), shading="nearest")
    mesh.set_rasterized(True)
    if outline and maps.threshold is not None and maps.kind == "rain":
        over = np.nan_to_num(maps.values[panel]) >= maps.threshold
        if over.any() and not over.all():
            axis.contour(maps.x, maps.y, over.astype(float), levels=[0.5], colors="black", linewidths=0.6)
    if not maps.found[panel]:
        axis.text(0.5, 0.5, "no frame", transform=axis.transAxes, ha="center", va="center", fontsize=9)
    if coastlines and maps.lines:
        from matplotlib.collections import LineCollection

        axis.add_collection(LineCollection(maps.lines, colors="#404040", linewidths=0.6), autolim=False)
    in_degrees = maps.axis_labels[0].startswith("longitude")
    axis.set_aspect(1.0 / max(float(np.cos(np.deg2rad(maps.y.mean()))), 0.2) if in_degrees else "equal")
    axis.tick_params(labelsize=8)
    axis.locator_params(nbins=4)
    return mesh


def _colours(maps: _Maps) -> dict[str, Any]:
    """Colour map and scale of what a map shows."""
    if maps.classes is not None:
        return _class_colours(maps.classes)
    if maps.kind == "rain":
        cmap, norm = rain_colormap()
        return {"cmap": cmap, "norm": norm}
    from matplotlib import colormaps

    look = _probability_colormap() if maps.kind == "probability" else colormaps["magma"].with_extremes(bad=NOT_MEASURED)
    return {"cmap": look, "vmin": 0, "vmax": 1}


def _class_colours(classes: _Classes) -> dict[str, Any]:
    """Dry is white; each other class has the colour of rain in its middle, the last of its least rain."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    number = len(classes.names)
    cmap, norm = rain_colormap()
    bounds = np.array(classes.thresholds or np.geomspace(0.1, 10.0, number - 1))
    middles = np.sqrt(bounds * [*bounds[1:], bounds[-1]])
    colours = [(1, 1, 1, 1), *(cmap(max(int(norm(r)), 0)) for r in middles)]
    look = ListedColormap(colours).with_extremes(bad=NOT_MEASURED)
    return {"cmap": look, "norm": BoundaryNorm(np.arange(number + 1) - 0.5, number)}


def _colorbars(fig: "Figure", drawn: list[tuple[Any, _Maps, list[Any]]]) -> None:
    """One colour bar for all maps of rain, one for those of probability, and so on."""
    for kind in dict.fromkeys(maps.kind for _, maps, _ in drawn):
        group = [(mesh, maps, axes) for mesh, maps, axes in drawn if maps.kind == kind]
        mesh, maps, _ = group[0]
        bar = fig.colorbar(mesh, ax=[axis for _, _, axes in group for axis in axes], aspect=30)
        if kind == "rain":
            bar.set_ticks(list(RAIN_LEVELS), labels=[f"{level:g}" for level in RAIN_LEVELS])
        elif maps.classes is not None:
            bar.set_ticks(list(range(len(maps.classes.names))), labels=maps.classes.labels)
            bar.ax.tick_params(length=0, which="both")
        bar.set_label(_bar_label(maps))
        bar.ax.tick_params(labelsize=8)


def _bar_label(maps: _Maps) -> str:
    if maps.kind == "probability":
        return f"probability of at least {maps.threshold:g} mm/h"
    return "" if maps.kind == "classes" else maps.quantity


def _probability_colormap() -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colors = colormaps["YlGnBu"](np.linspace(0.0, 1.0, 10))
    colors[0] = (1, 1, 1, 1)  # under a tenth reads as "no"
    return ListedColormap(colors).with_extremes(bad=NOT_MEASURED)


def _forecast_title(forecasts: xr.Dataset | xr.DataArray, shown: _Maps) -> str:
    model = str(forecasts.attrs.get("nowcast_model", ""))
    start = "" if shown.start is None else f"from {shown.start:%Y-%m-%d %H:%M} UTC"
    return " ".join(part for part in (model, "forecast", start) if part)


# Scores and spectra


def _lead_labels(lead_time: np.ndarray) -> list[str]:
    """Such as "+15 min"; in a forecast of more than three hours "+1 h", "+25 h 30 min"."""
    minutes = in_minutes(lead_time)
    if lead_unit(lead_time)[1] == "min":
        return [f"+{m:g} min" for m in minutes]
    labels = []
    for hours, rest in (divmod(float(m), 60.0) for m in minutes):
        parts = [f"{hours:g} h"] if hours else []
        labels.append("+" + " ".join([*parts, f"{rest:g} min"] if rest or not hours else parts))
    return labels
