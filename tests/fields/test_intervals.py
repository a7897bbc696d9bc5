"""How long amounts were collected: whatever tells it, read by every verb and kept by every result."""

import numpy as np
import pytest
import xarray as xr

import xnowcast
from xnowcast import pair
from xnowcast.fields import cf, intervals

START = np.datetime64("2024-06-01T12:00", "ns")
MINUTE = np.timedelta64(1, "m").astype("m8[ns]")
GRID = {
    "y": ("y", np.arange(24)[::-1] * 1e3, {"units": "m"}),
    "x": ("x", np.arange(24) * 1e3, {"units": "m"}),
}


def amounts(apart=15, frames=5, value=4.0, **attrs) -> xr.Dataset:
    """Frames of ``value`` mm each."""
    attrs = {"standard_name": "precipitation_amount", "units": "kg m-2"} | attrs
    rain = np.full((frames, 24, 24), value, "f4")
    times = START + np.arange(frames) * apart * MINUTE
    return xr.Dataset({"rain": (("time", "y", "x"), rain, attrs)}, {"time": times, **GRID})


def bounded(ds, minutes=60, end=0, name="time_bnds", where="attrs") -> xr.Dataset:
    """With time bounds of so many minutes (or one number a frame), ``end`` minutes after the time."""
    ends = ds.time.values + end * MINUTE
    bounds = np.stack([ends - np.asarray(minutes) * MINUTE, ends], 1)
    ds = ds.assign({name: (("time", "bnds"), bounds)})
    getattr(ds.time, where)["bounds"] = name
    return ds


def rates(data) -> list[float]:
    return np.unique(cf.rain_rate(data).values.round(4)).tolist()


# ---------------------------------------------------------------- what tells it


@pytest.mark.parametrize("where", ["attrs", "encoding"])
@pytest.mark.parametrize("end", [0, 30, 60])
def test_time_bounds_tell_the_interval_and_not_the_step(where, end):
    assert rates(bounded(amounts(), end=end, where=where)) == [4.0]
    assert rates(bounded(amounts(apart=60), minutes=5, end=end, where=where)) == [48.0]


@pytest.mark.parametrize("select", [{"time": [2]}, {"time": 2}, {"time": slice(None, None, 3)}])
def test_a_part_of_amounts_with_bounds_is_the_same_rain(select):
    assert rates(bounded(amounts()).isel(select)) == [4.0]


@pytest.mark.parametrize("chunks", [None, {"time": 1}])
def test_bounds_may_be_lazy_coordinates_dates_of_cftime_or_numbers(chunks, tmp_path, nothing_may_run):
    hourly = bounded(amounts())
    hourly = hourly.chunk(chunks) if chunks else hourly
    with nothing_may_run:
        assert cf.find_field(hourly).interval.minutes == 60
    assert rates(hourly.set_coords("time_bnds")) == [4.0]
    hourly.time.encoding["units"] = "minutes since 2024-01-01"
    hourly.compute().to_netcdf(tmp_path / "hourly.nc")
    coder = xr.coders.CFDatetimeCoder(use_cftime=True)
    for how in ({}, {"decode_coords": "all"}, {"decode_times": coder}, {"chunks": {}}):
        with xr.open_dataset(tmp_path / "hourly.nc", **how) as opened:
            assert rates(opened) == [4.0]


@pytest.mark.parametrize("encoding", [{"dtype": "f8"}, {"dtype": "f4", "units": "days since 1970-01-01"}])
def test_bounds_stored_as_floating_point_numbers_have_one_length(encoding, tmp_path):
    hourly = bounded(amounts(frames=9))
    hourly.time.encoding = {"units": "days since 1900-01-01"} | encoding
    hourly.time_bnds.encoding = hourly.time.encoding
    hourly.to_netcdf(tmp_path / "hourly.nc")
    with xr.open_dataset(tmp_path / "hourly.nc") as opened:
        assert rates(opened) == [4.0]


@pytest.mark.parametrize(
    "attrs",
    [
        {"accutime": 60},
        {"accutime": "60"},
        {"accutime": np.array([60.0])},
        {"cell_methods": "time: sum (interval: 1 hour)"},
        {"cell_methods": "area: mean time: sum (interval: 60 minutes comment: rain gauges)"},
        {"cell_methods": "time: sum (interval: 3600 s)"},
        {"cell_methods": "time: sum (interval: 1 hr)", "accutime": 60.0},
    ],
)
def test_attributes_tell_the_interval_where_no_bounds_do(attrs):
    assert rates(amounts(**attrs)) == [4.0]
    assert rates(amounts(**attrs).isel(time=0)) == [4.0]
    assert rates(amounts(**attrs).rain) == [4.0]


@pytest.mark.parametrize("interval", ["5 minutes", "60 s", "1 hour", "5 minutes comment: samples of a gauge"])
def test_cell_methods_beside_a_longer_interval_tell_the_spacing_of_what_was_added_up(interval):
    methods = f"time: sum (interval: {interval})"
    assert rates(bounded(amounts(cell_methods=methods))) == [4.0]
    assert rates(amounts(cell_methods=methods, accutime=60)) == [4.0]
    assert rates(bounded(amounts(cell_methods=methods, accutime=60))) == [4.0]
    mean = bounded(amounts(units="mm h-1", standard_name="rainfall_rate", cell_methods=methods.replace("sum", "mean")))
    assert intervals.of_rate(mean.rain, mean).minutes == 60.0


@pytest.mark.parametrize("attrs", [{}, {"cell_methods": "time: sum"}, {"cell_methods": "area: mean (interval: 1 km)"}])
def test_the_step_of_the_times_tells_it_where_nothing_else_does(attrs):
    assert rates(amounts(**attrs)) == [16.0]
    with pytest.raises(ValueError, match="an amount becomes a rate only with"):
        cf.find_field(amounts(**attrs).isel(time=[0]))


@pytest.mark.parametrize(
    ("ds", "message"),
    [
        (bounded(amounts(accutime=15)), "60 min by its time bounds, and of 15 min by its attribute accutime"),
        (
            bounded(amounts(cell_methods="time: sum (interval: 2 hours)")),
            "60 min by its time bounds, and of 120 min by its cell_methods",
        ),
        (
            bounded(amounts(cell_methods="time: sum (interval: 25 minutes)")),
            "60 min by its time bounds, and of 25 min by its cell_methods",
        ),
        (amounts(accutime=5), "5 min by its attribute accutime, but its times are 15 min apart"),
        (amounts(accutime="hourly"), "accutime='hourly'; it is the length of an amount's interval in minutes"),
        (amounts(accutime=-5), "a number above 0"),
        (bounded(amounts(), minutes=[60, 60, 15, 60, 60]), "15 min at 2024-06-01T12:30:00, 60 min at most others"),
        (bounded(amounts()).drop_vars("time_bnds"), "time bounds 'time_bnds' tell, and these are not here"),
        (bounded(amounts()).rain, "a DataArray cannot hold them"),
        (amounts(long_name="rain since the start of the run"), "rain_per_step"),
    ],
)
def test_what_contradicts_itself_or_is_lost_is_refused(ds, message):
    with pytest.raises(ValueError, match=message):
        cf.find_field(ds)


def test_bounds_of_a_rate_change_nothing():
    for minutes in (60, [60, 60, 15, 60, 60]):
        ds = bounded(amounts(units="mm h-1", standard_name="rainfall_rate"), minutes)
        assert rates(ds) == [4.0]
        assert rates(ds.rain) == [4.0]


# ---------------------------------------------------------------- forecasts


def other_packages_forecast(leads=(5, 10, 15), runs=2, **attrs) -> xr.Dataset:
    """Amounts along (time, step), as GRIB readers call them; runs six hours apart."""
    attrs = {"units": "mm", "standard_name": "precipitation_amount"} | attrs
    coords = {"time": START + np.arange(runs) * 360 * MINUTE, "step": np.array(leads) * MINUTE, **GRID}
    values = np.ones((runs, len(leads), 24, 24))
    return xr.Dataset({"rain": (("time", "step", "y", "x"), values, attrs)}, coords)


def test_an_amount_forecast_by_another_package_is_that_of_its_lead_times():
    assert rates(other_packages_forecast()) == [12.0]
    assert rates(other_packages_forecast(leads=(65, 70, 75))) == [12.0]
    assert rates(other_packages_forecast(leads=(60,), accutime=60)) == [1.0]
    hours = other_packages_forecast().assign_coords(step=("step", [0.25, 0.5, 0.75], {"units": "hours"}))
    assert rates(hours) == [4.0]


def test_lead_times_that_leave_the_interval_open_are_refused():
    with pytest.raises(ValueError, match="lead times are 5 min, 10 min apart"):
        cf.find_field(other_packages_forecast(leads=(5, 10, 20)))
    with pytest.raises(ValueError, match="becomes a rate only with"):
        cf.find_field(other_packages_forecast().isel(step=1))


def test_an_amount_since_the_start_is_that_of_one_lead_time_or_refused():
    total = {"GRIB_stepType": "accum"}
    assert rates(other_packages_forecast(leads=(120,), **total)) == [0.5]
    assert rates(other_packages_forecast(leads=(60, 120), **total).isel(step=1)) == [0.5]
    with pytest.raises(ValueError, match=r"accumulated since the start of the run.*rain_per_step\(ds, 'rain', acc"):
        cf.find_field(other_packages_forecast(**total))
    growing = bounded(amounts(), minutes=15 * np.arange(1, 6))
    with pytest.raises(ValueError, match="accumulated since the start of the run"):
        cf.find_field(growing)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_forecast_of_hourly_sums_every_quarter_is_hourly_sums(lazy):
    hourly = bounded(amounts(cell_methods="time: sum"))
    hourly = hourly.chunk(time=1) if lazy else hourly
    with pytest.warns(UserWarning, match="values of 60 min every 15 min"):
        fc = hourly.nowcast.forecast("persistence", lead_time="45min")
    assert fc.rain.attrs["accutime"] == 60 and fc.rain.attrs["cell_methods"] == "time: sum"
    assert "overlaps" in fc.attrs["nowcast_overlap"]
    for part in (fc, fc.rain, fc.isel(lead_time=1), fc.isel(lead_time=[2]), fc.isel(init_time=0)):
        assert rates(part) == [4.0]
    np.testing.assert_allclose(fc.rain, 4.0, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:variable 'rain' is forecast")
def test_rates_made_of_amounts_say_what_they_are_the_mean_of():
    read = cf.rain_rate(bounded(amounts(cell_methods="time: sum")))
    assert read.attrs["cell_methods"] == "time: mean" and read.attrs["accutime"] == 60
    assert read.attrs["standard_name"] == "rainfall_rate"
    fc = bounded(amounts(units="mm h-1", standard_name="rainfall_rate")).nowcast.forecast("persistence", steps=1)
    assert fc.rain.attrs["accutime"] == 60


def test_other_verbs_keep_the_interval():
    hourly = bounded(amounts())
    finer = hourly.nowcast.downscale("nearest", factor=2)
    moved = xnowcast.regrid.regrid(hourly, hourly.isel(x=slice(4, 20)))
    for made in (hourly.nowcast.coarsen(4), finer, finer.rain, moved):
        assert rates(made) == [4.0]


def test_an_hourly_amount_is_a_channel_as_it_is_a_field():
    from xnowcast.fields.channels import find_channel

    hourly = bounded(amounts())
    assert float(find_channel(hourly, "precipitation_amount")[0, 0, 0]) == 4.0


# ---------------------------------------------------------------- pairs


def forecast_of_rates(leads=(60, 120), **attrs) -> xr.Dataset:
    attrs = {"standard_name": "rainfall_rate", "units": "mm h-1"} | attrs
    coords = {"init_time": [START], "lead_time": np.array(leads) * MINUTE, **GRID}
    return xr.Dataset({"rr": (("init_time", "lead_time", "y", "x"), np.ones((1, len(leads), 24, 24)), attrs)}, coords)


def test_sums_that_overlap_are_paired_one_after_another():
    rain = amounts(apart=15, frames=9)
    rain["rain"] = rain.rain * xr.DataArray(np.arange(9), dims="time")  # 0, 4, 8 ... mm in the hour before
    hourly = pair(forecast_of_rates(), bounded(rain)).observed_rain
    assert hourly[0, :, 0, 0].values.tolist() == [16.0, 32.0]
    half = pair(forecast_of_rates(), bounded(rain, minutes=30)).observed_rain  # mm in half an hour
    assert half[0, :, 0, 0].values.tolist() == [(8 + 16) / 2 * 2, (24 + 32) / 2 * 2]
    with pytest.raises(ValueError, match=r"observations are of 60 min each, and a step of the forecast is 15 min"):
        pair(forecast_of_rates(leads=(15, 30)), bounded(rain))


def test_the_interval_of_a_forecasts_amount_is_its_step_in_a_pair():
    rain = amounts(apart=15, frames=13).assign_coords(time=START + np.arange(13) * 30 * MINUTE)
    rain["rain"] = rain.rain * xr.DataArray(np.arange(13), dims="time")
    nwp = forecast_of_rates(leads=(180, 360), units="mm", standard_name="precipitation_amount", accutime=60)
    pairs = pair(nwp, rain)  # 8 mm/h more every half hour
    assert pairs.observed_rain[0, :, 0, 0].values.tolist() == [44.0, 92.0]
    assert float(pairs.rr[0, 0, 0, 0]) == 1.0
    with pytest.raises(ValueError, match=r"step is 3h, and by its time bounds or attributes the rain .* 60 min"):
        pair(nwp, rain, step="3h")


def test_an_amount_with_bounds_is_a_rate_by_them_and_not_by_the_lead_times():
    run = bounded(amounts(apart=15)).assign_coords(init_time=START - 15 * MINUTE)
    assert np.unique(xnowcast.pairing.rain_per_step(run).rain).tolist() == [4.0]


def test_what_makes_up_a_longer_interval():
    parts = intervals.parts
    assert parts(60 * MINUTE, 5 * MINUTE, None) == (12, 1)
    assert parts(60 * MINUTE, 5 * MINUTE, 15 * MINUTE) == (4, 3)
    for whole, spacing, own in ((60, 25, None), (60, 10, 5), (60, 15, 40), (5, 60, None)):
        with pytest.raises(ValueError, match="do not make up"):
            parts(whole * MINUTE, spacing * MINUTE, None if own is None else own * MINUTE)


@pytest.mark.parametrize("known", [slice(0, 1), slice(12, 13), slice(3, 5)])
def test_time_bounds_that_were_masked_with_the_field_are_those_that_are_known(known):
    ds = bounded(amounts())
    mask = xr.zeros_like(ds.rain, bool)
    mask[:, known, known] = True
    np.testing.assert_array_equal(cf.rain_rate(ds.where(mask)), xr.full_like(ds.rain, 4.0).where(mask))
    lazy = ds.where(mask.chunk())
    if known.start == 3:
        with pytest.raises(ValueError, match="'time_bnds' are masked along y, x: mask the variable alone"):
            cf.find_field(lazy)
    else:
        assert cf.find_field(lazy).interval.minutes == 60.0


# ---------------------------------------------------------------- the distance of times


@pytest.mark.parametrize("frames", [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [0, 1, 4], [0, 2, 3]])
def test_the_order_of_times_and_gaps_of_whole_steps_change_no_amount(frames):
    assert rates(amounts().isel(time=frames)) == [16.0]


def test_a_break_between_two_events_does_not_tell_the_step():
    later = amounts()
    later["time"] = later.time + np.timedelta64(26 * 60 + 7, "m")
    assert rates(xr.concat([amounts(), later], "time")) == [16.0]


@pytest.mark.parametrize("minutes", [[0, 30, 75], [0, 30, 60, 105], [0, 15, 31, 45], [0, 15, 20, 30, 45]])
def test_an_amount_whose_times_have_no_common_step_is_refused_unless_something_tells_its_interval(minutes):
    ds = amounts(frames=len(minutes))
    ds["time"] = START + np.array(minutes) * MINUTE
    with pytest.raises(ValueError, match=r"'rain' is an amount, and its times are .* min apart, which leaves open"):
        cf.find_field(ds)
    assert rates(bounded(ds)) == [4.0]
    assert rates(ds.assign(rain=ds.rain.assign_attrs(accutime=60))) == [4.0]
    assert rates(ds.assign(rain=ds.rain.assign_attrs(units="mm h-1", standard_name="rainfall_rate"))) == [4.0]


@pytest.mark.parametrize("seconds", [[1, 3, 0, 2, 1], [0, 8, 0, 8, 0]])
def test_times_a_few_seconds_beside_their_axis_change_no_amount(seconds):
    ds = amounts()
    ds["time"] = ds.time + np.array(seconds) * np.timedelta64(1, "s")
    np.testing.assert_allclose(cf.rain_rate(ds), 16.0, rtol=0.01)
