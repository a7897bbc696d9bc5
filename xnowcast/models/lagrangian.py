"""Extrapolation with a learned correction: a recurrent network in the frame that moves with the rain."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast import models
from xnowcast.models.base import Loss, Task, TrainingBatch
from xnowcast.models.recurrent import RecurrentForecaster
from xnowcast.models.sprog import SPROG
from xnowcast.nn.cascade import check_share
from xnowcast.nn.moving_frame import check_window, motion_of, onto_ground, onto_newest
from xnowcast.nn.noise import Noise
from xnowcast.nn.probability_matching import matched


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
    absolute_error : float
        Weight of the absolute error beside the squared one in the pixel losses. Without it the network says the mean,
        which tells where rain is more likely even where it is not likely.
    window : float
        Standard deviation, in grid cells, of the window within which the motion is taken as one.
    probability_matching : bool
        Whether forecasts get the rain rates of the newest frame, carried along the motion, in the order that the
        network says (`xnowcast.nn.probability_matching`): what it blurs keeps the peaks that it had.
    cascade : float
        Share, below 1, that `xnowcast.models.sprog.SPROG` has in the forecast before it is matched. The network learnt
        from other days and other radars; S-PROG knows nothing but the frames at hand, and errs elsewhere.
    deblurred : bool
        Of a staged DB-RNN: whether forecasts are those of the network that deblurs, or of the one before it.
    network_options : mapping, optional
        Further options of the network, such as ``{"staged": True}``.

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

    RUNTIME_OPTIONS = ("probability_matching", "cascade", "deblurred")

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
        absolute_error: float = 1.0,
        window: float = 16.0,
        probability_matching: bool = False,
        cascade: float = 0.0,
        deblurred: bool = True,
        network_options: Mapping[str, Any] | None = None,
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
        further = dict(network_options or {})
        self.task = self.declare(
            **common,
            emphasis=emphasis,
            absolute_error=absolute_error,
            window=window,
            cascade=cascade,
            deblurred=deblurred,
            network_options=further,
        )
        self.inner: RecurrentForecaster = models.build(common.pop("network"), **common, **further)
        self.inner.residual, self.inner.emphasis, self.inner.absolute_error = True, emphasis, absolute_error
        self.window, self.probability_matching, self.cascade = window, probability_matching, cascade
        self.deblurred = deblurred
        self.sprog = SPROG(input_frames=max(input_frames, 3), scaling=scaling)
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
        absolute_error: float = 1.0,
        window: float = 16.0,
        probability_matching: bool = False,
        cascade: float = 0.0,
        deblurred: bool = True,
        network_options: Mapping[str, Any] | None = None,
    ) -> Task:
        """What it reads and gives; the options are those of the class, and are checked here."""
        if not issubclass(models.find(network), RecurrentForecaster):
            able = [name for name in models.names() if name.endswith(models.CELLS)]
            raise ValueError(f"network is {network!r}, which is not recurrent: choose one of {', '.join(able)}")
        if input_frames < 2:
            raise ValueError(f"input_frames is {input_frames}: motion needs at least 2 frames")
        for name, value in (("emphasis", emphasis), ("absolute_error", absolute_error)):
            if value < 0:
                raise ValueError(f"{name} is {value}: it must be at least 0")
        check_window(window)
        check_share(cascade, input_frames)
        further = dict(network_options or {})
        if not deblurred and not further.get("staged"):
            raise ValueError(
                "deblurred=False leaves out the network that deblurs, which only a DB-RNN with "
                'network_options={"staged": True} can do without'
            )
        inner = models.declare(
            network,
            size=size,
            width=width,
            input_frames=input_frames,
            target_frames=target_frames,
            scaling=scaling,
            scheduled_sampling=scheduled_sampling,
            **further,
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
        rain, seen = self.transform.inverse(frames[:, -known:, 0]), observed[:, -known:, 0]
        motion = motion_of(rain, seen, window=self.window)
        aligned, there = onto_newest(rain, seen, motion, known)
        read, there = self.transform(aligned)[:, :, None], there[:, :, None]
        said = self.inner.forecast(read, there, steps, deblurred=self.deblurred)[:, :, 0].float()
        forecast = onto_ground(said, motion, seen[:, -1])
        if self.cascade:
            forecast = self._joined(forecast, rain, seen)
        if self.probability_matching:
            newest = onto_ground(rain[:, -1:].expand_as(said), motion, seen[:, -1])
            forecast = matched(forecast, self.transform(newest))
        return forecast[:, :, None]

    def _joined(self, forecast: Tensor, rain: Tensor, seen: Tensor) -> Tensor:
        """The network's forecast and, where it too knows the air, the share of S-PROG, on a motion of its own."""
        motion = motion_of(rain, seen, window=self.sprog.window)
        smooth = self.sprog.pattern(rain, seen, motion, forecast.shape[1])
        return torch.where(smooth.isfinite(), torch.lerp(forecast, smooth, self.cascade), forecast)

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """The network's own loss, in the moving frame."""
        rain, seen, known = batch.rain[:, :, 0], batch.observed[:, :, 0], self.task.input_frames
        motion = motion_of(rain[:, :known], seen[:, :known], window=self.window)
        rain, seen = onto_newest(rain, seen, motion, known)
        return self.inner.loss(
            TrainingBatch(rain[:, :, None], seen[:, :, None]), progress=progress, adversary=adversary
        )

    def begin_from(self, other: "Lagrangian") -> None:
        """Take over all weights of the same network, or those that a DB-RNN's forecasting network has alone."""
        self.inner.begin_from(other.inner)

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """That of the network."""
        return self.inner.adversary(shape)
