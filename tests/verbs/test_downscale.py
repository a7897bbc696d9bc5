"""Finer grids cover the same ground, members are themselves, and the mass is kept where that is asked for."""

import dask
import numpy as np
import pytest
import xarray as xr
from torch import nn

import xnowcast
from xnowcast.engine import refining
from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity, Logarithm

pytestmark = pytest.mark.usefixtures("toy_models")


@pytest.fixture
def coarse(radar):
    return radar.nowcast.coarsen(4)


def refine(obj, **options):
    return obj.nowcast.downscale("noisy-refiner", **({"factor": 4, "members": 2, "seed": 1} | options))


def test_the_fine_grid_is_the_one_that_was_coarsened(radar, coarse):
    fine = coarse.nowcast.downscale("bicubic", factor=4)
    assert fine.rain.dims == ("time", "y", "x") and fine.rain.dtype == np.float32
    for axis in ("x", "y", "time"):
        xr.testing.assert_allclose(fine[axis], radar[axis])
        assert fine[axis].attrs == radar[axis].attrs
    assert fine.rain.attrs == coarse.rain.attrs and "crs" in fine
    assert fine.attrs["nowcast_model"] == "bicubic" and fine.attrs["title"].startswith("refined by xnowcast")
    assert "downscale with bicubic, factor 4" in fine.attrs["history"]


@pytest.mark.parametrize("method", ["bicubic", "bilinear", "nearest"])
def test_baselines_keep_a_constant_and_never_rain_below_zero(coarse, method):
    flat = xr.ones_like(coarse) * 2
    fine = flat.assign(rain=flat.rain.assign_attrs(coarse.rain.attrs)).nowcast.downscale(method, factor=2)
    np.testing.assert_allclose(fine.rain, 2, rtol=1e-5)
    assert float(coarse.nowcast.downscale(method, factor=4).rain.min()) >= 0


def test_nearest_repeats_cells(coarse):
    fine = coarse.nowcast.downscale("nearest", factor=3)
    by_hand = coarse.rain.values.repeat(3, 1).repeat(3, 2)
    np.testing.assert_array_equal(fine.rain, by_hand)


def test_bounds_and_corners_are_exact(coarse):
    ends = np.stack([coarse.x - 2000, coarse.x + 2000], axis=1)
    ds = coarse.assign_coords(x=coarse.x.assign_attrs(bounds="x_bnds"), x_bnds=(("x", "ends"), ends))
    fine = ds.nowcast.downscale("nearest", factor=4)
    assert fine.x_bnds.dims == ("x", "ends")
    np.testing.assert_array_equal(fine.x_bnds[::4, 0], ends[:, 0])
    np.testing.assert_array_equal(fine.x_bnds[3::4, 1], ends[:, 1])


def test_curvilinear_grids_get_finer_places(coarse):
    lat, lon = np.meshgrid(50 + 0.01 * np.arange(6), 5 + 0.015 * np.arange(8), indexing="ij")
    places = {
        "lat": (("y", "x"), lat, {"units": "degrees_north"}),
        "lon": (("y", "x"), lon, {"units": "degrees_east"}),
    }
    fine = coarse.drop_vars(["y", "x"]).assign_coords(places).nowcast.downscale("nearest", factor=2)
    np.testing.assert_allclose(fine.lat[:, 0], 50 + 0.01 * ((np.arange(12) + 0.5) / 2 - 0.5))
    np.testing.assert_allclose(fine.nowcast.coarsen(2).lon, lon)


def test_members_go_before_the_time_and_are_themselves(coarse):
    whole = refine(coarse, members=4)
    assert whole.rain.dims == ("member", "time", "y", "x")
    assert float(whole.rain.std("member").max()) > 0
    xr.testing.assert_identical(refine(coarse, members=2).rain, whole.rain.isel(member=slice(2)))
    xr.testing.assert_identical(refine(coarse, members=4, batch_size=1).rain, whole.rain)
    lazy = refine(coarse.chunk(time=3, x=5), members=4)
    xr.testing.assert_identical(lazy.rain.compute(), whole.rain)


def test_the_deterministic_part_alone(coarse):
    fine = refine(coarse, members=0)
    assert "member" not in fine.dims
    np.testing.assert_array_equal(fine.rain, coarse.rain.values.repeat(4, 1).repeat(4, 2))


def test_building_computes_nothing(coarse, nothing_may_run):
    with nothing_may_run:
        fine = refine(coarse.chunk(time=2))
    assert fine.rain.chunks is not None


def test_a_long_sequence_has_no_seam(coarse, monkeypatch):
    monkeypatch.setattr(refining, "LONGEST_STRETCH", 5)
    cut = refine(coarse)
    monkeypatch.setattr(refining, "LONGEST_STRETCH", 24)
    # The toy looks at single frames, so the frames of both stretches are equal, and so is their blend.
    xr.testing.assert_allclose(cut, refine(coarse))


def test_frames_of_two_stretches_are_faded():
    before, here = np.zeros((1, 5, 1, 1), "f4"), np.ones((1, 5, 1, 1), "f4")
    np.testing.assert_allclose(refining._faded(before, here, 2, 3).ravel(), [1 / 3, 2 / 3, 1], rtol=1e-6)
    np.testing.assert_array_equal(refining._faded(None, here, 0, 3).ravel(), [1, 1, 1])


def test_conserving_keeps_every_coarse_value(coarse):
    for model in ("bicubic", "noisy-refiner"):
        fine = coarse.nowcast.downscale(model, factor=4, conserve=True)
        again = fine.nowcast.coarsen(4)
        np.testing.assert_allclose(again.rain, coarse.rain.broadcast_like(again.rain), rtol=1e-5, atol=1e-7)
    assert not np.allclose(
        coarse.nowcast.downscale("bicubic", factor=4).nowcast.coarsen(4).rain, coarse.rain, equal_nan=True
    )


class Trained(xnowcast.models.find("nearest")):
    """Twice the coarse rain, as a model that was trained may have it."""

    def __init__(self):
        super().__init__(method="nearest")
        self.task = Task("downscale", input_frames=1, min_grid=2, trained=True)

    def downscale(self, frames, observed, factor, static=None, noise=None):
        return 2 * super().downscale(frames, observed, factor, static, noise)


def test_trained_models_keep_the_rain_unless_told_otherwise_and_interpolation_does_where_told(coarse):
    kept, plain = (coarse.nowcast.downscale(Trained(), factor=2, **say) for say in ({}, {"conserve": False}))
    np.testing.assert_allclose(kept.nowcast.coarsen(2).rain, coarse.rain, rtol=1e-6)
    np.testing.assert_allclose(plain.rain, 2 * kept.rain, rtol=1e-6)
    assert "factor 2, conserving" in kept.attrs["history"] and "conserving" not in plain.attrs["history"]
    bicubic = coarse.nowcast.downscale("bicubic", factor=2)
    xr.testing.assert_equal(bicubic, coarse.nowcast.downscale("bicubic", factor=2, conserve=False))
    assert not bicubic.equals(coarse.nowcast.downscale("bicubic", factor=2, conserve=True))


def test_conserving_is_asked_for_with_true_or_false(coarse):
    for said in ("no", 1):
        with pytest.raises(ValueError, match=f"conserve is {said!r}; it must be True or False"):
            coarse.nowcast.downscale("bicubic", factor=4, conserve=said)


def test_conserving_counts_areas_on_the_sphere(coarse):
    latlon = coarse.assign_coords(
        y=("y", np.linspace(80, 40, 6), {"units": "degrees_north"}), x=("x", np.arange(8.0), {"units": "degrees_east"})
    )
    fine = latlon.nowcast.downscale("bicubic", factor=4, conserve=True)
    np.testing.assert_allclose(fine.nowcast.coarsen(4).rain, latlon.rain, rtol=1e-5, atol=1e-7)


def test_what_is_not_measured_stays_nan(coarse):
    fine = refine(coarse)
    missing = coarse.rain.isnull().values.repeat(4, 1).repeat(4, 2)
    np.testing.assert_array_equal(fine.rain.isnull()[0], missing)


def test_forecasts_are_refined_along_the_lead_time(radar, coarse):
    forecast = radar.nowcast.forecast("noisy", members=3, steps=4, init_times="all").nowcast.coarsen(4)
    fine = forecast.nowcast.downscale("bicubic", factor=4)
    assert fine.rain.dims == ("init_time", "member", "lead_time", "y", "x")
    one = forecast.isel(member=1).drop_vars("member")
    assert refine(one).rain.dims == ("init_time", "member", "lead_time", "y", "x")
    with pytest.raises(ValueError, match="has a dim 'member' already: choose one of its members"):
        refine(forecast)


def test_any_order_of_dims_and_rows(coarse):
    plain = refine(coarse)
    turned = refine(coarse.transpose("x", "time", "y"))
    assert turned.rain.dims == ("x", "member", "time", "y")
    xr.testing.assert_identical(turned.rain.transpose(*plain.rain.dims), plain.rain)
    flipped = refine(coarse.isel(y=slice(None, None, -1)))
    xr.testing.assert_allclose(flipped.rain.isel(y=slice(None, None, -1)), plain.rain)


def test_single_fields_can_be_interpolated(coarse):
    fine = coarse.rain.isel(time=3).nowcast.downscale("bilinear", factor=2)
    assert fine.dims == ("y", "x") and fine.shape == (12, 16)


def test_further_channels_and_static_fields_are_read(coarse):
    wind = xr.ones_like(coarse.rain).fillna(1.0).assign_attrs(standard_name="eastward_wind", units="m s-1")
    ds = coarse.assign(u=wind)
    height = xr.DataArray(np.full((24, 32), 5.0), dims=("y", "x"), attrs={"standard_name": "surface_altitude"})
    options = {"channels": ["eastward_wind"], "fixed": ["surface_altitude"], "members": 0}
    fine = refine(ds, **options, static=height.to_dataset(name="z")).rain
    expected = (coarse.rain.values + 1 + 5).repeat(4, 1).repeat(4, 2)
    np.testing.assert_allclose(fine, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="the model reads a field 'eastward_wind' beside the precipitation"):
        refine(coarse, static=height, **options)
    with pytest.raises(ValueError, match="reads surface_altitude on the fine grid: give static="):
        refine(ds, **options)
    with pytest.raises(ValueError, match=r"static field 'surface_altitude' has .*; the fine grid has"):
        refine(ds, static=height[:-1], **options)
    away = height.assign_coords(x=np.arange(32) * 1000.0 + 5000)
    with pytest.raises(ValueError, match="lies elsewhere along 'x': it runs from 5000 to 36000, and"):
        refine(ds, static=away, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 8}, "'noisy-refiner' was made for a factor of 4, not of 8: pass factor=4"),
        ({"factor": 1}, "factor is 1; it must be a whole number of 2 or more"),
        ({"members": -1}, "members is -1"),
        ({"static": xr.DataArray(np.zeros((24, 32)), dims=("y", "x"))}, "reads no static fields: leave static out"),
        ({"statik": 1}, "no argument 'statik'; did you mean 'static'"),
    ],
)
def test_what_cannot_be_done_is_refused(coarse, options, message):
    with pytest.raises(ValueError, match=message):
        refine(coarse, **options)


def test_static_fields_on_another_grid_are_told_how_to_get_there(coarse):
    options = {"fixed": ["surface_altitude"], "members": 0}
    with pytest.raises(ValueError, match=r"the fine grid has .*: bring it to the grid of ds\.nowcast\.downscale"):
        refine(coarse, static=xr.DataArray(np.zeros((6, 8)), dims=("y", "x")), **options)
    with pytest.raises(ValueError, match="it must be a Dataset, a DataArray or None"):
        refine(coarse, static=np.zeros((24, 32)), **options)


def test_uneven_grids_are_refused_and_gaussian_latitudes_are_not(coarse):
    uneven = coarse.assign_coords(x=("x", coarse.x.values * [1, 1, 1, 1, 1, 1, 1, 1.1], coarse.x.attrs))
    with pytest.raises(ValueError, match="along 'x' the distance between cells varies from 4000 to 6950"):
        uneven.nowcast.downscale("bicubic", factor=4)
    nearly = coarse.assign_coords(y=("y", coarse.y.values + np.array([0, 20, 0, 0, -20, 0]), coarse.y.attrs))
    assert nearly.nowcast.downscale("bicubic", factor=4).sizes["y"] == 24


def test_frames_in_the_wrong_order_are_refused(coarse):
    for order in ([5, 4, 3, 2], [0, 1, 1, 2]):
        with pytest.raises(ValueError, match=r"earlier than the one before, or at the same time: sort with ds\.sortby"):
            refine(coarse.isel(time=order))


def test_too_few_frames_are_refused(coarse):
    with pytest.raises(ValueError, match="looks at 3 frames at once; there are 2 along 'time'"):
        refine(coarse.isel(time=slice(2)))
    with pytest.raises(ValueError, match="'bicubic' is deterministic"):
        coarse.nowcast.downscale("bicubic", factor=2, members=3)
    with pytest.raises(ValueError, match=r"'persistence' does not downscale, it is for ds\.nowcast\.forecast"):
        coarse.nowcast.downscale("persistence")


def test_lazy_fields_with_places_of_their_own_are_refined(coarse, nothing_may_run):
    lat, lon = np.meshgrid(50 + 0.01 * np.arange(6), 5 + 0.015 * np.arange(8), indexing="ij")
    places = {"lat": (("y", "x"), lat, {"units": "degrees_north"}), "lon": (("y", "x"), lon, {"units": "degrees_east"})}
    ds = coarse.assign_coords(places)
    lazy = ds.chunk(time=2, y=3, x=4)
    assert lazy.lat.chunks is not None
    with nothing_may_run:
        fine = lazy.nowcast.downscale("bicubic", factor=4)
    assert fine.lat.chunks is not None
    xr.testing.assert_allclose(fine.compute(), ds.nowcast.downscale("bicubic", factor=4))


def test_times_keep_their_bounds(coarse):
    ends = np.stack([coarse.time, coarse.time + np.timedelta64(5, "m")], axis=1)
    ds = coarse.assign_coords(time=coarse.time.assign_attrs(bounds="time_bnds")).assign(
        time_bnds=(("time", "ends"), ends)
    )
    xr.testing.assert_identical(ds.nowcast.downscale("nearest", factor=2).time_bnds.variable, ds.time_bnds.variable)


def test_batches_of_other_sizes_may_be_computed_together(coarse):
    lazy = coarse.chunk(time=5)
    few, many = (refine(lazy, members=4, batch_size=size) for size in (1, 4))
    assert few.rain.chunks != many.rain.chunks and few.rain.data.name != many.rain.data.name
    xr.testing.assert_identical(*dask.compute(few, many))


# ---------------------------------------------------------------- the rim


class Smoother:
    """Means over 9 x 9 fine cells of what is there, so that the answer at the rim is what lies beyond it."""

    transform = Identity()

    def __init__(self, multiple=4, channels=()):
        self.task = Task("downscale", input_frames=1, grid_multiple=multiple, min_grid=2, channels=channels)
        self.seen = []

    def downscale(self, frames, observed, factor, static=None, noise=None):
        self.seen.append((frames, observed))
        fine = frames[:, 0, :1].repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        return nn.functional.avg_pool2d(fine, 9, 1, padding=4, count_include_pad=False)[:, None]


@pytest.mark.parametrize("model", ["bicubic", "bilinear", "nearest", Smoother()])
def test_a_constant_field_is_constant_up_to_the_rim_of_any_grid(coarse, model):
    rain = coarse.rain.isel(time=slice(1), y=slice(5), x=slice(7))
    flat = xr.full_like(rain, 2.0)
    np.testing.assert_allclose(flat.nowcast.downscale(model, factor=2), 2.0, rtol=1e-5)


def test_the_padding_counts_as_what_it_replicates(coarse):
    rain = coarse.rain.isel(time=slice(1), y=slice(5), x=slice(7)).fillna(1.0)
    rain[0, 1, -1] = np.nan
    wind = (rain.notnull() * 3.0).where(rain.notnull()).assign_attrs(standard_name="wind_speed", units="m s-1")
    model = Smoother(channels=("wind_speed",))
    rain.to_dataset(name="rain").assign(v=wind).nowcast.downscale(model, factor=2)
    frames, observed = (part[0, 0].numpy() for part in model.seen[0])
    assert frames.shape == (2, 8, 8)
    hole = np.zeros((8, 8), dtype=bool)
    hole[1, 6:] = True
    np.testing.assert_array_equal(observed[0], ~hole)
    np.testing.assert_array_equal(np.isnan(frames[1]), hole)  # a channel is missing, not 0
    np.testing.assert_array_equal(frames[:, 5:], frames[:, 4:5].repeat(3, axis=1))
    np.testing.assert_array_equal(frames[..., 7], frames[..., 6])


def test_further_channels_come_in_canonical_units(coarse):
    rain = coarse.rain.isel(time=slice(1)).fillna(0.5)
    wind = xr.full_like(rain, 36.0).assign_attrs(standard_name="wind_speed", units="km h-1")
    model = Smoother(channels=("wind_speed",))
    rain.to_dataset(name="rain").assign(v=wind).nowcast.downscale(model, factor=2)
    assert float(model.seen[0][0][0, 0, 1].min()) == pytest.approx(10.0)
    with pytest.raises(ValueError, match=r"reads a field 'wind_speed' beside the precipitation: .*'v' has no units"):
        rain.to_dataset(name="rain").assign(v=wind.assign_attrs(units=None)).nowcast.downscale(model, factor=2)


class LogarithmicBicubic:
    """Bicubic interpolation of the logarithm of the rain, for grids of whole eights."""

    transform = Logarithm(3.6e-4, 256.0)
    task = Task("downscale", input_frames=1, grid_multiple=8)

    def downscale(self, frames, observed, factor, static=None, noise=None):
        assert frames.shape[-2] % 8 == 0
        return nn.functional.interpolate(frames[:, :, 0], scale_factor=factor, mode="bicubic")[:, :, None]


def test_copies_of_the_rim_come_nearest_to_the_rain_beyond_it():
    """The error of the outermost coarse row, against the same interpolation with the rain that lies beyond."""
    whole = xnowcast.datasets.synthetic_radar(frames=12, shape=(128, 192), seed=5, coverage=False).nowcast.coarsen(4)
    whole = whole.rainfall_rate.load()

    def refined(rain):
        return rain.nowcast.downscale(LogarithmicBicubic(), factor=4).values[:, 112:116]

    def filled(mode):
        rows = np.pad(whole[:, :29].values, ((0, 0), (0, 3), (0, 0)), mode=mode)
        return float(np.abs(refined(whole[:, :32].copy(data=rows)) - truth).mean())

    truth = refined(whole)
    copies = float(np.abs(refined(whole[:, :29]) - truth).mean())
    assert copies == pytest.approx(filled("edge"), rel=1e-4)
    assert copies < 0.9 * filled("reflect") < 0.5 * filled("constant")
