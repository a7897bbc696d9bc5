"""How far two ways to one result may lie apart: as far as rounding explains, on any processor.

Processors add in different orders, eight numbers at a time or sixteen, with and without fused multiply-adds; batches,
tiles and threads of other sizes do the same on one processor. Every operation on float32 is off by up to 6e-8 of its
result, sums and layers pile that up, and what is left of two large numbers after a subtraction has the error of the
large ones. An error is therefore measured against the largest value of its field.
"""

import numpy as np
import torch

FLOAT32 = 1e-4
"""Share of the largest value. Dozens of layers of sums over hundreds of numbers come to between 1e-6 and 1e-5 of it; a
wrong formula, a shifted cell or a sample that sees its neighbour come to more than 1e-3."""

FLOAT64 = 1e-8
"""The same in double precision, where a step is off by 1e-16 and long chains of gradients come to 1e-9."""

OTHERS = 1e-3
"""The same against another package in float32, whose constants, orders and steps are rounded in ways of their own."""


def assert_close(found, expected, share=FLOAT32, *, equal_nan=False):
    """Equal up to rounding: tensors of one shape and type, or arrays."""
    if isinstance(expected, torch.Tensor):
        largest = expected.detach()[expected.isfinite()].abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=share * largest, equal_nan=equal_nan)
    else:
        largest = np.abs(np.asarray(expected)[np.isfinite(expected)]).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=share * largest, equal_nan=equal_nan)
