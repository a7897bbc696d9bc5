"""Published tensors by layer, each taken once, so that none is missed; and whether all have found a place."""

from collections.abc import Mapping

from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


class Published:
    """Tensors of a published network, from which layers are taken; a ValueError where a layer is not there."""

    def __init__(self, tensors: Tensors) -> None:
        self.left = dict(tensors)

    def tensor(self, name: str) -> Tensor:
        """A tensor by its published name."""
        if name not in self.left:
            raise ValueError(f"these are no weights of such a network: there is no {name!r}")
        return self.left.pop(name)

    def layer(self, name: str, *, bias: bool = True) -> dict[str, Tensor]:
        """The weight and the bias of a layer."""
        return {kind: self.tensor(f"{name}.{kind}") for kind in (("weight", "bias") if bias else ("weight",))}

    def leave(self, *names: str) -> None:
        """Take what nothing reads, if it is there."""
        for name in names:
            self.left.pop(name, None)

    def require_nothing_left(self) -> None:
        """A ValueError if some tensors have found no place."""
        if self.left:
            raise ValueError(f"these are weights of another network: it has no place for {next(iter(self.left))!r}")


def require_all(network: nn.Module, state: Tensors, published: Mapping[str, str]) -> None:
    """A ValueError if a state has tensors that a network has no place for, or lacks some.

    ``published``: what those of the state are called where they come from.
    """
    own = network.state_dict()
    left = sorted(published.get(name, name) for name in state.keys() - own.keys())
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ValueError(f"these are weights of another network: it has no place for {left[0]!r}{more}")
    missing = sorted(own.keys() - state.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"these are no weights of such a network: there is none for {missing[0]!r}{more}")
