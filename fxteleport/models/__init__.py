"""Models to plan: built by name (`zoo.py`), without weights (`meta_init.py`), or with random ones (`randomize.py`)."""
