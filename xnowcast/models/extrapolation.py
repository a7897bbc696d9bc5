"""Extrapolation: the rain moves on as it moved in the last frames, and neither grows nor decays."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xnowcast.models.base import Task
from xnowcast.models.declaration import Declared, Options, option
from xnowcast.models.transforms import Identity
from xnowcast.nn.advection import advect
from xnowcast.nn.moving_frame import CARRIED, check_window, motion_of
from xnowcast.nn.noise import Noise


@dataclass(frozen=True, kw_only=True)
class ExtrapolationOptions(Options):
    input_frames: int = option(4, "Frames read, at least 2. The motion is fitted to all of them.")
    inflow: str = option(
        "nan",
        "What stands where the trajectory starts outside the grid or on a cell that the newest frame does not measure: "
        "NaN (nothing is known of it), or 0 mm h-1.",
        choices=("nan", "dry"),
    )
    window: float = option(
        16.0, "Standard deviation, in grid cells, of the window within which the motion is taken as one."
    )
    carried: float = option(
        CARRIED,
        "0: the motion stays in its place and trajectories bend along it; 1: each piece of rain keeps its own motion. "
        "The default lies between.",
    )
    interpolation: str = option(
        "bilinear", "How the newest frame is read between its cells.", choices=("bilinear", "nearest")
    )

    def check(self) -> None:
        if self.input_frames < 2:
            raise ValueError(f"input_frames is {self.input_frames}: motion needs at least 2 frames")
        check_window(self.window)
        if not 0 <= self.carried <= 1:
            raise ValueError(f"carried is {self.carried}: it is a share between 0 and 1")

    def task(self) -> Task:
        frames = self.input_frames
        return Task("forecast", input_frames=frames, coverage="advected" if self.inflow == "nan" else "observed")


class Extrapolation(Declared[ExtrapolationOptions]):
    """Dense optical flow on the last frames, then backward semi-Lagrangian advection of the newest one.

    Needs no weights and has no noise: the baseline that a trained model must beat. The motion comes from
    `xnowcast.nn.optical_flow.dense_flow`, the transport from `xnowcast.nn.advection.advect`; each lead is
    interpolated once, from the newest frame.

    ValueError if an option is not one of these.

    >>> frames = torch.zeros(1, 4, 1, 32, 32)
    >>> forecast = Extrapolation().forecast(frames, frames >= 0, steps=6)
    >>> forecast.shape, float(forecast.max())
    (torch.Size([1, 6, 1, 32, 32]), 0.0)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.transform = Identity()

    @torch.inference_mode()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` in mm h-1, t at least 2, to ``(b, steps, 1, y, x)``, NaN as ``inflow`` says."""
        b, _, _, ny, nx = frames.shape
        answer = frames.new_empty(b, steps, 1, ny, nx)
        # one sample at a time keeps the work in the CPU's cache; a GPU is faster with all at once
        size = 1 if frames.device.type == "cpu" else max(b, 1)
        for i in range(0, b, size):
            part = slice(i, i + size)
            answer[part, :, 0] = self._move_on(frames[part, :, 0], observed[part, :, 0], steps)
        return answer

    def _move_on(self, rain: Tensor, valid: Tensor, steps: int) -> Tensor:
        """Frames (b, t, y, x) to forecasts (b, steps, y, x)."""
        own = self.options
        motion = motion_of(rain, valid, window=own.window)
        return advect(
            rain[:, -1],
            motion,
            steps,
            observed=valid[:, -1],
            inflow=own.inflow,
            interpolation=own.interpolation,
            carried=own.carried,
        )
