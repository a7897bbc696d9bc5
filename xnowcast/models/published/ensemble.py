"""Weights of the public code of ConvGRU-Ensemble and of mlcast, which have the same network."""

import re

from torch import Tensor

from xnowcast.models.convgru import ConvGRUEnsemble
from xnowcast.models.published.taking import Published, Tensors

LAYERS = {"gates": "combined_gates", "candidate": "out_gate"}


def convgru_ensemble(model: ConvGRUEnsemble, tensors: Tensors) -> dict[str, Tensor]:
    """The state of a `ConvGRUEnsemble` from weights of ConvGRU-Ensemble or of mlcast, such as IRENE's.

    Parameters
    ----------
    model : ConvGRUEnsemble
        With as many ``blocks`` as the published one. Grids that it does not divide are padded as ConvGRU-Ensemble pads
        them; ``padding="middle"`` is for mlcast's.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"encoder.blocks.0.convgru.cell.out_gate.weight"``, also behind the
        ``"model."`` or ``"network."`` of a checkpoint's ``state_dict``.

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
    >>> convgru_ensemble(ConvGRUEnsemble(size="tiny"), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is no 'encoder.blocks.0.convgru.cell...'
    """
    found = Published({re.sub(r"^(model|network)\.", "", name): own for name, own in tensors.items()})
    state: dict[str, Tensor] = {}
    for part in ("encoder", "decoder"):
        for number in range(len(getattr(model.network, part))):
            for ours, theirs in LAYERS.items():
                layer = found.layer(f"{part}.blocks.{number}.convgru.cell.{theirs}")
                place = f"network.{part}.{number}.{ours}"
                state |= {f"{place}.weight": layer["weight"], f"{place}.bias": layer["bias"][None]}
    found.require_nothing_left()
    return state
