"""How far a long run has come: a bar for people, a line a minute for logs."""

import time

from xnowcast.archive.run.logs import log
from xnowcast.terminal import progress_bar

LINE_EVERY = 60.0
"""Seconds between two lines of a log."""


class Progress:
    """Counts what is done, beside ``done`` of an earlier run, of ``total``; the log gets a line a minute.

    The bar is on stderr (stdout in a notebook), by default where somebody looks.

    >>> progress = Progress(total=400, done=100, unit="init times", shown=False)
    >>> progress.add(100)
    >>> progress.line().partition(",")[0]
    '200 of 400 init times (50 %)'
    """

    def __init__(self, total: int, done: int, unit: str, *, shown: bool | None = None):
        self.total, self.done, self.unit = total, done, unit
        self.new = 0
        self._began = self._logged = time.monotonic()
        self._bar = progress_bar(total, done, f" {unit}", shown=shown)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Done in this run, per second."""
        return self.new / max(self.seconds, 1e-9)

    def add(self, count: int) -> None:
        """Count so many more as done."""
        self.done += count
        self.new += count
        if self._bar is not None:
            self._bar.update(count)
        self.show()

    def show(self) -> None:
        """Bring the bar up to date, and the log once a minute."""
        if self._bar is not None:
            self._bar.refresh()
        if time.monotonic() - self._logged >= LINE_EVERY:
            self._logged = time.monotonic()
            log.info(self.line())

    def line(self) -> str:
        """Where the run stands, in words."""
        share = f"{self.done} of {self.total} {self.unit} ({100 * self.done // max(self.total, 1)} %)"
        if not self.new:
            return f"{share}, {duration(self.seconds)}"
        left = (self.total - self.done) / self.rate
        return f"{share}, {rate(self.rate)}, {duration(left)} left"

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """A time span in words.

    >>> duration(42.3), duration(600), duration(7_500), duration(200_000)
    ('42 s', '10 min', '2 h 05 min', '2 d 07 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


def rate(per_second: float) -> str:
    """A rate in words, per second, minute or hour, whichever is a number that can be read.

    >>> rate(12.3), rate(0.2), rate(0.005)
    ('12.3/s', '12.0/min', '18.0/h')
    """
    for seconds, unit in ((1, "s"), (60, "min")):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:.1f}/{unit}"
    return f"{per_second * 3600:.1f}/h"
