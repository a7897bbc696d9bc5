"""Weights of MS-RNN's public code for stacks of recurrent cells, on one scale and on three."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from xnowcast.models.published.taking import Published, Tensors
from xnowcast.nn.multiscale import Multiscale
from xnowcast.nn.recurrent import MIM, MKLSTM, ConvLSTM, MotionRNN, PrecipLSTM, PredRNN, PredRNNPlusPlus, TrajGRU
from xnowcast.nn.stacked import Stacked

State = dict[str, Tensor]

GATES = {"gates": ("_conv_x2h", "_conv_h2h")}
MEMORY = {"memory_gates": ("_conv_x2h_m", "_conv_m2h_m")}
TREND = {
    "nonstationary": ("_conv_x2h_n", "_conv_n2h_n"),
    "difference": ("_conv_diff2o", "_conv_n2o"),
    "stationary": ("_conv_x2h_s", "_conv_c2h_s"),
    "output": ("_conv_s2o",),
}
"""Convolutions that are computed as one here, with those that were published apart."""


def ms_rnn(network: Stacked | Multiscale, tensors: Tensors) -> State:
    """The state of a network of recurrent cells from weights of MS-RNN's public code (Ma et al. 2022).

    Displacements have (x, y) there and (y, x) here; warped maps lie link by link there and channel by channel here.

    Parameters
    ----------
    network : Stacked or Multiscale
        The ``network`` of ``xnowcast.models.build("ms-predrnn")`` and the like, with as many cells. To say what the
        authors' code says, that of TrajGRU, MotionRNN or PrecipLSTM is built with ``published=True``.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"rnns.lstm.0._conv_x2h.weight"``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``network.load_state_dict``.

    Raises
    ------
    ValueError
        If a tensor is missing, or there are some that the network has no place for.

    Examples
    --------
    >>> ms_rnn(Stacked(ConvLSTM.stack(4, 1), 4), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is no 'embed.conv_embed.weight'
    """
    found = Published(tensors)
    state = _below("embed", found.layer("embed.conv_embed")) | _below("read", found.layer("fc.conv_fc"))
    for number, cell in enumerate(network.cells):
        start = f"rnns.lstm.{number}."
        own = {name.removeprefix(start): found.tensor(name) for name in list(found.left) if name.startswith(start)}
        state |= _below(f"cells.{number}", of_cell(cell, own))
    found.require_nothing_left()
    return state


def of_cell(cell: nn.Module, tensors: Tensors) -> State:
    """The state of one cell from the published one's tensors."""
    found = Published(tensors)
    state = CELLS[type(cell)](cell, found)
    found.require_nothing_left()
    kept = cell.state_dict()  # those that nothing reads are left out of a lean cell
    return {name: tensor for name, tensor in state.items() if name in kept or "idle" not in name}


def _convlstm(cell: nn.Module, found: Published) -> State:
    return _joined(found, GATES)


def _trajgru(cell: nn.Module, found: Published) -> State:
    hidden = found.layer("project")
    hidden["weight"] = rearrange(hidden["weight"], "o (links c) y x -> o (c links) y x", links=cell.links)
    flow = {kind: _turned(rows) for kind, rows in found.layer("_conv_flow").items()}
    apart = {"input": found.layer("_conv_x2h"), "flow": flow, "hidden": hidden}
    return _all_below(apart) | _joined(found, {"motion": ("_conv_x2f", "_conv_h2f")})


def _predrnn(cell: nn.Module, found: Published) -> State:
    joined = _joined(found, GATES | MEMORY | {"output.gate": ("_conv_c2o", "_conv_m2o")})
    return joined | _below("output.value", found.layer("_conv_c_m"))


def _predrnn_plus_plus(cell: nn.Module, found: Published) -> State:
    one = {"gates": ("_conv_x_h_c",), "memory_gates": ("_conv_x_c_m",), "output": ("_conv_o",)}
    unit = "highway" if hasattr(cell, "highway") else "idle"
    apart = {"forget": found.layer("_conv_m"), "value": found.layer("_conv_c_m")}
    return _joined(found, one | {f"{unit}.gates": ("_conv_x", "_conv_z")}) | _all_below(apart)


def _mim(cell: nn.Module, found: Published) -> State:
    state = _predrnn(cell, found)
    trend = "idle" if cell.first else "trend"
    state |= _joined(found, {f"{trend}.{name}": parts for name, parts in TREND.items()})
    if not cell.first:  # rows i, f, g, o: the forget gate is replaced by the trend
        for kind, axis in (("weight", 0), ("bias", 1)):
            i, f, g, o = state[f"gates.{kind}"].chunk(4, axis)
            state |= {f"gates.{kind}": torch.cat([i, g, o], axis), f"idle.{kind}": f}
    return state


def _motionrnn(cell: nn.Module, found: Published) -> State:
    u, r, z = (found.layer(f"_conv_{name}") for name in "urz")
    width = u["weight"].shape[1] - u["weight"].shape[0]
    for layer in (u, r, z):  # they say displacements, and read them behind the map
        e, motion = layer["weight"].split((width, layer["weight"].shape[1] - width), dim=1)
        layer["weight"] = _turned(torch.cat([e, _turned(motion, 1)], dim=1))
        layer["bias"] = _turned(layer["bias"])
    apart = {
        "encode": found.layer("_conv_enc"),
        "gates": {kind: torch.cat([u[kind], r[kind]]) for kind in u},
        "candidate": z,
        "mask": found.layer("_conv_hm"),
        "mix": found.layer("_conv_dec"),
        "decode": found.layer("_deconv_dec"),
        "blend": found.layer("_conv_g"),
    }
    unit = "idle" if cell.last else "motion"
    return _below("cell", _mim(cast(MIM, cell.cell), found)) | _below(unit, _all_below(apart))


def _preciplstm(cell: nn.Module, found: Published) -> State:
    space_and_time = {
        f"{name}_gates": (f"_conv_x2h_{own}", f"_conv_{own}2h_{own}") for name, own in (("space", "ms"), ("time", "mt"))
    }
    shown = {"output.gate": tuple(f"_conv_{memory}2o" for memory in ("c", "ms", "mt", "m"))}
    attention = [found.tensor(f"LA.conv{number}.weight") for number in (1, 2, 3)]  # queries, keys, values
    state = _joined(found, GATES | MEMORY | space_and_time | shown | {"attended": ("_conv_x_x_att",)})
    return state | {"attention.project.weight": torch.cat(attention)} | _below("output.value", found.layer("c_m_ms_mt"))


def _mk_lstm(cell: nn.Module, found: Published) -> State:
    state = _below("value", found.layer("_conv_out"))
    for number, kernel in enumerate((3, 5)):
        gates, shown = (f"_conv_x2h_{kernel}", f"_conv_h2h_{kernel}"), (f"_conv_c2o_{kernel}",)
        state |= _joined(found, {f"gates.{number}": gates, f"output.{number}": shown})
    return state


CELLS: dict[type[nn.Module], Callable[[nn.Module, Published], State]] = {
    ConvLSTM: _convlstm,
    TrajGRU: _trajgru,
    PredRNN: _predrnn,
    PredRNNPlusPlus: _predrnn_plus_plus,
    MIM: _mim,
    MotionRNN: _motionrnn,
    PrecipLSTM: _preciplstm,
    MKLSTM: _mk_lstm,
}


def _joined(found: Published, table: Mapping[str, tuple[str, ...]]) -> State:
    """Joint convolutions by their names here, of those that they are made of."""
    state = {}
    for name, parts in table.items():
        layers = [found.layer(part) for part in parts]
        state[f"{name}.weight"] = torch.cat([layer["weight"] for layer in layers], dim=1)
        state[f"{name}.bias"] = torch.stack([layer["bias"] for layer in layers])
    return state


def _turned(rows: Tensor, axis: int = 0) -> Tensor:
    """Displacements (field, (x, y)) along an axis as (field, (y, x))."""
    return rows.unflatten(axis, (-1, 2)).flip(axis + 1).flatten(axis, axis + 1)


def _below(name: str, state: State) -> State:
    return {f"{name}.{inside}": tensor for inside, tensor in state.items()}


def _all_below(layers: dict[str, State]) -> State:
    return {name: tensor for above, state in layers.items() for name, tensor in _below(above, state).items()}
