"""Benchmarks: one file for each measure; all are ratios within one run."""
