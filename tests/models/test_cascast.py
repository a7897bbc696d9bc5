"""CasCast: denoiser and sampler are the authors' own (tests/golden.py), and what is this package's around them."""

import re

import numpy as np
import pytest
import torch
from golden import _path, assert_equals, golden

import xnowcast
from xnowcast import models
from xnowcast.diffusion import CLEAN, as_denoiser, evenly_spaced_steps, guided
from xnowcast.models import families, published
from xnowcast.models.base import TrainingBatch
from xnowcast.models.cascast import SIZES, Size
from xnowcast.nn.casformer import CasFormer, _places
from xnowcast.nn.noise import Noise, member_generator

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(*members):
    return Noise([member_generator(3, 0, member) for member in members])


def tiny(**options):
    torch.manual_seed(0)
    return models.build("cascast", **({"size": "tiny", "sampling_steps": 3} | options)).eval()


def awake(model):
    """Its denoiser with last maps that say something, which begin at 0."""
    torch.manual_seed(4)
    for name, parameter in model.denoiser.named_parameters():
        if "modulation" in name or name.startswith("leave."):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def frames():
    torch.manual_seed(1)
    return torch.rand(2, 4, 1, 16, 24)


def exact(model):
    """Its latent frames hardly vary beside their mean, as those of an autoencoder that was trained."""
    moments = model.autoencoder.moments
    with torch.no_grad():
        moments.weight[4:], moments.bias[4:] = 0.0, -30.0
    return model


def batch(frames=8, size=16, **others):
    torch.manual_seed(2)
    rain = torch.randn(2, frames, 1, size, size).mul(2).exp()
    return TrainingBatch(rain, torch.ones_like(rain, dtype=torch.bool), **others)


# ---------------------------------------------------------------- the authors' numbers


@pytest.fixture
def theirs():
    found = golden("cascast_casformer", "golden_zoo")
    told = found.about["constructor"]["config"]
    network = CasFormer(
        frames=told["split_num"],
        latent=told["in_channels"] // 2,
        patch=told["patch_size"],
        frame_width=told["enc_hidden_size"],
        frame_heads=told["single_heads_num"],
        width=told["hidden_size"],
        heads=told["num_heads"],
        depths=(told["enc_depth"], told["latent_depth"]),
    )
    network.load_state_dict(published.casformer(network, found.of("weights")))
    return found, network


@torch.no_grad()
def test_the_denoiser_says_what_the_authors_says(theirs):
    found, network = theirs
    given = found.of("input")
    assert_equals(network(given["x_t"], given["step"], given["condition"]), found.tensors["output/noise_estimate"])
    assert_equals(_places(4, 4, torch.zeros(1, 16))[None], found.tensors["weights/model.pos_embed"])


@torch.no_grad()
def test_samples_are_those_of_the_authors(theirs):
    """With their guidance of 1.5, which is a weight of 0.5, from one noise."""
    found, network = theirs
    model = tiny(guidance=0.5)
    steps = evenly_spaced_steps(1000, 4, to_first=True)
    assert steps == [*found.tensors["output/sampler_steps"].tolist(), CLEAN]
    condition = found.tensors["input/condition"]

    def of(given):
        return as_denoiser(lambda x, step: network(x, torch.tensor([step]), given), model.schedule, "eps")

    denoise = guided(of(condition), of(None), model.guidance)
    sample = model._sampler(denoise, found.tensors["noise/x_T"], model.schedule, steps)
    assert_equals(sample, found.tensors["output/sample"])


def test_the_networks_have_as_many_parameters_as_those_of_the_paper():
    with torch.device("meta"):
        model = models.build("cascast")
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts["denoiser"] == 309_246_016 and counts["autoencoder"] == 83_649_253
    assert (model.task.input_frames, model.task.max_steps, model.task.grid_multiple) == (13, 12, 16)


def listed(title):
    """Names and shapes in a table of the facts."""
    text = _path("cascast_facts.txt", "golden_zoo").read_text()
    table = re.split(r"^---- ", text, flags=re.MULTILINE)
    (rows,) = (part.splitlines()[1:] for part in table if part.startswith(f"Key table of the {title} checkpoint"))
    cells = (row.split("\t") for row in rows if row)
    return {name: tuple(map(int, re.findall(r"\d+", shape))) for name, shape, *_ in cells}


@pytest.mark.parametrize(
    ("family", "title", "count"),
    [("cascast-autoencoder", "autoencoder", 248), ("cascast-casformer", "CasFormer", 257)],
)
def test_full_networks_take_all_published_tensors(family, title, count):
    record = families.find(family)
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in listed(title).items()}
        assert len(tensors) == count
        ((name, options),) = record.systems.items()
        model = models.conversion.filled(record, name, dict(options), tensors, "theirs.pt")
    assert model.options.published


def test_parts_of_published_weights_are_put_together_one_by_one(theirs, tmp_path, monkeypatch):
    """First the autoencoder, then the denoiser beside it; the card tells of both."""
    torch.manual_seed(0)
    coded = golden("cascast_autoencoder", "golden_zoo")
    form = Size((8, 16, 16, 24), 4, 2, 16, 2, 48, 4, (2, 2), 8, 4, 3)
    monkeypatch.setitem(SIZES, "tiny", form)
    monkeypatch.setattr(
        "xnowcast.models.cascast.LATENT", 3
    )  # the files are of different sizes: the first is not theirs
    drawn = {"size": "tiny", "first_stage": "persistence"}
    parts = {"autoencoder": theirs_of_three(coded), "casformer": theirs[0].of("weights")}
    out = None
    for part, tensors in parts.items():
        torch.save({name.removeprefix("net."): own.clone() for name, own in tensors.items()}, tmp_path / f"{part}.pt")
        start, out = out, tmp_path / f"{part}.safetensors"
        card = models.convert(f"cascast-{part}", tmp_path / f"{part}.pt", out, start=start, **drawn)
    assert "autoencoder.pt" in card.training_data and "casformer.pt" in card.training_data
    both = xnowcast.load(out)
    torch.testing.assert_close(both.denoiser.state_dict(), theirs[1].state_dict())
    first = xnowcast.load(tmp_path / "autoencoder.safetensors").autoencoder.state_dict()
    torch.testing.assert_close(both.autoencoder.state_dict(), first)
    assert float(both.latent_scale) == pytest.approx(0.6786)
    torch.testing.assert_close(both.autoencoder.encoder.enter.weight, coded.tensors["weights/encoder.conv_in.weight"])


def theirs_of_three(found):
    """Weights of the authors' autoencoder of four latent channels, cut to three."""
    last = {
        "encoder.conv_out": (6, None),
        "quant_conv": (6, 6),
        "post_quant_conv": (3, 3),
        "decoder.conv_in": (None, 3),
    }
    tensors = found.of("weights")
    for layer, (rows, columns) in last.items():
        tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"][:rows, :columns]
        tensors[f"{layer}.bias"] = tensors[f"{layer}.bias"][:rows]
    return tensors


# ---------------------------------------------------------------- forecasts


def test_members_differ_and_each_is_itself_in_any_company(frames):
    model, one = awake(tiny()), frames[:1]
    together = model.forecast(one, one >= 0, 4, noise(0, 1, 2))
    assert (together[0] - together[1]).abs().mean() > 1e-3
    for member in range(3):
        torch.testing.assert_close(together[member : member + 1], model.forecast(one, one >= 0, 4, noise(member)))
    pair = model.forecast(frames, frames >= 0, 3, noise(7, 8, 0, 1))
    torch.testing.assert_close(pair[2:], model.forecast(frames[1:], frames[1:] >= 0, 3, noise(0, 1)))


def test_the_condition_is_read_and_guidance_leans_on_it(frames):
    model, first = awake(tiny(guidance=0.0)), frames
    said = {}
    for weight in (0.0, 2.0):
        model.guidance = weight
        said[weight] = [model.members(given, noise(0, 1)) for given in (first, first.flip(-1))]
    apart = {weight: (one - other).abs().mean() for weight, (one, other) in said.items()}
    assert apart[0.0] > 1e-3 and apart[2.0] > 1.2 * apart[0.0]


def test_few_samples_at_a_time_say_the_same(frames, monkeypatch):
    model = awake(tiny())
    together = model.forecast(frames, frames >= 0, 4, noise(*range(4)))
    monkeypatch.setattr("xnowcast.models.cascast.TOKENS_AT_ONCE", {"cpu": 1})
    torch.testing.assert_close(model.forecast(frames, frames >= 0, 4, noise(*range(4))), together)


def test_the_latent_scale_changes_what_the_denoiser_sees_and_not_what_is_decoded(frames, monkeypatch):
    """A sampler that gives back its condition gives back the first stage's forecast, as the autoencoder has it."""
    seen, said = [], []
    monkeypatch.setattr(
        "xnowcast.models.cascast.CasCast._guided",
        lambda self, condition, samples: lambda x, step: seen.append(condition) or condition,
    )
    for scale in (None, 0.25, 4.0):
        said.append(tiny(latent_scale=scale).members(frames, noise(0, 1)))
    torch.testing.assert_close(said[1], said[0])
    torch.testing.assert_close(said[2], said[0])
    torch.testing.assert_close(seen[-1], 4.0 * seen[0])
    model = tiny()
    torch.testing.assert_close(said[0], model._decoded(model._encoded(frames)[0]).clamp(0, 1))


def test_members_of_a_system_in_a_layer_can_lie_further_apart(frames):
    model = awake(tiny())
    model.inflation = 0.0
    still = model.members(frames, noise(0, 1))
    torch.testing.assert_close(still, model._decoded(model._encoded(frames)[0]).clamp(0, 1))
    model.inflation = 1.5
    assert (model.members(frames, noise(0, 1)) - still).abs().mean() > 1e-3


def test_the_authors_way_draws_the_condition_too(frames):
    model = awake(tiny())
    mine = model.members(frames, noise(0, 1, 2, 3))
    model.published = True
    theirs = model.members(frames, noise(0, 1, 2, 3))
    assert theirs.shape == mine.shape and (theirs - mine).abs().mean() > 1e-3
    torch.testing.assert_close(theirs[2:], model.members(frames[1:], noise(2, 3)))


# ---------------------------------------------------------------- the first stage


def test_what_the_first_stage_does_not_know_stays_unknown():
    radar = xnowcast.datasets.synthetic_radar(frames=8, shape=(32, 48))
    model = tiny(first_stage="extrapolation")
    said, first = (
        radar.nowcast.forecast(one, steps=3, **more) for one, more in ((model, {"members": 2}), ("extrapolation", {}))
    )
    unknown = first.rainfall_rate.isnull()
    assert unknown.any() and (said.rainfall_rate.isnull() == unknown).all()


@pytest.mark.parametrize("first_stage", ["persistence", "lagrangian", "built"])
def test_any_forecast_is_refined(first_stage):
    radar = xnowcast.datasets.synthetic_radar(frames=8, shape=(32, 48))
    model = tiny(first_stage="persistence")
    if first_stage == "built":
        first_stage = models.build("ms-convlstm", size="tiny", scaling="hko-7")
    other = model.refining(first_stage, **({"size": "tiny"} if first_stage == "lagrangian" else {}))
    forecast = radar.nowcast.forecast(other, steps=4, members=2).rainfall_rate
    assert forecast.sizes["member"] == 2 and forecast.notnull().mean() > 0.5
    assert other.denoiser is model.denoiser and model.first_stage is not other.first_stage
    assert model.options.first_stage == "persistence" and model.task.input_frames == 1


def test_the_first_stage_has_the_frames_and_the_scaling_of_the_system():
    inside = tiny(scaling="sevir", input_frames=3, target_frames=2).first_stage.network
    assert inside.task.input_frames == 3 and inside.training_frames == 5 and inside.task.quantity == "vil"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_stage": "stldm"}, "makes members"),
        ({"first_stage": "bicubic"}, "is for downscale"),
        ({"sampling_steps": 2000}, "the training had 1000"),
        ({"condition_dropout": 1.5}, "a share between 0 and 1"),
        ({"latent_scale": 0.0}, "must be above 0"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"tile": 10}, "choose a multiple of 4"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_longer_forecasts_than_those_of_the_training_are_refused(frames):
    with pytest.raises(ValueError, match="1 to 4"):
        tiny().forecast(frames, frames >= 0, 5, noise(0, 1))


# ---------------------------------------------------------------- training


def test_the_loss_is_the_squared_error_of_the_noise_where_it_was_measured(monkeypatch):
    model, given, seen = exact(tiny(condition_dropout=0.0)).train(), batch(), []
    observed = given.observed.clone()
    observed[:, 4:, :, :, 8:] = False
    monkeypatch.setattr(
        model.denoiser, "forward", lambda z, step, condition: seen.append((z, step, condition)) or torch.zeros_like(z)
    )
    loss = model.loss(TrainingBatch(given.rain, observed), progress=0.0)
    ((noisy, step, condition),) = seen
    frames = model.transform(given.rain)
    latent = model.latent_scale * model._encoded(frames[:, 4:])[0]
    signal, level = model.schedule.levels_like(step, noisy)
    eps = (noisy - signal * latent) / level
    assert float(loss.total) == pytest.approx(float(eps[..., :4].square().mean()), rel=1e-4)
    first = model.first_stage.answer(frames[:, :4], observed[:, :4], 4)
    torch.testing.assert_close(condition, model.latent_scale * model._encoded(first)[0])
    assert float(latent.std()) == pytest.approx(1.0, abs=1e-4)


def test_the_condition_is_left_out_of_whole_batches(monkeypatch):
    model, data, left_out = tiny(condition_dropout=0.5).train(), batch(), []
    forward = model.denoiser.forward
    monkeypatch.setattr(model.denoiser, "forward", lambda z, step, c: left_out.append(c is None) or forward(z, step, c))
    for _ in range(12):
        model.loss(data, progress=0.0)
    assert 2 < sum(left_out) < 10


def test_the_first_batch_tells_the_scale_once_and_validation_never():
    model = exact(tiny())
    model.loss(batch(), progress=1.0)
    assert float(model.latent_scale) == 0.0
    model.train().loss(batch(), progress=0.0)
    scale = float(model.latent_scale)
    latent = model._encoded(model.transform(batch().rain)[:, 4:])[0]
    assert scale == pytest.approx(1.0 / float(latent.std()), rel=1e-4)
    model.loss(TrainingBatch(10 * batch().rain, batch().observed), progress=0.0)
    assert float(model.latent_scale) == scale
    assert float(tiny(latent_scale=0.5).train().latent_scale) == 0.5


def test_each_strategy_trains_its_part():
    for strategy, trained in (("autoencoder", {"autoencoder", "autoencoder_loss"}), ("diffusion", {"denoiser"})):
        model = awake(tiny(strategy=strategy, condition_dropout=0.0)).train()
        model.loss(batch(model.training_frames), progress=0.0).total.backward()
        learnt = {name for name, part in model.named_children() if any(p.grad is not None for p in part.parameters())}
        assert learnt == trained
    assert model.first_stage.network.training is False


def test_a_first_stage_that_is_not_frozen_learns_by_its_own_loss():
    model = awake(tiny(frozen=False)).train()
    loss = model.loss(batch(), progress=0.0)
    loss.total.backward()
    alone = tiny(frozen=False).first_stage.network.train()
    alone.loss(batch(), progress=0.0).total.backward()
    for one, other in zip(model.first_stage.network.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert set(loss.parts) >= {"diffusion", "forecast"}


def test_the_discriminator_comes_after_a_share_of_the_training():
    model = tiny(strategy="autoencoder").train()
    judge = model.adversary((24, 24))
    early, late = (model.loss(batch(1, 24), progress=progress, adversary=judge) for progress in (0.1, 0.2))
    assert early.truth is None and "adversarial" not in early.parts
    assert late.truth.shape == late.generated.shape == (2, 1, 24, 24) and not late.generated.requires_grad
    assert "adversarial" in late.parts
    assert (
        tiny().adversary((24, 24)) is None
        and tiny(strategy="autoencoder", adversarial_weight=0).adversary((24, 24)) is None
    )


def test_the_diffusion_learns():
    """Of two scenes it has to say which noise is there."""
    torch.manual_seed(0)
    model = tiny(first_stage="persistence", condition_dropout=0.0, latent_scale=4.0).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(batch(5, 8), progress=0.0).total
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:10])


def test_it_is_trained_in_parts_alone_and_in_the_layer(tmp_path):
    """First stage, autoencoder, denoiser: each run begins with the weights of the one before."""
    radar = xnowcast.datasets.synthetic_radar(frames=24, shape=(40, 44))
    settings = {"steps": 2, "batch_size": 2, "crop": 32, "validation": 0, "progress": False, "size": "tiny"}

    def trained(system, folder, start=None, **options):
        out = tmp_path / folder
        begin = {} if start is None else {"start": str(tmp_path / start / "model.safetensors")}
        return xnowcast.train(system, radar, out=out, **settings, **begin, **options)

    first = trained("earthformer", "first")
    coded = trained("cascast", "coded", "first", model_options={"strategy": "autoencoder"}, adversarial_from=0.25)
    whole = trained("cascast", "whole", "coded")
    state = whole.state_dict()
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(state[f"first_stage.network.{name}"], tensor)
    for name, tensor in coded.state_dict().items():
        if name.startswith("autoencoder."):
            torch.testing.assert_close(state[name], tensor)
    assert float(whole.latent_scale) > 0
    trained("lagrangian", "moving", "whole", network="cascast")
    for folder in ("whole", "moving"):
        members = radar.nowcast.forecast(str(tmp_path / folder / "model.safetensors"), members=2, steps=4, seed=0)
        assert members.rainfall_rate.sizes["member"] == 2 and members.rainfall_rate.notnull().mean() > 0.3


def test_all_sizes_are_built():
    for size in SIZES:
        with torch.device("meta"):
            model = models.build("cascast", size=size)
        assert model.task.grid_multiple == 2 * model.autoencoder.reduction
