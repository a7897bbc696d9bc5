"""STLDM: the network of the paper, its members, its loss, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import reference_stldm as reference
import torch
from rounding import assert_close

import xnowcast
from xnowcast import engine, models
from xnowcast.models import weights
from xnowcast.models.base import ForecastModel, TrainableModel, TrainingBatch
from xnowcast.models.stldm import STLDM, STRATEGIES
from xnowcast.models.stldm import model as module
from xnowcast.models.stldm.autoencoder import Autoencoder
from xnowcast.models.stldm.denoiser import Denoiser
from xnowcast.models.stldm.translator import Translator
from xnowcast.nn.latent import coarse, gaussian_divergence
from xnowcast.nn.noise import Noise, member_generator

TINY_UNET = {"latent": 16, "base": 32, "multipliers": (1, 2), "heads": 4, "head_width": 16, "patch": 4}

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(**options):
    torch.manual_seed(0)
    return STLDM(**({"size": "tiny", "sampling_steps": 3} | options)).eval()


def noise(members, seed=0):
    return Noise([member_generator(seed, 0, member) for member in members])


def past(b=1, frames=4, size=32):
    values = torch.rand(b, frames, 1, size, size, generator=torch.Generator().manual_seed(1))
    return values, torch.ones_like(values, dtype=torch.bool)


def count(network):
    return sum(p.numel() for p in network.parameters())


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize(
    ("inputs", "outputs", "total", "translator"),
    [(13, 12, 83_843_105, 41_468_768), (5, 20, 80_980_769, 38_606_432)],
)
def test_parameters_are_those_of_the_published_network(inputs, outputs, total, translator):
    with torch.device("meta"):
        model = STLDM(input_frames=inputs, target_frames=outputs)
    unused = 2_097_664  # a convolution of the published code whose output nothing reads
    assert count(model) == total - unused
    assert count(model.autoencoder) == 93_345 == 46_816 + 46_529
    assert count(model.translator) == translator
    assert count(model.denoiser) == 42_280_992 - unused == 40_183_328


def test_parameters_of_each_part_are_those_of_the_published_network():
    with torch.device("meta"):
        model = STLDM()
        frame_wise = STLDM(frame_wise=True)
    unet = model.denoiser
    assert [count(level) for level in unet.down] == [130_752, 423_296, 1_493_760, 4_658_688]
    assert [count(level) for level in unet.up] == [12_134_144, 3_724_160, 1_046_976, 319_712]
    assert count(unet.middle) == 15_480_832 and count(unet.time) == 82_432
    assert [count(level) for level in unet.pyramid] == [32_832, 131_200, 524_544]
    blocks = [count(block) for block in model.translator.blocks]
    assert blocks == [622_432, *[5_332_480] * 6, 5_989_120]
    assert count(frame_wise.denoiser) == 41_277_664 - 2_097_664


def test_the_tiny_network_has_the_sizes_that_were_measured():
    assert count(tiny()) == 1_116_641 - 32_832  # less the unused convolution


@torch.inference_mode()
@pytest.mark.parametrize(
    "sizes", [TINY_UNET, TINY_UNET | {"base": 8, "multipliers": (1, 2, 4, 8), "patch": 8}], ids=["two", "four levels"]
)
def test_the_denoiser_is_the_plain_reading(sizes):
    unet = Denoiser(**sizes).eval()
    plain = reference.copy_weights(reference.Denoiser(**sizes), unet)
    z, condition = torch.randn(2, 2, 3, 16, 16, 24)
    steps = torch.tensor([7, 41])
    expected = plain(z, steps, condition)
    assert_close(unet(z, steps, unet.project(condition)), expected)
    assert_close(unet(z, steps, None), plain(z, steps, None))
    one_step = unet(z[:1], steps[:1], unet.project(condition[:1]))  # a sampler has one step for all samples
    assert_close(one_step, expected[:1])


@torch.inference_mode()
def test_the_autoencoder_and_the_translator_are_the_plain_reading():
    networks = Autoencoder(width=16, layers=4).eval(), Translator(3, 5, latent=16, width=24, blocks=3).eval()
    for norm in (m for m in networks[1].modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_()
    plain = reference.Autoencoder(16, 4), reference.Translator(3, 5, 16, 24, 3)
    for own, theirs in zip(networks, plain, strict=True):
        reference.copy_weights(theirs, own)
    frames, latent = torch.rand(2, 1, 32, 48), torch.randn(2, 3, 16, 8, 12)
    assert_close(networks[0].encode(frames), plain[0].encode(frames))
    assert_close(networks[0].decode(latent[0]), plain[0].decode(latent[0]))
    assert_close(networks[1](latent), plain[1](latent))


@torch.inference_mode()
def test_a_forecast_is_the_plain_reading_of_the_paper():
    model = tiny(sampling_steps=20)
    frames, observed = past()
    plain = reference.copy_weights(reference.Denoiser(**TINY_UNET), model.denoiser)
    z = model.autoencoder.encode(frames[0])[0][None]
    condition, _ = model.translator(z)
    latent = reference.sample(plain, noise([2]).normal(4, 16, 8, 8), condition)
    expected = model.autoencoder.decode(latent[0])[None]
    assert_close(model.forecast(frames, observed, 4, noise([2])), expected)


@torch.inference_mode()
def test_without_a_condition_nothing_is_added_which_zeros_would_not_give():
    unet = Denoiser(**TINY_UNET).eval()
    z, step = torch.randn(1, 3, 16, 8, 8), torch.tensor([5])
    assert not torch.allclose(unet(z, step, unet.project(torch.zeros_like(z))), unet(z, step, None), atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("temporal", [True, False])
def test_frames_see_each_other_unless_they_are_enhanced_one_by_one(temporal):
    unet = Denoiser(**TINY_UNET, temporal=temporal).eval()
    z, condition, step = *torch.randn(2, 1, 3, 16, 8, 8), torch.tensor([5])
    other = condition.clone()
    other[0, 1] += torch.randn(16, 8, 8)
    apart = (unet(z, step, unet.project(other)) - unet(z, step, unet.project(condition))).abs().amax((0, 2, 3, 4))
    assert apart[1] > 1e-3
    if temporal:
        assert (apart[[0, 2]] > 0).all()
    else:
        assert (apart[[0, 2]] == 0).all()


@torch.inference_mode()
@pytest.mark.parametrize("norm_over", ["channels", "time"])
def test_the_order_of_frames_is_in_the_condition_alone(norm_over):
    unet = Denoiser(**TINY_UNET, norm_over=norm_over).eval()
    z, condition, step = *torch.randn(2, 2, 5, 16, 8, 8), torch.tensor([5])
    order = torch.randperm(5)
    shuffled = unet(z[:, order], step, unet.project(condition[:, order]))
    assert_close(shuffled, unet(z, step, unet.project(condition))[:, order])


@torch.inference_mode()
def test_the_norm_over_time_has_the_same_parameters_and_another_answer():
    own, other = Denoiser(**TINY_UNET).eval(), Denoiser(**TINY_UNET, norm_over="time").eval()
    other.load_state_dict(own.state_dict())
    z, step = torch.randn(1, 3, 16, 8, 8), torch.tensor([5])
    assert not torch.allclose(own(z, step, None), other(z, step, None), atol=1e-3)


@torch.inference_mode()
def test_decoding_a_few_frames_at_a_time_changes_nothing(monkeypatch):
    autoencoder = Autoencoder(width=8, layers=4).eval()
    latent = torch.randn(5, 8, 4, 6)
    whole = autoencoder.decode(latent)
    monkeypatch.setattr("xnowcast.models.stldm.autoencoder.CELLS_AT_ONCE", 2 * 16 * 24)
    torch.testing.assert_close(autoencoder.decode(latent), whole)


# ---------------------------------------------------------------- the task


def test_the_task_is_declared_without_building_the_network():
    task = models.declare("stldm")
    assert (task.input_frames, task.max_steps, task.grid_multiple) == (5, 20, 64)
    assert task.stochastic and task.trained and task.quantity == "rain_rate"
    sevir = models.declare("stldm", input_frames=13, target_frames=12)
    assert (sevir.input_frames, sevir.max_steps) == (13, 12)
    assert not models.declare("stldm", return_first_estimate=True).stochastic
    model = models.build("stldm", size="tiny")
    assert isinstance(model, ForecastModel) and isinstance(model, TrainableModel)
    assert model.task == models.declare("stldm", size="tiny") and model.training_frames == 8


def test_all_options_are_declared_with_the_same_defaults():
    from inspect import signature

    declared, built = signature(STLDM.declare).parameters, signature(STLDM).parameters
    assert {name: p.default for name, p in declared.items()} == {name: p.default for name, p in built.items()}
    assert set(STLDM.RUNTIME_OPTIONS) < set(declared)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": -1.0}, "guidance is -1.0"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": "strong"}, "guidance is 'strong'; it must be a finite number"),
        ({"guidance": None}, "guidance is None"),
        ({"sampling_steps": 0}, "sampling_steps is 0"),
        ({"sampling_steps": 51}, "the training had 50"),
        ({"sampling_steps": 2.5}, "sampling_steps is 2.5; it must be a whole number"),
        ({"sampling_steps": "20"}, "sampling_steps is '20'"),
        ({"sampler": ["ddim"]}, "sampler is \\['ddim'\\]"),
        ({"sampled_condition": "no"}, "sampled_condition is 'no'; it must be True or False"),
        ({"return_first_estimate": "yes"}, "return_first_estimate is 'yes'"),
        ({"sampler": "euler"}, "'ddpm', 'ddim', 'dpm\\+\\+2m', 'heun'"),
        ({"size": "huge"}, "'full', 'small', 'tiny'"),
        ({"strategy": "D"}, "strategy is 'D'"),
        ({"diffusion_weight": "snr"}, "diffusion_weight is 'snr'"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"temporal_norm": "space"}, "temporal_norm is 'space'"),
        ({"scaling": "log"}, "scaling is 'log'"),
        ({"input_frames": 0}, "input_frames is 0"),
        ({"input_frames": 4.0}, "input_frames is 4.0"),
        ({"target_frames": -1}, "target_frames is -1"),
        ({"diffusion_steps": 0}, "diffusion_steps is 0"),
        ({"condition_dropout": 1.5}, "share between 0 and 1"),
        ({"condition_dropout": "often"}, "condition_dropout is 'often'"),
        ({"condition_kl": -1.0}, "weight of 0 or more"),
        ({"condition_kl": float("nan")}, "condition_kl is nan"),
        ({"tile": 100}, "multiple of 64"),
        ({"tile": 64}, "at least 128"),
        ({"tile": 256.0}, "tile is 256.0"),
        ({"tile": "auto"}, "tile is 'auto'"),
    ],
)
def test_an_option_out_of_range_is_refused_before_anything_is_built(options, message):
    for make in (models.declare, models.build):
        with pytest.raises(ValueError, match=message):
            make("stldm", **options)


def test_a_forecast_that_the_network_cannot_make_is_refused():
    model, (frames, observed) = tiny(), past()
    for wrong, message in [
        ((frames[:, 1:], observed[:, 1:], 4, noise([0])), "3 frames; this model reads 4"),
        ((frames, observed, 5, noise([0])), "1 to 4"),
        ((frames, observed, 4, None), "no noise sources for 1 forecasts"),
        ((frames[..., :-1], observed[..., :-1], 4, noise([0])), "multiples of 16"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.forecast(*wrong)
    with pytest.raises(ValueError, match="3 noise sources for 2 forecasts"):
        model.forecast(*past(2), 4, noise([0, 1, 2]))


# ---------------------------------------------------------------- members


def test_members_differ_are_repeatable_and_lie_between_0_and_1():
    model, (frames, observed) = tiny(), past(2)
    forecast = model.forecast(frames, observed, 3, noise([0, 1, 0, 1]))
    assert forecast.shape == (4, 3, 1, 32, 32)
    assert forecast.min() >= 0 and forecast.max() <= 1
    torch.testing.assert_close(model.forecast(frames, observed, 3, noise([0, 1, 0, 1])), forecast, rtol=0, atol=0)
    assert (forecast[0] - forecast[1]).abs().mean() > 1e-4
    assert not torch.allclose(forecast, model.forecast(frames, observed, 3, noise([0, 1, 0, 1], seed=1)))


@pytest.mark.parametrize("options", [{}, {"sampler": "ddpm"}, {"sampled_condition": True}, {"precision": "bfloat16"}])
def test_a_member_is_the_same_alone_and_in_any_batch(options):
    model, (frames, observed) = tiny(**options), past(2)
    together = model.forecast(frames, observed, 4, noise([0, 1, 2, 0, 1, 2]))
    alone = model.forecast(frames[1:], observed[1:], 4, noise([2]))
    assert_close(alone, together[5:])


def test_how_many_samples_are_denoised_at_once_changes_nothing(monkeypatch):
    model = tiny()
    condition = torch.randn(2, 4, 16, 8, 8)
    x = torch.randn(6, 4, 16, 8, 8)
    with torch.inference_mode():
        one_by_one = model._denoise(condition, 6)(x, 20)
        monkeypatch.setattr(module, "_samples_at_once", lambda condition: 4)
        assert_close(model._denoise(condition, 6)(x, 20), one_by_one)


def test_the_condition_is_computed_once_for_all_members_and_steps():
    model, (frames, observed) = tiny(), past()
    calls = []
    model.translator.register_forward_hook(lambda *a: calls.append("translator"))
    model.denoiser.pyramid[0].register_forward_hook(lambda *a: calls.append("pyramid"))
    model.forecast(frames, observed, 4, noise(range(5)))
    assert calls == ["translator", "pyramid"]


def test_a_drawn_condition_is_one_of_each_member():
    (frames, observed), calls = past(), []
    model = tiny(sampled_condition=True)
    model.translator.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    first = tiny(sampled_condition=True, return_first_estimate=True).forecast(frames, observed, 4, noise([0, 1]))
    model.forecast(frames, observed, 4, noise([0, 1]))
    assert calls == [2] and not torch.allclose(first[0], first[1])


def test_the_first_estimate_is_the_decoded_condition_and_needs_no_noise():
    model, (frames, observed) = tiny(return_first_estimate=True), past(2)
    estimate = model.forecast(frames, observed, 3)
    with torch.inference_mode():
        latent = model.autoencoder.encode(frames.flatten(0, 1))[0].unflatten(0, (2, 4))
        expected = model.autoencoder.decode(model.translator(latent)[0].flatten(0, 1)).unflatten(0, (2, 4))
    torch.testing.assert_close(estimate, expected[:, :3])


def test_without_guidance_there_is_one_pass_and_with_it_two():
    (frames, observed), passes = past(), {}
    forecasts = {}
    for guidance in (0.0, 1.0):
        model, calls = tiny(guidance=guidance), []
        model.denoiser.register_forward_hook(lambda module, args, out, calls=calls: calls.append(args[2] is None))
        forecasts[guidance] = model.forecast(frames, observed, 4, noise([0]))
        passes[guidance] = calls
    assert passes == {0.0: [False] * 3, 1.0: [False, True] * 3}
    assert not torch.allclose(forecasts[0.0], forecasts[1.0], atol=1e-5)


@pytest.mark.parametrize("options", [{"sampler": "heun"}, {"sampler": "dpm++2m"}, {"frame_wise": True}])
def test_other_samplers_and_ablations_forecast_too(options):
    model, (frames, observed) = tiny(**options), past()
    forecast = model.forecast(frames, observed, 4, noise([0]))
    assert forecast.shape == (1, 4, 1, 32, 32) and torch.isfinite(forecast).all()
    assert not torch.allclose(forecast, tiny().forecast(frames, observed, 4, noise([0])), atol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs", "shape"), [(2, 7, (16, 48)), (7, 3, (64, 32))])
def test_any_frames_in_and_out_on_any_grid(inputs, outputs, shape):
    model = tiny(input_frames=inputs, target_frames=outputs)
    frames = torch.rand(1, inputs, 1, *shape)
    assert model.forecast(frames, frames >= 0, outputs, noise([0])).shape == (1, outputs, 1, *shape)


def test_half_precision_is_close_and_leaves_the_weights_alone():
    frames, observed = past()
    model = tiny(precision="bfloat16")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    half = model.forecast(frames, observed, 4, noise([0]))
    whole = tiny().forecast(frames, observed, 4, noise([0]))
    assert half.dtype == torch.float32 and 0 < float((half - whole).abs().max()) < 0.02
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name])


def test_a_large_grid_is_denoised_in_tiles_with_one_noise_field():
    frames = torch.rand(1, 4, 1, 64, 96)
    model, seen = tiny(tile=32), []
    model.denoiser.register_forward_hook(lambda module, args, out: seen.append(tuple(args[0].shape[-2:])))
    forecast = model.forecast(frames, frames >= 0, 4, noise([0, 1]))
    assert set(seen) == {(8, 8)} and forecast.shape == (2, 4, 1, 64, 96) and torch.isfinite(forecast).all()
    alone = model.forecast(frames, frames >= 0, 4, noise([1]))
    assert_close(alone, forecast[1:])
    whole = [tiny(tile=tile).forecast(frames, frames >= 0, 4, noise([0])) for tile in (96, None)]
    torch.testing.assert_close(*whole, rtol=0, atol=0)


@torch.inference_mode()
def test_the_first_estimate_of_a_large_grid_is_made_in_tiles_too():
    """The translator sees further than the grids of a training: cells far from every edge would be new to it."""
    frames = torch.rand(1, 4, 1, 64, 96)
    model, seen = tiny(tile=32, return_first_estimate=True), []
    latent, _ = model._encode(frames)
    of_tile, _ = model.translator(latent[..., :8, :8])
    of_grid, _ = model.translator(latent)
    model.translator.register_forward_hook(lambda module, args, out: seen.append(tuple(args[0].shape[-2:])))
    estimate = model.forecast(frames, frames >= 0, 4)
    assert set(seen) == {(8, 8)} and estimate.shape == (1, 4, 1, 64, 96) and torch.isfinite(estimate).all()
    in_tiles, _ = model._translate(latent)
    torch.testing.assert_close(in_tiles[..., :4, :4], of_tile[..., :4, :4])  # cells that are in no other tile
    assert not torch.allclose(in_tiles, of_grid, atol=1e-3)
    torch.testing.assert_close(tiny(tile=96)._translate(latent)[0], of_grid)


def test_tiles_are_those_of_the_training_unless_others_are_asked_for(tmp_path):
    path = tmp_path / "stldm.safetensors"
    model = tiny()
    assert model.tile == 512  # an untrained network knows of none
    weights.save(path, model, system="stldm", options={"size": "tiny"})
    assert weights.load(path).tile == 512  # weights from before crops were told
    model.task = replace(model.task, crop=48)
    assert model.tile == 48
    weights.save(path, model, system="stldm", options={"size": "tiny"})
    assert weights.load(path).tile == 48 and weights.load(path, tile=64).tile == 64
    model.task = replace(model.task, crop=16)
    assert model.tile == 32  # a tile and its overlap take two multiples of the grid


def test_a_forecast_uses_the_tiles_of_the_training(tmp_path):
    model, path = tiny(), str(tmp_path / "stldm.safetensors")
    model.task = replace(model.task, crop=48)
    weights.save(path, model, system="stldm", options={"size": "tiny"})
    radar = xnowcast.datasets.synthetic_radar(frames=4, shape=(48, 96), coverage=False)
    own, same, whole = (
        radar.nowcast.forecast("stldm", weights=path, steps=1, return_first_estimate=True, **options)
        for options in ({}, {"tile": 48}, {"tile": 96})
    )
    assert own.equals(same) and not own.equals(whole)


# ---------------------------------------------------------------- loss


def training_batch(seed=0, b=2, size=32, frames=8):
    rain = blobs(b, frames, size, seed)
    return TrainingBatch(rain, torch.ones_like(rain, dtype=torch.bool))


def blobs(b, frames, size, seed, speed=2.0):
    """Showers that move straight over a torus, 20 mm/h at the most."""
    generator = torch.Generator().manual_seed(seed)
    start = size * torch.rand(b, 1, 2, generator=generator)
    angle = 2 * torch.pi * torch.rand(b, 1, generator=generator)
    centre = start + speed * torch.arange(frames)[:, None] * torch.stack([angle.sin(), angle.cos()], dim=-1)
    apart = (torch.arange(size) - centre[..., None] + size / 2) % size - size / 2  # (b, t, yx, cell)
    shape = torch.exp(-apart.square() / 18)
    return 20 * shape[:, :, None, 0, :, None] * shape[:, :, None, 1, None, :]


def test_the_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(2, 50)
    own = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    expected = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_divergence(mean, log_variance), expected)


def test_losses_at_the_start_are_about_those_of_the_published_code():
    torch.manual_seed(0)
    model = STLDM(size="tiny", condition_dropout=0.0).train()
    rain = model.transform.inverse(torch.rand(8, 8, 1, 32, 32))  # uniform noise to the network
    with torch.no_grad():
        parts = model.loss(TrainingBatch(rain, rain >= 0), progress=0.0).parts
    assert float(parts["reconstruction"]) == pytest.approx(0.095, abs=0.03)
    assert float(parts["constraint"]) == pytest.approx(0.095, abs=0.03)
    assert 0.3 < float(parts["diffusion"]) < 3.0
    assert 0 <= float(parts["prior"]) < 1e-5


@torch.no_grad()
def test_the_total_is_the_weighted_sum():
    model = tiny(condition_kl=0.5)
    loss = model.loss(training_batch(), progress=0.0)
    weight = {"kl": 1e-6, "condition_kl": 0.5}
    expected = sum(weight.get(name, 1.0) * float(part) for name, part in loss.parts.items())
    assert set(loss.parts) == {"reconstruction", "kl", "constraint", "condition_kl", "diffusion", "prior"}
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)
    free = tiny(constraint_loss=False).loss(training_batch(), progress=0.0)
    without = sum(
        {"kl": 1e-6, "condition_kl": 0, "constraint": 0}.get(n, 1.0) * float(p) for n, p in free.parts.items()
    )
    assert float(free.total) == pytest.approx(without, rel=1e-5)


@torch.no_grad()
def test_the_error_of_a_step_is_weighted_by_its_abar_or_not_at_all():
    losses = {}
    for weight in ("abar", "one"):
        model = tiny(diffusion_weight=weight, diffusion_steps=1, sampling_steps=1, condition_dropout=0.0)
        torch.manual_seed(3)
        losses[weight] = float(model.loss(training_batch(), progress=0.0).parts["diffusion"])
    assert losses["abar"] == pytest.approx(float(model.schedule.abar[0]) * losses["one"], rel=1e-4)
    assert losses["abar"] < 0.99 * losses["one"]


def test_the_prior_by_hand():
    model = tiny()
    abar = 6.3252e-06
    latent = torch.full((1, 1, 1, 1, 1), 300.0)
    expected = 0.5 * (1 - abar + abar * 300**2 - 1 - np.log(1 - abar))
    assert float(model._prior_divergence(latent)) == pytest.approx(expected, rel=1e-3)


@torch.no_grad()
def test_what_was_not_measured_is_left_out():
    values = torch.tensor([1.0, 5.0, 3.0, 100.0]).reshape(1, 1, 1, 2, 2)
    seen = torch.tensor([True, True, True, False]).reshape(1, 1, 1, 2, 2)
    assert float(module._mean(values, seen)) == 3.0
    assert float(module._mean(values, torch.zeros_like(seen))) == 0.0
    fine = torch.zeros(1, 1, 1, 8, 8, dtype=torch.bool)
    fine[..., 1, 6] = True
    assert coarse(fine, 4).flatten().tolist() == [0.0, 1.0, 0.0, 0.0]
    batch = training_batch()
    nothing = tiny().loss(TrainingBatch(batch.rain, torch.zeros_like(batch.observed)), progress=0.0)
    assert float(nothing.total) == 0.0


def test_padding_of_a_training_grid_changes_no_mean_much():
    torch.manual_seed(0)
    rain = torch.zeros(2, 8, 1, 20, 27)
    loss = tiny().loss(TrainingBatch(rain, rain >= 0), progress=0.0)
    assert torch.isfinite(loss.total)
    with pytest.raises(ValueError, match="7 frames; training takes 8: 4 that are read and 4"):
        tiny().loss(TrainingBatch(rain[:, 1:], rain[:, 1:] >= 0), progress=0.0)


def gradients(model, part):
    """Which of the networks a term of the loss trains."""
    model.zero_grad()
    term = model.loss(training_batch(), progress=0.0).parts[part]
    if term.requires_grad:
        term.backward()
    networks = ("autoencoder", "translator", "denoiser")
    return {n for n in networks if any(p.grad is not None and p.grad.any() for p in getattr(model, n).parameters())}


def test_what_each_term_trains():
    model = tiny(condition_dropout=0.0).train()
    assert gradients(model, "reconstruction") == gradients(model, "prior") == {"autoencoder"}
    assert gradients(model, "constraint") == {"autoencoder", "translator"}
    assert gradients(model, "diffusion") == {"autoencoder", "translator", "denoiser"}
    # the target is detached: where the condition is dropped, the diffusion trains the denoiser alone
    assert gradients(tiny(condition_dropout=1.0), "diffusion") == {"denoiser"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_trains_its_networks_and_leaves_the_others_alone(strategy):
    model = tiny(strategy=strategy, condition_dropout=0.0).train()
    loss = model.loss(training_batch(), progress=0.0)
    loss.total.backward()
    for name in ("autoencoder", "translator", "denoiser"):
        network, trained = getattr(model, name), name in STRATEGIES[strategy]
        grown = any(p.grad is not None and p.grad.any() for p in network.parameters())
        assert grown == network.training == trained
    assert count(model) == count(tiny())


@torch.no_grad()
def test_the_loss_is_repeatable_from_the_global_seed():
    model, losses = tiny(), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(float(model.loss(training_batch(), progress=1.0).total))
    assert losses[0] == losses[1] != losses[2]


# ---------------------------------------------------------------- learning


def trained(steps, **options):
    torch.manual_seed(0)
    model = STLDM(size="tiny", sampling_steps=10, **options).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(steps):
        optimiser.zero_grad()
        model.loss(training_batch(step, b=4), progress=step / steps).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def learnt():
    torch.set_num_threads(1)
    return trained(70)


@torch.no_grad()
def validation(model):
    torch.manual_seed(0)
    batch = training_batch(10**6, b=16)
    frames = model.transform(batch.rain)
    persistence = float((frames[:, 4:] - frames[:, 3:4]).square().mean())
    return model.loss(batch, progress=1.0).parts, persistence


def test_it_learns_where_blobs_move(learnt):
    before, persistence = validation(tiny())
    after, _ = validation(learnt)
    assert float(after["constraint"]) < 0.8 * persistence
    assert float(after["reconstruction"]) < 0.2 * float(before["reconstruction"])
    assert float(after["diffusion"]) < 1.0


def test_without_the_constraint_the_first_estimate_is_worse(learnt):
    free = trained(35, constraint_loss=False)
    assert float(validation(free)[0]["constraint"]) > 1.5 * float(validation(learnt)[0]["constraint"])


def test_members_of_a_trained_model_spread_and_their_mean_is_a_forecast(learnt):
    batch = training_batch(10**6, b=4)
    frames = learnt.transform(batch.rain)
    members = learnt.forecast(frames[:, :4], batch.observed[:, :4], 4, noise([0, 1, 2] * 4)).unflatten(0, (4, 3))
    assert float(members.std(1).mean()) > 1e-3
    error = (members.mean(1) - frames[:, 4:]).square().mean()
    assert float(error) < float(frames[:, 4:].square().mean())  # better than no rain at all


def test_members_follow_their_own_past_and_guidance_holds_them_to_it(learnt):
    batch = training_batch(10**6, b=4)
    frames = learnt.transform(batch.rain)
    options, spread, own, others = learnt.options, [], [], []
    for guidance in (0.0, 1.0, 3.0):
        learnt.options = replace(options, guidance=guidance)
        members = learnt.forecast(frames[:, :4], batch.observed[:, :4], 4, noise([0, 1] * 4)).unflatten(0, (4, 2))
        spread.append(float(members.std(1).mean()))
        own.append(float((members.mean(1) - frames[:, 4:]).square().mean()))
        others.append(float((members.mean(1) - frames[:, 4:].roll(1, 0)).square().mean()))
    learnt.options = options
    assert all(a < 0.9 * b for a, b in zip(own, others, strict=True))
    assert spread[0] > spread[1] > spread[2] and own[0] > own[1] > own[2]


# ---------------------------------------------------------------- in the package


def test_weights_keep_the_network_and_free_the_sampler(tmp_path, radar, learnt):
    path = tmp_path / "blobs.safetensors"
    weights.save(path, learnt, system="stldm", options={"size": "tiny"})
    forecast = radar.nowcast.forecast("stldm", weights=str(path), members=2, steps=3, sampling_steps=2, guidance=0.0)
    assert dict(forecast.rain.sizes) == {"init_time": 1, "member": 2, "lead_time": 3, "y": 24, "x": 32}
    never = radar.rain.isel(time=slice(-4, None)).isnull().all("time")
    assert bool((forecast.rain.isnull() == never).all())
    first = radar.nowcast.forecast("stldm", weights=str(path), steps=3, return_first_estimate=True)
    assert "member" not in first.rain.dims
    with pytest.raises(ValueError, match="target_frames"):
        radar.nowcast.forecast("stldm", weights=str(path), target_frames=5)


def test_the_autoencoder_is_trained_first_and_kept_by_what_is_trained_over_it(tmp_path):
    radar = xnowcast.datasets.synthetic_radar(frames=12, shape=(48, 48), coverage=False)
    common = {"steps": 2, "crop": 32, "batch_size": 1, "validation": 0, "pictures_every": 0, "progress": False}
    common |= {"size": "tiny", "target_frames": 2}
    first = tmp_path / "autoencoder"
    xnowcast.train("stldm", radar, out=first, model_options={"strategy": "autoencoder"}, **common)
    model = xnowcast.train("stldm", radar, start=first, model_options={"strategy": "B"}, **common)
    before, after = weights.load(first).state_dict(), model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("autoencoder.")} <= same
    assert any(name.startswith("translator.") for name in before.keys() - same)
    with pytest.raises(ValueError, match=r"model_options={'strategy': 'autoencoder'}"):
        xnowcast.train("stldm", radar, strategy="autoencoder", **common)


def test_grids_that_the_network_does_not_divide_are_padded(learnt):
    rain = np.random.default_rng(0).gamma(0.5, 4.0, (1, 4, 19, 37)).astype("f4")
    answer = engine.predict(learnt, rain, 2, members=[0, 1], noise=lambda rows: noise([0, 1]))
    assert answer.shape == (2, 2, 19, 37) and np.isfinite(answer).all()


@pytest.mark.parametrize("has_instructions", [True, False])
def test_precision_is_chosen_for_the_processor(monkeypatch, has_instructions):
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: has_instructions, raising=False)
    model = models.build("stldm", size="tiny", precision="auto")
    assert model._sampling_network().dtype == (torch.bfloat16 if has_instructions else torch.float32)
