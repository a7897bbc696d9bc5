"""Where words are shown: what others wrote must steer no terminal, and a notebook is none."""

import sys
import warnings


def printable(text: str) -> str:
    """A text of others on one line, with what steers a terminal shown instead of obeyed.

    Parameters
    ----------
    text : str

    Returns
    -------
    str

    Examples
    --------
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


def warn(message: str) -> None:
    """A warning that points at the line outside this package by which it came about."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "xnowcast":
        frame, level = frame.f_back, level + 1
    warnings.warn(printable(message), stacklevel=level)
