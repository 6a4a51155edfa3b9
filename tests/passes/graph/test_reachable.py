"""What the code of an opaque leaf can read of the model outside it stays as it is, and the leaf goes on reading it."""

from __future__ import annotations

import collections
import copy
import functools
import pickle
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.graph.reachable import Reach, fields_of

pytestmark = pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TABLE: dict[str, Any] = {}  # a global, from which code gets a layer


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


class Slot:
    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held


class Pair(NamedTuple):
    held: Any
    other: int = 0


class Table(dict):  # type: ignore[type-arg]
    """A dictionary of one's own, as configurations are."""


def weight_of(layer: nn.Linear) -> Tensor:
    return layer.weight


def by_default(layer: nn.Linear) -> Callable[[], Tensor]:
    def read(held: nn.Linear = layer, *, again: nn.Linear = layer) -> Tensor:
        return held.weight if held is again else held.weight * 2

    return read


# What refers to a layer, and how the weight is read of it.
REFERENCES: dict[str, tuple[Callable[[nn.Linear], Any], Callable[[Any], Tensor]]] = {
    "a list": (lambda layer: [layer], lambda r: r[0].weight),
    "a list of tensors": (lambda layer: [layer.weight], lambda r: r[0]),
    "a dictionary": (lambda layer: {"it": (layer,)}, lambda r: r["it"][0].weight),
    "a closure": (lambda layer: lambda: layer.weight, lambda r: r()),
    "a partial": (lambda layer: functools.partial(weight_of, layer), lambda r: r()),
    "a bound method": (lambda layer: layer.extra_repr, lambda r: r.__self__.weight),
    "an object": (Holder, lambda r: r.held.weight),
    "objects in objects": (lambda layer: [Holder({"it": Slot([layer])})], lambda r: r[0].held["it"].held[0].weight),
    "a namespace": (lambda layer: types.SimpleNamespace(it=layer), lambda r: r.it.weight),
    "a weak reference": (weakref.ref, lambda r: r().weight),
    "a weak proxy": (lambda layer: [weakref.proxy(layer)], lambda r: r[0].weight),
    "a weak table": (lambda layer: weakref.WeakValueDictionary(it=layer), lambda r: r["it"].weight),
    "a weak set": (lambda layer: weakref.WeakSet([layer]), lambda r: next(iter(r)).weight),
    "a set": (lambda layer: {layer}, lambda r: next(iter(r)).weight),
    "a frozen set": (lambda layer: frozenset([layer]), lambda r: next(iter(r)).weight),
    "a deque": (lambda layer: collections.deque([layer], 3), lambda r: r[0].weight),
    "a named tuple": (Pair, lambda r: r.held.weight),
    "a named tuple of tensors": (lambda layer: Pair(layer.weight), lambda r: r.held),
    "a table of one's own": (lambda layer: Table(it=Table(it=layer)), lambda r: r["it"]["it"].weight),
    "defaults": (by_default, lambda r: r()),
    "a global": (lambda layer: TABLE.update(it=layer), lambda r: TABLE["it"].weight),
}


class Reads(nn.Module):
    """Reads the weight of a layer that is not its own."""

    def __init__(self, reference: Any, read: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.reference, self.read = reference, read


class Depends(Reads):
    """It cannot be traced: a branch depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.read(self.reference)) * (2 if int((x > 0).sum()) % 2 else 3)


class Traced(Reads):
    """It is traced, and makes something of the weight alone first."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.read(self.reference)
        return F.linear(x, w.t() * 2) if w.shape[0] == len(w) and w.numel() and hash(w) else x


class Moody(Reads):
    """It has no tensors, and reads its mode: the other weight in train mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.read(self.reference)) if self.training else x


class Network(nn.Module):
    def __init__(self, refer: Callable[[nn.Linear], Any], kind: Callable[..., nn.Module], *more: Any) -> None:
        super().__init__()
        self.first, self.layer, self.other, self.last = (nn.Linear(*n) for n in ((4, 6), (6, 6), (6, 6), (6, 2)))
        self.reads = kind(refer(self.layer), *more)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(F.relu(self.reads(F.relu(self.first(x)))))
        return self.last(F.relu(self.other(F.relu(x))))


def step(network: nn.Module) -> Tensor:
    """Outputs in train mode, before and after a step of gradient descent."""
    network.train()
    torch.manual_seed(0)
    before = network(X)
    before.square().sum().backward()
    with torch.no_grad():
        for p in network.parameters():
            p -= 0.01 * (torch.zeros_like(p) if p.grad is None else p.grad)
    return torch.stack([before.detach(), network(X).detach()])


@pytest.mark.parametrize("kind", [Depends, Moody])
@pytest.mark.parametrize("name", REFERENCES)
def test_hidden_weights(name: str, kind: type[Reads], assert_exact: Callable[..., ft.Plan]) -> None:
    refer, read = REFERENCES[name]
    model = ft.randomize(Network(refer, kind, read).eval())
    for mode in ("full", "weights"):
        plan = assert_exact(model, X, mode=mode, at_least=6)
        assert "layer.weight" not in {n for n, s in plan.scales(plan.sample(seed=0)).items() if bool((s != 1).any())}
        cob = plan.sample(0.9, "inter", exact=True, seed=0)
        network = plan.rewrite(cob)
        assert {k for k in network.state_dict() if not k.endswith(("tau", "factor"))} == model.state_dict().keys()
        for other in (network, copy.deepcopy(network)):
            assert torch.equal(other(X), model(X))
        if mode == "weights":
            plan.apply_(cob, model)
            assert torch.equal(network(X), model.eval()(X))
            assert torch.equal(network.train()(X), model.train()(X))
            plan.apply_(cob.inverse(), model.eval())


@pytest.mark.parametrize("kind", [Depends, Moody, Traced])
@pytest.mark.parametrize("name", sorted(REFERENCES.keys() - {"a global"}))
def test_the_leaf_goes_on_reading_it(name: str, kind: type[Reads]) -> None:
    """In the emitted network, in its own one: after a step of training, too, and in another type."""
    refer, read = REFERENCES[name]
    model = ft.randomize(Network(refer, kind, read).eval())
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.identity())  # with another CoB, a step of training is another one
    torch.testing.assert_close(step(network), step(model))
    assert network.double().eval()(X.double()).dtype is torch.float64


class Scaled(torch.autograd.Function):
    """Reads a global in its forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * TABLE["it"].weight.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * TABLE["it"].weight.mean()


class Backward(torch.autograd.Function):
    """Reads a global in its backward alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * TABLE["it"].weight.mean()


class Applies(nn.Module):
    def __init__(self, _: Any, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("function", [Scaled, Backward])
def test_custom_functions(function: type[torch.autograd.Function], assert_exact: Callable[..., ft.Plan]) -> None:
    model = ft.randomize(Network(lambda layer: TABLE.update(it=layer), Applies, function).eval())
    plan = assert_exact(model, X, mode="weights", at_least=6)
    expected = model(X)
    expected.sum().backward()
    gradient = model.first.weight.grad
    assert gradient is not None
    plan.apply_(plan.sample(0.9, "inter", exact=True, seed=0), model.zero_grad())
    model(X).sum().backward()
    assert torch.equal(model(X), expected)
    assert torch.equal(model.first.weight.grad, gradient)


class Hooked(nn.Module):
    """A hook of a part of it reads the weight."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.part = nn.Identity()
        self.part.register_forward_hook(lambda module, args, out: F.linear(out, layer.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) * (2 if int((x > 0).sum()) % 2 else 3)


def test_hooks() -> None:
    model = ft.randomize(Network(lambda layer: layer, Hooked).eval())
    plan = ft.plan(model, X, mode="weights")
    expected = model(X)
    assert torch.equal(plan.apply_(plan.sample(0.9, "inter", exact=True, seed=0), model)(X), expected)


class Runs(nn.Module):
    """Kept whole, it runs a batch norm of the network's, whose mode and statistics are the network's."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = [norm]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm[0](x) * (2 if int((x > 0).sum()) % 2 else 3)


def test_a_module_that_a_leaf_runs() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
    model.append(Runs(model[1])).append(nn.Linear(6, 2))
    ft.randomize(model.eval())
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    statistics = model[1].running_mean.clone()
    for _ in range(2):
        torch.testing.assert_close(network.train()(X), model.train()(X))
    assert not torch.equal(model[1].running_mean, statistics)
    torch.testing.assert_close(network.get_buffer("1.running_mean"), model[1].running_mean)
    assert torch.equal(network.eval()(X), model.eval()(X))


class Chooses(nn.Module):
    """A method that depends on the data, and reads a weight on data that the example does not show."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layers, self.scale = [layer], nn.Parameter(torch.ones(()))

    def chosen(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layers[0].weight) if float(x.sum()) > 1e4 else 2 * x

    def forward(self, x: Tensor) -> Tensor:
        return self.chosen(x) * self.scale


def test_a_method_that_is_kept_whole() -> None:
    """The emitted network refuses to read it; in the original class nothing would, so there it stays."""
    model = ft.randomize(Network(lambda layer: layer, Chooses).eval())
    large = 1e5 * X.abs()
    network = ft.plan(model, X).rewrite(ft.plan(model, X).sample(exact=True, seed=0))
    assert torch.equal(network(X), model(X))
    with pytest.raises(RuntimeError, match="reads weights, which it did not"):
        pickle.loads(pickle.dumps(copy.deepcopy(network)))(large)
    plan = ft.plan(model, X, mode="weights")
    expected = model(X), model(large)
    plan.apply_(plan.sample(0.9, "inter", exact=True, seed=0), model)
    assert torch.equal(model(X), expected[0])
    assert torch.equal(model(large), expected[1])


def test_a_plain_attribute_of_a_layer() -> None:
    """A layer whose weight is an attribute, the weight of another one: it is no leaf, and both are free."""
    model = Network(lambda layer: 6, nn.Linear, 6)
    del model.reads._parameters["weight"]
    vars(model.reads)["weight"] = model.layer.weight
    ft.randomize(model.eval())
    plan = ft.plan(model, X, mode="weights")
    expected = model(X)
    assert torch.equal(plan.apply_(plan.sample(0.9, "inter", exact=True, seed=0), model)(X), expected)


def test_what_is_reached_in_a_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.Identity())
    names = {id(p): name for name, p in model.named_parameters()}
    reach = Reach(dict(model.named_modules()), names)
    assert not reach.of(model[2])
    vars(model[2])["held"] = [model[1]]
    assert sorted(reach.of(model[2]).modules) == ["1", "1.0"]
    assert not reach.of(model)  # nothing is outside
    assert set(reach.of(lambda: model[0].weight).modules) >= {"0", "1"}  # a closure holds the whole model
    weight = model[0].weight
    assert list(reach.of(lambda: weight).tensors) == ["0.weight"]


class Anything:
    """Has whatever it is asked for, as a library that is loaded from C does; its attributes are not its own."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Callable[..., str]:
        return lambda *args: name

    def __deepcopy__(self, memo: Any) -> Anything:
        return self


def test_an_object_that_has_whatever_it_is_asked_for() -> None:
    assert fields_of(Anything()) == []
    model = Network(lambda layer: 6, nn.Linear, 6)
    vars(model.reads)["library"] = Anything()
    ft.randomize(model.eval())
    plan = ft.plan(model, X, mode="weights")
    moved = plan.apply_(plan.sample(0.9, "inter", exact=True, seed=0), copy.deepcopy(model))
    assert torch.equal(moved(X), model(X))
