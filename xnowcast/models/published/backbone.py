"""Weights of InternImage's public code for the encoder of NWP-MAE."""

import torch
from einops import rearrange
from torch import Tensor

from xnowcast.models.published.blocks import renamed
from xnowcast.models.published.taking import Tensors
from xnowcast.nn.intern_image import InternImage

RENAMED = (
    (r"^patch_embed\.conv1\.", "stem.first.convolution."),
    (r"^patch_embed\.norm1\.1\.", "stem.first.norm."),
    (r"^patch_embed\.conv2\.", "stem.second.convolution."),
    (r"^patch_embed\.norm2\.1\.", "stem.second.norm."),
    (r"^levels\.", "stages."),
    (r"^(stages\.\d+)\.norm\.0\.", r"\1.norm."),
    (r"\.downsample\.conv\.", ".down.convolution."),
    (r"\.downsample\.norm\.1\.", ".down.norm."),
    (r"\.norm1\.0\.", ".gather_norm."),
    (r"\.norm2\.0\.", ".mix_norm."),
    (r"\.gamma1$", ".gather_scale"),
    (r"\.gamma2$", ".mix_scale"),
    (r"\.mlp\.fc1\.", ".mix.0."),
    (r"\.mlp\.fc2\.", ".mix.2."),
    (r"\.dcn\.dw_conv\.0\.", ".gather.depthwise."),
    (r"\.dcn\.dw_conv\.1\.1\.", ".gather.norm."),
    (r"\.dcn\.mask\.", ".gather.weight."),
    (r"\.dcn\.input_proj\.", ".gather.values."),
    (r"\.dcn\.output_proj\.", ".gather.out."),
    (r"\.dcn\.", ".gather."),
)


def intern_image(network: InternImage, tensors: Tensors) -> dict[str, Tensor]:
    """The state of an `InternImage` from weights of its public code (Wang et al. 2023), of those with norms before.

    Without a layer scale (T) the scales are 1. What makes classes of the maps is left out.

    Parameters
    ----------
    network : InternImage
        With the sizes of the published one.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"patch_embed.conv1.weight"``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``network.load_state_dict``, which refuses those of a network with other sizes, or with norms behind (L,
        XL, H and G).

    Examples
    --------
    >>> intern_image(InternImage(3, width=8, depths=(), groups=()), {"patch_embed.norm2.1.bias": torch.zeros(8)})
    {'stem.second.norm.bias': tensor([0., 0., 0., 0., 0., 0., 0., 0.])}
    """
    scales = {name: own for name, own in network.named_parameters() if name.endswith("_scale")}
    state = {name: torch.ones_like(own) for name, own in scales.items()}
    for name, own in tensors.items():
        if not name.startswith(("conv_head.", "head.")):
            here = renamed(name, RENAMED)
            state[here] = _by_rows(here, own)
    return state


def _by_rows(name: str, rows: Tensor) -> Tensor:
    """Points go column by column there and row by row here, and offsets are (x, y) of a point there."""
    if ".gather.offset." in name:
        return rearrange(rows, "(g x y two) ... -> two g y x ...", x=3, y=3, two=2).flip(0).flatten(0, 3)
    if ".gather.weight." in name:
        return rearrange(rows, "(g x y) ... -> (g y x) ...", x=3, y=3)
    return rows
