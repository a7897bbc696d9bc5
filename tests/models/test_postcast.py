"""PostCast: its network, algorithm 1 against a plain reading of it, and what it does to blurry fields.

Most tests need no training: for Gaussian random fields the exact denoiser is known (tests/reference_postcast.py).
"""

import json
import math
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from reference_postcast import algorithm_1, expected_field, gaussian_fields, plain_noise, spectrum
from rounding import FLOAT64, assert_close
from safetensors import safe_open
from safetensors.torch import save_file

import xnowcast
from xnowcast import models
from xnowcast.diffusion import evenly_spaced_steps, linear_schedule, posterior
from xnowcast.diffusion.blur_guidance import PAPER_RHO, BlurGuidance, BlurSettings, as_composite, blurred
from xnowcast.models import earlier, weights
from xnowcast.models.base import DeblurModel, TrainableModel, TrainingBatch
from xnowcast.models.postcast import PostCast, centred, late_steps, sharpen, within_reach
from xnowcast.nn.guided_unet import GuidedUNet
from xnowcast.nn.noise import Noise, member_generator
from xnowcast.training import checkpoint

LENGTH = 100
CELLS = 64


class GaussianPostCast(PostCast):
    """PostCast whose network knows all about Gaussian random fields."""

    def __init__(self, **options):
        super().__init__(**({"size": "tiny", "diffusion_steps": LENGTH} | options))
        self.eval()

    def _noise_in(self, x, step):
        signal, level = self.schedule.levels(step)
        return (x - signal * expected_field(x, signal, level)) / level


def noise(members, seed=0, *labels):
    return Noise([member_generator(seed, 0, member, *labels) for member in range(members)])


def gaussian_kernel(sigma, size=9):
    far = (torch.arange(size) - size // 2).float() ** 2
    weights = torch.exp(-(far[:, None] + far) / (2 * sigma**2)) if sigma else (far[:, None] + far == 0).float()
    return weights / weights.sum()


@pytest.fixture(scope="module")
def truth():
    """Four fields, 0 to 1."""
    return (gaussian_fields(noise(4, 7).normal(1, CELLS, CELLS)).clamp(-1, 1) + 1) / 2


def blur(fields, sigma):
    return blurred(fields, gaussian_kernel(sigma).expand(len(fields), 9, 9))


def sharpened(frames, *, seed=1, observed=None, length=LENGTH, **options):
    model = GaussianPostCast(diffusion_steps=length, **options)
    observed = torch.ones_like(frames, dtype=torch.bool) if observed is None else observed
    return model.deblur(frames, observed, noise(len(frames), seed))


def band_power(fields):
    """Power at wavelengths of 3.2 to 5.3 cells."""
    spectral = torch.fft.fft2(fields - fields.mean((-2, -1), keepdim=True)).abs() ** 2
    number = torch.fft.fftfreq(CELLS) * CELLS
    radius = (number[:, None] ** 2 + number**2).sqrt()
    return float(spectral[..., (radius >= 12) & (radius < 20)].mean())


def rmse(a, b):
    return float((a - b).square().mean().sqrt())


def csi(fields, truth):
    threshold = torch.quantile(truth, 0.99)
    forecast, event = fields >= threshold, truth >= threshold
    return float((forecast & event).sum() / (forecast | event).sum())


# ---------------------------------------------------------------- network


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_full_network_has_the_size_of_guided_diffusion():
    with torch.device("meta"):
        assert count(GuidedUNet()) == 552_797_953
        assert count(GuidedUNet(channels=3)) == 552_807_171
        assert count(PostCast()) == 552_797_953


@pytest.mark.parametrize(
    ("multipliers", "parameters"), [((1, 2), 776_033), ((1, 2, 2), 1_369_953), ((1, 1, 2), 983_457)]
)
def test_small_networks_have_the_sizes_that_were_counted(multipliers, parameters):
    with torch.device("meta"):
        network = GuidedUNet(base=32, multipliers=multipliers, blocks=1, attention=(4,), groups=8)
    assert count(network) == parameters


@pytest.fixture(scope="module")
def network():
    """One with every kind of block, none of whose weights is 0."""
    torch.manual_seed(0)
    network = GuidedUNet(base=16, multipliers=(1, 2, 2), blocks=2, attention=(2, 4), head_width=16, groups=4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def test_the_network_is_its_plain_reading(network):
    x = torch.randn(2, 1, 16, 24)
    with torch.no_grad():
        said, plain = network(x, torch.tensor([17.0])), plain_noise(network, x, 17)
    assert said.abs().max() > 0.1
    assert_close(said, plain)


def test_the_network_treats_each_sample_by_itself(network):
    x, steps = torch.randn(3, 1, 8, 8), torch.tensor([3.0, 500.0, 3.0])
    with torch.no_grad():
        together = network(x, steps)
        alone = torch.cat([network(x[i : i + 1], steps[i : i + 1]) for i in range(3)])
        shared = network(x[::2], torch.tensor([3.0]))
    assert_close(together, alone)
    assert_close(together[::2], shared)
    assert (together[1] - network(x[1:2], torch.tensor([3.0]))).abs().max() > 1e-3


def test_an_untrained_network_says_no_noise_and_refuses_odd_grids():
    network = PostCast(size="tiny").network
    assert (network(torch.randn(1, 1, 8, 8), torch.zeros(1)) == 0).all()
    with pytest.raises(ValueError, match="the grid has 8 x 9 cells: pad it to multiples of 2"):
        network(torch.randn(1, 1, 8, 9), torch.zeros(1))


# ---------------------------------------------------------------- formulas


def test_guiding_the_mean_is_guiding_the_signal():
    """Line 5 of algorithm 1 with its c_1 corrected: mu - s g is the posterior mean of x_0 - (s / c_1) g."""
    schedule, steps = linear_schedule(1000), evenly_spaced_steps(1000, 1000)
    torch.manual_seed(0)
    x, x0, blurry = torch.randn(3, 2, 1, 16, 16, dtype=torch.float64)
    observed = torch.ones_like(x, dtype=torch.bool)
    settings = BlurSettings(scale="fixed", kernel_size=5)
    guidance = BlurGuidance(blurry, observed, settings, schedule, steps, torch.randn(2, 5, 5, dtype=torch.float64))
    for step in (999, 500, 1):
        kernels = guidance.kernels.taps
        leaf = x0.clone().requires_grad_()
        distance = ((blurred((leaf + 1) / 2, kernels) - (blurry + 1) / 2) ** 2).mean((1, 2, 3))
        (gradient,) = torch.autograd.grad(distance.sum(), leaf)
        abar, before = schedule.abar[step], schedule.abar[step - 1]
        c1 = before.sqrt() * (1 - abar / before) / (1 - abar)
        s = 2 * 16 * 16 * PAPER_RHO
        mean = posterior(x, x0, schedule, step, step - 1)[0]
        moved = posterior(x, x0 - s / c1 * gradient, schedule, step, step - 1)[0]
        assert_close(guidance.correct(mean, x0, step), moved, FLOAT64)


def test_the_posterior_carries_the_signal_on():
    """c_1 x_0 + c_2 sqrt(abar_t) x_0 = sqrt(abar_{t-1}) x_0, also across steps that are left out."""
    schedule, x0 = linear_schedule(1000), torch.randn(8, dtype=torch.float64)
    assert float(schedule.abar[-1]) == pytest.approx(4.036e-5, rel=1e-3)
    for step, following in ((999, 998), (999, 899), (500, 100), (1, 0)):
        mean, _ = posterior(schedule.levels(step)[0] * x0, x0, schedule, step, following)
        assert_close(mean, schedule.levels(following)[0] * x0, FLOAT64)


def test_blurring_by_hand():
    field = torch.zeros(1, 1, 5, 6)
    field[0, 0, 1, 2] = 1.0
    kernel = torch.tensor([[[0.0, 0.0, 0.0], [0.1, 0.2, 0.3], [0.0, 0.0, 0.4]]])
    again = blurred(field, kernel)[0, 0]
    expected = torch.zeros(5, 6)
    expected[1, 1:4] = torch.tensor([0.3, 0.2, 0.1])  # the cell to the west sees the rain 1 column further east
    expected[0, 1] = 0.4  # and the one north-west of it 1 row further south
    torch.testing.assert_close(again, expected)
    both = torch.cat([field, 2 * field])
    kernels = torch.cat([kernel, kernel.flip(1, 2)])
    torch.testing.assert_close(blurred(both, kernels)[1], 2 * blurred(field, kernel.flip(1, 2))[0])


def test_the_edges_are_mirrors_or_dry():
    field = torch.ones(1, 1, 6, 6)
    kernel = torch.full((1, 3, 3), 1 / 9)
    torch.testing.assert_close(blurred(field, kernel), field)
    assert float(blurred(field, kernel, "zeros")[0, 0, 0, 0]) == pytest.approx(4 / 9)


@pytest.mark.parametrize(("edges", "smoothness"), [("reflect", 0.0), ("zeros", 0.0), ("reflect", 0.8)])
def test_kernels_learn_along_the_gradient_of_the_distance(edges, smoothness):
    torch.manual_seed(1)
    blurry, x0 = torch.rand(2, 2, 1, 20, 17, dtype=torch.float64)
    observed = torch.rand(2, 1, 20, 17) > 0.2
    settings = BlurSettings(kernel_size=5, kernel_update="softmax-sgd", edges=edges, smoothness=smoothness)
    first = torch.randn(2, 5, 5, dtype=torch.float64)
    guidance = BlurGuidance(blurry, observed, settings, linear_schedule(1000), range(999, -2, -1), first)
    logits = guidance.kernels.values.clone().requires_grad_()
    taps = logits.flatten(1).softmax(1).reshape(2, 5, 5)
    own = gaussian_kernel(smoothness, 5).double().expand(2, 5, 5)
    x0.requires_grad_()
    missed = (blurred(blurred((x0 + 1) / 2, own), taps, edges) - (blurry + 1) / 2) ** 2
    distance = (missed * observed).sum((1, 2, 3)) / observed.sum((1, 2, 3))
    torch.testing.assert_close(guidance.distance(x0), distance, check_stride=False)
    gradient, of_signal = torch.autograd.grad(distance.sum(), (logits, x0))
    x0 = x0.detach()
    strength = (2 * guidance.cells * guidance.rho)[:, None, None, None]
    torch.testing.assert_close(guidance.correct(x0, x0, 999), x0 - strength * of_signal)
    assert_close(guidance.kernels.values, logits.detach() - 250 * gradient, FLOAT64)


@pytest.mark.parametrize("update", ["sgd", "adam"])
def test_sampling_is_the_plain_reading_of_algorithm_1(truth, update):
    length, size = 40, 24
    frames = blur(truth[:2, :, :size, :size], 1.5)
    schedule = linear_schedule(length)
    model = GaussianPostCast(diffusion_steps=length, kernel_update=f"softmax-{update}", centred=False)
    sharp = model.deblur(frames, torch.ones_like(frames, dtype=torch.bool), noise(2, 3))
    betas = 1 - schedule.abar / torch.cat([torch.ones(1), schedule.abar[:-1]])

    def noise_in(x, t):
        return model._noise_in(x, t - 1)

    for member in range(2):
        source = Noise([member_generator(3, 0, member)])
        kernel_white = source.normal(9, 9)[0]
        white = torch.cat([source.normal(1, size, size)[0] for _ in range(length)])
        rate = {"sgd": 250.0, "adam": 0.025}[update] * 1000 / length / 4
        found, kernel = algorithm_1(
            noise_in,
            2 * frames[member, 0] - 1,
            betas,
            (white, kernel_white),
            update=update,
            rate=rate,
            updates=4,
            rho=PAPER_RHO * 1000 / length,
        )
        torch.testing.assert_close(2 * sharp.frames[member, 0] - 1, found.clamp(-1, 1), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(sharp.kernel[member], kernel, rtol=1e-2, atol=1e-4)


def test_the_scale_of_bird_divides_the_density_of_y_by_the_distance():
    """Written out from the published code's formula, with the step before it added."""
    schedule, steps = linear_schedule(1000), list(range(999, -2, -1))
    torch.manual_seed(2)
    blurry, x0, mean, sample = torch.rand(4, 1, 1, 12, 12, dtype=torch.float64)
    settings = BlurSettings(kernel_size=3, scale="bird", rho_max=1e9, kernel_update="fixed")
    first = torch.randn(1, 3, 3, dtype=torch.float64)
    guidance = BlurGuidance(blurry, blurry >= 0, settings, schedule, steps, first)
    guided = guidance.correct(mean, x0, 999)
    guidance.watch(lambda x, step: x)(sample, 998)
    log_variance = math.log(posterior(mean, x0, schedule, 999, 998)[1] ** 2)
    constant = -0.5 * (((blurry - mean) / log_variance) ** 2).sum() - 0.5 * math.log(
        2 * math.pi * 144 * log_variance**2
    )
    s = (((sample - mean) * (guided - mean)).sum() + constant).abs() / (2 * guidance.distance(sample))
    torch.testing.assert_close(guidance.rho, s / (2 * 144))


def test_what_was_cut_off_is_no_misfit():
    """Where the blurry field is dry, blurred rain of up to the cut-off costs nothing; above it, what is above."""
    blurry = torch.tensor([[[[0.0, 0.0, 0.0, 0.5]] * 4]])
    x0 = 2 * torch.tensor([[[[0.05, 0.1, 0.3, 0.4]] * 4]]) - 1
    point = torch.full((1, 3, 3), -1e3)
    point[:, 1, 1] = 1e3
    for cut_off, missed in ((0.0, [0.05, 0.1, 0.3, -0.1]), (0.1, [0.0, 0.0, 0.2, -0.1])):
        settings = BlurSettings(kernel_size=3, cut_off=cut_off)
        guidance = BlurGuidance(
            2 * blurry - 1, blurry >= 0, settings, linear_schedule(10), [9, 8, -1], torch.zeros(1, 3, 3)
        )
        guidance.kernels.values = point
        torch.testing.assert_close(guidance.distance(x0), torch.tensor([np.mean(np.square(missed))]).float())
        guided = guidance.correct(torch.zeros_like(x0), x0, 9)
        rho = PAPER_RHO * 1000 / 2
        expected = -min(rho, 0.5) * torch.tensor([[[missed] * 4]]) * 2
        torch.testing.assert_close(guided, expected)


# ---------------------------------------------------------------- what comes out


def test_the_blur_goes(truth):
    frames = blur(truth, 2.0)
    sharp = sharpened(frames)
    assert band_power(sharp.frames) > 5 * band_power(frames)
    assert 0.4 < band_power(sharp.frames) / band_power(truth) < 1.3
    assert csi(sharp.frames, truth) > csi(frames, truth) + 0.1
    again = rmse(blurred(sharp.frames, sharp.kernel), frames)
    assert 2 * again < 0.04 and again < 0.35 * rmse(frames, truth)
    torch.testing.assert_close(sharp.distance.mean().sqrt(), torch.tensor(again), rtol=0.1, atol=0)


def test_a_smooth_composite_gets_no_sharper_than_it_is(truth):
    smooth = blur(truth, 1.0)
    for extra in (0.0, 1.5):
        given = blur(smooth, extra)
        plain, sharp = (sharpened(given, length=250, smoothness=s).frames for s in (0.0, 1.0))
        assert band_power(plain) > 3 * band_power(smooth)
        assert 0.6 < band_power(sharp) / band_power(smooth) < 1.25
    torch.testing.assert_close(blur(truth, 1.0), as_composite(2 * truth - 1, BlurSettings(smoothness=1.0)))


def test_kernels_are_weights_and_wider_for_wider_blur(truth):
    far = (torch.arange(9) - 4.0) ** 2
    widths = []
    for sigma in (0.8, 1.4, 2.0):
        kernel = sharpened(blur(truth, sigma)).kernel
        assert (kernel >= 0).all()
        torch.testing.assert_close(kernel.sum((1, 2)), torch.ones(4))
        widths.append(float((kernel * (far[:, None] + far)).sum((1, 2)).mean()))
    assert widths[0] < widths[1] < widths[2]


def test_a_kernel_off_its_middle_moves_the_field_back():
    """Each frame by itself; blurred, it is what it was, but for the edges."""
    torch.manual_seed(0)
    fields, kernels = torch.rand(2, 1, 32, 32), torch.zeros(2, 9, 9)
    kernels[0, 5:8, 2:4] = torch.rand(3, 2)
    kernels[1, 4, 3:6] = torch.tensor([0.3, 0.4, 0.3])
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    moved, middled = centred(fields, kernels)
    torch.testing.assert_close((moved[1], middled[1]), (fields[1], kernels[1]))
    torch.testing.assert_close(middled[0, 3:6, 3:5].sum(), torch.tensor(1.0))
    assert not torch.equal(moved[0], fields[0])
    again, before = blurred(moved, middled), blurred(fields, kernels)
    torch.testing.assert_close(again[:, :, 8:-8, 8:-8], before[:, :, 8:-8, 8:-8])


def test_what_is_sharp_already_comes_back_nearly_unchanged(truth):
    sharp = sharpened(truth, length=250)
    assert rmse(sharp.frames, truth) < 0.05 * float(truth.std())
    assert (sharp.kernel[:, 4, 4] > 0.9).all()
    assert csi(sharp.frames, truth) > 0.85


def test_an_automatic_scale_reblurs_better_than_a_fixed_one(truth):
    frames = blur(truth, 2.0)
    auto, fixed = sharpened(frames), sharpened(frames, scale="fixed")
    assert (auto.distance < fixed.distance).all()


def test_without_guidance_it_is_a_sample_of_the_prior(truth):
    """The blurry field then decides nothing but the kernel."""
    model, everywhere = GaussianPostCast(scale="fixed", rho=0.0), torch.ones_like(truth, dtype=torch.bool)
    samples = []
    for frames in (blur(truth, 2.0), blur(truth.flip(0), 1.0)):
        guidance = BlurGuidance(
            2 * frames - 1, everywhere, model.settings, model.schedule, model.steps, torch.zeros(4, 9, 9)
        )
        mean = torch.randn(4, 1, CELLS, CELLS)
        assert (guidance.correct(mean, mean, LENGTH - 1) == mean).all()
        sharp = model.deblur(frames, everywhere, noise(4))
        assert sharp.distance.isnan().any() or rmse(sharp.reblurred, frames) > 0.5 * float(frames.std())
        samples.append(sharp.frames[sharp.distance.isfinite()])
    assert sum(len(sample) for sample in samples) < 8  # that far from the input most of them are given back


def test_members_are_an_ensemble_that_beats_the_blurry_field(truth):
    frames = blur(truth[:1], 2.0).expand(6, -1, -1, -1)
    members = sharpened(frames).frames
    spread = float(members.std(0).mean())
    assert 0.02 < spread < float(truth.std())
    to_truth = (members - truth[:1]).abs().mean()
    apart = (members[:, None] - members[None]).abs().mean()
    assert float(to_truth - 0.5 * apart) < float((frames[:1] - truth[:1]).abs().mean())


def test_a_share_of_two_diverges_and_less_does_not(truth):
    """The share is per cell, so it means the same on grids of any size."""
    for cells in (32, 64):
        frames = blur(truth[:2, :, :cells, :cells], 2.0)
        for rho, diverges in ((0.43, False), (1.7, False), (2.5, True)):
            sharp = sharpened(frames, scale="fixed", rho=rho * LENGTH / 1000, kernel_update="fixed")
            assert sharp.distance.isnan().all() == diverges


def test_fewer_steps_do_most_of_it(truth):
    frames = blur(truth, 2.0)
    few = sharpened(frames, length=1000, sampling_steps=50)
    assert band_power(few.frames) > 5 * band_power(frames)
    assert csi(few.frames, truth) > csi(frames, truth)
    even = sharpened(frames, length=1000, sampling_steps=50, spacing="even")
    assert band_power(even.frames) < 0.9 * band_power(few.frames)
    assert (even.distance > few.distance).all()


@pytest.mark.parametrize("count", [2, 7, 50, 900, 1000])
def test_late_steps_are_all_different_and_crowd_at_little_noise(count):
    steps = late_steps(1000, count)
    assert len(steps) == count + 1 and steps[0] == 999 and steps[-1] == -1
    widths = -np.diff(steps)
    assert (widths >= 1).all() and widths[: len(widths) // 2].sum() >= widths[len(widths) // 2 :].sum()


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_update": "softmax-sgd"},
        {"kernel_update": "fixed"},
        {"scale": "fixed"},
        {"scale": "bird"},
        {"rho": 2 * PAPER_RHO},
        {"gradient": "xt"},
        {"free_gain": True},
        {"edges": "zeros"},
        {"kernel_size": 7},
    ],
)
def test_every_way_that_works_sharpens(truth, options):
    some = truth[:2]
    frames = blur(some, 2.0)
    sharp = sharpened(frames, **options)
    assert sharp.distance.isfinite().all()
    assert csi(sharp.frames, some) > csi(frames, some)


@pytest.mark.parametrize(
    "options", [{"kernel_update": "paper"}, {"kernel_update": "paper", "normalise": False}, {"variance_weighted": True}]
)
def test_what_the_letter_of_the_paper_spoils_is_given_back_or_finite(truth, options):
    frames = blur(truth, 2.0)
    with warnings.catch_warnings(action="ignore"):
        sharp = sharpened(frames, **options)
    given_up = sharp.distance.isnan()
    assert sharp.frames.isfinite().all()
    assert (sharp.frames[given_up] == frames[given_up]).all()


# ---------------------------------------------------------------- rain, coverage, divergence


def blob(cells=48):
    y, x = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    square = ((y - 20).abs() < 6) & ((x - 20).abs() < 6)
    return blurred(0.8 * square[None, None].float(), torch.full((1, 5, 5), 1 / 25))


def test_no_rain_is_invented_where_none_was_in_reach():
    """The prior would put rain everywhere; dry cells further from rain than the kernel reaches stay dry."""
    frames = blob()
    sharp = sharpened(frames, kernel_size=5)
    near = torch.zeros_like(frames, dtype=torch.bool)
    wet = (frames[0, 0] > 0).nonzero()
    for y, x in wet.tolist():
        near[0, 0, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
    assert (within_reach(frames, frames >= 0, 5) == near).all()
    assert (sharp.frames[~near] == 0).all() and (~near).float().mean() > 0.5
    assert (sharp.frames[frames > 0] > 0.1).float().mean() > 0.5


def test_what_was_not_measured_counts_for_nothing(truth):
    frames = blur(truth, 1.5)
    observed = torch.ones_like(frames, dtype=torch.bool)
    observed[:, :, :20, 30:] = False
    clean, other = frames.where(observed, 0.0), frames.where(observed, 0.9)
    sharp = sharpened(clean, observed=observed)
    torch.testing.assert_close(sharpened(other, observed=observed).frames, sharp.frames)
    again = blurred(sharp.frames, sharp.kernel)
    assert rmse(again[observed], frames[observed]) < 0.03
    whole = sharpened(clean)  # taking the hole for dry air is another thing
    assert rmse(whole.frames[observed], sharp.frames[observed]) > 0.01


def test_a_frame_that_diverges_is_given_back_and_the_others_are_not_touched(truth):
    frames = blur(truth[:3], 2.0)
    model = GaussianPostCast()
    everywhere = torch.ones_like(frames, dtype=torch.bool)

    def denoise(x, step):
        x0 = model.denoiser((CELLS, CELLS))(x, step)
        return torch.cat([x0[:1], x0[1:2] * (torch.nan if step == 40 else 1.0), x0[2:]])

    sharp = sharpen(denoise, frames, everywhere, noise(3, 1), model.schedule, model.steps)
    well = sharpened(frames)
    assert sharp.distance.isnan().tolist() == [False, True, False]
    assert (sharp.frames[1] == frames[1]).all() and (sharp.reblurred[1] == frames[1]).all()
    assert sharp.kernel[1].isnan().all()
    torch.testing.assert_close(sharp.frames[::2], well.frames[::2])


def test_a_frame_is_the_same_in_any_company(truth):
    frames = blur(truth, 1.5)
    model, everywhere = GaussianPostCast(), torch.ones_like(frames, dtype=torch.bool)
    whole = model.deblur(frames, everywhere, noise(4))
    for i in (0, 3):
        alone = model.deblur(frames[i : i + 1], everywhere[:1], Noise([member_generator(0, 0, i)]))
        assert_close(alone.frames[0], whole.frames[i])
        assert_close(alone.kernel[0], whole.kernel[i])


def test_tiles_leave_no_seam():
    """Each tile thinks that its opposite edges touch, which is as wrong at its edges as a network can be."""
    size, tile, overlap = 128, 48, 16
    fields = (gaussian_fields(noise(2, 5).normal(1, size, size)).clamp(-1, 1) + 1) / 2
    frames = blur(fields, 1.5)
    whole, tiled = (sharpened(frames, tile=t, overlap=overlap).frames for t in (None, tile))
    columns = [32, 48, 64, 80, 96]  # where a tile begins or ends
    jumps = (tiled[..., 1:] - tiled[..., :-1]).abs().mean((0, 1, 2))
    at_borders = jumps[[c - 1 for c in columns]].mean()
    assert 0.85 < float(at_borders / jumps.mean()) < 1.15
    assert rmse(tiled, fields) < 1.2 * rmse(whole, fields)
    assert (tiled - whole).abs().max() > 1e-4


def test_gradients_run_through_tiles_as_well(truth):
    frames = blur(truth[:1], 2.0)
    sharp = sharpened(frames, gradient="xt", tile=48, overlap=16)
    assert csi(sharp.frames, truth[:1]) > csi(frames, truth[:1])


def test_gradients_run_only_where_they_are_needed(truth):
    frames = blur(truth[:1, :, :16, :16], 1.5)
    seen = []

    class Watched(GaussianPostCast):
        def _noise_in(self, x, step):
            seen.append(torch.is_grad_enabled() and x.requires_grad)
            return super()._noise_in(x, step)

    for gradient, wanted in (("x0", False), ("xt", True)):
        seen.clear()
        model = Watched(sampling_steps=5, gradient=gradient)
        sharp = model.deblur(frames, frames >= 0, noise(1))
        assert seen == [wanted] * 5
        assert not sharp.frames.requires_grad and not sharp.kernel.requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())


# ---------------------------------------------------------------- options


def test_what_cannot_be_is_refused():
    for options, message in {
        ("size", "huge"): "size is 'huge': choose one of 'full', 'small', 'tiny'",
        ("kernel_size", 8): "kernel_size is 8; it must be odd and at least 3",
        ("kernel_size", 1): "kernel_size is 1; it must be odd and at least 3",
        ("sampling_steps", 0): "sampling_steps is 0; it must be 1 to 1000",
        ("sampling_steps", 2.5): "sampling_steps is 2.5; it must be a whole number",
        ("diffusion_steps", 0): "diffusion_steps is 0; it must be a whole number of 1 or more",
        ("scale", "big"): "scale is 'big': choose one of 'auto', 'fixed', 'bird'",
        ("kernel_update", "adam"): "kernel_update is 'adam': choose one of 'softmax-adam'",
        ("gradient", "y"): "gradient is 'y': choose one of 'x0', 'xt'",
        ("edges", "wrap"): "edges is 'wrap': choose one of 'reflect', 'zeros'",
        ("rho", -1.0): "rho is -1.0; it must be a number of 0 or more",
        ("rho_max", math.inf): "rho_max is inf; it must be a finite number",
        ("cut_off", -0.1): "cut_off is -0.1 mm h-1; it must be a number of 0 or more",
        ("normalise", False): "a softmax sums to 1 by itself: normalise=False goes with kernel_update='paper'",
        ("smoothness", 3.0): "smoothness is 3.0 cells; it must be from 0 to 2.25, a quarter of the kernel_size",
        ("smoothness", -1.0): "smoothness is -1.0 cells; it must be from 0 to 2.25",
        ("spacing", "odd"): "spacing is 'odd': choose one of 'late', 'even'",
        ("precision", "8"): "precision is '8': choose one of '32', 'bf16'",
        ("tile", 100): "tile is 100 and overlap 64: both must be multiples of 32, and the overlap the smaller",
        ("overlap", 256): "tile is 256 and overlap 256: both must be multiples of 32",
    }.items():
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            models.declare("postcast", **dict([options]))
    with pytest.raises(ValueError, match="a kernel that is not learnt has no free gain"):
        BlurSettings(kernel_update="fixed", free_gain=True)
    with pytest.raises(ValueError, match="the kernel has 9 x 9 cells, the field only 8 x 64"):
        sharpened(torch.rand(1, 1, 8, 64))


def test_it_is_what_the_verb_and_the_trainer_ask_for():
    model = PostCast(size="tiny")
    assert isinstance(model, DeblurModel) and isinstance(model, TrainableModel)
    assert model.task == models.declare("postcast", size="tiny")
    assert model.task.trained and model.task.stochastic and model.task.grid_multiple == 2
    assert models.declare("postcast").grid_multiple == 32
    assert model.adversary((32, 32)) is None


# ---------------------------------------------------------------- through xarray


@pytest.fixture
def forecast(truth):
    """A blurry forecast in mm/h, 3 lead times, with a corner that nobody measured."""
    frames = blur(truth[:3], 1.5)
    rain = PostCast(size="tiny").transform.inverse(frames)[:, 0, :, :60].numpy()
    rain[:, :10, :12] = np.nan
    km = 1000.0 * np.arange(CELLS)
    return xr.Dataset(
        {
            "rain": (
                ("init_time", "lead_time", "y", "x"),
                rain[None],
                {"standard_name": "rainfall_rate", "units": "mm h-1"},
            )
        },
        coords={
            "init_time": ("init_time", [np.datetime64("2024-06-01T12:00", "ns")]),
            "lead_time": ("lead_time", np.arange(1, 4) * np.timedelta64(5, "m").astype("m8[ns]")),
            "y": ("y", km[::-1], {"standard_name": "projection_y_coordinate", "units": "m"}),
            "x": ("x", km[:60], {"standard_name": "projection_x_coordinate", "units": "m"}),
        },
    )


def test_a_forecast_is_sharpened_through_the_accessor(forecast):
    model = GaussianPostCast(sampling_steps=20)
    sharp = forecast.nowcast.deblur(model, seed=3, diagnostics=True)
    assert sharp.rain.dims == forecast.rain.dims and sharp.blur_kernel.dims == ("init_time", "lead_time", "ky", "kx")
    assert (sharp.rain.isnull() == forecast.rain.isnull()).all()
    assert (sharp.rain >= 0).where(sharp.rain.notnull(), True).all()
    assert float(sharp.rain.max()) > float(forecast.rain.max())
    assert (sharp.blur_distance > 0).all()
    np.testing.assert_allclose(sharp.blur_kernel.sum(["ky", "kx"]), 1, rtol=1e-5)


def test_a_frame_of_a_forecast_has_its_own_noise(forecast):
    model = GaussianPostCast(sampling_steps=20)
    whole = forecast.nowcast.deblur(model, seed=3).rain
    one = forecast.isel(lead_time=[1]).nowcast.deblur(model, seed=3).rain
    np.testing.assert_allclose(one, whole.isel(lead_time=[1]), rtol=1e-3, atol=1e-3)
    small = forecast.nowcast.deblur(model, seed=3, batch_size=1).rain
    np.testing.assert_allclose(small, whole, rtol=1e-3, atol=1e-3)
    members = forecast.nowcast.deblur(model, seed=3, members=2).rain
    assert members.dims == ("init_time", "member", "lead_time", "y", "x")
    np.testing.assert_allclose(members.isel(member=0), whole, rtol=1e-3, atol=1e-3)
    assert float(members.std("member").max()) > 0.1
    assert float(abs(forecast.nowcast.deblur(model, seed=4).rain - whole).max()) > 0.1


def test_lead_times_share_their_noise_when_asked(forecast):
    same = forecast.copy(deep=True)
    same["rain"] = (
        forecast.rain.isel(lead_time=0).expand_dims(lead_time=forecast.lead_time).transpose(*forecast.rain.dims)
    )
    apart = same.nowcast.deblur(GaussianPostCast(sampling_steps=10), seed=3).rain
    common = same.nowcast.deblur(GaussianPostCast(sampling_steps=10, common_noise=True), seed=3).rain
    assert float(abs(apart.diff("lead_time")).max()) > 0.1
    np.testing.assert_allclose(common.isel(lead_time=[1, 2]), common.isel(lead_time=[0, 0]), rtol=1e-3, atol=1e-3)


def test_what_diverges_comes_back_as_it_was(forecast):
    """To the bit, drizzle that the network's scale does not keep included, and not silently."""
    model = GaussianPostCast(sampling_steps=20, scale="fixed", rho=1.0)
    forecast["rain"] = forecast.rain.where(forecast.rain != 0, 0.05)
    with pytest.warns(UserWarning, match="3 of 3 frames diverged and come back as they were given"):
        sharp = forecast.nowcast.deblur(model, diagnostics=True)
    assert sharp.blur_distance.isnull().all() and sharp.blur_kernel.isnull().all()
    xr.testing.assert_equal(sharp.rain.variable, forecast.rain.variable)
    xr.testing.assert_equal(sharp.reblurred.variable, forecast.rain.variable)


def test_weights_are_run_with_other_options(forecast, tmp_path):
    torch.manual_seed(0)
    model = models.build("postcast", size="tiny", diffusion_steps=50)
    path = tmp_path / "prior.safetensors"
    weights.save(path, model, system="postcast", options={"size": "tiny", "diffusion_steps": 50})
    loaded = xnowcast.load(path, sampling_steps=4, kernel_size=5)
    assert len(loaded.steps) == 5 and loaded.task.kernel_size == 5
    sharp = forecast.nowcast.deblur("postcast", weights=str(path), sampling_steps=4, kernel_size=5, diagnostics=True)
    assert sharp.blur_kernel.shape[-2:] == (5, 5)
    np.testing.assert_allclose(sharp.rain, forecast.nowcast.deblur(loaded).rain, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="weights of 'postcast' fix the model's options: leave out diffusion_steps"):
        forecast.nowcast.deblur("postcast", weights=str(path), diffusion_steps=10)
    with pytest.raises(ValueError, match="sampling_steps is 60; it must be 1 to 50, the diffusion_steps"):
        forecast.nowcast.deblur("postcast", weights=str(path), sampling_steps=60)
    with pytest.raises(ValueError, match="the grid has 8 x 60 cells; 'postcast' needs at least 9 x 9"):
        forecast.isel(y=slice(8)).nowcast.deblur("postcast", weights=str(path))


def of_the_first_edition(path):
    """A weights file as it was written before the step was embedded as published."""
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["xnowcast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert card.pop("edition") == earlier.EDITION
    del card["options"]["step_embedding"]
    save_file(tensors, path, metadata={"xnowcast": json.dumps(card)})


def test_weights_from_before_the_published_embedding_keep_theirs(tmp_path):
    path, options = tmp_path / "prior.safetensors", {"size": "tiny", "step_embedding": "ddpm"}
    model = models.build("postcast", **options).eval()
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    weights.save(path, model, system="postcast", options=options)
    of_the_first_edition(path)
    assert weights.read_card(path).options == options
    x, step = torch.randn(1, 1, 16, 16), torch.tensor([40.0])
    with torch.no_grad():
        said = xnowcast.load(path).network(x, step)
        assert torch.equal(said, model.network(x, step))
        published = models.build("postcast", size="tiny").eval()
        published.load_state_dict(model.state_dict())
        assert not torch.allclose(said, published.network(x, step), atol=1e-3), "only the card tells them apart"
    weights.slim(path, tmp_path / "again.safetensors", dtype="float32")
    assert weights.read_card(tmp_path / "again.safetensors").options == options
    with pytest.raises(ValueError, match="fix the model's options: leave out step_embedding"):
        xnowcast.load(path, step_embedding="guided-diffusion")


def test_a_prior_of_liquid_sharpens_liquid_and_no_rain_rate(forecast):
    liquid = (0.3 * forecast.rain).assign_attrs(units="kg m-2", standard_name="").to_dataset(name="vil")
    torch.manual_seed(0)
    prior = models.build("postcast", size="tiny", scaling="sevir", diffusion_steps=30)
    sharp = liquid.nowcast.deblur(prior, progress=False)
    assert sharp.vil.attrs["units"] == "kg m-2"
    np.testing.assert_array_equal(sharp.vil.isnull(), liquid.vil.isnull())
    assert float(abs(sharp.vil - liquid.vil).max()) > 0
    with pytest.raises(ValueError, match="reads vil"):
        forecast.nowcast.deblur(prior)


@pytest.mark.parametrize("nested", [False, True])
def test_scalings_of_data_sets_from_before_keep_their_bounds(tmp_path, nested):
    path, inside = tmp_path / "rnn.safetensors", {"size": "tiny", "scaling": "hko-7", "bounds": [0.0, 60.0]}
    options = {"network": "ms-convlstm", "network_options": inside} if nested else inside
    system = "lagrangian" if nested else "ms-convlstm"
    weights.save(path, models.build(system, **options), system=system, options=options)
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["xnowcast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del card["edition"]
    del (card["options"]["network_options"] if nested else card["options"])["bounds"]
    save_file(tensors, path, metadata={"xnowcast": json.dumps(card)})
    scale = xnowcast.load(path).transform
    assert (scale.a, scale.low, scale.high) == (58.53, 0.0, 60.0)


def test_weights_of_a_later_edition_are_refused(tmp_path):
    path = tmp_path / "prior.safetensors"
    model = models.build("postcast", size="tiny")
    weights.save(path, model, system="postcast", options={"size": "tiny"})
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["xnowcast"]) | {"edition": earlier.EDITION + 1}
    save_file(model.state_dict(), path, metadata={"xnowcast": json.dumps(card)})
    with pytest.raises(ValueError, match=f"of edition {earlier.EDITION + 1}, and this version knows up to"):
        weights.read_card(path)


@pytest.mark.usefixtures("nothing_ships")
def test_it_needs_weights(forecast):
    with pytest.raises(ValueError, match="'postcast' needs weights"):
        forecast.nowcast.deblur("postcast")


# ---------------------------------------------------------------- training


def test_unmeasured_cells_do_not_count_in_the_loss():
    torch.manual_seed(0)
    model = PostCast(size="tiny")
    for parameter in model.network.leave.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    rain = torch.rand(2, 1, 1, 16, 16) * 10
    observed = torch.ones_like(rain, dtype=torch.bool)
    observed[..., 8:] = False
    totals = []
    for where in (observed, torch.ones_like(observed)):
        torch.manual_seed(5)
        steps, noise_ = torch.randint(1000, (2,)), torch.randn(2, 1, 16, 16)
        torch.manual_seed(5)
        totals.append(model.loss(TrainingBatch(rain, where), progress=0.0).total)
        x = model.schedule.add_noise(2 * model.transform(rain[:, 0]) - 1, noise_, steps)
        missed = (model.network(x, steps.float()) - noise_) ** 2
        torch.testing.assert_close(totals[-1], missed[where[:, 0]].mean())
    assert totals[0] != totals[1]


def test_a_run_from_before_the_published_embedding_goes_on_with_its_own(tmp_path):
    radar = xnowcast.datasets.synthetic_radar(frames=4, shape=(32, 32), coverage=False)
    options = {"size": "tiny", "out": tmp_path / "run", "crop": 16, "batch_size": 1, "validation_crops": 2}
    xnowcast.train("postcast", radar, step_embedding="ddpm", steps=1, progress=False, **options)
    file = tmp_path / "run" / "checkpoint.safetensors"
    state = checkpoint.read(file)
    del state["fingerprint"]["edition"], state["fingerprint"]["option step_embedding"]
    checkpoint.write(file, state)
    options |= {"steps": 2, "resume": True, "progress": False}
    with pytest.raises(ValueError, match="step_embedding: 'ddpm' then, None now"):
        xnowcast.train("postcast", radar, **options)
    resumed = xnowcast.train("postcast", radar, step_embedding="ddpm", **options)
    assert resumed.options.step_embedding == "ddpm"


def test_a_short_training_learns_what_noise_is():
    radar = xnowcast.datasets.synthetic_radar(frames=24, shape=(64, 64), seed=3, coverage=False)
    options = {"size": "tiny", "diffusion_steps": 100}
    model = xnowcast.train(
        "postcast",
        radar,
        steps=40,
        batch_size=4,
        crop=32,
        learning_rate=1e-3,
        validation=0.25,
        validate_every=40,
        validation_crops=8,
        progress=False,
        **options,
    )
    rain = torch.from_numpy(radar["rainfall_rate"].values[-6:, None, None, :32, :32].astype("f4"))
    batch = TrainingBatch(rain.nan_to_num(), rain.isfinite())

    def loss(of):
        torch.manual_seed(1)
        with torch.no_grad():
            return float(of.loss(batch, progress=1.0).total)

    assert loss(models.build("postcast", **options)) == pytest.approx(1.0, abs=0.05)  # it says that there is no noise
    assert loss(model) < 0.5
    assert model.card.system == "postcast" and model.card.scores["validation loss"] < 0.5


def test_the_reference_field_has_the_variance_it_says():
    assert float(spectrum((CELLS, CELLS)).mean()) == pytest.approx(0.09, rel=1e-5)
