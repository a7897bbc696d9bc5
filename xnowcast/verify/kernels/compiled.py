"""Kernels compiled with numba where it is installed (the extra ``fast``), and when that is worth the wait.

Every kernel has a numpy path that is always there and gives the same numbers. Compiling takes a second or two the
first time; numba keeps the result on disk. So small inputs take the numpy path, whatever is installed.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import FunctionType
from typing import Any

WORTH_COMPILING = 2_000_000
"""Values of an input from which a compiled kernel is used."""


@cache
def numba_is_here() -> bool:
    """Whether numba can be used: it is installed, and ``XNOWCAST_NUMBA=0`` does not forbid it.

    Returns
    -------
    bool
    """
    return os.environ.get("XNOWCAST_NUMBA", "1") != "0" and find_spec("numba") is not None


def use_compiled(n_values: int) -> bool:
    """Whether an input of so many values is given to a compiled kernel.

    Parameters
    ----------
    n_values : int

    Returns
    -------
    bool

    Examples
    --------
    >>> use_compiled(100)
    False
    """
    return n_values >= WORTH_COMPILING and numba_is_here()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the function compiled by numba when it is first called; only to be called after `use_compiled`.

    It runs without the GIL and on one thread: Dask or a thread pool brings the others. Division by zero gives
    inf or NaN, as in numpy. It may call other compiled functions of its module.

    Parameters
    ----------
    function : callable
        On numpy arrays and numbers, in the part of Python that numba knows.

    Returns
    -------
    callable
    """

    @cache
    def ready() -> Callable[..., Any]:
        from numba import njit

        return njit(nogil=True, cache=True, error_model="numpy")(_linked(function))

    def call(*arguments: Any) -> Any:
        return ready()(*arguments)

    call.__doc__, call.__name__ = function.__doc__, function.__name__
    call.python = function  # type: ignore[attr-defined]  # for tests without numba
    call.ready = ready  # type: ignore[attr-defined]  # for compiled functions that call this one
    return call


def _linked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the compiled ones that it calls in place of their wrappers, which numba cannot call."""
    named: dict[str, Any] = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    called = {name: wrapper.ready() for name, wrapper in named.items() if hasattr(wrapper, "ready")}
    if not called:
        return function
    linked = FunctionType(function.__code__, function.__globals__ | called, function.__name__, function.__defaults__)
    linked.__qualname__ = function.__qualname__
    return linked
