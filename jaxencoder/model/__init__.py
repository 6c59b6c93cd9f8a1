"""The encoder and its heads: Flax Linen modules that are pure functions of (parameters, arrays)."""
