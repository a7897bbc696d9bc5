"""Pairs of forecasts and observations: times, amounts, grids, and every mismatch that is refused."""

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xnowcast.data.datasets import synthetic_nwp
from xnowcast.fields.pairing import OBSERVED_RAIN, is_accumulated, pair, rain_per_step, refuse_accumulated, utc_times

START = np.datetime64("2024-06-01T00:00", "ns")
HOUR = np.timedelta64(1, "h")
GRID = {
    "y": ("y", [3000.0, 2000.0, 1000.0, 0.0], {"units": "m"}),
    "x": ("x", [0.0, 1000.0, 2000.0, 3000.0], {"units": "m"}),
}


def forecast(values=None, leads=range(1, 5), runs=1, **attrs):
    """Rain of runs six hours apart, ``(init_time, lead_time, y, x)``; by default each lead time's own number."""
    leads = np.array(list(leads))
    values = np.ones((runs, 1)) * leads if values is None else np.asarray(values, float)
    rain = values[..., None, None] * np.ones((4, 4))
    attrs = {"standard_name": "rainfall_rate", "units": "mm h-1"} | attrs
    coords = {"init_time": START + 6 * np.arange(runs) * HOUR, "lead_time": leads * HOUR.astype("m8[ns]"), **GRID}
    return xr.Dataset({"rr": (("init_time", "lead_time", "y", "x"), rain, attrs)}, coords)


def observed(values, minutes=60, start=START, **attrs):
    """Rain of these values from ``start`` + one step on."""
    times = start + (np.arange(len(values)) + 1) * np.timedelta64(minutes, "m")
    rain = np.asarray(values, "f4")[:, None, None] * np.ones((4, 4), "f4")
    attrs = {"standard_name": "rainfall_rate", "units": "mm h-1"} | attrs
    return xr.Dataset({"rain": (("time", "y", "x"), rain, attrs)}, {"time": times, **GRID})


# ---------------------------------------------------------------- times


def test_each_forecast_meets_what_was_observed_at_its_valid_time():
    pairs = pair(forecast(runs=2), observed(np.arange(1, 13)))
    assert pairs.observed_rain.dims == ("init_time", "lead_time", "y", "x")
    assert pairs.observed_rain[..., 0, 0].values.tolist() == [[1, 2, 3, 4], [7, 8, 9, 10]]
    assert (pairs.time == pairs.init_time + pairs.lead_time).all() and pairs.time.attrs["standard_name"] == "time"
    assert pairs.observed_rain.attrs["units"] == "mm h-1"


def test_lead_times_that_a_model_reads_beside_those_observed_are_kept():
    rain = observed([3, 4], start=START + 2 * HOUR)  # of the third and the fourth hour

    def hours(nwp=None, **options):
        pairs = pair(forecast(leads=range(1, 7)) if nwp is None else nwp, rain, **options)
        known = pairs.observed_rain[0, :, 0, 0]
        assert known.dropna("lead_time").values.tolist() == [3, 4] and pairs.rr.notnull().all()
        return (pairs.lead_time / HOUR).values.tolist()

    assert hours() == [3, 4]
    assert hours(lead_offsets=(-2, -1, 0)) == [1, 2, 3, 4]
    assert hours(lead_offsets=(-1, 0, 1)) == [2, 3, 4, 5]
    assert hours(lead_offsets=[-3, 0, 2]) == [1, 3, 4, 5, 6]
    assert hours(forecast(leads=range(1, 7)).chunk(lead_time=1), lead_offsets=(-2, 0)) == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="lead_offsets"):
        pair(forecast(), rain, lead_offsets=(-0.5, 0))


def test_finer_observations_are_averaged_over_the_step_that_ends_at_the_valid_time():
    # 5, 10 ... 60 min after the start: the first hour has 1 to 12
    pairs = pair(forecast(leads=[1, 2]), observed(np.arange(1, 25), minutes=5))
    assert pairs.observed_rain[0, :, 0, 0].values.tolist() == [6.5, 18.5]
    assert "60 min" in pairs.observed_rain.attrs["cell_methods"]


def test_a_step_with_too_few_observations_is_unknown():
    rain = observed(np.arange(1, 25), minutes=5)
    cut = rain.isel(time=[*range(12), *range(12, 16)])  # four of the twelve frames of the second hour
    assert pair(forecast(leads=[1, 2]), cut).lead_time.size == 1
    pairs = pair(forecast(leads=[1, 2]), cut, min_coverage=0.3)
    assert pairs.observed_rain[0, 1, 0, 0] == np.mean([13, 14, 15, 16])


def test_single_frames_that_are_missing_are_unknown():
    rain = observed(np.arange(1, 13)).drop_sel(time=START + 8 * HOUR)
    pairs = pair(forecast(runs=2), rain)
    assert np.isnan(pairs.observed_rain[1, 1]).all() and int(pairs.observed_rain.isnull().sum()) == 16


def test_a_cell_that_one_frame_did_not_see_is_unknown():
    rain = observed(np.arange(1, 13), minutes=5)
    rain.rain[3, 0, 0] = np.nan
    pairs = pair(forecast(leads=[1]), rain, step="1h")
    assert np.isnan(pairs.observed_rain[0, 0, 0, 0]) and pairs.observed_rain[0, 0, 1, 1] == 6.5


def test_runs_and_lead_times_without_observations_are_left_out():
    pairs = pair(forecast(runs=3), observed([1.0, 2.0]))
    assert pairs.init_time.size == 1 and pairs.lead_time.size == 2


def test_a_dim_of_valid_times_and_one_init_time_do_as_well():
    run = (
        forecast()
        .isel(init_time=0, drop=True)
        .rename(lead_time="time")
        .assign_coords(time=START + np.arange(1, 5) * HOUR)
    )
    run = run.assign_coords(forecast_reference_time=START)
    pairs = pair(run, observed(np.arange(1, 5)))
    assert pairs.lead_time.values.tolist() == (np.arange(1, 5) * HOUR.astype("m8[ns]")).tolist()
    assert pairs.observed_rain[0, :, 0, 0].values.tolist() == [1, 2, 3, 4]


def test_grib_readers_names_are_understood():
    run = forecast(runs=2).rename(init_time="time", lead_time="step")
    run = run.assign_coords(valid_time=run.time + run.step)
    run.time.attrs["standard_name"], run.step.attrs["standard_name"] = "forecast_reference_time", "forecast_period"
    pairs = pair(run, observed(np.arange(1, 13)))
    assert pairs.observed_rain[1, :, 0, 0].values.tolist() == [7, 8, 9, 10] and "valid_time" not in pairs.coords


def test_lead_times_may_be_numbers_with_units():
    run = forecast()
    run = run.assign_coords(lead_time=("lead_time", [1, 2, 3, 4], {"units": "hours"}))
    assert pair(run, observed(np.arange(1, 5))).observed_rain[0, 2, 0, 0] == 3


def test_dates_of_cftime_are_converted_and_other_calendars_refused():
    rain = observed(np.arange(1, 5))
    dates = [cftime.DatetimeGregorian(2024, 6, 1, h) for h in range(1, 5)]
    assert pair(forecast(), rain.assign_coords(time=dates)).observed_rain[0, 1, 0, 0] == 2
    climate = [cftime.Datetime360Day(2024, 6, 1, h) for h in range(1, 5)]
    with pytest.raises(ValueError, match=r"calendar '360_day'.*convert_calendar"):
        pair(forecast(), rain.assign_coords(time=climate))


def test_timestamps_with_a_zone_are_converted_to_utc():
    stamps = xr.DataArray(
        np.array([pd.Timestamp("2024-06-01T09:00", tz="Asia/Seoul")], dtype=object), dims="time", name="time"
    )
    assert utc_times(stamps)[0] == START


def test_a_zone_in_the_attributes_is_refused_with_the_remedy():
    rain = observed(np.arange(1, 5))
    rain.time.attrs["timezone"] = "KST"
    with pytest.raises(ValueError, match=r"time zone 'KST'; times are read in UTC.*assign_coords"):
        pair(forecast(), rain)
    rain.time.attrs["timezone"] = "UTC"
    assert pair(forecast(), rain).observed_rain.notnull().all()


def test_no_common_time_is_refused_with_both_spans():
    with pytest.raises(
        ValueError, match=r"forecast is for 2024-06-01 01:00 to .*observations of 2024-06-01 10:00.*both in UTC"
    ):
        pair(forecast(), observed([1.0, 2.0], start=START + 9 * HOUR))
    with pytest.raises(ValueError, match=r"observations of 2025-\S+ \S+ to 2025-\S+ \S+$"):
        pair(forecast(), observed([1.0, 2.0], start=START + 365 * 24 * HOUR))


def test_observations_that_do_not_divide_the_step_are_refused():
    with pytest.raises(ValueError, match="180 min apart, and a step of the forecast is 60 min"):
        pair(forecast(), observed([1.0, 2.0], minutes=180))


def test_one_lead_time_does_not_tell_the_step():
    with pytest.raises(ValueError, match=r"there is one lead time.*give step="):
        pair(forecast(leads=[3]), observed(np.arange(1, 5)))


def test_what_tells_no_times_is_refused():
    with pytest.raises(ValueError, match="nothing tells when the forecast was started"):
        pair(forecast().isel(init_time=0, drop=True), observed([1.0]))
    with pytest.raises(ValueError, match="nothing tells the lead times"):
        pair(forecast(runs=2).isel(lead_time=0, drop=True), observed([1.0]))
    with pytest.raises(ValueError, match=r"'lead_time' holds int64 without units of time"):
        pair(forecast().assign_coords(lead_time=[1, 2, 3, 4]), observed([1.0]))
    with pytest.raises(ValueError, match="lead times are 1, 2 h apart"):
        pair(forecast(leads=[1, 2, 4]), observed([1.0]))
    with pytest.raises(ValueError, match="lead times repeat"):
        pair(forecast(leads=[1, 1, 2]), observed([1.0]))


def test_times_of_other_names_are_named_with_the_way_to_rename_them():
    named = {"init_time": "analysis", "lead_time": "forecast_hour"}
    nwp = forecast(runs=2).assign_coords(lead_time=[1, 2, 3, 4]).rename(named)
    with pytest.raises(ValueError, match=r"coordinates 'analysis' hold times.*nwp.rename\({'analysis': 'init_time'}\)"):
        pair(nwp, observed([1.0]))
    nwp = nwp.rename(analysis="init_time")
    with pytest.raises(ValueError, match=r"'forecast_hour' may be durations.*{'forecast_hour': 'lead_time'}"):
        pair(nwp, observed([1.0]))
    nwp = nwp.rename(forecast_hour="lead_time")
    nwp.lead_time.attrs["units"] = "hours"
    assert pair(nwp, observed(np.arange(1, 5))).sizes["lead_time"] == 4


# ---------------------------------------------------------------- amounts


def amount(values, **attrs):
    attrs = {"standard_name": "precipitation_amount", "units": "kg m-2"} | attrs
    return forecast([values], leads=range(1, len(values) + 1), **attrs)


def test_rain_since_the_start_of_the_run_becomes_a_rate_of_each_step():
    total = amount([1.0, 3.0, 3.0, 7.5], long_name="total precipitation since start of run")
    rates = rain_per_step(total)
    assert rates.rr[0, :, 0, 0].values.tolist() == [1.0, 2.0, 0.0, 4.5]
    assert rates.rr.attrs["units"] == "mm h-1" and rates.rr.attrs["standard_name"] == "rainfall_rate"


def test_the_first_of_late_lead_times_has_nothing_before_it():
    total = amount([10.0, 11.0, 13.0]).assign_coords(lead_time=np.arange(25, 28) * HOUR.astype("m8[ns]"))
    rates = rain_per_step(total, accumulated=True)
    assert rates.rr[0, :, 0, 0].values.tolist() == [1.0, 2.0] and rates.lead_time.size == 2


def test_amounts_of_three_hours_become_rates_per_hour():
    total = amount([3.0, 9.0]).assign_coords(lead_time=np.array([3, 6]) * HOUR.astype("m8[ns]"))
    assert rain_per_step(total, accumulated=True).rr[0, :, 0, 0].values.tolist() == [1.0, 2.0]
    assert rain_per_step(total, accumulated=False).rr[0, :, 0, 0].values.tolist() == [1.0, 3.0]


def test_metres_are_amounts_too():
    total = amount([0.001, 0.003], units="m", GRIB_stepType="accum")
    np.testing.assert_allclose(rain_per_step(total).rr[0, :, 0, 0], [1.0, 2.0], rtol=1e-6)


def test_an_amount_of_which_nothing_is_told_is_refused():
    with pytest.raises(ValueError, match=r"'rr' is an amount \(kg m-2\).*accumulated=True.*accumulated=False"):
        pair(amount([1.0, 2.0]), observed([1.0, 2.0]))


@pytest.mark.parametrize("accumulated", [True, False])
def test_amounts_that_never_fell_are_refused_and_declared_ones_are_unknown(accumulated):
    filled = amount([1.0, 9999.0, 9999.0, 9999.0])
    with pytest.raises(ValueError, match="goes up to 9999 in its own units"):
        rain_per_step(filled, accumulated=accumulated).rr.load()
    filled.rr.attrs["missing_value"] = 9999.0
    assert rain_per_step(filled, accumulated=accumulated).rr[0, -1].isnull().all()


@pytest.mark.parametrize("on", ["observations", "nwp"])
def test_rates_that_never_fell_are_refused_before_they_are_spread_over_other_cells(on):
    with pytest.raises(ValueError, match="'rr' goes up to 9999 in its own units"):
        pair(forecast([[1, 9999, 1, 1]]), observed(np.arange(1, 5)), on=on).rr.load()
    with pytest.raises(ValueError, match="'rain' goes up to 65535 in its own units"):
        pair(forecast(), observed([1, 65535, 1, 1]), on=on).observed_rain.load()


def test_an_amount_that_falls_was_not_accumulated():
    with pytest.raises(ValueError, match=r"'rr' falls by 2 mm.*accumulated=False"):
        rain_per_step(amount([1.0, 3.0, 1.0]), accumulated=True)
    assert (rain_per_step(amount([1.0, 3.0, 2.98]), accumulated=True).rr >= 0).all()  # packing rounds


def test_accumulated_rain_needs_neighbouring_lead_times():
    with pytest.raises(ValueError, match="lead times are not all one step"):
        rain_per_step(amount([1.0, 2.0, 4.0]).isel(lead_time=[0, 2]), accumulated=True, step="1h")


def test_what_attributes_tell_of_an_amount():
    def told(**attrs):
        return is_accumulated(xr.DataArray(0.0, attrs=attrs))

    assert told(description="ACCUMULATED TOTAL CUMULUS PRECIPITATION") and told(GRIB_stepType="accum")
    assert told(accutime=60.0) is False and told(cell_methods="time: sum (interval: 1 hour)") is False
    assert told(long_name="precipitation") is None


def test_rates_stay_as_they_are():
    rates = forecast()
    xr.testing.assert_identical(rain_per_step(rates), rates)


def test_channels_of_accumulated_rain_are_refused_with_the_remedy():
    total = amount([1.0, 2.0], long_name="accumulated total")
    with pytest.raises(ValueError, match=r"'rr' is accumulated since the start.*rain_per_step"):
        refuse_accumulated(total, ("rainfall_rate",), None)
    refuse_accumulated(total, ("air_temperature at 850 hPa",), None)


def test_channels_of_an_amount_that_nothing_tells_of_are_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"'rr' is an amount, and nothing tells of what.*rain_per_step\(nwp, 'rr', acc"
    ):
        refuse_accumulated(amount([1.0, 2.0]), ("rainfall_rate",), None)
    refuse_accumulated(amount([1.0, 2.0], cell_methods="time: sum (interval: 1 hour)"), ("rainfall_rate",), None)


def test_rain_without_a_standard_name_has_to_be_named():
    total = amount([1.0, 2.0, 4.0], long_name="accumulated total precipitation")
    del total.rr.attrs["standard_name"]
    with pytest.raises(ValueError, match="'rr' may be it: name it, rain='rr'"):
        rain_per_step(total)
    assert rain_per_step(total, "rr").rr.attrs["units"] == "mm h-1"
    water = amount([1.0, 2.0], long_name="precipitable water")
    del water.rr.attrs["standard_name"]
    assert rain_per_step(water) is water


# ---------------------------------------------------------------- grids and units


def test_observations_of_reflectivity_become_rain():
    rain = observed([10 * np.log10(200.0)], standard_name="equivalent_reflectivity_factor", units="dBZ")
    pairs = pair(forecast(leads=[1, 2]), rain)
    assert float(pairs.observed_rain[0, 0, 0, 0]) == pytest.approx(1.0, rel=1e-4)


def finer(rain):
    """The same ground in cells of half the width."""
    inner = np.linspace(3250.0, -250.0, 8)
    fine = rain.isel(y=np.repeat(range(4), 2), x=np.repeat(range(4), 2))
    return fine.assign_coords(y=("y", inner, {"units": "m"}), x=("x", inner[::-1], {"units": "m"}))


def test_both_are_brought_to_the_grid_of_the_observations_or_of_the_forecast():
    rain = observed([1.0, 2.0, 3.0, 4.0])
    rain.rain[:] = rain.rain * np.arange(1, 5)
    fine = finer(rain)
    on_observations = pair(forecast(), fine)
    assert (
        on_observations.sizes["y"] == 8
        and on_observations.nowcast_regrid == "bilinear, on the grid of the observations"
    )
    xr.testing.assert_equal(on_observations.observed_rain[0, 0].drop_vars(["init_time", "lead_time", "time"]).x, fine.x)
    on_nwp = pair(forecast(), fine, on="nwp")
    assert on_nwp.nowcast_regrid == "conservative, on the grid of the nwp"
    np.testing.assert_allclose(on_nwp.observed_rain[0, 0, 0], np.arange(1, 5), rtol=1e-6)
    assert pair(forecast(), fine, on="nwp", regrid="bilinear").nowcast_regrid.startswith("bilinear")


def test_the_grid_and_its_projection_come_from_the_observations():
    nwp, rain = synthetic_nwp(runs=1, leads=2, shape=(16, 16))
    part = rain.isel(y=slice(2, 10), x=slice(3, 12)).rename(crs="laea")
    part.rainfall_rate.attrs["grid_mapping"] = "laea"
    pairs = pair(nwp, part)
    assert pairs.observed_rain.attrs["grid_mapping"] == pairs.t.attrs["grid_mapping"] == "laea"
    assert "laea" in pairs and "crs" not in pairs and pairs.sizes["y"] == 8
    np.testing.assert_allclose(pairs.t, nwp.t.isel(y=slice(2, 10), x=slice(3, 12)), rtol=1e-6)


def test_no_common_area_is_refused():
    away = observed([1.0, 2.0, 3.0, 4.0])
    away = away.assign_coords(y=("y", away.y.values + 1e6, {"units": "m"}))
    with pytest.raises(ValueError, match="no common area"):
        pair(forecast(), away)


def test_staggered_winds_are_refused():
    run = forecast().assign(U=(("init_time", "lead_time", "y", "x_stag"), np.zeros((1, 4, 4, 5))))
    with pytest.raises(ValueError, match="staggered dim 'x_stag'"):
        pair(run, finer(observed(np.arange(1, 5))))


def test_wrong_arguments_are_named():
    rain = observed(np.arange(1, 5))
    with pytest.raises(ValueError, match="on is 'radar'; it can be 'observations' or 'nwp'"):
        pair(forecast(), rain, on="radar")
    with pytest.raises(TypeError, match="DataArray; give a Dataset"):
        pair(forecast().rr, rain)
    with pytest.raises(ValueError, match="there is no variable 'tp'; there are: 'rr'"):
        pair(forecast(), rain, rain="tp")
    with pytest.raises(ValueError, match=r"has a variable 'observed_rain' already"):
        pair(forecast().assign(observed_rain=forecast().rr), rain)


# ---------------------------------------------------------------- xarray


def test_pairs_are_lazy_and_equal_to_those_in_memory(nothing_may_run):
    nwp, rain = synthetic_nwp(runs=2, leads=3, shape=(8, 8))
    with nothing_may_run:
        lazy = pair(nwp, rain)
    xr.testing.assert_allclose(lazy.compute(), pair(nwp.compute(), rain.compute()))
    assert lazy.chunksizes["lead_time"] == (3,)
    known = rain.rainfall_rate.sel(time=lazy.time.values[1, 2])
    np.testing.assert_array_equal(lazy.observed_rain[1, 2], known)


def test_variables_levels_and_members_are_kept():
    nwp, rain = synthetic_nwp(runs=2, leads=2, shape=(16, 16))
    many = nwp.expand_dims(member=[0, 1, 2])
    pairs = pair(many, rain)
    assert set(pairs.data_vars) == {*nwp.data_vars, OBSERVED_RAIN}
    assert pairs.t.dims[:2] == ("init_time", "lead_time") and set(pairs.t.dims) >= {"member", "pressure"}
    assert "member" not in pairs.observed_rain.dims


def test_the_real_forecast_and_analysis_are_paired(shared_data):
    both = xr.open_dataset(shared_data / "nwp_wrf_stage2_20050807.nc", chunks={})
    run = both.drop_vars(["rainfall_rate", "time_bnds"])
    pairs = pair(run, both[["rainfall_rate", "crs"]])
    assert pairs.lead_time.values.tolist() == (np.arange(3, 25, 3) * HOUR.astype("m8[ns]")).tolist()
    np.testing.assert_array_equal(pairs.observed_rain[0], both.rainfall_rate)


def test_times_that_are_a_little_off_are_averaged_too():
    rain = observed(np.arange(1, 25), minutes=5)
    rain = rain.assign_coords(time=rain.time + np.where(np.arange(24) == 11, -20, 0) * np.timedelta64(1, "s"))
    assert pair(forecast(leads=[1, 2]), rain).observed_rain[0, :, 0, 0].values.tolist() == [6.5, 18.5]
