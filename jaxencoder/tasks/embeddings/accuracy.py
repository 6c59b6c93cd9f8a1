"""How often vectors or scores find the positive of an anchor, or the class of a text or of a pair of texts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.sentence import Similarity
from jaxencoder.tasks.embeddings.duplicates import candidate_texts, is_present
from jaxencoder.tasks.embeddings.pairs import pair_features
from jaxencoder.tasks.embeddings.vectors import Loss, by_blocks, masked_sum, similarities, zero_absent

Array = jax.Array | np.ndarray


def ranking_accuracy(vectors: jax.Array, texts: jax.Array, similarity: Similarity) -> Loss:
    """The number of anchors to which no other text is as similar as their positive, and the number of pairs.

    `vectors` [N, C, D] and `texts` [N, C] are as in `multiple_negatives_ranking`; anchors are compared with the
    positives and negatives of all examples.
    """
    mask = is_present(texts)
    x = jax.lax.stop_gradient(zero_absent(vectors, mask))

    def is_first(anchors: jax.Array, rows: jax.Array, own_texts: jax.Array) -> jax.Array:
        """Whether some anchors [n, D], of the examples in these rows [n], find their positives: float [n]."""
        candidates = candidate_texts(texts, own_texts, rows[:, None] == jnp.arange(len(x)))
        scores = similarities(similarity, anchors, x[:, 1:])  # [n, N, C - 1]
        return finds_positive(jnp.where(candidates[..., 1:], scores, -jnp.inf), rows).astype(jnp.float32)

    return masked_sum(by_blocks(is_first, x[:, 0], jnp.arange(len(x)), texts), mask[:, 0] & mask[:, 1])


def score_accuracy(scores: jax.Array, mask: jax.Array, rows: jax.Array) -> Loss:
    """How many queries find their positive, by scores and rows as in `finds_positive`, and the number of pairs.

    `mask` is bool [N, C], False where an example has no such text.
    """
    return masked_sum(finds_positive(scores, rows).astype(jnp.float32), mask[:, 0] & mask[:, 1])


def finds_positive(scores: jax.Array, rows: jax.Array) -> jax.Array:
    """Whether a query's positive has the highest score of all, without ties: bool [n].

    Args:
        scores: float [n, N, C - 1] of queries with texts of examples, the first of each its positive; -inf for none.
        rows: int [n], which of the N examples is each query's own.
    """
    is_own = (jnp.arange(scores.shape[1]) == rows[:, None])[..., None] & (jnp.arange(scores.shape[2]) == 0)
    positive = jnp.where(is_own, scores, -jnp.inf).max((1, 2))
    return positive > jnp.where(is_own, -jnp.inf, scores).max((1, 2))


def nearest_accuracy(vectors: Array, labels: Array, similarity: Similarity) -> Loss:
    """The number of texts whose most similar other text has their class, and the number of those that have a class.

    `vectors` are [..., D] and `labels` [...] classes, NaN for none. Texts without a class are not compared.
    """
    vectors, labels = jnp.asarray(vectors), jnp.asarray(labels).reshape(-1)
    is_text = ~jnp.isnan(labels)
    texts = jax.lax.stop_gradient(zero_absent(vectors.reshape(-1, vectors.shape[-1]), is_text))

    def is_right(anchors: jax.Array, classes: jax.Array, rows: jax.Array) -> jax.Array:
        is_other = is_text & (rows[:, None] != jnp.arange(len(texts)))
        nearest = jnp.where(is_other, similarities(similarity, anchors, texts), -jnp.inf).argmax(1)
        return (is_other.any(1) & (labels[nearest] == classes)).astype(jnp.float32)

    return masked_sum(by_blocks(is_right, texts, labels, jnp.arange(len(texts))), is_text)


def pair_class_accuracy(vectors: Array, mask: Array, classes: Array, head: Callable[[jax.Array], jax.Array]) -> Loss:
    """The number of pairs whose class a head finds, see `pair_classification`, and the number of those with a class.

    `classes` are [N], NaN for none; `vectors` [N, C, D] and `mask` [N, C] as there.
    """
    vectors, mask, classes = jnp.asarray(vectors), jnp.asarray(mask), jnp.asarray(classes)
    predicted = head(pair_features(jax.lax.stop_gradient(zero_absent(vectors, mask)))).argmax(-1)
    return masked_sum((predicted == classes).astype(jnp.float32), mask[:, 0] & mask[:, 1] & ~jnp.isnan(classes))
