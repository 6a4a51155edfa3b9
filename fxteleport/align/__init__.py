"""Alignment: a plan and two sets of weights in, the change of basis that maps one as near as it can to the other out.

Open `align.py` first. Magnitudes and signs have closed forms; `descent.py` goes on from there.
"""
