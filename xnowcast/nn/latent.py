"""Latent frames: how they are drawn, how far they lie from the normal distribution, and where they are of anything."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sampled(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Latent frames out of their distribution, from torch's global generators."""
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence from N(mean, variance) to N(0, 1), cell by cell.

    >>> gaussian_divergence(torch.tensor([0.0, 2.0]), torch.zeros(2)).tolist()
    [0.0, 2.0]
    """
    return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance)


def coarse(valid: Tensor, reduction: int) -> Tensor:
    """Where latent cells hold anything that was measured. (b, t, 1, y, x) -> (b, t, 1, y / reduction, ...)."""
    b, t = valid.shape[:2]
    return F.max_pool2d(valid.flatten(0, 1).float(), reduction).unflatten(0, (b, t))
