"""A run: one network planned, teleported and checked. `teleport` and `check` share it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from torch import Tensor, nn

from fxteleport.passes.errors import ModelError
from fxteleport.passes.rewrite.teleported_network import TeleportedModule
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import Plan
from fxteleport.tools.checking.alternate_backends import Executed, execute
from fxteleport.tools.models.determinism import deterministic
from fxteleport.tools.models.request import Loaded
from fxteleport.tools.options.check import Execution
from fxteleport.tools.options.common import Settings
from fxteleport.verify import EquivalenceReport, NodeValue
from fxteleport.verify.stepping import Watch, no_one
from fxteleport.verify.verify import watched


@dataclass(frozen=True)
class Run:
    """A teleportation and its check.

    Attributes:
        values: for some nodes, the values in both networks during the check.
    """

    loaded: Loaded
    settings: Settings
    plan: Plan
    cob: ChangeOfBasis
    network: TeleportedModule
    report: EquivalenceReport
    executed: Executed | None = None
    values: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """The same function, also under the alternate backend, if one was asked for."""
        return self.report.passed and (self.executed is None or self.executed.passed)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock time of each pass."""
        more = 0.0 if self.executed is None else self.executed.seconds
        return {**self.plan.seconds, "verify": self.report.seconds + more}


def run(
    loaded: Loaded,
    settings: Settings,
    step: Callable[[str], None] = lambda _: None,
    execution: Execution | None = None,
    strict: bool = False,
    plan: Plan | None = None,
    keep: Collection[str] = (),
) -> Run:
    """Plan, sample, rewrite and verify; `step` is called with each step; `strict` refuses a plan with conditions.

    A given `plan`, made with these settings, is used. The values of the nodes in `keep` are kept.

    With an alternate backend, the networks must first agree without it, node by node.

    Raises:
        TeleportError: the plan or the law does not fit the model, or the model does not run.
    """
    if plan is None:
        step("planning")
        plan = settings.plan(loaded)
    if strict:
        plan.require_none()
    cob = settings.sample(plan)
    step("rewriting")
    network = plan.rewrite(cob)
    step("verifying")
    values: dict[str, tuple[Tensor, Tensor]] = {}

    def look(value: NodeValue) -> None:
        if value.node in keep:  # copies: the networks may write into their values later
            values[value.node] = value.original.detach().clone(), value.actual.detach().clone()

    report, executed = compare(loaded, network, execution, look)
    return Run(loaded, settings, plan, cob, network, report, executed, values)


def compare(
    loaded: Loaded, network: nn.Module, execution: Execution | None = None, watch: Watch = no_one
) -> tuple[EquivalenceReport, Executed | None]:
    """Verify a network against the loaded one and, if that passes, under the alternate backend.

    Raises:
        ModelError: they do not run here: out of memory, other inputs, no kernel for the number format, not compilable.
        InputError: their outputs differ in shape.
    """
    try:
        with deterministic(loaded.device):
            report = watched(loaded.model, network, loaded.args, loaded.kwargs, watch)
            if not execution or not report.passed:
                return report, None
            return report, execute(loaded.model, network, execution, loaded.args, loaded.kwargs)
    except (ModelError, RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(f"'{loaded.spec}' cannot be compared here: {said}") from error
