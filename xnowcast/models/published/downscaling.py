"""Weights of STVD's public code for its two networks."""

from torch import Tensor

from xnowcast.models.published.blocks import BLOCKS, flattened, renamed
from xnowcast.models.published.taking import Tensors, require_all
from xnowcast.models.stvd import STVD

RENAMED = (
    (r"^flow\.", "downscaler."),
    (r"^model\.", "denoiser."),
    (r"\.time_mlp\.0\.weights$", ".time.0.frequencies"),
    (r"\.time_mlp\.", ".time."),
    (r"\.init_conv\.", ".init."),
    (r"\.final_conv\.", ".read."),
    (r"\.final_res_block\.", ".final."),
    (r"\.mid_block1\.", ".middle.first."),
    (r"\.mid_block2\.", ".middle.second."),
    (r"\.mid_block3\.", ".middle.third."),
    (r"\.mid_attn\.", ".middle.spatial."),
    (r"\.mid_attn_cross\.", ".middle.temporal."),
    (r"\.(down|up)s\.(\d+)\.0\.", r".\1.\2.first."),
    (r"\.(down|up)s\.(\d+)\.1\.", r".\1.\2.second."),
    (r"\.(down|up)s\.(\d+)\.2\.", r".\1.\2.spatial."),
    (r"\.(down|up)s\.(\d+)\.3\.", r".\1.\2.temporal."),
    (r"\.(down|up)s\.(\d+)\.4\.1\.", r".\1.\2.resize.convolution."),
    (r"\.(down|up)s\.(\d+)\.4\.", r".\1.\2.resize."),
    *BLOCKS,
)


def stvd(model: STVD, tensors: Tensors) -> dict[str, Tensor]:
    """The state of an `STVD` from weights of its public code (Srivastava et al. 2024).

    The model is built with ``published=True``. The ranges of further fields are not among the published tensors: they
    stay those of the model (`STVD.set_ranges`).

    Parameters
    ----------
    model : STVD
        With the sizes and the further fields of the published one.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"flow.init_conv.weight"``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``model.load_state_dict``, which refuses those of a network with other sizes.

    Raises
    ------
    ValueError
        If the model does not compute what the published one does, a tensor is missing, or there are some that it has
        no place for.

    Examples
    --------
    >>> stvd(STVD(size="tiny"), {})
    Traceback (most recent call last):
    ValueError: published weights need the network of the authors' code: build it with published=True
    """
    if not model.options.published:
        raise ValueError("published weights need the network of the authors' code: build it with published=True")
    ranges = {name: own for name, own in model.state_dict().items() if "." not in name}
    networks = {name: own for name, own in tensors.items() if "." in name}  # the others are of the schedule
    published = {renamed(name, RENAMED): name for name in networks}
    state = ranges | {name: networks[theirs] for name, theirs in published.items()}
    require_all(model, state, published)
    return flattened(state)
