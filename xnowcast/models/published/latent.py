"""Weights of STLDM's public code for its three networks."""

import re

import torch
from torch import Tensor

from xnowcast.models.published.blocks import BLOCKS, GATED_BLOCKS, flattened, renamed
from xnowcast.models.published.taking import Tensors, require_all
from xnowcast.models.stldm.model import STLDM

RENAMED = (
    (r"^backbone\.vae\.encoder\.enc\.(\d+)\.conv\.conv\.", r"autoencoder.encoder.\1.0."),
    (r"^backbone\.vae\.encoder\.enc\.(\d+)\.conv\.norm\.", r"autoencoder.encoder.\1.1."),
    (r"^backbone\.vae\.encoder\.enc\.\d+\.(weight|bias)$", r"autoencoder.moments.\1"),
    (r"^backbone\.vae\.decoder\.dec\.0\.(weight|bias)$", r"autoencoder.entry.\1"),
    (r"^backbone\.vae\.decoder\.dec\.(\d+)\.conv\.conv\.", r"autoencoder.decoder.\1.0."),
    (r"^backbone\.vae\.decoder\.dec\.(\d+)\.conv\.norm\.", r"autoencoder.decoder.\1.1."),
    (r"^backbone\.vae\.decoder\.readout\.", "autoencoder.readout."),
    (r"^backbone\.hid\.enc\.(\d+)\.reduction\.", r"translator.blocks.\1.leave."),
    (r"^backbone\.hid\.enc\.(\d+)\.block\.", r"translator.blocks.\1."),
    *GATED_BLOCKS,
    (r"^diff_unet\.time_mlp\.mlp\.", "denoiser.time."),
    (r"^diff_unet\.conditions\.", "denoiser.pyramid."),
    (r"^diff_unet\.downs\.(\d+)\.block1\.", r"denoiser.down.\1.conditioned."),
    (r"^diff_unet\.downs\.(\d+)\.block2\.", r"denoiser.down.\1.residual."),
    (r"^diff_unet\.downs\.(\d+)\.last\.", r"denoiser.down.\1.resize."),
    (r"^diff_unet\.ups\.(\d+)\.up\.", r"denoiser.up.\1.resize."),
    (r"^diff_unet\.(ups\.\d+|mid)\.block1\.", r"diff_unet.\1.first."),
    (r"^diff_unet\.(ups\.\d+|mid)\.block2\.", r"diff_unet.\1.second."),
    (r"^diff_unet\.mid\.block3\.", "denoiser.middle.third."),
    (r"^diff_unet\.downs\.", "denoiser.down."),
    (r"^diff_unet\.ups\.", "denoiser.up."),
    (r"^diff_unet\.mid\.", "denoiser.middle."),
    (r"\.(?:attn_spatial|qattn_spatial|attn1)\.", ".spatial."),
    (r"\.(?:attn_temporal|qattn_time)\.", ".temporal."),
    *BLOCKS,
)


def stldm(model: STLDM, tensors: Tensors) -> dict[str, Tensor]:
    """The state of an `STLDM` from weights of its public code (Foo et al. 2026), of its network in 3D or in 2D.

    Forecasts are those of the authors with ``temporal_norm="time"`` (3D) or ``frame_wise=True`` (2D), and, member by
    member, with ``sampled_condition=True``.

    Parameters
    ----------
    model : STLDM
        With the options of the published one; ``input_frames`` and ``target_frames`` among them.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"diff_unet.downs.0.last.weight"``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``model.load_state_dict``, which refuses those of a network with other options.

    Raises
    ------
    ValueError
        If they are weights of the other of the two networks, one is missing, or there are some that the network has no
        place for.

    Examples
    --------
    >>> tensors = {"diff_unet.downs.0.attn1.fn.norm.g": torch.ones(1, 16, 1, 1)}
    >>> stldm(STLDM(size="tiny"), tensors)
    Traceback (most recent call last):
    ValueError: these are weights of the published 2D network: build it with frame_wise=True
    """
    in_3d = not any(".attn1." in name for name in tensors)
    if in_3d == model.options.frame_wise:
        kind, built = ("3D", False) if in_3d else ("2D", True)
        raise ValueError(f"these are weights of the published {kind} network: build it with frame_wise={built}")
    unread = f"diff_unet.conditions.{len(model.denoiser.pyramid)}."
    network = {name: own for name, own in tensors.items() if "." in name and not name.startswith(unread)}
    published = {_renamed(name): name for name in network}  # those without a dot are of the schedule
    state = {name: network[theirs] for name, theirs in published.items()}
    for name in [name for name in state if name.endswith(".temporal.q.weight")]:
        place = name.removesuffix("q.weight")
        parts = [state.pop(f"{place}{part}.weight", None) for part in "qkv"]
        if all(part is not None for part in parts):
            state[f"{place}qkv.weight"] = torch.cat([part for part in parts if part is not None])
    require_all(model, state, published)
    return flattened(state)


def _renamed(name: str) -> str:
    name = renamed(name, RENAMED)
    layer = re.match(r"(autoencoder\.decoder\.)(\d+)(.*)", name)  # the entry is the first layer there
    return f"{layer[1]}{int(layer[2]) - 1}{layer[3]}" if layer else name
