"""Earthformer, the system: what it declares, and how grids of any size are forecast by a network of one size."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from xnowcast.diffusion.tiling import blended
from xnowcast.models.base import Loss, Task, TrainingBatch
from xnowcast.models.declaration import option
from xnowcast.models.earthformer.network import EarthformerNetwork, Form
from xnowcast.models.one_pass import OnePassForecaster, OnePassOptions
from xnowcast.nn.cuboids import PATTERNS

SIZES = {
    "full": Form(),
    "sevir-lr": Form(
        input_frames=7, target_frames=6, grid=(128, 128), widths=(4, 16, 64), factors=(1, 2, 2), vectors=0
    ),
    "tiny": Form(
        input_frames=4,
        target_frames=4,
        grid=(48, 48),
        widths=(8, 16),
        factors=(2, 2),
        convolutions=(1, 1),
        heads=2,
        vectors=2,
    ),
}

SHARED = 4
"""Neighbouring squares share a quarter of their width, and the outer quarter of that counts for nothing."""


@dataclass(frozen=True, kw_only=True)
class EarthformerOptions(OnePassOptions):
    size: str = option(
        "full",
        '"full" and "sevir-lr" are those of the authors for SEVIR at 1 km and at 3 km: 8.7 and 1.5 million parameters.',
        choices=SIZES,
    )
    input_frames: int | None = option(  # type: ignore[assignment]
        None, "Frames that the model reads; by default 13 (full), 7 (sevir-lr) or 4 (tiny).", least=1
    )
    target_frames: int | None = option(  # type: ignore[assignment]
        None,
        "Frames ahead that it makes in a pass, by default 12, 6 or 4; it forecasts any number, and reads its own "
        "forecasts where it runs out.",
        least=1,
    )
    grid: int | None = option(
        None,
        "Cells along y and x of the squares that it has places for, by default 384, 128 or 48; it is trained on crops "
        "of up to this size. Grids that are larger than the crops of the training are forecast in overlapping squares "
        "of their size.",
        least=8,
    )
    pattern: str = option(
        "axial",
        "Where attention looks: along time, y and x in turn; along time and over whole frames; within blocks of so "
        "many frames and cells along y and x, which move from layer to layer; or along time, within squares of cells "
        "and over cells that lie apart.",
        choices=PATTERNS,
    )
    vectors: int | None = option(
        None, "Vectors that cells in all places attend to, by default 8, none or 2. 0 is none.", least=0
    )
    dropout: float = option(0.1, "In training, share of attention weights and features that are left out.", least=0)

    def check(self) -> None:
        """Refuse a dropout of everything."""
        super().check()
        if self.dropout >= 1:
            raise ValueError(f"dropout is {self.dropout}: it is a share below 1")

    @property
    def form(self) -> Form:
        """All that makes the network."""
        size = SIZES[self.size]
        return replace(
            size,
            input_frames=self.frames[0],
            target_frames=self.frames[1],
            grid=size.grid if self.grid is None else (self.grid, self.grid),
            encoder=tuple((self.pattern, depth) for _, depth in size.encoder),
            decoder=tuple((self.pattern, depth) for _, depth in size.decoder),
            vectors=size.vectors if self.vectors is None else self.vectors,
            dropout=self.dropout,
        )

    @property
    def frames(self) -> tuple[int, int]:
        size = SIZES[self.size]
        return self.input_frames or size.input_frames, self.target_frames or size.target_frames

    def task(self) -> Task:
        """What the model reads and gives."""
        return Task("forecast", input_frames=self.frames[0], quantity=self.transform.quantity, trained=True)


class Earthformer(OnePassForecaster[EarthformerOptions]):
    """Cuboid attention on two scales makes all frames ahead in one pass: no recurrence, and one answer, the mean.

    Attention within the blocks of a pattern, such as lines along time, y and x, costs what a transformer over all cells
    could not; a few vectors that all cells attend to tell what goes on elsewhere. It is trained for the squared error.

    The network knows places by tables of its training's grid. It always sees squares of the size of its training's
    crops: larger grids are cut into such that overlap and are blended, smaller ones are filled up with no rain below
    and at the right, as crops at the edge of the training's data are.

    Raises
    ------
    ValueError
        If an option has no such value; in training, if crops are larger than ``grid``.

    References
    ----------
    Gao, Shi, Wang, Zhu, Wang, Li and Yeung (2022), Earthformer: exploring space-time transformers for Earth system
    forecasting, arXiv:2207.05833

    Examples
    --------
    >>> import torch
    >>> model = Earthformer(size="tiny").eval()
    >>> frames = torch.rand(1, 4, 1, 40, 70)
    >>> model.forecast(frames, frames >= 0, steps=6).shape
    torch.Size([1, 6, 1, 40, 70])
    """

    network: EarthformerNetwork

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.network = EarthformerNetwork(self.options.form)

    @property
    def square(self) -> int:
        """Cells along y and x of what the network sees: of the training's crops, if the weights tell their size."""
        most = self.network.form.grid[0]
        return min(self.task.crop or most, most)

    def ahead(self, frames: Tensor) -> Tensor:
        """What one pass makes of frames ``(b, input_frames, 1, y, x)``: ``(b, target_frames, 1, y, x)``."""
        overlap = self.square // SHARED
        return blended(self._of_square, frames, tile=self.square, overlap=overlap, margin=overlap // SHARED)

    def _of_square(self, frames: Tensor) -> Tensor:
        ny, nx = frames.shape[-2:]
        filled = F.pad(frames, (0, max(0, self.square - nx), 0, max(0, self.square - ny)))
        return self.network(filled)[..., :ny, :nx]

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """The loss of the frames ahead, where they were measured."""
        most, crop = self.network.form.grid[0], max(batch.rain.shape[-2:])
        if crop > most:
            raise ValueError(f"crops have {crop} cells, and the network places for {most}: build it with grid={crop}")
        return super().loss(batch, progress=progress, adversary=adversary)

    def become_residual(self) -> None:
        """From now on say by how much the frames ahead differ from the newest, and begin with no difference."""
        super().become_residual()
        for parameter in self.network.out.parameters():
            nn.init.zeros_(parameter)
