"""Ctrl-C that asks long work to end well."""

import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any


class Interruption:
    """The first signal asks for a stop at the next good place, the second stops at once.

    Elsewhere than in the main thread of a process nothing is changed.

    ``signals``: ctrl-C by default. ``announce``: called when a stop is asked for.

    >>> with Interruption() as interruption:
    ...     signal.raise_signal(signal.SIGINT)
    ...     interruption.asked
    True
    """

    def __init__(self, signals: Sequence[int] = (signal.SIGINT,), announce: Callable[[], None] = lambda: None) -> None:
        self.asked = False
        self._signals, self._announce = signals, announce
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in self._signals}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *signal_and_frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._announce()
