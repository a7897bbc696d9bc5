"""STVD: a downscaler that looks at several frames, and residual video diffusion that makes members of its estimate."""

from xnowcast.models.stvd.model import SIZES, STVD

__all__ = ["SIZES", "STVD"]
