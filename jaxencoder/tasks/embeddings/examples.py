"""The texts of a batch's examples, gathered from its packed rows.

A row holds up to E texts, in up to G examples. batch["tuples"] int [B, G, C] has the numbers in their row of each
example's texts: the anchor, its positive, then negatives; -1 for none. Functions return all N = B * G examples of a
batch; some are padding, without any text.
"""

import jax
import jax.numpy as jnp

from jaxencoder.objectives.objective import Batch


def take_from_rows(values: jax.Array, index: jax.Array) -> jax.Array:
    """The values [B, ..., *rest] at the positions `index` int [B, ...] of each row of `values` [B, M, *rest]."""
    return jax.vmap(lambda row, positions: row[positions])(values, index)


def examples(vectors: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The examples of a batch: their vectors float32 [N, C, D], which texts there are bool [N, C], scores float32 [N].

    `vectors` [B, E, D] are those of each row's texts. Scores are the labels of the anchors, NaN for none.
    """
    tuples = batch["tuples"]
    chosen = take_from_rows(vectors, tuples)  # [B, G, C, D]
    return chosen.reshape(-1, *chosen.shape[2:]), text_mask(batch), text_labels(batch)[:, 0]


def text_mask(batch: Batch) -> jax.Array:
    """Which texts the examples have, bool [N, C]."""
    return (batch["tuples"] >= 0).reshape(-1, batch["tuples"].shape[-1])


def is_anchor(batch: Batch) -> jax.Array:
    """Which texts of each row are anchors, bool [B, E]."""
    return (batch["tuples"][..., :1] == jnp.arange(batch["labels"].shape[1])).any(1)


def text_labels(batch: Batch) -> jax.Array:
    """The labels float32 [N, C] of the texts of the examples, NaN for none."""
    tuples = batch["tuples"]
    labels = take_from_rows(batch["labels"], tuples)
    return jnp.where(tuples >= 0, labels, jnp.nan).reshape(-1, tuples.shape[-1])


def teacher_scores(batch: Batch) -> jax.Array:
    """A teacher's scores float32 [N, C - 1] of each anchor with its texts, NaN for none."""
    return text_labels(batch)[:, 1:]
