"""A plan: a model and example inputs in; what may move, and how to move it, out.

`plan.py` is the door; `cob.py` holds the values of a change of basis, `teleported_point.py` weights as a function of
them. `model_snapshot.py` and `fingerprint.py` see whether a model is still what was planned.
"""
