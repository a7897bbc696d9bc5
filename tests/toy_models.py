"""Small models that put the engine to the test: one with members, one with weights, one that counts."""

import threading
from datetime import timedelta

import torch
from torch import nn

from xnowcast.models.base import Deblurred, Task
from xnowcast.models.transforms import Decibel, Identity


class NoisyPersistence:
    """The newest frame, each member with its own multiplicative noise."""

    def __init__(self, amplitude: float = 0.5):
        self.task = self.declare(amplitude=amplitude)
        self.transform = Identity()
        self.amplitude = amplitude

    @classmethod
    def declare(cls, amplitude: float = 0.5) -> Task:
        return Task("forecast", input_frames=2, stochastic=True)

    def forecast(self, frames, observed, steps, noise=None):
        b, _, _, ny, nx = frames.shape
        newest = frames[:, -1:].repeat_interleave(len(noise) // b, dim=0)
        return newest * (1 + self.amplitude * noise.normal(steps, 1, ny, nx)).clamp_min(0)


class TinyNet(nn.Module):
    """One convolution over the frames; needs weights, grids of multiples of 4, and a 5-minute step."""

    def __init__(self, width: int = 2):
        super().__init__()
        self.task = self.declare(width=width)
        self.transform = Decibel()
        self.hidden = nn.Conv2d(2, width, 3, padding=1)
        self.out = nn.Conv2d(width, 1, 3, padding=1)
        self.dropout = nn.Dropout(0.5)

    @classmethod
    def declare(cls, width: int = 2) -> Task:
        return Task(
            "forecast",
            input_frames=2,
            quantity="rain_rate",
            step=timedelta(minutes=5),
            grid_multiple=4,
            max_steps=6,
            trained=True,
        )

    def forecast(self, frames, observed, steps, noise=None):
        assert frames.shape[-1] % 4 == 0 and frames.shape[-2] % 4 == 0
        step = self.out(self.dropout(torch.relu(self.hidden(frames[:, :, 0] / 10))))
        return (frames[:, -1:] + step[:, None]).expand(-1, steps, -1, -1, -1)


class Counting:
    """Persistence that counts how often it is built and called; the newest frame must never be all dry.

    The first call waits a moment for a second one beside it, so that two which may run at once do so.
    """

    built = 0
    calls = 0
    batch_sizes: list[int] = []
    running = 0
    most_at_once = 0
    lock = threading.Lock()
    another_came = threading.Event()

    def __init__(self) -> None:
        type(self).built += 1
        self.task = self.declare()
        self.transform = Identity()

    @classmethod
    def declare(cls) -> Task:
        return Task("forecast", input_frames=1)

    @classmethod
    def reset(cls) -> None:
        cls.built = cls.calls = cls.most_at_once = 0
        cls.batch_sizes = []
        cls.another_came.clear()

    def forecast(self, frames, observed, steps, noise=None):
        with self.lock:
            Counting.calls += 1
            Counting.running += 1
            Counting.most_at_once = max(Counting.most_at_once, Counting.running)
            first = Counting.calls == 1
        if first:
            self.another_came.wait(0.3)
        else:
            self.another_came.set()
        Counting.batch_sizes.append(len(frames))
        with self.lock:
            Counting.running -= 1
        return frames[:, -1:].expand(-1, steps, -1, -1, -1)


class NoisySharpener:
    """Each frame a little higher at its peaks, with noise; says that the blur was a box of 3 x 3 cells."""

    def __init__(self, amplitude: float = 0.1):
        self.task = self.declare(amplitude=amplitude)
        self.transform = Identity()
        self.amplitude = amplitude

    @classmethod
    def declare(cls, amplitude: float = 0.1) -> Task:
        return Task("deblur", input_frames=1, quantity="rain_rate", grid_multiple=4, stochastic=True, kernel_size=3)

    def deblur(self, frames, observed, noise):
        assert frames.shape[-1] % 4 == 0 and frames.shape[-2] % 4 == 0
        sharp = 1.2 * frames + self.amplitude * noise.normal(1, *frames.shape[-2:]).abs() * (frames > 0)
        kernel = torch.full((len(frames), 3, 3), 1 / 9)
        blurred = nn.functional.conv2d(sharp, kernel[:1, None], padding=1)
        return Deblurred(sharp, kernel, blurred, (blurred - frames).square().mean((1, 2, 3)))


class NoisyRefiner:
    """Nearest neighbours over three frames of rain and one of a further channel, with noise where it rains."""

    def __init__(self, stochastic: bool = True, channels=(), fixed=()):
        self.task = self.declare(stochastic=stochastic, channels=channels, fixed=fixed)
        self.transform = Identity()

    @classmethod
    def declare(cls, stochastic: bool = True, channels=(), fixed=()) -> Task:
        return Task(
            "downscale",
            input_frames=3,
            grid_multiple=4,
            min_grid=4,
            stochastic=stochastic,
            factor=4,
            channels=tuple(channels),
            static=tuple(fixed),
        )

    def downscale(self, frames, observed, factor, static=None, noise=None):
        b, t, c, ny, nx = frames.shape
        assert t >= 3 and ny % 4 == 0 and nx % 4 == 0 and c == 1 + len(self.task.channels)
        fine = frames.sum(2, keepdim=True).repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        if static is not None:
            fine = fine + (fine > 0) * static.sum(0)
        if noise is None:
            return fine
        m = len(noise) // (b * t)
        draws = noise.normal(1, ny * factor, nx * factor).reshape(b * m, t, 1, ny * factor, nx * factor)
        return fine.repeat_interleave(m, 0) * (1 + 0.3 * draws.abs())
