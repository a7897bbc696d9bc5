"""The verb `score_archive`: models side by side over an archive, as sums by block of init times."""

import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from xnowcast import check, drafts
from xnowcast.archive import store
from xnowcast.archive.contenders import BASELINES, Contender, Stored, contenders
from xnowcast.archive.run import fingerprint
from xnowcast.archive.run.job import (
    Batch,
    Job,
    Ledger,
    Outcome,
    Plan,
    Step,
    begin,
    check_run,
    choose,
    init_times_at_once,
    without_data,
)
from xnowcast.archive.run.logs import log
from xnowcast.check import plain
from xnowcast.data import storage
from xnowcast.fields import cf, windows
from xnowcast.fields.labels import labels_of, user_orientation
from xnowcast.fields.units import Relation
from xnowcast.verbs.forecast import ForecastRequest, Prepared, forecast
from xnowcast.verbs.request import OnMismatch

if TYPE_CHECKING:
    from xnowcast.archive import tables

STEP_BYTES = 128 * 2**20
"""Forecasts of all models that a worker holds at once, unless those of one init time are more."""


def score_archive(
    ds: xr.Dataset | xr.DataArray,
    models: Any = (),
    *,
    out: str | Path | None = None,
    init_times: windows.InitTimes = "all",
    lead_time: str | timedelta | np.timedelta64 | None = None,
    steps: int | None = None,
    members: int | None = None,
    seed: int = 0,
    baselines: Sequence[str] = BASELINES,
    scores: Iterable[str] | None = None,
    thresholds: Any = (0.5, 2.0, 5.0, 10.0),
    scales: Any = (1, 4, 16),
    regions: xr.DataArray | None = None,
    block: str = "1D",
    hours: int | None = None,
    same_cells: bool = True,
    variable: Hashable | None = None,
    zr: Relation | None = None,
    on_gap: windows.OnGap = "skip",
    min_coverage: float = 0.0,
    on_mismatch: OnMismatch = "raise",
    device: str = "auto",
    batch_size: int | None = None,
    engine: Any = "threads",
    workers: int | None = None,
    overwrite: bool = False,
    performance_report: str | Path | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Score models side by side over an archive, without keeping their forecasts.

    Every model forecasts from the same init times, and counts and sums of its scores are added up by block of init
    times. `xnowcast.archive.table_scores` takes the scores of them, by month or hour too, `bootstrap_scores` adds
    confidence intervals, and `merge_tables` joins the tables of several machines.

    Parameters
    ----------
    ds, lead_time, steps, seed, variable, zr, on_mismatch, device, batch_size
        As for `xnowcast.forecast`. ``ds`` is also what is observed.
    models : str, model, sequence of these, or mapping
        Names of systems, paths of weights files, models in memory, or stores of `xnowcast.hindcast` (``.zarr``). A
        mapping gives them names, and may hold ``{"model": ..., "weights": ..., "members": ..., option: ...}``.
    out : str or pathlib.Path, optional
        Where to keep the table (``.nc`` or ``.zarr``), about once a minute; the same call goes on with it.
    init_times, on_gap, min_coverage, engine, workers, overwrite, performance_report, progress
        As for `xnowcast.hindcast`.
    members : int, optional
        Of the models that have members.
    baselines : sequence of str
        Models that are scored beside the others.
    scores : iterable of str, optional
        As for `xnowcast.verify.scorecard`, of those that sums can be kept for. Single forecasts have a CRPS too, which
        is their mean absolute error.
    thresholds, scales
        As for `xnowcast.verify.scorecard`.
    regions : xarray.DataArray of bool, optional
        ``(region, y, x)`` with labels along ``region``: each is scored by itself.
    block : str
        Length of the blocks that the bootstrap draws: some days ("1D"; cut at the ends of months), or a length that
        divides a day ("6h").
    hours : int, optional
        Keep hours of the day apart, so many together: 1, 2, 3, 4, 6, 8 or 12.
    same_cells : bool
        Score all models on the cells that all of them have a forecast for; False scores each on its own.

    Returns
    -------
    xarray.Dataset
        Counts and sums with dims ``(model, block, [hour], [region], lead_time, [threshold, scale])``,
        ``n_init_times`` (model, block, [hour]), and ``init_status`` (init_time, model).

    Raises
    ------
    ValueError
        As `xnowcast.forecast` and `xnowcast.verify.scorecard`; if a model has no name of its own, the table was begun
        otherwise, or another run is writing it.
    xnowcast.archive.IncompleteRun, KeyboardInterrupt
        As `xnowcast.hindcast`.

    Examples
    --------
    >>> import xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=18, shape=(32, 32), seed=1)
    >>> tables = score_archive(radar, lead_time="15min", thresholds=[0.5], scales=[1, 4], progress=False)
    >>> csi = xnowcast.archive.table_scores(tables)["csi"]
    >>> csi.dims, csi.model.values.tolist()
    (('model', 'lead_time', 'threshold', 'scale'), ['persistence', 'extrapolation'])
    """
    asked = dict(locals())
    check_run(asked)
    check.flag("same_cells", same_cells)
    scored, reference = contenders(ForecastRequest.of(forecast, asked | {"obj": ds}), models, baselines)
    plan, table = _plan(scored, reference, asked)
    path = None if out is None else storage.output_path(out).absolute()
    if path is not None and path.exists() and overwrite:
        storage.refuse_inputs(path, [ds, models, regions])
        storage.refuse_strangers(path)
    attrs = {store.FINGERPRINT: json.dumps(plan.fingerprint, default=plain)}
    with begin(asked, path) as run:
        if path is not None:
            drafts.remove_leftovers(path)
            if overwrite and path.exists():
                log.info("%s is replaced", path)
            else:
                table.go_on_with(path, plan.fingerprint)
        to_do = table.with_status(store.PENDING)
        if to_do:
            save = None if path is None else lambda: storage.write(table.to_dataset(attrs), path, overwrite=True)
            begins = f"scoring {', '.join(scored)}: {len(to_do)} of {table.batches} blocks"
            run.complete(plan, to_do, begins=begins, name=path.name if path else "scores", save=save)
            _warn_of_unfinished(table, scored)
    return table.to_dataset(attrs)


# ---------------------------------------------------------------- planning


def _plan(
    models: dict[str, Contender], reference: Prepared, asked: Mapping[str, Any]
) -> tuple[Plan["ScoreJob"], "Table"]:
    from xnowcast.archive import tables
    from xnowcast.verify.events import scale_coordinate
    from xnowcast.verify.scorecards import _checked_thresholds

    init_times, on_gap, hours, regions = (asked[name] for name in ("init_times", "on_gap", "hours", "regions"))
    units = "kg m-2" if reference.field.quantity == "vil" else "mm h-1"
    threshold = _checked_thresholds(asked["thresholds"], xr.DataArray(0.0, attrs={"units": units}))
    scales = np.atleast_1d(scale_coordinate(asked["scales"], "pooling").values).tolist()
    options = {"thresholds": np.atleast_1d(threshold.values).tolist(), "scales": scales}
    smallest = min(reference.field.array.sizes[dim] for dim in (reference.field.y, reference.field.x))
    if max(scales) > smallest:
        raise ValueError(f"scales has {max(scales)}, and the grid has {smallest} cells: choose scales up to that")
    kinds = _kinds(asked["scores"], models)
    masks = _masks(regions, reference)
    forecasting = {name: model for name, model in models.items() if isinstance(model, Prepared)} or {"": reference}
    # The model that reads most frames has the first init time; the others begin with it.
    most = max(forecasting, key=lambda name: forecasting[name].task.input_frames)
    chosen = {}
    chosen[most], every = choose(forecasting[most], init_times, on_gap)
    chosen |= {name: choose(m, every, on_gap)[0] for name, m in forecasting.items() if name != most}
    _refuse_strange_stores(models, every)
    coords = {
        "model": list(models),
        **({"hour": np.arange(0, 24, _checked_hours(hours))} if hours is not None else {}),
        **({"region": [str(label) for label in labels_of(regions, "region")]} if regions is not None else {}),
        "lead_time": np.arange(1, reference.plan.steps + 1) * reference.axis.step,
        "threshold": options["thresholds"],
        "scale": options["scales"],
    }
    bare = {n: without_data(m) if isinstance(m, Prepared) else m for n, m in models.items()}
    sizes = {name: len(values) for name, values in coords.items()}
    job = ScoreJob(
        without_data(reference),
        asked["min_coverage"],
        bare,
        kinds,
        options,
        masks,
        sizes,
        hours,
        asked["same_cells"],
    )
    of_reference = fingerprint.of_forecast(reference, every)
    noted = {
        "models": {name: _identity(model, every) for name, model in models.items()},
        "field": of_reference["grid"],
        "observed": fingerprint.of_field(reference.field, cf.find_array(asked["ds"], asked["variable"])),
        "sums": list(kinds),
        **options,
        "regions": None if masks is None else hashlib.sha256(masks.tobytes()).hexdigest()[:12],
        "region_labels": coords.get("region"),
        "lead_time": of_reference["lead_time"],
        "init_times": of_reference["init_times"],
    } | fingerprint.of_call(asked, fingerprint.TOLD_BY_TABLES)
    sums = tables.kinds()
    variables = {tables.variable(k, part): sums[k] for k in kinds for part in sums[k].sums}
    table = Table(every, block_starts(every, asked["block"]), coords, variables, units)
    chosen = chosen if "" not in chosen else {}
    return Plan(job, reference, table, chosen, _per_step(models, reference), noted, reference.plan.steps), table


def _refuse_strange_stores(models: dict[str, Contender], init_times: np.ndarray) -> None:
    """Scores of all models are of the init times that all have: a store with none of them would leave no score."""
    for name, model in models.items():
        if isinstance(model, Stored) and not np.isin(init_times, model.init_times).any():
            wanted, found = (f"{times.min():.16} to {times.max():.16}" for times in (init_times, model.init_times))
            raise ValueError(
                f"{name!r} has a forecast from none of the init times that are scored, which are {init_times.size} "
                f"from {wanted}; its {model.init_times.size} are from {found}: give init_times that it has"
            )


def _per_step(models: dict[str, Contender], reference: Prepared) -> int:
    """Init times whose forecasts of all models, beside what was observed, fit into the memory of a step."""
    field = reference.field
    copies = 3 + sum(len(m.members or (0,)) if isinstance(m, Prepared) else 1 for m in models.values())
    cells = field.array.sizes[field.y] * field.array.sizes[field.x] * reference.plan.steps
    most = int(np.clip(STEP_BYTES // (4 * cells * copies), 1, 128))
    multiple = max([init_times_at_once(m) for m in models.values() if isinstance(m, Prepared)], default=1)
    return most // multiple * multiple or most


def _identity(model: Contender, init_times: np.ndarray) -> dict[str, Any]:
    """What a model is, wherever its forecasts lie, and whatever else than the init times its store has."""
    if isinstance(model, Prepared):
        made = fingerprint.of_forecast(model, init_times)
    else:
        made = store.read_fingerprint(Path(model.path)) or {}
    return {key: value for key, value in made.items() if key not in ("init_times", "batch_size")}


def _kinds(scores: Iterable[str] | None, models: dict[str, Contender]) -> tuple[str, ...]:
    from xnowcast.archive import tables

    if scores is None:
        ensembles = any(isinstance(model, Prepared) and model.members is not None for model in models.values())
        return ("events", "errors", "crps") if ensembles else ("events", "errors")
    if not isinstance(scores, Iterable):
        raise ValueError(f"scores is {scores!r}; it must be names of scores")
    named = [scores] if isinstance(scores, str) else list(scores)
    if not named:
        raise ValueError("scores is empty: name at least one")
    return tuple(dict.fromkeys(tables.kind_of(name) for name in named))


def _masks(regions: xr.DataArray | None, reference: Prepared) -> np.ndarray | None:
    if regions is None:
        return None
    field = reference.field
    if not isinstance(regions, xr.DataArray):
        raise ValueError(f"regions is a {type(regions).__name__}; it must be a DataArray of bool")
    if set(regions.dims) != {"region", field.y, field.x} or regions.dtype != bool:
        raise ValueError(
            f"regions has dims {regions.dims} and holds {regions.dtype}; it must be bool with dims "
            f"('region', {field.y!r}, {field.x!r})"
        )
    for dim in (field.y, field.x):
        if regions.sizes[dim] != field.array.sizes[dim]:
            raise ValueError(
                f"regions has {regions.sizes[dim]} cells along {dim!r}, the field {field.array.sizes[dim]}"
            )
    return regions.transpose("region", field.y, field.x).values


def _checked_hours(hours: int) -> int:
    if isinstance(hours, bool) or hours not in (1, 2, 3, 4, 6, 8, 12):
        raise ValueError(f"hours is {hours!r}; it can be 1, 2, 3, 4, 6, 8 or 12")
    return hours


def block_starts(init_times: np.ndarray, block: str) -> np.ndarray:
    """When the block of each init time began: whole days, cut at the ends of months, or a length that divides a day.

    >>> times = np.array(["2024-06-09T07", "2024-06-30T23", "2024-07-01T00"], "M8[ns]")
    >>> block_starts(times, "7D").astype("M8[D]").astype(str).tolist()
    ['2024-06-08', '2024-06-29', '2024-07-01']
    >>> block_starts(times, "6h").astype("M8[h]").astype(str).tolist()
    ['2024-06-09T06', '2024-06-30T18', '2024-07-01T00']
    """
    length, day = windows.to_timedelta(block, "block"), np.timedelta64(1, "D").astype("m8[ns]")
    if length <= day and not (day % length).astype("i8"):
        return init_times - (init_times - init_times.astype("M8[D]")) % length
    if (length % day).astype("i8"):
        raise ValueError(f"block is {block!r}; it must be some days, such as '1D', or divide a day, such as '6h'")
    month = init_times.astype("M8[M]").astype("M8[ns]")
    return month + (init_times - month) // length * length


# ---------------------------------------------------------------- the table as it grows


class Table(Ledger):
    """Sums of all blocks, and what became of each init time ``(init_time, model)``.

    ``starts`` is when the block of each init time began, ``coords`` are those of the dims but block, in their order;
    ``variables`` have the kind of the sums, which says their dims after the lead time and their type.
    """

    def __init__(
        self,
        init_times: np.ndarray,
        starts: np.ndarray,
        coords: dict[str, Any],
        variables: "dict[str, tables.Kind]",
        units: str,
    ):
        self.blocks, numbers = np.unique(starts, return_inverse=True)
        super().__init__(init_times, numbers, len(coords["model"]))
        self.coords, self.units = coords, units
        outer = [name for name in ("model", "hour", "region") if name in coords]
        self.dims = {name: [outer[0], "block", *outer[1:], "lead_time", *k.dims] for name, k in variables.items()}
        self.dims["n_init_times"] = ["model", "block", *(["hour"] if "hour" in coords else [])]
        sizes = {name: len(values) for name, values in coords.items()} | {"block": self.blocks.size}
        self.sums: dict[str, np.ndarray] = {
            n: np.zeros([sizes[d] for d in dims], variables[n].dtype if n in variables else np.int64)
            for n, dims in self.dims.items()
        }

    def name(self, number: int) -> str:
        return f"block {np.datetime_as_string(self.blocks[number]):.10}"

    def put(self, number: int, outcome: Outcome) -> None:
        """Set, rather than add, the sums of a block, so that none can count twice."""
        for name, sums in outcome.sums.items():
            self.sums[name][:, number] = sums
        super().put(number, outcome)

    def to_dataset(self, attrs: dict[str, Any]) -> xr.Dataset:
        """The table as users get it."""
        used = {d for dims in self.dims.values() for d in dims}
        coords = {name: _as_text(values) for name, values in self.coords.items() if name in used}
        dataset = xr.Dataset(
            {name: (self.dims[name], sums.copy()) for name, sums in self.sums.items()}
            | {store.STATUS: (("init_time", "model"), self.status.copy())},
            coords=coords | {"block": self.blocks, "init_time": self.init_times},
            attrs=attrs | {"title": "sums for the scores of precipitation forecasts", "units": self.units},
        )
        dataset["n_init_times"].attrs["long_name"] = "init times that were scored"
        dataset[store.STATUS].attrs = store.status_attributes()
        dataset["lead_time"].encoding = {"units": "minutes", "dtype": "int64"}
        for name in ("block", "init_time"):
            dataset[name].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
        if "threshold" in dataset:
            dataset["threshold"].attrs = {"units": self.units, "long_name": "an event is a value at or above this"}
        return dataset

    def go_on_with(self, path: Path, wanted: dict[str, Any]) -> None:
        """Take over what a table on disk has; a table that was begun otherwise is refused."""
        if not path.exists():
            return
        with storage.open_input(str(path)) as opened:
            found = json.loads(opened.attrs.get(store.FINGERPRINT, "null"))
            if found is None:
                raise ValueError(f"{path} exists and is no table of score_archive: choose another name")
            store.refuse_other_run(path, wanted, fingerprint.completed(path, found, wanted))
            opened = opened.sel(model=list(self.coords["model"]))  # they may be named in another order now
            for name, sums in self.sums.items():
                sums[:] = opened[name].transpose(*self.dims[name]).values
            self.status[:] = opened[store.STATUS].transpose("init_time", "model").values
        log.info(
            "going on with %s: %d of %d blocks are to be done", path, len(self.with_status(store.PENDING)), self.batches
        )


def _as_text(values: Any) -> Any:
    """Names as objects: Zarr has no type for text of a fixed length that others can read."""
    return np.array(values, object) if len(values) and isinstance(values[0], str) else values


def _warn_of_unfinished(table: Table, models: dict[str, Contender]) -> None:
    """Stores that have no forecast from some init times: the scores of all models are without these."""
    for number, (name, model) in enumerate(models.items()):
        lacking = table.status[:, number] == store.PENDING
        if isinstance(model, Stored):
            lacking |= ~np.isin(table.init_times, model.init_times)
        if lacking.any():
            log.warning(
                "%s has no forecast from %d of %d init times: the scores are without them",
                *(name, lacking.sum(), lacking.size),
            )


# ---------------------------------------------------------------- one block, on a worker


@dataclass(frozen=True)
class ScoreJob(Job):
    """Sums of the scores of models; ``options`` are by kind of sums, ``regions`` bool ``(region, y, x)``."""

    models: dict[str, Contender]
    kinds: tuple[str, ...]
    options: dict[str, dict[str, Any]]
    regions: np.ndarray | None
    sizes: dict[str, int]  # of the dims of the tables
    hours: int | None
    same_cells: bool

    def compute(self, batch: Batch) -> Outcome:
        """Forecast from the init times of a block with every model, and add up their scores' sums."""
        from xnowcast.archive import tables

        outer = [self.sizes["model"], *(self.sizes[d] for d in ("hour", "region") if d in self.sizes)]
        sums: dict[str, np.ndarray] = {}
        known = tables.kinds()
        for kind in self.kinds:
            shape = [*outer, self.sizes["lead_time"], *(self.sizes[d] for d in known[kind].dims)]
            sums |= {tables.variable(kind, p): np.zeros(shape, known[kind].dtype) for p in known[kind].sums}
        sums["n_init_times"] = np.zeros([self.sizes[d] for d in ("model", "hour") if d in self.sizes], np.int64)
        statuses, notes = [], []
        for step in batch.steps:
            status, of_step = self._score(step, sums)
            statuses.append(status)
            notes += of_step
        return Outcome(np.concatenate(statuses), list(dict.fromkeys(notes)), sums)

    def _score(self, step: Step, sums: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
        read = self.read(step)
        forecasts, status, notes = self._forecasts(step, read)
        rain = user_orientation(self.reference.plan.conversion(read.values), self.reference.field)
        observed = np.where(step.valid[..., None, None] >= 0, rain[step.valid], np.float32(np.nan))
        observed[(status == store.FORECAST).sum(axis=1) == 0] = np.nan  # nothing to compare with
        if self.same_cells:
            for forecast in forecasts:
                known = np.isfinite(forecast)
                observed[~(known.all(axis=1) if known.ndim == 5 else known)] = np.nan
        hour = None if self.hours is None else pd.DatetimeIndex(step.init_times).hour.to_numpy() // self.hours
        for number, forecast in enumerate(forecasts):
            counted = status[:, number] == store.FORECAST
            if self.same_cells:
                counted = (status == store.FORECAST).all(axis=1)
            _add(sums["n_init_times"], number, counted.astype(np.int64), hour)
            self._add_scores(number, observed, forecast, hour, sums)
        return status, notes

    def _forecasts(self, step: Step, read: Any) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
        """Of each model ``(init_time, [member], lead_time, y, x)`` in mm h-1, NaN where there is none; and why."""
        forecasts, statuses, notes = [], [], []
        for name, model in self.models.items():
            if isinstance(model, Stored):
                values, status = model.read(step.init_times)
            else:
                values, status, of_model = self.forecast(model, name, step, read)
                good = status == store.FORECAST
                values[good] = model.plan.conversion(values[good])
                notes += of_model
            forecasts.append(values)
            statuses.append(status)
        return forecasts, np.stack(statuses, axis=1), notes

    def _add_scores(
        self,
        number: int,
        observed: np.ndarray,
        forecast: np.ndarray,
        hour: np.ndarray | None,
        sums: dict[str, np.ndarray],
    ) -> None:
        """The sums of one model, in each region."""
        from xnowcast.archive import tables

        members = ["member"] if forecast.ndim == 5 else []
        fc = xr.DataArray(forecast, dims=("init_time", *members, "lead_time", "y", "x"))
        places = [None] if self.regions is None else list(self.regions)
        kinds = {name: kind for name, kind in tables.kinds().items() if name in self.kinds}
        for i, mask in enumerate(places):
            valid = observed if mask is None else np.where(mask, observed, np.float32(np.nan))
            obs = xr.DataArray(valid, dims=("init_time", "lead_time", "y", "x"))
            for name, kind in kinds.items():
                found = kind.take(obs, fc, self.options)
                for part in kind.sums:
                    values = found[part].transpose("init_time", "lead_time", *kind.dims).values
                    _add(sums[tables.variable(name, part)], number, values, hour, () if mask is None else (i,))


def _add(
    table: np.ndarray, number: int, values: np.ndarray, hour: np.ndarray | None, region: tuple[int, ...] = ()
) -> None:
    """Add ``(init_time, ...)`` up in a table ``(model, [hour], [region], ...)``."""
    if hour is None:
        table[(number, *region)] += values.sum(axis=0)
        return
    for which in np.unique(hour):
        table[(number, which, *region)] += values[hour == which].sum(axis=0)
