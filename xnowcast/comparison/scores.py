"""Scores of all systems on the same cells: those that archives keep sums for, and beside them what maps alone tell."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xnowcast import verify
from xnowcast.archive import open_archive, score_archive, store, table_scores
from xnowcast.comparison.entrants import Entrant, shared_arguments
from xnowcast.comparison.events import TestEvent
from xnowcast.comparison.protocol import Protocol, folder_of
from xnowcast.data import storage
from xnowcast.drafts import draft
from xnowcast.fields import cf, horizontal
from xnowcast.fields.units import MARSHALL_PALMER, rain_rate_to_dbz
from xnowcast.verify.spectra import band_power

SCORES = ("csi", "hss", "mae", "crps")
"""Of `score_archive`; a single forecast's CRPS is its absolute error."""

HIGHEST = {"rain_rate": 60.0, "vil": 79.2}
"""Of the pixels that structural similarity is taken of: reflectivity from 0 dBZ on, or liquid in kg m-2 (SEVIR's)."""

Forecasts = Mapping[str, Path]
"""Stores of an event's forecasts, by the name of the row."""


def archive_sums(
    event: TestEvent, stores: Forecasts, starts: np.ndarray, protocol: Protocol, out: Path, engine: Mapping[str, Any]
) -> xr.Dataset:
    """The sums of events, errors and CRPS, from `score_archive`, kept in the folder ``out``.

    What is there is taken where it is of the same forecasts; they lie in stores, so that adding them up again is quick.
    """
    path = out / f"{folder_of(event.name)}.nc"
    identity = _identity(stores, starts, protocol)
    if _noted(path) != identity:
        path.unlink(missing_ok=True)
        _note(path, identity)
    return score_archive(
        event.data,
        {name: str(stored) for name, stored in stores.items()},
        out=path,
        init_times=list(starts),
        baselines=(),
        scores=SCORES,
        thresholds=list(protocol.thresholds),
        scales=list(protocol.scales),
        **shared_arguments(protocol),
        **engine,
    ).sel(model=list(stores))


def map_sums(
    event: TestEvent, stores: Forecasts, starts: np.ndarray, protocol: Protocol, bands: Sequence[Any], out: Path
) -> xr.Dataset:
    """The sums of structural similarity and of power in bands, kept in the folder ``out`` as `archive_sums` are.

    Dims ``(model, lead_time, [band])``; each member is a forecast of its own. Cells count that were measured and of
    which every system says something; windows of structural similarity with other cells are left out, and in spectra
    other cells are dry in both fields.
    """
    path = out / f"{folder_of(event.name)}_maps.nc"
    identity = _identity(stores, starts, protocol)
    if path.is_file() and _noted(path) == identity:
        with storage.open_input(str(path)) as opened:
            return opened.load().sel(model=list(stores))
    rain = event.rain
    total: xr.Dataset | None = None
    for start in starts:
        of_start = _of_start(start, rain, stores, HIGHEST[event.field.quantity], bands)
        total = of_start if total is None else total + of_start
    assert total is not None
    storage.write(total, path, overwrite=True)
    _note(path, identity)
    return total


def _of_start(
    start: np.datetime64, rain: xr.DataArray, stores: Forecasts, highest: float, bands: Sequence[Any]
) -> xr.Dataset:
    forecasts = {}
    for name, path in stores.items():
        field = cf.find_field(open_archive(path))
        forecasts[name] = cf.converted(field).sel(init_time=[start]).load()
    first = next(iter(forecasts.values()))
    observed = verify.align_observations(rain, first).load()
    for forecast in forecasts.values():
        known = forecast.notnull()
        observed = observed.where(known.all("member") if "member" in known.dims else known)
    each = [_sums_of(observed, forecast.where(observed.notnull()), highest, bands) for forecast in forecasts.values()]
    return xr.concat(each, xr.DataArray(np.array(list(forecasts), object), dims="model", name="model"))


def _sums_of(observed: xr.DataArray, forecast: xr.DataArray, highest: float, bands: Sequence[Any]) -> xr.Dataset:
    """Of one forecast ``(init_time, [member], lead_time, y, x)``, by lead time."""
    dim = [name for name in ("init_time", "member") if name in forecast.dims]
    pixels = [_as_pixels(rain, highest) for rain in (observed, forecast)]
    images = verify.image_sums(*pixels, data_range=highest, scores=["ssim"], dim=dim)
    sums: dict[str, Any] = {name: ("lead_time", images[name].values) for name in ("ssim", "ssim_fields")}
    if bands:
        power = band_power(verify.spectrum_sums(observed, forecast, dim=dim), bands).transpose("lead_time", "band")
        sums |= {f"power_{name}": (("lead_time", "band"), power[name].values) for name in ("forecast", "observed")}
    labels = {"band": [band_in_words(band) for band in bands]} if bands else {}
    made = xr.Dataset(sums, coords={"lead_time": forecast["lead_time"].values} | labels)
    made["lead_time"].encoding = {"units": "minutes", "dtype": "int64"}
    return made


def _as_pixels(rain: xr.DataArray, highest: float) -> xr.DataArray:
    values = rain_rate_to_dbz(rain.values, *MARSHALL_PALMER) if highest == HIGHEST["rain_rate"] else rain.values
    return rain.copy(data=np.clip(values, 0.0, highest))


def band_in_words(band: tuple[float, float]) -> str:
    """Such as "4-8 km"."""
    return f"{band[0]:g}-{band[1]:g} km"


def bands_of(events: Sequence[TestEvent], bands: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that every event's grid has waves of; none where one does not tell its spacing."""
    shortest, longest = 0.0, np.inf
    for event in events:
        array, places = event.field.array, (event.field.y, event.field.x)
        spacing = horizontal.grid_spacing(array, *places)
        if spacing is None:
            return []
        shortest = max(shortest, 2 * max(spacing))
        longest = min(longest, *(array.sizes[dim] * km for dim, km in zip(places, spacing, strict=True)))
    return [band for band in bands if band[0] >= shortest * (1 - 1e-3) and band[1] <= longest]


# ---------------------------------------------------------------- what is kept


def _identity(stores: Forecasts, starts: np.ndarray, protocol: Protocol) -> dict[str, Any]:
    """What sums are of: the forecasts by what made them, the starts, and all that is the same for the systems."""
    made = {name: store.read_fingerprint(path) for name, path in stores.items()}
    return json.loads(
        json.dumps({"forecasts": made, "starts": [str(start) for start in starts], "protocol": protocol.noted()})
    )


def _note(path: Path, identity: dict[str, Any]) -> None:
    """Write beside sums what they are of."""
    with draft(path.with_suffix(".json")) as new:
        new.write_text(json.dumps(identity))


def _noted(path: Path) -> Any:
    """What sums are of; None where nothing tells."""
    beside = path.with_suffix(".json")
    return json.loads(beside.read_text()) if beside.is_file() else None


# ---------------------------------------------------------------- the scorecard


def scorecard(
    tables: Mapping[str, xr.Dataset], maps: Mapping[str, xr.Dataset], entrants: Sequence[Entrant]
) -> xr.Dataset:
    """All scores ``(model, event, lead_time, ...)`` with what each system cost.

    The last event is ``"all"``, of sums over all of them; the last variables, ``*_of_all``, are of sums over lead times
    too, and of events at thresholds their mean over these.
    """
    events = [*tables, "all"]
    sums = [_blocks(table) for table in tables.values()]
    archived = [*sums, xr.concat(sums, "block", combine_attrs="override")]
    textured = [*maps.values(), sum(list(maps.values())[1:], next(iter(maps.values())))]
    each = [_scores(a, t) for a, t in zip(archived, textured, strict=True)]
    whole = [
        _scores(a.sum("lead_time", keep_attrs=True), t.sum("lead_time"))
        for a, t in zip(archived, textured, strict=True)
    ]
    along = xr.DataArray(np.array(events, object), dims="event", name="event")
    card = xr.concat(each, along, combine_attrs="drop_conflicts")
    pooled = xr.concat(whole, along, combine_attrs="drop_conflicts")
    pooled = pooled.map(lambda score: score.mean("threshold") if "threshold" in score.dims else score)
    card = card.merge(pooled.rename({name: f"{name}_of_all" for name in pooled.data_vars}))
    rows = [entrant.costs | {"members": entrant.members or 1} for entrant in entrants]
    for name, units in COSTS.items():
        values = np.array([row.get(name, np.nan) for row in rows], float)
        card[name] = ("model", values, {"units": units, "long_name": name.replace("_", " ")})
    card = card.assign_coords(system=("model", np.array([one.system.name for one in entrants], object)))
    card = card.assign_coords(seed=("model", [one.seed for one in entrants]))
    card.attrs = {"title": "systems side by side", "cells": "those measured that every system has a forecast for"}
    return card


COSTS = {
    "members": "1",
    "forecast_cpu_seconds": "s",
    "training_cpu_seconds": "s",
    "steps": "1",
    "parameters": "1",
}
"""What stands beside the scores; NaN where there is none."""


def _blocks(table: xr.Dataset) -> xr.Dataset:
    """What is added up over blocks of init times."""
    return table[[name for name, sums in table.data_vars.items() if "block" in sums.dims]]


def _scores(table: xr.Dataset, maps: xr.Dataset) -> xr.Dataset:
    found = table_scores(table, scores=list(SCORES)).assign_attrs({})
    found["ssim"] = (maps["ssim"] / maps["ssim_fields"]).assign_attrs(long_name="structural similarity", units="1")
    if "power_forecast" in maps:
        power = maps["power_forecast"] / maps["power_observed"]
        found["power"] = power.assign_attrs(long_name="power of forecasts over that observed", units="1")
    return found
