"""Options of the commands, as dataclasses with their help texts; `common.py` holds those that several share."""
