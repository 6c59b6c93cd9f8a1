"""A vector for each token of texts of any length: long ones are cut, or read in windows and put together.

Of the windows that hold a token, the one with most around it gives its vector (Devlin et al. 2019, BERT,
arXiv:1810.04805, run_squad.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.inference.global_tokens import with_first_tokens
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.outputs import encode
from jaxencoder.inference.windows import Long, Reading, run_windows
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.objective import Batch
from jaxencoder.text import buckets
from jaxencoder.text.windows import text_windows

_GROUP = 1 << 14  # tokens of windows that are computed together


class TokenChunk(NamedTuple):
    """Tokens of a text that stand one after the other.

    Attributes:
        text: number of the text.
        ids: int32 [n].
        offsets: int32 [n, 2], the characters of the text that each stands for, (0, 0) for special tokens.
        hidden: float32 [n, D].
    """

    text: int
    ids: np.ndarray
    offsets: np.ndarray
    hidden: np.ndarray


def token_chunks(
    model: OpenedModel,
    texts: Sequence[str],
    stride: int | None = None,
    batch_tokens: int | None = None,
    max_length: int | None = None,
) -> Iterator[TokenChunk]:
    """The tokens of each text with their vectors, a window's at a time, in memory that does not grow with the text.

    The chunks of a text, one after the other, are what `Model.tokens` gives with long="windows".

    Args: as for `Model.tokens`.
    """
    tokenizer, limit = buckets.readable(model.tokenizer), model.limit(max_length)
    windows = text_windows(tokenizer, texts, limit, stride, offsets=True)
    vectors: dict[int, np.ndarray] = {}
    for group, plan, values in run_windows(model, _function(model), windows, _GROUP, batch_tokens, max_length):
        for i, row, start in zip(plan.texts.tolist(), plan.row, plan.start, strict=True):
            window = group[i]
            vectors[i] = values[row, start + window.first : start + window.last].copy()  # not all of the rows
        if len(vectors) == len(group):
            for i, window in enumerate(group):
                ids = window.ids[window.first : window.last]
                yield TokenChunk(window.text, ids, window.offsets, vectors.pop(i))


def tokens(
    model: OpenedModel,
    texts: Sequence[str],
    batch_tokens: int | None = None,
    max_length: int | None = None,
    long: Long = "truncate",
    stride: int | None = None,
    offsets: bool = False,
) -> tuple[np.ndarray, ...]:
    """(hidden, mask), or with `offsets` (hidden, mask, offsets); see `Model.tokens`."""
    reading = Reading.of(long, stride)
    texts = texts if isinstance(texts, str | bytes) else list(texts)
    if reading.long == "windows":
        parts: list[list[TokenChunk]] = [[] for _ in texts]
        for chunk in token_chunks(model, texts, stride, batch_tokens, max_length):
            parts[chunk.text].append(chunk)
        rows = [(np.concatenate([x.hidden for x in own]), np.concatenate([x.offsets for x in own])) for own in parts]
    else:
        ids = model.tokenize(texts, max_length)
        rows = [(np.zeros(0), np.zeros(0))] * len(ids)
        places = [None] * len(ids)
        if offsets:
            encoded = model.tokenizer.encode_batch(texts, offsets=True, max_length=model.limit(max_length))
            places = [encoding.offsets for encoding in encoded]
        for plan, values in model.run(_function(model), ids, batch_tokens, max_length):
            for i, row, start in zip(plan.texts.tolist(), plan.row, plan.start, strict=True):
                rows[i] = values[row, start : start + len(ids[i])], places[i]
    B, T, D = len(rows), max((len(x) for x, _ in rows), default=0), model.config.model.hidden_size
    hidden, mask = np.zeros((B, T, D), np.float32), np.zeros((B, T), bool)
    for i, (vectors, _) in enumerate(rows):
        hidden[i, : len(vectors)], mask[i, : len(vectors)] = vectors, True
    if not offsets:
        return hidden, mask
    characters = np.zeros((B, T, 2), np.int32)
    for i, (_, places) in enumerate(rows):
        characters[i, : len(places)] = places
    return hidden, mask, characters


def _function(model: OpenedModel) -> partial:
    return partial(_hidden, model.config.model, model.compute, with_first_tokens(model))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _hidden(
    encoder: EncoderConfig, compute: ComputeConfig, first_tokens: Any, params: dict[str, Any], rows: Batch
) -> jax.Array:
    return encode(encoder, compute, params, first_tokens(rows)).astype(jnp.float32)
