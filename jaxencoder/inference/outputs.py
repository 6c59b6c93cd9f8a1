"""What the published heads of a model compute: of padded rows everything, of packed rows the scores of texts."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import Head, HeadConfig, MlmHead, first_tokens, output_table, pool, vocabulary_scores
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.text.buckets import texts_in_a_row


def encode(encoder: EncoderConfig, compute: ComputeConfig, params: Params, rows: Batch) -> jax.Array:
    """The encoder's output [B, T, D] for a batch, without dropout."""
    inputs = (rows["token_ids"], rows["segment_ids"], rows["positions"], rows.get("token_type_ids"))
    global_slots = rows.get("global_slots")
    return Encoder(encoder, compute).apply({"params": params["encoder"]}, *inputs, global_slots=global_slots)


def outputs(
    encoder: EncoderConfig,
    compute: ComputeConfig,
    heads: tuple[tuple[str, HeadConfig], ...],
    params: Params,
    rows: Batch,
) -> dict[str, jax.Array]:
    """The last layer and what the heads make of it; see `Model.__call__`.

    Two compiled programs, so that models that differ in their heads alone share the encoder's.

    Args:
        encoder, compute: the architecture, and how its arithmetic is done.
        heads: names among the parameters, and what they are; a pooler stands before those that use it.
        params: of the encoder and of the heads.
        rows: [B, T] arrays, one document a row.
    """
    hidden = _hidden(encoder, compute, {"encoder": params["encoder"]}, rows)
    return _heads(encoder, heads, params, hidden, rows["segment_ids"])


_hidden = jax.jit(encode, static_argnums=(0, 1))


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
        x, bias = MlmHead(encoder).apply({"params": params["mlm_head"]}, hidden)
        out["mlm_logits"] = vocabulary_scores(x, bias, output_table(params))
    for name, y in _of_documents(encoder, heads, params, hidden, mask, 1).items():
        out |= _named(name, y if dict(heads)[name].inputs == "tokens" else y[:, 0])
    return out


@partial(jax.jit, static_argnums=(0, 1, 2))
def text_scores(
    encoder: EncoderConfig,
    compute: ComputeConfig,
    heads: tuple[tuple[str, HeadConfig], ...],
    params: Params,
    rows: Batch,
) -> jax.Array:
    """The sequence head's scores [B, E, outputs] float32 of packed rows, E as `buckets.texts_in_a_row` has it.

    Args: as for `outputs`; heads are the sequence head and, before it, the pooler if it has one.
    """
    segment_ids = rows["segment_ids"]
    documents = texts_in_a_row(segment_ids.shape[1])
    if any(head.global_tokens == "first" for _, head in heads):
        rows = rows | {"global_slots": first_tokens(segment_ids, documents)}
    hidden = encode(encoder, compute, params, rows)
    return _of_documents(encoder, heads, params, hidden, segment_ids, documents)["sequence_head"]


def _of_documents(
    encoder: EncoderConfig,
    heads: tuple[tuple[str, HeadConfig], ...],
    params: Params,
    hidden: jax.Array,
    segment_ids: jax.Array,
    documents: int,
) -> dict[str, jax.Array]:
    """What each head gives: [B, T, outputs] of tokens, [B, E, outputs] of the documents of each row."""
    out: dict[str, jax.Array] = {}
    for name, head in heads:
        if head.inputs == "pooled":
            x = out["pooler"]
        elif head.inputs == "tokens" or head.late:
            x = hidden
        else:
            x = pool(hidden, segment_ids, documents, head.inputs)
        y = Head(encoder, head).apply({"params": params[name]}, x.astype(hidden.dtype))
        out[name] = pool(y, segment_ids, documents, "mean") if head.late else y
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
