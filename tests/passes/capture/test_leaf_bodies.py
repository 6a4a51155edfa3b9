"""Calls that are kept whole, and what their insides do to a CoB."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """Something between three layers; it is handed itself and what the first gives."""

    def __init__(self, inner: Callable[[Any, Tensor], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.inner, self.parts = inner, nn.ModuleList(parts)
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self, self.first(x)))


def exact_in_train_mode(model: nn.Module, plan: ft.Plan) -> bool:
    """Emitted networks drop as the original drops."""
    gm = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    outs = []
    for network in (model.train(), gm.train()):
        torch.manual_seed(1)
        outs.append(network(X))
    return torch.equal(*outs)


# -- modules that read their mode --------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """Drops in train mode; then something else."""

    def __init__(self, then: Callable[..., Any]) -> None:
        super().__init__()
        self.then = then

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            args = (F.dropout(args[0], 0.5), *args[1:]) if isinstance(args[0], Tensor) else args
        return self.then(*args, **kwargs)


class Swapped(nn.Module):
    def forward(self, a: Tensor, *, minus: Tensor, plus: Tensor) -> Tensor:
        return a - minus + plus * (3 if self.training else 2)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return (x, x) if self.training else x


class Halves(nn.Module):
    """In one mode the first channels alone, and zeros for the others; in the other mode all, or the last alone."""

    def __init__(self, train: bool, both: bool = False) -> None:
        super().__init__()
        self.train_mode, self.both = train, both

    def forward(self, x: Tensor) -> Tensor:
        if self.training == self.train_mode:
            return F.pad(x[:, :4], (0, 4))
        return F.pad(x[:, 4:], (4, 0)) if self.both else x


class Writes(nn.Module):
    """Writes into a tensor of which it has another view."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        view = y.view(-1)
        y.mul_(F.dropout(torch.ones_like(y), 0.5, self.training))
        return view.view_as(y)


MODULES: dict[str, tuple[nn.Module, Callable[[Any, Tensor], Tensor], int, int]] = {  # free values in full, in weights
    "one for one": (Dropping(lambda x: x), lambda m, h: m.parts[0](h), 8, 8),
    "a tuple": (Dropping(lambda x: (x, x * 2)), lambda m, h: sum(m.parts[0](h)), 8, 8),
    "a dictionary": (Dropping(lambda x: {"a": x, "b": x.relu()}), lambda m, h: m.parts[0](h)["b"], 8, 8),
    "a tuple, other maps": (
        Dropping(lambda x: (x, x.flip(1))), lambda m, h: m.second(m.parts[0](h)[0]) + m.second(m.parts[0](h)[1]), 4 + 8,
        4 + 8,
    ),
    "none among them": (Dropping(lambda x: (x, None)), lambda m, h: m.parts[0](h)[0], 8, 8),
    "an activation": (Dropping(F.gelu), lambda m, h: m.parts[0](h), 8, 0),
    "a list of tensors": (Dropping(lambda xs: xs[0] + xs[1]), lambda m, h: m.parts[0]([h, m.second(X)]), 8, 8),
    "two tensors": (Dropping(lambda a, b: a * b), lambda m, h: m.parts[0](h, m.second(h)), 16, 16),
    "keywords in another order": (Swapped(), lambda m, h: m.parts[0](h, plus=h.abs(), minus=h), 8, 8),
    "another structure": (Pair(), lambda m, h: m.parts[0](h), 0, 0),
    "a branch on a size": (Dropping(lambda x: x if len(x) < 7 else x.relu()), lambda m, h: m.parts[0](h), 0, 0),
    "a size": (Dropping(lambda x, n: x * n), lambda m, h: m.parts[0](h, h.shape[0]), 8, 8),
    "a branch on a size that it is given": (
        Dropping(lambda x, n: x if n < 7 else x.relu()), lambda m, h: m.parts[0](h, h.shape[0]), 0, 0
    ),
    "its axes": (Dropping(lambda x: x if x.ndim == 2 else x.relu()), lambda m, h: m.parts[0](h), 8, 8),
    "zeros in one mode": (Halves(train=False), lambda m, h: m.parts[0](h), 8, 8),
    "zeros in the other": (Halves(train=True), lambda m, h: m.parts[0](h), 8, 8),
    "zeros in both": (Halves(train=True, both=True), lambda m, h: m.parts[0](h), 8, 8),
    "a write": (Writes(), lambda m, h: m.parts[0](h), 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_that_read_their_mode(name: str, mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    module, inner, *free = MODULES[name]
    if name == "a list of tensors":
        inner = lambda m, h: m.parts[0]([h, m.second(h)])  # noqa: E731
    model = Around(inner, module)
    plan = assert_exact(model, X, mode=mode, at_least=0)
    assert plan.num_free == free[mode == "weights"], plan.opaque
    if name != "another structure":
        assert exact_in_train_mode(model, plan)
    model.eval()
    assert ft.verify(model, plan.rewrite(plan.sample(0.9, seed=1)), torch.randn(9, 6)).passed


# -- custom autograd functions -----------------------------------------------------------------------------------------


class Straight(torch.autograd.Function):
    """A sign with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class Reversed(torch.autograd.Function):
    """A gradient reversal, which domain adversarial training needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        ctx.rate = rate
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -ctx.rate * grad, None


class Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.T @ x, grad.sum(0)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        s = torch.sigmoid(ctx.saved_tensors[0])
        return grad * s * (1 + ctx.saved_tensors[0] * (1 - s))


class Outer(torch.autograd.Function):
    """A function that calls another; its own backward is what counts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Swish.apply(x) * 2  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class Both(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a + b, a * 2

    @staticmethod
    def backward(ctx: Any, of_sum: Tensor, of_double: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return of_sum + 2 * of_double, of_sum


class Branching(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x * 3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * 2


class Runs(torch.autograd.Function):
    """Is handed code: a checkpoint of the user's own."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            ctx.run(x).backward(grad)
        return None, x.grad


def checkpointed(reentrant: bool) -> Callable[[Any, Tensor], Tensor]:
    return lambda m, h: torch.utils.checkpoint.checkpoint(m.second, h, use_reentrant=reentrant)


FUNCTIONS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int, int]] = {
    "straight through": (lambda m, h: Straight.apply(h), 8, 8),
    "of a weight": (lambda m, h: F.linear(h, Straight.apply(m.second.weight)), 16, 16),
    "gradient reversal": (lambda m, h: Reversed.apply(h, 0.3), 8, 8),
    "a layer": (lambda m, h: Layer.apply(h, m.second.weight, m.second.bias).relu(), 16, 16),
    "an activation": (lambda m, h: Swish.apply(h), 8, 0),
    "an activation twice": (lambda m, h: Swish.apply(m.second(Swish.apply(h))), 16, 0),
    "one in another": (lambda m, h: Outer.apply(h), 8, 0),
    "two results": (lambda m, h: sum(Both.apply(h, m.second(h))), 8, 8),
    "a branch on data": (lambda m, h: Branching.apply(h), 0, 0),
    "a checkpoint": (checkpointed(False), 16, 16),
    "a reentrant checkpoint": (checkpointed(True), 16, 16),
    "a checkpoint of one's own": (lambda m, h: Runs.apply(m.second, h), 16, 16),
}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_custom_autograd_functions(name: str, mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    """Values and gradients (Theorem 5.1), whatever the backward gives in their place."""
    inner, *free = FUNCTIONS[name]
    model = Around(inner)
    plan = assert_exact(model, X, mode=mode, at_least=0)
    assert plan.num_free == free[mode == "weights"], plan.opaque
    cob = plan.sample(0.9, "intra", exact=True, seed=0)
    gm, scales = plan.rewrite(cob), plan.scales(cob)
    for network in (model, gm):
        network(X).square().sum().backward()
    found = dict(gm.named_parameters())
    for key, parameter in model.named_parameters():
        expected = parameter.grad
        assert (found[key].grad is None) == (expected is None)
        if expected is not None:
            scale = scales.get(key, torch.ones(())).float()
            assert torch.equal(found[key].grad * scale, expected), key
    for copied in (copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
        assert torch.equal(copied(X), gm(X))


def test_a_function_keeps_its_backward() -> None:
    """Traced through, a sign would have no gradient, and a reversal another one."""
    model = Around(FUNCTIONS["straight through"][0]).eval()
    plan = ft.plan(model, X)
    gm = plan.rewrite(plan.sample(0.5, seed=0))
    gm(X).sum().backward()
    assert gm.get_parameter("first.weight").grad.abs().sum() > 0


class Storing(nn.Module):
    """Reads its mode, and stores what the network reads."""

    def __init__(self, in_list: bool) -> None:
        super().__init__()
        self.in_list, self.last, self.all = in_list, None, []

    def forward(self, x: Tensor) -> Tensor:
        if self.in_list:
            self.all[:] = [x * 2]
        else:
            self.last = x * 2
        return x * 3 if self.training else x


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("in_list", [False, True])
def test_modules_that_store_are_traced(in_list: bool, ran: bool, assert_exact: Callable[..., ft.Plan]) -> None:
    def inner(m: Any, h: Tensor) -> Tensor:
        (storing,) = m.parts
        out = storing(h)
        return out + m.second(storing.all[0] if in_list else storing.last)

    model = Around(inner, Storing(in_list)).eval()
    if ran:
        model(X + 1)
    plan = assert_exact(model, X, at_least=8)
    assert not plan.opaque
    other = torch.randn(9, 6)
    assert torch.equal(plan.rewrite(plan.sample(0.9, exact=True, seed=1))(other), model(other))
