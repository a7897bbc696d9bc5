"""Scores of probabilities from members: hand-worked cases, identities, agreement with independent code, errors."""

import dask
import numpy as np
import pytest
import xarray as xr
from rain_fields import observed_and_members

from xnowcast.verify import probability

THRESHOLDS = [0.5, 2.0, 5.0]
OF_TABLE = (
    probability.brier_score,
    probability.brier_decomposition,
    probability.reliability_diagram,
    probability.roc,
)


def make_rain(n_members=5, nan=True, dtype="f4"):
    return observed_and_members(members=n_members, seed=8, missing=0.02 if nan else 0, dtype=dtype)


@pytest.fixture
def rain():
    return make_rain()


def of_members(counts, observed, n_members):
    """Fields with an event at 1 and above, of so many members at each point."""
    members = np.arange(n_members)[:, None] < np.array(counts)
    return xr.DataArray(np.array(observed, float), dims="x"), xr.DataArray(members * 1.0, dims=("member", "x"))


# ---------------------------------------------------------------- worked by hand


def test_table_by_hand():
    table = probability.probability_table(*of_members([0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 0], 2), thresholds=1)
    assert table["non_events"].values.tolist() == [1, 1, 1]
    assert table["events"].values.tolist() == [0, 1, 2]
    assert table["probability"].values.tolist() == [0, 0.5, 1]
    assert table["events"].dtype == np.int64 and table["threshold"].ndim == 0


def test_scores_by_hand():
    fields = of_members([0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 0], 2)
    assert float(probability.brier_score(*fields, thresholds=1)) == pytest.approx(1.5 / 6)
    assert float(probability.brier_score(*fields, thresholds=1, fair=True)) == pytest.approx((1.5 - 0.5) / 6)
    diagram = probability.reliability_diagram(*fields, thresholds=1)
    assert diagram["observed_frequency"].values.tolist() == pytest.approx([0, 0.5, 2 / 3])
    assert diagram["forecast_probability"].values.tolist() == [0, 0.5, 1]
    assert diagram["n"].values.tolist() == [1, 2, 3]
    parts = probability.brier_decomposition(*fields, thresholds=1)
    assert float(parts["reliability"]) == pytest.approx(3 * (1 / 3) ** 2 / 6)
    assert float(parts["resolution"]) == pytest.approx((0.5**2 + 3 * (1 / 6) ** 2) / 6)
    assert float(parts["uncertainty"]) == 0.25
    curve = probability.roc(*fields, thresholds=1)
    assert curve["pod"].values.tolist() == pytest.approx([1, 1, 2 / 3, 0])
    assert curve["probability_of_false_detection"].values.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    # of 9 pairs of an event and a non-event: 2 + 1 / 2 + 4 + 2 / 2 ... counted out: (2, 2, 1) against (0, 1, 2)
    assert float(curve["area"]) == pytest.approx((2 * (1 + 1 + 0.5) + (1 + 0.5 + 0)) / 9)


def test_event_is_at_or_above_the_threshold_in_the_precision_of_the_data():
    observed = xr.DataArray(np.array([0.7, 0.7], "f4"), dims="x")
    table = probability.probability_table(observed, observed.expand_dims(member=3), thresholds=np.float64(0.7))
    assert table["events"].values.tolist() == [0, 0, 0, 2]
    table = probability.probability_table(
        observed.astype("f8").round(1), observed.expand_dims(member=3), thresholds=np.float64(0.7)
    )
    assert table["events"].values.tolist() == [0, 0, 0, 2]


def test_points_with_a_missing_member_are_left_out():
    observed = xr.DataArray([1.0, 1.0, np.nan], dims="x")
    forecast = xr.DataArray([[1.0, 1.0, 1.0], [1.0, np.nan, 1.0]], dims=("member", "x"))
    table = probability.probability_table(observed, forecast, thresholds=1)
    assert table["events"].values.tolist() == [0, 0, 1] and int(table["non_events"].sum()) == 0


def test_nothing_by_nothing_is_nan():
    nothing = of_members([1], [np.nan], 2)
    assert np.isnan(float(probability.brier_score(*nothing, thresholds=1)))
    assert np.isnan(probability.brier_decomposition(*nothing, thresholds=1).to_array()).all()
    no_event = of_members([1, 0], [0, 0], 2)
    curve = probability.roc(*no_event, thresholds=1)
    assert np.isnan(curve["pod"]).all() and np.isnan(curve["area"])
    diagram = probability.reliability_diagram(*no_event, thresholds=1)
    np.testing.assert_equal(diagram["observed_frequency"].values, [0, 0, np.nan])
    assert np.isnan(float(probability.brier_score(*of_members([1], [1], 1), thresholds=1, fair=True)))


def test_probabilities_are_put_together_in_bins():
    fields = of_members([0, 1, 2, 3, 4, 5, 5], [0, 0, 0, 1, 0, 1, 1], 5)
    diagram = probability.reliability_diagram(*fields, thresholds=1, bins=3)
    assert diagram["n"].values.tolist() == [2, 2, 3]
    assert diagram["forecast_probability"].values.tolist() == pytest.approx([0.1, 0.5, (0.8 + 2) / 3])
    assert diagram["observed_frequency"].values.tolist() == pytest.approx([0, 0.5, 2 / 3])


# ---------------------------------------------------------------- identities and other code


def test_parts_of_the_brier_score_add_up_exactly(rain):
    parts = probability.brier_decomposition(*rain, thresholds=THRESHOLDS, dim=["y", "x"])
    whole = probability.brier_score(*rain, thresholds=THRESHOLDS, dim=["y", "x"])
    xr.testing.assert_equal(parts["brier_score"].rename("brier_score"), whole)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
    xr.testing.assert_allclose(total, whole, rtol=1e-12)


def test_a_perfect_forecast_is_perfect():
    observed, _ = make_rain(nan=False)
    perfect = observed.expand_dims(member=4)
    assert probability.brier_score(observed, perfect, thresholds=THRESHOLDS).values.tolist() == [0, 0, 0]
    assert probability.roc(observed, perfect, thresholds=THRESHOLDS)["area"].values.tolist() == [1, 1, 1]
    parts = probability.brier_decomposition(observed, perfect, thresholds=THRESHOLDS)
    xr.testing.assert_allclose(parts["resolution"], parts["uncertainty"])


@pytest.mark.parametrize("fair", [False, True])
def test_brier_score_equals_scores(fair):
    scores = pytest.importorskip("scores.probability")
    observed, forecast = make_rain(nan=False, dtype="f8")
    expected = scores.brier_score_for_ensemble(forecast, observed, "member", THRESHOLDS, fair_correction=fair)
    found = probability.brier_score(observed, forecast, thresholds=THRESHOLDS, fair=fair)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_brier_score_equals_xskillscore_and_properscoring_off_the_threshold():
    # Theirs are scores of value > threshold; no value is 1.95.
    xskillscore = pytest.importorskip("xskillscore")
    properscoring = pytest.importorskip("properscoring")
    observed, forecast = make_rain(nan=False, dtype="f8")
    found = float(probability.brier_score(observed, forecast, thresholds=1.95))
    assert found == pytest.approx(float(xskillscore.threshold_brier_score(observed, forecast, 1.95)), rel=1e-12)
    members_last = forecast.transpose(..., "member").values
    expected = properscoring.threshold_brier_score(observed.values, members_last, threshold=1.95).mean()
    assert found == pytest.approx(expected, rel=1e-12)


def test_area_equals_scores_and_the_fraction_of_ordered_pairs():
    scores = pytest.importorskip("scores.probability")
    observed, forecast = make_rain(nan=False, dtype="f8")
    found = float(probability.roc(observed, forecast, thresholds=2.0)["area"])
    share, event = (forecast >= 2).mean("member"), observed >= 2
    assert found == pytest.approx(float(scores.roc_auc(share, event.astype(float))), rel=1e-12)
    with_event, without = share.values[event.values], share.values[~event.values]
    ordered = (with_event[:, None] > without).mean() + (with_event[:, None] == without).mean() / 2
    assert found == pytest.approx(ordered, rel=1e-12)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # its empty bins
def test_diagram_equals_pysteps_where_no_probability_is_on_an_edge():
    probscores = pytest.importorskip("pysteps.verification.probscores")
    observed, forecast = make_rain(nan=False, dtype="f8")
    share = (forecast >= 2).mean("member").values
    theirs = probscores.reldiag_init(2.0, n_bins=13, min_count=1)
    probscores.reldiag_accum(theirs, share.ravel(), observed.values.ravel())
    mean, frequency = probscores.reldiag_compute(theirs)
    found = probability.reliability_diagram(observed, forecast, thresholds=2.0)
    seen = theirs["num_idx"] > 0
    np.testing.assert_allclose(found["observed_frequency"], frequency[seen], rtol=1e-12)
    np.testing.assert_allclose(found["forecast_probability"], mean[seen], rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- invariances


def test_tables_of_parts_add_up(rain):
    observed, forecast = rain
    parts = [
        probability.probability_table(observed[p], forecast[:, p], thresholds=THRESHOLDS)
        for p in (slice(0, 1), slice(1, 3))
    ]
    whole = probability.probability_table(*rain, thresholds=THRESHOLDS)
    xr.testing.assert_equal(parts[0] + parts[1], whole)
    by_cell = probability.probability_table(*rain, thresholds=THRESHOLDS, dim=[])
    assert by_cell["events"].dims[:3] == ("time", "y", "x")
    xr.testing.assert_equal(by_cell.sum(["time", "y", "x"]), whole)
    for score in OF_TABLE:
        xr.testing.assert_equal(score(parts[0] + parts[1]), score(*rain, thresholds=THRESHOLDS))


def test_order_of_members_and_dims_changes_nothing(rain):
    observed, forecast = rain
    expected = probability.probability_table(observed, forecast, thresholds=THRESHOLDS, dim=["time", "x"])
    turned = probability.probability_table(
        observed.transpose("x", "y", "time"),
        forecast.transpose("y", "time", "x", "member")[..., ::-1],
        thresholds=THRESHOLDS,
        dim=["time", "x"],
    )
    xr.testing.assert_equal(turned.transpose(*expected.dims), expected)


def test_many_members_do_not_overflow():
    observed, forecast = of_members([300, 127, 0], [1, 1, 0], 300)
    for n_members in (126, 127, 255, 300):
        table = probability.probability_table(observed, forecast[:n_members], thresholds=1)
        assert int(table["events"][min(127, n_members)]) >= 1 and int(table["events"][n_members]) >= 1
        assert int(table["events"].sum()) == 2 and int(table["non_events"][0]) == 1


def test_datasets_are_scored_by_variable(rain):
    datasets = [xr.Dataset({"rain": a, "twice": 2 * a, "crs": 0}, attrs={"source": "radar"}) for a in rain]
    found = probability.brier_score(*datasets, thresholds=THRESHOLDS, keep_attrs=True)
    assert set(found.data_vars) == {"rain", "twice"} and found.attrs == {"source": "radar"}
    for score in (probability.probability_table, *OF_TABLE[1:]):
        found = score(*datasets, thresholds=THRESHOLDS)
        xr.testing.assert_allclose(found.sel(variable="rain", drop=True), score(*rain, thresholds=THRESHOLDS))


def test_without_skipna_one_nan_makes_nan(rain):
    clean = [a.fillna(0) for a in rain]
    holed = clean[0].copy()
    holed[0, 0, 0] = np.nan
    options = {"thresholds": 2.0, "dim": ["y", "x"], "skipna": False}
    found = probability.probability_table(holed, clean[1], **options)
    assert np.isnan(found["events"][0]).all() and not np.isnan(found["events"][1:]).any()
    xr.testing.assert_allclose(
        probability.brier_score(*clean, **options), probability.brier_score(*clean, thresholds=2.0, dim=["y", "x"])
    )


@pytest.mark.parametrize("chunks", [{"time": 1}, {"member": 1}, {"member": 3, "time": 2, "y": 7, "x": 5}])
def test_chunks_change_nothing(rain, chunks, nothing_may_run):
    observed, forecast = rain
    lazy = observed.chunk({"time": 2, "y": 9}), forecast.chunk(chunks)
    for dim in (None, ["y", "x"]):
        for score in (probability.probability_table, *OF_TABLE):
            with nothing_may_run:
                found = score(*lazy, thresholds=THRESHOLDS, dim=dim)
            assert dask.is_dask_collection(found)
            xr.testing.assert_allclose(found.compute(), score(observed, forecast, thresholds=THRESHOLDS, dim=dim))


# ---------------------------------------------------------------- errors


def test_mistakes_are_refused(rain):
    observed, forecast = rain
    for score in OF_TABLE:
        for arguments in ((observed,), (observed, forecast)):
            with pytest.raises(TypeError, match="a probability table alone"):
                score(*arguments)
        with pytest.raises(ValueError, match="no 'number'"):
            score(observed, forecast, thresholds=1, member_dim="number")
        with pytest.raises(ValueError, match="observations have the dim 'member' too"):
            score(forecast, forecast, thresholds=1)
        with pytest.raises(ValueError, match="'x' differs"):
            score(observed.assign_coords(x=observed.x + 1), forecast, thresholds=1)
        with pytest.raises(ValueError, match="finite"):
            score(observed, forecast, thresholds=[np.nan])
    for bins in (0, 7, 1.5):
        with pytest.raises(ValueError, match=r"bins is .*; it must be a whole number of 1 or more, up to 6"):
            probability.reliability_diagram(observed, forecast, thresholds=1, bins=bins)
