"""Losses that leave out what was not measured, per cell, so that they do not depend on the size of the grid."""

from torch import Tensor


def pixel_loss(
    forecast: Tensor, truth: Tensor, observed: Tensor, emphasis: float = 0.0, absolute_error: float = 1.0
) -> Tensor:
    """Mean over the measured cells of absolute plus squared error (Ma et al. 2024, equation 7, L_for and L_deb).

    The squared error alone is least for the mean, the absolute error for the median, which is dry wherever rain is
    less likely than not.

    ``forecast, truth``: same shape, any. ``observed``: same shape, bool. ``emphasis``: how much more a cell of truth 1
    counts than one of truth 0; the paper has 0. ``absolute_error``: weight of the absolute error; the paper has 1.
    Returned: scalar, float32; 0 where nothing was measured.

    >>> import torch
    >>> truth = torch.zeros(2, 2)
    >>> pixel_loss(torch.tensor([[2.0, 9.0], [0.0, 0.0]]), truth, torch.tensor([[True, False], [True, True]])).item()
    2.0
    """
    weight = observed if emphasis == 0 else observed * (1.0 + emphasis * truth.float())
    error = forecast.float() - truth.float()
    return ((absolute_error * error.abs() + error.square()) * weight).sum() / weight.sum().clamp_min(1)


def gradient_difference_loss(forecast: Tensor, truth: Tensor, observed: Tensor) -> Tensor:
    """Differences between the steepness of forecast and truth along y and x (Ma et al. 2024, equation 7, L_gdl).

    ``forecast, truth``: ``(..., y, x)``. ``observed``: same shape, bool. A pair of neighbours counts where both were
    measured. Returned: scalar, float32: the sum over pairs, over the number of measured cells.

    >>> import torch
    >>> edge = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    >>> gradient_difference_loss(torch.zeros(2, 2), edge, edge >= 0).item()
    0.5
    """
    forecast, truth = forecast.float(), truth.float()
    total = forecast.new_zeros(())
    for dim in (-2, -1):
        both = observed.narrow(dim, 1, observed.shape[dim] - 1) & observed.narrow(dim, 0, observed.shape[dim] - 1)
        total = total + ((truth.diff(dim=dim).abs() - forecast.diff(dim=dim).abs()).abs() * both).sum()
    return total / observed.sum().clamp_min(1)
