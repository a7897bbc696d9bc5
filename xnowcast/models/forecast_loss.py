"""What forecasters with one answer are trained for, declared once: pixels, or amplitudes and phases of whole maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xnowcast.models.declaration import Options, option
from xnowcast.nn.losses import fourier_amplitude_loss, fourier_correlation_loss, pixel_loss

PIXELS, FACL = {"loss": ["pixels"]}, {"loss": ["facl"]}


@dataclass(frozen=True, kw_only=True)
class ForecastLossOptions(Options):
    """Options of a forecaster that is trained with `forecast_losses`."""

    loss: str = option(
        "pixels",
        'Errors of pixels, which blur what cannot be foreseen; or "facl", the Fourier amplitude and correlation losses '
        "(Yan et al. 2024, arXiv:2410.23159), with which a forecast keeps its detail and errs more pixel by pixel.",
        choices=("pixels", "facl"),
    )
    emphasis: float = option(
        0.0,
        "In training, how much more rain that scales to 1 counts in the pixel losses than none.",
        least=0,
        only=PIXELS,
    )
    absolute_error: float = option(
        1.0,
        "In training, weight of the absolute error beside the squared one. Without it the network says the mean, which "
        "tells where rain is more likely even where it is not likely.",
        least=0,
        only=PIXELS,
    )
    amplitude_alone: float = option(
        0.1,
        "Alpha of FACL: the last share of the training, in which all steps have the amplitude loss; before, one or the "
        "other is drawn, at first always the correlation loss. More of it is sharper and less accurate.",
        least=0,
        only=FACL,
    )

    def check(self) -> None:
        super().check()
        if self.amplitude_alone > 1:
            raise ValueError(f"amplitude_alone is {self.amplitude_alone}: it is a share of the training, up to 1")


def forecast_losses(
    predictions: Sequence[Tensor], truth: Tensor, observed: Tensor, options: ForecastLossOptions, progress: float
) -> list[Tensor]:
    """The loss of each of some predictions of the same frames, a scalar each.

    ``predictions, truth``: ``(b, t, 1, y, x)``, scaled to [0, 1]. ``observed``: same shape, bool. ``progress``: share
    of the training, or of its stage, that is done; 1 in validation.
    """
    if options.loss == "pixels":
        return [pixel_loss(one, truth, observed, options.emphasis, options.absolute_error) for one in predictions]
    amplitude, correlation = fourier_amplitude_loss, fourier_correlation_loss
    if progress >= 1:  # validation, which chooses weights: amplitudes alone do not tell where the rain is
        chosen = [amplitude, correlation]
    elif float(torch.rand(())) < amplitude_probability(progress, options.amplitude_alone):
        chosen = [amplitude]
    else:
        chosen = [correlation]
    return [torch.stack([loss(one, truth, observed) for loss in chosen]).sum() for one in predictions]


def amplitude_probability(progress: float, alone: float) -> float:
    """How likely a step of the training has the amplitude loss: 0 at first, 1 in the last share ``alone`` (figure 1).

    >>> [amplitude_probability(progress, 0.2) for progress in (0.0, 0.4, 0.8, 0.9)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return 1.0 if alone == 1 else min(progress / (1.0 - alone), 1.0)
