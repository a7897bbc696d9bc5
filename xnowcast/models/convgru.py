"""ConvGRU-Ensemble: members are unrolled from noise on the coarsest of several scales, and trained for their CRPS."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xnowcast.models.base import Loss, Task, TrainingBatch, check_given, require_finite
from xnowcast.models.declaration import Declared, option
from xnowcast.models.transforms import ScaledOptions
from xnowcast.nn.gru_pyramid import GRUPyramid
from xnowcast.nn.losses import almost_fair_crps, measured_mean
from xnowcast.nn.noise import Noise, source

BLOCKS = {"full": 5, "tiny": 2}

PADDING = {"dry": -1.0, "middle": 0.0}
"""On the network's scale of -1 to 1."""


@dataclass(frozen=True, kw_only=True)
class ConvGRUOptions(ScaledOptions):
    size: str = option("full", "The five scales of the authors, or two for tests.", choices=BLOCKS)
    blocks: int | None = option(
        None, "Scales, instead of that; each coarser one has 16 times the parameters of the one before.", least=1
    )
    input_frames: int = option(6, "Frames that the model reads.", least=1)
    target_frames: int = option(12, "Frames ahead that it is trained for; it forecasts any number.", least=1)
    trained_members: int = option(2, "Members of each ensemble in training.", least=2)
    validated_members: int = option(10, "Members of each ensemble in validation.", least=2)
    fairness: float = option(
        0.0,
        "Share of the fair CRPS in the loss, beside the usual one (Lang et al. 2024, equation 4). The authors train "
        "with the usual one, which is least where two members lie closer together than they should; their almost fair "
        "one has 0.95.",
        least=0,
    )
    change_weight: float = option(
        0.01, "Weight of the absolute change from one frame of a member to the next, beside the CRPS.", least=0
    )
    noise_scale: float = option(
        1.0,
        "Standard deviation of what the decoder reads. With 0 all members are the one forecast that the authors' code "
        "makes where no ensemble is asked for.",
        least=0,
        runtime=True,
    )
    padding: str = option(
        "dry",
        "What the network sees below and right of a grid that it does not divide: no rain, or the middle of its scale, "
        "which is 30 dBZ, as mlcast has it.",
        choices=PADDING,
        runtime=True,
    )

    def check(self) -> None:
        """Refuse a share that is none."""
        super().check()
        if self.fairness > 1:
            raise ValueError(f"fairness is {self.fairness}: it is a share, up to 1")

    def task(self) -> Task:
        """What the model reads and gives; it pads its frames itself."""
        quantity = self.transform.quantity
        return Task("forecast", input_frames=self.input_frames, quantity=quantity, stochastic=True, trained=True)


class ConvGRUEnsemble(Declared[ConvGRUOptions], nn.Module):
    """ConvGRU cells on five scales, whose decoder makes each member from noise; trained for the CRPS of its ensemble.

    The encoder reads the frames once for all members. Of each member the decoder reads fresh noise on the coarsest
    scale at each lead time and nothing that it forecast, so any number of steps can be asked for. Other than in the
    authors' code a time at which a cell was not measured is left out of the loss, and the others of the cell are not.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    github.com/DSIP-FBK/ConvGRU-Ensemble and github.com/mlcast-community/mlcast, whose trained network is called IRENE.

    Examples
    --------
    >>> from xnowcast.nn.noise import member_generator
    >>> model = ConvGRUEnsemble(size="tiny")
    >>> frames = torch.rand(1, 6, 1, 16, 21)
    >>> three = Noise([member_generator(0, 0, member) for member in range(3)])
    >>> model.forecast(frames, frames >= 0, steps=7, noise=three).shape
    torch.Size([3, 7, 1, 16, 21])
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        self.transform, self.training_frames = own.transform, own.input_frames + own.target_frames
        self.network = GRUPyramid(own.blocks or BLOCKS[own.size])

    @torch.no_grad()
    def forecast(self, frames: Tensor, observed: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """``(b, t, 1, y, x)``, t at least ``input_frames``, to ``(b * m, steps, 1, y, x)``, both scaled to [0, 1]."""
        known = self.task.input_frames
        check_given(frames, known, steps)
        drawn = source(noise, len(frames))
        numbers = drawn.normal(steps, *self.noise_shape(frames)).to(frames)
        members = self.members(2.0 * frames[:, -known:] - 1.0, self.options.noise_scale * numbers)
        return require_finite((members + 1.0) / 2.0).clamp(0.0, 1.0)

    def noise_shape(self, frames: Tensor) -> tuple[int, int, int]:
        """Channels and cells of what the decoder reads at each lead time, for frames ``(..., y, x)``."""
        down, right = self._beyond(frames)
        return self.network.noise_shape(frames.shape[-2] + down, frames.shape[-1] + right)

    def members(self, frames: Tensor, noise: Tensor) -> Tensor:
        """Frames ``(b, t, 1, y, x)`` scaled to [-1, 1] to members ``(b * m, steps, 1, y, x)``, not clipped to that.

        ``noise``: ``(b * m, steps, *noise_shape(frames))``, the member varying fastest; standard normal for an
        ensemble, 0 for the one forecast without noise.
        """
        down, right = self._beyond(frames)
        padded = F.pad(frames, (0, right, 0, down), value=PADDING[self.options.padding])
        return self.network(padded, noise)[..., : frames.shape[-2], : frames.shape[-1]]

    def _beyond(self, frames: Tensor) -> tuple[int, int]:
        """Rows and columns that are missing to a grid that the network divides."""
        side = 2 ** len(self.network.encoder)
        return -frames.shape[-2] % side, -frames.shape[-1] % side

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """CRPS of the frames ahead, and how much members change from frame to frame; on a scale of -1 to 1."""
        own, known = self.options, self.task.input_frames
        count = own.trained_members if self.training else own.validated_members
        frames, observed = 2.0 * self.transform(batch.rain) - 1.0, batch.observed[:, known:, 0]
        b, steps = len(frames), frames.shape[1] - known
        noise = torch.randn(b * count, steps, *self.noise_shape(frames)).to(frames)  # on the CPU, as for every device
        members = self.members(frames[:, :known], noise).float()[:, :, 0].clamp(-1.0, 1.0)
        truth = frames[:, known:, 0].float()
        return ensemble_loss(members.unflatten(0, (b, count)), truth, observed, own.fairness, own.change_weight)

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one."""
        return None


def ensemble_loss(members: Tensor, truth: Tensor, observed: Tensor, fairness: float, change_weight: float) -> Loss:
    """CRPS of ``(b, m, t, y, x)`` against ``(b, t, y, x)``, and the mean absolute change of members from time to time.

    Both are means over what was measured; the change counts where both times were.
    """
    crps = measured_mean(almost_fair_crps(members, truth, fairness), observed)
    change = measured_mean(members.diff(dim=2).abs().mean(1), observed[:, 1:] & observed[:, :-1])
    return Loss(crps + change_weight * change, {"crps": crps.detach(), "change": change.detach()})
