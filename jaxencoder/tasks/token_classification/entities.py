"""Entities in the tags of words, in any of the schemes IOB1, BIO, BIOES and BILOU, as conlleval reads them.

Tjong Kim Sang and De Meulder 2003, arXiv:cs/0306050.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_TAG = re.compile(r"([BIESLU])-(.*)", re.DOTALL)


class Scheme(NamedTuple):
    """What each tag says of entities: arrays [tags]."""

    outside: np.ndarray  # bool, part of no entity
    opens: np.ndarray  # bool, the first word of an entity, whatever precedes it
    closes: np.ndarray  # bool, the last word of an entity
    kind: np.ndarray  # int, the entity's type

    @classmethod
    def of(cls, tags: Sequence[str]) -> "Scheme | None":
        """The scheme of some tags; None if they do not mark entities, such as parts of speech."""
        matches = [_TAG.fullmatch(tag) for tag in tags]
        parts = [m.groups() if m else ("O" if tag == "O" else "", "") for tag, m in zip(tags, matches, strict=True)]
        if all(prefix == "O" for prefix, _ in parts) or not all(prefix for prefix, _ in parts):
            return None
        kinds = sorted({kind for _, kind in parts})
        marks = np.array([prefix for prefix, _ in parts])
        opens, closes = np.isin(marks, ("B", "S", "U")), np.isin(marks, ("E", "S", "L", "U"))
        return cls(marks == "O", opens, closes, np.array([kinds.index(kind) for _, kind in parts]))


class Entity(NamedTuple):
    """Words [start, end) of a text, and their type."""

    kind: str
    start: int
    end: int


def entities(tags: Sequence[str], scheme: Scheme | None = None, names: Sequence[str] = ()) -> list[Entity]:
    """The entities of a text, in order: ["B-PER", "I-PER", "O", "I-LOC"] -> [PER 0:2, LOC 3:4], whatever the scheme.

    `scheme` and `names` are of all tags of the data set; empty: of those that occur. ValueError if tags mark none.
    """
    names = names or sorted(set(tags))
    scheme = scheme or Scheme.of(names)
    if set(names) <= {"O"}:
        return []
    if scheme is None:
        raise ValueError(f"the tags {', '.join(names)[:80]} do not tell of entities, as B-PER, I-PER and O do")
    if not tags:
        return []
    ids = np.array([names.index(tag) for tag in tags])
    starts, stops = (np.flatnonzero(x) for x in entity_starts(scheme, ids, np.r_[-1, ids[:-1]]))
    ends = np.r_[stops, len(tags)][np.searchsorted(stops, starts, side="right")]
    spans = zip(starts.tolist(), ends.tolist(), strict=True)
    return [Entity(tags[start].partition("-")[2], start, end) for start, end in spans]


def entity_starts(scheme: Scheme, tags: Any, previous: Any) -> tuple[Any, Any]:
    """Mark words at which an entity begins, and words that continue none, both bool.

    `tags` are ids of the tags of words, `previous` those of the words before them, -1 at the first; of numpy or jax.
    """
    outside, opens, closes, kind = map(jnp.asarray, scheme) if isinstance(tags, jax.Array) else scheme
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
