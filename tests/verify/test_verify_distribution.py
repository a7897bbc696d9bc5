"""Scores of intensity distributions: worked by hand, exact and streamed, against scipy and numpy, and their errors."""

import warnings

import dask
import numpy as np
import pytest
import scipy.stats
import xarray as xr
from rain_fields import observed_and_members, on_x

from xnowcast.verify import distribution
from xnowcast.verify.kernels import compiled, histograms

SCORES = {
    "emd": lambda o, f, **options: distribution.emd(o, f, **options),
    "percentile_error": lambda o, f, **options: distribution.percentile_error(o, f, percentage=90, **options),
    "overlap": lambda o, f, **options: distribution.histogram_overlap(o, f, edges=[-np.inf, 1, 5, np.inf], **options),
    "observed quantiles": lambda o, f, **options: distribution.quantile_quantile(o, f, **options)["observed"],
    "forecast quantiles": lambda o, f, **options: distribution.quantile_quantile(o, f, **options)["forecast"],
}


@pytest.fixture
def rain():
    """Observations and forecasts: continuous values, zeros, NaN not alike."""
    observed, forecast = observed_and_members(members=3, times=4, decimals=None)
    return tuple(field.rename("rr").assign_attrs(units="mm h-1") for field in (observed, forecast))


@pytest.fixture(params=["numpy", "numba"])
def engine(request, monkeypatch):
    if request.param == "numba":
        pytest.importorskip("numba", reason="needs the extra fast")
        monkeypatch.setattr(compiled, "WORTH_COMPILING", 0)
    else:
        monkeypatch.setattr(compiled, "WORTH_COMPILING", 10**18)
    return request.param


# ---------------------------------------------------------------- worked by hand


def test_distance_of_a_shift_is_the_shift():
    rng = np.random.default_rng(0)
    values = xr.DataArray(rng.gamma(0.5, 2.0, 1000), dims="x")
    shuffled = xr.DataArray(rng.permutation(values.values) + 3.0, dims="x")
    assert float(distribution.emd(values, shuffled)) == pytest.approx(3.0)
    assert float(distribution.emd(values, shuffled, exact=False)) == pytest.approx(3.0, rel=1e-6)


def test_distance_worked_by_hand():
    # sorted 0 1 5 against 0 3 5: one value is moved by 2
    for exact in (True, False):
        assert float(distribution.emd(on_x(0, 1, 5), on_x(5, 3, 0), exact=exact)) == pytest.approx(2 / 3)


def test_pairs_with_nan_are_dropped_on_both_sides():
    o, f = on_x(np.nan, 1, 2, 7), on_x(9, 2, 3, np.nan)
    for exact in (True, False):
        assert float(distribution.emd(o, f, exact=exact)) == pytest.approx(1.0)
        assert np.isnan(distribution.emd(o, f, exact=exact, skipna=False))
    assert float(distribution.percentile_error(o, f, percentage=50)) == 1.0


def test_without_pairs_scores_are_nan():
    o, f = on_x(np.nan, 1.0), on_x(2.0, np.nan)
    for name, score in SCORES.items():
        if name != "percentile_error":
            assert np.isnan(score(o, f)).all()
    assert np.isnan(distribution.percentile_error(o, f, percentage=50))
    assert np.isnan(distribution.emd(o, f, exact=False))
    assert np.isnan(distribution.percentiles(on_x(np.nan), exact=False)).all()


def test_overlap_worked_by_hand():
    o, f = on_x(0, 0, 2, 8), on_x(0, 2, 2, 2)
    histogram = distribution.intensity_histogram(o, f, edges=[0, 1, 5, np.inf])
    np.testing.assert_array_equal(histogram["observed"], [2, 1, 1])
    np.testing.assert_array_equal(histogram["forecast_sum"], [0, 6, 0])
    assert float(distribution.histogram_overlap(histogram)) == 0.5
    assert float(distribution.histogram_overlap(o, o, edges=[0, 1, 5, np.inf])) == 1.0


def test_edge_has_the_precision_of_the_data():
    o = on_x(0.7, 0.7, dtype="float32")
    assert distribution.intensity_histogram(o, o, edges=[0.0, 0.7, 1.0])["observed"].values.tolist() == [0, 2]


def test_few_distinct_values_are_exact_when_streamed(engine):
    rng = np.random.default_rng(1)
    for values in (np.arange(256.0), np.arange(1500) / 100, np.arange(-70, 140) / 2.0):
        o, f = (xr.DataArray(rng.choice(values, 4000, p=_skewed(rng, len(values))), dims="x") for _ in range(2))
        o, f = o.astype("f4"), f.astype("f4")
        expected = scipy.stats.wasserstein_distance(o.values, f.values)
        assert float(distribution.emd(o, f, exact=False)) == pytest.approx(expected, rel=1e-12)
        found = distribution.percentiles(f, percentages=[1, 50, 99.9], exact=False)
        np.testing.assert_array_equal(found, np.percentile(f.values.astype("f8"), [1, 50, 99.9]))


def _skewed(rng, n):
    weights = rng.gamma(0.3, size=n)
    return weights / weights.sum()


# ---------------------------------------------------------------- the bins


def test_counts_and_sums_of_the_bins_are_exact(engine):
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.lognormal(0, 4, 3000), -rng.lognormal(0, 4, 3000), [0.0, -0.0, 1e-12]])
    values = values[np.abs(values) < histograms.LARGEST].astype("f4")
    edges = histograms.bin_edges()
    table = histograms.histogram_sums(values, values[::-1].copy(), axis=[0])[0]
    np.testing.assert_array_equal(table[0], table[2])
    # numpy's bins own their lower edge, ours the edge nearer to 0; so positive and negative ones are checked apart
    for sign in (1, -1):
        part = values[sign * values >= histograms.SMALLEST].astype("f8") * sign
        bins = edges[edges >= histograms.SMALLEST * 0.999]
        half = slice(histograms.N_BINS // 2 + 1, None) if sign > 0 else slice(histograms.N_BINS // 2 - 1, None, -1)
        place = np.searchsorted(bins, part, side="right") - 1
        np.testing.assert_array_equal(table[0, half], np.bincount(place, minlength=len(bins) - 1))
        np.testing.assert_array_equal(sign * table[1, half], np.bincount(place, part, minlength=len(bins) - 1))
    assert table[0].sum() == len(values)


def test_many_equal_values_do_not_overflow_a_bin(monkeypatch):
    pytest.importorskip("numba", reason="needs the extra fast")
    monkeypatch.setattr(compiled, "WORTH_COMPILING", 0)
    monkeypatch.setattr(histograms, "_FULL", 100)
    value = np.nextafter(np.float32(2), np.float32(0))  # its rest is as large as can be
    table = histograms.histogram_sums(np.full((7, 90), value), np.zeros((7, 90), "f4"), axis=[0, 1])[0, 0]
    assert table[0].max() == 630
    assert table[1].sum() == 630 * float(value)


def test_bins_are_narrower_than_the_stated_bound():
    edges = histograms.bin_edges()
    positive = edges[edges > 0]
    assert (np.diff(positive) / positive[:-1]).max() <= 2.0**-11
    assert len(edges) == histograms.N_BINS + 1
    assert (np.diff(edges) > 0).all()


# ---------------------------------------------------------------- against scipy and numpy


@pytest.mark.parametrize("relation", ["scaled", "alike", "mask", "negative"])
def test_distance_is_that_of_scipy_and_streamed_within_its_bound(relation, engine):
    rng = np.random.default_rng(5)
    o = (rng.gamma(0.4, 4.0, (5, 60, 60)) * (rng.random((5, 60, 60)) > 0.6)).astype("f4")
    f = (rng.gamma(0.4, 4.0, (5, 60, 60)) * (rng.random((5, 60, 60)) > 0.6)).astype("f4")
    if relation == "scaled":
        f *= np.float32(1.3)
    if relation == "mask":
        o[:, :20], f[:, 10:30] = np.nan, np.nan
    if relation == "negative":
        o, f = o * 3 - 15, f * 2 - 10
    obs, fcst = (xr.DataArray(a, dims=("time", "y", "x")) for a in (o, f))
    pairs = np.isfinite(o) & np.isfinite(f)
    expected = scipy.stats.wasserstein_distance(o[pairs], f[pairs])
    assert float(distribution.emd(obs, fcst)) == pytest.approx(expected, rel=1e-6)
    histogram = distribution.intensity_histogram(obs, fcst)
    streamed, bound = float(distribution.emd(histogram)), float(distribution.emd_bound(histogram))
    assert abs(streamed - expected) <= bound + 1e-9
    # about 2^-11 of a bin's values are in it, and 2^-11 of their size is its width
    assert bound <= (1e-4 if relation == "alike" else 1e-5) * max(1.0, expected)


def test_unequal_numbers_are_handled_as_by_scipy():
    rng = np.random.default_rng(6)
    o, f = rng.gamma(1.0, 2.0, 700).astype("f4"), rng.gamma(1.2, 2.5, 1900).astype("f4")
    tables = [histograms.histogram_sums(a, a, axis=[0])[0] for a in (o, f)]
    found = histograms.histogram_distance(tables[0][0], tables[0][1], tables[1][0], tables[1][1])
    assert float(found) == pytest.approx(scipy.stats.wasserstein_distance(o, f), rel=1e-5)


@pytest.mark.parametrize("chunks", [None, {"time": 1, "y": 7}])
@pytest.mark.parametrize("dim", [None, ["y", "x"], ["time"]])
def test_exact_percentiles_are_those_of_numpy(rain, chunks, dim, engine):
    field = -rain[1].isel(member=0) + 1.0  # both signs
    wanted = [0, 0.1, 37.5, 95, 99.9, 100]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of cells that are never measured
        expected = field.astype("f8").quantile(np.array(wanted) / 100, dim=dim, skipna=True)
    array = field if chunks is None else field.chunk(chunks)
    found = distribution.percentiles(array, percentages=wanted, dim=dim, exact=True)
    np.testing.assert_allclose(
        found.transpose("percentage", ...), expected.drop_vars("quantile"), rtol=1e-12, atol=1e-12
    )


def test_streamed_percentiles_are_within_their_bound(rain, engine):
    field = rain[1]
    wanted = [10, 50, 90, 99, 99.99]
    expected = np.nanpercentile(field.values.astype("f8"), wanted)
    found = distribution.percentiles(field.chunk(time=1), percentages=wanted, exact=False)
    np.testing.assert_allclose(found, expected, rtol=2.0**-11)


def test_two_passes_find_what_is_beyond_one_bin():
    """Values that differ by less than the width of a bin."""
    values = (np.float32(1) + np.arange(1000, dtype="f4") * np.float32(2**-23)).astype("f4")
    field = xr.DataArray(np.random.default_rng(0).permutation(values), dims="x").chunk(x=100)
    found = distribution.percentiles(field, percentages=[0, 50, 100], exact=True)
    assert abs(found - np.percentile(values.astype("f8"), [0, 50, 100])).max() < 1e-12


def test_members_share_observations(rain):
    o, f = rain
    both = xr.broadcast(o, f)
    pairs = np.isfinite(both[0].values) & np.isfinite(both[1].transpose(*both[0].dims).values)
    values = [a.transpose(*both[0].dims).values[pairs] for a in both]
    for exact in (True, False):
        expected = scipy.stats.wasserstein_distance(*values)
        assert float(distribution.emd(o, f, exact=exact)) == pytest.approx(expected, rel=1e-5)
    assert float(distribution.intensity_histogram(o, f)["observed"].sum()) == pairs.sum()
    alike = f.fillna(3.0).where(o.notnull())  # NaN where observed is, in all members
    np.testing.assert_allclose(distribution.emd(o, alike), distribution.emd(o.broadcast_like(alike), alike))


def test_dims_of_length_zero_have_no_pairs(rain):
    none = [a.isel(time=slice(0)) for a in rain]
    assert np.isnan(distribution.emd(*none))
    assert np.isnan(distribution.emd(*none, exact=False))
    assert np.isnan(distribution.quantile_quantile(*none)["forecast"]).all()


# ---------------------------------------------------------------- invariances


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dim", [None, ["y", "x"], ["member", "y", "x"]])
def test_chunks_do_not_matter(rain, name, dim):
    o, f = rain
    expected = SCORES[name](o, f, dim=dim, **({} if name == "overlap" else {"exact": False}))
    for chunks in ({"time": 2}, {"member": 2, "y": 12}):
        found = SCORES[name](
            o.chunk({d: n for d, n in chunks.items() if d in o.dims}),
            f.chunk(chunks),
            dim=dim,
            **({} if name == "overlap" else {"exact": False}),
        )
        assert found.chunks is not None
        xr.testing.assert_allclose(found, expected, rtol=1e-12)


def test_histograms_of_parts_add_up(rain):
    o, f = rain
    whole = distribution.intensity_histogram(o, f)
    parts = [distribution.intensity_histogram(o.isel(time=p), f.isel(time=p)) for p in (slice(1), slice(1, None))]
    xr.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-12)
    stacked = distribution.intensity_histogram(o, f, dim=["member", "y", "x"]).sum("time")
    assert float(distribution.emd(stacked)) == pytest.approx(float(distribution.emd(whole)), rel=1e-12)
    for name, score in (("percentile_error", distribution.percentile_error), ("emd", distribution.emd)):
        options = {"percentage": 90} if name == "percentile_error" else {}
        np.testing.assert_allclose(score(whole, **options), score(o, f, exact=False, **options), rtol=1e-12)


def test_nothing_is_computed_while_the_graph_is_built(rain, nothing_may_run):
    o, f = (a.chunk(time=1) for a in rain)
    with nothing_may_run:
        lazy = [score(o, f) for score in SCORES.values()]
        lazy += [distribution.percentiles(f, exact=True), distribution.percentiles(f, exact=False)]
        lazy += [distribution.percentile_error(o, f, percentage=90, exact=True), distribution.emd(o, f, exact=False)]
        histogram = distribution.intensity_histogram(o, f, edges=[0, 1, np.inf])
        lazy += [distribution.histogram_overlap(histogram)]
    assert all(dask.is_dask_collection(array.data) for array in lazy)


def test_two_passes_of_pairs_are_exact(rain):
    o, f = rain
    expected = distribution.quantile_quantile(o, f, percentages=[50, 99])
    found = distribution.quantile_quantile(o.chunk(time=1), f.chunk(time=1), percentages=[50, 99], exact=True)
    xr.testing.assert_allclose(found, expected, rtol=1e-12)


def test_small_lazy_input_is_sorted(rain):
    """A histogram for each pixel would be larger than the data."""
    o, f = rain[0], rain[1].isel(member=0, drop=True)
    found = distribution.emd(o.chunk(y=5), f.chunk(y=5), dim="time")
    xr.testing.assert_allclose(found.compute(), distribution.emd(o, f, dim="time", exact=True))


def test_datasets_and_attributes(rain):
    o, f = (a.to_dataset(name="rr").assign(other=a * 2) for a in rain)
    found = distribution.emd(o, f, dim=["y", "x"], keep_attrs=True)
    assert set(found.data_vars) == {"rr", "other"}
    np.testing.assert_allclose(found["other"], 2 * found["rr"], rtol=1e-6)
    assert distribution.emd(o["rr"], f["rr"], keep_attrs=True).attrs == {"units": "mm h-1"}
    assert distribution.emd(o["rr"], f["rr"]).attrs == {}
    assert distribution.emd(o["rr"], f["rr"]).name == "emd"
    curve = distribution.quantile_quantile(o, f, percentages=[50, 90])
    assert curve["observed"].dims == ("variable", "percentage")
    assert distribution.intensity_histogram(o, f, edges=[0, 1, np.inf]).sizes == {"variable": 2, "intensity": 2}


def test_member_dim_scores_the_mean(rain):
    o, f = rain
    expected = distribution.emd(o, f.mean("member"))
    xr.testing.assert_allclose(distribution.emd(o, f, member_dim="member"), expected)


def test_inputs_are_left_as_they_were(rain):
    o, f = rain
    before = o.copy(deep=True), f.copy(deep=True)
    for score in SCORES.values():
        score(o, f)
    xr.testing.assert_identical(o, before[0])
    xr.testing.assert_identical(f, before[1])


# ---------------------------------------------------------------- errors


def test_too_few_values_for_the_percentile_are_warned_of(rain):
    o, f = rain
    with pytest.warns(UserWarning, match=r"99\.999 of 5280 values is next to their maximum; .* from 100000 values"):
        distribution.percentile_error(o, f)
    with pytest.warns(UserWarning, match=r"from 100000 values"):
        distribution.percentile_error(distribution.intensity_histogram(o, f))


def test_wrong_arguments_are_named(rain):
    o, f = rain
    with pytest.raises(ValueError, match="edges must be two or more rising numbers"):
        distribution.intensity_histogram(o, f, edges=[1, 1, 2])
    with pytest.raises(ValueError, match="outside of the edges, 0 to less than 5: let the edges begin with -inf"):
        distribution.intensity_histogram(o, f, edges=[0, 5])
    with pytest.raises(ValueError, match="4194304 or more in size, or infinite: is it a fill value"):
        distribution.intensity_histogram(o, f.where(f.notnull(), 9.96921e36))
    with pytest.raises(ValueError, match="the overlap depends on the bins: give edges="):
        distribution.histogram_overlap(o, f)
    with pytest.raises(ValueError, match="percentages must be within 0 and 100; found 101"):
        distribution.percentiles(o, percentages=101)
    with pytest.raises(TypeError, match="emd takes observations and forecasts, or a Dataset from intensity_histogram"):
        distribution.emd(o)
    with pytest.raises(ValueError, match="dim 'x' differs"):
        distribution.emd(o, f.assign_coords(x=f["x"] + 1))
    with pytest.raises(ValueError, match="dim 'z' is in neither array"):
        distribution.percentiles(o, dim="z")
