"""Places on a loss surface: weights in; curvature, profiles, objectives to descend, and controls to compare with out.

Open `optimize.py` first, which makes an objective small over changes of basis.
"""
