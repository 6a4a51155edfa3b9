"""Scale: maps, values of the free symbols and weights in, scaled weights out.

`recipe.py` says which factors a tensor is multiplied by; the other files multiply in one pass over the memory, on the
CPU (numba) and on a GPU (Triton). Imports `domain`. Open `recipe.py` first.
"""
