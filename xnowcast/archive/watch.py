"""Real time: a forecast whenever a new frame has arrived, for days on end, whatever arrives late or broken."""

import time
from collections.abc import Hashable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.archive.desk import Desk
from xnowcast.archive.inbox import Inbox
from xnowcast.archive.run.lock import StoreLock
from xnowcast.archive.run.logs import LogFile, log
from xnowcast.fields import windows
from xnowcast.fields.units import Relation
from xnowcast.verbs.forecast import ForecastRequest, forecast
from xnowcast.verbs.request import OnMismatch

if TYPE_CHECKING:
    from xnowcast.models.base import ForecastModel, Task

LONGEST_PAUSE = 60.0
"""Seconds between two looks for a folder that is away: the pauses double until then."""
FRAMES_BESIDE = 8
"""Frames that are kept beside those that the model reads: they tell the step where one is missing."""


def watch(
    folder: str | Path,
    model: "str | ForecastModel | None" = None,
    *,
    out: str | Path,
    pattern: str = "*",
    file_format: Literal["nc", "zarr"] = "nc",
    poll: str | timedelta | np.timedelta64 = "5s",
    keep: int | None = None,
    follow_links: bool = False,
    stop_after: int | None = None,
    stop_when_idle: str | timedelta | np.timedelta64 | None = None,
    lead_time: str | timedelta | np.timedelta64 | None = None,
    steps: int | None = None,
    members: int | None = None,
    seed: int = 0,
    variable: Hashable | None = None,
    zr: Relation | None = None,
    on_gap: Literal["skip", "fill"] = "skip",
    on_mismatch: OnMismatch = "raise",
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    **options: Any,
) -> int:
    """Forecast from each new frame in a folder, until somebody says stop.

    A file is read once its size and time have stood still from one look to the next, and again when it has changed.
    Each forecast is written whole or not at all, as ``forecast_YYYYmmddTHHMM``, and the link ``latest`` then points at
    it. Where several frames came at once, because the model is slower than the radar or after a break, only the newest
    is forecast from. A file that cannot be read is tried five times and left aside until it changes. Of two versions of
    a frame the one that came last counts; where the newest forecast used another, or was made without a frame that came
    late, it is made again. Frames that do not go with the others in time, grid or meaning are left out:
    docs/howto/archives.md has the rules.

    Parameters
    ----------
    folder : str or pathlib.Path
        Where files arrive: NetCDF, or a radar product that `xnowcast.io` reads, with one frame or several each. Their
        names should rise with time: only the newest are read at the start.
    model, lead_time, steps, members, seed, variable, zr, on_mismatch, weights, device, batch_size, **options
        As for `xnowcast.forecast`.
    out : str or pathlib.Path
        Folder of the forecasts; made if it is missing.
    pattern : str
        Which files are read, by their names, such as ``"*.h5"``. Names that begin with a dot are left out.
    file_format : {"nc", "zarr"}
        In which forecasts are written.
    poll : duration
        Time from one look into the folder to the next, such as ``"10s"``.
    keep : int, optional
        How many of the newest forecasts stay in ``out``; all by default. Other files are never removed.
    follow_links : bool
        Read what links in ``folder`` point at outside it.
    stop_after : int, optional
        Number of forecasts after which it stops.
    stop_when_idle : duration, optional
        How long no new frame may come before it stops, such as ``"30min"``.
    on_gap : {"skip", "fill"}
        What to do when a frame is missing among those that the model reads: no forecast, or fill it.

    Returns
    -------
    int
        How many forecasts were made.

    Raises
    ------
    ValueError
        If a folder or an argument will not do, or another watch writes to ``out``; also where five frames were refused
        for one and the same reason before any forecast was made. What is wrong with a frame is logged, and the watch
        goes on.
    """
    asked = dict(locals())
    from xnowcast.archive.run.loop import interruptible

    source, target = _check_call(
        folder,
        out,
        pattern=pattern,
        file_format=file_format,
        on_gap=on_gap,
        keep=keep,
        stop_after=stop_after,
        follow_links=follow_links,
    )
    pause = windows.to_timedelta(poll, "poll") / np.timedelta64(1, "s")
    patience = (
        None
        if stop_when_idle is None
        else windows.to_timedelta(stop_when_idle, "stop_when_idle") / np.timedelta64(1, "s")
    )

    request = ForecastRequest.of(forecast, asked | {"on_gap": "fill" if on_gap == "fill" else "raise"})
    planned = _planned(request)
    _rehearse(request, planned.task)
    needed = max(2, planned.task.input_frames)
    inbox = Inbox(source, pattern, planned.task.input_frames + FRAMES_BESIDE, needed, follow_links)
    desk = Desk(target, request, file_format, keep, needed)
    target.mkdir(parents=True, exist_ok=True)
    with (
        StoreLock(target / ".watch.lock") as lock,
        LogFile(target / "watch.log"),
        interruptible("the forecast under way is") as interruption,
    ):
        desk.clear()
        wanted = "all files" if pattern == "*" else f"files like {pattern}"
        name = model if isinstance(model, str) else planned.name
        log.info("watching %s for %s, to forecast with %s", source, wanted, name)
        last, absent = time.monotonic(), 0
        while not interruption.asked:
            lock.check()
            news, absent = _look(inbox, absent)
            if news:
                last = time.monotonic()
                desk.forecast_from(inbox.credible())
            if stop_after is not None and desk.made >= stop_after:
                break
            if patience is not None and time.monotonic() - last > patience:
                break
            _sleep(min(pause * 2**absent, max(pause, LONGEST_PAUSE)), interruption)
        log.info("stopped after %d forecast%s", desk.made, "" if desk.made == 1 else "s")
    return desk.made


def _Desk(folder: Path, model: Any, settings: dict[str, Any], file_format: str, keep: int | None) -> Desk:
    """A desk by a model and arguments of `xnowcast.forecast`, as scripts of earlier versions make one."""
    return Desk(folder, ForecastRequest(verb=forecast, model=model, **settings), file_format, keep)


def _check_call(folder: Any, out: Any, **given: Any) -> tuple[Path, Path]:
    """What can be refused without a frame and without a model."""
    for name, value in {"folder": folder, "out": out}.items():
        check.path(name, value)
    source, target = Path(folder), Path(out)
    if not source.is_dir():
        raise ValueError(f"there is no folder {source} to watch")
    if source.resolve() == target.resolve():
        raise ValueError(f"forecasts would be written into {source}, which is watched: choose another folder")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; forecasts are written into a folder")
    if not isinstance(given["pattern"], str) or not given["pattern"]:
        raise ValueError(f"pattern is {given['pattern']!r}; it must be one of the files' names, such as '*.h5'")
    check.one_of("file_format", given["file_format"], ("nc", "zarr"))
    check.one_of("on_gap", given["on_gap"], ("skip", "fill"))
    check.flag("follow_links", given["follow_links"])
    for name in ("keep", "stop_after"):
        if given[name] is not None:
            check.whole(name, given[name], 1)
    return source, target


def _planned(request: ForecastRequest) -> ForecastRequest:
    """The request with a model: where none is named the best whose options these are."""
    from xnowcast.models import shipped

    if request.model is not None or request.weights is not None:
        return request
    return shipped.first_that_fits(lambda name: replace(request, model=name).planned(), request.members)


def _rehearse(request: ForecastRequest, task: "Task") -> None:
    """Refuse a call that no frame could mend, by planning a forecast of frames that the model was made for."""
    lead_time = request.lead_time
    windows.lead_steps(np.timedelta64(1, "ns"), lead_time=lead_time, steps=request.steps)  # of which all is a multiple
    data = _ideal_frames(task, request.variable, windows.to_timedelta(lead_time or "60min", "the lead time"))
    field = next(iter(data.data_vars))
    if request.zr is not None and task.quantity != "vil":
        data[field].attrs = {"units": "dBZ", "standard_name": "equivalent_reflectivity_factor"}
    Desk(Path(), request, "nc", None).prepared(data)


def _ideal_frames(task: "Task", variable: Hashable | None, lead_time: np.timedelta64) -> xr.Dataset:
    """Dry frames of the step, grid and quantity that a model was made for."""
    least, most = (np.timedelta64(step) for step in task.bounds("step") or (timedelta(minutes=5),) * 2)
    count = max(1, -int(-lead_time // most))
    step = lead_time // count if task.step is None or least < most else most
    metres = np.mean(task.bounds("spacing") or 1000.0) * np.arange(max(task.min_grid, 2))
    coords: dict[str, Any] = {
        axis: (axis, metres, {"standard_name": f"projection_{axis}_coordinate", "units": "m"}) for axis in ("y", "x")
    }
    coords["time"] = np.datetime64("2024-06-01", "ns") + np.arange(max(task.input_frames, 2)) * step
    attrs = {"units": "mm h-1", "standard_name": "rainfall_rate"}
    if task.quantity == "vil":
        attrs = {"units": "kg m-2", "long_name": "vertically integrated liquid"}
    dims = ("time", "y", "x")
    rain = np.zeros([np.size(coords["time"]), metres.size, metres.size], np.float32)
    return xr.Dataset({variable if variable is not None else "rain": (dims, rain, attrs)}, coords)


def _look(inbox: Inbox, absent: int) -> tuple[bool, int]:
    """Whether there is news; and how often in a row the folder could not be looked into."""
    try:
        news = inbox.look()
    except OSError as error:
        if not absent:
            log.warning("%s cannot be looked into: %s. It is waited for", inbox.folder, error)
        return False, absent + 1
    if absent:
        log.info("%s is there again", inbox.folder)
    return news, 0


def _sleep(seconds: float, interruption: Any) -> None:
    end = time.monotonic() + seconds
    while not interruption.asked and time.monotonic() < end:
        time.sleep(min(0.2, seconds))
