"""What all pictures share: their canvas, their axes and how lead times are written."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xnowcast.data import storage
from xnowcast.drafts import draft

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    plt = pyplot_module()
    fig = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(fig)  # pyplot forgets it, at once so that an error leaves nothing behind; it draws all the same
    return fig


def pyplot_module() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'xnowcast[plot]'") from error
    return plt


def plain_axes(*axes: "Axes") -> None:
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)


LONGEST_IN_MINUTES = 180.0
"""Lead times up to this are given in minutes, longer ones in hours and minutes."""


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
    if in_minutes(lead_time).max(initial=0.0) <= LONGEST_IN_MINUTES:
        return np.timedelta64(1, "m"), "min"
    return np.timedelta64(1, "h"), "h"


def in_minutes(lead_time: np.ndarray) -> np.ndarray:
    return np.atleast_1d(lead_time) / np.timedelta64(1, "m")


def some_of(values: Sequence[Any]) -> str:
    """Some of many, for messages."""
    shown = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in list(values)[:8])
    return shown if len(values) <= 8 else f"{shown}, ... ({len(values)} in all)"


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
        with picture_draft(path) as new:
            fig.savefig(new, dpi=150)
    return fig


@contextmanager
def picture_draft(path: str | Path) -> Iterator[Path]:
    """Where to draw a picture that takes its place once it is whole; a name without an ending gets .png."""
    place = picture_path(path)
    with draft(place) as new:
        yield new


def picture_path(path: str | Path, *inputs: Any) -> Path:
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


def at_least(threshold: float | None) -> str:
    return "" if threshold is None else f"at least {threshold:g} mm/h"
