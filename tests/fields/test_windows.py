"""Input windows: which frames a forecast reads, and what is said about times that will not do."""

import datetime

import cftime
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import xnowcast  # noqa: F401  (registers the accessor)
from xnowcast.fields import cf, windows
from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity

START = np.datetime64("2024-06-01T12:00", "ns")


def clock(*minutes) -> np.ndarray:
    return START + np.array(minutes) * np.timedelta64(1, "m")


def axis(*minutes) -> windows.TimeAxis:
    return windows.time_axis(radar(*minutes), "time")


def radar(*minutes) -> xr.DataArray:
    """Frames of a uniform field that holds the minute of its time, in mm h-1."""
    values = np.broadcast_to(np.array(minutes, "f4")[:, None, None], (len(minutes), 8, 8))
    return xr.DataArray(values, {"time": clock(*minutes)}, ("time", "y", "x"), "rr", {"units": "mm h-1"})


def minutes_of(times) -> list[int]:
    return ((np.asarray(times) - START) // np.timedelta64(1, "m")).tolist()


class Mean:
    """The mean of the three newest frames."""

    task = Task("forecast", input_frames=3)
    transform = Identity()

    def forecast(self, frames, observed, steps, noise=None):
        return frames.mean(dim=1, keepdim=True).expand(-1, steps, -1, -1, -1)


class Oldest(Mean):
    """The oldest of three frames."""

    def forecast(self, frames, observed, steps, noise=None):
        return torch.cat([frames[:, :1]] * steps, dim=1)


# ---------------------------------------------------------------- the axis


@pytest.mark.parametrize(
    ("minutes", "step", "slots"),
    [
        ((0, 5, 10), 5, [0, 1, 2]),
        ((0, 5, 10, 25, 30), 5, [0, 1, 2, 5, 6]),
        ((0, 10, 15), 5, [0, 2, 3]),  # one gap among two distances: the smaller is the step
        ((0, 5, 25, 40), 5, [0, 1, 5, 8]),
        ((0, 30), 30, [0, 1]),
    ],
)
def test_the_step_is_the_commonest_distance_and_gaps_are_whole_steps(minutes, step, slots):
    found = axis(*minutes)
    assert found.step == np.timedelta64(step, "m") and found.slots.tolist() == slots


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_any_resolution_of_times_will_do(unit):
    array = radar(0, 5, 10)
    array = array.assign_coords(time=array.time.values.astype(f"M8[{unit}]"))
    found = windows.time_axis(array, "time")
    assert found.times.dtype == "M8[ns]" and found.step == np.timedelta64(5, "m")


def test_irregular_times_are_refused_and_the_remedy_works():
    array = radar(0, 5, 11, 15, 20, 25)
    with pytest.raises(
        ValueError, match=r"the step is 5 min, but 2024-06-01 12:11 follows .*12:05 after 6 min"
    ) as caught:
        windows.time_axis(array, "time")
    remedy = str(caught.value).split("for example ")[1]
    repaired = eval(remedy, {"ds": array})
    assert minutes_of(windows.time_axis(repaired, "time").times) == [0, 5, 10, 15, 20, 25]
    assert repaired.sel(time=clock(10))[0, 0, 0] == 11


def test_one_frame_out_of_place_does_not_make_the_step():
    with pytest.raises(ValueError, match="the step is 5 min, but"):
        axis(0, 5, 12, 15)


@pytest.mark.parametrize(
    ("minutes", "message"),
    [
        ((0, 5, 5, 10), r"12:05 stands twice: drop one with ds.drop_duplicates\('time'\)"),
        ((0, 10, 5), r"the times fall after 2024-06-01 12:10: sort them with ds.sortby\('time'\)"),
        ((0,), "there is 1 time on 'time'"),
        ((), "there is 0 time on 'time'"),
    ],
)
def test_times_that_will_not_do_are_named(minutes, message):
    with pytest.raises(ValueError, match=message):
        axis(*minutes)


def test_a_field_without_times_is_refused():
    with pytest.raises(ValueError, match="has no time axis"):
        radar(0, 5).isel(time=0).nowcast.forecast("persistence")
    with pytest.raises(ValueError, match="dim 'time' has no coordinate"):
        radar(0, 5).drop_vars("time").nowcast.forecast("persistence")


@pytest.mark.parametrize("values", [[0, 5], [0.0, 5.0], ["a", "b"], [object(), object()]])
def test_times_that_are_no_times_are_refused(values):
    array = radar(0, 5).assign_coords(time=("time", values))
    with pytest.raises(ValueError, match=r"not times: decode it with xr.decode_cf"):
        array.nowcast.forecast("persistence")


def test_missing_times_are_refused():
    array = radar(0, 5, 10).assign_coords(time=[*clock(0, 5), np.datetime64("NaT")])
    with pytest.raises(ValueError, match=r"holds 1 missing times \(NaT\)"):
        array.nowcast.forecast("persistence")


def cftime_radar(calendar, units="mm h-1") -> xr.DataArray:
    dates = xr.date_range("2024-06-01T12:00", periods=3, freq="5min", calendar=calendar, use_cftime=True)
    return radar(0, 5, 10).assign_coords(time=dates).assign_attrs(units=units)


@pytest.mark.parametrize("calendar", ["standard", "proleptic_gregorian"])
@pytest.mark.parametrize("units", ["mm h-1", "mm"])
def test_cftime_dates_of_the_real_calendar_are_read(calendar, units):
    pytest.importorskip("cftime")
    fc = cftime_radar(calendar, units).nowcast.forecast("persistence", steps=1, init_times="2024-06-01T12:05")
    assert fc.valid_time.dtype.kind == "M" and minutes_of(fc.valid_time) == [[10]]
    np.testing.assert_allclose(fc, 5.0, rtol=1e-6)


@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_cftime_dates_of_a_climate_models_calendar_are_refused_and_the_remedy_works(calendar):
    pytest.importorskip("cftime")
    with pytest.raises(ValueError, match=f"calendar '{calendar}'.*which is no calendar that radars keep") as caught:
        cftime_radar(calendar).nowcast.forecast("persistence")
    remedy = str(caught.value).split("convert them with ")[1].replace("ds.", "ds.to_dataset().")
    converted = eval(remedy, {"ds": cftime_radar("noleap")})
    assert converted.nowcast.forecast("persistence", variable="rr", steps=1).rr[0, 0, 0, 0] == 10


# ---------------------------------------------------------------- rounding


def stored(units, dtype, minutes=range(0, 60, 5)) -> xr.Dataset:
    """As a file gives it back whose times are such numbers."""
    times = xr.Variable("time", clock(*minutes), encoding={"units": units, "dtype": dtype, "calendar": "standard"})
    numbers = xr.conventions.encode_cf_variable(times)
    rain = radar(*minutes).drop_vars("time").assign_attrs(standard_name="rainfall_rate")
    return xr.decode_cf(rain.assign_coords(time=numbers).to_dataset())


@pytest.mark.parametrize("epoch", ["1970-01-01", "1900-01-01", "2024-01-01", "1858-11-17"])
@pytest.mark.parametrize("unit", ["days", "hours", "seconds"])
def test_times_stored_as_doubles_are_those_that_were_meant(unit, epoch):
    ds = stored(f"{unit} since {epoch}", "f8")
    fc = ds.nowcast.forecast("persistence", steps=1, init_times=slice("2024-06-01T12:10", "2024-06-01T12:20"))
    assert (fc.init_time.values == clock(10, 15, 20)).all() and (fc.valid_time.values[:, 0] == clock(15, 20, 25)).all()
    assert minutes_of(ds.nowcast.forecast("persistence", steps=1, init_times=ds.time.values[3]).init_time) == [15]


@pytest.mark.parametrize(
    ("units", "kept"),
    [
        ("days since 1970-01-01", True),
        ("days since 1970-01-01", False),
        ("days since 2024-01-01", False),
        ("hours since 1970-01-01", True),
        ("seconds since 1970-01-01", True),
        ("minutes since 2024-06-01", False),
    ],
)
@pytest.mark.parametrize("minutes", [range(0, 60, 5), (0, 5, 10, 15, 30, 35, 40, 45, 50, 55)])
def test_times_stored_in_single_precision_are_put_on_the_only_axis_that_they_can_mean(units, kept, minutes):
    """The file's encoding tells how coarse they are, else their own distances do."""
    ds = stored(units, "f4", minutes)
    if not kept:
        ds.time.encoding.clear()
    assert minutes_of(windows.time_axis(cf.find_field(ds).array, "time").times) == list(minutes)


@pytest.mark.parametrize("units", ["days since 1900-01-01", "hours since 1900-01-01", "days since 1970-01-01"])
def test_times_too_coarse_to_tell_their_step_are_refused(units):
    ds = stored(units, "f4", (0, 5, 10) if "1970" in units else (0, 10, 20, 30))
    with pytest.raises(ValueError, match=r"as they were stored \(as float32\) they are true to"):
        windows.time_axis(ds.rr, "time")


def test_a_time_a_second_or_two_beside_the_others_is_on_their_axis():
    late = radar(0, 5, 10, 15, 20)
    late = late.assign_coords(time=late.time.values + np.array([0, 1, -2, 0, 2]) * np.timedelta64(1, "s"))
    assert minutes_of(windows.time_axis(late, "time").times) == [0, 5, 10, 15, 20]
    regular = radar(0, 5, 10).assign_coords(time=clock(0, 5, 10) + np.timedelta64(7, "s"))
    assert (windows.time_axis(regular, "time").times == regular.time.values).all()


@pytest.mark.parametrize("verb", ["deblur", "downscale", "rain_rate"])
def test_every_verb_gives_times_without_the_rounding_of_their_storage(verb, toy_models):
    ds = stored("days since 1900-01-01", "f8")
    assert (ds.time.values != clock(*range(0, 60, 5))).any()
    made = {
        "deblur": lambda: ds.nowcast.deblur("noisy-sharpener"),
        "downscale": lambda: ds.nowcast.downscale("nearest", factor=2),
        "rain_rate": lambda: cf.rain_rate(ds),
    }[verb]()
    assert (made.time.values == clock(*range(0, 60, 5))).all()


def test_lead_times_in_floating_point_hours_are_whole_seconds():
    ds = xr.Dataset(coords={"lead_time": ("lead_time", np.arange(1, 4) / 12, {"units": "hours"})})
    found = windows.durations(ds.lead_time)
    assert found.tolist() == [300 * 10**9, 600 * 10**9, 900 * 10**9]


# ---------------------------------------------------------------- init times


ANY = axis(0, 5, 10, 15, 20, 25, 30)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("latest", [30]),
        ("all", [10, 15, 20, 25, 30]),
        ("2024-06-01T12:15", [15]),
        (np.datetime64("2024-06-01T12:15"), [15]),
        (pd.Timestamp("2024-06-01T12:15"), [15]),
        (datetime.datetime(2024, 6, 1, 12, 15), [15]),
        ("2024-06-01T12:15Z", [15]),
        (pd.Timestamp("2024-06-01T14:15", tz="Europe/Helsinki") + pd.Timedelta("1h"), [15]),
        (["2024-06-01T12:25", "2024-06-01T12:15"], [25, 15]),
        (clock(10, 30), [10, 30]),
        (xr.DataArray(clock(10, 30), dims="time"), [10, 30]),
        (xr.DataArray(clock(10)[0]), [10]),
        (pd.DatetimeIndex(clock(10, 30)), [10, 30]),
        (slice(None), [10, 15, 20, 25, 30]),
        (slice("2024-06-01T12:15", "2024-06-01T12:25"), [15, 20, 25]),
        (slice("2024-06-01T12:11", "2024-06-01T12:24"), [15, 20]),
        (slice("2024-06-01T12:10", None, "10min"), [10, 20, 30]),
        (slice("2024-06-01T12:10", None, 3), [10, 25]),
        (slice(None, "2024-06-01T12:20", "10min"), [10, 20]),
        (slice("2024-06-01T12:15Z", None), [15, 20, 25, 30]),
        (slice("2024-06-01T14:15+02:00", "2024-06-01T12:20Z"), [15, 20]),
        (slice("2024-06-01T14:15+02", "2024-06-01T14:20 +0200"), [15, 20]),
        (slice(None, "2024-06-01T14+02:00", "10min"), [10, 20, 30]),
        (slice(pd.Timestamp("2024-06-01T14:15", tz="Europe/Berlin"), None, "10min"), [15, 25]),
        (slice(datetime.datetime(2024, 6, 1, 12, 25, tzinfo=datetime.UTC), None), [25, 30]),
        (slice(np.datetime64("2024-06-01T12:20"), np.datetime64("2024-06-01T12:25")), [20, 25]),
        (slice(cftime.DatetimeGregorian(2024, 6, 1, 12, 20), None), [20, 25, 30]),
        (cftime.DatetimeGregorian(2024, 6, 1, 12, 20), [20]),
        (["2024-06-01T14:25+02:00", np.datetime64("2024-06-01T12:15")], [25, 15]),
        (clock(10)[0] + np.timedelta64(3, "ns"), [10]),
    ],
)
def test_init_times_may_be_asked_for_in_many_ways(asked, given):
    assert minutes_of(windows.input_windows(ANY, 3, asked).init_times) == given


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("2024-06-01T12:12", "init time 2024-06-01 12:12 is not in the data, .*the nearest is 2024-06-01 12:10"),
        (
            ["2024-06-01T12:10", "2025-01-01"],
            "2025-01-01 00:00 is not in the data, .*the nearest is 2024-06-01 12:30",
        ),
        (["2024-06-01T12:15"] * 2, "init time 2024-06-01 12:15 is asked for twice"),
        ("2024-06-01T12:05", "reads 3 frames, and fewer lie at or before the init time 2024-06-01 12:05"),
        (slice("2024-06-01T12:00", None), "the data begin at 2024-06-01 12:00"),
        (slice("2024-06-01T13:00", None), "the data run from 2024-06-01 12:00 to 2024-06-01 12:30"),
        (slice(None, None, "7min"), "the step of init_times is 7min; it must be a multiple of the data's 5 min"),
        (slice(None, None, 0), "the step of init_times is 0"),
        (slice(None, None, -1), "the step of init_times is -1"),
        (slice(0, 3), "is no slice of times"),
        ([], "init_times is empty"),
        ("first", "init_times is 'first'; it can be 'latest', 'all', a time such as"),
        (3, "init_times is 3; it can be"),
        ([0, 1], "it can be 'latest'"),
        (None, "init_times is None; it can be"),
        (pd.NaT, "it can be 'latest'"),
    ],
)
def test_init_times_that_will_not_do_are_named(asked, message):
    with pytest.raises(ValueError, match=message):
        windows.input_windows(ANY, 3, asked)


def test_fewer_frames_than_the_model_reads_are_refused():
    with pytest.raises(ValueError, match="the model reads 4 frames, and there are 3"):
        windows.input_windows(axis(0, 5, 10), 4)


# ---------------------------------------------------------------- gaps

GAPPY = (0, 5, 10, 15, 25, 30, 35, 40)  # 20 is missing


def test_a_window_across_a_gap_is_refused():
    with pytest.raises(ValueError, match=r"2 of 6 forecasts .*the first, of 2024-06-01 12:25, misses .*12:20"):
        windows.input_windows(axis(*GAPPY), 3, "all")
    assert minutes_of(windows.input_windows(axis(*GAPPY), 3, ["2024-06-01T12:15"]).init_times) == [15]
    with pytest.raises(ValueError, match=r"on_gap is .*; it can be 'raise', 'skip' or 'fill'"):
        windows.input_windows(axis(*GAPPY), 3, on_gap=np.array(["skip", "fill"]))
    with pytest.raises(ValueError, match="on_gap is 'ignore'; it can be 'raise', 'skip' or 'fill'"):
        windows.input_windows(axis(*GAPPY), 3, on_gap="ignore")


def test_skipping_leaves_out_the_forecasts_across_a_gap_and_says_so():
    fc = radar(*GAPPY).nowcast.forecast(Mean(), steps=1, init_times="all", on_gap="skip")
    assert minutes_of(fc.init_time) == [10, 15, 35, 40]
    assert fc[:, 0, 0, 0].values.tolist() == [5, 10, 30, 35]
    assert fc.attrs["nowcast_skipped_init_times"] == "2024-06-01T12:25:00, 2024-06-01T12:30:00"
    with pytest.raises(ValueError, match="every one of the 1 forecasts would read across a gap"):
        radar(*GAPPY).nowcast.forecast(Mean(), init_times="2024-06-01T12:25", on_gap="skip")


@pytest.mark.parametrize("chunks", [None, 1, 3])
def test_filling_is_linear_in_time(chunks):
    field = radar(*GAPPY)
    field = field.chunk(time=chunks) if chunks else field
    fc = field.nowcast.forecast(Mean(), steps=1, init_times="all", on_gap="fill").compute()
    assert minutes_of(fc.init_time) == [10, 15, 25, 30, 35, 40]
    # 12:20 is filled from 12:15 and 12:25, also at 12:30, whose window begins with it.
    np.testing.assert_allclose(fc[:, 0, 0, 0], [5, 10, 20, 25, 30, 35], rtol=1e-6)


def test_a_longer_gap_is_filled_in_proportion():
    squares = radar(0, 5, 20, 25, 30).copy(data=np.ones((5, 8, 8), "f4") * np.array([0, 9, 36, 1, 1.0])[:, None, None])
    fc = squares.nowcast.forecast(Oldest(), steps=1, init_times=["2024-06-01T12:20"], on_gap="fill")
    np.testing.assert_allclose(fc, 9 + (36 - 9) / 3)  # 10 and 15 are missing; 05 lies before the window
    four = type("OldestOfFour", (Oldest,), {"task": Task("forecast", input_frames=4)})
    third = type("Third", (four,), {"forecast": lambda self, f, o, s, n=None: f[:, 2:3].repeat(1, s, 1, 1, 1)})
    fc = squares.nowcast.forecast(third(), steps=1, init_times=["2024-06-01T12:20"], on_gap="fill")
    np.testing.assert_allclose(fc, 9 + (36 - 9) * 2 / 3)


def test_filling_keeps_what_was_not_measured_and_writes_to_nobodys_data():
    field = radar(*GAPPY)
    field = field.copy(data=field.values.copy())
    field[3, 0, 0] = np.nan
    before = field.copy(deep=True)
    fc = field.nowcast.forecast(Oldest(), steps=1, init_times=["2024-06-01T12:30"], on_gap="fill")
    assert fc.notnull().all()
    xr.testing.assert_identical(field, before)


def test_strides_of_a_slice_begin_at_its_start_even_where_that_frame_is_missing():
    asked = slice("2024-06-01T12:20", None, "10min")
    assert minutes_of(windows.input_windows(axis(*GAPPY), 1, asked).init_times) == [30, 40]


# ---------------------------------------------------------------- lead times


@pytest.mark.parametrize(
    "asked",
    [
        {"lead_time": "30min"},
        {"lead_time": "0.5h"},
        {"lead_time": datetime.timedelta(minutes=30)},
        {"lead_time": np.timedelta64(30, "m")},
        {"lead_time": pd.Timedelta("30min")},
        {"steps": 6},
        {"steps": np.int64(6)},
    ],
)
def test_the_lead_time_may_be_a_duration_or_steps(asked):
    fc = radar(0, 5).nowcast.forecast("persistence", **asked)
    assert fc.lead_time.dtype.kind == "m"
    assert (fc.lead_time / np.timedelta64(1, "m")).values.tolist() == [5, 10, 15, 20, 25, 30]


def test_one_hour_is_the_default():
    assert windows.lead_steps(np.timedelta64(5, "m")) == 12
    with pytest.raises(ValueError, match=r"60 min \(the default\) is no multiple of the data's step of 7 min"):
        windows.lead_steps(np.timedelta64(7, "m"))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"lead_time": "12min"}, "lead time of 12min is no multiple of the data's step of 5 min"),
        ({"lead_time": "2min"}, "no multiple of the data's step of 5 min"),
        ({"lead_time": 30}, "the bare number 30; write it with its unit"),
        ({"lead_time": "30"}, "the bare number 30; write it with its unit"),
        ({"lead_time": "soon"}, "'soon', which is no duration"),
        ({"lead_time": "-5min"}, "must be longer than zero"),
        ({"lead_time": "0min"}, "must be longer than zero"),
        ({"lead_time": "1h", "steps": 12}, "give one of them"),
        ({"steps": 0}, "steps is 0; it must be a whole number of 1 or more"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"steps": True}, "steps is True"),
        ({"steps": "6"}, "steps is '6'"),
    ],
)
def test_lead_times_that_will_not_do_are_named(asked, message):
    with pytest.raises(ValueError, match=message):
        radar(0, 5).nowcast.forecast("persistence", **asked)
