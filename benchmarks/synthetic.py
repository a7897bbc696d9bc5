"""How real the synthetic radar is: the same figures of synthetic sequences and of real events, side by side.

    OMP_NUM_THREADS=1 python benchmarks/synthetic.py [--data ../shared/data] [--starts 6]
    python benchmarks/synthetic.py --option rotation=6 --option "shear=(5,0)"   # beside the defaults of synthetic_radar

Everything is measured on the middle 384 x 384 km, spectra on the middle 256. What grows and decays is looked at in the
frame that moves with the rain (`xnowcast.nn.moving_frame`), along the motion that a forecaster would have found in the
frames up to the start. A figure is the mean of its starts; the table has the smallest and the largest of the seeds.
"""

import argparse
import ast
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from scipy.ndimage import gaussian_filter, maximum_filter

import xnowcast
from xnowcast.nn.moving_frame import motion_of, onto_newest
from xnowcast.nn.optical_flow import dense_flow

EVENTS = {
    "Finland 2016": "fmi_20160928_crop512",
    "Netherlands 2010": "knmi_20100826_crop384",
    "Belgium 2021": "rmi_20210704_crop512",
    "Switzerland 2015": "mch_20150515_crop",
    "Switzerland 2016": "mch_20160711",
}
TILES = "mrms_20190610_tiles"
SEEDS = (0, 1, 2, 3)
SIZE, SPECTRUM = 384, 256  # cells of 1 km
STEP = 10  # minutes between the frames that are followed
AHEAD = 6  # of these steps
WINDOW = 16.0  # cells, of the motion, as extrapolation has it
HEAVY = 5.0  # mm/h
NEAR = 9  # cells along y and x within which heavy rain is the same


def real(folder):
    """Events as lists of sequences: rain rate ``(time, y, x)`` and minutes between frames."""
    for name, file in EVENTS.items():
        rain = xnowcast.rain_rate(xr.open_dataset(folder / f"{file}.nc"))
        yield name, [(middle(rain.load().values, SIZE), minutes_of(rain))]
    rain = xnowcast.rain_rate(xr.open_dataset(folder / f"{TILES}.nc"))
    chosen = rain.isel(tile=np.linspace(0, rain.sizes["tile"] - 1, 8).round().astype(int)).load()
    yield "USA 2019", [(chosen.values[number], minutes_of(rain)) for number in range(8)]


def made(seed, options):
    arguments = {"frames": 40, "shape": (512, 512), "coverage": False} | options
    rain = xnowcast.datasets.synthetic_radar(seed=seed, **arguments).rainfall_rate
    return [(middle(rain.values, SIZE), minutes_of(rain))]


def minutes_of(rain):
    return float(np.median(np.diff(rain.time.values)) / np.timedelta64(60, "s"))


def middle(rain, size):
    rows, columns = (slice(max(0, (n - size) // 2), (n + size) // 2) for n in rain.shape[-2:])
    return rain[..., rows, columns]


def decibel(rain):
    return 10.0 * np.log10(np.maximum(rain, 0.1))


def share(part, whole):
    return float(part.sum() / whole.sum()) if whole.any() else np.nan


def mean(values):
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan


# ---------------------------------------------------------------- single frames


def of_rates(rain):
    """How much it rains, and where it rains how hard."""
    seen = rain[np.isfinite(rain)]
    wet = seen[seen >= 0.1]
    areas = {f"area of {rate:g} mm/h or more, %": 100 * (seen >= rate).mean() for rate in (0.1, 1, 5)}
    quantiles = np.quantile(wet, (0.5, 0.9, 0.99, 0.999))
    named = zip(("median", "90 %", "99 %", "99.9 %"), quantiles, strict=True)
    return areas | {f"wet rain, {name}, mm/h": value for name, value in named}


def of_spectrum(rain):
    """Slopes of the power spectrum of rain in dB against wavenumber."""
    field = decibel(np.nan_to_num(middle(rain, SPECTRUM)))
    n = field.shape[-1]
    window = np.hanning(n)[:, None] * np.hanning(n)
    power = (np.abs(np.fft.fft2((field - field.mean((1, 2), keepdims=True)) * window)) ** 2).mean(0)
    ring = np.rint(np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)) * n).astype(int).ravel()
    density = np.bincount(ring, power.ravel()) / np.bincount(ring)
    slopes = {}
    for long, short in ((64, 16), (32, 8), (16, 4)):
        band = np.arange(n // long, n // short + 1)
        slopes[f"spectral slope, {long} to {short} km"] = np.polyfit(np.log(band), np.log(density[band]), 1)[0]
    return slopes


# ---------------------------------------------------------------- motion


def of_motion(rain, minutes, starts):
    """Speed of the rain, how much it differs within a field, between scales and after half an hour, m/s."""
    speed, within, between, later = [], [], [], []
    for start in starts:
        motion, weight = flow(rain, minutes, start), np.nan_to_num(rain[start]) >= 0.1
        overall = motion[:, weight].mean(1)
        speed.append(np.hypot(*overall))
        within.append(np.sqrt(((motion[:, weight] - overall[:, None]) ** 2).sum(0).mean()))
        small, large = (flow(rain, minutes, start, part)[:, weight].mean(1) for part in (fine, coarse))
        between.append(np.hypot(*(small - large)))
        ahead = start + round(30 / minutes)
        if ahead < len(rain):
            now = np.nan_to_num(rain[ahead]) >= 0.1
            later.append(np.hypot(*(flow(rain, minutes, ahead)[:, now].mean(1) - overall)))
    return {
        "speed, m/s": np.mean(speed),
        "motion within a field, spread, m/s": np.mean(within),
        "motion of features under 16 km against larger ones, m/s": np.mean(between),
        "change of the mean motion in 30 min, m/s": np.mean(later),
    }


def flow(rain, minutes, start, part=None):
    """Motion in m/s, from four frames 4 or 5 minutes apart up to the start. -> (2, y, x)"""
    every = max(1, round(4.5 / minutes))
    frames = torch.from_numpy(rain[start - 3 * every : start + 1 : every])[None]
    seen = torch.isfinite(frames)
    if part is None:
        motion = motion_of(frames.nan_to_num(0.0), seen, window=WINDOW)
    else:
        bands = np.stack([part(decibel(np.nan_to_num(frame))) for frame in frames[0].numpy()])
        motion = dense_flow(torch.from_numpy(bands)[None].float(), seen, window=WINDOW)
    return motion[0].numpy() * 1000.0 / (60.0 * minutes * every)


def coarse(field):
    return gaussian_filter(field, 16 / 7.55)  # half of the power is left at a wavelength of 16 cells


def fine(field):
    return field - coarse(field)


# ---------------------------------------------------------------- growth and decay


def of_change(rain, minutes, starts):
    """What becomes of the rain in the frame that moves with it."""
    collected = {}
    for start in starts:
        every = round(STEP / minutes)
        past, future = 2, min(AHEAD, (len(rain) - 1 - start) // every)
        frames = rain[start - past * every : start + future * every + 1 : every]
        motion = torch.from_numpy(flow(rain, minutes, start) * 60.0 * STEP / 1000.0)[None]
        tensor = torch.from_numpy(frames)[None]
        moved, seen = onto_newest(tensor.nan_to_num(0.0), torch.isfinite(tensor), motion.float(), past + 1)
        for name, value in of_moved(moved[0].numpy(), seen[0].numpy(), past).items():
            collected.setdefault(name, []).append(value)
    return {name: mean(values) for name, values in collected.items()}


def of_moved(rain, seen, newest):
    """Figures of one start: frames in the moving frame, where they are known, and which of them is the newest."""
    found = {}
    at = {10 * (number - newest): number for number in range(len(rain))}
    fields = decibel(rain)
    smooth = {sigma: np.stack([gaussian_filter(f, sigma) for f in fields]) for sigma in (8 / 7.55, 32 / 7.55)}
    parts = {
        "all scales": fields,
        "under 8 km": fields - smooth[8 / 7.55],
        "8 to 32 km": smooth[8 / 7.55] - smooth[32 / 7.55],
    }
    for name, part in parts.items():
        for ahead in (10, 30, 60) if name != "under 8 km" else (10,):
            found[f"correlation, {name}, {ahead} min"] = correlation(part, seen, newest, at.get(ahead))
    known = seen[newest] & seen[at[30]] if 30 in at else np.zeros_like(seen[0])
    if known.any():
        now, then = rain[newest], rain[at[30]]
        for rate in (1.0, HEAVY):
            areas = [(field[known] >= rate).sum() for field in (now, then)]
            found[f"change of the area of {rate:g} mm/h or more in 30 min, %"] = (
                200 * abs(areas[1] - areas[0]) / sum(areas) if sum(areas) else np.nan
            )
        near_now, near_then = (maximum_filter(np.where(known, field, 0), NEAR) for field in (now, then))
        heavy_now, heavy_then = ((field >= HEAVY) & known for field in (now, then))
        found["heavy rain still within 4 km after 30 min, %"] = 100 * share(heavy_now & (near_then >= HEAVY), heavy_now)
        found["heavy rain after 30 min out of less than 1 mm/h within 4 km, %"] = 100 * share(
            heavy_then & (near_now < 1.0), heavy_then
        )
    calm = smooth[32 / 7.55]
    if 20 in at:
        here = seen[at[-20]] & seen[newest] & seen[at[20]] & (calm[[at[-20], newest, at[20]]].max(0) > -9.0)
        before, after = calm[newest] - calm[at[-20]], calm[at[20]] - calm[newest]
        found["growth of 20 min against that of the 20 min before, correlation"] = pearson(before[here], after[here])
    return found


def correlation(part, seen, newest, then):
    if then is None:
        return np.nan
    known = seen[newest] & seen[then]
    return pearson(part[newest][known], part[then][known])


def pearson(a, b):
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 100 else np.nan


# ---------------------------------------------------------------- the table


def figures(sequences, n_starts):
    """All figures of some sequences, averaged over them."""
    parts = []
    for rain, minutes in sequences:
        rain = rain.astype("f4")
        wet = np.array([(np.nan_to_num(frame) >= 0.1).mean() for frame in rain])
        first, last = round(20 / minutes), len(rain) - 1 - round(40 / minutes)
        possible = [start for start in range(first, last + 1) if wet[start] >= 0.02]
        starts = sorted({possible[round(i)] for i in np.linspace(0, len(possible) - 1, n_starts)}) if possible else []
        if starts:
            every = max(1, round(30 / minutes))
            single = of_rates(rain[::every]) | of_spectrum(rain[::every])
            parts.append(single | of_motion(rain, minutes, starts) | of_change(rain, minutes, starts))
    return {name: mean([part.get(name, np.nan) for part in parts]) for name in parts[0]}


def table(synthetic, events):
    """Markdown: the range of the seeds, the range of the events, and each event."""
    names = list(next(iter(events.values())))
    lines = [
        "| | " + " | ".join([*synthetic, "radar, all", *events]) + " |",
        "|---" * (len(synthetic) + len(events) + 2) + "|",
    ]
    for name in names:
        ranges = [span([seed[name] for seed in seeds]) for seeds in synthetic.values()]
        ranges.append(span([event[name] for event in events.values()]))
        lines.append("| " + " | ".join([name, *ranges, *(short(event[name]) for event in events.values())]) + " |")
    return "\n".join(lines)


def span(values):
    values = [value for value in values if np.isfinite(value)]
    return f"{short(min(values))} to {short(max(values))}"


def short(value):
    if not np.isfinite(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 20 else f"{value:.1f}" if abs(value) >= 2 else f"{value:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of synthetic_radar")
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = {name: ast.literal_eval(value) for name, _, value in (text.partition("=") for text in options.option)}
    settings = {"synthetic": {}} | ({", ".join(options.option): given} if given else {})
    synthetic = {
        name: [figures(made(seed, chosen), options.starts) for seed in SEEDS] for name, chosen in settings.items()
    }
    events = {name: figures(sequences, options.starts) for name, sequences in real(options.data)}
    print(table(synthetic, events))


if __name__ == "__main__":
    main()
