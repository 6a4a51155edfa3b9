"""Explanations: a plan in; its neuron groups, why their members go together, and which tensors they scale out.

Open `groups.py` first.
"""
