"""Extrapolation with a learned correction: a recurrent network in the frame that moves with the rain."""

from typing import Any

import torch
from torch import Tensor, nn

from xnowcast import models
from xnowcast.models.base import Loss, Task, TrainingBatch
from xnowcast.models.extrapolation import TRACE
from xnowcast.models.recurrent import RecurrentForecaster
from xnowcast.nn.advection import along_trajectories
from xnowcast.nn.optical_flow import dense_flow
from xnowcast.noise import Noise

CARRIED = 0.5  # as extrapolation has it


class Lagrangian(nn.Module):
    """A recurrent network that learns what extrapolation leaves out: growth, decay, and what cannot be foreseen.

    The motion is that of ``extrapolation``. The frames that were read are carried along it onto the newest, the
    network continues them where they lie, and what it says is carried on to where the rain will be. It says by how
    much each frame differs from the one before, and its last weights start at zero: untrained it is extrapolation.

    Parameters
    ----------
    network : str
        One of the recurrent systems: ``"db-convlstm"``, ``"ms-predrnn"``, ``"convlstm"`` ...
    size : {"full", "tiny"}
        Of that network.
    width : int, optional
        Its channels.
    input_frames, target_frames : int
        Frames that it reads, at least 2 for the motion, and frames ahead that it is trained for; it forecasts any
        number.
    scaling : {"reflectivity", "hko-7", "dwd-12"}
        From rain rate to [0, 1].
    scheduled_sampling : bool
        In training, frames beyond the input are fed as they are with a probability that falls from 1 to 0.
    emphasis : float
        How much more rain that scales to 1 counts in the pixel losses than none.
    window : float
        Standard deviation, in grid cells, of the window within which the motion is taken as one.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    Germann and Zawadzki (2002), doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2, for the coordinates; Ritvanen et
    al. (2023), Advection-free convolutional neural network for convective rainfall nowcasting,
    doi:10.1109/JSTARS.2023.3238016, for learning in them.

    Examples
    --------
    >>> model = Lagrangian(network="ms-convlstm", size="tiny")
    >>> frames = torch.rand(1, 5, 1, 32, 36)
    >>> model.forecast(frames, frames >= 0, steps=7).shape
    torch.Size([1, 7, 1, 32, 36])
    """

    def __init__(
        self,
        *,
        network: str = "db-convlstm",
        size: str = "full",
        width: int | None = None,
        input_frames: int = 5,
        target_frames: int = 12,
        scaling: str = "reflectivity",
        scheduled_sampling: bool = False,
        emphasis: float = 0.0,
        window: float = 16.0,
    ) -> None:
        super().__init__()
        common: dict[str, Any] = {
            "network": network,
            "size": size,
            "width": width,
            "input_frames": input_frames,
            "target_frames": target_frames,
            "scaling": scaling,
            "scheduled_sampling": scheduled_sampling,
        }
        self.task = self.declare(**common, emphasis=emphasis, window=window)
        self.inner: RecurrentForecaster = models.build(common.pop("network"), **common)
        self.inner.residual, self.inner.emphasis, self.window = True, emphasis, window
        self.transform, self.training_frames = self.inner.transform, self.inner.training_frames
        for part in self.inner.modules():
            if isinstance(getattr(part, "read", None), nn.Conv2d):
                nn.init.zeros_(part.read.weight)
                nn.init.zeros_(part.read.bias)

    @classmethod
    def declare(
        cls,
        *,
        network: str = "db-convlstm",
        size: str = "full",
        width: int | None = None,
        input_frames: int = 5,
        target_frames: int = 12,
        scaling: str = "reflectivity",
        scheduled_sampling: bool = False,
        emphasis: float = 0.0,
        window: float = 16.0,
    ) -> Task:
        """What it reads and gives; the options are those of the class, and are checked here."""
        if not issubclass(models.find(network), RecurrentForecaster):
            able = [name for name in models.names() if name.endswith(models.CELLS)]
            raise ValueError(f"network is {network!r}, which is not recurrent: choose one of {', '.join(able)}")
        if input_frames < 2:
            raise ValueError(f"input_frames is {input_frames}: motion needs at least 2 frames")
        if emphasis < 0:
            raise ValueError(f"emphasis is {emphasis}: it must be at least 0")
        if window <= 0:
            raise ValueError(f"window is {window}: it is a length in grid cells, above 0")
        inner = models.declare(
            network,
            size=size,
            width=width,
            input_frames=input_frames,
            target_frames=target_frames,
            scaling=scaling,
            scheduled_sampling=scheduled_sampling,
        )
        return Task(
            "forecast",
            input_frames=input_frames,
            quantity=inner.quantity,
            grid_multiple=inner.grid_multiple,
            min_grid=32,
            trained=True,
            coverage="advected",
        )

    def motion(self, rain: Tensor, observed: Tensor) -> Tensor:
        """Motion of frames ``(b, t, y, x)`` in mm/h, ``(b, 2, y, x)`` in grid cells per step."""
        with torch.no_grad(), torch.autocast(rain.device.type, enabled=False):
            return dense_flow(10.0 * torch.log10(rain.float().clamp(min=0.0) + TRACE), observed, window=self.window)

    def align(self, rain: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames ``(b, t, y, x)``, of which the model reads the first, carried onto the newest of those.

        Returns
        -------
        rain, observed : Tensor
            The same shape: 0 where nothing is known.
        motion : Tensor
        """
        known = self.task.input_frames
        motion = self.motion(rain[:, :known], observed[:, :known])
        past = [part[:, : known - 1].flip(1) for part in (rain, observed)]
        parts = [along_trajectories(past[0], motion, past[1], carried=CARRIED).flip(1)]
        parts.append(rain[:, known - 1 : known].masked_fill(~observed[:, known - 1 : known], torch.nan))
        if rain.shape[1] > known:
            parts.append(along_trajectories(rain[:, known:], -motion, observed[:, known:], carried=CARRIED))
        aligned = torch.cat(parts, 1)
        return aligned.nan_to_num(0.0), aligned.isfinite(), motion

    @torch.no_grad()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)`` scaled to [0, 1], t at least ``input_frames``, to ``(b, steps, 1, y, x)``.

        NaN where the air comes from outside the grid or from where nothing was measured.
        """
        known = self.task.input_frames
        if frames.shape[1] < known:
            raise ValueError(f"{frames.shape[1]} frames were given: the model reads {known}")
        if steps < 1:
            raise ValueError(f"steps is {steps}: ask for at least one")
        rain, seen, motion = self.align(self.transform.inverse(frames[:, -known:, 0]), observed[:, -known:, 0])
        said = self.inner.forecast(self.transform(rain)[:, :, None], seen[:, :, None], steps)[:, :, 0]
        newest = seen[:, -1:].expand_as(said)
        return along_trajectories(said.float(), motion, newest, carried=CARRIED)[:, :, None]

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """The network's own loss, in the moving frame."""
        rain, observed, _ = self.align(batch.rain[:, :, 0], batch.observed[:, :, 0])
        return self.inner.loss(
            TrainingBatch(rain[:, :, None], observed[:, :, None]), progress=progress, adversary=adversary
        )

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """That of the network."""
        return self.inner.adversary(shape)
