"""Probability matching: a forecast keeps its pattern and takes the distribution of rain rates of another field."""

import torch
from torch import Tensor


def matched(fields: Tensor, reference: Tensor) -> Tensor:
    """Fields ``(b, n, y, x)`` whose wet cells, in their order, have the values of a reference of the same shape.

    A forecast of the mean, or any other that is smooth where nothing more can be known, has its maxima in the right
    places and too low, and drizzle where there may be rain or not. The cell with the most rain gets the most rain of
    the reference, and so on down; where the reference is used up, or the field itself is dry, it is dry. Where the
    reference has more wet cells than the field, its lightest values are left out. Only cells where the field is not
    NaN count; NaN of the reference is dry. Ebert (2001), doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2

    >>> smooth = torch.tensor([[[[0.0, 1.0, 2.0, 1.5]]]])
    >>> matched(smooth, torch.tensor([[[[9.0, 0.0, 4.0, 0.0]]]]))
    tensor([[[[0., 0., 9., 4.]]]])
    """
    known = fields.isfinite()
    wanted = reference.nan_to_num(0.0).masked_fill(~known, 0.0).flatten(2)
    ranked = fields.masked_fill(~known, 0.0).flatten(2)
    order = ranked.argsort(dim=2, descending=True, stable=True)
    values = torch.zeros_like(ranked).scatter(2, order, wanted.sort(dim=2, descending=True).values.to(ranked.dtype))
    values = values.masked_fill(ranked <= 0, 0.0)
    return values.unflatten(2, fields.shape[2:]).masked_fill(~known, torch.nan)
