"""Extrapolation against pysteps' Lucas-Kanade extrapolation and persistence: scores and time on the real events.

    python benchmarks/extrapolation.py [--data ../shared/data] [--starts 6] [--device cpu]

Every method forecasts from the same five frames and is scored on the same cells: where the observation is finite
and the pysteps trajectory starts inside the coverage. CSI is pooled: counts are summed over starts, the ratio is
last. A forecast that is NaN there counts as 0 mm/h. ``plugin`` is the same model as a function of numpy arrays.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import xnowcast
from xnowcast.models.extrapolation import Extrapolation

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))
from evaluation import pysteps
from evaluation.events import FRAMES, choose_starts

EVENTS = {
    "fmi_20160928_crop512": None,
    "knmi_20100826_crop384": None,
    "rmi_20210704_crop512": None,
    "mch_20150515_crop": None,
    "mch_20160711 (middle 512 x 512)": ("mch_20160711", 512),
    "mch_20160711": None,
}
THRESHOLDS = (0.5, 2.0, 5.0)  # mm/h
LEADS = (30, 60)  # minutes
METHODS = ("persistence", "pysteps LK", "extrapolation")


def plugin(frames, n_leads, timestep_min=5.0, dy_km=1.0, dx_km=1.0, seed=0):
    """Frames (t, y, x) in mm/h without NaN to a forecast (lead, y, x) in mm/h, NaN where the inflow is unknown."""
    model = Extrapolation()
    frames = torch.from_numpy(np.ascontiguousarray(frames[-model.task.input_frames :], "f4"))[None, :, None]
    return model.forecast(frames, torch.ones_like(frames, dtype=torch.bool), n_leads)[0, :, 0].numpy()


def load(path, crop=None):
    """Rain rate (time, y, x) in mm/h and the step in minutes."""
    rate = xnowcast.rain_rate(xr.open_dataset(path))
    rain = rate.values
    if crop:
        top, left = ((n - crop) // 2 for n in rain.shape[1:])
        rain = rain[:, top : top + crop, left : left + crop]
    step = float(np.median(np.diff(rate["time"].values)) / np.timedelta64(60, "s"))
    return rain, step


def score(rain, step, n):
    """Counts (hits, misses, false alarms) by method, lead and threshold, and the number of starts."""
    steps = int(np.ceil(60 / step))
    counts = np.zeros((len(METHODS), len(LEADS), len(THRESHOLDS), 3))
    starts = choose_starts(rain, steps, n)
    for start in starts:
        raw = rain[start - FRAMES + 1 : start + 1]
        frames = np.nan_to_num(raw)
        motion = pysteps.motion_of(frames)
        seen = np.where(np.isnan(raw[-1]), np.nan, 1.0)
        inside = pysteps.extrapolate(seen, motion, steps, interp_order=0, allow_nonfinite_values=True)
        forecasts = (
            np.repeat(frames[-1:], steps, 0),
            pysteps.extrapolate(frames[-1], motion, steps),
            plugin(frames, steps),
        )
        for i, lead in enumerate(LEADS):
            ahead = int(np.ceil(lead / step - 1e-9))
            if start + ahead >= len(rain):
                continue
            observed = rain[start + ahead]
            counted = np.isfinite(observed) & np.isfinite(inside[ahead - 1])
            for j, forecast in enumerate(forecasts):
                for k, threshold in enumerate(THRESHOLDS):
                    said = np.nan_to_num(forecast[ahead - 1])[counted] >= threshold
                    happened = observed[counted] >= threshold
                    hits = (said & happened).sum()
                    counts[j, i, k] += hits, happened.sum() - hits, said.sum() - hits
    return counts, len(starts)


def print_scores(name, counts, n):
    csi = counts[..., 0] / np.maximum(counts.sum(-1), 1)  # (method, lead, threshold)
    print(f"\n{name}, {n} starts" + "".join(f"   CSI {t:g} mm/h, {m} min" for m in LEADS for t in THRESHOLDS))
    for method, values in zip(METHODS, csi, strict=True):
        print(f"{method:>{len(name) + 10}}" + "".join(f"{v:21.3f}" for v in values.ravel()))
    return (csi[2] >= csi[1]).sum(), csi[2].size


def print_times(rain, device, repeats=5, batch=8, steps=12):
    """Side by side: each repeat times pysteps, one forecast and a batch of init times, one after the other."""
    rain = np.nan_to_num(rain)
    model = Extrapolation()
    windows = np.stack([rain[s : s + FRAMES] for s in range(batch)])
    samples = torch.from_numpy(windows[:, -model.task.input_frames :, None]).to(device)
    observed = torch.ones_like(samples, dtype=torch.bool)

    def ours(n):
        model.forecast(samples[:n], observed[:n], steps).cpu()

    jobs = {
        "pysteps LK": (1, lambda: pysteps.extrapolate(windows[0, -1], pysteps.motion_of(windows[0]), steps)),
        "extrapolation, one": (1, lambda: ours(1)),
        f"extrapolation, batch of {batch}": (batch, lambda: ours(batch)),
    }
    taken = {name: [] for name in jobs}
    for repeat in range(repeats + 1):
        for name, (n, job) in jobs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            job()
            if repeat:  # the first round warms up
                taken[name].append(((time.perf_counter() - wall) / n, (time.process_time() - cpu) / n))
    medians = {name: np.median(values, 0) for name, values in taken.items()}
    shape = " x ".join(map(str, rain.shape[1:]))
    print(f"\nSeconds per forecast, {shape}, {steps} leads, on {device} ({torch.get_num_threads()} threads),")
    print(f"motion included, median of {repeats} interleaved repeats; how many times faster than pysteps LK")
    for name, (wall, cpu) in medians.items():
        base = medians["pysteps LK"]
        print(f"{name:>28}  wall {wall:7.3f} ({base[0] / wall:5.1f}x)   CPU {cpu:7.3f} ({base[1] / cpu:5.1f}x)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=beside, help="folder with the events as CF NetCDF")
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    won = cells = 0
    timed = None
    for name, part in EVENTS.items():
        stem, crop = part or (name, None)
        path = arguments.data / f"{stem}.nc"
        if not path.exists():
            print(f"\n{name}: {path} is not there, left out")
            continue
        rain, step = load(path, crop)
        better, of = print_scores(name, *score(rain, step, arguments.starts))
        won, cells = won + better, cells + of
        if rain.shape[1:] == (512, 512):
            timed = rain
    print(f"\nextrapolation is at least equal to pysteps LK in {won} of {cells} cells")
    if timed is not None:
        print_times(timed, arguments.device)


if __name__ == "__main__":
    main()
