"""Embeddings of the diffusion step: what tells a network how much noise it sees."""

import math

import torch
from torch import Tensor, nn


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of the step, wavelengths 2 pi to 20000 pi (Ho et al. 2020). steps (b,) -> (b, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(f"the width is {width}; it must be even and at least 4")
        half = width // 2
        # in float64, so that neighbouring steps of a long schedule stay apart
        rates = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, dtype=torch.float64)).float()
        self.register_buffer("rates", rates, persistent=False)

    rates: Tensor

    def forward(self, steps: Tensor) -> Tensor:
        angles = steps[..., None] * self.rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class FourierEmbedding(nn.Module):
    """The step beside sines and cosines of it at random, fixed frequencies (Tancik et al. 2020).

    steps (b,), best as a share of the schedule -> (b, 2 frequencies + 1)
    """

    def __init__(self, frequencies: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(frequencies))

    frequencies: Tensor

    def forward(self, steps: Tensor) -> Tensor:
        angles = 2 * math.pi * steps[..., None] * self.frequencies
        return torch.cat([steps[..., None], angles.sin(), angles.cos()], dim=-1)


class StepEmbedding(nn.Sequential):
    """An embedding and two linear layers on it. steps (b,) -> (b, width)."""

    def __init__(self, embedding: nn.Module, width_in: int, width: int) -> None:
        super().__init__(embedding, nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width))
