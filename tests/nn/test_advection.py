"""Backward semi-Lagrangian advection against hand-made and independent answers."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from xnowcast.nn.advection import advect, back_trajectories


def steady(vy, vx, ny=32, nx=40, b=1):
    """The same motion everywhere."""
    return torch.tensor([vy, vx]).view(1, 2, 1, 1).expand(b, 2, ny, nx).contiguous()


def rotation(rate, n):
    """Solid rotation by ``rate`` radians per step about the middle of an n x n grid."""
    at = torch.arange(float(n)) - (n - 1) / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([rate * x, -rate * y])[None]


def test_shift_by_whole_cells_moves_the_numbers_and_leaves_nan_behind():
    field = torch.rand(1, 32, 40)
    out = advect(field, steady(2.0, -3.0), 4)
    for k in range(1, 5):
        expected = torch.full((32, 40), math.nan)
        expected[2 * k :, : 40 - 3 * k] = field[0, : 32 - 2 * k, 3 * k :]
        torch.testing.assert_close(out[0, k - 1], expected, equal_nan=True, atol=1e-4, rtol=0)


def test_agrees_with_scipy_on_a_fractional_shift():
    field = torch.rand(1, 32, 40)
    out = advect(field, steady(0.7, 1.3), 3, inflow="dry")[0].numpy()
    y, x = np.mgrid[:32, :40].astype(float)
    for k in (1, 2, 3):
        expected = map_coordinates(field[0].numpy(), [y - 0.7 * k, x - 1.3 * k], order=1, mode="nearest")
        inside = (y - 0.7 * k >= 0) & (x - 1.3 * k >= 0)
        np.testing.assert_allclose(out[k - 1][inside], expected[inside], atol=1e-4)


@pytest.mark.parametrize("carried", [0.0, 0.5, 1.0])
def test_a_constant_stays_constant_in_any_motion(carried):
    motion = 2 * torch.randn(2, 2, 32, 40)
    out = advect(torch.full((2, 32, 40), 3.5), motion, 5, carried=carried)
    assert torch.isfinite(out).any()
    torch.testing.assert_close(out[torch.isfinite(out)], torch.full_like(out[torch.isfinite(out)], 3.5))


def test_trajectories_bend_along_a_rotation():
    # a quarter turn in 15 steps: what arrives at 10 cells right of the middle (+x) started 10 cells above (-y)
    n, steps = 65, 15
    start = back_trajectories(rotation(math.pi / 2 / steps, n), steps)
    torch.testing.assert_close(start[0, -1, :, 32, 42], torch.tensor([22.0, 32.0]), atol=0.1, rtol=0)


def test_straight_trajectories_keep_the_motion_they_started_with():
    # V = rate * x along x: start = arrival - n rate start, so start = arrival / (1 + n rate)
    motion = torch.zeros(1, 2, 16, 81)
    motion[:, 1] = 0.05 * torch.arange(81.0)
    start = back_trajectories(motion, 4, carried=1.0)
    torch.testing.assert_close(start[0, 3, 1, 8], torch.arange(81.0) / 1.2, atol=0.05, rtol=0)


def test_carried_weighs_the_two_trajectories():
    motion = rotation(0.05, 33)
    curved, mixed, straight = (back_trajectories(motion, 6, carried=c) for c in (0.0, 0.25, 1.0))
    torch.testing.assert_close(mixed, 0.75 * curved + 0.25 * straight, atol=1e-4, rtol=0)
    assert (curved - straight).abs().max() > 0.1


def test_coarse_nodes_change_nothing_where_the_motion_is_linear():
    field = torch.rand(1, 48, 48)
    fine, coarse = (advect(field, rotation(0.02, 48), 5, inflow="dry", coarsen=c) for c in (1, 8))
    inner = (..., slice(12, 36), slice(12, 36))  # corners leave the grid, where the motion is cut off
    torch.testing.assert_close(fine[inner], coarse[inner], atol=0.01, rtol=0)


def test_unobserved_cells_travel_as_nan():
    field = torch.rand(1, 32, 40)
    field[:, 10:14, 20:25] = math.nan
    out = advect(field, steady(0.0, 2.0), 2)
    for k in (1, 2):
        hole = torch.zeros(32, 40, dtype=torch.bool)
        hole[10:14, 20 + 2 * k : 25 + 2 * k] = True
        hole[:, : 2 * k] = True
        assert torch.equal(torch.isnan(out[0, k - 1]), hole)


def test_observed_says_what_is_known_whatever_stands_there():
    field = torch.rand(1, 16, 16)
    observed = torch.ones(1, 16, 16, dtype=torch.bool)
    observed[:, 5, 5] = False
    other = field.clone()
    other[:, 5, 5] = 99.0
    shift = steady(0.3, 0.3, 16, 16)
    a, b = (advect(f, shift, 2, observed=observed) for f in (field, other))
    torch.testing.assert_close(a, b, equal_nan=True, rtol=0, atol=0)


def test_dry_inflow_has_no_nan():
    field = torch.rand(1, 16, 16)
    field[:, :3] = math.nan
    out = advect(field, steady(1.5, 1.5, 16, 16), 6, inflow="dry")
    assert torch.isfinite(out).all()
    assert float(out[0, 5, :8].max()) == 0.0


def test_nearest_invents_no_value():
    field = torch.rand(1, 32, 40)
    out = advect(field, steady(0.37, -0.61), 4, interpolation="nearest")
    assert torch.isin(out[torch.isfinite(out)], field).all()


def test_a_batch_equals_its_samples():
    field, motion = torch.rand(3, 24, 24), torch.randn(3, 2, 24, 24)
    whole = advect(field, motion, 3, carried=0.5)
    alone = torch.cat([advect(field[i : i + 1], motion[i : i + 1], 3, carried=0.5) for i in range(3)])
    torch.testing.assert_close(whole, alone, equal_nan=True)


def test_inputs_are_left_alone():
    field, motion = torch.rand(1, 16, 16), torch.randn(1, 2, 16, 16)
    field[0, 0, 0] = math.nan
    before = field.clone(), motion.clone()
    advect(field, motion, 2)
    torch.testing.assert_close((field, motion), before, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"field": torch.zeros(16, 16)}, r"must be \(b, y, x\)"),
        ({"field": torch.zeros(1, 16, 17)}, "on one grid"),
        ({"motion": torch.zeros(1, 3, 16, 16)}, r"must be \(b, 2, y, x\)"),
        ({"observed": torch.ones(1, 16, 15, dtype=torch.bool)}, "make them equal"),
        ({"steps": 0}, "at least one"),
        ({"inflow": "wet"}, "'nan' or 'dry'"),
        ({"interpolation": "cubic"}, "'bilinear' or 'nearest'"),
        ({"coarsen": 0}, "at least 1"),
        ({"carried": 1.5}, "between 0 and 1"),
    ],
)
def test_wrong_arguments_are_explained(change, message):
    arguments = {"field": torch.zeros(1, 16, 16), "motion": torch.zeros(1, 2, 16, 16), "steps": 2} | change
    with pytest.raises(ValueError, match=message):
        advect(**arguments)
