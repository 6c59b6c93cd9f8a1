"""Which tokens of padded rows are global, as places in the row: Beltagy et al. 2020 (Longformer, arXiv:2004.05150)."""

from collections.abc import Iterable

import numpy as np

from jaxencoder.model.heads import HeadConfig

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
