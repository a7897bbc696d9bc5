"""Scores of an archive against lead time, with what is sure of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from xnowcast import plot
from xnowcast.archive.tables import bootstrap_scores, opened

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_table(
    tables: xr.Dataset | str | Path,
    score: str = "csi",
    *,
    thresholds: Sequence[float] | None = None,
    scale: int = 1,
    level: float = 0.95,
    samples: int = 1000,
    title: str | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """A score of all models against lead time, a panel per threshold, with confidence intervals as bands.

    Parameters
    ----------
    tables : xarray.Dataset or path
        From `xnowcast.score_archive`; without regions.
    score : str
    thresholds : sequence of float, optional
        Which to show; all by default.
    scale : int
        Pooling scale to show.
    level, samples
        As for `bootstrap_scores`.
    title : str, optional
    path : str or pathlib.Path, optional
        Also write the figure there.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        As `bootstrap_scores` and `xnowcast.plot.plot_scores`.
    """
    tables = opened(tables)
    scores = bootstrap_scores(tables, scores=[score], level=level, samples=samples)
    cards = {str(name): scores.sel(model=name, drop=True) for name in scores["model"].values}
    if title is None:
        days = tables["block"].values
        span = f"{days.min():.10} to {days.max():.10}"
        title = f"{scores[score].attrs['long_name']}, {span}, {level:.0%} intervals"
    figure = plot.plot_scores(cards, score, thresholds=thresholds, scale=scale, title=title)
    lead_time = scores["lead_time"].values
    leads = lead_time / plot.lead_unit(lead_time)[0]
    shown = [None] if "threshold" not in scores[score].dims else thresholds or scores["threshold"].values.tolist()
    for axis, threshold in zip(figure.axes, shown, strict=True):
        for line, card in zip(axis.get_lines(), cards.values(), strict=True):
            place = {"scale": scale} if "scale" in scores[score].dims else {}
            place |= {"threshold": threshold} if threshold is not None else {}
            low, high = (card[f"{score}_{end}"].sel(place).values for end in ("lower", "upper"))
            axis.fill_between(leads, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    highest: xr.DataArray = scores[f"{score}_upper"].fillna(scores[score])
    tallest = float((highest.sel(scale=scale) if "scale" in highest.dims else highest).max())
    if figure.axes[0].get_ylim() == (0.0, 1.0) and tallest > 0:  # differences show where the lines fill the panel
        figure.axes[0].set_ylim(0.0, min(1.0, 1.1 * tallest))
    return plot.finish(figure, path)
