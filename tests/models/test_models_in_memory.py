"""A model in memory is known by what it holds, left as it was, and never gives NaN for what was measured."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import xnowcast
from xnowcast import engine, models
from xnowcast.engine import workers
from xnowcast.models import contents
from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity


class Scaled(nn.Module):
    """Persistence times a factor, with a layer that behaves otherwise in training."""

    def __init__(self, factor=1.0, coverage="observed"):
        super().__init__()
        self.task, self.transform = Task("forecast", input_frames=1, coverage=coverage), Identity()
        self.factor = nn.Parameter(torch.tensor(float(factor)))
        self.register_buffer("offset", torch.tensor(0.0))
        self.parts = nn.ModuleList([nn.Dropout(0.9), nn.Dropout(0.9)])
        self.power, self.seen = 1, []

    def forecast(self, frames, observed, steps, noise=None):
        self.seen.append((self.training, [part.training for part in self.parts]))
        moved = (self.parts[0](frames[:, -1:]) * self.factor + self.offset) ** self.power
        return moved.expand(-1, steps, -1, -1, -1)


def forecast(radar, model, **options):
    return xnowcast.forecast(radar, model, **({"steps": 1} | options)).rain


def tiny(name, **options):
    torch.manual_seed(0)
    return models.build(name, size="tiny", **options).eval()


# ---------------------------------------------------------------- what is broken


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lazy", [False, True])
def test_parameters_that_are_no_numbers_are_refused_while_the_forecast_is_planned(radar, value, lazy):
    radar = radar.chunk(time=2) if lazy else radar
    with pytest.raises(ValueError, match="'Scaled' has NaN or infinite numbers in 'factor'"):
        forecast(radar, Scaled(value))


def test_all_verbs_refuse_them(radar):
    cases = {
        "postcast": lambda model: radar.nowcast.deblur(model),
        "stvd": lambda model: radar.nowcast.downscale(model, factor=8),
        "nwp-mae": lambda model: xnowcast.postprocess(radar, model),
    }
    for name, call in cases.items():
        model = tiny(name) if name != "nwp-mae" else tiny(name, channels=("rainfall_rate",))
        with torch.no_grad():
            next(model.parameters()).fill_(np.nan)
        with pytest.raises(ValueError, match="NaN or infinite numbers in"):
            call(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("coverage", ["observed", "advected"])
def test_answers_that_are_no_numbers_are_refused_with_model_and_init_time(radar, value, coverage):
    model = Scaled(coverage=coverage)
    model.offset.fill_(value)
    whole = radar.assign(rain=radar.rain.fillna(0.0))
    with pytest.raises(ValueError, match=r"'Scaled' gave NaN or infinite values for 2024-06-01T12:45:00, .*measured"):
        forecast(whole, model)
    lazy = forecast(whole.chunk(time=1), model, init_times="all", batch_size=1)
    with pytest.raises(ValueError, match="12:10:00"):
        lazy.isel(init_time=2).compute()


def test_only_the_forecast_that_is_broken_is_named(radar):
    class Sometimes(Scaled):
        def forecast(self, frames, observed, steps, noise=None):
            answer = super().forecast(frames, observed, steps).clone()
            answer[2] = np.nan
            return answer

    radar.rain[0] = 0.0  # a dry window, which the model is not asked about
    with pytest.raises(ValueError, match="for 2024-06-01T12:15:00, which"):
        forecast(radar, Sometimes(), init_times="all")


def test_what_was_never_measured_may_be_anything(radar):
    class Blind(Scaled):
        def forecast(self, frames, observed, steps, noise=None):
            return torch.where(observed[:, -1:], frames[:, -1:], np.nan).expand(-1, steps, -1, -1, -1)

    result = forecast(radar, Blind())
    xr.testing.assert_equal(result.isnull().any(("init_time", "lead_time")), radar.rain.isnull().all("time"))


@pytest.mark.parametrize("name", ["ms-convlstm", "db-predrnn", "lagrangian", "stldm"])
def test_overflow_is_not_cut_to_the_heaviest_rain(name):
    """Networks clip what they say to the scale that they learnt: infinity would come out as its upper end."""
    radar = xnowcast.datasets.synthetic_radar(frames=12, shape=(32, 32), seed=1).load()
    model = tiny(name, **({"network": "ms-convlstm"} if name == "lagrangian" else {}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3e38)  # near the largest float32: all are finite, and their sums are not
    members = {"members": 1} if model.task.stochastic else {}
    with pytest.raises(ValueError, match="gave NaN or infinite values for 20"):
        xnowcast.forecast(radar, model, steps=1, on_mismatch="warn", **members)


def test_overflow_in_fine_fields_is_refused():
    radar = xnowcast.datasets.synthetic_radar(frames=5, shape=(16, 16), seed=1).load()
    model = tiny("stvd", factor=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3e38)
    for members in (0, 1):
        with pytest.raises(ValueError, match="'stvd' gave NaN or infinite values for 20"):
            xnowcast.downscale(radar, model, factor=4, members=members)


def test_a_frame_whose_sharpening_is_no_number_is_refused(radar, toy_models):
    import toy_models as toys

    class Broken(toys.NoisySharpener):
        def deblur(self, frames, observed, noise):
            answer = super().deblur(frames, observed, noise)
            answer.frames[1] = np.nan
            return answer

    with pytest.raises(ValueError, match=r"'Broken' gave NaN or infinite values for init_time 2024-06-01T12:05:00"):
        xnowcast.deblur(radar, Broken())


def test_what_the_last_step_of_a_training_broke_is_not_kept(radar):
    pytest.importorskip("lightning")
    from xnowcast.models.base import Loss

    class Diverging(Scaled):
        training_frames = 2

        def loss(self, batch, *, progress, adversary=None):
            return Loss((self.factor * batch.rain)[batch.observed].mean())

        def adversary(self, shape):
            return None

    model, wild = Diverging(2.0), {"optimizer": "adamw", "learning_rate": 1000.0, "weight_decay": 3e35}
    with pytest.raises(FloatingPointError, match="after step 1 the weights hold NaN or infinite numbers, in 'factor'"):
        xnowcast.train(model, radar, steps=1, crop=16, validation=0.0, progress=False, **wild)


# ---------------------------------------------------------------- known by its content


def _in_place(model):
    model.factor.mul_(2)


def _through_data(model):
    model.factor.data.fill_(3.0)


def _loaded(model):
    model.load_state_dict(model.state_dict() | {"factor": torch.tensor(4.0)})


def _buffer(model):
    model.offset.add_(1)


def _attribute(model):
    model.power = 2


@pytest.mark.parametrize("change", [_in_place, _through_data, _loaded, _buffer, _attribute])
def test_a_model_that_changed_is_another(change):
    model = Scaled()
    before = workers.node_of(model).token
    with torch.no_grad():
        change(model)
    assert workers.node_of(model).token != before


def test_what_changes_no_forecast_makes_no_other_model():
    model, same = Scaled(), Scaled()
    before = workers.node_of(model).token
    model.factor.grad = torch.ones(())
    model.train(), model.parts[0].eval()
    assert workers.node_of(model).token == before == workers.node_of(same).token


def test_a_large_tensor_is_read_once(monkeypatch):
    model = nn.Linear(300, 300)
    contents.digest(dict(model.named_parameters()))
    monkeypatch.setattr(contents.hashlib, "sha256", pytest.fail)
    contents._content_of(model.weight)


def test_a_sparse_tensor_is_known_by_itself():
    model = Scaled()
    model.register_buffer("table", torch.eye(3).to_sparse())
    assert workers.node_of(model).token == workers.node_of(model).token


def test_objects_without_parameters_are_known_by_their_content_too():
    one, other = (models.build("extrapolation", window=window) for window in (8.0, 9.0))
    assert workers.node_of(one).token != workers.node_of(other).token
    assert workers.node_of(one).token == workers.node_of(models.build("extrapolation", window=8.0)).token


def test_a_model_that_changed_after_planning_is_refused(radar):
    model = Scaled()
    lazy = forecast(radar.chunk(time=2), model)
    with torch.no_grad():
        model.factor.mul_(2)
    with pytest.raises(
        ValueError, match=r"'Scaled' was changed after its forecast was planned.*plan the forecast again"
    ):
        lazy.compute()
    assert float(forecast(radar, model).max()) == pytest.approx(2 * float(radar.rain[-1].max()))


def test_a_model_that_was_trained_on_is_not_named_by_its_old_hash(radar, tmp_path):
    from xnowcast.models import weights

    network = {"network": "ms-convlstm", "size": "tiny"}
    weights.save(
        tmp_path / "w.safetensors",
        tiny("lagrangian", network="ms-convlstm"),
        system="lagrangian",
        options=network,
        dtype="float16",
    )
    radar = xnowcast.datasets.synthetic_radar(frames=12, shape=(32, 32), seed=1).load()
    model = xnowcast.load(tmp_path / "w.safetensors")
    named = xnowcast.forecast(radar, model, steps=1).attrs["nowcast_weights_sha256"]
    assert named == model.card.sha256
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert xnowcast.forecast(radar, model, steps=1).attrs["nowcast_weights_sha256"] != named


# ---------------------------------------------------------------- left as it was


def test_every_part_of_a_model_is_left_in_its_mode(radar):
    model = Scaled().train()
    model.parts[1].eval()
    result = forecast(radar, model)
    assert model.seen == [(False, [False, False])], "it ran in evaluation mode"
    np.testing.assert_array_equal(result[0, 0], radar.rain[-1])
    assert model.training and model.parts[0].training and not model.parts[1].training


def test_also_where_it_fails(radar):
    model = Scaled().train()
    model.forecast = None
    with pytest.raises(TypeError):
        forecast(radar, model)
    assert model.training


def test_forecasts_in_several_threads_leave_it_too(radar):
    model, start = Scaled().train(), threading.Barrier(4)

    def run(i):
        start.wait()
        return forecast(radar.chunk(time=1), model, init_times="all").compute()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert all(not whole and parts == [False, False] for whole, parts in model.seen)
    assert model.training and all(part.training for part in model.parts)
    for result in results[1:]:
        xr.testing.assert_equal(result, results[0])


def test_a_process_keeps_the_last_models_alone(radar, monkeypatch):
    monkeypatch.setattr(workers, "_MODELS", type(workers._MODELS)())
    for window in range(4, 4 + 2 * workers.MODELS_KEPT):
        forecast(radar, "extrapolation", window=window)
    assert len(workers._MODELS) == workers.MODELS_KEPT
    kept = list(workers._MODELS)
    forecast(radar, "extrapolation", window=4 + workers.MODELS_KEPT)
    assert list(workers._MODELS) == [*kept[1:], kept[0]], "the one that was used last is the last to go"


@pytest.mark.parametrize("device", [None, 0, "meta", "cpu:7", "cpu:1", "abacus", "", [], 1.5, True, "mps:3"])
def test_a_device_that_is_not_here_is_refused(radar, device):
    with pytest.raises(ValueError, match=r"device is .*(it can be 'auto'|use device='auto'|such as 'auto')"):
        forecast(radar.chunk(time=2), "persistence", device=device)


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu:0"])
def test_devices_that_are_here_run(radar, device):
    assert engine.choose_device(device).type in ("cpu", "cuda")
    assert forecast(radar, "persistence", device=device).notnull().any()
