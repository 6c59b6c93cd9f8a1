"""Scores of texts and tokens by an opened model, shared by the predictions of tasks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import jax
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import HeadConfig, apply_heads, first_tokens
from jaxencoder.objectives.objective import Batch, Params, encode
from jaxencoder.tasks.task import TaskModel, TaskObjective
from jaxencoder.text.buckets import BatchPlan, max_texts_per_row, padded_size

Scores = Callable[[Params, Batch], jax.Array]  # (params, packed rows) -> [B, ...]
NamedHeads = tuple[tuple[str, HeadConfig], ...]  # names in `params`, and settings; a pooler precedes its users


def row_length(model: TaskModel) -> int:
    """Most tokens of a text or pair, special tokens included: as in training."""
    return model.limit(model.config.data.text_limit)


def objective_scores(model: TaskModel) -> Scores:
    """The scores of a run's objective, without dropout."""
    return partial(_objective_scores, model.config.model, model.compute, cast(TaskObjective, model.config.objective))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _objective_scores(
    encoder: EncoderConfig, compute: ComputeConfig, objective: TaskObjective, params: Params, rows: Batch
) -> jax.Array:
    _, scores = objective.network(encoder, compute)
    return scores(params, rows, jax.random.key(0), False)


@partial(jax.jit, static_argnums=(0, 1, 2))
def head_scores(
    encoder: EncoderConfig, compute: ComputeConfig, heads: NamedHeads, params: Params, rows: Batch
) -> jax.Array:
    """The output of the last of these heads, float32 [B, T, outputs] of tokens or [B, E, outputs] of texts."""
    segment_ids = rows["segment_ids"]
    texts = max_texts_per_row(segment_ids.shape[1])
    if any(head.global_tokens == "first" for _, head in heads):
        rows = rows | {"global_slots": first_tokens(segment_ids, texts)}
    hidden = encoder_output(encoder, compute, params, rows)
    return apply_heads(encoder, heads, params, hidden, rows, texts)[heads[-1][0]]


def encoder_output(encoder: EncoderConfig, compute: ComputeConfig, params: Params, rows: Batch) -> jax.Array:
    """The encoder's output [B, T, D] for packed rows, without dropout."""
    return encode(Encoder(encoder, compute), params["encoder"], rows, jax.random.key(0), False)


def score_texts(
    model: TaskModel,
    scores: Scores,
    outputs: int,
    ids: Sequence[np.ndarray],
    type_ids: Sequence[np.ndarray] | None,
    batch_tokens: int | None = None,
    limit: int | None = None,
    skip: int | None = None,
) -> np.ndarray:
    """The scores of texts, float64 [N, outputs], where `scores` gives [B, E, outputs] for packed rows.

    `ids` and `type_ids` are of each text, special tokens included; no type_ids for single texts. `skip` is the number
    of tokens at the start of each text that are not pooled.
    """

    def extra(plan: BatchPlan) -> Batch:
        # The objective reads the number of texts in a row from the shape of the labels.
        shape = plan.rows, max_texts_per_row(plan.length)
        arrays = {"labels": np.zeros(shape, np.int32)}
        arrays |= {} if skip is None else {"skipped": np.full(shape, skip, np.int32)}
        return arrays if type_ids is None else arrays | {"token_type_ids": packed_type_ids(plan, type_ids)}

    result = np.zeros((len(ids), outputs))
    for plan, values in model.run(scores, ids, batch_tokens, limit, extra):
        result[plan.texts] = values[plan.row, plan.segment]
    return result


def packed_type_ids(plan: BatchPlan, type_ids: Sequence[np.ndarray]) -> np.ndarray:
    """Token type ids [B, T] int32 of the texts in a batch."""
    types = np.zeros((plan.rows, plan.length), np.int32)
    for i, row, start in zip(plan.texts, plan.row, plan.start, strict=True):
        types[row, start : start + len(type_ids[i])] = type_ids[i]
    return types


def global_slots(mask: np.ndarray) -> np.ndarray | None:
    """Positions of the marked tokens: [B, T], 0 at other tokens, to [B, G] int32 with -1 in unused columns.

    [[1, 0, 1, 1], [0, 0, 1, 0]] -> [[0, 2, 3, -1], [2, -1, -1, -1]]; G is `padded_size`, at most T. None for no mark.
    """
    counts = (mask != 0).sum(-1)
    if not counts.any():
        return None
    slots = np.full((len(mask), min(padded_size(int(counts.max())), mask.shape[1])), -1, np.int32)
    slots[np.arange(slots.shape[1]) < counts[:, None]] = np.nonzero(mask)[1]
    return slots
