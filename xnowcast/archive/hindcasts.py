"""The verb `hindcast`: forecasts of an archive into a Zarr store, in batches, going on where it was stopped."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.archive import store
from xnowcast.archive.run import fingerprint
from xnowcast.archive.run.job import (
    Batch,
    Job,
    Ledger,
    Outcome,
    Plan,
    begin,
    check_run,
    choose,
    init_times_at_once,
    without_data,
)
from xnowcast.archive.run.logs import log
from xnowcast.archive.store import open_archive
from xnowcast.data import storage
from xnowcast.fields import cf, windows
from xnowcast.fields.units import Relation
from xnowcast.verbs.forecast import ForecastRequest, Prepared, forecast, prepare
from xnowcast.verbs.request import OnMismatch

if TYPE_CHECKING:
    from xnowcast.models.base import ForecastModel


def hindcast(
    ds: xr.Dataset | xr.DataArray,
    model: "str | ForecastModel | None" = None,
    *,
    out: str | Path,
    init_times: windows.InitTimes = "all",
    lead_time: str | timedelta | np.timedelta64 | None = None,
    steps: int | None = None,
    members: int | None = None,
    seed: int = 0,
    variable: Hashable | None = None,
    zr: Relation | None = None,
    on_gap: windows.OnGap = "skip",
    min_coverage: float = 0.0,
    on_mismatch: OnMismatch = "raise",
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    engine: Any = "threads",
    workers: int | None = None,
    init_times_per_batch: int | None = None,
    retry_unreadable: bool = False,
    overwrite: bool = False,
    performance_report: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> xr.Dataset:
    """Forecast from every init time of an archive, into a Zarr store.

    The store is written in batches of init times, a file each. The same call goes on with a store that is not
    finished: batches that are whole are kept, the others are done again, and the result is, bit for bit, that of a run
    that was never stopped. Memory does not grow with the archive. What happens is logged to ``OUT.log``.

    Parameters
    ----------
    ds, model, lead_time, steps, members, seed, variable, zr, on_mismatch, weights, device, batch_size, **options
        As for `xnowcast.forecast`. ``ds`` should be lazy: workers read the frames that their batches need.
    out : str or pathlib.Path
        The store, a folder that ends in ``.zarr``, which all workers see.
    init_times : "all", time, list of times or slice of times
        As for `xnowcast.forecast`, in rising order.
    on_gap : {"raise", "skip", "fill"}
        What to do with an init time whose input crosses a missing frame. What is skipped has NaN, and
        ``gap_in_input`` as its status.
    min_coverage : float
        Share of the grid, 0 to 1, that each input frame must have measured, else the init time is skipped with the
        status ``too_little_coverage``. A frame in which nothing was measured is always too little.
    engine : "threads", "processes" or distributed.Client
        Where batches run: here, in processes of this machine (one per GPU where there are GPUs), or on a Dask cluster.
    workers : int, optional
        Batches that run at the same time, in threads (2 by default) or processes (one per GPU, else per core).
    init_times_per_batch : int, optional
        By default as many as make 64 MB.
    retry_unreadable : bool
        Do batches again in which a frame could not be read.
    overwrite : bool
        Replace a store that is there, instead of going on with it.
    performance_report : str or pathlib.Path, optional
        Where to write Dask's report of the run (HTML), on a cluster.
    progress : bool, optional
        A moving line with rate and time left; by default where somebody looks.

    Returns
    -------
    xarray.Dataset
        The finished store, lazily: as of `xnowcast.forecast`, with the coordinate ``init_status`` (init_time), which
        says what became of each init time; its attribute ``flag_meanings`` names the numbers. NaN where there is no
        forecast.

    Raises
    ------
    ValueError
        As `xnowcast.forecast`; if the store was begun with other data or options, or another run is writing it.
    xnowcast.archive.IncompleteRun
        If the run ended before all batches were done: the disk is full, a batch failed three times, workers die again
        and again. The message says what is missing; the same call goes on.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the batches in flight are written.

    Examples
    --------
    >>> import tempfile, xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=12, shape=(32, 32), seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     archive = hindcast(radar, "extrapolation", out=folder + "/rain.zarr", lead_time="20min")
    ...     dict(archive.sizes), int((archive.init_status == 1).sum())
    ({'init_time': 9, 'lead_time': 4, 'y': 32, 'x': 32}, 9)
    """
    asked = dict(locals())
    out = _checked_out(out, overwrite, [ds, model, weights])
    check_run(asked)
    check.flag("retry_unreadable", retry_unreadable)
    if init_times_per_batch is not None:
        check.whole("init_times_per_batch", init_times_per_batch, 1)
    ready = prepare(ForecastRequest.of(forecast, asked | {"obj": ds}))
    plan = plan_hindcast(ready, init_times, on_gap, min_coverage, out, init_times_per_batch)
    noted = {"field": fingerprint.of_field(ready.field, cf.find_array(ds, variable))}
    noted |= fingerprint.of_call(asked, fingerprint.TOLD_AS)
    plan = replace(plan, fingerprint=plan.fingerprint | noted)
    with begin(asked, out) as run:
        _open_or_create(plan, out, ds, overwrite)
        to_do = plan.ledger.with_status(store.PENDING, *([store.UNREADABLE] if retry_unreadable else []))
        if to_do:
            begins = f"{out}: {len(to_do)} of {plan.ledger.batches} batches are to be done"
            run.complete(plan, to_do, begins=begins, name=out.name)
    return open_archive(out)


# ---------------------------------------------------------------- planning


@dataclass(frozen=True)
class StoreJob(Job):
    """Forecasts of one model, written batch by batch to the store ``out``."""

    out: Path
    layout: store.Layout

    def compute(self, batch: Batch) -> Outcome:
        """Read the frames of a batch, forecast, write, and mark it as done."""
        (step,) = batch.steps
        values, status = None, np.full(step.init_times.size, store.GAP, np.int8)
        notes: list[str] = []
        if step.chosen[""].init_times.size:
            values, status, notes = self.forecast(self.reference, "", step, self.read(step))
        any_made = (status == store.FORECAST).any()
        name = self.reference.field.name
        notes += store.write_batch(self.out, name, self.layout, batch.number, values if any_made else None, status)
        return Outcome(status, notes)


def plan_hindcast(
    ready: Prepared, init_times: Any, on_gap: Any, min_coverage: float, out: Path, per_batch: int | None
) -> Plan[StoreJob]:
    """Init times in batches of the store, ``per_batch`` in each or as many as make 64 MB."""
    chosen, every = choose(ready, init_times, on_gap)
    field = ready.field
    sizes = {str(d): field.array.sizes[d] for d in field.extra} | {"init_time": every.size}
    sizes |= {"member": len(ready.members)} if ready.members is not None else {}
    sizes |= {"lead_time": ready.plan.steps}
    sizes |= {str(d): field.array.sizes[d] for d in (field.y, field.x)}
    at_once = init_times_at_once(ready)
    layout = store.plan_layout(list(sizes), list(sizes.values()), per_batch=per_batch, multiple=at_once)
    job = StoreJob(without_data(ready), min_coverage, out, layout)
    ledger = Ledger(every, np.arange(every.size) // layout.per_batch)
    noted = fingerprint.of_forecast(ready, every) | {"init_times_per_batch": layout.per_batch}
    return Plan(job, ready, ledger, {"": chosen}, layout.per_batch, noted)


# ---------------------------------------------------------------- the store


def _checked_out(out: str | Path, overwrite: bool, inputs: list[Any]) -> Path:
    if "://" in str(out):
        raise ValueError(f"out is {out}: give a folder that all workers see; a lock needs a file system")
    if not str(out).endswith(".zarr"):
        raise ValueError(f"out is {out}; it must end in .zarr: forecasts of an archive are written to a Zarr store")
    path = storage.output_path(out).absolute()
    if path.exists() and overwrite:
        storage.refuse_inputs(path, inputs, "the input")
    if path.is_file() or overwrite:
        storage.refuse_strangers(path)
    return path


def _open_or_create(plan: Plan[StoreJob], out: Path, ds: xr.Dataset | xr.DataArray, overwrite: bool) -> None:
    """The store, new or as it was left; what became of each init time so far is entered in the ledger."""
    ledger, layout = plan.ledger, plan.job.layout
    if out.exists() and not overwrite:
        store.check_same_run(out, plan.fingerprint)
    store.remove_leftovers(out)
    if out.exists() and overwrite:
        log.info("%s is replaced", out)
    elif out.exists():
        ledger.status[:] = status = store.read_status(out, layout)
        log.info("going on with %s: %d of %d init times are done", out, np.count_nonzero(status), status.size)
        return
    store.create(out, _template(plan, ds), plan.reference.field.name, layout, plan.fingerprint, overwrite=overwrite)
    log.info("began %s: %d init times in %d batches", out, ledger.init_times.size, ledger.batches)


def _template(plan: Plan[StoreJob], ds: xr.Dataset | xr.DataArray) -> xr.Dataset:
    import dask.array as da

    layout, name = plan.job.layout, plan.reference.field.name
    source: Any = ds
    values = da.empty(layout.shape, chunks=layout.shard, dtype=np.float32)
    template = plan.reference.label(values, source, plan.ledger.init_times, {})
    if isinstance(template, xr.DataArray):
        template = template.to_dataset(name=name)
    return template.assign({n: v.compute() for n, v in template.variables.items() if n != name})
