"""Losses that leave out what was not measured, per cell, so that they do not depend on the size of the grid."""

import torch
from torch import Tensor
from torch.nn import functional as F

FAINT = 0.01
"""Norm below which a forecast or a truth has no direction that it could be turned to: one cell of a hundredth."""

TINY = 1e-12
"""Added to shares of a map, so that they have a logarithm; the authors' number."""


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


def fourier_amplitude_loss(forecast: Tensor, truth: Tensor, observed: Tensor) -> Tensor:
    """Squared differences of the Fourier amplitudes of maps (Yan et al. 2024, arXiv:2410.23159, FAL).

    The amplitudes tell how strong each scale is, and not where: a map and the same map shifted round have the same.

    ``forecast, truth``: ``(..., y, x)``. ``observed``: same shape, bool; where it is False both are taken as 0.
    Returned: scalar, float32: the sum over wavenumbers of orthonormal transforms, over the number of measured cells; it
    is never more than the mean squared error.

    >>> ridge = torch.eye(4)[:, :1].expand(4, 4)
    >>> fourier_amplitude_loss(ridge.roll(2, 0), ridge, ridge >= 0).item()
    0.0
    """
    of_forecast, of_truth = (
        torch.fft.fft2(field.float().where(observed, 0.0), norm="ortho").abs() for field in (forecast, truth)
    )
    return (of_truth - of_forecast).square().sum() / observed.sum().clamp_min(1)


def fourier_correlation_loss(forecast: Tensor, truth: Tensor, observed: Tensor) -> Tensor:
    """One minus the correlation of the Fourier coefficients of maps (Yan et al. 2024, arXiv:2410.23159, FCL).

    The sums of products over all wavenumbers are those over all cells (Parseval), so no transform is needed, and what
    was not measured is left out exactly. It does not change with the strength of the forecast.

    ``forecast, truth``: same shape, any; all maps together have one correlation. ``observed``: same shape, bool.
    Returned: scalar, float32, 0 to 2; 0 where the truth is dry throughout or nothing was measured.

    >>> rain = torch.tensor([[0.0, 0.3], [0.4, 0.0]])
    >>> [round(fourier_correlation_loss(factor * rain, rain, rain >= 0).item(), 5) for factor in (2.0, -1.0)]
    [0.0, 2.0]
    """
    forecast, truth = (field.float().where(observed, 0.0) for field in (forecast, truth))
    strength, wanted = (torch.linalg.vector_norm(field) for field in (forecast, truth))
    correlation = (forecast * truth).sum() / (strength.clamp_min(FAINT) * wanted.clamp_min(FAINT))
    return (1.0 - correlation) * (wanted > 0)


def differential_divergence(forecast: Tensor, truth: Tensor, observed: Tensor, temperature: float = 0.1) -> Tensor:
    """How far the changes from frame to frame lie elsewhere than the true ones (Tan et al. 2023, arXiv:2206.12126).

    Changes over ``temperature`` become shares of each map by a softmax; it is the Kullback-Leibler divergence of the
    forecast's from the truth's, over the number of cells, as a mean squared error is.

    ``forecast, truth``: ``(b, t, ...)``, a softmax over each map of the last dims. ``observed``: same shape, bool; a
    change counts where both frames were measured. Returned: scalar, float32; 0 for a single frame, or where nothing
    was measured.

    >>> still, grows = torch.zeros(1, 2, 2), torch.tensor([[[0.0, 0.0], [0.1, 0.0]]])
    >>> round(differential_divergence(still, grows, still == 0).item(), 4)  # of (1/2, 1/2) from (e, 1) / (1 + e)
    0.0601
    """
    both = (observed[:, 1:] & observed[:, :-1]).flatten(2)
    changes = (field.float().diff(dim=1).flatten(2) / temperature for field in (forecast, truth))
    # a number that underflows, as infinity leaves NaN where nothing of a map was measured
    p, q = (change.masked_fill(~both, -1e9).softmax(dim=-1) for change in changes)
    return measured_mean(p * torch.log(p / (q + TINY) + TINY), both)


def almost_fair_crps(members: Tensor, truth: Tensor, fairness: float = 0.95) -> Tensor:
    """CRPS of an ensemble, cell by cell, as little biased by its size as still keeps members from drifting apart.

    The fair CRPS of two members leaves one of them free wherever the other is right; a share of the usual one, which is
    not fair to small ensembles, takes that freedom away (Lang et al. 2024, AIFS-CRPS, arXiv:2412.15832, equation 4).

    ``members``: ``(b, m, ...)``, m at least 2. ``truth``: ``(b, ...)``. ``fairness``: 1 is the fair CRPS, 0 the usual.
    Returned: ``(b, ...)``.

    >>> import torch
    >>> almost_fair_crps(torch.tensor([[0.0, 2.0]]), torch.tensor([1.0]), fairness=1.0).item()
    0.0
    >>> almost_fair_crps(torch.tensor([[0.0, 2.0]]), torch.tensor([1.0]), fairness=0.0).item()
    0.5
    """
    count = members.shape[1]
    error = (members - truth[:, None]).abs().mean(1)
    apart = sum((members[:, i] - members[:, j]).abs() for i in range(count) for j in range(i))
    return error - (1.0 - (1.0 - fairness) / count) * apart / (count * (count - 1))


def measured_mean(values: Tensor, measured: Tensor) -> Tensor:
    """Mean over what was measured, a scalar; 0 where nothing was.

    ``values, measured``: same shape, any, the latter bool.
    """
    return (values * measured).sum() / measured.sum().clamp_min(1)


def area_means(fields: Tensor, known: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Means over squares of cells, of the known ones; and where at least half of a square is known.

    ``fields, known``: ``(..., y, x)``, the latter bool. What is left over at the lower and right rim is left out.
    """
    if cells == 1:
        return fields, known
    lead = fields.shape[:-2]
    weight = known.to(fields).expand(fields.shape).reshape(-1, 1, *fields.shape[-2:])
    share = F.avg_pool2d(weight, cells)
    sums = F.avg_pool2d(fields.reshape(weight.shape) * weight, cells)
    means = (sums / share.clamp_min(1e-6)).reshape(*lead, *share.shape[-2:])
    return means, share.reshape(means.shape) >= 0.5
