"""What users do to modules: wrap, hook, parametrize, freeze, cast. Exact in both modes, and as free as it can be."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as parametrizations
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import fxteleport as ft

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Sequential:
    """15 free values: 8 behind the first layer, 7 (signs only where weights alone change) behind the second."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3))


@dataclass(frozen=True)
class Case:
    """A module, how many values are free in full mode, and what is opaque (words of the reason)."""

    build: Callable[[], nn.Module]
    free: int
    opaque: str = ""


def compiled() -> nn.Module:
    return torch.compile(mlp(), backend="eager")  # type: ignore[return-value]


def compiled_in_place() -> nn.Module:
    model = mlp()
    model.compile(backend="eager")
    return model


def compiled_layer() -> nn.Module:
    model = mlp()
    model[0] = torch.compile(model[0], backend="eager")  # type: ignore[assignment]
    model[2].compile(backend="eager")
    return model


def hooked(where: Callable[[nn.Sequential], nn.Module]) -> nn.Module:
    model = nn.Sequential(mlp(), nn.Linear(3, 2))
    where(model).register_forward_hook(lambda module, args, out: out * 2 + 1)
    return model


def watched() -> nn.Module:
    model = mlp()
    model[2].register_full_backward_hook(lambda module, grad_in, grad_out: None)
    return model


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def symmetric() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    parametrize.register_parametrization(model[2], "weight", Symmetric())
    return model


def spectral() -> nn.Module:
    norm = parametrizations.spectral_norm
    return nn.Sequential(norm(nn.Linear(6, 8)), nn.ReLU(), norm(nn.Linear(8, 3)))


def old_spectral() -> nn.Module:
    return nn.Sequential(
        nn.utils.spectral_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)
    )


def pruned() -> nn.Module:
    model = mlp()
    prune.random_unstructured(model[4], "weight", 0.5)
    return model


def frozen() -> nn.Module:
    model = mlp()
    model[0].requires_grad_(False)
    return model


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale: Tensor
        self.register_buffer("scale", torch.rand(8) + 0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * self.scale)


class Mixed(nn.Module):
    """float32, then bfloat16, then float64."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 7).bfloat16(), nn.Linear(7, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)).bfloat16())).double())


class Narrow(nn.Module):
    """A weight, a buffer and an activation of a byte an element, which nothing multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(7, 7), nn.Linear(7, 3)
        self.weight = nn.Parameter(torch.randn(7, 8).to(torch.float8_e4m3fn), requires_grad=False)
        self.register_buffer("shift", torch.randn(7).to(torch.float8_e5m2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(torch.relu(self.a(x)), self.weight.to(x.dtype), self.shift.to(x.dtype))
        return self.c(torch.relu(self.b(x.to(torch.float8_e4m3fn).to(x.dtype))))


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = torch.relu(self.inner(x))
        return self.out(x.float())


class Exponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.exp()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * ctx.saved_tensors[0]


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(Exponential.apply(self.a(x)))))


class Vmapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.vmap(torch.relu)(self.a(x)))


CASES: dict[str, Case] = {
    "DataParallel": Case(lambda: nn.DataParallel(mlp()), 15),
    "compiled": Case(compiled, 15),
    "compiled in place": Case(compiled_in_place, 15),
    "compiled layers": Case(compiled_layer, 15),
    "hook on a container": Case(lambda: hooked(lambda m: m[0]), 15 + 3),
    "hook on the model": Case(lambda: hooked(lambda m: m), 15 + 3),
    "hook on a layer": Case(lambda: hooked(lambda m: m[1]), 15 + 3),
    "backward hook": Case(watched, 0, "it has backward hooks"),
    "parametrization": Case(symmetric, 8 + 1),  # 8 behind the first layer decide the second's but for a scale
    "spectral norm": Case(spectral, 2),  # a scale of each weight, which its norm takes back
    "spectral norm, by hook": Case(old_spectral, 5 + 1),
    "weight norm": Case(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)), 8
    ),
    "pruned": Case(pruned, 15),
    "non-persistent buffer": Case(Buffers, 8),
    "frozen": Case(frozen, 15),
    "mixed formats": Case(Mixed, 15),
    "floats of a byte": Case(Narrow, 7),  # behind the last of them
    "autocast of its own": Case(lambda: nn.Sequential(mlp(), nn.Linear(3, 6), Autocast()), 18, "autocast"),
    "custom autograd function": Case(Custom, 15),
    "vmap": Case(lambda: nn.Sequential(mlp(), nn.Linear(3, 6), Vmapped()), 18, "could not be traced"),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::fxteleport.errors.OpaqueModuleWarning")
def test_exact(
    name: str, mode: str, assert_exact: Callable[..., ft.Plan], original_keys: Callable[[nn.Module], list[str]]
) -> None:
    case = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its older ways
        model = case.build()
    plan = assert_exact(model, X, mode=mode, at_least=0)
    if mode == "full":
        assert plan.num_free == case.free, [(g.kind, g.size, g.why) for g in plan.groups]
    assert bool(plan.opaque) == bool(case.opaque)
    assert all(case.opaque in o.why for o in plan.opaque), plan.opaque
    network = plan.rewrite(plan.sample(seed=0))
    assert original_keys(network) == list(model.state_dict())
    wants = {n: p.requires_grad for n, p in model.named_parameters()}
    assert {n: p.requires_grad for n, p in network.named_parameters()} == wants


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    if not torch.distributed.is_available():
        pytest.skip("torch is built without torch.distributed")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel(one_process: None, assert_exact: Callable[..., ft.Plan]) -> None:
    model = nn.parallel.DistributedDataParallel(mlp())
    plan = assert_exact(model, X)
    assert plan.num_free == 15
    assert all(name.startswith("module.") for name in plan.rewrite(plan.identity()).state_dict())


def test_a_compiled_layer_is_not_the_originals() -> None:
    """`module.compile()` binds what it compiles to the module: a copy of it must compile its own."""
    model = ft.randomize(compiled_in_place()).eval()
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.identity())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert not network(X).any()
    assert model(X).any()


def test_gradients_of_a_custom_function() -> None:
    model = ft.randomize(Custom().double()).eval()
    plan = ft.plan(model, X.double())
    network = plan.rewrite(plan.identity())
    for net in (model, network):
        net(X.double()).square().sum().backward()
    for a, b in zip(model.parameters(), network.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, rtol=1e-12)


def test_an_ambient_autocast_is_the_callers() -> None:
    """Planned and run under one autocast: nothing is opaque, and both networks run in bfloat16."""
    model = ft.randomize(mlp()).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan = ft.plan(model, X)
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        assert not plan.opaque
        assert network(X).dtype is torch.bfloat16
        assert torch.equal(network(X), model(X))


def test_a_named_tuple_reaches_a_leaf_as_it_is(assert_exact: Callable[..., ft.Plan]) -> None:
    """A packed sequence, made by code of Python's from proxies."""

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.rnn, self.b, self.c = nn.Linear(6, 8), nn.GRU(8, 5), nn.Linear(5, 4), nn.Linear(4, 3)

        def encode(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(self.a(x), lengths)
            return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0]

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return self.c(F.relu(self.b(self.encode(x, lengths))))

    plan = assert_exact(Packed(), torch.randn(4, 2, 6), torch.tensor([4, 3]))
    assert not plan.opaque


def test_what_has_no_values_to_draw() -> None:
    with pytest.raises(ft.ModelError, match="run the model once"):
        ft.randomize(nn.Sequential(nn.LazyLinear(3)))
    with torch.inference_mode():
        made = mlp()
    with pytest.raises(ft.ModelError, match="build the model outside"):
        ft.randomize(made)


@pytest.mark.parametrize("way", ["function", "partial"])
def test_a_layer_with_another_forward(way: str, assert_exact: Callable[..., ft.Plan]) -> None:
    """It is no layer of torch's any more: what it does is traced, the weights in its closure are its own."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 3))
    layer = model[2]
    if way == "function":
        layer.forward = lambda x: F.linear(x * 2, layer.weight, layer.bias).relu()
    else:
        layer.forward = functools.partial(F.linear, weight=layer.weight, bias=layer.bias)
    plan = assert_exact(model, torch.randn(2, 4), randomize=False)
    assert plan.num_free == 11
    assert not plan.opaque
