"""Which forecast for what: the default and the models without weights, on pixels and on areas, light and heavy rain.

    python benchmarks/which_forecast.py        # three events in Switzerland and Belgium; three minutes on one core

Four starts of each event, the middle 384 x 384 km, all on the cells that every forecast covers; means over the events.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch

from xnowcast import verify

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))
from evaluate import events
from extrapolation import choose_starts
from pretrain import TESTING

MODELS = {"persistence": {}, "extrapolation": {}, "sprog": {}, "lagrangian": {}, "steps": {"members": 10}}
LEADS = {5: 30, 11: 60}  # minutes of steps


def forecasts(rain, starts):
    """Of each model, at half an hour and an hour, NaN where one of them knows nothing; of members one, and the mean."""
    made = {
        name: rain.nowcast.forecast(name, steps=12, init_times=rain.time.values[starts], **options)
        for name, options in MODELS.items()
    }
    known = True
    for forecast in made.values():
        covered = forecast.notnull()
        known = known & (covered.all("member") if "member" in covered.dims else covered)
    members = made.pop("steps")
    made |= {"steps, a member": members.isel(member=0), "steps, the mean": members.mean("member", keep_attrs=True)}
    return {name: forecast.where(known).isel(lead_time=list(LEADS)) for name, forecast in made.items()}


def scores(rain, forecast):
    observed, dims = verify.align_observations(rain, forecast), ["init_time", *rain.dims[-2:]]
    csi = verify.csi(observed, forecast, thresholds=[0.5, 5.0], scales=[1, 16], dim=dims)
    fss = verify.fss(observed, forecast, thresholds=[5.0], scales=[17], dim=dims).squeeze(drop=True)
    error = verify.mae(observed, forecast, dim=dims)
    for number, minutes in enumerate(LEADS.values()):
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
    data = parser.parse_args().data
    torch.set_num_threads(1)
    rows = [
        {"model": name} | row
        for _, rain in events(SimpleNamespace(data=data, events=TESTING, size=384, every=1, coarsen=1))
        for name, forecast in forecasts(rain, choose_starts(rain.values, 12, 4)).items()
        for row in scores(rain, forecast)
    ]
    print(pd.DataFrame(rows).groupby(["minutes", "model"]).mean().round(3).to_string())


if __name__ == "__main__":
    main()
