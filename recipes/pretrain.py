"""Train the weights that ship, as they were trained.

    OMP_NUM_THREADS=1 python recipes/pretrain.py lagrangian       # one CPU core
    python recipes/pretrain.py stvd-4 --data ../shared/data --out runs/pretrained
    python recipes/pack.py packed; sh recipes/gpu_minutes.sh packed runs/pretrained     # on a GPU lent for minutes

A run that was stopped is resumed. OUT/NAME holds the run; --ship FOLDER writes its weights with their card to
FOLDER/NAME.safetensors, as they lie in xnowcast/pretrained. Trained on: radar of Finland and the Netherlands, American
tiles (MRMS), and synthetic radar. Never on the events of Switzerland and Belgium, which `evaluate.py` tests on.
"""

import argparse
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter

import xnowcast
from xnowcast import verify

TRAINING = ("fmi_20160928_crop512", "knmi_20100826_crop384")
TILES = "mrms_20190610_tiles"
TESTING = ("mch_20150515_crop", "mch_20160711", "rmi_20210704_crop512")
WINDS = ((6.0, 4.0), (-9.0, 3.0), (2.0, -12.0), (12.0, 8.0))  # m/s, of the synthetic sequences


def synthetic(frames: int = 60, shape: tuple[int, int] = (256, 256)) -> list[xr.Dataset]:
    """Four sequences of five minutes, each with a wind of its own."""
    return [
        xnowcast.datasets.synthetic_radar(frames=frames, shape=shape, seed=seed, motion=wind, coverage=False)
        for seed, wind in enumerate(WINDS)
    ]


def radar(folder: Path, every: int = 1) -> list[xr.DataArray]:
    """Rain rates of the events to learn from, every so many frames."""
    return [
        xnowcast.rain_rate(xr.open_dataset(folder / f"{name}.nc")).isel(time=slice(None, None, every))
        for name in TRAINING
    ]


def tiles(folder: Path, every: int = 1) -> xr.DataArray:
    """Rain rates of the American tiles, ``(tile, time, y, x)``; they are two minutes apart."""
    return xnowcast.rain_rate(xr.open_dataset(folder / f"{TILES}.nc")).isel(time=slice(None, None, every))


def sequences(folder: Path) -> list[Any]:
    """Rain that moves: every step and grid spacing that a forecast is to be made for, most of it 5 minutes and 1 km."""
    slower = [*radar(folder, every=2), radar(folder, every=3)[1]]  # the Finnish event is too short for a third
    coarser = [event.nowcast.coarsen(factor) for factor in (2, 4) for event in radar(folder)]
    return [*radar(folder), *synthetic(), tiles(folder, every=2), *slower, *coarser]


def lagrangian(options: Any) -> Any:
    """A DB-ConvLSTM in the frame that moves with the rain, stage by stage; about 0.6 s a step on one core.

    First the network that forecasts, an MS-ConvLSTM, in two runs, then the one that deblurs, with its adversary.
    """
    data, start, model = sequences(options.data), None, None
    for stage, steps, learning_rate, network in LAGRANGIAN_STAGES:
        out = options.out if stage == "deblurring" else options.out / stage
        steps = options.steps or steps
        further = DEBLURRING | LAGRANGIAN_RUNNING if stage == "deblurring" else {}
        model = xnowcast.train(
            "lagrangian",
            data,
            out=out,
            start=start,
            resume=True,
            mixed=True,
            steps=steps,
            crop=96,
            learning_rate=learning_rate,
            warmup=min(100, steps // 10),
            clip=1.0,
            ema={"first": 0.0, "second": 0.998, "deblurring": 0.99}[stage],
            precision="bf16",
            validate_every=min(350, steps),
            validation_crops=32,
            **at_once(options, 2),
            network=network,
            width=12,
            target_frames=12,
            emphasis=20.0,
            absolute_error=0.0,
            **further,
        )
        start = out / "model.safetensors"
    return model


LAGRANGIAN_STAGES = (
    ("first", 4000, 3e-3, "ms-convlstm"),
    ("second", 3500, 2e-3, "ms-convlstm"),
    ("deblurring", 700, 2e-3, "db-convlstm"),
)
"""What is trained, for how many steps, at which rate, in which network."""
DEBLURRING = {"network_options": {"staged": "deblurring", "adversarial_weight": 20.0}, "keep": "last"}
"""What the last stage is told besides."""
LAGRANGIAN_RUNNING = {"probability_matching": True, "cascade": 0.3, "deblurred": False}
"""How it forecasts unless it is asked otherwise."""


MEMBERS_TRAINING = (
    *("fmi_20160928_crop512", "knmi_20100826_crop384"),
    *("it_dpc_nw_20250416", "it_dpc_sard_20250416", "it_dpc_south_20250416"),
    *("ca_cascm_20240711_b", "ca_casmb_20240711_c"),
)
"""Events that the members learn from, each about as often as the others."""

CHOOSING = ("de_dx_tur_20080602", "de_dx_fbg_20080602")
"""Events that the best weights of the members are chosen on; with those of France and `de_ry` also their options."""


def members_data(folder: Path) -> list[Any]:
    """Events as they are, brighter, fainter, coarser and slower: a network should believe no radar's calibration."""
    events = {name: xnowcast.rain_rate(xr.open_dataset(folder / f"{name}.nc")) for name in MEMBERS_TRAINING}
    finland, netherlands, north_west, sardinia, *_ = events.values()
    with xr.set_options(keep_attrs=True):
        brighter = [event * 1.6 for event in (finland, finland, north_west)]
        fainter = [event * 0.6 for event in (finland, netherlands, sardinia)]
    coarser = [event.nowcast.coarsen(2) for event in (finland, netherlands, north_west, sardinia)]
    slower = [event.isel(time=slice(None, None, 2)) for event in (finland, netherlands)]
    fast = tiles(folder).isel(tile=slice(None, None, 8))
    american = [tiles(folder, every=2), fast]
    return [*events.values(), *brighter, *fainter, *coarser, *slower, *american, *synthetic()[:2]]


def members(options: Any) -> Any:
    """An MS-ConvLSTM with members on squares of 2 x 2 cells, in the frame that moves with the rain; 0.9 s a step."""
    return on_squares(options, 6000, 2, network="crps-rnn", motion_noise=0.3)


def light(options: Any) -> Any:
    """An MS-ConvLSTM on squares of 2 x 2 cells, a quarter of the cost, in the frame that moves; 1.4 s a step."""
    own = {"emphasis": 20.0, "absolute_error": 0.0, "probability_matching": True, "cascade": 0.3}
    return on_squares(options, 2600, 4, network="ms-convlstm", **own)


def on_squares(options: Any, steps: int, batch_size: int, **own: Any) -> Any:
    """A network of the layer, with options of its own, on squares of cells; it learns from the events of members."""
    steps = options.steps or steps
    return xnowcast.train(
        "lagrangian",
        members_data(options.data),
        validation=[xnowcast.rain_rate(xr.open_dataset(options.data / f"{name}.nc")) for name in CHOOSING],
        out=options.out,
        resume=True,
        mixed=True,
        steps=steps,
        crop=96,
        learning_rate=2e-3,
        warmup=min(100, steps // 10),
        optimizer="adamw",
        weight_decay=0.01,
        clip=1.0,
        ema=0.998,
        precision="bf16",
        validate_every=min(300, steps),
        validation_crops=48,
        **at_once(options, batch_size),
        width=24,
        patch=2,
        target_frames=12,
        **own,
    )


def softened(rain: xr.DataArray, cells: float = 1.0) -> xr.DataArray:
    """Rain smoothed with a Gaussian of so many cells, as composites are that interpolate; NaN stays, drizzle is cut."""
    sigma = [cells if dim in rain.dims[-2:] else 0.0 for dim in rain.dims]
    values, known = rain.values, np.isfinite(rain.values)
    sums, shares = (gaussian_filter(part.astype("f4"), sigma) for part in (np.where(known, values, 0), known))
    smooth = sums / np.maximum(shares, 1e-3)
    return rain.copy(data=np.where(known, np.where(smooth < 0.1, 0, smooth), np.nan).astype("f4"))


def single_frames(folder: Path) -> list[Any]:
    """About as many American frames as European ones, and a few synthetic ones, for models of single frames."""
    finland, netherlands = radar(folder)
    return [tiles(folder, every=6), *[finland] * 4, *[netherlands] * 2, *synthetic(frames=15)]


def italy(folder: Path) -> list[xr.DataArray]:
    """Rain rates of three of the four Italian regions."""
    return [
        xnowcast.rain_rate(xr.open_dataset(folder / f"it_dpc_{region}_20250416.nc"))
        for region in ("nw", "sard", "south")
    ]


def postcast(options: Any) -> Any:
    """The prior of sharp frames; 0.6 s a step on one core."""
    steps = options.steps or 6000
    return xnowcast.train(
        "postcast",
        [*single_frames(options.data), *italy(options.data)],
        out=options.out,
        resume=True,
        steps=steps,
        crop=64,
        learning_rate=6e-4,
        optimizer="adamw",
        warmup=min(300, steps // 10),
        clip=1.0,
        ema=0.999,
        precision="bf16",
        rain_preference=0.5,
        validate_every=min(250, steps),
        validation_crops=64,
        **at_once(options, 8),
        size="small",
        sampling_steps=50,
    )


def stvd_4(options: Any) -> Any:
    """4 km to 1 km; 0.55 s a step on one core."""
    return _stvd(options, factor=4, steps=600, crop=64, batch_size=4)


def stvd_8(options: Any) -> Any:
    """8 km to 1 km; 0.65 s a step on one core."""
    return _stvd(options, factor=8, steps=450, crop=80, batch_size=3)


def _stvd(options: Any, factor: int, steps: int, crop: int, batch_size: int) -> Any:
    """Half of the real frames as they are, half softened: the coarse rain has to tell how smooth the fine one is."""
    finland, netherlands = (softened(event) for event in radar(options.data))
    soft = [softened(tiles(options.data, every=9)), finland, finland, netherlands]
    steps = options.steps or steps
    return xnowcast.train(
        "stvd",
        [*single_frames(options.data), *soft],
        out=options.out,
        resume=True,
        steps=steps,
        crop=crop,
        learning_rate=1e-3,
        warmup=min(30, steps // 10),
        clip=1.0,
        ema=0.99,
        keep="last",
        validate_every=100,
        validation_crops=64,
        **at_once(options, batch_size),
        size="light",
        factor=factor,
        frames=1,
        eps=0.1,
        aux_mse_weight=1.0,
        sampler="dpm++2m",
        sampling_steps=6,
    )


def stldm(options: Any, **denoiser: Any) -> Any:
    """The small STLDM in the frame that moves with the rain, part by part; 0.25, 0.4 and 0.75 s a step on one core.

    ``denoiser``: options of the last part. The parts before it are those of OUT/stldm, whatever is trained over them.
    """
    data, start, model = [*radar(options.data), tiles(options.data, every=2), *synthetic()], None, None
    before = options.out.with_name("stldm")
    for strategy, steps, crop, learning_rate in STLDM_STAGES:
        moving = strategy != "autoencoder"
        network = {"strategy": strategy, "diffusion_weight": "one", "condition_dropout": 0.0, "residual": True}
        running = STLDM_RUNNING | denoiser if strategy == "A" else {}
        model = xnowcast.train(
            "lagrangian" if moving else "stldm",
            data,
            out=options.out if strategy == "A" else before / strategy,
            start=start,
            resume=True,
            mixed=True,
            steps=options.steps or steps,
            crop=crop,
            learning_rate=learning_rate,
            warmup=(options.steps or steps) // 16,
            optimizer="adamw",
            clip=1.0,
            ema=0.99,
            keep="last",
            precision="bf16",
            rain_preference=0.3 if strategy == "autoencoder" else 0.6,
            validation_crops=8,
            **at_once(options, 2),
            size="small",
            model_options=({"network": "stldm"} if moving else {}) | network | running,
        )
        start = before / strategy / "model.safetensors"
    return model


def stldm_flow(options: Any) -> Any:
    """The same with flow matching as the objective of the denoiser; as long, and with as many steps of the sampler."""
    return stldm(options, objective="flow")


STLDM_STAGES = (("autoencoder", 1600, 64, 3e-3), ("translator", 500, 96, 2e-3), ("A", 420, 96, 2e-3))
"""What is trained, for how many steps, on crops of how many cells, at which rate."""
STLDM_RUNNING = {
    "guidance": 0.0,
    "sampling_steps": 5,
    "precision": "auto",
    "motion_noise": 0.6,
    "inflation": 1.85,
    "probability_matching": 0.5,
    "cascade": 0.3,
    "tile": 256,
}
"""How members are made unless they are asked for otherwise; precision is an argument of the training too."""


NWP_DATA = (
    "synthetic forecasts and the rain that fell (xnowcast.datasets.synthetic_nwp): a demonstration, train on your own "
    "pairs"
)
"""For the cards of both post-processors, whose scores are those of `nwp_scores`."""
NWP_SETTINGS = {
    "variable": "observed_rain",
    "class_weights": [1.0, 1.5, 1.5],  # the paper's 1, 5, 10 call heavy rain seven times as often as it falls
    "validation": 0.0,
    "keep": "last",
    "augment": False,
    "crop": 64,
    "batch_size": 8,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "pictures_every": 0,
    "resume": True,
}


def nwp_mae(options: Any) -> Any:
    """NWP-MAE of size "tiny", whose encoder learns on after pre-training; six minutes on a core."""
    pairs, encoder = nwp_pairs(runs=120, seed=1), options.out / "encoder"
    masked = {"phase": "pretraining", "learning_rate": 1.6e-3, "weight_decay": 0.05, "betas": (0.9, 0.95), "clip": 1.0}
    xnowcast.train("nwp-mae", pairs, out=encoder, size="tiny", **nwp_learning(options, 3000) | masked)
    learning = nwp_learning(options, 700) | {"start": encoder / "model.safetensors", "encoder": "tuned"}
    return xnowcast.train("nwp-mae", pairs, out=options.out, size="tiny", **learning)


def nwp_metnet(options: Any) -> Any:
    """The MetNet of size "small"; six minutes on a core."""
    pairs, learning = nwp_pairs(runs=160, seed=1), nwp_learning(options, 2000)
    return xnowcast.train("nwp-metnet", pairs, out=options.out, size="small", **learning)


def nwp_learning(options: Any, steps: int) -> dict[str, Any]:
    """Arguments of the training; a tenth of the steps is the warm-up."""
    steps = options.steps or steps
    return {"steps": steps, "warmup": steps // 10, "device": options.device} | NWP_SETTINGS


def nwp_pairs(runs: int, seed: int) -> xr.Dataset:
    """Fields of a synthetic forecast and the rain that fell, six lead times a run."""
    nwp, observed = xnowcast.datasets.synthetic_nwp(runs=runs, seed=seed)
    return xnowcast.pair(nwp, observed).compute()


def nwp_scores(model: Any) -> dict[str, float]:
    """CSI of the classes that are forecast, and of the classes of the forecast's own rain, on another seed."""
    pairs, scores = nwp_pairs(runs=40, seed=2), {}
    for whose, system in (("", model), (" of the forecast's own rain", "nwp-raw")):
        result = pairs.nowcast.postprocess(system, progress=False)
        observed = sum((pairs.observed_rain >= r).astype("f4") for r in result.threshold.values)
        table = verify.contingency_table(
            observed.where(pairs.observed_rain.notnull()), result.rain_category, thresholds=[1.0, 2.0]
        )
        csi = verify.csi(table).values
        scores |= {f"CSI {r:g} mm/h{whose}": float(c) for r, c in zip(result.threshold.values, csi, strict=True)}
    return scores


# ---------------------------------------------------------------- what ships

RADAR_DATA = (
    "MRMS 2019-06-10 (NOAA, public domain), Finland 2016-09-28 (FMI) and the Netherlands 2010-08-26 (KNMI) through "
    "pysteps-data, synthetic radar"
)
ITALY = "Italy 2025-04-16 (Dipartimento della Protezione Civile, CC BY-SA 4.0)"
RECIPES = {
    "lagrangian": lagrangian,
    "light": light,
    "members": members,
    "stldm": stldm,
    "stldm-flow": stldm_flow,
    "postcast": postcast,
    "stvd-4": stvd_4,
    "stvd-8": stvd_8,
    "nwp-mae": nwp_mae,
    "nwp-metnet": nwp_metnet,
}


def at_once(options: Any, batch_size: int) -> dict[str, Any]:
    """Settings that depend on the machine: a GPU takes many of the batches of a CPU at once."""
    batch_size *= options.batches
    return {"batch_size": batch_size, "device": options.device, "workers": options.workers, "cache_gib": 4.0}


def stop_after(minutes: float) -> None:
    """Interrupt the training as Ctrl-C does, so that its checkpoint is written and the next call goes on."""
    timer = threading.Timer(60.0 * minutes, signal.raise_signal, [signal.SIGINT])
    timer.daemon = True
    timer.start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--data", type=Path, default=beside, help="folder with the events as CF NetCDF")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained"))
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batches", type=int, default=1, help="of the recipe that a step has at once, for a GPU")
    parser.add_argument("--workers", type=int, default=0, help="threads that read samples ahead")
    parser.add_argument("--minutes", type=float, help="after which it stops, to go on with the next call")
    parser.add_argument("--ship", type=Path, metavar="FOLDER", help="write the weights with their card there")
    options = parser.parse_args()
    synthetic_alone = options.name.startswith("nwp-")
    if not synthetic_alone and not options.data.is_dir():
        raise SystemExit(f"the real events are not in {options.data}: give their folder with --data")
    options.out = options.out / options.name
    if options.minutes:
        stop_after(options.minutes)
    try:
        model = RECIPES[options.name](options)
    except KeyboardInterrupt as stopped:
        raise SystemExit(str(stopped) or "interrupted") from None
    if options.ship:
        card = xnowcast.weights.slim(
            options.out / "model.safetensors",
            options.ship / f"{options.name}.safetensors",
            training_data=NWP_DATA
            if synthetic_alone
            else RADAR_DATA + (f", {ITALY}" if options.name == "postcast" else ""),
            licence="Apache-2.0",
            scores=nwp_scores(model) if synthetic_alone else model.card.scores,
        )
        print(card)


if __name__ == "__main__":
    main()
