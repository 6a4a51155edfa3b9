"""Ranges: changes of basis that make numbers fit their format, while the function stays.

A plan and the weights go in, a change of basis comes out. Open `equalize.py` first.
"""
