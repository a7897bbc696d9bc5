"""Structure, amplitude and location: hand-worked cases, pysteps where it agrees, invariances, errors."""

import numpy as np
import pytest
import xarray as xr

from xnowcast.verify.objects import object_free_fraction, sal, sal_sums


def plane(*rectangles, shape=(30, 40)):
    """A field (y, x) of rectangles (y, x, height, width, value)."""
    field = np.zeros(shape)
    for y, x, height, width, value in rectangles:
        field[y : y + height, x : x + width] = value
    return xr.DataArray(field, dims=("y", "x"))


def values(scores):
    return {name: float(value) for name, value in scores.items()}


def blobs(seed, n=3, shape=(96, 120)):
    """Well separated round objects, each larger than the smallest that pysteps keeps."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    field = np.zeros(shape)
    for i in range(n):
        at_y, at_x = rng.uniform(20, 76), 20 + 40 * i + rng.uniform(-3, 3)
        field += rng.uniform(5, 20) * np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / rng.uniform(30, 60))
    return xr.DataArray(np.where(field > 0.1, field, 0), dims=("y", "x"))


@pytest.fixture
def rain():
    """Observations (time, y, x) and forecasts (member, time, y, x)."""
    shape, time, y, x = (40, 120), np.arange(3), np.arange(40.0), np.arange(120.0)
    obs = xr.concat([blobs(s, shape=shape) for s in range(3)], "time").assign_coords(time=time, y=y, x=x)
    members = [xr.concat([blobs(10 * m + s, shape=shape) for s in range(3)], "time") for m in (1, 2)]
    return obs, xr.concat(members, "member").assign_coords(time=time, y=y, x=x)


# ---------------------------------------------------------------- worked by hand


def test_a_shifted_object_has_a_location_error_alone():
    found = values(sal(plane((10, 5, 4, 4, 3)), plane((13, 9, 4, 4, 3))))
    assert found == pytest.approx(
        {"structure": 0, "amplitude": 0, "location": 0.1, "location_1": 0.1, "location_2": 0}, abs=1e-12
    )


def test_twice_the_rain_has_an_amplitude_error_alone():
    found = values(sal(plane((10, 5, 4, 4, 3)), plane((10, 5, 4, 4, 6))))
    assert found == pytest.approx(
        {"structure": 0, "amplitude": 2 / 3, "location": 0, "location_1": 0, "location_2": 0}, abs=1e-12
    )


def test_a_larger_flat_object_has_a_positive_structure():
    # The same amount on four times as many cells: V is 4 observed and 16 forecast.
    found = values(sal(plane((12, 6, 2, 2, 8)), plane((11, 5, 4, 4, 2))))
    assert found["structure"] == pytest.approx((16 - 4) / (0.5 * 20))
    assert found["amplitude"] == pytest.approx(0)
    assert found["location"] == pytest.approx(0)


def test_scaled_volume_is_weighted_by_amount():
    # Objects of 8 cells of 1 and 2 cells of 4 are V = (8 * 8 + 8 * 2) / 16 = 5.
    found = values(sal(plane((0, 0, 2, 2, 5)), plane((0, 0, 2, 4, 1), (20, 0, 1, 2, 4))))
    assert found["structure"] == pytest.approx((5 - 4) / (0.5 * 9))


def test_spread_of_two_objects_is_the_second_part_of_location():
    # The centre of mass stays; each of two equal objects is 8 cells from it, the single one 0.
    found = values(sal(plane((10, 18, 2, 2, 1)), plane((10, 10, 2, 2, 1), (10, 26, 2, 2, 1))))
    assert found["location_1"] == pytest.approx(0)
    assert found["location_2"] == pytest.approx(2 * 8 / 50)
    assert found["location"] == pytest.approx(0.32)


def test_objects_touch_by_their_sides():
    # Two cells that share a corner are two objects, of V = 1 each; side by side they are one, of V = 2.
    apart, together = plane((5, 5, 1, 1, 1), (6, 6, 1, 1, 1)), plane((5, 5, 1, 2, 1))
    assert values(sal(apart, together))["structure"] == pytest.approx((2 - 1) / (0.5 * 3))


def test_threshold_is_a_part_of_the_quantile_of_wet_cells():
    field = plane((0, 0, 1, 20, 15.0), (10, 0, 1, 1, 0.5), (20, 0, 1, 1, 1.5))
    # The 95th percentile of 22 wet cells is 15: objects start at 1.
    one = values(sal(plane((0, 0, 1, 20, 15.0)), field))
    alone = values(sal(plane((0, 0, 1, 20, 15.0)), plane((0, 0, 1, 20, 15.0), (20, 0, 1, 1, 1.5))))
    assert one["structure"] == pytest.approx(alone["structure"])
    lower = values(sal(plane((0, 0, 1, 20, 15.0)), field, threshold=0.5))
    assert lower["structure"] != pytest.approx(alone["structure"])


@pytest.mark.parametrize(("dry", "sign"), [("observed", 1), ("forecast", -1)])
def test_one_dry_field(dry, sign):
    pair = [plane(), plane((3, 3, 2, 2, 1))]
    found = values(sal(*(pair if dry == "observed" else pair[::-1])))
    assert (found["structure"], found["amplitude"]) == (2 * sign, 2 * sign)
    assert np.isnan([found["location"], found["location_1"], found["location_2"]]).all()


def test_two_dry_fields_have_no_score():
    assert np.isnan(list(values(sal(plane(), plane())).values())).all()


def test_unmeasured_cells_belong_to_neither_field():
    observed, forecast = plane((10, 5, 4, 4, 3)), plane((10, 5, 4, 4, 3), (20, 20, 5, 5, 9))
    observed[18:, :] = np.nan
    found = values(sal(observed, forecast))
    assert found == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-12)


def test_object_free_fractions():
    dry, wet, nowhere = plane(), plane((3, 3, 2, 2, 1)), plane() * np.nan
    observed, forecast = (xr.concat(fields, "time") for fields in ([dry, wet, dry, nowhere], [wet, wet, dry, wet]))
    sums = sal_sums(observed, forecast)
    assert float(sums["fields"]) == 3
    assert values(object_free_fraction(sums)) == pytest.approx({"observed": 2 / 3, "forecast": 1 / 3})
    assert np.isnan(object_free_fraction(nowhere, wet)["observed"])


# ---------------------------------------------------------------- independent code


@pytest.mark.parametrize("seed", range(5))
def test_components_equal_those_of_pysteps_for_separate_objects(seed):
    salscores = pytest.importorskip("pysteps.verification.salscores")
    pytest.importorskip("pandas")
    observed, forecast = blobs(seed), blobs(seed + 100)
    theirs = salscores.sal(forecast.values, observed.values, thr_factor=1 / 15, thr_quantile=0.95)
    ours = sal(observed, forecast, wet=0.0)
    for name, expected in zip(("structure", "amplitude", "location"), theirs, strict=True):
        assert float(ours[name]) == pytest.approx(expected, rel=1e-9), name


# ---------------------------------------------------------------- invariances


def test_a_perfect_forecast_is_zero_everywhere(rain):
    found = values(sal(rain[0], rain[0]))
    assert found == dict.fromkeys(found, 0.0)


def test_swapping_the_fields_changes_signs_alone(rain):
    obs, fcst = rain[0], rain[1][0].drop_vars("member", errors="ignore")
    here, there = sal(obs, fcst, dim=[]), sal(fcst, obs, dim=[])
    for name in ("structure", "amplitude"):
        xr.testing.assert_allclose(here[name], -there[name])
    xr.testing.assert_allclose(here["location"], there["location"])


def test_units_do_not_matter(rain):
    obs, fcst = rain
    xr.testing.assert_allclose(sal(25.4 * obs, 25.4 * fcst, wet=2.54), sal(obs, fcst))


def test_sums_of_parts_add_up_and_means_are_of_fields_with_a_value(rain):
    obs, fcst = rain
    obs = obs.where(obs.time != 1, 0)  # a dry field: no location
    parts = [sal_sums(obs.isel(time=t), fcst.isel(time=t)) for t in ([0, 1], [2])]
    xr.testing.assert_allclose(parts[0] + parts[1], sal_sums(obs, fcst))
    single = sal(obs, fcst, dim=[])
    xr.testing.assert_allclose(sal(obs, fcst), single.mean(skipna=True))
    assert int(sal_sums(obs, fcst)["location_fields"]) == 4


@pytest.mark.parametrize("chunks", [{"time": 1}, {"member": 1, "y": 7, "x": 50}])
def test_chunks_change_nothing(rain, chunks, nothing_may_run):
    obs, fcst = rain
    chunked = obs.chunk({d: n for d, n in chunks.items() if d in obs.dims}), fcst.chunk(chunks)
    with nothing_may_run:
        lazy = sal(*chunked, dim="time")
    xr.testing.assert_allclose(lazy.compute(), sal(obs, fcst, dim="time"))


def test_members_datasets_and_attributes(rain):
    obs, fcst = rain
    mean = fcst.mean("member")
    xr.testing.assert_allclose(sal(obs, fcst, member_dim="member"), sal(obs, mean))
    both = [field.rename("rain").assign_attrs(units="mm").to_dataset() for field in (obs, fcst)]
    found = sal(*both, keep_attrs=True)
    assert found["structure"].dims == ("variable",)
    assert found["structure"].attrs == {"units": "mm"}
    assert found["structure"].item() == pytest.approx(sal(obs, fcst)["structure"].item())


def test_without_skipna_a_nan_makes_its_field_nan(rain):
    obs, fcst = rain
    obs = obs.copy()
    obs[1, 3, 3] = np.nan
    assert np.isnan(sal(obs, fcst, dim="member", skipna=False)["amplitude"]).values.tolist() == [False, True, False]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("options", [{"quantile": 95}, {"factor": 0}])
def test_impossible_options_are_refused(rain, options):
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        sal(*rain, **options)


def test_other_mistakes_are_refused(rain):
    obs, fcst = rain
    with pytest.raises(ValueError, match="dim 'x' differs"):
        sal(obs.assign_coords(x=obs.x + 1), fcst)
    with pytest.raises(TypeError, match="or sums from sal_sums alone"):
        sal(obs)
    with pytest.raises(TypeError, match="or sums from sal_sums alone"):
        object_free_fraction(obs)
    with pytest.raises(ValueError, match="cannot tell which of the dims"):
        sal(obs.rename(y="row"), fcst.rename(y="row"))
