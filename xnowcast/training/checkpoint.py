"""A training run's state in one safetensors file, whole or not at all; nothing is ever pickled.

Tensors stand under the names of their places, joined by "/"; all else stands as JSON in the file's header.
"""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xnowcast.drafts import draft
from xnowcast.models.weights import share

_KEY = "xnowcast-checkpoint"


def write(path: str | Path, state: dict[str, Any]) -> None:
    """Write a state; an older checkpoint stays until the new one is on the disk.

    ``state``: dicts, lists and tuples of tensors, numbers, strings, booleans and None, nested at will; a TypeError if
    it holds anything else.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder, "c.safetensors"), {"step": 3, "optimizer": {0: {"mean": torch.ones(2)}}})
    ...     read(Path(folder, "c.safetensors"))
    {'step': 3, 'optimizer': {0: {'mean': tensor([1., 1.])}}}
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    frame = json.dumps(_take_apart(state, "", tensors))
    with draft(path) as new:
        save_file(tensors, new, metadata={_KEY: frame})
        with open(new, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave the name without the content
        share(new)


def read(path: str | Path) -> dict[str, Any]:
    """The state that `write` wrote, its tensors on the CPU.

    ValueError if the file is missing, cut short, or no checkpoint.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise ValueError(f"{path} is a safetensors file, but no checkpoint of xnowcast")
            return _put_together(json.loads(metadata[_KEY]), file)
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole checkpoint: {error}") from None


def _take_apart(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a value, its tensors put aside under their places. Dicts become pairs: their keys may be numbers."""
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().contiguous().clone()
        return {"tensor": place}
    if isinstance(value, dict):
        return {"dict": [[key, _take_apart(v, f"{place}/{key}".lstrip("/"), tensors)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_take_apart(v, f"{place}/{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{place} is a {type(value).__name__}; a checkpoint holds tensors, numbers and text")


def _put_together(value: Any, file: Any) -> Any:
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "tensor":
        return file.get_tensor(content)
    if kind == "dict":
        return {key: _put_together(v, file) for key, v in content}
    items = [_put_together(v, file) for v in content]
    return tuple(items) if kind == "tuple" else items
