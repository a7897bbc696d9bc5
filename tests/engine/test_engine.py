"""Members and batches are themselves wherever they are computed; building a graph computes nothing."""

from types import SimpleNamespace

import dask
import numpy as np
import pytest
import torch
import xarray as xr

import xnowcast  # noqa: F401
from xnowcast import engine, models
from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity


@pytest.fixture(autouse=True)
def _toys(toy_models):
    engine.workers._MODELS.clear()


def noisy(ds, **options):
    return ds.nowcast.forecast("noisy", steps=3, **({"members": 4, "init_times": "all", "seed": 7} | options)).rain


@pytest.mark.parametrize(
    "chunks", [{"time": 1}, {"time": 3}, {"time": -1}, {"time": 4, "y": 7, "x": 5}, {"y": 12}], ids=str
)
def test_chunking_changes_nothing(radar, chunks):
    xr.testing.assert_identical(noisy(radar.chunk(chunks)).compute(), noisy(radar))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_batch_size_changes_nothing(radar, batch_size):
    xr.testing.assert_identical(noisy(radar, batch_size=batch_size), noisy(radar))


def test_a_member_alone_is_the_member_in_company(radar):
    many = noisy(radar, init_times="latest", members=20)
    xr.testing.assert_identical(noisy(radar, init_times="latest", members=10), many.isel(member=slice(10)))
    xr.testing.assert_identical(noisy(radar, init_times="latest", members=1), many.isel(member=[0]))


def test_an_init_time_alone_is_the_init_time_in_company(radar):
    every = noisy(radar)
    alone = noisy(radar.isel(time=slice(3, 6)), init_times="latest")
    xr.testing.assert_identical(alone, every.sel(init_time=alone.init_time))


def test_members_differ_and_seeds_differ(radar):
    forecast = noisy(radar, init_times="latest")
    assert not forecast.isel(member=0, drop=True).equals(forecast.isel(member=1, drop=True))
    assert not forecast.equals(noisy(radar, init_times="latest", seed=8))


def test_extra_dims_have_their_own_noise_by_label(radar):
    tiles = xr.concat([radar.rain] * 3, xr.DataArray(["a", "b", "c"], dims="tile", name="tile"))
    forecast = tiles.nowcast.forecast("noisy", steps=2, members=2)
    assert forecast.dims == ("tile", "init_time", "member", "lead_time", "y", "x")
    assert not np.array_equal(forecast[0], forecast[1], equal_nan=True)
    alone = tiles.isel(tile=[2]).nowcast.forecast("noisy", steps=2, members=2)
    xr.testing.assert_identical(alone, forecast.isel(tile=[2]))


def test_a_lazy_forecast_has_one_set_of_chunks(radar):
    tiles = xr.concat([radar.drop_vars("crs")] * 4, xr.DataArray(list("abcd"), dims="tile", name="tile"))
    tiles = tiles.assign_coords(
        height=("tile", np.arange(4.0)),
        lat=(("y", "x"), np.zeros((24, 32))),
        place=(("tile", "y", "x"), np.zeros((4, 24, 32))),
    )
    lazy = tiles.chunk(tile=2, y=8, time=2).nowcast.forecast("noisy", steps=2, members=2)
    assert lazy.chunksizes["tile"] == (1, 1, 1, 1)
    assert lazy.chunksizes["y"] == (24,)
    assert lazy.height.chunks is not None, "coordinates stay lazy"


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
def test_every_local_scheduler_gives_the_same(radar, scheduler, monkeypatch):
    if scheduler == "processes":  # fresh processes do not know the toy models; persistence will do
        with dask.config.set(scheduler=scheduler, num_workers=2):
            result = radar.chunk(time=2).nowcast.forecast("persistence", init_times="all").rain.compute()
        return xr.testing.assert_identical(result, radar.nowcast.forecast("persistence", init_times="all").rain)
    with dask.config.set(scheduler=scheduler):
        xr.testing.assert_identical(noisy(radar.chunk(time=2)).compute(), noisy(radar))


def test_two_worker_processes_give_the_same(radar):
    distributed = pytest.importorskip("distributed")
    import toy_models

    local = noisy(radar)
    in_memory = radar.chunk(time=2).nowcast.forecast(
        toy_models.NoisyPersistence(), steps=3, members=4, init_times="all", seed=7
    )
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(_register, toy_models.__file__)
        named, given = dask.compute(noisy(radar.chunk(time=2)), in_memory.rain)
        threads = set(client.run(_torch_threads).values())
    np.testing.assert_allclose(named, local, rtol=1e-6)
    np.testing.assert_allclose(given, local, rtol=1e-6)
    assert threads == {1}, "two workers of one thread each must not start a pool of torch threads each"


def _register(path):
    import sys
    from pathlib import Path

    from xnowcast import models

    sys.path.insert(0, str(Path(path).parent))
    models.register("noisy", "toy_models:NoisyPersistence")


def _torch_threads():
    import torch

    return torch.get_num_threads()


def test_building_computes_nothing_and_builds_no_model(radar, nothing_may_run):
    import toy_models

    toy_models.Counting.reset()
    with nothing_may_run:
        forecast = radar.chunk(time=2).nowcast.forecast("counting", init_times="all")
    assert forecast.rain.chunks is not None
    assert toy_models.Counting.built == 0


def test_a_model_is_built_once_and_runs_one_batch_at_a_time(radar):
    import toy_models

    toy_models.Counting.reset()
    lazy = radar.chunk(time=1).nowcast.forecast("counting", init_times="all", batch_size=2)
    with dask.config.set(scheduler="threads", num_workers=4):
        lazy.compute()
    assert toy_models.Counting.built == 1
    assert toy_models.Counting.calls == 5
    assert toy_models.Counting.most_at_once == 1
    assert toy_models.Counting.batch_sizes == [2] * 5


def test_a_dry_window_is_answered_without_the_model(radar):
    import toy_models

    toy_models.Counting.reset()
    dry = radar * 0
    dry.rain.attrs = radar.rain.attrs
    forecast = dry.nowcast.forecast("counting", init_times="all").rain
    assert toy_models.Counting.calls == 0
    assert float(forecast.max()) == 0
    xr.testing.assert_equal(forecast.isnull().all(("init_time", "lead_time")), radar.rain.isnull().all("time"))


def test_only_the_frames_that_are_needed_are_read(radar):
    read = []

    def block(values, block_info=None):
        read.append(block_info[0]["chunk-location"][0])
        return values

    lazy = radar.chunk(time=1)
    lazy["rain"] = lazy.rain.copy(data=lazy.rain.data.map_blocks(block, dtype="f4", meta=np.empty((0, 0, 0), "f4")))
    read.clear()
    lazy.nowcast.forecast("noisy", members=1, init_times="2024-06-01T12:25").compute()
    assert sorted(read) == [4, 5]


def test_a_grid_that_the_model_does_not_divide_is_padded_and_cropped(radar, tmp_path):
    from xnowcast.models import weights

    model = models.build("tiny-net")
    path = tmp_path / "tiny.safetensors"
    weights.save(path, model, system="tiny-net", options={"width": 2})
    odd = radar.isel(y=slice(0, 23), x=slice(0, 31))
    forecast = odd.nowcast.forecast(str(path), steps=2).rain
    assert forecast.shape == (1, 2, 23, 31)
    assert bool((forecast.isnull() == odd.rain.isnull().all("time")).all())


def test_the_graph_of_a_year_of_five_minute_data_is_small_and_built_in_few_steps(calls_made):
    """`benchmarks/scale.py startup` measures how long it takes."""
    frames = 105_120
    data = dask.array.zeros((frames, 64, 64), chunks=(288, 64, 64), dtype="f4")
    times = np.datetime64("2023-01-01", "ns") + np.arange(frames) * np.timedelta64(5, "m")
    year = xr.DataArray(data, dims=("time", "y", "x"), coords={"time": times}, attrs={"units": "mm h-1"}, name="rr")
    year.nowcast.forecast("noisy")  # imports
    with calls_made as calls:
        forecast = year.nowcast.forecast("noisy", init_times="all", members=10)
    assert forecast.sizes["init_time"] == frames - 1
    assert len(forecast.__dask_graph__()) < frames / 2, "no task per frame and member"
    assert calls.count < 20 * frames


def test_filled_frames_lie_between_their_neighbours():
    rain = np.array([0.0, 6.0], dtype="f4").reshape(2, 1, 1)
    place = np.array([[[0, 0], [0, 1], [0, 1], [1, 1]]])
    weight = np.array([[0, 1 / 3, 2 / 3, 0]], dtype="f4")
    np.testing.assert_allclose(engine.sequences._fill_gaps(rain, place, weight).ravel(), [0, 2, 4, 6], rtol=1e-6)


def test_a_windows_oldest_frame_is_filled_from_before_the_window(radar):
    holed = radar.isel(time=[0, 1, 2, 4, 5])
    filled = holed.nowcast.forecast("noisy", init_times="2024-06-01T12:20", on_gap="fill", members=1)
    assert filled.sizes["init_time"] == 1  # reads 12:15, which is filled from 12:10 and 12:20


def test_an_unknown_device_is_refused_before_any_work(radar):
    with pytest.raises(ValueError, match="'auto', 'cpu', 'cuda'"):
        radar.nowcast.forecast("persistence", device="gpu0")


def test_a_progress_bar_shows_only_where_somebody_looks(monkeypatch, capsys, radar):
    radar.nowcast.forecast("persistence")
    assert "Completed" not in capsys.readouterr().out
    monkeypatch.setattr("xnowcast.engine.workers.ProgressBar", lambda minimum: Shown())
    shown.clear()
    radar.nowcast.forecast("persistence", progress=True)
    assert shown == ["bar"]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    radar.nowcast.forecast("persistence")
    radar.nowcast.forecast("persistence", progress=False)
    assert shown == ["bar", "bar"]


shown: list[str] = []


class Shown:
    def __enter__(self):
        shown.append("bar")

    def __exit__(self, *error):
        pass


def test_the_log_tells_what_is_computed_in_memory_and_how_long_it_took(radar, caplog):
    with caplog.at_level("INFO", "xnowcast"):
        forecast = radar.rain.nowcast.forecast("persistence", steps=2)
        begun, done = caplog.messages
        assert begun == "computing with persistence: init_time 1, lead_time 2, y 24, x 32" and done.startswith(
            "computed in"
        )
        caplog.clear()
        forecast.nowcast.downscale("nearest", factor=2)
        assert caplog.messages[0] == ("computing with persistence + nearest: init_time 1, lead_time 2, y 48, x 64")
        caplog.clear()
        radar.chunk(time=2).nowcast.forecast("persistence")
        assert not caplog.messages, "lazy results are computed by whoever asks for them"


def test_a_batch_that_does_not_fit_names_what_to_try(radar):
    class Greedy:
        task, transform, tile = Task("forecast", input_frames=1), Identity(), 512

        def forecast(self, frames, observed, steps, noise=None):
            if len(frames) > 1:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
            if frames.shape[-1] > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            raise RuntimeError("something else")

    with pytest.raises(MemoryError, match=r"a batch of 10 samples of 24 x 32 cells .* try batch_size=5 or tile=16"):
        radar.nowcast.forecast(Greedy(), init_times="all", steps=1)
    with pytest.raises(MemoryError, match=r"a batch of 1 samples of 24 x 32 cells .* try tile=16"):
        radar.nowcast.forecast(Greedy(), steps=1)
    with pytest.raises(RuntimeError, match="something else"):
        radar.isel(x=slice(16)).nowcast.forecast(Greedy(), steps=1)


@pytest.mark.parametrize(
    ("tile", "multiple", "overlap", "advice"),
    [
        (512, 64, 0, "tile=256"),
        (512, 48, 0, "tile=240"),  # what the network divides
        (None, 64, 0, "tile=320"),  # half of the grid where there were no tiles
        (128, 64, 0, ""),  # models take no less than twice their multiple
        (128, 16, 64, ""),  # nor what is no more than the overlap
    ],
)
def test_the_tile_that_is_named_is_one_that_the_model_takes(tile, multiple, overlap, advice):
    model = SimpleNamespace(task=Task("forecast", input_frames=1, grid_multiple=multiple), tile=tile, overlap=overlap)
    assert engine.workers._smaller_tile(model, (640, 710)) == advice
