"""The equivalence check: models and options in, one record a model out (`records.py`), printed or as JUnit XML."""
