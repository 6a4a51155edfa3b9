"""The user's batch norms that read their mode only as torch's batch norm does: they count as layers.

The answer is cached for each class and its settings (the number of channels excepted), across models.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fxteleport.passes.capture.graph_equality import alike
from fxteleport.passes.capture.leaf_bodies import LeafBodies
from fxteleport.passes.capture.leaf_table import LeafTable
from fxteleport.passes.capture.recording_mode import unrecorded
from fxteleport.passes.graph.module_clone import PATH, modules_of, path_of


@unrecorded
def alike_in_both(bodies: LeafBodies, leaves: LeafTable, shadow: nn.Module, args: Any, kwargs: Any) -> bool:
    """True for a batch norm whose forward makes the same calls in both modes, but for those that torch's layer makes.

    Args:
        shadow: the shadow of the user's batch norm.
        args, kwargs: the arguments of its call.
    """
    norm = leaves.real(path_of(shadow))
    key: Any = tuple(
        [(type(m), *[x for x in vars(m).items() if x[0] not in _OTHER]) for m in modules_of(norm).values()]
    )
    try:
        hash(key)
    except TypeError:
        key = (repr(key),)
    if key not in _KNOWN:
        try:
            evaluated, trained = bodies.of(norm, args, kwargs, (False, True))
        except Exception:
            answer = False
        else:
            answer = alike(evaluated, trained, {}, {})
        while len(_KNOWN) >= _MOST:
            del _KNOWN[next(iter(_KNOWN))]
        _KNOWN[key] = answer
    return _KNOWN[key]


_KNOWN: dict[Any, bool] = {}
_MOST = 256
_OTHER = frozenset(vars(nn.Module())) | {"num_features", PATH}
