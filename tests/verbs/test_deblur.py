"""Sharpening keeps everything of a field but its blur, whoever made the field."""

import dask
import numpy as np
import pytest
import xarray as xr

pytestmark = pytest.mark.usefixtures("toy_models")


@pytest.fixture
def forecast(radar):
    """Two init times, three lead times."""
    return radar.nowcast.forecast("persistence", steps=3, init_times=radar.time.values[-2:])


def sharpen(obj, **options):
    return obj.nowcast.deblur("noisy-sharpener", **options)


def test_the_layout_is_that_of_the_input(forecast):
    sharp = sharpen(forecast, seed=1)
    assert sharp.rain.dims == forecast.rain.dims
    xr.testing.assert_identical(sharp.drop_vars("rain").drop_attrs(), forecast.drop_vars("rain").drop_attrs())
    assert sharp.rain.attrs == forecast.rain.attrs
    assert (sharp.rain.isnull() == forecast.rain.isnull()).all()
    assert float(sharp.rain.max()) > float(forecast.rain.max())


def test_the_labels_say_what_was_done(forecast):
    attrs = sharpen(forecast, amplitude=0.2).attrs
    assert attrs["nowcast_model"] == "persistence + noisy-sharpener" and attrs["nowcast_options"] == "amplitude=0.2"
    assert attrs["title"].startswith("sharpened by xnowcast") and attrs["title"].endswith("a blob")
    assert "deblur with noisy-sharpener" in attrs["history"].splitlines()[0]
    assert "forecast with persistence" in attrs["history"].splitlines()[1]


def test_members_are_made_of_each_frame(forecast):
    sharp = sharpen(forecast, members=3)
    assert sharp.rain.dims == ("init_time", "member", "lead_time", "y", "x")
    assert sharp.member.attrs["standard_name"] == "realization"
    assert float(sharp.rain.std("member").max()) > 0
    xr.testing.assert_identical(sharp.rain, sharpen(forecast, members=5).rain.sel(member=[0, 1, 2]))


def test_a_frame_is_the_same_alone_and_among_others(forecast):
    whole = sharpen(forecast, seed=2).rain
    for part in ({"lead_time": [1]}, {"lead_time": 1}, {"init_time": 1}, {"init_time": 1, "lead_time": 2}):
        xr.testing.assert_identical(
            sharpen(forecast.isel(part), seed=2).rain.drop_attrs(), whole.isel(part).drop_attrs()
        )
    xr.testing.assert_identical(sharpen(forecast, seed=2, batch_size=1).rain, whole)
    xr.testing.assert_identical(sharpen(forecast.chunk(lead_time=2, x=7), seed=2).rain.compute(), whole)
    assert (sharpen(forecast, seed=3).rain != whole).any()


def test_members_that_are_there_are_kept_each_with_its_noise(radar):
    ensemble = radar.nowcast.forecast("noisy", members=3, steps=2)
    sharp = sharpen(ensemble)
    assert sharp.rain.dims == ensemble.rain.dims
    xr.testing.assert_identical(sharpen(ensemble.isel(member=[2])).rain, sharp.rain.isel(member=[2]))
    with pytest.raises(ValueError, match="has members along 'member' already, and each of them is sharpened"):
        sharpen(ensemble, members=3)


def test_building_computes_nothing(forecast, nothing_may_run):
    lazy = forecast.chunk(lead_time=1)
    with nothing_may_run:
        sharp = sharpen(lazy, members=2, diagnostics=True)
    assert sharp.rain.chunks is not None and sharp.blur_kernel.chunks is not None
    xr.testing.assert_allclose(sharp.compute(), sharpen(forecast, members=2, diagnostics=True))


def test_diagnostics_tell_what_was_assumed(forecast):
    sharp = sharpen(forecast, diagnostics=True)
    assert sharp.blur_kernel.dims == ("init_time", "lead_time", "ky", "kx")
    np.testing.assert_allclose(sharp.blur_kernel.sum(["ky", "kx"]), 1, rtol=1e-6)
    assert sharp.reblurred.dims == sharp.rain.dims
    inside = {"y": slice(8, 20), "x": slice(8, 20)}
    mean = sharp.rain.rolling(y=3, x=3, center=True).mean()
    np.testing.assert_allclose(sharp.reblurred.isel(inside), mean.isel(inside), atol=1e-4)
    assert (sharp.blur_distance > 0).all()
    with pytest.raises(ValueError, match=r"which a DataArray cannot hold: give da\.to_dataset"):
        forecast.rain.nowcast.deblur("noisy-sharpener", diagnostics=True)


def test_dry_frames_stay_dry_and_cost_nothing(forecast):
    dry = forecast.where(forecast.rain.isnull() | (forecast.lead_time != forecast.lead_time[1]), 0.0)
    sharp = sharpen(dry, diagnostics=True)
    assert float(sharp.rain.isel(lead_time=1).max()) == 0
    assert sharp.blur_kernel.isel(lead_time=1).isnull().all()
    assert (sharp.blur_distance.isel(lead_time=1) == 0).all()
    assert float(sharp.rain.isel(lead_time=0).max()) > 0


def test_any_order_of_dims_rows_and_units(forecast):
    plain = sharpen(forecast, diagnostics=True)
    turned = sharpen(forecast.transpose("x", "lead_time", "y", "init_time"), diagnostics=True)
    assert turned.rain.dims == ("x", "lead_time", "y", "init_time") == turned.reblurred.dims
    xr.testing.assert_allclose(turned.transpose(*plain.rain.dims, ...), plain)
    flipped = sharpen(forecast.isel(y=slice(None, None, -1)), diagnostics=True)
    xr.testing.assert_identical(flipped.rain.isel(y=slice(None, None, -1)), plain.rain)
    per_second = forecast.assign(rain=(forecast.rain / 3600).assign_attrs(forecast.rain.attrs, units="kg m-2 s-1"))
    np.testing.assert_allclose(sharpen(per_second).rain * 3600, plain.rain, rtol=1e-4, atol=1e-5)


def test_observations_and_single_frames_do_too(radar):
    observed = sharpen(radar)
    assert observed.rain.dims == radar.rain.dims
    xr.testing.assert_identical(sharpen(radar.isel(time=[3])).rain, observed.rain.isel(time=[3]))
    xr.testing.assert_identical(sharpen(radar.isel(time=3)).rain.drop_attrs(), observed.rain.isel(time=3).drop_attrs())
    assert sharpen(radar.rain).dims == radar.rain.dims


@pytest.mark.parametrize(
    "names",
    [
        {"init_time": "reference_time", "lead_time": "step"},  # mlwp
        {"init_time": "init", "lead_time": "lead"},  # climpred
        {
            "init_time": "time0",
            "lead_time": "leadtime",
            "member": "ens_number",
        },  # pysteps
    ],
)
def test_forecasts_of_other_packages_are_understood(radar, names):
    ours = radar.nowcast.forecast("noisy", members=2, steps=2)
    theirs = ours.drop_vars("valid_time").rename(names)
    sharp = sharpen(theirs)
    assert sharp.rain.dims == theirs.rain.dims
    np.testing.assert_array_equal(sharp.rain, sharpen(ours).rain)


def test_the_grid_is_padded_as_the_model_needs(forecast):
    odd = forecast.isel(y=slice(21), x=slice(30))
    assert sharpen(odd).rain.shape[-2:] == (21, 30)


def test_what_cannot_be_sharpened_is_refused(radar, forecast):
    with pytest.raises(ValueError, match=r"'persistence' does not deblur, it is for ds\.nowcast\.forecast"):
        forecast.nowcast.deblur("persistence")
    with pytest.raises(ValueError, match=r"'noisy-sharpener' does not forecast, it is for ds\.nowcast\.deblur"):
        radar.nowcast.forecast("noisy-sharpener")
    with pytest.raises(ValueError, match="init times along 'init_time', but no lead times"):
        sharpen(forecast.drop_vars(["lead_time", "valid_time"]).rename(lead_time="horizon").isel(horizon=0))
    with pytest.raises(ValueError, match="members is 0; it must be a whole number of 1 or more"):
        sharpen(forecast, members=0)
    with pytest.raises(ValueError, match="no argument 'member'; did you mean 'members'"):
        sharpen(forecast, member=2)
    with pytest.raises(ValueError, match="has no frames: its dim 'lead_time' is empty"):
        sharpen(forecast.isel(lead_time=slice(0)))
    with pytest.raises(ValueError, match="the grid has 6 x 32 cells"):
        sharpen(forecast.isel(y=slice(6)))


def test_batches_of_other_sizes_may_be_computed_together(forecast):
    lazy = forecast.chunk(lead_time=1)
    few, many = (sharpen(lazy, members=4, batch_size=size) for size in (2, 4))
    assert few.rain.chunks != many.rain.chunks and few.rain.data.name != many.rain.data.name
    xr.testing.assert_identical(*dask.compute(few, many))


def test_what_made_the_input_is_still_told(forecast):
    attrs = sharpen(forecast, amplitude=0.2, seed=3).attrs
    assert attrs["nowcast_model"] == "persistence + noisy-sharpener" and attrs["nowcast_seed"] == 3
    fine = sharpen(forecast, seed=3).nowcast.downscale("bicubic", factor=2)
    assert fine.attrs["nowcast_model"] == "persistence + noisy-sharpener + bicubic"
    assert fine.attrs["nowcast_input_seed"] == 3
