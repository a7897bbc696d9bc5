"""Do the trained systems learn? Train small ones for some minutes, score them on events that they never saw.

    python recipes/learn.py                       # MS-ConvLSTM and DB-ConvLSTM, about 20 minutes on two CPU cores
    python recipes/learn.py --systems db-convlstm # one of them: run two beside each other, then the first line again
    python recipes/learn.py --systems cells --crop 32 --steps 150 --size 256 --out runs/cells   # DB, all cells
    python recipes/learn.py --systems lagrangian --option network=ms-convlstm --option emphasis=4 --crop 96 \\
        --batch 2 --target-frames 12 --steps 1000 --out runs/lagrangian
    python recipes/learn.py --device cuda --width 24 --crop 160 --batch 16 --steps 20000

Training: the synthetic radar and the events of Finland, the Netherlands and Switzerland 2015. Testing: Switzerland 2016
and Belgium 2021, the middle --size cells. All have 1 km and 5 minutes. Every system forecasts an hour from the same
starts and is scored on the same cells: where the observation is finite and no forecast is NaN. Counts and spectra are
summed over starts and events, ratios come last. The figures go to OUT/learn.csv, the first test event to OUT/*.png.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import xnowcast
from xnowcast import verify
from xnowcast.cli.flags import _name_and_value

TRAINING = ("fmi_20160928_crop512", "knmi_20100826_crop384", "mch_20150515_crop")
TESTING = ("mch_20160711", "rmi_20210704_crop512")
BASELINES = ("persistence", "extrapolation")
THRESHOLDS = [0.5, 2.0, 5.0, 10.0]  # mm/h
BAND = (4.0, 8.0)  # km
STEPS = 12
STARTS = 4
SIZE = 512


def training_data(folder):
    """Rain rates to learn from: three events and four synthetic ones with winds of their own."""
    winds = [(6.0, 4.0), (-9.0, 3.0), (2.0, -12.0), (12.0, 8.0)]
    synthetic = [
        xnowcast.datasets.synthetic_radar(frames=60, shape=(256, 256), seed=seed, motion=wind, coverage=False)
        for seed, wind in enumerate(winds)
    ]
    return [folder / f"{name}.nc" for name in TRAINING] + synthetic


def test_events(folder, size=SIZE, count=STARTS):
    """Rain rates ``(time, y, x)`` with their starts: evenly spaced frames with 2 % of rain and an hour to come."""
    for name in TESTING:
        rain = xnowcast.rain_rate(xr.open_dataset(folder / f"{name}.nc"))
        top, left = ((rain.sizes[d] - size) // 2 for d in rain.dims[-2:])
        rain = rain[:, top : top + size, left : left + size].load().rename("rain")
        wet = (rain >= 0.1).mean(rain.dims[-2:]).values >= 0.02
        found = [i for i in range(4, rain.sizes["time"] - STEPS) if wet[i]]
        starts = [found[round(i)] for i in np.linspace(0, len(found) - 1, count)]
        yield name, rain, rain.time.values[starts]


def train(name, options, folder):
    began, cpu = time.perf_counter(), time.process_time()
    model = xnowcast.train(
        name,
        training_data(folder),
        out=options.out / name.replace("+", "p"),
        resume=True,
        steps=options.steps,
        batch_size=options.batch,
        crop=options.crop,
        learning_rate=options.rate,
        warmup=options.steps // 20,
        schedule="cosine",
        clip=None if options.clip == 0 else options.clip,
        precision=options.precision,
        device=options.device,
        validate_every=max(1, options.steps // 8),
        seed=options.seed,
        width=options.width,
        target_frames=options.target_frames,
        **dict(_name_and_value(option) for option in options.option),
    )
    print(
        f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, {options.steps} steps in "
        f"{time.perf_counter() - began:.0f} s ({time.process_time() - cpu:.0f} CPU s)",
        flush=True,
    )
    return model


def sums(models, folder, size=SIZE):
    """Contingency tables and spectra by system and lead time, summed over starts and events."""
    tables, spectra, errors = [], [], []
    for _, rain, starts in test_events(folder, size):
        forecasts = xr.concat(
            [rain.nowcast.forecast(model, steps=STEPS, init_times=starts) for model in models.values()],
            pd.Index(list(models), name="system"),
            combine_attrs="override",
        )
        forecasts = forecasts.where(forecasts.notnull().all("system"))
        observations = verify.align_observations(rain, forecasts)
        dims = ["init_time", *rain.dims[-2:]]
        tables.append(verify.contingency_table(observations, forecasts, thresholds=THRESHOLDS, dim=dims))
        spectra.append(verify.spectrum_sums(observations, forecasts, dim="init_time"))
        errors.append(verify.error_sums(observations, forecasts, dim=dims))
    return [sum(parts[1:], parts[0]) for parts in (tables, spectra, errors)]


def table(models, folder, size=SIZE):
    counts, spectra, errors = sums(models, folder, size)
    csi = verify.csi(counts)
    ratio = verify.spectral_ratio(spectra, bands=[BAND]).squeeze()
    frame = csi.to_dataframe("csi")["csi"].unstack("threshold").add_prefix("CSI ")
    frame["MAE"] = verify.mae(errors).to_dataframe("mae")["mae"]
    frame[f"power {BAND[0]:g}-{BAND[1]:g} km"] = ratio.to_dataframe("ratio")["ratio"]
    return frame


def pictures(models, options):
    name, rain, starts = next(iter(test_events(options.data, options.size)))
    for system, model in models.items():
        forecast = rain.nowcast.forecast(model, steps=STEPS, init_times=starts[len(starts) // 2])
        figure = forecast.nowcast.plot(observations=rain)
        figure.savefig(options.out / f"{system.replace('+', 'p')}_{name}.png", dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/learn"), help="run folders; what is there is resumed")
    parser.add_argument("--systems", nargs="+", default=["ms-convlstm", "db-convlstm"], help="or: cells")
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--size", type=int, default=SIZE, help="cells of the tested grid along y and x")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--target-frames", type=int, default=6)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the model")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--clip", type=float, default=0.0)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"the real events are not in {options.data}: give their folder with --data")
    options.out.mkdir(parents=True, exist_ok=True)
    names = [f"db-{cell}" for cell in xnowcast.models.CELLS] if options.systems == ["cells"] else options.systems
    models = {name: name for name in BASELINES} | {name: train(name, options, options.data) for name in names}
    frame = table(models, options.data, options.size)
    frame.to_csv(options.out / "learn.csv")
    print(frame.unstack("lead_time").T.round(3).to_string() if len(models) < 6 else frame.round(3).to_string())
    pictures(models, options)


if __name__ == "__main__":
    main()
