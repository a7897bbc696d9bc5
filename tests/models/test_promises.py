"""What every forecaster promises, tested over the registry: a new one is tested by its line there.

Those that are trained are built small, with weights as they are before training.
"""

from functools import cache

import cf_xarray  # noqa: F401
import numpy as np
import pytest
import torch
import xarray as xr

import xnowcast
from xnowcast import engine, models
from xnowcast.models.base import ForecastModel, Task

SMALL = {"size": "tiny", "sampling_steps": 2}
FORECASTERS = [name for name in models.names() if models.declare(name).verb == "forecast"]

# The toy with members is as cheap as persistence.
pytestmark = [pytest.mark.parametrize("name", [*FORECASTERS, "noisy"]), pytest.mark.usefixtures("toy_models")]


def declared(name):
    return models.declare(name, **small(name))


def small(name):
    return {option: least for option, least in SMALL.items() if option in models.options(name)}


@cache
def built(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build(name, **small(name))


@pytest.fixture
def radar(radar, name):
    """The scene of all tests, twice one above the other for a system that needs more rows than it has."""
    if declared(name).min_grid <= radar.sizes["y"]:
        return radar
    y = radar.y.copy(data=radar.y + 24000.0)
    return xr.concat([radar.assign_coords(y=y), radar], "y", data_vars="minimal", combine_attrs="override")


def run(ds, name, **options):
    few = {"members": 2} if declared(name).stochastic else {}
    model = built(name) if declared(name).trained else name
    return ds.nowcast.forecast(model, **({"lead_time": "15min", "seed": 3} | few | options))


def test_the_task_is_declared_without_building_the_model(name):
    task = declared(name)
    assert isinstance(task, Task)
    assert built(name).task == task
    assert isinstance(built(name), ForecastModel)
    assert models.find(name).__doc__, "the first line of the class's docstring is its description"


def test_the_layout_is_that_of_every_forecast(name, radar):
    forecast = run(radar, name, init_times="all")
    member = ("member",) if declared(name).stochastic else ()
    assert forecast.rain.dims == ("init_time", *member, "lead_time", "y", "x")
    assert forecast.rain.dtype == np.float32
    assert forecast.lead_time.values.tolist() == (np.arange(1, 4) * np.timedelta64(5, "m")).astype("m8[ns]").tolist()
    assert forecast.valid_time.dims == ("init_time", "lead_time")
    assert (forecast.valid_time == forecast.init_time + forecast.lead_time).all()
    for coordinate in ("y", "x"):
        xr.testing.assert_identical(forecast[coordinate].variable, radar[coordinate].variable)


def test_the_labels_are_cf(name, radar):
    forecast = run(radar, name)
    assert forecast.attrs["Conventions"].startswith("CF-1.")
    assert name in forecast.attrs["history"] and forecast.attrs["history"].endswith("made")
    assert forecast.attrs["title"].endswith("a blob") and name in forecast.attrs["title"]
    assert forecast.attrs["nowcast_model"] == name
    assert forecast.rain.attrs == radar.rain.attrs
    names = forecast.cf.standard_names
    assert names["forecast_reference_time"] == ["init_time"]
    assert names["forecast_period"] == ["lead_time"]
    assert names["time"] == ["valid_time"]
    assert names["rainfall_rate"] == ["rain"]
    assert "crs" in forecast
    if declared(name).stochastic:
        assert names["realization"] == ["member"]


def test_building_computes_nothing(name, radar, nothing_may_run):
    with nothing_may_run:
        lazy = run(radar.chunk(time=2), name, init_times="all")
    assert lazy.rain.chunks is not None
    xr.testing.assert_allclose(lazy.compute().rain, run(radar, name, init_times="all").rain)


def test_the_same_seed_gives_the_same_numbers(name, radar):
    xr.testing.assert_equal(run(radar, name), run(radar, name))


def test_the_input_is_untouched(name, radar):
    before = radar.copy(deep=True)
    run(radar, name, init_times="all")
    xr.testing.assert_identical(radar, before)


def test_rain_is_never_negative_and_infinite_nowhere(name, radar):
    rain = run(radar, name, init_times="all").rain
    assert float(rain.min()) >= 0
    assert not np.isinf(rain).any()


def test_what_was_never_measured_is_nan(name, radar):
    task = declared(name)
    rain = run(radar, name).rain
    never = radar.rain.isel(time=slice(-task.input_frames, None)).isnull().all("time")
    assert bool(rain.isnull().where(never, True).all())
    if task.coverage == "observed":
        assert bool((rain.isnull() == never).all())


def test_a_scene_that_stands_still_is_nan_nowhere_else(name, radar):
    still = xr.concat([radar.rain[-1]] * 6, radar.time[:6]).to_dataset()
    rain = run(still, name).rain
    assert bool((rain.isnull() == still.rain[-1].isnull()).all())


def test_a_measured_frame_in_the_middle_of_a_window_may_be_partly_missing(name, radar):
    holed = radar.copy(deep=True)
    holed.rain[-2, 8:12, 8:12] = np.nan
    assert float(run(holed, name).rain[..., 4:20, 8:28].isnull().mean()) < 0.2


ROUNDING = dict.fromkeys(["phydnet", "diffcast"], 1e-4)
"""Of rain rates, where it is more than 1e-5: PhyDNet's norms of few numbers amplify it, and DiffCast begins with it."""


def test_batches_and_chunks_change_nothing(name, radar):
    whole, rtol = run(radar, name, init_times="all").rain, ROUNDING.get(name, 1e-5)
    one_by_one, chunked = (
        run(radar, name, init_times="all", batch_size=1),
        run(radar.chunk(time=3, x=9), name, init_times="all"),
    )
    xr.testing.assert_allclose(one_by_one.rain, whole, rtol=rtol, atol=1e-4)
    xr.testing.assert_allclose(chunked.rain.compute(), whole, rtol=rtol, atol=1e-4)


def test_the_order_of_dims_and_rows_changes_nothing(name, radar):
    plain = run(radar, name).rain
    xr.testing.assert_identical(run(radar.transpose("x", "time", "y"), name).rain, plain)
    flipped = run(radar.isel(y=slice(None, None, -1), x=slice(None, None, -1)), name).rain
    xr.testing.assert_identical(flipped.isel(y=slice(None, None, -1), x=slice(None, None, -1)), plain)


def test_evaluating_twice_is_equal(name, radar):
    task = declared(name)
    model = built(name)
    windows = radar.rain.values[None, -task.input_frames :]
    if task.stochastic:
        pytest.skip("a stochastic model's noise is drawn anew; the same seed is tested above")
    np.testing.assert_array_equal(engine.predict(model, windows, 3), engine.predict(model, windows, 3))


def test_more_frames_than_it_reads_change_nothing(name, radar):
    task = declared(name)
    fewest = radar.isel(time=slice(-max(2, task.input_frames), None))  # a step needs two
    xr.testing.assert_allclose(run(fewest, name).rain, run(radar, name).rain)


def test_grids_of_any_size_of_eight_and_more(name, radar):
    least = max(8, declared(name).min_grid)
    for size in ((least, least), (least + 1, min(least + 5, 32)), (radar.sizes["y"], 32)):
        assert run(radar.isel(y=slice(size[0]), x=slice(size[1])), name).rain.shape[-2:] == size


def test_the_card_tells_what_it_reads(name):
    card = xnowcast.card(name)
    assert name in (card.system, card.options.get("network")) and card.description and "frame" in card.reads
    assert name in card._repr_html_() and "<table>" in card._repr_html_()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_to_float_tolerance(name, radar):
    xr.testing.assert_allclose(run(radar, name, device="cuda").rain, run(radar, name, device="cpu").rain, atol=1e-3)
