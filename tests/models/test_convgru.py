"""ConvGRU-Ensemble: network and loss are the authors' own (tests/golden.py), and what is this package's around them."""

import pytest
import torch
from golden import assert_equals, golden

import xnowcast
from xnowcast import models
from xnowcast.models import published
from xnowcast.models.base import TrainingBatch
from xnowcast.models.convgru import ensemble_loss
from xnowcast.nn.noise import Noise, member_generator


def noise(*members):
    return Noise([member_generator(3, 0, member) for member in members])


def mlcast(name, **options):
    """A golden file and the model of its weights."""
    found = golden(name, "golden_zoo")
    model = models.build("convgru-ensemble", blocks=found.about["constructor"]["num_blocks"], **options).eval()
    model.load_state_dict(published.convgru_ensemble(model, found.of("weights")))
    return found, model


def drawn(found):
    """The noise of all members ``(b * m, steps, c, y, x)``, the member varying fastest."""
    return torch.stack(list(found.of("noise").values()), dim=1).flatten(0, 1)


def by_member(said, b):
    """As published: ``(b, steps, m, y, x)``."""
    return said[:, :, 0].unflatten(0, (b, -1)).transpose(1, 2)


# ---------------------------------------------------------------- the authors' numbers


@torch.no_grad()
def test_members_are_those_of_the_authors_code():
    found, model = mlcast("mlcast_convgru")
    x, random = found.tensors["input/x"], drawn(found)
    assert_equals(by_member(model.members(x, random), len(x)), found.tensors["output/ensemble"])
    silent = 0 * random[: len(x)]
    assert_equals(model.members(x, silent), found.tensors["output/deterministic"])
    for frame in range(x.shape[1]):
        for level, said in enumerate(model.network.encode(x[:, : frame + 1])):
            assert_equals(said, found.tensors[f"output/encoded_{level}"][:, frame])


@torch.no_grad()
def test_grids_that_the_network_does_not_divide_are_padded_as_mlcast_pads_them():
    found, model = mlcast("mlcast_convgru_padded", padding="middle")
    x, random = found.tensors["input/x"], drawn(found)
    expected = found.tensors["output/ensemble"]
    assert_equals(by_member(model.members(x, random), len(x)), expected)
    model.padding = "dry"
    assert (by_member(model.members(x, random), len(x)) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_forecast_is_the_network_on_a_scale_of_0_to_1():
    found, model = mlcast("mlcast_convgru", input_frames=4)
    frames = (found.tensors["input/x"] + 1) / 2
    model.noise_scale = 0.0
    said = model.forecast(frames, frames >= 0, 5, noise(0, 1))
    assert_equals(said, (found.tensors["output/deterministic"] + 1) / 2)


def test_the_loss_is_that_of_the_authors():
    found = golden("mlcast_convgru", "golden_zoo")
    members, truth = found.tensors["input/loss_ensemble"].transpose(1, 2), found.tensors["input/loss_truth"][:, :, 0]
    mask = found.tensors["input/loss_mask"][:, :, 0] > 0
    first, everywhere = mask[:, :1].expand_as(mask), torch.ones_like(mask)
    for name, observed, fairness, weight in (
        ("crps", everywhere, 0.0, 0.0),
        ("crps_masked", mask, 0.0, 0.0),
        ("crps_temporal_masked", first, 0.0, 0.01),
        ("afcrps", everywhere, 0.95, 0.0),
        ("afcrps_temporal", everywhere, 0.95, 0.01),
    ):
        said = ensemble_loss(members, truth, observed, fairness, weight).total
        for code in ("mlcast", "dsip"):
            assert_equals(said[None], found.tensors[f"output/{name}_{code}"])


@pytest.mark.parametrize(("blocks", "parameters"), [(4, 4_012_017), (5, 64_177_905)])
def test_networks_have_as_many_parameters_as_the_published_ones(blocks, parameters):
    with torch.device("meta"):
        model = models.build("convgru-ensemble", **({} if blocks == 5 else {"blocks": blocks}))
    assert sum(p.numel() for p in model.parameters()) == parameters


def published_names(blocks):
    """Names and shapes of the published tensors, from the widths that its code has."""
    for part, levels in (("encoder", range(blocks)), ("decoder", range(blocks, 0, -1))):
        for number, width in enumerate(4**level for level in levels):
            for layer, outputs in (("combined_gates", 2 * width), ("out_gate", width)):
                place = f"{part}.blocks.{number}.convgru.cell.{layer}"
                yield from ((f"{place}.weight", (outputs, 2 * width, 3, 3)), (f"{place}.bias", (outputs,)))


@pytest.mark.parametrize("prefix", ["", "model.", "network."])
def test_the_full_network_takes_the_tensors_of_a_checkpoint(prefix):
    with torch.device("meta"):
        model = models.build("convgru-ensemble")
        tensors = {prefix + name: torch.empty(shape) for name, shape in published_names(5)}
        assert len(tensors) == 40
        state = published.convgru_ensemble(model, tensors)
    assert {name: own.shape for name, own in state.items()} == {n: p.shape for n, p in model.state_dict().items()}


def test_weights_of_other_sizes_are_refused():
    model = models.build("convgru-ensemble", size="tiny")
    with pytest.raises(ValueError, match=r"no place for 'encoder\.blocks\.2"):
        published.convgru_ensemble(model, {name: torch.zeros(shape) for name, shape in published_names(3)})
    with pytest.raises(ValueError, match=r"there is no 'encoder\.blocks\.1"):
        published.convgru_ensemble(model, {name: torch.zeros(shape) for name, shape in published_names(1)})


# ---------------------------------------------------------------- what is around them


@pytest.fixture
def frames():
    torch.manual_seed(0)
    return torch.rand(2, 6, 1, 18, 21)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return models.build("convgru-ensemble", size="tiny").eval()


def test_members_differ_and_each_is_itself_in_any_company(model, frames):
    one = frames[:1]
    together = model.forecast(one, one >= 0, 4, noise(0, 1, 2))
    assert (together[0] - together[1]).abs().mean() > 1e-3
    for member in range(3):
        torch.testing.assert_close(together[member : member + 1], model.forecast(one, one >= 0, 4, noise(member)))
    pair = model.forecast(frames, frames >= 0, 4, noise(7, 8, 0, 1))
    torch.testing.assert_close(pair[2:], model.forecast(frames[1:], frames[1:] >= 0, 4, noise(0, 1)))


def test_the_first_steps_of_a_longer_forecast_are_the_shorter_one(model, frames):
    few, many = (model.forecast(frames, frames >= 0, steps, noise(0, 1)) for steps in (3, 8))
    torch.testing.assert_close(many[:, :3], few)


def test_dry_padding_is_what_no_rain_beyond_the_edge_would_be(model, frames):
    larger = torch.nn.functional.pad(frames, (0, 3, 0, 2))
    said = model.forecast(larger, larger >= 0, 3, noise(0, 1))
    torch.testing.assert_close(model.forecast(frames, frames >= 0, 3, noise(0, 1)), said[..., :18, :21])


def test_what_was_not_measured_says_nothing_of_the_loss(model):
    torch.manual_seed(2)
    rain = 4.0 * torch.rand(1, 18, 1, 16, 16)
    observed = torch.rand_like(rain) > 0.2
    other = torch.where(observed, rain, 50.0)
    other[:, :6] = rain[:, :6]
    losses = []
    for given in (rain, other):
        torch.manual_seed(3)
        losses.append(model.loss(TrainingBatch(given, observed), progress=1.0).total)
    torch.testing.assert_close(*losses)
    torch.manual_seed(3)
    assert model.loss(TrainingBatch(other, rain >= 0), progress=1.0).total > losses[0] + 0.01


def test_only_the_change_between_times_that_were_both_measured_counts():
    members = torch.tensor([0.0, 1.0, 5.0]).expand(1, 2, 3).reshape(1, 2, 3, 1, 1)
    observed = torch.tensor([True, True, False]).reshape(1, 3, 1, 1)
    loss = ensemble_loss(members, members[:, 0], observed, 0.0, 0.5)
    assert float(loss.total) == 0.5 and float(loss.parts["change"]) == 1.0 and float(loss.parts["crps"]) == 0.0
    assert float(ensemble_loss(members[:, :, :1], members[:, 0, :1] + 2, observed[:, :1], 0.0, 0.5).total) == 2.0


def test_validation_has_members_of_its_own(model, monkeypatch):
    counted = []
    decode = model.network.decode
    monkeypatch.setattr(model.network, "decode", lambda maps, noise: counted.append(len(noise)) or decode(maps, noise))
    batch = TrainingBatch(torch.ones(3, 18, 1, 8, 8), torch.ones(3, 18, 1, 8, 8) > 0)
    for training in (True, False):
        model.train(training).loss(batch, progress=1.0)
    assert counted == [3 * 2, 3 * 10]


@pytest.mark.parametrize(("fairness", "best"), [(0.0, 0.38), (0.95, 0.95)])
def test_two_members_have_the_least_loss_with_less_than_the_right_spread(fairness, best):
    """Truth and members are normal numbers, of deviation 1 and s: the expected loss is 0.80 (1 + s^2)^.5 - c s.

    c is 0.56 for the fair CRPS and half of that for the usual one.
    """
    torch.manual_seed(4)
    truth, members = torch.randn(1, 1, 1, 200_000), torch.randn(1, 2, 1, 1, 200_000)
    spreads = torch.arange(0.02, 1.5, 0.02)
    losses = [ensemble_loss(s * members, truth, truth == truth, fairness, 0.0).total for s in spreads]
    assert float(spreads[int(torch.stack(losses).argmin())]) == pytest.approx(best, abs=0.08)


def test_it_learns_to_differ_where_nobody_can_foresee():
    """The next frame has a number of its own for every four by four cells."""
    torch.manual_seed(2)
    model = models.build("convgru-ensemble", size="tiny", input_frames=1, target_frames=1, fairness=0.95).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    one = torch.full((1, 1, 1, 8, 8), 2.0)
    spread = [model.forecast(model.transform(one), one >= 0, 1, noise(*range(20))).std(0).mean()]
    for _ in range(60):
        rain = torch.full((16, 2, 1, 8, 8), 2.0)
        rain[:, 1] *= 10.0 ** torch.randn(16, 1, 2, 2).repeat_interleave(4, -1).repeat_interleave(4, -2)
        loss = model.loss(TrainingBatch(rain, rain >= 0), progress=0.0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    spread.append(model.forecast(model.transform(one), one >= 0, 1, noise(*range(20))).std(0).mean())
    assert spread[0] < 0.03 and 0.15 < spread[1] < 0.4  # of the truth it is 0.27


@pytest.mark.parametrize("system", ["convgru-ensemble", "lagrangian"])
def test_it_is_trained_and_forecasts_alone_and_in_the_layer(system, tmp_path):
    inside = {"network": "convgru-ensemble"} if system == "lagrangian" else {}
    radar = xnowcast.datasets.synthetic_radar(frames=16, shape=(40, 44))
    settings = {"out": tmp_path, "steps": 3, "batch_size": 2, "crop": 32, "validation": 0}
    model = xnowcast.train(system, radar, size="tiny", target_frames=2, **inside, **settings)
    assert model.card.options["target_frames" if system != "lagrangian" else "network"]
    path = str(tmp_path / "model.safetensors")
    members = radar.nowcast.forecast(path, members=3, steps=4, seed=0).rainfall_rate
    assert members.sizes["member"] == 3 and members.notnull().mean() > 0.5
    assert float(abs(members.isel(member=0) - members.isel(member=1)).max()) > 0
