"""Scores of ensembles beyond the CRPS: ranks, probabilities and spread, against hand cases and other packages."""

import numpy as np
import pytest
import xarray as xr

from xnowcast import verify

RNG = np.random.default_rng(5)


def rain(*shape):
    """Rain with a dry half and many ties, in steps of 0.5 mm/h."""
    return np.where(RNG.random(shape) < 0.5, 0, np.round(2 * RNG.gamma(1.0, 3.0, shape)) / 2).astype("f4")


@pytest.fixture(scope="module")
def pair():
    observed = xr.DataArray(rain(6, 20, 24), dims=("time", "y", "x"))
    members = xr.DataArray(rain(5, 6, 20, 24), dims=("member", "time", "y", "x"))
    return observed, members


@pytest.fixture(scope="module")
def holed(pair):
    observed, members = (field.copy(deep=True) for field in pair)
    observed[:, :5, :5] = np.nan
    members[1, 2] = np.nan
    members[:, 4, 10] = np.nan
    return observed, members


def test_ranks_of_ties_are_shared_out_exactly(pair):
    observed, members = pair
    expected = np.zeros(6)
    for o, m in zip(observed.values.ravel(), members.values.reshape(5, -1).T, strict=True):
        below, ties = (m < o).sum(), (m == o).sum()
        expected[below : below + ties + 1] += 1 / (ties + 1)
    np.testing.assert_allclose(verify.rank_histogram(observed, members), expected)


def test_random_ranks_are_seeded_and_whole_and_agree_on_average(pair):
    first, again = (verify.rank_histogram(*pair, ties="random", seed=3) for _ in range(2))
    xr.testing.assert_identical(first, again)
    assert not first.equals(verify.rank_histogram(*pair, ties="random", seed=4))
    assert (first % 1 == 0).all()
    expected = verify.rank_histogram(*pair)
    assert float(first.sum()) == pytest.approx(float(expected.sum())) == pair[0].size
    np.testing.assert_allclose(first, expected, atol=5 * np.sqrt(pair[0].size))


def test_the_wet_mask_leaves_out_points_where_all_is_dry(pair):
    observed, members = pair
    wet = (observed >= 0.1) | (members >= 0.1).any("member")
    assert float(verify.rank_histogram(observed, members, min_value=0.1).sum()) == int(wet.sum())


def test_a_reliable_ensemble_has_a_flat_pit():
    truth = xr.DataArray(RNG.normal(size=4000), dims="x")
    members = xr.DataArray(RNG.normal(size=(19, 4000)), dims=("member", "x"))
    counts = verify.pit_histogram(truth, members, bins=5)
    np.testing.assert_allclose(counts, 800, atol=5 * np.sqrt(800))
    values = verify.pit(truth, members)
    assert float(values.min()) >= 0 and float(values.max()) <= 1 and abs(float(values.mean()) - 0.5) < 0.03


def test_brier_score_is_that_of_xskillscore(pair):
    xskillscore = pytest.importorskip("xskillscore")
    observed, members = pair
    for threshold in (0.5, 3.0):
        ours = verify.brier_score(observed, members, thresholds=threshold)
        theirs = xskillscore.brier_score(observed >= threshold, (members >= threshold).mean("member"))
        assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


def test_the_parts_of_the_brier_score_add_up(pair, holed):
    for observed, members in (pair, holed):
        parts = verify.brier_decomposition(observed, members, thresholds=[0.5, 3.0])
        whole = verify.brier_score(observed, members, thresholds=[0.5, 3.0])
        added = parts.reliability - parts.resolution + parts.uncertainty
        np.testing.assert_allclose(added, whole, rtol=1e-12)


def test_reliability_counts_each_probability(pair):
    observed, members = pair
    diagram = verify.reliability_diagram(observed, members, thresholds=3.0)
    share, event = (members >= 3).mean("member").values.ravel(), (observed >= 3).values.ravel()
    for k in range(6):
        chosen = np.isclose(share, k / 5)
        assert float(diagram.n[k]) == chosen.sum()
        if chosen.any():
            assert float(diagram.observed_frequency[k]) == pytest.approx(event[chosen].mean())


def test_roc_of_a_perfect_and_of_a_useless_ensemble(pair):
    observed, _ = pair
    perfect = verify.roc(observed, xr.concat([observed] * 3, "member"), thresholds=2.0)
    assert float(perfect.area) == pytest.approx(1.0)
    flat = xr.concat([observed * 0 + 1] * 3, "member")
    assert float(verify.roc(observed, flat, thresholds=2.0).area) == pytest.approx(0.5)


def test_threshold_weighted_crps_is_that_of_the_censored_fields(pair):
    observed, members = pair
    ours = verify.tw_crps_ensemble(observed, members, threshold=2.0)
    theirs = verify.crps_ensemble(observed.clip(min=2.0), members.clip(min=2.0))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
    scoringrules = pytest.importorskip("scoringrules")
    points = scoringrules.twcrps_ensemble(
        observed.values.astype("f8"), np.moveaxis(members.values, 0, -1).astype("f8"), a=2.0
    )
    assert float(ours) == pytest.approx(float(np.mean(points)), rel=1e-6)


def test_spread_and_error_are_those_of_numpy(pair):
    observed, members = pair
    found = verify.spread_skill(observed, members)
    variance = members.astype("f8").var("member", ddof=1)
    assert float(found.spread) == pytest.approx(float(np.sqrt(variance.mean())), rel=1e-6)
    error = members.astype("f8").mean("member") - observed
    assert float(found.rmse) == pytest.approx(float(np.sqrt((error**2).mean())), rel=1e-6)


def test_points_that_nobody_measured_or_forecast_do_not_spoil_the_spread():
    observed = xr.DataArray([1.0, 2.0, np.nan, 4.0], dims="x")
    members = xr.DataArray([[1.0, np.nan, 3.0, np.nan], [2.0, 5.0, 4.0, np.nan], [3.0, np.nan, 6.0, np.nan]])
    members = members.rename(dim_0="member", dim_1="x")
    xr.testing.assert_allclose(
        verify.spread_skill(observed, members), verify.spread_skill(observed[:1], members[:, :1])
    )
    assert float(verify.spread_skill_sums(observed, members).n) == 1


SCORES = {
    "rank_histogram": lambda o, f, dim: verify.rank_histogram(o, f, dim=dim),
    "pit_histogram": lambda o, f, dim: verify.pit_histogram(o, f, dim=dim),
    "brier": lambda o, f, dim: verify.brier_score(o, f, thresholds=[0.5, 3], dim=dim),
    "tw_crps": lambda o, f, dim: verify.tw_crps_ensemble(o, f, threshold=[0.5, 3], dim=dim),
    "spread": lambda o, f, dim: verify.spread_skill(o, f, dim=dim).to_dataarray(),
    "roc": lambda o, f, dim: verify.roc(o, f, thresholds=2.0, dim=dim).pod,
}


@pytest.mark.parametrize("name", SCORES)
def test_chunks_members_order_and_laziness(name, holed, nothing_may_run):
    observed, members = holed
    expected = SCORES[name](observed, members, ["y", "x"])
    assert "time" in expected.dims and "y" not in expected.dims
    with nothing_may_run:
        lazy = SCORES[name](observed.chunk(time=2), members.chunk(member=2, time=3, y=7), ["y", "x"])
    assert lazy.chunks is not None
    np.testing.assert_allclose(lazy.transpose(*expected.dims), expected, rtol=1e-5)
    shuffled = SCORES[name](observed, members.isel(member=[3, 0, 4, 1, 2]), ["y", "x"])
    np.testing.assert_allclose(shuffled.transpose(*expected.dims), expected, rtol=1e-5)


@pytest.mark.parametrize("sums", ["rank_histogram", "probability_table", "spread_skill_sums", "crps_sums"])
def test_parts_add_up_to_the_whole(sums, holed):
    options = {"thresholds": [0.5, 3.0]} if sums == "probability_table" else {}
    score = getattr(verify, sums)
    early, late = (score(*(f.isel(time=part) for f in holed), **options) for part in (slice(2), slice(2, None)))
    xr.testing.assert_allclose(early + late, score(*holed, **options), rtol=1e-5)


def test_an_ensemble_without_members_is_refused(pair):
    observed, _ = pair
    for score in (verify.rank_histogram, verify.spread_skill):
        with pytest.raises(ValueError, match="member"):
            score(observed, observed)
