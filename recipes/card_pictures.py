"""Draw a good and a bad case for each of the weights that ship, for the page of model cards, with their scores.

    python recipes/card_pictures.py                        # all; some minutes on one core
    python recipes/card_pictures.py lagrangian stldm       # some; then: python recipes/cards.py

Every weight is tried on a handful of cases that it did not learn from and whose truth is known: synthetic radar and
synthetic forecasts of seeds and winds that `pretrain.py` does not use, and, for single frames, NOAA MRMS (public
domain) at places where no tile of the training lies. The case with the highest value of one score, which `TRIALS`
names, is drawn as the good one, that with the lowest as the bad one; docs/cards/NAME.json holds the scores of all.
`evaluate.py` draws forecasts of the real test events.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import torch
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter

import xnowcast
from xnowcast import verify
from xnowcast.models import shipped

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "cards"
MRMS = "raw/mrms_grib2/PrecipRate_00.00_20190610-000000.grib2"
FRAMES, STEP = 5, 5  # frames that a forecast reads, minutes between them
LEADS = (15, 30, 60)  # minutes, of the pictures
CELLS = 128  # of single frames and of ensembles, along y and x
BAND = (4.0, 8.0)  # km, of power


@dataclass(frozen=True)
class Case:
    """Something to try a model on: what it is in words, what makes it easy or hard, and how it is made."""

    name: str
    data: str
    remark: str
    make: Callable[[argparse.Namespace], xr.DataArray]


@dataclass
class Outcome:
    """Of one case: scores to show, a sentence on what there is to see, and the picture, once it is asked for."""

    scores: dict[str, float]
    seen: str
    draw: Callable[[str], Image.Image] = field(repr=False)


@dataclass(frozen=True)
class Trial:
    """Cases of some weights, how one is judged, and the score that the good and the bad one are chosen by."""

    cases: tuple[Case, ...]
    judge: Callable[[str, Any], Outcome]
    score: str
    told: str = ""  # what more there is to know of the score, or of the choice of cases


# ---------------------------------------------------------------- pictures


def image(figure: Figure) -> Image.Image:
    """A figure as pixels."""
    with BytesIO() as file:
        figure.savefig(file, format="png", dpi=80)
        return Image.open(file).convert("RGB")


def stacked(*images: Image.Image) -> Image.Image:
    """Images below one another, on white."""
    whole = Image.new("RGB", (max(part.width for part in images), sum(part.height for part in images)), "white")
    top = 0
    for part in images:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def maps(fields: dict[str, xr.DataArray], title: str) -> Image.Image:
    """Maps of rain rate side by side, in km from the corner."""
    cmap, norm = xnowcast.plot.rain_colormap()
    figure = Figure(figsize=(2.5 * len(fields) + 1.0, 3.1), layout="constrained")
    axes = figure.subplots(1, len(fields), sharey=True)
    for axis, (name, rain) in zip(axes, fields.items(), strict=True):
        drawn = axis.imshow(rain.squeeze(), cmap=cmap, norm=norm, interpolation="nearest", extent=(0, CELLS, 0, CELLS))
        axis.set_title(name, fontsize=10)
        axis.set_xticks(range(0, CELLS, 50))
        axis.set_xlabel("x (km)", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel("y (km)", fontsize=9)
    figure.colorbar(drawn, ax=axes, label="rain rate (mm/h)", aspect=30, format="%g")
    figure.suptitle(title, fontsize=11)
    return image(figure)


# ---------------------------------------------------------------- forecasts


def sequence(cells: int, seed: int, **weather: Any) -> xr.Dataset:
    """Synthetic radar for an hour ahead of five frames."""
    frames = FRAMES + LEADS[-1] // STEP
    return xnowcast.datasets.synthetic_radar(
        frames=frames, shape=(cells, cells), seed=seed, coverage=False, **weather
    ).load()


def setting_in(cells: int, seed: int, **weather: Any) -> xr.Dataset:
    """Rain less an amount that falls from 6 mm/h to none: cores come first, out of dry air, and widen."""
    radar = sequence(cells, seed, **weather)
    missing = xr.DataArray(np.linspace(6.0, 0.0, radar.sizes["time"]), dims="time")
    rain = (radar.rainfall_rate - missing).clip(0).astype("f4")
    return radar.assign(rainfall_rate=rain.where(rain >= 0.1, 0).assign_attrs(radar.rainfall_rate.attrs))


WEATHER = (
    (
        "widespread rain",
        "Synthetic radar: widespread rain that drifts with one wind and changes slowly",
        "What moves without changing is what a nowcast can foresee.",
        sequence,
        {"seed": 101, "motion": (7.0, -5.0), "wet_fraction": 0.45, "convection": 0.1, "lifetime": "60min"},
    ),
    (
        "showers in rain",
        "Synthetic radar: showers embedded in rain, one wind",
        "Cells live for some ten to twenty minutes, the rain around them longer.",
        sequence,
        {"seed": 102, "motion": (10.0, 2.0), "convection": 0.5},
    ),
    (
        "turning rain",
        "Synthetic radar: rain that drifts and turns by 15 degrees an hour",
        "Motion differs from place to place.",
        sequence,
        {"seed": 103, "motion": (4.0, 6.0), "rotation": 15.0},
    ),
    (
        "sheared showers",
        "Synthetic radar: showers that cross the rain which they belong to at 9 m/s",
        "Rain moves in two ways at one place, and one motion field cannot follow both.",
        sequence,
        {"seed": 104, "motion": (-4.0, 8.0), "shear": (8.0, -5.0), "convection": 0.7},
    ),
    (
        "rapid growth",
        "Synthetic radar: rain that grows to four times its rate within an hour",
        "Growth goes on after the start, and the frames before tell little of it.",
        sequence,
        {"seed": 105, "motion": (8.0, -3.0), "growth": 1.4, "median_rain": 0.6},
    ),
    (
        "scattered showers",
        "Synthetic radar: scattered short-lived showers, six per cent of the area wet",
        "So short a life misleads the estimate of the motion (in truth 6 m/s to the north-east); cells come out of dry "
        "air.",
        sequence,
        {"seed": 106, "motion": (5.0, 3.0), "wet_fraction": 0.06, "convection": 1.0, "lifetime": "10min"},
    ),
    (
        "showers setting in",
        "Synthetic radar from which an amount was taken that falls to none: showers that set in out of dry air",
        "What has not begun to rain cannot be moved; no motion of rain tells where it will begin.",
        setting_in,
        {"seed": 107, "motion": (6.0, 4.0), "convection": 0.7},
    ),
)


def weather(cells: int) -> tuple[Case, ...]:
    return tuple(
        Case(
            name, f"{data} (seed {chosen['seed']}).", remark, lambda _, make=make, chosen=chosen: make(cells, **chosen)
        )
        for name, data, remark, make, chosen in WEATHER
    )


def after(forecast: xr.Dataset, radar: xr.Dataset, minutes: int) -> tuple[xr.DataArray, xr.DataArray]:
    """What was observed and what was forecast for a lead time, where the forecast knows."""
    said = forecast.rainfall_rate.isel(init_time=0).sel(lead_time=np.timedelta64(minutes, "m"))
    known = said.notnull() if "member" not in said.dims else said.notnull().all("member")
    observed = radar.rainfall_rate.sel(time=said.valid_time).where(known)
    clean = {"observed": observed.reset_coords(drop=True), "said": said.where(known).reset_coords(drop=True)}
    return clean["observed"], clean["said"]


def csi(observed: xr.DataArray, forecast: xr.DataArray, threshold: float) -> float:
    return float(verify.csi(verify.contingency_table(observed, forecast, thresholds=[threshold]))[0])


def area(observed: xr.DataArray, forecast: xr.DataArray, threshold: float) -> float:
    """Cells at or over a threshold, over those observed."""
    return float((forecast >= threshold).sum() / (observed >= threshold).sum())


def power(observed: xr.DataArray, forecast: xr.DataArray, band: tuple[float, float]) -> float:
    """Of the forecast over that of the observations, at these wavelengths in km."""
    members = "member" if "member" in forecast.dims else None
    sums = verify.spectrum_sums(observed, forecast, window="hann", dim=members)
    return float(verify.spectral_ratio(sums, bands=[band]).squeeze())


def forecast(name: str, radar: xr.Dataset, **options: Any) -> xr.Dataset:
    made = radar.isel(time=slice(FRAMES)).nowcast.forecast(
        name, lead_time=f"{LEADS[-1]}min", progress=False, device="cpu", **options
    )
    return made.load()


def lead_times() -> list[str]:
    return [f"{minutes}min" for minutes in LEADS]


CSI_30 = "CSI of 1 mm/h after 30 minutes"


def judge_forecast(name: str, radar: xr.Dataset) -> Outcome:
    made = forecast(name, radar)
    known = made.rainfall_rate.notnull()
    others = {other: forecast(other, radar).where(known) for other in ("extrapolation", "persistence")}
    scores = {CSI_30: csi(*after(made, radar, 30), 1.0)}
    scores |= {f"the same, {other}": csi(*after(said, radar, 30), 1.0) for other, said in others.items()}
    observed, said = after(made, radar, 60)
    scores |= {"CSI of 1 mm/h after 60 minutes": csi(observed, said, 1.0)}
    heavy, fine = area(observed, said, 5.0), power(observed, said, BAND)
    scores |= {"area of 5 mm/h over the observed, 60 minutes": heavy, "power at 4 to 8 km over the observed": fine}
    seen = (
        f"After an hour rain of 5 mm/h covers {heavy:.2f} times its observed area, and at 4 to 8 km the forecast has "
        f"{fine:.2f} of the observed power. After 30 minutes extrapolation has a CSI of "
        f"{scores['the same, extrapolation']:.2f}, persistence of {scores['the same, persistence']:.2f}."
    )
    return Outcome(scores, seen, lambda title: image(made.nowcast.plot(radar, lead_times=lead_times(), title=title)))


BRIER_30 = "Brier skill score of 1 mm/h after 30 minutes"
ABOUT_BRIER = "It is 0 for who says everywhere how often it rained so much in that case, and 1 is perfect."
CRPS, ERROR = "CRPS after 30 minutes (mm/h)", "mean absolute error, extrapolation (mm/h)"


def judge_ensemble(name: str, radar: xr.Dataset) -> Outcome:
    made = forecast(name, radar, members=8, seed=0)
    known = made.rainfall_rate.notnull().all("member")
    other = forecast("extrapolation", radar).where(known)
    observed, said = after(made, radar, 30)
    frequency = float((observed >= 1.0).where(observed.notnull()).mean())
    brier = float(verify.brier_score(observed, said, thresholds=[1.0])[0])
    spread = float(np.sqrt(said.var("member", ddof=1).mean()))
    error = float(np.sqrt(((said.mean("member") - observed) ** 2).mean()))
    scores = {
        BRIER_30: 1.0 - brier / (frequency * (1.0 - frequency)),
        CRPS: float(verify.crps_ensemble(observed, said, fair=True)),
        ERROR: float(verify.mae(*after(other, radar, 30))),
        "spread over error of the mean": spread / error,
        "power of members at 4 to 8 km over the observed": power(observed, said, BAND),
    }
    seen = (
        f"It rains 1 mm/h or more in {100 * frequency:.0f} % of the area after half an hour; members give that a mean "
        f"probability of {100 * float((said >= 1.0).where(said.notnull()).mean()):.0f} %. The CRPS is "
        f"{scores[CRPS]:.2f} mm/h, the mean absolute error of extrapolation {scores[ERROR]:.2f} mm/h. Outlined is "
        "where 1 mm/h came; below is one of the members."
    )

    def draw(title: str) -> Image.Image:
        chance = {"member": "probability", "threshold": 1.0, "lead_times": lead_times(), "title": title}
        one = {"member": 0, "lead_times": lead_times(), "title": ""}
        return stacked(image(made.nowcast.plot(radar, **chance)), image(made.nowcast.plot(**one)))

    return Outcome(scores, seen, draw)


# ---------------------------------------------------------------- single frames


@cache
def mosaic(path: Path) -> xr.DataArray:
    """Rain rates of the USA."""
    if not path.is_file():
        raise SystemExit(f"{path} is missing: it is mrms/2019/06/10/{path.name} of pysteps-data; give --data")
    return xnowcast.io.open_mrms(path).rainfall_rate.isel(time=0).load()


def unseen(options: argparse.Namespace, latitude: float, longitude: float) -> xr.DataArray:
    """MRMS around a place on cells of 1 km, as the tiles of the training were made: the nearest of its cells."""
    whole = mosaic(options.data / MRMS)
    plane = {"proj": "laea", "lat_0": latitude, "lon_0": longitude, "R": 6_371_000.0}
    metres = (np.arange(CELLS) - (CELLS - 1) / 2) * 1000.0
    east, north = np.meshgrid(metres, metres[::-1])
    lon, lat = pyproj.Proj(plane)(east, north, inverse=True)
    nearest = whole.sel(
        lat=xr.DataArray(lat, dims=("y", "x")), lon=xr.DataArray(lon, dims=("y", "x")), method="nearest"
    )
    return on_kilometres(nearest.fillna(0).values, metres)


def on_kilometres(rain: np.ndarray, metres: np.ndarray) -> xr.DataArray:
    about = {name: {"standard_name": f"projection_{name}_coordinate", "units": "m"} for name in ("y", "x")}
    coords = {"y": ("y", metres[::-1], about["y"]), "x": ("x", metres, about["x"])}
    attrs = {"standard_name": "rainfall_rate", "units": "mm h-1"}
    return xr.DataArray(rain.astype("f4"), coords, ("y", "x"), name="rainfall_rate", attrs=attrs)


def synthetic_frame(**weather: Any) -> xr.DataArray:
    radar = xnowcast.datasets.synthetic_radar(frames=1, shape=(CELLS, CELLS), coverage=False, **weather)
    return radar.rainfall_rate.isel(time=0, drop=True).reset_coords(drop=True).load()


def smooth(rain: xr.DataArray, cells: float) -> xr.DataArray:
    """A frame under a Gaussian of so many cells, as reflectivity and within nine cells, where drizzle is 0 dBZ."""
    decibel = np.clip(10.0 * np.log10(200.0 * np.maximum(rain.values, 1e-3) ** 1.6), 0.0, None)
    again = gaussian_filter(decibel, cells, radius=max(4, round(2 * cells)))
    rate = (10.0 ** (again / 10.0) / 200.0) ** (1 / 1.6)
    return rain.copy(data=np.where(again > 0.05, rate, 0.0).astype("f4"))


PLACES = (
    (
        "Florida",
        28.3,
        -81.9,
        "storms over Florida",
        "Heavy cells side by side: what is averaged away is as large as they are.",
    ),
    (
        "Bahamas",
        27.5,
        -78.2,
        "storms and rain near the Bahamas",
        "Its rain is rough from one cell to the next, of which averages keep no trace.",
    ),
    ("Lake Huron", 45.4, -83.9, "widespread rain over Lake Huron", "Rain without cores: what is fine in it is weak."),
    (
        "Lake Michigan",
        43.6,
        -85.8,
        "a band of rain over Lake Michigan",
        "Its cores of a few km show in averages, where they are if not how strong.",
    ),
    ("Gulf", 27.5, -84.6, "scattered showers over the Gulf of Mexico", "Small showers, of which averages keep little."),
)


def frames(*further: Case) -> tuple[Case, ...]:
    """Of MRMS by place, and further ones."""
    told = (
        "NOAA MRMS, 10 June 2019 00:00 UTC, {}: the hour of the training's tiles, but a place where none of them lies."
    )
    known = tuple(
        Case(name, told.format(what), remark, lambda options, at=(lat, lon): unseen(options, *at))
        for name, lat, lon, what, remark in PLACES
    )
    return known + further


SMOOTH_COMPOSITE = Case(
    "smooth composite",
    "The rain over Lake Huron again, smoothed with a Gaussian of 1 km: that is the truth now, smooth as composites "
    "are that interpolate.",
    "Neither a blurred nor a coarse field tells well how smooth its composite is.",
    lambda options: smooth(unseen(options, 45.4, -83.9), 1.0),
)
SYNTHETIC_SHOWERS = Case(
    "synthetic showers",
    "Synthetic radar: showers (seed 202).",
    "Small cells lose most of what they are when they are averaged, and nothing beside them tells more.",
    lambda _: synthetic_frame(seed=202, wet_fraction=0.25, convection=0.9),
)
DETAIL = "match of power"
ABOUT_DETAIL = (
    "It is the power over the truth's, or its inverse where there is more than in the truth, at 2 to 4 or 4 to 8 km, "
    "whichever is lower; 1 is right."
)


def powers(truth: xr.DataArray, made: xr.DataArray) -> list[float]:
    return [power(truth, made, band) for band in ((2.0, 4.0), BAND)]


def match(ratios: list[float]) -> float:
    return min(min(ratio, 1.0 / ratio) for ratio in ratios)


def in_words(ratios: list[float]) -> str:
    """Of power over that of the truth: what is furthest from it."""
    furthest = max(ratios, key=lambda ratio: abs(np.log(ratio)))
    if furthest > 1.4:
        return "grain, detail that is not there"
    return "too smooth" if furthest < 0.7 else "about as rough as the truth"


def judge_sharpening(name: str, truth: xr.DataArray) -> Outcome:
    blurred = smooth(truth, 2.0)
    sharp = blurred.nowcast.deblur(name, seed=0, progress=False, device="cpu").load()
    heavy = float(truth.quantile(0.99))
    before, now = powers(truth, blurred), powers(truth, sharp)
    scores = {
        DETAIL: match(now),
        "power at 2-4 km, sharpened": now[0],
        "at 4-8 km": now[1],
        "at 4-8 km, blurred": before[1],
        "CSI of the heaviest hundredth, sharpened": csi(truth, sharp, heavy),
        "CSI, blurred": csi(truth, blurred, heavy),
    }
    seen = (
        f"At 2 to 4 km the sharpened frame has {now[0]:.2f} times the truth's power, at 4 to 8 km {now[1]:.2f}, where "
        f"the blurred one has {before[1]:.2f}: {in_words(now)}. "
        f"Their largest rain rates are {float(sharp.max()):.0f} and {float(blurred.max()):.0f} mm/h, the truth's is "
        f"{float(truth.max()):.0f}."
    )
    shown = {"blurred (2 km)": blurred, "sharpened": sharp, "before it was blurred": truth}
    return Outcome(scores, seen, lambda title: maps(shown, title))


def judge_refinement(name: str, truth: xr.DataArray) -> Outcome:
    factor = xnowcast.card(name).task.factor
    coarse = truth.nowcast.coarsen(factor)
    common = {"factor": factor, "conserve": True, "progress": False, "device": "cpu"}
    members = coarse.nowcast.downscale(name, members=4, seed=0, **common).load()
    bicubic = coarse.nowcast.downscale("bicubic", **common).load()
    crps, error = float(verify.crps_ensemble(truth, members, fair=True)), float(verify.mae(truth, bicubic))
    fine, plain = powers(truth, members), powers(truth, bicubic)
    scores = {
        DETAIL: match(fine),
        "power at 2-4 km, members": fine[0],
        "at 4-8 km": fine[1],
        "at 4-8 km, bicubic": plain[1],
        "CRPS of four members (mm/h)": crps,
        "mean absolute error, bicubic (mm/h)": error,
    }
    seen = (
        f"At 2 to 4 km a member has {fine[0]:.2f} times the truth's power, at 4 to 8 km {fine[1]:.2f}, where bicubic "
        f"interpolation has {plain[1]:.2f}: {in_words(fine)}. The largest rain rate of this member is "
        f"{float(members.sel(member=0).max()):.0f} mm/h, the truth's {float(truth.max()):.0f}."
    )
    blocks = coarse.nowcast.downscale("nearest", factor=factor)
    shown = {f"given, {factor} km": blocks, "bicubic": bicubic, "member 0": members.sel(member=0), "truth": truth}
    return Outcome(scores, seen, lambda title: maps(shown, title))


# ---------------------------------------------------------------- classes of rain

RUNS, HEAVY_CELLS = 8, 100
ABOUT_RUNS = f"Of {RUNS} runs those are taken that have {HEAVY_CELLS} cells of heavy rain or more."


def runs() -> tuple[Case, ...]:
    """Runs of a synthetic forecast."""
    told = "Synthetic forecast and the rain that fell (seed 3, run {}), six hours of 64 x 64 cells of 5 km."
    remark = "No field tells the cells of some 20 km in the true rain, nor all of the displacement of the forecast's."
    return tuple(Case(f"run {run}", told.format(run), remark, lambda _, run=run: one_run(run)) for run in range(RUNS))


def one_run(run: int) -> xr.Dataset | None:
    """Fields of a forecast beside the rain that fell; none where it hardly rained heavily, which has no score."""
    nwp, observed = xnowcast.datasets.synthetic_nwp(runs=RUNS, seed=3)
    pairs = xnowcast.pair(nwp, observed).isel(init_time=[run]).load()
    return pairs if int((pairs.observed_rain >= 10).sum()) >= HEAVY_CELLS else None


CSI_10 = "CSI of 10 mm/h"


def judge_classes(name: str, pairs: xr.Dataset) -> Outcome:
    made = pairs.nowcast.postprocess(name, progress=False, device="cpu").load()
    own = pairs.nowcast.postprocess("nwp-raw", progress=False).load()
    classes = sum((pairs.observed_rain >= rate).astype("f4") for rate in made.threshold.values)
    tables = [verify.contingency_table(classes, of.rain_category, thresholds=[1.0, 2.0]) for of in (made, own)]
    (rain, heavy), (own_rain, own_heavy) = (verify.csi(table).values.tolist() for table in tables)
    scores = {
        CSI_10: heavy,
        "CSI of 10 mm/h, the forecast's own rain": own_heavy,
        "CSI of 0.1 mm/h": rain,
        "CSI of 0.1 mm/h, the forecast's own rain": own_rain,
    }
    called, came, own_called = made.rain_category >= 2, classes >= 2, own.rain_category >= 2
    seen = (
        f"Of the {int(came.sum())} cells where heavy rain fell (10 mm/h, all six hours) {int((called & came).sum())} "
        f"were called heavy and {int((~called & came).sum())} missed, and {int((called & ~came).sum())} others were "
        f"called heavy; the forecast's own rain found {int((own_called & came).sum())}."
    )
    observed = pairs.observed_rain.isel(init_time=0).swap_dims(lead_time="time")
    hours = [f"{int(lead / np.timedelta64(1, 'h'))}h" for lead in made.lead_time.values[[0, 2, 5]]]

    def draw(title: str) -> Image.Image:
        options = {"variable": "rain_category", "lead_times": hours}
        lower = own.nowcast.plot(title="", **options)
        lower.axes[0].set_ylabel("the forecast's own rain\ny (km)", fontsize=9)
        return stacked(image(made.nowcast.plot(observed, title=title, **options)), image(lower))

    return Outcome(scores, seen, draw)


# ---------------------------------------------------------------- all weights

TRIALS = {
    "lagrangian": Trial(weather(192), judge_forecast, CSI_30),
    "stldm": Trial(weather(CELLS), judge_ensemble, BRIER_30, ABOUT_BRIER),
    "postcast": Trial(frames(SMOOTH_COMPOSITE, SYNTHETIC_SHOWERS), judge_sharpening, DETAIL, ABOUT_DETAIL),
    "stvd-4": Trial(frames(SMOOTH_COMPOSITE, SYNTHETIC_SHOWERS), judge_refinement, DETAIL, ABOUT_DETAIL),
    "stvd-8": Trial(frames(SMOOTH_COMPOSITE, SYNTHETIC_SHOWERS), judge_refinement, DETAIL, ABOUT_DETAIL),
    "nwp-mae": Trial(runs(), judge_classes, CSI_10, ABOUT_RUNS),
    "nwp-metnet": Trial(runs(), judge_classes, CSI_10, ABOUT_RUNS),
}


def try_out(name: str, options: argparse.Namespace) -> None:
    """Judge all cases of some weights, draw the good and the bad one, and write the scores of all."""
    trial, found = TRIALS[name], {}
    for case in trial.cases:
        data = case.make(options)
        if data is None:
            continue
        found[case.name] = trial.judge(name, data)
        print(
            f"{name}, {case.name}: " + ", ".join(f"{k} {v:.3f}" for k, v in found[case.name].scores.items()), flush=True
        )
    ranked = sorted(found, key=lambda case: found[case].scores[trial.score])
    shown = {ranked[-1]: "good", ranked[0]: "bad"}
    for case, kind in shown.items():
        path = options.out / f"{name}-{kind}.png"
        picture = found[case].draw(f"{name}, the {kind} case: {case}")
        picture.quantize(128).save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", flush=True)
    told = [
        {"name": case.name, "shown": shown.get(case.name, ""), "data": case.data, "remark": case.remark}
        | {"seen": found[case.name].seen, "scores": {k: round(v, 4) for k, v in found[case.name].scores.items()}}
        for case in trial.cases
        if case.name in found
    ]
    about = {"score": trial.score, "told": trial.told, "sha256": xnowcast.card(name).sha256, "cases": told}
    (options.out / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TRIALS)}; all by default")
    parser.add_argument("--data", type=Path, default=beside, help=f"folder with {MRMS}, for single frames")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(TRIALS))
    if unknown:
        parser.error(f"no cases for {', '.join(unknown)}; there are some for {', '.join(TRIALS)}")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or [name for name in TRIALS if name in shipped.names()]:
        try_out(name, options)


if __name__ == "__main__":
    main()
