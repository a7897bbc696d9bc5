"""Archives: what starting and the engine cost, how memory behaves, how fast scores are, how soon a killed run is back.

    python benchmarks/scale.py [startup plan small overhead workers memory scoring recovery year] [--folder FOLDER]

Without names all but the year are run. Ratios come from one run with one torch thread; where it says CPU, processor
time counts, which other load changes little. ``year`` hindcasts and scores a year of synthetic radar that is never on
disk.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cloudpickle
import numpy as np
import torch
import xarray as xr

import xnowcast
from xnowcast import archive, engine, models
from xnowcast.archive import hindcast, score_archive
from xnowcast.archive.hindcasts import plan_hindcast
from xnowcast.verbs.forecast import ForecastRequest, prepare

QUIET = {"progress": False}


def radar(frames, size=64, step="10min", chunk=6):
    """Rain that is made when it is read."""
    return xnowcast.datasets.synthetic_radar(
        frames=frames, shape=(size, size), step=step, start="2023-01-01", seed=1, chunks=chunk, coverage=False
    )


def hourly(init_times):
    """So many init times, an hour apart; and the frames that they need, ten minutes apart."""
    return slice("2023-01-01T01:00", str(np.datetime64("2023-01-01T01:00") + np.timedelta64(init_times - 1, "h")), "1h")


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---------------------------------------------------------------- overhead


def small(folder):
    """Two steps of 16 x 16 cells in memory: nearly all of it is reading and writing metadata."""
    data = radar(40, size=16, step="5min").load()
    spent = []
    for _ in range(20):
        start = time.process_time()
        xnowcast.forecast(data, "extrapolation", steps=2)
        spent.append(time.process_time() - start)
    print(f"a forecast of 16 x 16 cells in memory, two steps: {1000 * np.median(spent):.0f} ms CPU (median of 20)")


def overhead(folder):
    """A recurrent network at 128 x 128, its figures in the loop and through the archive, in turn."""
    name, size, inits, per_batch = "ms-convlstm", 128, 12, 4
    model = models.build(name).eval()
    steps = model.task.max_steps or 5
    data = radar(model.task.input_frames + inits, size=size).compute()
    values = data.rainfall_rate.values
    windows = np.stack([values[i : i + model.task.input_frames] for i in range(inits)])

    def loop():
        for start in range(0, inits, per_batch):
            engine.predict(model, windows[start : start + per_batch], steps)

    def through_the_archive():
        options = {"steps": steps, "init_times": data.time.values[model.task.input_frames - 1 :][:inits]}
        hindcast(
            data,
            model,
            out=folder / "overhead.zarr",
            init_times_per_batch=per_batch,
            batch_size=per_batch,
            workers=1,
            overwrite=True,
            on_mismatch="warn",
            **options,
            **QUIET,
        )

    times = {loop: [], through_the_archive: []}
    for run in (loop, through_the_archive) * 4:
        start = time.process_time()
        run()
        times[run].append(time.process_time() - start)
    bare, whole = (min(spent[1:]) for spent in times.values())
    print(f"{name} {size} x {size}, {inits} init times, {steps} steps, float32, CPU s (best of 3):")
    print(
        f"  model in a loop {bare:.2f}, hindcast with reading, writing and marks {whole:.2f}: {whole / bare - 1:+.1%}"
    )


# ---------------------------------------------------------------- workers


def workers(folder):
    """Throughput of two processes with a thread each against one with two threads."""
    name, size, inits = "ms-convlstm", 128, 24
    data = radar(inits + 12, size=size).compute()
    model = models.build(name).eval()
    options = {"steps": 5, "init_times": data.time.values[11:][:inits], "on_mismatch": "warn"}
    options |= {"init_times_per_batch": 2, "batch_size": 2, "overwrite": True} | QUIET
    seconds = {}
    for count in (1, 2, 1, 2):
        start = time.perf_counter()
        hindcast(data, model, out=folder / f"workers-{count}.zarr", engine="processes", workers=count, **options)
        seconds[count] = min(seconds.get(count, np.inf), time.perf_counter() - start)
    print(f"{name} {size} x {size}, {inits} init times, wall s with the start of the processes (best of 2):")
    print(f"  1 process x 2 threads {seconds[1]:.1f}, 2 x 1 {seconds[2]:.1f}: throughput {seconds[1] / seconds[2]:.2f}")
    print(f"  load of the machine meanwhile {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


# ---------------------------------------------------------------- memory


def memory(folder):
    """Peak memory for 100, 1000 and 5000 init times, each in a process of its own."""
    peaks = {}
    for inits in (100, 1000, 5000):
        words = [sys.executable, __file__, "_memory", "--folder", str(folder), "--init-times", str(inits)]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        peaks[inits] = json.loads(said.splitlines()[-1])
    base = peaks[100]["peak"]
    for inits, found in peaks.items():
        print(
            f"{inits:5d} init times of 64 x 64, 6 steps, persistence: peak {found['peak']:.0f} MB "
            f"({found['peak'] / base:.2f}), CPU {found['cpu']:.0f} s, store {found['store']:.0f} MB"
        )


def _memory(folder, inits):
    torch.set_num_threads(1)
    out = folder / f"memory-{inits}.zarr"
    data = radar(6 * inits + 12)
    start = time.process_time()
    options = {"steps": 6, "init_times": hourly(inits), "overwrite": True, "init_times_per_batch": 50}
    hindcast(data, "persistence", out=out, **options, **QUIET)
    store = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 2**20
    print(json.dumps({"peak": peak_mb(), "cpu": time.process_time() - start, "store": store}))


# ---------------------------------------------------------------- planning


def startup(folder):
    """What everybody waits for: the import after xarray's own, the graph of a year, and the default synthetic radar."""
    code = (
        "import time, xarray, cf_xarray, pandas; start = time.process_time(); import xnowcast; "
        "print(time.process_time() - start)"
    )
    words = [sys.executable, "-c", code]
    seconds = min(float(subprocess.run(words, capture_output=True, check=True).stdout) for _ in range(3))
    print(f"importing the package after xarray: {seconds:.2f} s CPU")
    year = radar(105_120, step="5min", chunk=288)
    year.nowcast.forecast("persistence")  # imports
    start = time.process_time()
    year.nowcast.forecast("persistence", init_times="all")
    print(f"the graph of a year of 5-minute data: {time.process_time() - start:.2f} s CPU")
    start = time.process_time()
    xnowcast.datasets.synthetic_radar().compute()
    print(f"36 frames of 256 x 256 cells of synthetic radar: {time.process_time() - start:.2f} s CPU")


def plan(folder):
    """A year of five-minute data: how long planning takes, and what goes to a worker."""
    frames = 105_120
    data = radar(frames, size=64, step="5min", chunk=288)
    start = time.process_time()
    request = ForecastRequest(
        verb=xnowcast.forecast, obj=data.rainfall_rate, model="extrapolation", lead_time="60min", device="cpu"
    )
    ready = prepare(request)
    planned = plan_hindcast(ready, "all", "skip", 0.0, folder / "plan.zarr", None)
    first = next(planned.cut(list(range(planned.ledger.batches))))
    spent = time.process_time() - start
    sizes = [len(cloudpickle.dumps(part)) / 1024 for part in (planned.job, first)]
    print(f"a year of 5-minute data, {planned.ledger.init_times.size} init times: planned in {spent:.2f} s CPU,")
    print(f"  {planned.ledger.batches} batches of {planned.job.layout.per_batch}; a worker gets {sizes[0]:.0f} kB once")
    print(f"  and {sizes[1]:.0f} kB with each batch")


# ---------------------------------------------------------------- scores


def scoring(folder):
    """Fields scored per second of CPU, forecasts and reading included and left out."""
    size, inits = 256, 24
    data = radar(6 * inits + 18, size=size).compute()
    stored = folder / "scored.zarr"
    hindcast(data, "persistence", out=stored, init_times=hourly(inits), steps=6, overwrite=True, **QUIET)
    for what, given in (("forecasts from a store", [stored]), ("extrapolation made for it", ["extrapolation"])):
        best = np.inf
        for _ in range(3):
            start = time.process_time()
            score_archive(data, given, baselines=[], init_times=hourly(inits), steps=6, workers=1, **QUIET)
            best = min(best, time.process_time() - start)
        fields = f"{inits * 6 / best:.0f} fields of {size} x {size} per CPU second"
        print(f"{what}: {fields}, 4 thresholds x 3 scales and errors")


# ---------------------------------------------------------------- recovery


def recovery(folder):
    """Seconds from kill -9 to the next batch, by starting the same command again."""
    out = folder / "recovery.zarr"
    words = [sys.executable, __file__, "_recovery", "--folder", str(folder)]
    run = subprocess.Popen(words)
    while len(list(out.glob("init_status/c/*"))) < 4:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = len(list(out.glob("init_status/c/*")))
    start = time.perf_counter()
    run = subprocess.Popen(words)
    while len(list(out.glob("init_status/c/*"))) == done:
        time.sleep(0.02)
    again = time.perf_counter() - start
    run.send_signal(signal.SIGINT)
    code = run.wait()
    kept = int((archive.open_archive(out).init_status != 0).sum())
    bare = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import xnowcast, torch, xnowcast.engine, zarr"], check=True)
    print(f"kill -9 after {done} batches, started again: the next batch is written after {again:.1f} s, of which")
    print(
        f"  {time.perf_counter() - bare:.1f} s are Python's imports; Ctrl-C then: exit code {code}, {kept} init times"
    )


def _recovery(folder):
    data = radar(6 * 2000 + 12)
    try:
        hindcast(
            data,
            "extrapolation",
            out=folder / "recovery.zarr",
            init_times=hourly(2000),
            steps=6,
            init_times_per_batch=20,
            **QUIET,
        )
    except KeyboardInterrupt:
        sys.exit(130)


# ---------------------------------------------------------------- a year


def year(folder, inits):
    """Hourly hindcasts of a year and their scores, with the memory as they go."""
    torch.set_num_threads(1)
    data = radar(6 * inits + 18)
    print(f"{data.sizes['time']} frames of 64 x 64, {data.rainfall_rate.nbytes / 2**20:.0f} MB that are never on disk")
    wall, cpu = time.perf_counter(), time.process_time()
    stored = hindcast(data, "extrapolation", out=folder / "year.zarr", init_times=hourly(inits), steps=6, **QUIET)
    made = stored.rainfall_rate
    print(
        f"hindcast: {made.nbytes / 2**20:.0f} MB of forecasts, {time.process_time() - cpu:.0f} s CPU, "
        f"{time.perf_counter() - wall:.0f} s, peak memory {peak_mb():.0f} MB"
    )
    wall, cpu = time.perf_counter(), time.process_time()
    tables = score_archive(
        data,
        out=folder / "year.nc",
        init_times=hourly(inits),
        steps=6,
        thresholds=[0.5, 2.0, 5.0],
        scales=[1, 4, 16],
        hours=6,
        **QUIET,
    )
    print(
        f"scores of two models: table of {(folder / 'year.nc').stat().st_size / 2**20:.1f} MB, "
        f"{time.process_time() - cpu:.0f} s CPU, {time.perf_counter() - wall:.0f} s, peak memory {peak_mb():.0f} MB"
    )
    cards = {str(m): archive.table_scores(tables).sel(model=m, drop=True) for m in tables.model.values}
    print(xnowcast.verify.format_scorecard(cards, scores=["csi", "rmse"], lead_times=["10min", "30min", "60min"]))
    archive.plot_table(tables, path=folder / "year.png")
    again = xr.open_zarr(folder / "year.zarr")
    assert (again.init_status == 1).all()


PARTS = {f.__name__: f for f in (startup, plan, small, overhead, workers, memory, scoring, recovery)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join([*PARTS, "year"]))
    parser.add_argument("--folder", type=Path, help="where stores go; a temporary folder by default")
    parser.add_argument("--init-times", type=int, default=8760)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name in options.parts or PARTS:
            if name == "_memory":
                _memory(folder, options.init_times)
            elif name == "_recovery":
                _recovery(folder)
            elif name == "year":
                year(folder, options.init_times)
            else:
                PARTS[name](folder)


if __name__ == "__main__":
    main()
