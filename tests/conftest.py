"""What the tests share: the exactness oracle, seeds, and a deterministic hypothesis."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.domain.cob_map import ANY, ONE
from fxteleport.passes.domain.constraints import System
from fxteleport.passes.rewrite.teleported_modules import Teleported

settings.register_profile(
    "fxteleport", derandomize=True, deadline=None, database=None, max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)  # fmt: skip
settings.load_profile("fxteleport")

# Every pair of modes that `plan` accepts.
MODES = [("full", "fixed"), ("full", "rescaled"), ("full", "wrapped"), ("weights", "fixed"), ("weights", "rescaled")]


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run side by side (pytest-xdist) have a core each, and so have the processes that they start."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def checked_graphs() -> Iterator[None]:
    """Every plan that the tests make checks its graphs after each pass (`passes/check_graph.py`)."""
    defaults = inspect.unwrap(ft.plan).__kwdefaults__
    defaults["checks"] = True
    yield
    defaults["checks"] = False


def pytest_runtest_setup(item: pytest.Item) -> None:
    torch.manual_seed(0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`mode, norm_stats` arguments run over every valid pair."""
    if {"mode", "norm_stats"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("mode", "norm_stats"), MODES, ids=["-".join(m) for m in MODES])


def check_exact(
    model: nn.Module,
    *inputs: Any,
    mode: str = "full",
    norm_stats: str = "fixed",
    seed: int = 0,
    randomize: bool = True,
    at_least: int = 1,
    **keyword_inputs: Any,
) -> ft.Plan:
    """The oracle: under a CoB of powers of two every value is the original's times tau, to the last bit."""
    model.eval()
    if randomize:
        ft.randomize(model, seed)
    plan = ft.plan(model, *inputs, mode=mode, norm_stats=norm_stats, **keyword_inputs)
    cob = plan.sample(0.9, "inter", exact=True, seed=seed)
    network = plan.rewrite(cob)
    report = ft.verify(model, network, *inputs, **keyword_inputs)
    assert not report.vacuous, "the comparison proves nothing: the reference output is constant, as far as it is finite"
    assert report.passed, f"{mode} {norm_stats}: {report.first_difference or report}"
    assert report.bitwise_equal
    assert report.nodes > 0
    assert plan.num_free >= at_least, f"{mode} {norm_stats}: {plan.num_free} free values, expected {at_least}"
    if not plan.opaque:
        assert original_keys(network) == list(model.state_dict())
        assert_state_is_whole(plan, network, seed + 1)
    return plan


def check_everywhere(build: Callable[[], nn.Module], make: Callable[[torch.dtype], Any], **settings: Any) -> None:
    """`check_exact` in both modes, with every valid norm_stats, in float32 and float64."""
    for dtype in (torch.float32, torch.float64):
        for mode, norm_stats in MODES:
            inputs = make(dtype)
            inputs = inputs if isinstance(inputs, tuple) else (inputs,)
            check_exact(build().to(dtype), *inputs, mode=mode, norm_stats=norm_stats, **settings)


def meta_copy(model: nn.Module) -> nn.Module:
    """The model without weights."""
    return copy.deepcopy(model).to("meta")


@pytest.fixture(scope="session")
def assert_exact() -> Callable[..., ft.Plan]:
    return check_exact


@pytest.fixture(scope="session")
def assert_exact_everywhere() -> Callable[..., None]:
    return check_everywhere


@pytest.fixture(scope="session")
def exponent_matrix() -> Callable[[System], np.ndarray]:
    """A system's equations as rows of exponents over its symbols; ONE and ANY are left out."""

    def matrix(system: System) -> np.ndarray:
        rows = []
        for batch in system.equations:
            for symbols in batch.symbols.tolist():
                row = np.zeros(system.count)
                for symbol, exponent in zip(symbols, batch.exponents, strict=True):
                    row[symbol] += exponent
                rows.append(row)
        found = np.array(rows).reshape(-1, system.count)
        found[:, [ANY, ONE]] = 0
        return found

    return matrix


def original_keys(network: nn.Module) -> list[str]:
    """The keys of a state dict that are not of a teleported operation's CoB."""
    cobs = {f"{n}.{m.buffer}" for n, m in network.named_modules() if isinstance(m, Teleported)}
    return [key for key in network.state_dict() if key not in cobs]


def assert_state_is_whole(plan: ft.Plan, network: nn.Module, seed: int) -> None:
    """Networks of one plan differ in nothing but their state dicts: one takes over the other's, wraps and all."""
    state = network.state_dict()
    other = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=seed))
    other.load_state_dict(state, strict=True)
    found = other.state_dict()
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert not isinstance(value, Tensor) or torch.equal(_bits(value), _bits(found[key])), key


def _bits(x: Tensor) -> Tensor:
    dense = x if x.layout is torch.strided else x.to_dense()
    return dense.contiguous().reshape(-1).view(torch.uint8)


@pytest.fixture(scope="session", name="original_keys")
def _original_keys() -> Callable[[nn.Module], list[str]]:
    return original_keys


class Probe(nn.Module):
    """conv (8 channels) -> the operation -> a Linear with a column of its own for each position.

    The head constrains nothing, so what is free is what the operation leaves free of the stem's 8 values.
    """

    def __init__(self, operation: Callable[..., Any] | nn.Module, x: Tensor, streams: int = 1) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(3, 8, 1) for _ in range(streams))
        self.operation = operation
        self.sizes = tuple(x.shape[2:])
        with torch.no_grad():
            width = self.features(x).shape[1]
        self.head = nn.Linear(width, 3)

    def features(self, x: Tensor) -> Tensor:
        out = self.operation(*(stem(x) for stem in self.stems))
        parts = out if isinstance(out, (tuple, list)) else [out]
        return torch.cat([p.reshape(x.shape[0], -1) for p in parts], 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.sizes:  # all but the batch is known: what is free is told by the operation alone
            raise ValueError("another size")
        return self.head(self.features(x))


@pytest.fixture(scope="session")
def check_operation() -> Callable[..., None]:
    """Exact in both modes (`norm`: with every norm_stats), and as many free values as given (None: any number)."""

    def check(
        operation: Callable[..., Any] | nn.Module,
        full: int | None = 8,
        weights: int | None = None,
        streams: int = 1,
        size: int = 4,
        known: bool = True,
        norm: bool = False,
    ) -> None:
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(4))
        for mode, norm_stats in MODES if norm else [("full", "fixed"), ("weights", "fixed")]:
            model = Probe(operation, x, streams).eval()
            plan = check_exact(model, x, mode=mode, norm_stats=norm_stats, at_least=0)
            expected = full if mode == "full" else weights
            if expected is not None and norm_stats == "fixed":
                found = plan.num_free
                assert found == expected, f"{mode}: {found} free values, expected {expected}: {plan.groups}"
            if known:
                assert not plan.opaque, plan.opaque
        wide = Probe(operation, x, streams).double().eval()
        ft.randomize(wide)
        plan = ft.plan(wide, x.double())
        report = ft.verify(wide, plan.rewrite(plan.sample(0.9, "inter", seed=1)), x.double())
        assert report.passed, report

    return check
