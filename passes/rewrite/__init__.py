"""Rewrite: a captured graph, its maps and a change of basis in, a network that computes the same function out.

Operations whose result would change are wrapped (`wraps.py`) by the modules of `teleported_modules.py`, norms take a
factor into their epsilon (`own_epsilon.py`), and the others stay as they are. Imports all other passes.
Open `rewrite.py` first.
"""
