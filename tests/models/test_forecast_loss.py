"""FACL: cases worked by hand, the formulas in NumPy, when which of the two counts, and that it keeps detail."""

import numpy as np
import pytest
import torch

import xnowcast
from xnowcast import models
from xnowcast.models.base import TrainingBatch
from xnowcast.models.forecast_loss import ForecastLossOptions, forecast_losses
from xnowcast.nn.losses import fourier_amplitude_loss, fourier_correlation_loss
from xnowcast.training import checkpoint
from xnowcast.training.crops import Crops

BOTH = (fourier_amplitude_loss, fourier_correlation_loss)

pytestmark = pytest.mark.usefixtures("one_thread")


def everywhere(field):
    return torch.ones_like(field, dtype=torch.bool)


# ---------------------------------------------------------------- the formulas


def test_the_amplitude_loss_worked_by_hand():
    """Orthonormal transforms of 2 x 2: one half everywhere for one cell of 1, and 1, 0, 1, 0 for a row of 1."""
    cell, row = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    found = fourier_amplitude_loss(cell, row, everywhere(row))
    assert float(found) == pytest.approx((2 * (1 - 0.5) ** 2 + 2 * (0 - 0.5) ** 2) / 4)


def test_a_shifted_map_has_the_same_amplitudes_and_a_blurred_one_has_not():
    truth = torch.rand(2, 3, 1, 8, 12)
    seen = everywhere(truth)
    assert float(fourier_amplitude_loss(truth.roll((3, 5), (-2, -1)), truth, seen)) < 1e-12
    blurred = (truth + truth.roll(1, -1)) / 2
    assert float(fourier_amplitude_loss(blurred, truth, seen)) > 0.01


def test_the_correlation_loss_of_a_map_with_itself_its_negative_and_one_that_has_nothing_of_it():
    truth = torch.rand(2, 3, 1, 8, 12) * (torch.arange(12) < 5)
    for forecast, expected in ((truth, 0.0), (0.2 * truth, 0.0), (-truth, 2.0), (truth.flip(-1), 1.0)):
        assert float(fourier_correlation_loss(forecast, truth, everywhere(truth))) == pytest.approx(expected, abs=1e-6)


def test_both_are_their_formulas_in_numpy():
    forecast, truth = torch.rand(2, 2, 3, 1, 9, 14) - 0.2
    f, t = (np.fft.fft2(field.double().numpy(), norm="ortho") for field in (forecast, truth))
    amplitude = ((np.abs(t) - np.abs(f)) ** 2).mean()
    correlation = 1 - 0.5 * (t * f.conj() + t.conj() * f).sum().real / np.sqrt(
        (np.abs(t) ** 2).sum() * (np.abs(f) ** 2).sum()
    )
    found = [float(loss(forecast, truth, everywhere(truth))) for loss in BOTH]
    assert found == pytest.approx([amplitude, correlation], rel=1e-5)


@pytest.mark.parametrize("loss", BOTH)
def test_cells_that_were_not_measured_do_not_count(loss):
    truth, forecast = torch.rand(2, 2, 3, 1, 8, 8)
    observed = torch.rand(2, 3, 1, 8, 8) > 0.3
    found = loss(forecast, truth, observed)
    assert float(found) > 0
    torch.testing.assert_close(loss(forecast.where(observed, torch.nan), truth, observed), found)
    torch.testing.assert_close(loss(forecast, truth.where(observed, 99.0), observed), found)
    assert float(loss(forecast, truth, torch.zeros_like(observed))) == 0


@pytest.mark.parametrize("loss", BOTH)
@pytest.mark.parametrize("dry", ["forecast", "truth", "both", "unmeasured"])
def test_without_rain_or_measurements_gradients_stay_finite(loss, dry):
    forecast, truth = (torch.rand(2, 1, 8, 8) * (dry not in (name, "both")) for name in ("forecast", "truth"))
    forecast.requires_grad_()
    found = loss(forecast, truth, everywhere(truth) & (dry != "unmeasured"))
    found.backward()
    assert found.isfinite() and forecast.grad.isfinite().all()
    if dry == "unmeasured":
        assert found == 0 and not forecast.grad.any()


def test_the_amplitude_loss_is_never_more_than_the_squared_error():
    for _ in range(20):
        forecast, truth = torch.rand(2, 1, 6, 7)
        assert float(fourier_amplitude_loss(forecast, truth, everywhere(truth))) <= (forecast - truth).square().mean()


# ---------------------------------------------------------------- when which of them counts


def drawn(progress, seed=0, **options):
    """Whether one of two predictions that are far off got the amplitude loss, and whether the other did."""
    torch.manual_seed(seed)
    truth = torch.rand(1, 2, 1, 8, 8)
    predictions = truth.roll(3, -1), truth.roll(2, -2)  # without an error of amplitudes
    found = forecast_losses(
        predictions, truth, everywhere(truth), ForecastLossOptions(loss="facl", **options), progress
    )
    return [float(one) < 1e-6 for one in found]


def test_the_amplitude_loss_comes_in_by_chance_and_is_alone_in_the_last_share():
    for progress, share in ((0.0, 0.0), (0.2, 0.25), (0.6, 0.75), (0.8, 1.0), (0.99, 1.0)):
        found = [drawn(progress, seed, amplitude_alone=0.2) for seed in range(100)]
        assert all(one == other for one, other in found)  # predictions of one step have the same loss
        assert np.mean([one for one, _ in found]) == pytest.approx(share, abs=0.13 * (0 < share < 1))
    assert drawn(0.0, amplitude_alone=1.0) == [True, True]


def test_validation_has_both():
    forecast, truth = torch.rand(2, 1, 2, 1, 8, 8)
    (found,) = forecast_losses([forecast], truth, everywhere(truth), ForecastLossOptions(loss="facl"), 1.0)
    torch.testing.assert_close(found, sum(loss(forecast, truth, everywhere(truth)) for loss in BOTH))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ms-convlstm", {"loss": "mse"}, "loss is 'mse': choose one of 'pixels', 'facl'"),
        ("ms-convlstm", {"amplitude_alone": 0.2}, "amplitude_alone is an option for loss 'facl' alone"),
        ("ms-convlstm", {"loss": "facl", "emphasis": 2.0}, "emphasis is an option for loss 'pixels' alone"),
        ("ms-convlstm", {"loss": "facl", "amplitude_alone": 1.5}, "amplitude_alone is 1.5: it is a share"),
        ("crps-rnn", {"loss": "facl"}, "trained for the CRPS"),
    ],
)
def test_options_that_will_not_do_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.declare(name, **options)


# ---------------------------------------------------------------- forecasters


def test_a_forecast_of_what_cannot_be_foreseen_keeps_its_detail():
    """Rain that goes one way or the other, with equal odds: squared errors are least for half of it in both places."""
    rain = torch.zeros(1, 1, 1, 16, 16)
    rain[..., 6:9, 6:9] = 1.0
    ways = rain.roll(2, -1), rain.roll(-2, -1)
    strongest = {}
    for options in (ForecastLossOptions(absolute_error=0.0), ForecastLossOptions(loss="facl", amplitude_alone=0.4)):
        forecast = (0.5 * rain + 0.01 * torch.rand(rain.shape)).requires_grad_()
        descent = torch.optim.Adam([forecast], lr=0.02)
        for step in range(300):
            descent.zero_grad()
            truth = ways[int(torch.rand(()) < 0.5)]
            forecast_losses([forecast], truth, everywhere(truth), options, step / 300)[0].backward()
            descent.step()
        amplitudes = (torch.fft.fft2(field.detach()).abs().square().sum() for field in (forecast, rain))
        strongest[options.loss] = float(next(amplitudes) / next(amplitudes))
    assert strongest["pixels"] < 0.7 < 0.85 < strongest["facl"]


@pytest.mark.parametrize("name", ["convlstm", "ms-convlstm", "db-convlstm", "lagrangian"])
def test_every_deterministic_forecaster_has_a_gradient_of_either_loss(name):
    network = {"network": "ms-convlstm"} if name == "lagrangian" else {}
    model = models.build(name, size="tiny", input_frames=2, target_frames=1, loss="facl", **network)
    rain = 20 * torch.rand(1, 3, 1, 32, 32)
    batch = TrainingBatch(rain, torch.rand(rain.shape) > 0.1)
    found = {}
    for progress in (0.0, 0.95):
        model.zero_grad()
        loss = model.loss(batch, progress=progress)
        loss.total.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(g.isfinite().all() for g in gradients) and any(g.abs().max() > 0 for g in gradients)
        found[progress] = float(loss.parts["forecast"])
    assert found[0.0] != found[0.95]


def test_each_half_of_a_staged_training_has_the_whole_course():
    staged = models.build("db-convlstm", size="tiny", staged=True, loss="facl")
    assert [staged.stage_progress(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.5, 0.0, 0.5, 1.0]
    assert models.build("db-convlstm", size="tiny", loss="facl").stage_progress(0.75) == 0.75


def test_a_training_that_was_stopped_draws_the_same_losses(tmp_path, monkeypatch):
    radar = xnowcast.datasets.synthetic_radar(frames=8, shape=(48, 48), coverage=False)
    common = {"size": "tiny", "input_frames": 2, "target_frames": 1, "loss": "facl", "steps": 6, "keep": "last"}
    common |= {"crop": 32, "batch_size": 1, "validation": 0, "pictures_every": 0, "progress": False}
    whole = xnowcast.train("ms-convlstm", radar, **common)
    read = Crops.__getitem__

    def stopped(crops, number):
        if number == 4:
            raise RuntimeError("no more")
        return read(crops, number)

    monkeypatch.setattr(Crops, "__getitem__", stopped)
    with pytest.raises(RuntimeError, match="no more"):
        xnowcast.train("ms-convlstm", radar, out=tmp_path, checkpoint_every=1, **common)
    assert checkpoint.read(tmp_path / "checkpoint.safetensors")["step"] == 4
    monkeypatch.setattr(Crops, "__getitem__", read)
    resumed = xnowcast.train("ms-convlstm", radar, out=tmp_path, checkpoint_every=1, resume=True, **common)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert resumed.card.options["loss"] == "facl"
