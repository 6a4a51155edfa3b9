"""The paper's experiments: each a grid of independent runs, a measurement, a verdict and a figure."""
