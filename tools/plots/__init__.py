"""Pictures: a teleportation in, a figure out. Needs matplotlib. Open `draw.py` first."""
