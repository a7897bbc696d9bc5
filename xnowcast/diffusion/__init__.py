"""The parts of a diffusion model that do not depend on its network: schedules, targets, samplers, guidance, tiles."""

from xnowcast.diffusion.guidance import guided
from xnowcast.diffusion.parameterizations import PARAMETERIZATIONS, Parameterization, as_denoiser, loss_weight
from xnowcast.diffusion.samplers import SAMPLERS, Denoise, ancestral, ddim, dpm_solver, heun, posterior
from xnowcast.diffusion.schedules import (
    CLEAN,
    Schedule,
    cosine_schedule,
    evenly_spaced_steps,
    karras_schedule,
    karras_spaced_steps,
    linear_schedule,
    sigmoid_schedule,
)
from xnowcast.diffusion.tiling import Window, tiled

__all__ = [
    "CLEAN",
    "PARAMETERIZATIONS",
    "SAMPLERS",
    "Denoise",
    "Parameterization",
    "Schedule",
    "Window",
    "ancestral",
    "as_denoiser",
    "cosine_schedule",
    "ddim",
    "dpm_solver",
    "evenly_spaced_steps",
    "guided",
    "heun",
    "karras_schedule",
    "karras_spaced_steps",
    "linear_schedule",
    "loss_weight",
    "posterior",
    "sigmoid_schedule",
    "tiled",
]
