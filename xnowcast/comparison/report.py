"""What a comparison leaves to be read: a table of all systems, all scores as rows, and one case side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xnowcast.drafts import draft

if TYPE_CHECKING:
    import pandas as pd

MARK, END = "<!-- comparison: {} -->", "<!-- end of comparison -->"
"""Round a table in a page."""


def write(card: xr.Dataset, out: Path) -> None:
    """Write scores.nc, scores.csv with a row for each score, summary.csv and summary.md into the folder."""
    from xnowcast.data import storage

    card["lead_time"].encoding = {"units": "minutes", "dtype": "int64"}
    storage.write(card, out / "scores.nc", overwrite=True)
    summary = summary_of(card)
    with draft(out / "scores.csv") as new:
        rows_of(card).to_csv(new, index=False, float_format="%.6g")
    with draft(out / "summary.csv") as new:
        summary.to_csv(new, index=False, float_format="%.6g")
    with draft(out / "summary.md") as new:
        new.write_text(markdown(summary) + "\n", encoding="utf-8")


def rows_of(card: xr.Dataset) -> "pd.DataFrame":
    """A row for each value: system, seed, event, score, lead time in minutes, threshold, scale, band and value."""
    import pandas as pd

    names = [name for name in card.data_vars if "lead_time" in card[name].dims and name != "n_init_times"]
    parts = []
    for name in names:
        part = card[name].to_dataframe(name="value").reset_index().assign(score=str(name))
        parts.append(part.assign(minutes=part["lead_time"] / np.timedelta64(1, "m")).drop(columns="lead_time"))
    columns = ["system", "seed", "event", "score", "minutes", "threshold", "scale", "band", "value"]
    return pd.concat(parts).reindex(columns=columns)


def summary_of(card: xr.Dataset) -> "pd.DataFrame":
    """A row for each system, seed and event: scores of all lead times together, those at thresholds as their mean."""
    import pandas as pd

    return pd.DataFrame(_summary_rows(card))


def _summary_rows(card: xr.Dataset) -> Iterator[dict[str, object]]:
    for event in card["event"].values:
        for number in range(card.sizes["model"]):
            one = card.isel(model=number).sel(event=event)
            row: dict[str, object] = {"event": event, "system": one["system"].item(), "seed": one["seed"].item()}
            row["members"] = int(one["members"])
            for scale in card["scale"].values:
                within = "" if scale == 1 else f" in {scale} x {scale}"
                row[f"CSI{within}"] = float(one["csi_of_all"].sel(scale=scale))
            hss = one["hss_of_all"]
            row["HSS"] = float(hss.sel(scale=card["scale"].values.min()) if "scale" in hss.dims else hss)
            row |= {"CRPS": float(one["crps_of_all"]), "SSIM": float(one["ssim_of_all"])}
            for band in card["band"].values if "band" in card.coords else ():
                row[f"power {band}"] = float(one["power_of_all"].sel(band=band))
            row |= {"forecast CPU s": float(one["forecast_cpu_seconds"])}
            row |= {"training CPU s": float(one["training_cpu_seconds"]), "steps": float(one["steps"])}
            yield row | {"parameters": float(one["parameters"])}


def markdown(summary: "pd.DataFrame", event: str = "all") -> str:
    """The summary of an event as a table; means over seeds, with their standard deviation where there are several."""
    part = summary[summary["event"] == event].drop(columns=["event"])
    columns = [name for name in part.columns if name not in ("system", "seed")]
    lines = [f"| {' | '.join(['system', *columns])} |", "|---" * (1 + len(columns)) + "|"]
    for system, rows in part.groupby("system", sort=False):
        lines.append(f"| {' | '.join([f'`{system}`', *(_cell(rows[name].to_numpy(float)) for name in columns)])} |")
    return "\n".join(lines)


def _cell(values: np.ndarray) -> str:
    """A number, or the mean and the standard deviation of several; nothing where there is none."""
    values = values[np.isfinite(values)]
    if not values.size:
        return ""
    mean, spread = _number(values.mean()), values.std(ddof=1) if values.size > 1 else 0.0
    return f"{mean} ± {spread:.2g}" if spread > 0 else mean


def _number(value: float) -> str:
    if value == round(value):
        return f"{value:,.0f}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{round(value, digits) + 0.0:.{digits}f}"  # the sum makes 0.000 of -0.000


def filled(page: str, name: str, summary: "pd.DataFrame") -> str:
    """A page with the table ``name`` anew, between its marks. ValueError if it has none.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"event": ["all"], "system": ["sprog"], "seed": [0], "CSI": [0.5]})
    >>> print(filled("<!-- comparison: x --> <!-- end of comparison -->", "x", table))
    <!-- comparison: x -->
    <BLANKLINE>
    | system | CSI |
    |---|---|
    | `sprog` | 0.500 |
    <BLANKLINE>
    <!-- end of comparison -->
    """
    mark = MARK.format(name)
    before, found, rest = page.partition(mark)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"the page has no place for the table: {mark} and {END}")
    return f"{before}{mark}\n\n{markdown(summary)}\n\n{END}{after}"


def draw(forecasts: dict[str, Path], observed: xr.Dataset | xr.DataArray, start: np.datetime64, path: Path) -> None:
    """Draw one case: the radar, and below it each system's forecast, of members the first."""
    from xnowcast import plot
    from xnowcast.archive import open_archive

    opened = {name: open_archive(stored) for name, stored in forecasts.items()}
    lead_times = next(iter(opened.values()))["lead_time"].values
    shown: Sequence[np.timedelta64] = [lead_times[i] for i in sorted({(lead_times.size - 1) // 2, lead_times.size - 1})]
    shown = [lead_times[0], *shown] if lead_times.size > 2 else shown
    plot.plot_side_by_side(opened, observed, lead_times=shown, init_time=start, coastlines=False, path=path)
