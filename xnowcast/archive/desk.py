"""What leaves a watch: forecasts from the newest frames, made again where their input has changed."""

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import xarray as xr

from xnowcast import drafts
from xnowcast.archive.cadence import Kind, digest, kind_of, on_axis, together, usual_step
from xnowcast.archive.run.logs import log
from xnowcast.data import storage
from xnowcast.fields import windows
from xnowcast.verbs.forecast import ForecastRequest, Prepared, prepare, run

MARK = "nowcast_watch_input"
"""Attribute of the forecasts of a watch: a hash of the frames that each was made from."""
HISTORY = 16
"""Frames whose times tell the usual step, beyond those in memory: a stretch of gaps must not pass for a longer step."""
REFUSALS = 5
"""So many frames that are refused for one reason, before any forecast was made: it is the call that will not do."""

_NAME = re.compile(r"forecast_\d{8}T\d{4}(\d\d)?")


@dataclass
class Desk:
    """Makes forecasts and puts them where they belong.

    ``request``: the forecast that is wanted, of data that have yet to come. ``keep``: how many forecasts of a watch
    stay in the folder. ``needed``: frames of a forecast; one alone does not tell the step. ``made``: init times from
    which forecasts were made.
    """

    folder: Path
    request: ForecastRequest
    file_format: str
    keep: int | None
    needed: int = 2
    made: int = 0
    _times: list[np.datetime64] = field(default_factory=list)  # as frames came
    _step: np.timedelta64 | None = None
    _last: tuple[np.datetime64, str] | None = None  # init time and input of the newest forecast
    _kinds: dict[np.datetime64, tuple[Any, np.timedelta64, Kind]] = field(default_factory=dict)
    _left_out: set[np.datetime64] = field(default_factory=set)
    _refusals: list[str] = field(default_factory=list)
    _marks: dict[str, tuple[int, str | None]] = field(default_factory=dict)

    def forecast_from(self, frames: Mapping[np.datetime64, xr.Dataset]) -> None:
        """Forecast from the newest frames that go together, unless that is done; log what prevents it.

        ``frames``: by their times. ValueError if it is not the frames but the call that will not do.
        """
        chosen = self._chosen(frames)
        if len(chosen) < self.needed:
            few = "%d of the %d frames that a forecast needs have come", len(chosen), self.needed
            return log.info(*few) if len(frames) < self.needed else log.error(*few)
        newest, began = chosen[-1], time.monotonic()
        try:
            data = self._joined({t: frames[t] for t in chosen})
            ready = self.prepared(data)
            newest = ready.axis.times[-1]
            mark = self._mark_of_input(ready, [frames[t] for t in chosen])
            path = self._path(newest)
            how = self._to_do(path, newest, mark)
            if how is None:
                return
            result = run(replace(self.request, obj=data, progress=False))
            storage.write(result.assign_attrs({MARK: mark}), path, overwrite=True)
            self._point_at(path)
        except _WrongCall as error:
            raise ValueError(str(error)) from error.__cause__
        except Exception as error:
            why = " ".join(str(error).split())
            return log.error("no forecast from %.16s: %s: %s", newest, type(error).__name__, why)
        self.made += self._last is None or newest != self._last[0]
        self._last = newest, mark
        log.info("%s%s, %.1f s", path.name, how, time.monotonic() - began)
        self._tidy()

    # ------------------------------------------------------------ what goes in

    def _chosen(self, frames: Mapping[np.datetime64, xr.Dataset]) -> list[np.datetime64]:
        """Times of the frames to forecast from."""
        self._times = [*self._times, *(t for t in frames if t not in self._times)][-max(HISTORY, len(frames)) :]
        step = usual_step(self._times)
        if step is None:
            return list(frames)[-1:]
        if self._step is not None and step != self._step:
            log.warning("frames come every %s now, and came every %s", *(s.astype("m8[s]") for s in (step, self._step)))
        self._step = step
        self._kinds = {t: self._kind(t, frame, step) for t, frame in frames.items()}
        kinds = {t: kind for t, (_, _, kind) in self._kinds.items()}
        chosen, others = together(frames, kinds, step, self.needed)
        for t in others:
            if t not in self._left_out:
                log.warning("the frame of %.19s is left out: %s", t, _why_apart(kinds[t], kinds[chosen[-1]], step))
        self._left_out = {*others, *(self._left_out & frames.keys())}
        return chosen

    def _kind(self, t: np.datetime64, frame: xr.Dataset, step: np.timedelta64) -> tuple[Any, np.timedelta64, Kind]:
        """The kind of a frame, and what it was found for: it is looked up once."""
        known = self._kinds.get(t)
        if known is not None and known[0] is frame and known[1] == step:
            return known
        kind = kind_of(frame, time_dim(frame), step, self.request.variable, self.request.zr)
        return frame, step, kind

    def _joined(self, chosen: dict[np.datetime64, xr.Dataset]) -> xr.Dataset:
        """The frames as one dataset, with the labels of the newest; a step that is a gap must not pass for one."""
        parts = list(chosen.values())
        newest, dim = parts[-1], time_dim(parts[-1])
        shared = [name for name in newest.data_vars if all(name in part for part in parts)]
        labels = {name: newest[name] for name in newest.indexes if name != dim}
        alike = [part[shared].assign_coords(labels) for part in parts]
        data = xr.concat(alike, dim, data_vars="minimal", coords="minimal", compat="override", join="exact")
        assert self._step is not None  # of two frames or more
        data = data.assign_coords({dim: (dim, on_axis(list(chosen), self._step), data[dim].attrs)})
        step = windows.time_axis(data[dim], dim).step
        if step != self._step:
            seconds = [s.astype("m8[s]") for s in (step, self._step)]
            raise ValueError(f"the frames lie {seconds[0]} apart, and came every {seconds[1]}")
        return data

    def prepared(self, data: xr.Dataset) -> Prepared:
        """The forecast, checked; what is refused time and again before any was made is a wrong call."""
        try:
            ready = prepare(replace(self.request, obj=data))
        except ValueError as error:
            self._refusals = [*self._refusals, str(error)] if str(error) in self._refusals[-1:] else [str(error)]
            if not self.made and len(self._refusals) >= REFUSALS:
                raise _WrongCall(str(error)) from error
            raise
        self._refusals = []
        return ready

    def _mark_of_input(self, ready: Prepared, frames: list[xr.Dataset]) -> str:
        """Hash of the frames that the forecast reads."""
        chosen = windows.input_windows(ready.axis, ready.task.input_frames, "latest", on_gap=self.request.on_gap)
        read = np.unique([chosen.before, chosen.after])
        return digest_of(digest(frames[i]) for i in read)

    # ------------------------------------------------------------ what comes out

    def _path(self, init_time: np.datetime64) -> Path:
        clock = np.datetime_as_string(init_time, unit="s").replace("-", "").replace(":", "")
        return self.folder / f"forecast_{clock.removesuffix('00')}.{self.file_format}"

    def _to_do(self, path: Path, newest: np.datetime64, mark: str) -> str | None:
        """What to say of the forecast once it is made; None where there is nothing to make."""
        if self._last == (newest, mark):
            log.info("a frame came late; the newest forecast is from %.16s", newest)
            return None
        if self._last is not None and self._last[0] == newest:
            log.info("a frame came late or was corrected: the forecast from %.16s is made again", newest)
            return ", made again"
        if not os.path.lexists(path):
            return ""
        found = self._mark(path)
        if found is None:
            log.error("no forecast from %.16s: there is a %s already that is not of a watch", newest, path.name)
            return None
        if found == mark:
            log.info("the newest forecast is from %.16s, and is there already", newest)
            self._last = newest, mark
            self._point_at(path)  # a watch may have been killed before it did
            self._tidy()
            return None
        log.info("the frames of the forecast from %.16s have changed since: it is made again", newest)
        return ", made again"

    def clear(self) -> None:
        """Remove what a watch that was killed has left half written."""
        for path in self.folder.glob(".forecast_*"):
            drafts.remove_leftovers(self.folder / path.name[1:].rsplit(".", 2)[0])
        for link in self.folder.glob(".latest.*"):
            link.unlink(missing_ok=True)

    def _point_at(self, path: Path) -> None:
        """The link changes from the last forecast to this one in one step."""
        link = self.folder / f"latest.{self.file_format}"
        if link.exists() and not link.is_symlink():
            return log.warning("%s is no link and is left alone", link.name)
        draft = self.folder / f".latest.{os.getpid()}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(path.name, target_is_directory=path.is_dir())
        draft.replace(link)

    def _tidy(self) -> None:
        """Remove the forecasts of a watch that were made longest ago, and nothing else."""
        if self.keep is None:
            return
        try:
            ours = [path for path in self._forecasts() if self._mark(path) is not None]
            self._marks = {path.name: self._marks[path.name] for path in ours}
            for old in sorted(ours, key=_age)[: -self.keep]:
                if old.is_dir():
                    rmtree(old)
                else:
                    old.unlink()
        except OSError as error:
            log.warning("old forecasts could not be removed: %s", error)

    def _forecasts(self) -> list[Path]:
        found = self.folder.glob(f"forecast_*.{self.file_format}")
        return sorted(path for path in found if _NAME.fullmatch(path.stem) and not path.is_symlink())

    def _mark(self, path: Path) -> str | None:
        """The mark of a forecast; None of what was not made by a watch. Looked up once for each that is there."""
        changed = path.lstat().st_mtime_ns
        if self._marks.get(path.name, (None, None))[0] != changed:
            self._marks[path.name] = changed, storage.read_attributes(path).get(MARK)
        return self._marks[path.name][1]


class _WrongCall(Exception):
    """No frame will ever do."""


def time_dim(frame: xr.Dataset) -> Any:
    """Name of the time dim of a frame."""
    return next(name for name, index in frame.indexes.items() if index.dtype.kind == "M")


def digest_of(digests: Iterable[str]) -> str:
    """One hash of several."""
    from hashlib import sha256

    return sha256(" ".join(digests).encode()).hexdigest()[:16]


def _why_apart(kind: Kind, others: Kind, step: np.timedelta64) -> str:
    if kind.same(others):
        return f"it does not lie on the steps of {step.astype('m8[s]')} of the others"
    if kind.meaning == others.meaning:
        return "its grid is another than that of the others"
    return f"its field is another than that of the others: {kind.meaning}"


def _age(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.name
