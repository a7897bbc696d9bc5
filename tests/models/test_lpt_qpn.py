"""LPT-QPN: the network is the authors' own (tests/golden.py), and the loss that their code cannot run."""

import pytest
import torch
import xarray
from golden import assert_equals, golden, tabled

import xnowcast
from xnowcast import models
from xnowcast.models import lpt_qpn, published
from xnowcast.models.base import TrainingBatch
from xnowcast.models.lpt_qpn import convection_diffusion
from xnowcast.nn.restormer import ChannelAttention, GatedFeedForward, SigmoidNorm

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def theirs(monkeypatch):
    """The golden file, and a model with its weights."""
    found = golden("lpt_qpn", "golden_zoo")
    given = found.about["constructor"]
    sizes = {"blocks": given["num_blocks"], "heads": given["heads"], "refinement": given["num_refinement_blocks"]}
    monkeypatch.setitem(lpt_qpn.SIZES, "tiny", {"width": given["dim"]} | sizes)
    model = models.build("lpt-qpn", size="tiny").eval()
    model.load_state_dict(published.lpt_qpn(model, found.of("weights")))
    return found, model


# ---------------------------------------------------------------- the authors' numbers


@torch.no_grad()
def test_forecast_and_coefficients_are_those_of_the_authors_code(theirs):
    found, model = theirs
    frames = found.tensors["input/x"][:, :, None]
    said = model.network(frames)
    assert_equals(said[:, :, 0], found.tensors["output/y"])
    for own, name in zip(model.network.coefficients(said), ("a", "b1", "b2", "c"), strict=True):
        assert_equals(own[None], found.tensors[f"output/{name}"])
    assert_equals(model.forecast(frames, frames >= 0, 20)[:, :, 0], found.tensors["output/y"].clamp(0, 1))


def test_the_full_network_has_the_published_parameters_and_takes_all_published_tensors():
    with torch.device("meta"):
        model = models.build("lpt-qpn")
        state = published.lpt_qpn(model, {name: torch.empty(shape) for name, shape in tabled("lpt_qpn").items()})
    own = model.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {name: own[name].shape for name in own}
    assert sum(tensor.numel() for tensor in own.values()) == 4_636_747
    parts = {"central": 2_549_584, "decoder": 717_616, "encoder": 654_120, "up": 604_800}
    for part, parameters in parts.items():
        assert sum(p.numel() for p in getattr(model.network.change, part).parameters()) == parameters


def test_weights_of_other_networks_are_refused(theirs):
    found, model = theirs
    with pytest.raises(ValueError, match=r"no place for 'head\.weight'"):
        published.lpt_qpn(model, found.of("weights") | {"head.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"none for 'network\.change\.embed\.weight'"):
        published.lpt_qpn(model, {k: v for k, v in found.of("weights").items() if "patch_embed" not in k})


# ---------------------------------------------------------------- its parts


def test_channels_that_are_alike_are_read_and_their_weights_do_not_sum_to_one():
    """Two channels of equal maps and one of the opposite: sg(1) of the first two and sg(-1) of the third."""
    attention = ChannelAttention(3, 1)
    with torch.no_grad():
        attention.qkv.weight.copy_(torch.eye(3).repeat(3, 1)[..., None, None])
        attention.depthwise.weight.zero_()[:, :, 1, 1] = 1.0
        attention.out.weight.copy_(torch.eye(3)[..., None, None])
        x = torch.randn(1, 1, 4, 5) * torch.tensor([1.0, 1.0, -1.0]).view(1, 3, 1, 1)
        read = attention(x)
    near, far = torch.sigmoid(torch.tensor([1.0, -1.0]))
    shares = torch.stack([2 * near - far, 2 * near - far, 2 * far - near]).view(1, 3, 1, 1)
    torch.testing.assert_close(read, shares * x[:, :1])


def test_heads_do_not_read_one_another():
    attention = ChannelAttention(4, 2)
    with torch.no_grad():
        attention.out.weight.copy_(torch.eye(4)[..., None, None])
        attention.qkv.weight.copy_(torch.eye(4).repeat(3, 1)[..., None, None])
        x = torch.randn(1, 4, 5, 6)
        changed = torch.cat([x[:, :2], torch.randn(1, 2, 5, 6)], dim=1)
        same, other = (attention(changed) - attention(x)).abs().flatten(2).amax(-1)[0].split(2)
    assert same.max() == 0 and other.min() > 1e-3


@torch.no_grad()
def test_norm_and_gate_by_hand():
    x = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
    norm = SigmoidNorm(2)
    norm.gain.copy_(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(norm(x).flatten(), torch.tensor([-1.0, 2.0]).sigmoid())
    mix = GatedFeedForward(1, 1.0)
    mix.enter.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
    mix.depthwise.weight.zero_()[:, :, 1, 1] = 1.0
    mix.out.weight.fill_(1.0)
    one = torch.ones(1, 1, 2, 2)
    torch.testing.assert_close(mix(one), 0.8413447 * 0.2689414 * one)  # GELU(1).sg(-1)


# ---------------------------------------------------------------- the loss


def test_the_equation_worked_by_hand():
    """A parabola in y, 0 1 4, that rises by 3: F_t 3, F_y 2, F_yy 2, nothing along x."""
    frames = torch.tensor([0.0, 1.0, 4.0]).view(1, 1, 1, 3, 1).expand(1, 1, 1, 3, 3)
    frames = torch.cat([frames, frames + 3.0], dim=1)
    for coefficients, expected in (
        ([1.0, 0.0, 0.0, 0.0], 3.0),
        ([0.0, 1.0, 0.0, 0.0], 0.0),
        ([0.0, 0.0, 1.0, 0.0], 2.0),
        ([0.0, 0.0, 0.0, 1.0], 2.0),
        ([-2.0, 5.0, 1.0, 1.0], -2.0),
    ):
        assert float(convection_diffusion(frames, torch.tensor(coefficients))) == expected
        assert float(convection_diffusion(-frames + 8, torch.tensor(coefficients))) == expected - 6 * coefficients[0]


def test_x_and_y_are_treated_alike():
    frames = torch.rand(1, 3, 1, 6, 7)
    a, b, c, d = torch.rand(4)
    turned = convection_diffusion(frames.mT, torch.stack([a, c, b, d]))
    torch.testing.assert_close(turned.mT, convection_diffusion(frames, torch.stack([a, b, c, d])))


def batch(frames=7, b=2):
    torch.manual_seed(2)
    rain = 4.0 * torch.rand(b, frames, 1, 16, 16)
    return TrainingBatch(rain, rain >= 0)


def small(**options):
    torch.manual_seed(1)
    return models.build("lpt-qpn", size="tiny", target_frames=2, **options)


def test_the_loss_is_the_squared_error_and_half_of_what_the_equation_leaves():
    model, given = small(), batch()
    loss = model.loss(given, progress=0.5)
    frames = model.transform(given.rain)
    said = model.network(frames[:, :5])
    torch.testing.assert_close(loss.parts["forecast"], (said - frames[:, 5:]).square().mean().detach())
    left = convection_diffusion(said, model.network.coefficients(said)).abs().mean()
    assert left > 1e-4
    torch.testing.assert_close(loss.parts["physics"], 0.5 * left.detach())
    torch.testing.assert_close(loss.total, sum(loss.parts.values()))
    alone = small(physics_weight=0)
    plain = alone.loss(given, progress=0.5)
    plain.total.backward()
    assert not [name for name, p in alone.named_parameters() if p.requires_grad and p.grad is None]
    assert plain.parts.keys() == {"forecast"} and float(plain.total.detach()) == float(loss.parts["forecast"])


def test_one_frame_has_no_change_in_time_to_be_judged():
    torch.manual_seed(1)
    loss = models.build("lpt-qpn", size="tiny", target_frames=1).loss(batch(6), progress=0.5)
    assert float(loss.parts["physics"]) == 0 and torch.isfinite(loss.total)


def test_every_parameter_learns_and_the_loss_falls():
    model, given = small(), batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    totals = []
    for step in range(25):
        loss = model.loss(given, progress=0.0).total
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
        optimizer.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < 0.5 * totals[0]


# ---------------------------------------------------------------- in the package


def test_in_the_moving_frame_it_begins_with_no_change_as_recurrent_networks_do():
    radar = xnowcast.datasets.synthetic_radar(frames=8, shape=(48, 56))
    said, expected = (
        radar.nowcast.forecast(models.build("lagrangian", network=name, size="tiny").eval(), steps=4).rainfall_rate
        for name in ("lpt-qpn", "ms-convlstm")
    )
    xarray.testing.assert_allclose(said, expected, rtol=1e-4, atol=1e-4)
    assert said.max() > 1


@pytest.mark.parametrize("system", ["lpt-qpn", "lagrangian"])
def test_it_is_trained_and_forecasts_alone_and_in_the_layer(system, tmp_path):
    inside = {"network": "lpt-qpn"} if system == "lagrangian" else {}
    radar = xnowcast.datasets.synthetic_radar(frames=16, shape=(40, 44))
    settings = {"out": tmp_path, "steps": 3, "batch_size": 2, "crop": 32, "validation": 0}
    xnowcast.train(system, radar, size="tiny", target_frames=2, **inside, **settings)
    members = {"members": 2, "seed": 0} if system == "lagrangian" else {}
    forecast = radar.nowcast.forecast(str(tmp_path / "model.safetensors"), steps=5, **members).rainfall_rate
    assert forecast.sizes["lead_time"] == 5 and forecast.notnull().mean() > 0.5
