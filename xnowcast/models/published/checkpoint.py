"""Tensors of an authors' checkpoint, read without running anything that it holds, and looked for in what wraps them."""

import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xnowcast.models.cards import KEY, is_file, opened
from xnowcast.terminal import printable

AVERAGED = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema")
PLAIN = ("state_dict", "model_state_dict", "model", "network", "net", "params")
ENTRIES = (*AVERAGED, *PLAIN)
"""Entries of a checkpoint that hold a network, the best first: authors sample from averages over the training."""

PREFIXES = ("module.", "_orig_mod.", "ema_model.", "model.", "network.", "net.")
"""What wrappers put before all names: parallel training, compilation, averages, Lightning."""

SHADOW = "ema_model."
"""Of the averages, where the network as it is at the moment lies beside them."""

_GLOBAL = re.compile(r"(?:GLOBAL|global:?|class)\s+([A-Za-z_][\w.]*\.[\w.]+)")


@dataclass(frozen=True)
class Found:
    """Published tensors by their names, and in words where in the file they were."""

    tensors: dict[str, Tensor]
    chosen: str


def read(path: str | Path, *, entry: str | None = None, prefix: str | None = None) -> Found:
    """The tensors of a checkpoint.

    ``entry``: which of the file's entries to take; by default the first of `ENTRIES` that is there, and so on inside of
    it. ``prefix``: take those alone whose names begin so, without it; by default those of `PREFIXES` that all have.

    A ValueError if there is no such file, it holds anything but tensors, numbers and texts, or none is found.
    """
    content: Any = _content(path)
    steps: list[str] = []
    while isinstance(content, Mapping):
        name = entry or next((one for one in ENTRIES if isinstance(content.get(one), Mapping)), None)
        if name is None:
            break
        if not isinstance(content.get(name), Mapping):
            raise ValueError(f"{_shown(path)} has no entry {name!r}; it has {_listed(content)}")
        others = [one for one in ENTRIES if one != name and isinstance(content.get(one), Mapping)]
        steps.append(f"entry {name!r}" + (f" (beside it {_listed(others)})" if others else ""))
        content, entry = content[name], None
    if not isinstance(content, Mapping):
        raise ValueError(f"{_shown(path)} holds a {type(content).__name__} and no tensors by their names")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    tensors, cut = _without(tensors, prefix)
    if not tensors:
        names = f"names that begin with {prefix!r}" if prefix else "tensors"
        raise ValueError(f"{_shown(path)} has no {names}; it has {_listed(content)}: name the entry that has them")
    return Found(tensors, ", ".join([*steps, *(f"without the prefix {one!r}" for one in cut)]))


def _content(path: str | Path) -> Any:
    if not is_file(path):
        raise ValueError(f"there is no checkpoint {_shown(path)}")
    if str(path).endswith(".safetensors"):
        with opened(path) as file:
            if KEY in (file.metadata() or {}):
                raise ValueError(f"{_shown(path)} has a card of xnowcast already: it needs no conversion")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the handle is no dict)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refused(path, str(error))) from None
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, struct.error) as error:
        first = printable(str(error)).split("\n")[0][:200]
        raise ValueError(f"{_shown(path)} is no checkpoint of torch, or is cut short: {first}") from None


def _refused(path: str | Path, message: str) -> str:
    """What a file holds that only its own code could read; nothing of it was run."""
    named = _GLOBAL.search(message)
    what = f"a pickled {named[1]}" if named else "pickled objects"
    return (
        f"{_shown(path)} holds {what}, which is code and not weights; nothing of it was run. Where you trust it, save "
        "its tensors alone, with its authors' code: torch.save(model.state_dict(), 'weights.pt')"
    )


def _without(tensors: dict[str, Tensor], prefix: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """Names without what wrappers put before them, and what that was."""
    if prefix is not None:
        return _below(tensors, prefix), [prefix]
    cut: list[str] = []
    while tensors:
        shadow = any(name.startswith(SHADOW) for name in tensors)
        common = next((one for one in PREFIXES if all(name.startswith(one) for name in tensors)), None)
        found = SHADOW if shadow else common
        if found is None:
            break
        tensors, cut = _below(tensors, found), [*cut, found]
    return tensors, cut


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _listed(names: Any) -> str:
    shown = [repr(str(name)) for name in names]
    return printable(", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")) or "nothing"


def _shown(path: str | Path) -> str:
    return printable(str(path))
