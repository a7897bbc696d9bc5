"""STLDM with flow matching: what it learns and follows by hand; members, tiles, layer and files are as ever."""

import pytest
import torch
from rounding import assert_close

import xnowcast
from xnowcast import models
from xnowcast.models import weights
from xnowcast.models.base import TrainingBatch
from xnowcast.models.stldm import STLDM
from xnowcast.nn.noise import Noise, member_generator

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(**options):
    torch.manual_seed(0)
    return STLDM(**({"size": "tiny", "objective": "flow", "sampling_steps": 3} | options)).eval()


def noise(members):
    return Noise([member_generator(0, 0, member) for member in members])


def past(b=1, shape=(32, 32)):
    frames = torch.rand(b, 4, 1, *shape, generator=torch.Generator().manual_seed(1))
    return frames, frames >= 0


def batch():
    rain = 20 * torch.rand(2, 8, 1, 32, 32, generator=torch.Generator().manual_seed(2)) ** 4
    return TrainingBatch(rain, rain >= 0)


@torch.inference_mode()
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_a_forecast_follows_the_velocity_from_noise_with_eulers_method(guidance):
    """Times reach the network on the scale of the 50 steps of a diffusion: 49 is noise, and t = 1 would be -1."""
    model, (frames, observed) = tiny(guidance=guidance), past()
    condition, _ = model.translator(model.autoencoder.encode(frames[0])[0][None])
    given = model.denoiser.project(condition)
    latent = noise([2]).normal(4, 16, 8, 8)
    for step in (49.0, 49 - 50 / 3, 49 - 100 / 3):
        when = torch.tensor([step])
        velocity = model.denoiser(latent, when, given)
        velocity = velocity + guidance * (velocity - model.denoiser(latent, when, None))
        latent = latent + velocity / 3
    expected = model.autoencoder.decode(latent[0])[None]
    assert_close(model.forecast(frames, observed, 4, noise([2])), expected)


@torch.no_grad()
@pytest.mark.parametrize("weight", [None, "one", "abar"])
def test_the_loss_is_the_error_of_the_velocity_at_times_between(weight):
    model = tiny(strategy="A", condition_dropout=0.0, diffusion_weight=weight)
    given = batch()
    torch.manual_seed(5)
    found = model.loss(given, progress=0.0)
    torch.manual_seed(5)
    mean, log_variance = model._encode(model.transform(given.rain))
    drawn = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    condition, _ = model.translator(drawn[:, :4])
    share = torch.rand(2).view(2, 1, 1, 1, 1)  # of noise
    eps, data = torch.randn_like(mean[:, 4:]), mean[:, 4:]
    seen = (1 - share) * data + share * eps
    said = model.denoiser(seen, 50 * share.flatten() - 1, model.denoiser.project(condition))
    error = (said - (data - eps)).square() * ((1 - share) ** 2 if weight == "abar" else 1)
    assert set(found.parts) == {"diffusion"}
    assert_close(found.parts["diffusion"], error.mean())
    assert_close(found.total, error.mean())


@torch.no_grad()
def test_noise_is_all_that_the_beginning_has():
    parts = tiny(strategy="C").loss(batch(), progress=0.0).parts
    assert float(parts["prior"]) == 0 and float(parts["diffusion"]) > 0


@pytest.mark.parametrize("options", [{}, {"sampler": "heun"}, {"residual": True}, {"precision": "bfloat16"}])
def test_a_member_is_the_same_alone_and_in_any_batch(options):
    model, (frames, observed) = tiny(**options), past(2)
    together = model.forecast(frames, observed, 4, noise([0, 1, 2, 2, 1, 0]))
    assert_close(model.forecast(frames[1:], observed[1:], 4, noise([2])), together[3:4])
    assert_close(model.forecast(frames[:1], observed[:1], 4, noise([2, 0])), together[[2, 0]])
    assert (together[0] - together[1]).abs().mean() > 1e-4


def test_a_large_grid_is_followed_in_tiles_with_one_noise_field():
    frames, observed = past(shape=(64, 96))
    model, seen = tiny(tile=32), []
    model.denoiser.register_forward_hook(lambda module, args, out: seen.append(tuple(args[0].shape[-2:])))
    forecast = model.forecast(frames, observed, 4, noise([0, 1]))
    assert set(seen) == {(8, 8)} and forecast.shape == (2, 4, 1, 64, 96) and torch.isfinite(forecast).all()
    assert_close(model.forecast(frames, observed, 4, noise([1])), forecast[1:])


def test_heun_calls_the_network_twice_but_at_the_end_and_any_number_of_steps_will_do():
    model, (frames, observed), calls = tiny(guidance=0.0, sampler="heun"), past(), []
    model.denoiser.register_forward_hook(lambda module, args, out: calls.append(float(args[1])))
    model.forecast(frames, observed, 1, noise([0]))
    assert calls == pytest.approx([49, *[49 - 50 / 3] * 2, *[49 - 100 / 3] * 2])
    model.sampler, model.sampling_steps = "ddim", 70  # more than the steps that its time counts as
    calls.clear()
    model.forecast(frames, observed, 1, noise([0]))
    assert len(calls) == 70


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "score"}, "objective is 'score': choose one of 'diffusion', 'flow'"),
        ({"objective": "flow", "sampler": "ddpm"}, "with the objective 'flow' choose 'ddim' or 'heun'"),
        ({"objective": "flow", "sampler": "dpm++2m"}, "with the objective 'flow' choose 'ddim' or 'heun'"),
    ],
)
def test_options_that_will_not_do_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.declare("stldm", **options)


def test_it_learns():
    """One batch by heart: the velocity of many draws has less error than before."""
    model = tiny(strategy="B", condition_dropout=0.0).train()
    given = batch()
    descent = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)

    def error():
        with torch.no_grad():
            torch.manual_seed(1)
            return sum(float(model.loss(given, progress=0.0).parts["diffusion"]) for _ in range(4))

    before = error()
    for step in range(20):
        torch.manual_seed(100 + step)
        descent.zero_grad()
        model.loss(given, progress=0.0).total.backward()
        descent.step()
    assert error() < 0.8 * before


@pytest.mark.parametrize("objective", ["diffusion", "flow"])
def test_a_flow_begins_from_weights_without_a_denoiser_that_learnt_something_else(objective):
    """A velocity of the other sign would load without a word."""
    begun, model = tiny(objective=objective), tiny()
    for parameter in begun.parameters():
        torch.nn.init.normal_(parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.begin_from(begun)
    for name, tensor in model.state_dict().items():
        kept = name.startswith("denoiser.") and objective == "diffusion"
        assert torch.equal(tensor, (before if kept else begun.state_dict())[name]), name


def test_in_the_layer_it_is_trained_saved_and_forecasts_the_same_once_loaded(tmp_path):
    radar = xnowcast.datasets.synthetic_radar(frames=12, shape=(48, 48), coverage=False)
    common = {"crop": 32, "batch_size": 1, "validation": 0, "pictures_every": 0, "progress": False, "size": "tiny"}
    model = xnowcast.train(
        "lagrangian",
        radar,
        out=tmp_path,
        steps=2,
        model_options={"network": "stldm", "objective": "flow", "strategy": "C", "residual": True, "sampling_steps": 2},
        **common,
    )
    assert model.network.objective.parameterization == "flow"
    loaded = weights.load(tmp_path)
    assert loaded.network.options == model.network.options
    forecasts = [radar.nowcast.forecast(one, members=2, steps=1, seed=1) for one in (model, loaded)]
    assert forecasts[0].rainfall_rate.equals(forecasts[1].rainfall_rate)
    alone = radar.nowcast.forecast(loaded, members=1, steps=1, seed=1)
    assert_close(alone.rainfall_rate.values, forecasts[1].rainfall_rate.values[:, :1], equal_nan=True)
