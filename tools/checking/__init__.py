"""The equivalence check: models and options in, a record for each model out (`records.py`), printed or as JUnit XML."""
