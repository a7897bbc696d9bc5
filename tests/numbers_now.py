"""The table of numbers: one small forecast of every system, of every verb and of all weights that ship, and all scores.

``python tests/numbers_now.py --write`` makes ``numbers.json`` anew, where numbers are meant to change.
``python tests/numbers_now.py --bits FILE`` keeps this machine's exact bits in a file, or compares with those there.
"""

import argparse
import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import xnowcast
from xnowcast import models

TABLE = Path(__file__).with_name("numbers.json")
SMALL = {"size": "tiny", "sampling_steps": 2}
FEW = {"sampling_steps": 2, "precision": "bfloat16"}  # which "auto" would take on some processors only


@cache
def radar(cells=32, frames=8):
    return xnowcast.datasets.open("synthetic", frames=frames, shape=(cells, cells), seed=1).compute()


@cache
def nwp(spacing_km=10.0, leads=2):
    return xnowcast.datasets.synthetic_nwp(runs=1, leads=leads, shape=(32, 32), spacing_km=spacing_km)[0].compute()


def built(name, seed):
    options = {option: least for option, least in SMALL.items() if option in models.options(name)}
    if "factor" in models.options(name):
        options["factor"] = 4
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = models.build(name, **options)
    if model.task.trained and model.task.verb == "postprocess":
        count = len(model.task.channels)
        model.set_channel_statistics(*(torch.full((count,), value) for value in (100.0, 1000.0, 0.0, 1e5)))
    return model


def applied(model, task=None, **options):
    """What a verb makes of a small dataset of its kind."""
    task = task or model.task
    if task.verb == "postprocess":
        spacing = task.bounds("spacing")[0] if task.spacing is not None else 10_000.0
        leads = 1 + len(task.lead_window)  # of which two are corrected
        return nwp(spacing / 1000, leads).nowcast.postprocess(model, **options)
    ds = radar(max(32, task.min_grid))
    if task.verb == "downscale":
        ds = ds.isel(time=slice(5)).nowcast.coarsen(4)
        options = {"factor": task.factor or 4} | options
    if task.verb == "deblur":
        ds = ds.isel(time=slice(2))
    options = ({"steps": 3} if task.verb == "forecast" else {}) | ({"members": 2} if task.stochastic else {}) | options
    return getattr(ds.nowcast, task.verb)(model, **options)


def raining(name):
    """What the first weights give that give rain: of a network that is dry everywhere no change would be seen."""
    made = (applied(built(name, seed)) for seed in range(20))
    return next(result for result in made if any(np.nanmax(values) > 0 for values in fields(result).values()))


def systems():
    """Results of every system of the registry, untrained and tiny."""
    for name in models.names():
        yield name, lambda name=name: raining(name)


def shipped():
    """Results of all weights that ship."""
    for name in xnowcast.pretrained.names():
        task = xnowcast.load(name).task
        known = xnowcast.card(name).options
        few = {option: value for option, value in FEW.items() if option in known}
        yield f"{name}, trained", lambda name=name, task=task, few=few: applied(name, task, on_mismatch="warn", **few)


def scores():
    """All columns of the scorecard, of one forecast and of an ensemble."""
    ds = radar()
    for model, options in {"persistence": {}, "sprog": {}}.items():
        fc = ds.isel(time=slice(5)).nowcast.forecast(model, steps=3, **options)
        yield f"scores of {model}", lambda fc=fc: fc.nowcast.verify(ds, thresholds=[0.1, 1.0], scales=[1, 4])
    fc = ds.isel(time=slice(5)).nowcast.forecast("persistence", steps=3)
    members = xr.concat([fc * factor for factor in (0.5, 1.0, 1.7)], "member").transpose("init_time", "member", ...)
    yield "scores of members", lambda: members.nowcast.verify(ds, thresholds=[0.1, 1.0], scales=[1, 4])


def results():
    for kind in (systems, shipped, scores):
        yield from kind()


def fields(result):
    """The variables of numbers in a result, by name."""
    ds = result if isinstance(result, xr.Dataset) else result.to_dataset(name="result")
    return {str(k): np.asarray(v) for k, v in ds.data_vars.items() if v.ndim and v.dtype.kind in "fi"}


def summary(values):
    """What numbers are like: the share of NaN, mean, spread and largest, and five of them, each to six digits."""
    values = np.asarray(values, float)
    measured = values[np.isfinite(values)]
    if not measured.size:
        return [1.0]
    few = measured[np.linspace(0, measured.size - 1, 5).astype(int)]
    all_ = [1 - measured.size / values.size, measured.mean(), measured.std(), measured.max(), *few]
    return [float(f"{value:.6g}") for value in all_]


def table():
    return {name: {k: summary(v) for k, v in fields(make()).items()} for name, make in results()}


def bits():
    return {
        name: {k: hashlib.sha256(np.ascontiguousarray(v).tobytes()).hexdigest() for k, v in fields(make()).items()}
        for name, make in results()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--bits", type=Path)
    args = parser.parse_args()
    if args.write:
        rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in table().items()]
        TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    if args.bits:
        now = bits()
        if not args.bits.exists():
            args.bits.write_text(json.dumps(now, indent=1))
        before = json.loads(args.bits.read_text())
        changed = sorted(name for name in before | now if before.get(name) != now.get(name))
        print("\n".join(changed) or f"all {len(now)} results are equal, bit by bit")
        raise SystemExit(bool(changed))


if __name__ == "__main__":
    main()
