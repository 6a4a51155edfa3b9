"""Calls of modules from opaque code: which modules it calls, and whether it reads their weights itself.

An ODE solver, a loop that ends when the data say so, code that computes gradients: no graph can hold such code, but the
modules that it calls can have graphs. The code must then do nothing with these modules but call them. To check that, it
runs once as it is, and once more with their weights withheld.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.capture.opaque_leaves import Withheld
from fxteleport.passes.capture.placeholders import form_of
from fxteleport.passes.capture.plain_functions import can_be_held
from fxteleport.passes.graph.leaf_modules import changes_gradients, hooked, is_leaf
from fxteleport.passes.graph.module_clone import clone, path_of
from fxteleport.passes.graph.ops import leaves_of
from fxteleport.passes.graph.reachable import Reach, Reached

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Sealed(Withheld):
    """A weight of a module that opaque code calls, and may not read itself.

    The code may read its size and type, and whether it is a trained parameter: solvers pass parameters to their
    backward.
    """

    _FACTS = Withheld._FACTS | {
        Tensor.is_floating_point, Tensor.is_complex, Tensor.numel,
        *(vars(torch._C.TensorBase)[name].__get__ for name in ("device", "requires_grad", "is_leaf", "layout")),
    }  # fmt: skip


def sealed(tensor: Tensor) -> Sealed:
    """The stand-in of a tensor that may not be read."""
    made: Sealed = torch.Tensor._make_subclass(Sealed, torch.empty_like(tensor.detach()), tensor.requires_grad)
    return made


def is_below(name: str, paths: Collection[str]) -> bool:
    """True for a name inside a module at one of these paths."""
    return any(name.startswith(f"{path}.") for path in paths)


@dataclass
class Calls:
    """The calls of one module: the arguments of the first, and whether all others are like it."""

    given: Arguments
    form: Any
    alike: bool = True  # and a graph can hold their arguments and results

    @property
    def plain(self) -> Any:
        """The plain values among the arguments, without the shapes of tensors."""
        return None if self.form is None else self.form[0]


class Inside:
    """The code of an opaque module, run on its own.

    Args:
        path: the module's path.
        reached: what its code can read of the model outside it.
        reach: finds the same for the modules that it calls.
    """

    def __init__(self, module: nn.Module, path: str, reached: Reached | None, reach: Reach) -> None:
        self._module, self._path, self._reached, self._reach = module, path, reached, reach

    def calls(self, arguments: Arguments) -> dict[str, Calls]:
        """The modules that a run calls, by path, without torch's own layers."""
        found: dict[str, Calls] = {}
        code = self._clone(())
        for module in code.modules():
            if module is not code and not is_leaf(module) and any(True for _ in module.parameters()):
                watched = functools.partial(_noted, found, path_of(module), module.forward)
                module.__dict__["forward"] = watched
        code(*arguments[0], **arguments[1])
        return found

    def calls_only(self, arguments: Arguments, paths: Collection[str], parts: Mapping[str, nn.Module]) -> bool:
        """True where the run does nothing with the modules at these paths but call them."""
        code = self._clone(paths, _locking({id(part) for path in paths for part in parts[path].modules()}))
        for module in code.modules():
            if path_of(module) in paths:
                real = parts[path_of(module)]
                module.__dict__["forward"] = clone(
                    real, _own(), path_of(module), training=False, beside=self._reach.of(real)
                ).forward
        try:
            code(*arguments[0], **arguments[1])
        except Exception:
            return False
        return True

    def _clone(self, paths: Collection[str], class_of: Callable[[nn.Module], type] = type) -> nn.Module:
        own = _own()

        def tensors(name: str, tensor: Tensor) -> Tensor:
            return sealed(tensor) if is_below(name, paths) else own(name, tensor)

        return clone(self._module, tensors, self._path, class_of=class_of, training=False, beside=self._reached)


class _Locked:
    """Mixed into the class of a module of which opaque code may set nothing but the mode."""

    def __init_subclass__(cls) -> None:
        """Do nothing: a base class that registers or checks its subclasses must not see this one."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "training":
            raise AttributeError(f"'{name}' is set by other code")
        super().__setattr__(name, value)


def _locking(ids: Collection[int]) -> Callable[[nn.Module], type]:
    """The `class_of` of clones: a locked class for the modules with these ids."""

    def class_of(module: nn.Module) -> type:
        cls = type(module)
        return type(cls.__name__, (_Locked, cls), {}) if id(module) in ids else cls

    return class_of


def may_have_a_graph(module: nn.Module) -> bool:
    """True for a module whose calls are nothing but its forward."""
    return not (is_leaf(module) or any(hooked(part) or changes_gradients(part) for part in module.modules()))


def _own() -> Callable[[str, Tensor], Tensor]:
    """The tensors of a clone: copies, which the run may write to."""
    copies: dict[int, Tensor] = {}

    def copied(_: str, tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            made = tensor.detach().clone()
            copies[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
        return copies[id(tensor)]

    return copied


def _noted(found: dict[str, Calls], path: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    form = _form((args, kwargs))
    if path in found:
        found[path].alike &= form == found[path].form
        return forward(*args, **kwargs)
    given = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, (args, kwargs))
    found[path] = Calls(given, form)
    out = forward(*args, **kwargs)
    found[path].alike &= form is not None and can_be_held(out)  # what other objects hold, no graph sees
    return out


def _form(arguments: Arguments) -> Any:
    """What a graph assumes about its arguments; None where no graph can hold them."""
    if not can_be_held(list(arguments)):
        return None
    return form_of(list(arguments), ""), [(x.shape, x.dtype) for x in leaves_of(arguments) if isinstance(x, Tensor)]
