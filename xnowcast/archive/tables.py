"""Score tables of an archive: sums by model, block of init times and lead time, that are added up and scored last.

A table is a Dataset of counts and sums with dims ``(model, block, [hour], [region], lead_time, ...)``. A block is a
stretch of init times, a day as a rule: the unit that the bootstrap draws, for forecasts a few minutes apart err alike.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.archive.store import FINGERPRINT, STATUS, differences, in_words
from xnowcast.data import storage
from xnowcast.verify.score import RECORDS, Record
from xnowcast.verify.sums import as_xarray


@dataclass(frozen=True)
class Kind:
    """Sums that archives keep, and one of the records whose scores are taken of them, which says how they are made."""

    record: Record

    @property
    def sums(self) -> tuple[str, ...]:
        """Variables of the sums."""
        return self.record.needs

    @property
    def dtype(self) -> type:
        """Of the sums: counts are whole numbers."""
        return self.record.sums.dtype

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims of the sums besides init and lead time."""
        has = {"threshold": self.record.takes("thresholds"), "scale": self.record.takes("scales")}
        return tuple(dim for dim, there in has.items() if there)

    def take(self, observed: xr.DataArray, forecast: xr.DataArray, options: dict[str, Any]) -> xr.Dataset:
        """Sums of observations and forecasts ``(init_time, [member], lead_time, y, x)``, by the tables' options.

        A single forecast is an ensemble of one where members are taken together: its CRPS is the absolute error.
        """
        record, members = self.record, ["member"] if "member" in forecast.dims else []
        taken = dict(record.options) | {name: value for name, value in options.items() if record.takes(name)}
        if record.members == "mean":
            taken["member_dim"] = "member" if members else None
        if record.members == "together" and not members:
            forecast = forecast.expand_dims("member")
        dim = ["y", "x", *(members if record.members == "each" else [])]
        return as_xarray(record.sums.fields(observed, forecast, dim=dim, **taken))


def kinds() -> dict[str, Kind]:
    """All kinds, by the name that stands before their sums in a table, as in ``events_hits``."""
    return {record.archive: Kind(record) for record in reversed(RECORDS.values()) if record.archive is not None}


def kind_of(score: str) -> str:
    """The kind of sums that a score is taken of.

    ValueError if the score cannot be taken of sums, or there is none of that name.

    >>> kind_of("rmse")
    'errors'
    """
    record = RECORDS.get(score)
    if record is not None and record.archive is not None:
        return record.archive
    known = ", ".join(name for name, record in RECORDS.items() if record.archive is not None)
    raise ValueError(f"there is no score {score!r} that archives can be scored with; there are {known}")


def variable(kind: str, part: str) -> str:
    """Name of a sum in a table."""
    return f"{kind}_{part}"


def sums_of(tables: xr.Dataset, kind: str) -> xr.Dataset:
    """The sums of one kind, under their own names."""
    return xr.Dataset({part: tables[variable(kind, part)] for part in kinds()[kind].sums})


def kinds_in(tables: xr.Dataset) -> list[str]:
    """Kinds of sums that a table has."""
    return [name for name, kind in kinds().items() if variable(name, kind.sums[0]) in tables]


# ---------------------------------------------------------------- scores


def table_scores(
    tables: xr.Dataset | str | Path, *, scores: Iterable[str] | None = None, by: Sequence[str] = ()
) -> xr.Dataset:
    """Scores of a table: sums are added up first, and scored last.

    Parameters
    ----------
    tables : xarray.Dataset or path
        From `xnowcast.score_archive` or `merge_tables`, or where one is kept.
    scores : iterable of str, optional
        All that the table has sums for, by default those that `xnowcast.verify.scorecard` has.
    by : sequence of str
        What is kept apart besides model and lead time: "year", "season", "month" (of the init time), "block", and
        "hour" or "region" where the table has them. Regions are always kept apart, for they may overlap.

    Returns
    -------
    xarray.Dataset
        Dims ``(model, *by, [region], lead_time)``, and ``threshold`` and ``scale`` for scores of events; float64, NaN
        where there is nothing to take a score of. ``n_init_times`` counts the init times that were scored.

    Raises
    ------
    ValueError
        If it is no such table, or it has no sums for a score, or no dim that is asked for.

    Examples
    --------
    >>> import xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=12, shape=(32, 32), seed=1)
    >>> tables = xnowcast.score_archive(radar, lead_time="10min", thresholds=[0.5], scales=[1], progress=False)
    >>> table_scores(tables, scores=["csi", "rmse"])["csi"].dims
    ('model', 'lead_time', 'threshold', 'scale')
    """
    check.call(table_scores, locals())
    tables = opened(tables)
    wanted = _wanted(tables, scores)
    summed = _summed(tables, by)
    result = xr.Dataset(attrs=tables.attrs)
    for name in wanted:
        score = RECORDS[name].formula(sums_of(summed, kind_of(name)))
        units = RECORDS[name].units or tables.attrs.get("units", "mm h-1")
        result[name] = score.assign_attrs(long_name=RECORDS[name].long_name, units=units)
    result["n_init_times"] = summed["n_init_times"]
    order = ("model", *by, "region", "lead_time", "threshold", "scale")
    return result.transpose(*dict.fromkeys(order), missing_dims="ignore")


def opened(tables: xr.Dataset | str | Path) -> xr.Dataset:
    """A table, read from its file where a path is given.

    ValueError if it is no table of `xnowcast.score_archive`.
    """
    what = str(tables) if isinstance(tables, str | Path) else f"a {type(tables).__name__}"
    if isinstance(tables, str | Path):
        with storage.open_input(what) as found:
            tables = found.load()
    if not isinstance(tables, xr.Dataset) or not {"block", "n_init_times"} <= {*tables.variables}:
        raise ValueError(f"{what} is no table of scores: give what xnowcast.score_archive returns or has written")
    return tables


def _wanted(tables: xr.Dataset, scores: Iterable[str] | None) -> list[str]:
    present = kinds_in(tables)
    if scores is None:
        return [n for n, s in RECORDS.items() if s.by_default and kind_of(n) in present]
    wanted = [scores] if isinstance(scores, str) else list(scores)
    for name in wanted:
        if kind_of(name) not in present:
            raise ValueError(f"the table has no sums for {name!r}; it was made with scores of {', '.join(present)}")
    return wanted


def _summed(tables: xr.Dataset, by: Sequence[str]) -> xr.Dataset:
    """Added up over all that is not kept."""
    known = ("year", "season", "month", "block", *(d for d in ("hour", "region") if d in tables.dims))
    for name in by:
        if name not in known:
            raise ValueError(f"by={name!r} is nothing that the table can be kept by; there are {', '.join(known)}")
    sums = tables[[n for n, v in tables.data_vars.items() if "block" in v.dims]]
    times = [name for name in by if name in ("year", "season", "month")]
    if len(times) > 1 or (times and "block" in by):
        raise ValueError(f"by={tuple(by)}: choose one of year, season, month and block")
    if "hour" in sums.dims and "hour" not in by:
        sums = sums.sum("hour")
    if times:
        return sums.groupby(getattr(sums["block"].dt, times[0]).rename(times[0])).sum("block")
    return sums if "block" in by else sums.sum("block")


# ---------------------------------------------------------------- adding up


def merge_tables(tables: Sequence[xr.Dataset | str | Path]) -> xr.Dataset:
    """Tables of different init times, of months or machines, as one.

    Parameters
    ----------
    tables : sequence of xarray.Dataset or path
        From `xnowcast.score_archive`, with the same models and settings.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    ValueError
        If there is none, their settings differ, or an init time is in more than one.
    """
    if isinstance(tables, str | Path | xr.Dataset):
        raise ValueError("tables is one table: give a list of those to merge")
    parts = [opened(table) for table in tables]
    if not parts:
        raise ValueError("there is no table to merge")
    first = parts[0]
    for other in parts[1:]:
        _check_alike(first, other)
    times = np.concatenate([table["init_time"].values for table in parts])
    values, counts = np.unique(times, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"init time {values[counts > 1][0]:.16} is in more than one table: it would count twice")
    blocks = np.unique(np.concatenate([table["block"].values for table in parts]))
    summed = [n for n, v in first.data_vars.items() if "block" in v.dims]
    alike = [table[summed].reindex(block=blocks, fill_value=0) for table in parts]
    total = sum(alike[1:], alike[0])
    status = xr.concat([table[STATUS] for table in parts], "init_time").sortby("init_time")
    merged = total.assign({STATUS: status})
    merged = merged.assign({n: v for n, v in first.data_vars.items() if n not in merged})
    for name in merged.variables:
        merged[name].attrs = dict(first[name].attrs)
    return merged.assign_attrs(first.attrs)


def _check_alike(one: xr.Dataset, other: xr.Dataset) -> None:
    ours, theirs = (json.loads(table.attrs.get(FINGERPRINT, "{}")) | {"init_times": None} for table in (one, other))
    if changed := differences(ours, theirs):
        name, first, second = changed[0]
        raise ValueError(f"the tables differ in {name}: {in_words(first)} and {in_words(second)}")


# ---------------------------------------------------------------- confidence


def bootstrap_scores(
    tables: xr.Dataset | str | Path,
    *,
    scores: Iterable[str] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    versus: str | None = None,
) -> xr.Dataset:
    """Scores with confidence intervals, by drawing blocks of init times with replacement.

    All models are scored on the same draws, so that the interval of a difference is narrower than those of its parts
    where the models meet the same weather.

    Parameters
    ----------
    tables : xarray.Dataset or path
        From `xnowcast.score_archive`, whose argument ``block`` says how long the blocks are that are drawn: a day by
        default. Blocks that are longer than the weather lasts, such as ``block="5D"``, give wider and safer intervals.
    scores : iterable of str, optional
        As for `table_scores`.
    samples : int
        Number of draws.
    level : float
        Of the interval, between 0 and 1: 0.95 is from the 2.5th to the 97.5th percentile of the draws.
    seed : int
        The same draws come again.
    versus : str, optional
        A model: the differences of all models' scores from its own are given instead, draw by draw.

    Returns
    -------
    xarray.Dataset
        For each score NAME the variables ``NAME``, ``NAME_lower`` and ``NAME_upper``, with the dims of `table_scores`.
        An interval is NaN where the score is, or fewer than two blocks were scored.

    Raises
    ------
    ValueError
        If an argument is out of its range, it is no such table, or there is no such model or score.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 8 and 13; Hamill (1999),
    doi:10.1175/1520-0434(1999)014<0155:HTFENP>2.0.CO;2, on drawing blocks, and the same for two forecasts.
    """
    check.call(bootstrap_scores, locals())
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; it must be between 0 and 1")
    check.whole("samples", samples, 2)
    tables = opened(tables)
    models = tables["model"].values.tolist()
    if versus is not None and versus not in models:
        raise ValueError(f"versus is {versus!r}; the table has the models {', '.join(map(repr, models))}")
    wanted = _wanted(tables, scores)
    point = table_scores(tables, scores=wanted)
    drawn = _draws(tables, wanted, samples, seed)
    result = xr.Dataset(attrs=point.attrs | {"confidence": level, "bootstrap_samples": samples})
    for name in wanted:
        value, draws, attrs = point[name], drawn[name], dict(point[name].attrs)
        if versus is not None:
            value, draws = (array - array.sel(model=versus, drop=True) for array in (value, draws))
            attrs["long_name"] += f", difference from {versus}"
        result[name] = value.assign_attrs(attrs)
        for end, percentile in (("lower", 50 * (1 - level)), ("upper", 50 * (1 + level))):
            edge = _percentile(draws.transpose("sample", *value.dims).values, percentile)
            result[f"{name}_{end}"] = value.copy(data=edge).where(_scored_blocks(tables) > 1).assign_attrs(attrs)
    return result


def _scored_blocks(tables: xr.Dataset) -> int:
    counts = tables["n_init_times"]
    return int((counts.sum([d for d in counts.dims if d != "block"]) > 0).sum())


def _draws(tables: xr.Dataset, wanted: Sequence[str], samples: int, seed: int) -> xr.Dataset:
    """Scores of each draw, along a dim ``sample``: how often a block was drawn is its weight."""
    sums = _summed(tables, ["block"])
    blocks = sums.sizes["block"]
    rng = np.random.default_rng(seed)
    counts = np.stack([np.bincount(rng.integers(0, blocks, blocks), minlength=blocks) for _ in range(samples)])
    weights = xr.DataArray(counts.astype(np.float64), dims=("sample", "block"))
    of_kind = {
        kind: sums_of(sums, kind).map(lambda part: xr.dot(weights, part.astype(np.float64), dim="block"))
        for kind in dict.fromkeys(map(kind_of, wanted))
    }
    return xr.Dataset({name: RECORDS[name].formula(of_kind[kind_of(name)]) for name in wanted})


def _percentile(draws: np.ndarray, percentile: float) -> np.ndarray:
    """Along the first axis, over the draws that have a score at all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanpercentile(draws, percentile, axis=0)
