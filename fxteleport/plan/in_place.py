"""Scale a model's own parameters in place, by a change of basis of mode "weights".

Experiments scale the planned model many times: its tensors, in blocks with their factors, are cached in the plan until
a snapshot shows that something was replaced.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxteleport.arguments import require_module
from fxteleport.checked import checked
from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.dtensor import local, put_back
from fxteleport.passes.scale import row_column_scaling
from fxteleport.passes.scale.recipe import Prepared
from fxteleport.plan.analysis import Analysis
from fxteleport.plan.cob import ChangeOfBasis, require_cob
from fxteleport.plan.copies import require_own_tensors
from fxteleport.plan.free_values import check
from fxteleport.plan.model_snapshot import ModelSnapshot
from fxteleport.plan.number_formats import has_room, require_range
from fxteleport.plan.unguarded import admit
from fxteleport.plan.weights import matching_tensors


@checked
def apply_(plan: Analysis, cob: ChangeOfBasis, model: nn.Module | None = None, strict: bool = False) -> nn.Module:
    """Scale the parameters of the planned model (or of a copy of it) in place and return it.

    Of sharded parameters (DTensor: FSDP2, tensor parallelism) every process scales its own shards, without
    communication; all processes must pass the same CoB.

    The model's own class has no guards: the first time, a ConditionWarning lists the plan's conditions, if any.

    Raises:
        InputError: the plan's mode is not "weights".
        ConditionError: `strict`, and the plan has conditions; nothing was changed.
        CobError: the CoB is not valid for this plan, or would push weights out of their number format; then nothing
            was changed.
        ModelError: the model differs from the planned one (parameters, ties, modules, settings, index buffers), is a
            copy whose code reads the planned model's tensors, or has parameters sharded as partial sums; nothing was
            changed.
    """
    if plan.mode != "weights":
        raise InputError("apply_ changes parameters only, which keeps the function in mode='weights': plan again")
    require_cob(cob)
    if model is not None:
        require_module(model)
    admit(plan, strict)
    if model is None or model is plan.captured.model:
        _scale_planned_(plan, cob)
        return plan.captured.model
    _scale_copy_(plan, cob, model)
    return model


def _scale_copy_(plan: Analysis, cob: ChangeOfBasis, model: nn.Module) -> None:
    numbers = _numbers(plan, cob)
    put_back(model)
    snapshot = ModelSnapshot(model)
    prepared = _prepare(plan, snapshot)
    plan.planned.require(model, itself=False)
    require_own_tensors(plan.captured, plan.planned.moving, model)
    _require_room(plan, cob, snapshot, prepared)
    prepared.scale_(numbers)


def _scale_planned_(plan: Analysis, cob: ChangeOfBasis) -> None:
    known = plan.caches.scaling
    numbers = _numbers(plan, cob, known[1].device if known else row_column_scaling.CPU)
    if known is not None:
        known[1].look_up(numbers)  # a GPU does it while the snapshot is checked
    if known is None or not known[0].is_current():
        model = plan.captured.model
        put_back(model)
        plan.planned.require(model)
        snapshot = ModelSnapshot(model, plan.recipe.factors, plan.planned)
        known = plan.caches.scaling = snapshot, _prepare(plan, snapshot)
        known[1].look_up(numbers)
    _require_room(plan, cob, *known)
    known[1].multiply_()


def _prepare(plan: Analysis, snapshot: ModelSnapshot) -> Prepared:
    """The tensors that a model holds on this device, with their factors."""
    tensors, positions = local(matching_tensors(plan.captured, snapshot.tensors))
    recipe = plan.recipe.part(positions) if any(positions.values()) else plan.recipe
    return recipe.prepare(tensors)


def _require_room(plan: Analysis, cob: ChangeOfBasis, snapshot: ModelSnapshot, prepared: Prepared) -> None:
    if not has_room(plan, prepared.dtypes, cob):
        require_range(plan, cob, snapshot.tensors)


def _numbers(plan: Analysis, cob: ChangeOfBasis, device: torch.device = row_column_scaling.CPU) -> Tensor:
    """The numbers of a valid CoB, in one compiled pass if possible; for an invalid one `check` raises."""
    values = cob.values.detach()
    if cob.fingerprint == plan.fingerprint and values.shape == (plan.num_free,) and not len(plan.solution.many):
        numbers = row_column_scaling.numbers(values, plan.solution.lowest, device)
        if numbers is not None:
            return numbers
    check(plan, cob)
    return plan.solution.numbers(values)
