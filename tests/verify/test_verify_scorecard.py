"""The score table: alignment by valid time, units, what is averaged, and its text."""

import dask
import numpy as np
import pytest
import xarray as xr

from xnowcast import verify

STEP = np.timedelta64(5, "m").astype("m8[ns]")
START = np.datetime64("2024-06-01T12:00", "ns")


def observations(n_times=10, n=16):
    rng = np.random.default_rng(5)
    values = (rng.gamma(0.5, 4.0, (n_times, n, n)) * (rng.random((n_times, n, n)) > 0.4)).astype("f4")
    coords = {"time": START + np.arange(n_times) * STEP, "y": np.arange(n) * 1000.0, "x": np.arange(n) * 1000.0}
    return xr.DataArray(
        values,
        dims=("time", "y", "x"),
        coords=coords,
        name="rain",
        attrs={"units": "mm h-1", "standard_name": "rainfall_rate"},
    )


def forecasts_from(observed, inits=(2, 3), leads=(1, 2, 3), members=None):
    """The observations of the valid times, laid out as a forecast; members add their number in mm/h."""
    start = observed.time.values
    frames = np.stack([[observed.values[i + k] for k in leads] for i in inits])
    coords = {
        "init_time": start[list(inits)],
        "lead_time": np.array(leads) * STEP,
        "y": observed.y,
        "x": observed.x,
        "valid_time": (("init_time", "lead_time"), start[np.add.outer(inits, leads)]),
    }
    dims = ["init_time", "lead_time", "y", "x"]
    if members is not None:
        frames = np.stack([frames + m for m in range(members)], axis=1)
        dims.insert(1, "member")
        coords["member"] = np.arange(members)
    return xr.DataArray(frames, dims=dims, coords=coords, name="rain", attrs=observed.attrs)


def test_perfect_forecast_has_perfect_scores_at_every_lead_time():
    observed = observations()
    card = verify.scorecard(observed, forecasts_from(observed))
    assert card["csi"].dims == ("lead_time", "threshold", "scale")
    assert card["csi"].shape == (3, 4, 3)
    for name, best in {"csi": 1, "pod": 1, "false_alarm_ratio": 0, "frequency_bias": 1}.items():
        assert np.all((card[name] == best) | np.isnan(card[name]))
        assert np.all(card[name].sel(scale=1) == best)
    for name in ("rmse", "mae", "mean_error"):
        assert card[name].dims == ("lead_time",) and np.all(card[name] == 0)
    assert card["n_scored"].values.tolist() == [2 * 16 * 16] * 3
    assert "crps" not in card


def test_every_variable_says_what_it_is():
    observed = observations()
    card = verify.scorecard(observed, forecasts_from(observed, members=2))
    assert all({"long_name", "units"} <= set(card[name].attrs) for name in card.data_vars)
    assert card["rmse"].attrs["units"] == card["crps"].attrs["units"] == "mm h-1"
    assert card["csi"].attrs["units"] == "1"
    assert card["rmse"].attrs["comment"] == "of the ensemble mean"
    assert "each member" in card["csi"].attrs["comment"]
    assert card.attrs["members"] == 2 and "init_time" in card.attrs["averaging"]


def test_scores_equal_those_of_fields_aligned_by_hand():
    observed = observations()
    forecast = forecasts_from(observed.shift(time=1), members=3)
    card = verify.scorecard(observed, forecast, thresholds=[1, 3], scales=[1, 4])
    for k, lead in enumerate((1, 2, 3)):
        same_time = xr.concat([observed.isel(time=i + lead, drop=True) for i in (2, 3)], dim=forecast["init_time"])
        at_lead = forecast.isel(lead_time=k)
        expected = verify.csi(same_time, at_lead, thresholds=[1, 3], scales=[1, 4])
        np.testing.assert_array_equal(card["csi"].isel(lead_time=k), expected)
        assert float(card["crps"][k]) == pytest.approx(float(verify.crps_ensemble(same_time, at_lead)), rel=1e-6)
        mean = at_lead.mean("member")
        assert float(card["rmse"][k]) == pytest.approx(float(verify.rmse(same_time, mean)), rel=1e-6)


THEIR_NAMES = [
    {"member": "number", "init_time": "time", "lead_time": "step"},
    {"member": "realization", "init_time": "forecast_reference_time", "lead_time": "forecast_period"},
    {"member": "ens_number", "init_time": "init", "lead_time": "leadtime"},
    {"member": "sample", "init_time": "reference_time", "lead_time": "prediction_timedelta"},
    {"member": "Ensemble", "init_time": "analysis_time", "lead_time": "lead"},
]


@pytest.mark.parametrize("names", THEIR_NAMES, ids=lambda names: names["member"])
@pytest.mark.parametrize("kind", ["array", "dataset", "lazy", "transposed"])
def test_members_and_times_by_other_packages_names_are_scored_alike(names, kind):
    observed = observations()
    forecast = forecasts_from(observed, members=3).drop_vars("valid_time")
    theirs = forecast.rename(names)
    if kind == "transposed":
        theirs = theirs.transpose("y", names["lead_time"], "x", ...)
    theirs = theirs.chunk() if kind == "lazy" else theirs.to_dataset() if kind == "dataset" else theirs
    expected = verify.scorecard(observed, forecast, thresholds=[1.0], scales=[1, 4], by=["init_time", "lead_time"])
    found = verify.scorecard(
        observed, theirs, thresholds=[1.0], scales=[1, 4], by=[names["init_time"], names["lead_time"]]
    )
    assert "crps" in found
    xr.testing.assert_allclose(found, expected)


def test_standard_names_come_before_the_names_of_dims():
    observed = observations()
    forecast = forecasts_from(observed, members=3)
    told = forecast.rename(member="m").assign_coords(m=("m", range(3), {"standard_name": "realization"}))
    beside = forecast.rename(member="m").assign_coords(which=("m", range(3), {"standard_name": "realization"}))
    expected = verify.scorecard(observed, forecast)
    for theirs in (told, beside.drop_vars("m")):
        xr.testing.assert_allclose(verify.scorecard(observed, theirs), expected)


def test_lead_times_in_numbers_with_units_are_read():
    observed = observations()
    forecast = forecasts_from(observed)
    minutes = ("lead_time", [5.0, 10.0, 15.0], {"units": "minutes", "standard_name": "forecast_period"})
    theirs = forecast.assign_coords(lead_time=minutes)
    xr.testing.assert_allclose(verify.scorecard(observed, theirs), verify.scorecard(observed, forecast))
    aligned = verify.align_observations(observed, theirs.rename(lead_time="lead"))
    assert aligned.dims == ("init_time", "lead", "y", "x")
    assert float(verify.rmse(aligned, theirs.rename(lead_time="lead"))) == 0


def test_valid_times_after_one_start_are_lead_times():
    observed = observations()
    one = forecasts_from(observed, inits=(2,)).isel(init_time=0)
    theirs = one.drop_vars("valid_time").rename(lead_time="time", init_time="forecast_reference_time")
    theirs = theirs.assign_coords(time=one.valid_time.values)
    xr.testing.assert_allclose(verify.scorecard(observed, theirs), verify.scorecard(observed, one))


@pytest.mark.parametrize("lazy", [False, True])
def test_weights_of_cells_and_times_are_those_of_single_scores(lazy):
    observed = observations()
    forecast = forecasts_from(observed, members=2)
    weights = xr.DataArray(np.linspace(0, 1, 16), dims="y") * xr.DataArray([1.0, 3.0], dims="step")
    theirs = forecast.isel(lead_time=[0, 1]).rename(lead_time="step")
    card = verify.scorecard(observed, theirs.chunk() if lazy else theirs, thresholds=[1.0], scales=1, weights=weights)
    aligned = verify.align_observations(observed, theirs)
    options = {"dim": ["init_time", "y", "x"], "weights": weights}
    np.testing.assert_allclose(card.rmse, verify.rmse(aligned, theirs, member_dim="member", **options))
    np.testing.assert_allclose(card.crps, verify.crps_ensemble(aligned, theirs, **options))
    assert card.n_scored.values.tolist() == [2 * 16 * 16] * 2
    with pytest.raises(ValueError, match="weights vary along 'y'"):
        verify.scorecard(observed, theirs, scales=4, weights=weights)
    with pytest.raises(ValueError, match="'emd' has no weights"):
        verify.scorecard(observed, theirs, scores=["emd"], weights=weights)


def test_units_are_converted_before_scoring():
    observed = observations()
    flux = (observed / 3600).assign_attrs(units="kg m-2 s-1").rename("precipitation_flux")
    card = verify.scorecard(flux, forecasts_from(observed), scores=["mae", "csi"])
    np.testing.assert_allclose(card["mae"], 0, atol=1e-6)
    assert card["threshold"].attrs["units"] == "mm h-1"


def test_reflectivity_is_scored_as_rain_with_the_z_r_that_is_given():
    observed = observations()
    a, b = 256.0, 1.42
    dbz = xr.where(observed > 0.05, 10 * np.log10(a * np.maximum(observed, 0.05) ** b), -32.0)
    dbz = dbz.assign_attrs(units="dBZ", standard_name="equivalent_reflectivity_factor").rename("dbz")
    wet = observed.where(observed > 0.05, 0).assign_attrs(observed.attrs)
    card = verify.scorecard(wet, forecasts_from(dbz), scores=["mae"], zr=(a, b))
    np.testing.assert_allclose(card["mae"], 0, atol=1e-4)
    assert np.all(verify.scorecard(wet, forecasts_from(dbz), scores=["mae"])["mae"] > 0.01)


def test_times_that_were_not_observed_are_not_scored():
    observed = observations(n_times=11)
    forecast = forecasts_from(observed, inits=(2, 7), leads=(1, 2, 3))
    without = observed.isel(time=[0, 1, 2, 3, 4, 5, 6, 7, 9])  # valid times 8 and 10 are missing
    card = verify.scorecard(without, forecast)
    assert card["n_scored"].values.tolist() == [256, 512, 256]
    assert np.all(card["mae"] == 0)


def test_forecast_beyond_the_observations_is_nan_not_an_error():
    observed = observations()
    card = verify.scorecard(observed.isel(time=slice(4)), forecasts_from(observed, inits=(2,)))
    assert card["n_scored"].values.tolist() == [256, 0, 0]
    assert np.isnan(card["csi"].isel(lead_time=[1, 2])).all() and np.isnan(card["mae"].isel(lead_time=[1, 2])).all()


def test_by_init_time_keeps_each_start():
    observed = observations()
    forecast = forecasts_from(observed.shift(time=1))
    card = verify.scorecard(observed, forecast, by=("init_time", "lead_time"))
    assert card["mae"].dims == ("init_time", "lead_time")
    assert "valid_time" in card.coords
    for i in range(2):
        alone = verify.scorecard(observed, forecast.isel(init_time=[i]))
        xr.testing.assert_allclose(card["csi"].isel(init_time=i, drop=True).drop_vars("valid_time"), alone["csi"])


def test_all_can_be_pooled():
    observed = observations()
    card = verify.scorecard(observed, forecasts_from(observed), by=())
    assert card["mae"].dims == () and int(card["n_scored"]) == 6 * 256


def test_selected_starts_and_lead_times_are_aligned_too():
    observed = observations()
    forecast = forecasts_from(observed.shift(time=1))
    whole = verify.scorecard(observed, forecast, by=("init_time", "lead_time"))
    one = verify.scorecard(observed, forecast.isel(init_time=1))
    np.testing.assert_array_equal(one["csi"], whole["csi"].isel(init_time=1))
    lead = verify.scorecard(observed, forecast.isel(lead_time=2, init_time=1).drop_vars("valid_time"), by=())
    np.testing.assert_array_equal(lead["csi"], whole["csi"].isel(init_time=1, lead_time=2))


def test_extra_dims_are_shared():
    observed = observations()
    tiles = xr.concat([observed, observed + 1], dim="tile").assign_attrs(observed.attrs)
    forecast = xr.concat([forecasts_from(observed), forecasts_from(observed)], dim="tile")
    card = verify.scorecard(tiles, forecast, by=("tile", "lead_time"), scores=["mean_error"])
    np.testing.assert_allclose(card["mean_error"], [[0, 0, 0], [-1, -1, -1]], atol=1e-6)
    np.testing.assert_allclose(verify.scorecard(tiles, forecast)["mean_error"], -0.5, atol=1e-6)


def test_datasets_and_latitude_longitude_are_understood():
    observed = observations().rename(y="latitude", x="longitude")
    forecast = forecasts_from(observations()).rename(y="latitude", x="longitude")
    card = verify.scorecard(observed.to_dataset(), forecast.to_dataset(name="fc"), variable="fc")
    assert np.all(card["csi"].sel(scale=1) == 1)


def test_rounding_of_the_grid_is_forgiven():
    observed = observations()
    card = verify.scorecard(observed.assign_coords(x=observed.x + 0.01), forecasts_from(observed))
    assert np.all(card["mae"] == 0)


@pytest.mark.parametrize("chunks", [{"init_time": 1}, {"member": 1, "y": 8}, {"lead_time": 2, "x": 5}])
def test_lazy_and_the_same_in_any_chunks(chunks, nothing_may_run):
    observed = observations()
    forecast = forecasts_from(observed.shift(time=1), members=3)
    expected = verify.scorecard(observed, forecast)
    for obs in (observed, observed.chunk(time=3, y=4)):
        with nothing_may_run:
            lazy = verify.scorecard(obs, forecast.chunk(chunks))
        assert all(dask.is_dask_collection(lazy[name].data) for name in lazy.data_vars)
        xr.testing.assert_allclose(lazy.compute(), expected)


def test_forecast_chunks_are_read_once():
    observed = observations()
    reads = []

    def read(block, block_info=None):
        if block_info:
            reads.append(tuple(block_info[0]["chunk-location"]))
        return block

    forecast = forecasts_from(observed, members=3).chunk(init_time=1, lead_time=1)
    counted = forecast.copy(data=forecast.data.map_blocks(read, dtype="f4", meta=np.empty((0,) * 5, "f4")))
    verify.scorecard(observed, counted).compute(scheduler="sync")
    assert len(reads) == len(set(reads)) == 6


# ---------------------------------------------------------------- errors


def test_no_common_time_is_an_error_with_both_ranges():
    observed = observations()
    later = observed.assign_coords(time=observed.time + np.timedelta64(1, "D"))
    with pytest.raises(
        ValueError, match=r"2024-06-01 12:15:00 to 2024-06-01 12:30:00.*from 2024-06-02 12:00:00 to 2024-06-02"
    ):
        verify.scorecard(later, forecasts_from(observed))


def test_other_grids_are_refused():
    observed = observations()
    forecast = forecasts_from(observed)
    with pytest.raises(ValueError, match="grids are not the same: dim 'x' differs"):
        verify.scorecard(observed, forecast.assign_coords(x=forecast.x + 500))
    with pytest.raises(ValueError, match="grids are not the same: dim 'y' differs"):
        verify.scorecard(observed.isel(y=slice(8)), forecast)
    with pytest.raises(ValueError, match="come in another order"):
        verify.scorecard(observed.isel(y=slice(None, None, -1)), forecast)


def test_mistakes_in_the_options_are_refused():
    observed = observations()
    forecast = forecasts_from(observed)
    with pytest.raises(ValueError, match="did you mean 'rmse'"):
        verify.scorecard(observed, forecast, scores=["rsme"])
    with pytest.raises(ValueError, match="'crps' is a score of ensembles"):
        verify.scorecard(observed, forecast, scores=["crps"])
    with pytest.raises(ValueError, match="by='member' is not a dim"):
        verify.scorecard(observed, forecasts_from(observed, members=2), by=("member",))
    with pytest.raises(ValueError, match="no variable 'wind'"):
        verify.scorecard(observed.to_dataset(), forecast.to_dataset(), variable="wind")
    with pytest.raises(ValueError, match="window of 32 cells is wider"):
        verify.scorecard(observed, forecast, scales=[32])


def test_fields_that_are_no_forecast_or_have_no_time_are_refused():
    observed = observations()
    forecast = forecasts_from(observed)
    with pytest.raises(ValueError, match="no coordinate 'init_time' and no 'lead_time'"):
        verify.scorecard(observed, observed)
    with pytest.raises(ValueError, match="none with times"):
        verify.scorecard(observed.isel(time=0, drop=True), forecast)
    with pytest.raises(ValueError, match="more than once"):
        verify.scorecard(observed.isel(time=[0, 1, 1, 2, 3, 4]), forecast)
    with pytest.raises(ValueError, match="lead_time int64"):
        verify.scorecard(observed, forecast.drop_vars("valid_time").assign_coords(lead_time=[5, 10, 15]))


# ---------------------------------------------------------------- text


@pytest.fixture
def cards():
    observed = observations()
    return {
        "extrapolation": verify.scorecard(observed, forecasts_from(observed)),
        "persistence": verify.scorecard(observed, forecasts_from(observed.shift(time=1), leads=(1, 2))),
    }


def test_table_has_a_row_per_lead_time_and_threshold(cards):
    lines = verify.format_scorecard(cards).splitlines()
    assert lines[0] == "critical success index"
    assert lines[1].split() == ["1", "x", "1"] * 2 + ["4", "x", "4"] * 2 + ["16", "x", "16"] * 2
    assert lines[2].split() == ["lead", "mm", "h-1"] + ["extrapolation", "persistence"] * 3
    assert len(lines) == 3 + 3 * 4
    first = lines[3].split()
    assert first[:4] == ["5", "min", "0.5", "1.000"]
    assert first[4] == f"{float(cards['persistence']['csi'][0, 0, 0]):.3f}"
    assert all(line == line.rstrip() for line in lines)


def test_what_a_model_lacks_is_a_dash(cards):
    last_lead = verify.format_scorecard(cards, scores="mae").splitlines()[-1].split()
    assert last_lead == ["15", "min", "0.000", "-"]


def test_tables_can_be_cut_down(cards):
    text = verify.format_scorecard(cards, scores=["csi", "rmse"], lead_times=["10min"], scales=[4], digits=2)
    csi, rmse = text.split("\n\n")
    assert len(csi.splitlines()) == 3 + 4 and "16 x 16" not in csi
    assert rmse.splitlines()[0] == "root mean squared error (mm h-1)" and len(rmse.splitlines()) == 3
    one = verify.format_scorecard(cards["extrapolation"].sel(threshold=2.0, scale=1))
    assert one.splitlines()[-1].split() == ["15", "min", "1.000"]


def test_tables_that_cannot_be_made_are_refused(cards):
    with pytest.raises(ValueError, match="no scorecard"):
        verify.format_scorecard({})
    with pytest.raises(ValueError, match="no scorecard has the score 'fss'"):
        verify.format_scorecard(cards, scores="fss")
    with pytest.raises(ValueError, match="no scorecard has the lead time 60 min"):
        verify.format_scorecard(cards, lead_times=["60min"])
    observed = observations()
    by_start = verify.scorecard(observed, forecasts_from(observed), by=("init_time", "lead_time"))
    with pytest.raises(ValueError, match="a table needs"):
        verify.format_scorecard(by_start)


@pytest.mark.parametrize("lazy", [False, True])
def test_every_score_of_the_table_can_be_had_at_once(radar, lazy, nothing_may_run):
    from xnowcast.verify.scorecards import SCORES

    rain = radar.rain.fillna(0)
    ensemble = xr.concat([rain.roll(x=m) for m in range(3)], xr.DataArray(range(3), dims="member", name="member"))
    fc = ensemble.isel(time=slice(0, 4)).rename(time="lead_time").expand_dims(init_time=radar.time[:1].values)
    fc = fc.assign_coords(lead_time=(np.arange(4) * np.timedelta64(5, "m")).astype("m8[ns]"))
    fc = fc.transpose("init_time", "member", "lead_time", "y", "x")
    options = {"scores": list(SCORES), "thresholds": "hko7", "scales": [1, 4]}
    if lazy:
        with nothing_may_run:
            card = verify.scorecard(radar.chunk(time=2), fc.chunk(member=1, lead_time=2), **options)
        card = card.compute()
    else:
        card = verify.scorecard(radar, fc, **options)
    assert set(card.data_vars) == {*SCORES, "n_scored"}
    assert dict(card.fss.sizes) == {"lead_time": 4, "threshold": 5, "scale": 2}
    for name, score in card.items():
        assert set(score.dims) <= {"lead_time", "threshold", "scale"} and score.attrs["long_name"], name
        assert "lead_time" in score.dims
    # Member 0 is the observation, so the best that is possible is in the ensemble.
    assert float(card.crps[0]) < float(card.mae[0]) + 1e-9
    assert card.threshold.attrs["units"] == "mm h-1"


def test_thresholds_that_tell_nothing_are_refused(radar):
    fc = radar.nowcast.forecast("persistence", init_times=["2024-06-01T12:10"], steps=2)
    with pytest.raises(ValueError, match="same value twice"):
        verify.scorecard(radar, fc, thresholds=[5, 2, 5])
    with pytest.raises(ValueError, match="above 0"):
        verify.scorecard(radar, fc, thresholds=[-1])
