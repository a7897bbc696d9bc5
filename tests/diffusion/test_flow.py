"""Flow matching: straight lines, Euler and Heun along them, on velocities that are known."""

import math
from itertools import pairwise

import pytest
import torch
from rounding import assert_close

from xnowcast.diffusion import (
    CLEAN,
    FLOW_SAMPLERS,
    PARAMETERIZATIONS,
    StraightPath,
    as_denoiser,
    ddim,
    evenly_spaced_times,
    guided,
    heun_in_time,
)

PATH = StraightPath(50)
MEAN, VARIANCE = torch.tensor([0.5, -1.0, 3.0]), torch.tensor([0.04, 1.0, 4.0])


def time(step):
    """t of a step: 0 at pure noise, 1 at the data."""
    return 1 - (step + 1) / 50


def velocity_of_gaussian(x, step):
    """Expected data minus noise of ``N(MEAN, diag(VARIANCE))``, given what is seen at t."""
    t, m, v = time(step), MEAN.to(x), VARIANCE.to(x)
    spread = t**2 * v + (1 - t) ** 2
    return m + (t * v - (1 - t)) / spread * (x - t * m)


def euler(velocity, x, steps):
    """Written out: where the velocity leads, step by step."""
    for step, following in pairwise(steps):
        x = x + (time(following) - time(step)) * velocity(x, step)
    return x


def test_the_line_leads_from_noise_to_data():
    data, eps = torch.randn(2, 4, 3)
    steps = torch.tensor([49.0, 24.0, -1.0, 11.5])
    seen = PATH.add_noise(data, eps, steps)
    for i, t in enumerate((0.0, 0.5, 1.0, 0.75)):
        assert_close(seen[i], t * data[i] + (1 - t) * eps[i])
        assert PATH.levels(float(steps[i])) == pytest.approx((t, 1 - t))
    for step in (50, -1.5):
        with pytest.raises(ValueError, match="-1 to 49"):
            PATH.levels(step)


def test_times_to_train_on_are_all_times():
    torch.manual_seed(0)
    steps = PATH.draw_steps(20_000, torch.device("cpu"))
    assert steps.min() >= CLEAN and steps.max() < 49
    assert float(steps.mean()) == pytest.approx(24.0, abs=0.5) and (steps != steps.round()).any()
    assert len(torch.unique(steps.floor())) == 50


def test_visited_times_are_evenly_spaced_in_any_number():
    for count in (1, 7, 50, 133):
        steps = evenly_spaced_times(50, count)
        assert (steps[0], steps[-1], len(steps)) == (49, CLEAN, count + 1)
        assert [time(b) - time(a) for a, b in pairwise(steps)] == pytest.approx([1 / count] * count)
    with pytest.raises(ValueError, match="at least 1"):
        evenly_spaced_times(50, 0)


def test_ddim_on_the_line_is_eulers_method():
    x = torch.randn(5, 3, dtype=torch.float64)
    velocity = lambda x, step: torch.sin(3 * x) + step * x.flip(0) / 50  # noqa: E731
    for count in (1, 3, 20):
        steps = evenly_spaced_times(50, count)
        assert_close(ddim(as_denoiser(velocity, PATH, "flow"), x, PATH, steps), euler(velocity, x, steps))


@pytest.mark.parametrize(("name", "count", "tolerance"), [("ddim", 200, 0.02), ("ddim", 10, 0.25), ("heun", 40, 0.02)])
def test_samples_of_a_gaussian_have_its_mean_and_variance(name, count, tolerance):
    x = torch.randn(1, 20_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    denoise = as_denoiser(velocity_of_gaussian, PATH, "flow")
    samples = FLOW_SAMPLERS[name](denoise, x, PATH, evenly_spaced_times(50, count))[0]
    assert_close(samples.mean(0), MEAN.double())  # straight lines carry the mean exactly
    torch.testing.assert_close(samples.std(0), VARIANCE.double().sqrt(), rtol=tolerance, atol=0)


@pytest.mark.parametrize(("sampler", "expected"), [(ddim, 1), (heun_in_time, 2)])
def test_the_error_falls_with_the_steps_at_the_order_of_the_method(sampler, expected):
    x = torch.randn(1, 64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = MEAN + VARIANCE.sqrt() * x  # every axis keeps its quantile
    errors = []
    for count in (20, 40, 80):
        end = sampler(as_denoiser(velocity_of_gaussian, PATH, "flow"), x, PATH, evenly_spaced_times(50, count))
        errors.append(float((end - exact).abs().max()))
    orders = [math.log2(before / after) for before, after in pairwise(errors)]
    assert orders[-1] == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS.values())
def test_a_velocity_that_knows_the_answer_gives_it_in_one_step(sampler):
    truth, eps = torch.randn(2, 2, 5, dtype=torch.float64)
    denoise = as_denoiser(lambda x, step: truth - eps, PATH, "flow")
    for count in (1, 2, 9):
        assert_close(sampler(denoise, eps, PATH, evenly_spaced_times(50, count)), truth)


def test_one_step_of_heun_by_hand():
    """From t = 0 to 1/2 and on: 2 at first, 4 where that leads, 3 on the mean, and then Euler."""
    velocities = iter((2.0, 4.0, 1.0))
    network = lambda x, step: torch.full_like(x, next(velocities))  # noqa: E731
    end = heun_in_time(as_denoiser(network, PATH, "flow"), torch.zeros(1, 1), PATH, evenly_spaced_times(50, 2))
    assert float(end) == pytest.approx(0.5 * (2 + 4) / 2 + 0.5 * 1.0)


def test_guidance_of_the_signal_is_guidance_of_the_velocity():
    x = torch.randn(3, 4, dtype=torch.float64)
    aware, unaware = (lambda x, step, turn=turn: torch.cos(turn * x) for turn in (1.0, 2.0))
    denoise = guided(as_denoiser(aware, PATH, "flow"), as_denoiser(unaware, PATH, "flow"), 1.5)
    steps = evenly_spaced_times(50, 4)
    together = euler(lambda x, step: 2.5 * aware(x, step) - 1.5 * unaware(x, step), x, steps)
    assert_close(ddim(denoise, x, PATH, steps), together)


def test_the_velocity_is_data_minus_noise():
    data, eps = torch.tensor([2.0]), torch.tensor([0.5])
    flow = PARAMETERIZATIONS["flow"]
    assert float(flow.target(data, eps, 0.3, 0.7)) == 1.5
    seen = 0.3 * data + 0.7 * eps
    assert float(flow.to_x0(torch.tensor([1.5]), seen, 0.3, 0.7)) == pytest.approx(2.0)
    assert float(flow.to_eps(torch.tensor([1.5]), seen, 0.3, 0.7)) == pytest.approx(0.5)
