"""Constrain: a captured graph in, the map of every node and the system of equations between their symbols out.

`sizing.py` first makes a polynomial of every size that the graph computes with; `interpreter.py` then visits each node
once and asks its rule (`rule_application.py`). Imports `capture` and `rules`. Open `constrain.py` first.
"""
