"""SimVP and TAU: convolutions alone, which translate all frames that were read into all that follow."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor, nn

from xnowcast.models.base import Task
from xnowcast.models.declaration import option
from xnowcast.models.one_pass import OnePassForecaster, OnePassOptions
from xnowcast.nn.losses import differential_divergence
from xnowcast.nn.simvp import SimVPNetwork


@dataclass(frozen=True)
class Size:
    """Widths and depths, as `xnowcast.nn.simvp.SimVPNetwork` has them."""

    width: int
    hidden: int
    layers: int
    blocks: int


SIZES = {"full": Size(64, 512, 4, 8), "small": Size(32, 128, 4, 4), "tiny": Size(8, 32, 4, 2)}


@dataclass(frozen=True, kw_only=True)
class SimVPSizeOptions(OnePassOptions):
    """Options of the network that SimVP and TAU have in common."""

    size: str = option("full", '"full" is that of the papers.', choices=SIZES)
    width: int | None = option(
        None, "Channels of a frame that is encoded, even, instead of those of the size.", least=2
    )
    hidden: int | None = option(
        None, "Channels of all frames together within the translator, instead of those of the size.", least=8
    )
    layers: int | None = option(
        None,
        "Of encoder and decoder, instead of those of the size; every second one halves or doubles the grid.",
        least=1,
    )
    blocks: int | None = option(None, "Of the translator, instead of those of the size.", least=1)

    @property
    def shape(self) -> Size:
        """The size, with what is asked for instead."""
        asked = {name: getattr(self, name) for name in ("width", "hidden", "layers", "blocks")}
        return replace(SIZES[self.size], **{name: value for name, value in asked.items() if value is not None})

    def check(self) -> None:
        """Refuse channels that two groups do not divide."""
        super().check()
        if self.shape.width % 2:
            raise ValueError(f"width is {self.width}: it must be even, for norms over two groups")

    def task(self) -> Task:
        """What it reads and gives."""
        return Task(
            "forecast",
            input_frames=self.input_frames,
            quantity=self.transform.quantity,
            grid_multiple=2 ** (self.shape.layers // 2),
            trained=True,
        )

    def network(self, translator: str) -> SimVPNetwork:
        """The network with one of the translators."""
        shape = self.shape
        return SimVPNetwork(
            self.input_frames,
            translator=translator,
            width=shape.width,
            hidden=shape.hidden,
            layers=shape.layers,
            blocks=shape.blocks,
        )


@dataclass(frozen=True, kw_only=True)
class SimVPOptions(SimVPSizeOptions):
    translator: str = option(
        "gsta",
        "What makes the frames ahead of those that were read: gated spatio-temporal attention, of the second paper; or "
        "the U-Net of inception units, of the first.",
        choices=("gsta", "incepu"),
    )


@dataclass(frozen=True, kw_only=True)
class TAUOptions(SimVPSizeOptions):
    divergence_weight: float = option(
        0.1, "Alpha, the weight of the differential divergence beside the squared error.", least=0
    )


Own = TypeVar("Own", bound=SimVPSizeOptions)


class TranslatingForecaster(OnePassForecaster[Own]):
    """What SimVP and TAU share: as many frames come out of a pass as go in, through one kind of network."""

    network: SimVPNetwork

    def become_residual(self) -> None:
        """As ever; and it begins with no difference."""
        super().become_residual()
        nn.init.zeros_(self.network.readout.weight)
        if self.network.readout.bias is not None:
            nn.init.zeros_(self.network.readout.bias)


class SimVP(TranslatingForecaster[SimVPOptions]):
    """Convolutions alone: an encoder for each frame, a translator from all frames to all that follow, and a decoder.

    A pass makes as many frames as it reads; further ones come from further passes, which read what the one before made,
    in the training as well. The loss is the squared error.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    Gao, Tan, Wu and Li (2022), SimVP: simpler yet better video prediction, arXiv:2206.05099
    Tan, Gao, Li and Li (2022), SimVPv2: towards simple yet powerful spatiotemporal predictive learning,
    arXiv:2211.12509

    Examples
    --------
    >>> import torch
    >>> model = SimVP(size="tiny").eval()
    >>> frames = torch.rand(1, 5, 1, 16, 20)
    >>> model.forecast(frames, frames >= 0, steps=7).shape
    torch.Size([1, 7, 1, 16, 20])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.network = self.options.network(self.options.translator)


class TAU(TranslatingForecaster[TAUOptions]):
    """SimVP with the temporal attention unit: a gate within each frame, and one that weighs the frames.

    Its loss has, beside the squared error, how far the changes from frame to frame lie elsewhere than the true ones.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    Tan, Gao, Wu, Xu, Xia, Li and Li (2023), Temporal attention unit: towards efficient spatiotemporal predictive
    learning, arXiv:2206.12126

    Examples
    --------
    >>> import torch
    >>> model = TAU(size="tiny").eval()
    >>> frames = torch.rand(1, 5, 1, 16, 20)
    >>> model.forecast(frames, frames >= 0, steps=7).shape
    torch.Size([1, 7, 1, 16, 20])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.network = self.options.network("tau")

    def further_terms(self, prediction: Tensor, truth: Tensor, observed: Tensor) -> Mapping[str, Tensor]:
        """The differential divergence."""
        return {"divergence": self.options.divergence_weight * differential_divergence(prediction, truth, observed)}
