"""Every unit that precipitation is stored in becomes mm h-1 and comes back."""

import numpy as np
import pytest
import xarray as xr

import xnowcast  # noqa: F401  (registers the accessor)
from xnowcast import cf, units

RAIN = np.random.default_rng(1).gamma(0.5, 4, (3, 8, 9))  # mm h-1
RAIN[RAIN < 0.01] = 0.0  # below what dBZ can tell from dry
RAIN[1:, 1, 1] = np.nan

# Ten minutes between frames: 1 mm h-1 is 1/6 mm a frame.
PER_MM_H = {
    "mm/h": 1.0,
    "mm h-1": 1.0,
    "mm hr-1": 1.0,
    "mm h**-1": 1.0,
    "kg m-2 h-1": 1.0,
    "kg m-2 s-1": 1 / 3600,
    "kg/m^2/s": 1 / 3600,
    "m s-1": 1 / 3.6e6,
    "mm/day": 24.0,
    "mm": 1 / 6,
    "kg m-2": 1 / 6,
    "m": 1 / 6000,
}


def radar(values=RAIN, unit="mm h-1", **attrs) -> xr.DataArray:
    times = np.datetime64("2024-06-01T12:00", "ns") + np.arange(len(values)) * np.timedelta64(10, "m")
    return xr.DataArray(values, {"time": times}, ("time", "y", "x"), "rr", {"units": unit} | attrs)


def persisted(field, **options):
    return field.nowcast.forecast("persistence", steps=2, **options)


@pytest.mark.parametrize("unit", PER_MM_H)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_every_unit_is_read_as_mm_per_hour(unit, dtype):
    read = cf.rain_rate(radar((RAIN * PER_MM_H[unit]).astype(dtype), unit))
    assert read.dtype == "f4" and read.attrs["units"] == "mm h-1"
    np.testing.assert_allclose(read, RAIN, rtol=1e-5)


@pytest.mark.parametrize("unit", PER_MM_H)
def test_a_forecast_is_in_the_users_own_units(unit):
    field = radar(RAIN * PER_MM_H[unit], unit, long_name="my rain", source="my radar")
    fc = persisted(field)
    np.testing.assert_allclose(fc[0, 1], field[-1], rtol=1e-6)
    assert fc.name == "rr" and field.attrs.items() <= fc.attrs.items()


@pytest.mark.parametrize("unit", PER_MM_H)
def test_a_forecast_is_read_back_as_the_same_rain(unit):
    fc = persisted(radar(RAIN * PER_MM_H[unit], unit))
    np.testing.assert_allclose(cf.rain_rate(fc)[0, 0], RAIN[-1], rtol=1e-5)


@pytest.mark.parametrize("unit", ["mm", "kg m-2", "m"])
def test_a_lead_time_picked_out_of_a_forecast_of_amounts_is_still_the_same_rain(unit):
    fc = radar(RAIN * PER_MM_H[unit], unit).nowcast.forecast("persistence", steps=6)
    for part in (fc.isel(lead_time=[5]), fc.isel(lead_time=5), fc.isel(lead_time=[2, 5])):
        np.testing.assert_allclose(cf.rain_rate(part), np.broadcast_to(RAIN[-1], part.shape), rtol=1e-5)


def test_the_step_of_an_amount_is_the_step_of_its_times_gaps_or_not():
    frames = np.ones((4, 8, 9))
    times = np.datetime64("2024-06-01", "ns") + np.array([0, 5, 10, 25]) * np.timedelta64(1, "m")
    np.testing.assert_allclose(cf.rain_rate(radar(frames, "mm").assign_coords(time=times)), 12.0)
    tied = times + np.array([0, 0, 15, 15]) * np.timedelta64(1, "m")  # 0, 5, 25, 40
    np.testing.assert_allclose(cf.rain_rate(radar(frames, "mm").assign_coords(time=tied)), 12.0)


def test_accutime_tells_the_step_where_times_cannot():
    one = radar(np.ones((1, 8, 9)), "mm")
    with pytest.raises(ValueError, match="an amount becomes a rate only with a time step"):
        cf.find_field(one)
    np.testing.assert_allclose(cf.rain_rate(one.assign_attrs(accutime=5)), 12.0)
    with pytest.raises(
        ValueError, match=r"an amount of 5 min by its attribute accutime, but its times are 10 min apart"
    ):
        cf.find_field(radar(RAIN, "mm", accutime=5))


@pytest.mark.parametrize("unit", [None, "", "  "])
def test_no_units_is_an_error_that_says_what_to_set(unit):
    with pytest.raises(ValueError, match=r"'rr' has no units; .*ds\['rr'\].attrs\['units'\] = 'mm h-1'"):
        cf.find_field(radar(unit=unit))


@pytest.mark.parametrize("unit", ["bananas", "dBR", "mm/5min", "mm/h (log)"])
def test_unknown_units_are_never_guessed(unit):
    with pytest.raises(ValueError, match="which are unknown; known are rates"):
        cf.find_field(radar(unit=unit))


@pytest.mark.parametrize("unit", ["K", "1", "%", "kg", "h", "kg s-1", "mm h", "m-1", "dB", "m2 s-2"])
def test_units_of_something_else_are_refused(unit):
    with pytest.raises(ValueError, match="no precipitation's"):
        cf.find_field(radar(unit=unit))


# ---------------------------------------------------------------- reflectivity


def dbz(rain=RAIN, a=200.0, b=1.6, dry=-32.0, **attrs) -> xr.DataArray:
    with np.errstate(divide="ignore"):
        values = 10 * np.log10(a * rain**b)
    return radar(np.where(rain == 0, dry, values), "dBZ", standard_name="equivalent_reflectivity_factor", **attrs)


def test_reflectivity_is_read_by_marshall_palmer_unless_said():
    read = cf.rain_rate(dbz())
    np.testing.assert_allclose(read, RAIN, rtol=1e-4)
    assert (read.attrs["zr_a"], read.attrs["zr_b"], read.attrs["units"]) == (200.0, 1.6, "mm h-1")
    assert read.attrs["standard_name"] == "rainfall_rate"


def test_zr_comes_from_the_argument_then_the_attributes_then_the_default():
    np.testing.assert_allclose(cf.rain_rate(dbz(a=316, b=1.5, zr_a=316, zr_b=1.5)), RAIN, rtol=1e-4)
    np.testing.assert_allclose(cf.rain_rate(dbz(a=256, b=1.42, zr_a=316, zr_b=1.5), zr=(256, 1.42)), RAIN, rtol=1e-4)
    one_alone = dbz(zr_a=316)
    np.testing.assert_allclose(cf.rain_rate(one_alone), RAIN, rtol=1e-4)


@pytest.mark.parametrize("zr", [None, (316, 1.5)])
def test_a_reflectivity_forecast_is_reflectivity_and_says_how_it_was_read(zr):
    fc = persisted(dbz(), zr=zr)
    np.testing.assert_allclose(fc[0, 0], dbz()[-1], rtol=1e-5)
    assert fc.attrs["units"] == "dBZ" and fc.attrs["standard_name"] == "equivalent_reflectivity_factor"
    assert (fc.attrs["zr_a"], fc.attrs["zr_b"]) == (zr or (200.0, 1.6))
    np.testing.assert_allclose(cf.rain_rate(fc)[0, 0], cf.rain_rate(dbz(), zr=zr)[-1], rtol=1e-5)


@pytest.mark.parametrize(
    ("dry", "attrs", "written"),
    [
        (-32.0, {}, -32.0),
        (-np.inf, {}, -32.0),
        (-32.5, {}, -32.0),
        (-99.0, {}, -32.0),
        (-10.0, {"zerovalue": -10.0}, -10.0),
        (-32.0, {"zerovalue": np.nan}, -32.0),
    ],
)
def test_dry_reflectivity_is_dry_and_is_written_as_no_echo(dry, attrs, written):
    field = dbz(np.zeros((3, 8, 9)), dry=dry, **attrs)
    assert (cf.rain_rate(field) == 0).all()
    np.testing.assert_array_equal(persisted(field), np.float32(written))


def test_a_fill_value_nobody_declared_is_not_taken_for_dry():
    field = dbz()
    field[0, 0, 0] = -9999.0
    with pytest.raises(ValueError, match=r"-9999 dBZ, which no radar measures.*_FillValue to -9999"):
        cf.rain_rate(field)
    with pytest.raises(ValueError, match="reflectivity is infinite"):
        cf.rain_rate(dbz().where(dbz() < 20, np.inf))


@pytest.mark.parametrize("zr", [200, (200,), (200, 1.6, 3), "200", ("a", "b")])
def test_zr_that_is_no_pair_of_numbers_is_refused(zr):
    with pytest.raises(ValueError, match="must be the two numbers of Z = a R"):
        cf.find_field(dbz(), zr=zr)


@pytest.mark.parametrize("zr", [(0, 1.6), (200, -1), (np.nan, 1.6)])
def test_zr_that_is_no_relation_is_refused(zr):
    with pytest.raises(ValueError, match="no Z-R relation: both numbers must be above 0"):
        cf.find_field(dbz(), zr=zr)


def test_zr_for_a_rain_rate_is_refused():
    with pytest.raises(ValueError, match=r"zr=\(200, 1.6\) is for fields in dBZ; variable 'rr' has units 'mm h-1'"):
        cf.find_field(radar(), zr=(200, 1.6))


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("unit", "stored"), [("mm h-1", -1.0), ("kg m-2 s-1", -1.0), ("mm", -9999.0), ("mm h-1", -np.inf)]
)
def test_negative_rain_is_refused_in_the_users_own_numbers(unit, stored):
    field = radar(np.where(RAIN == 0, stored, RAIN), unit)
    with pytest.raises(ValueError, match=f"negative rain, down to {stored:g} in its own units.*must be NaN"):
        cf.rain_rate(field)


def test_rounding_below_zero_is_dry_and_infinite_rain_is_refused():
    assert (cf.rain_rate(radar(np.full((3, 8, 9), -1e-6))) == 0).all()
    with pytest.raises(ValueError, match="infinite somewhere"):
        cf.rain_rate(radar(np.where(RAIN == 0, np.inf, RAIN)))


def test_conversion_is_lazy():
    lazy = radar(np.full((3, 8, 9), -5.0)).chunk(time=1)
    read = cf.rain_rate(lazy)  # negative, so computing it would raise
    assert read.chunks is not None and read.dtype == "f4"


@pytest.mark.parametrize(
    ("raw", "packing", "unit", "real"),
    [
        (
            [[0, 255], [10, 20]],
            {"scale_factor": 0.5, "add_offset": -32.0, "_FillValue": 255},
            "dBZ",
            [[-32, np.nan], [-27, -22]],
        ),
        ([[0, 65535], [1, 3]], {"scale_factor": 0.01, "missing_value": 65535}, "mm h-1", [[0, np.nan], [0.01, 0.03]]),
    ],
)
def test_packed_integers_that_were_opened_without_decoding_are_decoded(raw, packing, unit, real):
    packing = {k: np.asarray(v, "u2" if isinstance(v, int) else "f4")[()] for k, v in packing.items()}
    stored = radar(np.tile(np.array(raw, "u2"), (3, 4, 4)), unit, **packing)
    np.testing.assert_allclose(cf.find_field(stored).array[0, :2, :2], real, rtol=1e-6)
    fc = persisted(stored)
    np.testing.assert_allclose(fc[0, 0, :2, :2], real, rtol=1e-5)
    assert not packing.keys() & fc.attrs.keys()


def test_integers_without_packing_are_plain_numbers():
    np.testing.assert_array_equal(persisted(radar(np.full((3, 8, 9), 7, "i2"))), 7.0)


def test_lengths_in_km():
    assert units.length_in_km("km") == 1.0 and units.length_in_km("meters") == 0.001
    assert units.length_in_km(None) is None and units.length_in_km("degrees") is None
