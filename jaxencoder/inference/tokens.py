"""Contextual embeddings of every token, for texts of any length.

Windows over a long text overlap. A token's vector comes from the window with the most context around it (Devlin et al.
2019, BERT, arXiv:1810.04805, run_squad.py).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.windows import run_windows
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.running import encoder_output
from jaxencoder.text import buckets
from jaxencoder.text.config import WindowConfig
from jaxencoder.text.tokenizers.encoding import as_list
from jaxencoder.text.windows import text_windows

_GROUP_TOKENS = 1 << 14  # tokens of windows that are computed together


class TokenChunk(NamedTuple):
    """Consecutive tokens of a text."""

    text: int  # its index
    ids: np.ndarray  # int32 [n]
    offsets: np.ndarray  # int32 [n, 2], [start, end) in characters of the text, (0, 0) for special tokens
    hidden: np.ndarray  # float32 [n, D]


def token_chunks(
    model: OpenedModel,
    texts: Sequence[str],
    stride: int | None = None,
    batch_tokens: int | None = None,
    max_length: int | None = None,
) -> Iterator[TokenChunk]:
    """Yield the tokens of each text with their vectors, window by window; see `Model.token_chunks`."""
    tokenizer, limit = buckets.require_tokenizer(model.tokenizer), model.limit(max_length)
    windows = text_windows(tokenizer, texts, limit, stride, offsets=True)
    vectors: dict[int, np.ndarray] = {}
    function = partial(_hidden, model.config.model, model.compute)
    for group, plan, values in run_windows(model, function, windows, _GROUP_TOKENS, batch_tokens, max_length):
        for i, row, start in zip(plan.texts.tolist(), plan.row, plan.start, strict=True):
            window = group[i]
            vectors[i] = values[row, start + window.first : start + window.last].copy()  # frees the other rows
        if len(vectors) == len(group):
            for i, window in enumerate(group):
                ids = window.ids[window.first : window.last]
                yield TokenChunk(window.text, ids, window.offsets, vectors.pop(i))


def tokens(
    model: OpenedModel,
    texts: Sequence[str],
    windows: WindowConfig | None = None,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    offsets: bool = False,
) -> tuple[np.ndarray, ...]:
    """The arrays of `Model.tokens`."""
    texts = as_list(texts)
    if windows is None:
        rows = _truncated(model, texts, batch_tokens, max_length, offsets)
    elif windows.pooling is not None:
        raise ValueError(f"window pooling is {windows.pooling!r}, but tokens are not pooled; leave it out")
    else:
        parts: list[list[TokenChunk]] = [[] for _ in texts]
        for chunk in token_chunks(model, texts, windows.stride, batch_tokens, max_length):
            parts[chunk.text].append(chunk)
        rows = [(np.concatenate([x.hidden for x in part]), np.concatenate([x.offsets for x in part])) for part in parts]
    B, T, D = len(rows), max((len(x) for x, _ in rows), default=0), model.config.model.hidden_size
    hidden, mask, spans = np.zeros((B, T, D), np.float32), np.zeros((B, T), bool), np.zeros((B, T, 2), np.int32)
    for i, (vectors, characters) in enumerate(rows):
        hidden[i, : len(vectors)], mask[i, : len(vectors)] = vectors, True
        if characters is not None:
            spans[i, : len(vectors)] = characters
    return (hidden, mask, spans) if offsets else (hidden, mask)


def _truncated(
    model: OpenedModel, texts: Sequence[str], batch_tokens: int | None, max_length: int | None, offsets: bool
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Vectors [n, D] and, if asked for, offsets [n, 2] of the first tokens of each text."""
    ids = model.tokenize(texts, max_length)
    spans: list[np.ndarray | None] = [None] * len(ids)
    if offsets:
        tokenizer, limit = buckets.require_tokenizer(model.tokenizer), model.limit(max_length)
        spans = [encoding.offsets for encoding in tokenizer.encode_batch(texts, offsets=True, max_length=limit)]
    rows: list[tuple[np.ndarray, np.ndarray | None]] = [(np.zeros(0), None)] * len(ids)
    function = partial(_hidden, model.config.model, model.compute)
    for plan, values in model.run(function, ids, batch_tokens, max_length):
        for i, row, start in zip(plan.texts.tolist(), plan.row, plan.start, strict=True):
            rows[i] = values[row, start : start + len(ids[i])], spans[i]
    return rows


@partial(jax.jit, static_argnums=(0, 1))
def _hidden(encoder: EncoderConfig, compute: ComputeConfig, params: Params, rows: Batch) -> jax.Array:
    return encoder_output(encoder, compute, params, rows).astype(jnp.float32)
