"""Files that are whole, outputs that destroy nothing, and drafts that follow no links."""

import numpy as np
import pytest
import xarray as xr

from xnowcast import storage
from xnowcast.whole import State, state

FORMATS = [
    ("scipy", "NETCDF3_CLASSIC"),
    ("scipy", "NETCDF3_64BIT"),
    ("netcdf4", "NETCDF3_64BIT_DATA"),
    ("netcdf4", "NETCDF4"),
    ("h5netcdf", None),
]


@pytest.fixture
def frame():
    rain = np.random.default_rng(0).random((2, 16, 16), dtype=np.float32)
    attrs = {"units": "mm h-1", "standard_name": "rainfall_rate"}
    return xr.Dataset(
        {"rain": (("time", "y", "x"), rain, attrs), "quality": ("time", np.ones(2, np.int8))},
        {"time": np.array(["2024-06-01T12:00", "2024-06-01T12:05"], "M8[ns]")},
        {"title": "two frames", "levels": np.arange(3)},
    )


# ---------------------------------------------------------------- whole


@pytest.mark.parametrize("unlimited", [[], ["time"]], ids=["fixed", "records"])
@pytest.mark.parametrize(("engine", "kind"), FORMATS, ids=lambda value: str(value))
@pytest.mark.parametrize("names", [["rain"], ["quality"], ["rain", "quality"]], ids="-".join)
def test_a_file_is_whole_until_bytes_are_missing(frame, tmp_path, engine, kind, unlimited, names):
    path = tmp_path / "frame.nc"
    frame[names].to_netcdf(path, engine=engine, format=kind, unlimited_dims=unlimited)
    storage.check_whole(path)
    content = path.read_bytes()
    path.write_bytes(content + b"more")
    storage.check_whole(path)
    for kept in (len(content) - 4, len(content) // 2, 40, 9):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r"frame\.nc is cut short"):
            storage.check_whole(path)


def test_hdf5_after_a_block_of_the_users_is_looked_at_too(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "block.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["rain"] = np.arange(1000.0)
    storage.check_whole(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short"):
        storage.check_whole(path)


@pytest.mark.parametrize("content", [b"", b"GRIB....", b"\0" * 5000], ids=["empty", "grib", "zeros"])
def test_formats_that_do_not_tell_their_length_are_taken_as_they_are(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    storage.check_whole(path)


def test_a_half_written_classic_file_is_not_read_as_dry(frame, tmp_path):
    path = tmp_path / "frame.nc"
    frame.to_netcdf(path, format="NETCDF3_64BIT", engine="scipy")
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(ValueError, match=r"frame\.nc is cut short: it has \d+ bytes, and its header tells of \d+"):
        storage.open_input(str(path))


def test_the_state_of_a_file_changes_with_its_content_and_with_what_stands_in_its_place(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"rain")
    other.write_bytes(b"snow")
    before = state(path)
    assert state(path) == before
    other.replace(path)
    assert state(path) != before
    path.unlink()
    assert state(path) == State(-1, -1, -1)
