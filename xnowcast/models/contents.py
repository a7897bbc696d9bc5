"""What the tensors of a model hold: a digest of them, and whether all are numbers. Each tensor is read once."""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

SAMPLE = 1024
"""Numbers of a tensor, spread evenly over it, that are compared beside its version: writing to ``tensor.data`` changes
the numbers and leaves the version as it is."""


@dataclass(frozen=True)
class _Content:
    mark: tuple[Any, ...]
    digest: bytes
    finite: bool


_CONTENTS: Any = WeakIdKeyDictionary()
_LOCK = threading.Lock()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """One word for the content of some tensors; another one as soon as they change.

    >>> weight = torch.zeros(3)
    >>> before = digest({"weight": weight})
    >>> before == digest({"weight": weight.clone()}), before == digest({"weight": weight.add_(1)})
    (True, False)
    """
    whole = hashlib.sha256()
    for name, tensor in tensors.items():
        whole.update(f"{name} {tensor.dtype} {_shape(tensor)}".encode() + _content_of(tensor).digest)
    return whole.hexdigest()


def refuse_broken(model: nn.Module, name: str) -> None:
    """Refuse a model in memory with parameters that are no numbers, as a training leaves them that diverged."""
    broken = [parameter for parameter, tensor in model.named_parameters() if not _content_of(tensor).finite]
    if broken:
        others = f" and {len(broken) - 1} more parameters" if len(broken) > 1 else ""
        raise ValueError(
            f"the model {name!r} has NaN or infinite numbers in {broken[0]!r}{others}: its answers would be NaN, which "
            "reads as not measured. Take weights from before it diverged, or train it again"
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite.

    >>> is_finite(torch.tensor([1.0, -2.0])), is_finite(torch.tensor([1.0, torch.nan])), is_finite(torch.tensor([True]))
    (True, False, True)
    """
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return True
    known = tensor.float() if tensor.element_size() == 1 else tensor  # little is defined for floats of a byte
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    # a sum is many times faster than looking at each, and finite only where all are
    return bool(known.sum(dtype=wide).isfinite()) or bool(known.isfinite().all())


def _shape(tensor: Tensor) -> tuple[int, ...] | None:
    return None if torch.nn.parameter.is_lazy(tensor) else tuple(tensor.shape)


def _content_of(tensor: Tensor) -> _Content:
    if torch.nn.parameter.is_lazy(tensor):  # made by the first call
        return _Content((), b"", True)
    try:
        mark = _mark(tensor)
    except (RuntimeError, NotImplementedError, TypeError):  # sparse, quantized: kinds that show no bytes, known by name
        return _Content((), f"{id(tensor)} {tensor._version}".encode(), True)
    with _LOCK:
        known = _CONTENTS.get(tensor)
    if known is None or known.mark != mark:
        known = _Content(mark, hashlib.sha256(_bytes(tensor).data).digest(), is_finite(tensor.detach()))
        with _LOCK:
            _CONTENTS[tensor] = known
    return known


def _mark(tensor: Tensor) -> tuple[Any, ...]:
    """What changes with a tensor's content, at little cost."""
    version = object() if tensor.is_inference() else tensor._version  # nobody counts changes of inference tensors
    flat = tensor.detach().flatten()
    sample = _bytes(flat[:: max(1, len(flat) // SAMPLE)]).tobytes()
    return version, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), sample


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
