"""What others wrote, so that a terminal or a log shows it and does not obey it."""


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
