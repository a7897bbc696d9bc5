"""STVD: the networks of the paper, members over several frames, the loss, and that it learns."""

import math
from inspect import signature

import numpy as np
import pytest
import reference_stvd as reference
import torch
import xarray as xr
from rounding import assert_close
from torch.nn import functional as F

import xnowcast
from xnowcast import models
from xnowcast.diffusion import SAMPLERS, evenly_spaced_steps, sigmoid_schedule
from xnowcast.diffusion.pieces import cut
from xnowcast.models import residual_diffusion as module
from xnowcast.models import weights
from xnowcast.models.base import DownscaleModel, TrainableModel, TrainingBatch
from xnowcast.models.downscaler import coarsened
from xnowcast.models.stvd import STVD
from xnowcast.models.transforms import Logarithm
from xnowcast.nn.attention import LinearSpatialAttention
from xnowcast.nn.blocks import StandardizedConvolution, with_fixed_filters
from xnowcast.nn.noise import Noise, member_generator
from xnowcast.nn.video_unet import Denoiser, Downscaler, Shape

TINY = (16, (1, 2), 2, 8)

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(**options):
    torch.manual_seed(0)
    return STVD(**({"size": "tiny", "factor": 4, "frames": 3, "sampling_steps": 3} | options)).eval()


def noise(members, frames=3, seed=0):
    return Noise([member_generator(seed, time, member) for member in members for time in range(frames)])


def coarse(b=1, frames=3, shape=(4, 6), channels=1):
    values = 2 * torch.rand(b, frames, channels, *shape, generator=torch.Generator().manual_seed(1)) - 1
    return values, torch.ones(b, frames, 1, *shape, dtype=torch.bool)


def batch(b=1, frames=3, size=16):
    rain = 5 * torch.rand(b, frames, 1, size, size, generator=torch.Generator().manual_seed(2))
    return TrainingBatch(rain, torch.ones_like(rain, dtype=torch.bool))


def count(network):
    return sum(p.numel() for p in network.parameters())


# ---------------------------------------------------------------- the networks


def test_parameters_are_those_of_the_published_networks():
    with torch.device("meta"):
        downscaler, denoiser = Downscaler(12, Shape()), Denoiser(12, Shape())
    assert count(downscaler) == 17_328_001
    assert count(denoiser) == 22_661_377 == 22_661_393 - denoiser.time[0].frequencies.numel()
    assert count(denoiser.init) == 43_968 and count(denoiser.time) == 74_512 - 16
    assert [count(level) for level in denoiser.down] == [353_664, 353_664, 370_112, 1_215_232, 1_248_064, 2_978_560]
    assert [count(level) for level in denoiser.up] == [4_446_400, 2_511_488, 1_363_072, 1_125_440, 407_104, 374_144]
    assert count(denoiser.middle) == 5_643_776 and count(denoiser.final) + count(denoiser.read) == 152_193
    assert count(downscaler.init) == 37_696
    assert [count(level) for level in downscaler.down] == [197_632, 230_592, 247_040, 788_864, 821_696, 1_969_792]
    assert [count(level) for level in downscaler.up] == [4_183_232, 2_215_232, 1_165_568, 927_936, 308_352, 308_352]
    assert count(downscaler.middle) == 3_806_720 and count(downscaler.final) + count(downscaler.read) == 119_297


def test_parameters_for_precipitation_alone():
    with torch.device("meta"):
        model = STVD()
        many = STVD(channels=[f"field_{n}" for n in range(10)], static=["surface_altitude"])
    assert count(model.downscaler) == 17_293_505
    # the published network, measured with two inputs, has no filters for the estimate
    assert count(model.denoiser) + 16 == 22_623_761 + 7 * 7 * 64
    assert count(many) == 17_328_001 + 22_661_377


@pytest.mark.parametrize(
    ("size", "parts"),
    [("small", (3_079_649, 4_053_313)), ("light", (838_897, 1_087_137)), ("tiny", (173_137, 250_321))],
)
def test_smaller_sizes_have_the_parameters_that_are_documented(size, parts):
    with torch.device("meta"):
        model = STVD(size=size)
    assert (count(model.downscaler), count(model.denoiser)) == parts


def test_parameters_of_small_networks():
    with torch.device("meta"):
        toy, wide, narrow = (
            [network(channels, shape) for network in (Downscaler, Denoiser)]
            for channels, shape in ((12, Shape(8, (1, 2))), (2, Shape(16, (1, 2))), (2, Shape(8, (1, 2))))
        )
    assert (count(toy[0]), count(toy[1]) + 16) == (94_465, 114_897)
    assert sum(map(count, wide)) + 16 == 597_074 and sum(map(count, narrow)) + 16 == 201_522


def test_the_downscaler_hands_on_the_published_maps():
    downscaler, denoiser = Downscaler(12, Shape(8, (1, 2))), Denoiser(12, Shape(8, (1, 2)))
    seen = []
    denoiser.middle.temporal.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    with torch.inference_mode():
        estimate, context = downscaler(torch.randn(1, 5, 12, 32, 32))
    shapes = [(5, 8, 32, 32)] * 2 + [(5, 8, 16, 16)] * 2 + [(5, 16, 16, 16)] * 2
    assert estimate.shape == (1, 5, 1, 32, 32) and [tuple(part.shape) for part in context] == shapes


FOUR_LEVELS = (8, (1, 1, 2, 3), 2, 8)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("sizes", "kind", "plainly"),
    [
        (TINY, {}, {}),
        (FOUR_LEVELS, {}, {}),
        (FOUR_LEVELS, {"kernel": 3}, {"kernel": 3}),
        (TINY, {"whole_map": True}, {"patches": 1}),
    ],
    ids=["two", "four levels", "3 x 3 cells", "whole map"],
)
def test_the_networks_are_the_plain_reading(sizes, kind, plainly):
    shape = Shape(*sizes, **kind)
    downscaler, denoiser = Downscaler(2, shape).eval(), Denoiser(2, shape).eval()
    plain = reference.copy_weights(reference.Downscaler(2, *sizes, **plainly), downscaler)
    plain_denoiser = reference.copy_weights(reference.Denoiser(2, *sizes, **plainly), denoiser)
    x, r, done = torch.rand(2, 3, 2, 16, 32) * 2 - 1, torch.randn(2, 3, 1, 16, 32), torch.tensor([0.2, 0.7])
    expected, maps = plain(x)
    estimate, context = downscaler(x)
    assert_close(estimate, expected)
    for own, other in zip(context, maps, strict=True):
        assert_close(own, other.flatten(0, 1))
    velocity = denoiser(r, done, denoiser.project(x, estimate, context))
    assert_close(velocity, plain_denoiser(r, done, x, expected, maps))
    per_frame = denoiser(r, done[:, None].expand(2, 3), denoiser.project(x, estimate, context))
    assert_close(per_frame, velocity)


@torch.inference_mode()
def test_a_refinement_is_the_plain_reading_of_the_paper():
    model, (frames, observed) = tiny(sampling_steps=30), coarse()
    plain = reference.copy_weights(reference.Downscaler(1, *TINY), model.downscaler)
    plain_denoiser = reference.copy_weights(reference.Denoiser(1, *TINY), model.denoiser)
    x = F.interpolate(frames[0], scale_factor=4, mode="bicubic").clamp(-1, 1)[None]
    expected = reference.sample(plain, plain_denoiser, x, noise([1]).normal(1, 16, 24)[None])
    fine = model.downscale(frames, observed, 4, noise=noise([0, 1]))
    assert_close(fine[1:], expected)


@torch.inference_mode()
def test_fixed_filters_change_nothing_and_leave_the_network_alone():
    network = Downscaler(1, Shape(*TINY)).eval()
    fixed = with_fixed_filters(network)
    x = torch.randn(1, 3, 1, 8, 8)
    assert_close(fixed(x)[0], network(x)[0])
    assert not any(isinstance(m, StandardizedConvolution) for m in fixed.modules())
    assert sum(isinstance(m, StandardizedConvolution) for m in network.modules()) == 4 * 2 + 6 + 4 * 2 + 2


def test_frequencies_of_the_step_are_not_rounded_in_half_precision():
    denoiser = Denoiser(1, Shape(*TINY))
    exact = denoiser.time[0].frequencies.clone()
    for half in (with_fixed_filters(denoiser, torch.bfloat16), denoiser.bfloat16()):
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.time[0].frequencies, exact, rtol=0, atol=0)


@torch.inference_mode()
def test_two_by_two_patches_of_any_grid_do_not_leak():
    attention = LinearSpatialAttention(8, heads=2, head_width=4, patches=2)
    x = torch.randn(1, 8, 6, 10)
    other = x.clone()
    other[..., :3, 5:] += 1
    apart = (attention(other) - attention(x)).abs().amax(1)[0]
    assert (apart[:3, 5:] > 0).all()
    apart[:3, 5:] = 0
    assert (apart == 0).all()
    with pytest.raises(ValueError, match="a grid of 6 x 9 cells has no 2 x 2 patches"):
        attention(x[..., :9])


# ---------------------------------------------------------------- schedule, velocity, transform


def test_the_schedule_has_the_published_values():
    model = tiny()
    at = [0, 1, 350, 700, 1050, 1398, 1399]
    expected = torch.tensor([0.99979, 0.99957, 0.85015, 0.49882, 0.14844, 2.1433e-4, 2.1433e-7], dtype=torch.float64)
    torch.testing.assert_close(model.schedule.abar[at], expected, rtol=1e-4, atol=0)
    alpha, sigma = reference.levels(1400)
    torch.testing.assert_close(model.schedule.abar.sqrt(), torch.tensor(alpha, dtype=torch.float64))
    assert max(abs(a**2 + s**2 - 1) for a, s in zip(alpha, sigma, strict=True)) < 1e-12
    tau = "1399,1352,1305,1259,1212,1165,1119,1072,1025,979,932,885,839,792,745,699,652,605,559,512,465,419,372,325,279"
    assert evenly_spaced_steps(1400, 30) == [*map(int, tau.split(",")), 232, 185, 139, 92, 45, -1]


def test_velocity_residual_and_noise_turn_into_each_other():
    r0, eps = torch.randn(2, 100, dtype=torch.float64)
    for step in (0, 700, 1399):
        signal, level = sigmoid_schedule(1400).levels(step)
        noisy, v = signal * r0 + level * eps, module.VELOCITY.target(r0, eps, signal, level)
        torch.testing.assert_close(module.VELOCITY.to_x0(v, noisy, signal, level), r0)
        torch.testing.assert_close(module.VELOCITY.to_eps(v, noisy, signal, level), eps)


@pytest.mark.parametrize("frames", [3, 7])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_the_exact_velocity_gives_the_truth_in_any_number_of_steps(monkeypatch, frames, steps):
    model = tiny()
    pieces = cut(frames, (8, 24), length=3, tile=16, multiple=4)
    truth = 2 * torch.rand(1, frames, 1, 8, 24) - 1
    own = [piece(truth) + 0.3 * torch.randn_like(piece(truth)) for piece in pieces]
    estimate = module.blended(own, pieces, truth)

    def exact(denoiser, noisy, step, residual):
        signal, level = model.schedule.levels(step)
        return (signal * noisy - residual) / level

    monkeypatch.setattr(model, "_velocity", exact)
    residuals = [piece(truth) - part for piece, part in zip(pieces, own, strict=True)]
    denoise = model._denoise(model.denoiser, pieces, own, residuals, estimate)
    start, visited = torch.randn(2 * frames, 1, 8, 24), evenly_spaced_steps(1400, steps)
    found = estimate + SAMPLERS["ddim"](denoise, start, model.schedule, visited).unflatten(0, (2, frames))
    assert_close(found, truth.expand_as(found))


@pytest.mark.parametrize("eps", [3.6e-4, 3.6e-11])
def test_the_logarithm_comes_back(eps):
    scale = Logarithm(eps)
    rain = torch.cat([torch.zeros(1), torch.logspace(math.log10(eps), math.log10(256), 2000)]).double()
    values = scale(rain)
    assert values[0] == -1 and scale.inverse(values)[0] == 0
    torch.testing.assert_close(values[-1], torch.tensor(1.0).double())
    torch.testing.assert_close(values, 2 * ((rain + eps).log() - math.log(eps)) / math.log(256 / eps + 1) - 1)
    torch.testing.assert_close(scale.inverse(values), rain, rtol=1e-6, atol=0)
    torch.testing.assert_close(scale.inverse(scale(rain.float())), rain.float(), rtol=2e-5, atol=0)  # 2^-23 of [-1, 1]
    assert scale.inverse(torch.tensor(-1.2)) == 0


@pytest.mark.parametrize(("eps", "highest"), [(0.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)])
def test_a_logarithm_without_a_range_is_refused(eps, highest):
    with pytest.raises(ValueError, match="0 < eps < highest is needed"):
        Logarithm(eps, highest)


# ---------------------------------------------------------------- the task


def test_the_task_is_declared_without_building_the_networks():
    task = models.declare("stvd", channels=["eastward_wind"], static=["surface_altitude"])
    assert (task.verb, task.input_frames, task.factor, task.grid_multiple) == ("downscale", 5, 8, 8)
    assert task.stochastic and task.trained and task.quantity == "rain_rate"
    assert (task.channels, task.static) == (("eastward_wind",), ("surface_altitude",))
    assert not models.declare("stvd", stochastic=False).stochastic
    multiples = [models.declare("stvd", factor=factor).grid_multiple for factor in (2, 4, 16, 128)]
    assert multiples == [32, 16, 4, 1]  # 64 cells on the fine grid
    model = models.build("stvd", size="tiny")
    assert isinstance(model, DownscaleModel) and isinstance(model, TrainableModel)
    assert model.task == models.declare("stvd", size="tiny") and model.training_frames == 5


def test_the_published_variant_reads_between_cells_on_a_line_and_clips_the_residual_alone():
    model = models.build("stvd", size="tiny", factor=2, published=True, sampling_steps=1).eval()
    assert models.declare("stvd", factor=8, published=True).grid_multiple == 4  # one patch: 32 cells on the fine grid
    coarse = torch.tensor([-1.0, 1.0]).expand(1, 5, 1, 2, 2)
    row = model._fine_inputs(coarse, None)[0, 0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([-1.0, -0.5, 0.5, 1.0]))
    estimate, noise = torch.full((1, 5, 1, 4, 4), 0.75), torch.full((5, 1, 4, 4), 9.0)
    [piece] = cut(5, (4, 4), length=5, tile=8, multiple=2)

    def expected_residual(model):
        model._velocity = lambda denoiser, noisy, step, condition: torch.zeros_like(noisy)
        return model._denoise(model.denoiser, [piece], [estimate], [None], estimate)(noise, 0.0)

    assert torch.all(expected_residual(model) == 1.0), "the residual, to 1"
    torch.testing.assert_close(expected_residual(models.build("stvd", size="tiny")), torch.full_like(noise, 0.25))


def test_one_option_makes_queries_keys_and_values_of_three_by_three_cells_everywhere():
    """The paper's; nine times as many of these parameters, and no other."""
    with torch.device("meta"):
        one, nine = models.build("stvd"), models.build("stvd", attention_kernel=3)
    maps = [name for name, _ in one.named_parameters() if name.endswith(".qkv.weight")]
    sizes, larger = ({name: p.numel() for name, p in model.named_parameters()} for model in (one, nine))
    assert len(maps) == 2 * (6 + 5 + 2 + 6 + 1)
    assert larger == {n: size * (9 if n in maps else 1) for n, size in sizes.items()}
    assert count(nine.downscaler) + count(nine.denoiser) == 57_615_106
    assert models.declare("stvd", attention_kernel=3) == models.declare("stvd")


def test_without_patches_the_grid_needs_half_the_cells():
    assert models.declare("stvd", factor=8, whole_map=True).grid_multiple == 4
    model, (frames, observed) = tiny(factor=2, whole_map=True), coarse(shape=(3, 5))
    assert model.downscale(frames, observed, 2).shape == (1, 3, 1, 6, 10)


@torch.inference_mode()
@pytest.mark.parametrize("published", [False, True])
def test_coarse_rain_has_a_scaling_of_its_own(published):
    """With eps 1 the coarse 15 mm/h are 1, and so a coarse 3 is 0; the fine 255 are 1, and so a fine 15 is 0."""
    model = tiny(eps=1.0, highest=255.0, coarse_highest=15.0, published=published)
    rain = torch.tensor([0.0, 3.0, 15.0, 40.0])
    frames = model.transform(rain).view(4, 1, 1, 1, 1).expand(4, 3, 1, 2, 2)
    torch.testing.assert_close(model.transform(torch.tensor([15.0, 255.0])), torch.tensor([0.0, 1.0]))
    read = model._fine_inputs(frames, None)
    torch.testing.assert_close(read[:, 0, 0, 3, 3], torch.tensor([-1.0, 0.0, 1.0, 1.0]))  # 40 is beyond its range


def test_the_loss_reads_coarse_rain_by_the_scaling_of_its_own(monkeypatch):
    model, data = tiny(eps=1.0, highest=255.0, coarse_highest=15.0), batch()
    seen, forward = [], Downscaler.forward
    monkeypatch.setattr(Downscaler, "forward", lambda self, x: seen.append(x) or forward(self, x))
    three = torch.full_like(data.rain, 3.0)
    loss = model.loss(TrainingBatch(three, data.observed), progress=0.0)
    assert_close(seen[0], torch.zeros_like(seen[0]))
    estimate = forward(model.downscaler, seen[0])[0]
    assert_close(loss.parts["estimate"], (model.transform(three) - estimate).square().mean())


def test_all_options_are_declared_with_the_same_defaults():
    declared, built = signature(STVD.declare).parameters, signature(STVD).parameters
    assert {name: p.default for name, p in declared.items()} == {name: p.default for name, p in built.items()}
    assert set(STVD.RUNTIME_OPTIONS) < set(declared)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 6}, "factor is 6: it must be a power of two"),
        ({"factor": 1}, "factor is 1"),
        ({"frames": 0}, "frames is 0"),
        ({"size": "huge"}, "'full', 'small', 'light', 'tiny'"),
        ({"sampler": "euler"}, "'ddpm', 'ddim'"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"sampling_steps": 0}, "sampling_steps is 0"),
        ({"sampling_steps": 101, "diffusion_steps": 100}, "the training had 100"),
        ({"diffusion_steps": 0}, "diffusion_steps is 0"),
        ({"aux_mse_weight": -1.0}, "aux_mse_weight is -1.0"),
        ({"aux_mse_weight": math.nan}, "aux_mse_weight is nan"),
        ({"eps": 0.0}, "0 < eps < highest"),
        ({"highest": 1e-9}, "0 < eps < highest"),
        ({"coarse_highest": 1e-9}, "0 < eps < highest"),
        ({"attention_kernel": 2}, "attention_kernel is 2"),
        ({"tile": 100}, "multiple of 64"),
        ({"tile": 64}, "at least 128"),
        ({"channels": "wind"}, "it must be a list of words"),
        ({"static": ["height", "height"]}, "give a list of different standard names"),
    ],
)
def test_an_option_out_of_range_is_refused_before_anything_is_built(options, message):
    for make in (models.declare, models.build):
        with pytest.raises(ValueError, match=message):
            make("stvd", **options)


def test_what_cannot_be_refined_is_refused():
    model, (frames, observed) = tiny(), coarse()
    for wrong, message in [
        ((frames, observed, 8, None, None), "factor is 8; this model was made for 4"),
        ((frames[:, 1:], observed[:, 1:], 4, None, None), "2 frames; this model looks at 3 at once"),
        ((frames.expand(-1, -1, 2, -1, -1), observed, 4, None, None), "2 channels; this model reads 'rain'"),
        ((frames, observed, 4, torch.zeros(1, 16, 24), None), "1 static fields; this model reads none"),
        ((frames, observed, 4, None, Noise([])), "0 noise sources for 1 sequences of 3 frames"),
        ((frames, observed, 4, None, noise([0], frames=4)), "4 noise sources for 1 sequences of 3 frames"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.downscale(*wrong)
    with pytest.raises(ValueError, match=r"grid of \(3, 6\) cells: pad it to multiples of 2"):
        tiny(factor=2).downscale(frames[..., 1:, :], observed[..., 1:, :], 2)


# ---------------------------------------------------------------- members and frames


def test_members_differ_are_repeatable_and_lie_on_the_scale():
    model, (frames, observed) = tiny(), coarse(2)
    fine = model.downscale(frames, observed, 4, noise=noise([0, 1, 0, 1]))
    assert fine.shape == (4, 3, 1, 16, 24) and fine.min() >= -1 and fine.max() <= 1
    torch.testing.assert_close(model.downscale(frames, observed, 4, noise=noise([0, 1, 0, 1])), fine, rtol=0, atol=0)
    assert (fine[0] - fine[1]).abs().mean() > 1e-2
    assert not torch.allclose(fine, model.downscale(frames, observed, 4, noise=noise([0, 1, 0, 1], seed=1)))


@pytest.mark.parametrize("options", [{}, {"sampler": "ddpm"}, {"precision": "bfloat16"}])
def test_a_member_is_the_same_alone_and_in_any_batch(options):
    model, (frames, observed) = tiny(**options), coarse(2)
    together = model.downscale(frames, observed, 4, noise=noise([0, 1, 2, 0, 1, 2]))
    alone = model.downscale(frames[1:], observed[1:], 4, noise=noise([2]))
    assert_close(alone, together[5:])


@pytest.mark.parametrize("at_once", [1, 2 * 3 * 16 * 24])
def test_how_many_members_are_denoised_at_once_changes_nothing(monkeypatch, at_once):
    model, (frames, observed) = tiny(), coarse()
    expected = model.downscale(frames, observed, 4, noise=noise(range(3)))
    monkeypatch.setitem(module.CELLS_AT_ONCE, "cpu", at_once)
    assert_close(model.downscale(frames, observed, 4, noise=noise(range(3))), expected)


def test_estimate_and_maps_are_computed_once_for_all_members_and_steps(monkeypatch):
    calls, forward, project = [], Downscaler.forward, Denoiser.project
    monkeypatch.setattr(Downscaler, "forward", lambda *a: calls.append("downscaler") or forward(*a))
    monkeypatch.setattr(Denoiser, "project", lambda *a: calls.append("project") or project(*a))
    model, (frames, observed) = tiny(), coarse()
    model.downscale(frames, observed, 4, noise=noise(range(4)))
    assert calls == ["downscaler", "project"]
    calls.clear()
    model.downscale(frames, observed, 4)
    assert calls == ["downscaler"]


@torch.inference_mode()
def test_without_noise_it_is_the_estimate_of_the_downscaler():
    model, (frames, observed) = tiny(stochastic=False), coarse(2)
    x = F.interpolate(frames.flatten(0, 1), scale_factor=4, mode="bicubic").clamp(-1, 1).unflatten(0, (2, 3))
    expected = model.downscaler(x)[0].clamp(-1, 1)
    assert_close(model.downscale(frames, observed, 4), expected)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_frame_answers_to_the_others_of_its_window(frames):
    model, (values, observed) = tiny(frames=frames), coarse(frames=3)
    other = values.clone()
    other[:, 1] = -other[:, 1]
    one, two = (model.downscale(v, observed, 4, noise=noise([0])) for v in (values, other))
    apart = (one - two).abs().amax((0, 2, 3, 4))
    assert apart[1] > 0.01
    assert (apart[[0, 2]] > 1e-6).all() if frames == 3 else (apart[[0, 2]] == 0).all()


def test_a_frame_answers_to_the_noise_of_the_others():
    model, (values, observed) = tiny(), coarse()
    sources = noise([0])
    sources.generators[1] = member_generator(5, 5, 5)
    apart = model.downscale(values, observed, 4, noise=sources) - model.downscale(values, observed, 4, noise=noise([0]))
    assert (apart.abs().amax((0, 2, 3, 4)) > 1e-6).all()


# ---------------------------------------------------------------- long sequences, large grids


@pytest.mark.parametrize(("frames", "length", "starts"), [(3, 3, 1), (4, 3, 2), (8, 3, 4), (11, 5, 3), (6, 1, 6)])
def test_weights_of_the_pieces_sum_to_one(frames, length, starts):
    pieces = cut(frames, (24, 48), length=length, tile=16, multiple=4)
    assert len({piece.frames.start for piece in pieces}) == starts
    whole = torch.zeros(2, frames, 1, 24, 48)
    ones = module.blended([torch.ones_like(piece(whole)) for piece in pieces], pieces, whole)
    torch.testing.assert_close(ones, torch.ones_like(ones))
    assert all(piece(whole).shape == (2, length, 1, 16, 16) for piece in pieces)


def test_windows_of_one_frame_are_refined_one_by_one():
    model, (frames, observed) = tiny(frames=1), coarse(frames=4)
    whole = model.downscale(frames, observed, 4, noise=noise([0], frames=4))
    for t in range(4):
        alone = model.downscale(frames[:, t : t + 1], observed[:, :1], 4, noise=Noise([member_generator(0, t, 0)]))
        assert_close(whole[:, t : t + 1], alone)


def test_a_scene_that_stands_still_has_no_seam_in_time():
    model, (frames, observed) = tiny(), coarse(frames=1)
    still = frames.expand(-1, 9, -1, -1, -1)
    sources = Noise([member_generator(0, 0, 0) for _ in range(9)])
    fine = model.downscale(still, observed.expand_as(still), 4, noise=sources)
    assert_close(fine, fine[:, :1].expand_as(fine))
    assert fine.std() > 0.1


def test_frames_far_away_from_a_change_do_not_see_it():
    model, (frames, observed) = tiny(sampling_steps=1), coarse(frames=9)
    other = frames.clone()
    other[:, 0] = -other[:, 0]
    one, two = (model.downscale(v, observed, 4, noise=noise([0], frames=9)) for v in (frames, other))
    apart = (one - two).abs().amax((0, 2, 3, 4))
    assert (apart[:3] > 0.01).all() and (apart[3:] < 1e-5).all()  # the first window has the frames 0 to 2


def test_tiles_have_one_noise_and_one_estimate(monkeypatch):
    """A denoiser that sees single cells gives the same with tiles and without."""
    monkeypatch.setattr(STVD, "_velocity", lambda self, denoiser, noisy, step, condition: 0.5 * noisy)
    monkeypatch.setattr(Downscaler, "forward", lambda self, x: (0.3 * x, []))
    monkeypatch.setattr(Denoiser, "project", lambda self, x, estimate, context: None)
    frames, observed = coarse(shape=(8, 12))
    whole, tiled = (tiny(tile=tile).downscale(frames, observed, 4, noise=noise([0])) for tile in (384, 16))
    assert_close(tiled, whole)


def test_a_grid_larger_than_a_tile_is_refined():
    model, (frames, observed) = tiny(tile=8), coarse(shape=(4, 6))
    fine = model.downscale(frames, observed, 4, noise=noise([0]))
    assert fine.shape == (1, 3, 1, 16, 24) and torch.isfinite(fine).all() and fine.std() > 0.1


@pytest.mark.parametrize(
    "options", [{"sampler": "heun"}, {"sampler": "dpm++2m"}, {"factor": 2}, {"factor": 16}, {"frames": 2}]
)
def test_other_samplers_factors_and_windows_refine_too(options):
    model = tiny(**options)
    frames, observed = coarse(shape=(2, 4))
    fine = model.downscale(frames, observed, model.factor, noise=noise([0]))
    assert fine.shape == (1, 3, 1, 2 * model.factor, 4 * model.factor) and torch.isfinite(fine).all()


def test_half_precision_is_close_and_leaves_the_weights_alone():
    frames, observed = coarse()
    model = tiny(precision="bfloat16")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    half = model.downscale(frames, observed, 4, noise=noise([0]))
    whole = tiny().downscale(frames, observed, 4, noise=noise([0]))
    assert half.dtype == torch.float32 and 0 < float((half - whole).abs().mean()) < 0.02
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---------------------------------------------------------------- further fields

FIELDS = {"channels": ["eastward_wind"], "static": ["surface_altitude"]}
RANGES = {"eastward_wind": (-20.0, 20.0), "surface_altitude": (0.0, 3000.0)}


def with_fields():
    model = tiny(**FIELDS)
    model.set_ranges(RANGES)
    return model


@torch.inference_mode()
def test_further_fields_are_scaled_by_their_ranges():
    model, (frames, _) = with_fields(), coarse(channels=2)
    frames[:, :, 1] = 10.0
    frames[:, :, 1, 0, 0] = torch.nan
    height = torch.full((1, 16, 24), 6000.0)
    inputs = model._fine_inputs(frames, height)
    assert inputs.shape == (1, 3, 3, 16, 24) and torch.isfinite(inputs).all()
    torch.testing.assert_close(inputs[:, :, 1, 12:, 16:], torch.full((1, 3, 4, 8), 0.5))  # 10 of -20 to 20
    assert (inputs[:, :, 2] == 1).all()  # beyond the range
    assert (inputs[:, :, 1, 0, 0] < 0.1).all()  # missing: the middle of the range


@torch.inference_mode()
def test_a_field_counts_where_no_rain_was_measured():
    model, (frames, observed) = with_fields(), coarse(channels=2)
    frames[:, :, 1], observed[..., :3, :3] = 10.0, False
    frames[:, :, :1] = torch.where(observed, frames[:, :, :1], -1.0)
    assert (model._fine_inputs(frames, torch.zeros(1, 16, 24))[:, :, 1] == 0.5).all()
    assert model.downscale(frames, observed, 4, torch.zeros(1, 16, 24), noise([0])).isfinite().all()


def test_the_statistics_of_the_training_data_are_the_ranges_unless_some_were_set():
    model = tiny(channels=["eastward_wind", "air_pressure"], static=["surface_altitude"])
    mean, std = torch.zeros(2), torch.ones(2)
    model.set_channel_statistics(mean, std, torch.tensor([-30.0, 1e5]), torch.tensor([25.0, 1e5]))
    assert model.lowest[:2].tolist() == [-30, 1e5]
    assert model.largest[:2].tolist() == [25, 1e5 + 1]  # the same everywhere: any range will do
    assert model.lowest[2].isnan()
    model.set_static_statistics(mean[:1], std[:1], torch.tensor([-4.0]), torch.tensor([900.0]))
    assert (model.lowest[2].item(), model.largest[2].item()) == (-4, 900)
    told = with_fields()
    told.set_channel_statistics(mean[:1], std[:1], torch.tensor([-1.0]), torch.tensor([1.0]))
    told.set_static_statistics(mean[:1], std[:1], torch.tensor([-1.0]), torch.tensor([1.0]))
    assert (told.lowest.tolist(), told.largest.tolist()) == ([-20, 0], [20, 3000])


def test_ranges_belong_to_the_weights(tmp_path):
    path = tmp_path / "fields.safetensors"
    weights.save(path, with_fields(), system="stvd", options={"size": "tiny", "factor": 4, "frames": 3, **FIELDS})
    loaded = weights.load(path)
    assert loaded.lowest.tolist() == [-20, 0] and loaded.largest.tolist() == [20, 3000]


def test_ranges_that_will_not_do_are_refused():
    model, (frames, observed) = tiny(**FIELDS), coarse(channels=2)
    with pytest.raises(ValueError, match="the ranges of the further fields were never set"):
        model.downscale(frames, observed, 4, static=torch.zeros(1, 16, 24))
    with pytest.raises(ValueError, match="ranges of 'wind'; the model reads 'eastward_wind', 'surface_altitude'"):
        model.set_ranges({"wind": (0, 1)})
    with pytest.raises(ValueError, match="the range of 'surface_altitude' is 5 to 5"):
        model.set_ranges({**RANGES, "surface_altitude": (5, 5)})
    with pytest.raises(ValueError, match="1 channels; this model reads 'rain', 'eastward_wind'"):
        model.loss(batch(), progress=0.0)


def test_pairs_of_coarse_fields_and_fine_rain_train_a_model_that_reads_more():
    model, fine = with_fields().train(), batch(2)
    rain, seen = coarsened(fine.rain, fine.observed, 4)
    both = torch.cat([rain, 30 * torch.randn_like(rain)], dim=2)
    loss = model.pair_loss(both, seen, fine.rain, fine.observed, static=3000 * torch.rand(1, 16, 16))
    loss.total.backward()
    assert torch.isfinite(loss.total) and (model.downscaler.init.weight.grad.abs().amax((0, 2, 3)) > 0).all()
    height = 3000 * torch.rand(1, 16, 16)
    losses = []
    for static in (height, height.expand(2, -1, -1, -1)):  # one place for all, or one of each
        torch.manual_seed(1)
        losses.append(model.pair_loss(both, seen, fine.rain, fine.observed, static=static).total)
    torch.testing.assert_close(losses[0], losses[1])


def test_the_loss_coarsens_channels_as_it_does_rain_and_leaves_out_what_is_missing():
    model, fine = with_fields().train(), batch(2)
    wind, height = 15 * torch.randn(2, 3, 1, 16, 16), 3000 * torch.rand(2, 1, 16, 16)
    wind[..., 0:4, 0:3] = torch.nan  # three quarters of a cell: missing
    wind[..., 0:4, 4:6] = torch.nan  # half of the next: the mean of the rest
    blocks = wind.numpy().reshape(2, 3, 1, 4, 4, 4, 4).swapaxes(4, 5).reshape(2, 3, 1, 4, 4, 16)
    by_hand = np.nanmean(blocks, axis=-1)
    by_hand[..., 0, 0] = np.nan
    rain, seen = coarsened(fine.rain, fine.observed, 4)
    pair = torch.cat([rain, torch.from_numpy(by_hand)], dim=2)
    torch.manual_seed(1)
    expected = model.pair_loss(pair, seen, fine.rain, fine.observed, static=height).total
    torch.manual_seed(1)
    data = TrainingBatch(fine.rain, fine.observed, wind, height)
    torch.testing.assert_close(model.loss(data, progress=0.0).total, expected)
    assert torch.isfinite(expected)


def test_a_model_that_reads_more_is_trained_by_the_package():
    """Wind in km/h and a topography in km; the weights then refine coarse data that have both."""
    radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(32, 40), seed=2, coverage=False).load()
    random = np.random.default_rng(1)
    wind = radar.rainfall_rate.copy(data=random.normal(0, 30, radar.rainfall_rate.shape).astype("f4"))
    height = xr.DataArray(random.uniform(0, 2, (32, 40)).astype("f4"), dims=("y", "x"))
    data = radar.assign(
        u=wind.assign_attrs(standard_name="eastward_wind", units="km h-1"),
        z=height.assign_attrs(standard_name="surface_altitude", units="km"),
    )
    own = {"size": "tiny", "factor": 4, "frames": 3, "sampling_steps": 2}
    settings = {"steps": 2, "batch_size": 1, "crop": 16, "validation": 0.0, "progress": False}
    model = xnowcast.train("stvd", data, **FIELDS, **own, **settings)
    wind_range, height_range = zip(model.lowest.tolist(), model.largest.tolist(), strict=True)
    np.testing.assert_allclose(height_range, (1000 * float(height.min()), 1000 * float(height.max())), rtol=1e-6)
    np.testing.assert_allclose(wind_range, (float(wind.min()) / 3.6, float(wind.max()) / 3.6), rtol=0.1)  # of samples
    assert (model.task.channels, model.task.static) == (("eastward_wind",), ("surface_altitude",))
    coarse_data = data.nowcast.coarsen(4)
    static = data.z.assign_coords(x=data.x, y=data.y)
    fine = coarse_data.nowcast.downscale(model, factor=4, members=1, static=static)
    assert fine.rainfall_rate.sizes["x"] == 40 and bool(np.isfinite(fine.rainfall_rate).all())
    in_metres = (1000 * static).assign_attrs(static.attrs | {"units": "m"})
    same = coarse_data.nowcast.downscale(model, factor=4, members=1, static=in_metres)
    xr.testing.assert_allclose(fine.rainfall_rate, same.rainfall_rate, rtol=1e-4)
    turned = coarse_data.assign(u=(-coarse_data.u).assign_attrs(data.u.attrs))
    other = turned.nowcast.downscale(model, factor=4, members=1, static=static)
    assert not fine.rainfall_rate.equals(other.rainfall_rate)


# ---------------------------------------------------------------- the loss


def test_the_loss_is_equation_4():
    model, data = tiny(aux_mse_weight=0.7), batch(2)
    plain = reference.copy_weights(reference.Downscaler(1, *TINY), model.downscaler)
    plain_denoiser = reference.copy_weights(reference.Denoiser(1, *TINY), model.denoiser)
    torch.manual_seed(3)
    loss = model.loss(data, progress=0.0)
    torch.manual_seed(3)
    n, eps = torch.randint(0, 1400, (2,)), torch.randn(2, 3, 1, 16, 16)
    means = data.rain.reshape(2, 3, 1, 4, 4, 4, 4).mean((-3, -1))
    x = F.interpolate(model.transform(means)[:, :, 0], scale_factor=4, mode="bicubic").clamp(-1, 1)[:, :, None]
    estimate, context = plain(x)
    r0 = model.transform(data.rain) - estimate
    alpha, sigma = (torch.tensor(v).float()[n].reshape(2, 1, 1, 1, 1) for v in reference.levels(1400))
    v = plain_denoiser(alpha * r0 + sigma * eps, (n + 1) / 1400, x, estimate, context)
    diffusion, squares = (alpha * eps - sigma * r0 - v).square().mean(), r0.square().mean()
    assert_close(loss.parts["diffusion"], diffusion)
    assert_close(loss.parts["estimate"], squares)
    assert_close(loss.total, diffusion + 0.7 * squares)


def test_one_loss_trains_both_networks():
    model = tiny().train()
    model.loss(batch(), progress=0.0).total.backward()
    for network in (model.downscaler, model.denoiser):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert model.downscaler.read.weight.grad.abs().sum() > 0 and model.adversary((16, 16)) is None


def test_noise_levels_can_be_those_of_frames():
    assert tiny(per_frame_noise=True)._training_steps(torch.zeros(4, 3, 1, 8, 8)).shape == (4, 3)
    assert tiny()._training_steps(torch.zeros(4, 3, 1, 8, 8)).shape == (4,)
    assert torch.isfinite(tiny(per_frame_noise=True).loss(batch(), progress=0.0).total)


def test_mixed_precision_trains_nearly_the_same():
    losses = []
    for enabled in (False, True):
        torch.manual_seed(1)
        model = tiny()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model.loss(batch(), progress=0.0).total
        loss.backward()
        losses.append(float(loss.detach()))
        assert model.downscaler.init.weight.grad.dtype == torch.float32
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_what_was_not_measured_does_not_count():
    model, data = tiny(), batch()
    nothing = TrainingBatch(torch.zeros_like(data.rain), torch.zeros_like(data.observed))
    assert model.loss(nothing, progress=0.0).total == 0
    # one fine cell of a coarse cell is no measurement of it, and the error there no error
    speck = torch.zeros_like(data.observed)
    speck[..., 0, 0] = True
    assert model.loss(TrainingBatch(data.rain * speck, speck), progress=0.0).total == 0
    half = data.observed.clone()
    half[..., 2:4] = False
    assert model.loss(TrainingBatch(data.rain * half, half), progress=0.0).total > 0


def test_training_coarsens_as_the_verb_does(radar):
    expected = radar.nowcast.coarsen(4).rain.values
    rain = radar.rain.values[None, :, None]
    means, seen = coarsened(torch.from_numpy(np.nan_to_num(rain)), torch.from_numpy(np.isfinite(rain)), 4)
    np.testing.assert_array_equal(seen[0, :, 0], np.isfinite(expected))
    np.testing.assert_allclose(means[0, :, 0], np.nan_to_num(expected), rtol=1e-5, atol=1e-6)


def test_samples_that_the_networks_do_not_divide_are_refused():
    model, data = tiny(), batch(size=18)
    with pytest.raises(ValueError, match=r"samples of \(18, 18\) cells; at factor 4 training takes multiples of 4"):
        model.loss(data, progress=0.0)
    data = batch()
    with pytest.raises(ValueError, match="2 frames; training takes 3"):
        model.loss(TrainingBatch(data.rain[:, 1:], data.observed[:, 1:]), progress=0.0)


# ---------------------------------------------------------------- the verb


@pytest.fixture
def event():
    """Three kilometres of coarse cells, 16 x 24 on the fine grid, with a corner that no radar sees."""
    ds = xnowcast.datasets.synthetic_radar(frames=5, shape=(16, 24), seed=3, coverage=False, wet_fraction=0.6).load()
    rain = ds.rainfall_rate.copy()
    rain[:, :4, :8] = np.nan
    return ds.assign(rainfall_rate=rain)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "tiny.safetensors"
    options = {"size": "tiny", "factor": 4, "frames": 3, "diffusion_steps": 20, "sampling_steps": 2}
    weights.save(file, tiny(**options), system="stvd", options=options)
    return str(file)


def test_weights_refine_lazily_and_members_are_themselves(event, path, nothing_may_run):
    coarse_event = event.nowcast.coarsen(4).drop_vars(["lat", "lon"])
    chunked = coarse_event.chunk(time=2)
    with nothing_may_run:
        lazy = chunked.nowcast.downscale("stvd", weights=path, factor=4, members=3, seed=1)
    whole = lazy.compute().rainfall_rate
    assert whole.dims == ("member", "time", "y", "x") and whole.shape == (3, 5, 16, 24)
    few = coarse_event.nowcast.downscale(path, factor=4, members=2, seed=1, batch_size=1).rainfall_rate
    xr.testing.assert_allclose(whole.isel(member=slice(2)), few, rtol=1e-4, atol=1e-5)
    assert float(whole.std("member").max()) > 0 and float(whole.min()) >= 0
    missing = coarse_event.rainfall_rate.isnull().values.repeat(4, 1).repeat(4, 2)
    np.testing.assert_array_equal(whole.isnull(), np.broadcast_to(missing, whole.shape))
    xr.testing.assert_allclose(whole.x, event.x)


def test_mass_can_be_kept(event, path):
    coarse_event = event.nowcast.coarsen(4)
    fine = coarse_event.nowcast.downscale(path, factor=4, members=2, conserve=True)
    again = fine.nowcast.coarsen(4).rainfall_rate
    np.testing.assert_allclose(again, coarse_event.rainfall_rate.broadcast_like(again), rtol=1e-5, atol=1e-6)


def test_no_members_is_the_estimate_also_of_a_model_in_memory(event, path):
    coarse_event = event.nowcast.coarsen(4)
    alone = coarse_event.nowcast.downscale(path, factor=4, members=0).rainfall_rate
    assert alone.dims == ("time", "y", "x")
    xr.testing.assert_allclose(coarse_event.nowcast.downscale(path, factor=4, stochastic=False).rainfall_rate, alone)
    xr.testing.assert_allclose(
        coarse_event.nowcast.downscale(weights.load(path), factor=4, members=0).rainfall_rate, alone
    )


def test_any_grid_is_padded(path, event):
    odd = event.isel(x=slice(8, 20)).nowcast.coarsen(4)
    fine = odd.nowcast.downscale(tiny(sampling_steps=2), factor=4, members=1)
    assert fine.rainfall_rate.shape[-2:] == (16, 12)
    padded = odd.nowcast.downscale(
        tiny(sampling_steps=2).__class__(size="small", factor=4, frames=3), factor=4, members=0
    )
    assert padded.rainfall_rate.shape[-2:] == (16, 12)  # 4 x 3 coarse cells to multiples of 4


def test_further_fields_are_found_in_the_data(event):
    coarse_event = event.nowcast.coarsen(4)
    wind = xr.ones_like(coarse_event.rainfall_rate).fillna(1.0).assign_attrs(standard_name="eastward_wind")
    height = xr.DataArray(np.full((16, 24), 100.0), dims=("y", "x"), attrs={"standard_name": "surface_altitude"})
    model = with_fields()
    fine = coarse_event.assign(u=wind).nowcast.downscale(model, factor=4, members=1, static=height)
    assert fine.rainfall_rate.shape == (1, 5, 16, 24)
    with pytest.raises(ValueError, match="reads a field 'eastward_wind' beside the precipitation"):
        coarse_event.nowcast.downscale(model, factor=4, static=height)
    with pytest.raises(ValueError, match="static field 'surface_altitude' is NaN in 1 cells: fill them"):
        sea = height.where(height.y + height.x > 0) if "y" in height.coords else height.copy()
        sea[0, 0] = np.nan
        coarse_event.assign(u=wind).nowcast.downscale(model, factor=4, static=sea)


def test_what_the_weights_were_not_made_for_is_refused(event, path):
    coarse_event = event.nowcast.coarsen(4)
    for change, message in [
        ({"factor": 8}, "'stvd' was made for a factor of 4, not of 8"),
        ({"frames": 5}, "weights of 'stvd' fix the model's options: leave out frames"),
        ({"static": event.rainfall_rate[0]}, "reads no static fields"),
    ]:
        with pytest.raises(ValueError, match=message):
            coarse_event.nowcast.downscale(path, **({"factor": 4} | change))
    with pytest.raises(ValueError, match="looks at 3 frames at once; there are 2"):
        coarse_event.isel(time=slice(2)).nowcast.downscale(path, factor=4)
    with pytest.raises(ValueError, match=r"along 'time' steps differ \(5, 10 min\)"):
        coarse_event.isel(time=[0, 1, 3, 4]).nowcast.downscale(path, factor=4)


@pytest.mark.usefixtures("nothing_ships")
def test_it_needs_weights(event):
    with pytest.raises(ValueError, match="'stvd' needs weights"):
        event.nowcast.coarsen(4).nowcast.downscale("stvd", factor=4)


def test_a_negative_rain_rate_is_refused(event, path):
    wrong = event.nowcast.coarsen(4)
    with pytest.raises(ValueError, match=r"negative|below 0"):
        wrong.assign(rainfall_rate=(wrong.rainfall_rate - 5).assign_attrs(wrong.rainfall_rate.attrs)).nowcast.downscale(
            path, factor=4, members=1
        )


# ---------------------------------------------------------------- it learns


def test_the_trainer_trains_it_and_the_result_refines():
    pytest.importorskip("lightning", reason="needs the extra train")
    radar = xnowcast.datasets.synthetic_radar(
        frames=14, shape=(32, 32), seed=1, coverage=False, wet_fraction=0.6
    ).load()
    model = xnowcast.train(
        "stvd",
        radar,
        size="tiny",
        factor=4,
        frames=3,
        sampling_steps=2,
        steps=3,
        crop=16,
        batch_size=1,
        ema=0.9,
        clip=1.0,
        validation_crops=1,
        progress=False,
    )
    fine = radar.nowcast.coarsen(4).isel(time=slice(4)).nowcast.downscale(model, factor=4, members=2)
    assert fine.rainfall_rate.shape == (2, 4, 32, 32) and np.isfinite(fine.rainfall_rate).all()
    assert model.task.spacing == 1000  # of the data that it was trained on, the fine ones
    with pytest.raises(ValueError, match="was made for a step of 5 min, and the data have 10 min"):
        radar.isel(time=slice(0, 8, 2)).nowcast.coarsen(4).nowcast.downscale(model, factor=4)
    with pytest.raises(ValueError, match="was made for a grid of 4 km, and the data have 1 x 1 km"):
        radar.nowcast.downscale(model, factor=4)


def showers(seed):
    radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(96, 96), seed=seed, coverage=False, wet_fraction=0.4)
    return torch.from_numpy(radar.rainfall_rate.values.astype("f4"))[:, None]


@pytest.fixture(scope="module")
def learnt():
    """A model after 50 steps, with what it makes of sequences that it never saw."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = STVD(
        size="tiny", factor=4, frames=3, diffusion_steps=100, sampling_steps=10, aux_mse_weight=1, eps=0.01, highest=128
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, betas=(0.9, 0.99))
    events, random, losses = [showers(seed) for seed in range(3)], np.random.default_rng(0), []
    steps = 50
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / steps))
        places = [(random.integers(3), *random.integers(0, (4, 65, 65))) for _ in range(2)]
        rain = torch.stack([events[e][t : t + 3, :, y : y + 32, x : x + 32] for e, t, y, x in places])
        loss = model.loss(TrainingBatch(rain, torch.ones_like(rain, dtype=torch.bool)), progress=step / steps)
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.parts["diffusion"].detach()))
    model.eval()
    truth = torch.stack(
        [showers(10)[t : t + 3, :, y : y + 32, x : x + 32] for t in (0, 3) for y, x in ((0, 0), (32, 64))]
    )
    seen = torch.ones_like(truth, dtype=torch.bool)
    means, known = coarsened(truth, seen, 4)
    frames = model.transform(means)
    sources = [member_generator(0, t, m, s) for s in range(len(truth)) for m in range(4) for t in range(3)]
    return {
        "losses": losses,
        "truth": truth,
        "coarse": means,
        "members": model.transform.inverse(model.downscale(frames, known, 4, noise=Noise(sources))).unflatten(
            0, (-1, 4)
        ),
        "estimate": model.transform.inverse(model.downscale(frames, known, 4)),
        "bicubic": F.interpolate(means.flatten(0, 1), scale_factor=4, mode="bicubic").clamp_min(0).view_as(truth),
        "scale": model.transform,
    }


def power_of_small_scales(log_rain):
    power = torch.fft.rfft2(log_rain).abs().square().flatten(0, -3).mean(0)
    wave_numbers = torch.fft.fftfreq(32)[:, None] ** 2 + torch.fft.rfftfreq(32) ** 2
    return float(power[wave_numbers > 0.2**2].mean())


def test_the_error_of_the_velocity_falls_well_below_its_variance(learnt):
    assert np.mean(learnt["losses"][-20:]) < 0.3 < np.mean(learnt["losses"][:10])


def test_members_have_more_of_the_small_scales_than_interpolation(learnt):
    scale = learnt["scale"]
    truth, member, bicubic, estimate = (
        power_of_small_scales(scale(rain))
        for rain in (learnt["truth"], learnt["members"][:, 0], learnt["bicubic"], learnt["estimate"])
    )
    assert member > max(bicubic, estimate)
    assert abs(math.log(member / truth)) < abs(math.log(bicubic / truth))


def test_members_keep_the_coarse_rain_nearly(learnt):
    members, means = learnt["members"], learnt["coarse"]
    again, _ = coarsened(members[:, 0], torch.ones_like(learnt["truth"], dtype=torch.bool), 4)
    assert float(torch.corrcoef(torch.stack([again.flatten(), means.flatten()]))[0, 1]) > 0.75
    assert 0.5 < float(members.mean() / means.mean()) < 2  # after so few steps the mean hangs on a few peaks


def test_with_its_own_loss_the_estimate_beats_interpolation(learnt):
    scale = learnt["scale"]
    error = {
        name: float((scale(learnt[name]) - scale(learnt["truth"])).square().mean()) for name in ("estimate", "bicubic")
    }
    assert error["estimate"] < error["bicubic"]


def test_members_spread_where_it_rains(learnt):
    spread, wet = learnt["members"].std(1), learnt["truth"] > 0.5
    assert float(spread[~wet].mean()) > 0 and float(spread[wet].mean()) > 5 * float(spread[~wet].mean())
    crps = (learnt["members"] - learnt["truth"][:, None]).abs().mean()
    pairs = (learnt["members"][:, :, None] - learnt["members"][:, None]).abs().sum() / learnt["truth"].numel() / (4 * 3)
    assert float(crps - pairs / 2) < 1.1 * float((learnt["estimate"] - learnt["truth"]).abs().mean())
