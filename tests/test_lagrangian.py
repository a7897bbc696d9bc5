"""The network in the moving frame: untrained it is extrapolation, and it learns what extrapolation leaves out."""

import numpy as np
import pytest
import torch

import xnowcast
from xnowcast import models
from xnowcast.models.base import ForecastModel, TrainableModel, TrainingBatch
from xnowcast.models.lagrangian import Lagrangian
from xnowcast.models.transforms import SCALINGS
from xnowcast.nn.moving_frame import motion_of, onto_newest


@pytest.fixture(scope="module")
def radar():
    """Rain that moves and keeps its shape, 16 frames."""
    return xnowcast.datasets.synthetic_radar(
        frames=18, shape=(96, 96), seed=4, motion=(5.0, 4.0), lifetime=None, coverage=False
    )


def rates(radar, count):
    values = torch.from_numpy(radar["rainfall_rate"].values[:count].astype("f4")).nan_to_num()
    return values[None, :, None]


@pytest.mark.parametrize("network", ["ms-convlstm", "db-convlstm", "convlstm", "db-predrnn"])
def test_untrained_it_is_extrapolation(radar, network):
    scale = SCALINGS["reflectivity"]
    rain = rates(radar, 5)
    model = Lagrangian(network=network, size="tiny").eval()
    made = model.forecast(scale(rain), rain >= 0, steps=6)
    expected = models.build("extrapolation", input_frames=5).forecast(rain, rain >= 0, steps=6)
    assert (made.isnan() == expected.isnan()).all()
    both = expected.isfinite() & (expected > 1)
    # one interpolates the rain, the other its reflectivity
    error = (scale.inverse(made)[both] / expected[both]).log().abs()
    assert float(error.median()) < 0.05


def test_earlier_and_later_frames_lie_upon_the_newest(radar):
    rain = rates(radar, 11)[:, :, 0]
    motion = motion_of(rain[:, :5], rain[:, :5] >= 0, window=16.0)
    aligned, seen = onto_newest(rain, rain >= 0, motion, 5)
    assert aligned.shape == rain.shape and bool(seen[:, 4].all())
    newest = rain[:, 4]
    for other in (0, 8):
        still = ((rain[:, other] - newest) ** 2)[seen[:, other]].mean()
        moved = ((aligned[:, other] - newest) ** 2)[seen[:, other]].mean()
        assert float(moved) < 0.35 * float(still)


def test_what_was_not_measured_is_not_learnt(radar):
    model = Lagrangian(network="ms-convlstm", size="tiny", target_frames=3)
    rain = rates(radar, 8)
    seen = torch.ones_like(rain, dtype=torch.bool)
    seen[..., :40] = False
    other = rain.clone()
    other[..., :40] = 0.0
    losses = [model.loss(TrainingBatch(r * seen, seen), progress=0.0).total for r in (rain, other)]
    torch.testing.assert_close(*losses)


def test_it_forecasts_with_the_coverage_of_extrapolation(radar):
    model = Lagrangian(network="ms-convlstm", size="tiny")
    forecast = radar.nowcast.forecast(model, steps=6).rainfall_rate.compute()
    expected = radar.nowcast.forecast("extrapolation", input_frames=5, steps=6).rainfall_rate.compute()
    # where light rain was cut off by the scaling, the motion is a little another
    assert float((forecast.isnull() != expected.isnull()).mean()) < 0.005 and bool(forecast.isnull().any())


def test_matched_forecasts_have_the_rain_rates_of_extrapolation(radar):
    model = Lagrangian(network="ms-convlstm", size="tiny", probability_matching=True)
    for part in model.modules():
        if isinstance(getattr(part, "read", None), torch.nn.Conv2d):
            torch.nn.init.constant_(part.read.bias, -0.01)  # it has rain decay
    forecast = radar.nowcast.forecast(model, steps=3).rainfall_rate.values
    unmatched = Lagrangian(network="ms-convlstm", size="tiny")
    unmatched.load_state_dict(model.state_dict())
    decayed = radar.nowcast.forecast(unmatched, steps=3).rainfall_rate.values
    expected = radar.nowcast.forecast("extrapolation", input_frames=5, steps=3).rainfall_rate.values
    assert (np.isnan(forecast) == np.isnan(decayed)).all()
    for q in (0.9, 0.99):
        made, decay, wanted = (np.nanquantile(field[0, -1], q) for field in (forecast, decayed, expected))
        assert made == pytest.approx(wanted, rel=0.03) and decay < 0.9 * wanted


def test_a_share_of_sprog_is_mixed_in_before_matching(radar):
    scale, rain = SCALINGS["reflectivity"], rates(radar, 5)
    seen = rain >= 0
    alone, mixed = (Lagrangian(network="ms-convlstm", size="tiny", cascade=share).eval() for share in (0.0, 0.4))
    mixed.load_state_dict(alone.state_dict())
    network, both = (model.forecast(scale(rain), seen, 4) for model in (alone, mixed))
    read = scale.inverse(scale(rain))[:, :, 0]
    sprog = models.build("sprog")
    smooth = sprog.pattern(read, seen[:, :, 0], motion_of(read, seen[:, :, 0], window=sprog.window), 4)[:, :, None]
    assert (both.isnan() == network.isnan()).all()
    known = smooth.isfinite() & network.isfinite()
    torch.testing.assert_close(both[known], (0.6 * network + 0.4 * smooth)[known])
    torch.testing.assert_close(both[~known], network[~known], equal_nan=True)


def test_a_db_rnn_takes_over_a_forecasting_network_and_learns_to_deblur_what_it_says(radar, tmp_path):
    common = {"size": "tiny", "target_frames": 3, "crop": 32, "batch_size": 2, "validation": 0, "progress": False}
    xnowcast.train("lagrangian", radar, out=tmp_path / "ms", network="ms-convlstm", steps=2, **common)
    model = xnowcast.train(
        "lagrangian",
        radar,
        out=tmp_path / "db",
        start=tmp_path / "ms" / "model.safetensors",
        network="db-convlstm",
        network_options={"staged": "deblurring"},
        steps=3,
        learning_rate=1e-2,
        **common,
    )
    before = xnowcast.load(tmp_path / "ms" / "model.safetensors")
    for name, weight in before.inner.network.state_dict().items():
        torch.testing.assert_close(model.inner.forecasting.state_dict()[name], weight, atol=0, rtol=0)
    assert any(part.abs().max() > 0 for name, part in model.inner.deblurring.named_parameters() if "read" in name)
    db = tmp_path / "db" / "model.safetensors"
    blurred = radar.nowcast.forecast(db, steps=2, deblurred=False).rainfall_rate
    np.testing.assert_array_equal(
        blurred, radar.nowcast.forecast(tmp_path / "ms" / "model.safetensors", steps=2).rainfall_rate
    )
    assert float(abs(radar.nowcast.forecast(db, steps=2).rainfall_rate - blurred).max()) > 0


def error_after(unseen, system, lead, **options):
    """Mean absolute error of forecasts from three starts, mm/h."""
    starts = unseen.time.values[[4, 8, 12]]
    made = unseen.nowcast.forecast(system, steps=lead, init_times=starts, **options).rainfall_rate.values[:, -1]
    truth = unseen["rainfall_rate"].values[[4 + lead, 8 + lead, 12 + lead]]
    return float(np.nanmean(np.abs(made - truth)))


def test_a_short_training_finds_that_rain_decays():
    here, there = (
        xnowcast.datasets.synthetic_radar(
            frames=count, shape=(96, 96), seed=seed, motion=wind, growth=-2.0, coverage=False
        )
        for count, seed, wind in ((40, 1, (5.0, 3.0)), (18, 9, (-4.0, 5.0)))
    )
    model = xnowcast.train(
        "lagrangian",
        here,
        network="ms-convlstm",
        size="tiny",
        target_frames=4,
        steps=40,
        batch_size=2,
        crop=48,
        learning_rate=5e-3,
        validate_every=40,
        validation_crops=2,
        progress=False,
    )
    assert error_after(there, model, 4) < 0.98 * error_after(there, "extrapolation", 4, input_frames=5)
    assert model.card.system == "lagrangian"


def test_the_model_keeps_its_promises():
    model = Lagrangian(network="db-convlstm", size="tiny")
    assert isinstance(model, ForecastModel) and isinstance(model, TrainableModel)
    assert model.adversary((64, 64)) is not None
    assert Lagrangian().task.input_frames == 5
    assert sum(p.numel() for p in Lagrangian().parameters()) == sum(
        p.numel() for p in models.build("db-convlstm").parameters()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "stldm"}, "not recurrent: choose one of"),
        ({"network": "db-convlst"}, "did you mean"),
        ({"input_frames": 1}, "motion needs at least 2"),
        ({"emphasis": -1}, "emphasis is -1"),
        ({"absolute_error": -0.5}, "absolute_error is -0.5"),
        ({"window": 0}, "window is 0.*above 0"),
        ({"cascade": 1.0}, "cascade is 1.0.*below 1"),
        ({"cascade": 0.3, "input_frames": 2}, "needs at least 3 frames"),
        ({"deblurred": False}, "which only a DB-RNN with"),
        ({"network_options": {"stages": 2}}, "no option 'stages'"),
        ({"size": "huge"}, "size is 'huge'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.declare("lagrangian", **options)


def test_frames_that_do_not_do_are_refused():
    model = Lagrangian(network="ms-convlstm", size="tiny")
    frames = torch.zeros(1, 3, 1, 32, 32)
    with pytest.raises(ValueError, match="3 frames were given"):
        model.forecast(frames, frames >= 0, 2)
    frames = torch.zeros(1, 5, 1, 32, 32)
    with pytest.raises(ValueError, match="ask for at least one"):
        model.forecast(frames, frames >= 0, 0)
