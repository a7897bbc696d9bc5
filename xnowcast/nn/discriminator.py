"""The network that learns to tell forecast frames from observed ones (Ma et al. 2024, Tables I and II)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REDUCTION = 32  # the pools of 4, 4 and 2 together


class Discriminator(nn.Module):
    """Three convolutions, each with a leaky ReLU and a max-pool, and two linear layers: a frame to one logit.

    The sigmoid of the paper's Table I is part of the loss, which is exact where a sigmoid has run into 0 or 1.

    ``shape``: cells along y and x of the frames. ``widths``: channels after each convolution. ``hidden``: width between
    the linear layers. ValueError if the grid is smaller than the pools, 32 x 32 cells.

    >>> judge = Discriminator((160, 160))
    >>> sum(p.numel() for p in judge.parameters())
    11701
    >>> judge(torch.rand(2, 1, 160, 160)).shape
    torch.Size([2])
    """

    def __init__(self, shape: tuple[int, int], widths: tuple[int, int, int] = (16, 20, 20), hidden: int = 10) -> None:
        super().__init__()
        rows, columns = shape[0] // REDUCTION, shape[1] // REDUCTION
        if not rows * columns:
            raise ValueError(
                f"the adversary reads frames of {REDUCTION} x {REDUCTION} cells or more, and these have "
                f"{shape[0]} x {shape[1]}: take larger crops, or train without the adversarial loss"
            )
        layers: list[nn.Module] = []
        for before, after, pool in zip((1, *widths), widths, (4, 4, 2), strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.01), nn.MaxPool2d(pool)]
        self.encode = nn.Sequential(*layers, nn.Flatten())
        self.decide = nn.Sequential(
            nn.Linear(widths[-1] * rows * columns, hidden), nn.LeakyReLU(0.01), nn.Linear(hidden, 1)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Frames ``(n, 1, y, x)`` to logits ``(n,)``, above 0 for what looks observed."""
        return self.decide(self.encode(frames)).squeeze(1)

    def loss(self, truth: Tensor, generated: Tensor) -> Tensor:
        """Binary cross entropy on observed and on generated frames, equation 8; the latter are detached."""
        return judged(self(truth), real=True) + judged(self(generated.detach()), real=False)


def judged(logits: Tensor, *, real: bool) -> Tensor:
    """Binary cross entropy of logits ``(n,)`` against the verdict that all are real, or that none is."""
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
