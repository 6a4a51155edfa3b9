"""Verify: a check must be able to fail, and says where."""

from __future__ import annotations

import copy
import json
import linecache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxteleport as ft
from fxteleport.passes.graph.node_info import info
from fxteleport.verify import evaluating


class Small(nn.Module):
    """Every kind of parameter: convolutions, norms, a free scale, a table, attention, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depthwise, self.act = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.PReLU()
        self.place, self.gamma = nn.Parameter(torch.randn(1, 16, 6)), nn.Parameter(torch.randn(6))
        self.layer_norm, self.qkv, self.proj = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = self.act(self.depthwise(x))
        x = x.flatten(2).transpose(1, 2) + self.place
        b, n, c = x.shape
        q, k, v = self.qkv(self.layer_norm(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.gamma * self.proj(attended)
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return ft.randomize(Small().double().eval())


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture(scope="module")
def plan(small: nn.Module, x: Tensor) -> ft.Plan:
    return ft.plan(small, x)


PARAMETERS = [n for n, _ in Small().named_parameters()]


def emitted(plan: ft.Plan, exact: bool = True, seed: int = 0) -> fx.GraphModule:
    return plan.rewrite(plan.sample(0.9, "inter", exact=exact, seed=seed))


def first_use(network: fx.GraphModule, parameter: str) -> int:
    """The position of the first node that reads a parameter."""
    for i, node in enumerate(network.graph.nodes):
        if node.op == "get_attr" and node.target == parameter:
            return i
        if node.op == "call_module" and parameter.startswith(f"{node.target}."):
            return i
    raise AssertionError(f"nothing uses {parameter}")


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "uniform"])
@pytest.mark.parametrize("parameter", PARAMETERS)
def test_a_mutation_is_caught_and_placed(
    parameter: str, exact: bool, small: nn.Module, plan: ft.Plan, x: Tensor
) -> None:
    network = emitted(plan, exact)
    assert ft.verify(small, network, x).passed
    with torch.no_grad():
        tensor = network.get_parameter(parameter)
        (tensor[0] if tensor.ndim else tensor).mul_(2)
    report = ft.verify(small, network, x)
    difference = report.first_difference
    if parameter == "qkv.bias" and difference is None:
        pytest.fail("the first query's bias was doubled and nothing changed")
    assert not report.passed
    assert not report.bitwise_equal
    assert difference is not None
    order = {info(n).captured or n.name: i for i, n in enumerate(network.graph.nodes)}
    assert order[difference.node] >= first_use(network, parameter)
    if exact:  # with no tolerance the very first node that computes with it is named
        assert order[difference.node] <= first_use(network, parameter) + 1
    assert difference.max_abs > 0
    assert difference.expected != difference.actual
    assert difference.node in str(difference)


@pytest.mark.parametrize("buffer", ["norm.running_mean", "norm.running_var"])
def test_a_mutated_statistic_is_caught(buffer: str, small: nn.Module, plan: ft.Plan, x: Tensor) -> None:
    network = emitted(plan)
    network.get_buffer(buffer)[1] *= 2
    report = ft.verify(small, network, x)
    assert not report.passed
    assert report.first_difference is not None
    assert report.first_difference.path == ""
    assert "norm" in report.first_difference.node


def test_a_mutated_activation_is_caught(small: nn.Module, plan: ft.Plan, x: Tensor) -> None:
    network = emitted(plan)
    wrapped = [m for m in network.modules() if isinstance(m, ft.TeleportedActivation)]
    assert wrapped
    for module in wrapped:
        before = module.tau.clone()
        module.tau.view(-1)[0] *= -3
        assert not ft.verify(small, network, x).passed
        module.tau.copy_(before)
    assert ft.verify(small, network, x).passed


def test_a_sign_lost_in_the_smallest_place_is_caught(small: nn.Module, plan: ft.Plan, x: Tensor) -> None:
    """One unit in the last place of one weight."""
    network = emitted(plan)
    weight = network.get_parameter("up.weight").data
    weight[0, 0] = torch.nextafter(weight[0, 0], weight[0, 0] + 1)
    report = ft.verify(small, network, x)
    assert not report.passed
    assert report.first_difference is not None
    assert "up" in report.first_difference.node


def test_the_report(small: nn.Module, plan: ft.Plan, x: Tensor) -> None:
    report = ft.verify(small, emitted(plan), x)
    assert report.passed
    assert report.bitwise_equal
    assert report.max_abs == report.max_rel == report.tolerance == 0
    assert report.first_difference is None
    assert report.nodes >= 30
    assert not report.vacuous
    assert report.seconds > 0
    assert json.loads(json.dumps(report.as_dict()))["passed"] is True


def test_uniform_cobs_in_float64(small: nn.Module, plan: ft.Plan, x: Tensor) -> None:
    report = ft.verify(small, emitted(plan, exact=False), x)
    assert report.passed
    assert not report.bitwise_equal
    assert 0 < report.max_rel < report.tolerance <= 1e-9
    assert report.nodes >= 30


def test_uniform_cobs_in_float32_are_held_against_the_original_rounding(x: Tensor) -> None:
    model = ft.randomize(Small())
    network = ft.teleport(model, x.float(), cob_range=0.9, landscape="inter", seed=0)
    report = ft.verify(model, network, x.float())
    assert report.passed
    assert report.rounding is not None
    assert 0 < report.rounding < 1e-5
    assert report.tolerance < 1e-3
    with torch.no_grad():
        network.get_parameter("conv.weight").mul_(1.01)
    assert not ft.verify(model, network, x.float()).passed


def test_outputs_that_prove_nothing_are_vacuous() -> None:
    x = torch.randn(4, 3)
    zero = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        zero[2].weight.zero_()
        zero[2].bias.zero_()
    nan = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        nan[2].bias.fill_(float("nan"))
    for model in (zero, nan):
        report = ft.verify(model, ft.teleport(model, x, exact=True, seed=0), x)
        assert report.vacuous
        assert not report.passed


def test_another_network_fails_end_to_end(small: nn.Module, x: Tensor) -> None:
    """Without a plan (any module), outputs are compared, with no tolerance but rounding's."""
    other = ft.randomize(copy.deepcopy(small), seed=1)
    report = ft.verify(small, other, x)
    assert not report.passed
    assert report.nodes == 0
    assert ft.verify(small, copy.deepcopy(small), x).bitwise_equal


def test_a_scaled_output_fails(small: nn.Module, plan: ft.Plan, x: Tensor) -> None:
    network = emitted(plan)
    with torch.no_grad():
        network.get_parameter("head.bias").add_(1e-3)
    report = ft.verify(small, network, x)
    assert not report.passed
    assert report.max_abs == pytest.approx(1e-3, rel=1e-6)


def test_outputs_of_other_shapes_are_an_error(x: Tensor) -> None:
    with pytest.raises(ft.InputError, match="differ in shape"):
        ft.verify(nn.Conv2d(3, 2, 1).double(), nn.Conv2d(3, 4, 1).double(), x)


def test_no_inputs_are_an_error(small: nn.Module, plan: ft.Plan) -> None:
    with pytest.raises(ft.InputError, match="needs the inputs"):
        ft.verify(small, emitted(plan))


def test_networks_and_inputs_are_left_as_they_were(plan: ft.Plan, small: nn.Module, x: Tensor) -> None:
    network = emitted(plan)
    model = copy.deepcopy(small).train()
    model.norm.eval()
    network.train()
    network.get_submodule("norm").eval()
    modes = [[m.training for m in net.modules()] for net in (model, network)]
    states = [copy.deepcopy(net.state_dict()) for net in (model, network)]
    inputs = x.clone()
    assert ft.verify(model, network, x).passed
    assert modes == [[m.training for m in net.modules()] for net in (model, network)]
    for state, net in zip(states, (model, network), strict=True):
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(inputs, x)


def test_a_model_that_writes_into_its_input_is_compared_fairly() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            return self.b(torch.relu(self.a(x)))

    model, x = ft.randomize(Writing()), torch.randn(4, 3)
    before = x.clone()
    network = ft.teleport(model, x, cob_range=0.9, landscape="inter", exact=True, seed=0)
    assert torch.equal(x, before)
    report = ft.verify(model, network, x)
    assert report.passed, report


def test_evaluating_restores_modes_after_an_error(small: nn.Module) -> None:
    model = copy.deepcopy(small).train()
    model.norm.eval()
    with pytest.raises(KeyError), evaluating(model):
        assert not any(m.training for m in model.modules())
        raise KeyError
    assert model.training
    assert not model.norm.training


def test_a_difference_names_the_line(small: nn.Module, plan: ft.Plan, x: Tensor) -> None:
    network = emitted(plan)
    with torch.no_grad():
        network.get_parameter("down.weight").mul_(2)
    first = ft.verify(small, network, x).first_difference
    assert first is not None
    file, _, line = first.source.rpartition(":")
    assert file == __file__
    assert "self.down(F.gelu(self.up(x)))" in linecache.getline(file, int(line))
    assert str(first).endswith(f"({first.source})")


def test_memory_without_values_is_not_compared() -> None:
    """What `torch.empty` holds differs from run to run; what is written there does not."""

    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            out = torch.empty_like(x.repeat(1, 2))
            out[:, ::2], out[:, 1::2] = x, x.relu()
            return self.b(out)

    model, x = ft.randomize(Filled().eval()), torch.randn(2, 3)
    plan = ft.plan(model, x)
    with torch.no_grad():
        for _ in range(3):
            torch.full((64,), float("nan"))  # freed at once: what comes next may hold it
            report = ft.verify(model, plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0)), x)
            assert report.passed and report.bitwise_equal, report.first_difference
    assert plan.num_free == 4 and not plan.opaque


def test_a_module_that_is_called_like_empty_memory_is_compared() -> None:
    model = nn.Sequential()
    model.add_module("new_empty", nn.Linear(3, 4))
    model.add_module("last", nn.Linear(4, 2))
    x = torch.randn(2, 3)
    plan = ft.plan(ft.randomize(model), x)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    with torch.no_grad():
        network.get_parameter("new_empty.weight")[0, 0] *= 1.5
    report = ft.verify(model, network, x)
    assert not report.passed and report.first_difference is not None and report.first_difference.node == "new_empty"


class Noisy(nn.Module):
    """It draws in eval mode: a mask, and numbers that are written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        noise = torch.zeros_like(hidden).uniform_(0.5, 1.5)
        return self.b(hidden * (torch.rand_like(hidden) > 0.2) * noise)


def test_two_networks_draw_the_same_random_numbers() -> None:
    model, x = ft.randomize(Noisy().eval()), torch.randn(5, 4)
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(0.9, exact=True, seed=0))
    state = torch.get_rng_state()
    assert ft.verify(model, network, x).bitwise_equal
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        network.get_parameter("b.bias").add_(1e-6)
    assert not ft.verify(model, network, x).passed
    broken = plan.rewrite(plan.sample(0.9, seed=0))  # no powers of two: nothing but the last bits may differ
    with torch.no_grad():
        broken.get_parameter("b.bias").add_(1e-3)
    assert not ft.verify(model, broken, x).passed


def test_sparse_tensors_are_compared() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
            self.mixing = torch.randn(5, 5).relu().to_sparse_csr()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mixed = self.b(self.mixing @ self.a(x))
            return mixed, mixed.to_sparse()

    model, x = ft.randomize(Sparse().eval()), torch.randn(5, 4)
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(0.9, exact=True, seed=0))
    assert ft.verify(model, network, x).bitwise_equal
    with torch.no_grad():
        network.get_parameter("b.bias").add_(1e-6)
    assert not ft.verify(model, network, x).passed
