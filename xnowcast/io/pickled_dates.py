"""Dates that NumPy stored as Python objects, read without unpickling: a pickle is a program, and nobody runs it here.

The opcodes are only written down, as what they would call with what; dates are taken from what is written down if it is
exactly what NumPy writes for an array of ``datetime.datetime``.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

PROTOCOLS = (2, 3, 4)
YEARS = range(1900, 2200)


@dataclass(frozen=True)
class Name:
    """Of something that would have been imported."""

    module: str
    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """What would have been called, with what."""

    function: Any
    arguments: Any


@dataclass(frozen=True, eq=False)
class State:
    """What would have been given a state, and which."""

    owner: Any
    state: Any


class _Mark:
    """Where the parts of a tuple or list begin."""


DATE, ARRAY, TYPE, ENCODE = (
    Name("datetime", "datetime"),
    Name("numpy", "ndarray"),
    Name("numpy", "dtype"),
    Name("_codecs", "encode"),
)
REBUILD = {Name("numpy.core.multiarray", "_reconstruct"), Name("numpy._core.multiarray", "_reconstruct")}
# The type "object", as it is stored: its name, and whether to align and to copy; version, byte order, sizes and flags.
OBJECTS = ("O8", False, True)
OBJECT_STATE = (3, "|", None, None, None, -1, -1, 63)


def dates(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Dates (datetime64[ns], 1-D) of a pickled array of ``datetime.datetime``; its header in ``.npy`` tells the shape.

    ValueError if it is anything but dates without a time zone, written by protocol 2 to 4.

    >>> import pickle
    >>> dates(pickle.dumps(np.array([datetime(2016, 8, 21), datetime(2016, 8, 22)]), protocol=4), (2,))
    array(['2016-08-21T00:00:00.000000000', '2016-08-22T00:00:00.000000000'], dtype='datetime64[ns]')
    """
    match _written_down(content):
        case State(Call(rebuild, (array, (0,), letter)), (1, (length,), kind, False, list(entries))) if (
            rebuild in REBUILD and array == ARRAY and _text(letter) == "b" and _is_objects(kind)
        ):
            if (length,) != shape or len(entries) != length:
                raise ValueError(f"its dates are {len(entries)}, where its header announces {shape}")
            return np.array([_date(entry) for entry in entries], "M8[us]").astype("M8[ns]")
    raise ValueError("its dates are not stored as NumPy stores an array of datetime")


def _is_objects(kind: Any) -> bool:
    match kind:
        case State(Call(function, arguments), state):
            return function == TYPE and arguments == OBJECTS and state == OBJECT_STATE
    return False


def _date(entry: Any) -> datetime:
    """Year (2 bytes), month, day, hour, minute, second and microsecond (3 bytes), as ``datetime`` stores itself."""
    match entry:
        case Call(function, (stored,)) if function == DATE:
            packed = _text(stored).encode("latin-1")
            if len(packed) == 10:
                year = packed[0] * 256 + packed[1]
                if year not in YEARS:
                    raise ValueError(f"one of its dates is in the year {year}")
                month, day, hour, minute, second = packed[2:7]
                return datetime(year, month, day, hour, minute, second, int.from_bytes(packed[7:]))
    raise ValueError("its dates hold something else than dates without a time zone")


def _text(stored: Any) -> str:
    """Bytes, or text that stands for bytes: protocol 2 has no bytes, Python 3 writes there that text be encoded."""
    match stored:
        case Call(function, (str(letters), "latin1")) if function == ENCODE:
            return letters
        case bytes():
            return stored.decode("latin-1")
        case str():
            return stored
    raise ValueError("its dates hold something else than dates without a time zone")


# ---------------------------------------------------------------- writing opcodes down


def _written_down(content: bytes) -> Any:
    """What the pickle would make, as a `State`, `Call`, `Name`, tuple, list or plain value."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return stack.pop()
            if opcode.name not in WRITE:
                raise ValueError(f"its dates hold the pickle opcode {opcode.name}, which dates do not need")
            WRITE[opcode.name](stack, memo, argument)
    except (IndexError, KeyError, TypeError, AttributeError):
        raise ValueError("its dates are a damaged pickle") from None
    raise ValueError("its dates are a pickle without an end")


Write = Callable[[list[Any], dict[int, Any], Any], None]


def _protocol(stack: list[Any], memo: dict[int, Any], version: int) -> None:
    if version not in PROTOCOLS:
        raise ValueError(f"its dates are a pickle of protocol {version}; 2 to 4 are expected")


def _push(stack: list[Any], memo: dict[int, Any], value: Any) -> None:
    stack.append(value)


def _constant(value: Any) -> Write:
    return lambda stack, memo, _: stack.append(value)


def _import(stack: list[Any], memo: dict[int, Any], names: str | None) -> None:
    if names is None:  # STACK_GLOBAL
        name, module = stack.pop(), stack.pop()
    else:
        module, name = names.split(" ")
    found = Name(module, name)
    if found not in {DATE, ARRAY, TYPE, ENCODE, *REBUILD}:
        raise ValueError(f"its dates hold {module}.{name}; datetime objects are expected")
    stack.append(found)


def _remember(stack: list[Any], memo: dict[int, Any], number: int | None) -> None:
    memo[len(memo) if number is None else number] = stack[-1]


def _recall(stack: list[Any], memo: dict[int, Any], number: int) -> None:
    stack.append(memo[number])


def _tuple(size: int) -> Write:
    def write(stack: list[Any], memo: dict[int, Any], _: None) -> None:
        parts = tuple(stack.pop() for _ in range(size))
        stack.append(parts[::-1])

    return write


def _since_mark(stack: list[Any]) -> list[Any]:
    parts = []
    while not isinstance(part := stack.pop(), _Mark):
        parts.append(part)
    return parts[::-1]


def _marked_tuple(stack: list[Any], memo: dict[int, Any], _: None) -> None:
    stack.append(tuple(_since_mark(stack)))


def _append(stack: list[Any], memo: dict[int, Any], _: None) -> None:
    part = stack.pop()
    stack[-1].append(part)


def _extend(stack: list[Any], memo: dict[int, Any], _: None) -> None:
    parts = _since_mark(stack)
    stack[-1].extend(parts)


def _call(stack: list[Any], memo: dict[int, Any], _: None) -> None:
    arguments = stack.pop()
    stack.append(Call(stack.pop(), arguments))


def _build(stack: list[Any], memo: dict[int, Any], _: None) -> None:
    state = stack.pop()
    stack.append(State(stack.pop(), state))


WRITE: dict[str, Write] = {
    "PROTO": _protocol,
    "FRAME": lambda stack, memo, size: None,
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _push),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES"), _push),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE"), _push),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _import),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _recall),
    "MARK": lambda stack, memo, _: stack.append(_Mark()),
    "TUPLE": _marked_tuple,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "EMPTY_LIST": lambda stack, memo, _: stack.append([]),
    "APPEND": _append,
    "APPENDS": _extend,
    "REDUCE": _call,
    "BUILD": _build,
}
