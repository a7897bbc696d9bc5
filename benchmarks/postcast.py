"""Does PostCast help, and what does it cost? A small prior sharpens what it never saw.

    python benchmarks/postcast.py --quality                     # all tables, of the weights that ship
    python benchmarks/postcast.py --quality options --weights runs/prior/best.safetensors    # one table, other weights
    python benchmarks/postcast.py --speed --sizes small full
    python benchmarks/postcast.py --choices                     # needs no training and no data; three minutes

Training: that of the weights that ship, see `pretrain.py`. Testing: Switzerland 2016 and Belgium 2021, the window with
most cells of 10 mm/h, each with the smoothness of its composite (--smoothness). blurs.csv: observed frames blurred, as
reflectivity, with three kernels that no training saw, by the number of sampling steps. forecasts.csv: S-PROG and the
mean of an ensemble (both pysteps), and any forecasting weights given with --forecaster, by lead time, with and without
PostCast. Counts, spectra and sums of rain are added up over frames and events, ratios come last. options.csv: what
some options do to observed frames that were blurred, as they are and cut off at 0.1 mm/h. choices.csv: what each choice
that the paper leaves open does to Gaussian random fields, whose exact denoiser is known.
"""

import argparse
import contextlib
import io
import math
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

import xnowcast
from xnowcast import models, verify
from xnowcast.diffusion import evenly_spaced_steps, linear_schedule
from xnowcast.diffusion.blur_guidance import BlurGuidance, BlurSettings, blurred
from xnowcast.models.postcast import late_steps, sharpen
from xnowcast.models.transforms import Reflectivity
from xnowcast.nn.noise import Noise, member_generator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from reference_postcast import expected_field, gaussian_fields, plain_noise

TESTING = ("mch_20160711", "rmi_20210704_crop512")
SMOOTHNESS = (1.0, 0.5)  # cells
THRESHOLDS = [0.5, 2.0, 10.0]  # mm/h
SCALES = [1, 4, 16]
BAND = (4.0, 8.0)  # km
SCALE = Reflectivity()
WITH_DRIZZLE = Reflectivity(threshold=0.037)  # a blur has a skirt of less than 0.1 mm/h


# ---------------------------------------------------------------- data


def test_rain(name, folder, size):
    """Rain rates ``(time, y, x)`` where an event is heaviest, and the frames that have 2 % of rain."""
    rain = xnowcast.rain_rate(xr.open_dataset(folder / f"{name}.nc")).load().rename("rain")
    heavy = torch.from_numpy((rain >= THRESHOLDS[-1]).sum(rain.dims[0]).values.astype("f4"))
    of_windows = torch.nn.functional.avg_pool2d(heavy[None], size, stride=16)[0]
    top, left = (16 * int(i) for i in np.unravel_index(int(of_windows.argmax()), of_windows.shape))
    rain = rain[:, top : top + size, left : left + size]
    wet = (rain >= 0.1).mean(rain.dims[-2:]).values >= 0.02
    return rain, np.flatnonzero(wet)


def evenly(found, count):
    return [int(found[round(i)]) for i in np.linspace(0, len(found) - 1, min(count, len(found)))]


def kernels(size=9):
    """A round blur, one along a line as a moving field has it, one that is long and narrow, and none."""
    far = torch.arange(size) - size // 2.0
    y, x = torch.meshgrid(far, far, indexing="ij")

    def gaussian(along, across, degrees):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return torch.exp(-((c * x + s * y) ** 2) / (2 * along**2) - (c * y - s * x) ** 2 / (2 * across**2))

    found = {
        "none": ((x == 0) & (y == 0)).float(),
        "gaussian": gaussian(2.0, 2.0, 0),
        "motion": gaussian(3.0, 0.4, 30),
        "anisotropic": gaussian(2.5, 1.0, 120),
    }
    return {name: kernel / kernel.sum() for name, kernel in found.items()}


def blur(rain, kernel):
    """Rain blurred as reflectivity; NaN where the kernel meets a cell that nobody measured."""
    values = torch.from_numpy(rain.values.astype("f4"))[:, None]
    again = blurred(SCALE(values.nan_to_num()), kernel.expand(len(values), *kernel.shape))
    unseen = torch.nn.functional.max_pool2d(values.isnan().float(), len(kernel), 1, len(kernel) // 2) > 0
    return rain.copy(data=torch.where(unseen, torch.nan, WITH_DRIZZLE.inverse(again))[:, 0].numpy())


# ---------------------------------------------------------------- quality


def summed(truth, fields):
    """Counts, spectra and rain of fields that are there where the truth is; all additive."""
    both = truth.notnull() & fields.notnull()
    truth, fields = truth.where(both), fields.where(both)
    rain = xr.Dataset({"observed": truth.sum(), "forecast": fields.sum()})
    return [
        verify.contingency_table(truth, fields, thresholds=THRESHOLDS, scales=SCALES),
        verify.spectrum_sums(truth, fields),
        rain,
    ]


def scores(table, spectra, rain):
    """Scores of sums: those of the paper's Tables 1 and 2 at the highest threshold, power at 4 to 8 km, and mass."""
    highest = table.isel(threshold=-1)
    csi = verify.csi(highest)
    row = {f"CSI{THRESHOLDS[-1]:g} P{scale}": float(csi.sel(scale=scale)) for scale in SCALES}
    row["POD"] = float(verify.pod(highest.sel(scale=1)))
    row["HSS"] = float(verify.hss(highest.sel(scale=1)))
    row["CSI mean"] = float(verify.csi(table.sel(scale=1)).mean())
    row["power 4-8 km"] = float(verify.spectral_ratio(spectra, bands=[BAND]).squeeze())
    row["mass"] = float(rain.forecast / rain.observed)
    return row


def add(sums, key, more):
    sums[key] = [a + b for a, b in zip(sums[key], more, strict=True)] if key in sums else more


def table_of(sums, misfits, names):
    """Scores of each event and of all together; keys begin with the event."""
    for key in list(sums):
        add(sums, ("all", *key[1:]), sums[key])
        misfits.setdefault(("all", *key[1:]), []).extend(misfits.get(key, []))
    rows = {key: scores(*parts) | misfit(misfits.get(key)) for key, parts in sums.items()}
    return pd.DataFrame(rows).T.rename_axis(["event", *names])


def blur_rows(weights, options):
    """Blurred observations, sharpened with so many steps."""
    sums, misfits = {}, {}
    for event, smoothness in zip(TESTING, options.smoothness, strict=True):
        rain, wet = test_rain(event, options.data, options.grid)
        truth = rain[evenly(wet, options.frames)]
        for name in options.blurs:
            kernel = kernels()[name]
            blurry = blur(truth, kernel)
            add(sums, (event, name, "blurred"), summed(truth, blurry))
            for steps in options.sampling:
                model = xnowcast.load(weights, sampling_steps=steps, smoothness=smoothness, **options.common)
                began = time.perf_counter()
                sharp = blurry.to_dataset().nowcast.deblur(model, diagnostics=True, seed=options.seed)
                add(sums, (event, name, f"{steps} steps"), summed(truth, sharp.rain))
                misfits[event, name, f"{steps} steps"] = misfits_of(sharp, blurry)
                print(f"{event} {name} {steps} steps: {time.perf_counter() - began:.0f} s", flush=True)
                if steps == options.sampling[-1]:
                    panel(options.out / f"{event}_{name}.png", truth, blurry, sharp, kernel)
    return table_of(sums, misfits, ["blur", "field"])


def misfits_of(sharp, blurry):
    """Root mean square difference of the input and the output blurred again, over the input's standard deviation."""
    scaled = SCALE(torch.from_numpy(blurry.fillna(0).values.astype("f4")))
    return list(np.sqrt(sharp.blur_distance.values) / scaled.std((1, 2)).numpy())


def misfit(found):
    found = pd.Series(found or [np.nan])
    return {"re-blur error": found.mean(), "given up": found.isna().sum() if len(found) > 1 else np.nan}


REAL_CHOICES = [
    {},
    {"smoothness": 0.0},
    {"spacing": "even"},
    {"scale": "fixed"},
    {"scale": "bird"},
    {"kernel_update": "softmax-sgd"},
    {"kernel_update": "fixed"},
]


def option_rows(weights, options):
    """Frames blurred with the round kernel, as they are and cut off, with few steps and these options."""
    sums, misfits = {}, {}
    for event, smoothness in zip(TESTING, options.smoothness, strict=True):
        rain, wet = test_rain(event, options.data, options.grid)
        truth = rain[evenly(wet, options.frames)]
        blurry = blur(truth, kernels()["gaussian"])
        cut = blurry.where(~(blurry < 0.1), 0)  # NaN stays
        jobs = [("blurred", blurry, choice) for choice in REAL_CHOICES]
        jobs += [("cut off", cut, {}), ("cut off", cut, {"cut_off": 0.1})]
        for name, field, choice in jobs:
            key = (event, name, ", ".join(f"{k}={v!r}" for k, v in choice.items()) or "as it comes")
            common = {"sampling_steps": options.sampling[0], "smoothness": smoothness, **options.common}
            model = xnowcast.load(weights, **common | choice)
            sharp = field.to_dataset().nowcast.deblur(model, diagnostics=True, seed=options.seed)
            if not choice:
                add(sums, (event, name, "given"), summed(truth, field))
            add(sums, key, summed(truth, sharp.rain))
            misfits[key] = misfits_of(sharp, field)
            print(*key, flush=True)
    return table_of(sums, misfits, ["field", "options"])


def forecast_rows(weights, options):
    sums, misfits = {}, {}
    common = {"sampling_steps": options.sampling[-1], "kernel_size": options.kernel_size}
    for event, smoothness in zip(TESTING, options.smoothness, strict=True):
        model = xnowcast.load(weights, smoothness=smoothness, **common | options.common)
        rain, wet = test_rain(event, options.data, options.grid)
        starts = [i for i in wet if 4 <= i < rain.sizes["time"] - max(options.leads)]
        for start in evenly(starts, options.starts):
            for system, forecast in forecasts(rain, start, options).items():
                forecast = forecast.isel(lead_time=[lead - 1 for lead in options.leads])
                sharp = forecast.to_dataset(name="rain").nowcast.deblur(model, diagnostics=True, seed=options.seed)
                missed = misfits_of(sharp.isel(init_time=0), forecast[0])
                for number, lead in enumerate(options.leads):
                    truth = rain[start + lead].drop_vars("time")
                    for name, field in (("forecast", forecast), ("sharpened", sharp.rain)):
                        one = field.isel(init_time=0, lead_time=number)
                        one = truth.copy(data=one.transpose(*truth.dims).values)
                        add(sums, (event, system, 5 * lead, name), summed(truth, one))
                    misfits.setdefault((event, system, 5 * lead, "sharpened"), []).append(missed[number])
                if start == starts[0]:
                    maps(options.out / f"{event}_{system}.png", rain[start + options.leads[-1]], forecast, sharp)
            print(f"{event}, start {start} done", flush=True)
    return table_of(sums, misfits, ["system", "minutes", "field"])


def forecasts(rain, start, options):
    """Blurry forecasts ``(init_time, lead_time, y, x)`` of an hour from frame ``start``, none made by PostCast."""
    frames, steps = rain[start - 4 : start + 1], max(options.leads)
    made = {}
    for system, values in pysteps_forecasts(np.nan_to_num(frames.values), steps, options.members).items():
        made[system] = as_forecast(np.where(np.isnan(frames[-1].values), np.nan, values), frames)
    for path in options.forecaster:
        forecast = rain[: start + 1].nowcast.forecast(path, steps=steps, init_times=rain.time.values[[start]])
        made[forecast.attrs["nowcast_model"]] = forecast.mean("member") if "member" in forecast.dims else forecast
    return made


def as_forecast(values, frames):
    """In the layout of a forecast, so that each lead time has noise of its own."""
    leads = np.arange(1, len(values) + 1) * (frames.time.values[1] - frames.time.values[0])
    coords = {d: frames[d] for d in frames.dims[-2:]} | {"lead_time": leads, "init_time": frames.time.values[-1:]}
    dims = ("init_time", "lead_time", *frames.dims[-2:])
    return xr.DataArray(values[None].astype("f4"), coords=coords, dims=dims, attrs=frames.attrs, name="rain")


def pysteps_forecasts(frames, steps, members):
    """S-PROG as it comes and without matching to the observed distribution, and the mean of STEPS members, in mm/h."""
    from pysteps import motion, nowcasts

    decibel = np.where(frames >= 0.1, 10 * np.log10(np.maximum(frames, 0.1)), -15.0)
    common = {"precip_thr": -10.0, "norain_thr": 0.001}
    with contextlib.redirect_stdout(io.StringIO()):
        velocity = motion.get_method("LK")(decibel)
        sprog = nowcasts.get_method("sprog")(decibel[-3:], velocity, steps, **common)
        damped = nowcasts.get_method("sprog")(decibel[-3:], velocity, steps, probmatching_method=None, **common)
        ensemble = nowcasts.get_method("steps")(
            decibel[-3:], velocity, steps, n_ens_members=members, kmperpixel=1.0, timestep=5.0, seed=0, **common
        )
    rates = {"S-PROG": sprog[None], "S-PROG, not matched": damped[None], "mean of STEPS": ensemble}
    return {
        name: np.where(v >= -10.0, 10 ** (v / 10), np.where(np.isnan(v), np.nan, 0)).mean(0)
        for name, v in rates.items()
    }


# ---------------------------------------------------------------- pictures


def panel(path, truth, blurry, sharp, kernel, frame=-1):
    """Blurred, sharpened, truth, both kernels and the spectra of one frame."""
    import matplotlib.pyplot as plt

    colors, norm = xnowcast.plot.rain_colormap()
    figure, axes = plt.subplots(2, 3, figsize=(13, 8.5), layout="constrained")
    fields = {"blurred": blurry, "sharpened": sharp.rain, "truth": truth}
    for axis, (name, field) in zip(axes[0], fields.items(), strict=True):
        drawn = axis.imshow(field[frame], cmap=colors, norm=norm, interpolation="nearest")
        axis.set_title(name)
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes[0], label="mm/h", shrink=0.8)
    taps_of = {"blurred with": kernel, "estimated": sharp.blur_kernel[frame]}
    for axis, (name, taps) in zip(axes[1, :2], taps_of.items(), strict=True):
        figure.colorbar(axis.imshow(taps, cmap="viridis"), ax=axis)
        axis.set_title(f"kernel: {name}")
    for name, field in fields.items():
        power = verify.power_spectrum(field[frame].fillna(0))
        axes[1, 2].loglog(power.wavelength, power, label=name)
    axes[1, 2].invert_xaxis()
    axes[1, 2].set(xlabel="wavelength (km)", title="power")
    axes[1, 2].legend()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def maps(path, truth, forecast, sharp):
    """A forecast, the same sharpened, and what happened, at the last lead time."""
    import matplotlib.pyplot as plt

    colors, norm = xnowcast.plot.rain_colormap()
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    fields = {"forecast": forecast[0, -1], "sharpened": sharp.rain[0, -1], "observed": truth}
    for axis, (name, field) in zip(axes, fields.items(), strict=True):
        drawn = axis.imshow(field, cmap=colors, norm=norm, interpolation="nearest")
        axis.set_title(name)
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes, label="mm/h", shrink=0.8)
    figure.savefig(path, dpi=80)
    plt.close(figure)


# ---------------------------------------------------------------- speed


def speed_rows(options):
    """Seconds of a denoiser step and of the guidance, of the first and of the second half of the steps."""
    rows = []
    for size in options.sizes:
        model = models.build("postcast", size=size, tile=None).to(options.device_name).eval()
        for parameter in model.network.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        for precision in ("32", "bf16"):
            model.precision = precision
            for batch in options.batches:
                rows.append({"size": size, "precision": precision, "batch": batch} | times(model, batch, options))
                print(rows[-1], flush=True)
    return pd.DataFrame(rows).set_index(["size", "precision", "batch"])


@torch.no_grad()
def times(model, batch, options):
    """Medians of variants that take turns; the plain reading is one frame at a time."""
    x = torch.rand(batch, 1, options.grid, options.grid, device=options.device_name) * 2 - 1
    everywhere = torch.ones_like(x, dtype=torch.bool)
    first = torch.randn(batch, 9, 9, device=options.device_name)
    guidance = BlurGuidance(x, everywhere, BlurSettings(), model.schedule, range(999, -2, -1), first)
    few = BlurGuidance(x, everywhere, BlurSettings(), model.schedule, range(999, -2, -10), first)
    jobs = {
        "denoiser": lambda: model._noise_in(x, 500),
        "guidance, first half": lambda: guidance.correct(x, x, 900),
        "guidance, second half": lambda: guidance.correct(x, x, 100),
        "guidance, second half of 100": lambda: few.correct(x, x, 99),
        "plain denoiser of one": lambda: plain_noise(model.network, x[:1], 500),
        "plain guidance of one": lambda: plain_guidance(x[:1], first[:1]),
    }
    taken = {name: [] for name in jobs}
    for repeat in range(options.repeats + 1):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            if options.device_name != "cpu":
                torch.cuda.synchronize()
            if repeat:
                taken[name].append(time.perf_counter() - began)
    found = {name: statistics.median(values) for name, values in taken.items()}
    ours = found["denoiser"] + (found["guidance, first half"] + found["guidance, second half"]) / 2
    plain = found["plain denoiser of one"] + found["plain guidance of one"]
    found["share of guidance"] = ours / found["denoiser"] - 1
    found["per frame"] = ours / batch
    found["plain over ours"] = plain * batch / ours
    found["peak memory (GiB)"] = peak_memory(options.device_name)
    return found


def plain_guidance(x, first):
    """Distance and both gradients as autograd has them."""
    with torch.enable_grad():
        sample, logits = x.clone().requires_grad_(), first.clone().requires_grad_()
        again = blurred((sample + 1) / 2, logits.flatten(1).softmax(1).view_as(logits))
        torch.autograd.grad(((again - (x + 1) / 2) ** 2).mean(), (sample, logits))


def peak_memory(device):
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# ---------------------------------------------------------------- choices

CHOICES = [
    {"spacing": "even"},
    {"kernel_update": "softmax-sgd"},
    {"kernel_update": "fixed"},
    {"kernel_update": "paper"},
    {"scale": "fixed"},
    {"scale": "bird"},
    {"scale": "bird", "rho_max": 10.0},
    {"gradient": "xt"},
    {"variance_weighted": True},
    {"edges": "zeros"},
    {"free_gain": True},
]
LENGTHS = (1000, 250, 100, 50)


def choice_rows(fields=8, cells=64):
    """Four blurs with the defaults and as many steps as are named; the first with every other choice."""
    truth = (gaussian_fields(noise(fields, 7).normal(1, cells, cells)).clamp(-1, 1) + 1) / 2
    round_blur = kernels()["gaussian"]
    rows = {}
    for steps in LENGTHS:
        for name, kernel in kernels().items():
            rows[name, steps, "as it comes"] = choice_scores(truth, kernel, steps, {})
    for steps in LENGTHS[::2]:
        for choice in CHOICES if steps < 1000 else CHOICES[1:]:
            text = ", ".join(f"{k}={v!r}" for k, v in choice.items())
            rows["gaussian", steps, text] = choice_scores(truth, round_blur, steps, dict(choice))
    return pd.DataFrame(rows).T.rename_axis(["blur", "steps", "choice"])


def choice_scores(truth, kernel, steps, choice):
    schedule, blurry = linear_schedule(1000), blurred(truth, kernel.expand(len(truth), *kernel.shape))

    def denoise(x, step):
        return expected_field(x, *schedule.levels(step)).clamp(-1, 1)

    spaced = evenly_spaced_steps if choice.pop("spacing", "late") == "even" else late_steps
    visited, settings = spaced(1000, steps), BlurSettings(**choice)
    sharp = sharpen(denoise, blurry, blurry >= 0, noise(len(truth), 1), schedule, visited, settings)
    good = sharp.distance.isfinite()
    missed = (sharp.kernel - kernel).abs().sum((1, 2))[good]
    return {
        "power before": band_power(blurry) / band_power(truth),
        "power": band_power(sharp.frames) / band_power(truth),
        "CSI99 before": csi99(blurry, truth),
        "CSI99": csi99(sharp.frames, truth),
        "change": rmse(sharp.frames, blurry) / float(truth.std()),
        "re-blur error": float(sharp.distance[good].sqrt().mean()) / float(blurry.std()) if good.any() else math.nan,
        "kernel error": float(missed.mean()) if good.any() else math.nan,
        "given up": int((~good).sum()),
    }


def noise(members, seed):
    return Noise([member_generator(seed, 0, member) for member in range(members)])


def band_power(fields):
    """Power at wavelengths of 3.2 to 5.3 cells."""
    spectral = torch.fft.fft2(fields - fields.mean((-2, -1), keepdim=True)).abs() ** 2
    ky, kx = (torch.fft.fftfreq(n) for n in fields.shape[-2:])
    number = (ky[:, None] ** 2 + kx**2).sqrt()
    return float(spectral[..., (number >= 12 / 64) & (number < 20 / 64)].mean())


def csi99(fields, truth):
    """CSI at the truth's 99th percentile."""
    threshold = torch.quantile(truth, 0.99)
    forecast, event = fields >= threshold, truth >= threshold
    return float((forecast & event).sum() / (forecast | event).sum())


def rmse(a, b):
    return float((a - b).square().mean().sqrt())


# ---------------------------------------------------------------- command line

TABLES = {"blurs": blur_rows, "forecasts": forecast_rows, "options": option_rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality", nargs="*", choices=list(TABLES), help="all tables that need a prior, or these")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--choices", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/postcast"), help="of tables and pictures")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=int, default=256, help="cells along y and x of what is sharpened")
    parser.add_argument("--weights", default="postcast", help="a prior: name of weights that ship, or a path")
    parser.add_argument("--smoothness", type=float, nargs=2, default=SMOOTHNESS, help="of the tested composites, cells")
    parser.add_argument("--blurs", nargs="+", default=list(kernels()))
    parser.add_argument("--sampling", type=int, nargs="+", default=[50, 250], help="sampling steps")
    parser.add_argument("--sampling-precision", default="bf16")
    parser.add_argument("--not-centred", action="store_true", help="leave kernels off their middle")
    parser.add_argument("--kernel-size", type=int, default=9, help="for forecasts, whose blur may be wide")
    parser.add_argument("--frames", type=int, default=4, help="blurred frames per event")
    parser.add_argument("--starts", type=int, default=3, help="forecasts per event")
    parser.add_argument("--leads", type=int, nargs="+", default=[3, 6, 12], help="steps of five minutes")
    parser.add_argument("--members", type=int, default=8, help="of the ensemble whose mean is sharpened")
    parser.add_argument("--forecaster", nargs="*", default=[], help="weights of forecasting systems, such as DB-RNN's")
    parser.add_argument("--sizes", nargs="+", default=["small"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.quality is None and not (options.speed or options.choices):
        parser.error("nothing to do: give --quality, --speed or --choices")
    if options.threads:
        torch.set_num_threads(options.threads)
    options.device_name = "cuda" if options.device == "auto" and torch.cuda.is_available() else options.device
    options.device_name = "cpu" if options.device_name == "auto" else options.device_name
    options.common = {"precision": options.sampling_precision, "centred": not options.not_centred}
    options.out.mkdir(parents=True, exist_ok=True)
    if options.speed:
        save(speed_rows(options), options.out / "speed.csv")
    if options.choices:
        save(choice_rows(), options.out / "choices.csv")
    if options.quality is not None:
        if not options.data.is_dir():
            raise SystemExit(f"the real events are not in {options.data}: give their folder with --data")
        for name in options.quality or TABLES:
            save(TABLES[name](options.weights, options), options.out / f"{name}.csv")


def save(table, path):
    table.to_csv(path)
    print(f"\n{path}\n{table.round(3).to_string()}", flush=True)


if __name__ == "__main__":
    main()
