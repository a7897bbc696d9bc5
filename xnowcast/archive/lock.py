"""One run per store: a lock file with host, process and heartbeat, and what becomes of the lock of a dead run."""

import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

HEARTBEAT = 15.0
"""Seconds between two signs of life."""
STALE = 180.0
"""Seconds without a sign of life after which a run on another host is taken for dead."""

log = logging.getLogger("xnowcast.archive")


class StoreLock:
    """Held while a store is written; a second run on the same store is refused.

    Parameters
    ----------
    path : pathlib.Path
        The lock file.

    Raises
    ------
    ValueError
        On entering, if a living run holds the lock: a process of this host that is still there, or a run on another
        host that gave a sign of life in the last three minutes.

    Examples
    --------
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
        self._pulse = threading.Thread(target=self._beat, name="store-lock", daemon=True)
        self._pulse.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._pulse is not None:
            self._pulse.join()
        if self._is_ours():
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Refuse to go on when another run has taken the store over, after this one was silent for too long."""
        from xnowcast.archive.run import IncompleteRun

        if self.lost:
            raise IncompleteRun(
                f"{self._store} was taken over by {_who(_read(self.path))}: this run gave no sign of life for too long"
            )

    @property
    def _store(self) -> str:
        return self.path.name.removesuffix(".lock")

    def _create(self) -> bool:
        """Write the whole lock under another name and link it into place, so that nobody reads half of one."""
        about = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "token": self._token,
        }
        draft = self.path.with_name(f"{self.path.name}.{self._token}")
        draft.write_text(json.dumps(about))
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            return _create_directly(self.path, draft.read_text())
        finally:
            draft.unlink()
        return True

    def _clear_if_dead(self) -> None:
        """Take the lock of a dead run away; two runs that both see it dead cannot both take it."""
        holder = _read(self.path)
        if holder is None:
            return  # it was let go just now
        if self._lives(holder):
            raise ValueError(
                f"{self._store} is being written by {_who(holder)}: wait for it, or stop it. If that run is dead, "
                f"delete {self.path}"
            )
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

    def _lives(self, holder: dict[str, Any]) -> bool:
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
        while not self._over.wait(HEARTBEAT):
            if not self._is_ours():
                self.lost = True
                return
            os.utime(self.path)


def _create_directly(path: Path, content: str) -> bool:
    try:
        with open(path, "x") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _who(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "another run"
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
