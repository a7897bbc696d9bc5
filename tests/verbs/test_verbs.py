"""What every system that sharpens, refines or corrects promises: a new one is tested by its line in the registry.

Forecasters have `test_promises.py`. Those that are trained are built small, with weights as they are before training.
"""

from functools import cache

import numbers_now
import numpy as np
import pytest
import xarray as xr

from xnowcast import models

SYSTEMS = [name for name in models.names() if models.declare(name).verb != "forecast"]

pytestmark = [
    pytest.mark.parametrize("name", SYSTEMS),
    pytest.mark.filterwarnings("ignore:.*diverged"),  # a prior that was never trained
]


@cache
def built(name):
    return numbers_now.built(name, seed=0)


def given(name):
    """A small dataset of the kind that the verb takes."""
    if models.declare(name).verb == "postprocess":
        return numbers_now.nwp(leads=1 + len(models.declare(name).lead_window))  # of which two are corrected
    ds = numbers_now.radar(32).isel(time=slice(5), y=slice(24), x=slice(28))
    return ds.nowcast.coarsen(4) if models.declare(name).verb == "downscale" else ds


def run(name, ds=None, **options):
    ds, task = given(name) if ds is None else ds, built(name).task
    more = {"downscale": {"factor": 4}}.get(task.verb, {}) | ({"members": 2, "seed": 3} if task.stochastic else {})
    return getattr(ds.nowcast, task.verb)(built(name), **(more | options))


def rain(result):
    return result["rainfall_rate"]


def without_rain(ds):
    return ds.assign({name: 0 * ds[name] for name in ds.data_vars if "rain" in name or "precipitation" in name})


def test_the_layout_is_that_of_the_verb(name):
    ds, result, task = given(name), run(name), built(name).task
    scale = 4 if task.verb == "downscale" else 1
    assert result.sizes["y"] == scale * ds.sizes["y"] and result.sizes["x"] == scale * ds.sizes["x"]
    assert rain(result).dtype == np.float32 and rain(result).dims[-2:] == ("y", "x")
    assert ("member" in rain(result).dims) == task.stochastic
    assert rain(result).attrs["units"] == "mm h-1"


def test_the_labels_are_cf(name):
    attrs = run(name).attrs
    assert attrs["Conventions"].startswith("CF-1.") and built(name).task.verb in attrs["history"].splitlines()[0]
    assert name in attrs["nowcast_model"]


def test_building_computes_nothing(name, nothing_may_run):
    with nothing_may_run:
        lazy = run(name, given(name).chunk())
    assert rain(lazy).chunks is not None
    xr.testing.assert_allclose(lazy.compute(), run(name), atol=1e-4)


def test_the_same_seed_gives_the_same_numbers_and_the_input_is_untouched(name):
    ds = given(name)
    before = ds.copy(deep=True)
    xr.testing.assert_equal(run(name, ds), run(name, ds))
    xr.testing.assert_identical(ds, before)


def test_batches_change_nothing(name):
    xr.testing.assert_allclose(run(name, batch_size=1), run(name), atol=1e-4)


def test_the_order_of_dims_and_rows_changes_nothing(name):
    ds = given(name)
    turned = run(name, ds.isel(y=slice(None, None, -1)).transpose("x", ...))
    plain = rain(run(name, ds))
    xr.testing.assert_allclose(rain(turned).transpose(*plain.dims).sortby("y"), plain.sortby("y"), atol=1e-4)


def test_rain_is_never_negative_and_infinite_nowhere(name):
    assert float(rain(run(name)).min()) >= 0 and not np.isinf(rain(run(name))).any()


def test_what_was_not_measured_is_nan_and_nothing_far_from_it(name):
    ds = given(name).fillna(0.0)
    for field in (field for field in ds.data_vars if {"y", "x"} <= set(ds[field].dims)):
        ds[field] = ds[field].where((ds.y.argsort() > 1) | (ds.x.argsort() > 1))
    result = rain(run(name, ds))
    scale = result.sizes["y"] // ds.sizes["y"]
    far = result.isel(x=slice(5 * scale, None))
    corner = result.sortby("y").isel(y=slice(2 * scale), x=slice(2 * scale))
    assert bool(corner.isnull().all()) and bool(far.notnull().all())


def test_a_dry_field_stays_dry(name):
    if built(name).task.verb == "postprocess":
        pytest.skip("it corrects forecasts that may have missed the rain")
    dry = without_rain(given(name))
    result = rain(run(name, dry))
    assert float(result.max()) == 0.0
