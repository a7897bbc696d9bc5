"""Pictures for forecasters: maps by lead time, animations, scores against lead time, spectra, reliability.

matplotlib is imported when a picture is drawn, not before. Figures are unknown to pyplot when they are returned, so a
notebook shows them once and none piles up; ``fig.savefig`` works as always, ``plt.show()`` does not see them.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import dask
import numpy as np
import pandas as pd
import xarray as xr

from xnowcast import kinds
from xnowcast.data import storage
from xnowcast.drafts import draft
from xnowcast.fields import cf, windows
from xnowcast.fields.intervals import Interval
from xnowcast.fields.units import Linear
from xnowcast.verify.align import MOMENT
from xnowcast.verify.spectra import power_spectrum
from xnowcast.verify.sums import refuse_joined

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
    _matplotlib()
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
    kinds.check_call(plot, locals())
    if path is not None:
        _picture_path(path, forecasts, observations)
    forecasts = _in_forecast_layout(forecasts, variable)
    if "lead_time" not in forecasts.coords and observations is None and lead_times is None:
        return _plot_sequence(forecasts, variable, None, threshold, title, coastlines, path)
    shown = _forecast_maps(forecasts, variable, init_time, lead_times, member, threshold)
    rows = [("forecast" if not shown.what else shown.what, shown)]
    if observations is not None:
        seen = _matching_maps(observations, shown)
        rows.insert(0, (seen.what, seen))
    if title is None:
        title = _forecast_title(forecasts, shown)
    fig = _map_grid(rows, title, coastlines)
    return finish(fig, path)


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
        _picture_path(path, observations)
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
    kinds.check_call(animate, locals())
    if path is not None:
        _picture_path(path, forecasts, observations)
    _matplotlib()
    from matplotlib.animation import FuncAnimation

    if not fps > 0:
        raise ValueError(f"fps is {fps!r}; give a number over 0.")
    forecasts = _in_forecast_layout(forecasts, variable)
    if "lead_time" in forecasts.dims:
        shown = _forecast_maps(forecasts, variable, init_time, "all", member, threshold)
        columns = [(shown.what or "forecast", shown)]
        if observations is not None:
            seen = _matching_maps(observations, shown)
            columns.insert(0, (seen.what, seen))
        title = _forecast_title(forecasts, shown) if title is None else title
    else:
        shown = _observed_maps(forecasts, variable, "all")
        columns = [("observed", shown)]
        title = str(forecasts.attrs.get("title", "")) if title is None else title
    fig, draw = _moving_maps(columns, title, coastlines)
    animation = FuncAnimation(fig, draw, frames=len(shown.labels), interval=1000.0 / fps, blit=False)
    if path is not None:
        with _picture(path) as new:
            animation.save(new, writer="pillow" if new.suffix.lower() == ".gif" else None, fps=cast(int, fps))
    return animation


def plot_scores(
    scorecards: Mapping[str, xr.Dataset] | xr.Dataset,
    score: str = "csi",
    *,
    thresholds: Sequence[float] | None = None,
    scale: int = 1,
    title: str | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """A score against lead time, one line per model, one panel per threshold.

    Parameters
    ----------
    scorecards : mapping of str to xarray.Dataset, or xarray.Dataset
        What ``verify`` gives, by the name to show: ``score`` with the dim ``lead_time`` (timedelta64) and, if it has
        them, ``threshold`` (mm h-1) and ``scale`` (grid cells).
    score : str
        Name of the variable, such as "csi" or "rmse".
    thresholds : sequence of float, optional
        Which to show; all by default.
    scale : int
        Pooling scale to show, for scores that have scales.
    title : str, optional
        By default the name of the score.
    path : str or path, optional
        Also write the figure there.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the score, a threshold or the scale is missing in a scorecard, or a dim besides those three is left.

    Examples
    --------
    >>> card = xr.Dataset(
    ...     {"csi": (("lead_time", "threshold"), [[0.8, 0.5], [0.6, 0.2]])},
    ...     coords={"lead_time": np.array([30, 60], "timedelta64[m]").astype("timedelta64[ns]"),
    ...             "threshold": [0.5, 5.0]})
    >>> figure = plot_scores({"persistence": card})
    >>> [axes.get_title() for axes in figure.axes]
    ['at least 0.5 mm/h', 'at least 5 mm/h']
    """
    if isinstance(scorecards, xr.Dataset):
        scorecards = {"forecast": scorecards}
    if not scorecards:
        raise ValueError("there are no scorecards; give {name: scorecard}.")
    lines = {name: _score_lines(card, name, score, thresholds, scale) for name, card in scorecards.items()}
    panels = list(next(iter(lines.values())))
    every = [line["lead_time"].values for by_threshold in lines.values() for line in by_threshold.values()]
    unit, unit_name = lead_unit(np.concatenate(every))
    fig = _figure(3.2 * len(panels) + 0.9, 3.1)
    axes = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, threshold in zip(axes, panels, strict=True):
        for name, by_threshold in lines.items():
            if threshold not in by_threshold:
                raise ValueError(f"the scorecard {name!r} lacks the threshold {threshold:g} of the others.")
            line = by_threshold[threshold]
            axis.plot(line["lead_time"].values / unit, line.values, marker="o", markersize=3, label=name)
        axis.set_title("" if threshold is None else f"at least {threshold:g} mm/h", fontsize=10)
        axis.set_xlabel(f"lead time ({unit_name})")
        _plain(axis)
    first = next(iter(scorecards.values()))[score]
    axes[0].set_ylabel(_score_label(first, score))
    if score.lower() in _FROM_ZERO_TO_ONE:
        axes[0].set_ylim(0.0, 1.0)
    axes[-1].legend(frameon=False, fontsize=9)
    if title is None:
        title = str(first.attrs.get("long_name", score.upper()))
        title += f", {scale} x {scale} cells" if "scale" in first.dims and scale != 1 else ""
    fig.suptitle(title, fontsize=11)
    return finish(fig, path)


def plot_spectra(
    fields: Mapping[str, xr.Dataset | xr.DataArray],
    *,
    spacing_km: float | tuple[float, float] | None = None,
    window: Literal["hann"] | None = None,
    variable: Hashable | None = None,
    title: str | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """Radially averaged power spectra of rain rate against wavelength.

    Parameters
    ----------
    fields : mapping of str to xarray.Dataset or xarray.DataArray
        By the name to show; y, x and any other dims, over which power is averaged. NaN is filled with 0, so give
        fields of one coverage.
    spacing_km : float or (float, float), optional
        Grid spacing, km, or that of rows and of columns; by default read from the coordinates.
    window : {"hann"}, optional
        Taper the fields to 0 at the edges first.
    variable, path
        As in `plot`.
    title : str, optional
        By default says what is drawn.

    Returns
    -------
    matplotlib.figure.Figure
        Wavelength falls to the right: small scales are where blurred forecasts lose power.

    Raises
    ------
    ValueError
        If the grid spacing is unknown or not over 0, or the grid smaller than 4 x 4 cells.

    See Also
    --------
    xnowcast.verify.power_spectrum : the spectrum itself.

    Examples
    --------
    >>> from xnowcast.data.synthetic import synthetic_radar
    >>> figure = plot_spectra({"observed": synthetic_radar(frames=2, shape=(32, 32))})
    >>> figure.axes[0].get_xlabel()
    'wavelength (km)'
    """
    if not fields:
        raise ValueError("there are no fields; give {name: field}.")
    fig = _figure(5.2, 3.8)
    axis = fig.subplots()
    widest, narrowest = 0.0, np.inf
    for name, field in fields.items():
        power = _spectrum(field, variable, spacing_km, window, name)
        wavelength = power["wavelength"].values
        axis.loglog(wavelength, power.values, label=name, linewidth=1.6)
        widest, narrowest = max(widest, float(wavelength.max())), min(narrowest, float(wavelength.min()))
    axis.set_xlim(widest, narrowest)
    ticks = [km for km in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if narrowest <= km <= widest]
    axis.set_xticks(ticks, [str(km) for km in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("wavelength (km)")
    axis.set_ylabel("power density ((mm/h)² km²)")
    _plain(axis)
    axis.legend(frameon=False, fontsize=9)
    fig.suptitle("Power spectrum of rain rate (not measured as dry)" if title is None else title, fontsize=11)
    return finish(fig, path)


def plot_reliability(
    diagrams: Mapping[str, xr.Dataset] | xr.Dataset,
    *,
    thresholds: Sequence[float] | None = None,
    title: str | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """Reliability diagram: how often it rained when a probability was forecast, and how often each was.

    Parameters
    ----------
    diagrams : mapping of str to xarray.Dataset, or xarray.Dataset
        What `xnowcast.verify.reliability_diagram` gives, by the name to show: ``forecast_probability``,
        ``observed_frequency`` and the number of forecasts ``n``, with one dim of probabilities and, if there are
        several, ``threshold``.
    thresholds : sequence of float, optional
        Which to show; all by default.
    title, path
        As in `plot_scores`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each threshold: the diagonal is perfect, under it too much is forecast; the dotted line is how
        often it was observed. Below, the part of the forecasts at each probability.

    Raises
    ------
    ValueError
        If a variable or a threshold is missing, or another dim is left.

    Examples
    --------
    >>> table = xr.Dataset({
    ...     "forecast_probability": ("probability", [0.0, 0.5, 1.0]),
    ...     "observed_frequency": ("probability", [0.1, 0.4, 0.8]), "n": ("probability", [80, 15, 5])})
    >>> plot_reliability(table).axes[1].get_xlabel()
    'forecast probability'
    """
    names = ("forecast_probability", "observed_frequency", "n")
    panels = _panels(diagrams, names, thresholds, ("threshold", None))
    fig = _figure(3.1 * len(panels) + 0.7, 4.3)
    upper, lower = fig.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    for axis, below, (threshold, curves) in zip(upper, lower, panels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for name, curve in curves.items():
            order = np.argsort(curve["forecast_probability"].values)
            probability, frequency, n = (curve[v].values[order].astype(float) for v in names)
            some = n > 0
            (line,) = axis.plot(probability[some], frequency[some], marker="o", markersize=3, label=name)
            climate = float(np.sum(frequency[some] * n[some]) / n.sum()) if some.any() else np.nan
            axis.axhline(climate, color=line.get_color(), linewidth=0.8, linestyle=":")
            below.plot(probability[some], n[some] / n.sum(), marker="o", markersize=3, color=line.get_color())
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title=_at_least(threshold))
        axis.title.set_fontsize(10)
        below.set_yscale("log")
        below.set_xlabel("forecast probability")
        _plain(axis, below)
    upper[0].set_ylabel("observed frequency")
    lower[0].set_ylabel("part of forecasts")
    return _scores_finish(fig, upper[-1], diagrams, "Reliability" if title is None else title, path)


def plot_rank_histogram(
    histograms: Mapping[str, xr.DataArray] | xr.DataArray,
    *,
    title: str | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """Rank histogram: how often the observation was the smallest, ..., the largest among the members.

    Parameters
    ----------
    histograms : mapping of str to xarray.DataArray, or xarray.DataArray
        What `xnowcast.verify.rank_histogram` gives, by the name to show: counts with the dim ``rank`` alone.
    title, path
        As in `plot_scores`.

    Returns
    -------
    matplotlib.figure.Figure
        Heights are the part in each rank times the number of ranks: 1, the line, is what a reliable ensemble has. A
        U is an ensemble with too little spread, a slope a bias.

    Raises
    ------
    ValueError
        If the dim ``rank`` is missing or another is left.

    Examples
    --------
    >>> figure = plot_rank_histogram(xr.DataArray([30, 20, 50], dims="rank"))
    >>> [round(float(bar.get_height()), 2) for bar in figure.axes[0].patches]
    [0.9, 0.6, 1.5]
    """
    by_name = _by_name(histograms, "histograms")
    fig = _figure(2.9 * len(by_name) + 0.7, 2.9)
    axes = fig.subplots(1, len(by_name), squeeze=False, sharey=True)[0]
    for axis, (name, counts) in zip(axes, by_name.items(), strict=True):
        if counts.dims != ("rank",):
            raise ValueError(f"the rank histogram {name!r} has the dims {counts.dims}; it needs 'rank' alone.")
        refuse_joined(counts)
        values = np.asarray(counts.values, float)
        ranks = counts["rank"].values if "rank" in counts.coords else np.arange(len(values))
        axis.bar(ranks, values * len(values) / values.sum(), width=0.9, color="#7ab8ea")
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_xlabel("rank of the observation")
        axis.set_title(name if isinstance(histograms, Mapping) else "", fontsize=10)
        axis.xaxis.get_major_locator().set_params(integer=True)
        _plain(axis)
    axes[0].set_ylabel("part over that of a flat histogram")
    fig.suptitle("Rank histogram" if title is None else title, fontsize=11)
    return finish(fig, path)


def plot_roc(
    curves: Mapping[str, xr.Dataset] | xr.Dataset,
    *,
    thresholds: Sequence[float] | None = None,
    title: str | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """ROC curve: what part of the events was warned of, against the part of non-events with a warning.

    Parameters
    ----------
    curves : mapping of str to xarray.Dataset, or xarray.Dataset
        What `xnowcast.verify.roc` gives, by the name to show: ``pod`` and ``probability_of_false_detection`` with
        one dim of probabilities that warnings are given from and, if there are several, ``threshold``.
    thresholds, title, path
        As in `plot_reliability`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each threshold; the diagonal is no skill, the upper left corner perfect. The label has the area
        under the curve.

    Raises
    ------
    ValueError
        As `plot_reliability`.

    Examples
    --------
    >>> rates = {"pod": [1.0, 0.7, 0.2], "probability_of_false_detection": [1.0, 0.3, 0.0]}
    >>> table = xr.Dataset({name: ("probability", values) for name, values in rates.items()})
    >>> plot_roc({"ensemble": table}).axes[0].get_legend_handles_labels()[1]
    ['ensemble, area 0.73']
    """
    panels = _panels(curves, ("pod", "probability_of_false_detection"), thresholds, ("threshold", None))
    fig = _figure(3.1 * len(panels) + 0.7, 3.6)
    axes = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (threshold, by_name) in zip(axes, panels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for name, curve in by_name.items():
            # Never warning and always warning belong to every curve.
            rates = (curve["probability_of_false_detection"], curve["pod"])
            pofd, pod = (np.r_[0.0, np.sort(rate.values.astype(float)), 1.0] for rate in rates)
            area = float(np.trapezoid(pod, pofd))
            axis.plot(pofd, pod, marker="o", markersize=3, label=f"{name}, area {area:.2f}")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", title=_at_least(threshold))
        axis.title.set_fontsize(10)
        axis.set_xlabel("probability of false detection")
        axis.legend(frameon=False, fontsize=9, loc="lower right")
        _plain(axis)
    axes[0].set_ylabel("probability of detection")
    fig.suptitle("ROC" if title is None else title, fontsize=11)
    return finish(fig, path)


def plot_qq(
    curves: Mapping[str, xr.Dataset] | xr.Dataset,
    *,
    units: str | None = None,
    title: str | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """Quantiles of forecasts against those observed.

    Parameters
    ----------
    curves : mapping of str to xarray.Dataset, or xarray.Dataset
        What `xnowcast.verify.quantile_quantile` gives, by the name to show: ``observed`` and ``forecast`` with the
        dim ``percentage`` alone.
    units : str, optional
        For the axes; by default those in the attributes (``keep_attrs=True``).
    title, path
        As in `plot_scores`.

    Returns
    -------
    matplotlib.figure.Figure
        Under the diagonal the forecast has too little of an intensity. Axes are linear up to 0.1 and logarithmic
        beyond, or linear where there are negative values; the 50th, 90th, 99th and 99.9th percentile are marked.

    Raises
    ------
    ValueError
        If a variable or the dim ``percentage`` is missing, or another dim is left.

    Examples
    --------
    >>> table = xr.Dataset(
    ...     {"observed": ("percentage", [0.0, 1.0, 8.0]), "forecast": ("percentage", [0.0, 0.8, 5.0])},
    ...     coords={"percentage": [50, 90, 99]})
    >>> plot_qq(table, units="mm/h").axes[0].get_xlabel()
    'observed (mm/h)'
    """
    panels = _panels(curves, ("observed", "forecast"), None, ("percentage",))[None]
    fig = _figure(4.2, 4.2)
    axis = fig.subplots()
    largest, smallest = 0.0, 0.0
    for name, curve in panels.items():
        observed, forecast = curve["observed"].values, curve["forecast"].values
        (line,) = axis.plot(observed, forecast, linewidth=1.6, label=name)
        marked = np.flatnonzero(np.isin(curve["percentage"].values, (50.0, 90.0, 99.0, 99.9)))
        axis.plot(observed[marked], forecast[marked], "o", markersize=4, color=line.get_color())
        largest = max(largest, float(np.nanmax([observed, forecast])))
        smallest = min(smallest, float(np.nanmin([observed, forecast])))
    if smallest >= 0.0:
        axis.set_xscale("symlog", linthresh=0.1)
        axis.set_yscale("symlog", linthresh=0.1)
    limits = (smallest, largest * (1.2 if smallest >= 0.0 else 1.0))
    axis.plot(limits, limits, color="black", linewidth=0.8, zorder=0)
    axis.set(xlim=limits, ylim=limits, aspect="equal")
    first = next(iter(panels.values()))["observed"]
    units = str(first.attrs.get("units", "")) if units is None else units
    axis.set_xlabel(f"observed ({units})" if units else "observed")
    axis.set_ylabel(f"forecast ({units})" if units else "forecast")
    _plain(axis)
    return _scores_finish(fig, axis, curves, "Quantiles" if title is None else title, path)


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
            raise ValueError(f"threshold is {threshold!r}; the probabilities are of {_few(thresholds)} mm/h")
        array = array.isel(threshold=thresholds.index(threshold))
    named = tuple(str(array.attrs.get("flag_meanings", "")).split())
    y, x = cf.horizontal_dims(array)
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
        raise ValueError(f"member {member} is not in the forecast; it has {_few(numbers)}.")
    return rain.isel(member=numbers.index(member)), f"member {member}"


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
    about: dict[str, Any] = {"threshold": shown.threshold}
    if shown.classes is not None:
        values, about = shown.classes.of_rain(values), {"classes": shown.classes, "kind": "classes"}
    what = _observed_words(field.interval, shown.interval)
    return _Maps(values, positions >= 0, labels, shown.times, **grid, **about, what=what)


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
    read = _rain if kind == "rain" else _as_stored
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
    about: dict[str, Any] = {"threshold": threshold if kind == "probability" else None, "classes": classes}
    return _Maps(values, np.ones(len(labels), bool), labels, index, **grid, **about, kind=kind)


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


def _as_stored(field: cf.Field, part: xr.DataArray) -> xr.DataArray:
    return part


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
    if isinstance(wanted, int | np.integer) and not isinstance(wanted, bool):
        if not -size <= wanted < size:
            raise ValueError(f"{dim} is {wanted}, but the forecast has {size}.")
        return array.isel({dim: wanted})
    position = pd.DatetimeIndex(array[dim].values).get_indexer(pd.DatetimeIndex([windows.utc_time(wanted)]))[0]
    if position < 0:
        known = [str(pd.Timestamp(t)) for t in array[dim].values]
        raise ValueError(f"{dim} {wanted} is not in the forecast; it has {_few(known)}.")
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
        known = [f"{minutes:g}" for minutes in _minutes(lead_time.values)]
        absent = list(wanted)[int(np.argmin(positions))]
        raise ValueError(f"lead time {absent} is not in the forecast; it has {_few(known)} min.")
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
        x, y = (np.asarray(cf.along(array, axis, d), float) for axis, d in (("x", field.x), ("y", field.y)))
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
    crs = _crs(array, source) if projected else ("degrees" if labels[0].startswith("longitude") else None)
    return {
        "x": x,
        "y": y,
        "axis_labels": labels,
        "quantity": quantity,
        "lines": _coastlines(crs, x, y),
        "name": array.name,
    }


def _crs(array: xr.DataArray, source: xr.Dataset | xr.DataArray) -> dict[str, Any] | None:
    """Attributes of the grid mapping, if there is one."""
    name = array.attrs.get("grid_mapping", array.encoding.get("grid_mapping"))
    for holder in (source, array):
        if name is not None and (name in holder.coords or (isinstance(holder, xr.Dataset) and name in holder)):
            return dict(holder[name].attrs)
    return None


def _coastlines(crs: dict[str, Any] | str | None, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Coastlines within the map, in its units; none where cartopy, its data or the projection are missing."""
    shapefile = _coastline_file() if crs is not None else None
    if shapefile is None:
        return []
    import pyproj
    from cartopy.io.shapereader import Reader

    forward = None
    if isinstance(crs, dict):
        try:
            forward = pyproj.Transformer.from_crs("EPSG:4326", pyproj.CRS.from_cf(crs), always_xy=True)
        except (pyproj.exceptions.CRSError, KeyError):
            return []
    lines = []
    for shape in Reader(str(shapefile)).geometries():
        for part in getattr(shape, "geoms", [shape]):
            line = np.asarray(part.coords)[:, :2]
            if forward is not None:
                line = np.stack(forward.transform(line[:, 0], line[:, 1]), -1) / 1000.0
            inside = (line[:, 0] > x.min()) & (line[:, 0] < x.max()) & (line[:, 1] > y.min()) & (line[:, 1] < y.max())
            if inside.any():
                lines.append(np.where(np.isfinite(line), line, np.nan))
    return lines


def _coastline_file() -> Path | None:
    """Natural Earth's coastline if it is on disk. cartopy would download it while drawing; we never do."""
    try:
        import cartopy
    except ImportError:
        return None
    for resolution in ("10m", "50m", "110m"):
        for folder in ("pre_existing_data_dir", "data_dir", "repo_data_dir"):
            root = Path(str(cartopy.config[folder])) / "shapefiles" / "natural_earth" / "physical"
            if (root / f"ne_{resolution}_coastline.shp").is_file():
                return root / f"ne_{resolution}_coastline.shp"
    return None


# Drawing


def _map_grid(rows: list[tuple[str, _Maps]], title: str, coastlines: bool) -> "Figure":
    """A row of panels for each of ``rows``, with one colour bar for rain and, if need be, one for probability."""
    first = rows[0][1]
    width = max(len(first.labels), 1)
    panel = 2.6 if width > 2 else 3.6
    height = panel * float(np.clip(np.ptp(first.y) / max(np.ptp(first.x), 1e-9), 0.4, 2.0))
    if first.axis_labels[0].startswith("longitude"):
        height /= max(float(np.cos(np.deg2rad(first.y.mean()))), 0.2)
    fig = _figure(panel * width + 1.5, height * len(rows) + 0.9)
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
    fig = _figure(
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


def _figure(width: float, height: float) -> "Figure":
    plt = _matplotlib()
    fig = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(fig)  # pyplot forgets it, at once so that an error leaves nothing behind; it draws all the same
    return fig


def finish(fig: "Figure", path: str | Path | None) -> "Figure":
    """The figure, written where a path is given.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
    path : str, path or None

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If it is a folder, or lies in none.
    """
    if path is not None:
        with _picture(path) as new:
            fig.savefig(new, dpi=150)
    return fig


@contextmanager
def _picture(path: str | Path) -> Iterator[Path]:
    """Where to draw a picture that takes its place once it is whole; a name without an ending gets .png."""
    place = _picture_path(path)
    with draft(place) as new:
        yield new


def _picture_path(path: str | Path, *inputs: Any) -> Path:
    """The place of a picture, where it may be written; pictures are data of some radars, and may be what is drawn."""
    place = Path(path).resolve()
    if place.is_dir():
        raise ValueError(f"path is {str(path)!r}, a folder; name a file such as rain.png")
    place = place if place.suffix else place.with_name(f"{place.name}.png")
    if not place.parent.is_dir():
        raise ValueError(f"path is {str(path)!r}, and the folder {place.parent} does not exist: create it first")
    if place.exists():
        storage.refuse_inputs(place, inputs)
    return place


def _matplotlib() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'xnowcast[plot]'") from error
    return plt


# Scores and spectra


_FROM_ZERO_TO_ONE = ("csi", "pod", "far", "false_alarm_ratio", "success_ratio", "fss")


def _score_lines(
    card: xr.Dataset, name: str, score: str, thresholds: Sequence[float] | None, scale: int
) -> dict[float | None, xr.DataArray]:
    """The lines of one model by threshold; by None for a score without thresholds."""
    if score not in card:
        raise ValueError(f"the scorecard {name!r} has no {score!r}; it has {_few([str(v) for v in card.data_vars])}.")
    array = card[score]
    if "lead_time" not in array.dims:
        raise ValueError(f"{score!r} of the scorecard {name!r} has no dim 'lead_time'; its dims are {array.dims}.")
    if "scale" in array.dims:
        scales = array["scale"].values.tolist()
        if scale not in scales:
            raise ValueError(f"scale {scale} is not in the scorecard {name!r}; it has {_few(scales)}.")
        array = array.isel(scale=scales.index(scale))
    extra = [dim for dim in array.dims if dim not in ("lead_time", "threshold")]
    if extra:
        raise ValueError(f"{score!r} of the scorecard {name!r} has the dim {extra[0]!r}; select or average it first.")
    if "threshold" not in array.dims:
        return {None: array.compute()}
    known = array["threshold"].values
    lines: dict[float | None, xr.DataArray] = {}
    for threshold in known.tolist() if thresholds is None else thresholds:
        position = int(np.argmin(np.abs(known - threshold)))
        if not np.isclose(known[position], threshold, rtol=1e-5):
            raise ValueError(
                f"threshold {threshold:g} is not in the scorecard {name!r}; it has {_few(known.tolist())}."
            )
        lines[float(threshold)] = array.isel(threshold=position).compute()
    return lines


def _score_label(array: xr.DataArray, score: str) -> str:
    units = str(array.attrs.get("units", ""))
    return score.upper() if units in ("", "1") else f"{score.upper()} ({units})"


def _spectrum(field: Any, variable: Any, spacing_km: Any, window: Any, name: str) -> xr.DataArray:
    found = cf.find_field(field, variable)
    rain = cf.converted(found)
    if spacing_km is None and cf.grid_spacing(rain, found.y, found.x) is None:
        raise ValueError(f"the grid spacing of {name!r} is unknown; give spacing_km.")
    options: dict[str, Any] = {"spacing_km": spacing_km, "window": window, "spatial_dims": (found.y, found.x)}
    return power_spectrum(rain, **options).compute()


def _by_name(given: Any, what: str) -> dict[str, Any]:
    by_name = dict(given) if isinstance(given, Mapping) and not isinstance(given, xr.Dataset) else {"forecast": given}
    if not by_name:
        raise ValueError(f"there are no {what}; give {{name: ...}}.")
    return by_name


def _panels(
    given: Any, variables: Sequence[str], thresholds: Sequence[float] | None, dims: tuple[str | None, ...]
) -> dict[float | None, dict[str, xr.Dataset]]:
    """Curves by threshold and name. ``dims`` are those that a table may have; None stands for one of any name."""
    panels: dict[float | None, dict[str, xr.Dataset]] = {}
    for name, table in _by_name(given, "tables").items():
        absent = [v for v in variables if v not in table]
        if absent:
            raise ValueError(f"{name!r} has no {absent[0]!r}; it has {_few([str(v) for v in table.data_vars])}.")
        table = table[list(variables)].compute()
        others = [d for d in table.dims if d not in dims]
        if len(others) > dims.count(None):
            raise ValueError(f"{name!r} has the dims {tuple(table.dims)}; select or sum {others[-1]!r} first.")
        if "threshold" not in table.dims:
            panels.setdefault(None, {})[name] = table
            continue
        known = table["threshold"].values.astype(float)
        for threshold in known.tolist() if thresholds is None else thresholds:
            position = int(np.argmin(np.abs(known - threshold)))
            if not np.isclose(known[position], threshold, rtol=1e-5):
                raise ValueError(f"threshold {threshold:g} is not in {name!r}; it has {_few(known.tolist())}.")
            panels.setdefault(float(known[position]), {})[name] = table.isel(threshold=position)
    return panels


def _at_least(threshold: float | None) -> str:
    return "" if threshold is None else f"at least {threshold:g} mm/h"


def _plain(*axes: "Axes") -> None:
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)


def _scores_finish(fig: "Figure", axis: "Axes", given: Any, title: str, path: str | Path | None) -> "Figure":
    if isinstance(given, Mapping) and not isinstance(given, xr.Dataset):
        axis.legend(frameon=False, fontsize=9)
    fig.suptitle(title, fontsize=11)
    return finish(fig, path)


LONGEST_IN_MINUTES = 180.0
"""Lead times up to this are told in minutes, longer ones in hours and minutes."""


def lead_unit(lead_time: np.ndarray) -> tuple[np.timedelta64, str]:
    """The unit in which lead times are told: minutes, or hours where they go beyond three.

    Parameters
    ----------
    lead_time : numpy.ndarray
        timedelta64.

    Returns
    -------
    numpy.timedelta64
    str
        Its symbol.

    Examples
    --------
    >>> lead_unit(np.array([30, 60], "m8[m]"))[1], lead_unit(np.array([12, 36], "m8[h]"))[1]
    ('min', 'h')
    """
    if _minutes(lead_time).max(initial=0.0) <= LONGEST_IN_MINUTES:
        return np.timedelta64(1, "m"), "min"
    return np.timedelta64(1, "h"), "h"


def _lead_labels(lead_time: np.ndarray) -> list[str]:
    """Such as "+15 min"; in a forecast of more than three hours "+1 h", "+25 h 30 min"."""
    minutes = _minutes(lead_time)
    if lead_unit(lead_time)[1] == "min":
        return [f"+{m:g} min" for m in minutes]
    labels = []
    for hours, rest in (divmod(float(m), 60.0) for m in minutes):
        told = [f"{hours:g} h"] if hours else []
        labels.append("+" + " ".join([*told, f"{rest:g} min"] if rest or not hours else told))
    return labels


def _minutes(lead_time: np.ndarray) -> np.ndarray:
    return np.atleast_1d(lead_time) / np.timedelta64(1, "m")


def _few(values: Sequence[Any]) -> str:
    """Some of many, for messages."""
    shown = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in list(values)[:8])
    return shown if len(values) <= 8 else f"{shown}, ... ({len(values)} in all)"
