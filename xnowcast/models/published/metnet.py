"""Weights of KoMet's MetNet, of which the network that reads several lead times is one."""

from torch import Tensor

from xnowcast.models.metnet_sequence import SequenceNetwork
from xnowcast.models.published.taking import Published, Tensors

KOMET = {
    "enter": "spatial_downsampler.0",
    "widen": "spatial_downsampler.2",
    "cells": "temporal_encoder.cell_list",
    "blocks": "spatial_aggregator",
    "refine": "upsampling.0",
    "leave": "upsampling.2",
    "read": "out_layer",
    "convolution": "conv",
    "norm": "bn",
    "places": "W_c",
    "norm_gates": "bn1",
    "norm_memory": "bn2",
    "inward": "conv_down",
    "norm_in": "bn1",
    "along_y": "hight_block",
    "along_x": "width_block",
    "outward": "conv_up",
    "norm_out": "bn2",
    "qkv": "qkv_transform",
    "norm_qkv": "bn_qkv",
    "norm_similarity": "bn_similarity",
    "norm_gathered": "bn_output",
}
"""Layers here and in the published network."""


def komet_metnet(network: SequenceNetwork, tensors: Tensors) -> dict[str, Tensor]:
    """The state of a `SequenceNetwork` from weights of KoMet's MetNet (Kim et al. 2022).

    Parameters
    ----------
    network : SequenceNetwork
        Of the published one's sizes and grid, with ``batch_statistics=True``, as the published one keeps no statistics.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"spatial_downsampler.0.conv.weight"``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``network.load_state_dict``.

    Raises
    ------
    ValueError
        If a tensor is missing, as statistics are where the network keeps them, or the network has no place for one.
    RuntimeError
        By ``load_state_dict``, if the sizes are others.

    Examples
    --------
    >>> from xnowcast.models.metnet_sequence import Shape
    >>> komet_metnet(SequenceNetwork(5, 3, Shape(), steps=3, grid=(50, 65), batch_statistics=True), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is no 'spatial_downsampler.0.conv.weight'
    """
    never_read = ("temporal_encoder.out_conv.", "flatten_index")  # the latter counts distances
    published = Published({name: one for name, one in tensors.items() if not any(part in name for part in never_read)})
    state = {
        ours: published.tensor(".".join(KOMET.get(part, part) for part in ours.split(".")))
        for ours in network.state_dict()
    }
    published.require_nothing_left()
    return state
