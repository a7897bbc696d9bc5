"""Every unit that precipitation is stored in becomes mm h-1 and comes back."""

import re

import numpy as np
import pytest
import xarray as xr
from rain_fields import frames
from rounding import assert_close

import xnowcast  # noqa: F401  (registers the accessor)
from xnowcast.fields import cf, units

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
    return frames(values, minutes=10, units=unit).drop_attrs().assign_attrs(units=unit, **attrs)


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
    assert_close(fc[0, 0], dbz()[-1], equal_nan=True)
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


def test_equal_fields_make_equal_tasks():
    from dask.base import tokenize

    one, other = (cf.find_field(radar()).conversion for _ in range(2))
    assert one == other and tokenize(one) == tokenize(other)


def test_lengths_in_km():
    assert units.length_in_km("km") == 1.0 and units.length_in_km("meters") == 0.001
    assert units.length_in_km(None) is None and units.length_in_km("degrees") is None


# ---------------------------------------------------------------- what cannot be, and what is declared


@pytest.mark.parametrize(
    ("unit", "stored", "bound"),
    [
        ("mm h-1", 9.96921e36, "2000"),
        ("mm h-1", 65535, "2000"),
        ("mm h-1", 9999.0, "2000"),
        ("kg m-2 s-1", 1.0, "0.5556"),
        ("mm", 655.35, "180.2"),  # in ten minutes: 422 mm * (1/6)**0.475
        ("dBZ", 95.5, "90"),
        ("dBZ", 255.0, "90"),
        ("dBZ", 9.96921e36, "90"),
        ("kg m-2", 999.0, "180.2"),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_more_than_ever_fell_is_refused_with_the_variable_and_the_remedy(unit, stored, bound, lazy):
    values = np.zeros((3, 8, 9))
    values[0, 0, 0] = stored
    field = radar(values, unit)
    message = rf"'rr' goes up to {re.escape(f'{stored:g}')} .*{bound}.*ds\.where\(ds <= {bound}\)"
    with pytest.raises(ValueError, match=message):
        cf.rain_rate(field.chunk(time=1) if lazy else field).compute()


@pytest.mark.parametrize(("unit", "stored"), [("mm h-1", 1999.0), ("mm", 170.0), ("dBZ", 89.5)])
def test_the_heaviest_rain_there_is_is_read(unit, stored):
    read = cf.rain_rate(radar(np.full((3, 8, 9), stored), unit))
    assert np.isfinite(read).all() and (read > 0).all()


def test_rain_from_reflectivity_may_be_what_hail_makes_of_it():
    rain = cf.rain_rate(radar(np.full((3, 8, 9), 85.0), "dBZ"))
    assert float(rain[0, 0, 0]) > units.HIGHEST_RAIN_RATE
    np.testing.assert_array_equal(cf.rain_rate(rain), rain)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_little_negative_rain_is_dry_with_one_warning_that_counts_it(lazy):
    values = np.full((3, 40, 50), 2.0, "f4")
    values[1, 3, :17] = -0.6
    field = radar(values)
    with pytest.warns(UserWarning, match=r"'rr' has negative rain, down to -0.6 .* in 17 of \d+ cells") as warned:
        read = cf.rain_rate(field.chunk(time=1, y=-1) if lazy else field).compute()
    assert len(warned) == 1
    np.testing.assert_array_equal(read, np.maximum(values, 0))


def test_a_little_negative_rain_in_every_block_is_told_once():
    values = np.full((6, 20, 20), 2.0, "f4")
    values[:, 0, 0] = -0.6
    with pytest.warns(UserWarning, match="negative rain") as warned:
        persisted(radar(values), init_times="all")
    assert len(warned) == 1


@pytest.mark.parametrize(("share", "value"), [(0.02, -0.6), (0.001, -9.0), (1.0, -0.5)])
def test_much_or_deep_negative_rain_is_refused_however_it_is_cut(share, value):
    values = np.full((3, 40, 50), 2.0, "f4")
    values[1].flat[: int(share * 2000)] = value
    for chunks in ({"time": -1}, {"time": 1}):
        for order in (("time", "y", "x"), ("x", "y", "time")):
            with pytest.raises(ValueError, match=r"the field has negative rain.*set dry with a warning"):
                cf.rain_rate(radar(values).transpose(*order).chunk(chunks)).compute()


DECLARED = [
    {"valid_max": 3},
    {"valid_max": np.float64(3.0)},
    {"valid_range": [0.0, 3.0]},
    {"valid_min": 0, "valid_max": np.array([3.0])},
    {"missing_value": 5.0},
    {"missing_value": np.array([7.0, 5.0])},
    {"_FillValue": 7.0, "missing_value": 5.0},
    {"_FillValue": "5"},
]


@pytest.mark.parametrize("attrs", DECLARED)
@pytest.mark.parametrize("lazy", [False, True])
def test_what_is_declared_missing_is_not_measured(attrs, lazy):
    values = np.full((3, 8, 9), 1.0, "f4")
    values[:, 2, 3] = 5.0
    field = radar(values, **attrs)
    read = cf.rain_rate(field.chunk() if lazy else field)
    assert np.isnan(read[:, 2, 3]).all() and read.isnull().sum() == 3
    assert not {*attrs} & {*read.attrs}
    fc = persisted(field)
    assert np.isnan(fc[..., 2, 3]).all() and not {*attrs} & {*fc.attrs}


def test_a_missing_value_in_another_precision_is_found():
    values = np.full((3, 8, 9), 1.0, "f4")
    values[:, 2, 3] = 1e20
    field = radar(values, missing_value=np.float64(1e20))
    assert cf.rain_rate(field).isnull().sum() == 3
    opened = xr.decode_cf(field.to_dataset()).rr  # xarray compares in double precision, and finds none
    assert cf.rain_rate(opened).isnull().sum() == 3


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize(
    ("limit", "seen"),
    [
        ({"valid_range": np.array([2, 20], "i2")}, [False, True, True, False]),  # packed units: 0.5 to 9.5 mm/h
        ({"valid_max": np.array(5.0, "f8")}, [True, True, False, False]),  # another type: unpacked
        ({"valid_min": np.array(3, "i2")}, [False, True, True, True]),
    ],
)
def test_a_valid_range_is_in_packed_units_where_its_type_is_theirs(tmp_path, decode, limit, seen):
    path = tmp_path / "packed.nc"
    stored = np.tile(np.array([1, 3, 20, 30], "i2"), (3, 8, 2))
    field = radar(stored, scale_factor=0.5, add_offset=-0.5, **limit)
    field.to_dataset().drop_attrs(deep=False).to_netcdf(path)
    with xr.open_dataset(path, mask_and_scale=decode) as opened:
        read = cf.rain_rate(opened.rr)
    assert read.notnull()[0, 0, :4].values.tolist() == seen
    expected = np.where(seen, stored[0, 0, :4] * 0.5 - 0.5, np.nan)
    np.testing.assert_allclose(read[0, 0, :4], expected, rtol=1e-6)


def test_a_valid_range_that_was_left_over_from_packing_is_no_range_of_the_values():
    field = dbz(valid_range=np.array([0, 254], "u1"))
    np.testing.assert_allclose(cf.rain_rate(field), RAIN, rtol=1e-4)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"scale_factor": "x"}, "scale_factor of variable 'rr' is 'x'; it must be a number"),
        ({"scale_factor": 0.0}, "scale_factor of variable 'rr' is 0.0, which packs nothing"),
        ({"add_offset": np.nan}, "add_offset of variable 'rr' is nan"),
        ({"add_offset": 1j}, "add_offset of variable 'rr' is 1j; it must be a number"),
        ({"_FillValue": "none"}, "_FillValue of variable 'rr' is 'none'"),
        ({"missing_value": [None, 3]}, "missing_value of variable 'rr' is .*; it must be numbers"),
        ({"valid_range": [1.0]}, r"valid_range of variable 'rr' is \[1.0\]; it must be 2 numbers"),
        ({"valid_range": [5.0, 1.0]}, "valid range of variable 'rr' is from 5 to 1"),
        ({"valid_max": True}, "valid_max of variable 'rr' is True"),
        ({"standard_name": np.array(["a", "b"])}, "standard_name of variable 'rr'"),
    ],
)
def test_attributes_that_cannot_be_read_are_refused_by_name(attrs, message):
    with pytest.raises(ValueError, match=message):
        cf.find_field(radar(**attrs))


@pytest.mark.parametrize("attrs", [{"zerovalue": "x"}, {"zr_a": [1, 2], "zr_b": 1.6}])
def test_attributes_of_reflectivity_that_cannot_be_read_are_refused_by_name(attrs):
    with pytest.raises(ValueError, match=f"{next(iter(attrs))} of variable 'rr' is .*; it must be a number"):
        cf.find_field(dbz(**attrs))


# ---------------------------------------------------------------- units as text


@pytest.mark.parametrize(
    "unit",
    ["mm h⁻¹", "mm·h-1", "mm⋅h⁻¹", "mm h−1", "mm\u00a0h-1", "mm.h-1", "mm h^{-1}", "mm/hr", b"mm h-1",
     np.array(["mm h-1"]), ["mm/h"]],
)  # fmt: skip
def test_units_are_read_in_any_spelling_and_type(unit):
    np.testing.assert_allclose(cf.rain_rate(radar(RAIN.astype("f4"), unit)), RAIN, rtol=1e-6)


@pytest.mark.parametrize("unit", ["dBz", "DBZ", " dbz ", b"dBZ"])
def test_reflectivity_is_known_in_any_spelling(unit):
    np.testing.assert_allclose(cf.rain_rate(dbz().assign_attrs(units=unit)), RAIN, rtol=1e-4)


@pytest.mark.parametrize(
    "unit",
    ["mm**9**9**9**9", "(9**9**9**9)*mm/h", "9⁹⁹⁹⁹⁹⁹⁹ mm", "mm^(9^(9^9))", "((99**99)**99)**99 mm", "mm**9999999999",
     "1e308 mm h-1", "(" * 500 + "mm" + ")" * 500],
)  # fmt: skip
def test_towers_of_powers_are_no_units_and_keep_nobody_waiting(unit):
    with pytest.raises(ValueError, match="which are unknown; known are rates"):
        cf.find_field(radar(unit=unit))


@pytest.mark.parametrize("unit", [np.array(["a", "b"]), ["mm", "h"], True])
def test_units_that_are_no_text_are_refused_by_name(unit):
    with pytest.raises(ValueError, match=r"the attribute units of variable 'rr' is .*; it must be text"):
        cf.find_field(radar(unit=unit))


# ---------------------------------------------------------------- Z-R relations


@pytest.mark.parametrize(
    ("name", "relation"),
    [("marshall-palmer", (200, 1.6)), ("HKO-7", (58.53, 1.56)), ("wsr_88d", (300, 1.4)), ("dwd", (256, 1.42))],
)
def test_a_relation_may_be_named_wherever_it_may_be_given(name, relation):
    named, given = cf.rain_rate(dbz(), zr=name), cf.rain_rate(dbz(), zr=relation)
    xr.testing.assert_identical(named, given)
    assert persisted(dbz(), zr=name).attrs["zr_a"] == relation[0]


@pytest.mark.parametrize("zr", ["nobody", (True, 1.6), ("200", "1.6"), (200, 1j), {"a": 200}])
def test_relations_that_are_none_are_refused(zr):
    with pytest.raises(ValueError, match=r"must be the two numbers of Z = a R.*or one of 'marshall-palmer'"):
        cf.find_field(dbz(), zr=zr)
