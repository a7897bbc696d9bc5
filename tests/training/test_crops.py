"""Training samples: no gap is crossed, nothing leaks, rain is preferred as stated, and lazy data stay on the disk."""

import threading

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import xnowcast
from xnowcast.fields import units
from xnowcast.training import crops
from xnowcast.training.cache import Frames, read_ahead
from xnowcast.training.crops import Crops, acceptance
from xnowcast.training.sequences import open_events
from xnowcast.training.windows import find_windows, split_by_time

START = np.datetime64("2024-06-01T12:00", "ns")
MINUTES = np.timedelta64(1, "m")


@pytest.fixture(autouse=True)
def _any_number_is_rain(monkeypatch):
    """Cells hold their own number here, so that a sample tells where it was cut; most are above what ever fell."""
    monkeypatch.setattr(units.Linear, "_refuse_too_much", lambda conversion, highest: None)


def sequence(values, *, minutes=None, south_first=False, east_first=False, **attrs):
    """Frames ``(time, y, x)`` given north up, every five minutes unless the minutes are told."""
    frames, rows, columns = values.shape
    minutes = 5 * np.arange(frames) if minutes is None else np.asarray(minutes)
    metres = {axis: {"standard_name": f"projection_{axis}_coordinate", "units": "m"} for axis in "yx"}
    array = xr.DataArray(
        values,
        dims=("time", "y", "x"),
        coords={
            "time": START + minutes * MINUTES,
            "y": ("y", 1000.0 * np.arange(rows)[::-1], metres["y"]),
            "x": ("x", 1000.0 * np.arange(columns), metres["x"]),
        },
        name="rain",
        attrs={"standard_name": "rainfall_rate", "units": "mm h-1"} | attrs,
    )
    return array.isel(y=slice(None, None, -1 if south_first else 1), x=slice(None, None, -1 if east_first else 1))


def counted(frames=20, rows=12, columns=16):
    """Every cell holds its own number: frame * 10000 + row * 100 + column."""
    t, y, x = np.mgrid[:frames, :rows, :columns]
    return (10000 * t + 100 * y + x).astype("float32")


def samples_of(data, frames=3, *, crop=4, stride=1, cache=2**30, seed=0, fields=None, **options):
    events = open_events(data, **(fields or {}))
    options = {"rain_preference": 0.0, "min_coverage": 0.0, "augment": False} | options
    return Crops(Frames(events, cache), find_windows(events, frames, stride), crop=crop, seed=seed, **options)


# ---------------------------------------------------------------- windows


def test_windows_cross_no_gap():
    minutes = [0, 5, 10, 20, 25, 30, 35, 60]  # frames are missing after the third and after the seventh
    events = open_events(sequence(counted(8), minutes=minutes))
    assert find_windows(events, 3).first.tolist() == [0, 3, 4]
    assert find_windows(events, 2).first.tolist() == [0, 1, 3, 4, 5]
    # Every second frame: 0-10-20, 10-20-30 and, across the missing frame but not over it, 5-15 is not there.
    windows = find_windows(events, 3, stride=2)
    slots = events[0].axis.slots
    assert [windows.positions(i, slots).tolist() for i in range(len(windows))] == [[0, 2, 3], [2, 3, 5]]


def test_every_sample_is_a_whole_stretch_of_the_data():
    values = counted(12)
    drawn = samples_of(sequence(values, minutes=[0, 5, 10, 15, 30, 35, 40, 45, 50, 70, 75, 80]), crop=4)
    starts = set()
    for number in range(60):
        sample = drawn[number]
        first = int(sample.rain[0, 0, 0]) // 10000
        starts.add(first)
        expected = values[first : first + 3, sample.row : sample.row + 4, sample.column : sample.column + 4]
        np.testing.assert_array_equal(sample.rain, expected)
        assert sample.observed.all()
    assert starts == {0, 1, 4, 5, 6, 9}


@pytest.mark.parametrize(("south_first", "east_first"), [(True, False), (False, True), (True, True)])
def test_samples_are_north_up_however_the_data_lie(south_first, east_first):
    values = counted()
    upright, turned = (
        samples_of(sequence(values)),
        samples_of(sequence(values, south_first=south_first, east_first=east_first)),
    )
    for number in range(10):
        np.testing.assert_array_equal(upright[number].rain, turned[number].rain)


def test_dims_may_come_in_any_order_and_units_are_converted():
    values = counted()
    upright = samples_of(sequence(values))
    turned = samples_of(sequence(values / 3600, units="kg m-2 s-1").transpose("x", "time", "y"))
    for number in range(5):
        np.testing.assert_allclose(upright[number].rain, turned[number].rain, rtol=1e-5)


def test_other_dims_are_sequences_of_their_own():
    tiles = xr.concat([sequence(counted()), sequence(counted() + 0.5)], "tile")
    events = open_events(tiles)
    assert [event.name for event in events] == ["dataset 1, tile 0", "dataset 1, tile 1"]
    halves = {float(samples_of(tiles)[number].rain[0, 0, 0] % 1) for number in range(20)}
    assert halves == {0.0, 0.5}


# ---------------------------------------------------------------- split


def distance_of_sides(time, training, validation):
    return np.abs(time[training][:, None] - time[validation][None, :]).min()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("frames", [4, 10])
@pytest.mark.parametrize("events", [1, 2, 6])
def test_no_frame_is_on_both_sides_and_a_window_lies_between(share, frames, events):
    minutes = np.concatenate([5 * np.arange(90) + 60 * 24 * k for k in range(events)])
    axis = open_events(sequence(np.ones((len(minutes), 2, 2), "f4"), minutes=minutes))
    windows = find_windows(axis, frames)
    training, validation = split_by_time(windows.time, frames * 5 * MINUTES, share)
    assert not (training & validation).any()
    slots = axis[0].axis.slots
    used = [
        {int(slots[p]) for i in np.flatnonzero(side) for p in windows.positions(i, slots)}
        for side in (training, validation)
    ]
    assert not used[0] & used[1]
    apart = min(abs(a - b) for a in used[0] for b in used[1])
    assert apart > frames
    assert distance_of_sides(windows.time, training, validation) >= 2 * frames * 5 * MINUTES
    assert 0.5 * share < validation.mean() < 2 * share


def test_datasets_of_the_same_time_are_on_the_same_side():
    one = sequence(np.ones((60, 2, 2), "f4"))
    windows = find_windows(open_events([one, one]), 4)
    training, validation = split_by_time(windows.time, 20 * MINUTES, 0.25)
    for mask in (training, validation):
        np.testing.assert_array_equal(mask[windows.event == 0], mask[windows.event == 1])


def test_whole_episodes_are_held_out_where_there_are_enough():
    time = np.concatenate([START + (5 * np.arange(20) + 1440 * day) * MINUTES for day in range(10)])
    training, validation = split_by_time(time, 50 * MINUTES, 0.2)
    days = np.repeat(np.arange(10), 20)
    # The share adds up as 0.2, 0.4, 0.6: the third day is held out, and five days later the next.
    assert np.unique(days[validation]).tolist() == [2, 7]
    assert np.unique(days[training]).tolist() == [0, 1, 3, 4, 5, 6, 8, 9] and (training | validation).all()


def test_a_long_archive_is_held_out_in_several_stretches():
    time = START + 5 * np.arange(20000) * MINUTES
    training, validation = split_by_time(time, 50 * MINUTES, 0.2)
    assert (np.diff(np.flatnonzero(validation)) > 1).sum() == 9
    assert validation.mean() == pytest.approx(0.2, abs=0.001) and training.mean() > 0.78


# ---------------------------------------------------------------- rain


def half_dry(frames=20, rows=16, columns=64):
    """Rain of 5 mm/h in the western half, none in the eastern."""
    values = np.zeros((frames, rows, columns), "float32")
    values[:, :, : columns // 2] = 5.0
    return sequence(values)


def test_rain_is_preferred_as_much_as_stated():
    def wet_share(preference):
        drawn = samples_of(half_dry(), crop=1, rain_preference=preference)
        return np.mean([drawn[n].rain[0, 0, 0] > 0 for n in range(3000)])

    # Wet and dry crops are drawn alike; a dry one is accepted with a chance of 0.1, a wet one always.
    assert wet_share(0.0) == pytest.approx(0.5, abs=0.03)
    assert wet_share(0.9) == pytest.approx(1 / 1.1, abs=0.02)


def test_the_chance_of_a_crop_is_the_one_worked_out_by_hand():
    assert acceptance(0.0, 0.0) == 1.0
    assert acceptance(0.04, 0.5) == pytest.approx(1 - 0.5 * 0.6)
    assert acceptance(1.0, 0.99) == 1.0
    drizzle = sequence(np.full((5, 8, 8), 0.1, "float32"))
    wetness, coverage = samples_of(drizzle)._judge((0, 0, 0))
    assert wetness == pytest.approx(1 - np.exp(-0.1)) and coverage == 1.0


def test_rare_rain_is_found_where_it_is():
    values = np.zeros((40, 64, 64), "float32")
    values[:, 10:30, 10:30] = 2.0
    drawn = samples_of(sequence(values), crop=8, rain_preference=0.99)
    assert np.mean([drawn[n].rain.max() > 0 for n in range(300)]) > 0.85  # 17 % of the crops hold rain


def test_crops_that_were_hardly_measured_are_avoided():
    values = counted(10, 40, 40)
    values[:, :, 12:] = np.nan
    drawn = samples_of(sequence(values), crop=8, min_coverage=0.6)
    assert min(drawn[n].observed.mean() for n in range(200)) >= 0.6
    sample = next(drawn[n] for n in range(200) if not drawn[n].observed.all())
    assert (sample.rain[~sample.observed] == 0).all() and (sample.rain >= 0).all()


def test_windows_whose_frames_are_missing_in_part_are_avoided():
    values = counted(30)
    values[::4] = np.nan  # frames that are there and hold nothing
    drawn = samples_of(sequence(values), frames=3, min_coverage=1.0)
    assert all(drawn[n].observed.all() for n in range(50))


def test_where_nothing_is_well_covered_the_best_is_taken():
    values = np.full((5, 20, 20), np.nan, "float32")
    values[:, 10, 10] = 1.0
    sample = samples_of(sequence(values), crop=4, min_coverage=0.5)[0]
    assert sample.observed.sum() == 3
    with pytest.raises(ValueError, match="nothing was measured in 2000 crops drawn from 3 windows"):
        samples_of(sequence(np.full((5, 20, 20), np.nan, "float32")), crop=4, min_coverage=0.5)[0]


# ---------------------------------------------------------------- samples


def test_a_sample_depends_on_its_number_and_the_seed_alone():
    data = sequence(counted())
    forwards, backwards = samples_of(data), samples_of(data)
    ahead = [forwards[n] for n in range(20)]
    behind = [backwards[n] for n in reversed(range(20))][::-1]
    assert all(np.array_equal(a.rain, b.rain) for a, b in zip(ahead, behind, strict=True))
    assert len({a.rain.tobytes() for a in ahead}) == 20
    assert not np.array_equal(ahead[0].rain, samples_of(data, seed=1)[0].rain)
    assert not np.array_equal(ahead[0].rain, samples_of(data, stream=1)[0].rain)


def test_augmentation_turns_and_flips_all_ways_and_keeps_the_order_of_time():
    data = sequence(counted(3, 4, 4))  # one window, one place: only the symmetry differs
    plain = samples_of(data)[0].rain
    whole = samples_of(data, augment=True)
    seen = {whole[n].rain.tobytes() for n in range(200)}
    ways = [np.rot90(flipped, k, axes=(1, 2)) for flipped in (plain, plain[:, :, ::-1]) for k in range(4)]
    assert seen == {np.ascontiguousarray(way).tobytes() for way in ways}
    for n in range(20):
        assert (np.diff(whole[n].rain, axis=0) == 10000).all()


def test_a_grid_that_is_smaller_than_the_crop_is_filled_up_as_not_measured():
    sample = samples_of([sequence(counted(4, 6, 20)), sequence(counted(4, 6, 20))], crop=8)[0]
    assert sample.rain.shape == (3, 8, 8)
    assert sample.observed[:, :6].all() and not sample.observed[:, 6:].any() and (sample.rain[:, 6:] == 0).all()


def test_the_origin_of_a_sample_is_told():
    sample = samples_of(sequence(counted()))[3]
    first = int(sample.rain[0, 0, 0]) // 10000
    clock = (START + 5 * first * MINUTES).astype("M8[m]").item()
    assert sample.origin.startswith(f"dataset 1, {clock:%Y-%m-%d %H:%M} to ")
    assert f"rows {sample.row} to {sample.row + 3}, columns {sample.column} to {sample.column + 3}" in sample.origin


def test_a_crop_size_is_chosen_or_checked():
    events = open_events([sequence(counted(2, 70, 300)), sequence(counted(2, 200, 90))])
    assert crops.crop_size(events, None, 1, 8) == 70
    assert crops.crop_size(events, None, 16, 8) == 64
    assert crops.crop_size(open_events(sequence(counted(2, 500, 500))), None, 12, 8) == 120
    assert crops.crop_size(events, 256, 4, 8) == 256
    with pytest.raises(ValueError, match="multiples of 16 from 16 on: 96 would do"):
        crops.crop_size(events, 100, 16, 8)
    with pytest.raises(ValueError, match=r"crop is 304 cells, and the largest grid has 200 x 90"):
        crops.crop_size(events, 304, 4, 8)


def test_the_crops_of_a_model_that_reads_coarse_grids_are_multiples_of_its_coarse_grid():
    events = open_events(sequence(counted(2, 200, 300)))
    assert crops.crop_size(events, None, 8, 2, 8) == 128  # 8 coarse cells of 8
    assert crops.crop_size(events, 192, 8, 2, 8) == 192
    assert crops.crop_size(open_events(sequence(counted(2, 90, 90))), None, 2, 2, 8) == 80
    with pytest.raises(ValueError, match=r"multiples of 64 \(8 coarse cells of 8 fine ones\) from 64 on: 64 would do"):
        crops.crop_size(events, 96, 8, 2, 8)


# ---------------------------------------------------------------- further fields

FIELDS = {"channels": ("air_temperature", "wind_speed"), "static": ("surface_altitude",)}


def with_fields(values, **options):
    """Rain, a temperature in degC that is 0.25 above it, a wind speed of its negative and its frame 0 as altitude."""
    rain = sequence(values, **options)
    own = {"standard_name": "air_temperature", "units": "degC"}
    return rain.to_dataset().assign(
        t=(rain + 0.25).assign_attrs(own),
        v=(-rain).assign_attrs(standard_name="wind_speed", units="m s-1").transpose(..., "time"),
        z=rain.isel(time=0, drop=True).assign_attrs(standard_name="surface_altitude", units="km"),
    )


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("turns", [{}, {"south_first": True}, {"east_first": True}])
def test_further_fields_lie_where_the_rain_does(augment, turns):
    values = counted() / 16
    drawn = samples_of(with_fields(values, **turns), fields=FIELDS, augment=augment)
    plain = samples_of(sequence(values, **turns), augment=augment)
    for number in range(20):
        sample = drawn[number]
        assert sample.channels.shape == (3, 2, 4, 4) and sample.static.shape == (1, 4, 4)
        assert sample.channels.dtype == sample.static.dtype == np.float32
        np.testing.assert_array_equal(sample.rain, plain[number].rain)  # what is read beside changes no draw
        np.testing.assert_allclose(sample.channels[:, 0], sample.rain + 273.4, rtol=1e-6)
        np.testing.assert_array_equal(sample.channels[:, 1], -sample.rain)
        np.testing.assert_allclose(sample.static[0], 1000 * (sample.rain[0] % 625), rtol=1e-5)  # frames are 625 apart


def test_what_is_missing_of_a_channel_is_nan_and_beyond_a_small_grid_too():
    data = with_fields(counted(4, 6, 20) / 16)
    data["t"] = data.t.where(data.x != 7000.0)
    drawn = samples_of(data, crop=8, fields=FIELDS)
    sample = next(drawn[number] for number in range(50) if 0 <= 7 - drawn[number].column < 8)
    holes = np.isnan(sample.channels[:, 0])
    assert holes[:, :6, 7 - sample.column].all() and holes[:, 6:].all() and holes.sum() == 3 * (6 + 2 * 8)
    np.testing.assert_array_equal(sample.static[0, 6:], np.broadcast_to(sample.static[0, 5], (2, 8)))


def test_places_along_other_dims_have_their_own_fields_or_share_them():
    one, two = with_fields(counted(5) / 16), with_fields(counted(5) / 16 + 0.5)
    tiles = xr.concat([one, two], "tile", data_vars=["rain", "t", "v", "z"])
    for number in range(10):
        sample = samples_of(tiles, fields=FIELDS)[number]
        np.testing.assert_allclose(sample.channels[:, 0], sample.rain + 273.4, rtol=1e-6)
        np.testing.assert_allclose(sample.static[0], 1000 * (sample.rain[0] % 625), rtol=1e-5)
    shared = tiles.assign(z=one.z)
    events = open_events(shared, **FIELDS)
    assert events[0].static is events[1].static and events[0].grid is events[1].grid


def test_further_fields_that_will_not_do_are_named_with_the_dataset():
    data = with_fields(counted() / 16)
    aloft = data.assign(t=data.t[0].assign_attrs(data.t.attrs))
    moving = data.assign(z=data.t.assign_attrs(data.z.attrs))
    for wrong, message in [
        (
            [data, data.drop_vars(["t", "v"])],
            "dataset 2: there is no channel 'air_temperature'.*'wind_speed': no variable",
        ),
        (data.rain, "dataset 1: there is no channel 'air_temperature'.*The data have no further fields"),
        (aloft, r"channel 'air_temperature' has dims \('y', 'x'\).*a channel has time, y, x"),
        (moving, "static field 'surface_altitude' has dims .*a static field has y, x"),
        (data.assign(z=data.z.where(data.y > 0)), "'surface_altitude' is NaN in 16 cells: fill them, such as with 0"),
        (data.assign(z=data.z.assign_attrs(units=None)), "'surface_altitude': variable 'z' has no units"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_events(wrong, **FIELDS)


def test_channels_are_read_lazily_kept_and_bounded():
    values = counted(100, 20, 20) / 16
    disk = Disk(values, 5)
    data = with_fields(values)
    lazy = data.t.copy(data=da.from_array(disk, chunks=(5, 20, 20), meta=np.empty((0, 0, 0), "f4")))
    whole = samples_of(data, fields=FIELDS)
    drawn = samples_of(data.assign(t=lazy), fields=FIELDS)
    assert disk.reads == []
    drawn[0]
    assert 0 < sum(disk.reads) <= 2 * 5 * 20 * 20 * 4
    for cache in (2**30, values.nbytes // 4, 2 * 20 * 20 * 4):
        disk.reads.clear()
        bounded = samples_of(data.assign(t=lazy), fields=FIELDS, cache=cache)
        for number in range(60):
            sample = bounded[number]
            np.testing.assert_allclose(sample.channels[:, 0], whole[number].channels[:, 0] - 0.25)
            assert sum(kept.nbytes for kept in bounded.frames._kept.values()) <= cache
        assert sum(disk.reads) <= values.nbytes or cache < 2**30


def test_what_several_channels_are_made_of_is_computed_once():
    disk = Disk(counted(20, 20, 20) / 16, 5)
    data = with_fields(disk.values)
    stored = disk.lazily()
    data["t"], data["v"] = (stored + 0.25).assign_attrs(data.t.attrs), (-stored).assign_attrs(data.v.attrs)
    drawn = samples_of(data, fields=FIELDS)
    for number in range(40):
        sample = drawn[number]
        np.testing.assert_array_equal(sample.channels[:, 1], -sample.rain)
    assert sum(disk.reads) == disk.values.nbytes


# ---------------------------------------------------------------- forecasts


def forecasts(leads=(1, 2, 3), inits=2, valid=True):
    """Forecasts of rain every six hours: cells hold 1000 init + 10 lead, the channel the same in degC."""
    init = START + np.arange(inits) * np.timedelta64(6, "h")
    lead = np.asarray(leads) * np.timedelta64(1, "h").astype("m8[ns]")
    number = 1000.0 * np.arange(inits)[:, None] + 10.0 * np.asarray(leads)
    values = np.broadcast_to(number[..., None, None], (*number.shape, 8, 8)).astype("f4")
    dims = ("init_time", "lead_time", "y", "x")
    coords = {"init_time": init, "lead_time": lead, "y": 1000.0 * np.arange(8)[::-1], "x": 1000.0 * np.arange(8)}
    data = xr.Dataset(
        {
            "radar": (dims, values, {"standard_name": "rainfall_rate", "units": "mm h-1"}),
            "t": (dims, values, {"standard_name": "air_temperature", "units": "K"}),
        },
        coords,
    )
    return data.assign_coords(valid_time=data.init_time + data.lead_time) if valid else data


@pytest.mark.parametrize("valid", [True, False])
def test_forecasts_are_one_event_an_init_time_along_their_valid_times(valid):
    data = forecasts(valid=valid)
    events = open_events(data, channels=("air_temperature",))
    assert [event.name for event in events] == ["dataset 1, init_time 0", "dataset 1, init_time 1"]
    for number, event in enumerate(events):
        expected = START + (6 * number + np.array([1, 2, 3])) * np.timedelta64(1, "h")
        np.testing.assert_array_equal(event.axis.times, expected)
    windows = find_windows(events, 2)
    assert windows.event.tolist() == [0, 0, 1, 1] and windows.first.tolist() == [0, 1, 0, 1]
    seen = set()
    for number in range(30):
        sample = samples_of(data, frames=2, fields={"channels": ("air_temperature",)})[number]
        np.testing.assert_array_equal(sample.channels[:, 0], sample.rain)
        seen.add(tuple(sample.rain[:, 0, 0].tolist()))
    assert seen == {(10, 20), (20, 30), (1010, 1020), (1020, 1030)}


def test_forecasts_of_one_lead_time_are_one_event_along_their_valid_times():
    (event,) = open_events(forecasts(leads=(3,), inits=4))
    np.testing.assert_array_equal(event.axis.times, START + (3 + 6 * np.arange(4)) * np.timedelta64(1, "h"))
    assert event.read(2)[0][0, 0] == 2030


def test_a_single_forecast_is_an_event():
    (event,) = open_events(forecasts().isel(init_time=1))
    np.testing.assert_array_equal(event.axis.times, START + np.array([7, 8, 9]) * np.timedelta64(1, "h"))


def test_forecasts_without_valid_times_are_refused():
    data = forecasts(valid=False).assign_coords(lead_time=[1, 2, 3])
    with pytest.raises(ValueError, match="does not tell the times that its forecasts along 'lead_time' are for"):
        open_events(data)


def test_weather_of_one_time_is_on_one_side_whichever_forecast_shows_it():
    data = forecasts(leads=range(1, 25), inits=40)
    windows = find_windows(open_events(data), 1)
    training, validation = split_by_time(windows.time, np.timedelta64(1, "h"), 0.25)
    assert not set(windows.time[training].tolist()) & set(windows.time[validation].tolist())


# ---------------------------------------------------------------- several steps


def test_single_frames_may_come_from_data_of_different_steps():
    fine, slow = (sequence(counted(6), minutes=step * np.arange(6)) for step in (2, 5))
    with pytest.raises(ValueError, match="dataset 1 has a step of 2 min and dataset 2 one of 5 min: a model learns"):
        open_events([fine, slow])
    events = open_events([fine, slow], any_step=True)
    assert find_windows(events, 1).event.tolist() == [0] * 6 + [1] * 6
    wide = slow.assign_coords({dim: (dim, 2 * slow[dim].values, slow[dim].attrs) for dim in "yx"})
    with pytest.raises(ValueError, match="a grid spacing of 1000 m and dataset 2 one of 2000 m"):
        open_events([fine, wide], any_step=True)


# ---------------------------------------------------------------- reading


class Disk:
    """A stored array that counts what is read of it."""

    def __init__(self, values, chunk):
        self.values, self.chunk, self.reads, self.lock = values, chunk, [], threading.Lock()
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, key):
        with self.lock:
            self.reads.append(self.values[key].nbytes)
        return self.values[key]

    def lazily(self):
        array = sequence(self.values)
        chunks = (self.chunk, *self.shape[1:])
        return array.copy(data=da.from_array(self, chunks=chunks, meta=np.empty((0, 0, 0), self.dtype)))


def test_opening_reads_nothing_and_a_sample_reads_its_own_time_alone():
    disk = Disk(counted(100, 20, 20), 5)
    drawn = samples_of(disk.lazily(), frames=4)
    assert disk.reads == []
    drawn[0]
    assert 0 < sum(disk.reads) <= 2 * 5 * 20 * 20 * 4  # two chunks at most hold the window
    assert samples_of(sequence(counted(100, 20, 20)), frames=4)[0].rain.tobytes() == drawn[0].rain.tobytes()


def test_what_was_read_is_not_read_again():
    disk = Disk(counted(40, 20, 20), 4)
    drawn = samples_of(disk.lazily(), frames=4)
    for n in range(100):
        drawn[n]
    assert sum(disk.reads) == disk.values.nbytes


@pytest.mark.parametrize("chunk", [1, 10, 200])
def test_memory_is_bounded_and_changes_nothing(chunk):
    disk = Disk(counted(200, 20, 20), chunk)
    whole = disk.values.nbytes
    bounded = samples_of(disk.lazily(), frames=4, cache=whole // 20)
    free = samples_of(sequence(disk.values), frames=4)
    for n in range(60):
        assert np.array_equal(bounded[n].rain, free[n].rain)
        kept = bounded.frames._kept.values()
        assert sum(frames.nbytes for frames in kept) == bounded.frames._bytes <= whole // 20
    assert max(disk.reads) <= whole // 20, "nothing larger than the bound is read at once"


def test_where_few_frames_fit_in_memory_the_crop_alone_is_read():
    disk = Disk(counted(20, 100, 100), 1)
    drawn = samples_of(disk.lazily(), frames=4, cache=2 * 100 * 100 * 4)
    sample = drawn[0]
    assert not drawn.frames._kept and max(disk.reads) == 4 * 4 * 4  # one frame of 4 x 4 cells at a time
    np.testing.assert_array_equal(sample.rain, samples_of(sequence(disk.values), frames=4)[0].rain)


@pytest.mark.parametrize("ending", ["nc", "zarr"])
@pytest.mark.parametrize("chunks", [None, {}])
def test_files_can_be_read_by_several_threads(tmp_path, ending, chunks):
    values = np.where(counted(60, 16, 20) % 7 > 5, np.nan, counted(60, 16, 20) / 1e4).astype("float32")
    data = sequence(values).to_dataset()
    path = tmp_path / f"radar.{ending}"
    if ending == "nc":
        data.to_netcdf(path, encoding={"rain": {"chunksizes": (6, 16, 20), "zlib": True}})
        stored = xr.open_dataset(path, chunks=chunks)
    else:
        data.chunk(time=6).to_zarr(path, consolidated=False)
        stored = xr.open_zarr(path, chunks=chunks, consolidated=False)
    expected, drawn = samples_of(data, frames=4), samples_of(stored, frames=4, cache=values.nbytes // 6)
    for number, sample in enumerate(read_ahead(drawn.__getitem__, range(80), workers=4)):
        np.testing.assert_array_equal(sample.rain, expected[number].rain)
        np.testing.assert_array_equal(sample.observed, expected[number].observed)


def test_reading_ahead_keeps_the_order_and_hands_on_errors():
    started = []

    def read(number):
        started.append(number)
        if number == 30:
            raise ValueError("thirty")
        return number

    ahead = read_ahead(read, range(100), workers=3)
    assert [next(ahead) for _ in range(30)] == list(range(30))
    with pytest.raises(ValueError, match="thirty"):
        next(ahead)
    assert max(started) < 60, "it reads ahead a little, not everything"


def test_rain_is_looked_for_until_it_is_found():
    values = np.zeros((60, 8, 8), "float32")
    values[37, 2, 2] = 0.5
    disk = Disk(values, 1)
    Frames(open_events(disk.lazily()), 2**20).require_rain()
    wet = Disk(values + 1, 1)
    Frames(open_events(wet.lazily()), 2**20).require_rain()
    assert len(wet.reads) == 1


def test_a_large_synthetic_archive_is_never_in_memory(nothing_may_run):
    with nothing_may_run:
        radar = xnowcast.datasets.synthetic_radar(frames=4000, shape=(256, 256), chunks=6)
        windows = find_windows(open_events(radar), 10)
    assert len(windows) == 3991


def test_a_window_is_judged_by_the_frame_that_is_learnt():
    """Of twelve frames the even ones are dry, the odd ones wet, and the first two were not measured."""
    rain = np.where(np.arange(12) % 2, np.float32(20), np.float32(0))[:, None, None] * np.ones((8, 8), np.float32)
    rain[:2] = np.nan
    wanted = {"rain_preference": 0.999, "min_coverage": 0.9}

    def windows(**options):
        drawn = samples_of(sequence(rain), **options, **wanted)
        return {drawn[number].window for number in range(40)}

    assert windows() == {2, 4, 6, 8}  # by the middle one of three
    assert windows(learnt=2) == {1, 3, 5, 7, 9}  # also where the first was not measured
    assert windows(learnt=0) == {3, 5, 7, 9}
