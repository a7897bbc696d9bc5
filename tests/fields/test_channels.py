"""Further fields are found by name and level however they are stored, and come in canonical units."""

import numpy as np
import pytest
import xarray as xr

from xnowcast.fields.channels import (
    Level,
    canonical_units,
    find_channel,
    find_channels,
    is_vector_component,
    locate_channels,
    parse_channel,
)


def field(value=1.0, dims=("y", "x"), shape=(4, 6), coords=None, **attrs):
    """A field of one value, or of the numbers that are given along its first dim."""
    values = np.broadcast_to(np.asarray(value, "f4").reshape(-1, *(1,) * (len(dims) - 1)), shape)
    axes = {"y": ("y", np.arange(4.0), {"axis": "Y"}), "x": ("x", np.arange(6.0), {"axis": "X"})}
    return xr.DataArray(values, dims=dims, coords=axes | (coords or {}), attrs=attrs)


def on_levels(values, coordinate, levels, level_attrs, **attrs):
    coords = {coordinate: (coordinate, levels, level_attrs)}
    return field(values, (coordinate, "y", "x"), (len(levels), 4, 6), coords, **attrs)


def the(data, name, **options):
    """The one value of a channel, its dims and its units."""
    found = find_channel(data, name, **options)
    values = np.unique(found.values)
    assert values.size == 1 and found.dtype == np.float32
    return float(values[0]), found.dims, found.units


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "standard", "level"),
    [
        ("rainfall_rate", "rainfall_rate", None),
        ("air_temperature at 850 hPa", "air_temperature", Level(85000.0, "pressure")),
        ("air_temperature at 85000 Pa", "air_temperature", Level(85000.0, "pressure")),
        ("eastward_wind at 10 m", "eastward_wind", Level(10.0, "height")),
        ("wind_speed at 0.1 km", "wind_speed", Level(100.0, "height")),
    ],
)
def test_a_name_has_a_standard_name_and_perhaps_a_level(name, standard, level):
    assert parse_channel(name) == (standard, level)


@pytest.mark.parametrize("name", ["air_temperature at 850", "air_temperature at hPa", "wind at 10 K", "t at 1e5e hPa"])
def test_a_level_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="write it like 'air_temperature at 850 hPa'"):
        parse_channel(name)


def test_components_of_vectors_are_known_by_their_names():
    vectors = ("eastward_wind at 10 m", "northward_wind", "x_wind", "grid_eastward_wind", "v_component_of_wind")
    others = ("wind_speed", "air_temperature", "rainfall_rate", "upward_air_velocity", "relative_humidity at 700 hPa")
    assert all(map(is_vector_component, vectors)) and not any(map(is_vector_component, others))


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("coordinate", "levels", "attrs"),
    [
        ("plev", [50000.0, 85000.0], {"standard_name": "air_pressure", "units": "Pa"}),
        ("isobaricInhPa", [500.0, 850.0], {"units": "hPa"}),
        ("isobaricInhPa", [850, 500], {}),  # the name says it
        ("level", [500, 850], {"units": "millibars"}),
        ("pressure_level", [500, 850], {"units": "hPa", "axis": "Z"}),
        ("anything", [50.0, 85.0], {"units": "kPa"}),
    ],
)
def test_pressure_levels_are_found_by_their_units_however_they_are_called(coordinate, levels, attrs):
    values = [float(level) for level in levels]
    data = on_levels(values, coordinate, levels, attrs, standard_name="air_temperature", units="K").to_dataset(name="t")
    value, dims, units = the(data, "air_temperature at 850 hPa")
    assert value == values[int(np.argmax(levels))] and dims == ("y", "x") and units == "K"
    assert coordinate not in find_channel(data, "air_temperature at 500 hPa").coords


@pytest.mark.parametrize(
    ("coordinate", "attrs"),
    [
        ("heightAboveGround", {"units": "m"}),
        ("z", {"units": "m", "axis": "Z"}),
        ("h", {"standard_name": "height", "units": "m"}),
    ],
)
def test_heights_are_found_as_dims_and_as_scalars(coordinate, attrs):
    both = on_levels([3.0, 5.0], coordinate, [10.0, 100.0], attrs, standard_name="eastward_wind", units="m s-1")
    assert the(both.to_dataset(name="u"), "eastward_wind at 100 m") == (5.0, ("y", "x"), "m s-1")
    single = both.isel({coordinate: 0})
    assert the(single.to_dataset(name="u10"), "eastward_wind at 10 m") == (3.0, ("y", "x"), "m s-1")
    # one that is alone need not say its level
    assert the(single.to_dataset(name="u10"), "eastward_wind")[0] == 3.0
    assert the(both[:1].to_dataset(name="u10"), "eastward_wind")[:2] == (3.0, ("y", "x"))


def test_places_along_y_are_no_levels():
    metres = {"y": ("y", 10.0 * np.arange(4), {"units": "m", "standard_name": "projection_y_coordinate"})}
    data = field(coords=metres, standard_name="eastward_wind", units="m s-1").to_dataset(name="u")
    with pytest.raises(ValueError, match="variable 'u' has no levels"):
        find_channel(data, "eastward_wind at 10 m")


def test_the_variable_that_has_the_level_is_chosen_among_those_of_one_name():
    surface = field(288.0, standard_name="air_temperature", units="K").to_dataset(name="t2m")
    aloft = on_levels([250.0, 280.0], "plev", [5e4, 8.5e4], {"units": "Pa"}, standard_name="air_temperature", units="K")
    merged = xr.merge([aloft.to_dataset(name="t"), surface])
    assert the(merged, "air_temperature at 850 hPa")[0] == 280.0
    assert the(merged, "air_temperature")[0] == 288.0  # the one without levels
    other = merged.assign(skin=(merged.t2m + 1).assign_attrs(merged.t2m.attrs))
    with pytest.raises(ValueError, match="'t2m', 'skin' are all of this name: say which by its level, or map"):
        find_channel(other, "air_temperature")
    assert the(other, "air_temperature", variable="skin")[0] == 289.0


def test_dims_of_a_forecast_are_kept():
    dims, shape = ("init_time", "lead_time", "plev", "y", "x"), (2, 3, 2, 4, 6)
    coords = {"plev": ("plev", [5e4, 8.5e4], {"units": "Pa"})}
    data = field(1.0, dims, shape, coords, standard_name="relative_humidity", units="%").to_dataset(name="r")
    found = find_channel(data, "relative_humidity at 500 hPa")
    assert found.dims == ("init_time", "lead_time", "y", "x") and found.units == "1"
    np.testing.assert_allclose(found, 0.01, rtol=1e-6)


# ---------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("name", "value", "units", "canonical", "expected"),
    [
        ("air_temperature", 10.0, "degC", "K", 283.15),
        ("dew_point_temperature", 300.0, "K", "K", 300.0),
        ("eastward_wind", 10.0, "knots", "m s-1", 5.14444),
        ("northward_wind", 36.0, "km/h", "m s-1", 10.0),
        ("air_pressure_at_mean_sea_level", 1013.25, "hPa", "Pa", 101325.0),
        ("relative_humidity", 80.0, "%", "1", 0.8),
        ("relative_humidity", 0.8, "1", "1", 0.8),
        ("cloud_area_fraction", 0.5, "(0 - 1)", "1", 0.5),
        ("specific_humidity", 8.0, "g kg-1", "1", 0.008),
        ("geopotential_height", 550.0, "dam", "m", 5500.0),
        ("geopotential_height", 5500.0, "gpm", "m", 5500.0),
        ("geopotential_height", 9806.65, "m2 s-2", "m", 1000.0),
        ("geopotential", 9806.65, "m**2 s**-2", "m2 s-2", 9806.65),
        ("lagrangian_tendency_of_air_pressure", 36.0, "hPa h-1", "Pa s-1", 1.0),
        ("rainfall_rate", 2.0, "mm h-1", "mm h-1", 2.0),
        ("precipitation_flux", 0.001, "kg m-2 s-1", "mm h-1", 3.6),
        ("atmosphere_boundary_layer_thickness", 1.5, "km", "m", 1500.0),
        ("atmosphere_convective_available_potential_energy", 900.0, "J kg-1", "J kg-1", 900.0),
        ("wind_from_direction", 270.0, "degrees", "degree", 270.0),
    ],
)
def test_values_come_in_canonical_units(name, value, units, canonical, expected):
    data = field(value, standard_name=name, units=units).to_dataset(name="v")
    found, _, told = the(data, name)
    assert told == canonical and found == pytest.approx(expected, rel=1e-5)


def test_geopotential_gives_its_height_and_any_rain_the_rain_rate():
    levels = {"units": "hPa"}
    z = on_levels([54000.0, 15000.0], "level", [500, 850], levels, standard_name="geopotential", units="m2 s-2")
    flux = field(0.5 / 3600, standard_name="precipitation_flux", units="kg m-2 s-1")
    dbz = field(23.01, standard_name="equivalent_reflectivity_factor", units="dBZ")
    data = xr.Dataset({"z": z, "pr": flux})
    assert the(data, "geopotential_height at 500 hPa")[0] == pytest.approx(54000 / 9.80665)
    assert the(data, "rainfall_rate")[0] == pytest.approx(0.5)
    assert the(dbz.to_dataset(name="dbz"), "rainfall_rate")[0] == pytest.approx(1.0, rel=1e-3)  # 200 R**1.6


def test_the_rain_that_is_learnt_is_no_channel():
    target, forecast = (
        field(v, standard_name=n, units="mm h-1") for v, n in ((1.0, "rainfall_rate"), (2.0, "lwe_precipitation_rate"))
    )
    data = xr.Dataset({"radar": target, "model": forecast})
    assert the(data, "rainfall_rate")[0] == 1.0
    assert the(data, "rainfall_rate", exclude=("radar",))[0] == 2.0
    with pytest.raises(ValueError, match="there is no channel 'rainfall_rate'"):
        find_channel(data[["radar"]], "rainfall_rate", exclude=("radar",))


def test_amounts_per_step_become_rates():
    times = np.datetime64("2024-06-01", "ns") + np.arange(3) * np.timedelta64(3, "h")
    rain = field(6.0, ("time", "y", "x"), (3, 4, 6), {"time": times}, standard_name="precipitation_amount", units="mm")
    assert the(rain.to_dataset(name="tp"), "rainfall_rate")[0] == pytest.approx(2.0)


def test_missing_values_stay_missing():
    t = field(10.0, standard_name="air_temperature", units="degC").copy()
    t[0, 0] = np.nan
    found = find_channel(t.to_dataset(name="t"), "air_temperature")
    assert bool(found.isnull()[0, 0]) and int(found.isnull().sum()) == 1


@pytest.mark.parametrize(
    ("attrs", "what"), [({}, "no units"), ({"units": "m s-1"}, "units 'm s-1'"), ({"units": "foo"}, "units 'foo'")]
)
def test_units_are_read_and_never_guessed(attrs, what):
    data = field(10.0, standard_name="air_temperature", **attrs).to_dataset(name="t")
    with pytest.raises(ValueError, match=f"variable 't' has {what}, and air_temperature is read in K"):
        find_channel(data, "air_temperature")
    assert canonical_units(field(**{"units": "foo"}), "an_index_of_ours")[1] == "foo"
    assert canonical_units(field(), "land_binary_mask")[1] == "1"


# ---------------------------------------------------------------- mapping and errors


def test_flat_names_are_mapped():
    data = xr.Dataset({"T850": field(5.0, units="degC"), "U10": field(3.0, units="m s-1")})
    mapping = {"air_temperature at 850 hPa": "T850", "eastward_wind at 10 m": "U10"}
    t, u = find_channels(data, list(mapping), mapping)
    assert float(t[0, 0]) == pytest.approx(278.15) and float(u[0, 0]) == 3.0
    assert the(data, "air_temperature at 850 hPa", variable="T850")[0] == pytest.approx(278.15)
    with pytest.raises(ValueError, match="the mapping names 'air_temperature at 700 hPa', which is no channel"):
        find_channels(data, list(mapping), {"air_temperature at 700 hPa": "T850"})
    with pytest.raises(ValueError, match="there is no variable 'T500'"):
        find_channel(data, "air_temperature at 500 hPa", variable="T500")


def test_a_mapped_variable_with_levels_is_taken_at_the_level():
    t = on_levels([250.0, 280.0], "plev", [5e4, 8.5e4], {"units": "Pa"}, units="K").to_dataset(name="T")
    assert the(t, "air_temperature at 850 hPa", variable="T")[0] == 280.0
    with pytest.raises(ValueError, match="variable 'T' lies at 500 hPa, 850 hPa"):
        find_channel(t, "air_temperature at 700 hPa", variable="T")


def test_a_variables_own_name_will_do_where_it_has_no_other():
    data = xr.Dataset({"cape": field(100.0, units="J kg-1")})
    assert the(data, "cape") == (100.0, ("y", "x"), "J kg-1")


def test_a_variables_own_name_does_not_keep_its_units_from_being_read():
    with pytest.raises(ValueError, match="variable 'T850' has units 'Pa', and air_temperature is read in K"):
        find_channel(xr.Dataset({"T850": field(5.0, standard_name="air_temperature", units="Pa")}), "T850")
    told = xr.Dataset({"T850": field(5.0, standard_name="air_temperature", units="degC")})
    assert the(told, "T850") == (pytest.approx(278.15), ("y", "x"), "K")


def test_a_variable_that_is_called_as_the_channel_is_the_channel():
    data = xr.Dataset({"T850": field(5.0, standard_name="air_temperature", units="degC"), "T500": field(1.0)})
    name = "air_temperature at 850 hPa"
    with pytest.raises(ValueError, match="has no levels"):
        find_channel(data, name)
    assert the(data.rename(T850=name), name) == (pytest.approx(278.15), ("y", "x"), "K")
    with pytest.raises(ValueError, match="has no units, and air_temperature is read in K"):
        find_channel(data.rename(T500=name), name)


def test_all_that_is_missing_is_named_at_once_with_what_there_is():
    t = on_levels([250.0, 280.0], "plev", [5e4, 8.5e4], {"units": "Pa"}, standard_name="air_temperature", units="K")
    data = xr.Dataset({"t": t, "pr": field(standard_name="precipitation_flux", units="kg m-2 s-1")})
    with pytest.raises(ValueError) as error:
        find_channels(data, ["air_temperature at 700 hPa", "air_temperature", "specific_humidity at 850 hPa"])
    message = str(error.value)
    assert "'air_temperature at 700 hPa': variable 't' lies at 500 hPa, 850 hPa" in message
    assert "'air_temperature': variable 't' has levels: name one, such as 'air_temperature at 500 hPa'" in message
    assert "'specific_humidity at 850 hPa': no variable has this standard_name" in message
    assert "The data have air_temperature as 't' at 500 hPa, 850 hPa, precipitation_flux as 'pr'" in message


def test_text_is_no_channel():
    data = xr.Dataset({"cloud_type": xr.DataArray([["a"]], dims=("y", "x"))})
    with pytest.raises(ValueError, match="variable 'cloud_type' holds <U1, not real numbers"):
        find_channel(data, "cloud_type")


# ---------------------------------------------------------------- laziness


def test_lazy_channels_stay_lazy(nothing_may_run):
    t = on_levels([250.0, 280.0], "plev", [5e4, 8.5e4], {"units": "Pa"}, standard_name="air_temperature", units="degC")
    lazy = t.to_dataset(name="t").chunk(plev=1)
    with nothing_may_run:
        found = find_channel(lazy, "air_temperature at 850 hPa")
    assert found.chunks is not None
    np.testing.assert_allclose(found, 553.15, rtol=1e-6)


def test_a_file_is_not_read_before_it_is_needed(tmp_path):
    times = np.datetime64("2024-06-01", "ns") + np.arange(3) * np.timedelta64(1, "h")
    t = field(
        [1.0, 2.0, 3.0], ("time", "y", "x"), (3, 4, 6), {"time": times}, standard_name="air_temperature", units="degC"
    )
    t.to_dataset(name="t").to_netcdf(tmp_path / "t.nc")
    with xr.open_dataset(tmp_path / "t.nc") as data:
        (located,) = locate_channels(data, ["air_temperature"])
        assert not isinstance(located.array.variable._data, np.ndarray)
        found = find_channel(data, "air_temperature")
        assert found.chunks is not None and not isinstance(data.t.variable._data, np.ndarray)
        np.testing.assert_allclose(found[1], 275.15, rtol=1e-6)


def test_what_is_declared_missing_in_a_channel_is_nan():
    stored = xr.DataArray(np.array([[2, 3], [255, 200]], "u1"), dims=("y", "x"), name="t", attrs={
        "standard_name": "air_temperature", "units": "K", "scale_factor": 100.0, "_FillValue": 255,
        "valid_max": np.uint8(100)})  # fmt: skip
    found = find_channel(stored.to_dataset(), "air_temperature")
    np.testing.assert_array_equal(found, [[200, 300], [np.nan, np.nan]])
