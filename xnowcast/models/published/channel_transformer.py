"""Weights of LPT-QPN's public code."""

import re

import torch
from torch import Tensor

from xnowcast.models.lpt_qpn import LPTQPN
from xnowcast.models.published.blocks import renamed
from xnowcast.models.published.taking import Published, Tensors, require_all

RENAMED = (
    (r"^patch_embed\.proj\.", "embed."),
    (r"^(encoder|decoder)_levels\.", r"\1."),
    (r"^(down|up)samples\.(\d+)\.body\.0\.", r"\1.\2."),
    (r"^refinement\.", "refine."),
    (r"^output\.", "read."),
    (r"\.norm1\.body\.weight$", ".attention_norm.gain"),
    (r"\.norm2\.body\.weight$", ".mix_norm.gain"),
    (r"\.attn\.", ".attention."),
    (r"\.ffn\.", ".mix."),
    (r"\.(?:qkv_)?dwconv\.", ".depthwise."),
    (r"\.project_in\.", ".enter."),
    (r"\.project_out\.", ".out."),
)

EQUATION = range(4)
"""Its coefficients, whose layers are published one by one."""


def lpt_qpn(model: LPTQPN, tensors: Tensors) -> dict[str, Tensor]:
    """The state of an `LPTQPN` from weights of its public code (Li et al. 2023).

    Parameters
    ----------
    model : LPTQPN
        ``xnowcast.models.build("lpt-qpn")``.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"patch_embed.proj.weight"``.

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
    >>> lpt_qpn(LPTQPN(size="tiny"), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is no 'params.0.0.weight'
    """
    found = Published(tensors)
    layers = [found.layer(f"params.{number}.0") for number in EQUATION]
    state = {f"network.equation.{kind}": torch.cat([layer[kind] for layer in layers]) for kind in ("weight", "bias")}
    state["network.strength"] = torch.cat([found.tensor(f"p.{number}") for number in EQUATION])
    state |= {f"network.last.{kind}": own for kind, own in found.layer("last.0").items()}
    state["network.swish.beta"] = found.tensor("last.1.beta")
    published = {_here(name): name for name in found.left}
    state |= {here: found.left[name] for here, name in published.items()}
    require_all(model, state, published)
    return state


def _here(name: str) -> str:
    """Of the transformer; which maps are reduced is counted from the finest scale, whose are not."""
    name = re.sub(r"^reduce_chan_level(\d+)\.", lambda found: f"reduce.{int(found[1]) - 2}.", name)
    return f"network.change.{renamed(name, RENAMED)}"
