"""Schedules, targets, samplers, guidance and tiles: against the papers, diffusers, and a Gaussian that is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from rounding import OTHERS, assert_close

from xnowcast.diffusion import (
    CLEAN,
    PARAMETERIZATIONS,
    SAMPLERS,
    Schedule,
    Window,
    ancestral,
    as_denoiser,
    cosine_schedule,
    ddim,
    dpm_solver,
    evenly_spaced_steps,
    guided,
    heun,
    karras_schedule,
    karras_spaced_steps,
    linear_schedule,
    loss_weight,
    posterior,
    sigmoid_schedule,
    tiled,
)
from xnowcast.diffusion.tiling import blend_weights, tile_windows
from xnowcast.nn.noise import Noise, member_generator

SCHEDULES = {
    "linear": linear_schedule(1000),
    "cosine": cosine_schedule(1000),
    "sigmoid": sigmoid_schedule(50),
    "karras": karras_schedule(30),
}
STLDM_STEPS = [49, 46, 44, 41, 39, 36, 34, 31, 29, 26, 24, 21, 19, 16, 14, 11, 9, 6, 4, 1, -1]
STVD_STEPS = [1399, 1352, 1305, 1259, 1212, 1165, 1119, 1072, 1025, 979, 932, 885, 839, 792, 745]
STVD_STEPS += [699, 652, 605, 559, 512, 465, 419, 372, 325, 279, 232, 185, 139, 92, 45, -1]


def noise(members, seed=0):
    return Noise([member_generator(seed, 0, member) for member in members])


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize("name", SCHEDULES)
def test_signal_falls_from_step_to_step(name):
    schedule = SCHEDULES[name]
    assert schedule.abar.dtype == torch.float64
    assert (schedule.abar.diff() < 0).all() and (schedule.sigma.diff() > 0).all() and (schedule.snr.diff() < 0).all()
    torch.testing.assert_close(schedule.sigma**-2, schedule.snr)


def test_sigmoid_is_that_of_stldm():
    abar = sigmoid_schedule(50).abar
    expected = {0: 0.99367, 1: 0.98663, 10: 0.87884, 25: 0.46690, 40: 0.088865, 48: 0.0063252, 49: 6.3252e-06}
    for step, value in expected.items():
        assert float(abar[step]) == pytest.approx(value, rel=2e-5)


def test_sigmoid_is_that_of_stvd():
    abar = sigmoid_schedule(1400).abar
    values = [0.99979, 0.99957, 0.85015, 0.49882, 0.14844, 2.1433e-4, 2.1433e-7]
    for step, value in zip([0, 1, 350, 700, 1050, 1398, 1399], values, strict=True):
        assert float(abar[step]) == pytest.approx(value, rel=1e-4)  # the list is of float32


def test_linear_is_that_of_postcast_and_keeps_its_end_at_other_lengths():
    assert float(linear_schedule(1000).abar[-1]) == pytest.approx(4.036e-5, rel=1e-4)
    torch.testing.assert_close(linear_schedule(100).abar, linear_schedule(100, first=1e-3, last=0.2).abar)
    assert 1e-5 < float(linear_schedule(100).abar[-1]) < 1e-4


def test_cosine_by_hand():
    def curve(time):
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    abar = cosine_schedule(4).abar
    for step in range(3):
        assert float(abar[step]) == pytest.approx(curve((step + 1) / 4) / curve(0))
    assert float(abar[3]) == pytest.approx(float(abar[2]) * 1e-3)  # the last beta would be 1 and is clipped to 0.999


def test_any_length_will_do():
    for make in (linear_schedule, cosine_schedule, sigmoid_schedule):
        for length in (1, 7, 333):
            assert make(length).length == length


def test_schedules_are_those_of_diffusers():
    schedulers = pytest.importorskip("diffusers").schedulers
    theirs = schedulers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02).alphas_cumprod
    np.testing.assert_allclose(linear_schedule(1000).abar.numpy(), theirs.numpy(), rtol=1e-4)
    theirs = schedulers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    np.testing.assert_allclose(cosine_schedule(100).abar.numpy(), theirs.numpy(), rtol=1e-4)


def test_the_network_sees_the_level_of_a_step_between_two():
    schedule = karras_schedule(5)
    halfway = schedule.levels(2.5)
    assert halfway[0] ** 2 + halfway[1] ** 2 == pytest.approx(1)
    assert halfway[1] / halfway[0] == pytest.approx(math.sqrt(float(schedule.sigma[2] * schedule.sigma[3])))


def test_levels_of_a_batch_are_those_of_its_samples():
    schedule = sigmoid_schedule(50)
    x = torch.randn(2, 3, 4, 5, 5)
    steps = torch.tensor([[0, 7, 49], [3, 20, 1]])  # a level for every frame
    signal, noise_level = schedule.levels_like(steps, x)
    assert signal.shape == (2, 3, 1, 1, 1) and signal.dtype == x.dtype
    assert (float(signal[1, 1]), float(noise_level[1, 1])) == pytest.approx(schedule.levels(20))
    per_sample = schedule.add_noise(x, torch.zeros_like(x), torch.tensor([49, 0]))
    torch.testing.assert_close(per_sample[1], x[1] * schedule.levels(0)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(torch.tensor([0.5, 0.6])), "must fall"),
        (lambda: Schedule(torch.tensor([1.0, 0.6])), "between 0 and 1"),
        (lambda: Schedule(torch.ones(2, 2)), "one row"),
        (lambda: linear_schedule(0), "at least 1"),
        (lambda: linear_schedule(10, first=-1.0), "above 0"),
        (lambda: sigmoid_schedule(10, tau=0.0), "tau > 0"),
        (lambda: karras_schedule(1), "at least 2"),
        (lambda: karras_schedule(5, sigma_min=2.0, sigma_max=1.0), "sigma_min < sigma_max"),
        (lambda: evenly_spaced_steps(50, 51), "choose 1 to 50"),
        (lambda: evenly_spaced_steps(50, 0), "choose 1 to 50"),
        (lambda: karras_spaced_steps(karras_schedule(5), 1), "choose 2 to 5"),
        (lambda: karras_schedule(5).levels(5), "0 to 4"),
        (lambda: karras_schedule(5).levels(-0.5), "0 to 4"),
    ],
)
def test_an_impossible_schedule_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- steps


def test_steps_are_those_of_the_papers():
    assert evenly_spaced_steps(50, 20) == STLDM_STEPS
    assert evenly_spaced_steps(1400, 30) == STVD_STEPS


@pytest.mark.parametrize(("length", "count"), [(50, 50), (50, 20), (1000, 7), (13, 1), (49, 48)])
def test_even_steps_fall_from_the_most_noise_to_clean(length, count):
    steps = evenly_spaced_steps(length, count)
    assert steps[0] == length - 1 and steps[-1] == CLEAN and len(steps) == count + 1
    assert all(before > after for before, after in pairwise(steps))
    assert (
        steps[:-1] == torch.linspace(-1, length - 1, count + 1, dtype=torch.float64)[1:].add(1e-9).int().tolist()[::-1]
    )


def test_karras_steps_have_the_wanted_sigmas():
    schedule = linear_schedule(1000)
    steps = karras_spaced_steps(schedule, 6)
    sigmas = [noise_level / signal for signal, noise_level in map(schedule.levels, steps[:-1])]
    ends = float(schedule.sigma[0]), float(schedule.sigma[-1])
    expected = karras_schedule(6, sigma_min=ends[0], sigma_max=ends[1]).sigma.flip(0)
    np.testing.assert_allclose(sigmas, expected.numpy(), rtol=1e-9)


# ---------------------------------------------------------------- parameterizations


@pytest.mark.parametrize("own", PARAMETERIZATIONS)
@pytest.mark.parametrize("to", PARAMETERIZATIONS)
def test_parameterizations_turn_into_each_other_and_back(own, to):
    x0, eps = torch.randn(2, 4, 8, dtype=torch.float64)
    signal, noise_level = 0.6, 0.8
    x = signal * x0 + noise_level * eps
    output = PARAMETERIZATIONS[own].target(x0, eps, signal, noise_level)
    other = PARAMETERIZATIONS[own].convert(output, x, signal, noise_level, to=to)
    torch.testing.assert_close(other, PARAMETERIZATIONS[to].target(x0, eps, signal, noise_level))
    torch.testing.assert_close(PARAMETERIZATIONS[to].convert(other, x, signal, noise_level, to=own), output)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("equals", PARAMETERIZATIONS)
def test_the_weighted_loss_is_the_plain_loss_of_another_parameterization(name, equals):
    schedule = sigmoid_schedule(50)
    steps = torch.tensor([0, 10, 25, 48])
    signal, noise_level = schedule.levels_like(steps, torch.zeros(4, 6, dtype=torch.float64))
    x0, eps, wrong = torch.randn(3, 4, 6, dtype=torch.float64)
    x = signal * x0 + noise_level * eps
    own = PARAMETERIZATIONS[name]
    output = own.target(x0, eps, signal, noise_level) + 0.1 * wrong
    error = (output - own.target(x0, eps, signal, noise_level)).square().mean(1)
    theirs = own.convert(output, x, signal, noise_level, to=equals)
    plain = (theirs - PARAMETERIZATIONS[equals].target(x0, eps, signal, noise_level)).square().mean(1)
    torch.testing.assert_close(error * loss_weight(schedule.snr[steps], name, equals=equals), plain, rtol=1e-6, atol=0)


def test_the_weight_of_v_is_abar():
    schedule = sigmoid_schedule(50)
    torch.testing.assert_close(loss_weight(schedule.snr, "v"), schedule.abar)


def test_min_snr_caps_the_weight_of_clean_steps():
    snr = torch.tensor([0.5, 5.0, 100.0])
    assert loss_weight(snr, "x0", min_snr=5.0).tolist() == pytest.approx([0.5, 5.0, 5.0])
    assert loss_weight(snr, "eps", min_snr=5.0).tolist() == pytest.approx([1.0, 1.0, 0.05])
    assert loss_weight(snr, "v", min_snr=5.0).tolist() == pytest.approx([0.5 / 1.5, 5 / 6, 5 / 101])


def test_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match=r"'epsilon'.*eps, v, x0"):
        loss_weight(torch.ones(1), "epsilon")
    with pytest.raises(ValueError, match="above 0"):
        loss_weight(torch.ones(1), "eps", min_snr=0.0)


def test_the_signal_is_clipped_where_asked():
    schedule = sigmoid_schedule(50)
    network = lambda x, step: torch.full_like(x, 3.0)  # noqa: E731
    x = torch.zeros(1, 2)
    assert as_denoiser(network, schedule, "x0")(x, 10).tolist() == [[3.0, 3.0]]
    assert as_denoiser(network, schedule, "x0", clip=(-1.0, 1.0))(x, 10).tolist() == [[1.0, 1.0]]


# ---------------------------------------------------------------- a Gaussian whose score is known

MEAN, VARIANCE = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.09, 1.0, 4.0])


def gaussian(schedule, mean=MEAN, variance=VARIANCE):
    """Expected signal of ``N(mean, diag(variance))`` given what is seen of it."""

    def denoise(x, step):
        signal, noise_level = schedule.levels(step)
        m, v = mean.to(x), variance.to(x)
        return m + signal * v / (signal**2 * v + noise_level**2) * (x - signal * m)

    return denoise


def flow_end(x, schedule, first, last):
    """Where the probability flow of that Gaussian carries ``x``: every axis keeps its quantile."""
    (a0, s0), (a1, s1) = schedule.levels(first), schedule.levels(last)
    m, v = MEAN.to(x), VARIANCE.to(x)
    return a1 * m + torch.sqrt((a1**2 * v + s1**2) / (a0**2 * v + s0**2)) * (x - a0 * m)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ddpm", {}),
        ("ddpm", {"variance": "large"}),
        ("ddim", {}),
        ("ddim", {"eta": 0.5}),
        ("dpm++2m", {}),
        ("heun", {}),
    ],
)
def test_samples_of_a_gaussian_have_its_mean_and_covariance(sampler, options):
    schedule = linear_schedule(200)
    source = Noise([np.random.Generator(np.random.Philox(4))])
    # covariance as well as variance: the axes are turned before and after
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    axes = gaussian(schedule)
    n = 20000
    x = SAMPLERS[sampler](
        lambda x, step: axes(x @ turn, step) @ turn.T,
        source.normal(n, 3),
        schedule,
        evenly_spaced_steps(200, 200 if sampler == "ddpm" else 50),
        source,
        **options,
    )[0]
    tolerance = 0.08 if sampler in ("ddpm", "ddim") else 0.04
    torch.testing.assert_close(x.mean(0), turn @ MEAN, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), turn @ torch.diag(VARIANCE) @ turn.T, atol=tolerance * 4, rtol=0)


def order(sampler):
    """Log2 of how much the error at the end of the flow falls when the steps are halved."""
    x = torch.randn(1, 64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    errors = []
    for count in (20, 40, 80, 160):
        schedule = karras_schedule(count + 1, sigma_min=0.1, sigma_max=20.0)
        end = sampler(gaussian(schedule), x, schedule, range(count, -1, -1))
        errors.append(float((end - flow_end(x, schedule, count, 0)).abs().max()))
    return [math.log2(before / after) for before, after in pairwise(errors)]


@pytest.mark.parametrize(("sampler", "expected"), [(ddim, 1), (dpm_solver, 2), (heun, 2)])
def test_the_error_falls_with_the_steps_at_the_order_of_the_method(sampler, expected):
    orders = order(sampler)
    assert orders[-1] == pytest.approx(expected, abs=0.25)
    assert min(orders) > expected - 0.5


@pytest.mark.parametrize("sampler", [ddim, dpm_solver, heun])
def test_a_denoiser_that_knows_the_answer_gives_it_in_any_number_of_steps(sampler):
    schedule = sigmoid_schedule(1400)
    truth, eps = torch.randn(2, 2, 5, dtype=torch.float64)

    def exact_v(x, step):
        signal, noise_level = schedule.levels(step)
        return PARAMETERIZATIONS["v"].target(truth, eps, signal, noise_level)

    denoise = as_denoiser(exact_v, schedule, "v")
    for count in (1, 2, 30):
        steps = evenly_spaced_steps(1400, count)
        x = schedule.add_noise(truth, eps, torch.full((2,), steps[0]))
        assert_close(sampler(denoise, x, schedule, steps), truth)


def test_one_step_of_ddim_by_hand():
    schedule = Schedule(torch.tensor([0.64, 0.36]))
    # x0 = 2, so eps = (3 - 0.6 * 2) / 0.8 = 2.25 and x = 0.8 * 2 + 0.6 * 2.25 = 2.95
    x = ddim(lambda x, step: torch.full_like(x, 2.0), torch.tensor([[3.0]]), schedule, [1, 0])
    assert float(x) == pytest.approx(2.95)


def test_one_step_of_the_posterior_by_hand():
    schedule = Schedule(torch.tensor([0.64, 0.36]))
    # alpha = 0.36 / 0.64, beta = 1 - alpha = 0.4375
    mean, spread = posterior(torch.tensor([3.0]), torch.tensor([2.0]), schedule, 1, 0)
    assert float(mean) == pytest.approx(0.8 * 0.4375 / 0.64 * 2 + 0.75 * 0.36 / 0.64 * 3)
    assert spread == pytest.approx(math.sqrt(0.4375 * 0.36 / 0.64))
    assert posterior(mean, mean, schedule, 1, 0, variance="large")[1] == pytest.approx(math.sqrt(0.4375))
    assert posterior(torch.tensor([3.0]), torch.tensor([2.0]), schedule, 0, CLEAN) == (2.0, 0.0)


def test_ddim_with_all_of_the_spread_is_the_ancestral_sampler():
    schedule = linear_schedule(100)
    steps = evenly_spaced_steps(100, 9)
    x = noise([0, 1]).normal(3)
    one = ddim(gaussian(schedule), x, schedule, steps, noise([0, 1], seed=1), eta=1.0)
    other = ancestral(gaussian(schedule), x, schedule, steps, noise([0, 1], seed=1))
    torch.testing.assert_close(one, other)


def test_the_mean_can_be_corrected_at_every_step():
    schedule = linear_schedule(10)
    seen = []

    def correct(mean, x0, step):
        seen.append(step)
        return mean - 0.1 * x0 if step == 0 else mean

    x = noise([0]).normal(3)
    plain = ancestral(gaussian(schedule), x, schedule, evenly_spaced_steps(10, 10), noise([0], seed=1))
    moved = ancestral(gaussian(schedule), x, schedule, evenly_spaced_steps(10, 10), noise([0], seed=1), correct=correct)
    assert seen == list(range(9, -1, -1))
    torch.testing.assert_close(moved, 0.9 * plain)


# ---------------------------------------------------------------- members


@pytest.mark.parametrize(("sampler", "options"), [("ddpm", {}), ("ddim", {"eta": 0.7}), ("dpm++2m", {}), ("heun", {})])
def test_a_member_alone_is_the_member_in_a_batch(sampler, options):
    schedule = linear_schedule(100)
    steps = evenly_spaced_steps(100, 12)

    def run(members):
        source = noise(members)
        return SAMPLERS[sampler](gaussian(schedule), source.normal(4, 3), schedule, steps, source, **options)

    together = run(range(5))
    assert_close(run([3]), together[3:4])
    assert_close(run([4, 0]), together[[4, 0]])
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda **a: ddim(**a, steps=[1, 5]), "do not fall"),
        (lambda **a: heun(**a, steps=[5]), "at least two"),
        (lambda **a: dpm_solver(**a, steps=[5, 5, CLEAN]), "do not fall"),
        (lambda **a: ddim(**a, steps=[5, CLEAN], eta=1.5), "eta is 1.5"),
        (lambda **a: ddim(**a, steps=[5, CLEAN], eta=1.0), "needs noise"),
        (lambda **a: ancestral(**a, steps=[5, CLEAN]), "needs noise"),
        (lambda **a: ancestral(**a, steps=[5, CLEAN], noise=noise([0])), "1 noise sources for 2 samples"),
        (lambda **a: ancestral(**a, steps=[5, CLEAN], noise=noise([0, 1]), variance="huge"), "'small' or 'large'"),
    ],
)
def test_a_sampler_refuses_what_it_cannot_do(call, message):
    schedule = linear_schedule(10)
    with pytest.raises(ValueError, match=message):
        call(denoise=gaussian(schedule), x=torch.randn(2, 3), schedule=schedule)


# ---------------------------------------------------------------- diffusers, step by step


def replay(scheduler, network, x, schedule, scaled=False):
    """Run a scheduler of diffusers with a network that predicts eps, and give what it has after each step."""
    for step in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, step) if scaled else x
        x = scheduler.step(network(seen, float(step)), step, x).prev_sample
        yield x


def eps_network(schedule):
    denoise = gaussian(schedule)

    def network(x, step):
        signal, noise_level = schedule.levels(step)
        return (x - signal * denoise(x, step)) / noise_level

    return network


def ours(sampler, steps, x, schedule):
    """What is there after each step."""
    denoise = as_denoiser(eps_network(schedule), schedule, "eps")
    return [sampler(denoise, x, schedule, steps[: i + 2]) for i in range(len(steps) - 1)]


def test_ddim_is_that_of_diffusers_step_by_step():
    schedulers = pytest.importorskip("diffusers").schedulers
    scheduler = schedulers.DDIMScheduler(1000, 1e-4, 0.02, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    schedule, x = linear_schedule(1000), torch.randn(2, 3, generator=torch.Generator().manual_seed(2))
    steps = evenly_spaced_steps(1000, 10)
    assert scheduler.timesteps.tolist() == steps[:-1]
    for theirs, own in zip(
        replay(scheduler, eps_network(schedule), x, schedule), ours(ddim, steps, x, schedule), strict=True
    ):
        assert_close(own, theirs, OTHERS)


def test_ddim_with_noise_is_that_of_diffusers():
    schedulers = pytest.importorskip("diffusers").schedulers
    scheduler = schedulers.DDIMScheduler(1000, 1e-4, 0.02, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    schedule, network = linear_schedule(1000), eps_network(linear_schedule(1000))
    x = start = noise([0, 1]).normal(3)
    source = noise([0, 1], seed=1)
    for step in scheduler.timesteps:
        draw = source.normal(3) if step > 99 else torch.zeros(2, 3)
        x = scheduler.step(network(x, float(step)), step, x, eta=0.6, variance_noise=draw).prev_sample
    own = ddim(
        as_denoiser(network, schedule, "eps"),
        start,
        schedule,
        evenly_spaced_steps(1000, 10),
        noise([0, 1], seed=1),
        eta=0.6,
    )
    assert_close(own, x, OTHERS)


@pytest.mark.parametrize(("variance", "theirs"), [("small", "fixed_small"), ("large", "fixed_large")])
def test_the_ancestral_step_is_that_of_diffusers(variance, theirs):
    schedulers = pytest.importorskip("diffusers").schedulers
    scheduler = schedulers.DDPMScheduler(1000, 1e-4, 0.02, clip_sample=False, variance_type=theirs)
    schedule = linear_schedule(1000)
    x, x0 = torch.randn(2, 4, 3)
    for step in (999, 500, 1):
        signal, noise_level = schedule.levels(step)
        mean, spread = posterior(x, x0, schedule, step, step - 1, variance=variance)
        eps = (x - signal * x0) / noise_level
        state = torch.Generator().manual_seed(7)
        expected = scheduler.step(eps, step, x, generator=state).prev_sample
        draw = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
        assert_close(mean + spread * draw, expected, OTHERS)


def test_dpm_solver_is_that_of_diffusers_step_by_step():
    schedulers = pytest.importorskip("diffusers").schedulers
    scheduler = schedulers.DPMSolverMultistepScheduler(1000, 1e-4, 0.02, final_sigmas_type="zero")
    steps = evenly_spaced_steps(1000, 12)
    scheduler.set_timesteps(timesteps=steps[:-1])
    schedule, x = linear_schedule(1000), torch.randn(2, 3, generator=torch.Generator().manual_seed(3))
    for theirs, own in zip(
        replay(scheduler, eps_network(schedule), x, schedule), ours(dpm_solver, steps, x, schedule), strict=True
    ):
        assert_close(own, theirs, OTHERS)


def test_heun_is_that_of_diffusers():
    schedulers = pytest.importorskip("diffusers").schedulers
    scheduler = schedulers.HeunDiscreteScheduler(1000, 1e-4, 0.02)
    steps = evenly_spaced_steps(1000, 12)
    scheduler.set_timesteps(timesteps=steps[:-1])
    schedule, x = linear_schedule(1000), torch.randn(2, 3, generator=torch.Generator().manual_seed(3))
    # theirs is scaled by 1 / signal and takes two calls per step
    start = x / schedule.levels(steps[0])[0]
    *_, theirs = replay(scheduler, eps_network(schedule), start, schedule, scaled=True)
    assert_close(ours(heun, steps, x, schedule)[-1], theirs, OTHERS)


# ---------------------------------------------------------------- guidance


def test_no_guidance_asks_the_condition_alone():
    def never(x, step):
        raise AssertionError("the unconditional network was called")

    conditional = gaussian(linear_schedule(10))
    assert guided(conditional, never, 0.0) is conditional


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_guidance_on_the_signal_is_guidance_on_what_the_network_says(name):
    schedule = sigmoid_schedule(50)
    aware, unaware = torch.randn(2, 2, 4, dtype=torch.float64)
    x = torch.randn(2, 4, dtype=torch.float64)
    both = guided(
        as_denoiser(lambda x, step: aware, schedule, name), as_denoiser(lambda x, step: unaware, schedule, name), 1.5
    )
    combined = as_denoiser(lambda x, step: 2.5 * aware - 1.5 * unaware, schedule, name)
    torch.testing.assert_close(both(x, 20), combined(x, 20))


def test_guidance_without_a_difference_changes_nothing():
    denoise = gaussian(linear_schedule(10))
    x = torch.randn(2, 3)
    torch.testing.assert_close(guided(denoise, denoise, 5.0)(x, 4), denoise(x, 4))


def guided_samples(weight, variance):
    """Samples where the condition says N(1, variance), and nothing else is known than N(0, 1)."""
    schedule = linear_schedule(200)
    aware = gaussian(schedule, torch.tensor(1.0), torch.tensor(variance))
    unaware = gaussian(schedule, torch.tensor(0.0), torch.tensor(1.0))
    start = Noise([np.random.Generator(np.random.Philox(4))]).normal(20_000)
    return ddim(guided(aware, unaware, weight), start, schedule, evenly_spaced_steps(200, 100), None)


def test_guidance_moves_samples_away_from_what_is_likely_without_the_condition():
    """Of equal variances the scores differ by a shift alone, and N(1 + w, 1) is what is sampled."""
    for weight in (0.0, 0.5, 2.0):
        samples = guided_samples(weight, 1.0)
        assert float(samples.mean()) == pytest.approx(1 + weight, abs=0.03)
        assert float(samples.var()) == pytest.approx(1.0, abs=0.05)


def test_guidance_makes_samples_more_alike_where_the_condition_does():
    spread = [float(guided_samples(weight, 0.25).std()) for weight in (0.0, 1.0, 3.0)]
    assert spread[0] == pytest.approx(0.5, abs=0.02) and spread[0] > 1.1 * spread[1] > 1.2 * spread[2]


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_impossible_guidance_is_refused(weight):
    with pytest.raises(ValueError, match="guidance"):
        guided(gaussian(linear_schedule(10)), gaussian(linear_schedule(10)), weight)


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize("shape", [(64, 64), (40, 104), (24, 24), (16, 72)])
@pytest.mark.parametrize(("tile", "overlap", "margin"), [(24, 8, 0), (24, 8, 4), (32, 16, 2), (40, 0, 0)])
def test_the_weights_of_every_cell_add_up_to_one(shape, tile, overlap, margin):
    windows = tile_windows(shape, tile=tile, overlap=overlap, margin=margin, multiple=8)
    total = torch.zeros(shape, dtype=torch.float64)
    for window, weight in zip(windows, blend_weights(shape, windows, overlap=overlap, margin=margin), strict=True):
        assert weight.min() >= 0 and (window.height, window.width) == weight.shape
        assert window.top % 8 == 0 and window.left % 8 == 0
        window(total).add_(weight)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_the_blend_of_two_tiles_by_hand():
    windows = tile_windows((1, 8), tile=6, overlap=4)
    left, right = (weight[0].tolist() for weight in blend_weights((1, 8), windows, overlap=4))
    assert windows == [Window(0, 0, 1, 6), Window(0, 2, 1, 6)]
    assert left == pytest.approx([1, 1, 0.875, 0.625, 0.375, 0.125])
    assert right == pytest.approx([0.125, 0.375, 0.625, 0.875, 1, 1])


def local_network(reach):
    """Convolutions that see ``reach`` cells to every side, padded with zeros as networks are."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(2, 2, 3, padding=1, bias=False) for _ in range(reach)]
    return torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.Tanh())))


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++2m"])
def test_a_local_denoiser_gives_the_same_with_and_without_tiles(sampler):
    schedule, shape = sigmoid_schedule(50), (40, 56)
    network, condition = local_network(3), torch.randn(1, 2, *shape)

    def denoise_tile(x, step, window):
        return 0.5 * network(x + window(condition)) + 0.1 * x

    whole = Window(0, 0, *shape)
    tiles = tiled(denoise_tile, shape, tile=24, overlap=8, margin=3)
    steps = evenly_spaced_steps(50, 6)
    samples = []
    for denoise in (lambda x, step: denoise_tile(x, step, whole), tiles):
        source = noise([0, 1])
        samples.append(SAMPLERS[sampler](denoise, source.normal(2, *shape), schedule, steps, source))
    assert_close(samples[1], samples[0])


@torch.no_grad()
def test_without_a_margin_the_edges_of_tiles_show():
    network, x = local_network(3), torch.randn(1, 2, 40, 40)
    apart = [
        (tiled(lambda x, step, window: network(x), (40, 40), tile=24, overlap=8, margin=margin)(x, 0) - network(x))
        for margin in (0, 3)
    ]
    assert float(apart[0].abs().max()) > 1e-3 > 1e-5 > float(apart[1].abs().max())


def test_a_grid_that_fits_is_one_tile():
    calls = []

    def denoise_tile(x, step, window):
        calls.append(window)
        return x

    x = torch.randn(1, 16, 24)
    assert tiled(denoise_tile, (16, 24), tile=24, overlap=8)(x, 0) is x
    assert calls == [Window(0, 0, 16, 24)]


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((64, 64), {"tile": 16, "overlap": 16}, "overlap < tile"),
        ((64, 64), {"tile": 16, "overlap": 4, "margin": 3}, "2 margin <= overlap"),
        ((64, 60), {"tile": 16, "overlap": 8, "multiple": 8}, "grid width is 60 .* multiple of 8"),
        ((64, 64), {"tile": 20, "overlap": 8, "multiple": 8}, "tile is 20"),
    ],
)
def test_tiles_that_cannot_be_are_refused(shape, sizes, message):
    with pytest.raises(ValueError, match=message):
        tiled(lambda x, step, window: x, shape, **sizes)


def test_a_field_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(8, 16\) cells"):
        tiled(lambda x, step, window: x, (16, 16), tile=8, overlap=4)(torch.zeros(8, 16), 0)
