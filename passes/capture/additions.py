"""What a trace adds to a model: leaf modules and constant tensors that its graph refers to by a path."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from torch import Tensor, nn

CONSTANT = "_tensor_constant"  # as torch.fx names them


class Additions:
    """Modules and tensors by path.

    Args:
        taken: the names that the model itself uses.
        held: the additions of an earlier trace of the model, so that no name is used twice.
    """

    def __init__(self, taken: Sequence[Container[str]], held: Mapping[str, nn.Module | Tensor]) -> None:
        self._taken = taken
        self.held: dict[str, nn.Module | Tensor] = dict(held)

    def free_path(self, wanted: str) -> str:
        """A dotted name that is not in use."""
        path = wanted.lstrip(".")
        while path in self.held or any(path in names for names in self._taken):
            path += "_"
        return path

    def add(self, path: str, what: nn.Module | Tensor) -> None:
        """Add a module or a tensor under a free path."""
        self.held[path] = what

    def add_constant(self, tensor: Tensor) -> str:
        """Add a constant, and return its name."""
        name = self.free_path(f"{CONSTANT}{sum(isinstance(held, Tensor) for held in self.held.values())}")
        self.held[name] = tensor
        return name
