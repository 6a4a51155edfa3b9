"""Factories: a user's own network, from a function in a file."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fxteleport.models import zoo
from fxteleport.passes.errors import InputError, ModelError
from fxteleport.passes.graph.exported import is_program


def from_factory(
    spec: str,
    path: Path,
    factory: str,
    input_size: tuple[int, ...] | None,
    batch: int,
    settings: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, Any]:
    """A factory's network and inputs for it; what it prints goes to standard error.

    `settings` are arguments of the factory.

    Raises:
        ModelError: the file or the factory fails, or makes no `nn.Module`.
        InputError: the network's inputs are unknown.
    """
    with contextlib.redirect_stdout(sys.stderr), _described(f"the factory '{spec}'"):
        file = _import(path)
        make = getattr(file, factory, None)
        if make is None:
            named = [n for n, x in vars(file).items() if _makes_networks(n, x, file)]
            hint = zoo.suggestion(factory, named) or (f": it has {', '.join(named)}" if named else "")
            raise ModelError(f"'{path}' has no '{factory}'{hint}")
        built = isinstance(make, nn.Module) or not callable(make)
        if built and settings:
            raise InputError(f"'{spec}' is no function, so it takes no --model-kwargs")
        model = make if built else make(**(settings or {}))
        if not isinstance(model, nn.Module):
            hint = ": return its module()" if is_program(model) else ""
            raise ModelError(f"the factory '{spec}' returned a {type(model).__name__}, not an nn.Module{hint}")
        if input_size is not None:
            return model, torch.randn(batch, *input_size)
        examples = getattr(model, "example_inputs", None) or getattr(file, "example_inputs", None)
        if not callable(examples):
            raise InputError(f"'{spec}' has no example_inputs(): define one, or pass --input-size")
        return model, examples()


def _makes_networks(name: str, value: object, file: ModuleType) -> bool:
    """Whether a name in a file may be a factory: something that the file defines itself, and does not import."""
    if name.startswith("_") or name == "example_inputs":
        return False
    return isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", None) == file.__name__)


def _import(path: Path) -> ModuleType:
    """Run a file as a module; its neighbours can be imported."""
    name = f"_fxteleport_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


@contextlib.contextmanager
def _described(what: str) -> Iterator[None]:
    """Turn any error of a user's code into a ModelError."""
    try:
        yield
    except (ModelError, InputError):
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} failed: {type(error).__name__}: {error}") from error
