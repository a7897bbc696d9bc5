"""Shipped forecasting weights against pysteps and the baselines, on events of countries that they never saw.

    python recipes/evaluate.py                             # a quarter of an hour on one core, most of it STEPS
    python recipes/evaluate.py --only stldm steps --size 256 --starts 3      # members: ten minutes
    python recipes/evaluate.py --post-processors           # on synthetic forecasts
    python recipes/evaluate.py --only lagrangian --weights lagrangian=runs/mine/model.safetensors
    python recipes/evaluate.py --every 2 --coarsen 2       # other steps and grid spacings

Starts are spread evenly over the frames with 2 % of rain; all methods read the same five frames and are scored on the
same cells: where the observation is finite and the trajectory of pysteps' Lucas-Kanade motion starts inside the
coverage. A forecast that is NaN there counts as dry. Counts, errors and power are summed over starts and, of an
ensemble, over members; ratios come last. The CRPS is the fair one; of a single forecast it is the mean absolute
error. OUT gets scores.csv and, for the start in the middle of each event, a picture.
"""

import argparse
import contextlib
import io
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from pretrain import TESTING, nwp_scores

import xnowcast
from xnowcast import verify

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from extrapolation import choose_starts, pysteps_extrapolate, pysteps_motion

THRESHOLDS = [0.5, 2.0, 5.0, 10.0]  # mm/h
LEADS = (15, 30, 60)  # minutes; the first step at or after each
BAND = (4.0, 8.0)  # km
FRAMES = 5
MEMBERS = 10
PYSTEPS = ("lk", "sprog", "steps")
SPROG = "own sprog"  # this package's, beside that of pysteps
METHODS = ("persistence", "extrapolation", SPROG, "lagrangian", *PYSTEPS)
DRY = -15.0  # dB, of what is below 0.1 mm/h


def events(options):
    """Rain rates by name, ``(time, y, x)``, at the step and spacing that was asked for."""
    for name in options.events:
        rain = xnowcast.rain_rate(xr.open_dataset(options.data / f"{name}.nc")).load()
        rain = rain.isel(time=slice(None, None, options.every))
        if options.coarsen > 1:
            rain = rain.nowcast.coarsen(options.coarsen, boundary="trim")
        rows, columns = (slice(max(0, (n - options.size) // 2), (n + options.size) // 2) for n in rain.shape[1:])
        yield name, rain[:, rows, columns]


def step_of(rain):
    """Minutes between frames."""
    return float((rain.time[1] - rain.time[0]) / np.timedelta64(60, "s"))


def spacing_km(rain):
    """Distance of neighbouring cells, the mean of both directions."""
    return float(np.mean([abs(rain[d][1] - rain[d][0]) for d in rain.dims[-2:]])) / 1000


# ---------------------------------------------------------------- forecasts


def decibel(rain):
    return np.where(rain >= 0.1, 10.0 * np.log10(np.maximum(rain, 0.1)), DRY).astype("f8")


def from_decibel(values):
    return np.where(values >= -10.0, 10.0 ** (values / 10.0), 0.0)


def pysteps(method, frames, motion, steps, minutes, km, seed):
    """A forecast ``([member], lead, y, x)`` in mm/h of one of pysteps' methods, with its own defaults."""
    from pysteps import nowcasts

    if method == "lk":
        return pysteps_extrapolate(frames[-1], motion, steps)
    common = {"n_cascade_levels": 6, "precip_thr": -10.0}
    if method == "steps":
        common |= {
            "n_ens_members": MEMBERS,
            "kmperpixel": km,
            "timestep": minutes,
            "noise_method": "nonparametric",
            "vel_pert_method": "bps",
            "mask_method": "incremental",
            "seed": seed,
            "num_workers": 1,
        }
    with contextlib.redirect_stdout(io.StringIO()):
        made = nowcasts.get_method(method)(decibel(frames[-3:]), motion, steps, **common)
    return from_decibel(np.nan_to_num(made, nan=DRY))


def ours(method, rain, start, steps, options):
    """The same of one of ours, with the weights that ship or those that were given."""
    model = options.weights.get(method, "sprog" if method == SPROG else method)
    made = rain.isel(time=slice(start - FRAMES + 1, start + 1)).nowcast.forecast(
        model, steps=steps, members=MEMBERS if method == "stldm" else None, device=options.device, on_mismatch="warn"
    )
    return made.isel(init_time=0).values


def forecasts_of(rain, start, steps, options):
    """Forecasts by method, where cells are scored by lead time, and the seconds that each took."""
    raw = rain.values[start - FRAMES + 1 : start + 1]
    frames, minutes = np.nan_to_num(raw), step_of(rain)
    km = spacing_km(rain)
    motion = pysteps_motion(frames)
    seen = np.where(np.isnan(raw[-1]), np.nan, 1.0)
    inside = np.isfinite(pysteps_extrapolate(seen, motion, steps, interp_order=0, allow_nonfinite_values=True))
    made, seconds = {}, {}
    for method in options.methods:
        began = time.process_time()
        if method in PYSTEPS:
            made[method] = pysteps(method, frames, motion, steps, minutes, km, 1000 + start)
        else:
            made[method] = ours(method, rain, start, steps, options)
        seconds[method] = time.process_time() - began
    return {name: np.nan_to_num(values).astype("f4") for name, values in made.items()}, inside, seconds


# ---------------------------------------------------------------- scores


def sums_of(forecast, observed):
    """What scores are taken of, for one lead time; they can be added up."""
    dims = list(observed.dims)
    members = ["member"] if "member" in forecast.dims else []
    sums = {"counts": verify.contingency_table(observed, forecast, thresholds=THRESHOLDS, dim=[*members, *dims])}
    if spacing_km(observed) <= BAND[0] / 2:
        sums["power"] = verify.spectrum_sums(observed, forecast, window="hann", dim=members or None)
    if members:
        sums["crps"] = verify.crps_sums(observed, forecast, dim=dims, fair=True)
    else:
        sums["error"] = verify.error_sums(observed, forecast, dim=dims)
    return sums


def row_of(sums):
    csi = verify.csi(sums["counts"])
    row = {f"CSI {threshold:g}": float(csi.sel(threshold=threshold)) for threshold in THRESHOLDS}
    score = verify.crps_ensemble(sums["crps"]) if "crps" in sums else verify.mae(sums["error"])
    row["CRPS or MAE"] = float(score)
    power = verify.spectral_ratio(sums["power"], bands=[BAND]).squeeze() if "power" in sums else np.nan
    return row | {"power": float(power)}


def scores_of_event(name, rain, options):
    """One row per method and lead time."""
    minutes = step_of(rain)
    steps = int(np.ceil(max(LEADS) / minutes))
    starts = choose_starts(rain.values, steps, options.starts)
    total, seconds = {}, {}
    for start in starts:
        ahead = min(steps, rain.sizes["time"] - 1 - start)
        made, inside, taken = forecasts_of(rain, start, steps, options)
        for method, forecast in made.items():
            seconds.setdefault(method, []).append(taken[method])
            for lead in LEADS:
                at = int(np.ceil(lead / minutes - 1e-9))
                if at > ahead:
                    continue
                observed = rain.isel(time=start + at, drop=True).where(xr.DataArray(inside[at - 1], dims=rain.dims[1:]))
                dims = ["member", *observed.dims] if forecast.ndim == 4 else list(observed.dims)
                said = xr.DataArray(forecast[..., at - 1, :, :], observed.coords, dims, attrs=observed.attrs)
                sums = sums_of(said.where(observed.notnull()), observed)
                before = total.get((method, lead))
                total[method, lead] = sums if before is None else {k: before[k] + sums[k] for k in sums}
        print(f"  {name} {str(rain.time.values[start])[:16]}", flush=True)
    rows = [
        {"event": name, "method": method, "minutes": lead, "starts": len(starts)}
        | row_of(sums)
        | {"CPU seconds": np.median(seconds[method])}
        for (method, lead), sums in total.items()
    ]
    return pd.DataFrame(rows), starts


def means(scores):
    """Mean over events, by method and lead time."""
    return scores.drop(columns=["event", "starts"]).groupby(["minutes", "method"]).mean()


def picture(name, rain, start, method, options):
    model = options.weights.get(method, method)
    forecast = rain.isel(time=slice(start - FRAMES + 1, start + 1)).nowcast.forecast(
        model, lead_time="60min", members=None
    )
    figure = forecast.nowcast.plot(observations=rain)
    figure.savefig(options.out / f"{method}_{name}.png", dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=beside, help="folder with the events as CF NetCDF")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate"))
    parser.add_argument("--events", nargs="+", default=list(TESTING))
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--size", type=int, default=512, help="cells of the middle that is used, along y and x")
    parser.add_argument("--every", type=int, default=1, help="of the frames that are used")
    parser.add_argument("--coarsen", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=METHODS, choices=(*METHODS, "stldm"), dest="methods")
    parser.add_argument("--post-processors", action="store_true", help="score those, and no radar forecasts")
    parser.add_argument("--weights", nargs="+", default=[], metavar="METHOD=PATH", help="instead of those that ship")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.post_processors:
        scores = {name: nwp_scores(xnowcast.load(name)) for name in ("nwp-mae", "nwp-metnet")}
        print(pd.DataFrame(scores).round(3).to_string())
        return
    if not options.data.is_dir():
        raise SystemExit(f"the real events are not in {options.data}: give their folder with --data")
    options.weights = dict(given.split("=", 1) for given in options.weights)
    options.out.mkdir(parents=True, exist_ok=True)
    found = []
    for name, rain in events(options):
        scores, starts = scores_of_event(name, rain, options)
        print(
            scores.drop(columns=["event", "starts"]).set_index(["minutes", "method"]).sort_index().round(3).to_string()
        )
        found.append(scores)
        for method in set(options.methods) - {"persistence", SPROG, *PYSTEPS}:
            picture(name, rain, starts[len(starts) // 2], method, options)
    scores = pd.concat(found)
    scores.to_csv(options.out / "scores.csv", index=False)
    print("\nmean over events\n" + means(scores).round(3).to_string())


if __name__ == "__main__":
    main()
