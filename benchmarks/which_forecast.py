"""Which forecast for what: the default and the models without weights, on pixels and on areas, light and heavy rain.

    python benchmarks/which_forecast.py               # three events in Switzerland and Belgium; two minutes on one core
    python benchmarks/which_forecast.py --two-minutes # frames of 2 min, of three tiles in America

Four starts of each event, the middle 384 x 384 km (256 x 256 of a tile), all on the cells that every forecast covers;
means over the events. The network that ships learnt from the American day, at four minutes.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
import xarray as xr

import xnowcast
from xnowcast import verify

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))
from evaluate import events
from extrapolation import choose_starts
from pretrain import TESTING, TILES

MODELS = {"persistence": {}, "extrapolation": {}, "sprog": {}, "lagrangian": {}, "steps": {"members": 10}}
HOUR, HALF_HOUR = {5: 30, 11: 60}, {4: 10, 9: 20, 14: 30}  # minutes of steps, of 5 and of 2 minutes


def sequences(options):
    """Rain rates to score on."""
    if not options.two_minutes:
        source = SimpleNamespace(data=options.data, events=TESTING, size=384, every=1, coarsen=1)
        yield from (rain for _, rain in events(source))
        return
    tiles = xnowcast.rain_rate(xr.open_dataset(options.data / f"{TILES}.nc"))
    for tile in (5, 30, 50):
        yield tiles.isel(tile=tile, drop=True)[:, 64:320, 64:320].load().rename("rain")


def forecasts(rain, starts, leads):
    """Of each model, at some steps, NaN where one of them knows nothing; of members one, and the mean."""
    made = {
        name: rain.nowcast.forecast(name, steps=max(leads) + 1, init_times=rain.time.values[starts], **options)
        for name, options in MODELS.items()
    }
    known = True
    for forecast in made.values():
        covered = forecast.notnull()
        known = known & (covered.all("member") if "member" in covered.dims else covered)
    members = made.pop("steps")
    made |= {"steps, a member": members.isel(member=0), "steps, the mean": members.mean("member", keep_attrs=True)}
    return {name: forecast.where(known).isel(lead_time=list(leads)) for name, forecast in made.items()}


def scores(rain, forecast, leads):
    observed, dims = verify.align_observations(rain, forecast), ["init_time", *rain.dims[-2:]]
    csi = verify.csi(observed, forecast, thresholds=[0.5, 5.0], scales=[1, 16], dim=dims)
    fss = verify.fss(observed, forecast, thresholds=[5.0], scales=[17], dim=dims).squeeze(drop=True)
    error = verify.mae(observed, forecast, dim=dims)
    for number, minutes in enumerate(leads.values()):
        at = csi.isel(lead_time=number)
        yield {
            "minutes": minutes,
            "CSI 0.5": float(at.sel(threshold=0.5, scale=1)),
            "CSI 5": float(at.sel(threshold=5.0, scale=1)),
            "CSI 5, 16 km": float(at.sel(threshold=5.0, scale=16)),
            "FSS 5, 17 km": float(fss.isel(lead_time=number)),
            "MAE": float(error.isel(lead_time=number)),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=beside, help="folder with the events as CF NetCDF")
    parser.add_argument("--two-minutes", action="store_true", help="frames of two minutes")
    options = parser.parse_args()
    leads = HALF_HOUR if options.two_minutes else HOUR
    torch.set_num_threads(1)
    rows = [
        {"model": name} | row
        for rain in sequences(options)
        for name, forecast in forecasts(rain, choose_starts(rain.values, max(leads) + 1, 4), leads).items()
        for row in scores(rain, forecast, leads)
    ]
    print(pd.DataFrame(rows).groupby(["minutes", "model"]).mean().round(3).to_string())


if __name__ == "__main__":
    main()
