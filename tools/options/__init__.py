"""Options of the commands, as dataclasses with their help texts; `common.py` has those that several share."""
