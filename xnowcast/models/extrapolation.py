"""Extrapolation: the rain moves on as it moved in the last frames, and neither grows nor decays."""

import torch
from torch import Tensor

from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity
from xnowcast.nn.advection import advect
from xnowcast.nn.moving_frame import CARRIED, check_window, motion_of
from xnowcast.nn.noise import Noise


class Extrapolation:
    """Dense optical flow on the last frames, then backward semi-Lagrangian advection of the newest one.

    Needs no weights and has no noise: the baseline that a trained model must beat. The motion comes from
    `xnowcast.nn.optical_flow.dense_flow`, the transport from `xnowcast.nn.advection.advect`; each lead is
    interpolated once, from the newest frame.

    Parameters
    ----------
    input_frames : int
        Frames read, at least 2. The motion is fitted to all of them.
    inflow : {"nan", "dry"}
        What stands where the trajectory starts outside the grid or on a cell that the newest frame does not
        measure: NaN (nothing is known of it), or 0 mm h-1.
    window : float
        Standard deviation, in grid cells, of the window within which the motion is taken as one.
    carried : float
        0: the motion stays in its place and trajectories bend along it; 1: each piece of rain keeps its own
        motion. The default lies between.
    interpolation : {"bilinear", "nearest"}
        How the newest frame is read between its cells.

    Raises
    ------
    ValueError
        If an option is not one of these.

    Examples
    --------
    >>> frames = torch.zeros(1, 4, 1, 32, 32)
    >>> forecast = Extrapolation().forecast(frames, frames >= 0, steps=6)
    >>> forecast.shape, float(forecast.max())
    (torch.Size([1, 6, 1, 32, 32]), 0.0)
    """

    def __init__(
        self,
        *,
        input_frames: int = 4,
        inflow: str = "nan",
        window: float = 16.0,
        carried: float = CARRIED,
        interpolation: str = "bilinear",
    ) -> None:
        self.task = self.declare(
            input_frames=input_frames,
            inflow=inflow,
            window=window,
            carried=carried,
            interpolation=interpolation,
        )
        self.transform = Identity()
        self.inflow, self.window, self.carried, self.interpolation = inflow, window, carried, interpolation

    @classmethod
    def declare(
        cls,
        *,
        input_frames: int = 4,
        inflow: str = "nan",
        window: float = 16.0,
        carried: float = CARRIED,
        interpolation: str = "bilinear",
    ) -> Task:
        """What it reads and gives; the options are those of the class, and are checked here."""
        if input_frames < 2:
            raise ValueError(f"input_frames is {input_frames}: motion needs at least 2 frames")
        if inflow not in ("nan", "dry"):
            raise ValueError(f"inflow is {inflow!r}: choose 'nan' or 'dry'")
        check_window(window)
        if not 0 <= carried <= 1:
            raise ValueError(f"carried is {carried}: it is a share between 0 and 1")
        if interpolation not in ("bilinear", "nearest"):
            raise ValueError(f"interpolation is {interpolation!r}: choose 'bilinear' or 'nearest'")
        return Task("forecast", input_frames=input_frames, coverage="advected" if inflow == "nan" else "observed")

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

    def _move_on(self, rain: Tensor, seen: Tensor, steps: int) -> Tensor:
        """Frames (b, t, y, x) to forecasts (b, steps, y, x)."""
        motion = motion_of(rain, seen, window=self.window)
        return advect(
            rain[:, -1],
            motion,
            steps,
            observed=seen[:, -1],
            inflow=self.inflow,
            interpolation=self.interpolation,
            carried=self.carried,
        )
