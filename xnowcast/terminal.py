"""Where words are shown: what others wrote must steer no terminal, and a notebook is none."""

import sys
import warnings
from typing import Any


def printable(text: str) -> str:
    """A text of others on one line, with what steers a terminal shown instead of obeyed.

    >>> printable("rain\\n of \\x1b[31mJuly\\u202e")
    'rain of \\\\x1b[31mJuly\\\\u202e'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this process; that its libraries are imported says less.

    >>> in_notebook()
    False
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def progress_bar(total: int, done: int, unit: str, *, shown: bool | None, title: str | None = None) -> Any:
    """A bar of tqdm on stderr (stdout in a notebook), by default where somebody looks; None where there is none."""
    stream = sys.stdout if in_notebook() else sys.stderr
    if not ((in_notebook() or stream.isatty()) if shown is None else shown):
        return None
    from tqdm import tqdm  # here, because most calls show nothing

    class Bar(tqdm):
        monitor_interval = 0  # loops look often enough: no thread is begun that would outlive the run

    return Bar(total=total, initial=done, unit=unit, desc=title, file=stream, dynamic_ncols=True)


def warn(message: str) -> None:
    """A warning that points at the line outside this package by which it came about."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "xnowcast":
        frame, level = frame.f_back, level + 1
    warnings.warn(printable(message), stacklevel=level)
