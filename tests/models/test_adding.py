"""Adding a model touches one place: its line in the registry brings all that a system has, tested ones and others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

import xnowcast
from xnowcast import models

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "howto" / "extending.md"
SHARED = ("models/test_promises.py", "models/test_patterns.py", "verbs/test_verbs.py")
TARGETS = {
    "fading": "fading:Fading",
    "invented-sharpener": "toy_models:NoisySharpener",
    "invented-refiner": "toy_models:NoisyRefiner",
}


@pytest.fixture
def folder(tmp_path):
    """Where the model of the page on extending lies: a file that the package knows nothing of."""
    (tmp_path / "fading.py").write_text(re.search(r"```python\n(# fading\.py\n.*?)```", PAGE.read_text(), re.DOTALL)[1])
    return tmp_path


@pytest.fixture
def fading(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("xnowcast.models.registry.REGISTRY", dict(models.REGISTRY))
    models.register("fading", TARGETS["fading"])
    return "fading"


def test_a_new_model_forecasts_has_a_card_and_is_verified(fading, radar):
    ensemble = radar.nowcast.forecast(fading, members=3, seed=1, lead_time="30min", rate=0.2)
    assert ensemble.rain.sizes["member"] == 3 and ensemble.attrs["nowcast_model"] == "fading"
    card = xnowcast.card(fading)
    assert card.description == "The newest frame, fading away at a rate that each member draws."
    assert card.options == {"rate": 0.1} and "1 frame" in card.reads
    scored = radar.nowcast.forecast(fading, members=3, init_times="all", steps=2).nowcast.verify(radar)
    assert {"crps", "rmse"} <= set(scored.data_vars)


def test_messages_know_a_new_model_and_its_options(fading, radar):
    for model, options, message in (
        ("fadin", {}, "no model 'fadin'; did you mean 'fading'"),
        (fading, {"rat": 0.2}, "'fading' has no option 'rat'; did you mean 'rate'? Its options are: rate"),
        (fading, {"rate": "fast"}, "rate is 'fast'; it must be a finite number"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            radar.nowcast.forecast(model, **options)


def test_an_archive_of_a_new_model_holds_its_forecasts(fading, radar, tmp_path):
    options = {"steps": 2, "members": 2, "seed": 7, "rate": 0.2}
    stored = xnowcast.hindcast(radar.chunk(time=3), fading, out=tmp_path / "a.zarr", progress=False, **options)
    wanted = radar.nowcast.forecast(fading, init_times="all", **options)
    xr.testing.assert_equal(stored.rain.drop_vars("init_status").load(), wanted.rain)


@pytest.mark.parametrize("name", TARGETS)
def test_the_shared_tests_run_on_a_new_model_unasked(name, folder):
    """In a process whose registry has one line more, before tests look there."""
    (folder / "one_line.py").write_text(
        f"from xnowcast import models\n\nmodels.register({name!r}, {TARGETS[name]!r})\n"
    )
    words = ["-p", "one_line", "-p", "no:cacheprovider", "-q", "-W", "ignore", "-k", name]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *SHARED],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(TESTS), str(TESTS.parent)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 9
