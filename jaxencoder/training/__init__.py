"""Training: the pure step, the loop around it, optimizers, schedules and telemetry."""
