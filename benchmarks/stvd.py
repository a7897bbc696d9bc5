"""STVD: against the plain reading of the same networks, and against interpolation on events that it never saw.

    python benchmarks/stvd.py --speed [--coarse 48] [--factor 8] [--repeats 3] [--threads 1] [--device cpu]
    python benchmarks/stvd.py --quality [--factor 4] [--frames 5 3 1] [--steps 3000] [--size small] [--device cpu]
    python benchmarks/stvd.py --quality --factor 8 --weights xnowcast/models/pretrained/stvd-8.safetensors  # scores
    python benchmarks/stvd.py --seams [--frames 5] [--grid 256] ...

--speed times one call of the denoiser for one member of a window of 5 frames, in float32 and bfloat16, and the same
call of `tests/reference_stvd.py`; the variants take turns, ratios are of medians of CPU time (of wall time on a GPU).
Then it times whole refinements, the estimate alone, one member and some: seconds per frame and member.

--quality trains one model per entry of --frames on the radar of `pretrain.py`, synthetic and real, or takes --weights,
and refines stretches of the test events of `learn.py`, coarsened by --factor, into --members members. All systems are
scored on the same cells: CRPS (of a deterministic system its mean absolute error), mean squared error of one member and
of their mean, and over all members earth mover's distance, error of the 99.999th percentile, power over that of the
truth in bands. "Conserved" is with the mass of the coarse rain. The lag correlation is that of what is missing from
bicubic interpolation, from one frame to the next. The answer is how much a frame changes when the coarse frame before
it is taken away, over how much that one changes. OUT has stvd.csv, spectra.csv, the figures, and a run folder for each
model, which is resumed.

--seams trains the same way, and refines 32 frames of the first test event: two stretches that overlap, of many windows.
It compares the mean absolute change from frame to frame, over that of the truth, where a window begins or ends, and
where the fade of one stretch into the other does, with that elsewhere: 1 is no seam. The same for the detail of faded
frames, and for windows that do not overlap and are refined one by one, with the same noise.
"""

import argparse
import itertools
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

import xnowcast
from xnowcast import verify
from xnowcast.diffusion.pieces import cut
from xnowcast.engine.refining import conserved, cut_sequence
from xnowcast.models.stvd import SIZES, STVD
from xnowcast.nn.blocks import with_fixed_filters
from xnowcast.nn.noise import Noise, member_generator

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("tests", "recipes")]
import reference_stvd as reference  # noqa: E402
from learn import test_events  # noqa: E402
from pretrain import radar, synthetic  # noqa: E402

BANDS = [(2.0, 4.0), (4.0, 8.0), (8.0, 16.0)]  # km
STRETCH = 8  # frames that are refined at once
LONG = 32  # frames of the sequence whose seams are looked for


def clock(job, device):
    """Seconds of a job: of the CPU, or of the wall where a GPU does the work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    now = time.process_time if device.type == "cpu" else time.perf_counter
    began = now()
    result = job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - began, result


def peak(device):
    """GiB; Linux counts in KiB, macOS in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


# ---------------------------------------------------------------- speed


@torch.inference_mode()
def compare_calls(options, device):
    torch.manual_seed(0)
    shape, frames, cells = SIZES[options.size], 5, options.coarse * options.factor
    model = STVD(size=options.size, factor=options.factor).eval()
    sizes = (1, shape.base, shape.multipliers, shape.heads, shape.head_width)
    plain = reference.copy_weights(reference.Denoiser(*sizes), model.denoiser).to(device)
    model.to(device)
    x, r = 2 * torch.rand(1, frames, 1, cells, cells, device=device) - 1, torch.randn(1, frames, 1, cells, cells)
    r, done = r.to(device), torch.tensor([0.5], device=device)
    context_time, (estimate, context) = clock(lambda: model.downscaler(x), device)
    maps = [part.unflatten(0, (1, frames)) for part in context]
    jobs = {"plain reading, float32": lambda: plain(r, done, x, estimate, maps)}
    for dtype in (torch.float32, torch.bfloat16):
        network = with_fixed_filters(model.denoiser, dtype)
        given = network.project(x.to(dtype), estimate.to(dtype), [part.to(dtype) for part in context])
        name = f"xnowcast, {str(dtype).removeprefix('torch.')}"
        jobs[name] = lambda network=network, given=given, dtype=dtype: network(r.to(dtype), done, given)
    if device.type == "cuda":
        for job in jobs.values():
            job()
    taken, results = {name: [] for name in jobs}, {}
    for _ in range(options.repeats):
        for name, job in jobs.items():
            seconds, results[name] = clock(job, device)
            taken[name].append(seconds)
    expected, base = (part["plain reading, float32"] for part in (results, taken))
    print(f"{options.size}, {frames} frames, {options.coarse} -> {cells}, {device}, {torch.get_num_threads()} threads")
    print(f"{'downscaler, once for all members and steps':>44}  {context_time:8.3f} s")
    for name, seconds in taken.items():
        apart = float((results[name].float() - expected).abs().max())
        ratio = np.median(base) / np.median(seconds)
        print(f"{name:>44}  {np.median(seconds):8.3f} s ({ratio:4.2f}x)  largest difference {apart:.1e}")


def time_refinements(options, device):
    torch.manual_seed(0)
    coarse = 2 * torch.rand(1, 5, 1, options.coarse, options.coarse, device=device) - 1
    observed = torch.ones_like(coarse, dtype=torch.bool)
    for precision in ("float32", "bfloat16"):
        model = STVD(
            size=options.size, factor=options.factor, precision=precision, sampling_steps=options.sampling_steps
        )
        model.eval().to(device)
        alone, _ = clock(lambda model=model: model.downscale(coarse, observed, options.factor), device)
        print(f"{precision}, {options.sampling_steps} steps: estimate {alone / 5:.3f} s a frame")
        for members in (1, options.members):
            sources = [member_generator(0, t, m) for m in range(members) for t in range(5)]
            seconds, _ = clock(
                lambda model=model, sources=sources: model.downscale(
                    coarse, observed, options.factor, noise=Noise(sources, device)
                ),
                device,
            )
            print(f"    {members:>2} member(s): {seconds / 5 / members:.3f} s a frame and member")
    print(f"peak memory {peak(device):.2f} GiB")


# ---------------------------------------------------------------- quality


def train(frames, options):
    """The path of trained weights."""
    began, cpu = time.perf_counter(), time.process_time()
    out = options.out / f"run-{options.factor}x-{frames}"
    xnowcast.train(
        "stvd",
        [*synthetic(), *radar(options.data)],
        out=out,
        resume=True,
        steps=options.steps,
        batch_size=options.batch,
        crop=options.crop,
        learning_rate=options.rate,
        warmup=options.steps // 20,
        clip=1.0,
        ema=options.ema,
        keep="last",
        precision=options.precision,
        device=options.device,
        validate_every=max(1, options.steps // 8),
        progress=False,
        size=options.size,
        factor=options.factor,
        frames=frames,
        eps=options.eps,
        aux_mse_weight=options.aux,
    )
    seconds = time.perf_counter() - began, time.process_time() - cpu
    print(f"{frames} frames: {options.steps} steps in {seconds[0]:.0f} s ({seconds[1]:.0f} CPU s)", flush=True)
    return str(out / "model.safetensors")


def given(options):
    """Trained weights by the frames that they look at."""
    return {xnowcast.card(path).task.input_frames: str(path) for path in options.weights}


def stretches(options):
    """Fine and coarse rain of test events, where it rains."""
    for name, rain, starts in test_events(options.data, options.grid, options.cases):
        for start in starts:
            first = int(np.flatnonzero(rain.time.values == start)[0])
            truth = rain.isel(time=slice(first, first + STRETCH))
            yield name, truth, truth.nowcast.coarsen(options.factor)


def systems_of(coarse, paths, options):
    """Fine rain by system; members of a trained one, and its estimate."""
    common = {"factor": options.factor}
    found = {how: coarse.nowcast.downscale(how, **common) for how in ("nearest", "bilinear", "bicubic")}
    for frames, path in paths.items():
        plain = {"conserve": False} | common
        weights = {"weights": path, "device": options.device, "precision": options.sampling_precision, **plain}
        found[f"estimate, {frames} frames"] = coarse.nowcast.downscale("stvd", members=0, **weights)
        found[f"members, {frames} frames"] = coarse.nowcast.downscale(
            "stvd", members=options.members, sampling_steps=options.sampling_steps, sampler=options.sampler, **weights
        )
    found = {name: fine.load() for name, fine in found.items()}
    kept = [name for name in found if name == "bicubic" or name.startswith("members")]
    return found | {f"{name}, conserved": with_mass_of(coarse, found[name], options.factor) for name in kept}


def with_mass_of(coarse, fine, factor):
    """What ``conserve=True`` makes of it on cells of equal area, without refining again."""
    return fine.copy(data=conserved(fine.values, coarse.values, np.ones((1, 1), np.float32), factor))


def plain_axes(array, case):
    """Without the times and places of the event, so that cases can be put side by side."""
    metres = {d: (d, 1000.0 * np.arange(array.sizes[d]), {"units": "m"}) for d in array.dims[-2:]}
    bare = array.drop_vars([c for c in array.coords if c != "member"])
    return bare.assign_coords(metres).assign_coords(time=range(array.sizes["time"])).expand_dims(case=[case])


def scores_of(truth, fine, bicubic):
    """One row: the scores of the paper's Table 1, power in bands, and the lag correlation."""
    stochastic = "member" in fine.dims
    one = fine.isel(member=0) if stochastic else fine
    mean = fine.mean("member") if stochastic else fine
    ratio = verify.spectral_ratio(truth, fine, bands=BANDS)
    missing = one - bicubic
    now, then = (missing.isel(time=part).values.ravel() for part in (slice(1, None), slice(None, -1)))
    both = np.isfinite(now) & np.isfinite(then)
    return {
        "CRPS": float(verify.crps_ensemble(truth, fine) if stochastic else verify.mae(truth, fine)),
        "MSE, member": float(verify.mse(truth, one)),
        "MSE, mean": float(verify.mse(truth, mean)),
        "EMD": float(verify.emd(truth, fine)),
        "P99.999 error": float(verify.percentile_error(truth, fine)),
        **{f"power {low:g}-{high:g} km": float(value) for (low, high), value in zip(BANDS, ratio, strict=True)},
        "lag correlation": np.corrcoef(now[both], then[both])[0, 1] if np.ptp(now[both]) > 0 else np.nan,
    }


def answer(coarse, path, options):
    """How much a frame's member changes when the coarse frame before it is dry, over how much that frame changes."""
    dry = coarse.copy()
    dry[{"time": 1}] = dry.isel(time=1) * 0
    common = {"weights": path, "factor": options.factor, "members": 1, "conserve": False, "device": options.device}
    before, after = (
        field.nowcast.downscale("stvd", sampling_steps=options.sampling_steps, **common) for field in (coarse, dry)
    )
    change = abs(before - after).mean([d for d in before.dims if d != "time"])
    return float(change[2] / change[1])


def compare_systems(options):
    options.out.mkdir(parents=True, exist_ok=True)
    paths = {frames: train(frames, options) for frames in options.frames} if not options.weights else given(options)
    cases, truths, fines, shown = [], [], {}, {}
    for case, (name, truth, coarse) in enumerate(stretches(options)):
        began = time.perf_counter()
        systems = systems_of(coarse, paths, options)
        print(f"{name}, {str(truth.time.values[0])[:16]}: {time.perf_counter() - began:.0f} s", flush=True)
        known = np.logical_and.reduce(
            [np.isfinite(fine.isel(member=0, missing_dims="ignore")) for fine in systems.values()]
        )
        truths.append(plain_axes(truth.where(known), case))
        for system, fine in systems.items():
            fines.setdefault(system, []).append(
                plain_axes(fine.where(truths[-1].squeeze("case").notnull().values), case)
            )
        cases.append(coarse)
        shown.setdefault(name, (truth, coarse, systems))
    truth = xr.concat(truths, "case")
    fine = {system: xr.concat(parts, "case") for system, parts in fines.items()}
    table = pd.DataFrame({system: scores_of(truth, array, fine["bicubic"]) for system, array in fine.items()}).T
    table.loc["truth", "lag correlation"] = scores_of(truth, truth, fine["bicubic"])["lag correlation"]
    for frames, path in ((frames, path) for frames, path in paths.items() if frames > 1):
        table.loc[f"members, {frames} frames", "answer"] = answer(cases[0], path, options)
    print(table.round(4).to_string())
    table.to_csv(options.out / "stvd.csv")
    spectra = {
        system: verify.spectral_ratio(truth, array.isel(member=0, missing_dims="ignore"))
        for system, array in fine.items()
    }
    pd.DataFrame({system: ratio.to_series() for system, ratio in spectra.items()}).to_csv(options.out / "spectra.csv")
    draw(shown, truth, fine, options)


def draw(shown, truth, fine, options):
    """One frame of every system and event, and the distributions of all."""
    import matplotlib.pyplot as plt

    last = next(name for name in fine if name.startswith("members") and name.endswith("conserved"))
    colors, norm = xnowcast.plot.rain_colormap()
    for event, (one, coarse, systems) in shown.items():
        members = systems[last]
        panels = {"coarse": coarse, "bicubic": systems["bicubic"], "one member": members.isel(member=0)}
        panels |= {"another": members.isel(member=-1), "mean of members": members.mean("member"), "truth": one}
        figure, axes = plt.subplots(2, 3, figsize=(13, 8.6), layout="constrained")
        for axis, (title, field) in zip(axes.flat, panels.items(), strict=True):
            image = axis.imshow(field.isel(time=STRETCH // 2), cmap=colors, norm=norm, interpolation="nearest")
            axis.set(title=title, xticks=[], yticks=[])
        figure.colorbar(image, ax=axes, label="mm/h", shrink=0.6)
        figure.savefig(options.out / f"{event}_{options.factor}x.png", dpi=80)
        plt.close(figure)
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    edges = np.geomspace(0.1, 200, 40)
    for name in ("truth", "bicubic", last.removesuffix(", conserved"), last):
        values = (truth if name == "truth" else fine[name]).values
        values = values[np.isfinite(values)]
        axis.stairs(np.histogram(values, edges)[0] / len(values), edges, label=name)
    axis.set(xscale="log", yscale="log", xlabel="mm/h", ylabel="share of cells")
    axis.legend()
    figure.savefig(options.out / "distributions.png", dpi=110)


# ---------------------------------------------------------------- seams


def joins_of(stretches, frames):
    """The frame after each join: where a window begins or ends, and where the stretches' fade does."""
    windows = set()
    for start, stop in stretches:
        pieces = cut(stop - start, (8, 8), length=frames, tile=8, multiple=4)
        ends = {end for piece in pieces for end in (piece.frames.start, piece.frames.stop)}
        windows |= {start + end for end in ends if 0 < end < stop - start}
    fades = {end for before, after in itertools.pairwise(stretches) for end in (after[0], before[1])}
    return windows, fades


def change_at(rain, truth, joins, elsewhere):
    """Mean change from the frame before, over that of the truth, at the joins over that elsewhere."""
    change, expected = (abs(field.diff("time")).mean(field.dims[-2:]).values for field in (rain, truth))
    at, other = (np.array(sorted(frames)) - 1 for frames in (joins, elsewhere))
    return (change[at].sum() / expected[at].sum()) / (change[other].sum() / expected[other].sum())


def detail_in(rain, truth, frames):
    """Mean difference between neighbouring cells, over that of the truth, in some frames over that in the others."""
    detail, expected = (abs(field.diff(field.dims[-1])).mean(field.dims[-2:]).values for field in (rain, truth))
    inside = np.isin(np.arange(len(detail)), frames)
    return (detail[inside].sum() / expected[inside].sum()) / (detail[~inside].sum() / expected[~inside].sum())


def compare_seams(options):
    frames = options.frames[0]
    path = train(frames, options)
    _, rain, starts = next(test_events(options.data, options.grid, 1))
    first = min(int(np.flatnonzero(rain.time.values == starts[0])[0]), rain.sizes["time"] - LONG)
    truth = rain.isel(time=slice(first, first + LONG))
    coarse = truth.nowcast.coarsen(options.factor)

    def refine(part):
        return part.nowcast.downscale(
            "stvd",
            weights=path,
            factor=options.factor,
            members=1,
            conserve=False,
            sampling_steps=options.sampling_steps,
            device=options.device,
        ).isel(member=0)

    stretches = cut_sequence(LONG, frames)
    windows, fades = joins_of(stretches, frames)
    rest = set(range(1, LONG)) - windows - fades
    whole = refine(coarse).load()
    alone = [refine(coarse.isel(time=slice(t, t + frames))) for t in range(0, LONG - frames + 1, frames)]
    single = xr.concat(alone, "time").load()
    cuts = set(range(frames, single.sizes["time"], frames))
    print(f"{LONG} frames in stretches {stretches}: change at a join over that elsewhere, 1 is no seam")
    print(f"windows, {len(windows)} joins: {change_at(whole, truth, windows, rest):.3f}")
    print(f"stretches, frames {sorted(fades)}: {change_at(whole, truth, fades, rest):.3f}")
    faded = range(min(fades), max(fades))
    print(f"detail where stretches are faded, over that elsewhere: {detail_in(whole, truth, faded):.3f}")
    inside = set(range(1, single.sizes["time"])) - cuts
    print(f"windows one by one, {len(cuts)} joins: {change_at(single, truth[: len(single)], cuts, inside):.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--speed", action="store_true")
    what.add_argument("--quality", action="store_true")
    what.add_argument("--seams", action="store_true")
    parser.add_argument("--size", choices=SIZES, help="full for --speed, else small")
    parser.add_argument("--factor", type=int, help="8 for --speed, else 4")
    parser.add_argument("--coarse", type=int, default=48, help="coarse cells along y and x")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--calls-only", action="store_true", help="time no whole refinements")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--sampling-steps", type=int, default=30)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--sampling-precision", default="bfloat16")
    parser.add_argument("--frames", type=int, nargs="+", default=[5])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--eps", type=float, default=0.1, help="mm/h")
    parser.add_argument("--aux", type=float, default=1.0, help="weight of the estimate's own loss; the paper has 0")
    parser.add_argument("--weights", type=Path, nargs="+", help="trained already, of one --factor")
    parser.add_argument("--grid", type=int, default=256, help="cells of the test events")
    parser.add_argument("--cases", type=int, default=3, help="stretches of each test event")
    parser.add_argument("--precision", default="32", choices=["32", "bf16"])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("stvd"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.size = options.size or ("full" if options.speed else "small")
    options.factor = options.factor or (8 if options.speed else 4)
    if not options.speed:
        job = compare_systems if options.quality else compare_seams
        job(options)
        return
    compare_calls(options, torch.device(options.device))
    if not options.calls_only:
        time_refinements(options, torch.device(options.device))


if __name__ == "__main__":
    main()
