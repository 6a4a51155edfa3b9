"""The tracer: runs a model's `forward` on proxies and records what it calls.

Each call is evaluated as it is recorded (`evaluate.py`): `node.meta["val"]` is a meta tensor for what depends on an
input or a parameter, the real value for sizes and constants; `node.meta["path"]` is the module whose `forward` made
the call, `node.meta["source"]` the line of it (`source.py`).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxteleport.errors import CaptureError, OpaqueModuleWarning
from fxteleport.passes import evaluate, proxy
from fxteleport.passes.aliases import mark_aliases, remove_dead
from fxteleport.passes.evaluate import Trust
from fxteleport.passes.inputs import expect, expect_length, guard, placeholders
from fxteleport.passes.leaves import DROPOUT, is_compiled, is_leaf, is_mode_dependent, reads_training
from fxteleport.passes.memo import Memo
from fxteleport.passes.objects import is_spelt, take_apart
from fxteleport.passes.proxy import Proxy, is_proxy
from fxteleport.passes.shadow import clone
from fxteleport.passes.source import calling_line
from fxteleport.passes.traced import path_of, reassigned, shadow

T = TypeVar("T")
_FACTS = frozenset(
    {"dtype", "device", "layout", "is_cuda", "is_floating_point", "is_complex"}
)  # of a tensor, whatever the data
# Arguments that say nothing about the shape of the result, whatever is known of them.
_SHAPELESS: dict[Any, str] = {F.scaled_dot_product_attention: "attn_mask", torch._grouped_mm: "offs"}
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
        self.assigned: dict[str, Tensor] = {}
        self.device = torch.device("cpu")
        self.memo = Memo()
        self.shadows: dict[type, type] = {}  # class -> the class of its shadow modules
        self.stack: list[nn.Module] = []  # the modules whose forward is running, outermost first
        self._autocast = _autocast()
        self._attributes: dict[str, Proxy] = {}
        self._constants: dict[int, Proxy] = {}
        self._keep: list[Any] = []  # objects whose id is in use above
        self._moved: list[tuple[Proxy, fx.Node]] = []  # handles rebound by in-place operations, with the old node
        self._written: list[Any] = []  # lists and dictionaries that the call being recorded wrote into
        self._mutations: list[tuple[fx.Node, Tensor]] = []
        self._modules = dict(model.named_modules(remove_duplicate=False))
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
            lowered = self.lower(out)
        except evaluate.CannotRun as error:
            where = path_of(self.stack[-1]) if self.stack else ""
            inside = f"in the forward of '{where}'" if where else "in its forward"
            raise CaptureError(f"the model does not run on these inputs: {inside}, {error}") from error.__cause__
        except RecursionError:
            raise
        except Exception as error:
            out = self.whole(error, args, kwargs)
            lowered = self.lower(out)
        names = reassigned(root)
        self.assigned = {name: tensor for name, tensor in _named_tensors(self.model) if name in names}
        self.graph.output(lowered)
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
        return self.model if path == WHOLE else self._modules[path]

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
                return self.device, Trust.KNOWN  # meta tensors stand for ones over there
            return self.memo.run(op, target, *values)

        what = f"'{getattr(target, '__name__', target)}'"
        value, mutated, trust = self.observe(run, what, args, kwargs)
        if target in _FACTS or (target is getattr and args[1] in _FACTS):
            trust = Trust.KNOWN
        elif target in _SHAPELESS:
            shaping = {k: v for k, v in kwargs.items() if k != _SHAPELESS[target]}
            trust = max(map(_trust, _handles((args, shaping))), default=Trust.KNOWN)
        if not mutated and isinstance(value, (bool, str, type(None))):
            if isinstance(value, bool):
                if trust:
                    raise evaluate.DataDependent(f"{what} depends on the data")
                if not any(isinstance(h._value, Tensor) for h in _handles((args, kwargs))):
                    self.decided(self.append(op, target, args, kwargs, value), value)
            return value
        return self.append(op, target, args, kwargs, value, mutated, trust)

    def observe(
        self, run: Callable[..., tuple[Any, Trust]], what: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Proxy], Trust]:
        """The value of a call, the handles of the arguments that it wrote into, and what the value is worth."""
        handles = list(_handles((args, kwargs)))
        versions = [(h, h._value._version) for h in handles if isinstance(h._value, Tensor)]
        given = proxy.plain(args), proxy.plain(kwargs)
        lent = [(mine, now, now.copy()) for mine, now in _lent((args, kwargs), given)]
        try:
            value, trust = run(*given)
        except evaluate.CannotRun as error:
            raise evaluate.CannotRun(f"{what}: {error}") from error.__cause__
        self._written = [mine for mine, now, before in lent if evaluate.changed(now, before)]
        trust = max([trust, *(min(_trust(h), Trust.GUESS) for h in handles)])
        return value, [h for h, before in versions if h._value._version != before], trust

    def forget(self, containers: list[Any]) -> None:
        """A call wrote into lists or dictionaries of Python's, which no node stands for: no one may read them again."""
        gone = self.graph.placeholder("gone")
        handle = proxy.make(gone, self, torch.empty((), device=evaluate.META))
        self.graph.erase_node(gone)
        for container in containers:
            for key in container if isinstance(container, dict) else range(len(container)):
                container[key] = handle

    def append(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        value: Any,
        mutated: list[Proxy] | None = None,
        trust: Trust = Trust.KNOWN,
    ) -> Proxy:
        """Append the node of an evaluated call; handles of mutated arguments move on to it."""
        if _autocast() != self._autocast:
            raise RuntimeError("it runs under a torch.autocast of its own, which a graph does not hold")
        node = self.graph.create_node(op, target, self.lower(args), self.lower(kwargs))
        node.meta["val"] = value
        node.meta["path"] = path_of(self.stack[-1]) if self.stack else ""
        if trust:
            node.meta["trust"] = trust
        node.meta["source"] = calling_line()
        for handle in mutated or ():
            node.meta["keep"] = True
            self._mutations.append((node, handle._value))
            if value is handle._value:
                self._moved.append((handle, handle._node))
                handle._node = node
        if self._written:
            self.forget(self._written)
            self._written = []
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
        path = self.free_path(f"{path_of(self.stack[-1])}.{func.__name__}")
        self.added[path] = self.twins[path] = DROPOUT[func](p).eval()
        return self.append("call_module", path, (input,), {}, proxy.plain(input))

    def call_leaf(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a module that is kept whole."""
        if path not in self.twins:
            self.twins[path] = self.twin(path)

        def real(*inputs: Any, **keywords: Any) -> Any:
            return self.run_leaf(path, inputs, keywords)

        def run(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            return self.memo.run("call_module", self.twins[path], inputs, keywords, real)

        what = f"'{path}' ({type(self.real(path)).__name__})"
        return self.append("call_module", path, args, kwargs, *self.observe(run, what, args, kwargs))

    def call_helper(self, module: nn.Module, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A method of a module, other than `forward`, is called: if it depends on the data, keep it whole."""
        depth, mark, moved = len(self.stack), next(iter(reversed(self.graph.nodes)), None), len(self._moved)
        before = evaluate.containers((args, kwargs))
        try:
            return fn(module, *args, **kwargs)
        except (evaluate.CannotRun, RecursionError):
            raise
        except Exception as error:
            if proxy.find_tracer((args, kwargs)) is None:
                raise
            del self.stack[depth:]
            self.rollback(mark, moved, before)
            try:
                return self.call_helper_whole(module, fn, args, kwargs, _first_line(error))
            except evaluate.CannotRun:  # it needs the weights: then its module is kept whole
                raise error from None

    def call_helper_whole(self, module: nn.Module, fn: Callable[..., Any], args: Any, kwargs: Any, why: str) -> Any:
        """Record a call of a method as a leaf of its own; it may read the module's settings, not its weights.

        Raises:
            CannotRun: it does read the weights.
        """
        owner = path_of(module)
        path = self.free_path(f"{owner}.{fn.__name__}")
        leaf = Helper(self.twin(owner), fn)
        value, mutated, trust = self.observe(
            lambda *given: evaluate.run("call_module", leaf, *given), f"'{path}'", args, kwargs
        )
        self.added[path] = self.twins[path] = leaf
        self.opaque[path] = why
        warnings.warn(f"method '{path}' is kept whole: {why}", OpaqueModuleWarning, stacklevel=2)
        return self.append("call_module", path, args, kwargs, value, mutated, trust)

    def free_path(self, wanted: str) -> str:
        """A dotted name that nothing has yet."""
        path = wanted.lstrip(".")
        while path in self.added or path in self.metas:
            path += "_"
        return path

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
        if is_compiled(real):
            return module._modules["_orig_mod"](*args, **kwargs)  # type: ignore[misc]
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
        before = evaluate.containers((args, kwargs))
        try:
            out = forward(*args, **kwargs)
        except (evaluate.CannotRun, RecursionError):
            raise
        except Exception as error:
            if not path:
                raise
            self.rollback(mark, moved, before)
            self.opaque[path] = reason = f"{type(error).__name__}: {_first_line(error)}"
            warnings.warn(f"module '{path}' is kept whole: {reason}", OpaqueModuleWarning, stacklevel=2)
            out = self.call_leaf(path, args, kwargs)
        self.stack.pop()
        return out

    def rollback(self, mark: fx.Node | None, moved: int, contents: Sequence[tuple[Any, Any]] = ()) -> None:
        """Erase what was recorded after the node `mark`; lists and dictionaries hold again what they held."""
        for container, held in contents:
            container.clear()
            container.extend(held) if isinstance(held, list) else container.update(held)
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
        self.known(handle)
        if not isinstance(handle._value, Tensor) or not handle._value.is_meta:
            self.specialized.append(f"{self.where()}: {handle._node.name} is {handle._value!r}"[:200])
        return value

    def decided(self, handle: Proxy, value: bool) -> None:
        """Python took a branch that depends on sizes: the emitted network insists that it would be the same one."""
        what = f"{handle._node.name} in {self.where()}"
        self.specialize(handle, value)
        guard(self.graph, expect, handle._node, value, what)

    def forced(self, handle: Proxy, value: T) -> T:
        """Python takes a number out of the graph: it is a constant from here on, so the emitted network insists."""
        if not _guarded(handle):
            what = f"{handle._node.name} in {self.where()}"
            self.specialize(handle, value)
            handle._node.meta["guarded"] = guard(self.graph, expect, handle._node, handle._value, what)
        return self.specialize(handle, value)

    def known(self, handle: Proxy) -> Any:
        """The value of a handle, for a decision of Python's.

        Raises:
            DataDependent: the value is a guess.
        """
        if _trust(handle):
            raise evaluate.DataDependent(f"the value of '{handle._node.name}' depends on the data")
        return handle._value

    def unpacked(self, handle: Proxy) -> Any:
        """The value of a tuple, a list or a dictionary, for its length.

        Code mostly decides the length, whatever the data: the emitted network makes sure of a guess.

        Raises:
            DataDependent: the length was seen to depend on the data.
        """
        value = handle._value
        if _trust(handle) is Trust.RAGGED:
            raise evaluate.DataDependent(f"the length of '{handle._node.name}' depends on the data")
        if _trust(handle) and not _guarded(handle):
            handle._node.meta["guarded"] = guard(self.graph, expect_length, handle._node, len(value))
        return value

    def where(self) -> str:
        return (path_of(self.stack[-1]) if self.stack else "") or "the model"

    # -- arguments -------------------------------------------------------------------------------------

    def lower(self, x: Any) -> Any:
        """An argument structure with nodes in place of proxies, and constants as attributes."""
        if is_proxy(x):
            if x._node._erased:
                raise RuntimeError("a value of a part that could not be traced is still in use")
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
            return kind(*map(self.lower, x)) if proxy.is_named_tuple(kind) else kind(map(self.lower, x))
        if isinstance(x, Tensor):
            return self.constant(x)._node
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            fields = {f.name: self.lower(getattr(x, f.name)) for f in dataclasses.fields(x) if f.init}
            return self._built(kind, fields, x)
        if isinstance(x, np.generic):
            return x.item()
        return x if is_spelt(x) else self._assembled(x)

    def _assembled(self, x: Any) -> fx.Node:
        """A node that makes an object anew around the network's values."""
        if self.stack:
            raise RuntimeError(
                f"a {type(x).__name__} reaches it, which may change there: tensors and plain values do not"
            )
        leaf, values = take_apart(x, is_proxy)
        path = self.free_path(f"_{type(x).__name__}")
        self.added[path] = self.twins[path] = leaf
        node = self.graph.create_node("call_module", path, tuple(map(self.lower, values)))
        node.meta.update(val=x, path="")
        return node

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


def _lent(x: Any, given: Any) -> Iterator[tuple[Any, Any]]:
    """The lists and dictionaries of an argument structure, each with the one that a call gets in its place.

    What a proxy stands for is left out: the emitted network hands on the object itself.
    """
    kind = type(x)
    if kind is tuple or kind is list or issubclass(kind, dict):
        if kind is not tuple:
            yield x, given
        for key in x if issubclass(kind, dict) else range(len(x)):
            yield from _lent(x[key], given[key])


def _trust(handle: Proxy) -> Trust:
    return handle._node.meta.get("trust", Trust.KNOWN)  # type: ignore[no-any-return]


def _guarded(handle: Proxy) -> bool:
    guarding = handle._node.meta.get("guarded")
    return guarding is not None and not guarding._erased


def _autocast() -> list[Any]:
    """Which devices' operations are cast, and to what."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    return [(kind, torch.get_autocast_dtype(kind)) for kind in kinds]


class Helper(nn.Module):
    """A method of a module as a leaf; the module itself is held out of sight: its tensors are meta stand-ins."""

    def __init__(self, owner: nn.Module, fn: Callable[..., Any]) -> None:
        super().__init__()
        self._held = (owner, fn)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        owner, fn = self._held
        return fn(owner, *args, **kwargs)


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
    elif type(x) in (tuple, list) or proxy.is_named_tuple(type(x)):
        for item in x:
            yield from _handles(item)
    elif issubclass(type(x), dict):
        yield from _handles(list(x.values()))
    elif type(x) is slice:
        yield from _handles((x.start, x.stop, x.step))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
