"""Labels of rain classes, hard and continuous, what they mean in mm/h, and the loss that learns them.

m classes are bounded by m - 1 rising thresholds: class 0 is below the first, class j from threshold j - 1 on.
Continuous labels are Algorithm 1 of An et al. (2023), Self-supervised pre-training for precipitation post-processor,
corrected: as printed its weights exceed 1. What its text asks for (weights that sum to 1, more weight on the next class
the nearer its threshold is, a pure last class) leaves one rule that is linear between thresholds and continuous: class
j is pure at its lower bound.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def check_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """The thresholds as a tuple of floats.

    ``thresholds``: mm/h. ValueError if there are none, or they are not above 0, finite and rising.

    >>> check_thresholds([10, 0.1])
    Traceback (most recent call last):
    ValueError: thresholds are [10, 0.1]; they must be one or more finite numbers above 0, each larger than the last
    """
    numbers = tuple(float(threshold) for threshold in thresholds)
    nodes = (0.0, *numbers, float("inf"))
    if not numbers or not all(low < high for low, high in pairwise(nodes)):
        raise ValueError(
            f"thresholds are {list(thresholds)}; they must be one or more finite numbers above 0, each larger than "
            "the last"
        )
    return numbers


def continuous_labels(rain: Tensor, thresholds: Sequence[float], interpolate_dry: bool = True) -> Tensor:
    """Share of each class in a rain rate (Algorithm 1, corrected).

    Parameters
    ----------
    rain : Tensor
        ``(..., y, x)`` in mm/h; negative values count as 0.
    thresholds : sequence of float
        m - 1 of them in mm/h, rising.
    interpolate_dry : bool
        False gives all below the first threshold to class 0, with a jump there.

    Returns
    -------
    Tensor
        ``(..., m, y, x)``, 0 to 1, summing to 1; NaN in all classes where the rain is NaN.

    Raises
    ------
    ValueError
        If the thresholds do not rise from above 0.

    Examples
    --------
    >>> continuous_labels(torch.tensor([[0.05, 1.0, 5.05, 40.0]]), (0.1, 10))[:, 0]
    tensor([[0.5000, 0.0000, 0.0000, 0.0000],
            [0.5000, 0.9091, 0.5000, 0.0000],
            [0.0000, 0.0909, 0.5000, 1.0000]])
    """
    thresholds = check_thresholds(thresholds)
    position = torch.zeros_like(rain)
    for low, high in pairwise((0.0, *thresholds)):
        position = position + ((rain - low) / (high - low)).clamp(0, 1)
    if not interpolate_dry:
        position = torch.where(rain < thresholds[0], 0, position)
    classes = torch.arange(len(thresholds) + 1, device=rain.device, dtype=rain.dtype)
    # a class has the more, the nearer its own number is
    return (1 - (position.unsqueeze(-3) - classes[:, None, None]).abs()).clamp_min(0)


def one_hot_labels(rain: Tensor, thresholds: Sequence[float]) -> Tensor:
    """1 for the class of a rain rate and 0 for the others.

    Parameters
    ----------
    rain : Tensor
        ``(..., y, x)`` in mm/h.
    thresholds : sequence of float
        m - 1 of them in mm/h, rising.

    Returns
    -------
    Tensor
        ``(..., m, y, x)``; NaN in all classes where the rain is NaN.

    Raises
    ------
    ValueError
        If the thresholds do not rise from above 0.

    Examples
    --------
    >>> one_hot_labels(torch.tensor([[0.05, 0.1, 10.0]]), (0.1, 10))[:, 0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    thresholds = check_thresholds(thresholds)
    number = sum((rain >= threshold).long() for threshold in thresholds)
    assert isinstance(number, Tensor)
    labels = F.one_hot(number, len(thresholds) + 1).movedim(-1, -3).to(rain.dtype)
    return torch.where(rain.isnan().unsqueeze(-3), torch.nan, labels)


def expected_class_to_rain(probabilities: Tensor, thresholds: Sequence[float]) -> Tensor:
    """The rain rate whose continuous label has this expected class; the inverse of the label map.

    Parameters
    ----------
    probabilities : Tensor
        ``(..., m, y, x)``.
    thresholds : sequence of float
        m - 1 of them in mm/h, rising.

    Returns
    -------
    Tensor
        ``(..., y, x)`` in mm/h, up to the last threshold; NaN where a probability is.

    Raises
    ------
    ValueError
        If the thresholds do not rise from above 0, or the classes are not one more.

    Examples
    --------
    >>> rain = torch.tensor([[0.0, 0.03, 4.0, 70.0]])
    >>> expected_class_to_rain(continuous_labels(rain, (0.1, 10)), (0.1, 10))
    tensor([[ 0.0000,  0.0300,  4.0000, 10.0000]])
    """
    thresholds = check_thresholds(thresholds)
    if probabilities.shape[-3] != len(thresholds) + 1:
        raise ValueError(
            f"there are {probabilities.shape[-3]} classes; {len(thresholds)} thresholds make {len(thresholds) + 1}"
        )
    numbers = torch.arange(len(thresholds) + 1, device=probabilities.device, dtype=probabilities.dtype)
    expected = (probabilities * numbers[:, None, None]).sum(dim=-3)
    rain = torch.where(expected.isnan(), torch.nan, torch.full_like(expected, thresholds[-1]))
    for number, (low, high) in reversed(list(enumerate(pairwise((0.0, *thresholds))))):
        rain = torch.where(expected < number + 1, low + (expected - number) * (high - low), rain)
    return rain


def weighted_cross_entropy(logits: Tensor, labels: Tensor, class_weights: Sequence[float]) -> Tensor:
    """Cross-entropy with labels that need not be pure (An et al. 2023, equation 2).

    Parameters
    ----------
    logits : Tensor
        ``(b, m, y, x)``.
    labels : Tensor
        Same shape; cells with a NaN are left out.
    class_weights : sequence of float
        Of the m classes, inside the sum.

    Returns
    -------
    Tensor
        Scalar, float32: the mean over the cells that count, however they are weighted; 0 where there are none.

    Examples
    --------
    >>> labels = one_hot_labels(torch.tensor([[[0.0, 20.0, torch.nan]]]), (0.1, 10))
    >>> weighted_cross_entropy(torch.zeros(1, 3, 1, 3), labels, (1, 5, 10)) / torch.tensor(3.0).log()
    tensor(5.5000)
    """
    known = ~labels.isnan().any(dim=-3)
    weights = torch.tensor(class_weights, dtype=torch.float32, device=logits.device)[:, None, None]
    cost = -(weights * labels.nan_to_num(0) * logits.float().log_softmax(dim=-3)).sum(dim=-3)
    return (cost * known).sum() / known.sum().clamp_min(1)
