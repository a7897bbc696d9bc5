"""The field and its axes are found by CF, and a forecast is labelled in the user's own terms."""

from functools import lru_cache

import numpy as np
import pytest
import torch
import xarray as xr
from rain_fields import RATE, X, Y, clock

import xnowcast
from xnowcast.fields import attributes, cf, horizontal, labels
from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity

RAIN = np.random.default_rng(0).gamma(0.5, 4, (4, 9, 10)).astype("f4")
TIMES = clock(4)


def radar(y="y", x="x", time="time", **attrs) -> xr.DataArray:
    """Four frames on a projected grid of 9 x 10 cells, the first row in the north."""
    coords = {time: TIMES, y: (y, np.arange(9)[::-1] * 1000.0, Y), x: (x, np.arange(10) * 1000.0, X)}
    return xr.DataArray(RAIN, coords, (time, y, x), "rr", RATE | attrs)


def bare(dims=("time", "y", "x"), **coords) -> xr.DataArray:
    """The same frames with no coordinates but the times and those given."""
    return xr.DataArray(RAIN, {dims[0]: TIMES, **coords}, dims, "rr", RATE)


def curvilinear(dims) -> xr.DataArray:
    """A rotated grid with 2-D latitudes and longitudes, the first row in the north."""
    row, column = np.mgrid[:9, :10]
    lat = 60 - 0.01 * row + 0.002 * column
    lon = 10 + 0.02 * column + 0.004 * row
    return bare(
        ("time", *dims),
        lat=(dims, lat, {"standard_name": "latitude", "units": "degrees_north"}),
        lon=(dims, lon, {"standard_name": "longitude", "units": "degrees_east"}),
    )


class Drift:
    """Moves the newest frame one row down and two columns right in every step: south-eastwards, as models see it."""

    task = Task("forecast", input_frames=1)
    transform = Identity()

    def forecast(self, frames, observed, steps, noise=None):
        return torch.cat([frames[:, -1:].roll((k, 2 * k), (-2, -1)) for k in range(1, steps + 1)], dim=1)


def persisted(obj, **options):
    return obj.nowcast.forecast("persistence", **({"steps": 2} | options))


# ---------------------------------------------------------------- the field


@pytest.mark.parametrize("standard_name", cf.STANDARD_NAMES)
def test_a_field_is_found_by_its_standard_name(standard_name):
    units = {"equivalent_reflectivity_factor": "dBZ"}.get(
        standard_name, "mm" if "amount" in standard_name else "mm h-1"
    )
    field = radar().assign_attrs(standard_name=standard_name, units=units)
    ds = field.to_dataset(name="odd").assign(quality=field.assign_attrs(standard_name="quality_flag"))
    assert cf.find_field(ds).name == "odd"


def test_variable_names_the_field_where_attributes_do_not():
    ds = xr.Dataset({"a": radar().assign_attrs(standard_name=""), "b": radar()})
    assert cf.find_field(ds, "a").name == "a"
    with pytest.raises(ValueError, match="no variable 'rainn'; did you mean 'rain'"):
        cf.find_field(xr.Dataset({"rain": radar()}), "rainn")
    with pytest.raises(ValueError, match="variable='b' was asked for, but this DataArray is 'rr'"):
        cf.find_field(radar(), "b")


def test_two_fields_and_none_are_errors_that_list_the_variables():
    with pytest.raises(ValueError, match="2 precipitation fields, 'a', 'b': choose one with variable="):
        cf.find_field(xr.Dataset({"a": radar(), "b": radar()}))
    with pytest.raises(ValueError, match=r"no precipitation field.*there are: 'a'"):
        cf.find_field(xr.Dataset({"a": radar().assign_attrs(standard_name="air_temperature")}))
    with pytest.raises(ValueError, match="there are: none"):
        cf.find_field(xr.Dataset())
    with pytest.raises(TypeError, match="found ndarray"):
        cf.find_field(RAIN)


def test_vil_of_sevir_is_found_and_not_taken_for_rain():
    vil = radar().rename("vil").assign_attrs(standard_name="", units="kg m-2")
    field = cf.find_field(vil.to_dataset())
    assert field.quantity == "vil"
    np.testing.assert_array_equal(cf.rain_rate(vil), RAIN)
    with pytest.raises(ValueError, match="0-255"):
        cf.find_field(vil.assign_attrs(units="1"))
    with pytest.raises(ValueError, match=r"zr=\(200, 1.6\) is for fields in dBZ"):
        cf.find_field(vil, zr=(200, 1.6))


@pytest.mark.parametrize("dtype", [bool, complex, "U3"])
def test_a_field_of_anything_but_real_numbers_is_refused(dtype):
    with pytest.raises(ValueError, match="not real numbers"):
        cf.find_field(radar().astype(dtype))


# ---------------------------------------------------------------- its axes


@pytest.mark.parametrize(
    ("dims", "attrs"),
    [
        (("a", "b"), ({"axis": "Y"}, {"axis": "X"})),
        (("a", "b"), ({"standard_name": "projection_y_coordinate"}, {"standard_name": "projection_x_coordinate"})),
        (("a", "b"), ({"units": "degrees_north"}, {"units": "degrees_east"})),
        (("a", "b"), ({"standard_name": "latitude"}, {"standard_name": "longitude"})),
        (("a", "b"), ({"standard_name": "grid_latitude"}, {"standard_name": "grid_longitude"})),
        (("x", "y"), ({"axis": "Y"}, {"axis": "X"})),  # attributes come before names
    ],
)
def test_axes_are_told_by_cf_attributes(dims, attrs):
    coords = {d: (d, np.arange(n) * 0.5, a) for d, n, a in zip(dims, (9, 10), attrs, strict=True)}
    field = cf.find_field(bare(("time", *dims), **coords))
    assert (field.y, field.x) == dims


@pytest.mark.parametrize(
    "dims",
    [("y", "x"), ("latitude", "longitude"), ("lat", "lon"), ("j", "i"), ("south_north", "west_east"), ("Y", "X")],
)
def test_axes_are_told_by_their_names(dims):
    field = cf.find_field(bare(("time", *dims)))
    assert (field.time, field.y, field.x) == ("time", *dims)
    assert persisted(field.array).dims == ("init_time", "lead_time", *dims)


@pytest.mark.parametrize("dims", [("j", "i"), ("south", "west"), ("dim_0", "dim_1")])
def test_curvilinear_grids_may_name_their_dims_in_any_way(dims):
    field = cf.find_field(curvilinear(dims))
    assert (field.y, field.x) == dims
    fc = persisted(field.array)
    assert fc.dims == ("init_time", "lead_time", *dims)
    assert fc.lat.dims == dims and fc.lon.attrs["units"] == "degrees_east"
    turned = cf.find_field(curvilinear(dims).transpose())
    assert (turned.y, turned.x) == dims, "the order of the dims does not say which is y"


def test_latitudes_without_attributes_are_known_by_their_names():
    array = curvilinear(("south", "west"))
    array.lat.attrs.clear()
    array.lon.attrs.clear()
    assert cf.find_field(array).y == "south"


def test_a_coordinate_along_a_dim_of_another_name_tells_the_axis():
    places = {"north": ("p", np.arange(9) * 1e3, Y), "east": ("q", np.arange(10) * 1e3, X)}
    field = cf.find_field(bare(("time", "p", "q"), **places))
    assert (field.y, field.x) == ("p", "q")
    assert horizontal.orientation(field.array, "p", "q") == (True, False)


def test_axes_that_nothing_tells_are_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"cannot tell the y axis of variable 'rr'.*axis='Y'"):
        cf.find_field(bare(("time", "p", "q")))
    with pytest.raises(ValueError, match="cannot tell the x axis"):
        cf.find_field(bare(("time", "y", "q")))


@pytest.mark.parametrize("name", ["time", "valid_time", "t", "Time", "when"])
def test_the_time_axis_may_have_other_names(name):
    assert cf.find_field(radar(time=name)).time == name


def test_coordinates_out_of_order_are_refused():
    with pytest.raises(ValueError, match=r"'y' neither rises nor falls throughout: sort it with ds.sortby\('y'\)"):
        cf.find_field(radar().isel(y=[0, 2, 1, 3, 4, 5, 6, 7, 8]))


def test_a_grid_across_the_antimeridian_is_in_order():
    lon = (np.arange(10) + 175.0 + 180) % 360 - 180
    array = bare(("time", "lat", "lon"), lon=("lon", lon, {"units": "degrees_east"}))
    assert horizontal.orientation(array, "lat", "lon") == (False, False)
    np.testing.assert_array_equal(persisted(array).lon, lon)


def test_grid_spacing_in_km_on_projected_and_curvilinear_grids():
    assert cf.grid_spacing(radar()) == (1.0, 1.0)
    in_km = radar().assign_coords(y=("y", np.arange(9) * 2.0, Y | {"units": "km"}), x=("x", np.arange(10.0), X))
    assert cf.grid_spacing(in_km) == (2.0, pytest.approx(0.001))
    dy, dx = cf.grid_spacing(curvilinear(("south", "west")))
    assert dy == pytest.approx(np.hypot(0.01, 0.004 * np.cos(np.deg2rad(60))) * 111.195, rel=1e-3)
    assert dx == pytest.approx(np.hypot(0.002, 0.02 * np.cos(np.deg2rad(60))) * 111.195, rel=1e-3)
    assert cf.grid_spacing(bare()) is None


# ---------------------------------------------------------------- order and direction of dims


@pytest.mark.parametrize("order", [("x", "y", "time"), ("y", "time", "x"), ("time", "x", "y")])
def test_dims_in_any_order_give_the_same_forecast(order):
    xr.testing.assert_identical(persisted(radar().transpose(*order)).drop_attrs(), persisted(radar()).drop_attrs())


def test_extra_dims_lead_and_each_cell_is_forecast_alone():
    scale = xr.DataArray([1.0, 2.0, 3.0], {"tile": [7, 8, 9]}, "tile")
    level = xr.DataArray([1.0, 0.5], {"level": [500.0, 1500.0]}, "level")
    several = (radar() * scale * level).assign_attrs(radar().attrs).transpose("time", "level", "y", "tile", "x")
    fc = persisted(several)
    assert fc.dims == ("level", "tile", "init_time", "lead_time", "y", "x")
    np.testing.assert_array_equal(fc.tile, [7, 8, 9])
    np.testing.assert_allclose(fc.sel(tile=9, level=1500).values, persisted(radar()).values * 1.5, rtol=1e-6)


@pytest.mark.parametrize("axis", ["y", "x"])
@pytest.mark.parametrize("model", [Drift(), "extrapolation"], ids=["drift", "extrapolation"])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_other_direction_of_an_axis_gives_exactly_the_flipped_forecast(axis, model, chunked):
    field = xnowcast.datasets.synthetic_radar(frames=4, shape=(32, 40), seed=3, chunks=1)
    field = field if chunked else field.compute()
    flipped = field.isel({axis: slice(None, None, -1)})
    there, back = (d.nowcast.forecast(model, steps=2).compute() for d in (field, flipped))
    np.testing.assert_array_equal(back[axis], there[axis][::-1])
    np.testing.assert_array_equal(
        back.rainfall_rate.isel({axis: slice(None, None, -1)}).values, there.rainfall_rate.values
    )


def test_models_see_every_field_with_north_on_top_and_west_on_the_left():
    pixel = xr.zeros_like(radar())
    pixel.loc[{"y": 4000, "x": 3000}] = 1.0
    for field in (pixel, pixel[:, ::-1], pixel[:, :, ::-1], pixel[:, ::-1, ::-1]):
        step = field.nowcast.forecast(Drift(), steps=1).squeeze()
        assert step.sum() == 1 and step.sel(y=3000, x=5000) == 1


def test_direction_is_read_from_2d_latitudes_too():
    north_first = curvilinear(("south", "west"))
    assert horizontal.orientation(north_first, "south", "west") == (False, False)
    assert horizontal.orientation(north_first.isel(south=slice(None, None, -1)), "south", "west") == (True, False)
    assert horizontal.orientation(north_first.isel(west=slice(None, None, -1)), "south", "west") == (False, True)


# ---------------------------------------------------------------- places that change in time, and places unknown


def repeated(places) -> np.ndarray:
    return np.broadcast_to(places, (len(TIMES), *np.shape(places)))


def wrf(move=0.0) -> xr.DataArray:
    """A curvilinear grid whose latitudes and longitudes stand once a time, as WRF writes them."""
    array = curvilinear(("south", "west"))
    lat = repeated(array.lat.values[::-1]) + move * np.arange(len(TIMES))[:, None, None]
    dims = ("time", "south", "west")
    return array.assign_coords(
        lat=(dims, lat, array.lat.attrs), lon=(dims, repeated(array.lon.values), array.lon.attrs)
    )


@pytest.mark.parametrize("lazy", [False, True])
def test_places_that_repeat_in_time_are_made_constant(lazy):
    array = wrf().chunk(time=2) if lazy else wrf()
    still = curvilinear(("south", "west")).isel(south=slice(None, None, -1))
    assert horizontal.horizontal_dims(array) == ("south", "west")
    assert horizontal.orientation(array, "south", "west") == (True, False)
    assert cf.grid_spacing(array) == pytest.approx(cf.grid_spacing(still), rel=1e-6)
    for made in (persisted(array), array.nowcast.coarsen(3, boundary="trim")):
        assert made.lat.dims == made.lon.dims == ("south", "west")
    np.testing.assert_array_equal(persisted(array).lat, still.lat)


def test_places_that_are_unknown_at_all_times_are_constant_too():
    array = wrf()
    array["lat"] = array.lat.where(array.lat > array.lat.min())
    assert persisted(array).lat.isnull().sum() == 1


def test_axes_and_grid_mappings_that_repeat_in_time_are_made_constant():
    ds = radar(grid_mapping="crs").drop_vars("y").to_dataset()
    ds = ds.assign_coords(north=(("time", "y"), repeated(radar().y.values), Y))
    ds["crs"] = ("time", np.zeros(len(TIMES), int), {"grid_mapping_name": "polar_stereographic"})
    fc = persisted(ds)
    assert fc.north.dims == ("y",) and fc.crs.dims == ()
    assert fc.crs.attrs["grid_mapping_name"] == "polar_stereographic"


@pytest.mark.parametrize("dims", [("time", "y", "x"), ("y", "x"), ("time",)])
def test_a_dataset_that_was_masked_as_a_whole_keeps_its_grid_mapping(dims):
    ds = radar(grid_mapping="crs").to_dataset()
    ds["crs"] = ((), 0, {"grid_mapping_name": "polar_stereographic"})
    mask = xr.DataArray(np.indices([ds.sizes[d] for d in dims]).sum(0) % 5 > 0, dims=dims)
    fc = persisted(ds.where(mask))
    assert fc.crs.dims == () and fc.crs.attrs["grid_mapping_name"] == "polar_stereographic"
    xr.testing.assert_equal(xnowcast.rain_rate(ds.where(mask)), xnowcast.rain_rate(ds).where(mask))


def test_the_grid_mapping_of_a_masked_dataset_reads_nothing_of_a_lazy_field():
    def read(values):
        raise AssertionError("read at the door")

    ds = radar(grid_mapping="crs").to_dataset()
    ds["crs"] = ((), 0, {"grid_mapping_name": "polar_stereographic"})
    ds["rr"] = ds.rr.copy(data=ds.rr.chunk().data.map_blocks(read, dtype="f4", meta=np.zeros((0, 0, 0), "f4")))
    assert persisted(ds.where(ds.rr > 0)).crs.dims == ()


def test_bounds_of_places_that_were_masked_with_the_field_are_those_that_are_known():
    ds = radar().to_dataset()
    ds["y"] = ds.y.assign_attrs(bounds="y_bnds")
    ds["y_bnds"] = (("time", "y", "bnds"), np.repeat(np.stack([ds.y - 500, ds.y + 500], 1)[None], len(TIMES), 0))
    later = ds.assign(y_bnds=ds.y_bnds.where(ds.time > ds.time[0]))
    np.testing.assert_array_equal(horizontal.without_time(later).y_bnds, ds.y_bnds[0])
    moved = later.y_bnds.copy(deep=True)
    moved[2] += 100
    with pytest.raises(ValueError, match="'y_bnds' tells where the grid lies"):
        horizontal.without_time(ds.assign(y_bnds=moved))


@pytest.mark.parametrize("verb", [persisted, xnowcast.rain_rate, lambda d: d.nowcast.coarsen(3, boundary="trim")])
def test_a_grid_that_moves_is_refused(verb):
    with pytest.raises(ValueError, match="'lat' tells where the grid lies, and it is not the same at all times"):
        verb(wrf(move=0.01).chunk(time=2))
    ds = radar(grid_mapping="crs").to_dataset().assign(crs=("time", np.arange(len(TIMES))))
    with pytest.raises(ValueError, match="'crs' tells where the grid lies"):
        verb(ds)


@pytest.mark.parametrize("turn", [{}, {"south": slice(None, None, -1)}, {"west": slice(None, None, -1)}])
@pytest.mark.parametrize("known", ["disk", "ring"])
def test_direction_spacing_and_axes_are_told_by_the_places_that_are_known(turn, known):
    whole = curvilinear(("south", "west")).isel(turn)
    from_middle = np.hypot(np.arange(9)[:, None] - 4, np.arange(10) - 4.5)
    mask = xr.DataArray(from_middle < 4 if known == "disk" else from_middle > 1.5, dims=("south", "west"))
    part = whole.assign_coords(lat=whole.lat.where(mask), lon=whole.lon.where(mask))
    assert horizontal.horizontal_dims(part) == ("south", "west")
    assert horizontal.orientation(part, "south", "west") == horizontal.orientation(whole, "south", "west")
    assert cf.grid_spacing(part) == pytest.approx(cf.grid_spacing(whole), rel=1e-3)


def test_places_of_which_none_is_known_tell_nothing():
    nowhere = curvilinear(("y", "x"))
    nowhere = nowhere.assign_coords(lat=nowhere.lat * np.nan, lon=nowhere.lon * np.nan)
    assert horizontal.orientation(nowhere, "y", "x") == (False, False) and cf.grid_spacing(nowhere) is None


def test_axes_with_unknown_places_are_refused():
    places = radar().x.values.copy()
    places[3] = np.nan
    with pytest.raises(ValueError, match="coordinate 'x' is NaN or infinite in 1 of 10 places"):
        cf.find_field(radar().assign_coords(x=("x", places, X)))


@pytest.mark.parametrize("attrs", [{}, {"units": "degrees_east"}])
@pytest.mark.parametrize("turn", [1, -1])
def test_longitudes_go_on_through_360(attrs, turn):
    lon = (np.arange(10) * 0.5 - 2)[::turn]
    plain = bare(("time", "lat", "lon"), lat=np.arange(9.0) / 2, lon=("lon", lon, attrs))
    round_ = plain.assign_coords(lon=("lon", lon % 360, attrs))
    for each in (round_, plain):
        assert horizontal.orientation(each, "lat", "lon") == (True, turn < 0)
    np.testing.assert_array_equal(persisted(round_).values, persisted(plain).values)
    np.testing.assert_array_equal(persisted(round_).lon, lon % 360)
    for refined in (
        lambda d: d.nowcast.coarsen(3, boundary="trim"),
        lambda d: d.nowcast.downscale("bicubic", factor=2),
    ):
        np.testing.assert_allclose(refined(round_).lon, refined(plain).lon % 360, atol=1e-9)
        np.testing.assert_array_equal(refined(round_).values, refined(plain).values)


# ---------------------------------------------------------------- evenly spaced cells


def on_axis(y) -> xr.DataArray:
    return bare(("time", "lat", "lon"), lat=("lat", np.asarray(y), {"units": "degrees_north"}))


EVEN = {
    "float32": np.arange(9, dtype="f4") * np.float32(0.01) + np.float32(67.3),
    "rounded metres": (np.arange(9) * 10.0 + 5.4e6).astype("f4"),
    "Gaussian latitudes": np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(80)[0]))[:9],
    "Mercator": np.rad2deg(np.arctan(np.sinh(np.arange(9) * 0.06 + 0.6))),
    "falling": np.arange(9)[::-1] * 0.25,
}


@pytest.mark.parametrize("case", EVEN)
def test_axes_that_are_even_but_for_rounding_or_their_map_are_forecast(case):
    assert persisted(on_axis(EVEN[case])).shape[-2:] == (9, 10)


UNEVEN = {
    "a hole": np.delete(np.arange(12.0), [4, 5, 6]),
    "one row missing": np.delete(np.arange(10.0), 5),
    "stretched": 1.3 ** np.arange(9),
    "uneven": np.cumsum([1, 1.2, 0.9, 1, 1.1, 1, 1.3, 1, 1]),
}


@pytest.mark.parametrize("case", UNEVEN)
def test_cells_at_several_distances_are_refused_where_a_model_takes_them_for_neighbours(case):
    array = on_axis(UNEVEN[case])
    for verb in (persisted, lambda d: d.nowcast.downscale("bicubic", factor=2)):
        with pytest.raises(ValueError, match="along 'lat' the distance between cells varies from"):
            verb(array)
    assert xnowcast.rain_rate(array).shape == array.shape


# ---------------------------------------------------------------- the forecast's labels


@pytest.fixture
def rich(tmp_path):
    """Path of a packed CF file with a grid mapping, bounds, cell areas, latitudes and a scalar height."""
    field = radar(grid_mapping="crs", cell_measures="area: cell_area", ancillary_variables="quality")
    field.attrs["valid_range"] = np.array([0, 30000], "i2")
    ds = field.to_dataset().assign_coords(curvilinear(("y", "x")).coords)
    ds = ds.assign_coords(height=((), 1500.0, {"units": "m", "standard_name": "height", "positive": "up"}))
    ds["crs"] = ((), 0, {"grid_mapping_name": "lambert_azimuthal_equal_area", "crs_wkt": "PROJCRS[...]"})
    ds["cell_area"] = (("y", "x"), np.full((9, 10), 1e6), {"standard_name": "cell_area", "units": "m2"})
    ds["quality"] = (ds.rr * 0).assign_attrs(standard_name="quality_flag")
    ds.time.encoding["units"] = "seconds since 1970-01-01"
    for axis, dim in (("y", "y"), ("x", "x"), ("time", "time")):
        ds[dim].attrs["bounds"] = f"{axis}_bnds"
        width = np.timedelta64(5, "m") if dim == "time" else 500.0
        ds[f"{axis}_bnds"] = xr.concat([ds[dim] - width, ds[dim]], "nv").transpose().drop_vars(dim)
    ds.attrs = {"title": "radar", "history": "made", "Conventions": "CF-1.7"}
    path = tmp_path / "rich.nc"
    ds.to_netcdf(path, encoding={"rr": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1, "zlib": True}})
    return path


@pytest.mark.parametrize("decode_coords", [True, "all"])
def test_grid_mapping_bounds_areas_and_scalars_are_kept(rich, tmp_path, decode_coords):
    with xr.open_dataset(rich, decode_coords=decode_coords) as ds:
        fc = persisted(ds).load()
    assert {"crs", "cell_area", "y_bnds", "x_bnds", "lat", "lon", "height"} <= set(fc.variables)
    assert not {"quality", "time", "time_bnds"} & set(fc.variables)
    assert (fc.rr.attrs | fc.rr.encoding)["grid_mapping"] == "crs"
    assert fc.crs.attrs["crs_wkt"] == "PROJCRS[...]"
    assert (
        fc.title.startswith("forecast by xnowcast")
        and fc.title.endswith(": radar")
        and fc.Conventions == labels.CONVENTIONS
    )
    first, second = fc.history.split("\n")
    assert "xnowcast forecast with persistence" in first and second == "made"
    fc.to_netcdf(tmp_path / "fc.nc")
    with xr.open_dataset(tmp_path / "fc.nc", decode_coords="all") as again:
        assert set(again.rr.coords) >= {"crs", "cell_area", "lat", "lon", "height", "valid_time"}
        assert again.rr.cf.grid_mapping_names == {"lambert_azimuthal_equal_area": ["crs"]}


@pytest.mark.parametrize("decode_coords", [True, "all"])
def test_the_long_form_of_grid_mapping_keeps_every_mapping(decode_coords, tmp_path):
    ds = radar(grid_mapping="crs: x y geo: lat lon").to_dataset().assign_coords(curvilinear(("y", "x")).coords)
    ds["crs"] = ((), 0, {"grid_mapping_name": "stereographic"})
    ds["geo"] = ((), 0, {"grid_mapping_name": "latitude_longitude"})
    ds.to_netcdf(tmp_path / "long.nc")
    with xr.open_dataset(tmp_path / "long.nc", decode_coords=decode_coords) as opened:
        fc = persisted(opened)
        assert {"crs", "geo"} <= set(fc.variables)
        assert (fc.rr.attrs | fc.rr.encoding)["grid_mapping"] == "crs: x y geo: lat lon"


@pytest.mark.parametrize("masked", [True, False])
def test_packing_does_not_leak_into_the_forecast(rich, tmp_path, masked):
    with xr.open_dataset(rich, mask_and_scale=masked) as ds:
        np.testing.assert_allclose(cf.rain_rate(ds), RAIN, atol=0.0051)
        fc = persisted(ds).load()
    np.testing.assert_allclose(fc.rr[0, 1], RAIN[-1], atol=0.0051)
    stale = {"scale_factor", "add_offset", "_FillValue", "missing_value", "valid_range", "coordinates"}
    assert not (stale | {"ancillary_variables"}) & set(fc.rr.attrs)
    assert not {"dtype", "scale_factor", "add_offset", "_FillValue"} & set(fc.rr.encoding)
    assert fc.rr.encoding["chunksizes"] == (1, 1, *fc.rr.shape[-2:])
    fc.to_netcdf(tmp_path / "fc.nc")
    with xr.open_dataset(tmp_path / "fc.nc") as again:
        assert again.rr.dtype == "f4"
        np.testing.assert_array_equal(again.rr, fc.rr)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_saved_forecast_opens_as_it_was(tmp_path, suffix):
    fc = radar().to_dataset().nowcast.forecast("persistence", steps=3, init_times="all")
    fc = fc.expand_dims(member=np.arange(2, dtype="int32"))
    path = tmp_path / f"fc{suffix}"
    fc.to_netcdf(path) if suffix == ".nc" else fc.to_zarr(path)
    with xr.open_dataset(path, **({} if suffix == ".nc" else {"engine": "zarr", "chunks": {}})) as again:
        assert again.lead_time.dtype.kind == "m" and again.valid_time.dtype.kind == "M"
        assert again.member.dtype == "int32"
        xr.testing.assert_identical(again.load(), fc)


def test_a_forecast_of_a_zarr_2_store_is_written_to_zarr_3(tmp_path):
    radar().to_dataset().assign_coords(curvilinear(("y", "x")).coords).to_zarr(tmp_path / "v2.zarr", zarr_format=2)
    fc = persisted(xr.open_zarr(tmp_path / "v2.zarr"))
    fc.to_zarr(tmp_path / "v3.zarr", zarr_format=3)
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "v3.zarr").rr[0, 0], RAIN[-1])


def test_cf_xarray_finds_the_forecasts_axes_and_standard_names():
    fc = persisted(radar().to_dataset())
    assert fc.cf.standard_names["forecast_reference_time"] == ["init_time"]
    assert fc.cf.standard_names["forecast_period"] == ["lead_time"]
    assert fc.cf.standard_names["time"] == ["valid_time"]
    assert fc.cf.axes["Y"] == ["y"] and fc.cf.axes["X"] == ["x"]
    np.testing.assert_array_equal(fc.valid_time[0], TIMES[-1] + np.array([5, 10]) * np.timedelta64(1, "m"))


def test_a_dataarray_gives_a_dataarray_and_a_nameless_one_stays_nameless():
    fc = persisted(radar())
    assert isinstance(fc, xr.DataArray) and fc.name == "rr"
    assert fc.attrs["nowcast_model"] == "persistence" and "xnowcast forecast" in fc.history
    assert persisted(radar().rename(None)).name is None
    assert persisted(radar().rename(None).chunk()).name is None
    assert isinstance(persisted(radar().to_dataset()), xr.Dataset)


def test_coordinates_named_like_the_forecasts_do_not_replace_them():
    fc = persisted(radar().assign_coords(valid_time=3, member=5))
    assert fc.valid_time.dims == ("init_time", "lead_time")
    assert fc.member.item() == 5


@pytest.mark.parametrize("dim", ["lead_time", "init_time"])
def test_a_dim_that_the_forecast_adds_is_refused_in_its_input(dim):
    with pytest.raises(ValueError, match=f"already has a dim '{dim}', which the forecast adds"):
        persisted(radar().expand_dims({dim: 2}))


def test_the_users_dataset_is_not_touched(rich):
    ds = xr.load_dataset(rich, decode_coords="all")
    before = ds.copy(deep=True)
    fc = persisted(ds)
    fc.y.attrs["long_name"] = fc.lat.attrs["long_name"] = fc.crs.attrs["grid_mapping_name"] = "changed"
    fc.rr.attrs["units"] = "changed"
    xr.testing.assert_identical(ds, before)
    assert ds.rr.encoding == before.rr.encoding and ds.y.encoding == before.y.encoding


# ---------------------------------------------------------------- what looking it up costs


def test_attributes_are_read_once_and_values_never_formatted(monkeypatch):
    """A forecast asks some twenty times what its coordinates are; each answer of cf_xarray takes milliseconds."""
    asked = []
    answer = attributes._cf_names.__wrapped__
    monkeypatch.setattr(attributes, "_cf_names", lru_cache(lambda *key: asked.append(key) or answer(*key)))
    monkeypatch.setattr(np, "array2string", lambda *a, **k: pytest.fail("an array was formatted"))
    persisted(radar(), init_times="all")
    assert len(asked) <= 2, "once about the field, once about its frames at most"


def test_coordinates_are_known_by_new_attributes_at_once():
    field = bare(("time", "b", "a"), p=("b", np.arange(9.0)), q=("a", np.arange(10.0)))
    with pytest.raises(ValueError, match="cannot tell the y axis"):
        horizontal.horizontal_dims(field)
    field.p.attrs["axis"], field.q.attrs["axis"] = "Y", "X"
    assert horizontal.horizontal_dims(field) == ("b", "a")
    field.p.attrs["axis"], field.q.attrs["axis"] = "X", "Y"
    assert horizontal.horizontal_dims(field) == ("a", "b")


def test_criteria_that_the_user_adds_to_cf_xarray_count():
    import cf_xarray

    field = bare(("time", "b", "a"), b=("b", np.arange(9.0)), a=("a", np.arange(10.0)))
    with cf_xarray.set_options(custom_criteria=({"Y": {"name": "^b$"}, "X": {"name": "^a$"}},)):
        assert horizontal.horizontal_dims(field) == ("b", "a")


@pytest.mark.parametrize("attrs", [{"cell_measures": "x"}, {"grid_mapping": "gone"}, {"coordinates": 1}, {"axis": 3}])
def test_attributes_of_coordinates_that_make_no_sense_do_no_harm(attrs):
    field = radar()
    field.y.attrs |= attrs
    assert horizontal.horizontal_dims(field) == ("y", "x")
