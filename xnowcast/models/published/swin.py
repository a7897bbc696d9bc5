"""Weights of SwinIR's public code."""

import re

from torch import Tensor

from xnowcast.models.published.blocks import renamed
from xnowcast.models.published.taking import Tensors, require_all
from xnowcast.nn.swin_ir import SwinIRNetwork, steps_of

RENAMED = (
    (r"^layers\.(\d+)\.residual_group\.blocks\.(\d+)\.", r"groups.\1.layers.layers.\2."),
    (r"^layers\.(\d+)\.conv\.", r"groups.\1.leave."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm2\.", ".mix_norm."),
    (r"\.attn\.relative_position_bias_table$", ".attention.bias"),
    (r"\.attn\.qkv\.", ".attention.qkv."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.mlp\.fc1\.", ".mix.0."),
    (r"\.mlp\.fc2\.", ".mix.2."),
    (r"^conv_first\.", "enter."),
    (r"^patch_embed\.norm\.", "enter_norm."),
    (r"^norm\.", "leave_norm."),
    (r"^conv_after_body\.", "leave."),
)

MADE_HERE = (".attn_mask", ".relative_position_index")
"""Buffers that follow from the size of a window."""

MEAN = (0.4488, 0.4371, 0.4040)
"""Of red, green and blue in the images that it was trained on: what its code takes away before and adds behind."""


def swin_ir(network: SwinIRNetwork, tensors: Tensors) -> dict[str, Tensor]:
    """The state of a `SwinIRNetwork` from weights of SwinIR's public code (Liang et al. 2021).

    A network that reads and says one field where the published one has three colours takes the field for a grey
    image, and says the mean of the three. That is exact but for the outermost cells, beyond which the published
    network sees its mean colour, and this one the grey of the same brightness.

    Parameters
    ----------
    network : SwinIRNetwork
        Of the published one's sizes.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"conv_first.weight"``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``network.load_state_dict``, which refuses those of a network with other sizes.

    Raises
    ------
    ValueError
        If a tensor is missing, or there are some that the network has no place for.

    Examples
    --------
    >>> from xnowcast.nn.swin_ir import TINY
    >>> swin_ir(SwinIRNetwork(1, TINY, factor=2), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is none for 'enter.bias' and 37 more
    """
    read = {name: own for name, own in tensors.items() if not name.endswith(MADE_HERE)}
    patterns = (*RENAMED, *_head(network, set(read)))
    published = {renamed(name, patterns): name for name in read}
    state = {"middle": network.middle} | {ours: read[theirs] for ours, theirs in published.items()}
    require_all(network, state, published)
    if network.enter.in_channels == 1 < state["enter.weight"].shape[1]:
        state |= _grey(network, state)
    return state


def _head(network: SwinIRNetwork, names: set[str]) -> list[tuple[str, str]]:
    """What the layers towards the fine grid are called, which depends on how it is made."""
    if network.factor == 1:
        return [(r"^conv_last\.", "head.")]
    steps = len(steps_of(network.factor))
    first, last = (r"^conv_before_upsample\.0\.", "head.0."), r"^conv_last\."
    if "conv_hr.weight" in names:  # nearest: a repetition, a convolution and its activation for each step
        ups = [(rf"^conv_up{number + 1}\.", f"head.{3 * number + 3}.") for number in range(steps)]
        return [first, *ups, (r"^conv_hr\.", f"head.{3 * steps + 2}."), (last, f"head.{3 * steps + 4}.")]
    if "conv_last.weight" in names:  # classical: a convolution and a shuffle for each step
        ups = [(rf"^upsample\.{2 * number}\.", f"head.{2 * number + 2}.") for number in range(steps)]
        return [first, *ups, (last, f"head.{2 * steps + 2}.")]
    return [(r"^upsample\.0\.", "head.0.")]


def _grey(network: SwinIRNetwork, state: Tensors) -> dict[str, Tensor]:
    """First and last convolution for one field in place of three colours."""
    first = state["enter.weight"]
    mean = first.new_tensor(MEAN)
    # a colour less its own mean is the grey less the mean of the three, and the rest is the same everywhere
    rest = (first.sum((2, 3)) * (mean.mean() - mean)).sum(1)
    last = max((name for name in state if re.fullmatch(r"head(\.\d+)?\.weight", name)), key=_place)
    ends = {name: state[name].unflatten(0, (len(MEAN), -1)).mean(0) for name in (last, last[:-6] + "bias")}
    return ends | {
        "enter.weight": first.sum(1, keepdim=True),
        "enter.bias": state["enter.bias"] + rest,
        "middle": mean.mean().to(network.middle),
    }


def _place(name: str) -> int:
    return int((re.findall(r"\d+", name) or ["0"])[0])
