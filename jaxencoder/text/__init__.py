"""Text to batches: tokenizers, sources, windows, packing of rows, the row store and batches; imports no model."""
