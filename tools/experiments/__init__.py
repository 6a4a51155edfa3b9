"""The paper's experiments: one file an experiment, each with its verdict; `experiment.py` is what they share."""
