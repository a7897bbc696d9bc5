"""The network in the moving frame: untrained it is extrapolation, and it learns what extrapolation leaves out."""

import json
from datetime import timedelta

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import xnowcast
from xnowcast import models
from xnowcast.models import weights
from xnowcast.models.base import ForecastModel, Grid, Task, TrainableModel, TrainingBatch
from xnowcast.models.registry import runtime_options
from xnowcast.models.sprog import SMOOTH, pattern
from xnowcast.models.transforms import SCALINGS, Identity
from xnowcast.nn.cascade import continued
from xnowcast.nn.moving_frame import motion_of, onto_newest
from xnowcast.nn.noise import Noise, member_generator


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
    model = models.build("lagrangian", network=network, size="tiny").eval()
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
    model = models.build("lagrangian", network="ms-convlstm", size="tiny", target_frames=3)
    rain = rates(radar, 8)
    seen = torch.ones_like(rain, dtype=torch.bool)
    seen[..., :40] = False
    other = rain.clone()
    other[..., :40] = 0.0
    losses = [model.loss(TrainingBatch(r * seen, seen), progress=0.0).total for r in (rain, other)]
    torch.testing.assert_close(*losses)


def test_it_forecasts_with_the_coverage_of_extrapolation(radar):
    model = models.build("lagrangian", network="ms-convlstm", size="tiny")
    forecast = radar.nowcast.forecast(model, steps=6).rainfall_rate.compute()
    expected = radar.nowcast.forecast("extrapolation", input_frames=5, steps=6).rainfall_rate.compute()
    # where light rain was cut off by the scaling, the motion is a little another
    assert float((forecast.isnull() != expected.isnull()).mean()) < 0.005 and bool(forecast.isnull().any())


def test_matched_forecasts_have_the_rain_rates_of_extrapolation(radar):
    model = models.build("lagrangian", network="ms-convlstm", size="tiny", probability_matching=True)
    for part in model.modules():
        if isinstance(getattr(part, "read", None), torch.nn.Conv2d):
            torch.nn.init.constant_(part.read.bias, -0.01)  # it has rain decay
    forecast = radar.nowcast.forecast(model, steps=3).rainfall_rate.values
    unmatched = models.build("lagrangian", network="ms-convlstm", size="tiny")
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
    alone, mixed = (
        models.build("lagrangian", network="ms-convlstm", size="tiny", cascade=share).eval() for share in (0.0, 0.4)
    )
    mixed.load_state_dict(alone.state_dict())
    network, both = (model.forecast(scale(rain), seen, 4) for model in (alone, mixed))
    read = scale.inverse(scale(rain))[:, :, 0]
    smoother = motion_of(read, seen[:, :, 0], window=SMOOTH)
    smooth = pattern(read, seen[:, :, 0], smoother, 4, scaling=scale)[:, :, None]
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
    for name, weight in before.network.network.state_dict().items():
        torch.testing.assert_close(model.network.forecasting.state_dict()[name], weight, atol=0, rtol=0)
    assert any(part.abs().max() > 0 for name, part in model.network.deblurring.named_parameters() if "read" in name)
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


def members(count, seed=0):
    return Noise([member_generator(seed, 0, member) for member in range(count)])


def test_persistence_in_it_is_extrapolation(radar):
    rain = rates(radar, 4)
    made = models.build("lagrangian", network="persistence").forecast(rain, rain >= 0, 5)
    torch.testing.assert_close(
        made, models.build("extrapolation").forecast(rain, rain >= 0, 5), equal_nan=True, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["alone", "joined and matched"])
def test_a_network_without_members_has_some_by_their_motion(radar, share):
    rain = rates(radar, 5).repeat(2, 1, 1, 1, 1)
    options = {"motion_noise": 1.0, "cascade": share, "probability_matching": share, "input_frames": 5}
    model = models.build("lagrangian", network="persistence", **options)
    assert model.task.stochastic and model.task.input_frames == 5
    made = model.forecast(rain, rain >= 0, 3, Noise([*members(3).generators, *members(3).generators]))
    assert made.shape == (6, 3, 1, 96, 96) and made.isfinite().any()
    torch.testing.assert_close(made[:3], made[3:], equal_nan=True)
    assert float((made[0] - made[1]).nan_to_num().abs().mean()) > 0.01
    assert float(made.nan_to_num().max()) < 1.5 * float(rain.max())
    with pytest.raises(ValueError, match="no noise sources for 2 forecasts"):
        model.forecast(rain, rain >= 0, 3)


class Blurring:
    """A network that is left with what lies over 8 cells."""

    task, transform = Task("forecast", input_frames=3), SCALINGS["reflectivity"]

    def forecast(self, frames, observed, steps, noise=None):
        smooth = torch.nn.functional.avg_pool2d(frames[:, -1], 9, stride=1, padding=4, count_include_pad=False)
        return smooth[:, None].expand(-1, steps, -1, -1, -1)


def test_members_get_back_the_detail_that_a_forecast_has_lost(radar):
    rain = rates(radar, 5)
    frames = SCALINGS["reflectivity"](rain)

    def detail(fields):
        """Spread on the scales that the network blurs."""
        fields = SCALINGS["reflectivity"](fields.nan_to_num())[..., 20:-20, 20:-20].flatten(0, 2)[:, None]
        return float((fields - torch.nn.functional.avg_pool2d(fields, 9, 1, 4, count_include_pad=False)).std())

    kept = models.build("lagrangian", network=Blurring(), input_frames=5)
    assert not kept.task.stochastic
    given_back = models.build("lagrangian", network=Blurring(), input_frames=5, detail=1.0, probability_matching=1.0)
    assert given_back.task.stochastic
    blurred, made = kept.forecast(frames, rain >= 0, 2), given_back.forecast(frames, rain >= 0, 2, members(4))
    blurred, made = (SCALINGS["reflectivity"].inverse(some) for some in (blurred, made))
    assert detail(blurred) < 0.6 * detail(rain[:, -1:])
    assert 0.7 < detail(made) / detail(rain[:, -1:]) < 1.3
    dry = torch.nn.functional.max_pool2d(rain[:, -1], 41, 1, 20)[0, 0] == 0
    assert not dry.any() or float(made[:, 0, 0][:, dry].nan_to_num().mean()) < 0.02


def test_each_member_with_detail_is_itself(radar):
    rain = rates(radar, 5)
    frames = SCALINGS["reflectivity"](rain)
    model = models.build("lagrangian", network=Blurring(), input_frames=5, detail=0.8, motion_noise=0.3)
    together = model.forecast(frames, rain >= 0, 3, members(3))
    assert float((together[0] - together[1]).nan_to_num().abs().mean()) > 0.005
    for number in range(3):
        alone = model.forecast(frames, rain >= 0, 2, Noise([members(3).generators[number]]))
        torch.testing.assert_close(alone[0], together[number, :2], equal_nan=True)


class Brighter(Blurring):
    """The newest frame and a fifth more, everywhere and at once."""

    def forecast(self, frames, observed, steps, noise=None):
        return 1.2 * frames[:, -1:].expand(-1, steps, -1, -1, -1)


def test_anchored_forecasts_are_those_of_sprog_on_the_scales_that_are_named(radar):
    scale, rain = SCALINGS["reflectivity"], rates(radar, 5)
    seen = rain[:, :, 0] >= 0
    aligned, _ = onto_newest(rain[:, :, 0], seen, motion_of(rain[:, :, 0], seen, window=16.0), 5)

    def forecast(network, anchor):
        model = models.build("lagrangian", network=network, input_frames=5, motion_noise=1e-9, anchor=anchor)
        return model.forecast(scale(rain), rain >= 0, 3, members(2))[0, :, 0].nan_to_num()

    smooth = forecast(Still(continued(scale(aligned), 3).clamp(0, 1)), (0, 0, 0))
    free, anchored, coarse = (forecast(Brighter(), anchor) for anchor in ((0, 0, 0), (1, 1, 1), (1, 0, 0)))
    torch.testing.assert_close(anchored, smooth, atol=2e-3, rtol=0)
    wetter, left = float(free.mean() - smooth.mean()), float(coarse.mean() - smooth.mean())
    assert wetter > 0.1 * float(smooth.mean())
    assert abs(left) < 0.4 * wetter, "the mean belongs to coarse scales; rates below 0 are cut off"
    steepness = [float(fields.diff().abs().mean()) for fields in (smooth, coarse, free)]
    assert steepness[1] > steepness[0] + 0.7 * (steepness[2] - steepness[0]), "fine scales stay"


class Still(Blurring):
    """Says the same whatever it reads."""

    def __init__(self, ahead):
        super().__init__()
        self.ahead = ahead

    def forecast(self, frames, observed, steps, noise=None):
        return self.ahead[:, :steps, None]


def test_an_anchored_member_of_a_network_with_members_is_itself(radar):
    rain = rates(radar, 5)
    frames = SCALINGS["reflectivity"](rain)
    torch.manual_seed(2)
    model = models.build("lagrangian", network="crps-rnn", size="tiny", anchor=(1, 0.5, 0), detail=0.5).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    together = model.forecast(frames, rain >= 0, 2, members(3))
    assert float((together[0] - together[1]).nan_to_num().abs().mean()) > 0.005
    for number in range(3):
        alone = model.forecast(frames, rain >= 0, 2, Noise([members(3).generators[number]]))
        torch.testing.assert_close(alone[0], together[number], equal_nan=True, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("anchor", [(1.2, 0, 0), (0, -0.1, 0), (0.5, 0.5)])
def test_an_anchor_is_three_shares(anchor):
    with pytest.raises(ValueError, match="anchor"):
        models.build("lagrangian", network="ms-convlstm", size="tiny", anchor=anchor)


def test_detail_suits_a_network_in_any_unit(radar):
    """Around one that works in mm/h noise is added on the same scale as around one that works in reflectivity."""
    rain = rates(radar, 5)
    options = {"input_frames": 5, "detail": 0.5}
    network = Blurring()
    network.transform = Identity()
    made = models.build("lagrangian", network=network, **options).forecast(rain, rain >= 0, 2, members(2))
    assert float(made.nan_to_num().max()) > 2.0, "rates above 1 mm/h are not cut off"
    assert float((made[0] - made[1]).nan_to_num().abs().mean()) > 0.005


def test_members_are_had_by_asking_for_them(radar):
    five = radar.isel(time=slice(5))
    one = five.nowcast.forecast("lagrangian", steps=2, on_mismatch="warn")
    some = five.nowcast.forecast("lagrangian", steps=2, members=3, on_mismatch="warn")
    assert "member" not in one.dims and some.sizes["member"] == 3
    assert "detail=0.8" in some.attrs["nowcast_options"] and "nowcast_options" not in one.attrs
    assert float(some.rainfall_rate.std("member").max()) > 0.1
    chosen = five.nowcast.forecast("lagrangian", steps=2, members=3, detail=0.2, on_mismatch="warn")
    assert "detail=0.2" in chosen.attrs["nowcast_options"]


class Rising:
    """A network made for steps of 4 min or more and cells of 1 km or more, by which rain rises from step to step."""

    task = Task(
        "forecast",
        input_frames=3,
        step=(timedelta(minutes=4), timedelta(minutes=15)),
        spacing=(1000.0, 4000.0),
        trained=True,
    )
    transform = SCALINGS["reflectivity"]

    def forecast(self, frames, observed, steps, noise=None):
        self.read = frames
        return frames[:, -1:] + 0.02 * torch.arange(1, steps + 1)[:, None, None, None]


@pytest.mark.parametrize(
    ("minutes", "km", "every", "cells"), [(5.0, 1.0, 1, 1), (2.0, 1.0, 2, 1), (5.0, 0.5, 1, 2), (1.0, 0.25, 4, 4)]
)
def test_on_finer_grids_and_shorter_steps_a_network_runs_on_those_that_it_knows(minutes, km, every, cells):
    """Rain that stands still: what is added after k steps is as much of a step of the network as k steps are."""
    network = Rising()
    model = models.build("lagrangian", network=network, input_frames=5)
    torch.manual_seed(3)
    rain = (1 + torch.rand(1, 1, 1, 40, 44)).expand(1, 5, 1, 40, 44)
    frames = network.transform(rain)
    grid = Grid(minutes=minutes, spacing_km=(km, km))
    made = model.forecast(frames, frames >= 0, 6, grid=grid)
    assert network.read.shape == (1, 3, 1, 40 // cells, 44 // cells)
    added = (made - frames[:, -1:])[0, :, 0, 8:-8, 8:-8]
    wanted = (0.02 * torch.arange(1, 7) / every)[:, None, None].expand_as(added)
    torch.testing.assert_close(added, wanted, atol=2e-3, rtol=0)


def test_data_of_shorter_steps_and_smaller_cells_are_taken_and_others_refused():
    model = models.build("lagrangian", network=Rising(), input_frames=5)
    for step, spacing in (("2min", 0.5), ("1min", 0.25), ("15min", 4.0)):
        radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(40, 40), step=step, spacing_km=spacing, seed=1)
        assert radar.nowcast.forecast(model, steps=2).sizes["lead_time"] == 2
    for step, spacing, message in (("30s", 1.0, "steps of 4 to 15 min"), ("5min", 0.2, "a grid of 1 to 4 km")):
        radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(40, 40), step=step, spacing_km=spacing, seed=1)
        with pytest.raises(ValueError, match=message):
            radar.nowcast.forecast(model, steps=2)


class Doubling:
    """A network of one's own, in mm/h."""

    def __init__(self):
        self.task, self.transform = Task("forecast", input_frames=1, max_steps=4), Identity()

    def forecast(self, frames, observed, steps, noise=None):
        assert frames.shape[1] == 1
        return 2 * frames[:, -1:].expand(-1, steps, -1, -1, -1)


def test_a_model_of_ones_own_is_wrapped_as_it_is(radar):
    rain = rates(radar, 4)
    model = models.build("lagrangian", network=Doubling())
    assert model.task.max_steps == 4 and not model.task.trained
    expected = models.build("extrapolation").forecast(rain, rain >= 0, 3)
    made = model.forecast(rain, rain >= 0, 3)
    torch.testing.assert_close(made, 2 * expected, equal_nan=True, atol=1e-4, rtol=1e-4)
    assert radar.nowcast.forecast(model, steps=2).attrs["nowcast_model"] == "lagrangian"
    with pytest.raises(ValueError, match="network is 'Doubling', which is not trained"):
        xnowcast.train(model, radar, steps=1, progress=False)
    with pytest.raises(ValueError, match="the one that was given is built"):
        models.build("lagrangian", network=Doubling(), network_options={"size": "tiny"})


def test_extrapolation_in_it_knows_nothing_of_what_comes_from_outside(radar):
    rain = rates(radar, 4)
    made = models.build("lagrangian", network="extrapolation").forecast(rain, rain >= 0, 5)
    expected = models.build("extrapolation").forecast(rain, rain >= 0, 5)
    assert bool(made[expected.isnan()].isnan().all()) and bool(made.isfinite().any())


def test_what_a_network_learnt_alone_is_where_the_layer_begins(radar, tmp_path):
    common = {"size": "tiny", "target_frames": 2, "crop": 32, "batch_size": 1, "validation": 0, "progress": False}
    xnowcast.train("stldm", radar, out=tmp_path / "a", steps=2, model_options={"strategy": "autoencoder"}, **common)
    options = {"network": "stldm", "strategy": "translator"}
    model = xnowcast.train("lagrangian", radar, start=tmp_path / "a", steps=1, model_options=options, **common)
    before = xnowcast.load(tmp_path / "a" / "model.safetensors")
    assert model.network.task.crop == model.task.crop == 32
    for name, weight in before.autoencoder.state_dict().items():
        torch.testing.assert_close(model.network.autoencoder.state_dict()[name], weight, atol=0, rtol=0)
    with pytest.raises(ValueError, match="holds weights of 'stldm', and 'lagrangian' is trained"):
        xnowcast.train("lagrangian", radar, start=tmp_path / "a", steps=1, network="ms-convlstm", **common)


def as_before(path, system, options, rename):
    """A file rewritten in the form of earlier versions."""
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["xnowcast"])
        tensors = {rename(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    card |= {"system": system, "options": options, "sha256": weights._hash(tensors)}
    card.pop("edition", None)
    save_file(tensors, path, metadata={"xnowcast": json.dumps(card)})


@pytest.mark.parametrize("network", ["stldm", "ms-convlstm"])
def test_files_of_earlier_versions_are_read(radar, tmp_path, network):
    path, own = tmp_path / "weights.safetensors", {"size": "tiny", "target_frames": 4}
    options = {"network": network, "probability_matching": 0.5, "cascade": 0.3, **own}
    torch.manual_seed(0)
    model = models.build("lagrangian", **options)
    weights.save(path, model, system="lagrangian", options=options)
    few = {"members": 2, "sampling_steps": 2} if network == "stldm" else {}
    expected = radar.nowcast.forecast(path, steps=3, **few).compute()
    if network == "stldm":
        former = {name: value for name, value in options.items() if name != "network"} | {"moving_frame": True}
        as_before(path, "stldm", former, lambda name: name.removeprefix("network."))
    else:
        as_before(path, "lagrangian", options, lambda name: name.replace("network.", "inner.", 1))
    assert weights.read_card(path).options == options
    np.testing.assert_array_equal(radar.nowcast.forecast(path, steps=3, **few).rainfall_rate, expected.rainfall_rate)
    again = weights.slim(path, tmp_path / "again.safetensors", dtype="float32")
    assert again.system == "lagrangian" and set(xnowcast.load(tmp_path / "again.safetensors").state_dict()) == set(
        model.state_dict()
    )


def test_earlier_options_without_the_moving_frame_are_left_out_or_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    weights.save(path, models.build("stldm", size="tiny"), system="stldm", options={"size": "tiny"})
    as_before(path, "stldm", {"size": "tiny", "moving_frame": False, "window": 16.0, "cascade": 0.0}, str)
    assert weights.read_card(path).options == {"size": "tiny"} and xnowcast.load(path).task.coverage == "observed"
    as_before(path, "stldm", {"size": "tiny", "residual": True, "inflation": 2.0}, str)
    with pytest.raises(ValueError, match=r"inflation is an option of 'lagrangian' alone.*network='stldm'"):
        weights.read_card(path)


def test_what_is_asked_for_by_the_name_of_its_network_is_called_so(radar):
    forecast = radar.nowcast.forecast("stldm", steps=1, members=1, sampling_steps=1, on_mismatch="warn")
    assert forecast.attrs["nowcast_model"] == models.called(xnowcast.load("stldm")) == "stldm"
    assert xnowcast.card("stldm").system == "lagrangian"
    free = {"sampling_steps", "guidance", "inflation", "motion_noise", "probability_matching", "cascade", "tile"}
    assert free <= set(runtime_options("lagrangian", {"network": "stldm"}))
    with pytest.raises(ValueError, match="weights of 'lagrangian' fix the model's options: leave out size; free are"):
        xnowcast.load("stldm", size="tiny")
    with pytest.raises(ValueError, match="has no option 'samling_steps'; did you mean 'sampling_steps'"):
        xnowcast.load("stldm", samling_steps=2)
    with pytest.raises(ValueError, match="no option 'moving_frame': build or train 'lagrangian' with network='stldm'"):
        xnowcast.train("stldm", radar, model_options={"moving_frame": True, "cascade": 0.3})


def test_the_model_keeps_its_promises():
    model = models.build("lagrangian", network="db-convlstm", size="tiny")
    assert isinstance(model, ForecastModel) and isinstance(model, TrainableModel)
    assert model.adversary((64, 64)) is not None
    assert models.build("lagrangian").task.input_frames == 5
    assert sum(p.numel() for p in models.build("lagrangian").parameters()) == sum(
        p.numel() for p in models.build("db-convlstm").parameters()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "stvd"}, "network is 'stvd', which makes no forecasts: it is for downscale"),
        ({"network": 3}, "network is 3: give the name of a system, or a model with .forecast()"),
        ({"network": "persistence", "size": "tiny"}, "has no option 'size'"),
        ({"network": "persistence", "emphasis": 2.0}, "'lagrangian' has no option 'emphasis'"),
        ({"network": "db-convlstm", "inflation": 2.0}, "'db-convlstm' has no members that could lie further apart"),
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
    model = models.build("lagrangian", network="ms-convlstm", size="tiny")
    frames = torch.zeros(1, 3, 1, 32, 32)
    with pytest.raises(ValueError, match="3 frames were given"):
        model.forecast(frames, frames >= 0, 2)
    frames = torch.zeros(1, 5, 1, 32, 32)
    with pytest.raises(ValueError, match="ask for at least one"):
        model.forecast(frames, frames >= 0, 0)
