"""Building a network whose numbers come from a file: none is drawn, and it grows no larger than the file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SPARE_NUMBERS = 2**24
SPARE_TENSORS = 1000
"""What a network may hold beside what its file does: tables of positions, of a schedule, of what is masked."""

_DRAWN_IN_PLACE = frozenset(
    f"{name}_"
    for name in (
        *("uniform", "normal", "random", "bernoulli", "exponential", "cauchy", "geometric", "log_normal"),
        *("trunc_normal", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"),
        *("orthogonal", "sparse"),
    )
)
_DRAWN = frozenset(("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"))
_MADE = frozenset(("empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace", "eye"))


@contextmanager
def to_be_filled(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it networks are built whose state is about to be replaced by these tensors.

    Torch's global generator is left as it is, in all threads: a parameter is not drawn at all, and what else is drawn
    comes from a generator of its own.

    A ValueError as soon as what is built is clearly larger than that: options of a file may ask for any size.

    >>> before = torch.get_rng_state()
    >>> with to_be_filled({"weight": torch.zeros(4, 3), "bias": torch.zeros(4)}):
    ...     layer = nn.Linear(3, 4)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    numbers = 2 * sum(tensor.numel() for tensor in tensors.values()) + SPARE_NUMBERS
    with _Building(numbers, 4 * len(tensors) + SPARE_TENSORS):
        yield


class _Building(TorchFunctionMode):
    """What torch is asked for while a network is built, in this thread alone."""

    def __init__(self, numbers: int, tensors: int) -> None:
        super().__init__()
        self.numbers, self.tensors = numbers, tensors
        self.generator = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in _DRAWN_IN_PLACE and args and isinstance(args[0], nn.Parameter):
            return args[0]
        if name in _DRAWN_IN_PLACE | _DRAWN and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
        if name in _MADE:
            self._count(name, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.tensors -= 1
        self.numbers -= _numbers_asked_for(name, args, kwargs)
        if self.numbers < 0 or self.tensors < 0:
            raise ValueError("its options describe a network that is larger than the tensors of the file")


def _numbers_asked_for(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    if name in ("arange", "linspace"):
        counts = [
            abs(int(a)) for a in (*args, kwargs.get("steps", 0), kwargs.get("end", 0)) if isinstance(a, int | float)
        ]
        return max(counts, default=0)
    size = kwargs.get("size", args[:1] if args and isinstance(args[0], list | tuple) else args)
    if name == "eye":
        size = (*size, *size)[:2]
    flat = size[0] if len(size) == 1 and isinstance(size[0], list | tuple) else size
    return prod(int(n) for n in flat if isinstance(n, int))
