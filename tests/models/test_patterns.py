"""The wet and dry patterns that break nowcasts, each with its defined answer.

What must hold whatever a network learnt is asked of every system, tiny and untrained where it is
trained; what rain becomes, of those that need no weights.
"""

from functools import cache

import numbers_now
import numpy as np
import pytest
import xarray as xr
from rain_fields import frames

import xnowcast  # noqa: F401  (registers the accessor)
from xnowcast import models

FRAMES, NY, NX = 6, 32, 36
TASKS = {name: models.declare(name) for name in models.names()}
FORECASTERS = [name for name, task in TASKS.items() if task.verb == "forecast"]
READY = [name for name in FORECASTERS if not TASKS[name].trained]


def radar(rain, units="mm h-1") -> xr.DataArray:
    field = frames(rain.astype("f4"), grid=True, units=units)
    return field.drop_attrs(deep=False).assign_attrs(units=units)  # what it is can be told from the units alone


def wet() -> np.ndarray:
    """A shower that moves one column a frame."""
    y, x = np.mgrid[:NY, :NX]
    return np.stack([8 * np.exp(-((y - 12) ** 2 + (x - 8 - k) ** 2) / 18) for k in range(FRAMES)])


def forecast(model, rain, *, lazy=False, units="mm h-1", **options):
    field = radar(rain, units)
    field = field.chunk(time=1) if lazy else field
    fc = field.nowcast.forecast(model, **({"steps": 4, "seed": 1} | options)).compute()
    return fc.stack(sample=[d for d in fc.dims if d not in ("lead_time", "y", "x")]).transpose("sample", ...)


@cache
def built(name):
    return numbers_now.built(name, seed=0)


@pytest.fixture(params=READY)
def model(request):
    return request.param


@pytest.fixture(params=FORECASTERS)
def any_model(request):
    return built(request.param) if TASKS[request.param].trained else request.param


def task_of(model):
    return TASKS[model] if isinstance(model, str) else model.task


@pytest.fixture(params=[False, True], ids=["eager", "lazy"])
def lazy(request):
    return request.param


def test_all_dry_stays_dry_and_covered(any_model, lazy):
    assert (forecast(any_model, 0 * wet(), lazy=lazy) == 0).all()


def test_all_dry_reflectivity_stays_at_no_echo(any_model):
    assert (forecast(any_model, np.full((FRAMES, NY, NX), -32.0), units="dBZ") == -32.0).all()


@pytest.mark.parametrize("first_wet", [FRAMES - 1, FRAMES - 2, FRAMES // 2])
def test_dry_then_wet_keeps_the_rain_in_finite_numbers(model, lazy, first_wet):
    rain = wet()
    rain[:first_wet] = 0
    fc = forecast(model, rain, lazy=lazy)
    covered = fc.notnull()
    assert covered.mean() > 0.5 and fc.min() >= 0
    # Rain that was never seen before is neither lost nor multiplied: it stays about where and as much as it was.
    first = fc.isel(lead_time=0)
    assert 0.5 * rain[-1].sum() < first.sum(["y", "x"]).min() and first.max() <= rain.max() * 1.5


@pytest.mark.parametrize("last_wet", [0, FRAMES - 2])
def test_wet_then_dry_is_dry(model, lazy, last_wet):
    rain = wet()
    rain[last_wet + 1 :] = 0
    fc = forecast(model, rain, lazy=lazy)
    assert fc.notnull().mean() > 0.5
    assert float(fc.max()) == 0.0


@pytest.mark.parametrize("when", ["always", "last"])
def test_one_wet_pixel_is_kept_and_nothing_else_turns_wet(model, lazy, when):
    rain = 0 * wet()
    rain[slice(None) if when == "always" else -1, 12, 13] = 5.0
    fc = forecast(model, rain, lazy=lazy)
    assert fc.notnull().all(), "the pixel stands still, so no air comes from outside"
    assert 0 < float(fc.isel(lead_time=0).max()) <= 5.0 * 1.01
    far = np.hypot(*(np.mgrid[:NY, :NX] - np.array([12, 13])[:, None, None])) > 6
    assert float(fc.where(xr.DataArray(far, dims=("y", "x"))).max()) == 0.0


def test_all_nan_in_memory_is_refused_at_the_door(any_model):
    with pytest.raises(ValueError, match="NaN in every frame that the forecasts read: nothing was measured"):
        forecast(any_model, wet() * np.nan)


def test_all_nan_that_is_found_on_reading_gives_nan(any_model):
    assert forecast(any_model, wet() * np.nan, lazy=True).isnull().all()


def test_a_window_of_nan_among_others_gives_nan_and_harms_no_other(model, lazy):
    needed = task_of(model).input_frames
    rain = wet()
    alone = forecast(model, rain, lazy=lazy, init_times="2024-06-01T12:25")
    rain[:needed] = np.nan
    if needed == FRAMES:
        pytest.skip("one window only")
    fc = forecast(model, rain, lazy=lazy, init_times="all")
    assert fc[0].isnull().all()
    if 2 * needed <= FRAMES:
        np.testing.assert_allclose(fc[-1], alone[-1], atol=1e-5)
    assert fc[-1].notnull().mean() > 0.5


def test_part_coverage_is_nan_exactly_where_nothing_was_measured_or_air_comes_from_there(model, lazy):
    covered = np.hypot(*(np.mgrid[:NY, :NX] - np.array([12, 12])[:, None, None])) < 11
    fc = forecast(model, np.where(covered, wet(), np.nan), lazy=lazy)
    inside = xr.DataArray(covered, dims=("y", "x"))
    assert fc.where(~inside).isnull().all(), "no rain where nothing was ever measured"
    if task_of(model).coverage == "observed":
        assert (fc.notnull() == inside).all()
    else:
        lost = (inside & fc.isnull()).sum(["y", "x"])
        assert (lost.diff("lead_time") >= 0).all() and (lost.isel(lead_time=-1) < 0.5 * covered.sum()).all()
        assert fc.sel(y=(NY - 13) * 1000, x=13000).notnull().all()


def test_coverage_that_changes_from_frame_to_frame_is_what_any_frame_measured(lazy):
    rain = wet()
    rain[-1, :, :10] = np.nan
    fc = forecast("persistence", rain, lazy=lazy)
    assert fc[..., :10].isnull().all() and fc[..., 10:].notnull().all()


def test_a_covered_dry_area_is_dry_and_not_missing(any_model, lazy):
    rain = np.where(np.arange(NX) < 20, 0.0, np.nan) * np.ones((FRAMES, NY, 1))
    fc = forecast(any_model, rain, lazy=lazy)
    assert (fc[..., :20] == 0).all() and fc[..., 20:].isnull().all()


def test_the_input_is_not_touched(any_model):
    field = radar(np.where(wet() > 0.5, wet(), np.nan))
    before = field.copy(deep=True)
    field.nowcast.forecast(any_model, steps=2)
    xr.testing.assert_identical(field, before)
