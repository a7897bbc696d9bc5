"""Which frames go together: hundreds of them, of which some are dated wrongly, off the grid, sent twice or missing."""

import logging
from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr
from archive_models import Noisy

import xnowcast
from xnowcast.archive.cadence import doubts, kind_of, together, usual_step
from xnowcast.archive.desk import Desk
from xnowcast.archive.inbox import Inbox
from xnowcast.verbs.forecast import ForecastRequest

STEP, START = np.timedelta64(5, "m").astype("m8[ns]"), np.datetime64("2024-06-01T12:00", "ns")


def at(*slots):
    """Times so many steps after noon."""
    return [START + np.timedelta64(round(slot * 300), "s") for slot in slots]


def frame(time, rain=1.0, shift=0.0, cells=8, **attrs):
    """A frame of 8 x 8 cells of a kilometre."""
    metres = 1000.0 * np.arange(cells) + shift
    coords = {a: (a, metres, {"standard_name": f"projection_{a}_coordinate", "units": "m"}) for a in ("y", "x")}
    attrs = {"units": "mm h-1", "standard_name": "rainfall_rate"} | attrs
    values = np.full((1, cells, cells), rain, "f4")
    return xr.Dataset({"rain": (("time", "y", "x"), values, attrs)}, coords | {"time": [time]})


# ---------------------------------------------------------------- the step


@pytest.mark.parametrize(
    ("slots", "minutes"),
    [
        ((0, 1, 2, 3), 5),
        ((0, 1, 2, 4, 5, 7, 9), 5),  # gaps
        ((0, 1.2, 2, 3, 4), 5),  # a minute off among the first two
        ((0, 0.2, 2, 3, 4), 5),
        ((0, 1, 2, 105_120), 5),  # dated a year ahead
        ((0, 1.005, 1.995, 3.004, 4), 5),  # seconds off, as clocks of radars are
        ((0, 2, 4, 5, 6, 8, 10, 12, 14), 10),  # it came more often for a while
        ((0, 0.1, 0.2, 0.3), 0.5),
    ],
)
def test_the_step_is_that_of_most_frames(slots, minutes):
    assert usual_step(at(*slots)) == np.timedelta64(round(60 * minutes), "s")


@pytest.mark.parametrize("slots", [(), (0,), (0, 0), (0, 105_120)])
def test_frames_that_tell_no_step_have_none(slots):
    assert usual_step(at(*slots)) is None


# ---------------------------------------------------------------- doubt


def in_doubt(*slots, enough=4):
    """Which of the frames that came in this order are in doubt at the end."""
    came = {time: number for number, time in enumerate(at(*slots))}
    return sorted(round((time - START) / STEP) for time in doubts(came, STEP, enough))


@pytest.mark.parametrize(
    ("slots", "doubted"),
    [
        ((0, 1, 2, 3), []),
        ((0, 1, 2, 9), []),  # an outage, or an hour ahead: it is not known yet
        ((0, 1, 2, 90), [90]),  # far ahead: a second one has to confirm it
        ((0, 1, 2, 90, 91), []),  # an outage
        ((0, 1, 2, 9, 3), [9]),
        ((0, 1, 2, 9, 10, 3), []),
        ((0, 1, 2, 9, 10, 3, 4), [9, 10]),
        ((0, 1, 2, 9, 3, 4, 5, 6, 7), [9]),
        ((0, 1, 2, 9, 3, 4, 5, 6, 7, 8), []),  # what lay between was late
        ((3, 2, 1, 0), []),  # the newest first
        ((0, 1, 3, 2), []),  # late
        ((0, 2, 4, 5, 3, 1), []),
        ((0, 2, 4, 5, 1), []),  # late, and fills another gap than that before the newest
        ((90, 0, 1), [90]),  # the very first is dated ahead
        ((-90, 0, 1), []),  # and behind
        ((0, 1, -90, 2), []),
    ],
)
def test_frames_ahead_of_those_that_came_since_are_in_doubt(slots, doubted):
    assert in_doubt(*slots) == doubted


# ---------------------------------------------------------------- what goes together


def groups(frames, enough=2):
    kinds = {t: kind_of(f, "time", STEP, None, None) for t, f in frames.items()}
    chosen, others = together(frames, kinds, STEP, enough)
    return [round((t - START) / STEP, 1) for t in chosen], [round((t - START) / STEP, 1) for t in others]


def test_a_minute_off_is_left_out_and_a_new_phase_is_taken_up():
    assert groups({t: frame(t) for t in at(0, 1, 2, 3.2)}) == ([0, 1, 2], [3.2])
    assert groups({t: frame(t) for t in at(0, 1, 2, 3.2, 4)}) == ([0, 1, 2, 4], [3.2])
    assert groups({t: frame(t) for t in at(0, 1, 2, 3.2, 4.2)}) == ([3.2, 4.2], [])


@pytest.mark.parametrize(
    ("odd", "same"),
    [
        ({"shift": 0.001}, True),  # a millimetre, as rounding makes
        ({"shift": 9.0}, True),
        ({"shift": 11.0}, False),  # over a hundredth of a cell
        ({"cells": 9}, False),
        ({"units": "mm s-1"}, False),
        ({"long_name": "rain, version 2"}, True),
        ({"units": "dBZ", "standard_name": "equivalent_reflectivity_factor"}, False),
        ({"units": "furlongs"}, False),
    ],
    ids=str,
)
def test_a_frame_of_another_grid_or_meaning_is_left_out(odd, same):
    a, b, c = at(0, 1, 2)
    chosen, others = groups({a: frame(a), b: frame(b), c: frame(c, **odd)})
    assert (chosen, others) == (([0, 1, 2], []) if same else ([0, 1], [2]))


def test_reflectivities_of_another_no_echo_or_z_r_do_not_go_together():
    dbz = {"units": "dBZ", "standard_name": "equivalent_reflectivity_factor"}
    a, b, c = at(0, 1, 2)
    for odd in ({"zr_a": 58.53, "zr_b": 1.56}, {"zerovalue": -15.0}):
        assert groups({a: frame(a, **dbz), b: frame(b, **dbz), c: frame(c, **dbz, **odd)}) == ([0, 1], [2])


def test_amounts_of_single_frames_are_known_by_the_step():
    a, b = at(0, 1)
    assert groups({t: frame(t, units="mm", standard_name="precipitation_amount") for t in (a, b)}) == ([0, 1], [])


# ---------------------------------------------------------------- hundreds of frames


@dataclass
class Arrival:
    """A frame as it comes; ``good`` where it is what it says."""

    frame: xr.Dataset
    good: bool


FAULTS = ("", "missing", "ahead", "minute", "millimetre", "grid", "units", "twice")


def a_bad_week(rng, count):
    """Frames in their order of arrival, some of which are as frames should not be."""
    arrivals = []
    for i in range(count):
        (t,) = at(i)
        fault = rng.choice(
            ["", "missing", "ahead", "minute", "millimetre", "grid", "units", "twice"], p=[0.86, *[0.02] * 7]
        )
        ahead = rng.choice([13, 288, 105_120, -288])  # an hour and more, a day, a year; a day behind
        rain = 1.0 + i / 100
        made = {
            "": [Arrival(frame(t, rain), True)],
            "missing": [],
            "ahead": [Arrival(frame(t + ahead * STEP, 99.0), False)],
            "minute": [Arrival(frame(t + np.timedelta64(1, "m"), 99.0), False)],
            "millimetre": [Arrival(frame(t, rain, shift=0.001), True)],
            "grid": [Arrival(frame(t, 99.0, shift=500.0), False)],
            "units": [Arrival(frame(t, 99.0, units="m s-1"), False)],
            "twice": [Arrival(frame(t, 99.0), True), Arrival(frame(t, rain), True)],  # the second is the correction
        }
        arrivals += made[fault]
    return arrivals


@pytest.mark.parametrize("seed", range(4))
def test_a_service_goes_on_whatever_single_frames_are_like(seed, tmp_path, caplog):
    """After as many good frames as a forecast reads there is a forecast from each, and of good frames alone."""
    rng = np.random.default_rng(seed)
    enough = int(rng.integers(2, 5))
    inbox = Inbox(tmp_path, "*", enough + 8, enough)
    request = ForecastRequest(verb=xnowcast.forecast, model=Noisy())
    desk = Desk(tmp_path, request, "nc", None, enough)
    in_a_row, forecasts = [], 0
    caplog.set_level(logging.CRITICAL, "xnowcast.archive")
    for arrival in a_bad_week(rng, 300):
        (time,) = arrival.frame.time.values
        inbox._keep(time, arrival.frame)
        inbox._forget()
        frames = inbox.credible()
        chosen = desk._chosen(frames)
        follows = bool(in_a_row) and time - in_a_row[-1] in (STEP, 0 * STEP)
        in_a_row = [*(in_a_row if follows else []), time] if arrival.good else []
        read = chosen[-enough:]
        whole = len(read) == enough and read[-1] - read[0] == (enough - 1) * STEP
        if len(set(in_a_row)) >= enough:
            assert whole and chosen[-1] == time, "there is a forecast from this very frame"
        if whole and arrival.good:
            rain = [float(frames[t].rain.max()) for t in read if t != time]
            assert 99.0 not in rain, "what is wrong is not forecast from"
            forecasts += 1
    assert forecasts > 150
    assert len(inbox.frames) <= 2 * (enough + 8) and len(desk._times) <= 20
