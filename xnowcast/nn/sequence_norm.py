"""Batch norm for networks that meet the same layer several times, once for each step of a sequence."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SequenceNorm(nn.Module):
    """Batch norm whose steps share gain and bias and have statistics of their own (Cooijmans et al. 2017, section 3).

    The state of a recurrent network is spread otherwise after its first step than after later ones, so that statistics
    of all steps together fit none of them.

    Parameters
    ----------
    width : int
        Channels.
    steps : int
        Length of the sequence; 1 is a plain batch norm.
    batch_statistics : bool
        Whether the statistics are those of the batch in evaluation, too; none are kept then.

    References
    ----------
    Cooijmans et al. (2017), Recurrent batch normalization, arXiv:1603.09025

    Examples
    --------
    >>> norm = SequenceNorm(8, steps=3)
    >>> norm(torch.rand(2, 8, 5, 5), step=2).shape
    torch.Size([2, 8, 5, 5])
    """

    mean: Tensor | None
    variance: Tensor | None

    def __init__(self, width: int, steps: int = 1, *, batch_statistics: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", None if batch_statistics else torch.zeros(steps, width))
        self.register_buffer("variance", None if batch_statistics else torch.ones(steps, width))

    @property
    def tells_samples_apart(self) -> bool:
        """Whether the answer for a sample does not depend on the others of its batch."""
        return self.mean is not None and not self.training

    def forward(self, x: Tensor, step: int = 0) -> Tensor:
        """``(b, c, ...)`` -> same."""
        mean, variance = (None if kept is None else kept[step] for kept in (self.mean, self.variance))
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=not self.tells_samples_apart)
