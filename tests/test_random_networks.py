"""Random networks: whatever is combined, an exact CoB leaves every node equal to the last bit."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from dataclasses import dataclass, field

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from random_networks import Network, Script, Step, fitting, grown, scripts
from random_operations import OPERATIONS
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.rules import RULES
from fxteleport.tools.determinism import deterministic
from fxteleport.verify import equal, evaluating

MODES = [("full", "fixed"), ("full", "rescaled"), ("full", "wrapped"), ("weights", "fixed"), ("weights", "rescaled")]
SHARDS, PER_SHARD = 20, 1000


@dataclass
class Tally:
    """What a run of comparisons was worth, and on which device."""

    device: str = "cpu"
    networks: int = 0
    comparisons: int = 0
    vacuous: int = 0
    moving: int = 0
    nodes: int = 0
    opaque: int = 0
    operations: Counter[str] = field(default_factory=Counter)

    def check(self, script: Script) -> None:
        """Compare a network with its teleported versions in every mode."""
        model, inputs = script.make()
        if self.device != "cpu":
            model, inputs = model.to(self.device), [x.to(self.device) for x in inputs]
            hypothesis.assume(runs(model, inputs))
        self.networks += 1
        self.operations.update({step.operation for step in script.steps})
        normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        for mode, norm_stats in MODES:
            if norm_stats == "fixed" or normed:  # without batch norm it is the same plan
                self.compare(model, inputs, mode, norm_stats)

    def compare(self, model: Network, inputs: list[Tensor], mode: str, norm_stats: str) -> None:
        plan = ft.plan(model, *inputs, mode=mode, norm_stats=norm_stats)
        cob = plan.sample(0.9, "inter", exact=True, seed=3)
        network = plan.rewrite(cob)
        report = ft.verify(model, network, *inputs)
        assert report.bitwise_equal and report.first_difference is None, f"{mode} {norm_stats}: {report}"
        self.comparisons += 1
        self.vacuous += report.vacuous
        self.moving += plan.num_free > 0
        self.nodes += report.nodes
        self.opaque += len(plan.opaque)
        same_again(network, model, inputs)
        if mode == "weights":
            same_in_place(plan, cob, model, inputs)

    def assert_meaningful(self) -> None:
        """A comparison that proves nothing must be rare, and so must nodes that no rule knows."""
        assert self.vacuous <= 0.02 * self.comparisons, self
        assert self.moving >= 0.8 * self.comparisons, self
        assert self.opaque <= 0.01 * self.nodes, self


@torch.no_grad()
def runs(model: nn.Module, inputs: list[Tensor]) -> bool:
    """Whether a network can run where it was moved to: some make constants on the CPU, say."""
    try:
        model(*inputs)
    except (RuntimeError, NotImplementedError):
        return False
    return True


@torch.no_grad()
def same_again(network: nn.Module, model: nn.Module, inputs: list[Tensor]) -> None:
    """Nothing that the network wrote to leaks into its next run."""
    for x, y in zip(model(*inputs), network(*inputs), strict=True):
        assert equal(x, y), "the second run differs"


@torch.no_grad()
def same_in_place(plan: ft.Plan, cob: ft.ChangeOfBasis, model: Network, inputs: list[Tensor]) -> None:
    """`apply_` on a copy keeps its outputs, and the inverse restores its weights."""
    twin = copy.deepcopy(model)
    before = copy.deepcopy(twin.state_dict())
    with evaluating(twin):
        expected = twin(*inputs)
        plan.apply_(cob, twin)
        assert all(equal(a, b) for a, b in zip(expected, twin(*inputs), strict=True)), "apply_ changed the function"
    plan.apply_(cob.inverse(), twin)
    assert all(equal(before[k], v) for k, v in twin.state_dict().items()), "the inverse did not restore the weights"


def test_random_networks() -> None:
    tally = Tally()

    @settings(max_examples=300)
    @given(scripts())
    def run(script: Script) -> None:
        tally.check(script)

    run()
    tally.assert_meaningful()


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_many_random_networks(shard: int) -> None:
    tally = Tally()

    @hypothesis.seed(shard)
    @settings(max_examples=PER_SHARD, derandomize=False)
    @given(scripts())
    def run(script: Script) -> None:
        tally.check(script)

    run()
    tally.assert_meaningful()
    print(f"\nshard {shard}: {tally}")


def smallest(name: str) -> Script:
    """Two stems, an operation and a head: every operation picks its first option."""
    for shape, before in itertools.product([(2, 4, 4, 4), (2, 4, 4), (2, 4)], [(), ("softplus",)]):
        script, values = Script(torch.float32, (shape,)), [torch.zeros(shape)]
        for step in [Step("Linear", (0,), (3,)), Step("Linear", (0,), (3,)), *(Step(n, (1,), ()) for n in before)]:
            script, values = (grown(script, step) or (script, values))[:2]
        for operands in fitting(name, values):
            more = grown(script, Step(name, operands, ())) if 0 not in operands else None
            if more is not None:
                return (grown(more[0], Step("head", (len(more[1]) - 1,), ())) or more)[0]
    raise AssertionError(f"'{name}' fits no small network")


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_alone(name: str) -> None:
    Tally().check(smallest(name))


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


@pytest.mark.cuda
@CUDA
def test_random_networks_on_cuda() -> None:
    tally = Tally("cuda")

    @settings(max_examples=300)
    @given(scripts())
    def run(script: Script) -> None:
        with deterministic("cuda"):
            tally.check(script)

    run()
    tally.assert_meaningful()
    print(f"\n{tally}")


@pytest.mark.cuda
@CUDA
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_alone_on_cuda(name: str) -> None:
    try:
        with deterministic("cuda"):
            Tally("cuda").check(smallest(name))
    except hypothesis.errors.UnsatisfiedAssumption:
        pytest.skip("it does not run on a GPU")


# Rules that no random network reaches.
UNREACHED: dict[str, str] = {
    "grouped_linear": "its operation wants rows of 16 bytes; Mixtral has it in tests/test_real_world.py",
}


def test_every_rule_is_reached() -> None:
    found: set[str] = set()
    for name in OPERATIONS:
        model, inputs = smallest(name).make()
        found |= set(ft.plan(model, *inputs).constrained.rules.values())
    assert found | UNREACHED.keys() >= {rule.name for rule in RULES.values()}
    assert not found & UNREACHED.keys()
