"""The scores of xnowcast.verify: hand-worked cases, invariances, agreement with independent code, errors."""

import itertools

import dask
import numpy as np
import properscoring
import pytest
import xarray as xr
import xskillscore
from rain_fields import observed_and_members, on_x

from xnowcast import verify
from xnowcast.verify.events import COUNTS

RATIOS = (verify.csi, verify.pod, verify.false_alarm_ratio, verify.frequency_bias, verify.hss)
ERRORS = (verify.rmse, verify.mae, verify.mean_error)
THRESHOLDS = [0.5, 2.0, 5.0]


def counts_of(table):
    return [int(table[name]) for name in COUNTS]


@pytest.fixture
def rain():
    return observed_and_members()


# ---------------------------------------------------------------- worked by hand


def test_ratios_of_a_hand_made_table():
    table = xr.Dataset({"hits": 8, "misses": 4, "false_alarms": 2, "correct_negatives": 86})
    found = [float(score(table)) for score in RATIOS]
    assert found == pytest.approx([8 / 14, 8 / 12, 0.2, 10 / 12, 0.693878], abs=1e-6)


def test_event_is_at_or_above_the_threshold():
    table = verify.contingency_table(on_x(2, 2, 1, 3), on_x(2, 1, 2, 3), thresholds=2)
    assert counts_of(table) == [2, 1, 1, 0]
    assert float(verify.csi(table)) == 0.5


def test_pairs_with_nan_are_dropped_on_both_sides():
    table = verify.contingency_table(on_x(np.nan, 3, 0, 3, 0), on_x(3, 3, 0, 0, np.nan), thresholds=2)
    assert counts_of(table) == [1, 1, 0, 1]
    assert float(verify.hss(table)) == pytest.approx(0.4)


def test_threshold_zero_is_a_threshold():
    assert counts_of(verify.contingency_table(on_x(0.0005, 0, 0.5), on_x(0, 0.0005, 0.5), thresholds=0)) == [3, 0, 0, 0]


def test_threshold_has_the_precision_of_the_data():
    single = on_x(0.7, 0.7, dtype="float32")
    assert counts_of(verify.contingency_table(single, single, thresholds=np.float64(0.7))) == [2, 0, 0, 0]
    assert counts_of(verify.contingency_table(on_x(0.7, 0.7), single, thresholds=0.7)) == [2, 0, 0, 0]


def test_integers_are_compared_with_fractions():
    whole = on_x(0, 1, 2, dtype="int16")
    assert counts_of(verify.contingency_table(whole, whole, thresholds=0.5)) == [2, 0, 0, 1]


@pytest.mark.parametrize(
    ("observed", "forecast", "expected"),
    [
        ((0, 0), (0, 0), [np.nan, np.nan, np.nan, np.nan, np.nan]),  # no event anywhere
        ((3, 3), (3, 3), [1, 1, 0, 1, np.nan]),  # nothing but hits
        ((0, 0), (3, 0), [0, np.nan, 1, np.inf, 0]),  # forecast, never observed
        ((np.nan, 3), (3, np.nan), [np.nan, np.nan, np.nan, np.nan, np.nan]),  # no pair
    ],
)
def test_nothing_by_nothing_is_nan(observed, forecast, expected):
    found = [float(score(on_x(*observed), on_x(*forecast), thresholds=1)) for score in RATIOS]
    np.testing.assert_equal(found, expected)


def test_products_of_large_counts_do_not_overflow():
    big = 4_000_000_000
    table = xr.Dataset({"hits": big, "misses": 0, "false_alarms": 0, "correct_negatives": big})
    assert float(verify.hss(table)) == 1.0


def test_a_near_miss_is_a_hit_in_a_window_that_holds_both():
    observed, forecast = np.zeros((8, 8)), np.zeros((8, 8))
    observed[1, 0], forecast[1, 3] = 5, 5
    fields = [xr.DataArray(a, dims=("y", "x")) for a in (observed, forecast)]
    assert verify.csi(*fields, thresholds=2, scales=[1, 4]).values.tolist() == [0, 1]
    table = verify.contingency_table(*fields, thresholds=2, scales=4)
    assert counts_of(table) == [1, 0, 0, 3]


def test_cells_that_fill_no_window_are_left_out():
    ones = xr.DataArray(np.ones((9, 11)), dims=("y", "x"))
    assert counts_of(verify.contingency_table(ones, ones, thresholds=1, scales=4)) == [4, 0, 0, 0]


def test_pooling_sees_only_cells_that_both_measured():
    observed, forecast = np.zeros((4, 8)), np.zeros((4, 8))
    observed[0, 0] = np.nan
    forecast[0, 0] = 9  # over an unobserved cell: no false alarm
    observed[:, 4:] = np.nan  # a window without observations: missing
    fields = [xr.DataArray(a, dims=("y", "x")) for a in (observed, forecast)]
    assert counts_of(verify.contingency_table(*fields, thresholds=2, scales=4)) == [0, 0, 0, 1]


def test_errors_of_three_pairs():
    observed, forecast = on_x(1, 2, np.nan, 4), on_x(4, 6, 1, 4)
    found = [float(score(observed, forecast)) for score in ERRORS]
    assert found == pytest.approx([np.sqrt(25 / 3), 7 / 3, 7 / 3])
    assert [float(score(forecast, observed)) for score in ERRORS][2] == pytest.approx(-7 / 3)


@pytest.mark.parametrize(
    ("members", "observation", "plain", "fair"),
    [
        ([0.5, 1.5, 4], 1, 5 / 9, 1 / 6),
        ([0, 1, 3], 1, 1 / 3, 0),  # the observation is a member
        ([0, 0, 2], 0, 2 / 9, 0),  # dry, with ties
        ([1, 3, np.nan], 2, 0.5, 0),  # two members left
        ([1], 2, 1, np.nan),  # one member: the absolute error
        ([1, np.nan, np.nan], 2, 1, np.nan),
        ([1, 2, np.inf], 2, np.inf, np.nan),
        ([1, 2, 3], np.nan, np.nan, np.nan),
        ([np.nan, np.nan], 1, np.nan, np.nan),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_crps_by_hand(members, observation, plain, fair, dtype):
    observed, forecast = xr.DataArray(observation).astype(dtype), xr.DataArray(np.array(members, dtype), dims="member")
    found = [float(verify.crps_ensemble(observed, forecast, fair=f)) for f in (False, True)]
    np.testing.assert_allclose(found, [plain, fair], atol=1e-6)


# ---------------------------------------------------------------- against independent code


def brute_force_counts(observed, forecast, threshold):
    found = dict.fromkeys(COUNTS, 0)
    for o, f in zip(observed.ravel(), forecast.ravel(), strict=True):
        if np.isnan(o) or np.isnan(f):
            continue
        event = (o >= np.float32(threshold), f >= np.float32(threshold))
        names = {(True, True): "hits", (True, False): "misses", (False, True): "false_alarms"}
        found[names.get(event, "correct_negatives")] += 1
    return list(found.values())


def windows_max(observed, forecast, scale):
    """Pairs of window maxima, cell by cell."""
    n_y, n_x = observed.shape[-2] // scale, observed.shape[-1] // scale
    pairs = []
    for plane_o, plane_f in zip(observed, forecast, strict=True):
        for i, j in itertools.product(range(n_y), range(n_x)):
            window = (slice(i * scale, (i + 1) * scale), slice(j * scale, (j + 1) * scale))
            both = ~np.isnan(plane_o[window]) & ~np.isnan(plane_f[window])
            if both.any():
                pairs.append((plane_o[window][both].max(), plane_f[window][both].max()))
    return np.array(pairs).T


@pytest.mark.parametrize("scale", [1, 2, 6])
def test_counts_equal_a_loop_over_cells(rain, scale):
    observed, forecast = rain
    table = verify.contingency_table(observed, forecast, thresholds=THRESHOLDS, scales=[scale], dim=["time", "y", "x"])
    for member, threshold in itertools.product(forecast.member.values, THRESHOLDS):
        expected = brute_force_counts(
            *windows_max(observed.values, forecast.sel(member=member).values, scale), threshold
        )
        assert counts_of(table.sel(member=member, threshold=threshold, scale=scale)) == expected


def test_coarse_windows_do_not_depend_on_finer_ones(rain):
    together = verify.contingency_table(*rain, thresholds=THRESHOLDS, scales=[6, 1, 2, 3])
    for scale in together.scale.values:
        alone = verify.contingency_table(*rain, thresholds=THRESHOLDS, scales=int(scale))
        xr.testing.assert_equal(together.sel(scale=scale), alone)


def test_ratios_equal_those_of_the_package_scores(rain):
    categorical = pytest.importorskip("scores.categorical")
    observed, forecast = rain
    for threshold in THRESHOLDS:
        events = categorical.ThresholdEventOperator(default_event_threshold=np.float32(threshold))
        theirs = events.make_contingency_manager(forecast, observed).transform()
        expected = [
            theirs.critical_success_index(),
            theirs.probability_of_detection(),
            theirs.false_alarm_ratio(),
            theirs.frequency_bias(),
            theirs.heidke_skill_score(),
        ]
        found = [float(score(observed, forecast, thresholds=threshold)) for score in RATIOS]
        np.testing.assert_allclose(found, [float(value) for value in expected], rtol=1e-12)


@pytest.mark.parametrize("dim", [None, "time", ["y", "x"], ["member", "time"]])
@pytest.mark.parametrize("skipna", [True, False])
def test_errors_equal_xskillscore(rain, dim, skipna):
    observed, forecast = (a.astype("f8") for a in rain)
    everywhere = observed.broadcast_like(forecast)
    for ours, theirs in ((verify.rmse, xskillscore.rmse), (verify.mae, xskillscore.mae)):
        found = ours(observed, forecast, dim=dim, skipna=skipna)
        expected = theirs(everywhere, forecast, dim=dim, skipna=skipna)
        xr.testing.assert_allclose(found, expected.transpose(*found.dims).rename(found.name), rtol=1e-12)


@pytest.mark.parametrize("n_members", [1, 2, 3, 10, 33, 130])
@pytest.mark.parametrize(("dtype", "tolerance"), [("f8", 1e-12), ("f4", 1e-5)])
def test_crps_map_equals_properscoring(n_members, dtype, tolerance):
    rng = np.random.default_rng(n_members)
    # More points than one tile has, with ties, a missing corner, and single missing members.
    shape = (70, 65) if n_members < 20 else (30, 35)
    members = np.round(rng.gamma(0.5, 4.0, (n_members, *shape)), 1) * (rng.random((n_members, *shape)) > 0.4)
    members[rng.random(members.shape) < 0.02] = np.nan
    members[:, :10, :15] = np.nan
    observed = np.round(rng.gamma(0.5, 4.0, shape), 1)
    observed[20:, 20:] = np.nan
    found = verify.crps_ensemble(
        xr.DataArray(observed.astype(dtype), dims=("y", "x")),
        xr.DataArray(members.astype(dtype), dims=("member", "y", "x")),
        dim=[],
    )
    expected = properscoring.crps_ensemble(
        observed.astype(dtype).astype("f8"), members.astype(dtype).astype("f8"), axis=0
    )
    np.testing.assert_allclose(found.values, expected, rtol=tolerance, atol=tolerance)


def test_mean_crps_equals_xskillscore(rain):
    observed, forecast = (a.astype("f8") for a in rain)
    expected = xskillscore.crps_ensemble(observed, forecast, dim=["y", "x"])
    found = verify.crps_ensemble(observed, forecast, dim=["y", "x"])
    xr.testing.assert_allclose(found, expected.rename("crps"), rtol=1e-12)


@pytest.mark.parametrize("n_members", [2, 3, 7, 20])
def test_crps_equals_its_double_sum(n_members):
    rng = np.random.default_rng(n_members)
    members, observed = rng.normal(280, 0.1, (n_members, 50)), rng.normal(280, 0.1, 50)
    distance = np.abs(members - observed).mean(axis=0)
    pairs = np.abs(members[:, None] - members[None]).sum(axis=(0, 1))
    fields = (xr.DataArray(observed, dims="x"), xr.DataArray(members, dims=("member", "x")))
    for fair, divisor in ((False, n_members**2), (True, n_members * (n_members - 1))):
        found = verify.crps_ensemble(*fields, dim=[], fair=fair)
        np.testing.assert_allclose(found, distance - pairs / (2 * divisor), atol=1e-12)


def test_float32_sums_do_not_drift():
    n = 3_000_000
    observed, forecast = xr.DataArray(np.zeros(n, "f4"), dims="x"), xr.DataArray(np.full(n, 0.1, "f4"), dims="x")
    assert float(verify.mean_error(observed, forecast)) == pytest.approx(np.float64(np.float32(0.1)), rel=1e-10)


# ---------------------------------------------------------------- invariances


def every_score(observed, forecast, **options):
    scored = {score.__name__: score(observed, forecast, thresholds=THRESHOLDS, **options) for score in RATIOS}
    scored |= {score.__name__: score(observed, forecast, **options) for score in ERRORS}
    return scored | {"crps": verify.crps_ensemble(observed, forecast, **options)}


def assert_same_scores(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        xr.testing.assert_allclose(found[name], expected[name], rtol=1e-6)  # of float32 members


def test_a_perfect_forecast_is_perfect(rain):
    observed, _ = rain
    for score, best in zip(RATIOS, [1, 1, 0, 1, 1], strict=True):
        assert score(observed, observed, thresholds=THRESHOLDS).values.tolist() == [best] * len(THRESHOLDS)
    assert [float(score(observed, observed)) for score in ERRORS] == [0, 0, 0]


def test_order_of_members_changes_nothing(rain):
    observed, forecast = rain
    shuffled = forecast.isel(member=[2, 0, 3, 1])
    assert_same_scores(every_score(observed, shuffled), every_score(observed, forecast))


def test_order_of_dims_changes_nothing(rain):
    observed, forecast = rain
    turned = every_score(
        observed.transpose("x", "time", "y"), forecast.transpose("x", "member", "y", "time"), dim="time"
    )
    for name, expected in every_score(observed, forecast, dim="time").items():
        xr.testing.assert_allclose(turned[name].transpose(*expected.dims), expected, rtol=1e-6)


def test_one_member_has_the_absolute_error_as_crps(rain):
    observed, forecast = rain
    one = forecast.isel(member=[0])
    assert float(verify.crps_ensemble(observed, one)) == pytest.approx(float(verify.mae(observed, one)), rel=1e-6)


def test_tables_of_parts_add_up(rain):
    observed, forecast = rain
    parts = [slice(0, 1), slice(1, 3)]
    tables = [
        verify.contingency_table(observed[p], forecast[:, p], thresholds=THRESHOLDS, scales=[1, 4]) for p in parts
    ]
    xr.testing.assert_equal(
        tables[0] + tables[1], verify.contingency_table(*rain, thresholds=THRESHOLDS, scales=[1, 4])
    )
    assert all(tables[0][name].dtype == np.int64 for name in COUNTS)
    sums = [verify.error_sums(observed[p], forecast[:, p]) for p in parts]
    xr.testing.assert_allclose(verify.rmse(sums[0] + sums[1]), verify.rmse(*rain), rtol=1e-12)


def test_counts_are_summed_before_the_ratio_is_taken():
    observed = xr.DataArray([[3.0, 3, 3, 0], [3.0, 0, 0, 0]], dims=("time", "x"))
    forecast = xr.DataArray([[3.0, 3, 3, 0], [0.0, 3, 0, 0]], dims=("time", "x"))
    assert float(verify.csi(observed, forecast, thresholds=1)) == pytest.approx(3 / 5)  # the mean of CSI is 1/2


def test_members_are_pooled_unless_kept(rain):
    observed, forecast = rain
    kept = verify.contingency_table(observed, forecast, thresholds=2.0, dim=["time", "y", "x"])
    assert kept["hits"].dims == ("member",)
    xr.testing.assert_equal(kept.sum("member"), verify.contingency_table(observed, forecast, thresholds=2.0))


def test_member_dim_scores_the_ensemble_mean():
    observed, forecast = on_x(2, 2), xr.DataArray([[1.0, 0.0], [3.0, np.nan]], dims=("member", "x"))
    assert float(verify.mae(observed, forecast, member_dim="member")) == 1.0
    assert float(verify.mae(observed, forecast)) == pytest.approx(4 / 3)
    assert float(verify.csi(observed, forecast, thresholds=2, member_dim="member")) == 0.5
    assert np.isnan(float(verify.mae(observed, forecast, member_dim="member", skipna=False)))


def test_sum_of_counts_is_the_number_of_pairs(rain):
    observed, forecast = rain
    table = verify.contingency_table(observed, forecast, thresholds=THRESHOLDS)
    n_pairs = int((observed.notnull() & forecast.notnull()).sum())
    assert sum(table[name] for name in COUNTS).values.tolist() == [n_pairs] * len(THRESHOLDS)


def test_higher_thresholds_have_fewer_events(rain):
    table = verify.contingency_table(*rain, thresholds=[0.1, 0.5, 2, 5, 10])
    assert np.all(np.diff(table["hits"] + table["misses"]) <= 0)
    assert np.all(np.diff(table["hits"] + table["false_alarms"]) <= 0)


def test_extra_dims_are_kept_or_shared(rain):
    observed, forecast = rain
    tiles = xr.concat([forecast, forecast + 1], dim="tile")
    by_tile = every_score(observed, tiles, dim=["member", "time", "y", "x"])
    for tile in (0, 1):
        expected = every_score(observed, tiles.isel(tile=tile))
        assert_same_scores({name: score.isel(tile=tile) for name, score in by_tile.items()}, expected)
    shared = verify.mae(tiles.isel(member=0), observed, dim=["time", "y", "x"])
    xr.testing.assert_allclose(shared, verify.mae(observed, tiles.isel(member=0), dim=["time", "y", "x"]))


def test_datasets_are_scored_by_variable(rain):
    observed, forecast = rain
    datasets = [xr.Dataset({"rain": a, "twice": 2 * a, "crs": 0}, attrs={"source": "radar"}) for a in rain]
    for score in (*RATIOS, *ERRORS, verify.crps_ensemble):
        options = {"thresholds": THRESHOLDS} if score in RATIOS else {}
        found = score(*datasets, **options, keep_attrs=True)
        assert set(found.data_vars) == {"rain", "twice"}
        assert found.attrs == {"source": "radar"}
        xr.testing.assert_allclose(found["rain"].rename(None), score(observed, forecast, **options).rename(None))
    table = verify.contingency_table(*datasets, thresholds=THRESHOLDS)
    assert table["variable"].values.tolist() == ["rain", "twice"]
    assert "variable" in verify.error_sums(*datasets).dims


def test_scalar_thresholds_and_scales_are_scalar_coordinates(rain):
    scored = verify.csi(*rain, thresholds=2, scales=4)
    assert scored.dims == () and float(scored.threshold) == 2 and int(scored.scale) == 4
    scored = verify.csi(*rain, thresholds=[2], scales=[4], dim=["y", "x", "member"])
    assert scored.dims == ("time", "threshold", "scale") and scored.dtype == np.float64


def test_attributes_are_kept_when_asked(rain):
    observed, forecast = rain[0].assign_attrs(units="mm h-1"), rain[1].assign_attrs(units="other")
    for keep, attrs in ((False, {}), (True, {"units": "mm h-1"})):
        for score in every_score(observed, forecast, keep_attrs=keep).values():
            assert score.attrs == attrs
        assert verify.contingency_table(observed, forecast, thresholds=1, keep_attrs=keep)["hits"].attrs == attrs


def test_without_skipna_one_nan_makes_nan(rain):
    observed, forecast = rain
    for score in every_score(observed, forecast, skipna=False).values():
        assert np.isnan(score).all()
    clean = (observed.fillna(0), forecast.fillna(0))
    assert_same_scores(every_score(*clean, skipna=False), every_score(*clean))
    holed = clean[0].copy()
    holed[0, 0, 0] = np.nan
    table = verify.contingency_table(holed, clean[1], thresholds=1, scales=[1, 4], dim=["y", "x"], skipna=False)
    assert np.isnan(table["hits"].isel(time=0)).all() and not np.isnan(table["hits"].isel(time=1)).any()


def test_inputs_are_left_as_they_were(rain):
    before = [a.copy(deep=True) for a in rain]
    every_score(*rain)
    verify.csi(*rain, thresholds=1, scales=[1, 4])
    for a, b in zip(rain, before, strict=True):
        xr.testing.assert_identical(a, b)


# ---------------------------------------------------------------- Dask


@pytest.mark.parametrize(
    "chunks",
    [{"time": 1}, {"member": 1}, {"member": 3, "time": 2, "y": 7, "x": 5}, {"y": 4}],
)
def test_chunks_change_nothing(rain, chunks, nothing_may_run):
    observed, forecast = rain
    lazy = (observed.chunk({"time": 2, "y": 9}), forecast.chunk(chunks))
    for fields in (lazy, (observed, lazy[1]), (lazy[0], forecast)):
        with nothing_may_run:
            scored = every_score(*fields)
            scored["pooled"] = verify.csi(*fields, thresholds=THRESHOLDS, scales=[1, 4])
            scored["by time"] = verify.hss(*fields, thresholds=THRESHOLDS, dim=["member", "y", "x"])
            scored["map"] = verify.crps_ensemble(*fields, dim="time")
        assert all(dask.is_dask_collection(score.data) for score in scored.values())
        expected = every_score(observed, forecast)
        expected["pooled"] = verify.csi(observed, forecast, thresholds=THRESHOLDS, scales=[1, 4])
        expected["by time"] = verify.hss(observed, forecast, thresholds=THRESHOLDS, dim=["member", "y", "x"])
        expected["map"] = verify.crps_ensemble(observed, forecast, dim="time")
        assert_same_scores(dict(zip(scored, dask.compute(*scored.values()), strict=True)), expected)


def test_chunks_of_coordinates_do_not_matter(rain):
    observed, forecast = rain
    places = xr.DataArray(np.zeros((20, 22)), dims=("y", "x")).chunk(y=3)
    lazy = (observed.chunk(time=1).assign_coords(lat=places), forecast.chunk(y=8).assign_coords(lat=places))
    for options in ({"scales": [1, 4]}, {"dim": ["member", "time"]}):
        expected = verify.csi(observed, forecast, thresholds=2, **options)
        xr.testing.assert_allclose(
            verify.csi(*lazy, thresholds=2, **options).drop_vars("lat", errors="ignore"), expected
        )


def test_one_task_per_chunk_counts_all_thresholds_and_scales():
    fields = [xr.DataArray(dask.array.zeros((24, 32, 32), chunks=(1, 32, 32)), dims=("time", "y", "x")) for _ in "of"]
    few = verify.contingency_table(*fields, thresholds=[1], scales=[1])
    many = verify.contingency_table(*fields, thresholds=list(range(20)), scales=[1, 2, 4, 8])
    assert len(many.__dask_graph__()) == len(few.__dask_graph__())
    assert len(many.__dask_graph__()) <= 11 * 24


# ---------------------------------------------------------------- errors


def test_shifted_coordinates_are_refused_by_name(rain):
    observed, forecast = rain
    for moved, message in [
        (forecast.assign_coords(y=forecast.y + 1), r"'y' differs.*20 values from 0.0 to 19.0.*20 from 1.0 to 20.0"),
        (forecast.isel(x=slice(1, None)), r"'x' differs.*22 values from 0.0 to 21.0.*21 from 1.0 to 21.0"),
        (forecast.isel(y=slice(None, None, -1)), "'y' differs: the same 20 values come in another order"),
        (
            forecast.assign_coords(time=[0, 5, 2]),
            "'time' differs: the values at position 1 are 1 in observations and 5",
        ),
        (
            forecast.drop_vars("x").isel(x=slice(2)),
            "'x' differs: observations have 22 values from 0.0 to 21.0, forecasts 2",
        ),
    ]:
        for score in ERRORS:
            with pytest.raises(ValueError, match=message):
                score(observed, moved)
        with pytest.raises(ValueError, match=message):
            verify.csi(observed, moved, thresholds=1)
        with pytest.raises(ValueError, match=message):
            verify.crps_ensemble(observed, moved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": [np.nan]}, "must be a finite number"),
        ({"thresholds": []}, "at least one"),
        ({"thresholds": 1, "scales": 0}, "from 1 up"),
        ({"thresholds": 1, "scales": 2.5}, "whole number"),
        ({"thresholds": 1, "scales": 21}, "21 cells is wider than 'y' with 20"),
        ({"thresholds": 1, "scales": 4, "dim": ["time", "x"]}, "'y' cannot be kept"),
        ({"thresholds": 1, "dim": "level"}, "dim 'level' is in neither array"),
        ({"thresholds": 1, "member_dim": "number"}, "no 'number'"),
        ({"thresholds": 1, "scales": 4, "spatial_dims": ("lat", "lon")}, "not both among the dims"),
    ],
)
def test_impossible_options_are_refused(rain, options, message):
    with pytest.raises(ValueError, match=message):
        verify.csi(*rain, **options)


def test_other_mistakes_are_refused(rain):
    observed, forecast = rain
    with pytest.raises(TypeError, match="a contingency table alone"):
        verify.csi(observed, forecast)
    with pytest.raises(TypeError, match="a contingency table alone"):
        verify.csi(observed)
    with pytest.raises(TypeError, match="from error_sums alone"):
        verify.rmse(observed)
    with pytest.raises(TypeError, match="found Dataset and DataArray"):
        verify.rmse(observed.to_dataset(name="a"), forecast)
    with pytest.raises(TypeError, match="found ndarray"):
        verify.rmse(observed.values, forecast)
    with pytest.raises(ValueError, match="must be the same"):
        verify.rmse(observed.to_dataset(name="a"), forecast.to_dataset(name="b"))
    with pytest.raises(ValueError, match="no 'member'"):
        verify.crps_ensemble(observed, forecast.isel(member=0))
    with pytest.raises(ValueError, match="observations have the dim 'member' too"):
        verify.crps_ensemble(forecast, forecast)
    with pytest.raises(ValueError, match="'threshold' is one that the score makes itself"):
        verify.csi(observed.rename(time="threshold"), forecast.rename(time="threshold"), thresholds=1)
    with pytest.raises(ValueError, match="which of the dims"):
        verify.csi(observed.rename(y="a"), forecast.rename(y="a"), thresholds=1, scales=4)
