"""The modules that teleportation puts into a network: they behave like any other module."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.rewrite.teleported_modules import (
    Operation,
    Rescale,
    Teleported,
    TeleportedActivation,
    described,
    is_trivial,
)

TAU = torch.tensor([2.0, -0.5, 1.0, -4.0])


def made() -> list[nn.Module]:
    return [
        TeleportedActivation(nn.GELU(), TAU),
        TeleportedActivation(Operation(F.leaky_relu, 0.2), TAU.sign()),
        TeleportedActivation(Operation("clamp", min=-1.0, max=2.0), TAU),
        Rescale(TAU),
        Operation(F.softplus, beta=2.0),
        Operation("tanh"),
    ]


CASES = pytest.mark.parametrize("module", made(), ids=lambda m: repr(m).split("\n")[0][:40])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def test_equation_2(x: Tensor) -> None:
    """tau * f(x / tau), to the last bit for powers of two."""
    for f in (nn.GELU(), nn.ReLU(), nn.Sigmoid(), nn.Tanh()):
        assert torch.equal(TeleportedActivation(f, TAU)(x * TAU), f(x) * TAU)


def test_the_sign_is_enough_for_a_homogeneous_function(x: Tensor) -> None:
    assert torch.equal(TeleportedActivation(nn.ReLU(), TAU.sign())(x * TAU), x.relu() * TAU)


def test_the_magnitude_is_enough_for_an_odd_function(x: Tensor) -> None:
    assert torch.equal(TeleportedActivation(nn.Tanh(), TAU.abs())(x * TAU), x.tanh() * TAU)


@pytest.mark.parametrize(
    "f", [nn.GELU(), nn.Sigmoid(), nn.Identity(), Operation("expand", 3, 4), Operation("view", 3, 4)], ids=repr
)
def test_without_gradients_it_is_the_same(f: nn.Module, x: Tensor) -> None:
    """Memory is used again there: that of nobody else."""
    for given in (x, x[:1].expand(3, -1), x.bfloat16()):
        before, module = given.clone(), TeleportedActivation(f, TAU)
        expected = module(given.detach().requires_grad_())
        with torch.no_grad():
            assert torch.equal(module(given), expected)
        assert torch.equal(given, before)


def test_a_hook_on_the_activation_keeps_what_it_saw(x: Tensor) -> None:
    module, seen = TeleportedActivation(nn.GELU(), TAU), []
    module.f.register_forward_hook(lambda f, inputs, output: seen.append(output))
    module(x)
    assert torch.equal(seen[0], F.gelu(x / TAU))


def test_rescale(x: Tensor) -> None:
    assert torch.equal(Rescale(TAU.reciprocal())(x * TAU), x)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[:2, :],
        lambda x: x.repeat(1, 2)[:, :7].contiguous()[:, ::2],
        lambda x: x.mT.contiguous().mT,
        lambda x: x[:, None].expand(-1, 2, -1),
        lambda x: x[:1].expand(3, -1),
        lambda x: x[None, :2].expand(2, -1, -1),
    ],
)
def test_rescaling_keeps_the_layout(view: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Kernels round another way where rows end elsewhere."""
    given = view(x)
    scaled = Rescale(TAU)(given)
    assert scaled.stride() == given.stride()
    assert torch.equal(scaled, given * TAU)


@pytest.mark.parametrize("sizes", [(5, 3), (1, 3), (3,), (2, 1, 3)])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("make", [Rescale, lambda tau: TeleportedActivation(nn.GELU(), tau)])
def test_other_sizes_along_a_cob_are_refused(
    make: Callable[[Tensor], nn.Module], gradients: bool, sizes: tuple[int, ...]
) -> None:
    """A size of one would be broadcast: a result of another shape."""
    module = make(torch.tensor([[1.0, 2.0, 4.0], [0.5, 2.0, 1.0]]))
    assert module(torch.randn(7, 2, 3)).shape == (7, 2, 3)
    with pytest.raises(ValueError, match=r"captured with other sizes: a CoB of \[2, 3\] meets"):
        module(torch.randn(sizes, requires_grad=gradients))


def test_an_expanded_tensor_is_normalised_to_the_last_bit() -> None:
    """Batch norm of channels that share their memory rounds another way than that of dense ones."""

    class Expanded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = nn.Linear(2, 3), nn.BatchNorm2d(2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.stem(x)[:, None].expand(-1, 2, -1, -1)))

    model, x = ft.randomize(Expanded().eval()), torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    plan = ft.plan(model, x, norm_stats="wrapped")
    assert ft.verify(model, plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0)), x).bitwise_equal


def test_operation(x: Tensor) -> None:
    assert torch.equal(Operation(F.leaky_relu, 0.2)(x), F.leaky_relu(x, 0.2))
    assert torch.equal(Operation("clamp", min=0.1)(x), x.clamp(min=0.1))


@CASES
def test_the_state_dict_is_the_cob(module: nn.Module) -> None:
    state = module.state_dict()
    assert list(state) == [n for n, _ in module.named_buffers()]
    assert len(state) == isinstance(module, Teleported)
    module.load_state_dict(state, strict=True)
    assert not list(module.parameters())


def test_without_a_cob_it_is_the_operation(x: Tensor) -> None:
    for module, f in ((TeleportedActivation(nn.GELU(), TAU), nn.GELU()), (Rescale(TAU), nn.Identity())):
        module.put(torch.ones(4))
        assert module.cob is None and module.state_dict() == {} and module.extra_repr() == "1"
        assert torch.equal(module(x), f(x))
        module.put(TAU)
        assert module.cob is TAU


@CASES
def test_deepcopy(module: nn.Module, x: Tensor) -> None:
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), module(x))
    for a, b in zip(twin.buffers(), module.buffers(), strict=True):
        assert a.data_ptr() != b.data_ptr()


@CASES
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_to_dtype(module: nn.Module, dtype: torch.dtype, x: Tensor) -> None:
    twin = copy.deepcopy(module).to(dtype)
    assert all(b.dtype == dtype for b in twin.buffers())
    assert twin(x.to(dtype)).dtype == dtype


@CASES
def test_autograd(module: nn.Module, x: Tensor) -> None:
    twin = copy.deepcopy(module).double()
    assert torch.autograd.gradcheck(twin, (x.double().requires_grad_(),))


@CASES
def test_whole_modules_can_be_saved(module: nn.Module, x: Tensor) -> None:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), module(x))


@CASES
def test_repr_says_what_it_does(module: nn.Module) -> None:
    assert type(module).__name__ in repr(module)
    assert module.extra_repr()


def test_extra_repr() -> None:
    assert TeleportedActivation(nn.ReLU(), TAU).extra_repr() == "4 values of 0.5 to 4, 2 negative"
    assert Rescale(TAU.abs()).extra_repr() == "4 values of 0.5 to 4"
    assert Operation(F.leaky_relu, 0.2).extra_repr() == "leaky_relu, 0.2"
    assert Operation("clamp", min=0.0).extra_repr() == "clamp, min=0.0"
    assert described(torch.empty(3, device="meta")) == "3 values"


def test_is_trivial() -> None:
    assert is_trivial(None)
    assert is_trivial(torch.ones(3))
    assert not is_trivial(TAU)


def test_eval_and_train_reach_the_inner_module() -> None:
    module = TeleportedActivation(nn.RReLU(), TAU)
    assert not module.eval().f.training
    assert module.train().f.training


@pytest.mark.parametrize("norm", [nn.LayerNorm(5), nn.Identity()], ids=["norm", "none"])
def test_autocast_keeps_its_number_type(norm: nn.Module) -> None:
    """A CoB is float32; the values it scales are not, under autocast."""
    model = ft.randomize(nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 5), norm, nn.Hardswish()))
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    network = ft.teleport(model, x, cob_range=0.9, landscape="inter", exact=True, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, actual = model(x), network(x)
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)
