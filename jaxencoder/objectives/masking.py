"""The corruption of masked language modeling, a pure function of key and tokens.

Single tokens: Devlin et al. 2019 (BERT, arXiv:1810.04805), redrawn in every epoch as in Liu et al. 2019 (RoBERTa,
arXiv:1907.11692). Whole words: BERT's later release. Spans: Joshi et al. 2020 (SpanBERT, arXiv:1907.10529). N-grams:
Lan et al. 2020 (ALBERT, arXiv:1909.11942). A decreasing rate: Ankner et al. 2024 (arXiv:2305.15096).
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.objectives.objective import Batch, Vocabulary


@dataclass(frozen=True)
class Masking:
    """Settings of the corruption; the defaults are BERT's, redrawn in every step. ValueError for one out of range."""

    rate: float = 0.15
    """Fraction of the tokens to predict; special tokens are never predicted."""
    final_rate: float = 0.0
    """Rate at the end of training, reached linearly; 0 keeps the rate constant."""
    mask_probability: float = 0.8
    """Probability that a predicted token is shown as [MASK]."""
    random_probability: float = 0.1
    """Probability that a predicted token is shown as a random token; the remaining ones are shown unchanged."""
    whole_words: bool = False
    """Mask all pieces of a word or none. In scripts without spaces each token counts as a word."""
    spans: Literal["none", "geometric", "ngram"] = "none"
    """Mask spans of 1 to max_span_length tokens or words. geometric (SpanBERT): each length is 0.8 times as likely as
    the next shorter one, and a span's tokens are all shown in the same way. ngram (ALBERT, at most 3): length n has
    probability proportional to 1 / n."""
    max_span_length: int = 10
    static: bool = False
    """Give a row the same mask in every epoch, as in BERT's prepared data."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"objective.masking.rate must lie between 0 and 1, got {self.rate}.")
        if not 0 <= self.final_rate < 1:
            raise ValueError(f"objective.masking.final_rate must be 0 or lie between 0 and 1, got {self.final_rate}.")
        probabilities = self.mask_probability, self.random_probability
        if min(probabilities) < 0 or sum(probabilities) > 1 + 1e-9:
            raise ValueError(
                "objective.masking.mask_probability and random_probability must not be negative nor add up to more "
                f"than 1, got {self.mask_probability} and {self.random_probability}."
            )
        if self.max_span_length < 1:
            raise ValueError(f"objective.masking.max_span_length must be at least 1, got {self.max_span_length}.")

    @property
    def mean_rate(self) -> float:
        """Rate averaged over the training."""
        return (self.rate + (self.final_rate or self.rate)) / 2

    def slots(self, T: int) -> int:
        """Maximum number of predicted tokens in a row of T, the number of vectors that the head gets."""
        grouped = self.whole_words or self.spans != "none"
        return min(T, math.ceil(max(self.rate, self.final_rate) * T) + (_LONGEST_GROUP if grouped else 0))

    def span_lengths(self) -> np.ndarray:
        """Probabilities [max_span_length] of spans of 1, 2, ... tokens or words."""
        n = np.arange(1, self.max_span_length + 1)
        weights = {"none": n == 1, "geometric": 0.8 ** (n - 1.0), "ngram": 1 / n}[self.spans]
        return weights / weights.sum()


class Masked(NamedTuple):
    """A corrupted batch, with K slots per row for the tokens to predict."""

    token_ids: jax.Array  # [B, T], the encoder's input
    slots: jax.Array  # [B, K] positions in the row
    targets: jax.Array  # [B, K] the original tokens
    weights: jax.Array  # [B, K] float32: 1, or 0 for unused slots


_LONGEST_GROUP = 24  # extra slots for the word or span that crosses the limit; longer ones are not masked


def mask_tokens(batch: Batch, key: jax.Array, masking: Masking, vocabulary: Vocabulary) -> Masked:
    """Choose the tokens to predict and corrupt them.

    A row is divided into groups: tokens, words, or spans of them. Groups are drawn in random order until rate *
    (ordinary tokens) tokens are chosen. The group that crosses the limit is accepted with the probability that makes
    the expected fraction exactly the rate. No group crosses a document's end or a special token.

    Args:
        batch: "token_ids" and "segment_ids" [B, T] int32; "row_ids" [B], identity of each row, for static masking;
            "progress" [B] float32, completed fraction of the training, 1 if missing.
        key: the only source of randomness; equal keys give equal masks on any number of devices.
    """
    token_ids, segment_ids = batch["token_ids"], batch["segment_ids"]
    B, T = token_ids.shape
    if masking.static:
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(batch["row_ids"])
    else:
        keys = jax.random.split(key, B)  # rows are masked independently
    keys = jax.vmap(lambda key: jax.random.split(key, 5))(keys)  # [B, 5]

    def uniform(number: int, *shape: int) -> jax.Array:
        return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys[:, number])

    is_special = np.zeros(vocabulary.vocab_size, bool)
    is_special[list(vocabulary.special_ids)] = True
    ordinary = (segment_ids > 0) & ~jnp.asarray(is_special)[token_ids]
    groups = _groups(token_ids, segment_ids, ordinary, masking, vocabulary, lambda: uniform(4, T))

    noise = groups.first_of(jnp.where(ordinary, uniform(0, T), 2.0))  # 2 sorts special tokens behind all others
    order = jnp.argsort(noise, axis=1)  # stable: the tokens of a group stay together
    before = groups.first_of(jnp.argsort(order, axis=1))  # tokens drawn before this group
    limit = _rate(masking, batch) * ordinary.sum(-1, keepdims=True)
    K = masking.slots(T)  # static, so that shapes are
    accepted = uniform(1, 1) * groups.length < limit - before
    chosen = ordinary & accepted & (before + groups.length <= K)

    slots = order[:, :K]
    weights = jnp.take_along_axis(chosen, slots, axis=1).astype(jnp.float32)
    targets = jnp.take_along_axis(token_ids, slots, axis=1)  # [B, K]

    candidates = jnp.asarray(np.flatnonzero(~is_special), jnp.int32)
    random_ids = candidates[(uniform(2, T) * len(candidates)).astype(jnp.int32)]  # [B, T]
    draw = uniform(3, T)
    draw = groups.first_of(draw) if masking.spans == "geometric" else draw
    shown = jnp.where(draw < masking.mask_probability + masking.random_probability, random_ids, token_ids)
    shown = jnp.where(draw < masking.mask_probability, vocabulary.mask_id, shown)
    return Masked(jnp.where(chosen, shown, token_ids), slots, targets, weights)


def _rate(masking: Masking, batch: Batch) -> jax.Array | float:
    """Rate of each row, [B, 1], or of all rows."""
    final = masking.final_rate or masking.rate
    if "progress" not in batch or final == masking.rate:
        return final
    return masking.rate + (final - masking.rate) * batch["progress"][:, None]


class _Groups(NamedTuple):
    """Start and length of each token's group, [B, T] int32; None and 1 if each token is a group."""

    start: jax.Array | None
    length: jax.Array | int

    def first_of(self, x: jax.Array) -> jax.Array:
        """x [B, T] with each value replaced by that of its group's first token."""
        return x if self.start is None else jnp.take_along_axis(x, self.start, axis=1)


def _groups(token_ids, segment_ids, ordinary, masking: Masking, vocabulary: Vocabulary, uniform) -> _Groups:
    if not masking.whole_words and masking.spans == "none":
        return _Groups(None, 1)
    T = token_ids.shape[1]
    position = jnp.arange(T)
    previous = jnp.pad(segment_ids, [(0, 0), (1, 0)])[:, :-1]
    # A new group begins at a special token, after it, and at the start of a document.
    boundary = ~ordinary | ~jnp.pad(ordinary, [(0, 0), (1, 0)])[:, :-1] | (segment_ids != previous)
    starts = boundary | (jnp.asarray(vocabulary.word_starts())[token_ids] if masking.whole_words else True)
    if masking.spans != "none":
        edges = jnp.asarray(np.cumsum(masking.span_lengths())[:-1], jnp.float32)
        lengths = jnp.searchsorted(edges, uniform(), side="right") + 1  # [B, T], in units
        starts = _span_starts(starts, boundary, lengths, masking.max_span_length)
    start = jax.lax.cummax(jnp.where(starts, position, 0), axis=1)
    next_start = jnp.pad(jnp.where(starts, position, T), [(0, 0), (0, 1)], constant_values=T)[:, 1:]
    end = jax.lax.cummin(next_start, axis=1, reverse=True)
    return _Groups(start, end - start)


def _span_starts(starts: jax.Array, boundary: jax.Array, lengths: jax.Array, max_length: int) -> jax.Array:
    """Starts of spans that follow each other without gaps: bool [B, T].

    A span holds `lengths` units (tokens or words, which begin at `starts`), as drawn at its first unit, and ends early
    before a boundary. A pass over a row is a finite automaton whose state is the number of units left in the span; the
    maps of its states are composed in a logarithmic number of steps (Hillis and Steele, CACM 1986).
    """
    states = jnp.arange(max_length)
    opened = jnp.broadcast_to((lengths - 1)[..., None], (*lengths.shape, max_length))
    next_unit = jnp.where(states == 0, opened, states - 1)
    after = jnp.where(boundary[..., None], opened, jnp.where(starts[..., None], next_unit, states))  # [B, T, states]
    after = jax.lax.associative_scan(lambda a, b: jnp.take_along_axis(b, a, axis=-1), after, axis=1)
    before = jnp.pad(after[:, :-1, 0], [(0, 0), (1, 0)])
    return boundary | (starts & (before == 0))
