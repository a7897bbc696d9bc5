"""Lead times that are read together: found by what they are, whatever their order, gaps and names."""

from datetime import timedelta

import numpy as np
import pytest
import xarray as xr

from xnowcast.fields.lead_times import lead_dim, lead_windows

HOUR = np.timedelta64(1, "h").astype("m8[ns]")


def rain(hours, dim="lead_time", **coords):
    return xr.DataArray(np.zeros(len(hours)), {dim: np.asarray(hours) * HOUR, **coords}, dim)


def found(array, offsets, dims=None):
    windows = lead_windows(array, dims or list(array.dims), offsets)
    return windows.positions.tolist(), windows.corrected.tolist()


def test_neighbours_are_found_by_their_lead_time_in_any_order():
    assert found(rain([6, 7, 8, 9]), (-2, -1, 0)) == ([[0, 1, 2], [1, 2, 3]], [2, 3])
    assert found(rain([9, 8, 7, 6]), (-2, -1, 0)) == ([[2, 1, 0], [3, 2, 1]], [0, 1])
    assert found(rain([7, 9, 6, 8]), (-1, 0)) == ([[2, 0], [3, 1], [0, 3]], [0, 1, 3])


def test_lead_times_before_after_and_far_away_are_read():
    assert found(rain([6, 7, 8, 9]), (-1, 0, 1)) == ([[0, 1, 2], [1, 2, 3]], [1, 2])
    assert found(rain([6, 7, 8, 9]), (0, 3)) == ([[0, 3]], [0])
    assert found(rain([6, 7, 8, 9]), (-1, 1)) == ([[0, 2], [1, 3]], [1, 2])


def test_no_window_crosses_a_gap_and_what_is_left_out_is_told():
    windows = lead_windows(rain([1, 2, 3, 5, 6, 9, 12]), ["lead_time"], (-1, 0))
    assert windows.corrected.tolist() == [1, 2, 4] and windows.step == HOUR
    assert windows.left_out == "lead_time 1 h, 5 h, 9 h and 12 h"
    many = lead_windows(rain([*range(1, 4), *range(6, 100, 9)]), ["lead_time"], (-1, 0), timedelta(hours=1))
    assert many.left_out == "lead_time 1 h, 6 h, 15 h, 24 h, 33 h and 7 more"


def test_of_steps_that_grow_those_of_the_models_step_are_read():
    growing = rain([*range(1, 6), *range(8, 40, 3)])
    hourly = lead_windows(growing, ["lead_time"], (-1, 0), timedelta(hours=1))
    assert growing.lead_time[hourly.corrected].values.tolist() == (np.array([2, 3, 4, 5]) * HOUR).tolist()
    longer = lead_windows(growing, ["lead_time"], (-1, 0), timedelta(hours=3))
    # the one of 5 h may be an amount of the hour since 4 h
    assert growing.lead_time[longer.corrected].values.tolist() == (np.arange(11, 40, 3) * HOUR).tolist()
    assert lead_windows(growing, ["lead_time"], (-1, 0), timedelta(hours=2)).step == 3 * HOUR


def test_the_step_is_that_of_the_data():
    assert found(rain([0, 3, 6, 9]), (-1, 0)) == ([[0, 1], [1, 2], [2, 3]], [1, 2, 3])


def test_numbers_with_units_other_names_and_times_of_a_single_run_do_as_well():
    coords = {"step": ("step", [1.0, 2.0, 3.0], {"units": "hours"})}
    assert found(xr.DataArray(np.zeros(3), coords, "step"), (-1, 0))[1] == [1, 2]
    beside = xr.DataArray(np.zeros(3), {"lead_time": ("n", np.arange(1, 4) * HOUR)}, "n")
    assert found(beside, (-1, 0))[1] == [1, 2]
    valid = xr.DataArray(np.zeros(3), {"time": np.datetime64("2024-06-01", "ns") + np.arange(3) * HOUR}, "time")
    assert found(valid, (0, 1))[1] == [0, 1]


def test_runs_of_one_lead_time_do_not_follow_one_another():
    runs = np.datetime64("2024-06-01", "ns") + np.arange(3) * HOUR
    for coords in ({"time": runs, "lead_time": 6 * HOUR}, {"init_time": runs}):
        array = xr.DataArray(np.zeros(3), coords, next(iter(coords)))
        with pytest.raises(ValueError, match=r"several lead times together, and the data have (one lead_time|no)"):
            lead_dim(array, array.dims)
    with pytest.raises(ValueError, match="no dim of lead times or of times, beside no other dim"):
        lead_dim(xr.DataArray(0.0), [])


@pytest.mark.parametrize(
    ("hours", "message"),
    [
        (
            [27],
            r"lead times at -2, -1, 0 steps .* none of which all are in the data: lead_time 27 h\. Give it",
        ),
        ([6, 7], "lead_time 6 h and 7 h"),
        ([6, 7, 7, 8], "lead_time 7 h stands twice"),
    ],
)
def test_what_has_no_complete_lead_time_is_refused(hours, message):
    with pytest.raises(ValueError, match=message):
        lead_windows(rain(hours), ["lead_time"], (-2, -1, 0))


def test_a_dim_without_lead_times_and_bare_numbers_are_refused():
    with pytest.raises(ValueError, match="dim 'lead_time' has no coordinate: give it the lead times"):
        lead_windows(xr.DataArray(np.zeros(3), dims="lead_time"), ["lead_time"], (-1, 0))
    with pytest.raises(ValueError, match="without units of time"):
        lead_windows(xr.DataArray(np.zeros(3), {"step": [1, 2, 3]}, "step"), ["step"], (-1, 0))
