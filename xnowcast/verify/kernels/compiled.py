"""Kernels compiled with numba where it is installed (the extra ``fast``), and when that is worth the wait.

Every kernel has a numpy path that is always there and gives the same numbers. Compiling takes seconds the first time;
numba keeps the result on disk where it finds a folder, and loads it in half a second. So a kernel is compiled where
that pays within the call, or as soon as so much time has been lost without it, and is used where it is compiled.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from types import FunctionType
from typing import Any

WORTH_COMPILING = 0 if os.environ.get("XNOWCAST_NUMBA") == "always" else 2_000_000
"""Values of an input from which a compiled kernel is used, if it is ready or pays; 0 is to use it always."""

IMPORTING, LOADING = 1.0, 0.5
"""Seconds that numba takes to import, and a kernel that it has on disk."""

_blocks: ContextVar[int] = ContextVar("blocks", default=1)


@cache
def numba_is_here() -> bool:
    """Whether numba can be used: it is installed, and ``XNOWCAST_NUMBA=0`` does not forbid it."""
    return os.environ.get("XNOWCAST_NUMBA", "1") != "0" and find_spec("numba") is not None


@cache
def _numba_works() -> bool:
    try:
        import numba  # noqa: F401
    except Exception:  # such as one that was made for another numpy
        return False
    return True


@contextmanager
def one_of(n_blocks: int) -> Iterator[None]:
    """Say that the work at hand is one of so many blocks like it: what is compiled for one serves the others."""
    token = _blocks.set(n_blocks)
    try:
        yield
    finally:
        _blocks.reset(token)


def use_compiled(
    n_values: int,
    kernel: "Callable[..., Any] | None" = None,
    *,
    saves: float = 0.0,
    compiling: float = 0.0,
    words: Sequence[str] = (),
) -> bool:
    """Whether an input is given to a compiled kernel.

    ``n_values``: of the input. ``kernel``: a `compiled` function. ``saves``: seconds that it saves on this input.
    ``compiling``: seconds that it takes to compile. ``words``: what its signature has, as numba writes it, such as
    "float32": it is compiled for each kind of input.

    >>> use_compiled(100)
    False
    """
    if n_values < WORTH_COMPILING or not numba_is_here():
        return False
    if WORTH_COMPILING == 0 or kernel is None:
        return _numba_works()
    if _is_ready(kernel, words):
        return True
    kind = tuple(words)
    lost = kernel.lost[kind] = kernel.lost.get(kind, 0.0) + saves  # type: ignore[attr-defined]
    saved = max(saves * _blocks.get(), lost)
    if saved < (LOADING if "numba" in sys.modules else IMPORTING + LOADING) or not _numba_works():
        return False
    return saved > compiling or _is_on_disk(kernel, words)


def _is_ready(kernel: Any, words: Sequence[str]) -> bool:
    """Whether it has been compiled, or loaded, in this process."""
    return kernel.built and any(_has(signature, words) for signature in kernel.ready().signatures)


def _is_on_disk(kernel: Any, words: Sequence[str]) -> bool:
    """Whether numba has it in its cache, as far as it lets itself be asked."""
    try:
        known = kernel.ready()._cache._cache_file._load_index()
    except Exception:  # not part of what numba promises
        return False
    return any(_has(key[0], words) for key in known)


def _has(signature: Any, words: Sequence[str]) -> bool:
    text = str(signature)
    return all(word in text for word in words)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the function compiled by numba when it is first called; only to be called after `use_compiled`.

    It runs without the GIL and on one thread: Dask or a thread pool brings the others. Division by zero gives
    inf or NaN, as in numpy. It may call other compiled functions of its module.

    ``function``: on numpy arrays and numbers, in the part of Python that numba knows.
    """

    @cache
    def built(on_disk: bool) -> Callable[..., Any]:
        from numba import njit

        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        linked = _linked(function)
        try:
            return njit(cache=on_disk, **options)(linked)
        except RuntimeError:  # no folder to keep it in
            return njit(**options)(linked)

    def ready() -> Callable[..., Any]:
        call.built = True  # type: ignore[attr-defined]
        return built(_Disk.usable)

    def call(*arguments: Any) -> Any:
        try:
            return ready()(*arguments)
        except OSError:  # the folder is full, or no longer ours
            if not _Disk.usable:
                raise
            _Disk.usable = False
            return ready()(*arguments)

    call.__doc__, call.__name__ = function.__doc__, function.__name__
    call.python = function  # type: ignore[attr-defined]  # for tests without numba
    call.ready = ready  # type: ignore[attr-defined]  # for compiled functions that call this one
    call.built = False  # type: ignore[attr-defined]
    call.lost = {}  # type: ignore[attr-defined]  # seconds by kind of input that it would have saved so far
    return call


class _Disk:
    """Whether numba's cache on disk can be written, as far as is known."""

    usable = True


def _linked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the compiled ones that it calls in place of their wrappers, which numba cannot call."""
    named: dict[str, Any] = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    called = {name: wrapper.ready() for name, wrapper in named.items() if hasattr(wrapper, "ready")}
    if not called:
        return function
    linked = FunctionType(function.__code__, function.__globals__ | called, function.__name__, function.__defaults__)
    linked.__qualname__ = function.__qualname__
    return linked
