"""Random weights, inputs and outputs of the authors' own networks, in ``golden`` beside the folder of real events.

Those of further systems are in ``golden_zoo``, where little of what is told about them is JSON.
"""

import json
from ast import literal_eval
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from conftest import _shared_data
from safetensors import safe_open


@dataclass(frozen=True)
class Golden:
    """Tensors of a file by their kind: ``weights``, ``input``, ``noise`` and ``output``; ``about`` is its metadata."""

    about: dict
    tensors: dict

    def of(self, kind):
        """Those of a kind, by the names behind it: ``of("output/corrected")``."""
        return {name.removeprefix(f"{kind}/"): t for name, t in self.tensors.items() if name.startswith(f"{kind}/")}


def _path(name, folder="golden"):
    shared = _shared_data()
    if shared is None or not (shared.parent / folder).is_dir():
        pytest.skip(f"the numbers of the authors' networks (../shared/{folder}) are not on this checkout")
    return shared.parent / folder / name


def _told(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@cache
def golden(name, folder="golden"):
    """A file; the test is skipped where there is none."""
    with safe_open(str(_path(f"{name}.safetensors", folder)), "pt") as file:
        about = {key: _told(text) for key, text in file.metadata().items()}
        return Golden(about, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 (the handle is no dict)


def listed(name):
    """Names and shapes of the tensors of a network of full size."""
    rows = _path(f"{name}_keys.txt").read_text().splitlines()
    cells = (row.split(" | ") for row in rows if row and not row.startswith("#"))
    return {name: literal_eval(shape) for name, shape, *_ in cells}


def tabled(system):
    """Names and shapes of the first table of tensors in what is told of a system of ``golden_zoo``."""
    (_, table, *_) = _path(f"{system}_facts.txt", "golden_zoo").read_text().split("---- Key table")
    rows = (row.split("\t") for row in table.splitlines()[1:] if "\t" in row)
    return {name: literal_eval(shape) for name, shape, *_ in rows}


def assert_equals(said, published, tolerance=1e-5):
    """Two ways to add up in float32 differ by some 1e-6 of the largest value."""
    assert said.shape == published.shape
    assert torch.isfinite(said).all() and published.abs().max() > 1e-2
    difference = (said - published).abs().max()
    assert difference <= tolerance * max(1.0, published.abs().max()), f"they differ by {difference:.2g}"
