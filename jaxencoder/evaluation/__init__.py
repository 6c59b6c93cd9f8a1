"""Metrics of runs and published models: reports, calibration, slices, significance, published sets, suites."""
