"""Multi-vector embeddings (late interaction): a vector for each token, so that texts are compared token by token."""
