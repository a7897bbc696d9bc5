"""Real time: a forecast for each new frame, whatever arrives late, half copied or broken; and the command line."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from archive_models import Noisy, wait_until

import xnowcast
from xnowcast import rain_rate
from xnowcast.archive import watch
from xnowcast.archive.desk import Desk
from xnowcast.archive.inbox import Inbox
from xnowcast.cli import main
from xnowcast.verbs.forecast import ForecastRequest

OPTIONS = {"poll": "50ms", "steps": 2}


@pytest.fixture
def frames(radar, tmp_path):
    """Ten files of a frame each, somewhere else than in the folder that is watched."""
    (tmp_path / "source").mkdir()
    paths = [tmp_path / "source" / f"radar_{i:02d}.nc" for i in range(10)]
    for i, path in enumerate(paths):
        radar.isel(time=[i]).to_netcdf(path)
    (tmp_path / "in").mkdir()
    return paths


def arrives(folder, *paths):
    for path in paths:
        shutil.copy(path, folder)


class Watched:
    """A watch in a thread, which is told to stop and waited for."""

    def __init__(self, tmp_path, model="persistence", **options):
        self.out = tmp_path / "out"
        self.made = None
        self._arguments = (tmp_path / "in", model), {"out": self.out} | OPTIONS | options

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self):
        self.made = watch(*self._arguments[0], **self._arguments[1])

    def __exit__(self, *error):
        self._thread.join()

    def wait_for(self, name):
        wait_until((self.out / name).exists)

    def wait_until_logged(self, words):
        wait_until(lambda: words in (self.out / "watch.log").read_text())


def test_each_new_frame_gets_a_forecast_and_latest_points_at_it(radar, frames, tmp_path):
    arrives(tmp_path / "in", *frames[:3])
    with Watched(tmp_path, stop_after=3) as watched:
        for i in (3, 4):
            watched.wait_for(f"forecast_20240601T12{5 * (i - 1):02d}.nc")
            arrives(tmp_path / "in", frames[i])
    assert watched.made == 3
    names = sorted(p.name for p in watched.out.iterdir())
    assert names == [*(f"forecast_20240601T12{m}.nc" for m in (10, 15, 20)), "latest.nc", "watch.log"]
    assert os.readlink(watched.out / "latest.nc") == "forecast_20240601T1220.nc"
    with xr.open_dataset(watched.out / "latest.nc") as latest:
        wanted = radar.isel(time=slice(5)).nowcast.forecast("persistence", steps=2)
        np.testing.assert_array_equal(latest.rain, wanted.rain)
        np.testing.assert_array_equal(latest.init_time, wanted.init_time)


def test_members_are_those_of_the_archive(radar, frames, tmp_path):
    """The forecast in real time is, bit for bit, the hindcast of the same time and seed."""
    arrives(tmp_path / "in", *frames)
    with Watched(tmp_path, Noisy(), stop_after=1, members=3, seed=4) as watched:
        pass
    with xr.open_dataset(watched.out / "latest.nc") as latest:
        np.testing.assert_array_equal(latest.rain, radar.nowcast.forecast(Noisy(), members=3, seed=4, steps=2).rain)


def test_a_file_that_still_grows_is_waited_for(frames, tmp_path, caplog):
    content = frames[3].read_bytes()
    inbox = Inbox(tmp_path / "in", "*", capacity=4)
    with open(tmp_path / "in" / "radar_03.nc", "wb") as file:
        for piece in range(10):
            file.write(content[piece * len(content) // 10 : (piece + 1) * len(content) // 10])
            file.flush()
            assert not inbox.look() and not inbox._attempts, "it is not even tried"
    assert inbox.look() and len(inbox.frames) == 1 and not caplog.records


def test_a_broken_file_does_not_stop_the_watch_and_may_be_mended(frames, tmp_path):
    arrives(tmp_path / "in", *frames[:3])
    with Watched(tmp_path, stop_after=3, on_gap="fill") as watched:
        watched.wait_for("forecast_20240601T1210.nc")
        (tmp_path / "in" / "radar_03.nc").write_bytes(b"not a radar file")
        (tmp_path / "in" / "notes.txt").write_text("nor is this")
        watched.wait_until_logged("radar_03.nc cannot be read and is left aside")
        arrives(tmp_path / "in", frames[4])
        watched.wait_for("forecast_20240601T1220.nc")
        arrives(tmp_path / "in", frames[3])  # sent again, whole: late, so it is input alone
        watched.wait_until_logged("a frame came late")
        arrives(tmp_path / "in", frames[5])
    assert not (watched.out / "forecast_20240601T1215.nc").exists()
    assert (watched.out / "forecast_20240601T1225.nc").exists()


def wanted(model, **arguments):
    return ForecastRequest(verb=xnowcast.forecast, model=model, **({"steps": 2} | arguments))


def desk(tmp_path, **settings):
    (tmp_path / "out").mkdir(exist_ok=True)
    return Desk(tmp_path / "out", wanted(Noisy(), **settings), "nc", None)


def by_time(radar, *which):
    return {radar.time.values[i]: radar.isel(time=[i]) for i in which}


@pytest.mark.parametrize("kind", ["amounts", "amounts with bounds", "days in floating point"])
def test_frames_of_amounts_and_of_rounded_times_are_forecast_from(radar, tmp_path, kind):
    ds = radar
    if kind != "days in floating point":
        rain = (radar.rain / 12).assign_attrs(units="mm", standard_name="precipitation_amount")
        ds = radar.assign(rain=rain)
    if kind == "amounts with bounds":
        ends = ds.time.values
        ds = ds.assign(time_bnds=(("time", "bnds"), np.stack([ends - np.timedelta64(5, "m"), ends], 1)))
        ds.time.attrs["bounds"] = "time_bnds"
    ds.time.encoding = {"units": "days since 1900-01-01", "dtype": "f8"}
    (tmp_path / "in").mkdir()
    for i in range(4):
        ds.isel(time=[i]).to_netcdf(tmp_path / "in" / f"{i}.nc")
    with Watched(tmp_path, stop_after=1) as watched:
        pass
    with xr.open_dataset(watched.out / "forecast_20240601T1215.nc") as made:
        assert made.init_time.values[0] == radar.time.values[3]
        np.testing.assert_allclose(rain_rate(made)[0, 0, 4:], radar.rain[3, 4:], rtol=1e-5)


def test_a_missing_frame_is_never_joined_over(radar, tmp_path, caplog):
    maker = desk(tmp_path, members=1)
    maker.forecast_from(by_time(radar, 0, 1, 2, 4))
    assert maker.made == 0 and "across a gap" in caplog.text
    maker.forecast_from(by_time(radar, 0, 1, 2, 4, 5))
    assert maker.made == 1
    maker.forecast_from(by_time(radar, 5, 7, 9))  # alone these would pass for a step of ten minutes
    assert maker.made == 1 and "came every 300 seconds" in caplog.text


def test_a_late_frame_brings_the_forecast_that_it_held_up(radar, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    maker = desk(tmp_path, members=1)
    maker.forecast_from(by_time(radar, 0, 1, 2, 4))
    assert maker.made == 0
    maker.forecast_from(by_time(radar, 0, 1, 2, 3, 4))
    assert maker.made == 1 and (tmp_path / "out" / "forecast_20240601T1220.nc").exists()
    maker.forecast_from(by_time(radar, 0, 1, 2, 3, 4))
    assert maker.made == 1 and "the newest forecast is from 2024-06-01T12:20" in caplog.text


def test_the_first_frames_are_waited_with_and_that_is_no_error(radar, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    maker = desk(tmp_path, members=1)
    maker.forecast_from(by_time(radar, 0))
    assert maker.made == 0 and "1 of the 2 frames that a forecast needs have come" in caplog.text
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_the_log_tells_what_is_watched_and_forecast_with(frames, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for pattern, told in (("*", "all files"), ("*.h5", "files like *.h5")):
        with Watched(tmp_path, pattern=pattern, stop_when_idle="50ms"):
            pass
        assert f"watching {tmp_path / 'in'} for {told}, to forecast with persistence" in caplog.text
    assert "stopped after 0 forecasts" in caplog.text


def test_memory_does_not_grow_with_the_days(radar, tmp_path):
    (tmp_path / "in").mkdir()
    inbox = Inbox(tmp_path / "in", "*.nc", capacity=5)
    one = radar.isel(time=[0])
    for i in range(30):
        moved = one.assign_coords(time=one.time + np.timedelta64(5 * i, "m"))
        moved.to_netcdf(tmp_path / "in" / f"radar_{i:03d}.nc")
        inbox.look()
        assert inbox.look()
        assert not inbox.look(), "a file is read once"
        for old in sorted((tmp_path / "in").iterdir())[:-10]:
            old.unlink()
    assert len(inbox.frames) == 5
    assert max(inbox.frames) == moved.time.values[0]
    assert len(inbox._dealt_with) <= 11 and len(inbox._last_look) <= 11, "files that were removed are forgotten"


def test_only_the_newest_files_of_a_full_folder_are_read(frames, tmp_path, monkeypatch):
    arrives(tmp_path / "in", *frames)
    inbox = Inbox(tmp_path / "in", "*", capacity=4)
    inbox.look()
    inbox.look()
    assert len(inbox._attempts) == 0 and len(inbox.frames) == 4


def test_a_watch_that_begins_again_does_not_repeat_itself(frames, tmp_path):
    arrives(tmp_path / "in", *frames[:4])
    with Watched(tmp_path, stop_after=1):
        pass
    with Watched(tmp_path, stop_when_idle="500ms") as again:
        pass
    assert again.made == 0
    arrives(tmp_path / "in", frames[4])
    with Watched(tmp_path, stop_after=1, keep=1) as on:
        pass
    assert on.made == 1
    assert [p.name for p in on.out.glob("forecast_*")] == ["forecast_20240601T1220.nc"], "one is kept"


# ---------------------------------------------------------------- frame by frame, without waiting


class Played:
    """What a watch does at each look, without a clock: files come, and are looked at twice."""

    def __init__(self, tmp_path, model="persistence", needed=2, keep=None, file_format="nc", **settings):
        self.folder, self.out = tmp_path / "in", tmp_path / "out"
        for folder in (self.folder, self.out):
            folder.mkdir(exist_ok=True)
        self.inbox = Inbox(self.folder, "*", needed + 8, needed)
        self.desk = Desk(self.out, wanted(model, **settings), file_format, keep, needed)

    def comes(self, name, content):
        """Whether anything new was found."""
        path = self.folder / name
        path.write_bytes(content) if isinstance(content, bytes) else content.to_netcdf(path)
        return self.looks()

    def looks(self):
        self.inbox.look()
        news = self.inbox.look()
        if news:
            self.desk.forecast_from(self.inbox.credible())
        return news

    def forecasts(self):
        return [path.name[9:-3] for path in sorted(self.out.glob("forecast_*"))]

    def newest(self):
        return xr.load_dataset(self.out / "latest.nc").rain.values


def single(radar, i, minutes=0, factor=1.0, **attrs):
    """A frame of a file of its own."""
    frame = radar.isel(time=[i])
    frame = frame.assign_coords(time=frame.time + np.timedelta64(minutes, "m"))
    return frame.assign(rain=(frame.rain * factor).assign_attrs(frame.rain.attrs | attrs))


def test_a_frame_that_is_sent_again_counts_as_it_came_last(radar, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    played = Played(tmp_path, "sprog", needed=5)
    for i in range(5):
        played.comes(f"r{i}.nc", single(radar, i))
    assert played.forecasts() == ["20240601T1220"]
    played.comes("r5.nc", single(radar, 5, factor=0.0))
    wrong = played.newest()
    assert played.comes("r5.nc", single(radar, 5))
    assert "the forecast from 2024-06-01T12:25 is made again" in caplog.text and played.desk.made == 2
    wanted = radar.isel(time=slice(6)).nowcast.forecast("sprog", steps=2).rain.values
    np.testing.assert_allclose(played.newest(), wanted, atol=1e-4)
    assert np.nanmax(abs(wrong - wanted)) > 0.1
    assert not played.comes("r5.nc", single(radar, 5)), "the same content again is nothing new"
    played.comes("r4_corrected.nc", single(radar, 4))
    assert caplog.text.count("made again") == 2, "only what the forecast reads makes it again"  # in two lines
    played.comes("r4_corrected.nc", single(radar, 4, factor=1.1))
    assert caplog.text.count("made again") == 4


def test_of_two_versions_at_once_the_one_that_was_written_last_counts(radar, tmp_path):
    played = Played(tmp_path)
    single(radar, 1, factor=0.0).to_netcdf(played.folder / "r1.nc")
    single(radar, 1).to_netcdf(played.folder / "a_correction.nc")
    os.utime(played.folder / "r1.nc", (1, 1))
    played.comes("r0.nc", single(radar, 0))
    np.testing.assert_array_equal(played.newest()[0, 0], radar.rain[1])


def test_a_file_that_changes_while_it_is_read_is_read_again(radar, tmp_path, monkeypatch):
    from xnowcast.data import storage

    played, opened = Played(tmp_path), storage.open_input
    played.comes("r0.nc", single(radar, 0))
    single(radar, 1).to_netcdf(tmp_path / "right.nc")

    def slowly(path):
        monkeypatch.setattr(storage, "open_input", opened)
        found = opened(path).load()
        os.replace(tmp_path / "right.nc", path)
        return found

    monkeypatch.setattr(storage, "open_input", slowly)
    assert not played.comes("r1.nc", single(radar, 1, factor=0.0))
    assert played.looks()
    np.testing.assert_array_equal(played.newest()[0, 0], radar.rain[1])


@pytest.mark.parametrize("file_format", ["NETCDF3_CLASSIC", "NETCDF3_64BIT", "NETCDF4"])
def test_half_a_file_waits_and_is_read_once_it_has_grown(radar, tmp_path, file_format):
    engine = "netcdf4" if file_format == "NETCDF4" else "scipy"
    single(radar, 1).to_netcdf(tmp_path / "whole.nc", format=file_format, engine=engine)
    whole = (tmp_path / "whole.nc").read_bytes()
    played = Played(tmp_path)
    played.comes("r0.nc", single(radar, 0))
    for cut in (10, len(whole) // 3, len(whole) - 100):
        played.comes("r1.nc", whole[:cut])
        assert not any(played.looks() for _ in range(6)) and played.forecasts() == []
    played.comes("r1.nc", whole)
    np.testing.assert_array_equal(played.newest()[0, 0], radar.rain[1])


def test_a_restarted_watch_knows_the_newest_forecast_and_whether_its_frames_have_changed(radar, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    played = Played(tmp_path)
    for i in range(3):
        played.comes(f"r{i}.nc", single(radar, i))
    again = Played(tmp_path)
    again.looks()
    assert again.desk.made == 0 and "is there already" in caplog.text
    single(radar, 2, factor=2.0).to_netcdf(again.folder / "r2.nc")  # while no watch was there
    last = Played(tmp_path)
    last.looks()
    np.testing.assert_allclose(last.newest()[0, 0], 2 * radar.rain[2])


@pytest.mark.parametrize("minutes", [60, 525_600, -60, 1, 61])
@pytest.mark.parametrize("where", [0, 1, 5])
def test_a_frame_with_a_wrong_date_costs_the_forecasts_that_miss_it(radar, tmp_path, minutes, where):
    played = Played(tmp_path, Noisy(), members=1)
    for i in range(9):
        played.comes(f"r{i}.nc", single(radar, i, minutes=minutes if i == where else 0))
    good = {f"20240601T12{5 * i:02d}" for i in range(where + 3, 9)}
    assert good <= set(played.forecasts())


def test_a_frame_ahead_of_the_clock_is_never_trusted(radar, tmp_path, monkeypatch, caplog):
    now = [radar.time.values[0]]
    monkeypatch.setattr("xnowcast.archive.inbox._now", lambda: now[0])
    played = Played(tmp_path)
    for i in range(8):
        now[0] = radar.time.values[i]
        played.comes(f"r{i}.nc", single(radar, 3, minutes=25) if i == 3 else single(radar, i))  # it is dated 12:40
    assert "the frame of 2024-06-01T12:40:00 is dated in the future" in caplog.text
    assert played.forecasts()[-1] == "20240601T1235"
    now[0] = radar.time.values[8]
    played.comes("r8.nc", single(radar, 8))
    np.testing.assert_array_equal(played.newest()[0, 0], radar.rain[8])


def test_where_all_frames_are_ahead_it_is_the_clock_that_is_wrong(radar, tmp_path, monkeypatch):
    monkeypatch.setattr("xnowcast.archive.inbox._now", lambda: np.datetime64("1970-01-01", "ns"))
    played = Played(tmp_path)
    for i in range(4):
        played.comes(f"r{i}.nc", single(radar, i))
    assert len(played.forecasts()) == 3


def test_places_a_millimetre_off_are_the_same_and_another_grid_is_left_out(radar, tmp_path, caplog):
    played = Played(tmp_path, Noisy(), members=1)
    moved = {2: 0.001, 3: 400.0}
    for i in range(7):
        frame = single(radar, i)
        played.comes(f"r{i}.nc", frame.assign_coords(x=frame.x + moved.get(i, 0.0)))
    assert played.forecasts() == [f"20240601T12{m}" for m in ("05", "10", "25", "30")]
    assert "2024-06-01T12:15:00 is left out: its grid is another" in caplog.text


def test_a_radar_that_changes_its_grid_is_followed(radar, tmp_path):
    played = Played(tmp_path)
    for i in range(6):
        played.comes(f"r{i}.nc", single(radar, i).isel(x=slice(None, 20 if i < 3 else None)))
    assert played.forecasts() == [f"20240601T12{m}" for m in ("05", "10", "20", "25")]
    assert played.newest().shape[-1] == 32


def test_frames_in_other_units_are_never_joined(radar, tmp_path, caplog):
    played = Played(tmp_path)
    for i in range(4):
        played.comes(f"r{i}.nc", single(radar, i, **({"units": "m s-1"} if i == 2 else {})))
    assert "2024-06-01T12:10:00 is left out: its field is another" in caplog.text
    np.testing.assert_array_equal(played.newest()[0, 0], radar.rain[3])


def test_a_further_variable_of_some_frames_prevents_nothing(radar, tmp_path):
    played = Played(tmp_path)
    for i in range(3):
        frame = single(radar, i)
        played.comes(f"r{i}.nc", frame if i == 1 else frame.assign(quality=(frame.rain.dims, frame.rain.values)))
    assert len(played.forecasts()) == 2


def test_amounts_are_forecast_from(radar, tmp_path):
    amounts = radar.assign(rain=radar.rain.assign_attrs(units="mm", standard_name="precipitation_amount"))
    played = Played(tmp_path)
    for i in range(3):
        played.comes(f"r{i}.nc", single(amounts, i))
    np.testing.assert_allclose(played.newest()[0, 0], radar.rain[2], rtol=1e-6)


def test_only_forecasts_of_a_watch_are_ever_removed_or_replaced(radar, tmp_path, caplog):
    played = Played(tmp_path, keep=2)
    of_others = {
        "forecast_20240601T1205.png": b"a picture",
        "forecast_20240601T1200.nc": b"no forecast of a watch",
        "forecast_20240601T1200_mine.nc": b"mine",
        "forecast_what.nc": b"",
        "forecast_99999999T9999.nc": b"",
        "notes.txt": b"notes",
    }
    for name, content in of_others.items():
        (played.out / name).write_bytes(content)
    radar.nowcast.forecast("persistence", steps=1).to_netcdf(played.out / "forecast_20240601T1220.nc")  # by hand
    by_hand = (played.out / "forecast_20240601T1220.nc").read_bytes()
    for i in range(8):
        played.comes(f"r{i}.nc", single(radar, i))
    left = {p.name: p.read_bytes() for p in played.out.iterdir() if not p.name.startswith("latest")}
    assert {name: left[name] for name in of_others} == of_others
    assert left["forecast_20240601T1220.nc"] == by_hand
    assert "no forecast from 2024-06-01T12:20: there is a forecast_20240601T1220.nc already" in caplog.text
    ours = [n for n in left if n not in of_others and n != "forecast_20240601T1220.nc"]
    assert sorted(ours) == ["forecast_20240601T1230.nc", "forecast_20240601T1235.nc"]


def test_those_made_longest_ago_go_first_whatever_their_date(radar, tmp_path):
    played = Played(tmp_path, keep=1)
    later = [single(radar, i, minutes=10_000) for i in range(2)]
    for number, frame in enumerate([*later, *(single(radar, i) for i in range(5))]):
        played.comes(f"r{number}.nc", frame)
    assert played.forecasts() == ["20240601T1220"]


def test_a_file_called_latest_is_left_alone(radar, tmp_path, caplog):
    played = Played(tmp_path)
    (played.out / "latest.nc").write_text("a file of somebody's")
    for i in range(3):
        played.comes(f"r{i}.nc", single(radar, i))
    assert len(played.forecasts()) == 2
    assert (played.out / "latest.nc").read_text() == "a file of somebody's" and "is no link" in caplog.text


def test_steps_of_less_than_a_minute_have_names_of_their_own(radar, tmp_path):
    played = Played(tmp_path)
    for i in range(4):
        time = radar.time.values[0] + i * np.timedelta64(30, "s")
        played.comes(f"r{i}.nc", single(radar, i).assign_coords(time=[time]))
    assert played.forecasts() == ["20240601T120030", "20240601T1201", "20240601T120130"]


def test_times_a_second_or_two_off_are_those_of_a_regular_radar(radar, tmp_path):
    played = Played(tmp_path, Noisy(), members=1)
    for i, off in enumerate((2, -1, 0, 2, -2, 1)):
        frame = single(radar, i)
        played.comes(f"r{i}.nc", frame.assign_coords(time=frame.time + np.timedelta64(off, "s")))
    assert played.forecasts() == [f"20240601T12{m}" for m in ("05", "10", "15", "20", "25")]


def test_a_file_with_a_time_that_is_no_axis_is_a_frame(radar, tmp_path):
    played = Played(tmp_path)
    for i in range(2):
        played.comes(f"r{i}.nc", radar.isel(time=i))
    np.testing.assert_array_equal(played.newest()[0, 0], radar.rain[1])


def test_links_out_of_the_folder_are_followed_only_when_asked_for(radar, tmp_path, caplog):
    played = Played(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for i in range(3):
        single(radar, i).to_netcdf(elsewhere / f"r{i}.nc")
        (played.folder / f"r{i}.nc").symlink_to(elsewhere / f"r{i}.nc")
    (played.folder / "loop.nc").symlink_to("loop.nc")
    (played.folder / "nowhere.nc").symlink_to("gone.nc")
    assert not played.looks() and not played.looks()
    assert caplog.text.count("r0.nc is a link out of the folder") == 1, "it is told once"
    played.inbox.follow_links = True
    assert played.looks() and len(played.forecasts()) == 1
    inside = Played(tmp_path / "inside") if (tmp_path / "inside").mkdir() is None else None
    for i in range(2):
        single(radar, i).to_netcdf(inside.folder / f".r{i}.nc")
        (inside.folder / f"r{i}.nc").symlink_to(f".r{i}.nc")
    assert inside.looks(), "a link within the folder is another name"


def test_a_folder_that_is_away_is_waited_for_with_growing_pauses(frames, tmp_path, monkeypatch):
    module = sys.modules["xnowcast.archive.watch"]

    arrives(tmp_path / "in", *frames[:3])
    pauses, looks = [], []

    def sleep(seconds, interruption):
        pauses.append(seconds)
        looks.append(None)
        if len(looks) == 2:
            (tmp_path / "in").rename(tmp_path / "away")
        if len(looks) == 6:
            (tmp_path / "away").rename(tmp_path / "in")
            arrives(tmp_path / "in", frames[3])

    monkeypatch.setattr(module, "_sleep", sleep)
    made = watch(tmp_path / "in", "persistence", out=tmp_path / "out", poll="50ms", steps=2, stop_after=2)
    assert made == 2 and pauses[:6] == pytest.approx([0.05, 0.05, 0.1, 0.2, 0.4, 0.8])
    log = (tmp_path / "out" / "watch.log").read_text()
    assert log.count("cannot be looked into") == 1 and "is there again" in log


def test_a_call_that_no_frame_can_mend_ends_after_five(radar, tmp_path):
    played = Played(tmp_path, steps=None, lead_time="7min")
    for i in range(5):
        played.comes(f"r{i}.nc", single(radar, i))
    with pytest.raises(ValueError, match="the lead time of 7min is no multiple of the data's step of 5 min"):
        played.comes("r5.nc", single(radar, 5))


def test_frames_that_will_not_do_never_end_a_watch_that_has_forecast(radar, tmp_path, caplog):
    played = Played(tmp_path)
    played.comes("r0.nc", single(radar, 0))
    played.comes("r1.nc", single(radar, 1))
    for i in range(2, 10):
        played.comes(f"r{i}.nc", single(radar, i, units="K"))
    assert len(played.forecasts()) == 1 and "units 'K'" in caplog.text


def test_forecasts_may_be_zarr(frames, tmp_path):
    arrives(tmp_path / "in", *frames[:4])
    with Watched(tmp_path, stop_after=1, file_format="zarr") as watched:
        pass
    assert xr.open_zarr(watched.out / "latest.zarr").sizes["lead_time"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": "nowhere"}, "no folder nowhere"),
        ({"out": "in"}, "choose another folder"),
        ({"keep": 0}, "1 or more"),
        ({"file_format": "grib"}, "'nc' or 'zarr'"),
        ({"on_gap": "raise"}, "'skip' or 'fill'"),
        ({"poll": 5}, "bare number"),
        ({"model": "stldm"}, "needs weights"),
        ({"folder": None}, "folder is None"),
        ({"out": 3}, "out is 3"),
        ({"pattern": None}, "pattern is None"),
        ({"follow_links": "yes"}, "follow_links is 'yes'"),
        ({"stop_after": 0}, "stop_after is 0"),
        ({"stop_after": True}, "stop_after is True"),
        ({"stop_when_idle": 0}, "stop_when_idle is the bare number"),
        ({"lead_time": "x"}, "the lead time is 'x'"),
        ({"lead_time": "1h", "steps": 3}, "give one of them"),
        ({"steps": 0}, "steps is 0"),
        ({"device": "cuda"}, "torch sees no GPU"),
        ({"device": "nonsense"}, "device is 'nonsense'"),
        ({"members": 0}, "members is 0"),
        ({"members": 3}, "is deterministic"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"variable": ["rain"]}, "variable is"),
        ({"zr": (0, 1)}, "no Z-R relation"),
        ({"on_mismatch": "no"}, "on_mismatch is 'no'"),
        ({"windov": 3}, "windov"),
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("nothing_ships")
def test_a_wrong_call_is_refused(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    arguments = {"folder": "in", "model": "persistence", "out": "out"} | options
    with pytest.raises(ValueError, match=message):
        watch(arguments.pop("folder"), arguments.pop("model"), **arguments)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def config(radar, tmp_path):
    radar.to_netcdf(tmp_path / "radar.nc")
    path = tmp_path / "run.toml"
    path.write_text(f"""
[data]
path = "{tmp_path / "radar.nc"}"
chunks = {{ time = 2 }}

[model]
name = "persistence"

[hindcast]
out = "{tmp_path / "a.zarr"}"
init_times = "2024-06-01T12:05/2024-06-01T12:40"
steps = 2
init_times_per_batch = 3
progress = false
""")
    return path


def test_hindcast_is_one_command(config, radar, tmp_path, capsys):
    log = logging.getLogger("xnowcast.archive")
    before = log.level, list(log.handlers)
    assert main(["hindcast", str(config)]) == 0
    shown = capsys.readouterr()
    assert "persistence, 8 init times: 8 forecast" in shown.out and "INFO a.zarr" in shown.err
    assert (log.level, log.handlers) == before, "the command shows the log while it runs, and no longer"
    stored = xr.open_zarr(tmp_path / "a.zarr")
    wanted = radar.nowcast.forecast("persistence", steps=2, init_times=slice("2024-06-01T12:05", "2024-06-01T12:40"))
    np.testing.assert_array_equal(stored.rain, wanted.rain)
    assert main(["hindcast", str(config), "--set", "hindcast.steps=3", "--out", str(tmp_path / "b.zarr")]) == 0
    assert xr.open_zarr(tmp_path / "b.zarr").sizes["lead_time"] == 3


def test_exit_codes_tell_what_happened(config, radar, tmp_path, capsys, monkeypatch):
    from xnowcast.archive import store

    command = ["hindcast", str(config)]
    assert main([*command, "--set", "hindcast.stepps=3"]) == 2
    assert "did you mean 'steps'?" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(store, "_write_array", _disk_is_full)
        assert main(command) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("xnowcast: the disk is full") and "the same call goes on" in said
    assert main(command) == 0
    assert main([*command, "--set", "hindcast.steps=1"]) == 2
    assert "was begun with lead_time '2 steps of 5 min'" in capsys.readouterr().err
    broken = radar.copy(deep=True)
    broken.rain[5, 12, 12] = -999
    broken.to_netcdf(tmp_path / "broken.nc")
    monkeypatch.setattr("xnowcast.archive.run.frames.PAUSE", 0.0)
    assert main([*command, "--overwrite", "--set", f"data.path={tmp_path / 'broken.nc'}"]) == 3
    assert "7 forecast, 1 input unreadable" in capsys.readouterr().out


def _disk_is_full(*arguments):
    import errno

    raise OSError(errno.ENOSPC, "No space left on device")


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(config, tmp_path):
    """The second batch waits until the signal was heard; a third may have begun by then."""
    (tmp_path / "calls").mkdir()
    waiting = f'name = "waiting"\nfolder = "{tmp_path / "calls"}"\nwhen = [1]\nwhat = "wait"'
    text = config.read_text().replace('name = "persistence"', waiting) + "[engine]\nworkers = 1\n"
    config.write_text(text.replace("init_times_per_batch = 3", "init_times_per_batch = 1"))
    code = (
        "import sys; from xnowcast import models; from xnowcast.cli import main\n"
        "models.register('waiting', 'archive_models:Noisy'); sys.exit(main(sys.argv[1:]))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, "hindcast", str(config)],
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: (tmp_path / "calls" / "call-1").exists() or run.poll() is not None)
    run.send_signal(signal.SIGINT)
    log = tmp_path / "a.zarr.log"
    wait_until(lambda: run.poll() is not None or (log.exists() and "asked to stop" in log.read_text()))
    (tmp_path / "calls" / "go").touch()
    _, said = run.communicate()
    assert run.returncode == 130, said
    assert "xnowcast: interrupted: " in said and "the same call goes on" in said
    marks = len(list((tmp_path / "a.zarr").glob("init_status/c/*")))
    assert 2 <= marks <= 3
    assert not (tmp_path / "a.zarr.lock").exists()


def test_score_is_one_command(radar, tmp_path, capsys):
    radar.to_netcdf(tmp_path / "radar.nc")
    (tmp_path / "score.toml").write_text(f"""
[data]
path = ["{tmp_path / "radar.nc"}"]

[models.still]
model = "persistence"

[score]
baselines = ["extrapolation"]
steps = 2
thresholds = [0.5]
scales = [1]
out = "{tmp_path / "scores.nc"}"
block = "1h"
progress = false

[engine]
kind = "threads"
workers = 1
""")
    pytest.importorskip("matplotlib")
    picture = tmp_path / "csi.png"
    assert main(["score", str(tmp_path / "score.toml"), "--picture", str(picture)]) == 0
    assert "still" in (said := capsys.readouterr().out) and "extrapolation" in said
    assert picture.stat().st_size > 5000
    assert xr.open_dataset(tmp_path / "scores.nc").model.values.tolist() == ["still", "extrapolation"]
    assert main(["score", str(tmp_path / "radar.nc")]) == 2
    assert "observations are missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.path=''", "[data] has no path"),
        ("data.pth=1", "did you mean 'path'?"),
        ("engine.kind=dask", "needs the scheduler's address"),
        ("engine.scheduler=tcp://here:1", "write kind = 'dask'"),
        ("engine.kind=gpu", "engine is 'gpu'"),
        ("nonsense.key=1", "no section 'nonsense'"),
        ("steps", "section.key=value"),
        ("model.amplitude=2", "no option 'amplitude'"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(config, tmp_path, capsys, change, message):
    assert main(["hindcast", str(config), "--set", change]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0]
    assert not (tmp_path / "a.zarr").exists()


def test_a_configuration_may_name_a_cluster(config, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        words = ["hindcast", str(config), "--set", "engine.kind=dask", "--set"]
        assert main([*words, f"engine.scheduler={cluster.scheduler_address}"]) == 0
    assert (xr.open_zarr(tmp_path / "a.zarr").init_status == 1).all()


def test_watch_is_one_command(frames, tmp_path, capsys):
    arrives(tmp_path / "in", *frames[:4])
    words = ["watch", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--model", "persistence", "--poll", "50ms"]
    assert main([*words, "--overwrite"]) == 2, "nothing is replaced for asking"
    assert main([*words, "--stop-after", "1", "--steps", "2", "--pattern", "radar_*.nc"]) == 0
    assert "1 forecast in" in capsys.readouterr().out
    assert Path(tmp_path / "out" / "latest.nc").exists()
