"""Sparse embeddings: vectors over the vocabulary, for search by weighted words (SPLADE)."""
