"""STLDM in the layer that moves with the rain: untrained its first estimate is extrapolation, and members add to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from rounding import assert_close

import xnowcast
from xnowcast import models, verify
from xnowcast.models.base import TrainingBatch
from xnowcast.models.stldm import STLDM
from xnowcast.models.transforms import SCALINGS
from xnowcast.nn.moving_frame import motion_of, onto_newest
from xnowcast.nn.noise import Noise, member_generator

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def radar():
    """Rain that moves and keeps its shape."""
    return xnowcast.datasets.synthetic_radar(
        frames=12, shape=(96, 96), seed=4, motion=(5.0, 4.0), lifetime=None, coverage=False
    )


DEFAULTS = {"size": "tiny", "sampling_steps": 3, "guidance": 0.0, "residual": True}


def tiny(**options):
    torch.manual_seed(0)
    return models.build("lagrangian", network="stldm", **(DEFAULTS | options)).eval()


def rates(radar, count):
    return torch.from_numpy(radar["rainfall_rate"].values[:count].astype("f4")).nan_to_num()[None, :, None]


def past(radar, b=1):
    rain = rates(radar, 4).repeat(b, 1, 1, 1, 1)
    return SCALINGS["reflectivity"](rain), rain >= 0


def noise(members, seed=0):
    return Noise([member_generator(seed, 0, member) for member in members])


def batch(radar):
    rain = rates(radar, 8)
    return TrainingBatch(rain, torch.ones_like(rain, dtype=torch.bool))


def test_the_untrained_first_estimate_is_extrapolation(radar):
    frames, observed = past(radar)
    made = tiny(return_first_estimate=True).forecast(frames, observed, 4)
    expected = models.build("extrapolation").forecast(rates(radar, 4), observed, steps=4)
    # the scaling cuts light rain off, which moves the motion a little
    assert float((made.isnan() != expected.isnan()).float().mean()) < 0.005 and bool(made.isnan().any())
    both = expected.isfinite() & made.isfinite() & (expected > 1)
    error = (SCALINGS["reflectivity"].inverse(made)[both] / expected[both]).log().abs()
    assert float(error.median()) < 0.05


def test_the_untrained_residual_first_estimate_is_persistence_where_nothing_moves_the_frame(radar):
    frames, observed = past(radar)
    made = STLDM(**DEFAULTS, return_first_estimate=True).eval().forecast(frames, observed, 4)
    assert_close(made, frames[:, -1:].expand_as(made))


def test_the_paper_is_the_default():
    declared, moving = models.declare("stldm"), models.declare("lagrangian", network="stldm")
    assert declared.coverage == "observed" and declared.min_grid == 8
    assert not any("kept" in name for name, _ in STLDM(size="tiny").named_parameters())
    assert moving.coverage == "advected" and moving.min_grid == 32 and moving.max_steps == declared.max_steps


def test_the_forecast_is_nan_where_the_air_comes_from_outside(radar):
    forecast = radar.nowcast.forecast(tiny(), steps=4, members=2, seed=0).rainfall_rate
    expected = radar.nowcast.forecast("extrapolation", steps=4).rainfall_rate
    differ = forecast.isnull() != expected.isnull()
    assert float(differ.mean()) < 0.005 and bool(forecast.isel(lead_time=-1).isnull().any())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"residual": False},
        {"residual": False, "inflation": 2.0},
        {"motion_noise": 0.5},
        {"sampled_condition": True},
    ],
    ids=["residual", "paper", "inflated", "motion noise", "sampled condition"],
)
def test_a_member_is_the_same_alone_and_in_any_batch(radar, options):
    model, (frames, observed) = tiny(**options), past(radar, 2)
    together = model.forecast(frames, observed, 4, noise([0, 1, 0, 1]))
    alone = model.forecast(frames[1:], observed[1:], 4, noise([1]))
    assert_close(alone, together[3:], equal_nan=True)
    assert float((together[2] - together[3]).nan_to_num().abs().mean()) > 1e-4


def test_without_inflation_members_are_the_first_estimate(radar):
    frames, observed = past(radar)
    estimate = tiny(return_first_estimate=True).forecast(frames, observed, 4)
    for inflation, low, high in ((0.0, 0.0, 1e-5), (0.5, 1e-3, 1.0)):
        members = tiny(inflation=inflation).forecast(frames, observed, 4, noise([0, 1]))
        apart = float((members - estimate).nan_to_num().abs().mean())
        assert low <= apart <= high


def test_motion_noise_displaces_members_and_more_so_later(radar):
    frames, observed = past(radar)
    members = tiny(inflation=0.0, motion_noise=1.0).forecast(frames, observed, 4, noise([0, 1]))
    apart = (members[0] - members[1]).nan_to_num().abs().mean((1, 2, 3))
    assert float(apart[0]) > 1e-3 and float(apart[3]) > 1.5 * float(apart[0])


def test_matched_members_have_the_rain_rates_of_the_newest_frame(radar):
    frames, observed = past(radar)
    scale = SCALINGS["reflectivity"]
    rain, seen = scale.inverse(frames[:, :, 0]), observed[:, :, 0]
    still, _ = onto_newest(rain, seen, motion_of(rain, seen, window=16.0), 4)
    model = tiny(probability_matching=1.0)
    forecast = scale.inverse(model.forecast(frames, observed, 1, noise([0, 1])))
    unmatched = scale.inverse(tiny().forecast(frames, observed, 1, noise([0, 1])))
    for member in (0, 1):
        known = forecast[member].isfinite()
        assert (known == unmatched[member].isfinite()).all()
        for q in (0.95, 0.99):
            made, wanted = (float(field.quantile(q)) for field in (forecast[member][known], still[0, -1]))
            assert made == pytest.approx(wanted, rel=0.1)


def test_a_share_of_sprog_draws_members_towards_it(radar):
    frames, observed = past(radar, 2)
    members = [tiny(cascade=share).forecast(frames, observed, 4, noise([0, 1, 0, 1])) for share in (0.0, 0.25, 0.5)]
    spread = [float((m[0] - m[1]).nan_to_num().abs().mean()) for m in members]
    assert spread[1] == pytest.approx(0.75 * spread[0], rel=1e-3)
    torch.testing.assert_close(members[1], (members[0] + members[2]) / 2, equal_nan=True)
    alone = tiny(cascade=0.25).forecast(frames[1:], observed[1:], 4, noise([1]))
    assert_close(alone, members[1][3:], equal_nan=True)


@pytest.mark.parametrize("strategy", ["autoencoder", "translator", "A", "B", "C"])
def test_the_loss_is_finite_and_reaches_what_is_trained(radar, strategy):
    model = tiny(strategy=strategy).train()
    loss = model.loss(batch(radar), progress=0.0)
    loss.total.backward()
    assert torch.isfinite(loss.total) and all(torch.isfinite(part) for part in loss.parts.values())
    trained = [p for p in model.parameters() if p.requires_grad]
    reached = [p for p in trained if p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0]
    assert len(reached) > 0
    if strategy == "translator":
        assert set(loss.parts) == {"constraint", "latent", "likelihood"}
        assert model.network.translator.blocks[-1].leave.weight.grad.abs().max() > 0


def test_what_was_not_measured_is_not_learnt(radar):
    rain = rates(radar, 8)
    seen = torch.ones_like(rain, dtype=torch.bool)
    seen[..., :40] = False
    other = rain.clone()
    other[..., :40] = 0.0
    losses = []
    for values in (rain, other):
        torch.manual_seed(0)
        losses.append(tiny(strategy="translator").loss(TrainingBatch(values * seen, seen), progress=0.0).total)
    torch.testing.assert_close(*losses)


def test_a_short_training_of_the_translator_finds_that_rain_decays():
    decaying = xnowcast.datasets.synthetic_radar(
        frames=30, shape=(96, 96), seed=1, motion=(5.0, 3.0), growth=-2.0, coverage=False
    )
    shared = {"size": "tiny", "crop": 48, "batch_size": 2, "learning_rate": 5e-3, "validation": 0.0, "device": "cpu"}
    shared |= {"progress": False, "keep": "last"}
    options = {"network": "stldm", "residual": True, "strategy": "autoencoder"}
    first = xnowcast.train("lagrangian", decaying, steps=60, model_options=options, **shared)
    model = tiny(strategy="translator")
    model.load_state_dict(first.state_dict())
    model = xnowcast.train(model, decaying, steps=40, **{k: v for k, v in shared.items() if k != "size"})
    model.network.options = replace(model.network.options, return_first_estimate=True)
    rain = rates(decaying, 8)
    scale = SCALINGS["reflectivity"]
    made = scale.inverse(model.eval().forecast(scale(rain[:, :4]), rain[:, :4] >= 0, 4))
    held = scale.inverse(tiny(return_first_estimate=True).forecast(scale(rain[:, :4]), rain[:, :4] >= 0, 4))
    seen = made[:, -1].isfinite() & held[:, -1].isfinite()
    error = [float((field[:, -1] - rain[:, -1])[seen].abs().mean()) for field in (made, held)]
    assert error[0] < 0.9 * error[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0.0}, "window is 0.0: it is a length in grid cells, above 0"),
        ({"residual": 2}, "residual is 2"),
        ({"inflation": -1.0}, "inflation is -1.0: it must be at least 0"),
        ({"motion_noise": -0.5}, "motion_noise is -0.5: it must be at least 0"),
        ({"probability_matching": 1.5}, "a share between 0 and 1"),
        ({"cascade": 1.0}, "a share of 0 or more, below 1"),
        ({"cascade": 0.3, "input_frames": 2}, "needs at least 3 frames"),
        ({"input_frames": 1}, "motion needs at least 2 frames"),
        ({"sampling_steps": 51}, "the training had 50"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    for make in (models.declare, models.build):
        with pytest.raises(ValueError, match=message):
            make("lagrangian", network="stldm", size="tiny", **options)


def test_an_odd_grid_and_gaps_are_forecast(radar):
    gappy = radar.isel(y=slice(0, 70), x=slice(0, 81)).copy(deep=True)
    gappy["rainfall_rate"][:, :20, :20] = np.nan
    forecast = gappy.nowcast.forecast(tiny(), steps=2, members=2, seed=0).rainfall_rate
    assert forecast.sizes["y"] == 70 and forecast.sizes["x"] == 81
    assert bool(forecast[..., 5:10, 5:10].isnull().any()) and bool(forecast.notnull().any())


def test_members_of_the_weights_that_ship_beat_extrapolation_where_they_never_learnt(shared_data):
    rain = xnowcast.rain_rate(xr.open_dataset(shared_data / "mch_20160711.nc"))[12:23, 192:320, 227:355].load()
    start = rain.time.values[4]
    members = rain.nowcast.forecast("stldm", members=6, steps=6, init_times=[start], seed=0)
    single = rain.nowcast.forecast("extrapolation", steps=6, init_times=[start])
    observed = verify.align_observations(rain, single)
    known = members.notnull().all("member") & single.notnull()
    crps = float(verify.crps_ensemble(observed, members.where(known)).mean())
    assert crps < 0.85 * float(verify.mae(observed, single.where(known)).mean())
    spread = members.where(known).std("member").mean(members.dims[-2:]).values.ravel()
    assert (spread > 0.1).all()  # mm/h
