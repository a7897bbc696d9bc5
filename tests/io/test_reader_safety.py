"""Files made to do harm: they are refused by name, without the memory or the hands that they ask for."""

import bz2
import gzip
import io as bytes_io
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from xnowcast import io
from xnowcast.io import files
from xnowcast.io.grid import Grid, LatLonGrid, LocalGrid

pytest.importorskip("pyproj")
h5py = pytest.importorskip("h5py")
Image = pytest.importorskip("PIL.Image")

MIB = 2**20


@contextmanager
def at_most(mebibytes: float):
    """Fails where more memory is asked for."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mebibytes * MIB


def zeros(count: int, pack=gzip.compress) -> bytes:
    """Many zeros in few bytes, made piece by piece."""
    piece = pack(bytes(MIB))
    return piece * (count // MIB)


RADOLAN = b"RX102050100000814BY 810087VS 3SW   2.13.1PR E+00INT   5GP 900x 900MS  8<boo,ros>\x03"
COMPOSITE = RADOLAN.replace(b"810087", b"%6d" % (len(RADOLAN) + 810_000)) + bytes(810_000)


# ---- packed files and archives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("start", [b"", COMPOSITE])
def test_radolan_file_is_not_unpacked_behind_its_own_end(tmp_path, pack, start):
    path = tmp_path / "raa01"
    path.write_bytes(pack(start) + zeros(256 * MIB, pack))
    with at_most(100), pytest.raises(ValueError, match=r"raa01 (cannot be read as|is no supported radar product)"):
        io.open_radar(path).load()


@pytest.mark.parametrize("reader", ["open_fmi_pgm", "open_mch_gif", "open_odim", "open_knmi_hdf5", "open_mrms"])
def test_packed_file_is_unpacked_to_a_limit(tmp_path, monkeypatch, reader):
    monkeypatch.setattr(files, "MOST_UNPACKED", 2 * MIB)
    path = tmp_path / "packed"
    path.write_bytes(zeros(64 * MIB))
    with at_most(16), pytest.raises(ValueError, match=r"packed cannot be read as .*unpacks to more than 2 MiB"):
        getattr(io, reader)(path)


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes], pack=lambda content: content) -> Path:
    buffer = bytes_io.BytesIO()
    for info, content in members:
        buffer.write(info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
    path.write_bytes(pack(buffer.getvalue()) + pack(bytes(1024)))
    return path


def member(size: int, name="RX", kind=tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_member_of_an_archive_has_a_limit(tmp_path, kind):
    path = archive(tmp_path / "a.tar.gz", (member(2**40, kind=kind), b""), pack=gzip.compress)
    path.write_bytes(path.read_bytes() + zeros(64 * MIB))
    with (
        at_most(24),
        pytest.raises(ValueError, match=r"a\.tar\.gz cannot be read as .* file of \d+ bytes; no composite"),
    ):
        io.open_radolan(path)


def test_packed_member_is_not_unpacked_behind_its_own_end(tmp_path):
    content = gzip.compress(COMPOSITE) + zeros(64 * MIB)
    path = archive(tmp_path / "a.tar", (member(len(content)), content))
    with at_most(24), pytest.raises(ValueError, match=r"a\.tar/RX cannot be read as .*it has 810\d+ bytes"):
        io.open_radar(path).load()


def test_name_of_a_member_does_nothing_to_a_terminal(tmp_path):
    path = archive(tmp_path / "a.tar", (member(4, name="\x1b[2J"), b"echo"))
    with pytest.raises(ValueError, match="cannot be read as") as caught:
        io.open_radolan(path)
    assert "\x1b" not in str(caught.value) and r"\x1b[2J" in str(caught.value)


# ---- HDF5 ---------------------------------------------------------------------------------------------------------


@contextmanager
def odim(path: Path, rows: int, columns: int, **attrs):
    """A composite without its array."""
    with h5py.File(path, "w") as file:
        file.create_group("what").attrs.update(object="COMP", date="20210704", time="155000", source="ORG:247")
        file.create_group("where").attrs.update(
            projdef="+proj=laea +lat_0=55 +lon_0=10 +ellps=WGS84",
            **{"xscale": 2000.0, "yscale": 2000.0, "xsize": columns, "ysize": rows, "LL_lon": 10.0, "LL_lat": 55.0},
        )
        file.create_group("dataset1/what").attrs.update({"quantity": "RATE"} | attrs)
        yield file.create_group("dataset1/data1")


def test_hdf5_array_that_announces_a_huge_shape_is_refused(tmp_path):
    with odim(tmp_path / "a.h5", 100_000, 100_000) as group:
        group.create_dataset("data", (100_000, 100_000), "u1", chunks=(10, 10))
    with at_most(8), pytest.raises(ValueError, match=r"100000 x 100000 cells; from 1 to 50,000,000 are expected"):
        io.open_odim(tmp_path / "a.h5")


def test_hdf5_array_of_huge_pieces_is_refused(tmp_path):
    with odim(tmp_path / "a.h5", 4, 4) as group:
        group.create_dataset("data", (4, 4), "f8", chunks=(2**14, 2**14), maxshape=(None, None), compression="gzip")
    with at_most(8), pytest.raises(ValueError, match=r"stored in pieces of \(16384, 16384\)"):
        io.open_odim(tmp_path / "a.h5")


def test_hdf5_piece_that_unpacks_to_more_than_its_size_is_refused(tmp_path):
    with odim(tmp_path / "a.h5", 8, 8) as group:
        array = group.create_dataset("data", (8, 8), "u1", chunks=(8, 8), compression="gzip")
        packing = zlib.compressobj(9)
        bomb = b"".join(packing.compress(bytes(MIB)) for _ in range(300)) + packing.flush()
        array.id.write_direct_chunk((0, 0), bomb)
    radar = io.open_odim(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"a piece of /dataset1/data1/data unpacks to more than the 64 bytes"):
        radar.load()


def test_hdf5_array_that_is_packed_twice_is_refused(tmp_path):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((8, 8))
    settings.set_deflate(9)
    settings.set_deflate(9)
    with odim(tmp_path / "a.h5", 8, 8) as group:
        space = h5py.h5s.create_simple((8, 8))
        h5py.h5d.create(group.id, b"data", h5py.h5t.NATIVE_UINT8, space, settings)
    with pytest.raises(ValueError, match="is packed more than once"):
        io.open_odim(tmp_path / "a.h5").load()


@pytest.mark.parametrize("way", ["link", "raw", "virtual"])
def test_hdf5_array_in_another_file_is_refused(tmp_path, way):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["data"] = np.full((2, 3), 7, "u1")
    with odim(tmp_path / "a.h5", 2, 3) as group:
        if way == "link":
            group["data"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/data")
        elif way == "raw":
            group.create_dataset("data", (2, 3), "u1", external=[(str(tmp_path / "secret.h5"), 0, 6)])
        else:
            layout = h5py.VirtualLayout((2, 3), "u1")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "data", (2, 3))
            group.create_virtual_dataset("data", layout)
    with pytest.raises(ValueError, match="lies in another file"):
        io.open_odim(tmp_path / "a.h5")


@pytest.mark.parametrize("values", [np.zeros(6), np.zeros((2, 3, 1)), np.array([[b"ab"]]), np.zeros((2, 3), "c8")])
def test_hdf5_array_of_another_kind_is_refused(tmp_path, values):
    with odim(tmp_path / "a.h5", 2, 3) as group:
        group["data"] = values
    with pytest.raises(ValueError, match="numbers in 2 dims are expected"):
        io.open_odim(tmp_path / "a.h5")


@pytest.mark.parametrize("text", ["\x1b[2J\x1b[1;31mRATE", "A" * 10_000, "RA\r\nTE", "\x9b31m"])
def test_text_of_a_file_does_nothing_to_a_terminal(tmp_path, text):
    with odim(tmp_path / "a.h5", 1, 2, quantity=text) as group:
        group["data"] = np.zeros((1, 2), "u1")
    with pytest.raises(ValueError, match="it holds") as caught:
        io.open_odim(tmp_path / "a.h5")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1500


def test_text_of_a_file_is_printable_in_a_dataset(tmp_path):
    with odim(tmp_path / "a.h5", 1, 2, source="ORG\x1b[31m") as group:
        group["data"] = np.zeros((1, 2), "u1")
    assert io.open_odim(tmp_path / "a.h5").attrs["institution"] == r"ORG\x1b[31m"


@pytest.mark.parametrize(
    "change",
    [
        {"xsize": -3},
        {"xsize": 10**9, "ysize": 10**9},
        {"xscale": -2000.0},
        {"xscale": np.nan},
        {"UL_x": np.nan, "UL_y": 0.0},
        {"LL_lat": np.inf},
        {"LL_lon": np.nan},
        {"projdef": "+proj=laea +lat_0=nan +lon_0=10"},
        {"projdef": "EPSG:4326", "xscale": 1.0, "yscale": 1.0, "LL_lat": 200.0},
        {"UL_x": 1e30, "UL_y": 1e30},
    ],
)
def test_grid_that_is_none_is_refused(tmp_path, change):
    with odim(tmp_path / "a.h5", 2, 3) as group:
        group["data"] = np.zeros((2, 3), "u1")
        group.file["where"].attrs.update(change)
    with pytest.raises(ValueError, match=r"a\.h5 cannot be read as ODIM"):
        io.open_odim(tmp_path / "a.h5")


def test_grids_have_a_limit():
    plane = "+proj=laea +lat_0=55 +lon_0=10"
    for grid in (
        lambda: Grid(plane, 0.0, 0.0, 1.0, 1.0, nx=10**6, ny=10**6),
        lambda: LatLonGrid(tuple(np.linspace(0, 1, 10**4)), tuple(np.linspace(0, 1, 10**4))),
        lambda: LocalGrid(1.0, 1.0, 10**6, 10**6).check(),
    ):
        with at_most(8), pytest.raises(ValueError, match="cells; from 1 to 50,000,000 are expected"):
            grid()


# ---- NumPy, pictures, GRIB ----------------------------------------------------------------------------------------


def npy(shape, kind: str, body: bytes) -> bytes:
    file = bytes_io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": kind})
    return file.getvalue() + body


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data", npy((1, 10**6, 10**6), "<i2", b""), "1000000 x 1000000 cells"),
        ("data", npy((1, -2, -3), "<i2", bytes(12)), "cells; from 1 to"),
        ("data", npy((1, 4000, 4000), "<i2", bytes(12)), "its maps have 12 bytes"),
        ("data", npy((1, 2, 3), "<f4", bytes(24)), "its maps are float32"),
        ("dates", npy((10**12,), "<M8[s]", b""), "cannot reshape"),
        ("dates", npy((1,), "<i8", bytes(8)), "its dates are int64"),
        ("dates", bytes(17 * MIB), "has 17825792 bytes"),
    ],
)
def test_meteonet_array_of_a_crafted_shape_is_refused(tmp_path, name, content, words):
    members = {"data": npy((1, 2, 3), "<i2", bytes(12))} | {
        dates: npy((1,), "<M8[s]", np.array(["2016-08-21"], "<M8[s]").tobytes()) for dates in ("dates", "miss_dates")
    }
    path = tmp_path / "rainfall_SE_2016_08.3.npz"
    np.savez(tmp_path / "radar_coords_SE.npz", lats=[[2.0] * 3, [1.0] * 3], lons=[[1.0, 2.0, 3.0]] * 2)
    for changed in ({}, {name: content}):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for member_name, body in (members | changed).items():
                packed.writestr(f"{member_name}.npy", body)
        if not changed:
            assert io.open_meteonet(path).sizes["time"] == 1
    with at_most(8), pytest.raises(ValueError, match=rf"08\.3\.npz cannot be read as .*{words}"):
        io.open_meteonet(path)


def test_meteonet_coordinates_of_a_crafted_shape_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "radar_coords_SE.npz", "w") as packed:
        for name in ("lats", "lons"):
            packed.writestr(f"{name}.npy", npy((10**5, 10**6), "<f8", b""))
    with zipfile.ZipFile(tmp_path / "rainfall_SE_2016_08.3.npz", "w") as packed:
        packed.writestr("data.npy", npy((1, 2, 3), "<i2", bytes(12)))
        for name in ("dates", "miss_dates"):
            packed.writestr(f"{name}.npy", npy((1,), "<M8[s]", bytes(8)))
    with at_most(8), pytest.raises(ValueError, match=r"radar_coords_SE\.npz cannot be read as MeteoNet coordinates"):
        io.open_meteonet(tmp_path / "rainfall_SE_2016_08.3.npz")


def test_picture_is_looked_at_before_it_is_unpacked(tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    pieces = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(MIB))), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in pieces
    )
    (tmp_path / "RAD150722120600.png").write_bytes(png)
    with at_most(8), pytest.raises(ValueError, match=r"RAD150722120600\.png cannot be read as HKO-7 picture"):
        io.open_hko7(tmp_path / "RAD150722120600.png").load()
    gif = bytearray(b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0x80, 0, 0) + bytes(6))
    gif += b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x08\x01\x00\x00;"
    (tmp_path / "AQC151351545F_00005.801.gif").write_bytes(gif)
    with at_most(8), pytest.raises(ValueError, match=r"801\.gif cannot be read as MeteoSwiss GIF"):
        io.open_mch_gif(tmp_path / "AQC151351545F_00005.801.gif")
    (tmp_path / "a.pgm").write_bytes(b"P5\n# param CorrectedReflectivity\n60000 60000\n255\n")
    with at_most(8), pytest.raises(ValueError, match=r"60000 x 60000 cells"):
        io.open_fmi_pgm(tmp_path / "a.pgm")


def test_hko7_numbers_of_a_palette_are_no_reflectivity(tmp_path):
    path = tmp_path / "RAD150722120600.png"
    picture = Image.fromarray(np.full((480, 480), 1, np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 51, 51, 51] + [0] * 762)
    picture.save(path)
    assert io.open_hko7(path).equivalent_reflectivity_factor.max() == 4.0  # the grey that 1 stands for
    picture.putpalette([0, 0, 0, 51, 0, 200] + [0] * 762)
    picture.save(path)
    with pytest.raises(ValueError, match="480 x 480 grey pixels are expected"):
        io.open_hko7(path).load()


def test_hko7_mask_is_unpacked_to_its_size(tmp_path):
    pictures, masks = tmp_path / "radarPNG", tmp_path / "radarPNG_mask"
    pictures.mkdir()
    masks.mkdir()
    Image.fromarray(np.zeros((480, 480), np.uint8)).save(pictures / "RAD150722120600.png")
    (masks / "RAD150722120600.mask").write_bytes(zlib.compress(bytes(64 * MIB)))
    radar = io.open_hko7(pictures / "RAD150722120600.png")
    with at_most(16), pytest.raises(ValueError, match=r"120600\.mask cannot be read as HKO-7 mask"):
        radar.load()


def grib(edition: int, values: np.ndarray, **keys) -> bytes:
    eccodes = pytest.importorskip("eccodes")
    message = eccodes.codes_grib_new_from_samples(f"regular_ll_sfc_grib{edition}")
    size = {"Ni": values.shape[1], "Nj": values.shape[0]}
    step = {"iDirectionIncrementInDegrees": 0.1, "jDirectionIncrementInDegrees": 0.1}
    edge = {"latitudeOfFirstGridPointInDegrees": 45.0, "longitudeOfFirstGridPointInDegrees": 2.0}
    last = {
        "latitudeOfLastGridPointInDegrees": 45.0 - 0.1 * (values.shape[0] - 1),
        "longitudeOfLastGridPointInDegrees": 2.0 + 0.1 * (values.shape[1] - 1),
    }
    for key, value in (size | step | edge | last | keys).items():
        eccodes.codes_set(message, key, value)
    eccodes.codes_set_values(message, values.ravel().astype(float))
    content = eccodes.codes_get_message(message)
    eccodes.codes_release(message)
    return content


def test_grib_message_that_announces_a_huge_grid_is_refused(tmp_path):
    content = bytearray(grib(2, np.zeros((2, 2)), discipline=209, parameterCategory=6, parameterNumber=1))
    at = content.index(struct.pack(">II", 2, 2))  # Ni and Nj
    content[at : at + 8] = struct.pack(">II", 10**5, 10**5)
    (tmp_path / "a.grib2").write_bytes(content)
    with at_most(8), pytest.raises(ValueError, match="100000 x 100000 cells"):
        io.open_mrms(tmp_path / "a.grib2")


RAIN = {"centre": 85, "table2Version": 1, "indicatorOfParameter": 61, "timeRangeIndicator": 4, "dataDate": 20180501}


def write_sums(path: Path, *steps: tuple[str, float], **keys) -> Path:
    path.write_bytes(b"".join(grib(1, np.full((2, 2), mm), **RAIN | keys, stepRange=step) for step, mm in steps))
    return path


def test_meteonet_sums_that_do_not_begin_with_the_run_are_rates_of_their_own(tmp_path):
    since = write_sums(tmp_path / "a.grib", ("0-1", 2.0), ("0-2", 5.0), ("0-3", 6.0))
    rain = io.open_meteonet_model(since).precipitation_rate
    np.testing.assert_allclose(rain[0, :, 0, 0], [2, 3, 1], rtol=1e-3)
    hourly = write_sums(tmp_path / "b.grib", ("0-1", 2.0), ("1-2", 3.0), ("2-4", 2.0))
    rain = io.open_meteonet_model(hourly).precipitation_rate
    np.testing.assert_allclose(rain[0, :, 0, 0], [2, 3, 1], rtol=1e-3)
    assert rain.lead_time.values.astype("m8[h]").astype(int).tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"centre": 98, "table2Version": 128, "indicatorOfParameter": 228}, "tp in 'm' is a sum over time"),
        ({"table2Version": 1, "indicatorOfParameter": 253}, "which is not known"),
    ],
)
def test_meteonet_parameter_in_other_units_or_unknown_is_refused(tmp_path, keys, words):
    with pytest.raises(ValueError, match=words):
        io.open_meteonet_model(write_sums(tmp_path / "a.grib", ("0-1", 2.0), **keys))


def test_sevir_file_that_announces_any_number_of_events_is_refused(tmp_path):
    from xnowcast.io.sevir import COLUMNS

    (tmp_path / "CATALOG.csv").write_text(",".join(COLUMNS) + "\n")
    with h5py.File(tmp_path / "SEVIR_VIL.h5", "w") as file:
        file.create_dataset("vil", (10**9, 8, 8, 5), "u1", chunks=(1, 8, 8, 5))
        file.create_dataset("id", (10**9,), "S10", chunks=(100,))
    with at_most(16), pytest.raises(ValueError, match=r"SEVIR_VIL\.h5 cannot be read as .*of 1000000000 events"):
        io.open_sevir(tmp_path / "SEVIR_VIL.h5")
