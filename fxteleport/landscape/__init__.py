"""The loss landscape: weights in; curvature, profiles of the loss, objectives to minimise, and controls out.

Open `optimize.py` first, which minimises an objective over changes of basis.
"""
