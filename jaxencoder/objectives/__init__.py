"""Pretraining objectives: each maps (params, batch, key) to (loss, metrics)."""
