"""Forecasts of pysteps, with its own defaults, where it is installed."""

import contextlib
import importlib.util
import io

import numpy as np

HERE = importlib.util.find_spec("pysteps") is not None
DRY = -15.0  # dB, of what is below 0.1 mm/h


def decibel(rain: np.ndarray) -> np.ndarray:
    return np.where(rain >= 0.1, 10.0 * np.log10(np.maximum(rain, 0.1)), DRY).astype("f8")


def from_decibel(values: np.ndarray) -> np.ndarray:
    """NaN stays."""
    return np.where(values < -10.0, 0.0, 10.0 ** (values / 10.0))


def motion_of(frames: np.ndarray) -> np.ndarray:
    """Lucas-Kanade motion of frames ``(t, y, x)`` in mm/h without NaN, as pysteps' documentation finds it."""
    from pysteps import motion

    with contextlib.redirect_stdout(io.StringIO()):
        return motion.get_method("LK")(decibel(frames))


def extrapolate(newest: np.ndarray, motion: np.ndarray, steps: int, **options) -> np.ndarray:
    from pysteps.extrapolation.semilagrangian import extrapolate

    with contextlib.redirect_stdout(io.StringIO()):
        return extrapolate(newest.astype("f8"), motion, steps, **options)


def forecast(method: str, frames: np.ndarray, steps: int, minutes: float, km: float, members: int, seed: int):
    """``([member], step, y, x)`` in mm/h of "lk", "sprog" or "steps", from frames ``(t, y, x)`` in mm/h."""
    from pysteps import nowcasts

    frames = np.nan_to_num(frames)
    motion = motion_of(frames)
    if method == "lk":
        return extrapolate(frames[-1], motion, steps)
    common = {"n_cascade_levels": 6, "precip_thr": -10.0}
    if method == "steps":
        common |= {
            "n_ens_members": members,
            "kmperpixel": km,
            "timestep": minutes,
            "noise_method": "nonparametric",
            "vel_pert_method": "bps",
            "mask_method": "incremental",
            "seed": seed,
            "num_workers": 1,
        }
    with contextlib.redirect_stdout(io.StringIO()):
        made = nowcasts.get_method(method)(decibel(frames[-3:]), motion, steps, **common)
    return from_decibel(made)
