"""PhyDNet: network, moments and loss are those of the authors' code (tests/golden.py), and what is around them."""

import pytest
import torch
from golden import assert_equals, golden

import xnowcast
from xnowcast import models
from xnowcast.models import published
from xnowcast.models.base import TrainingBatch
from xnowcast.nn.phydnet import PhyDNetwork, kernel_moments


@pytest.fixture
def frames():
    torch.manual_seed(0)
    return torch.rand(2, 5, 1, 12, 16)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return models.build("phydnet", size="tiny").eval()


def diffcasts():
    """The golden file and the model of its weights."""
    found = golden("diffcast_phydnet", "golden_zoo")
    model = models.build("phydnet", size="tiny", input_frames=3, target_frames=4).eval()
    model.network = PhyDNetwork(width=16, hidden=(24, 8, 16))
    model.load_state_dict(published.phydnet(model, found.of("weights")))
    return found, model


# ---------------------------------------------------------------- the authors' numbers


def test_forecasts_are_those_of_the_authors_code():
    found, model = diffcasts()
    x = found.tensors["input/frames"]
    assert_equals(model.forecast(x, x >= 0, 4), found.tensors["output/y"])


@torch.no_grad()
def test_loss_and_moments_are_those_of_the_authors_code():
    found, model = diffcasts()
    moments = kernel_moments(model.network.physical.derivatives.weight[:, 0])
    assert_equals(moments, found.tensors["output/moments_of_first_input_channel"])
    frames = torch.cat([found.tensors["input/frames"], found.tensors["input/truth"]], dim=1)
    model.transform = lambda rain: rain
    said = model.loss(TrainingBatch(frames, frames >= 0), progress=0.0)
    assert_equals(said.total[None], found.tensors["output/loss"])


def test_the_full_network_has_as_many_parameters_as_the_published_one():
    with torch.device("meta"):
        model = models.build("phydnet")
    assert sum(p.numel() for p in model.parameters()) == 3_091_732


# ---------------------------------------------------------------- what is around them


def test_filters_that_are_derivatives_have_no_loss(model):
    """Moments are linear in the filters, so that those of the wanted ones can be solved for."""
    cell = model.network.physical
    size = cell.derivatives.weight.shape[-1]
    of_units = kernel_moments(torch.eye(size**2, dtype=torch.float64).view(-1, size, size)).flatten(1)
    filters = torch.linalg.inv(of_units).view(-1, 1, size, size)
    with torch.no_grad():
        cell.derivatives.weight.copy_(filters.expand_as(cell.derivatives.weight))
        assert float(cell.moment_loss()) < 1e-6
        field = torch.arange(20.0).square().expand(1, cell.derivatives.in_channels, 20, 20)
        cell.derivatives.bias.zero_()
        second = cell.derivatives(field)[0, 2] / cell.derivatives.in_channels
    torch.testing.assert_close(second[4:-4, 4:-4], torch.full((12, 12), 2.0), atol=1e-3, rtol=0)
    assert float(models.build("phydnet", size="tiny").network.physical.moment_loss().detach()) > 1


def test_the_first_steps_of_a_longer_forecast_are_the_shorter_one(model, frames):
    few, many = (model.forecast(frames, frames >= 0, steps) for steps in (3, 8))
    torch.testing.assert_close(many[:, :3], few)


def test_the_loss_is_a_sum_over_frames_of_what_was_measured(model, frames):
    rain = model.transform.inverse(frames)
    observed = torch.ones_like(rain, dtype=torch.bool)
    observed[:, 2] = False
    observed[:, 3, :, :6] = False
    said = model.loss(TrainingBatch(rain, observed), progress=1.0)
    predicted = model.rollout(model.transform(rain), 4, known=5)[0]
    errors = (predicted - model.transform(rain)[:, 1:]).square()
    by_hand = errors[:, 0].mean() + errors[:, 2, :, 6:].mean() + errors[:, 3].mean()
    torch.testing.assert_close(said.parts["forecast"], by_hand.detach())
    torch.testing.assert_close(said.total, by_hand + model.network.physical.moment_loss())


def test_a_residual_one_begins_with_the_newest_frame(model, frames):
    model.become_residual()
    torch.testing.assert_close(model.forecast(frames, frames >= 0, 3), frames[:, -1:].expand(-1, 3, -1, -1, -1))


@pytest.mark.parametrize("system", ["phydnet", "lagrangian"])
def test_it_learns_and_forecasts_alone_and_in_the_layer(system, tmp_path):
    inside = {"network": "phydnet"} if system == "lagrangian" else {}
    radar = xnowcast.datasets.synthetic_radar(frames=16, shape=(40, 44))
    settings = {"out": tmp_path, "steps": 3, "batch_size": 2, "crop": 32, "validation": 0}
    xnowcast.train(system, radar, size="tiny", target_frames=2, **inside, **settings)
    forecast = radar.nowcast.forecast(str(tmp_path / "model.safetensors"), steps=4).rainfall_rate
    assert forecast.sizes["lead_time"] == 4 and forecast.notnull().mean() > 0.5


def test_training_lowers_the_loss(model, frames):
    rain = model.transform.inverse(torch.rand(1, 7, 1, 8, 8))
    batch = TrainingBatch(rain, rain >= 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = model.loss(batch, progress=1.0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
