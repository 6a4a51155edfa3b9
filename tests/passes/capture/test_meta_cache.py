"""The memo: remembered calls give what a new evaluation gives, and what must not be remembered is not."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxteleport.passes.capture.meta_cache import Memo
from fxteleport.passes.capture.meta_eval import Evaluator
from fxteleport.passes.graph.node_info import Trust


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def form(x: Any) -> Any:
    return [form(v) for v in x] if isinstance(x, (tuple, list)) else (x.shape, x.stride(), x.dtype, x.is_meta)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations that are evaluated."""
    calls: list[str] = []
    run = Evaluator.run

    def counting(self: Evaluator, op: str, *rest: Any) -> Any:
        calls.append(op)
        return run(self, op, *rest)

    monkeypatch.setattr(Evaluator, "run", counting)
    return calls


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (2, 6)),
    "convolution": (lambda: nn.Conv2d(6, 4, 3, stride=2, padding="valid"), (2, 6, 9, 9)),
    "norm": (lambda: nn.BatchNorm2d(6), (2, 6, 9, 9)),
    "layer norm": (lambda: nn.LayerNorm(9), (2, 6, 9, 9)),
    "activation": (lambda: nn.ReLU6(), (2, 6)),
    "in place": (lambda: nn.ReLU6(inplace=True), (2, 6)),
    "attention": (lambda: nn.MultiheadAttention(6, 2, batch_first=True), (2, 5, 6)),
    "dropout": (lambda: nn.Dropout(0.5), (2, 6)),
    "recurrent": (lambda: nn.LSTM(6, 4, 2, bidirectional=True), (5, 2, 6)),
    "recurrent, one state": (lambda: nn.GRU(6, 4, batch_first=True), (2, 5, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_an_equal_layer_is_evaluated_once(name: str, counted: list[str]) -> None:
    make, shape = LAYERS[name]
    memo = Memo()
    results = []
    for _ in range(2):
        layer, x = make().eval().to("meta"), empty(*shape)
        given = (x, x, x) if name == "attention" else (x,)
        with torch.no_grad():
            value, trust = memo.run("call_module", layer, given, {})
            version = x._version
            fresh = layer(*(g.clone() for g in given))
        results.append((form(value), version, value is x, trust))
        assert form(fresh) == form(value)
    assert results[0] == results[1]
    assert len(counted) == 1


def test_results_are_new_tensors() -> None:
    memo = Memo()
    x = empty(2, 3)
    (a, _), (b, _) = (memo.run("call_function", torch.exp, (x,), {}) for _ in range(2))
    assert len({t.untyped_storage()._cdata for t in (x, a, b)}) == 3


VIEWS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "transposed": (torch.t, ()),
    "split": (torch.split, (2,)),
    "unbound": (torch.unbind, (1,)),
    "slice": (operator.getitem, ((slice(1, 3), ...),)),
    "joined": (torch.flatten, ()),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_the_memory_of_their_own_source(name: str, counted: list[str]) -> None:
    target, rest = VIEWS[name]
    memo = Memo()
    for row in range(2):
        x = empty(2, 4, 3)[row]
        value, trust = memo.run("call_function", target, (x, *rest), {})
        assert trust is Trust.KNOWN
        fresh = target(x, *rest)
        assert form(value) == form(fresh)
        parts, others = ((value,), (fresh,)) if isinstance(value, Tensor) else (value, fresh)
        assert type(value) is type(fresh)
        assert [t.storage_offset() for t in parts] == [t.storage_offset() for t in others]
        parts[0].add_(1)
        assert x._version == 1
    assert len(counted) == 1


def test_facts_are_remembered(counted: list[str]) -> None:
    memo = Memo()
    for _ in range(2):
        assert memo.run("call_method", "size", (empty(2, 3),), {})[0] == torch.Size((2, 3))
        assert memo.run("call_function", operator.mul, (2, 3), {})[0] == 6
        assert memo.run("call_function", operator.mul, (2, 3.0), {})[0] == 6.0
    assert len(counted) == 3


def test_a_copy_and_a_view_are_kept_apart() -> None:
    """`reshape` gives either, as the layout of its input has it."""
    memo = Memo()
    for x in (empty(2, 3), empty(3, 2).t(), empty(2, 3), empty(3, 2).t()):
        value, _ = memo.run("call_method", "reshape", (x, (6,)), {})
        assert (value.untyped_storage()._cdata == x.untyped_storage()._cdata) is x.is_contiguous()


def test_in_place_operations_write_each_time(counted: list[str]) -> None:
    memo = Memo()
    for _ in range(2):
        x = empty(2, 3)
        value, _ = memo.run("call_function", operator.iadd, (x, empty(2, 3)), {})
        assert value is x
        assert x._version == 1
    assert len(counted) == 1


def test_in_place_on_shared_memory_is_evaluated(counted: list[str]) -> None:
    memo = Memo()
    memo.run("call_function", operator.iadd, (empty(3), empty(3)), {})
    x = empty(3)
    memo.run("call_function", operator.iadd, (x, x), {})
    assert x._version == 1
    assert len(counted) == 2


UNLIKE = {
    "shape": (F.relu, (empty(2, 3),), (empty(2, 4),)),
    "strides": (F.relu, (empty(2, 3),), (empty(3, 2).t(),)),
    "dtype": (F.relu, (empty(2, 3),), (empty(2, 3, dtype=torch.bfloat16),)),
    "number": (torch.mean, (empty(2, 3), 0), (empty(2, 3), 1)),
    "number of another type": (torch.add, (empty(2, 3, dtype=torch.int64), 1), (empty(2, 3, dtype=torch.int64), 1.0)),
    "truth": (torch.sum, (empty(2, 3), 1, True), (empty(2, 3), 1, False)),
    "structure": (torch.cat, ([empty(2, 3), empty(2, 3)],), ((empty(2, 3), empty(2, 3)),)),
    "function": (F.relu, (empty(2, 3),), (empty(2, 3),)),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_calls_that_differ_are_kept_apart(name: str, counted: list[str]) -> None:
    target, one, other = UNLIKE[name]
    memo = Memo()
    memo.run("call_function", target, one, {})
    value, _ = memo.run("call_function", torch.sigmoid if name == "function" else target, other, {})
    assert len(counted) == 2
    assert form(value) == form((torch.sigmoid if name == "function" else target)(*other))


def test_layers_of_other_settings_are_kept_apart(counted: list[str]) -> None:
    memo = Memo()
    x = empty(2, 6, 9, 9)
    layers = [nn.Conv2d(6, 6, 3, padding=p, groups=g) for p in (0, 1) for g in (1, 2)]
    values = [memo.run("call_module", layer.to("meta"), (x,), {})[0] for layer in layers]
    assert [v.shape[-1] for v in values] == [7, 7, 9, 9]
    assert len(counted) == 4


@pytest.mark.parametrize(
    ("target", "given"),
    [
        (torch.view_as_real, lambda: (empty(2, dtype=torch.complex64),)),
        (torch.add, lambda: (torch.ones(2), 1)),  # real: values are kept
        (torch.nonzero, lambda: (empty(2, 3),)),  # depends on the data: a guess
        (torch.sgn, lambda: (empty(2, dtype=torch.complex64),)),
    ],
)
def test_what_is_not_remembered(target: Any, given: Any, counted: list[str]) -> None:
    memo = Memo()
    (_, first), (_, second) = (memo.run("call_function", target, given(), {}) for _ in range(2))
    assert len(counted) == 2
    assert first is second


def test_a_hooked_layer_is_called_each_time() -> None:
    memo, seen = Memo(), []
    layer = nn.ReLU()
    layer.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(2):
        memo.run("call_module", layer, (empty(2),), {})
    assert len(seen) == 2


def test_a_guess_stays_a_guess() -> None:
    memo = Memo()
    trusts = [memo.run("call_function", torch.nonzero, (empty(2, 3),), {})[1] for _ in range(2)]
    assert trusts == [Trust.GUESS, Trust.GUESS]


def test_what_gives_its_argument_another_shape_is_evaluated_each_time() -> None:
    memo = Memo()
    for _ in range(2):
        made, _ = memo.run("call_function", torch.exp, (empty(2, 3),), {})
        value, _ = memo.run("call_method", "unsqueeze_", (made, 1), {})
        assert value is made
        assert value.shape == (2, 1, 3)
