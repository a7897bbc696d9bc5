"""What archives log: to whoever listens to ``xnowcast.archive``, and beside that to a file of each run."""

import logging
from contextvars import ContextVar
from pathlib import Path

from xnowcast.terminal import printable

_FILE: ContextVar[logging.Handler | None] = ContextVar("xnowcast.archive.log", default=None)


class _RunLogger(logging.Logger):
    """The file of the run that logs gets all from INFO on, whatever level others chose for ``xnowcast.archive``.

    It is no logger of the process' tree, so that its level is nobody else's; and two runs at once, in threads of one
    process, have a file each.
    """

    def __init__(self) -> None:
        super().__init__("xnowcast.archive", logging.INFO)

    def callHandlers(self, record: logging.LogRecord) -> None:
        record.msg, record.args = printable(record.getMessage()), ()  # names of files and errors are others' words
        file, shared = _FILE.get(), logging.getLogger(self.name)
        if file is not None:
            file.handle(record)
        if shared.isEnabledFor(record.levelno):
            shared.handle(record)


log = _RunLogger()


class LogFile:
    """Writes what the run in this thread logs to a file, for as long as it lasts.

    ValueError if a folder is in the place of the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with LogFile(Path(folder, "rain.zarr.log")):
    ...         log.info("began")
    ...     Path(folder, "rain.zarr.log").read_text().split()[-2:]
    ['INFO', 'began']
    """

    def __init__(self, path: Path):
        if path.is_dir():
            raise ValueError(f"{path} is a folder, and the log is written there: move it away")
        self._handler = logging.FileHandler(path, delay=True)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def __enter__(self) -> None:
        self._before = _FILE.set(self._handler)

    def __exit__(self, *error: object) -> None:
        _FILE.reset(self._before)
        self._handler.close()
