"""Readers of raw radar products: tiny files with known values, damaged files, and the real events."""

import gzip
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xnowcast import io
from xnowcast.data import storage
from xnowcast.io.files import decode, path_list
from xnowcast.io.grid import Frame, LocalGrid, to_dataset

pytest.importorskip("pyproj")
h5py = pytest.importorskip("h5py")
Image = pytest.importorskip("PIL.Image")

PLANE = "+proj=laea +lat_0=55 +lon_0=10 +x_0=1000 +y_0=2000 +ellps=WGS84"
NAN = np.nan


# ---- tiny files, written here -------------------------------------------------------------------------------------


def write_pgm(
    path: Path, pixels, *, obstime="201609281445", type_="stereographic", mpp=1000.0, param="CorrectedReflectivity"
) -> Path:
    """A PGM whose lower left corner is the pole, the origin of its plane; y grows away from longitude 25."""
    pixels = np.asarray(pixels, np.uint8)
    header = f"""P5
# obstime {obstime}
# param {param}
# metersperpixel_x {mpp}
# metersperpixel_y {mpp}
# type {type_}
# centrallongitude 25
# centrallatitude 90
# truelatitude 60
# bottomleft 25 90
# topright 25 90
{pixels.shape[1]} {pixels.shape[0]}
255
"""
    path.write_bytes(header.encode() + pixels.tobytes())
    return path


def write_gif(
    path: Path, classes, *, stamp="151351545", scale="mmh2LASSEN8bitmm_mn", product="AQC", length="ACCUm=000005"
) -> Path:
    picture = np.zeros((640, 710), np.uint8)
    picture[0, : len(classes)] = classes
    note = f"PRDT={product}{stamp} SCALE={scale} {length}" if stamp else "no words"
    Image.fromarray(picture).save(path, format="GIF", comment=note, optimize=False)
    return path


STEREO = "+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378.137 +b=6356.752"


def write_knmi(
    path: Path,
    *images,
    end="26-AUG-2010;00:00:00.000",
    parameters=("ACCUMULATED_PRECIPITATION_[MM]",),
    plane=STEREO,
    valid=(),
    calibration=None,
    **geographic,
):
    """Each image is stored counts; the last of the parameters is that of all further images."""
    with h5py.File(path, "w") as file:
        file.create_group("overview").attrs.update(
            product_datetime_start="25-AUG-2010;23:55:00.000", product_datetime_end=np.bytes_(end)
        )
        file.create_group("geographic/map_projection").attrs.update(projection_proj4_params=plane)
        file["geographic"].attrs.update(
            {
                "geo_column_offset": [10.0],
                "geo_row_offset": [3650.0],
                "geo_pixel_size_x": [2.0],
                "geo_pixel_size_y": [-1.0],
                "geo_dim_pixel": b"KM,KM",
            }
            | geographic
        )
        for number, counts in enumerate(images):
            image = file.create_group(f"image{number + 1}")
            image.create_group("calibration").attrs.update(
                {
                    "calibration_formulas": b"GEO=0.01*PV+0.0",
                    "calibration_missing_data": [65535],
                    "calibration_out_of_image": [65535],
                }
                if calibration is None
                else calibration
            )
            image.attrs.update(image_geo_parameter=parameters[min(number, len(parameters) - 1)])
            if valid:
                image.attrs.update(image_datetime_valid=valid[number])
            image["image_data"] = np.array(counts, np.uint16)
    return path


def write_odim(path: Path, *datasets, date="20210704", time="155000", kind="COMP", where=None, how=None) -> Path:
    """Each dataset is (stored values, what attributes) and may have attributes of how and of its data's how."""
    with h5py.File(path, "w") as file:
        file.create_group("what").attrs.update(object=kind, date=date, time=time, source="ORG:247")
        shape = np.shape(datasets[0][0])
        file.create_group("where").attrs.update(
            {"projdef": PLANE, "xscale": 2000.0, "yscale": 1000.0, "xsize": shape[1], "ysize": shape[0]}
            | (where or {"LL_lon": 10.0, "LL_lat": 55.0})
        )
        if how:
            file.create_group("how").attrs.update(how)
        for number, (stored, what, *hows) in enumerate(datasets, start=1):
            file[f"dataset{number}/data1/data"] = np.asarray(stored)
            file.create_group(f"dataset{number}/what").attrs.update(what)
            for level, attributes in zip(("", "data1/"), hows, strict=False):
                file.create_group(f"dataset{number}/{level}how").attrs.update(attributes)
    return path


RATE = {"quantity": "RATE", "gain": 0.5, "offset": 1.0, "nodata": 255.0, "undetect": 254.0}


# ---- values and labels --------------------------------------------------------------------------------------------


def test_pgm_pixel_is_half_dbz_above_minus_32_and_255_is_missing(tmp_path):
    radar = io.open_fmi_pgm(write_pgm(tmp_path / "a.pgm", [[0, 64, 104, 255]], mpp=1e9))
    field = radar.equivalent_reflectivity_factor
    np.testing.assert_array_equal(field.values, [[[-32.0, 0.0, 20.0, NAN]]])
    assert field.dtype == np.float32 and field.attrs["units"] == "dBZ"
    assert radar.time.values == np.datetime64("2016-09-28T14:45")
    assert "time_bnds" not in radar


def test_gzipped_and_plain_pgm_are_the_same(shared_data, tmp_path):
    packed = sorted((shared_data / "raw/fmi_pgm").glob("*.gz"))[0]
    plain = tmp_path / packed.stem
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    np.testing.assert_array_equal(
        io.open_fmi_pgm(packed).equivalent_reflectivity_factor,
        io.open_fmi_pgm(plain).equivalent_reflectivity_factor,
    )


def test_gif_classes_are_half_db_steps_of_z_316_r_to_1_5(tmp_path):
    radar = io.open_mch_gif(write_gif(tmp_path / "a.gif", [0, 1, 71, 101, 121, 252, 255]))
    # class 71 is 10^(-0.5/20) / 316 to the power 2/3, in mm per 5 minutes; 30 classes are a factor 10
    dry_end = 12 * (10 ** (-0.5 / 20) / 316) ** (2 / 3)
    expected = [0, 0, dry_end, 10 * dry_end, 10 ** (5 / 3) * dry_end, NAN, NAN]
    np.testing.assert_allclose(radar.rainfall_rate.values[0, 0, :7], expected, rtol=1e-6)
    assert radar.time.values == np.datetime64("2015-05-15T15:45")
    assert (radar.time_bnds.values[0] == np.array(["2015-05-15T15:40", "2015-05-15T15:45"], "M8[ns]")).all()


def test_gif_time_comes_from_the_name_where_the_picture_has_no_words(tmp_path):
    radar = io.open_mch_gif(write_gif(tmp_path / "AQC161932350V_00005.801.gif", [0], stamp=None))
    assert radar.time.values == np.datetime64("2016-07-11T23:50")


def test_knmi_counts_are_hundredths_of_a_millimetre_in_5_minutes(tmp_path):
    radar = io.open_knmi_hdf5(write_knmi(tmp_path / "a.h5", [[0, 25, 65535], [1, 65534, 100]]))
    expected = [[[0, 3.0, NAN], [0.12, 65534 * 0.12, 12.0]]]
    np.testing.assert_allclose(radar.rainfall_rate.values, expected, rtol=1e-6)
    assert radar.x.values.tolist() == [21_000.0, 23_000.0, 25_000.0]
    assert radar.y.values.tolist() == [-3_650_500.0, -3_651_500.0]
    assert radar.crs.attrs["semi_major_axis"] == 6378137.0
    assert radar.time_bnds.values[0, 0] == np.datetime64("2010-08-25T23:55")


def test_odim_gain_offset_undetect_and_nodata_are_honoured(tmp_path):
    radar = io.open_odim(write_odim(tmp_path / "a.h5", (np.array([[254, 3, 255]], np.uint8), RATE)))
    np.testing.assert_array_equal(radar.rainfall_rate.values, [[[0.0, 2.5, NAN]]])
    assert radar.x.values.tolist() == [2000.0, 4000.0, 6000.0]  # the lower left corner is (1000, 2000)
    assert radar.y.values.tolist() == [2500.0]


def test_odim_without_gain_holds_physical_values_and_ul_counts_before_ll(tmp_path):
    where = {"UL_x": 0.0, "UL_y": 7000.0}
    radar = io.open_odim(write_odim(tmp_path / "a.h5", (np.array([[0.25, NAN]]), {"quantity": "RATE"}), where=where))
    np.testing.assert_array_equal(radar.rainfall_rate.values, [[[0.25, NAN]]])
    assert radar.y.values.tolist() == [6500.0]


def test_odim_reflectivity_is_minus_32_where_nothing_was_detected(tmp_path):
    what = {"quantity": "DBZH", "gain": 0.5, "offset": -32.0, "nodata": 255.0, "undetect": 0.0}
    stored = np.array([[0, 104, 255]], np.uint8)
    radar = io.open_odim(write_odim(tmp_path / "a.h5", (stored, what), how={"zr_a": 200.0, "zr_b": 1.6}))
    field = radar.equivalent_reflectivity_factor
    np.testing.assert_array_equal(field.values, [[[-32.0, 20.0, NAN]]])
    assert (field.attrs["zr_a"], field.attrs["zr_b"]) == (200.0, 1.6)


def test_odim_accumulation_ends_at_its_time_and_has_bounds(tmp_path):
    what = {
        "quantity": "ACRR",
        "startdate": "20210704",
        "starttime": "150000",
        "enddate": "20210704",
        "endtime": "160000",
    }
    radar = io.open_odim(write_odim(tmp_path / "a.h5", (np.array([[1.5]]), what)))
    assert radar.precipitation_amount.attrs["units"] == "kg m-2"
    assert radar.precipitation_amount.attrs["cell_methods"] == "time: sum"
    bounds = np.array([["2021-07-04T15:00", "2021-07-04T16:00"]], "M8[ns]")
    np.testing.assert_array_equal(radar.time_bnds, bounds)
    np.testing.assert_array_equal(radar.time, bounds[:, 1])


def test_odim_file_with_several_times_gives_several_frames_in_numeric_order(tmp_path):
    minutes = range(0, 55, 5)
    datasets = [
        (np.full((1, 2), minute, np.uint8), {**RATE, "enddate": "20210704", "endtime": f"15{minute:02d}00"})
        for minute in minutes
    ]
    radar = io.open_odim(write_odim(tmp_path / "a.h5", *datasets))
    assert radar.sizes["time"] == 11
    np.testing.assert_array_equal(radar.rainfall_rate[:, 0, 0], [0.5 * minute + 1 for minute in minutes])


def test_odim_quantity_is_chosen_or_asked_for(tmp_path):
    one = np.array([[2]], np.uint8)
    path = write_odim(tmp_path / "a.h5", (one, RATE), (one, {**RATE, "quantity": "DBZH"}), (one, {"quantity": "QIND"}))
    with pytest.raises(ValueError, match="holds DBZH and RATE: choose with quantity="):
        io.open_odim(path)
    assert "rainfall_rate" in io.open_odim(path, quantity="RATE")
    with pytest.raises(ValueError, match="not the quantity ACRR"):
        io.open_odim(path, quantity="ACRR")
    with pytest.raises(ValueError, match="quantity 'VRAD' is not known"):
        io.open_odim(path, quantity="VRAD")


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        ("123540", "12:35:40"),
        ("1235", "12:35:00"),
        (np.bytes_("1235"), "12:35:00"),
        (np.array([b"1235"]), "12:35:00"),
        ("1200Z", "12:00:00"),
        ("123500.000", "12:35:00"),
        ("12:35", "12:35:00"),
        (123540, "12:35:40"),
        (123540.0, "12:35:40"),
        (93500, "09:35:00"),  # a number has lost its zeros in front
        (3500, "00:35:00"),
        (0, "00:00:00"),
    ],
)
def test_odim_times_of_day_are_read_as_they_are_written(tmp_path, clock, expected):
    path = write_odim(tmp_path / "a.h5", (np.array([[2]], np.uint8), RATE), time=clock)
    assert io.open_odim(path).time.values == np.datetime64(f"2021-07-04T{expected}")


@pytest.mark.parametrize("clock", ["12355", "123", "240000", "126000", "", "noon", "123500+02", 1235, 59, np.nan])
def test_odim_times_of_day_that_are_none_or_could_be_two_are_refused(tmp_path, clock):
    path = write_odim(tmp_path / "a.h5", (np.array([[2]], np.uint8), RATE), time=clock)
    with pytest.raises(ValueError, match=r"a\.h5 cannot be read as .*its time '20210704', .* (could be two|is none)"):
        io.open_odim(path)


DBZH = {"quantity": "DBZH", "gain": 0.5, "offset": -32.0, "nodata": 255.0, "undetect": 0.0}
OTHER_ZR = {"zr_a": 300.0, "zr_b": 1.4}


@pytest.mark.parametrize(
    ("root", "dataset", "data", "expected"),
    [
        (OTHER_ZR, {}, {}, (300, 1.4)),
        ({}, OTHER_ZR, {}, (300, 1.4)),
        ({}, {}, OTHER_ZR, (300, 1.4)),
        ({"zr_a": 200.0, "zr_b": 1.6}, OTHER_ZR, {}, (300, 1.4)),
        (OTHER_ZR, {"zr_a": 1.0, "zr_b": 1.0}, {"zr_a": 256.0, "zr_b": 1.42}, (256, 1.42)),
        ({"zr_a": 256.0}, {"zr_b": 1.42}, {}, (256, 1.42)),
        ({}, {}, {}, (None, None)),
    ],
)
def test_odim_z_r_relation_is_that_of_the_nearest_level(tmp_path, root, dataset, data, expected):
    path = write_odim(tmp_path / "a.h5", (np.array([[2]], np.uint8), DBZH, dataset, data), how=root)
    attrs = io.open_odim(path).equivalent_reflectivity_factor.attrs
    assert (attrs.get("zr_a"), attrs.get("zr_b")) == expected


@pytest.mark.parametrize("how", [{"zr_a": 200.0}, {"zr_a": 0.0, "zr_b": 1.6}, {"zr_a": 200.0, "zr_b": np.nan}])
def test_odim_z_r_relation_that_is_none_is_refused(tmp_path, how):
    path = write_odim(tmp_path / "a.h5", (np.array([[2]], np.uint8), DBZH), how=how)
    with pytest.raises(ValueError, match="its Z-R relation is"):
        io.open_odim(path)


@pytest.mark.parametrize("how", [{"zr_a": 256.0, "zr_b": 1.42}, None])
def test_files_of_two_z_r_relations_do_not_mix(tmp_path, how):
    one = np.array([[2]], np.uint8)
    first = write_odim(tmp_path / "a.h5", (one, DBZH), how=OTHER_ZR)
    second = write_odim(tmp_path / "b.h5", (one, DBZH), time="155500", how=how)
    with pytest.raises(ValueError, match=r"b\.h5 has the Z-R relation zr_a = .* and .*a\.h5 has 300"):
        io.open_odim([first, second])


def accumulation(start: str, end: str, **attrs) -> dict:
    day = {"startdate": "20210704", "enddate": "20210704"}
    return {"quantity": "ACRR", "starttime": start, "endtime": end} | day | attrs


def test_sums_of_two_lengths_do_not_mix(tmp_path):
    hour = write_odim(tmp_path / "a.h5", (np.ones((1, 1)), accumulation("150000", "160000")), time="160000")
    short = write_odim(tmp_path / "b.h5", (np.ones((1, 1)), accumulation("160000", "160500")), time="160500")
    with pytest.raises(ValueError, match=r"b\.h5 is an accumulation of 5 min and .*a\.h5 one of 60 min"):
        io.open_odim([hour, short])


def test_odim_quantities_and_products_of_one_variable_do_not_mix(tmp_path):
    one = np.array([[2]], np.uint8)
    first = write_odim(tmp_path / "a.h5", (one, DBZH | {"product": "CAPPI", "prodpar": 1000.0}))
    for other in ({"quantity": "TH"}, {"product": "MAX"}, {"prodpar": 2000.0}):
        what = DBZH | {"product": "CAPPI", "prodpar": 1000.0} | other
        second = write_odim(tmp_path / "b.h5", (one, what), time="155500")
        with pytest.raises(ValueError, match=r"b\.h5 is .* and .*a\.h5 is DBZH CAPPI 1000\.0"):
            io.open_odim([first, second])


@pytest.mark.parametrize(
    "second",
    [
        {},
        {"product": "MAX"},
        {"product": "MAX", "endtime": "155100"},
        {"product": "CAPPI", "prodpar": 2000.0, "endtime": "155100"},
    ],
)
def test_odim_quantity_that_is_there_twice_is_asked_for(tmp_path, second):
    first = RATE | {"product": "CAPPI", "prodpar": 1000.0, "enddate": "20210704", "endtime": "155000"}
    datasets = [(np.array([[value]], np.uint8), what) for value, what in ((2, first), (4, first | second))]
    path = write_odim(tmp_path / "a.h5", *datasets)
    with pytest.raises(
        ValueError, match=r"RATE more than once \(dataset1/data1 .*: choose with dataset='dataset1/data1'"
    ):
        io.open_odim(path)
    for dataset, rate in (("dataset1", 2), ("dataset2", 3), ("dataset2/data1", 3)):
        assert io.open_odim(path, dataset=dataset).rainfall_rate.item() == rate
        assert io.open_radar(path, dataset=dataset).rainfall_rate.item() == rate
    with pytest.raises(ValueError, match=r"it holds dataset1/data1, dataset2/data1, not the 'dataset'"):
        io.open_odim(path, dataset="dataset")


def test_odim_nominal_time_far_from_the_data_is_no_observation(tmp_path):
    what = RATE | {"startdate": "20210704", "starttime": "165500", "enddate": "20210704", "endtime": "170000"}
    path = write_odim(tmp_path / "a.h5", (np.array([[2]], np.uint8), what))
    with pytest.raises(
        ValueError, match=r"nominal time is 2021-07-04 15:50:00 and its data are from .*: no observation"
    ):
        io.open_odim(path)
    near = write_odim(tmp_path / "b.h5", (np.array([[2]], np.uint8), what), time="170100")
    assert io.open_odim(near).time.values == np.datetime64("2021-07-04T17:01")


@pytest.mark.parametrize("scale", [{"gain": 0.0}, {"gain": np.nan}, {"gain": np.inf}, {"offset": np.nan}])
def test_odim_scale_that_makes_no_values_is_refused(tmp_path, scale):
    with pytest.raises(ValueError, match="no values can be made with them"):
        io.open_odim(write_odim(tmp_path / "a.h5", (np.array([[2]], np.uint8), RATE | scale)))


@pytest.mark.parametrize(
    ("stored", "codes", "expected"),
    [
        # float32 has fewer digits than the attribute
        (np.array([[-9999.9, -8888.8, 2.0]], "f4"), {"nodata": -9999.9, "undetect": -8888.8}, [NAN, 0, 2]),
        (np.array([[9.969209968386869e36, 1.0, 2.0]], "f4"), {"nodata": 9.969209968386869e36}, [NAN, 1, 2]),
        # dry or missing: nobody knows
        (np.array([[255, 1, 2]], np.uint8), {"nodata": 255.0, "undetect": 255.0}, [NAN, 1, 2]),
        # codes that the type cannot hold are nowhere
        (np.array([[255, 1, 2]], np.uint8), {"nodata": -1.0, "undetect": 511.0}, [255, 1, 2]),
        (np.array([[2, 1, 2]], "f4"), {"nodata": 1e300, "undetect": np.nan}, [2, 1, 2]),
    ],
)
def test_odim_codes_are_found_in_any_type(tmp_path, stored, codes, expected):
    radar = io.open_odim(write_odim(tmp_path / "a.h5", (stored, {"quantity": "RATE"} | codes)))
    np.testing.assert_array_equal(radar.rainfall_rate.values[0, 0], expected)


@pytest.mark.parametrize("quantity", ["VRAD", "DBZ", "RR", "rate", "ACRR2", "QIND", "VIL", "HGHT", "SNR"])
def test_odim_quantity_that_is_not_known_is_refused_by_name(tmp_path, quantity):
    path = write_odim(tmp_path / "a.h5", (np.array([[2]], np.uint8), RATE | {"quantity": quantity}))
    with pytest.raises(ValueError, match=rf"it holds {quantity}; RATE or ACRR or DBZH or TH is needed"):
        io.open_odim(path)


NEW_STEREO = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752 +x_0=0 +y_0=0 +units=km"


@pytest.mark.parametrize("plane", [STEREO, STEREO + " +x_0=0 +y_0=0", NEW_STEREO, STEREO + " +units=km"])
@pytest.mark.parametrize("parameter", ["ACCUMULATED_PRECIPITATION_[MM]", "PRECIP_[MM]"])
def test_knmi_files_old_and_new_lie_in_one_place(tmp_path, plane, parameter):
    path = write_knmi(tmp_path / "a.h5", [[25, 65535]], plane=plane, parameters=[parameter])
    radar = io.open_radar(path)
    np.testing.assert_allclose(radar.rainfall_rate.values, [[[3.0, NAN]]], rtol=1e-6)
    assert radar.x.values.tolist() == [21_000.0, 23_000.0] and radar.y.values.tolist() == [-3_650_500.0]
    assert radar.crs.attrs["semi_major_axis"] == 6378137.0 and radar.crs.attrs["semi_minor_axis"] == 6356752.0
    assert radar.lat.values[0, 0] == pytest.approx(55.97, abs=0.01)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plane": NEW_STEREO.replace("units=km", "units=us-ft")}, r"\+units=km, or none"),
        ({"parameters": ["ACCUMULATED_PRECIPITATION_[INCH]"]}, r"ACCUMULATED_PRECIPITATION_\[INCH\]"),
        ({"parameters": ["PRECIP_[MM/H]"]}, r"PRECIP_\[MM/H\]"),
        ({"geo_pixel_def": "CC"}, "its geo_pixel_def is 'CC'; LU"),
        ({"end": "26-AUG-2010;24:00:00.000"}, "hour must be in"),
        ({"end": "26-AUG-10;00:00:00.000"}, "DD-MON-YYYY"),
        ({"calibration": {"calibration_formulas": "GEO=0.01*PV"}}, "calibration has no calibration_missing_data"),
        ({"calibration": {"calibration_missing_data": 65535}}, "calibration_formulas.* is missing"),
    ],
)
def test_knmi_file_that_tells_something_unknown_is_refused(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        io.open_knmi_hdf5(write_knmi(tmp_path / "a.h5", [[0]], **change))


@pytest.mark.parametrize(
    ("formula", "millimetres"),
    [
        ("GEO=0.01*PV+0.0", 0.25),
        ("GEO = 0.010000 * PV + 0.000000", 0.25),
        ("GEO=1.0e-2*PV", 0.25),
        ("GEO=PV*0.01", 0.25),
        ("GEO=PV/100", 0.25),
        ("GEO=PV", 25),
        ("GEO=0.5*PV + -2.5", 10),
        ("GEO=.5*PV-2.5", 10),
    ],
)
def test_knmi_calibration_is_a_line_in_any_spelling(tmp_path, formula, millimetres):
    calibration = {"calibration_formulas": formula, "calibration_missing_data": 65535}
    radar = io.open_knmi_hdf5(write_knmi(tmp_path / "a.h5", [[25]], calibration=calibration))
    assert radar.rainfall_rate.item() == pytest.approx(12 * millimetres, rel=1e-6)


@pytest.mark.parametrize(
    "formula",
    [
        "GEO=0*PV+1",
        "GEO=-0.01*PV",
        "GEO=PV/0",
        "GEO=1e999*PV",
        "GEO=10^(0.1*PV)",
        "GEO=0.01*PV*PV",
        "PV",
        "",
        "GEO=1.0.1*PV",
    ],
)
def test_knmi_calibration_of_another_form_is_refused(tmp_path, formula):
    calibration = {"calibration_formulas": formula, "calibration_missing_data": 65535}
    with pytest.raises(ValueError, match="its calibration is"):
        io.open_knmi_hdf5(write_knmi(tmp_path / "a.h5", [[25]], calibration=calibration))


VALID = [f"{day}-AUG-2010;{clock}:00.000" for day, clock in ((25, "23:55"), (26, "00:00"), (26, "00:05"))]


def test_knmi_nowcast_has_an_image_for_each_lead_time(tmp_path):
    images = [[[10]], [[20]], [[30]]]
    path = write_knmi(tmp_path / "RAD_NL25_RAC_FM_201008252355.h5", *images, valid=VALID, parameters=["PRECIP_[MM]"])
    forecast = io.open_radar(path)
    assert forecast.rainfall_rate.dims == ("init_time", "lead_time", "y", "x")
    np.testing.assert_allclose(forecast.rainfall_rate.values.ravel(), [1.2, 2.4, 3.6], rtol=1e-6)
    assert forecast.init_time.values == np.datetime64("2010-08-25T23:55")
    assert forecast.lead_time.values.astype("m8[m]").astype(int).tolist() == [0, 5, 10]
    write_knmi(path, *images, valid=[VALID[0], VALID[1], "26-AUG-2010;00:10:00.000"])
    with pytest.raises(ValueError, match="it is a nowcast of 2010-08-25 23:55:00 for"):
        io.open_knmi_hdf5(path)


def test_knmi_images_of_rain_are_not_lost(tmp_path):
    path = write_knmi(tmp_path / "a.h5", [[10]], [[20]], [[30]], valid=VALID)
    with pytest.raises(ValueError, match="it holds 3 images of rain; one, or a nowcast"):
        io.open_knmi_hdf5(path)


def test_knmi_images_of_quality_beside_the_rain_are_left_out(tmp_path):
    path = write_knmi(tmp_path / "a.h5", [[10]], [[20]], parameters=["PRECIP_[MM]", "QUALITY_[-]"])
    assert io.open_knmi_hdf5(path).rainfall_rate.item() == pytest.approx(1.2, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"product": "CZC"}, "it is the product CZC; the accumulations AQC"),
        ({"product": "RZC"}, "it is the product RZC"),
        ({"scale": "mmh2LASSEN8bitdBZ"}, "its scale is 'mmh2LASSEN8bitdBZ'"),
        ({"length": ""}, "has a length in minutes"),
        ({"length": "ACCUm=000000"}, "has a length in minutes"),
    ],
)
def test_gif_of_another_product_scale_or_length_is_refused(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        io.open_mch_gif(write_gif(tmp_path / "a.gif", [0], **change))
    (tmp_path / "CPC161932350V_00005.801.gif").write_bytes(write_gif(tmp_path / "b.gif", [0], stamp=None).read_bytes())
    with pytest.raises(ValueError, match="it is the product CPC"):
        io.open_mch_gif(tmp_path / "CPC161932350V_00005.801.gif")


def test_gif_sums_of_two_lengths_do_not_mix(tmp_path):
    short = write_gif(tmp_path / "a.gif", [121])
    hour = write_gif(tmp_path / "b.gif", [121], stamp="151351600", length="ACCUm=000060")
    assert io.open_mch_gif(hour).rainfall_rate.values[0, 0, 0] == pytest.approx(11.554 / 12, abs=1e-3)
    with pytest.raises(ValueError, match=r"b\.gif is an accumulation of 60 min and .*a\.gif one of 5 min"):
        io.open_mch_gif([short, hour])


@pytest.mark.parametrize("param", ["RainRate", "Velocity", "correctedreflectivity"])
def test_pgm_of_another_parameter_is_refused(tmp_path, param):
    with pytest.raises(ValueError, match=f"param is '{param}'; CorrectedReflectivity"):
        io.open_fmi_pgm(write_pgm(tmp_path / "a.pgm", [[0]], mpp=1e9, param=param))


def test_pgm_products_do_not_mix(tmp_path):
    paths = [write_pgm(tmp_path / f"{n}.pgm", [[0]], mpp=1e9, obstime=f"2016092814{n}5") for n in (1, 2)]
    for path, product in zip(paths, ("LOWEST", "ECHO_TOP"), strict=True):
        path.write_bytes(path.read_bytes().replace(b"# param", b"# productname %s\n# param" % product.encode()))
    with pytest.raises(ValueError, match=r"2\.pgm is ECHO_TOP and .*1\.pgm is LOWEST"):
        io.open_fmi_pgm(paths)


def test_pgm_that_does_not_tell_its_parameter_or_its_time_is_refused(tmp_path):
    path = write_pgm(tmp_path / "a.pgm", [[0]], mpp=1e9)
    path.write_bytes(path.read_bytes().replace(b"# param CorrectedReflectivity\n", b""))
    with pytest.raises(ValueError, match="'param' is missing in the file"):
        io.open_fmi_pgm(path)
    for stamp in ("2016092814", "20160928144500", "2016-09-28"):
        with pytest.raises(ValueError, match=f"obstime is '{stamp}'"):
            io.open_fmi_pgm(write_pgm(tmp_path / "a.pgm", [[0]], mpp=1e9, obstime=stamp))


def test_labels_are_those_of_cf(tmp_path):
    radar = io.open_odim(write_odim(tmp_path / "a.h5", (np.zeros((2, 3), np.uint8), RATE)))
    assert radar.rainfall_rate.dims == ("time", "y", "x")
    assert radar.rainfall_rate.attrs["grid_mapping"] == "crs"
    assert radar.crs.attrs["grid_mapping_name"] == "lambert_azimuthal_equal_area"
    assert radar.y.attrs["standard_name"] == "projection_y_coordinate" and radar.y.attrs["units"] == "m"
    assert radar.y.values[0] > radar.y.values[1] and radar.x.values[0] < radar.x.values[1]
    assert radar.lat.dtype == np.float32 and radar.lon.dims == ("y", "x")
    assert abs(radar.lat.values[1, 0] - 55) < 0.01 and abs(radar.lon.values[1, 0] - 10) < 0.02
    assert radar.time.dtype == "datetime64[ns]"
    assert radar.attrs["Conventions"] == "CF-1.10" and {"title", "institution", "source", "license"} <= set(radar.attrs)


def test_writing_into_a_result_does_not_change_the_next_one(tmp_path):
    path = write_odim(tmp_path / "a.h5", (np.zeros((2, 3), np.uint8), RATE))
    io.open_odim(path).lat.values[:] = 0
    assert io.open_odim(path).lat.values.min() > 50


# ---- several files, and any file ----------------------------------------------------------------------------------


def test_files_are_sorted_along_time_whatever_their_order(tmp_path):
    late = write_odim(tmp_path / "a.h5", (np.array([[2]], np.uint8), RATE), time="155500")
    early = write_odim(tmp_path / "b.h5", (np.array([[0]], np.uint8), RATE), time="155000")
    radar = io.open_odim([late, early])
    np.testing.assert_array_equal(radar.rainfall_rate.values.ravel(), [1.0, 2.0])


def test_files_of_two_grids_times_or_variables_do_not_mix(tmp_path):
    one = np.array([[2]], np.uint8)
    first = write_odim(tmp_path / "a.h5", (one, RATE))
    wider = write_odim(tmp_path / "b.h5", (np.array([[2, 2]], np.uint8), RATE), time="155500")
    reflectivity = write_odim(tmp_path / "c.h5", (one, {**RATE, "quantity": "DBZH"}), time="155500")
    with pytest.raises(ValueError, match=r"b\.h5 has another grid than .*a\.h5"):
        io.open_odim([first, wider])
    with pytest.raises(ValueError, match=r"holds equivalent_reflectivity_factor and .* holds rainfall_rate"):
        io.open_odim([first, reflectivity])
    with pytest.raises(ValueError, match="same time 2021-07-04T15:50"):
        io.open_odim([first, first])


def test_open_radar_sees_the_product_in_the_content(tmp_path):
    gif = write_gif(tmp_path / "a.dat", [0])
    odim = write_odim(tmp_path / "b.dat", (np.array([[2]], np.uint8), RATE))
    knmi = write_knmi(tmp_path / "c.dat", [[0]])
    assert io.open_radar(gif).attrs["institution"] == "MeteoSwiss"
    assert "ODIM" in io.open_radar(odim).attrs["title"]
    assert "KNMI" in io.open_radar([knmi]).attrs["title"]
    with pytest.raises(ValueError, match="different products"):
        io.open_radar([gif, odim])


@pytest.mark.parametrize("content", [b"", b"GRIB...", b"P6\n1 1\n255\nabc"])
def test_open_radar_refuses_other_files_and_names_what_it_knows(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no supported radar product; supported are FMI PGM, MeteoSwiss GIF, KNMI"):
        io.open_radar(path)


@pytest.mark.parametrize("engine", ["netcdf4", "scipy"])
def test_open_radar_sends_netcdf_to_xarray(tmp_path, engine):
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "a.nc", engine=engine)
    with pytest.raises(ValueError, match=r"open it with xarray\.open_dataset"):
        io.open_radar(tmp_path / "a.nc")


def test_paths_are_checked_first(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.gif does not exist"):
        io.open_radar(tmp_path / "absent.gif")
    with pytest.raises(ValueError, match="is a folder"):
        io.open_radar(tmp_path)
    with pytest.raises(ValueError, match="no files given"):
        io.open_radar([])


# ---- a reader is one function with its record ---------------------------------------------------------------------


@pytest.fixture
def invented():
    """The readers with one more, for one test: a line of text with the time and the shape, then bytes of mm h-1."""

    @io.reader("Invented rain", lambda start: start.startswith(b"RAIN "))
    def open_invented(paths):
        """Rain rate of files that nobody writes."""
        files = path_list(paths)
        return to_dataset([decode(path, "Invented rain", read) for path in files], files)

    def read(content):
        line, cells = content.split(b"\n", 1)
        _, time, rows, columns = line.decode().split()
        values = np.frombuffer(cells, np.uint8).reshape(int(rows), int(columns)).astype(np.float32)
        labels = {"standard_name": "rainfall_rate", "units": "mm h-1"}
        grid = LocalGrid(1000.0, 1000.0, int(columns), int(rows))
        return Frame(
            values=np.where(values == 255, np.float32(np.nan), values),
            time=np.datetime64(time, "ns"),
            grid=grid,
            name="rainfall_rate",
            attrs=labels,
            about={"title": "Invented rain"},
        )

    yield open_invented
    del io.READERS["Invented rain"]


def write_invented(path: Path, cells, time: str = "2024-06-01T12:00") -> Path:
    cells = np.asarray(cells, np.uint8)
    path.write_bytes(f"RAIN {time} {cells.shape[0]} {cells.shape[1]}\n".encode() + cells.tobytes())
    return path


def test_a_reader_is_added_by_its_record_alone(tmp_path, invented):
    first = write_invented(tmp_path / "a", [[0, 3, 255]])
    second = write_invented(tmp_path / "b", [[1, 4, 255]], "2024-06-01T12:05")
    second.write_bytes(gzip.compress(second.read_bytes()))
    assert io.product(first) == io.product(second) == "Invented rain"
    radar = io.open_radar([second, first])
    assert radar.rainfall_rate.dims == ("time", "y", "x") and radar.attrs["Conventions"] == "CF-1.10"
    np.testing.assert_array_equal(radar.rainfall_rate[:, 0], [[0, 3, np.nan], [1, 4, np.nan]])
    for opened in (xr.open_dataset(first), storage.open_input(str(first)), invented(first)):
        xr.testing.assert_equal(opened.load(), radar.isel(time=[0]))
    (tmp_path / "c").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"no supported radar product; supported are .*HKO-7 PNG.*, Invented rain"):
        io.open_radar(tmp_path / "c")


def test_a_reader_of_a_container_is_given_it_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("rain.txt", "3")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["rain"] = 3.0
    before = dict(io.READERS)
    try:
        io.reader("Invented zip", lambda archive: archive.namelist() == ["rain.txt"], "zip")(xr.Dataset)
        io.reader("Invented HDF5", lambda file: "rain" in file, "hdf5")(xr.Dataset)
        assert [io.product(tmp_path / name) for name in ("a.zip", "a.h5")] == ["Invented zip", "Invented HDF5"]
        with pytest.raises(ValueError, match="there is a reader of 'Invented zip' already"):
            io.reader("Invented zip", bool)(xr.DataArray)
    finally:
        for name in io.READERS.keys() - before:
            del io.READERS[name]


# ---- damaged and foreign files ------------------------------------------------------------------------------------

WRITE = {
    "FMI PGM": lambda folder: write_pgm(folder / "a.pgm", np.zeros((1, 400)), mpp=1e9),
    "MeteoSwiss GIF": lambda folder: write_gif(folder / "AQC151351545F.gif", range(256)),
    "KNMI HDF5": lambda folder: write_knmi(folder / "a.h5", np.arange(9000).reshape(90, 100)),
    "ODIM HDF5 composite": lambda folder: write_odim(
        folder / "b.h5", (np.arange(9000, dtype=float).reshape(90, 100), RATE)
    ),
    "Invented rain": lambda folder: write_invented(folder / "a.rain", np.zeros((30, 40))),
}


@pytest.mark.parametrize("product", WRITE)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.usefixtures("invented")
def test_truncated_file_is_one_clear_value_error(tmp_path, product, kept, packed):
    path = WRITE[product](tmp_path)
    content = gzip.compress(path.read_bytes()) if packed else path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="cannot be read as") as caught:
        io.READERS[product].read(path)
    assert caught.value.__suppress_context__ and "\n" not in str(caught.value)


@pytest.mark.parametrize("product", WRITE)
@pytest.mark.usefixtures("invented")
def test_file_of_another_product_is_one_clear_value_error(tmp_path, product):
    own = WRITE[product](tmp_path)
    for other in WRITE.keys() - {product}:
        path = WRITE[other](tmp_path)
        with pytest.raises(ValueError, match="cannot be read as"):
            io.READERS[product].read(path)
        with pytest.raises(ValueError, match=f"different products: .* is {product}, and .* is {other}"):
            io.open_radar([own, path])


def test_content_that_a_reader_does_not_know_is_named(tmp_path):
    with pytest.raises(ValueError, match="projection type is 'mercator'; stereographic"):
        io.open_fmi_pgm(write_pgm(tmp_path / "a.pgm", [[0]], type_="mercator"))
    with pytest.raises(ValueError, match="its corners are 0 m apart, its 3 rows 3000 m"):
        io.open_fmi_pgm(write_pgm(tmp_path / "a.pgm", [[0]] * 3))
    with pytest.raises(ValueError, match=r"obstime.* is missing"):
        (tmp_path / "b.pgm").write_bytes(b"P5\n# param CorrectedReflectivity\n1 1\n255\n\x00")
        io.open_fmi_pgm(tmp_path / "b.pgm")
    with pytest.raises(ValueError, match="its scale is 'dBZ'; mmh2LASSEN8bit"):
        io.open_mch_gif(write_gif(tmp_path / "a.gif", [0], scale="dBZ"))
    with pytest.raises(ValueError, match=r"neither its comment .* has a time"):
        io.open_mch_gif(write_gif(tmp_path / "a.gif", [0], stamp=None))
    with pytest.raises(ValueError, match=r"REFLECTIVITY_\[DBZ\]"):
        io.open_knmi_hdf5(write_knmi(tmp_path / "a.h5", [[0]], parameters=["REFLECTIVITY_[DBZ]"]))
    with pytest.raises(ValueError, match="the end must be later"):
        io.open_knmi_hdf5(write_knmi(tmp_path / "a.h5", [[0]], end="25-AUG-2010;23:00:00.000"))
    with pytest.raises(ValueError, match="its object is 'PVOL'; composites"):
        io.open_odim(write_odim(tmp_path / "b.h5", (np.zeros((1, 1)), RATE), kind="PVOL"))
    with pytest.raises(ValueError, match="holds VRAD; RATE or ACRR or DBZH or TH is needed"):
        io.open_odim(write_odim(tmp_path / "b.h5", (np.zeros((1, 1)), {"quantity": "VRAD"})))
    with pytest.raises(ValueError, match=r"array has the shape \(1, 1\), its header says \(1, 5\)"):
        io.open_odim(write_odim(tmp_path / "b.h5", (np.zeros((1, 1)), RATE), where={"xsize": 5}))


def test_projection_that_is_no_map_plane_in_metres_is_refused(tmp_path):
    for plane, reason in {
        "+proj=nonsense": "Invalid projection",
        "+proj=laea +lat_0=50 +units=km": "not measured in metres",
    }.items():
        where = {"projdef": plane, "UL_x": 0.0, "UL_y": 0.0}
        with pytest.raises(ValueError, match=rf"a\.h5 cannot be read as .*{reason}"):
            io.open_odim(write_odim(tmp_path / "a.h5", (np.zeros((1, 1)), RATE), where=where))


def test_absent_library_says_what_to_install(tmp_path, monkeypatch):
    gif = write_gif(tmp_path / "a.gif", [0])
    odim = write_odim(tmp_path / "b.h5", (np.array([[2]], np.uint8), RATE))
    for library, path in {"PIL.Image": gif, "h5py": odim, "pyproj": odim}.items():
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(ImportError, match=r"pip install 'xnowcast\[io\]'"):
                io.open_radar(path)


# ---- the real events ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "event", "tolerance"),
    [
        ("fmi_pgm", "fmi_20160928_crop512.nc", 0),
        ("mch_gif", "mch_20150515_crop.nc", 0),
        ("knmi_hdf5", "knmi_20100826_crop384.nc", 1e-6),  # float32 here, float64 there
        ("rmi_odim", "rmi_20210704_crop512.nc", 0.005 + 1e-6),  # rounded to 0.01 mm h-1 there
    ],
)
def test_raw_files_decode_to_the_event(shared_data, folder, event, tolerance):
    from pyproj import CRS

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        radar = io.open_radar(sorted((shared_data / "raw" / folder).iterdir()))
    expected = xr.open_dataset(shared_data / event).sel(time=radar.time)
    crop = radar.sel(y=expected.y, x=expected.x)  # exact: the coordinates are the same numbers
    (name,) = (name for name in expected if expected[name].ndim == 3)
    difference = np.abs(crop[name].values.astype(float) - expected[name].values)
    np.testing.assert_array_equal(np.isnan(crop[name]), np.isnan(expected[name]))
    assert np.nanmax(difference) <= tolerance
    # latitudes and longitudes of the event were rounded to 1/16384 of a degree
    np.testing.assert_allclose(crop.lat, expected.lat, atol=4e-5)
    np.testing.assert_allclose(crop.lon, expected.lon, atol=4e-5)
    assert CRS.from_cf(radar.crs.attrs) == CRS.from_cf(expected.crs.attrs)
    assert set(expected.crs.attrs) <= set(radar.crs.attrs)
    assert radar.time.attrs == expected.time.attrs
    assert ("time_bnds" in radar) == ("time_bnds" in expected)
    if "time_bnds" in expected:
        np.testing.assert_array_equal(radar.time_bnds, expected.time_bnds)
    labels = ("standard_name", "long_name", "units", "cell_methods", "grid_mapping", "zr_a", "zr_b")
    assert {key: radar[name].attrs.get(key) for key in labels} == {key: expected[name].attrs.get(key) for key in labels}


def test_european_and_belgian_odim_composites(shared_data):
    europe = io.open_radar(shared_data / "raw/opera_odim/T_PAAH21_C_EUOC_20180824180000.hdf")
    assert europe.rainfall_rate.shape == (1, 2200, 1900)
    assert europe.rainfall_rate.isnull().mean().item() == pytest.approx(0.49900885)
    assert europe.rainfall_rate.min().item() == 0 and europe.rainfall_rate.max().item() == pytest.approx(1205.22)
    assert (europe.x.values[0], europe.y.values[0]) == (1000.0, -1000.0)
    belgium = io.open_radar(shared_data / "raw/odim_other/belgium.comp.hdf")
    assert belgium.precipitation_amount.max().item() == pytest.approx(23.015533)
    assert belgium.time_bnds.values[0].tolist() == [1559775600 * 10**9, 1559779200 * 10**9]
