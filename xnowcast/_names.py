"""Modules that are public by a short name, ``xnowcast.datasets`` or ``xnowcast.regrid``, wherever their room is."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HOMES = {
    "cf": "fields.cf",
    "channels": "fields.channels",
    "datasets": "data.datasets",
    "noise": "nn.noise",
    "pairing": "fields.pairing",
    "pretrained": "models.shipped",
    "regrid": "fields.regrid",
    "storage": "data.storage",
    "transforms": "models.transforms",
    "units": "fields.units",
    "weights": "models.weights",
}
"""Short name to where the module is, both below ``xnowcast``."""

_PREFIX = "xnowcast."


class _ByShortName(MetaPathFinder, Loader):
    """Makes ``import xnowcast.data.datasets`` the import of the module that has this name in `HOMES`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        known = name.startswith(_PREFIX) and name.removeprefix(_PREFIX) in HOMES
        return ModuleSpec(name, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_PREFIX + HOMES[spec.name.removeprefix(_PREFIX)])
        spec.loader_state = module.__spec__  # the import system is about to replace it
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # the module was run at its home


def install() -> None:
    """Make the short names known to Python's imports, once a process."""
    if not any(type(finder) is _ByShortName for finder in sys.meta_path):
        sys.meta_path.append(_ByShortName())
