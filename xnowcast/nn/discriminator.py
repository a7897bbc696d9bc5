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


class PatchDiscriminator(nn.Module):
    """A logit for each of many overlapping patches of a frame (Isola et al. 2017, arXiv:1611.07004, appendix 6.1.2).

    Convolutions of 4 x 4 cells with leaky ReLUs, all but the first and the last with a batch norm; the first ``layers``
    halve the grid. With the defaults a patch has 70 x 70 cells. ValueError if frames are smaller than its layers need.

    ``width``: channels after the first convolution, twice as many after each further one, up to 8 times.

    >>> judge = PatchDiscriminator()
    >>> sum(p.numel() for p in judge.parameters())
    2763585
    >>> judge(torch.rand(2, 3, 1, 32, 40)).shape
    torch.Size([6, 1, 2, 3])
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.layers = layers
        body: list[nn.Module] = [nn.Conv2d(1, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for number in range(1, layers + 1):
            before, after = (width * min(2**exponent, 8) for exponent in (number - 1, number))
            stride = 2 if number < layers else 1
            body += [nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False)]
            body += [nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        self.network = nn.Sequential(*body, nn.Conv2d(after, 1, 4, padding=1))
        for module in self.network:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames ``(..., 1, y, x)`` of any number of further dims to logits ``(n, 1, rows, columns)`` of all."""
        least = 3 * 2**self.layers
        if min(frames.shape[-2:]) < least:
            raise ValueError(
                f"the adversary reads frames of {least} x {least} cells or more, and these have {frames.shape[-2]} x "
                f"{frames.shape[-1]}: take larger crops, or train without the adversarial loss"
            )
        return self.network(frames.reshape(-1, *frames.shape[-3:]))

    def loss(self, truth: Tensor, generated: Tensor) -> Tensor:
        """Hinge loss (Lim and Ye 2017, arXiv:1705.02894); what was generated is detached."""
        real, made = self(truth), self(generated.detach())
        return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + made).mean())
