"""Archives: stores that are the forecasts, whatever happens on the way."""

import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from archive_models import Noisy, wait_until

import xnowcast
from xnowcast.archive import IncompleteRun, hindcast, open_archive, store
from xnowcast.archive.run import engines, frames, lock, loop, progress
from xnowcast.archive.run.logs import LogFile, log
from xnowcast.cli import main

FORECAST, GAP, COVERAGE, UNREADABLE = 1, 2, 3, 4


@pytest.fixture
def archive(radar):
    """Forty frames: four times the ten of the other tests, in chunks of three."""
    frames = xr.concat([radar.rain] * 4, "time").data
    times = np.datetime64("2024-06-01T12:00", "ns") + np.arange(40) * np.timedelta64(5, "m")
    long = radar.isel(time=0, drop=True).assign(rain=(("time", "y", "x"), frames, radar.rain.attrs))
    return long.assign_coords(time=times).chunk(time=3)


def made(ds, out, model=None, **options):
    defaults = {"steps": 3, "members": 2, "seed": 7, "init_times_per_batch": 4, "progress": False}
    return hindcast(ds, Noisy() if model is None else model, out=out, **(defaults | options))


def expected(ds, **options):
    return ds.nowcast.forecast(Noisy(), **({"steps": 3, "members": 2, "seed": 7, "init_times": "all"} | options))


def assert_same_values(store_of, forecast):
    np.testing.assert_array_equal(store_of.rain, forecast.rain)
    np.testing.assert_array_equal(store_of.init_time, forecast.init_time)


def files(path):
    """Every file of a store but the history of its making."""
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != "zarr.json"}


def logged(path):
    return Path(f"{path}.log").read_text()


# ---------------------------------------------------------------- the store


def test_a_store_holds_the_forecasts_and_their_labels(archive, tmp_path):
    stored = made(archive, tmp_path / "a.zarr")
    wanted = expected(archive)
    xr.testing.assert_identical(stored.drop_vars("init_status").rain.load(), wanted.rain.load())
    xr.testing.assert_identical(stored.crs.load(), wanted.crs)
    assert {k: v for k, v in stored.attrs.items() if k != "nowcast_run"} == wanted.attrs
    assert set(stored.init_status.values) == {FORECAST}
    assert stored.init_status.attrs["flag_meanings"].split()[FORECAST] == "forecast"
    assert stored.valid_time.dims == ("init_time", "lead_time")


def test_a_deterministic_model_has_no_members(archive, tmp_path):
    stored = hindcast(archive, "persistence", out=tmp_path / "a.zarr", steps=2, progress=False)
    wanted = archive.nowcast.forecast("persistence", steps=2, init_times="all")
    xr.testing.assert_identical(stored.rain.drop_vars("init_status").load(), wanted.rain.load())


def test_data_in_memory_and_arrays_will_do(archive, tmp_path):
    assert_same_values(made(archive.load(), tmp_path / "a.zarr"), expected(archive))
    assert_same_values(made(archive.rain, tmp_path / "b.zarr"), expected(archive))


def test_files_that_were_opened_without_dask_are_read_by_the_workers(archive, tmp_path):
    archive.to_netcdf(tmp_path / "radar.nc")
    with xr.open_dataset(tmp_path / "radar.nc") as opened:
        stored = made(opened, tmp_path / "a.zarr")
        np.testing.assert_array_equal(stored.rain, expected(archive).rain)


def test_rows_from_the_south_and_further_dims(archive, tmp_path):
    tiles = xr.concat([archive.rain, 2 * archive.rain], xr.DataArray(["a", "b"], dims="tile", name="tile"))
    tiles = tiles.isel(y=slice(None, None, -1)).assign_attrs(archive.rain.attrs)
    stored = made(tiles, tmp_path / "a.zarr", init_times=slice(None, None, 3))
    wanted = expected(tiles.to_dataset(name="rain"), init_times=slice(None, None, 3))
    assert stored.rain.dims == ("tile", "init_time", "member", "lead_time", "y", "x")
    assert_same_values(stored, wanted)


def test_the_size_of_the_batches_changes_nothing(archive, tmp_path):
    for size in (1, 7, 100):
        assert_same_values(made(archive, tmp_path / f"{size}.zarr", init_times_per_batch=size), expected(archive))


def test_init_times_are_put_in_order(archive, tmp_path):
    wanted = ["2024-06-01T13:00", "2024-06-01T12:30"]
    stored = made(archive, tmp_path / "a.zarr", init_times=wanted)
    assert stored.init_time.values.astype("M8[m]").astype(str).tolist() == wanted[::-1]


def test_a_batch_is_a_file_and_chunks_suit_lead_times_and_init_times(archive, tmp_path):
    import zarr

    made(archive, tmp_path / "a.zarr")
    array = zarr.open_array(tmp_path / "a.zarr", path="rain", mode="r")
    assert array.shards == (4, 2, 3, 24, 32)
    assert array.chunks == (4, 2, 1, 24, 32), "one lead time, and as many init times and members as make a megabyte"
    assert len([p for p in (tmp_path / "a.zarr" / "rain" / "c").rglob("*") if p.is_file()]) == 10


@pytest.mark.parametrize(
    ("shape", "shard", "chunk"),
    [
        ((100_000, 1, 12, 64, 64), (320, 1, 12, 64, 64), (64, 1, 1, 64, 64)),
        ((1000, 10, 12, 512, 512), (1, 10, 12, 512, 512), (1, 1, 1, 512, 512)),
        ((1000, 20, 12, 2000, 2000), (1, 20, 1, 2000, 2000), (1, 1, 1, 2000, 2000)),
        ((1000, 50, 12, 4000, 4000), (1, 1, 1, 4000, 4000), (1, 1, 1, 4000, 4000)),
        ((3, 1, 1, 8, 8), (3, 1, 1, 8, 8), (3, 1, 1, 8, 8)),
    ],
)
def test_batches_chunks_and_files_have_a_reasonable_size(shape, shard, chunk):
    dims = ("init_time", "member", "lead_time", "y", "x")
    layout = store.plan_layout(dims, shape, per_batch=None, multiple=32)
    assert (layout.shard, layout.chunk) == (shard, chunk)
    assert all(s % c == 0 for s, c in zip(shard, chunk, strict=True)), "Zarr wants whole chunks in a shard"


def test_a_year_of_five_minute_data_is_planned_in_few_steps(tmp_path, calls_made):
    """`benchmarks/scale.py plan` measures how long it takes."""
    from xnowcast.archive.hindcasts import plan_hindcast
    from xnowcast.verbs.forecast import ForecastRequest, prepare

    frames = 105_120
    data = da.zeros((frames, 64, 64), chunks=(288, 64, 64), dtype="f4")
    times = np.datetime64("2023-01-01", "ns") + np.arange(frames) * np.timedelta64(5, "m")
    year = xr.DataArray(data, dims=("time", "y", "x"), coords={"time": times}, attrs={"units": "mm h-1"}, name="rr")
    with calls_made as calls:
        request = ForecastRequest(
            verb=xnowcast.forecast, obj=year, model=Noisy(), lead_time="60min", members=10, device="cpu"
        )
        ready = prepare(request)
        plan = plan_hindcast(ready, "all", "skip", 0.0, tmp_path / "a.zarr", None)
        first = next(plan.cut(list(range(plan.ledger.batches))))
    assert calls.count < 15 * frames
    assert plan.ledger.init_times.size == frames - 1
    assert plan.ledger.batches < frames / 20, "no task per frame and member"
    graph = first.steps[0].frames.variable.data.__dask_graph__()
    assert len(dict(graph)) < 10, "a worker gets the frames of its batch alone"


# ---------------------------------------------------------------- what is skipped, and why


def test_gaps_are_recorded(archive, tmp_path):
    holed = archive.isel(time=[i for i in range(40) if i not in (10, 11)])
    stored = made(holed, tmp_path / "a.zarr")
    assert stored.sizes["init_time"] == 37, "an init time for every frame that has one before it, at whatever distance"
    skipped = stored.init_time.values[stored.init_status == GAP]
    assert skipped.tolist() == [holed.time.values[10].tolist()]
    assert stored.rain.sel(init_time=skipped).isnull().all()
    wanted = expected(holed, on_gap="skip")
    np.testing.assert_array_equal(stored.rain[stored.init_status.values == FORECAST], wanted.rain)
    filled = made(holed, tmp_path / "b.zarr", on_gap="fill")
    assert set(filled.init_status.values) == {FORECAST}
    with pytest.raises(ValueError, match="across a gap"):
        made(holed, tmp_path / "c.zarr", on_gap="raise")
    assert not (tmp_path / "c.zarr").exists()


def test_a_batch_in_which_every_init_time_crosses_a_gap_is_done(archive, tmp_path):
    sparse = archive.isel(time=[*range(10), *range(11, 20, 2), *range(20, 40)])
    stored = made(sparse, tmp_path / "a.zarr", init_times_per_batch=2)
    assert not (stored.init_status == 0).any()
    assert (stored.init_status == GAP).sum() == 5


def test_frames_with_too_little_coverage_are_recorded(archive, tmp_path):
    rain = archive.rain.load().copy()
    rain[20] = np.nan
    rain[30, :, 4:] = np.nan
    poor = archive.assign(rain=rain.assign_attrs(archive.rain.attrs).chunk(time=3))
    empty = made(poor, tmp_path / "a.zarr").init_status.values
    assert np.flatnonzero(empty == COVERAGE).tolist() == [19, 20], "nothing measured is never enough"
    half = made(poor, tmp_path / "b.zarr", min_coverage=0.5)
    assert np.flatnonzero(half.init_status == COVERAGE).tolist() == [19, 20, 29, 30]
    assert half.rain[[19, 20, 29, 30]].isnull().all()
    assert "too little was measured" in logged(tmp_path / "b.zarr")


def test_a_dry_archive_is_forecast_as_dry(archive, tmp_path):
    dry = archive.assign(rain=(archive.rain * 0).assign_attrs(archive.rain.attrs))
    stored = made(dry, tmp_path / "a.zarr")
    assert set(stored.init_status.values) == {FORECAST}
    assert float(stored.rain.max()) == 0


def test_one_broken_file_among_many_costs_the_init_times_that_read_it(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("xnowcast.archive.run.frames.PAUSE", 0.0)
    archive = archive.isel(time=slice(20))
    for i in range(20):
        archive.isel(time=[i]).to_netcdf(tmp_path / f"frame_{i:02d}.nc")
    paths = sorted(tmp_path.glob("frame_*.nc"))
    with xr.set_options(file_cache_maxsize=1):  # more files than may be open at once, as in real archives
        many = xr.open_mfdataset(paths, combine="by_coords", data_vars="minimal", coords="minimal", compat="override")
        whole = paths[12].read_bytes()
        paths[12].write_bytes(whole[:1000])  # a disk goes bad
        stored = made(many, tmp_path / "a.zarr")
        assert np.flatnonzero(stored.init_status == UNREADABLE).tolist() == [11, 12]
        assert "2024-06-01T13:00:00 cannot be read" in logged(tmp_path / "a.zarr")
        good = stored.init_status.values == FORECAST
        np.testing.assert_array_equal(stored.rain[good], expected(archive).rain[good])

        paths[12].write_bytes(whole)
        assert (made(many, tmp_path / "a.zarr").init_status == UNREADABLE).sum() == 2, "what is done is kept"
        assert_same_values(made(many, tmp_path / "a.zarr", retry_unreadable=True), expected(archive))


def test_impossible_values_are_a_broken_frame(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("xnowcast.archive.run.frames.PAUSE", 0.0)
    rain = archive.rain.load().copy()
    rain[8, 10, 10] = -999
    stored = made(archive.assign(rain=rain.assign_attrs(archive.rain.attrs)), tmp_path / "a.zarr")
    assert np.flatnonzero(stored.init_status == UNREADABLE).tolist() == [7, 8]
    assert "-999" in logged(tmp_path / "a.zarr")


# ---------------------------------------------------------------- going on


def test_a_run_that_goes_on_is_bit_for_bit_the_run_that_was_not_stopped(archive, tmp_path):
    made(archive, tmp_path / "whole.zarr")
    broken = tmp_path / "broken.zarr"
    for signal_ in ("interrupt", "terminate"):
        folder = tmp_path / signal_
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
            made(archive, broken, Noisy(str(folder), [2], signal_), workers=1)
        marks = open_archive(broken).init_status
        assert 0 < (marks == 0).sum() < 40, "the batches in flight were finished, and no more begun"
    kept = files(broken)
    assert_same_values(made(archive, broken), expected(archive))
    assert files(broken) == files(tmp_path / "whole.zarr")
    assert all(files(broken)[name] == content for name, content in kept.items())
    assert "interrupted" in logged(broken) and "going on with" in logged(broken)


def test_what_is_whole_is_not_computed_again(archive, tmp_path):
    calls = tmp_path / "calls"
    calls.mkdir()
    out = tmp_path / "a.zarr"
    made(archive, out, Noisy(str(calls)))
    assert len(list(calls.iterdir())) == 10
    made(archive, out, Noisy(str(calls)))
    assert len(list(calls.iterdir())) == 10, "nothing was left to do"


def test_a_batch_without_its_mark_is_done_again(archive, tmp_path):
    out = tmp_path / "a.zarr"
    made(archive, out)
    whole = files(out)
    (out / "init_status" / "c" / "3").unlink()
    (out / "rain" / "c" / "3" / "0" / "0" / "0" / "0").write_bytes(b"half of a file")
    (out / "rain" / "c" / "3" / "0" / "0" / "0" / "0.123abc.partial").write_bytes(b"left by a killed writer")
    (out / "init_status" / "c" / "5").write_bytes(b"")
    assert_same_values(made(archive, out), expected(archive))
    assert files(out) == whole
    assert "the mark of batch 5" in logged(out)


KILLED = """
import sys
import numpy as np
import xarray as xr
from archive_models import Noisy
from xnowcast.archive import hindcast

archive, out, calls = xr.open_dataset(sys.argv[1], chunks={{"time": 3}}), sys.argv[2], sys.argv[3]
hindcast(archive, Noisy(calls, {when}, "kill"), out=out, steps=3, members=2, seed=7, init_times_per_batch=4)
"""


def test_kill_minus_nine_costs_nothing_but_the_batches_in_flight(archive, tmp_path, caplog):
    archive.to_netcdf(tmp_path / "radar.nc")
    calls, out = tmp_path / "calls", tmp_path / "a.zarr"
    calls.mkdir()
    words = [sys.executable, "-c", KILLED.format(when=[4]), str(tmp_path / "radar.nc"), str(out), str(calls)]
    died = subprocess.run(words, cwd=Path(__file__).parents[1], check=False)
    assert died.returncode == -signal.SIGKILL
    assert Path(f"{out}.lock").exists()
    done = int((open_archive(out).init_status != 0).sum())
    assert done in (8, 12, 16)
    with caplog.at_level(logging.INFO, "xnowcast.archive"):
        assert_same_values(made(archive, out), expected(archive))
    assert "took over the lock of a dead run" in caplog.text
    assert f"{done} of 39 init times are done" in caplog.text
    made(archive, tmp_path / "whole.zarr")
    assert files(out) == files(tmp_path / "whole.zarr")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 8}, "begun with seed 7, and this run has 8"),
        ({"members": 3}, "members"),
        ({"steps": 2}, "lead_time '3 steps of 5 min'"),
        ({"init_times": slice(None, None, 2)}, "init_times '39 from 2024-06-01T12:05"),
        ({"init_times_per_batch": 5}, "init_times_per_batch"),
        ({"model": "persistence", "members": None}, "model 'Noisy'"),
    ],
    ids=str,
)
def test_a_store_that_was_begun_otherwise_is_refused(archive, tmp_path, options, message):
    made(archive, tmp_path / "a.zarr")
    with pytest.raises(ValueError, match=message):
        made(archive, tmp_path / "a.zarr", **options)
    options = {"seed": 8}
    changed = made(archive, tmp_path / "a.zarr", overwrite=True, **options)
    assert_same_values(changed, expected(archive, seed=8))


def test_other_weights_are_another_run(archive, tmp_path, toy_models):
    import torch

    from xnowcast import models

    nets = []
    for seed in range(2):
        torch.manual_seed(seed)
        nets.append(models.build("tiny-net"))
    options = {"steps": 2, "init_times": slice(None, None, 10), "progress": False}
    hindcast(archive, nets[0], out=tmp_path / "a.zarr", **options)
    with pytest.raises(ValueError, match="model_in_memory"):
        hindcast(archive, nets[1], out=tmp_path / "a.zarr", **options)


def test_the_input_is_never_replaced(archive, tmp_path):
    archive.to_zarr(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="also the input"):
        made(xr.open_zarr(tmp_path / "a.zarr"), tmp_path / "a.zarr", overwrite=True)


@pytest.mark.parametrize(
    "opened",
    [
        lambda folder: xr.open_zarr(folder / "a.zarr").rain.to_dataset(),
        lambda folder: xr.open_mfdataset([folder / "a.zarr"], engine="zarr"),
        lambda folder: xr.open_zarr(folder / "link.zarr"),
    ],
    ids=["a variable", "open_mfdataset", "a link"],
)
def test_the_input_is_never_replaced_however_it_was_opened(archive, tmp_path, opened):
    archive.to_zarr(tmp_path / "a.zarr")
    (tmp_path / "link.zarr").symlink_to("a.zarr")
    with pytest.raises(ValueError, match="also the input"):
        made(opened(tmp_path), tmp_path / "a.zarr", "persistence", overwrite=True)
    xr.testing.assert_equal(xr.open_zarr(tmp_path / "a.zarr").rain, archive.rain)


@pytest.mark.parametrize("read", ["data", "weights", "config"])
def test_nothing_that_a_configuration_names_is_replaced(archive, tmp_path, capsys, read):
    archive.isel(time=slice(0, 18)).to_zarr(tmp_path / "a.zarr")
    archive.isel(time=slice(18, 40)).to_zarr(tmp_path / "b.zarr")
    (tmp_path / "out.zarr").mkdir()
    path = tmp_path / "out.zarr" / "run.toml" if read == "config" else tmp_path / "run.toml"
    out = {"data": "b.zarr", "weights": "w.zarr", "config": "out.zarr"}[read]
    (tmp_path / "w.zarr").write_text("weights")
    path.write_text(
        f"data.path = ['{tmp_path}/a.zarr', '{tmp_path}/b.zarr']\nmodel.name = 'persistence'\n"
        f"hindcast.out = '{tmp_path}/{out}'\nhindcast.steps = 1\n"
        + (f"model.weights = '{tmp_path}/w.zarr'\n" if read == "weights" else "")
    )
    before = sorted(tmp_path.rglob("*"))
    assert main(["hindcast", str(path), "--overwrite"]) == 2
    assert "input" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_no_store_is_never_replaced(archive, tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis\.tex, and is not replaced"):
        made(archive, tmp_path / "a.zarr", overwrite=True)
    assert (tmp_path / "a.zarr" / "thesis.tex").read_text() == "years of work"


def test_a_store_is_replaced_only_once_the_new_one_is_made(archive, tmp_path, monkeypatch):
    stored = made(archive, tmp_path / "a.zarr").load()

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(xr.Dataset, "to_zarr", fail)
    with pytest.raises(OSError, match="no space left"):
        made(archive, tmp_path / "a.zarr", seed=8, overwrite=True)
    xr.testing.assert_identical(open_archive(tmp_path / "a.zarr").load(), stored)
    monkeypatch.undo()
    assert made(archive, tmp_path / "a.zarr", seed=8, overwrite=True).attrs["nowcast_seed"] == 8


@pytest.mark.parametrize("kind", ["NETCDF4", "NETCDF3_64BIT"])
@pytest.mark.parametrize("broken", [[0], [10], [39], [10, 11]], ids=str)
def test_a_broken_netcdf_file_costs_what_reads_it_and_is_done_again_once_it_is_mended(archive, tmp_path, kind, broken):
    (tmp_path / "radar").mkdir()
    for i in range(40):
        archive.isel(time=[i]).to_netcdf(tmp_path / "radar" / f"{i:02}.nc", format=kind)
    whole = {i: (tmp_path / "radar" / f"{i:02}.nc").read_bytes() for i in broken}
    for i in broken:
        (tmp_path / "radar" / f"{i:02}.nc").write_bytes(whole[i][:-200])
    config = tmp_path / "run.toml"
    config.write_text(
        f"data.path = '{tmp_path}/radar/*.nc'\nmodel.name = 'persistence'\nhindcast.out = '{tmp_path}/a.zarr'\n"
        "hindcast.steps = 1\nhindcast.init_times_per_batch = 8\n"
    )
    with pytest.warns(UserWarning, match=f"{broken[0]:02}.nc is cut short"):
        assert main(["hindcast", str(config)]) == 3
    status = np.full(40, FORECAST)
    status[broken] = UNREADABLE
    np.testing.assert_array_equal(open_archive(tmp_path / "a.zarr").init_status, status)
    assert f"{broken[0]:02}.nc is cut short" in logged(tmp_path / "a.zarr")
    for i in broken:
        (tmp_path / "radar" / f"{i:02}.nc").write_bytes(whole[i])
    assert main(["hindcast", str(config), "--set", "hindcast.retry_unreadable=true"]) == 0
    assert_same_values(
        open_archive(tmp_path / "a.zarr"), xnowcast.forecast(archive, "persistence", steps=1, init_times="all")
    )


@pytest.mark.parametrize("chunks", [{"time": 1}, None], ids=["in chunks", "not in chunks"])
@pytest.mark.parametrize("change", ["cut", "rewritten", "removed"])
def test_a_file_that_changes_while_it_is_read_is_no_success(archive, tmp_path, monkeypatch, change, chunks):
    path = tmp_path / "radar.nc"
    archive.to_netcdf(path, format="NETCDF3_64BIT")
    content = path.read_bytes()

    def changed(*arguments):
        monkeypatch.undo()
        if change == "removed":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2] if change == "cut" else content)
        return frames.check_whole(*arguments) if change == "cut" else None

    monkeypatch.setattr(frames, "check_whole", changed)
    options = {"model": "persistence", "members": None, "out": tmp_path / "a.zarr"}
    stored = made(xr.open_dataset(path, chunks=chunks), workers=1, **options)
    assert set(stored.init_status.values) == {UNREADABLE}
    path.write_bytes(content)
    again = made(xr.open_dataset(path), retry_unreadable=True, **options)
    assert set(again.init_status.values) == {FORECAST}


def test_something_else_in_the_place_of_the_store_is_left_alone(archive, tmp_path):
    archive.to_zarr(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="no store of a hindcast"):
        made(archive, tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="no store of a hindcast"):
        open_archive(tmp_path / "a.zarr")
    xr.testing.assert_equal(xr.open_zarr(tmp_path / "a.zarr").rain, archive.rain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "a.nc"}, "must end in .zarr"),
        ({"out": "nowhere/a.zarr"}, "does not exist"),
        ({"out": "s3://bucket/a.zarr"}, "all workers see"),
        ({"engine": "dask"}, "'threads', 'processes' or a dask.distributed Client"),
        ({"workers": 0}, "whole number of 1 or more"),
        ({"min_coverage": 1.5}, "from 0 to 1"),
        ({"init_times_per_batch": 0}, "init_times_per_batch is 0"),
        ({"init_times_per_batch": 2.5}, "init_times_per_batch is 2.5"),
        ({"retry_unreadable": "yes"}, "retry_unreadable is 'yes'"),
        ({"overwrite": 1}, "overwrite is 1"),
        ({"progress": "bar"}, "progress is 'bar'"),
        ({"performance_report": 3}, "performance_report is 3"),
        ({"min_coverage": float("nan")}, "min_coverage is nan"),
        ({"min_coverage": "half"}, "min_coverage is 'half'"),
        ({"members": 10**8}, "members is 100000000; it must be a whole number of 1 or more, up to"),
        ({"members": 2.0}, "members is 2.0"),
        ({"seed": None}, "seed is None"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"variable": ["rain"]}, "variable is"),
        ({"on_gap": "join"}, "on_gap is 'join'"),
        ({"steps": 0}, "steps is 0"),
        ({"device": 3}, "device is 3"),
        ({"weights": 3}, "weights is 3"),
        ({"out": None}, "out is None"),
        ({"performance_report": "report.html"}, "of a Dask cluster"),
        ({"init_times": "2024-06-02"}, "not in the data"),
    ],
    ids=str,
)
def test_a_wrong_call_is_refused_before_anything_is_written(archive, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        made(archive, **({"out": "a.zarr"} | options))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- locks


def test_two_runs_on_one_store_refuse_each_other(archive, tmp_path):
    out, calls = tmp_path / "a.zarr", tmp_path / "calls"
    calls.mkdir()
    first = threading.Thread(target=made, args=(archive, out, Noisy(str(calls), [0], "wait")))
    first.start()
    try:
        wait_until((calls / "call-0").exists)
        with pytest.raises(ValueError, match=f"a.zarr is being written by process {os.getpid()} of"):
            made(archive, out)
    finally:
        (calls / "go").touch()
        first.join()
    assert_same_values(made(archive, out), expected(archive))
    assert not (tmp_path / "a.zarr.lock").exists()


def holder(path, **about):
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "born": "1", "since": "now", "token": "other"}
    path.write_text(json.dumps(mine | about))


def test_the_lock_of_a_dead_process_is_taken_over_also_where_its_number_lives_on(tmp_path, caplog):
    path = tmp_path / "a.zarr.lock"
    for about in ({"pid": 2**22 + 1}, {"born": "0"}):  # no such process; one that began at another time
        holder(path, **about)
        with lock.StoreLock(path):
            assert json.loads(path.read_text())["token"] != "other"
        assert not path.exists()
    assert caplog.text.count("took over the lock of a dead run") == 2
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_host_counts_while_it_gives_signs_of_life(tmp_path):
    path = tmp_path / "a.zarr.lock"
    holder(path, host="node-17", pid=12)
    with pytest.raises(ValueError, match="process 12 of node-17"), lock.StoreLock(path):
        pass
    os.utime(path, (time.time() - 2 * lock.STALE,) * 2)
    with lock.StoreLock(path):
        pass


def test_a_lock_gives_signs_of_life_and_knows_when_it_was_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    path = tmp_path / "a.zarr.lock"
    with lock.StoreLock(path) as held:
        os.utime(path, (0, 0))
        wait_until(lambda: path.stat().st_mtime > 0)
        held.check()
        holder(path, pid=99)
        wait_until(lambda: held.lost)
        with pytest.raises(IncompleteRun, match="taken over by process 99"):
            held.check()
    assert path.exists(), "the lock of the other is not ours to remove"


@pytest.mark.parametrize(
    "content", [b"", b'{"host": "a', b"[]", b"null", b"\xff\xfe", b"{}", b'{"host": "here", "pid": "7", "token": "a"}']
)
def test_a_lock_that_names_nobody_is_taken_over(archive, tmp_path, caplog, monkeypatch, content):
    """Power went while it was written, or the disk was full: nobody is there to be waited for."""
    monkeypatch.setattr(lock, "MOMENT", 0.01)
    path = tmp_path / "a.zarr.lock"
    path.write_bytes(content)
    assert_same_values(made(archive, tmp_path / "a.zarr", init_times_per_batch=20), expected(archive))
    assert "took over the lock of a dead run: a run that is not known" in caplog.text
    assert not path.exists()


def test_a_lock_that_is_just_being_written_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "MOMENT", 0.2)
    path = tmp_path / "a.zarr.lock"
    path.touch()
    threading.Timer(0.05, holder, [path], {"host": "node-17", "pid": 12}).start()
    with pytest.raises(ValueError, match="process 12 of node-17"), lock.StoreLock(path):
        pass


def test_what_is_no_file_in_the_place_of_a_lock_is_told_or_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "MOMENT", 0.01)
    path = tmp_path / "a.zarr.lock"
    path.symlink_to(tmp_path / "nowhere")
    with lock.StoreLock(path):
        assert not path.is_symlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"the lock .* of a.zarr is a folder"), lock.StoreLock(path):
        pass


def test_what_only_bears_the_name_of_a_lock_or_a_log_stays(archive, tmp_path):
    notes = tmp_path / "a.zarr.lock"
    notes.write_text("a diary\n" * 1000)
    with pytest.raises(ValueError, match=r"a\.zarr\.lock is no lock"):
        made(archive, tmp_path / "a.zarr")
    assert notes.read_text() == "a diary\n" * 1000
    (tmp_path / "b.zarr.log").mkdir()
    with pytest.raises(ValueError, match=r"b\.zarr\.log is a folder"):
        made(archive, tmp_path / "b.zarr")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zarr.lock", "b.zarr.log"]


def test_a_folder_that_is_refused_keeps_all_that_is_in_it(archive, tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "download.partial").write_text("half a day of it")
    with pytest.raises(ValueError, match="no store of a hindcast"):
        made(archive, tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr" / "download.partial").read_text() == "half a day of it"


def test_what_others_wrote_is_one_line_of_a_log_and_steers_no_terminal(tmp_path, caplog):
    with LogFile(tmp_path / "a.log"):
        log.warning("%s cannot be read", "a\x1b[2J\n2024-06-01 INFO all is well.nc")
    (line,) = (tmp_path / "a.log").read_text().splitlines()
    assert line.endswith("WARNING a\\x1b[2J 2024-06-01 INFO all is well.nc cannot be read")
    assert caplog.messages == ["a\\x1b[2J 2024-06-01 INFO all is well.nc cannot be read"]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("path = 3", "path"),
        ("path = [1]", "path"),
        ("path = 2024-06-01", "path"),
        ('path = "a.nc"\nchunks = true', "chunks"),
        ('path = "a.nc"\nchunks = {time = 1.5}', "chunks"),
    ],
)
def test_data_of_a_configuration_are_refused_by_name(tmp_path, capsys, data, name):
    (tmp_path / "a.toml").write_text(f'[data]\n{data}\n[model]\nname = "persistence"\n[hindcast]\nout = "a.zarr"\n')
    assert main(["hindcast", str(tmp_path / "a.toml")]) == 2
    assert f"{name} in [data] is " in capsys.readouterr().err


def test_a_configuration_may_ask_to_overwrite_and_what_is_no_answer_is_refused(archive, tmp_path, capsys):
    archive.to_netcdf(tmp_path / "radar.nc")
    words = ["hindcast", str(tmp_path / "a.toml")]
    about = f'[data]\npath = "{tmp_path}/radar.nc"\n[model]\nname = "persistence"\n[hindcast]\nsteps = 1\n'
    (tmp_path / "a.toml").write_text(f'{about}out = "{tmp_path}/a.zarr"\n')
    assert main(words) == 0
    words += ["--set", "hindcast.steps=2"]
    assert main(words) == 2, "another run"
    assert main([*words, "--set", "hindcast.overwrite=maybe"]) == 2
    assert "overwrite is 'maybe'" in capsys.readouterr().err.splitlines()[-1]
    assert main([*words, "--set", "hindcast.overwrite=true"]) == 0
    assert open_archive(tmp_path / "a.zarr").sizes["lead_time"] == 2


def test_a_lock_that_somebody_deleted_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    path = tmp_path / "a.zarr.lock"
    with lock.StoreLock(path) as held:
        path.unlink()
        wait_until(path.exists)
        held.check()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- what a run leaves in its process


def test_a_run_leaves_dasks_scheduler_as_it_was(archive, tmp_path):
    import dask

    chosen = []
    for scheduler in (None, "threads"):
        with dask.config.set(scheduler=scheduler):
            made(archive, tmp_path / f"{scheduler}.zarr", init_times_per_batch=1, workers=4)
            chosen.append(dask.config.get("scheduler"))
    assert chosen == [None, "threads"]


def test_two_runs_at_once_have_a_log_each_and_leave_the_level_alone(archive, tmp_path):
    shared = logging.getLogger("xnowcast.archive")
    before = shared.level, list(shared.handlers)
    together = threading.Barrier(2)

    def one(name):
        together.wait()
        made(archive, tmp_path / name, Noisy(slow=0.01))

    runs = [threading.Thread(target=one, args=(name,)) for name in ("a.zarr", "b.zarr")]
    for run_ in runs:
        run_.start()
    for run_ in runs:
        run_.join()
    assert (shared.level, shared.handlers) == before
    for own, other in (("a.zarr", "b.zarr"), ("b.zarr", "a.zarr")):
        text = logged(tmp_path / own)
        assert "began" in text and "39 forecast" in text and other not in text


def test_the_log_of_a_run_goes_to_listeners_at_the_level_that_they_chose(archive, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "xnowcast.archive")
    made(archive, tmp_path / "a.zarr")
    assert "began" in logged(tmp_path / "a.zarr") and not caplog.records
    caplog.set_level(logging.INFO, "xnowcast.archive")
    made(archive, tmp_path / "b.zarr")
    assert "began" in caplog.text


# ---------------------------------------------------------------- faults of disks and models


def fails_at_times(monkeypatch, error, when):
    """Writing fails with an error in the calls with these numbers; nothing pauses."""
    write, calls = store._write_array, []

    def flaky(*arguments):
        calls.append(None)
        if when(len(calls)):
            raise error
        return write(*arguments)

    monkeypatch.setattr(store, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(store, "_write_array", flaky)


def test_a_store_that_fails_now_and_then_loses_nothing(archive, tmp_path, monkeypatch):
    fails_at_times(monkeypatch, OSError(errno.EIO, "stale file handle"), lambda call: call % 3 == 0)
    assert_same_values(made(archive, tmp_path / "a.zarr"), expected(archive))
    assert "stale file handle" in logged(tmp_path / "a.zarr")


def test_a_store_that_fails_for_a_while_is_tried_again_later(archive, tmp_path, monkeypatch):
    fails_at_times(monkeypatch, OSError(errno.EIO, "no"), lambda call: 5 <= call <= 9)
    assert_same_values(made(archive, tmp_path / "a.zarr", workers=1), expected(archive))
    assert "failed, attempt 1 of 3" in logged(tmp_path / "a.zarr")


def test_a_full_disk_stops_the_run_and_the_same_call_goes_on(archive, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fails_at_times(patch, OSError(errno.ENOSPC, "No space left on device"), lambda call: call > 9)
        with pytest.raises(IncompleteRun, match=r"the disk is full .* \d of 10 batches .* the same call goes on"):
            made(archive, tmp_path / "a.zarr")
    assert (open_archive(tmp_path / "a.zarr").init_status == 0).any()
    assert_same_values(made(archive, tmp_path / "a.zarr"), expected(archive))


def test_a_batch_that_fails_once_is_done_again(archive, tmp_path):
    (tmp_path / "calls").mkdir()
    stored = made(archive, tmp_path / "a.zarr", Noisy(str(tmp_path / "calls"), [3], "fail"))
    assert_same_values(stored, expected(archive))
    assert "call 3 fails" in logged(tmp_path / "a.zarr")


def test_a_batch_that_always_fails_does_not_keep_the_others_back(archive, tmp_path):
    class Picky(Noisy):
        name = "Noisy"

        def forecast(self, frames, observed, steps, noise=None):
            if abs(float(frames[0, -1].max()) - 8.8) < 0.01:
                raise RuntimeError("I do not like this")
            return super().forecast(frames, observed, steps, noise)

    with pytest.raises(IncompleteRun, match=r"batches failed three times .*I do not like this"):
        made(archive, tmp_path / "a.zarr", Picky(), init_times_per_batch=3)
    status = open_archive(tmp_path / "a.zarr").init_status.values
    assert 0 < (status == 0).sum() < 15
    assert_same_values(made(archive, tmp_path / "a.zarr", init_times_per_batch=3), expected(archive))


def test_a_model_that_never_works_is_not_tried_for_years(archive, tmp_path):
    (tmp_path / "calls").mkdir()
    with pytest.raises(IncompleteRun, match="5 batches in a row failed; the last: RuntimeError: call"):
        made(archive, tmp_path / "a.zarr", Noisy(str(tmp_path / "calls"), range(1000), "fail"), init_times_per_batch=1)
    assert len(list((tmp_path / "calls").iterdir())) < 40


# ---------------------------------------------------------------- engines


def test_no_more_batches_are_made_than_are_needed():
    drawn, most, done = [], [], []

    class Numbered:
        def __init__(self, number):
            self.number = number
            drawn.append(number)

    def work(job, batch):
        most.append(len(drawn) - len(done))
        return batch.number

    report = loop.run_batches(
        engines.ThreadEngine(work, None, 2),
        (Numbered(i) for i in range(50)),
        finished=lambda batch, result: done.append(result),
        interruption=loop.interruptible(),
    )
    assert report.done == 50 and sorted(done) == list(range(50))
    assert max(most) <= 6, "two run, two wait, and two may be ready to be counted"


def test_a_killed_worker_process_costs_its_batch_one_more_attempt(archive, tmp_path):
    (tmp_path / "calls").mkdir()
    model = Noisy(str(tmp_path / "calls"), [3], "kill")
    stored = made(archive, tmp_path / "a.zarr", model, engine="processes", workers=1)
    assert_same_values(stored, expected(archive))
    assert "workers died; new ones take over" in logged(tmp_path / "a.zarr")
    assert "workers died 1 times" in logged(tmp_path / "a.zarr")


def test_processes_share_out_cores_and_gpus(monkeypatch, tmp_path):
    import multiprocessing

    import cloudpickle

    from xnowcast.engine import workers

    counter = multiprocessing.get_context("spawn").Value("i", 0)
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(workers, "torch_threads", None)
    monkeypatch.setattr(engines, "_shared", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    gpus = engines._visible_gpus("auto")
    shared = tmp_path / "job"
    shared.write_bytes(cloudpickle.dumps(("work", "job")))
    try:
        for wanted in ("4", "7", "4"):
            engines._begin_process(shared, 3, counter, gpus)
            assert os.environ["CUDA_VISIBLE_DEVICES"] == wanted
    finally:
        signal.signal(signal.SIGINT, before)
    assert workers._torch_threads() == 3
    assert engines._visible_gpus("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert engines._visible_gpus("auto") == []


def test_a_dask_cluster_survives_a_killed_worker_and_a_restart_of_all(archive, tmp_path):
    distributed = pytest.importorskip("distributed")
    (tmp_path / "calls").mkdir()
    model = Noisy(str(tmp_path / "calls"), [3], "kill", slow=0.1)
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with _closing(cluster), distributed.Client(cluster) as client:
        client.run(_find_models, str(Path(__file__).parents[1]))
        client.register_plugin(_FindsModels(str(Path(__file__).parents[1])))
        report = tmp_path / "report.html"
        stored = made(archive, tmp_path / "a.zarr", model, engine=client, performance_report=report)
        assert_same_values(stored, expected(archive))
        assert "<html" in report.read_text()[:500].lower()

        (tmp_path / "more").mkdir()
        model = Noisy(str(tmp_path / "more"), [2], "wait")  # the third call ends with its worker
        restart = threading.Thread(target=_restart_at, args=(client, tmp_path / "more" / "call-2"))
        restart.start()
        stored = made(archive, tmp_path / "b.zarr", model, engine=client, init_times_per_batch=3)
        restart.join()
        assert_same_values(stored, expected(archive))
    assert "workers died" in logged(tmp_path / "b.zarr")


@contextmanager
def _closing(cluster):
    """A local cluster at times stumbles, in its end, over the address of a worker that was restarted."""
    try:
        yield
    finally:
        with suppress(KeyError):
            cluster.close()


def test_a_task_that_a_restart_took_away_counts_as_lost():
    """Dask cancels what it has forgotten, and the result of a task that had ended cannot be fetched any more."""
    distributed = pytest.importorskip("distributed")

    class Forgotten:
        def add_done_callback(self, function):
            function(self)

        def result(self):
            raise distributed.client.FutureCancelledError("a task", "scheduler-restart")

    class Client:
        def wait_for_workers(self, *arguments, **options): ...

        def scatter(self, *arguments, **options): ...

        def submit(self, *arguments, **options):
            return Forgotten()

    engine = engines.DaskEngine(None, None, Client())
    assert engine.is_lost_worker(engine.submit("batch").exception())


def _restart_at(client, call):
    wait_until(call.exists)
    client.restart(timeout=200)


def _find_models(folder):
    sys.path.insert(0, folder)


try:
    from distributed.diagnostics.plugin import WorkerPlugin
except ImportError:
    WorkerPlugin = object


class _FindsModels(WorkerPlugin):
    """New workers find the models of these tests, too."""

    def __init__(self, folder):
        self.folder = folder

    def setup(self, worker):
        sys.path.insert(0, self.folder)


# ---------------------------------------------------------------- progress


def test_progress_tells_share_rate_and_time_left(monkeypatch, capsys, caplog):
    clock = iter(np.arange(0.0, 1e4, 10.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    bar = progress.Progress(1000, 200, "init times", shown=True)
    with caplog.at_level(logging.INFO, "xnowcast.archive"):
        bar.add(100)
        for _ in range(5):
            bar.show()
    bar.close()
    moving = capsys.readouterr().err
    assert "20%" in moving and "30%" in moving and "300/1000 [" in moving and moving.endswith("\n")
    assert 1 <= len(caplog.records) <= 3, "the log has a line a minute"
    line = caplog.records[0].getMessage()
    assert line.startswith("300 of 1000 init times (30 %), ") and line.endswith(" left")


def test_nothing_is_drawn_where_nobody_looks(capsys):
    before = threading.enumerate()
    for shown in (None, False, True):
        bar = progress.Progress(10, 0, "init times", shown=shown)
        bar.add(4)
        bar.close()
        assert bool("".join(capsys.readouterr())) == bool(shown)
    assert threading.enumerate() == before, "no thread outlives a bar"


def test_the_public_name_is_the_function():
    assert xnowcast.hindcast is hindcast


def test_a_script_without_a_main_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import xnowcast\n"
        "from xnowcast.archive.run import loop\n"
        "loop.ATTEMPTS = loop.FAILURES_IN_A_ROW = 1\n"
        "radar = xnowcast.datasets.synthetic_radar(frames=4, shape=(32, 32))\n"
        "xnowcast.hindcast(radar, 'persistence', out='a.zarr', lead_time='5min', engine='processes', workers=1)\n"
    )
    run = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and "__main__" in run.stderr.strip().splitlines()[-1]
