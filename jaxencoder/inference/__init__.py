"""Using a trained encoder: embeddings, filled masks, search."""
