"""Constrain: a captured graph in, the map of every node and the system of equations between their symbols out.

`sizing.py` first expresses every size that the graph computes with as a polynomial; `interpreter.py` then visits each
node once and applies its rule (`rule_application.py`). Imports `capture` and `rules`. Open `constrain.py` first.
"""
