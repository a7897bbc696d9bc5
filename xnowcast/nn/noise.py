"""One source of random numbers per member, the same wherever and in whatever company the member is computed."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import torch
from torch import Tensor


def member_generator(seed: int, init_time: int, member: int, *labels: object) -> np.random.Generator:
    """Random generator of one member of one forecast.

    ``seed``: the user's seed, 0 or more. ``init_time``: nanoseconds since 1970-01-01. ``member``: number of the member,
    from 0. ``*labels``: whatever else tells samples apart, such as a tile or an extra dimension's label. Returned:
    philox, seeded by nothing but the arguments. NumPy's generator rather than torch's: its stream is the same on every
    machine, and it needs no device.

    >>> a = member_generator(0, 1_700_000_000_000_000_000, 3).standard_normal()
    >>> b = member_generator(0, 1_700_000_000_000_000_000, 3).standard_normal()
    >>> c = member_generator(0, 1_700_000_000_000_000_000, 4).standard_normal()
    >>> a == b, a == c
    (True, False)
    """
    keys = [int(seed), int(init_time) % 2**64, int(member), *(crc32(str(label).encode()) for label in labels)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(keys)))


class Noise:
    """Noise for a batch: one generator per sample, so that a batch draws what its samples would draw alone.

    Parameters
    ----------
    generators : sequence of numpy.random.Generator
        One per sample, in the order of the batch.
    device : torch.device or str
        Where the numbers go. They are always drawn on the CPU.
    """

    def __init__(self, generators: Sequence[np.random.Generator], device: torch.device | str = "cpu"):
        self.generators = list(generators)
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers ``(samples, *shape)``, float32."""
        draws = [generator.standard_normal(shape, dtype=np.float32) for generator in self.generators]
        return torch.from_numpy(np.stack(draws)).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers between 0 and 1, ``(samples, *shape)``, float32."""
        draws = [generator.random(shape, dtype=np.float32) for generator in self.generators]
        return torch.from_numpy(np.stack(draws)).to(self.device)


class Silence(Noise):
    """No noise for a batch of so many samples: what a model says where chance has no part.

    >>> Silence(2).normal(3).tolist(), Silence(1).uniform(2).tolist()
    ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.5, 0.5]])
    """

    def __init__(self, samples: int, device: torch.device | str = "cpu"):
        super().__init__([], device)
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def normal(self, *shape: int) -> Tensor:
        """Zeros ``(samples, *shape)``, the mean of the others."""
        return torch.zeros(self.samples, *shape, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Halves ``(samples, *shape)``, the mean of the others."""
        return torch.full((self.samples, *shape), 0.5, device=self.device)


def source(noise: Noise | None, forecasts: int) -> Noise:
    """The noise of some forecasts, which must have as many sources for each of them."""
    if noise is None or len(noise) == 0 or len(noise) % forecasts:
        count = "no" if noise is None else len(noise)
        raise ValueError(f"there are {count} noise sources for {forecasts} forecasts; give one per member of each")
    return noise


def for_each_member(count: int, *parts: Tensor) -> list[Tensor]:
    """Each forecast's part as often as it has members, ``count`` in all, the member varying fastest."""
    return [part.repeat_interleave(count // len(part), dim=0) for part in parts]
