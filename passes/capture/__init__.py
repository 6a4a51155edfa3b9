"""Capture: a module and example inputs in, an fx graph with a described value at every node out (`Captured`).

The model's own `forward` runs on proxies that carry the values of their nodes. Imports `graph` only.
Open `capture.py` first, then `tracer.py`.
"""
