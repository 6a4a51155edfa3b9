"""The tracer: runs a model's `forward` on proxies and records what it calls.

Each call is evaluated as it is recorded (`evaluate.py`): `node.meta["val"]` is a meta tensor for what depends on an
input or a parameter, the real value for sizes and constants; `node.meta["path"]` is the module whose `forward` made
the call, `node.meta["source"]` the line of it (`source.py`).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.errors import CaptureError, OpaqueModuleWarning
from fxteleport.passes import evaluate, proxy
from fxteleport.passes.aliases import mark_aliases, remove_dead
from fxteleport.passes.inputs import placeholders
from fxteleport.passes.leaves import DROPOUT, is_leaf, is_mode_dependent, reads_training
from fxteleport.passes.proxy import Proxy, is_proxy
from fxteleport.passes.shadow import clone
from fxteleport.passes.source import calling_line
from fxteleport.passes.traced import path_of, shadow

T = TypeVar("T")
WHOLE = "_whole"  # the leaf that stands for a model whose own forward cannot be traced


class Tracer:
    """Runs a model's `forward` on proxies and records what it calls. Used once."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.graph = fx.Graph()
        self.metas: dict[str, Tensor] = {}
        self.canonical: dict[str, str] = {}
        self.twins: dict[str, nn.Module] = {}
        self.classes: dict[str, type] = {}
        self.added: dict[str, nn.Module | Tensor] = {}
        self.opaque: dict[str, str] = {}
        self.branches: dict[str, tuple[fx.Graph, ...]] = {}
        self.specialized: list[str] = []
        self.device = torch.device("cpu")
        self.stack: list[nn.Module] = []  # the modules whose forward is running, outermost first
        self._attributes: dict[str, Proxy] = {}
        self._constants: dict[int, Proxy] = {}
        self._keep: list[Any] = []  # objects whose id is in use above
        self._moved: list[tuple[Proxy, fx.Node]] = []  # handles rebound by in-place operations, with the old node
        self._mutations: list[tuple[fx.Node, Tensor]] = []
        first: dict[int, str] = {}
        for name, tensor in _named_tensors(model):
            own = self.canonical[name] = first.setdefault(id(tensor), name)
            self.metas[name] = self.metas[own] if own in self.metas else _meta_of(tensor)

    # -- the run ---------------------------------------------------------------------------------------

    def trace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record `model(*args, **kwargs)` in eval mode and tidy the graph."""
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        args, kwargs = placeholders(self, self.model, args, kwargs)
        root = shadow(self, self.model, "", training=False)
        try:
            out = root(*args, **kwargs)
        except evaluate.CannotRun as error:
            where = path_of(self.stack[-1]) if self.stack else ""
            inside = f"in the forward of '{where}'" if where else "in its forward"
            raise CaptureError(f"the model does not run on these inputs: {inside}, {error}") from error.__cause__
        except Exception as error:
            out = self.whole(error, args, kwargs)
        self.graph.output(self.lower(out))
        self.graph.output_node().meta.update(val=proxy.plain(out), path="")
        mark_aliases(self.graph, self._mutations)
        remove_dead(self.graph)

    def whole(self, error: Exception, args: Any, kwargs: Any) -> Any:
        """The model's own forward cannot be traced: it is one opaque leaf, and nothing in it is free."""
        inputs = [n for n in self.graph.nodes if n.op == "placeholder"]
        self.rollback(inputs[-1] if inputs else None, 0)
        self.stack.clear()
        self.opaque[WHOLE] = reason = f"{type(error).__name__}: {_first_line(error)}"
        warnings.warn(f"the model is kept whole, nothing in it can move: {reason}", OpaqueModuleWarning, stacklevel=4)
        try:
            return self.call_leaf(WHOLE, args, kwargs)
        except evaluate.CannotRun as failed:
            raise CaptureError(f"the model does not run on these inputs: {failed}") from error

    def real(self, path: str) -> nn.Module:
        """The user's module at a path."""
        return self.model if path in ("", WHOLE) else self.model.get_submodule(path)

    def twin(self, path: str, training: bool = False) -> nn.Module:
        """The clone of the module at `path` that runs on meta tensors."""
        cls = self.classes.get(path)
        real = self.real(path)
        path = "" if path == WHOLE else path

        def class_of(module: nn.Module) -> type:
            return cls if cls is not None and module is real else type(module)

        return clone(
            real, lambda name, _: self.metas[name].to(evaluate.META), path, class_of=class_of, training=training
        )

    # -- recording -------------------------------------------------------------------------------------

    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Evaluate a call and append its node; what is not worth a node (bool, str, None) comes back as is."""

        def run(*values: Any) -> Any:
            if target is getattr and values[0][1] == "device":
                return self.device  # meta tensors stand for ones over there
            return evaluate.run(op, target, *values)

        value, mutated = self.observe(run, f"'{getattr(target, '__name__', target)}'", args, kwargs)
        if not mutated and isinstance(value, (bool, str, type(None))):
            if not isinstance(value, str) and not any(isinstance(h._value, Tensor) for h in _handles(args)):
                self.specialized.append(f"{self.where()}: {getattr(target, '__name__', target)} is {value}")
            return value
        return self.append(op, target, args, kwargs, value, mutated)

    def observe(
        self, run: Callable[..., Any], what: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Proxy]]:
        """The value of a call, and the handles of the arguments that it wrote into."""
        handles = [x for x in _handles(args) if isinstance(x._value, Tensor)]
        versions = [h._value._version for h in handles]
        try:
            value = run(proxy.plain(args), proxy.plain(kwargs))
        except evaluate.CannotRun as error:
            raise evaluate.CannotRun(f"{what}: {error}") from error.__cause__
        return value, [h for h, before in zip(handles, versions, strict=True) if h._value._version != before]

    def append(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        value: Any,
        mutated: list[Proxy] | None = None,
    ) -> Proxy:
        """Append the node of an evaluated call; handles of mutated arguments move on to it."""
        node = self.graph.create_node(op, target, self.lower(args), self.lower(kwargs))
        node.meta["val"] = value
        node.meta["path"] = path_of(self.stack[-1]) if self.stack else ""
        node.meta["source"] = calling_line()
        for handle in mutated or ():
            node.meta["keep"] = True
            self._mutations.append((node, handle._value))
            if value is handle._value:
                self._moved.append((handle, handle._node))
                handle._node = node
        return proxy.make(node, self, value)

    def call_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a torch function; batch norm and dropout become leaves that know train and eval mode."""
        module = self.stack[-1] if self.stack else None
        if func is F.batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = module._buffers.get("running_mean")
            if own is not None and len(args) > 1 and args[1] is own:
                return self.own_normalisation(module, args[0])
        if func in DROPOUT:
            return self.functional_dropout(func, *args, **kwargs)
        return self.record("call_function", func, args, kwargs)

    def own_normalisation(self, module: nn.Module, x: Proxy) -> Any:
        """The normalisation inside a batch norm subclass, as a leaf of its torch base class."""
        path = path_of(module)
        self.classes[path] = next(c for c in type(module).__mro__ if c.__module__.startswith("torch.nn."))
        return self.call_leaf(path, (x,), {})

    def functional_dropout(
        self, func: Any, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Any:
        """`F.dropout(x, p, self.training)` as a leaf, so that it drops again after `train()`."""
        if training or p == 0.0:
            return self.record("call_function", func, (input, p, training, inplace), {})
        parent = path_of(self.stack[-1])
        path = f"{parent}.{func.__name__}".lstrip(".")
        while path in self.added or path in self.metas:
            path += "_"
        self.added[path] = self.twins[path] = DROPOUT[func](p).eval()
        return self.append("call_module", path, (input,), {}, proxy.plain(input))

    def call_leaf(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a module that is kept whole."""
        if path not in self.twins:
            self.twins[path] = self.twin(path)

        def real(*inputs: Any, **keywords: Any) -> Any:
            return self.run_leaf(path, inputs, keywords)

        def run(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            return evaluate.run("call_module", self.twins[path], inputs, keywords, real)

        value, mutated = self.observe(run, f"'{path}' ({type(self.real(path)).__name__})", args, kwargs)
        return self.append("call_module", path, args, kwargs, value, mutated)

    def run_leaf(self, path: str, args: Any, kwargs: Any) -> Any:
        """Run a module with its own weights, in eval mode, where they are."""
        real = self.real(path)
        there = next((p.device for p in real.parameters()), evaluate.CPU)
        args, kwargs = pytree.tree_map(lambda x: x.to(there) if isinstance(x, Tensor) else x, (args, kwargs))
        return clone(real, lambda name, tensor: tensor, training=False)(*args, **kwargs)

    def call_module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A module is called: keep it whole, or trace its forward, or fall back from the second to the first."""
        path = path_of(module)
        real = self.real(path)
        if path and is_leaf(real):
            return self.call_leaf(path, args, kwargs)
        if path and is_mode_dependent(real):
            out = self.call_leaf(path, args, kwargs)
            self.trace_branches(path, real, args, kwargs)
            return out
        if reads_training(type(real)) and not isinstance(real, nn.modules.batchnorm._BatchNorm):
            self.specialized.append(f"{path or 'the model'}: its forward reads self.training (eval mode was traced)")
        self.stack.append(module)
        mark, moved = next(iter(reversed(self.graph.nodes)), None), len(self._moved)
        try:
            out = forward(*args, **kwargs)
        except (evaluate.CannotRun, RecursionError):
            raise
        except Exception as error:
            if not path:
                raise
            self.rollback(mark, moved)
            self.opaque[path] = reason = f"{type(error).__name__}: {_first_line(error)}"
            warnings.warn(f"module '{path}' is kept whole: {reason}", OpaqueModuleWarning, stacklevel=2)
            out = self.call_leaf(path, args, kwargs)
        self.stack.pop()
        return out

    def rollback(self, mark: fx.Node | None, moved: int) -> None:
        """Erase what was recorded after the node `mark`."""
        while len(self._moved) > moved:
            handle, node = self._moved.pop()
            handle._node = node
        for node in reversed(self.graph.nodes):
            if node is mark:
                break
            self.graph.erase_node(node)
        alive = set(self.graph.nodes)
        self._attributes = {k: p for k, p in self._attributes.items() if p._node in alive}
        self._constants = {k: p for k, p in self._constants.items() if p._node in alive}
        self._mutations = [m for m in self._mutations if m[0] in alive]

    def trace_branches(self, path: str, real: nn.Module, args: Any, kwargs: Any) -> None:
        """Trace a mode-dependent module by itself in both modes: its CoB must be right in both."""
        graphs = []
        for training in (False, True):
            sub = Tracer(real)
            sub.device = self.device
            try:
                new_args, new_kwargs = placeholders(sub, real, proxy.plain(args), proxy.plain(kwargs))
                out = shadow(sub, real, "", training)(*new_args, **new_kwargs)
            except Exception as error:
                self.opaque[path] = f"in {'train' if training else 'eval'} mode: {_first_line(error)}"
                return
            sub.graph.output(sub.lower(out))
            graphs.append(sub.graph)
        self.branches[path] = tuple(graphs)

    def specialize(self, handle: Proxy, value: T) -> T:
        """Python needs the value itself: give it, and record that the graph now depends on it."""
        if not isinstance(handle._value, Tensor) or not handle._value.is_meta:
            self.specialized.append(f"{self.where()}: {handle._node.name} is {handle._value!r}"[:200])
        return value

    def where(self) -> str:
        return (path_of(self.stack[-1]) if self.stack else "") or "the model"

    # -- arguments -------------------------------------------------------------------------------------

    def lower(self, x: Any) -> Any:
        """An argument structure with nodes in place of proxies, and constants as attributes."""
        if is_proxy(x):
            return x._node
        kind = type(x)
        if kind is tuple or kind is list:
            return kind(map(self.lower, x))
        if kind is slice:
            return slice(self.lower(x.start), self.lower(x.stop), self.lower(x.step))
        if isinstance(x, dict):
            items = {k: self.lower(v) for k, v in x.items()}
            return items if kind is dict else self._built(kind, items, x)
        if isinstance(x, tuple):
            return kind(*map(self.lower, x)) if hasattr(x, "_fields") else kind(map(self.lower, x))
        if isinstance(x, Tensor):
            return self.constant(x)._node
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            fields = {f.name: self.lower(getattr(x, f.name)) for f in dataclasses.fields(x) if f.init}
            return self._built(kind, fields, x)
        return x

    def _built(self, kind: type, fields: dict[str, Any], value: Any) -> fx.Node:
        """A node that builds an object (a data class, an OrderedDict) from its lowered fields."""
        if dataclasses.is_dataclass(kind):
            fields = {k: v for k, v in fields.items() if v is not None}
            node = self.graph.call_function(kind, (), fields)
        else:
            node = self.graph.call_function(kind, (fields,))
        node.meta.update(val=value, path="")
        return node

    def attribute(self, name: str) -> Proxy:
        """The proxy of a parameter or buffer, by its dotted name; one for all its names."""
        name = self.canonical[name]
        found = self._attributes.get(name)
        if found is None:
            node = self.graph.get_attr(name) if not self.added else self.graph.create_node("get_attr", name)
            value = self.metas[name]
            node.meta.update(val=value, path=name.rpartition(".")[0], source=calling_line())
            found = self._attributes[name] = proxy.make(node, self, value)
        return found

    def constant(self, tensor: Tensor) -> Proxy:
        """The proxy of a tensor that `forward` made from no input, or that is no attribute of the model."""
        found = self._constants.get(id(tensor))
        if found is None:
            if tensor.is_meta:
                raise RuntimeError("a tensor computed outside the trace reached it")
            name = f"_tensor_constant{sum(isinstance(v, Tensor) for v in self.added.values())}"
            self.added[name] = tensor.detach()
            node = self.graph.create_node("get_attr", name)
            node.meta.update(val=tensor.detach(), path="")
            self._keep.append(tensor)
            found = self._constants[id(tensor)] = proxy.make(node, self, tensor.detach())
        return found


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _meta_of(tensor: Tensor) -> Tensor:
    """A meta stand-in; integer and boolean tensors keep their values, since they index and branch."""
    tensor = tensor.detach()
    if tensor.is_meta:
        return tensor
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.empty_like(tensor, device=evaluate.META)
    return tensor.cpu()


def _handles(x: Any) -> Iterator[Proxy]:
    """The proxies in an argument structure."""
    if is_proxy(x):
        yield x
    elif type(x) in (tuple, list):
        for item in x:
            yield from _handles(item)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
