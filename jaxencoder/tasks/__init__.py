"""Measuring a run: predictions and metrics on held-out data."""
