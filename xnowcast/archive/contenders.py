"""What is scored over an archive: models that forecast, and forecasts that are in stores already."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xnowcast.archive import store
from xnowcast.fields import cf
from xnowcast.verbs.forecast import ForecastRequest, Prepared, prepare
from xnowcast.verbs.request import model_name

if TYPE_CHECKING:
    from xnowcast.fields.cf import Field

BASELINES = ("persistence", "extrapolation")


@dataclass(frozen=True)
class Stored:
    """Forecasts that are in a store already."""

    path: str
    name: str  # of the variable
    init_times: np.ndarray
    conversion: Any
    steps: int  # lead times that are scored

    def read(self, init_times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(init_time, [member], lead_time, y, x)`` in mm h-1, NaN for init times that the store has not; and what
        became of each.
        """
        with xr.open_zarr(self.path, chunks=None) as opened:
            stored = np.isin(init_times, self.init_times)
            some = opened.isel(init_time=as_slice(np.searchsorted(self.init_times, init_times[stored])))
            found = some[self.name].isel(lead_time=slice(self.steps)).values
            status = np.full(len(init_times), store.GAP, np.int8)
            status[stored] = some[store.STATUS].values
        values = np.full((len(init_times), *found.shape[1:]), np.nan, np.float32)
        values[stored] = self.conversion(found)
        return values, status


def as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Neighbours are read at once, which Zarr does several times faster than one by one."""
    if positions.size and positions[-1] - positions[0] == positions.size - 1:
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


Contender = Prepared | Stored

OF_ONE_MODEL = ("model", "weights", "members", "seed", "batch_size", "device")
"""Arguments of a forecast that each of the models may have for itself; what else is given for one is an option."""


def contenders(
    request: ForecastRequest, models: Any, baselines: Sequence[str]
) -> tuple[dict[str, Contender], Prepared]:
    """Every model by its name, and one that tells the field and the steps that all have in common."""
    named = named_models(models)
    more = [baselines] if isinstance(baselines, str) else list(baselines) if isinstance(baselines, Iterable) else [None]
    if not all(isinstance(name, str) for name in more):
        raise ValueError(f"baselines is {baselines!r}; it must be names of models, such as {BASELINES}")
    named |= {name: name for name in more if name not in named}
    if not named:
        raise ValueError("there is no model to score: name some, or baselines")
    in_stores = {name: given for name, given in named.items() if str(given).endswith(".zarr")}
    ready = {name: prepared(request, given) for name, given in named.items() if name not in in_stores}
    reference = next(iter(ready.values())) if ready else prepared(replace(request, members=None), "persistence")
    if reference.field.extra:
        raise ValueError(
            f"variable {reference.field.name!r} has the dims {reference.field.extra} besides time, y and x: choose one "
            "of their labels with .isel"
        )
    return {
        name: ready[name] if name in ready else stored_forecasts(named[name], reference) for name in named
    }, reference


def named_models(models: Any) -> dict[str, Any]:
    if isinstance(models, Mapping) and "model" not in models:
        return {str(name): given for name, given in models.items()}
    one = isinstance(models, str | Path | Mapping) or hasattr(models, "task")
    if not one and not isinstance(models, Iterable):
        raise ValueError(
            f"models is {models!r}; it can be the name of a model, weights, a model, a store of a hindcast, several of "
            "these, or a mapping from names of your choice"
        )
    given = [models] if one else list(models)
    names = [name_of(model) for model in given]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two models are called {twice[0]!r}: give a mapping from names of your choice")
    return dict(zip(names, given, strict=True))


def name_of(model: Any) -> str:
    if isinstance(model, Mapping):
        return name_of(model.get("weights") or model["model"])
    return Path(model).stem if isinstance(model, str | Path) else model_name(model)


def prepared(request: ForecastRequest, given: Any) -> Prepared:
    """The forecast of one model, which is ``given`` or a mapping that may have arguments and options of its own."""
    options = dict(given) if isinstance(given, Mapping) else {"model": given}
    own = {name: options.pop(name) for name in OF_ONE_MODEL if name in options}
    ready = prepare(replace(request, **({"members": None} | own), options=options))
    if ready.members is None or "members" in own or request.members is None:
        return ready
    return replace(ready, members=range(request.members))


def stored_forecasts(path: Any, reference: Prepared) -> Stored:
    opened = store.open_archive(path)
    field = cf.find_field(opened)
    array = opened[field.name]
    _refuse_other_interval(path, field, reference)
    leads = np.arange(1, reference.plan.steps + 1) * reference.axis.step
    known = array["lead_time"].values
    if not np.array_equal(known[: leads.size], leads):
        minutes = [f"{leads_of[-1] / np.timedelta64(60, 's'):g} min" for leads_of in (known, leads)]
        raise ValueError(
            f"{path} has {known.size} lead times up to {minutes[0]}; {leads.size} up to {minutes[1]} are to be scored"
        )
    for dim in (reference.field.y, reference.field.x):
        ours = reference.field.array
        if dim not in array.dims or not np.array_equal(array.indexes.get(dim, []), ours.indexes.get(dim, [])):
            raise ValueError(f"the forecasts of {path} have another {dim!r} than the observations")
    return Stored(str(Path(path).absolute()), field.name, array["init_time"].values, field.conversion, leads.size)


def _refuse_other_interval(path: Any, forecast: "Field", reference: Prepared) -> None:
    """Forecasts of sums over another time than the observations; rates of moments are those of their step."""
    step = reference.axis.step.astype("m8[ns]")
    lengths = [step if f.interval is None else f.interval.length for f in (forecast, reference.field)]
    if lengths[0] != lengths[1]:
        theirs, ours = (f"{length / np.timedelta64(60, 's'):g} min" for length in lengths)
        raise ValueError(
            f"the forecasts of {path} are of {theirs} each, and the observations of {ours}: score them with "
            "xnowcast.verify.scorecard, which averages the shorter ones where they make up the longer"
        )
