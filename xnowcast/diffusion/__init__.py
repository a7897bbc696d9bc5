"""The parts of a diffusion model that do not depend on its network: schedules, samplers, flows, guidance, tiles."""

from xnowcast.diffusion.flow import FLOW_SAMPLERS, StraightPath, evenly_spaced_times, heun_in_time
from xnowcast.diffusion.guidance import guided
from xnowcast.diffusion.parameterizations import PARAMETERIZATIONS, Parameterization, as_denoiser, loss_weight
from xnowcast.diffusion.samplers import SAMPLERS, Denoise, ancestral, ddim, dpm_solver, heun, posterior
from xnowcast.diffusion.schedules import (
    CLEAN,
    NoisePath,
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
    "FLOW_SAMPLERS",
    "PARAMETERIZATIONS",
    "SAMPLERS",
    "Denoise",
    "NoisePath",
    "Parameterization",
    "Schedule",
    "StraightPath",
    "Window",
    "ancestral",
    "as_denoiser",
    "cosine_schedule",
    "ddim",
    "dpm_solver",
    "evenly_spaced_steps",
    "evenly_spaced_times",
    "guided",
    "heun",
    "heun_in_time",
    "karras_schedule",
    "karras_spaced_steps",
    "linear_schedule",
    "loss_weight",
    "posterior",
    "sigmoid_schedule",
    "tiled",
]
