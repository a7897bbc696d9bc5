"""Tables of scores for people: on the screen, and in the pages of the documentation between two markers."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from .events import GROUPS
from .methods import ENSEMBLES, SINGLE

HELD_OUT = next(iter(GROUPS))
LARGE, SMALL = 512, 256  # cells of the two rounds

SHORT = {
    "mch_20150515_crop": "Switzerland 2015",
    "mch_20160711": "Switzerland 2016",
    "rmi_20210704_crop512": "Belgium 2021",
    "it_dpc_ne_20250416": "Italy, north-east",
    "it_dpc_nw_20250416": "Italy, north-west",
    "it_dpc_sard_20250416": "Sardinia",
    "it_dpc_south_20250416": "Italy, south",
    "fr_meteonet_se_2016082810": "France, morning",
    "fr_meteonet_se_2016082813": "France, afternoon",
    "de_ry_20210823_crop512": "Germany 2021",
    "de_dx_fbg_20080602": "Germany 2008, Feldberg",
    "de_dx_tur_20080602": "Germany 2008, Türkheim",
    "fmi_20160928_crop512": "Finland 2016",
    "knmi_20100826_crop384": "Netherlands 2010",
    "ca_cascm_20240711_b": "Canada, Chipman",
    "ca_casmb_20240711_c": "Canada, Marion Bridge",
    "mrms_20190610_tiles": "USA 2019",
}
"""Events in words."""

ONE = ("CSI 0.5", "CSI 2", "CSI 5", "CSI 10", "CSI 5 in 16 km", "FSS 5", "MAE", "rain")
ONE += ("rain over extrapolation", "area 1", "area 5", "power 4-8")
MANY = ("CSI 0.5", "CSI 0.5 of mean", "CSI 5", "fair CRPS", "fair CRPS in 16 km", "spread over error", "outer ranks")
MANY += ("unreliability 1", "Brier skill 1", "Brier skill 5", "rain over extrapolation", "power 4-8", "CPU seconds")
"""Columns of tables by event; all others are in the file."""
BEST_IS_ONE = ("rain", "area", "power", "spread", "outer", "lowest", "highest")
NONE_IS_BEST = ("rain over extrapolation",)
LEAST_IS_BEST = ("MAE", "CRPS", "fair CRPS", "unreliability", "CPU")


def means(scores: pd.DataFrame, by: Sequence[str] = ("cells", "minutes", "method")) -> pd.DataFrame:
    """Mean over events of each group, which becomes the event."""
    parts = scores.groupby([*by, "group"], sort=False).mean(numeric_only=True).reset_index()
    return parts.assign(event="mean")


def summary(scores: pd.DataFrame) -> str:
    """Means over the events of each group, for the screen."""
    columns = ["CSI 0.5", "CSI 5", "CSI 5 in 16 km", "FSS 5", "CRPS", "fair CRPS", "spread over error", "outer ranks"]
    columns += ["rain over extrapolation", "area 5", "power 4-8", "CPU seconds"]
    shown = means(scores).set_index(["group", "cells", "minutes", "method"])
    return shown[[c for c in columns if c in shown]].sort_index().round(3).to_string()


# ---------------------------------------------------------------- Markdown


def best_of(name: str, values: pd.Series) -> float:
    """The value of a column that is nearest to the best."""
    if name in NONE_IS_BEST:
        return float("nan")
    if name.startswith(BEST_IS_ONE):
        return values.iloc[(values - 1).abs().argsort().iloc[0]] if values.notna().any() else float("nan")
    return values.min() if name.startswith(LEAST_IS_BEST) else values.max()


def markdown(rows: pd.DataFrame, labels: dict[str, str], columns: Sequence[str], group: Sequence[str]) -> str:
    """A table whose best values within each ``group`` of rows are bold; ``labels``: of leading columns, by name."""
    head = [*labels.values(), *columns]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for _, part in rows.groupby(list(group), sort=False):
        texts = {name: part[name].map(lambda v: number(v)) for name in columns}
        # what all share is not the best of them
        best = {name: number(best_of(name, part[name])) for name in columns if texts[name].nunique() > 1}
        for at, row in part.iterrows():
            label = [f"{row[name]} min" if name == "minutes" else str(row[name]) for name in labels]
            values = [texts[name][at] for name in columns]
            bold = [f"**{v}**" if v and v == best.get(c) else v for v, c in zip(values, columns, strict=True)]
            lines.append(f"| {' | '.join([*label, *bold])} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Three decimals of what is below 1, fewer of what is not; nothing for what is not there."""
    return "" if pd.isna(value) else f"{value:.{3 if abs(value) < 1 else 2 if abs(value) < 10 else 1}f}"


def chosen(
    scores: pd.DataFrame, methods: Sequence[str], cells: int = LARGE, group: str = HELD_OUT, leads: Sequence[int] = ()
) -> pd.DataFrame:
    """Means over the events of a group, methods in this order."""
    rows = means(scores[(scores.cells == cells) & (scores.group == group) & scores.method.isin(methods)])
    rows = rows[rows.minutes.isin(leads)] if leads else rows
    order = {name: place for place, name in enumerate(methods)}
    return rows.sort_values(["minutes", "method"], key=lambda c: c.map(order) if c.name == "method" else c)


def starts(scores: pd.DataFrame, cells: int) -> str:
    """How many there are, and on which grid."""
    some = sorted(set(scores[scores.cells == cells].starts))
    number = " to ".join(map(str, dict.fromkeys([some[0], some[-1]])))
    return f"{number} start{'s' * (number != '1')} of each event on {cells} x {cells} km"


MEAN = {"minutes": "after", "method": "method"}


def forecasts(scores: pd.DataFrame) -> str:
    """Single forecasts, for a first page."""
    columns = ("CSI 0.5", "CSI 2", "CSI 5", "CSI 5 in 16 km", "FSS 5", "MAE", "rain over extrapolation", "area 5")
    rows = chosen(scores, [name for name in SINGLE if name != "persistence"])
    return markdown(rows, MEAN, columns, ["minutes"])


def ensembles(scores: pd.DataFrame) -> str:
    """Ensembles, for a first page: those that are quick on the large grid, then all on the small one."""
    columns = ("fair CRPS", "fair CRPS in 16 km", "Brier skill 5", "spread over error", "outer ranks")
    columns += ("CSI 0.5 of mean", "rain over extrapolation", "power 4-8", "CPU seconds")
    parts = [chosen(scores, ENSEMBLES, cells) for cells in (LARGE, SMALL)]
    rows = pd.concat(parts).assign(grid=lambda part: part.cells.map(lambda n: f"{n} x {n}"))
    rows = rows.reset_index(drop=True)
    return markdown(rows, {"grid": "cells", **MEAN}, columns, ["cells", "minutes"])


def uses(scores: pd.DataFrame) -> str:
    """Which forecast for what: pixels beside areas, light rain beside heavy, a member and the mean of members."""
    columns = ("CSI 0.5", "CSI 5", "CSI 5 in 16 km", "FSS 5", "MAE")
    single = chosen(scores, ("persistence", "extrapolation", "sprog", "lagrangian"), leads=(30, 60))
    members = chosen(scores, ("steps",), leads=(30, 60))
    mean = members.drop(columns=list(columns)).rename(columns={f"{name} of mean": name for name in columns})
    rows = pd.concat([single, members.assign(method="`steps`, a member"), mean.assign(method="`steps`, the mean")])
    rows = rows.sort_values("minutes", kind="stable").reset_index(drop=True)
    return markdown(rows, MEAN, columns, ["minutes"])


def sprog(scores: pd.DataFrame) -> str:
    """S-PROG beside that of pysteps."""
    rows = chosen(scores, ("extrapolation", "sprog", "pysteps sprog"))
    return markdown(rows, MEAN, ("CSI 0.5", "CSI 2", "CSI 5", "MAE", "power 4-8"), ["minutes"])


def steps(scores: pd.DataFrame) -> str:
    """STEPS beside that of pysteps, by event."""
    rows = by_event(scores, ("steps", "pysteps steps"), LARGE, with_mean=False)
    columns = ("fair CRPS", "fair CRPS in 16 km", "spread over error", "outer ranks", "rain over extrapolation")
    columns += ("power 4-8", "CPU seconds")
    return markdown(rows, {"event": "event", **MEAN}, columns, ["minutes", "event"])


def stldm(scores: pd.DataFrame) -> str:
    """STLDM beside STEPS of pysteps, by event, on the small grid."""
    rows = by_event(scores, ("stldm", "pysteps steps"), SMALL, with_mean=False)
    columns = ("fair CRPS", "CSI 0.5", "CSI 2", "CSI 5", "spread over error", "power 4-8")
    return markdown(rows, {"event": "event", **MEAN}, columns, ["minutes", "event"])


def by_event(scores: pd.DataFrame, methods: Sequence[str], cells: int, with_mean: bool = True) -> pd.DataFrame:
    """Rows of all events in words, and the means over those that are held out; other regions come last."""
    rows = scores[(scores.cells == cells) & scores.method.isin(methods)]
    rows = rows.assign(event=rows.event.map(lambda name: SHORT.get(name, name)))
    held, other = rows[rows.group == HELD_OUT], rows[rows.group != HELD_OUT]
    mean = [means(held).assign(event="mean of the three")] if with_mean else []
    other = other.assign(event=other.event + "*")
    return pd.concat([held, *mean, other]).sort_values("minutes", kind="stable").reset_index(drop=True)


def moving_frame(scores: pd.DataFrame) -> str:
    """The default forecast beside what it is made of."""
    rows = chosen(scores, ("extrapolation", "pysteps sprog", "lagrangian"))
    return markdown(rows, MEAN, ("CSI 0.5", "CSI 2", "CSI 5", "CSI 10", "MAE", "power 4-8"), ["minutes"])


def detail(scores: pd.DataFrame) -> str:
    """Members of the default forecast beside those of STEPS."""
    rows = by_event(scores, ("steps", "lagrangian members"), LARGE, with_mean=False)
    columns = ("fair CRPS", "CSI 0.5 of mean", "spread over error", "rain over extrapolation", "power 4-8")
    return markdown(rows, {"event": "event", **MEAN}, columns, ["minutes", "event"])


def events(scores: pd.DataFrame) -> str:
    """What each event has been used for."""
    lines = [f"| {group} | {'; '.join(SHORT[name] for name in names)} |" for group, names in GROUPS.items()]
    return "\n".join(["| group | events |", "|---|---|", *lines])


TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    "forecasts": forecasts,
    "ensembles": ensembles,
    "uses": uses,
    "sprog": sprog,
    "steps": steps,
    "stldm": stldm,
    "moving_frame": moving_frame,
    "detail": detail,
    "events": events,
}
"""By the name in the marker."""
GRIDS = {"ensembles": (LARGE, SMALL), "stldm": (SMALL,), "events": ()}
"""Those that a table is of, where that is not the large one."""


def filled(text: str, scores: pd.DataFrame) -> str:
    """A page with its tables anew: all between ``<!-- scores: NAME -->`` and ``<!-- end of scores -->``."""

    def table(found: re.Match[str]) -> str:
        name = found.group(1)
        grids = [cells for cells in (LARGE, SMALL) if cells in GRIDS.get(name, (LARGE,))]
        caption = "; ".join(starts(scores, cells) for cells in grids)
        below = f"\n({caption[0].upper()}{caption[1:]}.)\n" if caption else ""
        return f"<!-- scores: {name} -->\n\n{TABLES[name](scores)}\n{below}\n<!-- end of scores -->"

    return re.sub(r"<!-- scores: (\w+) -->.*?<!-- end of scores -->", table, text, flags=re.DOTALL)


def pages(folder: Path) -> list[Path]:
    """Those with such a table."""
    files = [folder / "README.md", *sorted((folder / "docs").rglob("*.md"))]
    return [file for file in files if "<!-- scores:" in file.read_text(encoding="utf-8")]
