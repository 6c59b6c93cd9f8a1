"""Equal texts in a batch: which texts of other examples are no negatives of an example.

If two examples have an anchor or a positive in common, each one's anchor and positive belong to the other one too.
MultipleNegativesRankingLoss of ST would take them as negatives; its sampler NO_DUPLICATES keeps such examples out of a
batch. Here the rows of a batch are fixed, and the loss leaves out these comparisons, of all devices.
"""

import jax
import jax.numpy as jnp

from jaxencoder.objectives.objective import Batch
from jaxencoder.tasks.embeddings.examples import take_from_rows

_SEEDS = (0x9E3779B9, 0x85EBCA6B)  # of two hashes of 32 bits


def text_numbers(batch: Batch) -> jax.Array:
    """A number of each text int32 [N, C], equal for texts of equal tokens, -1 for none; N and C as in `examples`.

    The numbers are less than N * C. The tokens of a prompt, `batch["prompt_tokens"]` [B, E] at the start of each text,
    do not count. Hashes of 64 bits stand for the texts.
    """
    tuples, segments, positions = batch["tuples"], batch["segment_ids"], batch["positions"]
    texts = batch["labels"].shape[1]
    if (prompts := batch.get("prompt_tokens")) is not None:
        positions = positions - jnp.take_along_axis(prompts, jnp.maximum(segments - 1, 0), axis=1)
    words = batch["token_ids"].astype(jnp.uint32) * jnp.uint32(0xC2B2AE35) ^ _mix(positions.astype(jnp.uint32))

    def text_sums(values: jax.Array) -> jax.Array:
        """The sums [B, E] of values [B, T] of the tokens of each text, modulo 2 ** 32."""
        values = jnp.where((segments > 0) & (positions >= 0), values, 0)
        return jax.vmap(lambda x, index: jax.ops.segment_sum(x, index, texts + 1)[1:])(values, segments)

    hashes = jnp.stack([text_sums(_mix(words ^ jnp.uint32(seed))) for seed in _SEEDS], axis=-1)  # [B, E, 2]
    hashes = take_from_rows(hashes, tuples).reshape(-1, 2)
    _, numbers = jnp.unique(hashes, axis=0, return_inverse=True, size=len(hashes))
    return jnp.where(tuples.reshape(-1) >= 0, numbers.reshape(-1), -1).reshape(-1, tuples.shape[-1])


def is_present(texts: jax.Array) -> jax.Array:
    """Which texts there are, bool [N, C]: as given, or from the numbers of the texts, int [N, C], -1 for none."""
    return texts if texts.dtype == bool else texts >= 0


def candidate_texts(texts: jax.Array, own_texts: jax.Array, is_same: jax.Array) -> jax.Array:
    """The texts with which some examples are compared, bool [n, N, C] or, if they are the same for all, [N, C].

    Args:
        texts: the numbers of all texts, int [N, C]: `related_texts` are left out, but for an example's own anchor and
            positive; or bool [N, C], which texts there are.
        own_texts: the rows [n, C] of `texts` of these examples.
        is_same: bool [n, N], True for an example itself.
    """
    if texts.dtype == bool:
        return texts
    is_pair = is_same[..., None] & (jnp.arange(texts.shape[1]) < 2)
    return is_present(texts) & (is_pair | ~related_texts(texts, own_texts))


def related_texts(texts: jax.Array, own_texts: jax.Array) -> jax.Array:
    """The anchor and the positive of an example, and those of examples that have one of them in common with it.

    Args:
        texts: int [N, C], the numbers of the texts of all examples, see `text_numbers`.
        own_texts: int [n, C], those of some examples.

    Returns:
        Which of all texts are related to each of these examples, bool [n, N, C].
    """
    mask, pairs = is_present(texts), texts[:, :2]
    is_pair = mask[:, 0] & mask[:, 1]
    is_equal = own_texts[:, None, :2, None] == pairs[:, None]  # [n, N, 2, 2]
    is_related = is_equal.any((2, 3)) & is_pair
    count = texts.size
    members = jnp.zeros((len(own_texts), count + 1), bool)  # the last one is that of no text
    for column in range(2):
        members = members.at[:, jnp.where(is_pair, pairs[:, column], count)].max(is_related)
    return mask & members[:, jnp.where(mask, texts, count)]


def _mix(x: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3, uint32 to uint32."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
