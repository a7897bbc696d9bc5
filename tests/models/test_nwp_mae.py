"""Post-processors of weather forecasts: phases, transfer, what stays frozen, and that they learn."""

import numpy as np
import pytest
import torch
from rounding import assert_close
from torch.nn import functional as F

import xnowcast
from xnowcast import models
from xnowcast.models import weights
from xnowcast.models.base import PostprocessModel, TrainableModel, TrainingBatch
from xnowcast.models.metnet import NwpMetNet
from xnowcast.models.nwp_mae import NwpMae
from xnowcast.models.nwp_raw import NwpRaw
from xnowcast.models.rain_classes import CHANNELS
from xnowcast.nn.channel_scaling import ChannelScaling
from xnowcast.nn.labels import continuous_labels, one_hot_labels
from xnowcast.nn.masking import random_mask

FOUR = ("eastward_wind at 10 m", "air_temperature at 2 m", "rainfall_rate", "relative_humidity at 850 hPa")
EIGHT = (*FOUR, "northward_wind at 10 m", "air_temperature at 850 hPa", "eastward_wind at 850 hPa", CHANNELS[8])

pytestmark = pytest.mark.usefixtures("one_thread")


def standardised(model):
    """Told that its channels, rain too, are z-scores already."""
    count = len(model.task.channels)
    model.scaling.mean.copy_(torch.zeros(count))
    model.scaling.std.copy_(torch.ones(count))
    return model


def mae(kind=NwpMae, seed=0, **options):
    torch.manual_seed(seed)
    return standardised(kind(**({"size": "tiny", "channels": FOUR} | options)))


def pretrained(**options):
    return mae(phase="pretraining", **options)


def smooth(generator, *shape, width=9):
    noise = torch.randn(*shape, generator=generator)
    for _ in range(2):
        noise = F.avg_pool2d(F.pad(noise, [width // 2] * 4, mode="circular"), width, stride=1)
    return noise / noise.std()


def weather(count, seed, size=32, channels=4):
    """Fields that are mixtures of two smooth patterns, and rain that falls where the first is strong."""
    generator = torch.Generator().manual_seed(seed)
    patterns = smooth(generator, count, 2, size, size)
    mixture = torch.tensor(2 * [[1.0, 0.0], [0.6, 0.8], [0.8, -0.6], [0.0, 1.0]])[:channels]
    fields = torch.einsum("ck,bkyx->bcyx", mixture, patterns)
    fields[:, 2] = fields[:, 2].clamp_min(0)
    noise = 0.7 * smooth(generator, count, 1, size, size, width=3)
    rain = 5 * (patterns[:, :1] + noise - 0.8).clamp_min(0) ** 2
    return fields, rain


def batch_of(fields, rain, observed=None):
    observed = torch.ones_like(rain, dtype=torch.bool) if observed is None else observed
    return TrainingBatch(rain[:, None], observed[:, None], fields[:, None])


def learn(model, fields, rain, steps, rate=3e-3, batch=8, seed=0):
    optimiser = torch.optim.AdamW(model.parameters(), rate)
    model.train()
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(fields), (batch,), generator=generator)
        loss = model.loss(batch_of(fields[chosen], rain[chosen]), progress=0.0).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return model.eval()


@pytest.fixture(scope="module")
def learnt():
    """A model that has learnt to fill in eight fields."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fields, rain = weather(64, 1, channels=8)
    yield learn(pretrained(masking=0.5, channels=EIGHT), fields, rain, 100, rate=1e-3)
    torch.set_num_threads(threads)


def heavy_scores(probabilities, rain):
    """POD and frequency bias of the last class, as the most probable one, and of 10 mm/h."""
    said, seen = probabilities.argmax(dim=1) == 2, rain[:, 0] >= 10
    return (said & seen).sum() / seen.sum(), said.sum() / seen.sum()


# ---------------------------------------------------------------- what it is


def test_the_full_size_is_that_of_the_paper():
    with torch.device("meta"):
        model = NwpMae()
    assert model.task.channels == CHANNELS and len(CHANNELS) == 16
    assert sum(p.numel() for p in model.encoder.parameters()) == 28_773_264
    assert sum(p.numel() for p in model.decoder.parameters()) == 29_603_331
    assert (model.tokeniser.embed.in_features, model.tokeniser.tokens(224, 128)) == (1024, 448)
    assert (model.masking, model.task.grid_multiple) == (0.25, 32)
    with torch.device("meta"):
        assert sum(p.numel() for p in NwpMae(phase="pretraining").decoder.parameters()) == 29_610_000


def test_the_tiny_size_has_half_a_million_parameters_in_encoder_and_decoder():
    model = NwpMae(size="tiny")
    assert sum(p.numel() for p in model.encoder.parameters()) == 397_922
    assert sum(p.numel() for p in model.decoder.parameters()) == 100_299


@pytest.mark.parametrize("kind", [NwpMae, NwpMetNet])
def test_it_keeps_the_promises_of_its_verb_and_of_training(kind):
    model = kind(size="tiny", **({"encoder": "tuned"} if kind is NwpMae else {}))
    assert isinstance(model, PostprocessModel) and isinstance(model, TrainableModel)
    assert (model.task.verb, model.task.input_frames, model.training_frames) == ("postprocess", 1, 1)
    assert model.thresholds == (0.1, 10.0) and model.adversary((32, 32)) is None


def test_the_registry_knows_them_by_name():
    for name in ("nwp-mae", "nwp-metnet", "nwp-raw"):
        assert models.declare(name).verb == "postprocess"
    assert models.build("nwp-mae", size="tiny").name == "nwp-mae"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "huge"}, "size is 'huge': choose one of"),
        ({"phase": "tuning"}, "phase is 'tuning': choose one of 'pretraining', 'classes'"),
        ({"labels": "soft"}, "labels is 'soft': choose one of 'continuous', 'one-hot'"),
        ({"encoder": "fixed"}, "encoder is 'fixed'"),
        ({"reconstruction": "none"}, "reconstruction is 'none'"),
        ({"precision": "16"}, "precision is '16'"),
        ({"masking": 1.0}, "masking is 1.0: in the phase 'classes' it must be 0 or more and below 1"),
        ({"masking": 0.0, "phase": "pretraining"}, "must be above 0 and below 1"),
        ({"thresholds": (10, 1)}, "thresholds are"),
        ({"thresholds": (1.0,)}, "1 thresholds make 2 classes"),
        ({"class_weights": (1, 0, 1)}, "class_weights is"),
        ({"channels": ()}, "channels is"),
        ({"channels": "rainfall_rate"}, "channels is 'rainfall_rate'"),
        ({"channels": ["rainfall_rate", "rainfall_rate"]}, "different names"),
    ],
)
def test_options_that_will_not_do_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        models.declare("nwp-mae", **options)


@pytest.mark.parametrize("options", [{"size": "large"}, {"labels": "hard"}, {"class_weights": (1, 2)}])
def test_options_of_the_baseline_are_checked_as_well(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        models.declare("nwp-metnet", **options)


# ---------------------------------------------------------------- post-processing


@pytest.mark.parametrize("kind", [NwpMae, NwpMetNet])
@pytest.mark.parametrize("shape", [(32, 32), (40, 50), (9, 70)])
def test_probabilities_sum_to_one_on_any_grid(kind, shape):
    model = mae(kind).eval()
    fields = torch.randn(2, 4, *shape)
    made = model.postprocess(fields, fields[:, :1] < 9)
    assert made.shape == (2, 3, *shape) and made.dtype == torch.float32 and not made.requires_grad
    torch.testing.assert_close(made.sum(dim=1), torch.ones(2, *shape))


@pytest.mark.parametrize("kind", [NwpMae, NwpMetNet])
def test_missing_values_count_as_the_mean_and_stay_where_they_are(kind):
    model = mae(kind).eval()
    fields = torch.randn(1, 4, 32, 32)
    gaps, filled = fields.clone(), fields.clone()
    gaps[:, 1, 4:9, 3:7], filled[:, 1, 4:9, 3:7] = torch.nan, 0
    before = gaps.clone()
    observed = gaps[:, :1].isfinite()
    torch.testing.assert_close(model.postprocess(gaps, observed), model.postprocess(filled, observed))
    torch.testing.assert_close(gaps, before, equal_nan=True)


@pytest.mark.parametrize("kind", [NwpMae, NwpMetNet])
def test_the_same_field_is_answered_alike_alone_and_in_a_batch(kind):
    model = mae(kind).eval()
    fields = torch.randn(3, 4, 32, 32)
    together = model.postprocess(fields, fields[:, :1] < 9)
    torch.testing.assert_close(together, model.postprocess(fields, fields[:, :1] < 9))
    assert_close(together[1:2], model.postprocess(fields[1:2], fields[1:2, :1] < 9))


def test_nothing_is_masked_when_it_post_processes_or_is_validated():
    model = mae(encoder="tuned").eval()
    fields, rain = weather(2, 1)
    losses = {model.loss(batch_of(fields, rain), progress=1.0).total.item() for _ in range(2)}
    assert len(losses) == 1
    model.decoder.train(False)
    model.training = True  # masks, and nothing else that is random
    masked = {model.loss(batch_of(fields, rain), progress=0.0).total.item() for _ in range(2)}
    assert len(masked) == 2


def test_bfloat16_is_close():
    model = mae().eval()
    fields = torch.randn(1, 4, 64, 32)
    exact = model.postprocess(fields, fields[:, :1] < 9)
    model.precision = "bfloat16"
    rounded = model.postprocess(fields, fields[:, :1] < 9)
    assert not rounded.equal(exact)
    torch.testing.assert_close(rounded, exact, atol=0.03, rtol=0)


def test_channels_that_were_never_measured_are_an_error():
    with pytest.raises(ValueError, match="never set: call set_channel_statistics"):
        NwpMae(size="tiny").eval().postprocess(torch.zeros(1, 16, 32, 32), torch.ones(1, 1, 32, 32) > 0)


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="there are 5 channels; the model reads 4"):
        mae().eval().postprocess(torch.zeros(1, 5, 32, 32), torch.ones(1, 1, 32, 32) > 0)


# ---------------------------------------------------------------- scaling


def test_rain_is_scaled_by_the_statistics_of_its_logarithm():
    rain = torch.distributions.Gamma(torch.tensor(0.05), torch.tensor(0.2)).sample((1, 1, 400, 500))
    scaling = ChannelScaling(["rainfall_rate"])
    scaling.set(rain.mean()[None], rain.std()[None])
    scaled = scaling(rain)
    assert abs(scaled.mean()) < 0.05 and abs(scaled.std() - 1) < 0.05
    raw = rain[rain > 1]
    torch.testing.assert_close(scaled[rain > 1] * scaling.std + scaling.mean, raw.log1p())


def test_other_channels_are_z_scores_however_large_they_are():
    pressure = 101_325 + 500 * torch.randn(1, 1, 64, 64)
    scaling = ChannelScaling(["air_pressure_at_mean_sea_level"])
    scaling.set(pressure.mean()[None], pressure.std()[None])
    scaled = scaling(pressure)
    assert abs(scaled.mean()) < 1e-3 and abs(scaled.std() - 1) < 1e-3


def test_statistics_are_checked_and_travel_with_the_weights(tmp_path):
    model = NwpMae(size="tiny", channels=FOUR)
    four = [torch.tensor(values) for values in ([1.0, 280, 0.2, 0.7], [5.0, 9, 0.8, 0.0], [0.0] * 4, [1.0] * 4)]
    with pytest.raises(ValueError, match=r"statistics of \(3,\)"):
        model.set_channel_statistics(*(values[:3] for values in four))
    with pytest.raises(ValueError, match="must be finite"):
        model.set_channel_statistics(four[0] * torch.nan, *four[1:])
    model.set_channel_statistics(*four)
    assert model.scaling.mean[1] == 280 and model.scaling.std[3] == 1  # a field that never changes is left as it is
    weights.save(tmp_path / "w.safetensors", model, system="nwp-mae", options={"size": "tiny", "channels": list(FOUR)})
    loaded = xnowcast.load(tmp_path / "w.safetensors", precision="bfloat16")
    assert loaded.scaling.std.equal(model.scaling.std) and loaded.precision == "bfloat16"


# ---------------------------------------------------------------- pre-training


def test_the_reconstruction_is_measured_in_masked_patches_alone(monkeypatch):
    from xnowcast.models import nwp_mae

    hidden = torch.zeros(2, 16, dtype=torch.bool)  # 4 x 4 patches of all four channels
    hidden[:, 5] = True
    monkeypatch.setattr(nwp_mae, "random_mask", lambda *_: hidden)
    model = pretrained()
    model.decoder.eval()
    fields, rain = weather(2, 1)
    monkeypatch.setattr(model, "_decoded", lambda maps, shape: torch.zeros(2, 4, *shape))
    found = model.loss(batch_of(fields, rain), progress=0.0).total
    torch.testing.assert_close(found, _logged(fields)[..., 8:16, 8:16].square().mean())
    model.reconstruction = "all"
    everywhere = model.loss(batch_of(fields, rain), progress=0.0).total
    torch.testing.assert_close(everywhere, _logged(fields).square().mean())


def _logged(fields):
    fields = fields.clone()
    fields[:, 2] = fields[:, 2].log1p()
    return fields


def test_missing_and_padded_cells_are_not_reconstructed(monkeypatch):
    model = pretrained(reconstruction="all")
    fields, rain = weather(2, 1, size=24)
    fields[:, 3, :10] = torch.nan
    monkeypatch.setattr(model, "_decoded", lambda maps, shape: torch.full((2, 4, *shape), 2.0))
    found = model.loss(batch_of(fields, rain), progress=0.0).total
    known = (_logged(fields) - 2)[fields.isfinite()]
    torch.testing.assert_close(found, known.square().mean())


def test_pre_training_learns_to_fill_in_masked_fields(learnt):
    held, _ = weather(24, 2, channels=8)
    hidden = random_mask(24, 32, 0.5)
    cells = learnt.tokeniser.cells(hidden, 32, 32)
    truth, said = _logged(held), learnt.reconstruct(held, hidden)
    spread = (truth - truth.mean(dim=(0, 2, 3), keepdim=True))[cells].square().mean()
    assert (said - truth)[cells].square().mean() < 0.7 * spread


def test_a_reconstruction_does_not_see_what_is_masked():
    model = pretrained().eval()
    fields, _ = weather(1, 1)
    hidden = random_mask(1, 16, 0.9)
    other = torch.where(model.tokeniser.cells(hidden, 32, 32), 7.0, fields)
    torch.testing.assert_close(model.reconstruct(other, hidden), model.reconstruct(fields, hidden))


def test_a_phase_does_not_do_the_work_of_the_other():
    fields, hidden = torch.randn(1, 4, 32, 32), random_mask(1, 16, 0.5)
    seen = fields[:, :1] < 9
    for work in (lambda m: m.postprocess(fields, seen), lambda m: m.explain(fields, seen, 2)):
        with pytest.raises(ValueError, match="know no rain classes"):
            work(pretrained().eval())
    with pytest.raises(ValueError, match="gives no fields back"):
        mae().eval().reconstruct(fields, hidden)


# ---------------------------------------------------------------- transfer


def test_tokeniser_encoder_and_statistics_are_taken_over_and_the_decoder_is_fresh():
    before = pretrained(seed=1)
    before.scaling.mean.fill_(0.5)
    after = mae(seed=2)
    fresh = {name: value.clone() for name, value in after.decoder.state_dict().items()}
    after.begin_from(before)
    for part in ("tokeniser", "encoder", "scaling"):
        states = (getattr(model, part).state_dict() for model in (before, after))
        for own, given in zip(*(state.values() for state in states), strict=True):
            torch.testing.assert_close(own, given)
    assert all(after.decoder.state_dict()[name].equal(value) for name, value in fresh.items())


def test_a_decoder_is_taken_over_from_the_same_phase():
    before, after = mae(seed=1), mae(seed=2)
    after.begin_from(before)
    assert after.decoder.read.weight.equal(before.decoder.read.weight)


@pytest.mark.parametrize(
    ("begin", "before", "words"),
    [
        ({}, {"phase": "pretraining", "channels": FOUR[:3]}, "weights have the channels"),
        ({}, {"thresholds": (0.1, 5.0)}, r"weights have the thresholds \(0.1, 5.0\), and this model has \(0.1, 10.0\)"),
        ({"phase": "pretraining"}, {}, "pre-training begins from pre-trained weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused(begin, before, words):
    with pytest.raises(ValueError, match=words):
        mae(**begin).begin_from(mae(**before))


def test_fine_tuning_leaves_the_frozen_part_as_it_was():
    model = mae()
    model.begin_from(pretrained(seed=1))
    parts = model.tokeniser, model.encoder
    before = [value.clone() for part in parts for value in part.state_dict().values()]
    decoder = model.decoder.read.weight.clone()
    fields, rain = weather(8, 1)
    learn(model, fields, rain, 3)
    after = [value for part in parts for value in part.state_dict().values()]
    assert all(own.equal(other) for own, other in zip(before, after, strict=True))
    assert all(p.grad is None and not p.requires_grad for part in parts for p in part.parameters())
    assert not model.decoder.read.weight.equal(decoder)
    model.train()
    assert not any(module.training for part in parts for module in part.modules()) and model.decoder.training


def test_a_tuned_encoder_learns_on():
    model = mae(encoder="tuned")
    model.begin_from(pretrained(seed=1))
    before = model.encoder.stem.first.convolution.weight.clone()
    fields, rain = weather(8, 1)
    learn(model, fields, rain, 1)
    assert not model.encoder.stem.first.convolution.weight.equal(before)


def test_a_frozen_encoder_that_never_learnt_is_an_error():
    with pytest.raises(ValueError, match="frozen and was never pre-trained"):
        mae().loss(batch_of(*weather(2, 1)), progress=0.0)


def test_one_sample_is_no_batch_for_batch_norm():
    with pytest.raises(ValueError, match="a batch of one sample"):
        mae(encoder="tuned").train().loss(batch_of(*weather(1, 1)), progress=0.0)


def test_a_batch_of_rain_alone_is_refused():
    _, rain = weather(2, 1)
    for model in (mae(encoder="tuned"), mae(NwpMetNet)):
        with pytest.raises(ValueError, match="the batch has no channels"):
            model.loss(TrainingBatch(rain[:, None], rain[:, None] >= 0), progress=0.0)


# ---------------------------------------------------------------- rain classes


@pytest.mark.parametrize("kind", [NwpMae, NwpMetNet])
def test_cells_without_rain_gauge_or_radar_do_not_count(kind):
    model = mae(kind, **({"encoder": "tuned"} if kind is NwpMae else {})).eval()
    fields, rain = weather(2, 1)
    observed = torch.rand(2, 1, 32, 32) < 0.6
    found = model.loss(batch_of(fields, rain, observed), progress=1.0).total
    assert found == model.loss(batch_of(fields, torch.where(observed, rain, 99.0), observed), progress=1.0).total
    assert found != model.loss(batch_of(fields, rain), progress=1.0).total


def trained_twice(fields, rain):
    """With hard labels and equal weights, and with continuous labels and the paper's weights."""
    plain = {"labels": "one-hot", "class_weights": (1.0, 1.0, 1.0)}
    return [learn(mae(NwpMetNet, **options), fields, rain, 150) for options in (plain, {})]


def test_soft_labels_and_weights_hit_more_of_the_heavy_rain_and_call_it_too_often():
    fields, rain = weather(64, 1)
    held, seen = weather(32, 2)
    assert 0.002 < (rain >= 10).float().mean() < 0.05
    hard, soft = (heavy_scores(model.postprocess(held, seen >= 0), seen) for model in trained_twice(fields, rain))
    assert soft[0] > hard[0] + 0.1 and soft[1] > hard[1] + 0.2


def test_a_pre_trained_encoder_beats_a_random_one(learnt):
    fields, rain = weather(64, 1, channels=8)
    held = batch_of(*weather(32, 2, channels=8))
    losses = {"pre-trained": [], "random": []}
    for seed in range(2):
        for name, before in (("pre-trained", learnt), ("random", pretrained(seed=seed + 5, channels=EIGHT))):
            model = mae(seed=seed, channels=EIGHT)
            model.begin_from(before)
            learn(model, fields, rain, 20, seed=seed)
            losses[name].append(model.loss(held, progress=1.0).total.item())
    assert np.mean(losses["pre-trained"]) < np.mean(losses["random"])


# ---------------------------------------------------------------- explaining


@pytest.mark.parametrize("kind", [NwpMae, NwpMetNet])
def test_activations_lie_between_zero_and_one_on_the_grid(kind):
    model = mae(kind).eval()
    fields = torch.randn(2, 4, 40, 50)
    for category in range(3):
        found = model.explain(fields, fields[:, :1] < 9, category)
        assert found.shape == (2, 40, 50) and not found.requires_grad
        assert found.min() >= 0 and found.max() <= 1


def test_activations_do_not_leave_gradients_and_work_where_none_are_recorded():
    model = mae(encoder="tuned").eval()
    fields = torch.randn(1, 4, 32, 32)
    free = model.explain(fields, fields[:, :1] < 9, 1)
    with torch.inference_mode():
        again = model.explain(fields.clone(), fields[:, :1] < 9, 1)
    torch.testing.assert_close(free, again)
    assert all(p.grad is None for p in model.parameters())


def test_activations_are_grad_cam_worked_by_hand():
    model = mae(NwpMetNet).eval()
    features = torch.randn(1, 16, 8, 8)
    model._encoded = lambda x: [features]
    found = model.explain(torch.zeros(1, 4, 32, 32), torch.ones(1, 1, 32, 32) > 0, 2)
    # logits are linear in the map, so every channel's weight is that of the last convolution
    expected = torch.einsum("c,bcyx->byx", model.read.weight[2, :, 0, 0], features).relu()
    expected = F.interpolate(expected[:, None], size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found, (expected / expected.max()).detach(), atol=1e-4, rtol=1e-3)


def test_a_class_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="category is 3; the classes are 0 to 2"):
        mae().eval().explain(torch.zeros(1, 4, 32, 32), torch.ones(1, 1, 32, 32) > 0, 3)


# ---------------------------------------------------------------- the forecast's own rain


def test_the_raw_forecast_is_its_own_class():
    rain = torch.tensor([0.0, 0.1, 9.0, 10.0]).view(1, 1, 1, 4)
    made = NwpRaw().postprocess(rain, rain >= 0)
    torch.testing.assert_close(made, one_hot_labels(rain[:, 0], (0.1, 10)))
    soft = NwpRaw(soft=True, thresholds=(1.0, 5.0)).postprocess(rain, rain >= 0)
    torch.testing.assert_close(soft, continuous_labels(rain[:, 0], (1.0, 5.0)))


@pytest.mark.parametrize("channels", ["rainfall_rate", ("air_temperature at 2 m",), ("rainfall_rate", "snowfall_flux")])
def test_the_raw_forecast_is_rain_alone(channels):
    with pytest.raises(ValueError, match=r"give the name of the forecast's rain|it must be a list of words"):
        NwpRaw(channels=channels)


# ---------------------------------------------------------------- all together


def test_training_goes_from_pre_trained_weights_to_classes_to_a_forecast(tmp_path):
    nwp, observed = xnowcast.datasets.synthetic_nwp(runs=3, leads=2, shape=(32, 32))
    pairs = xnowcast.pair(nwp, observed).compute()
    common = {"size": "tiny", "steps": 2, "crop": 32, "batch_size": 2, "validation_crops": 2, "progress": False}
    common |= {"variable": "observed_rain", "pictures_every": 0}
    before = xnowcast.train("nwp-mae", pairs, out=tmp_path / "first", phase="pretraining", **common)
    start = tmp_path / "first" / "model.safetensors"
    model = xnowcast.train("nwp-mae", pairs, out=tmp_path / "second", start=start, **common)
    assert model.begun and model.scaling.mean.equal(before.scaling.mean)
    assert model.encoder.stem.first.convolution.weight.equal(before.encoder.stem.first.convolution.weight)
    made = pairs.nowcast.postprocess(str(tmp_path / "second" / "model.safetensors"))
    np.testing.assert_allclose(made.probability.sum("category"), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="frozen and was never pre-trained"):
        xnowcast.train("nwp-mae", pairs, out=tmp_path / "third", **common)
    assert not (tmp_path / "third").exists(), "refused before the run folder is made"
    renamed = {"rainfall_rate": "rain", "air_temperature at 850 hPa": "T850"}
    with pytest.raises(ValueError, match=r"ds.rename\({'rain': 'rainfall_rate', 'T850': 'air_temperature at 850 hPa'}"):
        xnowcast.train("nwp-mae", pairs, channels=renamed, encoder="tuned", **common)
    with pytest.raises(ValueError, match=r"does not fit 'nwp-mae' with these options: the weights have the size tiny"):
        xnowcast.train("nwp-mae", pairs, start=start, **(common | {"size": "small"}))


@pytest.mark.parametrize("phase", ["pretraining", "classes"])
def test_losses_in_bfloat16_are_close(phase):
    model = mae(phase=phase, **({"encoder": "tuned"} if phase == "classes" else {})).eval()
    batch, losses = batch_of(*weather(4, 1)), []
    for wanted in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=wanted):
            losses.append(model.loss(batch, progress=1.0).total)
    losses[1].backward()
    assert losses[1].dtype == torch.float32 and losses[0] != losses[1]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.03, atol=0)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
