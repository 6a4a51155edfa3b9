"""Capture: what comes out is the same network, for other batch sizes too, and the model is left alone."""

from __future__ import annotations

import concurrent.futures
import copy
import subprocess
import sys
import textwrap
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, DropPath
from torch import Tensor, fx, nn

import fxteleport as ft
from fxteleport.passes.capture import proxy
from fxteleport.passes.capture.capture import capture
from fxteleport.passes.graph.node_info import info, is_described


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Everything that behaves differently in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.b, self.act = nn.Conv2d(6, 6, 1), BatchNormAct2d(6, act_layer=nn.SiLU)
        self.drop, self.path = nn.Dropout(0.5), DropPath(0.5)
        self.o = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.n(self.a(x)))
        x = x + self.path(self.act(self.b(x)))
        return self.o(F.dropout(self.drop(x), 0.3, self.training))


def teleported(model: nn.Module, *inputs: Any, **settings: Any) -> fx.GraphModule:
    return ft.teleport(model, *inputs, cob_range=0.9, landscape="inter", exact=True, seed=0, **settings)


# -- batch sizes, shapes ---------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Views by sizes that are read from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.o = nn.Linear(4, 8), nn.Linear(8, 24), nn.Linear(8, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1) * (c // 2) ** -0.5).softmax(-1)
        return self.o((scores @ v).transpose(1, 2).reshape(b, n, c).mean(1))


@pytest.mark.parametrize("example", [1, 3])
def test_batch_and_length_stay_symbolic(example: int) -> None:
    model = ft.randomize(Attention().eval())
    network = teleported(model, torch.randn(example, 5, 4))
    for batch in (1, 2, 5):
        for length in (1, 5, 9):
            inputs = torch.randn(batch, length, 4)
            assert torch.equal(network(inputs), model(inputs))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100"])
def test_batch_sizes_of_known_models(name: str) -> None:
    model = ft.randomize(timm.create_model(name, num_classes=5).eval())
    network = teleported(model, torch.randn(2, 3, 64, 64))
    for batch in (1, 5):
        inputs = torch.randn(batch, 3, 64, 64)
        assert ft.verify(model, network, inputs).bitwise_equal
        with torch.no_grad():
            assert torch.equal(network(inputs), model(inputs))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 4:
            x = F.pad(x, (0, 4 - x.shape[-1] % 4))
        for _ in range(x.size(1)):
            x = x + 1
        assert x.size(0) > 0
        return self.b(torch.relu(self.a(x)))


def test_branches_on_shapes_are_recorded() -> None:
    model = Branching().eval()
    plan = ft.plan(model, torch.randn(2, 3, 6, 6))
    assert plan.num_free == 5
    assert plan.specialized
    assert all(isinstance(line, str) and ":" in line for line in plan.specialized)
    assert torch.equal(plan.rewrite(plan.identity())(torch.ones(4, 3, 6, 6)), model(torch.ones(4, 3, 6, 6)))


def test_another_branch_is_refused_and_another_size_is_not() -> None:
    model = Branching().eval()
    plan = ft.plan(model, torch.randn(2, 3, 6, 6))
    network = plan.rewrite(plan.identity())
    for width in (5, 6, 7, 9):  # padded, as what was captured: by another amount
        x = torch.randn(2, 3, 6, width)
        assert torch.equal(network(x), model(x))
    with pytest.raises(ValueError, match="=True, got False: capture it again"):
        network(torch.randn(2, 3, 6, 8))  # needs no padding


class CountsTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * len(x)


class WalksTheBatch(CountsTheBatch):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) for row in x])


def test_a_batch_size_that_python_walked_is_insisted_on() -> None:
    model = WalksTheBatch()
    network = (plan := ft.plan(model, torch.zeros(2, 3))).rewrite(plan.identity())
    assert torch.equal(network(torch.ones(2, 3)), model(torch.ones(2, 3)))
    with pytest.raises(ValueError, match="=2, got 4: capture it again"):
        network(torch.ones(4, 3))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before Python 3.11, code does not tell what it loads to call")
def test_a_batch_size_that_python_counted_is_the_runs() -> None:
    model = CountsTheBatch()
    network = (plan := ft.plan(model, torch.zeros(2, 3))).rewrite(plan.identity())
    for n in (2, 4):
        assert torch.equal(network(torch.ones(n, 3)), model(torch.ones(n, 3)))


def test_nothing_is_specialised_without_a_branch(image: Tensor) -> None:
    assert ft.plan(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), image).specialized == []


@pytest.mark.parametrize("model", [Attention(), Branching(), Block()], ids=lambda m: type(m).__name__)
def test_the_graph_has_no_assertions(model: nn.Module) -> None:
    inputs = torch.randn(2, 5, 4) if isinstance(model, Attention) else torch.randn(2, 3, 8, 8)
    graph = capture(model.eval(), (inputs,)).graph
    graph.lint()
    for node in graph.nodes:
        assert "assert" not in str(getattr(node.target, "__name__", node.target))


def test_nodes_know_their_values_and_paths(image: Tensor) -> None:
    graph = capture(Block().eval(), (image,)).graph
    for node in graph.nodes:
        assert is_described(node)
        value = info(node).value
        if isinstance(value, Tensor) and value.is_floating_point():
            assert value.is_meta


class Creating(nn.Module):
    """Creation functions with sizes of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[0], 6) * 2
        place = torch.arange(x.shape[0], dtype=x.dtype)[:, None]
        return self.b(torch.relu(self.a(x)) * mask) + torch.zeros(x.size(0), 2) + place


def test_creation_functions_follow_the_batch(x: Tensor) -> None:
    model = ft.randomize(Creating().eval())
    plan = ft.plan(model, x)
    assert plan.num_free == 6
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for batch in (1, 2, 5):
        inputs = torch.randn(batch, 4)
        assert torch.equal(network(inputs), model(inputs))


def test_creation_functions_are_restored(x: Tensor) -> None:
    before = torch.ones, torch.zeros, torch.arange
    ft.plan(Creating().eval(), x)
    with pytest.raises(ft.CaptureError):
        ft.plan(Creating().eval(), torch.randn(3, 5))
    assert (torch.ones, torch.zeros, torch.arange) == before


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_default_device_does_not_matter(device: str) -> None:
    with torch.device(device):
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        plan = ft.plan(model, torch.randn(2, 3))
        assert plan.num_free == 4
        assert plan.moved == (12 + 4 + 8) / (12 + 4 + 8 + 2)
        assert len(plan.groups) == 2
        plan.sample(seed=0)
        assert plan.identity().values.device.type == "cpu"


def test_default_dtype_does_not_matter(x: Tensor) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = ft.randomize(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)).float())
        network = teleported(model, x)
        assert torch.equal(network(x), model(x))
    finally:
        torch.set_default_dtype(torch.float32)


# -- train and eval --------------------------------------------------------------------------------------------


def test_batch_norms_learn_statistics_after_train(image: Tensor) -> None:
    model = ft.randomize(Block().eval())
    network = teleported(model, image)
    for net in (model, network):
        net.train()
        torch.manual_seed(3)
        net(image)
        net.eval()
    for name, buffer in model.named_buffers():
        assert torch.allclose(network.get_buffer(name).to(buffer.dtype), buffer, rtol=1e-5), name
        if name.endswith("num_batches_tracked"):
            assert int(network.get_buffer(name)) == int(buffer) == 1
    assert torch.allclose(network(image), model(image), rtol=1e-4, atol=1e-5)


def test_train_mode_is_the_same_function_of_the_same_seed(image: Tensor) -> None:
    model = ft.randomize(Block().double())
    network = teleported(model.eval(), image.double())
    model.train(), network.train()
    outputs = []
    for net in (model, network):
        torch.manual_seed(5)
        outputs.append(net(image.double()))
    assert torch.allclose(*outputs, rtol=1e-10)


def only(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 1), layer, nn.Conv2d(6, 2, 1))


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=self.training)


@pytest.mark.parametrize(
    "layer",
    [DropPath(0.5), nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5), FunctionalDropout()],
    ids=lambda m: type(m).__name__,
)
def test_random_layers_are_active_after_train_only(layer: nn.Module, image: Tensor) -> None:
    model = ft.randomize(only(layer)).eval()
    network = teleported(model, image)
    assert torch.equal(network(image), model(image))
    network.train()
    many = image.repeat(16, 1, 1, 1)  # a coin for each sample may fall the same way twice
    assert not torch.equal(network(many), network(many))
    network.eval()
    assert torch.equal(network(image), model(image))


def test_a_random_layer_that_is_called_on_two_shapes() -> None:
    """Each call is traced in both modes by itself."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.path = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2), DropPath(0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.path(torch.relu(self.a(x)))
            return self.c(self.path(torch.relu(self.b(x[:, 1:]))))

    plan = ft.plan(Twice(), torch.randn(2, 3, 4))
    assert plan.num_free == 11
    assert not plan.opaque


def test_a_model_captured_in_train_mode_stays_in_train_mode(image: Tensor) -> None:
    model = Block().train()
    network = teleported(model, image)
    assert model.training
    assert network.training
    assert all(m.training for m in network.modules() if isinstance(m, (nn.BatchNorm2d, nn.Dropout)))


def test_batch_norm_act_is_teleported(image: Tensor) -> None:
    """The normalisation is a node, so its output is free: the activation behind it takes the CoB."""
    model = nn.Sequential(nn.Conv2d(3, 6, 1), BatchNormAct2d(6), nn.Conv2d(6, 2, 1)).eval()
    assert ft.plan(model, image).num_free == 6
    network = teleported(ft.randomize(model), image)
    assert torch.equal(network(image), model(image))


# -- opaque ----------------------------------------------------------------------------------------------------


class Untraceable(nn.Module):
    """Branches on the values of its input, which no trace knows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


class WithUntraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.odd, self.b, self.c = nn.Linear(4, 6), Untraceable(), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(self.odd(torch.relu(self.a(x))))))


def test_an_untraceable_submodule_is_kept_whole(x: Tensor) -> None:
    model = ft.randomize(WithUntraceable().eval())
    with pytest.warns(ft.OpaqueModuleWarning, match=r"'odd'.*\w"):
        plan = ft.plan(model, x)
    assert plan.num_free == 5
    assert any("odd" in o.node or "odd" in o.path or "odd" in o.why for o in plan.opaque)
    assert all(o.why for o in plan.opaque)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(network(x), model(x))
    assert torch.equal(network(-x), model(-x))
    assert network.state_dict().keys() == model.state_dict().keys()
    assert isinstance(network.get_submodule("odd"), Untraceable)


def test_what_is_traced_warns_about_nothing(image: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ft.plan(Block().eval(), image)


# -- inputs and outputs ----------------------------------------------------------------------------------------


@dataclass
class Output:
    logits: Tensor
    value: Tensor | None = None  # as a parameter of what builds it is called


class Named(NamedTuple):
    logits: Tensor
    other: Tensor


class Returning(nn.Module):
    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.a(x))
        return self.wrap(self.b(x), self.c(x))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a, b: (a, b),
        lambda a, b: [a, b],
        lambda a, b: {"logits": a, "other": b},
        lambda a, b: OrderedDict(logits=a, other=b),
        lambda a, b: Output(a, b),
        lambda a, b: Named(a, b),
        lambda a, b: (a, {"deep": [b, None]}, 3),
    ],
    ids=["tuple", "list", "dict", "OrderedDict", "dataclass", "namedtuple", "nested"],
)
def test_outputs(wrap: Callable[[Tensor, Tensor], Any], x: Tensor) -> None:
    model = ft.randomize(Returning(wrap).eval())
    plan = ft.plan(model, x)
    assert plan.num_free == 6
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    expected, found = model(x), network(x)
    assert type(found) is type(expected)
    assert list(map(torch.equal, tensors(expected), tensors(found))) == [True, True]
    assert ft.verify(model, network, x).bitwise_equal


def tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict):
        for v in x.values():
            yield from tensors(v)
    elif isinstance(x, (list, tuple)):
        for v in x:
            yield from tensors(v)
    elif isinstance(x, Output):
        yield from tensors([x.logits, x.value])


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, y: Tensor | None = None, *, scale: Tensor | None = None, flip: bool = False) -> Tensor:
        h = self.a(x)
        if y is not None:
            h = h + self.b(y)
        if scale is not None:
            h = h * scale
        return self.c(torch.relu(-h if flip else h))


def test_several_inputs(x: Tensor) -> None:
    model, y = ft.randomize(Several().eval()), torch.randn(3, 5)
    network = teleported(model, x, y)
    assert torch.equal(network(x, y), model(x, y))
    assert torch.equal(network(x, y=y), model(x, y))


def test_keyword_inputs(x: Tensor) -> None:
    model = ft.randomize(Several().eval())
    keywords = {"y": torch.randn(3, 5), "scale": torch.tensor(0.3)}
    plan = ft.plan(model, x, **keywords)
    assert plan.num_free == 6
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(network(x, **keywords), model(x, **keywords))
    assert ft.verify(model, network, x, **keywords).bitwise_equal
    assert torch.equal(network(x, scale=keywords["scale"], y=keywords["y"]), model(x, **keywords))


def test_plain_inputs_are_specialised_and_guarded(x: Tensor) -> None:
    model = ft.randomize(Several().eval())
    plan = ft.plan(model, x, flip=True)
    assert any("flip" in line for line in plan.specialized)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(network(x, flip=True), model(x, flip=True))
    with pytest.raises(ValueError, match="flip"):
        network(x, flip=False)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, batch: dict[str, Tensor], others: list[Tensor]) -> Tensor:
        h = self.a(batch["x"]) + sum(self.b(o) for o in others)
        if "mask" in batch:
            h = h.masked_fill(batch["mask"], 0.0)
        return self.c(torch.relu(h))


def test_nested_inputs(x: Tensor) -> None:
    model = ft.randomize(Nested().eval())
    batch, others = {"x": x, "mask": torch.rand(3, 6) > 0.5}, [torch.randn(3, 5), torch.randn(3, 5)]
    plan = ft.plan(model, batch, others)
    assert plan.num_free == 6
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(network(batch, others), model(batch, others))
    assert ft.verify(model, network, batch, others).bitwise_equal


class Variadic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, *xs: Tensor, **more: Tensor) -> Tensor:
        total = self.a(xs[0])
        for y in (*xs[1:], *more.values()):
            total = total + self.a(y)
        return self.c(torch.relu(total))


def test_variadic_inputs(x: Tensor) -> None:
    model = ft.randomize(Variadic().eval())
    network = teleported(model, x, 2 * x, z=3 * x)
    assert torch.equal(network(x, 2 * x, z=3 * x), model(x, 2 * x, z=3 * x))


def test_inputs_that_do_not_fit_are_errors(x: Tensor) -> None:
    with pytest.raises(ft.CaptureError, match="do not fit"):
        ft.plan(Several(), x, x, x, x)
    with pytest.raises(ft.CaptureError, match="does not run"):
        ft.plan(nn.Sequential(nn.Linear(7, 2)), x)


def test_an_error_of_the_model_names_the_place(x: Tensor) -> None:
    class Raising(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError("not today")

    with pytest.raises(ft.CaptureError, match="not today"):
        ft.plan(Raising(), x)


# -- the user's model is left alone ------------------------------------------------------------------------------


class Caching(nn.Module):
    """Stores tensors on itself, counts its calls, caches a table by size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.feature: Tensor | None = None
        self.tables: dict[int, Tensor] = {}
        self.history: list[Any] = []
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.feature = torch.relu(self.a(x))
        self.a.last = self.feature
        self.tables[6] = self.feature * 2
        self.history.append(x)
        return self.b(self.feature)


def everything(model: nn.Module) -> Iterator[Any]:
    """Every value held by a model and its parts, inside containers too."""
    for module in model.modules():
        for value in vars(module).values():
            yield value
            if isinstance(value, dict):
                yield from value.values()
            elif isinstance(value, (list, tuple, set)):
                yield from value


@pytest.mark.parametrize("build", [Caching, Attention, Several, WithUntraceable], ids=lambda c: c.__name__)
@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
def test_the_model_is_untouched(build: type[nn.Module], x: Tensor) -> None:
    model = ft.randomize(build())
    list(model.modules())[1].eval()
    inputs = torch.randn(2, 5, 4) if build is Attention else x
    tensors = {k: (v, v.clone(), v._version) for k, v in model.state_dict(keep_vars=True).items()}
    modes = [m.training for m in model.modules()]
    kinds = [type(m) for m in model.modules()]
    attributes = [set(vars(m)) for m in model.modules()]
    plan = ft.plan(model, inputs)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    ft.verify(model, network, inputs)
    for name, tensor in model.state_dict(keep_vars=True).items():
        before, copied, version = tensors[name]
        assert tensor is before
        assert torch.equal(tensor, copied)
        assert tensor._version == version
    assert modes == [m.training for m in model.modules()]
    assert kinds == [type(m) for m in model.modules()]
    assert not any(proxy.is_proxy(v) for v in everything(model))
    assert not any(proxy.is_proxy(v) for v in everything(network))
    if build is not Caching:
        assert attributes == [set(vars(m)) for m in model.modules()]


def test_a_plan_alone_leaves_no_trace(x: Tensor) -> None:
    model = Caching().eval()
    before = [dict(vars(m)) for m in model.modules()]
    ft.plan(model, x)
    assert model.calls == 0
    assert model.feature is None
    assert model.tables == {}
    assert model.history == []
    for module, attributes in zip(model.modules(), before, strict=True):
        assert vars(module).keys() == attributes.keys()


class CachingByShape(nn.Module):
    """Makes its table anew when the length is another: the first run replaces the buffer that the plan has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("table", torch.zeros(1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.table.shape[0] != x.shape[1]:
            self.table = torch.arange(x.shape[1] * 1.0).view(-1, 1)
        return self.b(torch.relu(self.a(x)) + self.table)


def test_what_forward_assigns_does_not_matter_to_a_plan() -> None:
    model, x = ft.randomize(CachingByShape()), torch.randn(2, 5, 4)
    plan = ft.plan(model, x)
    model(x)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for inputs in (x, torch.randn(2, 3, 4), x):
        report = ft.verify(model, network, inputs)
        assert report.passed
        assert report.bitwise_equal


def test_a_failed_plan_leaves_no_trace(x: Tensor) -> None:
    model = Caching().eval()
    with pytest.raises(ft.CaptureError):
        ft.plan(model, torch.randn(3, 9))
    assert model.calls == 0
    assert torch.isfinite(model(x)).all()


# -- meta, threads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [Attention, Block, Several, Creating], ids=lambda c: c.__name__)
def test_meta_models_plan_like_real_ones(build: type[nn.Module]) -> None:
    shape = {Attention: (2, 5, 4), Block: (2, 3, 8, 8)}.get(build, (3, 4))
    real = ft.plan(build().eval(), torch.randn(shape))
    meta = ft.plan(copy.deepcopy(build()).eval().to("meta"), torch.empty(shape, device="meta"))
    assert meta.num_free == real.num_free > 0
    assert meta.fingerprint == real.fingerprint
    assert meta.moved == real.moved


def test_plans_in_threads() -> None:
    """Several plans at once, on one shared model and on others, agree with plans made alone."""
    shared = ft.randomize(Attention().eval())
    jobs = [(shared, (2, 5, 4)), (Creating().eval(), (3, 4)), (Block().eval(), (2, 3, 8, 8))] * 4
    expected = [ft.plan(m, torch.zeros(s)).fingerprint for m, s in jobs]
    barrier = threading.Barrier(4)

    def work(job: tuple[nn.Module, tuple[int, ...]]) -> str:
        barrier.wait(timeout=60)
        return ft.plan(job[0], torch.zeros(job[1])).fingerprint

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, jobs)) == expected


def test_a_thread_that_runs_models_is_not_disturbed() -> None:
    """While one thread plans, another one's `torch.ones` and modules work as ever."""
    stop, errors = threading.Event(), []
    model = Creating().eval()

    def run() -> None:
        while not stop.is_set():
            try:
                assert type(torch.ones(2)) is Tensor
                assert type(model(torch.zeros(2, 4))) is Tensor
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(20):
            ft.plan(Creating().eval(), torch.zeros(3, 4))
    finally:
        stop.set()
        thread.join()
    assert not errors


# -- what forwards call ------------------------------------------------------------------------------------------

SCALAR_OVERLOADS = {
    "where": "torch.where(torch.arange(4) % 2 == 0, x, 0.5)",
    "where reflected": "torch.where(x > 0, 0.5, x)",
    "pow": "torch.pow(x, 2)",
    "pow reflected": "torch.pow(2.0, x)",
    "float_power": "torch.float_power(x, 2.0)",
    "remainder": "torch.remainder(x, 2.0)",
    "fmod": "torch.fmod(x, 2.0)",
    "xlogy": "torch.xlogy(x, 2.0)",
    "isin": "torch.isin(x, 2.0)",
    "full_like": "torch.full_like(x, x.mean())",
    "add": "torch.add(torch.ones(4), x)",
    "clamp": "torch.clamp(x, torch.zeros(4))",
}


@pytest.fixture(scope="module")
def crashes() -> dict[str, str]:
    """Each call is captured in a process of its own, since a wrong proxy kills the interpreter."""
    code = f"""
        import os, sys, torch
        import fxteleport as ft
        torch.set_num_threads(1)
        for name, text in {SCALAR_OVERLOADS!r}.items():
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                class Net(torch.nn.Module):
                    forward = eval("lambda self, x: " + text, dict(torch=torch))
                try:
                    x = torch.randn(3, 4)
                    plan = ft.plan(Net().eval(), x)
                    assert torch.equal(plan.rewrite(plan.identity())(x), Net()(x))
                    print(name, "ok", sep=chr(9))
                except BaseException as error:
                    print(name, repr(error)[:200], sep=chr(9))
                sys.stdout.flush()
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            if status:
                print(name, "the interpreter crashed, status " + str(status), sep=chr(9))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    return dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)


@pytest.mark.parametrize("name", SCALAR_OVERLOADS)
def test_scalar_overloads_do_not_crash(name: str, crashes: dict[str, str]) -> None:
    assert crashes[name] == "ok"


IDIOMS: dict[str, Callable[[Tensor], Tensor]] = {
    "finfo": lambda x: x.masked_fill(torch.arange(4) > 2, torch.finfo(x.dtype).min).softmax(-1),
    "unbound method": lambda x: torch.Tensor.add(x, 1),
    "unbound detach": lambda x: torch.Tensor.detach(x),
    "copy": lambda x: copy.copy(x) * 2,
    "autocast off": lambda x: _without_autocast(x),
    "checkpoint": lambda x: torch.utils.checkpoint.checkpoint(torch.relu, x, use_reentrant=False),
    "isinstance": lambda x: x * 2 if isinstance(x, Tensor) and torch.is_tensor(x) else x,
    "is_floating_point": lambda x: x * 2 if x.is_floating_point() and torch.is_floating_point(x) else x,
    "item of a constant": lambda x: x * torch.ones(3).sum().item(),
    "range over a size": lambda x: sum(x[:, i] for i in range(x.shape[1]))[:, None],
    "unpacked shape": lambda x: x.view(*x.shape[:-1], 2, x.shape[-1] // 2),
    "new size": lambda x: x.new_zeros(x.size()) + x,
    "numel": lambda x: x / x.numel(),
    "requires_grad": lambda x: x + 1 if not x.requires_grad else x,
    "device": lambda x: x + torch.arange(4, device=x.device),
    "dtype": lambda x: x + torch.arange(4).to(x.dtype),
    "types of Python": lambda x: x.to(float) + torch.zeros(x.shape[0], dtype=int)[:, None] + x.sum(dtype=complex).real,
    "contiguous stride": lambda x: x * 2 if x.is_contiguous() else x,
    "tuple index": lambda x: x[(..., slice(0, 2))],
    "boolean mask of a constant": lambda x: x[:, torch.tensor([True, False, True, False])],
    "einops like": lambda x: x.reshape((x.shape[0], -1, 2)).permute((0, 2, 1)),
}


def _without_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return x.float() * 2


@pytest.mark.parametrize("name", IDIOMS)
def test_python_idioms(name: str, x: Tensor) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return IDIOMS[name](self.a(x))

    model = ft.randomize(Net().eval())
    with torch.no_grad():
        network = teleported(model, x)
        assert torch.equal(network(x), model(x))
        assert torch.equal(network(x[:1]), model(x[:1]))


def test_parts_extend_a_list(x: Tensor) -> None:
    """`list += parts` extends the list itself, whoever else holds it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            found = alias = [self.a(x)]
            found += found[0].split(2, 1)
            found += [found[0]]
            return self.b(torch.cat(alias, 1))

    model = ft.randomize(Net().eval())
    plan = ft.plan(model, x)
    assert not plan.opaque
    assert plan.num_free == 4
    assert ft.verify(model, plan.rewrite(plan.sample(exact=True, seed=0)), x).bitwise_equal


class Quantisable(nn.Module):
    """A float network that is made to be quantised."""

    def __init__(self) -> None:
        super().__init__()
        self.stub, self.add = torch.ao.quantization.QuantStub(), torch.ao.nn.quantized.FloatFunctional()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(self.stub(x)))
        x = self.add.add_relu(self.b(x), self.add.mul_scalar(x, 0.5))
        return self.c(self.add.cat([x[:, :3], x[:, 3:]], 1))


def test_a_network_made_to_be_quantised_is_no_quantised_one(assert_exact: Callable[..., ft.Plan]) -> None:
    for mode in ("full", "weights"):
        plan = assert_exact(Quantisable(), torch.randn(4, 3), mode=mode)
        assert plan.num_free == 6
        assert not plan.opaque
    with pytest.raises(ft.ModelError, match="quantised"):
        ft.plan(torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3))), torch.randn(1, 3))
