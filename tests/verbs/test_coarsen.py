"""Coarse fields hold as much rain as the fine ones, on a grid that covers the same ground."""

import numpy as np
import pytest
import xarray as xr

import xnowcast
from xnowcast.fields import grids


@pytest.fixture
def latlon():
    """Rain on ten rows of latitudes that shrink towards the pole."""
    rng = np.random.default_rng(0)
    return xr.DataArray(
        rng.gamma(0.5, 4, (2, 10, 8)).astype("f4"),
        dims=("time", "lat", "lon"),
        coords={
            "time": np.array(["2024-06-01T00:00", "2024-06-01T00:05"], "M8[ns]"),
            "lat": ("lat", np.linspace(75, 30, 10), {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", np.arange(8.0), {"units": "degrees_east", "standard_name": "longitude"}),
        },
        name="rr",
        attrs={"units": "mm h-1", "standard_name": "rainfall_rate"},
    )


def test_blocks_are_averaged_by_hand(radar):
    coarse = radar.nowcast.coarsen(4)
    assert coarse.rain.shape == (10, 6, 8) and coarse.rain.dtype == np.float32
    np.testing.assert_allclose(coarse.rain[3, 2, 2], radar.rain[3, 8:12, 8:12].mean(), rtol=1e-6)
    assert coarse.rain[:, 0, 0].isnull().all()  # no radar sees that corner
    assert coarse.rain.attrs == radar.rain.attrs and "crs" in coarse


def test_coordinates_are_the_middle_of_the_joined_cells(radar):
    coarse = radar.nowcast.coarsen(4)
    assert coarse.x.values.tolist() == [1500.0 + 4000 * i for i in range(8)]
    assert coarse.y.values.tolist() == [21500.0 - 4000 * i for i in range(6)]
    assert coarse.x.attrs == radar.x.attrs


def test_mass_is_kept_on_the_sphere(latlon):
    coarse = latlon.nowcast.coarsen(2)

    def mass(field):
        return float((field.astype("f8") * grids.cell_areas(field, "lat", "lon")).sum() * (field.lon[1] - field.lon[0]))

    assert mass(coarse) == pytest.approx(mass(latlon), rel=1e-5)
    plain = latlon.coarsen(lat=2, lon=2).mean()
    assert mass(plain) != pytest.approx(mass(latlon), rel=1e-4)


def test_areas_of_a_file_come_first(latlon):
    areas = xr.DataArray(np.random.default_rng(1).uniform(1, 2, (10, 8)), dims=("lat", "lon"), attrs={"units": "m2"})
    ds = latlon.assign_attrs(cell_measures="area: cell_area").to_dataset().assign(cell_area=areas)
    coarse = ds.nowcast.coarsen(2)
    by_hand = (latlon[0, :2, :2] * areas[:2, :2]).sum() / areas[:2, :2].sum()
    np.testing.assert_allclose(coarse.rr[0, 0, 0], by_hand, rtol=1e-5)
    np.testing.assert_allclose(coarse.cell_area[0, 0], areas[:2, :2].sum(), rtol=1e-6)
    assert coarse.cell_area.attrs == areas.attrs


def test_coverage_is_measured_by_area(radar):
    holed = radar.copy(deep=True)
    holed.rain[:, 8:12, 8:11] = np.nan  # three of four columns of a block
    for least, missing in ((0.25, False), (0.26, True), (1.0, True)):
        assert bool(holed.nowcast.coarsen(4, min_coverage=least).rain[0, 2, 2].isnull()) is missing
    np.testing.assert_allclose(
        holed.nowcast.coarsen(4, min_coverage=0.2).rain[0, 2, 2], radar.rain[0, 8:12, 11].mean(), rtol=1e-6
    )


def test_bounds_are_the_outer_ends(radar):
    ends = np.stack([radar.x - 500, radar.x + 500], axis=1)
    ds = radar.assign_coords(x=radar.x.assign_attrs(bounds="x_bnds"), x_bnds=(("x", "ends"), ends))
    assert ds.nowcast.coarsen(4).x_bnds.values.tolist() == [[4000.0 * i - 500, 4000.0 * i + 3500] for i in range(8)]


def test_curvilinear_grids_keep_their_places(radar):
    lat, lon = np.meshgrid(50 + 0.01 * np.arange(24), 5 + 0.015 * np.arange(32), indexing="ij")
    ds = radar.drop_vars(["y", "x"]).assign_coords(
        lat=(("y", "x"), lat, {"units": "degrees_north"}), lon=(("y", "x"), lon, {"units": "degrees_east"})
    )
    coarse = ds.nowcast.coarsen(4)
    np.testing.assert_allclose(coarse.lat, lat.reshape(6, 4, 8, 4).mean((1, 3)))
    np.testing.assert_allclose(coarse.lon, lon.reshape(6, 4, 8, 4).mean((1, 3)))


def test_reflectivity_is_averaged_as_rain(radar):
    rate = radar.rain.isel(x=slice(8, 24), y=slice(8, 24)) + 0.2
    z = (10 * np.log10(200 * rate**1.6)).assign_attrs(units="dBZ", standard_name="equivalent_reflectivity_factor")
    coarse = z.nowcast.coarsen(4)
    back = 10 ** ((coarse / 10 - np.log10(200)) / 1.6)
    np.testing.assert_allclose(back, rate.coarsen(y=4, x=4).mean(), rtol=1e-4)


def test_other_fields_on_the_grid_are_averaged_too(radar):
    ds = radar.assign(
        height=(("y", "x"), np.arange(24 * 32.0).reshape(24, 32), {"units": "m"}), station=("time", range(10))
    )
    coarse = ds.nowcast.coarsen(2)
    assert coarse.height[0, 0] == pytest.approx(np.mean([0, 1, 32, 33]))
    assert coarse.height.attrs == {"units": "m"}
    xr.testing.assert_identical(coarse.station, ds.station)


def test_lazy_data_stay_lazy(radar, nothing_may_run):
    with nothing_may_run:
        lazy = radar.chunk(time=3, x=8).nowcast.coarsen(4)
    xr.testing.assert_allclose(lazy.compute(), radar.nowcast.coarsen(4))


def test_any_order_of_dims(radar):
    turned = radar.transpose("x", "time", "y").nowcast.coarsen(4)
    assert turned.rain.dims == ("x", "time", "y")
    xr.testing.assert_allclose(turned.transpose("time", "y", "x"), radar.nowcast.coarsen(4))
    assert radar.rain.nowcast.coarsen(4).dims == radar.rain.dims


def test_a_fine_grid_covers_the_same_ground_as_the_coarse_one(radar):
    coarse = radar.nowcast.coarsen(4)
    for axis in ("x", "y"):
        centres, bounds = grids.fine_coordinate(coarse[axis], 4)
        np.testing.assert_allclose(centres, radar[axis])
        np.testing.assert_allclose(bounds[0, 0], grids.cell_edges(coarse[axis])[0])
        np.testing.assert_allclose(bounds[::4, 0], grids.cell_edges(coarse[axis])[:-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1}, "factor is 1; it must be a whole number of 2 or more"),
        ({"factor": 2.5}, r"factor is 2\.5"),
        ({"factor": 5}, r"24 x 32 cells is no multiple of 5: .* boundary='trim'"),
        ({"factor": 40}, "one of 40 x 40 is larger"),
        ({"factor": 2, "min_coverage": 0}, "min_coverage is 0; it must be above 0"),
        ({"factor": 2, "boundary": "pad"}, "boundary is 'pad'; it can be 'exact' or 'trim'"),
    ],
)
def test_what_cannot_be_done_is_refused(radar, options, message):
    with pytest.raises(ValueError, match=message):
        xnowcast.coarsen(radar, **options)


def test_trimming_leaves_out_the_last_rows(radar):
    coarse = radar.nowcast.coarsen(5, boundary="trim")
    assert coarse.rain.shape == (10, 4, 6)
    np.testing.assert_allclose(coarse.rain[2, 2, 2], radar.rain[2, 10:15, 10:15].mean(), rtol=1e-6)
