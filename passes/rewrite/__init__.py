"""Rewrite: a captured graph, its maps and a change of basis in, a network that computes the same function out.

Operations whose result would change are wrapped (`wraps.py`) by the modules of `teleported_modules.py`, norms with a
scaled input get another epsilon (`own_epsilon.py`), and the others are unchanged. Imports all other passes.
Open `rewrite.py` first.
"""
