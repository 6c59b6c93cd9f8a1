"""Embeddings: vectors of texts, trained so that similar texts have similar vectors."""
