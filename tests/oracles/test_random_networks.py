"""Random networks: whatever is combined, an exact CoB leaves every node equal to the last bit, wherever they run."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import campaign
import hypothesis
import pytest
import random_changes
import random_operations
import torch
from hypothesis import given, settings
from oracle import Tally, Wrong, changes
from random_networks import KINDS, OPERATIONS, Script, Step, fitting, grown, others, scripts, seeded

import fxteleport as ft
from fxteleport.passes.rules.registry import RULES
from fxteleport.tools.models.determinism import deterministic

SHARDS, PER_SHARD = 20, 1000
OPEN_KINDS: tuple[str, ...] = ()  # not drawn, and expected to fail
OPEN_CHECKS: tuple[str, ...] = ()
NAMES = tuple(name for name in OPERATIONS if not (OPEN_KINDS and name.startswith(OPEN_KINDS)))


def test_random_networks() -> None:
    tally = Tally(skips=OPEN_CHECKS)

    @settings(max_examples=100)
    @given(scripts(names=NAMES))
    def run(script: Script) -> None:
        tally.check(script)

    run()
    tally.assert_meaningful(moving=0.65)  # they are short: one step that pins leaves nothing


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_many_random_networks(shard: int, tmp_path: Path) -> None:
    """What `python tests/oracles/campaign.py` does with one seed."""
    script = Path(campaign.__file__)
    command = [sys.executable, str(script), "--seeds", str(shard), "--networks", str(PER_SHARD)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=script.parents[2])
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def smallest(name: str) -> Script:
    """Two stems, an operation and a head: every operation picks its first option."""
    for shape, before in itertools.product([(2, 4, 4, 4), (2, 4, 4), (2, 4)], [(), ("softplus",)]):
        script, values = Script(torch.float32, (shape,)), [torch.zeros(shape)]
        for step in [Step("Linear", (0,), (3,)), Step("Linear", (0,), (3,)), *(Step(n, (1,), ()) for n in before)]:
            script, values = (grown(script, step) or (script, values))[:2]
        for operands in fitting(name, values):
            more = grown(script, Step(name, operands, ())) if 0 not in operands else None
            if more is not None:
                end = "end of all lengths" if name in KINDS else "head"
                return (grown(more[0], Step(end, (len(more[1]) - 1,), ())) or more)[0]
    raise AssertionError(f"'{name}' fits no small network")


def alone() -> list[object]:
    """Each operation, those that fail today as such."""
    xfail = pytest.mark.xfail(raises=Wrong, reason="open")
    return [
        pytest.param(name, marks=xfail) if bool(OPEN_KINDS) and name.startswith(OPEN_KINDS) else name
        for name in OPERATIONS
    ]


@pytest.mark.parametrize("name", alone())
def test_each_operation_alone(name: str) -> None:
    Tally(skips=OPEN_CHECKS).check(smallest(name))


class Opening(torch.nn.Module):
    """A network whose inputs are in an object."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, held: SimpleNamespace) -> object:
        return self.network(*held.inputs)


@pytest.mark.parametrize("number", range(12))
def test_inputs_in_an_object(number: int) -> None:
    """As free, and as right at other sizes, as where they are given one by one."""
    script = seeded(24, number, most=6)
    network, inputs = script.make()
    model = Opening(network.made())
    plan = ft.plan(model, SimpleNamespace(inputs=inputs), mode="weights")
    assert plan.num_free == ft.plan(network, *inputs, mode="weights").num_free
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=3))
    for _, shapes in others(script, network):
        given = script.draw(shapes)
        try:
            found = emitted(SimpleNamespace(inputs=[x.clone() for x in given]))
        except ft.GuardError:
            continue
        expected = network(*given)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("way", range(len(random_changes.HIDDEN)), ids=random_changes.HIDDEN)
@pytest.mark.parametrize("kind", ["hidden: whole", "hidden: drop path", "hidden: traced"])
def test_each_hidden_reference(kind: str, way: int) -> None:
    """Also where no deep copy has the weight as its own (a closure): each side of a comparison is a network anew."""
    Tally().check(Script(torch.float32, ((1, 3),), (Step("Linear", (0,), (0,)), Step(kind, (1,), (0, way)))))


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


@pytest.mark.cuda
@CUDA
def test_random_networks_on_cuda() -> None:
    tally = Tally("cuda", OPEN_CHECKS)

    @settings(max_examples=300)
    @given(scripts(names=NAMES))
    def run(script: Script) -> None:
        with deterministic("cuda"):
            tally.check(script)

    run()
    tally.assert_meaningful()
    print(f"\n{tally}")


@pytest.mark.cuda
@CUDA
@pytest.mark.parametrize("name", alone())
def test_each_operation_alone_on_cuda(name: str) -> None:
    try:
        with deterministic("cuda"):
            Tally("cuda", OPEN_CHECKS).check(smallest(name))
    except hypothesis.errors.UnsatisfiedAssumption:
        pytest.skip("it does not run on a GPU")


# Rules that no random network reaches.
_EXPORTED = "an operation of exported programs: tests/passes/graph/test_aten.py holds it against its function"
UNREACHED: dict[str, str] = {
    **dict.fromkeys(
        "native_layer_norm fused_rms_norm native_group_norm native_batch_norm native_batch_norm_in_eval_mode"
        " flash_attention efficient_attention attention_written_out restrided upsampled".split(),
        _EXPORTED,
    ),
    "transformer_encoder": "a layer of layers: tests/passes/rules/test_encoder.py has it in every setting",
    "grouped_linear": "its operation wants rows of 16 bytes; Mixtral has it in tests/oracles/test_real_world.py",
}


def test_every_rule_is_reached() -> None:
    found: set[str] = set()
    for name in random_operations.OPERATIONS:
        model, inputs = smallest(name).make()
        found |= set(ft.plan(model, *inputs).constrained.rules.values())
    assert found | UNREACHED.keys() >= {rule.name for rule in RULES.values()}
    assert not found & UNREACHED.keys()


# -- the networks and the oracles themselves --------------------------------------------------------------------------


def test_networks_run_at_other_sizes() -> None:
    """Each drawn network has an axis with other sizes, and most have several."""
    axes = [len({axis for axis, _ in others(script, script.make()[0])}) for script in (seeded(1, n) for n in range(20))]
    assert min(axes) >= 1
    assert sum(n >= 2 for n in axes) >= 8


@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith(("forward", "axis"))])
def test_each_kind_runs_at_other_sizes(name: str) -> None:
    script = smallest(name)
    assert others(script, script.make()[0])


def test_a_seed_and_a_number_are_a_network() -> None:
    assert seeded(3, 17) == seeded(3, 17)
    assert seeded(3, 17) != seeded(3, 18)
    assert campaign.read(str(seeded(3, 17))) == seeded(3, 17)


def test_a_plan_that_forgets_a_position_is_caught_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emitted network that is right on the example only."""
    script = Script(torch.float64, ((2, 3, 4),))
    for step in [Step("Linear", (0,), (3,)), Step("relu", (1,), ()), Step("tanh", (2,), ()), Step("head", (3,), ())]:
        script = (grown(script, step) or pytest.fail())[0]
    Tally().check(script)
    rewrite = ft.Plan.rewrite

    def broken(plan: ft.Plan, cob: ft.ChangeOfBasis) -> torch.nn.Module:
        network = rewrite(plan, cob)
        forward = network.forward
        network.forward = lambda *xs: [y + (xs[0].shape[0] != 2) for y in forward(*xs)]  # type: ignore[method-assign]
        return network

    monkeypatch.setattr(ft.Plan, "rewrite", broken)
    with pytest.raises(Wrong, match="other batch") as caught:
        Tally().check(script)
    small, _ = campaign.shrunk(script, caught.value)
    assert (len(small.steps), small.dtype) == (1, torch.float32)
    assert "python tests/oracles/campaign.py --script" in campaign.listing(small)


def test_changes_are_undone() -> None:
    for n in range(10):
        model, _ = seeded(0, n).make()
        before = {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
        for _, change, undo in changes(model):
            change()
            undo()
        after = model.state_dict()
        assert all(torch.equal(v, after[k]) for k, v in before.items() if not v.isnan().any())


def test_a_campaign_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is in the record is not run again."""
    record = tmp_path / "record.jsonl"
    given = "--only relu --most 2 --keep --skip changed --networks".split()
    for networks in ("1", "2", "2"):
        monkeypatch.setattr(sys, "argv", ["campaign.py", *given, networks, "--record", str(record)])
        assert campaign.main() == 0
        assert f"{networks} networks" in capsys.readouterr().out
        assert len(record.read_text().splitlines()) == int(networks)
