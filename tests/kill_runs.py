"""Long runs in processes of their own, which die at an event of the file system or after some time."""

import itertools
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import test_train
import torch
import xarray as xr
from archive_models import Noisy

import xnowcast
from xnowcast.archive import hindcast, score_archive, watch
from xnowcast.archive.run import job

EVENTS = {
    "open",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.utime",
    "shutil.rmtree",
}
FRAMES = 10


def radar():
    """Ten small frames in memory."""
    made = xnowcast.datasets.synthetic_radar(
        frames=FRAMES, shape=(12, 12), step="5min", start="2024-06-01T12:00", seed=3
    )
    return made.load()


def run_hindcast(folder):
    options = {"members": 2, "steps": 2, "init_times_per_batch": 2, "workers": 2, "progress": False}
    hindcast(radar().chunk(time=1), Noisy(), out=folder / "a.zarr", **options)


def run_score(folder):
    job.SAVE_EVERY = 0.0
    options = {"steps": 1, "thresholds": [0.5], "scales": [1], "block": "10min", "progress": False}
    score_archive(radar().chunk(time=1), out=folder / "a.nc", **options)


def run_train(folder):
    xnowcast.models.register("tiny", "test_train:Tiny")
    options = test_train.SHORT | {"checkpoint_every": 2, "ema": 0.9, "dropout": 0.3}
    xnowcast.train("tiny", test_train.radar(), out=folder / "run", resume=(folder / "run").exists(), **options)


def run_watch(folder):
    """Frames come one by one, each once the one before it was seen to; what came before a kill lies there."""
    inbox, stage, out = folder / "in", folder / "stage", folder / "out"
    inbox.mkdir(parents=True, exist_ok=True)
    stage.mkdir(exist_ok=True)
    data = radar()

    def feed():
        for i in range(FRAMES):
            if not (inbox / f"r{i}.nc").exists():
                data.isel(time=[i]).to_netcdf(stage / f"r{i}.nc")
                os.replace(stage / f"r{i}.nc", inbox / f"r{i}.nc")
            clock = np.datetime_as_string(data.time.values[i], unit="m").replace("-", "").replace(":", "")
            wanted = out / f"forecast_{clock}.nc"
            for _ in range(200 if i else 0):
                if wanted.exists():
                    break
                threading.Event().wait(0.01)

    threading.Thread(target=feed, daemon=True).start()
    watch(inbox, Noisy(), out=out, members=2, steps=2, poll="10ms", stop_when_idle="1s")


RUNS = {"hindcast": run_hindcast, "score": run_score, "train": run_train, "watch": run_watch}


def run(verb, folder, at, seconds, count):
    """Run a verb to its end, or to its death.

    Parameters
    ----------
    verb : str
    folder : pathlib.Path
    at : int
        Number of the event of the file system in ``folder`` at which the process dies; 0 for none.
    seconds : float
        After which it dies; 0 for never.
    count : multiprocessing.Value
        How many events there were.
    """
    torch.set_num_threads(1)
    numbers = itertools.count(1)

    def hook(event, arguments):
        if event in EVENTS and any(str(folder) in str(a) for a in arguments[:2]):
            count.value = number = next(numbers)
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)

    folder.mkdir(exist_ok=True)
    sys.addaudithook(hook)
    if seconds:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    RUNS[verb](folder)


def result(verb, folder):
    """What a run leaves, to be compared; leftovers of dead runs fail here."""
    if verb == "hindcast":
        store = folder / "a.zarr"
        found = {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}
        return {name: content for name, content in found.items() if name != "zarr.json"}
    if verb == "score":
        with xr.open_dataset(folder / "a.nc") as opened:
            return opened.load()
    if verb == "train":
        kept = {p.name: p.read_bytes() for p in (folder / "run").glob("*.safetensors")}
        rows = [{k: v for k, v in row.items() if k != "samples_per_second"} for row in test_train.rows(folder / "run")]
        return kept | {"metrics": rows}
    latest = Path(folder, "out", "latest.nc")
    with xr.open_dataset(latest) as opened:
        return {"name": os.readlink(latest), "rain": opened.rainfall_rate.values.tobytes()}


def leftovers(folder):
    """Locks, drafts and halves of files that lie about."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*")]
    return [n for n in names if n.endswith((".lock", ".part", ".partial")) or ".latest." in n]
