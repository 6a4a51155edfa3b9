"""Capture: `nn.Module` + example inputs -> a graph whose nodes know their values.

The model's own `forward` runs once, on proxies (`proxy.py`), in a structural clone of the model
(`shadow.py`), so neither its weights nor its state are touched. Each call is evaluated as it is recorded
(`evaluate.py`): `node.meta["val"]` is a meta tensor for what depends on an input or a parameter, the real
value for sizes and constants; `node.meta["path"]` is the module whose `forward` made the call.

Kept whole, as `call_module` nodes: torch's own layers, and modules whose only secret is `self.training`
(drop path), so that `train()` and `eval()` work on the emitted network. A batch norm subclass contributes
its normalisation as such a node and the rest of its `forward` as ordinary ones. A submodule that cannot be
traced is kept whole too (opaque), with a warning.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.errors import CaptureError, ModelError, OpaqueModuleWarning
from fxteleport.passes import evaluate, proxy
from fxteleport.passes.proxy import Proxy, is_proxy
from fxteleport.passes.shadow import clone

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Captured:
    """The graph of a model and what is needed to build modules from it.

    Attributes:
        graph: the nodes; a parameter or a buffer is a `get_attr` node, or belongs to a `call_module` node.
        model: the captured model (referred to, never changed).
        metas: every parameter and buffer of the model by name, as meta tensors (small integer ones are real).
        canonical: name -> the first name of the same tensor, so that tied weights are one.
        modules: the leaf modules by path, as meta twins; for looking up their settings.
        classes: leaf path -> the class whose `forward` it runs, where that is not the module's own.
        added: modules (and constants) that capture made, by path.
        opaque: leaf path -> why it could not be traced.
        branches: leaf path -> its graphs in eval and in train mode (mode-dependent modules).
        specialized: what was fixed by the example inputs: "where: what".
    """

    graph: fx.Graph
    model: nn.Module
    metas: dict[str, Tensor]
    canonical: dict[str, str]
    modules: dict[str, nn.Module]
    classes: dict[str, type]
    added: dict[str, nn.Module | Tensor]
    opaque: dict[str, str]
    branches: dict[str, tuple[fx.Graph, ...]]
    specialized: list[str]


def capture(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Captured:
    """Trace `model` on example inputs (tensors anywhere in nested lists, tuples and dicts).

    Raises:
        ModelError: not an `nn.Module`, or scripted, quantised or not materialised.
        CaptureError: the model does not run on these inputs.
    """
    reject_unsupported(model)
    tracer = Tracer(model)
    with torch.no_grad(), _patched_creation():
        tracer.trace(args, kwargs or {})
    return Captured(
        tracer.graph,
        model,
        tracer.metas,
        tracer.canonical,
        tracer.twins,
        tracer.classes,
        tracer.added,
        tracer.opaque,
        tracer.branches,
        list(dict.fromkeys(tracer.specialized)),
    )


def reject_unsupported(model: Any) -> None:
    """Raise ModelError for what has no graph of torch operations on parameters."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected an nn.Module, got {type(model).__name__}: pass a model instance")
    for path, module in model.named_modules():
        where = f"module '{path or 'the model itself'}' ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{where} is scripted: pass the nn.Module it was scripted from")
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise ModelError(f"{where} is quantised: teleport the float model before quantising it")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"'{name}' is lazy and not materialised: run the model once on real inputs first")


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
            self.canonical[name] = first.setdefault(id(tensor), name)
            self.metas[name] = self.metas[first[id(tensor)]] if name in self.metas else _meta_of(tensor)
            self.metas[name] = self.metas[self.canonical[name]]
        self._shared: dict[type, bool] = {}

    # -- the run ---------------------------------------------------------------------------------------

    def trace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record `model(*args, **kwargs)` in eval mode and tidy the graph."""
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        args, kwargs = self._placeholders(args, kwargs)
        root = self.shadow(self.model, "", training=False)
        try:
            out = root(*args, **kwargs)
        except evaluate.CannotRun as error:
            where = path_of(self.stack[-1]) if self.stack else ""
            raise CaptureError(
                f"the model does not run on these inputs, at '{where or 'its top level'}': {error}"
            ) from error.__cause__
        except RecursionError:
            raise
        except Exception as error:
            raise CaptureError(f"the model's own forward cannot be traced: {type(error).__name__}: {error}") from error
        self.graph.output(self.lower(out))
        self.graph.output_node().meta.update(val=proxy.plain(out), path="")
        self._mark_aliases()
        remove_dead(self.graph)

    def _placeholders(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Make a placeholder for each argument given; tensors inside structures are read out of theirs."""
        try:
            bound = inspect.signature(self.model.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise CaptureError(f"the example inputs do not fit the model's forward: {error}") from error
        names = _argument_names(bound)
        new_args = tuple(self._placeholder(name, value) for name, value in zip(names, args, strict=False))
        new_kwargs = {name: self._placeholder(name, value) for name, value in kwargs.items()}
        return new_args, new_kwargs

    def _placeholder(self, name: str, value: Any) -> Any:
        meta = pytree.tree_map(lambda x: x.detach().to(evaluate.META) if isinstance(x, Tensor) else x, value)
        node = self.graph.placeholder(name)
        node.meta.update(val=meta, path="")
        handle = proxy.make(node, self, meta)
        if isinstance(value, Tensor):
            return handle
        leaves = pytree.tree_leaves(value)
        if not any(isinstance(x, Tensor) for x in leaves):
            # The value decided what was traced: the emitted network accepts this one only.
            self.specialized.append(f"input '{name}': {value!r}")
            guard = self.graph.call_function(expect, (node, value, name))
            guard.meta.update(val=None, path="", keep=True)
            return value
        return _opened(handle)

    def shadow(self, module: nn.Module, path: str, training: bool) -> nn.Module:
        """The clone of a module that records: its parameters and buffers are proxies, made on first use."""
        return clone(
            module,
            lambda name, _: _Lazy(self, name),
            path,
            class_of=functools.partial(_traced_class, self),
            table=_Table,
            training=training,
        )

    def twin(self, path: str, training: bool = False) -> nn.Module:
        """The clone of the module at `path` that runs on meta tensors."""
        cls = self.classes.get(path)
        real = self.model.get_submodule(path)
        if cls is None:
            return clone(real, lambda name, _: self.metas[name].to(evaluate.META), path, training=training)
        return clone(
            real, lambda name, _: self.metas[name], path, training=training,
            class_of=lambda m: cls if m is real else type(m),
        )  # fmt: skip

    # -- recording -------------------------------------------------------------------------------------

    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Evaluate a call and append its node; what is not worth a node (bool, str, None) comes back as is."""
        values = proxy.plain(args), proxy.plain(kwargs)
        handles = [x for x in _handles(args) if isinstance(x._value, Tensor)]
        versions = [h._value._version for h in handles]
        is_device = target is getattr and values[0][1] == "device"  # meta tensors stand for ones over there
        value = self.device if is_device else evaluate.run(op, target, *values)
        mutated = [h for h, before in zip(handles, versions, strict=True) if h._value._version != before]
        if not mutated and isinstance(value, (bool, str, type(None))):
            if not any(isinstance(x, Tensor) for x in values[0]) and not isinstance(value, str):
                self.specialized.append(f"{self.where()}: {getattr(target, '__name__', target)} is {value}")
            return value
        return self.append(op, target, args, kwargs, value, mutated)

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
        if func in _DROPOUT:
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
        self.added[path] = self.twins[path] = _DROPOUT[func](p).eval()
        return self.append("call_module", path, (input,), {}, proxy.plain(input))

    def call_leaf(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a module that is kept whole."""
        if path not in self.twins:
            self.twins[path] = self.twin(path)
        values = proxy.plain(args), proxy.plain(kwargs)
        handles = [x for x in _handles(args) if isinstance(x._value, Tensor)]
        versions = [h._value._version for h in handles]
        value = evaluate.run("call_module", self.twins[path], *values, real=lambda *a, **k: self.run_leaf(path, a, k))
        mutated = [h for h, before in zip(handles, versions, strict=True) if h._value._version != before]
        return self.append("call_module", path, args, kwargs, value, mutated)

    def run_leaf(self, path: str, args: Any, kwargs: Any) -> Any:
        """Run a module with its own weights, in eval mode, where they are."""
        real = self.model.get_submodule(path)
        there = next((p.device for p in real.parameters()), evaluate.CPU)
        args, kwargs = pytree.tree_map(lambda x: x.to(there) if isinstance(x, Tensor) else x, (args, kwargs))
        return clone(real, lambda name, tensor: tensor, path, training=False)(*args, **kwargs)

    def call_module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A module is called: keep it whole, or trace its forward, or fall back from the second to the first."""
        path = path_of(module)
        real = self.model.get_submodule(path) if path else self.model
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
                new_args, new_kwargs = sub._placeholders(proxy.plain(args), proxy.plain(kwargs))
                out = sub.shadow(real, "", training)(*new_args, **new_kwargs)
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
            node.meta.update(val=value, path=name.rpartition(".")[0])
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

    # -- aliases ---------------------------------------------------------------------------------------

    def _mark_aliases(self) -> None:
        """Mark tensors that are seen through another view after being written in place."""
        if not self._mutations:
            return
        order = {node: i for i, node in enumerate(self.graph.nodes)}
        sharing: dict[int, list[fx.Node]] = {}
        for node in self.graph.nodes:
            if isinstance(node.meta.get("val"), Tensor):
                sharing.setdefault(_storage(node.meta["val"]), []).append(node)
        for writer, written in self._mutations:
            if writer not in order:
                continue
            kin = sharing.get(_storage(written), [])
            after = any(
                order[user] > order[writer] for node in kin if order[node] < order[writer] for user in node.users
            )
            if after or writer.meta["val"] is not written:
                for node in kin:
                    node.meta["aliased"] = True


class _Lazy:
    """Stands in a clone's table for a tensor whose proxy is made on first use."""

    __slots__ = ("name", "tracer")

    def __init__(self, tracer: Tracer, name: str) -> None:
        self.tracer, self.name = tracer, name


class _Table(dict):  # type: ignore[type-arg]
    """A module's parameter or buffer table that turns `_Lazy` entries into proxies when they are read."""

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        return value.tracer.attribute(value.name) if type(value) is _Lazy else value

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 it is this method

    def items(self) -> Any:
        return [(k, self[k]) for k in self]

    def values(self) -> Any:
        return [self[k] for k in self]


class _TracedCall:
    """Mixed into the class of every shadow module: a call goes to the tracer."""

    _tracer: Tracer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = super().__call__  # type: ignore[misc]
        return self._tracer.call_module(self, forward, args, kwargs)  # type: ignore[arg-type]


def _traced_class(tracer: Tracer, module: nn.Module) -> type:
    cls = type(module)
    return type(cls.__name__, (_TracedCall, cls), {"_tracer": tracer, "__module__": cls.__module__})


# -- what is kept whole ----------------------------------------------------------------------------------


def is_leaf(module: nn.Module) -> bool:
    """torch's own layers (not its containers), and those that nothing but a hook sets apart from one."""
    cls = type(module)
    if not cls.__module__.startswith("torch.nn.modules."):
        return hooked(module) and not module._modules
    if cls.__module__ == "torch.nn.modules.container":
        return False
    return not module._modules or isinstance(module, (nn.MultiheadAttention, nn.RNNBase))


def hooked(module: nn.Module) -> bool:
    """True where a forward hook may change what the module takes or gives."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_mode_dependent(module: nn.Module) -> bool:
    """A module without tensors or parts whose forward reads `self.training` (drop path and its like)."""
    return not (module._modules or module._parameters or module._buffers) and reads_training(type(module))


def reads_training(cls: type[nn.Module]) -> bool:
    """True where the class's forward mentions `self.training`."""
    code = getattr(cls.forward, "__code__", None)
    return code is not None and "training" in code.co_names


_DROPOUT: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}

# -- functions that make tensors from sizes do not look at their arguments: they are wrapped during capture --

_CREATION = (
    "arange as_tensor empty eye full linspace logspace ones rand randint randn randperm scalar_tensor tensor"
    " tril_indices triu_indices zeros hann_window hamming_window complex polar"
).split()
_patches = threading.RLock()
_patch_depth = 0
_originals: dict[str, Any] = {}


@contextmanager
def _patched_creation() -> Iterator[None]:
    """Record `torch.zeros(n, m)` and its like when a size is a proxy; plain calls pass through."""
    global _patch_depth
    with _patches:
        _patch_depth += 1
        if _patch_depth == 1:
            for name in _CREATION:
                _originals[name] = getattr(torch, name)
                setattr(torch, name, _recording(_originals[name]))
    try:
        yield
    finally:
        with _patches:
            _patch_depth -= 1
            if _patch_depth == 0:
                for name, fn in _originals.items():
                    setattr(torch, name, fn)


def _recording(fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        tracer = proxy.find_tracer((args, kwargs))
        return fn(*args, **kwargs) if tracer is None else tracer.record("call_function", fn, args, kwargs)

    return wrapper


# -- small helpers ---------------------------------------------------------------------------------------


def expect(value: Any, expected: Any, name: str) -> None:
    """Refuse another value of an argument that decided, as a plain Python value, what was traced."""
    if value is not expected and value != expected:
        raise ValueError(f"this network was captured with {name}={expected!r}, got {value!r}: capture it again")


def path_of(module: nn.Module) -> str:
    """The dotted name that a clone carries."""
    return str(module.__dict__["_path"])


def remove_dead(graph: fx.Graph) -> None:
    """Erase nodes that nothing uses and that write nothing."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output") and not node.meta.get("keep"):
            graph.erase_node(node)


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


def _opened(handle: Any) -> Any:
    """A structured placeholder as a plain structure whose tensors are read out of it."""
    value = handle._value
    if isinstance(value, Tensor):
        return handle
    if isinstance(value, dict):
        return {k: _item(handle, k, v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_item(handle, i, v) for i, v in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return handle


def _item(handle: Any, key: Any, value: Any) -> Any:
    if not any(isinstance(x, Tensor) for x in pytree.tree_leaves(value)):
        return value
    return _opened(handle._tracer.record("call_function", operator.getitem, (handle, key), {}))


def _argument_names(bound: inspect.BoundArguments) -> list[str]:
    """A name for each positional argument."""
    names: list[str] = []
    for name, parameter in bound.signature.parameters.items():
        if name not in bound.arguments:
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}_{i}" for i in range(len(bound.arguments[name]))]
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            names.append(name)
    return names


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
