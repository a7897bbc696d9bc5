"""Scores of images, correlation and balanced errors: hand-worked cases, scikit-image, invariances, errors."""

import numpy as np
import pytest
import xarray as xr
import xskillscore
from rain_fields import observed_and_members, plane

from xnowcast.verify.amounts import (
    balanced_mae,
    balanced_mse,
    balanced_sums,
    correlation,
    correlation_sums,
    error_sums,
    mse,
    rmse,
)
from xnowcast.verify.images import gradient_difference, gradient_sums, image_sums, psnr, psnr_pooled, ssim
from xnowcast.verify.kernels import compiled

RANGE = 20.0
ALL = {
    "ssim": (ssim, {"data_range": RANGE}),
    "ssim of some": (ssim, {"data_range": RANGE, "min_valid": 0.5}),
    "psnr": (psnr, {"data_range": RANGE}),
    "psnr_pooled": (psnr_pooled, {"data_range": RANGE}),
    "gradient_difference": (gradient_difference, {}),
    "gradient sum": (gradient_difference, {"reduce": "sum"}),
    "balanced_mse": (balanced_mse, {"reduce": "sum"}),
    "balanced_mae": (balanced_mae, {}),
    "correlation": (correlation, {}),
    "mse": (mse, {}),
}


@pytest.fixture(params=["numpy", "compiled"])
def kernel(request, monkeypatch):
    if request.param == "compiled":
        pytest.importorskip("numba")
    monkeypatch.setattr(compiled, "WORTH_COMPILING", 0 if request.param == "compiled" else 10**12)


@pytest.fixture
def rain():
    return observed_and_members(members=2, rows=50, columns=45, decimals=None, missing=0.002, corner=(9, 9))


# ---------------------------------------------------------------- worked by hand


@pytest.mark.usefixtures("kernel")
def test_ssim_of_flat_fields_is_that_of_their_means():
    one, three = plane(np.full((12, 13), 1.0)), plane(np.full((12, 13), 3.0))
    c1 = (0.01 * RANGE) ** 2
    assert float(ssim(one, three, data_range=RANGE)) == pytest.approx((6 + c1) / (10 + c1))


@pytest.mark.usefixtures("kernel")
def test_ssim_of_one_window_of_equal_weights():
    observed, forecast = plane([[0, 0, 0], [0, 9, 0], [0, 0, 0]]), plane([[0, 0, 0], [0, 0, 9], [0, 0, 0]])
    # Means 1, variances 8, covariance -1; C1 = 0.01, C2 = 0.09.
    found = ssim(observed, forecast, data_range=10.0, window=3, sigma=None)
    assert float(found) == pytest.approx((2 + 0.01) * (-2 + 0.09) / ((2 + 0.01) * (16 + 0.09)))


def test_psnr_of_fields_and_of_all_together():
    observed = xr.DataArray(np.zeros((2, 3, 3)), dims=("time", "y", "x"))
    forecast = observed + xr.DataArray([0.1, 0.01], dims="time")
    assert float(psnr(observed, forecast, data_range=1.0)) == pytest.approx(30)
    assert float(psnr_pooled(observed, forecast, data_range=1.0)) == pytest.approx(10 * np.log10(2 / 0.0101))
    assert float(psnr(observed, observed, data_range=1.0)) == np.inf
    assert np.isnan(psnr(observed * np.nan, forecast, data_range=1.0))
    assert np.isnan(psnr_pooled(observed * np.nan, forecast, data_range=1.0))


def test_weights_of_balanced_errors_are_those_of_hko7():
    observed = plane([[0.4, 1, 2, 5, 10, 30], [0, 1.99, 3, 7, 20, 40]])
    for i, weight in enumerate((1, 1, 2, 5, 10, 30)):
        pair = observed[:, [i]], observed[:, [i]] + 2
        assert float(balanced_mae(*pair)) == 2 * weight
        assert float(balanced_mse(*pair)) == 4 * weight
    single = observed.astype("f4")
    assert float(balanced_sums(single, single)["weight"]) == 98


def test_reductions_of_balanced_errors():
    observed = xr.DataArray([[[0.0, 30.0]], [[0.0, np.nan]]], dims=("time", "y", "x"))
    forecast = observed.fillna(1) + 1
    found = [float(balanced_mse(observed, forecast, reduce=how)) for how in ("sum", "mean", "weighted")]
    assert found == pytest.approx([(31 + 1) / 2, 32 / 3, 1])


def test_balanced_errors_of_fields_in_units_of_their_own():
    rates = plane([[0.4, 1, 3, 7, 20, 40]])

    def to_pixel(rate):
        return (10 * np.log10(58.53 * rate**1.56) + 10) / 70

    bounds = to_pixel(np.array([2.0, 5.0, 10.0, 30.0]))
    assert bounds.round(6).tolist() == [0.462426, 0.551110, 0.618197, 0.724527]
    pixels = to_pixel(rates)
    assert float(balanced_mae(pixels, pixels + 0.1, bounds=bounds, reduce="sum")) == pytest.approx(4.9)


def test_gradients_are_compared_by_size():
    observed, forecast = plane([[0, 1, 3], [0, 1, 3]]), plane([[0, -1, 1], [0, 0, 0]])
    # Along x: |1|-|1|, |2|-|2|; |1|-0, |2|-0; along y: 0-0, 0-|1|, 0-|1|.
    assert float(gradient_difference(observed, forecast, reduce="sum")) == 5
    assert float(gradient_difference(observed, forecast)) == pytest.approx(5 / 7)
    observed[0, 0] = np.nan
    sums = gradient_sums(observed, forecast)
    assert [float(sums[name]) for name in ("gradient_difference", "gradients", "fields")] == [5, 5, 1]


def test_correlation_by_hand():
    observed, forecast = (xr.DataArray(v, dims="x") for v in ([1.0, 2.0, 3.0, np.nan], [1.0, 3.0, 2.0, 9.0]))
    assert float(correlation(observed, forecast)) == pytest.approx(0.5)
    assert float(correlation(observed, -2 * observed + 7)) == pytest.approx(-1)


@pytest.mark.parametrize("value", [0.0, 0.1, 273.15])
def test_correlation_with_a_constant_is_nan(value):
    rng = np.random.default_rng(0)
    field = xr.DataArray(rng.random(1000), dims="x")
    assert np.isnan(correlation(xr.full_like(field, value), field))
    assert np.isnan(correlation(field * np.nan, field))


def test_mse_is_the_square_of_rmse(rain):
    assert float(mse(*rain)) == pytest.approx(float(rmse(*rain)) ** 2)


# ---------------------------------------------------------------- independent code


@pytest.mark.parametrize(("window", "sigma"), [(11, 1.5), (7, None), (3, None), (5, None)])
@pytest.mark.parametrize("shape", [(64, 70), (33, 45), (11, 50)])
@pytest.mark.usefixtures("kernel")
def test_ssim_equals_scikit_image(window, sigma, shape):
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(1)
    observed, forecast = rng.gamma(0.5, 4.0, (2, *shape))
    how = {"gaussian_weights": True, "sigma": sigma} if sigma else {"win_size": window}
    theirs = metrics.structural_similarity(observed, forecast, data_range=RANGE, use_sample_covariance=False, **how)
    ours = ssim(plane(observed), plane(forecast), data_range=RANGE, window=window, sigma=sigma)
    assert float(ours) == pytest.approx(theirs, abs=1e-12)
    single = ssim(
        plane(observed).astype("f4"), plane(forecast).astype("f4"), data_range=RANGE, window=window, sigma=sigma
    )
    assert float(single) == pytest.approx(theirs, abs=1e-6)


def test_psnr_equals_scikit_image(rain):
    metrics = pytest.importorskip("skimage.metrics")
    obs, fcst = rain[0][0].fillna(0), rain[1][0, 0].fillna(0)
    theirs = metrics.peak_signal_noise_ratio(obs.values.astype(float), fcst.values.astype(float), data_range=RANGE)
    assert float(psnr(obs, fcst, data_range=RANGE)) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("min_valid", [1.0, 0.5, 0.0])
@pytest.mark.usefixtures("kernel")
def test_ssim_with_nan_equals_a_loop_over_windows(rain, min_valid):
    obs, fcst = rain[0].values[0].astype(float), rain[1].values[0, 0].astype(float)
    valid = ~np.isnan(obs) & ~np.isnan(fcst)
    weights = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    c1, c2, found = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2, []
    for y, x in np.ndindex(obs.shape[0] - 10, obs.shape[1] - 10):
        inside = slice(y, y + 11), slice(x, x + 11)
        w = np.where(valid[inside], weights, 0)
        if not valid[y + 5, x + 5] or w.sum() < min_valid - 1e-9:
            continue
        o, f, w = np.nan_to_num(obs[inside]), np.nan_to_num(fcst[inside]), w / w.sum()
        mo, mf = (w * o).sum(), (w * f).sum()
        vo, vf, cov = (w * (o - mo) ** 2).sum(), (w * (f - mf) ** 2).sum(), (w * (o - mo) * (f - mf)).sum()
        found.append((2 * mo * mf + c1) * (2 * cov + c2) / ((mo**2 + mf**2 + c1) * (vo + vf + c2)))
    assert 0 < len(found) < (obs.shape[0] - 10) * (obs.shape[1] - 10)
    ours = ssim(rain[0][0], rain[1][0, 0], data_range=RANGE, min_valid=min_valid)
    assert float(ours) == pytest.approx(np.mean(found), abs=1e-12)


@pytest.mark.parametrize("dim", ["time", ["y", "x"], None])
def test_correlation_equals_xskillscore(rain, dim):
    obs, fcst = (field.astype("f8") for field in rain)
    fcst = fcst.isel(member=0)
    theirs = xskillscore.pearson_r(obs, fcst, dim=dim, skipna=True)
    missing = (np.isfinite(obs) & np.isfinite(fcst)).sum(dim) < 2
    np.testing.assert_allclose(correlation(obs, fcst, dim=dim).where(~missing), theirs.where(~missing), atol=1e-9)


# ---------------------------------------------------------------- invariances


@pytest.mark.usefixtures("kernel")
def test_a_perfect_forecast_is_perfect(rain):
    obs = rain[0]
    assert float(ssim(obs, obs, data_range=RANGE)) == pytest.approx(1)
    assert float(ssim(obs, obs, data_range=RANGE, min_valid=0.3)) == pytest.approx(1)
    assert float(gradient_difference(obs, obs)) == float(balanced_mse(obs, obs)) == 0
    assert float(correlation(obs, obs)) == pytest.approx(1)


def test_nan_in_part_of_the_grid_leaves_the_windows_of_the_rest(rain):
    obs, fcst = (field.fillna(0) for field in rain)
    cut = {"x": slice(12, None)}
    found = ssim(obs.where(obs.x >= 12), fcst, data_range=RANGE)
    assert float(found) == pytest.approx(float(ssim(obs.isel(cut), fcst.isel(cut), data_range=RANGE)), abs=1e-12)


@pytest.mark.parametrize("score", ALL)
@pytest.mark.parametrize("chunks", [{"time": 1}, {"member": 1, "y": 7}, {"time": 2, "x": 20}])
def test_chunks_change_nothing(rain, score, chunks, nothing_may_run):
    obs, fcst = rain
    function, options = ALL[score]
    chunked = obs.chunk({d: n for d, n in chunks.items() if d in obs.dims}), fcst.chunk(chunks)
    for dim in (None, ["time", "y", "x"]):
        with nothing_may_run:
            lazy = function(*chunked, **options, dim=dim)
        xr.testing.assert_allclose(lazy.compute(), function(obs, fcst, **options, dim=dim), rtol=1e-10)


@pytest.mark.parametrize("score", ALL)
def test_members_are_scored_each_or_as_their_mean(rain, score):
    obs, fcst = rain
    function, options = ALL[score]
    xr.testing.assert_allclose(
        function(obs, fcst, **options, member_dim="member"), function(obs, fcst.mean("member"), **options), rtol=1e-6
    )
    by_member = function(obs, fcst, **options, dim=["time", "y", "x"])
    alone = function(obs, fcst.isel(member=1, drop=True), **options)
    assert float(by_member[1]) == pytest.approx(float(alone), rel=1e-12)


@pytest.mark.parametrize("score", ALL)
def test_datasets_attributes_and_inputs(rain, score):
    obs, fcst = (field.rename("rain").assign_attrs(units="mm h-1") for field in rain)
    before = obs.copy(deep=True)
    function, options = ALL[score]
    found = function(obs.to_dataset(), fcst.to_dataset(), **options, keep_attrs=True)
    assert found["rain"].attrs == {"units": "mm h-1"}
    alone = function(obs, fcst, **options)
    assert alone.attrs == {}
    assert float(found["rain"]) == float(alone)
    xr.testing.assert_identical(obs, before)


@pytest.mark.parametrize(
    ("sums_of", "options", "score", "its_options"),
    [
        (image_sums, {"data_range": RANGE}, ssim, {}),
        (image_sums, {"data_range": RANGE}, psnr, {}),
        (error_sums, {}, psnr_pooled, {"data_range": RANGE}),
        (gradient_sums, {}, gradient_difference, {"reduce": "sum"}),
        (balanced_sums, {}, balanced_mse, {"reduce": "weighted"}),
        (correlation_sums, {}, correlation, {}),
    ],
)
def test_sums_of_parts_add_up(rain, sums_of, options, score, its_options):
    obs, fcst = rain
    parts = [sums_of(obs.isel(time=t), fcst.isel(time=t), **options) for t in ([0, 2], [1])]
    expected = score(obs, fcst, **{**(options if sums_of is image_sums else {}), **its_options})
    xr.testing.assert_allclose(score(parts[0] + parts[1], **its_options), expected, rtol=1e-12)
    of_variables = sums_of(obs.to_dataset(name="rain"), fcst.to_dataset(name="rain"), **options)
    xr.testing.assert_allclose(score(of_variables, **its_options).squeeze("variable", drop=True), expected)


@pytest.mark.parametrize("score", ALL)
def test_without_skipna_a_nan_makes_its_field_nan(rain, score):
    obs, fcst = (field.fillna(0) for field in rain)
    obs[1, 20, 20] = np.nan
    function, options = ALL[score]
    found = function(obs, fcst, **options, dim=["member", "y", "x"], skipna=False)
    assert np.isnan(found).values.tolist() == [False, True, False]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("score", "options", "error", "message"),
    [
        (ssim, {}, TypeError, "ssim needs data_range="),
        (psnr, {}, TypeError, "psnr needs data_range="),
        (psnr_pooled, {}, TypeError, "psnr_pooled needs data_range="),
        (psnr_pooled, {"data_range": 0}, ValueError, "largest minus the smallest"),
        (ssim, {"data_range": -1}, ValueError, "largest minus the smallest"),
        (ssim, {"data_range": 1, "window": 4}, ValueError, "must be an odd number"),
        (ssim, {"data_range": 1, "window": 47}, ValueError, "window=47 is wider than 'x' with 45 cells"),
        (ssim, {"data_range": 1, "sigma": 0}, ValueError, "sigma=0 must be above 0"),
        (ssim, {"data_range": 1, "min_valid": 2}, ValueError, "share from 0 to 1"),
        (image_sums, {"data_range": 1, "scores": ["lpips"]}, ValueError, "must be one or more of 'psnr', 'ssim'"),
        (gradient_difference, {"reduce": "max"}, ValueError, "reduce='max' is unknown"),
        (balanced_mse, {"reduce": "max"}, ValueError, "reduce='max' is unknown"),
        (balanced_mae, {"bounds": [5, 2], "weights": [1, 2, 3]}, ValueError, "must rise"),
        (balanced_mae, {"weights": xr.DataArray([1.0, 2.0], dims="y")}, ValueError, "those of classes of rain"),
        (balanced_mae, {"bounds": [2, 5]}, ValueError, "one more than these"),
        (correlation, {"dim": "lead"}, ValueError, "dim 'lead' is in neither array"),
    ],
)
def test_impossible_options_are_refused(rain, score, options, error, message):
    with pytest.raises(error, match=message):
        score(*rain, **options)


@pytest.mark.parametrize("score", [ssim, psnr, gradient_difference, balanced_mse, balanced_mae, correlation, mse])
def test_one_field_alone_is_refused(rain, score):
    with pytest.raises(TypeError, match="takes observations"):
        score(rain[0])
