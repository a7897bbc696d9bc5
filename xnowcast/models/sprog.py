"""S-PROG: extrapolation that forgets the small scales of rain as fast as the last frames show them to change."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xnowcast.models.base import Task, Transform
from xnowcast.models.declaration import Declared, Options, option
from xnowcast.models.transforms import SCALINGS, Identity
from xnowcast.nn.cascade import LEVELS, check_cascade, continued
from xnowcast.nn.moving_frame import carried_back, check_window, motion_of, onto_ground, onto_newest
from xnowcast.nn.noise import Noise
from xnowcast.nn.probability_matching import matched

SMOOTH = 64.0  # grid cells: large rain areas move together, and what is kept of the rain are large areas


@dataclass(frozen=True, kw_only=True)
class SPROGOptions(Options):
    input_frames: int = option(5, "Frames read, at least 3.")
    levels: int = option(LEVELS, "Scales that a field is taken apart into, at least 2.")
    window: float = option(
        SMOOTH, "Standard deviation, in grid cells, of the window within which the motion is taken as one."
    )
    scaling: str = option(
        "reflectivity", "From rain rate to the logarithmic scale on which it is taken apart.", choices=SCALINGS
    )
    probability_matching: bool = option(
        True,
        "Whether each forecast gets the rain rates of the newest frame, carried along the motion, in the order of its "
        "own (`xnowcast.nn.probability_matching`). Otherwise its peaks fade.",
    )

    def check(self) -> None:
        """Refuse frames, levels and windows with which nothing can be fitted."""
        check_cascade(self.input_frames, self.levels)
        check_window(self.window)

    def task(self) -> Task:
        """What it reads and gives."""
        return Task("forecast", input_frames=self.input_frames, coverage="advected")


class SPROG(Declared[SPROGOptions]):
    """Each scale of the rain carried on by an autoregression of its own, in the frame that moves with the rain.

    Needs no weights and has no noise. Of one forecast it has more hits than extrapolation, since it draws no detail
    that cannot be foreseen; it is smooth for the same reason. The method is that of Seed (2003) and of pysteps'
    ``sprog``, on this package's motion.

    ValueError if an option has no such value.

    Seed (2003), doi:10.1175/1520-0450(2003)042<0381:ADASSA>2.0.CO;2; Pulkkinen et al. (2019),
    doi:10.5194/gmd-12-4185-2019

    >>> frames = torch.rand(1, 5, 1, 32, 32)
    >>> SPROG().forecast(frames, frames >= 0, steps=6).shape
    torch.Size([1, 6, 1, 32, 32])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.transform, self.scaling = Identity(), SCALINGS[self.options.scaling]

    @torch.inference_mode()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` in mm h-1, t at least 3, to ``(b, steps, 1, y, x)``.

        NaN where the air comes from outside the grid or from where nothing was measured.
        """
        rain, valid = frames[:, :, 0].float(), observed[:, :, 0]
        motion = motion_of(rain, valid, window=self.options.window)
        ahead = pattern(rain, valid, motion, steps, scaling=self.scaling, levels=self.options.levels)
        if not self.options.probability_matching:
            return self.scaling.inverse(ahead)[:, :, None]
        newest = rain[:, -1:].expand(-1, steps, -1, -1)
        return matched(ahead, onto_ground(newest, motion, valid[:, -1]))[:, :, None]


def pattern(
    rain: Tensor, valid: Tensor, motion: Tensor, steps: int, *, scaling: Transform, levels: int = LEVELS
) -> Tensor:
    """S-PROG of rain ``(b, t, y, x)`` in mm h-1 before it is matched, scaled to [0, 1]: ``(b, steps, y, x)``.

    ``motion`` is that of `xnowcast.nn.moving_frame.motion_of`; NaN where the air comes from outside.
    """
    aligned = carried_back(*onto_newest(rain, valid, motion, rain.shape[1]))
    ahead = continued(scaling(aligned), steps, levels).clamp(0.0, 1.0)
    return onto_ground(ahead, motion, valid[:, -1])
