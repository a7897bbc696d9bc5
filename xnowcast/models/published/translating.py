"""Weights of OpenSTL for the networks of SimVP and of TAU."""

from torch import Tensor

from xnowcast.models.published.blocks import GATED_BLOCKS, renamed
from xnowcast.models.published.taking import Tensors, require_all
from xnowcast.nn.simvp import SimVPNetwork

RENAMED = (
    (r"^model\.", ""),
    (r"^enc\.enc\.(\d+)\.conv\.conv\.", r"encoder.\1.convolution."),
    (r"^enc\.enc\.(\d+)\.conv\.norm\.", r"encoder.\1.norm."),
    (r"^dec\.dec\.(\d+)\.conv\.conv\.(?:0\.)?", r"decoder.\1.convolution."),
    (r"^dec\.dec\.(\d+)\.conv\.norm\.", r"decoder.\1.norm."),
    (r"^dec\.readout\.", "readout."),
    (r"^hid\.enc\.(\d+)\.block\.", r"translator.\1."),
    (r"^hid\.enc\.(\d+)\.reduction\.", r"translator.\1.leave."),
    *GATED_BLOCKS,
    (r"^hid\.enc\.", "translator.first."),
    (r"^hid\.dec\.", "translator.second."),
    (r"\.conv1\.", ".enter."),
    (r"\.layers\.(\d+)\.conv\.", r".branches.\1.0."),
    (r"\.layers\.(\d+)\.norm\.", r".branches.\1.1."),
)


def simvp(network: SimVPNetwork, tensors: Tensors) -> dict[str, Tensor]:
    """The state of a `SimVPNetwork` from weights of OpenSTL: of SimVP with gSTA or IncepU, and of TAU.

    Parameters
    ----------
    network : SimVPNetwork
        With the frames, the translator and the sizes of the published one.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"enc.enc.0.conv.conv.weight"``, also behind the ``"model."`` of Lightning.

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
    >>> simvp(SimVPNetwork(2, width=8, hidden=16, blocks=2), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is none for 'decoder.0.convolution.bias' and ...
    """
    published = {renamed(name, RENAMED): name for name in tensors}
    state = {name: tensors[theirs] for name, theirs in published.items()}
    require_all(network, state, published)
    return state
