"""Outputs of the encoder and of published heads for padded rows."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import HeadConfig, MlmHead, apply_heads, output_table, vocabulary_scores
from jaxencoder.model.layers import apply
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.running import encoder_output


def outputs(
    encoder: EncoderConfig,
    compute: ComputeConfig,
    heads: tuple[tuple[str, HeadConfig], ...],
    params: Params,
    rows: Batch,
) -> dict[str, jax.Array]:
    """The last layer and the outputs of the heads; see `OpenedModel.__call__`.

    Args:
        heads: (name in `params`, config); a pooler precedes the heads that use it.
        rows: [B, T] arrays, one document per row.
    """
    # Two compiled programs, so that models with different heads share the encoder's.
    hidden = _hidden(encoder, compute, {"encoder": params["encoder"]}, rows)
    return _heads(encoder, heads, params, hidden, rows["segment_ids"])


_hidden = jax.jit(encoder_output, static_argnums=(0, 1))


@partial(jax.jit, static_argnums=(0, 1))
def _heads(
    encoder: EncoderConfig,
    heads: tuple[tuple[str, HeadConfig], ...],
    params: Params,
    hidden: jax.Array,
    mask: jax.Array,
) -> dict[str, jax.Array]:
    out = {"hidden": hidden.astype(jnp.float32)}
    if "mlm_head" in params:
        x, bias = apply(MlmHead(encoder), params["mlm_head"], hidden)
        out["mlm_logits"] = vocabulary_scores(x, bias, output_table(params))
    for name, y in apply_heads(encoder, heads, params, hidden, mask, 1).items():
        out |= _named(name, y if dict(heads)[name].inputs == "tokens" else y[:, 0])
    return out


def _named(name: str, y: jax.Array) -> dict[str, jax.Array]:
    match name:
        case "pooler":
            return {"pooled": y}
        case "span_head":
            return {"start_logits": y[..., 0], "end_logits": y[..., 1]}
        case "rtd_head":
            return {"rtd_logits": y[..., 0]}
        case "choice_head":
            return {"logits": y[..., 0]}
        case "nsp_head":
            return {"nsp_logits": y}
    return {"logits": y}
