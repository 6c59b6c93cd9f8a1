"""How often vectors show the class of a text, or of a pair of texts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.sentence import Similarity
from jaxencoder.tasks.embeddings.pairs import pair_features
from jaxencoder.tasks.embeddings.vectors import Loss, by_blocks, masked_sum, similarities, zero_absent

Array = jax.Array | np.ndarray


def nearest_accuracy(vectors: Array, labels: Array, similarity: Similarity) -> Loss:
    """The number of texts whose most similar other text has their class, and the number of those that have a class.

    `vectors` are [..., D] and `labels` [...] classes, NaN for none. Texts without a class are not compared.
    """
    vectors, labels = jnp.asarray(vectors), jnp.asarray(labels).reshape(-1)
    is_text = ~jnp.isnan(labels)
    texts = jax.lax.stop_gradient(zero_absent(vectors.reshape(-1, vectors.shape[-1]), is_text))

    def is_right(anchors: jax.Array, classes: jax.Array, numbers: jax.Array) -> jax.Array:
        is_other = is_text & (numbers[:, None] != jnp.arange(len(texts)))
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
