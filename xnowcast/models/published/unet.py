"""Weights of the U-Net of guided diffusion for the prior of PostCast."""

from collections.abc import Iterator
from typing import cast

from einops import rearrange
from torch import Tensor, nn

from xnowcast.models.published.taking import Published, Tensors
from xnowcast.nn.guided_unet import CellAttention, GuidedUNet, Stage, UpLevel


def guided_diffusion(network: GuidedUNet, tensors: Tensors) -> dict[str, Tensor]:
    """The state of a `GuidedUNet` from weights of the U-Net of guided diffusion (Dhariwal and Nichol 2021).

    A network that reads one channel where the published one reads several takes each field for all of them alike, and
    says the mean of the noise that is in each: so a prior of images begins the training of one of radar frames. What
    the published network says of the variance is left out.

    Parameters
    ----------
    network : GuidedUNet
        Of the published one's options; ``GuidedUNet()`` is that of 256 x 256 cells without classes.
    tensors : mapping of str to torch.Tensor
        By their published names, such as ``"input_blocks.0.0.weight"``.

    Returns
    -------
    dict of str to torch.Tensor
        For ``network.load_state_dict``.

    Raises
    ------
    ValueError
        If a tensor is missing, or there are some that the network has no place for.
    RuntimeError
        By ``load_state_dict``, if the sizes are others.

    Examples
    --------
    >>> guided_diffusion(GuidedUNet(base=32, multipliers=(1,), attention=()), {})
    Traceback (most recent call last):
    ValueError: these are no weights of such a network: there is no 'time_embed.0.weight'
    """
    found = Published(tensors)
    state = {
        f"{ours}.{kind}": tensor for ours, theirs in _places(network) for kind, tensor in found.layer(theirs).items()
    }
    found.require_nothing_left()
    for name, layer in network.named_modules():
        if isinstance(layer, CellAttention):
            for kind in ("weight", "bias"):  # the published rows go head by head, ours q, k and v by turns
                rows = state[f"{name}.qkv.{kind}"]
                state[f"{name}.qkv.{kind}"] = rearrange(
                    rows, "(e three d) ... -> (three e d) ...", three=3, e=layer.heads
                )
        if isinstance(layer, nn.Linear):  # published as convolutions of 1 x 1 cells, or of 1 place
            state[f"{name}.weight"] = state[f"{name}.weight"].flatten(1)
    return state | _other_channels(network, state)


def _other_channels(network: GuidedUNet, state: Tensors) -> dict[str, Tensor]:
    """First and last convolution for the channels of the network, without the variance."""
    channels, first = network.enter.in_channels, state["enter.weight"]
    noise = {kind: state[f"leave.2.{kind}"][: first.shape[1]] for kind in ("weight", "bias")}
    if channels == 1 < first.shape[1]:
        first = first.sum(1, keepdim=True)
        noise = {kind: rows.mean(0, keepdim=True) for kind, rows in noise.items()}
    return {"enter.weight": first} | {f"leave.2.{kind}": rows for kind, rows in noise.items()}


def _places(network: GuidedUNet) -> Iterator[tuple[str, str]]:
    """Names of layers here and in the published network."""
    yield from (("embedding.1", "time_embed.0"), ("embedding.3", "time_embed.2"), ("enter", "input_blocks.0.0"))
    for number, stage in enumerate(network.down):
        yield from _places_of_stage(f"down.{number}", stage, f"input_blocks.{number + 1}", 0)
    first, second = network.middle
    levels = [cast(UpLevel, up) for up in network.up]
    yield from _places_of_stage("middle.0", first, "middle_block", 0)
    yield from _places_of_stage("middle.1", second, "middle_block", 2)
    number = 0
    for level, up in enumerate(levels):
        for within, stage in enumerate(up.stages):
            yield from _places_of_stage(f"up.{level}.stages.{within}", stage, f"output_blocks.{number}", 0)
            number += 1
        if up.doubling is not None:  # beside the last stage, behind its attention
            after = 1 if cast(Stage, up.stages[-1]).attention is None else 2
            yield from _places_of_stage(f"up.{level}.doubling", up.doubling, f"output_blocks.{number - 1}", after)
    yield from (("leave.0", "out.0"), ("leave.2", "out.2"))


def _places_of_stage(ours: str, layer: nn.Module, theirs: str, first: int) -> Iterator[tuple[str, str]]:
    stage, block, attention = cast(Stage, layer), f"{theirs}.{first}", f"{theirs}.{first + 1}"
    yield from (
        (f"{ours}.block.norm_in", f"{block}.in_layers.0"),
        (f"{ours}.block.convolution", f"{block}.in_layers.2"),
        (f"{ours}.block.modulation", f"{block}.emb_layers.1"),
        (f"{ours}.block.norm_out", f"{block}.out_layers.0"),
        (f"{ours}.block.out", f"{block}.out_layers.3"),
    )
    if isinstance(stage.block.shortcut, nn.Linear):
        yield f"{ours}.block.shortcut", f"{block}.skip_connection"
    if stage.attention is not None:
        yield from (
            (f"{ours}.attention.norm", f"{attention}.norm"),
            (f"{ours}.attention.qkv", f"{attention}.qkv"),
            (f"{ours}.attention.out", f"{attention}.proj_out"),
        )
