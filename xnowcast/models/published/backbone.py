"""Weights of InternImage's public code for the encoder of NWP-MAE."""

import torch
from einops import rearrange
from torch import Tensor

from xnowcast.models.published.blocks import renamed
from xnowcast.models.published.taking import Tensors, require_all
from xnowcast.nn.deformable import POINTS, DeformableConvolution
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
    (r"\.post_norms\.(\d+)\.0\.", r".block_norms.\1."),
    (r"\.norm1\.0\.", ".gather_norm."),
    (r"\.norm2\.0\.", ".mix_norm."),
    (r"\.res_post_norm1\.0\.", ".gather_norm_behind."),
    (r"\.res_post_norm2\.0\.", ".mix_norm_behind."),
    (r"\.gamma1$", ".gather_scale"),
    (r"\.gamma2$", ".mix_scale"),
    (r"\.mlp\.fc1\.", ".mix.0."),
    (r"\.mlp\.fc2\.", ".mix.2."),
    (r"\.dcn\.dw_conv\.0\.", ".gather.depthwise."),
    (r"\.dcn\.dw_conv\.1\.1\.", ".gather.norm."),
    (r"\.dcn\.mask\.", ".gather.weight."),
    (r"\.dcn\.input_proj\.", ".gather.values."),
    (r"\.dcn\.output_proj\.", ".gather.out."),
    (r"\.dcn\.center_feature_scale_proj_", ".gather.centre."),
    (r"\.dcn\.", ".gather."),
)

HEADS = ("conv_head.", "head.", "dcnv3_head_x3.", "dcnv3_head_x4.", "clip_projector.", "fc_norm.")
"""What makes classes of the maps, the last four in H."""


def intern_image(network: InternImage, tensors: Tensors) -> dict[str, Tensor]:
    """The state of an `InternImage` from weights of its public code (Wang et al. 2023), of any size.

    Without a layer scale (T and H) the scales are 1. What makes classes of the maps is left out. A network with other
    channels than the published one takes each of its own for the mean of those, with weights of the same sum.

    Parameters
    ----------
    network : InternImage
        With the sizes and the variant of the published one, and channels of its own.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"patch_embed.conv1.weight"``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``network.load_state_dict``, which refuses those of a network with other sizes.

    Raises
    ------
    ValueError
        If a tensor is missing, or there are some that the network has no place for, such as those of norms behind in a
        network of another variant.

    Examples
    --------
    >>> intern_image(InternImage(3, width=8, depths=(), groups=()), {"patch_embed.norm2.1.bias": torch.zeros(8)})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is none for 'stem.first.convolution.bias' and 6 more
    """
    scales = {name: own for name, own in network.named_parameters() if name.endswith("_scale")}
    state = {name: torch.ones_like(own) for name, own in scales.items()}
    encoder = [name for name in tensors if not name.startswith(HEADS)]
    published = {renamed(name, RENAMED): name for name in encoder}
    points = next((part.points for part in network.modules() if isinstance(part, DeformableConvolution)), POINTS)
    state |= {here: _by_rows(here, tensors[name], points) for here, name in published.items()}
    require_all(network, state, published)
    return state | _other_channels(network, state)


def _other_channels(network: InternImage, state: Tensors) -> dict[str, Tensor]:
    """The first convolution for the channels of the network."""
    name = "stem.first.convolution.weight"
    first, channels = state[name], network.state_dict()[name].shape[1]
    if first.shape[1] == channels:
        return {}
    return {name: first.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels}


def _by_rows(name: str, rows: Tensor, points: int) -> Tensor:
    """Points go column by column there and row by row here, and offsets are (x, y) of a point there."""
    there = [3 * x + y for y in range(3) for x in range(3)]
    if points < POINTS:  # without the middle
        there = [place - (place > 4) for place in there if place != 4]
    if ".gather.offset." in name:
        return rearrange(rows, "(g p two) ... -> two g p ...", p=points, two=2)[:, :, there].flip(0).flatten(0, 2)
    if ".gather.weight." in name:
        return rearrange(rows, "(g p) ... -> g p ...", p=points)[:, there].flatten(0, 1)
    return rows
