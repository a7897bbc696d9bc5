"""HDF5 attributes as plain Python: writers store text as bytes or str, and numbers as scalars or in lists."""

import numpy as np


def text(value) -> str:
    """Text of an attribute, without padding.

    Parameters
    ----------
    value : bytes, str or array of one of them

    Returns
    -------
    str

    Examples
    --------
    >>> text(np.array([b"KM,KM "]))
    'KM,KM'
    """
    value = np.asarray(value).reshape(-1)[0]
    return (value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip("\0 ")


def number(value) -> float:
    """Number of an attribute.

    Parameters
    ----------
    value : number or array of one number

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If it is no number.

    Examples
    --------
    >>> number(np.array([3650.0]))
    3650.0
    """
    return float(np.asarray(value).reshape(-1)[0])
