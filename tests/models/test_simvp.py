"""SimVP and TAU: the networks are the authors' own (tests/golden.py), and so is TAU's divergence."""

import numpy as np
import pytest
import torch
from golden import assert_equals, golden, tabled
from safetensors.torch import save_file

import xnowcast
from xnowcast import models
from xnowcast.models import published
from xnowcast.models.base import TrainingBatch
from xnowcast.nn.losses import differential_divergence
from xnowcast.nn.simvp import SimVPNetwork

SYSTEMS = {"simvp_gsta": "simvp", "simvp_incepu": "simvp", "tau": "tau"}


def filled(found, network):
    network.load_state_dict(published.simvp(network, found.of("weights")))
    return network.eval()


def options_of(found):
    """Of the model whose network a golden file has."""
    given = found.about["constructor"]
    names = {"width": "hid_S", "hidden": "hid_T", "layers": "N_S", "blocks": "N_T"}
    options = {ours: given[theirs] for ours, theirs in names.items()} | {"input_frames": given["in_shape"][0]}
    return options | ({} if given["model_type"] == "TAU" else {"translator": given["model_type"].lower()})


def model_of(name):
    found = golden(name, "golden_zoo")
    model = models.build(SYSTEMS[name], **options_of(found))
    filled(found, model.network)
    return found, model.eval()


# ---------------------------------------------------------------- the authors' numbers


@pytest.mark.parametrize("name", SYSTEMS)
@torch.no_grad()
def test_a_pass_and_the_passes_that_follow_are_those_of_the_authors(name):
    found, model = model_of(name)
    x = found.tensors["input/x"]
    assert_equals(model.network(x), found.tensors["output/y"])
    assert_equals(model.continued(x, 7), found.tensors["output/rollout"])


@torch.no_grad()
def test_two_layers_two_channels_and_other_kernels_are_those_of_the_authors():
    found = golden("simvp_gsta_ns2", "golden_zoo")
    sizes = {"width": 4, "hidden": 24, "layers": 2, "blocks": 3, "expansion": 4}
    network = filled(found, SimVPNetwork(3, channels=2, kernels=(5, 3), **sizes))
    assert_equals(network(found.tensors["input/x"]), found.tensors["output/y"])


@torch.no_grad()
def test_the_divergence_is_that_of_the_authors():
    found, model = model_of("tau")
    pair = found.tensors["input/loss_prediction"], found.tensors["input/loss_truth"]
    everywhere = torch.ones_like(pair[0], dtype=torch.bool)
    published_one = found.tensors["output/differential_divergence"]
    assert differential_divergence(*pair, everywhere)[None].allclose(published_one, rtol=1e-5)
    said, truth = model.network(found.tensors["input/x"]), found.tensors["input/truth"]
    divergence = differential_divergence(said, truth, truth >= 0)[None]
    assert divergence.allclose(found.tensors["output/differential_divergence_of_forecast"], rtol=1e-4)


@pytest.mark.parametrize(
    ("system", "options", "parameters"),
    [
        ("simvp", {}, {5: 40_241_665, 10: 46_769_665, 13: 52_652_545}),
        ("simvp", {"translator": "incepu"}, {5: 55_771_393, 10: 57_946_113, 13: 59_250_945}),
        ("tau", {}, {5: 38_425_281, 10: 44_656_001, 13: 50_262_209}),
    ],
)
def test_networks_have_as_many_parameters_as_the_published_ones(system, options, parameters):
    for frames, expected in parameters.items():
        with torch.device("meta"):
            model = models.build(system, input_frames=frames, **options)
        assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_full_network_takes_the_tensors_of_a_checkpoint(prefix):
    table = {prefix + name.removeprefix("model."): shape for name, shape in tabled("simvp").items()}
    assert len(table) == 262
    with torch.device("meta"):
        network = models.build("simvp", input_frames=10).network
        state = published.simvp(network, {name: torch.empty(shape) for name, shape in table.items()})
    assert {name: own.shape for name, own in state.items()} == {n: p.shape for n, p in network.state_dict().items()}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_checkpoint_becomes_weights_with_a_card(name, tmp_path):
    found, model = model_of(name)
    save_file(found.of("weights"), tmp_path / "theirs.safetensors")
    out = tmp_path / "ours.safetensors"
    card = models.convert(SYSTEMS[name], tmp_path / "theirs.safetensors", out, **options_of(found))
    assert "Apache-2.0" in card.licence and "videos, not rain" in card.training_data
    frames = found.tensors["input/x"]
    said, expected = (one.forecast(frames, frames >= 0, 5) for one in (xnowcast.load(out), model))
    assert said.equal(expected) and said.std() > 0.1


def test_weights_of_other_translators_are_refused():
    gsta, tau = (golden(name, "golden_zoo").of("weights") for name in ("simvp_gsta", "tau"))
    network = SimVPNetwork(4, width=8, hidden=32, blocks=4)
    with pytest.raises(ValueError, match=r"no place for 'hid\.enc\.0\.block\.attn\..*fc\.0\.weight' and"):
        published.simvp(network, tau)
    with pytest.raises(ValueError, match=r"no place for 'hid\.enc\.0\.block\.attn\."):
        published.simvp(SimVPNetwork(4, translator="incepu", width=8, hidden=32, blocks=4), gsta)
    with pytest.raises(ValueError, match=r"there is none for 'translator\.4\."):
        published.simvp(SimVPNetwork(4, width=8, hidden=32, blocks=5), gsta)


# ---------------------------------------------------------------- losses


def test_the_divergence_of_changes_that_were_worked_out_by_hand():
    """Changes 0 and 0.1 log 3 are shares of 1/4 and 3/4 of the forecast, and of 1/2 and 1/2 of a truth that stays."""
    forecast = torch.tensor([[[0.0, 0.0, 0.3], [0.0, 0.1 * np.log(3.0), 0.9]]])
    observed = torch.tensor([[[True, True, True], [True, True, False]]])
    expected = (0.25 * np.log(0.5) + 0.75 * np.log(1.5)) / 2
    assert float(differential_divergence(forecast, 0 * forecast, observed)) == pytest.approx(expected, rel=1e-5)
    assert float(differential_divergence(forecast, forecast + 0.2, observed)) == pytest.approx(0.0, abs=1e-6)


def test_what_was_not_measured_has_no_share_and_no_gradient():
    torch.manual_seed(0)
    forecast, truth = torch.rand(2, 2, 4, 1, 5, 6)
    forecast.requires_grad_()
    observed = torch.rand(truth.shape) > 0.3
    observed[1] = False  # a sample that nothing is known of
    loss = differential_divergence(forecast, truth, observed)
    loss.backward()
    assert loss > 0 and forecast.grad.isfinite().all()
    assert (forecast.grad[0] != 0).any() and (forecast.grad[~observed] == 0).all()
    other = torch.where(observed, truth, 9.0)
    assert differential_divergence(forecast, other, observed).equal(loss)
    assert float(differential_divergence(truth[:, :1], truth[:, 1:2], observed[:, :1])) == 0.0


def test_tau_weighs_the_divergence_beside_the_squared_error():
    torch.manual_seed(1)
    rain = 5.0 * torch.rand(2, 8, 1, 16, 16)
    batch = TrainingBatch(rain, torch.rand_like(rain) > 0.1)
    losses = {}
    for weight in (0.0, 10.0):
        torch.manual_seed(2)
        model = models.build("tau", size="tiny", target_frames=3, divergence_weight=weight).eval()
        losses[weight] = model.loss(batch, progress=0.5)
    frames = model.transform(rain)
    divergence = differential_divergence(model.continued(frames[:, :5], 3), frames[:, 5:], batch.observed[:, 5:])
    assert losses[10.0].parts["divergence"].allclose(10.0 * divergence)
    torch.testing.assert_close(losses[10.0].total, losses[0.0].total + 10.0 * divergence)
    assert losses[0.0].total.equal(losses[0.0].parts["forecast"]) and divergence > 1e-5


@pytest.mark.parametrize(("system", "options"), [("simvp", {}), ("simvp", {"translator": "incepu"}), ("tau", {})])
def test_it_learns_rain_that_moves(system, options):
    torch.manual_seed(0)
    model = models.build(system, size="tiny", input_frames=3, target_frames=3, **options).train()
    rain = torch.zeros(8, 6, 1, 16, 16)
    for sample, (y, x) in enumerate(torch.randint(16, (8, 2)).tolist()):
        for time in range(6):
            rain[sample, time, 0, torch.arange(y, y + 6)[:, None] % 16, torch.arange(x, x + 6) % 16 - 2 * time] = 20.0
    batch = TrainingBatch(rain, rain >= 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(25):
        loss = model.loss(batch, progress=0.0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.detach() < 0.5 * model.transform(rain)[:, 3:].var()  # of a forecast that knows the mean alone


# ---------------------------------------------------------------- in the package


def test_sizes_can_be_told_one_by_one_and_those_that_are_none_are_refused():
    model = models.build("tau", size="tiny", layers=3, width=6)
    assert model.task.grid_multiple == 2 == model.network.reduction and len(model.network.translator) == 2
    with pytest.raises(ValueError, match="width is 7: it must be even"):
        models.declare("simvp", width=7)


@pytest.mark.parametrize("system", ["simvp", "tau"])
def test_in_the_moving_frame_it_begins_with_no_difference_from_the_newest(system):
    layer = models.build("lagrangian", network=system, size="tiny").eval()
    frames = torch.rand(1, 5, 1, 16, 16)
    assert layer.network.continued(frames, 7).equal(frames[:, -1:].expand(-1, 7, -1, -1, -1))
    radar = xnowcast.datasets.synthetic_radar(frames=8, shape=(48, 52))
    layer = models.build("lagrangian", network=system, size="tiny", motion_noise=0.4).eval()
    first, second = radar.nowcast.forecast(layer, steps=3, members=2).rainfall_rate.transpose("member", ...)
    assert float(abs(first - second).mean()) > 0.01
