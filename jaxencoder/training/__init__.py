"""Training: the optimiser, the pure step, the loop that does the I/O, checkpoints and telemetry."""
