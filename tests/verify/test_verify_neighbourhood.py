"""The fractions skill score: hand-worked cases, a plain loop, other packages, invariances, errors."""

import itertools

import numpy as np
import pytest
import xarray as xr
from rain_fields import observed_and_members, plane

from xnowcast.verify import neighbourhood
from xnowcast.verify.kernels import compiled, fractions
from xnowcast.verify.neighbourhood import fss, fss_sums, fss_target, useful_scale

THRESHOLDS = [0.5, 2.0]
SCALES = [1, 2, 3, 6, 7, 25, 60]


@pytest.fixture(params=["numpy", "compiled"])
def kernel(request, monkeypatch):
    if request.param == "compiled":
        pytest.importorskip("numba")
    monkeypatch.setattr(compiled, "WORTH_COMPILING", 0 if request.param == "compiled" else 10**12)


def with_pixel(*places, shape=(8, 8)):
    field = np.zeros(shape)
    for place in places:
        field[place] = 1
    return plane(field)


@pytest.fixture
def rain():
    return observed_and_members(rows=17, seed=5, decimals=None, missing=0)


@pytest.fixture
def masked(rain):
    """The same with NaN: a common corner, single cells, and members that miss cells of their own."""
    rng = np.random.default_rng(6)
    obs, fcst = (field.where(rng.random(field.shape) > 0.1) for field in rain)
    return obs.where((obs.y > 4) | (obs.x > 5)), fcst.where((fcst.y > 4) | (fcst.x > 5))


def looped(obs, members, threshold, scale, *, boundary="renormalise", min_valid=0.0):
    """Sums for one observed field (y, x) and its members (member, y, x), window by window."""
    n_y, n_x = obs.shape
    left = (~np.isnan(members)).sum(axis=0)
    valid = ~np.isnan(obs) & (left > 0)
    share = (members >= threshold).sum(axis=0) / np.maximum(left, 1)
    event = obs >= threshold
    extra = {"pysteps": 0, "scores": 1}.get(boundary, (scale + 1) % 2)
    starts = [range(-(scale // 2), n - scale // 2 + extra) for n in (n_y, n_x)]
    if boundary == "interior":
        starts = [range(n - scale + 1) for n in (n_y, n_x)]
    sums = np.zeros(3)
    for y, x in itertools.product(*starts):
        middle = (slice(max(y + (scale - 1) // 2, 0), y + scale // 2 + 1),)
        middle += (slice(max(x + (scale - 1) // 2, 0), x + scale // 2 + 1),)
        window = slice(max(y, 0), max(y + scale, 0)), slice(max(x, 0), max(x + scale, 0))
        inside = valid[window]
        n = inside.sum()
        if boundary in ("zero", "pysteps", "scores"):
            n += scale**2 - inside.size
        if n == 0 or n < min_valid * scale**2 or (not valid[middle].any() and valid[middle].size):
            continue
        f, o = share[window][inside].sum() / n, event[window][inside].sum() / n
        sums += [(f - o) ** 2, f**2, o**2]
    return sums


# ---------------------------------------------------------------- worked by hand


@pytest.mark.parametrize(
    ("boundary", "expected"),
    [("renormalise", 1 - 120 / 458), ("interior", 0.4), ("zero", 0.615385), ("pysteps", 0.615385)],
)
@pytest.mark.usefixtures("kernel")
def test_neighbouring_pixels_in_a_corner(boundary, expected):
    observed, forecast = with_pixel((0, 0)), with_pixel((1, 1))
    assert float(fss(observed, forecast, thresholds=1, scales=3, boundary=boundary)) == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize(("boundary", "here", "turned"), [("pysteps", 0.25, 0.4), ("scores", 0.25, 0.25)])
def test_even_windows_of_other_packages(boundary, here, turned):
    observed, forecast = with_pixel((0, 0)), with_pixel((1, 1))
    options = {"thresholds": 1, "scales": 2, "boundary": boundary}
    assert float(fss(observed, forecast, **options)) == pytest.approx(here)
    flipped = [field.isel(y=slice(None, None, -1), x=slice(None, None, -1)) for field in (observed, forecast)]
    assert float(fss(*flipped, **options)) == pytest.approx(turned)


@pytest.mark.usefixtures("kernel")
def test_one_pixel_off_by_two_cells():
    sums = fss_sums(with_pixel((4, 3)), with_pixel((4, 5)), thresholds=1, scales=[1, 3], boundary="interior")
    # Nine windows each hold a pixel, three of them both: squared fractions of 1/81.
    np.testing.assert_allclose(sums["squared_forecast"], [1, 9 / 81])
    np.testing.assert_allclose(sums["squared_difference"], [2, 12 / 81])
    np.testing.assert_allclose(fss(sums), [0, 1 / 3])


def test_event_is_at_or_above_the_threshold_in_the_precision_of_the_data():
    single = plane([[0.7, 0.0], [0.0, 0.0]]).astype("f4")
    assert float(fss_sums(single, single, thresholds=0.7, scales=1)["observed_events"]) == 1


def test_nothing_by_nothing_is_nan_and_a_miss_is_zero():
    dry, wet = with_pixel(), with_pixel((3, 3))
    assert np.isnan(fss(dry, dry, thresholds=1, scales=[1, 3])).all()
    assert (fss(dry, wet, thresholds=1, scales=[1, 3]) == 0).all()
    nowhere = dry * np.nan
    assert np.isnan(fss(nowhere, wet, thresholds=1, scales=3))
    assert np.isnan(fss_target(fss_sums(nowhere, wet, thresholds=1, scales=3)))


@pytest.mark.usefixtures("kernel")
def test_windows_wider_than_the_grid():
    observed, forecast = with_pixel((0, 0)), with_pixel((1, 1), (2, 2))
    # All windows hold the whole grid: fractions 1 and 2 of 64.
    assert float(fss(observed, forecast, thresholds=1, scales=17)) == pytest.approx(1 - 1 / 5)
    assert float(fss(observed, forecast, thresholds=1, scales=10**9)) == pytest.approx(1 - 1 / 5)
    assert float(fss(observed, forecast, thresholds=1, scales=40, boundary="zero")) == pytest.approx(1 - 1 / 5)
    assert np.isnan(fss(observed, forecast, thresholds=1, scales=9, boundary="interior"))


def test_fractions_are_of_measured_cells():
    observed = plane([[1, np.nan, 0]])
    forecast = plane([[1, 1, 1]])
    # Windows around the first and the last cell have one measured cell each: fractions (1, 1) and (1, 0).
    sums = fss_sums(observed, forecast, thresholds=1, scales=3, boundary="renormalise")
    assert [float(sums[name]) for name in ("squared_difference", "squared_forecast", "squared_observed")] == [1, 2, 1]
    assert float(sums["cells"]) == 2


def test_ensemble_fraction_is_the_mean_of_the_members():
    observed = plane([[1.0, 0.0]])
    members = xr.DataArray([[[1.0, 0.0]], [[0.0, 0.0]], [[1.0, np.nan]]], dims=("member", "y", "x"))
    sums = fss_sums(observed, members, thresholds=1, scales=1, member_dim="member")
    assert float(sums["squared_forecast"]) == pytest.approx(4 / 9)
    assert float(sums["squared_difference"]) == pytest.approx(1 / 9)


def test_target_and_useful_scale():
    observed, forecast = with_pixel((16, 16), shape=(32, 32)), with_pixel((16, 18), shape=(32, 32))
    sums = fss_sums(observed, forecast, thresholds=1, scales=[1, 3, 5, 7])
    assert float(fss_target(sums)) == pytest.approx(0.5 + 0.5 / 1024)
    np.testing.assert_allclose(fss(sums), [0, 1 / 3, 3 / 5, 5 / 7])
    assert float(useful_scale(sums)) == 5
    assert np.isnan(useful_scale(sums.sel(scale=[1, 3])))


# ---------------------------------------------------------------- independent code


@pytest.mark.parametrize("boundary", fractions.BOUNDARIES)
@pytest.mark.parametrize("data", ["rain", "masked"])
@pytest.mark.parametrize("min_valid", [0.0, 0.6])
@pytest.mark.usefixtures("kernel")
def test_sums_equal_a_loop_over_windows(data, boundary, min_valid, request):
    obs, fcst = (field.isel(time=[0]) for field in request.getfixturevalue(data))
    scales = [1, 2, 5, 6, 20, 41]
    options = {"thresholds": 2.0, "scales": scales, "boundary": boundary, "min_valid": min_valid, "dim": "time"}
    each, ensemble = fss_sums(obs, fcst, **options), fss_sums(obs, fcst, **options, member_dim="member")
    for scale in scales:
        how = {"threshold": 2.0, "scale": scale, "boundary": boundary, "min_valid": min_valid}
        names = list(neighbourhood.SUMS[:3])
        found = each.sel(scale=scale)[names].isel(member=1).to_dataarray().values
        expected = looped(obs.values[0], fcst.values[1], **how)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        found = ensemble.sel(scale=scale)[names].to_dataarray().values
        np.testing.assert_allclose(found, looped(obs.values[0], fcst.values[:, 0], **how), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 3, 8, 11, 40])
@pytest.mark.usefixtures("kernel")
def test_scores_equal_those_of_pysteps(rain, scale):
    spatialscores = pytest.importorskip("pysteps.verification.spatialscores")
    obs, fcst = rain[0][0], rain[1][0, 0]
    ours = fss(obs, fcst, thresholds=2.0, scales=scale, boundary="pysteps")
    assert float(ours) == pytest.approx(spatialscores.fss(fcst.values, obs.values, 2.0, scale), rel=1e-12)
    if scale % 2:
        np.testing.assert_allclose(fss(obs, fcst, thresholds=2.0, scales=scale, boundary="zero"), ours, rtol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 3, 8, 11, 17])
@pytest.mark.usefixtures("kernel")
def test_scores_equal_those_of_scores(rain, scale):
    spatial = pytest.importorskip("scores.spatial")
    obs, fcst = rain[0][0], rain[1][0, 0]
    for boundary, padded in (("interior", False), ("scores", True)):
        theirs = spatial.fss_2d_single_field(
            fcst.values,
            obs.values,
            event_threshold=2.0,
            window_size=(scale, scale),
            zero_padding=padded,
            threshold_operator=np.greater_equal,
        )
        ours = float(fss(obs, fcst, thresholds=2.0, scales=scale, boundary=boundary))
        assert ours == pytest.approx(float(theirs), rel=1e-12)


def test_sums_that_int32_cannot_hold_take_the_other_path(rain, monkeypatch):
    obs, fcst = rain
    expected = fss_sums(obs, fcst, thresholds=2.0, scales=SCALES, member_dim="member")
    monkeypatch.setattr(fractions, "LARGEST_COUNT", 100)
    found = fss_sums(obs, fcst, thresholds=2.0, scales=SCALES, member_dim="member")
    xr.testing.assert_allclose(found, expected, rtol=1e-12)


# ---------------------------------------------------------------- invariances


@pytest.mark.parametrize("data", ["rain", "masked"])
@pytest.mark.usefixtures("kernel")
def test_a_perfect_forecast_scores_one(data, request):
    obs = request.getfixturevalue(data)[0]
    assert (fss(obs, obs, thresholds=THRESHOLDS, scales=SCALES) == 1).all()


@pytest.mark.parametrize("boundary", ["renormalise", "interior", "zero"])
@pytest.mark.parametrize("data", ["rain", "masked"])
def test_turning_both_fields_over_changes_nothing(data, boundary, request):
    obs, fcst = request.getfixturevalue(data)
    options = {"thresholds": 2.0, "scales": SCALES, "boundary": boundary}
    expected = fss(obs, fcst, **options).values
    for turned in ({"y": slice(None, None, -1)}, {"x": slice(None, None, -1)}):
        np.testing.assert_allclose(fss(obs.isel(turned), fcst.isel(turned), **options), expected, rtol=1e-12)
    np.testing.assert_allclose(fss(fcst, obs, **options), expected, rtol=1e-12)  # and it is symmetric


@pytest.mark.parametrize("data", ["rain", "masked"])
@pytest.mark.parametrize("min_valid", [0.0, 0.4])
def test_a_margin_of_nan_changes_nothing(data, min_valid, request):
    obs, fcst = request.getfixturevalue(data)
    options = {"thresholds": 2.0, "scales": SCALES, "min_valid": min_valid}
    wider = [field.pad(y=(3, 9), x=(5, 2)).drop_vars(["y", "x"]) for field in (obs, fcst)]
    xr.testing.assert_allclose(fss_sums(*wider, **options), fss_sums(obs, fcst, **options), rtol=1e-12)


def test_complete_windows_are_those_of_the_interior(rain):
    options = {"thresholds": 2.0, "scales": SCALES}
    found = fss_sums(*rain, **options, min_valid=1.0)
    xr.testing.assert_allclose(found, fss_sums(*rain, **options, boundary="interior"), rtol=1e-12)


def test_order_of_members_and_identical_members(masked):
    obs, fcst = masked
    options = {"thresholds": 2.0, "scales": SCALES, "member_dim": "member"}
    xr.testing.assert_allclose(fss(obs, fcst[::-1], **options), fss(obs, fcst, **options), rtol=1e-10)
    same = fcst.isel(member=[0, 0, 0])
    one = fss(obs, fcst.isel(member=0, drop=True), thresholds=2.0, scales=SCALES)
    xr.testing.assert_allclose(fss(obs, same, **options), one, rtol=1e-12)


def test_sums_of_parts_add_up(masked):
    obs, fcst = masked
    options = {"thresholds": THRESHOLDS, "scales": SCALES}
    parts = [fss_sums(obs.isel(time=t), fcst.isel(time=t), **options) for t in ([0, 2], [1])]
    xr.testing.assert_allclose(parts[0] + parts[1], fss_sums(obs, fcst, **options), rtol=1e-12)
    by_time = fss_sums(obs, fcst, **options, dim="member")
    xr.testing.assert_allclose(fss(by_time.sum("time")), fss(obs, fcst, **options), rtol=1e-12)


def test_squares_are_summed_before_the_ratio_is_taken():
    observed = xr.concat([with_pixel((0, 0), (5, 5)), with_pixel((0, 0))], "time")
    forecast = xr.concat([with_pixel((0, 0), (5, 5)), with_pixel((7, 7))], "time")
    assert float(fss(observed, forecast, thresholds=1, scales=1)) == pytest.approx(2 / 3)
    assert float(fss(observed, forecast, thresholds=1, scales=1, dim=[]).mean()) == 0.5


def test_thresholds_and_scales_do_not_disturb_each_other(masked):
    together = fss(*masked, thresholds=THRESHOLDS, scales=SCALES)
    assert together.dims == ("threshold", "scale")
    for threshold, scale in itertools.product(THRESHOLDS, SCALES):
        alone = fss(*masked, thresholds=threshold, scales=scale)
        assert float(alone) == float(together.sel(threshold=threshold, scale=scale))
        assert alone.coords["scale"].ndim == 0


@pytest.mark.parametrize("chunks", [{"time": 1}, {"member": 1, "y": 7}, {"time": 2, "member": 3, "x": 5}])
@pytest.mark.parametrize("member_dim", [None, "member"])
def test_chunks_change_nothing(masked, chunks, member_dim, nothing_may_run):
    obs, fcst = masked
    options = {"thresholds": THRESHOLDS, "scales": SCALES, "member_dim": member_dim, "dim": ["y", "x"]}
    chunked = obs.chunk({d: n for d, n in chunks.items() if d in obs.dims}), fcst.chunk(chunks)
    with nothing_may_run:
        lazy = fss(*chunked, **options)
    xr.testing.assert_allclose(lazy.compute(), fss(obs, fcst, **options), rtol=1e-12)


def test_masks_that_change_from_field_to_field(masked, kernel):
    obs, fcst = masked
    of_all = fss_sums(obs, fcst, thresholds=2.0, scales=SCALES, dim=[])
    for t, m in itertools.product(range(3), range(4)):
        one = fss_sums(obs[t], fcst[m, t], thresholds=2.0, scales=SCALES)
        xr.testing.assert_allclose(of_all.isel(time=t, member=m), one, rtol=1e-12)


def test_datasets_attributes_and_inputs(masked):
    obs, fcst = (field.assign_attrs(units="mm h-1").rename("rain") for field in masked)
    before = obs.copy(deep=True)
    both = fss(obs.to_dataset(), fcst.to_dataset(), thresholds="hko7", scales=[1, 3], keep_attrs=True)
    assert both["rain"].attrs["units"] == "mm h-1"
    assert both["threshold"].values.tolist() == [0.5, 2, 5, 10, 30]
    xr.testing.assert_identical(obs, before)
    sums = fss_sums(obs.to_dataset(), fcst.to_dataset(), thresholds=2.0, scales=3)
    assert sums["variable"].values.tolist() == ["rain"]


def test_without_skipna_a_nan_makes_its_field_nan(rain):
    obs, fcst = rain
    obs = obs.copy()
    obs[1, 3, 3] = np.nan
    score = fss(obs, fcst, thresholds=2.0, scales=3, dim="member", skipna=False)
    assert np.isnan(score).values.tolist() == [False, True, False]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": 0}, "scales=0 must be a whole number of cells"),
        ({"scales": 2.5}, "must be a whole number of cells"),
        ({"thresholds": np.nan}, "must be a finite number"),
        ({"boundary": "reflect"}, "boundary='reflect' is unknown"),
        ({"min_valid": 1.5}, "must be a share from 0 to 1"),
        ({"member_dim": "realization"}, "no 'realization'"),
        ({"dim": "lead"}, "dim 'lead' is in neither array"),
        ({"spatial_dims": ("lat", "lon")}, "are not both among the dims"),
    ],
)
def test_impossible_options_are_refused(rain, options, message):
    with pytest.raises(ValueError, match=message):
        fss(*rain, **({"thresholds": 1.0, "scales": 3} | options))


def test_other_mistakes_are_refused(rain):
    obs, fcst = rain
    with pytest.raises(ValueError, match="dim 'x' differs"):
        fss(obs.assign_coords(x=obs.x + 1), fcst, thresholds=1.0, scales=3)
    with pytest.raises(ValueError, match="observations have the dim 'member' too"):
        fss(fcst, fcst, thresholds=1.0, scales=3, member_dim="member")
    with pytest.raises(TypeError, match="or sums from fss_sums alone"):
        fss(obs, fcst, thresholds=1.0)
    with pytest.raises(TypeError, match="takes sums from fss_sums alone"):
        fss_target(obs)
    with pytest.raises(ValueError, match="no 'scale'"):
        useful_scale(fss_sums(obs, fcst, thresholds=1.0, scales=3))


# ---------------------------------------------------------------- whole numbers of two lengths


def test_compiled_sums_are_right_up_to_the_largest_short_integers_and_beyond(monkeypatch):
    pytest.importorskip("numba")
    rng = np.random.default_rng(3)
    # 136 interior windows of 63 x 63 cells: (63^2)^2 * 136 is just below 2^31, as is the sum of one row of windows.
    wet, dry = np.ones((198, 198), "f4"), np.zeros((198, 198), "f4")
    mixed = rng.random((198, 198)).astype("f4")
    for obs, fcst in ((wet, dry), (dry, wet), (mixed, wet), (mixed, mixed.T)):
        for boundary in fractions.BOUNDARIES:
            found = []
            for worth in (0, 10**12):
                monkeypatch.setattr(compiled, "WORTH_COMPILING", worth)
                options = {"axis": [0, 1], "boundary": boundary}
                found.append(fractions.fractions_sums(obs, fcst, [0.5], [1, 20, 63, 64, 150], **options))
            np.testing.assert_allclose(found[0], found[1], rtol=1e-12)
    sums = fractions.fractions_sums(wet, dry, [0.5], [63], axis=[0, 1], boundary="interior")
    assert sums[0, 0, 0, 0, :3].tolist() == pytest.approx([136**2, 0, 136**2])
