"""Persistence: the newest frame, unchanged."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xnowcast.models.base import Task
from xnowcast.models.declaration import Declared, Options
from xnowcast.models.transforms import Identity
from xnowcast.nn.noise import Noise


@dataclass(frozen=True, kw_only=True)
class PersistenceOptions(Options):
    def task(self) -> Task:
        return Task("forecast", input_frames=1)


class Persistence(Declared[PersistenceOptions]):
    """The newest frame, unchanged: what everybody must beat.

    >>> import torch
    >>> frames = torch.rand(1, 1, 1, 8, 8)
    >>> Persistence().forecast(frames, frames >= 0, steps=3).shape
    torch.Size([1, 3, 1, 8, 8])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.transform = Identity()

    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` to ``(b, steps, 1, y, x)``."""
        return frames[:, -1:].expand(-1, steps, -1, -1, -1)
