"""Verification: a network, its teleported version and inputs in; a report of whether the two compute the same out.

Open `verify.py` first. `tolerance.py` and `decide.py` reach the verdict from the results of `compare.py` (outputs),
`stepping.py` (node by node) and `parameters.py`; `report.py` has the report.
"""

from fxteleport.verify.compare import Comparison, compare, difference, equal, is_vacuous
from fxteleport.verify.float64 import precise
from fxteleport.verify.outputs import paired
from fxteleport.verify.random_numbers import Draws
from fxteleport.verify.report import Difference, EquivalenceReport, TensorDifference
from fxteleport.verify.running import own_copy
from fxteleport.verify.stepping import NodeValue, in_step
from fxteleport.verify.tolerance import FLOAT64
from fxteleport.verify.undisturbed import evaluating, undisturbed
from fxteleport.verify.verify import verify

__all__ = [
    "FLOAT64", "Comparison", "Difference", "Draws", "EquivalenceReport", "NodeValue", "TensorDifference", "compare",
    "difference", "equal", "evaluating", "in_step", "is_vacuous", "own_copy", "paired", "precise", "undisturbed",
    "verify",
]  # fmt: skip
