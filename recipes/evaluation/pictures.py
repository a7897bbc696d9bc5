"""Pages to look at: members beside the radar for each event, rank histogram and reliability for each ensemble."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import xnowcast

from .events import Start
from .forecasts import SHOWN, kept
from .methods import Method
from .scores import EVENTS
from .tables import HELD_OUT, SHORT

FLAT = {"color": "0.4", "linewidth": 1, "linestyle": "--"}
"""What an ensemble would have whose members are drawn like the weather."""


def event(title: str, start: Start, methods: Sequence[Method], folder: Path) -> Figure:
    """Radar, methods and two members of each ensemble, a row for each of some lead times."""
    columns = [("radar", [start.observed(minutes) for minutes in SHOWN])]
    for method in methods:
        members = kept(folder, method, start).part("shown")
        labels = [method.name, "another member"] if method.members else [method.name]
        columns += [(label, list(fields)) for label, fields in zip(labels, members, strict=True)]
    figure = Figure(figsize=(2.3 * len(columns) + 1, 2.4 * len(SHOWN) + 0.6), layout="constrained")
    axes = figure.subplots(len(SHOWN), len(columns), squeeze=False)
    cmap, norm = xnowcast.plot.rain_colormap()
    for column, (label, fields) in zip(axes.T, columns, strict=True):
        column[0].set_title(label, fontsize=10)
        for axis, field in zip(column, fields, strict=True):
            axis.set(facecolor="white", xticks=[], yticks=[])
            if field is not None:
                drawn = axis.imshow(upright(field, start), cmap=cmap, norm=norm, interpolation="nearest")
    for axis, minutes in zip(axes[:, 0], SHOWN, strict=True):
        axis.set_ylabel(f"{minutes} min")
    figure.colorbar(drawn, ax=axes, label="rain rate (mm/h)", aspect=40, format="%g")
    moment = str(start.rain.time.values[start.number])[:16].replace("T", " ")
    figure.suptitle(f"{title}: from {moment} UTC; grey is unknown", fontsize=12)
    return figure


def upright(field: Any, start: Start) -> np.ndarray:
    """With north at the top."""
    y = start.rain[start.rain.dims[-2]].values
    values = np.asarray(field, "f4")
    return values if y[0] > y[-1] else values[::-1]


def ensembles(curves: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """For each ensemble and grid a page with a column for each lead time.

    Bars and the black line are of the events that are held out, where there are some, thin lines of each event.
    """
    curves = [curve for curve in curves if "ranks" in curve]
    for key in dict.fromkeys((curve["method"], curve["cells"]) for curve in curves):
        own = [curve for curve in curves if (curve["method"], curve["cells"]) == key]
        yield f"{key[0]}_{key[1]}", ensemble(f"{key[0]}, {key[1]} cells", own)


def ensemble(title: str, curves: Sequence[dict[str, Any]]) -> Figure:
    leads = sorted({curve["minutes"] for curve in curves})
    figure = Figure(figsize=(3.4 * len(leads) + 0.5, 3.1 * (1 + len(EVENTS)) + 0.5), layout="constrained")
    axes = figure.subplots(1 + len(EVENTS), len(leads), squeeze=False)
    for column, minutes in zip(axes.T, leads, strict=True):
        some = [curve for curve in curves if curve["minutes"] == minutes]
        ranks(column[0], some, f"{minutes} min")
        for axis, threshold in zip(column[1:], EVENTS, strict=True):
            reliability(axis, some, f"{threshold:g}")
    axes[0, 0].set_ylabel("share of ranks, 1 is flat")
    for axis, threshold in zip(axes[1:, 0], EVENTS, strict=True):
        axis.set_ylabel(f"observed frequency of {threshold:g} mm/h")
    axes[0, -1].legend(fontsize=7)
    figure.suptitle(f"{title}: ranks where it rained or was to rain, and reliability", fontsize=12)
    return figure


def together(curves: Sequence[dict[str, Any]]) -> np.ndarray:
    """Which events are told of as one."""
    held = np.array([curve["group"] == HELD_OUT for curve in curves])
    return held if held.any() else ~held


def ranks(axis: Axes, curves: Sequence[dict[str, Any]], title: str) -> None:
    """Shares of the ranks of the observations, over those of a flat histogram."""
    counts = np.array([curve["ranks"] for curve in curves])
    shares = counts / counts.sum(1, keepdims=True) * counts.shape[1]
    numbers = np.arange(1, counts.shape[1] + 1)
    axis.bar(numbers, shares[together(curves)].mean(0), color="0.8")
    for curve, share in zip(curves, shares, strict=True):
        axis.plot(numbers, share, linewidth=1, label=SHORT.get(curve["event"], curve["event"]))
    axis.axhline(1, **FLAT)
    axis.set(
        title=title, xlabel="rank of the observation, 1 is below all members", ylim=(0, max(2.5, 1.05 * shares.max()))
    )


def reliability(axis: Axes, curves: Sequence[dict[str, Any]], threshold: str) -> None:
    """How often it rained so much, by how many members said so; points of fewer than 50 cells are left out."""
    events, others = (
        np.array([curve["chances"][threshold][kind] for curve in curves]) for kind in ("events", "non_events")
    )
    chance, held = np.linspace(0, 1, events.shape[1]), together(curves)
    axis.plot([0, 1], [0, 1], **FLAT)
    for yes, no in zip(events, others, strict=True):
        axis.plot(chance, frequency(yes, no), linewidth=1)
    axis.plot(chance, frequency(events[held].sum(0), others[held].sum(0)), "o-", color="black", markersize=4)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="forecast probability")


def frequency(yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    return np.where(yes + no >= 50, yes / np.maximum(yes + no, 1), np.nan)
