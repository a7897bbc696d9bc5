"""Sums in place of fields: what is said beside them counts or is refused, and only what belongs together adds up."""

import inspect

import numpy as np
import pytest
import xarray as xr

from xnowcast import verify
from xnowcast.plot import plot_rank_histogram


def fields(nan=True, members=3):
    """Observations (time, y, x) and members of forecasts, in part not measured."""
    rng = np.random.default_rng(7)
    values = rng.gamma(1.0, 2.0, (members + 1, 4, 12, 11))
    if nan:
        values[rng.random(values.shape) < 0.1] = np.nan
    coords = {"time": np.datetime64("2024-06-01", "ns") + np.arange(4) * np.timedelta64(1, "h")}
    arrays = xr.DataArray(values, dims=("member", "time", "y", "x"), coords=coords)
    return arrays[0], arrays[1:]


def apart(observed, forecast):
    """Stands for a network that sees two batches of images."""
    return (forecast - observed).abs().mean((1, 2, 3))


AT = {"thresholds": [1.0, 3.0]}
IMAGE = {"data_range": 20.0, "window": 5, "min_valid": 0.2}
WAVES = {"spacing_km": 1.0}
RATIOS = ["csi", "ets", "hss", "f1", "pod", "recall", "precision", "false_alarm_ratio", "frequency_bias", "accuracy"]
ONE = {
    "error_sums": ({}, ["rmse", "mse", "mae", "mean_error"]),
    "correlation_sums": ({}, ["correlation"]),
    "balanced_sums": ({}, ["balanced_mse", "balanced_mae"]),
    "contingency_table": (AT, [*RATIOS, "probability_of_false_detection", "sedi"]),
    "fss_sums": (AT | {"scales": [1, 3]}, ["fss"]),
    "sal_sums": ({}, ["sal", "object_free_fraction"]),
    "image_sums": (IMAGE, ["ssim", "psnr"]),
    "gradient_sums": ({}, ["gradient_difference"]),
    "lpips_sums": ({"pixels": (0, 20), "network": apart}, ["lpips"]),
    "spectrum_sums": (WAVES, ["spectral_ratio", "effective_resolution", "log_spectral_distance"]),
}
MANY = {
    "crps_sums": ({}, ["crps_ensemble"]),
    "spread_skill_sums": ({}, ["spread_skill"]),
    "probability_table": (AT, ["brier_score", "brier_decomposition", "reliability_diagram", "roc"]),
}
CASES = [
    pytest.param(maker, options, score, ensemble, id=score)
    for kinds, ensemble in ((ONE, False), (MANY, True))
    for maker, (options, scores) in kinds.items()
    for score in scores
]
CASES.append(pytest.param("crps_sums", {"threshold": [1.0, 3.0]}, "tw_crps_ensemble", True, id="tw_crps_ensemble"))
HISTOGRAM = {"edges": [0.0, 1.0, 5.0, np.inf]}


def pair(ensemble):
    observed, members = fields()
    return observed, members if ensemble else members.isel(member=0, drop=True)


def options_of(score, options):
    return {name: value for name, value in options.items() if name in inspect.signature(score).parameters}


# ---------------------------------------------------------------- dims


@pytest.mark.parametrize(("maker", "options", "score", "ensemble"), CASES)
@pytest.mark.parametrize("dim", ["time", ["time"], ...], ids=["name", "list", "ellipsis"])
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_sums_are_added_up_over_a_dim_that_they_have(maker, options, score, ensemble, dim, lazy):
    take = getattr(verify, score)
    both = pair(ensemble)
    sums = getattr(verify, maker)(*both, dim=["y", "x"], **options)
    expected = take(*both, **options_of(take, options))
    xr.testing.assert_allclose(take(sums.chunk() if lazy else sums, dim=dim), expected)


@pytest.mark.parametrize(("maker", "options", "score", "ensemble"), CASES)
def test_an_ellipsis_means_all_dims(maker, options, score, ensemble):
    take = getattr(verify, score)
    both = pair(ensemble)
    xr.testing.assert_identical(
        take(*both, dim=..., **options_of(take, options)), take(*both, **options_of(take, options))
    )


@pytest.mark.parametrize("score", ["emd", "percentile_error", "quantile_quantile", "percentiles", "power_spectrum"])
def test_an_ellipsis_means_all_dims_of_other_scores_too(score):
    take, (observed, forecast) = getattr(verify, score), pair(False)
    given = [forecast] if score in ("percentiles", "power_spectrum") else [observed, forecast]
    options = {"percentage": 50} if score == "percentile_error" else {}
    options |= WAVES if score == "power_spectrum" else {}
    xr.testing.assert_identical(take(*given, dim=..., **options), take(*given, **options))


def test_histograms_are_added_up_over_a_dim_that_they_have():
    both = pair(False)
    histogram = verify.intensity_histogram(*both, dim=["y", "x"], **HISTOGRAM)
    whole = verify.intensity_histogram(*both, **HISTOGRAM)
    for score in (verify.emd, verify.histogram_overlap):
        xr.testing.assert_allclose(score(histogram, dim="time"), score(whole))
    xr.testing.assert_allclose(verify.emd(histogram, dim="time", exact=False), verify.emd(whole))
    with pytest.raises(ValueError, match="exact=True beside sums that were made with exact=False"):
        verify.emd(histogram, exact=True)


@pytest.mark.parametrize(("maker", "options", "score", "ensemble"), CASES)
@pytest.mark.parametrize("dim", ["x", ["time", "x"], "nowhere"], ids=str)
def test_a_dim_that_sums_have_lost_is_refused(maker, options, score, ensemble, dim):
    sums = getattr(verify, maker)(*pair(ensemble), dim=["y", "x"], **options)
    with pytest.raises(ValueError, match="is none that these sums"):
        getattr(verify, score)(sums, dim=dim)


@pytest.mark.parametrize("dim", ["threshold", "scale", "variable"])
def test_own_dims_of_sums_are_not_added_up(dim):
    both = [xr.Dataset({"a": array, "b": array}) for array in pair(False)]
    table = verify.contingency_table(*both, thresholds=[1.0, 3.0], scales=[1, 2])
    with pytest.raises(ValueError, match=f"not added up over '{dim}'"):
        verify.csi(table, dim=dim)
    assert verify.csi(table, dim=...).dims == ("variable", "threshold", "scale")


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("made", "beside", "said"),
    [
        (lambda o, f, m: verify.crps_sums(o, m), "crps_ensemble", {"fair": True}),
        (lambda o, f, m: verify.crps_sums(o, m, fair=True), "crps_ensemble", {"fair": False}),
        (lambda o, f, m: verify.image_sums(o, f, **IMAGE), "psnr", {"data_range": 255.0}),
        (lambda o, f, m: verify.image_sums(o, f, **IMAGE), "ssim", {"window": 7}),
        (lambda o, f, m: verify.fss_sums(o, f, thresholds=1, scales=3), "fss", {"boundary": "interior"}),
        (lambda o, f, m: verify.fss_sums(o, f, thresholds=1, scales=3), "fss", {"min_valid": 0.5}),
        (lambda o, f, m: verify.sal_sums(o, f), "sal", {"threshold": 5.0}),
        (lambda o, f, m: verify.sal_sums(o, f), "object_free_fraction", {"wet": 1.0}),
        (lambda o, f, m: verify.contingency_table(o, f, thresholds=1, scales=5), "csi", {"pooling": "mean"}),
        (lambda o, f, m: verify.contingency_table(o, f, thresholds=1, scales=5), "pod", {"stride": 1}),
        (lambda o, f, m: verify.spectrum_sums(o, f, **WAVES), "spectral_ratio", {"window": "hann"}),
        (lambda o, f, m: verify.balanced_sums(o, f), "balanced_mae", {"bounds": [1.0, 2.0, 3.0, 4.0]}),
    ],
)
def test_settings_other_than_those_of_the_sums_are_refused(made, beside, said):
    observed, members = fields()
    sums = made(observed, members[0], members)
    with pytest.raises(ValueError, match=f"{beside} was given {next(iter(said))}=.* made with"):
        getattr(verify, beside)(sums, **said)


def test_settings_may_be_said_again():
    observed, members = fields()
    sums = verify.fss_sums(observed, members[0], thresholds=1, scales=3, boundary="interior")
    assert verify.fss(sums, boundary="interior") == verify.fss(sums)
    sums = verify.crps_sums(observed, members, fair=True)
    assert verify.crps_ensemble(sums, fair=True) == verify.crps_ensemble(observed, members, fair=True)
    sums = verify.image_sums(observed, members[0], **IMAGE)
    assert verify.psnr(sums, data_range=20) == verify.psnr(sums)


@pytest.mark.parametrize(("maker", "options", "score", "ensemble"), CASES)
@pytest.mark.parametrize("said", [{"skipna": True}, {"member_dim": "member"}], ids=str)
def test_what_cannot_count_beside_sums_is_refused(maker, options, score, ensemble, said):
    sums = getattr(verify, maker)(*pair(ensemble), **options)
    with pytest.raises(ValueError, match=f"{next(iter(said))}= beside sums, where it cannot count"):
        getattr(verify, score)(sums, **said)
    with pytest.raises(TypeError, match="unexpected keyword argument 'thresh'"):
        getattr(verify, score)(sums, thresh=1.0)


def test_sums_written_down_by_hand_have_no_settings():
    sums = xr.Dataset({"n": 2.0, "distance": 3.0, "spread": 1.0})
    assert verify.crps_ensemble(sums) == 1.0
    with pytest.raises(ValueError, match="fair= beside sums, where it cannot count"):
        verify.crps_ensemble(sums, fair=True)


@pytest.mark.parametrize(("maker", "options", "score", "ensemble"), CASES)
def test_signatures_have_the_options_of_the_sums(maker, options, score, ensemble):
    told = inspect.signature(getattr(verify, score)).parameters
    assert list(told)[:2] == ["observations", "forecasts"] and told["forecasts"].default is None
    assert {"dim", "member_dim", "skipna", "keep_attrs"} <= set(told)
    assert all(p.kind is p.KEYWORD_ONLY for p in list(told.values())[2:])


# ---------------------------------------------------------------- adding up


def two_of(maker, settings, others, **common):
    observed, members = fields()
    forecast = members if maker in (*MANY, "rank_histogram", "pit_histogram") else members[0]
    make = getattr(verify, maker)
    return make(observed, forecast, **common, **settings), make(observed, forecast, **common, **others)


UNLIKE = [
    ("contingency_table", {"thresholds": 1.0}, {"thresholds": 4.0}, {}, "csi", "threshold"),
    ("contingency_table", {"thresholds": [1.0, 2.0]}, {"thresholds": [2.0, 4.0]}, {}, "csi", "threshold"),
    ("contingency_table", {"scales": 1}, {"scales": 2}, {"thresholds": 1.0}, "csi", "scale"),
    ("contingency_table", {"pooling": "max"}, {"pooling": "mean"}, {"thresholds": 1.0, "scales": 2}, "csi", "pooling"),
    ("fss_sums", {"scales": 3}, {"scales": 5}, {"thresholds": 1.0}, "fss", "scale"),
    ("fss_sums", {}, {"boundary": "zero"}, {"thresholds": 1.0, "scales": 3}, "fss", "boundary"),
    ("crps_sums", {}, {"fair": True}, {}, "crps_ensemble", "fair"),
    ("crps_sums", {"threshold": 1.0}, {"threshold": 2.0}, {}, "tw_crps_ensemble", "threshold"),
    ("spread_skill_sums", {"bins": [1.0]}, {"bins": [2.0]}, {}, "spread_skill", "spread_from"),
    ("probability_table", {"thresholds": 1.0}, {"thresholds": 2.0}, {}, "brier_score", "threshold"),
    ("image_sums", {"data_range": 10.0}, {"data_range": 20.0}, {"window": 5, "min_valid": 0.2}, "psnr", "data_range"),
    ("sal_sums", {}, {"threshold": 2.0}, {}, "sal", "threshold"),
    ("balanced_sums", {}, {"weights": [1.0, 1.0, 1.0, 1.0, 2.0]}, {}, "balanced_mae", "weights"),
    ("spectrum_sums", {}, {"detrend": None}, WAVES, "spectral_ratio", "detrend"),
    ("intensity_histogram", {"edges": [0, 1, np.inf]}, {"edges": [0, 2, np.inf]}, {}, "histogram_overlap", "intensity"),
    ("error_sums", {}, {"weights": xr.DataArray([1.0, 2.0, 1.0, 0.0], dims="time")}, {}, "rmse", "weighted"),
]


@pytest.mark.parametrize(("maker", "one", "other", "common", "score", "what"), UNLIKE)
@pytest.mark.parametrize("how", ["+", "sum", "concat", "dim"])
def test_sums_of_different_settings_do_not_add_up(maker, one, other, common, score, what, how):
    both = two_of(maker, one, other, **common)
    join = {"+": lambda a, b: a + b, "sum": lambda a, b: sum([a, b]), "concat": _joined, "dim": _joined}[how]
    if (what, how) == ("scale", "concat"):
        return  # each keeps the scale that it is at
    with pytest.raises(ValueError, match=r"joined|have lost their|not added up over"):
        getattr(verify, score)(join(*both), **({"dim": "month"} if how == "dim" else {}))
    with pytest.raises(ValueError, match=f"sums differ in {what}"):
        verify.merge(both)


def _joined(one, other):
    return xr.concat([one, other], "month", join="outer", coords="different", compat="equals")


@pytest.mark.parametrize(("maker", "options", "score", "ensemble"), CASES)
def test_parts_add_up_to_the_whole(maker, options, score, ensemble):
    observed, forecast = pair(ensemble)
    make, take = getattr(verify, maker), getattr(verify, score)
    parts = [make(observed.isel(time=t), forecast.isel(time=t), **options) for t in ([0], [1, 2, 3])]
    whole = take(make(observed, forecast, **options))
    joined = _joined(*parts)
    for together in (take(verify.merge(parts)), take(parts[0] + parts[1]), take(joined, dim="month")):
        xr.testing.assert_allclose(together, whole)
    xr.testing.assert_allclose(take(joined.isel(month=1)), take(parts[1]))


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_sums_from_a_file_add_up_with_others_and_still_refuse(tmp_path, suffix):
    one, other = two_of("contingency_table", {"thresholds": [1.0]}, {"thresholds": [2.0]})
    path = tmp_path / f"sums{suffix}"
    one.to_netcdf(path) if suffix == ".nc" else one.to_zarr(path, consolidated=False)
    opened = (
        xr.open_dataset(path, engine=None if suffix == ".nc" else "zarr", chunks={}, consolidated=False)
        if (suffix == ".zarr")
        else xr.open_dataset(path)
    )
    with opened:
        assert verify.csi(opened + one).values == verify.csi(one).values
        xr.testing.assert_equal(verify.merge([opened, one]).load(), one + one)
        with pytest.raises(ValueError, match="joined"):
            verify.csi(opened + other)
        with pytest.raises(ValueError, match="sums differ in threshold"):
            verify.merge([opened, other])


def test_selected_thresholds_add_up_where_they_are_the_same():
    one, other = two_of("contingency_table", {"thresholds": [1.0, 2.0, 4.0]}, {"thresholds": [1.0, 2.0]})
    some = one.sel(threshold=[1.0, 2.0])
    xr.testing.assert_allclose(verify.csi(verify.merge([some, other])), verify.csi(other))
    xr.testing.assert_allclose(verify.csi(one.sel(threshold=2.0)), verify.csi(one).sel(threshold=2.0))
    with pytest.raises(ValueError, match="have lost their 'threshold'"):
        verify.csi(one.sel(threshold=1.0) + one.sel(threshold=2.0))
    with pytest.raises(ValueError, match="have lost their 'threshold'"):
        verify.csi(one.sum("threshold"))


@pytest.mark.parametrize("maker", ["rank_histogram", "pit_histogram"])
def test_histograms_of_ranks_are_merged_if_they_are_alike(maker):
    one, other = two_of(maker, {}, {"min_value": 1.0})
    xr.testing.assert_allclose(verify.merge([one, one]), 2 * one)
    with pytest.raises(ValueError, match="sums differ in min_value"):
        verify.merge([one, other])
    observed, members = fields()
    if maker == "rank_histogram":
        fewer = verify.rank_histogram(observed, members[:2])
        with pytest.raises(ValueError, match="sums differ in rank"):
            verify.merge([one, fewer])
        with pytest.raises(ValueError, match="these sums were joined"):
            plot_rank_histogram(one + fewer)


def test_merging_says_what_is_wrong():
    observed, members = fields()
    sums = verify.error_sums(observed, members[0])
    by_time = verify.error_sums(observed, members[0], dim=["y", "x"])
    for tables, message in [
        ([], "no sums to merge"),
        (sums, "tables is one table"),
        ([sums, verify.correlation_sums(observed, members[0])], "sums of two kinds"),
        ([sums, by_time], "have different 'time': add each up"),
        ([by_time[{"time": [0, 1]}], by_time[{"time": [2, 3]}]], "have different 'time'"),
    ]:
        with pytest.raises(ValueError, match=message):
            verify.merge(tables)
    assert verify.merge([by_time, by_time]).sizes == {"time": 4}


def test_sums_of_another_kind_are_refused():
    observed, members = fields()
    for score in (verify.csi, verify.correlation, verify.crps_ensemble, verify.sal):
        with pytest.raises(TypeError, match="takes observations"):
            score(verify.error_sums(observed, members[0]))


# ---------------------------------------------------------------- weights


def weighted_mean(values, weights):
    weights = weights.broadcast_like(values).where(values.notnull())
    return float((values * weights).sum() / weights.sum())


CELLS = {
    "rows": xr.DataArray(np.linspace(0.0, 1.0, 12), dims="y"),
    "cells": xr.DataArray(np.random.default_rng(0).random((12, 11)), dims=("y", "x")),
    "times": xr.DataArray([1.0, 0.0, 2.0, 0.5], dims="time"),
    "all": xr.DataArray(np.random.default_rng(1).random((11, 4, 12)), dims=("x", "time", "y")),
}


@pytest.mark.parametrize("weights", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_weighted_scores_are_those_of_weighted_means(weights, lazy):
    observed, members = fields()
    one = members[0]
    missing = observed.isnull() | one.isnull()
    o, f = observed.where(~missing), one.where(~missing)
    expected = {
        "rmse": weighted_mean((f - o) ** 2, weights) ** 0.5,
        "mae": weighted_mean(abs(f - o), weights),
        "mean_error": weighted_mean(f - o, weights),
        "csi": weighted_mean(((o >= 1) & (f >= 1)).where((o >= 1) | (f >= 1)), weights),
        "accuracy": weighted_mean(((o >= 1) == (f >= 1)).where(~missing), weights),
        "crps_ensemble": weighted_mean(verify.crps_ensemble(observed, members, dim=[]), weights),
        "brier_score": weighted_mean(verify.brier_score(observed, members, thresholds=1.0, dim=[]), weights),
    }
    if lazy:
        chunks = {"time": 3, "y": 5}
        observed, members, weights = observed.chunk(chunks), members.chunk(chunks), weights.chunk()
    for name, value in expected.items():
        options = {"thresholds": 1.0} if name in ("csi", "accuracy", "brier_score") else {}
        forecasts = members if name in ("crps_ensemble", "brier_score") else members[0]
        found = getattr(verify, name)(observed, forecasts, weights=weights, **options)
        assert (found.chunks is not None) == lazy
        np.testing.assert_allclose(found, value, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize(("maker", "options", "score", "ensemble"), CASES)
def test_equal_weights_change_nothing_and_those_of_times_choose(maker, options, score, ensemble):
    take = getattr(verify, score)
    if maker == "balanced_sums":
        pytest.skip("its weights are those of classes")
    observed, forecast = pair(ensemble)
    options = options_of(take, options)
    equal, second = (xr.DataArray(w, dims="time") for w in ([2.0] * 4, [0.0, 1.0, 0.0, 0.0]))
    drop = {"n": None} if score in ("spread_skill", "reliability_diagram") else {}
    xr.testing.assert_allclose(
        take(observed, forecast, weights=equal, **options).drop_vars(drop),
        take(observed, forecast, **options).drop_vars(drop),
    )
    xr.testing.assert_allclose(
        take(observed, forecast, weights=second, **options).drop_vars(drop),
        take(observed.isel(time=[1]), forecast.isel(time=[1]), **options).drop_vars(drop),
    )


def test_weighted_sums_add_up_over_files():
    observed, members = fields()
    weights = CELLS["cells"]
    parts = [verify.error_sums(observed[t], members[:, t], weights=weights, member_dim="member") for t in range(4)]
    whole = verify.rmse(observed, members, weights=weights, member_dim="member")
    np.testing.assert_allclose(verify.rmse(verify.merge(parts)), whole)


def test_many_weights_are_treated_in_parts(monkeypatch):
    observed, members = fields()
    whole = verify.crps_ensemble(observed, members, weights=CELLS["all"], dim=["time", "x"])
    monkeypatch.setattr("xnowcast.verify.chunks.SUMS_AT_ONCE", 40)
    xr.testing.assert_allclose(verify.crps_ensemble(observed, members, weights=CELLS["all"], dim=["time", "x"]), whole)


def test_without_skipna_a_missing_pair_makes_weighted_scores_nan():
    for nan, expected in ((True, True), (False, False)):
        observed, members = fields(nan=nan)
        options = {"weights": CELLS["cells"], "skipna": False}
        assert np.isnan(verify.rmse(observed, members[0], **options)) == expected
        assert np.isnan(verify.csi(observed, members[0], thresholds=1.0, **options)) == expected
        assert np.isnan(verify.brier_score(observed, members, thresholds=1.0, **options)) == expected


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (CELLS["rows"].where(CELLS["rows"] > 0.5), "finite and not below 0"),
        (-CELLS["rows"], "finite and not below 0"),
        (CELLS["rows"].rename(y="lat"), "weights have the dim 'lat', which neither field has"),
        (CELLS["rows"][:5], "'y' differs: weights have 5 values"),
        (
            CELLS["times"].assign_coords(time=fields()[0].time + np.timedelta64(1, "h")),
            "'time' differs: weights have 4",
        ),
        (xr.DataArray(["a", "b", "c", "d"], dims="time"), "weights hold"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    observed, members = fields()
    with pytest.raises(ValueError, match=message):
        verify.rmse(observed, members[0], weights=weights)


def test_weights_of_cells_are_refused_where_several_cells_are_looked_at_together():
    observed, members = fields()
    windows = {"thresholds": 1.0, "scales": 2, "weights": CELLS["rows"]}
    for score, options in [
        (verify.csi, windows),
        (verify.fss, windows),
        (verify.sal, {"weights": CELLS["rows"]}),
        (verify.spectral_ratio, WAVES | {"weights": CELLS["rows"]}),
    ]:
        with pytest.raises(ValueError, match="weights vary along 'y'"):
            score(observed, members[0], **options)
    with pytest.raises(ValueError, match="weights vary along 'member'"):
        verify.crps_ensemble(observed, members, weights=xr.DataArray([1.0, 1.0, 1.0], dims="member"))
    with pytest.raises(TypeError, match="give a DataArray"):
        verify.rmse(observed, members[0], weights=np.ones(4))
    for score in ("emd", "percentile_error", "histogram_overlap"):
        assert "weights" not in inspect.signature(getattr(verify, score)).parameters


@pytest.mark.parametrize("dataset", [False, True])
def test_area_weights_of_latitudes(dataset):
    rain = xr.DataArray(np.ones((3, 2)), dims=("lat", "lon"), coords={"lat": [-60.0, 0.0, 90.0], "lon": [0.0, 1.0]})
    weights = verify.area_weights(rain.to_dataset(name="rain") if dataset else rain)
    np.testing.assert_allclose(weights, [0.5, 1.0, 0.0], atol=1e-12)
    assert float(
        verify.mean_error(rain, rain + xr.DataArray([0.0, 3.0, 9.0], dims="lat"), weights=weights)
    ) == pytest.approx(2.0)


def test_area_weights_of_a_curvilinear_grid_are_those_of_its_latitudes():
    lat, lon = np.linspace(20, 80, 13), np.linspace(350, 370, 9) % 360
    places = {"lat": (("j", "i"), lat[:, None] + np.zeros(9)), "lon": (("j", "i"), lon + np.zeros((13, 1)))}
    rain = xr.DataArray(np.ones((13, 9)), dims=("j", "i"), coords=places)
    expected = np.cos(np.deg2rad(lat[1:-1])) / np.cos(np.deg2rad(lat[1]))
    found = verify.area_weights(rain)
    np.testing.assert_allclose(found[1:-1, 0] / found[1, 0], expected, rtol=1e-3)
    masked = rain.assign_coords(lat=rain.lat.where(rain.lat < 70), lon=rain.lon.where(rain.lat < 70))
    found = verify.area_weights(masked)
    assert (found[-3:] == 0).all() and (found[:-3] > 0).all()
    with pytest.raises(ValueError, match="no longitudes"):
        verify.area_weights(rain.drop_vars("lon"))
    with pytest.raises(ValueError, match="no latitudes"):
        verify.area_weights(rain.drop_vars(["lat", "lon"]))


# ---------------------------------------------------------------- single values, places


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("dataset", [False, True], ids=["array", "dataset"])
def test_single_values_are_scored(lazy, dataset):
    def of(*values):
        arrays = [xr.DataArray(value, dims=("member",)[: np.ndim(value)]) for value in values]
        arrays = [a.chunk() if lazy else a for a in arrays]
        return [a.to_dataset(name="rain") for a in arrays] if dataset else arrays

    def number(result):
        return float(result["rain"] if dataset and "rain" in result else result)

    one, many = of(1.0, 3.0), of(1.0, [1.0, 3.0])
    assert number(verify.rmse(*one)) == number(verify.mae(*one)) == number(verify.emd(*one)) == 2.0
    assert number(verify.csi(*one, thresholds=1.0)) == 1.0 and number(verify.csi(*one, thresholds=2.0)) == 0.0
    assert number(verify.crps_ensemble(*many)) == 0.5
    assert number(verify.brier_score(*many, thresholds=2.0)) == 0.25
    assert number(verify.pit(*many)) == 1 / 3


def curvilinear(shift=0.0, turn=0.0, names=("lat", "lon")):
    y, x = np.mgrid[:6, :8]
    lat, lon = 50 + 0.2 * y + 0.02 * x + shift, 359.5 + 0.15 * x + 0.03 * y + turn
    coords = dict(zip(names, ((("y", "x"), lat), (("y", "x"), lon)), strict=True))
    return xr.DataArray(np.random.default_rng(0).random((6, 8)), dims=("y", "x"), coords=coords)


@pytest.mark.parametrize(
    "same", [curvilinear(1e-4), curvilinear(turn=-360.0), curvilinear().T, curvilinear(names=("latitude", "longitude"))]
)
def test_two_dimensional_grids_that_are_the_same_are_scored(same):
    assert verify.rmse(curvilinear(), same) == 0
    seen = curvilinear().where(curvilinear().lat < 51, drop=False)
    seen = seen.assign_coords(lat=seen.lat.where(seen.lat < 51), lon=seen.lon.where(seen.lat < 51))
    assert verify.rmse(seen, same) == 0


@pytest.mark.parametrize(
    "other", [curvilinear(0.05), curvilinear(turn=0.05), curvilinear(0.05, names=("latitude", "longitude"))]
)
def test_two_dimensional_grids_that_differ_are_refused(other):
    with pytest.raises(ValueError, match=r"the grids are not the same: l.*itudes of observations"):
        verify.rmse(curvilinear(), other)
    times = np.datetime64("2024-06-01", "ns") + np.arange(3) * np.timedelta64(5, "m")
    observed = curvilinear().expand_dims(time=times)
    forecast = other.expand_dims(init_time=times[:1], lead_time=times[1:] - times[0])
    with pytest.raises(ValueError, match="the grids are not the same"):
        verify.align_observations(observed, forecast)
