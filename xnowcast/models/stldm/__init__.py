"""STLDM: an autoencoder, a translator that makes a first estimate, and latent diffusion that makes members of it."""

from xnowcast.models.stldm.model import SIZES, STLDM, STRATEGIES

__all__ = ["SIZES", "STLDM", "STRATEGIES"]
