"""Weights files of earlier versions, read as if they had been written today."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MOVED = ("window", "motion_noise", "inflation", "probability_matching", "cascade")
"""Options that STLDM had, and that the layer `lagrangian` around it has now."""

EDITION = 2
"""Of the networks, which cards have since the second.

It is raised when a network computes something else with tensors of the same shapes, which nothing but the card can
then tell apart. In the first, PostCast's steps were embedded as in DDPM, the scalings of HKO-7 and DWD-12 were 0 to
60 dBZ, the last cell of a MotionRNN had a MotionGRU, and STLDM's ``frame_wise`` network had the way up of the other.
"""


def card_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a card as this version would have written them.

    A ValueError if weights of an earlier edition have nothing that they can be now, or if the edition is a later one.
    """
    edition = fields.get("edition", 1)
    if edition > EDITION:
        raise ValueError(f"its networks are of edition {edition}, and this version knows up to {EDITION}: update it")
    fields = _in_the_layer(fields)
    if edition < EDITION:
        fields["options"] = second_edition(fields["system"], fields.get("options", {}))
    return fields | {"edition": EDITION}


def second_edition(system: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the first edition, with those that keep the network as it was.

    A ValueError if there are none that do.

    >>> second_edition("postcast", {"size": "small"})
    {'size': 'small', 'step_embedding': 'ddpm'}
    >>> second_edition("ms-mim", {"scaling": "hko-7"})
    {'bounds': [0.0, 60.0], 'scaling': 'hko-7'}
    """
    inside = options.get("network_options")
    own = {**options, **(inside if isinstance(inside, Mapping) else {})}  # a card may say anything
    if any(str(name).endswith("motionrnn") for name in (system, own.get("cell"), own.get("network"))):
        raise ValueError(
            "its MotionRNN has a MotionGRU behind the last cell, where the published one has none: train it again"
        )
    if own.get("frame_wise"):
        raise ValueError(
            "its frame_wise network has the way up of the one with attention over time, where the published one has "
            "another: train it again"
        )
    kept = {name: _with_bounds(value) if name == "network_options" else value for name, value in options.items()}
    return dict(_with_bounds(kept)) | ({"step_embedding": "ddpm"} if system == "postcast" else {})


def _with_bounds(options: Any) -> Any:
    """Options with the bounds that a scaling by the name of a data set had."""
    if isinstance(options, Mapping) and options.get("scaling") in ("hko-7", "dwd-12"):
        return {"bounds": [0.0, 60.0], **options}
    return options


def _in_the_layer(fields: Mapping[str, Any]) -> dict[str, Any]:
    """STLDM with a moving frame of its own is now the network of the layer ``lagrangian``."""
    options = dict(fields.get("options", {}))
    if fields["system"] != "stldm" or not {"moving_frame", *MOVED} & set(options):
        return dict(fields)
    moving = options.pop("moving_frame", False)
    if moving is True:
        return {**fields, "system": "lagrangian", "options": {"network": "stldm"} | options}
    if moving is not False:
        raise ValueError(f"moving_frame is {moving!r}; it must be True or False")
    if options.get("inflation", 1.0) != 1.0:
        raise ValueError(
            "inflation is an option of 'lagrangian' alone, in the frame that moves with the rain: leave it out of the "
            "card, or train with xnowcast.train('lagrangian', ..., network='stldm')"
        )
    return {**fields, "options": {name: value for name, value in options.items() if name not in MOVED}}


def tensors(system: str, found: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Tensors by the names that they have now: those of the network in the layer once were ``inner.`` or had none."""
    if system != "lagrangian" or any(name.startswith("network.") for name in found):
        return found
    return {f"network.{name.removeprefix('inner.')}": tensor for name, tensor in found.items()}
