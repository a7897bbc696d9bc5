"""The only place where Dask meets torch: device, batches, seeds, one model per worker.

`workers` has what any task needs, `sequences` runs models that continue a sequence, `frames` those that take frames
one by one.
"""

from xnowcast.engine.frames import FrameLabels, FramePlan, deblur_arrays
from xnowcast.engine.sequences import ForecastPlan, forecast_array, predict
from xnowcast.engine.workers import ModelRecipe, choose_device, progress_bar, worker_model

__all__ = [
    "ForecastPlan",
    "FrameLabels",
    "FramePlan",
    "ModelRecipe",
    "choose_device",
    "deblur_arrays",
    "forecast_array",
    "predict",
    "progress_bar",
    "worker_model",
]
