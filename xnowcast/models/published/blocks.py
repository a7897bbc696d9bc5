"""Names and shapes in blocks that several networks have in common."""

import re
from collections.abc import Sequence

from torch import Tensor

BLOCKS = (
    (r"\.mlp\.1\.", ".modulation."),
    (r"\.block1\.proj\.", ".first.convolution."),
    (r"\.block1\.norm\.", ".first.norm."),
    (r"\.block2\.proj\.", ".second.convolution."),
    (r"\.block2\.norm\.", ".second.norm."),
    (r"\.res_conv\.", ".shortcut."),
    (r"\.fn\.norm\.g$", ".norm.gain"),
    (r"\.fn\.fn\.to_out\.1\.g$", ".out_norm.gain"),
    (r"\.fn\.fn\.to_out\.(?:0\.)?(weight|bias)$", r".out.\1"),
    (r"\.fn\.fn\.to_", "."),
)
"""Patterns in published names of residual blocks and attentions, and what stands there here: in the U-Nets of STLDM and
of STVD."""

GATED_BLOCKS = (
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm2\.", ".mixer_norm."),
    (r"\.layer_scale_1$", ".attention_scale"),
    (r"\.layer_scale_2$", ".mixer_scale"),
    (r"\.attn\.proj_1\.", ".attention.enter."),
    (r"\.attn\.spatial_gating_unit\.conv0\.", ".attention.local."),
    (r"\.attn\.spatial_gating_unit\.conv_spatial\.", ".attention.wide."),
    (r"\.attn\.spatial_gating_unit\.conv1\.", ".attention.gate."),
    (r"\.attn\.spatial_gating_unit\.fc\.", ".attention.whole."),
    (r"\.attn\.proj_2\.", ".attention.leave."),
    (r"\.mlp\.fc1\.", ".mixer.0."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mixer.1."),
    (r"\.mlp\.fc2\.", ".mixer.3."),
)
"""The same of the blocks with gated attention of SimVP, TAU and STLDM."""


def renamed(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    """A name with all patterns replaced, one after the other.

    >>> renamed("middle.first.block1.proj.weight", BLOCKS)
    'middle.first.first.convolution.weight'
    """
    for pattern, here in patterns:
        name = re.sub(pattern, here, name)
    return name


def flattened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with gains (1, c, 1, 1) as (c,), and maps of channels, published as 1 x 1 convolutions, as matrices."""

    def of_cells(name: str, own: Tensor) -> bool:
        """Whether it maps the channels of each cell alone."""
        return name.endswith((".qkv.weight", ".out.weight")) and own.shape[2:].numel() == 1

    return {
        name: own.flatten() if name.endswith(".gain") else own.flatten(1) if of_cells(name, own) else own
        for name, own in state.items()
    }
