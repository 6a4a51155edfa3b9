"""Meta evaluation: runs one operation during capture, without touching a weight.

Activations and weights are meta tensors; constants (which depend on neither an input nor a parameter) keep their real
values, so that index tables and branches on shapes are known. An operation that fails on meta tensors (its output shape
depends on data) is run once on invented data, and its value is a guess (`Trust.GUESS`): no branch may depend on it.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.utils import _pytree as pytree

from fxteleport.passes.capture import meta_fast_paths
from fxteleport.passes.capture.control_flow import CannotRun, DataDependent, WrittenConstant
from fxteleport.passes.capture.meta_values import CPU, META, MetaValues, to_meta, tree_map
from fxteleport.passes.graph.contents import contents_in
from fxteleport.passes.graph.leaf_modules import has_parameters
from fxteleport.passes.graph.node_info import Trust
from fxteleport.passes.graph.ops import call_of, leaves_of

# Methods that move a tensor to a device; a meta tensor stays.
_DEVICE_METHODS = frozenset({"cpu", "cuda", "xpu", "mps"})
_SURE = frozenset({"_operator", "math", "builtins"})  # modules whose functions draw no random numbers


class Evaluator:
    """Evaluates calls on meta tensors and constants.

    Attributes:
        values: what is known of the meta tensors.
    """

    def __init__(self) -> None:
        self.values = MetaValues()

    def run(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        real: Callable[..., Any] | None = None,
    ) -> tuple[Any, Trust]:
        """The value of one call, and what may be concluded from it.

        It is meta if any argument is meta, else real (and on the CPU).

        Args:
            real: runs on real tensors where `target` cannot: a module with its weights.

        Raises:
            CannotRun: the call fails on meta tensors and on invented real ones.
        """
        fn = call_of(op, target)
        if target is operator.getitem and not isinstance(args[0], Tensor):
            return fn(*args), Trust.KNOWN  # the item itself, on whatever device
        leaves = leaves_of((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        weights = op == "call_module" and has_parameters(target)
        on_meta = weights or any(t.is_meta for t in tensors)
        if on_meta and op == "call_method" and target in _DEVICE_METHODS:
            return args[0], Trust.KNOWN
        mixed = on_meta and not all(t.is_meta for t in tensors)
        state = None if on_meta or getattr(target, "__module__", None) in _SURE else torch.get_rng_state()
        devices = any(isinstance(x, torch.device) for x in leaves) or "device" in kwargs or target == "type"
        here = META if on_meta else CPU
        given = (args, kwargs)
        if mixed or devices:
            args, kwargs = tree_map(lambda x: self._placed(x, here), given)
            if kwargs.get("device") is not None:
                kwargs["device"] = here
        placed = leaves_of((args, kwargs)) if mixed else ()  # before the call, which may change a list
        try:
            for known in (meta_fast_paths.known, meta_fast_paths.in_place):
                if (form := known(target, args, kwargs)) is not None:
                    return form, Trust.KNOWN
            value = fn(*args, **kwargs)
            if any(a is not b and isinstance(a, Tensor) and a._version for a, b in zip(placed, leaves, strict=False)):
                raise WrittenConstant("what depends on an input is written into a tensor made from none")
            if state is not None and not torch.equal(state, torch.get_rng_state()):
                value = _undrawn(value, tensors, state)
            if self.values.has_examples and any(map(self.values.has_example, tensors)):
                self._remember(value, fn, given)
            return value, Trust.KNOWN
        except (DataDependent, WrittenConstant, RecursionError):
            raise
        except Exception as error:
            if mixed:  # the values of a real index may decide the shape
                try:
                    return fn(*given[0], **given[1]), Trust.KNOWN
                except Exception:
                    pass
            return self.run_for_real(real or fn, given, error)

    def _placed(self, x: Any, device: torch.device) -> Any:
        if isinstance(x, torch.device):
            return device
        if isinstance(x, str) and x.startswith("torch.") and x.endswith("Tensor"):  # the type of a tensor on a device
            return f"torch.{'meta.' if device is META else ''}{x.rpartition('.')[2]}"
        if isinstance(x, Tensor) and x.device != device:
            return self.values.constant(x) if device is META else x.to(device)
        return x

    def run_for_real(self, fn: Callable[..., Any], arguments: tuple[Any, Any], error: Exception) -> tuple[Any, Trust]:
        """Run the call on invented data of the arguments' shapes; floating-point results become meta tensors.

        Integers keep the example's values where these are known.

        It runs on random numbers and on zeros: some code fails on one of these, and where the structures of the results
        (the length of a list) differ, they depend on the data. Integers that may not be zero (lengths) are tried as
        ones.

        Raises:
            CannotRun: it fails on all of them, or a module on the meta device has no real weights to run with.
        """
        results: list[Any] = []
        written: dict[int, Tensor] = {}
        for fill, integer in ((torch.randn, 0), (torch.zeros, 0), (torch.randn, 1)):
            if integer and results:
                break
            with contextlib.suppress(Exception):
                args, kwargs = tree_map(functools.partial(self.values.made_up, fill, integer=integer), arguments)
                before = contents_in((args, kwargs))
                results.append(fn(*args, **kwargs))
                for given, now in zip(contents_in(arguments), before, strict=True):
                    if now.changed():
                        given.container.clear()
                leaves = zip(leaves_of(arguments), leaves_of((args, kwargs)), strict=False)
                written |= {id(x): x for x, made in leaves if isinstance(x, Tensor) and made._version}
        for tensor in written.values():
            if not tensor.is_meta:
                raise WrittenConstant(
                    "what cannot run on tensors without values writes into a tensor made from no input"
                )
            increment_version(tensor)
        if not results:
            raise CannotRun(f"{type(error).__name__}: {error}") from error
        ragged = len({str(pytree.tree_structure(r)) for r in results}) > 1
        worth = Trust.EXAMPLE if all(map(self.values.is_at_hand, leaves_of(arguments))) else Trust.GUESS
        return tree_map(to_meta, results[0]), Trust.RAGGED if ragged else worth

    def _remember(self, value: Any, fn: Callable[..., Any], arguments: tuple[Any, Any]) -> None:
        """Give results of integers alone their example's values, since lengths and indices must fit later calls."""
        results = leaves_of(value)
        tensors = [x for x in (*leaves_of(arguments), *results) if isinstance(x, Tensor)]
        if any(t.is_floating_point() for t in tensors):
            return
        with contextlib.suppress(Exception):
            args, kwargs = tree_map(functools.partial(self.values.made_up, torch.zeros), arguments)
            for x, example in zip(results, leaves_of(fn(*args, **kwargs)), strict=True):
                if isinstance(x, Tensor):
                    self.values.remember(x, example)


def _undrawn(value: Any, tensors: Sequence[Tensor], state: Tensor) -> Any:
    """The result of a call that drew random numbers, as meta tensors: the next run draws others."""
    torch.set_rng_state(state)
    if any(x is t for x in leaves_of(value) for t in tensors):
        raise WrittenConstant("random numbers are written into a tensor made from no input")
    return tree_map(lambda x: x.to(META) if isinstance(x, Tensor) else x, value)
