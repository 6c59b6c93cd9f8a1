"""Metrics of runs and of published models: reports, calibration, slices, significance, published sets."""
