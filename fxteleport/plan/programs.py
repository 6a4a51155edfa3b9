"""Exported programs (`torch.export.ExportedProgram`): planned as modules; rewriting one gives a program again.

A program has example inputs of its own, and says which of their sizes are symbols. The teleported one has the same
signature, parameters, buffers, symbols and ranges, and the same dialect (core ATen, if the program was decomposed).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils import _pytree as pytree

from fxteleport.passes.errors import ModelError
from fxteleport.passes.graph.node_info import exported_value
from fxteleport.passes.rewrite.teleported_network import TELEPORTATION
from fxteleport.plan import emission, in_place
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import Plan, made


@dataclass(frozen=True, eq=False, repr=False)
class ProgramPlan(Plan):
    """The plan of an exported program, which emits programs."""

    program: ExportedProgram = field(kw_only=True)

    def rewrite(self, cob: ChangeOfBasis) -> ExportedProgram:  # type: ignore[override]
        """The teleported program; the planned one is not touched.

        Raises:
            CobError: the CoB is not valid for this plan, or would push weights out of their number format.
            ModelError: the program is on the meta device, has changed since it was planned, or cannot be exported
                again.
        """
        network = emission.rewrite(self, cob)
        program = exported(self.program, network)
        module = program.graph_module
        module.meta[TELEPORTATION] = network.meta[TELEPORTATION]
        return program

    def apply_(  # type: ignore[override]
        self, cob: ChangeOfBasis, model: ExportedProgram | None = None, strict: bool = False
    ) -> ExportedProgram:
        """Scale the parameters of the planned program (or of a copy of it) in place; returns it. See `Plan.apply_`."""
        in_place.apply_(self, cob, None if model is None else module_of(model), strict)
        return self.program if model is None else model


def plan_program(
    program: ExportedProgram,
    mode: str,
    norm_stats: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    checks: bool,
    data_guards: bool,
    norms: str = "exact",
) -> ProgramPlan:
    """Plan a program, on its own inputs unless others are given."""
    if not (args or kwargs):
        args, kwargs = inputs_of(program)
    kind = functools.partial(ProgramPlan, program=program)
    return made(kind, module_of(program), mode, norm_stats, args, kwargs, checks, data_guards, norms)


def module_of(program: ExportedProgram) -> nn.Module:
    """The module of a program, on the program's own tensors."""
    return program.module()  # type: ignore[no-any-return]


def inputs_of(program: ExportedProgram) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs that a program was exported with; where it does not keep them, zeros like them."""
    if program.example_inputs is not None:
        args, kwargs = program.example_inputs
        return tuple(args), dict(kwargs)
    leaves = [_like(value) for value in _user_inputs(program)]
    args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    return tuple(args), dict(kwargs)


def exported(program: ExportedProgram, network: nn.Module) -> ExportedProgram:
    """Export a network that was emitted for a program, with the program's signature, sizes and dialect.

    Raises:
        ModelError: torch.export fails.
    """
    args, kwargs = inputs_of(program)
    plain = _as_code(network)
    given, symbols = pytree.tree_leaves((args, kwargs)), _user_inputs(program)
    for named in (True, False):  # export may relate named symbols in another way: then it chooses the symbols
        sizes = ShapesCollection()
        for tensor, value in zip(given, symbols, strict=True):
            if isinstance(tensor, torch.Tensor) and (free := _free_sizes(program, value, named)):
                sizes[tensor] = free
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shapes = sizes.dynamic_shapes(plain, args, kwargs)
                anew = torch.export.export(plain, args, kwargs, dynamic_shapes=shapes)
                return anew.run_decompositions() if _is_decomposed(program) else anew
        except Exception as error:
            if not named:
                raise ModelError(
                    "the teleported network does not export with the program's inputs"
                    f" ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]}): plan program.module()"
                    " instead of the program, which gives a module"
                ) from error
    raise AssertionError


def _as_code(network: nn.Module) -> nn.Module:
    """A network as a plain module: torch.export runs graphs in an interpreter, which returns other containers.

    It holds the network's own parameters, buffers and modules, under their names.
    """
    code = nn.Module()
    code.__dict__.update({name: vars(network)[name] for name in _TABLES})
    code.training = network.training
    code.forward = network.forward
    return code


_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def _user_inputs(program: ExportedProgram) -> list[Any]:
    """A program's values for its inputs, in order: fake tensors, symbolic numbers, plain values."""
    values = {node.name: exported_value(node) for node in program.graph.nodes if node.op == "placeholder"}
    specs = [
        s for s in program.graph_signature.input_specs if s.kind is torch.export.graph_signature.InputKind.USER_INPUT
    ]
    return [values.get(s.arg.name, getattr(s.arg, "value", None)) for s in specs]


def _like(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.zeros([_hint(n) for n in value.shape], dtype=value.dtype, device=value.device)
    return _hint(value)


def _hint(number: Any) -> Any:
    return number.node.hint if isinstance(number, (torch.SymInt, torch.SymFloat, torch.SymBool)) else number


def _free_sizes(program: ExportedProgram, value: Any, named: bool) -> dict[int, Any]:
    """The axes of an input whose sizes are symbols, each as `torch.export` takes it."""
    if not isinstance(value, torch.Tensor):
        return {}
    sizes: Sequence[Any] = value.shape
    symbolic = {axis: n.node.expr for axis, n in enumerate(sizes) if isinstance(n, torch.SymInt)}
    return {axis: _dim(program, expr) if named else Dim.DYNAMIC for axis, expr in symbolic.items() if expr.free_symbols}


def _dim(program: ExportedProgram, expr: Any) -> Any:
    """A size as a `Dim`: a symbol with its range, or a linear expression of one."""
    symbols = list(expr.free_symbols)
    if len(symbols) != 1 or not (expr.is_polynomial(symbols[0]) and expr.as_poly(symbols[0]).degree() == 1):
        return Dim.DYNAMIC
    (symbol,) = symbols
    bounds = program.range_constraints.get(symbol)
    low, high = (None, None) if bounds is None else (_bound(bounds.lower), _bound(bounds.upper))
    dim = Dim(str(symbol), min=low, max=high)
    factor, more = (int(n) for n in expr.as_poly(symbol).all_coeffs())
    multiple = dim if factor == 1 else factor * dim
    return multiple + more if more else multiple


def _bound(value: Any) -> int | None:
    return int(value) if value.is_Integer else None  # infinity is no bound


def _is_decomposed(program: ExportedProgram) -> bool:
    """True for a program of core ATen operators, as `run_decompositions` gives it."""
    return all(verifier.dialect == "ATEN" for verifier in program.verifiers)
