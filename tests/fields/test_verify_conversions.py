"""Pixels, reflectivity, rain rate and liquid: the numbers of the benchmarks, round trips, units, laziness."""

import dask
import numpy as np
import pytest
import xarray as xr

import xnowcast
from xnowcast.fields import pixels as conv
from xnowcast.verify.thresholds import THRESHOLD_SETS, threshold_coordinate

# ---------------------------------------------------------------- SEVIR


def test_liquid_of_sevir_pixels():
    pixels = np.array([0, 5, 18, 16, 74, 133, 160, 181, 219], dtype="float64")
    expected = [0, 0, 0.176484, 0.154423, 0.775303, 3.5332, 7.0733, 12.1362, 32.2335]
    np.testing.assert_allclose(conv.sevir_pixel_to_vil(pixels), expected, rtol=2e-4)
    assert conv.sevir_pixel_to_vil(np.array([18.0]))[0] == pytest.approx(0.176484, abs=1e-6)
    assert conv.sevir_pixel_to_vil(np.array([219.0]))[0] == pytest.approx(32.2335, abs=1e-4)


def test_the_branches_of_sevir_do_not_meet():
    below, above = conv.sevir_pixel_to_vil(np.array([18.0, np.nextafter(18.0, 19.0)]))
    assert (below, above) == pytest.approx((0.1765, 0.1838), abs=5e-5)
    between = np.linspace(below, above, 9)[1:-1]
    np.testing.assert_array_equal(conv.vil_to_sevir_pixel(between), 18.0)


def test_255_is_missing_in_sevir():
    for dtype in ("uint8", "int16", "float32", "float64"):
        vil = conv.sevir_pixel_to_vil(np.array([254, 255], dtype))
        assert vil[0] > 79 and np.isnan(vil[1])
    assert np.isnan(conv.sevir_pixel_to_vil(np.array([np.nan, 300.0]))).all()


def test_sevir_pixels_come_back():
    pixels = np.arange(256, dtype="uint8")
    back = conv.vil_to_sevir_pixel(conv.sevir_pixel_to_vil(pixels), rounding="nearest")
    np.testing.assert_array_equal(back, [0] * 6 + list(range(6, 255)) + [np.nan])
    fractions = np.array([5.5, 17.3, 18.7, 100.25])
    np.testing.assert_allclose(conv.vil_to_sevir_pixel(conv.sevir_pixel_to_vil(fractions)), fractions, rtol=1e-12)


def test_liquid_beyond_the_pixels_is_the_nearest_pixel():
    np.testing.assert_array_equal(
        conv.vil_to_sevir_pixel(np.array([-1.0, 0, 0.001, 1e6, np.inf, np.nan])), [0, 0, 5, 254, 254, np.nan]
    )


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_a_pixel_reaches_a_named_threshold_where_its_liquid_does(dtype):
    pixels = np.arange(255).astype(dtype)
    vil = xr.DataArray(conv.sevir_pixel_to_vil(pixels), dims="x", attrs={"units": "kg m-2"})
    of_vil = threshold_coordinate("sevir", vil).values.astype(vil.dtype)
    of_pixels = THRESHOLD_SETS["sevir"].values["count"]
    for vil_threshold, pixel_threshold in zip(of_vil, of_pixels, strict=True):
        np.testing.assert_array_equal(vil.values >= vil_threshold, pixels >= pixel_threshold)


# ---------------------------------------------------------------- reflectivity and rain


@pytest.mark.parametrize(
    ("zr", "shares"),
    [
        ("hko-7", [0.328253, 0.462426, 0.551110, 0.618197, 0.724527]),
        ("dwd-12", [0.425825, 0.547958, 0.628682, 0.689749, 0.786536]),
    ],
)
def test_pixels_of_rain_rates(zr, shares):
    rates = np.array([0.5, 2, 5, 10, 30])
    dbz = conv.rain_rate_to_dbz(rates, zr=zr)
    np.testing.assert_allclose(conv.dbz_to_pixel(dbz, scale=zr.replace("-", "")) / 255, shares, atol=5e-7)
    assert dbz[-1] == pytest.approx({"hko-7": 40.717, "dwd-12": 45.058}[zr], abs=5e-4)
    np.testing.assert_allclose(conv.dbz_to_rain_rate(dbz, zr=zr), rates, rtol=1e-12)


def test_the_scale_of_equation_9_of_db_rnn():
    dbz = conv.rain_rate_to_dbz(np.array([0.5, 2, 5, 10, 30]), zr="hko-7")
    assert conv.dbz_to_pixel(dbz, scale=(60, 0), rounding="floor").tolist() == [55, 95, 121, 141, 173]


def test_pixels_of_hko7_that_stldm_scores():
    pixels = conv.dbz_to_pixel(conv.rain_rate_to_dbz(np.array([0.5, 2, 5, 10, 30]), zr="hko-7"))
    np.testing.assert_allclose(pixels, [83.7, 117.9, 140.5, 157.6, 184.8], atol=0.05)


def test_pixels_of_meteonet():
    np.testing.assert_allclose(conv.dbz_to_pixel(np.array([18.0]), scale="meteonet"), [65.571], atol=1e-3)
    np.testing.assert_allclose(
        conv.pixel_to_dbz(np.array([0.0, 44, 255]), scale="meteonet"), [0, 12.078, 70], atol=1e-3
    )


@pytest.mark.parametrize("scale", ["hko7", "meteonet", (60, 0)])
def test_reflectivity_pixels_come_back(scale):
    pixels = np.arange(256, dtype="uint8")
    back = conv.dbz_to_pixel(conv.pixel_to_dbz(pixels, scale=scale), scale=scale, rounding="nearest")
    np.testing.assert_array_equal(back, pixels)


def test_reflectivity_outside_the_scale_is_clipped():
    assert conv.dbz_to_pixel(np.array([-32.0, 90.0])).tolist() == [0, 255]
    assert conv.pixel_to_dbz(np.array([-3.0, 300.0])).tolist() == [-10, 60]


@pytest.mark.parametrize("zr", [None, "hko-7", (316, 1.5)])
@pytest.mark.parametrize("attrs", [{}, {"zr_a": 300.0, "zr_b": 1.4}, {"zerovalue": -10.0}])
def test_reflectivity_is_the_same_rain_everywhere(zr, attrs):
    values = np.array([[-40.0, -32.0, -31.8, -31.7, -10.0, 0.0, 40.0, np.nan]]).repeat(8, axis=0)
    dbz = xr.DataArray(values, dims=("y", "x"), name="z", attrs={"units": "dBZ", **attrs})
    read, converted = xnowcast.rain_rate(dbz, zr=zr), conv.dbz_to_rain_rate(dbz, zr=zr)
    np.testing.assert_allclose(converted, read, rtol=1e-5)
    assert {k: converted.attrs[k] for k in ("zr_a", "zr_b", "units")} == {
        k: read.attrs[k] for k in ("zr_a", "zr_b", "units")
    }
    back = conv.rain_rate_to_dbz(converted)
    np.testing.assert_allclose(back[:, -3:], dbz[:, -3:], atol=1e-5)


def test_40_dbz_is_11_5_mm_by_default():
    assert conv.dbz_to_rain_rate(np.array([40.0])) == pytest.approx([11.53], abs=0.01)
    assert conv.dbz_to_rain_rate(np.array([40.0]), zr="hko-7") == pytest.approx([26.99], abs=0.01)


def test_no_rain_is_no_echo():
    assert conv.rain_rate_to_dbz(np.array([0.0, -0.001])).tolist() == [-32, -32]
    assert conv.dbz_to_rain_rate(np.array([-32.0, -np.inf])).tolist() == [0, 0]


def test_amounts_of_five_minutes():
    assert conv.amount_to_rain_rate(np.array([0.01, 2.5])).tolist() == pytest.approx([0.12, 30])
    assert conv.rain_rate_to_amount(np.array([0.12, 30])).tolist() == pytest.approx([0.01, 2.5])


# ---------------------------------------------------------------- what holds for all

EVERY = [
    (conv.sevir_pixel_to_vil, "count", "kg m-2"),
    (conv.vil_to_sevir_pixel, "kg m-2", "count"),
    (conv.pixel_to_dbz, "count", "dBZ"),
    (conv.dbz_to_pixel, "dBZ", "count"),
    (conv.dbz_to_rain_rate, "dBZ", "mm h-1"),
    (conv.rain_rate_to_dbz, "mm h-1", "dBZ"),
    (conv.amount_to_rain_rate, "mm", "mm h-1"),
    (conv.rain_rate_to_amount, "mm h-1", "mm"),
]


@pytest.mark.parametrize(("convert", "before", "after"), EVERY, ids=lambda v: getattr(v, "__name__", v))
def test_kind_dtype_and_attributes(convert, before, after):
    numbers = np.array([[0.0, 7, 40], [100, 254, np.nan]])
    expected = convert(numbers)
    assert expected.dtype == np.float64 and np.isnan(expected[1, 2])
    assert convert(numbers.astype("f4")).dtype == np.float32
    attrs = {"units": before, "long_name": "old", "valid_max": 255, "grid_mapping": "crs"}
    field = xr.DataArray(numbers, dims=("y", "x"), coords={"x": [1, 2, 3]}, name="field", attrs=attrs)
    found = convert(field)
    np.testing.assert_array_equal(found, expected)
    assert found.attrs["units"] == after and found.attrs["long_name"] != "old"
    assert "valid_max" not in found.attrs and found.attrs["grid_mapping"] == "crs"
    assert found.name == "field" and found.x.values.tolist() == [1, 2, 3]
    assert field.attrs == attrs and np.array_equal(field, numbers, equal_nan=True)


@pytest.mark.parametrize(("convert", "before", "after"), EVERY, ids=lambda v: getattr(v, "__name__", v))
def test_lazy_stays_lazy(convert, before, after, nothing_may_run):
    numbers = np.arange(12.0, dtype="f4").reshape(3, 4)
    field = xr.DataArray(numbers, dims=("y", "x"), attrs={"units": before}).chunk(y=1)
    with nothing_may_run:
        lazy, bare = convert(field), convert(field.data)
    assert dask.is_dask_collection(lazy.data) and lazy.dtype == np.float32
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), convert(numbers))
    np.testing.assert_array_equal(bare.compute(scheduler="sync"), convert(numbers))


@pytest.mark.parametrize(("convert", "before", "after"), EVERY, ids=lambda v: getattr(v, "__name__", v))
def test_other_units_are_refused(convert, before, after):
    with pytest.raises(ValueError, match=f"field has units 'K', and this converts from '{before}'"):
        convert(xr.DataArray([1.0], dims="x", name="field", attrs={"units": "K"}))


def test_bytes_convert_as_their_numbers_do():
    pixels = np.arange(256)
    for convert in (conv.sevir_pixel_to_vil, conv.pixel_to_dbz):
        of_bytes = convert(pixels.astype("uint8"))
        assert of_bytes.dtype == np.float32
        np.testing.assert_array_equal(of_bytes, convert(pixels.astype("float32")))


def test_the_product_of_the_conversions_is_scored_as_liquid():
    vil = conv.sevir_pixel_to_vil(xr.DataArray(np.zeros((4, 4), "u1"), dims=("y", "x"), name="vil"))
    from xnowcast.fields.cf import find_field

    assert find_field(vil).quantity == "vil"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: conv.pixel_to_dbz(a, scale="hko"), "scale='hko' is unknown; there are 'hko7', 'dwd12', 'meteonet'"),
        (lambda a: conv.dbz_to_pixel(a, scale=(0, 1)), "the first above 0"),
        (lambda a: conv.dbz_to_pixel(a, rounding="up"), "rounding='up' is unknown"),
        (lambda a: conv.dbz_to_rain_rate(a, zr=(200, 1.6, 3)), "must be the two numbers of Z = a R"),
        (lambda a: conv.rain_rate_to_dbz(a, zr="marshall"), "zr='marshall' is unknown"),
        (lambda a: conv.amount_to_rain_rate(a, minutes=0), "must be above 0"),
    ],
)
def test_impossible_options_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones(2))
