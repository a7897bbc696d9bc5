"""Runs that are killed again and again come to what a run that was never stopped comes to.

``XNOWCAST_KILLS=100 pytest tests/archive/test_kills.py`` kills each of them a hundred times, at other moments for
each value of ``XNOWCAST_SEED``.
"""

import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver

import numpy as np
import pytest
import xarray as xr
from archive_models import Noisy

pytest.importorskip("lightning", reason="needs the extra train")

import kill_runs

KILLS = int(os.environ.get("XNOWCAST_KILLS", "3"))
SEED = int(os.environ.get("XNOWCAST_SEED", "0"))

pytestmark = pytest.mark.timeout(600 if KILLS < 10 else 0)


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kill_runs"])
    with pytest.MonkeyPatch.context() as patch:  # the server itself is not told where modules are
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, filter(None, sys.path))))
        forkserver.ensure_running()
    return context


def killed(processes, verb, folder, *, at=0, seconds=0.0):
    """Run until it dies or ends; whether it died, and how many events there were."""
    count = processes.Value("i", 0)
    process = processes.Process(target=kill_runs.run, args=(verb, folder, at, seconds, count))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), "it ends, or dies by our hand"
    return process.exitcode != 0, count.value


def same(one, other):
    if isinstance(one, xr.Dataset):
        xr.testing.assert_identical(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("verb", kill_runs.RUNS)
def test_a_run_that_is_killed_again_and_again_comes_to_the_same(processes, tmp_path, verb):
    died, events = killed(processes, verb, tmp_path / "whole")
    assert not died and events > 20
    whole = kill_runs.result(verb, tmp_path / "whole")
    moments = np.random.default_rng(SEED)
    kills = rounds = 0
    while kills < KILLS:
        folder = tmp_path / f"round-{rounds}"
        died = True
        while died and kills < KILLS:
            late = kills % 4 == 3  # not only between two events
            when = {"seconds": float(moments.uniform(0.1, 3.0))} if late else {"at": int(moments.integers(1, events))}
            died, _ = killed(processes, verb, folder, **when)
            kills += died
        died, _ = killed(processes, verb, folder)
        assert not died
        same(kill_runs.result(verb, folder), whole)
        assert kill_runs.leftovers(folder) == []
        rounds += 1


def test_every_forecast_of_a_watch_that_was_killed_is_whole(processes, tmp_path):
    killed(processes, "watch", tmp_path / "a", at=150)
    killed(processes, "watch", tmp_path / "a", at=90)
    killed(processes, "watch", tmp_path / "a")
    radar = kill_runs.radar()
    made = sorted((tmp_path / "a" / "out").glob("forecast_*.nc"))
    assert len(made) >= 3
    for path in made:
        with xr.open_dataset(path) as opened:
            wanted = radar.nowcast.forecast(Noisy(), init_times=opened.init_time.values, members=2, steps=2)
            np.testing.assert_array_equal(opened.rainfall_rate, wanted.rainfall_rate)
