"""Opaque code that calls modules with inner graphs (`capture/inner_graphs.py`).

Its parameters are held under their names by plain holders, as everywhere in a network. The code itself runs on a clone
of the module, which is no submodule of the network. In the clone, the modules that it calls have no readable weights,
and calling them calls the networks of their graphs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.inner_calls import Sealed, is_below, sealed
from fxteleport.passes.capture.leaf_table import WHOLE
from fxteleport.passes.graph.module_clone import clone, path_of


class InnerCall:
    """The forward of a module that opaque code calls: the network of the module's graph."""

    def __init__(self, path: str) -> None:
        self.path, self.network = path, None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.network.inner_networks[self.path].forward(*args, **kwargs)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> InnerCall:
        return InnerCall(self.path)  # the copied network will set itself (`Coded.belong`)

    def __reduce__(self) -> Any:
        return InnerCall, (self.path,)


class Coded:
    """The forward of the holder of an opaque module: each run of its code has the network's modes and tensors."""

    def __init__(self, code: nn.Module) -> None:
        self.code = code
        self._network: Any = None

    def belong(self, network: nn.Module) -> None:
        """Set the network whose tensors the code uses, and whose inner networks it calls."""
        self._network = network
        for module in self.code.modules():
            if isinstance(call := vars(module).get("forward"), InnerCall):
                call.network = network  # type: ignore[assignment]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for module in self.code.modules():
            own = self._network.get_submodule(path_of(module))
            module.training = own.training
            for table in ("_parameters", "_buffers"):
                held, now = vars(module)[table], vars(own)[table]
                held.update({k: now[k] for k, v in held.items() if type(v) is not Sealed and k in now})
        return self.code(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Coded:
        return Coded(copy.deepcopy(self.code, memo))

    def __reduce__(self) -> Any:
        return Coded, (self.code,)


def hold_code(captured: Captured, model: nn.Module, root: nn.Module, tensors: Callable[[str, Tensor], Any]) -> None:
    """Have the holders of modules whose code calls inner networks run that code."""
    for path in captured.owners:
        name = "" if path == WHOLE else path

        def of_code(name: str, tensor: Tensor) -> Any:
            return sealed(tensor) if is_below(name, captured.inner) else tensors(name, tensor)

        code = clone(model.get_submodule(name), of_code, name, beside=captured.reached.get(path))
        for module in code.modules():
            if path_of(module) in captured.inner:
                vars(module)["forward"] = InnerCall(path_of(module))
        holder = nn.Module() if path == WHOLE else root.get_submodule(path)
        vars(holder)["forward"] = Coded(code)
        if path == WHOLE:
            vars(root)[WHOLE] = holder


def codes_of(network: nn.Module) -> list[Coded]:
    """All opaque code in a network that calls inner networks."""
    holders = [*network.modules(), *([network.__dict__[WHOLE]] if WHOLE in network.__dict__ else [])]
    return [code for holder in holders if isinstance(code := vars(holder).get("forward"), Coded)]
