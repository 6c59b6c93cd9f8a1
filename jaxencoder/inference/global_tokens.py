"""Positions of the global tokens in a row: Beltagy et al. 2020 (Longformer, arXiv:2004.05150)."""

from collections.abc import Iterable

import jax
import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.model.heads import HeadConfig
from jaxencoder.tasks.running import global_slots

_SEPARATORS = 3  # in a question and its text: <s> question </s></s> text </s>


def head_mask(heads: Iterable[HeadConfig], token_ids: np.ndarray) -> np.ndarray:
    """True at the tokens that a model's heads require to be global: bool [B, T]; ValueError for a row without them."""
    head = next((head for head in heads if head.global_tokens != "none"), None)
    position = np.broadcast_to(np.arange(token_ids.shape[1]), token_ids.shape)
    if head is None:
        return np.zeros(position.shape, bool)
    if head.global_tokens == "first":
        return position == 0
    separators = token_ids == (-1 if head.separator is None else head.separator)
    for row, count in enumerate(separators.sum(-1)):
        if count != _SEPARATORS:
            raise ValueError(
                f"row {row} has {count} separators (token id {head.separator}), but a question with its text has "
                f"{_SEPARATORS}; give global_attention_mask"
            )
    end = separators.argmax(-1)[:, None]
    return position < end if head.global_tokens == "question" else position > end + 1


def model_global_slots(
    model: Checkpoint, token_ids: jax.Array, mask: jax.Array, global_mask: jax.typing.ArrayLike | None
) -> np.ndarray | None:
    """Positions of the global tokens of padded rows; arguments and errors as in `OpenedModel.__call__`."""
    if not model.config.model.global_tokens:
        raise ValueError("the model has no global tokens; leave global_attention_mask out")
    if global_mask is not None and np.shape(global_mask) != token_ids.shape:
        shapes = f"{list(np.shape(global_mask))}, but token_ids {list(token_ids.shape)}"
        raise ValueError(f"global_attention_mask has the shape {shapes}; give one number for each token")
    ids, is_token = (np.asarray(x).reshape(-1, x.shape[-1]) for x in (token_ids, mask))
    if global_mask is None:
        heads = [HeadConfig(global_tokens="first")] if first_token_is_global(model) else model.heads.values()
        global_mask = head_mask(heads, ids)
    return global_slots((np.reshape(global_mask, is_token.shape) != 0) & (is_token != 0))


def first_token_is_global(model: Checkpoint) -> bool:
    """Whether a run was trained with a global first token: one that classifies by the first token of the text."""
    pools_first = model.published is None and getattr(model.config.objective, "pooling", None) == "cls"
    return pools_first and model.config.model.global_tokens
