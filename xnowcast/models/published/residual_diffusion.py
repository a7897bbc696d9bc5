"""Weights of DiffCast's public code: its denoiser, its context network, and PhyDNet, its first stage."""

import torch
from torch import Tensor

from xnowcast.models.diffcast import DiffCast
from xnowcast.models.phydnet import PhyDNet
from xnowcast.models.published.blocks import BLOCKS, flattened, renamed
from xnowcast.models.published.taking import Tensors, require_all

GATE = (
    (r"\.fn\.fn\.proj_1\.", ".attention.enter."),
    (r"\.fn\.fn\.proj_2\.", ".attention.leave."),
    (r"\.fn\.fn\.spatial_gating_unit\.conv0\.", ".attention.local."),
    (r"\.fn\.fn\.spatial_gating_unit\.conv_spatial\.", ".attention.wide."),
    (r"\.fn\.fn\.spatial_gating_unit\.conv1\.", ".attention.gate."),
    (r"\.fn\.fn\.spatial_gating_unit\.fc\.", ".attention.whole."),
)
NETWORKS = (
    *GATE,
    *BLOCKS,
    (r"^model\.", "denoiser."),
    (r"^ctx_net\.", "context."),
    (r"\.init_conv\.", ".entry."),
    (r"\.time_mlp\.", ".time."),
    (r"\.frag_idx_mlp\.", ".segment."),
    (r"^denoiser\.downs\.(\d+)\.0\.", r"denoiser.down.\1.conditioned."),
    (r"^denoiser\.downs\.(\d+)\.1\.", r"denoiser.down.\1.residual."),
    (r"^denoiser\.ups\.(\d+)\.0\.", r"denoiser.up.\1.first."),
    (r"^denoiser\.ups\.(\d+)\.1\.", r"denoiser.up.\1.second."),
    (r"^denoiser\.(down|up)s\.(\d+)\.2\.", r"denoiser.\1.\2.gate."),
    (r"^denoiser\.(down|up)s\.(\d+)\.3\.1\.", r"denoiser.\1.\2.resize.convolution."),
    (r"^denoiser\.(down|up)s\.(\d+)\.3\.", r"denoiser.\1.\2.resize."),
    (r"\.mid_block1\.", ".before_attention."),
    (r"\.mid_attn\.", ".attention."),
    (r"\.mid_block2\.", ".after_attention."),
    (r"\.final_res_block\.", ".last."),
    (r"\.final_conv\.", ".read."),
    (r"^context\.downs\.(\d+)\.0\.", r"context.blocks.\1."),
    (r"^context\.downs\.(\d+)\.1\.conv_gates\.0\.", r"context.cells.\1.gates."),
    (r"^context\.downs\.(\d+)\.1\.conv_cans\.0\.", r"context.cells.\1.candidate."),
    (r"^context\.downs\.(\d+)\.2\.1\.", r"context.down.\1.convolution."),
)
PHYDNET = (
    (r"^encoder\.encoder_E\.", "encoder."),
    (r"^encoder\.encoder_Ep\.", "physical_encoder."),
    (r"^encoder\.encoder_Er\.", "recurrent_encoder."),
    (r"^encoder\.decoder_D\.upc3\.", "read."),
    (r"^encoder\.decoder_D\.", "decoder."),
    (r"^encoder\.decoder_Dp\.", "physical_decoder."),
    (r"^encoder\.decoder_Dr\.", "recurrent_decoder."),
    *((rf"\.(?:up)?c{number + 1}\.main\.", f".{number}.") for number in range(3)),
    (r"^phycell\.cell_list\.0\.F\.conv1\.", "physical.derivatives."),
    (r"^phycell\.cell_list\.0\.F\.bn1\.", "physical.norm."),
    (r"^phycell\.cell_list\.0\.F\.conv2\.", "physical.sum."),
    (r"^phycell\.cell_list\.0\.convgate\.", "physical.gate."),
    (r"^convcell\.cell_list\.(\d+)\.conv\.", r"recurrent.\1.gates."),
    (r"^", "network."),
)
"""Patterns in published names of the parts, and what stands there here."""

UNREAD = ("encoder.phycell.", "encoder.convcell.", "k2m.")
"""Of the published PhyDNet: the cells once more, and the matrices of the moments, which are the same for all."""


def diffcast(model: DiffCast, tensors: Tensors) -> dict[str, Tensor]:
    """The state of a `DiffCast` from weights of its public code.

    Parameters
    ----------
    model : DiffCast
        Built with ``published=True``, and with ``first_stage="phydnet"``, the default.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"model.init_conv.weight"``, ``"ctx_net.init_conv.weight"`` and
        ``"backbone_net.k2m._M0"``; a training saves them beside other things.

    Returns
    -------
    dict of str to torch.Tensor
        For ``model.load_state_dict``.

    Raises
    ------
    ValueError
        If a tensor is missing, or there are some that the network has no place for; or the first stage is no PhyDNet.

    Examples
    --------
    >>> diffcast(DiffCast(size="tiny", published=True), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is none for 'network.decoder.0.0.bias' and ...
    """
    inside = model.first_stage.network
    if not isinstance(inside, PhyDNet):
        raise ValueError(f"first_stage is {model.first_stage.name!r}: published weights have a PhyDNet")
    within = "backbone_net."
    first = phydnet(inside, {n.removeprefix(within): own for n, own in tensors.items() if n.startswith(within)})
    # those without a dot are of the schedule
    others = {name: own for name, own in tensors.items() if "." in name and not name.startswith(within)}
    published = {renamed(name, NETWORKS): name for name in others}
    state = diffusion_networks(others) | {f"first_stage.network.{name}": own for name, own in first.items()}
    require_all(model, state, published)
    return state


def diffusion_networks(tensors: Tensors) -> dict[str, Tensor]:
    """The part of a state that belongs to the denoiser and to the context network."""
    state = {renamed(name, NETWORKS): own for name, own in tensors.items()}
    for name, tensor in state.items():
        if name.startswith("context.cells."):
            if ".gates." in name:
                reset, update = tensor.chunk(2)
                tensor = torch.cat([update, reset])
            state[name] = tensor if name.endswith("weight") else tensor[None]
    return flattened(state)


def phydnet(model: PhyDNet, tensors: Tensors) -> dict[str, Tensor]:
    """The state of a `PhyDNet` from weights of the code of DiffCast, whose PhyDNet is that of Guen and Thome.

    Parameters
    ----------
    model : PhyDNet
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"phycell.cell_list.0.F.conv1.weight"``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``model.load_state_dict``.

    Raises
    ------
    ValueError
        If a tensor is missing, or there are some that the network has no place for.

    Examples
    --------
    >>> phydnet(PhyDNet(size="tiny"), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is none for 'network.decoder.0.0.bias' and ...
    """
    published = {renamed(name, PHYDNET): name for name in tensors if not name.startswith(UNREAD)}
    state = {name: tensors[theirs] for name, theirs in published.items()}
    for name, tensor in state.items():
        if ".gates." in name:
            i, f, o, g = tensor.chunk(4)
            joined = torch.cat([i, f, g, o])
            state[name] = joined if name.endswith("weight") else joined[None]
    require_all(model, state, published)
    return state
