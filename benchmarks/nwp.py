"""NWP-MAE: what its deformable convolution costs, a field at full size, and what small ones learn.

    python benchmarks/nwp.py --speed [--size full] [--grid 224 128] [--repeats 7] [--threads 1] [--device cpu]
    python benchmarks/nwp.py --quality [--size tiny] [--runs 120] [--pretraining 500] [--steps 400] [--threads 1]
    python benchmarks/nwp.py --quality --real nwp_wrf_stage2_20050807.nc

--speed times forward and backward passes of DCNv3 at the widths and grids of InternImage-T's stages, for a batch of
--batch fields of --grid, beside a 3 x 3 convolution of equal width, beside the same layer that gathers with
`torch.nn.functional.grid_sample`, and beside the slow reading of `tests/reference_nwp.py` (all cells at once, point by
point). The variants take turns; ratios are of medians of CPU time (of wall time on a GPU). Offsets are those of a
trained layer in kind: a cell or two. Seconds and ratios are printed for each stage and for all blocks of the encoder.
Then, unless --layers-only, it times whole fields in float32 and bfloat16 and steps of both phases.

--quality trains on --runs synthetic runs of six lead times (`xnowcast.datasets.synthetic_nwp`) and scores on 40 runs of
another seed: NWP-MAE, what is left of it without one of its parts, other shares of masking, MetNet, and the forecast's
own rain. Counts are summed over fields before ratios are taken. All are trained for as many steps; what is there
already in --out is not trained again. The table goes to OUT/nwp.csv, pictures of a case to OUT/case.png. With --real
it runs through the machinery on a real forecast of eight lead times, of which it has the rain alone: that shows that
it runs and nothing more.
"""

import argparse
import resource
import sys
import time
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr

import xnowcast
from xnowcast import verify
from xnowcast.models.base import TrainingBatch
from xnowcast.models.nwp_mae import SIZES, NwpMae
from xnowcast.nn import deformable
from xnowcast.nn.deformable import DeformableConvolution

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import reference_nwp as reference


def clock(job, device):
    """Seconds of a job: of the CPU, or of the wall where a GPU does the work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    now = time.process_time if device.type == "cpu" else time.perf_counter
    began = now()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - began


def medians(jobs, options):
    """Seconds of each job, which take turns; the first turn is not counted."""
    taken = {name: [] for name in jobs}
    for turn in range(options.repeats + 1):
        for name, job in jobs.items():
            seconds = clock(job, options.device)
            if turn:
                taken[name].append(seconds)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}


def peak(device):
    """GiB; Linux counts in KiB, macOS in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


# ---------------------------------------------------------------- speed


def both_ways(layer, x, **replaced):
    """A job: forward and backward, with other functions in `deformable`."""

    def job():
        with mock.patch.multiple(deformable, **({"FEW_POINTS": deformable.FEW_POINTS} | replaced)):
            out = layer(x)
            out.backward(torch.ones_like(out))

    return job


def compare_layers(options):
    rows, shape = {}, SIZES[options.size]
    for level, groups in enumerate(shape.groups):
        width, (ny, nx) = shape.width * 2**level, (size // (4 * 2**level) for size in options.grid)
        torch.manual_seed(0)
        layer = DeformableConvolution(width, groups)
        torch.nn.init.normal_(layer.offset.weight, std=0.4 / width**0.5)
        torch.nn.init.normal_(layer.weight.weight, std=0.4 / width**0.5)
        plain = torch.nn.Conv2d(width, width, 3, padding=1)
        layer, plain = (part.to(options.device).to(memory_format=torch.channels_last) for part in (layer, plain))
        x = torch.randn(options.batch, ny, nx, width, device=options.device, requires_grad=True)
        jobs = {
            "DCNv3": both_ways(layer, x),
            "3 x 3 convolution": both_ways(lambda x, plain=plain: plain(x.permute(0, 3, 1, 2)), x),
            "grid_sample": both_ways(layer, x, FEW_POINTS=float("inf")),
        }
        if options.device.type == "cpu":
            jobs["slow reading"] = both_ways(layer, x, deformable_sum=reference.deformable_sum_by_pixels)
        rows[f"{width} at {ny} x {nx}"] = medians(jobs, options)
    table = pd.DataFrame(rows)
    table["all blocks"] = table @ np.array(shape.depths)
    for over, under in (("DCNv3", "3 x 3 convolution"), ("grid_sample", "DCNv3"), ("slow reading", "DCNv3")):
        if over in table.index:
            table.loc[f"{over} / {under}"] = table.loc[over] / table.loc[under]
    print(table.round(4).to_string(), flush=True)


def fresh_model(options, **kind):
    torch.manual_seed(0)
    model = NwpMae(size=options.size, **kind)
    model.set_channel_statistics(*torch.tensor([0.0, 1.0, -3.0, 3.0]).expand(16, 4).unbind(1))
    model.begun.fill_(True)
    return model.to(options.device)


def time_fields(options):
    model = fresh_model(options).eval()
    fields = torch.randn(1, 16, *options.grid, device=options.device)
    jobs = {}
    for precision in ("float32", "bfloat16"):

        def job(precision=precision):
            model.precision = precision
            model.postprocess(fields, fields[:, :1] < 9)

        jobs[precision] = job
    for name, seconds in medians(jobs, options).items():
        print(f"{options.size}, {options.grid[0]} x {options.grid[1]}, {name}: {seconds:.3f} s a field", flush=True)
    print(f"peak memory {peak(options.device):.2f} GiB", flush=True)


def time_training(options):
    shape = (options.batch, 1, 16, *options.grid)
    fields = torch.randn(shape, device=options.device)
    rain = 5 * torch.rand(options.batch, 1, 1, *options.grid, device=options.device)
    batch = TrainingBatch(rain, rain >= 0, fields)
    for phase in ("pretraining", "classes"):
        model = fresh_model(options, phase=phase).train()
        seconds = medians({phase: lambda model=model: model.loss(batch, progress=0.0).total.backward()}, options)[phase]
        print(f"{phase}: {seconds / options.batch:.3f} s a sample, forward and backward", flush=True)
    print(f"peak memory with a batch of {options.batch} {peak(options.device):.2f} GiB", flush=True)


def compare_speed(options):
    compare_layers(options)
    if not options.layers_only:
        time_fields(options)
        time_training(options)


# ---------------------------------------------------------------- quality

PRETRAINED = {"90 %": 0.9, "75 %": 0.75, "50 %": 0.5, "random": None}
"""Encoders by their share of masking in pre-training; "random" has seen nothing."""

TRAININGS = {
    "NWP-MAE": ("nwp-mae", {}, "90 %"),
    "one-hot labels": ("nwp-mae", {"labels": "one-hot"}, "90 %"),
    "no pre-training, encoder learns": ("nwp-mae", {"encoder": "tuned"}, None),
    "frozen random encoder": ("nwp-mae", {}, "random"),
    "MetNet": ("nwp-metnet", {}, None),
    "masking 0 % in training": ("nwp-mae", {"masking": 0.0}, "90 %"),
    "masking 50 % in training": ("nwp-mae", {"masking": 0.5}, "90 %"),
    "pre-trained, encoder learns on": ("nwp-mae", {"encoder": "tuned"}, "90 %"),
    "masking 75 % in pre-training": ("nwp-mae", {}, "75 %"),
    "masking 50 % in pre-training": ("nwp-mae", {}, "50 %"),
    "MetNet, one-hot labels": ("nwp-metnet", {"labels": "one-hot"}, None),
}

COMMON = {
    "variable": "observed_rain",
    "validation": 0.0,
    "augment": False,
    "optimizer": "adamw",
    "batch_size": 8,
    "crop": 64,
    "keep": "last",
    "pictures_every": 0,
    "progress": False,
}


def synthetic_pairs(runs, seed):
    nwp, observed = xnowcast.datasets.synthetic_nwp(runs=runs, seed=seed)
    return xnowcast.pair(nwp, observed).compute()


def weights_of(folder, system, data, **arguments):
    """Path of trained weights; trained if they are not there yet."""
    if not (folder / "model.safetensors").exists():
        began, cpu = time.perf_counter(), time.process_time()
        xnowcast.train(system, data, out=folder, resume=True, warmup=arguments["steps"] // 10, **COMMON | arguments)
        took = f"{time.process_time() - cpu:.0f} s CPU, {time.perf_counter() - began:.0f} s"
        print(f"trained {folder.name}: {took}", flush=True)
    return folder / "model.safetensors"


def pretrained_weights(name, data, options, **arguments):
    """An encoder that learnt to fill in masked fields, or one that was left as it was drawn."""
    kind = {"size": options.size, "phase": "pretraining", "weight_decay": 0.05, "betas": (0.9, 0.95)} | arguments
    if PRETRAINED[name] is None:
        kind |= {"steps": 1, "learning_rate": 1e-9}
    else:
        kind |= {"steps": options.pretraining, "learning_rate": 1.6e-3, "masking": PRETRAINED[name], "clip": 1.0}
    return weights_of(options.out / f"pretrained {name.replace(' %', '')}", "nwp-mae", data, **kind)


def scores(observed, corrected):
    """CSI, F1, precision, recall and frequency bias of both classes, from the numbers of the classes."""
    classes = sum((observed >= r).astype("f4") for r in corrected.threshold.values).where(observed.notnull())
    table = verify.contingency_table(classes, corrected.rain_category, thresholds=[1.0, 2.0])
    ratios = {name: getattr(verify, name)(table) for name in ("csi", "f1", "precision", "recall", "frequency_bias")}
    named = {}
    for i, threshold in enumerate(corrected.threshold.values):
        named |= {f"{name} {threshold:g}": float(score[i]) for name, score in ratios.items()}
    return named


def best_csi(learnt, tested):
    """CSI at both thresholds where an event is forecast from the value on that is best on the data of the training.

    ``learnt`` and ``tested`` are pairs of observed rain and what tells an event: rain rates, or probabilities of
    reaching the thresholds (dim ``threshold``). So that what over-forecasts and what under-forecasts can be compared.
    """
    found = {}
    for i, threshold in enumerate((0.1, 10.0)):
        (of_training, told), (of_test, tells) = (
            (observed >= threshold, signal.isel(threshold=i) if "threshold" in signal.dims else signal)
            for observed, signal in (learnt, tested)
        )
        told, tells = (signal.drop_vars("threshold", errors="ignore") for signal in (told, tells))
        candidates = np.unique(np.quantile(told, np.linspace(0.3, 0.9995, 150)))
        at = max(candidates, key=lambda level: _csi(of_training, told >= level))
        found[f"best csi {threshold:g}"] = _csi(of_test, tells >= at)
    return found


def _csi(observed, forecast):
    hits = float((observed & forecast).sum())
    return hits / max(float((observed | forecast).sum()), 1.0)


def compare_quality(options):
    train, test = synthetic_pairs(options.runs, seed=1), synthetic_pairs(40, seed=2)
    own = scores(test.observed_rain, test.nowcast.postprocess("nwp-raw"))
    rows = {"forecast's own rain": own | best_csi((train.observed_rain, train.rain), (test.observed_rain, test.rain))}
    for name in options.only or TRAININGS:
        system, kind, encoder = TRAININGS[name]
        arguments = {"size": options.size, "steps": options.steps, "learning_rate": 3e-3, **kind}
        if encoder is not None:
            arguments["start"] = pretrained_weights(encoder, train, options)
        path = weights_of(options.out / name.replace("%", ""), system, train, **arguments)
        learnt, corrected = (data.nowcast.postprocess(system, weights=path, progress=False) for data in (train, test))
        rows[name] = scores(test.observed_rain, corrected) | best_csi(
            (train.observed_rain, learnt.exceedance_probability), (test.observed_rain, corrected.exceedance_probability)
        )
        if name == "NWP-MAE":
            by_rain = test.nowcast.postprocess(system, weights=path, decision="inverse", progress=False)
            rows["NWP-MAE, class of the rain rate"] = scores(test.observed_rain, by_rain)
            draw_case(test, corrected, path, options.out / "case.png")
        pd.DataFrame(rows).T.to_csv(options.out / "nwp.csv")
    print(pd.DataFrame(rows).T.round(3).to_string())


def draw_case(test, corrected, path, picture):
    """The field with most heavy rain: forecast, categories, truth, probabilities, activation of heavy rain."""
    heavy = (test.observed_rain >= 10).sum(("y", "x"))
    at = heavy.argmax(("init_time", "lead_time"))
    case, result = test.isel(at), corrected.isel(at)
    seen = test.isel({dim: [int(i)] for dim, i in at.items()}).nowcast.explain("nwp-mae", weights=path, category=2)
    cmap, norm = xnowcast.plot.rain_colormap()
    colours = {"cmap": cmap, "norm": norm}
    classes = {"cmap": plt.get_cmap("Blues", 3), "vmin": -0.5, "vmax": 2.5}
    observed_class = sum((case.observed_rain >= r) * 1.0 for r in corrected.threshold.values)
    maps = {
        "forecast's rain, mm/h": (case.rain, colours),
        "post-processed class": (result.rain_category, classes),
        "observed class": (observed_class, classes),
        "observed rain, mm/h": (case.observed_rain, colours),
        "P(rain >= 10 mm/h)": (result.exceedance_probability[-1], {"cmap": "viridis", "vmin": 0, "vmax": 1}),
        "post-processed rain, mm/h": (result.rainfall_rate, colours),
        "activation of heavy rain": (seen.class_activation[0, 0], {"cmap": "magma", "vmin": 0, "vmax": 1}),
        "T850 - T500, K": (case.t.sel(pressure=850) - case.t.sel(pressure=500), {"cmap": "coolwarm"}),
    }
    figure, axes = plt.subplots(2, 4, figsize=(15, 7.5), layout="constrained")
    for axis, (name, (field, style)) in zip(axes.flat, maps.items(), strict=True):
        image = axis.imshow(field, interpolation="nearest", **style)
        axis.set(title=name, xticks=[], yticks=[])
        figure.colorbar(image, ax=axis, shrink=0.8)
    figure.savefig(picture, dpi=80)
    plt.close(figure)


def run_through_real(options):
    """Pair, pre-train, train and score on one real event: six lead times to learn from, two to score."""
    both = xr.open_dataset(options.real, chunks={}).drop_vars("time_bnds")
    pairs = xnowcast.pair(both.drop_vars("rainfall_rate"), both[["rainfall_rate", "crs"]]).compute()
    train, test = pairs.isel(lead_time=slice(6)), pairs.isel(lead_time=slice(6, None))
    rain = {"channels": ["rainfall_rate"]}
    start = pretrained_weights("90 %", train, options, **rain)
    path = weights_of(
        options.out / "real", "nwp-mae", train, size=options.size, steps=options.steps, start=start, **rain
    )
    rows = {
        "forecast's own rain": scores(test.observed_rain, test.nowcast.postprocess("nwp-raw")),
        "post-processed": scores(test.observed_rain, test.nowcast.postprocess("nwp-mae", weights=path)),
    }
    print(pd.DataFrame(rows).T.round(3).to_string())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--speed", action="store_true")
    what.add_argument("--quality", action="store_true")
    parser.add_argument("--size", choices=SIZES, help="full for --speed, tiny for --quality")
    parser.add_argument("--grid", type=int, nargs=2, default=(224, 128), help="cells along y and x")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--layers-only", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--runs", type=int, default=120, help="synthetic runs to train on, six fields each")
    parser.add_argument("--pretraining", type=int, default=500, help="steps of pre-training")
    parser.add_argument("--steps", type=int, default=400, help="steps of training")
    parser.add_argument("--only", nargs="+", choices=TRAININGS, metavar="NAME", help="these rows of the table")
    parser.add_argument("--out", type=Path, default=Path("runs/nwp"))
    parser.add_argument("--real", type=Path, help="a file with rainfall_rate_forecast and rainfall_rate")
    options = parser.parse_args()
    options.size = options.size or ("full" if options.speed else "tiny")
    torch.set_num_threads(options.threads)
    if options.speed:
        compare_speed(options)
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        (compare_quality if options.real is None else run_through_real)(options)


if __name__ == "__main__":
    main()
