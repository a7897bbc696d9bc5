"""What a run was asked for, listed from its call: an argument that is new is part of it without anybody's doing."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xnowcast.fields import units
from xnowcast.fields.cf import Field
from xnowcast.fields.labels import labels_of
from xnowcast.verbs.forecast import Prepared
from xnowcast.verbs.request import provenance

SAME_NUMBERS = {
    "ds": "its field is known by its axes, units and attributes; the frames themselves are not read beforehand",
    "on_mismatch": "it decides whether there is a forecast at all",
    "device": "devices agree to the tolerance of their floating-point numbers",
    "batch_size": "batches agree to that tolerance, and a smaller one is what helps where memory runs out",
    "out": "where the result lies",
    "engine": "where batches run",
    "workers": "how many run at the same time",
    "retry_unreadable": "which init times are done again",
    "overwrite": "what becomes of what is there",
    "performance_report": "a file beside",
    "progress": "what is shown",
}
"""Arguments that change no number of a run, and why: a run may go on with others."""

TOLD_AS = {
    "model": "model",
    "weights": "weights_sha256",
    "options": "options",
    "lead_time": "lead_time",
    "steps": "lead_time",
    "init_times": "init_times",
    "init_times_per_batch": "init_times_per_batch",
    "members": "members",
    "seed": "seed",
    "variable": "variable",
    "zr": "field",
}
"""Arguments that are noted as what they come to, under the name of an entry: the same in other words is the same."""

TOLD_BY_TABLES = TOLD_AS | {
    "models": "models",
    "baselines": "models",
    "members": "models",
    "seed": "models",
    "variable": "observed",
    "zr": "observed",
    "scores": "sums",
    "thresholds": "thresholds",
    "scales": "scales",
    "regions": "regions",
}
"""The same of tables of scores."""

DESCRIPTIVE = (
    *("long_name", "description", "title", "comment", "history", "source", "institution", "references"),
    *("grid_mapping", "coordinates", "ancillary_variables", "actual_range"),
)
"""Attributes of a variable that no number comes from; where the long name tells the quantity, that is told itself."""

VERSION = "fingerprint"
"""Entry of runs that tell all of this; earlier ones told a part."""


def of_forecast(ready: Prepared, init_times: np.ndarray) -> dict[str, Any]:
    """What makes the forecasts of two runs the same, besides their field: model, seed, grid, init and lead times.

    Returned: of values that JSON knows.
    """
    field = ready.field
    places = [field.array[d].values for d in (field.y, field.x) if d in field.array.coords]
    made = provenance(ready.recipe, ready.options, ready.plan.seed)
    model = {key.removeprefix("nowcast_"): for_json(value) for key, value in made.items() if key != "nowcast_package"}
    return model | {
        **_interval(field),
        "model_in_memory": model_hash(ready.recipe),
        "model_settings": _settings_hash(ready.recipe),
        "variable": field.name,
        "units": str(field.array.attrs.get("units")),
        "grid": [int(field.array.sizes[d]) for d in (field.y, field.x)] + [_hash(places)],
        "members": len(ready.members) if ready.members is not None else None,
        "lead_time": f"{ready.plan.steps} steps of {ready.axis.step / np.timedelta64(60, 's'):g} min",
        "init_times": f"{init_times.size} from {init_times[0]:.16} to {init_times[-1]:.16} ({_hash([init_times])})",
    }


def of_field(field: Field, source: xr.DataArray) -> dict[str, Any]:
    """All that is known of a field but its values: axes, conversion, whatever else it holds, and its attributes.

    ``source``: the user's variable, its packing not decoded.
    """
    known = {f.name: for_json(getattr(field, f.name)) for f in fields(field) if f.name != "array"}
    labels = {str(d): [for_json(label) for label in labels_of(field.array, d)] for d in field.extra}
    attributes = {str(k): for_json(v) for k, v in source.attrs.items() if k not in DESCRIPTIVE}
    return known | {"labels": labels, "attributes": attributes}


def of_call(arguments: Mapping[str, Any], elsewhere: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call that change numbers and are not noted as what they come to.

    ``arguments``: all of them, as ``locals()`` has them when the function begins. ``elsewhere``: such as `TOLD_AS`.
    """
    own = {name: value for name, value in arguments.items() if name not in SAME_NUMBERS and name not in elsewhere}
    return for_json(own) | {VERSION: 2}


def for_json(value: Any) -> Any:
    """A value as JSON knows it: fields and arrays by a hash of their content, classes by their names.

    >>> for_json({"zr": (200, np.float64(1.6)), "every": slice(None, None, "1h"), "static": np.zeros(2)})
    {'zr': [200, 1.6], 'every': ['slice', None, None, '1h'], 'static': ['float64', [2], '374708fff771']}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.datetime64 | np.timedelta64 | timedelta | Path):
        return str(value)
    if isinstance(value, float | np.generic):
        number = value.item() if isinstance(value, np.generic) else value
        return number if not isinstance(number, float) or np.isfinite(number) else repr(number)
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), _hash([value])]
    if isinstance(value, xr.Dataset | xr.DataArray | xr.Variable):
        variables = value.variables if isinstance(value, xr.Dataset) else {"": value}
        return {
            str(n): [list(map(str, v.dims)), for_json(v.values), for_json(dict(v.attrs))] for n, v in variables.items()
        }
    if isinstance(value, slice):
        return ["slice", *map(for_json, (value.start, value.stop, value.step))]
    if isinstance(value, Mapping):
        return {str(k): for_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | range | set | frozenset):
        return [for_json(v) for v in (sorted(value, key=repr) if isinstance(value, set | frozenset) else value)]
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {
            f.name: for_json(getattr(value, f.name)) for f in fields(value) if f.compare
        }
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def completed(path: Path, found: dict[str, Any], wanted: dict[str, Any], conversion: Any = None) -> dict[str, Any]:
    """What is noted of a run; what an earlier version did not note is taken to be as it is wanted now.

    The Z-R relation is not: a part of the result would be made with another one than the rest.

    ``path``: of the result. ``conversion``: what the result itself tells of its units; None where it does not.
    ValueError if nothing tells the Z-R relation.

    >>> wanted = {"seed": 4, "observed": {"conversion": for_json(units.Linear(1.0))}, VERSION: 2}
    >>> completed(Path("scores.nc"), {"seed": 3, "batch_size": 8}, wanted)["seed"]
    3
    """
    found = {name: value for name, value in found.items() if name not in SAME_NUMBERS}
    if VERSION in found:
        return found
    key = "observed" if "observed" in wanted else "field"
    field = wanted[key]
    if field["conversion"]["kind"] == units.ZR.__name__:
        if conversion is None:
            raise ValueError(
                f"{path} was begun by an earlier version, which did not note the Z-R relation: finish it with that "
                "version, choose another name, or start anew with overwrite=True (--overwrite)"
            )
        numbers = {name: value for name, value in for_json(conversion).items() if isinstance(value, int | float)}
        field = field | {"conversion": field["conversion"] | numbers}  # what it declares missing is not kept there
    filled = wanted | found | {key: field}
    if "models" in found:
        of_each = {name: wanted["models"].get(name, {}) | model for name, model in found["models"].items()}
        filled["models"] = of_each
    return filled


def model_hash(model: Any) -> str | None:
    """Hash of the weights of a model in memory; None of a recipe, whose file has a hash of its own."""
    import torch

    if not isinstance(model, torch.nn.Module):
        return None
    return _hash([tensor.detach().cpu().float().numpy() for tensor in model.state_dict().values()])


def _settings_hash(model: Any) -> str | None:
    """Hash of what the parts of a network in memory hold besides tensors, such as the steps of a sampler."""
    import torch

    if not isinstance(model, torch.nn.Module):
        return None
    settings = [
        (name, key, for_json(value))
        for name, part in model.named_modules()
        for key, value in sorted(vars(part).items())
        if not key.startswith("_") and key not in ("training", "card")
    ]
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:12]


def _interval(field: Field) -> dict[str, Any]:
    """Of amounts the minutes that they were collected in, which what is stored has to share."""
    is_amount = field.interval is not None and units.is_amount(field.array.attrs.get("units"))
    return {"interval": field.interval.minutes} if is_amount and field.interval is not None else {}


def _hash(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        if array.dtype == object:
            digest.update(repr(array.tolist()).encode())
        else:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
