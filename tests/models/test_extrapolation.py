"""Optical flow and the extrapolation nowcast on rain whose motion is known."""

import math

import pytest
import torch

from xnowcast.models.extrapolation import Extrapolation
from xnowcast.nn.optical_flow import dense_flow


def cells(seed, n=40, size=192):
    """A rain field as a function of position, periodic in nothing: Gaussian cells, mm h-1."""
    g = torch.Generator().manual_seed(seed)
    cy, cx = (
        (torch.rand(n, 1, 1, generator=g) * 1.6 - 0.3) * size,
        (torch.rand(n, 1, 1, generator=g) * 1.6 - 0.3) * size,
    )
    width, peak = 4 + 8 * torch.rand(n, 1, 1, generator=g), 2 + 15 * torch.rand(n, 1, 1, generator=g)

    def rain(y, x):
        value = (peak * torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))).sum(0)
        return torch.where(value >= 0.1, value, 0.0)

    return rain


def moving(vy, vx, seed=0, frames=4, size=192):
    """(1, t, y, x) rain moving by (vy, vx) cells per step, the newest frame last."""
    rain = cells(seed, size=size)
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return torch.stack([rain(y - vy * k, x - vx * k) for k in range(frames)])[None]


def decibel(rain):
    return 10 * torch.log10(rain + 0.2)


def forecast(rain, steps=3, observed=None, **options):
    """(b, t, y, x) to (b, steps, y, x)."""
    seen = torch.ones_like(rain, dtype=torch.bool) if observed is None else observed
    return Extrapolation(**options).forecast(rain[:, :, None], seen[:, :, None], steps)[:, :, 0]


@pytest.mark.parametrize(
    ("vy", "vx"), [(0.0, 0.0), (0.3, -0.7), (2.0, 1.0), (-3.4, 2.6), (5.5, -5.5), (-8.0, 0.0), (0.4, 8.0)]
)
def test_translation_is_recovered_below_a_tenth_of_a_cell(vy, vx):
    motion = dense_flow(decibel(moving(vy, vx)))[0]
    inner = motion[:, 32:160, 32:160]
    error = (inner - torch.tensor([vy, vx]).view(2, 1, 1)).norm(dim=0)
    assert error.median() < 0.05
    assert error.quantile(0.95) < 0.1


def test_rotation_is_recovered():
    size, rate = 192, 0.03
    rain = cells(3, n=80)
    at = torch.arange(float(size)) - (size - 1) / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    frames = []
    for k in range(4):
        c, s = math.cos(rate * k), math.sin(rate * k)
        frames.append(rain(c * y - s * x + (size - 1) / 2, s * y + c * x + (size - 1) / 2))
    motion = dense_flow(decibel(torch.stack(frames)[None]))[0]
    # turning by +rate: y' = rate x, x' = -rate y, seen where it is now and averaged over the last three steps
    error = (motion - torch.stack([rate * x, -rate * y])).norm(dim=0)[32:160, 32:160]
    assert error.median() < 0.2


def test_extrapolation_continues_the_motion():
    truth = moving(1.5, -2.0, seed=5, frames=8)
    out = forecast(truth[:, :4], steps=4)
    inner = (..., slice(24, 168), slice(24, 168))
    error = (out[inner] - truth[:, 4:][inner]).abs().mean()
    assert error < 0.1 * (truth[:, 3:4][inner] - truth[:, 4:][inner]).abs().mean()


def test_inflow_is_nan_exactly_where_the_air_comes_from_outside():
    out = forecast(moving(0.0, 4.0, seed=2), steps=3)
    for k in (1, 2, 3):
        unknown = torch.isnan(out[0, k - 1])
        assert unknown[:, : 4 * k - 2].all()
        assert not unknown[:, 4 * k + 2 :].any()
    assert torch.isfinite(forecast(moving(0.0, 4.0, seed=2), inflow="dry")).all()


@pytest.mark.parametrize("shape", [(8, 8), (33, 70), (128, 96)])
def test_dry_stays_dry_and_stands_still(shape):
    rain = torch.zeros(2, 4, *shape)
    assert not dense_flow(decibel(rain)).any()
    out = forecast(rain, steps=5)
    assert torch.equal(out, torch.zeros(2, 5, *shape))


def test_one_wet_pixel_is_finite_and_stays_where_it_does_not_move():
    rain = torch.zeros(1, 4, 64, 64)
    rain[..., 30, 20] = 10.0
    out = forecast(rain, steps=3)
    torch.testing.assert_close(out[0, :, 30, 20], torch.full((3,), 10.0), rtol=1e-3, atol=0)


def test_dry_then_wet_and_wet_then_dry_are_finite():
    rain = moving(1.0, 1.0, seed=4)
    appears, ends = rain.clone(), rain.clone()
    appears[:, :-1] = 0.0
    ends[:, -1] = 0.0
    assert torch.isfinite(dense_flow(decibel(appears))).all()
    out = forecast(ends)
    assert not out[torch.isfinite(out)].any()


def test_the_edge_of_the_coverage_makes_no_motion():
    # rain moves along x under a round coverage that stands still and would say: no motion
    rain = moving(0.0, 3.0, seed=6)
    y, x = torch.meshgrid(torch.arange(192.0) - 96, torch.arange(192.0) - 96, indexing="ij")
    observed = (y**2 + x**2 < 80**2).expand_as(rain)
    cut = decibel(torch.where(observed, rain, 0.0))
    truth = torch.tensor([0.0, 3.0]).view(2, 1, 1)
    aware, unaware = ((dense_flow(cut, o)[0] - truth).norm(dim=0)[observed[0, 0]] for o in (observed, None))
    assert aware.median() < 0.05
    assert aware.quantile(0.95) < 0.3
    assert unaware.quantile(0.95) > 1.0


def test_coverage_that_comes_and_goes_over_still_rain_makes_no_motion():
    rain = moving(0.0, 0.0, seed=7)
    observed = torch.ones_like(rain, dtype=torch.bool)
    for k in range(4):
        observed[:, k, :, : 20 + 15 * k] = False
    motion = dense_flow(decibel(torch.where(observed, rain, 0.0)), observed)
    assert motion.abs().max() < 0.01


def test_what_stands_where_nothing_was_observed_does_not_matter():
    rain = moving(1.0, 2.0, seed=8)
    observed = torch.ones_like(rain, dtype=torch.bool)
    observed[..., :60, :] = False
    filled = [torch.where(observed, rain, value) for value in (0.0, 50.0)]
    a, b = (forecast(f, observed=observed) for f in filled)
    torch.testing.assert_close(a, b, equal_nan=True)
    assert torch.isnan(a[0, 0, :55]).all()


def test_nan_frames_need_no_mask():
    rain = decibel(moving(1.0, 2.0, seed=8))
    observed = torch.ones_like(rain, dtype=torch.bool)
    observed[..., :60, :] = False
    given = dense_flow(rain, observed)
    torch.testing.assert_close(dense_flow(torch.where(observed, rain, math.nan)), given)


def test_clutter_that_stands_still_hardly_slows_the_rain():
    rain = moving(0.0, 4.0, seed=9)
    g = torch.Generator().manual_seed(0)
    rain = torch.where(torch.rand(192, 192, generator=g) < 0.005, 20.0, rain)
    motion = dense_flow(decibel(rain))[0, :, 32:160, 32:160]
    assert abs(float(motion[1].median()) - 4.0) < 0.5


def test_a_batch_equals_its_samples():
    rain = torch.cat([moving(1.0, 2.0, seed=1), moving(-3.0, 0.5, seed=2), torch.zeros(1, 4, 192, 192)])
    alone = torch.cat([dense_flow(decibel(r[None])) for r in rain])
    torch.testing.assert_close(dense_flow(decibel(rain)), alone, atol=1e-3, rtol=0)
    out = forecast(rain)
    torch.testing.assert_close(out[1:2], forecast(rain[1:2]), equal_nan=True, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "turn",
    [lambda f: f.flip(-1), lambda f: f.flip(-2), lambda f: f.transpose(-1, -2)],
    ids=["x", "y", "transpose"],
)
def test_turning_the_grid_turns_the_forecast(turn):
    rain = moving(1.7, -2.3, seed=10)
    torch.testing.assert_close(forecast(turn(rain)), turn(forecast(rain)), equal_nan=True, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("size", [100, 192])
def test_any_grid_size_will_do(size):
    motion = dense_flow(decibel(moving(1.0, 2.0, seed=11, size=size)))[0]
    assert motion.shape == (2, size, size)
    middle = motion[:, size // 4 : -size // 4, size // 4 : -size // 4].flatten(1).median(1).values
    torch.testing.assert_close(middle, torch.tensor([1.0, 2.0]), atol=0.05, rtol=0)


@pytest.mark.parametrize("frames", [2, 3, 6])
def test_two_frames_or_more_are_used(frames):
    out = forecast(moving(0.0, 2.0, seed=12, frames=frames), input_frames=frames)
    assert torch.isnan(out[0, 2, :, :4]).all()
    assert torch.isfinite(out[0, 2, :, 8:]).all()


def test_it_declares_what_it_reads():
    task = Extrapolation.declare(input_frames=3)
    assert (task.verb, task.input_frames, task.stochastic, task.coverage) == (
        "forecast",
        3,
        False,
        "advected",
    )
    assert Extrapolation.declare(inflow="dry").coverage == "observed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_frames": 1}, "at least 2 frames"),
        ({"inflow": "wet"}, "inflow is 'wet': choose one of 'nan', 'dry'"),
        ({"window": 0.0}, "above 0"),
        ({"carried": -0.1}, "between 0 and 1"),
        ({"interpolation": "cubic"}, "choose one of 'bilinear', 'nearest'"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        Extrapolation(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": torch.zeros(4, 16, 16)}, "t at least 2"),
        ({"frames": torch.zeros(1, 1, 16, 16)}, "t at least 2"),
        ({"observed": torch.ones(1, 3, 16, 16, dtype=torch.bool)}, "make them equal"),
        ({"finest": 3}, "choose 1, 2, 4, 8 or 16"),
        ({"iterations": 0}, "must be positive"),
    ],
)
def test_wrong_arguments_of_the_flow_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        dense_flow(**({"frames": torch.zeros(1, 4, 16, 16)} | arguments))
