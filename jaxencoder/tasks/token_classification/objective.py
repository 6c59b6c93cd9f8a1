"""Classification of words on packed rows: the first token of each word is told its tag, and entities are counted.

The recipe of Devlin et al. 2019 (BERT), arXiv:1810.04805, section 5.3. Entities are read from tags in any of the
schemes IOB1, BIO, BIOES and BILOU as conlleval does it: Tjong Kim Sang and De Meulder 2003, arXiv:cs/0306050.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.kernels.dropout import dropout
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import Head, HeadConfig
from jaxencoder.objectives.objective import Batch, Metrics, Objective, ObjectiveConfig, Params, Vocabulary, encode, mean

NAME = "token_head"  # among the parameters
_TAG = re.compile(r"([BIESLU])-(.*)", re.DOTALL)


@dataclass(frozen=True)
class TokenClassification(ObjectiveConfig):
    """Settings of the classification of words.

    Raises:
        ValueError: a setting lies outside its range.
    """

    tags: tuple[str, ...] = ()
    """Classes of a word, in order of id; empty: those of the training data."""
    dropout: float = 0.1
    """Before the projection."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"objective.dropout must be in [0, 1), got {self.dropout}.")
        if len(set(self.tags)) < len(self.tags):
            raise ValueError(f"objective.tags names a class more than once: {', '.join(self.tags)}.")

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions; see `Objective`. Scores are [B, T, tags] float32.

        Metrics: loss (nats a word), accuracy of words and, where the tags tell of entities, f1 of entities: one counts
        as found if its words and its type are right.
        """
        init, scores = token_scores(encoder, compute, NAME, self._head, self.dropout)
        scheme = Scheme.of(self.tags)

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            labels = batch["token_labels"]  # [B, T]
            there = labels >= 0
            logits = scores(params, batch, key, train)
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[..., None], -1)[..., 0]
            predicted = jnp.where(there, logits.argmax(-1), -1)
            right = there & (predicted == labels)
            count = there.sum().astype(jnp.float32)
            metrics = {
                "loss": (-jnp.where(there, log_p, 0).sum(), count),
                "accuracy": (right.sum().astype(jnp.float32), count),
            }
            if scheme is not None:
                found, said, true = count_entities(scheme, predicted, labels, batch["segment_ids"])
                metrics["f1"] = (2.0 * found, said + true)
            return mean(metrics), metrics

        return Objective(init, loss, scores)

    @property
    def _head(self) -> HeadConfig:
        return HeadConfig("tokens", max(len(self.tags), 1))

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        """The F1 of entities, or the accuracy of tags that do not tell of such."""
        return ("accuracy" if self.tags and Scheme.of(self.tags) is None else "f1"), "max"

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        """One projection of each token, as most published taggers have."""
        return {NAME: self._head}


def token_scores(
    encoder: EncoderConfig, compute: ComputeConfig, name: str, config: HeadConfig, rate: float
) -> tuple[Callable, Callable]:
    """The functions `init` and `scores` of an objective that projects each token's vector, after dropout.

    Args:
        name: of the head among the parameters.
        rate: of the dropout.
    """
    module = Encoder(encoder, compute)
    head = Head(encoder, config)

    def init(key: jax.Array) -> Params:
        body, top = jax.random.split(key)
        one = jnp.ones((1, 1), jnp.int32)
        return {
            "encoder": module.init(body, one, one, one * 0)["params"],
            name: head.init(top, jnp.zeros((1, 1, encoder.hidden_size)))["params"],
        }

    def scores(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
        body, top = jax.random.split(key)
        hidden = dropout(encode(module, params["encoder"], batch, body, train), rate if train else 0, top)
        return head.apply({"params": params[name]}, hidden)

    return init, scores


class Scheme(NamedTuple):
    """What each tag says of entities: arrays [tags].

    outside: bool, part of none. opens: bool, the first word of one, whatever stands before it. closes: bool, the last.
    kind: int, the type.
    """

    outside: np.ndarray
    opens: np.ndarray
    closes: np.ndarray
    kind: np.ndarray

    @classmethod
    def of(cls, tags: Sequence[str]) -> "Scheme | None":
        """None for tags that do not tell of entities, such as parts of speech."""
        matches = [_TAG.fullmatch(tag) for tag in tags]
        parts = [m.groups() if m else ("O" if tag == "O" else "", "") for tag, m in zip(tags, matches, strict=True)]
        if all(prefix == "O" for prefix, _ in parts) or not all(prefix for prefix, _ in parts):
            return None
        kinds = sorted({kind for _, kind in parts})
        marks = np.array([prefix for prefix, _ in parts])
        return cls(
            marks == "O",
            np.isin(marks, ("B", "S", "U")),
            np.isin(marks, ("E", "S", "L", "U")),
            np.array([kinds.index(kind) for _, kind in parts]),
        )


def entity_starts(scheme: Scheme, tags: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where entities begin and where none goes on, both bool, from the tags of words and of the words before them.

    Args:
        tags, before: int, of any one shape; `before` is -1 where no word stands before. Works for numpy and jax alike.
    """
    outside, opens, closes, kind = map(jnp.asarray, scheme) if isinstance(tags, jax.Array) else scheme
    fresh = (before < 0) | outside[before] | closes[before] | (kind[before] != kind[tags])
    begins = ~outside[tags] & (opens[tags] | fresh)
    return begins, begins | outside[tags]


def count_entities(
    scheme: Scheme, predicted: jax.Array, labels: jax.Array, segment_ids: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Entities of packed rows that are found, predicted and true, each float32 [].

    Args:
        predicted, labels: int [B, T], -1 at tokens that are no word's first.
        segment_ids: [B, T].
    """
    T = labels.shape[1]
    place = jnp.broadcast_to(jnp.arange(T), labels.shape)
    word = labels >= 0
    last = jax.lax.cummax(jnp.where(word, place, -1), axis=1)
    last = jnp.pad(last, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]  # the word before this token
    at = jnp.maximum(last, 0)
    same = (last >= 0) & (jnp.take_along_axis(segment_ids, at, 1) == segment_ids)

    def edges(tags: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where entities begin, and for each token the place at which what begins there has ended."""
        tags = jnp.where(word, tags, 0)
        before = jnp.where(same, jnp.take_along_axis(tags, at, 1), -1)
        begins, stops = entity_starts(scheme, tags, before)
        following = jax.lax.cummin(jnp.where(stops & word, place, T), axis=1, reverse=True)
        return begins & word, jnp.pad(following, ((0, 0), (0, 1)), constant_values=T)[:, 1:]

    (said, said_end), (true, true_end) = edges(predicted), edges(labels)
    kind = jnp.asarray(scheme.kind)
    alike = kind[jnp.maximum(predicted, 0)] == kind[jnp.maximum(labels, 0)]
    found = said & true & alike & (said_end == true_end)
    return tuple(x.sum().astype(jnp.float32) for x in (found, said, true))
