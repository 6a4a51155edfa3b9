"""Running: a network on given inputs, so that nothing of it is changed and two of them draw the same random numbers."""

from __future__ import annotations

import collections
import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.capture.model_tensors import named_tensors
from fxteleport.passes.graph.dtensor import is_sharded
from fxteleport.passes.graph.module_clone import clone
from fxteleport.passes.rules.call import carries
from fxteleport.verify.compare import difference
from fxteleport.verify.outputs import Outputs, dense, outputs

_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_BOOKKEEPING = frozenset(vars(nn.Module())) - {*_TABLES, "training"}
_CONTAINERS = (dict, list, set, collections.deque)


def own_copy(x: Any) -> Any:
    """A copy of inputs (tensors in any structure), for a network that may write into them."""
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, x)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a network: what it put out, and the names of the buffers that its forward wrote to."""

    outputs: Outputs
    written: frozenset[str]


def run(network: nn.Module, inputs: Any, keyword_inputs: Any) -> Run:
    """Run a network, with all that its forward changes of it undone."""
    before = dict(network.named_buffers(remove_duplicate=False))
    with undisturbed(network) as saved:
        found = outputs(network(*own_copy(inputs), **own_copy(keyword_inputs)))
        after = dict(network.named_buffers(remove_duplicate=False))
        written = {n for n, b in before.items() if after.get(n) is not b or not _is_same(b, saved[id(b)][1])}
        held = {_memory(t) for t, _ in saved.values()}
        own = {p: x.clone() if isinstance(x, Tensor) and _memory(x) in held else x for p, x in found.items()}
    return Run(own, frozenset(written))


def _memory(x: Tensor) -> int:
    dense = x.layout is torch.strided and not is_sharded(x) and not x.is_meta
    return x.untyped_storage().data_ptr() if dense else id(x)


@contextlib.contextmanager
def undisturbed(*networks: nn.Module) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """What happens inside to a network's buffers, attributes and modes is undone.

    Yields the tensors that are saved, by id, each with its copy.

    Undone is what a forward changes of its modules: buffers and other tensors that they hold, attributes and what
    lists, sets and dictionaries among them hold, which parameters require gradients, and their gradients. Not undone is
    what it does to the values of parameters (such a forward computes something else each time) and to objects that are
    no modules.
    """
    modules = list({id(m): m for network in networks for m in network.modules()}.values())
    attributes = [(m.__dict__, dict(m.__dict__)) for m in modules]
    containers: list[tuple[Any, Any]] = []
    tensors: dict[int, tuple[Tensor, Tensor]] = {}
    for m, (_, before) in zip(modules, attributes, strict=True):
        for name in before.keys() - _BOOKKEEPING:
            value = before[name]
            if isinstance(value, _CONTAINERS):
                containers.append((value, list(value.items()) if isinstance(value, dict) else list(value)))
            elif type(value) is Tensor:
                tensors.setdefault(id(value), (value, value.detach().clone()))
        for buffer in m._buffers.values():
            if buffer is not None:
                tensors.setdefault(id(buffer), (buffer, buffer.detach().clone()))
    parameters = [(p, p.requires_grad, p.grad) for network in networks for p in network.parameters()]
    try:
        yield tensors
    finally:
        for now, before in attributes:
            _put_back(now, before)
        for container, held in containers:
            _refill(container, held)
        with torch.no_grad():
            for tensor, saved in tensors.values():
                if not _is_same(tensor, saved):
                    tensor.copy_(saved)
        for parameter, wanted, grad in parameters:
            if parameter.requires_grad is not wanted:
                parameter.requires_grad_(wanted)
            if parameter.grad is not grad:
                parameter.grad = grad


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Only what differs: another thread may be running the same network."""
    for name in [n for n in now if n not in before]:
        del now[name]
    for name, value in before.items():
        if now.get(name) is not value or name not in now:
            now[name] = value


def _refill(container: Any, held: list[Any]) -> None:
    items = list(container.items()) if isinstance(container, dict) else list(container)
    flat, old = ([x for pair in xs for x in pair] if isinstance(container, dict) else xs for xs in (items, held))
    if len(flat) == len(old) and all(a is b for a, b in zip(flat, old, strict=True)):
        return
    container.clear()
    (container.extend if isinstance(container, (list, collections.deque)) else container.update)(held)


def _is_same(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.equal(a, b)
    except (RuntimeError, NotImplementedError):  # sparse, for instance
        return False


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, each part's own mode restored afterwards; torch's fused fast paths are off."""
    modes = [(m, m.training) for m in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it takes another kernel than the captured graph
    try:
        module.eval()
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m, training in modes:
            m.training = training


class Draws:
    """The random number generators that a network may draw from: two networks are to draw the same.

    Attributes:
        drawn: a network that ran has drawn.
    """

    def __init__(self, network: nn.Module) -> None:
        found = {t.get_device() for _, t in named_tensors(dict(network.named_modules())) if t.is_cuda}
        self.devices = sorted(found)
        self.drawn = False

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """What is drawn inside leaves the generators as they were: torch's, Python's and numpy's."""
        python, numpy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=self.devices):
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)

    def same(self, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
        """Both results; the second draws what the first has drawn."""
        before = self._state()
        one = first()
        if not all(map(torch.equal, before, self._state())):
            self.drawn = True
            torch.set_rng_state(before[0])
            for device, state in zip(self.devices, before[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
        return one, second()

    def _state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.devices)]


# -- in other numbers ------------------------------------------------------------------------------------


def doubled(x: Any) -> Any:
    """Tensors of fractions in a structure as float64 (complex128)."""
    return tree_map(lambda t: t.to(_wide(t.dtype)) if isinstance(t, Tensor) and _is_broken(t) else t, x)


def _is_broken(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def in_float64(model: nn.Module) -> nn.Module:
    """A copy of a network in float64, in eval mode; what its forward changes does not reach the original."""
    made: dict[int, Tensor] = {}  # tied ones stay tied
    wide: nn.Module = clone(model, lambda name, t: made.setdefault(id(t), _copy(t, doubled(t))), training=False)
    return wide


def _copy(old: Tensor, new: Tensor) -> Tensor:
    new = new.detach().clone() if new is old else new.detach()
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def own_rounding(model: nn.Module, expected: Sequence[Tensor], inputs: Any, keyword_inputs: Any) -> float:
    """How far the original's outputs (those with fractions) are from `precise`, relative to the largest of each."""
    found = outputs(precise(model, inputs, keyword_inputs)).values()
    reference = [dense(x) for x in found if carries(x)]
    return max((difference(r, e)[1] for e, r in zip(expected, reference, strict=True)), default=0.0)


def precise(model: nn.Module, inputs: Any, keyword_inputs: Any) -> Any:
    """The network's outputs in float64, with every parameter moved by one rounding.

    Teleportation rounds each parameter once more, hence the move.
    """
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device) * 2 - 1
        return tensor.to(_wide(tensor.dtype)) * (1 + noise * torch.finfo(tensor.dtype).eps)

    try:
        wide = clone(model, lambda name, t: moved(t) if _is_broken(t) else t.clone())
        return wide(*doubled(own_copy(inputs)), **doubled(own_copy(keyword_inputs)))
    except RuntimeError:  # the model insists on a number format: then by the moved parameters alone
        near = clone(model, lambda name, t: moved(t).to(t.dtype) if _is_broken(t) else t.clone())
        return near(*own_copy(inputs), **own_copy(keyword_inputs))
