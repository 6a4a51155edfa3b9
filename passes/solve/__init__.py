"""Solve: a system of equations in, for every symbol whether it is free, a product of free ones, or pinned (`Solution`).

Equal symbols are joined first (`union_find.py`), what is left is eliminated row by row (`elimination.py`).
Imports `domain`. Open `solve.py` first.
"""
