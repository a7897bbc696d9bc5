"""Published tensors by layer, each taken once, so that none is missed."""

from collections.abc import Mapping

from torch import Tensor

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
