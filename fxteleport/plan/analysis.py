"""The analysis of a model: the results of the passes, and what follows from them for every change of basis.

These are the data of a plan. The functions of this folder take an analysis; `plan.py` adds them to it as methods.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fxteleport.arguments import kind
from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.constrain.constrain import Constrained
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.domain.solution import Array, Solution
from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.conditions import Condition
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rewrite.sides import Sides, settle
from fxteleport.passes.scale import format_range
from fxteleport.passes.scale.recipe import Prepared, Recipe, recipe
from fxteleport.plan.model_snapshot import ModelSnapshot
from fxteleport.plan.planned_model import PlannedModel

Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional inputs, and those by name


@dataclass
class Caches:
    """Caches of a plan. No result depends on them.

    Attributes:
        scaling: for `apply_`: the planned model's tensors, and blocks of them with views of their factors.
        warned: the warning that lists the plan's conditions was given.
    """

    scaling: tuple[ModelSnapshot, Prepared] | None = None
    warned: bool = False


def require_plan(value: object) -> None:
    """Raise InputError for anything but a plan."""
    if not isinstance(value, Analysis):
        raise InputError(f"a plan is needed, and this is {kind(value)}: make one with fxteleport.plan(model, *inputs)")


@dataclass(frozen=True, eq=False, repr=False)
class Analysis:
    """The captured graph of a model, the CoB map of every value, and the solution of the constraints on them.

    Attributes:
        mode, norm_stats: the arguments of `fxteleport.plan`.
        planned: what the plan assumes of its model.
        seconds: wall-clock time of each pass; `rewrite` adds that of its last run.
        data_guards, norms, cached, calls: the arguments of `fxteleport.plan`.
        checks: whether `check_graph` runs after each pass.
    """

    captured: Captured
    constrained: Constrained
    solution: Solution
    mode: str
    norm_stats: str
    planned: PlannedModel
    seconds: dict[str, float]
    checks: bool = False
    data_guards: bool = True
    norms: str = "exact"
    cached: str | tuple[str, ...] = "pinned"
    calls: tuple[Call, ...] = ()
    caches: Caches = field(default_factory=Caches)

    @property
    def num_free(self) -> int:
        """The number of independent CoB values."""
        return self.solution.num_free

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the model's parameters (names, shapes) and of the solution."""
        others: Any = (("exact", self.norms), ("pinned", self.cached))
        said = "".join(f" {value}" for default, value in others if value != default)
        sha = hashlib.sha256(f"{self.mode} {self.norm_stats} {self.num_free}{said}".encode())
        for name, tensor in self.captured.metas.items():
            sha.update(f"{name}{tuple(tensor.shape)}".encode())
        for array in (self.solution.index, self.solution.exponent, self.solution.many_index, self.solution.allows):
            sha.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        return sha.hexdigest()[:32]

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What the plan assumes: branches, numbers, the structure of inputs, modes (see `Condition`).

        With none, the function is kept on every input that the model takes. Else an emitted network refuses inputs that
        violate a condition that a run can check; weights in the original class have no guards.
        """
        of_rules = self.constrained.conditions
        moved = (c for c in of_rules if c.kind != "norm" or self.scaled_norms[c.node].before is not None)
        return (*self.captured.conditions, *moved)

    def map_of(self, node: str) -> CobMap | Any:
        """The CobMap of a node's value (or the structure of them), by the node's name."""
        cob_map = next((m for n, m in self.constrained.maps.items() if n.name == node), None)
        if cob_map is None:
            raise InputError(f"the graph has no node '{node}'")
        return cob_map

    def tensor_map(self, name: str) -> CobMap | None:
        """The CobMap of a parameter or buffer; None for one that the graph does not use."""
        return self.constrained.tensors.get(self.captured.canonical[name])

    @functools.cached_property
    def symbol_keys(self) -> Array:
        """A hash of every symbol's monomial (see `Solution.keys`)."""
        return self.solution.keys()

    @functools.cached_property
    def recipe(self) -> Recipe:
        """How to scale the model's tensors for any CoB."""
        maps = {name: cob_map for name in self.captured.metas if (cob_map := self.tensor_map(name)) is not None}
        shapes = {name: t.shape for name, t in self.captured.metas.items()}
        return recipe(maps, shapes, self.solution.place, self.solution.half)

    @functools.cached_property
    def sides(self) -> dict[str, Sides]:
        """The nodes that may be wrapped, with the CoBs of their wraps."""
        return settle(self.constrained.wraps, self.solution)

    @functools.cached_property
    def scaled_norms(self) -> dict[str, Sides]:
        """The norms with fixed epsilons (`norms="scaled"`); `before` is None where the input cannot have a factor."""
        return settle(self.constrained.scaled, self.solution)

    @functools.cached_property
    def operation_cobs(self) -> dict[str, tuple[CobMap, torch.dtype]]:
        """The CoBs that wraps divide or multiply by (except signs), and their number formats."""
        cobs = {}
        for node, wrap in self.constrained.wraps.items():
            dtype = info(wrap.source(node)).value.dtype
            for end, cob_map in (("input", wrap.before), ("output", wrap.after)):
                if cob_map is not None and wrap.part != "sign":
                    cobs[f"{node.name}, its {end}"] = cob_map, dtype
        return cobs

    @functools.cached_property
    def degree(self) -> int:
        """The largest number of free values of which a factor is a product."""
        maps = [self.constrained.tensors[self.captured.canonical[n]] for n in self.recipe.factors]
        maps += [cob_map for cob_map, _ in self.operation_cobs.values()]
        return max((format_range.map_degree(m, self.solution) for m in maps), default=0)
