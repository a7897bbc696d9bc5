"""Earthformer: attention within cuboids of space and time makes all frames ahead in one pass."""

from xnowcast.models.earthformer.model import SIZES, Earthformer
from xnowcast.models.earthformer.network import EarthformerNetwork, Form

__all__ = ["SIZES", "Earthformer", "EarthformerNetwork", "Form"]
