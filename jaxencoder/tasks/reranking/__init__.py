"""Reranking: how well each document of a list answers a query, read together with it (cross-encoders)."""
