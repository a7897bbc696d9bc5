"""The synthetic forecast: the balances of its fields, the errors that it is said to have, and reproducibility."""

import numpy as np
import pytest
import xarray as xr

from xnowcast.data.datasets import synthetic_nwp
from xnowcast.fields.channels import find_channels
from xnowcast.fields.pairing import pair
from xnowcast.models.rain_classes import CHANNELS

PERFECT = {"timing_error": 0.0, "random_displacement": 0.0, "damping": 0.0, "drizzle": 0.0, "local_rain": 0.0}


@pytest.fixture(scope="module")
def weather():
    """Twelve runs of one hour, in memory: forecast and observed rain with the same dims."""
    return made()


def made(runs=12, shape=(48, 48), seed=3, **errors):
    nwp, rain = synthetic_nwp(runs=runs, leads=1, shape=shape, seed=seed, **errors)
    nwp = nwp.isel(lead_time=0).compute()
    return nwp, rain.rainfall_rate.rename(time="init_time").assign_coords(init_time=nwp.init_time).compute()


def correlation(a, b):
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def at(nwp, name, level):
    return nwp[name].sel(pressure=level, drop=True)


# ---------------------------------------------------------------- the fields


def test_the_sixteen_variables_of_the_paper_are_there(weather):
    found = find_channels(weather[0], CHANNELS)
    assert len(found) == 16 and all(np.isfinite(array).all() for array in found)


def test_wind_and_height_are_in_geostrophic_balance(weather):
    nwp, _ = weather
    for level in (850, 500):
        dz_dy = at(nwp, "z", level).differentiate("y")
        assert correlation(at(nwp, "u", level), -9.80665 / 1e-4 * dz_dy) > 0.9
        assert correlation(at(nwp, "v", level), 9.80665 / 1e-4 * at(nwp, "z", level).differentiate("x")) > 0.9


def test_temperature_fits_the_thickness(weather):
    nwp, _ = weather
    mean = (at(nwp, "t", 850) + at(nwp, "t", 500)) / 2
    thickness = at(nwp, "z", 500) - at(nwp, "z", 850)
    np.testing.assert_allclose(9.80665 * thickness / (287.05 * np.log(850 / 500)), mean, rtol=1e-4)


def test_it_rains_where_moist_air_converges(weather):
    nwp, rain = weather
    convergence = -(at(nwp, "u", 850).differentiate("x") + at(nwp, "v", 850).differentiate("y"))
    moist = at(nwp, "rh", 850)
    assert correlation(convergence, rain) > 0.3
    assert float((rain >= 0.1).where(moist < 0.5).mean()) < 0.01 < float((rain >= 0.1).where(moist > 0.8).mean())


def test_values_are_those_of_weather(weather):
    nwp, rain = weather
    ranges = {
        "u10": (-35, 35),
        "v10": (-35, 35),
        "t2m": (270, 312),
        "msl": (98500, 104000),
        "rain": (0, 60),
        "u": (-60, 75),
        "v": (-60, 60),
        "t": (205, 300),
        "z": (1300, 16700),
        "rh": (0, 1),
    }
    for name, (low, high) in ranges.items():
        assert low <= float(nwp[name].min()) and float(nwp[name].max()) <= high, name
    assert 0.15 < float((rain >= 0.1).mean()) < 0.45 and 0.002 < float((rain >= 10).mean()) < 0.03
    assert float(rain.max()) < 150


# ---------------------------------------------------------------- the errors


def test_without_errors_the_forecast_is_the_truth_but_for_its_smoothing():
    nwp, rain = made(**PERFECT)
    assert correlation(nwp.rain, rain) > 0.97
    assert float(nwp.rain.mean()) == pytest.approx(float(rain.mean()), rel=0.05)


def test_the_rain_is_ahead_along_the_wind_at_500_hpa_by_the_timing_error():
    nwp, rain = made(**PERFECT | {"timing_error": 30.0})
    matches = {}
    for minutes in (0, 15, 30, 45, -30):
        x = nwp.x - at(nwp, "u", 500) * 60 * minutes
        y = nwp.y - at(nwp, "v", 500) * 60 * minutes
        runs = [
            a.drop_vars(["init_time", "lead_time"], errors="ignore").transpose("init_time", "y", "x")
            for a in (rain, x, y)
        ]
        moved = xr.concat([r.interp(x=x, y=y) for r, x, y in zip(*runs, strict=True)], "init_time")
        known = np.isfinite(moved.values)
        matches[minutes] = correlation(moved.values[known], nwp.rain.values[known])
    assert max(matches, key=matches.__getitem__) == 30 and matches[30] > matches[0] + 0.2


def test_rain_is_missing_where_the_air_is_unstable():
    nwp, rain = made(**PERFECT | {"damping": 0.5})
    lapse = at(nwp, "t", 850) - at(nwp, "t", 500)
    stable, unstable = (rain > 1) & (lapse < 24), (rain > 1) & (lapse > 30)
    kept = [float(nwp.rain.where(where).sum() / rain.where(where).sum()) for where in (stable, unstable)]
    assert kept[0] > 0.9 and 0.4 < kept[1] < 0.65


def test_drizzle_falls_in_nearly_saturated_air():
    nwp, _ = made(**PERFECT | {"drizzle": 0.4})
    without, _ = made(**PERFECT)
    added = nwp.rain - without.rain
    humid = at(nwp, "rh", 850)
    np.testing.assert_allclose(added.where(humid > 0.985).mean(), 0.4, atol=0.02)
    assert abs(added.where(humid < 0.9)).max() < 0.02


def test_random_displacements_differ_from_run_to_run_and_are_told_by_nothing():
    nwp, rain = made(**PERFECT | {"random_displacement": 20.0})
    assert correlation(nwp.rain, rain) < 0.9
    xr.testing.assert_identical(made(**PERFECT)[0].drop_vars("rain").drop_attrs(), nwp.drop_vars("rain").drop_attrs())


def test_local_rain_is_in_the_truth_alone():
    nwp, rain = made(**PERFECT | {"local_rain": 0.5})
    without, calm = made(**PERFECT)
    xr.testing.assert_allclose(nwp.rain, without.rain)
    assert float(rain.mean()) == pytest.approx(float(calm.mean()), rel=0.1) and float(rain.max()) > float(calm.max())


def test_the_errors_stand_in_the_attributes(weather):
    assert weather[0].attrs["synthetic_timing_error"] == 20.0 and weather[0].attrs["synthetic_seed"] == 3


# ---------------------------------------------------------------- reproducible, lazy


def test_runs_do_not_depend_on_how_many_there_are(nothing_may_run):
    with nothing_may_run:
        many, observed = synthetic_nwp(runs=6, leads=2, shape=(16, 20), seed=1)
    few, rain = synthetic_nwp(runs=2, leads=2, shape=(16, 20), seed=1)
    xr.testing.assert_identical(few.compute(), many.isel(init_time=slice(2)).compute())
    xr.testing.assert_identical(rain.compute(), observed.isel(time=slice(4)).compute())
    other, _ = synthetic_nwp(runs=2, leads=2, shape=(16, 20), seed=2)
    assert not np.allclose(other.t, few.t)


def test_hours_of_a_run_follow_each_other():
    nwp = synthetic_nwp(runs=1, leads=6, shape=(48, 48))[0].isel(init_time=0).compute()
    lapse = at(nwp, "t", 850) - at(nwp, "t", 500)
    after = [correlation(lapse[0], lapse[hour]) for hour in (1, 3, 5)]
    assert after[0] > 0.4 and after[0] > after[1] > after[2]


def test_no_valid_time_comes_twice_and_pairs_are_complete():
    nwp, rain = synthetic_nwp(runs=3, leads=6, shape=(8, 8))
    assert rain.indexes["time"].is_unique and rain.sizes["time"] == 18
    assert pair(nwp, rain).observed_rain.notnull().all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"runs": 0}, "runs is 0; it must be a whole number"),
        ({"leads": 7}, "leads is 7; it must be a whole number of 1 or more, up to 6"),
        ({"shape": (4, 64)}, "each at least 8"),
        ({"damping": 2.0}, "damping is 2.0; it must be from 0 to 1"),
        ({"seed": -1}, "seed is -1"),
        ({"timing_error": np.nan}, "timing_error is nan"),
    ],
)
def test_wrong_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        synthetic_nwp(**arguments)
