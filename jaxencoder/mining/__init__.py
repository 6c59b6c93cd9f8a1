"""Hard-negative mining: texts that a model finds similar to a query but that do not answer it."""
