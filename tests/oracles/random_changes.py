"""Steps of random networks whose layers are not, when they run, what they are registered as.

A forward that sets a layer's setting, weight or mode, or calls it with other weights; a part that is kept whole and
reads another module's parameter; a layer that gives None; a forward that does something else while it trains.
"""

from __future__ import annotations

import collections
import functools
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from random_operations import Operation, Unfit, divisors, floats, images, tokens
from torch import Tensor, nn

# -- settings that a forward changes ---------------------------------------------------------------------------------


class Switched(nn.Module):
    """A layer that runs under its setting, and once more under another one."""

    def __init__(self, layer: nn.Module, name: str, value: Any, restored: bool) -> None:
        super().__init__()
        self.layer, self.name, self.before, self.value = layer, name, getattr(layer, name), value
        self.restored = restored

    def forward(self, x: Tensor) -> Tensor:
        setattr(self.layer, self.name, self.before)
        once: Tensor = self.layer(x)
        setattr(self.layer, self.name, self.value)
        again: Tensor = self.layer(x)
        if self.restored:
            setattr(self.layer, self.name, self.before)
        return once + again


SETTINGS: dict[str, tuple[Callable[[Tensor], nn.Module], str, Any, Callable[..., bool]]] = {
    "dilation": (lambda x: nn.Conv1d(x.shape[1], 2, 3, padding="same"), "dilation", (2,), tokens),
    "stride": (lambda x: nn.AvgPool2d(1), "stride", 9, images),
    "negative_slope": (lambda x: nn.LeakyReLU(0.5), "negative_slope", -0.5, floats),
    "alpha": (lambda x: nn.ELU(), "alpha", 0.25, floats),
    "beta": (lambda x: nn.Softplus(), "beta", 4.0, floats),
    "lambd": (lambda x: nn.Softshrink(0.0), "lambd", 0.5, floats),
    "min_val": (lambda x: nn.Hardtanh(), "min_val", -0.25, floats),
    "threshold": (lambda x: nn.Threshold(0.0, 0.0), "value", 0.5, floats),
    "eps": (lambda x: nn.LayerNorm(x.shape[-1], eps=0.1), "eps", 2.0, lambda x: floats(x) and x.shape[-1] > 1),
    "num_groups": (
        lambda x: nn.GroupNorm(1, x.shape[1], eps=0.1),
        "num_groups",
        2,
        lambda x: floats(x) and x.ndim > 2 and x.shape[1] % 2 == 0 and x.shape[1:].numel() > 2,
    ),
    "dim": (lambda x: nn.Softmax(-1), "dim", 1, floats),
    "p": (lambda x: nn.Dropout(0.25), "p", 0.75, floats),
    "momentum": (lambda x: nn.BatchNorm1d(x.shape[1]), "momentum", 0.9, tokens),
    "batch norm's eps": (lambda x: nn.BatchNorm1d(x.shape[1]), "eps", 3.0, tokens),
}


def switched(name: str) -> Operation:
    layer, attribute, value, fits = SETTINGS[name]
    return Operation(lambda pick, x: Switched(layer(x), attribute, value, pick(True, False)), fits, plain=False)


class Whole(nn.Module):
    """A pool over as much as there is: its window is a size."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        once: Tensor = self.pool(x)
        self.pool.kernel_size = x.shape[2:]  # type: ignore[assignment]
        self.pool.stride = 1
        out: Tensor = once + self.pool(x)
        self.pool.kernel_size = self.pool.stride = 1
        return out


# -- weights that a forward gives ------------------------------------------------------------------------------------


class Weighed(nn.Module):
    """A linear layer that computes with a weight made by another layer."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        self.maker, self.layer, self.way = nn.Linear(width, width), nn.Linear(width, width), way

    def forward(self, x: Tensor) -> Tensor:
        weight, layer = self.maker.weight * 2 + self.maker.bias, self.layer
        if self.way == "functional_call":
            return torch.func.functional_call(layer, {"weight": weight}, (x,))  # type: ignore[no-any-return]
        if self.way == "of the data":
            made = self.maker(x.reshape(-1, x.shape[-1]).mean(0)).expand_as(layer.weight) + 1
            return torch.func.functional_call(layer, {"weight": made}, (x,))  # type: ignore[no-any-return]
        kept = layer._parameters["weight"]
        if self.way == "_parameters":
            layer._parameters["weight"] = weight
        elif self.way == "an attribute":
            del layer._parameters["weight"]
            layer.weight = weight  # type: ignore[assignment]
        elif self.way == "data":
            before = layer.weight.data
            layer.weight.data = weight.detach()
        else:
            layer.weight = self.maker.weight
        try:
            out: Tensor = layer(x)
        finally:
            layer.__dict__.pop("weight", None)
            layer._parameters["weight"] = kept
            if self.way == "data":
                layer.weight.data = before
        return out


WAYS = ["functional_call", "of the data", "_parameters", "an attribute", "data", "another's"]


class Dropping(nn.Module):
    """A layer whose weight is an attribute that each forward sets (AWD-LSTM), and has run before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)
        weight = self.layer._parameters.pop("weight")
        self.layer.register_parameter("weight_raw", weight)

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight = F.dropout(self.layer.weight_raw, 0.25, self.training) * 1.5  # type: ignore[assignment]
        out: Tensor = self.layer(x)
        return out


# -- modes that a forward sets -----------------------------------------------------------------------------------------


class Moded(nn.Module):
    """A layer whose mode its owner's forward sets."""

    def __init__(self, layer: nn.Module, training: bool) -> None:
        super().__init__()
        self.layer, self.mode = layer, training

    def forward(self, x: Tensor) -> Tensor:
        self.layer.train(self.mode)
        out: Tensor = self.layer(x)
        return out


class Frozen(nn.BatchNorm1d):
    """A batch norm that never trains."""

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


class Training(nn.Module):
    """Another function in train mode."""

    def __init__(self, width: int, way: int) -> None:
        super().__init__()
        self.side, self.way = nn.Linear(width, width), way

    def helper(self, x: Tensor) -> Tensor:
        return x * 3 if self.training else x

    def forward(self, x: Tensor) -> Tensor:
        if self.way == 0:
            return x + self.side(x) if self.training else x * 2 + self.side.bias
        if self.way == 1:
            return self.helper(x) + self.side(x)
        dropped = F.dropout(self.side(x), 0.5, self.training, inplace=True)
        return dropped + x if self.way == 2 else F.dropout(dropped, 0.5 if self.training else 0.0)


# -- objects of the user's in which a forward leaves something -------------------------------------------------------


class Logged(nn.Module):
    """A layer that leaves what it computes, and how often, in objects, containers, or past assignments."""

    def __init__(self, width: int, way: int) -> None:
        super().__init__()
        self.layer, self.way = nn.Linear(width, width), way
        self.counter, self.queue = collections.Counter[str](), collections.deque[Tensor](maxlen=2)
        self.order, self.table = collections.OrderedDict(a=1, b=2), {"n": 0}
        self.log = types.SimpleNamespace(last=None, steps=0, inner=types.SimpleNamespace(table={}))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        self.log.steps += 1
        if self.way == 0:
            self.log.last = out
        elif self.way == 1:
            self.log.inner.table["last"] = (out, x.shape[0])
        elif self.way == 2:
            self.counter["runs"] += 1
            self.queue.append(out)
            self.order.move_to_end("a" if next(iter(self.order)) == "a" else "b")
        elif self.way == 3:
            vars(self)["last"] = out
            object.__setattr__(self, "shape", x.shape[0])
            self.table = {**self.table, "n": x.shape[0]}
        else:
            self.log.inner.last = [out * 2]
            return self.log.inner.last[0]  # type: ignore[no-any-return]
        return out


# -- references that no name has ---------------------------------------------------------------------------------------


class Hidden(nn.Module):
    """A part that no rule knows, and reads the weight of another layer through something that is no submodule."""

    def __init__(self, other: nn.Module, way: str) -> None:
        super().__init__()
        self.way = way
        if way == "a list":
            self.others = [other]
        elif way == "a dictionary":
            self.others = {"there": other}  # type: ignore[assignment]
        elif way == "a bound method":
            self.read = other.parameters
        elif way == "a parameter":
            self.others = [other.weight]  # type: ignore[list-item]
        else:
            self.read = lambda: iter([other.weight])  # type: ignore[assignment,return-value]

    def weight(self) -> Tensor:
        if self.way == "a list":
            return self.others[0].weight
        if self.way == "a dictionary":
            return self.others["there"].weight  # type: ignore[call-overload,no-any-return]
        if self.way == "a parameter":
            return self.others[0]  # type: ignore[return-value]
        return next(iter(self.read()))

    def forward(self, x: Tensor) -> Tensor:
        out = x @ self.weight().t() if x.shape[-1] == self.weight().shape[1] else x @ self.weight()
        return out * 2 if int((x > 0).sum().item()) % 2 else out * 3  # the data decide: it is kept whole


class HiddenDrop(Hidden):
    """The same in a module whose only secret is its mode."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x * torch.rand(x.shape[0], *[1] * (x.ndim - 1)).round()
        return x @ self.weight().t() if x.shape[-1] == self.weight().shape[1] else x @ self.weight()


class HiddenTraced(Hidden):
    """The same in a module that can be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight().t() if x.shape[-1] == self.weight().shape[1] else x @ self.weight()


class HiddenFunction(nn.Module):
    """A custom autograd function that reads another layer's weight through its closure."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()

        class Read(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                weight = other.weight
                return x @ (weight.t() if x.shape[-1] == weight.shape[1] else weight)  # type: ignore[no-any-return]

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
                weight = other.weight
                return grad @ (weight if grad.shape[-1] == weight.shape[0] else weight.t())  # type: ignore[no-any-return]

        self.function = [Read]

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0].apply(x)  # type: ignore[no-any-return]


HIDDEN = ["a list", "a dictionary", "a bound method", "a parameter", "a closure"]


def hiding(make: Callable[..., nn.Module], *ways: str) -> Operation:
    def made(pick: Any, x: Tensor) -> nn.Module:
        layers = [m for m, _ in pick.earlier if isinstance(m, nn.Linear) and isinstance(m.weight, nn.Parameter)]
        fits = [m for m in layers if x.shape[-1] in m.weight.shape]
        return make(pick(*fits), *([pick(*ways)] if ways else []))

    return Operation(made, floats, plain=False)


# -- values that are no tensors, forwards that were replaced -----------------------------------------------------------


class Given(nn.Module):
    """A leaf of torch's, called with what is no tensor."""

    def __init__(self, layer: nn.Module, value: Any) -> None:
        super().__init__()
        self.layer, self.value = layer, value

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(self.value)
        if found is not None and found is not False:
            x = x + 5.0
        return x * (2 if found else 3)


class Nothing(nn.Module):
    """A module of one's own that gives None, or a flag."""

    def __init__(self, way: Any) -> None:
        super().__init__()
        self.way, self.inner = way, nn.Dropout()

    def forward(self, x: Tensor) -> Any:
        self.inner(x)
        return self.way


class Types(nn.Module):
    """Code that asks for the type of a size, a quotient, a tensor, a shape or a layer."""

    def __init__(self, way: int) -> None:
        super().__init__()
        self.way, self.act = way, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(x)
        answers = (
            type(x.shape[0]) is int,
            type(x.numel() / 2) is float,
            type(y) is Tensor and type(self.act) is nn.ReLU,
            type(x.shape) is torch.Size,
            x.shape[-1].__class__ is int and type(self) is Types,
        )
        return y * 2 if answers[self.way] else y - 3.0


class Formats(nn.Module):
    """Code that asks for the type of its tensors, or computes with facts and constants of one."""

    def __init__(self, way: int) -> None:
        super().__init__()
        self.way, self.act, self.held = way, nn.ReLU(), torch.tensor([1 / 3])

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(x)
        if self.way < 3:
            answers = (y.dtype == torch.float32, x.dtype in (torch.float64, torch.bfloat16), "32" in str(x.dtype))
            return y * 2 if answers[self.way] else y - 3.0
        if self.way == 3:
            return y + torch.finfo(y.dtype).eps
        if self.way == 4:
            return y * self.held.to(y) + torch.tensor([0.7]).to(y.dtype)
        if self.way == 5:
            return (y * self.held).to(y.dtype)
        return y * 2 if y.__class__ is Tensor and self.__class__ is Formats else y - 3.0


class Asked(nn.Module):
    """Code that asks a module for a decision."""

    def __init__(self, way: Any) -> None:
        super().__init__()
        self.part = Nothing(way)

    def forward(self, x: Tensor) -> Tensor:
        return x + 1.0 if self.part(x) else x * 2


def replaced(layer: nn.Module) -> nn.Module:
    """A layer whose forward was replaced on the instance: it doubles its input first."""
    old = type(layer).forward  # not bound: a copy's must not run the layer it was copied from
    layer.forward = functools.partial(lambda module, x: old(module, 2 * x), layer)  # type: ignore[method-assign]
    return layer


class Clipped(torch.autograd.Function):
    """Identity whose gradient is clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad.clamp(-0.01, 0.01)


class Spike(torch.autograd.Function):
    """A step whose gradient is that of a soft one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad / (1 + x.abs()) ** 2


def old_norm(pick: Any, x: Tensor) -> nn.Module:
    layer = nn.Linear(x.shape[-1], 2)
    return nn.utils.spectral_norm(layer) if pick(True, False) else nn.utils.weight_norm(layer)


def same(x: Tensor) -> bool:
    return floats(x) and x.shape[-1] > 1


def solved(pick: Any, x: Tensor, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A system of equations with a vector on its right, or with several matrices."""
    if x.dtype not in (torch.float32, torch.float64) or len(divisors(x.shape[-1])) < 1:
        raise Unfit
    return lambda x, y: torch.linalg.solve(x @ x.mT + 9 * torch.eye(x.shape[-2], dtype=x.dtype), y[..., 0])


CHANGES: dict[str, Operation] = {
    **{f"setting: {name}": switched(name) for name in SETTINGS},
    "setting: a window": Operation(lambda pick, x: Whole(), images, plain=False),
    **{
        f"weight: {way}": Operation(lambda pick, x, way=way: Weighed(x.shape[-1], way), same, plain=False)
        for way in WAYS
    },
    "weight: dropped": Operation(lambda pick, x: Dropping(x.shape[-1]), floats, plain=False),
    "mode: batch norm in train mode": Operation(
        lambda pick, x: Moded(nn.BatchNorm1d(x.shape[1], eps=0.1), True), tokens, plain=False
    ),
    "mode: batch norm in eval mode": Operation(
        lambda pick, x: Moded(nn.BatchNorm1d(x.shape[1]), False), tokens, plain=False
    ),
    "mode: a teacher": Operation(
        lambda pick, x: Moded(nn.Sequential(nn.Linear(x.shape[-1], 2), nn.Dropout(0.5)), False), floats, plain=False
    ),
    "mode: dropout in train mode": Operation(lambda pick, x: Moded(nn.Dropout(0.5), True), floats, plain=False),
    "mode: frozen": Operation(lambda pick, x: Frozen(x.shape[1]), tokens, plain=False),
    **{
        f"training: {name}": Operation(lambda pick, x, way=way: Training(x.shape[-1], way), floats, plain=False)
        for way, name in enumerate(["a branch", "a helper", "dropout in place", "dropout of no share"])
    },
    "training: old norm": Operation(old_norm, same, plain=False),
    "training: spectral norm": Operation(
        lambda pick, x: nn.utils.parametrizations.spectral_norm(nn.Linear(x.shape[-1], 2)), same, plain=False
    ),
    "state: left in an object": Operation(
        lambda pick, x: Logged(x.shape[-1], pick(0, 1, 2, 3, 4)), floats, plain=False
    ),
    "gradient: clipped": Operation(lambda pick, x: Clipped.apply, floats, plain=False),
    "gradient: spike": Operation(lambda pick, x: Spike.apply, floats, plain=False),
    "hidden: whole": hiding(Hidden, *HIDDEN),
    "hidden: drop path": hiding(HiddenDrop, *HIDDEN),
    "hidden: traced": hiding(HiddenTraced, *HIDDEN),
    "hidden: function": hiding(HiddenFunction),
    "value: None through a layer": Operation(
        lambda pick, x: Given(nn.Identity(), pick(None, False, True)), floats, plain=False
    ),
    "value: a decision": Operation(lambda pick, x: Asked(pick(None, False, True, 0)), floats, plain=False),
    "value: a number format": Operation(lambda pick, x: Formats(pick(*range(7))), floats, plain=False),
    "value: a type": Operation(lambda pick, x: Types(pick(*range(5))), floats, plain=False),
    "forward: replaced": Operation(
        lambda pick, x: replaced(
            pick(nn.BatchNorm1d(x.shape[1]), nn.LayerNorm(x.shape[-1], eps=0.1), nn.LeakyReLU(0.5))
        ),
        lambda x: tokens(x) and x.shape[-1] > 1,
        plain=False,
    ),
    "axis: solve a vector": Operation(
        solved, lambda x, y: tokens(x) and tokens(y) and x.shape[:2] == y.shape[:2], arity=2, plain=False
    ),
}
