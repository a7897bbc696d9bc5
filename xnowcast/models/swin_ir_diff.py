"""Swin-IR-Diff: SwinIR's estimate, and members of it by a diffusion of the residual, frame by frame."""

from dataclasses import dataclass
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from xnowcast.models.base import Loss
from xnowcast.models.declaration import option
from xnowcast.models.residual_diffusion import Inputs, ResidualDiffusion, ResidualDiffusionOptions
from xnowcast.models.swin_ir import SwinIR, SwinIROptions, absolute_error, estimated, network_of
from xnowcast.nn.swin_ir import SwinIRNetwork
from xnowcast.nn.video_unet import Context, Denoiser, Shape

DENOISERS = {"full": Shape(), "light": Shape(16, (1, 2, 2, 4), 4, 16), "tiny": Shape(16, (1, 2), 2, 8)}
"""By the size of the first stage that they belong to; the first is STVD's."""


@dataclass(frozen=True, kw_only=True)
class SwinIRDiffOptions(ResidualDiffusionOptions, SwinIROptions):
    size: str = option(
        "full", "Of both networks: SwinIR's classical one and the paper's denoiser, or smaller ones.", choices=DENOISERS
    )
    frozen: bool = option(
        False,
        "Whether SwinIR stays as it began; weights of one that was trained alone are taken over by "
        '``xnowcast.train("swin-ir-diff", ..., start=...)``. Else it learns beside the denoiser, by its own loss.',
    )

    @property
    def multiple(self) -> int:
        return lcm(DENOISERS[self.size].multiple, self.factor)


class SwinIRDiff(ResidualDiffusion[SwinIRDiffOptions]):
    """SwinIR's estimate of fine rain, and members of it by a diffusion of what is missing, each frame by itself.

    The denoiser makes the residual between estimate and truth out of noise, given the estimate and the input on the
    fine grid; it is that of STVD without attention over time and without maps of a downscaler.

    ValueError if an option has no such value.

    References
    ----------
    Srivastava, Yang, Kerrigan, Dresdner, McGibbon, Bretherton and Mandt (2024), Precipitation downscaling with
    spatiotemporal video diffusion, arXiv:2312.06071, section 3.3 and appendix A.2

    Examples
    --------
    >>> import numpy as np
    >>> from xnowcast.nn.noise import Noise
    >>> model = SwinIRDiff(size="tiny", factor=4, sampling_steps=2).eval()
    >>> coarse = 2 * torch.rand(1, 3, 1, 8, 8) - 1
    >>> noise = Noise([np.random.default_rng(number) for number in range(2 * 3)])  # two members of three frames
    >>> model.downscale(coarse, coarse < 2, 4, noise=noise).shape
    torch.Size([2, 3, 1, 32, 32])
    """

    first_stage_name = "first_stage"
    begins_from = ("swin-ir",)
    begun: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        # no dropped paths: the residual is learnt of the estimate as it will be
        self.first_stage = network_of(own, drop_path=0.0)
        self.denoiser = Denoiser(1 + len(self.further), DENOISERS[own.size], frame_wise=True)
        self.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("begun", torch.tensor(False))
        self.first_stage.requires_grad_(not own.frozen)

    def _estimated(self, first_stage: SwinIRNetwork, inputs: Inputs) -> tuple[Tensor, Context]:
        return estimated(first_stage, inputs.coarse), []

    # ------------------------------------------------------------ training

    def begin_from(self, other: "SwinIR | SwinIRDiff") -> None:
        """Take over weights: of a SwinIR the estimate and the ranges of further fields, of its own kind all.

        ValueError if the size, the factor, the fields or the scaling of the rain differ.
        """
        for name in ("size", "upsampling", "factor", "channels", "static", "eps", "highest"):
            own, given = getattr(self.options, name), getattr(other.options, name)
            if own != given:
                raise ValueError(f"the weights have {name} {given!r}, and this model has {own!r}")
        if isinstance(other, SwinIRDiff):
            self.load_state_dict(other.state_dict())
            return
        self.first_stage.load_state_dict(other.network.state_dict())
        with torch.no_grad():
            self.lowest.copy_(other.lowest)
            self.largest.copy_(other.largest)
            self.begun.fill_(True)

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one. A run asks for it as it is planned, so what `loss` refuses is refused here."""
        self._require_begun()
        return None

    def _require_begun(self) -> None:
        if self.options.frozen and not self.begun:
            raise ValueError(
                "SwinIR is frozen and was never trained: begin from weights of 'swin-ir' (start=), or let it learn "
                "with frozen=False"
            )

    def _scaled_loss(self, frames: Tensor, static: Tensor | None, truth: Tensor, measured: Tensor) -> Loss:
        """``diffusion``, the squared error of v, and unless it is frozen ``estimate``, SwinIR's absolute error.

        Nothing of the first reaches SwinIR, so that its estimate is what it would be alone.
        """
        self._require_begun()
        inputs = self._inputs(frames, static)
        estimate, context = self._estimated(self.first_stage, inputs)
        known = estimate.detach()
        parts = {"diffusion": self._diffusion_loss(inputs.fine, truth - known, known, context, measured)}
        if not self.options.frozen:
            parts["estimate"] = absolute_error(estimate, truth, measured)
        return Loss(sum(parts.values(), truth.new_zeros(())), {name: part.detach() for name, part in parts.items()})
