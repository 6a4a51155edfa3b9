"""Run a network on given inputs: its outputs, and the buffers that it writes to. The network is not changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxteleport.passes.capture.meta_values import tree_map
from fxteleport.passes.errors import ModelError, TeleportError
from fxteleport.verify.outputs import Outputs, outputs
from fxteleport.verify.undisturbed import is_same, memory_of, undisturbed


def own_copy(x: Any) -> Any:
    """A copy of inputs (tensors in any structure), for a network that may write into them."""
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, x)


def outputs_and_writes(call: Callable[..., Any], inputs: Any, keyword_inputs: Any) -> Outputs:
    """The results of a call, and the tensors among its inputs that it has written to, which the caller sees."""
    given = [(path, x) for path, x in outputs((inputs, keyword_inputs)).items() if isinstance(x, Tensor)]
    before = [x._version for _, x in given]
    result = outputs(call(*inputs, **keyword_inputs))
    written = {p: x for (p, x), version in zip(given, before, strict=True) if x._version != version}
    return result | {path.replace("output", "input", 1): x for path, x in written.items()}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a network: its outputs (inputs that it has written to included), and the buffers that it wrote to."""

    outputs: Outputs
    written: frozenset[str]


def run(network: nn.Module, inputs: Any, keyword_inputs: Any, weights: bool = True) -> Run:
    """Run a network, and undo all changes that its forward makes to it (see `undisturbed`).

    Raises:
        ModelError: it does not run on these inputs.
        GuardError: a guard of an emitted network refuses them.
    """
    before = dict(network.named_buffers(remove_duplicate=False))
    with undisturbed(network, weights=weights) as saved:
        result = outputs_and_writes(lambda *a, **k: _called(network, a, k), own_copy(inputs), own_copy(keyword_inputs))
        after = dict(network.named_buffers(remove_duplicate=False))
        written = {n for n, b in before.items() if after.get(n) is not b or not is_same(b, saved[id(b)][1])}
        held = {memory_of(t) for t, _ in saved.values()}
        own = {p: x.clone() if isinstance(x, Tensor) and memory_of(x) in held else x for p, x in result.items()}
    return Run(own, frozenset(written))


def _called(network: nn.Module, inputs: Any, keyword_inputs: Any) -> Any:
    try:
        return network(*inputs, **keyword_inputs)
    except TeleportError:
        raise
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0][:300]
        raise ModelError(
            f"the {type(network).__name__} does not run on these inputs: {type(error).__name__}: {said}"
        ) from error
