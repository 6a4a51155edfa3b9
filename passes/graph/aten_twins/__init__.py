"""The twins of ATen operators whose name or arguments differ from those of torch's functions.

What goes in: the arguments of an operator's schema, under its names. What comes out: the same in torch's functions,
those that run the same kernel, so that no bit differs. Open `registry.py` first.
"""

from fxteleport.passes.graph.aten_twins import layers, measures, movement, pointwise, sizes
from fxteleport.passes.graph.aten_twins.registry import TWINS, Beside

__all__ = ["TWINS", "Beside", "layers", "measures", "movement", "pointwise", "sizes"]
