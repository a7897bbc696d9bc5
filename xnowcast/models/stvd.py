"""STVD, the system: what it declares, how it refines and what it minimises."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xnowcast.models.base import Loss
from xnowcast.models.declaration import option
from xnowcast.models.downscaler import measured_mean
from xnowcast.models.residual_diffusion import Inputs, ResidualDiffusion, ResidualDiffusionOptions
from xnowcast.nn.video_unet import Context, Denoiser, Downscaler, Shape

SIZES = {
    "full": Shape(),
    "small": Shape(32, (1, 2, 2, 4), 4, 16),
    "light": Shape(16, (1, 2, 2, 4), 4, 16),
    "tiny": Shape(16, (1, 2), 2, 8),
}


@dataclass(frozen=True, kw_only=True)
class STVDOptions(ResidualDiffusionOptions):
    size: str = option(
        "full",
        '"full" is that of the paper, 40 million parameters; the others have 7.1, 1.9 and 0.4 million.',
        choices=SIZES,
    )
    frames: int = option(
        5,
        "Frames that are refined together; longer sequences are refined in overlapping windows. The paper's ablations "
        "have 1 and 3.",
        least=1,
    )
    coarse_highest: float | None = option(
        None,
        "mm/h, of the scaling of the coarse rain, as the authors' code has one of each. By default it is scaled as the "
        "fine rain is, so that the interpolated input is an estimate as it stands.",
    )
    aux_mse_weight: float = option(
        0.0,
        "Weight of the mean squared error of the estimate. 0 is the paper's single loss, with which the estimate is an "
        "offset that makes the diffusion easy; with 1 it is a conditional mean.",
        least=0,
    )
    per_frame_noise: bool = option(
        False,
        "In training give every frame a noise level of its own, as the published code does, not one per sequence.",
    )
    attention_kernel: int = option(
        1,
        "Width of the convolution that makes queries, keys and values of every attention: 3 is the paper's, 1 that of "
        "its code.",
        choices=(1, 3),
    )
    whole_map: bool = option(
        False,
        "Let linear attention over space see the whole map; the paper has 2 x 2 patches that do not see each other.",
    )
    published: bool = option(
        False,
        "Do as the authors' code does, as its weights need it: attention over the whole map, steps as whole numbers, "
        "bilinear interpolation, and the residual clipped instead of its sum with the estimate.",
    )

    def check(self) -> None:
        if self.factor < 2 or self.factor & (self.factor - 1):
            raise ValueError(f"factor is {self.factor}: it must be a power of two, 2 or more")
        if self.coarse_highest is not None and self.coarse_highest <= self.eps:
            raise ValueError(f"coarse_highest is {self.coarse_highest} and eps {self.eps}: 0 < eps < highest is needed")
        super().check()

    @property
    def shape(self) -> Shape:
        """Of both networks."""
        return replace(
            SIZES[self.size], kernel=self.attention_kernel, whole_map=self.whole_map, published=self.published
        )

    @property
    def multiple(self) -> int:
        return self.shape.multiple


class STVD(ResidualDiffusion[STVDOptions]):
    """Spatio-temporal video diffusion: a first estimate of fine rain from several coarse frames, and members of it.

    The downscaler estimates all frames of a window at once. The denoiser makes the residual between estimate and truth
    out of noise, all frames together, given the input, the estimate and the maps that the downscaler made on its way.

    ValueError if an option has no such value.

    Srivastava, Yang, Kerrigan, Dresdner, McGibbon, Bretherton and Mandt (2024), Precipitation downscaling with
    spatiotemporal video diffusion, arXiv:2312.06071

    >>> import numpy as np
    >>> from xnowcast.nn.noise import Noise
    >>> model = STVD(size="tiny", factor=4, frames=3, sampling_steps=2).eval()
    >>> coarse = 2 * torch.rand(1, 3, 1, 8, 8) - 1
    >>> noise = Noise([np.random.default_rng(number) for number in range(2 * 3)])  # two members of three frames
    >>> model.downscale(coarse, coarse < 2, 4, noise=noise).shape
    torch.Size([2, 3, 1, 32, 32])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own, read = self.options, 1 + len(self.further)
        # logarithms with one eps: what becomes 1 is all that they differ in
        self.coarse_stretch = 1.0 if own.coarse_highest is None else self.transform.stretch_to(own.coarse_highest)
        self.shape = own.shape
        self.interpolation = "bilinear" if own.published else "bicubic"
        self.downscaler = Downscaler(read, self.shape)
        self.denoiser = Denoiser(read, self.shape)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _channels_scaled(self, frames: Tensor) -> Tensor:
        """Rain by the scaling of coarse rain."""
        read = super()._channels_scaled(frames)
        if self.coarse_stretch == 1:
            return read
        return torch.cat([(read[:, :, :1] + 1) * self.coarse_stretch - 1, read[:, :, 1:]], dim=2)

    def _estimated(self, first_stage: Downscaler, inputs: Inputs) -> tuple[Tensor, Context]:
        return first_stage(inputs.fine)

    def _bounded(self, estimate: Tensor, residual: Tensor) -> Tensor:
        return estimate + residual.clamp(-1, 1) if self.options.published else super()._bounded(estimate, residual)

    def _progress(self, step: "Tensor | float") -> "Tensor | float":
        return step if self.options.published else super()._progress(step)

    def _scaled_loss(self, frames: Tensor, static: Tensor | None, truth: Tensor, measured: Tensor) -> Loss:
        """Equation 4. ``parts`` are ``diffusion``, the error of v, and ``estimate``, the estimate's squared error."""
        inputs = self._inputs(frames, static)
        estimate, context = self._estimated(self.downscaler, inputs)
        residual = truth - estimate
        # nothing is detached: one loss trains both networks (algorithm 1)
        parts = {
            "diffusion": self._diffusion_loss(inputs.fine, residual, estimate, context, measured),
            "estimate": measured_mean(residual.square(), measured),
        }
        return Loss(parts["diffusion"] + self.options.aux_mse_weight * parts["estimate"], parts)

    def _training_steps(self, residual: Tensor) -> Tensor:
        """One step per sequence (b,), or per frame (b, t)."""
        if not self.options.per_frame_noise:
            return super()._training_steps(residual)
        return torch.randint(0, self.schedule.length, residual.shape[:2], device=residual.device)
