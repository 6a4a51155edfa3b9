"""The public names. `fxteleport` itself has them too, and imports this file when the first of them is used."""

from __future__ import annotations

from fxteleport.align.align import Alignment, align
from fxteleport.io.checkpoint import load, save
from fxteleport.io.checkpoint_tensors import checkpoint_tensors
from fxteleport.io.stream import stream
from fxteleport.landscape import baselines as controls
from fxteleport.landscape import curvature, landscapes, objectives
from fxteleport.landscape.optimize import Optimized, optimize
from fxteleport.models.meta_init import without_weights
from fxteleport.models.randomize import randomize
from fxteleport.passes.errors import (
    CaptureError,
    CheckpointError,
    CobError,
    ConditionError,
    ConditionWarning,
    GraphError,
    GuardError,
    InputError,
    ModelError,
    NothingFree,
    OpaqueModuleWarning,
    RuleError,
    TeleportError,
)
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.rewrite.teleported_modules import Operation, Rescale, TeleportedActivation
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import Plan, plan, teleport
from fxteleport.plan.teleported_point import Point
from fxteleport.ranges.equalize import Equalized, equalize, equalized
from fxteleport.ranges.fake_quantize import fake_quantize
from fxteleport.ranges.fit_range import fit_range
from fxteleport.ranges.fold_norms import Folded, fold_norms, folded_norms
from fxteleport.ranges.range_report import Range, RangeRow, range_report
from fxteleport.training.callback import Teleport, lightning_callback
from fxteleport.training.optimizer_state import transport
from fxteleport.training.teleportable import Teleportable
from fxteleport.verify import Difference, EquivalenceReport, verify

Plan.align, Plan.optimize = align, optimize  # as methods, too

__all__ = [
    "Alignment", "CaptureError", "ChangeOfBasis", "CheckpointError", "CobError", "Condition", "ConditionError",
    "ConditionWarning", "Difference", "Equalized", "EquivalenceReport", "Folded", "GraphError", "GuardError",
    "InputError", "ModelError", "NothingFree", "OpaqueModuleWarning", "Operation", "Optimized", "Plan", "Point",
    "Range", "RangeRow", "Rescale", "RuleError", "Teleport", "TeleportError", "Teleportable", "TeleportedActivation",
    "align", "checkpoint_tensors", "controls", "curvature", "equalize", "equalized", "fake_quantize", "fit_range",
    "fold_norms", "folded_norms", "landscapes", "lightning_callback", "load", "objectives", "optimize", "plan",
    "randomize", "range_report", "save", "stream", "teleport", "transport", "verify", "without_weights",
]  # fmt: skip
