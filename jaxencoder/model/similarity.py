"""Similarities of vectors: cosine, dot product, and negative Euclidean and Manhattan distances.

Which one a model was trained for is in its folder, as `SentenceConfig.similarity`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from jaxencoder.model.sentence import Similarity
from jaxencoder.model.sparse import SparseVectors


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., D] scaled to length 1; zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def check_finite(vectors: Any, name: str = "vectors") -> Any:
    """The vectors, an array or csr_array, or numbers of another `name`; ValueError if not all are finite."""
    if not np.isfinite(vectors.data if sparse.issparse(vectors) else vectors).all():
        raise ValueError(f"the {name} hold numbers that are not finite: the model is damaged, or training diverged")
    return vectors


def similarity_matrix(similarity: Similarity, queries: jax.Array, vectors: jax.Array) -> jax.Array:
    """The similarities [Q, N] of queries [Q, D] and vectors [N, D]; for "cosine" both have length 1."""
    if similarity in ("cosine", "dot"):
        scores = jnp.einsum("QD,ND->QN", queries, vectors, precision=jax.lax.Precision.HIGHEST)
        return jnp.clip(scores, -1, 1) if similarity == "cosine" else scores
    differences = queries[:, None] - vectors  # [Q, N, D], which XLA fuses with the sum
    if similarity == "manhattan":
        return -jnp.abs(differences).sum(-1)
    return -jnp.sqrt(jnp.square(differences).sum(-1))


def sparse_similarities(similarity: Similarity, queries: SparseVectors, vectors: SparseVectors) -> np.ndarray:
    """The similarities [Q, N] of sparse queries [Q, D] and vectors [N, D] of any length."""
    if similarity == "manhattan":
        return -np.stack([abs(vectors - queries[[i] * vectors.shape[0]]).sum(1) for i in range(queries.shape[0])])
    if similarity == "euclidean":  # the difference of large numbers
        queries, vectors = queries.astype(np.float64), vectors.astype(np.float64)
    products = (queries @ vectors.T).toarray()
    if similarity == "dot":
        return products
    query_squares, squares = (x.power(2).sum(1) for x in (queries, vectors))
    if similarity == "cosine":
        lengths = np.sqrt(query_squares)[:, None], np.sqrt(squares)
        return np.clip(products / np.maximum(lengths[0], 1e-12) / np.maximum(lengths[1], 1e-12), -1, 1)
    return -np.sqrt(np.maximum(query_squares[:, None] + squares - 2 * products, 0))


def pair_similarities(similarity: Similarity, a: Any, b: Any) -> np.ndarray:
    """The similarities float64 [N] of the vectors a [N, D] and b [N, D], dense or both sparse, row by row."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if sparse.issparse(a):
        return _sparse_pair_similarities(similarity, a, b)
    match similarity:
        case "cosine":
            return np.einsum("ND,ND->N", unit(a), unit(b))
        case "dot":
            return np.einsum("ND,ND->N", a, b)
        case "euclidean":
            return -np.linalg.norm(a - b, axis=-1)
        case "manhattan":
            return -np.abs(a - b).sum(-1)


def _sparse_pair_similarities(similarity: Similarity, a: SparseVectors, b: SparseVectors) -> np.ndarray:
    match similarity:
        case "cosine":
            lengths = (np.sqrt(x.power(2).sum(1)) for x in (a, b))
            return a.multiply(b).sum(1) / np.prod([np.maximum(x, 1e-12) for x in lengths], axis=0)
        case "dot":
            return a.multiply(b).sum(1)
        case "euclidean":
            return -np.sqrt((a - b).power(2).sum(1))
        case "manhattan":
            return -abs(a - b).sum(1)
