"""Judge forecasts and ensembles, with and without weights and those of pysteps, on real events.

    python recipes/evaluate.py                          # all of it: half an hour on one core
    python recipes/evaluate.py --quick                  # the same on smaller grids, one start an event: minutes
    python recipes/evaluate.py --weights mine=runs/mine/model.safetensors      # one method more
    python recipes/evaluate.py --events choosing --methods steps "lagrangian members" --options steps:noise=global
    python recipes/evaluate.py --events mrms_20190610_tiles:5 --leads 10 20 30 --size 256 --methods extrapolation sprog
    python recipes/evaluate.py --post-processors        # those of weather forecasts, on synthetic ones

All methods read the same five frames, from starts spread evenly over the frames with 2 % of rain, and are scored on the
same cells: those that were measured and of which every method, with every member, says something. Sums are taken over
the starts of an event, ratios last, and means over events are means of these. There are two rounds, since STLDM is
slow: all other methods on the middle 512 x 512 cells, three starts an event, and ensembles with STLDM on the middle
256 x 256, two starts.

OUT gets scores.csv (a row for each event, grid, method and lead time, and a column for each score), a page of each
event with members beside the radar, and a page of each ensemble with its rank histogram and reliability.
OUT/forecasts keeps what was made, so that a run that was stopped goes on. After a change of the code begin with an
empty OUT. CPU seconds are those of one thread, the median over starts, motion included.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from evaluation import pictures, scores, tables
from evaluation.events import GROUPS, LEADS, REPORTED, Start, group_of, named, rain_of, starts_of
from evaluation.forecasts import kept, known_by_all
from evaluation.methods import ENSEMBLES, SINGLE, SLOW, Method, methods_of
from pretrain import nwp_scores

import xnowcast

ROUNDS = (
    {"size": 512, "starts": 3, "methods": [name for name in (*SINGLE, *ENSEMBLES) if name not in SLOW]},
    {"size": 256, "starts": 2, "methods": ["extrapolation", *ENSEMBLES]},
)
QUICK = ({"size": 128, "starts": 1, "methods": [*SINGLE, *ENSEMBLES]},)
REFERENCE = "extrapolation"
"""Whose total rain others are compared with, so that it is always made."""


def judge(name, options, methods, size, n_starts):
    """Rows of scores of an event and the counts behind its curves, by method and lead time."""
    rain = rain_of(name, options.data, size, options.every, options.coarsen)
    folder = options.out / "forecasts" / f"{name.replace(':', '_')}_{size}"
    starts = starts_of(rain, n_starts, options.leads)
    for method in methods:
        for start in starts:
            file = kept(folder, method, start)
            if not file.holds(method, start):
                file.make(method, start)
        print(f"{name}, {' x '.join(map(str, rain.shape[1:]))}: {method.name}, {len(starts)} starts", flush=True)
    sums = {}
    for start in starts:
        for key, each in sums_of_start(folder, methods, start):
            sums.setdefault(key, []).append(each)
    about = {"event": name, "group": group_of(name), "cells": size, "starts": len(starts)}
    rows, curves = [], []
    seconds = {m.name: np.median([kept(folder, m, start).part("seconds") for start in starts]) for m in methods}
    for (method, minutes), several in sums.items():
        total, key = scores.added(several), about | {"method": method, "minutes": minutes}
        rows.append(key | scores.scores_of(total, rain) | {"CPU seconds": seconds[method]})
        curves.append(key | scores.curves_of(total))
    pictures.event(f"{name}, {size}", starts[len(starts) // 2], methods, folder).savefig(
        options.out / f"{folder.name}.png", dpi=80
    )
    return rows, curves


def sums_of_start(folder: Path, methods: list[Method], start: Start):
    """Method and minutes, and the sums of them."""
    known = known_by_all(folder, methods, start)
    reference = next(method for method in methods if method.name == REFERENCE)
    for lead, minutes in enumerate(start.leads):
        observed = start.observed(minutes)
        if observed is None:
            continue
        observed = observed.where(observed.copy(data=known[lead]))
        extrapolated = kept(folder, reference, start).rain(lead, observed)
        for method in methods:
            forecast = kept(folder, method, start).rain(lead, observed)
            yield (method.name, minutes), scores.sums_of(forecast, observed, extrapolated)


def post_processors(out):
    """Scores of those that ship, on synthetic forecasts."""
    found = pd.DataFrame({name: nwp_scores(xnowcast.load(name)) for name in ("nwp-mae", "nwp-metnet")})
    found.to_csv(out / "post_processors.csv", index_label="score")
    print(found.round(3).to_string())


def rounds_of(options):
    """Grids, starts and methods: as they stand above, or one round where the command names a grid or methods."""
    chosen = QUICK if options.quick else ROUNDS
    if options.methods or options.size:
        chosen = (chosen[0] | {"size": options.size or chosen[0]["size"]},)
    for each, n_starts in zip(chosen, options.starts or [each["starts"] for each in chosen], strict=False):
        names = list(dict.fromkeys([REFERENCE, *(options.methods or each["methods"])]))
        methods, absent = methods_of(names, options.weights, options.options)
        if absent:
            print(f"pysteps is not installed: left out are {', '.join(absent)}")
        yield each["size"], n_starts, methods


def arguments(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=beside, help="folder with the events as CF NetCDF")
    parser.add_argument("--out", type=Path, help="runs/evaluate by default, or runs/evaluate_quick")
    parser.add_argument(
        "--events",
        nargs="+",
        default=list(REPORTED),
        metavar="EVENT",
        help=f"files without .nc, FILE:TILE, or groups: {', '.join(map(repr, GROUPS))}",
    )
    parser.add_argument("--quick", action="store_true", help="small grids and one start")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="instead of all; extrapolation is always there")
    parser.add_argument("--weights", nargs="+", default=[], metavar="METHOD=PATH", help="its weights, or a method more")
    parser.add_argument("--options", nargs="+", default=[], metavar="METHOD:OPTION=VALUE", help="of forecasts")
    parser.add_argument("--size", type=int, help="cells of the middle that is used, along y and x")
    parser.add_argument("--starts", type=int, nargs="+", help="of each event, a number for each round")
    parser.add_argument("--leads", type=int, nargs="+", default=LEADS, help="minutes; the first step at or after each")
    parser.add_argument("--every", type=int, default=1, help="of the frames that are used")
    parser.add_argument("--coarsen", type=int, default=1, help="cells that are averaged, along y and x")
    parser.add_argument("--post-processors", action="store_true", help="score those, and no radar forecasts")
    return parser.parse_args(words)


def main(words=None):
    options = arguments(words)
    options.leads = tuple(options.leads)
    options.out = options.out or Path("runs/evaluate_quick" if options.quick else "runs/evaluate")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if options.post_processors:
        return post_processors(options.out)
    if not options.data.is_dir():
        raise SystemExit(f"the real events are not in {options.data}: give their folder with --data")
    rows, curves = [], []
    rounds = list(rounds_of(options))
    for name in named(options.events):
        for size, n_starts, methods in rounds:
            more = judge(name, options, methods, size, n_starts)
            rows, curves = rows + more[0], curves + more[1]
            pd.DataFrame(rows).to_csv(options.out / "scores.csv", index=False, float_format="%.4g")
    for method, figure in pictures.ensembles(curves):
        figure.savefig(options.out / f"{method.replace(' ', '_')}.png", dpi=80)
    print(tables.summary(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
