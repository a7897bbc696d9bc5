"""Does STLDM learn? Train a small one for some minutes, score its members on events that it never saw.

    OMP_NUM_THREADS=1 python recipes/learn_stldm.py          # about an hour on one CPU core
    python recipes/learn_stldm.py --steps 20000 --batch 8    # better with a GPU; --size full is for a GPU alone

The autoencoder is trained first, then translator and denoiser over it (strategy B of the paper's Table 3), then the
denoiser with equal weights of all steps of the diffusion. Training and test events are those of `learn.py`, 1 km and 5
minutes; of the latter the middle --grid cells. Members, first estimate, persistence and extrapolation forecast an hour
from the same starts and are scored where the observation is finite and no forecast is NaN at any lead time. Counts,
spectra and errors are summed over starts, events and members (each member a forecast of its own), ratios come last.
The seam score is the mean absolute difference of neighbours across the edges of tiles over that elsewhere: 1 is no
seam. It is taken of a forecast in tiles, of the same without tiles, of the difference of the two, and of tiles that
were forecast one by one and put side by side, which is what a seam looks like. OUT has learn_stldm.csv,
autoencoder.csv (the share of the observed power that is left after encoding and decoding), ranks.csv, seams.csv, the
figures and a run folder for each stage, which are resumed.
"""

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from learn import BAND, BASELINES, STEPS, test_events, training_data

import xnowcast
from xnowcast import verify
from xnowcast.diffusion.tiling import tile_windows
from xnowcast.plot import rain_colormap
from xnowcast.plot.maps import NOT_MEASURED

THRESHOLDS = [0.5, 2.0, 5.0]  # mm/h
SCALES = [1, 16]
WET = 0.1  # mm/h
LATENT_CELL = 4  # cells
BANDS = [(2.0, 4.0), BAND, (8.0, 16.0), (16.0, 64.0)]  # km
FIRST_ESTIMATE = "first estimate"


def train(options):
    """The path of the trained weights: autoencoder, translator and denoiser over it, the denoiser again."""
    weights = stage(
        options,
        "autoencoder",
        steps=options.autoencoder_steps,
        learning_rate=options.autoencoder_rate,
        crop=options.autoencoder_crop,
        warmup=100,
        ema=0.98,
    )
    settings = {"steps": options.steps, "learning_rate": options.rate, "crop": options.crop}
    weights = stage(options, "B", start=weights, warmup=60, ema=0.99, **settings)
    settings |= {"steps": options.denoiser_steps, "learning_rate": options.denoiser_rate}
    return stage(options, "A", "one", start=weights, warmup=10, ema=0.97, **settings)


def stage(options, strategy, diffusion_weight="abar", *, steps, **settings):
    """The path of the weights after one stage of the training, which is resumed where it was begun."""
    began, cpu = time.perf_counter(), time.process_time()
    folder = options.out / strategy
    model = xnowcast.train(
        "stldm",
        training_data(options.data),
        out=folder,
        resume=True,
        steps=steps,
        batch_size=options.batch,
        schedule="cosine",
        optimizer="adamw",
        clip=1.0,
        keep="last",
        rain_preference=options.rain_preference,
        precision=options.precision,
        device=options.device,
        validate_every=max(1, steps // 8),
        seed=options.seed,
        size=options.size,
        input_frames=5,
        target_frames=STEPS,
        model_options={"strategy": strategy, "diffusion_weight": diffusion_weight},
        progress=False,
        **settings,
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(
        f"strategy {strategy}: {trained:,} parameters, {steps} steps in {time.perf_counter() - began:.0f} s "
        f"({time.process_time() - cpu:.0f} CPU s)",
        flush=True,
    )
    return str(folder / "model.safetensors")


def stldm(rain, weights, options, starts, **more):
    more = {"seed": options.seed, "device": options.device} | more
    return rain.nowcast.forecast("stldm", weights=weights, steps=STEPS, init_times=starts, **more).load()


def ensemble(rain, weights, options, starts, **more):
    """Members, as ``(init_time, member, lead_time, y, x)``."""
    more = {"sampling_steps": options.sampling_steps, "guidance": options.guidance} | more
    return stldm(rain, weights, options, starts, **{"members": options.members} | more)


def forecasts_of(rain, weights, options, starts):
    """Forecasts by system, NaN wherever one of them is at any lead time: all lead times have the same cells."""
    found = {
        "members": ensemble(rain, weights, options, starts),
        FIRST_ESTIMATE: stldm(rain, weights, options, starts, return_first_estimate=True),
    }
    found |= {name: rain.nowcast.forecast(name, steps=STEPS, init_times=starts).load() for name in BASELINES}
    known = found["members"].notnull().all("member")
    for name in (FIRST_ESTIMATE, *BASELINES):
        known = known & found[name].notnull()
    return {name: forecast.where(known.all("lead_time")) for name, forecast in found.items()}


# ---------------------------------------------------------------- scores


def sums_of(observations, forecast):
    """What the scores of a system are taken of, by lead time; those of events can be added up."""
    members = ["member"] if "member" in forecast.dims else []
    starts, points = ["init_time", *members], ["init_time", *forecast.dims[-2:]]
    sums = {
        "events": verify.contingency_table(
            observations, forecast, thresholds=THRESHOLDS, scales=SCALES, dim=[*starts, *forecast.dims[-2:]]
        ),
        "spectra": verify.spectrum_sums(observations, forecast, dim=starts),
        "errors": verify.error_sums(observations, forecast, dim=points, member_dim="member" if members else None),
    }
    if members:
        sums["crps"] = verify.crps_sums(observations, forecast, dim=points)
        sums["spread"] = verify.spread_skill_sums(observations, forecast, dim=points)
        sums["ranks"] = verify.rank_histogram(observations, forecast, min_value=WET, dim=points)
    return sums


def added_up(weights, options):
    """Sums by system and kind, over all test events; and observations and forecasts of each event's middle start."""
    total, shown = {}, {}
    for name, rain, starts in test_events(options.data, options.grid, options.starts):
        began = time.perf_counter()
        forecasts = forecasts_of(rain, weights, options, starts)
        print(f"{name}: {len(starts)} forecasts in {time.perf_counter() - began:.0f} s", flush=True)
        observations = verify.align_observations(rain, forecasts["members"])
        middle = {"init_time": len(starts) // 2}
        shown[name] = observations.isel(middle), {n: forecast.isel(middle) for n, forecast in forecasts.items()}
        for system, forecast in forecasts.items():
            sums = sums_of(observations, forecast)
            before = total.get(system)
            total[system] = sums if before is None else {kind: before[kind] + sums[kind] for kind in sums}
    return total, shown


def scores_of(sums):
    """One row per lead time."""
    csi = verify.csi(sums["events"])
    columns = {
        f"CSI {threshold:g}" + (f" pooled {scale}" if scale > 1 else ""): csi.sel(threshold=threshold, scale=scale)
        for scale in SCALES
        for threshold in THRESHOLDS
    }
    columns[f"power {BAND[0]:g}-{BAND[1]:g} km"] = verify.spectral_ratio(sums["spectra"], bands=[BAND]).squeeze()
    columns["MAE"] = verify.mae(sums["errors"])  # of an ensemble: of its mean
    if "crps" in sums:
        spread = verify.spread_skill(sums["spread"])
        columns |= {"CRPS": verify.crps_ensemble(sums["crps"]), "spread": spread["spread"], "RMSE": spread["rmse"]}
    else:
        columns["CRPS"] = columns["MAE"]
    minutes = (csi["lead_time"] / np.timedelta64(1, "m")).astype(int).values
    return pd.DataFrame({name: values.values for name, values in columns.items()}, pd.Index(minutes, name="minutes"))


def rank_table(sums):
    """Share of each rank by lead time: 1 / (members + 1) if the ensemble is reliable."""
    ranks = sums["ranks"]
    table = (ranks / ranks.sum("rank")).transpose("lead_time", "rank")
    minutes = (table["lead_time"] / np.timedelta64(1, "m")).astype(int).values
    return pd.DataFrame(table.values, pd.Index(minutes, name="minutes"), table["rank"].values)


def autoencoder_table(weights, options):
    """Share of the observed power that is left after encoding and decoding, and the mean error, by test event."""
    model, rows = xnowcast.load(weights), {}
    for name, rain, _ in test_events(options.data, options.grid, options.starts):
        rain = rain[:: rain.sizes["time"] // 6].fillna(0.0)
        with torch.inference_mode():
            frames = model.transform(torch.from_numpy(rain.values)[:, None])
            decoded = model.autoencoder.decode(model.autoencoder.encode(frames)[0])
        back = rain.copy(data=model.transform.inverse(decoded)[:, 0].numpy())
        ratio = verify.spectral_ratio(rain, back, bands=BANDS, dim="time").values
        rows[name] = {f"power {a:g}-{b:g} km": value for (a, b), value in zip(BANDS, ratio, strict=True)}
        rows[name] |= {"MAE": float(abs(back - rain).mean()), "mean": float(rain.mean())}
    return pd.DataFrame(rows).T


# ---------------------------------------------------------------- seams


def seam_score(field, edges):
    """Mean absolute difference across the edges, between cells e - 1 and e of both axes, over that elsewhere.

    Elsewhere are the other multiples of LATENT_CELL: all edges are, and the decoder leaves a lattice of that width.
    """
    across, elsewhere = [], []
    for axis in (-2, -1):
        steps = np.abs(np.diff(np.moveaxis(field, axis, -1), axis=-1))
        cells = np.arange(1, steps.shape[-1] + 1)
        at = np.isin(cells, edges)
        across.append(steps[..., at].ravel())
        elsewhere.append(steps[..., ~at & (cells % LATENT_CELL == 0)].ravel())
    return float(np.nanmean(np.concatenate(across)) / np.nanmean(np.concatenate(elsewhere)))


def side_by_side(rain, weights, options, start, tile):
    """Every tile forecast by itself, without overlap."""
    y, x = rain.dims[-2:]
    rows = []
    for top in range(0, rain.sizes[y], tile):
        parts = [
            rain.isel({y: slice(top, top + tile), x: slice(left, left + tile)})
            for left in range(0, rain.sizes[x], tile)
        ]
        rows.append(xr.concat([ensemble(part, weights, options, start, members=2) for part in parts], dim=x))
    return xr.concat(rows, dim=y)


def tile_edges(model, size):
    """First and last cells of tiles, and where their weights begin to rise and end to fall."""
    multiple = model.task.grid_multiple
    overlap = max(multiple, model.tile // 4 // multiple * multiple)
    margin = overlap // 4
    windows = tile_windows((size, size), tile=model.tile, overlap=overlap, multiple=multiple)
    starts = {window.left for window in windows} - {0}
    ends = {window.left + window.width for window in windows} - {size}
    inner = {start + margin for start in starts} | {end - margin for end in ends}
    return sorted(starts | ends | inner)


def seams(weights, options):
    """Seam scores, power and error by kind of forecast: two members from one start of an event, on 2 x 2 tiles."""
    model = xnowcast.load(weights)
    size = 2 * model.tile
    _, rain, starts = next(iter(test_events(options.data, size, options.starts)))
    start = starts[len(starts) // 2]
    whole = ensemble(rain, weights, options, start, members=2, tile=size)
    tiled = ensemble(rain, weights, options, start, members=2)
    apart = side_by_side(rain, weights, options, start, model.tile)
    observations = verify.align_observations(rain, whole)
    edges, borders = tile_edges(model, size), [model.tile]
    fields = {
        "in tiles": (tiled, edges),
        "without tiles": (whole, edges),
        "in tiles minus without": (tiled - whole, edges),
        "observed": (observations, edges),
        "tiles side by side": (apart, borders),
        "without tiles, at these borders": (whole, borders),
    }
    table = pd.DataFrame({"seam score": {name: seam_score(f.values, where) for name, (f, where) in fields.items()}})
    for name, forecast in {"in tiles": tiled, "without tiles": whole, "tiles side by side": apart}.items():
        ratio = verify.spectral_ratio(observations, forecast, bands=BANDS, dim=["init_time", "member", "lead_time"])
        for band, value in zip(BANDS, ratio.values.ravel(), strict=True):
            table.loc[name, f"power {band[0]:g}-{band[1]:g} km"] = value
        table.loc[name, "MAE"] = float(verify.mae(observations, forecast))
    maps = {"without tiles": whole, "in tiles": tiled, "tiles side by side": apart}
    return table, {name: forecast.isel(init_time=0, member=0, lead_time=5) for name, forecast in maps.items()}


# ---------------------------------------------------------------- figures


def draw(axis, field, title, spread=False):
    if spread:
        cmap = plt.get_cmap("magma_r").with_extremes(bad=NOT_MEASURED)
        shown = axis.imshow(field, origin=origin(field), cmap=cmap, vmin=0, vmax=5)
    else:
        cmap, norm = rain_colormap()
        shown = axis.imshow(field, origin=origin(field), cmap=cmap, norm=norm, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
    return shown


def origin(field):
    """Where the first row is drawn: in the south or in the north."""
    rows = field[field.dims[-2]].values
    return "lower" if rows[0] < rows[-1] else "upper"


def stamps(observations, forecasts, minutes, path):
    """Observed, first estimate, mean and spread above ten members."""
    at = {"lead_time": np.timedelta64(minutes, "m")}
    members = forecasts["members"].sel(at)
    figure, axes = plt.subplots(3, 5, figsize=(14, 9), layout="constrained")
    top = {
        "observed": observations.sel(at),
        FIRST_ESTIMATE: forecasts[FIRST_ESTIMATE].sel(at),
        "extrapolation": forecasts["extrapolation"].sel(at),
        "mean of the members": members.mean("member"),
    }
    for axis, (name, field) in zip(axes[0], top.items(), strict=False):
        rain = draw(axis, field, name)
    spread = draw(axes[0, 4], members.std("member", ddof=1), "spread of the members", spread=True)
    for axis, number in zip(axes[1:].flat, range(members.sizes["member"]), strict=False):
        draw(axis, members.isel(member=number), f"member {number}")
    figure.colorbar(rain, ax=axes[1:, :], shrink=0.7, label="mm/h")
    figure.colorbar(spread, ax=axes[0, 4], shrink=0.8, label="mm/h")
    start = pd.Timestamp(members["init_time"].item())
    figure.suptitle(f"STLDM from {start:%Y-%m-%d %H:%M} UTC, {minutes} minutes ahead")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def score_figure(tables, path):
    panels = [f"CSI {t:g}{p}" for p in ("", " pooled 16") for t in THRESHOLDS]
    panels += [f"power {BAND[0]:g}-{BAND[1]:g} km", "CRPS", "spread"]
    figure, axes = plt.subplots(3, 3, figsize=(11, 8), layout="constrained", sharex=True)
    for axis, column in zip(axes.flat, panels, strict=True):
        for system, table in tables.items():
            if column in table:
                axis.plot(table.index, table[column], label=system)
        axis.set_title("CRPS, MAE of a single forecast" if column == "CRPS" else column, fontsize=10)
    axes[2, 2].plot(tables["members"].index, tables["members"]["RMSE"], "k--", label="RMSE of the mean")
    axes[2, 2].legend(fontsize=8)
    for axis in axes.flat:
        axis.set_ylim(0)
    axes[0, 0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("minutes")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def loss_figure(options, path):
    panels = [("reconstruction", "autoencoder"), ("constraint", "B"), ("diffusion", "B"), ("diffusion", "A")]
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 3), layout="constrained")
    for axis, (part, stage) in zip(axes, panels, strict=True):
        values = pd.read_csv(options.out / stage / "metrics.csv").set_index("step")[part].dropna()
        axis.plot(values.index, values, color="0.8")
        axis.plot(values.index, values.rolling(9 if len(values) > 50 else 1, min_periods=1).mean())
        axis.set(title=part, xlabel=f"step of stage {stage}", yscale="linear" if part == "diffusion" else "log")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def seam_figure(maps, path):
    figure, axes = plt.subplots(1, len(maps), figsize=(13, 4.6), layout="constrained")
    for axis, (name, field) in zip(axes, maps.items(), strict=True):
        draw(axis, field, name)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def figures(options, tables, ranks, shown):
    loss_figure(options, options.out / "losses.png")
    score_figure(tables, options.out / "scores.png")
    shares = xr.DataArray(ranks, dims=("minutes", "rank"))
    by_name = {f"{m} min": shares.sel(minutes=m, drop=True) for m in (5, 15, 30, 60)}
    xnowcast.plot.plot_rank_histogram(by_name, path=options.out / "ranks.png")
    for name, (observations, forecasts) in shown.items():
        for minutes in (15, 30, 60):
            stamps(observations, forecasts, minutes, options.out / f"stamps_{name}_{minutes}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/learn_stldm"), help="what is there is resumed")
    parser.add_argument("--size", default="small", choices=["tiny", "small", "full"])
    parser.add_argument("--steps", type=int, default=530, help="of the second stage")
    parser.add_argument("--denoiser-steps", type=int, default=160, help="of the third stage")
    parser.add_argument("--denoiser-rate", type=float, default=1e-3)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--autoencoder-steps", type=int, default=2000, help="of the first stage")
    parser.add_argument("--autoencoder-rate", type=float, default=3e-3)
    parser.add_argument("--autoencoder-crop", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rain-preference", type=float, default=0.3)
    parser.add_argument("--precision", default="bf16", help="of the training")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=int, default=160, help="cells of the test events along y and x")
    parser.add_argument("--starts", type=int, default=2, help="per test event")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--sampling-steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--train-only", action="store_true", help="score nothing")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"the real events are not in {options.data}: give their folder with --data")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    weights = train(options)
    if options.train_only:
        return
    through = autoencoder_table(weights, options)
    through.to_csv(options.out / "autoencoder.csv")
    print(through.round(3).to_string())
    sums, shown = added_up(weights, options)
    tables = {system: scores_of(of_system) for system, of_system in sums.items()}
    frame = pd.concat(tables, names=["system"])
    frame.to_csv(options.out / "learn_stldm.csv")
    print(frame[frame.index.get_level_values("minutes") % 15 == 0].round(3).to_string())
    ranks = rank_table(sums["members"])
    ranks.to_csv(options.out / "ranks.csv")
    print(ranks.loc[[5, 15, 30, 60]].round(3).to_string())
    figures(options, tables, ranks, shown)
    seam_table, maps = seams(weights, options)
    seam_table.to_csv(options.out / "seams.csv")
    print(seam_table.round(3).to_string())
    seam_figure(maps, options.out / "seams.png")


if __name__ == "__main__":
    main()
