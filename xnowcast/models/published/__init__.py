"""Weights of the authors' own networks, renamed and turned so that the networks here take them.

Nothing is unpickled here: read a published ``.pt`` file with ``torch.load(path, weights_only=True)``, and hand on what
it holds.
"""

from xnowcast.models.published.backbone import intern_image
from xnowcast.models.published.cascast import casformer, kl_autoencoder
from xnowcast.models.published.cells import ms_rnn
from xnowcast.models.published.channel_transformer import lpt_qpn
from xnowcast.models.published.cuboid import earthformer
from xnowcast.models.published.downscaling import stvd
from xnowcast.models.published.ensemble import convgru_ensemble
from xnowcast.models.published.latent import stldm
from xnowcast.models.published.metnet import komet_metnet
from xnowcast.models.published.residual_diffusion import diffcast, phydnet
from xnowcast.models.published.swin import swin_ir
from xnowcast.models.published.translating import simvp
from xnowcast.models.published.unet import guided_diffusion

__all__ = [
    "casformer",
    "convgru_ensemble",
    "diffcast",
    "earthformer",
    "guided_diffusion",
    "intern_image",
    "kl_autoencoder",
    "komet_metnet",
    "lpt_qpn",
    "ms_rnn",
    "phydnet",
    "simvp",
    "stldm",
    "stvd",
    "swin_ir",
]
