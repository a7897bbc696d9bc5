"""S-PROG: extrapolation that forgets the small scales of rain as fast as the last frames show them to change."""

import torch
from torch import Tensor

from xnowcast.models.base import Task
from xnowcast.models.transforms import SCALINGS, Identity
from xnowcast.nn.cascade import LEVELS, continued
from xnowcast.nn.moving_frame import check_window, motion_of, onto_ground, onto_newest
from xnowcast.nn.noise import Noise
from xnowcast.nn.probability_matching import matched

SMOOTH = 64.0  # grid cells: large rain areas move together, and what is kept of the rain are large areas

MOST_LEVELS = 20  # octaves of a grid of a million cells along a side


class SPROG:
    """Each scale of the rain carried on by an autoregression of its own, in the frame that moves with the rain.

    Needs no weights and has no noise. Of one forecast it has more hits than extrapolation, since it draws no detail
    that cannot be foreseen; it is smooth for the same reason. The method is that of Seed (2003) and of pysteps'
    ``sprog``, on this package's motion.

    Parameters
    ----------
    input_frames : int
        Frames read, at least 3.
    levels : int
        Scales that a field is taken apart into, at least 2.
    window : float
        Standard deviation, in grid cells, of the window within which the motion is taken as one.
    scaling : {"reflectivity", "hko-7", "dwd-12"}
        From rain rate to the logarithmic scale on which it is taken apart.
    probability_matching : bool
        Whether the forecast gets the rain rates of the newest frame, carried along the motion, in the order of its own
        (`xnowcast.nn.probability_matching`). Otherwise its peaks fade.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    Seed (2003), doi:10.1175/1520-0450(2003)042<0381:ADASSA>2.0.CO;2; Pulkkinen et al. (2019),
    doi:10.5194/gmd-12-4185-2019

    Examples
    --------
    >>> frames = torch.rand(1, 5, 1, 32, 32)
    >>> SPROG().forecast(frames, frames >= 0, steps=6).shape
    torch.Size([1, 6, 1, 32, 32])
    """

    def __init__(
        self,
        *,
        input_frames: int = 5,
        levels: int = LEVELS,
        window: float = SMOOTH,
        scaling: str = "reflectivity",
        probability_matching: bool = True,
    ) -> None:
        self.task = self.declare(
            input_frames=input_frames,
            levels=levels,
            window=window,
            scaling=scaling,
            probability_matching=probability_matching,
        )
        self.transform, self.scaling = Identity(), SCALINGS[scaling]
        self.levels, self.window, self.probability_matching = levels, window, probability_matching

    @classmethod
    def declare(
        cls,
        *,
        input_frames: int = 5,
        levels: int = LEVELS,
        window: float = SMOOTH,
        scaling: str = "reflectivity",
        probability_matching: bool = True,
    ) -> Task:
        """What it reads and gives; the options are those of the class, and are checked here."""
        if input_frames < 3:
            raise ValueError(f"input_frames is {input_frames}: the autoregression is fitted to at least 3 frames")
        if not 2 <= levels <= MOST_LEVELS:
            raise ValueError(f"levels is {levels}: a field is taken apart into at least 2, at most {MOST_LEVELS}")
        check_window(window)
        if scaling not in SCALINGS:
            raise ValueError(f"scaling is {scaling!r}: choose one of {', '.join(map(repr, SCALINGS))}")
        return Task("forecast", input_frames=input_frames, coverage="advected")

    @torch.inference_mode()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` in mm h-1, t at least 3, to ``(b, steps, 1, y, x)``.

        NaN where the air comes from outside the grid or from where nothing was measured.
        """
        rain, seen = frames[:, :, 0].float(), observed[:, :, 0]
        motion = motion_of(rain, seen, window=self.window)
        pattern = self.pattern(rain, seen, motion, steps)
        if not self.probability_matching:
            return self.scaling.inverse(pattern)[:, :, None]
        newest = rain[:, -1:].expand(-1, steps, -1, -1)
        return matched(pattern, onto_ground(newest, motion, seen[:, -1]))[:, :, None]

    def pattern(self, rain: Tensor, seen: Tensor, motion: Tensor, steps: int) -> Tensor:
        """The forecast before it is matched, scaled to [0, 1].

        Parameters
        ----------
        rain, seen : Tensor
            ``(b, t, y, x)``, in mm h-1 and bool.
        motion : Tensor
            ``(b, 2, y, x)``: see `xnowcast.nn.moving_frame.motion_of`.
        steps : int
            How many frames ahead.

        Returns
        -------
        Tensor
            ``(b, steps, y, x)``, NaN where the air comes from outside.
        """
        aligned, _ = onto_newest(rain, seen, motion, rain.shape[1])
        said = continued(self.scaling(aligned), steps, self.levels).clamp(0.0, 1.0)
        return onto_ground(said, motion, seen[:, -1])
