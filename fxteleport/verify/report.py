"""The report of a comparison of two networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fxteleport.summaries import Summarized

Verdict = Literal["same", "different", "cannot tell", "vacuous"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A node at which the teleported value is not `original * tau`.

    Attributes:
        node, op, path, rule: the node, its operation, its module path and the rule that was applied.
        max_abs, max_rel: the largest difference.
        expected, actual: the values at the element with the largest difference.
        source: the line of the model's code that makes the call, as "file:number"; "" where it is not known.
    """

    node: str
    op: str
    path: str
    rule: str
    max_abs: float
    max_rel: float
    expected: float
    actual: float
    source: str = ""

    def __str__(self) -> str:
        return (
            f"node '{self.node}' ({self.op}, in '{self.path or 'the model'}', rule '{self.rule}'):"
            f" expected {self.expected:.9g}, got {self.actual:.9g}{f' ({self.source})' if self.source else ''}"
        )


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """A parameter or buffer of an emitted network that is not `original * scales(cob)`.

    Attributes:
        name, index: the first element that differs.
        expected, actual: the values there; NaN where the network has no such tensor.
        elements: how many elements of the tensor differ.
    """

    name: str
    index: tuple[int, ...]
    expected: float
    actual: float
    elements: int

    def __str__(self) -> str:
        return (
            f"'{self.name}' at {list(self.index)}: expected {self.expected:.9g}, got {self.actual:.9g}"
            f" ({self.elements} elements differ)"
        )


@dataclass(frozen=True, slots=True, repr=False)
class EquivalenceReport(Summarized):
    """The result of a comparison.

    Attributes:
        passed: the networks compute the same function, and the comparison could have failed: `verdict` is "same".
        bitwise_equal: outputs equal to the last bit (and every node, where nodes were compared).
        max_abs, max_rel: largest difference of the outputs; relative to the largest magnitude of an output.
        vacuous: no reference output proves anything: the finite values of each are constant.
        nodes: the number of nodes that were compared (0: outputs only).
        first_difference: the first node that differs, or None.
        tolerance: the bound on `max_rel`; 0 means bitwise.
        rounding: the original's own relative rounding error, where it was measured.
        seconds: the time of the comparison.
        verdict: "same", "different", "vacuous", or "cannot tell": the tolerance for the original's own rounding is
            above `bound`, and float64 did not decide either.
        bound: the tolerance above which a comparison cannot detect a wrong network (see `compare.largest_tolerance`).
        float64: float64 copies of both networks decided; then `max_abs`, `max_rel` and `tolerance` are theirs.
        constant_outputs: the outputs (tensors) whose finite values are constant in the original.
        different_output: the first output that differs and is no floating-point tensor: an integer or boolean tensor, a
            number, a text.
        parameters: the number of parameters and buffers of an emitted network that were compared with
            `original * scales(cob)`.
        wrong_parameter: the first of them that differs, or None.
        exercised: the share of the original's parameter elements with a non-zero gradient, on these inputs, of the sum
            of all outputs with random weights. The outputs do not depend on the others, to first order. None where
            there is no such gradient (outputs of integers, operations without a derivative).
        epsilon_gap: for a plan with `norms="scaled"`, the largest difference of the outputs as they are, relative to
            the largest magnitude of an output; the rest of the report is about a copy with restored epsilons. None for
            any other plan.
        underflows: the number of elements that lost bits because the CoB takes them below the smallest normal number of
            their format; later nodes were compared with the original run on the remaining bits. Counted where it made a
            difference.
        node_errors: by node, the largest difference from `original * tau` relative to the node's largest value; empty
            where no nodes were compared, or one differed. Not in `as_dict`.
    """

    passed: bool
    bitwise_equal: bool
    max_abs: float
    max_rel: float
    vacuous: bool
    nodes: int
    first_difference: Difference | None
    tolerance: float
    rounding: float | None
    seconds: float
    verdict: Verdict = "same"
    bound: float | None = None
    float64: bool = False
    constant_outputs: tuple[str, ...] = ()
    different_output: str | None = None
    parameters: int = 0
    wrong_parameter: TensorDifference | None = None
    exercised: float | None = None
    epsilon_gap: float | None = None
    underflows: int = 0
    node_errors: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def cannot_tell(self) -> bool:
        """The original's own rounding is too large to distinguish a wrong network from a right one."""
        return self.verdict == "cannot tell"

    def __repr__(self) -> str:
        from fxteleport.verify.in_words import sentence

        return f"EquivalenceReport({self.verdict}: {sentence(self)})"

    def facts(self) -> list[tuple[str, str]]:
        """The result in words."""
        from fxteleport.verify.in_words import notes, sentence

        result = "same function" if self.passed else self.verdict
        lines = [(result, sentence(self)), *(("", note) for note in notes(self))]
        return [*lines, ("seconds", f"{self.seconds:.1f}")]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {name: value for name, value in asdict(self).items() if name != "node_errors"}
