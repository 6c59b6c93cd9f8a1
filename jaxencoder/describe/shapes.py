"""What a run computes with, as shapes without data or weights."""

import jax
import jax.numpy as jnp

from jaxencoder.config import RunConfig
from jaxencoder.describe.description import PlaceholderVocabulary
from jaxencoder.objectives.objective import Objective
from jaxencoder.tasks.task import TaskObjective
from jaxencoder.text.batches import SOURCES
from jaxencoder.training.layerwise import stop_frozen_gradients, trainable_mask


def build_objective(config: RunConfig) -> Objective:
    """The objective as training builds it, with a vocabulary that has a size and no tokens."""
    built = config.build(PlaceholderVocabulary(config.model.vocab_size))
    patterns = config.trainable_patterns
    return stop_frozen_gradients(built, trainable_mask(patterns)) if patterns else built


def batch_shapes(config: RunConfig, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of rows of one document each, with the arrays of every objective."""
    tokens = ("token_ids", "segment_ids", "positions", "token_labels")
    batch = {name: jax.ShapeDtypeStruct((rows, length), jnp.int32) for name in tokens}
    batch |= {name: jax.ShapeDtypeStruct((rows, 1), jnp.int32) for name in ("labels", "groups")}
    size = getattr(config.objective, "teacher_size", 0) or config.model.hidden_size
    batch["teacher_vectors"] = jax.ShapeDtypeStruct((rows, 1, size), jnp.float32)
    batch["tuples"] = jax.ShapeDtypeStruct((rows, 1, 3), jnp.int32)
    batch["row_ids"] = jax.ShapeDtypeStruct((rows,), jnp.uint32)
    batch[SOURCES] = jax.ShapeDtypeStruct((rows,), jnp.int32)
    if isinstance(config.objective, TaskObjective):
        shape, dtype = config.objective.label_array
        batch["labels"] = jax.ShapeDtypeStruct((rows, 1, *shape), dtype)
    return batch
