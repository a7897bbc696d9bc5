"""Pictures of scores: over lead time, thresholds and scales, spectra, and what an ensemble is judged by."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xnowcast.fields import cf, horizontal
from xnowcast.plot.style import at_least, finish, lead_unit, new_figure, plain_axes, some_of
from xnowcast.verify.spectra import power_spectrum
from xnowcast.verify.sums import refuse_joined

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    fig = new_figure(3.2 * len(panels) + 0.9, 3.1)
    axes = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, threshold in zip(axes, panels, strict=True):
        for name, by_threshold in lines.items():
            if threshold not in by_threshold:
                raise ValueError(f"the scorecard {name!r} lacks the threshold {threshold:g} of the others.")
            line = by_threshold[threshold]
            axis.plot(line["lead_time"].values / unit, line.values, marker="o", markersize=3, label=name)
        axis.set_title("" if threshold is None else f"at least {threshold:g} mm/h", fontsize=10)
        axis.set_xlabel(f"lead time ({unit_name})")
        plain_axes(axis)
    first = next(iter(scorecards.values()))[score]
    units = str(first.attrs.get("units", ""))
    axes[0].set_ylabel(score.upper() if units in ("", "1") else f"{score.upper()} ({units})")
    if score.lower() in ("csi", "pod", "far", "false_alarm_ratio", "success_ratio", "fss"):
        axes[0].set_ylim(0.0, 1.0)
    axes[-1].legend(frameon=False, fontsize=9)
    pooled = f", {scale} x {scale} cells" if "scale" in first.dims and scale != 1 else ""
    return _titled(fig, title, f"{first.attrs.get('long_name', score.upper())}{pooled}", path)


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
    fig = new_figure(5.2, 3.8)
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
    plain_axes(axis)
    axis.legend(frameon=False, fontsize=9)
    return _titled(fig, title, "Power spectrum of rain rate (not measured as dry)", path)


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
    fig = new_figure(3.1 * len(panels) + 0.7, 4.3)
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
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title=at_least(threshold))
        axis.title.set_fontsize(10)
        below.set_yscale("log")
        below.set_xlabel("forecast probability")
        plain_axes(axis, below)
    upper[0].set_ylabel("observed frequency")
    lower[0].set_ylabel("part of forecasts")
    if _named(diagrams):
        upper[-1].legend(frameon=False, fontsize=9)
    return _titled(fig, title, "Reliability", path)


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
    fig = new_figure(2.9 * len(by_name) + 0.7, 2.9)
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
        plain_axes(axis)
    axes[0].set_ylabel("part over that of a flat histogram")
    return _titled(fig, title, "Rank histogram", path)


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
    fig = new_figure(3.1 * len(panels) + 0.7, 3.6)
    axes = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (threshold, by_name) in zip(axes, panels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for name, curve in by_name.items():
            # Never warning and always warning belong to every curve.
            rates = (curve["probability_of_false_detection"], curve["pod"])
            pofd, pod = (np.r_[0.0, np.sort(rate.values.astype(float)), 1.0] for rate in rates)
            area = float(np.trapezoid(pod, pofd))
            axis.plot(pofd, pod, marker="o", markersize=3, label=f"{name}, area {area:.2f}")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", title=at_least(threshold))
        axis.title.set_fontsize(10)
        axis.set_xlabel("probability of false detection")
        axis.legend(frameon=False, fontsize=9, loc="lower right")
        plain_axes(axis)
    axes[0].set_ylabel("probability of detection")
    return _titled(fig, title, "ROC", path)


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
    fig = new_figure(4.2, 4.2)
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
    plain_axes(axis)
    if _named(curves):
        axis.legend(frameon=False, fontsize=9)
    return _titled(fig, title, "Quantiles", path)


def _score_lines(
    card: xr.Dataset, name: str, score: str, thresholds: Sequence[float] | None, scale: int
) -> dict[float | None, xr.DataArray]:
    """The lines of one model by threshold; by None for a score without thresholds."""
    if score not in card:
        raise ValueError(
            f"the scorecard {name!r} has no {score!r}; it has {some_of([str(v) for v in card.data_vars])}."
        )
    array = card[score]
    if "lead_time" not in array.dims:
        raise ValueError(f"{score!r} of the scorecard {name!r} has no dim 'lead_time'; its dims are {array.dims}.")
    if "scale" in array.dims:
        scales = array["scale"].values.tolist()
        if scale not in scales:
            raise ValueError(f"scale {scale} is not in the scorecard {name!r}; it has {some_of(scales)}.")
        array = array.isel(scale=scales.index(scale))
    extra = [dim for dim in array.dims if dim not in ("lead_time", "threshold")]
    if extra:
        raise ValueError(f"{score!r} of the scorecard {name!r} has the dim {extra[0]!r}; select or average it first.")
    if "threshold" not in array.dims:
        return {None: array.compute()}
    places = _threshold_places(array, thresholds, f"the scorecard {name!r}")
    return {float(threshold): array.isel(threshold=place).compute() for threshold, place in places}


def _threshold_places(
    table: xr.Dataset | xr.DataArray, thresholds: Sequence[float] | None, where: str
) -> list[tuple[float, int]]:
    """The thresholds to show, all by default, and the position of each."""
    known = table["threshold"].values.astype(float)
    places = []
    for threshold in known.tolist() if thresholds is None else thresholds:
        place = int(np.argmin(np.abs(known - threshold)))
        if not np.isclose(known[place], threshold, rtol=1e-5):
            raise ValueError(f"threshold {threshold:g} is not in {where}; it has {some_of(known.tolist())}.")
        places.append((threshold, place))
    return places


def _spectrum(field: Any, variable: Any, spacing_km: Any, window: Any, name: str) -> xr.DataArray:
    found = cf.find_field(field, variable)
    rain = cf.converted(found)
    if spacing_km is None and horizontal.grid_spacing(rain, found.y, found.x) is None:
        raise ValueError(f"the grid spacing of {name!r} is unknown; give spacing_km.")
    options: dict[str, Any] = {"spacing_km": spacing_km, "window": window, "spatial_dims": (found.y, found.x)}
    return power_spectrum(rain, **options).compute()


def _by_name(given: Any, what: str) -> dict[str, Any]:
    by_name = dict(given) if _named(given) else {"forecast": given}
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
            raise ValueError(f"{name!r} has no {absent[0]!r}; it has {some_of([str(v) for v in table.data_vars])}.")
        table = table[list(variables)].compute()
        others = [d for d in table.dims if d not in dims]
        if len(others) > dims.count(None):
            raise ValueError(f"{name!r} has the dims {tuple(table.dims)}; select or sum {others[-1]!r} first.")
        if "threshold" not in table.dims:
            panels.setdefault(None, {})[name] = table
            continue
        for _, place in _threshold_places(table, thresholds, repr(name)):
            panels.setdefault(float(table["threshold"][place]), {})[name] = table.isel(threshold=place)
    return panels


def _named(given: Any) -> bool:
    return isinstance(given, Mapping) and not isinstance(given, xr.Dataset)


def _titled(fig: "Figure", title: str | None, default: str, path: str | Path | None) -> "Figure":
    fig.suptitle(default if title is None else title, fontsize=11)
    return finish(fig, path)
