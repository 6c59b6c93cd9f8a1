"""Scores of texts and tokens by an opened model, shared by the predictions of tasks."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, cast

import jax
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.objectives.objective import Batch, ObjectiveConfig, Params, encode
from jaxencoder.tasks.task import TaskModel
from jaxencoder.text.buckets import BatchPlan, max_texts_per_row

Scores = Callable[[Params, Batch], jax.Array]  # (params, packed rows) -> [B, ...]


def row_length(model: TaskModel) -> int:
    """Most tokens of a text or pair, special tokens included: the row length of training."""
    return model.limit(model.config.data.row_length)


def objective_scores(model: TaskModel) -> Scores:
    """The scores of a run's objective, without dropout."""
    return partial(_scores, model.config.model, model.compute, model.config.objective)


def score_texts(
    model: TaskModel,
    scores: Scores,
    outputs: int,
    ids: Sequence[np.ndarray],
    type_ids: Sequence[np.ndarray] | None,
    batch_tokens: int | None = None,
    limit: int | None = None,
    progress: Callable[[int], object] = lambda number: None,
) -> np.ndarray:
    """The scores of texts, float64 [N, outputs].

    Args:
        scores: gives [B, E, outputs] for packed rows, such as `objective_scores`.
        ids, type_ids: of each text, special tokens included; no type_ids for single texts.
        batch_tokens: as in `Model.embed`.
        limit: most tokens of a text.
        progress: called with the number of texts of each batch.
    """

    def extra(plan: BatchPlan) -> Batch:
        # The objective reads the number of texts in a row from the shape of the labels.
        arrays = {"labels": np.zeros((plan.rows, max_texts_per_row(plan.length)), np.int32)}
        return arrays if type_ids is None else arrays | {"token_type_ids": packed_type_ids(plan, type_ids)}

    result = np.zeros((len(ids), outputs))
    for plan, values in model.run(scores, ids, batch_tokens, limit, extra):
        result[plan.texts] = values[plan.row, plan.segment]
        progress(len(plan.texts))
    return result


def packed_type_ids(plan: BatchPlan, type_ids: Sequence[np.ndarray]) -> np.ndarray:
    """Token type ids [B, T] int32 of the texts in a batch."""
    types = np.zeros((plan.rows, plan.length), np.int32)
    for i, row, start in zip(plan.texts, plan.row, plan.start, strict=True):
        types[row, start : start + len(type_ids[i])] = type_ids[i]
    return types


def encoder_output(encoder: EncoderConfig, compute: ComputeConfig, params: Params, rows: Batch) -> jax.Array:
    """The encoder's output [B, T, D] for packed rows, without dropout."""
    return encode(Encoder(encoder, compute), params["encoder"], rows, jax.random.key(0), False)


def global_slots(mask: np.ndarray) -> np.ndarray | None:
    """Positions of the marked tokens: [B, T], 0 at other tokens, to [B, G] int32 with -1 in unused columns.

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


@partial(jax.jit, static_argnums=(0, 1, 2))
def _scores(
    encoder: EncoderConfig, compute: ComputeConfig, objective: ObjectiveConfig, params: Params, rows: Batch
) -> jax.Array:
    return _built(encoder, compute, objective)(params, rows, jax.random.key(0), False)


@lru_cache
def _built(encoder: EncoderConfig, compute: ComputeConfig, objective: ObjectiveConfig) -> Callable[..., jax.Array]:
    scores = objective.build(encoder, compute, cast(Any, None)).scores  # tasks do not use the vocabulary
    assert scores is not None  # every task has them
    return scores
