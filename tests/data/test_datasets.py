"""Tutorial events: fetched from a loopback server, checked, decoded, cached. No test touches another network."""

import hashlib
import http.server
import logging
import threading
from collections import Counter
from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr

from xnowcast.data import datasets

pytest.importorskip("pyproj")
h5py = pytest.importorskip("h5py")
pytest.importorskip("PIL.Image")

TINY_FOLDER = "radar/tiny"
TINY_FRAMES = 3


class Mirror:
    """A loopback HTTP server of ``files`` (registered path -> content) that can be told to misbehave."""

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self.requests: Counter[str] = Counter()
        self.interruptions: Counter[str] = Counter()  # how many more times a file breaks off halfway
        self.corrupt: set[str] = set()
        handler = type("Handler", (_Handler,), {"mirror": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self):
        path = self.path.lstrip("/")
        self.mirror.requests[path] += 1
        if path not in self.mirror.files:
            self.send_error(404)
            return
        content = self.mirror.files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if path in self.mirror.corrupt:
            content = bytes(byte ^ 1 for byte in content)
        if self.mirror.interruptions[path] > 0:
            self.mirror.interruptions[path] -= 1
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def _no_outside(monkeypatch, tmp_path):
    """Nothing of the machine's settings, no waiting between attempts, and no address but the loopback."""
    for variable in ("XNOWCAST_DATA", "XNOWCAST_MIRROR", "XNOWCAST_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XNOWCAST_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "BASE_URL", "http://127.0.0.1:9/")  # the discard port: nobody answers
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)


@pytest.fixture
def serve():
    """Start a mirror of ``files``; all are shut down at the end."""
    running = []

    def start(files: dict[str, bytes]) -> Mirror:
        running.append(Mirror(files))
        return running[-1]

    yield start
    for mirror in running:
        mirror.close()


def tiny_odim(path: Path, minute: int) -> bytes:
    """A 2 x 3 composite whose dry pixel is 0 and whose wet ones are ``minute`` mm h-1; one is not measured."""
    with h5py.File(path, "w") as file:
        file.create_group("what").attrs.update(object="COMP", date="20200601", time=f"12{minute:02d}00", source="X")
        file.create_group("where").attrs.update(
            projdef="+proj=laea +lat_0=55 +lon_0=10 +ellps=WGS84",
            xscale=1000.0,
            yscale=1000.0,
            xsize=3,
            ysize=2,
            UL_x=0.0,
            UL_y=0.0,
        )
        file.create_group("dataset1/what").attrs.update(quantity="RATE", nodata=-1.0, undetect=-2.0)
        file["dataset1/data1/data"] = np.array([[-2.0, minute, -1.0], [minute, minute, minute]])
    return path.read_bytes()


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """An event of three tiny files in the registry; gives their contents by registered path."""
    contents = {
        f"{TINY_FOLDER}/20200601_12{minute:02d}.h5": tiny_odim(tmp_path / "raw.h5", minute) for minute in (0, 5, 10)
    }
    registry = tuple(
        datasets.RawFile(path, hashlib.sha256(content).hexdigest(), len(content)) for path, content in contents.items()
    )
    event = datasets.Event(TINY_FOLDER, "2020-06-01T12:00", (2, 3), "tiny event", "nobody", "made up", "free")
    monkeypatch.setitem(datasets.EVENTS, "tiny_20200601", event)
    monkeypatch.setattr(datasets, "_registry", lambda: registry)
    return contents


def all_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---- the table ----------------------------------------------------------------------------------------------------


def test_every_event_is_whole_in_the_registry():
    for name in sorted(datasets.EVENTS):
        event = datasets.describe(name)
        assert event["files"] >= 39 and event["size"] > 1e6, name
        assert event["end"] - event["start"] == (event["files"] - 1) * np.timedelta64(5, "m")
        assert event["license"] and event["institution"] and event["title"]
    assert "may not be used for commercial purposes" in " ".join(datasets.describe("rmi_20210704")["license"].split())
    assert datasets.describe("knmi_20100826")["files"] == 92


def test_events_carry_the_owners_terms_of_the_shared_files(shared_data):
    for name, file in {
        "fmi_20160928": "fmi_20160928_crop512.nc",
        "mch_20150515": "mch_20150515_crop.nc",
        "mch_20160711": "mch_20160711.nc",
        "knmi_20100826": "knmi_20100826_crop384.nc",
        "rmi_20210704": "rmi_20210704_crop512.nc",
    }.items():
        with xr.open_dataset(shared_data / file) as expected:
            event = datasets.describe(name)
            assert {key: event[key] for key in ("license", "institution", "references")} == {
                key: expected.attrs[key] for key in ("license", "institution", "references")
            }
            assert (event["start"], event["end"]) == (expected.time.values[0], expected.time.values[-1])


def test_unknown_name_suggests_the_nearest():
    for function in (datasets.open, datasets.describe):
        with pytest.raises(ValueError, match=r"no dataset 'rmi_2021'; did you mean 'rmi_20210704'\? There are fmi"):
            function("rmi_2021")


def test_synthetic_needs_no_network():
    radar = datasets.open("synthetic", frames=4, shape=(32, 40), seed=3)
    xr.testing.assert_identical(radar, datasets.synthetic_radar(frames=4, shape=(32, 40), seed=3))
    assert "synthetic" in datasets.names() and datasets.describe("synthetic")["license"]
    with pytest.raises(ValueError, match="'synthetic' takes the number of frames"):
        datasets.open("synthetic", frames=slice(3))


# ---- fetching tiny files ------------------------------------------------------------------------------------------


def test_event_is_fetched_decoded_and_labelled(tiny, serve):
    radar = datasets.open("tiny_20200601", mirror=serve(tiny).url)
    expected = [[[0, minute, np.nan], [minute] * 3] for minute in (0, 5, 10)]
    np.testing.assert_array_equal(radar.rainfall_rate.values, np.float32(expected))
    assert radar.rainfall_rate.dtype == np.float32 and radar.rainfall_rate.attrs["units"] == "mm h-1"
    assert (
        radar.time.values.tolist()
        == np.arange("2020-06-01T12:00", "2020-06-01T12:15", 5, "M8[m]").astype("M8[ns]").tolist()
    )
    assert (radar.attrs["title"], radar.attrs["license"]) == ("tiny event", "free")


def test_second_open_makes_no_request_and_works_offline(tiny, serve, monkeypatch):
    mirror = serve(tiny)
    first = datasets.open("tiny_20200601", mirror=mirror.url).load()
    assert mirror.requests == dict.fromkeys(tiny, 1)
    again = datasets.open("tiny_20200601", mirror=mirror.url)
    monkeypatch.setenv("XNOWCAST_OFFLINE", "1")
    offline = datasets.open("tiny_20200601")
    part = datasets.open("tiny_20200601", frames=slice(1, 3))
    assert sum(mirror.requests.values()) == 3
    xr.testing.assert_identical(first, again)
    xr.testing.assert_identical(first, offline)
    xr.testing.assert_identical(first.isel(time=slice(1, 3)), part)


def test_frames_fetches_only_their_files(tiny, serve):
    mirror = serve(tiny)
    radar = datasets.open("tiny_20200601", frames=slice(None, None, 2), mirror=mirror.url)
    assert radar.rainfall_rate[:, 1, 0].values.tolist() == [0, 10]
    assert set(mirror.requests) == {f"{TINY_FOLDER}/20200601_1200.h5", f"{TINY_FOLDER}/20200601_1210.h5"}
    assert datasets.open("tiny_20200601", frames=2, mirror=mirror.url).sizes["time"] == 2
    assert sum(mirror.requests.values()) == 3


@pytest.mark.parametrize(
    "frames",
    [0, -1, 4, True, 1.5, "all", slice(3, None), slice(2, 2), slice(None, None, -1), slice(None, None, 0)],
)
def test_frames_that_select_nothing_are_refused_before_any_request(tiny, serve, frames):
    mirror = serve(tiny)
    with pytest.raises(ValueError, match="selects no part of 'tiny_20200601': give 1 to 3, or a slice"):
        datasets.open("tiny_20200601", frames=frames, mirror=mirror.url)
    assert not mirror.requests


def test_options_are_for_synthetic_only(tiny):
    with pytest.raises(TypeError, match="takes no option 'seed'"):
        datasets.open("tiny_20200601", seed=1)


def test_chunks_give_dask_with_one_chunk_per_time_step(tiny, serve):
    url = serve(tiny).url
    lazy = datasets.open("tiny_20200601", mirror=url, chunks={})
    assert isinstance(lazy.rainfall_rate.data, dask.array.Array)
    assert lazy.rainfall_rate.chunks == ((1, 1, 1), (2,), (3,))
    assert datasets.open("tiny_20200601", mirror=url).rainfall_rate.chunks is None


def test_mirror_from_the_environment_and_cache_from_the_argument(tiny, serve, monkeypatch, tmp_path):
    mirror = serve(tiny)
    monkeypatch.setenv("XNOWCAST_MIRROR", mirror.url.rstrip("/"))
    datasets.open("tiny_20200601", cache=tmp_path / "elsewhere")
    assert set(tiny) < all_files(tmp_path / "elsewhere")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("form", [str, Path, Path.as_uri])
def test_mirror_may_be_a_folder_also_offline(tiny, tmp_path, form):
    folder = tmp_path / "a mirror"
    for path, content in tiny.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    assert datasets.open("tiny_20200601", mirror=form(folder), offline=True).sizes["time"] == 3
    (folder / TINY_FOLDER / "20200601_1200.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"20200601_1200\.h5 does not exist; a mirror has"):
        datasets.open("tiny_20200601", mirror=form(folder), cache=tmp_path / "new")


def test_mirror_that_is_nothing_is_refused(tiny):
    with pytest.raises(FileNotFoundError, match="mirror 'no/such/folder' is neither an address"):
        datasets.open("tiny_20200601", mirror="no/such/folder")


def test_offline_without_files_says_which_and_where(tiny, serve, monkeypatch, tmp_path):
    mirror = serve(tiny)
    datasets.open("tiny_20200601", frames=1, mirror=mirror.url)
    monkeypatch.setenv("XNOWCAST_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"2 of 3 files of 'tiny_20200601' are missing: .*1205\.h5") as caught:
        datasets.open("tiny_20200601", mirror=mirror.url)
    assert str(tmp_path / "cache") in str(caught.value)
    assert sum(mirror.requests.values()) == 1
    for path, content in tiny.items():  # ... and doing as it says helps
        (tmp_path / "cache" / path).write_bytes(content)
    assert datasets.open("tiny_20200601").sizes["time"] == 3


def test_content_that_differs_from_the_registry_is_refused_and_not_kept(tiny, serve, tmp_path):
    mirror = serve(tiny)
    bad = f"{TINY_FOLDER}/20200601_1205.h5"
    mirror.corrupt.add(bad)
    with pytest.raises(ValueError, match=r"1205\.h5 does not have the registered content .* nothing was kept"):
        datasets.open("tiny_20200601", mirror=mirror.url)
    assert mirror.requests[bad] == 1 + datasets.RETRIES
    assert all_files(tmp_path / "cache") <= set(tiny) - {bad}
    mirror.corrupt.clear()
    assert datasets.open("tiny_20200601", mirror=mirror.url).sizes["time"] == 3


def test_interrupted_download_is_fetched_again(tiny, serve):
    mirror = serve(tiny)
    broken = f"{TINY_FOLDER}/20200601_1205.h5"
    mirror.interruptions[broken] = 1
    assert datasets.open("tiny_20200601", mirror=mirror.url).sizes["time"] == 3
    assert mirror.requests[broken] == 2


def test_download_that_always_breaks_off_fails_and_leaves_nothing_partial(tiny, serve, tmp_path):
    mirror = serve(tiny)
    broken = f"{TINY_FOLDER}/20200601_1205.h5"
    mirror.interruptions[broken] = 1 + datasets.RETRIES
    with pytest.raises(ConnectionError, match=r"1205\.h5 could not be fetched in 3 attempts") as caught:
        datasets.open("tiny_20200601", mirror=mirror.url)
    assert caught.value.__suppress_context__
    assert all_files(tmp_path / "cache") <= set(tiny) - {broken}
    assert datasets.open("tiny_20200601", mirror=mirror.url).sizes["time"] == 3  # a later call takes up the rest
    assert all(mirror.requests[path] == 1 for path in set(tiny) - {broken} if path in mirror.requests)


def test_partial_file_left_by_somebody_else_is_not_taken_for_whole(tiny, serve, tmp_path):
    for path, content in tiny.items():
        (tmp_path / "cache" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / path).write_bytes(content[:-10] if path.endswith("1210.h5") else content)
    with pytest.raises(FileNotFoundError, match="1 of 3 files"):
        datasets.open("tiny_20200601", offline=True)
    mirror = serve(tiny)
    assert datasets.open("tiny_20200601", mirror=mirror.url).sizes["time"] == 3
    assert mirror.requests == {f"{TINY_FOLDER}/20200601_1210.h5": 1}


def test_address_where_nobody_answers_is_a_connection_error(tiny):
    with pytest.raises(ConnectionError, match="Another address or a folder can be given as mirror="):
        datasets.open("tiny_20200601")


def test_absent_file_on_the_server_is_a_connection_error(tiny, serve):
    with pytest.raises(ConnectionError, match="404"):
        datasets.open("tiny_20200601", mirror=serve({}).url)


def test_decoding_that_fails_leaves_no_decoded_file(tiny, serve, monkeypatch, tmp_path):
    def full_disk(self, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    url = serve(tiny).url
    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset, "to_netcdf", full_disk)
        with pytest.raises(OSError, match="No space left"):
            datasets.open("tiny_20200601", mirror=url)
    assert all_files(tmp_path / "cache") == set(tiny)
    assert datasets.open("tiny_20200601", mirror=url).sizes["time"] == 3


def test_new_decoder_decodes_again_without_fetching(tiny, serve, monkeypatch):
    mirror = serve(tiny)
    datasets.open("tiny_20200601", mirror=mirror.url).close()
    decoded = []
    monkeypatch.setattr(datasets, "DECODER_VERSION", datasets.DECODER_VERSION + 1)
    monkeypatch.setattr(datasets, "_decode", lambda *args, inner=datasets._decode: decoded.append(1) or inner(*args))
    datasets.open("tiny_20200601", mirror=mirror.url)
    datasets.open("tiny_20200601", mirror=mirror.url)
    assert len(decoded) == 1 and sum(mirror.requests.values()) == 3


def test_nothing_is_printed_and_the_logger_is_as_before(tiny, serve, capfd):
    import pooch

    pooch.get_logger().setLevel(logging.INFO)
    datasets.open("tiny_20200601", mirror=serve(tiny).url)
    assert capfd.readouterr() == ("", "")
    assert pooch.get_logger().level == logging.INFO


def test_progress_bar_counts_all_bytes(tiny, serve, capfd):
    datasets.open("tiny_20200601", mirror=serve(tiny).url, progressbar=True)
    assert "100%" in capfd.readouterr().err


# ---- the real events ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder", "file", "frames", "tolerance"),
    [
        ("fmi_20160928", "fmi_pgm", "fmi_20160928_crop512.nc", 12, 0),
        ("mch_20150515", "mch_gif", "mch_20150515_crop.nc", None, 0),
        ("knmi_20100826", "knmi_hdf5", "knmi_20100826_crop384.nc", 24, 1e-6),  # float32 here, float64 there
        ("rmi_20210704", "rmi_odim", "rmi_20210704_crop512.nc", 12, 0.005 + 1e-6),  # rounded to 0.01 there
    ],
)
def test_fetched_event_equals_the_shared_netcdf(shared_data, serve, name, folder, file, frames, tolerance):
    raw = {path.name: path for path in (shared_data / "raw" / folder).iterdir()}
    registered = [entry.path for entry in datasets._raw_files(name) if Path(entry.path).name in raw]
    mirror = serve({path: raw[Path(path).name].read_bytes() for path in registered})
    radar = datasets.open(name, frames=frames, mirror=mirror.url)
    with xr.open_dataset(shared_data / file) as expected:
        expected = expected.isel(time=slice(frames))
        np.testing.assert_array_equal(radar.time, expected.time)
        (variable,) = (key for key in expected if expected[key].ndim == 3)
        crop = radar[variable].sel(y=expected.y, x=expected.x)
        np.testing.assert_array_equal(np.isnan(crop), np.isnan(expected[variable]))
        assert np.nanmax(np.abs(crop.values.astype(float) - expected[variable].values)) <= tolerance
        assert radar.attrs["license"] == expected.attrs["license"]
    assert radar[variable].dtype == np.float32
    assert radar.sizes == {**radar.sizes, **dict(zip("yx", datasets.describe(name)["shape"], strict=True))}
    assert mirror.requests == dict.fromkeys(registered, 1)


def test_cached_event_is_bit_for_bit_what_the_reader_gives(shared_data, serve):
    from xnowcast import io

    for name, folder in {"fmi_20160928": "fmi_pgm", "knmi_20100826": "knmi_hdf5"}.items():  # the packed ones
        path = sorted((shared_data / "raw" / folder).iterdir())[0]
        mirror = serve({datasets._raw_files(name)[0].path: path.read_bytes()})
        cached, read = datasets.open(name, frames=1, mirror=mirror.url).load(), io.open_radar(path)
        xr.testing.assert_equal(cached, read)
        for variable in read.variables:
            assert cached[variable].dtype == read[variable].dtype, variable
            assert set(read[variable].attrs) <= set(cached[variable].attrs), variable
