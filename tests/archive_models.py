"""Models that do to a long run what happens at night: they die, fail, wait, interrupt and are counted."""

import os
import signal
import time
from pathlib import Path

from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity


def wait_until(condition):
    """However long it takes on a busy machine; the suite's timeout ends what never comes."""
    while not condition():
        time.sleep(0.01)


class Noisy:
    """The newest frame, each member with its own noise; something befalls the batch whose number is ``when``."""

    def __init__(self, folder="", when=(), what="nothing", slow=0.0):
        self.task = self.declare()
        self.transform = Identity()
        self.folder, self.when, self.what, self.slow = folder, tuple(when), what, slow

    @classmethod
    def declare(cls, folder="", when=(), what="nothing", slow=0.0):
        return Task("forecast", input_frames=2, stochastic=True)

    def forecast(self, frames, observed, steps, noise=None):
        b, _, _, ny, nx = frames.shape
        if self.folder:
            self._befall()
        time.sleep(self.slow)
        newest = frames[:, -1:].repeat_interleave(len(noise) // b, dim=0)
        return newest * (1 + 0.5 * noise.normal(steps, 1, ny, nx)).clamp_min(0)

    def _befall(self):
        number = self._count()
        if number not in self.when:
            return
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        if self.what == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.what == "wait":
            wait_until(Path(self.folder, "go").exists)
        if self.what == "fail":
            raise RuntimeError(f"call {number} fails")

    def _count(self):
        """Which call this is, counted over all processes."""
        number = 0
        while True:
            try:
                Path(self.folder, f"call-{number}").touch(exist_ok=False)
                return number
            except FileExistsError:
                number += 1
