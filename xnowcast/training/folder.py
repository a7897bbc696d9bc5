"""The folder of a training run: configuration, checkpoint, weights, metrics, log and pictures."""

import csv
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xnowcast import drafts
from xnowcast.archive.run.lock import StoreLock
from xnowcast.data import storage
from xnowcast.drafts import draft

CHECKPOINT, BEST, MODEL = "checkpoint.safetensors", "best.safetensors", "model.safetensors"
LOCK = ".train.lock"
"""Beside a run that was killed it may lie on, and is in nobody's way."""


class RunFolder:
    """Where a run is written.

    ``resume``: go on with what is there. ValueError if the folder holds something already and ``resume`` is False, it
    is a file, or another run is writing it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "notes.txt").write_text("precious")
    ...     RunFolder(folder, resume=False)
    Traceback (most recent call last):
    ValueError: the run folder ... is not empty (notes.txt): choose another, or go on with resume=True (--resume)
    """

    def __init__(self, path: str | Path, *, resume: bool):
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.checkpoint, self.best, self.model = (self.path / name for name in (CHECKPOINT, BEST, MODEL))
        self._metrics = self.path / "metrics.csv"
        self._log = self.path / "train.log"
        self._rows: list[dict[str, str]] = []
        self._columns: list[str] = []
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"the run folder {self.path} is a file")
        if storage.is_store(self.path):
            raise ValueError(f"the run folder {self.path} is a Zarr store: choose another")
        if self.path.is_dir():
            StoreLock(self.path / LOCK).refuse_if_held()
        found = self._content()
        self._planned = found, self._newest_checkpoint()
        if found and not resume:
            some = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
            raise ValueError(
                f"the run folder {self.path} is not empty ({some}): choose another, or go on with resume=True "
                "(--resume)"
            )

    def _content(self) -> list[str]:
        names = (entry.name for entry in self.path.iterdir()) if self.path.is_dir() else ()
        return sorted(name for name in names if not name.startswith(LOCK))

    def _newest_checkpoint(self) -> int | None:
        return self.checkpoint.stat().st_mtime_ns if self.checkpoint.is_file() else None

    @contextmanager
    def held(self) -> Iterator[StoreLock]:
        """The folder, made where it is missing, for this run alone.

        ValueError if another run is writing it, or has written it since this one was planned.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with StoreLock(self.path / LOCK) as lock:
            if (self._content(), self._newest_checkpoint()) != self._planned:
                raise ValueError(f"another run wrote to {self.path} while this one was planned: start it again")
            for path in (self.config, self.checkpoint, self.best, self.model, self._metrics):
                drafts.remove_leftovers(path)
            yield lock

    def require_space(self, checkpoint_bytes: int, weights_bytes: int) -> None:
        """Refuse a disk on which the checkpoints and weights of the run have no place.

        ``checkpoint_bytes, weights_bytes``: of one file each. While a file is replaced, both the old and the new one
        are there. ValueError if there is too little.
        """
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.is_dir())
        held = sum(file.stat().st_size for file in (self.checkpoint, self.best, self.model) if file.is_file())
        needed = 2 * checkpoint_bytes + 3 * weights_bytes - held
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise ValueError(
                f"the disk of {existing} has {_size(free)} free, and the run needs {_size(needed)}: two checkpoints of "
                f"{_size(checkpoint_bytes)} and three files of weights of {_size(weights_bytes)}"
            )

    def open(self, step: int) -> None:
        """Forget what a run that was stopped wrote after its checkpoint at ``step``."""
        if self._metrics.is_file() and step:
            lines = self._metrics.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # the last was cut short if the run was killed
            self._rows = [row for row in csv.DictReader(whole) if int(row["step"]) <= step]
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        self._write_metrics()

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.csv; a column that is new stays empty in the lines before."""
        text = {name: f"{value:.9g}" if isinstance(value, float) else str(value) for name, value in row.items()}
        self._rows.append(text)
        if new := [name for name in text if name not in self._columns]:
            self._columns += new
            self._write_metrics()
            return
        with open(self._metrics, "a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(text)

    def _write_metrics(self) -> None:
        with draft(self._metrics) as new, open(new, "w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._rows)

    def log(self, line: str) -> None:
        """Add a line to train.log with the time."""
        with open(self._log, "a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def picture(self, step: int) -> Path:
        """Path of the sample picture of a step."""
        folder = self.path / "samples"
        folder.mkdir(exist_ok=True)
        return folder / f"step_{step:06d}.png"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"
