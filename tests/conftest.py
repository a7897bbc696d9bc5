"""Fixtures that every test may use."""

import os
import sys
from datetime import datetime
from pathlib import Path

import pytest


def _shared_data() -> Path | None:
    """Folder with the real events: ``XNOWCAST_SHARED_DATA`` or ``../shared/data`` beside the checkout."""
    named = os.environ.get("XNOWCAST_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


class _StoppedClock(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 6, 1, 12, tzinfo=tz)


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch):
    """Forecasts made in different seconds have the same history, so that they can be compared whole."""
    monkeypatch.setattr("xnowcast.fields.labels.datetime", _StoppedClock)


@pytest.fixture(autouse=True)
def _seeded():
    """What a test draws without a seed of its own is the same whatever ran before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def one_thread():
    """Torch on one thread: small maps are slower on more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Path to the real radar events; the test is skipped where they are absent."""
    folder = _shared_data()
    if folder is None:
        pytest.skip("the real radar events (../shared/data) are not on this checkout")
    return folder


TOY_MODELS = {
    "noisy": "toy_models:NoisyPersistence",
    "tiny-net": "toy_models:TinyNet",
    "counting": "toy_models:Counting",
    "noisy-sharpener": "toy_models:NoisySharpener",
    "noisy-refiner": "toy_models:NoisyRefiner",
}


@pytest.fixture
def toy_models(monkeypatch):
    """The registry with the toy models in it, for one test."""
    from xnowcast import models

    monkeypatch.setattr("xnowcast.models.registry.REGISTRY", models.REGISTRY | TOY_MODELS)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return TOY_MODELS


@pytest.fixture
def nothing_ships(monkeypatch, tmp_path):
    """A package without trained weights; the folder, for a test to put some into."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    monkeypatch.setattr("xnowcast.pretrained.FOLDER", folder)
    return folder


@pytest.fixture
def radar():
    """Ten frames of 24 x 32 cells, in memory: a wet blob that moves and grows, and a corner that no radar sees."""
    import numpy as np
    import rain_fields
    import xarray as xr

    y, x = np.mgrid[:24, :32]
    blobs = [8 * np.exp(-((y - 12) ** 2 + (x - 6 - t) ** 2) / 20) * (1 + t / 10) for t in range(10)]
    rain = np.where(np.array(blobs) > 0.1, blobs, 0).astype("float32")
    rain[:, :4, :4] = np.nan
    array = rain_fields.frames(rain, grid=True, grid_mapping="crs")
    crs = xr.DataArray(0, attrs={"grid_mapping_name": "lambert_azimuthal_equal_area"})
    return xr.Dataset({"rain": array, "crs": crs}, attrs={"title": "a blob", "history": "made"})


class NothingMayRun:
    """A Dask scheduler that refuses: what is lazy must not call it."""

    def __call__(self, *args, **kwargs):
        raise AssertionError("something was computed while the graph was built")


class _Guard:
    """May be entered again and again. Dask's own setting takes effect when it is made, so it is made on entry."""

    def __enter__(self):
        import dask

        self._setting = dask.config.set(scheduler=NothingMayRun())

    def __exit__(self, *error):
        self._setting.__exit__(*error)


@pytest.fixture
def nothing_may_run():
    """Context manager under which computing anything with Dask fails the test."""
    return _Guard()


class _Calls:
    def __enter__(self):
        self.count, self._before = 0, sys.getprofile()
        sys.setprofile(self._see)
        return self

    def _see(self, frame, event, argument):
        self.count += event in ("call", "c_call")

    def __exit__(self, *error):
        sys.setprofile(self._before)


@pytest.fixture
def calls_made():
    """Context manager that counts the functions called in it: what makes code slow, and the same on every machine."""
    return _Calls()


# ---------------------------------------------------------------- what the suite costs


def _processor_seconds():
    """Of this process and of those that it started and that have ended; what other processes do changes little."""
    return sum(os.times()[:4])


_spent = _processor_seconds()


def pytest_collection_finish():
    global _spent
    _spent = _processor_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    global _spent
    report, before = (yield), _spent
    _spent = _processor_seconds()
    report.cost = _spent - before  # of setup, call or teardown; it reaches the terminal from processes of xdist, too
    return report


def pytest_terminal_summary(terminalreporter):
    """The cost in processor seconds, and the ten dearest tests of a run of many: those to make smaller first."""
    costs = {}
    for report in (r for reports in terminalreporter.stats.values() for r in reports if hasattr(r, "cost")):
        costs[report.nodeid] = costs.get(report.nodeid, 0.0) + report.cost
    if len(costs) >= 1000:
        for name in sorted(costs, key=costs.get, reverse=True)[:10]:
            terminalreporter.write_line(f"{costs[name]:6.1f} s CPU  {name}")
    terminalreporter.write_line(f"{sum(costs.values()):6.1f} s CPU in {len(costs)} tests")
