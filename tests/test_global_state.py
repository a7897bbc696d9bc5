"""No public function leaves anything changed in the process but what it gives back and what it was asked to write."""

import contextlib
import copy
import importlib
import inspect
import locale
import logging
import os
import pickle
import random
import signal
import sys
import threading
import time
import warnings

import dask
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import xnowcast
from xnowcast.engine import workers
from xnowcast.models.base import Loss, Task
from xnowcast.models.transforms import Identity

matplotlib.use("Agg")

POOLS = ("ThreadPoolExecutor", "Dask-Offload", "asyncio", "zarr", "IO loop", "Profile", "TCP", "pytest")
"""Threads that libraries keep for their next call."""


def global_state():
    """What a process holds that any code may change, by what it is called."""
    import matplotlib.pyplot as plt

    loggers = {"root": logging.root} | {
        name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    kept = [t.name for t in threading.enumerate() if not t.name.startswith(POOLS)]
    return {
        "dask.config": copy.deepcopy(dask.config.config),
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "torch's settings": (
            *(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
            *(torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            *(torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")),
            *(torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.is_anomaly_enabled()),
        ),
        "numpy's generator": pickle.dumps(np.random.get_state()),
        "numpy's settings": (np.geterr(), {k: v for k, v in np.get_printoptions().items() if k != "override_repr"}),
        "random": random.getstate(),
        "warnings": [f for f in warnings.filters if "decode_timedelta" not in str(f)],  # xarray's, of every opening
        "loggers": {n: (log.level, list(log.handlers), log.propagate, log.disabled) for n, log in loggers.items()},
        "matplotlib": (dict(matplotlib.rcParams), matplotlib.get_backend(), plt.get_fignums()),
        "pandas": {name: pd.get_option(name) for name in ("display.max_rows", "display.precision")},
        "xarray": dict(xr.get_options()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)},
        "hooks": (sys.excepthook, threading.excepthook, sys.getrecursionlimit(), list(sys.path)),
        "locale": locale.setlocale(locale.LC_ALL),
        "threads": sorted(kept),
    }


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_imported():
    """What a library changes when it is imported, as Lightning does with warnings, is its own."""
    others = ("lightning.fabric", "tensorboard", "matplotlib.pyplot", "matplotlib.animation", "pint", "cartopy.crs")
    for name in (*others, "netCDF4", "h5netcdf", "zarr", "numba", "distributed"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in ("archive", "datasets", "cli.demo", "io", "plot", "pretrained", "regrid", "training.loop", "verify"):
        importlib.import_module(f"xnowcast.{name}")


@pytest.fixture(scope="module")
def radar():
    return xnowcast.datasets.synthetic_radar(frames=10, shape=(32, 32), seed=1, coverage=False).load()


@pytest.fixture(scope="module")
def forecast(radar):
    return xnowcast.forecast(radar.isel(time=slice(0, 7)), "extrapolation", steps=2, inflow="dry")


@pytest.fixture(scope="module")
def nwp():
    """A weather forecast and what was observed then."""
    return [dataset.load() for dataset in xnowcast.datasets.synthetic_nwp(runs=1, leads=2, shape=(32, 32))]


class Factor(torch.nn.Module):
    """Rain times a number."""

    task, transform, training_frames = Task("forecast", input_frames=1), Identity(), 2

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.0))

    def forecast(self, frames, observed, steps, noise=None):
        return (frames[:, -1:] * self.factor).expand(-1, steps, -1, -1, -1)

    def loss(self, batch, *, progress, adversary=None):
        return Loss(((self.factor + torch.rand(())) * batch.rain[:, 0] - batch.rain[:, 1]).square().mean())

    def adversary(self, shape):
        return None


SHORT = {"steps": 2, "crop": 16, "batch_size": 1, "validation": 0.0, "progress": False}
QUIET = {"steps": 1, "progress": False}


def watched(radar, path):
    (path / "in").mkdir()
    for i in range(6):
        radar.isel(time=[i]).to_netcdf(path / "in" / f"{i}.nc")
    xnowcast.archive.watch(
        path / "in", "extrapolation", out=path / "out", steps=1, poll="20ms", stop_after=1, stop_when_idle="3s"
    )


def difference(name, old, new):
    """Which part of the state differs, and how, without pages of what does not."""
    if isinstance(old, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return name, {key: (old.get(key), new.get(key)) for key in keys}
    return name, *((old, new) if len(str(old)) < 1000 else ())


def refused(call):
    with pytest.raises(ValueError, match=r"\w"):
        call()


CALLS = {
    "forecast": lambda r, f, n, p: xnowcast.forecast(r, steps=1, on_mismatch="warn"),
    "forecast stldm": lambda r, f, n, p: xnowcast.forecast(r, "stldm", steps=1, members=1, on_mismatch="warn"),
    "forecast a model in memory": lambda r, f, n, p: xnowcast.forecast(r, Factor(), steps=1),
    "forecast lazily": lambda r, f, n, p: xnowcast.forecast(r.chunk(time=2), "lagrangian", steps=1).compute(),
    "deblur": lambda r, f, n, p: xnowcast.deblur(f, sampling_steps=2, on_mismatch="warn"),
    "downscale": lambda r, f, n, p: xnowcast.downscale(
        r.isel(time=[0]), factor=4, members=1, sampling_steps=1, on_mismatch="warn"
    ),
    "coarsen": lambda r, f, n, p: xnowcast.coarsen(r, 2),
    "postprocess": lambda r, f, n, p: xnowcast.postprocess(n[0], "nwp-mae", on_mismatch="warn"),
    "explain": lambda r, f, n, p: xnowcast.explain(n[0], "nwp-mae", category=1, on_mismatch="warn"),
    "pair": lambda r, f, n, p: xnowcast.pair(*n),
    "rain_rate": lambda r, f, n, p: xnowcast.rain_rate(r).load(),
    "train": lambda r, f, n, p: xnowcast.train(Factor(), r, **SHORT),
    "train a network": lambda r, f, n, p: xnowcast.train(
        "db-convlstm", r, size="tiny", out=p / "run", deterministic=True, **SHORT | {"crop": 32}
    ),
    "load": lambda r, f, n, p: xnowcast.load("lagrangian"),
    "card": lambda r, f, n, p: xnowcast.card("stldm"),
    "hindcast": lambda r, f, n, p: xnowcast.hindcast(r, "extrapolation", out=p / "h.zarr", **QUIET),
    "hindcast lagrangian": lambda r, f, n, p: xnowcast.hindcast(
        r.chunk(time=1), "lagrangian", out=p / "h.zarr", workers=2, init_times_per_batch=1, **QUIET
    ),
    "score_archive": lambda r, f, n, p: xnowcast.score_archive(
        r, ["persistence"], thresholds=[1.0], scales=[1], out=p / "s.nc", **QUIET
    ),
    "compare": lambda r, f, n, p: xnowcast.compare(
        ["persistence"], test={"June": r}, out=p / "c", lead_time="5min", scales=[1], progress=False
    ),
    "archive.watch": lambda r, f, n, p: watched(r, p),
    "verify.scorecard": lambda r, f, n, p: xnowcast.verify.scorecard(r, f, thresholds=[1.0]),
    "verify.fss": lambda r, f, n, p: xnowcast.verify.fss(
        r.rainfall_rate, r.rainfall_rate, thresholds=1.0, scales=[1, 3]
    ),
    "verify.crps_ensemble": lambda r, f, n, p: xnowcast.verify.crps_ensemble(
        r.rainfall_rate, r.rainfall_rate.expand_dims(member=3)
    ),
    "plot.plot": lambda r, f, n, p: xnowcast.plot.plot(f, r, path=p / "a.png"),
    "plot.animate": lambda r, f, n, p: xnowcast.plot.animate(f, path=p / "a.gif"),
    "plot.plot_spectra": lambda r, f, n, p: xnowcast.plot.plot_spectra({"a": f}, path=p / "b.png"),
    "regrid.regrid": lambda r, f, n, p: xnowcast.regrid.regrid(r, xnowcast.coarsen(r, 2)),
    "datasets.synthetic_radar": lambda r, f, n, p: xnowcast.datasets.synthetic_radar(frames=2, shape=(16, 16)).load(),
    "datasets.synthetic_nwp": lambda r, f, n, p: xnowcast.datasets.synthetic_nwp(runs=1, leads=1, shape=(32, 32)),
    "storage.write": lambda r, f, n, p: xnowcast.storage.write(f, p / "f.nc"),
    "storage.write zarr": lambda r, f, n, p: xnowcast.storage.write(f, p / "f.zarr"),
    "pretrained.table": lambda r, f, n, p: xnowcast.pretrained.table(),
    "demo.run": lambda r, f, n, p: xnowcast.cli.demo.run(out=p / "demo", model="extrapolation"),
    "forecast with a name that is none": lambda r, f, n, p: refused(lambda: xnowcast.forecast(r, "nonsense")),
    "train on nothing": lambda r, f, n, p: refused(lambda: xnowcast.train(Factor(), r * np.nan, **SHORT)),
}


def test_every_function_of_the_package_is_called():
    public = {name for name in xnowcast.__all__ if inspect.isfunction(getattr(xnowcast, name))}
    assert public <= {name.split()[0] for name in CALLS}


@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_left_changed(call, radar, forecast, nwp, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_MODELS", type(workers._MODELS)())  # as for the first time in a process
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1), np.random.seed(2), random.seed(3)
    before, given = global_state(), [dataset.copy(deep=True) for dataset in (radar, forecast, *nwp)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before["warnings"] = global_state()["warnings"]
        CALLS[call](radar, forecast, nwp, tmp_path)
        after = global_state()
    for _ in range(600):  # threads end a moment after what they worked for
        if after["threads"] == before["threads"]:
            break
        time.sleep(0.1)
        after["threads"] = global_state()["threads"]
    known = before["loggers"]
    after["loggers"] = {name: found for name, found in after["loggers"].items() if name in known}
    changed = [difference(name, before[name], after[name]) for name in before if before[name] != after[name]]
    assert not changed
    for old, new in zip(given, (radar, forecast, *nwp), strict=True):
        xr.testing.assert_identical(old, new)
