"""Scores against their peers: the same numbers, how fast, in how little memory.

    python benchmarks/verify.py [--compare] [--speed] [--sizes] [--memory] [--small] [--data FOLDER] [--only csi,crps]

Peers are xskillscore, scores, properscoring, scoringrules, pysteps, scikit-image and scipy, whichever are installed,
and "numpy": the formula written down. --compare has them all on a real event; --speed on made-up rain in one run,
one thread, where CPU time counts; --sizes has single small fields, maps, large planes and other layouts in memory
beside the formula written down; --memory has scores of a Zarr store that is many chunks large.
"""

import argparse
import contextlib
import ctypes
import io
import math
import multiprocessing
import os
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xarray as xr

from xnowcast.verify import (
    amounts,
    distribution,
    ensemble,
    events,
    images,
    neighbourhood,
    objects,
    probability,
    ranks,
    spectra,
)
from xnowcast.verify.kernels import compiled

THRESHOLDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # mm/h; exact in float32, or peers with float64 thresholds differ
WIDTHS = (1, 4, 16, 64)
POOLS = (1, 4, 16)
RANGE = 128.0
ALL = ("time", "y", "x")


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Case:
    """Observations (time, y, x) and members (member, time, y, x) in mm/h, as xarray and as arrays."""

    obs: xr.DataArray
    members: xr.DataArray

    @cached_property
    def one(self):
        """A single forecast."""
        return self.members.isel(member=-1, drop=True)

    @cached_property
    def both(self):
        return [(o.values, f.values) for o, f in zip(self.obs, self.one, strict=True)]

    @cached_property
    def members_last(self):
        """Members in the layout that scoringrules is made for."""
        return np.ascontiguousarray(np.moveaxis(self.members.values, 0, -1))

    @cached_property
    def pairs(self):
        """All observed and forecast values of the single forecast that are both there."""
        there = np.isfinite(self.obs.values) & np.isfinite(self.one.values)
        return self.obs.values[there], self.one.values[there]

    @cached_property
    def points(self):
        """Observations, members and their probabilities of 2 mm/h where all members are there, as float64."""
        there = np.isfinite(self.obs.values) & np.isfinite(self.members.values).all(0)
        o, f = self.obs.values[there].astype("f8"), self.members.values[:, there].astype("f8")
        return o, f, (f >= 2.0).mean(0)

    @property
    def nbytes(self):
        return self.members.nbytes

    def first(self, n):
        return Case(self.obs[:n].copy(), self.members[:, :n].copy())

    def measured(self):
        """The same with 0 in place of NaN."""
        return Case(self.obs.fillna(0), self.members.fillna(0))

    def in_radar_range(self):
        """The same with NaN outside of a circle, 31 % of the grid."""
        n_y, n_x = self.obs.shape[1:]
        y, x = np.ogrid[:n_y, :n_x]
        seen = np.hypot((y + 0.5) / n_y - 0.5, (x + 0.5) / n_x - 0.5) <= math.sqrt(0.69 / math.pi)
        mask = xr.DataArray(seen, dims=("y", "x"))
        return Case(self.obs.where(mask), self.members.where(mask))


def made_up(members, times, size, seed=1):
    """Rain that is 0 in 60 % of the cells and heavy-tailed in the rest, observation and members alike in part."""
    rng = np.random.default_rng(seed)

    def smooth(shape):
        noise = rng.standard_normal(shape, dtype="f4")
        for axis in (-2, -1):
            noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis) + np.roll(noise, 3, axis)) / 2
        return noise

    def rain(noise):
        return np.where(noise > 0.2533, np.minimum(0.1 * np.exp(2.2 * (noise - 0.2533)), 127), 0).astype("f4")

    shared = smooth((times, size, size))
    obs = rain(0.8 * shared + 0.6 * smooth(shared.shape))
    ensemble_of = np.empty((members, *shared.shape), "f4")
    for member in ensemble_of:
        member[:] = rain(0.8 * shared + 0.6 * smooth(shared.shape))
    return Case(xr.DataArray(obs, dims=ALL), xr.DataArray(ensemble_of, dims=("member", *ALL)))


def real_event(folder, times=6, lags=5):
    """A lagged ensemble of extrapolations: member i is the forecast from i + 2 steps before, NaN where unknown."""
    from extrapolation import FRAMES, load, plugin

    names = ("mch_20150515_crop", "fmi_20160928_crop512")
    path = next((folder / f"{n}.nc" for n in names if (folder / f"{n}.nc").exists()), None)
    if path is None:
        raise SystemExit(f"none of {names} is in {folder}: name the folder of the events with --data")
    rain, _ = load(path)
    first = FRAMES + lags + 8
    starts = range(first - lags - 1, first + times - 2)
    forecasts = {s: plugin(np.nan_to_num(rain[s - FRAMES + 1 : s + 1]), lags + 1) for s in starts}
    members = [[forecasts[t - lag][lag - 1] for t in range(first, first + times)] for lag in range(2, lags + 2)]
    obs = xr.DataArray(rain[first : first + times], dims=ALL)
    return path.stem, Case(obs, xr.DataArray(np.array(members, "f4"), dims=("member", *ALL)))


# ---------------------------------------------------------------- scores and their peers

Run = Callable[[Case], object]


@dataclass(frozen=True)
class Score:
    """A score, the peers that have it, why a peer's number differs (always, or "NaN": where something is missing).

    ``on`` are the made-up cases that it is timed on; ``targets`` how many times faster than a peer it has to be, or
    than the "best" that gives the same number, with numba and without.
    """

    name: str
    ours: Run
    peers: dict[str, Run]
    differs: dict[str, str] = field(default_factory=dict)
    differs_nan: dict[str, str] = field(default_factory=dict)
    on: tuple[str, ...] = ()
    targets: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)


def installed(peer):
    package = peer.split()[0].replace("scikit-image", "skimage")
    return find_spec(package) is not None


def module(name):
    """A peer's module, without what it prints when it is imported."""
    from importlib import import_module

    with contextlib.redirect_stdout(io.StringIO()):
        return import_module(name)


# How NaN is treated, in the words of the tables
NO_EVENT = "counts NaN as no event"
SPREADS = "NaN spreads"
DROPS = "drops points with any NaN member"

# name here: (formula of hits, false alarms, misses, correct negatives; names there)
EVENTS = {
    "csi": (lambda a, b, c, d: a / (a + b + c), "threat_score", "critical_success_index", "CSI"),
    "ets": (None, "equit_threat_score", "equitable_threat_score", "ETS"),
    "hss": (None, "heidke_score", "heidke_skill_score", "HSS"),
    "f1": (lambda a, b, c, d: 2 * a / (2 * a + b + c), None, "f1_score", "F1"),
    "pod": (lambda a, b, c, d: a / (a + c), "hit_rate", "probability_of_detection", "POD"),
    "precision": (lambda a, b, c, d: a / (a + b), None, "precision", None),
    "false_alarm_ratio": (None, "false_alarm_ratio", "false_alarm_ratio", "FAR"),
    "probability_of_false_detection": (None, "false_alarm_rate", "probability_of_false_detection", "FA"),
    "frequency_bias": (lambda a, b, c, d: (a + b) / (a + c), "bias_score", "frequency_bias", "BIAS"),
    "accuracy": (lambda a, b, c, d: (a + d) / (a + b + c + d), "accuracy", "accuracy", "ACC"),
    "sedi": (None, None, "symmetric_extremal_dependence_index", "SEDI"),
}


def event_score(name):
    """At all thresholds, with members pooled and each time kept: values (time, threshold)."""
    formula, xskillscore_name, scores_name, pysteps_name = EVENTS[name]
    reduced = ["member", "y", "x"]

    def ours(c):
        return getattr(events, name)(c.obs, c.members, thresholds=THRESHOLDS, dim=reduced)

    def xskillscore(c):
        table = module("xskillscore").Contingency
        edges = [np.array([-np.inf, t, np.inf]) for t in THRESHOLDS]
        return np.stack([getattr(table(c.obs, c.members, e, e, dim=reduced), xskillscore_name)() for e in edges], 1)

    def scores(c):
        operator = module("scores.categorical").ThresholdEventOperator()

        def at(t):
            manager = operator.make_contingency_manager(c.members, c.obs, event_threshold=t)
            return getattr(manager.transform(reduce_dims=reduced), scores_name)()

        return np.stack([at(t) for t in THRESHOLDS], 1)

    def pysteps(c, below):
        det_cat_fct = module("pysteps.verification.detcatscores").det_cat_fct
        obs = np.broadcast_to(c.obs.values, c.members.shape)
        at = [np.nextafter(np.float32(t), np.float32(0)) if below else t for t in THRESHOLDS]
        return np.stack([det_cat_fct(c.members.values, obs, t, pysteps_name, (0, 2, 3))[pysteps_name] for t in at], 1)

    def numpy(c):
        o, f = c.obs.values, c.members.values
        both = np.isfinite(o) & np.isfinite(f)
        found = []
        for t in THRESHOLDS:
            cells = [(o >= t) & (f >= t), (o < t) & (f >= t), (o >= t) & (f < t), (o < t) & (f < t)]
            found.append(formula(*((cell & both).sum((0, 2, 3)) for cell in cells)))
        return np.stack(found, 1)

    peers = {"xskillscore": xskillscore if xskillscore_name else None, "scores": scores}
    if pysteps_name:
        peers |= {"pysteps (just below)": partial(pysteps, below=True)}
    if pysteps_name == "CSI":
        peers |= {"pysteps": partial(pysteps, below=False)}
    peers |= {"numpy masks": numpy if formula else None}
    targets = {"pysteps (just below)": (80, 25), "xskillscore": (250, 80), "scores": (500, 150), "numpy masks": (9, 3)}
    timed = name == "csi"
    return Score(
        name,
        ours,
        {peer: run for peer, run in peers.items() if run},
        {"pysteps": "its event is > threshold"},
        dict.fromkeys(("pysteps", "pysteps (just below)"), NO_EVENT),
        ("A", "A, radar range") if timed else (),
        {"A": targets} if timed else {},
    )


def pooled_csi():
    def ours(c):
        return events.csi(c.obs, c.members, thresholds=THRESHOLDS, scales=POOLS, dim=["member", "y", "x"])

    def largest(a, k):
        n_y, n_x = a.shape[-2] // k, a.shape[-1] // k
        blocks = a[..., : n_y * k, : n_x * k].reshape(*a.shape[:-2], n_y, k, n_x, k)
        return np.fmax.reduce(np.fmax.reduce(blocks, -1), -2)

    def numpy(c):
        o, f = np.broadcast_arrays(c.obs.values, c.members.values)
        if np.isnan(f).any() or np.isnan(o).any():
            missing = np.isnan(o) | np.isnan(f)
            o, f = np.where(missing, np.nan, o), np.where(missing, np.nan, f)
        else:
            o = c.obs.values
        found = np.empty((f.shape[1], len(THRESHOLDS), len(POOLS)))
        for j, k in enumerate(POOLS):
            one, other = largest(o, k), largest(f, k)
            for i, t in enumerate(THRESHOLDS):
                hits = ((one >= t) & (other >= t)).sum((0, 2, 3))
                found[:, i, j] = hits / ((one >= t) | (other >= t)).sum((0, 2, 3))
        return found

    return Score("csi, pooled", ours, {"numpy masks": numpy}, on=("A",), targets={"A": {"numpy masks": (15, 2)}})


def error_score(name, xskillscore_name, pysteps_name):
    ours = getattr(amounts, name)
    scores_name = "correlation" if name == "correlation" else name

    def scores(c):
        run = getattr(module("scores.continuous"), scores_name)
        return (run.pearsonr if scores_name == "correlation" else run)(c.one, c.obs)

    def xskillscore(c):
        return getattr(module("xskillscore"), xskillscore_name)(c.one, c.obs, skipna=True)

    def pysteps(c):
        run = module("pysteps.verification.detcontscores").det_cont_fct
        return run(c.one.values, c.obs.values, pysteps_name)[pysteps_name]

    return Score(
        name,
        lambda c: ours(c.obs, c.one),
        {"xskillscore": xskillscore, "scores": scores, "pysteps": pysteps},
        differs_nan={"pysteps": "its means are of all cells each has"} if name == "correlation" else {},
        on=("A",) if name in ("rmse", "correlation") else (),
    )


def balanced_score(name, power, reduce):
    def numpy(c):
        found = []
        for o, f in c.both:
            weight = np.select([o >= b for b in (30, 10, 5, 2)], [30.0, 10.0, 5.0, 2.0], 1.0) * np.isfinite(o + f)
            error = np.nan_to_num(weight * np.abs(f.astype("f8") - o) ** power)
            found.append((error.sum(), weight.sum(), np.isfinite(o + f).sum()))
        total, weights, n = np.sum(found, 0)
        return total / {"sum": len(found), "mean": n, "weighted": weights}[reduce]

    score = getattr(amounts, name)
    return Score(f"{name}, {reduce}", lambda c: score(c.obs, c.one, reduce=reduce), {"numpy": numpy})


def fss_score(boundary, targets):
    def ours(c):
        return neighbourhood.fss(c.obs, c.one, thresholds=2.0, scales=WIDTHS, boundary=boundary)

    def pysteps(c):
        scores = module("pysteps.verification.spatialscores")

        def at(width):
            sums = scores.fss_init(2.0, width)
            for o, f in c.both:
                scores.fss_accum(sums, f, o)
            return scores.fss_compute(sums)

        return [at(width) for width in WIDTHS]

    def scores(c):
        fss = partial(
            module("scores.spatial").fss_2d, c.one, c.obs, event_threshold=2.0, threshold_operator=np.greater_equal
        )
        padded = boundary == "scores"
        return [fss(window_size=(w, w), spatial_dims=("y", "x"), zero_padding=padded) for w in WIDTHS]

    peers = {"pysteps": pysteps} if boundary == "pysteps" else {"scores": scores}
    nan = dict.fromkeys(("pysteps", "scores"), NO_EVENT)
    return Score(f"fss, {boundary}", ours, peers, {}, nan, ("A",), {"A": targets})


def crps_score(fair):
    def ours(c):
        return ensemble.crps_ensemble(c.obs, c.members, fair=fair)

    def scoringrules(c, estimator):
        options = {"estimator": estimator, "backend": "numba" if find_spec("numba") else "numpy"}
        return np.nanmean(module("scoringrules").crps_ensemble(c.obs.values, c.members_last, **options))

    def scores(c):
        return module("scores.probability").crps_for_ensemble(
            c.members, c.obs, "member", method="fair" if fair else "ecdf"
        )

    nan = dict.fromkeys((f"scoringrules {e}" for e in ("qd", "nrg", "fair", "pwm")), DROPS) | {"pysteps": DROPS}
    if fair:
        peers = {f"scoringrules {e}": partial(scoringrules, estimator=e) for e in ("fair", "pwm")}
        targets = {"A": {"scoringrules fair": (12, 2)}, "B": {"scoringrules fair": (40, 2)}}
        return Score("crps, fair", ours, {"scores": scores, **peers}, {}, nan, ("A", "B"), targets)
    peers = {
        "xskillscore": lambda c: module("xskillscore").crps_ensemble(c.obs, c.members),
        "scores": scores,
        "properscoring": lambda c: np.nanmean(
            module("properscoring").crps_ensemble(c.obs.values, c.members.values, axis=0)
        ),
        **{f"scoringrules {e}": partial(scoringrules, estimator=e) for e in ("qd", "nrg")},
        "pysteps": lambda c: module("pysteps.verification.probscores").CRPS(c.members.values, c.obs.values),
    }
    targets = {
        "A": {"best": (12, 2), "xskillscore": (35, 6)},
        "A, radar range": {"best": (4, 1), "xskillscore": (25, 5)},
        "B": {"best": (18, 2.2), "xskillscore": (20, 2.5)},
    }
    differs = {"pysteps": "wrong where the observation equals a member"}
    return Score("crps", ours, peers, differs, nan, ("A", "A, radar range", "B"), targets)


def tw_crps_score():
    def scoringrules(c):
        return np.nanmean(module("scoringrules").twcrps_ensemble(c.obs.values, c.members_last, a=2.0))

    return Score(
        "tw_crps",
        lambda c: ensemble.tw_crps_ensemble(c.obs, c.members, threshold=2.0),
        {
            "scores": lambda c: module("scores.probability").tail_tw_crps_for_ensemble(c.members, c.obs, "member", 2.0),
            "scoringrules": scoringrules,
        },
        differs_nan={"scoringrules": DROPS, "scores": "NaN members become the threshold"},
    )


def rank_score(ties):
    def pysteps(c):
        histogram = module("pysteps.verification.ensscores")
        m = c.members.sizes["member"]
        return histogram.rankhist(c.members.values.reshape(m, -1), c.obs.values.ravel(), normalize=False)

    def xskillscore(c):
        return module("xskillscore").rank_histogram(c.obs, c.members, keep_attrs=False)

    def scores(c):
        shares = module("scores.probability").rank_histogram(c.members, c.obs, "member")
        n = c.points[0].size
        return shares * n

    random = "its ties are drawn at random"
    return Score(
        "rank_histogram",
        lambda c: ranks.rank_histogram(c.obs, c.members, ties=ties),
        {"pysteps": pysteps, "xskillscore": xskillscore, "scores": scores},
        {"pysteps": random, "xskillscore": random},
        {},
        ("A", "B"),
        {"B": {"pysteps": (40, 40), "xskillscore": (120, 120)}},
    )


def spread_score():
    def numpy(c):
        o, f = c.obs.values.astype("f8"), c.members.values.astype("f8")
        n = np.isfinite(f).sum(0)
        there = np.isfinite(o) & (n >= 2)
        o, f, n = o[there], f[:, there], n[there]
        error, variance = ((np.nanmean(f, 0) - o) ** 2).mean(), np.nanvar(f, 0, ddof=1)
        return [variance.mean() ** 0.5, error**0.5, (((n + 1) / n * variance).mean() / error) ** 0.5]

    def ours(c):
        table = ensemble.spread_skill(c.obs, c.members)
        return [table[name] for name in ("spread", "rmse", "spread_skill_ratio")]

    return Score("spread_skill", ours, {"numpy": numpy})


def brier_score(fair):
    def xskillscore(c):
        run = module("xskillscore").brier_score
        there = np.isfinite(c.obs) & np.isfinite(c.members).all("member")
        return run((c.obs >= 2.0).where(there), (c.members >= 2.0), member_dim="member", fair=fair)

    return Score(
        "brier_score" + ", fair" * fair,
        lambda c: probability.brier_score(c.obs, c.members, thresholds=2.0, fair=fair),
        {
            "xskillscore": xskillscore,
            "scores": lambda c: module("scores.probability").brier_score_for_ensemble(
                c.members, c.obs, "member", 2.0, fair_correction=fair
            ),
        },
        differs_nan={"scores": "leaves NaN members out"},
    )


def reliability_score():
    def edges(c):
        m = c.members.sizes["member"]
        return (np.arange(m + 2) - 0.5) / m

    def ours(c):
        table = probability.reliability_diagram(c.obs, c.members, thresholds=2.0)
        return [table["observed_frequency"], table["n"]]

    def xskillscore(c):
        o, _, p = c.points
        event, chance = (xr.DataArray(a, dims="point") for a in (o >= 2.0, p))
        table = module("xskillscore").reliability(event, chance, dim="point", probability_bin_edges=edges(c))
        return [table, table["samples"]]

    def pysteps(c):
        scores = module("pysteps.verification.probscores")
        table = scores.reldiag_init(2.0, n_bins=c.members.sizes["member"] + 1, min_count=0)
        table["bin_edges"] = edges(c)
        o, _, p = c.points
        scores.reldiag_accum(table, p, o)
        return [np.asarray(scores.reldiag_compute(table)[1]), table["num_idx"]]

    return Score("reliability_diagram", ours, {"xskillscore": xskillscore, "pysteps": pysteps})


def roc_score():
    def pysteps(c):
        scores = module("pysteps.verification.probscores")
        table = scores.ROC_curve_init(2.0, n_prob_thrs=c.members.sizes["member"] + 1)
        o, _, p = c.points
        scores.ROC_curve_accum(table, p + 1e-9, o)
        return scores.ROC_curve_compute(table, compute_area=True)[2]

    def scores(c):
        o, _, p = c.points
        return module("scores.probability").roc_auc(xr.DataArray(p, dims="i"), xr.DataArray((o >= 2.0) * 1.0, dims="i"))

    def xskillscore(c):
        o, _, p = c.points
        event, chance = xr.DataArray(o >= 2.0, dims="i"), xr.DataArray(p, dims="i")
        return module("xskillscore").roc(event, chance, bin_edges="continuous", dim="i")

    def ours(c):
        return probability.roc(c.obs, c.members, thresholds=2.0)["area"]

    return Score("roc area", ours, {"xskillscore": xskillscore, "scores": scores, "pysteps": pysteps})


def ring_means(c):
    """Mean over fields of the rings of pysteps: observed and forecast."""
    rapsd = module("pysteps.utils.spectral").rapsd
    return np.mean([[rapsd(f, fft_method=np.fft) for f in pair] for pair in c.both], 0)


def spectrum_score():
    options = {"binning": "pysteps", "detrend": None, "spacing_km": 1.0}

    def pysteps(c):
        return np.mean([module("pysteps.utils.spectral").rapsd(f, fft_method=np.fft) for _, f in c.both], 0)

    def only_transform(c):
        for _, f in c.both:
            np.fft.rfft2(f)
        return np.nan

    return Score(
        "power_spectrum",
        lambda c: spectra.power_spectrum(c.one, **options),
        {"pysteps": pysteps, "numpy rfft2 alone": only_transform},
        {"numpy rfft2 alone": "no spectrum yet: the floor"},
        {"pysteps": "refuses NaN"},
        ("A",),
        {"A": {"pysteps": (20, 20), "numpy rfft2 alone": (1 / 1.5, 1 / 1.5)}},
    )


def spectral_distance():
    def ours(c):
        sums = spectra.spectrum_sums(c.obs, c.one, binning="pysteps", detrend="mean", spacing_km=1.0)
        return spectra.log_spectral_distance(sums.isel(wavenumber=slice(1, None)))

    def pysteps(c):
        observed, forecast = ring_means(c)[:, 1:]
        return np.sqrt(np.mean((10 * np.log10(forecast / observed)) ** 2))

    return Score("log_spectral_distance", ours, {"pysteps": pysteps}, {}, {"pysteps": "refuses NaN"})


def emd_score(exact):
    def scipy(c):
        return module("scipy.stats").wasserstein_distance(*c.pairs)

    target = (35, 35) if exact else (80, 0)
    return Score(
        "emd, sorted" if exact else "emd, streamed",
        lambda c: distribution.emd(c.obs, c.one, exact=exact),
        {"scipy": scipy},
        {} if exact else {"scipy": "off by the width of bins, within emd_bound"},
        on=("A",),
        targets={"A": {"scipy": target}},
    )


def percentile_score():
    percentages = (95.0, 99.0, 99.9)
    return Score(
        "percentiles",
        lambda c: distribution.percentiles(c.one, percentages=percentages),
        {
            "xarray quantile": lambda c: c.one.quantile([p / 100 for p in percentages]),
            "numpy": lambda c: np.nanpercentile(c.one.values, percentages),
        },
        on=("A",),
        targets={"A": {"xarray quantile": (2, 1.2)}},
    )


def overlap_score():
    edges = (0, 0.1, 0.5, 1, 2, 5, 10, 20, 50, 500)

    def numpy(c):
        return np.minimum(*(np.histogram(v, edges)[0] / v.size for v in c.pairs)).sum()

    return Score(
        "histogram_overlap", lambda c: distribution.histogram_overlap(c.obs, c.one, edges=edges), {"numpy": numpy}
    )


def ssim_score(sigma):
    window = {"win_size": 7} if sigma is None else {"gaussian_weights": True, "sigma": sigma}

    def skimage(c):
        run = partial(module("skimage.metrics").structural_similarity, data_range=RANGE, **window)
        return np.mean([run(o, f, use_sample_covariance=False) for o, f in c.both])

    return Score(
        "ssim" if sigma else "ssim, uniform",
        lambda c: images.ssim(c.obs, c.one, data_range=RANGE, sigma=sigma, window=11 if sigma else 7),
        {"scikit-image": skimage},
        differs_nan={"scikit-image": SPREADS},
        on=("A",) if sigma else (),
        targets={"A": {"scikit-image": (7, 1.5)}},
    )


def psnr_score():
    def skimage(c):
        run = partial(module("skimage.metrics").peak_signal_noise_ratio, data_range=RANGE)
        return np.mean([run(o, f) for o, f in c.both])

    def ours(c):
        return images.psnr(c.obs, c.one, data_range=RANGE)

    return Score("psnr", ours, {"scikit-image": skimage}, differs_nan={"scikit-image": SPREADS})


def gradient_score():
    def numpy(c):
        pairs = [(np.diff(o, axis=a), np.diff(f, axis=a)) for o, f in c.both for a in (0, 1)]
        return np.nanmean(np.concatenate([np.abs(abs(o.astype("f8")) - abs(f)).ravel() for o, f in pairs]))

    return Score("gradient_difference", lambda c: images.gradient_difference(c.obs, c.one), {"numpy": numpy})


def sal_score():
    def ours(c):
        table = objects.sal(c.obs, c.one, wet=0.0)
        return [table[name] for name in ("structure", "amplitude", "location")]

    def pysteps(c):
        run = module("pysteps.verification.salscores").sal
        return np.mean([run(f, o, thr_factor=1 / 15, thr_quantile=0.95) for o, f in c.both], 0)

    peers = {"pysteps": pysteps}
    return Score("sal", ours, peers, {"pysteps": "its objects are of a storm tracker, merged"}, {"pysteps": SPREADS})


SCORES = [
    *map(event_score, EVENTS),
    pooled_csi(),
    error_score("rmse", "rmse", "RMSE"),
    error_score("mse", "mse", "MSE"),
    error_score("mae", "mae", "MAE"),
    error_score("mean_error", "me", "ME"),
    error_score("correlation", "pearson_r", "corr_p"),
    *(balanced_score(n, p, r) for n, p in (("balanced_mae", 1), ("balanced_mse", 2)) for r in ("sum", "weighted")),
    fss_score("pysteps", {"pysteps": (20, 5)}),
    fss_score("interior", {"scores": (60, 14)}),
    fss_score("scores", {"scores": (60, 14)}),
    sal_score(),
    crps_score(fair=False),
    crps_score(fair=True),
    tw_crps_score(),
    rank_score("expected"),
    spread_score(),
    brier_score(fair=False),
    brier_score(fair=True),
    reliability_score(),
    roc_score(),
    spectrum_score(),
    spectral_distance(),
    emd_score(exact=True),
    emd_score(exact=False),
    percentile_score(),
    overlap_score(),
    ssim_score(1.5),
    ssim_score(None),
    psnr_score(),
    gradient_score(),
]


# ---------------------------------------------------------------- the same numbers


def numbers(result):
    """What a score returns as one row of float64."""
    parts = result if isinstance(result, list | tuple) else [result]
    return np.concatenate([np.asarray(part, "f8").ravel() for part in parts])


def quietly(run, case):
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return numbers(run(case))


def difference(ours, theirs):
    """Largest difference, relative to the largest value; infinite where NaN or shapes differ."""
    if ours.shape != theirs.shape or (np.isnan(ours) != np.isnan(theirs)).any():
        return np.inf
    same = (ours == theirs) | np.isnan(ours)
    finite = np.abs(ours[np.isfinite(ours)])
    scale = finite.max() if finite.size and finite.max() > 0 else 1.0
    return float(np.max(np.where(same, 0.0, np.abs(ours - theirs) / scale), initial=0.0))


def print_comparison(name, case, scores):
    nan = np.isnan(case.members).mean().item()
    cases = {"with 0 for NaN": case.measured(), f"as it is, {nan:.0%} of the forecast NaN": case}
    for title, data in cases.items():
        print(f"\n{name}, {data.members.shape} (member, time, y, x), {title}; the mean where a score has many values")
        print(f"{'score':32}{'peer':24}{'ours':>14}{'theirs':>14}{'difference':>12}")
        for score in scores:
            ours = quietly(score.ours, data)
            for peer, run in score.peers.items():
                reasons = [score.differs.get(peer), score.differs_nan.get(peer) if data is case else None]
                reason = "; ".join(filter(None, reasons))
                row = f"{score.name:32}{peer:24}{np.nanmean(ours):14.7g}"
                if not installed(peer):
                    print(f"{row}  not installed")
                    continue
                try:
                    theirs = quietly(run, data)
                except Exception as error:  # what a peer cannot do is a result
                    print(f"{row}{'-':>14}{'-':>12}  fails: {reason or str(error).splitlines()[0][:60]}")
                    continue
                apart = difference(ours, theirs)
                verdict = "equal" if apart <= 1e-5 else f"differs: {reason or '?'}"
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    print(f"{row}{np.nanmean(theirs):14.7g}{apart:12.1e}  {verdict}")


# ---------------------------------------------------------------- how fast


@dataclass
class Timing:
    """CPU seconds of each run and the largest extra memory, in MB."""

    values: np.ndarray
    times: list[float] = field(default_factory=list)
    memory: float = 0.0
    scaled: bool = False

    @property
    def median(self):
        return float(np.median(self.times))


class PeakMemory:
    """How far the memory of the process rises above where it starts, in MB; traced where the kernel does not tell."""

    def __enter__(self):
        try:
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed and kept would hide what is taken now
            Path("/proc/self/clear_refs").write_text("5")
            self.start = memory("VmRSS")
        except OSError:
            tracemalloc.start()
            self.start = None
        return self

    def __exit__(self, *_):
        if self.start is None:
            self.extra = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
        else:
            self.extra = max(memory("VmHWM") - self.start, 0.0)


def memory(which):
    """VmRSS, the memory in use, or VmHWM, the most so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1]) * 1024 / 1e6


def with_path(run, numba):
    """Our score on the path of numba, or of numpy, whatever the size of the input."""

    def on(case):
        before = compiled.WORTH_COMPILING
        compiled.WORTH_COMPILING = 0 if numba else math.inf
        try:
            return run(case)
        finally:
            compiled.WORTH_COMPILING = before

    return on


def time_side_by_side(candidates, case, repeats, limit):
    """Medians of interleaved runs; a candidate that would take longer than the limit runs once, on a tenth."""
    n = case.obs.sizes["time"]
    slice_ = case.first(max(1, n // 10))
    part = slice_.obs.sizes["time"] / n
    timings = {}
    for name, run in candidates.items():
        quietly(run, slice_)  # imports, compiles
        start = time.process_time()
        values = quietly(run, slice_)
        taken = (time.process_time() - start) / part
        timings[name] = Timing(values)
        if taken > limit:
            timings[name] = Timing(values, [taken], math.nan, True)
    _ = case.both, case.pairs, case.members_last  # made once, before the clock runs
    for _ in range(repeats):
        for name, run in candidates.items():
            timing = timings[name]
            if timing.scaled:
                continue
            with PeakMemory() as peak:
                start = time.process_time()
                timing.values = quietly(run, case)
                timing.times.append(time.process_time() - start)
            timing.memory = max(timing.memory, peak.extra)
    return timings


def print_timings(score, title, case, repeats, limit):
    ours = {"ours, numpy": with_path(score.ours, False)}
    if compiled.numba_is_here():
        ours["ours, numba"] = with_path(score.ours, True)
    peers = {peer: run for peer, run in score.peers.items() if installed(peer)}
    timings = time_side_by_side({**ours, **peers}, case, repeats, limit)
    whole = timings["ours, numpy"].values
    part = quietly(ours["ours, numpy"], case.first(max(1, case.obs.sizes["time"] // 10)))
    same = [p for p in peers if difference(part if timings[p].scaled else whole, timings[p].values) <= 1e-5]
    print(f"\n{score.name}, {title}")
    for name, timing in timings.items():
        note = " scaled from a tenth" if timing.scaled else ""
        if name in peers and name not in same:
            note += f" another number ({score.differs.get(name) or score.differs_nan.get(name) or '?'})"
        print(f"    {name:24}{1e3 * timing.median:12.1f} ms{timing.memory:9.0f} MB{note}")
    targets = {"best": (math.nan, math.nan), **score.targets.get(title.split(" (")[0], {})}
    for column, name in enumerate(("ours, numba", "ours, numpy")):
        if name not in timings:
            continue
        for peer, target in targets.items():
            rivals = same if peer == "best" else [peer] if peer in peers else []
            rivals = [r for r in rivals if "alone" not in r or peer != "best"]
            if not rivals:
                continue
            fastest = min(rivals, key=lambda r: timings[r].median)
            ratio = timings[fastest].median / timings[name].median
            wanted = target[column]
            verdict = "" if not wanted > 0 else f"target {wanted:g}: {'met' if ratio >= wanted else 'MISSED'}"
            said = f"best that agrees, {fastest}" if peer == "best" else fastest
            print(f"    {name}: {ratio:8.1f} x as fast as {said:42} {verdict}")


def print_latency(case, repeats=30):
    """Wall time of a small input, through xarray."""
    print(f"\nSmall input {case.members.shape}, wall time, target <= 0.7 ms")
    runs = {"ours, crps": lambda c: ensemble.crps_ensemble(c.obs, c.members)}
    runs["ours, csi at 6 thresholds"] = lambda c: events.csi(c.obs, c.members, thresholds=THRESHOLDS)
    crps = next(score for score in SCORES if score.name == "crps")
    runs |= {f"{p}, crps": crps.peers[p] for p in ("xskillscore", "scores") if installed(p)}
    for name, run in runs.items():
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            run(case)
            times.append(time.perf_counter() - start)
        print(f"    {name:30}{1e3 * np.median(times):8.2f} ms")


def print_speed(scores, small, repeats, limit):
    size, times = (256, 6) if small else (512, 20)
    a = made_up(10, times, size)
    cases = {"A": a, "A, radar range": a.in_radar_range(), "B": made_up(50, times, size // 2)}
    for score in scores:
        for name in score.on:
            print_timings(score, name, cases[name], repeats, limit)
    print_latency(made_up(10, 1, 64))


# ---------------------------------------------------------------- small fields, maps, large planes, layouts


def plain_fss(o, f, threshold=1.0, scale=5):
    """Outside of the grid it is dry, as in pysteps."""
    from scipy.ndimage import uniform_filter

    shares = [uniform_filter((field >= threshold).astype("f8"), scale, mode="constant") for field in (o, f)]
    return 1 - ((shares[0] - shares[1]) ** 2).sum() / ((shares[0] ** 2).sum() + (shares[1] ** 2).sum())


def plain_spectrum(field):
    n = len(field)
    wave = np.fft.fftfreq(n, 1 / n)
    ring = np.rint(np.hypot(wave[:, None], wave)).astype(int).ravel()
    power = np.abs(np.fft.fft2(field)).ravel() ** 2 / field.size
    return np.bincount(ring, power)[: n // 2] / np.bincount(ring)[: n // 2]


def plain_csi(o, f, axis=None):
    with np.errstate(invalid="ignore"):
        return [((o >= t) & (f >= t)).sum(axis) / ((o >= t) | (f >= t)).sum(axis) for t in THRESHOLDS]


def plain_rmse(o, f, axis=None):
    return np.sqrt(np.nanmean((f.astype("f8") - o) ** 2, axis))


def of_arrays(function, **options):
    return lambda c: function(c.obs.values, c.one.values, **options)


def groups(small):
    """By title: a case, and by name ours and the formula written down, or a peer."""
    at = {"thresholds": THRESHOLDS}
    wide, long, side = (64, 20, 1000) if small else (128, 50, 4000)
    one = {
        "rmse": (lambda c: amounts.rmse(c.obs, c.one), of_arrays(plain_rmse)),
        "csi, 6 thresholds": (lambda c: events.csi(c.obs, c.one, **at), of_arrays(plain_csi)),
        "fss, 1 threshold": (
            lambda c: neighbourhood.fss(c.obs, c.one, thresholds=1.0, scales=5),
            lambda c: plain_fss(*c.both[0]),
        ),
        "spectra of both": (
            lambda c: spectra.spectral_ratio(c.obs, c.one, spacing_km=1.0),
            lambda c: [plain_spectrum(field) for field in c.both[0]],
        ),
    }
    maps = {
        "rmse": (lambda c: amounts.rmse(c.obs, c.one, dim="time"), of_arrays(plain_rmse, axis=0)),
        "csi, 6 thresholds": (lambda c: events.csi(c.obs, c.one, dim="time", **at), of_arrays(plain_csi, axis=0)),
        "crps": (lambda c: ensemble.crps_ensemble(c.obs, c.members, dim="time"), None),
    }
    if installed("xskillscore"):
        maps["rmse, xskillscore"] = (None, lambda c: module("xskillscore").rmse(c.obs, c.one, dim="time", skipna=True))
    plane = {name: one[name] for name in ("rmse", "csi, 6 thresholds")}
    plane |= {
        "correlation": (lambda c: amounts.correlation(c.obs, c.one), None),
        "fss, 1 threshold": one["fss, 1 threshold"],
    }
    layouts = {
        "rmse": (lambda c: amounts.rmse(c.obs, c.members), None),
        "csi, 6 thresholds": (lambda c: events.csi(c.obs, c.members, **at), None),
        "crps": (lambda c: ensemble.crps_ensemble(c.obs, c.members), None),
        "rank histogram": (lambda c: ranks.rank_histogram(c.obs, c.members), None),
    }
    ensemble_of = made_up(10, 8, 2 * wide)
    last = ensemble_of.members.transpose("time", "y", "x", "member")
    last = xr.DataArray(np.ascontiguousarray(last.values), dims=last.dims)
    return {
        f"one field of {wide // 2} x {wide // 2}": (made_up(1, 1, wide // 2), one),
        f"one field of {wide} x {wide}": (made_up(1, 1, wide), one),
        f"maps over {long} times of {2 * wide} x {2 * wide}": (made_up(10, long, 2 * wide), maps),
        f"one plane of {side} x {side}": (made_up(1, 1, side), plane),
        "10 members, first in memory": (ensemble_of, layouts),
        "10 members, last in memory": (Case(ensemble_of.obs, last), layouts),
    }


def print_sizes(small, repeats):
    for title, (case, rows) in groups(small).items():
        print(f"\n{title}, CPU ms{'':24}ours   written down")
        _ = case.one, case.both
        for name, runs in rows.items():
            times = [math.nan if run is None else 1e3 * shortest(run, case, repeats) for run in runs]
            print(f"    {name:38}{times[0]:12.2f}{times[1]:15.2f}")


def shortest(run, case, repeats):
    """CPU seconds of the fastest of some runs, each long enough for the clock."""
    quietly(run, case)
    start = time.process_time()
    quietly(run, case)
    n = max(1, min(50, round(0.02 / max(time.process_time() - start, 1e-6))))
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(n):
            run(case)
        times.append((time.process_time() - start) / n)
    return min(times)


# ---------------------------------------------------------------- how little memory


def lazy_xskillscore_csi(o, f):
    table = module("xskillscore").Contingency
    edges = [np.array([-np.inf, t, np.inf]) for t in THRESHOLDS]
    tables = [table(o, f, e, e, dim=["member", *ALL]) for e in edges]
    return xr.concat([t.threat_score() for t in tables], "threshold")


def lazy_scores_csi(o, f):
    operator = module("scores.categorical").ThresholdEventOperator()
    events = [operator.make_contingency_manager(f, o, event_threshold=t) for t in THRESHOLDS]
    return xr.concat([e.transform().critical_success_index() for e in events], "threshold")


def lazy_scores_fss(o, f):
    fss = partial(module("scores.spatial").fss_2d, f, o, event_threshold=2.0, threshold_operator=np.greater_equal)
    options = {"spatial_dims": ("y", "x"), "dask": "parallelized"}
    return xr.concat([fss(window_size=(w, w), **options) for w in WIDTHS], "scale")


LAZY = {
    "read and sum": lambda o, f: o.sum() + f.sum(),
    "csi": lambda o, f: events.csi(o, f, thresholds=THRESHOLDS),
    "rmse": lambda o, f: amounts.rmse(o, f),
    "crps": lambda o, f: ensemble.crps_ensemble(o, f),
    "rank_histogram": lambda o, f: ranks.rank_histogram(o, f),
    "brier_score": lambda o, f: probability.brier_score(o, f, thresholds=THRESHOLDS),
    "fss": lambda o, f: neighbourhood.fss(o, f, thresholds=2.0, scales=WIDTHS),
    "emd": lambda o, f: distribution.emd(o, f),
    "spectral_ratio": lambda o, f: spectra.spectral_ratio(o, f, spacing_km=1.0),
    "xskillscore crps": lambda o, f: module("xskillscore").crps_ensemble(o, f),
    "scores crps": lambda o, f: module("scores.probability").crps_for_ensemble(f, o, "member"),
    "xskillscore csi": lazy_xskillscore_csi,
    "scores csi": lazy_scores_csi,
    "scores fss": lazy_scores_fss,
}


def score_store(name, path):
    """In a process of its own: CPU seconds, rise of the memory in MB, size of the graph; or why it fails."""
    import dask

    def build():
        store = xr.open_zarr(path)
        return LAZY[name](store["observed"], store["forecast"])

    with dask.config.set(scheduler="threads", num_workers=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = xr.open_zarr(path).isel(time=slice(0, 1))
        try:
            LAZY[name](first["observed"], first["forecast"]).compute()  # imports, compiles
        except Exception as error:  # what a peer cannot do is a result
            return str(error).splitlines()[0][:80]
        with PeakMemory() as peak:
            start = time.process_time()
            lazy = build()  # in the time as well: some peers compute here
            lazy.compute()
            taken = time.process_time() - start
    graph = lazy.__dask_graph__()
    return taken, peak.extra, math.nan if graph is None else len(dict(graph))


def print_memory(small, only):
    times, size = (12, 256) if small else (60, 512)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rain.zarr")
        one = made_up(10, 1, size)
        for t in range(times):
            part = xr.Dataset({"observed": one.obs, "forecast": one.members}).roll(x=7 * t)
            part = part.assign_coords(time=[t]).chunk()
            part.to_zarr(path, mode="w" if t == 0 else "a", append_dim="time" if t else None, consolidated=False)
        gigabytes = times * (one.nbytes + one.obs.nbytes) / 1e9
        print(f"\nZarr of {gigabytes:.2f} GB, {times} chunks of {one.nbytes / 1e6:.1f} MB, 2 threads")
        print(f"{'':24}{'CPU s':>8}{'peak MB':>9}{'of a read':>10}{'tasks per chunk':>17}")
        peaks = {}
        context = multiprocessing.get_context("spawn")
        for name in LAZY:
            if not installed(name) and name.split()[0] in ("xskillscore", "scores"):
                continue
            if name != "read and sum" and not name.split()[-1].startswith(only):
                continue
            with context.Pool(1) as pool:
                found = pool.apply(score_store, (name, path))
            if isinstance(found, str):
                print(f"{name:24} fails: {found}")
                continue
            taken, peaks[name], graph = found
            ratio = peaks[name] / peaks["read and sum"]
            print(f"{name:24}{taken:8.2f}{peaks[name]:9.0f}{ratio:10.2f}{graph / times:17.1f}")
    frames, megabytes = 365 * 24 * 12, 1000 * 1000 * 4 / 1e6
    year, with_members = frames * megabytes / 1e3, frames * megabytes * 11 / 1e6
    print(f"\nA year of 1000 x 1000 every 5 minutes: {frames} fields of {megabytes:g} MB, {year:.0f} GB;")
    print(f"{with_members:.1f} TB with 10 members. In memory at a time are a chunk for each thread (of one time")
    print(f"{11 * megabytes:g} MB), what a score needs beside it, and sums of some bytes.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    for option in ("compare", "speed", "sizes", "memory", "small"):
        parser.add_argument(f"--{option}", action="store_true")
    parser.add_argument("--data", type=Path, default=beside, help="folder with the events as CF NetCDF")
    parser.add_argument("--only", default="", help="names of scores, or how they begin, with commas between")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0, help="CPU seconds from which a peer runs on a slice")
    arguments = parser.parse_args()
    os.environ["NUMBA_NUM_THREADS"] = "1"  # of peers, before they import it; nothing here calls BLAS
    only = tuple(arguments.only.split(","))
    scores = [s for s in SCORES if s.name.startswith(only)]
    if arguments.compare:
        print_comparison(*real_event(arguments.data), scores)
    if arguments.speed:
        print_speed(scores, arguments.small, arguments.repeats, arguments.limit)
    if arguments.sizes:
        print_sizes(arguments.small, arguments.repeats)
    if arguments.memory:
        print_memory(arguments.small, only)


if __name__ == "__main__":
    main()
