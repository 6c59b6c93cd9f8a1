"""What an encoder is trained for: each objective turns (params, batch, key) into (loss, metrics)."""
