"""Files: networks and changes of basis in and out of safetensors, also checkpoints larger than memory.

Open `checkpoint.py` first.
"""
