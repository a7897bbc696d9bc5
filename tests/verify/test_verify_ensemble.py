"""CRPS, spread and ranks of ensembles: hand-worked cases, invariances, agreement with independent code, errors."""

import os
import subprocess
import sys

import dask
import numpy as np
import pytest
import xarray as xr
from rain_fields import observed_and_members

from xnowcast import verify
from xnowcast.verify import ensemble, ranks
from xnowcast.verify.kernels import compiled
from xnowcast.verify.kernels import crps as kernel
from xnowcast.verify.kernels.vectors import sorting_network

FRIENDS = {"rank": {}, "random": {"ties": "random", "seed": 4}, "wet": {"min_value": 0.5}}


def one_point(members, observed):
    return xr.DataArray([float(observed)], dims="x"), xr.DataArray(
        np.array(members, float)[:, None], dims=("member", "x")
    )


def refuse_to_compute(*args, **kwargs):
    raise AssertionError("something was computed while the graph was built")


def make_rain(seed=3, n_members=4, nan=True):
    return observed_and_members(members=n_members, seed=seed, missing=0.05 if nan else 0)


@pytest.fixture
def rain():
    return make_rain()


def every_score(observed, forecast, dim=None):
    scored = {
        "crps": ensemble.crps_ensemble(observed, forecast, dim=dim),
        "fair": ensemble.crps_ensemble(observed, forecast, fair=True, dim=dim),
        "tw_crps": ensemble.tw_crps_ensemble(observed, forecast, threshold=[0.5, 2.0], dim=dim),
        "pit": ranks.pit_histogram(observed, forecast, bins=3, dim=dim),
        **{k: ranks.rank_histogram(observed, forecast, dim=dim, **options) for k, options in FRIENDS.items()},
    }
    spread = ensemble.spread_skill(observed, forecast, dim=dim)
    classes = ensemble.spread_skill(observed, forecast, bins=[0.5, 3.0], dim=dim)
    scored |= {f"spread {name}": spread[name] for name in spread}
    return scored | {f"classes {name}": classes[name] for name in classes}


def assert_same_scores(found, expected, rtol=1e-6):
    assert set(found) == set(expected)
    for name in expected:
        xr.testing.assert_allclose(found[name].transpose(*expected[name].dims), expected[name], rtol=rtol)


# ---------------------------------------------------------------- CRPS


@pytest.mark.parametrize(
    ("members", "observed", "plain", "fair"),
    [
        ([0.5, 1.5, 4], 1, 5 / 9, 1 / 6),
        ([0, 1, 3], 1, 1 / 3, 0),  # the observation is one of the members
        ([0, 0, 2], 0, 2 / 9, 0),
        ([1, 3, np.nan], 2, 0.5, 0),  # n is the number of members left
        ([1], 2, 1, np.nan),
        ([1, np.nan, np.nan], 2, 1, np.nan),
        ([1, 2, np.inf], 2, np.inf, np.nan),
        ([np.nan, np.nan], 2, np.nan, np.nan),
        ([1, 2], np.nan, np.nan, np.nan),
    ],
)
def test_crps_of_one_case(members, observed, plain, fair):
    fields = one_point(members, observed)
    found = [float(ensemble.crps_ensemble(*fields, fair=f)) for f in (False, True)]
    np.testing.assert_allclose(found, [plain, fair], atol=1e-12)


def test_crps_sums_have_both_terms_and_add_up(rain):
    observed, forecast = rain
    sums = ensemble.crps_sums(*one_point([0, 3], 1))
    assert [float(sums[name]) for name in ensemble.CRPS_SUMS] == [1, 1.5, 0.75]
    parts = [ensemble.crps_sums(observed[p], forecast[:, p]) for p in (slice(0, 1), slice(1, 3))]
    xr.testing.assert_allclose(ensemble.crps_ensemble(parts[0] + parts[1]), ensemble.crps_ensemble(*rain), rtol=1e-12)


def test_members_of_a_reliable_ensemble_lie_as_far_apart_as_from_the_observation():
    rng = np.random.default_rng(0)
    values = xr.DataArray(rng.gamma(0.5, 4.0, (6, 100_000)), dims=("member", "x"))
    sums = ensemble.crps_sums(values[0], values[1:], fair=True)
    assert float(sums["distance"] / sums["spread"]) == pytest.approx(2, rel=0.02)
    spread = ensemble.spread_skill(values[0], values[1:])
    assert float(spread["spread_skill_ratio"]) == pytest.approx(1, rel=0.02)


def test_weighted_crps_by_hand():
    fields = one_point([0.5, 1.5, 4], 1)
    # max(x, 1): members 1, 1.5, 4 and the observation 1; 3.5 / 3 less 2 (0.5 + 3 + 2.5) / 18
    assert float(ensemble.tw_crps_ensemble(*fields, threshold=1)) == pytest.approx(3.5 / 3 - 12 / 18)
    found = ensemble.tw_crps_ensemble(*fields, threshold=[-100, 5])
    assert found.threshold.values.tolist() == [-100, 5]
    assert found.values.tolist() == pytest.approx([5 / 9, 0])


def test_weighted_crps_falls_with_the_threshold_and_never_exceeds_crps(rain):
    found = ensemble.tw_crps_ensemble(*rain, threshold=[0, 0.5, 2, 10, 1000])
    assert np.all(np.diff(found) <= 0) and found[-1] == 0
    assert float(found[0]) == pytest.approx(float(ensemble.crps_ensemble(*rain)), rel=1e-12)


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("threshold", [0.5, 3.0])
def test_weighted_crps_equals_scores_and_scoringrules(fair, threshold):
    scores = pytest.importorskip("scores.probability")
    scoringrules = pytest.importorskip("scoringrules")
    observed, forecast = (a.astype("f8") for a in make_rain(nan=False))
    found = float(ensemble.tw_crps_ensemble(observed, forecast, threshold=threshold, fair=fair))
    options = {"method": "fair" if fair else "ecdf"}
    expected = scores.tail_tw_crps_for_ensemble(forecast, observed, "member", threshold, **options)
    assert found == pytest.approx(float(expected), rel=1e-10)
    points = scoringrules.twcrps_ensemble(
        observed.values, forecast.values, a=threshold, m_axis=0, estimator="fair" if fair else "nrg"
    )
    assert found == pytest.approx(points.mean(), rel=1e-10)


def test_crps_equals_scores_with_missing_members(rain):
    scores = pytest.importorskip("scores.probability")
    observed, forecast = (a.astype("f8") for a in rain)
    for method in ("ecdf", "fair"):
        expected = scores.crps_for_ensemble(forecast, observed, "member", method=method)
        found = ensemble.crps_ensemble(observed, forecast, fair=method == "fair")
        assert float(found) == pytest.approx(float(expected), rel=1e-12)


def require_numba():
    pytest.importorskip("numba")
    if not compiled.numba_is_here():
        pytest.skip("XNOWCAST_NUMBA=0")


@pytest.mark.parametrize(("n_members", "dtype"), [(1, "f4"), (3, "f4"), (10, "f8"), (17, "f4")])
def test_compiled_crps_equals_numpy(monkeypatch, n_members, dtype):
    require_numba()
    rng = np.random.default_rng(n_members)
    members = np.round(rng.gamma(0.5, 4, (n_members, 3, 20, 21)), 1).astype(dtype)
    observed = np.round(rng.gamma(0.5, 4, (1, 3, 20, 21)), 1).astype(dtype)
    members[:, 0, :9] = observed[:, 0, :9] = np.nan  # off the disc
    members[:, 1][rng.random(members[:, 1].shape) < 0.1] = np.nan
    members[:, 1, 0, 0] = [np.inf, *members[1:, 1, 0, 0]]
    cases = [
        (axis, fair, skipna) for axis in ([1, 2, 3], [2], []) for fair in (False, True) for skipna in (False, True)
    ]
    for axis, fair, skipna in cases:
        options = {"member_axis": 0, "axis": axis, "thresholds": (-np.inf, 1.0), "fair": fair, "skipna": skipna}
        for fields in ((observed, members), (observed[..., ::2], members[..., ::2])):
            monkeypatch.setattr(compiled, "WORTH_COMPILING", 0)
            found = kernel.crps_sums(*fields, **options)
            monkeypatch.setattr(compiled, "WORTH_COMPILING", 10**12)
            expected = kernel.crps_sums(*fields, **options)
            tolerance = 1e-5 if dtype == "f4" else 1e-11
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("n_members", "dtype"), [(3, "f4"), (10, "f8")])
def test_compiled_crps_is_the_double_sum_of_ties_and_of_values_of_both_signs(monkeypatch, n_members, dtype):
    require_numba()
    monkeypatch.setattr(compiled, "WORTH_COMPILING", 0)
    rng = np.random.default_rng(2)
    x = rng.integers(-2, 3, (n_members, 300)).astype(dtype)
    y = rng.integers(-2, 3, (1, 300)).astype(dtype)
    x[:, :50] = y[0, :50] = 0
    x[:, 50:60] *= -0.0
    apart = np.abs(x[:, None] - x).astype("f8").sum((0, 1)) / (2 * n_members**2)
    terms = kernel.crps_sums(y, x, member_axis=0, axis=[])[0, :, 0]
    np.testing.assert_allclose(terms[:, 1], np.abs(x - y).mean(0), rtol=1e-6)
    np.testing.assert_allclose(terms[:, 2], apart, rtol=1e-6)
    assert (terms[:50, 1:] == 0).all()


def test_more_members_than_are_compiled_take_the_numpy_path(monkeypatch):
    monkeypatch.setattr(compiled, "WORTH_COMPILING", 0)
    monkeypatch.setattr(kernel, "COMPILED_MEMBERS", 2)
    monkeypatch.setattr(kernel, "_totals_compiled", refuse_to_compute)
    sums = kernel.crps_sums(np.array([[1.0]]), np.array([[0.5], [1.5], [4.0]]), member_axis=0, axis=[1])
    np.testing.assert_allclose(sums[0, 0, 0], [1, 4 / 3, 7 / 9])


def test_narrow_registers_give_the_same(tmp_path):
    require_numba()
    code = """
import numpy as np
from xnowcast.verify.kernels import compiled, crps, vectors
crps.vector_bytes = vectors.vector_bytes = lambda: 16
rng = np.random.default_rng(0)
x, y = rng.normal(size=(3, 333)).astype("f4"), rng.normal(size=(1, 333)).astype("f4")
x[1:, 200:] = np.nan
found = []
for compiled.WORTH_COMPILING in (0, 10**9):
    found.append(crps.crps_sums(y, x, member_axis=0, axis=[]))
np.testing.assert_allclose(*found, rtol=1e-5)
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}  # numba knows code by the processor, not by this
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_instructions_are_for_compiled_functions_only():
    with pytest.raises(TypeError, match="in compiled functions only"):
        kernel._plain_terms()


@pytest.mark.parametrize("n", range(1, 12))
def test_network_sorts_all_zeros_and_ones(n):
    comparators = sorting_network(n)
    for bits in range(2**n):
        values = [bits >> i & 1 for i in range(n)]
        for i, j in comparators:
            values[i], values[j] = min(values[i], values[j]), max(values[i], values[j])
        assert values == sorted(values)


# ---------------------------------------------------------------- spread and skill


def test_spread_by_hand():
    observed = xr.DataArray([1.0, 1.0, 1.0], dims="x")
    forecast = xr.DataArray([[1.0, 2.0, 0.0], [3.0, 4.0, np.nan], [5.0, np.nan, np.nan]], dims=("member", "x"))
    sums = ensemble.spread_skill_sums(observed, forecast)
    # variances 4 and 2 of 3 and 2 members; errors of the mean 2 and 2; one member has no variance
    assert [float(sums[name]) for name in ensemble.SPREAD_SUMS] == pytest.approx([2, 6, 4 * 4 / 3 + 2 * 3 / 2, 8])
    found = ensemble.spread_skill(sums)
    assert float(found["spread"]) == pytest.approx(np.sqrt(3))
    assert float(found["rmse"]) == pytest.approx(2)
    assert float(found["spread_skill_ratio"]) == pytest.approx(np.sqrt((16 / 3 + 3) / 8))


def test_spread_equals_xarray():
    observed, forecast = (a.astype("f8") for a in make_rain(nan=False))
    found = ensemble.spread_skill(observed, forecast, dim=["y", "x"])
    variance = forecast.var("member", ddof=1).mean(["y", "x"])
    error = ((forecast.mean("member") - observed) ** 2).mean(["y", "x"])
    xr.testing.assert_allclose(found["spread"], np.sqrt(variance))
    xr.testing.assert_allclose(found["rmse"], np.sqrt(error))
    xr.testing.assert_allclose(found["spread_skill_ratio"], np.sqrt(5 / 4 * variance / error))


def test_classes_of_spread_add_up_and_hold_their_spread(rain):
    sums = ensemble.spread_skill_sums(*rain, bins=[0.5, 3.0])
    assert sums["spread_from"].values.tolist() == [0, 0.5, 3] and sums["spread_to"].values.tolist() == [0.5, 3, np.inf]
    xr.testing.assert_allclose(
        sums.sum("spread_bin"), ensemble.spread_skill_sums(*rain).drop_vars("spread_bin", errors="ignore")
    )
    spread = ensemble.spread_skill(sums)["spread"].values
    assert 0 <= spread[0] < 0.5 <= spread[1] < 3 <= spread[2]


def test_spread_without_error_is_infinite_and_nothing_by_nothing_is_nan():
    assert float(ensemble.spread_skill(*one_point([0, 2], 1))["spread_skill_ratio"]) == np.inf
    assert np.isnan(float(ensemble.spread_skill(*one_point([1, 1], 1))["spread_skill_ratio"]))
    nothing = ensemble.spread_skill(*one_point([1, np.nan], 1))
    assert int(nothing["n"]) == 0 and np.isnan(float(nothing["spread"]))


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize(
    ("members", "observed", "expected"),
    [
        ([1, 2, 3], 0, [1, 0, 0, 0]),
        ([3, 1, 2], 2.5, [0, 0, 1, 0]),
        ([1, 2, 3], 4, [0, 0, 0, 1]),
        ([0, 0, 0], 0, [0.25] * 4),
        ([0, 2, 2], 2, [0, 1 / 3, 1 / 3, 1 / 3]),
        ([0, 2, np.nan], 2, [0] * 4),
        ([0, 1, 2], np.nan, [0] * 4),
    ],
)
def test_rank_of_one_case(members, observed, expected):
    found = ranks.rank_histogram(*one_point(members, observed))
    assert found["rank"].values.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_expected_ranks_equal_scores():
    scores = pytest.importorskip("scores.probability")
    observed, forecast = make_rain(nan=False)
    expected = scores.rank_histogram(forecast, observed, "member") * observed.size
    np.testing.assert_allclose(ranks.rank_histogram(observed, forecast), expected, rtol=1e-12)


def test_ranks_without_ties_equal_xskillscore_and_pysteps():
    xskillscore = pytest.importorskip("xskillscore")
    ensscores = pytest.importorskip("pysteps.verification.ensscores")
    rng = np.random.default_rng(0)
    observed, members = rng.normal(size=(20, 30)), rng.normal(0.3, 1.5, size=(9, 20, 30))
    fields = xr.DataArray(observed, dims=("y", "x")), xr.DataArray(members, dims=("member", "y", "x"))
    found = ranks.rank_histogram(*fields).values
    assert found.tolist() == xskillscore.rank_histogram(*fields).values.tolist()
    assert found.tolist() == ensscores.rankhist(members, observed, normalize=False).tolist()


def test_wet_mask_keeps_the_points_that_pysteps_keeps():
    ensscores = pytest.importorskip("pysteps.verification.ensscores")
    rng = np.random.default_rng(1)
    observed, members = rng.gamma(0.3, 1, size=(20, 30)), rng.gamma(0.3, 1, size=(3, 20, 30))
    fields = xr.DataArray(observed, dims=("y", "x")), xr.DataArray(members, dims=("member", "y", "x"))
    found = ranks.rank_histogram(*fields, min_value=0.5)
    # Theirs makes ties of all values below 0.5 and breaks them at random, so that only the total is the same.
    theirs = ensscores.rankhist(members.copy(), observed.copy(), X_min=0.5, normalize=False)
    assert float(found.sum()) == theirs.sum() < observed.size
    assert found[-1] == theirs[-1]


def test_wet_mask_keeps_points_where_one_is_at_the_value():
    for members, observed, kept in [([0, 0.1], 0, 1), ([0, 0], 0.1, 1), ([0, 0.05], 0.05, 0)]:
        fields = [a.astype("f4") for a in one_point(members, observed)]
        assert float(ranks.rank_histogram(*fields, min_value=0.1).sum()) == kept


def test_random_ranks_are_seeded_and_expected_ones_are_their_mean(rain):
    expected = ranks.rank_histogram(*rain)
    drawn = [ranks.rank_histogram(*rain, ties="random", seed=seed) for seed in range(200)]
    xr.testing.assert_equal(drawn[7], ranks.rank_histogram(*rain, ties="random", seed=7))
    assert any(not drawn[0].equals(other) for other in drawn)
    assert all(float(one.sum()) == float(expected.sum().round(9)) for one in drawn)
    spread = np.std([one.values for one in drawn], axis=0)
    assert np.all(np.abs(np.mean([one.values for one in drawn], axis=0) - expected) < 5 * spread / np.sqrt(200))


def test_random_ranks_of_two_places_differ():
    dry = xr.DataArray(np.zeros((2, 4000)), dims=("time", "x"))
    drawn = ranks.rank_histogram(dry, dry.expand_dims(member=4), ties="random", dim="x")
    assert drawn.sum("rank").values.tolist() == [4000, 4000]
    assert not drawn[0].equals(drawn[1])


def test_ranks_of_many_members_do_not_overflow():
    members = xr.DataArray(np.zeros((300, 5)), dims=("member", "x"))
    assert ranks.rank_histogram(members[0] + 1, members).values[-1] == 5
    np.testing.assert_allclose(ranks.rank_histogram(members[0], members), 5 / 301)
    assert ranks.rank_histogram(members[0] + 1, members[:255]).values[-1] == 5


def test_pit_is_within_its_interval_and_uniform_if_reliable():
    dry = one_point([0, 0, 0], 0)
    assert ranks.pit(*dry).values.tolist() == [0.5]
    assert ranks.pit(*one_point([0, 1, 3], 2)).values.tolist() == [2.5 / 4]
    assert np.isnan(ranks.pit(*dry, min_value=0.1)).all()
    values = np.random.default_rng(0).gamma(0.5, 4, (4, 20_000)) * (np.random.default_rng(1).random((4, 20_000)) > 0.7)
    fields = xr.DataArray(values[0], dims="x"), xr.DataArray(values[1:], dims=("member", "x"))
    drawn = ranks.pit(*fields, ties="random", seed=5)
    assert drawn.dims == ("x",) and drawn.min() >= 0 and drawn.max() < 1
    n_of_bins = np.histogram(drawn, bins=7, range=(0, 1))[0]
    np.testing.assert_allclose(n_of_bins, 20_000 / 7, rtol=0.06)
    np.testing.assert_allclose(ranks.pit_histogram(*fields, bins=7), n_of_bins, atol=250)
    xr.testing.assert_equal(drawn, ranks.pit(*fields, ties="random", seed=5))
    assert float(abs(drawn - ranks.pit(*fields, ties="random", seed=6)).mean()) > 0.1


def test_pit_histogram_lays_ranks_out():
    fields = one_point([1, 2], 1.5)  # the second of three ranks: from 1/3 to 2/3
    np.testing.assert_allclose(ranks.pit_histogram(*fields, bins=2), [0.5, 0.5])
    np.testing.assert_allclose(ranks.pit_histogram(*fields, bins=4), [0, 0.5, 0.5, 0])
    np.testing.assert_allclose(ranks.pit_histogram(*fields, bins=9), np.repeat([0, 1 / 3, 0], 3), atol=1e-12)


# ---------------------------------------------------------------- invariances


def test_order_of_members_and_dims_changes_nothing(rain):
    observed, forecast = rain
    expected = every_score(observed, forecast, dim=["time", "x"])
    assert_same_scores(every_score(observed, forecast.isel(member=[2, 0, 3, 1]), dim=["time", "x"]), expected)
    turned = every_score(
        observed.transpose("x", "time", "y"), forecast.transpose("y", "x", "time", "member"), dim=["time", "x"]
    )
    del turned["random"], expected["random"]  # drawn by the place among the histograms
    assert_same_scores(turned, expected)


@pytest.mark.parametrize("options", [{}, {"min_value": 0.5}, {"ties": "random"}])
def test_histograms_by_place_add_up(rain, options):
    whole = ranks.rank_histogram(*rain, **options)
    for kept in (["y", "x"], ["time"], ["time", "x"], ["time", "y", "x"]):
        by_place = ranks.rank_histogram(*rain, dim=[d for d in rain[0].dims if d not in kept], **options)
        assert by_place.dims == (*kept, "rank")
        if options.get("ties") == "random":
            assert float(by_place.sum()) == float(whole.sum())
        else:
            xr.testing.assert_allclose(by_place.sum(kept), whole)


def test_one_observation_is_shared_by_extra_dims(rain):
    observed, forecast = rain
    tiles = xr.concat([forecast, forecast + 1], dim="tile")
    found = every_score(observed, tiles, dim=["time", "y", "x"])
    for tile in (0, 1):
        expected = every_score(observed, tiles.isel(tile=tile))
        del expected["random"]
        assert_same_scores({name: found[name].isel(tile=tile) for name in expected}, expected)


def test_datasets_are_scored_by_variable(rain):
    datasets = [xr.Dataset({"rain": a, "twice": 2 * a, "crs": 0}, attrs={"source": "radar"}) for a in rain]
    for score in (ensemble.crps_ensemble, ranks.rank_histogram, ranks.pit, ranks.pit_histogram):
        found = score(*datasets, keep_attrs=True)
        assert set(found.data_vars) == {"rain", "twice"} and found.attrs == {"source": "radar"}
        xr.testing.assert_allclose(found["rain"].rename(None), score(*rain).rename(None))
    for table in (ensemble.crps_sums, ensemble.spread_skill_sums, ensemble.spread_skill):
        found = table(*datasets)
        assert found["variable"].values.tolist() == ["rain", "twice"]
        xr.testing.assert_allclose(found.sel(variable="rain", drop=True), table(*rain))


def test_without_skipna_one_nan_makes_nan(rain):
    observed, forecast = rain
    for score in (ensemble.crps_ensemble, ranks.rank_histogram, ranks.pit_histogram):
        assert np.isnan(score(observed, forecast, skipna=False)).all()
        clean = observed.fillna(0), forecast.fillna(0)
        xr.testing.assert_allclose(score(*clean, skipna=False), score(*clean))
        holed = clean[0].copy()
        holed[0, 0, 0] = np.nan
        by_time = np.isnan(score(holed, clean[1], dim=["y", "x"], skipna=False))
        assert by_time.isel(time=0).all() and not by_time.isel(time=1).any()
    for bins in ((), (0.5, 3.0)):
        assert np.isnan(ensemble.spread_skill(observed, forecast, bins=bins, skipna=False)["spread"]).all()
    assert np.isnan(ranks.rank_histogram(observed, forecast, ties="random", skipna=False)).all()


def test_attributes_are_kept_when_asked(rain):
    observed = rain[0].assign_attrs(units="mm h-1")
    for keep, attrs in ((False, {}), (True, {"units": "mm h-1"})):
        for score in (ensemble.crps_ensemble, ranks.rank_histogram, ranks.pit, ranks.pit_histogram):
            assert score(observed, rain[1], keep_attrs=keep).attrs == attrs
        assert ensemble.spread_skill(observed, rain[1], keep_attrs=keep)["rmse"].attrs == attrs


def test_inputs_are_left_as_they_were(rain):
    before = [a.copy(deep=True) for a in rain]
    every_score(*rain)
    ranks.pit(*rain, ties="random")
    for a, b in zip(rain, before, strict=True):
        xr.testing.assert_identical(a, b)


@pytest.mark.parametrize("chunks", [{"time": 1}, {"member": 1}, {"member": 3, "time": 2, "y": 7, "x": 5}, {"y": 4}])
@pytest.mark.parametrize("dim", [None, ["y", "x"], ["time", "x"]])
def test_chunks_change_nothing(rain, chunks, dim):
    observed, forecast = rain
    for fields in ((observed.chunk({"time": 2, "y": 9}), forecast.chunk(chunks)), (observed, forecast.chunk(chunks))):
        with dask.config.set(scheduler=refuse_to_compute):
            scored = every_score(*fields, dim=dim)
            scored["pit map"] = ranks.pit(*fields, ties="random", seed=2)
        assert all(dask.is_dask_collection(score.data) for score in scored.values())
        expected = every_score(observed, forecast, dim=dim)
        expected["pit map"] = ranks.pit(observed, forecast, ties="random", seed=2)
        assert_same_scores(dict(zip(scored, dask.compute(*scored.values()), strict=True)), expected)


# ---------------------------------------------------------------- errors


def test_mistakes_are_refused(rain):
    observed, forecast = rain
    for score in (ensemble.crps_ensemble, ensemble.spread_skill, ranks.rank_histogram, ranks.pit):
        with pytest.raises(ValueError, match="no 'number'"):
            score(observed, forecast, member_dim="number")
        with pytest.raises(ValueError, match="observations have the dim 'member' too"):
            score(forecast, forecast)
        with pytest.raises(ValueError, match="'y' differs"):
            score(observed.assign_coords(y=observed.y + 1), forecast)
    with pytest.raises(ValueError, match="'expected' or 'random'"):
        ranks.rank_histogram(observed, forecast, ties="middle")
    with pytest.raises(ValueError, match="'middle' or 'random'"):
        ranks.pit(observed, forecast, ties="expected")
    with pytest.raises(ValueError, match="bins is 0; it must be a whole number of 1 or more"):
        ranks.pit_histogram(observed, forecast, bins=0)
    with pytest.raises(ValueError, match="that rise"):
        ensemble.spread_skill(observed, forecast, bins=[2, 1])
    with pytest.raises(ValueError, match="finite"):
        ensemble.tw_crps_ensemble(observed, forecast, threshold=np.inf)
    with pytest.raises(TypeError, match="from crps_sums alone"):
        ensemble.crps_ensemble(observed)
    with pytest.raises(TypeError, match="from spread_skill_sums alone"):
        ensemble.spread_skill(observed)


@pytest.mark.parametrize("name", ["number", "realization", "ens", "sample"])
def test_members_are_found_by_common_names(name):
    o = xr.DataArray([1.0, 2.0], dims="x")
    f = xr.DataArray([[0.5, 1.0], [1.5, 3.0], [4.0, 2.0]], dims=("member", "x"))
    theirs = f.rename(member=name)
    for score in (verify.crps_ensemble, verify.rank_histogram, verify.pit):
        xr.testing.assert_identical(score(o, theirs), score(o, f))
    assert verify.spread_skill(o, theirs).equals(verify.spread_skill(o, f))
    assert verify.brier_score(o, theirs, thresholds=1.0) == verify.brier_score(o, f, thresholds=1.0)
    assert verify.rmse(o, theirs, member_dim="member") == verify.rmse(o, f, member_dim="member")
    with pytest.raises(ValueError, match="no 'member'"):
        verify.crps_ensemble(o, f.rename(member="tile"))
