"""ATen overloads: each of core ATen has a twin with a rule or is named here, and is as free as its function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket

import fxteleport as ft
from fxteleport.passes.graph.aten import twin_of
from fxteleport.passes.rules.registry import lookup

aten = torch.ops.aten
# Of core ATen: the derivatives have no twin, as no forward calls them; of these twins torch's own function has no rule.
WITHOUT_TWIN = {
    "_adaptive_avg_pool2d_backward", "avg_pool2d_backward", "convolution_backward", "embedding_dense_backward",
    "max_pool2d_with_indices_backward", "native_group_norm_backward", "native_layer_norm_backward",
}  # fmt: skip
WITHOUT_RULE = {
    "_fft_c2r", "atan2", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "empty_strided", "masked_scatter",
    "resize_",
}  # fmt: skip


def core() -> list[OpOverload]:
    """The overloads of core ATen: those to which `run_decompositions` brings every graph."""
    names = {s.name.removeprefix("aten::") for s in torch._C._jit_get_all_schemas() if s.name.startswith("aten::")}
    packets: list[OpOverloadPacket] = [found for n in sorted(names) if (found := getattr(aten, n, None)) is not None]
    overloads = [getattr(packet, name) for packet in packets for name in packet.overloads()]
    return [o for o in overloads if torch.Tag.core in o.tags]


def test_core_aten_is_closed() -> None:
    assert len(core()) > 150
    without_twin, without_rule = set(), set()
    for overload in core():
        name = overload._schema.name.removeprefix("aten::")
        twin = twin_of(overload)
        if twin is None:
            without_twin.add(name)
        elif twin.op != "compose" and lookup(twin.op, twin.target) is None:
            without_rule.add(name)
    assert without_twin == WITHOUT_TWIN
    assert without_rule == WITHOUT_RULE


class Network(nn.Module):
    """A convolution, the operation, and a head."""

    def __init__(self, operation: Callable[..., Any], x: Tensor) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.weight, self.bias = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))
        self.kernel, self.back = nn.Parameter(torch.randn(6, 6, 3, 3)), nn.Parameter(torch.randn(6, 6, 2, 2))
        self.register_buffer("mean", torch.randn(6))
        self.register_buffer("variance", torch.rand(6) + 0.5)
        self.operation = operation
        with torch.no_grad():
            self.head = nn.Linear(self.features(x).shape[1], 2)

    def features(self, x: Tensor) -> Tensor:
        out = self.operation(self, self.stem(x))
        return (out if isinstance(out, Tensor) else out[0]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


# An overload as it is called in an exported or decomposed graph, and what it stands for.
PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "relu": (lambda m, x: aten.relu.default(x), lambda m, x: F.relu(x)),
    "hardswish_": (lambda m, x: aten.hardswish_.default(x.clone()), lambda m, x: F.hardswish(x.clone(), inplace=True)),
    "gelu": (lambda m, x: aten.gelu.default(x, approximate="tanh"), lambda m, x: F.gelu(x, approximate="tanh")),
    "a packet": (lambda m, x: aten.relu(aten.mul(x, 2)), lambda m, x: torch.relu(x * 2)),
    "by name": (lambda m, x: aten.leaky_relu.default(self=x, negative_slope=0.2), lambda m, x: F.leaky_relu(x, 0.2)),
    "convolution": (
        lambda m, x: aten.convolution.default(x, m.kernel, m.bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        lambda m, x: F.conv2d(x, m.kernel, m.bias, padding=1),
    ),
    "transposed": (
        lambda m, x: aten.convolution.default(x, m.back, None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1),
        lambda m, x: F.conv_transpose2d(x, m.back, stride=2),
    ),
    "batch_norm": (
        lambda m, x: aten.batch_norm.default(x, m.weight, m.bias, m.mean, m.variance, False, 0.1, 1e-5, True),
        lambda m, x: F.batch_norm(x, m.mean, m.variance, m.weight, m.bias),
    ),
    "_native_batch_norm_legit_no_training": (
        lambda m, x: aten._native_batch_norm_legit_no_training.default(
            x, m.weight, m.bias, m.mean, m.variance, 0.1, 1e-5
        ),
        lambda m, x: F.batch_norm(x, m.mean, m.variance, m.weight, m.bias),
    ),
    "native_layer_norm": (
        lambda m, x: aten.native_layer_norm.default(rows(x), [6], m.weight, m.bias, 1e-5),
        lambda m, x: F.layer_norm(rows(x), [6], m.weight, m.bias),
    ),
    "native_group_norm": (
        lambda m, x: aten.native_group_norm.default(x, m.weight, m.bias, x.shape[0], 6, 16, 2, 1e-5),
        lambda m, x: F.group_norm(x, 2, m.weight, m.bias),
    ),
    "_softmax": (lambda m, x: aten._softmax.default(x, 1, False), lambda m, x: F.softmax(x, 1)),
    "slice": (lambda m, x: aten.slice.Tensor(x, 1, 2, 2**63 - 1), lambda m, x: x[:, 2:]),
    "slice from the last": (lambda m, x: aten.slice.Tensor(x, -1, 0, 2), lambda m, x: x[..., :2]),
    "select": (lambda m, x: aten.select.int(x, 1, 3), lambda m, x: x[:, 3]),
    "index": (
        lambda m, x: aten.index.Tensor(x, [None, torch.tensor([0, 2, 2])]),
        lambda m, x: x[:, torch.tensor([0, 2, 2])],
    ),
    "index_put": (
        lambda m, x: aten.index_put.default(x, [None, torch.tensor([1])], torch.zeros(())),
        lambda m, x: torch.cat([x[:, :1], torch.zeros_like(x[:, 1:2]), x[:, 2:]], 1),
    ),
    "cat": (lambda m, x: aten.cat.default([x, x], 1), lambda m, x: torch.cat([x, x], 1)),
    "split": (lambda m, x: aten.split_with_sizes.default(x, [2, 4], 1)[1], lambda m, x: x.split([2, 4], 1)[1]),
    "_to_copy": (lambda m, x: aten._to_copy.default(x, dtype=torch.float64).float(), lambda m, x: x.double().float()),
    "alias": (lambda m, x: aten.alias.default(x) + 0, lambda m, x: x + 0),
    "copy": (lambda m, x: aten.copy.default(torch.zeros_like(x), x), lambda m, x: x.clone()),
    "pad": (lambda m, x: aten.constant_pad_nd.default(x, [0, 0, 0, 2]), lambda m, x: F.pad(x, (0, 0, 0, 2))),
    "reflect": (lambda m, x: aten.reflection_pad2d.default(x, [1] * 4), lambda m, x: F.pad(x, (1,) * 4, "reflect")),
    "max_pool": (lambda m, x: aten.max_pool2d_with_indices.default(x, [2, 2]), lambda m, x: F.max_pool2d(x, 2)),
    "avg_pool": (lambda m, x: aten.avg_pool2d.default(x, [2, 2]), lambda m, x: F.avg_pool2d(x, 2)),
    "adaptive": (lambda m, x: aten._adaptive_avg_pool2d.default(x, [2, 2]), lambda m, x: F.adaptive_avg_pool2d(x, 2)),
    "upsample": (
        lambda m, x: aten.upsample_bilinear2d.vec(x, None, False, [2.0, 2.0]),
        lambda m, x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    ),
    "mean": (lambda m, x: aten.mean.dim(x, [2, 3], True), lambda m, x: x.mean((2, 3), keepdim=True)),
    "var": (lambda m, x: aten.var.correction(x, [2, 3], correction=1), lambda m, x: x.var((2, 3))),
    "addmm": (
        lambda m, x: aten.addmm.default(
            m.bias, rows(x).flatten(0, 1), aten.permute.default(m.kernel[:, :, 0, 0], [1, 0])
        ).view(x.shape[0], -1),
        lambda m, x: F.linear(rows(x).flatten(0, 1), m.kernel[:, :, 0, 0], m.bias).view(x.shape[0], -1),
    ),
    "flash attention": (
        lambda m, x: aten._scaled_dot_product_flash_attention_for_cpu.default(*(rows(x)[:, None].contiguous(),) * 3)[0],
        lambda m, x: F.scaled_dot_product_attention(*(rows(x)[:, None].contiguous(),) * 3),
    ),
    "embedding": (
        lambda m, x: x.mean((2, 3)) * aten.embedding.default(m.kernel[:, :, 0, 0], torch.zeros((), dtype=torch.long)),
        lambda m, x: x.mean((2, 3)) * F.embedding(torch.zeros((), dtype=torch.long), m.kernel[:, :, 0, 0]),
    ),
    "where": (lambda m, x: aten.where.self(x > 0, x, x * 0.1), lambda m, x: torch.where(x > 0, x, x * 0.1)),
    "loss": (
        lambda m, x: x * aten.mse_loss.default(m.weight, m.bias, 2),
        lambda m, x: x * F.mse_loss(m.weight, m.bias, reduction="sum"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", PAIRS)
def test_an_overload_is_as_free_as_its_function(name: str, mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    x = torch.randn(2, 3, 4, 4)
    overload, function = (Network(operation, x) for operation in PAIRS[name])
    function.load_state_dict(overload.state_dict())
    with torch.no_grad():
        assert torch.equal(overload(x), function(x))
    plan = assert_exact(overload, x, mode=mode, at_least=0)
    assert not plan.opaque
    expected = ft.plan(function, x, mode=mode)
    assert plan.num_free == expected.num_free
    assert [c.kind for c in plan.conditions] == [c.kind for c in expected.conditions]


class Several(nn.Module):
    """All results of an operator that gives several."""

    def __init__(self, operation: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b, self.operation = nn.Linear(4, 6), nn.Linear(6, 3), operation

    def forward(self, x: Tensor) -> list[Tensor]:
        out, *others = self.operation(self.a(x))
        return [self.b(out), *others]


def test_what_a_derivative_reads_of_a_norm_has_the_cob_1(assert_exact: Callable[..., ft.Plan]) -> None:
    norm = Several(lambda x: aten.native_layer_norm.default(x, [6], None, None, 1e-5))
    plan = assert_exact(norm, torch.randn(2, 4), at_least=6)
    assert not plan.opaque


def test_other_results_than_a_twin_gives_are_those_of_the_operator(assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(Several(lambda x: aten.log_sigmoid_forward.default(x)), torch.randn(2, 4), at_least=0)
    assert [o.node for o in plan.opaque] == ["log_sigmoid_forward_default"]


def test_a_form_of_a_call_that_a_twin_does_not_take_is_the_operator_itself(
    assert_exact: Callable[..., ft.Plan],
) -> None:
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(aten.masked_scatter.default(self.a(x), x[:, :1] > 0, x.repeat(2, 2)))

    plan = assert_exact(Bad(), torch.randn(2, 4), at_least=0)
    assert plan.opaque
