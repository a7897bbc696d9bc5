"""The autoencoder of latent diffusion, and what it is trained for (Rombach et al. 2022, arXiv:2112.10752).

Its networks are those of section 3.1 and appendix G.1: residual blocks, and attention in the middle alone. PreDiff (Gao
et al. 2023, arXiv:2307.10422) and CasCast (Gong et al. 2024, arXiv:2402.04290) have it for radar frames.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast.nn.blocks import NearestUp
from xnowcast.nn.guided_unet import CellAttention, PreActivationBlock
from xnowcast.nn.latent import gaussian_divergence, sampled
from xnowcast.nn.losses import measured_mean

LOG_VARIANCES = (-30.0, 20.0)
"""Bounds of the variance of the latent frames."""

CELLS_AT_ONCE = {"cpu": 2**18}
MOST_CELLS_AT_ONCE = 2**21
"""Cells of the frames that are encoded or decoded together where nothing is learnt: 128 MiB or 1 GiB per layer of 128
channels."""


class KLAutoencoder(nn.Module):
    """Frames ``(n, channels, y, x)`` to mean and log-variance ``(n, latent, y / reduction, x / reduction)``, and back.

    The grid is a multiple of ``reduction``. With the defaults it is the network of CasCast, and with ``latent=64`` that
    of PreDiff.

    ``widths``: one per level; each further level has half the grid. ``blocks``: residual blocks per level on the way
    down; on the way up there is one more. ``groups``: of every group norm.

    >>> autoencoder = KLAutoencoder(widths=(8, 16), groups=4)
    >>> mean, log_variance = autoencoder.encode(torch.rand(3, 1, 12, 16))
    >>> mean.shape, autoencoder.decode(mean).shape
    (torch.Size([3, 4, 6, 8]), torch.Size([3, 1, 12, 16]))
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        latent: int = 4,
        widths: Sequence[int] = (128, 256, 512, 512),
        blocks: int = 2,
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.latent, self.blocks, self.reduction = latent, blocks, 2 ** (len(widths) - 1)

        def level(width_in: int, width: int, count: int, resize: nn.Module | None) -> nn.Sequential:
            layers: list[nn.Module] = [_block(before, width, groups) for before in [width_in, *[width] * (count - 1)]]
            return nn.Sequential(*layers, *([] if resize is None else [resize]))

        widest, up = widths[-1], widths[::-1]
        downs = [PaddedDown(width) for width in widths[:-1]]
        ups = [NearestUp(width, width) for width in up[:-1]]
        self.encoder = nn.Sequential(
            OrderedDict(
                enter=nn.Conv2d(channels, widths[0], 3, padding=1),
                levels=nn.Sequential(
                    *(level(*ends, blocks, down) for ends, down in zip(_steps(widths), [*downs, None], strict=True))
                ),
                middle=_middle(widest, groups),
                leave=_readout(widest, 2 * latent, groups),
            )
        )
        self.moments = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.entry = nn.Conv2d(latent, latent, 1)
        self.decoder = nn.Sequential(
            OrderedDict(
                enter=nn.Conv2d(latent, widest, 3, padding=1),
                middle=_middle(widest, groups),
                levels=nn.Sequential(
                    *(level(*ends, blocks + 1, grow) for ends, grow in zip(_steps(up), [*ups, None], strict=True))
                ),
                leave=_readout(widths[0], channels, groups),
            )
        )

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights of the last convolution, at which gradients of losses are compared."""
        return self.decoder.leave[-1].weight  # type: ignore[index, union-attr, return-value]

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent frames; without gradients a few at a time, as in `decode`."""
        moments = torch.cat([self.moments(self.encoder(part)) for part in frames.split(self._at_once(frames, 1))])
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCES)

    def decode(self, latent: Tensor) -> Tensor:
        """Frames; without gradients a few at a time, so that memory stays bounded."""
        some = latent.split(self._at_once(latent, self.reduction**2))
        return torch.cat([self.decoder(self.entry(part)) for part in some])

    def _at_once(self, x: Tensor, finer: int) -> int:
        if torch.is_grad_enabled():
            return len(x)
        cells = x.shape[-2] * x.shape[-1] * finer
        return max(1, CELLS_AT_ONCE.get(x.device.type, MOST_CELLS_AT_ONCE) // cells)


class PaddedDown(nn.Conv2d):
    """3 x 3 convolution with stride 2, with zeros below and right of the grid. (b, c, y, x) -> (b, c, y / 2, x / 2)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def _steps(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Widths in and out of each level; the first has those of what it is given."""
    return list(pairwise([widths[0], *widths]))


def _block(width_in: int, width: int, groups: int) -> PreActivationBlock:
    return PreActivationBlock(width_in, width, groups=groups, eps=1e-6, silent=False)


def _middle(width: int, groups: int) -> nn.Sequential:
    attention = CellAttention(width, head_width=width, groups=groups, eps=1e-6, silent=False)
    return nn.Sequential(_block(width, width, groups), attention, _block(width, width, groups))


def _readout(width: int, channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(groups, width, eps=1e-6), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))


class AutoencoderLoss(nn.Module):
    """What an autoencoder of latent diffusion is trained for, by default with the numbers of CasCast and PreDiff.

    The absolute error of a cell is taken as that of a Laplace distribution, whose scale is learnt: its likelihood and
    the divergence of the latent frames are summed over a frame. A discriminator, where there is one, counts as much as
    its gradient at the last layer is short beside that of the likelihood (Esser et al. 2021, arXiv:2012.09841, equation
    7, without the perceptual loss).

    ``divergence``: weight of the divergence. ``adversarial``: weight of the discriminator.
    """

    def __init__(self, *, divergence: float = 1e-6, adversarial: float = 0.5) -> None:
        super().__init__()
        self.divergence, self.adversarial = divergence, adversarial
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(
        self, autoencoder: KLAutoencoder, frames: Tensor, valid: Tensor, adversary: nn.Module | None = None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Total, its parts before their weights, and the decoded frames.

        ``frames``: ``(n, 1, y, x)``. ``valid``: same shape, bool: where they were measured; other cells count nothing,
        and the adversary is shown what is there.
        """
        mean, log_variance = autoencoder.encode(frames)
        decoded = autoencoder.decode(sampled(mean, log_variance))
        error = (decoded - frames).abs()
        likelihood = ((error * torch.exp(-self.log_scale) + self.log_scale) * valid).sum() / len(frames)
        apart = gaussian_divergence(mean, log_variance) * F.max_pool2d(valid.float(), autoencoder.reduction)
        parts = {"reconstruction": measured_mean(error, valid), "kl": apart.sum() / len(frames)}
        total = likelihood + self.divergence * parts["kl"]
        shown = torch.where(valid, decoded, frames)
        if adversary is not None:
            parts["adversarial"] = -adversary(shown).mean()
            balance = gradient_ratio(likelihood, parts["adversarial"], autoencoder.last_layer)
            total = total + self.adversarial * balance * parts["adversarial"]
        return total, {name: part.detach() for name, part in parts.items()}, shown


def gradient_ratio(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """How many times longer the gradient of one loss with respect to some weights is than that of another.

    At most 10,000, and not infinite where the second has none. The graph of both is kept.

    >>> weights = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> round(float(gradient_ratio(6.0 * weights.sum(), (2.0 * weights).sum(), weights)), 3)
    3.0
    """
    lengths = [torch.autograd.grad(loss, weights, retain_graph=True)[0].norm() for loss in (first, second)]
    return (lengths[0] / (lengths[1] + 1e-4)).clamp(0.0, 1e4).detach()
