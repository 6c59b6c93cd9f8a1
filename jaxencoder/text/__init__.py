"""Everything before an array reaches a device: tokenizers, sources, rows, the store and batches."""
