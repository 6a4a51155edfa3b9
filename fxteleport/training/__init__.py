"""Teleporting while training: a network and its optimiser in; the same function with other weights and state out.

Open `teleportable.py` first.
"""
