"""Rows of a batch a part at a time: Gao et al. 2021 (GradCache), arXiv:2101.06983."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxencoder.objectives.objective import Batch, Params

Embed = Callable[[Params, Batch, jax.Array, bool], jax.Array]


def in_parts(embed: Embed, parts: int) -> Embed:
    """The function `embed`, whose memory holds the activations of one part of the rows, and its results of all.

    The backward pass embeds each part again, with the same dropout; loss and gradients stay those of the batch.

    Args:
        embed: (params, batch, key, train) -> float [B, ...], where each row depends on its own row of the batch alone.
        parts: 1 changes nothing.

    Returns:
        A function like `embed`; ValueError where `parts` does not divide the rows of a batch of training. Predictions,
        whose batches have other sizes and no backward pass, are made of all rows together.
    """
    if parts == 1:
        return embed

    def embed_all(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
        rows = len(batch["token_ids"])
        if not train and rows % parts:
            return embed(params, batch, key, train)
        if rows % parts:
            problem = f"objective.parts is {parts}, which does not divide a batch of {rows} rows"
            raise ValueError(f"{problem}; change it or training.batch_size.")

        # A checkpoint keeps only the inputs of a part, and its results.
        @jax.checkpoint
        def embed_part(part: Batch, key: jax.Array) -> jax.Array:
            return embed(params, part, key, train)

        # Interleaved, so that each device already holds its rows of every part.
        split = {k: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0) for k, x in batch.items()}
        results = jax.lax.map(lambda x: embed_part(*x), (split, jax.random.split(key, parts)))
        return jnp.moveaxis(results, 0, 1).reshape(rows, *results.shape[2:])

    return embed_all
