"""SwinIR, the system: finer rain frame by frame, in one pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xnowcast.diffusion.pieces import blended, cut
from xnowcast.models.base import Loss, require_finite
from xnowcast.models.declaration import option
from xnowcast.models.downscaler import DownscalerOptions, TrainedDownscaler, measured_mean
from xnowcast.nn.noise import Noise
from xnowcast.nn.swin_ir import SIZES, SwinIRNetwork, shape_of, steps_of


@dataclass(frozen=True, kw_only=True)
class SwinIROptions(DownscalerOptions):
    factor: int = option(
        8, "How many fine cells along y and x make a coarse one; 3 or a power of two, and weights are for one."
    )
    size: str = option(
        "full",
        'The paper\'s networks: the classical one (12 million parameters), "light" (0.9) and the "large" one for real '
        "photographs (28).",
        choices=SIZES,
    )
    upsampling: str | None = option(
        None,
        "How the fine grid is made, by default as the size has it: by steps of 2, in one step, or by repeated cells, "
        "which leave no grid of squares behind.",
        choices=("classical", "direct", "nearest", None),
    )

    @property
    def multiple(self) -> int:
        return self.factor

    def check(self) -> None:
        steps_of(self.factor)
        super().check()


class SwinIR(TrainedDownscaler[SwinIROptions]):
    """Finer rain by attention within shifted windows, each frame by itself; one answer, which is a conditional median.

    The network reads rain and further fields on the coarse grid, scaled to 0 to 1, and of each static field all fine
    cells of a coarse one as channels. It learns by the absolute error.

    ValueError if an option has no such value.

    References
    ----------
    Liang, Cao, Sun, Zhang, Van Gool and Timofte (2021), SwinIR: image restoration using Swin transformer,
    arXiv:2108.10257

    Examples
    --------
    >>> model = SwinIR(size="tiny", factor=3).eval()
    >>> coarse = 2 * torch.rand(2, 4, 1, 9, 7) - 1
    >>> model.downscale(coarse, coarse < 2, 3).shape
    torch.Size([2, 4, 1, 27, 21])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        self.network = network_of(own)

    def begin_from(self, other: "SwinIR") -> None:
        """Take over weights; of a network for another factor all but the way to the fine grid, as in the paper.

        RuntimeError, by torch, if sizes or fields differ.
        """
        state = other.network.state_dict()
        if other.factor != self.factor:
            own = {name: value for name, value in self.network.state_dict().items() if name.startswith("head.")}
            state = {name: value for name, value in state.items() if not name.startswith("head.")} | own
        self.network.load_state_dict(state)
        with torch.no_grad():
            self.lowest.copy_(other.lowest)
            self.largest.copy_(other.largest)

    @torch.inference_mode()
    def downscale(
        self, frames: Tensor, observed: Tensor, factor: int, static: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """``(b, t, c, y, x)`` to ``(b, t, 1, y * factor, x * factor)`` in [-1, 1]; frame by frame, in tiles."""
        self._check(frames, factor, static)
        read = self._coarse_inputs(frames, static)
        shape = read.shape[-2] * factor, read.shape[-1] * factor
        pieces = cut(1, shape, length=1, tile=self.options.tile, multiple=factor, device=read.device)
        fine = []
        for frame in read.flatten(0, 1).split(1):
            parts = [estimated(self.network, piece.coarse(frame[None], factor)) for piece in pieces]
            fine.append(blended(parts, pieces, frame.new_zeros(1, 1, 1, *shape)))
        return require_finite(torch.cat(fine, dim=1)).clamp(-1, 1).reshape(*frames.shape[:2], 1, *shape)

    def refined(self, frames: Tensor, factor: int, static: Tensor | None = None) -> Tensor:
        """What `downscale` says, of whole grids, not clipped, and with its gradient."""
        self._check(frames, factor, static)
        return estimated(self.network, self._coarse_inputs(frames, static))

    def _scaled_loss(self, frames: Tensor, static: Tensor | None, truth: Tensor, measured: Tensor) -> Loss:
        """Equation 5, on the scale of 0 to 1."""
        error = absolute_error(self.refined(frames, self.factor, static), truth, measured)
        return Loss(error, {"estimate": error.detach()})


def network_of(options: Any, **others: Any) -> SwinIRNetwork:
    """The network for the fields of a system: the rain, channels, and static fields cell by cell."""
    read = 1 + len(options.channels) + len(options.static) * options.factor**2
    return SwinIRNetwork(read, shape_of(options.size, options.upsampling), factor=options.factor, **others)


def estimated(network: SwinIRNetwork, coarse: Tensor) -> Tensor:
    """Fields (b, t, c, y, x) to fine rain (b, t, 1, factor y, factor x), both in [-1, 1]."""
    fine = network((coarse.flatten(0, 1) + 1) / 2)
    return (2 * fine - 1).unflatten(0, coarse.shape[:2])


def absolute_error(estimate: Tensor, truth: Tensor, measured: Tensor) -> Tensor:
    """Mean on the scale of 0 to 1, as the paper has it, of what is in [-1, 1]."""
    return measured_mean((estimate - truth).abs(), measured) / 2
