"""Padded rows of token ids as users give them, checked: what an array's indexing would silently clip is an error."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Batch


def padded_rows(
    config: EncoderConfig,
    token_ids: jax.typing.ArrayLike,
    attention_mask: jax.typing.ArrayLike | None,
    token_type_ids: jax.typing.ArrayLike | None,
) -> Batch:
    """The encoder's input, int32 [..., T], of the arguments of `OpenedModel.__call__`.

    Raises:
        ValueError: another type or shape, ids that the model does not have, or a mask with padding before tokens.
    """
    token_ids = _ids("token_ids", token_ids, config.vocab_size)
    if token_ids.ndim not in (2, 3):
        raise ValueError(f"token_ids has the shape {list(token_ids.shape)}; give rows [B, T], or choices [B, C, T]")
    mask = jnp.ones_like(token_ids) if attention_mask is None else _mask(attention_mask)
    rows = {
        "token_ids": token_ids,
        "segment_ids": mask,
        "positions": jnp.broadcast_to(jnp.arange(token_ids.shape[-1], dtype=jnp.int32), token_ids.shape),
    }
    if token_type_ids is not None:
        rows["token_type_ids"] = _ids("token_type_ids", token_type_ids, max(config.token_types, 1))
    names = {"segment_ids": "attention_mask"}
    for name, x in rows.items():
        if x.shape != token_ids.shape:
            shapes = f"{list(x.shape)}, but token_ids {list(token_ids.shape)}"
            raise ValueError(f"{names.get(name, name)} has the shape {shapes}; give one number for each token")
    return rows


def _mask(mask: jax.typing.ArrayLike) -> jax.Array:
    if isinstance(mask, jax.Array):
        mask = np.asarray(mask)  # once, from the device that holds it
    checked = _ids("attention_mask", mask, 2)
    rows = np.asarray(mask)
    if (rows[..., :-1] < rows[..., 1:]).any():
        raise ValueError("attention_mask has padding before tokens; put it last (transformers: padding_side='right')")
    return checked


def _ids(name: str, values: jax.typing.ArrayLike, size: int) -> jax.Array:
    """Whole numbers from 0 to size - 1, int32."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} has rows of several lengths; pad them to one") from None
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} is an array of {array.dtype}; give whole numbers")
    if array.size and not 0 <= array.min() <= array.max() < size:
        raise ValueError(f"{name} holds {array.min()} to {array.max()}; this model has 0 to {size - 1}")
    return jnp.asarray(array, jnp.int32)
