"""Files: networks and changes of basis in and out of safetensors, also such as do not fit into memory.

Open `checkpoint.py` first.
"""
