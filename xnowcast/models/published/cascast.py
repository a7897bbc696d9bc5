"""Weights of the public codes of CasCast and PreDiff: the autoencoder that both have, and CasFormer."""

import torch
from torch import Tensor

from xnowcast.models.published.blocks import renamed
from xnowcast.models.published.taking import Tensors, require_all
from xnowcast.nn.casformer import CasFormer
from xnowcast.nn.kl_autoencoder import KLAutoencoder

AUTOENCODER = (
    (r"^net\.", ""),
    (r"^quant_conv\.", "moments."),
    (r"^post_quant_conv\.", "entry."),
    (r"\.conv_in\.", ".enter."),
    (r"\.conv_norm_out\.", ".leave.0."),
    (r"\.conv_out\.", ".leave.2."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".middle.1.norm."),
    (r"\.mid_block\.attentions\.0\.proj_attn\.", ".middle.1.out."),
    (r"\.mid_block\.attentions\.0\.(query|key|value)\.", r".middle.1.\1."),
    (r"\.(?:down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r".levels.\1.\2."),
    (r"\.norm1\.", ".norm_in."),
    (r"\.conv1\.", ".convolution."),
    (r"\.norm2\.", ".norm_out."),
    (r"\.conv2\.", ".out."),
    (r"\.conv_shortcut\.", ".shortcut."),
)

CASFORMER = (
    (r"^model\.", ""),
    (r"^x_embedder\.proj\.", "enter."),
    (r"^t_embedder\.mlp\.0\.", "frame_step.1."),
    (r"^t_embedder\.mlp\.2\.", "frame_step.3."),
    (r"^aggr_t_embedder\.mlp\.0\.", "joint_step.1."),
    (r"^aggr_t_embedder\.mlp\.2\.", "joint_step.3."),
    (r"^encoder_blocks\.", "frame_blocks."),
    (r"^blocks\.", "joint_blocks."),
    (r"^enc2hidden_linear\.", "join."),
    (r"^final_layer\.linear\.", "leave."),
    (r"^final_layer\.adaLN_modulation\.1\.", "leave_modulation."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
    (r"\.attn\.qkv\.", ".qkv."),
    (r"\.attn\.proj\.", ".out."),
    (r"\.mlp\.fc1\.", ".mixer.0."),
    (r"\.mlp\.fc2\.", ".mixer.2."),
)


def kl_autoencoder(network: KLAutoencoder, tensors: Tensors) -> dict[str, Tensor]:
    """The state of a `KLAutoencoder` from weights of that of CasCast (Gong et al. 2024) or PreDiff (Gao et al. 2023).

    Parameters
    ----------
    network : KLAutoencoder
        With the widths and blocks of the published one.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"encoder.conv_in.weight"``, also behind ``"net."``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``network.load_state_dict``, which refuses those of other widths.

    Raises
    ------
    ValueError
        If a tensor is missing, or there are some that the network has no place for.

    Examples
    --------
    >>> kl_autoencoder(KLAutoencoder(widths=(8, 16), groups=4), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is none for 'decoder.enter.bias'...
    """
    behind_blocks = (
        (r"\.down_blocks\.(\d+)\.downsamplers\.0\.conv\.", rf".levels.\1.{network.blocks}."),
        (r"\.up_blocks\.(\d+)\.upsamplers\.0\.conv\.", rf".levels.\1.{network.blocks + 1}.convolution."),
    )
    published = {renamed(theirs, AUTOENCODER + behind_blocks): theirs for theirs in tensors}
    state = {name: tensors[theirs] for name, theirs in published.items()}
    for name in [name for name in state if name.endswith(".shortcut.weight")]:  # a 1 x 1 convolution
        state[name] = state[name].flatten(1)
    for part in ("encoder", "decoder"):
        for kind in ("weight", "bias"):
            names = [f"{part}.middle.1.{one}.{kind}" for one in ("query", "key", "value")]
            if all(name in state for name in names):
                state[f"{part}.middle.1.qkv.{kind}"] = torch.cat([state.pop(name) for name in names])
    require_all(network, state, published)
    return state


def casformer(network: CasFormer, tensors: Tensors) -> dict[str, Tensor]:
    """The state of a `CasFormer` from weights of CasCast's public code.

    The positions, which are fixed, are left out: the network makes them itself.

    Parameters
    ----------
    network : CasFormer
        With the sizes of the published one.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"x_embedder.proj.weight"``, also behind ``"model."``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``network.load_state_dict``, which refuses those of other sizes.

    Raises
    ------
    ValueError
        If a tensor is missing, or there are some that the network has no place for.

    Examples
    --------
    >>> casformer(CasFormer(frames=2, frame_width=16, frame_heads=2, width=32, heads=2, depths=(1, 1)), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is none for 'enter.bias'...
    """
    published = {renamed(theirs, CASFORMER): theirs for theirs in tensors}
    published.pop("pos_embed", None)
    state = {name: tensors[theirs] for name, theirs in published.items()}
    require_all(network, state, published)
    return state
