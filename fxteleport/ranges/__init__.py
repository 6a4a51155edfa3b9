"""Ranges: changes of basis that make numbers fit their format, with the same function.

A plan and the weights go in, a change of basis comes out. Open `equalize.py` first.
"""
