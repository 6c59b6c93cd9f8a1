"""Regularization that spreads vectors over the space."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxencoder.model.sentence import Similarity
from jaxencoder.tasks.embeddings.vectors import Loss, check_choice, similarities, zero_absent

Aggregation = Literal["mean", "sum"]


def global_orthogonality(
    vectors: jax.Array,
    mask: jax.Array,
    *,
    similarity: Similarity = "cosine",
    mean_weight: float = 1.0,
    second_moment_weight: float = 1.0,
    aggregation: Aggregation = "mean",
) -> Loss:
    """Similarities of unrelated texts as of random directions: GlobalOrthogonalRegularizationLoss of ST, its sum.

    Zhang et al. 2017 (Spread-out Local Feature Descriptors), arXiv:1708.06320; in EmbeddingGemma, Schechter Vera et
    al. 2025, arXiv:2509.20354. Of the similarities of any two texts of a column: the square of their mean, and how far
    the mean of their squares exceeds 1 / D.

    Args:
        vectors: [N, C, D] of all examples of the global batch.
        mask: bool [N, C], False where an example has no such text.
        similarity: of two vectors.
        mean_weight: factor of the first term.
        second_moment_weight: factor of the second term.
        aggregation: of the columns; "mean" is over those that have a text.

    Returns:
        The loss of the batch, and 1; both are 0 without any text.

    Raises:
        ValueError: both weights are 0.
    """
    check_choice("aggregation", aggregation, get_args(Aggregation))
    if not mean_weight and not second_moment_weight:
        raise ValueError("mean_weight and second_moment_weight are both 0, so that there is no loss; change one.")
    vectors = zero_absent(vectors, mask)
    is_other = ~jnp.eye(vectors.shape[0], dtype=bool)

    def terms(texts: jax.Array, is_text: jax.Array) -> jax.Array:
        """The weighted terms of the N texts of one column."""
        is_two = is_text[:, None] & is_text & is_other
        values = jnp.where(is_two, similarities(similarity, texts, texts), 0)
        number = jnp.maximum(is_two.sum(), 1).astype(jnp.float32)
        mean, second_moment = values.sum() / number, jnp.square(values).sum() / number
        excess = jax.nn.relu(second_moment - 1 / texts.shape[-1])
        return mean_weight * jnp.square(mean) + second_moment_weight * excess

    by_column = jax.vmap(terms, in_axes=1)(vectors, mask)  # [C], 0 for a column without texts
    columns = mask.any(0).sum().astype(jnp.float32)
    total = by_column.sum() / (jnp.maximum(columns, 1) if aggregation == "mean" else 1)
    return total, (columns > 0).astype(jnp.float32)
