"""Similarities of vectors: cosine, dot product, and negative Euclidean and Manhattan distances.

Which one a model was trained for is in its folder, as `SentenceConfig.similarity`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.sentence import Similarity


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., D] scaled to length 1; zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def similarity_matrix(similarity: Similarity, queries: jax.Array, vectors: jax.Array) -> jax.Array:
    """The similarities [Q, N] of queries [Q, D] and vectors [N, D]; for "cosine" both have length 1."""
    if similarity in ("cosine", "dot"):
        scores = jnp.einsum("QD,ND->QN", queries, vectors, precision=jax.lax.Precision.HIGHEST)
        return jnp.clip(scores, -1, 1) if similarity == "cosine" else scores
    differences = queries[:, None] - vectors  # [Q, N, D], which XLA fuses with the sum
    if similarity == "manhattan":
        return -jnp.abs(differences).sum(-1)
    return -jnp.sqrt(jnp.square(differences).sum(-1))


def pair_similarities(similarity: Similarity, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The similarities float64 [N] of the vectors a [N, D] and b [N, D], row by row."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    match similarity:
        case "cosine":
            return np.einsum("ND,ND->N", unit(a), unit(b))
        case "dot":
            return np.einsum("ND,ND->N", a, b)
        case "euclidean":
            return -np.linalg.norm(a - b, axis=-1)
        case "manhattan":
            return -np.abs(a - b).sum(-1)
