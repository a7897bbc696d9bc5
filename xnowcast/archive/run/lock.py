"""One run per store: a lock file with host, process and heartbeat, and what becomes of the lock of a dead run."""

import glob
import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from xnowcast.archive.run.logs import log

HEARTBEAT = 15.0
"""Seconds between two signs of life."""
STALE = 180.0
"""Seconds without a sign of life after which a run on another host is taken for dead."""
LARGEST = 4096
"""Bytes. A longer file is no lock, and nobody's to remove."""
MOMENT = 1.0
"""Seconds in which a lock that is just being written must be whole; one that is cut short for longer is nobody's."""


class StoreLock:
    """Held while a store is written; a second run on the same store is refused.

    ``path``: the lock file. ValueError on entering, if a living run holds the lock: a process of this host that is
    still there, or a run on another host that gave a sign of life in the last three minutes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, StoreLock(Path(folder, "rain.zarr.lock")):
    ...     with StoreLock(Path(folder, "rain.zarr.lock")):
    ...         pass
    Traceback (most recent call last):
    ValueError: rain.zarr is being written by process ... of ... since ...
    """

    def __init__(self, path: Path):
        self.path = path
        self.lost = False
        self._token = uuid4().hex
        self._over = threading.Event()
        self._pulse: threading.Thread | None = None

    def __enter__(self) -> "StoreLock":
        while not self._create():
            self._clear_if_dead()
        self._remove_drafts()
        self._pulse = threading.Thread(target=self._beat, name="store-lock", daemon=True)
        self._pulse.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._pulse is not None:
            self._pulse.join()
        with suppress(OSError):  # the disk went away: the lock left there is a dead run's
            if self._is_ours():
                self.path.unlink(missing_ok=True)

    def refuse_if_held(self) -> None:
        """Refuse what a living run holds, before long work that could not be written."""
        holder = self._holder()
        if holder is not None and self._lives(holder):
            raise ValueError(
                f"{self._store} is being written by {_who(holder)}: wait for it, or stop it. If that run is dead, "
                f"delete {self.path}"
            )

    def check(self) -> None:
        """Refuse to go on when another run has taken the store over, after this one was silent for too long."""
        from xnowcast.archive.run.loop import IncompleteRun

        if self.lost:
            raise IncompleteRun(
                f"{self._store} was taken over by {_who(_read(self.path))}: this run gave no sign of life for too long"
            )

    @property
    def _store(self) -> str:
        name = self.path.name.removesuffix(".lock")
        return self.path.parent.name if name.startswith(".") else name  # of a folder the lock lies in it, hidden

    def _create(self) -> bool:
        """Write the whole lock under another name and link it into place, so that nobody reads half of one."""
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "token": self._token,
        }
        draft = self.path.with_name(f"{self.path.name}.{self._token}")
        draft.write_text(json.dumps(holder))
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            return _create_directly(self.path, draft.read_text())
        finally:
            draft.unlink()
        return True

    def _remove_drafts(self) -> None:
        """Drafts of locks, and probes of the clock, that killed runs have left; those of living ones are new."""
        for left in self.path.parent.glob(f"{glob.escape(self.path.name)}.{'[0-9a-f]' * 32}"):
            with suppress(OSError):
                if self.path.stat().st_mtime - left.stat().st_mtime > STALE:
                    left.unlink()

    def _clear_if_dead(self) -> None:
        """Take the lock of a dead run away; two runs that both see it dead cannot both take it."""
        self.refuse_if_held()
        holder = _read(self.path)
        if holder is None:
            return  # it was let go just now
        aside = self.path.with_name(f"{self.path.name}.{self._token}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        taken = _read(aside)
        if taken is not None and taken.get("token") != holder.get("token"):  # a living run was faster
            os.link(aside, self.path)
        else:
            log.warning("took over the lock of a dead run: %s", _who(holder))
        aside.unlink()

    def _holder(self) -> dict[str, Any] | None:
        """Who holds the lock; nobody that is known, ``{}``, where it is empty or cut short and stays so.

        That is what a power cut leaves, for a lock is written whole under another name. A run that lives all the same
        sees within a heartbeat that the lock is no longer its own, and stops.
        """
        if self.path.is_dir():
            raise ValueError(f"the lock {self.path} of {self._store} is a folder: move it away")
        with suppress(FileNotFoundError):
            if self.path.stat().st_size > LARGEST:
                raise ValueError(f"{self.path} is no lock, and lies where that of {self._store} must be: move it away")
        holder = _read(self.path)
        if holder == {}:
            time.sleep(MOMENT)
            holder = _read(self.path)
        return holder

    def _lives(self, holder: dict[str, Any]) -> bool:
        if not holder:
            return False
        if holder.get("host") == socket.gethostname():
            born = _born(holder["pid"])
            return born is not None and born == holder.get("born")
        return self._silence() < STALE

    def _silence(self) -> float:
        """Seconds since the holder's last sign of life, by the clock of the file system."""
        probe = self.path.with_name(f"{self.path.name}.{self._token}")
        probe.touch()
        try:
            return probe.stat().st_mtime - self.path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink()

    def _is_ours(self) -> bool:
        holder = _read(self.path)
        return holder is not None and holder.get("token") == self._token

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT) and not self.lost:
            try:
                if _read(self.path) is None:
                    self._create()  # somebody tidied up
                self.lost = not self._is_ours()
                if not self.lost:
                    os.utime(self.path)
            except OSError as error:  # the disk is away for a while; the lock tells when it is back
                log.warning("no sign of life could be given in %s: %s", self.path, error)


def _create_directly(path: Path, content: str) -> bool:
    try:
        file = open(path, "x")  # noqa: SIM115 (a lock of another must not be removed below)
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except OSError:  # no room: an empty lock would be in everybody's way
        path.unlink(missing_ok=True)
        raise
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """Who wrote a lock; ``{}`` where it does not say, None where there is none."""
    try:
        holder = json.loads(path.read_text())
    except FileNotFoundError:
        return {} if path.is_symlink() else None  # a link to nowhere is in the way, too
    except ValueError:  # no JSON, or no text at all
        return {}
    valid = isinstance(holder, dict) and all(isinstance(holder.get(key), str) for key in ("host", "token"))
    return holder if valid and type(holder.get("pid")) is int else {}


def _who(holder: dict[str, Any] | None) -> str:
    if not holder:
        return "a run that is not known"
    return f"process {holder.get('pid')} of {holder.get('host')} since {holder.get('since')}"


def _born(pid: int) -> str | None:
    """When a process of this host began, which tells it from a later one with its number; None if there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if status[0] == "Z" else status[19]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"
