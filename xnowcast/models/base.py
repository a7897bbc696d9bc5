"""What a model declares and promises, in one place.

A model is any object with a `task`, a `transform` and the method of its verb. The verbs take care of frame
counts, units, NaN, padding, seeds, dims and CF, so a model only turns tensors into tensors.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from xnowcast.noise import Noise


@dataclass(frozen=True)
class Task:
    """What a model reads, what it gives, and on which grids.

    Parameters
    ----------
    verb : {"forecast", "deblur", "downscale", "postprocess"}
        The accessor method that runs the model.
    input_frames : int
        How many frames, the newest last, the model reads.
    quantity : {"rain_rate", "vil"}, optional
        The quantity that the model was made for; ``None`` means that any will do.
    step : datetime.timedelta, optional
        Time between frames that the model was made for; ``None`` means any.
    grid_multiple : int
        Grids are padded to multiples of this many cells.
    min_grid : int
        Fewest cells along y and along x.
    max_steps : int, optional
        Longest forecast in steps; ``None`` means no limit.
    stochastic : bool
        Whether members differ.
    trained : bool
        Whether the model is nothing without weights.
    coverage : {"observed", "advected"}
        Where the answer is NaN: where no input frame measured anything, or, beyond that, also where the air
        comes from outside the measured area.
    """

    verb: Literal["forecast", "deblur", "downscale", "postprocess"]
    input_frames: int
    quantity: Literal["rain_rate", "vil"] | None = None
    step: timedelta | None = None
    grid_multiple: int = 1
    min_grid: int = 8
    max_steps: int | None = None
    stochastic: bool = False
    trained: bool = False
    coverage: Literal["observed", "advected"] = "observed"


class Transform(Protocol):
    """An invertible scaling from mm h-1 to what the model reads: see `xnowcast.transforms`."""

    def __call__(self, rain: Tensor, /) -> Tensor: ...

    def inverse(self, values: Tensor, /) -> Tensor: ...


@runtime_checkable
class ForecastModel(Protocol):
    """A model for ``ds.nowcast.forecast``.

    ``declare(**options)`` gives the `Task` without building any network, so a forecast can be planned before a
    weight is read; ``Model(**options).task`` is the same.
    """

    task: Task
    transform: Transform

    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """Continue the frames.

        Parameters
        ----------
        frames : Tensor
            ``(b, t, 1, y, x)`` in the transform's units, the newest frame last, row 0 in the north; cells
            that were not measured hold the value of no rain.
        observed : Tensor
            Same shape, bool: True where the cell was measured.
        steps : int
            How many steps to forecast.
        noise : Noise, optional
            One source per sample for stochastic models, ``b * m`` of them with the member varying fastest.

        Returns
        -------
        Tensor
            ``(b, steps, 1, y, x)``, or ``(b * m, steps, 1, y, x)`` for a stochastic model.
        """
        ...
