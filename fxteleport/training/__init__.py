"""Teleporting while training: a network and its optimiser in, both at another place, computing the same, out.

Open `teleportable.py` first.
"""
