"""Neural teleportation of any PyTorch network: another place in weight space, the same function.

    import fxteleport as ft

    plan = ft.plan(model, example_input)         # what may move, and why the rest may not
    cob = plan.sample(cob_range=0.9, landscape="inter", seed=0)
    network = plan.rewrite(cob)                  # a new GraphModule that computes the same function
    assert ft.verify(model, network, example_input).passed

The passes behind a plan are in `fxteleport.passes`, the command line is in `fxteleport.tools`. The public names are
listed in `fxteleport/api.py`, which is imported, and torch with it, when the first of them is used: the command line
prints its help without.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if not os.path.isdir(os.path.join(__path__[0], "passes")):  # a checkout, whose folders the build maps into one package
    __path__.append(os.path.dirname(__path__[0]))

if TYPE_CHECKING:
    from fxteleport.api import *  # noqa: F403

__version__ = "0.2.0"  # the one place where it is written


class _Package(ModuleType):
    """The class of this package: importing a folder does not replace the public function of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in ("align", "plan", "verify") or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """A public name, the list of them, `__all__`, or a folder that is imported with them."""
    if name == "__all__" or not name.startswith("_"):
        api = importlib.import_module("fxteleport.api")
        if name == "__all__" or name in api.__all__:
            globals()[name] = getattr(api, name)
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
