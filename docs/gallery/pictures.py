"""Make the pictures of the gallery, of synthetic weather and of MRMS (public domain) alone.

python docs/gallery/pictures.py                           # all that needs no file; five minutes on a core
python docs/gallery/pictures.py forecast arrival          # some
python docs/gallery/pictures.py usa --mrms FILE           # rain rates of NOAA MRMS, (time, y, x) or (tile, time, y, x)
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from PIL import Image

import xnowcast

FOLDER = Path(__file__).parent
START = "2024-07-01T13:25"
GREY = {"cmap": "Greys", "vmin": 0, "vmax": 3, "interpolation": "nearest"}


def showers(**options):
    """Three hours of showers whose cells drift through rain that turns."""
    arguments = {"frames": 36, "shape": (160, 160), "start": "2024-07-01T12:00", "seed": 23, "motion": (9.0, 3.0)}
    arguments |= {"rotation": 6.0, "shear": (4.0, -2.0), "convection": 0.6, "wet_fraction": 0.35}
    return xnowcast.datasets.synthetic_radar(**arguments | options).load()


def stamps(fields, rows=1):
    """Maps of rain side by side; what nobody knows is grey."""
    cmap, norm = xnowcast.plot.rain_colormap()
    columns = -(-len(fields) // rows)
    figure, axes = plt.subplots(rows, columns, figsize=(2.7 * columns + 0.6, 2.9 * rows), layout="constrained")
    for axis, (name, field) in zip(axes.flat, fields.items(), strict=True):
        image = axis.imshow(field.squeeze(), cmap=cmap, norm=norm, interpolation="nearest")
        axis.set(title=name, xticks=[], yticks=[])
    figure.colorbar(image, ax=axes, label="mm/h", shrink=0.8)
    return figure


def synthetic(options):
    """Half hours of the default, and of showers with shear and rotation."""
    of_default = xnowcast.datasets.synthetic_radar(frames=13, shape=(256, 256), seed=5).rainfall_rate
    of_showers = showers(frames=13, shape=(256, 256), coverage=False, wet_fraction=0.25).rainfall_rate
    return stamps(
        {f"default, {5 * n} min": of_default[n] for n in (0, 6, 12)}
        | {f"showers, {5 * n} min": of_showers[n] for n in (0, 6, 12)},
        rows=2,
    )


def forecast(options):
    """What the default weights say beside what came."""
    radar = showers()
    made = radar.nowcast.forecast(lead_time="60min", init_times=START, progress=False)
    return made.nowcast.plot(radar, lead_times=["10min", "30min", "60min"])


def usa(options):
    """An extrapolation of American storms."""
    rain = xnowcast.rain_rate(xr.open_dataset(options.mrms))
    rain = (rain.isel(tile=options.tile) if "tile" in rain.dims else rain).load()
    made = rain.nowcast.forecast("extrapolation", lead_time="30min", init_times=rain.time.values[15])
    return made.nowcast.plot(rain, lead_times=["10min", "20min", "30min"])


def scores(options):
    """Critical success index against lead time."""
    radar = showers()
    starts = slice("2024-07-01T12:45", "2024-07-01T13:55", "10min")
    names = ("lagrangian", "extrapolation", "persistence")
    made = {n: radar.nowcast.forecast(n, lead_time="60min", init_times=starts, progress=False).load() for n in names}
    known = made["extrapolation"].rainfall_rate.notnull()
    table = {
        n: f.where(known).nowcast.verify(radar, thresholds=[0.5, 2, 5], scales=[1, 8]).compute()
        for n, f in made.items()
    }
    return xnowcast.plot.plot_scores(table, "csi")


def members(options):
    """Chances out of an ensemble."""
    radar = showers(shape=(128, 128))
    made = radar.nowcast.forecast(
        "stldm", members=8, sampling_steps=10, lead_time="30min", init_times=START, seed=0, progress=False
    )
    return made.load().nowcast.plot(radar, member="probability", threshold=1.0, lead_times=["10min", "20min", "30min"])


def sharpened(options):
    """A frame that was blurred, the same sharpened, and what it had been."""
    radar = showers(frames=1, shape=(128, 128), coverage=False)
    blurred = radar.rolling(y=7, x=7, center=True, min_periods=1).mean(keep_attrs=True)
    sharp = blurred.nowcast.deblur("postcast", sampling_steps=60, seed=0, progress=False)
    return stamps(
        {
            "blurred": blurred.rainfall_rate,
            "sharpened": sharp.rainfall_rate,
            "before it was blurred": radar.rainfall_rate,
        }
    )


def finer(options):
    """4 km to 1 km: interpolation and two members."""
    radar = showers(frames=1, shape=(128, 128), coverage=False)
    coarse = radar.nowcast.coarsen(4)
    fine = coarse.nowcast.downscale(
        "stvd", factor=4, members=2, sampling_steps=12, conserve=True, seed=0, progress=False
    ).load()
    drawn = {f"member {n}": fine.rainfall_rate.sel(member=n) for n in (0, 1)}
    bicubic = coarse.nowcast.downscale("bicubic", factor=4)
    return stamps(
        {"4 km": coarse.rainfall_rate, "bicubic": bicubic.rainfall_rate} | drawn | {"truth": radar.rainfall_rate}
    )


def classes(options):
    """Rain classes of a numerical forecast, post-processed and observed."""
    nwp, observed = xnowcast.datasets.synthetic_nwp(runs=4, seed=2)
    pairs = xnowcast.pair(nwp, observed).load()
    case = {"init_time": 3, "lead_time": 2}
    truth = sum((pairs.observed_rain >= rate) * 1.0 for rate in (0.1, 10))
    fields = {
        "forecast": pairs.nowcast.postprocess("nwp-raw").rain_category.isel(case),
        "post-processed": pairs.nowcast.postprocess(progress=False).rain_category.isel(case),
        "observed": truth.isel(case),
    }
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 2.9), layout="constrained")
    for axis, (name, field) in zip(axes, fields.items(), strict=True):
        image = axis.imshow(field, cmap=plt.get_cmap("Blues", 3), vmin=-0.5, vmax=2.5, interpolation="nearest")
        axis.set(title=name, xticks=[], yticks=[])
    bar = figure.colorbar(image, ax=axes, ticks=[0, 1, 2], shrink=0.9)
    bar.ax.set_yticklabels(["dry", "rain", "heavy"])
    return figure


def arrival(options):
    """Products: the rain of an hour and when it comes."""
    made = showers().nowcast.forecast("extrapolation", lead_time="60min", init_times=START)
    rate = made.rainfall_rate.isel(init_time=0).load()
    hour = rate.sum("lead_time", skipna=False) / rate.sizes["lead_time"]
    minutes = (rate.lead_time / np.timedelta64(1, "m")).where(rate >= 1.0).min("lead_time")
    cmap, norm = xnowcast.plot.rain_colormap()
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.3), layout="constrained")
    drawn = (
        (hour, "rain of the next hour, mm", {"cmap": cmap, "norm": norm}),
        (minutes, "1 mm/h arrives in, min", {"cmap": "viridis_r", "vmin": 0, "vmax": 60}),
    )
    for axis, (field, title, style) in zip(axes, drawn, strict=True):
        axis.imshow(hour.isnull().where(hour.isnull()), **GREY)
        image = axis.imshow(field.where(hour.notnull()), interpolation="nearest", **style)
        axis.set(title=title, xticks=[], yticks=[])
        figure.colorbar(image, ax=axis, shrink=0.9)
    return figure


def spectra(options):
    """What forecasts lose at small scales."""
    radar = showers(coverage=False, shape=(192, 192))
    names = ("lagrangian", "extrapolation")
    made = {
        n: radar.nowcast.forecast(n, lead_time="30min", init_times=START, progress=False).rainfall_rate for n in names
    }
    middle = {"y": slice(48, 144), "x": slice(48, 144)}  # where both know
    last = {n: f.isel(init_time=0, lead_time=-1, **middle).load() for n, f in made.items()}
    observed = radar.rainfall_rate.sel(time=last["lagrangian"].valid_time).isel(middle)
    return xnowcast.plot.plot_spectra({"observed": observed} | last)


PICTURES = (synthetic, forecast, scores, spectra, members, sharpened, finer, classes, arrival, usa)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[p.__name__ for p in PICTURES if p is not usa])
    parser.add_argument("--mrms", type=Path, help="file of MRMS rain rates, for the picture usa")
    parser.add_argument("--tile", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for picture in PICTURES:
        if picture.__name__ in options.names:
            path = FOLDER / f"{picture.__name__}.png"
            picture(options).savefig(path, dpi=90)
            Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
