"""Readers of the papers' data: files written here in the documented layouts, damaged files, and the real samples."""

import bz2
import csv
import functools
import gzip
import io as bytes_io
import pickle
import sys
import tarfile
import zipfile
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xnowcast import io
from xnowcast.data import storage
from xnowcast.fields import cf, windows
from xnowcast.io import pickled_dates, radolan
from xnowcast.io.backend import XnowcastBackendEntrypoint
from xnowcast.io.lazy import Stack, in_chunks, lazy
from xnowcast.io.sevir import vil_of_pixel

pytest.importorskip("pyproj")
h5py = pytest.importorskip("h5py")
Image = pytest.importorskip("PIL.Image")

NAN = np.nan


def in_memory(dataset: xr.Dataset, name: str) -> bool:
    return dataset[name].variable._in_memory


# ---- lazy stacks --------------------------------------------------------------------------------------------------

CUBE = np.random.default_rng(0).random((6, 4, 5)).astype("f4")


def _block(first, places):
    return CUBE[first + places]


def stacked() -> xr.Variable:
    blocks = [(1, functools.partial(_block, 0)), (3, functools.partial(_block, 1)), (2, functools.partial(_block, 4))]
    return lazy(("time", "y", "x"), Stack((6,), (4, 5), blocks), (2, 4, 5))


@pytest.mark.parametrize(
    "key",
    [
        {},
        {"time": 3},
        {"time": -1, "y": 2},
        {"time": [5, 0, 5], "x": slice(1, None, 2)},
        {"time": slice(4, None, -2), "y": [3, 1], "x": -2},
        {"y": slice(0, 0)},
        {"time": []},
        {"time": np.arange(6) % 2 == 1, "y": [2], "x": [0, 4]},
    ],
)
def test_any_part_of_a_lazy_stack_is_that_of_the_array(key):
    plain = xr.Variable(("time", "y", "x"), CUBE)
    np.testing.assert_array_equal(stacked().isel(key).values, plain.isel(key).values)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stacked())).isel(key).values, plain.isel(key).values)


def test_leading_dims_are_counted_in_c_order():
    stack = lazy(("init", "lead", "y", "x"), Stack((2, 3), (4, 5), [(6, functools.partial(_block, 0))]), (1, 1, 4, 5))
    cube = xr.Variable(("init", "lead", "y", "x"), CUBE.reshape(2, 3, 4, 5))
    for key in ({}, {"init": 1, "lead": [2, 0]}, {"lead": 1, "x": 3}):
        np.testing.assert_array_equal(stack.isel(key).values, cube.isel(key).values)


def test_only_what_is_looked_at_is_read():
    seen = []

    def read(first, places):
        seen.extend((first + places).tolist())
        return _block(first, places)

    blocks = [(3, functools.partial(read, 0)), (3, functools.partial(read, 3))]
    variable = lazy(("time", "y", "x"), Stack((6,), (4, 5), blocks), (1, 4, 5))
    dataset = in_chunks(xr.Dataset({"a": variable}))
    assert seen == [] and dataset.a.chunks == ((1,) * 6, (4,), (5,))
    dataset.a.isel(time=[1, 4]).load()
    assert sorted(seen) == [1, 4]


# ---- DWD RADOLAN --------------------------------------------------------------------------------------------------


def radolan_bytes(
    cells, *, product="RW", stamp="102050100000814", version=3, precision=-1, minutes=60, unit="", extra=""
):
    """A composite of the given cells, first row in the south, as DWD describes it."""
    cells = np.ascontiguousarray(cells)
    rows, columns = cells.shape

    def header(total):
        text = f"{product}{stamp}BY{total:7d}VS{version:2d}SW   2.13.1PR E{precision:+03d}INT{minutes:4d}{unit}"
        return f"{text}GP{rows:4d}x{columns:4d}{extra}MS 10<boo,ros> \x03".encode()

    return header(len(header(0)) + cells.nbytes) + cells.tobytes()


def rain_cells() -> np.ndarray:
    cells = np.zeros((900, 900), "<u2")
    cells[0, :6] = [25, 0x2000 | 2500, 0x8000 | 7, 0x1000 | 30, 0x4000 | 2, 0x0FFF]  # the southernmost row
    cells[899, 0] = 100  # the north-west corner
    return cells


def test_radolan_counts_flags_and_rows(tmp_path):
    path = tmp_path / "raa01-rw"
    path.write_bytes(radolan_bytes(rain_cells()))
    radar = io.open_radolan(path)
    assert not in_memory(radar, "rainfall_rate")
    rain = radar.rainfall_rate
    np.testing.assert_allclose(rain.values[0, -1, :6], [2.5, NAN, NAN, 3.0, -0.2, 409.5], rtol=1e-6)
    assert rain.values[0, 0, 0] == 10.0 and radar.y.values[0] > radar.y.values[-1]
    assert io.open_radolan(path, keep_clutter=True).rainfall_rate.values[0, -1, 2] == pytest.approx(0.7)
    assert radar.time.values == np.datetime64("2014-08-10T20:50")
    assert radar.time_bnds.values[0, 0] == np.datetime64("2014-08-10T19:50")
    assert rain.attrs["units"] == "mm h-1" and rain.attrs["standard_name"] == "rainfall_rate"


def test_radolan_amounts_of_five_minutes_become_rates(tmp_path):
    cells = np.full((900, 900), 25, "<u2")
    (tmp_path / "ry").write_bytes(radolan_bytes(cells, product="RY", precision=-2, minutes=5))
    radar = io.open_radolan(tmp_path / "ry")
    np.testing.assert_allclose(radar.rainfall_rate, 3.0, rtol=1e-6)  # 0.25 mm in 5 minutes
    assert radar.time_bnds.values[0, 0] == np.datetime64("2014-08-10T20:45")


def test_radolan_reflectivity_is_half_dbz_above_minus_32_5(tmp_path):
    cells = np.zeros((900, 900), np.uint8)
    cells[899, :5] = [0, 1, 145, 249, 250]
    (tmp_path / "rx").write_bytes(radolan_bytes(cells, product="RX", precision=0, minutes=5))
    field = io.open_radolan(tmp_path / "rx").equivalent_reflectivity_factor
    np.testing.assert_array_equal(field.values[0, 0, :5], [-32.5, -32.0, 40.0, NAN, NAN])
    assert (field.attrs["zr_a"], field.attrs["zr_b"]) == (256.0, 1.42)
    rain = cf.rain_rate(field)
    # equation 10 of Ma et al. (2024): 40 dBZ with a = 256, b = 1.42
    np.testing.assert_allclose(rain.values[0, 0, :3], [0, 0, (10**4 / 256) ** (1 / 1.42)], rtol=1e-5)


@pytest.mark.parametrize(
    ("version", "shape", "corner", "south_west", "north_east"),
    [
        # on the sphere: Beschreibung des Kompositformats, table of corners
        (3, (900, 900), "sphere", (46.9526, 3.5889), (54.7405, 15.7208)),
        (3, (1100, 900), "sphere", (46.1929, 4.6759), (55.5342, 17.1128)),
        (3, (1500, 1400), "sphere", (43.9336, 2.3419), None),
        # on WGS 84: Formatbeschreibung RV
        (5, (1200, 1100), "wgs84", (45.69642538, 3.566994635), (55.84543856, 18.73161645)),
    ],
)
def test_radolan_grids_have_the_corners_that_dwd_publishes(tmp_path, version, shape, corner, south_west, north_east):
    from pyproj import CRS, Transformer

    (tmp_path / "a").write_bytes(radolan_bytes(np.zeros(shape, np.uint8), product="RX", version=version))
    radar = io.open_radolan(tmp_path / "a")
    assert radar.sizes["y"], radar.sizes["x"] == shape
    plane = CRS.from_cf(radar.crs.attrs)
    to_degrees = Transformer.from_crs(plane, plane.geodetic_crs, always_xy=True)
    edges = {"sw": (radar.x.values[0] - 500, radar.y.values[-1] - 500)}
    edges["ne"] = (radar.x.values[-1] + 500, radar.y.values[0] + 500)
    for edge, published in (("sw", south_west), ("ne", north_east)):
        if published is not None:
            lon, lat = to_degrees.transform(*edges[edge])
            np.testing.assert_allclose((lat, lon), published, atol=6e-5 if corner == "sphere" else 1e-7)


@pytest.mark.parametrize(("product", "stamp"), [("WN", "180700100001022"), ("FX", "180700100000922")])
def test_radolan_reflectivity_of_two_bytes_is_in_tenths_of_half_a_dbz(tmp_path, product, stamp):
    cells = np.zeros((900, 900), "<u2")
    cells[899, :6] = [0, 650, 1350, 0x2000 | 2500, 0x8000 | 2490, 1]
    content = radolan_bytes(cells, product=product, stamp=stamp, minutes=5, extra="VV 000MF 00000008")
    (tmp_path / "a").write_bytes(content)
    radar = io.open_radar(tmp_path / "a")
    field = radar.equivalent_reflectivity_factor
    assert field.dims == ("time", "y", "x") and field.attrs["units"] == "dBZ"  # lead time 0 alone is an observation
    np.testing.assert_allclose(field.values[0, 0, :6], [-32.5, 0, 35, NAN, NAN, -32.45], atol=1e-5)
    assert io.open_radolan(tmp_path / "a", keep_clutter=True).equivalent_reflectivity_factor[0, 0, 4] == 92


@pytest.mark.parametrize("product", ["RE", "W5", "PG", "HG", "QY", "RD", "ZZ"])
def test_radolan_product_that_is_not_known_is_refused_by_name(tmp_path, product):
    (tmp_path / "a").write_bytes(radolan_bytes(np.zeros((900, 900), "<u2"), product=product))
    for reader in (io.open_radolan, io.open_radar):
        with pytest.raises(ValueError, match=rf"it is the product {product}; RX, WX, .* are what this reader knows"):
            reader(tmp_path / "a")


@pytest.mark.parametrize(
    ("product", "interval", "unit", "days"),
    [
        ("SF", 1440, "", 1),
        ("SF", 1440, "U0", 1),
        ("SF", 1, "U1", 1),
        ("W1", 1008, "", 7),  # tens of minutes
        ("W1", 1008, "U0", 7),
        ("W2", 2016, "", 14),
        ("W3", 3024, "", 21),
        ("W4", 4320, "", 30),
        ("W4", 30, "U1", 30),
        ("W1", 10080, "", 7),
        ("SQ", 360, "", 0.25),
    ],
)
def test_radolan_sums_have_the_interval_that_their_header_tells(tmp_path, product, interval, unit, days):
    cells = np.full((900, 900), 48, "<u2")
    (tmp_path / "a").write_bytes(radolan_bytes(cells, product=product, precision=0, minutes=interval, unit=unit))
    radar = io.open_radolan(tmp_path / "a")
    assert (radar.time_bnds[0, 1] - radar.time_bnds[0, 0]).values == np.timedelta64(int(24 * days), "h")
    assert radar.rainfall_rate[0, 0, 0].item() == pytest.approx(2 / days, rel=1e-6)  # 48 mm


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"product": "W1", "minutes": 1440}, r"amount of 14400 minutes \(INT 1440\); W1 is one of 10080"),
        ({"product": "W1", "minutes": 1008, "unit": "U1"}, r"amount of 1451520 minutes \(INT 1008, unit U1\)"),
        ({"product": "SF", "minutes": 24}, "amount of 24 minutes .* SF is one of 1440"),
        ({"product": "RY", "minutes": 60}, "amount of 60 minutes .* RY is one of 5"),
        ({"unit": "U2"}, "in the unit U2; minutes"),
        ({"precision": 3}, "precision is 1000; from 1 to 0.001"),
        ({"precision": -9}, "precision is 1e-09"),
    ],
)
def test_radolan_header_that_contradicts_its_product_is_refused(tmp_path, changes, words):
    (tmp_path / "a").write_bytes(radolan_bytes(np.zeros((900, 900), "<u2"), **changes))
    with pytest.raises(ValueError, match=words):
        io.open_radolan(tmp_path / "a")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"product": "YW"}, r"b is YW and .*a is RY"),
        ({"product": "RW", "minutes": 60}, r"b is RW and .*a is RY"),
    ],
)
def test_radolan_products_do_not_mix(tmp_path, other, words):
    for name, changes in (("a", {}), ("b", {"stamp": "102055100000814"} | other)):
        content = radolan_bytes(np.zeros((900, 900), "<u2"), **({"product": "RY", "minutes": 5} | changes))
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        io.open_radolan([tmp_path / "a", tmp_path / "b"])


def test_the_page_on_datasets_lists_the_composites_that_are_known():
    page = (Path(__file__).resolve().parents[2] / "docs/howto/datasets.md").read_text()
    groups: dict[tuple, list[str]] = {}
    for letters, product in radolan.PRODUCTS.items():
        groups.setdefault((product.reflectivity, product.cell, product.minutes), []).append(letters)
    for (reflectivity, cell, minutes), letters in groups.items():
        length = (
            f"{minutes // 1440} days" if minutes > 1440 else f"{minutes // 60} h" if minutes >= 60 else f"{minutes} min"
        )
        holds = f"reflectivity, {'one byte' if cell == 'u1' else 'two bytes'}" if reflectivity else "rain"
        assert f"| {', '.join(letters)} | {holds} | {length} |" in page


def nowcast(lead: int, value: int = 0, stamp="180700100001022") -> bytes:
    cells = np.full((1200, 1100), value, "<u2")
    return radolan_bytes(cells, product="RV", stamp=stamp, version=5, precision=-2, minutes=5, extra=f"VV {lead:03d}")


def write_archive(path: Path, members: dict[str, bytes], mode="w:bz2") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, bytes_io.BytesIO(content))
    return path


def test_radolan_nowcasts_are_forecasts(tmp_path):
    members = {"RV_005": gzip.compress(nowcast(5, 3)), "RV_000": nowcast(0, 1)}
    path = write_archive(tmp_path / "DE1200_RV.tar.bz2", members)
    forecast = io.open_radar(path)
    assert forecast.rainfall_rate.dims == ("init_time", "lead_time", "y", "x")
    assert forecast.init_time.values == np.datetime64("2022-10-18T07:00")
    assert forecast.lead_time.values.astype("m8[m]").astype(int).tolist() == [0, 5]
    assert forecast.valid_time.values[0, 1] == np.datetime64("2022-10-18T07:05")
    assert forecast.valid_time.attrs["standard_name"] == "time"
    np.testing.assert_allclose(forecast.rainfall_rate[0, :, 0, 0], [0.12, 0.36], rtol=1e-6)
    assert cf.forecast_dims(cf.find_field(forecast))["lead_time"] == "lead_time"


def test_radolan_nowcast_that_lacks_a_lead_time_is_named(tmp_path):
    first = write_archive(tmp_path / "a.tar", {"0": nowcast(0), "5": nowcast(5)}, "w")
    second = write_archive(tmp_path / "b.tar", {"0": nowcast(0, stamp="180705100001022")}, "w")
    with pytest.raises(ValueError, match=r"forecast of 2022-10-18T07:05 \(.*b\.tar\) lacks the lead time of 5 min"):
        io.open_radolan([first, second])


def test_radolan_packed_in_any_way_is_the_same(tmp_path):
    content = radolan_bytes(rain_cells())
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "gz").write_bytes(gzip.compress(content, 1))
    (tmp_path / "bz2").write_bytes(bz2.compress(content))
    write_archive(tmp_path / "tar", {"raa01": content}, "w")
    write_archive(tmp_path / "tgz", {"raa01": gzip.compress(content, 1)}, "w:gz")
    expected = io.open_radar(tmp_path / "plain").rainfall_rate.values
    for packed in ("gz", "bz2", "tar", "tgz"):
        np.testing.assert_array_equal(io.open_radar(tmp_path / packed).rainfall_rate, expected)


def test_radolan_files_become_one_time_axis(tmp_path):
    stamps = {"b": "102055100000814", "a": "102050100000814"}
    for name, stamp in stamps.items():
        cells = np.full((900, 900), ord(name), np.uint8)
        (tmp_path / f"{name}.bin").write_bytes(radolan_bytes(cells, product="RX", stamp=stamp))
    radar = io.open_radolan(str(tmp_path / "*.bin"))
    np.testing.assert_array_equal(radar.time, np.array(["2014-08-10T20:50", "2014-08-10T20:55"], "M8[ns]"))
    np.testing.assert_array_equal(radar.equivalent_reflectivity_factor[:, 5, 5], [16.0, 16.5])
    with pytest.raises(ValueError, match=r"same time 2014-08-10T20:50.*a\.bin"):
        io.open_radolan([tmp_path / "a.bin", tmp_path / "a.bin", tmp_path / "b.bin"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no header at all, but text", "does not start with the header of a composite, but with b'no header"),
        (
            radolan_bytes(rain_cells())[:-10],
            "it has 1620[0-9]+ bytes, and 900 x 900 cells of RW with their header need",
        ),
        (radolan_bytes(np.zeros((500, 900), "<u2")), "500 x 900 cells in version 3 of the format; the grids 900 x 900"),
        (radolan_bytes(np.zeros((1100, 900), "<u2"), version=5), "the grids 900 x 900, 1200 x 1100 are what"),
        (radolan_bytes(rain_cells(), minutes=0), "amount of 0 minutes"),
        (radolan_bytes(rain_cells()).replace(b"INT  60GP", b"INT  60U1GP").replace(b"boo,ros", b"boo,r"), "unit U1"),
    ],
)
def test_radolan_file_that_cannot_be_read_is_named_with_the_cause(tmp_path, content, words):
    good, bad = tmp_path / "good.bin", tmp_path / "bad.bin"
    good.write_bytes(radolan_bytes(rain_cells(), stamp="102150100000814"))
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.bin cannot be read as DWD RADOLAN composite: .*{words}"):
        io.open_radolan([good, bad])


def test_radolan_file_whose_packing_is_truncated_is_named_when_it_is_read(tmp_path):
    rng = np.random.default_rng(0)
    packed = gzip.compress(radolan_bytes(rng.integers(0, 4096, (900, 900)).astype("<u2")), 1)
    (tmp_path / "raa01.gz").write_bytes(packed[: len(packed) // 2])
    radar = io.open_radolan(tmp_path / "raa01.gz")
    with pytest.raises(ValueError, match=r"raa01\.gz cannot be read as DWD RADOLAN composite: .*end-of-stream"):
        radar.rainfall_rate.load()


def test_real_radolan_files_hold_what_their_bytes_say(shared_data):
    folder = shared_data / "raw/dwd_radolan"
    content = gzip.decompress((folder / "raa01-rw_10000-1408102050-dwd---bin.gz").read_bytes())
    words = np.frombuffer(content[content.index(b"\x03") + 1 :], "<u2").reshape(900, 900)
    measured = words & 0x2000 == 0
    rain = io.open_radar(folder / "raa01-rw_10000-1408102050-dwd---bin.gz").rainfall_rate[0].values[::-1]
    assert (words & 0x8000).sum() == 0 and measured.mean() == pytest.approx(0.778937, abs=1e-6)
    np.testing.assert_array_equal(np.isnan(rain), ~measured)
    np.testing.assert_allclose(rain[measured], (words[measured] & 0xFFF) / 10, rtol=1e-6)

    content = gzip.decompress((folder / "raa01-rx_10000-1408102050-dwd---bin.gz").read_bytes())
    codes = np.frombuffer(content[content.index(b"\x03") + 1 :], np.uint8).reshape(900, 900)
    field = io.open_radar(folder / "raa01-rx_10000-1408102050-dwd---bin.gz").equivalent_reflectivity_factor
    np.testing.assert_array_equal(field[0].values[::-1], np.where(codes < 249, codes / 2 - 32.5, NAN))
    # the hour's rain and the echo at its end lie in one place: both know where Germany is
    wet, echo = np.nan_to_num(rain) > 1, np.nan_to_num(field[0].values[::-1]) > 30
    assert (wet & echo).sum() > 0.6 * echo.sum()


def test_real_nowcast_archive(shared_data):
    forecast = io.open_radar(shared_data / "raw/dwd_radolan/DE1200_RV2210180700.tar.bz2")
    assert forecast.rainfall_rate.shape == (1, 25, 1200, 1100)
    assert forecast.lead_time.values[-1] == np.timedelta64(120, "m")
    with tarfile.open(shared_data / "raw/dwd_radolan/DE1200_RV2210180700.tar.bz2") as archive:
        content = archive.extractfile("DE1200_RV2210180700_015").read()
    words = np.frombuffer(content[content.index(b"\x03") + 1 :], "<u2").reshape(1200, 1100)[::-1]
    rain = forecast.rainfall_rate.sel(lead_time="15min").values[0]
    np.testing.assert_allclose(rain, np.where(words & 0x2000, NAN, (words & 0xFFF) * 0.12), rtol=1e-6)


# ---- MRMS ---------------------------------------------------------------------------------------------------------


def write_mrms(path: Path, values, *, category=6, minute=0) -> Path:
    eccodes = pytest.importorskip("eccodes")
    values = np.asarray(values, float)
    message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    keys = {
        **{"Ni": values.shape[1], "Nj": values.shape[0], "dataDate": 20190610, "dataTime": minute},
        **{"latitudeOfFirstGridPointInDegrees": 54.995, "longitudeOfFirstGridPointInDegrees": 230.005},
        "latitudeOfLastGridPointInDegrees": 54.995 - 0.01 * (values.shape[0] - 1),
        "longitudeOfLastGridPointInDegrees": 230.005 + 0.01 * (values.shape[1] - 1),
        **{"iDirectionIncrementInDegrees": 0.01, "jDirectionIncrementInDegrees": 0.01},
        **{"discipline": 209, "parameterCategory": category, "parameterNumber": 1},
        "decimalPrecision": 1,
    }
    for key, value in keys.items():
        eccodes.codes_set(message, key, value)
    eccodes.codes_set_values(message, values.ravel())
    with path.open("wb") as file:
        eccodes.codes_write(message, file)
    eccodes.codes_release(message)
    return path


def test_mrms_negative_codes_are_not_measured(tmp_path):
    path = write_mrms(tmp_path / "a.grib2", [[-3, -1, 0], [0.1, 5.5, 148.8]], minute=2)
    radar = io.open_radar(path)
    assert radar.rainfall_rate.dims == ("time", "lat", "lon") and not in_memory(radar, "rainfall_rate")
    np.testing.assert_allclose(radar.rainfall_rate[0], [[NAN, NAN, 0], [0.1, 5.5, 148.8]], rtol=1e-6)
    assert radar.time.values == np.datetime64("2019-06-10T00:02")
    assert radar.lat.values.tolist() == [54.995, 54.985]
    assert radar.lon.values.tolist() == [-129.995, -129.985, -129.975]
    assert cf.grid_spacing(radar.rainfall_rate, "lat", "lon")[0] == pytest.approx(1.112, abs=1e-3)


def test_mrms_gzipped_and_several(tmp_path):
    late = write_mrms(tmp_path / "b.grib2", [[2.0, 2.0], [2.0, 2.0]], minute=2)
    early = write_mrms(tmp_path / "a.grib2", [[1.0, 1.0], [1.0, 1.0]])
    early.write_bytes(gzip.compress(early.read_bytes()))
    radar = io.open_mrms([late, early])
    np.testing.assert_array_equal(radar.rainfall_rate[:, 0, 0], [1.0, 2.0])


def test_mrms_file_of_something_else_is_named(tmp_path):
    good = write_mrms(tmp_path / "a.grib2", np.zeros((2, 2)))
    other = write_mrms(tmp_path / "b.grib2", np.zeros((2, 2)), category=10)
    with pytest.raises(ValueError, match=r"b\.grib2 cannot be read as MRMS .*holds the parameter 209\.10\.1"):
        io.open_mrms([good, other])
    other.write_bytes(good.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match=r"b\.grib2 cannot be read as MRMS .*should have \d+ bytes, of which \d+ are there"
    ):
        io.open_mrms([good, other])
    other.write_bytes(2 * good.read_bytes())
    with pytest.raises(ValueError, match="holds 2 messages"):
        io.open_mrms(other)


@pytest.mark.parametrize("keys", [{"discipline": 0}, {"parameterNumber": 2}, {"parameterCategory": 9}])
def test_mrms_other_parameters_are_refused_by_number(tmp_path, keys):
    eccodes = pytest.importorskip("eccodes")
    path = write_mrms(tmp_path / "a.grib2", np.zeros((2, 2)))
    message = eccodes.codes_new_from_message(path.read_bytes())
    for key, value in keys.items():
        eccodes.codes_set(message, key, value)
    path.write_bytes(eccodes.codes_get_message(message))
    eccodes.codes_release(message)
    with pytest.raises(ValueError, match=r"holds the parameter .* 209\.6\.1, PrecipRate, is what this reader knows"):
        io.open_mrms(path)


def test_mrms_without_eccodes_says_what_to_install(tmp_path, monkeypatch):
    path = write_mrms(tmp_path / "a.grib2", np.zeros((2, 2)))
    monkeypatch.setitem(sys.modules, "eccodes", None)
    with pytest.raises(ImportError, match=r"needs eccodes, which is not installed: pip install 'xnowcast\[io\]'"):
        io.open_mrms(path)


def test_real_mrms_file_agrees_with_its_own_picture(shared_data):
    """MRMS packs its numbers as a PNG picture (data template 5.41), which can be unpacked by hand."""
    pytest.importorskip("eccodes")
    path = shared_data / "raw/mrms_grib2/PrecipRate_00.00_20190610-000200.grib2"
    radar = io.open_radar(path)
    assert radar.rainfall_rate.shape == (1, 3500, 7000) and radar.time.values == np.datetime64("2019-06-10T00:02")
    content = path.read_bytes()
    sections, at = {}, 16
    while content[at : at + 4] != b"7777":
        length = int.from_bytes(content[at : at + 4])
        sections[content[at + 4]] = content[at + 5 : at + length]
        at += length
    assert int.from_bytes(sections[5][4:6]) == 41
    reference = np.frombuffer(sections[5][6:10], ">f4")[0]
    binary, decimal = (np.frombuffer(sections[5][i : i + 2], ">i2")[0] for i in (10, 12))
    counts = np.asarray(Image.open(bytes_io.BytesIO(sections[7])))[::7, ::11]  # a part of it does
    by_hand = (reference + counts * 2.0**binary) / 10.0**decimal
    rain = radar.rainfall_rate[0].values[::7, ::11]
    assert (by_hand < 0).any() and by_hand.max() > 50
    np.testing.assert_allclose(rain, np.where(by_hand < 0, NAN, by_hand), atol=1e-5)
    # the packing that the reader proposes loses nothing
    assert np.nanmax(np.abs(10 * rain - np.round(10 * rain))) < 1e-4


# ---- MeteoNet -----------------------------------------------------------------------------------------------------

LAT, LON = [46.245, 46.235], [2.005, 2.015, 2.025]


def write_coordinates(folder: Path, zone="SE") -> None:
    lon, lat = np.meshgrid(LON, LAT)
    np.savez(folder / f"radar_coords_{zone}.npz", lats=lat, lons=lon)


def write_meteonet(path: Path, maps, minutes, *, missing=()) -> Path:
    start = datetime(2016, 8, 21)
    dates, lacking = (
        np.array([start + timedelta(minutes=m) for m in times] + [None], object)[:-1] for times in (minutes, missing)
    )
    np.savez_compressed(path, data=np.asarray(maps, np.int16), dates=dates, miss_dates=lacking)
    return path


def test_meteonet_rainfall_is_hundredths_of_a_millimetre_in_five_minutes(tmp_path):
    write_coordinates(tmp_path)
    maps = [[[0, 25, -1], [1, 500, 0]], [[7, 7, 7], [7, 7, 7]]]
    path = write_meteonet(tmp_path / "rainfall_SE_2016_08.3.npz", maps, [10, 55], missing=[0, 5])
    radar = io.open_radar(path)
    assert not in_memory(radar, "rainfall_rate") and radar.rainfall_rate.dims == ("time", "lat", "lon")
    np.testing.assert_allclose(radar.rainfall_rate[0], [[0, 3, NAN], [0.12, 60, 0]], rtol=1e-6)
    np.testing.assert_array_equal(radar.time, np.array(["2016-08-21T00:10", "2016-08-21T00:55"], "M8[ns]"))
    np.testing.assert_array_equal(radar.missing_times, np.array(["2016-08-21T00:00", "2016-08-21T00:05"], "M8[ns]"))
    assert radar.lat.values.tolist() == LAT and radar.lon.values.tolist() == LON
    assert "Etalab" in radar.attrs["license"]


@pytest.mark.parametrize(
    ("kind", "stored", "dbz", "dry"),
    [
        ("reflectivity_old", [0, 8, 70, 255], [0, 8, 70, NAN], 0.0),
        ("reflectivity_new", [-100, -90, 455, -200], [-10, -9, 45.5, NAN], -10.0),
    ],
)
def test_meteonet_reflectivities(tmp_path, kind, stored, dbz, dry):
    write_coordinates(tmp_path)
    np.savez(tmp_path / "radar_coords_NW.npz", lats=[[50.0] * 4, [49.9] * 4], lons=[[1.0, 2.0, 3.0, 4.0]] * 2)
    path = write_meteonet(tmp_path / f"{kind}_NW_2018_03.1.npz", [[stored, stored]], [0])
    field = io.open_meteonet(path).equivalent_reflectivity_factor
    np.testing.assert_allclose(field.values[0, 1], dbz, rtol=1e-6)
    rain = cf.rain_rate(field).values[0, 0]
    assert field.attrs["zerovalue"] == dry and rain[0] == 0 and rain[1] > 0 and np.isnan(rain[3])
    np.testing.assert_allclose(rain[2], (10 ** (dbz[2] / 10) / 200) ** (1 / 1.6), rtol=1e-5)


def test_meteonet_archives_become_one_time_axis(tmp_path):
    write_coordinates(tmp_path)
    (tmp_path / "2016/deep").mkdir(parents=True)
    maps = np.arange(3)[:, None, None] * np.ones((2, 3))
    late = write_meteonet(tmp_path / "2016/rainfall_SE_2016_08.2.npz", 100 + maps, [60, 65, 70])
    early = write_meteonet(tmp_path / "2016/deep/rainfall_SE_2016_08.1.npz", maps, [0, 5, 10])
    radar = io.open_meteonet([late, early])  # the coordinates are found in a folder above
    np.testing.assert_allclose(radar.rainfall_rate[:, 0, 0] / 0.12, [0, 1, 2, 100, 101, 102], rtol=1e-6)
    np.testing.assert_allclose(radar.rainfall_rate[[4, 1], 0, 0] / 0.12, [101, 1], rtol=1e-6)
    assert windows.time_axis(radar.rainfall_rate, "time").slots.tolist() == [0, 1, 2, 12, 13, 14]
    with pytest.raises(ValueError, match=r"2016_08\.1\.npz and .*2016_08\.9\.npz have times in common"):
        io.open_meteonet([early, write_meteonet(tmp_path / "rainfall_SE_2016_08.9.npz", maps[:1], [10])])


class _Trap:
    def __reduce__(self):
        return (print, ("this would have been run",))


class _Stated:
    """Anything that an unpickler may call, with a state given to it afterwards."""

    def __init__(self, function, arguments, state):
        self.reduced = function, arguments, state

    def __reduce__(self):
        return self.reduced


def write_dates(path: Path, pickled: bytes, length: int = 1) -> Path:
    """An archive of one map, with dates of any bytes."""
    write_coordinates(path.parent)

    def array(header, body):
        file = bytes_io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"fortran_order": False} | header)
        return file.getvalue() + body

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.npy", array({"shape": (1, 2, 3), "descr": "<i2"}, bytes(12)))
        for name in ("dates", "miss_dates"):
            archive.writestr(f"{name}.npy", array({"shape": (length,), "descr": "|O"}, pickled))
    return path


NOON = datetime(2016, 8, 21, 12)


def test_meteonet_dates_cannot_run_code(tmp_path, capsys):
    trap = np.array([_Trap(), None], object)[:1]
    path = write_dates(tmp_path / "rainfall_SE_2016_08.3.npz", pickle.dumps(trap))
    with pytest.raises(ValueError, match=r"its dates hold builtins\.print; datetime objects are expected"):
        io.open_meteonet(path)
    assert capsys.readouterr().out == ""


def _crafted() -> dict[str, bytes]:
    """Pickles of the names alone that dates need, which are no dates."""
    rebuild = np.zeros(0, object).__reduce__()[0]
    fields = _Stated(np.dtype, ("V8",), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))
    raw = _Stated(np.dtype, ("O8", False, True), (3, "|", None, None, None, 8, 1, 0))
    arguments = (np.ndarray, (0,), b"b")
    zone = np.array([datetime(2016, 8, 21, tzinfo=UTC), None], object)[:1]
    plain = pickle.dumps(np.array([NOON, None], object)[:1])
    return {
        "fields of a type": pickle.dumps(_Stated(rebuild, arguments, (1, (1,), fields, False, bytes(8)))),
        "raw memory": pickle.dumps(_Stated(rebuild, arguments, (1, (1,), raw, False, bytes(8)))),
        "a plain date": pickle.dumps(NOON),
        "a zone": pickle.dumps(zone),
        "nothing": pickle.dumps(np.array([None], object)),
        "an array in an array": pickle.dumps(np.array([np.array([NOON]), None], object)[:1]),
        "too few": pickle.dumps(np.array([NOON] * 2)[:0]),
        "protocol 5": pickle.dumps(np.array([NOON]), protocol=5),
        "cut off": plain[:-9],
        "no end": plain[:-1],
        "year 1": pickle.dumps(np.array([datetime(1, 1, 1)])),
        "month 13": plain.replace(b"\x07\xe0\x08", b"\x07\xe0\x0d"),
        "empty": b"",
        "no pickle": b"2016-08-21",
    }


@pytest.mark.parametrize("name", _crafted())
def test_meteonet_dates_that_are_none_are_refused_without_unpickling(tmp_path, monkeypatch, name):
    path = write_dates(tmp_path / "rainfall_SE_2016_08.3.npz", _crafted()[name])
    monkeypatch.setattr(pickle, "Unpickler", None)
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "load", None)
    with pytest.raises(ValueError, match=r"08\.3\.npz cannot be read as MeteoNet radar archive"):
        io.open_meteonet(path)


def _by_python_2(*days: int) -> bytes:
    """What Python 2 wrote: text where later versions write bytes. The class is remembered (q) and recalled (h)."""
    entries = [b"U\n\x07\xe0\x08%c\x0c\x00\x00\x00\x00\x00\x85R" % day for day in days]
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K%c\x85"
        % len(days)
        + b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]("
        + b"cdatetime\ndatetime\nq\x01"
        + b"h\x01".join(entries)
        + b"etb."
    )


def test_meteonet_dates_that_python_2_wrote_are_read(tmp_path):
    path = write_dates(tmp_path / "rainfall_SE_2016_08.3.npz", _by_python_2(21))
    assert io.open_meteonet(path).time.values == np.datetime64("2016-08-21T12:00")
    expected = np.array(["2016-08-21T12", "2016-08-23T12"], "M8[ns]")
    np.testing.assert_array_equal(pickled_dates.dates(_by_python_2(21, 23), (2,)), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_meteonet_dates_of_any_pickle_protocol_are_read(protocol, count):
    days = np.array([datetime(2016, 8, 21 + day, 12, 5, 30, 250000) for day in range(count)] + [None], object)[:-1]
    expected = np.array([f"2016-08-{21 + day}T12:05:30.250" for day in range(count)], "M8[ns]")
    np.testing.assert_array_equal(pickled_dates.dates(pickle.dumps(days, protocol=protocol), (count,)), expected)


def test_meteonet_maps_that_cannot_hold_their_missing_value_are_refused(tmp_path):
    write_coordinates(tmp_path)
    dates = np.array([NOON, None], object)[:1]
    path = tmp_path / "rainfall_SE_2016_08.3.npz"
    np.savez(path, data=np.full((1, 2, 3), 65535, np.uint16), dates=dates, miss_dates=dates[:0])
    with pytest.raises(ValueError, match=r"08\.3\.npz .*its maps are uint16, which cannot hold -1"):
        io.open_meteonet(path)


def test_meteonet_archive_that_cannot_be_read_is_named(tmp_path):
    path = write_meteonet(tmp_path / "rainfall_SE_2016_08.3.npz", np.zeros((2, 2, 3)), [0, 5])
    with pytest.raises(ValueError, match=r"radar_coords_SE\.npz .* is not beside .*rainfall_SE_2016_08\.3\.npz"):
        io.open_meteonet(path)
    write_coordinates(tmp_path)
    other = write_meteonet(tmp_path / "rainfall_SE_2016_08.4.npz", np.zeros((2, 3, 3)), [10, 15])
    with pytest.raises(ValueError, match=r"maps of .*08\.4\.npz are \(3, 3\), the coordinates \(2, 3\)"):
        io.open_meteonet([path, other])
    other = write_meteonet(tmp_path / "reflectivity_old_SE_2016_08.4.npz", np.zeros((2, 2, 3)), [10, 15])
    with pytest.raises(ValueError, match=r"reflectivity_old.* holds reflectivity_old and .* holds rainfall"):
        io.open_meteonet([path, other])
    nameless = write_meteonet(tmp_path / "maps.npz", np.full((2, 2, 3), 10), [10, 15])
    with pytest.raises(ValueError, match=r"maps\.npz does not tell by its name what it holds"):
        io.open_meteonet(nameless)
    named = io.open_meteonet(nameless, quantity="reflectivity_old", coordinates=tmp_path / "radar_coords_SE.npz")
    assert named.equivalent_reflectivity_factor.max() == 10
    np.savez(tmp_path / "rainfall_SE_2016_08.5.npz", data=np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match=r"08\.5\.npz .*data, dates and miss_dates are expected"):
        io.open_meteonet(tmp_path / "rainfall_SE_2016_08.5.npz")
    backwards = write_meteonet(tmp_path / "rainfall_SE_2016_08.6.npz", np.zeros((2, 2, 3)), [5, 0])
    with pytest.raises(ValueError, match=r"08\.6\.npz .*its dates do not rise"):
        io.open_meteonet(backwards)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_meteonet_truncated_archive_is_named(tmp_path, kept):
    write_coordinates(tmp_path)
    path = write_meteonet(tmp_path / "rainfall_SE_2016_08.3.npz", np.zeros((2, 2, 3)), [0, 5])
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    for reader in (io.open_meteonet, io.open_radar):
        with pytest.raises(ValueError, match=r"rainfall_SE_2016_08\.3\.npz cannot be read as .*not a zip file"):
            reader(path)


def test_meteonet_damage_inside_an_archive_is_named_when_it_is_read(tmp_path):
    write_coordinates(tmp_path)
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 999, (3000, 2, 3))
    path = write_meteonet(tmp_path / "rainfall_SE_2016_08.3.npz", maps, range(0, 15000, 5))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("data.npy")
    middle = member.header_offset + member.compress_size // 2
    content[middle : middle + 50] = bytes(50)
    path.write_bytes(content)
    radar = io.open_meteonet(path)
    with pytest.raises(ValueError, match=r"rainfall_SE_2016_08\.3\.npz cannot be read as MeteoNet radar archive"):
        radar.rainfall_rate.load()


@pytest.mark.parametrize("name", ["rainfall_SE_2016_08.3", "reflectivity_old_SE_2016_08.3"])
def test_real_meteonet_archives_hold_what_numpy_reads(shared_data, name):
    path = shared_data / f"raw/meteonet/{name}.npz"
    radar = io.open_radar(path)
    with np.load(path, allow_pickle=True) as archive:  # the shared sample is trusted
        stored, dates = archive["data"], archive["dates"].astype("M8[ns]")
    field = radar[cf.find_field(radar).name][[20, 3, 11]].values
    np.testing.assert_array_equal(radar.time, dates)
    gone, scale = (-1, 0.12) if "rainfall" in name else (255, 1)
    stored = stored[[20, 3, 11]]
    np.testing.assert_allclose(field, np.where(stored == gone, NAN, stored * scale), rtol=1e-6)
    assert (radar.lat.values[[0, -1]], radar.lon.values[[0, -1]]) == (
        pytest.approx([46.245, 41.105]),
        pytest.approx([2.005, 9.835]),
    )


def test_real_arome_rain_is_the_growth_of_the_sums_of_the_file(shared_data):
    eccodes = pytest.importorskip("eccodes")
    path = shared_data / "raw/meteonet/arome_PRECIP_SE_20180501000000.grib"
    rain = io.open_radar(path).precipitation_rate
    assert rain.dims == ("init_time", "lead_time", "lat", "lon") and rain.shape == (1, 24, 207, 315)
    assert rain.init_time.values == np.datetime64("2018-05-01") and rain.attrs["units"] == "mm h-1"
    assert rain.lead_time.values[[0, -1]].astype("m8[h]").astype(int).tolist() == [1, 24]
    with path.open("rb") as file:
        sums = [eccodes.codes_get_values(eccodes.codes_grib_new_from_file(file)) for _ in range(24)]
    hourly = np.diff([np.zeros_like(sums[0]), *sums], axis=0)
    assert hourly.min() < -0.4  # the sums fall here and there
    np.testing.assert_allclose(rain.values.reshape(24, -1), np.maximum(hourly, 0), atol=1e-4)
    assert cf.find_field(rain).quantity == "rain_rate"


def test_real_arpege_variables(shared_data):
    pytest.importorskip("eccodes")
    path = shared_data / "raw/meteonet/arpege_10m_SE_20180501000000.grib"
    wind = io.open_meteonet_model(path)
    assert {name for name in wind if wind[name].ndim == 4} == {"u10", "v10", "ws", "wdir"}
    np.testing.assert_allclose(np.hypot(wind.u10, wind.v10), wind.ws, atol=0.02)
    assert wind.u10.attrs["standard_name"] == "eastward_wind" and wind.u10.attrs["units"] == "m s-1"
    assert set(io.open_radar(path, variable="u10").data_vars) == {"u10", "crs"}
    with pytest.raises(ValueError, match=r"no variable 'tp' in .*; there are u10, v10, wdir, ws"):
        io.open_meteonet_model(path, variable="tp")


# ---- SEVIR --------------------------------------------------------------------------------------------------------

PROJECTION = "+proj=laea +lat_0=38 +lon_0=-98 +units=m +a=6370997.0 +ellps=sphere "


def write_sevir(
    folder: Path, events: dict[str, str], *, name="SEVIR_VIL_STORMEVENTS_2018_0101_0630.h5", **changes
) -> Path:
    """Events {id: time_utc} of 8 x 8 pixels and 5 frames, and their lines in the catalogue."""
    path = folder / "data/vil/2018" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(name))
    with h5py.File(path, "w") as file:
        file["id"] = np.array([event.encode() for event in events])
        file["vil"] = rng.integers(0, 256, (len(events), 8, 8, 5), dtype=np.uint8)
    catalog = folder / "CATALOG.csv"
    rows = [
        {
            **{"id": event, "file_name": f"vil/2018/{name}", "file_index": index, "img_type": "vil", "time_utc": time},
            **{"minute_offsets": "-10:-5:0:5:10", "episode_id": "", "event_type": "Hail", "proj": PROJECTION},
            **{"llcrnrlat": 38.0, "llcrnrlon": -98.0, "urcrnrlat": 38.1, "urcrnrlon": -97.9},
            **{"size_x": 8, "size_y": 8, "height_m": 8000.0, "width_m": 8000.0},
            **changes,
        }
        for index, (event, time) in enumerate(events.items())
    ]
    rows.append(rows[0] | {"img_type": "vis", "file_name": "vis/2018/SEVIR_VIS.h5"})
    new = not catalog.exists()
    with catalog.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if new:
            writer.writeheader()
        writer.writerows(rows)
    return path


def test_sevir_pixels_follow_the_published_formula():
    vil = vil_of_pixel()
    # the thresholds that the papers give in both units: 16, 74, 133, 160, 181, 219
    np.testing.assert_allclose(vil[[16, 74, 133, 160, 181, 219]], [0.154, 0.775, 3.53, 7.07, 12.14, 32.23], rtol=3e-3)
    assert (vil[:6] == 0).all() and vil[6] == np.float32(4 / 90.66) and np.isnan(vil[255])
    assert (np.diff(vil[5:255]) > 0).all()
    from xnowcast.verify import sevir_pixel_to_vil

    np.testing.assert_allclose(vil[:255], sevir_pixel_to_vil(xr.DataArray(np.arange(255))), rtol=1e-5)


def test_sevir_events_are_sorted_and_know_their_times(tmp_path):
    path = write_sevir(tmp_path, {"S2": "2018-05-01 12:00:00", "S1": "2018-03-01 18:30:00"})
    storms = io.open_radar(path)
    assert storms.vil.dims == ("event", "time", "y", "x") and not in_memory(storms, "vil")
    assert storms.event.values.tolist() == ["S1", "S2"] and storms.vil.attrs["units"] == "kg m-2"
    expected = np.array(["2018-03-01T18:20", "2018-05-01T11:50"], "M8[ns]")
    np.testing.assert_array_equal(storms.valid_time[:, 0], expected)
    assert (storms.valid_time[0, -1] - storms.valid_time[0, 0]).values == np.timedelta64(20, "m")
    with h5py.File(path) as file:
        pixels = file["vil"][1]  # (y, x, time), rows from the south
    np.testing.assert_array_equal(storms.vil[0], vil_of_pixel()[np.moveaxis(pixels, -1, 0)[:, ::-1]])
    field = cf.find_field(storms)
    assert (field.quantity, field.time, field.extra) == ("vil", "time", ("event",))
    assert cf.grid_spacing(storms.vil, "y", "x") == (1.0, 1.0)
    assert windows.time_axis(field.array, "time").step == np.timedelta64(5, "m")


def test_sevir_single_event_is_georeferenced(tmp_path):
    path = write_sevir(tmp_path, {"S2": "2018-05-01 12:00:00", "S1": "2018-03-01 18:30:00"})
    storm = io.open_sevir(path, event="S2")
    assert storm.vil.dims == ("time", "y", "x") and storm.time.values[2] == np.datetime64("2018-05-01T12:00")
    # the south-west corner of this event is the origin of the projection
    assert storm.x.values.tolist() == (np.arange(8) * 1000 + 500.0).tolist()
    assert storm.y.values.tolist() == (np.arange(8)[::-1] * 1000 + 500.0).tolist()
    assert storm.lat.values[-1, 0] == pytest.approx(38.0 + 0.5 / 111.19, abs=1e-3)
    assert storm.crs.attrs["grid_mapping_name"] == "lambert_azimuthal_equal_area"
    np.testing.assert_array_equal(storm.vil[1:4, 2], io.open_sevir(path).vil.sel(event="S2")[1:4, 2])
    forecast = storm.fillna(0).nowcast.forecast("persistence", steps=2)
    np.testing.assert_array_equal(forecast.vil.isel(init_time=0, lead_time=1), storm.fillna(0).vil[-1])


def test_sevir_periods_are_half_open_and_span_files(tmp_path):
    write_sevir(tmp_path, {"S3": "2019-01-01 00:00:00", "S1": "2018-12-31 23:59:00"})
    write_sevir(tmp_path, {"R2": "2018-12-31 12:00:00"}, name="SEVIR_VIL_RANDOMEVENTS_2018.h5")
    pattern = str(tmp_path / "data/vil/**/*.h5")
    assert io.open_sevir(pattern).event.values.tolist() == ["R2", "S1", "S3"]
    assert io.open_sevir(pattern, period=("2018-12-31", "2019-01-01")).event.values.tolist() == ["R2", "S1"]
    opened = storage.open_input(f"{pattern}#2019-01-01/2019-06-01")
    assert opened.event.values.tolist() == ["S3"] and opened.vil.chunks is not None
    with pytest.raises(ValueError, match="no event from 2020-01-01 to 2021-01-01"):
        io.open_sevir(pattern, period=("2020-01-01", "2021-01-01"))
    with pytest.raises(ValueError, match="no event S9"):
        io.open_sevir(pattern, event="S9")


def test_sevir_events_that_are_there_twice_or_differ_are_left_out_and_listed(tmp_path):
    first = write_sevir(tmp_path, {"S1": "2018-05-01 12:00:00", "S2": "2018-05-02 12:00:00"})
    odd = {"minute_offsets": "-20:-10:0:10:20"}
    second = write_sevir(tmp_path, {"S2": "2018-05-03 12:00:00"}, name="b.h5")
    third = write_sevir(tmp_path, {"S4": "2018-05-04 12:00:00"}, name="c.h5", **odd)
    storms = io.open_sevir([first, second, third])
    assert storms.event.values.tolist() == ["S1"] and storms.attrs["left_out_events"] == "S2 S4"
    assert io.open_sevir(third).valid_time.values[0, 0] == np.datetime64("2018-05-04T11:40")
    assert io.open_sevir([first, third], event="S4").time.values[1] == np.datetime64("2018-05-04T11:50")
    with pytest.raises(ValueError, match="a file is given twice"):
        io.open_sevir([first, first])


def test_sevir_file_that_does_not_fit_its_catalogue_is_named(tmp_path):
    path = write_sevir(tmp_path, {"S1": "2018-05-01 12:00:00", "S2": "2018-05-02 12:00:00"})
    catalog = tmp_path / "CATALOG.csv"
    good = catalog.read_text()
    catalog.rename(tmp_path / "elsewhere.csv")
    with pytest.raises(ValueError, match=r"CATALOG\.csv, which tells when and where the events are, is not beside"):
        io.open_sevir(path)
    assert io.open_sevir(path, catalog=tmp_path / "elsewhere.csv").sizes["event"] == 2
    for change, words in {
        ("S1,", "S7,"): "the catalogue has event S7 at 0, the file has S1 there",
        ("-10:-5:0:5:10", "-5:0:5:10"): "does not have the 5 frames of 8 x 8 pixels",
        ("STORMEVENTS", "OTHER"): "the catalogue does not know it",
        ("minute_offsets", "offsets"): "no column minute_offsets",
    }.items():
        catalog.write_text(good.replace(*change))
        with pytest.raises(ValueError, match=words):
            io.open_sevir(path)
    catalog.write_text(good)
    with h5py.File(path, "w") as file:
        file["vis"] = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"0630\.h5 cannot be read as SEVIR VIL file: it holds vis; id and vil"):
        io.open_sevir(path)
    for kind, events in ((np.float32, 2), (np.int16, 2), (np.uint8, 3)):
        with h5py.File(path, "w") as file:
            file["id"], file["vil"] = np.array([b"S1", b"S2"]), np.zeros((events, 8, 8, 5), kind)
        with pytest.raises(ValueError, match=r"0630\.h5 cannot be read as .*uint8 and an id for each are expected"):
            io.open_sevir(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=r"0630\.h5 cannot be read as SEVIR VIL file"):
        io.open_sevir(path)


def test_sevir_is_opened_for_training_as_one_sequence_an_event(tmp_path):
    from xnowcast.training.sequences import open_events
    from xnowcast.training.windows import find_windows

    path = write_sevir(tmp_path, {"S1": "2018-05-01 12:00:00", "S2": "2018-05-02 12:00:00"})
    events = open_events([str(path)])
    assert len(events) == 2 and [event.axis.step for event in events] == 2 * [np.timedelta64(5, "m")]
    assert len(find_windows(events, 4)) == 4


def test_sevir_scaling_of_models_is_the_pixel_of_the_file():
    torch = pytest.importorskip("torch")
    from xnowcast.models.transforms import SCALINGS

    pixels = np.arange(6, 255)
    scaled = SCALINGS["sevir"](torch.tensor(vil_of_pixel()[6:255]))
    np.testing.assert_allclose(255 * scaled, pixels, rtol=1e-5)
    np.testing.assert_allclose(SCALINGS["sevir"].inverse(scaled), vil_of_pixel()[6:255], rtol=1e-4)
    assert SCALINGS["sevir"](torch.zeros(1)) == 0 and SCALINGS["sevir"].inverse(torch.zeros(1)) == 0


def test_sevir_trains_a_model_of_vertically_integrated_liquid(tmp_path):
    pytest.importorskip("lightning")
    import xnowcast

    path = write_sevir(tmp_path, {"S1": "2018-05-01 12:00:00", "S2": "2018-06-02 12:00:00"})
    options = {"size": "tiny", "input_frames": 2, "target_frames": 2, "steps": 1, "crop": 8, "batch_size": 1}
    options["adversarial_loss"] = False  # the adversary needs larger crops
    data, held = f"{path}#2018-05-01/2018-06-01", f"{path}#2018-06-01/"
    with pytest.raises(ValueError, match=r"'db-convlstm' reads rain_rate, and .* is vil"):
        xnowcast.train("db-convlstm", data, validation=held, **options)
    model = xnowcast.train(
        "db-convlstm", data, validation=held, scaling="sevir", progress=False, validation_crops=1, **options
    )
    storm = io.open_sevir(path, event="S2")
    forecast = storm.nowcast.forecast(model, steps=2)
    assert forecast.vil.attrs["units"] == "kg m-2" and 0 <= float(forecast.vil.min()) <= float(forecast.vil.max()) < 90


# ---- HKO-7 --------------------------------------------------------------------------------------------------------


def write_picture(path: Path, *pixels: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((480, 480), np.uint8)
    picture[0, : len(pixels)] = pixels
    Image.fromarray(picture).save(path, format="PNG")
    return path


def write_mask(path: Path, *invalid: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    valid = np.ones((480, 480), bool)
    valid[0, list(invalid)] = False
    path.write_bytes(zlib.compress(valid.tobytes(), 2))
    return path


def test_hko7_pixels_are_70_255ths_of_a_dbz_above_minus_10(tmp_path):
    radar = io.open_radar(write_picture(tmp_path / "RAD150722120600.png", 0, 51, 255, 84, 117, 140, 158, 185))
    field = radar.equivalent_reflectivity_factor
    assert not in_memory(radar, field.name)
    np.testing.assert_allclose(field.values[0, 0, :3], [-10, 4, 60])
    # 0.5, 2, 5, 10 and 30 mm/h lie at 83.7, 117.9, 140.5, 157.6 and 184.8 of 255
    rain = cf.rain_rate(field).values[0, 0]
    np.testing.assert_allclose(rain[3:8], [0.5, 2, 5, 10, 30], rtol=0.04)
    assert rain[0] == 0 and rain[1] > 0
    assert radar.time.values == np.datetime64("2015-07-22T12:06")
    assert cf.grid_spacing(field, "y", "x") == pytest.approx((512 / 480, 512 / 480))
    assert "lat" not in radar and "crs" not in radar


def test_hko7_masks_beside_the_pictures_take_out_what_is_no_rain(tmp_path):
    day = "2015/07/22"
    path = write_picture(tmp_path / "radarPNG" / day / "RAD150722120600.png", 100, 100, 100)
    assert io.open_hko7(path).equivalent_reflectivity_factor.isnull().sum() == 0  # there are no masks
    mask = write_mask(tmp_path / "radarPNG_mask" / day / "RAD150722120600.mask", 1)
    expected = [True, False, True]
    for radar in (io.open_hko7(path), io.open_hko7(path, masks=tmp_path / "radarPNG_mask")):
        assert radar.equivalent_reflectivity_factor.notnull().values[0, 0, :3].tolist() == expected
    assert io.open_hko7(path, masks=False).equivalent_reflectivity_factor.notnull().all()
    mask.write_bytes(zlib.compress(bytes(7)))
    with pytest.raises(ValueError, match=r"120600\.mask cannot be read as HKO-7 mask: it has 7 flags"):
        io.open_hko7(path).load()
    mask.unlink()
    with pytest.raises(ValueError, match=r"120600\.png cannot be read as .* its mask .*120600\.mask does not exist"):
        io.open_hko7(path)
    with pytest.raises(ValueError, match="is no folder"):
        io.open_hko7(path, masks=tmp_path / "absent")


def test_hko7_pattern_over_days_is_one_time_axis(tmp_path):
    for day, name in (("22", "RAD150722235400"), ("23", "RAD150723000000")):
        write_picture(tmp_path / f"radarPNG/2015/07/{day}/{name}.png", int(day))
    radar = storage.open_input(str(tmp_path / "radarPNG/2015/**/*.png"))
    assert windows.time_axis(radar.equivalent_reflectivity_factor, "time").step == np.timedelta64(6, "m")
    assert radar.equivalent_reflectivity_factor.chunks[0] == (1, 1)
    later = storage.open_input(str(tmp_path / "radarPNG/**/*.png") + "#2015-07-23/")
    np.testing.assert_array_equal(later.time, np.array(["2015-07-23"], "M8[ns]"))


def test_hko7_with_a_centre_has_a_projection(tmp_path):
    radar = io.open_hko7(write_picture(tmp_path / "RAD150722120600.png", 1), centre=(22.3, 114.2))
    assert radar.crs.attrs["grid_mapping_name"] == "azimuthal_equidistant"
    middle = radar.isel(y=slice(239, 241), x=slice(239, 241))
    assert (middle.lat.mean().item(), middle.lon.mean().item()) == pytest.approx((22.3, 114.2), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "pixels", "words"),
    [
        ("radar.png", np.zeros((480, 480), np.uint8), "its name has no time; RADyymmddHHMMSS.png"),
        ("RAD150722120600.png", np.zeros((100, 480), np.uint8), r"picture of \(100, 480\) uint8; 480 x 480 grey"),
    ],
)
def test_hko7_picture_that_does_not_fit_is_named(tmp_path, name, pixels, words):
    Image.fromarray(pixels).save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as HKO-7 picture: .*{words}"):
        io.open_hko7(tmp_path / name).load()


def test_hko7_truncated_picture_is_named(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "RAD150722120600.png"
    Image.fromarray(rng.integers(0, 256, (480, 480)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"RAD150722120600\.png cannot be read as HKO-7 picture"):
        io.open_radar(path).load()


# ---- MLCast -------------------------------------------------------------------------------------------------------


def mlcast_store(path: Path, times=(0, 5, 15), **attrs) -> Path:
    about = {"standard_name": "rainfall_flux", "units": "kg m-2 h-1", "grid_mapping": "crs"} | attrs
    start = np.datetime64("2024-06-01T00:00", "ns")
    rain = np.arange(len(times) * 12, dtype=np.float16).reshape(len(times), 3, 4)
    rain[0, 0, 0] = NAN
    store = xr.Dataset(
        {
            "RR": (("time", "y", "x"), rain, {k: v for k, v in about.items() if v}),
            "crs": ((), 0, {"grid_mapping_name": "latitude_longitude"}),
            "quality": (("time", "y", "x"), rain),
            "missing_times": ("missing_times", [start + np.timedelta64(10, "m")]),
        },
        {
            "time": ("time", start + np.array(times) * np.timedelta64(1, "m")),
            "y": ("y", [2000.0, 1000.0, 0.0], {"standard_name": "projection_y_coordinate", "units": "m"}),
            "x": ("x", [0.0, 1000.0, 2000.0, 3000.0], {"standard_name": "projection_x_coordinate", "units": "m"}),
        },
        {"license": "CC-BY-4.0", "mlcast_dataset_version": "0.1"},
    )
    store.chunk(time=1).to_zarr(path, consolidated=True, zarr_format=2)
    return path


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_mlcast_store_gives_its_field_its_gaps_and_its_licence(tmp_path):
    radar = io.open_mlcast(mlcast_store(tmp_path / "it.zarr"))
    assert radar.RR.dtype == np.float32 and radar.RR.chunks is not None and "quality" not in radar
    np.testing.assert_array_equal(radar.RR[0, 0], [NAN, 1, 2, 3])
    assert radar.attrs["license"] == "CC-BY-4.0" and radar.sizes["missing_times"] == 1 and "crs" in radar.variables
    assert windows.time_axis(radar.RR, "time").slots.tolist() == [0, 1, 3]
    assert cf.find_field(radar).conversion.factor == 1.0
    radar.to_zarr(tmp_path / "again.zarr")


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"standard_name": "air_temperature"}, "there is no precipitation field"),
        ({"units": "K"}, "has units 'K', which are no precipitation's"),
        ({"times": (0, 10, 5)}, "the times fall after"),
        ({"times": (0, 5, 5)}, "stands twice"),
    ],
)
def test_mlcast_store_that_will_not_do_is_named(tmp_path, changes, words):
    with pytest.raises(ValueError, match=rf"bad\.zarr: .*{words}"):
        io.open_mlcast(mlcast_store(tmp_path / "bad.zarr", **changes))
    with pytest.raises(ValueError, match=r"absent\.zarr is no Zarr store that can be read"):
        io.open_mlcast(tmp_path / "absent.zarr")


# ---- ODIM of any country ------------------------------------------------------------------------------------------


def write_odim(path: Path, where: dict, *datasets: dict, time="120000") -> Path:
    """Each dataset is {group: (array, what)}; the key None holds the dataset's own what."""
    with h5py.File(path, "w") as file:
        file.create_group("what").attrs.update(object="COMP", date="20240601", time=time, source="ORG:1")
        file.create_group("where").attrs.update(where)
        for number, dataset in enumerate(datasets, start=1):
            file.create_group(f"dataset{number}/what").attrs.update(dataset.pop(None, {}))
            for group, (array, what) in dataset.items():
                file[f"dataset{number}/{group}/data"] = array
                file.create_group(f"dataset{number}/{group}/what").attrs.update(what)
    return path


PLANES = {
    "utm": ("+proj=utm +zone=33 +ellps=WGS84", "universal"),
    "epsg": ("EPSG:3067", "transverse_mercator"),
    "stere": ("+proj=stere +lat_0=90 +lon_0=14 +lat_ts=60 +a=6371000 +b=6371000", "polar_stereographic"),
    "merc": ("+proj=merc +lat_ts=0 +lon_0=12 +ellps=WGS84", "mercator"),
    "aeqd": ("+proj=aeqd +lat_0=47.6 +lon_0=14.3 +ellps=sphere", "azimuthal_equidistant"),
    "lcc": ("+proj=lcc +lat_1=46 +lat_2=48 +lon_0=15 +lat_0=46.9 +ellps=sphere", "lambert_conformal_conic"),
    "laea on a sphere": ("+proj=laea +lat_0=55 +lon_0=15 +R=6371000", "lambert_azimuthal_equal_area"),
}


@pytest.mark.parametrize("plane", PLANES)
def test_odim_of_any_projection_lies_where_its_corner_says(tmp_path, plane):
    projdef, _ = PLANES[plane]
    where = {
        "projdef": projdef,
        "xscale": 1000.0,
        "yscale": 2000.0,
        "xsize": 4,
        "ysize": 3,
        "LL_lon": 14.5,
        "LL_lat": 60.0,
    }
    what = {"quantity": "RATE", "gain": 0.1, "offset": 0.0, "nodata": 65535.0, "undetect": 0.0}
    path = write_odim(tmp_path / "a.h5", where, {"data1": (np.full((3, 4), 20, np.uint16), what)})
    radar = io.open_radar(path)
    np.testing.assert_allclose(radar.rainfall_rate, 2.0, rtol=1e-6)
    from pyproj import CRS, Transformer

    mapping = CRS.from_cf(radar.crs.attrs)
    to_degrees = Transformer.from_crs(mapping, mapping.geodetic_crs, always_xy=True)
    lon, lat = to_degrees.transform(radar.x.values[0] - 500, radar.y.values[-1] - 1000)
    assert (lon, lat) == pytest.approx((14.5, 60.0), abs=1e-6)


def test_odim_in_degrees_is_a_latitude_longitude_grid(tmp_path):
    where = {"projdef": "+proj=longlat +ellps=WGS84", "xscale": 0.02, "yscale": 0.01, "xsize": 3, "ysize": 2}
    what = {"quantity": "DBZH", "gain": 0.5, "offset": -32.0, "nodata": 255.0, "undetect": 0.0}
    array = np.array([[0, 104, 255], [64, 65, 66]], np.uint8)
    path = write_odim(tmp_path / "a.h5", where | {"LL_lon": 10.0, "LL_lat": 50.0}, {"data1": (array, what)})
    radar = io.open_odim(path)
    np.testing.assert_allclose(radar.lat, [50.015, 50.005])
    np.testing.assert_allclose(radar.lon, [10.01, 10.03, 10.05])
    np.testing.assert_array_equal(radar.equivalent_reflectivity_factor[0], [[-32, 20, NAN], [0, 0.5, 1.0]])


def test_odim_scaling_of_each_data_group_counts_before_that_of_its_dataset(tmp_path):
    where = {
        "projdef": "EPSG:3035",
        "xscale": 1.0,
        "yscale": 1.0,
        "xsize": 2,
        "ysize": 1,
        "LL_lon": 10.0,
        "LL_lat": 50.0,
    }
    shared = {"gain": 2.0, "offset": 1.0, "nodata": -9.0, "undetect": -8.0}
    datasets = [
        {
            None: shared,
            "data1": (np.array([[3, -9]], np.int16), {"quantity": "RATE"}),
            "data2": (np.array([[3, -8]], np.int16), {"quantity": "TH", "gain": 0.5, "undetect": 3.0}),
            "quality1": (np.array([[1, 1]], np.uint8), {}),
        },
        {"data1": (np.array([[7, 7]], np.uint8), {"quantity": "QIND"})},
    ]
    path = write_odim(tmp_path / "a.h5", where, *datasets)
    np.testing.assert_array_equal(io.open_odim(path, quantity="RATE").rainfall_rate[0, 0], [7.0, NAN])
    field = io.open_odim(path, quantity="TH").equivalent_reflectivity_factor
    np.testing.assert_array_equal(field[0, 0], [-32.0, -3.0])
    assert not in_memory(io.open_odim(path, quantity="TH"), field.name)


def test_odim_wrong_file_among_many_is_named(tmp_path):
    where = {
        "projdef": "EPSG:3035",
        "xscale": 1.0,
        "yscale": 1.0,
        "xsize": 2,
        "ysize": 1,
        "LL_lon": 10.0,
        "LL_lat": 50.0,
    }
    one = {"data1": (np.zeros((1, 2), np.uint8), {"quantity": "RATE"})}
    paths = [write_odim(tmp_path / f"{i}.h5", where, dict(one), time=f"12{i:02d}00") for i in range(4)]
    write_odim(paths[2], where | {"xscale": 2.0}, dict(one), time="120200")
    with pytest.raises(ValueError, match=r"2\.h5 has another grid than .*0\.h5"):
        io.open_radar(paths)
    paths[3].write_text("not radar")
    with pytest.raises(ValueError, match=r"3\.h5 is no supported radar product"):
        io.open_radar(paths)


# ---- recognising, the engine, the command line ----------------------------------------------------------------------


@pytest.fixture
def one_of_each(tmp_path):
    """A file of each new product under a name that tells nothing, where the reader needs no name."""
    (tmp_path / "radolan").write_bytes(radolan_bytes(rain_cells()))
    (tmp_path / "radolan.bz2").write_bytes(bz2.compress(radolan_bytes(rain_cells())))
    write_archive(tmp_path / "nowcast", {"a": nowcast(0)}, "w:gz")
    write_mrms(tmp_path / "mrms", np.zeros((2, 2)))
    write_meteonet(tmp_path / "rain.npz", np.zeros((1, 2, 3)), [0])
    write_sevir(tmp_path, {"S1": "2018-05-01 12:00:00"}).rename(tmp_path / "sevir")
    write_picture(tmp_path / "picture", 1)
    return tmp_path


def test_products_are_told_by_their_content(one_of_each):
    found = {path.name: io.product(path) for path in one_of_each.iterdir() if path.is_file()}
    assert found == {
        "radolan": "DWD RADOLAN",
        "radolan.bz2": "DWD RADOLAN",
        "nowcast": "DWD RADOLAN",
        "mrms": "MRMS GRIB2",
        "rain.npz": "MeteoNet radar",
        "sevir": "SEVIR VIL",
        "picture": "HKO-7 PNG",
        "CATALOG.csv": "unknown",
    }


def test_every_shared_raw_file_is_recognised(shared_data):
    folders = {
        **{"fmi_pgm": {"FMI PGM"}, "mch_gif": {"MeteoSwiss GIF"}, "knmi_hdf5": {"KNMI HDF5"}},
        **{name: {"ODIM HDF5 composite"} for name in ("rmi_odim", "opera_odim", "odim_other")},
        **{"mrms_grib2": {"MRMS GRIB2"}, "dwd_radolan": {"DWD RADOLAN"}},
        "meteonet": {"MeteoNet radar", "MeteoNet GRIB", "unknown"},  # unknown: the coordinates
    }
    for folder, products in folders.items():
        assert {io.product(path) for path in (shared_data / "raw" / folder).iterdir()} == products


def test_netcdf_is_told_by_its_content(tmp_path):
    for engine, ending in (("netcdf4", "a"), ("h5netcdf", "b"), ("scipy", "c")):
        xr.Dataset({"a": ("x", [1.0])}, {"x": [0]}).to_netcdf(tmp_path / ending, engine=engine)
        assert io.product(tmp_path / ending) == "NetCDF"


def test_xarray_has_the_engine(tmp_path):
    assert "xnowcast" in xr.backends.list_engines()
    path = tmp_path / "raa01"
    path.write_bytes(radolan_bytes(rain_cells()))
    for options in ({"engine": "xnowcast"}, {}):  # nobody else claims such a file
        with xr.open_dataset(path, **options) as radar:
            xr.testing.assert_identical(radar.load(), io.open_radolan(path).load())
    lazy_radar = xr.open_dataset(path, engine="xnowcast", chunks={}, keep_clutter=True, drop_variables="time_bnds")
    assert lazy_radar.rainfall_rate.chunks == ((1,), (900,), (900,)) and "time_bnds" not in lazy_radar
    assert lazy_radar.rainfall_rate[0, -1, 2].compute() == pytest.approx(0.7)


def test_the_engine_claims_nothing_that_it_cannot_read(tmp_path):
    guess = XnowcastBackendEntrypoint().guess_can_open
    (tmp_path / "note.txt").write_text("no radar")
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "a.nc")
    assert not any(guess(tmp_path / name) for name in ("note.txt", "a.nc", "absent", "."))
    assert not guess(bytes_io.BytesIO(b"RW"))
    assert guess(write_picture(tmp_path / "RAD150722120600.png", 1))
    with pytest.raises(ValueError, match="no supported radar product"):
        xr.open_dataset(tmp_path / "note.txt", engine="xnowcast")


def test_input_is_opened_by_content_lazily(tmp_path):
    for minute in (50, 55):
        content = radolan_bytes(rain_cells(), product="RY", minutes=5, stamp=f"1020{minute}100000814")
        (tmp_path / f"{minute}.nc").write_bytes(gzip.compress(content, 1))  # a name that misleads
    radar = storage.open_input(str(tmp_path / "*.nc"))
    assert radar.rainfall_rate.chunks == ((1, 1), (900,), (900,))
    assert storage.open_input(str(tmp_path / "50.nc")).rainfall_rate.sizes["time"] == 1
    xr.Dataset({"rr": ("time", [1.0])}, {"time": [0]}).to_netcdf(tmp_path / "truly.bin")
    assert "rr" in storage.open_input(str(tmp_path / "truly.bin"))
    with pytest.raises(ValueError, match=r"truly\.bin is no supported radar product; open it with xarray"):
        storage.open_input(str(tmp_path / "*"))


def test_input_may_be_a_period(tmp_path):
    times = np.datetime64("2017-12-31T23:00", "ns") + np.arange(4) * np.timedelta64(30, "m")
    xr.Dataset({"rr": ("time", np.arange(4.0))}, {"time": times}).to_netcdf(tmp_path / "a.nc")
    path = tmp_path / "a.nc"
    for period, expected in {
        "2018/2019": [2, 3],
        "2017-12-31T23:30/2018-01-01T00:30": [1, 2],
        "/2018-01-01": [0, 1],
        "2018-01-01/": [2, 3],
    }.items():
        assert storage.open_input(f"{path}#{period}").rr.values.tolist() == expected
    for period, words in {
        "2019/2020": "holds nothing: the data go from 2017-12-31T23:00 to 2018-01-01T00:30",
        "2018": "'2018' in .* is no period; write it after # as start/end",
        "yesterday/today": "is no period",
        "/": "is no period",
    }.items():
        with pytest.raises(ValueError, match=words):
            storage.open_input(f"{path}#{period}")
    xr.Dataset({"rr": ("x", [1.0])}).to_netcdf(tmp_path / "still.nc")
    with pytest.raises(ValueError, match="no time axis"):
        storage.open_input(f"{tmp_path / 'still.nc'}#2018/2019")
    hashed = tmp_path / "a#b.nc"
    path.rename(hashed)
    assert storage.open_input(str(hashed)).sizes["time"] == 4
    with pytest.raises(ValueError, match="also an input"):
        storage.check_output(hashed, overwrite=True, inputs=[f"{hashed}#2018/2019"])


def test_the_command_line_reads_a_raw_composite(tmp_path):
    from xnowcast.cli import main

    for minute in (50, 55):
        cells = np.full((900, 900), 25, "<u2")
        content = radolan_bytes(cells, product="RY", minutes=5, precision=-2, stamp=f"1020{minute}100000814")
        (tmp_path / f"raa01-ry-{minute}").write_bytes(content)
    out = tmp_path / "forecast.zarr"
    assert main(["forecast", str(tmp_path / "raa01-ry-*"), str(out), "--model", "persistence", "--steps", "1"]) == 0
    np.testing.assert_allclose(storage.open_input(str(out)).rainfall_rate[..., ::300, ::300], 3.0, rtol=1e-5)


def test_lazy_datasets_can_be_sent_to_other_processes(one_of_each):
    write_coordinates(one_of_each)
    path = one_of_each / "rain.npz"
    options = {"rain.npz": {"quantity": "rainfall", "coordinates": one_of_each / "radar_coords_SE.npz"}}
    for path in (one_of_each / "radolan", one_of_each / "nowcast", one_of_each / "mrms", one_of_each / "rain.npz"):
        radar = io.open_radar(path, **options.get(path.name, {}))
        again = pickle.loads(pickle.dumps(in_chunks(radar)))
        xr.testing.assert_equal(again.load(), radar.load())


def test_recognised_header_is_that_of_dwd():
    header = radolan.read_header(
        b"RV180700100001022BY   2640195VS 5SW P300001HPR E-02INT   5GP1200x1100VV 005MF 00000008MS103<deasb> \x03"
    )
    assert (header.product, header.version, header.precision, header.minutes) == ("RV", 5, 0.01, 5)
    assert (header.rows, header.columns, header.lead, header.total) == (1200, 1100, 5, 2640195)
    assert header.time == datetime(2022, 10, 18, 7, 0)


def test_the_recipes_name_their_data_in_words_that_the_readers_know():
    from xnowcast.training.settings import read_config

    recipes = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.toml"))
    data = [read_config(recipe).data for recipe in recipes if recipe.stem in ("sevir", "hko-7", "meteonet", "dwd-12")]
    paths = [path for part in data for path in (*part.paths, *part.validation_paths)]
    assert len(paths) >= 8 and sum("#" in path for path in paths) >= 6
    for path in paths:  # the period is looked at before the data are missed
        with pytest.raises(ValueError, match="there is no file data/"):
            storage.open_input(path)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_an_archive_written_day_by_day_is_one_store(tmp_path):
    for day in (22, 23):
        for hour in (0, 6):
            write_picture(tmp_path / f"radarPNG/2015/07/{day}/RAD1507{day}{hour:02d}0000.png", day + hour)
    for number, day in enumerate((22, 23)):
        radar = storage.open_input(str(tmp_path / f"radarPNG/2015/07/{day}/*.png")).chunk(time=2)
        radar.to_zarr(tmp_path / "train.zarr", **({"append_dim": "time"} if number else {}))
    stored = storage.open_input(f"{tmp_path / 'train.zarr'}#2015-07-22T01/2015-07-23T03")
    field = stored.equivalent_reflectivity_factor
    assert field.attrs["zerovalue"] == -10 and stored.attrs["institution"] == "Hong Kong Observatory"
    np.testing.assert_allclose(field[:, 0, 0], [28 * 70 / 255 - 10, 23 * 70 / 255 - 10], rtol=1e-6)
