"""Rewrite: the emitted network has the original's names, and other operations only where they are needed."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxteleport as ft


class Net(nn.Module):
    """Modules, functions and methods as activations; nested names; a shared activation; an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU())
        self.act = nn.SiLU()
        self.body = nn.ModuleDict({"a": nn.Conv2d(6, 6, 1), "b": nn.Conv2d(6, 6, 1)})
        self.slope = nn.PReLU(6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 4)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("temporary", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.act(self.body["a"](x))
        x = self.act(self.body["b"](x))
        x = F.elu(self.slope(x)).sigmoid()
        return self.head(self.norm(x.mean((2, 3))))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return ft.randomize(Net().eval())


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network(model: nn.Module, x: Tensor) -> fx.GraphModule:
    return ft.teleport(model, x, cob_range=0.9, landscape="inter", exact=True, seed=0, norm_stats="wrapped")


def test_it_is_an_ordinary_graph_module(network: fx.GraphModule, model: nn.Module, x: Tensor) -> None:
    assert isinstance(network, fx.GraphModule)
    network.graph.lint()
    assert type(network).__name__ == "Net" or "Net" in repr(network)
    assert torch.equal(network(x), model(x))
    network.recompile()
    assert torch.equal(network(x), model(x))
    assert torch.equal(fx.Interpreter(network).run(x), model(x))


def test_names_are_kept(network: fx.GraphModule, model: nn.Module) -> None:
    state = network.state_dict()
    added = {"stem.2.tau", "act_.tau", "act_1.tau", "elu.tau", "sigmoid.tau", "slope_rescale.factor"}
    added |= {"slope_restore.factor", "stem.stem_1_rescale.factor", "norm_rescale.factor"}
    assert state.keys() == model.state_dict().keys() | added
    assert [n for n, _ in network.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert torch.equal(network.get_parameter("unused"), model.unused)
    assert "temporary" not in network.state_dict()
    assert int(network.get_buffer("steps")) == 7
    for name, tensor in model.state_dict().items():
        assert network.state_dict()[name].dtype == tensor.dtype
        assert network.state_dict()[name].shape == tensor.shape


def test_operations_are_wrapped_where_they_are_needed(network: fx.GraphModule) -> None:
    kinds = [type(m) for m in network.modules()]
    # gelu, silu twice, elu, sigmoid; prelu has a parameter: a rescale on either side; batch and layer norm: before
    assert sum(issubclass(k, ft.TeleportedActivation) for k in kinds) == 5
    assert kinds.count(ft.Rescale) == 4


def test_the_user_s_modules_are_not_in_it(network: fx.GraphModule, model: nn.Module) -> None:
    mine = {id(m) for m in model.modules()}
    assert not mine & {id(m) for m in network.modules()}


def test_weights_mode_adds_nothing(model: nn.Module, x: Tensor) -> None:
    network = ft.teleport(model, x, cob_range=0.9, landscape="inter", exact=True, seed=0, mode="weights")
    added = (ft.TeleportedActivation, ft.Rescale, ft.Operation)
    assert not [m for m in network.modules() if isinstance(m, added)]


def test_a_positive_cob_leaves_relu_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(2, 3)
    assert type(ft.teleport(model, x, cob_range=0.9, landscape="intra", seed=0).get_submodule("1")) is nn.ReLU
    wrapped = ft.teleport(model, x, cob_range=0.9, landscape="negative", seed=0).get_submodule("1")
    assert isinstance(wrapped, ft.TeleportedActivation)
    assert set(wrapped.tau.flatten().tolist()) == {-1.0}


def test_odd_functions_are_wrapped_by_magnitude() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    plan = ft.plan(model, torch.randn(2, 3))
    signs = plan.cob(torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0]))
    assert type(plan.rewrite(signs).get_submodule("1")) is nn.Tanh
    wrapped = plan.rewrite(plan.cob(torch.tensor([2.0, -2.0, -1.0, 1.0, -1.0]))).get_submodule("1")
    assert wrapped.tau.flatten().tolist() == [2.0, 2.0, 1.0, 1.0, 1.0]


def test_a_module_called_twice_is_wrapped_twice(network: fx.GraphModule) -> None:
    """`act` is called on two streams with CoBs of their own."""
    wrapped = [n for n in network.graph.nodes if n.op == "call_module"]
    silus = [n for n in wrapped if isinstance(getattr(network.get_submodule(n.target), "f", None), nn.SiLU)]
    assert len({n.target for n in silus}) == 2


def test_a_second_rewrite_does_not_disturb_the_first(model: nn.Module, x: Tensor) -> None:
    plan = ft.plan(model, x)
    first = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    state = copy.deepcopy(first.state_dict())
    second = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    assert all(torch.equal(v, state[k]) for k, v in first.state_dict().items())
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first.get_parameter("head.weight"), second.get_parameter("head.weight"))


@pytest.mark.parametrize("to", [lambda n: n.double(), lambda n: n.to(torch.bfloat16)])
def test_it_can_be_cast(
    network: fx.GraphModule, model: nn.Module, x: Tensor, to: Callable[[nn.Module], nn.Module]
) -> None:
    cast, expected = to(network), to(copy.deepcopy(model))
    dtype = next(cast.parameters()).dtype
    assert torch.equal(cast(x.to(dtype)), expected(x.to(dtype)))


def test_state_dicts_round_trip(network: fx.GraphModule, model: nn.Module, x: Tensor) -> None:
    plan = ft.plan(model, x, norm_stats="wrapped")
    other = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(other(x), network(x))


def test_whole_networks_can_be_copied_and_saved(network: fx.GraphModule, x: Tensor) -> None:
    twin = copy.deepcopy(network)
    assert list(twin.state_dict()) == list(network.state_dict())
    assert torch.equal(twin(x), network(x))
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert list(again.state_dict()) == list(network.state_dict())
    assert torch.equal(again(x), network(x))


def test_the_copy_of_a_model_that_is_trained_is_independent(network: fx.GraphModule, x: Tensor) -> None:
    twin = copy.deepcopy(network)
    before = network(x)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(3)
    assert torch.equal(network(x), before)


def test_teleporting_a_teleported_network(network: fx.GraphModule, model: nn.Module, x: Tensor) -> None:
    """An emitted network is a model like any other: teleport it again, wrapped operations and all."""
    again = ft.teleport(network, x, cob_range=0.9, landscape="inter", exact=True, seed=5)
    report = ft.verify(network, again, x)
    assert report.passed, report
    assert torch.equal(again(x), model(x))


def test_emitted_code_of_a_small_network() -> None:
    """Golden: reviewed as text."""
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))
    network = ft.teleport(model, torch.randn(2, 3), cob_range=0.9, landscape="inter", seed=0)
    lines = [f"{n.op} {n.target} {[str(a) for a in n.args]}" for n in network.graph.nodes]
    assert lines == [
        "placeholder input []",
        "call_module 0 ['input_1']",
        "call_module 1 ['_0']",
        "call_module 2 ['_1']",
        "output output ['_2']",
    ]


def test_a_name_that_no_code_can_be_written_for_is_an_error() -> None:
    model = nn.Sequential()
    model.add_module('a"b', nn.Linear(3, 4))
    model.add_module("c", nn.Linear(4, 2))
    with pytest.raises(ft.ModelError, match="rename"):
        ft.teleport(model, torch.randn(2, 3), seed=0)


class Loops(nn.Module):
    """It cannot be traced, and it calls the parts of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])

    def forward(self, x: Tensor) -> Tensor:
        first = self.layers[0](x)
        return self.layers[1](first) if first.sum() > -1e9 else first


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loops, self.norm = Loops(), nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.loops(x))


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
def test_a_part_kept_whole_under_two_names(assert_exact: Callable[..., ft.Plan]) -> None:
    """The second name is that of the same module, with all that it holds."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), Block())
    model.again = model[3]
    plan = assert_exact(model, torch.randn(2, 4))
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert network.get_submodule("again") is network.get_submodule("3")
    assert isinstance(network.get_submodule("again.loops.layers"), nn.ModuleList)
    assert list(network.state_dict()) == list(model.state_dict())


class Guarded(nn.Module):
    """Its graph has guards, sizes, a tensor made of a size, a write into it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, given: dict[str, Any]) -> dict[str, Any]:
        x = given["x"]
        if x.dtype == torch.uint8 or x.ndim > 2:
            x = x.float().flatten(1) / 255
        z = torch.zeros(x.shape[0], 6)
        z[:, :3] = self.b(torch.relu(self.a(x)))
        if x.shape[1] // 2 == 2:
            z = z * x.shape[0]
        return {"z": z * given["times"]}


def test_networks_with_guards_can_be_saved() -> None:
    model, given = ft.randomize(Guarded().eval()), {"x": torch.randn(2, 4), "times": 2}
    plan = ft.plan(model, given)
    network = plan.rewrite(plan.sample(exact=True, seed=0)).train()
    network.b.eval()
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert [(m.training, type(m).__name__) for m in again.modules()] == [
        (m.training, type(m).__name__) for m in network.modules()
    ]
    assert again.code == network.code
    assert torch.equal(again(given)["z"], model(given)["z"])
    other = {"x": torch.randn(5, 4), "times": 2}
    assert torch.equal(copy.deepcopy(again)(other)["z"], model(other)["z"])
    with pytest.raises(ValueError, match="capture it again"):
        again(given | {"times": 3})


SHORTER: dict[str, tuple[nn.Module, list[tuple[int, ...]]]] = {  # inputs with which each is planned, and run
    "no batch": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 2, 3)), [(2, 3, 7, 7), (3, 7, 7)]),
    "any axes": (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), [(2, 3, 4), (2, 4), (4,)]),
    "a pool": (nn.Sequential(nn.Conv1d(3, 8, 1), nn.MaxPool1d(2), nn.Conv1d(8, 2, 1)), [(2, 3, 8), (3, 8)]),
}


@pytest.mark.parametrize("name", SHORTER)
def test_inputs_with_fewer_axes(name: str) -> None:
    model, shapes = SHORTER[name]
    model.eval()
    for planned in shapes:
        plan = ft.plan(model, torch.randn(planned))
        gm = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        for shape in shapes:
            x = torch.randn(shape)
            assert torch.equal(gm(x), model(x)), (planned, shape)


class Squeezed(nn.Module):
    """Loses the batch of one, as careless code does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 7), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.gelu(self.conv(x).squeeze()))


@pytest.mark.parametrize("planned", [1, 2])
def test_a_batch_of_one_that_is_squeezed(planned: int) -> None:
    model = Squeezed().eval()
    plan = ft.plan(model, torch.randn(planned, 3, 7, 7))
    gm = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for n in (1, 2, 5):
        x = torch.randn(n, 3, 7, 7)
        assert torch.equal(gm(x), model(x))
