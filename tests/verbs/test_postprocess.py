"""The verbs postprocess and explain: what comes out, on which grid, from which data, and what is refused."""

from datetime import timedelta
from inspect import signature

import numpy as np
import pytest
import torch
import xarray as xr

import xnowcast
from xnowcast import models
from xnowcast.accessor import NowcastAccessor
from xnowcast.data.datasets import synthetic_nwp
from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity
from xnowcast.nn.labels import continuous_labels
from xnowcast.verbs.postprocess import class_names, explain, postprocess

WARM = "air_temperature at 850 hPa"
CHANNELS = ("rainfall_rate", WARM, "eastward_wind at 10 m")


class Wetter:
    """The forecast's rain, doubled where it is warmer than 280 K at 850 hPa; looks where it rains."""

    built = 0
    calls: list[tuple[int, ...]] = []

    def __init__(self, channels=CHANNELS, thresholds=(0.1, 10.0), spacing=None):
        type(self).built += 1
        self.task, self.transform = self.declare(channels, thresholds, spacing), Identity()
        self.thresholds = tuple(thresholds)

    @classmethod
    def declare(cls, channels=CHANNELS, thresholds=(0.1, 10.0), spacing=None):
        return Task(
            "postprocess", 1, "rain_rate", grid_multiple=16, min_grid=4, channels=tuple(channels), spacing=spacing
        )

    def postprocess(self, fields, observed):
        Wetter.calls.append(tuple(fields.shape))
        assert fields.shape[1] == len(self.task.channels) and fields.shape[-1] % 16 == fields.shape[-2] % 16 == 0
        assert (fields.isfinite().any(1, keepdim=True) == observed).all()
        rain = fields[:, 0].nan_to_num(0)
        return continuous_labels(torch.where(fields[:, 1] > 280, 2 * rain, rain), self.thresholds)

    def explain(self, fields, observed, category):
        rain = fields[:, 0].nan_to_num(0)
        return rain * category / 100


@pytest.fixture
def wetter(monkeypatch):
    monkeypatch.setattr("xnowcast.models.registry.REGISTRY", models.REGISTRY | {"wetter": f"{__name__}:Wetter"})
    monkeypatch.setattr(Wetter, "built", 0)
    monkeypatch.setattr(Wetter, "calls", [])
    return Wetter


@pytest.fixture(scope="module")
def nwp():
    """Two runs of three hours on 20 x 24 cells, in memory."""
    return synthetic_nwp(runs=2, leads=3, shape=(12, 14))[0].compute()


def expected(nwp):
    warm = nwp.t.sel(pressure=850, drop=True) > 280
    return np.minimum(np.where(warm, 2 * nwp.rain, nwp.rain), 10)


# ---------------------------------------------------------------- what comes out


def test_the_rain_rate_is_that_of_the_probabilities(nwp):
    corrected = nwp.nowcast.postprocess(Wetter())
    np.testing.assert_allclose(corrected.rainfall_rate, expected(nwp), atol=1e-5)
    assert corrected.rainfall_rate.dims == ("init_time", "lead_time", "y", "x")
    np.testing.assert_allclose(corrected.probability.sum("category"), 1, atol=1e-6)


def test_exceedance_sums_the_classes_above(nwp):
    corrected = nwp.nowcast.postprocess(Wetter(thresholds=(0.1, 1.0, 10.0)))
    p = corrected.probability
    for i, threshold in enumerate((0.1, 1.0, 10.0)):
        above = corrected.exceedance_probability.sel(threshold=threshold)
        np.testing.assert_allclose(above, p.isel(category=slice(i + 1, None)).sum("category"), atol=1e-6)
    assert (corrected.exceedance_probability.diff("threshold") <= 1e-7).all()


def test_the_class_is_the_most_probable_or_that_of_the_rain_rate(nwp):
    most = nwp.nowcast.postprocess(Wetter())
    np.testing.assert_array_equal(most.rain_category, most.probability.argmax("category"))
    by_rain = nwp.nowcast.postprocess(Wetter(), decision="inverse")
    rain = by_rain.rainfall_rate
    apart = (abs(rain - 0.1) > 1e-3) & (abs(rain - 10) > 1e-3)
    np.testing.assert_array_equal(by_rain.rain_category.where(apart), ((rain >= 0.1) * 1.0 + (rain >= 10)).where(apart))
    assert (most.rain_category == 2).sum() > (by_rain.rain_category == 2).sum()  # heavy from 5.05 mm h-1 on
    assert by_rain.attrs["nowcast_decision"] == "inverse"


def test_the_forecasts_own_rain_needs_no_weights(nwp):
    raw = nwp.nowcast.postprocess("nwp-raw")
    np.testing.assert_array_equal(raw.rain_category, np.digitize(nwp.rain, np.float32([0.1, 10.0])))
    soft = nwp.nowcast.postprocess("nwp-raw", soft=True)
    np.testing.assert_allclose(soft.rainfall_rate, np.minimum(nwp.rain, 10), atol=1e-5)


def test_the_rain_rate_of_certain_classes_is_their_least_and_says_so(nwp):
    rate = nwp.nowcast.postprocess("nwp-raw").rainfall_rate
    assert set(np.unique(rate)) <= set(np.float32([0.0, 0.1, 10.0]))
    assert "not the forecast's own rain" in rate.attrs["comment"] and "at most 10 mm h-1" in rate.attrs["comment"]


def test_labels_are_cf(nwp):
    corrected = nwp.nowcast.postprocess(Wetter())
    assert corrected.rainfall_rate.attrs["standard_name"] == "rainfall_rate"
    assert corrected.rainfall_rate.attrs["units"] == "mm h-1"
    flag = corrected.rain_category
    assert flag.attrs["flag_meanings"] == "no_rain rain heavy_rain" and flag.attrs["flag_values"].tolist() == [0, 1, 2]
    assert corrected.probability.attrs["units"] == "1" and corrected.threshold.attrs["units"] == "mm h-1"
    assert all(corrected[n].attrs["grid_mapping"] == "crs" for n in corrected.data_vars if n != "crs")
    assert corrected.crs.attrs == nwp.crs.attrs
    assert corrected.attrs["nowcast_model"] == "Wetter" and corrected.attrs["Conventions"] == "CF-1.10"
    assert "xnowcast postprocess with Wetter" in corrected.attrs["history"]
    for name in ("y", "x", "init_time", "lead_time"):
        xr.testing.assert_identical(corrected[name].variable, nwp[name].variable)


def test_a_saved_result_is_cf_and_reads_back(nwp, tmp_path):
    pytest.importorskip("compliance_checker.runner", reason="compliance-checker is in the extra 'test'")
    from test_cf_compliance import ORDER, complaints

    seen = nwp.x > -2e4
    part = nwp.assign({name: nwp[name].where(seen) for name in ("rain", "t", "u10")})
    corrected = part.nowcast.postprocess(Wetter())
    corrected.to_netcdf(tmp_path / "corrected.nc")
    assert [line for line in complaints(tmp_path / "corrected.nc", tmp_path) if ORDER not in line] == []
    back = xr.open_dataset(tmp_path / "corrected.nc")
    xr.testing.assert_allclose(back.rain_category, corrected.rain_category)
    assert np.isnan(back.rain_category[..., 0]).all()
    raw = xr.open_dataset(tmp_path / "corrected.nc", mask_and_scale=False)
    assert raw.rain_category.dtype == raw.rain_category.attrs["flag_values"].dtype == np.int8


def test_other_thresholds_name_their_classes():
    assert class_names((0.5,)) == ("under_0.5_mm_h-1", "from_0.5_mm_h-1")
    assert class_names((1.0, 5.0)) == ("under_1_mm_h-1", "from_1_to_5_mm_h-1", "from_5_mm_h-1")


def test_the_activation_of_a_class_is_told_by_number_or_name(nwp):
    by_name = nwp.nowcast.explain(Wetter(), category="heavy_rain")
    np.testing.assert_allclose(by_name.class_activation, 2 * nwp.rain / 100, rtol=1e-6)
    xr.testing.assert_identical(by_name, nwp.nowcast.explain(Wetter(), category=2))
    assert by_name.attrs["nowcast_category"] == "heavy_rain" and by_name.class_activation.attrs["units"] == "1"


def test_who_names_a_variable_is_told_how_channels_are_named(nwp):
    rain = xr.Dataset({"tp": nwp.rain.drop_attrs(deep=False).assign_attrs(units="mm h-1")})
    with pytest.raises(ValueError, match=r"no argument 'variable'.*channels=\{'rainfall_rate': 'tp'\} does"):
        rain.nowcast.postprocess("nwp-raw", variable="tp")
    assert rain.nowcast.postprocess("nwp-raw", channels={"rainfall_rate": "tp"}).rain_category.notnull().any()
    with pytest.raises(ValueError, match=r"channels=\{'rainfall_rate': 'T'\} does"):
        nwp.nowcast.explain("nwp-mae", category=1, variable="T")
    with pytest.raises(ValueError, match="'nwp-raw' has no option 'variabel'"):
        nwp.nowcast.postprocess("nwp-raw", variabel="tp")


@pytest.mark.parametrize("verb", [postprocess, explain])
def test_the_accessor_has_the_arguments_of_the_function(verb):
    def arguments(function):
        return {n: p.default for n, p in signature(function).parameters.items() if n not in ("self", "obj")}

    assert arguments(getattr(NowcastAccessor, verb.__name__)) == arguments(verb)


def test_the_rain_rate_can_be_verified(nwp):
    _, rain = synthetic_nwp(runs=2, leads=3, shape=(12, 14))
    scores = nwp.nowcast.postprocess(Wetter()).nowcast.verify(rain, thresholds=[0.1, 5.0], scales=[1])
    assert scores.csi.sizes["lead_time"] == 3 and (scores.csi.sel(threshold=0.1) > 0.1).all()


# ---------------------------------------------------------------- dims, gaps, chunks


def test_lazy_in_lazy_out_and_chunks_change_nothing(nwp, wetter, nothing_may_run):
    with nothing_may_run:
        lazy = nwp.chunk({"init_time": 1, "lead_time": 2, "y": 7}).nowcast.postprocess("wetter", batch_size=1)
        looked = nwp.chunk({"lead_time": 1}).nowcast.explain("wetter", category=1)
    assert wetter.built == 0
    parts = lazy.compute()
    assert {shape[0] for shape in wetter.calls} == {1} and len(wetter.calls) == 6
    xr.testing.assert_allclose(parts, nwp.nowcast.postprocess("wetter"))
    assert wetter.built == 1 and looked.class_activation.chunks is not None  # one model for all tasks


def test_members_and_other_dims_are_kept_in_their_order(nwp):
    many = xr.concat([nwp, nwp.assign(rain=nwp.rain * 2)], "member").transpose("lead_time", "member", ...)
    many["msl"] = many.msl.isel(member=0)
    corrected = many.nowcast.postprocess(Wetter())
    assert set(corrected.rainfall_rate.dims[:-2]) == {"lead_time", "member", "init_time"}
    second = corrected.rainfall_rate.isel(member=1).transpose("init_time", "lead_time", "y", "x")
    np.testing.assert_allclose(second, expected(nwp.assign(rain=nwp.rain * 2)), atol=1e-5)


def test_a_single_field_and_a_dim_of_times_do_as_well(nwp):
    one = nwp.isel(init_time=0, lead_time=1)
    corrected = one.nowcast.postprocess(Wetter())
    assert corrected.rainfall_rate.dims == ("y", "x") and corrected.probability.dims == ("category", "y", "x")
    assert corrected.init_time == one.init_time
    times = nwp.isel(init_time=0).rename(lead_time="time")
    assert times.nowcast.postprocess(Wetter()).rainfall_rate.dims == ("time", "y", "x")


def test_rows_and_columns_come_back_as_they_were_given(nwp):
    turned = nwp.isel(y=slice(None, None, -1), x=slice(None, None, -1))
    result = turned.nowcast.postprocess(Wetter()).isel(y=slice(None, None, -1), x=slice(None, None, -1))
    xr.testing.assert_allclose(result.rainfall_rate, nwp.nowcast.postprocess(Wetter()).rainfall_rate)


def test_a_cell_without_any_value_is_unknown_and_a_single_gap_is_not(nwp, wetter):
    part = nwp.copy(deep=True)
    for name in ("rain", "t", "u10"):
        part[name][..., :3, :] = np.nan
    part.t[..., 8, 8] = np.nan
    corrected = part.nowcast.postprocess("wetter")
    for name in ("rainfall_rate", "rain_category", "probability", "exceedance_probability"):
        assert np.isnan(corrected[name][..., :3, :]).all() and np.isfinite(corrected[name][..., 3:, :]).all()


def test_fields_without_any_value_are_not_given_to_the_model(nwp, wetter):
    part = nwp.copy(deep=True)
    part = part.where(part.lead_time != part.lead_time[1])
    part["crs"] = nwp.crs
    corrected = part.nowcast.postprocess("wetter")
    assert np.isnan(corrected.rainfall_rate[:, 1]).all() and sum(shape[0] for shape in wetter.calls) == 4


def test_the_input_is_left_as_it_was(nwp):
    before = nwp.copy(deep=True)
    nwp.nowcast.postprocess(Wetter())
    nwp.nowcast.explain(Wetter(), category=1)
    xr.testing.assert_identical(nwp, before)


# ---------------------------------------------------------------- channels and units


def test_units_are_converted(nwp):
    other = nwp.assign(
        rain=(nwp.rain / 3600).assign_attrs(standard_name="precipitation_flux", units="kg m-2 s-1"),
        t=(nwp.t - 273.15).assign_attrs(nwp.t.attrs | {"units": "degC"}),
    )
    corrected = other.nowcast.postprocess(Wetter())
    near = abs(nwp.t.sel(pressure=850, drop=True) - 280) < 1e-3
    np.testing.assert_allclose(
        corrected.rainfall_rate.where(~near), expected(nwp) + 0 * near.where(~near), rtol=1e-4, atol=1e-4
    )


def test_a_mapping_names_what_attributes_do_not_tell(nwp):
    flat = nwp.drop_vars("t").assign(T850=nwp.t.sel(pressure=850, drop=True).assign_attrs(standard_name=""))
    with pytest.raises(ValueError, match="there is no channel 'air_temperature at 850 hPa'"):
        flat.nowcast.postprocess(Wetter())
    corrected = flat.nowcast.postprocess(Wetter(), channels={WARM: "T850"})
    np.testing.assert_allclose(corrected.rainfall_rate, expected(nwp), atol=1e-5)


def test_a_pair_is_post_processed_without_its_observations():
    nwp, rain = synthetic_nwp(runs=1, leads=2, shape=(8, 8))
    pairs = xnowcast.pair(nwp, rain).compute()
    np.testing.assert_allclose(pairs.nowcast.postprocess(Wetter()).rainfall_rate, expected(nwp), atol=1e-5)


def test_a_dataarray_of_rain_will_do_for_its_own_rain(nwp):
    assert isinstance(nwp.rain.nowcast.postprocess("nwp-raw"), xr.Dataset)


# ---------------------------------------------------------------- grids


def test_the_result_may_lie_on_the_grid_of_the_observations(nwp):
    inner = nwp[["rain", "crs"]].isel(y=slice(2, 11), x=slice(2, 13, 2))
    corrected = nwp.nowcast.postprocess(Wetter(), grid=inner)
    np.testing.assert_allclose(corrected.rainfall_rate, expected(nwp)[..., 2:11, 2:13:2], atol=1e-4)
    xr.testing.assert_equal(corrected.x, inner.x)
    assert "on another grid (bilinear)" in corrected.attrs["history"]


def test_area_means_are_taken_before_the_model(nwp):
    target = nwp[["rain", "crs"]].coarsen(y=2, x=2).mean()
    target.rain.attrs, target["crs"] = nwp.rain.attrs, nwp.crs
    corrected = nwp.nowcast.postprocess("nwp-raw", soft=True, grid=target, regrid="conservative")
    np.testing.assert_allclose(corrected.rainfall_rate, np.minimum(target.rain, 10), atol=1e-4)


def test_a_projection_that_was_decoded_to_a_coordinate_is_known(nwp, tmp_path):
    nwp.to_netcdf(tmp_path / "nwp.nc")
    target = latlon_grid()
    with xr.open_dataset(tmp_path / "nwp.nc", decode_coords="all", chunks={}) as opened:
        assert "grid_mapping" not in opened.t.attrs
        found = opened.nowcast.postprocess(Wetter(), grid=target).compute()
    wanted = nwp.nowcast.postprocess(Wetter(), grid=target).rainfall_rate
    np.testing.assert_allclose(found.rainfall_rate, wanted, rtol=1e-6)
    assert np.isfinite(wanted).any()
    assert found.rainfall_rate.dims == ("init_time", "lead_time", "lat", "lon")


def latlon_grid():
    lat, lon = np.linspace(45.2, 44.8, 6), np.linspace(-30.3, -29.7, 7)
    return xr.Dataset(
        coords={"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    )


# ---------------------------------------------------------------- what is refused


def test_all_missing_channels_are_named_with_what_there_is(nwp):
    with pytest.raises(
        ValueError, match=r"'air_temperature at 850 hPa'.*'eastward_wind at 10 m'.*The data have .*'rain'"
    ):
        nwp[["rain", "msl"]].nowcast.postprocess(Wetter())
    with pytest.raises(
        ValueError, match=r"'air_temperature at 850 hPa': variable 't2m' .* variable 't' lies at 500 hPa"
    ):
        nwp.sel(pressure=[500]).nowcast.postprocess(Wetter())


def test_wrong_units_are_refused(nwp):
    with pytest.raises(ValueError, match=r"'t' has units 'Pa', and air_temperature is read in K"):
        nwp.assign(t=nwp.t.assign_attrs(units="Pa")).nowcast.postprocess(Wetter())


def test_accumulated_rain_is_refused_with_the_remedy(nwp):
    total = nwp.rain.cumsum("lead_time").assign_coords(lead_time=nwp.lead_time)
    total.attrs = {"standard_name": "precipitation_amount", "units": "kg m-2", "long_name": "total since start of run"}
    with pytest.raises(ValueError, match=r"'rain' is accumulated since the start of the run.*rain_per_step"):
        nwp.assign(rain=total).nowcast.postprocess(Wetter())
    rates = xnowcast.pairing.rain_per_step(nwp.assign(rain=total))
    np.testing.assert_allclose(
        rates.nowcast.postprocess("nwp-raw", soft=True).rainfall_rate, np.minimum(nwp.rain[:, 1:], 10), atol=1e-4
    )


def test_staggered_winds_are_refused(nwp):
    wind = xr.DataArray(np.zeros((2, 3, 12, 15)), dims=("init_time", "lead_time", "y", "x_stag"))
    wind.attrs = nwp.u10.attrs
    with pytest.raises(ValueError, match=r"staggered dim 'x_stag'.*average neighbours"):
        nwp.assign(u10=wind).nowcast.postprocess(Wetter(), channels={"eastward_wind at 10 m": "u10"})


def test_channels_on_other_coordinates_are_refused(nwp):
    mixed = nwp.drop_vars("t").assign(t=nwp.t.isel(lead_time=[0, 1]).rename(lead_time="step"))
    with pytest.raises(ValueError, match=r"channel 'air_temperature at 850 hPa' has dims .*'step'.* and 'rain' has"):
        postprocess(mixed, Wetter())


def test_decreasing_thresholds_are_refused(nwp):
    with pytest.raises(ValueError, match="each larger than the last"):
        nwp.nowcast.postprocess(Wetter(thresholds=(10.0, 0.1)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"decision": "mode"}, "decision is 'mode'; it can be 'argmax' or 'inverse'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"device": "tpu0"}, "device is 'tpu0'"),
        ({"channels": {"x_wind": "u"}}, "the mapping names 'x_wind', which is no channel"),
    ],
)
def test_wrong_arguments_are_named(nwp, arguments, match):
    with pytest.raises(ValueError, match=match):
        nwp.nowcast.postprocess(Wetter(), **arguments)


def test_a_class_that_is_none_and_a_model_without_a_network_are_refused(nwp):
    with pytest.raises(ValueError, match="category is 'snow'; there are 0 'no_rain', 1 'rain', 2 'heavy_rain'"):
        nwp.nowcast.explain(Wetter(), category="snow")
    with pytest.raises(ValueError, match="'nwp-raw' has no network"):
        explain(nwp, "nwp-raw", category=1)


def test_another_grid_spacing_than_in_training_is_refused_or_warned_of(nwp):
    with pytest.raises(ValueError, match=r"made for a grid of 1 km, and the data have 5 x 5 km"):
        nwp.nowcast.postprocess(Wetter(spacing=1000.0))
    with pytest.warns(UserWarning, match="made for a grid of 1 km"):
        nwp.nowcast.postprocess(Wetter(spacing=1000.0), on_mismatch="warn")


@pytest.mark.usefixtures("nothing_ships")
def test_models_of_other_verbs_and_those_without_weights_are_refused(nwp):
    with pytest.raises(ValueError, match=r"'bicubic' does not postprocess, it is for ds.nowcast.downscale"):
        nwp.nowcast.postprocess("bicubic")
    with pytest.raises(ValueError, match="'nwp-mae' needs weights"):
        nwp.nowcast.postprocess("nwp-mae")


# ---------------------------------------------------------------- several lead times


class Rise:
    """The class of the last lead time's rain without that of the first; it looks at their product."""

    def __init__(self, offsets=(-2, 0), step=None):
        self.task, self.transform, self.thresholds = self.declare(offsets, step), Identity(), (0.1, 10.0)
        self.shapes = []

    @classmethod
    def declare(cls, offsets=(-2, 0), step=None):
        count = len(offsets)
        return Task("postprocess", count, "rain_rate", step, channels=("rainfall_rate", WARM), lead_offsets=offsets)

    def postprocess(self, fields, observed):
        self.shapes.append(tuple(fields.shape))
        rain = fields[:, :, 0].nan_to_num(0)
        return continuous_labels((rain[:, -1] - rain[:, 0]).clamp_min(0), self.thresholds)

    def explain(self, fields, observed, category):
        return (fields[:, 0, 0] * fields[:, -1, 0]).nan_to_num(0) * observed[:, 0]


@pytest.fixture(scope="module")
def longer():
    """Two runs of five hours."""
    return synthetic_nwp(runs=2, leads=5, shape=(12, 14))[0].compute()


def rises(nwp, later, earlier):
    by_number = nwp.rain.transpose("init_time", "lead_time", "y", "x").values
    return np.clip(by_number[:, later] - by_number[:, earlier], 0, 10)


def test_lead_times_are_read_together_and_the_first_are_left_out(longer):
    corrected = longer.nowcast.postprocess(Rise())
    np.testing.assert_allclose(corrected.rainfall_rate, rises(longer, [2, 3, 4], [0, 1, 2]), atol=1e-5)
    xr.testing.assert_identical(corrected.lead_time.variable, longer.lead_time[2:].variable)
    assert corrected.probability.dims == ("init_time", "lead_time", "category", "y", "x")
    assert "without lead_time 25 h and 26 h, beside which fields are missing" in corrected.attrs["history"]
    later = longer.nowcast.postprocess(Rise((0, 1)))
    assert later.lead_time.size == 4 and "without lead_time 29 h," in later.attrs["history"]
    seen = longer.nowcast.explain(Rise(), category=1)
    wanted = longer.rain[:, 2:].values * longer.rain[:, :-2].values
    np.testing.assert_allclose(seen.class_activation, wanted, rtol=1e-6)


@pytest.mark.parametrize("chunks", [{"lead_time": 1}, {"lead_time": 2, "y": 5}, {"init_time": 1, "lead_time": -1}])
@pytest.mark.parametrize("batch_size", [1, None])
def test_neighbours_may_lie_in_other_chunks(longer, chunks, batch_size, nothing_may_run):
    model = Rise()
    with nothing_may_run:
        lazy = longer.chunk(chunks).nowcast.postprocess(model, batch_size=batch_size)
        looked = longer.chunk(chunks).nowcast.explain(Rise(), category=1)
    assert lazy.rainfall_rate.chunks is not None and looked.class_activation.chunks is not None
    xr.testing.assert_allclose(lazy.compute(), longer.nowcast.postprocess(Rise()))
    assert {shape[1:3] for shape in model.shapes} == {(2, 2)} and sum(shape[0] for shape in model.shapes) == 6


def test_a_lead_time_is_computed_from_the_fields_that_it_reads_alone(longer):
    import dask.array

    def read(block, block_info=None):
        seen.append(block_info[0]["chunk-location"][1])
        return block

    seen = []
    rain = dask.array.from_array(longer.rain.values, chunks=(1, 1, -1, -1)).map_blocks(read, meta=np.empty((0,) * 4))
    lazy = longer.chunk(lead_time=1).assign(rain=longer.rain.copy(data=rain))
    lazy.nowcast.postprocess(Rise(), batch_size=1).isel(lead_time=1, init_time=0).compute()
    assert sorted(set(seen)) == [1, 3]


def test_lead_times_in_any_order_and_with_gaps_are_told_by_what_they_are(longer):
    shuffled = longer.isel(lead_time=[3, 0, 4, 2, 1])
    corrected = shuffled.nowcast.postprocess(Rise())
    assert corrected.lead_time.values.tolist() == longer.lead_time.values[[3, 4, 2]].tolist()
    xr.testing.assert_allclose(corrected.sortby("lead_time"), longer.nowcast.postprocess(Rise()))
    gap = longer.isel(lead_time=[0, 2, 3, 4]).nowcast.postprocess(Rise((-1, 0)))
    np.testing.assert_allclose(gap.rainfall_rate, rises(longer, [3, 4], [2, 3]), atol=1e-5)
    members = xr.concat([longer, longer], "member").transpose("lead_time", "y", "member", ...)
    assert members.nowcast.postprocess(Rise()).rainfall_rate.dims[0] == "lead_time"


def test_a_lead_time_without_any_value_leaves_those_unknown_that_read_it(longer):
    part = longer.where((longer.lead_time != longer.lead_time[1]) | (longer.init_time != longer.init_time[0]))
    part["crs"] = longer.crs
    corrected, whole = part.nowcast.postprocess(Rise()), longer.nowcast.postprocess(Rise())
    assert np.isnan(corrected.rainfall_rate[0, 1]).all() and np.isnan(corrected.probability[0, 1]).all()
    for run, lead in ((0, 0), (0, 2), (1, 1)):
        xr.testing.assert_allclose(
            corrected.isel(init_time=run, lead_time=lead), whole.isel(init_time=run, lead_time=lead)
        )


def test_a_cell_is_unknown_where_the_lead_time_that_is_corrected_has_no_value(longer):
    part = longer.copy(deep=True)
    for name in ("rain", "t"):
        part[name][:, 4, ..., :3, :] = np.nan
        part[name][:, 2, ..., 3:5, :] = np.nan  # which the last reads
    corrected = part.nowcast.postprocess(Rise())
    assert np.isnan(corrected.rainfall_rate[:, 2, :3]).all() and np.isfinite(corrected.rainfall_rate[:, 2, 3:]).all()


def test_steps_other_than_the_training_s_and_single_lead_times_are_refused(longer):
    hourly = Rise(step=timedelta(hours=1))
    assert longer.nowcast.postprocess(hourly).lead_time.size == 3
    with pytest.raises(ValueError, match=r"made for a step of 60 min, and the data have 120 min"):
        longer.isel(lead_time=slice(None, None, 2)).nowcast.postprocess(hourly)
    with pytest.raises(ValueError, match=r"made for a step of 60 min, and the data have 30 min: .*isel\(lead_time="):
        longer.assign_coords(lead_time=longer.lead_time / 2).nowcast.postprocess(hourly)
    with pytest.raises(ValueError, match=r"lead times at -2, 0 steps .* in the data: lead_time 25 h\. Give it"):
        longer.isel(lead_time=[0]).nowcast.postprocess(Rise())
    with pytest.raises(ValueError, match="the data have one lead_time"):
        longer.isel(lead_time=0).nowcast.postprocess(Rise())


def test_valid_times_of_one_run_and_another_grid_do_as_well(longer):
    one = longer.isel(init_time=0)
    valid = one.assign_coords(lead_time=(one.init_time + one.lead_time).values).rename(lead_time="time")
    corrected = valid.drop_vars("init_time").nowcast.postprocess(Rise())
    np.testing.assert_allclose(corrected.rainfall_rate, rises(longer, [2, 3, 4], [0, 1, 2])[0], atol=1e-5)
    inner = longer[["rain", "crs"]].isel(y=slice(2, 11), x=slice(2, 13))
    moved = longer.nowcast.postprocess(Rise(), grid=inner)
    np.testing.assert_allclose(moved.rainfall_rate, rises(longer, [2, 3, 4], [0, 1, 2])[..., 2:11, 2:13], atol=1e-4)
