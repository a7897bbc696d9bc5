"""Scores of a forecast: sums for each start, added up over the starts of an event, and divided last.

Cells that are not scored are NaN in the observations. Of an ensemble each member is a forecast of its own in counts,
fractions, areas and power, and the mean of the members is another, whose scores end in "of mean".
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from xnowcast import verify

from .events import WET, spacing_km

CSI = (0.5, 2.0, 5.0, 10.0)  # mm/h
SQUARES = (1, 4, 16)  # km, sides of those whose largest rain, or whose mean, is compared; 1 stands for the cells
FSS, WINDOW = (2.0, 5.0), 17  # mm/h, km
EVENTS = (1.0, 5.0)  # mm/h, of areas and of probabilities
BANDS = ((2, 4), (4, 8), (8, 16), (16, 32), (32, 64))  # km


def cells_in(km: float, rain: xr.DataArray) -> int:
    """Side of a square in cells."""
    return max(1, round(km / spacing_km(rain))) if km > 1 else 1


def within(km: int) -> str:
    """How the name of a score goes on in squares of so many km."""
    return f" in {km} km" if km > 1 else ""


# ---------------------------------------------------------------- sums


def sums_of(forecast: xr.DataArray, observed: xr.DataArray, extrapolated: xr.DataArray) -> dict[str, Any]:
    """Of one lead time of one start: ``forecast`` ``([member], y, x)``, the others ``(y, x)``, all in mm/h."""
    scored = observed.notnull()
    forecast = forecast.where(scored).assign_attrs(observed.attrs)
    sums = {"scored": int(scored.sum()), "cells": observed.size, "observed": float(observed.sum())}
    sums |= {"extrapolated": float(extrapolated.where(scored).sum())}
    sums |= _of_forecasts(forecast, observed)
    if "member" in forecast.dims:
        mean = forecast.mean("member", keep_attrs=True)
        sums |= {f"{name} of mean": each for name, each in _of_forecasts(mean, observed, power=False).items()}
        sums |= _of_ensemble(forecast, observed)
    return sums


def _of_forecasts(forecast: xr.DataArray, observed: xr.DataArray, power: bool = True) -> dict[str, Any]:
    """What single forecasts have, and members."""
    scales = sorted({cells_in(km, observed) for km in SQUARES})
    window = cells_in(WINDOW, observed) // 2 * 2 + 1
    sums = {
        "counts": verify.contingency_table(observed, forecast, thresholds=sorted({*CSI, *EVENTS}), scales=scales),
        "fractions": verify.fss_sums(observed, forecast, thresholds=FSS, scales=window),
        "rain": float(forecast.sum()) / forecast.sizes.get("member", 1),
    }
    for km in SQUARES:
        sums[f"error{within(km)}"] = verify.error_sums(*means_in(km, observed, forecast))
    if power and bands_of(observed):
        sums["power"] = verify.spectrum_sums(observed, forecast, window="hann")
    return sums


def _of_ensemble(forecast: xr.DataArray, observed: xr.DataArray) -> dict[str, Any]:
    """What members have together."""
    sums = {
        "spread": verify.spread_skill_sums(observed, forecast),
        "ranks": verify.rank_histogram(observed, forecast, min_value=WET),
        "chances": verify.probability_table(observed, forecast, thresholds=EVENTS),
    }
    for km in SQUARES:
        pair = means_in(km, observed, forecast)
        sums |= {f"{fair}CRPS{within(km)}": verify.crps_sums(*pair, fair=bool(fair)) for fair in ("", "fair ")}
    return sums


def means_in(km: int, observed: xr.DataArray, forecast: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Both as means over squares; NaN where less than half of one is scored."""
    cells = cells_in(km, observed)
    if cells == 1:
        return observed, forecast
    parts = in_squares(observed.notnull().values, cells).mean((-3, -1))
    sums = (np.nansum(in_squares(each.values, cells), axis=(-3, -1)) for each in (observed, forecast))
    means = (np.where(parts >= 0.5, total / np.maximum(parts, 0.5) / cells**2, np.nan) for total in sums)
    of_observed, of_forecast = (
        xr.DataArray(mean, dims=each.dims) for mean, each in zip(means, (observed, forecast), strict=True)
    )
    return of_observed, of_forecast


def in_squares(values: np.ndarray, cells: int) -> np.ndarray:
    """``(..., y, x)`` to ``(..., y / cells, cells, x / cells, cells)``, without what is over."""
    ny, nx = (n // cells for n in values.shape[-2:])
    return values[..., : ny * cells, : nx * cells].reshape(*values.shape[:-2], ny, cells, nx, cells)


def bands_of(rain: xr.DataArray) -> list[tuple[int, int]]:
    """Those wavelengths, from two cells on, that the grid tells apart."""
    shortest, longest = 2 * spacing_km(rain) * (1 - 1e-6), min(rain.shape) * spacing_km(rain)
    return [band for band in BANDS if band[0] >= shortest and band[1] <= longest]


def added(many: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Sums of several starts."""
    first, *others = many
    for other in others:
        first = {name: first[name] + other[name] for name in first}
    return first


# ---------------------------------------------------------------- scores


def scores_of(sums: dict[str, Any], rain: xr.DataArray) -> dict[str, float]:
    """All scores by name; ``rain`` tells the grid."""
    scores = _events(sums, "", rain) | _amounts(sums) | _powers(sums, rain)
    if "ranks" in sums:
        scores |= _events(sums, " of mean", rain) | _calibration(sums)
    return scores | {"part of the grid": sums["scored"] / sums["cells"]}


def _events(sums: dict[str, Any], whose: str, rain: xr.DataArray) -> dict[str, float]:
    csi, fss = verify.csi(sums[f"counts{whose}"]), verify.fss(sums[f"fractions{whose}"])
    area = verify.frequency_bias(sums[f"counts{whose}"])
    scores = {}
    for km in SQUARES:
        at = csi.sel(scale=cells_in(km, rain))
        scores |= {f"CSI {r:g}{within(km)}{whose}": float(at.sel(threshold=r)) for r in CSI}
    scores |= {f"FSS {r:g}{whose}": float(fss.sel(threshold=r)) for r in FSS}
    return scores | {f"area {r:g}{whose}": float(area.sel(threshold=r, scale=1)) for r in EVENTS}


def _amounts(sums: dict[str, Any]) -> dict[str, float]:
    scores = {"rain": sums["rain"] / sums["observed"], "rain over extrapolation": sums["rain"] / sums["extrapolated"]}
    scores["MAE"] = float(verify.mae(sums["error"]))
    if "error of mean" in sums:
        scores["MAE of mean"] = float(verify.mae(sums["error of mean"]))
    for km in SQUARES:
        for fair in ("", "fair "):
            name = f"{fair}CRPS{within(km)}"
            if name in sums:
                scores[name] = float(verify.crps_ensemble(sums[name]))
            elif not fair:  # that of a single forecast is its absolute error
                scores[name] = float(verify.mae(sums[f"error{within(km)}"]))
    return scores


def _calibration(sums: dict[str, Any]) -> dict[str, float]:
    """Whether what was observed could be a member: 1, 1, 1 and 0 if so; skill is over the frequency in the event."""
    shares = sums["ranks"].values / sums["ranks"].values.sum() * sums["ranks"].size
    parts = verify.brier_decomposition(sums["chances"])
    scores = {"spread over error": float(verify.spread_skill(sums["spread"]).spread_skill_ratio)}
    scores |= {"outer ranks": (shares[0] + shares[-1]) / 2, "lowest rank": shares[0], "highest rank": shares[-1]}
    for r in EVENTS:
        reliability, resolution, uncertainty = (
            float(parts[name].sel(threshold=r)) for name in ("reliability", "resolution", "uncertainty")
        )
        scores[f"unreliability {r:g}"] = reliability / uncertainty if uncertainty else np.nan
        scores[f"Brier skill {r:g}"] = (resolution - reliability) / uncertainty if uncertainty else np.nan
    return scores


def _powers(sums: dict[str, Any], rain: xr.DataArray) -> dict[str, float]:
    if "power" not in sums:
        return {}
    bands = bands_of(rain)
    ratios = verify.spectral_ratio(sums["power"], bands=bands).values.tolist()
    return {f"power {low}-{high}": ratio for (low, high), ratio in zip(bands, ratios, strict=True)}


def curves_of(sums: dict[str, Any]) -> dict[str, Any]:
    """Counts behind the rank histogram and the reliability diagrams, as plain lists."""
    if "ranks" not in sums:
        return {}
    chances = {
        f"{r:g}": {name: sums["chances"][name].sel(threshold=r).values.tolist() for name in ("events", "non_events")}
        for r in EVENTS
    }
    return {"ranks": sums["ranks"].values.tolist(), "chances": chances}
