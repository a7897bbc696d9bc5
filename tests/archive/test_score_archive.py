"""Tables of an archive: the scores of all forecasts at once, whatever the split, and intervals that mean something."""

import itertools

import numpy as np
import pytest
import torch
import xarray as xr
from archive_models import Noisy

import xnowcast
from xnowcast import verify
from xnowcast.archive import (
    IncompleteRun,
    bootstrap_scores,
    hindcast,
    merge_tables,
    score,
    score_archive,
    store,
    table_scores,
)
from xnowcast.archive.config import run_score

THRESHOLDS, SCALES = [0.5, 2.0], [1, 4]
SCORES = ["csi", "hss", "frequency_bias", "rmse", "mae", "mean_error", "correlation", "fss"]


@pytest.fixture(scope="module")
def archive():
    """Two days of hourly-started weather: 96 frames of a quarter of an hour, in chunks."""
    return (
        xnowcast.datasets.synthetic_radar(
            frames=96, shape=(24, 32), step="15min", seed=3, start="2024-06-30T12:00", chunks=10
        )
        .compute()
        .chunk(time=10)
    )


OPTIONS = {
    "init_times": slice("2024-06-30T13:00", "2024-07-01T11:00", "1h"),
    "steps": 3,
    "thresholds": THRESHOLDS,
    "scales": SCALES,
    "progress": False,
    "on_mismatch": "warn",
}


def tables_of(ds, models=(), **options):
    return score_archive(ds, models, **(OPTIONS | options))


def forecasts(ds, model, **options):
    few = {"init_times": OPTIONS["init_times"], "steps": 3} | options
    return ds.nowcast.forecast(model, **few).compute()


def card(ds, forecast, scores=SCORES):
    return verify.scorecard(ds, forecast, thresholds=THRESHOLDS, scales=SCALES, scores=scores).compute()


@pytest.fixture(scope="module")
def tables(archive):
    return tables_of(archive, scores=SCORES, same_cells=False)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("model", ["persistence", "extrapolation"])
def test_scores_are_those_of_the_scorecard(archive, tables, model, name):
    wanted = card(archive, forecasts(archive, model))[name]
    found = table_scores(tables, scores=[name])[name].sel(model=model, drop=True)
    xr.testing.assert_allclose(found.drop_vars("scale", errors="ignore"), wanted.drop_vars("scale", errors="ignore"))
    assert found.attrs["units"] == wanted.attrs["units"]
    assert found.attrs["long_name"] == wanted.attrs["long_name"]


def test_an_ensemble_has_a_crps_and_a_single_forecast_its_absolute_error(archive):
    found = tables_of(archive, Noisy(), members=4, seed=5, same_cells=False, scores=["csi", "crps", "crps_fair", "mae"])
    scores = table_scores(found, scores=["csi", "crps", "crps_fair", "mae"])
    wanted = card(archive, forecasts(archive, Noisy(), members=4, seed=5), ["csi", "crps", "crps_fair", "mae"])
    ensemble = scores.sel(model="Noisy")
    for name in wanted.data_vars:
        if name != "n_scored":
            np.testing.assert_allclose(ensemble[name], wanted[name], err_msg=name)
    single = scores.sel(model="persistence")
    np.testing.assert_allclose(single.crps, single.mae)
    assert single.crps_fair.isnull().all()


def test_models_are_compared_on_the_cells_that_all_have(archive):
    found = table_scores(tables_of(archive, scores=["csi"]), scores=["csi"]).csi
    both = {name: forecasts(archive, name) for name in ("persistence", "extrapolation")}
    known = both["persistence"].rainfall_rate.notnull() & both["extrapolation"].rainfall_rate.notnull()
    for name, forecast in both.items():
        masked = forecast.assign(rainfall_rate=forecast.rainfall_rate.where(known))
        np.testing.assert_allclose(found.sel(model=name), card(archive, masked, ["csi"]).csi)
    assert not np.allclose(found.sel(model="persistence"), card(archive, both["persistence"], ["csi"]).csi), (
        "which is not the same as each on its own"
    )


def test_a_case_worked_by_hand():
    """Rain in one of two columns; it stands still, then moves to the other. Persistence hits, then misses."""
    rain = np.zeros((4, 8, 8), "f4")
    rain[:3, :, :4] = 1.0
    rain[3, :, 4:] = 1.0
    times = np.datetime64("2024-01-31T23:30", "ns") + np.arange(4) * np.timedelta64(15, "m")
    ds = xr.DataArray(
        rain,
        dims=("time", "y", "x"),
        coords={"time": times},
        name="rr",
        attrs={"units": "mm h-1", "standard_name": "rainfall_rate"},
    ).to_dataset()
    options = {"steps": 1, "thresholds": [0.5], "scales": [1], "baselines": ["persistence"], "progress": False}
    found = score_archive(ds, init_times=times[:3], scores=["csi", "rmse"], **options)
    blocks = found.isel(model=0, lead_time=0, threshold=0, scale=0)
    assert blocks.block.values.astype("M8[D]").astype(str).tolist() == ["2024-01-31", "2024-02-01"]
    assert blocks.events_hits.values.tolist() == [64, 0]
    assert blocks.events_misses.values.tolist() == [0, 32]
    assert blocks.events_false_alarms.values.tolist() == [0, 32]
    assert blocks.errors_squared_error.values.tolist() == [0.0, 64.0]
    assert blocks.n_init_times.values.tolist() == [2, 1]
    assert float(table_scores(found, scores=["csi"]).csi.squeeze()) == 0.5
    by_month = table_scores(found, scores=["csi", "rmse"], by=["month"]).squeeze()
    assert by_month.csi.values.tolist() == [1.0, 0.0]
    assert by_month.rmse.values.tolist() == [0.0, 1.0]


def test_hours_regions_and_blocks_add_up_to_the_whole(archive):
    west = xr.DataArray(np.arange(32) < 16, dims="x") & xr.DataArray(np.ones(24, bool), dims="y")
    regions = xr.concat([west, ~west], xr.DataArray(["west", "east"], dims="region", name="region"))
    whole = tables_of(archive, scales=[1])
    parts = tables_of(archive, scales=[1], regions=regions, hours=6, block="6h")
    assert parts.sizes["hour"] == 4 and parts.sizes["region"] == 2 and parts.sizes["block"] == 4
    summed = parts.events_hits.sum(["block", "hour", "region"])
    np.testing.assert_array_equal(summed, whole.events_hits.sum("block"))
    by_hour = table_scores(parts, by=["hour"])
    assert by_hour.csi.dims == ("model", "hour", "region", "lead_time", "threshold", "scale")
    assert by_hour.n_init_times.sum("hour").values.tolist() == [23, 23]
    east = archive.where(~west)
    expected = card(east, forecasts(archive, "persistence"), ["csi"]).csi.sel(scale=[1])
    alone = tables_of(archive, scales=[1], regions=regions, same_cells=False)
    np.testing.assert_allclose(table_scores(alone).csi.sel(model="persistence", region="east"), expected)


def test_a_store_is_scored_like_the_model_that_made_it(archive, tmp_path):
    made = hindcast(
        archive,
        "extrapolation",
        out=tmp_path / "stored.zarr",
        init_times=OPTIONS["init_times"],
        steps=4,
        progress=False,
    )
    made.close()
    found = table_scores(tables_of(archive, [tmp_path / "stored.zarr"]))
    np.testing.assert_array_equal(found.csi.sel(model="stored"), found.csi.sel(model="extrapolation"))
    np.testing.assert_array_equal(found.n_init_times, 23)
    with pytest.raises(ValueError, match="4 lead times up to 60 min; 5 up to 75 min are to be scored"):
        tables_of(archive, [tmp_path / "stored.zarr"], steps=5)
    with pytest.raises(ValueError, match="another 'x'"):
        tables_of(archive.isel(x=slice(16)), [tmp_path / "stored.zarr"], baselines=["persistence"])
    alone = tables_of(archive, [tmp_path / "stored.zarr"], baselines=[], init_times="all")
    assert alone.n_init_times.sum() == 23, "those that the store has"


@pytest.mark.filterwarnings("ignore:variable 'rainfall_rate' is forecast")
def test_a_store_of_sums_keeps_their_interval_and_other_observations_are_refused(archive, tmp_path):
    sums = (archive.rainfall_rate / 2).assign_attrs(units="mm", standard_name="precipitation_amount", accutime=30)
    sums = archive.assign(rainfall_rate=sums)  # of half an hour, every quarter
    options = {"init_times": OPTIONS["init_times"], "steps": 3, "progress": False}
    made = hindcast(sums, "persistence", out=tmp_path / "stored.zarr", **options)
    assert made.rainfall_rate.attrs["accutime"] == 30
    rates, rain = (xnowcast.rain_rate(of).isel(lead_time=0) for of in (made, forecasts(sums, "persistence")))
    np.testing.assert_allclose(rates, rain, rtol=1e-6)
    found = table_scores(tables_of(sums, [tmp_path / "stored.zarr"]))
    np.testing.assert_array_equal(found.csi.sel(model="stored"), found.csi.sel(model="persistence"))
    with pytest.raises(ValueError, match=r"stored\.zarr are of 30 min each, and the observations of 15 min"):
        tables_of(archive, [tmp_path / "stored.zarr"], baselines=["persistence"])
    quarters = sums.assign(rainfall_rate=sums.rainfall_rate.assign_attrs(accutime=15))
    with pytest.raises(ValueError, match="interval"):
        hindcast(quarters, "persistence", out=tmp_path / "stored.zarr", **options)


def test_what_a_store_lacks_is_told(archive, tmp_path, caplog):
    some = slice("2024-06-30T13:00", "2024-06-30T20:00", "1h")
    hindcast(archive, "persistence", out=tmp_path / "half.zarr", init_times=some, steps=4, progress=False).close()
    tables = tables_of(archive, [tmp_path / "half.zarr"])
    assert "half has no forecast from 15 of 23 init times" in caplog.text
    assert "persistence has no forecast" not in caplog.text
    assert tables.n_init_times.sum("block").sel(model="half") == 8


@pytest.mark.parametrize("engine", ["threads", "client"])
def test_engines_agree_to_the_last_bit(archive, tmp_path, tables, engine):
    options = {"scores": SCORES, "same_cells": False}
    if engine == "threads":
        other = tables_of(archive, engine="threads", workers=5, block="1D", **options)
    else:
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as c,
            distributed.Client(c) as client,
        ):
            other = tables_of(archive, engine=client, **options)
    xr.testing.assert_identical(other, tables)


def test_tables_of_months_are_merged(archive):
    whole = tables_of(archive)
    parts = [
        tables_of(archive, init_times=slice("2024-06-30T13:00", "2024-06-30T20:00", "1h")),
        tables_of(archive, init_times=slice("2024-06-30T21:00", "2024-07-01T11:00", "1h")),
    ]
    for order in itertools.permutations(parts):
        merged = merge_tables(order)
        np.testing.assert_array_equal(merged.events_hits, whole.events_hits)
        np.testing.assert_allclose(merged.errors_squared_error, whole.errors_squared_error)
        np.testing.assert_array_equal(merged.init_time, whole.init_time)
        np.testing.assert_allclose(table_scores(merged).csi, table_scores(whole).csi)
    with pytest.raises(ValueError, match="it would count twice"):
        merge_tables([parts[0], parts[0]])
    with pytest.raises(ValueError, match=r"differ in thresholds: \[0.5, 2.0\] and \[1.0\]"):
        merge_tables([parts[0], tables_of(archive, init_times="2024-07-01T11:00", thresholds=[1.0])])
    with pytest.raises(ValueError, match="no table"):
        merge_tables([])


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_a_run_that_goes_on_gives_the_table_of_one_that_was_not_stopped(archive, tmp_path, ending):
    (tmp_path / "calls").mkdir()
    out = tmp_path / f"table{ending}"
    options = {"block": "6h", "out": out, "workers": 1, "members": 2, "baselines": ["persistence"]}
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        tables_of(archive, Noisy(str(tmp_path / "calls"), [1], "interrupt"), **options)
    half = xr.open_dataset(out) if ending == ".nc" else xr.open_zarr(out)
    assert 0 < int((half.init_status == 0).all("model").sum()) < 23
    half.close()
    gone_on = tables_of(archive, Noisy(), **options)
    whole = tables_of(archive, Noisy(), **(options | {"out": None}))
    xr.testing.assert_identical(gone_on, whole)
    again = tables_of(archive, Noisy(str(tmp_path / "calls"), range(100), "fail"), **options)
    xr.testing.assert_identical(again, whole)
    with pytest.raises(ValueError, match="begun with thresholds"):
        tables_of(archive, Noisy(), **(options | {"thresholds": [3.0]}))
    tables_of(archive, Noisy(), **(options | {"thresholds": [3.0], "overwrite": True}))
    assert not list(tmp_path.glob("*.lock")) and not list(tmp_path.glob(".*part"))


def test_a_refusal_tells_what_differs_and_no_more(archive, tmp_path):
    options = {"out": tmp_path / "t.nc", "init_times": "2024-06-30T14:00", "baselines": ["persistence"]}
    mine = {"model": Noisy(), "members": 2}
    tables_of(archive, {"mine": mine, "other": "extrapolation"}, **options)
    with pytest.raises(ValueError) as error:
        tables_of(archive, {"mine": mine | {"members": 3}, "third": "extrapolation"}, **options)
    said = str(error.value)
    assert "t.nc was begun with models.mine.members 2, and this run has 3; " in said
    assert "without models.third, and this run has it; with models.other, and this run has none: ask for" in said
    assert "grid" not in said and len(said) < 400


def test_scores_are_taken_of_a_path_and_of_nothing_but_tables(archive, tmp_path):
    kept = tables_of(archive, out=tmp_path / "t.nc", init_times="2024-06-30T14:00")
    xr.testing.assert_identical(table_scores(tmp_path / "t.nc").csi, table_scores(kept).csi)
    xr.testing.assert_identical(merge_tables([str(tmp_path / "t.nc")]).events_hits, kept.events_hits)
    assert "csi_lower" in bootstrap_scores(str(tmp_path / "t.nc"), scores="csi", samples=5)
    with pytest.raises(ValueError, match=r"a Dataset is no table of scores: give what xnowcast\.score_archive"):
        table_scores(archive)
    with pytest.raises(ValueError, match=r"there is no file nowhere\.nc"):
        table_scores("nowhere.nc")
    with pytest.raises(ValueError, match="give a list of those to merge"):
        merge_tables(kept)


@pytest.mark.filterwarnings("error")
def test_a_table_in_zarr_is_written_without_complaint(archive, tmp_path):
    kept = tables_of(archive, out=tmp_path / "t.zarr", init_times="2024-06-30T14:00")
    assert kept.model.values.tolist() == ["persistence", "extrapolation"]
    assert table_scores(tmp_path / "t.zarr").model.values.tolist() == ["persistence", "extrapolation"]


def test_something_else_in_the_place_of_the_table_is_left_alone(archive, tmp_path):
    archive.to_netcdf(tmp_path / "radar.nc")
    with pytest.raises(ValueError, match="no table of score_archive"):
        tables_of(archive, out=tmp_path / "radar.nc")


def test_a_model_that_fails_leaves_the_other_blocks(archive, tmp_path):
    class Broken(Noisy):
        def forecast(self, frames, observed, steps, noise=None):
            if torch.equal(frames[0, -1, 0], midnight):
                raise RuntimeError("not at midnight")
            return super().forecast(frames, observed, steps, noise)

    midnight = torch.from_numpy(archive.rainfall_rate.sel(time="2024-07-01T00:00").fillna(0).values)
    with pytest.raises(IncompleteRun, match=r"1 batches failed three times .*not at midnight"):
        tables_of(archive, Broken(), out=tmp_path / "t.nc", workers=1, members=1, baselines=[], block="6h")
    with xr.open_dataset(tmp_path / "t.nc") as kept:
        assert (kept.n_init_times.sum("model") > 0).values.tolist() == [True, True, False, True]


def test_what_cannot_be_scored_is_recorded(archive):
    rain = archive.rainfall_rate.load().copy()
    rain[21] = np.nan
    poor = archive.assign(rainfall_rate=rain.assign_attrs(archive.rainfall_rate.attrs)).isel(
        time=[i for i in range(96) if i != 40]
    )
    found = tables_of(poor, init_times=slice(None, None, 3), on_gap="skip")
    assert found.init_time.values[0] == archive.time.values[3], "the first that every model has the frames for"
    status = found.init_status.to_pandas()
    assert (status.loc["2024-06-30T17:15"] == store.COVERAGE).all()
    assert status["extrapolation"].loc["2024-06-30T18:00"] == store.COVERAGE, "its window reaches back to 17:15"
    assert status["persistence"].loc["2024-06-30T22:30"] == store.FORECAST
    assert status["extrapolation"].loc["2024-06-30T22:30"] == store.GAP, "it would read across 22:00"
    scored = (status == store.FORECAST).all(axis=1).sum()
    assert found.n_init_times.sum("block").values.tolist() == [scored, scored]


# ---------------------------------------------------------------- intervals


def by_hand(hits, misses):
    """A table of one model, one lead time and blocks with these counts."""
    shape = ("model", "block", "lead_time", "threshold", "scale")
    counts = {"hits": hits, "misses": misses, "false_alarms": 0 * hits, "correct_negatives": 0 * hits}
    coords = {
        "model": [f"m{i}" for i in range(hits.shape[0])],
        "block": np.datetime64("2024-01-01", "ns") + np.arange(hits.shape[1]) * np.timedelta64(1, "D"),
        "lead_time": [np.timedelta64(5, "m").astype("m8[ns]")],
    }
    return xr.Dataset(
        {f"events_{name}": (shape, values[:, :, None, None, None]) for name, values in counts.items()}
        | {"n_init_times": (("model", "block"), np.ones(hits.shape, int))},
        coords=coords,
    )


def test_blocks_that_are_all_alike_leave_no_doubt():
    table = by_hand(np.full((1, 30), 3), np.full((1, 30), 1))
    found = bootstrap_scores(table, scores="csi", samples=50).squeeze()
    assert float(found.csi) == float(found.csi_lower) == float(found.csi_upper) == 0.75


def test_the_interval_is_that_of_the_theory():
    """Blocks that either hit or miss: the share of hits has a standard deviation of sqrt(p (1 - p) / n)."""
    hits = (np.arange(400) % 4 == 0).astype(int)[None]
    found = bootstrap_scores(by_hand(hits, 1 - hits), scores="csi", samples=4000, level=0.9).squeeze()
    half = 1.645 * np.sqrt(0.25 * 0.75 / 400)
    np.testing.assert_allclose([found.csi_lower, found.csi_upper], [0.25 - half, 0.25 + half], atol=0.004)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        hits = (rng.random((1, 100)) < 0.4).astype(int)
        found = bootstrap_scores(by_hand(hits, 1 - hits), scores="csi", samples=200, level=0.8, seed=trial).squeeze()
        covered += bool(found.csi_lower <= 0.4 <= found.csi_upper)
    assert 40 <= covered <= 56


def test_the_difference_of_models_that_meet_the_same_weather_is_surer_than_either():
    rng = np.random.default_rng(1)
    easy = rng.integers(0, 80, 60)
    hits = np.stack([easy, easy + 10])
    found = bootstrap_scores(by_hand(hits, 100 - hits), scores="csi", versus="m0")
    alone = bootstrap_scores(by_hand(hits, 100 - hits), scores="csi")
    assert float(found.csi.sel(model="m0").squeeze()) == 0
    np.testing.assert_allclose(found.csi.sel(model="m1").squeeze(), 0.1)
    width = {
        n: float((t.csi_upper - t.csi_lower).sel(model="m1").squeeze()) for n, t in {"d": found, "a": alone}.items()
    }
    assert width["d"] < 1e-9 < 0.05 < width["a"]


def test_one_block_has_no_interval(archive):
    found = bootstrap_scores(tables_of(archive, init_times="2024-06-30T14:00"), scores="csi", samples=10)
    assert found.csi.notnull().any() and found.csi_lower.isnull().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, "between 0 and 1"),
        ({"samples": 1}, "2 or more"),
        ({"versus": "stldm"}, "the table has the models 'm0'"),
        ({"scores": "rmse"}, "no sums for 'rmse'"),
        ({"scores": "sal"}, "there is no score 'sal'"),
        ({"scores": 3}, "scores is 3"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
    ids=str,
)
def test_a_wrong_call_of_the_bootstrap_is_refused(options, message):
    table = by_hand(np.ones((1, 3), int), np.ones((1, 3), int))
    with pytest.raises(ValueError, match=message):
        bootstrap_scores(table, **({"scores": "csi"} | options))


@pytest.mark.parametrize("options", [{"scores": 3}, {"by": 3}], ids=str)
def test_a_wrong_call_of_the_scores_of_a_table_is_refused(options):
    table = by_hand(np.ones((1, 3), int), np.ones((1, 3), int))
    with pytest.raises(ValueError, match=f"{next(iter(options))} is 3; it must be"):
        table_scores(table, **options)


# ---------------------------------------------------------------- wrong calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baselines": []}, "no model to score"),
        ({"models": ["persistence", "persistence"]}, "two models are called 'persistence'"),
        ({"scores": ["psnr"]}, "no score 'psnr'"),
        ({"scores": []}, "scores is empty"),
        ({"thresholds": [0.0]}, "every cell reaches"),
        ({"hours": 5}, "1, 2, 3, 4, 6, 8 or 12"),
        ({"block": "7h"}, "must be some days"),
        ({"regions": xr.DataArray(np.ones((1, 24)), dims=("region", "y"))}, "must be bool"),
        ({"regions": xr.DataArray(np.ones((1, 24, 3), bool), dims=("region", "y", "x"))}, "3 cells along 'x'"),
        ({"out": "table.csv"}, "must end in .zarr or .nc"),
        ({"engine": "gpu"}, "'threads', 'processes'"),
        ({"models": "nonsense"}, "there is no model 'nonsense'"),
        ({"models": 3}, "models is 3"),
        ({"models": [3]}, "model is a int"),
        ({"baselines": None}, "baselines is None"),
        ({"baselines": [3]}, "baselines is"),
        ({"scores": 3}, "scores is 3"),
        ({"scales": 0}, "scales=0"),
        ({"scales": [1.5]}, "scales="),
        ({"thresholds": "high"}, "thresholds"),
        ({"regions": 3}, "regions is a int"),
        ({"same_cells": "yes"}, "same_cells is 'yes'"),
        ({"hours": "3"}, "hours is '3'"),
        ({"block": 3}, "block is the bare number 3"),
        ({"min_coverage": 2}, "min_coverage is 2"),
        ({"members": 0}, "members is 0"),
        ({"overwrite": "no"}, "overwrite is 'no'"),
        ({"progress": 3}, "progress is 3"),
        ({"performance_report": 3}, "performance_report is 3"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"on_gap": "join"}, "on_gap is 'join'"),
        ({"variable": ["rain"]}, "variable is"),
    ],
    ids=str,
)
def test_a_wrong_call_is_refused(archive, options, message):
    with pytest.raises(ValueError, match=message):
        tables_of(archive, **options)


def test_a_table_cannot_be_kept_by_what_it_has_not(tables):
    with pytest.raises(ValueError, match="there are year, season, month, block"):
        table_scores(tables, by=["hour"])
    with pytest.raises(ValueError, match="choose one"):
        table_scores(tables, by=["year", "month"])
    assert table_scores(tables, by=["season"]).csi.dims[:2] == ("model", "season")
    assert table_scores(tables, by=["block"]).csi.sizes["block"] == 2


def test_models_can_be_named_in_many_ways(archive):
    found = tables_of(
        archive,
        {"noisy of three": {"model": Noisy(), "members": 3}, "still": "persistence"},
        baselines=["extrapolation"],
        init_times="2024-06-30T14:00",
    )
    assert found.model.values.tolist() == ["noisy of three", "still", "extrapolation"]
    assert tables_of(archive, "persistence", baselines=[], init_times="2024-06-30T14:00").sizes["model"] == 1


def test_blocks_never_cross_the_end_of_a_month():
    times = np.datetime64("2024-01-01", "ns") + np.arange(0, 24 * 60, 7) * np.timedelta64(1, "h")
    for block in ("1D", "5D", "31D", "3h"):
        starts = score.block_starts(times, block)
        assert (starts <= times).all() and (np.diff(starts) >= np.timedelta64(0)).all()
        assert (starts.astype("M8[M]") == times.astype("M8[M]")).all()


def test_plots_and_tables_take_the_scores(tables, tmp_path):
    cards = {str(m): table_scores(tables).sel(model=m, drop=True) for m in tables.model.values}
    text = verify.format_scorecard(cards, scores=["csi", "rmse"], lead_times=["15min"])
    assert "persistence" in text and "extrapolation" in text
    pytest.importorskip("matplotlib")
    xnowcast.plot.plot_scores(cards, "csi", path=tmp_path / "csi.png")
    assert (tmp_path / "csi.png").stat().st_size > 5000


@pytest.mark.parametrize("about", ["3", "true", "[1]", "2024-06-01"])
def test_a_model_of_a_configuration_that_is_no_section_is_refused_by_name(tmp_path, about):
    (tmp_path / "a.toml").write_text(f'[data]\npath = "a.nc"\n[models]\nmine = {about}\n')
    with pytest.raises(ValueError, match=r"mine in \[models\] is .*it must be a section"):
        run_score(tmp_path / "a.toml")
