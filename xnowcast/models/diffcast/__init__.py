"""DiffCast: any forecaster, and a diffusion of what it leaves out, a few frames at a time."""

from xnowcast.models.diffcast.model import SIZES, DiffCast

__all__ = ["SIZES", "DiffCast"]
