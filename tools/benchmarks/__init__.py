"""Benchmarks: one file a measure; each compares ratios within one run."""
