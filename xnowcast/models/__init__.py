"""The models: one file or folder a system, one line a system in the registry."""

from xnowcast.models.conversion import convert
from xnowcast.models.registry import (
    CELLS,
    INTERPOLATIONS,
    REGISTRY,
    build,
    called,
    check_options,
    checked_options,
    declare,
    find,
    name_of,
    names,
    options,
    register,
)

__all__ = [
    "CELLS",
    "INTERPOLATIONS",
    "REGISTRY",
    "build",
    "called",
    "check_options",
    "checked_options",
    "convert",
    "declare",
    "find",
    "name_of",
    "names",
    "options",
    "register",
]
