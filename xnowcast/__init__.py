"""Precipitation nowcasting that lives inside xarray.

Importing this registers ``ds.nowcast`` and imports no torch; whatever needs torch imports it when it runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xnowcast import _names
from xnowcast._version import __version__ as __version__
from xnowcast.accessor import NowcastDataArrayAccessor, NowcastDatasetAccessor
from xnowcast.archive import hindcast, score_archive
from xnowcast.fields.cf import rain_rate
from xnowcast.fields.pairing import pair
from xnowcast.models.weights import card, load
from xnowcast.training.train import train
from xnowcast.verbs.coarsen import coarsen
from xnowcast.verbs.deblur import deblur
from xnowcast.verbs.downscale import downscale
from xnowcast.verbs.forecast import forecast
from xnowcast.verbs.postprocess import explain, postprocess

if TYPE_CHECKING:
    import xnowcast.archive as archive
    import xnowcast.data.datasets as datasets
    import xnowcast.io as io
    import xnowcast.models as models
    import xnowcast.models.shipped as pretrained
    import xnowcast.plot as plot
    import xnowcast.verify as verify
    from xnowcast.comparison.compare import compare

__all__ = [
    "NowcastDataArrayAccessor",
    "NowcastDatasetAccessor",
    "archive",
    "card",
    "coarsen",
    "compare",
    "datasets",
    "deblur",
    "downscale",
    "explain",
    "forecast",
    "hindcast",
    "io",
    "load",
    "models",
    "pair",
    "plot",
    "postprocess",
    "pretrained",
    "rain_rate",
    "score_archive",
    "train",
    "verify",
]

_ON_DEMAND = ("io", "models", "plot", "verify")


_names.install()


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND or name in _names.HOMES:
        return import_module(f"xnowcast.{name}")
    if name == "compare":
        return import_module("xnowcast.comparison.compare").compare
    raise AttributeError(f"module 'xnowcast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
