"""Which tokens of padded rows are global, as places in the row: Beltagy et al. 2020 (Longformer, arXiv:2004.05150)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.model.heads import HeadConfig, first_tokens
from jaxencoder.objectives.objective import Batch
from jaxencoder.text.buckets import texts_in_a_row

_SEPARATORS = 3  # of a question and its text: <s> question </s></s> text </s>


def global_slots(mask: np.ndarray) -> np.ndarray | None:
    """Places of the marked tokens: [B, T], 0 at the others, to [B, G] int32 with -1 where there are fewer.

    G is a power of two (at most T), so that few programs are compiled. None if nothing is marked.

    [[1, 0, 1, 1], [0, 0, 1, 0]] -> [[0, 2, 3, -1], [2, -1, -1, -1]]
    """
    counts = (mask != 0).sum(-1)
    most = int(counts.max(initial=0))
    if not most:
        return None
    slots = np.full((len(mask), min(1 << (most - 1).bit_length(), mask.shape[1])), -1, np.int32)
    slots[np.arange(slots.shape[1]) < counts[:, None]] = np.nonzero(mask)[1]
    return slots


def head_mask(heads: Iterable[HeadConfig], token_ids: np.ndarray) -> np.ndarray:
    """The tokens [B, T] bool that the heads of a model want to be global.

    Args:
        heads: of the model.
        token_ids: [B, T] int.

    Raises:
        ValueError: a row that is no question with its text, where a head looks for one.
    """
    head = next((head for head in heads if head.global_tokens != "none"), None)
    at = np.broadcast_to(np.arange(token_ids.shape[1]), token_ids.shape)
    if head is None:
        return np.zeros(at.shape, bool)
    if head.global_tokens == "first":
        return at == 0
    separators = token_ids == (-1 if head.separator is None else head.separator)
    for row, count in enumerate(separators.sum(-1)):
        if count != _SEPARATORS:
            raise ValueError(
                f"row {row} has {count} separators (token id {head.separator}), not the {_SEPARATORS} of a question "
                "and its text; give global_attention_mask"
            )
    end = separators.argmax(-1)[:, None]
    return at < end if head.global_tokens == "question" else at > end + 1


def slots_of(
    model: Checkpoint, token_ids: jax.Array, mask: jax.Array, chosen: jax.typing.ArrayLike | None
) -> np.ndarray | None:
    """Where the global tokens of padded rows stand; see `Model.__call__`.

    Raises:
        ValueError: a mask of another shape, or a model without global tokens, or what `head_mask` raises.
    """
    if not model.config.model.global_tokens:
        raise ValueError("the model knows no global tokens; leave global_attention_mask out")
    if chosen is not None and np.shape(chosen) != token_ids.shape:
        shapes = f"{list(np.shape(chosen))}, but token_ids {list(token_ids.shape)}"
        raise ValueError(f"global_attention_mask has the shape {shapes}; give one number for each token")
    token_ids, mask = (np.asarray(x).reshape(-1, x.shape[-1]) for x in (token_ids, mask))
    if chosen is None:
        first = np.broadcast_to(np.arange(token_ids.shape[1]) == 0, token_ids.shape)
        chosen = first if trained_with_first(model) else head_mask(model.heads.values(), token_ids)
    return global_slots((np.reshape(chosen, mask.shape) != 0) & (mask != 0))


def trained_with_first(model: Checkpoint) -> bool:
    """Whether a run was trained with the first token of each text global.

    That is so of a classifier of texts, or chooser, that pools the first token of a model with global tokens.
    """
    pools_first = model.published is None and getattr(model.config.objective, "pooling", None) == "cls"
    return pools_first and model.config.model.global_tokens


def with_first_tokens(model: Checkpoint) -> Callable[[Batch], Batch]:
    """A function of packed rows that makes the first token of each text global, where that is how a run was trained."""
    return _with_first if trained_with_first(model) else _as_they_are


def _with_first(rows: Batch) -> Batch:
    segment_ids = rows["segment_ids"]
    return rows | {"global_slots": first_tokens(segment_ids, texts_in_a_row(segment_ids.shape[1]))}


def _as_they_are(rows: Batch) -> Batch:
    return rows
