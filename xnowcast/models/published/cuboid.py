"""Weights of Earthformer's public code."""

from torch import Tensor

from xnowcast.models.earthformer.network import EarthformerNetwork
from xnowcast.models.published.blocks import renamed
from xnowcast.models.published.taking import Tensors, require_all

ATTENTION = (
    (r"\.relative_position_bias_table$", ".bias"),
    (r"\.proj\.", ".out."),
    (r"\.global_vec_norm\.", ".vector_norm."),
    (r"\.global_proj\.", ".vector_out."),
    (r"\.global_qkv\.", ".exchange.vector."),
    (r"\.l2g_q_net\.", ".exchange.cell_query."),
    (r"\.l2g_global_kv_net\.", ".exchange.vector_key_value."),
    (r"\.g2l_global_q_net\.", ".exchange.vector_query."),
    (r"\.g2l_k_net\.", ".exchange.cell_key."),
    (r"\.g2l_v_net\.", ".exchange.cell_value."),
    (r"\.g2g_global_qkv_net\.", ".exchange.among."),
    (r"\.q_proj\.", ".query."),
    (r"\.kv_proj\.", ".key_value."),
)
"""Within a layer of cuboid attention, and of attention to a memory."""

FEED_FORWARD = (
    (r"\.layer_norm\.", ".norm."),
    (r"\.ffn_1\.", ".inward."),
    (r"\.ffn_1_gate\.", ".gate."),
    (r"\.ffn_2\.", ".outward."),
)

BLOCK = (
    (r"\.global_ffn_l\.", ".vector_feed_forwards."),
    (r"\.attn_l\.", ".attentions."),
    (r"\.ffn_l\.", ".feed_forwards."),
)

POSITIONS = (
    (r"\.T_embed\.weight$", ".tables.time"),
    (r"\.H_embed\.weight$", ".tables.y"),
    (r"\.W_embed\.weight$", ".tables.x"),
    (r"\.HW_embed\.weight$", ".tables.cell"),
)

EARTHFORMER = (
    (r"^init_global_vectors$", "vectors"),
    (r"^initial_encoder\.conv_block_list\.", "stem.convolutions."),
    (r"^initial_encoder\.patch_merge_list\.", "stem.merges."),
    (r"^final_decoder\.conv_block_list\.", "tail.convolutions."),
    (r"^final_decoder\.upsample_list\.(\d+)\.conv\.", r"tail.ups.\1.convolution."),
    (r"^dec_final_proj\.", "out."),
    (r"^enc_pos_embed\.", "positions."),
    (r"^dec_pos_embed\.", "start_positions."),
    (r"^z_proj\.", "start."),
    (r"^encoder\.down_layers\.", "encoder.merges."),
    (r"^encoder\.down_layer_global_proj\.", "encoder.widen."),
    (r"^encoder\.blocks\.", "encoder.levels."),
    (r"^decoder\.self_blocks\.(\d+)\.", r"decoder.levels.\1.within."),
    (r"^decoder\.cross_blocks\.(\d+)\.(\d+)\.attn_l\.0\.", r"decoder.levels.\1.across.\2.attention."),
    (r"^decoder\.cross_blocks\.(\d+)\.(\d+)\.ffn_l\.0\.", r"decoder.levels.\1.across.\2.feed_forward."),
    (r"^decoder\.upsample_layers\.(\d+)\.conv\.", r"decoder.ups.\1.convolution."),
    (r"^decoder\.hierarchical_pos_embed_l\.", "decoder.positions."),
)

RENAMED = (*EARTHFORMER, *BLOCK, *ATTENTION, *FEED_FORWARD, *POSITIONS)


def earthformer(network: EarthformerNetwork, tensors: Tensors) -> dict[str, Tensor]:
    """The state of an `EarthformerNetwork` from weights of Earthformer's public code, or of CasCast's first stage.

    Parameters
    ----------
    network : EarthformerNetwork
        Of the published one's form.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"encoder.blocks.0.0.attn_l.0.qkv.weight"``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``network.load_state_dict``.

    Raises
    ------
    ValueError
        If a tensor is missing, or there are some that the network has no place for.
    RuntimeError
        By ``load_state_dict``, if the sizes are others, such as tables for another grid.

    Examples
    --------
    >>> from xnowcast.models.earthformer.network import Form
    >>> form = Form(grid=(24, 24), widths=(8,), factors=(4,), convolutions=(1,))
    >>> earthformer(EarthformerNetwork(form), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is none for 'decoder.levels.0.across.0...
    """
    own = network.state_dict()
    published = {renamed(name, RENAMED): name for name in tensors if not name.endswith(".relative_position_index")}
    if network.start_positions is None:  # the published network keeps them unread
        published = {ours: name for ours, name in published.items() if not ours.startswith("start_positions.")}
    state = {ours: tensors[name] for ours, name in published.items()}
    for name, tensor in state.items():
        if name.endswith(".tables.cell") and name in own and tensor.numel() == own[name].numel():
            state[name] = tensor.reshape(own[name].shape)
    require_all(network, state, published)
    return state
