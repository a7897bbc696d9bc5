"""What arrives in a folder under watch: files that are whole and stand still, as frames, each in its newest version."""

import os
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import xarray as xr

from xnowcast.archive.cadence import digest, doubts, usual_step
from xnowcast.archive.run.logs import log
from xnowcast.data import storage
from xnowcast.fields import windows

ATTEMPTS = 5
"""How often a file that cannot be read is tried, once per poll: it may be half copied."""

State = tuple[int, ...]
"""What changes when somebody writes to a file, or puts another in its place."""


@dataclass
class Inbox:
    """The newest frames of a folder, in memory; as many as are needed and no more.

    ``pattern``: of the names of the files. ``capacity``: frames that are kept. ``enough``: frames of a forecast.
    ``follow_links``: whether to read what links point at outside the folder. ``frames``: by their times, those in doubt
    as well.
    """

    folder: Path
    pattern: str
    capacity: int
    enough: int = 2
    follow_links: bool = False
    frames: dict[np.datetime64, xr.Dataset] = field(default_factory=dict)
    _came: dict[np.datetime64, int] = field(default_factory=dict)  # in which order frames came first
    _ahead: dict[np.datetime64, np.timedelta64] = field(default_factory=dict)  # of the machine's clock, as they came
    _doubted: set[np.datetime64] = field(default_factory=set)
    _count: int = 0
    _last_look: dict[str, State] = field(default_factory=dict)
    _dealt_with: dict[str, State] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _not_followed: set[str] = field(default_factory=set)
    _first: bool = True

    def look(self) -> bool:
        """Read what has come or changed and stands still; whether there is a frame that was not there, or another one.

        OSError if the folder cannot be looked into.
        """
        present = self._files()
        if self._first:  # of a folder that is full already only the newest files matter
            self._first = False
            self._dealt_with = dict(list(present.items())[: -self.capacity])
        new = {name: state for name, state in present.items() if self._dealt_with.get(name) != state}
        still = [name for name, state in new.items() if self._last_look.get(name) == state]
        self._last_look = present
        for known in (self._dealt_with, self._attempts):  # files that are gone are forgotten
            for name in known.keys() - present.keys():
                del known[name]
        # of two versions of a frame that come at once the one counts that was written last
        in_turn = sorted(still, key=lambda name: (present[name][1], name))
        news = [time for name in in_turn for time in self._take(name, present[name])]
        self._forget()
        return any(time in self.frames for time in news)

    def credible(self) -> dict[np.datetime64, xr.Dataset]:
        """The frames that are in no doubt, in rising order."""
        return {time: frame for time, frame in self.frames.items() if time not in self._doubted}

    def _files(self) -> dict[str, State]:
        found = {}
        for entry in sorted(os.scandir(self.folder), key=lambda e: e.name):
            if entry.name.startswith(".") or not fnmatch(entry.name, self.pattern):
                continue
            try:
                if entry.is_file() and (not entry.is_symlink() or self._may_follow(entry)):
                    found[entry.name] = _state(entry.path)
            except OSError:  # it went while we looked, or links point at each other
                continue
        return found

    def _may_follow(self, link: os.DirEntry[str]) -> bool:
        """A link within the folder is another name; one that leads out of it is followed where that was asked for."""
        if self.follow_links or Path(link.path).resolve().is_relative_to(self.folder.resolve()):
            return True
        if link.name not in self._not_followed:
            self._not_followed.add(link.name)
            log.warning("%s is a link out of the folder and is left alone (follow_links=True reads it)", link.name)
        return False

    def _take(self, name: str, state: State) -> list[np.datetime64]:
        """Read a file; the times of frames in it that were not there, or were other ones."""
        path = self.folder / name
        try:
            with storage.open_input(str(path)) as opened:
                frames = _split(opened.load())
            if _state(path) != state:
                return []  # it changed while it was read: it is read again once it stands still
        except Exception as error:
            attempt = self._attempts[name] = self._attempts.get(name, 0) + 1
            if attempt >= ATTEMPTS:
                log.warning("%s cannot be read and is left aside: %s", name, " ".join(str(error).split())[:300])
                self._dealt_with[name] = state
                del self._attempts[name]
            return []
        self._dealt_with[name] = state
        self._attempts.pop(name, None)
        return [time for time, frame in sorted(frames.items()) if self._keep(time, frame)]

    def _keep(self, time: np.datetime64, frame: xr.Dataset) -> bool:
        before = self.frames.get(time)
        if before is not None and digest(before) == digest(frame):
            return False
        if before is not None:
            log.info("the frame of %.19s was sent again with other content, which counts", time)
        self.frames[time] = frame
        if time not in self._came:
            self._count += 1
            self._came[time] = self._count
            self._ahead[time] = time - _now()
        return True

    def _forget(self) -> None:
        """Drop the frames that are too many or out of question, and find out which of the others are in doubt."""
        step = usual_step(self.frames)
        self._drop_future(step)
        found = doubts(self._came, step, self.enough)
        for time in sorted(found.keys() - self._doubted):
            log.warning("the frame of %.19s lies ahead of the others: it is left out until those between come", time)
        good = [time for time in sorted(self.frames) if time not in found]
        # Once the frames of a whole forecast have come that go on before it, its date is wrong: it is never trusted.
        waiting = [time for time in sorted(found, key=self._came.__getitem__) if found[time] < self.enough]
        kept = sorted([*good[-self.capacity :], *waiting[-self.capacity :]])
        self.frames = {time: self.frames[time] for time in kept}
        self._came = {time: self._came[time] for time in kept}
        self._ahead = {time: self._ahead[time] for time in kept}
        self._doubted = set(waiting[-self.capacity :])

    def _drop_future(self, step: np.timedelta64 | None) -> None:
        """Drop what was later than the machine's clock when it came, unless most were: then it is the clock."""
        early = [time for time in self.frames if step is not None and self._ahead[time] > step]
        if 2 * len(early) < len(self.frames):
            for time in early:
                log.warning("the frame of %.19s is dated in the future: it is left out", time)
                del self.frames[time], self._came[time]


def _state(path: str | os.PathLike[str]) -> State:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _now() -> np.datetime64:
    return np.datetime64("now", "ns")


def _split(dataset: xr.Dataset) -> dict[np.datetime64, xr.Dataset]:
    """Each frame by its time."""
    dataset = _with_time_axis(windows.with_real_times(dataset))
    times = [name for name, index in dataset.indexes.items() if index.dtype.kind == "M"]
    if len(times) != 1 or times[0] not in dataset.dims:
        raise ValueError(f"it has {len(times)} time axes, and a frame needs one")
    values = windows.real_times(dataset[times[0]])
    return {value: dataset.isel({times[0]: [i]}) for i, value in enumerate(values)}


def _with_time_axis(dataset: xr.Dataset) -> xr.Dataset:
    """A single frame whose time stands beside it gets an axis of one time."""
    scalars = [name for name, v in dataset.coords.items() if not v.dims and v.dtype.kind == "M"]
    times = [n for n in scalars if n == "time" or dataset[n].attrs.get("standard_name") == "time"] or scalars
    if len(times) != 1 or any(index.dtype.kind == "M" for index in dataset.indexes.values()):
        return dataset
    fields = {name: v.expand_dims(times[0]) for name, v in dataset.data_vars.items() if v.ndim > 1}
    return dataset.drop_vars(times).assign(fields)
