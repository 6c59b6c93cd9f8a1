"""Entities in the tags of words, in any scheme, as conlleval reads them.

Tjong Kim Sang and De Meulder 2003, arXiv:cs/0306050.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.tasks.token_classification.scheme import Scheme


class Entity(NamedTuple):
    """Words [start, end) of a text, and their type."""

    kind: str
    start: int
    end: int


def entities(tags: Sequence[str], scheme: Scheme | None = None) -> list[Entity]:
    """The entities of a text, in order: ["B-PER", "I-PER", "O", "I-LOC"] -> [PER 0:2, LOC 3:4], whatever the scheme.

    `scheme` is of all tags of the data set; None: of those that occur. ValueError if these mark no entities.
    """
    scheme = scheme or Scheme.of(sorted(set(tags)))
    if scheme is None:
        if set(tags) <= {"O", "o"}:
            return []
        names = ", ".join(sorted(set(tags)))
        raise ValueError(f"the tags {names[:80]} do not tell of entities, as B-PER, I-PER and O do")
    if not tags:
        return []
    ids = np.array([scheme.ids[tag] for tag in tags])
    starts, stops = (np.flatnonzero(x) for x in entity_starts(scheme, ids, np.r_[-1, ids[:-1]]))
    ends = np.r_[stops, len(tags)][np.searchsorted(stops, starts, side="right")]
    kinds = [scheme.kinds[kind] for kind in scheme.kind[ids[starts]]]
    return [Entity(*entity) for entity in zip(kinds, starts.tolist(), ends.tolist(), strict=True)]


def entity_starts(scheme: Scheme, tags: Any, previous: Any) -> tuple[Any, Any]:
    """Mark words at which an entity begins, and words that continue none, both bool.

    `tags` are ids of the tags of words, `previous` those of the words before them, -1 at the first; of numpy or jax.
    """
    arrays = scheme.outside, scheme.opens, scheme.closes, scheme.kind
    outside, opens, closes, kind = map(jnp.asarray, arrays) if isinstance(tags, jax.Array) else arrays
    is_fresh = (previous < 0) | outside[previous] | closes[previous] | (kind[previous] != kind[tags])
    begins = ~outside[tags] & (opens[tags] | is_fresh)
    return begins, begins | outside[tags]


def count_entities(
    scheme: Scheme, predicted: jax.Array, labels: jax.Array, segment_ids: jax.Array
) -> tuple[jax.Array, ...]:
    """Numbers of correct, predicted and true entities in packed rows, each float32 [].

    `predicted` and `labels` are ids of tags, int [B, T], -1 at tokens that are not a word's first.
    """
    T = labels.shape[1]
    position = jnp.broadcast_to(jnp.arange(T), labels.shape)
    is_word = labels >= 0
    last = jax.lax.cummax(jnp.where(is_word, position, -1), axis=1)
    last = jnp.pad(last, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]  # the word before this token
    at = jnp.maximum(last, 0)
    is_same_text = (last >= 0) & (jnp.take_along_axis(segment_ids, at, 1) == segment_ids)

    def edges(tags: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mark the first words of entities, and for each token the position by which an entity from it has ended."""
        tags = jnp.where(is_word, tags, 0)
        previous = jnp.where(is_same_text, jnp.take_along_axis(tags, at, 1), -1)
        begins, stops = entity_starts(scheme, tags, previous)
        following = jax.lax.cummin(jnp.where(stops & is_word, position, T), axis=1, reverse=True)
        return begins & is_word, jnp.pad(following, ((0, 0), (0, 1)), constant_values=T)[:, 1:]

    (predicted_starts, predicted_ends), (true_starts, true_ends) = edges(predicted), edges(labels)
    kind = jnp.asarray(scheme.kind)
    is_same_kind = kind[jnp.maximum(predicted, 0)] == kind[jnp.maximum(labels, 0)]
    correct = predicted_starts & true_starts & is_same_kind & (predicted_ends == true_ends)
    return tuple(x.sum().astype(jnp.float32) for x in (correct, predicted_starts, true_starts))
