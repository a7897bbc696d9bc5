"""``steps`` beside pysteps' STEPS: scores and time on real events, in one run.

    python benchmarks/steps.py                                   # the events that no option was chosen on, 512 x 512
    python benchmarks/steps.py --events fmi_20160928_crop512 --size 256 --starts 3 --options noise=global
    python benchmarks/steps.py --pictures runs/steps             # and members beside the radar
    python benchmarks/steps.py --size 256 --starts 3 --models steps lagrangian --events fr_meteonet_se_2016082810

Both make ten members for an hour from the same frames, pysteps with its own defaults, and are scored on the cells that
both cover and that were measured. Sums are taken over starts, ratios last. ``CRPS`` is that of ten members as they
are, ``fair`` that of as many as one likes; ``spread/error`` is 1 if members are as far from each other as the
observation is from them; ``low`` and ``high`` are the shares of observations below and above all members, of those
where either rained (1/11 if reliable); ``power`` is that of members at 4 to 8 km over the observed; ``rain`` is the
members' over that of `extrapolation`. CPU seconds are `time.process_time` with one thread, whole forecasts, motion
included. Grids coarser than 2 km have no power at 4 km.
"""

import argparse
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
import xarray as xr

from xnowcast import verify

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))
from evaluate import BAND, FRAMES, LEADS, MEMBERS, events, pysteps, spacing_km, step_of
from extrapolation import choose_starts, pysteps_motion

CHOOSING = (
    "fmi_20160928_crop512",
    "knmi_20100826_crop384",
    "de_ry_20210823_crop512",
    "fr_meteonet_se_2016082810",
    "fr_meteonet_se_2016082813",
    "de_dx_fbg_20080602",
    "de_dx_tur_20080602",
    "ca_casmb_20240711_a",
)
"""Options were chosen on these."""

REPORTING = ("mch_20150515_crop", "mch_20160711", "rmi_20210704_crop512", "it_dpc_nw_20250416", "it_dpc_ne_20250416")
"""And these had no part in it."""


def timed(function):
    began = time.process_time()
    made = function()
    return made, time.process_time() - began


def theirs(rain, start, steps):
    """Members ``(member, lead, y, x)`` of pysteps' STEPS, and seconds."""
    frames = np.nan_to_num(rain.values[start - FRAMES + 1 : start + 1])

    def run():
        motion = pysteps_motion(frames)
        return pysteps("steps", frames, motion, steps, step_of(rain), spacing_km(rain), 1000 + start)

    return timed(run)


def own(rain, start, steps, model, **options):
    """The same of a model of this package."""
    frames = rain.isel(time=slice(start - FRAMES + 1, start + 1))
    return timed(lambda: frames.nowcast.forecast(model, steps=steps, seed=start, **options).isel(init_time=0).values)


def sums_of(forecast, observed, reference):
    """Of one lead time, to be added up over starts; the observation is NaN where nothing is scored."""
    dims = list(observed.dims)
    either = (observed >= 0.1) | (forecast >= 0.1).any("member")
    sums = {
        "crps": verify.crps_sums(observed, forecast, dim=dims),
        "fair": verify.crps_sums(observed, forecast, dim=dims, fair=True),
        "spread": verify.spread_skill_sums(observed, forecast, dim=dims),
        "ranks": verify.rank_histogram(observed.where(either), forecast, dim=dims),
        "rain": forecast.mean("member").sum(),
        "reference": reference.sum(),
    }
    if spacing_km(observed) <= BAND[0] / 2:
        sums["power"] = verify.spectrum_sums(observed, forecast, window="hann", dim=["member"])
    return sums


def row_of(sums):
    ranks = np.asarray(sums["ranks"].values, float)
    power = verify.spectral_ratio(sums["power"], bands=[BAND]).squeeze() if "power" in sums else np.nan
    return {
        "CRPS": float(verify.crps_ensemble(sums["crps"])),
        "fair": float(verify.crps_ensemble(sums["fair"])),
        "spread/error": float(verify.spread_skill(sums["spread"]).spread_skill_ratio),
        "low": ranks[0] / ranks.sum(),
        "high": ranks[-1] / ranks.sum(),
        "power": float(power),
        "rain": float(sums["rain"] / sums["reference"]),
    }


def scores_of(name, rain, starts, methods):
    """A row per method and lead time. ``methods``: functions of rain, start and steps, to members and seconds."""
    steps = int(np.ceil(max(LEADS) / step_of(rain)))
    total, seconds = {}, {}
    for start in starts:
        made = {}
        for method, function in methods.items():
            made[method], taken = function(rain, start, steps)
            seconds.setdefault(method, []).append(taken)
        covered = np.logical_and.reduce([np.isfinite(m if m.ndim == 3 else m.mean(0)) for m in made.values()])
        reference = made.pop("extrapolation")
        for lead in LEADS:
            at = int(np.ceil(lead / step_of(rain) - 1e-9))
            if start + at >= rain.sizes["time"]:
                continue
            observed = rain.isel(time=start + at, drop=True).where(xr.DataArray(covered[at - 1], dims=rain.dims[1:]))
            for method, members in made.items():
                forecast = xr.DataArray(members[:, at - 1], observed.coords, ("member", *observed.dims))
                forecast = forecast.where(observed.notnull()).assign_attrs(observed.attrs).astype("f4")
                sums = sums_of(forecast, observed, observed.copy(data=reference[at - 1]).where(observed.notnull()))
                before = total.get((method, lead))
                total[method, lead] = sums if before is None else {k: before[k] + sums[k] for k in sums}
    rows = [
        {"event": name, "minutes": lead, "method": method, "starts": len(starts)}
        | row_of(sums)
        | {"CPU seconds": np.median(seconds[method])}
        for (method, lead), sums in total.items()
    ]
    return pd.DataFrame(rows).sort_values(["minutes", "method"])


def picture(name, rain, start, members, path):
    """Radar above three members at some leads."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    leads = [at for at in sorted({round(minutes / step_of(rain)) for minutes in (5, 35, 60)}) if at > 0]
    figure, axes = plt.subplots(4, len(leads), figsize=(5 * len(leads), 18), squeeze=False, layout="constrained")
    for column, at in zip(axes.T, leads, strict=True):
        fields = [rain.values[min(start + at, rain.sizes["time"] - 1)], *members[:3, at - 1]]
        for axis, field, title in zip(column, fields, ("radar", "member 0", "member 1", "member 2"), strict=True):
            axis.set_facecolor("0.8")
            shown = np.where(np.isnan(field), np.nan, np.maximum(field, 0.0))
            axis.imshow(np.where(shown >= 0, 1.0, np.nan), cmap="gray", vmin=0, vmax=1)
            axis.imshow(np.where(shown >= 0.1, shown, np.nan), norm=LogNorm(0.1, 50), cmap="turbo")
            axis.set(title=f"{name}, {title}, {at * step_of(rain):g} min", xticks=[], yticks=[])
    figure.savefig(path, dpi=60)
    plt.close(figure)


def value_of(text):
    """An option's value as it is written: a number, true, false, none or a word."""
    known = {"true": True, "false": False, "none": None}
    try:
        return known[text.lower()] if text.lower() in known else float(text) if "." in text else int(text)
    except ValueError:
        return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=beside, help="folder with the events as CF NetCDF")
    parser.add_argument("--events", nargs="+", default=list(REPORTING))
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--size", type=int, default=512, help="cells of the middle that is used, along y and x")
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE", help="of our model")
    parser.add_argument("--models", nargs="+", help="of this package, beside one another and without pysteps")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of members")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = {name: value_of(value) for name, value in (given.split("=", 1) for given in arguments.options)}
    methods = {
        "extrapolation": lambda *situation: own(*situation, "extrapolation"),
        "steps": lambda *situation: own(*situation, "steps", members=MEMBERS, **options),
        "pysteps": theirs,
    }
    if arguments.models:
        del methods["pysteps"]
        methods |= {m: lambda *situation, m=m: own(*situation, m, members=MEMBERS) for m in arguments.models}
    source = SimpleNamespace(data=arguments.data, events=arguments.events, size=arguments.size, every=1, coarsen=1)
    for name, rain in events(source):
        steps = int(np.ceil(max(LEADS) / step_of(rain)))
        starts = choose_starts(rain.values, steps, arguments.starts)
        table = scores_of(name, rain, starts, methods).drop(columns="event")
        print(f"\n{name}, {' x '.join(map(str, rain.shape[1:]))}\n{table.round(3).to_string(index=False)}", flush=True)
        if arguments.pictures:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            middle = starts[len(starts) // 2]
            members = methods["steps"](rain, middle, steps)[0]
            picture(name, rain, middle, members, arguments.pictures / f"{name}.png")


if __name__ == "__main__":
    main()
