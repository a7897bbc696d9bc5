"""The frame that moves with the rain, as a layer: the forecaster inside says what extrapolation leaves out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xnowcast import models
from xnowcast.models.base import Grid, Loss, Task, TrainingBatch, check_given
from xnowcast.models.declaration import Declared, Options, option
from xnowcast.models.recurrent import RecurrentForecaster
from xnowcast.models.sprog import SMOOTH, pattern
from xnowcast.models.transforms import Reflectivity, SevirPixel
from xnowcast.nn.cascade import LEVELS, continued, level_weights
from xnowcast.nn.field_noise import Process, in_bands
from xnowcast.nn.losses import area_means
from xnowcast.nn.moving_frame import check_window, motion_of, onto_ground, onto_newest
from xnowcast.nn.noise import Noise, Silence, for_each_member, source
from xnowcast.nn.probability_matching import matched

FINER = 4
"""How many times shorter than those of its training the steps may be, and how many times smaller the cells."""

DETAIL_WINDOW = 16.0
"""Standard deviation, in grid cells, of the windows within which noise is as strong as the newest frame is there."""

FRAMES = 4
"""Read for the motion where the network itself reads one."""

RECURRENT_DEFAULTS = {"target_frames": 12, "scheduled_sampling": False}
"""Of a recurrent network in the layer; alone it has others."""


@dataclass(frozen=True, kw_only=True)
class LagrangianOptions(Options):
    network: Any = option(
        "db-convlstm",
        "Name of the system inside, one of `xnowcast.models.names`, or a model that was built: recurrent ones, "
        '``"stldm"``, ``"persistence"`` or one of your own.',
    )
    input_frames: int | None = option(
        None, "Frames that it reads, at least 2 for the motion; by default those of the network."
    )
    window: float = option(
        16.0, "Standard deviation, in grid cells, of the window within which the motion is taken as one."
    )
    motion_noise: float = option(
        0.0,
        "Standard deviation of each member's own change of the motion, in grid cells per step along y and along x. A "
        'network without members has some by it; "crps-rnn" also learns with it.',
        least=0,
        runtime=True,
    )
    detail: float = option(
        0.0,
        "How much of the detail that a forecast has lost beside the newest frame each member gets back as noise of its "
        "own that looks like the newest frame, scale by scale: 1 is all, 0 none. A network without members has some by "
        "it.",
        least=0,
        runtime=True,
    )
    inflation: float = option(
        1.0,
        "Factor of what the members of a network such as STLDM add to its first estimate; 1 is what was learnt.",
        least=0,
        runtime=True,
    )
    probability_matching: bool | float = option(
        0.0,
        "How far each forecast goes towards the rain rates of the newest frame, carried along the motion, in the order "
        "that it has itself (`xnowcast.nn.probability_matching`): 0 or False keeps its own, 1 or True takes those. "
        "What a network blurs has peaks again.",
        runtime=True,
    )
    cascade: float = option(
        0.0,
        "Share, below 1, that `xnowcast.models.sprog.SPROG` has in the forecast before it is matched. The network "
        "learnt from other days and other radars; S-PROG knows nothing but the frames at hand, and errs elsewhere. "
        "Members lie closer together by it: make up for that with ``inflation``.",
        runtime=True,
    )
    anchor: tuple[float, float, float] = option(
        (0.0, 0.0, 0.0),
        "How far what the network says without noise goes to what S-PROG says, on coarse, middle and fine scales: 1 is "
        "all the way. Members go as far, and keep what sets them apart. A network that learnt from other radars lets "
        "whole areas grow or fade that do not; S-PROG, which knows the frames at hand alone, does not.",
        runtime=True,
    )
    network_options: Mapping[str, Any] | None = option(
        None,
        'Options of the network that is named, such as ``{"size": "tiny"}``. `xnowcast.models.build`, forecasts and '
        "training also take them beside the layer's own, but for those that have the same name here.",
    )

    def check(self) -> None:
        """Refuse a network that is none, and what it cannot do."""
        if self.input_frames is not None and self.input_frames < 2:
            raise ValueError(f"input_frames is {self.input_frames}: motion needs at least 2 frames")
        check_window(self.window)
        if not 0 <= self.probability_matching <= 1:
            raise ValueError(
                f"probability_matching is {self.probability_matching!r}: it must be a share between 0 and 1"
            )
        if not 0 <= self.cascade < 1:
            raise ValueError(f"cascade is {self.cascade!r}: it must be a share of 0 or more, below 1")
        task = self.task()
        if len(self.anchor) != 3 or not all(0 <= share <= 1 for share in self.anchor):
            raise ValueError(f"anchor is {self.anchor!r}: it must be three shares between 0 and 1")
        for name in ("cascade", "anchor", "detail"):
            if np.any(getattr(self, name)) and task.input_frames < 3:
                raise ValueError(f"input_frames is {task.input_frames}: {name} needs at least 3 frames")
        if self.inflation != 1 and not hasattr(self.network_class, "inflation"):
            raise ValueError(
                f"inflation is {self.inflation}: {self.network_name!r} has no members that could lie further apart"
            )

    @property
    def network_class(self) -> type:
        """Of the network inside."""
        return models.find(self.network) if isinstance(self.network, str) else type(self.network)

    @property
    def network_name(self) -> str:
        """What the network inside is called."""
        return self.network if isinstance(self.network, str) else models.called(self.network)

    @property
    def all_network_options(self) -> dict[str, Any]:
        """What the named network is built with."""
        given = Lagrangian.defaults_inside(self.network) | dict(self.network_options or {})
        if self.input_frames is not None and "input_frames" in models.options(self.network):
            given = {"input_frames": self.input_frames} | given
        return given

    @property
    def network_task(self) -> Task:
        """What the network inside reads and gives."""
        if isinstance(self.network, str):
            task = models.declare(self.network, **self.all_network_options)
        elif self.network_options:
            raise ValueError("network_options are those of a network that is named: the one that was given is built")
        else:
            task = self.network.task
        if task.verb != "forecast":
            raise ValueError(f"network is {self.network_name!r}, which makes no forecasts: it is for {task.verb}")
        return task

    def task(self) -> Task:
        """What the layer reads and gives: what the network does, from at least two frames."""
        inside = self.network_task
        frames = self.input_frames or (inside.input_frames if inside.input_frames > 1 else FRAMES)
        return replace(
            inside,
            input_frames=max(frames, inside.input_frames),
            min_grid=max(32, inside.min_grid),
            finer=FINER if inside.trained else inside.finer,
            reads_grid=True,
            stochastic=inside.stochastic or self.motion_noise > 0 or self.detail > 0,
            coverage="advected",
        )


class Lagrangian(Declared[LagrangianOptions], nn.Module):
    """A layer around a network, which learns what extrapolation leaves out: growth, decay, and what cannot be foreseen.

    The motion is that of ``extrapolation``. The frames that were read are carried along it onto the newest, the
    network continues them where they lie, and what it says is carried on to where the rain will be. A recurrent network
    says by how much each frame differs from the one before, and its last weights start at zero: untrained it is
    extrapolation. A network that makes all frames in one pass says by how much each differs from the newest.

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
    >>> model = models.build("lagrangian", network="ms-convlstm", size="tiny")
    >>> frames = torch.rand(1, 5, 1, 32, 36)
    >>> model.forecast(frames, frames >= 0, steps=7).shape
    torch.Size([1, 7, 1, 32, 36])
    """

    WITH_MEMBERS: ClassVar[dict[str, Any]] = {"detail": 0.8, "motion_noise": 0.4, "probability_matching": 1.0}
    """Options by which a network without members has some, where a forecast asks for several."""

    INSIDE = "network"
    """The option that names the system inside, whose options the registry takes beside those of the layer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        named = isinstance(own.network, str)
        self.network = models.build(own.network, **own.all_network_options) if named else own.network
        self.transform = self.network.transform
        # what is mixed and matched is scaled to [0, 1], dry is 0
        self.scale = self.transform if isinstance(self.transform, Reflectivity | SevirPixel) else Reflectivity()
        if own.inflation != 1:
            self.network.inflation = own.inflation
        if hasattr(self.network, "drift"):
            self.network.drift = own.motion_noise
        if named and hasattr(self.network, "become_residual"):
            self.network.become_residual()

    @classmethod
    def defaults_inside(cls, network: str) -> dict[str, Any]:
        """Defaults of a named network that are others in the layer."""
        return RECURRENT_DEFAULTS if issubclass(models.find(network), RecurrentForecaster) else {}

    @property
    def task(self) -> Task:
        """What it reads and gives; the network inside is told the step, the spacing and the crop of its training."""
        return self._task

    @task.setter
    def task(self, task: Task) -> None:
        self._task = task
        if hasattr(self, "network"):
            self.network.task = replace(self.network.task, step=task.step, spacing=task.spacing, crop=task.crop)

    @property
    def training_frames(self) -> int:
        """Those of the network, and what is read before them for the motion."""
        if not hasattr(self.network, "training_frames"):
            raise ValueError(f"network is {self.options.network_name!r}, which is not trained")
        return self.network.training_frames + self._earlier

    @property
    def _earlier(self) -> int:
        """How many frames the layer reads before those that the network reads."""
        return self.task.input_frames - self.network.task.input_frames

    @torch.no_grad()
    def forecast(
        self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None, *, grid: Grid | None = None
    ) -> Tensor:
        """``(b, t, 1, y, x)`` as the network reads them, t at least ``input_frames``, to ``(b, steps, 1, y, x)``.

        With members to ``(b * m, steps, 1, y, x)``. NaN where the air comes from outside the grid or from where nothing
        was measured. On a ``grid`` with shorter steps or smaller cells than those of its training the network runs on
        every few of them.
        """
        known = self.task.input_frames
        check_given(frames, known, steps)
        rain, valid = self.transform.inverse(frames[:, -known:, 0]), observed[:, -known:, 0]
        motion = motion_of(rain, valid, window=self.options.window)
        aligned, still_valid = onto_newest(rain, valid, motion, known)
        every, cells = self._multiples(grid)
        own = self.options
        reworked = own.cascade or own.probability_matching or own.detail or any(own.anchor)
        joined = bool(reworked) and self.scale is not self.transform

        def continued_with(noise: Noise | None) -> Tensor:
            ahead = self._continued(aligned, still_valid, steps, noise, every, cells)
            return self.scale(self.transform.inverse(ahead)) if joined else ahead

        ahead = continued_with(noise)
        if any(own.anchor):
            stochastic = self.network.task.stochastic
            central = continued_with(Silence(len(aligned), aligned.device)) if stochastic else ahead
            ahead = self._anchored(ahead, central, self.scale(aligned))
        if self.task.stochastic:
            ahead = self._members(ahead, self.scale(aligned), motion, valid, noise)
        else:
            ahead = self._single(ahead, rain, motion, valid)
        return (self.transform(self.scale.inverse(ahead)) if joined else ahead)[:, :, None]

    def _multiples(self, grid: Grid | None) -> tuple[int, int]:
        """Steps and cells of the data that the network takes as one; 1 where it was made for them, or nobody knows."""
        if grid is None:
            return 1, 1
        step, metres = timedelta(minutes=grid.minutes), 1000 * sum(grid.spacing_km) / 2
        return self.task.multiple("step", step) or 1, self.task.multiple("spacing", metres) or 1

    def _continued(
        self, aligned: Tensor, valid: Tensor, steps: int, noise: Noise | None, every: int, cells: int
    ) -> Tensor:
        """How frames ``(b, t, y, x)`` in mm h-1 that lie upon the newest go on there: ``(b, steps, y, x)``, scaled.

        The network reads one of ``every`` so many frames, the oldest again where there are no older ones, and means
        over squares of ``cells``. What it changes is spread over the steps and cells between, and added to the newest
        frame.
        """
        if every == cells == 1:
            read, read_valid = (part[:, self._earlier :, None] for part in (self.transform(aligned), valid))
            return self.network.forecast(read, read_valid, steps, noise)[:, :, 0].float()
        last, (ny, nx) = aligned.shape[1] - 1, aligned.shape[-2:]
        read_steps = [max(0, last - every * i) for i in reversed(range(self.network.task.input_frames))]
        side = cells * self.network.task.grid_multiple
        beyond = (0, -nx % side, 0, -ny % side)
        fine, fine_valid = (F.pad(part[:, read_steps], beyond) for part in (aligned, valid))
        read, read_valid = area_means(fine, fine_valid, cells)
        read, later = self.transform(read)[:, :, None], -(-steps // every)
        change = self.network.forecast(read, read_valid[:, :, None], later, noise)[:, :, 0].float()
        newest, coarse = for_each_member(len(change), self.transform(aligned[:, -1:]), read[:, -1:, 0])
        change = torch.cat([torch.zeros_like(coarse), change - coarse], dim=1)
        at = torch.arange(1, steps + 1, device=change.device) / every
        before, share = at.floor().long(), at.frac()[:, None, None]
        change = torch.lerp(change[:, before], change[:, (before + 1).clamp(max=later)], share)
        return newest + F.interpolate(change, scale_factor=cells, mode="bilinear")[..., :ny, :nx]

    def _single(self, ahead: Tensor, rain: Tensor, motion: Tensor, valid: Tensor) -> Tensor:
        """One forecast ``(b, n, y, x)`` on the ground, mixed and matched with what ``sprog`` and ``extrapolation`` say.

        S-PROG has a motion of its own, which is smoother.
        """
        forecast = onto_ground(ahead, motion, valid[:, -1])
        if self.options.cascade:
            smoother = motion_of(rain, valid, window=SMOOTH)
            smooth = pattern(rain, valid, smoother, ahead.shape[1], scaling=self.scale)
            mixed = torch.lerp(forecast, smooth, self.options.cascade)
            forecast = torch.where(smooth.isfinite(), mixed, forecast)
        if self.options.probability_matching:
            newest = self.scale(onto_ground(rain[:, -1:].expand_as(ahead), motion, valid[:, -1]))
            forecast = torch.lerp(forecast, matched(forecast, newest), float(self.options.probability_matching))
        return forecast

    def _members(self, ahead: Tensor, aligned: Tensor, motion: Tensor, valid: Tensor, noise: Noise | None) -> Tensor:
        """Members ``(b * m, n, y, x)`` on the ground; S-PROG and the newest frame move as each of them does."""
        newest, valid = aligned[:, -1], valid[:, -1]
        if self.options.cascade:
            (smooth,) = for_each_member(len(ahead), continued(aligned, ahead.shape[1]).clamp(0.0, 1.0))
            ahead = torch.lerp(ahead, smooth, self.options.cascade)
        if self.options.motion_noise or self.options.detail:
            drawn = source(noise, len(motion))
            forecasts, ahead = ahead, for_each_member(len(drawn), ahead)[0]
            changed = self.options.motion_noise * drawn.normal(2, 1, 1).to(motion)
            if self.options.detail:
                ahead = self._with_detail(forecasts, aligned, valid, drawn)
            newest, motion, valid = for_each_member(len(drawn), newest, motion, valid)
            motion = motion + changed
        newest, motion, valid = for_each_member(len(ahead), newest, motion, valid)
        forecast = onto_ground(ahead, motion, valid)
        if self.options.probability_matching:
            newest = onto_ground(newest[:, None].expand_as(ahead).float(), motion, valid)
            forecast = torch.lerp(forecast, matched(forecast, newest), float(self.options.probability_matching))
        return forecast

    def _anchored(self, ahead: Tensor, central: Tensor, aligned: Tensor) -> Tensor:
        """Forecasts ``(b * m, n, y, x)`` moved as far as ``central`` ``(b, n, y, x)`` has to go to S-PROG's.

        All members of a forecast go the same way, so that each is the same in whatever company.
        """
        size = (ahead.shape[-2], ahead.shape[-1])
        shares = torch.tensor(self.options.anchor)[:, None, None]
        weights = (in_bands(level_weights(size)) * shares).sum(0).to(ahead.device)
        smooth = continued(aligned, ahead.shape[1]).clamp(0.0, 1.0)
        way = torch.fft.irfft2(torch.fft.rfft2(smooth - central.float()) * weights, s=size)
        return (ahead + for_each_member(len(ahead), way)[0]).clamp(0.0, 1.0)

    def _with_detail(self, forecasts: Tensor, aligned: Tensor, valid: Tensor, drawn: Noise) -> Tensor:
        """Forecasts with noise in place of the detail that they have lost: ``(b * m, n, y, x)``, one member at a time.

        ``forecasts`` has the members of a network that makes some, or one for all.
        """
        made, members = [], len(drawn) // len(aligned)
        for frames, known, ahead, generators in zip(
            aligned.float(),
            valid,
            forecasts.unflatten(0, (len(aligned), -1)),
            (drawn.generators[i : i + members] for i in range(0, len(drawn), members)),
            strict=True,
        ):
            process = Process.of(frames, LEVELS)
            noise, lost = process.noise(known, DETAIL_WINDOW), [process.lost(of_one.float()) for of_one in ahead]
            for j, generator in enumerate(generators):
                of_steps = noise.parts(Noise([generator], drawn.device), ahead.shape[1], begun=True)
                detail = [(share * part[0]).sum(0) for share, part in zip(lost[j % len(lost)], of_steps, strict=True)]
                made.append(ahead[j % len(ahead)] + self.options.detail * torch.stack(detail).to(ahead))
        return torch.stack(made).clamp(0.0, 1.0)

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """The network's own loss, in the moving frame."""
        rain, valid, known = batch.rain[:, :, 0], batch.observed[:, :, 0], self.task.input_frames
        motion = motion_of(rain[:, :known], valid[:, :known], window=self.options.window)
        aligned = (part[:, self._earlier :, None] for part in onto_newest(rain, valid, motion, known))
        return self.network.loss(TrainingBatch(*aligned), progress=progress, adversary=adversary)

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """That of the network."""
        return self.network.adversary(shape)

    @property
    def begins_from(self) -> tuple[str, ...]:
        """Systems whose weights the network can take over: its own, and those that it can begin from."""
        return (self.options.network_name, *getattr(self.network, "begins_from", ()))

    def begin_from(self, other: Any) -> None:
        """Take over the weights of another model, in the layer or not, or the part that the network can begin from."""
        inside = other.network if isinstance(other, Lagrangian) else other
        if hasattr(self.network, "begin_from"):
            self.network.begin_from(inside)
        else:
            self.network.load_state_dict(inside.state_dict())
