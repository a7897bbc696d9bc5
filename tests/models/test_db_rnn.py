"""MS-RNN, DB-RNN and single-scale stacks: the paper's sizes, its equations, its losses, and the package's contract."""

import dataclasses
from datetime import timedelta

import numpy as np
import pytest
import torch
from reference_recurrent import PlainDBRNN, PlainMSRNN
from rounding import assert_close
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import xnowcast
from xnowcast import models
from xnowcast.fields.pixels import dbz_to_pixel
from xnowcast.models import weights
from xnowcast.models.base import Adversary, ForecastModel, TrainableModel, TrainingBatch
from xnowcast.models.recurrent import RecurrentForecaster
from xnowcast.models.transforms import Reflectivity
from xnowcast.nn.losses import gradient_difference_loss, pixel_loss
from xnowcast.nn.multiscale import halved
from xnowcast.nn.stacked import Stacked

CELLS = models.CELLS
PLACE = "xnowcast.models.recurrent:RecurrentForecaster"
SYSTEMS = [prefix + cell for prefix in ("", "ms-", "db-") for cell in CELLS]
each_cell = pytest.mark.parametrize("cell", CELLS)
each_system = pytest.mark.parametrize("name", SYSTEMS)

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(name, **options):
    return models.build(name, size="tiny", **options).eval()


def batch(frames=10, shape=(32, 32), b=2, missing=0.0):
    rain = 20 * torch.rand(b, frames, 1, *shape)
    observed = torch.rand(rain.shape) >= missing
    return TrainingBatch(rain * observed, observed)


def count(module):
    return sum(p.numel() for p in module.parameters())


# ---------------------------------------------------------------- the paper's numbers

PARAMETERS = {
    "convlstm": 250_057,
    "trajgru": 286_465,
    "predrnn": 507_097,
    "predrnn++": 789_913,
    "mim": 1_038_313,
    "motionrnn": 1_073_287,
    "preciplstm": 993_097,
    "mk-lstm": 1_067_257,
}
# of MotionRNN, what MIM leaves out and the MotionGRU of the last cell
LEAN = {"predrnn++": 685_753, "mim": 897_697, "motionrnn": 1_073_287 - (1_038_313 - 897_697) - 5_829}
TABLE_V = {"convlstm": (0.25, 0.50), "predrnn": (0.51, 1.01)}  # millions, MS and DB


@each_cell
def test_parameters_are_those_of_the_published_networks(cell):
    with torch.device("meta"):
        assert count(models.build(f"ms-{cell}")) == PARAMETERS[cell]
        assert count(models.build(f"db-{cell}")) == 2 * PARAMETERS[cell]
        assert count(models.build(cell)) == PARAMETERS[cell]  # the same six cells on one scale
    if cell in TABLE_V:
        assert tuple(round(n * PARAMETERS[cell] / 1e6, 2) for n in (1, 2)) == TABLE_V[cell]


@pytest.mark.parametrize("cell", LEAN)
def test_parameters_without_those_that_nothing_reads(cell):
    with torch.device("meta"):
        model = models.build(f"ms-{cell}", lean=True)
        full = models.build(f"ms-{cell}")
    assert count(model) == LEAN[cell]
    assert sum(p.numel() for p in full.parameters() if p.requires_grad) == LEAN[cell]


def test_the_paper_counts_idle_weights_of_the_first_mim_cell():
    """0.99 M in Table V: the lean network and what its first cell would hold to make T."""
    first = models.build("ms-mim").network.cells[0]
    assert count(first.idle) + LEAN["mim"] == 986_233
    assert round(986_233 / 1e6, 2) == 0.99


def test_tiny_parameters():
    assert count(tiny("ms-convlstm")) == 28_057
    assert count(tiny("ms-predrnn")) == 56_905
    assert count(tiny("db-convlstm")) == 56_114
    assert count(tiny("db-predrnn")) == 113_810


MULTIPLY_ADDS = {  # in 10^9, nine steps, one sample of 160 x 160
    "convlstm": 25.093,
    "trajgru": 28.751,
    "predrnn": 50.872,
    "predrnn++": 68.091,
    "mim": 79.986,
    # 106.603 published, less what its idle weights cost (MIM's 104.172 - 79.986), and less three quarters of the
    # transposed convolutions: their hooks count 16 multiply-adds per output cell and channel pair where 4 are made;
    # and less the MotionGRU of the last cell, 58,636,800 a step, which is computed there and not looked at
    "motionrnn": 106.603 - (104.172 - 79.986) - 9 * (0.75 * 67_200 * 2_304 + 58_636_800) / 1e9,
    # every weight of six cells on the cells of its scale, and of what embeds and reads
    "mk-lstm": 9 * (67_200 * 24 * (4 * 48 * 34 + 24 * 34 + 48) + 25_600 * 2 * 24) / 1e9,
}


@pytest.mark.parametrize("cell", MULTIPLY_ADDS)
def test_multiply_adds_are_those_of_the_published_networks(cell):
    """Nine times a step that has states; the first step, which has none, costs less."""
    with torch.device("meta"), torch.no_grad():
        model, frame = models.build(f"ms-{cell}"), torch.zeros(1, 1, 160, 160)
        _, carried = model.advance(frame, None)
        with FlopCounterMode(display=False) as counter:
            model.advance(frame, carried)
    found = 9 * counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 2 / 1e9
    assert found == pytest.approx(MULTIPLY_ADDS[cell], abs=1.1e-3)


def test_table_v_counts_the_upsampling_too():
    """11 per upsampled element: H on two scales, M too, and MIM's X_prev in all steps but the first."""
    upsampled = 9 * 24 * (160**2 + 80**2) * 11 / 1e9
    for cell, maps, paper in (("convlstm", 1, 25.2), ("predrnn", 2, 51.0), ("mim", 2 + 8 / 9, 80.2)):
        assert round(MULTIPLY_ADDS[cell] + maps * upsampled, 1) == paper


def test_a_db_step_costs_two_ms_steps():
    def cost(name):
        with torch.device("meta"), torch.no_grad():
            model, frame = models.build(name), torch.zeros(1, 1, 160, 160)
            with FlopCounterMode(display=False) as counter:
                model.advance(frame, model.advance(frame, None)[1])
        return counter.get_total_flops()

    assert cost("db-convlstm") == 2 * cost("ms-convlstm")


DISCRIMINATORS = dict.fromkeys(CELLS[:2], 11_701) | dict.fromkeys(CELLS[2:4], 16_873) | dict.fromkeys(CELLS[4:], 26_881)


@each_cell
def test_each_cell_has_its_discriminator(cell):
    adversary = tiny(f"db-{cell}").adversary((160, 160))
    assert count(adversary) == DISCRIMINATORS[cell]
    assert tiny(f"ms-{cell}").adversary((160, 160)) is None


# ---------------------------------------------------------------- the equations


@each_cell
def test_ms_rnn_is_equations_three_and_four(cell):
    model, frames = tiny(f"ms-{cell}"), torch.rand(2, 3, 1, 16, 24)
    with torch.no_grad():
        (ours,) = model.rollout(frames, 5, known=3)
        assert_close(ours, PlainMSRNN(model)(frames, 3))


@each_cell
def test_db_rnn_is_equations_two_to_six(cell):
    model, frames = tiny(f"db-{cell}"), torch.rand(1, 2, 1, 16, 16)
    with torch.no_grad():
        ours = model.rollout(frames, 4, known=2)
        for mine, plain in zip(ours, PlainDBRNN(model)(frames, 3), strict=True):
            assert_close(mine, plain)


def test_the_largest_of_four_is_the_same_with_and_without_gradient():
    h = torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        fast = halved(h)
    assert torch.equal(fast, halved(h)) and torch.equal(fast, F.max_pool2d(h, 2))


def test_a_single_scale_stack_chains_its_cells():
    model = tiny("predrnn", layers=2)
    x, y = torch.rand(2, 1, 1, 9, 11)
    lower, upper = model.network.cells
    h, s1, m = lower(model.network.embed(x))
    h, s2, m = upper(h, None, m)
    first = model.network.read(h)
    h, _, m = lower(model.network.embed(y), s1, m)
    second = model.network.read(upper(h, s2, m)[0])
    (ours,) = model.rollout(torch.stack([x, y], dim=1), 2, known=2)
    torch.testing.assert_close(ours, torch.stack([first, second], dim=1))


class Echo(nn.Module):
    """A cell that gives what it reads."""

    def forward(self, x, state, memory, below):
        return x, state, memory


def test_on_squares_of_cells_each_cell_keeps_its_place():
    network = Stacked([Echo()], 4, patch=2)
    frame = torch.rand(2, 1, 6, 10)
    with torch.no_grad():
        for layer in (network.embed, network.read):
            layer.weight.copy_(torch.eye(4)[..., None, None])
            layer.bias.zero_()
        torch.testing.assert_close(network(frame, [None], None)[0], frame)


@pytest.mark.parametrize("name", ["convlstm", "ms-convlstm", "db-convlstm"])
def test_on_squares_of_cells_a_step_costs_a_quarter_and_says_every_cell(name):
    model, plain = tiny(name, patch=2), tiny(name)
    assert model.task.grid_multiple == 2 * plain.task.grid_multiple
    frames, costs = torch.rand(1, 5, 1, 16, 24), []
    for each in (model, plain):
        with FlopCounterMode(display=False) as counter:
            assert each.forecast(frames, frames >= 0, 2).shape == (1, 2, 1, 16, 24)
        costs.append(counter.get_total_flops())
    assert costs[0] == pytest.approx(costs[1] / 4, rel=0.02)


def test_the_deblurring_skips_matter_and_can_be_left_out():
    model, without = tiny("db-convlstm"), tiny("db-convlstm", skips=False)
    without.load_state_dict(model.state_dict())
    frame = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        (forecast, deblurred), _ = model.advance(frame, None)
        (same, other), _ = without.advance(frame, None)
        alone = without.deblurring(same, (None,) * 6, None)[0]
    assert torch.equal(forecast, same)
    assert not torch.allclose(deblurred, other)
    torch.testing.assert_close(other, alone)


def gradients_of_memories(model, steps, which):
    """Largest gradient of one prediction's sum with respect to the memory that each cell gave, step by step."""
    memories = []

    def keep(cell, inputs, result):
        result[2].retain_grad()
        memories.append(result[2])

    networks = [getattr(model, name) for name in ("forecasting", "deblurring")]
    handles = [cell.register_forward_hook(keep) for network in networks for cell in network.cells]
    predictions = model.rollout(torch.rand(1, steps, 1, 16, 16), steps, known=steps)
    predictions[which][:, -1].sum().backward()
    for handle in handles:
        handle.remove()
    return [0.0 if m.grad is None else m.grad.abs().max().item() for m in memories]


def test_one_memory_zigzags_through_all_twelve_cells():
    """The forecast of step 2 learns through the memories of all twelve cells of step 1."""
    reached = gradients_of_memories(tiny("db-predrnn"), 2, which=0)
    assert len(reached) == 24 and min(reached[:12]) > 0
    assert min(reached[12:17]) > 0 and max(reached[18:]) == 0  # of step 2, what comes before the forecast


def test_the_memory_of_the_forecasting_network_can_be_its_own():
    """Without skips, the forecast of step 2 then knows nothing of the deblurring network of step 1."""
    reached = gradients_of_memories(tiny("db-predrnn", memory="forecast"), 2, which=0)
    assert min(reached[:6]) > 0 and max(reached[6:12]) == 0


def test_the_staged_networks_are_joined_by_nothing_but_the_forecast():
    model = tiny("db-predrnn", staged=True)
    frames = torch.rand(1, 3, 1, 16, 16)
    forecast, deblurred = model.rollout(frames, 5, known=3)
    single = RecurrentForecaster(kind="ms", cell="predrnn", size="tiny")
    single.network.load_state_dict(model.forecasting.state_dict())
    torch.testing.assert_close(forecast, single.rollout(frames, 5, known=3)[0])
    deblurred.sum().backward()
    assert all(p.grad is None for p in model.forecasting.parameters())
    second = RecurrentForecaster(kind="ms", cell="predrnn", size="tiny")
    second.network.load_state_dict(model.deblurring.state_dict())
    torch.testing.assert_close(deblurred, second.rollout(forecast, 5, known=5)[0])


# ---------------------------------------------------------------- forecasts


@each_system
def test_a_system_keeps_the_contract(name):
    model = tiny(name)
    assert isinstance(model, ForecastModel) and isinstance(model, TrainableModel)
    assert model.task == models.declare(name, size="tiny")
    assert model.task.trained and not model.task.stochastic and model.task.quantity == "rain_rate"
    assert model.training_frames == 10 and model.transform == Reflectivity()
    model.task = dataclasses.replace(model.task, step=timedelta(minutes=5), spacing=1000.0)
    frames = torch.rand(1, 6, 1, 12, 20)
    kept = frames.clone()
    forecast = model.forecast(frames, frames >= 0, 3)
    assert forecast.shape == (1, 3, 1, 12, 20) and 0 <= forecast.min() <= forecast.max() <= 1
    assert torch.equal(forecast, model.forecast(frames, frames >= 0, 3)) and torch.equal(frames, kept)
    assert torch.equal(forecast, model.forecast(frames[:, 1:], frames[:, 1:] >= 0, 3)), "it reads the newest five"
    longer = model.forecast(frames, frames >= 0, 5)
    assert longer.shape[1] == 5
    torch.testing.assert_close(longer[:, :3], forecast)


@pytest.mark.parametrize("name", ["trajgru", "ms-predrnn++", "db-motionrnn", "db-preciplstm"])
@pytest.mark.parametrize("shape", [(8, 8), (20, 12), (36, 44)])
def test_every_grid_that_is_a_multiple_of_four_will_do_and_samples_do_not_mix(name, shape):
    model, frames = tiny(name, input_frames=2), torch.rand(2, 2, 1, *shape)
    together = model.forecast(frames, frames >= 0, 2)
    for sample in (0, 1):
        alone = model.forecast(frames[sample : sample + 1], frames[:1] >= 0, 2)
        assert_close(together[sample : sample + 1], alone)


@pytest.mark.parametrize("name", ["convlstm", "ms-mim", "db-predrnn"])
def test_later_frames_never_change_earlier_predictions(name):
    model, frames = tiny(name), torch.rand(1, 6, 1, 16, 16)
    changed = frames.clone()
    changed[:, 4:] = torch.rand(1, 2, 1, 16, 16)
    with torch.no_grad():
        for before, after in zip(model.rollout(frames, 6, known=6), model.rollout(changed, 6, known=6), strict=True):
            assert torch.equal(before[:, :4], after[:, :4])  # predictions of the frames 1 to 4
            assert not torch.equal(before[:, 4], after[:, 4])


@pytest.mark.parametrize("name", ["ms-predrnn", "db-convlstm"])
def test_without_sampling_the_truth_beyond_the_input_is_never_read(name):
    model, given = tiny(name), batch()
    other = TrainingBatch(given.rain.clone(), given.observed)
    other.rain[:, 5:] = 20 * torch.rand_like(other.rain[:, 5:])
    with torch.no_grad():
        same = [model.predict_batch(b, progress=1.0)[2] for b in (given, other)]
        sampled = [model.predict_batch(b, progress=0.0)[2] for b in (given, other)]
    for a, b in zip(*same, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(*sampled, strict=True):
        assert torch.equal(a[:, :5], b[:, :5]) and not torch.equal(a[:, 5:], b[:, 5:])


def test_the_deblurred_frame_is_fed_back():
    model, frames = tiny("db-convlstm"), torch.rand(1, 2, 1, 16, 16)
    with torch.no_grad():
        _, deblurred = model.rollout(frames, 4, known=2)
        fed = torch.cat([frames, deblurred[:, 1:3]], dim=1)  # X0, X1, then what was said of X2, X3
        torch.testing.assert_close(model.rollout(fed, 4, known=4)[1], deblurred)


@pytest.mark.parametrize("name", ["ms-convlstm", "db-preciplstm"])
def test_autocast_to_bfloat16_forecasts_and_trains(name):
    model = tiny(name).train()
    given, adversary = batch(shape=(32, 32), b=1), model.adversary((32, 32))
    exact = model.forecast(model.transform(given.rain[:, :5]), given.observed, 2)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.forecast(model.transform(given.rain[:, :5]), given.observed, 2)
        loss = model.loss(given, progress=0.5, adversary=adversary)
    loss.total.backward()
    assert loss.total.dtype == torch.float32 and torch.isfinite(loss.total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(rough.float(), exact, atol=0.02, rtol=0)


def test_it_runs_in_xarray_and_its_weights_come_back(tmp_path):
    radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(30, 34))  # no multiple of 4
    model = tiny("db-predrnn", memory="forecast")
    card = weights.save(
        tmp_path / "db.safetensors", model, system="db-predrnn", options={"size": "tiny", "memory": "forecast"}
    )
    assert card.parameters == count(model)
    loaded = weights.load(tmp_path / "db.safetensors")
    assert isinstance(loaded, RecurrentForecaster) and loaded.options.cell == "predrnn"
    assert loaded.options.memory == "forecast"
    in_memory = radar.nowcast.forecast(model, steps=2).compute()
    from_file = radar.nowcast.forecast(str(tmp_path / "db.safetensors"), steps=2).compute()
    assert in_memory.rainfall_rate.shape[-2:] == (30, 34)
    assert from_file.rainfall_rate.equals(in_memory.rainfall_rate)


# ---------------------------------------------------------------- losses


def test_the_weights_of_the_pixel_losses_change_over_the_first_two_fifths():
    """Section IV-B: 1 and 0.01 at the start, equal in the middle of the ramp, 0.01 and 1 after 20 of 50 epochs."""
    model = tiny("db-convlstm")
    for progress, expected in (
        (0, (1, 0.01)),
        (0.2, (0.505, 0.505)),
        (0.4, (0.01, 1)),
        (0.7, (0.01, 1)),
        (1, (0.01, 1)),
    ):
        assert model.pixel_weights(progress) == pytest.approx(expected)
    assert tiny("db-convlstm", loss_schedule="fixed").pixel_weights(0.1) == (1, 1)
    assert tiny("db-convlstm", deblur_loss=False).pixel_weights(1.0) == pytest.approx((0.01, 0))
    staged = tiny("db-convlstm", staged=True)
    assert staged.pixel_weights(0.49) == (1, 0) and staged.pixel_weights(0.5) == (0, 1)


def test_the_loss_is_equation_seven_over_the_number_of_cells():
    model, given = tiny("db-convlstm"), batch(b=2, shape=(32, 36))
    adversary = model.adversary((32, 36))
    found = model.loss(given, progress=1.0, adversary=adversary)
    frames = model.transform(given.rain)
    forecast, deblurred = model.rollout(frames, 9, known=5)
    total = 0.0
    for b in range(2):
        for t in range(1, 10):
            x, xf, xd = frames[b, t, 0], forecast[b, t - 1, 0], deblurred[b, t - 1, 0]
            l_for, l_deb = (((x - y).abs() + (x - y) ** 2).sum() for y in (xf, xd))
            l_gdl = ((x[1:] - x[:-1]).abs() - (xd[1:] - xd[:-1]).abs()).abs().sum()
            l_gdl = l_gdl + ((x[:, 1:] - x[:, :-1]).abs() - (xd[:, 1:] - xd[:, :-1]).abs()).abs().sum()
            l_adv = -torch.log(torch.sigmoid(adversary(xd[None, None])))[0]
            total = total + 0.01 * l_for + 1.0 * l_deb + 0.001 * l_gdl + 1.0 * l_adv
    expected = total / (2 * 9)
    torch.testing.assert_close(found.total * 32 * 36, expected, rtol=1e-4, atol=0)
    assert set(found.parts) == {"forecast", "deblur", "gradient", "adversarial"}
    assert found.truth.shape == found.generated.shape == (18, 1, 32, 36)


def test_each_loss_can_be_left_out():
    given = batch()
    for option, part in (("gradient_loss", "gradient"), ("adversarial_loss", "adversarial")):
        model = tiny("db-convlstm", **{option: False})
        loss = model.loss(given, progress=1.0, adversary=tiny("db-convlstm").adversary((32, 32)))
        assert part not in loss.parts
    assert tiny("db-convlstm", adversarial_loss=False).adversary((32, 32)) is None
    validation = tiny("db-convlstm").loss(given, progress=1.0, adversary=None)
    assert set(validation.parts) == {"forecast", "deblur", "gradient"} and validation.truth is None


@pytest.mark.parametrize("name", ["ms-convlstm", "db-convlstm"])
def test_what_was_not_measured_changes_no_loss(name):
    """Seen by the loss alone: the frames that the network reads are the same."""
    model, given = tiny(name), batch(missing=0.3)
    adversary = model.adversary((32, 32))
    frames, observed, predictions = model.predict_batch(given, 1.0)
    truth = torch.where(observed, frames, 0.7)
    for prediction in predictions:
        for loss in (pixel_loss, gradient_difference_loss):
            torch.testing.assert_close(loss(prediction, truth, observed), loss(prediction, frames, observed))
    if adversary is not None:
        loss = model.loss(given, progress=1.0, adversary=adversary)
        missing = ~observed.flatten(0, 1)
        assert torch.equal(loss.truth[missing], loss.generated[missing])
        assert not torch.equal(loss.truth, loss.generated)


def test_a_batch_that_nobody_measured_has_no_loss_and_no_gradient():
    model, given = tiny("ms-convlstm"), batch(missing=2.0)
    loss = model.loss(given, progress=1.0)
    loss.total.backward()
    assert loss.total.item() == 0 and all(p.grad.abs().max() == 0 for p in model.parameters())


def test_the_network_and_its_adversary_do_not_move_each_other():
    model = tiny("db-convlstm").train()
    adversary = model.adversary((32, 32))
    assert callable(adversary.loss) and hasattr(Adversary, "loss")
    loss = model.loss(batch(), progress=0.5, adversary=adversary)
    loss.total.backward()
    assert all(p.grad is None for p in adversary.parameters())
    before = [p.grad.clone() for p in model.parameters()]
    adversary.loss(loss.truth, loss.generated).backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(before, model.parameters(), strict=True))
    assert all(p.grad.abs().sum() > 0 for p in adversary.parameters())


def test_the_adversary_pulls_on_the_deblurring_network():
    with_adversary, without = tiny("db-convlstm"), tiny("db-convlstm", adversarial_loss=False)
    without.load_state_dict(with_adversary.state_dict())
    given, adversary = batch(), with_adversary.adversary((32, 32))
    for model in (with_adversary, without):
        model.loss(given, progress=1.0, adversary=adversary).total.backward()
    first, second = (m.deblurring.read.weight.grad for m in (with_adversary, without))
    assert not torch.equal(first, second)


def test_without_losses_of_its_own_and_fed_the_truth_the_deblurring_network_has_no_gradient():
    """And where it is not fed the truth it has: what it says is what the forecasting network reads."""
    options = {"deblur_loss": False, "gradient_loss": False, "adversarial_loss": False, "memory": "forecast"}
    for progress, moved in ((0.0, False), (1.0, True)):
        model = tiny("db-predrnn", **options)
        model.loss(batch(), progress=progress).total.backward()
        largest = max(p.grad.abs().max().item() for p in model.deblurring.parameters() if p.grad is not None)
        assert (largest > 0) == moved


def test_a_staged_network_trains_one_half_at_a_time():
    model = tiny("db-convlstm", staged=True)
    adversary = model.adversary((32, 32))
    for progress, resting in ((0.2, model.deblurring), (0.8, model.forecasting)):
        model.zero_grad()
        loss = model.loss(batch(), progress=progress, adversary=adversary)
        loss.total.backward()
        assert all(p.grad.abs().max() == 0 for p in resting.parameters())
        moving = model.forecasting if resting is model.deblurring else model.deblurring
        assert any(p.grad.abs().max() > 0 for p in moving.parameters())
        assert (loss.truth is None) == (progress < 0.5)


def test_the_weight_of_the_adversary_is_that_of_its_part_of_the_loss():
    given, totals = batch(), []
    for weight in (1.0, 21.0):
        torch.manual_seed(0)
        model = tiny("db-convlstm", adversarial_weight=weight, scheduled_sampling=False)
        adversary = model.adversary((32, 32))
        loss = model.loss(given, progress=0.5, adversary=adversary)
        totals.append(loss.total)
    torch.testing.assert_close(totals[1] - totals[0], 20.0 / 32**2 * loss.parts["adversarial"])


def test_the_second_stage_alone_leaves_the_forecasting_network_as_it_began():
    forecasting = tiny("ms-convlstm")
    model = tiny("db-convlstm", staged="deblurring")
    model.begin_from(forecasting)
    assert model.begins_from == ("ms-convlstm",)
    assert model.pixel_weights(0.1) == (0, 1)
    model.loss(batch(), progress=0.1).total.backward()
    assert all(p.grad is None for p in model.forecasting.parameters())
    assert any(p.grad.abs().max() > 0 for p in model.deblurring.parameters())
    frames = torch.rand(1, 5, 1, 16, 16)
    model.deblurred = False
    blurred = model.forecast(frames, frames >= 0, 4)
    torch.testing.assert_close(blurred, forecasting.forecast(frames, frames >= 0, 4))
    with pytest.raises(RuntimeError, match="size mismatch"):
        tiny("db-convlstm", staged=True).begin_from(tiny("ms-convlstm", width=12))


def test_scheduled_sampling_feeds_the_truth_ever_less_and_repeats_with_the_seed():
    model = tiny("ms-convlstm")
    assert model.sample_truth((1000, 4), 1.0) is None
    assert model.sample_truth((1000, 4), 0.0).all()
    shares = [model.sample_truth((1000, 4), progress).float().mean().item() for progress in (0.25, 0.5, 0.75)]
    assert shares == pytest.approx([0.75, 0.5, 0.25], abs=0.05)
    assert tiny("ms-convlstm", scheduled_sampling=False).sample_truth((1000, 4), 0.0) is None
    given, losses = batch(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model.loss(given, progress=0.5).total.item())
    assert losses[0] == losses[1] != losses[2]


@each_system
def test_a_step_of_training_reaches_every_trained_weight(name):
    model = tiny(name, input_frames=2, target_frames=2).train()
    loss = model.loss(batch(4, b=1), progress=0.3, adversary=model.adversary((32, 32)))
    loss.total.backward()
    for parameter, tensor in model.named_parameters():
        if tensor.requires_grad:
            assert tensor.grad is not None and tensor.grad.abs().sum() > 0, parameter


def test_a_small_db_rnn_learns_to_beat_persistence():
    """A shower that moves two cells a step over a torus of 16 x 16 cells; windows not trained on."""

    def shower(b):
        y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
        start = 16 * torch.rand(b, 1, 2)
        centre = start + 2 * torch.arange(6).view(1, 6, 1) * torch.tensor([0.0, 1.0])
        dy, dx = ((a - c[..., None, None] + 8) % 16 - 8 for a, c in ((y, centre[..., 0]), (x, centre[..., 1])))
        rain = 20 * torch.exp(-(dy**2 + dx**2) / 8)[:, :, None]
        return TrainingBatch(rain, torch.ones_like(rain, dtype=torch.bool))

    model = RecurrentForecaster(kind="db", size="tiny", input_frames=3, target_frames=3, adversarial_loss=False).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(60):
        optimiser.zero_grad()
        model.loss(shower(4), progress=step / 60).total.backward()
        optimiser.step()
    given = model.transform(shower(16).rain)
    forecast = model.eval().forecast(given[:, :3], given[:, :3] >= 0, 3)
    error, persistence = (
        F.mse_loss(f, given[:, 3:]).item() for f in (forecast, given[:, 2:3].expand(-1, 3, -1, -1, -1))
    )
    assert error < 0.7 * persistence


# ---------------------------------------------------------------- options


@each_system
def test_the_name_fixes_the_cell(name):
    with pytest.raises(ValueError, match=r"has no option 'cell'; its options are: "):
        models.build(name, cell="mim")
    with pytest.raises(ValueError, match=r"has no option 'depth'"):
        models.declare(name, depth=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ms-convlstm", {"size": "huge"}, r"size is 'huge': choose one of 'full', 'tiny'"),
        ("ms-convlstm", {"width": 0}, r"width is 0: it must be at least 1"),
        ("ms-convlstm", {"input_frames": 0}, r"input_frames is 0"),
        ("db-convlstm", {"target_frames": 0}, r"target_frames is 0"),
        ("db-convlstm", {"scaling": "dbz"}, r"scaling is 'dbz': choose one of 'reflectivity', 'hko-7', 'dwd-12'"),
        ("db-convlstm", {"memory": "none"}, r"memory is 'none': choose one of 'zigzag', 'forecast'"),
        ("db-convlstm", {"loss_schedule": "cosine"}, r"loss_schedule is 'cosine': choose one of 'ramp', 'fixed'"),
        ("db-convlstm", {"staged": "forecast"}, r"staged is 'forecast': choose one of False, True, 'deblurring'"),
        ("db-convlstm", {"adversarial_weight": 0}, r"adversarial_weight is 0: above 0, or adversarial_loss=False"),
        ("db-convlstm", {"staged": True, "deblur_loss": False}, r"nothing to train in its second half"),
        ("db-convlstm", {"window": 7}, r"the cell 'convlstm' has no option 'window'"),
        ("ms-preciplstm", {"window": 30}, r"window is 30 cells wide"),
        ("ms-motionrnn", {"width": 10}, r"choose a multiple of 4"),
        ("ms-mim", {"difference": "above"}, r"difference is 'above'"),
        ("convlstm", {"layers": 0}, r"layers is 0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_built(name, options, message):
    for function in (models.declare, models.build):
        with pytest.raises(ValueError, match=message):
            function(name, **options)


def test_too_few_frames_and_steps_are_refused():
    model, frames = tiny("ms-convlstm"), torch.rand(1, 4, 1, 16, 16)
    with pytest.raises(ValueError, match=r"4 frames were given: the model reads 5"):
        model.forecast(frames, frames >= 0, 3)
    with pytest.raises(ValueError, match=r"steps is 0"):
        model.forecast(torch.rand(1, 5, 1, 16, 16), frames >= 0, 0)


def test_options_of_cells_reach_them():
    assert tiny("trajgru", links=3).network.cells[0].links == 3
    assert tiny("ms-preciplstm", window=9).network.cells[5].attention.window == 9
    assert models.build("ms-preciplstm").network.cells[0].attention.window == 31
    assert tiny("db-mim", difference="own").deblurring.cells[3].difference == "own"
    assert tiny("ms-convlstm", width=12).network.read.in_channels == 12


def test_the_scalings_are_those_of_the_data_sets_and_with_bounds_of_equation_nine():
    rain = torch.tensor([0.5, 2.0, 30.0])
    for scaling, a, b, low in (("hko-7", 58.53, 1.56, -10), ("dwd-12", 256.0, 1.42, -10), ("meteonet", 200.0, 1.6, 0)):
        dbz = 10 * torch.log10(a * rain**b)
        torch.testing.assert_close(tiny("ms-convlstm", scaling=scaling).transform(rain), (dbz - low) / 70)
        printed = tiny("ms-convlstm", scaling=scaling, bounds=(0, 60))
        torch.testing.assert_close(printed.transform(rain), dbz / 60)
        pixels = dbz_to_pixel(dbz.numpy(), scale=scaling.replace("-", ""))
        np.testing.assert_allclose(pixels / 255, (dbz - low) / 70, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scaling": "sevir", "bounds": (0, 60)}, "bounds are of reflectivity, and scaling is 'sevir'"),
        ({"bounds": (60, 0)}, "the scale runs from 60 to 0 dBZ"),
        ({"bounds": (0, 30, 60)}, "bounds has 3 numbers: give the dBZ of 0 and of 1"),
    ],
)
def test_bounds_that_are_none_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        models.declare("ms-convlstm", **options)


# ---------------------------------------------------------------- registry


def test_a_registered_name_may_fix_options(monkeypatch):
    monkeypatch.setattr("xnowcast.models.registry.REGISTRY", dict(models.REGISTRY))
    models.register("shallow", PLACE, kind="plain", cell="predrnn", layers=2)
    assert len(models.build("shallow", size="tiny").network.cells) == 2
    assert "shallow" in models.names() and models.declare("shallow").trained
    with pytest.raises(ValueError, match=r"'shallow' has no option 'layers'"):
        models.build("shallow", layers=3)
    models.register("shallow", PLACE, kind="plain", cell="predrnn", layers=2)
    with pytest.raises(ValueError, match=r"there is a system 'shallow' already \(xnowcast.models.recurrent"):
        models.register("shallow", PLACE, kind="plain", cell="mim", layers=2)


def test_an_entry_of_the_registry_may_be_a_string_or_a_pair(monkeypatch):
    entries = {"plain": PLACE, "fixed": (PLACE, {"size": "tiny"})}
    monkeypatch.setattr("xnowcast.models.registry.REGISTRY", models.REGISTRY | entries)
    assert models.find("plain") is models.find("fixed") is RecurrentForecaster
    assert count(models.build("fixed")) == 28_057
    assert count(models.build("plain", size="tiny")) == 28_057
