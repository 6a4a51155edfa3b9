"""What must hold of every network, however it was drawn: equal to the last bit wherever the original runs, or refused.

On the example (every node), again, at other sizes, in train mode (outputs, gradients, statistics), after `apply_` and
its inverse, and after something that the plan rests on has changed. A refusal is an error of the project's own; weights
that went back into the original class have no guard, so they must be right wherever the original runs, unless
`plan.conditions` says what they rest on.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import torch
from random_changes import HiddenFunction
from random_networks import Network, Script, others, several_of
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.constrain.interpreter import Opaque
from fxteleport.passes.domain.solution import UNIT
from fxteleport.verify import equal, evaluating

MODES = [("full", "fixed"), ("full", "rescaled"), ("full", "wrapped"), ("weights", "fixed"), ("weights", "rescaled")]


class Wrong(AssertionError):
    """A network that is neither equal nor refused: in which check, in which mode, how."""

    def __init__(self, check: str, mode: str, how: str) -> None:
        super().__init__(f"{check} ({mode}): {how}")
        self.check, self.mode, self.how = check, mode, how


@dataclass
class Tally:
    """What a run of comparisons was worth, and on which device.

    Attributes:
        runs: how often each check was made, by how it ended ("equal", "refused", "conditions" where the plan says that
            it rests on something, and the numbers differ there).
        vacuous: comparisons of constant outputs.
        moving: plans in which something is free.
        opaque: nodes that no rule knows, but for those of operations that are there to be kept whole.
        skips: how the names of checks begin that are not made.
    """

    device: str = "cpu"
    skips: tuple[str, ...] = ()
    networks: int = 0
    comparisons: int = 0
    vacuous: int = 0
    moving: int = 0
    nodes: int = 0
    opaque: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    runs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def check(self, script: Script) -> None:
        """Compare a network with its teleported versions in every mode.

        Raises:
            Wrong: one of them is neither equal nor refused.
        """
        torch.manual_seed(0)  # layers may draw buffers of their own
        model, inputs = script.make()
        shapes = [("example", script.inputs), *others(script, model)]
        model = model.made().to(self.device)
        if self.device != "cpu":
            hypothesis.assume(runs(model, [x.to(self.device) for x in inputs]))
        self.networks += 1
        self.operations.update({step.operation for step in script.steps})
        runs_of = []
        for what, made_of in shapes:
            xs = [x.to(self.device) for x in script.draw(made_of)]
            with torch.no_grad():
                runs_of.append(Run(what, xs, several_of(seeded(self.fresh(script), xs))))
        normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        for mode, norm_stats in MODES:
            if norm_stats == "fixed" or normed:  # without batch norm it is the same plan
                Comparison(self, functools.partial(self.fresh, script), runs_of, mode, norm_stats).make()

    def fresh(self, script: Script) -> Network:
        """A script's network, the same each time. Of a deep copy, closures would go on with the first's layers."""
        torch.manual_seed(0)  # layers may draw buffers of their own
        return script.make()[0].made().to(self.device)

    def assert_meaningful(self, opaque: float = 0.01, moving: float = 0.75) -> None:
        """A comparison that proves nothing must be rare, and so must nodes that no rule knows."""
        assert self.vacuous <= 0.02 * self.comparisons, self
        assert self.moving >= moving * self.comparisons, self
        assert self.opaque <= opaque * self.nodes, self

    def share(self, *how: str) -> float:
        """The share of all checks that ended so."""
        total = sum(self.runs.values())
        return sum(n for (_, end), n in self.runs.items() if end in how) / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        plain = {k: v for k, v in vars(self).items() if isinstance(v, int)}
        return plain | {"runs": {" | ".join(k): v for k, v in self.runs.items()}}


# How the names of operations begin that no rule can know, and why.
_KEPT_WHOLE = {
    "hidden": "code that cannot be traced, and reads another layer's weight",
    "made: product over the batch": "the exponent of its CoB is the number of samples",
    "made: running product over the batch": "its CoB has another exponent at each sample",
    "number: power": "the exponent is a size",
    "weight: data": "a weight's memory is replaced while forward runs",
    "rows: mask": "which rows are picked, a mask tells that comes with the data",
    "join: scatter": "where it is written, a size tells that the example may have as 0",
}


@dataclass(frozen=True)
class Run:
    """Inputs, and what the original makes of them."""

    what: str
    inputs: list[Tensor]
    expected: list[Any]


@dataclass
class Comparison:
    """One network in one mode. The model is the comparison's own: a plan holds it, and it is changed in the end.

    Attributes:
        fresh: makes the network again.
    """

    tally: Tally
    fresh: Callable[[], Network]
    runs: list[Run]
    mode: str
    norm_stats: str

    def __post_init__(self) -> None:
        self.model = self.fresh()

    @property
    def inputs(self) -> list[Tensor]:
        """The example's."""
        return self.runs[0].inputs

    def make(self) -> None:
        plan = self.guarded(
            "plan", lambda: ft.plan(self.model, *self.inputs, mode=self.mode, norm_stats=self.norm_stats)
        )
        if plan is None:
            return
        self.tally.comparisons += 1
        self.tally.moving += plan.num_free > 0
        self.tally.opaque += sum(not self.is_meant(node) for node in plan.opaque)
        cob = plan.sample(0.9, "inter", exact=True, seed=3)
        network = self.guarded("rewrite", lambda: plan.rewrite(cob))
        if network is None:
            return
        unrun = plan.rewrite(cob)  # a run of the model changes its buffers
        report = self.guarded("verify", lambda: ft.verify(self.model, network, *self.inputs))
        if report is None:
            return
        self.tally.vacuous += report.vacuous
        self.tally.nodes += report.nodes
        self.require("verify", report.bitwise_equal and report.first_difference is None, str(report.first_difference))
        self.compared("again", self.runs[0], network)
        if self.mode == "full" and self.norm_stats == "fixed":
            self.with_a_common_factor(plan)
        if self.mode == "weights" and self.norm_stats == "fixed":
            self.with_scaled_norms()
        twin = None
        if self.mode == "weights":
            twin = self.fresh()
            self.in_place(plan, cob, unrun, twin)
        excused = bool(getattr(plan, "conditions", ()))  # it says that it rests on something
        for other in self.runs[1:]:
            self.compared(f"other {other.what}", other, network)
            if twin is not None:
                self.compared(f"checkpoint, other {other.what}", other, twin, excused)
        if self.norm_stats == "fixed" and not self.reads_a_closure():  # a weight in one is the planned model's
            self.cast(unrun)
        if self.norm_stats != "rescaled":  # exact in eval mode only
            scales = plan.scales(cob)
            self.trained("train mode", unrun, scales)
            if twin is not None:
                twin = self.fresh()
                plan.apply_(cob, twin)
                self.trained("checkpoint, train mode", twin, scales, excused)
        if self.norm_stats == "fixed":
            self.after_changes(plan, cob)

    def is_meant(self, node: Opaque) -> bool:
        """True for a node of an operation that is there to be kept whole."""
        place = re.match(r"calls[._](\d+)", node.path or node.node)
        return place is not None and self.model.script.steps[int(place[1])].operation.startswith(tuple(_KEPT_WHOLE))

    def reads_a_closure(self) -> bool:
        """True for a network in which a function holds a weight."""
        return any(isinstance(m, HiddenFunction) or getattr(m, "way", "") == "a closure" for m in self.model.modules())

    @torch.no_grad()
    def cast(self, network: nn.Module) -> None:
        """Another number format: what the model does in it, where it runs in it."""
        for dtype in (torch.float64, torch.bfloat16):
            inputs = [x.to(dtype) if x.is_floating_point() else x for x in self.inputs]
            try:
                expected = several_of(seeded(self.fresh().to(dtype), inputs))
            except Exception:  # it holds tensors that are not cast with it
                continue
            self.compared(f"cast to {dtype}", Run("cast", inputs, expected), copy.deepcopy(network).to(dtype))

    # -- the checks ---------------------------------------------------------------------------------------------

    def with_a_common_factor(self, plan: ft.Plan) -> None:
        """One positive number for all free values: what norms take into their epsilons."""
        still = torch.from_numpy(plan.solution.allows == UNIT)
        cob = plan.cob(torch.where(still, 1.0, torch.tensor(4.0, dtype=torch.float64)))
        network = self.guarded("common factor", lambda: plan.rewrite(cob))
        if network is None:
            return
        report = self.guarded("common factor", lambda: ft.verify(self.model, network, *self.inputs))
        if report is not None:
            equal = report.bitwise_equal and report.first_difference is None
            self.require("common factor", equal, str(report.first_difference))
        for other in self.runs[1:]:
            self.compared(f"common factor, other {other.what}", other, network)

    def with_scaled_norms(self) -> None:
        """`norms="scaled"`: exact but for the epsilons, which `verify` puts right."""
        model = self.fresh()
        plan = self.guarded("scaled norms", lambda: ft.plan(model, *self.inputs, mode="weights", norms="scaled"))
        if plan is None or not any(side.before for side in plan.scaled_norms.values()):
            return
        network = self.guarded("scaled norms", lambda: plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=3)))
        report = network and self.guarded("scaled norms", lambda: ft.verify(model, network, *self.inputs))
        if not report or report.epsilon_gap is None:  # a layer that is called twice
            return
        equal = report.tolerance == 0 and report.first_difference is None and report.max_abs == 0
        self.require("scaled norms", equal, str(report.first_difference))

    def in_place(self, plan: ft.Plan, cob: ft.ChangeOfBasis, network: nn.Module, twin: Network) -> None:
        """`apply_` on a copy keeps its outputs, is what the emitted network holds, and has an inverse."""
        before, unrun = copy.deepcopy(twin.state_dict()), copy.deepcopy(twin)
        with evaluating(twin), torch.no_grad():
            expected = several_of(seeded(twin, self.inputs))
            if self.guarded("apply_", lambda: plan.apply_(cob, twin)) is None:
                return
            self.require("apply_", same(expected, several_of(seeded(twin, self.inputs))), "another function")
        plan.apply_(cob, unrun)  # a run may change buffers
        held, emitted = unrun.state_dict(), network.state_dict()
        for name in held.keys() & emitted.keys():
            if isinstance(held[name], Tensor):
                self.require("checkpoint", equal(held[name], emitted[name]), f"'{name}' is not what apply_ makes it")
        with torch.no_grad(), evaluating(self.model):  # the planned one, with all that refers to its layers
            expected = several_of(seeded(self.model, self.inputs))
            plan.apply_(cob)
            found = several_of(seeded(self.model, self.inputs))
            plan.apply_(cob.inverse())
        self.require("apply_ in place", same(expected, found), "another function")
        plan.apply_(cob.inverse(), unrun)
        for name, tensor in unrun.state_dict().items():
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.require("inverse", equal(before[name], tensor), f"'{name}' is not restored")

    def trained(self, check: str, network: nn.Module, scales: dict[str, Tensor], excused: bool = False) -> None:
        """One step in train mode: outputs, gradients over their factors (Theorem 5.1), and statistics."""
        a, b = self.fresh().train(), network.train()
        try:
            expected = stepped(a, self.inputs)
        except Exception:  # it does not train: one value a channel, a write into a leaf
            return
        found = self.guarded(check, lambda: stepped(b, self.inputs))
        if found is None:
            return
        if excused and not same(expected, found):
            self.tally.runs[check, "conditions"] += 1
            return
        self.require(check, same(expected, found), "other outputs")
        theirs = dict(b.named_parameters())
        largest = max((float(p.grad.abs().max()) for p in a.parameters() if p.grad is not None), default=0.0)
        for name, p in a.named_parameters():
            if name not in theirs:
                continue
            one, other = p.grad, theirs[name].grad
            if one is None or other is None:
                there = other if one is None else one
                agree = there is None or not bool(there.any())
            else:
                scale = scales.get(name)
                wanted = one if scale is None else (one / scale.to(one.device)).to(one.dtype)
                noise = largest if scale is None else largest * float((1 / scale).abs().max())
                agree = close(wanted, other, noise)  # what cancels out leaves only rounding
            self.require(f"{check}, gradients", agree, f"of '{name}'")
        held = b.state_dict()
        for name, buffer in a.named_buffers():
            if name in held:
                scale = scales.get(name)
                wanted = buffer if scale is None else (buffer * scale.to(buffer.device)).to(buffer.dtype)
                self.require(f"{check}, buffers", close(wanted, held[name]), f"'{name}'")

    def after_changes(self, plan: ft.Plan, cob: ft.ChangeOfBasis) -> None:
        """Something that the plan rests on changes: the stale plan is refused, or gives right numbers."""
        for what, change, undo in changes(self.model):
            if f"changed {what}".startswith(self.tally.skips or ("-",)):
                continue
            change()
            try:
                if not runs(self.model, self.inputs):
                    continue
                with torch.no_grad():
                    expected = several_of(seeded(copy.deepcopy(self.model), self.inputs))
                run = Run("changed", self.inputs, expected)
                network = self.guarded(f"changed {what}", lambda: plan.rewrite(cob), counted=False)
                if network is not None:
                    self.compared(f"changed {what}", run, network)
                if self.mode == "weights":
                    twin, other = self.changed(what), self.changed(what)
                    with torch.no_grad():
                        run = Run("changed", self.inputs, several_of(seeded(other, self.inputs)))
                    if self.guarded(f"changed {what}, apply_", lambda t=twin: plan.apply_(cob, t), counted=False):
                        self.compared(f"changed {what}, apply_", run, twin)
            finally:
                undo()

    def changed(self, what: str) -> Network:
        """The network anew, changed in one way."""
        network = self.fresh()
        next(change for name, change, _ in changes(network) if name == what)()
        return network

    # -- how they end ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def compared(self, check: str, run: Run, network: nn.Module, excused: bool = False) -> None:
        """Outputs equal to the last bit; where it is `excused`, another result is counted."""
        expected = run.expected
        found = self.guarded(check, lambda: several_of(seeded(network, run.inputs)))
        if found is None:
            return
        if excused and not same(expected, found):
            self.tally.runs[check, "conditions"] += 1
            return
        self.require(check, same(expected, found), f"another function: {distance(expected, found)}")

    def require(self, check: str, holds: bool, how: str) -> None:
        if not holds:
            raise Wrong(check, f"{self.mode} {self.norm_stats}", how)
        self.tally.runs[check, "equal"] += 1

    def guarded(self, check: str, run: Callable[[], Any], counted: bool = True) -> Any:
        """What a run gives; None, and counted, where it is refused."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # fx prints the line that raised
                return run()
        except Exception as error:
            if not refusal(error):
                raise Wrong(
                    check, f"{self.mode} {self.norm_stats}", f"{type(error).__name__}: {error}"[:300]
                ) from error
            self.tally.runs[check, "refused"] += 1
            return None


def refusal(error: BaseException) -> bool:
    """True for an error that the project raises on purpose."""
    return isinstance(error, ft.TeleportError) or (isinstance(error, ValueError) and "capture it again" in str(error))


def seeded(network: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """Random numbers are the same ones each time."""
    torch.manual_seed(5)
    return network(*inputs)


def stepped(network: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs and, in the parameters, gradients of a loss that weighs each output element differently."""
    out = several_of(seeded(network, inputs))
    loss = sum(
        (
            (x * torch.arange(1, x.numel() + 1, device=x.device).remainder(7).sub(3).view(x.shape)).sum()
            for x in out
            if x.is_floating_point()
        ),
        torch.zeros(()),
    )
    loss.backward()  # type: ignore[union-attr]
    return [x.detach() for x in out]


def same(expected: list[Any], found: list[Any]) -> bool:
    return len(expected) == len(found) and all(
        equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b
        for a, b in zip(expected, found, strict=True)
    )


def close(a: Tensor, b: Tensor, noise: float = 0.0) -> bool:
    """Equal to the last bit, or nearly: sums of gradients may be taken in another order.

    Args:
        noise: how large the terms may have been of what cancels out.
    """
    if equal(a, b) or not a.is_floating_point():
        return equal(a, b)
    bound = 64 * torch.finfo(a.dtype).eps * float(a.abs().max().clamp_min(1e-30))
    bound = max(bound, 64 * torch.finfo(a.dtype).eps * noise)
    return a.shape == b.shape and bool((a - b).abs().max() <= bound)


def distance(expected: list[Tensor], found: list[Tensor]) -> str:
    if [x.shape for x in expected] != [x.shape for x in found]:
        return f"shapes {[tuple(x.shape) for x in found]} for {[tuple(x.shape) for x in expected]}"
    pairs = [(a.double(), b.double()) for a, b in zip(expected, found, strict=True) if a.numel()]
    far = max((float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) for a, b in pairs), default=0.0)
    return f"{far:.2g} relative"


@torch.no_grad()
def runs(model: nn.Module, inputs: list[Tensor]) -> bool:
    """Whether a network can run where it was moved to (some make constants on the CPU, say), or as it was changed."""
    try:
        model(*inputs)
    except Exception:  # whatever an operation raises
        return False
    return True


# -- what changes after a plan -----------------------------------------------------------------------------------------

# A setting of torch's layers, and what it becomes.
SETTINGS: list[tuple[type[nn.Module], str, Callable[[Any], Any]]] = [
    (nn.LeakyReLU, "negative_slope", lambda v: -v),
    (nn.Hardtanh, "min_val", lambda v: v / 2),
    (nn.ELU, "alpha", lambda v: v * 2),
    (nn.LayerNorm, "eps", lambda v: v * 8),
    (nn.GroupNorm, "num_groups", lambda v: 1),
    (nn.modules.batchnorm._BatchNorm, "eps", lambda v: v + 1),
    (nn.Conv1d, "padding_mode", lambda v: "circular"),
    (nn.Conv2d, "dilation", lambda v: (1, 2)),
    (nn.AvgPool1d, "kernel_size", lambda v: 1),
    (nn.MaxPool2d, "stride", lambda v: 1),
    (nn.Softmax, "dim", lambda v: 0),
    (nn.Upsample, "scale_factor", lambda v: 1),
    (nn.MultiheadAttention, "num_heads", lambda v: 1),
]

Change = tuple[str, Callable[[], None], Callable[[], None]]


def changes(model: nn.Module) -> Iterator[Change]:
    """Changes of a model, one of each kind: what, how, and back."""
    for kind, name, new in SETTINGS:
        layer = next((m for m in model.modules() if isinstance(m, kind)), None)
        if layer is not None and (value := getattr(layer, name)) != new(value):
            if isinstance(layer, nn.Conv1d) and layer.padding == (0,):  # there is nothing to pad
                continue
            yield (
                f"{kind.__name__}.{name}",
                functools.partial(setattr, layer, name, new(value)),
                functools.partial(setattr, layer, name, value),
            )
    for buffer in model.buffers():
        if not buffer.is_floating_point() and buffer.numel() > 1:
            other = ~buffer if buffer.dtype == torch.bool else buffer.reshape(-1).flip(0).view(buffer.shape)
            if not torch.equal(other, buffer):
                kept = buffer.clone()
                kind = "a mask" if buffer.dtype == torch.bool else "an index"
                yield kind, functools.partial(buffer.copy_, other.clone()), functools.partial(buffer.copy_, kept)
                break
    weights = [
        m for m in model.modules() if isinstance(m, nn.Linear) and type(m) is nn.Linear and "weight" in m._parameters
    ]
    for i, one in enumerate(weights):
        other = next(
            (m for m in weights[:i] if m.weight.shape == one.weight.shape and m.weight is not one.weight), None
        )
        if other is not None:
            yield "a tie made", *swapped(one, other.weight)
            view = nn.Parameter(other.weight.detach()) if one.weight is not other.weight else one.weight
            yield "a memory shared", *swapped(one, view)
            break
    names = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for one in weights:
        if names[id(one.weight)] > 1:
            yield "a tie cut", *swapped(one, nn.Parameter(one.weight.detach() * 2))
            break
    for one in weights:
        if one.weight.shape[0] == one.weight.shape[1] > 1:
            yield "transposed in place", *transposed(one.weight)
            break


def swapped(layer: nn.Linear, weight: nn.Parameter) -> tuple[Callable[[], None], Callable[[], None]]:
    table = layer._parameters
    return (
        functools.partial(table.__setitem__, "weight", weight),
        functools.partial(table.__setitem__, "weight", layer.weight),
    )


def transposed(weight: nn.Parameter) -> tuple[Callable[[], None], Callable[[], None]]:
    kept = weight.data

    def change() -> None:
        weight.data = kept.t()

    def undo() -> None:
        weight.data = kept

    return change, undo
