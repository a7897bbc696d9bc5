"""Forecasts and observations of different intervals are averaged or refused; times that nearly match are told."""

import warnings

import numpy as np
import pytest
import xarray as xr

from xnowcast.fields import cf
from xnowcast.verify import align_observations, mae, match_intervals, rmse, scorecard

START = np.datetime64("2024-06-01T12:00", "ns")
MINUTE = np.timedelta64(1, "m").astype("m8[ns]")
GRID = {"y": ("y", np.arange(8)[::-1] * 1e3, {"units": "m"}), "x": ("x", np.arange(8) * 1e3, {"units": "m"})}
RATE = {"standard_name": "rainfall_rate", "units": "mm h-1"}
SUM = {"standard_name": "precipitation_amount", "units": "mm"}


def observed(values, apart=5, attrs=RATE, first=5, bounds=None) -> xr.Dataset:
    """Frames of these values from 12:05 on; ``bounds`` are minutes from the time to both ends."""
    times = START + (first + np.arange(len(values)) * apart) * MINUTE
    rain = np.asarray(values, "f4")[:, None, None] * np.ones((8, 8), "f4")
    ds = xr.Dataset({"rain": (("time", "y", "x"), rain, attrs)}, {"time": times, **GRID})
    if bounds is not None:
        ds.time.attrs["bounds"] = "time_bnds"
        ds["time_bnds"] = (("time", "bnds"), times[:, None] + np.array(bounds) * MINUTE)
    return ds


def forecast(values, apart=5, attrs=RATE, leads=None) -> xr.Dataset:
    """From 12:00, lead times ``apart`` minutes on."""
    leads = (apart * np.arange(1, len(values) + 1) if leads is None else np.array(leads)) * MINUTE
    rain = np.asarray(values, "f4")[None, :, None, None] * np.ones((8, 8), "f4")
    coords = {"init_time": [START], "lead_time": leads, **GRID}
    return xr.Dataset({"rain": (("init_time", "lead_time", "y", "x"), rain, attrs)}, coords)


def errors(obs, fc) -> dict[int, float]:
    """Mean error by lead time in minutes."""
    card = scorecard(obs, fc, scores=["mean_error"], thresholds=[1.0], scales=[1]).compute()
    minutes = (card.lead_time.values / MINUTE).astype(int).tolist()
    return {m: round(float(e), 4) for m, e in zip(minutes, card.mean_error.values, strict=True) if np.isfinite(e)}


HOURLY = observed([4.0, 6.0], apart=60, attrs=SUM, first=60, bounds=(-60, 0))
RISING = np.arange(1, 25)  # of the first hour the mean is 6.5, of the second 18.5


@pytest.mark.parametrize(
    "fc",
    [
        forecast(RISING),
        forecast(RISING, attrs=RATE | {"cell_methods": "time: point"}),
        forecast(RISING, attrs=RATE | {"accutime": 5}),
        forecast(RISING / 12, attrs=SUM),
        forecast(RISING / 12, attrs=SUM | {"accutime": 5}),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_finer_forecasts_are_averaged_over_the_interval_of_the_observations(fc, lazy, nothing_may_run):
    obs, fc = (HOURLY.chunk(time=1), fc.chunk(lead_time=5)) if lazy else (HOURLY, fc)
    if lazy:
        with nothing_may_run:
            scorecard(obs, fc, thresholds=[1.0], scales=[1])
    assert errors(obs, fc) == {60: 2.5, 120: 12.5}


def test_hourly_sums_every_quarter_are_scored_by_their_own_hour():
    obs = observed([4.0] * 8, apart=15, attrs=SUM, first=15, bounds=(-60, 0))
    found = errors(obs, forecast(RISING))
    assert found == {60: 2.5, 75: 5.5, 90: 8.5, 105: 11.5, 120: 14.5}


@pytest.mark.parametrize(
    "obs",
    [
        observed(RISING),
        observed(RISING / 12, attrs=SUM),
        observed(RISING / 12, attrs=SUM, bounds=(-5, 0)),
        observed(RISING / 12, attrs=SUM, bounds=(-5, 0)).isel(time=slice(None, None, -1)),
    ],
    ids=["rates", "sums", "sums with bounds", "sums in falling order"],
)
def test_finer_observations_are_averaged_over_the_interval_of_the_forecasts(obs):
    assert errors(obs, forecast([4.0, 6.0], apart=60, attrs=SUM)) == {60: -2.5, 120: -12.5}
    assert errors(obs, forecast([4.0] * 4, apart=30, attrs=SUM | {"accutime": 60})) == {60: -2.5, 90: -8.5, 120: -14.5}


def test_a_gap_in_what_is_averaged_leaves_out_its_interval_alone():
    obs = observed(RISING).isel(time=[i for i in range(24) if i != 3])
    assert errors(obs, forecast([4.0, 6.0], apart=60, attrs=SUM)) == {120: -12.5}


def test_times_at_the_start_of_the_interval_are_met_at_its_end():
    starts = observed([4.0, 6.0], apart=60, attrs=SUM, first=0, bounds=(0, 60))
    assert errors(starts, forecast(RISING)) == {60: 2.5, 120: 12.5}
    middles = observed([4.0, 6.0], apart=60, attrs=SUM, first=30, bounds=(-30, 30))
    assert errors(middles, forecast(RISING)) == {60: 2.5, 120: 12.5}


def test_a_forecast_made_from_such_times_is_met_by_them_as_they_are():
    starts = observed(np.arange(1, 7) / 12, attrs=SUM, first=0, bounds=(0, 5))
    made = starts.nowcast.forecast("persistence", steps=2, init_times=starts.time.values[2])
    assert errors(starts, made) == {5: -1.0, 10: -2.0}


@pytest.mark.parametrize(
    ("obs", "fc", "message"),
    [
        (
            HOURLY,
            forecast(RISING[:6]),
            "no lead_time that is wanted has all of the 60 min before it",
        ),
        (HOURLY, forecast([1, 2, 3], apart=25), "values 25 min apart do not make up 60 min"),
        (HOURLY, forecast([1.0, 2.0], leads=[60, 65]).isel(lead_time=[0]), "one lead_time, rates of moments"),
        (HOURLY, forecast(RISING, apart=10, attrs=SUM | {"accutime": 5}), "of 5 min each 10 min apart do not make up"),
        (observed([1.0], first=60), forecast([4.0], attrs=SUM | {"accutime": 60}, leads=[60]), "have one time"),
    ],
)
def test_intervals_that_cannot_be_brought_together_are_refused(obs, fc, message):
    with pytest.raises(ValueError, match=message):
        scorecard(obs, fc)


def test_rates_of_moments_meet_means_over_no_more_than_their_step():
    five = observed(RISING / 12, attrs=SUM, bounds=(-5, 0))
    assert errors(five, forecast([6.0, 12.0], apart=30)) == {30: 0.0, 60: 0.0}
    assert errors(five, forecast([6.0], leads=[30])) == {30: 0.0}
    assert errors(HOURLY, forecast([4.0, 6.0], apart=60)) == {60: 0.0, 120: 0.0}


def test_alignment_alone_refuses_what_has_to_be_averaged():
    obs, fc = cf.rain_rate(HOURLY), cf.rain_rate(forecast(RISING))
    with pytest.raises(ValueError, match=r"forecasts are those of moments, and the others of 60 min .*match_intervals"):
        align_observations(obs, fc)
    aligned = align_observations(*match_intervals(obs, fc))
    assert aligned.lead_time.size == 13 and aligned.notnull().any(("y", "x")).sum() == 2


# ---------------------------------------------------------------- times


def test_times_a_rounding_apart_are_scored():
    days = (observed(RISING).time.values - np.datetime64("1900-01-01")) / np.timedelta64(1, "D")
    obs = observed(RISING).assign_coords(time=("time", days, {"units": "days since 1900-01-01"}))
    obs = xr.decode_cf(obs)
    fc = forecast(RISING)
    assert (obs.time.values != fc.init_time.values + fc.lead_time.values).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert errors(obs, fc) == {5 * i: 0.0 for i in range(1, 25)}


def test_scores_of_their_own_take_times_a_rounding_apart_for_the_same():
    rain = cf.rain_rate(observed(RISING))
    off = rain.assign_coords(time=rain.time.values + np.where(np.arange(24) % 2, 2, -3) * np.timedelta64(1, "ns"))
    assert float(rmse(off, rain)) == 0.0
    assert (mae(off, rain, dim=["y", "x"]).time.values == rain.time.values).all()


def test_observations_with_dates_of_cftime_are_scored():
    obs = observed(RISING)
    dates = xr.date_range("2024-06-01T12:05", periods=24, freq="5min", use_cftime=True)
    assert errors(obs.assign_coords(time=dates), forecast(RISING)) == errors(obs, forecast(RISING))


@pytest.mark.parametrize("off", [7, -30, 59])
def test_observations_that_nearly_match_are_left_out_with_a_warning(off):
    obs = observed(RISING)
    moved = np.where(np.arange(24) % 2, off, 0) * np.timedelta64(1, "s")
    obs = obs.assign_coords(time=obs.time.values + moved)
    with pytest.warns(UserWarning, match=f"12 of 24 valid times of the forecasts miss an observation by {abs(off)} s"):
        assert len(errors(obs, forecast(RISING))) == 12


def test_observations_that_all_nearly_match_are_refused_with_the_offset():
    obs = observed(RISING).assign_coords(time=observed(RISING).time.values + np.timedelta64(20, "s"))
    with pytest.raises(ValueError, match=r"no valid time .* was observed: .*24 of 24 .* miss an observation by 20 s"):
        scorecard(obs, forecast(RISING))
    by_less = observed(RISING).assign_coords(time=observed(RISING).time.values + np.timedelta64(2, "s"))
    assert len(errors(by_less, forecast(RISING))) == 24  # within 1 % of the step


def test_observations_that_are_just_finer_or_coarser_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(errors(observed(RISING[:12], apart=10, first=10), forecast(RISING))) == 12
