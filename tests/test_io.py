"""Readers of raw radar products: tiny files with known values, damaged files, and the real events."""

import gzip
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xnowcast import io

pytest.importorskip("pyproj")
h5py = pytest.importorskip("h5py")
Image = pytest.importorskip("PIL.Image")

PLANE = "+proj=laea +lat_0=55 +lon_0=10 +x_0=1000 +y_0=2000 +ellps=WGS84"
NAN = np.nan


# ---- tiny files, written here -------------------------------------------------------------------------------------


def write_pgm(path: Path, pixels, *, obstime="201609281445", type_="stereographic", mpp=1000.0) -> Path:
    """A PGM whose lower left corner is the pole, the origin of its plane; y grows away from longitude 25."""
    pixels = np.asarray(pixels, np.uint8)
    header = f"""P5
# obstime {obstime}
# param CorrectedReflectivity
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


def write_gif(path: Path, classes, *, stamp="151351545", scale="mmh2LASSEN8bitmm_mn") -> Path:
    picture = np.zeros((640, 710), np.uint8)
    picture[0, : len(classes)] = classes
    note = f"PRDT=AQC{stamp} SCALE={scale} ACCUm=000005" if stamp else "no words"
    Image.fromarray(picture).save(path, format="GIF", comment=note, optimize=False)
    return path


def write_knmi(path: Path, counts, *, end="26-AUG-2010;00:00:00.000", parameter="ACCUMULATED_PRECIPITATION_[MM]"):
    with h5py.File(path, "w") as file:
        file.create_group("overview").attrs.update(
            product_datetime_start="25-AUG-2010;23:55:00.000", product_datetime_end=np.bytes_(end)
        )
        file.create_group("geographic/map_projection").attrs.update(
            projection_proj4_params="+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378.137 +b=6356.752"
        )
        file["geographic"].attrs.update(
            geo_column_offset=[10.0],
            geo_row_offset=[3650.0],
            geo_pixel_size_x=[2.0],
            geo_pixel_size_y=[-1.0],
            geo_dim_pixel=b"KM,KM",
        )
        file.create_group("image1/calibration").attrs.update(
            calibration_formulas=b"GEO=0.01*PV+0.0",
            calibration_missing_data=[65535],
            calibration_out_of_image=[65535],
        )
        file["image1"].attrs.update(image_geo_parameter=parameter)
        file["image1/image_data"] = np.array(counts, np.uint16)
    return path


def write_odim(path: Path, *datasets, time="155000", kind="COMP", where=None, how=None) -> Path:
    """Each dataset is (stored values, what attributes)."""
    with h5py.File(path, "w") as file:
        file.create_group("what").attrs.update(object=kind, date="20210704", time=time, source="ORG:247")
        shape = np.shape(datasets[0][0])
        file.create_group("where").attrs.update(
            {"projdef": PLANE, "xscale": 2000.0, "yscale": 1000.0, "xsize": shape[1], "ysize": shape[0]}
            | (where or {"LL_lon": 10.0, "LL_lat": 55.0})
        )
        if how:
            file.create_group("how").attrs.update(how)
        for number, (stored, what) in enumerate(datasets, start=1):
            file[f"dataset{number}/data1/data"] = np.asarray(stored)
            file.create_group(f"dataset{number}/what").attrs.update(what)
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


# ---- damaged and foreign files ------------------------------------------------------------------------------------


def write_each(folder: Path) -> dict[str, Path]:
    return {
        "open_fmi_pgm": write_pgm(folder / "a.pgm", np.zeros((1, 400)), mpp=1e9),
        "open_mch_gif": write_gif(folder / "AQC151351545F.gif", range(256)),
        "open_knmi_hdf5": write_knmi(folder / "a.h5", np.arange(9000).reshape(90, 100)),
        "open_odim": write_odim(folder / "b.h5", (np.arange(9000, dtype=float).reshape(90, 100), RATE)),
    }


@pytest.mark.parametrize("reader", ["open_fmi_pgm", "open_mch_gif", "open_knmi_hdf5", "open_odim"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("packed", [False, True])
def test_truncated_file_is_one_clear_value_error(tmp_path, reader, kept, packed):
    path = write_each(tmp_path)[reader]
    content = gzip.compress(path.read_bytes()) if packed else path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="cannot be read as") as caught:
        getattr(io, reader)(path)
    assert caught.value.__suppress_context__ and "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", ["open_fmi_pgm", "open_mch_gif", "open_knmi_hdf5", "open_odim"])
def test_file_of_another_product_is_one_clear_value_error(tmp_path, reader):
    for product, path in write_each(tmp_path).items():
        if product != reader:
            with pytest.raises(ValueError, match="cannot be read as"):
                getattr(io, reader)(path)


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
        io.open_knmi_hdf5(write_knmi(tmp_path / "a.h5", [[0]], parameter="REFLECTIVITY_[DBZ]"))
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
