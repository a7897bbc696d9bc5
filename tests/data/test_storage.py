"""Files that are whole, outputs that destroy nothing, and drafts that follow no links."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from xnowcast.data import storage
from xnowcast.data.sources import paths_behind
from xnowcast.data.whole import State, state
from xnowcast.drafts import draft, remove_leftovers

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


def test_another_process_may_see_another_number_of_the_file(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"rain")
    before = state(path)
    sent = pickle.loads(pickle.dumps(before))
    other.write_bytes(b"snow")
    os.utime(other, ns=(before.modified, before.modified))
    other.replace(path)
    assert before.is_over(path) and not sent.is_over(path)
    path.write_bytes(b"more")
    assert sent.is_over(path)


# ---------------------------------------------------------------- what is read is never replaced


def lazy_stores(folder, frame):
    """Ways to a dataset that reads ``rain.zarr`` or ``rain.nc`` in a folder."""
    frame.to_zarr(folder / "rain.zarr", consolidated=False)
    frame.to_zarr(folder / "old.zarr", consolidated=False, zarr_format=2)
    frame.to_netcdf(folder / "rain.nc")
    frame.to_netcdf(folder / "classic.nc", format="NETCDF3_64BIT", engine="scipy")
    for name in ("rain.zarr", "old.zarr"):
        (folder / f"link-{name}").symlink_to(name)


def opened(path, **how):
    return (
        xr.open_zarr(path, consolidated=False, **how) if path.name.endswith(".zarr") else xr.open_dataset(path, **how)
    )


WAYS = {
    "a variable": lambda path: opened(path).rain.to_dataset(),
    "not in chunks": lambda path: opened(path, chunks=None).rain.to_dataset(),
    "in chunks": lambda path: opened(path, chunks={"time": 1}).rain.to_dataset(),
    "computed with": lambda path: (
        (2 * opened(path, chunks={}).rain).isel(x=slice(None, None, -1)).to_dataset(name="rain")
    ),
    "joined": lambda path: xr.concat([opened(path, chunks={}), opened(path, chunks={})], "run").rain.to_dataset(),
    "optimized": lambda path: dask.optimize(opened(path, chunks={}).rain.to_dataset())[0],
    "a path": str,
    "a path with a period": lambda path: f"{path}#2024-06-01/2024-06-02",
    "a pattern": lambda path: f"{path.parent}/{path.name[0]}*",
    "in a mapping": lambda path: {"models": [{"weights": str(path)}]},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["rain.zarr", "old.zarr", "link-rain.zarr", "rain.nc", "classic.nc"])
def test_whatever_is_read_is_never_replaced(frame, tmp_path, name, way):
    lazy_stores(tmp_path, frame)
    read = WAYS[way](tmp_path / name)
    with pytest.raises(ValueError, match="is also an input, which would be lost"):
        storage.check_output((tmp_path / name).resolve(), overwrite=True, inputs=[read])
    if name.startswith("link-") and way != "a pattern":
        with pytest.raises(ValueError, match="is also an input"):
            storage.check_output(tmp_path / name, overwrite=True, inputs=[read])


@pytest.mark.parametrize("name", ["classic.nc", "of\nradar.nc"], ids=["plain", "in two lines"])
def test_a_file_that_is_read_by_its_handle_or_has_an_odd_name_is_not_replaced(frame, tmp_path, name):
    path = tmp_path / name
    frame.to_netcdf(path, format="NETCDF3_64BIT", engine="scipy")
    with open(path, "rb") as file:
        for read in (xr.open_dataset(path, chunks={}), xr.open_dataset(file, engine="scipy", chunks={})):
            with pytest.raises(ValueError, match="is also an input"):
                storage.check_output(path, overwrite=True, inputs=[read])


def test_a_dataset_cannot_be_written_over_what_it_reads(frame, tmp_path):
    frame.assign_attrs(nowcast_model="none").to_zarr(tmp_path / "rain.zarr")
    with pytest.raises(ValueError, match="is also an input"):
        storage.write(xr.open_zarr(tmp_path / "rain.zarr").rain.to_dataset(), tmp_path / "rain.zarr", overwrite=True)
    xr.testing.assert_equal(xr.open_zarr(tmp_path / "rain.zarr").load(), frame)


def test_an_input_that_lies_in_the_output_is_kept_and_nothing_is_written_into_a_store(frame, tmp_path):
    (tmp_path / "run.zarr").mkdir()
    frame.to_netcdf(tmp_path / "run.zarr" / "rain.nc")
    with pytest.raises(ValueError, match=r"rain\.nc is an input in the output"):
        storage.check_output(tmp_path / "run.zarr", overwrite=True, inputs=[str(tmp_path / "run.zarr" / "*.nc")])
    frame.to_zarr(tmp_path / "rain.zarr")
    with pytest.raises(ValueError, match="would lie in the Zarr store"):
        storage.check_output(tmp_path / "rain.zarr" / "new.zarr")


def test_other_inputs_do_no_harm(frame, tmp_path):
    frame.to_zarr(tmp_path / "rain.zarr")
    storage.write(frame, tmp_path / "out.zarr")
    storage.write(xr.open_zarr(tmp_path / "rain.zarr"), tmp_path / "out.zarr", overwrite=True)
    xr.testing.assert_equal(storage.open_input(str(tmp_path / "out.zarr")).load(), frame)


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "in memory"])
def test_nothing_is_computed_to_find_what_is_read(tmp_path, lazy):
    def fail(block):
        raise AssertionError("computed")

    data = da.map_blocks(fail, chunks=((1,) * 4,), dtype=float, meta=np.empty(0)) if lazy else np.zeros(4)
    assert paths_behind(xr.Dataset({"rain": ("x", data)})) == set()


# ---------------------------------------------------------------- only what is ours is replaced


def put_text(path):
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


def put_foreign_store(path):
    xr.Dataset({"rain": ("x", [1.0])}).to_zarr(path)


def put_store_with_a_note(path):
    storage.write(xr.Dataset({"rain": ("x", [1.0])}), path)
    (path / "thesis.tex").write_text("years of work")


def put_store_with_a_store_in_it(path):
    storage.write(xr.Dataset({"rain": ("x", [1.0])}), path)
    xr.Dataset({"thesis": ("x", [1.0])}).to_zarr(path / "mine.zarr")


def put_store_without_attributes(path):
    put_foreign_store(path)
    (path / "zarr.json").write_text('{"attributes": null, "node_type": "group"}')


def put_others_work_on_our_files(path):
    history = "Mon Jun 3 12:00:00 2024: ncks /data/xnowcast/radar.nc radar.nc"
    xr.Dataset({"rain": ("x", [1.0])}, attrs={"history": history}).to_netcdf(path)


def put_broken_store(path):
    path.mkdir()
    (path / "zarr.json").write_text("{")


def put_decoded_radar(path):
    xr.Dataset({"rain": ("x", [1.0])}, attrs={"history": "decoded by xnowcast.io from a.h5"}).to_netcdf(path)


STRANGERS = [
    ("text.zarr", put_text),
    ("store.zarr", put_foreign_store),
    ("noted.zarr", put_store_with_a_note),
    ("nested.zarr", put_store_with_a_store_in_it),
    ("bare.zarr", put_store_without_attributes),
    ("broken.zarr", put_broken_store),
    ("file.zarr", lambda path: path.write_text("")),
    ("link.zarr", lambda path: path.symlink_to("nowhere")),
    ("link.nc", lambda path: path.symlink_to("nowhere.nc")),
    ("folder.nc", put_text),
    ("radar.nc", put_decoded_radar),
    ("history.nc", put_others_work_on_our_files),
    ("foreign.nc", lambda path: xr.Dataset({"rain": ("x", [1.0])}).to_netcdf(path)),
]


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize(("name", "put"), STRANGERS, ids=[name for name, _ in STRANGERS])
def test_what_others_wrote_is_not_replaced(frame, tmp_path, name, put):
    put(tmp_path / name)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        storage.write(frame, tmp_path / name, overwrite=True)
    assert content(tmp_path) == before


OURS = [
    ("written.zarr", lambda path, data: storage.write(data, path)),
    ("written.nc", lambda path, data: storage.write(data, path)),
    ("earlier.zarr", lambda path, data: data.assign_attrs(nowcast_model="sprog").to_zarr(path)),
    ("format2.zarr", lambda path, data: data.assign_attrs(nowcast_model="sprog").to_zarr(path, zarr_format=2)),
    ("earlier.nc", lambda path, data: data.assign_attrs(history="2024: xnowcast coarsen, factor 2").to_netcdf(path)),
    ("empty.zarr", lambda path, data: path.mkdir()),
    ("notes.nc", lambda path, data: path.write_text("no data")),
]


@pytest.mark.parametrize(("name", "put"), OURS, ids=[name for name, _ in OURS])
def test_what_this_package_wrote_is_replaced_when_asked(frame, tmp_path, name, put):
    put(tmp_path / name, xr.Dataset({"old": ("z", [1.0, 2.0])}))
    with pytest.raises(ValueError, match="exists already"):
        storage.write(frame, tmp_path / name)
    storage.write(frame, tmp_path / name, overwrite=True)
    xr.testing.assert_equal(storage.open_input(str(tmp_path / name)).load(), frame)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_link_is_followed_to_where_the_output_lies(frame, tmp_path):
    (tmp_path / "disk").mkdir()
    storage.write(xr.Dataset({"old": ("z", [1.0])}), tmp_path / "disk" / "out.zarr")
    (tmp_path / "out.zarr").symlink_to("disk/out.zarr")
    storage.write(frame, tmp_path / "out.zarr", overwrite=True)
    assert (tmp_path / "out.zarr").is_symlink()
    xr.testing.assert_equal(storage.open_input(str(tmp_path / "disk" / "out.zarr")).load(), frame)


@pytest.mark.parametrize("path", [None, 3, ["a.zarr"]])
def test_an_output_that_is_no_path_is_refused(frame, path):
    with pytest.raises(ValueError, match="the output is"):
        storage.write(frame, path)


def test_a_store_with_broken_metadata_is_told_by_name(tmp_path):
    put_broken_store(tmp_path / "broken.zarr")
    with pytest.raises(ValueError, match=r"broken\.zarr is no Zarr store that can be read"):
        storage.open_input(str(tmp_path / "broken.zarr"))


# ---------------------------------------------------------------- drafts


@pytest.mark.parametrize("name", ["out.nc", "out.zarr"])
def test_writing_at_the_same_time_loses_nothing(frame, tmp_path, name):
    path = tmp_path / name
    storage.write(frame, path)
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(storage.write, frame, path, overwrite=True) for _ in range(9)]:
            future.result()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    xr.testing.assert_equal(storage.open_input(str(path)).load(), frame)


@pytest.mark.parametrize("name", ["out.txt", "out"])
def test_a_draft_never_replaces_what_came_meanwhile_unless_told(tmp_path, name):
    for overwrite, kept in ((False, "theirs"), (True, "ours")):
        path = tmp_path / f"{overwrite}-{name}"

        def write(new):
            if name == "out":
                new.mkdir()
                new = new / "file"
            new.write_text("ours" if new.is_relative_to(tmp_path) and ".part" in str(new) else "theirs")

        with (
            pytest.raises(FileExistsError) if not overwrite else nullcontext(),
            draft(path, overwrite=overwrite) as new,
        ):
            write(new)
            write(path)
        assert (path / "file" if name == "out" else path).read_text() == kept
    assert not [entry for entry in tmp_path.iterdir() if entry.name.endswith(".part")]


def test_a_draft_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "out").write_text("before")
    with pytest.raises(RuntimeError), draft(tmp_path / "out") as new:
        new.write_text("half")
        raise RuntimeError
    assert content(tmp_path) == {"out": b"before"}


def test_no_draft_can_be_foreseen_and_none_is_open_to_others(tmp_path):
    with draft(tmp_path / "out.nc") as one, draft(tmp_path / "out.nc") as two:
        assert one.parent != two.parent and one.parent.stat().st_mode & 0o077 == 0
        one.write_text("one")
        two.write_text("two")
    assert content(tmp_path) == {"out.nc": b"one"}


def test_leftovers_of_killed_processes_are_removed_and_links_not_followed(tmp_path):
    (tmp_path / ".out[1].zarr.ab12_cde.part" / "out[1].zarr").mkdir(parents=True)
    (tmp_path / ".out[1].zarr.4711.part").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data").write_text("years of work")
    (tmp_path / ".out[1].zarr.evil.part").symlink_to("precious")
    (tmp_path / ".out[1].zarr.more.notes.part").write_text("of another file")
    remove_leftovers(tmp_path / "out[1].zarr")
    assert sorted(content(tmp_path)) == [".out[1].zarr.more.notes.part", "precious", "precious/data"]


def test_the_demo_and_a_training_keep_their_hands_off_what_they_read(frame, tmp_path):
    from xnowcast.cli import demo
    from xnowcast.training.folder import RunFolder

    frame.to_netcdf(tmp_path / "scores.nc")
    frame.to_zarr(tmp_path / "radar.zarr", consolidated=False)
    with pytest.raises(ValueError, match=r"scores\.nc is also an input"):
        demo.run(str(tmp_path / "scores.nc"), tmp_path, "persistence")
    with pytest.raises(ValueError, match="is a Zarr store"):
        RunFolder(tmp_path / "radar.zarr", resume=True)
