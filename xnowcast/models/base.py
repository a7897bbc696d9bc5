"""What a model declares and promises, in one place.

A model is any object with a `task`, a `transform` and the method of its verb. The verbs take care of frame
counts, units, NaN, padding, seeds, dims and CF, so a model only turns tensors into tensors.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from xnowcast.nn.noise import Noise

SPACING_TOLERANCE = 0.15
"""Share by which the grid spacing may differ from that of the training; map scale alone varies by several percent."""


@dataclass(frozen=True)
class Grid:
    """Minutes between frames, and kilometres between cells along y and along x, of the data at hand."""

    minutes: float = 5.0
    spacing_km: tuple[float, float] = (1.0, 1.0)


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
    step : datetime.timedelta or (datetime.timedelta, datetime.timedelta), optional
        Time between frames that the model was made for, or the shortest and the longest; ``None`` means any.
    spacing : float or (float, float), optional
        Grid spacing in metres that the model was made for, or the least and the greatest; ``None`` means any.
    finer : int
        How many times shorter steps and smaller cells it takes than it was made for, by running on coarser ones.
    crop : int, optional
        Height and width in cells of what the weights were trained on; ``None`` where that is not known. Any grid will
        do, but a model whose answer depends on the size of its grid should look at parts of this size.
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
    reads_grid : bool
        Whether ``forecast`` takes ``grid=``, a `Grid`: the step and the spacing of the data.
    kernel_size : int
        Width of the blur kernel that a deblurring model estimates; 0 for the others.
    factor : int, optional
        Factor of refinement that a downscaling model was made for; ``None`` means any.
    channels, static : tuple of str
        Further fields that a model reads, with and without a time, as `xnowcast.channels` names them; those of a
        downscaling model lie on the coarse and on the fine grid.
    lead_offsets : tuple of int
        The lead times that a post-processor reads to correct one, in steps from that one, which is 0; rising.
        ``(-2, -1, 0)`` are the two before it and itself.
    """

    verb: Literal["forecast", "deblur", "downscale", "postprocess"]
    input_frames: int
    quantity: Literal["rain_rate", "vil"] | None = None
    step: timedelta | tuple[timedelta, timedelta] | None = None
    spacing: float | tuple[float, float] | None = None
    finer: int = 1
    crop: int | None = None
    grid_multiple: int = 1
    min_grid: int = 8
    max_steps: int | None = None
    stochastic: bool = False
    trained: bool = False
    coverage: Literal["observed", "advected"] = "observed"
    reads_grid: bool = False
    kernel_size: int = 0
    factor: int | None = None
    channels: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    lead_offsets: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        offsets = self.lead_offsets
        if 0 not in offsets or list(offsets) != sorted(set(offsets)):
            raise ValueError(f"lead_offsets is {list(offsets)}: give whole numbers that rise, 0 among them")

    @property
    def reads_lead_times(self) -> bool:
        """Whether it reads others than the lead time that it corrects."""
        return self.lead_offsets != (0,)

    @property
    def lead_window(self) -> range:
        """Steps from the first to the last of the lead times that it reads, those between among them.

        >>> task = Task("postprocess", input_frames=2, lead_offsets=(-3, 0))
        >>> list(task.lead_window), task.reads_lead_times
        ([-3, -2, -1, 0], True)
        """
        return range(self.lead_offsets[0], self.lead_offsets[-1] + 1)

    def bounds(self, name: Literal["step", "spacing"]) -> tuple[Any, Any] | None:
        """The least and the greatest step, or grid spacing, that the model was made for; None means any.

        >>> Task("forecast", input_frames=5, spacing=1000.0).bounds("spacing")
        (1000.0, 1000.0)
        """
        wanted = getattr(self, name)
        return wanted if wanted is None or isinstance(wanted, tuple) else (wanted, wanted)

    def multiple(self, name: Literal["step", "spacing"], found: Any) -> int | None:
        """How many steps or cells of the data it takes as one, so that it is given what it was made for; None if none.

        ``found``: a `datetime.timedelta`, or metres.

        >>> task = Task("forecast", input_frames=5, step=(timedelta(minutes=4), timedelta(minutes=15)), finer=4)
        >>> task.multiple("step", timedelta(minutes=10)), task.multiple("step", timedelta(minutes=1.5))
        (1, 3)
        """
        bounds = self.bounds(name)
        if bounds is None:
            return 1
        slack = SPACING_TOLERANCE if name == "spacing" else 0.0
        fits = (n for n in range(1, self.finer + 1) if bounds[0] * (1 - slack) <= n * found <= bounds[1] * (1 + slack))
        return next(fits, None)


class NotFinite(ValueError):
    """A model's answer is infinite, or NaN where it should know: its weights are broken, or its precision overflows.

    ``failed``: for each sample of the batch, members counted, whether it failed.
    """

    def __init__(self, failed: Iterable[bool]) -> None:
        self.failed = [bool(one) for one in failed]
        super().__init__(f"the model gave NaN or infinite values for {sum(self.failed)} of {len(self.failed)} samples")

    def __reduce__(self) -> tuple[type, tuple[list[bool]]]:
        return type(self), (self.failed,)


def check_given(frames: Tensor, known: int, steps: int) -> None:
    """Refuse fewer frames ``(b, t, ...)`` than a model reads, and no steps."""
    if frames.shape[1] < known:
        raise ValueError(f"{frames.shape[1]} frames were given: the model reads {known}")
    if steps < 1:
        raise ValueError(f"steps is {steps}: ask for at least one")


def require_finite(answer: Tensor) -> Tensor:
    """The answer ``(samples, ...)`` of a network as it is; for models that afterwards clip it or put NaN of their own.

    NotFinite if any of it is NaN or infinite.
    """
    if not answer.isfinite().all():
        raise NotFinite((~answer.isfinite()).flatten(1).any(1).tolist())
    return answer


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


@dataclass(frozen=True)
class TrainingBatch:
    """What one step of training sees.

    Attributes
    ----------
    rain : Tensor
        ``(b, t, 1, y, x)`` in mm h-1, oldest frame first, row 0 in the north; 0 where not measured. ``t`` is the
        model's ``training_frames``.
    observed : Tensor
        Same shape, bool: True where the cell was measured. Losses leave the other cells out.
    channels : Tensor, optional
        ``(b, t, c, y, x)``: the task's channels in canonical units (see `xnowcast.channels`), in its order, on the
        rain's grid and at its times; NaN where missing. None where the task names none.
    static : Tensor, optional
        ``(b, k, y, x)``: the task's static fields, in canonical units and its order. None where it names none.
    """

    rain: Tensor
    observed: Tensor
    channels: Tensor | None = None
    static: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """What one step of training minimises.

    Attributes
    ----------
    total : Tensor
        The number to minimise; its gradient trains the model.
    parts : dict of str to Tensor
        Its terms before their weights, for the log.
    truth, generated : Tensor, optional
        What the adversary has to tell apart, each as the adversary takes it: frames ``(n, 1, y, x)``, sequences ``(b,
        t, 1, y, x)`` or any other. None where there is no adversary, or it does not learn in this step.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    truth: Tensor | None = None
    generated: Tensor | None = None


class Adversary(Protocol):
    """A network that learns to tell forecasts from observations while a model learns to pass for one.

    It exists in training alone: it has an optimiser of its own and is not part of the model's weights.
    """

    def loss(self, truth: Tensor, generated: Tensor) -> Tensor:
        """What the adversary minimises; ``generated`` is detached from the model."""
        ...


@runtime_checkable
class TrainableModel(Protocol):
    """A model for `xnowcast.train`: a ``torch.nn.Module`` with these members.

    ``training_frames`` is the length of a training window. All that is random in ``loss`` is drawn from torch's
    global generators, which are seeded anew for every step, so that a resumed run repeats an unbroken one.

    A model whose task names channels may have a method ``set_channel_statistics(mean, std, low, high)``, and one whose
    task names static fields ``set_static_statistics``. Before the training they get tensors, one number a field, of
    the data to train on, and keep in buffers what they need.
    """

    task: Task
    transform: Transform
    training_frames: int

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """The loss of one batch.

        Parameters
        ----------
        batch : TrainingBatch
        progress : float
            Share of the training that is done, 0 to 1, for weights that change as training goes on. 1 in validation.
        adversary : torch.nn.Module, optional
            The model's `Adversary` in training; None in validation.
        """
        ...

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """An untrained `Adversary` for frames of ``(y, x)`` cells, or None where the model trains without one."""
        ...


@dataclass(frozen=True)
class Deblurred:
    """What a deblurring model made of some frames, and what it assumed.

    ``frames``: ``(n, 1, y, x)`` sharp, in the transform's units. ``kernel``: ``(n, k, k)``: what the sharp frame is
    blurred with to give the input. ``reblurred``: ``(n, 1, y, x)``: the sharp frame blurred with that kernel, in the
    transform's units. ``distance``: ``(n,)``: mean squared difference between the input and ``reblurred``, in the
    transform's units; NaN where the model gave up and returned the input.
    """

    frames: Tensor
    kernel: Tensor
    reblurred: Tensor
    distance: Tensor


@runtime_checkable
class DeblurModel(Protocol):
    """A model for ``ds.nowcast.deblur``; declared as `ForecastModel` is."""

    task: Task
    transform: Transform

    def deblur(self, frames: Tensor, observed: Tensor, noise: Noise) -> Deblurred:
        """Sharpen frames, each by itself.

        Parameters
        ----------
        frames : Tensor
            ``(n, 1, y, x)`` in the transform's units, row 0 in the north; cells that were not measured hold the
            value of no rain.
        observed : Tensor
            Same shape, bool.
        noise : Noise
            One source per frame.
        """
        ...


@runtime_checkable
class DownscaleModel(Protocol):
    """A model for ``ds.nowcast.downscale``; declared as `ForecastModel` is.

    Its transform is for the rain alone: what it does with further channels and static fields is its own affair.
    """

    task: Task
    transform: Transform

    def downscale(
        self, frames: Tensor, observed: Tensor, factor: int, static: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Refine sequences of coarse frames.

        Parameters
        ----------
        frames : Tensor
            ``(b, t, c, y, x)``: rain in the transform's units, then the task's further channels in canonical ones; row
            0 in the north. Cells that were not measured hold the value of no rain, and NaN in other channels.
        observed : Tensor
            ``(b, t, 1, y, x)`` bool: where rain was measured.
        factor : int
            How many fine cells along y and along x make a coarse one.
        static : Tensor, optional
            ``(k, y * factor, x * factor)``: the task's static fields in canonical units.
        noise : Noise, optional
            For stochastic models one source per sequence, member and frame, the frame varying fastest and the member
            before it, so that a frame draws the same in whichever stretch of a sequence it is computed.

        Returns
        -------
        Tensor
            ``(b, t, 1, y * factor, x * factor)``, or ``(b * m, ...)`` for a stochastic model, in the transform's units.
        """
        ...


@runtime_checkable
class PostprocessModel(Protocol):
    """A model for ``ds.nowcast.postprocess``; declared as `ForecastModel` is.

    It reads the fields that its task names as ``channels`` and gives classes of rain, bounded by ``thresholds`` in mm
    h-1, which is also one of its options. ``explain`` may be missing where there is no network to look into.

    Where its task has ``lead_offsets``, fields are ``(b, t, c, y, x)``, the lead times in the order of these; what it
    says is of the one at offset 0. Trained, it sees windows of ``len(task.lead_window)`` frames.
    """

    task: Task
    transform: Transform
    thresholds: tuple[float, ...]

    def postprocess(self, fields: Tensor, observed: Tensor) -> Tensor:
        """Probabilities of the classes of rain.

        Parameters
        ----------
        fields : Tensor
            ``(b, c, y, x)``, or ``(b, t, c, y, x)`` where it reads several lead times: the task's channels in canonical
            units (see `xnowcast.channels`), row 0 in the north; NaN where missing.
        observed : Tensor
            ``(b, 1, y, x)`` bool: where any channel has a value, at the lead time that is corrected.

        Returns
        -------
        Tensor
            ``(b, len(thresholds) + 1, y, x)``, summing to 1.
        """
        ...

    def explain(self, fields: Tensor, observed: Tensor, category: int) -> Tensor:
        """Which cells speak for a class.

        Parameters
        ----------
        fields, observed : Tensor
            As in `postprocess`.
        category : int
            Number of the class, from 0.

        Returns
        -------
        Tensor
            ``(b, y, x)``, 0 to 1.
        """
        ...
