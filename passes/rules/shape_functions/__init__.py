"""Shape functions: the axes of a result as sizes, one function for each family of operations.

What goes in: the call of an operation, with a `Sized` for each tensor. What comes out: the sizes of the result (a list
of them for several), in terms of its operands' sizes; None where they are not known. A rule names its shape function by
`@rule(..., shape=shape_functions.NAME)`. Open `sized.py` first.
"""

from fxteleport.passes.rules.shape_functions.creation import made, ranged
from fxteleport.passes.rules.shape_functions.elementwise import (
    OF_INPUTS,
    all_broadcast,
    broadcast,
    copied,
    copied_along,
    reduced,
    resampled,
    same,
)
from fxteleport.passes.rules.shape_functions.indexing import getitem
from fxteleport.passes.rules.shape_functions.joining import concatenated, padded, stacked
from fxteleport.passes.rules.shape_functions.layers import (
    attention_layer,
    convolution,
    embedding,
    grouped_linear,
    linear,
    recurrent,
)
from fxteleport.passes.rules.shape_functions.movement import moved
from fxteleport.passes.rules.shape_functions.products import attention, einsum, matmul
from fxteleport.passes.rules.shape_functions.sized import At, Repeated, Shape, Sized
from fxteleport.passes.rules.shape_functions.views import expanded, permuted, reshaped, restrided

__all__ = [
    "OF_INPUTS",
    "At",
    "Repeated",
    "Shape",
    "Sized",
    "all_broadcast",
    "attention",
    "attention_layer",
    "broadcast",
    "concatenated",
    "convolution",
    "copied",
    "copied_along",
    "einsum",
    "embedding",
    "expanded",
    "getitem",
    "grouped_linear",
    "linear",
    "made",
    "matmul",
    "moved",
    "padded",
    "permuted",
    "ranged",
    "recurrent",
    "reduced",
    "resampled",
    "reshaped",
    "restrided",
    "same",
    "stacked",
]
