"""Real time: a forecast whenever a new frame has arrived, for days on end, whatever arrives late or broken."""

import os
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatch
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xnowcast import cf, planning, storage, windows
from xnowcast.archive.lock import StoreLock
from xnowcast.archive.logs import LogFile, log
from xnowcast.forecast import forecast

if TYPE_CHECKING:
    from xnowcast.models.base import ForecastModel

ATTEMPTS = 5
"""How often a file that cannot be read is tried, once per poll: it may be half copied."""
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
    stop_after: int | None = None,
    stop_when_idle: str | timedelta | np.timedelta64 | None = None,
    lead_time: str | timedelta | np.timedelta64 | None = None,
    steps: int | None = None,
    members: int | None = None,
    seed: int = 0,
    variable: Hashable | None = None,
    zr: tuple[float, float] | None = None,
    on_gap: Literal["skip", "fill"] = "skip",
    on_mismatch: planning.OnMismatch = "raise",
    weights: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    **options: Any,
) -> int:
    """Forecast from each new frame in a folder, until somebody says stop.

    A file is read once its size and time have stood still from one look to the next. Each forecast is written whole
    or not at all, as ``forecast_YYYYmmddTHHMM``, and the link ``latest`` then points at it. Where several frames came
    at once, because the model is slower than the radar or after a break, only the newest is forecast from. A file that
    cannot be read is tried five times and left aside; a frame that comes late is read as input and not forecast from.

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
        Of the names of the files, such as ``"*.h5"``. Names that begin with a dot are left out.
    file_format : {"nc", "zarr"}
    poll : duration
        Time from one look to the next.
    keep : int, optional
        How many forecasts to keep; all by default.
    stop_after : int, optional
        Stop after so many forecasts.
    stop_when_idle : duration, optional
        Stop when no new frame has come for so long.
    on_gap : {"skip", "fill"}
        What to do when a frame is missing among those that the model reads: no forecast, or fill it.

    Returns
    -------
    int
        How many forecasts were made.

    Raises
    ------
    ValueError
        If a folder or an argument will not do, or another watch writes to ``out``. What is wrong with a frame is
        logged, and the watch goes on.
    """
    from xnowcast import pretrained
    from xnowcast.archive.run import interruptible

    settings = {"lead_time": lead_time, "steps": steps, "members": members, "seed": seed, "variable": variable}
    settings |= {"zr": zr, "on_mismatch": on_mismatch, "weights": weights, "device": device}
    settings |= {"batch_size": batch_size, "on_gap": "fill" if on_gap == "fill" else "raise"} | options
    source, target = _checked(folder, out, file_format, keep, on_gap)
    pause = windows.to_timedelta(poll, "poll") / np.timedelta64(1, "s")
    patience = (
        windows.to_timedelta(stop_when_idle, "stop_when_idle") / np.timedelta64(1, "s") if stop_when_idle else None
    )

    def planned(name: "str | ForecastModel | None") -> Any:
        return planning.plan_model(forecast, name, weights, dict(options))

    recipe, task = pretrained.first_that_fits(planned) if model is None and weights is None else planned(model)
    planning.check_counts(seed=seed, batch_size=batch_size, members=members)
    inbox = _Inbox(source, pattern, task.input_frames + FRAMES_BESIDE)
    desk = _Desk(target, model, settings, file_format, keep, max(2, task.input_frames))
    target.mkdir(parents=True, exist_ok=True)
    with (
        StoreLock(target / ".watch.lock") as lock,
        LogFile(target / "watch.log"),
        interruptible("the forecast under way is") as interruption,
    ):
        wanted = "all files" if pattern == "*" else f"files like {pattern}"
        name = model if isinstance(model, str) else planning.model_name(recipe)
        log.info("watching %s for %s, to forecast with %s", source, wanted, name)
        last = time.monotonic()
        while not interruption.asked:
            lock.check()
            if inbox.look():
                last = time.monotonic()
                desk.forecast_from(inbox.frames)
            if stop_after is not None and desk.made >= stop_after:
                break
            if patience is not None and time.monotonic() - last > patience:
                break
            _sleep(pause, interruption)
        log.info("stopped after %d forecast%s", desk.made, "" if desk.made == 1 else "s")
    return desk.made


def _checked(folder: str | Path, out: str | Path, file_format: str, keep: int | None, on_gap: str) -> tuple[Path, Path]:
    source, target = Path(folder), Path(out)
    if not source.is_dir():
        raise ValueError(f"there is no folder {source} to watch")
    if source.resolve() == target.resolve():
        raise ValueError(f"forecasts would be written into {source}, which is watched: choose another folder")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; forecasts are written into a folder")
    if file_format not in ("nc", "zarr"):
        raise ValueError(f"file_format is {file_format!r}; it can be 'nc' or 'zarr'")
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise ValueError(f"keep is {keep!r}; it must be a whole number of 1 or more")
    if on_gap not in ("skip", "fill"):
        raise ValueError(f"on_gap is {on_gap!r}; it can be 'skip' or 'fill'")
    return source, target


def _sleep(seconds: float, interruption: Any) -> None:
    end = time.monotonic() + seconds
    while not interruption.asked and time.monotonic() < end:
        time.sleep(min(0.2, seconds))


# ---------------------------------------------------------------- what arrives


@dataclass
class _Inbox:
    """The newest frames of a folder, in memory; as many as are needed and no more."""

    folder: Path
    pattern: str
    capacity: int
    frames: dict[np.datetime64, xr.Dataset] = field(default_factory=dict)
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)  # size and time at the last look
    _dealt_with: dict[str, tuple[int, int]] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _first: bool = True

    def look(self) -> bool:
        """Read what has come and stands still; whether there is a frame that was not there."""
        there = self._files()
        if self._first:  # of a folder that is full already only the newest files matter
            self._first = False
            self._dealt_with = dict(list(there.items())[: -self.capacity])
        still = [n for n, state in there.items() if self._dealt_with.get(n) != state and self._seen.get(n) == state]
        self._seen = there
        for known in (self._dealt_with, self._attempts):  # files that are gone are forgotten
            for name in known.keys() - there.keys():
                del known[name]
        news = [self._take(name, there[name]) for name in still]
        return any(news)

    def _files(self) -> dict[str, tuple[int, int]]:
        found = {}
        for entry in sorted(os.scandir(self.folder), key=lambda e: e.name):
            if entry.name.startswith(".") or not fnmatch(entry.name, self.pattern):
                continue
            try:
                if entry.is_file():
                    state = entry.stat()
                    found[entry.name] = (state.st_size, state.st_mtime_ns)
            except FileNotFoundError:  # it went while we looked
                continue
        return found

    def _take(self, name: str, state: tuple[int, int]) -> bool:
        try:
            with storage.open_input(str(self.folder / name)) as opened:
                frames = _split(opened.load())
        except Exception as error:
            attempt = self._attempts[name] = self._attempts.get(name, 0) + 1
            if attempt >= ATTEMPTS:
                log.warning("%s cannot be read and is left aside: %s", name, " ".join(str(error).split())[:300])
                self._dealt_with[name] = state
                del self._attempts[name]
            return False
        self._dealt_with[name] = state
        self._attempts.pop(name, None)
        new = {t: frame for t, frame in frames.items() if t not in self.frames}
        self.frames = dict(sorted((self.frames | new).items())[-self.capacity :])
        return any(t in self.frames for t in new)


def _split(dataset: xr.Dataset) -> dict[np.datetime64, xr.Dataset]:
    """Each frame by its time."""
    times = [name for name, index in dataset.indexes.items() if index.dtype.kind == "M"]
    if len(times) != 1 or times[0] not in dataset.dims:
        raise ValueError(f"it has {len(times)} time axes, and a frame needs one")
    values = windows.real_times(dataset[times[0]])
    return {value: dataset.isel({times[0]: [i]}) for i, value in enumerate(values)}


# ---------------------------------------------------------------- what leaves


@dataclass
class _Desk:
    """Makes forecasts and puts them where they belong."""

    folder: Path
    model: Any
    settings: dict[str, Any]
    file_format: str
    keep: int | None
    needed: int = 2  # frames of a forecast; one alone does not tell the step
    made: int = 0
    _step: np.timedelta64 | None = None  # the shortest that was seen
    _last: np.datetime64 | None = None

    def forecast_from(self, frames: dict[np.datetime64, xr.Dataset]) -> None:
        """Forecast from the newest frame, if there is no forecast from it or a later one; log what prevents it."""
        newest = max(frames)
        last = self._newest_made()
        if last is not None and newest <= last:
            return log.info("a frame came late; the newest forecast is from %.16s", np.datetime_as_string(last))
        if len(frames) < self.needed:
            return log.info("%d of the %d frames that a forecast needs have come", len(frames), self.needed)
        clock = str(np.datetime_as_string(newest, unit="m"))
        began = time.monotonic()
        try:
            data = self._joined(frames)
            result = forecast(data, self.model, init_times=[newest], progress=False, **self.settings)
            path = self.folder / f"forecast_{clock.replace('-', '').replace(':', '')}.{self.file_format}"
            storage.write(result, path, overwrite=True)
            self._point_at(path)
        except Exception as error:
            return log.error("no forecast from %s: %s: %s", clock, type(error).__name__, " ".join(str(error).split()))
        self._last = newest
        self.made += 1
        log.info("%s, %.1f s", path.name, time.monotonic() - began)
        self._tidy()

    def _joined(self, frames: dict[np.datetime64, xr.Dataset]) -> xr.Dataset:
        """The frames as one dataset; a step that is longer than one seen before is a gap, and must not pass for one."""
        parts = list(frames.values())
        time_dim = cf.find_field(parts[0], self.settings["variable"]).time
        data = xr.concat(parts, time_dim, data_vars="minimal", coords="minimal", compat="override", join="exact")
        step = windows.time_axis(cf.find_field(data, self.settings["variable"]).array, time_dim).step
        if self._step is not None and step > self._step:
            raise ValueError(
                f"the frames lie {step.astype('m8[s]')} apart, and came every {self._step.astype('m8[s]')}"
            )
        self._step = step
        return data

    def _newest_made(self) -> np.datetime64 | None:
        """Also of an earlier watch on this folder."""
        stamps = [path.name[len("forecast_") :][:13] for path in self._forecasts()]
        times = [np.datetime64(f"{s[:4]}-{s[4:6]}-{s[6:11]}:{s[11:]}", "ns") for s in stamps]
        return max([*times, *([self._last] if self._last is not None else [])], default=None)

    def _forecasts(self) -> list[Path]:
        return sorted(self.folder.glob("forecast_????????T????.*"))

    def _point_at(self, path: Path) -> None:
        """The link changes from the last forecast to this one in one step."""
        draft = self.folder / f".latest.{os.getpid()}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(path.name, target_is_directory=path.is_dir())
        draft.replace(self.folder / f"latest.{self.file_format}")

    def _tidy(self) -> None:
        for old in self._forecasts()[: -self.keep] if self.keep is not None else []:
            if old.is_dir():
                rmtree(old)
            else:
                old.unlink()
