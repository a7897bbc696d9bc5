"""Embeddings of the diffusion step: what tells a network how much noise it sees."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

Sinusoids = Literal["ddpm", "guided-diffusion"]


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of the step at frequencies that fall from 1 to about 1/10000. steps (b,) -> (b, width).

    ``kind``: ``"ddpm"`` has frequencies 10000^(-i / (n - 1)) for i of 0 to n - 1, sines first (Ho et al. 2020);
    ``"guided-diffusion"`` has 10000^(-i / n), cosines first (Dhariwal and Nichol 2021, their code).
    """

    def __init__(self, width: int, kind: Sinusoids = "ddpm") -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(f"the width is {width}; it must be even and at least 4")
        self.width, self.kind = width, kind

    def forward(self, steps: Tensor) -> Tensor:
        half = self.width // 2
        fall = half - 1 if self.kind == "ddpm" else half
        # no buffer: a network in half precision would round the rates, and steps would have the phases of others
        rates = torch.exp(-math.log(10000) / fall * torch.arange(half, device=steps.device))
        angles = steps.float()[..., None] * rates
        sines, cosines = angles.sin(), angles.cos()
        return torch.cat([sines, cosines] if self.kind == "ddpm" else [cosines, sines], dim=-1)


class FourierEmbedding(nn.Module):
    """The step beside sines and cosines of it at random, fixed frequencies (Tancik et al. 2020).

    steps (b,), best as a share of the schedule -> (b, 2 frequencies + 1)
    """

    def __init__(self, frequencies: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(frequencies))

    frequencies: Tensor

    def _apply(self, fn: Any, recurse: bool = True) -> "FourierEmbedding":
        exact = self.frequencies
        super()._apply(fn, recurse)
        # half precision would round the frequencies, and steps would have the phases of others
        if self.frequencies.dtype != exact.dtype:
            self.frequencies = exact.to(self.frequencies.device)
        return self

    def forward(self, steps: Tensor) -> Tensor:
        angles = 2 * math.pi * steps[..., None] * self.frequencies
        return torch.cat([steps[..., None], angles.sin(), angles.cos()], dim=-1)


class StepEmbedding(nn.Sequential):
    """An embedding and two linear layers on it; between them GELU by default. steps (b,) -> (b, width)."""

    def __init__(self, embedding: nn.Module, width_in: int, width: int, activation: nn.Module | None = None) -> None:
        super().__init__(embedding, nn.Linear(width_in, width), activation or nn.GELU(), nn.Linear(width, width))

    def forward(self, steps: Tensor) -> Tensor:
        embedding, first, activation, second = self
        return second(activation(first(embedding(steps).to(first.weight.dtype))))
