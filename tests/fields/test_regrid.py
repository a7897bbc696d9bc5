"""Remapping between grids: values by hand, mass, projections, gaps, laziness, and what is refused."""

import numpy as np
import pytest
import xarray as xr
from scipy.interpolate import RegularGridInterpolator

from xnowcast.fields.regrid import find_grid, refuse_staggered, regrid, remapping_weights, same_grid

pytest.importorskip("pyproj", reason="pyproj is in the extra 'io'")
pytest.importorskip("shapely", reason="shapely is in the extra 'io'")

LAEA = {
    "grid_mapping_name": "lambert_azimuthal_equal_area",
    "longitude_of_projection_origin": 10.0,
    "latitude_of_projection_origin": 52.0,
    "false_easting": 0.0,
    "false_northing": 0.0,
    "earth_radius": 6371000.0,
}


def plane(values, y, x, unit="km", **attrs):
    """A field on axes of a plane of no known projection."""
    coords = {"y": ("y", np.asarray(y, float), {"units": unit}), "x": ("x", np.asarray(x, float), {"units": unit})}
    dims = ("time", "y", "x")[3 - np.ndim(values) :]
    return xr.DataArray(np.asarray(values, "f8"), dims=dims, coords=coords, name="rain", attrs=attrs)


def latlon(values, lat, lon, name="rain"):
    coords = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    return xr.DataArray(values, dims=("lat", "lon"), coords=coords, name=name)


def projected(values=None, shape=(40, 50), spacing=5000.0, name="rain"):
    y = (np.arange(shape[0])[::-1] - (shape[0] - 1) / 2) * spacing
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) * spacing
    metres = {d: {"units": "m", "standard_name": f"projection_{d}_coordinate"} for d in ("y", "x")}
    coords = {"y": ("y", y, metres["y"]), "x": ("x", x, metres["x"])}
    values = np.zeros(shape) if values is None else values
    rain = xr.DataArray(values, dims=("y", "x"), coords=coords, attrs={"grid_mapping": "crs", "units": "mm h-1"})
    return xr.Dataset({name: rain, "crs": ((), 0, LAEA)})


def geographic(ds):
    """2-D latitudes and longitudes of a projected grid, by pyproj."""
    from pyproj import Proj

    x, y = np.meshgrid(ds.x, ds.y)
    lon, lat = Proj(proj="laea", lat_0=52, lon_0=10, R=6371000)(x, y, inverse=True)
    return lat, lon


# ---------------------------------------------------------------- values


def test_bilinear_between_four_centres():
    rain = plane([[0, 4], [8, 12]], [3, 1], [1, 3])
    fine = regrid(rain, plane(np.zeros((2, 1)), [2.5, 2.0], [1.5]))
    assert fine.values.tolist() == [[3.0], [5.0]]


def test_bilinear_is_that_of_scipy():
    rng = np.random.default_rng(0)
    rain, target = rng.gamma(1, 2, (9, 11)), plane(np.zeros((5, 6)), np.linspace(1, 7, 5), np.linspace(0.3, 9.7, 6))
    found = regrid(plane(rain, np.arange(9), np.arange(11)), target)
    wanted = RegularGridInterpolator((np.arange(9), np.arange(11)), rain)(
        np.stack(np.meshgrid(target.y, target.x, indexing="ij"), -1)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_half_a_cell_beyond_the_last_centre_counts_as_the_last():
    found = regrid(plane([[1, 2], [1, 2]], [0, 1], [0, 1]), plane(np.zeros((1, 3)), [0], [-0.4, 1.4, 1.6]))
    assert found.values[0, :2].tolist() == [1.0, 2.0] and np.isnan(found.values[0, 2])


def test_conservative_by_hand():
    # four cells of width 1 become one of width 2
    rain = plane([[1, 2, 9], [4, 5, 9], [9, 9, 9]], [2.5, 1.5, 0.5], [0.5, 1.5, 2.5])
    found = regrid(rain, plane(np.zeros((2, 2)), [2, 0], [1, 3]), "conservative")
    assert found.values[0, 0] == 3.0


def test_conservative_cells_of_another_size_by_hand():
    # three columns of width 2 become two of width 3: the middle one is shared half and half
    rain = plane([[1, 4, 7], [1, 4, 7]], [3, 1], [1, 3, 5])
    found = regrid(rain, plane(np.zeros((2, 2)), [3, 1], [1.5, 4.5]), "conservative")
    np.testing.assert_allclose(found, [[2, 6], [2, 6]], rtol=1e-6)


def test_areas_of_the_sphere_count():
    rain = latlon([[2.0, 2.0], [6.0, 6.0]], [75.0, 45.0], [0.0, 30.0])
    found = regrid(rain, latlon(np.zeros((2, 2)), [60.0, 0.0], [0.0, 30.0]), "conservative")
    north, south = np.sin(np.deg2rad(90)) - np.sin(np.deg2rad(60)), np.sin(np.deg2rad(60)) - np.sin(np.deg2rad(30))
    assert found.values[0, 0] == pytest.approx((2 * north + 6 * south) / (north + south), rel=1e-6)


def test_the_amount_of_rain_is_kept_between_projections():
    rain = np.random.default_rng(1).gamma(0.5, 4, (40, 50))
    source = projected(rain)
    lat, _ = geographic(source)
    target = latlon(np.zeros((70, 90)), np.linspace(lat.max() + 0.2, lat.min() - 0.2, 70), np.linspace(6.8, 13.2, 90))
    found = regrid(source, target, "conservative", min_coverage=1e-6)
    weights = remapping_weights(find_grid(source), find_grid(target), "conservative")
    share = np.asarray(weights.sum(axis=1)).reshape(70, 90)
    edges = np.deg2rad(
        np.append(target.lat + 0.5 * np.diff(target.lat)[0] * -1, target.lat[-1] + np.diff(target.lat)[0] / 2)
    )
    areas = np.abs(np.diff(np.sin(edges)))[:, None] * np.deg2rad(np.diff(target.lon)[0]) * 6371.0**2
    mass = float(np.nansum(found.rain.values * share * areas))
    assert mass == pytest.approx(rain.sum() * 25.0, rel=2e-3)


def test_area_means_between_projections_are_those_of_many_points():
    rain = np.random.default_rng(2).gamma(1, 2, (40, 50))
    source = projected(rain)
    target = latlon(np.zeros((4, 5)), [52.3, 52.1, 51.9, 51.7], [9.4, 9.7, 10.0, 10.3, 10.6])
    found = regrid(source, target, "conservative").rain
    from pyproj import Proj

    inside = (np.arange(60) + 0.5) / 60 - 0.5
    lat = target.lat.values[1] + 0.2 * inside[:, None] + 0 * inside
    lon = target.lon.values[2] + 0.3 * inside + 0 * inside[:, None]
    x, y = Proj(proj="laea", lat_0=52, lon_0=10, R=6371000)(lon, lat)
    nearest = rain[
        np.rint((source.y.values[0] - y) / 5000).astype(int), np.rint((x - source.x.values[0]) / 5000).astype(int)
    ]
    mean = (nearest * np.cos(np.deg2rad(lat))).sum() / np.cos(np.deg2rad(lat)).sum()
    assert float(found[1, 2]) == pytest.approx(mean, rel=0.01)


def test_a_field_that_is_linear_in_latitude_stays_so_between_projections():
    lat, lon = np.linspace(50, 54, 41), np.linspace(6, 14, 81)
    field = latlon(np.broadcast_to(lat[:, None], (41, 81)).copy(), lat, lon)
    target = projected()
    found = regrid(field, target)
    np.testing.assert_allclose(found, geographic(target)[0], atol=1e-4)


@pytest.mark.parametrize("method", ["bilinear", "conservative"])
def test_latitudes_and_longitudes_tell_the_same_as_the_projection(method):
    rain = np.add.outer(np.linspace(0, 4, 40), np.linspace(0, 3, 50))
    source = projected(rain)
    lat, lon = geographic(source)
    told = source.rain.drop_vars(["y", "x"]).assign_coords(lat=(("y", "x"), lat), lon=(("y", "x"), lon))
    told.attrs.pop("grid_mapping")
    target = latlon(np.zeros((6, 8)), np.linspace(51.5, 52.5, 6), np.linspace(9.2, 10.8, 8))
    one, other = regrid(source, target, method).rain, regrid(told, target, method)
    np.testing.assert_allclose(one, other, atol=0.02)


def test_a_rotated_pole_is_understood():
    attrs = {
        "grid_mapping_name": "rotated_latitude_longitude",
        "grid_north_pole_latitude": 39.25,
        "grid_north_pole_longitude": -162.0,
    }
    from pyproj import CRS, Transformer

    rlat, rlon = np.linspace(-3, 3, 31), np.linspace(-4, 4, 41)
    crs = CRS.from_cf(attrs)
    _, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*np.meshgrid(rlon, rlat))
    assert 47 < lat.mean() < 54  # the pole is 50.75 degrees away from the middle of the grid
    coords = {
        "rlat": ("rlat", rlat, {"units": "degrees", "standard_name": "grid_latitude"}),
        "rlon": ("rlon", rlon, {"units": "degrees", "standard_name": "grid_longitude"}),
    }
    field = xr.DataArray(lat, dims=("rlat", "rlon"), coords=coords, attrs={"grid_mapping": "pole"})
    ds = xr.Dataset({"field": field, "pole": ((), 0, attrs)})
    target = latlon(np.zeros((3, 4)), [49.0, 50.0, 51.0], [17.0, 17.5, 18.0, 18.5])
    found = regrid(ds, target).field
    np.testing.assert_allclose(found, np.broadcast_to(target.lat.values[:, None], (3, 4)), atol=2e-3)


@pytest.mark.parametrize("method", ["bilinear", "conservative"])
def test_longitudes_may_be_counted_in_two_ways(method):
    values = np.arange(12.0).reshape(3, 4)
    west = latlon(values, [2.0, 1.0, 0.0], [-3.0, -2.0, -1.0, 0.0])
    east = latlon(values, [2.0, 1.0, 0.0], [357.0, 358.0, 359.0, 360.0])
    np.testing.assert_allclose(regrid(west, east, method), values, atol=1e-5)


@pytest.mark.parametrize("method", ["bilinear", "conservative"])
def test_there_is_no_seam_around_the_earth(method):
    lon = np.arange(0.0, 360.0, 10.0)
    field = latlon(np.broadcast_to(np.cos(np.deg2rad(lon)), (4, 36)).copy(), [30.0, 20.0, 10.0, 0.0], lon)
    target = latlon(np.zeros((2, 3)), [20.0, 10.0], [-5.0, 355.0 - 360.0 + 5.0, 5.0])
    found = regrid(field, target, method)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, np.broadcast_to(np.cos(np.deg2rad([-5.0, 0.0, 5.0])), (2, 3)), atol=0.02)


@pytest.mark.parametrize("method", ["bilinear", "conservative"])
def test_rows_and_columns_may_run_either_way(method):
    rain = plane(np.random.default_rng(3).gamma(1, 2, (6, 7)), np.arange(6), np.arange(7))
    target = plane(np.zeros((3, 4)), [4, 2.5, 1], [1, 2.2, 3.4, 4.6])
    turned = regrid(rain.isel(y=slice(None, None, -1), x=slice(None, None, -1)), target, method)
    np.testing.assert_allclose(turned, regrid(rain, target, method), rtol=1e-6)
    back = regrid(rain, target.isel(y=slice(None, None, -1)), method).isel(y=slice(None, None, -1))
    np.testing.assert_allclose(back, regrid(rain, target, method), rtol=1e-6)


def test_remapping_to_the_same_grid_changes_nothing():
    source = projected(np.random.default_rng(4).gamma(1, 2, (40, 50)))
    for method in ("bilinear", "conservative"):
        np.testing.assert_allclose(regrid(source, source, method).rain, source.rain, rtol=1e-5)


# ---------------------------------------------------------------- gaps


def test_unknown_parts_are_left_out_of_the_mean_while_enough_is_known():
    rain = plane([[1.0, np.nan, np.nan, np.nan], [3.0, 5.0, np.nan, 8.0]], [1, 0], [0, 1, 2, 3])
    target = plane(np.zeros((2, 2)), [0.5, -1.5], [0.5, 2.5])
    found = regrid(rain, target, "conservative")
    assert found.values[0, 0] == 3.0 and np.isnan(found.values[0, 1]) and np.isnan(found.values[1]).all()
    assert regrid(rain, target, "conservative", min_coverage=0.25).values[0, 1] == 8.0


def test_bilinear_leaves_gaps_where_most_of_the_weight_is_unknown():
    found = regrid(plane([[1, np.nan]] * 2, [0, 1], [0, 1]), plane(np.zeros((1, 2)), [0.5], [0.4, 0.6]))
    assert found.values[0, 0] == 1.0 and np.isnan(found.values[0, 1])


# ---------------------------------------------------------------- xarray


def test_lazy_in_lazy_out_and_chunks_change_nothing(nothing_may_run):
    rain = plane(np.random.default_rng(5).gamma(1, 2, (4, 12, 14)), np.arange(12), np.arange(14))
    target = plane(np.zeros((5, 6)), np.linspace(1, 10, 5), np.linspace(1, 12, 6))
    with nothing_may_run:
        lazy = regrid(rain.chunk({"time": 3, "y": 5, "x": 4}).to_dataset(), target)
    xr.testing.assert_allclose(lazy.rain.compute(), regrid(rain.to_dataset(), target).rain)
    assert lazy.rain.chunks[0] == (3, 1) and lazy.rain.dtype == np.float32


def test_coordinates_and_projection_are_those_of_the_new_grid():
    fields = latlon(np.ones((20, 20)), np.linspace(51, 53, 20), np.linspace(9, 11, 20), "t").to_dataset()
    fields = fields.assign(run=5, station=("s", [1.0])).assign_attrs(title="a run", history="made")
    fields["t"].attrs = {"units": "K", "valid_max": 300.0}
    target = projected(shape=(10, 12))
    found = regrid(fields, target, "conservative")
    assert found.t.dims == ("y", "x") and found.t.attrs == {"units": "K", "grid_mapping": "crs"}
    xr.testing.assert_equal(found.y, target.y)
    assert found.crs.attrs == LAEA and "lat" not in found.coords
    assert found.run == 5 and found.station.dims == ("s",) and found.attrs["title"] == "a run"
    assert found.history.splitlines()[0].endswith("xnowcast regrid, conservative")
    assert "history" in fields.attrs and fields.history == "made"


def test_dims_may_have_the_same_names_and_other_sizes():
    rain = plane(np.ones((2, 5, 6)), np.arange(5), np.arange(6))
    assert regrid(rain, plane(np.zeros((3, 3)), [1, 2, 3], [1, 2, 3])).shape == (2, 3, 3)


def test_fields_of_flags_are_left_out():
    fields = plane(np.ones((4, 4)), np.arange(4), np.arange(4)).to_dataset()
    fields["kind"] = fields.rain.astype("i4").assign_attrs(flag_values=[0, 1], flag_meanings="sea land")
    assert list(regrid(fields, fields.rain).data_vars) == ["rain"]


def curvilinear(known=None) -> xr.Dataset:
    """Rain of 12 x 12 cells that 2-D latitudes and longitudes tell, or those of them that are known."""
    row, column = np.mgrid[:12, :12].astype("f8")
    known = np.ones((12, 12), bool) if known is None else known
    north, east = (np.where(known, place, np.nan) for place in (50 + 0.1 * row, 7 + 0.1 * column))
    places = {
        "lat": (("j", "i"), north, {"units": "degrees_north"}),
        "lon": (("j", "i"), east, {"units": "degrees_east"}),
    }
    return xr.Dataset({"rain": (("j", "i"), row + column)}, places)


@pytest.mark.parametrize("method", ["bilinear", "conservative"])
def test_cells_of_unknown_place_are_left_out_and_the_others_are_as_they_were(method):
    disk = np.hypot(*(np.mgrid[:12, :12] - 5.5)) < 5
    inner = latlon(np.zeros((3, 3)), 50.5 + 0.1 * np.arange(3), 7.5 + 0.1 * np.arange(3))
    whole, part = (regrid(ds, inner, method).rain for ds in (curvilinear(), curvilinear(disk)))
    np.testing.assert_allclose(part, whole, rtol=1e-6)
    to_disk = regrid(curvilinear(), curvilinear(disk), method).rain
    assert not np.isfinite(to_disk.values[~disk]).any() and np.isfinite(to_disk.values[5:7, 5:7]).all()
    assert same_grid(find_grid(curvilinear(disk)), find_grid(curvilinear(disk)))


@pytest.mark.parametrize("method", ["bilinear", "conservative"])
def test_longitudes_may_pass_from_360_to_0(method):
    lon = np.arange(8) - 4.0
    plain = latlon(np.arange(64.0).reshape(8, 8), np.arange(8.0), lon)
    other = latlon(np.arange(9.0).reshape(3, 3), [2.0, 3, 4], [-1.0, 0, 1])
    around = plain.assign_coords(lon=("lon", lon % 360, plain.lon.attrs))
    np.testing.assert_allclose(regrid(around, other, method), regrid(plain, other, method), rtol=1e-6)
    np.testing.assert_allclose(regrid(other, around, method), regrid(other, plain, method), rtol=1e-6)


def test_fields_are_unpacked_and_masked_before_they_are_remapped():
    stored = latlon(np.where(np.eye(4) > 0, 255, 12).astype("u1"), np.arange(4.0), np.arange(4.0))
    stored.attrs = {"scale_factor": 0.5, "_FillValue": 255, "valid_max": np.uint8(100)}
    moved = regrid(stored, latlon(np.zeros((2, 2)), [0.5, 1.5], [0.5, 1.5]), min_coverage=0.3)
    assert moved.values.tolist() == [[6, 6], [6, 6]] and not {"scale_factor", "valid_max"} & {*moved.attrs}


def test_rain_that_never_fell_is_refused_before_it_is_spread():
    stored = latlon(np.full((4, 4), 9999.0), np.arange(4.0), np.arange(4.0))
    stored.attrs = {"standard_name": "rainfall_rate", "units": "mm h-1"}
    with pytest.raises(ValueError, match="'rain' goes up to 9999"):
        regrid(stored.to_dataset(), latlon(np.zeros((2, 2)), [0.5, 1.5], [0.5, 1.5]))


def test_grids_are_compared_to_a_hundredth_of_a_cell():
    one = find_grid(plane(np.zeros((4, 4)), np.arange(4), np.arange(4)))
    assert same_grid(one, find_grid(plane(np.zeros((4, 4)), np.arange(4) + 0.005, np.arange(4))))
    assert not same_grid(one, find_grid(plane(np.zeros((4, 4)), np.arange(4) + 0.1, np.arange(4))))
    assert not same_grid(one, find_grid(plane(np.zeros((4, 4)), np.arange(4), np.arange(4), "m")))


# ---------------------------------------------------------------- what is refused


def test_staggered_fields_are_refused_with_the_remedy():
    ds = plane(np.zeros((4, 5)), np.arange(4), np.arange(5)).to_dataset()
    ds["U"] = (("y", "west_east_stag"), np.zeros((4, 6)))
    with pytest.raises(ValueError, match=r"'U' lies on the staggered dim 'west_east_stag'.*isel\(west_east_stag="):
        regrid(ds, ds.rain)
    with pytest.raises(ValueError, match="staggered dim 'x_stag'"):
        refuse_staggered([xr.DataArray(np.zeros((2, 2)), dims=("y", "x_stag"), name="u")])
    shifted = xr.DataArray(np.zeros(2), dims="xg", coords={"xg": ("xg", [0, 1], {"c_grid_axis_shift": -0.5})})
    with pytest.raises(ValueError, match="staggered dim 'xg'"):
        refuse_staggered([shifted])


def test_reflectivity_is_refused():
    field = plane(np.zeros((4, 4)), np.arange(4), np.arange(4), units="dBZ")
    with pytest.raises(ValueError, match=r"in dBZ.*xnowcast.rain_rate"):
        regrid(field, field)


@pytest.mark.parametrize("method", ["bilinear", "conservative"])
def test_grids_without_common_area_are_refused(method):
    here, there = (
        latlon(np.zeros((3, 3)), [1, 2, 3.0], [1, 2, 3.0]),
        latlon(np.zeros((3, 3)), [51, 52, 53.0], [1, 2, 3.0]),
    )
    with pytest.raises(ValueError, match=r"no common area: one covers 1 to 3 degrees north.*the other 51 to 53"):
        regrid(here, there, method)


def test_a_plane_of_no_known_projection_is_refused_where_another_is_needed():
    with pytest.raises(ValueError, match=r"nothing tells .* give its fields a grid_mapping"):
        regrid(plane(np.zeros((4, 4)), np.arange(4), np.arange(4)), projected())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"method": "nearest"}, "'bilinear' or 'conservative'"), ({"min_coverage": 0}, "above 0 and at most 1")],
)
def test_wrong_arguments_are_named(arguments, match):
    rain = plane(np.zeros((4, 4)), np.arange(4), np.arange(4))
    with pytest.raises(ValueError, match=match):
        regrid(rain, rain, **arguments)


def test_fields_on_several_grids_are_refused():
    ds = plane(np.zeros((4, 5)), np.arange(4), np.arange(5)).to_dataset()
    ds["other"] = (("lat", "lon"), np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"several grids: 'rain' on .*'other' on"):
        regrid(ds, ds.rain)
