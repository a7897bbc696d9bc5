"""What trained downscalers have in common: options, further fields and their ranges, and pairs to learn from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast.models.base import Loss, Task, TrainingBatch
from xnowcast.models.declaration import Declared, Options, option
from xnowcast.models.transforms import Logarithm

LEAST_COVERAGE = 0.5
"""Share of a coarse cell that has to be measured for it to count in training, as where data are coarsened."""


@dataclass(frozen=True, kw_only=True)
class DownscalerOptions(Options):
    """Options of a `TrainedDownscaler`; a system adds its own."""

    factor: int = option(
        8, "How many fine cells along y and x make a coarse one; a power of two, and weights are for one."
    )
    channels: Sequence[str] = option(
        (),
        'Further fields on the coarse grid such as ``"eastward_wind at 850 hPa"``, named as in `xnowcast.channels`. '
        "`xnowcast.train` measures the ranges that "
        "they are scaled by; in a loop of your own give them with `set_ranges`.",
    )
    static: Sequence[str] = option(
        (), "Further fields on the fine grid, such as ``surface_altitude``; scaled likewise."
    )
    eps: float = option(3.6e-4, "mm/h, of the scaling of the rain: see `xnowcast.transforms.Logarithm`.")
    highest: float = option(256.0, "mm/h, likewise.")
    tile: int = option(
        384, "Fine grids wider or higher than this many cells are refined in overlapping tiles.", runtime=True
    )

    frames = 1
    """That are refined together."""

    stochastic = False

    @property
    def multiple(self) -> int:
        """What the sides of a fine grid, and of its tiles, have to be multiples of."""
        raise NotImplementedError

    def check(self) -> None:
        Logarithm(self.eps, self.highest)
        multiple = self.multiple
        if self.tile % multiple or self.tile < 2 * multiple:
            raise ValueError(f"tile is {self.tile} cells: choose a multiple of {multiple}, at least {2 * multiple}")

    def task(self) -> Task:
        return Task(
            "downscale",
            input_frames=self.frames,
            quantity="rain_rate",
            grid_multiple=self.multiple // gcd(self.multiple, self.factor),
            min_grid=2,
            stochastic=self.stochastic,
            trained=True,
            factor=self.factor,
            channels=_names("channels", self.channels),
            static=_names("static", self.static),
        )


OwnOptions = TypeVar("OwnOptions", bound=DownscalerOptions)


class TrainedDownscaler(Declared[OwnOptions], nn.Module, Generic[OwnOptions]):
    """A system scales rain with `transform` to [-1, 1] and further fields with their ranges; it has a `pair_loss`.

    The ranges are two buffers, so that they are part of the weights.
    """

    options: OwnOptions
    lowest: Tensor
    largest: Tensor

    interpolation = "bicubic"
    """How coarse fields come to the fine grid."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        own = self.options
        self.factor, self.training_frames = own.factor, own.frames
        self.transform = Logarithm(own.eps, own.highest)
        for end in ("lowest", "largest"):
            self.register_buffer(end, torch.full((len(self.further),), torch.nan))

    @property
    def further(self) -> tuple[str, ...]:
        """Names of all fields beside the rain."""
        return (*self.task.channels, *self.task.static)

    def set_ranges(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        """Say between which values further fields lie in the training data; they are part of the weights.

        ``ranges``: name of each of the task's ``channels`` and ``static`` to its lowest and largest value, in canonical
        units (see `xnowcast.channels`). They become -1 and 1, and what lies beyond is clipped. ValueError if a field is
        missing or unknown, or a range is empty.

        >>> from xnowcast import models
        >>> model = models.build("stvd", size="tiny", channels=["eastward_wind"], static=["surface_altitude"])
        >>> model.set_ranges({"eastward_wind": (-40, 40), "surface_altitude": (0, 4000)})
        >>> model.largest.tolist()
        [40.0, 4000.0]
        """
        if set(ranges) != set(self.further):
            raise ValueError(
                f"there are ranges of {_listed(ranges)}; the model reads {_listed(self.further)} beside the rain"
            )
        for name, (low, high) in ranges.items():
            if not float("-inf") < low < high < float("inf"):
                raise ValueError(f"the range of {name!r} is {low} to {high}: the first must be less than the second")
        with torch.no_grad():
            for buffer, end in ((self.lowest, 0), (self.largest, 1)):
                buffer.copy_(torch.tensor([float(ranges[name][end]) for name in self.further]))

    def set_channel_statistics(self, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> None:
        """The ranges of the channels, ``(c,)`` each, from the training data. Those that were set before stay."""
        self._set_unknown(slice(0, len(self.task.channels)), low, high)

    def set_static_statistics(self, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> None:
        """The ranges of the static fields, ``(k,)`` each, from the training data. Those that were set before stay."""
        self._set_unknown(slice(len(self.task.channels), None), low, high)

    @torch.no_grad()
    def _set_unknown(self, which: slice, low: Tensor, high: Tensor) -> None:
        unknown = self.lowest[which].isnan()
        # a field that is the same everywhere has no range, and 1 is as good as any other
        high = torch.where(high > low, high, low + 1)
        for buffer, ends in ((self.lowest, low), (self.largest, high)):
            buffer[which] = torch.where(unknown, ends.to(buffer), buffer[which])

    # ------------------------------------------------------------ what is read

    def _coarse_inputs(self, frames: Tensor, static: Tensor | None = None) -> Tensor:
        """Everything that is read, (b, t, c, y, x) on the coarse grid and in [-1, 1].

        Each fine cell of a static field within a coarse one is a channel of its own.
        """
        read = self._channels_scaled(frames)
        if static is None:
            return read
        cells = F.pixel_unshuffle(self._static_scaled(static), self.factor)
        return torch.cat([read, cells.expand(*read.shape[:2], -1, -1, -1)], dim=2)

    def _fine_inputs(self, frames: Tensor, static: Tensor | None) -> Tensor:
        """Everything that is read, (b, t, c, y, x) on the fine grid and in [-1, 1]."""
        # bicubic interpolation overshoots, and the networks have never seen what lies beyond
        fine = _interpolated(self._channels_scaled(frames), self.factor, self.interpolation).clamp(-1, 1)
        if static is None:
            return fine
        return torch.cat([fine, self._static_scaled(static).expand(*fine.shape[:2], -1, -1, -1)], dim=2)

    def _channels_scaled(self, frames: Tensor) -> Tensor:
        """Rain and channels, (b, t, c, y, x), in [-1, 1]; what a channel misses is at the middle of its range."""
        count = len(self.task.channels)
        if not count:
            return frames
        others = self._scaled(frames[:, :, 1:], slice(0, count)).nan_to_num(0.0)
        return torch.cat([frames[:, :, :1], others], dim=2)

    def _static_scaled(self, static: Tensor) -> Tensor:
        """Static fields of all sequences (k, y, x) or of each (b, k, y, x) to (b or 1, 1, k, y, x) in [-1, 1]."""
        own = static if static.ndim == 4 else static[None]
        return self._scaled(own[:, None], slice(len(self.task.channels), None))

    def _scaled(self, fields: Tensor, which: slice) -> Tensor:
        """Further fields (..., c, y, x) between -1 and 1."""
        low, high = (end[which, None, None] for end in (self.lowest, self.largest))
        if bool(low.isnan().any()):
            raise ValueError("the ranges of the further fields were never set: call set_ranges before training")
        return ((fields - low) * (2 / (high - low)) - 1).clamp(-1, 1)

    def _check(self, frames: Tensor, factor: int, static: Tensor | None) -> None:
        task = self.task
        if factor != self.factor:
            raise ValueError(f"factor is {factor}; this model was made for {self.factor}")
        if frames.shape[1] < task.input_frames:
            raise ValueError(f"there are {frames.shape[1]} frames; this model looks at {task.input_frames} at once")
        if frames.shape[2] != 1 + len(task.channels):
            wanted = _listed(("rain", *task.channels))
            raise ValueError(f"there are {frames.shape[2]} channels; this model reads {wanted}")
        given = 0 if static is None else static.shape[-3]
        if given != len(task.static):
            raise ValueError(f"there are {given} static fields; this model reads {_listed(task.static)}")
        multiple = task.grid_multiple
        if frames.shape[-2] % multiple or frames.shape[-1] % multiple:
            raise ValueError(f"a grid of {tuple(frames.shape[-2:])} cells: pad it to multiples of {multiple}")

    # ------------------------------------------------------------ training

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """The `pair_loss` of fine rain and further fields that are coarsened here; means over what was measured."""
        multiple = self.task.grid_multiple * self.factor
        if any(size % multiple for size in batch.rain.shape[-2:]):
            raise ValueError(
                f"samples of {tuple(batch.rain.shape[-2:])} cells; at factor {self.factor} training takes multiples of "
                f"{multiple}"
            )
        coarse, measured = coarsened(batch.rain, batch.observed, self.factor)
        if batch.channels is not None:
            known = ~batch.channels.isnan()
            others, valid = coarsened(batch.channels.nan_to_num(0.0), known, self.factor)
            coarse = torch.cat([coarse, others.masked_fill(~valid, torch.nan)], dim=2)
        return self.pair_loss(coarse, measured, batch.rain, batch.observed, batch.static)

    def pair_loss(
        self, coarse: Tensor, coarse_observed: Tensor, fine: Tensor, observed: Tensor, static: Tensor | None = None
    ) -> Loss:
        """The loss of coarse fields and the fine rain that belongs to them.

        ``coarse``: ``(b, t, c, y, x)``: rain in mm h-1, 0 where not measured, then the task's channels in canonical
        units, NaN where missing. ``coarse_observed``: ``(b, t, 1, y, x)`` bool: where rain was measured. ``fine``:
        ``(b, t, 1, y * factor, x * factor)``: rain in mm h-1, 0 where not measured. ``observed``: as ``fine``, bool.
        ``static``: ``(k, y * factor, x * factor)`` or, for sequences from different places, ``(b, k, ...)``: the task's
        static fields in canonical units. ValueError if the number of frames or of fields is not the model's, or the
        grid no multiple.
        """
        if fine.shape[1] != self.training_frames:
            raise ValueError(f"there are {fine.shape[1]} frames; training takes {self.training_frames}")
        self._check(coarse, self.factor, static)
        scaled = torch.cat([self.transform(coarse[:, :, :1]), coarse[:, :, 1:]], dim=2)
        # what the input calls dry because it was not measured teaches nothing
        measured = observed & _repeated(coarse_observed, self.factor)
        return self._scaled_loss(scaled, static, self.transform(fine), measured)

    def _scaled_loss(self, frames: Tensor, static: Tensor | None, truth: Tensor, measured: Tensor) -> Loss:
        """`pair_loss` of frames as `downscale` gets them, and of the truth, (b, t, 1, y, x) in [-1, 1]."""
        raise NotImplementedError

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one."""
        return None


def coarsened(rain: Tensor, observed: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Means over ``factor`` x ``factor`` cells of what was measured.

    Both are ``(b, t, c, y, x)``, the second bool. A coarse cell is measured where half of it was, as for the verb
    `coarsen`; it is 0 elsewhere.

    >>> rain = torch.tensor([[4.0, 8.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).view(1, 1, 1, 2, 4)
    >>> measured = torch.tensor([[True, True, True, False], [True, False, False, False]]).view(1, 1, 1, 2, 4)
    >>> coarse, coarse_measured = coarsened(rain, measured, 2)
    >>> coarse.flatten().tolist(), coarse_measured.flatten().tolist()
    ([4.0, 0.0], [True, False])
    """
    share = F.avg_pool2d(observed.to(rain).flatten(0, 1), factor)
    mean = F.avg_pool2d((rain * observed).flatten(0, 1), factor) / share.clamp_min(1e-6)
    known = share >= LEAST_COVERAGE
    return tuple(part.unflatten(0, rain.shape[:2]) for part in (mean * known, known))  # type: ignore[return-value]


def measured_mean(values: Tensor, measured: Tensor) -> Tensor:
    """Mean over cells that were measured; 0 where there are none."""
    measured = measured.to(values)
    return (values * measured).sum() / measured.sum().clamp_min(1.0)


def _interpolated(coarse: Tensor, factor: int, mode: str) -> Tensor:
    fine = F.interpolate(coarse.flatten(0, 1), scale_factor=factor, mode=mode, align_corners=False)
    return fine.unflatten(0, coarse.shape[:2])


def _repeated(cells: Tensor, factor: int) -> Tensor:
    return cells.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def _names(option: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(f"{option} is {names!r}: give a list of different standard names")
    return tuple(names)


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
